//! What the crash test and the process that it kills agree on.

use crate::fleet;

/// Agents of the fleet.
pub const AGENTS: u64 = 48;
/// Attestations after which a machine boots again, and its list begins anew.
const BOOT_ATTESTATIONS: u64 = 40;
/// Bytes of the first upload of a boot: more than a chunk.
const FIRST_BYTES: usize = 70_000;
const ENTRY_BYTES: usize = 3_000;

/// A number that looks random and follows from two others.
#[must_use]
pub fn random(seed: u64, step: u64) -> u64 {
    let hash = fleet::hash("random", seed.rotate_left(32) ^ step);
    u64::from_be_bytes(hash[..8].try_into().unwrap())
}

/// Where the entries of an attestation stand in its list; 0 begins a new one.
#[must_use]
pub const fn list_position(attestation: u64) -> u64 {
    (attestation - 1) % BOOT_ATTESTATIONS
}

/// What an attestation adds to its agent's list.
#[must_use]
pub fn list_entries(number: u64, attestation: u64) -> Vec<u8> {
    let seed = number * 10_000 + attestation;
    match list_position(attestation) {
        0 => fleet::list_bytes(seed, FIRST_BYTES),
        _ => fleet::list_bytes(seed, ENTRY_BYTES),
    }
}

/// The whole list of an agent after an attestation.
#[must_use]
pub fn list(number: u64, attestation: u64) -> Vec<u8> {
    let first = attestation - list_position(attestation);
    (first..=attestation)
        .flat_map(|attestation| list_entries(number, attestation))
        .collect()
}
