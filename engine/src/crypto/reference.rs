//! OpenSSL: the reference that the other verifiers must agree with; and the lanes of batches without
//! a library behind them, for the same tests.
//!
//! The product comes here for what aws-lc-rs lacks (PSS with the largest salt, PSS with SHA-1,
//! SHA-1 on P-384) and to take keys apart. Differential tests compare [`verify`] with
//! [`VerifyingKey::verify`] on everything else.

use openssl::bn::BigNum;
use openssl::ec::{EcGroup, EcKey};
use openssl::error::ErrorStack;
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Public};
use openssl::rsa::{Padding, Rsa};
use openssl::sign::{RsaPssSaltlen, Verifier};

use crate::crypto::batch::{self, Backend, BatchItem};
use crate::crypto::key::{Curve, KeyMaterial, VerifyingKey};
use crate::crypto::rsa::pss_salt_lengths;
use crate::crypto::rsa_mb;
use crate::crypto::signature::{Fitting, SignatureError, SignatureFault};
use crate::hash::HashAlg;
use crate::tpm::Signature;

/// Verifies a signature as [`VerifyingKey::verify`] does, through OpenSSL and nothing else.
///
/// # Errors
/// [`SignatureError`].
pub fn verify(
    key: &VerifyingKey,
    signature: &Signature<'_>,
    message: &[u8],
    allow_sha1: bool,
) -> Result<(), SignatureError> {
    let fitting = Fitting::new(key.material(), signature, allow_sha1)?;
    verify_fitting(key.material(), &fitting, message)
}

/// What the lanes of [`verify_batch`](crate::crypto::verify_batch) say, before a library is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LaneBackend {
    /// The processor's vector unit.
    VectorUnit,
    /// The same computation in plain Rust.
    Model,
}

impl LaneBackend {
    fn backend(self) -> Backend {
        match self {
            Self::VectorUnit => Backend::VECTOR_UNIT,
            Self::Model => Backend::MODEL,
        }
    }
}

/// What the lanes make of eight RSA signatures: `signature^65537 mod modulus`, in as many bytes.
///
/// Each pair is a modulus and a signature below it. `None` for moduli that are even, do not have 256,
/// 384 or 512 bytes, all the same, with the first bit set; for signatures of other lengths or not
/// below; and where the processor lacks the unit.
pub fn lane_representatives(
    backend: LaneBackend,
    pairs: &[(&[u8], &[u8]); 8],
) -> Option<Vec<Vec<u8>>> {
    rsa_mb::representatives(backend.backend().recover, pairs)
}

/// What the lanes alone say of each item: whether the signature holds, or `None` for what they
/// leave to libraries, which is everything where the processor lacks the unit.
pub fn lane_verdicts(backend: LaneBackend, items: &[BatchItem<'_>]) -> Vec<Option<bool>> {
    batch::raw_verdicts(&backend.backend(), items)
}

pub(crate) fn verify_fitting(
    key: &KeyMaterial,
    signature: &Fitting<'_>,
    message: &[u8],
) -> Result<(), SignatureError> {
    let library = parse(key).map_err(|_| SignatureError::Library)?;
    match (signature, key) {
        (Fitting::RsaSsa { hash, sig }, _) => {
            run(&library, *hash, None, Some(Padding::PKCS1), sig, message)
        }
        (Fitting::Ecdsa { hash, der }, _) => run(&library, *hash, None, None, der, message),
        (Fitting::RsaPss { hash, sig }, KeyMaterial::Rsa { modulus, .. }) => {
            let [short, largest] = pss_salt_lengths(*hash, modulus)
                .map(|salt| verify_pss_parsed(&library, *hash, salt, sig, message));
            short.or(largest)
        }
        (Fitting::RsaPss { .. }, KeyMaterial::Ecc { .. }) => Err(SignatureError::Library),
    }
}

/// Verifies a PSS signature whose salt has exactly this length in bytes.
pub(crate) fn verify_pss(
    key: &KeyMaterial,
    hash: HashAlg,
    salt: usize,
    sig: &[u8],
    message: &[u8],
) -> Result<(), SignatureError> {
    let library = parse(key).map_err(|_| SignatureError::Library)?;
    verify_pss_parsed(&library, hash, salt, sig, message)
}

fn verify_pss_parsed(
    library: &PKey<Public>,
    hash: HashAlg,
    salt: usize,
    sig: &[u8],
    message: &[u8],
) -> Result<(), SignatureError> {
    // Never the library's own constant for "maximum": when verifying it means "any".
    let salt = i32::try_from(salt).map_err(|_| SignatureError::Library)?;
    let padding = Some(Padding::PKCS1_PSS);
    run(library, hash, Some(salt), padding, sig, message)
}

fn run(
    library: &PKey<Public>,
    hash: HashAlg,
    salt: Option<i32>,
    padding: Option<Padding>,
    sig: &[u8],
    message: &[u8],
) -> Result<(), SignatureError> {
    let set_up = || {
        let hash = message_digest(hash);
        let mut verifier = Verifier::new(hash, library)?;
        if let Some(padding) = padding {
            verifier.set_rsa_padding(padding)?;
        }
        if let Some(salt) = salt {
            verifier.set_rsa_pss_saltlen(RsaPssSaltlen::custom(salt))?;
            verifier.set_rsa_mgf1_md(hash)?;
        }
        Ok::<_, ErrorStack>(verifier)
    };
    let mut verifier = set_up().map_err(|_| SignatureError::Library)?;
    match verifier.verify_oneshot(sig, message) {
        Ok(true) => Ok(()),
        // Once it is set up, the library also reports bad signatures as errors of its own: for
        // one, ECDSA numbers that lead to the point at infinity.
        Ok(false) | Err(_) => Err(SignatureError::Invalid(SignatureFault::Mismatch)),
    }
}

fn message_digest(hash: HashAlg) -> MessageDigest {
    match hash {
        HashAlg::Sha1 => MessageDigest::sha1(),
        HashAlg::Sha256 => MessageDigest::sha256(),
        HashAlg::Sha384 => MessageDigest::sha384(),
        HashAlg::Sha512 => MessageDigest::sha512(),
    }
}

pub(crate) fn nid(curve: Curve) -> Nid {
    match curve {
        Curve::P256 => Nid::X9_62_PRIME256V1,
        Curve::P384 => Nid::SECP384R1,
        Curve::P521 => Nid::SECP521R1,
    }
}

/// The library's key; fails when a point is not on its curve.
pub(crate) fn parse(key: &KeyMaterial) -> Result<PKey<Public>, ErrorStack> {
    match key {
        KeyMaterial::Rsa { modulus, exponent } => {
            let modulus = BigNum::from_slice(modulus)?;
            let exponent = BigNum::from_u32(*exponent)?;
            PKey::from_rsa(Rsa::from_public_components(modulus, exponent)?)
        }
        KeyMaterial::Ecc { curve, x, y } => {
            let group = EcGroup::from_curve_name(nid(*curve))?;
            let (x, y) = (BigNum::from_slice(x)?, BigNum::from_slice(y)?);
            let key = EcKey::from_public_key_affine_coordinates(&group, &x, &y)?;
            key.check_key()?;
            PKey::from_ec_key(key)
        }
    }
}
