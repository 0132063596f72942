//! Evidence to be judged: recorded in files, or made up.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, bail};
use rat_agent::device::{Device, KeyKind};
use rat_engine::appraisal::{Appraisal, Appraised, Reference, Rules};
use rat_engine::crypto::{VerifyingKey, digest};
use rat_engine::hash::HashAlg;
use rat_engine::ima::judge::Judge;
use rat_engine::ima::{ImaOptions, LogFormat, Start};
use rat_engine::pcr::{PcrIndex, PcrSet, PcrValues};
use rat_engine::policy::RuntimePolicy;
use rat_engine::tpm::attest::attest_bytes;
use rat_engine::tpm::attributes::check_attestation_key;
use rat_engine::tpm::pcr_values::{parse_pcr_blob, parse_pcr_json};
use rat_engine::tpm::{PcrSelection, Public};

use crate::keys::{EkCa, SoftwareKey};
use crate::measured::{BANK, Entry, boot_events, boot_log};
use crate::software_tpm::{Boot, Keys, SoftwareTpm};

/// The longest file of recorded evidence.
const FILE_BYTES_MAX: u64 = 1 << 30;

/// One piece of evidence, and all that it is to be held against.
pub(super) struct Evidence {
    reference: Reference,
    rules: Rules,
    quote: Vec<u8>,
    signature: Vec<u8>,
    pcr_values: PcrValues,
    boot_log: Option<Vec<u8>>,
    list: Option<Vec<u8>>,
    options: ImaOptions,
}

impl Evidence {
    /// A whole appraisal; gives the entries that were proven, too.
    pub(super) fn judge(&self) -> (Appraised, u64) {
        let values = self.pcr_values.clone();
        let mut appraisal = Appraisal::of_quote(
            self.reference.clone(),
            self.rules,
            &self.quote,
            &self.signature,
            values,
        );
        if let Some(log) = &self.boot_log {
            appraisal.boot_log(log);
        }
        let mut entries = 0;
        if let Some(list) = &self.list
            && let Some(mut appraiser) = appraisal.ima(self.options.clone(), Start::First)
        {
            appraiser.feed(list);
            let report = appraisal.ima_finished(appraiser.finish());
            entries = report.map_or(0, |report| report.entries);
        }
        (appraisal.conclude(), entries)
    }
}

/// The evidence in these directories.
pub(super) fn recorded(directories: &[PathBuf]) -> Result<Vec<Evidence>> {
    let read = |directory: &PathBuf| {
        read_evidence(directory).with_context(|| directory.display().to_string())
    };
    directories.iter().map(read).collect()
}

fn read_evidence(directory: &Path) -> Result<Evidence> {
    let ak = file(directory, "ak")?;
    let (key, key_attributes) = if ak.trim_ascii_start().starts_with(b"-----BEGIN ") {
        (VerifyingKey::from_pem(&ak)?, None)
    } else {
        let public = Public::parse(&ak).context("ak")?;
        let attributes = check_attestation_key(&public, false);
        (VerifyingKey::from_tpm(&public)?, Some(attributes))
    };
    let pcrs = file(directory, "pcrs")?;
    let pcr_values = if pcrs.trim_ascii_start().starts_with(b"{") {
        parse_pcr_json(&pcrs).context("pcrs")?
    } else {
        parse_pcr_blob(&pcrs).context("pcrs")?.1
    };
    let quote = file(directory, "quote")?;
    let nonce = hex::decode(file(directory, "nonce")?.trim_ascii()).context("nonce")?;
    let policy = match optional(directory, "policy")? {
        Some(text) => Some(RuntimePolicy::parse(&text).context("policy")?),
        None => None,
    };
    let log_hash = policy.as_ref().map(|it| it.compiled().log_hash_alg());
    let list = optional(directory, "ima-log")?;
    Ok(Evidence {
        options: ImaOptions {
            format: LogFormat::detect(list.as_deref().unwrap_or(&[])),
            log_hash: log_hash.unwrap_or(HashAlg::Sha1),
            ..ImaOptions::default()
        },
        reference: Reference {
            key: Arc::new(key),
            key_attributes,
            nonce: nonce.into(),
            challenged: None,
            pcr_policy: None,
            boot_pcrs: None,
            measured_boot: None,
            judge: judge(policy)?,
        },
        rules: Rules::default(),
        // Too many bytes are refused again, and then judged, by the parser.
        quote: attest_bytes(&quote).unwrap_or(&quote).to_vec(),
        signature: file(directory, "signature")?,
        pcr_values,
        boot_log: optional(directory, "boot-log")?,
        list,
    })
}

fn judge(policy: Option<RuntimePolicy>) -> Result<Option<Arc<Judge>>> {
    Ok(match policy {
        Some(policy) => Some(Arc::new(Judge::new(Arc::new(policy))?)),
        None => None,
    })
}

fn file(directory: &Path, name: &str) -> Result<Vec<u8>> {
    let found = optional(directory, name)?;
    found.with_context(|| format!("there is no file {name}"))
}

fn optional(directory: &Path, name: &str) -> Result<Option<Vec<u8>>> {
    let path = directory.join(name);
    if !fs::exists(&path)? {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    let file = File::open(&path).with_context(|| name.to_owned())?;
    let mut file = file.take(FILE_BYTES_MAX.saturating_add(1));
    let read = file
        .read_to_end(&mut bytes)
        .with_context(|| name.to_owned())?;
    if u64::try_from(read).unwrap_or(u64::MAX) > FILE_BYTES_MAX {
        bail!("{name} is longer than {FILE_BYTES_MAX} bytes");
    }
    Ok(Some(bytes))
}

/// Evidence of so many machines with the same boot and list, each with a key of its own, judged
/// as a group that enforces their policy would.
pub(super) fn made_up(machines: usize, kind: KeyKind, entries: usize) -> Result<Vec<Evidence>> {
    let mut boot = Boot::first();
    // One entry is boot_aggregate.
    let files = (1..entries).map(|nth| format!("/usr/bin/tool-{nth}"));
    let mut digests = serde_json::Map::new();
    for name in files {
        boot.measure(&Entry::file(&name, name.as_bytes()));
        let listed = digest(BANK, name.as_bytes()).to_hex();
        digests.insert(name, vec![listed].into());
    }
    let policy = serde_json::json!({"meta": {"version": 1}, "digests": digests});
    let policy = RuntimePolicy::parse(policy.to_string().as_bytes())?;
    let judge = judge(Some(policy))?;
    let boot = Arc::new(Mutex::new(boot));
    let ca = EkCa::generate()?;
    let mut pcrs = PcrSet::BOOT;
    pcrs.insert(PcrIndex::IMA);
    let selection = PcrSelection::new([(BANK, pcrs)]).context("the selection is empty")?;
    let mut evidence = Vec::with_capacity(machines);
    for _ in 0..machines {
        let key = || SoftwareKey::generate(kind);
        let keys = Keys::new(SoftwareKey::generate(KeyKind::Ecc)?, key()?, &ca)?;
        let mut tpm = SoftwareTpm::new(Arc::new(keys), Arc::clone(&boot));
        let mut nonce = [0; 32];
        getrandom::fill(&mut nonce)?;
        let quoted = tpm.quote(&nonce, &selection)?;
        let area = tpm.attestation_key()?;
        let public = Public::parse(&area)?;
        let list = boot.lock().unwrap_or_else(PoisonError::into_inner).list();
        evidence.push(Evidence {
            reference: Reference {
                key: Arc::new(VerifyingKey::from_tpm(&public)?),
                key_attributes: Some(check_attestation_key(&public, false)),
                nonce: nonce.into(),
                challenged: Some(selection),
                pcr_policy: None,
                boot_pcrs: Some(PcrSet::FIRMWARE),
                measured_boot: None,
                judge: judge.clone(),
            },
            rules: Rules {
                strict: true,
                bank: BANK,
                ..Rules::default()
            },
            quote: quoted.attest,
            signature: quoted.signature,
            pcr_values: quoted.pcr_values,
            boot_log: Some(boot_log(&boot_events())),
            list: Some(list),
            options: ImaOptions {
                format: LogFormat::Binary,
                ..ImaOptions::default()
            },
        });
    }
    Ok(evidence)
}
