//! IAK and IDevID: their certificates, and the proof that the attestation key is beside them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use openssl::x509::X509;
use rat_engine::tpm::Public;
use rat_identity::keylime::{Policy, TpmIdentity};
use rat_store::KeylimeVouch;
use rat_tests::endorsement::{Authority, Profile, sequence, tcg, wrap};
use rat_tests::keylime::tpm2b;
use rat_tests::registrar::{Agent, Served, Settings};
use rat_tests::software_tpm::SoftwareAk;
use serde_json::{Value, json};

use super::assert_invalid;

/// A TPM with initial keys, which a CA has certified.
struct Device {
    agent: Agent,
    iak: SoftwareAk,
    idevid: SoftwareAk,
}

fn spki(key: &SoftwareAk) -> Vec<u8> {
    let key = openssl::pkey::PKey::public_key_from_pem(&key.pem()).unwrap();
    key.public_key_to_der().unwrap()
}

/// What certificates of initial keys say.
fn profile() -> Profile {
    Profile::endorsement(false)
        .without("2.5.29.17")
        .without("2.5.29.37")
        .without("2.5.29.15")
}

fn issue(ca: &Authority, profile: &Profile, key: &SoftwareAk) -> X509 {
    ca.issue(profile, &spki(key))
}

fn text(certificate: &X509) -> Value {
    BASE64.encode(certificate.to_der().unwrap()).into()
}

/// `TPM2_Certify` of a name for an id, signed with a key.
fn certify(key: &SoftwareAk, name: &[u8], extra: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let sized = |bytes: &[u8]| [&(bytes.len() as u16).to_be_bytes()[..], bytes].concat();
    let attest = [
        &[0xff, 0x54, 0x43, 0x47, 0x80, 0x17][..],
        &sized(name),
        &sized(extra),
        &[0; 16],
        &[1],
        &[0; 8],
        &sized(name),
        &sized(name),
    ]
    .concat();
    let signature = key.sign(&attest);
    (attest, signature)
}

fn name(key: &SoftwareAk) -> Vec<u8> {
    Public::parse(&key.public()).unwrap().name().to_bytes()
}

impl Device {
    fn new(id: &str) -> Self {
        Self {
            agent: Agent::new(id),
            iak: SoftwareAk::p256(),
            idevid: SoftwareAk::p256(),
        }
    }

    fn body(&self, ca: &Authority) -> Value {
        let mut body = self.agent.body();
        body["iak_tpm"] = tpm2b(&self.iak.public()).into();
        body["idevid_tpm"] = tpm2b(&self.idevid.public()).into();
        body["iak_cert"] = text(&issue(ca, &profile(), &self.iak));
        body["idevid_cert"] = text(&issue(ca, &profile(), &self.idevid));
        let id = openssl::sha::sha256(self.agent.id.as_bytes());
        self.certify(&mut body, &self.iak, &name(&self.agent.ak), &id);
        body
    }

    fn certify(&self, body: &mut Value, key: &SoftwareAk, name: &[u8], extra: &[u8]) {
        let (attest, signature) = certify(key, name, extra);
        body["iak_attest"] = BASE64.encode(attest).into();
        body["iak_sign"] = BASE64.encode(signature).into();
    }
}

fn ca() -> Authority {
    Authority::root(&Profile::authority("a maker"))
}

fn of(tpm_identity: TpmIdentity) -> Settings {
    Settings {
        policy: Policy {
            tpm_identity,
            ..Policy::default()
        },
        ..Settings::default()
    }
}

#[test]
fn initial_keys_vouch_for_a_tpm_where_the_operator_lets_them() {
    let ca = ca();
    let device = Device::new("a");
    for identity in [TpmIdentity::EkCertOrIakIdevid, TpmIdentity::IakIdevid] {
        let served = Served::start(of(identity), &[&ca]);
        let body = device.body(&ca);
        let answer = served.json("POST", "/v2.6/agents/a", &body);
        assert_eq!(answer.status, 200);
        let tag = device.agent.answer(&answer.json());
        assert_eq!(served.json("PUT", "/v2.6/agents/a", &tag).status, 200);
        let vouch = served.registration("a").unwrap().details.vouch;
        assert_eq!(vouch, KeylimeVouch::Device);
        // Once more without the proof: it was given.
        let mut again = body.clone();
        again["iak_attest"] = Value::Null;
        again["iak_sign"] = Value::Null;
        assert_eq!(served.json("POST", "/v2.6/agents/a", &again).status, 200);
    }
    let ek_only = Served::start(of(TpmIdentity::EkCert), &[&ca]);
    assert_invalid(&ek_only.json("POST", "/v2.6/agents/a", &device.body(&ca)));
    let certified = Agent::certified("b", &ca);
    ek_only.register(&certified);
    let devices_only = Served::start(of(TpmIdentity::IakIdevid), &[&ca]);
    assert_invalid(&devices_only.json("POST", &certified.path(), &certified.body()));
    // The id itself is certified by agents before version 2.6.
    let served = Served::start(of(TpmIdentity::IakIdevid), &[&ca]);
    let mut old = device.body(&ca);
    device.certify(&mut old, &device.iak, &name(&device.agent.ak), b"a");
    assert_eq!(served.json("POST", "/v2.5/agents/a", &old).status, 200);
}

#[test]
fn n03_the_attestation_key_must_be_shown_to_be_beside_the_initial_one() {
    let ca = ca();
    let served = Served::start(Settings::default(), &[&ca]);
    let device = Device::new("a");
    let good = device.body(&ca);
    let id = openssl::sha::sha256(b"a");
    let own = name(&device.agent.ak);
    type Change<'a> = Box<dyn Fn(&mut Value) + 'a>;
    let changes: Vec<Change<'_>> = vec![
        Box::new(|body| body["iak_sign"] = Value::Null),
        Box::new(|body| body["iak_attest"] = Value::Null),
        // Another id, another key, another signer.
        Box::new(|body| device.certify(body, &device.iak, &own, &openssl::sha::sha256(b"b"))),
        Box::new(|body| device.certify(body, &device.iak, &own, b"")),
        Box::new(|body| device.certify(body, &device.iak, &name(&device.iak), &id)),
        Box::new(|body| device.certify(body, &device.idevid, &own, &id)),
        // One byte of the statement, which the signature covers.
        Box::new(|body| {
            let mut attest = certify(&device.iak, &own, &id).0;
            let last = attest.len() - 1;
            attest[last] ^= 1;
            body["iak_attest"] = BASE64.encode(attest).into();
        }),
    ];
    for (number, change) in changes.iter().enumerate() {
        let mut body = good.clone();
        change(&mut body);
        assert_invalid(&served.json("POST", "/v2.6/agents/a", &body));
        assert!(served.registration("a").is_none(), "{number}");
    }
    assert_eq!(served.json("POST", "/v2.6/agents/a", &good).status, 200);
}

#[test]
fn n01_n02_initial_keys_need_their_own_certificates_of_a_named_ca() {
    let (ca, other) = (ca(), ca());
    // Whatever is asked of endorsement keys.
    for settings in [Settings::default(), Settings::open()] {
        let served = Served::start(settings, &[&ca]);
        let device = Device::new("a");
        let good = device.body(&ca);
        let not_a_tpm = sequence(&[&wrap(
            0xa0,
            &[
                wrap(6, &[0x2b, 6, 1, 5, 5, 7, 8, 4]),
                wrap(0xa0, &sequence(&[&tcg(&[1, 9]), &wrap(4, b"1")])),
            ]
            .concat(),
        )]);
        let authority = Profile::authority("iak");
        let wrong = [
            ("iak_cert", text(&issue(&other, &profile(), &device.iak))),
            ("iak_cert", text(&issue(&ca, &profile(), &device.idevid))),
            ("iak_cert", text(&issue(&ca, &authority, &device.iak))),
            (
                "idevid_cert",
                text(&issue(&other, &profile(), &device.idevid)),
            ),
            (
                "idevid_cert",
                text(&issue(
                    &ca,
                    &profile().with("2.5.29.17", false, not_a_tpm),
                    &device.idevid,
                )),
            ),
            ("idevid_cert", Value::Null),
            ("iak_tpm", Value::Null),
            ("iak_tpm", json!(tpm2b(&device.idevid.public()))),
        ];
        for (member, value) in wrong {
            let mut body = good.clone();
            body[member] = value;
            assert_invalid(&served.json("POST", "/v2.6/agents/a", &body));
        }
        let mut unrestricted = Device::new("a");
        unrestricted.iak.attributes &= !0x0001_0000;
        let body = unrestricted.body(&ca);
        assert_invalid(&served.json("POST", "/v2.6/agents/a", &body));
        let mut movable = Device::new("a");
        movable.idevid.attributes &= !2;
        let body = movable.body(&ca);
        assert_invalid(&served.json("POST", "/v2.6/agents/a", &body));
        assert!(served.registration("a").is_none());
    }
}
