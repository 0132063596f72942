//! What is found out about the quote of an agent that this server knows: `GET /v2.6/verify/identity`.

use serde::Serialize;

use super::failure::Failure;
use super::judge;
use crate::metrics;

/// `results`: `valid` is a number in every version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(in crate::keylime) struct Identity {
    valid: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

/// Judges a quote of the agent with this attestation key (`TPMT_PUBLIC`).
///
/// # Security
/// See [`judge::identity`]. Anybody asks, and chooses the nonce: what is valid says that the agent's
/// TPM signed this, and not when. Whoever asks must have drawn the nonce.
pub(in crate::keylime) fn verify(
    ak_public: &[u8],
    quote: &str,
    nonce: &str,
    hash_alg: &str,
) -> Identity {
    let failures = judge::identity(ak_public, quote, nonce, hash_alg);
    let code = failures.first().map_or("", Failure::code);
    let result = if failures.is_empty() {
        "valid"
    } else {
        "invalid"
    };
    count(result, code);
    if failures.is_empty() {
        return Identity {
            valid: 1,
            reason: None,
        };
    }
    let reasons: Vec<String> = failures.iter().map(Failure::context).collect();
    Identity {
        valid: 0,
        reason: Some(reasons.join("; ")),
    }
}

/// Counts a question that nothing was found out for.
pub(in crate::keylime) fn refused(code: &'static str) {
    count("refused", code);
}

fn count(result: &'static str, code: &'static str) {
    let labels = [("result", result), ("code", code)];
    ::metrics::counter!(metrics::IDENTITY_VERIFICATIONS, &labels).increment(1);
}
