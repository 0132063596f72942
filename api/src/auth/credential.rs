//! The texts of sessions' and programs' tokens.

use std::fmt;

use rat_engine::crypto::digest;
use rat_engine::hash::HashAlg;
use thiserror::Error;

const SESSION_PREFIX: &str = "rats_";
const API_TOKEN_PREFIX: &str = "rat_";
const ID_BYTES: usize = 8;
const SECRET_BYTES: usize = 32;

/// What a credential's prefix says it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CredentialKind {
    /// A login's.
    Session,
    /// A program's.
    ApiToken,
}

impl CredentialKind {
    const fn prefix(self) -> &'static str {
        match self {
            Self::Session => SESSION_PREFIX,
            Self::ApiToken => API_TOKEN_PREFIX,
        }
    }
}

/// A bearer token: `rats_` or `rat_`, then in hexadecimal an id of 8 bytes and a secret of 32.
///
/// # Security
/// The id finds the record; only the SHA-256 of the whole is stored. The secret has 256 random
/// bits, so that nothing slower than SHA-256 is needed.
#[derive(Clone, PartialEq, Eq)]
pub struct Credential {
    text: String,
    kind: CredentialKind,
}

/// A text has not the form of a credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("not a session's or API token")]
pub struct NotACredential;

/// There are no random numbers to be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the operating system gives no random numbers")]
pub struct NoRandom;

impl Credential {
    /// A new credential.
    ///
    /// # Errors
    /// [`NoRandom`].
    pub fn generate(kind: CredentialKind) -> Result<Self, NoRandom> {
        let mut drawn = [0; ID_BYTES + SECRET_BYTES];
        getrandom::fill(&mut drawn).map_err(|_| NoRandom)?;
        let text = format!("{}{}", kind.prefix(), hex::encode(drawn));
        Ok(Self { text, kind })
    }

    /// The credential that this text is.
    ///
    /// # Errors
    /// [`NotACredential`].
    pub fn parse(text: &str) -> Result<Self, NotACredential> {
        // No prefix begins another, so that the order does not matter.
        let (kind, body) = [CredentialKind::Session, CredentialKind::ApiToken]
            .into_iter()
            .find_map(|kind| Some((kind, text.strip_prefix(kind.prefix())?)))
            .ok_or(NotACredential)?;
        let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        if body.len() != (ID_BYTES + SECRET_BYTES) * 2 || !body.bytes().all(is_digit) {
            return Err(NotACredential);
        }
        Ok(Self {
            text: text.to_owned(),
            kind,
        })
    }

    /// The text, for whoever may have it.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// What its prefix says it is.
    pub const fn kind(&self) -> CredentialKind {
        self.kind
    }

    /// The part that finds its record; no secret.
    pub fn id(&self) -> &str {
        let body = self.text.strip_prefix(self.kind.prefix());
        body.and_then(|body| body.get(..ID_BYTES * 2))
            .unwrap_or_default()
    }

    /// What is stored of it.
    pub fn sha256(&self) -> [u8; 32] {
        sha256(&self.text)
    }
}

/// Never the secret.
impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credential")
            .field("kind", &self.kind)
            .field("id", &self.id())
            .finish_non_exhaustive()
    }
}

pub(super) fn sha256(text: &str) -> [u8; 32] {
    // SHA-256 has 32 bytes; the zeros are never reached.
    let digest = digest(HashAlg::Sha256, text.as_bytes());
    digest.as_bytes().try_into().unwrap_or([0; 32])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a03_nothing_but_a_credentials_own_text_is_one() {
        for (kind, prefix) in [
            (CredentialKind::Session, "rats_"),
            (CredentialKind::ApiToken, "rat_"),
        ] {
            let credential = Credential::generate(kind).unwrap();
            let text = credential.as_str();
            assert_eq!(text.len(), prefix.len() + 16 + 64);
            assert_eq!(Credential::parse(text), Ok(credential.clone()));
            assert_eq!(credential.kind(), kind);
            assert_eq!(
                Some(credential.id()),
                text.get(prefix.len()..prefix.len() + 16)
            );
            let secret = &text[prefix.len() + 16..];
            assert!(!format!("{credential:?}").contains(secret));
            for other in [
                "",
                prefix,
                &text[..text.len() - 1],
                &format!("{text}0"),
                &format!("{text} "),
                &format!(" {text}"),
                &text.to_uppercase(),
                &text.replace(prefix, "esp_"),
                &text.replace(prefix, "rat_admin_"),
                &text.replace(prefix, ""),
            ] {
                assert_eq!(Credential::parse(other), Err(NotACredential), "{other}");
            }
        }
    }
}
