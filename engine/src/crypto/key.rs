//! Public keys that verify what TPMs sign.

use std::fmt;
use std::sync::{Arc, OnceLock};

use aws_lc_rs::signature::ParsedPublicKey;
use openssl::bn::{BigNum, BigNumContext};
use openssl::ec::EcKey;
use openssl::pkey::{Id, PKey, Public as LibraryPublic};
use openssl::rsa::Rsa;
use thiserror::Error;

use crate::crypto::rsa_mb::{Reciprocal, Size};
use crate::crypto::signature::{Fitting, SignatureError, SignatureFault};
use crate::crypto::{
    VectorUnit, digest, ecdsa, has_roca_fingerprint, pem, reference, rsa, vector_unit,
};
use crate::fault::fault_point;
use crate::hash::HashAlg;
use crate::limits;
use crate::tpm::Signature;
use crate::tpm::public::{Public, PublicKey};

/// A public key that verifies a TPM's signatures: RSA of 2048, 3072 or 4096 bits, or a point on
/// P-256, P-384 or P-521.
///
/// Cheap to clone. The form that the library wants is made for each signature, or at the first valid
/// one and kept, where that is worth its memory.
///
/// # Security
/// The key is well-formed; whose it is, is for the caller to know.
#[derive(Clone)]
pub struct VerifyingKey(Arc<Inner>);

struct Inner {
    material: KeyMaterial,
    has_roca_fingerprint: bool,
    /// Filled by a valid signature only: signatures of a stranger by another scheme must not take
    /// the place. One place, because a key in a TPM has one scheme, and because there is one of
    /// these for each agent; see [`is_worth_keeping`].
    parsed: OnceLock<Box<(Algorithm, ParsedPublicKey)>>,
    /// What a verification on the vector unit needs; `None` in it when the library failed.
    reciprocal: OnceLock<Option<Reciprocal>>,
}

/// What a parsed key of the library is bound to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Algorithm {
    Pkcs1(HashAlg),
    Pss(HashAlg),
    Ecdsa(HashAlg),
}

/// The numbers that a public key is, for verifiers that work on them directly.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum KeyMaterial {
    /// An RSA key.
    Rsa {
        /// Big endian, odd, its first bit set; 256, 384 or 512 bytes.
        modulus: Box<[u8]>,
        /// Odd, at least 65,537.
        exponent: u32,
    },
    /// A point on a curve, not the one at infinity.
    Ecc {
        /// The curve.
        curve: Curve,
        /// First coordinate, big endian, as many bytes as the field.
        x: Box<[u8]>,
        /// Second coordinate, big endian, as many bytes as the field.
        y: Box<[u8]>,
    },
}

/// A curve that we verify on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Curve {
    /// NIST P-256, `TPM_ECC_NIST_P256`.
    P256,
    /// NIST P-384, `TPM_ECC_NIST_P384`.
    P384,
    /// NIST P-521, `TPM_ECC_NIST_P521`.
    P521,
}

impl Curve {
    /// Every curve.
    pub const ALL: [Self; 3] = [Self::P256, Self::P384, Self::P521];

    /// The curve with this TCG identifier. Source: TCG Algorithm Registry, `TPM_ECC_CURVE`.
    pub const fn from_tpm_id(id: u16) -> Option<Self> {
        match id {
            3 => Some(Self::P256),
            4 => Some(Self::P384),
            5 => Some(Self::P521),
            _ => None,
        }
    }

    /// Bytes of a coordinate, and of the order.
    pub const fn field_size(self) -> usize {
        match self {
            Self::P256 => 32,
            Self::P384 => 48,
            Self::P521 => 66,
        }
    }
}

/// Why something is not a key that we verify with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum KeyError {
    /// Not exactly one PEM block of a kind that is accepted here.
    #[error("not one PEM block of a public key")]
    Pem,
    /// Not exactly one structure in the canonical DER form.
    #[error("not a public key in canonical DER")]
    Der,
    /// More bytes than [`limits::KEY_FILE_BYTES_MAX`].
    #[error("{0} bytes are more than a key or certificate has ({max})", max = limits::KEY_FILE_BYTES_MAX)]
    TooLong(usize),
    /// A type of key other than RSA and EC.
    #[error("neither an RSA nor an EC key")]
    Type,
    /// A modulus of a size that is not accepted, or not of the size that is declared.
    #[error("an RSA modulus of {0} bits is not allowed")]
    RsaSize(usize),
    /// An even modulus.
    #[error("the RSA modulus is even")]
    RsaModulus,
    /// An exponent that is even, below 65,537 or above 32 bits. FIPS 186-5 allows none below, and
    /// TPMs make no other.
    #[error("the RSA exponent is even, below 65537 or above 32 bits")]
    RsaExponent,
    /// A curve that is not accepted.
    #[error("the curve is not P-256, P-384 or P-521")]
    Curve,
    /// Coordinates that are no point of the curve.
    #[error("the point is not on its curve")]
    Point,
    /// A library could not do its work.
    #[error("the cryptographic library failed")]
    Library,
}

impl VerifyingKey {
    /// The key in a PEM block `PUBLIC KEY`.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn from_pem(text: &[u8]) -> Result<Self, KeyError> {
        match pem::decode(text)? {
            ("PUBLIC KEY", der) => Self::from_spki_der(&der),
            _ => Err(KeyError::Pem),
        }
    }

    /// The key in a DER `SubjectPublicKeyInfo`.
    ///
    /// # Errors
    /// [`KeyError`]; any encoding but the canonical one is refused, with it trailing bytes.
    pub fn from_spki_der(der: &[u8]) -> Result<Self, KeyError> {
        let library = spki(der)?;
        let material = match library.id() {
            Id::RSA => from_rsa(&library.rsa().map_err(|_| KeyError::Library)?)?,
            Id::EC => from_ec(&library.ec_key().map_err(|_| KeyError::Library)?)?,
            _ => return Err(KeyError::Type),
        };
        Self::new(material)
    }

    /// The key in a TPM's public area.
    ///
    /// # Errors
    /// [`KeyError`]; also when `keyBits` is not the size of the modulus. Attributes are not looked
    /// at: see [`crate::tpm::attributes::check_attestation_key`].
    pub fn from_tpm(public: &Public<'_>) -> Result<Self, KeyError> {
        match public.key {
            PublicKey::Rsa {
                key_bits,
                exponent,
                modulus,
            } => {
                if modulus.len().checked_mul(8) != Some(usize::from(key_bits)) {
                    return Err(KeyError::RsaSize(usize::from(key_bits)));
                }
                Self::new(KeyMaterial::Rsa {
                    modulus: modulus.into(),
                    exponent,
                })
            }
            PublicKey::Ecc { curve, x, y, .. } => {
                let curve = Curve::from_tpm_id(curve).ok_or(KeyError::Curve)?;
                Self::new(KeyMaterial::Ecc {
                    curve,
                    x: left_pad(x, curve.field_size())?,
                    y: left_pad(y, curve.field_size())?,
                })
            }
        }
    }

    fn new(material: KeyMaterial) -> Result<Self, KeyError> {
        if let KeyMaterial::Rsa { modulus, exponent } = &material {
            let leading = modulus.first().map_or(0, |first| first.leading_zeros());
            let leading = usize::try_from(leading).unwrap_or(usize::MAX);
            let bits = modulus.len().saturating_mul(8).saturating_sub(leading);
            if !rsa::KEY_BITS.contains(&bits) || leading != 0 {
                return Err(KeyError::RsaSize(bits));
            }
            if modulus.last().is_none_or(|last| last & 1 == 0) {
                return Err(KeyError::RsaModulus);
            }
            if *exponent < 65_537 || exponent & 1 == 0 {
                return Err(KeyError::RsaExponent);
            }
        }
        // Q10: the reference checks that the point is on the curve.
        reference::parse(&material).map_err(|_| match material {
            KeyMaterial::Rsa { .. } => KeyError::Library,
            KeyMaterial::Ecc { .. } => KeyError::Point,
        })?;
        let has_roca_fingerprint = match &material {
            KeyMaterial::Rsa { modulus, .. } => has_roca_fingerprint(modulus),
            KeyMaterial::Ecc { .. } => false,
        };
        Ok(Self(Arc::new(Inner {
            material,
            has_roca_fingerprint,
            parsed: OnceLock::new(),
            reciprocal: OnceLock::new(),
        })))
    }

    /// The numbers of the key.
    pub fn material(&self) -> &KeyMaterial {
        &self.0.material
    }

    /// Whether it is an RSA key that [`has_roca_fingerprint`] recognises; found out once.
    pub fn has_roca_fingerprint(&self) -> bool {
        self.0.has_roca_fingerprint
    }

    /// The constant for a key of this size, made once.
    pub(crate) fn reciprocal(&self, size: Size) -> Option<&Reciprocal> {
        let KeyMaterial::Rsa { modulus, .. } = self.material() else {
            return None;
        };
        let make = || Reciprocal::new(size, modulus);
        self.0.reciprocal.get_or_init(make).as_ref()
    }

    /// Lets go of what a library made of the key; it is made again when it is needed. A key that
    /// somebody else holds, too, stays as it is.
    pub fn forget_parsed(&mut self) {
        if let Some(inner) = Arc::get_mut(&mut self.0) {
            inner.parsed.take();
        }
    }

    /// SHA-256 of the canonical SubjectPublicKeyInfo: what lists, approvals and records call a key
    /// by.
    ///
    /// # Errors
    /// [`KeyError::Library`].
    pub fn spki_sha256(&self) -> Result<[u8; 32], KeyError> {
        let library = reference::parse(self.material()).map_err(|_| KeyError::Library)?;
        let spki = library.public_key_to_der().map_err(|_| KeyError::Library)?;
        let sha256 = digest(HashAlg::Sha256, &spki);
        sha256.as_bytes().try_into().map_err(|_| KeyError::Library)
    }

    /// Verifies that this key signed exactly `message`.
    ///
    /// `allow_sha1` admits signatures over SHA-1. PSS salts are as long as the hash, or as long
    /// as fits (Q18).
    ///
    /// # Errors
    /// [`SignatureError`]; nothing but `Ok` means valid.
    ///
    /// # Cost
    /// One public-key operation; up to two for a PSS signature that is not valid or has the
    /// largest salt. To parse an RSA key costs a quarter of one more.
    pub fn verify(
        &self,
        signature: &Signature<'_>,
        message: &[u8],
        allow_sha1: bool,
    ) -> Result<(), SignatureError> {
        self.verify_beside(vector_unit(), signature, message, allow_sha1)
    }

    fn verify_beside(
        &self,
        unit: VectorUnit,
        signature: &Signature<'_>,
        message: &[u8],
        allow_sha1: bool,
    ) -> Result<(), SignatureError> {
        fault_point!(SignatureError::Library);
        let fitting = Fitting::new(self.material(), signature, allow_sha1)?;
        match (self.material(), &fitting) {
            (KeyMaterial::Rsa { modulus, exponent }, Fitting::RsaSsa { hash, sig }) => {
                let parse = || rsa::parse(modulus, *exponent, rsa::pkcs1(*hash));
                self.run((Algorithm::Pkcs1(*hash), unit), parse, sig, message)
            }
            (KeyMaterial::Rsa { modulus, exponent }, Fitting::RsaPss { hash, sig }) => {
                let Some(parameters) = rsa::pss(*hash) else {
                    return reference::verify_fitting(self.material(), &fitting, message);
                };
                let parse = || rsa::parse(modulus, *exponent, parameters);
                self.run((Algorithm::Pss(*hash), unit), parse, sig, message)
                    .or_else(|_| {
                        let [_, salt] = rsa::pss_salt_lengths(*hash, modulus);
                        reference::verify_pss(self.material(), *hash, salt, sig, message)
                    })
            }
            (KeyMaterial::Ecc { curve, x, y }, Fitting::Ecdsa { hash, der }) => {
                let Some(algorithm) = ecdsa::algorithm(*curve, *hash) else {
                    return reference::verify_fitting(self.material(), &fitting, message);
                };
                let parse = || ecdsa::parse(x, y, algorithm);
                self.run((Algorithm::Ecdsa(*hash), unit), parse, der, message)
            }
            _ => Err(SignatureError::Library),
        }
    }

    fn run(
        &self,
        (algorithm, unit): (Algorithm, VectorUnit),
        parse: impl FnOnce() -> Result<ParsedPublicKey, SignatureError>,
        sig: &[u8],
        message: &[u8],
    ) -> Result<(), SignatureError> {
        let mismatch = SignatureError::Invalid(SignatureFault::Mismatch);
        if let Some((kept, key)) = self.0.parsed.get().map(Box::as_ref)
            && *kept == algorithm
        {
            return key.verify_sig(message, sig).map_err(|_| mismatch);
        }
        let key = parse()?;
        fault_point!(SignatureError::Library);
        key.verify_sig(message, sig).map_err(|_| mismatch)?;
        if is_worth_keeping(algorithm, unit) {
            // When another thread was first, its key is as good.
            let _ = self.0.parsed.set(Box::new((algorithm, key)));
        }
        Ok(())
    }
}

/// Whether the library's form of a key is kept. To make it costs a quarter of an RSA verification, and
/// next to nothing beside one of ECDSA; it takes 2 KB for RSA. Where the vector unit verifies, the
/// library sees few RSA signatures.
fn is_worth_keeping(algorithm: Algorithm, unit: VectorUnit) -> bool {
    match algorithm {
        Algorithm::Pkcs1(_) | Algorithm::Pss(_) => unit != VectorUnit::InUse,
        Algorithm::Ecdsa(_) => false,
    }
}

impl PartialEq for VerifyingKey {
    fn eq(&self, other: &Self) -> bool {
        self.material() == other.material()
    }
}

impl Eq for VerifyingKey {}

impl fmt::Debug for VerifyingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("VerifyingKey")
            .field(self.material())
            .finish()
    }
}

impl KeyMaterial {
    /// Type and size, for people: `RSA-2048`, `P-256`.
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::Rsa { modulus, .. } => match modulus.len() {
                256 => "RSA-2048",
                384 => "RSA-3072",
                _ => "RSA-4096",
            },
            Self::Ecc { curve, .. } => match curve {
                Curve::P256 => "P-256",
                Curve::P384 => "P-384",
                Curve::P521 => "P-521",
            },
        }
    }
}

/// Checks what a key or certificate, as PEM or DER, may have of bytes.
pub(crate) fn check_length(file: &[u8]) -> Result<(), KeyError> {
    if file.len() > limits::KEY_FILE_BYTES_MAX {
        return Err(KeyError::TooLong(file.len()));
    }
    Ok(())
}

/// The library's key of a canonical DER `SubjectPublicKeyInfo`.
pub(crate) fn spki(der: &[u8]) -> Result<PKey<LibraryPublic>, KeyError> {
    check_length(der)?;
    let key = PKey::public_key_from_der(der).map_err(|_| KeyError::Der)?;
    // The library skips trailing bytes and takes other encodings; writing the key again shows it.
    if key.public_key_to_der().ok().as_deref() != Some(der) {
        return Err(KeyError::Der);
    }
    Ok(key)
}

fn from_rsa(key: &Rsa<LibraryPublic>) -> Result<KeyMaterial, KeyError> {
    let exponent = key
        .e()
        .to_vec()
        .iter()
        .try_fold(0_u32, |number, byte| {
            let shifted = number.checked_mul(256)?;
            shifted.checked_add(u32::from(*byte))
        })
        .ok_or(KeyError::RsaExponent)?;
    Ok(KeyMaterial::Rsa {
        modulus: key.n().to_vec().into(),
        exponent,
    })
}

fn from_ec(key: &EcKey<LibraryPublic>) -> Result<KeyMaterial, KeyError> {
    let group = key.group();
    let curve = Curve::ALL
        .into_iter()
        .find(|curve| group.curve_name() == Some(reference::nid(*curve)))
        .ok_or(KeyError::Curve)?;
    let coordinates = || {
        let mut context = BigNumContext::new()?;
        let (mut x, mut y) = (BigNum::new()?, BigNum::new()?);
        key.public_key()
            .affine_coordinates(group, &mut x, &mut y, &mut context)?;
        Ok::<_, openssl::error::ErrorStack>((x.to_vec(), y.to_vec()))
    };
    // The point at infinity has no coordinates.
    let (x, y) = coordinates().map_err(|_| KeyError::Point)?;
    Ok(KeyMaterial::Ecc {
        curve,
        x: left_pad(&x, curve.field_size())?,
        y: left_pad(&y, curve.field_size())?,
    })
}

/// A number in exactly `size` bytes.
fn left_pad(number: &[u8], size: usize) -> Result<Box<[u8]>, KeyError> {
    let zeros = size.checked_sub(number.len()).ok_or(KeyError::Point)?;
    Ok([&vec![0; zeros], number].concat().into())
}

#[cfg(test)]
mod tests;
