//! PCR values from events, and the proof that they are the quoted ones.

use crate::crypto::extend;
use crate::fault::fault_point;
use crate::hash::{Digest, HashAlg};
use crate::limits;
use crate::pcr::{PcrIndex, PcrSet, PcrValues};

use super::coverage::{AuthenticatedData, covered, must_cover};
use super::error::{DigestFault, EventPlace, UefiError, UefiPcrMismatch};
use super::event::EventType;
use super::log::EventLog;
use super::order::Order;

/// An event that was extended, in one bank.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Measurement<'a> {
    /// Where the event stands in its log.
    pub place: EventPlace,
    /// The PCR it was extended into.
    pub pcr: PcrIndex,
    /// The type that the log claims; never hashed (attack E01).
    pub event_type: EventType,
    /// What was extended.
    pub digest: Digest,
    /// The data that the digest covers.
    pub data: AuthenticatedData<'a>,
}

/// The PCR values that a log leads to, in one bank.
///
/// # Security
/// A computation over the sender's claims: it says something about the machine only once
/// [`compare`] found the values in a quote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replay<'a> {
    bank: HashAlg,
    values: PcrValues,
    measured: PcrSet,
    separated: PcrSet,
    startup_locality: u8,
    measurements: Vec<Measurement<'a>>,
}

impl<'a> EventLog<'a> {
    /// Replays one bank.
    ///
    /// Every event except `EV_NO_ACTION` is extended, whatever its type. PCR 0 starts from the
    /// StartupLocality; PCR 17-22 start from zero when the log measures into them, since only a
    /// dynamic launch does, and it resets them.
    ///
    /// # Errors
    /// [`UefiError::BankMissing`], [`UefiError::Order`], [`UefiError::EventDigest`] when a digest
    /// must be that of the event's data and is not, or [`UefiError::Malformed`] for a bad
    /// StartupLocality.
    ///
    /// Cost: one extend and about one hash over the data of each event.
    pub fn replay(&self, bank: HashAlg) -> Result<Replay<'a>, UefiError> {
        fault_point!(UefiError::BankMissing { bank });
        if !self.has_bank(bank) {
            return Err(UefiError::BankMissing { bank });
        }
        let mut order = Order::default();
        let mut measurements = Vec::with_capacity(self.events().len());
        for event in self.events() {
            let Some(digest) = event.digest(bank) else {
                // Only the header of a crypto-agile log, which is SHA-1 in form and never
                // extended, has no digest of a bank that the log has.
                continue;
            };
            order.admit(event, &digest)?;
            let (true, Some(pcr)) = (event.is_extended(), event.pcr()) else {
                continue;
            };
            let data = covered(event.event_type, event.data, &digest);
            if must_cover(event.event_type) && data == AuthenticatedData::Nothing {
                let fault = DigestFault::NotOfData { bank };
                let place = event.place;
                return Err(UefiError::EventDigest { place, fault });
            }
            measurements.push(Measurement {
                place: event.place,
                pcr,
                event_type: event.event_type,
                digest,
                data,
            });
        }
        order.finish()?;
        Ok(Replay::new(bank, &order, measurements))
    }
}

impl<'a> Replay<'a> {
    fn new(bank: HashAlg, order: &Order, measurements: Vec<Measurement<'a>>) -> Self {
        let measured = order.extended();
        let mut values = [Digest::zero(bank); limits::PCR_COUNT];
        for (index, value) in (0_u64..).zip(values.iter_mut()) {
            if let Some(pcr) = PcrIndex::new(index) {
                *value = start_value(bank, pcr, order);
            }
        }
        for measurement in &measurements {
            if let Some(value) = values.get_mut(usize::from(measurement.pcr.get())) {
                *value = extend(value, &measurement.digest);
            }
        }
        let mut by_pcr = PcrValues::new();
        for (index, value) in (0_u64..).zip(values) {
            if let Some(pcr) = PcrIndex::new(index) {
                by_pcr.insert(pcr, value);
            }
        }
        Self {
            bank,
            values: by_pcr,
            measured,
            separated: order.separated(),
            startup_locality: order.startup_locality(),
            measurements,
        }
    }

    /// The bank that was replayed.
    pub const fn bank(&self) -> HashAlg {
        self.bank
    }

    /// The value of every PCR, 0 to 23, in the replayed bank.
    pub const fn values(&self) -> &PcrValues {
        &self.values
    }

    /// The PCRs into which at least one event was extended.
    pub const fn measured(&self) -> PcrSet {
        self.measured
    }

    /// The PCRs of 0-7 into which events were extended, but no separator. Firmware that leaves
    /// separators out gives later software a say in what stands before them.
    pub const fn without_separator(&self) -> PcrSet {
        self.measured
            .intersection(PcrSet::FIRMWARE)
            .difference(self.separated)
    }

    /// The locality in which the TPM was started: 0, 3, or 4 after an H-CRTM sequence.
    pub const fn startup_locality(&self) -> u8 {
        self.startup_locality
    }

    /// How many events were extended into a PCR.
    pub fn event_count(&self, pcr: PcrIndex) -> usize {
        self.measurements
            .iter()
            .filter(|measurement| measurement.pcr == pcr)
            .count()
    }

    /// The events that were extended, for display only.
    ///
    /// # Security
    /// The sender's claims; [`BootProof::measurements`] has those that a quote proves.
    pub fn unverified_measurements(&self) -> &[Measurement<'a>] {
        &self.measurements
    }
}

/// The value from which a PCR is extended.
///
/// Source: TCG PC Client Platform TPM Profile, 4.6 "PCR attributes"; TPM 2.0 Part 1, 34.3.
fn start_value(bank: HashAlg, pcr: PcrIndex, order: &Order) -> Digest {
    match pcr.get() {
        0 => {
            let mut bytes = vec![0; bank.size()];
            if let Some(last) = bytes.last_mut() {
                *last = order.startup_locality();
            }
            // As many bytes as the bank has, so the fallback cannot be reached.
            Digest::new(bank, &bytes).unwrap_or(Digest::zero(bank))
        }
        17..=22 if !order.extended().contains(pcr) => Digest::ones(bank),
        _ => Digest::zero(bank),
    }
}

/// The proof that a log is the one that led to the quoted PCR values.
///
/// Made by [`compare`] alone, for the PCRs compared there.
///
/// # Security
/// As strong as the values it was compared with: they must come from a verified quote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootProof<'a> {
    bank: HashAlg,
    pcrs: PcrSet,
    without_separator: PcrSet,
    measurements: Vec<Measurement<'a>>,
}

/// A boot proof without the events. Made by [`BootProof::explained`] only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExplainedBoot {
    pcrs: PcrSet,
}

impl ExplainedBoot {
    /// The PCRs whose quoted values the log explains.
    pub const fn pcrs(&self) -> PcrSet {
        self.pcrs
    }

    /// What both explain: a machine's banks are proven one by one.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self {
            pcrs: self.pcrs.intersection(other.pcrs),
        }
    }
}

impl<'a> BootProof<'a> {
    /// What it proves, to be kept when the log is gone.
    pub const fn explained(&self) -> ExplainedBoot {
        ExplainedBoot { pcrs: self.pcrs }
    }

    /// The bank that was compared.
    pub const fn bank(&self) -> HashAlg {
        self.bank
    }

    /// The PCRs that were compared.
    pub const fn pcrs(&self) -> PcrSet {
        self.pcrs
    }

    /// The compared PCRs of 0-7 that have events but no separator.
    pub const fn without_separator(&self) -> PcrSet {
        self.without_separator
    }

    /// The events of the compared PCRs, with the data that their digests cover.
    ///
    /// # Security
    /// Digest, covered data and order within each PCR are authenticated; the type is not
    /// (attack E01), nor is the order of events in different PCRs.
    pub fn measurements(&self) -> &[Measurement<'a>] {
        &self.measurements
    }
}

/// Compares a replay with quoted values, in the replay's bank.
///
/// # Errors
/// [`UefiPcrMismatch`]: a PCR differs, is not quoted, or `pcrs` is empty.
///
/// # Security
/// `quoted` must be values that a verified quote covers.
pub fn compare<'a>(
    replay: &Replay<'a>,
    quoted: &PcrValues,
    pcrs: PcrSet,
) -> Result<BootProof<'a>, UefiPcrMismatch> {
    let bank = replay.bank;
    fault_point!(UefiPcrMismatch::NoPcr);
    if pcrs.is_empty() {
        return Err(UefiPcrMismatch::NoPcr);
    }
    let not_quoted = pcrs.difference(quoted.pcrs(bank));
    if let Some(pcr) = not_quoted.iter().next() {
        return Err(UefiPcrMismatch::NotQuoted {
            pcr,
            bank,
            all: not_quoted,
        });
    }
    let differing: PcrSet = pcrs
        .iter()
        .filter(|pcr| replay.values.get(bank, *pcr) != quoted.get(bank, *pcr))
        .collect();
    if let Some(pcr) = differing.iter().next() {
        return Err(UefiPcrMismatch::Differs {
            pcr,
            bank,
            event_count: replay.event_count(pcr),
            all: differing,
        });
    }
    let measurements = replay.measurements.iter();
    Ok(BootProof {
        bank,
        pcrs,
        without_separator: replay.without_separator().intersection(pcrs),
        measurements: measurements
            .filter(|measurement| pcrs.contains(measurement.pcr))
            .copied()
            .collect(),
    })
}
