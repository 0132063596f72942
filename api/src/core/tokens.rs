//! Enrolment tokens: their form, and R10, which says what one is for.

use std::fmt;
use std::net::IpAddr;

use axum::Extension;
use axum::body::Bytes;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use rat_engine::crypto::{constant_time_eq, digest};
use rat_engine::evidence::NonceSource;
use rat_engine::hash::HashAlg;
use rat_store::{NewToken, StoredToken, TokenKind};
use thiserror::Error;

use super::wire::{enrolment as wire, request as asked};
use super::{Core, State};
use crate::auth::Peer;
use crate::clock::unix_ms;
use crate::error::{ApiError, json_response};
use crate::json::Object;
use crate::limits::TOKEN_CHARACTERS_MAX;
use crate::metrics;

const BASELINE_PREFIX: &str = "esp_b_";
const PREFIX: &str = "esp_";
const ID_BYTES: usize = 8;
const SECRET_BYTES: usize = 16;
const FINGERPRINT_BYTES: usize = 32;

/// An enrolment token: `esp_` or `esp_b_`, then in hexadecimal an id, a secret, and the
/// fingerprint of the CA that may see it. (N14)
///
/// # Security
/// The id finds the record; only the SHA-256 of the whole is stored.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    text: String,
    kind: TokenKind,
}

/// A text has not the form of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("not an enrolment token")]
pub struct NotAToken;

/// There are no random numbers to be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the operating system gives no random numbers")]
pub struct NoRandom;

impl Token {
    /// A new token.
    ///
    /// # Errors
    /// [`NoRandom`].
    pub fn generate(
        kind: TokenKind,
        ca_sha256: &[u8; 32],
        random: &mut dyn NonceSource,
    ) -> Result<Self, NoRandom> {
        let mut drawn = [0; ID_BYTES + SECRET_BYTES];
        random.fill(&mut drawn).ok_or(NoRandom)?;
        let prefix = match kind {
            TokenKind::Enrol => PREFIX,
            TokenKind::Baseline => BASELINE_PREFIX,
        };
        let text = format!("{prefix}{}{}", hex::encode(drawn), hex::encode(ca_sha256));
        Ok(Self { text, kind })
    }

    /// A new token, with the operating system's random numbers.
    ///
    /// # Errors
    /// [`NoRandom`].
    pub fn generate_now(kind: TokenKind, ca_sha256: &[u8; 32]) -> Result<Self, NoRandom> {
        Self::generate(kind, ca_sha256, &mut super::SystemRandom)
    }

    /// The token that this text is.
    ///
    /// # Errors
    /// [`NotAToken`].
    pub fn parse(text: &str) -> Result<Self, NotAToken> {
        // No hexadecimal digit is `_`, so that the two prefixes never meet.
        let (kind, body) = match text.strip_prefix(BASELINE_PREFIX) {
            Some(body) => (TokenKind::Baseline, body),
            None => (
                TokenKind::Enrol,
                text.strip_prefix(PREFIX).ok_or(NotAToken)?,
            ),
        };
        let digits = (ID_BYTES + SECRET_BYTES + FINGERPRINT_BYTES) * 2;
        let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        if body.len() != digits || !body.bytes().all(is_digit) {
            return Err(NotAToken);
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

    /// What its prefix says it is for.
    pub const fn kind(&self) -> TokenKind {
        self.kind
    }

    /// The part that finds its record; no secret.
    pub fn id(&self) -> &str {
        let body = self.text.strip_prefix(BASELINE_PREFIX);
        let body = body.or_else(|| self.text.strip_prefix(PREFIX));
        body.and_then(|body| body.get(..ID_BYTES * 2))
            .unwrap_or_default()
    }

    /// What is stored of it.
    pub fn sha256(&self) -> [u8; 32] {
        sha256(self.text.as_bytes())
    }

    /// What to store of it.
    pub fn record(
        &self,
        group: &str,
        uses_max: Option<u64>,
        expires_unix_ms: u64,
        created_by: &str,
        now_unix_ms: u64,
    ) -> NewToken {
        NewToken {
            id: self.id().to_owned(),
            sha256: self.sha256(),
            kind: self.kind,
            group: group.to_owned(),
            uses_max,
            expires_unix_ms: Some(expires_unix_ms),
            created_by: created_by.to_owned(),
            created_unix_ms: now_unix_ms,
        }
    }
}

/// Never the secret.
impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token")
            .field("kind", &self.kind)
            .field("id", &self.id())
            .finish_non_exhaustive()
    }
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    // SHA-256 has 32 bytes; the zeros are never reached.
    let digest = digest(HashAlg::Sha256, bytes);
    digest.as_bytes().try_into().unwrap_or([0; 32])
}

/// A token that is valid now.
#[derive(Debug)]
pub(crate) struct Presented {
    pub(crate) token: Token,
    pub(crate) stored: StoredToken,
}

/// The token of a request, if it is valid now.
///
/// # Errors
/// [`ApiError::NotAuthenticated`], counted against the address, whatever is wrong with it; the
/// member's fault when it is missing or no string.
///
/// # Security
/// Whether the id is unknown, the secret wrong, or the token expired or used up cannot be told
/// from the answer: each takes one read of the store and one comparison. (X08, A03)
pub(crate) async fn authenticate(
    core: &Core,
    request: &Object<'_>,
    address: IpAddr,
) -> Result<Presented, ApiError> {
    let text = request.text("token", TOKEN_CHARACTERS_MAX)?;
    // A text of another form is looked up too, under an id that no token has.
    let parsed = Token::parse(text);
    let id = parsed.as_ref().map_or("-", Token::id);
    let found = core.store.token(id).await?;
    let sha256 = sha256(text.as_bytes());
    let stored = match (parsed, found) {
        (Ok(token), Some(stored)) if stored.token.kind == token.kind() => {
            let admitted = stored.admits(&sha256, unix_ms());
            admitted.ok().map(|()| Presented { token, stored })
        }
        _ => {
            let _ = constant_time_eq(&sha256, &NO_TOKEN);
            None
        }
    };
    stored.ok_or_else(|| refused(core, address))
}

/// Compared with where there is no record to compare with.
const NO_TOKEN: [u8; 32] = [0; 32];

/// Counts a token that was not valid.
pub(crate) fn refused(core: &Core, address: IpAddr) -> ApiError {
    metrics::counter_of(metrics::TOKEN_FAILURES, "kind", "enrolment");
    core.shared.gate().token_guard().failed(address);
    ApiError::NotAuthenticated
}

/// R10: what a token is for, without using it.
#[utoipa::path(
    post, path = "/tokens/validate", tag = "enrolment",
    request_body = asked::ValidateToken,
    responses((status = 200, body = wire::InstallConfig)),
)]
pub(super) async fn validate(
    state: State,
    Extension(peer): Extension<Peer>,
    body: Bytes,
) -> Response {
    let core = &state.0;
    match install_config(core, &peer, &body).await {
        Ok(config) => json_response(StatusCode::OK, &config),
        Err(error) => error.into_response(),
    }
}

async fn install_config(
    core: &Core,
    peer: &Peer,
    body: &[u8],
) -> Result<wire::InstallConfig, ApiError> {
    let request = Object::parse(body)?;
    let presented = authenticate(core, &request, peer.address.ip()).await?;
    let addresses = &core.addresses;
    Ok(wire::InstallConfig {
        registrar_ip: addresses.host.clone(),
        verifier_ip: addresses.host.clone(),
        core_url: addresses.core_url.clone(),
        is_baseline: presented.token.kind() == TokenKind::Baseline,
        group_id: presented.stored.token.group,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Counting(u8);

    impl NonceSource for Counting {
        fn fill(&mut self, bytes: &mut [u8]) -> Option<()> {
            bytes.fill_with(|| {
                self.0 += 1;
                self.0
            });
            Some(())
        }
    }

    #[test]
    fn n14_a_token_names_the_ca_that_may_see_it() {
        for (kind, prefix) in [(TokenKind::Enrol, "esp_"), (TokenKind::Baseline, "esp_b_")] {
            let token = Token::generate(kind, &[0xab; 32], &mut Counting(0)).unwrap();
            let expected = format!(
                "{prefix}0102030405060708090a0b0c0d0e0f101112131415161718{}",
                "ab".repeat(32)
            );
            assert_eq!(token.as_str(), expected);
            assert_eq!(token.id(), "0102030405060708");
            assert_eq!(Token::parse(&expected), Ok(token.clone()));
            assert!(!format!("{token:?}").contains("090a0b"), "{token:?}");
        }
    }

    #[test]
    fn a03_nothing_but_a_tokens_own_text_is_a_token() {
        let text = Token::generate(TokenKind::Enrol, &[0xab; 32], &mut Counting(0)).unwrap();
        let text = text.as_str();
        for other in [
            "",
            "esp_",
            "esp_b_",
            &text[..text.len() - 1],
            &format!("{text}0"),
            &format!("{text} "),
            &format!(" {text}"),
            &text.to_uppercase(),
            &text.replace('a', "A"),
            &text.replace("esp_", "tok_"),
        ] {
            assert_eq!(Token::parse(other), Err(NotAToken), "{other}");
        }
    }
}
