//! Whether a policy that somebody hands in may be used: one decision for every surface.

use std::borrow::Cow;

use thiserror::Error;

use super::{DsseError, SignedPolicy, is_envelope};
use crate::crypto::{DocumentKey, KeyError};
use crate::policy::{PolicyError, RuntimePolicy};

/// A policy that may be used, and how far it is authenticated.
#[derive(Debug, Clone)]
pub struct Admitted<'t> {
    /// The policy.
    pub policy: RuntimePolicy,
    /// Its own text: the envelope's payload, or what was handed in.
    pub text: Cow<'t, [u8]>,
    /// What is known of a signature.
    pub signature: SignatureState,
}

/// What is known of a policy's signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SignatureState {
    /// The policy came without an envelope, and none was demanded.
    Unsigned,
    /// It came in an envelope, whose signatures nobody looked at: no key was named, and no
    /// signature demanded. It is worth no more than an unsigned one.
    NotChecked,
    /// The key that was named has signed exactly this policy.
    Verified {
        /// [`DocumentKey::id`].
        key_id: String,
    },
}

/// Why a policy is not admitted.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PolicyRefusal {
    /// Neither an object in JSON nor, with it, a policy or an envelope.
    #[error("the policy is not a JSON object")]
    NotJson,
    /// A signature is demanded, and no key was named to verify it with.
    #[error("a signature is demanded, but no key was given to verify it with")]
    KeyMissing,
    /// The key is not one that we verify with.
    #[error("the policy's key: {0}")]
    Key(KeyError),
    /// A key was named or a signature demanded, and the policy has none.
    #[error("the policy is not signed")]
    Unsigned,
    /// The envelope cannot be read, or the key has not signed it.
    #[error("the policy's signature: {0}")]
    Signature(DsseError),
    /// The policy itself cannot be used.
    #[error("{0}")]
    Policy(PolicyError),
}

impl PolicyRefusal {
    /// The status with which Keylime's verifier answers: 401 when there is no key to verify with or
    /// the signature is not good, else 400.
    ///
    /// Source: Keylime, `keylime/ima/ima.py`, `verify_runtime_policy`.
    pub fn keylime_status(&self) -> u16 {
        match self {
            Self::KeyMissing | Self::Signature(_) => 401,
            Self::NotJson | Self::Key(_) | Self::Unsigned | Self::Policy(_) => 400,
        }
    }
}

/// Decides whether a policy, plain or in a DSSE envelope, may be used.
///
/// `key` is the PEM text of a public key or certificate that the caller names; with it the policy
/// must be signed by that key, also where `require_signatures` is false. Without it an envelope is
/// refused if signatures are required, and taken for the plain policy in it otherwise.
///
/// # Errors
/// [`PolicyRefusal`]; nothing but `Ok` admits a policy.
///
/// # Security
/// Keys and certificates inside the envelope are not looked at: who signs chooses them.
pub fn admit<'t>(
    text: &'t [u8],
    key: Option<&[u8]>,
    require_signatures: bool,
) -> Result<Admitted<'t>, PolicyRefusal> {
    if !is_object(text) {
        return Err(PolicyRefusal::NotJson);
    }
    if require_signatures && key.is_none() {
        return Err(PolicyRefusal::KeyMissing);
    }
    if !is_envelope(text) {
        if key.is_some() {
            return Err(PolicyRefusal::Unsigned);
        }
        return Ok(Admitted {
            policy: RuntimePolicy::parse(text).map_err(PolicyRefusal::Policy)?,
            text: Cow::Borrowed(text),
            signature: SignatureState::Unsigned,
        });
    }
    let signed = SignedPolicy::parse(text).map_err(PolicyRefusal::Signature)?;
    let (payload, signature) = match key {
        Some(key) => {
            let key = DocumentKey::from_pem(key).map_err(PolicyRefusal::Key)?;
            let payload = signed.verify(&key).map_err(PolicyRefusal::Signature)?;
            let key_id = key.id().to_owned();
            (payload, SignatureState::Verified { key_id })
        }
        None => (signed.unverified_payload(), SignatureState::NotChecked),
    };
    Ok(Admitted {
        policy: RuntimePolicy::parse(payload).map_err(PolicyRefusal::Policy)?,
        text: Cow::Owned(payload.to_vec()),
        signature,
    })
}

fn is_object(text: &[u8]) -> bool {
    let object = text.trim_ascii_start().first() == Some(&b'{');
    object && serde_json::from_slice::<serde::de::IgnoredAny>(text).is_ok()
}
