//! What a tenant asks an agent that is polled: a quote that shows its key, and to take its half of
//! the key that opens a payload.

use std::sync::Mutex;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use openssl::hash::MessageDigest;
use openssl::pkey::{PKey, Private};
use openssl::rsa::{Padding, Rsa};
use openssl::sign::Signer;
use serde_json::{Value, json};

use crate::pull_agent::{Device, Reply};

/// What the tenant gave: U, what K must prove, and the payload if there is one.
#[derive(Debug, Clone)]
pub struct Given {
    u_key: Vec<u8>,
    auth_tag: String,
    /// What the key opens, as it was sent.
    pub payload: Option<String>,
}

impl Given {
    /// K of both halves.
    fn key(&self, v_key: &[u8]) -> Vec<u8> {
        let halves = self.u_key.iter().zip(v_key);
        halves.map(|(u, v)| u ^ v).collect()
    }

    /// Whether V is the half that belongs to it, for the agent with this id.
    pub fn belongs_to(&self, v_key: &[u8], id: &str) -> bool {
        hmac(&self.key(v_key), id) == self.auth_tag
    }
}

/// An agent's side of it.
#[derive(Debug, Default)]
pub struct Tenant(Mutex<Option<Given>>);

fn hmac(key: &[u8], text: &str) -> String {
    let key = PKey::hmac(key).unwrap();
    let mut signer = Signer::new(MessageDigest::sha384(), &key).unwrap();
    hex::encode(signer.sign_oneshot_to_vec(text.as_bytes()).unwrap())
}

/// Opens what was encrypted for an agent's key.
pub(crate) fn opened(key: &Rsa<Private>, body: &Value) -> Vec<u8> {
    let sealed = BASE64.decode(body["encrypted_key"].as_str().unwrap());
    let mut opened = vec![0; 256];
    let length = key.private_decrypt(&sealed.unwrap(), &mut opened, Padding::PKCS1_OAEP);
    opened.truncate(length.unwrap());
    opened
}

impl Tenant {
    /// What was given last.
    pub fn given(&self) -> Option<Given> {
        self.0.lock().unwrap().clone()
    }

    /// The answer to a path after its version, if it is one of a tenant's.
    pub(crate) fn answer(
        &self,
        (path, body): (&str, &[u8]),
        (key, shown): (&Rsa<Private>, &str),
        (device, v_key): (&Device, Option<&Vec<u8>>),
    ) -> Option<Reply> {
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        let value = |name: &str| {
            let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
            pairs.find(|(key, _)| *key == name).map(|(_, value)| value)
        };
        let results = match path {
            "quotes/identity" => {
                let (enc_alg, sign_alg) = device.algorithms();
                json!({
                    "quote": device.quote(value("nonce")?, 0, shown),
                    "hash_alg": "sha256",
                    "enc_alg": enc_alg,
                    "sign_alg": sign_alg,
                    "pubkey": shown,
                })
            }
            "keys/pubkey" => json!({ "pubkey": shown }),
            "keys/ukey" => {
                let body: Value = serde_json::from_slice(body).unwrap();
                *self.0.lock().unwrap() = Some(Given {
                    u_key: opened(key, &body),
                    auth_tag: body["auth_tag"].as_str().unwrap().to_owned(),
                    payload: body["payload"].as_str().map(str::to_owned),
                });
                json!({})
            }
            "keys/verify" => match (self.given(), v_key) {
                (Some(given), Some(v_key)) => {
                    json!({"hmac": hmac(&given.key(v_key), value("challenge")?)})
                }
                _ => return Some(Reply::of(400, "the key is not there yet", json!({}))),
            },
            _ => return None,
        };
        Some(Reply::of(200, "Success", results))
    }
}
