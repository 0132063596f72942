//! What an agent remembers of itself, and whether its state directory knows it too.

use std::sync::Arc;

use rat_transport::quic::client::{Client, ClientOptions, Sockets};

use super::RunError;
use crate::keys::{self, ClientKey, KeysError, Validity};
use crate::state::{Enrolled, Mode, StateDir, StateError};

/// An enrolment in memory, and where it is kept.
///
/// What changes holds at once. A disk that takes no writes at the time is tried again later:
/// otherwise a new certificate would be gone at the next start, and the old one expired.
pub(super) struct Memory {
    enrolled: Enrolled,
    /// `None` for agents that live in memory.
    state: Option<StateDir>,
    saved: Saved,
    /// What it comes to; `None` until it is needed, and after a change.
    identity: Option<Arc<Identity>>,
}

/// What an enrolment comes to: to read keys and certificates takes longer than the
/// arithmetic of a handshake.
pub(super) struct Identity {
    pub(super) key: ClientKey,
    /// The CAs that are pinned, in DER.
    pub(super) ca_set: Vec<Vec<u8>>,
    /// Of the agent's certificate.
    pub(super) validity: Validity,
    pub(super) client: Client,
}

impl Identity {
    /// # Errors
    /// [`RunError`] when a key or certificate cannot be used.
    pub(super) fn read(enrolled: &Enrolled, sockets: Sockets) -> Result<Self, RunError> {
        let key = ClientKey::from_pem(&enrolled.key_pem)?;
        let ca_set = super::ca_set(enrolled)?;
        let certificate_chain = keys::certificates(&enrolled.certificate_pem)?;
        let leaf = certificate_chain.first().ok_or(KeysError::NoCertificate)?;
        let validity = keys::validity(leaf, &key)?;
        let options = ClientOptions {
            ca_set: ca_set.clone(),
            certificate_chain,
            key_pkcs8: key.to_pkcs8_der()?,
            // Quiet for longer than an interval is not what the server promised.
            keep_alive_ms: enrolled.interval_ms,
            probe_mtu: enrolled.mode == Mode::Stay,
        };
        let client = Client::sharing(sockets, options)?;
        Ok(Self {
            key,
            ca_set,
            validity,
            client,
        })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Saved {
    Everything,
    NotTheLastChange,
}

impl Memory {
    /// What was loaded from `state`, if there is one.
    pub(super) const fn new(enrolled: Enrolled, state: Option<StateDir>) -> Self {
        Self {
            enrolled,
            state,
            saved: Saved::Everything,
            identity: None,
        }
    }

    /// What the enrolment comes to now.
    ///
    /// # Errors
    /// [`RunError`] when a key or certificate cannot be used.
    pub(super) fn identity(&mut self, sockets: &Sockets) -> Result<Arc<Identity>, RunError> {
        let identity = match &self.identity {
            Some(identity) => identity,
            None => {
                let read = Identity::read(&self.enrolled, sockets.clone())?;
                self.identity.insert(Arc::new(read))
            }
        };
        Ok(Arc::clone(identity))
    }

    pub(super) const fn enrolled(&self) -> &Enrolled {
        &self.enrolled
    }

    /// Changes the enrolment, and saves it.
    ///
    /// # Errors
    /// [`StateError`] when it is not saved. It is changed all the same.
    pub(super) fn change(&mut self, change: impl FnOnce(&mut Enrolled)) -> Result<(), StateError> {
        change(&mut self.enrolled);
        self.identity = None;
        self.saved = Saved::NotTheLastChange;
        self.save()
    }

    /// Saves what could not be saved before; does nothing when there is nothing to save.
    pub(super) fn save_again(&mut self) {
        if let Err(error) = self.save() {
            // The change itself was reported.
            tracing::debug!(%error, "still not saved");
        }
    }

    fn save(&mut self) -> Result<(), StateError> {
        if let (Saved::NotTheLastChange, Some(state)) = (self.saved, &self.state) {
            state.save_enrolled(&self.enrolled)?;
        }
        self.saved = Saved::Everything;
        Ok(())
    }
}
