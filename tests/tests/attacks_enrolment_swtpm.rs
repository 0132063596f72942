//! Enrolment against a real software TPM: swtpm, with certificates of its own CA.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::as_conversions,
    clippy::arithmetic_side_effects
)]
// swtpm's certificates begin at the moment of their making.
#![allow(clippy::disallowed_types)]

use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use rat_engine::evidence::NonceSource;
use rat_engine::tpm::Public;
use rat_identity::ChainFault;
use rat_identity::credential::{Credential, make_credential};
use rat_identity::ek::{EkError, EkTrust, EkVouch};
use rat_tests::swtpm::Tpm;

/// The operating system.
struct Random;

impl NonceSource for Random {
    fn fill(&mut self, bytes: &mut [u8]) -> Option<()> {
        openssl::rand::rand_bytes(bytes).ok()
    }
}

fn now_unix_ms() -> Result<u64> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    Ok(u64::try_from(now.as_millis())?)
}

/// A certificate and a public area that the TPM keeps: the NV index, as it is read, and the key.
fn endorsement(tpm: &Tpm, nv_index: &str, handle: &str) -> Result<(Vec<u8>, Vec<u8>)> {
    tpm.run("tpm2_nvread", &["-Q", "-C", "o", nv_index, "-o", "ek.crt"])?;
    tpm.run("tpm2_readpublic", &["-Q", "-c", handle, "-o", "ek.pub"])?;
    Ok((tpm.read("ek.crt")?, tpm.read("ek.pub")?))
}

/// The file that tpm2_activatecredential takes: magic number, version, both structures.
fn credential_file(credential: &Credential) -> Vec<u8> {
    let header = [0xbadc_c0de_u32.to_be_bytes(), 1_u32.to_be_bytes()].concat();
    [&header[..], &credential.blob, &credential.encrypted_secret].concat()
}

/// What the TPM releases with this endorsement key, whose use its policy allows.
fn activate(tpm: &Tpm, ek: &str, credential: &Credential) -> Result<Vec<u8>> {
    fs::write(tpm.path().join("credential"), credential_file(credential))?;
    tpm.tool("tpm2_flushcontext", &["-t"])?;
    tpm.tool(
        "tpm2_startauthsession",
        &["-Q", "--policy-session", "-S", "session.ctx"],
    )?;
    tpm.tool("tpm2_policysecret", &["-Q", "-S", "session.ctx", "-c", "e"])?;
    let mut arguments = vec!["-Q", "-c", "ak.ctx", "-C", ek, "-i", "credential"];
    arguments.extend(["-o", "released", "-P", "session:session.ctx"]);
    let activated = tpm.tool("tpm2_activatecredential", &arguments);
    tpm.tool("tpm2_flushcontext", &["session.ctx"])?;
    tpm.tool("tpm2_flushcontext", &["-t"])?;
    activated?;
    tpm.read("released")
}

/// The same with an endorsement key of the high range, which its empty password opens.
fn activate_by_password(tpm: &Tpm, ek: &str, credential: &Credential) -> Result<Vec<u8>> {
    fs::write(tpm.path().join("credential"), credential_file(credential))?;
    let mut arguments = vec!["-Q", "-c", "ak.ctx", "-C", ek, "-i", "credential"];
    arguments.extend(["-o", "released"]);
    tpm.run("tpm2_activatecredential", &arguments)?;
    tpm.read("released")
}

fn ak_name(tpm: &Tpm) -> Result<Vec<u8>> {
    let public = tpm.read("ak.pub")?;
    let name = Public::parse(&public)?.name().to_bytes();
    ensure!(
        name == tpm.read("ak.name")?,
        "the TPM names the key otherwise"
    );
    Ok(name)
}

#[test]
fn n09_swtpm_certificates_are_taken_only_from_a_named_ca() -> Result<()> {
    let tpm = Tpm::manufacture()?;
    let other = Tpm::manufacture()?;
    let now = now_unix_ms()?;
    let named = EkTrust::load(&[tpm.ca().join("issuercert.pem"), root_of(&tpm)], &[])?;
    let other_named = EkTrust::load(&[other.ca().join("issuercert.pem"), root_of(&other)], &[])?;
    let nobody = EkTrust::load(&[], &[])?;
    for (nv_index, handle) in [("0x1c00002", "0x81010001"), ("0x1c00016", "0x81010016")] {
        let (certificate, public) = endorsement(&tpm, nv_index, handle)?;
        let verify = |trust: &EkTrust| trust.verify(Some(&certificate), &public, now);
        let root = fs::read(root_of(&tpm))?;
        let root = openssl::x509::X509::from_pem(&root)?.to_der()?;
        let root = openssl::sha::sha256(&root);
        assert_eq!(verify(&named)?.by, EkVouch::Chain { root });
        let unknown = verify(&nobody).unwrap_err();
        assert_eq!(unknown, EkError::Chain(ChainFault::UnknownRoot));
        // The other CA has the same name, and another key.
        let foreign = verify(&other_named).unwrap_err();
        assert_eq!(foreign.code(), "ek.chain_invalid", "{foreign}");
        // Without certificate there is no one to vouch.
        let missing = named.verify(None, &public, now).unwrap_err();
        assert_eq!(missing.code(), "ek.certificate_missing");
    }
    Ok(())
}

fn root_of(tpm: &Tpm) -> std::path::PathBuf {
    tpm.ca().join("swtpm-localca-rootca-cert.pem")
}

#[test]
fn n11_a_tpm_releases_the_secret_for_its_own_keys_only() -> Result<()> {
    let tpm = Tpm::manufacture()?;
    for algorithm in ["rsa", "ecc"] {
        tpm.create_ek(algorithm)?;
        tpm.create_ak(
            algorithm,
            "sha256",
            if algorithm == "rsa" {
                "rsassa"
            } else {
                "ecdsa"
            },
        )?;
        let name = ak_name(&tpm)?;
        let ek = tpm.read("ek.pub")?;
        let mut secret = [0; 32];
        Random.fill(&mut secret).context("no random bytes")?;
        let made = make_credential(&ek, &name, &secret, &mut Random)?;
        assert_eq!(activate(&tpm, "ek.ctx", &made)?, secret, "{algorithm}");

        // For another attestation key, or damaged: nothing is released.
        let mut other_name = name.clone();
        other_name[5] ^= 1;
        let other = make_credential(&ek, &other_name, &secret, &mut Random)?;
        assert!(activate(&tpm, "ek.ctx", &other).is_err());
        let mut damaged = made.clone();
        let last = damaged.blob.len() - 1;
        damaged.blob[last] ^= 1;
        assert!(activate(&tpm, "ek.ctx", &damaged).is_err());
        // For another TPM's endorsement key.
        let stranger = Tpm::start()?;
        stranger.create_ek(algorithm)?;
        let theirs = make_credential(&stranger.read("ek.pub")?, &name, &secret, &mut Random)?;
        assert!(activate(&tpm, "ek.ctx", &theirs).is_err());
    }
    Ok(())
}

#[test]
fn a_high_range_endorsement_key_releases_the_secret_too() -> Result<()> {
    let tpm = Tpm::manufacture()?;
    tpm.create_ek("rsa")?;
    tpm.create_ak("rsa", "sha256", "rsassa")?;
    let name = ak_name(&tpm)?;
    let (_, p384) = endorsement(&tpm, "0x1c00016", "0x81010016")?;
    let secret = [0x5a; 48];
    let made = make_credential(&p384, &name, &secret, &mut Random)?;
    assert_eq!(activate_by_password(&tpm, "0x81010016", &made)?, secret);
    Ok(())
}

#[test]
fn n12_a_list_admits_a_tpm_without_certificate() -> Result<()> {
    let tpm = Tpm::start()?;
    tpm.create_ek("ecc")?;
    let public = tpm.read("ek.pub")?;
    let now = now_unix_ms()?;
    // What an operator does: the key in PEM, and its hash.
    tpm.run(
        "tpm2_readpublic",
        &["-Q", "-c", "ek.ctx", "-f", "pem", "-o", "ek.pem"],
    )?;
    let key = openssl::pkey::PKey::public_key_from_pem(&tpm.read("ek.pem")?)?;
    let sha256 = openssl::sha::sha256(&key.public_key_to_der()?);
    let list = tpm.path().join("list.txt");
    fs::write(
        &list,
        format!("# the build farm\n{}  # one\n", hex::encode(sha256)),
    )?;
    let trust = EkTrust::load(&[], &[list])?;
    let proof = trust.verify(None, &public, now)?;
    assert_eq!((proof.ek_sha256, proof.by), (sha256, EkVouch::List));
    let empty = EkTrust::load(&[], &[])?;
    assert_eq!(
        empty.verify(None, &public, now).unwrap_err(),
        EkError::CertificateMissing
    );
    Ok(())
}
