//! `TPMS_ATTEST`: what a TPM signs.

use thiserror::Error;

use crate::bytes::Reader;
use crate::hash::HashAlg;
use crate::limits;
use crate::malformed::{Fault, Malformed};
use crate::tpm::selection::PcrSelection;

/// `TPM_GENERATED_VALUE`: the TPM puts it before what it signs, and refuses to sign other bytes
/// that begin with it, when the key is restricted.
///
/// Source: TPM 2.0 Part 2, 6.2 "TPM_GENERATED".
const GENERATED: u32 = 0xff54_4347;

const STRUCTURE: &str = "TPMS_ATTEST";

/// An attestation structure, borrowed from the bytes that the signature covers.
///
/// # Security
/// Nothing in it is authenticated until the signature over exactly these bytes was verified with
/// a restricted key of a known TPM.
///
/// Source: TPM 2.0 Part 2, 10.12.12 `TPMS_ATTEST`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attest<'a> {
    /// `qualifiedSigner`: the qualified name of the signing key.
    pub qualified_signer: &'a [u8],
    /// `extraData`: what the caller of the TPM gave as qualifying data, the nonce of a quote.
    pub extra_data: &'a [u8],
    /// `clockInfo`: the TPM's clock and its counters.
    pub clock: ClockInfo,
    /// `firmwareVersion`: the vendor's number of the TPM's firmware.
    pub firmware_version: u64,
    /// `attested`: what the TPM says about which thing.
    pub attested: Attested<'a>,
}

/// The TPM's clock at the time of signing.
///
/// Source: TPM 2.0 Part 2, 10.11.1 `TPMS_CLOCK_INFO`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockInfo {
    /// `clock`: milliseconds that the TPM was powered, over its life.
    pub clock_ms: u64,
    /// `resetCount`: TPM Resets since the last clear.
    pub reset_count: u32,
    /// `restartCount`: TPM Restarts and Resumes since the last reset or clear.
    pub restart_count: u32,
    /// `safe`: no greater clock was reported before. False after a loss of power is normal.
    pub safe: bool,
}

/// What an attestation is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attested<'a> {
    /// `TPM_ST_ATTEST_QUOTE`: the values of PCRs.
    Quote {
        /// `pcrSelect`: which PCRs, banks in the TPM's own order.
        selection: PcrSelection,
        /// `pcrDigest`: the hash over their values, by the signing scheme's algorithm.
        pcr_digest: &'a [u8],
    },
    /// `TPM_ST_ATTEST_CERTIFY`: an object is loaded in this TPM.
    Certify {
        /// `name` of the object.
        name: &'a [u8],
        /// `qualifiedName` of the object.
        qualified_name: &'a [u8],
    },
    /// `TPM_ST_ATTEST_CREATION`: an object was created by this TPM.
    Creation {
        /// `objectName`: name of the object.
        object_name: &'a [u8],
        /// `creationHash`: hash of the creation data.
        creation_hash: &'a [u8],
    },
}

/// Why bytes are not an attestation that we judge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum AttestError {
    /// The first four bytes are not `TPM_GENERATED_VALUE`: no TPM made this by attesting.
    #[error("TPMS_ATTEST: magic is not TPM_GENERATED_VALUE")]
    NotGenerated,
    /// The type, given here, is not quote, certify or creation.
    #[error("TPMS_ATTEST: type {0:#06x} is not a quote, certify or creation attestation")]
    Type(u16),
    /// The bytes do not form the structure.
    #[error(transparent)]
    Malformed(#[from] Malformed),
}

/// The `TPMS_ATTEST` bytes in a `TPM2B_ATTEST`, or in bare form.
///
/// The two cannot be confused: taken as a size, the first half of `TPM_GENERATED_VALUE` is far
/// above what an attestation may hold.
///
/// # Errors
/// When there are more bytes than an attestation may have. Bytes that are neither form are
/// returned as they are, for [`Attest::parse`] to refuse.
pub fn attest_bytes(bytes: &[u8]) -> Result<&[u8], Malformed> {
    let inner = match bytes.split_first_chunk::<2>() {
        Some((size, inner)) if usize::from(u16::from_be_bytes(*size)) == inner.len() => inner,
        _ => bytes,
    };
    check_length(inner)?;
    Ok(inner)
}

fn check_length(bytes: &[u8]) -> Result<(), Malformed> {
    if bytes.len() <= limits::ATTEST_BYTES_MAX {
        return Ok(());
    }
    let fault = Fault::Length {
        value: bytes.len(),
        min: 0,
        max: limits::ATTEST_BYTES_MAX,
    };
    Err(Reader::new(STRUCTURE, bytes).fault("size", fault))
}

impl<'a> Attest<'a> {
    /// Reads exactly one attestation.
    ///
    /// # Errors
    /// [`AttestError::NotGenerated`] and [`AttestError::Type`] before anything after the type is
    /// looked at; [`AttestError::Malformed`] for all else, trailing bytes included.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, AttestError> {
        check_length(bytes)?;
        let mut reader = Reader::new(STRUCTURE, bytes);
        if reader.u32_be("magic")? != GENERATED {
            return Err(AttestError::NotGenerated);
        }
        let kind = reader.u16_be("type")?;
        if !matches!(kind, 0x8017 | 0x8018 | 0x801a) {
            return Err(AttestError::Type(kind));
        }
        let attest = Self {
            qualified_signer: name(&mut reader, "qualifiedSigner")?,
            extra_data: reader.sized_be("extraData", 0, limits::QUALIFYING_DATA_BYTES_MAX)?,
            clock: ClockInfo::read(&mut reader)?,
            firmware_version: reader.u64_be("firmwareVersion")?,
            attested: Attested::read(kind, &mut reader)?,
        };
        reader.finish()?;
        Ok(attest)
    }
}

impl ClockInfo {
    fn read(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        let clock_ms = reader.u64_be("clockInfo.clock")?;
        let reset_count = reader.u32_be("clockInfo.resetCount")?;
        let restart_count = reader.u32_be("clockInfo.restartCount")?;
        let before = reader.clone();
        // TPM 2.0 Part 2, 9.2 TPMI_YES_NO: 0 or 1, nothing else.
        let safe = match reader.u8("clockInfo.safe")? {
            0 => false,
            1 => true,
            other => {
                let value = u64::from(other);
                return Err(before.fault("clockInfo.safe", Fault::Forbidden { value }));
            }
        };
        Ok(Self {
            clock_ms,
            reset_count,
            restart_count,
            safe,
        })
    }
}

impl<'a> Attested<'a> {
    fn read(kind: u16, reader: &mut Reader<'a>) -> Result<Self, AttestError> {
        match kind {
            0x8017 => Ok(Self::Certify {
                name: name(reader, "certify.name")?,
                qualified_name: name(reader, "certify.qualifiedName")?,
            }),
            0x8018 => Ok(Self::Quote {
                selection: PcrSelection::read(reader)?,
                pcr_digest: digest(reader, "quote.pcrDigest")?,
            }),
            0x801a => Ok(Self::Creation {
                object_name: name(reader, "creation.objectName")?,
                creation_hash: digest(reader, "creation.creationHash")?,
            }),
            other => Err(AttestError::Type(other)),
        }
    }
}

fn name<'a>(reader: &mut Reader<'a>, field: &'static str) -> Result<&'a [u8], Malformed> {
    reader.sized_be(field, 0, limits::NAME_BYTES_MAX)
}

/// A `TPM2B_DIGEST` that holds a digest of an algorithm that we compute.
fn digest<'a>(reader: &mut Reader<'a>, field: &'static str) -> Result<&'a [u8], Malformed> {
    let (min, max) = (HashAlg::Sha1.size(), HashAlg::Sha512.size());
    let before = reader.clone();
    let bytes = reader.sized_be(field, min, max)?;
    if HashAlg::from_size(bytes.len()).is_none() {
        let value = bytes.len();
        return Err(before.fault(field, Fault::Length { value, min, max }));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pcr::PcrIndex;

    /// A quote of PCR 10 in the SHA-256 bank with `extraData` "nonce".
    fn quote() -> Vec<u8> {
        let mut bytes = GENERATED.to_be_bytes().to_vec();
        bytes.extend([0x80, 0x18, 0, 4, 1, 2, 3, 4, 0, 5]);
        bytes.extend(b"nonce");
        bytes.extend([0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 8, 0, 0, 0, 9, 1]);
        bytes.extend([0xaa; 8]);
        bytes.extend([0, 0, 0, 1, 0, 0x0b, 3, 0, 4, 0, 0, 32]);
        bytes.extend([0xdd; 32]);
        bytes
    }

    #[test]
    fn a_quote_is_read() {
        let bytes = quote();
        let attest = Attest::parse(&bytes).unwrap();
        assert_eq!(attest.qualified_signer, [1, 2, 3, 4]);
        assert_eq!(attest.extra_data, b"nonce");
        let clock = attest.clock;
        assert_eq!((clock.clock_ms, clock.reset_count), (7, 8));
        assert_eq!((clock.restart_count, clock.safe), (9, true));
        let Attested::Quote {
            selection,
            pcr_digest,
        } = attest.attested
        else {
            panic!("{attest:?}")
        };
        assert!(
            selection
                .pcrs(HashAlg::Sha256)
                .iter()
                .eq(Some(PcrIndex::IMA))
        );
        assert_eq!(pcr_digest, [0xdd; 32]);
    }

    #[test]
    fn q06_magic_and_type() {
        for index in 0..4 {
            let mut bytes = quote();
            bytes[index] ^= 1;
            assert_eq!(Attest::parse(&bytes), Err(AttestError::NotGenerated));
        }
        // Session audit, command audit, time, NV, NV digest, and what is no attestation.
        for kind in [0x8016, 0x8015, 0x8019, 0x8014, 0x801c, 0x8000, 0_u16] {
            let mut bytes = quote();
            bytes[4..6].copy_from_slice(&kind.to_be_bytes());
            assert_eq!(Attest::parse(&bytes), Err(AttestError::Type(kind)));
        }
    }

    #[test]
    fn q07_truncated_and_trailing_bytes_are_malformed() {
        let bytes = quote();
        for length in 0..bytes.len() {
            let error = Attest::parse(&bytes[..length]).unwrap_err();
            assert!(matches!(error, AttestError::Malformed(_)), "{error:?}");
        }
        let longer = [&bytes[..], &[0]].concat();
        let Err(AttestError::Malformed(error)) = Attest::parse(&longer) else {
            panic!("accepted")
        };
        assert_eq!(error.fault, Fault::Trailing { bytes: 1 });
        let huge = [&bytes[..], &[0; limits::ATTEST_BYTES_MAX]].concat();
        assert!(matches!(
            Attest::parse(&huge),
            Err(AttestError::Malformed(Malformed { field: "size", .. }))
        ));
    }

    #[test]
    fn q07_safe_is_a_boolean() {
        let mut bytes = quote();
        bytes[35] = 2;
        let Err(AttestError::Malformed(error)) = Attest::parse(&bytes) else {
            panic!("accepted")
        };
        assert_eq!((error.field, error.offset), ("clockInfo.safe", 35));
    }

    #[test]
    fn q07_a_digest_has_the_size_of_a_digest() {
        let mut bytes = quote();
        let at = bytes.len() - 33;
        bytes[at] = 31;
        bytes.pop();
        assert!(matches!(
            Attest::parse(&bytes),
            Err(AttestError::Malformed(Malformed {
                field: "quote.pcrDigest",
                ..
            }))
        ));
    }

    #[test]
    fn the_sized_form_is_unwrapped() {
        let bytes = quote();
        assert_eq!(attest_bytes(&bytes), Ok(&bytes[..]));
        let size = u16::try_from(bytes.len()).unwrap().to_be_bytes();
        let sized = [&size[..], &bytes].concat();
        assert_eq!(attest_bytes(&sized), Ok(&bytes[..]));
        assert!(attest_bytes(&[0; limits::ATTEST_BYTES_MAX + 1]).is_err());
    }
}
