//! The machines of a fleet: their keys, what they measured, and their enrolment.

use std::sync::{Arc, Mutex};

use anyhow::{Context, Result, bail};
use rat_agent::device::KeyKind;
use rat_agent::enrol::{EnrolOptions, enrol};
use rat_agent::machine::Machine;
use rat_agent::state::Enrolled;
use rat_agent::token::Token;
use rat_engine::agent_id::AgentId;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::FleetOptions;
use crate::keys::{EkCa, SoftwareKey};
use crate::measured::Entry;
use crate::progress;
use crate::software_tpm::{Boot, Keys, SharedBoot, SoftwareLogs, SoftwareTpm};

/// One machine.
pub(super) struct Member {
    /// Its number in the fleet.
    pub(super) nth: usize,
    pub(super) machine: Machine,
    pub(super) boot: SharedBoot,
    pub(super) agent: AgentId,
}

/// The nth of the files that machines of a fleet run.
pub(super) fn tool(nth: usize) -> Entry {
    let name = format!("/usr/bin/tool-{nth}");
    Entry::file(&name, name.as_bytes())
}

/// The boot of a machine that measured so many entries.
pub(super) fn booted(entries: usize) -> Boot {
    let mut first = Boot::first();
    // One entry is boot_aggregate.
    for entry in 1..entries {
        first.measure(&tool(entry));
    }
    first
}

/// Makes the machines, with keys on all cores; in the order of their numbers.
pub(super) async fn make(options: &FleetOptions) -> Result<Vec<Member>> {
    let ca = Arc::new(EkCa::open(options.ek_ca.as_deref().context("--ek-ca")?)?);
    let mut pool = Vec::new();
    for _ in 0..options.ak_pool.unwrap_or(0) {
        pool.push(SoftwareKey::generate(options.key)?);
    }
    if options.ak_pool == Some(0) {
        bail!("--ak-pool needs at least one key");
    }
    let pool = Arc::new(pool);
    let bar = progress::bar("keys", options.agents);
    let mut making = JoinSet::new();
    for nth in 0..options.agents {
        let (ca, pool, options) = (Arc::clone(&ca), Arc::clone(&pool), options.clone());
        making.spawn_blocking(move || member(nth, &options, &pool, &ca));
    }
    let mut members = Vec::new();
    while let Some(made) = making.join_next().await {
        members.push(made??);
        bar.inc(1);
    }
    bar.finish_and_clear();
    members.sort_by_key(|member| member.nth);
    Ok(members)
}

fn member(nth: usize, options: &FleetOptions, pool: &[SoftwareKey], ca: &EkCa) -> Result<Member> {
    let shared = nth.checked_rem(pool.len()).and_then(|at| pool.get(at));
    let (endorsement, attestation) = match shared {
        Some(key) => (SoftwareKey::generate(KeyKind::Ecc)?, key.clone()),
        None => (
            SoftwareKey::generate(options.key)?,
            SoftwareKey::generate(options.key)?,
        ),
    };
    let keys = Arc::new(Keys::new(endorsement, attestation, ca)?);
    let boot = Arc::new(Mutex::new(booted(options.entries)));
    let agent = format!("{}-{nth}", options.prefix);
    Ok(Member {
        nth,
        machine: Machine::new(
            SoftwareTpm::new(keys, Arc::clone(&boot)),
            SoftwareLogs::new(Arc::clone(&boot)),
        ),
        boot,
        agent: AgentId::parse(&agent).with_context(|| agent.clone())?,
    })
}

/// Enrols them: the first one alone where its list is to be the policy, then all others. They are
/// in the order of their numbers again.
pub(super) async fn enrol_all(
    options: &FleetOptions,
    members: Vec<Member>,
) -> Result<Vec<(Member, Enrolled)>> {
    let bar = progress::bar("enrolled", members.len());
    let mut enrolled = Vec::with_capacity(members.len());
    let mut members = members.into_iter();
    if let Some(token) = &options.baseline_token
        && let Some(first) = members.next()
    {
        enrolled.push(enrol_one(options, token, first).await?);
        bar.inc(1);
    }
    let places = Arc::new(Semaphore::new(options.enrolments.max(1)));
    let mut enrolling = JoinSet::new();
    for member in members {
        let (options, places) = (options.clone(), Arc::clone(&places));
        enrolling.spawn(async move {
            let _place = places.acquire_owned().await?;
            let token = options.token.as_ref().context("--token")?;
            enrol_one(&options, token, member).await
        });
    }
    while let Some(done) = enrolling.join_next().await {
        enrolled.push(done??);
        bar.inc(1);
    }
    bar.finish_and_clear();
    enrolled.sort_by_key(|(member, _)| member.nth);
    Ok(enrolled)
}

async fn enrol_one(
    options: &FleetOptions,
    token: &Token,
    member: Member,
) -> Result<(Member, Enrolled)> {
    let wanted = EnrolOptions {
        token: token.clone(),
        server: options.server.clone(),
        agent: Some(member.agent.clone()),
        hostname: member.agent.to_string(),
        kind: options.key,
    };
    let enrolled = enrol(&member.machine, &wanted, None)
        .await
        .with_context(|| format!("enrolling {}", member.agent))?;
    Ok((member, enrolled))
}
