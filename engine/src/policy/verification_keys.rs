//! The `verification-keys` member: a keyring as JSON text inside the policy's JSON.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use thiserror::Error;

use crate::limits::{IMA_KEY_BYTES_MAX, IMA_KEYS_MAX};

/// A key that file signatures are verified with, not parsed yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerificationKey {
    /// The key id that the policy names for it; computed from the key when absent.
    pub keyid: Option<u32>,
    /// SubjectPublicKeyInfo in DER, as it stands in the policy.
    pub spki_der: Vec<u8>,
}

/// Why the text of `verification-keys` is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum VerificationKeysError {
    /// Not JSON, or not a keyring: `meta`, `keyids` and `pubkeys` each at most once.
    #[error("the keyring text, line {line} column {column}: not a keyring")]
    Json {
        /// Line within the text.
        line: usize,
        /// Column within the text.
        column: usize,
    },
    /// A keyring version that is not 1.
    #[error("keyring version {found} is not known")]
    Version {
        /// The version found.
        found: u64,
    },
    /// A key that is not base64.
    #[error("pubkeys[{index}] is not base64")]
    Base64 {
        /// Its place.
        index: usize,
    },
    /// A key that is empty or longer than any key we use.
    #[error("pubkeys[{index}] has {bytes} bytes, which is outside 1..={IMA_KEY_BYTES_MAX}")]
    KeySize {
        /// Its place.
        index: usize,
        /// Its size.
        bytes: usize,
    },
    /// More keys than [`IMA_KEYS_MAX`].
    #[error("{found} keys are more than {IMA_KEYS_MAX}")]
    TooMany {
        /// How many.
        found: usize,
    },
    /// More key ids than keys.
    #[error("{keyids} key ids for {keys} keys")]
    KeyIds {
        /// How many ids.
        keyids: usize,
        /// How many keys.
        keys: usize,
    },
}

// The derive refuses duplicate members. Unknown ones are ignored, as Keylime does.
#[derive(Deserialize)]
struct Keyring<'a> {
    #[serde(default)]
    meta: Option<KeyringMeta>,
    #[serde(default)]
    keyids: Vec<u32>,
    #[serde(borrow)]
    pubkeys: Vec<std::borrow::Cow<'a, str>>,
}

#[derive(Deserialize)]
struct KeyringMeta {
    version: Option<u64>,
}

/// The keys of the keyring `text`; none for the empty text.
///
/// Source: Keylime, `keylime/ima/file_signatures.py`, `ImaKeyring.from_string`.
pub(super) fn parse(text: &str) -> Result<Vec<VerificationKey>, VerificationKeysError> {
    if text.is_empty() {
        return Ok(Vec::new());
    }
    let keyring: Keyring<'_> =
        serde_json::from_str(text).map_err(|error| VerificationKeysError::Json {
            line: error.line(),
            column: error.column(),
        })?;
    let version = keyring.meta.and_then(|meta| meta.version).unwrap_or(1);
    if version != 1 {
        return Err(VerificationKeysError::Version { found: version });
    }
    let keys = keyring.pubkeys.len();
    if keys > IMA_KEYS_MAX {
        return Err(VerificationKeysError::TooMany { found: keys });
    }
    if keyring.keyids.len() > keys {
        return Err(VerificationKeysError::KeyIds {
            keyids: keyring.keyids.len(),
            keys,
        });
    }
    let mut keyids = keyring.keyids.into_iter();
    let keys = keyring.pubkeys.iter().enumerate();
    keys.map(|(index, key)| {
        let spki_der = STANDARD
            .decode(key.as_bytes())
            .map_err(|_| VerificationKeysError::Base64 { index })?;
        let bytes = spki_der.len();
        if bytes == 0 || bytes > IMA_KEY_BYTES_MAX {
            return Err(VerificationKeysError::KeySize { index, bytes });
        }
        Ok(VerificationKey {
            keyid: keyids.next(),
            spki_der,
        })
    })
    .collect()
}
