//! Synthetic event logs: the engine's replay equals an obvious one, over another hash library.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::as_conversions,
    clippy::arithmetic_side_effects
)]

use openssl::hash::{MessageDigest, hash};
use proptest::prelude::*;
use rat_engine::hash::{Digest, HashAlg};
use rat_engine::pcr::{PcrIndex, PcrSet, PcrValues};
use rat_engine::uefi::{EventLog, UefiPcrMismatch, compare};

/// `TPM_ALG_SM3_256`: a bank that logs may have and that the engine does not compute.
const SM3: u16 = 0x0012;

fn openssl_digest(algorithm: u16, bytes: &[u8]) -> Vec<u8> {
    let library = match algorithm {
        0x0004 => MessageDigest::sha1(),
        0x000b => MessageDigest::sha256(),
        0x000c => MessageDigest::sha384(),
        0x000d => MessageDigest::sha512(),
        SM3 => return vec![bytes.len() as u8; 32],
        other => panic!("no library for {other:#x}"),
    };
    hash(library, bytes).unwrap().to_vec()
}

/// An event before it is written down.
#[derive(Debug, Clone)]
struct Planned {
    pcr: u32,
    event_type: u32,
    /// What the digest is made of.
    measured: Vec<u8>,
    data: Vec<u8>,
}

const NO_ACTION: u32 = 3;
const SEPARATOR: u32 = 4;

fn is_extended(event: &Planned) -> bool {
    event.event_type != NO_ACTION
}

/// Events whose digest need not be that of their data, in PCRs without rules on separators.
fn any_event() -> impl Strategy<Value = Planned> {
    let pcr = prop_oneof![Just(0_u32), Just(1), Just(4), Just(5), 8_u32..24];
    let event_type = prop_oneof![
        Just(0x0d_u32), // EV_IPL
        Just(0x06),     // EV_EVENT_TAG
        Just(0x8000_0003),
        Just(0x8000_0008),
        Just(NO_ACTION),
        0x9000_0000_u32..,
    ];
    let bytes = || proptest::collection::vec(any::<u8>(), 0..40);
    (pcr, event_type, bytes(), bytes(), any::<bool>()).prop_map(
        |(pcr, event_type, measured, data, of_data)| Planned {
            pcr,
            event_type,
            measured: if of_data { data.clone() } else { measured },
            data,
        },
    )
}

#[derive(Debug, Clone)]
struct PlannedLog {
    /// Empty for a SHA-1 only log.
    algorithms: Vec<u16>,
    locality: Option<u8>,
    events: Vec<Planned>,
    padding: Vec<u8>,
}

fn any_log() -> impl Strategy<Value = PlannedLog> {
    let all = vec![0x0004_u16, 0x000b, 0x000c, 0x000d, SM3];
    let algorithms = prop_oneof![
        1 => Just(vec![]),
        4 => proptest::sample::subsequence(all, 1..=5).prop_shuffle(),
    ];
    let locality = proptest::option::of(prop_oneof![Just(0_u8), Just(3), Just(4)]);
    let events = proptest::collection::vec(any_event(), 1..40);
    let separated = proptest::sample::subsequence((0_u32..8).collect::<Vec<_>>(), 0..=8);
    let padding = (prop_oneof![Just(0x00_u8), Just(0xff)], 0_usize..300);
    (algorithms, locality, events, separated, padding).prop_map(
        |(algorithms, locality, mut events, separated, (byte, count))| {
            events.extend(separated.into_iter().map(|pcr| Planned {
                pcr,
                event_type: SEPARATOR,
                measured: vec![0; 4],
                data: vec![0; 4],
            }));
            PlannedLog {
                algorithms,
                locality,
                events,
                padding: vec![byte; count],
            }
        },
    )
}

fn put_sized(log: &mut Vec<u8>, data: &[u8]) {
    log.extend((data.len() as u32).to_le_bytes());
    log.extend(data);
}

fn encode(planned: &PlannedLog) -> Vec<u8> {
    let mut log = vec![];
    let mut events = planned.events.clone();
    if let Some(locality) = planned.locality {
        let data = [&b"StartupLocality\0"[..], &[locality]].concat();
        events.insert(
            0,
            Planned {
                pcr: 0,
                event_type: NO_ACTION,
                measured: vec![],
                data,
            },
        );
    }
    if !planned.algorithms.is_empty() {
        let mut header = b"Spec ID Event03\0\0\0\0\0\0\x02\0\x02".to_vec();
        header.extend((planned.algorithms.len() as u32).to_le_bytes());
        for algorithm in &planned.algorithms {
            header.extend(algorithm.to_le_bytes());
            let size = openssl_digest(*algorithm, b"").len() as u16;
            header.extend(size.to_le_bytes());
        }
        header.push(0);
        log.extend([0; 4]);
        log.extend(NO_ACTION.to_le_bytes());
        log.extend([0; 20]);
        put_sized(&mut log, &header);
    }
    for (nth, event) in events.iter().enumerate() {
        log.extend(event.pcr.to_le_bytes());
        log.extend(event.event_type.to_le_bytes());
        let digest = |log: &mut Vec<u8>, algorithm: u16| {
            let digest = openssl_digest(algorithm, &event.measured);
            let zero = vec![0; digest.len()];
            log.extend(if is_extended(event) { digest } else { zero });
        };
        if planned.algorithms.is_empty() {
            digest(&mut log, 0x0004);
        } else {
            // The order of digests within an event is free.
            let mut order = planned.algorithms.clone();
            let turns = nth % order.len();
            order.rotate_left(turns);
            log.extend((order.len() as u32).to_le_bytes());
            for algorithm in order {
                log.extend(algorithm.to_le_bytes());
                digest(&mut log, algorithm);
            }
        }
        put_sized(&mut log, &event.data);
    }
    log.extend(&planned.padding);
    log
}

/// The value of one PCR, by the definition.
fn oracle(planned: &PlannedLog, algorithm: u16, pcr: u32) -> Vec<u8> {
    let size = openssl_digest(algorithm, b"").len();
    let events: Vec<_> = planned
        .events
        .iter()
        .filter(|event| event.pcr == pcr && is_extended(event))
        .collect();
    let mut value = vec![0; size];
    if pcr == 0 {
        value[size - 1] = planned.locality.unwrap_or(0);
    }
    if (17..=22).contains(&pcr) && events.is_empty() {
        value = vec![0xff; size];
    }
    for event in events {
        let digest = openssl_digest(algorithm, &event.measured);
        value = openssl_digest(algorithm, &[value, digest].concat());
    }
    value
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn replay_equals_the_definition(planned in any_log()) {
        let bytes = encode(&planned);
        let log = EventLog::parse(&bytes).unwrap();
        prop_assert_eq!(log.padding_bytes(), planned.padding.len());
        let algorithms = match planned.algorithms.as_slice() {
            [] => vec![0x0004],
            algorithms => algorithms.to_vec(),
        };
        let banks = algorithms.iter().filter(|algorithm| **algorithm != SM3).count();
        prop_assert_eq!(log.banks().count(), banks);
        for bank in log.banks() {
            let replay = log.replay(bank).unwrap();
            let mut expected = PcrValues::new();
            for pcr in 0..24_u32 {
                let value = oracle(&planned, bank.tpm_id(), pcr);
                let value = Digest::new(bank, &value).unwrap();
                expected.insert(PcrIndex::new(u64::from(pcr)).unwrap(), value);
            }
            prop_assert_eq!(replay.values(), &expected);
            let all = PcrSet::from_bits(0x00ff_ffff).unwrap();
            prop_assert!(compare(&replay, &expected, all).is_ok());

            // A proof needs every value to be right.
            let last = PcrIndex::new(23).unwrap();
            expected.insert(last, Digest::ones(HashAlg::Sha512));
            expected.insert(last, Digest::ones(bank));
            let error = compare(&replay, &expected, all).unwrap_err();
            let is_last = matches!(error, UefiPcrMismatch::Differs { pcr, .. } if pcr == last);
            prop_assert!(is_last, "{}", error);
        }
    }
}
