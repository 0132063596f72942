//! Targets of what a machine sends to enrol, and shows when it connects.

use std::collections::HashSet;
use std::sync::OnceLock;

use openssl::x509::X509;
use rat_engine::agent_id::AgentId;
use rat_engine::crypto::{KeyMaterial, VerifyingKey};
use rat_identity::agent_certificate;
use rat_identity::ek::{EkTrust, check_certificate_form};
use rat_identity::enrolment::{self, EnrolmentError, Request};
use rat_identity::relay_certificate::{self, RelayName};

use super::one_longer;
use crate::endorsement::{Template, public_area};
use crate::vectors;

/// 2023-11-14, when the recorded certificates were valid.
const NOW: u64 = 1_700_000_000_000;

/// The CAs that vendors publish, and the keys that they certified in recorded certificates.
struct Vendors {
    trust: EkTrust,
    keys: HashSet<[u8; 32]>,
}

impl Vendors {
    fn get() -> &'static Self {
        static VENDORS: OnceLock<Vendors> = OnceLock::new();
        VENDORS.get_or_init(|| {
            let folders = ["keylime", "google", "infineon"]
                .map(|name| vectors::path(&format!("ek/ca/{name}")));
            let mut keys = HashSet::new();
            for entry in std::fs::read_dir(vectors::path("ek/certificates")).unwrap() {
                let bytes = std::fs::read(entry.unwrap().path()).unwrap();
                let certificate = X509::from_der(&bytes).or_else(|_| X509::from_pem(&bytes));
                let key = certificate.unwrap().public_key().unwrap();
                keys.insert(openssl::sha::sha256(&key.public_key_to_der().unwrap()));
            }
            Vendors {
                trust: EkTrust::load(&folders, &[]).unwrap(),
                keys,
            }
        })
    }
}

/// The public area that a TPM would have for the key of a certificate.
fn certified(der: &[u8]) -> Option<Vec<u8>> {
    let key = X509::from_der(der).ok()?.public_key().ok()?;
    let key = VerifyingKey::from_spki_der(&key.public_key_to_der().ok()?).ok()?;
    let template = match key.material() {
        KeyMaterial::Rsa { modulus, .. } if modulus.len() == 384 => Template::Rsa3072,
        KeyMaterial::Rsa { .. } => Template::Rsa2048,
        KeyMaterial::Ecc { x, .. } if x.len() == 32 => Template::P256,
        KeyMaterial::Ecc { x, .. } if x.len() == 48 => Template::P384,
        KeyMaterial::Ecc { .. } => Template::P521,
    };
    Some(public_area(template, &key))
}

/// An EK certificate under the CAs of vendors: nobody can add a key to those that they certified.
pub fn ek_certificate(data: &[u8]) {
    let form = check_certificate_form(data);
    if form.is_ok() && data.last() != Some(&0xff) {
        // The padding of an NV index, and something else.
        let padded = check_certificate_form(&one_longer(data));
        assert!(padded.is_ok() || data.len() >= rat_identity::limits::CERTIFICATE_BYTES_MAX);
        assert!(check_certificate_form(&[data, &[7]].concat()).is_err());
    }
    let Some(public) = certified(data) else {
        return;
    };
    let vendors = Vendors::get();
    if let Ok(proof) = vendors.trust.verify(Some(data), &public, NOW) {
        assert!(form.is_ok());
        assert!(
            vendors.keys.contains(&proof.ek_sha256),
            "a forged certificate"
        );
    }
}

/// Whether a request is taken: nothing is looked at before it.
fn is_taken(csr: &[u8]) -> bool {
    let request = Request {
        agent: AgentId::parse("agent").unwrap(),
        ek_certificate: None,
        ek_public: &[],
        ak_public: &[],
        csr,
        approved_ek_sha256: None,
        allow_sha1: false,
    };
    let refused = enrolment::check(&EkTrust::default(), &request, NOW);
    match refused.unwrap_err() {
        EnrolmentError::Csr(_) => false,
        EnrolmentError::AkMalformed(_) => true,
        other => panic!("{other}"),
    }
}

/// A PKCS#10 certificate request.
pub fn certificate_request(data: &[u8]) {
    if is_taken(data) {
        assert!(!is_taken(&one_longer(data)));
    }
}

/// The certificate that an agent shows, or a relay: never one that both take.
pub fn agent_certificate(data: &[u8]) {
    if let Ok(relay) = relay_certificate::read(data) {
        assert_eq!(RelayName::parse(relay.name.as_str()), Ok(relay.name));
        assert!(agent_certificate::read(data).is_err());
        assert!(relay_certificate::read(&one_longer(data)).is_err());
    }
    if let Ok(peer) = agent_certificate::read(data) {
        let again = AgentId::parse(peer.agent.as_str()).unwrap();
        assert_eq!(again, peer.agent);
        assert!(agent_certificate::read(&one_longer(data)).is_err());
    }
}
