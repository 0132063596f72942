//! `rat policies sign` and `verify-signature`, and signed policies where a policy is read.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use openssl::pkey::PKey;
use openssl::sha::sha256;
use openssl::x509::X509;
use rat_engine::policy::dsse::{PAYLOAD_TYPE, SignedPolicy, pae};
use rat_tests::evidence::Machine;
use rat_tests::vectors;
use serde_json::Value;

use crate::run::{Run, Verify, rat};

fn recorded(name: &str) -> PathBuf {
    vectors::path(&format!("keylime-policy/signed/{name}"))
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn verify(signed: &Path, key: &Path, options: &[&str]) -> Run {
    let arguments = [
        "policies",
        "verify-signature",
        text(signed),
        "--key",
        text(key),
    ];
    rat(&[&arguments, options].concat())
}

fn sign(policy: &Path, options: &[&str]) -> Run {
    rat(&[&["policies", "sign", text(policy)], options].concat())
}

#[test]
fn l06_what_keylime_signed_verifies_under_its_key_alone() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("policy.json");
    for (name, key) in [
        ("ecdsa", "ecdsa.pub"),
        ("p384", "p384.pub"),
        ("x509", "x509.pub"),
        ("x509", "x509.crt"),
    ] {
        let signed = recorded(&format!("{name}.signed.json"));
        let run = verify(
            &signed,
            &recorded(key),
            &["--out", text(&out), "--output", "json"],
        );
        assert_eq!(run.code, 0, "{run:?}");
        let policy = std::fs::read(&out).unwrap();
        assert_eq!(policy, std::fs::read(recorded("policy.json")).unwrap());
        assert_eq!(run.json()["policy_sha256"], hex::encode(sha256(&policy)));
        std::fs::remove_file(&out).unwrap();
        let other = if name == "ecdsa" {
            "p384.pub"
        } else {
            "ecdsa.pub"
        };
        let run = verify(&signed, &recorded(other), &["--out", text(&out)]);
        assert_eq!((run.code, run.stdout.as_str()), (1, ""), "{run:?}");
        assert!(!out.exists());
    }
    let run = verify(
        &recorded("policy.json"),
        &recorded("ecdsa.pub"),
        &["--output", "json"],
    );
    assert_eq!((run.code, &run.json()["signed"]), (1, &Value::from(false)));
    verify(&recorded("x509.crt"), &recorded("ecdsa.pub"), &[]).is_unusable(&["x509.crt"]);
    verify(
        &recorded("ecdsa.signed.json"),
        &recorded("policy.json"),
        &[],
    )
    .is_unusable(&["--key"]);
}

/// OpenSSL verifies what was signed, over what DSSE says is signed.
fn verified_elsewhere(signed: &Path, public_pem: &[u8]) -> Value {
    let envelope = std::fs::read(signed).unwrap();
    let signed = SignedPolicy::parse(&envelope).unwrap();
    let key = PKey::public_key_from_pem(public_pem).unwrap();
    let digest = openssl::hash::MessageDigest::sha256();
    let mut verifier = openssl::sign::Verifier::new(digest, &key).unwrap();
    let message = pae(PAYLOAD_TYPE, signed.unverified_payload());
    let sig = &signed.unverified_signatures()[0].sig;
    assert!(verifier.verify_oneshot(sig, &message).unwrap());
    serde_json::from_slice(&envelope).unwrap()
}

#[test]
fn policies_are_signed_with_new_and_with_old_keys() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let (key, public, out) = (path("key.pem"), path("key.pub"), path("signed.json"));
    let policy = recorded("policy.json");
    let run = sign(
        &policy,
        &[
            "--new-key",
            text(&key),
            "--public-out",
            text(&public),
            "--out",
            text(&out),
        ],
    );
    assert_eq!((run.code, run.stdout.as_str()), (0, ""), "{run:?}");
    let mode = std::fs::metadata(&key).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let public_pem = std::fs::read(&public).unwrap();
    let envelope = verified_elsewhere(&out, &public_pem);
    assert_eq!(
        envelope["signatures"][0]["keyid"],
        hex::encode(sha256(&public_pem))
    );
    assert_eq!(verify(&out, &public, &[]).code, 0);
    // A key that is there is never written over.
    let before = std::fs::read(&key).unwrap();
    sign(&policy, &["--new-key", text(&key)]).is_unusable(&["--new-key", "exists"]);
    assert_eq!(std::fs::read(&key).unwrap(), before);
    // A certificate, in the place where Keylime looks for it.
    let certificate = path("certificate.pem");
    let run = sign(
        &policy,
        &[
            "-k",
            text(&key),
            "-b",
            "x509",
            "-c",
            text(&certificate),
            "-o",
            text(&out),
        ],
    );
    assert_eq!(run.code, 0, "{run:?}");
    let pem = std::fs::read(&certificate).unwrap();
    let keyid = verified_elsewhere(&out, &public_pem)["signatures"][0]["keyid"].take();
    assert_eq!(keyid, openssl::base64::encode_block(&pem));
    let certificate_key = X509::from_pem(&pem).unwrap().public_key().unwrap();
    assert_eq!(certificate_key.public_key_to_pem().unwrap(), public_pem);
    assert_eq!(verify(&out, &certificate, &[]).code, 0);
    let given = ["-k", text(&key), "-b", "x509", "--cert", text(&certificate)];
    assert_eq!(
        sign(&policy, &given).json()["signatures"][0]["keyid"],
        keyid
    );
    let other = recorded("x509.crt");
    let given = ["-k", text(&key), "-b", "x509", "--cert", text(&other)];
    sign(&policy, &given).is_unusable(&["--cert", "another key"]);
}

#[test]
fn what_cannot_be_signed_or_signed_with() {
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("key.pem");
    let policy = recorded("policy.json");
    sign(&recorded("x509.crt"), &["--new-key", text(&key)]).is_unusable(&["x509.crt"]);
    // An envelope is no policy: it is not signed twice.
    sign(&recorded("ecdsa.signed.json"), &["--new-key", text(&key)])
        .is_unusable(&["ecdsa.signed.json"]);
    assert!(!key.exists(), "no key is made for nothing");
    sign(&policy, &[]).is_unusable(&["--key"]);
    sign(&policy, &["--new-key", text(&key), "--backend", "x509"]).is_unusable(&["--cert"]);
    sign(&policy, &["--new-key", text(&key), "--cert-out", "x"]).is_unusable(&["--backend x509"]);
    let rsa = PKey::from_rsa(openssl::rsa::Rsa::generate(2048).unwrap()).unwrap();
    for (pem, reason) in [
        (
            rsa.private_key_to_pem_pkcs8().unwrap(),
            "not a key on P-256",
        ),
        (rsa.public_key_to_pem().unwrap(), "not a private key"),
        (b"nonsense".to_vec(), "not a private key"),
    ] {
        std::fs::write(&key, pem).unwrap();
        sign(&policy, &["--key", text(&key)]).is_unusable(&["--key", reason]);
    }
}

#[test]
fn l06_rat_verify_takes_a_signed_policy_under_a_named_key_only() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let (plain, key, public, signed) = (
        path("plain.json"),
        path("key.pem"),
        path("key.pub"),
        path("signed.json"),
    );
    let machine = Machine::valid();
    std::fs::write(&plain, machine.policy()).unwrap();
    let run = sign(
        &plain,
        &[
            "--new-key",
            text(&key),
            "--public-out",
            text(&public),
            "-o",
            text(&signed),
        ],
    );
    assert_eq!(run.code, 0, "{run:?}");
    let verify = || Verify::of(&machine.attest(b"nonce"), b"nonce");
    let run = verify()
        .with_path("--policy", &signed)
        .with_path("--policy-key", &public);
    assert_eq!(run.json().verdict().0, "trusted");
    let run = verify().with_path("--policy", &signed).json();
    assert_eq!(
        (run.code, &run.json()["error"]["option"]),
        (2, &Value::from("--policy"))
    );
    for (policy, key) in [(&signed, recorded("ecdsa.pub")), (&plain, public.clone())] {
        let run = verify()
            .with_path("--policy", policy)
            .with_path("--policy-key", &key);
        let run = run.json();
        assert_eq!(
            (run.code, &run.json()["error"]["option"]),
            (2, &Value::from("--policy"))
        );
    }
}
