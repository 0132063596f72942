use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::*;
use crate::ek::EkError;

/// Gives these bytes, then repeats the last.
struct Script(Vec<u8>);

impl NonceSource for Script {
    fn fill(&mut self, bytes: &mut [u8]) -> Option<()> {
        for byte in bytes {
            *byte = match self.0.len() {
                1 => self.0[0],
                _ => self.0.remove(0),
            };
        }
        Some(())
    }
}

struct Dry;

impl NonceSource for Dry {
    fn fill(&mut self, _: &mut [u8]) -> Option<()> {
        None
    }
}

const POLICY_A: &str = "837197674484b3f81a90cc8d46a5d724fd52d76e06520b64f2a1da1b331469aa";

/// The public area of the low-range template with this key.
fn template(spki: &[u8]) -> Vec<u8> {
    let key = rat_engine::crypto::VerifyingKey::from_spki_der(spki).unwrap();
    let rsa = matches!(key.material(), KeyMaterial::Rsa { .. });
    let mut area = vec![
        0,
        if rsa { 0x01 } else { 0x23 },
        0,
        0x0b,
        0,
        3,
        0,
        0xb2,
        0,
        32,
    ];
    area.extend(hex::decode(POLICY_A).unwrap());
    area.extend([0, 6, 0, 128, 0, 0x43, 0, 0x10]);
    match key.material() {
        KeyMaterial::Rsa { modulus, .. } => {
            area.extend([8, 0, 0, 0, 0, 0, 1, 0]);
            area.extend_from_slice(modulus);
        }
        KeyMaterial::Ecc { x, y, .. } => {
            area.extend([0, 3, 0, 0x10, 0, 32]);
            area.extend_from_slice(x);
            area.extend([0, 32]);
            area.extend_from_slice(y);
        }
    }
    area
}

fn vectors() -> serde_json::Value {
    let text =
        include_str!("../../../tests/vectors/makecredential/go-tpm_credential_activation.json");
    serde_json::from_str(text).unwrap()
}

fn bytes(value: &serde_json::Value) -> Vec<u8> {
    STANDARD.decode(value.as_str().unwrap()).unwrap()
}

#[test]
fn credentials_are_bit_for_bit_those_of_go_tpm() {
    let vectors = vectors();
    let name = [&[0, 0x0b], &bytes(&vectors["ak_name_sha256_b64"])[..]].concat();
    let secret = bytes(&vectors["secret_b64"]);
    let make = |case: &serde_json::Value, mut random: Script| {
        let ek = template(&bytes(&case["ek_spki_b64"]));
        make_credential(&ek, &name, &secret, &mut random).unwrap()
    };
    let [ecc, rsa] = [&vectors["cases"][0], &vectors["cases"][1]];
    let made = make(ecc, Script(vec![0, 0x42, 0]));
    let both = [made.blob, made.encrypted_secret].concat();
    assert_eq!(both, bytes(&ecc["blob_and_secret_b64"]));

    // go-tpm draws 16 bytes of seed for RSA where we, as TPMs do, draw 32: the keys made of so many
    // zeros are the same, the sealed seed is not.
    let made = make(rsa, Script(vec![0]));
    let recorded = bytes(&rsa["blob_and_secret_b64"]);
    let (blob, sealed) = recorded.split_at(made.blob.len());
    assert_eq!(made.blob, blob);
    let key = bytes(&rsa["ek_spki_b64"]);
    let key = rat_engine::crypto::VerifyingKey::from_spki_der(&key).unwrap();
    let block = oaep_block(256, HashAlg::Sha256, &[0; 16], &[0; 32]).unwrap();
    assert_eq!(rsa_raw(key.material(), &block).unwrap(), sealed[2..]);
}

#[test]
fn credentials_have_the_form_of_tpm2_tools() {
    let ek = include_bytes!("../../../tests/vectors/makecredential/keylime_testdata_ek.pub");
    let name = include_bytes!("../../../tests/vectors/makecredential/keylime_testdata_ak.name");
    let recorded =
        include_bytes!("../../../tests/vectors/makecredential/keylime_testdata_mkcred.out");
    let made = make_credential(ek, name, b"12345678\n", &mut Script(vec![1])).unwrap();
    // The file of tpm2-tools begins with a magic number and a version.
    let body = &recorded[8..];
    let ours = [&made.blob[..], &made.encrypted_secret].concat();
    assert_eq!(body.len(), ours.len());
    for at in [0..4, made.blob.len()..made.blob.len() + 2] {
        assert_eq!(body[at.clone()], ours[at]);
    }
}

#[test]
fn n05_no_secret_without_randomness_and_none_twice() {
    let ek = include_bytes!("../../../tests/vectors/makecredential/keylime_testdata_ek.pub");
    let name = include_bytes!("../../../tests/vectors/makecredential/keylime_testdata_ak.name");
    assert_eq!(
        make_credential(ek, name, &[1; 32], &mut Dry),
        Err(CredentialError::Random)
    );
    let one = make_credential(ek, name, &[1; 32], &mut Script(vec![1])).unwrap();
    let other = make_credential(ek, name, &[1; 32], &mut Script(vec![2])).unwrap();
    assert_ne!(one.blob, other.blob);
    assert_ne!(one.encrypted_secret, other.encrypted_secret);
}

#[test]
fn scalars_outside_the_order_are_drawn_again() {
    let ek = template(&bytes(&vectors()["cases"][0]["ek_spki_b64"]));
    let name = [&[0, 0x0b], &[7; 32][..]].concat();
    let make = |script: Vec<u8>| make_credential(&ek, &name, &[1; 32], &mut Script(script));
    assert_eq!(make(vec![0]), Err(CredentialError::Random));
    assert_eq!(make(vec![0xff]), Err(CredentialError::Random));
    let again = [&[0; 32][..], &[0xff; 32], &[5; 32], &[9]].concat();
    assert_eq!(make(again).unwrap(), make(vec![5]).unwrap());
}

#[test]
fn n02_nothing_is_wrapped_for_other_keys() {
    let ek = include_bytes!("../../../tests/vectors/makecredential/keylime_testdata_ek.pub");
    let ak = include_bytes!("../../../tests/vectors/makecredential/keylime_testdata_ak.pub");
    let name = include_bytes!("../../../tests/vectors/makecredential/keylime_testdata_ak.name");
    let make = |ek: &[u8], name: &[u8], secret: &[u8]| {
        make_credential(ek, name, secret, &mut Script(vec![1])).unwrap_err()
    };
    assert!(matches!(
        make(ak, name, &[1; 32]),
        CredentialError::Ek(EkError::Attributes(_))
    ));
    let mut not_restricted = ek.to_vec();
    // TPM2B size, type, nameAlg; then the attributes.
    not_restricted[7] &= !1;
    assert!(matches!(
        make(&not_restricted, name, &[1; 32]),
        CredentialError::Ek(EkError::Attributes(_))
    ));
    assert_eq!(make(ek, &name[1..], &[1; 32]), CredentialError::Name);
    assert_eq!(make(ek, &[], &[1; 32]), CredentialError::Name);
    for found in [0, 33] {
        assert_eq!(
            make(ek, name, &vec![1; found]),
            CredentialError::Secret { found, max: 32 }
        );
    }
}
