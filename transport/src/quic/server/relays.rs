//! Which relays are connected, each once.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use quinn::Connection;
use rat_engine::evidence::Refusal;

use super::end::End;
use crate::limits;
use crate::measures;
use crate::quic::Reason;

/// The connections of relays, by their keys.
#[derive(Debug, Default)]
pub(super) struct Relays(Mutex<HashMap<[u8; 32], Connection>>);

/// A relay's place among them, until this is dropped.
pub(super) struct Line<'a> {
    relays: &'a Relays,
    key_sha256: [u8; 32],
    connection: &'a Connection,
}

impl Relays {
    /// Notes a connection. One that the relay had before ends: a relay that was started again need
    /// not wait until the old one is found out.
    pub(super) fn enter<'a>(
        &'a self,
        key_sha256: [u8; 32],
        connection: &'a Connection,
    ) -> Line<'a> {
        let before = self.open().insert(key_sha256, connection.clone());
        if let Some(before) = before {
            End::refused(Refusal::Superseded.into(), limits::BUSY_RETRY_MS).close(&before);
        }
        measures::relays(1.0);
        Line {
            relays: self,
            key_sha256,
            connection,
        }
    }

    /// Ends the connection of a relay that an operator has taken back.
    pub(super) fn end(&self, key_sha256: &[u8; 32]) {
        if let Some(connection) = self.open().get(key_sha256) {
            End::refused(Reason::CertificateUnusable, 0).close(connection);
        }
    }

    fn open(&self) -> MutexGuard<'_, HashMap<[u8; 32], Connection>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Line<'_> {
    fn drop(&mut self) {
        let mut open = self.relays.open();
        let is_own = open
            .get(&self.key_sha256)
            .is_some_and(|newest| newest.stable_id() == self.connection.stable_id());
        if is_own {
            open.remove(&self.key_sha256);
        }
        measures::relays(-1.0);
    }
}
