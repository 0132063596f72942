//! Attacks on the event log, each on a small log that is right but for one thing.

use proptest::prelude::*;

use super::*;
use crate::crypto::digest;
use crate::hash::{Digest, HashAlg};
use crate::limits;
use crate::malformed::Fault;
use crate::pcr::{PcrIndex, PcrSet, PcrValues};

const BANK: HashAlg = HashAlg::Sha256;

/// An event with a SHA-256 digest.
#[derive(Clone)]
struct Entry {
    pcr: u32,
    event_type: EventType,
    digest: Vec<u8>,
    data: Vec<u8>,
}

/// An event whose digest is that of its data.
fn measured(pcr: u32, event_type: EventType, data: &[u8]) -> Entry {
    Entry {
        pcr,
        event_type,
        digest: digest(BANK, data).as_bytes().to_vec(),
        data: data.to_vec(),
    }
}

fn separator(pcr: u32) -> Entry {
    measured(pcr, EventType::SEPARATOR, &[0; 4])
}

fn no_action(pcr: u32, data: &[u8]) -> Entry {
    Entry {
        digest: vec![0; BANK.size()],
        ..measured(pcr, EventType::NO_ACTION, data)
    }
}

fn locality(value: u8) -> Entry {
    no_action(0, &[b"StartupLocality\0", &[value][..]].concat())
}

fn secure_boot() -> Entry {
    let mut data = hex::decode("61dfe48bca93d211aa0d00e098032b8c").unwrap();
    data.extend(10_u64.to_le_bytes());
    data.extend(1_u64.to_le_bytes());
    data.extend("SecureBoot".encode_utf16().flat_map(u16::to_le_bytes));
    data.push(1);
    measured(7, EventType::EFI_VARIABLE_DRIVER_CONFIG, &data)
}

/// A machine's boot: configuration, separators, a loader.
fn boot() -> Vec<Entry> {
    let mut events = vec![
        locality(3),
        measured(0, EventType::S_CRTM_VERSION, b"1\0"),
        secure_boot(),
        separator(7),
    ];
    events.extend((0..7).map(separator));
    events.extend([
        Entry {
            digest: vec![0x5a; 32],
            ..measured(4, EventType::EFI_BOOT_SERVICES_APPLICATION, b"image")
        },
        measured(7, EventType::EFI_VARIABLE_AUTHORITY, b"certificate"),
        measured(5, EventType::EFI_ACTION, b"Exit Boot Services Invocation"),
    ]);
    events
}

fn spec_id(algorithms: &[(u16, u16)]) -> Vec<u8> {
    let mut data = b"Spec ID Event03\0\0\0\0\0\0\x02\0\x02".to_vec();
    data.extend(u32::try_from(algorithms.len()).unwrap().to_le_bytes());
    for (id, size) in algorithms {
        data.extend(id.to_le_bytes());
        data.extend(size.to_le_bytes());
    }
    data.push(0);
    data
}

fn header(data: &[u8]) -> Vec<u8> {
    let mut log = [[0; 4], [3, 0, 0, 0]].concat();
    log.extend([0; 20]);
    put_data(&mut log, data);
    log
}

fn put_data(log: &mut Vec<u8>, data: &[u8]) {
    log.extend(u32::try_from(data.len()).unwrap().to_le_bytes());
    log.extend(data);
}

fn put_event(log: &mut Vec<u8>, entry: &Entry) {
    log.extend(entry.pcr.to_le_bytes());
    log.extend(entry.event_type.get().to_le_bytes());
    log.extend(1_u32.to_le_bytes());
    log.extend(BANK.tpm_id().to_le_bytes());
    log.extend(&entry.digest);
    put_data(log, &entry.data);
}

fn encode(events: &[Entry]) -> Vec<u8> {
    let mut log = header(&spec_id(&[(BANK.tpm_id(), 32)]));
    for entry in events {
        put_event(&mut log, entry);
    }
    log
}

fn values(events: &[Entry]) -> Result<PcrValues, UefiError> {
    let bytes = encode(events);
    let log = EventLog::parse(&bytes)?;
    Ok(log.replay(BANK)?.values().clone())
}

fn order_fault(events: &[Entry]) -> OrderFault {
    let error = values(events).unwrap_err();
    assert_eq!(error.code(), "uefi.order");
    let UefiError::Order { fault, .. } = error else {
        panic!("{error}");
    };
    fault
}

fn boot_with(late: Entry) -> Vec<Entry> {
    let mut events = boot();
    events.push(late);
    events
}

#[test]
fn a_boot_replays_and_proves_its_data() {
    let bytes = encode(&boot());
    let log = EventLog::parse(&bytes).unwrap();
    let replay = log.replay(BANK).unwrap();
    assert_eq!(replay.startup_locality(), 3);
    assert!(replay.without_separator().is_empty());
    let proof = compare(&replay, replay.values(), PcrSet::FIRMWARE).unwrap();
    let config = proof
        .measurements()
        .iter()
        .find(|event| event.pcr.get() == 7);
    let data = config.unwrap().data.bytes().unwrap();
    let variable = decode::variable::UefiVariable::parse(data).unwrap();
    assert_eq!(variable.secure_boot_enabled(), Some(true));
}

#[test]
fn e01_a_changed_type_changes_no_pcr_and_hides_no_event() {
    let events = boot();
    let honest = values(&events).unwrap();
    let image = events.len() - 3;
    for unknown in [0x13, 0x1234_5678, 0x8000_0004, 0xffff_ffff] {
        let mut relabelled = events.clone();
        relabelled[image].event_type = EventType::new(unknown);
        assert_eq!(values(&relabelled).unwrap(), honest);
    }
    // EV_NO_ACTION is the one type that is not extended: it must have no digest to hide, and
    // without one the replay differs.
    let mut hidden = events.clone();
    hidden[image].event_type = EventType::NO_ACTION;
    let error = values(&hidden).unwrap_err();
    assert_eq!(error.code(), "uefi.event_digest");
    hidden[image].digest = vec![0; 32];
    assert_ne!(values(&hidden).unwrap(), honest);
    hidden[image].digest = vec![0x5a; 32];
    hidden[image].pcr = 0xffff_ffff;
    assert_ne!(values(&hidden).unwrap(), honest);
}

#[test]
fn e01_a_disguised_separator_lets_no_configuration_in() {
    // The true separator relabelled, then configuration by whoever runs later, then another.
    let mut events = boot();
    events[3].event_type = EventType::EFI_ACTION;
    events.extend([secure_boot(), separator(7)]);
    assert_eq!(order_fault(&events), OrderFault::DisguisedSeparator);
}

#[test]
fn e02_data_that_must_be_covered_is() {
    for (index, entry) in boot().iter().enumerate() {
        let mut events = boot();
        events[index].data[0] ^= 1;
        let result = values(&events);
        if coverage::must_cover(entry.event_type) {
            let error = result.unwrap_err();
            let is_expected = matches!(
                error,
                UefiError::EventDigest { place, fault: DigestFault::NotOfData { bank: BANK } }
                    if place.index == index + 1
            );
            let is_separator = entry.event_type == EventType::SEPARATOR;
            assert!(is_expected || (is_separator && error.code() == "uefi.order"));
        }
    }
}

#[test]
fn e02_only_covered_data_can_be_read_from_a_proof() {
    let text = b"kernel_cmdline: quiet\0";
    let old = [b"certificate".as_slice(), &[0xaf]].concat();
    let mut events = boot();
    events.extend([
        Entry {
            digest: digest(BANK, b"quiet").as_bytes().to_vec(),
            ..measured(8, EventType::IPL, text)
        },
        Entry {
            digest: vec![7; 32],
            ..measured(9, EventType::IPL, b"/boot/vmlinuz\0")
        },
        Entry {
            digest: digest(BANK, b"certificate").as_bytes().to_vec(),
            ..measured(7, EventType::EFI_VARIABLE_AUTHORITY, &old)
        },
    ]);
    let bytes = encode(&events);
    let log = EventLog::parse(&bytes).unwrap();
    let replay = log.replay(BANK).unwrap();
    let all = PcrSet::from_bits(0x00ff_ffff).unwrap();
    let proof = compare(&replay, replay.values(), all).unwrap();
    let data: Vec<_> = proof
        .measurements()
        .iter()
        .map(|event| event.data)
        .collect();
    assert_eq!(
        data[data.len() - 3..],
        [
            AuthenticatedData::GrubText(b"quiet"),
            AuthenticatedData::Nothing,
            AuthenticatedData::Event(b"certificate"),
        ]
    );
}

#[test]
fn e03_what_may_follow_a_separator() {
    use OrderFault::{AfterSeparator, SecondSeparator};
    let refused = [
        (0, EventType::S_CRTM_CONTENTS, AfterSeparator),
        (2, EventType::COMPACT_HASH, AfterSeparator),
        (3, EventType::EVENT_TAG, AfterSeparator),
        (7, EventType::COMPACT_HASH, AfterSeparator),
    ];
    for (pcr, event_type, fault) in refused {
        assert_eq!(
            order_fault(&boot_with(measured(pcr, event_type, b"late"))),
            fault
        );
    }
    assert_eq!(order_fault(&boot_with(secure_boot())), AfterSeparator);
    for pcr in 0..8 {
        assert_eq!(order_fault(&boot_with(separator(pcr))), SecondSeparator);
        let ones = measured(pcr, EventType::SEPARATOR, &[0xff; 4]);
        assert_eq!(order_fault(&boot_with(ones)), SecondSeparator);
    }
    for (pcr, event_type) in [
        (1, EventType::EFI_HANDOFF_TABLES),
        (2, EventType::EFI_BOOT_SERVICES_DRIVER),
        (4, EventType::EFI_BOOT_SERVICES_APPLICATION),
        (5, EventType::EVENT_TAG),
        (6, EventType::COMPACT_HASH),
        (7, EventType::EFI_VARIABLE_AUTHORITY),
        (14, EventType::IPL),
    ] {
        values(&boot_with(measured(pcr, event_type, b"late"))).unwrap();
    }
}

#[test]
fn e03_separators_of_a_failed_or_strange_boot() {
    let mut events = boot();
    events[3] = measured(7, EventType::SEPARATOR, &[1, 0, 0, 0]);
    assert_eq!(order_fault(&events), OrderFault::ErrorSeparator);
    events[3] = measured(7, EventType::SEPARATOR, b"WBCL");
    assert_eq!(order_fault(&events), OrderFault::SeparatorValue);
    events[3] = measured(7, EventType::SEPARATOR, &[0xff; 4]);
    values(&events).unwrap();
    // Windows ends its own PCRs with a separator of its own.
    values(&boot_with(measured(12, EventType::SEPARATOR, b"WBCL"))).unwrap();
}

#[test]
fn e03_a_missing_separator_is_refused_in_pcr_7_and_told_elsewhere() {
    let mut events = boot();
    events.remove(3);
    assert_eq!(order_fault(&events), OrderFault::MissingSeparator);
    let mut events = boot();
    events.remove(4);
    let bytes = encode(&events);
    let log = EventLog::parse(&bytes).unwrap();
    let replay = log.replay(BANK).unwrap();
    assert_eq!(replay.without_separator().to_string(), "0");
    let proof = compare(&replay, replay.values(), PcrSet::FIRMWARE).unwrap();
    assert_eq!(proof.without_separator().to_string(), "0");
}

#[test]
fn e03_startup_locality_seeds_pcr_0_once_and_first() {
    use OrderFault::{HcrtmLocality, LateStartupLocality, SecondStartupLocality};
    let pcr0 = PcrIndex::new(0).unwrap();
    let seed = |events: &[Entry]| values(events).unwrap().get(BANK, pcr0).unwrap();
    for value in [0, 3, 4] {
        assert_eq!(seed(&[locality(value)]).as_bytes()[31], value);
    }
    let error = values(&[locality(1)]).unwrap_err();
    assert_eq!(error.code(), "uefi.malformed");
    let mut long = locality(3);
    long.data.push(0);
    assert_eq!(values(&[long]).unwrap_err().code(), "uefi.malformed");

    let hcrtm = measured(0, EventType::EFI_HCRTM_EVENT, b"HCRTM");
    assert_eq!(
        order_fault(&[locality(3), locality(3)]),
        SecondStartupLocality
    );
    assert_eq!(
        order_fault(&[hcrtm.clone(), locality(4)]),
        LateStartupLocality
    );
    assert_eq!(
        order_fault(&[locality(3), hcrtm.clone()]),
        HcrtmLocality { locality: 3 }
    );
    assert_eq!(
        seed(std::slice::from_ref(&hcrtm)),
        seed(&[locality(4), hcrtm])
    );
}

#[test]
fn e03_pcr_indices_stop_at_23() {
    values(&boot_with(measured(23, EventType::IPL, b""))).unwrap();
    for pcr in [24, 255, 0xffff_fffe, 0xffff_ffff] {
        let error = values(&boot_with(measured(pcr, EventType::IPL, b""))).unwrap_err();
        assert_eq!(error.code(), "uefi.malformed");
    }
    // Only an event that is never extended may name no PCR.
    values(&boot_with(no_action(0xffff_ffff, b"SP800-155 Event"))).unwrap();
    values(&boot_with(no_action(24, b""))).unwrap_err();
}

#[test]
fn e03_a_header_that_lies_about_digests() {
    let fault = |data: &[u8]| match EventLog::parse(&header(data)).unwrap_err() {
        UefiError::Malformed(error) => (error.field, error.fault),
        error => panic!("{error}"),
    };
    for (id, size) in [
        (0x0b, 20),
        (0x04, 32),
        (0x12, 31),
        (0x27, 64),
        (0x99, 0),
        (0x99, 65),
    ] {
        assert_eq!(fault(&spec_id(&[(id, size)])).0, "digestSize");
    }
    assert_eq!(
        fault(&spec_id(&[(0x0b, 32), (0x0b, 32)])),
        ("algorithmId", Fault::Duplicate { value: 0x0b })
    );
    assert_eq!(fault(&spec_id(&[])).0, "numberOfAlgorithms");
    let many: Vec<_> = (0x100..0x111).map(|id| (id, 1)).collect();
    assert_eq!(many.len(), limits::UEFI_ALGORITHMS_MAX + 1);
    assert_eq!(fault(&spec_id(&many)).0, "numberOfAlgorithms");
    EventLog::parse(&header(&spec_id(&many[1..]))).unwrap();
    let mut trailing = spec_id(&[(0x0b, 32)]);
    trailing.push(0);
    assert_eq!(fault(&trailing).1, Fault::Trailing { bytes: 1 });
    let mut major = spec_id(&[(0x0b, 32)]);
    major[21] = 3;
    assert_eq!(fault(&major).0, "specVersionMajor");
}

#[test]
fn e03_events_have_exactly_the_algorithms_of_the_header() {
    let two = [(0x04, 20), (0x0b, 32)];
    let event = |digests: &[(u16, usize)]| {
        let mut log = header(&spec_id(&two));
        log.extend([[0; 4], [1, 0, 0, 0]].concat());
        log.extend(u32::try_from(digests.len()).unwrap().to_le_bytes());
        for (id, size) in digests {
            log.extend(id.to_le_bytes());
            log.extend(vec![9; *size]);
        }
        put_data(&mut log, b"data");
        EventLog::parse(&log).map(|log| log.banks().count())
    };
    assert_eq!(event(&[(0x04, 20), (0x0b, 32)]), Ok(2));
    assert_eq!(event(&[(0x0b, 32), (0x04, 20)]), Ok(2));
    for wrong in [
        &[][..],
        &[(0x0b, 32)],
        &[(0x04, 20), (0x04, 20)],
        &[(0x04, 20), (0x0c, 48)],
        &[(0x04, 20), (0x0b, 32), (0x0c, 48)],
    ] {
        assert_eq!(event(wrong).unwrap_err().code(), "uefi.malformed");
    }
}

#[test]
fn e03_a_crypto_agile_log_without_its_header_is_refused() {
    let bytes = encode(&boot());
    let header_bytes = header(&spec_id(&[(BANK.tpm_id(), 32)])).len();
    // Read as a SHA-1 log, the first event's digest is the digest list.
    let error = EventLog::parse(&bytes[header_bytes..]).unwrap_err();
    assert_eq!(error.code(), "uefi.event_digest");
}

#[test]
fn padding_is_one_byte_value_up_to_the_end() {
    let bytes = encode(&boot());
    let count = EventLog::parse(&bytes).unwrap().events().len();
    for byte in [0x00, 0xff] {
        for padding in [1, 7, 972] {
            let mut padded = bytes.clone();
            padded.extend(vec![byte; padding]);
            let log = EventLog::parse(&padded).unwrap();
            assert_eq!((log.events().len(), log.padding_bytes()), (count, padding));
            padded.push(byte ^ 0xff);
            EventLog::parse(&padded).unwrap_err();
        }
        let empty = EventLog::parse(&[byte; 64].repeat(4)).unwrap_err();
        assert_eq!(empty, UefiError::Empty);
    }
    assert_eq!(EventLog::parse(&[]), Err(UefiError::Empty));
    let mut other = bytes;
    other.extend([0x01; 64]);
    EventLog::parse(&other).unwrap_err();
}

#[test]
fn limits_are_hit_at_one_more() {
    let limit = |bytes: &[u8]| match EventLog::parse(bytes) {
        Err(UefiError::Limit { limit, .. }) => Some(limit),
        _ => None,
    };
    let too_long = vec![1; limits::UEFI_LOG_BYTES_MAX + 1];
    assert_eq!(limit(&too_long), Some("UEFI_LOG_BYTES_MAX"));
    assert_eq!(limit(&too_long[1..]), None);

    let event = |size: usize| {
        let mut log = header(b"");
        log.extend([[0; 4], [1, 0, 0, 0]].concat());
        log.extend([9; 20]);
        put_data(&mut log, &vec![1; size]);
        log
    };
    let size = limits::UEFI_EVENT_BYTES_MAX;
    assert!(EventLog::parse(&event(size)).is_ok());
    assert_eq!(limit(&event(size + 1)), Some("UEFI_EVENT_BYTES_MAX"));

    let shortest = &event(0)[header(b"").len()..];
    let mut log = shortest.repeat(limits::UEFI_EVENTS_MAX - 1);
    log.extend(event(1).split_off(header(b"").len()));
    assert!(EventLog::parse(&log).is_ok());
    log.splice(..0, shortest.iter().copied());
    assert_eq!(limit(&log), Some("UEFI_EVENTS_MAX"));
}

#[test]
fn comparison_names_what_differs_and_what_is_not_quoted() {
    let bytes = encode(&boot());
    let log = EventLog::parse(&bytes).unwrap();
    let replay = log.replay(BANK).unwrap();
    let (pcr4, pcr7) = (PcrIndex::new(4).unwrap(), PcrIndex::new(7).unwrap());
    let mut quoted = replay.values().clone();
    quoted.insert(pcr7, Digest::zero(BANK));
    quoted.insert(pcr4, Digest::zero(BANK));
    assert_eq!(
        compare(&replay, &quoted, PcrSet::FIRMWARE),
        Err(UefiPcrMismatch::Differs {
            pcr: pcr4,
            bank: BANK,
            event_count: 2,
            all: [pcr4, pcr7].into_iter().collect(),
        })
    );
    let mut other_bank = PcrValues::new();
    other_bank.insert(pcr4, Digest::zero(HashAlg::Sha384));
    let only_4: PcrSet = [pcr4].into_iter().collect();
    let error = compare(&replay, &other_bank, only_4).unwrap_err();
    assert_eq!(error.code(), "uefi.pcr_not_quoted");
    let nothing = compare(&replay, replay.values(), PcrSet::EMPTY);
    assert_eq!(nothing, Err(UefiPcrMismatch::NoPcr));
    assert_eq!(
        log.replay(HashAlg::Sha384),
        Err(UefiError::BankMissing {
            bank: HashAlg::Sha384
        })
    );
}

proptest! {
    #[test]
    fn e04_no_bytes_make_a_decoder_panic(data in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = EventLog::parse(&data).map(|log| log.replay(HashAlg::Sha1));
        let _ = EventLog::parse(&[encode(&boot()), data.clone()].concat())
            .map(|log| log.replay(BANK));
        for event_type in (0..=0x13).chain(0x8000_0000..=0x8000_0010).chain([0x8000_00e0]) {
            let _ = decode::event_data(EventType::new(event_type), &data);
        }
        let _ = decode::signature_list::parse(&data);
        let _ = decode::device_path::parse(&data).map(|nodes| decode::device_path::text(&nodes));
    }

    #[test]
    fn a_changed_log_never_replays_to_the_same_proof(at in any::<prop::sample::Index>(), bit in 0..8) {
        let honest = encode(&boot());
        let mut bytes = honest.clone();
        bytes[at.index(honest.len())] ^= 1_u8 << bit;
        let honest = EventLog::parse(&honest).unwrap();
        let honest = honest.replay(BANK).unwrap();
        let all = PcrSet::from_bits(0x00ff_ffff).unwrap();
        let expected = compare(&honest, honest.values(), all).unwrap();
        // Whatever still leads to the quoted values has the same digests and covered data.
        let view = |proof: &BootProof<'_>| -> Vec<_> {
            let measurements = proof.measurements().iter();
            measurements
                .map(|event| (event.pcr, event.digest, event.data.bytes().map(<[u8]>::to_vec)))
                .collect()
        };
        if let Ok(log) = EventLog::parse(&bytes)
            && let Ok(replay) = log.replay(BANK)
            && let Ok(proof) = compare(&replay, honest.values(), all)
        {
            for (ours, theirs) in view(&proof).into_iter().zip(view(&expected)) {
                prop_assert_eq!((ours.0, ours.1), (theirs.0, theirs.1));
                prop_assert!(ours.2.is_none() || theirs.2.is_none() || ours.2 == theirs.2);
            }
        }
    }
}
