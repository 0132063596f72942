//! Keys that sign files, and policies that approve them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use openssl::ec::{EcGroup, EcKey};
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::pkey_ctx::PkeyCtx;
use rat_engine::crypto::FileKey;
use rat_engine::hash::HashAlg;
use rat_engine::ima::Template;

use crate::measured::Measured;
use crate::oracle;

/// A key that signs files as `evmctl` does.
#[derive(Debug, Clone)]
pub struct SigningKey(PKey<Private>);

impl SigningKey {
    /// A new P-256 key.
    pub fn p256() -> Self {
        let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
        Self(PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap())
    }

    /// SubjectPublicKeyInfo in DER.
    pub fn spki_der(&self) -> Vec<u8> {
        self.0.public_key_to_der().unwrap()
    }

    /// The identifier in its signatures.
    pub fn key_id(&self) -> u32 {
        FileKey::from_der(&self.spki_der()).unwrap().key_id()
    }

    /// A file in `ima-sig` with this key's signature.
    pub fn signed_file(&self, name: &str, content: &[u8]) -> Measured {
        let digest = oracle::digest(HashAlg::Sha256, content);
        let mut context = PkeyCtx::new(&self.0).unwrap();
        context.sign_init().unwrap();
        let mut signature = Vec::new();
        context.sign_to_vec(&digest, &mut signature).unwrap();
        let mut tail = vec![3, 2, 4];
        tail.extend(self.key_id().to_be_bytes());
        tail.extend((signature.len() as u16).to_be_bytes());
        tail.extend(signature);
        Measured {
            tail,
            ..Measured::file(name, content).in_template(Template::ImaSig)
        }
    }
}

/// The policy with one digest for one keyring.
pub fn policy_with_keyring(policy: &str, keyring: &str, digest: &[u8]) -> String {
    let mut policy: serde_json::Value = serde_json::from_str(policy).unwrap();
    policy["keyrings"][keyring] = serde_json::json!([hex::encode(digest)]);
    policy.to_string()
}

/// The policy with these verification keys.
pub fn policy_with_verification_keys(policy: &str, keys: &[&SigningKey]) -> String {
    let mut policy: serde_json::Value = serde_json::from_str(policy).unwrap();
    let pubkeys: Vec<_> = keys
        .iter()
        .map(|key| BASE64.encode(key.spki_der()))
        .collect();
    let keyring = serde_json::json!({ "meta": { "version": 1 }, "keyids": [], "pubkeys": pubkeys });
    policy["verification-keys"] = serde_json::json!(keyring.to_string());
    policy.to_string()
}
