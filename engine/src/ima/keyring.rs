//! Keys that file signatures are checked with: the policy's, and those learned from the list.

use thiserror::Error;

use super::signature::FileSignature;
use super::template::MeasuredDigest;
use crate::crypto::{self, FileKey, KeyError};
use crate::hash::{Digest, HashAlg};
use crate::limits;

/// Keys found by their identifier.
#[derive(Debug, Clone, Default)]
pub(super) struct VerificationKeys {
    keys: Vec<(u32, FileKey)>,
}

impl VerificationKeys {
    /// The keys of a policy: SubjectPublicKeyInfo in DER, each with its identifier or none, in
    /// which case it is computed. Reading the policy bounded their number.
    ///
    /// # Errors
    /// [`KeyError`] for the first key that cannot be used, with its place in the list.
    pub(super) fn from_policy<'a>(
        keys: impl IntoIterator<Item = (Option<u32>, &'a [u8])>,
    ) -> Result<Self, (usize, KeyError)> {
        let mut loaded = Self::default();
        for (nth, (id, der)) in keys.into_iter().enumerate() {
            let key = FileKey::from_der(der).map_err(|error| (nth, error))?;
            loaded.keys.push((id.unwrap_or_else(|| key.key_id()), key));
        }
        Ok(loaded)
    }

    /// Whether a key with the signature's identifier made it for this digest.
    ///
    /// Identifiers have 32 bits and can be made to collide, so every key that has it is tried:
    /// all of them are approved.
    pub(super) fn verify(
        &self,
        signature: &FileSignature<'_>,
        measured: &MeasuredDigest<'_>,
    ) -> bool {
        let Some(signed) = signature.signed_digest(measured) else {
            return false;
        };
        self.keys
            .iter()
            .filter(|(id, _)| *id == signature.key_id)
            .any(|(_, key)| {
                key.verify_prehash(signed.alg.name(), &signed.bytes, signature.signature)
                    .is_ok()
            })
    }
}

/// Keys that the kernel added to a keyring and the policy approves.
///
/// A learned key counts for later entries of the same machine, boot and policy version only.
#[derive(Debug, Clone, Default)]
pub struct LearnedKeys {
    keys: VerificationKeys,
    /// The same keys as they were measured.
    measured: Vec<Measured>,
    /// One digest over everything learned, in order: the keyring's identity.
    identity: Option<Digest>,
}

/// A key as the list showed it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Measured {
    keyring: Box<[u8]>,
    key: Box<[u8]>,
}

/// Keys that were kept and cannot be restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum LearnedKeysError {
    /// One of them is no key that verifies file signatures.
    #[error("learned key {index} is not a key")]
    NotAKey {
        /// Its place among them.
        index: usize,
    },
    /// There are more than one list can teach.
    #[error("more than {} learned keys", limits::IMA_KEYS_MAX)]
    TooMany,
}

/// What was measured decides everything else.
impl PartialEq for LearnedKeys {
    fn eq(&self, other: &Self) -> bool {
        self.measured == other.measured
    }
}

impl Eq for LearnedKeys {}

impl LearnedKeys {
    /// The keys that were kept, as pairs of a keyring and a key as it was measured, in the order
    /// in which they were learned. (I23)
    ///
    /// # Errors
    /// [`LearnedKeysError`]; then none counts, and the whole list must be judged again.
    pub fn restore<'a>(
        kept: impl IntoIterator<Item = (&'a [u8], &'a [u8])>,
    ) -> Result<Self, LearnedKeysError> {
        let mut learned = Self::default();
        for (index, (keyring, measured)) in kept.into_iter().enumerate() {
            let Ok(Some(key)) = FileKey::from_measured(measured) else {
                return Err(LearnedKeysError::NotAKey { index });
            };
            if !learned.learn(keyring, key, measured) {
                return Err(LearnedKeysError::TooMany);
            }
        }
        Ok(learned)
    }

    /// Keyring and key of each, as they were measured, in the order in which they were learned.
    pub fn measured(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let measured = self.measured.iter();
        measured.map(|measured| (&*measured.keyring, &*measured.key))
    }

    /// Learns a key that the list shows being added to `keyring`, in these bytes; false when no
    /// more are taken.
    pub(super) fn learn(&mut self, keyring: &[u8], key: FileKey, measured: &[u8]) -> bool {
        if self.keys.keys.len() >= limits::IMA_KEYS_MAX {
            return false;
        }
        let mut hasher = crypto::Hasher::new(HashAlg::Sha256);
        if let Some(identity) = &self.identity {
            hasher.update(identity.as_bytes());
        }
        for part in [keyring, measured] {
            hasher.update(crypto::digest(HashAlg::Sha256, part).as_bytes());
        }
        self.identity = Some(hasher.finish());
        self.keys.keys.push((key.key_id(), key));
        self.measured.push(Measured {
            keyring: keyring.into(),
            key: measured.into(),
        });
        true
    }

    /// Whether one of these keys made this signature for this digest.
    pub(super) fn verify(
        &self,
        signature: &FileSignature<'_>,
        measured: &MeasuredDigest<'_>,
    ) -> bool {
        self.keys.verify(signature, measured)
    }

    /// How many keys were learned.
    pub fn len(&self) -> usize {
        self.keys.keys.len()
    }

    /// Whether none was.
    pub fn is_empty(&self) -> bool {
        self.keys.keys.is_empty()
    }

    /// A digest over all keys learned, in order; `None` when there is none.
    pub const fn identity(&self) -> Option<&Digest> {
        self.identity.as_ref()
    }
}
