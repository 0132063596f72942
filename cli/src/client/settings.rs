//! Which server, and as whom: what an option says, else the environment, else what was saved.

use std::env::VarError;

use rat_client::https::ServerUrl;

use super::saved::{Saved, SavedServer};
use super::{Client, ClientError, Credential, Source};
use crate::arguments::{Fingerprint, RemoteArguments};

/// A server, and how to know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pinned {
    /// Where it is.
    pub(crate) server: ServerUrl,
    /// SHA-256 of its CA's certificate.
    pub(crate) ca_sha256: [u8; 32],
}

impl Pinned {
    /// How it is saved.
    pub(crate) fn to_saved(&self) -> SavedServer {
        SavedServer {
            server: self.server.to_string(),
            ca_sha256: hex::encode(self.ca_sha256),
        }
    }
}

impl RemoteArguments {
    /// A client with a credential.
    pub(crate) fn client(&self) -> Result<Client, ClientError> {
        let pinned = server(self)?;
        let credential = self.credential(&pinned)?.ok_or(ClientError::NotLoggedIn)?;
        Ok(Client::new(&pinned)?.with(&credential)?)
    }

    /// The credential for this server. A session is shown to no server but its own.
    pub(crate) fn credential(&self, pinned: &Pinned) -> Result<Option<Credential>, ClientError> {
        if let Some(path) = &self.token_file {
            let credential = Credential::read(path, Source::Option(path.clone()))?;
            return Ok(Some(credential));
        }
        if let Some(token) = given("RAT_TOKEN", std::env::var("RAT_TOKEN"))? {
            return Ok(Some(Credential::new(&token, Source::Variable)?));
        }
        if let Some(path) = given("RAT_TOKEN_FILE", std::env::var("RAT_TOKEN_FILE"))? {
            let source = Source::FileOfVariable(path.clone().into());
            return Ok(Some(Credential::read(path.as_ref(), source)?));
        }
        let session = Saved::of_environment()?.session()?;
        let session = session.filter(|session| session.at == pinned.to_saved());
        let credential = session.map(|session| Credential::new(&session.token, Source::Login));
        Ok(credential.transpose()?)
    }
}

/// The server that is meant.
pub(crate) fn server(arguments: &RemoteArguments) -> Result<Pinned, ClientError> {
    let server = match &arguments.server {
        Some(server) => Some(server.clone()),
        None => parsed::<ServerUrl>("RAT_SERVER", std::env::var("RAT_SERVER"))?,
    };
    let pin = match arguments.ca_sha256 {
        Some(pin) => Some(pin),
        None => parsed::<Fingerprint>("RAT_CA_SHA256", std::env::var("RAT_CA_SHA256"))?,
    };
    if let (Some(server), Some(Fingerprint(ca_sha256))) = (&server, pin) {
        return Ok(Pinned {
            server: server.clone(),
            ca_sha256,
        });
    }
    let saved = Saved::of_environment()?.server()?;
    let saved = saved.map(|saved| of_saved(&saved)).transpose()?;
    match (server, saved) {
        (None, None) => Err(ClientError::NoServer),
        (None, Some(saved)) => Ok(match pin {
            Some(Fingerprint(ca_sha256)) => Pinned { ca_sha256, ..saved },
            None => saved,
        }),
        (Some(server), Some(saved)) if saved.server == server => Ok(saved),
        (Some(server), _) => Err(ClientError::NoPin {
            server: server.to_string(),
        }),
    }
}

fn of_saved(saved: &SavedServer) -> Result<Pinned, ClientError> {
    const SETTING: &str = "what `rat connect` saved";
    let server = saved.server.parse();
    let server = server.map_err(|error| setting(SETTING, &error))?;
    let Fingerprint(ca_sha256) = saved
        .ca_sha256
        .parse()
        .map_err(|error| setting(SETTING, &error))?;
    Ok(Pinned { server, ca_sha256 })
}

fn setting(setting: &'static str, reason: &dyn std::fmt::Display) -> ClientError {
    ClientError::Setting {
        setting,
        reason: reason.to_string(),
    }
}

/// The value of a variable. One that is set to nothing is a mistake, and says so.
fn given(
    name: &'static str,
    value: Result<String, VarError>,
) -> Result<Option<String>, ClientError> {
    match value {
        Ok(value) if value.trim().is_empty() => Err(setting(name, &"is set, and empty")),
        Ok(value) => Ok(Some(value)),
        Err(VarError::NotPresent) => Ok(None),
        Err(VarError::NotUnicode(_)) => Err(setting(name, &"is not UTF-8")),
    }
}

fn parsed<T: std::str::FromStr<Err: std::fmt::Display>>(
    name: &'static str,
    value: Result<String, VarError>,
) -> Result<Option<T>, ClientError> {
    let Some(value) = given(name, value)? else {
        return Ok(None);
    };
    let parsed = value.trim().parse();
    parsed.map(Some).map_err(|error| setting(name, &error))
}
