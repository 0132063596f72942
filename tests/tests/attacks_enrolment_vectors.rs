//! Every recorded EK certificate, under the CAs that vendors and clouds publish.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::as_conversions,
    clippy::arithmetic_side_effects
)]

use openssl::x509::X509;
use rat_engine::crypto::{KeyMaterial, VerifyingKey};
use rat_identity::ChainFault;
use rat_identity::ek::{EkError, EkTrust, EkVouch};
use rat_tests::endorsement::{Template, public_area};
use rat_tests::vectors;

/// 2023-11-14, when every chain here was valid.
const NOW: u64 = 1_700_000_000_000;

const fn chain(fault: ChainFault) -> EkError {
    EkError::Chain(fault)
}

/// What becomes of each file: the subject of its root, or its fault.
const EXPECTED: [(&str, Result<&str, EkError>); 21] = [
    (
        "04_go_tpm_tools_pca_tpm_ecc_enc_cert_pem.der",
        Ok("EK/AK CA Root"),
    ),
    // Issued beside them, for keys that sign.
    (
        "05_go_tpm_tools_pca_tpm_ecc_sign_cert_pem.der",
        Err(chain(ChainFault::KeyUsage)),
    ),
    (
        "06_go_tpm_tools_pca_tpm_rsa_enc_cert_pem.der",
        Ok("EK/AK CA Root"),
    ),
    (
        "07_go_tpm_tools_pca_tpm_rsa_sign_cert_pem.der",
        Err(chain(ChainFault::KeyUsage)),
    ),
    (
        "08_go_tpm_tools_uca_tpm_ecc_enc_cert_pem.der",
        Ok("tpm_ek_v1_cloud_host_root-signer-0"),
    ),
    (
        "09_go_tpm_tools_uca_tpm_ecc_sign_cert_pem.der",
        Err(chain(ChainFault::KeyUsage)),
    ),
    (
        "10_go_tpm_tools_uca_tpm_rsa_enc_cert_pem.der",
        Ok("tpm_ek_v1_cloud_host_root-signer-0"),
    ),
    (
        "11_go_tpm_tools_uca_tpm_rsa_sign_cert_pem.der",
        Err(chain(ChainFault::KeyUsage)),
    ),
    // CAs of swtpm, which nobody named. (N09)
    (
        "14_attestation_operator_client_test_go.der",
        Err(chain(ChainFault::UnknownRoot)),
    ),
    (
        "15_attestation_operator_client_test_go.der",
        Err(chain(ChainFault::UnknownRoot)),
    ),
    (
        "16_attestation_operator_ek_cert_extensions_test_go.der",
        Ok("GlobalSign Trusted Platform Module Root CA"),
    ),
    (
        "17_attestation_operator_main_test_go.der",
        Err(chain(ChainFault::IsCa)),
    ),
    (
        "18_attestation_operator_main_test_go.der",
        Err(chain(ChainFault::SelfSigned)),
    ),
    (
        "19_keylime_registrar_rst.der",
        Err(chain(ChainFault::UnknownRoot)),
    ),
    // Infineon: empty subject, critical subjectAltName.
    (
        "20_keylime_tpm2_objects_test_py.der",
        Ok("Infineon OPTIGA(TM) RSA Root CA"),
    ),
    (
        "21_keylime_tpm2_objects_test_py.der",
        Ok("Infineon OPTIGA(TM) ECC Root CA"),
    ),
    (
        "keylime_cert_utils_0.der",
        Err(chain(ChainFault::SelfSigned)),
    ),
    // Its exponent is 65,641; those of TPMs are 65,537.
    (
        "keylime_certificate_modeltype_0.der",
        Err(EkError::KeyMismatch),
    ),
    // Nuvoton: members of a SET out of order.
    (
        "keylime_certificate_wrapper_0.der",
        Ok("Nuvoton TPM Root CA 2111"),
    ),
    (
        "keylime_registrar_agent_cert_compliance_0.der",
        Err(chain(ChainFault::IsCa)),
    ),
    ("nuvoton_ek.pem", Ok("Nuvoton TPM Root CA 2111")),
];

fn folders() -> Vec<std::path::PathBuf> {
    ["keylime", "google", "infineon"]
        .map(|name| vectors::path(&format!("ek/ca/{name}")))
        .to_vec()
}

fn der(file: &str) -> Vec<u8> {
    let bytes = vectors::read(&format!("ek/certificates/{file}"));
    match file.ends_with(".pem") {
        true => X509::from_pem(&bytes).unwrap().to_der().unwrap(),
        false => bytes,
    }
}

/// The public area that a TPM would have for the certified key.
fn public_of(der: &[u8]) -> Vec<u8> {
    let certificate = X509::from_der(der).unwrap();
    let spki = certificate
        .public_key()
        .unwrap()
        .public_key_to_der()
        .unwrap();
    let key = VerifyingKey::from_spki_der(&spki).unwrap();
    let template = match key.material() {
        KeyMaterial::Rsa { modulus, .. } if modulus.len() == 384 => Template::Rsa3072,
        KeyMaterial::Rsa { .. } => Template::Rsa2048,
        KeyMaterial::Ecc { .. } => Template::P256,
    };
    public_area(template, &key)
}

/// Subjects of all CAs by the fingerprint of their certificates.
fn subject_of(root: [u8; 32]) -> String {
    for folder in folders() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let bytes = std::fs::read(entry.unwrap().path()).unwrap();
            let certificate = X509::from_pem(&bytes).or_else(|_| X509::from_der(&bytes));
            let certificate = certificate.unwrap();
            if openssl::sha::sha256(&certificate.to_der().unwrap()) == root {
                return format!("{:?}", certificate.subject_name());
            }
        }
    }
    panic!("no such root");
}

#[test]
fn n01_every_recorded_certificate_has_its_expected_outcome() {
    let trust = EkTrust::load(&folders(), &[]).unwrap();
    let mut seen = 0;
    for entry in std::fs::read_dir(vectors::path("ek/certificates")).unwrap() {
        let file = entry.unwrap().file_name().into_string().unwrap();
        let expected = EXPECTED.iter().find(|(name, _)| *name == file);
        let (_, expected) = expected.unwrap_or_else(|| panic!("{file} is not in the table"));
        let der = der(&file);
        let found = trust.verify(Some(&der), &public_of(&der), NOW);
        match (found, expected) {
            (Ok(proof), Ok(subject)) => {
                let EkVouch::Chain { root } = proof.by else {
                    panic!("{file} is on no list");
                };
                let found = subject_of(root);
                assert!(found.contains(subject), "{file}: {found}");
            }
            (Err(found), Err(expected)) => assert_eq!(found, *expected, "{file}"),
            (found, expected) => panic!("{file}: {found:?}, not {expected:?}"),
        }
        seen += 1;
    }
    assert_eq!(seen, EXPECTED.len());
}

#[test]
fn n09_no_recorded_certificate_is_taken_when_nobody_is_named() {
    let trust = EkTrust::load(&[], &[]).unwrap();
    for (file, expected) in &EXPECTED {
        let der = der(file);
        let error = trust.verify(Some(&der), &public_of(&der), NOW).unwrap_err();
        let unknown = chain(ChainFault::UnknownRoot);
        assert_eq!(error, expected.err().unwrap_or(unknown), "{file}");
    }
}

#[test]
fn n02_a_real_certificate_serves_no_other_key() {
    let trust = EkTrust::load(&folders(), &[]).unwrap();
    let (one, other) = (der(EXPECTED[2].0), der(EXPECTED[6].0));
    let public = public_of(&other);
    let error = trust.verify(Some(&one), &public, NOW).unwrap_err();
    assert_eq!(
        (error, error.code()),
        (EkError::KeyMismatch, "ek.key_mismatch")
    );
}

/// Vendors' SHA-1 issuers of the days of TPM 1.2 are read, and never part of a chain.
#[test]
fn every_published_ca_is_read() {
    for folder in folders() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let trust = EkTrust::load(std::slice::from_ref(&path), &[]).unwrap();
            assert_eq!(trust.counts(), (1, 0), "{}", path.display());
        }
    }
}

/// Nothing that a signature covers, and nothing of the signature, can change.
#[test]
fn n01_no_changed_bit_of_a_real_certificate_is_taken() {
    let trust = EkTrust::load(&folders(), &[]).unwrap();
    // RSA keys under RSA, RSA under ECDSA, ECC under ECDSA.
    for file in [
        "16_attestation_operator_ek_cert_extensions_test_go.der",
        "keylime_certificate_wrapper_0.der",
        "21_keylime_tpm2_objects_test_py.der",
    ] {
        let genuine = der(file);
        let public = public_of(&genuine);
        assert!(trust.verify(Some(&genuine), &public, NOW).is_ok());
        for at in 0..genuine.len() {
            for mask in [0x01, 0x80] {
                let mut changed = genuine.clone();
                changed[at] ^= mask;
                let found = trust.verify(Some(&changed), &public, NOW);
                assert!(found.is_err(), "{file}: byte {at} ^ {mask:#x}");
            }
        }
    }
}
