//! Signed policies: DSSE envelopes as Keylime's tools make them, and who may be believed.
//!
//! Source: DSSE v1.0.2, `protocol.md` and `envelope.md`; Keylime, `keylime/dsse/`.

mod admit;
use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::crypto::DocumentKey;
use crate::limits::{DSSE_BYTES_MAX, DSSE_SIGNATURE_BYTES_MAX, DSSE_SIGNATURES_MAX};

pub use admit::{Admitted, PolicyRefusal, SignatureState, admit};

/// The payload type of Keylime's policies.
pub const PAYLOAD_TYPE: &str = "application/vnd.keylime+json";

/// Why a text is not an envelope that we can use, or is not signed by the key that was named.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum DsseError {
    /// The text is longer than [`DSSE_BYTES_MAX`].
    #[error("the envelope has {bytes} bytes, more than {max}", max = DSSE_BYTES_MAX)]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
    /// Not JSON, or not an object with `payload`, `payloadType` and `signatures`, each once.
    #[error("line {line} column {column}: not a DSSE envelope")]
    Json {
        /// Line, from 1.
        line: usize,
        /// Column, from 1.
        column: usize,
    },
    /// The payload is something else than a policy (L06).
    #[error("the payload type is not {PAYLOAD_TYPE}")]
    PayloadType,
    /// `payload` is not base64.
    #[error("the payload is not base64")]
    Payload,
    /// No signature, or more than [`DSSE_SIGNATURES_MAX`].
    #[error("{found} signatures are outside 1..={max}", max = DSSE_SIGNATURES_MAX)]
    Signatures {
        /// How many.
        found: usize,
    },
    /// A signature that is not base64, is empty, or is longer than [`DSSE_SIGNATURE_BYTES_MAX`].
    #[error("signatures[{index}].sig is not 1 to {max} bytes in base64", max = DSSE_SIGNATURE_BYTES_MAX)]
    Signature {
        /// Its place.
        index: usize,
    },
    /// None of the signatures was made by the key over this payload and its type (L06).
    #[error("no signature is the key's")]
    NotSigned,
}

// The derive refuses duplicate members. Unknown ones are ignored, as DSSE asks for.
#[derive(Deserialize)]
struct RawEnvelope<'a> {
    #[serde(borrow)]
    payload: Cow<'a, str>,
    #[serde(rename = "payloadType", borrow)]
    payload_type: Cow<'a, str>,
    #[serde(borrow)]
    signatures: Vec<RawSignature<'a>>,
}

#[derive(Deserialize)]
struct RawSignature<'a> {
    #[serde(default, borrow)]
    keyid: Option<Cow<'a, str>>,
    #[serde(borrow)]
    sig: Cow<'a, str>,
}

/// An envelope whose parts were decoded. Nothing in it is authenticated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedPolicy {
    payload: Vec<u8>,
    signatures: Vec<EnvelopeSignature>,
}

/// One signature of an envelope.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnvelopeSignature {
    /// What the envelope says of the key: a hint of a stranger, and never a reason to trust.
    pub keyid: Option<String>,
    /// ECDSA in DER.
    pub sig: Vec<u8>,
}

impl SignedPolicy {
    /// Decodes an envelope.
    ///
    /// # Errors
    /// [`DsseError`].
    ///
    /// # Security
    /// Nothing is authenticated; only [`verify`](Self::verify) gives the policy's text.
    pub fn parse(text: &[u8]) -> Result<Self, DsseError> {
        if text.len() > DSSE_BYTES_MAX {
            return Err(DsseError::TooLarge { bytes: text.len() });
        }
        let raw: RawEnvelope<'_> =
            serde_json::from_slice(text).map_err(|error| DsseError::Json {
                line: error.line(),
                column: error.column(),
            })?;
        if raw.payload_type != PAYLOAD_TYPE {
            return Err(DsseError::PayloadType);
        }
        let found = raw.signatures.len();
        if found == 0 || found > DSSE_SIGNATURES_MAX {
            return Err(DsseError::Signatures { found });
        }
        let signatures = raw.signatures.into_iter().enumerate();
        let signatures = signatures.map(|(index, signature)| {
            let sig = decode(&signature.sig)
                .filter(|sig| (1..=DSSE_SIGNATURE_BYTES_MAX).contains(&sig.len()))
                .ok_or(DsseError::Signature { index })?;
            let keyid = signature.keyid.map(Cow::into_owned);
            Ok(EnvelopeSignature { keyid, sig })
        });
        Ok(Self {
            signatures: signatures.collect::<Result<_, DsseError>>()?,
            payload: decode(&raw.payload).ok_or(DsseError::Payload)?,
        })
    }

    /// The policy's text, after one of the signatures was found to be `key`'s over it.
    ///
    /// # Errors
    /// [`DsseError::NotSigned`].
    ///
    /// # Security
    /// The key that the caller names decides. What the envelope says of keys, also a certificate in
    /// `keyid`, is not looked at.
    pub fn verify(&self, key: &DocumentKey) -> Result<&[u8], DsseError> {
        let message = pae(PAYLOAD_TYPE, &self.payload);
        let mut signatures = self.signatures.iter();
        match signatures.any(|signature| key.verify(&message, &signature.sig).is_ok()) {
            true => Ok(&self.payload),
            false => Err(DsseError::NotSigned),
        }
    }

    /// What stands where the policy's text should, without a look at the signatures.
    pub fn unverified_payload(&self) -> &[u8] {
        &self.payload
    }

    /// The signatures, not verified.
    pub fn unverified_signatures(&self) -> &[EnvelopeSignature] {
        &self.signatures
    }
}

/// What is signed: the payload, tied to its type.
///
/// Source: DSSE v1.0.2, `protocol.md`, "Signature Definition".
pub fn pae(payload_type: &str, payload: &[u8]) -> Vec<u8> {
    let front = format!(
        "DSSEv1 {} {payload_type} {} ",
        payload_type.len(),
        payload.len()
    );
    [front.as_bytes(), payload].concat()
}

#[derive(Serialize)]
struct WrittenEnvelope<'a> {
    payload: String,
    #[serde(rename = "payloadType")]
    payload_type: &'a str,
    signatures: [WrittenSignature<'a>; 1],
}

#[derive(Serialize)]
struct WrittenSignature<'a> {
    keyid: &'a str,
    sig: String,
}

/// The envelope around `payload` with one signature, made over [`pae`] of [`PAYLOAD_TYPE`] and it.
pub fn envelope(payload: &[u8], keyid: &str, sig: &[u8]) -> String {
    let envelope = WrittenEnvelope {
        payload: STANDARD.encode(payload),
        payload_type: PAYLOAD_TYPE,
        signatures: [WrittenSignature {
            keyid,
            sig: STANDARD.encode(sig),
        }],
    };
    // Strings only: nothing in it can fail to be written.
    serde_json::to_string(&envelope).unwrap_or_default()
}

/// Whether the text is an envelope rather than a policy, by the members of its outermost object.
pub fn is_envelope(text: &[u8]) -> bool {
    #[derive(Deserialize)]
    #[allow(dead_code, reason = "that they are there is what is asked")]
    struct Members {
        payload: serde::de::IgnoredAny,
        #[serde(rename = "payloadType")]
        payload_type: serde::de::IgnoredAny,
    }
    serde_json::from_slice::<Members>(text).is_ok()
}

/// Standard or URL-safe base64, as DSSE asks readers to take. Padding is not optional.
fn decode(text: &str) -> Option<Vec<u8>> {
    let standard = STANDARD.decode(text);
    standard.or_else(|_| URL_SAFE.decode(text)).ok()
}
