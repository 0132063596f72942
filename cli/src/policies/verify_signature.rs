//! `rat policies verify-signature`: whether a key that the operator names has signed a policy.

use std::io::{self, Write};

use anyhow::Result;
use rat_engine::crypto::{DocumentKey, digest};
use rat_engine::hash::HashAlg;
use rat_engine::policy::RuntimePolicy;
use rat_engine::policy::dsse::{DsseError, SignedPolicy, is_envelope};

use super::malformed;
use crate::Outcome;
use crate::arguments::VerifySignatureArguments;
use crate::input::{self, InputError};
use crate::output::{Format, Record, Terminal, printable};

/// Says who signed; writes the policy only when the key did.
pub(super) fn run(options: &VerifySignatureArguments, terminal: &mut Terminal) -> Result<Outcome> {
    let path = &options.file;
    let key = input::read("--key", &options.key, "KEY_FILE_BYTES_MAX")?;
    let key = DocumentKey::from_pem(&key)
        .map_err(|error| InputError::new("--key", &options.key, &error))?;
    let text = input::read("FILE", path, "DSSE_BYTES_MAX")?;
    if !is_envelope(&text) {
        RuntimePolicy::parse(&text).map_err(|error| malformed("FILE", path, &error))?;
        return failed("the policy is not signed", options.output, terminal);
    }
    let signed = SignedPolicy::parse(&text).map_err(|error| malformed("FILE", path, &error))?;
    let payload = match signed.verify(&key) {
        Ok(payload) => payload,
        Err(error @ DsseError::NotSigned) => {
            return failed(&error.to_string(), options.output, terminal);
        }
        Err(error) => return Err(malformed("FILE", path, &error).into()),
    };
    let policy = RuntimePolicy::parse(payload).map_err(|error| malformed("FILE", path, &error))?;
    if let Some(out) = &options.out {
        std::fs::write(out, payload).map_err(|error| InputError::new("--out", out, &error))?;
    }
    let record = Record::new()
        .with("signed", true)
        .with("key_id", key.id().to_owned())
        .with("policy_sha256", digest(HashAlg::Sha256, payload).to_hex())
        .with("paths", policy.compiled().path_count())
        .with("signatures", signed.unverified_signatures().len());
    match options.output {
        Format::Table => write!(terminal, "{record}")?,
        format => terminal.document(format, &record)?,
    }
    Ok(Outcome::Passed)
}

fn failed(reason: &str, format: Format, terminal: &mut Terminal) -> Result<Outcome> {
    match format {
        Format::Table => writeln!(io::stderr(), "rat: {}", printable(reason))?,
        format => {
            let record = Record::new().with("signed", false).with("reason", reason);
            terminal.document(format, &record)?;
        }
    }
    Ok(Outcome::Failed)
}
