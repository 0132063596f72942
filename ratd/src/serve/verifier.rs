//! Keylime's verifier, for tenants and for agents that push, where the configuration wants it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rat_api::auth::Gate;
use rat_api::clock::unix_ms;
use rat_api::keylime;
use rat_api::keylime::push;
use rat_api::keylime::verifier::{self, Verifier};
use rat_api::listen::{Listener, Security, Stop};
use rat_api::surface::{Joined, Shared};
use rat_engine::evidence::Intake;
use rat_engine::shard::KEYLIME_GROUP;
use rat_store::{Approval, GroupSettings, NewGroup, Store, StoreError};

use super::keylime_tls::KeylimeTls;
use super::polled::Polled;
use super::shards::Shards;
use crate::config::{Config, Listen};
use crate::failure::{Exit, Failure, Means};

/// Where the verifier is served.
pub(super) struct Served(Option<(Listener, Joined)>);

impl Served {
    /// Binds its listener, if there is to be one.
    pub(super) async fn bind(
        config: &Config,
        tls: Option<&KeylimeTls>,
        store: &Store,
        shards: &Shards,
        (intake, polled): (Arc<dyn Intake>, Polled),
    ) -> Result<Self, Failure> {
        let settings = &config.keylime.verifier;
        let (Listen::At(address), Some(tls)) = (settings.listen, tls) else {
            return Ok(Self(None));
        };
        make_group(store).await.means(Exit::Unusable)?;
        let security = Security::Tls(tls.acceptor());
        let bound = Listener::bind("verifier", address, security).await;
        let listener = bound.means(Exit::Unusable)?;
        let fleet: Arc<dyn rat_api::core::fleet::Fleet> = Arc::new(shards.clone());
        let interval = Duration::from_secs(settings.quote_interval_seconds);
        let lifetime = Duration::from_secs(settings.session_lifetime_seconds);
        let pushes = push::Inner::new(
            store.clone(),
            Arc::clone(&fleet),
            intake,
            lifetime,
            interval,
        );
        let gate = Gate::new(store.clone()).with_push(&pushes);
        let rate = config.keylime.requests_per_address_per_second;
        let shared = Shared::new(gate, rate);
        let state = Arc::new(Verifier {
            store: store.clone(),
            fleet,
            polls: Some(Arc::new(polled)),
            mode: settings.mode,
            id: settings.uuid.clone(),
            require_policy_signatures: settings.require_allow_list_signatures,
            boot_policy: config.keylime.measured_boot().policy_name,
            ip: listener.local_addr().ip().to_string(),
            port: listener.local_addr().port(),
            interval_seconds: settings.quote_interval_seconds,
            severities: Arc::new(settings.severities().means(Exit::Configuration)?),
            turn: tokio::sync::Mutex::default(),
        });
        let evidence = keylime::surface(Arc::clone(&shared));
        let judged = keylime::Keylime::new(
            super::keylime::verifications(config),
            config.keylime.measured_boot(),
        );
        let routers = [
            verifier::surface(Arc::clone(&shared)).into_router(state),
            push::surface(Arc::clone(&shared)).into_router(pushes),
            evidence.into_router(judged),
        ];
        let router = keylime::join(&shared, routers);
        Ok(Self(Some((listener, router))))
    }

    /// Its address, when it has one.
    pub(super) fn local_addr(&self) -> Option<SocketAddr> {
        self.0.as_ref().map(|(listener, _)| listener.local_addr())
    }

    /// Serves until told to stop.
    pub(super) async fn serve(self, stop: Stop) {
        if let Some((listener, router)) = self.0 {
            listener.serve(router, stop).await;
        }
    }
}

/// The group that lists show of Keylime's agents. What is demanded of them is their own.
pub(crate) async fn make_group(store: &Store) -> Result<(), StoreError> {
    if store.group(KEYLIME_GROUP).await?.is_some() {
        return Ok(());
    }
    let group = NewGroup {
        slug: KEYLIME_GROUP.to_owned(),
        hex_id: hex_id(),
        settings: GroupSettings {
            name: "Agents of Keylime's API".to_owned(),
            approval: Approval::List,
            ..GroupSettings::default()
        },
    };
    match store.create_group(&group, "ratd", unix_ms()).await {
        Ok(()) | Err(StoreError::Exists(_)) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Of the same form as those of other groups; nobody guesses by it.
fn hex_id() -> String {
    let digest =
        rat_engine::crypto::digest(rat_engine::hash::HashAlg::Sha256, KEYLIME_GROUP.as_bytes());
    hex::encode(digest.as_bytes().get(..16).unwrap_or_default())
}
