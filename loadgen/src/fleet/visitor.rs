//! One visit to the server: connect, say Hello, be challenged, answer.

use std::time::Duration;

use rat_agent::device::DeviceError;
use rat_agent::machine::{Machine, Parts};
use rat_agent::run::{Answering, BootEpoch, Evidence, RunError, client, connect, evidence};
use rat_agent::state::Enrolled;
use rat_engine::agent_id::AgentId;
use rat_engine::evidence::{Binding, Instance};
use rat_engine::hash::HashAlg;
use rat_engine::ima::LogFormat;
use rat_engine::tpm::Public;
use rat_transport::quic::client::{Client, ClientError, Connection, Hello, Incoming, Sockets};
use tokio::time::timeout;

use super::members::Member;
use crate::software_tpm::SharedBoot;

/// How long after it is due a challenge may come, with its spreading.
const CHALLENGE_WAIT: Duration = Duration::from_secs(60);

/// An agent that visits when it is told to.
pub(super) struct Visitor {
    pub(super) enrolled: Enrolled,
    pub(super) boot: SharedBoot,
    machine: Machine,
    client: Client,
    instance: Instance,
}

/// A visit of an agent that is welcome.
pub(super) struct Visit {
    pub(super) connection: Connection,
    /// When the challenge is due, as the server said.
    pub(super) next_after: Duration,
    pub(super) answering: Answering,
}

/// What an agent says of itself, and how it answers.
pub(super) struct Introduction {
    pub(super) hello: Hello,
    pub(super) answering: Answering,
}

/// What the machine is.
struct Facts {
    banks: Vec<HashAlg>,
    epoch: BootEpoch,
    entries: u64,
    format: LogFormat,
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

impl Introduction {
    /// Of this agent, whose machine has these parts.
    pub(super) fn read(
        parts: &mut Parts,
        agent: AgentId,
        instance: Instance,
    ) -> Result<Self, RunError> {
        let facts = facts(parts)?;
        Ok(Self {
            hello: Hello {
                agent: agent.clone(),
                log_formats: vec![facts.format],
                banks: facts.banks,
                reset_count: facts.epoch.reset_count,
                restart_count: facts.epoch.restart_count,
                entry_count: facts.entries,
                instance,
            },
            answering: Answering {
                agent,
                ak_name: facts.ak_name,
                told: facts.epoch,
            },
        })
    }
}

/// One life of an agent's program.
pub(super) fn instance() -> Result<Instance, RunError> {
    let mut instance = [0; 16];
    getrandom::fill(&mut instance)?;
    Ok(Instance(instance))
}

impl Visitor {
    /// An agent that shares these sockets. Its certificate is used as it is, and not renewed: runs
    /// are far shorter than its life.
    pub(super) fn new(
        member: Member,
        enrolled: Enrolled,
        sockets: Sockets,
    ) -> Result<Self, RunError> {
        Self::with(client(&enrolled, sockets)?, member, enrolled)
    }

    /// An agent that connects by this client.
    pub(super) fn with(
        client: Client,
        member: Member,
        enrolled: Enrolled,
    ) -> Result<Self, RunError> {
        Ok(Self {
            client,
            enrolled,
            boot: member.boot,
            machine: member.machine,
            instance: instance()?,
        })
    }

    /// Reads from the machine what a Hello says.
    pub(super) async fn introduction(&self) -> Result<Introduction, RunError> {
        let (agent, instance) = (self.enrolled.agent.clone(), self.instance);
        let read = move |parts: &mut Parts| Introduction::read(parts, agent, instance);
        self.machine.with(read).await?
    }

    /// Connects, and is welcome.
    pub(super) async fn connect(&self) -> Result<Visit, RunError> {
        let Introduction { hello, answering } = self.introduction().await?;
        let (connection, _) = connect(&self.client, &self.enrolled).await?;
        let welcome = connection.hello(hello).await?;
        Ok(Visit {
            connection,
            next_after: Duration::from_millis(welcome.next_after_ms.into()),
            answering,
        })
    }

    /// Quotes, and reads the logs.
    pub(super) async fn evidence(
        &self,
        challenge: rat_engine::evidence::Challenge,
        binding: [u8; 32],
        answering: &Answering,
    ) -> Result<Evidence, RunError> {
        let who = answering.clone();
        let binding = Binding::Channel(binding);
        let work = move |parts: &mut Parts| evidence(parts, &challenge, &binding, &who);
        Ok(self.machine.with(work).await??)
    }
}

impl Visit {
    /// Waits until the server challenges.
    pub(super) async fn challenged(&self) -> Result<Incoming, RunError> {
        let wait = self.next_after.saturating_add(CHALLENGE_WAIT);
        let incoming = timeout(wait, self.connection.next_challenge()).await;
        Ok(incoming.map_err(|_| ClientError::Timeout)??)
    }
}
