//! L06: policies in envelopes that nobody, somebody else, or the right key has signed.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use openssl::ec::{EcGroup, EcKey};
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::rsa::Rsa;
use openssl::sign::Signer;
use rat_engine::crypto::{DocumentKey, KeyError};
use rat_engine::policy::PolicyError;
use rat_engine::policy::dsse::{
    DsseError, PAYLOAD_TYPE, PolicyRefusal, SignatureState, SignedPolicy, admit, envelope,
    is_envelope, pae,
};
use rat_tests::vectors;
use serde_json::{Value, json};

fn recorded(name: &str) -> Vec<u8> {
    vectors::read(&format!("keylime-policy/signed/{name}"))
}

/// A key of ours, and its public half in PEM.
fn signer() -> (PKey<Private>, Vec<u8>) {
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
    let key = PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap();
    let public = key.public_key_to_pem().unwrap();
    (key, public)
}

fn sign(key: &PKey<Private>, message: &[u8]) -> Vec<u8> {
    let mut signer = Signer::new(MessageDigest::sha256(), key).unwrap();
    signer.sign_oneshot_to_vec(message).unwrap()
}

/// An envelope around a policy, signed by this key over what `signed` makes of it.
fn signed_over(key: &PKey<Private>, payload: &[u8], signed: &[u8]) -> Vec<u8> {
    envelope(payload, "hint", &sign(key, signed)).into_bytes()
}

fn key(name: &str) -> DocumentKey {
    DocumentKey::from_pem(&recorded(name)).unwrap()
}

fn state(text: &[u8], key: Option<&[u8]>, required: bool) -> Result<SignatureState, PolicyRefusal> {
    admit(text, key, required).map(|admitted| admitted.signature)
}

#[test]
fn l06_what_keylime_signed_is_admitted_under_the_named_key() {
    let policy = recorded("policy.json");
    for (name, public) in [
        ("ecdsa", "ecdsa.pub"),
        ("x509", "x509.pub"),
        ("x509", "x509.crt"),
        ("p384", "p384.pub"),
    ] {
        let text = recorded(&format!("{name}.signed.json"));
        let pem = recorded(public);
        for required in [false, true] {
            let admitted = admit(&text, Some(&pem), required).unwrap();
            assert_eq!(admitted.text.as_ref(), policy.trim_ascii(), "{name}");
            let key_id = DocumentKey::from_pem(&pem).unwrap().id().to_owned();
            assert_eq!(admitted.signature, SignatureState::Verified { key_id });
        }
    }
    // Keylime calls the key by the same name.
    let signed = SignedPolicy::parse(&recorded("ecdsa.signed.json")).unwrap();
    let keyid = signed.unverified_signatures()[0].keyid.as_deref();
    assert_eq!(keyid, Some(key("ecdsa.pub").id()));
}

#[test]
fn l06_keylimes_own_signed_policies() {
    let text = vectors::read("policy/keylime_runtime-policy-test-signed.json");
    assert!(is_envelope(&text));
    let key = vectors::read("policy/keylime_runtime-policy-pubkey.pub");
    assert!(matches!(
        state(&text, Some(&key), true),
        Ok(SignatureState::Verified { .. })
    ));
    let bad = vectors::read("policy/keylime_runtime-policy-test-signed-bad.json");
    let index = 0;
    assert_eq!(
        SignedPolicy::parse(&bad),
        Err(DsseError::Signature { index })
    );
    let (_, stranger) = signer();
    assert_eq!(
        state(&text, Some(&stranger), false),
        Err(PolicyRefusal::Signature(DsseError::NotSigned))
    );
    let refusal = state(&bad, Some(&key), true).unwrap_err();
    assert_eq!(refusal.keylime_status(), 401);
}

#[test]
fn l06_a_stranger_with_a_certificate_of_his_own_is_not_believed() {
    // The envelope brings a certificate that fits its signature; another key was named.
    let text = recorded("x509.signed.json");
    for other in ["ecdsa.pub", "p384.pub"] {
        let refusal = state(&text, Some(&recorded(other)), true).unwrap_err();
        assert_eq!(refusal, PolicyRefusal::Signature(DsseError::NotSigned));
        assert_eq!(refusal.keylime_status(), 401);
    }
    let refusal = state(&text, None, true).unwrap_err();
    assert_eq!(refusal, PolicyRefusal::KeyMissing);
    assert_eq!(refusal.keylime_status(), 401);
    // Not demanded: it is worth what an unsigned one is, and said so.
    assert_eq!(state(&text, None, false), Ok(SignatureState::NotChecked));
}

#[test]
fn l06_wrong_types_payloads_and_signatures_are_refused() {
    let (key, public) = signer();
    let policy = recorded("policy.json");
    let refused = |text: &[u8]| state(text, Some(&public), false).unwrap_err();
    let good = signed_over(&key, &policy, &pae(PAYLOAD_TYPE, &policy));
    assert!(matches!(
        state(&good, Some(&public), true),
        Ok(SignatureState::Verified { .. })
    ));
    let not_signed = PolicyRefusal::Signature(DsseError::NotSigned);
    for message in [
        policy.clone(),
        pae("application/json", &policy),
        pae(PAYLOAD_TYPE, b"{}"),
    ] {
        assert_eq!(refused(&signed_over(&key, &policy, &message)), not_signed);
    }
    let alter = |change: &dyn Fn(&mut Value)| {
        let mut envelope: Value = serde_json::from_slice(&good).unwrap();
        change(&mut envelope);
        refused(envelope.to_string().as_bytes())
    };
    let wrong_type = alter(&|it| it["payloadType"] = json!("application/json"));
    assert_eq!(wrong_type, PolicyRefusal::Signature(DsseError::PayloadType));
    let swapped = alter(&|it| {
        let other = String::from_utf8(policy.clone()).unwrap();
        it["payload"] = json!(STANDARD.encode(other.replace("alpha", "gamma")));
    });
    assert_eq!(swapped, not_signed);
    let none = alter(&|it| it["signatures"] = json!([]));
    let found = 0;
    assert_eq!(
        none,
        PolicyRefusal::Signature(DsseError::Signatures { found })
    );
    let index = 0;
    for sig in ["", "!", "AAA", "deadbeef="] {
        let fault = alter(&|it| it["signatures"][0]["sig"] = json!(sig));
        let expected = PolicyRefusal::Signature(DsseError::Signature { index });
        assert_eq!(fault, expected, "{sig}");
    }
    let cut = alter(&|it| {
        let sig = it["signatures"][0]["sig"].as_str().unwrap();
        let mut sig = STANDARD.decode(sig).unwrap();
        sig.pop();
        it["signatures"][0]["sig"] = json!(STANDARD.encode(sig));
    });
    assert_eq!(cut, not_signed);
    let no_json = alter(&|it| it["signatures"] = json!("x"));
    assert!(matches!(
        no_json,
        PolicyRefusal::Signature(DsseError::Json { .. })
    ));
}

#[test]
fn l06_one_good_signature_among_others_is_enough_in_either_base64() {
    let (key, public) = signer();
    let (other, _) = signer();
    // Characters whose base64 both alphabets write differently.
    let policy = String::from_utf8(recorded("policy.json")).unwrap();
    let policy = policy.replace("/usr/bin/alpha", "/usr/bin/~~~???");
    assert_ne!(STANDARD.encode(&policy), URL_SAFE.encode(&policy));
    let message = pae(PAYLOAD_TYPE, policy.as_bytes());
    let (theirs, ours) = (sign(&other, &message), sign(&key, &message));
    let text = json!({
        "payload": URL_SAFE.encode(&policy), "payloadType": PAYLOAD_TYPE, "unknown": 1,
        "signatures": [
            {"sig": URL_SAFE.encode(theirs)}, {"keyid": null, "sig": URL_SAFE.encode(ours)},
        ],
    });
    let text = text.to_string();
    let admitted = admit(text.as_bytes(), Some(&public), true).unwrap();
    assert_eq!(admitted.text.as_ref(), policy.as_bytes());
}

#[test]
fn l06_unsigned_policies_where_a_key_is_named_or_a_signature_demanded() {
    let policy = recorded("policy.json");
    let (_, public) = signer();
    assert_eq!(state(&policy, None, false), Ok(SignatureState::Unsigned));
    for required in [false, true] {
        let refusal = state(&policy, Some(&public), required).unwrap_err();
        assert_eq!(refusal, PolicyRefusal::Unsigned);
        assert_eq!(refusal.keylime_status(), 400);
    }
    assert_eq!(state(&policy, None, true), Err(PolicyRefusal::KeyMissing));
    for nonsense in ["", "[]", "{", "null", "\"{}\""] {
        let refusal = state(nonsense.as_bytes(), Some(&public), true).unwrap_err();
        assert_eq!(refusal, PolicyRefusal::NotJson, "{nonsense}");
        assert_eq!(refusal.keylime_status(), 400);
    }
    // Two payloads: no reader may choose one.
    let doubled = br#"{"payload":"e30=","payload":"e30=","payloadType":"x","signatures":[]}"#;
    assert!(state(doubled, Some(&public), true).is_err());
    assert!(state(doubled, None, false).is_err());
}

#[test]
fn l06_a_good_signature_makes_no_policy_of_what_is_none() {
    let (key, public) = signer();
    let payload = br#"{"digests": {}}"#;
    let text = signed_over(&key, payload, &pae(PAYLOAD_TYPE, payload));
    let member = "meta";
    let expected = PolicyRefusal::Policy(PolicyError::Missing { member });
    assert_eq!(state(&text, Some(&public), true), Err(expected));
}

#[test]
fn l06_keys_that_are_none_of_ours_are_refused() {
    let text = recorded("ecdsa.signed.json");
    let rsa = PKey::from_rsa(Rsa::generate(2048).unwrap()).unwrap();
    let (private, _) = signer();
    for (pem, error) in [
        (rsa.public_key_to_pem().unwrap(), KeyError::Type),
        (private.private_key_to_pem_pkcs8().unwrap(), KeyError::Pem),
        (b"".to_vec(), KeyError::Pem),
        (vec![b'x'; 1 << 20], KeyError::TooLong(1 << 20)),
    ] {
        let refusal = state(&text, Some(&pem), true).unwrap_err();
        assert_eq!(refusal, PolicyRefusal::Key(error));
        assert_eq!(refusal.keylime_status(), 400);
    }
}
