//! `TPMT_PUBLIC`: the public area of a key in a TPM, and its name.

use std::fmt;

use thiserror::Error;

use crate::bytes::Reader;
use crate::crypto::digest;
use crate::hash::{Digest, HashAlg};
use crate::limits;
use crate::malformed::{Fault, Malformed};
use crate::tpm::attributes::ObjectAttributes;

const STRUCTURE: &str = "TPMT_PUBLIC";
const ALG_RSA: u16 = 0x0001;
const ALG_NULL: u16 = 0x0010;
const ALG_ECC: u16 = 0x0023;

/// The public area of an RSA or ECC key, borrowed from its bytes.
///
/// # Security
/// Anyone can write a public area. It speaks for a TPM only when its name, computed by
/// [`Public::name`], is the one that a credential activation or a certify proved.
///
/// Source: TPM 2.0 Part 2, 12.2.4 `TPMT_PUBLIC`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Public<'a> {
    /// `nameAlg`: the hash of the name and of `authPolicy`.
    pub name_alg: HashAlg,
    /// `objectAttributes`.
    pub attributes: ObjectAttributes,
    /// `authPolicy`; empty when the key has none.
    pub auth_policy: &'a [u8],
    /// `symmetric`: how a storage or endorsement key protects what it wraps.
    pub symmetric: Option<Symmetric>,
    /// `scheme`: the one scheme that the key signs or decrypts with, if it is fixed.
    pub scheme: Option<Scheme>,
    /// `parameters` and `unique`: the key itself.
    pub key: PublicKey<'a>,
    /// The `TPMT_PUBLIC` bytes.
    pub raw: &'a [u8],
}

/// The key in a public area.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PublicKey<'a> {
    /// `TPM_ALG_RSA`.
    Rsa {
        /// `keyBits`: size of the modulus in bits.
        key_bits: u16,
        /// `exponent`, with the 0 of the wire read as 65,537.
        exponent: u32,
        /// The modulus, big endian.
        modulus: &'a [u8],
    },
    /// `TPM_ALG_ECC`.
    Ecc {
        /// `curveID`: the TCG identifier of the curve.
        curve: u16,
        /// `kdf`, if it is fixed.
        kdf: Option<Scheme>,
        /// First coordinate, big endian, at most as long as the field.
        x: &'a [u8],
        /// Second coordinate, big endian, at most as long as the field.
        y: &'a [u8],
    },
}

/// A block cipher, its key size and its mode, by their TCG identifiers.
///
/// Source: TPM 2.0 Part 2, 11.1.7 `TPMT_SYM_DEF_OBJECT`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Symmetric {
    /// `algorithm`: 0x0006 is AES.
    pub algorithm: u16,
    /// `keyBits`.
    pub key_bits: u16,
    /// `mode`: 0x0043 is CFB.
    pub mode: u16,
}

/// A signing, decryption or key derivation scheme.
///
/// Source: TPM 2.0 Part 2, 11.2.4.2 `TPMT_RSA_SCHEME` and 11.2.5.6 `TPMT_ECC_SCHEME`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scheme {
    /// The TCG identifier: 0x0014 RSASSA, 0x0016 RSAPSS, 0x0018 ECDSA.
    pub algorithm: u16,
    /// The scheme's hash; RSAES has none.
    pub hash: Option<HashAlg>,
}

/// Why bytes are not a public area that we use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum PublicError {
    /// The object, given by the TCG identifier of its type, is not an RSA or ECC key.
    #[error("TPMT_PUBLIC: type {0:#06x} is neither RSA nor ECC")]
    TypeNotAllowed(u16),
    /// A hash, given by its TCG identifier, is not one that we compute.
    #[error("TPMT_PUBLIC: {field} {id:#06x} is not SHA-1, SHA-256, SHA-384 or SHA-512")]
    HashNotAllowed {
        /// Where it stands.
        field: &'static str,
        /// The identifier.
        id: u16,
    },
    /// Attribute bits that the specification reserves are set.
    #[error("TPMT_PUBLIC: reserved attribute bits {0:#010x} are set")]
    ReservedAttributes(u32),
    /// The bytes do not form the structure.
    #[error(transparent)]
    Malformed(#[from] Malformed),
}

/// The name of an object: its `nameAlg` and the digest of its public area.
///
/// Source: TPM 2.0 Part 1, 16 "Names".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(Digest);

impl Name {
    /// The name as it stands in a `TPM2B_NAME`: identifier, then digest.
    pub fn to_bytes(&self) -> Vec<u8> {
        let id = self.0.alg().tpm_id().to_be_bytes();
        [&id[..], self.0.as_bytes()].concat()
    }

    /// The digest of the public area.
    pub const fn digest(&self) -> &Digest {
        &self.0
    }
}

/// Lower-case hexadecimal of the whole name.
impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.to_bytes()))
    }
}

impl<'a> Public<'a> {
    /// Reads exactly one `TPMT_PUBLIC` or `TPM2B_PUBLIC`.
    ///
    /// It is the second when its first two bytes are the number of bytes after them. No bare area
    /// can be taken for that: it begins with 0x0001 or 0x0023, and one or 35 further bytes hold
    /// neither an RSA nor an ECC key that we accept.
    ///
    /// # Errors
    /// [`PublicError`].
    pub fn parse(bytes: &'a [u8]) -> Result<Self, PublicError> {
        let raw = match bytes.split_first_chunk::<2>() {
            Some((size, area)) if usize::from(u16::from_be_bytes(*size)) == area.len() => area,
            _ => bytes,
        };
        let mut reader = Reader::new(STRUCTURE, raw);
        if raw.len() > limits::PUBLIC_BYTES_MAX {
            let (min, max) = (0, limits::PUBLIC_BYTES_MAX);
            let value = raw.len();
            return Err(reader
                .fault("size", Fault::Length { value, min, max })
                .into());
        }
        let kind = reader.u16_be("type")?;
        if !matches!(kind, ALG_RSA | ALG_ECC) {
            return Err(PublicError::TypeNotAllowed(kind));
        }
        let name_alg = hash(&mut reader, "nameAlg")?;
        let bits = reader.u32_be("objectAttributes")?;
        let attributes = ObjectAttributes::new(bits).map_err(PublicError::ReservedAttributes)?;
        let at_policy = reader.clone();
        let auth_policy = reader.sized_be("authPolicy", 0, name_alg.size())?;
        // TPM 2.0 Part 2, 12.2.4: empty, or as long as the digest of nameAlg.
        if !auth_policy.is_empty() && auth_policy.len() != name_alg.size() {
            let (min, max) = (name_alg.size(), name_alg.size());
            let value = auth_policy.len();
            return Err(at_policy
                .fault("authPolicy", Fault::Length { value, min, max })
                .into());
        }
        let symmetric = Symmetric::read(&mut reader)?;
        let (scheme, key) = if kind == ALG_RSA {
            (Scheme::read_rsa(&mut reader)?, read_rsa(&mut reader)?)
        } else {
            (Scheme::read_ecc(&mut reader)?, read_ecc(&mut reader)?)
        };
        reader.finish()?;
        Ok(Self {
            name_alg,
            attributes,
            auth_policy,
            symmetric,
            scheme,
            key,
            raw,
        })
    }

    /// The object's name, computed here and never taken from a sender (N03).
    pub fn name(&self) -> Name {
        Name(digest(self.name_alg, self.raw))
    }
}

fn read_rsa<'a>(reader: &mut Reader<'a>) -> Result<PublicKey<'a>, PublicError> {
    // TPM 2.0 Part 2, 12.2.3.5 TPMS_RSA_PARMS: exponent 0 stands for 2^16 + 1.
    let key_bits = reader.u16_be("rsaDetail.keyBits")?;
    let exponent = match reader.u32_be("rsaDetail.exponent")? {
        0 => 65_537,
        exponent => exponent,
    };
    Ok(PublicKey::Rsa {
        key_bits,
        exponent,
        modulus: reader.sized_be("unique.rsa", 1, limits::RSA_BYTES_MAX)?,
    })
}

fn read_ecc<'a>(reader: &mut Reader<'a>) -> Result<PublicKey<'a>, PublicError> {
    // TPM 2.0 Part 2, 12.2.3.6 TPMS_ECC_PARMS and 11.2.5.2 TPMS_ECC_POINT
    let curve = reader.u16_be("eccDetail.curveID")?;
    let kdf = match reader.u16_be("eccDetail.kdf")? {
        ALG_NULL => None,
        // MGF1, KDF1_SP800_56A, KDF2, KDF1_SP800_108
        algorithm @ (0x0007 | 0x0020..=0x0022) => Some(Scheme {
            algorithm,
            hash: Some(hash(reader, "eccDetail.kdf.hashAlg")?),
        }),
        other => return Err(unknown(reader, "eccDetail.kdf", other)),
    };
    Ok(PublicKey::Ecc {
        curve,
        kdf,
        x: reader.sized_be("unique.ecc.x", 1, limits::ECC_PARAMETER_BYTES_MAX)?,
        y: reader.sized_be("unique.ecc.y", 1, limits::ECC_PARAMETER_BYTES_MAX)?,
    })
}

impl Symmetric {
    fn read(reader: &mut Reader<'_>) -> Result<Option<Self>, PublicError> {
        match reader.u16_be("symmetric.algorithm")? {
            ALG_NULL => Ok(None),
            // AES, SM4, Camellia; XOR (0x000a) has other fields and protects no object.
            algorithm @ (0x0006 | 0x0013 | 0x0026) => Ok(Some(Self {
                algorithm,
                key_bits: reader.u16_be("symmetric.keyBits")?,
                mode: reader.u16_be("symmetric.mode")?,
            })),
            other => Err(unknown(reader, "symmetric.algorithm", other)),
        }
    }
}

impl Scheme {
    fn read_rsa(reader: &mut Reader<'_>) -> Result<Option<Self>, PublicError> {
        match reader.u16_be("rsaDetail.scheme")? {
            ALG_NULL => Ok(None),
            // RSAES has no details.
            algorithm @ 0x0015 => Ok(Some(Self {
                algorithm,
                hash: None,
            })),
            // RSASSA, RSAPSS, OAEP
            algorithm @ (0x0014 | 0x0016 | 0x0017) => Ok(Some(Self {
                algorithm,
                hash: Some(hash(reader, "rsaDetail.scheme.hashAlg")?),
            })),
            other => Err(unknown(reader, "rsaDetail.scheme", other)),
        }
    }

    fn read_ecc(reader: &mut Reader<'_>) -> Result<Option<Self>, PublicError> {
        let algorithm = reader.u16_be("eccDetail.scheme")?;
        match algorithm {
            ALG_NULL => return Ok(None),
            // ECDSA, ECDH, ECDAA, SM2, ECSCHNORR, ECMQV
            0x0018..=0x001d => {}
            other => return Err(unknown(reader, "eccDetail.scheme", other)),
        }
        let hash = hash(reader, "eccDetail.scheme.hashAlg")?;
        if algorithm == 0x001a {
            // TPMS_SIG_SCHEME_ECDAA has a counter too.
            reader.u16_be("eccDetail.scheme.count")?;
        }
        Ok(Some(Self {
            algorithm,
            hash: Some(hash),
        }))
    }
}

fn hash(reader: &mut Reader<'_>, field: &'static str) -> Result<HashAlg, PublicError> {
    let id = reader.u16_be(field)?;
    HashAlg::from_tpm_id(id).ok_or(PublicError::HashNotAllowed { field, id })
}

/// An error about the identifier that was just read.
fn unknown(reader: &Reader<'_>, field: &'static str, id: u16) -> PublicError {
    let value = u64::from(id);
    let mut error = reader.fault(field, Fault::Unknown { value });
    error.offset = error.offset.saturating_sub(2);
    error.into()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A `TPMT_PUBLIC` of an attestation key: RSASSA with SHA-256, or ECDSA on P-256.
    pub(crate) fn attestation_key(rsa: bool) -> Vec<u8> {
        let kind = if rsa { ALG_RSA } else { ALG_ECC };
        let mut bytes = [kind, 0x0b, 0x0005, 0x0072, 0, ALG_NULL]
            .map(u16::to_be_bytes)
            .concat();
        if rsa {
            bytes.extend([0, 0x14, 0, 0x0b, 0x08, 0, 0, 0, 0, 0, 1, 0]);
            bytes.extend([0xc1; 256]);
        } else {
            bytes.extend([0, 0x18, 0, 0x0b, 0, 3, 0, 0x10, 0, 32]);
            bytes.extend([1; 32]);
            bytes.extend([0, 32]);
            bytes.extend([2; 32]);
        }
        bytes
    }

    #[test]
    fn both_forms_of_both_types_are_read() {
        for rsa in [true, false] {
            let bytes = attestation_key(rsa);
            let public = Public::parse(&bytes).unwrap();
            let size = u16::try_from(bytes.len()).unwrap().to_be_bytes();
            let sized = [&size[..], &bytes].concat();
            assert_eq!(Public::parse(&sized), Ok(public));
            assert_eq!(public.raw, bytes);
            assert_eq!(public.name_alg, HashAlg::Sha256);
            assert_eq!(public.scheme.unwrap().hash, Some(HashAlg::Sha256));
            match public.key {
                PublicKey::Rsa {
                    key_bits,
                    exponent,
                    modulus,
                } => assert_eq!(
                    (key_bits, exponent, modulus),
                    (2048, 65_537, &[0xc1; 256][..])
                ),
                PublicKey::Ecc { curve, x, y, .. } => {
                    assert_eq!((curve, x, y), (3, &[1; 32][..], &[2; 32][..]));
                }
            }
        }
    }

    #[test]
    fn n03_the_name_is_the_hash_of_the_public_area() {
        let bytes = attestation_key(true);
        let name = Public::parse(&bytes).unwrap().name();
        let digest = digest(HashAlg::Sha256, &bytes);
        assert_eq!(name.to_bytes(), [&[0, 0x0b], digest.as_bytes()].concat());
        assert_eq!(name.to_string(), format!("000b{}", digest.to_hex()));
    }

    #[test]
    fn q07_truncated_and_trailing_bytes_are_malformed() {
        for rsa in [true, false] {
            let bytes = attestation_key(rsa);
            for length in 0..bytes.len() {
                assert!(Public::parse(&bytes[..length]).is_err());
            }
            let longer = [&bytes[..], &[0]].concat();
            assert!(matches!(
                Public::parse(&longer),
                Err(PublicError::Malformed(Malformed {
                    fault: Fault::Trailing { bytes: 1 },
                    ..
                }))
            ));
        }
    }

    #[test]
    fn unknown_identifiers_are_refused_by_number_and_place() {
        let change = |rsa: bool, offset: usize, id: u16| {
            let mut bytes = attestation_key(rsa);
            bytes[offset..offset + 2].copy_from_slice(&id.to_be_bytes());
            Public::parse(&bytes).map(|_| ()).unwrap_err()
        };
        assert_eq!(change(true, 0, 8), PublicError::TypeNotAllowed(8));
        let field = "nameAlg";
        assert_eq!(
            change(true, 2, 0x12),
            PublicError::HashNotAllowed { field, id: 0x12 }
        );
        assert_eq!(
            change(true, 4, 0x8005),
            PublicError::ReservedAttributes(0x8000_0000)
        );
        for (rsa, offset, field) in [
            (true, 10, "symmetric.algorithm"),
            (true, 12, "rsaDetail.scheme"),
            (false, 12, "eccDetail.scheme"),
            (false, 18, "eccDetail.kdf"),
        ] {
            let PublicError::Malformed(error) = change(rsa, offset, 0x0005) else {
                panic!("{field}")
            };
            assert_eq!((error.field, error.offset), (field, offset));
            assert_eq!(error.fault, Fault::Unknown { value: 5 });
        }
    }

    #[test]
    fn a_policy_is_empty_or_a_digest_of_the_name_algorithm() {
        let mut bytes = attestation_key(true);
        bytes.splice(8..10, [0, 20].into_iter().chain([7; 20]));
        assert!(matches!(
            Public::parse(&bytes),
            Err(PublicError::Malformed(Malformed {
                field: "authPolicy",
                offset: 8,
                ..
            }))
        ));
    }
}
