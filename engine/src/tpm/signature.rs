//! `TPMT_SIGNATURE`: a signature and the scheme it was made with.

use thiserror::Error;

use crate::bytes::Reader;
use crate::hash::HashAlg;
use crate::limits;
use crate::malformed::{Fault, Malformed};

/// A signature by one of the schemes that we verify.
///
/// # Security
/// Nothing is verified yet, and the scheme named here is the sender's claim:
/// [`crate::crypto::VerifyingKey::verify`] compares it with the key.
///
/// Source: TPM 2.0 Part 2, 11.3.4 `TPMT_SIGNATURE`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signature<'a> {
    /// `TPM_ALG_RSASSA`: RSASSA-PKCS1-v1_5.
    RsaSsa {
        /// Hash of the message.
        hash: HashAlg,
        /// The signature, as long as the modulus.
        sig: &'a [u8],
    },
    /// `TPM_ALG_RSAPSS`: RSASSA-PSS with MGF1 of the same hash.
    RsaPss {
        /// Hash of the message and of the mask.
        hash: HashAlg,
        /// The signature, as long as the modulus.
        sig: &'a [u8],
    },
    /// `TPM_ALG_ECDSA`.
    Ecdsa {
        /// Hash of the message.
        hash: HashAlg,
        /// `signatureR`, big endian, at most as long as the curve's field.
        r: &'a [u8],
        /// `signatureS`, big endian, at most as long as the curve's field.
        s: &'a [u8],
    },
}

/// Why bytes are not a signature that we verify.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum SignatureFormatError {
    /// The scheme, given by its TCG identifier, is not RSASSA, RSAPSS or ECDSA.
    #[error("TPMT_SIGNATURE: signature algorithm {0:#06x} is not RSASSA, RSAPSS or ECDSA")]
    AlgNotAllowed(u16),
    /// The hash, given by its TCG identifier, is not one that we compute.
    #[error("TPMT_SIGNATURE: hash algorithm {0:#06x} is not SHA-1, SHA-256, SHA-384 or SHA-512")]
    HashNotAllowed(u16),
    /// The bytes do not form the structure.
    #[error(transparent)]
    Malformed(#[from] Malformed),
}

impl<'a> Signature<'a> {
    /// Reads exactly one signature.
    ///
    /// # Errors
    /// [`SignatureFormatError`]; an unknown scheme is refused before its fields are looked at.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, SignatureFormatError> {
        let mut reader = Reader::new("TPMT_SIGNATURE", bytes);
        if bytes.len() > limits::SIGNATURE_BYTES_MAX {
            let fault = Fault::Length {
                value: bytes.len(),
                min: 0,
                max: limits::SIGNATURE_BYTES_MAX,
            };
            return Err(reader.fault("size", fault).into());
        }
        let scheme = reader.u16_be("sigAlg")?;
        // TPM 2.0 Part 2, 11.2.1-11.2.3; ECDAA 0x1a, SM2 0x1b, ECSCHNORR 0x1c, HMAC 0x05 and
        // NULL 0x10 are signatures that nobody but the signer, or nobody, can check as a quote.
        if !matches!(scheme, 0x0014 | 0x0016 | 0x0018) {
            return Err(SignatureFormatError::AlgNotAllowed(scheme));
        }
        let id = reader.u16_be("hash")?;
        let hash = HashAlg::from_tpm_id(id).ok_or(SignatureFormatError::HashNotAllowed(id))?;
        let signature = if scheme == 0x0018 {
            Self::Ecdsa {
                hash,
                r: reader.sized_be("signatureR", 1, limits::ECC_PARAMETER_BYTES_MAX)?,
                s: reader.sized_be("signatureS", 1, limits::ECC_PARAMETER_BYTES_MAX)?,
            }
        } else {
            let sig = reader.sized_be("sig", 1, limits::RSA_BYTES_MAX)?;
            if scheme == 0x0014 {
                Self::RsaSsa { hash, sig }
            } else {
                Self::RsaPss { hash, sig }
            }
        };
        reader.finish()?;
        Ok(signature)
    }

    /// The hash of the message: of the scheme, and so also of a quote's `pcrDigest` (P08).
    pub const fn hash(&self) -> HashAlg {
        match self {
            Self::RsaSsa { hash, .. } | Self::RsaPss { hash, .. } | Self::Ecdsa { hash, .. } => {
                *hash
            }
        }
    }

    /// The scheme's name, as tpm2-tools and Keylime write it.
    pub const fn scheme(&self) -> &'static str {
        match self {
            Self::RsaSsa { .. } => "rsassa",
            Self::RsaPss { .. } => "rsapss",
            Self::Ecdsa { .. } => "ecdsa",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_three_schemes_are_read() {
        let rsa = [0, 0x14, 0, 0x0b, 0, 2, 7, 8];
        let expected = Signature::RsaSsa {
            hash: HashAlg::Sha256,
            sig: &[7, 8],
        };
        assert_eq!(Signature::parse(&rsa), Ok(expected));
        let pss = [0, 0x16, 0, 0x0c, 0, 2, 7, 8];
        let expected = Signature::RsaPss {
            hash: HashAlg::Sha384,
            sig: &[7, 8],
        };
        assert_eq!(Signature::parse(&pss), Ok(expected));
        let ecdsa = [0, 0x18, 0, 0x0d, 0, 1, 7, 0, 2, 8, 9];
        let expected = Signature::Ecdsa {
            hash: HashAlg::Sha512,
            r: &[7],
            s: &[8, 9],
        };
        assert_eq!(Signature::parse(&ecdsa), Ok(expected));
        for bytes in [&rsa[..], &pss, &ecdsa] {
            for length in 0..bytes.len() {
                assert!(Signature::parse(&bytes[..length]).is_err());
            }
        }
    }

    #[test]
    fn q08_other_schemes_are_refused_by_number() {
        for scheme in [0x05_u16, 0x10, 0x1a, 0x1b, 0x1c, 0, 0xffff] {
            let bytes = [&scheme.to_be_bytes()[..], &[0, 0x0b, 0, 1, 1]].concat();
            let expected = SignatureFormatError::AlgNotAllowed(scheme);
            assert_eq!(Signature::parse(&bytes), Err(expected));
        }
    }

    #[test]
    fn q08_other_hashes_are_refused_by_number() {
        for hash in [0x10_u16, 0x12, 0x27, 0, 0xffff] {
            let bytes = [&[0, 0x14], &hash.to_be_bytes()[..], &[0, 1, 1]].concat();
            let expected = SignatureFormatError::HashNotAllowed(hash);
            assert_eq!(Signature::parse(&bytes), Err(expected));
        }
    }

    #[test]
    fn q07_trailing_bytes_are_malformed() {
        let error = Signature::parse(&[0, 0x14, 0, 0x0b, 0, 1, 7, 0]).unwrap_err();
        assert!(matches!(
            error,
            SignatureFormatError::Malformed(Malformed {
                fault: Fault::Trailing { bytes: 1 },
                ..
            })
        ));
    }

    #[test]
    fn q10_empty_and_overlong_numbers_are_malformed() {
        let empty_r = [0, 0x18, 0, 0x0b, 0, 0, 0, 1, 1];
        let mut long_r = vec![0, 0x18, 0, 0x0b, 0, 67];
        long_r.extend([1; 67]);
        long_r.extend([0, 1, 1]);
        let mut long_rsa = vec![0, 0x14, 0, 0x0b, 2, 1];
        long_rsa.extend([1; 513]);
        for bytes in [&empty_r[..], &long_r, &long_rsa] {
            let error = Signature::parse(bytes).unwrap_err();
            assert!(matches!(
                error,
                SignatureFormatError::Malformed(Malformed {
                    fault: Fault::Length { .. },
                    ..
                })
            ));
        }
    }
}
