//! A machine in software, its evidence, and what the engine says of it.
//!
//! A test starts from what is valid and makes one difference, before quoting (on the
//! [`Machine`]), after it (on the [`Submission`]), or in what it is held against
//! ([`Expectation`]).

use std::sync::Arc;

use rat_engine::appraisal::{Appraisal, Appraised, Reference, Rules};
use rat_engine::crypto::VerifyingKey;
use rat_engine::hash::{Digest, HashAlg};
use rat_engine::ima::judge::Judge;
use rat_engine::ima::{ImaOptions, ImaReport, LogFormat, Start};
use rat_engine::pcr::{PcrIndex, PcrSet, PcrValues};
use rat_engine::pcr_policy::PcrPolicy;
use rat_engine::policy::RuntimePolicy;
use rat_engine::tpm::attributes::check_attestation_key;
use rat_engine::tpm::{PcrSelection, Public};
use rat_engine::uefi::EventLog;
use rat_engine::verdict::Finding;

use crate::measured::{self, Measured};
use crate::oracle;
use crate::software_tpm::{Attest, SoftwareAk};

/// PCR 0-10.
pub const BOOT_AND_IMA: u32 = 0x07ff;

/// A machine that booted and measured something.
#[derive(Debug, Clone)]
pub struct Machine {
    /// Its attestation key.
    pub ak: SoftwareAk,
    /// The banks and PCRs it quotes, in this order.
    pub banks: Vec<(HashAlg, PcrSet)>,
    /// Its measurement list, boot_aggregate first.
    pub list: Vec<Measured>,
    /// The recorded event log that it booted by; `None` for [`boot_log`].
    pub recorded_boot: Option<Vec<u8>>,
}

/// What firmware and boot loader of our machines measure into a boot PCR: type and data.
// PFP 1.06, 10.4.1: EV_S_CRTM_VERSION, EV_EFI_ACTION, EV_IPL, EV_SEPARATOR.
fn boot_events(pcr: u8) -> Vec<(u32, Vec<u8>)> {
    let kind = match pcr {
        0 => 0x0000_0008,
        1..=7 => 0x8000_0007,
        _ => 0x0000_000d,
    };
    let mut events = vec![(kind, format!("firmware {pcr}").into_bytes())];
    if pcr < 8 {
        events.push((0x0000_0004, vec![0; 4]));
    }
    events
}

/// The value that firmware left in a boot PCR of our machines.
pub fn boot_value(bank: HashAlg, pcr: u8) -> Vec<u8> {
    let start = vec![0; bank.size()];
    boot_events(pcr).iter().fold(start, |value, (_, data)| {
        oracle::extend(bank, &value, &oracle::digest(bank, data))
    })
}

/// The boot log that explains [`boot_value`] in every bank.
// PFP 1.06, 10.2: TCG_PCClientPCREvent with TCG_EfiSpecIdEvent, then TCG_PCR_EVENT2.
pub fn boot_log() -> Vec<u8> {
    let le16 = |n: usize| u16::try_from(n).unwrap().to_le_bytes();
    let le32 = |n: usize| u32::try_from(n).unwrap().to_le_bytes();
    let sized = |bytes: &[u8]| [&le32(bytes.len()), bytes].concat();
    let banks = HashAlg::ALL;
    let mut header = b"Spec ID Event03\0\0\0\0\0\0\x02\0\x02".to_vec();
    header.extend(le32(banks.len()));
    for bank in banks {
        header.extend([bank.tpm_id().to_le_bytes(), le16(bank.size())].concat());
    }
    header.push(0);
    let mut log = [&le32(0)[..], &le32(3), &[0; 20], &sized(&header)].concat();
    for pcr in 0..10 {
        for (kind, data) in boot_events(pcr) {
            log.extend([le32(pcr.into()), kind.to_le_bytes(), le32(banks.len())].concat());
            for bank in banks {
                log.extend(bank.tpm_id().to_le_bytes());
                log.extend(oracle::digest(bank, &data));
            }
            log.extend(sized(&data));
        }
    }
    log
}

/// The values that a recorded log leaves in SHA-256 PCRs.
fn replayed_boot(log: &[u8]) -> PcrValues {
    let log = EventLog::parse(log).unwrap();
    log.replay(HashAlg::Sha256).unwrap().values().clone()
}

impl Machine {
    /// A machine with a P-256 key, quoting PCR 0-10 of the SHA-256 bank, with three files.
    pub fn valid() -> Self {
        let boot: Vec<_> = (0..10)
            .map(|pcr| boot_value(HashAlg::Sha256, pcr))
            .collect();
        let list = vec![
            Measured::boot_aggregate(HashAlg::Sha256, &boot),
            Measured::file("/usr/bin/bash", b"bash"),
            Measured::file("/usr/bin/ls", b"ls"),
            Measured::file("/usr/lib/libc.so.6", b"libc"),
        ];
        let pcrs = PcrSet::from_bits(BOOT_AND_IMA).unwrap();
        Self {
            ak: SoftwareAk::p256(),
            banks: vec![(HashAlg::Sha256, pcrs)],
            list,
            recorded_boot: None,
        }
    }

    /// The same machine after a change.
    pub fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    /// The event log of its boot.
    pub fn boot_log(&self) -> Vec<u8> {
        self.recorded_boot.clone().unwrap_or_else(boot_log)
    }

    /// The values of the PCRs it quotes.
    pub fn values(&self) -> PcrValues {
        let entries: Vec<_> = self.list.iter().map(Measured::oracle).collect();
        let pcrs: Vec<u8> = (10..16).collect();
        let replayed = oracle::replay(&entries, &HashAlg::ALL, &pcrs)
            .pop()
            .unwrap();
        let recorded = self.recorded_boot.as_deref().map(replayed_boot);
        let recorded = |bank, pcr: PcrIndex| {
            let value = recorded.as_ref()?.get(bank, pcr)?;
            (pcr != PcrIndex::IMA).then(|| value.as_bytes().to_vec())
        };
        let mut values = PcrValues::new();
        for (bank, quoted) in &self.banks {
            for pcr in quoted.iter() {
                if let Some(bytes) = recorded(*bank, pcr) {
                    values.insert(pcr, Digest::new(*bank, &bytes).unwrap());
                    continue;
                }
                let bytes = match pcr.get() {
                    index @ 0..=9 => boot_value(*bank, index),
                    index @ 10..=15 => replayed[&(*bank, index)].clone(),
                    _ => vec![0; bank.size()],
                };
                values.insert(pcr, Digest::new(*bank, &bytes).unwrap());
            }
        }
        values
    }

    /// Its answer to a challenge.
    pub fn attest(&self, nonce: &[u8]) -> Submission {
        let values = self.values();
        let attest = Attest::quote(self.ak.hash(), nonce, &self.banks, &values);
        let mut submission = Submission {
            ak: self.ak.clone(),
            attest,
            quote: Vec::new(),
            signature: Vec::new(),
            values,
            boot_log: None,
            log: Some(measured::ascii(&self.list)),
            format: LogFormat::Ascii,
        };
        submission.sign();
        submission
    }

    /// A runtime policy that lists exactly the files that this machine measured.
    pub fn policy(&self) -> String {
        policy_of(self.list.get(1..).unwrap_or_default())
    }

    /// The same with boot_aggregate, which Keylime's policies list: its agents quote no boot PCRs
    /// unless they are told to.
    pub fn keylime_policy(&self) -> String {
        policy_of(&self.list)
    }
}

/// A runtime policy that lists exactly these entries.
pub fn policy_of(list: &[Measured]) -> String {
    let digests = list.iter().map(|file| {
        let name = String::from_utf8(file.name.clone()).unwrap();
        (name, serde_json::json!([hex::encode(&file.digest)]))
    });
    policy_json(serde_json::Value::Object(digests.collect()), &[])
}

/// A runtime policy with these digests and exclude patterns.
pub fn policy_json(digests: serde_json::Value, excludes: &[&str]) -> String {
    serde_json::json!({
        "meta": { "version": 1, "generator": 3 },
        "release": 0,
        "digests": digests,
        "excludes": excludes,
        "keyrings": {},
        "ima": { "ignored_keyrings": [], "log_hash_alg": "sha1", "dm_policy": null },
        "ima-buf": {},
        "verification-keys": "",
    })
    .to_string()
}

/// What a machine sends.
#[derive(Debug, Clone)]
pub struct Submission {
    /// The key that [`sign`](Self::sign) uses.
    pub ak: SoftwareAk,
    /// The attestation that [`sign`](Self::sign) marshals.
    pub attest: Attest,
    /// TPMS_ATTEST.
    pub quote: Vec<u8>,
    /// TPMT_SIGNATURE.
    pub signature: Vec<u8>,
    /// PCR values.
    pub values: PcrValues,
    /// Boot log.
    pub boot_log: Option<Vec<u8>>,
    /// Measurement list.
    pub log: Option<Vec<u8>>,
    /// Its format.
    pub format: LogFormat,
}

impl Submission {
    /// Marshals and signs the attestation as it stands.
    pub fn sign(&mut self) {
        self.quote = self.attest.to_bytes();
        self.signature = self.ak.sign(&self.quote);
    }

    /// The same submission after a change to the signed content: signed again.
    pub fn with_attest(mut self, change: impl FnOnce(&mut Attest)) -> Self {
        change(&mut self.attest);
        self.sign();
        self
    }

    /// The same submission after a change to the bytes sent: not signed again.
    pub fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }
}

/// What a submission is held against.
#[derive(Debug, Clone)]
pub struct Expectation {
    /// TPMT_PUBLIC of the enrolled key.
    pub ak_public: Vec<u8>,
    /// Expected nonce.
    pub nonce: Vec<u8>,
    /// Selection asked for.
    pub challenged: Option<PcrSelection>,
    /// Runtime policy.
    pub policy: Option<String>,
    /// `tpm_policy`.
    pub pcr_policy: Option<String>,
    /// Rules.
    pub rules: Rules,
    /// How the list is made.
    pub ima: ImaOptions,
    /// Where the list starts.
    pub start: Start,
}

impl Expectation {
    /// What a machine's own answer satisfies, group rules included.
    pub fn of(machine: &Machine, nonce: &[u8]) -> Self {
        Self {
            ak_public: machine.ak.public(),
            nonce: nonce.to_vec(),
            challenged: PcrSelection::new(machine.banks.iter().copied()),
            policy: Some(machine.policy()),
            pcr_policy: None,
            rules: Rules {
                strict: true,
                ..Rules::default()
            },
            ima: ImaOptions::default(),
            start: Start::First,
        }
    }

    /// The same expectation after a change.
    pub fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    /// What the engine says of a submission.
    pub fn judge(&self, submission: &Submission) -> Judged {
        self.judge_in_pieces(submission, usize::MAX)
    }

    /// The same, with the list handed over in pieces of this many bytes.
    pub fn judge_in_pieces(&self, submission: &Submission, piece_bytes: usize) -> Judged {
        let public = Public::parse(&self.ak_public).unwrap();
        let key = match VerifyingKey::from_tpm(&public) {
            Ok(key) => key,
            Err(_) => return Judged::refused("ak.not_allowed"),
        };
        let runtime = match self
            .policy
            .as_ref()
            .map(|text| RuntimePolicy::parse(text.as_bytes()))
        {
            None => None,
            Some(Ok(policy)) => Some(Arc::new(policy)),
            Some(Err(_)) => return Judged::refused("policy.malformed"),
        };
        let judge = runtime.map(|policy| Arc::new(Judge::new(policy).unwrap()));
        let pcr_policy = self
            .pcr_policy
            .as_ref()
            .map(|text| Arc::new(PcrPolicy::parse(text.as_bytes()).unwrap()));
        let reference = Reference {
            key: key.into(),
            key_attributes: Some(check_attestation_key(&public, self.rules.allow_sha1)),
            nonce: self.nonce.as_slice().into(),
            challenged: self.challenged,
            pcr_policy,
            boot_pcrs: None,
            measured_boot: None,
            judge,
        };
        let Submission {
            quote,
            signature,
            values,
            boot_log,
            log,
            format,
            ..
        } = submission;
        let mut appraisal =
            Appraisal::of_quote(reference, self.rules, quote, signature, values.clone());
        if let Some(log) = boot_log {
            appraisal.boot_log(log);
        }
        let mut report = None;
        if let Some(log) = log {
            let options = ImaOptions {
                format: *format,
                ..self.ima.clone()
            };
            if let Some(mut appraiser) = appraisal.ima(options, self.start.clone()) {
                for piece in log.chunks(piece_bytes.min(log.len()).max(1)) {
                    appraiser.feed(piece);
                }
                report = appraisal.ima_finished(appraiser.finish());
            }
        }
        Judged::new(appraisal.conclude(), report)
    }
}

/// What the engine said.
#[derive(Debug)]
pub struct Judged {
    /// `trusted`, `authentic` or `untrusted`.
    pub verdict: &'static str,
    /// Codes of what failed.
    pub codes: Vec<&'static str>,
    /// Codes of what a stricter rule would not accept.
    pub warnings: Vec<&'static str>,
    /// What failed.
    pub findings: Vec<Finding>,
    /// Counts of the measurement list.
    pub report: Option<ImaReport>,
    /// State to continue from.
    pub ima: Option<rat_engine::appraisal::ImaState>,
}

impl Judged {
    fn new(appraised: Appraised, report: Option<ImaReport>) -> Self {
        let codes = |findings: &[Finding]| {
            findings
                .iter()
                .map(|finding| finding.code.as_str())
                .collect()
        };
        Self {
            verdict: appraised.verdict.as_str(),
            codes: codes(&appraised.findings),
            warnings: codes(&appraised.warnings),
            findings: appraised.findings,
            report,
            ima: appraised.ima,
        }
    }

    fn refused(code: &'static str) -> Self {
        Self {
            verdict: "untrusted",
            codes: vec![code],
            warnings: Vec::new(),
            findings: Vec::new(),
            report: None,
            ima: None,
        }
    }

    /// Panics unless this is untrusted with exactly this code.
    #[track_caller]
    pub fn is_refused_with(&self, code: &str) {
        assert_eq!(
            (self.verdict, self.codes.as_slice()),
            ("untrusted", [code].as_slice()),
            "{self:#?}"
        );
    }

    /// Panics unless this is trusted without a warning.
    #[track_caller]
    pub fn is_trusted(&self) {
        assert_eq!(self.verdict, "trusted", "{self:#?}");
        assert!(
            self.codes.is_empty() && self.warnings.is_empty(),
            "{self:#?}"
        );
    }
}

/// A PCR index.
pub fn pcr(index: u64) -> PcrIndex {
    PcrIndex::new(index).unwrap()
}

/// A valid machine, its nonce and its expectation.
pub fn valid() -> (Machine, Submission, Expectation) {
    let machine = Machine::valid();
    let nonce = b"0123456789abcdef0123456789abcdef";
    let submission = machine.attest(nonce);
    let expectation = Expectation::of(&machine, nonce);
    (machine, submission, expectation)
}
