//! V keys, sealed for agents' keys.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use openssl::ec::{EcGroup, EcKey};
use openssl::nid::Nid;
use openssl::pkey::PKey;
use openssl::rsa::{Padding, Rsa};

use rat_identity::v_key::{VKeyError, seal_v_key};

#[test]
fn only_the_holder_of_the_key_opens_what_is_sealed() {
    let rsa = Rsa::generate(2048).unwrap();
    let pem = rsa.public_key_to_pem().unwrap();
    let sealed = seal_v_key(&pem, &[7; 32]).unwrap();
    let mut opened = vec![0; 256];
    let length = rsa
        .private_decrypt(&sealed, &mut opened, Padding::PKCS1_OAEP)
        .unwrap();
    assert_eq!(opened.get(..length), Some(&[7; 32][..]));
    assert_ne!(sealed, seal_v_key(&pem, &[7; 32]).unwrap());
}

#[test]
fn keys_that_are_none_or_too_weak_are_refused() {
    let weak = Rsa::generate(1024).unwrap().public_key_to_pem().unwrap();
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
    let ecc = PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap();
    let ecc = ecc.public_key_to_pem().unwrap();
    for no_key in [&b""[..], b"-----BEGIN PUBLIC KEY-----\n", &weak, &ecc] {
        assert_eq!(seal_v_key(no_key, &[7; 32]), Err(VKeyError::Key));
    }
}
