//! Agents that speak through relays. The relays are simulated, too: each is one connection to the
//! server, over which it speaks for its share of the agents, as `rat-agent relay` does.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use hyper::Method;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use rat_agent::access;
use rat_agent::keys::{self, ClientKey};
use rat_agent::machine::Machine;
use rat_agent::run::{Answering, Event, evidence};
use rat_client::https::{self, Asked, Trust};
use rat_engine::evidence::{Binding, Challenge, ToAgent};
use rat_transport::quic::client::{
    AboutAgent, AgentHello, Batch, Client, ClientOptions, Connection, Evidence, EvidenceParts,
    ForAgent, Line, LineReceiver, LineSender, ListHead, ListSource, Sockets,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::net::lookup_host;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::identities::{Known, Way};
use super::members::Member;
use super::visitor::{Introduction, Visitor, instance};
use super::{Agents, BASELINE_WAIT, Enlisted, Fleet, FleetOptions, grow};
use crate::keys::base64;
use crate::progress;
use crate::report::{Counts, Report};
use crate::software_tpm::SharedBoot;

/// Requests to the API at the same time.
const REQUESTS: usize = 16;
/// How much a simulated relay sends at once.
const BATCH_BYTES: usize = 64 * 1024;
/// Messages that one batch takes.
const BATCH_MESSAGES: usize = 256;
/// How long an agent stays away at least that was refused, whatever it was told.
const RETRY_MIN: Duration = Duration::from_secs(1);
const TOKEN_BYTES_MAX: usize = 4096;
const PATIENCE: Duration = Duration::from_secs(60);
const ANSWER_BYTES_MAX: usize = 1024 * 1024;

#[derive(Serialize)]
struct AddRelay<'a> {
    name: &'a str,
    csr: String,
}

#[derive(Deserialize)]
struct Added {
    certificate: String,
}

#[derive(Serialize)]
struct Through<'a> {
    relay: &'a str,
}

#[derive(Deserialize)]
struct Changed {}

/// One agent behind a relay.
struct Seat {
    nth: usize,
    machine: Machine,
    boot: SharedBoot,
    hello: AgentHello,
    answering: Answering,
    /// When its open challenge came.
    challenged: Mutex<Option<Instant>>,
}

/// The agents of each relay.
type Seats = Vec<Vec<Arc<Seat>>>;

/// One relay: its name, its key, and its certificate.
struct Site {
    name: String,
    key_sha256: [u8; 32],
    key_pkcs8: Vec<u8>,
    chain: Vec<Vec<u8>>,
}

/// Names the relays, tells the server which agents speak through them, and attests.
pub(super) async fn run(mut fleet: Fleet<'_>, relays: usize) -> Result<Report> {
    let options = fleet.options;
    let all = options.agents;
    let (place, sites, seats) = match std::mem::take(&mut fleet.agents) {
        Agents::Enrolled(agents) => named(&fleet, agents, relays).await?,
        Agents::Known(known) => known_to(&known, all, relays)?,
    };
    let time = options.warm_up().saturating_add(options.counted());
    let mut running = place.start(&fleet, sites, seats).await?;
    // The list of the first machine is the policy of all; until it is proven there is none.
    if options.baseline_token.is_some() {
        fleet.counts.verdict(BASELINE_WAIT).await?;
    }
    let counts = Arc::clone(&fleet.counts);
    let said = move || format!("{} verdicts", counts.attestations());
    let showing = progress::running("attesting", time, said);
    sleep(options.warm_up()).await;
    fleet.counts.start_over();
    let counted_from = Instant::now();
    sleep(options.counted()).await;
    let report = fleet
        .counts
        .report(all, fleet.enrolment, counted_from.elapsed());
    drop(showing);
    if let Some(ended) = running.try_join_next() {
        ended??;
    }
    running.shutdown().await;
    Ok(report)
}

/// Names relays to the server, and the agents that speak through each.
async fn named(
    fleet: &Fleet<'_>,
    agents: Vec<Enlisted>,
    relays: usize,
) -> Result<(Place, Vec<Site>, Seats)> {
    let options = fleet.options;
    let (_, first, _) = agents.first().context("a fleet has agents")?;
    let place = Place {
        ca_set: ca_set(&first.ca_pem)?,
        addresses: first.evidence_addresses.clone(),
        server_name: first.evidence_server_name.clone(),
    };
    let api = api(options, &place.ca_set)?;
    let mut sites = Vec::new();
    for nth in 0..relays {
        let name = format!("{}-relay-{nth}", options.prefix.to_lowercase());
        sites.push(site(&api, name).await?);
    }
    let seats = seat_all(&api, &sites, agents, &fleet.sockets).await?;
    Ok((place, sites, seats))
}

/// Relays and agents of a file, which the server knows already.
fn known_to(known: &Known, agents: usize, relays: usize) -> Result<(Place, Vec<Site>, Seats)> {
    let identities = &known.identities;
    let Way::Relayed(named) = &identities.way else {
        anyhow::bail!("these agents speak for themselves, without --relays");
    };
    ensure!(named.len() == relays, "--relays {}", named.len());
    let mut sites = Vec::new();
    for relay in named {
        let key = ClientKey::from_pem(&relay.key_pem)?;
        sites.push(Site {
            name: relay.name.clone(),
            key_sha256: key.sha256()?,
            key_pkcs8: key.to_pkcs8_der()?,
            chain: relay.chain.clone(),
        });
    }
    let mut seats: Seats = sites.iter().map(|_| Vec::new()).collect();
    for nth in 0..agents {
        let Member {
            machine,
            boot,
            agent,
            ..
        } = known.member(nth)?;
        let instance = instance()?;
        let introduction = machine.here(|parts| Introduction::read(parts, agent, instance))?;
        let key = known.client_key_sha256(nth)?;
        let seat = Seat::new(nth, (machine, boot), introduction, key);
        let at = nth.checked_rem(relays).unwrap_or(0);
        seats
            .get_mut(at)
            .context("a relay for each agent")?
            .push(seat);
    }
    let place = Place {
        ca_set: ca_set(&identities.ca_pem)?,
        addresses: vec![identities.evidence_address.clone()],
        server_name: identities.evidence_server_name.clone(),
    };
    Ok((place, sites, seats))
}

/// CAs in DER.
fn ca_set(pem: &[String]) -> Result<Vec<Vec<u8>>> {
    let sets = pem.iter().map(|pem| keys::certificates(pem));
    Ok(sets.collect::<Result<Vec<_>, _>>()?.concat())
}

/// Tells the server through which relay each agent speaks; gives the agents of each relay.
async fn seat_all(
    api: &Arc<Api>,
    sites: &[Site],
    agents: Vec<Enlisted>,
    sockets: &Sockets,
) -> Result<Seats> {
    let mut seats: Seats = sites.iter().map(|_| Vec::new()).collect();
    let places = Arc::new(Semaphore::new(REQUESTS));
    let bar = progress::bar("relayed", agents.len());
    let mut moving = JoinSet::new();
    for (member, enrolled, _) in agents {
        let at = member.nth.checked_rem(sites.len()).unwrap_or(0);
        let site = sites.get(at).context("a relay for each agent")?;
        let (api, places, relay) = (Arc::clone(api), Arc::clone(&places), site.name.clone());
        let nth = member.nth;
        let key = ClientKey::from_pem(&enrolled.key_pem)?.sha256()?;
        let (machine, boot) = (member.machine.clone(), Arc::clone(&member.boot));
        let visitor = Visitor::new(member, enrolled, sockets.clone())?;
        moving.spawn(async move {
            let _place = places.acquire_owned().await?;
            let path = format!("/agents/{}/relay", visitor.enrolled.agent);
            let body = Through { relay: &relay };
            let _: Changed = api.post(&path, &body).await?;
            let introduction = visitor.introduction().await?;
            let seat = Seat::new(nth, (machine, boot), introduction, key);
            Ok::<_, anyhow::Error>((at, seat))
        });
    }
    while let Some(moved) = moving.join_next().await {
        let (at, seat) = moved??;
        if let Some(seats) = seats.get_mut(at) {
            seats.push(seat);
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(seats)
}

/// Where the server takes evidence.
struct Place {
    ca_set: Vec<Vec<u8>>,
    addresses: Vec<String>,
    server_name: String,
}

impl Place {
    /// Connects the relays.
    async fn start(
        &self,
        fleet: &Fleet<'_>,
        sites: Vec<Site>,
        seats: Seats,
    ) -> Result<JoinSet<Result<()>>> {
        let mut running = JoinSet::new();
        for (site, mut seats) in sites.into_iter().zip(seats) {
            seats.sort_by_key(|seat| seat.nth);
            let client = Client::new(ClientOptions {
                ca_set: self.ca_set.clone(),
                certificate_chain: site.chain.clone(),
                key_pkcs8: site.key_pkcs8.clone(),
                keep_alive_ms: 5_000,
                probe_mtu: true,
            })?;
            let connection = connect(&client, &self.addresses, &self.server_name).await?;
            let relay = SimulatedRelay {
                key_sha256: site.key_sha256,
                seats,
                counts: Arc::clone(&fleet.counts),
                options: fleet.options.clone(),
            };
            running.spawn(relay.run(connection));
        }
        Ok(running)
    }
}

/// The API, as an operator.
struct Api {
    client: https::Client,
    bearer: HeaderValue,
}

impl Api {
    async fn post<R: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<R> {
        let reply = self
            .client
            .exchange(Asked {
                method: Method::POST,
                path,
                headers: vec![
                    (AUTHORIZATION, self.bearer.clone()),
                    (CONTENT_TYPE, HeaderValue::from_static("application/json")),
                ],
                body: Bytes::from(serde_json::to_vec(body)?),
                patience: PATIENCE,
                answer_bytes_max: ANSWER_BYTES_MAX,
            })
            .await?;
        let said = || String::from_utf8_lossy(&reply.body).into_owned();
        ensure!(
            reply.status.is_success(),
            "{path}: {} {}",
            reply.status,
            said()
        );
        Ok(serde_json::from_slice(&reply.body)?)
    }
}

fn api(options: &FleetOptions, ca_set: &[Vec<u8>]) -> Result<Arc<Api>> {
    let file: &Path = options
        .operator_token_file
        .as_deref()
        .context("--relays needs --operator-token-file")?;
    let token = access::read_secret(file, TOKEN_BYTES_MAX)?;
    let mut bearer = HeaderValue::from_bytes(&[b"Bearer ", token.trim_ascii()].concat())?;
    bearer.set_sensitive(true);
    let client = https::Client::new(options.server.clone(), Trust::Set(ca_set.to_vec()))?;
    Ok(Arc::new(Api { client, bearer }))
}

/// A relay, named to the server.
async fn site(api: &Api, name: String) -> Result<Site> {
    let key = ClientKey::generate()?;
    let body = AddRelay {
        name: &name,
        csr: base64(&key.relay_request()?),
    };
    let added: Added = api.post("/relays/", &body).await?;
    Ok(Site {
        name,
        key_sha256: key.sha256()?,
        key_pkcs8: key.to_pkcs8_der()?,
        chain: keys::certificates(&added.certificate)?,
    })
}

async fn connect(client: &Client, addresses: &[String], name: &str) -> Result<Connection> {
    let address = addresses.first().context("no address for evidence")?;
    let mut resolved = lookup_host(address.as_str()).await?;
    let resolved = resolved.next().with_context(|| address.clone())?;
    Ok(client.connect(resolved, name).await?)
}

/// A relay whose agents are in this process.
struct SimulatedRelay {
    key_sha256: [u8; 32],
    seats: Vec<Arc<Seat>>,
    counts: Arc<Counts>,
    options: FleetOptions,
}

impl SimulatedRelay {
    async fn run(self, connection: Connection) -> Result<()> {
        let Line {
            welcome,
            sender,
            receiver,
        } = connection.relay_hello().await?;
        let most = usize::try_from(welcome.agents_max).unwrap_or(usize::MAX);
        ensure!(self.seats.len() <= most, "{most} agents for each relay");
        let (outbox, inbox) = mpsc::unbounded_channel();
        let seats = self.seats.iter().enumerate();
        // Number 0 is the relay itself.
        let numbered = seats.map(|(at, seat)| {
            let number = u64::try_from(at).unwrap_or(u64::MAX).saturating_add(1);
            (number, Arc::clone(seat))
        });
        let by_number: HashMap<u64, Arc<Seat>> = numbered.collect();
        let hellos: Vec<_> = by_number
            .iter()
            .map(|(number, seat)| (*number, Arc::clone(seat)))
            .collect();
        let (counts, options) = (self.counts, self.options);
        let key = self.key_sha256;
        let greeting = greet(hellos, outbox.clone(), welcome.hellos_per_second_max);
        let answering = receive(receiver, by_number, outbox, key, counts, options);
        tokio::select! {
            ended = answering => ended,
            ended = send(sender, inbox) => ended,
            never = greeting => never,
        }
    }
}

type Outbox = mpsc::UnboundedSender<(u64, ForAgent)>;

/// Says Hello for every agent, as fast as the server takes it; then waits for ever.
async fn greet(
    mut hellos: Vec<(u64, Arc<Seat>)>,
    outbox: Outbox,
    per_second_max: u32,
) -> Result<()> {
    // The first machine's list is the policy of the others.
    hellos.sort_by_key(|(_, seat)| seat.nth);
    let portion = usize::try_from(per_second_max.saturating_mul(9) / 100).unwrap_or(1);
    for hellos in hellos.chunks(portion.max(1)) {
        for (number, seat) in hellos {
            outbox.send((*number, ForAgent::Hello(seat.hello.clone())))?;
        }
        sleep(Duration::from_millis(100)).await;
    }
    std::future::pending().await
}

async fn send(
    mut sender: LineSender,
    mut inbox: mpsc::UnboundedReceiver<(u64, ForAgent)>,
) -> Result<()> {
    let mut waiting = Vec::new();
    let mut batch = Batch::default();
    while inbox.recv_many(&mut waiting, BATCH_MESSAGES).await > 0 {
        for (number, said) in waiting.drain(..) {
            batch.add(number, said)?;
            if batch.len() >= BATCH_BYTES {
                sender.send(&mut batch).await?;
            }
        }
        sender.send(&mut batch).await?;
    }
    Ok(())
}

async fn receive(
    mut receiver: LineReceiver,
    seats: HashMap<u64, Arc<Seat>>,
    outbox: Outbox,
    key: [u8; 32],
    counts: Arc<Counts>,
    options: FleetOptions,
) -> Result<()> {
    let options = Arc::new(options);
    loop {
        let (number, about) = receiver.next().await?;
        let Some(seat) = seats.get(&number) else {
            continue;
        };
        let AboutAgent::Told(message) = about else {
            continue;
        };
        match message {
            ToAgent::Welcome { .. } => counts.connected(),
            ToAgent::Challenge(challenge) => {
                *seat.challenged() = Some(Instant::now());
                let (seat, outbox) = (Arc::clone(seat), outbox.clone());
                let (counts, options) = (Arc::clone(&counts), Arc::clone(&options));
                rayon::spawn(move || {
                    match seat.answer(&challenge, key) {
                        // The line is gone when nobody takes it.
                        Ok(answer) => drop(outbox.send((number, answer))),
                        Err(error) => counts.trouble(&error),
                    }
                    grow(&seat.boot, &options);
                });
            }
            ToAgent::Verdict(_, answer) => {
                let challenged = seat.challenged().take();
                if let Some(challenged) = challenged {
                    counts.tell(
                        seat.nth,
                        &Event::Answered {
                            answer: &answer,
                            took: challenged.elapsed(),
                            entries: None,
                        },
                    );
                }
            }
            ToAgent::Refused {
                code,
                retry_after_ms,
                ..
            } => {
                counts.trouble(&code);
                let (seat, outbox) = (Arc::clone(seat), outbox.clone());
                let away = Duration::from_millis(retry_after_ms.into()).max(RETRY_MIN);
                tokio::spawn(async move {
                    sleep(away).await;
                    // The line is gone when nobody takes it.
                    drop(outbox.send((number, ForAgent::Hello(seat.hello.clone()))));
                });
            }
            ToAgent::More(_) => counts.trouble(&"a list longer than simulated relays send"),
        }
    }
}

impl Seat {
    fn new(
        nth: usize,
        (machine, boot): (Machine, SharedBoot),
        introduction: Introduction,
        client_key_sha256: [u8; 32],
    ) -> Arc<Self> {
        let Introduction { hello, answering } = introduction;
        Arc::new(Self {
            nth,
            machine,
            boot,
            hello: AgentHello {
                client_key_sha256,
                hello,
            },
            answering,
            challenged: Mutex::new(None),
        })
    }

    fn challenged(&self) -> std::sync::MutexGuard<'_, Option<Instant>> {
        self.challenged
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Quotes, bound to the relay's key.
    fn answer(&self, challenge: &Challenge, key: [u8; 32]) -> Result<ForAgent> {
        let binding = Binding::Relay(key);
        let made = self
            .machine
            .here(|parts| evidence(parts, challenge, &binding, &self.answering))?;
        let EvidenceParts {
            quote,
            signature,
            pcr_values,
            reset_count,
            restart_count,
            ima,
            boot_log,
        } = made.parts;
        let head = ima.as_ref().map(|list| ListHead {
            from_entry: list.from_entry,
            count: list.count,
            format: list.format,
            length: list.length,
        });
        let list = match ima.map(|list| list.source) {
            Some(ListSource::Bytes(bytes)) => Some(bytes),
            Some(ListSource::Reader(_)) => anyhow::bail!("a list in a file"),
            None => None,
        };
        let boot_log_bytes = boot_log.as_ref().map(Vec::len);
        Ok(ForAgent::Evidence {
            evidence: Evidence {
                challenge: challenge.id,
                claimed_binding: Some(key),
                quote,
                signature,
                pcr_values,
                reset_count,
                restart_count,
                ima: head,
                boot_log_bytes: boot_log_bytes.and_then(|bytes| u64::try_from(bytes).ok()),
            },
            boot_log,
            list,
        })
    }
}
