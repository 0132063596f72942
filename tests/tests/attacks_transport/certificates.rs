//! Certificate authorities made for one test.

use std::time::Duration;

use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::x509::X509;
use rat_engine::agent_id::AgentId;
use rat_transport::quic::server::{Certified, Client, RelayClient, Tls};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

/// The name of every server.
pub(crate) const SERVER_NAME: &str = "ratd.example";

/// A certificate authority.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate chain and its key, in DER.
#[derive(Clone)]
pub(crate) struct Identity {
    pub(crate) chain: Vec<Vec<u8>>,
    pub(crate) key: Vec<u8>,
}

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub(crate) fn der(&self) -> Vec<u8> {
        self.0.der().to_vec()
    }

    /// A leaf whose common name this is, and that serves this DNS name.
    fn issue(&self, common_name: &str, dns_name: &str) -> Identity {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![dns_name.to_owned()]).unwrap();
        params
            .distinguished_name
            .push(DnType::CommonName, common_name);
        let certificate = params.signed_by(&key, &self.0).unwrap();
        Identity {
            chain: vec![certificate.der().to_vec()],
            key: key.serialize_der(),
        }
    }

    pub(crate) fn agent(&self, id: &str) -> Identity {
        self.issue(id, "agent.example")
    }

    /// A server's certificate, which takes agents of these authorities.
    pub(crate) fn server(&self, agents: &[&Self]) -> Tls {
        let Identity { chain, key } = self.issue("ratd", SERVER_NAME);
        Tls {
            certificate_chain: chain,
            key_pkcs8: key,
            client_ca: agents.iter().map(|authority| authority.der()).collect(),
        }
    }
}

/// The agent that a certificate's common name says, or the relay after `relay@`; none when it says
/// neither.
pub(crate) fn identify(der: &[u8]) -> Option<Certified> {
    let certificate = X509::from_der(der).ok()?;
    let name = certificate
        .subject_name()
        .entries_by_nid(Nid::COMMONNAME)
        .next()?;
    let text = name.data().to_string().ok()?;
    let spki = certificate.public_key().ok()?.public_key_to_der().ok()?;
    let key = openssl::hash::hash(MessageDigest::sha256(), &spki).ok()?;
    let key_sha256 = key.as_ref().try_into().ok()?;
    let valid_for = Duration::MAX;
    if let Some(name) = text.strip_prefix("relay@") {
        return Some(Certified::Relay(RelayClient {
            name: name.to_owned(),
            key_sha256,
            valid_for,
        }));
    }
    Some(Certified::Agent(Client {
        agent: AgentId::parse(&text).ok()?,
        key_sha256,
        valid_for,
    }))
}

/// SHA-256 of the public key of a certificate that names an agent or a relay.
pub(crate) fn key_of(identity: &Identity) -> [u8; 32] {
    match identify(&identity.chain[0]).unwrap() {
        Certified::Agent(client) => client.key_sha256,
        Certified::Relay(relay) => relay.key_sha256,
    }
}
