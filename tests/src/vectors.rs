//! Recorded evidence of real machines; `tests/vectors/README.md` says where it comes from.

use std::path::PathBuf;

use rat_engine::hash::{Digest, HashAlg};
use rat_engine::pcr::{PcrIndex, PcrValues};

/// The path of a file under `tests/vectors`.
pub fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("vectors")
        .join(name)
}

/// The bytes of a file under `tests/vectors`.
#[track_caller]
pub fn read(name: &str) -> Vec<u8> {
    let path = path(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A file under `tests/vectors` as JSON.
#[track_caller]
pub fn json(name: &str) -> serde_json::Value {
    serde_json::from_slice(&read(name)).unwrap()
}

/// A quote as the manifest's JSON files hold it.
#[derive(Debug, Clone)]
pub struct RecordedQuote {
    /// TPMS_ATTEST.
    pub message: Vec<u8>,
    /// TPMT_SIGNATURE, empty when there is none.
    pub signature: Vec<u8>,
    /// AK in PEM.
    pub ak_pem: Option<String>,
    /// AK as TPM2B_PUBLIC or TPMT_PUBLIC.
    pub ak_public: Option<Vec<u8>>,
    /// `extraData`, when known.
    pub nonce: Option<Vec<u8>>,
    /// PCR values.
    pub values: PcrValues,
}

impl RecordedQuote {
    /// Reads a file under `tests/vectors`.
    pub fn read(name: &str) -> Self {
        let json = json(name);
        let hex = |key: &str| json[key].as_str().map(|text| hex::decode(text).unwrap());
        let mut values = PcrValues::new();
        for (bank, pcrs) in json["pcrs"].as_object().into_iter().flatten() {
            let bank = HashAlg::from_name(bank.as_bytes()).unwrap();
            for (index, value) in pcrs.as_object().unwrap() {
                let pcr = PcrIndex::new(index.parse().unwrap()).unwrap();
                let text = value.as_str().unwrap();
                values.insert(pcr, Digest::from_hex(bank, text.as_bytes()).unwrap());
            }
        }
        Self {
            message: hex("message_hex").unwrap_or_default(),
            signature: hex("signature_tpmt_hex").unwrap_or_default(),
            ak_pem: json["ak_public_pem"].as_str().map(str::to_owned),
            ak_public: hex("ak_tpm2b_or_tpmt_hex"),
            nonce: hex("nonce_hex"),
            values,
        }
    }
}
