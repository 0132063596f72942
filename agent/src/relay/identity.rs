//! What a relay is: its key, and what the server gave it.

use std::path::Path;

use rat_identity::relay_certificate;
use rat_transport::quic::client::ClientOptions;
use serde::{Deserialize, Serialize};

use super::{RelayError, read_key};
use crate::keys::{self, ClientKey, KeysError, Validity};
use crate::state::StateDir;

const KEY: &str = "relay-key.json";
const INSTALLED: &str = "relay.json";

#[derive(Serialize, Deserialize)]
struct Key {
    /// PKCS#8 in PEM.
    key_pem: String,
}

/// What the server answered when an operator named the relay.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Installed {
    pub(super) name: String,
    /// PEM, the relay's own first.
    certificate: String,
    /// The CAs of server and agents, each in PEM.
    ca: Vec<String>,
    pub(super) evidence: Evidence,
}

/// Where evidence goes.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Evidence {
    /// `host:port`, tried in order.
    pub(super) addresses: Vec<String>,
    /// The name in the certificate of the evidence listener.
    pub(super) server_name: String,
}

/// The relay's key, made when there is none: its agents' quotes are bound to it, so it stays.
pub(super) fn key(state: &StateDir) -> Result<ClientKey, RelayError> {
    if let Some(Key { key_pem }) = state.load(KEY)? {
        return read_key(&key_pem);
    }
    let key = ClientKey::generate()?;
    let key_pem = key.to_pem()?;
    state.save(KEY, &Key { key_pem }, true)?;
    Ok(key)
}

/// Takes over what the server answered, if it is for this key.
pub(super) fn install(state: &StateDir, file: &Path) -> Result<Installed, RelayError> {
    let path = file.display().to_string();
    let text = std::fs::read(file).map_err(|source| {
        let path = path.clone();
        RelayError::File { path, source }
    })?;
    let installed: Installed =
        serde_json::from_slice(&text).map_err(|source| RelayError::Content { path, source })?;
    let identity = Identity {
        key: key(state)?,
        state: state.clone(),
        installed,
    };
    identity.validity()?;
    identity.ca_set()?;
    state.save(INSTALLED, &identity.installed, true)?;
    Ok(identity.installed)
}

/// A relay that can connect.
pub(super) struct Identity {
    pub(super) key: ClientKey,
    state: StateDir,
    pub(super) installed: Installed,
}

impl Identity {
    pub(super) fn load(state: StateDir) -> Result<Self, RelayError> {
        let path = state.path().display().to_string();
        let installed = state.load(INSTALLED)?;
        let installed = installed.ok_or(RelayError::NotInstalled { path })?;
        let identity = Self {
            key: key(&state)?,
            state,
            installed,
        };
        identity.validity()?;
        Ok(identity)
    }

    /// Its certificate and those above it, in DER.
    pub(super) fn chain(&self) -> Result<Vec<Vec<u8>>, KeysError> {
        keys::certificates(&self.installed.certificate)
    }

    /// The CAs of server and agents, in DER.
    pub(super) fn ca_set(&self) -> Result<Vec<Vec<u8>>, KeysError> {
        let mut ca_set = Vec::new();
        for pem in &self.installed.ca {
            ca_set.extend(keys::certificates(pem)?);
        }
        Ok(ca_set)
    }

    /// When its certificate is valid, which is for its key and for a relay.
    pub(super) fn validity(&self) -> Result<Validity, KeysError> {
        let chain = self.chain()?;
        let leaf = chain.first().ok_or(KeysError::NoCertificate)?;
        relay_certificate::read(leaf).map_err(|_| KeysError::NoCertificate)?;
        keys::validity(leaf, &self.key)
    }

    /// What the line to the server is made with.
    pub(super) fn client(&self) -> Result<ClientOptions, KeysError> {
        Ok(ClientOptions {
            ca_set: self.ca_set()?,
            certificate_chain: self.chain()?,
            key_pkcs8: self.key.to_pkcs8_der()?,
            keep_alive_ms: KEEP_ALIVE_MS,
            probe_mtu: true,
        })
    }

    /// Takes over a renewed certificate, which is for its key.
    pub(super) fn renewed(&mut self, chain: &[Vec<u8>]) -> Result<(), RelayError> {
        let leaf = chain.first().ok_or(KeysError::NoCertificate)?;
        keys::validity(leaf, &self.key)?;
        self.installed.certificate = keys::to_pem(chain)?;
        self.state.save(INSTALLED, &self.installed, true)?;
        Ok(())
    }
}

/// How long a line may be quiet before it is tried whether the server is still there.
const KEEP_ALIVE_MS: u64 = 5_000;
