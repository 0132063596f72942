//! The challenge of a registration, and its answer.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use rat_engine::crypto::constant_time_eq;
use rat_engine::evidence::NonceSource;
use rat_engine::hash::HashAlg;

use crate::LibraryError;
use crate::credential::{CredentialError, make_credential};
use crate::x509::secrecy::hmac;
use crate::x509::sha256;

/// What tpm2-tools put before a credential: a magic number, and the version of what follows.
const HEADER: [u8; 8] = [0xba, 0xdc, 0xc0, 0xde, 0, 0, 0, 1];
/// Keylime's secret is text.
const ALPHABET: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789abcdefghijklmnopqrstuvwxyz";
/// Characters of a secret: 190 bits.
const SECRET_CHARACTERS: usize = 32;
/// Bytes that are drawn at once. Of each, 248 of 256 values are used, so that all characters are
/// equally likely.
const DRAWN: usize = 64;
const DRAWS_MAX: usize = 16;

/// A question to one TPM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Challenge {
    /// What `tpm2_activatecredential` takes: header, `TPM2B_ID_OBJECT`, `TPM2B_ENCRYPTED_SECRET`.
    pub blob: Vec<u8>,
    /// SHA-256 of the only right answer. It helps nobody to answer.
    pub answer_sha256: [u8; 32],
}

/// Wraps a new secret for the TPM with this endorsement key and the attestation key of this name.
///
/// # Errors
/// [`CredentialError`].
///
/// # Security
/// The answer covers the secret and the id, and nothing else that was registered. Each call draws
/// another secret. (N05)
pub fn challenge(
    ek_public: &[u8],
    ak_name: &[u8],
    agent: &str,
    random: &mut dyn NonceSource,
) -> Result<Challenge, CredentialError> {
    let secret = draw(random)?;
    let credential = make_credential(ek_public, ak_name, &secret, random)?;
    let blob = [&HEADER[..], &credential.blob, &credential.encrypted_secret].concat();
    Ok(Challenge {
        blob,
        answer_sha256: sha256(answer(&secret, agent)?.as_bytes()),
    })
}

/// Whether this is the answer to the challenge that this was kept of.
pub fn is_answer(answer_sha256: &[u8; 32], auth_tag: &str) -> bool {
    constant_time_eq(&sha256(auth_tag.as_bytes()), answer_sha256)
}

/// What an agent answers once its TPM has released the secret: HMAC-SHA-384 over its id, in
/// hexadecimal. The key is the base64 of the secret, as text.
///
/// # Errors
/// [`LibraryError`].
pub fn answer(secret: &[u8], agent: &str) -> Result<String, LibraryError> {
    let key = BASE64.encode(secret);
    let tag = hmac(HashAlg::Sha384, key.as_bytes(), &[agent.as_bytes()])?;
    Ok(hex::encode(tag))
}

fn draw(random: &mut dyn NonceSource) -> Result<Vec<u8>, CredentialError> {
    let mut secret = Vec::with_capacity(SECRET_CHARACTERS);
    for _ in 0..DRAWS_MAX {
        let mut drawn = [0; DRAWN];
        random.fill(&mut drawn).ok_or(CredentialError::Random)?;
        let even = |byte: &u8| usize::from(*byte) < ALPHABET.len().saturating_mul(4);
        for byte in drawn.iter().filter(|byte| even(byte)) {
            let place = usize::from(*byte).checked_rem(ALPHABET.len());
            if let Some(character) = place.and_then(|place| ALPHABET.get(place)) {
                secret.push(*character);
            }
            if secret.len() == SECRET_CHARACTERS {
                return Ok(secret);
            }
        }
    }
    Err(CredentialError::Random)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Constant(u8);

    impl NonceSource for Constant {
        fn fill(&mut self, bytes: &mut [u8]) -> Option<()> {
            bytes.fill(self.0);
            Some(())
        }
    }

    #[test]
    fn the_answer_is_keylimes() {
        // Python: hmac.new(base64.b64encode(b"A" * 32), b"d432fbb3-d2f1-4a97-9ef7-75bd81c00000",
        // "sha384").hexdigest()
        let tag = answer(&[b'A'; 32], "d432fbb3-d2f1-4a97-9ef7-75bd81c00000").unwrap();
        assert_eq!(tag, EXPECTED);
        let kept = sha256(tag.as_bytes());
        assert!(is_answer(&kept, &tag));
        for other in ["", "00", &tag.to_uppercase(), &tag[1..], &format!("{tag} ")] {
            assert!(!is_answer(&kept, other), "{other}");
        }
    }

    const EXPECTED: &str = "7b1230247cf3b45b97c8ab3af3743e495468f1a03c846b57\
                            380cc80d4f1e6ecc617f9e4b8beb7e8e0bdbfd67e69ee523";

    #[test]
    fn n05_secrets_are_of_the_alphabet_and_never_of_a_source_that_is_stuck() {
        let secret = draw(&mut Constant(0)).unwrap();
        assert_eq!(secret, [b'A'; 32]);
        assert!(matches!(
            draw(&mut Constant(0xff)),
            Err(CredentialError::Random)
        ));
    }
}
