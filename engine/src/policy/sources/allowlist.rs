//! Lists that older tools made: `sha256sum`'s lines, Keylime's flat and JSON allowlists, exclude lists.
//!
//! Source: Keylime, `keylime/cmd/convert_runtime_policy.py`; GNU coreutils, `sha256sum(1)`.

use std::collections::BTreeMap;

use serde::Deserialize;
use thiserror::Error;

use super::measured_name;
use crate::limits::ALLOWLIST_BYTES_MAX;
use crate::policy::draft::{DraftError, Listing, PolicyDraft};

/// How a path of a flat list says that it is the name of a keyring.
const KEYRING_PREFIX: &[u8] = b"%keyring:";

/// Why a list is refused. Nothing of it is taken then.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum AllowlistError {
    /// The list is longer than [`ALLOWLIST_BYTES_MAX`].
    #[error("the list has {bytes} bytes, more than {max}", max = ALLOWLIST_BYTES_MAX)]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
    /// A line without a digest and a path.
    #[error("line {line}: not a digest and a path")]
    Line {
        /// Its number, from 1.
        line: usize,
    },
    /// A line that a policy cannot hold.
    #[error("line {line}: {fault}")]
    Entry {
        /// Its number, from 1.
        line: usize,
        /// Why.
        fault: DraftError,
    },
    /// A JSON allowlist that is not one.
    #[error("line {line} column {column}: not an allowlist")]
    Json {
        /// Line, from 1.
        line: usize,
        /// Column, from 1.
        column: usize,
    },
    /// A JSON allowlist with something that a policy cannot hold.
    #[error("{name:?}: {fault}")]
    Member {
        /// The path or keyring.
        name: String,
        /// Why.
        fault: DraftError,
    },
    /// A list without an entry.
    #[error("the list has no entry")]
    Empty,
    /// An exclude list that is not UTF-8.
    #[error("the list is not UTF-8")]
    NotUtf8,
}

/// Adds the list `text`, flat or JSON, to `draft`; returns how many entries it had.
///
/// Each line of a flat list is a digest, blanks and a path: `sha256sum`'s output with its `*` for
/// binary mode and its `\` for escaped names, or Keylime's with `%keyring:`. Empty lines and those
/// that begin with `#` are passed over. Spaces in paths become `_`, as the kernel measures them.
///
/// # Errors
/// [`AllowlistError`], which names the line.
pub fn read_allowlist(text: &[u8], draft: &mut PolicyDraft) -> Result<usize, AllowlistError> {
    check_length(text)?;
    let entries = match text.trim_ascii_start().first() {
        Some(b'{') => read_json(text, draft)?,
        _ => read_flat(text, draft)?,
    };
    match entries {
        0 => Err(AllowlistError::Empty),
        entries => Ok(entries),
    }
}

fn check_length(text: &[u8]) -> Result<(), AllowlistError> {
    match text.len() > ALLOWLIST_BYTES_MAX {
        true => Err(AllowlistError::TooLarge { bytes: text.len() }),
        false => Ok(()),
    }
}

fn read_flat(text: &[u8], draft: &mut PolicyDraft) -> Result<usize, AllowlistError> {
    let mut entries = 0_usize;
    for (line, content) in (1..).zip(text.split(|byte| *byte == b'\n')) {
        let content = content.trim_ascii();
        if content.is_empty() || content.starts_with(b"#") {
            continue;
        }
        let escaped = content.strip_prefix(b"\\");
        let content = escaped.unwrap_or(content);
        let blank = content.iter().position(u8::is_ascii_whitespace);
        let (digest, rest) = blank
            .and_then(|at| content.split_at_checked(at))
            .ok_or(AllowlistError::Line { line })?;
        let path = path_of(rest);
        let path = match escaped {
            Some(_) => unescaped(path).ok_or(AllowlistError::Line { line })?,
            None => path.to_vec(),
        };
        let (listing, name) = match path.strip_prefix(KEYRING_PREFIX) {
            Some(keyring) => (Listing::Keyrings, keyring.to_vec()),
            None => (Listing::Digests, measured_name(&path).into_owned()),
        };
        if name.is_empty() {
            return Err(AllowlistError::Line { line });
        }
        let digest = std::str::from_utf8(digest).map_err(|_| AllowlistError::Line { line })?;
        draft
            .allow_hex(listing, &name, digest)
            .map_err(|fault| AllowlistError::Entry { line, fault })?;
        entries = entries.saturating_add(1);
    }
    Ok(entries)
}

/// The path behind the blanks. `sha256sum` writes one blank and then `*` for binary mode; paths of
/// an allowlist begin with `/` or are names such as `boot_aggregate`.
fn path_of(rest: &[u8]) -> &[u8] {
    match rest.strip_prefix(b" *") {
        Some(path) => path,
        None => rest.trim_ascii_start(),
    }
}

/// `\\`, `\n` and `\r` of an escaped line; `None` for another escape.
fn unescaped(path: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = path.iter();
    let mut plain = Vec::with_capacity(path.len());
    while let Some(byte) = bytes.next() {
        plain.push(match byte {
            b'\\' => match bytes.next()? {
                b'\\' => b'\\',
                b'n' => b'\n',
                b'r' => b'\r',
                _ => return None,
            },
            byte => *byte,
        });
    }
    Some(plain)
}

/// Keylime's JSON allowlist, and policies of before the present schema.
#[derive(Deserialize)]
struct JsonAllowlist {
    #[serde(default)]
    release: Option<u64>,
    #[serde(default, alias = "digests")]
    hashes: BTreeMap<String, Vec<String>>,
    #[serde(default)]
    keyrings: BTreeMap<String, Vec<String>>,
    #[serde(default, rename = "ima-buf")]
    buffers: BTreeMap<String, Vec<String>>,
    #[serde(default, alias = "exclude")]
    excludes: Vec<String>,
    #[serde(default)]
    ima: JsonIma,
    #[serde(default, rename = "verification-keys")]
    verification_keys: Option<String>,
}

#[derive(Default, Deserialize)]
struct JsonIma {
    #[serde(default)]
    ignored_keyrings: Vec<String>,
    #[serde(default)]
    log_hash_alg: Option<String>,
}

fn read_json(text: &[u8], draft: &mut PolicyDraft) -> Result<usize, AllowlistError> {
    let list: JsonAllowlist = serde_json::from_slice(text).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        AllowlistError::Json { line, column }
    })?;
    let mut entries = 0_usize;
    for (listing, members) in [
        (Listing::Digests, &list.hashes),
        (Listing::Keyrings, &list.keyrings),
        (Listing::Buffers, &list.buffers),
    ] {
        for (name, digests) in members {
            let fault = |fault| AllowlistError::Member {
                name: name.clone(),
                fault,
            };
            let measured = match listing {
                Listing::Digests => measured_name(name.as_bytes()),
                Listing::Keyrings | Listing::Buffers => name.as_bytes().into(),
            };
            for digest in digests {
                draft.allow_hex(listing, &measured, digest).map_err(fault)?;
                entries = entries.saturating_add(1);
            }
        }
    }
    let fault = |name: &'static str| {
        move |fault| AllowlistError::Member {
            name: name.to_owned(),
            fault,
        }
    };
    if let Some(alg) = &list.ima.log_hash_alg {
        draft
            .set_log_hash_name(alg)
            .map_err(fault("ima.log_hash_alg"))?;
    }
    if let Some(keys) = &list.verification_keys {
        draft
            .add_keyring_text(keys)
            .map_err(fault("verification-keys"))?;
    }
    for pattern in &list.excludes {
        draft.exclude(pattern);
    }
    for keyring in &list.ima.ignored_keyrings {
        draft.ignore_keyring(keyring);
    }
    draft.raise_release(list.release.unwrap_or(0));
    Ok(entries)
}

/// The patterns of an exclude list: a line each, empty ones and those with `#` in front passed over.
///
/// # Errors
/// [`AllowlistError`]. Patterns are checked when the policy is.
pub fn read_exclude_list(text: &[u8]) -> Result<Vec<&str>, AllowlistError> {
    check_length(text)?;
    let text = std::str::from_utf8(text).map_err(|_| AllowlistError::NotUtf8)?;
    let lines = text.lines().map(str::trim);
    let patterns = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
    Ok(patterns.collect())
}
