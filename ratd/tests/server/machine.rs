//! A machine that enrols: keys in software, and the requests that its agent makes.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use openssl::ec::{EcGroup, EcKey};
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::x509::X509Req;
use rat_engine::agent_id::AgentId;
use rat_engine::evidence::{Enrolling, activation_proof};
use rat_engine::tpm::Public;
use rat_tests::endorsement::{SoftwareEk, Template};
use rat_tests::http_client::{Answer, Client};
use rat_tests::software_tpm::SoftwareAk;
use serde_json::{Value, json};

/// A machine.
#[derive(Clone)]
pub(crate) struct Machine {
    pub(crate) id: String,
    pub(crate) ek: SoftwareEk,
    pub(crate) ak: SoftwareAk,
    pub(crate) key: PKey<Private>,
}

/// What the server asked a machine.
#[derive(Clone)]
pub(crate) struct Asked {
    pub(crate) activation_id: String,
    pub(crate) proof: Vec<u8>,
}

impl Machine {
    pub(crate) fn new(id: &str) -> Self {
        let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
        Self {
            id: id.to_owned(),
            ek: SoftwareEk::new(Template::P256),
            ak: SoftwareAk::p256(),
            key: PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap(),
        }
    }

    /// The same TPM under another name.
    pub(crate) fn named(&self, id: &str) -> Self {
        Self {
            id: id.to_owned(),
            ..self.clone()
        }
    }

    /// The line of an operator's list that makes its TPM known.
    pub(crate) fn listed(&self) -> String {
        hex::encode(self.ek.sha256())
    }

    fn csr(&self) -> Vec<u8> {
        let mut builder = X509Req::builder().unwrap();
        builder.set_pubkey(&self.key).unwrap();
        builder.sign(&self.key, MessageDigest::sha256()).unwrap();
        builder.build().to_der().unwrap()
    }

    /// The body of R4.
    pub(crate) fn claims(&self, token: &str) -> Value {
        json!({
            "token": token,
            "hostname": "web-1.example.com",
            "agent_uuid": self.id,
            "ek_public": BASE64.encode(self.ek.public()),
            "ak_public": BASE64.encode(self.ak.public()),
            "csr": BASE64.encode(self.csr()),
        })
    }

    /// The body of R5.
    pub(crate) fn baseline(&self, token: &str, list: &str) -> Value {
        let mut claims = self.claims(token);
        claims["ima_log"] = list.into();
        claims
    }

    /// Releases the secret of an answer to R4 or R5, and computes the proof.
    pub(crate) fn release(&self, token: &str, group: &str, answer: &Answer) -> Asked {
        let body = answer.json();
        let activation = &body["activation"];
        let bytes = |name: &str| BASE64.decode(activation[name].as_str().unwrap()).unwrap();
        let ak_public = self.ak.public();
        let ak_name = Public::parse(&ak_public).unwrap().name().to_bytes();
        let secret = self.ek.activate(&ak_name, &bytes("blob"), &bytes("secret"));
        let activation_id = activation["id"].as_str().unwrap().to_owned();
        let agent = AgentId::parse(&self.id).unwrap();
        let proof = activation_proof(
            &secret.expect("the credential is for these keys"),
            &Enrolling {
                agent: &agent,
                activation_id: &activation_id,
                ek_sha256: &self.ek.sha256(),
                ak_name: &ak_name,
                token_sha256: &openssl::sha::sha256(token.as_bytes()),
                group,
                client_key_sha256: &openssl::sha::sha256(&self.key.public_key_to_der().unwrap()),
            },
        );
        Asked {
            activation_id,
            proof: proof.to_vec(),
        }
    }

    /// Sends a proof.
    pub(crate) fn activate(&self, client: &Client, asked: &Asked) -> Answer {
        let body = json!({
            "activation_id": asked.activation_id,
            "proof": hex::encode(&asked.proof),
        });
        client.post(&format!("/agents/{}/activate", self.id), &body)
    }

    /// R4 and the activation.
    #[track_caller]
    pub(crate) fn enrol(&self, client: &Client, token: &str, group: &str) -> Answer {
        let answer = client.post("/agents/enroll", &self.claims(token));
        assert_eq!(answer.status, 200, "{}", answer.json());
        self.activate(client, &self.release(token, group, &answer))
    }
}
