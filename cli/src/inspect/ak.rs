//! A public attestation key.

use std::fmt::Display;
use std::path::Path;

use rat_engine::crypto::{KeyMaterial, has_roca_fingerprint};
use rat_engine::tpm::Public;
use rat_engine::tpm::attributes::check_attestation_key;
use rat_engine::tpm::public::Scheme;

use crate::Outcome;
use crate::evidence::AttestationKey;
use crate::input::{self, InputError};
use crate::output::{Item, Record};

use super::{FILE, fault};

/// Reads a key, and says whether it could be an attestation key.
pub(super) fn read(path: &Path) -> Result<(Record, Outcome), InputError> {
    let bytes = input::read(FILE, path, "KEY_FILE_BYTES_MAX")?;
    let ak = AttestationKey::parse(&bytes).map_err(|error| fault(path, &error))?;
    let mut record = Record::new().with("form", ak.form);
    match &ak.key {
        Ok(key) => {
            record.push("type", key.material().type_name());
            match key.material() {
                KeyMaterial::Rsa { modulus, exponent } => {
                    record.push("exponent", *exponent);
                    record.push("roca_fingerprint", has_roca_fingerprint(modulus));
                    record.push("modulus", Item::Hex(modulus.to_vec()));
                }
                KeyMaterial::Ecc { x, y, .. } => {
                    record.push("x", hex::encode(x));
                    record.push("y", hex::encode(y));
                }
            }
        }
        Err(error) => record.push("type", format!("not accepted: {error}")),
    }
    let fits = match &ak.public {
        Some(public) => public_area(&mut record, public),
        None => {
            record.push("attributes", Item::Absent);
            true
        }
    };
    let passed = fits && ak.key.is_ok();
    Ok((
        record,
        if passed {
            Outcome::Passed
        } else {
            Outcome::Failed
        },
    ))
}

/// Adds what the TPM says of the key; returns whether an attestation key may be like that.
fn public_area(record: &mut Record, public: &Public<'_>) -> bool {
    let scheme = public.scheme.as_ref().map(scheme_text);
    let attributes = public.attributes.to_string();
    let attributes: Vec<&str> = attributes
        .split('|')
        .filter(|name| !name.is_empty())
        .collect();
    record.push("name", public.name().to_string());
    record.push("name_alg", public.name_alg.name());
    record.push("scheme", scheme);
    record.push("auth_policy", hex::encode(public.auth_policy));
    record.push("attributes", attributes);
    let allow_sha1 = false;
    let check = check_attestation_key(public, allow_sha1);
    record.push("is_attestation_key", check.is_ok());
    record.push("objection", check.err().map(|error| error.to_string()));
    check.is_ok()
}

/// Names of the TCG Algorithm Registry, as tpm2-tools writes them.
fn scheme_text(scheme: &Scheme) -> String {
    let name: &dyn Display = match scheme.algorithm {
        0x0014 => &"rsassa",
        0x0015 => &"rsaes",
        0x0016 => &"rsapss",
        0x0017 => &"oaep",
        0x0018 => &"ecdsa",
        0x001a => &"ecdaa",
        ref other => &format!("{other:#06x}"),
    };
    match scheme.hash {
        Some(hash) => format!("{name} with {hash}"),
        None => name.to_string(),
    }
}
