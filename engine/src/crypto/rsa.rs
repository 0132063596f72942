//! RSASSA-PKCS1-v1_5 and RSASSA-PSS through aws-lc-rs.

use aws_lc_rs::signature as lc;

use crate::crypto::signature::{SignatureError, SignatureFault};
use crate::hash::HashAlg;

/// Sizes of RSA keys in bits that sign quotes.
pub(crate) const KEY_BITS: [usize; 3] = [2048, 3072, 4096];

/// The salt lengths that PSS signatures may have, in bytes: that of the hash, as FIPS 186 and TPMs
/// take it, and the largest that fits, as TPM 2.0 Part 1, B.7 has it (Q18).
pub(crate) fn pss_salt_lengths(hash: HashAlg, modulus: &[u8]) -> [usize; 2] {
    // RFC 8017, 9.1.1: emLen = hLen + sLen + 2, at most; emLen is that of the modulus for sizes
    // that are multiples of eight.
    let largest = modulus.len().saturating_sub(hash.size()).saturating_sub(2);
    [hash.size(), largest]
}

/// A signature has exactly the bytes of the modulus and is below it.
// RFC 8017, 8.1.2 and 8.2.2, step 1; 5.2.2, step 1
pub(crate) fn check_range(modulus: &[u8], sig: &[u8]) -> Result<(), SignatureError> {
    if sig.len() != modulus.len() {
        return Err(SignatureError::Invalid(SignatureFault::Length {
            found: sig.len(),
            expected: modulus.len(),
        }));
    }
    // Equal lengths: the order of bytes is the order of numbers.
    if sig >= modulus {
        return Err(SignatureError::Invalid(SignatureFault::Range));
    }
    Ok(())
}

pub(crate) fn pkcs1(hash: HashAlg) -> &'static lc::RsaParameters {
    match hash {
        HashAlg::Sha1 => &lc::RSA_PKCS1_2048_8192_SHA1_FOR_LEGACY_USE_ONLY,
        HashAlg::Sha256 => &lc::RSA_PKCS1_2048_8192_SHA256,
        HashAlg::Sha384 => &lc::RSA_PKCS1_2048_8192_SHA384,
        HashAlg::Sha512 => &lc::RSA_PKCS1_2048_8192_SHA512,
    }
}

/// PSS with a salt as long as the hash; the library has no PSS with SHA-1 and no other salt.
pub(crate) fn pss(hash: HashAlg) -> Option<&'static lc::RsaParameters> {
    match hash {
        HashAlg::Sha1 => None,
        HashAlg::Sha256 => Some(&lc::RSA_PSS_2048_8192_SHA256),
        HashAlg::Sha384 => Some(&lc::RSA_PSS_2048_8192_SHA384),
        HashAlg::Sha512 => Some(&lc::RSA_PSS_2048_8192_SHA512),
    }
}

pub(crate) fn parse(
    modulus: &[u8],
    exponent: u32,
    parameters: &'static lc::RsaParameters,
) -> Result<lc::ParsedPublicKey, SignatureError> {
    let exponent = exponent.to_be_bytes();
    let zeros = exponent.iter().take_while(|byte| **byte == 0).count();
    let components = lc::RsaPublicKeyComponents {
        n: modulus,
        e: exponent.get(zeros..).unwrap_or(&exponent),
    };
    components
        .to_parsed_public_key(parameters)
        .map_err(|_| SignatureError::Library)
}
