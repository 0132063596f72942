//! The signature under revocations, verified as Keylime's clients verify it.
#![allow(clippy::unwrap_used, clippy::arithmetic_side_effects)]

use openssl::hash::MessageDigest;
use openssl::pkey::PKey;
use openssl::rsa::{Padding, Rsa};
use openssl::sign::{RsaPssSaltlen, Verifier};
use openssl::symm::Cipher;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rat_identity::revocation_key::{RevocationKeyError, check_revocation_key, sign_revocation};

fn takes(key: &Rsa<openssl::pkey::Private>, message: &[u8], signature: &[u8]) -> bool {
    let public = PKey::public_key_from_der(&key.public_key_to_der().unwrap()).unwrap();
    let mut verifier = Verifier::new(MessageDigest::sha256(), &public).unwrap();
    verifier.set_rsa_padding(Padding::PKCS1_PSS).unwrap();
    verifier.set_rsa_mgf1_md(MessageDigest::sha256()).unwrap();
    // As long as it can be: 256 bytes, less 32 of the hash and 2.
    let longest = RsaPssSaltlen::custom(256 - 32 - 2);
    verifier.set_rsa_pss_saltlen(longest).unwrap();
    verifier.verify_oneshot(signature, message).unwrap()
}

#[test]
fn what_is_signed_verifies_as_keylimes_clients_verify_it() {
    let key = Rsa::generate(2048).unwrap();
    for pem in [
        key.private_key_to_pem().unwrap(),
        PKey::from_rsa(key.clone())
            .unwrap()
            .private_key_to_pem_pkcs8()
            .unwrap(),
    ] {
        let pem = String::from_utf8(pem).unwrap();
        let signature = sign_revocation(&pem, b"message").unwrap();
        let signature = STANDARD.decode(signature).unwrap();
        assert!(takes(&key, b"message", &signature));
        assert!(!takes(&key, b"massage", &signature));
        assert_eq!(check_revocation_key(&pem), Ok(()));
    }
}

#[test]
fn what_is_no_key_signs_nothing_and_asks_nobody_for_a_passphrase() {
    let key = PKey::from_rsa(Rsa::generate(2048).unwrap()).unwrap();
    let encrypted = key.private_key_to_pem_pkcs8_passphrase(Cipher::aes_128_cbc(), b"secret");
    let weak = Rsa::generate(1024).unwrap().private_key_to_pem().unwrap();
    let public = key.public_key_to_pem().unwrap();
    for pem in [Vec::new(), b"x".to_vec(), public, weak, encrypted.unwrap()] {
        let pem = String::from_utf8(pem).unwrap();
        assert_eq!(check_revocation_key(&pem), Err(RevocationKeyError::Key));
    }
}
