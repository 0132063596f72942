//! Generated measurement lists, the engine's pass over them, and a slow, obvious one.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;
use proptest::sample::{Index, subsequence};
use rat_engine::agent_id::AgentId;
use rat_engine::hash::{Digest, HashAlg};
use rat_engine::ima::boot_aggregate::BootAggregates;
use rat_engine::ima::judge::Judge;
use rat_engine::ima::{
    BankScheme, Committed, ImaAppraiser, ImaCaches, ImaError, ImaOptions, ImaOutcome, LogFormat,
    Start, Template,
};
use rat_engine::pcr::PcrValues;
use rat_engine::policy::RuntimePolicy;
use rat_engine::verdict::{Finding, Reason};
use rat_tests::evidence::{boot_value, pcr, policy_json};
use rat_tests::measured::Measured;
use rat_tests::oracle;

/// A machine's list and how it is made, sent and judged.
#[derive(Debug, Clone)]
pub(super) struct Case {
    pub(super) list: Vec<Measured>,
    /// Whether the policy lists the entry's digest.
    pub(super) listed: Vec<bool>,
    pub(super) banks: Vec<HashAlg>,
    pub(super) pcrs: Vec<u8>,
    pub(super) scheme: BankScheme,
    pub(super) log_hash: HashAlg,
    pub(super) format: LogFormat,
    /// Whether a runtime policy judges the events.
    pub(super) judged: bool,
    pub(super) accept_violations: bool,
}

/// What the random choices for one entry are made of.
type Choices = (Index, u8, u8, u8, Vec<u8>, bool);

fn choices() -> impl Strategy<Value = Choices> {
    let bytes = proptest::collection::vec(any::<u8>(), 0..24);
    let small = any::<u8>;
    (
        any::<Index>(),
        small(),
        small(),
        small(),
        bytes,
        any::<bool>(),
    )
}

fn entry(
    at: usize,
    pcrs: &[u8],
    (template, name, pcr, kind, bytes, listed): Choices,
) -> (Measured, bool) {
    let template = *template.get(&Template::ALL);
    let mut measured = Measured::file("", &bytes).in_template(template);
    measured.name = match name % 4 {
        // Raw bytes, as file systems allow; the kernel never writes NUL, space or newline.
        0 => [&[0xff, b'/', 0x80 | name][..], at.to_string().as_bytes()].concat(),
        1 => format!("/excluded/{at}").into_bytes(),
        _ => format!("/usr/bin/ä\\x2d{at}").into_bytes(),
    };
    let named = name % 4 > 1;
    measured.pcr = pcrs[usize::from(pcr) % pcrs.len()];
    measured.violation = pcr % 8 == 7;
    let alg = HashAlg::ALL[usize::from(kind) % 4];
    if template != Template::Ima {
        let version = if measured.digest_prefix.starts_with("ima:") {
            "ima:"
        } else {
            ""
        };
        measured.digest_prefix = format!("{version}{}", alg.name());
        measured.digest = oracle::digest(alg, &bytes);
    }
    let mut listed = listed && named;
    match (template, kind / 64) {
        (Template::ImaBuf, 0) => measured.tail = [&bytes[..], b"changed"].concat(),
        (Template::ImaBuf, _) => measured.tail = bytes,
        (Template::ImaSig | Template::ImaSigV2 | Template::ImaModSig, 0) => {
            // A signature by nobody's key, in the form that the kernel demands.
            let length = (bytes.len() as u16 + 1).to_be_bytes();
            measured.tail = [&[3, 2, 4, 1, 2, 3, 4][..], &length, &bytes, &[9]].concat();
        }
        (Template::ImaSig | Template::ImaSigV2 | Template::ImaModSig, 1) => {
            measured.tail = [&[1][..], &bytes].concat();
        }
        (Template::ImaNgV2, 0) => {
            measured.digest_prefix = format!("verity:{}", alg.name());
            listed = false;
        }
        _ => {}
    }
    (measured, listed)
}

prop_compose! {
    pub(super) fn case(entries: std::ops::Range<usize>)(
        banks in subsequence(HashAlg::ALL.to_vec(), 1..=4).prop_shuffle(),
        pcrs in prop_oneof![Just(vec![10]), Just(vec![10, 11]), Just(vec![10, 11, 13])],
        scheme in prop_oneof![3 => Just(BankScheme::OwnHash), 1 => Just(BankScheme::PaddedSha1)],
        log_hash in any::<Index>(),
        format in prop_oneof![Just(LogFormat::Ascii), Just(LogFormat::Binary)],
        (judged, accept_violations, long_form) in any::<(bool, bool, bool)>(),
        choices in proptest::collection::vec(choices(), entries),
    ) -> Case {
        let first = banks[0];
        let last = if long_form && first != HashAlg::Sha1 { 10 } else { 8 };
        let boot: Vec<_> = (0..last).map(|pcr| boot_value(first, pcr)).collect();
        let mut list = vec![Measured::boot_aggregate(first, &boot)];
        let mut listed = vec![false];
        for (at, choices) in choices.into_iter().enumerate() {
            let (measured, is_listed) = entry(at + 1, &pcrs, choices);
            list.push(measured);
            listed.push(is_listed);
        }
        let log_hash = *log_hash.get(&HashAlg::ALL);
        Case { list, listed, banks, pcrs, scheme, log_hash, format, judged, accept_violations }
    }
}

/// Values of the IMA PCRs, by bank and index.
pub(super) type Registers = BTreeMap<(HashAlg, u8), Vec<u8>>;

impl Case {
    /// The registers after each number of entries.
    pub(super) fn replay(&self) -> Vec<Registers> {
        let entries: Vec<_> = self.list.iter().map(Measured::oracle).collect();
        match self.scheme {
            BankScheme::OwnHash => oracle::replay(&entries, &self.banks, &self.pcrs),
            BankScheme::PaddedSha1 => {
                let mut all = vec![oracle::replay(&[], &self.banks, &self.pcrs)[0].clone()];
                for entry in &entries {
                    let mut now = all[all.len() - 1].clone();
                    for bank in &self.banks {
                        let mut event = match &entry.data {
                            Some(data) => oracle::digest(HashAlg::Sha1, data),
                            None => vec![0xff; 20],
                        };
                        event.resize(bank.size(), 0);
                        let value = now.get_mut(&(*bank, entry.pcr)).unwrap();
                        *value = oracle::extend(*bank, value, &event);
                    }
                    all.push(now);
                }
                all
            }
        }
    }

    /// The log with these entries.
    pub(super) fn log(&self, entries: std::ops::Range<usize>) -> Vec<u8> {
        let write = |entry: &Measured| match self.format {
            LogFormat::Ascii => entry.ascii(self.log_hash),
            LogFormat::Binary => entry.binary(self.log_hash),
        };
        self.list[entries].iter().flat_map(write).collect()
    }

    fn quoted(&self, registers: &Registers) -> PcrValues {
        let mut values = PcrValues::new();
        for bank in &self.banks {
            for index in 0..10 {
                let value = Digest::new(*bank, &boot_value(*bank, index)).unwrap();
                values.insert(pcr(index.into()), value);
            }
        }
        for ((bank, index), value) in registers {
            values.insert(pcr(u64::from(*index)), Digest::new(*bank, value).unwrap());
        }
        values
    }

    pub(super) fn options(&self) -> ImaOptions {
        ImaOptions {
            format: self.format,
            log_hash: self.log_hash,
            scheme: self.scheme,
            pcrs: self
                .pcrs
                .iter()
                .map(|index| pcr(u64::from(*index)))
                .collect(),
            accept_violations: self.accept_violations,
            ..ImaOptions::default()
        }
    }

    /// The policy's JSON: every listed entry, and files below one folder excluded.
    pub(super) fn policy(&self) -> String {
        let mut tables = [serde_json::Map::new(), serde_json::Map::new()];
        for (measured, _) in self
            .list
            .iter()
            .zip(&self.listed)
            .filter(|(_, listed)| **listed)
        {
            let table = &mut tables[usize::from(measured.template == Template::ImaBuf)];
            let name = String::from_utf8(measured.name.clone()).unwrap();
            table.insert(name, serde_json::json!([hex::encode(&measured.digest)]));
        }
        let [mut files, buffers] = tables;
        files.insert(
            "/usr/bin/always".into(),
            serde_json::json!(["00".repeat(32)]),
        );
        let text = policy_json(files.into(), &["/excluded/"]);
        let mut policy: serde_json::Value = serde_json::from_str(&text).unwrap();
        policy["ima-buf"] = buffers.into();
        policy.to_string()
    }

    /// What the engine says of a log that arrives in these pieces.
    pub(super) fn appraise<'l>(
        &self,
        quoted: &Registers,
        start: Start,
        limit_bytes: Option<u64>,
        pieces: impl Iterator<Item = &'l [u8]>,
    ) -> Result<ImaOutcome, ImaError> {
        let mut options = self.options();
        options.limit_bytes = limit_bytes.unwrap_or(options.limit_bytes);
        let judge = self.judged.then(|| self.judge());
        self.appraise_under(quoted, start, options, judge, None, pieces)
    }

    /// Judges under [`policy`](Self::policy).
    pub(super) fn judge(&self) -> Arc<Judge> {
        let runtime = RuntimePolicy::parse(self.policy().as_bytes()).unwrap();
        Arc::new(Judge::new(runtime.into()).unwrap())
    }

    /// The same with other options, under any policy, as a list of an agent that uses caches.
    pub(super) fn appraise_under<'l>(
        &self,
        quoted: &Registers,
        start: Start,
        options: ImaOptions,
        judge: Option<Arc<Judge>>,
        caches: Option<(&Arc<ImaCaches>, &AgentId)>,
        pieces: impl Iterator<Item = &'l [u8]>,
    ) -> Result<ImaOutcome, ImaError> {
        let quoted = self.quoted(quoted);
        let boot = BootAggregates::from_quoted(&quoted);
        let mut appraiser = ImaAppraiser::new(&quoted, options, start, boot, judge)?;
        if let Some((caches, agent)) = caches {
            appraiser = appraiser.with_caches(Arc::clone(caches), agent);
        }
        for piece in pieces {
            appraiser.feed(piece);
        }
        appraiser.finish()
    }

    pub(super) fn appraise_whole(
        &self,
        quoted: &Registers,
        start: Start,
        log: &[u8],
    ) -> Result<ImaOutcome, ImaError> {
        self.appraise(quoted, start, None, std::iter::once(log))
    }

    /// Why an event before the cut fails, as a code.
    fn offence(&self, at: usize) -> Option<&'static str> {
        let Measured {
            template,
            tail,
            digest,
            ..
        } = &self.list[at];
        let excluded = self.list[at].name.starts_with(b"/excluded/");
        let passes = !self.judged || self.listed[at] || excluded;
        if self.list[at].violation {
            return (self.judged && !self.accept_violations).then_some("ima.violation");
        }
        match template {
            Template::ImaBuf => {
                let alg = HashAlg::from_size(digest.len()).unwrap();
                match oracle::digest(alg, tail) == *digest {
                    false => Some("ima.buf_digest"),
                    true => (!passes).then_some("ima.buf_not_listed"),
                }
            }
            // Only the form of signatures matters: none here verifies.
            _ if !tail.is_empty() && tail[0] != 3 => Some("ima.sig_malformed"),
            _ => (at > 0 && !passes).then_some("ima.path_not_listed"),
        }
    }
}

/// What the obvious pass says.
#[derive(Debug, PartialEq)]
pub(super) struct Expected {
    pub(super) cut: usize,
    pub(super) running: Registers,
    pub(super) entries: usize,
    /// Bytes of the entries before the cut.
    pub(super) proven_bytes: usize,
    pub(super) pending: usize,
    pub(super) violations: usize,
    /// Code, first entry, and count, in the order of their first entries.
    pub(super) offences: Vec<(&'static str, usize, usize)>,
}

/// One obvious pass over entries `from..to` of a list, against these quoted values.
pub(super) fn expected(
    case: &Case,
    quoted: &Registers,
    from: usize,
    to: usize,
) -> Result<Expected, &'static str> {
    let replayed = case.replay();
    let Some(cut) = (from..=to).find(|at| replayed[*at] == *quoted) else {
        let alone = |key: &(HashAlg, u8)| (from..=to).any(|at| replayed[at][key] == quoted[key]);
        return Err(match quoted.keys().all(alone) {
            true => "ima.banks_disagree",
            false => "ima.pcr_mismatch",
        });
    };
    if cut == 0 {
        return Err("ima.boot_aggregate");
    }
    let mut offences: Vec<(&'static str, usize, usize)> = Vec::new();
    for at in from..cut {
        let Some(code) = case.offence(at) else {
            continue;
        };
        match offences.iter_mut().find(|(known, ..)| *known == code) {
            Some((.., count)) => *count += 1,
            None => offences.push((code, at, 1)),
        }
    }
    Ok(Expected {
        cut,
        running: quoted.clone(),
        entries: cut - from,
        proven_bytes: case.log(from..cut).len(),
        pending: to - cut,
        violations: case.list[from..cut]
            .iter()
            .filter(|entry| entry.violation)
            .count(),
        offences,
    })
}

pub(super) fn registers(committed: &Committed) -> Registers {
    let values = committed.running().iter();
    values
        .map(|(pcr, digest)| ((digest.alg(), pcr.get()), digest.as_bytes().to_vec()))
        .collect()
}

/// The engine's outcome in the oracle's words.
pub(super) fn found(outcome: Result<ImaOutcome, ImaError>) -> Result<Expected, &'static str> {
    let ImaOutcome {
        committed,
        report,
        proof,
        ..
    } = outcome.map_err(|error| Finding::new(Reason::Ima(error)).code.as_str())?;
    assert_eq!(proof.cut(), committed.position());
    let denied: u64 = report.offences.iter().map(|offence| offence.count).sum();
    assert_eq!(report.denied, denied);
    assert!(proof.passed_under().is_none() || denied == 0);
    let offences = report.offences.iter().map(|offence| {
        let code = Finding::new(Reason::Offence(offence.clone())).code.as_str();
        (code, offence.entry as usize, offence.count as usize)
    });
    Ok(Expected {
        cut: committed.position() as usize,
        running: registers(&committed),
        entries: report.entries as usize,
        proven_bytes: report.proven_bytes as usize,
        pending: report.pending as usize,
        violations: report.violations as usize,
        offences: offences.collect(),
    })
}
