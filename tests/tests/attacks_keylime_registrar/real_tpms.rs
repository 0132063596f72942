//! The whole way with a real TPM behind it: swtpm, with certificates of its own CA.

use anyhow::Result;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use rat_identity::ek::EkTrust;
use rat_store::KeylimeVouch;
use rat_tests::registrar::{Served, Settings, auth_tag};
use rat_tests::swtpm::Tpm;
use serde_json::{Value, json};

fn register(
    served: &Served,
    tpm: &Tpm,
    id: &str,
    body: &Value,
    opened: (&str, bool),
) -> Result<()> {
    let path = format!("/v2.6/agents/{id}");
    let answer = served.json("POST", &path, body);
    let text = String::from_utf8_lossy(&answer.body).into_owned();
    assert_eq!(answer.status, 200, "{text}");
    let answer = answer.json();
    let blob = BASE64.decode(answer["results"]["blob"].as_str().unwrap())?;
    let (ek, by_policy) = opened;
    let secret = tpm.activate(ek, &blob, by_policy)?;
    // As Keylime makes secrets: text.
    assert!(secret.len() == 32 && secret.iter().all(u8::is_ascii_alphanumeric));
    let tag = json!({"auth_tag": auth_tag(&secret, id)});
    assert_eq!(served.json("PUT", &path, &tag).status, 200);
    assert_eq!(served.ask("GET", &path).status, 200);
    Ok(())
}

#[test]
fn a_real_tpm_registers_with_the_certificates_that_its_maker_put_into_it() -> Result<()> {
    let tpm = Tpm::manufacture()?;
    let root = tpm.ca().join("swtpm-localca-rootca-cert.pem");
    let trust = EkTrust::load(&[tpm.ca().join("issuercert.pem"), root], &[])?;
    let served = Served::start_in(tempfile::tempdir()?, Settings::default(), trust);
    for (id, nv_index, handle, by_policy, [key, scheme]) in [
        ("rsa", "0x1c00002", "0x81010001", true, ["rsa", "rsassa"]),
        ("ecc", "0x1c00016", "0x81010016", false, ["ecc", "ecdsa"]),
    ] {
        let (certificate, ek) = tpm.endorsement(nv_index, handle)?;
        let arguments = [
            "-Q", "-C", handle, "-c", "ak.ctx", "-G", key, "-g", "sha256",
        ];
        let outputs = ["-s", scheme, "-u", "ak.pub", "-n", "ak.name"];
        tpm.run("tpm2_createak", &[&arguments[..], &outputs].concat())?;
        let body = json!({
            "ek_tpm": BASE64.encode(&ek),
            "ekcert": BASE64.encode(&certificate),
            "aik_tpm": BASE64.encode(tpm.read("ak.pub")?),
            "ip": "192.0.2.10",
            "port": 9002,
        });
        register(&served, &tpm, id, &body, (handle, by_policy))?;
        let vouch = served.registration(id).unwrap().details.vouch;
        assert!(matches!(vouch, KeylimeVouch::Chain { .. }));
    }
    Ok(())
}

#[test]
fn n11_a_question_to_one_tpm_is_answered_by_no_other() -> Result<()> {
    let (tpm, other) = (Tpm::start()?, Tpm::start()?);
    let served = Served::start(Settings::open(), &[]);
    for one in [&tpm, &other] {
        one.create_ek("ecc")?;
        one.create_ak("ecc", "sha256", "ecdsa")?;
    }
    let body = json!({
        "ek_tpm": BASE64.encode(tpm.read("ek.pub")?),
        "aik_tpm": BASE64.encode(tpm.read("ak.pub")?),
    });
    let answer = served.json("POST", "/v2.6/agents/a", &body).json();
    let blob = BASE64.decode(answer["results"]["blob"].as_str().unwrap())?;
    assert!(other.activate("ek.ctx", &blob, true).is_err());
    register(&served, &tpm, "a", &body, ("ek.ctx", true))?;
    // The other's attestation key beside this TPM's endorsement key: this TPM does not have it.
    let mixed = json!({
        "ek_tpm": body["ek_tpm"],
        "aik_tpm": BASE64.encode(other.read("ak.pub")?),
    });
    let answer = served.json("POST", "/v2.6/agents/b", &mixed);
    assert_eq!(answer.status, 403, "this TPM is registered");
    Ok(())
}
