//! Certificate requests and certificates as others make them, by the library that we hide.

use openssl::asn1::Asn1Time;
use openssl::ec::{EcGroup, EcKey};
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::rsa::Rsa;
use openssl::stack::Stack;
use openssl::x509::extension::{BasicConstraints, KeyUsage, SubjectAlternativeName};
use openssl::x509::{X509Builder, X509Name, X509Req};

/// A request, and what its key's SubjectPublicKeyInfo hashes to.
pub(crate) struct Request {
    pub(crate) der: Vec<u8>,
    pub(crate) key_sha256: [u8; 32],
}

pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    openssl::sha::sha256(bytes)
}

fn ec(curve: Nid) -> PKey<Private> {
    let group = EcGroup::from_curve_name(curve).unwrap();
    PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap()
}

fn name(common_name: &str) -> X509Name {
    let mut name = X509Name::builder().unwrap();
    name.append_entry_by_nid(Nid::COMMONNAME, common_name)
        .unwrap();
    name.build()
}

fn request(key: &PKey<Private>, signer: &PKey<Private>, hash: MessageDigest) -> Request {
    build(key, signer, hash, None)
}

fn build(
    key: &PKey<Private>,
    signer: &PKey<Private>,
    hash: MessageDigest,
    named: Option<(&str, &str)>,
) -> Request {
    let mut builder = X509Req::builder().unwrap();
    builder.set_version(0).unwrap();
    builder.set_pubkey(key).unwrap();
    if let Some((common_name, uri)) = named {
        builder.set_subject_name(&name(common_name)).unwrap();
        let names = SubjectAlternativeName::new()
            .uri(uri)
            .build(&builder.x509v3_context(None))
            .unwrap();
        let mut extensions = Stack::new().unwrap();
        extensions.push(names).unwrap();
        builder.add_extensions(&extensions).unwrap();
    }
    builder.sign(signer, hash).unwrap();
    Request {
        der: builder.build().to_der().unwrap(),
        key_sha256: sha256(&key.public_key_to_der().unwrap()),
    }
}

fn self_signed(key: &PKey<Private>, hash: MessageDigest) -> Request {
    request(key, key, hash)
}

pub(crate) fn p256() -> Request {
    self_signed(&ec(Nid::X9_62_PRIME256V1), MessageDigest::sha256())
}

pub(crate) fn p384() -> Request {
    self_signed(&ec(Nid::SECP384R1), MessageDigest::sha384())
}

pub(crate) fn p521() -> Request {
    self_signed(&ec(Nid::SECP521R1), MessageDigest::sha512())
}

pub(crate) fn rsa(bits: u32) -> Request {
    let key = PKey::from_rsa(Rsa::generate(bits).unwrap()).unwrap();
    self_signed(&key, MessageDigest::sha256())
}

pub(crate) fn ed25519() -> Request {
    let key = PKey::generate_ed25519().unwrap();
    self_signed(&key, MessageDigest::null())
}

pub(crate) fn sha1() -> Request {
    self_signed(&ec(Nid::X9_62_PRIME256V1), MessageDigest::sha1())
}

/// A request for a key that its sender does not hold.
pub(crate) fn with_another_key() -> Vec<u8> {
    let (key, signer) = (ec(Nid::X9_62_PRIME256V1), ec(Nid::X9_62_PRIME256V1));
    request(&key, &signer, MessageDigest::sha256()).der
}

pub(crate) fn named(common_name: &str, uri: &str) -> Request {
    let key = ec(Nid::X9_62_PRIME256V1);
    build(
        &key,
        &key,
        MessageDigest::sha256(),
        Some((common_name, uri)),
    )
}

/// A certificate with these alternative names, each `DNS:` or `URI:` and the name.
pub(crate) fn certificate(names: &[&str]) -> Vec<u8> {
    valid_between(names, 0, 1_000_000)
}

/// Such a certificate, valid from one second since 1970 to another.
pub(crate) fn valid_between(names: &[&str], first: i64, last: i64) -> Vec<u8> {
    let key = ec(Nid::X9_62_PRIME256V1);
    let mut builder = X509Builder::new().unwrap();
    builder.set_version(2).unwrap();
    builder.set_pubkey(&key).unwrap();
    builder
        .set_not_before(&Asn1Time::from_unix(first).unwrap())
        .unwrap();
    builder
        .set_not_after(&Asn1Time::from_unix(last).unwrap())
        .unwrap();
    if !names.is_empty() {
        let mut list = SubjectAlternativeName::new();
        for name in names {
            match name.split_once(':').unwrap() {
                ("DNS", dns) => list.dns(dns),
                (_, uri) => list.uri(uri),
            };
        }
        let extension = list.build(&builder.x509v3_context(None, None)).unwrap();
        builder.append_extension(extension).unwrap();
    }
    builder.sign(&key, MessageDigest::sha256()).unwrap();
    builder.build().to_der().unwrap()
}

/// An operator's CA: its certificate and key in PEM, as OpenSSL's tools write them.
pub(crate) struct OperatorCa {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

/// What is wrong with an operator's CA.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flaw {
    None,
    /// Issued by another CA of the operator.
    Intermediate,
    NotCa,
    NoCertSign,
    NoKeyUsage,
}

pub(crate) fn p384_key() -> PKey<Private> {
    ec(Nid::SECP384R1)
}

pub(crate) fn p521_key() -> PKey<Private> {
    ec(Nid::SECP521R1)
}

pub(crate) fn rsa_key(bits: u32) -> PKey<Private> {
    PKey::from_rsa(Rsa::generate(bits).unwrap()).unwrap()
}

pub(crate) fn operator_ca(key: &PKey<Private>, flaw: Flaw, now_unix_ms: u64) -> OperatorCa {
    let parent = ec(Nid::X9_62_PRIME256V1);
    let now = i64::try_from(now_unix_ms / 1000).unwrap();
    let mut builder = X509Builder::new().unwrap();
    builder.set_version(2).unwrap();
    builder.set_pubkey(key).unwrap();
    builder.set_subject_name(&name("Example CA")).unwrap();
    let (issuer, signer) = match flaw {
        Flaw::Intermediate => ("Example Root", &parent),
        _ => ("Example CA", key),
    };
    builder.set_issuer_name(&name(issuer)).unwrap();
    let time = |at| Asn1Time::from_unix(at).unwrap();
    builder.set_not_before(&time(now - 86_400)).unwrap();
    builder.set_not_after(&time(now + 365 * 86_400)).unwrap();
    let mut constraints = BasicConstraints::new();
    if flaw != Flaw::NotCa {
        constraints.ca();
    }
    let constraints = constraints.critical().build().unwrap();
    builder.append_extension(constraints).unwrap();
    let mut usage = KeyUsage::new();
    match flaw {
        Flaw::NoCertSign => usage.crl_sign(),
        _ => usage.key_cert_sign(),
    };
    if flaw != Flaw::NoKeyUsage {
        builder.append_extension(usage.build().unwrap()).unwrap();
    }
    builder.sign(signer, MessageDigest::sha256()).unwrap();
    // SEC1 and PKCS#1, as `openssl ecparam` and older tools write them.
    let key = match (key.ec_key(), key.rsa()) {
        (Ok(ec), _) => ec.private_key_to_pem().unwrap(),
        (_, Ok(rsa)) => rsa.private_key_to_pem().unwrap(),
        _ => key.private_key_to_pem_pkcs8().unwrap(),
    };
    OperatorCa {
        certificate: String::from_utf8(builder.build().to_pem().unwrap()).unwrap(),
        key: String::from_utf8(key).unwrap(),
    }
}
