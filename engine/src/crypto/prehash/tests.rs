use openssl::asn1::Asn1Time;
use openssl::ec::{EcGroup, EcKey};
use openssl::nid::Nid;
use openssl::pkey::Private;
use openssl::x509::extension::SubjectKeyIdentifier;

use super::*;

fn sign(key: &PKey<Private>, md: MessageDigest, message: &[u8]) -> Vec<u8> {
    let mut signer = openssl::sign::Signer::new(md, key).unwrap();
    signer.sign_oneshot_to_vec(message).unwrap()
}

fn keys() -> Vec<PKey<Private>> {
    let ec = |nid| {
        let group = EcGroup::from_curve_name(nid).unwrap();
        PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap()
    };
    vec![
        PKey::from_rsa(Rsa::generate(2048).unwrap()).unwrap(),
        ec(Nid::SECP256K1),
        ec(Nid::SECP384R1),
    ]
}

#[test]
fn signatures_over_a_digest_verify() {
    for private in keys() {
        let key = FileKey::from_der(&private.public_key_to_der().unwrap()).unwrap();
        for name in ["sha1", "sha224", "sha256", "sha384", "sha512"] {
            let md = MessageDigest::from_name(name).unwrap();
            let digest = openssl::hash::hash(md, b"file").unwrap();
            let signature = sign(&private, md, b"file");
            assert_eq!(key.verify_prehash(name, &digest, &signature), Ok(()));
            let mut other = digest.to_vec();
            other[0] ^= 1;
            let mismatch = Err(FileSignatureError::Mismatch);
            assert_eq!(key.verify_prehash(name, &other, &signature), mismatch);
            let longer = [&signature[..], &[0]].concat();
            assert_eq!(key.verify_prehash(name, &digest, &longer), mismatch);
            for length in [0, 1, signature.len() - 1] {
                let short = &signature[..length];
                assert_eq!(key.verify_prehash(name, &digest, short), mismatch);
            }
        }
    }
}

#[test]
fn i14_the_hash_and_the_size_of_the_digest_agree() {
    let key = FileKey::from_der(&keys()[0].public_key_to_der().unwrap()).unwrap();
    let unsupported = Err(FileSignatureError::HashNotSupported);
    for name in ["md5", "sm3", "sha3-256", "streebog256", "SHA256", ""] {
        assert_eq!(key.verify_prehash(name, &[0; 32], &[0; 256]), unsupported);
    }
    let size = Err(FileSignatureError::DigestSize {
        found: 20,
        expected: 32,
    });
    assert_eq!(key.verify_prehash("sha256", &[0; 20], &[0; 256]), size);
}

#[test]
fn keyids_come_from_the_certificate_or_from_the_key() {
    let private = &keys()[0];
    let spki = private.public_key_to_der().unwrap();
    let bare = FileKey::from_der(&spki).unwrap();
    let pkcs1 = private.rsa().unwrap().public_key_to_der_pkcs1().unwrap();
    assert_eq!(FileKey::from_der(&pkcs1).unwrap().key_id(), bare.key_id());

    let mut builder = X509::builder().unwrap();
    builder.set_version(2).unwrap();
    builder.set_pubkey(private).unwrap();
    builder
        .set_not_before(&Asn1Time::from_unix(0).unwrap())
        .unwrap();
    builder
        .set_not_after(&Asn1Time::from_unix(1).unwrap())
        .unwrap();
    builder.sign(private, MessageDigest::sha256()).unwrap();
    let plain = builder.build().to_der().unwrap();
    assert_eq!(FileKey::from_der(&plain).unwrap().key_id(), bare.key_id());

    let mut builder = X509::builder().unwrap();
    builder.set_version(2).unwrap();
    builder.set_pubkey(private).unwrap();
    builder
        .set_not_before(&Asn1Time::from_unix(0).unwrap())
        .unwrap();
    builder
        .set_not_after(&Asn1Time::from_unix(1).unwrap())
        .unwrap();
    let context = builder.x509v3_context(None, None);
    let extension = SubjectKeyIdentifier::new().build(&context).unwrap();
    builder.append_extension(extension).unwrap();
    builder.sign(private, MessageDigest::sha256()).unwrap();
    let certificate = builder.build();
    let end: [u8; 4] = *certificate
        .subject_key_id()
        .unwrap()
        .as_slice()
        .last_chunk()
        .unwrap();
    for key in [
        FileKey::from_der(&certificate.to_der().unwrap()),
        FileKey::from_pem(&certificate.to_pem().unwrap()),
    ] {
        assert_eq!(key.unwrap().key_id(), u32::from_be_bytes(end));
    }
}

#[test]
fn weak_and_foreign_keys_are_refused() {
    let refuse = |der: &[u8], expected: KeyError| {
        assert_eq!(FileKey::from_der(der).map(|_| ()), Err(expected));
    };
    let small = PKey::from_rsa(Rsa::generate(1024).unwrap()).unwrap();
    refuse(&small.public_key_to_der().unwrap(), KeyError::RsaSize(1024));
    let ed25519 = PKey::generate_ed25519().unwrap();
    refuse(&ed25519.public_key_to_der().unwrap(), KeyError::Type);
    refuse(&[], KeyError::Der);
    refuse(&[0x30; 64], KeyError::Der);
    let good = keys()[0].public_key_to_der().unwrap();
    refuse(&[&good[..], &[0]].concat(), KeyError::Der);
}
