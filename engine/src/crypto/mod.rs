//! Cryptography, and the only module that names the libraries behind it.

mod digest;
mod roca;

pub use digest::{Hasher, digest, extend};
pub use roca::has_roca_fingerprint;
