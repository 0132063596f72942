//! What a machine measures: entries of a measurement list, and a firmware's log, byte for byte as
//! kernel and firmware write them.

use rat_engine::crypto::{digest, extend};
use rat_engine::hash::{Digest, HashAlg};
use rat_engine::pcr::{PcrIndex, PcrSet, PcrValues};

/// The bank that simulated machines extend.
pub const BANK: HashAlg = HashAlg::Sha256;
const TEMPLATE: &[u8] = b"ima-ng";

/// One entry of a measurement list, in template `ima-ng`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// A record of `binary_runtime_measurements`.
    pub binary: Vec<u8>,
    /// A line of `ascii_runtime_measurements`.
    pub ascii: Vec<u8>,
    /// What the kernel extends PCR 10 by.
    pub event: Digest,
}

impl Entry {
    /// A file of this name and content.
    pub fn file(name: &str, content: &[u8]) -> Self {
        // The kernel writes a space in a name as `_`.
        Self::new(&name.replace(' ', "_"), &digest(BANK, content))
    }

    /// The first entry of a list: the hash of PCR 0-9.
    pub fn boot_aggregate(boot: &PcrValues) -> Self {
        let values: Vec<u8> = PcrSet::BOOT
            .iter()
            .flat_map(|pcr| value(boot, pcr).as_bytes().to_vec())
            .collect();
        Self::new("boot_aggregate", &digest(BANK, &values))
    }

    // Linux security/integrity/ima/ima_template_lib.c: `d-ng` is "algorithm:", NUL and the digest;
    // `n-ng` is the name and a NUL; each after its length.
    fn new(name: &str, content: &Digest) -> Self {
        let mut data = Vec::new();
        let algorithm = content.alg();
        put(
            &mut data,
            &[algorithm.name().as_bytes(), b":\0", content.as_bytes()].concat(),
        );
        put(&mut data, &[name.as_bytes(), b"\0"].concat());
        let template_hash = digest(HashAlg::Sha1, &data);
        let pcr = u32::from(PcrIndex::IMA.get());
        let mut binary = pcr.to_le_bytes().to_vec();
        binary.extend(template_hash.as_bytes());
        put(&mut binary, TEMPLATE);
        put(&mut binary, &data);
        let ascii = format!(
            "{pcr:2} {} ima-ng {algorithm}:{} {name}\n",
            template_hash.to_hex(),
            content.to_hex()
        );
        Self {
            binary,
            ascii: ascii.into_bytes(),
            event: digest(BANK, &data),
        }
    }
}

/// One event of a firmware's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootEvent {
    /// The PCR.
    pub pcr: PcrIndex,
    kind: u32,
    data: Vec<u8>,
}

// PFP 1.06, 10.4.1: types of events.
const NO_ACTION: u32 = 0x0000_0003;
const SEPARATOR: u32 = 0x0000_0004;
const S_CRTM_VERSION: u32 = 0x0000_0008;
const IPL: u32 = 0x0000_000d;
const EFI_ACTION: u32 = 0x8000_0007;

impl BootEvent {
    /// What its PCR is extended by.
    pub fn digest(&self) -> Digest {
        digest(BANK, &self.data)
    }
}

/// What a simulated firmware and boot loader measure: a version, something into each of PCR 0-7,
/// their separators, a command line and a kernel.
pub fn boot_events() -> Vec<BootEvent> {
    let pcr = |index: u64| PcrIndex::new(index).unwrap_or(PcrIndex::IMA);
    let event = |index, kind, data: &[u8]| BootEvent {
        pcr: pcr(index),
        kind,
        data: data.to_vec(),
    };
    let mut events = vec![event(0, S_CRTM_VERSION, b"simulated firmware 1\0")];
    events.extend([1, 2, 4].map(|index| event(index, EFI_ACTION, b"simulated configuration")));
    events.extend((0..8).map(|index| event(index, SEPARATOR, &[0; 4])));
    events.push(event(
        8,
        IPL,
        b"kernel_cmdline: root=/dev/simulated ima_policy=tcb\0",
    ));
    events.push(event(9, IPL, b"/boot/vmlinuz-simulated\0"));
    events
}

/// The log of these events, crypto-agile with one bank.
// PFP 1.06, 10.2: TCG_PCClientPCREvent with TCG_EfiSpecIdEvent, then TCG_PCR_EVENT2.
pub fn boot_log(events: &[BootEvent]) -> Vec<u8> {
    let mut header = b"Spec ID Event03\0".to_vec();
    // Platform class 0; version 2.0, errata 0; UINTN of eight bytes; one algorithm.
    header.extend([0, 0, 0, 0, 0, 2, 0, 2, 1, 0, 0, 0]);
    header.extend(BANK.tpm_id().to_le_bytes());
    header.extend(length(BANK.size()).to_le_bytes().iter().take(2));
    header.push(0);
    let mut log = 0_u32.to_le_bytes().to_vec();
    log.extend(NO_ACTION.to_le_bytes());
    log.extend([0; 20]);
    put(&mut log, &header);
    for event in events {
        log.extend(u32::from(event.pcr.get()).to_le_bytes());
        log.extend(event.kind.to_le_bytes());
        log.extend(1_u32.to_le_bytes());
        log.extend(BANK.tpm_id().to_le_bytes());
        log.extend(event.digest().as_bytes());
        put(&mut log, &event.data);
    }
    log
}

/// PCR values after these events, on a TPM that was just started.
pub fn boot_values(events: &[BootEvent]) -> PcrValues {
    let mut values = PcrValues::new();
    for pcr in PcrSet::from_bits(0x00ff_ffff).unwrap_or_default().iter() {
        // PCR 17-22 start with ones. Source: PC Client Platform TPM Profile, 4.6.
        let start = if (17..=22).contains(&pcr.get()) {
            Digest::ones(BANK)
        } else {
            Digest::zero(BANK)
        };
        values.insert(pcr, start);
    }
    for event in events {
        extend_value(&mut values, event.pcr, &event.digest());
    }
    values
}

/// Extends one PCR.
pub fn extend_value(values: &mut PcrValues, pcr: PcrIndex, event: &Digest) {
    let next = extend(&value(values, pcr), event);
    let mut all = PcrValues::new();
    for (_, other, before) in values.iter() {
        all.insert(other, if other == pcr { next } else { before });
    }
    *values = all;
}

fn value(values: &PcrValues, pcr: PcrIndex) -> Digest {
    values.get(BANK, pcr).unwrap_or(Digest::zero(BANK))
}

/// Appends bytes after their length, little endian.
fn put(to: &mut Vec<u8>, bytes: &[u8]) {
    to.extend(length(bytes.len()).to_le_bytes());
    to.extend(bytes);
}

fn length(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rat_engine::ima::{Decoder, LogFormat};
    use rat_engine::uefi::EventLog;

    #[test]
    fn both_forms_of_a_list_say_the_same() {
        let values = boot_values(&boot_events());
        let entries = [
            Entry::boot_aggregate(&values),
            Entry::file("/usr/bin/a b", b"content"),
        ];
        let read = |format, list: Vec<u8>| {
            let mut decoder = Decoder::new(format, HashAlg::Sha1, 1 << 20);
            let mut found = Vec::new();
            let mut sink = |entry: rat_engine::ima::Entry<'_>| {
                found.push((entry.template_hash.to_vec(), entry.data.to_vec()));
            };
            decoder.feed(&list, &mut sink).unwrap();
            decoder.finish(&mut sink).unwrap();
            found
        };
        let all = |form: fn(&Entry) -> &Vec<u8>| entries.iter().flat_map(form).copied().collect();
        let binary = read(LogFormat::Binary, all(|entry| &entry.binary));
        assert_eq!(binary, read(LogFormat::Ascii, all(|entry| &entry.ascii)));
        for ((_, data), entry) in binary.iter().zip(&entries) {
            assert_eq!(digest(BANK, data), entry.event);
        }
    }

    #[test]
    fn the_boot_log_replays_to_the_boot_values() {
        let events = boot_events();
        let log = boot_log(&events);
        let parsed = EventLog::parse(&log).unwrap();
        let values = boot_values(&events);
        let replay = parsed.replay(BANK).unwrap();
        let replayed = rat_engine::uefi::compare(&replay, &values, PcrSet::BOOT);
        assert!(replayed.is_ok(), "{replayed:?}");
        // No boot PCR is left as it was at the start. (P07)
        for pcr in PcrSet::BOOT.iter() {
            assert!(!value(&values, pcr).is_reset_value(), "{pcr}");
        }
    }
}
