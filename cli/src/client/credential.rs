//! As whom the server is asked.

use std::fmt;
use std::path::{Path, PathBuf};

use hyper::header::HeaderValue;
use rat_client::access::{self, AccessError};
use thiserror::Error;

/// A token has under 130 characters; a little more is read, so that one that is too long is
/// called so.
const TOKEN_FILE_BYTES_MAX: usize = 1024;
const TOKEN_CHARACTERS_MAX: usize = 256;
const ID_DIGITS: usize = 16;
const SESSION_PREFIX: &str = "rats_";
const ENROLMENT_PREFIX: &str = "esp_";

/// A session's token, or an API token.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Credential {
    token: String,
    source: Source,
}

/// Where a credential came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Source {
    /// The file that `--token-file` names.
    Option(PathBuf),
    /// `RAT_TOKEN`.
    Variable,
    /// The file that `RAT_TOKEN_FILE` names.
    FileOfVariable(PathBuf),
    /// `rat login`.
    Login,
}

/// Why a credential cannot be used. The text never has the token. (X08)
#[derive(Debug, Error)]
pub(crate) enum CredentialError {
    /// Its file cannot be used, or others can read it. (A07)
    #[error("the token's file: {0}")]
    File(#[from] AccessError),
    /// It is no token.
    #[error("{0} holds no session's or API token")]
    NoToken(Source),
    /// It is for machines.
    #[error("{0} holds an enrolment token: those are for `rat enroll`, this needs an API token")]
    Enrolment(Source),
}

impl Credential {
    /// The token in this text; whitespace around it is none of it.
    pub(crate) fn new(text: &str, source: Source) -> Result<Self, CredentialError> {
        let token = text.trim();
        if token.starts_with(ENROLMENT_PREFIX) {
            return Err(CredentialError::Enrolment(source));
        }
        let is_plain = token
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        if !is_plain || !(1..=TOKEN_CHARACTERS_MAX).contains(&token.len()) {
            return Err(CredentialError::NoToken(source));
        }
        Ok(Self {
            token: token.to_owned(),
            source,
        })
    }

    /// The token in a file that nobody else can read.
    pub(crate) fn read(path: &Path, source: Source) -> Result<Self, CredentialError> {
        let text = access::read_secret(path, TOKEN_FILE_BYTES_MAX)?;
        match std::str::from_utf8(&text) {
            Ok(text) => Self::new(text, source),
            Err(_) => Err(CredentialError::NoToken(source)),
        }
    }

    /// Where it came from.
    pub(crate) const fn source(&self) -> &Source {
        &self.source
    }

    /// The part that finds its record; no secret.
    pub(crate) fn id(&self) -> &str {
        let body = self.token.split_once('_').map_or("", |(_, body)| body);
        body.get(..ID_DIGITS).unwrap_or_default()
    }

    /// Whether it is a login's.
    pub(crate) fn is_session(&self) -> bool {
        self.token.starts_with(SESSION_PREFIX)
    }

    /// The header that shows it.
    pub(super) fn header(&self) -> Result<HeaderValue, CredentialError> {
        let header = HeaderValue::from_str(&format!("Bearer {}", self.token));
        let mut header = header.map_err(|_| CredentialError::NoToken(self.source.clone()))?;
        header.set_sensitive(true);
        Ok(header)
    }
}

/// Never the token.
impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credential")
            .field("source", &self.source)
            .finish_non_exhaustive()
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Option(path) => write!(f, "--token-file {}", path.display()),
            Self::Variable => f.write_str("RAT_TOKEN"),
            Self::FileOfVariable(path) => write!(f, "RAT_TOKEN_FILE {}", path.display()),
            Self::Login => f.write_str("the saved session"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn x08_a_token_that_cannot_be_used_is_not_repeated() {
        let good = format!("rats_{}", "0f".repeat(40));
        let credential = Credential::new(&format!("{good}\n"), Source::Variable).unwrap();
        let header = credential.header().unwrap();
        assert_eq!(header.to_str().unwrap(), format!("Bearer {good}"));
        assert!(credential.is_session() && header.is_sensitive());
        assert_eq!(credential.id(), &good[5..21]);
        assert!(!format!("{credential:?}").contains("0f0f"));
        for bad in [
            "",
            " ",
            "rat_a b",
            "rat_secret\r\nx: y",
            "rat_s\u{e9}cret",
            &"secret".repeat(100),
            &format!("esp_{}secret", "0".repeat(112)),
        ] {
            let error = Credential::new(bad, Source::Variable).unwrap_err();
            let text = error.to_string();
            assert!(text.starts_with("RAT_TOKEN holds"), "{text}");
            assert!(!text.contains("secret"), "{text}");
        }
    }
}
