//! ECDSA on the three NIST curves through aws-lc-rs.

use aws_lc_rs::signature as lc;

use crate::crypto::key::Curve;
use crate::crypto::signature::{SignatureError, SignatureFault};
use crate::hash::HashAlg;

/// Orders of the curves. Source: NIST SP 800-186, 3.2.1.
const ORDER_P256: [u8; 32] =
    hex_literal(b"ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551");
const ORDER_P384: [u8; 48] = hex_literal(
    b"ffffffffffffffffffffffffffffffffffffffffffffffffc7634d81f4372ddf581a0db248b0a77aecec196accc52973",
);
const ORDER_P521: [u8; 66] = hex_literal(
    b"01fffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffa51868783bf2f966b7fcc0148f709a5d03bb5c9b8899c47aebb6fb71e91386409",
);

/// Decodes lower-case hexadecimal while compiling; a wrong digit or length does not compile.
#[allow(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::panic,
    reason = "called for constants only: a fault is an error of the compiler"
)]
pub(crate) const fn hex_literal<const N: usize>(text: &[u8]) -> [u8; N] {
    assert!(text.len() == 2 * N);
    let mut bytes = [0; N];
    let mut at = 0;
    while at < text.len() {
        let digit = match text[at] {
            digit @ b'0'..=b'9' => digit - b'0',
            digit @ b'a'..=b'f' => digit - b'a' + 10,
            _ => panic!("not a digit"),
        };
        bytes[at / 2] = bytes[at / 2] << 4 | digit;
        at += 1;
    }
    bytes
}

fn order(curve: Curve) -> &'static [u8] {
    match curve {
        Curve::P256 => &ORDER_P256,
        Curve::P384 => &ORDER_P384,
        Curve::P521 => &ORDER_P521,
    }
}

/// The DER `ECDSA-Sig-Value` of a TPM's two numbers, when both are in `1..order`.
///
/// TPMs may leave out leading zeros; more bytes than the field has are refused even when the
/// excess is zero, so that a signature has few encodings (Q10).
pub(crate) fn to_der(curve: Curve, r: &[u8], s: &[u8]) -> Result<Vec<u8>, SignatureError> {
    let [r, s] = numbers(curve, r, s)?;
    // Both numbers together are below 2 * 69 bytes, so that the length takes two bytes at most.
    let content = [integer(r), integer(s)].concat();
    let length = u8::try_from(content.len()).map_err(|_| SignatureError::Library)?;
    let header: &[u8] = if length < 0x80 {
        &[0x30, length]
    } else {
        &[0x30, 0x81, length]
    };
    Ok([header, &content].concat())
}

/// Both numbers without leading zeros, after their range was checked.
// FIPS 186-5, 6.4.2, step 1
pub(crate) fn numbers<'a>(
    curve: Curve,
    r: &'a [u8],
    s: &'a [u8],
) -> Result<[&'a [u8]; 2], SignatureError> {
    Ok([number(curve, r)?, number(curve, s)?])
}

/// The bytes of a number without leading zeros, after its range was checked.
fn number(curve: Curve, bytes: &[u8]) -> Result<&[u8], SignatureError> {
    let expected = curve.field_size();
    if bytes.len() > expected {
        return Err(SignatureError::Invalid(SignatureFault::Length {
            found: bytes.len(),
            expected,
        }));
    }
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    let minimal = bytes.get(zeros..).unwrap_or_default();
    let order = order(curve);
    let order_zeros = order.iter().take_while(|byte| **byte == 0).count();
    let order = order.get(order_zeros..).unwrap_or_default();
    // Without leading zeros the longer number is the greater; equal lengths compare by bytes.
    let below = minimal
        .len()
        .cmp(&order.len())
        .then(minimal.cmp(order))
        .is_lt();
    if minimal.is_empty() || !below {
        return Err(SignatureError::Invalid(SignatureFault::Range));
    }
    Ok(minimal)
}

/// A DER INTEGER of a positive number: a zero byte keeps the sign bit clear.
fn integer(minimal: &[u8]) -> Vec<u8> {
    let sign: &[u8] = match minimal.first() {
        Some(first) if *first < 0x80 => &[],
        _ => &[0],
    };
    // At most 67: see `number`.
    let length = u8::try_from(minimal.len().saturating_add(sign.len())).unwrap_or(u8::MAX);
    [&[0x02, length], sign, minimal].concat()
}

/// The library's algorithm; it has none for SHA-1 on P-384.
pub(crate) fn algorithm(
    curve: Curve,
    hash: HashAlg,
) -> Option<&'static lc::EcdsaVerificationAlgorithm> {
    match (curve, hash) {
        (Curve::P256, HashAlg::Sha1) => Some(&lc::ECDSA_P256_SHA1_ASN1),
        (Curve::P256, HashAlg::Sha256) => Some(&lc::ECDSA_P256_SHA256_ASN1),
        (Curve::P256, HashAlg::Sha384) => Some(&lc::ECDSA_P256_SHA384_ASN1),
        (Curve::P256, HashAlg::Sha512) => Some(&lc::ECDSA_P256_SHA512_ASN1),
        (Curve::P384, HashAlg::Sha1) => None,
        (Curve::P384, HashAlg::Sha256) => Some(&lc::ECDSA_P384_SHA256_ASN1),
        (Curve::P384, HashAlg::Sha384) => Some(&lc::ECDSA_P384_SHA384_ASN1),
        (Curve::P384, HashAlg::Sha512) => Some(&lc::ECDSA_P384_SHA512_ASN1),
        (Curve::P521, HashAlg::Sha1) => Some(&lc::ECDSA_P521_SHA1_ASN1),
        (Curve::P521, HashAlg::Sha256) => Some(&lc::ECDSA_P521_SHA256_ASN1),
        (Curve::P521, HashAlg::Sha384) => Some(&lc::ECDSA_P521_SHA384_ASN1),
        (Curve::P521, HashAlg::Sha512) => Some(&lc::ECDSA_P521_SHA512_ASN1),
    }
}

pub(crate) fn parse(
    x: &[u8],
    y: &[u8],
    algorithm: &'static lc::EcdsaVerificationAlgorithm,
) -> Result<lc::ParsedPublicKey, SignatureError> {
    // SEC 1, 2.3.3: the uncompressed form of a point.
    let point = [&[0x04], x, y].concat();
    lc::ParsedPublicKey::new(algorithm, point).map_err(|_| SignatureError::Library)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RANGE: SignatureError = SignatureError::Invalid(SignatureFault::Range);

    #[test]
    fn q10_numbers_are_in_range_and_no_longer_than_the_field() {
        for curve in [Curve::P256, Curve::P384, Curve::P521] {
            let order = order(curve).to_vec();
            let mut below = order.clone();
            *below.last_mut().unwrap() -= 1;
            let zero = vec![0; order.len()];
            let largest = vec![0xff; order.len()];
            let long = [&[0], &below[..]].concat();
            for bad in [&order, &zero, &largest] {
                assert_eq!(to_der(curve, bad, &below), Err(RANGE));
                assert_eq!(to_der(curve, &below, bad), Err(RANGE));
            }
            assert_eq!(to_der(curve, &[], &below), Err(RANGE));
            assert!(matches!(
                to_der(curve, &long, &below),
                Err(SignatureError::Invalid(SignatureFault::Length { .. }))
            ));
            let der = to_der(curve, &below, &below).unwrap();
            let parsed = openssl::ecdsa::EcdsaSig::from_der(&der).unwrap();
            assert_eq!(parsed.to_der().unwrap(), der);
        }
    }

    #[test]
    fn q19_short_encodings_are_the_same_signature() {
        let short = to_der(Curve::P256, &[0x80], &[0x7f]).unwrap();
        assert_eq!(short, [0x30, 7, 2, 2, 0, 0x80, 2, 1, 0x7f]);
        let padded = [&[0; 31][..], &[0x80]].concat();
        assert_eq!(to_der(Curve::P256, &padded, &[0, 0x7f]), Ok(short));
    }
}
