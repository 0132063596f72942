use std::sync::LazyLock;

use openssl::ec::EcGroup;
use openssl::ecdsa::EcdsaSig;
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::Private;
use openssl::rsa::Padding;
use openssl::sign::{RsaPssSaltlen, Signer};

use super::*;
use crate::crypto::lanes::has_vector_unit;

static RSA: LazyLock<PKey<Private>> =
    LazyLock::new(|| PKey::from_rsa(Rsa::generate(2048).unwrap()).unwrap());

fn ec(nid: Nid) -> PKey<Private> {
    let group = EcGroup::from_curve_name(nid).unwrap();
    PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap()
}

fn verifying(key: &PKey<Private>) -> VerifyingKey {
    VerifyingKey::from_spki_der(&key.public_key_to_der().unwrap()).unwrap()
}

fn library_hash(hash: HashAlg) -> MessageDigest {
    MessageDigest::from_name(hash.name()).unwrap()
}

fn sign(key: &PKey<Private>, hash: HashAlg, pss_salt: Option<i32>) -> Vec<u8> {
    let mut signer = Signer::new(library_hash(hash), key).unwrap();
    if let Some(salt) = pss_salt {
        signer.set_rsa_padding(Padding::PKCS1_PSS).unwrap();
        signer
            .set_rsa_pss_saltlen(RsaPssSaltlen::custom(salt))
            .unwrap();
    }
    signer.sign_oneshot_to_vec(b"message").unwrap()
}

/// Both backends; they must agree.
fn verify(
    key: &VerifyingKey,
    signature: &Signature<'_>,
    message: &[u8],
) -> Result<(), SignatureError> {
    let product = key.verify(signature, message, true);
    let reference = reference::verify(key, signature, message, true);
    assert_eq!(product, reference);
    product
}

const MISMATCH: Result<(), SignatureError> = Err(SignatureError::Invalid(SignatureFault::Mismatch));

#[test]
fn every_scheme_and_hash_verifies_in_both_backends() {
    let key = verifying(&RSA);
    for hash in HashAlg::ALL {
        let sig = &sign(&RSA, hash, None)[..];
        let signature = Signature::RsaSsa { hash, sig };
        // Twice: parsed and kept.
        assert_eq!(verify(&key, &signature, b"message"), Ok(()));
        assert_eq!(verify(&key, &signature, b"message"), Ok(()));
        assert_eq!(verify(&key, &signature, b"other"), MISMATCH);
        assert_eq!(
            verify(&key, &Signature::RsaPss { hash, sig }, b"message"),
            MISMATCH
        );
    }
    for nid in [Nid::X9_62_PRIME256V1, Nid::SECP384R1, Nid::SECP521R1] {
        let private = ec(nid);
        let key = verifying(&private);
        for hash in HashAlg::ALL {
            let sig = EcdsaSig::from_der(&sign(&private, hash, None)).unwrap();
            let (r, s) = (&sig.r().to_vec()[..], &sig.s().to_vec()[..]);
            let signature = Signature::Ecdsa { hash, r, s };
            assert_eq!(verify(&key, &signature, b"message"), Ok(()));
            assert_eq!(verify(&key, &signature, b"other"), MISMATCH);
            let swapped = Signature::Ecdsa { hash, r: s, s: r };
            assert_eq!(verify(&key, &swapped, b"message"), MISMATCH);
        }
    }
}

#[test]
fn q18_pss_salts_are_as_long_as_the_hash_or_as_fits() {
    let key = verifying(&RSA);
    for hash in HashAlg::ALL {
        let size = i32::try_from(hash.size()).unwrap();
        let largest = 256 - size - 2;
        for salt in [0, 1, size - 1, size, size + 1, largest - 1, largest] {
            let sig = &sign(&RSA, hash, Some(salt))[..];
            let signature = Signature::RsaPss { hash, sig };
            let expected = match salt == size || salt == largest {
                true => Ok(()),
                false => MISMATCH,
            };
            assert_eq!(
                verify(&key, &signature, b"message"),
                expected,
                "salt {salt}"
            );
            assert_eq!(verify(&key, &signature, b"other"), MISMATCH);
            assert_eq!(
                verify(&key, &Signature::RsaSsa { hash, sig }, b"message"),
                MISMATCH
            );
        }
    }
}

#[test]
fn q08_scheme_and_key_type_must_agree() {
    let rsa = verifying(&RSA);
    let point = verifying(&ec(Nid::X9_62_PRIME256V1));
    let hash = HashAlg::Sha256;
    let sig = &[1; 256][..];
    let ecdsa = Signature::Ecdsa {
        hash,
        r: &[1],
        s: &[1],
    };
    for (key, signature) in [
        (&rsa, ecdsa),
        (&point, Signature::RsaSsa { hash, sig }),
        (&point, Signature::RsaPss { hash, sig }),
    ] {
        let error = verify(key, &signature, b"message").unwrap_err();
        assert!(matches!(error, SignatureError::KeyTypeMismatch { .. }));
    }
}

#[test]
fn q09_sha1_is_refused_unless_allowed() {
    let key = verifying(&RSA);
    let hash = HashAlg::Sha1;
    let sig = &sign(&RSA, hash, None)[..];
    let signature = Signature::RsaSsa { hash, sig };
    let refused = Err(SignatureError::HashNotAllowed(hash));
    assert_eq!(key.verify(&signature, b"message", false), refused);
    assert_eq!(
        reference::verify(&key, &signature, b"message", false),
        refused
    );
    assert_eq!(key.verify(&signature, b"message", true), Ok(()));
}

#[test]
fn q17_rsa_signatures_have_the_length_of_the_modulus_and_are_below_it() {
    let key = verifying(&RSA);
    let hash = HashAlg::Sha256;
    let good = sign(&RSA, hash, None);
    let KeyMaterial::Rsa { modulus, .. } = key.material().clone() else {
        panic!("an RSA key")
    };
    for sig in [&good[1..], &[&[0], &good[..]].concat(), &[]] {
        let error = verify(&key, &Signature::RsaSsa { hash, sig }, b"message").unwrap_err();
        assert!(matches!(
            error,
            SignatureError::Invalid(SignatureFault::Length { expected: 256, .. })
        ));
    }
    let range = Err(SignatureError::Invalid(SignatureFault::Range));
    for sig in [&modulus[..], &[0xff; 256]] {
        for signature in [
            Signature::RsaSsa { hash, sig },
            Signature::RsaPss { hash, sig },
        ] {
            assert_eq!(verify(&key, &signature, b"message"), range);
        }
    }
    // The same residue, not reduced: s + n, when it still has 256 bytes.
    let (mut sum, s) = (BigNum::new().unwrap(), BigNum::from_slice(&good).unwrap());
    sum.checked_add(&s, &BigNum::from_slice(&modulus).unwrap())
        .unwrap();
    let sum = sum.to_vec();
    let unreduced = Signature::RsaSsa { hash, sig: &sum };
    assert!(verify(&key, &unreduced, b"message").is_err());
}

#[test]
fn a_stranger_cannot_take_the_place_of_the_parsed_key() {
    let key = verifying(&RSA);
    let hash = HashAlg::Sha256;
    let pss = Signature::RsaPss {
        hash,
        sig: &[1; 256],
    };
    let verify = |unit, signature| key.verify_beside(unit, &signature, b"message", false);
    assert!(verify(VectorUnit::Absent, pss).is_err());
    assert!(key.0.parsed.get().is_none());
    let sig = &sign(&RSA, hash, None)[..];
    let valid = Signature::RsaSsa { hash, sig };
    assert_eq!(verify(VectorUnit::InUse, valid), Ok(()));
    assert!(key.0.parsed.get().is_none(), "the unit needs none");
    for unit in [VectorUnit::Distrusted, VectorUnit::Absent] {
        assert_eq!(verify(unit, valid), Ok(()));
        let (kept, _) = &**key.0.parsed.get().unwrap();
        assert_eq!(*kept, Algorithm::Pkcs1(hash));
    }
    assert!(verify(VectorUnit::Absent, pss).is_err());
}

#[test]
fn ecdsa_keys_are_parsed_each_time() {
    let private = ec(Nid::X9_62_PRIME256V1);
    let key = verifying(&private);
    let sig = EcdsaSig::from_der(&sign(&private, HashAlg::Sha256, None)).unwrap();
    let (r, s) = (sig.r().to_vec(), sig.s().to_vec());
    let (hash, r, s) = (HashAlg::Sha256, &r[..], &s[..]);
    let signature = Signature::Ecdsa { hash, r, s };
    for _ in 0..2 {
        assert_eq!(verify(&key, &signature, b"message"), Ok(()));
        assert_eq!(verify(&key, &signature, b"other"), MISMATCH);
        assert!(key.0.parsed.get().is_none());
    }
}

#[test]
fn a_key_that_forgot_what_a_library_made_of_it_is_the_same_key() {
    let mut key = verifying(&RSA);
    let hash = HashAlg::Sha256;
    let sig = &sign(&RSA, hash, None)[..];
    let signature = Signature::RsaSsa { hash, sig };
    // Where signatures are verified in lanes it is not kept in the first place.
    let is_kept = !has_vector_unit();
    for _ in 0..2 {
        assert_eq!(key.verify(&signature, b"message", false), Ok(()));
        assert!(key.verify(&signature, b"another", false).is_err());
        assert_eq!(key.0.parsed.get().is_some(), is_kept);
        let other = key.clone();
        key.forget_parsed();
        assert_eq!(
            other.0.parsed.get().is_some(),
            is_kept,
            "somebody else holds it"
        );
        drop(other);
        key.forget_parsed();
        assert!(key.0.parsed.get().is_none());
    }
}

#[test]
fn q10_rsa_keys_of_other_sizes_and_exponents_are_refused() {
    let refused = |modulus: &[u8], exponent: u32| {
        let modulus = BigNum::from_slice(modulus).unwrap();
        let exponent = BigNum::from_u32(exponent).unwrap();
        let key = Rsa::from_public_components(modulus, exponent).unwrap();
        let der = PKey::from_rsa(key).unwrap().public_key_to_der().unwrap();
        VerifyingKey::from_spki_der(&der).map(|_| ()).unwrap_err()
    };
    let modulus = RSA.rsa().unwrap().n().to_vec();
    for exponent in [1, 3, 65_535, 65_536, 65_538] {
        assert_eq!(refused(&modulus, exponent), KeyError::RsaExponent);
    }
    let mut even = modulus.clone();
    *even.last_mut().unwrap() &= 0xfe;
    assert_eq!(refused(&even, 65_537), KeyError::RsaModulus);
    let mut short = modulus.clone();
    short[0] = 0x7f;
    assert_eq!(refused(&short, 65_537), KeyError::RsaSize(2047));
    for bits in [1024, 1536, 2049, 5120] {
        let mut other = vec![0xff; bits / 8];
        if bits % 8 != 0 {
            other.insert(0, 1);
        }
        assert_eq!(refused(&other, 65_537), KeyError::RsaSize(bits));
    }
}

#[test]
fn q10_points_off_the_curve_and_other_curves_are_refused() {
    use crate::tpm::public::tests::attestation_key;
    // The test area's coordinates are no point.
    let area = attestation_key(false);
    let public = Public::parse(&area).unwrap();
    assert_eq!(VerifyingKey::from_tpm(&public), Err(KeyError::Point));
    let with_curve = |curve: u16| {
        let mut area = area.clone();
        area[16..18].copy_from_slice(&curve.to_be_bytes());
        VerifyingKey::from_tpm(&Public::parse(&area).unwrap())
    };
    // P-192, P-224, BN-256, SM2.
    for curve in [1, 2, 0x10, 0x20, 0xffff] {
        assert_eq!(with_curve(curve), Err(KeyError::Curve));
    }
    for nid in [Nid::SECP256K1, Nid::SECP224R1] {
        let der = ec(nid).public_key_to_der().unwrap();
        assert_eq!(VerifyingKey::from_spki_der(&der), Err(KeyError::Curve));
    }
    // A point moved off its curve inside a good SubjectPublicKeyInfo.
    let mut der = ec(Nid::X9_62_PRIME256V1).public_key_to_der().unwrap();
    *der.last_mut().unwrap() ^= 1;
    assert!(VerifyingKey::from_spki_der(&der).is_err());
}

#[test]
fn keys_have_one_encoding() {
    let der = RSA.public_key_to_der().unwrap();
    let key = VerifyingKey::from_spki_der(&der).unwrap();
    let pem = RSA.public_key_to_pem().unwrap();
    assert_eq!(VerifyingKey::from_pem(&pem), Ok(key));
    let trailing = [&der[..], &[0]].concat();
    assert_eq!(VerifyingKey::from_spki_der(&trailing), Err(KeyError::Der));
    assert_eq!(VerifyingKey::from_spki_der(&der[1..]), Err(KeyError::Der));
    assert_eq!(
        VerifyingKey::from_pem(&[&pem[..], &pem].concat()),
        Err(KeyError::Pem)
    );
    let private = RSA.private_key_to_pem_pkcs8().unwrap();
    assert_eq!(VerifyingKey::from_pem(&private), Err(KeyError::Pem));
    let other = PKey::generate_ed25519()
        .unwrap()
        .public_key_to_der()
        .unwrap();
    assert_eq!(VerifyingKey::from_spki_der(&other), Err(KeyError::Type));
}

#[test]
fn a_key_is_called_by_the_hash_of_its_canonical_spki() {
    let curves = Curve::ALL.map(|curve| ec(reference::nid(curve)));
    for key in [&*RSA].into_iter().chain(&curves) {
        let spki = key.public_key_to_der().unwrap();
        let expected = openssl::sha::sha256(&spki);
        assert_eq!(verifying(key).spki_sha256(), Ok(expected));
    }
}
