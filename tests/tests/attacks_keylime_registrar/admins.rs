//! A01, A02, X05: who reads and removes registrations, and over which connection.

use std::net::TcpStream;
use std::time::{Duration, Instant};

use openssl::ec::{EcGroup, EcKey};
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::x509::{X509, X509Name, X509Req};
use rat_api::auth::{ClientCertificate, Link, Peer};
use rat_api::clock::unix_ms;
use rat_api::keylime::Identity;
use rat_engine::agent_id::AgentId;
use rat_identity::ca::Ca;
use rat_identity::keylime::KeylimeCa;
use rat_tests::http_client::Client;
use rat_tests::registrar::{Agent, Served, Settings, client_files};
use rustls::pki_types::CertificateDer;
use serde_json::json;

use super::{assert_empty, told};

const ADMINS: [(&str, &str, &str); 4] = [
    ("GET", "/v2.6/agents", "list_registrations"),
    ("GET", "/v3.0/agents/", "list_registrations"),
    ("GET", "/v2.6/agents/a", "read_registration"),
    ("DELETE", "/v2.6/agents/a", "delete_registration"),
];

#[test]
fn a01_administrators_routes_need_tls_and_a_certificate() {
    let served = Served::start(Settings::open(), &[]);
    let agent = Agent::new("a");
    served.register(&agent);
    for (method, path, action) in ADMINS {
        assert_empty(&served.plain(method, path, &[], b""), 400);
        let answer = served.anonymous().request_of_own(method, path, &[], b"");
        let detail = format!("Action {action} requires admin authentication (mTLS certificate)");
        let expected = json!({"errors": [
            {"status": "403", "title": "Forbidden", "detail": detail},
        ]});
        assert_eq!((answer.status, answer.json()), (403, expected));
        // A credential that is not valid never gives way to a certificate.
        for client in [served.anonymous(), served.admin()] {
            let header = ["authorization: Bearer x"];
            let answer = client.request_of_own(method, path, &header, b"");
            assert_eq!(answer.status, 401);
            assert_eq!(answer.json()["errors"][0]["status"], "401");
        }
    }
    assert!(served.registration("a").is_some());
    let removed = served.ask("DELETE", "/v2.6/agents/a");
    assert_eq!(told(&removed), (200, "Success".to_owned()));
    let again = served.ask("DELETE", "/v2.6/agents/a");
    assert_eq!(
        told(&again),
        (404, "Agent with ID 'a' not found".to_owned())
    );
    let audit = served.wait(served.store.audit_entries(0, 100)).unwrap();
    let last = audit.last().unwrap();
    assert_eq!(
        (
            last.actor.as_str(),
            last.action.as_str(),
            last.target.as_str()
        ),
        ("keylime:client", "registration.remove", "a")
    );
}

#[test]
fn a02_agents_routes_need_nothing_and_take_no_wrong_credential() {
    let served = Served::start(Settings::open(), &[]);
    let agent = Agent::new("a");
    let body = agent.body().to_string();
    let json_header = "content-type: application/json";
    for client in [served.anonymous(), served.admin()] {
        let answer = client.request_of_own("POST", &agent.path(), &[json_header], body.as_bytes());
        assert_eq!(answer.status, 200);
    }
    let headers = [json_header, "authorization: Bearer x"];
    let answer = served.plain("POST", &agent.path(), &headers, body.as_bytes());
    assert_eq!(answer.status, 401);
    assert_eq!(
        served.plain("GET", "/version", &[headers[1]], b"").status,
        401
    );
}

fn agents_key() -> PKey<Private> {
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
    PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap()
}

/// What a request of this client is answered; `None` when the handshake fails.
fn status(client: &Client) -> Option<u16> {
    client.try_get("/v2.6/agents")
}

#[test]
fn a02_a_certificate_of_another_ca_is_refused_and_ratds_agents_are_no_administrators() {
    let served = Served::start(Settings::open(), &[]);
    let roots = served.ca().join("cacert.crt");
    let folder = tempfile::tempdir().unwrap();
    // An agent of ratd, of ratd's own CA.
    let own = folder.path().join("ca");
    std::fs::create_dir(&own).unwrap();
    let own = Ca::open(&own, unix_ms()).unwrap();
    let key = agents_key();
    let mut request = X509Req::builder().unwrap();
    request.set_pubkey(&key).unwrap();
    request.sign(&key, MessageDigest::sha256()).unwrap();
    let csr = request.build().to_der().unwrap();
    let agent = AgentId::parse("a").unwrap();
    let issued = own.issue_agent(&csr, &agent, unix_ms()).unwrap();
    let certificate = X509::from_der(&issued.chain_der[0]).unwrap();
    let client = Client::with_certificate(served.tls, &roots, &certificate, &key);
    assert_eq!(status(&client), None);
    // A client of another Keylime.
    let other = folder.path().join("cv_ca");
    std::fs::create_dir(&other).unwrap();
    KeylimeCa::make(&other, &["localhost".to_owned()], unix_ms()).unwrap();
    let (certificate, key) = client_files(&other);
    let client = Client::with_certificate(served.tls, &roots, &certificate, &key);
    assert_eq!(status(&client), None);
    // Another purpose: the server's own certificate is no client's.
    let certificate = std::fs::read(served.ca().join("server-cert.crt")).unwrap();
    let key = std::fs::read(served.ca().join("server-private.pem")).unwrap();
    let certificate = X509::from_pem(&certificate).unwrap();
    let key = PKey::private_key_from_pem(&key).unwrap();
    let client = Client::with_certificate(served.tls, &roots, &certificate, &key);
    assert_eq!(status(&client), None);
    assert_eq!(status(&served.admin()), Some(200));
    assert_eq!(status(&served.anonymous()), Some(403));

    // Should an operator's root stand above ratd's CA, and be the CA of Keylime's clients, agents
    // of ratd are nobody all the same.
    let above = served.ca();
    let ca_key = std::fs::read(above.join("ca-private.pem")).unwrap();
    let ca_key = PKey::private_key_from_pem(&ca_key).unwrap();
    let root = std::fs::read(above.join("cacert.crt")).unwrap();
    let root = X509::from_pem(&root).unwrap();
    let key = agents_key();
    for (uri, expected) in [("urn:ratd:agent:a", 403), ("urn:example:tenant", 200)] {
        let mut builder = X509::builder().unwrap();
        builder.set_version(2).unwrap();
        let mut name = X509Name::builder().unwrap();
        name.append_entry_by_nid(Nid::COMMONNAME, "a").unwrap();
        builder.set_subject_name(&name.build()).unwrap();
        builder.set_issuer_name(root.subject_name()).unwrap();
        let serial = openssl::bn::BigNum::from_u32(9).unwrap();
        let serial = openssl::asn1::Asn1Integer::from_bn(&serial).unwrap();
        builder.set_serial_number(&serial).unwrap();
        let days = |days| openssl::asn1::Asn1Time::days_from_now(days).unwrap();
        builder.set_not_before(&days(0)).unwrap();
        builder.set_not_after(&days(9)).unwrap();
        builder.set_pubkey(&key).unwrap();
        let context = builder.x509v3_context(Some(&root), None);
        let names = openssl::x509::extension::SubjectAlternativeName::new()
            .uri(uri)
            .build(&context)
            .unwrap();
        builder.append_extension(names).unwrap();
        builder.sign(&ca_key, MessageDigest::sha256()).unwrap();
        let certificate = builder.build();
        let client = Client::with_certificate(served.tls, &roots, &certificate, &key);
        assert_eq!(status(&client), Some(expected), "{uri}");
    }
}

#[test]
fn a02_only_a_certificate_on_a_listener_for_keylimes_clients_is_an_administrators() {
    let folder = tempfile::tempdir().unwrap();
    KeylimeCa::make(folder.path(), &["localhost".to_owned()], unix_ms()).unwrap();
    let leaf = client_files(folder.path()).0.to_der().unwrap();
    let of = |link, certificate: Option<&[u8]>| {
        Identity::of(&Peer {
            address: "127.0.0.1:1".parse().unwrap(),
            certificate: certificate
                .map(|der| ClientCertificate::new(CertificateDer::from(der.to_vec()))),
            link,
        })
    };
    let admin = of(Link::KeylimeTls, Some(&leaf));
    assert_eq!(admin, Identity::Admin("client".to_owned()));
    assert_eq!(admin.actor(), "keylime:client");
    for (link, certificate) in [
        (Link::Tls, Some(leaf.as_slice())),
        (Link::Plain, Some(leaf.as_slice())),
        (Link::KeylimeTls, None),
        (Link::KeylimeTls, Some(&b"no certificate"[..])),
    ] {
        assert_eq!(of(link, certificate), Identity::Anonymous);
    }
}

/// A name of as many parts as Keylime's have.
fn subject(name: &str) -> X509Name {
    let mut subject = X509Name::builder().unwrap();
    for (nid, text) in [
        (Nid::COUNTRYNAME, "US"),
        (Nid::COMMONNAME, name),
        (Nid::STATEORPROVINCENAME, "MA"),
        (Nid::LOCALITYNAME, "Lexington"),
        (Nid::ORGANIZATIONNAME, "MITLL"),
        (Nid::ORGANIZATIONALUNITNAME, "53"),
    ] {
        subject.append_entry_by_nid(nid, text).unwrap();
    }
    subject.build()
}

/// A certificate as Keylime's own CA writes it: RSA, a name of several parts, a Netscape comment that is
/// no DER, and no purpose.
fn keylimes(name: &str, key: &PKey<Private>, ca: Option<(&X509, &PKey<Private>)>) -> X509 {
    use openssl::asn1::{Asn1Integer, Asn1Object, Asn1OctetString, Asn1Time};
    use openssl::bn::BigNum;
    use openssl::x509::X509Extension;
    use openssl::x509::extension::{
        AuthorityKeyIdentifier, BasicConstraints, KeyUsage, SubjectAlternativeName,
        SubjectKeyIdentifier,
    };
    let mut builder = X509::builder().unwrap();
    builder.set_version(2).unwrap();
    builder.set_subject_name(&subject(name)).unwrap();
    let issuer = ca.map_or_else(
        || subject(name),
        |_| subject("Keylime Certificate Authority"),
    );
    builder.set_issuer_name(&issuer).unwrap();
    let serial = BigNum::from_u32(name.len() as u32).unwrap();
    let serial = Asn1Integer::from_bn(&serial).unwrap();
    builder.set_serial_number(&serial).unwrap();
    let days = |days| Asn1Time::days_from_now(days).unwrap();
    builder.set_not_before(&days(0)).unwrap();
    builder.set_not_after(&days(365)).unwrap();
    builder.set_pubkey(key).unwrap();
    let context = builder.x509v3_context(ca.map(|(certificate, _)| &**certificate), None);
    let extensions = match ca {
        None => vec![
            BasicConstraints::new().critical().ca().build().unwrap(),
            SubjectKeyIdentifier::new().build(&context).unwrap(),
            KeyUsage::new()
                .critical()
                .key_cert_sign()
                .crl_sign()
                .build()
                .unwrap(),
        ],
        Some(_) => vec![
            X509Extension::new_from_der(
                &Asn1Object::from_str("2.16.840.1.113730.1.13").unwrap(),
                false,
                &Asn1OctetString::new_from_bytes(b"SSL Server").unwrap(),
            )
            .unwrap(),
            SubjectAlternativeName::new()
                .dns(name)
                .ip("127.0.0.1")
                .build(&context)
                .unwrap(),
            AuthorityKeyIdentifier::new()
                .keyid(true)
                .build(&context)
                .unwrap(),
        ],
    };
    for extension in extensions {
        builder.append_extension(extension).unwrap();
    }
    builder
        .sign(ca.map_or(key, |(_, key)| key), MessageDigest::sha256())
        .unwrap();
    builder.build()
}

#[test]
fn a_cv_ca_folder_of_keylimes_is_taken_over_and_its_tenants_go_on() {
    let rsa = || {
        let key = openssl::rsa::Rsa::generate(2048).unwrap();
        PKey::from_rsa(key).unwrap()
    };
    let theirs = tempfile::tempdir().unwrap();
    let write = |file: &str, text: Vec<u8>| std::fs::write(theirs.path().join(file), text).unwrap();
    let ca_key = rsa();
    let ca = keylimes("Keylime Certificate Authority", &ca_key, None);
    write("cacert.crt", ca.to_pem().unwrap());
    for name in ["client", "server"] {
        let key = rsa();
        let certificate = keylimes(name, &key, Some((&ca, &ca_key)));
        write(&format!("{name}-cert.crt"), certificate.to_pem().unwrap());
        let key = key.private_key_to_pem_pkcs8().unwrap();
        write(&format!("{name}-private.pem"), key);
    }
    let folder = tempfile::tempdir().unwrap();
    let own = folder.path().join("cv_ca");
    std::fs::create_dir(&own).unwrap();
    let ca_key = String::from_utf8(ca_key.private_key_to_pem_pkcs8().unwrap()).unwrap();
    let imported = KeylimeCa::import(&own, theirs.path(), Some(&ca_key), unix_ms()).unwrap();
    let served = Served::start_in(folder, Settings::open(), Default::default());
    assert_eq!(status(&served.admin()), Some(200));
    assert_eq!(status(&served.anonymous()), Some(403));
    // What is renewed has our form, and counts as theirs did.
    assert!(
        imported
            .renew(
                &["ratd.example".to_owned(), "127.0.0.1".to_owned()],
                unix_ms()
            )
            .unwrap()
    );
    let served = Served::start_in(served.end(), Settings::open(), Default::default());
    assert_eq!(status(&served.admin()), Some(200));
}

#[test]
fn x05_clients_that_never_finish_their_handshake_hold_nobody_up() {
    let served = Served::start(Settings::open(), &[]);
    let idle: Vec<TcpStream> = (0..64)
        .map(|_| TcpStream::connect(served.tls).unwrap())
        .collect();
    let begun = Instant::now();
    assert_eq!(served.ask("GET", "/v2.6/agents").status, 200);
    assert!(
        begun.elapsed() < Duration::from_secs(9),
        "{:?}",
        begun.elapsed()
    );
    drop(idle);
}
