//! Cryptography, and the only module that names the libraries behind it.
//!
//! [`VerifyingKey`] verifies what TPMs sign, [`verify_batch`] many of that at once, [`FileKey`] what
//! signs files for IMA, [`DocumentKey`] what signs policies. [`mod@reference`] answers the same questions as `VerifyingKey` through OpenSSL
//! alone, for differential tests.

mod batch;
mod digest;
mod document;
mod ecdsa;
pub(crate) mod hash_mb;
mod key;
mod lanes;
mod p256_mb;
mod pem;
mod prehash;
pub mod reference;
mod roca;
mod rsa;
mod rsa_mb;
mod short;
mod signature;

pub use batch::{BatchItem, VectorUnit, Verified, vector_unit, verify_batch};
pub use digest::{Hasher, constant_time_eq, digest, extend, hmac_sha256};
pub(crate) use digest::{Message, extend_in_place};
pub use document::{DocumentKey, DocumentMismatch};
pub use key::{Curve, KeyError, KeyMaterial, VerifyingKey};
pub use lanes::LANES;
pub use prehash::{FileKey, FileSignatureError};
pub use roca::has_roca_fingerprint;
pub use signature::{SignatureError, SignatureFault};
