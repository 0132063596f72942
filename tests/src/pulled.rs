//! Agents that are polled, as a tenant adds them.

use rat_engine::agent_id::AgentId;
use rat_engine::hash::HashAlg;
use rat_engine::shard::{AgentPath, AgentRecord, KEYLIME_GROUP};
use rat_store::{
    GroupSettings, KeylimeFacts, KeylimeKind, NewGroup, NewKeylimeAgent, NewKeylimePolicy,
    PolicyOfAgent, Store, StoredAgent,
};
use rat_transport::pull::{Contact, VKey};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use std::net::SocketAddr;

use crate::driven::Driven;

/// Where an agent is, and what is accepted of it.
pub fn contact(
    id: &AgentId,
    address: SocketAddr,
    certificate: Option<Vec<u8>>,
    ak_public: &[u8],
) -> Contact {
    let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
    Contact {
        agent: id.clone(),
        ak_public: ak_public.to_vec(),
        host: address.ip().to_string(),
        port: address.port(),
        certificate,
        attested_by: None,
        accept_hash_algs: names(&["sha512", "sha384", "sha256"]),
        accept_encryption_algs: names(&["ecc", "rsa"]),
        accept_signing_algs: names(&["ecschnorr", "rsassa", "ecdsa"]),
        v_key: None,
    }
}

/// The V key of tests.
pub const fn v_key() -> VKey {
    VKey([0x56; 32])
}

fn facts(bank: HashAlg) -> KeylimeFacts {
    KeylimeFacts {
        v: None,
        ip: Some("127.0.0.1".to_owned()),
        port: Some(9002),
        tpm_policy: r#"{"mask": "0x400"}"#.to_owned(),
        metadata: "{}".to_owned(),
        ima_sign_verification_keys: String::new(),
        revocation_key: String::new(),
        accept_tpm_hash_algs: vec!["sha256".to_owned()],
        accept_tpm_encryption_algs: vec!["rsa".to_owned()],
        accept_tpm_signing_algs: vec!["rsassa".to_owned()],
        mtls_cert: None,
        supported_version: "2.6".to_owned(),
        verifier_ip: "127.0.0.1".to_owned(),
        verifier_port: 8881,
        bank,
    }
}

/// What enrolment over Keylime's API binds to an agent.
pub fn record(id: &AgentId, ak_public: &[u8]) -> AgentRecord {
    let sha256 = |bytes: &[u8]| -> [u8; 32] {
        let digest = rat_engine::crypto::digest(HashAlg::Sha256, bytes);
        digest.as_bytes().try_into().unwrap()
    };
    AgentRecord {
        id: id.clone(),
        group: KEYLIME_GROUP.to_owned(),
        path: AgentPath::KeylimePull,
        ak_public: ak_public.to_vec(),
        ak_epoch: 1,
        ek_sha256: sha256(format!("ek {id}").as_bytes()),
        client_key_sha256: sha256(ak_public),
        relay_key_sha256: None,
        baseline: None,
        enrolled_unix_ms: 1_800_000_000_000,
    }
}

/// Adds an agent in the store, after a change to what the tenant says of it.
pub async fn add(
    store: &Store,
    id: &AgentId,
    ak_public: &[u8],
    policy: &str,
    change: impl FnOnce(&mut KeylimeFacts),
) -> StoredAgent {
    let record = record(id, ak_public);
    let mut facts = facts(HashAlg::Sha256);
    change(&mut facts);
    let of = |kind, text, judges| NewKeylimePolicy {
        kind,
        name: id.as_str(),
        text,
        judges,
    };
    let policy = policy.as_bytes();
    let new = NewKeylimeAgent {
        record: &record,
        facts: &facts,
        runtime_policy: PolicyOfAgent::New(of(KeylimeKind::Runtime, policy, Some(policy))),
        mb_policy: PolicyOfAgent::New(of(KeylimeKind::MeasuredBoot, b"", None)),
        actor: "test",
    };
    store.add_keylime_agent(new, 1).await.unwrap().unwrap()
}

/// Adds an agent in the store, and tells the runtime.
pub async fn enrol(driven: &Driven, id: &AgentId, ak_public: &[u8], policy: &str) {
    let store: &Store = &driven.store;
    let added = add(store, id, ak_public, policy, |_| {}).await;
    let stored = store.keylime_agent(id).await.unwrap().unwrap();
    driven.runtime.keylime_changed(&stored).await.unwrap();
    let enrolled = driven.runtime.enrolled(added.record, added.state);
    enrolled.await.unwrap();
}

/// A CA of clients (DER), and the certificate and key of a client of it (PEM).
pub fn clients() -> (Vec<u8>, String, String) {
    let ca_key = KeyPair::generate().unwrap();
    let mut ca = CertificateParams::new(Vec::new()).unwrap();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_certificate = ca.self_signed(&ca_key).unwrap();
    let issuer = Issuer::from_params(&ca, &ca_key);
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(vec!["client".to_owned()]).unwrap();
    let leaf = leaf.signed_by(&key, &issuer).unwrap();
    (
        ca_certificate.der().to_vec(),
        leaf.pem(),
        key.serialize_pem(),
    )
}

/// Makes the group of Keylime's agents.
pub async fn make_group(store: &Store) {
    let group = NewGroup {
        slug: KEYLIME_GROUP.to_owned(),
        hex_id: "0a0a".to_owned(),
        settings: GroupSettings::default(),
    };
    store.create_group(&group, "test", 1).await.unwrap();
}
