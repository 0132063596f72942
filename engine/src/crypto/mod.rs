//! Cryptography, and the only module that names the libraries behind it.

mod digest;

pub use digest::{Hasher, digest, extend};
