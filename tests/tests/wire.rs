//! Frames of the evidence protocol: their bytes, which other versions read too, and what is no
//! frame.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::as_conversions,
    clippy::arithmetic_side_effects,
    reason = "a panic is how a test fails"
)]

use proptest::prelude::*;
use rat_engine::agent_id::AgentId;
use rat_engine::evidence::{Answer, Challenge, ChallengeId, Instance, Nonce, Refusal};
use rat_engine::hash::{Digest, HashAlg};
use rat_engine::ima::LogFormat;
use rat_engine::pcr::{PcrIndex, PcrSet, PcrValues};
use rat_engine::shard::EffectiveStatus;
use rat_engine::tpm::PcrSelection;
use rat_engine::verdict::Code;
use rat_tests::workspace_root;
use rat_transport::limits;
use rat_transport::quic::wire::{
    AgentHello, Evidence, FieldFault, Frame, FrameType, Hello, ListHead, PREAMBLE_BYTES,
    RELAY_TYPES, Refused, RelayWelcome, UploadLimits, Versions, Welcome, WireError,
};
use rat_transport::quic::{Reason, RenewRefused};

fn hello() -> Frame {
    Frame::Hello(Hello {
        agent: AgentId::parse("web-1.example").unwrap(),
        log_formats: vec![LogFormat::Binary, LogFormat::Ascii],
        banks: vec![HashAlg::Sha1, HashAlg::Sha256],
        reset_count: 0x0102_0304,
        restart_count: 5,
        entry_count: 0x0607_0809_0a0b_0c0d,
        instance: Instance(std::array::from_fn(|at| 0x40 + at as u8)),
    })
}

fn agent_hello() -> Frame {
    let Frame::Hello(hello) = hello() else {
        panic!("another frame")
    };
    Frame::AgentHello(AgentHello {
        client_key_sha256: std::array::from_fn(|at| 0x60 + at as u8),
        hello,
    })
}

fn challenge(ima_from_entry: Option<u64>) -> Frame {
    let pcrs = PcrSet::from_bits(0x07ff).unwrap();
    Frame::Challenge(Challenge {
        id: ChallengeId(std::array::from_fn(|at| at as u8)),
        nonce: Nonce(std::array::from_fn(|at| 0x80 + at as u8)),
        selection: PcrSelection::new([(HashAlg::Sha256, pcrs), (HashAlg::Sha1, pcrs)]).unwrap(),
        ima_from_entry,
        boot_log: ima_from_entry.is_none(),
        deadline_ms: 5000,
    })
}

fn evidence() -> Evidence {
    let mut pcr_values = PcrValues::new();
    for (bank, pcr, byte) in [(HashAlg::Sha256, 10, 0xaa), (HashAlg::Sha1, 0, 0xbb)] {
        let value = Digest::new(bank, &vec![byte; bank.size()]).unwrap();
        pcr_values.insert(PcrIndex::new(pcr).unwrap(), value);
    }
    Evidence {
        challenge: ChallengeId([7; 16]),
        claimed_binding: Some([8; 32]),
        quote: b"quote".to_vec(),
        signature: b"signature".to_vec(),
        pcr_values,
        reset_count: 1,
        restart_count: 2,
        ima: Some(ListHead {
            from_entry: 3,
            count: 4,
            format: LogFormat::Ascii,
            length: 5,
        }),
        boot_log_bytes: Some(6),
    }
}

fn verdict(code: Option<Code>, detail: &str) -> Frame {
    let answer = Answer {
        status: EffectiveStatus::Untrusted,
        code,
        detail: detail.to_owned(),
        next_after_ms: 9876,
    };
    Frame::Verdict(ChallengeId([9; 16]), answer)
}

/// A frame of every type, and of every shape that a type has.
fn samples() -> Vec<(&'static str, Frame)> {
    let bare = Evidence {
        claimed_binding: None,
        pcr_values: PcrValues::new(),
        ima: None,
        boot_log_bytes: None,
        ..evidence()
    };
    vec![
        ("versions", Frame::Versions(Versions::SPOKEN)),
        ("hello", hello()),
        (
            "welcome",
            Frame::Welcome(Welcome {
                next_after_ms: 1234,
                ca_set: vec![b"current".to_vec(), b"next".to_vec()],
                limits: UploadLimits {
                    boot_log_bytes_max: 1,
                    list_bytes_max: 2,
                    upload_bytes_per_second_min: 3,
                },
            }),
        ),
        (
            "refused",
            Frame::Refused(Refused {
                reason: Refusal::Busy.into(),
                retry_after_ms: 4321,
            }),
        ),
        (
            "refused_renewal",
            Frame::Refused(Refused {
                reason: Reason::Renew(RenewRefused::KeyNotEnrolled),
                retry_after_ms: 0,
            }),
        ),
        ("challenge_list", challenge(Some(0x1122_3344_5566))),
        ("challenge_boot", challenge(None)),
        ("evidence", Frame::Evidence(evidence())),
        ("evidence_bare", Frame::Evidence(bare)),
        (
            "verdict",
            verdict(Some(Code::ImaPathNotListed), "/usr/bin/evil"),
        ),
        ("verdict_trusted", verdict(None, "")),
        ("renew", Frame::Renew(b"request".to_vec())),
        (
            "renewed",
            Frame::Renewed(vec![b"leaf".to_vec(), b"issuer".to_vec()]),
        ),
    ]
}

/// The same, of what relays and servers say to each other.
fn relay_samples() -> Vec<(&'static str, Frame)> {
    vec![
        ("relay_hello", Frame::RelayHello),
        (
            "relay_welcome",
            Frame::RelayWelcome(RelayWelcome {
                ca_set: vec![b"current".to_vec()],
                limits: UploadLimits {
                    boot_log_bytes_max: 1,
                    list_bytes_max: 2,
                    upload_bytes_per_second_min: 3,
                },
                agents_max: 4,
                hellos_per_second_max: 5,
            }),
        ),
        ("agent_hello", agent_hello()),
        (
            "agent_welcome",
            Frame::AgentWelcome {
                next_after_ms: 1234,
            },
        ),
        (
            "arriving",
            Frame::Arriving(ChallengeId([7; 16]), 0x1122_3344),
        ),
        ("more", Frame::More(ChallengeId([7; 16]))),
        ("piece", Frame::Piece(ChallengeId([7; 16]), 0x1122)),
        ("left", Frame::Left),
    ]
}

#[test]
fn golden_bytes_of_every_frame_never_change_within_a_version() {
    let mut changed = Vec::new();
    let mut seen = std::collections::BTreeSet::new();
    for (name, frame) in samples().into_iter().chain(relay_samples()) {
        seen.insert(frame.frame_type().number());
        let path = workspace_root().join(format!("tests/tests/wire/{name}.hex"));
        let golden = std::fs::read_to_string(path).unwrap_or_default();
        let golden: String = golden.split_whitespace().collect();
        let encoded = frame.encode().unwrap();
        if golden != hex::encode(&encoded) {
            changed.push(format!("{name} {}", hex::encode(&encoded)));
            continue;
        }
        assert_eq!(Frame::decode(&encoded), Ok(frame), "{name}");
    }
    assert!(
        changed.is_empty(),
        "agents in the field cannot read these any more:\n{}",
        changed.join("\n")
    );
    let all: std::collections::BTreeSet<_> = FrameType::ALL.iter().map(|t| t.number()).collect();
    assert_eq!(seen, all, "a frame type without golden bytes");
}

/// The preamble with another value in one of its fields.
fn with(frame: &Frame, at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut encoded = frame.encode().unwrap();
    encoded[at..at + bytes.len()].copy_from_slice(bytes);
    encoded
}

#[test]
fn x03_preambles_that_are_wrong_say_where() {
    let hello = hello();
    let refused = |bytes: Vec<u8>| Frame::decode(&bytes).unwrap_err();
    assert_eq!(
        refused(with(&hello, 0, b"HTTP")),
        WireError::Magic { found: *b"HTTP" }
    );
    let peer = Versions { min: 2, max: 3 };
    let newer = refused(with(&hello, 4, &[2, 3]));
    assert_eq!(newer, WireError::Version { peer });
    assert_eq!(newer.reason(), Reason::Version);
    // Version 1 and its successor are spoken by a newer agent: it is read.
    assert_eq!(Frame::decode(&with(&hello, 4, &[1, 2])), Ok(hello.clone()));
    assert_eq!(
        refused(with(&hello, 6, &[0x34, 0x12])),
        WireError::FrameType { number: 0x1234 }
    );
    for number in RELAY_TYPES {
        let relay = refused(with(&hello, 6, &number.to_le_bytes()));
        assert_eq!(relay, WireError::RelayReserved { number });
        assert_eq!(relay.reason(), Reason::RelayReserved);
    }
    let length = limits::FRAME_BYTES_MAX as u32 + 1;
    let long = refused(with(&hello, 8, &length.to_le_bytes()));
    assert_eq!(long, WireError::TooLong { length });
    assert_eq!(long.limit(), Some("FRAME_BYTES_MAX"));
    assert_eq!(
        refused([hello.encode().unwrap(), vec![0]].concat()),
        WireError::Trailing {
            after: FrameType::Hello
        }
    );
    for end in 0..hello.encode().unwrap().len() {
        let cut = hello.encode().unwrap()[..end].to_vec();
        assert!(
            matches!(refused(cut), WireError::Truncated { found, .. } if found <= end),
            "{end}"
        );
    }
}

#[test]
fn x03_bodies_hold_nothing_but_their_values() {
    for (name, frame) in samples().into_iter().chain(relay_samples()) {
        let encoded = frame.encode().unwrap();
        let body_bytes = encoded.len() - PREAMBLE_BYTES;
        // Bytes that nothing points to, before and after the values.
        for at in [PREAMBLE_BYTES, encoded.len()] {
            let mut longer = encoded.clone();
            longer.splice(at..at, [0; 8]);
            longer[8..12].copy_from_slice(&(body_bytes as u32 + 8).to_le_bytes());
            assert!(Frame::decode(&longer).is_err(), "{name} at {at}");
        }
        // Any single bit: another frame, or an error; never the same one.
        for bit in 0..body_bytes * 8 {
            let mut flipped = encoded.clone();
            flipped[PREAMBLE_BYTES + bit / 8] ^= 1 << (bit % 8);
            if let Ok(other) = Frame::decode(&flipped) {
                assert_ne!(other, frame, "{name} bit {bit}");
                // A code that we do not know is passed on as part of the detail.
                if frame.frame_type() != FrameType::Verdict {
                    assert_eq!(other.encode().unwrap(), flipped, "{name} bit {bit}");
                }
            }
        }
    }
}

fn over(frame: Frame) -> (FrameType, &'static str) {
    let expected = frame.frame_type();
    match frame.encode() {
        Err(rat_transport::quic::wire::EncodeError::Field(WireError::Field {
            frame,
            field,
            ..
        })) => {
            assert_eq!(frame, expected);
            (frame, field)
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn limits_hold_at_n_and_not_at_one_more() {
    let certificates = |count: usize, bytes: usize| Frame::Renewed(vec![vec![0; bytes]; count]);
    let (count, bytes) = (limits::CERTIFICATES_MAX, limits::CERTIFICATE_BYTES_MAX);
    let most = certificates(count, bytes);
    assert_eq!(Frame::decode(&most.encode().unwrap()), Ok(most));
    assert_eq!(over(certificates(count + 1, 1)).1, "chain");
    assert_eq!(over(certificates(1, bytes + 1)).1, "chain");
    assert_eq!(over(certificates(0, 0)).1, "chain");
    let most = Frame::Renew(vec![0; limits::CSR_BYTES_MAX]);
    assert_eq!(Frame::decode(&most.encode().unwrap()), Ok(most));
    assert_eq!(
        over(Frame::Renew(vec![0; limits::CSR_BYTES_MAX + 1])).1,
        "csr"
    );
    let quoting = |quote: usize, signature: usize| {
        Frame::Evidence(Evidence {
            quote: vec![1; quote],
            signature: vec![2; signature],
            ..evidence()
        })
    };
    let (quote, signature) = (
        rat_engine::limits::ATTEST_BYTES_MAX,
        rat_engine::limits::SIGNATURE_BYTES_MAX,
    );
    assert!(Frame::decode(&quoting(quote, signature).encode().unwrap()).is_ok());
    assert_eq!(over(quoting(quote + 1, 1)).1, "quote");
    assert_eq!(over(quoting(1, signature + 1)).1, "signature");
    assert_eq!(over(quoting(0, 1)).1, "quote");
    // A detail is cut at a character, never refused: the verdict matters more.
    let long = verdict(None, &"ä".repeat(limits::DETAIL_BYTES_MAX));
    let Ok(Frame::Verdict(_, answer)) = Frame::decode(&long.encode().unwrap()) else {
        panic!("a long detail")
    };
    assert_eq!(answer.detail.len(), limits::DETAIL_BYTES_MAX);
}

#[test]
fn x03_values_that_no_field_has_are_named() {
    // The numbers of a Hello: formats and banks stand at the front of the body, the id before.
    let frame = hello();
    let encoded = frame.encode().unwrap();
    let id = b"web-1.example";
    let at = encoded.windows(id.len()).position(|w| w == id).unwrap();
    let fault = |bytes: &[u8]| match Frame::decode(bytes) {
        Err(WireError::Field { field, fault, .. }) => (field, fault),
        other => panic!("{other:?}"),
    };
    let mut bad = encoded.clone();
    bad[at] = b'/';
    assert!(matches!(fault(&bad), ("agent", FieldFault::AgentId(_))));
    let formats = at + id.len();
    let mut bad = encoded.clone();
    bad[formats] = 3;
    let unknown = FieldFault::Unknown { value: 3 };
    assert_eq!(fault(&bad), ("log_formats", unknown));
    bad[formats] = encoded[formats + 1];
    assert!(matches!(
        fault(&bad),
        ("log_formats", FieldFault::Duplicate { .. })
    ));
    let mut bad = encoded.clone();
    bad[formats + 2] = 0x12;
    assert_eq!(fault(&bad), ("banks", FieldFault::Unknown { value: 0x12 }));
}

fn any_evidence() -> impl Strategy<Value = Frame> {
    let bytes = || prop::collection::vec(any::<u8>(), 1..600);
    let list = (any::<u64>(), any::<u64>(), any::<bool>(), any::<u64>());
    (
        any::<[u8; 16]>(),
        any::<Option<[u8; 32]>>(),
        bytes(),
        bytes(),
        prop::collection::btree_map((0..4_usize, 0..24_u64), any::<u8>(), 0..96),
        any::<(u32, u32)>(),
        prop::option::of(list),
        any::<Option<u64>>(),
    )
        .prop_map(
            |(id, binding, quote, signature, values, counts, list, boot)| {
                let mut pcr_values = PcrValues::new();
                for ((bank, pcr), byte) in values {
                    let bank = HashAlg::ALL[bank];
                    let value = Digest::new(bank, &vec![byte; bank.size()]).unwrap();
                    pcr_values.insert(PcrIndex::new(pcr).unwrap(), value);
                }
                Frame::Evidence(Evidence {
                    challenge: ChallengeId(id),
                    claimed_binding: binding,
                    quote,
                    signature,
                    pcr_values,
                    reset_count: counts.0,
                    restart_count: counts.1,
                    ima: list.map(|(from_entry, count, ascii, length)| ListHead {
                        from_entry,
                        count,
                        format: if ascii {
                            LogFormat::Ascii
                        } else {
                            LogFormat::Binary
                        },
                        length,
                    }),
                    boot_log_bytes: boot,
                })
            },
        )
}

proptest! {
    #[test]
    fn evidence_round_trips(frame in any_evidence()) {
        let encoded = frame.encode().unwrap();
        prop_assert_eq!(Frame::decode(&encoded), Ok(frame));
    }

    /// X03: whatever the bytes, a frame that has exactly these bytes, or an error.
    #[test]
    fn x03_any_body_is_a_frame_or_an_error(
        number in 0_u16..10,
        body in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let mut bytes = b"RATD\x01\x01".to_vec();
        bytes.extend(number.to_le_bytes());
        bytes.extend((body.len() as u32).to_le_bytes());
        bytes.extend(&body);
        if let Ok(frame) = Frame::decode(&bytes) {
            prop_assert_eq!(frame.encode().unwrap(), bytes);
        }
    }
}
