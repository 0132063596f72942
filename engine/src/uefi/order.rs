//! The order in which firmware measures.

use crate::bytes::Reader;
use crate::crypto::digest;
use crate::hash::{Digest, HashAlg};
use crate::malformed::{Fault, Malformed};
use crate::pcr::{PcrIndex, PcrSet};

use super::error::{EventPlace, OrderFault, UefiError};
use super::event::{Event, EventType};

const STARTUP_LOCALITY: &[u8; 16] = b"StartupLocality\0";

/// The locality of an H-CRTM sequence, and so PCR 0's start value after one.
///
/// Source: TPM 2.0 Part 1, section "H-CRTM before TPM2_Startup()".
const HCRTM_LOCALITY: u8 = 4;

/// The values of a separator: of a boot without error (both are allowed), and after an error.
///
/// Source: PFP 1.06, section 10.4.1, EV_SEPARATOR.
const SEPARATORS: [[u8; 4]; 2] = [[0; 4], [0xff; 4]];
const ERROR_SEPARATOR: [u8; 4] = [1, 0, 0, 0];

const SECURE_BOOT_PCR: u8 = 7;

/// The rules on order, applied to each event in turn.
///
/// The separator of a PCR ends what firmware says about the platform. Whoever runs later can
/// still extend the PCR, so what stands after the separator must not be read as configuration
/// (attack E03). After the separator of
///
/// - PCR 0 and 3: nothing;
/// - PCR 2: only drivers (boot loaders load drivers from disk, which firmware measures there);
/// - PCR 7: only the authority that verified an image, and actions; its configuration
///   variables stand before. Since this PCR decides about Secure Boot, it must have a separator
///   when it has events, and no other event may have a separator's digest: types are not
///   hashed, and the true separator might be disguised to let a second one stand later;
/// - PCR 1, 4, 5 and 6: anything but a second separator. Real firmware measures boot variables,
///   handoff tables and flags into PCR 1 after its separator; boot loaders use 4 and 5.
///
/// A separator may be missing elsewhere, as in the log of a real vTPM: [`Self::separated`].
#[derive(Debug, Clone, Default)]
pub(super) struct Order {
    startup_locality: Option<u8>,
    has_hcrtm: bool,
    extended: PcrSet,
    separated: PcrSet,
    secure_boot_last: Option<EventPlace>,
}

impl Order {
    /// Takes the next event of the log, with its digest in the bank that is replayed.
    pub(super) fn admit(&mut self, event: &Event<'_>, value: &Digest) -> Result<(), UefiError> {
        let place = event.place;
        let refuse = |fault| Err(UefiError::Order { place, fault });
        let Some(pcr) = event.pcr() else {
            return Ok(());
        };
        if !event.is_extended() {
            return match self.no_action(event)? {
                Some(fault) => refuse(fault),
                None => Ok(()),
            };
        }
        if pcr.get() == 0 && event.event_type == EventType::EFI_HCRTM_EVENT {
            self.has_hcrtm = true;
            if let Some(locality) = self.startup_locality
                && locality != HCRTM_LOCALITY
            {
                return refuse(OrderFault::HcrtmLocality { locality });
            }
        }
        if PcrSet::FIRMWARE.contains(pcr)
            && let Some(fault) = self.separators(pcr, event, value)
        {
            return refuse(fault);
        }
        if pcr.get() == SECURE_BOOT_PCR {
            self.secure_boot_last = Some(place);
        }
        self.extended.insert(pcr);
        Ok(())
    }

    /// Checks what must hold once every event was admitted.
    pub(super) fn finish(&self) -> Result<(), UefiError> {
        match self.secure_boot_last {
            Some(place) if !place.pcr.is_some_and(|pcr| self.separated.contains(pcr)) => {
                Err(UefiError::Order {
                    place,
                    fault: OrderFault::MissingSeparator,
                })
            }
            _ => Ok(()),
        }
    }

    /// The PCRs that have events that are extended.
    pub(super) const fn extended(&self) -> PcrSet {
        self.extended
    }

    /// The PCRs of 0-7 that have a separator.
    pub(super) const fn separated(&self) -> PcrSet {
        self.separated
    }

    /// The locality in which the TPM was started: the last byte of PCR 0's start value.
    pub(super) fn startup_locality(&self) -> u8 {
        match self.startup_locality {
            Some(locality) => locality,
            None if self.has_hcrtm => HCRTM_LOCALITY,
            None => 0,
        }
    }

    /// PFP 1.06, 10.4.5.3 "Startup Locality Event": before the first event of PCR 0.
    fn no_action(&mut self, event: &Event<'_>) -> Result<Option<OrderFault>, Malformed> {
        if !event.data.starts_with(STARTUP_LOCALITY) {
            return Ok(None);
        }
        let locality = parse_startup_locality(event.data)?;
        if self.startup_locality.is_some() {
            return Ok(Some(OrderFault::SecondStartupLocality));
        }
        if PcrIndex::new(0).is_some_and(|pcr| self.extended.contains(pcr)) {
            return Ok(Some(OrderFault::LateStartupLocality));
        }
        self.startup_locality = Some(locality);
        Ok(None)
    }

    fn separators(
        &mut self,
        pcr: PcrIndex,
        event: &Event<'_>,
        value: &Digest,
    ) -> Option<OrderFault> {
        if event.event_type == EventType::SEPARATOR {
            if digest(value.alg(), &ERROR_SEPARATOR) == *value {
                return Some(OrderFault::ErrorSeparator);
            }
            if !SEPARATORS.iter().any(|separator| event.data == separator) {
                return Some(OrderFault::SeparatorValue);
            }
            return (!self.separated.insert(pcr)).then_some(OrderFault::SecondSeparator);
        }
        if pcr.get() == SECURE_BOOT_PCR && is_separator_digest(value) {
            return Some(OrderFault::DisguisedSeparator);
        }
        let is_late = self.separated.contains(pcr) && !may_follow_separator(pcr, event.event_type);
        is_late.then_some(OrderFault::AfterSeparator)
    }
}

fn is_separator_digest(value: &Digest) -> bool {
    let alg: HashAlg = value.alg();
    SEPARATORS
        .iter()
        .chain([&ERROR_SEPARATOR])
        .any(|separator| digest(alg, separator) == *value)
}

fn may_follow_separator(pcr: PcrIndex, event_type: EventType) -> bool {
    match pcr.get() {
        0 | 3 => false,
        2 => matches!(
            event_type,
            EventType::EFI_BOOT_SERVICES_DRIVER | EventType::EFI_RUNTIME_SERVICES_DRIVER
        ),
        SECURE_BOOT_PCR => matches!(
            event_type,
            EventType::EFI_VARIABLE_AUTHORITY | EventType::EFI_ACTION
        ),
        _ => true,
    }
}

/// The locality of a StartupLocality event's data: 0, 3, or 4 after an H-CRTM sequence.
pub(super) fn parse_startup_locality(data: &[u8]) -> Result<u8, Malformed> {
    let mut reader = Reader::new("TCG_EfiStartupLocalityEvent", data);
    reader.take("Signature", STARTUP_LOCALITY.len())?;
    let before = reader.clone();
    let locality = reader.u8("StartupLocality")?;
    if !matches!(locality, 0 | 3 | HCRTM_LOCALITY) {
        let value = u64::from(locality);
        return Err(before.fault("StartupLocality", Fault::Forbidden { value }));
    }
    reader.finish()?;
    Ok(locality)
}

/// Whether event data is a StartupLocality event's.
pub(super) fn is_startup_locality(data: &[u8]) -> bool {
    data.starts_with(STARTUP_LOCALITY)
}
