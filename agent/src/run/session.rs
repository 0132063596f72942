//! One connection to a server.

use std::time::Duration;

use rat_engine::evidence::{Binding, Instance};
use rat_engine::hash::HashAlg;
use rat_engine::tpm::Public;
use rat_transport::quic::client::{Client, ClientError, Connection, Hello, Incoming, Sockets};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::answer::{Answering, BootEpoch, evidence};
use super::backoff::Backoff;
use super::memory::Memory;
use super::pins::{Change, Pins, Telling};
use super::{Event, RunError, Through, Watcher, connect, stopped};
use crate::device::DeviceError;
use crate::keys;
use crate::machine::{Machine, Parts};
use crate::state::{CaChange, Enrolled, Mode};
use crate::unix_ms;

/// An agent that leaves between attestations stays this long for a challenge that is due soon.
const WORTH_WAITING: Duration = Duration::from_secs(2);
/// How long to wait before a renewal that failed is tried again.
const RENEWAL_RETRY: Duration = Duration::from_secs(600);
/// Timers do not sleep longer than this, so that a clock that was set is noticed.
const LONGEST_SLEEP: Duration = Duration::from_secs(3600);

/// It left of its own accord.
pub(super) struct Left {
    pub(super) next_after: Duration,
}

pub(super) struct Session<'a> {
    pub(super) machine: &'a Machine,
    /// The relay that it speaks through this time.
    pub(super) relay: Option<&'a Through>,
    pub(super) memory: &'a mut Memory,
    pub(super) watcher: &'a Watcher,
    pub(super) sockets: &'a Sockets,
    pub(super) instance: Instance,
    pub(super) backoff: &'a mut Backoff,
    pub(super) stop: watch::Receiver<bool>,
}

/// What the machine is, before it says Hello.
struct Facts {
    banks: Vec<HashAlg>,
    epoch: BootEpoch,
    entries: u64,
    format: rat_engine::ima::LogFormat,
    ak_name: Vec<u8>,
}

fn facts(parts: &mut Parts) -> Result<Facts, RunError> {
    let area = parts.device.attestation_key()?;
    let public = Public::parse(&area).map_err(DeviceError::from)?;
    Ok(Facts {
        banks: parts.device.banks()?,
        epoch: parts.device.clock()?.into(),
        entries: parts.logs.count()?,
        format: parts.logs.format(),
        ak_name: public.name().to_bytes(),
    })
}

/// What an enrolment pins: this set, and the changes that wait.
fn pins(enrolled: &Enrolled, ca_set: Vec<Vec<u8>>) -> Result<Pins, RunError> {
    let mut pins = Pins {
        ca_set,
        changes: Vec::new(),
    };
    for change in &enrolled.ca_changes {
        for certificate in keys::certificates(&change.certificate_pem)? {
            pins.changes.push(Change {
                certificate,
                since_unix_ms: change.since_unix_ms,
            });
        }
    }
    Ok(pins)
}

/// What the quote is bound to: the relay's key, or else this connection. (Q13, Q16)
fn bound(mut incoming: Incoming, relay_key: Option<[u8; 32]>) -> (Incoming, Binding) {
    match relay_key {
        Some(key) => {
            incoming.binding = key;
            (incoming, Binding::Relay(key))
        }
        None => {
            let binding = Binding::Channel(incoming.binding);
            (incoming, binding)
        }
    }
}

impl Session<'_> {
    pub(super) async fn run(mut self, client: &Client) -> Result<Left, RunError> {
        let facts = self.machine.with(facts).await??;
        let found = hex::encode(&facts.ak_name);
        if found != self.memory.enrolled().ak_name {
            let enrolled = self.memory.enrolled().ak_name.clone();
            return Err(RunError::OtherKey { found, enrolled });
        }
        let (connection, address, relay_key) = match self.relay {
            Some(relay) => {
                let (connection, address, key) = relay.connect(client).await?;
                (connection, address, Some(key))
            }
            None => {
                let (connection, address) = connect(client, self.memory.enrolled()).await?;
                (connection, address, None)
            }
        };
        let hello = Hello {
            agent: self.memory.enrolled().agent.clone(),
            log_formats: vec![facts.format],
            banks: facts.banks,
            reset_count: facts.epoch.reset_count,
            restart_count: facts.epoch.restart_count,
            entry_count: facts.entries,
            instance: self.instance,
        };
        let welcome = connection.hello(hello).await?;
        // A relay's word about CAs is no server's.
        if relay_key.is_none() {
            let adopted = self.adopt(&connection, &welcome.ca_set);
            self.report(adopted);
        }
        let entries = facts.entries;
        (self.watcher)(Event::Connected { address, entries });
        let answering = Answering {
            agent: self.memory.enrolled().agent.clone(),
            ak_name: facts.ak_name,
            told: facts.epoch,
        };
        let next_after = Duration::from_millis(welcome.next_after_ms.into());
        if self.memory.enrolled().mode == Mode::Leave && next_after > WORTH_WAITING {
            self.renew_if_due(&connection).await;
            connection.close();
            return Ok(Left { next_after });
        }
        self.serve(&connection, answering, relay_key).await
    }

    /// Answers challenges until the connection ends, or the agent leaves.
    async fn serve(
        &mut self,
        connection: &Connection,
        mut answering: Answering,
        relay_key: Option<[u8; 32]>,
    ) -> Result<Left, RunError> {
        let from_now = |left| {
            Instant::now()
                .checked_add(left)
                .unwrap_or_else(Instant::now)
        };
        let mut renewal = from_now(self.until_renewal()?);
        loop {
            // The renewal has its own time: challenges must not put it off.
            let incoming = tokio::select! {
                biased;
                () = sleep_until(renewal) => {
                    renewal = from_now(self.renew_if_due(connection).await);
                    continue;
                }
                () = stopped(&mut self.stop) => {
                    connection.close();
                    return Ok(Left { next_after: Duration::ZERO });
                }
                incoming = connection.next_challenge() => incoming?,
            };
            let (incoming, binding) = bound(incoming, relay_key);
            let next_after = match self.answer(incoming, binding, &mut answering).await {
                Ok(next_after) => {
                    // Not before: a Welcome is no sign that this machine can answer, and one that
                    // leaves would come back for the next failure at once.
                    self.backoff.reset();
                    self.memory.save_again();
                    next_after
                }
                // The server may have refused this answer alone; the next wait tells.
                Err(RunError::Client(ClientError::Lost)) => continue,
                Err(error) => {
                    (self.watcher)(Event::Unanswered(&error));
                    if self.memory.enrolled().mode == Mode::Leave {
                        return Err(error);
                    }
                    continue;
                }
            };
            if self.memory.enrolled().mode == Mode::Leave {
                self.renew_if_due(connection).await;
                connection.close();
                return Ok(Left { next_after });
            }
        }
    }

    async fn answer(
        &self,
        incoming: Incoming,
        binding: Binding,
        answering: &mut Answering,
    ) -> Result<Duration, RunError> {
        let begun = Instant::now();
        let challenge = incoming.challenge;
        let who = answering.clone();
        let made = self
            .machine
            .with(move |parts| evidence(parts, &challenge, &binding, &who))
            .await??;
        let answer = incoming.answer(made.parts).await?;
        // From here on the server knows this epoch.
        answering.told = made.epoch;
        (self.watcher)(Event::Answered {
            answer: &answer,
            took: begun.elapsed(),
            entries: made.entries,
        });
        Ok(Duration::from_millis(answer.next_after_ms.into()))
    }

    /// Takes from the CA set that the server told what [`Pins::after`] allows, and saves it.
    fn adopt(&mut self, connection: &Connection, ca_set: &[Vec<u8>]) -> Result<(), RunError> {
        let pinned = self.memory.identity(self.sockets)?.ca_set.clone();
        let before = pins(self.memory.enrolled(), pinned)?;
        if before.are_all_of(ca_set) {
            return Ok(());
        }
        let server = connection
            .server_certificate()
            .ok_or(keys::KeysError::NoCertificate)?;
        let after = before.after(&Telling {
            ca_set,
            issued_unix_ms: keys::issued_unix_ms(&server)?,
            now_unix_ms: unix_ms(),
            trusted_under: &|cas: &[Vec<u8>]| connection.is_trusted_under(cas),
        });
        if after == before {
            return Ok(());
        }
        let pem = |der: &Vec<u8>| keys::to_pem([der]);
        let ca_pem = after.ca_set.iter().map(pem).collect::<Result<_, _>>()?;
        let mut ca_changes = Vec::new();
        for change in &after.changes {
            ca_changes.push(CaChange {
                certificate_pem: pem(&change.certificate)?,
                since_unix_ms: change.since_unix_ms,
            });
        }
        let saved = self.memory.change(|enrolled| {
            enrolled.ca_pem = ca_pem;
            enrolled.ca_changes = ca_changes;
        });
        Ok(saved?)
    }

    /// Says what went wrong, and goes on.
    fn report(&self, result: Result<(), RunError>) {
        if let Err(error) = result {
            (self.watcher)(Event::Unanswered(&error));
        }
    }

    /// Renews the certificate when two thirds of its life are over; gives the time to look again.
    async fn renew_if_due(&mut self, connection: &Connection) -> Duration {
        match self.until_renewal() {
            Ok(left) if !left.is_zero() => return left,
            Ok(_) => {}
            Err(error) => {
                (self.watcher)(Event::Unanswered(&error));
                return RENEWAL_RETRY;
            }
        }
        match self.renew(connection).await {
            Ok(until_unix_ms) => (self.watcher)(Event::Renewed { until_unix_ms }),
            Err(error) => {
                (self.watcher)(Event::Unanswered(&error));
                return RENEWAL_RETRY;
            }
        }
        self.until_renewal()
            .unwrap_or(RENEWAL_RETRY)
            .max(RENEWAL_RETRY)
    }

    async fn renew(&mut self, connection: &Connection) -> Result<u64, RunError> {
        let key = self.memory.identity(self.sockets)?.key.clone();
        let request = key.certificate_request(&self.memory.enrolled().agent)?;
        let chain = connection.renew(request).await?;
        let leaf = chain.first().ok_or(keys::KeysError::NoCertificate)?;
        let until = keys::validity(leaf, &key)?.not_after_unix_ms;
        let pem = keys::to_pem(&chain)?;
        // The certificate is there, saved or not: asking for another one would not help.
        let saved = self
            .memory
            .change(|enrolled| enrolled.certificate_pem = pem);
        self.report(saved.map_err(RunError::from));
        Ok(until)
    }

    fn until_renewal(&mut self) -> Result<Duration, RunError> {
        let validity = self.memory.identity(self.sockets)?.validity;
        let due = validity.renewal_unix_ms();
        let left = Duration::from_millis(due.saturating_sub(unix_ms()));
        Ok(left.min(LONGEST_SLEEP))
    }
}
