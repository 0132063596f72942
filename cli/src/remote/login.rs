//! `rat login`, `rat logout` and `rat whoami`.

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde_json::json;

use super::{done, password, prompt, show};
use crate::Outcome;
use crate::arguments::{Login, RemoteArguments};
use crate::client::saved::{Saved, SavedSession};
use crate::client::{Address, Client, ClientError, Credential, Source, server};
use crate::output::{Item, Record, Terminal};

/// T2.
#[derive(Deserialize)]
struct LoggedIn {
    token: String,
    user: User,
    expires_at: Option<String>,
}

#[derive(Deserialize)]
struct User {
    username: String,
    #[serde(default)]
    roles: Vec<String>,
    #[serde(default)]
    must_change_password: bool,
}

/// Opens a session, and remembers it for this server alone.
pub(crate) fn log_in(options: &Login, terminal: &mut Terminal) -> Result<Outcome> {
    let pinned = server(&options.remote())?;
    let saved = Saved::of_environment()?;
    let username = match &options.username {
        Some(username) => username.clone(),
        None => prompt::line("Username: ").context("give --username")?,
    };
    let present = match password::given(&options.password)? {
        Some(password) => password,
        None => prompt::secret("Password: ").context(password::OTHERWISE)?,
    };
    let client = Client::new(&pinned)?;
    let body = json!({ "username": username, "password": present });
    let opened: LoggedIn = client
        .post(&Address::new("/api/v1/auth/login"), &body)?
        .read()?;
    let credential = Credential::new(&opened.token, Source::Login).map_err(ClientError::from)?;
    let client = client.with(&credential).map_err(ClientError::from)?;
    if opened.user.must_change_password
        && let Err(error) = change_password(&client, options, &present)
    {
        // Nothing could be done with this session.
        let _ = client.post(&Address::new("/api/v1/auth/logout"), &json!({}));
        return Err(error);
    }
    let LoggedIn {
        token,
        user,
        expires_at,
    } = opened;
    saved.keep_session(&SavedSession {
        at: pinned.to_saved(),
        username: user.username.clone(),
        token,
        expires_at: expires_at.clone(),
    })?;
    let record = Record::new()
        .with("logged_in_as", user.username)
        .with("roles", user.roles)
        .with("server", client.server())
        .with("expires_at", expires_at);
    done(terminal, options.output, record)
}

/// Replaces a password that somebody else knows: the first one, or one that an administrator set.
fn change_password(client: &Client, options: &Login, present: &str) -> Result<()> {
    let file = options.new_password_file.as_deref();
    let new = password::new("The password must be changed. New password", file)
        .context("the password must be changed")?;
    Ok(password::replace(client, present, &new)?)
}

/// Ends the session, here and at the server.
pub(crate) fn log_out(remote: &RemoteArguments, terminal: &mut Terminal) -> Result<Outcome> {
    let saved = Saved::of_environment()?;
    let Some(session) = saved.session()? else {
        bail!(ClientError::NotLoggedIn);
    };
    let pinned = server(remote)?;
    if session.at != pinned.to_saved() {
        bail!(ClientError::NotLoggedIn);
    }
    let credential = Credential::new(&session.token, Source::Login).map_err(ClientError::from)?;
    let client = Client::new(&pinned)?.with(&credential);
    let client = client.map_err(ClientError::from)?;
    let ended = client.post(&Address::new("/api/v1/auth/logout"), &json!({}));
    // Whatever the server says: nobody uses the session from here any more.
    saved.forget_session()?;
    match ended {
        Ok(_) => {}
        // It had ended before.
        Err(error) if error.status() == Some(401) => {}
        Err(error) => {
            return Err(error).context(
                "the session is forgotten here; whether it has ended at the server is not known",
            );
        }
    }
    let record = Record::new()
        .with("logged_out", session.username)
        .with("server", client.server());
    done(terminal, remote.output, record)
}

/// Shows who the credential belongs to.
pub(crate) fn who_am_i(remote: &RemoteArguments, terminal: &mut Terminal) -> Result<Outcome> {
    let pinned = server(remote)?;
    let credential = remote.credential(&pinned)?;
    let credential = credential.ok_or(ClientError::NotLoggedIn)?;
    let client = Client::new(&pinned)?.with(&credential);
    let client = client.map_err(ClientError::from)?;
    let me = match identity(&client, &credential)? {
        Identity::User(user) => user,
        Identity::Program => Item::Record(
            Record::new()
                .with("api_token", credential.id())
                .with("from", credential.source().to_string()),
        ),
    };
    show(terminal, remote.output, &me)
}

/// Whose credential it is, as the server knows it.
pub(super) enum Identity {
    /// A user's login.
    User(Item),
    /// An API token, about which the server says no more than that it is valid.
    Program,
}

/// Asks the server whose credential this is.
pub(super) fn identity(client: &Client, credential: &Credential) -> Result<Identity, ClientError> {
    match client.get(&Address::new("/api/v1/auth/me")) {
        Ok(answer) => answer.read().map(Identity::User),
        // What is not valid is 401; a valid token of a program has no account to show.
        Err(error) if error.status() == Some(403) && !credential.is_session() => {
            Ok(Identity::Program)
        }
        Err(error) => Err(error),
    }
}
