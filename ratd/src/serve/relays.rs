//! Which relays may connect: what the store says, in memory, so that a handshake asks no store.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock, PoisonError, RwLock, Weak};

use rat_api::core::relays::Relays;
use rat_identity::relay_certificate::RelayName;
use rat_store::{Store, StoreError};
use rat_transport::quic::server::Server;

/// The relays that operators have named.
#[derive(Default)]
pub(super) struct NamedRelays {
    names: RwLock<HashMap<[u8; 32], String>>,
    /// Where they are connected.
    server: OnceLock<Weak<Server>>,
}

impl NamedRelays {
    /// Those that are stored.
    pub(super) async fn load(store: &Store) -> Result<Arc<Self>, StoreError> {
        let stored = store.relays().await?.into_iter();
        let names = stored.map(|relay| (relay.key_sha256, relay.name)).collect();
        Ok(Arc::new(Self {
            names: RwLock::new(names),
            server: OnceLock::new(),
        }))
    }

    /// They connect here.
    pub(super) fn serve(&self, server: &Arc<Server>) {
        let _ = self.server.set(Arc::downgrade(server));
    }

    /// Whether an operator has named this relay, with this key.
    pub(super) fn has(&self, name: &RelayName, key_sha256: &[u8; 32]) -> bool {
        let names = self.names.read().unwrap_or_else(PoisonError::into_inner);
        names
            .get(key_sha256)
            .is_some_and(|known| known == name.as_str())
    }
}

impl Relays for NamedRelays {
    fn named(&self, name: &RelayName, key_sha256: [u8; 32]) {
        let mut names = self.names.write().unwrap_or_else(PoisonError::into_inner);
        names.insert(key_sha256, name.as_str().to_owned());
    }

    fn taken_back(&self, key_sha256: &[u8; 32]) {
        let mut names = self.names.write().unwrap_or_else(PoisonError::into_inner);
        names.remove(key_sha256);
        drop(names);
        if let Some(server) = self.server.get().and_then(Weak::upgrade) {
            server.end_relay(key_sha256);
        }
    }
}
