//! What can be wrong with an event log, and where.

use std::fmt;

use thiserror::Error;

use crate::hash::HashAlg;
use crate::malformed::Malformed;
use crate::pcr::{PcrIndex, PcrSet};

/// Where an event stands in its log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventPlace {
    /// The number of the event, from 0.
    pub index: usize,
    /// The PCR it names, if it names one.
    pub pcr: Option<PcrIndex>,
    /// Offset in bytes of the event from the start of the log.
    pub offset: usize,
}

/// `event 12 (PCR 7, byte 4711)`.
impl fmt::Display for EventPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.pcr {
            Some(pcr) => write!(f, "event {} (PCR {pcr}, byte {})", self.index, self.offset),
            None => write!(f, "event {} (no PCR, byte {})", self.index, self.offset),
        }
    }
}

/// A log that cannot be replayed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum UefiError {
    /// There is no event in the log.
    #[error("the event log holds no event")]
    Empty,
    /// The bytes are not a TCG event log.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// The log is larger than we accept.
    #[error("{limit} at byte {offset}: {value} is more than {max}")]
    Limit {
        /// The name of the limit, as in [`crate::limits::ALL`].
        limit: &'static str,
        /// Offset in bytes from the start of the log.
        offset: usize,
        /// The value found.
        value: usize,
        /// The largest value accepted.
        max: usize,
    },
    /// Events stand in an order that no firmware following the PFP produces.
    #[error("{place}: {fault}")]
    Order {
        /// The event that breaks the order.
        place: EventPlace,
        /// The rule that it breaks.
        fault: OrderFault,
    },
    /// An event's digest is not the one that its type and data demand.
    #[error("{place}: {fault}")]
    EventDigest {
        /// The event.
        place: EventPlace,
        /// What is wrong with its digest.
        fault: DigestFault,
    },
    /// The log has no digests of this bank.
    #[error("the event log has no {bank} digests")]
    BankMissing {
        /// The bank asked for.
        bank: HashAlg,
    },
}

impl UefiError {
    /// The event concerned, if it is one.
    pub const fn place(&self) -> Option<&EventPlace> {
        match self {
            Self::Order { place, .. } | Self::EventDigest { place, .. } => Some(place),
            Self::Empty | Self::Malformed(_) | Self::Limit { .. } | Self::BankMissing { .. } => {
                None
            }
        }
    }

    /// The stable verdict code.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Empty => "uefi.empty",
            Self::Malformed(_) => "uefi.malformed",
            Self::Limit { .. } => "uefi.limit",
            Self::Order { .. } => "uefi.order",
            Self::EventDigest { .. } => "uefi.event_digest",
            Self::BankMissing { .. } => "uefi.bank_missing",
        }
    }
}

/// A rule on the order of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum OrderFault {
    /// StartupLocality after an event of PCR 0, whose start value it gives.
    #[error("StartupLocality after the first event of PCR 0")]
    LateStartupLocality,
    /// StartupLocality for the second time.
    #[error("a second StartupLocality")]
    SecondStartupLocality,
    /// An H-CRTM measurement, though StartupLocality says that there was none.
    #[error("EV_EFI_HCRTM_EVENT, but StartupLocality is {locality} and not 4")]
    HcrtmLocality {
        /// The locality that the log gives.
        locality: u8,
    },
    /// A separator in a PCR that has one already.
    #[error("a second separator")]
    SecondSeparator,
    /// A separator that is neither of the two values of a boot without error.
    #[error("the separator is not 00000000 or ffffffff")]
    SeparatorValue,
    /// The separator by which firmware says that measuring failed.
    #[error("firmware reports that measuring failed (separator 00000001)")]
    ErrorSeparator,
    /// A separator's digest on an event that claims another type.
    #[error("the digest of a separator on an event of another type")]
    DisguisedSeparator,
    /// An event that belongs before the PCR's separator stands after it.
    #[error("an event of this type after the separator")]
    AfterSeparator,
    /// The Secure Boot PCR has events but no separator that ends its configuration.
    #[error("PCR 7 has no separator")]
    MissingSeparator,
}

/// A rule on digests of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum DigestFault {
    /// An `EV_NO_ACTION` event, which is never extended, has a digest that is not zero.
    #[error("EV_NO_ACTION with a digest that is not zero (algorithm {algorithm:#06x})")]
    NoActionNotZero {
        /// The algorithm's TCG identifier.
        algorithm: u16,
    },
    /// The digest must be that of the event's data, and is not.
    #[error("the {bank} digest is not that of the event data")]
    NotOfData {
        /// The bank that was replayed.
        bank: HashAlg,
    },
}

/// A replay that does not lead to the quoted values, or values that were not quoted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum UefiPcrMismatch {
    /// The replayed value differs from the quoted one.
    #[error("PCR {pcr} ({bank}) does not replay from its {event_count} events; differing: {all}")]
    Differs {
        /// The lowest PCR that differs.
        pcr: PcrIndex,
        /// The bank.
        bank: HashAlg,
        /// How many events the log has for that PCR.
        event_count: usize,
        /// Every PCR that differs.
        all: PcrSet,
    },
    /// A PCR to be compared has no quoted value in the replayed bank.
    #[error("PCR {pcr} ({bank}) is not quoted; not quoted: {all}")]
    NotQuoted {
        /// The lowest PCR that is not quoted.
        pcr: PcrIndex,
        /// The bank.
        bank: HashAlg,
        /// Every PCR that is not quoted.
        all: PcrSet,
    },
    /// No PCR was to be compared: that proves nothing.
    #[error("no PCR is to be compared")]
    NoPcr,
}

impl UefiPcrMismatch {
    /// The lowest PCR concerned.
    pub const fn pcr(&self) -> Option<PcrIndex> {
        match self {
            Self::Differs { pcr, .. } | Self::NotQuoted { pcr, .. } => Some(*pcr),
            Self::NoPcr => None,
        }
    }

    /// The stable verdict code.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Differs { .. } => "uefi.pcr_mismatch",
            Self::NotQuoted { .. } | Self::NoPcr => "uefi.pcr_not_quoted",
        }
    }
}
