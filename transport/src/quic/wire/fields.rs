//! Values of fields: their numbers on the wire, and their limits. Writing and reading check alike.

use std::collections::BTreeSet;

use rat_engine::hash::HashAlg;
use rat_engine::ima::LogFormat;
use rat_engine::limits as engine;
use rat_engine::shard::EffectiveStatus;

use super::error::{FieldFault, WireError};
use super::preamble::FrameType;
use crate::limits;

/// A limit, under the name that metrics count it by.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cap {
    limit: &'static str,
    max: usize,
    unit: &'static str,
}

const fn cap(limit: &'static str, max: usize, unit: &'static str) -> Cap {
    Cap { limit, max, unit }
}

pub(super) const EXTENSIONS: Cap = cap("EXTENSIONS_MAX", limits::EXTENSIONS_MAX, "extensions");
pub(super) const EXTENSION: Cap = cap("EXTENSION_BYTES_MAX", limits::EXTENSION_BYTES_MAX, "bytes");
pub(super) const FORMATS: Cap = cap("LOG_FORMATS_MAX", limits::LOG_FORMATS_MAX, "formats");
pub(super) const BANKS: Cap = cap("PCR_BANKS_MAX", engine::PCR_BANKS_MAX, "banks");
pub(super) const PCR_VALUES: Cap = cap("PCR_COUNT", VALUES_MAX, "values");
pub(super) const CERTIFICATES: Cap =
    cap("CERTIFICATES_MAX", limits::CERTIFICATES_MAX, "certificates");
pub(super) const CERTIFICATE: Cap = cap(
    "CERTIFICATE_BYTES_MAX",
    limits::CERTIFICATE_BYTES_MAX,
    "bytes",
);
pub(super) const CSR: Cap = cap("CSR_BYTES_MAX", limits::CSR_BYTES_MAX, "bytes");
pub(super) const QUOTE: Cap = cap("ATTEST_BYTES_MAX", engine::ATTEST_BYTES_MAX, "bytes");
pub(super) const SIGNATURE: Cap = cap("SIGNATURE_BYTES_MAX", engine::SIGNATURE_BYTES_MAX, "bytes");
pub(super) const CODE: Cap = cap("CODE_BYTES_MAX", limits::CODE_BYTES_MAX, "bytes");
pub(super) const DETAIL: Cap = cap("DETAIL_BYTES_MAX", limits::DETAIL_BYTES_MAX, "bytes");

pub(super) const PIECE: Cap = cap("PIECE_BYTES_MAX", limits::PIECE_BYTES_MAX, "bytes");

/// Every PCR in every bank that we compute.
const VALUES_MAX: usize = 24 * 4;
const _: () = assert!(VALUES_MAX == engine::PCR_COUNT.saturating_mul(HashAlg::ALL.len()));

/// A field of a frame, for errors.
#[derive(Clone, Copy)]
pub(super) struct Field {
    frame: FrameType,
    name: &'static str,
}

/// Names a field.
pub(super) const fn field(frame: FrameType, name: &'static str) -> Field {
    Field { frame, name }
}

impl Field {
    pub(super) const fn fault(self, fault: FieldFault) -> WireError {
        let Self { frame, name: field } = self;
        WireError::Field {
            frame,
            field,
            fault,
        }
    }

    pub(super) const fn unknown(self, value: u64) -> WireError {
        self.fault(FieldFault::Unknown { value })
    }

    /// A count or length within its limit.
    pub(super) fn within(self, cap: Cap, found: usize) -> Result<(), WireError> {
        let Cap { limit, max, unit } = cap;
        if found <= max {
            return Ok(());
        }
        Err(self.fault(FieldFault::OverLimit {
            found: u64::try_from(found).unwrap_or(u64::MAX),
            max: u64::try_from(max).unwrap_or(u64::MAX),
            unit,
            limit,
        }))
    }

    /// At least one, and within the limit.
    pub(super) fn some_within(self, cap: Cap, found: usize) -> Result<(), WireError> {
        if found == 0 {
            return Err(self.fault(FieldFault::Empty));
        }
        self.within(cap, found)
    }

    /// At least one certificate, none empty, all within their limits.
    pub(super) fn certificates(self, list: &[Vec<u8>]) -> Result<(), WireError> {
        self.some_within(CERTIFICATES, list.len())?;
        list.iter()
            .try_for_each(|certificate| self.some_within(CERTIFICATE, certificate.len()))
    }

    /// Numbers that occur once each.
    pub(super) fn distinct(self, numbers: impl Iterator<Item = u64>) -> Result<(), WireError> {
        let mut seen = BTreeSet::new();
        for value in numbers {
            if !seen.insert(value) {
                return Err(self.fault(FieldFault::Duplicate { value }));
            }
        }
        Ok(())
    }

    pub(super) fn bank(self, id: u16) -> Result<HashAlg, WireError> {
        HashAlg::from_tpm_id(id).ok_or(self.unknown(id.into()))
    }

    pub(super) fn log_format(self, number: u8) -> Result<LogFormat, WireError> {
        match number {
            1 => Ok(LogFormat::Ascii),
            2 => Ok(LogFormat::Binary),
            value => Err(self.unknown(value.into())),
        }
    }

    pub(super) fn status(self, number: u8) -> Result<EffectiveStatus, WireError> {
        EffectiveStatus::ALL
            .into_iter()
            .find(|status| status_number(*status) == number)
            .ok_or(self.unknown(number.into()))
    }
}

pub(super) const fn log_format_number(format: LogFormat) -> u8 {
    match format {
        LogFormat::Ascii => 1,
        LogFormat::Binary => 2,
    }
}

pub(super) const fn status_number(status: EffectiveStatus) -> u8 {
    match status {
        EffectiveStatus::Trusted => 1,
        EffectiveStatus::TrustedUnenforced => 2,
        EffectiveStatus::Authentic => 3,
        EffectiveStatus::Pending => 4,
        EffectiveStatus::Unverified => 5,
        EffectiveStatus::Overdue => 6,
        EffectiveStatus::Untrusted => 7,
        EffectiveStatus::Blocked => 8,
    }
}
