//! Pure verification of TPM 2.0 evidence.
//!
//! Evidence, reference values and policies go in; a typed [`verdict`] with stable codes comes
//! out. Nothing here opens a socket or a file, reads a clock or a random source, or starts a
//! thread: callers pass all of that as arguments.
//!
//! The stages, each of which takes the proof type of the one before:
//!
//! 1. [`tpm`] parses the TPM structures that an Attester sends;
//! 2. [`quote`] checks signature, nonce and selection (`Quote<Unverified> → Signed → Bound`);
//! 3. [`pcr`] checks that the PCR values sent are the ones that were quoted;
//! 4. [`uefi`] replays the firmware's event log;
//! 5. [`ima`] replays the kernel's measurement list;
//! 6. [`policy`] judges what the logs say;
//! 7. [`appraisal`] runs the stages over one submission and gives the [`verdict`].
//!
//! [`evidence`] is what is asked of a machine and what it answers; [`shard`] remembers machines
//! between two answers.
#![cfg_attr(test, allow(clippy::as_conversions, clippy::arithmetic_side_effects))]

pub mod agent_id;
pub mod appraisal;
mod bytes;
pub mod calendar;
pub mod crypto;
pub mod evidence;
mod fault;
pub mod hash;
pub mod ima;
pub mod limits;
pub mod malformed;
pub mod pcr;
pub mod pcr_policy;
pub mod policy;
pub mod quote;
pub mod shard;
pub mod time;
pub mod tpm;
pub mod uefi;
pub mod verdict;
