//! A policy in the making: what its author adds, takes over from another policy, and writes.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::document::{Document, DocumentIma, DocumentMeta};
use super::runtime::{PolicyError, RuntimePolicy};
use super::verification_keys::{self, VerificationKeysError};
use crate::crypto::{FileKey, KeyError};
use crate::hash::{Digest, HashAlg};
use crate::limits::{EXCLUDES_MAX, POLICY_PATHS_MAX};

/// One of the three tables of a policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Listing {
    /// Files, by path.
    Digests,
    /// Keys, by the name of their keyring.
    Keyrings,
    /// Other buffers, by name.
    Buffers,
}

/// Why something cannot stand in a policy.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum DraftError {
    /// A name that JSON cannot hold.
    #[error("the name is not UTF-8, so JSON cannot hold it")]
    NotUtf8,
    /// Not 40 to 128 hexadecimal characters: Keylime's schema takes no other.
    #[error("not a digest of 40 to 128 hexadecimal characters")]
    NotDigest,
    /// A digest with an algorithm's name before it, and not of that algorithm's length.
    #[error("the digest is not one of the algorithm that is named")]
    DigestAlgorithm,
    /// More names than [`POLICY_PATHS_MAX`].
    #[error("more than {max} names", max = POLICY_PATHS_MAX)]
    TooMany,
    /// Not sha1, sha256, sha384 or sha512.
    #[error("the log's hash algorithm is not sha1, sha256, sha384 or sha512")]
    LogHashAlg,
    /// Two policies for lists with different template hashes: no list fits both.
    #[error("the log's hash algorithms differ: {ours} and {theirs}")]
    LogHashesDiffer {
        /// The first policy's.
        ours: HashAlg,
        /// The other's.
        theirs: HashAlg,
    },
    /// Keys that cannot be used.
    #[error("{0}")]
    VerificationKeys(VerificationKeysError),
    /// A key that signs no files.
    #[error("{0}")]
    Key(KeyError),
    /// Two keys with one key id: signatures name keys by it.
    #[error("another key has the key id {keyid:08x}")]
    KeyId {
        /// The key id.
        keyid: u32,
    },
    /// What was written is no policy after all: an exclude pattern, or a limit.
    #[error("{0}")]
    Policy(PolicyError),
}

/// Digests in lower-case hexadecimal, by name.
type Table = BTreeMap<String, BTreeSet<String>>;

/// A policy in the making.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PolicyDraft {
    release: u64,
    digests: Table,
    keyrings: Table,
    buffers: Table,
    excludes: Vec<String>,
    ignored_keyrings: BTreeSet<String>,
    log_hash_alg: Option<HashAlg>,
    /// Key ids, and keys as DER.
    keys: BTreeMap<u32, Vec<u8>>,
}

/// What the draft takes from a policy that [`RuntimePolicy::parse`] has accepted.
#[derive(Deserialize)]
struct Members {
    #[serde(default)]
    release: u64,
    digests: Table,
    #[serde(default)]
    excludes: Vec<String>,
    #[serde(default)]
    keyrings: Table,
    #[serde(default)]
    ima: ImaMembers,
    #[serde(default, rename = "ima-buf")]
    buffers: Table,
    #[serde(default, rename = "verification-keys")]
    verification_keys: String,
}

#[derive(Default, Deserialize)]
struct ImaMembers {
    #[serde(default)]
    ignored_keyrings: Vec<String>,
    #[serde(default)]
    log_hash_alg: Option<String>,
}

#[derive(Serialize)]
struct Keyring {
    meta: KeyringMeta,
    keyids: Vec<u32>,
    pubkeys: Vec<String>,
}

#[derive(Serialize)]
struct KeyringMeta {
    version: u64,
}

impl PolicyDraft {
    /// A draft that lists nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// A draft with all that the policy `text` says. Members that we do not know are left out.
    ///
    /// # Errors
    /// [`DraftError`]; the text must be a policy that could be judged by.
    pub fn read(text: &[u8]) -> Result<Self, DraftError> {
        RuntimePolicy::parse(text).map_err(DraftError::Policy)?;
        // Accepted above, so that this fails for nothing that is in there.
        let unread = |error: serde_json::Error| {
            DraftError::Policy(PolicyError::Json {
                line: error.line(),
                column: error.column(),
            })
        };
        let members: Members = serde_json::from_slice(text).map_err(unread)?;
        let mut draft = Self::new();
        draft.raise_release(members.release);
        for (listing, table) in [
            (Listing::Digests, members.digests),
            (Listing::Keyrings, members.keyrings),
            (Listing::Buffers, members.buffers),
        ] {
            for (name, digests) in table {
                for digest in digests {
                    draft.allow_hex(listing, name.as_bytes(), &digest)?;
                }
            }
        }
        for pattern in &members.excludes {
            draft.exclude(pattern);
        }
        for keyring in &members.ima.ignored_keyrings {
            draft.ignore_keyring(keyring);
        }
        if let Some(alg) = &members.ima.log_hash_alg {
            draft.set_log_hash_name(alg)?;
        }
        draft.add_keyring_text(&members.verification_keys)?;
        Ok(draft)
    }

    fn table(&mut self, listing: Listing) -> &mut Table {
        match listing {
            Listing::Digests => &mut self.digests,
            Listing::Keyrings => &mut self.keyrings,
            Listing::Buffers => &mut self.buffers,
        }
    }

    /// Lists a digest under a name; true when it was not there.
    ///
    /// # Errors
    /// [`DraftError::NotUtf8`] and [`DraftError::TooMany`].
    pub fn allow(
        &mut self,
        listing: Listing,
        name: &[u8],
        digest: &Digest,
    ) -> Result<bool, DraftError> {
        self.insert(listing, name, digest.to_hex())
    }

    /// The same for a digest as text, also of an algorithm that we do not compute (it never
    /// matches, and Keylime's schema takes it). Upper case is written in lower case: Keylime would
    /// never match it. `sha256:` and the like in front are taken off.
    ///
    /// # Errors
    /// [`DraftError`].
    pub fn allow_hex(
        &mut self,
        listing: Listing,
        name: &[u8],
        digest: &str,
    ) -> Result<bool, DraftError> {
        let digest = match digest.split_once(':') {
            None => digest,
            Some((alg, hex)) => {
                let alg = HashAlg::from_name(alg.as_bytes()).ok_or(DraftError::DigestAlgorithm)?;
                if hex.len() != alg.size().saturating_mul(2) {
                    return Err(DraftError::DigestAlgorithm);
                }
                hex
            }
        };
        let is_hex = digest.bytes().all(|byte| byte.is_ascii_hexdigit());
        if !is_hex || !(40..=128).contains(&digest.len()) {
            return Err(DraftError::NotDigest);
        }
        self.insert(listing, name, digest.to_ascii_lowercase())
    }

    fn insert(
        &mut self,
        listing: Listing,
        name: &[u8],
        digest: String,
    ) -> Result<bool, DraftError> {
        let name = std::str::from_utf8(name).map_err(|_| DraftError::NotUtf8)?;
        let table = self.table(listing);
        if let Some(digests) = table.get_mut(name) {
            return Ok(digests.insert(digest));
        }
        if table.len() >= POLICY_PATHS_MAX {
            return Err(DraftError::TooMany);
        }
        table.insert(name.to_owned(), BTreeSet::from([digest]));
        Ok(true)
    }

    /// Adds an exclude pattern, if it is not there. It is checked when the policy is written.
    pub fn exclude(&mut self, pattern: &str) {
        // With one more than the limit there is no policy; more are not compared.
        let is_room = self.excludes.len() <= EXCLUDES_MAX;
        if is_room && !self.excludes.iter().any(|known| known == pattern) {
            self.excludes.push(pattern.to_owned());
        }
    }

    /// Adds a keyring whose keys are not looked at; `*` is every keyring.
    pub fn ignore_keyring(&mut self, keyring: &str) {
        self.ignored_keyrings.insert(keyring.to_owned());
    }

    /// Whether keys of this keyring are not looked at.
    pub fn ignores_keyring(&self, keyring: &[u8]) -> bool {
        let ignored = |known: &String| known == "*" || known.as_bytes() == keyring;
        self.ignored_keyrings.iter().any(ignored)
    }

    /// Sets the algorithm of the template hashes in the lists that will be judged.
    ///
    /// # Errors
    /// [`DraftError::LogHashesDiffer`] when another one is set.
    pub fn set_log_hash(&mut self, theirs: HashAlg) -> Result<(), DraftError> {
        match self.log_hash_alg.replace(theirs) {
            Some(ours) if ours != theirs => {
                self.log_hash_alg = Some(ours);
                Err(DraftError::LogHashesDiffer { ours, theirs })
            }
            _ => Ok(()),
        }
    }

    /// The same by the algorithm's name.
    ///
    /// # Errors
    /// [`DraftError::LogHashAlg`] and [`DraftError::LogHashesDiffer`].
    pub fn set_log_hash_name(&mut self, name: &str) -> Result<(), DraftError> {
        let alg = HashAlg::from_name(name.as_bytes()).ok_or(DraftError::LogHashAlg)?;
        self.set_log_hash(alg)
    }

    /// The algorithm that was set.
    pub fn log_hash(&self) -> Option<HashAlg> {
        self.log_hash_alg
    }

    /// Takes the higher of two release numbers.
    pub fn raise_release(&mut self, release: u64) {
        self.release = self.release.max(release);
    }

    /// Adds a key that signs files: a certificate or public key, in PEM or DER.
    ///
    /// # Errors
    /// [`DraftError::Key`] and [`DraftError::KeyId`].
    pub fn add_key(&mut self, file: &[u8]) -> Result<(), DraftError> {
        let key = match FileKey::from_der(file) {
            Err(KeyError::Der) => FileKey::from_pem(file),
            other => other,
        };
        let key = key.map_err(DraftError::Key)?;
        let der = key.spki_der().map_err(DraftError::Key)?;
        self.add_spki(key.key_id(), der)
    }

    /// Adds the keys of a `verification-keys` member; none for the empty text.
    ///
    /// # Errors
    /// [`DraftError::VerificationKeys`], [`DraftError::Key`] and [`DraftError::KeyId`].
    pub fn add_keyring_text(&mut self, text: &str) -> Result<(), DraftError> {
        let keys = verification_keys::parse(text).map_err(DraftError::VerificationKeys)?;
        for key in keys {
            let computed = FileKey::from_der(&key.spki_der).map_err(DraftError::Key)?;
            self.add_spki(key.keyid.unwrap_or(computed.key_id()), key.spki_der)?;
        }
        Ok(())
    }

    fn add_spki(&mut self, keyid: u32, der: Vec<u8>) -> Result<(), DraftError> {
        match self.keys.entry(keyid) {
            Entry::Occupied(known) if *known.get() != der => Err(DraftError::KeyId { keyid }),
            Entry::Occupied(_) => Ok(()),
            Entry::Vacant(place) => {
                place.insert(der);
                Ok(())
            }
        }
    }

    /// Adds all that another draft says: what either allowed, both do from then on.
    ///
    /// # Errors
    /// [`DraftError`]; the draft is of no use afterwards.
    ///
    /// Security: exclude patterns and ignored keyrings of either hold for what the other lists.
    pub fn merge(&mut self, other: &Self) -> Result<(), DraftError> {
        if let Some(alg) = other.log_hash_alg {
            self.set_log_hash(alg)?;
        }
        for (listing, table) in [
            (Listing::Digests, &other.digests),
            (Listing::Keyrings, &other.keyrings),
            (Listing::Buffers, &other.buffers),
        ] {
            for (name, digests) in table {
                for digest in digests {
                    self.insert(listing, name.as_bytes(), digest.clone())?;
                }
            }
        }
        for pattern in &other.excludes {
            self.exclude(pattern);
        }
        for keyring in &other.ignored_keyrings {
            self.ignore_keyring(keyring);
        }
        for (keyid, der) in &other.keys {
            self.add_spki(*keyid, der.clone())?;
        }
        self.raise_release(other.release);
        Ok(())
    }

    /// Distinct (name, digest) pairs of a table.
    pub fn count(&self, listing: Listing) -> usize {
        let table = match listing {
            Listing::Digests => &self.digests,
            Listing::Keyrings => &self.keyrings,
            Listing::Buffers => &self.buffers,
        };
        table.values().map(BTreeSet::len).sum()
    }

    /// Every (path, digest) pair in hexadecimal, in order.
    pub fn paths(&self) -> impl Iterator<Item = (&str, &str)> {
        self.digests.iter().flat_map(|(path, digests)| {
            let digests = digests.iter().map(String::as_str);
            digests.map(move |digest| (path.as_str(), digest))
        })
    }

    /// The exclude patterns, in the order in which they were added.
    pub fn excludes(&self) -> &[String] {
        &self.excludes
    }

    /// How many keys that sign files there are.
    pub fn key_count(&self) -> usize {
        self.keys.len()
    }

    /// The policy's JSON text. `timestamp` stands in it as given. What was added in any order gives
    /// the same text, but for exclude patterns, which keep theirs.
    ///
    /// # Errors
    /// [`DraftError::Policy`] when [`RuntimePolicy::parse`] does not take the text, for its exclude
    /// patterns or a limit: no text is returned that could not be judged by.
    pub fn write(&self, timestamp: &str) -> Result<String, DraftError> {
        let keyring = self.keyring_text()?;
        let alg = self.log_hash_alg.unwrap_or(HashAlg::Sha1);
        let ignored = self.ignored_keyrings.iter().map(String::as_str).collect();
        let document = Document {
            meta: DocumentMeta::new(timestamp),
            release: self.release,
            digests: by_name(&self.digests),
            excludes: &self.excludes,
            keyrings: by_name(&self.keyrings),
            ima: DocumentIma::new(alg.name(), ignored),
            buffers: by_name(&self.buffers),
            verification_keys: &keyring,
        };
        let text = serde_json::to_string_pretty(&document).map_err(|_| unwritable())?;
        RuntimePolicy::parse(text.as_bytes()).map_err(DraftError::Policy)?;
        Ok(text)
    }

    fn keyring_text(&self) -> Result<String, DraftError> {
        if self.keys.is_empty() {
            return Ok(String::new());
        }
        let keyring = Keyring {
            meta: KeyringMeta { version: 1 },
            keyids: self.keys.keys().copied().collect(),
            pubkeys: self.keys.values().map(|der| STANDARD.encode(der)).collect(),
        };
        serde_json::to_string(&keyring).map_err(|_| unwritable())
    }
}

/// JSON of strings and numbers can always be written; were it ever not so, there is no policy.
fn unwritable() -> DraftError {
    DraftError::Policy(PolicyError::Json { line: 0, column: 0 })
}

fn by_name(table: &Table) -> BTreeMap<&str, &BTreeSet<String>> {
    let entries = table.iter();
    entries
        .map(|(name, digests)| (name.as_str(), digests))
        .collect()
}
