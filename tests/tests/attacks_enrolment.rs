//! N02-N06, N11-N13: claims of a machine that do not fit together, and answers that prove nothing.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::as_conversions,
    clippy::arithmetic_side_effects
)]

use std::sync::LazyLock;

use openssl::bn::BigNum;
use openssl::ec::{EcGroup, EcKey};
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::x509::X509Req;
use rat_engine::agent_id::AgentId;
use rat_engine::evidence::{Enrolling, NonceSource, activation_proof};
use rat_engine::hash::HashAlg;
use rat_engine::tpm::Public;
use rat_identity::approval::{Approval, Decision, decide};
use rat_identity::credential::CredentialError;
use rat_identity::ek::{EkTrust, EkVouch, TrustError};
use rat_identity::enrolment::{self, Applicant, Challenged, Pending, Request};
use rat_tests::endorsement::{Authority, NOW, Profile, SoftwareEk, Template, pem};
use rat_tests::software_tpm::{AK_ATTRIBUTES, Scheme, SoftwareAk};

/// Counts up: each draw differs, each run is the same.
struct Counter(u8);

impl NonceSource for Counter {
    fn fill(&mut self, bytes: &mut [u8]) -> Option<()> {
        for byte in bytes {
            self.0 = self.0.wrapping_mul(5).wrapping_add(77);
            *byte = self.0;
        }
        Some(())
    }
}

struct Dry;

impl NonceSource for Dry {
    fn fill(&mut self, _: &mut [u8]) -> Option<()> {
        None
    }
}

/// A machine with everything that enrolling needs.
struct Machine {
    ek: SoftwareEk,
    ek_certificate: Vec<u8>,
    ak: SoftwareAk,
    csr: Vec<u8>,
}

struct World {
    trust: EkTrust,
    rsa: Machine,
    ecc: Machine,
}

static WORLD: LazyLock<World> = LazyLock::new(|| {
    let root = Authority::root(&Profile::authority("root"));
    let machine = |template| {
        let ek = SoftwareEk::new(template);
        let profile = Profile::endorsement(template == Template::Rsa2048);
        Machine {
            ek_certificate: root.issue(&profile, &ek.spki()).to_der().unwrap(),
            ek,
            ak: SoftwareAk::p256(),
            csr: request(&client_key(), &client_key()),
        }
    };
    let folder = tempfile::tempdir().unwrap();
    let cas = folder.path().join("root.pem");
    std::fs::write(&cas, pem(&[&root.certificate])).unwrap();
    World {
        trust: EkTrust::load(&[cas], &[]).unwrap(),
        rsa: machine(Template::Rsa2048),
        ecc: machine(Template::P256),
    }
});

fn client_key() -> PKey<Private> {
    static KEY: LazyLock<PKey<Private>> = LazyLock::new(|| {
        let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
        PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap()
    });
    KEY.clone()
}

fn request(key: &PKey<Private>, signer: &PKey<Private>) -> Vec<u8> {
    let mut builder = X509Req::builder().unwrap();
    builder.set_pubkey(key).unwrap();
    builder.sign(signer, MessageDigest::sha256()).unwrap();
    builder.build().to_der().unwrap()
}

fn id(text: &str) -> AgentId {
    AgentId::parse(text).unwrap()
}

/// The claims of a machine, one of which may be replaced.
struct Claims {
    ek_certificate: Option<Vec<u8>>,
    ek_public: Vec<u8>,
    ak_public: Vec<u8>,
    csr: Vec<u8>,
}

impl Claims {
    fn of(machine: &Machine) -> Self {
        Self {
            ek_certificate: Some(machine.ek_certificate.clone()),
            ek_public: machine.ek.public(),
            ak_public: machine.ak.public(),
            csr: machine.csr.clone(),
        }
    }

    fn check(&self, agent: &str) -> Result<Applicant, enrolment::EnrolmentError> {
        let request = Request {
            agent: id(agent),
            ek_certificate: self.ek_certificate.as_deref(),
            ek_public: &self.ek_public,
            ak_public: &self.ak_public,
            csr: &self.csr,
            approved_ek_sha256: None,
            allow_sha1: false,
        };
        enrolment::check(&WORLD.trust, &request, NOW)
    }

    #[track_caller]
    fn refused_with(&self, code: &str) {
        let error = self.check("agent-1").unwrap_err();
        assert_eq!(error.code(), code, "{error}");
    }
}

fn applicant(machine: &Machine, agent: &str) -> Applicant {
    Claims::of(machine).check(agent).unwrap()
}

const TOKEN: [u8; 32] = [3; 32];

fn ask(applicant: &Applicant, group: &str, seed: u8) -> Challenged {
    enrolment::challenge(applicant, &TOKEN, group, &mut Counter(seed)).unwrap()
}

/// What an honest machine answers; `None` when its TPM releases nothing.
fn answer(machine: &Machine, asked: &Challenged, agent: &str, group: &str) -> Option<[u8; 32]> {
    let public = machine.ak.public();
    let name = Public::parse(&public).unwrap().name().to_bytes();
    let credential = &asked.credential;
    let secret = machine
        .ek
        .activate(&name, &credential.blob, &credential.encrypted_secret)?;
    let enrolling = Enrolling {
        agent: &id(agent),
        activation_id: &asked.pending.activation_id,
        ek_sha256: &machine.ek.sha256(),
        ak_name: &name,
        token_sha256: &TOKEN,
        group,
        client_key_sha256: &openssl::sha::sha256(&client_key().public_key_to_der().unwrap()),
    };
    Some(activation_proof(&secret, &enrolling))
}

#[test]
fn an_honest_machine_enrols() {
    for machine in [&WORLD.rsa, &WORLD.ecc] {
        let applicant = applicant(machine, "agent-1");
        assert_eq!(applicant.ek_sha256, machine.ek.sha256());
        assert!(matches!(applicant.vouch, EkVouch::Chain { .. }));
        assert_eq!(applicant.ak_public, machine.ak.public());
        let asked = ask(&applicant, "default", 1);
        let proof = answer(machine, &asked, "agent-1", "default").unwrap();
        assert!(enrolment::verify(&asked.pending, &proof));
        // The store's copy serves as well.
        let stored = serde_json::to_vec(&asked.pending).unwrap();
        let stored: Pending = serde_json::from_slice(&stored).unwrap();
        assert_eq!(stored, asked.pending);
        assert!(enrolment::verify(&stored, &proof));
    }
}

#[test]
fn every_default_template_can_be_activated() {
    for template in Template::ALL {
        let ek = SoftwareEk::new(template);
        let name = [&[0, 0x0b][..], &[9; 32]].concat();
        for secret in [&[1][..], &[7; 32]] {
            let made = rat_identity::credential::make_credential(
                &ek.public(),
                &name,
                secret,
                &mut Counter(2),
            )
            .unwrap();
            let released = ek.activate(&name, &made.blob, &made.encrypted_secret);
            assert_eq!(released.as_deref(), Some(secret), "{template:?}");
            let other = [&[0, 0x0b][..], &[8; 32]].concat();
            assert_eq!(
                ek.activate(&other, &made.blob, &made.encrypted_secret),
                None
            );
        }
    }
}

#[test]
fn n02_a_certificate_of_another_key() {
    let mut claims = Claims::of(&WORLD.rsa);
    claims.ek_certificate = Some(WORLD.ecc.ek_certificate.clone());
    claims.refused_with("ek.key_mismatch");
    claims.ek_certificate = None;
    claims.refused_with("ek.certificate_missing");
    claims.ek_certificate = Some(Vec::new());
    claims.refused_with("ek.chain_invalid");
}

#[test]
fn n02_n13_endorsement_keys_of_no_default_template() {
    let good = Claims::of(&WORLD.rsa);
    // Of the bare area: attributes at 4, policy at 10, AES bits at 44, scheme at 48, exponent at 52.
    for (at, mask) in [
        (5, 0x01),  // restricted
        (5, 0x02),  // decrypt
        (5, 0x04),  // sign
        (7, 0x02),  // fixedTPM
        (7, 0x10),  // fixedParent
        (7, 0x20),  // sensitiveDataOrigin
        (7, 0x80),  // adminWithPolicy
        (7, 0x40),  // userWithAuth: the high range has no RSA-2048 with this policy
        (10, 0x01), // policy
        (41, 0x80), // policy
        (44, 0x01), // AES-384
    ] {
        let mut claims = Claims::of(&WORLD.rsa);
        claims.ek_public[at] ^= mask;
        let error = claims.check("agent-1").unwrap_err();
        assert_eq!(error.code(), "ek.attributes", "{at}: {error}");
    }
    let mut claims = Claims::of(&WORLD.rsa);
    claims.ek_public.pop();
    claims.refused_with("ek.malformed");
    claims.ek_public.clear();
    claims.refused_with("ek.malformed");
    let mut claims = Claims::of(&WORLD.ecc);
    let last = claims.ek_public.len() - 1;
    claims.ek_public[last] ^= 1;
    // Not on the curve.
    claims.refused_with("ek.malformed");
    assert!(good.check("agent-1").is_ok());
}

#[test]
fn n03_attestation_keys_that_do_more_or_less_than_attest() {
    let refused = |change: &dyn Fn(&mut SoftwareAk)| {
        let mut ak = WORLD.rsa.ak.clone();
        change(&mut ak);
        let mut claims = Claims::of(&WORLD.rsa);
        claims.ak_public = ak.public();
        claims.refused_with("ak.attributes");
    };
    // Each attribute that it must have, taken away.
    for bit in [1, 4, 5, 6, 16, 18] {
        refused(&|ak| ak.attributes = AK_ATTRIBUTES & !(1 << bit));
    }
    // sign and decrypt; stClear; duplication; X.509.
    for bit in [17, 2, 11, 19] {
        refused(&|ak| ak.attributes = AK_ATTRIBUTES | 1 << bit);
    }
    for allowed in [7, 10] {
        let mut ak = WORLD.rsa.ak.clone();
        ak.attributes = AK_ATTRIBUTES | 1 << allowed;
        let mut claims = Claims::of(&WORLD.rsa);
        claims.ak_public = ak.public();
        assert!(claims.check("agent-1").is_ok());
    }
    // SHA-1, as the scheme's hash and as that of the name.
    let mut claims = Claims::of(&WORLD.rsa);
    claims.ak_public = SoftwareAk::new(Scheme::Ecdsa(256), HashAlg::Sha1).public();
    claims.refused_with("ak.attributes");
    let mut claims = Claims::of(&WORLD.rsa);
    claims.ak_public[3] = 4;
    claims.refused_with("ak.attributes");
    claims.ak_public[3] = 0x12;
    claims.refused_with("ak.malformed");
    // An endorsement key in its place, and the other way round.
    let mut claims = Claims::of(&WORLD.rsa);
    claims.ak_public = WORLD.rsa.ek.public();
    claims.refused_with("ak.attributes");
    let mut claims = Claims::of(&WORLD.rsa);
    claims.ek_public = WORLD.rsa.ak.public();
    claims.refused_with("ek.attributes");
    let mut claims = Claims::of(&WORLD.rsa);
    let last = claims.ak_public.len() - 1;
    claims.ak_public[last] ^= 1;
    claims.refused_with("ak.malformed");
}

/// A modulus of 2,048 bits that is 1, a power of 65,537, modulo each prime of the fingerprint.
fn roca_modulus() -> Vec<u8> {
    let is_prime = |n: &u32| (2..*n).all(|divisor| !n.is_multiple_of(divisor));
    let mut product = BigNum::from_u32(2).unwrap();
    for prime in (3..=167).filter(is_prime) {
        product.mul_word(prime).unwrap();
    }
    let mut modulus = BigNum::new().unwrap();
    modulus.lshift(&product, 2048 - product.num_bits()).unwrap();
    modulus.add_word(1).unwrap();
    modulus.to_vec()
}

#[test]
fn n13_keys_of_the_weak_generator() {
    let weak = roca_modulus();
    let with_weak = |mut area: Vec<u8>| {
        let start = area.len() - weak.len();
        area[start..].copy_from_slice(&weak);
        area
    };
    let mut claims = Claims::of(&WORLD.rsa);
    claims.ek_public = with_weak(claims.ek_public);
    claims.refused_with("ek.roca");
    let mut claims = Claims::of(&WORLD.rsa);
    claims.ak_public = with_weak(SoftwareAk::new(Scheme::RsaSsa(2048), HashAlg::Sha256).public());
    claims.refused_with("ak.roca");
}

#[test]
fn n03_the_name_is_computed_here() {
    let applicant = applicant(&WORLD.rsa, "agent-1");
    let digest = openssl::sha::sha256(&WORLD.rsa.ak.public());
    assert_eq!(applicant.ak_name, [&[0, 0x0b][..], &digest].concat());
    // The sized form of the same area is the same key.
    let mut claims = Claims::of(&WORLD.rsa);
    let area = claims.ak_public.clone();
    claims.ak_public = [&(area.len() as u16).to_be_bytes()[..], &area].concat();
    assert_eq!(claims.check("agent-1").unwrap(), applicant);
}

#[test]
fn n04_the_key_that_is_kept_is_the_one_that_was_asked() {
    let other = SoftwareAk::p256();
    let asked = ask(&applicant(&WORLD.rsa, "agent-1"), "default", 1);
    assert_eq!(asked.pending.ak_public, WORLD.rsa.ak.public());
    // A TPM in which another key is loaded releases nothing.
    let swapped = Machine {
        ek: WORLD.rsa.ek.clone(),
        ek_certificate: Vec::new(),
        ak: other,
        csr: Vec::new(),
    };
    assert_eq!(answer(&swapped, &asked, "agent-1", "default"), None);
}

#[test]
fn n05_no_answer_serves_twice_and_guesses_do_not() {
    let applicant = applicant(&WORLD.rsa, "agent-1");
    let first = ask(&applicant, "default", 1);
    let second = ask(&applicant, "default", 2);
    assert_ne!(first.pending.activation_id, second.pending.activation_id);
    assert_ne!(first.credential, second.credential);
    let proof = answer(&WORLD.rsa, &first, "agent-1", "default").unwrap();
    assert!(enrolment::verify(&first.pending, &proof));
    assert!(!enrolment::verify(&second.pending, &proof));
    for bit in 0..256 {
        let mut guess = proof;
        guess[bit / 8] ^= 1 << (bit % 8);
        assert!(!enrolment::verify(&first.pending, &guess));
    }
    for length in [0, 1, 31] {
        assert!(!enrolment::verify(&first.pending, &proof[..length]));
    }
    assert!(!enrolment::verify(
        &first.pending,
        &[&proof[..], &[0]].concat()
    ));
    // What is stored is no answer, and holds none.
    let stored = serde_json::to_value(&first.pending).unwrap();
    let stored_proof: Vec<u8> = serde_json::from_value(stored["proof_sha256"].clone()).unwrap();
    assert_ne!(stored_proof, proof);
    assert!(!enrolment::verify(&first.pending, &stored_proof));
    let nothing = enrolment::challenge(&applicant, &TOKEN, "default", &mut Dry);
    assert_eq!(nothing.unwrap_err(), CredentialError::Random);
}

#[test]
fn n06_an_id_has_one_form_in_the_proof_too() {
    let upper = "D432FBB3-D2F1-4A97-9EF7-75BD81C00000";
    let asked = ask(&applicant(&WORLD.rsa, upper), "default", 1);
    assert_eq!(asked.pending.agent.as_str(), upper.to_ascii_lowercase());
    let proof = answer(&WORLD.rsa, &asked, &upper.to_ascii_lowercase(), "default").unwrap();
    assert!(enrolment::verify(&asked.pending, &proof));
}

#[test]
fn n11_an_answer_binds_everything() {
    let machine = &WORLD.rsa;
    let asked = ask(&applicant(machine, "agent-1"), "default", 1);
    let right = answer(machine, &asked, "agent-1", "default").unwrap();
    assert!(enrolment::verify(&asked.pending, &right));
    // Another id, another group.
    for (agent, group) in [("agent-2", "default"), ("agent-1", "other")] {
        let wrong = answer(machine, &asked, agent, group).unwrap();
        assert!(!enrolment::verify(&asked.pending, &wrong));
    }
    // Each other field, with the right secret.
    let public = machine.ak.public();
    let name = Public::parse(&public).unwrap().name().to_bytes();
    let credential = &asked.credential;
    let secret = machine
        .ek
        .activate(&name, &credential.blob, &credential.encrypted_secret)
        .unwrap();
    let (agent, key) = (id("agent-1"), asked.pending.client_key_sha256);
    let ek = machine.ek.sha256();
    let good = Enrolling {
        agent: &agent,
        activation_id: &asked.pending.activation_id,
        ek_sha256: &ek,
        ak_name: &name,
        token_sha256: &TOKEN,
        group: "default",
        client_key_sha256: &key,
    };
    assert!(enrolment::verify(
        &asked.pending,
        &activation_proof(&secret, &good)
    ));
    for wrong in [
        Enrolling {
            activation_id: "0",
            ..good
        },
        Enrolling {
            ek_sha256: &[0; 32],
            ..good
        },
        Enrolling {
            ak_name: &[0, 0x0b],
            ..good
        },
        Enrolling {
            token_sha256: &[0; 32],
            ..good
        },
        Enrolling {
            client_key_sha256: &[0; 32],
            ..good
        },
    ] {
        let proof = activation_proof(&secret, &wrong);
        assert!(!enrolment::verify(&asked.pending, &proof));
    }
    let stranger = answer(&WORLD.ecc, &asked, "agent-1", "default");
    assert_eq!(stranger, None);
}

#[test]
fn n11_enrolments_side_by_side_do_not_meet() {
    let (one, other) = (&WORLD.rsa, &WORLD.ecc);
    let first = ask(&applicant(one, "agent-1"), "default", 1);
    let second = ask(&applicant(other, "agent-1"), "default", 2);
    let right_first = answer(one, &first, "agent-1", "default").unwrap();
    let right_second = answer(other, &second, "agent-1", "default").unwrap();
    assert!(enrolment::verify(&first.pending, &right_first));
    assert!(enrolment::verify(&second.pending, &right_second));
    assert!(!enrolment::verify(&first.pending, &right_second));
    assert!(!enrolment::verify(&second.pending, &right_first));
}

#[test]
fn n11_a_request_for_a_key_that_its_sender_does_not_hold() {
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
    let other = PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap();
    let mut claims = Claims::of(&WORLD.rsa);
    claims.csr = request(&client_key(), &other);
    claims.refused_with("csr.signature");
    claims.csr.truncate(40);
    claims.refused_with("csr.malformed");
    claims.csr = vec![0; 1 << 20];
    claims.refused_with("csr.malformed");
}

#[test]
fn n12_lists_say_where_they_are_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("list.txt");
    let hash = hex::encode(WORLD.rsa.ek.sha256());
    let load = |text: &str| {
        std::fs::write(&file, text).unwrap();
        EkTrust::load(&[], std::slice::from_ref(&file))
    };
    for good in [
        hash.clone(),
        format!("# comment\r\n\n  {}\t# \u{e4}\r\n", hash.to_uppercase()),
        format!("{hash}\n{hash}\n"),
    ] {
        let trust = load(&good).unwrap();
        assert_eq!(trust.counts(), (0, 1));
        let proof = trust.verify(None, &WORLD.rsa.ek.public(), NOW).unwrap();
        assert_eq!(proof.by, EkVouch::List);
        assert!(trust.verify(None, &WORLD.ecc.ek.public(), NOW).is_err());
    }
    for (bad, at) in [
        (format!("{hash}\n{}\n", &hash[1..]), 2),
        (format!("sha256:{hash}\n"), 1),
        (format!("\n\n{hash} {hash}\n"), 3),
        (format!("{}g\n", &hash[1..]), 1),
    ] {
        match load(&bad) {
            Err(TrustError::Line { line, path }) => assert_eq!((line, &path), (at, &file)),
            other => panic!("{bad}: {other:?}"),
        }
    }
    assert!(matches!(load("# nothing\n"), Err(TrustError::Empty(_))));
    let missing = EkTrust::load(&[], &[folder.path().join("none")]);
    assert!(matches!(missing, Err(TrustError::Io { .. })));
}

/// A listed key needs no chain; a certificate that comes with it must still be its own.
#[test]
fn n12_a_list_vouches_for_the_key_and_for_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("list.txt");
    std::fs::write(&file, hex::encode(WORLD.rsa.ek.sha256())).unwrap();
    let trust = EkTrust::load(&[], &[file]).unwrap();
    let public = WORLD.rsa.ek.public();
    let verify = |certificate: &[u8]| trust.verify(Some(certificate), &public, NOW);
    let own = verify(&WORLD.rsa.ek_certificate).unwrap();
    assert_eq!(own.by, EkVouch::List);
    assert_eq!(decide(Approval::List, own.by), Decision::Admit);
    let other = verify(&WORLD.ecc.ek_certificate).unwrap_err();
    assert_eq!(other.code(), "ek.key_mismatch");
    assert_eq!(verify(b"x").unwrap_err().code(), "ek.chain_invalid");
}

#[test]
fn folders_of_cas_say_where_they_are_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let root = Authority::root(&Profile::authority("root")).certificate;
    let load = || EkTrust::load(&[folder.path().to_owned()], &[]);
    assert!(matches!(load(), Err(TrustError::Empty(_))));
    std::fs::write(folder.path().join("README"), "no certificate").unwrap();
    assert!(matches!(load(), Err(TrustError::Empty(_))));
    std::fs::write(folder.path().join("a.CRT"), root.to_der().unwrap()).unwrap();
    std::fs::write(folder.path().join("b.pem"), pem(&[&root])).unwrap();
    assert_eq!(load().unwrap().counts(), (2, 0));
    let broken = folder.path().join("c.pem");
    std::fs::write(
        &broken,
        [pem(&[&root]), b"-----BEGIN CERTIFICATE-----\n".to_vec()].concat(),
    )
    .unwrap();
    match load() {
        Err(TrustError::Pem { path, fault }) => {
            assert_eq!((path, fault.block), (broken.clone(), 2))
        }
        other => panic!("{other:?}"),
    }
    std::fs::write(&broken, b"0\x03\x02\x01\x01").unwrap();
    assert!(matches!(
        load(),
        Err(TrustError::Certificate { number: 1, .. })
    ));
    std::fs::write(&broken, b"").unwrap();
    assert!(load().is_err());
    let nowhere = EkTrust::load(&[folder.path().join("none")], &[]);
    assert!(matches!(nowhere, Err(TrustError::Io { .. })));
}
