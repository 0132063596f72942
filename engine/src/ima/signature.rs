//! The signature that a measured file carries in its `security.ima` attribute.
//!
//! Source: Linux `security/integrity/integrity.h`, `struct signature_v2_hdr` and
//! `struct ima_file_id`; `include/uapi/linux/hash_info.h`, `enum hash_algo`.

use thiserror::Error;

use super::template::{DigestOf, MeasuredDigest};
use crate::bytes::Reader;
use crate::crypto;
use crate::hash::HashAlg;
use crate::malformed::Malformed;

/// What kind of attribute the signature was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SignatureKind {
    /// `EVM_IMA_XATTR_DIGSIG` (3): over the file's digest.
    Content,
    /// `EVM_XATTR_PORTABLE_DIGSIG` (5): over file metadata that the list does not hold.
    Portable,
    /// `IMA_VERITY_DIGSIG` (6): over the fs-verity digest.
    Verity,
}

impl SignatureKind {
    const fn id(self) -> u8 {
        match self {
            Self::Content => 3,
            Self::Portable => 5,
            Self::Verity => 6,
        }
    }
}

/// A well-formed signature field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileSignature<'a> {
    /// What it signs.
    pub kind: SignatureKind,
    /// 2: the digest itself; 3: a structure that names kind and algorithm.
    pub version: u8,
    /// `enum hash_algo` of the kernel.
    pub hash_algo: u8,
    /// The last four bytes of the key's identifier.
    pub key_id: u32,
    /// PKCS#1 v1.5 bytes, or ECDSA in DER.
    pub signature: &'a [u8],
}

/// Why a signature field is not a signature. Such a field fails whatever the policy says: it is
/// how a measured buffer relabelled as a signed file would look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum SignatureFault {
    /// The header or length is wrong.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// The type is none that IMA appends to its list.
    #[error("signature type {0} is not 3, 5 or 6")]
    Kind(u8),
    /// The version is unknown.
    #[error("signature version {0} is not 2 or 3")]
    Version(u8),
}

impl<'a> FileSignature<'a> {
    /// Reads a signature field that is not empty.
    ///
    /// # Errors
    /// [`SignatureFault`] when it is not exactly one signature.
    pub fn parse(field: &'a [u8]) -> Result<Self, SignatureFault> {
        let mut reader = Reader::new("signature_v2_hdr", field);
        let kind = match reader.u8("type")? {
            3 => SignatureKind::Content,
            5 => SignatureKind::Portable,
            6 => SignatureKind::Verity,
            other => return Err(SignatureFault::Kind(other)),
        };
        let version = reader.u8("version")?;
        if !matches!(version, 2 | 3) {
            return Err(SignatureFault::Version(version));
        }
        let hash_algo = reader.u8("hash_algo")?;
        let key_id = reader.u32_be("keyid")?;
        let signature = reader.sized_be("sig", 1, usize::from(u16::MAX))?;
        reader.finish()?;
        Ok(Self {
            kind,
            version,
            hash_algo,
            key_id,
            signature,
        })
    }

    /// The digest that this signature signs for a measured file, if it can be one of it.
    ///
    /// `None` when the signature is of another kind or hash than the measured digest.
    pub(super) fn signed_digest(&self, measured: &MeasuredDigest<'_>) -> Option<SignedDigest> {
        let alg = HashAlg::from_name(measured.alg)?;
        if self.kernel_hash()? != alg {
            return None;
        }
        match (self.kind, measured.of) {
            (SignatureKind::Content, DigestOf::Content)
            | (SignatureKind::Verity, DigestOf::Verity) => {}
            _ => return None,
        }
        let bytes = match (self.kind, self.version) {
            (SignatureKind::Content, 2) => measured.bytes.to_vec(),
            // ima_file_id: type, algorithm, digest; hashed with the same algorithm.
            (_, 3) => {
                let id = [&[self.kind.id(), self.hash_algo], measured.bytes].concat();
                crypto::digest(alg, &id).as_bytes().to_vec()
            }
            _ => return None,
        };
        Some(SignedDigest { alg, bytes })
    }

    const fn kernel_hash(&self) -> Option<HashAlg> {
        match self.hash_algo {
            2 => Some(HashAlg::Sha1),
            4 => Some(HashAlg::Sha256),
            5 => Some(HashAlg::Sha384),
            6 => Some(HashAlg::Sha512),
            _ => None,
        }
    }
}

/// The digest under a file signature.
pub(super) struct SignedDigest {
    pub(super) alg: HashAlg,
    pub(super) bytes: Vec<u8>,
}
