//! CAs of operators, whose certificates and leaves must fit into frames.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

use std::fs;

use openssl::asn1::Asn1Time;
use openssl::ec::{EcGroup, EcKey};
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::PKey;
use openssl::rsa::Rsa;
use openssl::x509::extension::{BasicConstraints, KeyUsage};
use openssl::x509::{X509, X509NameBuilder, X509Req};
use rat_engine::agent_id::AgentId;
use rat_identity::ca::{Ca, CaError};
use rat_identity::limits;

const NOW: u64 = 1_800_000_000_000;

/// A CA's certificate with a subject of about so many bytes, and its key.
fn ca_with_name(bytes: usize, is_self_issued: bool) -> (String, String) {
    let curve = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
    let key = PKey::from_ec_key(EcKey::generate(&curve).unwrap()).unwrap();
    let mut name = X509NameBuilder::new().unwrap();
    for _ in 0..bytes.div_ceil(64) {
        // RFC 5280, appendix A: an organisational unit has up to 64 characters.
        name.append_entry_by_text("OU", &"u".repeat(53)).unwrap();
    }
    let name = name.build();
    let mut above = X509NameBuilder::new().unwrap();
    above.append_entry_by_text("CN", "above").unwrap();
    let above = above.build();
    let issuer = if is_self_issued { &name } else { &above };
    let mut builder = X509::builder().unwrap();
    builder.set_version(2).unwrap();
    builder.set_pubkey(&key).unwrap();
    builder.set_subject_name(&name).unwrap();
    builder.set_issuer_name(issuer).unwrap();
    for (end, set) in [(0, true), (30, false)] {
        let seconds = i64::try_from(NOW / 1000).unwrap() - 60 + end * 86_400;
        let time = Asn1Time::from_unix(seconds).unwrap();
        match set {
            true => builder.set_not_before(&time).unwrap(),
            false => builder.set_not_after(&time).unwrap(),
        }
    }
    let ca = BasicConstraints::new().critical().ca().build();
    builder.append_extension(ca.unwrap()).unwrap();
    let usage = KeyUsage::new().critical().key_cert_sign().build();
    builder.append_extension(usage.unwrap()).unwrap();
    let digest = MessageDigest::sha256();
    builder.sign(&key, digest).unwrap();
    let text = |pem: Vec<u8>| String::from_utf8(pem).unwrap();
    (
        text(builder.build().to_pem().unwrap()),
        text(key.private_key_to_pem_pkcs8().unwrap()),
    )
}

#[test]
fn x04_a_ca_that_no_frame_carries_is_not_imported() {
    // Subject and issuer are in the CA's own certificate, the issuer in what it issues.
    for (name_bytes, is_self_issued, named) in [
        (2_300, true, "the CA's certificate"),
        (3_500, false, "an agent's certificate that names this CA"),
    ] {
        let (certificate, key) = ca_with_name(name_bytes, is_self_issued);
        let folder = tempfile::tempdir().unwrap();
        match Ca::import(folder.path(), &certificate, &key, NOW) {
            Err(CaError::CertificateTooLong { which, found }) => {
                assert_eq!(which, named);
                assert!(found > limits::CARRIED_CERTIFICATE_BYTES_MAX);
            }
            other => panic!("{name_bytes}: {other:?}"),
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
    // The longest names that are taken leave room for the longest agent's certificate.
    let (certificate, key) = ca_with_name(1_700, true);
    let folder = tempfile::tempdir().unwrap();
    let ca = Ca::import(folder.path(), &certificate, &key, NOW).unwrap();
    let sizes = ca.certificates().into_iter().map(|der| der.len());
    assert!(sizes.max().unwrap() <= limits::CARRIED_CERTIFICATE_BYTES_MAX);
    let agent = AgentId::parse(&"a".repeat(80)).unwrap();
    let rsa = Rsa::generate(4096).unwrap();
    let rsa = PKey::from_rsa(rsa).unwrap();
    let mut csr = X509Req::builder().unwrap();
    csr.set_pubkey(&rsa).unwrap();
    let digest = MessageDigest::sha256();
    csr.sign(&rsa, digest).unwrap();
    let csr = csr.build().to_der().unwrap();
    let issued = ca.issue_agent(&csr, &agent, NOW).unwrap();
    assert!(issued.chain_der[0].len() <= limits::CARRIED_CERTIFICATE_BYTES_MAX);
}
