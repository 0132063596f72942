//! Attack I19: what one list left in the caches changes no other list's outcome.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::as_conversions,
    clippy::arithmetic_side_effects
)]

use std::sync::Arc;

use rat_engine::agent_id::AgentId;
use rat_engine::hash::HashAlg;
use rat_engine::ima::boot_aggregate::BootAggregates;
use rat_engine::ima::judge::Judge;
use rat_engine::ima::{
    BankScheme, CacheFigures, CacheLimits, ImaAppraiser, ImaCaches, ImaError, ImaOptions,
    ImaOutcome, LogFormat, Start, Template,
};
use rat_engine::pcr::PcrValues;
use rat_engine::policy::RuntimePolicy;
use rat_engine::verdict::{Finding, Reason};
use rat_tests::evidence::{Machine, boot_value, pcr, policy_json};
use rat_tests::measured::{self, Measured};
use rat_tests::measured_keys::{SigningKey, policy_with_keyring, policy_with_verification_keys};
use rat_tests::oracle;

/// Machines whose lists meet in the same caches.
struct Fleet {
    caches: Arc<ImaCaches>,
    options: ImaOptions,
}

impl Fleet {
    fn new() -> Self {
        Self {
            caches: Arc::new(ImaCaches::new(CacheLimits::default(), 1)),
            options: ImaOptions {
                format: LogFormat::Binary,
                ..ImaOptions::default()
            },
        }
    }

    /// The same machines, their lists appraised otherwise.
    fn with(&self, change: impl FnOnce(&mut ImaOptions)) -> Self {
        let mut options = self.options.clone();
        change(&mut options);
        Self {
            caches: Arc::clone(&self.caches),
            options,
        }
    }

    /// What is said of this list, which must be what is said of it without caches.
    #[track_caller]
    fn judge(
        &self,
        agent: &str,
        quoted: &PcrValues,
        list: &[u8],
        judge: Option<&Arc<Judge>>,
    ) -> Result<ImaOutcome, ImaError> {
        let appraiser = || {
            let boot = BootAggregates::from_quoted(quoted);
            let options = self.options.clone();
            ImaAppraiser::new(quoted, options, Start::First, boot, judge.cloned()).unwrap()
        };
        let caches = Arc::clone(&self.caches);
        let agent = AgentId::parse(agent).unwrap();
        let mut with = appraiser().with_caches(caches, &agent);
        let mut without = appraiser();
        for piece in list.chunks(1000) {
            assert_eq!(with.feed(piece), without.feed(piece));
        }
        let (with, without) = (with.finish(), without.finish());
        assert_eq!(format!("{with:?}"), format!("{without:?}"));
        with
    }

    /// The same for what a machine measured and quotes.
    #[track_caller]
    fn codes(&self, agent: &str, list: &[Measured], judge: &Arc<Judge>) -> Vec<&'static str> {
        let list_bytes = self.binary(list);
        codes(self.judge(
            agent,
            &quoted(list, &[HashAlg::Sha256]),
            &list_bytes,
            Some(judge),
        ))
    }

    fn binary(&self, list: &[Measured]) -> Vec<u8> {
        list.iter()
            .flat_map(|entry| entry.binary(self.options.log_hash))
            .collect()
    }

    /// What the caches did meanwhile.
    fn figures(&self, work: impl FnOnce()) -> CacheFigures {
        let before = self.caches.figures();
        work();
        let after = self.caches.figures();
        CacheFigures {
            hits: after.hits - before.hits,
            misses: after.misses - before.misses,
            insertions: after.insertions - before.insertions,
            promotions: after.promotions - before.promotions,
            ..after
        }
    }
}

/// Codes of what fails, in the order of the list.
fn codes(outcome: Result<ImaOutcome, ImaError>) -> Vec<&'static str> {
    match outcome {
        Err(error) => vec![Finding::new(Reason::Ima(error)).code.as_str()],
        Ok(outcome) => {
            let offences = outcome.report.offences.into_iter();
            offences
                .map(|offence| Finding::new(Reason::Offence(offence)).code.as_str())
                .collect()
        }
    }
}

fn quoted(list: &[Measured], banks: &[HashAlg]) -> PcrValues {
    let entries: Vec<_> = list.iter().map(Measured::oracle).collect();
    let replayed = oracle::replay(&entries, banks, &[10]).pop().unwrap();
    let mut values = PcrValues::new();
    for bank in banks {
        let digest = |bytes: &[u8]| rat_engine::hash::Digest::new(*bank, bytes).unwrap();
        for index in 0..10 {
            values.insert(pcr(index.into()), digest(&boot_value(*bank, index)));
        }
        values.insert(pcr(10), digest(&replayed[&(*bank, 10)]));
    }
    values
}

fn judge(policy: &str) -> Arc<Judge> {
    let policy = RuntimePolicy::parse(policy.as_bytes()).unwrap();
    Arc::new(Judge::new(policy.into()).unwrap())
}

/// The list of a valid machine, with more, and a policy for all of it.
fn list(more: impl IntoIterator<Item = Measured>) -> (Vec<Measured>, Arc<Judge>) {
    let machine = Machine::valid().with(|machine| machine.list.extend(more));
    let judge = judge(&machine.policy());
    (machine.list, judge)
}

const NONE: [&str; 0] = [];

#[test]
fn i19_what_lists_share_is_hashed_and_judged_once() {
    let fleet = Fleet::new();
    let (list, judge) = list((0..50).map(|n| Measured::file(&format!("/usr/bin/{n}"), b"x")));
    let first = fleet.figures(|| assert_eq!(fleet.codes("a", &list, &judge), NONE));
    // boot_aggregate is asked for, and never there.
    assert_eq!((first.hits, first.misses, first.insertions), (0, 54, 53));
    let second = fleet.figures(|| assert_eq!(fleet.codes("b", &list, &judge), NONE));
    assert_eq!((second.hits, second.misses, second.insertions), (53, 1, 0));
    assert_eq!(second.promotions, 53);
    let third = fleet.figures(|| assert_eq!(fleet.codes("b", &list, &judge), NONE));
    assert_eq!((third.hits, third.promotions, third.evictions), (53, 0, 0));
}

#[test]
fn i19_the_same_bytes_in_another_template_are_judged_again() {
    let fleet = Fleet::new();
    let empty_signature = Measured::file("/usr/bin/x", b"x").in_template(Template::ImaSig);
    let (list, judge) = list([empty_signature]);
    for _ in 0..2 {
        assert_eq!(fleet.codes("a", &list, &judge), NONE);
    }
    let relabelled = |label| -> Vec<u8> {
        let (last, rest) = list.split_last().unwrap();
        let mut bytes = fleet.binary(rest);
        bytes.extend(last.binary_labelled(HashAlg::Sha1, label));
        bytes
    };
    // The template's name is not hashed: the quote stays right.
    let quoted = quoted(&list, &[HashAlg::Sha256]);
    for (label, code) in [
        (Template::ImaBuf, "ima.buf_digest"),
        (Template::ImaSigV2, "ima.malformed"),
        (Template::ImaNg, "ima.malformed"),
    ] {
        let bytes = relabelled(label);
        let found = codes(fleet.judge("b", &quoted, &bytes, Some(&judge)));
        assert_eq!(found, [code], "{label}");
    }
}

#[test]
fn i19_another_bank_log_hash_or_scheme_is_hashed_again() {
    let fleet = Fleet::new();
    let (list, judge) = list([]);
    assert_eq!(fleet.codes("a", &list, &judge), NONE);
    let log = fleet.binary(&list);
    for banks in [&HashAlg::ALL[..], &[HashAlg::Sha384, HashAlg::Sha256]] {
        for _ in 0..2 {
            let quoted = quoted(&list, banks);
            assert_eq!(codes(fleet.judge("b", &quoted, &log, Some(&judge))), NONE);
        }
    }
    let quoted = quoted(&list, &[HashAlg::Sha256]);
    let sha256_log = fleet.with(|options| options.log_hash = HashAlg::Sha256);
    let bytes = sha256_log.binary(&list);
    assert_eq!(
        codes(sha256_log.judge("c", &quoted, &bytes, Some(&judge))),
        NONE
    );
    // The right hash of the entry, in a bank that extends another.
    let padded = fleet.with(|options| options.scheme = BankScheme::PaddedSha1);
    let found = codes(padded.judge("d", &quoted, &log, Some(&judge)));
    assert_eq!(found, ["ima.pcr_mismatch"]);
}

#[test]
fn i19_another_policy_or_option_is_asked_again() {
    let fleet = Fleet::new();
    let foreign = SigningKey::p256().signed_file("/usr/bin/signed", b"c");
    let (list, allows) = list([foreign]);
    let (_, lists_less) = self::list([]);
    let other_digest = judge(&policy_json(
        serde_json::json!({ "/usr/bin/signed": ["00".repeat(32)] }),
        &["/usr/(bin/(ls|bash)|lib)"],
    ));
    let strict = fleet.with(|options| options.require_valid_ima_sig = true);
    for agent in ["a", "b", "a"] {
        assert_eq!(fleet.codes(agent, &list, &allows), NONE);
        assert_eq!(
            fleet.codes(agent, &list, &lists_less),
            ["ima.path_not_listed"]
        );
        assert_eq!(
            fleet.codes(agent, &list, &other_digest),
            ["ima.digest_not_listed"]
        );
        assert_eq!(strict.codes(agent, &list, &allows), ["ima.sig_invalid"]);
        // A template that the machine does not declare.
        let quoted = quoted(&list, &[HashAlg::Sha256]);
        let ng_only = fleet.with(|options| options.templates = vec![Template::ImaNg].into());
        let found = codes(ng_only.judge(agent, &quoted, &fleet.binary(&list), Some(&allows)));
        assert_eq!(found, ["ima.template_unsupported"]);
    }
}

#[test]
fn i19_a_key_that_one_machine_learned_counts_for_it_alone() {
    let fleet = Fleet::new();
    let key = SigningKey::p256();
    let certificate = Measured::buffer(".ima", &key.spki_der());
    let signed = key.signed_file("/usr/bin/signed", b"content");
    let base = Machine::valid();
    let approves = judge(&policy_with_keyring(
        &base.policy(),
        ".ima",
        &certificate.digest,
    ));
    let with = |more: &[&Measured]| {
        let mut list = base.list.clone();
        list.extend(more.iter().map(|entry| (*entry).clone()));
        list
    };
    let learns = with(&[&certificate, &signed]);
    let does_not = with(&[&signed]);
    let learns_late = with(&[&signed, &certificate]);
    for agent in ["a", "b", "a", "c"] {
        assert_eq!(fleet.codes(agent, &learns, &approves), NONE);
        assert_eq!(
            fleet.codes(agent, &does_not, &approves),
            ["ima.path_not_listed"]
        );
        assert_eq!(
            fleet.codes(agent, &learns_late, &approves),
            ["ima.path_not_listed"]
        );
    }
    // The signed file's hashes are the fleet's, the key is no record.
    let figures = fleet.figures(|| assert_eq!(fleet.codes("d", &learns, &approves), NONE));
    assert_eq!(
        (figures.hits, figures.misses, figures.insertions),
        (4, 2, 0)
    );

    // A key of the policy counts for all.
    let policy = judge(&policy_with_verification_keys(&base.policy(), &[&key]));
    for agent in ["a", "b"] {
        assert_eq!(fleet.codes(agent, &does_not, &policy), NONE);
        assert_eq!(
            fleet.codes(agent, &does_not, &approves),
            ["ima.path_not_listed"]
        );
    }
}

#[test]
fn i19_the_violation_flag_is_read_each_time() {
    let fleet = Fleet::new();
    let (clean, judge) = list([Measured::file("/usr/bin/x", b"x")]);
    let mut violated = clean.clone();
    violated.last_mut().unwrap().violation = true;
    // First as a violation: nothing of it is kept.
    assert_eq!(fleet.codes("a", &violated, &judge), ["ima.violation"]);
    let figures = fleet.figures(|| assert_eq!(fleet.codes("b", &clean, &judge), NONE));
    assert_eq!((figures.hits, figures.insertions), (3, 1));
    // Then as a known entry with the flag, with the quote of each.
    for agent in ["a", "b"] {
        assert_eq!(fleet.codes(agent, &violated, &judge), ["ima.violation"]);
        let quoted = quoted(&clean, &[HashAlg::Sha256]);
        let bytes = fleet.binary(&violated);
        let found = codes(fleet.judge(agent, &quoted, &bytes, Some(&judge)));
        assert_eq!(found, ["ima.pcr_mismatch"]);
    }
}

#[test]
fn i19_the_logged_hash_and_pcr_of_a_known_entry_are_compared() {
    let fleet = Fleet::new();
    let (list, judge) = list([]);
    for agent in ["a", "b"] {
        assert_eq!(fleet.codes(agent, &list, &judge), NONE);
    }
    let quoted = quoted(&list, &[HashAlg::Sha256]);
    let start = fleet.binary(&list[..3]).len();
    let forged = |at: usize| {
        let mut bytes = fleet.binary(&list);
        bytes[start + at] ^= 1;
        codes(fleet.judge("c", &quoted, &bytes, Some(&judge)))
    };
    // PCR, template hash, template data.
    assert_eq!(forged(0), ["ima.wrong_pcr"]);
    assert_eq!(forged(4), ["ima.template_hash"]);
    let last = fleet.binary(&list).len() - start - 2;
    assert_eq!(forged(last), ["ima.template_hash"]);
}

#[test]
fn i19_only_entries_before_a_matched_cut_are_inserted() {
    let fleet = Fleet::new();
    let (list, judge) = list((0..20).map(|n| Measured::file(&format!("/usr/bin/{n}"), b"x")));
    let all = fleet.binary(&list);
    // The quote is of another list; then of none of the list's entries.
    let other = quoted(
        &self::list([Measured::file("/other", b"x")]).0,
        &[HashAlg::Sha256],
    );
    let figures = fleet.figures(|| {
        let found = codes(fleet.judge("a", &other, &all, Some(&judge)));
        assert_eq!(found, ["ima.pcr_mismatch"]);
    });
    assert_eq!((figures.insertions, figures.records), (0, 0));
    // What fails for another reason proves nothing either.
    let mut cut_short = all.clone();
    cut_short.truncate(all.len() - 3);
    let whole = quoted(&list, &[HashAlg::Sha256]);
    let figures = fleet.figures(|| {
        fleet
            .judge("a", &whole, &cut_short, Some(&judge))
            .unwrap_err();
    });
    assert_eq!((figures.insertions, figures.records), (0, 0));
    // Ten entries lie beyond the cut.
    let early = quoted(&list[..14], &[HashAlg::Sha256]);
    let figures = fleet.figures(|| {
        let outcome = fleet.judge("a", &early, &all, Some(&judge)).unwrap();
        assert_eq!((outcome.report.entries, outcome.report.pending), (14, 10));
    });
    assert_eq!((figures.insertions, figures.records), (13, 13));
    // A verification without caches leaves nothing.
    let boot = BootAggregates::from_quoted(&whole);
    let options = fleet.options.clone();
    let mut bare = ImaAppraiser::new(
        &whole,
        options,
        Start::First,
        boot,
        Some(Arc::clone(&judge)),
    )
    .unwrap();
    bare.feed(&all);
    bare.finish().unwrap();
    assert_eq!(fleet.caches.figures().records, 13);
}

#[test]
fn i19_boot_aggregate_and_buffers_are_never_kept() {
    let fleet = Fleet::new();
    let buffer = Measured::buffer("dm_table_load", b"dm_version=4.47.0;name=x");
    let base = Machine::valid();
    let mut policy: serde_json::Value = serde_json::from_str(&base.policy()).unwrap();
    policy["ima-buf"]["dm_table_load"] = serde_json::json!([hex::encode(&buffer.digest)]);
    let judge = judge(&policy.to_string());
    let mut list = base.list.clone();
    list.push(buffer);
    for agent in ["a", "b", "c"] {
        assert_eq!(fleet.codes(agent, &list, &judge), NONE);
        assert_eq!(fleet.caches.figures().records, 3);
    }
    // The aggregate of one machine, on another that booted otherwise.
    let boot: Vec<_> = (0..10).map(|_| vec![7; 32]).collect();
    let mut foreign = list.clone();
    foreign[0] = Measured::boot_aggregate(HashAlg::Sha256, &boot);
    assert_eq!(fleet.codes("d", &foreign, &judge), ["ima.boot_aggregate"]);
    // A known entry where boot_aggregate belongs.
    let mut headless = list.clone();
    headless.remove(0);
    assert_eq!(fleet.codes("e", &headless, &judge), ["ima.boot_aggregate"]);
}

#[test]
fn i19_excludes_of_both_engines_are_kept_by_policy() {
    let fleet = Fleet::new();
    let base = Machine::valid();
    let digests: serde_json::Value = serde_json::from_str(&base.policy()).unwrap();
    // A look-around runs on the engine with a budget.
    let excludes = ["/tmp/", r"/var/(?!lib/).*\.log$"];
    let with = judge(&policy_json(digests["digests"].clone(), &excludes));
    let without = judge(&policy_json(digests["digests"].clone(), &[]));
    for agent in ["a", "b", "c"] {
        let files = ["/tmp/x", "/var/log/x.log", "/var/lib/x.log", "/usr/bin/new"];
        // The same paths on each machine, with a digest of its own.
        let files = files.map(|path| Measured::file(path, agent.as_bytes()));
        let mut list = base.list.clone();
        list.extend(files.clone());
        list.extend(files);
        for _ in 0..2 {
            let quoted = quoted(&list, &[HashAlg::Sha256]);
            let bytes = measured::binary(&list);
            let outcome = fleet.judge(agent, &quoted, &bytes, Some(&with)).unwrap();
            assert_eq!((outcome.report.excluded, outcome.report.denied), (4, 4));
            assert_eq!(fleet.codes(agent, &list, &without), ["ima.path_not_listed"]);
        }
    }
}
