//! Structures and signatures of real TPMs: every vector reaches the verdict that its origin, or an
//! independent check, gives. Origins and licences: `tests/vectors/README.md`.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a panic is how a test fails"
)]

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rat_engine::crypto::{FileKey, VerifyingKey, reference};
use rat_engine::hash::HashAlg;
use rat_engine::pcr::PcrValues;
use rat_engine::tpm::attributes::{check_attestation_key, check_endorsement_key};
use rat_engine::tpm::pcr_values::{parse_pcr_blob, parse_pcr_json};
use rat_engine::tpm::{Attest, AttestError, Attested, Public, Signature, pcr_digest};
use serde_json::Value;

fn vectors() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors")
}

/// A quote, or another attestation, as the vectors hold it.
struct Vector {
    json: Value,
    message: Vec<u8>,
    signature: Vec<u8>,
}

impl Vector {
    fn read(path: &Path) -> Result<Self> {
        let json: Value = serde_json::from_slice(&fs::read(path)?)?;
        let bytes = |name: &str| Ok::<_, anyhow::Error>(hex::decode(text(&json, name)?)?);
        Ok(Self {
            message: bytes("message_hex")?,
            signature: bytes("signature_tpmt_hex")?,
            json,
        })
    }

    fn text(&self, name: &str) -> Option<&str> {
        self.json.get(name).and_then(Value::as_str)
    }

    fn key(&self) -> Result<VerifyingKey> {
        let pem = self.text("ak_public_pem").context("no key")?;
        Ok(VerifyingKey::from_pem(pem.as_bytes())?)
    }

    /// The signature's verdict, on which both backends agree.
    fn signature_holds(&self, allow_sha1: bool) -> Result<bool> {
        let (key, signature) = (self.key()?, Signature::parse(&self.signature)?);
        let product = key.verify(&signature, &self.message, allow_sha1);
        let reference = reference::verify(&key, &signature, &self.message, allow_sha1);
        ensure!(product == reference, "{product:?} against {reference:?}");
        Ok(product.is_ok())
    }

    fn pcrs(&self) -> Result<PcrValues> {
        let pcrs = self.json.get("pcrs").context("no PCRs")?;
        Ok(parse_pcr_json(&serde_json::to_vec(pcrs)?)?)
    }

    /// Whether the values hash to the quoted digest.
    fn pcrs_hold(&self) -> Result<bool> {
        let Attested::Quote {
            selection,
            pcr_digest: quoted,
        } = Attest::parse(&self.message)?.attested
        else {
            anyhow::bail!("not a quote")
        };
        let hash = Signature::parse(&self.signature)?.hash();
        let computed = pcr_digest(hash, &selection, &self.pcrs()?)?;
        Ok(computed.as_bytes() == quoted)
    }

    fn nonce_holds(&self) -> Result<bool> {
        let nonce = hex::decode(self.text("nonce_hex").context("no nonce")?)?;
        Ok(Attest::parse(&self.message)?.extra_data == nonce)
    }

    fn public(&self) -> Result<Vec<u8>> {
        Ok(hex::decode(
            self.text("ak_tpm2b_or_tpmt_hex").context("no area")?,
        )?)
    }
}

fn text<'a>(json: &'a Value, name: &str) -> Result<&'a str> {
    json.get(name)
        .and_then(Value::as_str)
        .with_context(|| format!("no {name}"))
}

fn quotes() -> Result<Vec<(String, Vector)>> {
    let mut quotes = Vec::new();
    for entry in fs::read_dir(vectors().join("quotes"))? {
        let path = entry?.path();
        let name = path.file_stem().context("name")?.display().to_string();
        quotes.push((name, Vector::read(&path)?));
    }
    assert_eq!(quotes.len(), 14);
    Ok(quotes)
}

#[test]
fn every_recorded_attestation_reaches_its_verdict() -> Result<()> {
    for (name, vector) in quotes()? {
        let attest = Attest::parse(&vector.message).with_context(|| name.clone())?;
        let check = vector.json.get("independent_check").context("no check")?;
        let kind = match attest.attested {
            Attested::Quote { .. } => "0x8018",
            Attested::Certify { .. } => "0x8017",
            Attested::Creation { .. } => "0x801a",
        };
        assert_eq!(text(check, "type")?, kind, "{name}");
        let signature = Signature::parse(&vector.signature)?;
        let scheme = format!("{}/{}", signature.scheme(), signature.hash());
        assert_eq!(text(check, "sigalg")?, scheme, "{name}");
        let checked = |field: &str| check.get(field).and_then(Value::as_bool);
        if let Some(expected) = checked("sig_ok") {
            assert_eq!(vector.signature_holds(true)?, expected, "{name}");
            let strict = expected && signature.hash() != HashAlg::Sha1;
            assert_eq!(vector.signature_holds(false)?, strict, "{name}: SHA-1");
        }
        if let Some(expected) = checked("pcr_ok") {
            assert_eq!(vector.pcrs_hold()?, expected, "{name}");
        }
        if let Some(expected) = checked("nonce_ok") {
            assert_eq!(vector.nonce_holds()?, expected, "{name}");
        }
    }
    Ok(())
}

#[test]
fn recorded_pcr_blobs_equal_their_json() -> Result<()> {
    let mut blobs = 0;
    for (name, vector) in quotes()? {
        let Some(blob) = vector.text("pcr_blob_b64") else {
            continue;
        };
        let blob = STANDARD.decode(blob)?;
        let (selection, values) = parse_pcr_blob(&blob).with_context(|| name.clone())?;
        assert_eq!(values, vector.pcrs()?, "{name}");
        let attested = Attest::parse(&vector.message)?.attested;
        let Attested::Quote {
            selection: quoted, ..
        } = attested
        else {
            panic!("{name}: not a quote")
        };
        assert!(selection.same_pcrs(&quoted), "{name}");
        blobs += 1;
    }
    assert!(blobs >= 6, "{blobs}");
    Ok(())
}

#[test]
fn n03_recorded_public_areas_are_the_keys_and_made_for_attesting() -> Result<()> {
    let mut areas = 0;
    for (name, vector) in quotes()? {
        let Ok(area) = vector.public() else { continue };
        let public = Public::parse(&area).with_context(|| name.clone())?;
        let key = VerifyingKey::from_tpm(&public).with_context(|| name.clone())?;
        assert_eq!(key, vector.key()?, "{name}");
        assert_eq!(check_attestation_key(&public, true), Ok(()), "{name}");
        assert!(check_endorsement_key(&public).is_err(), "{name}");
        areas += 1;
    }
    assert!(areas >= 9, "{areas}");
    Ok(())
}

#[test]
fn n03_a_name_is_what_its_tpm_computed() -> Result<()> {
    let file = |name: &str| fs::read(vectors().join("makecredential").join(name));
    let area = file("keylime_testdata_ak.pub")?;
    let public = Public::parse(&area)?;
    assert_eq!(public.name().to_bytes(), file("keylime_testdata_ak.name")?);
    let pem = VerifyingKey::from_pem(&file("keylime_testdata_akpub.pem")?)?;
    assert_eq!(VerifyingKey::from_tpm(&public)?, pem);
    assert_eq!(check_attestation_key(&public, false), Ok(()));
    let endorsement = file("keylime_testdata_ek.pub")?;
    assert_eq!(check_endorsement_key(&Public::parse(&endorsement)?), Ok(()));
    Ok(())
}

#[test]
fn every_tampered_variant_of_a_quote_fails_where_expected() -> Result<()> {
    let mut variants = 0;
    for set in fs::read_dir(vectors().join("sets"))? {
        let set = set?.path();
        let original = Vector::read(&set.join("quote.json"))?;
        assert!(original.signature_holds(true)? && original.pcrs_hold()?);
        let tampered = set.join("tampered");
        let expected: Value = serde_json::from_slice(&fs::read(tampered.join("EXPECTED.json"))?)?;
        for (variant, expected) in expected.as_object().context("an object")? {
            let path = tampered.join(format!("{variant}.quote.json"));
            if !path.exists() {
                // Variants of a log leave the quote as it is.
                continue;
            }
            let vector = Vector::read(&path)?;
            let place = path.display();
            let checker = expected.get("checker").context("no checker")?;
            let failed = |stage: &str| checker.get(stage).and_then(Value::as_str) == Some("False");
            assert_eq!(vector.signature_holds(true)?, !failed("sig"), "{place}");
            if checker.get("err").is_some() {
                let error = Attest::parse(&vector.message).unwrap_err();
                assert_eq!(error, AttestError::NotGenerated, "{place}");
            } else {
                assert_eq!(vector.pcrs_hold()?, !failed("pcr"), "{place}");
                assert_eq!(vector.nonce_holds()?, !failed("nonce"), "{place}");
            }
            variants += 1;
        }
    }
    assert_eq!(variants, 27);
    Ok(())
}

#[test]
fn q07_any_changed_byte_of_a_recorded_quote_is_refused() -> Result<()> {
    let path = vectors().join("sets/hpe-rsa-sha256-ima780-uefi/quote.json");
    let vector = Vector::read(&path)?;
    let key = vector.key()?;
    let holds = |message: &[u8], signature: &[u8]| {
        Attest::parse(message).is_ok()
            && Signature::parse(signature)
                .is_ok_and(|signature| key.verify(&signature, message, true).is_ok())
    };
    assert!(holds(&vector.message, &vector.signature));
    for index in 0..vector.message.len() {
        let mut message = vector.message.clone();
        message[index] ^= 0x01;
        assert!(!holds(&message, &vector.signature), "message byte {index}");
    }
    for index in 0..vector.signature.len() {
        let mut signature = vector.signature.clone();
        signature[index] ^= 0x80;
        assert!(
            !holds(&vector.message, &signature),
            "signature byte {index}"
        );
    }
    Ok(())
}

#[test]
fn i15_recorded_file_signatures_verify_with_the_key_of_their_keyid() -> Result<()> {
    let ima = vectors().join("ima");
    let policy = fs::read(ima.join("keylime_runtime_policy_with_verification_keys.json"))?;
    let policy: Value = serde_json::from_slice(&policy)?;
    let keyring: Value = serde_json::from_str(text(&policy, "verification-keys")?)?;
    let list = |name: &str| keyring.get(name).and_then(Value::as_array).cloned();
    let mut keys = Vec::new();
    let (encoded, ids) = (list("pubkeys"), list("keyids"));
    for (key, id) in encoded.context("keys")?.iter().zip(ids.context("ids")?) {
        let key = FileKey::from_der(&STANDARD.decode(key.as_str().context("text")?)?)?;
        assert_eq!(Some(u64::from(key.key_id())), id.as_u64());
        keys.push(key);
    }
    assert_eq!(keys.len(), 2);
    let log = fs::read_to_string(ima.join("keylime_test_signatures.txt"))?;
    for line in log.lines() {
        let fields: Vec<_> = line.split(' ').collect();
        let (alg, digest) = fields[3].split_once(':').context("digest")?;
        let digest = hex::decode(digest)?;
        let blob = hex::decode(fields[5])?;
        // Type, version and hash, the keyid, the length, the signature.
        let (header, signature) = blob.split_at(9);
        let id = u32::from_be_bytes(header[3..7].try_into()?);
        for key in &keys {
            let result = key.verify_prehash(alg, &digest, signature);
            assert_eq!(result.is_ok(), key.key_id() == id, "{line}");
        }
    }
    assert_eq!(log.lines().count(), 2);
    Ok(())
}
