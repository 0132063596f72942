//! The parts of a server, joined.

use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use rat_api::auth::Gate;
use rat_api::clock::unix_ms;
use rat_api::core::{self, Addresses, Core};
use rat_api::docs::{self, Docs};
use rat_api::exposition::{self, Exposition};
use rat_api::health::{self as health_routes, Readiness};
use rat_api::listen::{Listener, Security, Stop};
use rat_api::people::{self, People};
use rat_api::surface::{self, Joined, Shared};
use rat_api::tls::{Acceptor, Material, ServerCertificate};
use rat_engine::evidence::Intake;
use rat_identity::ca::{Ca, Issued};
use rat_identity::ek::EkTrust;
use rat_ops::revocation::Revocations;
use rat_ops::webhook::Delivery;
use rat_store::Store;
use rat_transport::quic::server::Server;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use super::keylime_tls::KeylimeTls;
use super::polled::Polled;
use super::relays::NamedRelays;
use super::shards::Shards;
use super::webhooks::{self, Told};
use super::{evidence, keylime, registrar, revocations, verifier};
use crate::config::pull::Pull;
use crate::config::{Config, check};
use crate::failure::{Exit, Failure, Means};
use crate::{data_dir, first_start, health};

/// How often it is asked whether the server's certificate is due.
const RENEWAL_EVERY: Duration = Duration::from_secs(600);
/// How often the recorder drops what it no longer needs.
const UPKEEP_EVERY: Duration = Duration::from_secs(5);

/// A running server.
pub(super) struct Parts {
    store: Store,
    readiness: Arc<Readiness>,
    shards: Shards,
    evidence: Arc<Server>,
    polled: Polled,
    revocations: Option<Revocations>,
    webhooks: Delivery,
    http: JoinHandle<()>,
}

impl Parts {
    /// Opens the data directory, binds the listeners and serves.
    pub(super) async fn start(config: &Config, stop: &Stop) -> Result<Self, Failure> {
        let recorder = rat_api::metrics::install()?;
        data_dir::require_whole(&config.data_dir)?;
        let store = Store::open(&config.data_dir).await.means(Exit::Unusable)?;
        let ca = Arc::new(data_dir::open_or_make_ca(&config.data_dir)?);
        let trust = Arc::new(ek_trust(config)?);
        let webhooks = check::webhooks(config)?;
        let prepared = first_start::prepare(&store, &config.data_dir).await;
        prepared.means(Exit::Unusable)?;
        let (certificate, issued) = server_certificate(config, &ca)?;
        let listener = bind(config, &certificate).await?;
        let keylime = keylime::Served::bind(config, &certificate, &store).await?;
        let (keylime_tls, registrar) = registrar::bind(config, &ca, &store, &trust).await?;
        let shards = Shards::start(config, &store).await?;
        let intake = intake(&shards)?;
        let relays = NamedRelays::load(&store).await.means(Exit::Unusable)?;
        let polled = Polled::start(config, &store, &shards, Arc::clone(&intake)).await?;
        let channels = revocations::channels(config, &polled).await?;
        let webhooks = webhooks::start(webhooks, channels, &store, &shards).await?;
        let revocations =
            revocations::start(config, &store, &shards, &polled, webhooks.webhooks())?;
        let tls = keylime_tls.as_ref();
        let asked = (Arc::clone(&intake), polled.clone());
        let verifier = verifier::Served::bind(config, tls, &store, &shards, asked).await?;
        let evidence = evidence::bind(config, &ca, &issued, &store, &relays, intake)?;
        let evidence = Arc::new(evidence);
        relays.serve(&evidence);
        let watch = health::StoreWatch::start(store.clone(), stop.drain.clone());
        let ca_end = ca.not_after_unix_ms().means(Exit::Unusable)?;
        let readiness = health::readiness(watch, Arc::clone(&certificate), ca_end, shards.probe());
        let evidence_port = evidence.local_addr()?.port();
        let addresses = check::addresses(config, listener.local_addr().port(), evidence_port);
        announce(&listener, (&keylime, &registrar, &verifier), &evidence, &ca)?;
        let rate = config.core.requests_per_address_per_second;
        let shared = Shared::new(Gate::new(store.clone()), rate);
        let known = (&store, &ca, trust);
        let live = (&shards, &webhooks, relays);
        let core = core_state(config, &shared, addresses, known, live);
        let people = people(config, &store, &shared);
        let exposed = Exposition {
            recorder: recorder.clone(),
            readiness: Arc::clone(&readiness),
        };
        let router = surfaces(&shared, core, people, &readiness, exposed);
        let router = surface::join(&shared, keylime.beside_core().into_iter().chain(router));
        let upkeep = Upkeep {
            names: config.server_names(),
            ca,
            certificate,
            keylime_tls,
            polled: (polled.clone(), config.keylime.pull.clone()),
            data_dir: config.data_dir.clone(),
            evidence: Arc::clone(&evidence),
        };
        tokio::spawn(upkeep.run(recorder, stop.clone()));
        let following = shards.clone();
        tokio::spawn(following.follow_groups(store.clone(), stop.drain.clone()));
        let core = (listener, router);
        let served = serve(core, keylime, registrar, verifier, stop.clone());
        Ok(Self {
            store,
            readiness,
            shards,
            evidence,
            polled,
            revocations,
            webhooks,
            http: tokio::spawn(served),
        })
    }

    /// Stops in the order that loses nothing: no longer ready; agents answer what they were asked;
    /// requests end; what was begun is committed; the store is closed. Whether all of it ended.
    ///
    /// Listeners have half of the time: a peer that does not come to an end must not take from the
    /// shards the time in which they commit what others have sent.
    pub(super) async fn drain(self, stop: &Stop, deadline: Duration) -> bool {
        let begun = Instant::now();
        self.readiness.start_draining();
        stop.drain.cancel();
        let for_listeners = deadline.checked_div(2).unwrap_or_default();
        let evidence = async {
            // The task that renews certificates lets go of it when draining begins.
            if let Some(evidence) = sole(self.evidence).await {
                evidence.shutdown(for_listeners).await;
            }
        };
        let polled = self.polled.shutdown(for_listeners);
        let ((), (), http) = tokio::join!(evidence, polled, timeout(for_listeners, self.http));
        let requests_ended = match http {
            Ok(Ok(())) => true,
            Ok(Err(error)) => {
                tracing::error!(%error, "the listener failed");
                true
            }
            Err(_) => false,
        };
        stop.force.cancel();
        let left = deadline.saturating_sub(begun.elapsed());
        let is_committed = self.shards.drain(left).await;
        tracing::info!(is_committed, requests_ended, "the shards ended");
        // Last, because they write down what the shards told: what they cannot deliver now is
        // delivered after the next start.
        if let Some(revocations) = self.revocations {
            revocations
                .drain(deadline.saturating_sub(begun.elapsed()))
                .await;
        }
        let left = deadline.saturating_sub(begun.elapsed());
        self.webhooks.drain(left).await;
        self.store.close().await;
        is_committed && requests_ended
    }
}

/// What the Core API answers from: what is known, what runs, and where everything is.
fn core_state(
    config: &Config,
    shared: &Arc<Shared>,
    addresses: Addresses,
    (store, ca, trust): (&Store, &Arc<Ca>, Arc<EkTrust>),
    (shards, webhooks, relays): (&Shards, &Delivery, Arc<NamedRelays>),
) -> Core {
    Core {
        store: store.clone(),
        ca: Arc::clone(ca),
        trust,
        fleet: Arc::new(shards.clone()),
        relays,
        webhooks: Arc::new(Told(webhooks.webhooks())),
        addresses,
        interval_ms: config.attestation.interval_ms,
        interval_ms_min: check::group_interval_ms_min(config),
        mode: check::mode(config.attestation.mode),
        shared: Arc::clone(shared),
        started: Instant::now(),
        in_memory: core::InMemory::default(),
    }
}

/// Every surface of the Core API's listener, and the description of all of them.
fn surfaces(
    shared: &Arc<Shared>,
    core: Core,
    people: Arc<People>,
    readiness: &Arc<Readiness>,
    exposed: Exposition,
) -> [Joined; 5] {
    let core_routes = core::surface(Arc::clone(shared));
    let people_routes = people::surface(Arc::clone(shared));
    let health_routes = health_routes::surface(Arc::clone(shared));
    let metrics_routes = exposition::surface(Arc::clone(shared));
    let described = [
        core_routes.routes(),
        people_routes.routes(),
        health_routes.routes(),
        metrics_routes.routes(),
    ]
    .concat();
    [
        core_routes.into_router(Arc::new(core)),
        people_routes.into_router(people),
        health_routes.into_router(Arc::clone(readiness)),
        metrics_routes.into_router(exposed),
        docs::surface(Arc::clone(shared)).into_router(Docs::of(&described)),
    ]
}

/// Serves all listeners until they are told to stop.
async fn serve(
    (core, router): (Listener, Joined),
    keylime: keylime::Served,
    registrar: registrar::Served,
    verifier: verifier::Served,
    stop: Stop,
) {
    tokio::join!(
        core.serve(router, stop.clone()),
        keylime.serve(stop.clone()),
        registrar.serve(stop.clone()),
        verifier.serve(stop)
    );
}

/// Where evidence is delivered.
fn intake(shards: &Shards) -> Result<Arc<dyn Intake>, Failure> {
    let intake = shards.intake().context("the shards ended");
    intake.means(Exit::Failed)
}

/// What is held by nobody else, as soon as that is so.
pub(super) async fn sole<T>(mut shared: Arc<T>) -> Option<T> {
    for _ in 0..1000 {
        match Arc::try_unwrap(shared) {
            Ok(value) => return Some(value),
            Err(still) => shared = still,
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    None
}

fn ek_trust(config: &Config) -> Result<EkTrust, Failure> {
    let trust = check::ek_trust(config)?;
    let (certificates, listed) = trust.counts();
    if certificates == 0 && listed == 0 {
        tracing::warn!("no TPM can enrol: identity.ek_ca and identity.ek_list name nothing");
    }
    tracing::info!(certificates, listed, "TPMs are known");
    Ok(trust)
}

async fn bind(config: &Config, certificate: &Arc<ServerCertificate>) -> Result<Listener, Failure> {
    let acceptor = Acceptor::new(certificate.clone(), &[]).means(Exit::Unusable)?;
    let security = if config.core.plain_http {
        Security::PlainOnLoopback
    } else {
        Security::Tls(Arc::new(acceptor))
    };
    let bound = Listener::bind("core", config.core.listen, security).await;
    bound.means(Exit::Unusable)
}

/// What the routes of accounts work with.
fn people(config: &Config, store: &Store, shared: &Arc<Shared>) -> Arc<People> {
    Arc::new(People {
        store: store.clone(),
        shared: Arc::clone(shared),
        first_password: data_dir::first_password_in(&config.data_dir),
    })
}

fn server_certificate(
    config: &Config,
    ca: &Ca,
) -> Result<(Arc<ServerCertificate>, Issued), Failure> {
    let issued = ca
        .issue_server(&config.server_names(), unix_ms())
        .context("address, identity.server_names")
        .means(Exit::Configuration)?;
    let certificate = ServerCertificate::new(material(&issued), unix_ms());
    Ok((Arc::new(certificate.means(Exit::Unusable)?), issued))
}

fn material(issued: &Issued) -> Material {
    Material {
        chain: issued.chain_der.clone(),
        key_pkcs8: issued.key_pkcs8_der.clone(),
        not_after_unix_ms: issued.not_after_unix_ms,
    }
}

/// Says where the server listens, on standard output: scripts that let the system choose a port
/// read it there.
fn announce(
    core: &Listener,
    (keylime, registrar, verifier): (&keylime::Served, &registrar::Served, &verifier::Served),
    evidence: &Server,
    ca: &Ca,
) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    writeln!(out, "core {}", core.local_addr())?;
    if let Some(address) = keylime.local_addr() {
        writeln!(out, "keylime {address}")?;
    }
    if let Some(address) = verifier.local_addr() {
        writeln!(out, "verifier {address}")?;
    }
    for (name, address) in registrar.addresses() {
        writeln!(out, "{name} {address}")?;
    }
    writeln!(out, "evidence {}", evidence.local_addr()?)?;
    writeln!(out, "ca sha256:{}", hex::encode(ca.fingerprint()))?;
    out.flush()?;
    Ok(())
}

/// What is to be done from time to time.
struct Upkeep {
    names: Vec<String>,
    ca: Arc<Ca>,
    certificate: Arc<ServerCertificate>,
    keylime_tls: Option<KeylimeTls>,
    polled: (Polled, Pull),
    data_dir: PathBuf,
    evidence: Arc<Server>,
}

impl Upkeep {
    async fn run(self, recorder: metrics_exporter_prometheus::PrometheusHandle, stop: Stop) {
        let mut renewal = tokio::time::interval(RENEWAL_EVERY);
        let mut upkeep = tokio::time::interval(UPKEEP_EVERY);
        loop {
            tokio::select! {
                () = stop.drain.cancelled() => return,
                _ = upkeep.tick() => recorder.run_upkeep(),
                _ = renewal.tick() => {
                    if let Err(error) = self.renew() {
                        tracing::error!(error = %format!("{error:#}"), "the server's certificate");
                    }
                    // One that fails does not keep the other from being renewed.
                    if let Err(error) = self.renew_keylime() {
                        tracing::error!(error = %format!("{error:#}"), "a certificate in cv_ca");
                    }
                }
            }
        }
    }

    /// New certificates of Keylime's servers and for its agents, when the present ones are due.
    fn renew_keylime(&self) -> anyhow::Result<()> {
        let (polled, pull) = &self.polled;
        match &self.keylime_tls {
            Some(tls) if tls.renew()? => polled.show_anew(pull, &self.data_dir),
            Some(_) | None => Ok(()),
        }
    }

    /// A new certificate for all listeners, when the present one is due. Connections live on.
    fn renew(&self) -> anyhow::Result<()> {
        let now = unix_ms();
        if !self.certificate.is_due(now) {
            return Ok(());
        }
        let issued = self.ca.issue_server(&self.names, now)?;
        self.certificate.replace(material(&issued), now)?;
        self.evidence.set_tls(&evidence::tls(&self.ca, &issued))?;
        tracing::info!("the server's certificate was renewed");
        Ok(())
    }
}
