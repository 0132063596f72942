//! The agent's TPM device on a real swtpm: keys, quotes, activation, and what it leaves behind.
//!
//! Needs `swtpm` and `tpm2-tools`; without them the tests fail and say so.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a panic is how a test fails"
)]

use anyhow::{Context, Result};
use rat_agent::device::{
    Device, DeviceError, KeyKind, SealedSecret, Tcti, Tpm, TpmError, TpmSettings,
};
use rat_engine::crypto::VerifyingKey;
use rat_engine::hash::HashAlg;
use rat_engine::pcr::PcrSet;
use rat_engine::tpm::attributes::{check_attestation_key, check_endorsement_key};
use rat_engine::tpm::{Attest, Attested, PcrSelection, Public, Signature, pcr_digest};
use rat_tests::swtpm::Tpm as Swtpm;

const KINDS: [KeyKind; 2] = [KeyKind::Rsa, KeyKind::Ecc];

fn device(swtpm: &Swtpm, kind: KeyKind) -> Tpm {
    let tcti: Tcti = swtpm.tcti().parse().unwrap();
    Tpm::new(TpmSettings::new(tcti, kind))
}

fn selection(bank: HashAlg, bits: u32) -> PcrSelection {
    PcrSelection::new([(bank, PcrSet::from_bits(bits).unwrap())]).unwrap()
}

/// Handles of one kind that the TPM holds, as tpm2-tools list them.
fn handles(swtpm: &Swtpm, kind: &str) -> Result<String> {
    let file = format!("handles-{kind}");
    swtpm.tool("tpm2_getcap", &["-Q", kind])?;
    let output = std::process::Command::new("tpm2_getcap")
        .arg(kind)
        .env("TPM2TOOLS_TCTI", swtpm.tcti())
        .output()
        .context(file)?;
    Ok(String::from_utf8(output.stdout)?)
}

#[test]
fn quotes_verify_and_carry_the_values_that_they_cover() -> Result<()> {
    let swtpm = Swtpm::start()?;
    let digest = "0a".repeat(32);
    swtpm.run("tpm2_pcrextend", &[&format!("10:sha256={digest}")])?;
    for kind in KINDS {
        let mut device = device(&swtpm, kind);
        let endorsement = device.endorsement()?;
        assert_eq!(endorsement.certificate, None);
        assert_eq!(
            check_endorsement_key(&Public::parse(&endorsement.public)?),
            Ok(())
        );
        let area = device.attestation_key()?;
        let public = Public::parse(&area)?;
        assert_eq!(check_attestation_key(&public, false), Ok(()));
        let key = VerifyingKey::from_tpm(&public)?;

        // 0-10, and all 24 PCRs, which need more than one command to read.
        for bits in [0x07ff, 0x00ff_ffff, 1 << 10] {
            let asked = selection(HashAlg::Sha256, bits);
            let quoted = device.quote(&[7; 32], &asked)?;
            let attest = Attest::parse(&quoted.attest)?;
            assert_eq!(attest.extra_data, [7; 32]);
            assert_eq!(attest.clock, quoted.clock);
            let signature = Signature::parse(&quoted.signature)?;
            assert_eq!(key.verify(&signature, &quoted.attest, false), Ok(()));
            let Attested::Quote {
                selection,
                pcr_digest: expected,
            } = attest.attested
            else {
                panic!("no quote")
            };
            assert!(selection.same_pcrs(&asked));
            assert_eq!(quoted.pcr_values.len(), usize::try_from(bits.count_ones())?);
            let computed = pcr_digest(HashAlg::Sha256, &selection, &quoted.pcr_values)?;
            assert_eq!(computed.as_bytes(), expected);
        }
        let mut changed = device.quote(&[7; 32], &selection(HashAlg::Sha256, 1))?;
        changed.attest[40] ^= 1;
        let signature = Signature::parse(&changed.signature)?;
        assert!(key.verify(&signature, &changed.attest, false).is_err());
    }
    Ok(())
}

#[test]
fn several_banks_are_quoted_together() -> Result<()> {
    let swtpm = Swtpm::start()?;
    let mut device = device(&swtpm, KeyKind::Ecc);
    let banks = device.banks()?;
    assert!(banks.contains(&HashAlg::Sha256), "{banks:?}");
    let both = PcrSelection::new([
        (HashAlg::Sha256, PcrSet::from_bits(0x07ff).unwrap()),
        (HashAlg::Sha1, PcrSet::from_bits(0x0400).unwrap()),
    ])
    .unwrap();
    assert!(banks.contains(&HashAlg::Sha1), "{banks:?}");
    assert_eq!(device.quote(&[1; 32], &both)?.pcr_values.len(), 12);
    Ok(())
}

#[test]
fn keys_survive_a_restart_of_the_agent_and_nothing_transient_is_left() -> Result<()> {
    let swtpm = Swtpm::start()?;
    for kind in KINDS {
        let first = device(&swtpm, kind).attestation_key()?;
        let mut again = device(&swtpm, kind);
        assert!(again.has_attestation_key()?);
        assert_eq!(again.attestation_key()?, first);
        // More operations than a TPM without resource manager has places.
        for _ in 0..8 {
            again.clock()?;
        }
        // A failing operation cleans up as well.
        let sealed = SealedSecret {
            blob: vec![0, 1, 0],
            secret: vec![0, 1, 0],
        };
        for _ in 0..4 {
            assert!(again.activate(&sealed).is_err());
        }
    }
    for kind in [
        "handles-transient",
        "handles-loaded-session",
        "handles-saved-session",
    ] {
        assert_eq!(handles(&swtpm, kind)?.trim(), "", "{kind}");
    }
    let persistent = handles(&swtpm, "handles-persistent")?;
    for handle in ["0x81010001", "0x8101000A", "0x81018101", "0x81018102"] {
        assert!(persistent.contains(handle), "{persistent}");
    }
    Ok(())
}

#[test]
fn an_endorsement_key_can_be_looked_at_without_being_kept() -> Result<()> {
    let swtpm = Swtpm::start()?;
    for kind in KINDS {
        let mut device = device(&swtpm, kind);
        let before = handles(&swtpm, "handles-persistent")?;
        let shown = device.endorsement_unkept()?;
        assert_eq!(handles(&swtpm, "handles-persistent")?, before, "{kind}");
        assert_eq!(handles(&swtpm, "handles-transient")?.trim(), "", "{kind}");
        assert_eq!(device.endorsement()?, shown);
        assert_ne!(handles(&swtpm, "handles-persistent")?, before, "{kind}");
        assert_eq!(device.endorsement_unkept()?, shown);
    }
    Ok(())
}

#[test]
fn a_handle_that_holds_something_else_is_an_error_and_is_left_alone() -> Result<()> {
    let swtpm = Swtpm::start()?;
    // A storage key where the EK belongs, and an AK of another parent where ours belongs.
    swtpm.run(
        "tpm2_createprimary",
        &["-Q", "-C", "o", "-c", "primary.ctx"],
    )?;
    let place = |handle: &str| {
        swtpm.run(
            "tpm2_evictcontrol",
            &["-Q", "-C", "o", "-c", "primary.ctx", handle],
        )
    };
    place("0x81010001")?;
    place("0x81018102")?;
    let mut rsa = device(&swtpm, KeyKind::Rsa);
    for error in [rsa.endorsement(), rsa.endorsement_unkept()].map(Result::unwrap_err) {
        let DeviceError::Tpm(TpmError::Occupied { handle, .. }) = error else {
            panic!("{error}")
        };
        assert_eq!(handle, 0x8101_0001);
    }
    let mut ecc = device(&swtpm, KeyKind::Ecc);
    let error = ecc.attestation_key().unwrap_err();
    let DeviceError::Tpm(TpmError::Occupied { handle, .. }) = error else {
        panic!("{error}")
    };
    assert_eq!(handle, 0x8101_8102);
    // Another handle serves, and the foreign objects are still there.
    let mut settings = ecc.settings().clone();
    settings.ak_handle = Some(0x8101_8103);
    Tpm::new(settings).attestation_key()?;
    let persistent = handles(&swtpm, "handles-persistent")?;
    assert!(persistent.contains("0x81018102") && persistent.contains("0x81018103"));
    Ok(())
}

#[test]
fn n03_an_attestation_key_of_another_parent_is_not_taken() -> Result<()> {
    let swtpm = Swtpm::start()?;
    // The same template, under the RSA endorsement key instead of the ECC one.
    let mut settings = device(&swtpm, KeyKind::Ecc).settings().clone();
    let mut rsa = device(&swtpm, KeyKind::Rsa);
    rsa.attestation_key()?;
    settings.ak_handle = Some(TpmSettings::AK_HANDLE_RSA);
    assert!(matches!(
        Tpm::new(settings).attestation_key(),
        Err(DeviceError::Tpm(TpmError::Occupied { .. }))
    ));
    Ok(())
}

#[test]
fn a_credential_made_for_both_keys_is_activated_and_no_other() -> Result<()> {
    let swtpm = Swtpm::start()?;
    for kind in KINDS {
        let mut device = device(&swtpm, kind);
        let endorsement = device.endorsement()?.public;
        let name = Public::parse(&device.attestation_key()?)?.name();
        let sized = |bytes: &[u8]| -> Result<Vec<u8>> {
            Ok([&u16::try_from(bytes.len())?.to_be_bytes()[..], bytes].concat())
        };
        std::fs::write(swtpm.path().join("ek.pub"), sized(&endorsement)?)?;
        std::fs::write(swtpm.path().join("secret"), [9; 32])?;
        let make = |name: &str| -> Result<SealedSecret> {
            let arguments = [
                "-Q", "-u", "ek.pub", "-s", "secret", "-n", name, "-o", "cred",
            ];
            swtpm.tool("tpm2_makecredential", &arguments)?;
            // tpm2-tools put a magic number and a version before the two structures.
            let file = swtpm.read("cred")?;
            let blob = usize::from(u16::from_be_bytes([file[8], file[9]])) + 2;
            Ok(SealedSecret {
                blob: file[8..8 + blob].to_vec(),
                secret: file[8 + blob..].to_vec(),
            })
        };
        let sealed = make(&name.to_string())?;
        assert_eq!(device.activate(&sealed)?, [9; 32], "{kind}");
        let mut other = name.to_string().into_bytes();
        let last = other.len() - 1;
        other[last] = if other[last] == b'0' { b'1' } else { b'0' };
        let foreign = make(std::str::from_utf8(&other)?)?;
        assert!(device.activate(&foreign).is_err(), "{kind}");
        let mut changed = sealed;
        changed.blob[20] ^= 1;
        assert!(device.activate(&changed).is_err(), "{kind}");
    }
    Ok(())
}

#[test]
fn a_tpm_that_is_not_there_is_named() {
    let tcti: Tcti = "device:/dev/null/none".parse().unwrap();
    let error = Tpm::new(TpmSettings::new(tcti, KeyKind::Rsa)).endorsement();
    let text = error.unwrap_err().to_string();
    assert!(text.contains("device:/dev/null/none"), "{text}");
    assert!("nonsense".parse::<Tcti>().is_err());
}
