//! Requests as Keylime's clients send them, and their answers.

use std::sync::Arc;

use axum::body::to_bytes;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use rat_api::keylime::{ApiVersion, Keylime, MeasuredBoot};
use rat_engine::hash::HashAlg;
use rat_engine::pcr::{PcrSet, PcrValues};
use serde_json::{Value, json};

use crate::evidence::{Machine, Submission};

/// What tpm2-tools write of PCR values: see `parse_pcr_blob`.
pub fn pcr_blob(banks: &[(HashAlg, PcrSet)], values: &PcrValues) -> Vec<u8> {
    let le32 = |n: usize| u32::try_from(n).unwrap().to_le_bytes();
    let mut blob = le32(banks.len()).to_vec();
    for (bank, pcrs) in banks {
        blob.extend(bank.tpm_id().to_le_bytes());
        blob.push(3);
        blob.extend(pcrs.bits().to_le_bytes());
        blob.push(0);
    }
    blob.resize(4 + 16 * 8, 0);
    let quoted: Vec<_> = banks
        .iter()
        .flat_map(|(bank, pcrs)| pcrs.iter().filter_map(|pcr| values.get(*bank, pcr)))
        .collect();
    blob.extend(le32(quoted.len().div_ceil(8)));
    for list in quoted.chunks(8) {
        blob.extend(le32(list.len()));
        for place in 0..8 {
            let digest = list.get(place).map_or(&[][..], |digest| digest.as_bytes());
            blob.extend(u16::try_from(digest.len()).unwrap().to_le_bytes());
            blob.extend(digest);
            blob.resize(blob.len() + 64 - digest.len(), 0);
        }
    }
    blob
}

/// A quote as agents write it.
pub fn quote_text(message: &[u8], signature: &[u8], blob: &[u8]) -> String {
    let [message, signature, blob] = [message, signature, blob].map(|part| BASE64.encode(part));
    format!("r{message}:{signature}:{blob}")
}

/// `TPM2B_PUBLIC` in base64 of a `TPMT_PUBLIC`.
pub fn tpm2b(public: &[u8]) -> String {
    let size = u16::try_from(public.len()).unwrap().to_be_bytes();
    BASE64.encode([&size[..], public].concat())
}

/// A nonce as agents get that are polled.
pub const NONCE: &str = "Sb7tNlqsd32uI1ZPWtDs";

/// `data` of a request, for what a machine sent: valid under its own policy.
pub fn data_of(machine: &Machine, submission: &Submission) -> Value {
    let blob = pcr_blob(&machine.banks, &submission.values);
    let ak = tpm2b(&machine.ak.public());
    let mut data = json!({
        "quote": quote_text(&submission.quote, &submission.signature, &blob),
        "nonce": NONCE,
        "hash_alg": "sha256",
        "tpm_ek": ak.clone(),
        "tpm_ak": ak,
        "tpm_policy": r#"{"mask": "0x400"}"#,
        "runtime_policy": machine.policy(),
    });
    if let Some(log) = &submission.log {
        data["ima_measurement_list"] = String::from_utf8(log.clone()).unwrap().into();
    }
    if let Some(log) = &submission.boot_log {
        data["mb_log"] = BASE64.encode(log).into();
    }
    data
}

/// The same for a machine's own answer to [`NONCE`].
pub fn data(machine: &Machine) -> Value {
    data_of(machine, &machine.attest(NONCE.as_bytes()))
}

/// What was answered.
#[derive(Debug, Clone)]
pub struct Answered {
    /// The status.
    pub status: u16,
    /// The body, if there is one.
    pub body: Value,
}

impl Answered {
    /// Whether the evidence is valid.
    #[track_caller]
    pub fn is_valid(&self) -> bool {
        self.body["results"]["valid"].as_bool().unwrap()
    }

    /// Type and code of each failure.
    pub fn failures(&self) -> Vec<(String, String)> {
        let failures = self.body["results"]["failures"].as_array();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        failures
            .into_iter()
            .flatten()
            .map(|it| (text(&it["type"]), text(&it["context"]["code"])))
            .collect()
    }
}

/// The verifier's answer to a body, without a server around it.
pub fn answer(keylime: &Arc<Keylime>, version: ApiVersion, body: &[u8]) -> Answered {
    let response = keylime.answer(version, body.to_vec().into());
    let status = response.status().as_u16();
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let body = to_bytes(response.into_body(), usize::MAX);
    let body = runtime.unwrap().block_on(body).unwrap();
    let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
    Answered { status, body }
}

/// The answer of version 2.6 to TPM evidence.
pub fn verify(data: &Value) -> Answered {
    let body = json!({"type": "tpm", "data": data}).to_string();
    answer(
        &Keylime::new(1, MeasuredBoot::default()),
        ApiVersion::V2_6,
        body.as_bytes(),
    )
}
