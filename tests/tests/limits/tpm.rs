//! Limits on TPM structures, keys, PCR values and PCR policies.

use openssl::bn::BigNum;
use openssl::rsa::Rsa;
use rat_engine::crypto::{FileKey, KeyError, VerifyingKey};
use rat_engine::hash::HashAlg;
use rat_engine::limits;
use rat_engine::pcr::{PcrIndex, PcrSet};
use rat_engine::pcr_policy::{PcrPolicy, PcrPolicyError};
use rat_engine::tpm::attest::attest_bytes as bare_attest;
use rat_engine::tpm::pcr_values::{PcrJsonError, parse_pcr_blob, parse_pcr_json};
use rat_engine::tpm::{Attest, PcrSelection, Public, Signature};
use rat_tests::evidence::valid;
use rat_tests::software_tpm;

use crate::refused::refused_above;

/// A valid quote after a change.
fn quote(change: impl FnOnce(&mut software_tpm::Attest)) -> Vec<u8> {
    let (_, submission, _) = valid();
    submission.with_attest(change).quote
}

fn sized(bytes: usize) -> Vec<u8> {
    let size = u16::try_from(bytes).unwrap().to_be_bytes();
    [&size[..], &vec![1; bytes]].concat()
}

pub(crate) fn attest_bytes() {
    let max = limits::ATTEST_BYTES_MAX;
    let short = quote(|_| {}).len();
    let long = |bytes: usize| quote(|attest| attest.trailing = vec![0; bytes - short]);
    let (at, above) = (long(max), long(max + 1));
    refused_above(max, Attest::parse(&at), Attest::parse(&above));
    refused_above(max, bare_attest(&at), bare_attest(&above));
    assert!(bare_attest(&at).is_ok());
}

pub(crate) fn qualifying_data_bytes() {
    let max = limits::QUALIFYING_DATA_BYTES_MAX;
    let with = |bytes: usize| quote(|attest| attest.extra_data = vec![1; bytes]);
    assert!(Attest::parse(&with(max)).is_ok());
    refused_above(max, Ok(()), Attest::parse(&with(max + 1)).map(drop));
}

pub(crate) fn name_bytes() {
    let max = limits::NAME_BYTES_MAX;
    let with = |bytes: usize| quote(|attest| attest.signer = vec![1; bytes]);
    assert!(Attest::parse(&with(max)).is_ok());
    refused_above(max, Ok(()), Attest::parse(&with(max + 1)).map(drop));
}

pub(crate) fn signature_bytes() {
    let max = limits::SIGNATURE_BYTES_MAX;
    let long = [0x00, 0x14, 0x00, 0x0b].iter().copied().chain([0; 1021]);
    let long: Vec<u8> = long.collect();
    assert_eq!(long.len(), max + 1);
    refused_above(max, Signature::parse(&long[..max]), Signature::parse(&long));
}

pub(crate) fn rsa_bytes() {
    let max = limits::RSA_BYTES_MAX;
    let signature = |bytes: usize| [&[0x00, 0x14, 0x00, 0x0b][..], &sized(bytes)].concat();
    let (at, above) = (signature(max), signature(max + 1));
    assert!(Signature::parse(&at).is_ok());
    refused_above(max, Ok(()), Signature::parse(&above).map(drop));

    let public = |bytes: usize| {
        let bits = u16::try_from(bytes * 8).unwrap().to_be_bytes();
        let head = [0, 1, 0, 0x0b, 0, 5, 0, 0x72, 0, 0, 0, 0x10, 0, 0x10];
        [&head[..], &bits, &[0; 4], &sized(bytes)].concat()
    };
    let (at, above) = (public(max), public(max + 1));
    assert!(Public::parse(&at).is_ok());
    refused_above(max, Ok(()), Public::parse(&above).map(drop));
}

pub(crate) fn ecc_parameter_bytes() {
    let max = limits::ECC_PARAMETER_BYTES_MAX;
    for (first, second) in [(1, 0), (0, 1)] {
        let head = [0x00, 0x18, 0x00, 0x0b];
        let signature = |r: usize, s: usize| [&head[..], &sized(r), &sized(s)].concat();
        assert!(Signature::parse(&signature(max, max)).is_ok());
        let above = signature(max + first, max + second);
        refused_above(max, Ok(()), Signature::parse(&above).map(drop));

        let head = [
            0, 0x23, 0, 0x0b, 0, 5, 0, 0x72, 0, 0, 0, 0x10, 0, 0x10, 0, 5, 0, 0x10,
        ];
        let public = |x: usize, y: usize| [&head[..], &sized(x), &sized(y)].concat();
        assert!(Public::parse(&public(max, max)).is_ok());
        let above = public(max + first, max + second);
        refused_above(max, Ok(()), Public::parse(&above).map(drop));
    }
}

pub(crate) fn public_bytes() {
    let max = limits::PUBLIC_BYTES_MAX;
    let long = [valid().2.ak_public, vec![0; max]].concat();
    refused_above(
        max,
        Public::parse(&long[..max]),
        Public::parse(&long[..=max]),
    );
}

pub(crate) fn pcr_banks() {
    let max = limits::PCR_BANKS_MAX;
    let count = |banks: usize| u32::try_from(banks).unwrap().to_be_bytes();
    let parse = |banks| PcrSelection::parse(&count(banks));
    refused_above(max, parse(max), parse(max + 1));
}

pub(crate) fn pcr_select_bytes() {
    let max = limits::PCR_SELECT_BYTES;
    let selection = |size: usize| {
        let head = [0, 0, 0, 1, 0, 0x0b, u8::try_from(size).unwrap()];
        PcrSelection::parse(&[&head[..], &vec![1; size]].concat())
    };
    assert!(selection(max).is_ok());
    refused_above(max, selection(max), selection(max + 1));
}

pub(crate) fn pcr_count() {
    let count = limits::PCR_COUNT as u64;
    assert!(PcrIndex::new(count - 1).is_some());
    assert!(PcrIndex::new(count).is_none());
    assert!(PcrSet::from_bits(1 << (count - 1)).is_some());
    assert!(PcrSet::from_bits(1 << count).is_none());
}

pub(crate) fn key_file_bytes() {
    let max = limits::KEY_FILE_BYTES_MAX;
    let pem = b"-----BEGIN PUBLIC KEY-----\nAAEC\n-----END PUBLIC KEY-----\n";
    let pem = |bytes: usize| [&pem[..], &vec![b'\n'; bytes - pem.len()]].concat();
    // The block is read, and what is in it is no key.
    assert_eq!(VerifyingKey::from_pem(&pem(max)), Err(KeyError::Der));
    let too_long = KeyError::TooLong(max + 1);
    assert_eq!(VerifyingKey::from_pem(&pem(max + 1)), Err(too_long));
    let der = vec![0x30; max + 1];
    assert_eq!(VerifyingKey::from_spki_der(&der[..max]), Err(KeyError::Der));
    assert_eq!(VerifyingKey::from_spki_der(&der), Err(too_long));
    let file_key = |result: Result<FileKey, KeyError>| result.map(drop).unwrap_err();
    assert_eq!(file_key(FileKey::from_pem(&pem(max))), KeyError::Der);
    assert_eq!(file_key(FileKey::from_pem(&pem(max + 1))), too_long);
    assert_eq!(file_key(FileKey::from_der(&der[..max])), KeyError::Der);
    assert_eq!(file_key(FileKey::from_der(&der)), too_long);
}

pub(crate) fn file_key_bits() {
    let max = limits::FILE_KEY_BITS_MAX;
    let key = |bits: usize| {
        let mut modulus = vec![0xff; bits.div_ceil(8)];
        modulus[0] >>= (8 - bits % 8) % 8;
        let modulus = BigNum::from_slice(&modulus).unwrap();
        let exponent = BigNum::from_u32(65_537).unwrap();
        let key = Rsa::from_public_components(modulus, exponent).unwrap();
        FileKey::from_der(&key.public_key_to_der().unwrap()).map(drop)
    };
    assert_eq!(key(max), Ok(()));
    assert_eq!(key(max + 1), Err(KeyError::RsaSize(max + 1)));
}

pub(crate) fn pcr_blob_bytes() {
    let max = limits::PCR_BLOB_BYTES_MAX;
    let blob = vec![0; max + 1];
    refused_above(max, parse_pcr_blob(&blob[..max]), parse_pcr_blob(&blob));
}

pub(crate) fn pcr_json_bytes() {
    let max = limits::PCR_JSON_BYTES_MAX;
    let value = "00".repeat(HashAlg::Sha256.size());
    let json = format!(r#"{{"sha256":{{"10":"{value}"}}}}"#);
    let json = |bytes: usize| json.clone() + &" ".repeat(bytes - json.len());
    assert!(parse_pcr_json(json(max).as_bytes()).is_ok());
    let error = parse_pcr_json(json(max + 1).as_bytes()).unwrap_err();
    assert!(matches!(error, PcrJsonError::TooLong { found } if found == max + 1));
}

pub(crate) fn policy_bytes() {
    let max = limits::TPM_POLICY_BYTES_MAX;
    let json = |bytes: usize| format!("{{{}}}", " ".repeat(bytes - "{}".len()));
    assert!(PcrPolicy::parse(json(max).as_bytes()).is_ok());
    let error = PcrPolicy::parse(json(max + 1).as_bytes()).unwrap_err();
    assert!(matches!(error, PcrPolicyError::TooLong { bytes } if bytes == max + 1));
}

pub(crate) fn policy_values() {
    let max = limits::TPM_POLICY_VALUES_MAX;
    let value = "00".repeat(HashAlg::Sha256.size());
    let json = |values: usize| serde_json::json!({ "7": vec![&value; values] }).to_string();
    assert!(PcrPolicy::parse(json(max).as_bytes()).is_ok());
    let error = PcrPolicy::parse(json(max + 1).as_bytes()).unwrap_err();
    let seven = PcrIndex::new(7).unwrap();
    assert!(
        matches!(error, PcrPolicyError::TooManyValues { pcr, found } if pcr == seven && found == max + 1)
    );
}
