//! What a peer can put into an archive that our own encoder never does.

use super::archive::{self, Extension};
use super::fields::status_number;
use super::*;

/// A frame with this body.
fn framed(frame: FrameType, body: &[u8]) -> Vec<u8> {
    let preamble = Preamble::of(frame, body).unwrap();
    [&preamble[..], body].concat()
}

fn refused(extensions: Vec<Extension>) -> Vec<u8> {
    let body = archive::encode(&archive::Refused {
        reason: 1,
        retry_after_ms: 2,
        extensions,
    });
    framed(FrameType::Refused, &body.unwrap())
}

fn extension(id: u16, bytes: usize) -> Extension {
    let bytes = vec![0; bytes];
    Extension { id, bytes }
}

fn fault(bytes: &[u8]) -> (&'static str, FieldFault) {
    match Frame::decode(bytes) {
        Err(WireError::Field { field, fault, .. }) => (field, fault),
        other => panic!("{other:?}"),
    }
}

#[test]
fn unknown_extensions_are_skipped_unless_they_are_critical() {
    let plain = Frame::decode(&refused(Vec::new())).unwrap();
    let extended = refused(vec![extension(1, 10), extension(2, 0)]);
    assert_eq!(Frame::decode(&extended), Ok(plain));
    let id = EXTENSION_CRITICAL | 1;
    let critical = Frame::decode(&refused(vec![extension(2, 0), extension(id, 0)]));
    let frame = FrameType::Refused;
    assert_eq!(critical, Err(WireError::CriticalExtension { frame, id }));
}

#[test]
fn extensions_have_limits_and_occur_once() {
    use crate::limits::{EXTENSION_BYTES_MAX, EXTENSIONS_MAX};
    let many = |count: usize| {
        let ids = 0..u16::try_from(count).unwrap();
        refused(ids.map(|id| extension(id, 1)).collect())
    };
    assert!(Frame::decode(&many(EXTENSIONS_MAX)).is_ok());
    assert!(matches!(
        fault(&many(EXTENSIONS_MAX + 1)),
        (
            "extensions",
            FieldFault::OverLimit {
                limit: "EXTENSIONS_MAX",
                ..
            }
        )
    ));
    let longest = refused(vec![extension(1, EXTENSION_BYTES_MAX)]);
    assert!(Frame::decode(&longest).is_ok());
    assert!(matches!(
        fault(&refused(vec![extension(1, EXTENSION_BYTES_MAX + 1)])),
        (
            "extensions",
            FieldFault::OverLimit {
                limit: "EXTENSION_BYTES_MAX",
                ..
            }
        )
    ));
    assert_eq!(
        fault(&refused(vec![extension(7, 0), extension(7, 0)])),
        ("extensions", FieldFault::Duplicate { value: 7 })
    );
}

#[test]
fn critical_extensions_are_looked_for_in_every_frame() {
    let critical = || vec![extension(EXTENSION_CRITICAL, 0)];
    let bodies = [
        (
            FrameType::Hello,
            archive::encode(&archive::Hello {
                agent: "a".to_owned(),
                log_formats: Vec::new(),
                banks: Vec::new(),
                reset_count: 0,
                restart_count: 0,
                entry_count: 0,
                instance: [0; 16],
                extensions: critical(),
            }),
        ),
        (
            FrameType::Welcome,
            archive::encode(&archive::Welcome {
                next_after_ms: 0,
                ca_set: vec![vec![1]],
                boot_log_bytes_max: 0,
                list_bytes_max: 0,
                upload_bytes_per_second_min: 0,
                extensions: critical(),
            }),
        ),
        (
            FrameType::Challenge,
            archive::encode(&archive::Challenge {
                id: [0; 16],
                nonce: [0; 32],
                selection: vec![archive::Selection { bank: 11, pcrs: 1 }],
                ima_from_entry: None,
                boot_log: false,
                deadline_ms: 0,
                extensions: critical(),
            }),
        ),
        (
            FrameType::Evidence,
            archive::encode(&evidence(Vec::new(), critical())),
        ),
        (
            FrameType::Verdict,
            archive::encode(&verdict(Some("ima.new_code"), critical())),
        ),
        (
            FrameType::Renew,
            archive::encode(&archive::Renew {
                csr: vec![1],
                extensions: critical(),
            }),
        ),
        (
            FrameType::Renewed,
            archive::encode(&archive::Renewed {
                chain: vec![vec![1]],
                extensions: critical(),
            }),
        ),
    ];
    for (frame, body) in bodies {
        let id = EXTENSION_CRITICAL;
        let expected = Err(WireError::CriticalExtension { frame, id });
        assert_eq!(Frame::decode(&framed(frame, &body.unwrap())), expected);
    }
}

fn verdict(code: Option<&str>, extensions: Vec<Extension>) -> archive::Verdict {
    archive::Verdict {
        id: [0; 16],
        status: status_number(rat_engine::shard::EffectiveStatus::Untrusted),
        code: code.map(str::to_owned),
        detail: "why".to_owned(),
        next_after_ms: 0,
        extensions,
    }
}

fn evidence(pcr_values: Vec<archive::PcrValue>, extensions: Vec<Extension>) -> archive::Evidence {
    archive::Evidence {
        id: [0; 16],
        binding: None,
        quote: vec![1],
        signature: vec![1],
        pcr_values,
        reset_count: 0,
        restart_count: 0,
        ima: None,
        boot_log_length: None,
        extensions,
    }
}

#[test]
fn a_code_that_this_version_does_not_know_is_told_in_the_detail() {
    let body = archive::encode(&verdict(Some("ima.new_code"), Vec::new())).unwrap();
    let Ok(Frame::Verdict(_, answer)) = Frame::decode(&framed(FrameType::Verdict, &body)) else {
        panic!("not a verdict")
    };
    assert_eq!(
        (answer.code, answer.detail.as_str()),
        (None, "ima.new_code: why")
    );
    let long = "x".repeat(crate::limits::CODE_BYTES_MAX + 1);
    let body = archive::encode(&verdict(Some(&long), Vec::new())).unwrap();
    assert_eq!(fault(&framed(FrameType::Verdict, &body)).0, "code");
}

#[test]
fn pcr_values_are_of_known_banks_and_pcrs_whole_and_once() {
    let value = |bank: u16, pcr: u8, bytes: usize| archive::PcrValue {
        bank,
        pcr,
        value: vec![0; bytes],
    };
    let fault_of = |values: Vec<archive::PcrValue>| {
        let body = archive::encode(&evidence(values, Vec::new())).unwrap();
        fault(&framed(FrameType::Evidence, &body)).1
    };
    let unknown = |value: u64| FieldFault::Unknown { value };
    assert_eq!(fault_of(vec![value(0x12, 0, 32)]), unknown(0x12));
    assert_eq!(fault_of(vec![value(11, 24, 32)]), unknown(24));
    let found = 31;
    assert_eq!(
        fault_of(vec![value(11, 0, 31)]),
        FieldFault::DigestSize { found }
    );
    let twice = vec![value(11, 5, 32), value(11, 5, 32)];
    assert_eq!(fault_of(twice), FieldFault::Duplicate { value: 5 });
    let many = (0..97).map(|_| value(11, 0, 32)).collect();
    assert!(matches!(
        fault_of(many),
        FieldFault::OverLimit { found: 97, .. }
    ));
}

#[test]
fn a_challenge_selects_something() {
    let challenge = |selection: Vec<archive::Selection>| {
        let body = archive::encode(&archive::Challenge {
            id: [0; 16],
            nonce: [0; 32],
            selection,
            ima_from_entry: None,
            boot_log: false,
            deadline_ms: 0,
            extensions: Vec::new(),
        });
        fault(&framed(FrameType::Challenge, &body.unwrap()))
    };
    let bank = |bank: u16, pcrs: u32| archive::Selection { bank, pcrs };
    assert_eq!(challenge(Vec::new()).1, FieldFault::Empty);
    assert_eq!(challenge(vec![bank(11, 0)]).1, FieldFault::Empty);
    let value = 1 << 24;
    assert_eq!(
        challenge(vec![bank(11, 1 << 24)]).1,
        FieldFault::Unknown { value }
    );
    let twice = vec![bank(11, 1), bank(11, 2)];
    assert_eq!(challenge(twice).1, FieldFault::Duplicate { value: 11 });
}
