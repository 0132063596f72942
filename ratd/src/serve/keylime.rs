//! Keylime's verifier API, where the configuration wants it: nowhere, beside the Core API, or on a
//! listener of its own.

use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::available_parallelism;

use rat_api::auth::Gate;
use rat_api::keylime::{self, Keylime};
use rat_api::listen::{Listener, Security, Stop};
use rat_api::surface::{Joined, Shared, join};
use rat_api::tls::{Acceptor, ServerCertificate};
use rat_store::Store;

use crate::config::{Config, Listen};
use crate::failure::{Exit, Failure, Means};

/// Where the API is served.
pub(super) enum Served {
    Nowhere,
    BesideCore(Joined),
    Apart(Listener, Joined),
}

impl Served {
    /// Binds the listener, if there is to be one.
    pub(super) async fn bind(
        config: &Config,
        certificate: &Arc<ServerCertificate>,
        store: &Store,
    ) -> Result<Self, Failure> {
        let Listen::At(address) = config.keylime.listen else {
            return Ok(Self::Nowhere);
        };
        // Its limits are its own, so that its clients, who need no credentials, take nothing from
        // operators and enrolling machines.
        let rate = config.keylime.requests_per_address_per_second;
        let shared = Shared::new(Gate::new(store.clone()), rate);
        let surface = keylime::surface(Arc::clone(&shared));
        let keylime = Keylime::new(verifications(config), config.keylime.measured_boot());
        let router = keylime::router(surface, keylime);
        if config.keylime_is_beside_core() {
            return Ok(Self::BesideCore(router));
        }
        let acceptor = Acceptor::new(certificate.clone(), &[]).means(Exit::Unusable)?;
        let security = Security::Tls(Arc::new(acceptor));
        let bound = Listener::bind("keylime", address, security).await;
        let listener = bound.means(Exit::Unusable)?;
        Ok(Self::Apart(listener, join(&shared, [router])))
    }

    /// Its address, when it has one of its own.
    pub(super) const fn local_addr(&self) -> Option<SocketAddr> {
        match self {
            Self::Apart(listener, _) => Some(listener.local_addr()),
            Self::Nowhere | Self::BesideCore(_) => None,
        }
    }

    /// What the Core API's listener serves of it.
    pub(super) fn beside_core(&self) -> Option<Joined> {
        match self {
            Self::BesideCore(router) => Some(router.clone()),
            Self::Nowhere | Self::Apart(..) => None,
        }
    }

    /// Serves on its own listener until told to stop.
    pub(super) async fn serve(self, stop: Stop) {
        if let Self::Apart(listener, router) = self {
            listener.serve(router, stop).await;
        }
    }
}

/// How much evidence is judged at once: half of the processors are left to the fleet.
pub(super) fn verifications(config: &Config) -> usize {
    match config.keylime.verifications {
        0 => available_parallelism().map_or(1, |processors| processors.get().div_ceil(2)),
        given => given,
    }
}
