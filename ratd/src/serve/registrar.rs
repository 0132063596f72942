//! Keylime's registrar, where the configuration wants it: over plain HTTP for agents, over TLS for
//! tenants and agents, or nowhere.

use std::net::SocketAddr;
use std::sync::Arc;

use rat_api::auth::Gate;
use rat_api::keylime;
use rat_api::keylime::registrar::{self, Registrar};
use rat_api::listen::{Listener, Security, Stop};
use rat_api::surface::{Joined, Shared};
use rat_identity::ca::Ca;
use rat_identity::ek::EkTrust;
use rat_identity::keylime::{EkCheck, Policy};
use rat_store::Store;

use super::keylime_tls::KeylimeTls;
use crate::config::{Config, Listen};
use crate::failure::{Exit, Failure, Means};

/// Where the registrar is served.
pub(super) struct Served {
    plain: Option<Listener>,
    tls: Option<Listener>,
    router: Joined,
}

impl Served {
    /// Binds its listeners, if there are to be any.
    async fn bind(
        config: &Config,
        tls: Option<&KeylimeTls>,
        store: &Store,
        trust: &Arc<EkTrust>,
    ) -> Result<Self, Failure> {
        let settings = &config.keylime.registrar;
        let plain = match settings.listen {
            Listen::Nowhere => None,
            Listen::At(address) => Some(listener("registrar", address, Security::Plain).await?),
        };
        let tls = match (settings.tls_listen, tls) {
            (Listen::At(address), Some(tls)) => {
                let security = Security::Tls(tls.acceptor());
                Some(listener("registrar-tls", address, security).await?)
            }
            _ => None,
        };
        if settings.ek_check != EkCheck::Enforce && (plain.is_some() || tls.is_some()) {
            tracing::warn!(
                check = ?settings.ek_check,
                "TPMs that nobody vouches for can register: keylime.registrar.ek_check"
            );
        }
        // Its limits are its own, and its agents need no credentials.
        let rate = config.keylime.requests_per_address_per_second;
        let shared = Shared::new(Gate::new(store.clone()), rate);
        let state = Arc::new(Registrar {
            store: store.clone(),
            trust: Arc::clone(trust),
            policy: Policy {
                ek_check: settings.ek_check,
                tpm_identity: settings.tpm_identity,
            },
            shares_ek: settings.shared_ek,
        });
        let routes = registrar::surface(Arc::clone(&shared)).into_router(state);
        Ok(Self {
            plain,
            tls,
            router: keylime::join(&shared, [routes]),
        })
    }

    /// Its addresses, by the names that standard output has for them.
    pub(super) fn addresses(&self) -> impl Iterator<Item = (&'static str, SocketAddr)> {
        let named = |name, listener: &Option<Listener>| {
            let address = listener.as_ref().map(Listener::local_addr);
            address.map(|address| (name, address))
        };
        let plain = named("registrar", &self.plain);
        plain.into_iter().chain(named("registrar-tls", &self.tls))
    }

    /// Serves until told to stop.
    pub(super) async fn serve(self, stop: Stop) {
        let serving = |listener: Option<Listener>| {
            let (router, stop) = (self.router.clone(), stop.clone());
            async move {
                if let Some(listener) = listener {
                    listener.serve(router, stop).await;
                }
            }
        };
        tokio::join!(serving(self.plain), serving(self.tls));
    }
}

/// TLS for Keylime's surfaces, when one of them is served over it, and the registrar.
pub(super) async fn bind(
    config: &Config,
    own: &Ca,
    store: &Store,
    trust: &Arc<EkTrust>,
) -> Result<(Option<KeylimeTls>, Served), Failure> {
    let listens = [
        config.keylime.registrar.tls_listen,
        config.keylime.verifier.listen,
    ];
    let tls = match listens {
        [Listen::Nowhere, Listen::Nowhere] => None,
        _ => Some(KeylimeTls::open(config, own)?),
    };
    let served = Served::bind(config, tls.as_ref(), store, trust).await?;
    Ok((tls, served))
}

async fn listener(
    name: &'static str,
    address: SocketAddr,
    security: Security,
) -> Result<Listener, Failure> {
    let bound = Listener::bind(name, address, security).await;
    bound.means(Exit::Unusable)
}
