//! Limits of measured boot policies.

use rat_engine::hash::HashAlg;
use rat_engine::limits::{
    MB_POLICY_BYTES_MAX, MB_POLICY_ENTRIES_MAX, MB_POLICY_FINDINGS_MAX, MB_POLICY_KERNELS_MAX,
    MB_POLICY_SHOWN_MAX,
};
use rat_engine::pcr::PcrSet;
use rat_engine::policy::{Fault, PolicyError};
use rat_engine::uefi::policy::{Breach, MeasuredBootPolicy, PolicyName};
use rat_engine::uefi::{EventLog, compare};
use rat_tests::vectors;
use serde_json::{Value, json};

const PASSING: &str = "keylime_mb_log_b64.bin";

fn state() -> Value {
    vectors::json(&format!("measured_boot/refstates/{PASSING}.json"))
}

fn parse(text: &str) -> Result<Option<MeasuredBootPolicy>, PolicyError> {
    MeasuredBootPolicy::parse(PolicyName::Example, text.as_bytes())
}

fn is_limit(text: &str, name: &str) -> bool {
    matches!(
        parse(text),
        Err(PolicyError::Content { fault: Fault::Limit { limit, .. }, .. }) if limit == name
    )
}

pub(crate) fn bytes() {
    let text = state().to_string();
    let padded = |length: usize| format!("{text}{}", " ".repeat(length - text.len()));
    assert!(parse(&padded(MB_POLICY_BYTES_MAX)).is_ok());
    assert!(matches!(
        parse(&padded(MB_POLICY_BYTES_MAX + 1)),
        Err(PolicyError::TooLarge { .. })
    ));
}

pub(crate) fn entries() {
    let with = |count: usize| {
        let mut state = state();
        state["mokxdig"] = vec![json!({"sha1": format!("0x{}", "11".repeat(20))}); count].into();
        state.to_string()
    };
    assert!(parse(&with(MB_POLICY_ENTRIES_MAX)).is_ok());
    assert!(is_limit(
        &with(MB_POLICY_ENTRIES_MAX + 1),
        "MB_POLICY_ENTRIES_MAX"
    ));
}

pub(crate) fn kernels() {
    let with = |count: usize| {
        let mut state = state();
        let mut kernel = state["kernels"][0].clone();
        kernel["kernel_cmdline"] = "x".into();
        state["kernels"] = vec![kernel; count].into();
        state.to_string()
    };
    assert!(parse(&with(MB_POLICY_KERNELS_MAX)).is_ok());
    assert!(is_limit(
        &with(MB_POLICY_KERNELS_MAX + 1),
        "MB_POLICY_KERNELS_MAX"
    ));
}

/// What is found in the passing log with so many events that no policy knows at its end.
fn unknown(count: usize) -> Vec<Breach> {
    const PCR: u32 = 6;
    const POST_CODE: u32 = 1;
    let mut bytes = vectors::read(&format!("eventlogs/{PASSING}"));
    for _ in 0..count {
        let words = [PCR, POST_CODE, 1].map(u32::to_le_bytes);
        bytes.extend(words.concat());
        bytes.extend(HashAlg::Sha256.tpm_id().to_le_bytes());
        bytes.extend([9; 32]);
        bytes.extend([1, 0, 0, 0, b'x']);
    }
    let policy = parse(&state().to_string()).unwrap().unwrap();
    let log = EventLog::parse(&bytes).unwrap();
    let replay = log.replay(HashAlg::Sha256).unwrap();
    let pcrs = PcrSet::from_bits(0x43ff).unwrap();
    let proof = compare(&replay, replay.values(), pcrs).unwrap();
    policy.judge(&log, &[proof]).err().unwrap_or_default()
}

pub(crate) fn findings() {
    for count in [0, MB_POLICY_FINDINGS_MAX - 1, MB_POLICY_FINDINGS_MAX] {
        assert_eq!(unknown(count).len(), count);
    }
    let more = unknown(MB_POLICY_FINDINGS_MAX + 1);
    assert_eq!(more.len(), MB_POLICY_FINDINGS_MAX);
}

pub(crate) fn shown() {
    let bytes = vectors::read(&format!("eventlogs/{PASSING}"));
    let with = |length: usize| {
        let log = EventLog::parse(&bytes).unwrap();
        let event = log
            .events()
            .iter()
            .find(|event| event.unverified_data().starts_with(b"kernel_cmdline: "));
        let event = event.unwrap();
        let data = event.unverified_data();
        let label = b"kernel_cmdline: ";
        let at = bytes
            .windows(data.len())
            .position(|window| window == data)
            .unwrap();
        // Another label of the same text: the whole label is shown.
        let text = format!("grub_evil: {}", "y".repeat(length - "grub_evil: ".len()));
        let size = u32::try_from(text.len()).unwrap().to_le_bytes();
        let mut changed = bytes[..at - 4].to_vec();
        changed.extend(size);
        changed.extend(text.as_bytes());
        changed.extend(&bytes[at + data.len()..]);
        assert!(data.len() > label.len());
        let log = EventLog::parse(&changed).unwrap();
        let replay = log.replay(HashAlg::Sha256).unwrap();
        let pcrs = PcrSet::from_bits(0x43ff).unwrap();
        let proof = compare(&replay, replay.values(), pcrs).unwrap();
        let policy = parse(&state().to_string()).unwrap().unwrap();
        let breaches = policy.judge(&log, &[proof]).unwrap_err();
        let breach = breaches.iter().find(|it| it.found.starts_with("grub_evil"));
        breach.unwrap().found.clone()
    };
    assert!(with(MB_POLICY_SHOWN_MAX).ends_with('y'));
    assert!(with(MB_POLICY_SHOWN_MAX + 1).ends_with('…'));
}
