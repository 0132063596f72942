//! `TCG_EfiSpecIdEvent`: the header of a crypto-agile log.

use crate::bytes::Reader;
use crate::hash::HashAlg;
use crate::limits;
use crate::malformed::{Fault, Malformed};

/// The signature that makes a log crypto-agile.
const SIGNATURE: &[u8; 16] = b"Spec ID Event03\0";

/// An algorithm of a log, and the size of its digests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogAlgorithm {
    /// `TPM_ALG_ID`.
    pub id: u16,
    /// Bytes per digest.
    pub size: usize,
}

impl LogAlgorithm {
    /// The bank, if it is one that we compute.
    pub const fn bank(self) -> Option<HashAlg> {
        HashAlg::from_tpm_id(self.id)
    }

    /// The digest size that the TCG Algorithm Registry gives, for every algorithm it names.
    const fn registered_size(id: u16) -> Option<usize> {
        match HashAlg::from_tpm_id(id) {
            Some(alg) => Some(alg.size()),
            None => match id {
                0x0012 | 0x0027 => Some(32), // SM3_256, SHA3_256
                0x0028 => Some(48),          // SHA3_384
                0x0029 => Some(64),          // SHA3_512
                _ => None,
            },
        }
    }
}

/// What the header of a crypto-agile log says.
///
/// Source: PFP 1.06, section 10.4.5.1 "Specification ID Version Event".
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpecId {
    /// 0 for a client, 1 for a server.
    pub platform_class: u32,
    /// Minor version of the specification's family; its errata.
    pub minor: u8,
    /// Errata of the specification.
    pub errata: u8,
    /// The algorithms of every event, in the header's order.
    pub algorithms: Vec<LogAlgorithm>,
}

impl SpecId {
    /// Whether event data is a `TCG_EfiSpecIdEvent` of a crypto-agile log.
    pub(super) fn is_header(data: &[u8]) -> bool {
        data.starts_with(SIGNATURE)
    }

    /// Parses the data of the first event.
    ///
    /// # Errors
    /// [`Malformed`], with offsets from the start of the event's data, also when a size is not
    /// the one that is registered for its algorithm (attack E03).
    pub(super) fn parse(data: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new("TCG_EfiSpecIdEvent", data);
        reader.take("signature", SIGNATURE.len())?;
        let platform_class = reader.u32_le("platformClass")?;
        let minor = reader.u8("specVersionMinor")?;
        let before = reader.clone();
        let major = reader.u8("specVersionMajor")?;
        if major != 2 {
            let value = u64::from(major);
            return Err(before.fault("specVersionMajor", Fault::Unknown { value }));
        }
        let errata = reader.u8("specErrata")?;
        let before = reader.clone();
        let uintn_size = reader.u8("uintnSize")?;
        if !matches!(uintn_size, 1 | 2) {
            let value = u64::from(uintn_size);
            return Err(before.fault("uintnSize", Fault::Unknown { value }));
        }
        let algorithms = Self::algorithms(&mut reader)?;
        let vendor_bytes = usize::from(reader.u8("vendorInfoSize")?);
        reader.take("vendorInfo", vendor_bytes)?;
        reader.finish()?;
        Ok(Self {
            platform_class,
            minor,
            errata,
            algorithms,
        })
    }

    fn algorithms(reader: &mut Reader<'_>) -> Result<Vec<LogAlgorithm>, Malformed> {
        let before = reader.clone();
        let count = usize::try_from(reader.u32_le("numberOfAlgorithms")?).unwrap_or(usize::MAX);
        if count == 0 || count > limits::UEFI_ALGORITHMS_MAX {
            let fault = Fault::Length {
                value: count,
                min: 1,
                max: limits::UEFI_ALGORITHMS_MAX,
            };
            return Err(before.fault("numberOfAlgorithms", fault));
        }
        let mut algorithms: Vec<LogAlgorithm> = Vec::with_capacity(count);
        for _ in 0..count {
            let before = reader.clone();
            let id = reader.u16_le("algorithmId")?;
            if algorithms.iter().any(|known| known.id == id) {
                let value = u64::from(id);
                return Err(before.fault("algorithmId", Fault::Duplicate { value }));
            }
            let before = reader.clone();
            let size = usize::from(reader.u16_le("digestSize")?);
            let (min, max) = match LogAlgorithm::registered_size(id) {
                Some(registered) => (registered, registered),
                None => (1, limits::UEFI_DIGEST_BYTES_MAX),
            };
            if size < min || size > max {
                let value = size;
                return Err(before.fault("digestSize", Fault::Length { value, min, max }));
            }
            algorithms.push(LogAlgorithm { id, size });
        }
        Ok(algorithms)
    }
}
