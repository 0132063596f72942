//! The firmware's event log (measured boot): parsed, replayed, and compared with quoted PCRs.
//!
//! The stages, each of which takes what the one before returned:
//!
//! 1. [`EventLog::parse`] checks the form of the log, and nothing else: every field of it is
//!    still whatever the sender says.
//! 2. [`EventLog::replay`] computes the PCR values of one bank, checks the order of events and
//!    finds which bytes of each event's data its digest covers ([`AuthenticatedData`]).
//! 3. [`compare`] compares the replayed values with the quoted ones, and gives a [`BootProof`]:
//!    the only place where authenticated event data can be read.
//!
//! # Security
//! A PCR authenticates the digests of its events and their order within that PCR. It does not
//! authenticate:
//!
//! - the event **type** (attack E01): two types may stand for one digest. Every event is
//!   extended except `EV_NO_ACTION`, known type or not, so a type can hide nothing from the
//!   replay; rules of a policy must rest on digests and covered data, and may use the type only
//!   to choose which rule applies;
//! - event data that the digest is not made of (attack E02), such as the path of a measured file;
//! - the order of events in different PCRs;
//! - `EV_NO_ACTION` events, except that a wrong StartupLocality gives a wrong PCR 0.
//!
//! Source: TCG PC Client Platform Firmware Profile (PFP) 1.05 and 1.06, section 10 "Event
//! Logging"; UEFI Specification 2.10, sections 10 and 32.

mod coverage;
pub mod decode;
mod error;
mod event;
mod log;
mod order;
pub mod policy;
mod replay;
mod spec_id;

pub use coverage::AuthenticatedData;
pub use error::{DigestFault, EventPlace, OrderFault, UefiError, UefiPcrMismatch};
pub use event::{Event, EventType};
pub use log::EventLog;
pub use replay::{BootProof, ExplainedBoot, Measurement, Replay, compare};
pub use spec_id::{LogAlgorithm, SpecId};

#[cfg(test)]
mod tests;
