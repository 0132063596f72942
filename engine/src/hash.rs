//! Hash algorithms of TPM banks and signatures, and digests that know their algorithm.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use thiserror::Error;

/// A hash algorithm that we compute: of a PCR bank, a signature or a log.
///
/// Source: TCG Algorithm Registry, `TPM_ALG_ID`; names as the kernel and Keylime write them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum HashAlg {
    /// `TPM_ALG_SHA1`; refused as a signature hash or bank unless the caller allows it.
    Sha1,
    /// `TPM_ALG_SHA256`.
    Sha256,
    /// `TPM_ALG_SHA384`.
    Sha384,
    /// `TPM_ALG_SHA512`.
    Sha512,
}

impl HashAlg {
    /// Every algorithm, weakest first.
    pub const ALL: [Self; 4] = [Self::Sha1, Self::Sha256, Self::Sha384, Self::Sha512];

    /// The TCG identifier, as it stands on the wire.
    pub const fn tpm_id(self) -> u16 {
        match self {
            Self::Sha1 => 0x0004,
            Self::Sha256 => 0x000b,
            Self::Sha384 => 0x000c,
            Self::Sha512 => 0x000d,
        }
    }

    /// The algorithm with this TCG identifier, if we compute it.
    pub const fn from_tpm_id(id: u16) -> Option<Self> {
        match id {
            0x0004 => Some(Self::Sha1),
            0x000b => Some(Self::Sha256),
            0x000c => Some(Self::Sha384),
            0x000d => Some(Self::Sha512),
            _ => None,
        }
    }

    /// The lower-case name that the kernel, tpm2-tools and Keylime use.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sha1 => "sha1",
            Self::Sha256 => "sha256",
            Self::Sha384 => "sha384",
            Self::Sha512 => "sha512",
        }
    }

    /// The algorithm with exactly this name.
    pub fn from_name(name: &[u8]) -> Option<Self> {
        // Asked for each entry of a list: lengths are compared before bytes.
        match name {
            b"sha1" => Some(Self::Sha1),
            b"sha256" => Some(Self::Sha256),
            b"sha384" => Some(Self::Sha384),
            b"sha512" => Some(Self::Sha512),
            _ => None,
        }
    }

    /// Digest size in bytes.
    pub const fn size(self) -> usize {
        match self {
            Self::Sha1 => 20,
            Self::Sha256 => 32,
            Self::Sha384 => 48,
            Self::Sha512 => 64,
        }
    }

    /// The algorithm whose digests have this many bytes.
    pub fn from_size(size: usize) -> Option<Self> {
        Self::ALL.into_iter().find(|alg| alg.size() == size)
    }
}

impl fmt::Display for HashAlg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The size in bytes of the largest digest.
pub const DIGEST_SIZE_MAX: usize = 64;

/// A digest and the algorithm that made it. Two digests are equal only when both agree.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest {
    alg: HashAlg,
    // Bytes past the algorithm's size are zero, so that the derived comparisons are right.
    bytes: [u8; DIGEST_SIZE_MAX],
}

/// Bytes that cannot be a digest of the algorithm they are given for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("{found} bytes cannot be a {alg} digest of {} bytes", .alg.size())]
pub struct DigestSizeError {
    /// The algorithm.
    pub alg: HashAlg,
    /// The number of bytes given.
    pub found: usize,
}

impl Digest {
    /// The digest with these bytes.
    ///
    /// # Errors
    /// [`DigestSizeError`] when `bytes` is not exactly as long as `alg` makes them.
    pub fn new(alg: HashAlg, bytes: &[u8]) -> Result<Self, DigestSizeError> {
        let mut digest = Self::zero(alg);
        if digest.fill(bytes) {
            Ok(digest)
        } else {
            let found = bytes.len();
            Err(DigestSizeError { alg, found })
        }
    }

    /// Takes these bytes; false, and nothing is taken, when their number is not right.
    #[inline]
    pub(crate) fn fill(&mut self, bytes: &[u8]) -> bool {
        // A size that the compiler knows spares a call to copy a few bytes.
        match self.alg {
            HashAlg::Sha1 => self.fill_sized::<20>(bytes),
            HashAlg::Sha256 => self.fill_sized::<32>(bytes),
            HashAlg::Sha384 => self.fill_sized::<48>(bytes),
            HashAlg::Sha512 => self.fill_sized::<64>(bytes),
        }
    }

    #[inline]
    fn fill_sized<const SIZE: usize>(&mut self, bytes: &[u8]) -> bool {
        let target = self.bytes.first_chunk_mut::<SIZE>();
        match (target, <&[u8; SIZE]>::try_from(bytes)) {
            (Some(target), Ok(bytes)) => {
                *target = *bytes;
                true
            }
            _ => false,
        }
    }

    /// The bytes of a SHA-256 digest; `None` for another.
    #[inline]
    pub(crate) fn as_sha256_mut(&mut self) -> Option<&mut [u8; 32]> {
        match self.alg {
            HashAlg::Sha256 => self.bytes.first_chunk_mut(),
            _ => None,
        }
    }

    /// The digest that these words are, as SHA-1 and SHA-256 leave them; `None` when their number is
    /// not right for `alg`.
    #[inline]
    pub(crate) fn from_words<const WORDS: usize>(
        alg: HashAlg,
        words: &[u32; WORDS],
    ) -> Option<Self> {
        let mut digest = Self::zero(alg);
        let (slots, rest) = digest.bytes.get_mut(..alg.size())?.as_chunks_mut::<4>();
        if slots.len() != WORDS || !rest.is_empty() {
            return None;
        }
        for (slot, word) in slots.iter_mut().zip(words) {
            *slot = word.to_be_bytes();
        }
        Some(digest)
    }

    /// The digest written as these hexadecimal characters, in either case.
    pub fn from_hex(alg: HashAlg, text: &[u8]) -> Option<Self> {
        let mut digest = Self::zero(alg);
        let target = digest.bytes.get_mut(..alg.size())?;
        hex::decode_to_slice(text, target).ok()?;
        Some(digest)
    }

    /// All bytes zero: the reset value of PCR 0-16 and 23.
    pub const fn zero(alg: HashAlg) -> Self {
        Self {
            alg,
            bytes: [0; DIGEST_SIZE_MAX],
        }
    }

    /// All bytes 0xff: the reset value of PCR 17-22, and what a violation extends.
    pub fn ones(alg: HashAlg) -> Self {
        let mut digest = Self::zero(alg);
        digest
            .bytes
            .iter_mut()
            .take(alg.size())
            .for_each(|byte| *byte = 0xff);
        digest
    }

    /// The algorithm.
    pub const fn alg(&self) -> HashAlg {
        self.alg
    }

    /// Exactly the digest's bytes.
    pub fn as_bytes(&self) -> &[u8] {
        // The fallback cannot be reached: no algorithm is longer than the array.
        self.bytes.get(..self.alg.size()).unwrap_or(&self.bytes)
    }

    /// Whether every byte is zero.
    pub fn is_zero(&self) -> bool {
        self.bytes.iter().all(|byte| *byte == 0)
    }

    /// Whether this is the value of a PCR that nobody extended: all zero or all ones.
    pub fn is_reset_value(&self) -> bool {
        self.is_zero() || *self == Self::ones(self.alg)
    }

    /// Lower-case hexadecimal, without the algorithm.
    pub fn to_hex(&self) -> String {
        hex::encode(self.as_bytes())
    }
}

/// Exactly the digest's bytes.
impl AsRef<[u8]> for Digest {
    fn as_ref(&self) -> &[u8] {
        self.as_bytes()
    }
}

/// `sha256:` and lower-case hexadecimal.
impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.alg, self.to_hex())
    }
}

/// The algorithm, then exactly the digest's bytes.
impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (self.alg, serde_bytes::Bytes::new(self.as_bytes())).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (alg, bytes) = <(HashAlg, serde_bytes::ByteBuf)>::deserialize(deserializer)?;
        Self::new(alg, &bytes).map_err(serde::de::Error::custom)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_names_and_sizes_round_trip() {
        for alg in HashAlg::ALL {
            assert_eq!(HashAlg::from_tpm_id(alg.tpm_id()), Some(alg));
            assert_eq!(HashAlg::from_name(alg.name().as_bytes()), Some(alg));
            assert_eq!(HashAlg::from_size(alg.size()), Some(alg));
        }
        for other in [&b"SHA1"[..], b"", b"sha", b"sha25", b"sha2566", b"sha256\0"] {
            assert_eq!(HashAlg::from_name(other), None);
        }
        // TPM_ALG_SM3_256: the same size as SHA-256, and not computed here.
        assert_eq!(HashAlg::from_tpm_id(0x0012), None);
    }

    #[test]
    fn equal_bytes_of_two_algorithms_are_two_digests() {
        assert_ne!(Digest::zero(HashAlg::Sha1), Digest::zero(HashAlg::Sha256));
        assert!(Digest::new(HashAlg::Sha256, &[0; 20]).is_err());
    }

    #[test]
    fn reset_values() {
        for alg in HashAlg::ALL {
            assert!(Digest::zero(alg).is_reset_value());
            assert!(Digest::ones(alg).is_reset_value());
            let mut bytes = vec![0; alg.size()];
            bytes[alg.size() - 1] = 1;
            assert!(!Digest::new(alg, &bytes).unwrap().is_reset_value());
        }
    }
}
