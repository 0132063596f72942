//! The engine, driven over the evidence of one request.

use std::sync::Arc;

use axum::http::StatusCode;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rat_engine::appraisal::{Appraisal, Appraised, ExtraData, Reference, Rules};
use rat_engine::crypto::VerifyingKey;
use rat_engine::hash::HashAlg;
use rat_engine::ima::judge::Judge;
use rat_engine::ima::{ImaOptions, LogFormat, Start};
use rat_engine::limits::{PUBLIC_BYTES_MAX, UEFI_LOG_BYTES_MAX};
use rat_engine::pcr::PcrIndex;
use rat_engine::pcr_policy::PcrPolicy;
use rat_engine::quote::Quote;
use rat_engine::tpm::attributes::{KeyAttributeError, check_attestation_key};
use rat_engine::tpm::{Public, PublicError, QuoteText, Signature};
use rat_engine::uefi::policy::{MeasuredBootPolicy, PolicyName};
use rat_engine::verdict::{Code, Finding, Reason, Verdict};
use tokio::time::Instant;

use super::super::{Evaluate, Keylime, MeasuredBoot};
use super::Refused;
use super::failure::{self, Failure};
use super::policies::Policies;
use super::request::Asked;
use crate::metrics;

/// Bytes of a list between two looks at the clock.
const PIECE_BYTES: usize = 64 * 1024;

/// Judges evidence; without a failure it is valid.
///
/// # Errors
/// [`Refused`] when the request's own policies cannot be used, or the time is over: then nothing
/// was found out about the evidence.
///
/// # Security
/// SHA-1 is refused whatever `hash_alg` says: callers give on what the machine names. Nothing is
/// passed over: a runtime policy wants a list, a list wants a policy, and a quote that covers IMA's
/// PCR wants both.
pub(super) fn judge(
    asked: &Asked<'_>,
    keylime: &Keylime,
    until: Instant,
) -> Result<Vec<Failure>, Refused> {
    match judged(asked, keylime, until) {
        Ok(failures) => Ok(failures),
        Err(Stop::Failed(failure)) => Ok(vec![failure]),
        Err(Stop::Refused(refused)) => Err(refused),
    }
}

/// Why nothing more is looked at.
enum Stop {
    /// The evidence fails before it can be appraised.
    Failed(Failure),
    Refused(Refused),
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl From<Refused> for Stop {
    fn from(refused: Refused) -> Self {
        Self::Refused(refused)
    }
}

fn judged(asked: &Asked<'_>, keylime: &Keylime, until: Instant) -> Result<Vec<Failure>, Stop> {
    let name = asked.needed("hash_alg")?;
    let pcr_policy = read_pcr_policy(asked)?;
    let measured_boot = read_boot_policy(asked, keylime.measured_boot)?;
    let list = asked.optional("ima_measurement_list")?;
    let judge = match (asked.runtime_policy(), &list) {
        (Some(policy), _) => Some(keylime.policies.judge(policy)?),
        (None, Some(_)) => Some(Policies::none()?),
        (None, None) => None,
    };
    let boot_log = read_boot_log(asked)?;
    let hash = HashAlg::from_name(name.as_bytes());
    let hash = hash.ok_or_else(|| Failure::unknown_hash(&name))?;
    let evidence = Evidence::read(asked, hash)?;
    let log_hash = judge
        .as_ref()
        .map(|judge| judge.policy().compiled().log_hash_alg());
    let held = Held {
        judge,
        pcr_policy,
        measured_boot: measured_boot.map(Arc::new),
    };
    let mut appraisal = evidence.appraise(&asked.needed("nonce")?, held, hash);
    if let Some(log) = boot_log {
        appraisal.boot_log(&log);
    }
    if let Some(list) = &list {
        replay(&mut appraisal, list.as_bytes(), log_hash, until)?;
    }
    Ok(failures(appraisal.conclude(), list.is_some()))
}

/// The policies of a request.
struct Held {
    judge: Option<Arc<Judge>>,
    pcr_policy: Option<PcrPolicy>,
    measured_boot: Option<Arc<MeasuredBootPolicy>>,
}

/// Judges a quote by itself: whether this key signed it over this nonce, and whether the PCR values
/// are those that it signed for. Without a failure it is so.
///
/// # Security
/// `quote`, `nonce` and `hash_alg` are anybody's; the key is that of an agent. SHA-1 is refused. No
/// state is read or written. (S15)
pub(super) fn identity(ak_public: &[u8], quote: &str, nonce: &str, hash_alg: &str) -> Vec<Failure> {
    let Some(hash) = HashAlg::from_name(hash_alg.as_bytes()) else {
        return vec![Failure::unknown_hash(hash_alg)];
    };
    let evidence = match Evidence::of(ak_public, quote, hash) {
        Ok(evidence) => evidence,
        Err(failure) => return vec![failure],
    };
    let nothing = Held {
        judge: None,
        pcr_policy: None,
        measured_boot: None,
    };
    let appraised = evidence.appraise(nonce, nothing, hash).conclude();
    // What the PCRs hold is nobody's question here, so that no list is missing.
    failures(appraised, true)
}

/// Key and quote.
struct Evidence {
    key: VerifyingKey,
    key_attributes: Result<(), KeyAttributeError>,
    quote: QuoteText,
}

impl Evidence {
    /// Reads what the machine is said to have sent, and its key.
    fn read(asked: &Asked<'_>, hash: HashAlg) -> Result<Self, Stop> {
        let bytes = decode(&asked.needed("tpm_ak")?, PUBLIC_BYTES_MAX).ok_or_else(|| {
            Failure::of_key(Code::AkMalformed, "tpm_ak is no TPM2B_PUBLIC in base64")
        })?;
        Ok(Self::of(&bytes, &asked.needed("quote")?, hash)?)
    }

    /// The same of a key and a quote that were found elsewhere.
    fn of(ak_public: &[u8], quote: &str, hash: HashAlg) -> Result<Self, Failure> {
        let public = Public::parse(ak_public).map_err(|error| {
            let code = match error {
                PublicError::Malformed(_) => Code::AkMalformed,
                _ => Code::AkNotAllowed,
            };
            Failure::of_key(code, &error.to_string())
        })?;
        let key = VerifyingKey::from_tpm(&public)
            .map_err(|error| Failure::of_key(Code::AkNotAllowed, &error.to_string()))?;
        let quote = QuoteText::parse(quote)
            .map_err(|error| Failure::of_quote(Code::QuoteMalformed, error.to_string()))?;
        let signed_with = Signature::parse(&quote.signature).map(|signature| signature.hash());
        if let Ok(found) = signed_with
            && found != hash
        {
            let detail = format!("Quote was expected to use {hash} but used {found} instead");
            return Err(Failure::of_quote(Code::QuoteAlgNotAllowed, detail));
        }
        Ok(Self {
            key,
            key_attributes: check_attestation_key(&public, false),
            quote,
        })
    }

    fn appraise(self, nonce: &str, held: Held, hash: HashAlg) -> Appraisal {
        let QuoteText {
            message,
            signature,
            values,
        } = self.quote;
        let reference = Reference {
            key: self.key.into(),
            key_attributes: Some(self.key_attributes),
            nonce: ExtraData::Given(expected_nonce(nonce, &message)),
            challenged: None,
            pcr_policy: held.pcr_policy.map(Arc::new),
            boot_pcrs: None,
            measured_boot: held.measured_boot,
            judge: held.judge,
        };
        let rules = Rules {
            allow_sha1: false,
            strict: false,
            bank: hash,
            needs_boot_pcrs: true,
        };
        Appraisal::of_quote(reference, rules, &message, &signature, values)
    }
}

/// The bytes that the nonce stands for: its characters, as agents sign that are polled, or what they
/// encode in base64, as agents sign that push. The quote says which of the two it claims.
fn expected_nonce(nonce: &str, message: &[u8]) -> Box<[u8]> {
    let claimed = Quote::parse(message).ok();
    let claimed = claimed.map(|quote| quote.unverified_attest().extra_data);
    match STANDARD.decode(nonce) {
        Ok(decoded) if !decoded.is_empty() && claimed == Some(&*decoded) => decoded.into(),
        _ => nonce.as_bytes().into(),
    }
}

fn decode(text: &str, max: usize) -> Option<Vec<u8>> {
    // Four characters for three bytes, rounded up.
    let characters = max.div_ceil(3).saturating_mul(4);
    if text.len() > characters {
        return None;
    }
    STANDARD
        .decode(text)
        .ok()
        .filter(|bytes| bytes.len() <= max)
}

fn read_pcr_policy(asked: &Asked<'_>) -> Result<Option<PcrPolicy>, Refused> {
    let policy = asked.optional("tpm_policy")?;
    let policy = policy.map(|text| PcrPolicy::parse(text.as_bytes()));
    policy
        .transpose()
        .map_err(|error| Refused::request(format!("tpm_policy is malformatted: {error}")))
}

/// The policy that the server is configured for, with the reference state of the request. An empty
/// one asks for nothing, as in Keylime.
///
/// `once` has `example` judge a machine's log with its first attestation. Here is no machine that is
/// known from before, and Keylime judges none: replay alone remains.
fn read_boot_policy(
    asked: &Asked<'_>,
    settings: MeasuredBoot,
) -> Result<Option<MeasuredBootPolicy>, Refused> {
    let Some(text) = asked.optional("mb_policy")? else {
        return Ok(None);
    };
    let name = match (settings.policy_name, settings.evaluate) {
        (PolicyName::Example, Evaluate::Once) => PolicyName::AcceptAll,
        (name, _) => name,
    };
    MeasuredBootPolicy::parse(name, text.as_bytes())
        .map_err(|error| Refused::request(format!("mb_policy is malformatted: {error}")))
}

fn read_boot_log(asked: &Asked<'_>) -> Result<Option<Vec<u8>>, Refused> {
    let Some(text) = asked.optional("mb_log")? else {
        return Ok(None);
    };
    match decode(&text, UEFI_LOG_BYTES_MAX) {
        Some(log) => Ok(Some(log)),
        None => Err(Refused::request(format!(
            "mb_log must be base64 of at most {UEFI_LOG_BYTES_MAX} bytes"
        ))),
    }
}

/// Streams the list through the engine, for as long as there is time.
fn replay(
    appraisal: &mut Appraisal,
    list: &[u8],
    log_hash: Option<HashAlg>,
    until: Instant,
) -> Result<(), Refused> {
    let options = ImaOptions {
        format: LogFormat::Ascii,
        log_hash: log_hash.unwrap_or(HashAlg::Sha1),
        ..ImaOptions::default()
    };
    let Some(mut appraiser) = appraisal.ima(options, Start::First) else {
        return Ok(());
    };
    for piece in list.chunks(PIECE_BYTES) {
        if Instant::now() >= until {
            metrics::limit_rejected("VERIFICATION_MS_MAX");
            return Err(Refused {
                status: StatusCode::GATEWAY_TIMEOUT,
                text: "the evidence takes too long to judge".to_owned(),
            });
        }
        if !appraiser.feed(piece) {
            break;
        }
    }
    appraisal.ima_finished(appraiser.finish());
    Ok(())
}

/// What is wrong, if something is.
fn failures(appraised: Appraised, has_list: bool) -> Vec<Failure> {
    let counts = appraised.warnings.iter().filter(|it| fails_here(it));
    let mut failures = failure::of_findings(appraised.findings.iter().chain(counts));
    let covers_ima = appraised.signed.is_some_and(|quote| {
        let mut banks = quote.selection().banks();
        banks.any(|(_, pcrs)| pcrs.contains(PcrIndex::IMA))
    });
    if covers_ima && !has_list && failures.is_empty() {
        failures.push(Failure::unexplained_list());
    }
    let passes = matches!(appraised.verdict, Verdict::Trusted(_) | Verdict::Authentic);
    if !passes && failures.is_empty() {
        failures.push(Failure::untrusted());
    }
    failures
}

/// Nobody decides for a machine that is not enrolled, so that what a group would decide fails here,
/// too. PCR 0-9 beside IMA's are the exception: Keylime's clients quote PCR 10 without them, and the
/// policy lists boot_aggregate.
const fn fails_here(warning: &Finding) -> bool {
    !matches!(warning.reason, Reason::BootNotQuoted(_))
}
