//! X.509 and the arithmetic of credentials: the only module that names the library behind them.
//!
//! [`certificate`] and [`request`] read, [`chain`] verifies, [`issue`] writes, [`secrecy`] wraps a
//! secret for an endorsement key. Nothing of the library appears in a signature.

pub(crate) mod certificate;
pub(crate) mod chain;
pub(crate) mod fields;
pub(crate) mod issue;
pub(crate) mod request;
pub(crate) mod secrecy;

use openssl::bn::BigNum;
use openssl::ec::{EcGroup, EcKey};
use openssl::error::ErrorStack;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Public};
use openssl::rsa::Rsa;
use rat_engine::crypto::{Curve, KeyMaterial};
use rat_engine::hash::HashAlg;
use thiserror::Error;

/// The cryptographic library could not do its work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the cryptographic library failed")]
pub struct LibraryError;

impl From<ErrorStack> for LibraryError {
    fn from(_: ErrorStack) -> Self {
        Self
    }
}

/// SHA-256.
pub(crate) fn sha256(message: &[u8]) -> [u8; 32] {
    let digest = rat_engine::crypto::digest(HashAlg::Sha256, message);
    // A SHA-256 digest has 32 bytes; the zeros are never reached and equal no digest.
    digest.as_bytes().try_into().unwrap_or([0; 32])
}

fn nid(curve: Curve) -> Nid {
    match curve {
        Curve::P256 => Nid::X9_62_PRIME256V1,
        Curve::P384 => Nid::SECP384R1,
        Curve::P521 => Nid::SECP521R1,
    }
}

fn public_key(material: &KeyMaterial) -> Result<PKey<Public>, ErrorStack> {
    match material {
        KeyMaterial::Rsa { modulus, exponent } => {
            let modulus = BigNum::from_slice(modulus)?;
            let exponent = BigNum::from_u32(*exponent)?;
            PKey::from_rsa(Rsa::from_public_components(modulus, exponent)?)
        }
        KeyMaterial::Ecc { curve, x, y } => {
            let group = EcGroup::from_curve_name(nid(*curve))?;
            let (x, y) = (BigNum::from_slice(x)?, BigNum::from_slice(y)?);
            PKey::from_ec_key(EcKey::from_public_key_affine_coordinates(&group, &x, &y)?)
        }
    }
}
