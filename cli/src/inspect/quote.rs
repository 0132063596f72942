//! A `TPMS_ATTEST`, field by field.

use std::path::Path;

use rat_engine::pcr::PcrIndex;
use rat_engine::tpm::attest::attest_bytes;
use rat_engine::tpm::{Attest, Attested};

use crate::input::{self, InputError};
use crate::output::Record;

use super::{FILE, fault};

/// Reads an attestation of any type.
pub(super) fn read(path: &Path) -> Result<Record, InputError> {
    let bytes = input::read(FILE, path, "ATTEST_BYTES_MAX")?;
    let bare = attest_bytes(&bytes).map_err(|error| fault(path, &error))?;
    let attest = Attest::parse(bare).map_err(|error| fault(path, &error))?;
    let form = match bare.len() == bytes.len() {
        true => "TPMS_ATTEST",
        false => "TPM2B_ATTEST",
    };
    let clock = attest.clock;
    let record = Record::new()
        .with("form", form)
        .with("type", type_name(&attest.attested))
        .with("qualified_signer", hex::encode(attest.qualified_signer))
        .with("extra_data", hex::encode(attest.extra_data))
        .with("extra_data_text", printable_ascii(attest.extra_data))
        .with("clock_ms", clock.clock_ms)
        .with("reset_count", clock.reset_count)
        .with("restart_count", clock.restart_count)
        .with("safe", clock.safe)
        .with(
            "firmware_version",
            format!("{:#018x}", attest.firmware_version),
        );
    Ok(match attest.attested {
        Attested::Quote {
            selection,
            pcr_digest,
        } => {
            let mut banks = Record::new();
            for (bank, pcrs) in selection.banks() {
                let pcrs: Vec<u8> = pcrs.iter().map(PcrIndex::get).collect();
                banks.push(bank.name(), pcrs);
            }
            record
                .with("selection", banks)
                .with("pcr_digest", hex::encode(pcr_digest))
        }
        Attested::Certify {
            name,
            qualified_name,
        } => record
            .with("name", hex::encode(name))
            .with("qualified_name", hex::encode(qualified_name)),
        Attested::Creation {
            object_name,
            creation_hash,
        } => record
            .with("object_name", hex::encode(object_name))
            .with("creation_hash", hex::encode(creation_hash)),
    })
}

const fn type_name(attested: &Attested<'_>) -> &'static str {
    match attested {
        Attested::Quote { .. } => "quote",
        Attested::Certify { .. } => "certify",
        Attested::Creation { .. } => "creation",
    }
}

/// Nonces of Keylime are text.
fn printable_ascii(bytes: &[u8]) -> Option<String> {
    let is_text = !bytes.is_empty() && bytes.iter().all(|byte| byte.is_ascii_graphic());
    is_text.then(|| String::from_utf8_lossy(bytes).into_owned())
}
