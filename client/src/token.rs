//! Enrolment tokens: a secret, and the fingerprint of the CA that may see it.

use std::fmt;
use std::str::FromStr;

use rat_engine::crypto::digest;
use rat_engine::hash::HashAlg;
use thiserror::Error;

const BASELINE_PREFIX: &str = "esp_b_";
const PREFIX: &str = "esp_";
const ID_DIGITS: usize = 16;
const SECRET_DIGITS: usize = 32;
const FINGERPRINT_DIGITS: usize = 64;

/// An enrolment token: a prefix, then in hexadecimal an id, a secret and a fingerprint.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    text: String,
    baseline: bool,
    ca_sha256: [u8; 32],
}

/// Why a text is no enrolment token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum TokenError {
    /// It does not begin like one.
    #[error("an enrolment token begins with `{PREFIX}` or `{BASELINE_PREFIX}`")]
    Prefix,
    /// It was cut, or something was added.
    #[error(
        "after its prefix an enrolment token has {} characters, this one {found}; \
         was all of it copied?",
        ID_DIGITS + SECRET_DIGITS + FINGERPRINT_DIGITS
    )]
    Length {
        /// Characters found.
        found: usize,
    },
    /// It holds something other than hexadecimal digits.
    #[error("an enrolment token holds hexadecimal digits only; was all of it copied?")]
    Digits,
}

impl Token {
    /// The text, as the server takes it.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether the measurement list of this machine is to become its group's policy.
    pub const fn is_baseline(&self) -> bool {
        self.baseline
    }

    /// SHA-256 of the certificate of the CA that signed the server's.
    pub const fn ca_sha256(&self) -> &[u8; 32] {
        &self.ca_sha256
    }

    /// SHA-256 of the text.
    pub fn sha256(&self) -> [u8; 32] {
        let value = digest(HashAlg::Sha256, self.text.as_bytes());
        value.as_bytes().try_into().unwrap_or([0; 32])
    }
}

impl FromStr for Token {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (baseline, body) = match text.strip_prefix(BASELINE_PREFIX) {
            Some(body) => (true, body),
            None => (false, text.strip_prefix(PREFIX).ok_or(TokenError::Prefix)?),
        };
        let expected = [ID_DIGITS, SECRET_DIGITS, FINGERPRINT_DIGITS];
        if body.len() != expected.iter().sum::<usize>() {
            let found = body.chars().count();
            return Err(TokenError::Length { found });
        }
        if !body.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(TokenError::Digits);
        }
        let mut ca_sha256 = [0; 32];
        let fingerprint = body.get(ID_DIGITS.saturating_add(SECRET_DIGITS)..);
        hex::decode_to_slice(fingerprint.unwrap_or_default(), &mut ca_sha256)
            .map_err(|_| TokenError::Digits)?;
        Ok(Self {
            text: text.to_owned(),
            baseline,
            ca_sha256,
        })
    }
}

/// Never the secret.
impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token")
            .field("baseline", &self.baseline)
            .field("ca_sha256", &hex::encode(self.ca_sha256))
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_are_read_and_nothing_else() {
        let body = format!("{}{}{}", "1".repeat(16), "2".repeat(32), "ab".repeat(32));
        for (prefix, baseline) in [("esp_b_", true), ("esp_", false)] {
            let text = format!("{prefix}{body}");
            let token: Token = text.parse().unwrap();
            assert_eq!(
                (token.is_baseline(), token.as_str()),
                (baseline, text.as_str())
            );
            assert_eq!(token.ca_sha256(), &[0xab; 32]);
            assert!(!format!("{token:?}").contains("2222"), "{token:?}");
        }
        for (text, error) in [
            (body.clone(), TokenError::Prefix),
            (String::new(), TokenError::Prefix),
            (
                format!("esp_{}", &body[1..]),
                TokenError::Length { found: 111 },
            ),
            (format!("esp_{body} "), TokenError::Length { found: 113 }),
            (format!("esp_{}g", &body[1..]), TokenError::Digits),
        ] {
            assert_eq!(text.parse::<Token>(), Err(error), "{text}");
        }
    }
}
