//! Machines that booted as a recorded event log says.

use rat_engine::hash::HashAlg;
use rat_engine::pcr::PcrSet;

use crate::evidence::{Machine, Submission};
use crate::measured::Measured;
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

/// A machine that booted so, and quotes these PCRs of the SHA-256 bank.
pub fn machine(log: &[u8], pcrs: u32) -> Machine {
    let bank = HashAlg::Sha256;
    Machine::valid().with(|machine| {
        machine.recorded_boot = Some(log.to_vec());
        machine.banks = vec![(bank, PcrSet::BOOT)];
        let values = machine.values();
        let boot: Vec<_> = values
            .iter()
            .map(|(_, _, value)| value.as_bytes().to_vec())
            .collect();
        machine.list[0] = Measured::boot_aggregate(bank, &boot);
        machine.banks = vec![(bank, PcrSet::from_bits(pcrs).unwrap())];
    })
}

/// The same, and what it sends.
pub fn booted(log: &[u8], pcrs: u32, nonce: &[u8]) -> (Machine, Submission) {
    let machine = machine(log, pcrs);
    let submission = machine
        .attest(nonce)
        .with(|it| it.boot_log = Some(log.to_vec()));
    (machine, submission)
}
