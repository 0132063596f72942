//! Targets of measured boot policies.

use std::sync::OnceLock;

use rat_engine::hash::HashAlg;
use rat_engine::limits::MB_POLICY_FINDINGS_MAX;
use rat_engine::uefi::policy::{MeasuredBootPolicy, PolicyName, reference_state};
use rat_engine::uefi::{BootProof, EventLog, compare};

use crate::vectors;

/// A log that passes by the reference state that Keylime's tool made of it.
const PASSING: &str = "keylime_mb_log_b64.bin";

fn passing_log() -> &'static [u8] {
    static LOG: OnceLock<Vec<u8>> = OnceLock::new();
    LOG.get_or_init(|| vectors::read(&format!("eventlogs/{PASSING}")))
}

fn passing_policy() -> &'static MeasuredBootPolicy {
    static POLICY: OnceLock<MeasuredBootPolicy> = OnceLock::new();
    POLICY.get_or_init(|| {
        let text = vectors::read(&format!("measured_boot/refstates/{PASSING}.json"));
        let policy = MeasuredBootPolicy::parse(PolicyName::Example, &text);
        policy.unwrap().unwrap()
    })
}

/// What a log's own values prove of it, in every bank.
fn own_proofs<'l>(log: &EventLog<'l>, policy: &MeasuredBootPolicy) -> Vec<BootProof<'l>> {
    let banks = log.banks();
    banks
        .filter_map(|bank| {
            let replay = log.replay(bank).ok()?;
            compare(&replay, replay.values(), policy.relevant_pcrs()).ok()
        })
        .collect()
}

fn is_allowed(policy: &MeasuredBootPolicy, log: &EventLog<'_>, proofs: &[BootProof<'_>]) -> bool {
    match policy.judge(log, proofs) {
        Ok(proof) => {
            assert_eq!(proof.policy(), policy.identity());
            true
        }
        Err(breaches) => {
            assert!((1..=MB_POLICY_FINDINGS_MAX).contains(&breaches.len()));
            for breach in breaches {
                let text = breach.to_string();
                assert!(!text.chars().any(char::is_control), "{text:?}");
            }
            false
        }
    }
}

/// A reference state: read for each policy, looked through, and held against a genuine log.
pub fn boot_policy(data: &[u8]) {
    let log = EventLog::parse(passing_log()).unwrap();
    for name in PolicyName::ALL {
        let Ok(Some(policy)) = MeasuredBootPolicy::parse(name, data) else {
            continue;
        };
        assert_eq!(policy.name(), name);
        let proofs = own_proofs(&log, &policy);
        let allowed = is_allowed(&policy, &log, &proofs);
        match name {
            PolicyName::AcceptAll => assert!(allowed),
            PolicyName::RejectAll => assert!(!allowed),
            PolicyName::Example => {
                for finding in policy.lint() {
                    assert!(!finding.to_string().is_empty());
                }
                assert!(!is_allowed(&policy, &log, &[]), "nothing is proven");
            }
        }
    }
}

/// An event log: held against a genuine reference state, and made into one. Only a log with the
/// digests of the genuine boot chain may pass by the genuine one.
pub fn boot_content(data: &[u8]) {
    let Ok(log) = EventLog::parse(data) else {
        return;
    };
    let policy = passing_policy();
    let proofs = own_proofs(&log, policy);
    if is_allowed(policy, &log, &proofs) {
        let genuine = EventLog::parse(passing_log()).unwrap();
        for pcr in [0_u8, 4, 14] {
            assert_eq!(digests(&log, pcr), digests(&genuine, pcr));
        }
    }
    for without_secureboot in [false, true] {
        let Ok(created) = reference_state(&log, without_secureboot) else {
            continue;
        };
        let own = MeasuredBootPolicy::parse(PolicyName::Example, created.text.as_bytes());
        if let Ok(Some(own)) = own {
            let replay = log.replay(HashAlg::Sha256).unwrap();
            let proof = compare(&replay, replay.values(), own.relevant_pcrs());
            let allowed = is_allowed(&own, &log, &proof.into_iter().collect::<Vec<_>>());
            assert_eq!(allowed, created.breaches.is_empty());
        }
    }
}

/// The digests of a PCR as they were extended.
fn digests(log: &EventLog<'_>, pcr: u8) -> Vec<String> {
    let events = log.events().iter();
    let of_pcr =
        events.filter(|event| event.is_extended() && event.pcr().is_some_and(|it| it.get() == pcr));
    of_pcr
        .filter_map(|event| event.digest(HashAlg::Sha256))
        .map(|digest| digest.to_hex())
        .collect()
}
