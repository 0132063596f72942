//! The proof that whoever asks for a session has the attestation key.

use rat_engine::crypto::{KeyError, SignatureError, VerifyingKey, constant_time_eq};
use rat_engine::malformed::Malformed;
use rat_engine::tpm::attest::attest_bytes;
use rat_engine::tpm::{Attest, AttestError, Attested, Public, Signature, SignatureFormatError};
use thiserror::Error;

/// Why a proof is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(super) enum PossessionError {
    /// The attestation key that is known cannot be used.
    #[error("the attestation key: {0}")]
    Key(#[from] KeyError),
    /// What the TPM said cannot be read.
    #[error(transparent)]
    Attest(#[from] AttestError),
    /// It has another length than there is.
    #[error(transparent)]
    Length(#[from] Malformed),
    /// The signature cannot be read.
    #[error(transparent)]
    Format(#[from] SignatureFormatError),
    /// The attestation key has not signed it.
    #[error(transparent)]
    Signature(#[from] SignatureError),
    /// It is a quote, and no `TPM2_Certify`.
    #[error("it certifies no key")]
    Kind,
    /// It answers another challenge.
    #[error("it answers another challenge")]
    Challenge,
    /// It is about another key.
    #[error("it is about another key")]
    Name,
}

/// Checks that the key certified itself for this challenge: `TPM2_Certify` of the attestation key,
/// signed with it.
///
/// Scheme and hash are the key's own, so that keys of elliptic curves and SHA-384 serve, too.
///
/// # Errors
/// [`PossessionError`].
///
/// # Security
/// A restricted key signs nothing that begins as an attestation but what its TPM made. That it is
/// one was found when the agent was added.
pub(super) fn check(
    ak: &Public<'_>,
    challenge: &[u8],
    message: &[u8],
    signature: &[u8],
) -> Result<(), PossessionError> {
    let message = attest_bytes(message)?;
    let attest = Attest::parse(message)?;
    let key = VerifyingKey::from_tpm(ak)?;
    key.verify(&Signature::parse(signature)?, message, false)?;
    let Attested::Certify { name, .. } = attest.attested else {
        return Err(PossessionError::Kind);
    };
    if !constant_time_eq(attest.extra_data, challenge) {
        return Err(PossessionError::Challenge);
    }
    if name != ak.name().to_bytes() {
        return Err(PossessionError::Name);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;

    use super::*;

    // What rust-keylime 0.2.9 sent to Keylime 7.14.3, and the key that it had registered.
    const AK: &str = include_str!("vectors/ak.b64");
    const MESSAGE: &str = include_str!("vectors/message.b64");
    const SIGNATURE: &str = include_str!("vectors/signature.b64");
    const CHALLENGE: &str = "RP2rBB0C/IWeWrgLKPrOCA==";

    fn bytes(text: &str) -> Vec<u8> {
        STANDARD.decode(text.trim()).unwrap()
    }

    #[test]
    fn a_recorded_proof_is_one_and_no_changed_bit_of_it_is() {
        let (ak, challenge) = (bytes(AK), bytes(CHALLENGE));
        let (message, signature) = (bytes(MESSAGE), bytes(SIGNATURE));
        let ak = Public::parse(&ak).unwrap();
        assert_eq!(check(&ak, &challenge, &message, &signature), Ok(()));
        assert_eq!(
            check(&ak, &[0; 16], &message, &signature),
            Err(PossessionError::Challenge)
        );
        for bit in 0..message.len() * 8 {
            let mut other = message.clone();
            other[bit / 8] ^= 1 << (bit % 8);
            assert!(check(&ak, &challenge, &other, &signature).is_err(), "{bit}");
        }
        for byte in 0..signature.len() {
            let mut other = signature.clone();
            other[byte] ^= 1;
            assert!(check(&ak, &challenge, &message, &other).is_err(), "{byte}");
        }
    }
}
