//! The form of a log: header, events, padding.

use crate::bytes::Reader;
use crate::hash::HashAlg;
use crate::limits;
use crate::malformed::Fault;
use crate::pcr::PcrIndex;

use super::error::{DigestFault, EventPlace, UefiError};
use super::event::{Event, EventDigests, EventType};
use super::spec_id::{LogAlgorithm, SpecId};

/// The PCR index of `EV_NO_ACTION` events that belong to no PCR.
const NO_PCR: u32 = 0xffff_ffff;

/// The one algorithm of logs that are not crypto-agile.
const SHA1_ONLY: [LogAlgorithm; 1] = [LogAlgorithm {
    id: HashAlg::Sha1.tpm_id(),
    size: HashAlg::Sha1.size(),
}];

/// A log whose form is right, borrowed from its bytes.
///
/// # Security
/// Nothing in it is authenticated yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventLog<'a> {
    spec_id: Option<SpecId>,
    events: Vec<Event<'a>>,
    padding_bytes: usize,
}

impl<'a> EventLog<'a> {
    /// Parses a log, SHA-1 only (TPM 1.2 form) or crypto-agile.
    ///
    /// A log is crypto-agile when its first event is `EV_NO_ACTION` with a `Spec ID Event03`; then
    /// each event must have exactly the algorithms of that header, once each. Copies of the
    /// firmware's whole log area end in padding: a run of 0x00, or of 0xff, up to the last byte is
    /// counted ([`Self::padding_bytes`]); anything else after the last event is malformed.
    ///
    /// # Errors
    /// [`UefiError::Empty`], [`UefiError::Malformed`], [`UefiError::Limit`], or
    /// [`UefiError::EventDigest`] for an `EV_NO_ACTION` event of a PCR with a digest.
    ///
    /// Source: PFP 1.06, section 10.2 (`TCG_PCClientPCREvent`, `TCG_PCR_EVENT2`).
    pub fn parse(bytes: &'a [u8]) -> Result<Self, UefiError> {
        if bytes.len() > limits::UEFI_LOG_BYTES_MAX {
            return Err(UefiError::Limit {
                limit: "UEFI_LOG_BYTES_MAX",
                offset: 0,
                value: bytes.len(),
                max: limits::UEFI_LOG_BYTES_MAX,
            });
        }
        let padding_start = padding_start(bytes);
        if padding_start == 0 {
            return Err(UefiError::Empty);
        }
        let mut reader = Reader::new("TCG event log", bytes);
        let first = event(&mut reader, 0, Form::Sha1)?;
        let spec_id = if first.event_type == EventType::NO_ACTION && SpecId::is_header(first.data) {
            Some(SpecId::parse(first.data)?)
        } else {
            None
        };
        let form = match &spec_id {
            Some(spec_id) => Form::Agile(&spec_id.algorithms),
            None => Form::Sha1,
        };
        let mut events = vec![first];
        while reader.offset() < padding_start {
            if events.len() >= limits::UEFI_EVENTS_MAX {
                return Err(UefiError::Limit {
                    limit: "UEFI_EVENTS_MAX",
                    offset: reader.offset(),
                    value: events.len().saturating_add(1),
                    max: limits::UEFI_EVENTS_MAX,
                });
            }
            events.push(event(&mut reader, events.len(), form)?);
        }
        Ok(Self {
            spec_id,
            events,
            padding_bytes: reader.rest().len(),
        })
    }

    /// The events in the log's order, the header of a crypto-agile log included.
    pub fn events(&self) -> &[Event<'a>] {
        &self.events
    }

    /// The header; `None` for a SHA-1 only log.
    pub const fn spec_id(&self) -> Option<&SpecId> {
        self.spec_id.as_ref()
    }

    /// The algorithms of which every event has a digest.
    pub fn algorithms(&self) -> &[LogAlgorithm] {
        match &self.spec_id {
            Some(spec_id) => &spec_id.algorithms,
            None => &SHA1_ONLY,
        }
    }

    /// The banks that can be replayed, weakest first.
    pub fn banks(&self) -> impl Iterator<Item = HashAlg> {
        HashAlg::ALL.into_iter().filter(|bank| self.has_bank(*bank))
    }

    /// Whether this bank can be replayed.
    pub fn has_bank(&self, bank: HashAlg) -> bool {
        self.algorithms()
            .iter()
            .any(|algorithm| algorithm.bank() == Some(bank))
    }

    /// Bytes of padding after the last event.
    pub const fn padding_bytes(&self) -> usize {
        self.padding_bytes
    }
}

/// The form of the next event.
#[derive(Debug, Clone, Copy)]
enum Form<'s> {
    /// `TCG_PCClientPCREvent`.
    Sha1,
    /// `TCG_PCR_EVENT2`.
    Agile(&'s [LogAlgorithm]),
}

/// Where the longest run of one padding byte at the end of the log starts.
///
/// Found once and from the end, so that no log can make it cost more than one pass.
fn padding_start(bytes: &[u8]) -> usize {
    let padding = match bytes.last() {
        Some(0x00) => 0x00,
        Some(0xff) => 0xff,
        _ => return bytes.len(),
    };
    bytes
        .iter()
        .rposition(|byte| *byte != padding)
        .map_or(0, |last| last.saturating_add(1))
}

fn event<'a>(
    reader: &mut Reader<'a>,
    index: usize,
    form: Form<'_>,
) -> Result<Event<'a>, UefiError> {
    let start = reader.clone();
    let pcr = reader.u32_le("pcrIndex")?;
    let event_type = EventType::new(reader.u32_le("eventType")?);
    let pcr = match PcrIndex::new(u64::from(pcr)) {
        Some(pcr) => Some(pcr),
        None if pcr == NO_PCR && event_type == EventType::NO_ACTION => None,
        None => {
            let value = u64::from(pcr);
            return Err(start.fault("pcrIndex", Fault::Forbidden { value }).into());
        }
    };
    let place = EventPlace {
        index,
        pcr,
        offset: start.offset(),
    };
    let must_be_zero = event_type == EventType::NO_ACTION && pcr.is_some();
    let digests = match form {
        Form::Sha1 => sha1_digest(reader, place, must_be_zero)?,
        Form::Agile(algorithms) => digests(reader, algorithms, place, must_be_zero)?,
    };
    let before = reader.offset();
    let size = usize::try_from(reader.u32_le("eventSize")?).unwrap_or(usize::MAX);
    if size > limits::UEFI_EVENT_BYTES_MAX {
        return Err(UefiError::Limit {
            limit: "UEFI_EVENT_BYTES_MAX",
            offset: before,
            value: size,
            max: limits::UEFI_EVENT_BYTES_MAX,
        });
    }
    let data = reader.take("event", size)?;
    Ok(Event {
        place,
        event_type,
        digests,
        data,
    })
}

fn sha1_digest<'a>(
    reader: &mut Reader<'a>,
    place: EventPlace,
    must_be_zero: bool,
) -> Result<EventDigests<'a>, UefiError> {
    let bytes = reader.take("digest", HashAlg::Sha1.size())?;
    check_zero(HashAlg::Sha1.tpm_id(), bytes, place, must_be_zero)?;
    let mut digests = EventDigests::default();
    digests.set(HashAlg::Sha1, bytes);
    Ok(digests)
}

/// `TPML_DIGEST_VALUES`: exactly the algorithms of the header, once each, in any order.
fn digests<'a>(
    reader: &mut Reader<'a>,
    algorithms: &[LogAlgorithm],
    place: EventPlace,
    must_be_zero: bool,
) -> Result<EventDigests<'a>, UefiError> {
    let before = reader.clone();
    let count = usize::try_from(reader.u32_le("digests.count")?).unwrap_or(usize::MAX);
    if count != algorithms.len() {
        let fault = Fault::Length {
            value: count,
            min: algorithms.len(),
            max: algorithms.len(),
        };
        return Err(before.fault("digests.count", fault).into());
    }
    let mut digests = EventDigests::default();
    let mut seen = 0_u32;
    for _ in 0..count {
        let before = reader.clone();
        let id = reader.u16_le("digests.hashAlg")?;
        let value = u64::from(id);
        let Some((nth, algorithm)) = (0_u32..)
            .zip(algorithms)
            .find(|(_, algorithm)| algorithm.id == id)
        else {
            let fault = Fault::Unknown { value };
            return Err(before.fault("digests.hashAlg", fault).into());
        };
        // At most UEFI_ALGORITHMS_MAX algorithms, so no bit wraps.
        let bit = 1_u32.wrapping_shl(nth);
        if seen & bit != 0 {
            let fault = Fault::Duplicate { value };
            return Err(before.fault("digests.hashAlg", fault).into());
        }
        seen |= bit;
        let bytes = reader.take("digests.digest", algorithm.size)?;
        check_zero(id, bytes, place, must_be_zero)?;
        if let Some(bank) = algorithm.bank() {
            digests.set(bank, bytes);
        }
    }
    Ok(digests)
}

/// PFP 1.06, 10.4.1: the digests of `EV_NO_ACTION` are zero. Real logs keep to it wherever the
/// event names a PCR.
fn check_zero(
    algorithm: u16,
    digest: &[u8],
    place: EventPlace,
    must_be_zero: bool,
) -> Result<(), UefiError> {
    if must_be_zero && digest.iter().any(|byte| *byte != 0) {
        let fault = DigestFault::NoActionNotZero { algorithm };
        return Err(UefiError::EventDigest { place, fault });
    }
    Ok(())
}
