//! Certificates that the CA issues, held against rustls: what it takes is what transports take.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::as_conversions,
    clippy::arithmetic_side_effects
)]

use std::sync::Arc;
use std::time::Duration;

use rat_engine::agent_id::AgentId;
use rat_identity::agent_certificate::{self, AgentCertificateError};
use rat_identity::ca::{BACKDATE_MS, Ca, CaError, IssueError, LEAF_LIFE_MS};
use rat_identity::{CsrError, FieldError};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, sign::CertifiedKey};

mod requests;

const NOW: u64 = 1_800_000_000_000;

fn at(unix_ms: u64) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_millis(unix_ms))
}

fn roots(certificates: &[Vec<u8>]) -> Arc<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates {
        roots
            .add(CertificateDer::from(certificate.clone()))
            .unwrap();
    }
    Arc::new(roots)
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

fn ca() -> (tempfile::TempDir, Ca) {
    let folder = tempfile::tempdir().unwrap();
    let ca = Ca::open(folder.path(), NOW).unwrap();
    (folder, ca)
}

fn client_verifies(ca: &[Vec<u8>], chain: &[Vec<u8>], now: u64) -> Result<(), rustls::Error> {
    let verifier = WebPkiClientVerifier::builder_with_provider(roots(ca), provider())
        .build()
        .unwrap();
    let leaf = CertificateDer::from(chain[0].clone());
    verifier.verify_client_cert(&leaf, &[], at(now)).map(|_| ())
}

fn server_verifies(
    ca: &[Vec<u8>],
    chain: &[Vec<u8>],
    name: &str,
    now: u64,
) -> Result<(), rustls::Error> {
    let verifier = WebPkiServerVerifier::builder_with_provider(roots(ca), provider())
        .build()
        .unwrap();
    let leaf = CertificateDer::from(chain[0].clone());
    let others: Vec<_> = chain[1..]
        .iter()
        .map(|der| CertificateDer::from(der.clone()))
        .collect();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    verifier
        .verify_server_cert(&leaf, &others, &name, &[], at(now))
        .map(|_| ())
}

#[test]
fn agents_certificates_are_taken_and_read_back() {
    let (_folder, ca) = ca();
    let longest = "x".repeat(80);
    for id in ["agent-1", "web_1.example.", "...", &longest] {
        let agent = AgentId::parse(id).unwrap();
        for request in [requests::p256(), requests::p384(), requests::rsa(2048)] {
            let issued = ca.issue_agent(&request.der, &agent, NOW).unwrap();
            let certificates = ca.certificates();
            client_verifies(&certificates, &issued.chain_der, NOW).unwrap();
            // The clock of another machine is behind.
            client_verifies(&certificates, &issued.chain_der, NOW - BACKDATE_MS).unwrap();
            for outside in [NOW - BACKDATE_MS - 2000, NOW + LEAF_LIFE_MS + 2000] {
                assert!(client_verifies(&certificates, &issued.chain_der, outside).is_err());
            }
            let peer = agent_certificate::read(&issued.chain_der[0]).unwrap();
            assert_eq!(peer.agent, agent);
            assert_eq!(peer.key_sha256, issued.key_sha256);
            assert_eq!(peer.key_sha256, request.key_sha256);
            assert_eq!(peer.not_after_unix_ms, issued.not_after_unix_ms);
            assert_eq!(peer.renew_at_unix_ms(), issued.renew_at_unix_ms);
            // It is no server's.
            assert!(server_verifies(&certificates, &issued.chain_der, "localhost", NOW).is_err());
        }
    }
}

#[test]
fn servers_certificates_are_taken_for_their_names_only() {
    let (_folder, ca) = ca();
    let names = ["ratd.example", "127.0.0.1", "::1"].map(str::to_owned);
    let issued = ca.issue_server(&names, NOW).unwrap();
    let certificates = ca.certificates();
    for name in &names {
        server_verifies(&certificates, &issued.chain_der, name, NOW).unwrap();
    }
    for name in ["other.example", "127.0.0.2", "a.ratd.example"] {
        assert!(server_verifies(&certificates, &issued.chain_der, name, NOW).is_err());
    }
    assert!(client_verifies(&certificates, &issued.chain_der, NOW).is_err());
    let key = PrivateKeyDer::Pkcs8(issued.key_pkcs8_der.clone().into());
    let chain = issued.chain_der.iter().cloned().map(Into::into).collect();
    CertifiedKey::from_der(chain, key, &provider()).unwrap();
    assert!(agent_certificate::read(&issued.chain_der[0]).is_err());
}

/// What an agent does with a token: find the CA by its fingerprint, and trust it alone.
#[test]
fn n14_a_fingerprint_finds_our_ca_and_no_other() {
    let (_folder, ours) = ca();
    let (_other_folder, other) = ca();
    let name = ["localhost".to_owned()];
    let pinned = |chain: &[Vec<u8>]| {
        let is_ours = |der: &&Vec<u8>| requests::sha256(der) == ours.fingerprint();
        chain.iter().find(is_ours).cloned()
    };
    let issued = ours.issue_server(&name, NOW).unwrap();
    let root = pinned(&issued.chain_der).unwrap();
    server_verifies(
        std::slice::from_ref(&root),
        &issued.chain_der,
        "localhost",
        NOW,
    )
    .unwrap();
    let foreign = other.issue_server(&name, NOW).unwrap();
    assert_eq!(pinned(&foreign.chain_der), None);
    // Our certificate in the chain of another CA's leaf helps nobody.
    let mixed = [foreign.chain_der[0].clone(), root.clone()];
    assert_eq!(pinned(&mixed), Some(root.clone()));
    assert!(server_verifies(&[root], &mixed, "localhost", NOW).is_err());
}

#[test]
fn rotation_leaves_nobody_out() {
    let (_folder, mut ca) = ca();
    let agent = AgentId::parse("agent-1").unwrap();
    let request = requests::p256();
    let old = ca.issue_agent(&request.der, &agent, NOW).unwrap();
    let known_to_agents = ca.certificates();
    ca.rotate(NOW).unwrap();
    let server = ca.issue_server(&["localhost".to_owned()], NOW).unwrap();
    server_verifies(&known_to_agents, &server.chain_der, "localhost", NOW).unwrap();
    client_verifies(&ca.certificates(), &old.chain_der, NOW).unwrap();
    let new = ca
        .renew_agent(&request.der, &agent, &old.key_sha256, NOW)
        .unwrap();
    client_verifies(&ca.certificates()[..1], &new.chain_der, NOW).unwrap();
    assert!(client_verifies(&ca.certificates()[..1], &old.chain_der, NOW).is_err());
}

#[test]
fn a_renewal_is_for_the_key_that_is_bound() {
    let (_folder, ca) = ca();
    let agent = AgentId::parse("agent-1").unwrap();
    let first = requests::p256();
    let issued = ca.issue_agent(&first.der, &agent, NOW).unwrap();
    let renewed = ca
        .renew_agent(&first.der, &agent, &issued.key_sha256, NOW)
        .unwrap();
    assert_eq!(renewed.key_sha256, issued.key_sha256);
    assert_ne!(renewed.chain_der, issued.chain_der);
    let other = requests::p256();
    assert!(matches!(
        ca.renew_agent(&other.der, &agent, &issued.key_sha256, NOW),
        Err(IssueError::Request(CsrError::OtherKey))
    ));
}

#[test]
fn requests_that_prove_nothing_get_no_certificate() {
    let (_folder, ca) = ca();
    let agent = AgentId::parse("agent-1").unwrap();
    let refused = |der: &[u8]| match ca.issue_agent(der, &agent, NOW) {
        Err(IssueError::Request(error)) => error,
        other => panic!("{other:?}"),
    };
    let good = requests::p256().der;
    let mut damaged = good.clone();
    let last = damaged.len() - 1;
    damaged[last] ^= 1;
    assert_eq!(refused(&damaged), CsrError::Signature);
    assert!(matches!(
        refused(&[&good[..], &[0]].concat()),
        CsrError::Der(_)
    ));
    assert!(matches!(refused(&good[..last]), CsrError::Der(_)));
    assert!(matches!(refused(&[]), CsrError::Der(_)));
    assert_eq!(refused(&vec![0x30; 9000]), CsrError::TooLong(9000));
    assert!(matches!(
        refused(&requests::rsa(1024).der),
        CsrError::Key(_)
    ));
    assert_eq!(refused(&requests::p521().der), CsrError::Curve);
    assert_eq!(refused(&requests::ed25519().der), CsrError::Algorithm);
    assert_eq!(refused(&requests::sha1().der), CsrError::Algorithm);
    assert_eq!(refused(&requests::with_another_key()), CsrError::Signature);
}

/// The subject and the extensions of a request are the sender's words.
#[test]
fn n06_a_certificate_names_the_agent_and_not_what_the_request_says() {
    let (_folder, ca) = ca();
    let agent = AgentId::parse("agent-1").unwrap();
    let request = requests::named("agent-2", "urn:ratd:agent:agent-2");
    let issued = ca.issue_agent(&request.der, &agent, NOW).unwrap();
    let peer = agent_certificate::read(&issued.chain_der[0]).unwrap();
    assert_eq!(peer.agent, agent);
    let printed = String::from_utf8_lossy(&issued.chain_der[0]).into_owned();
    assert!(printed.contains("agent-1") && !printed.contains("agent-2"));
}

#[test]
fn n06_only_one_canonical_uri_names_an_agent() {
    use AgentCertificateError as Error;
    let read = |names: &[&str]| agent_certificate::read(&requests::certificate(names));
    assert_eq!(
        read(&["URI:urn:ratd:agent:agent-1"])
            .unwrap()
            .agent
            .as_str(),
        "agent-1"
    );
    assert_eq!(read(&[]), Err(Error::NameMissing));
    for names in [
        &["DNS:urn:ratd:agent:agent-1"][..],
        &["URI:urn:ratd:agent:agent-1", "URI:urn:ratd:agent:agent-2"],
        &["URI:urn:ratd:agent:agent-1", "DNS:a"],
    ] {
        assert_eq!(read(names), Err(Error::NameNotAlone), "{names:?}");
    }
    for name in ["URI:https://x", "URI:urn:ratd:agen", "URI:URN:ratd:agent:a"] {
        assert_eq!(read(&[name]), Err(Error::NotAnAgent), "{name}");
    }
    for id in ["", "..", "a b", "a/b", "pending", "\u{e4}", "a\n"] {
        let name = format!("URI:urn:ratd:agent:{id}");
        assert!(matches!(read(&[&name]), Err(Error::Id(_))), "{id:?}");
    }
    let upper = "URI:urn:ratd:agent:D432FBB3-D2F1-4A97-9EF7-75BD81C00000";
    assert_eq!(read(&[upper]), Err(Error::IdForm));
    assert!(matches!(
        agent_certificate::read(&[0; 9000]),
        Err(Error::Field(FieldError::TooLong(9000)))
    ));
}

/// Both are what the library reads, to the second: in two digits of a year until 2049, in four after.
#[test]
fn validity_is_read_as_the_library_reads_it() {
    const YEAR: i64 = 31_556_952;
    let names = ["URI:urn:ratd:agent:a"];
    let epoch = openssl::asn1::Asn1Time::from_unix(0).unwrap();
    for year in 0..200 {
        let (first, last) = (year * YEAR, (year + 1) * YEAR + year * 86_399);
        let der = requests::valid_between(&names, first, last);
        let peer = agent_certificate::read(&der).unwrap();
        let library = openssl::x509::X509::from_der(&der).unwrap();
        let seconds = |time: &openssl::asn1::Asn1TimeRef| {
            let since = epoch.diff(time).unwrap();
            u64::try_from(i64::from(since.days) * 86_400 + i64::from(since.secs)).unwrap()
        };
        assert_eq!(
            peer.not_before_unix_ms,
            seconds(library.not_before()) * 1000
        );
        assert_eq!(peer.not_after_unix_ms, seconds(library.not_after()) * 1000);
        let key = library.public_key().unwrap().public_key_to_der().unwrap();
        assert_eq!(peer.key_sha256, openssl::sha::sha256(&key));
    }
    let before_1970 = requests::valid_between(&names, -YEAR, YEAR);
    assert_eq!(
        agent_certificate::read(&before_1970),
        Err(AgentCertificateError::Validity)
    );
    // The end of a time is Z, and nothing else.
    let mut offset = requests::valid_between(&names, 0, YEAR);
    let at = offset.windows(13).position(|at| at == b"700101000000Z");
    offset[at.unwrap() + 12] = b'+';
    assert_eq!(
        agent_certificate::read(&offset),
        Err(AgentCertificateError::Validity)
    );
}

#[test]
fn operators_cas_issue_what_rustls_takes() {
    use requests::Flaw;
    let agent = AgentId::parse("agent-1").unwrap();
    for (key, flaw) in [
        (requests::rsa_key(3072), Flaw::None),
        (requests::p384_key(), Flaw::None),
        (requests::p384_key(), Flaw::Intermediate),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let theirs = requests::operator_ca(&key, flaw, NOW);
        Ca::import(folder.path(), &theirs.certificate, &theirs.key, NOW).unwrap();
        let ca = Ca::open(folder.path(), NOW).unwrap();
        let anchors = ca.certificates();
        assert_eq!(anchors.len(), 1);
        let server = ca.issue_server(&["localhost".to_owned()], NOW).unwrap();
        server_verifies(&anchors, &server.chain_der, "localhost", NOW).unwrap();
        let issued = ca.issue_agent(&requests::p256().der, &agent, NOW).unwrap();
        client_verifies(&anchors, &issued.chain_der, NOW).unwrap();
    }
}

#[test]
fn operators_cas_that_may_not_issue_are_refused() {
    use requests::Flaw;
    let refused = |key, flaw| {
        let folder = tempfile::tempdir().unwrap();
        let theirs = requests::operator_ca(&key, flaw, NOW);
        let error = Ca::import(folder.path(), &theirs.certificate, &theirs.key, NOW);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        error.unwrap_err()
    };
    assert!(matches!(
        refused(requests::p384_key(), Flaw::NotCa),
        CaError::NotCa
    ));
    for flaw in [Flaw::NoCertSign, Flaw::NoKeyUsage] {
        assert!(matches!(
            refused(requests::p384_key(), flaw),
            CaError::NotSigner
        ));
    }
    for key in [requests::rsa_key(1024), requests::p521_key()] {
        assert!(matches!(refused(key, Flaw::None), CaError::KeyType));
    }
}

proptest::proptest! {
    /// Nothing that a peer sends makes a reader panic, and nothing short of a certificate is one.
    #[test]
    fn noise_is_refused(noise in proptest::collection::vec(0_u8.., 0..600)) {
        proptest::prop_assert!(agent_certificate::read(&noise).is_err());
        proptest::prop_assert!(rat_identity::ek::check_certificate_form(&noise).is_err());
    }

    /// Nor does a certificate with one changed byte.
    #[test]
    fn changed_certificates_are_read_or_refused(at in 0_usize..400, mask in 1_u8..) {
        let mut changed = genuine().clone();
        let at = at % changed.len();
        changed[at] ^= mask;
        if let Ok(peer) = agent_certificate::read(&changed) {
            proptest::prop_assert!(peer.agent.as_str().len() <= 80);
        }
        let _ = rat_identity::ek::check_certificate_form(&changed);
    }
}

/// One agent's certificate.
fn genuine() -> &'static Vec<u8> {
    static GENUINE: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
    GENUINE.get_or_init(|| {
        let (_folder, ca) = ca();
        let agent = AgentId::parse("agent-1").unwrap();
        let issued = ca.issue_agent(&requests::p256().der, &agent, NOW).unwrap();
        issued.chain_der[0].clone()
    })
}
