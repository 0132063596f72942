//! How a receiver knows that a message is the server's.
//!
//! Each request carries one header:
//!
//! ```text
//! Ratd-Signature: t=1767225599,v1=5257a869e7ecebeda32affa62cdca3fa51cad7e77a0e56ff536d0ce8e108d8bd
//! ```
//!
//! `t` is the time of the attempt in seconds since 1970. `v1` is HMAC-SHA-256, in lower-case
//! hexadecimal, with the shared secret as its key, over the digits of `t`, a full stop, and the
//! bytes of the body.

use std::fmt;

use rat_engine::crypto::hmac_sha256;
use thiserror::Error;

/// The header's name.
pub const SIGNATURE_HEADER: &str = "ratd-signature";

/// The least bytes of a secret: as many as the hash has.
pub const SECRET_BYTES_MIN: usize = 32;

/// A key that the server shares with one receiver.
#[derive(Clone)]
pub struct Secret(Vec<u8>);

/// Why some bytes are no secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("holds {found} bytes, and a secret has {SECRET_BYTES_MIN} or more")]
pub struct SecretTooShort {
    /// How many there are.
    pub found: usize,
}

/// Nothing of it.
impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

impl Secret {
    /// The secret that a file holds: its bytes, without the end of its line.
    ///
    /// # Errors
    /// [`SecretTooShort`].
    pub fn of_file(contents: &[u8]) -> Result<Self, SecretTooShort> {
        let line = contents.strip_suffix(b"\n").unwrap_or(contents);
        let bytes = line.strip_suffix(b"\r").unwrap_or(line);
        if bytes.len() < SECRET_BYTES_MIN {
            return Err(SecretTooShort { found: bytes.len() });
        }
        Ok(Self(bytes.to_vec()))
    }

    /// The header's value for a body that is sent now.
    pub(super) fn sign(&self, now_unix_ms: u64, body: &[u8]) -> String {
        let seconds = now_unix_ms.checked_div(1000).unwrap_or_default();
        let signed = [format!("{seconds}.").as_bytes(), body].concat();
        let mac = hmac_sha256(&self.0, &signed);
        format!("t={seconds},v1={}", hex::encode(mac))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_hmac_sha256_over_time_and_body() {
        // printf '%s' '1767225599.{"a":1}' | openssl dgst -sha256 -hmac 0123456789abcdef0123456789abcdef
        let secret = Secret::of_file(b"0123456789abcdef0123456789abcdef\n").unwrap();
        assert_eq!(
            secret.sign(1_767_225_599_999, b"{\"a\":1}"),
            "t=1767225599,v1=ff5814712f3ac00dd6494bd51820488e6a592961a3e897f91011cbaac8ddc03a"
        );
    }

    #[test]
    fn a07_a_short_secret_is_none() {
        for (contents, found) in [(&b""[..], 0), (b"\n", 0), (&[b'a'; 31], 31)] {
            let refused = Secret::of_file(contents).map(drop);
            assert_eq!(refused, Err(SecretTooShort { found }));
        }
        let with_end = [&[b'a'; 31][..], b"\r\n"].concat();
        assert!(
            Secret::of_file(&with_end).is_err(),
            "the line's end is not of it"
        );
        let secret = Secret::of_file(&[b'a'; 32]).unwrap();
        assert_eq!(format!("{secret:?}"), "Secret");
    }
}
