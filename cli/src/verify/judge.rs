//! Drives the engine over one submission.

use std::sync::Arc;

use rat_engine::appraisal::{Appraisal, Reference, Rules};
use rat_engine::hash::HashAlg;
use rat_engine::ima::judge::Judge;
use rat_engine::ima::{BankScheme, ImaOptions, ImaReport, LogFormat, Start};
use rat_engine::policy::RuntimePolicy;
use rat_engine::tpm::attest::attest_bytes;
use rat_engine::verdict::{Code, Finding, Reason, Verdict};

use crate::arguments::{TemplateHash, VerifyArguments};
use crate::input::{Input, InputError};
use crate::measurements::PIECE_BYTES;

use super::files::Files;
use super::progress;
use super::report::{Objection, Report};

/// Judges the files as the options say.
pub(super) fn judge(
    files: &mut Files<'_>,
    options: &VerifyArguments,
) -> Result<Report, InputError> {
    let mut ima_log = files.ima_log.take();
    let files = &*files;
    let mut report = Report::of(files, options, ima_log.is_some());
    let (key, values) = match (&files.ak.key, &files.pcrs) {
        (Ok(key), Ok(values)) => (key.clone(), values.clone()),
        (key, values) => {
            let of_key = key.as_ref().err().map(|error| Reason::AkKey(*error));
            report
                .findings
                .extend(of_key.map(|reason| Objection::new(&Finding::new(reason))));
            let of_values = values.as_ref().err();
            report
                .findings
                .extend(of_values.map(|detail| Objection::of(Code::PcrMalformed, detail)));
            report.verdict = Verdict::Untrusted;
            return Ok(report);
        }
    };
    let judge = match (&files.policy, &options.policy) {
        (Some(policy), Some(path)) => Some(
            Judge::new(Arc::clone(policy))
                .map(Arc::new)
                .map_err(|error| InputError::new("--policy", path, &error))?,
        ),
        _ => None,
    };
    let reference = Reference {
        key: key.into(),
        key_attributes: files.ak.attributes,
        nonce: options.nonce.0.as_slice().into(),
        challenged: None,
        pcr_policy: files.pcr_policy.clone(),
        boot_pcrs: options.mb_pcrs,
        measured_boot: files.boot_policy.clone(),
        judge,
    };
    let rules = Rules {
        allow_sha1: options.allow_sha1,
        strict: options.strict,
        bank: options.bank,
        needs_boot_pcrs: true,
    };
    // Too many bytes are refused again, and then judged, by the parser.
    let quote = attest_bytes(&files.quote).unwrap_or(&files.quote);
    let mut appraisal = Appraisal::of_quote(reference, rules, quote, &files.signature, values);
    if let Some(log) = &files.boot_log {
        appraisal.boot_log(log);
    }
    if let Some(log) = &mut ima_log {
        let ima_options = ima_options(options, files.policy.as_deref());
        report.ima.counts = stream(log, ima_options, &mut appraisal)?;
    }
    report.conclude(appraisal.conclude());
    Ok(report)
}

/// How the machine's list is made; its format is found out from the list.
fn ima_options(options: &VerifyArguments, policy: Option<&RuntimePolicy>) -> ImaOptions {
    ImaOptions {
        log_hash: options
            .ima_log_hash
            .or_else(|| policy.map(|policy| policy.compiled().log_hash_alg()))
            .unwrap_or(HashAlg::Sha1),
        scheme: match options.ima_template_hash {
            TemplateHash::Own => BankScheme::OwnHash,
            TemplateHash::PaddedSha1 => BankScheme::PaddedSha1,
        },
        pcrs: options.ima_pcrs,
        accept_violations: options.accept_violations,
        require_valid_ima_sig: options.require_valid_ima_sig,
        limit_bytes: options.max_log_size,
        ..ImaOptions::default()
    }
}

/// Streams the measurement list through the engine; `None` when it proves nothing.
fn stream(
    log: &mut Input<'_>,
    options: ImaOptions,
    appraisal: &mut Appraisal,
) -> Result<Option<ImaReport>, InputError> {
    let mut buffer = vec![0; PIECE_BYTES];
    let mut filled = log.read_piece(&mut buffer)?;
    let options = ImaOptions {
        format: LogFormat::detect(buffer.get(..filled).unwrap_or(&buffer)),
        ..options
    };
    let Some(mut appraiser) = appraisal.ima(options, Start::First) else {
        return Ok(None);
    };
    let bar = progress::bar(log.size_bytes());
    while filled > 0 {
        let piece = buffer.get(..filled).unwrap_or(&buffer);
        if !appraiser.feed(piece) {
            break;
        }
        bar.inc(u64::try_from(filled).unwrap_or(0));
        filled = log.read_piece(&mut buffer)?;
    }
    bar.finish_and_clear();
    Ok(appraisal.ima_finished(appraiser.finish()))
}
