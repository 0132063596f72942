//! A verifier of one conversation at a time: it challenges, appraises with the engine, and asks
//! for what is new. No store, no shards: what an agent's run loop needs to be tested against.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Result;
use rat_agent::unix_ms;
use rat_engine::agent_id::AgentId;
use rat_engine::appraisal::{Appraisal, ImaState, Reference, Rules};
use rat_engine::crypto::VerifyingKey;
use rat_engine::evidence::{
    Answer, Busy, Challenge, ChallengeId, Hello, Intake, Nonce, Peer, SessionId, Submission,
    ToAgent, qualifying_data,
};
use rat_engine::hash::HashAlg;
use rat_engine::ima::{ImaOptions, Start};
use rat_engine::pcr::PcrSet;
use rat_engine::shard::EffectiveStatus;
use rat_engine::tpm::{PcrSelection, Public};
use rat_engine::verdict::{Code, Verdict};
use rat_transport::quic::RenewRefused;
use rat_transport::quic::server::{Certified, Client, Server, ServerLimits, ServerOptions, Tls};

use crate::enrolment_server::Core;

/// What one attestation was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Round {
    /// The machine.
    pub agent: AgentId,
    /// Where the challenge wanted the list to begin.
    pub asked_from: u64,
    /// Where it began.
    pub from_entry: Option<u64>,
    /// Whether a boot log came.
    pub boot_log: bool,
    /// Whether the list came in pieces.
    pub in_pieces: bool,
    /// The codes of what failed.
    pub codes: Vec<Code>,
}

/// A verifier that listens.
pub struct Verifier {
    core: Arc<Core>,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    sessions: HashMap<SessionId, Session>,
    /// What is proven of each machine.
    proven: HashMap<AgentId, ImaState>,
    rounds: Vec<Round>,
    hellos: Vec<Hello>,
    renewals: usize,
    paused: bool,
    believes_everything: bool,
}

struct Session {
    agent: AgentId,
    peer: Box<dyn Peer>,
    open: Option<Challenge>,
    upload: Option<(Submission, Vec<u8>)>,
}

impl std::fmt::Debug for Verifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Verifier").finish_non_exhaustive()
    }
}

impl Verifier {
    /// A verifier of the machines that enrolled with this server.
    pub fn new(core: Arc<Core>) -> Arc<Self> {
        let inner = Mutex::default();
        Arc::new(Self { core, inner })
    }

    /// Listens; tells the enrolment server where.
    pub fn bind(self: &Arc<Self>, address: SocketAddr) -> Result<Server> {
        let ca = &self.core.ca;
        let issued = ca.issue_server(&["localhost".into()], unix_ms())?;
        let (renewing, telling) = (Arc::clone(self), Arc::clone(self));
        let options = ServerOptions {
            reset_secret: [5; 32],
            tls: Tls {
                certificate_chain: issued.chain_der,
                key_pkcs8: issued.key_pkcs8_der,
                client_ca: ca.certificates(),
            },
            identify: Arc::new(|der| {
                let read = rat_identity::agent_certificate::read(der).ok()?;
                Some(Certified::Agent(Client {
                    agent: read.agent,
                    key_sha256: read.key_sha256,
                    valid_for: Duration::from_millis(
                        read.not_after_unix_ms.saturating_sub(unix_ms()),
                    ),
                }))
            }),
            renew: Arc::new(move |agent, key, csr| {
                let issued = renewing.core.ca.renew_agent(csr, agent, &key, unix_ms());
                renewing.inner.lock().unwrap().renewals += 1;
                Ok(issued.map_err(|_| RenewRefused::Malformed)?.chain_der)
            }),
            renew_relay: Arc::new(|_, _, _| Err(RenewRefused::NotEnrolled)),
            ca_set: Arc::new(move || telling.core.ca.certificates()),
            limits: ServerLimits::default(),
        };
        let intake: Arc<dyn Intake> = Arc::clone(self) as _;
        let server = Server::bind(address, options, intake)?;
        *self.core.evidence_address.lock().unwrap() = server.local_addr()?.to_string();
        Ok(server)
    }

    /// What was attested so far.
    pub fn rounds(&self) -> Vec<Round> {
        self.inner.lock().unwrap().rounds.clone()
    }

    /// What agents said when they connected.
    pub fn hellos(&self) -> Vec<Hello> {
        self.inner.lock().unwrap().hellos.clone()
    }

    /// How often a certificate was renewed.
    pub fn renewals(&self) -> usize {
        self.inner.lock().unwrap().renewals
    }

    /// Challenges no more, until [`Self::resume`].
    pub fn pause(&self) {
        self.inner.lock().unwrap().paused = true;
    }

    /// Finds nothing wrong from now on, whatever is sent: a server with a fault.
    pub fn believe_everything(&self) {
        self.inner.lock().unwrap().believes_everything = true;
    }

    /// Whether an agent has yet to answer.
    pub fn is_asking(&self) -> bool {
        let inner = self.inner.lock().unwrap();
        inner.sessions.values().any(|known| known.open.is_some())
    }

    /// Challenges whoever is connected.
    pub fn resume(&self) {
        let mut inner = self.inner.lock().unwrap();
        inner.paused = false;
        let sessions: Vec<_> = inner.sessions.keys().copied().collect();
        for session in sessions {
            inner.challenge(session);
        }
    }

    /// Everything of an upload is there.
    fn judge(&self, session: SessionId, submission: &Submission, list: &[u8], in_pieces: bool) {
        let mut inner = self.inner.lock().unwrap();
        let Some((agent, challenge)) = inner
            .sessions
            .get_mut(&session)
            .and_then(|known| Some((known.agent.clone(), known.open.take()?)))
        else {
            return;
        };
        let mut codes = inner.appraise(&self.core, &agent, &challenge, submission, list);
        if inner.believes_everything {
            codes.clear();
        }
        let code = codes.first().copied();
        inner.rounds.push(Round {
            agent,
            asked_from: challenge.ima_from_entry.unwrap_or(0),
            from_entry: submission.ima.as_ref().map(|list| list.from_entry),
            boot_log: submission.boot_log.is_some(),
            in_pieces,
            codes,
        });
        let answer = Answer {
            status: match code {
                None => EffectiveStatus::Authentic,
                Some(_) => EffectiveStatus::Untrusted,
            },
            code,
            detail: code.map_or(String::new(), |code| code.to_string()),
            next_after_ms: 10,
        };
        if let Some(known) = inner.sessions.get(&session) {
            known.peer.send(ToAgent::Verdict(challenge.id, answer));
        }
        inner.challenge(session);
    }
}

impl Inner {
    fn challenge(&mut self, session: SessionId) {
        let Some(known) = self.sessions.get_mut(&session) else {
            return;
        };
        if self.paused || known.open.is_some() {
            return;
        }
        let mut random = [0; 48];
        getrandom::fill(&mut random).unwrap();
        let pcrs = PcrSet::from_bits(0x07ff).unwrap();
        let position = self.proven.get(&known.agent);
        let position = position.map(|state| state.committed.position());
        let challenge = Challenge {
            id: ChallengeId(random[..16].try_into().unwrap()),
            nonce: Nonce(random[16..].try_into().unwrap()),
            selection: PcrSelection::new([(HashAlg::Sha256, pcrs)]).unwrap(),
            ima_from_entry: Some(position.unwrap_or(0)),
            boot_log: position.is_none(),
            deadline_ms: 30_000,
        };
        known.open = Some(challenge);
        known.peer.send(ToAgent::Challenge(challenge));
    }

    fn appraise(
        &mut self,
        core: &Core,
        agent: &AgentId,
        challenge: &Challenge,
        submission: &Submission,
        list: &[u8],
    ) -> Vec<Code> {
        let enrolled = core.enrolled.lock().unwrap();
        let public = Public::parse(&enrolled[agent].ak_public).unwrap();
        let key = VerifyingKey::from_tpm(&public).unwrap();
        let name = public.name().to_bytes();
        let nonce = qualifying_data(challenge, &submission.binding, &name, agent);
        let reference = Reference {
            key: Arc::new(key),
            key_attributes: None,
            nonce: nonce.into(),
            challenged: Some(challenge.selection),
            pcr_policy: None,
            boot_pcrs: submission.boot_log.is_some().then_some(PcrSet::BOOT),
            measured_boot: None,
            judge: None,
        };
        let mut appraisal = Appraisal::of_quote(
            reference,
            Rules::default(),
            &submission.quote,
            &submission.signature,
            submission.pcr_values.clone(),
        );
        if let Some(log) = &submission.boot_log {
            appraisal.boot_log(log);
        }
        let upload = submission.ima.as_ref().unwrap();
        let options = ImaOptions {
            format: upload.format,
            ..ImaOptions::default()
        };
        let start = match self.proven.remove(agent) {
            Some(state) if upload.from_entry > 0 => Start::Continue {
                committed: state.committed,
                learned: state.learned,
                passed_under: None,
            },
            _ => Start::First,
        };
        if let Some(mut appraiser) = appraisal.ima(options, start) {
            appraiser.feed(list);
            appraisal.ima_finished(appraiser.finish());
        }
        let appraised = appraisal.conclude();
        if let (Verdict::Authentic, Some(state)) = (&appraised.verdict, appraised.ima) {
            self.proven.insert(agent.clone(), state);
        }
        appraised
            .findings
            .iter()
            .map(|finding| finding.code)
            .collect()
    }
}

impl Intake for Verifier {
    fn connected(&self, session: SessionId, hello: Hello, peer: Box<dyn Peer>) -> Result<(), Busy> {
        let mut inner = self.inner.lock().unwrap();
        peer.send(ToAgent::Welcome { next_after_ms: 0 });
        let agent = hello.agent.clone();
        inner.hellos.push(hello);
        let known = Session {
            agent,
            peer,
            open: None,
            upload: None,
        };
        inner.sessions.insert(session, known);
        inner.challenge(session);
        Ok(())
    }

    fn logs_arrive(&self, _: SessionId, _: &AgentId, _: ChallengeId, _: u64) -> Result<(), Busy> {
        Ok(())
    }

    fn evidence(
        &self,
        session: SessionId,
        _: &AgentId,
        submission: Submission,
    ) -> Result<(), Busy> {
        let whole = submission.ima.as_ref().and_then(|list| list.whole.clone());
        if let Some(whole) = whole {
            self.judge(session, &submission, &whole, false);
            return Ok(());
        }
        let mut inner = self.inner.lock().unwrap();
        if let Some(known) = inner.sessions.get_mut(&session) {
            known.peer.send(ToAgent::More(submission.challenge));
            known.upload = Some((submission, Vec::new()));
        }
        Ok(())
    }

    fn log_piece(
        &self,
        session: SessionId,
        _: &AgentId,
        challenge: ChallengeId,
        piece: Vec<u8>,
    ) -> Result<(), Busy> {
        let done = {
            let mut inner = self.inner.lock().unwrap();
            let Some(known) = inner.sessions.get_mut(&session) else {
                return Ok(());
            };
            let Some((submission, list)) = &mut known.upload else {
                return Ok(());
            };
            list.extend(piece);
            let length = submission.ima.as_ref().map_or(0, |list| list.length);
            if (list.len() as u64) < length {
                known.peer.send(ToAgent::More(challenge));
                return Ok(());
            }
            known.upload.take()
        };
        if let Some((submission, list)) = done {
            self.judge(session, &submission, &list, true);
        }
        Ok(())
    }

    fn disconnected(&self, session: SessionId, _: &AgentId) {
        self.inner.lock().unwrap().sessions.remove(&session);
    }
}
