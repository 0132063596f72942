//! Machines that booted as a recorded event log says.

use rat_engine::hash::HashAlg;
use rat_engine::pcr::{PcrSet, PcrValues};
use rat_engine::uefi::EventLog;

use crate::evidence::{Machine, Submission};
use crate::measured::Measured;
use crate::software_tpm::Attest;
use crate::vectors;

/// A log that passes by [`refstate`].
pub const PASSING: &str = "keylime_mb_log_b64.bin";

/// PCR 0-10 and 14.
pub const PCRS: u32 = 0x47ff;

/// The bytes of the recorded log.
pub fn log() -> Vec<u8> {
    vectors::read(&format!("eventlogs/{PASSING}"))
}

/// The reference state that Keylime's tool made of it.
pub fn refstate() -> serde_json::Value {
    vectors::json(&format!("measured_boot/refstates/{PASSING}.json"))
}

/// A machine that booted so, and what it sends when it quotes these PCRs of the SHA-256 bank.
pub fn booted(log: &[u8], pcrs: u32, nonce: &[u8]) -> (Machine, Submission) {
    let bank = HashAlg::Sha256;
    let parsed = EventLog::parse(log).unwrap();
    let replay = parsed.replay(bank).unwrap();
    let value = |pcr: u64| {
        let pcr = rat_engine::pcr::PcrIndex::new(pcr).unwrap();
        replay.values().get(bank, pcr).unwrap()
    };
    let machine = Machine::valid().with(|machine| {
        let boot: Vec<_> = (0..10).map(|pcr| value(pcr).as_bytes().to_vec()).collect();
        machine.list[0] = Measured::boot_aggregate(bank, &boot);
        machine.banks = vec![(bank, PcrSet::from_bits(pcrs).unwrap())];
    });
    let mut values = PcrValues::new();
    for (_, pcr, of_list) in machine.values().iter() {
        let is_list = pcr.get() == 10;
        let quoted = if is_list {
            of_list
        } else {
            value(pcr.get().into())
        };
        values.insert(pcr, quoted);
    }
    let submission = machine.attest(nonce).with(|it| {
        it.attest = Attest::quote(machine.ak.hash(), nonce, &machine.banks, &values);
        it.values = values;
        it.boot_log = Some(log.to_vec());
        it.sign();
    });
    (machine, submission)
}
