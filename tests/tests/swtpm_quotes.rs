//! Quotes, keys and PCR files made by tpm2-tools on swtpm, in every algorithm that it has.
//!
//! Needs `swtpm` and `tpm2-tools`; without them the tests fail and say so.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a panic is how a test fails"
)]

use anyhow::{Context, Result, bail};
use rat_engine::crypto::{VerifyingKey, reference};
use rat_engine::hash::HashAlg;
use rat_engine::tpm::attributes::{check_attestation_key, check_endorsement_key};
use rat_engine::tpm::pcr_values::parse_pcr_blob;
use rat_engine::tpm::{Attest, Attested, Public, Signature, pcr_digest};
use rat_tests::swtpm::Tpm;

/// Type, hash by name, scheme and hash of an attestation key.
const KEYS: [(&str, &str, &str, HashAlg); 7] = [
    ("rsa", "sha256", "rsassa", HashAlg::Sha256),
    ("rsa", "sha384", "rsassa", HashAlg::Sha384),
    ("rsa", "sha256", "rsapss", HashAlg::Sha256),
    ("rsa3072", "sha512", "rsassa", HashAlg::Sha512),
    ("ecc", "sha256", "ecdsa", HashAlg::Sha256),
    ("ecc384", "sha384", "ecdsa", HashAlg::Sha384),
    ("ecc521", "sha512", "ecdsa", HashAlg::Sha512),
];

const SELECTIONS: [&str; 4] = [
    "sha256:0,10,16,23",
    "sha384:0,1,2,3,4,5,6,7,8,9,10",
    "sha1:0,1,2,3,4,5,6,7,8,9,10+sha256:0,1,2,3,4,5,6,7,8,10,16",
    "sha512:3+sha256:10+sha1:23",
];

fn check_quote(tpm: &Tpm, key: &VerifyingKey, selection: &str, hash: HashAlg) -> Result<()> {
    let (message, signature, blob) = (tpm.read("msg")?, tpm.read("sig")?, tpm.read("pcrs")?);
    let attest = Attest::parse(&message)?;
    assert_eq!(attest.extra_data, [0xc0, 0xff, 0xee]);
    let parsed = Signature::parse(&signature)?;
    assert_eq!(parsed.hash(), hash);
    assert_eq!(key.verify(&parsed, &message, false), Ok(()));
    assert_eq!(reference::verify(key, &parsed, &message, false), Ok(()));

    let Attested::Quote {
        selection: quoted,
        pcr_digest: digest,
    } = attest.attested
    else {
        bail!("not a quote")
    };
    let (from_blob, values) = parse_pcr_blob(&blob)?;
    assert!(from_blob.same_pcrs(&quoted), "{from_blob} {quoted}");
    let wanted: usize = selection.matches([',', ':']).count();
    assert_eq!(values.len(), wanted, "{selection}");
    let computed = pcr_digest(hash, &quoted, &values)?;
    assert_eq!(computed.as_bytes(), digest, "{selection}");
    // PCR 0, 10 and 23 were extended and no other, so a value in the wrong place shows.
    for (bank, pcr, value) in values.iter() {
        let extended = [0, 10, 23].contains(&pcr.get());
        assert_eq!(!value.is_reset_value(), extended, "{bank} {pcr}");
    }
    Ok(())
}

fn check_flips(tpm: &Tpm, key: &VerifyingKey) -> Result<()> {
    let (message, signature) = (tpm.read("msg")?, tpm.read("sig")?);
    let holds = |message: &[u8], signature: &[u8]| {
        Signature::parse(signature).is_ok_and(|parsed| {
            let product = key.verify(&parsed, message, true).is_ok();
            let reference = reference::verify(key, &parsed, message, true).is_ok();
            assert_eq!(product, reference);
            product
        })
    };
    assert!(holds(&message, &signature));
    for index in 0..message.len() {
        let mut changed = message.clone();
        changed[index] ^= 1;
        assert!(!holds(&changed, &signature), "message byte {index}");
    }
    for index in 0..signature.len() {
        let mut changed = signature.clone();
        changed[index] ^= 1;
        assert!(!holds(&message, &changed), "signature byte {index}");
    }
    Ok(())
}

#[test]
fn quotes_of_every_algorithm_verify_and_no_byte_of_them_can_change() -> Result<()> {
    let tpm = Tpm::start()?;
    for pcr in ["0", "10", "23"] {
        let values = ["sha1", "sha256", "sha384", "sha512"]
            .map(|bank| {
                let size = HashAlg::from_name(bank.as_bytes()).map_or(0, HashAlg::size);
                format!("{bank}={}", format!("{pcr:0>2}").repeat(size))
            })
            .join(",");
        tpm.run("tpm2_pcrextend", &[&format!("{pcr}:{values}")])?;
    }
    tpm.create_ek("rsa")?;
    let endorsement = tpm.read("ek.pub")?;
    assert_eq!(check_endorsement_key(&Public::parse(&endorsement)?), Ok(()));
    for (kind, hash_name, scheme, hash) in KEYS {
        tpm.create_ak(kind, hash_name, scheme)
            .with_context(|| format!("{kind} {hash_name} {scheme}"))?;
        let area = tpm.read("ak.pub")?;
        let public = Public::parse(&area)?;
        assert_eq!(public.name().to_bytes(), tpm.read("ak.name")?);
        assert_eq!(check_attestation_key(&public, false), Ok(()));
        let key = VerifyingKey::from_tpm(&public)?;
        for selection in SELECTIONS {
            tpm.quote(selection, hash_name, scheme)?;
            check_quote(&tpm, &key, selection, hash).with_context(|| kind.to_owned())?;
        }
        let signature = tpm.read("sig")?;
        assert_eq!(Signature::parse(&signature)?.scheme(), scheme);
        check_flips(&tpm, &key)?;
    }
    Ok(())
}

#[test]
fn n13_endorsement_keys_of_every_template_are_accepted() -> Result<()> {
    let tpm = Tpm::start()?;
    for algorithm in ["rsa", "ecc", "rsa3072", "ecc384", "ecc521"] {
        tpm.create_ek(algorithm)?;
        let area = tpm.read("ek.pub")?;
        let checked = check_endorsement_key(&Public::parse(&area)?);
        assert_eq!(checked, Ok(()), "{algorithm}");
        assert!(check_attestation_key(&Public::parse(&area)?, true).is_err());
    }
    Ok(())
}
