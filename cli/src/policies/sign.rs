//! `rat policies sign`: a policy in a DSSE envelope.

mod keys;

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use anyhow::{Result, bail};
use rat_engine::crypto::DocumentKey;
use rat_engine::policy::dsse::{PAYLOAD_TYPE, SignedPolicy, envelope, pae};

use super::{malformed, read, write};
use crate::Outcome;
use crate::arguments::{Backend, SignArguments};
use crate::input::{self, InputError};
use crate::output::Terminal;
use keys::SigningKey;

/// Reads policy and key, signs, verifies what was signed, and writes.
pub(super) fn run(options: &SignArguments, terminal: &mut Terminal) -> Result<Outcome> {
    let x509 = options.backend == Backend::X509;
    match (&options.cert, &options.cert_out) {
        (None, None) if x509 => bail!("--backend x509 needs --cert or --cert-out"),
        (Some(_), _) | (_, Some(_)) if !x509 => {
            bail!("--cert and --cert-out are for --backend x509")
        }
        _ => {}
    }
    // Everything that can be wrong with the policy is found before a key is made.
    read("FILE", &options.file, None)?;
    let payload = input::read("FILE", &options.file, "POLICY_BYTES_MAX")?;
    let key = key(options)?;
    let public = key.public_pem()?;
    let certificate = match (&options.cert, x509) {
        (Some(path), true) => Some(given_certificate(path, &public)?),
        (None, true) => Some(key.certificate()?),
        (_, false) => None,
    };
    let document_key = DocumentKey::from_pem(&public)?;
    let keyid = match &certificate {
        Some(certificate) => keys::certificate_keyid(certificate),
        None => document_key.id().to_owned(),
    };
    let sig = key.sign(&pae(PAYLOAD_TYPE, &payload))?;
    let signed = envelope(&payload, &keyid, &sig);
    // What the reader of others would say is found out here.
    let said = SignedPolicy::parse(signed.as_bytes()).and_then(|signed| {
        signed.verify(&document_key)?;
        Ok(())
    });
    said.map_err(|error| malformed("FILE", &options.file, &error))?;
    if let (Some(path), Some(certificate)) = (&options.cert_out, &certificate) {
        save("--cert-out", path, certificate)?;
    }
    if let Some(path) = &options.public_out {
        save("--public-out", path, &public)?;
    }
    write::out(options.out.as_deref(), &format!("{signed}\n"), terminal)?;
    Ok(Outcome::Passed)
}

fn key(options: &SignArguments) -> Result<SigningKey> {
    if let Some(path) = &options.key {
        let pem = input::read("--key", path, "KEY_FILE_BYTES_MAX")?;
        let key = SigningKey::from_pem(&pem);
        return Ok(key.map_err(|error| InputError::new("--key", path, &error))?);
    }
    let Some(path) = &options.new_key else {
        bail!("give --key or --new-key");
    };
    let key = SigningKey::generate()?;
    let pem = key.private_pem()?;
    // Never over a key that is there, and never readable for others, not even for a moment.
    let created = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path);
    created
        .and_then(|mut file| file.write_all(&pem))
        .map_err(|error| InputError::new("--new-key", path, &error))?;
    Ok(key)
}

/// A certificate from a file, if it is one of this key.
fn given_certificate(path: &Path, public: &[u8]) -> Result<Vec<u8>> {
    let pem = input::read("--cert", path, "KEY_FILE_BYTES_MAX")?;
    let fault = |reason: &dyn std::fmt::Display| InputError::new("--cert", path, reason);
    let of_certificate = DocumentKey::from_pem(&pem).map_err(|error| fault(&error))?;
    if !pem
        .trim_ascii_start()
        .starts_with(b"-----BEGIN CERTIFICATE-----")
    {
        return Err(fault(&"not a certificate in PEM").into());
    }
    match of_certificate == DocumentKey::from_pem(public)? {
        true => Ok(pem),
        false => Err(fault(&"the certificate is of another key").into()),
    }
}

fn save(option: &'static str, path: &Path, text: &[u8]) -> Result<(), InputError> {
    std::fs::write(path, text).map_err(|error| InputError::new(option, path, &error))
}
