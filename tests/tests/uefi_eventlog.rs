//! Event logs of real machines: judged, compared with recorded PCR values, and replayed by
//! `tpm2_eventlog` of tpm2-tools as well.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::as_conversions,
    clippy::arithmetic_side_effects
)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use rat_engine::crypto::extend;
use rat_engine::hash::{Digest, HashAlg};
use rat_engine::pcr::{PcrIndex, PcrSet, PcrValues};
use rat_engine::uefi::decode::variable::UefiVariable;
use rat_engine::uefi::{
    AuthenticatedData, EventLog, EventType, UefiError, UefiPcrMismatch, compare, decode,
};

fn vectors() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors")
}

fn log_bytes(name: &str) -> Vec<u8> {
    std::fs::read(vectors().join("eventlogs").join(name)).expect("the log is in tests/vectors")
}

/// Every log, the number of its events, and whether tpm2_eventlog 5.4 can read it.
const LOGS: [(&str, usize, Peer); 28] = [
    (
        "goatt_coreos_36_shielded_vm_no_secure_boot_eventlog",
        76,
        Peer::Reads,
    ),
    ("goatt_crypto_agile_eventlog", 27, Peer::Reads),
    ("goatt_ebs_event_missing_eventlog", 38, Peer::Reads),
    // Ends with an event of PCR 0xffffffff, which makes tpm2_eventlog crash.
    ("goatt_option_rom_eventlog", 61, Peer::Fails),
    ("goatt_sb_cert_eventlog", 15, Peer::Reads),
    // tpm2_eventlog wants a Spec ID event's size of any first EV_NO_ACTION.
    ("goatt_short_no_action_eventlog", 1, Peer::Fails),
    (
        "goatt_ubuntu_2104_shielded_vm_no_secure_boot_eventlog",
        106,
        Peer::Reads,
    ),
    ("goatt_windows_gcp.evlog", 21, Peer::Reads),
    ("gtt_arch-linux-workstation.bin", 25, Peer::Reads),
    ("gtt_att_gce-cos-85-no-nonce.evlog", 45, Peer::Reads),
    ("gtt_att_gce-cos-85-nonce9009.evlog", 45, Peer::Reads),
    (
        "gtt_confidential-gke-debug-251000_eventlog.bin",
        55,
        Peer::Reads,
    ),
    ("gtt_cos-101-amd-sev.bin", 49, Peer::Reads),
    ("gtt_cos-85-amd-sev.bin", 46, Peer::Reads),
    ("gtt_cos-93-amd-sev.bin", 46, Peer::Reads),
    ("gtt_debian-10.bin", 25, Peer::Reads),
    ("gtt_eventlogwithsp800155.bin", 54, Peer::Reads),
    ("gtt_gdc-host.bin", 159, Peer::Reads),
    ("gtt_glinux-alex.bin", 29, Peer::Reads),
    ("gtt_rhel8-uefi.bin", 83, Peer::Reads),
    ("gtt_ubuntu-1804-amd-sev.bin", 88, Peer::Reads),
    ("gtt_ubuntu-2104-no-dbx.bin", 112, Peer::Reads),
    ("gtt_ubuntu-2104-no-secure-boot.bin", 106, Peer::Reads),
    ("gtt_ubuntu-2404-amd-sevsnp.bin", 117, Peer::Reads),
    ("hpe-perf_uefi_log.bin", 153, Peer::Reads),
    ("keylime_binary_bios_measurements", 121, Peer::Reads),
    (
        "keylime_binary_bios_measurements-secureboot",
        99,
        Peer::Reads,
    ),
    ("keylime_mb_log_b64.bin", 102, Peer::Reads),
];

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Peer {
    Reads,
    Fails,
}

#[test]
fn every_file_is_judged() {
    let mut judged: Vec<_> = LOGS.iter().map(|(name, ..)| (*name).to_owned()).collect();
    for (name, count, _) in LOGS {
        let bytes = log_bytes(name);
        let log = EventLog::parse(&bytes).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(log.events().len(), count, "{name}");
        assert_eq!(log.padding_bytes(), 0, "{name}");
        assert!(log.banks().next().is_some(), "{name}");
        for bank in log.banks() {
            log.replay(bank)
                .unwrap_or_else(|error| panic!("{name}, {bank}: {error}"));
        }
    }
    for (name, code) in [
        ("keylime_binary_bios_measurements-bogus", "uefi.malformed"),
        ("keylime_binary_bios_measurements-empty", "uefi.empty"),
    ] {
        let error = EventLog::parse(&log_bytes(name)).unwrap_err();
        assert_eq!(error.code(), code, "{name}");
        judged.push(name.to_owned());
    }
    judged.extend(["README.md".to_owned(), "KNOWN_PCRS.json".to_owned()]);
    judged.sort();
    let mut present: Vec<_> = std::fs::read_dir(vectors().join("eventlogs"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    present.sort();
    assert_eq!(present, judged);
}

fn pcr_values(json: &serde_json::Value) -> PcrValues {
    let mut values = PcrValues::new();
    for (bank, pcrs) in json.as_object().unwrap() {
        let bank = HashAlg::from_name(bank.as_bytes()).unwrap();
        for (pcr, value) in pcrs.as_object().unwrap() {
            let pcr = PcrIndex::new(pcr.parse().unwrap()).unwrap();
            let value = Digest::from_hex(bank, value.as_str().unwrap().as_bytes()).unwrap();
            assert!(values.insert(pcr, value));
        }
    }
    values
}

/// The logs whose machine's PCR values are recorded replay to exactly these.
#[test]
fn replay_leads_to_the_recorded_pcrs() {
    let known: serde_json::Value = serde_json::from_slice(&log_bytes("KNOWN_PCRS.json")).unwrap();
    let mut compared = 0;
    for (name, banks) in known.as_object().unwrap() {
        let bytes = log_bytes(name);
        let log = EventLog::parse(&bytes).unwrap();
        let recorded = pcr_values(banks);
        for bank in recorded.banks() {
            let replay = log.replay(bank).unwrap();
            let pcrs = recorded.pcrs(bank).intersection(replay.measured());
            let proof =
                compare(&replay, &recorded, pcrs).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert!(
                proof
                    .pcrs()
                    .contains_all(PcrSet::from_bits(0b1011_0001).unwrap())
            );
            compared += pcrs.len();
        }
    }
    assert!(compared > 200, "{compared}");
}

fn set(name: &str) -> (Vec<u8>, PcrValues) {
    let folder = vectors().join("sets").join(name);
    let quote = std::fs::read(folder.join("quote.json")).unwrap();
    let quote: serde_json::Value = serde_json::from_slice(&quote).unwrap();
    let log = std::fs::read(folder.join("boot_log.bin")).unwrap();
    (log, pcr_values(&quote["pcrs"]))
}

/// Complete evidence: the bank of its quote, and the PCRs that its log accounts for.
const SETS: [(&str, HashAlg, u32); 4] = [
    ("gcp-cos85-rsa-sha256-boot", HashAlg::Sha256, 0x03ff),
    ("gcp-cos85-rsa-sha384bank-boot", HashAlg::Sha384, 0x03ff),
    ("gcp-windows-rsa-sha1-boot", HashAlg::Sha1, 0x78b1),
    ("hpe-rsa-sha256-ima780-uefi", HashAlg::Sha256, 0xfbff),
];

#[test]
fn logs_of_complete_evidence_lead_to_the_quoted_pcrs() {
    for (name, bank, pcrs) in SETS {
        let (bytes, quoted) = set(name);
        let log = EventLog::parse(&bytes).unwrap();
        let replay = log.replay(bank).unwrap();
        let pcrs = PcrSet::from_bits(pcrs).unwrap();
        let proof =
            compare(&replay, &quoted, pcrs).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!((proof.bank(), proof.pcrs()), (bank, pcrs));
        assert!(!proof.measurements().is_empty());
    }
}

#[test]
fn tampered_logs_name_the_pcr() {
    for (name, bank, pcrs) in SETS {
        let (_, quoted) = set(name);
        let tampered = vectors()
            .join("sets")
            .join(name)
            .join("tampered/boot_pcr4_digest_bit.boot");
        let bytes = std::fs::read(tampered).unwrap();
        let log = EventLog::parse(&bytes).unwrap();
        let pcrs = PcrSet::from_bits(pcrs).unwrap();
        match log.replay(bank) {
            Ok(replay) => {
                let error = compare(&replay, &quoted, pcrs).unwrap_err();
                let UefiPcrMismatch::Differs { pcr, all, .. } = error else {
                    panic!("{name}: {error}");
                };
                assert_eq!((pcr.get(), all.len()), (4, 1), "{name}");
            }
            // The bit that was changed belongs to an action, whose digest must be that of its
            // text: refused even before the comparison.
            Err(UefiError::EventDigest { place, .. }) => {
                assert_eq!(place.pcr, PcrIndex::new(4), "{name}");
            }
            Err(error) => panic!("{name}: {error}"),
        }
    }
}

/// What a policy may read of the machines in [`SETS`]: authenticated, and decoded.
#[test]
fn e05_secure_boot_state_is_read_from_proven_data() {
    let states = SETS.map(|(name, bank, pcrs)| {
        let (bytes, quoted) = set(name);
        let log = EventLog::parse(&bytes).unwrap();
        let replay = log.replay(bank).unwrap();
        let proof = compare(&replay, &quoted, PcrSet::from_bits(pcrs).unwrap()).unwrap();
        let states: Vec<bool> = proof
            .measurements()
            .iter()
            .filter(|event| event.event_type == EventType::EFI_VARIABLE_DRIVER_CONFIG)
            .filter_map(|event| UefiVariable::parse(event.data.bytes()?).ok())
            .filter_map(|variable| variable.secure_boot_enabled())
            .collect();
        states
    });
    assert_eq!(states, [[true], [true], [true], [false]]);
}

/// Every variable and signature database of the real logs decodes.
#[test]
fn authenticated_data_of_real_logs_decodes() {
    let (mut variables, mut signatures, mut commands) = (0, 0, 0);
    for (name, ..) in LOGS {
        let bytes = log_bytes(name);
        let log = EventLog::parse(&bytes).unwrap();
        let bank = log.banks().last().unwrap();
        for event in log.replay(bank).unwrap().unverified_measurements() {
            if let AuthenticatedData::GrubText(_) = event.data {
                commands += 1;
            }
            let AuthenticatedData::Event(data) = event.data else {
                continue;
            };
            let decoded = decode::event_data(event.event_type, data)
                .unwrap_or_else(|error| panic!("{name}: {}: {error}", event.place));
            let decode::EventData::Variable(variable) = decoded else {
                continue;
            };
            variables += 1;
            let is_database = matches!(variable.name.as_str(), "PK" | "KEK" | "db" | "dbx");
            if is_database && event.event_type == EventType::EFI_VARIABLE_DRIVER_CONFIG {
                let lists = decode::signature_list::parse(variable.data)
                    .unwrap_or_else(|error| panic!("{name}: {}: {error}", variable.name));
                signatures += lists
                    .iter()
                    .map(|list| list.signatures.len())
                    .sum::<usize>();
            }
        }
    }
    assert_eq!((variables, signatures, commands), (204, 3911, 822));
}

/// One event as tpm2_eventlog prints it.
#[derive(Debug, Default, PartialEq, Eq)]
struct ListedEvent {
    pcr: String,
    event_type: String,
    digests: BTreeMap<String, String>,
}

/// What tpm2_eventlog prints about a log.
#[derive(Debug, Default, PartialEq, Eq)]
struct Listing {
    events: Vec<ListedEvent>,
    pcrs: BTreeMap<(String, u8), String>,
}

/// The listing of a log, or `None` when tpm2_eventlog refuses it or crashes.
fn tpm2_eventlog(bytes: &[u8]) -> Option<Listing> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    let output = Command::new("tpm2_eventlog")
        .arg(file.path())
        .output()
        .expect(
            "tpm2_eventlog must be installed (package tpm2-tools): it is the peer of this test",
        );
    if !output.status.success() {
        return None;
    }
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let (events, pcrs) = text.rsplit_once("\npcrs:\n")?;
    let mut listing = Listing::default();
    let mut algorithm = "sha1".to_owned();
    for line in events.lines() {
        if let Some(pcr) = line.strip_prefix("  PCRIndex: ") {
            algorithm = "sha1".to_owned();
            listing.events.push(ListedEvent {
                pcr: pcr.to_owned(),
                ..ListedEvent::default()
            });
        }
        let Some(event) = listing.events.last_mut() else {
            continue;
        };
        if let Some(event_type) = line.strip_prefix("  EventType: ") {
            event.event_type = event_type.to_owned();
        } else if let Some(name) = line.strip_prefix("  - AlgorithmId: ") {
            algorithm = name.to_owned();
        } else if let Some(digest) = line
            .strip_prefix("    Digest: ")
            .or_else(|| line.strip_prefix("  Digest: "))
        {
            let digest = digest.trim_matches('"').to_owned();
            event.digests.insert(algorithm.clone(), digest);
        }
    }
    let mut bank = String::new();
    for line in pcrs.lines() {
        match line.split_once(':') {
            Some((name, "")) => bank = name.trim().to_owned(),
            Some((pcr, value)) => {
                let value = value.trim().trim_start_matches("0x").to_owned();
                let pcr = pcr.trim().parse().unwrap();
                listing.pcrs.insert((bank.clone(), pcr), value);
            }
            None => panic!("unexpected line {line:?} of tpm2_eventlog"),
        }
    }
    Some(listing)
}

/// The listing of our parser and replay.
fn our_listing(log: &EventLog<'_>) -> Result<Listing, UefiError> {
    let mut listing = Listing::default();
    for event in log.events() {
        let digests = HashAlg::ALL.into_iter().filter_map(|bank| {
            let digest = event.digest(bank)?;
            Some((bank.name().to_owned(), digest.to_hex()))
        });
        listing.events.push(ListedEvent {
            pcr: event.pcr().map_or_else(String::new, |pcr| pcr.to_string()),
            event_type: event.event_type().to_string(),
            digests: digests.collect(),
        });
    }
    for bank in log.banks() {
        let replay = log.replay(bank)?;
        for pcr in replay.measured().iter() {
            let value = replay.values().get(bank, pcr).unwrap().to_hex();
            listing
                .pcrs
                .insert((bank.name().to_owned(), pcr.get()), value);
        }
    }
    Ok(listing)
}

/// PCRs that tpm2_eventlog 5.4 replays wrongly: it extends every `EV_NO_ACTION` event but the
/// header, and starts PCR 0 from zero whatever StartupLocality says. That this is its fault is
/// shown by the recorded PCR values of `gtt_eventlogwithsp800155.bin` and `gtt_gdc-host.bin`.
fn wrong_in_peer(log: &EventLog<'_>) -> PcrSet {
    let events = log.events().iter().skip(1);
    events
        .filter(|event| event.event_type() == EventType::NO_ACTION)
        .filter_map(|event| event.pcr())
        .collect()
}

/// The value of a PCR by tpm2_eventlog's rule.
fn value_by_peer(log: &EventLog<'_>, bank: HashAlg, pcr: PcrIndex) -> String {
    let header = log.spec_id().iter().count();
    let events = log.events().iter().skip(header);
    events
        .filter(|event| event.pcr() == Some(pcr))
        .fold(Digest::zero(bank), |value, event| {
            extend(&value, &event.digest(bank).unwrap())
        })
        .to_hex()
}

/// Asserts that events and PCRs agree, or differ by the fault that [`wrong_in_peer`] names.
fn assert_agree(name: &str, log: &EventLog<'_>, mut ours: Listing, theirs: &Listing) {
    assert_eq!(ours.events.len(), theirs.events.len(), "{name}");
    for (our_event, their_event) in ours.events.iter_mut().zip(&theirs.events) {
        // Types of PFP 1.06 that 5.4 has no name for.
        let is_newer = our_event.event_type.contains("SPDM")
            || matches!(
                our_event.event_type.as_str(),
                "EV_POST_CODE2" | "EV_EFI_GPT_EVENT2" | "EV_EFI_HCRTM_EVENT"
            );
        if is_newer || our_event.event_type.starts_with("0x") {
            our_event.event_type = "Unknown event type".to_owned();
        }
        assert_eq!(our_event, their_event, "{name}");
    }
    for pcr in wrong_in_peer(log).iter() {
        for bank in log.banks() {
            let key = (bank.name().to_owned(), pcr.get());
            ours.pcrs.insert(key, value_by_peer(log, bank, pcr));
        }
    }
    assert_eq!(ours.pcrs, theirs.pcrs, "{name}");
}

#[test]
fn real_logs_read_as_tpm2_eventlog_reads_them() {
    let mut peer_is_wrong = vec![];
    for (name, _, peer) in LOGS {
        let bytes = log_bytes(name);
        let theirs = tpm2_eventlog(&bytes);
        assert_eq!(theirs.is_some(), peer == Peer::Reads, "{name}");
        let Some(theirs) = theirs else {
            continue;
        };
        let log = EventLog::parse(&bytes).unwrap();
        let ours = our_listing(&log).unwrap();
        if !wrong_in_peer(&log).is_empty() {
            assert_ne!(ours.pcrs, theirs.pcrs, "{name}");
            peer_is_wrong.push(name);
        }
        assert_agree(name, &log, ours, &theirs);
    }
    assert_eq!(
        peer_is_wrong,
        [
            "gtt_confidential-gke-debug-251000_eventlog.bin",
            "gtt_eventlogwithsp800155.bin",
            "gtt_gdc-host.bin",
            "gtt_glinux-alex.bin",
            "keylime_binary_bios_measurements",
        ]
    );
}

/// A small generator of test choices: the same mutations in every run.
struct Lcg(u64);

impl Lcg {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % bound
    }
}

/// Logs with one byte changed, or cut short: whenever both implementations accept, they agree.
#[test]
fn mutated_logs_that_both_accept_replay_alike() {
    let mut lcg = Lcg(0x7561_6669);
    let (mut both, mut refused_by_us) = (0, 0);
    for round in 0..300 {
        let (name, ..) = LOGS[lcg.below(LOGS.len())];
        let mut bytes = log_bytes(name);
        let at = lcg.below(bytes.len());
        match lcg.below(8) {
            0 => bytes.truncate(at.max(1)),
            1 => bytes[at] = [0x00, 0xff][lcg.below(2)],
            bit => bytes[at] ^= 1 << bit,
        }
        let ours = EventLog::parse(&bytes).and_then(|log| {
            let listing = our_listing(&log)?;
            Ok((log, listing))
        });
        let theirs = tpm2_eventlog(&bytes);
        match (ours, theirs) {
            (Ok((log, ours)), Some(theirs)) => {
                both += 1;
                let name = format!("round {round}: {name}, byte {at}");
                assert_agree(&name, &log, ours, &theirs);
            }
            (Err(_), _) => refused_by_us += 1,
            (Ok(_), None) => {}
        }
    }
    assert!(both > 50 && refused_by_us > 50, "{both}, {refused_by_us}");
}
