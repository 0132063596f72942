//! The engine's pass over a measurement list equals a slow, obvious one, however the list is cut:
//! into pieces, at the quote, and into partial lists.
//!
//! A failure prints its seed; `PROPTEST_RNG_SEED` repeats it, `PROPTEST_CASES` asks for more.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::as_conversions,
    clippy::arithmetic_side_effects
)]

#[path = "ima_properties/case.rs"]
mod case;

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;

use proptest::prelude::*;
use proptest::sample::{Index, subsequence};
use proptest::test_runner::{RngSeed, TestRunner};
use rat_engine::agent_id::AgentId;
use rat_engine::hash::{Digest, HashAlg};
use rat_engine::ima::{
    BankScheme, CacheLimits, Decoder, Entry, ImaCaches, LogFormat, Start, Template,
};
use rat_engine::limits;
use rat_engine::pcr::{PcrIndex, PcrSet, PcrValues};
use rat_engine::tpm::{PcrSelection, pcr_digest};
use rat_tests::evidence::{Expectation, Machine, pcr};
use rat_tests::oracle;

use case::{Case, case, expected, found, registers};

/// Runs a property on `cases` generated inputs, and says with which seed.
fn hold<S: Strategy>(cases: u32, inputs: S, property: impl Fn(S::Value)) {
    let mut config = ProptestConfig {
        failure_persistence: None,
        max_shrink_iters: 200,
        ..ProptestConfig::with_cases(cases)
    };
    let seed = match ProptestConfig::default().rng_seed {
        RngSeed::Fixed(seed) => seed,
        RngSeed::Random => RandomState::new().build_hasher().finish(),
    };
    config.rng_seed = RngSeed::Fixed(seed);
    eprintln!("PROPTEST_RNG_SEED={seed}");
    let result = TestRunner::new(config).run(&inputs, |input| {
        property(input);
        Ok(())
    });
    if let Err(error) = result {
        panic!("PROPTEST_RNG_SEED={seed}: {error}");
    }
}

/// The log in pieces whose sizes these indices choose, up to 64 bytes but for the last.
fn pieces<'l>(log: &'l [u8], sizes: &[u8]) -> Vec<&'l [u8]> {
    let mut pieces = Vec::new();
    let mut rest = log;
    for size in sizes.iter().cycle() {
        let (piece, tail) = rest.split_at(usize::from(*size % 64).min(rest.len()));
        pieces.push(piece);
        rest = tail;
        if rest.is_empty() || pieces.len() > 10_000 {
            break;
        }
    }
    pieces.push(rest);
    pieces
}

#[test]
fn i18_every_split_of_a_small_list_gives_the_outcome_of_the_whole() {
    hold(24, (case(0..5), any::<Index>()), |(case, cut)| {
        let replayed = case.replay();
        let quoted = &replayed[cut.index(replayed.len())];
        let log = case.log(0..case.list.len());
        let whole = case.appraise_whole(quoted, Start::First, &log);
        assert_eq!(
            found(whole.clone()),
            expected(&case, quoted, 0, case.list.len())
        );
        let whole = format!("{whole:?}");
        for split in 0..=log.len() {
            let (head, tail) = log.split_at(split);
            let halves = [head, tail].into_iter();
            let outcome = case.appraise(quoted, Start::First, None, halves);
            assert_eq!(format!("{outcome:?}"), whole, "split after {split} bytes");
        }
        let outcome = case.appraise(quoted, Start::First, None, log.chunks(1));
        assert_eq!(format!("{outcome:?}"), whole, "byte by byte");
    });
}

#[test]
fn i18_random_splits_of_larger_lists_give_the_outcome_of_the_whole() {
    let sizes = proptest::collection::vec(any::<u8>(), 1..12);
    let splits = proptest::collection::vec(sizes, 6);
    hold(
        12,
        (case(40..160), any::<Index>(), splits),
        |(case, cut, splits)| {
            let replayed = case.replay();
            let quoted = &replayed[cut.index(replayed.len())];
            let log = case.log(0..case.list.len());
            let whole = case.appraise_whole(quoted, Start::First, &log);
            assert_eq!(
                found(whole.clone()),
                expected(&case, quoted, 0, case.list.len())
            );
            for sizes in splits {
                let pieces = pieces(&log, &sizes).into_iter();
                let outcome = case.appraise(quoted, Start::First, None, pieces);
                assert_eq!(format!("{outcome:?}"), format!("{whole:?}"), "{sizes:?}");
            }
        },
    );
}

#[test]
fn i18_a_damaged_or_too_long_list_fails_alike_however_it_is_split() {
    let damage = (
        any::<Index>(),
        any::<u8>(),
        any::<Option<Index>>(),
        any::<Option<Index>>(),
    );
    hold(
        48,
        (case(0..5), any::<Index>(), damage),
        |(case, cut, damage)| {
            let (at, xor, end, limit) = damage;
            let replayed = case.replay();
            let quoted = &replayed[cut.index(replayed.len())];
            let mut log = case.log(0..case.list.len());
            let at = at.index(log.len());
            log[at] ^= xor;
            log.truncate(end.map_or(log.len(), |end| end.index(log.len() + 1)));
            let limit = limit.map(|limit| limit.index(log.len() + 2) as u64);
            let whole = case.appraise(quoted, Start::First, limit, std::iter::once(&log[..]));
            for split in 0..=log.len() {
                let (head, tail) = log.split_at(split);
                let outcome = case.appraise(quoted, Start::First, limit, [head, tail].into_iter());
                assert_eq!(
                    format!("{outcome:?}"),
                    format!("{whole:?}"),
                    "split after {split} bytes"
                );
            }
            let outcome = case.appraise(quoted, Start::First, limit, log.chunks(1));
            assert_eq!(format!("{outcome:?}"), format!("{whole:?}"), "byte by byte");
        },
    );
}

#[test]
fn i18_a_limit_beyond_the_cut_ends_the_list_there_for_one_piece_and_for_many() {
    let machine = Machine::valid();
    let case = Case {
        listed: vec![false; machine.list.len()],
        list: machine.list,
        banks: vec![HashAlg::Sha256],
        pcrs: vec![10],
        scheme: BankScheme::OwnHash,
        log_hash: HashAlg::Sha1,
        format: LogFormat::Ascii,
        judged: false,
        accept_violations: false,
    };
    let quoted = &case.replay()[2];
    let log = case.log(0..case.list.len());
    let limit = case.log(0..3).len() as u64 + 1;
    for size in [log.len(), 100, 1] {
        let outcome = case
            .appraise(quoted, Start::First, Some(limit), log.chunks(size))
            .unwrap();
        assert_eq!(outcome.committed.position(), 2);
        assert_eq!(
            (outcome.report.pending, outcome.report.pending_malformed),
            (1, true)
        );
    }
}

#[test]
fn i18_an_endless_line_is_refused_alike_however_it_is_split() {
    let line = vec![b'1'; limits::IMA_LINE_BYTES_MAX + 100_000];
    let refuse = |pieces: &mut dyn Iterator<Item = &[u8]>| {
        let mut decoder = Decoder::new(LogFormat::Ascii, HashAlg::Sha1, u64::MAX);
        let mut sink = |_: Entry<'_>| {};
        let mut pieces = pieces.map(|piece| decoder.feed(piece, &mut sink));
        pieces.find_map(Result::err).unwrap()
    };
    let whole = refuse(&mut std::iter::once(&line[..]));
    assert_eq!(whole, refuse(&mut line.chunks(4093)));
    let ended = [&line[..], b"\n"].concat();
    assert_eq!(whole, refuse(&mut std::iter::once(&ended[..])));
}

#[test]
fn i04_entries_after_the_quote_are_pending_at_every_position() {
    hold(48, case(0..12), |case| {
        let log = case.log(0..case.list.len());
        for quoted in &case.replay() {
            let outcome = case.appraise_whole(quoted, Start::First, &log);
            assert_eq!(found(outcome), expected(&case, quoted, 0, case.list.len()));
        }
    });
}

#[test]
fn i05_a_quote_ahead_of_the_list_is_a_mismatch_at_every_position() {
    hold(48, case(1..12), |case| {
        let quoted = case.replay().pop().unwrap();
        for sent in 0..case.list.len() {
            let outcome = found(case.appraise_whole(&quoted, Start::First, &case.log(0..sent)));
            assert_eq!(outcome, Err("ima.pcr_mismatch"), "{sent} entries");
        }
    });
}

#[test]
fn i21_partial_lists_end_where_one_full_pass_does() {
    hold(24, (case(1..10), any::<Index>()), |(case, cut)| {
        let replayed = case.replay();
        let length = case.list.len();
        let end = 1 + cut.index(length);
        let whole_log = case.log(0..length);
        let whole = case
            .appraise_whole(&replayed[end], Start::First, &whole_log)
            .unwrap();
        for middle in 1..=length {
            let first = case
                .appraise_whole(&replayed[middle], Start::First, &whole_log)
                .unwrap();
            let again = case.appraise_whole(
                &replayed[end],
                Start::AgainInBoot(first.committed.clone()),
                &whole_log,
            );
            if middle > end {
                assert_eq!(found(again), Err("ima.truncated"));
                continue;
            }
            // The list sent anew from entry 0 proves what was committed, and the rest.
            assert_eq!(again.unwrap().committed, whole.committed);
            let start = Start::Continue {
                committed: first.committed.clone(),
                learned: first.learned.clone(),
                passed_under: first.proof.passed_under().copied(),
            };
            let rest = case.log(middle..length);
            let continued = case.appraise_whole(&replayed[end], start, &rest);
            assert_eq!(
                found(continued.clone()),
                expected(&case, &replayed[end], middle, length)
            );
            let continued = continued.unwrap();
            assert_eq!(continued.committed, whole.committed);
            assert_eq!(
                first.report.entries + continued.report.entries,
                whole.report.entries
            );
            assert_eq!(
                first.report.denied + continued.report.denied,
                whole.report.denied
            );
        }
    });
}

#[test]
fn i21_banks_and_pcrs_that_match_after_different_entries_disagree() {
    hold(
        48,
        (case(2..10), any::<Index>(), any::<Index>()),
        |(case, one, other)| {
            let replayed = case.replay();
            let (one, other) = (one.index(replayed.len()), other.index(replayed.len()));
            let log = case.log(0..case.list.len());
            for changed in replayed[0].keys() {
                let mut quoted = replayed[one].clone();
                quoted.insert(*changed, replayed[other][changed].clone());
                let outcome = found(case.appraise_whole(&quoted, Start::First, &log));
                assert_eq!(outcome, expected(&case, &quoted, 0, case.list.len()));
                if quoted.len() > 1 && outcome.is_err() && one > 0 && other > 0 {
                    assert_eq!(outcome, Err("ima.banks_disagree"));
                }
            }
        },
    );
}

#[test]
fn p08_the_pcr_digest_of_any_banks_in_any_order_is_the_oracles() {
    let banks = subsequence(HashAlg::ALL.to_vec(), 1..=4).prop_shuffle();
    let bits = proptest::array::uniform4(0_u32..1 << 24);
    hold(
        256,
        (banks, bits, any::<u64>(), any::<Index>()),
        |(banks, bits, salt, alg)| {
            let alg = *alg.get(&HashAlg::ALL);
            let sets = bits.map(|bits| PcrSet::from_bits(bits).unwrap());
            let selection = PcrSelection::new(banks.iter().copied().zip(sets)).unwrap();
            let mut values = PcrValues::new();
            let mut in_order = Vec::new();
            for (bank, bits) in banks.iter().zip(bits) {
                for index in (0..24).filter(|index| bits >> index & 1 == 1) {
                    let value = oracle::digest(*bank, format!("{salt} {index}").as_bytes());
                    values.insert(
                        PcrIndex::new(index).unwrap(),
                        Digest::new(*bank, &value).unwrap(),
                    );
                    in_order.push(value);
                }
            }
            let digest = pcr_digest(alg, &selection, &values).unwrap();
            assert_eq!(digest.as_bytes(), oracle::pcr_digest(alg, &in_order));
        },
    );
}

#[test]
fn i18_the_verdict_on_whole_evidence_is_the_same_for_every_size_of_pieces() {
    hold(12, (case(0..6), any::<Index>()), |(case, cut)| {
        let case = Case {
            banks: vec![case.banks[0]],
            scheme: BankScheme::OwnHash,
            judged: true,
            ..case
        };
        let cut = 1 + cut.index(case.list.len());
        let pcrs: PcrSet = (0..10)
            .chain(case.pcrs.iter().map(|index| u64::from(*index)))
            .map(pcr)
            .collect();
        let machine = Machine::valid().with(|machine| {
            machine.banks = vec![(case.banks[0], pcrs)];
            machine.list = case.list[..cut].to_vec();
        });
        // The builder's own policy takes names in UTF-8 only; it is replaced anyway.
        let nameless = machine.clone().with(|machine| machine.list.truncate(1));
        let expectation = Expectation::of(&nameless, b"nonce").with(|expectation| {
            expectation.policy = Some(case.policy());
            expectation.rules.allow_sha1 = true;
            expectation.rules.bank = case.banks[0];
            expectation.ima = case.options();
        });
        let log = case.log(0..case.list.len());
        let submission = machine.attest(b"nonce").with(|submission| {
            submission.log = Some(log.clone());
            submission.format = case.format;
        });
        let quoted = &case.replay()[cut];
        let oracle = expected(&case, quoted, 0, case.list.len()).unwrap();
        let codes: Vec<_> = oracle.offences.iter().map(|(code, ..)| *code).collect();
        for size in (1..=log.len()).step_by(7) {
            let judged = expectation.judge_in_pieces(&submission, size);
            assert_eq!(judged.codes, codes, "pieces of {size}: {judged:#?}");
            let verdict = if codes.is_empty() {
                "trusted"
            } else {
                "untrusted"
            };
            assert_eq!(judged.verdict, verdict);
            assert_eq!(judged.report.unwrap().pending as usize, oracle.pending);
            assert_eq!(registers(&judged.ima.unwrap().committed), oracle.running);
        }
    });
}

/// One change to a case that leaves most of its entries as they were.
type Change = (u8, Index, u8);

fn changed(mut case: Case, changes: &[Change]) -> Case {
    for (kind, at, byte) in changes {
        let first = case.banks[0];
        let at = at.index(case.list.len());
        let entry = &mut case.list[at];
        match kind % 8 {
            0 => entry.digest[0] ^= byte,
            1 => entry.name.push(b'a' + byte % 26),
            2 => entry.violation = !entry.violation,
            3 => entry.tail = vec![3, 2, 4, 1, 2, 3, 4, 0, 1, *byte],
            4 => case.log_hash = HashAlg::ALL[usize::from(byte % 4)],
            // The first bank stays: boot_aggregate is of it.
            5 => case.banks = vec![first],
            6 => case.scheme = BankScheme::PaddedSha1,
            _ => case.accept_violations = !case.accept_violations,
        }
    }
    case
}

/// A list that is sent with one fault or none, by one of three agents, in pieces.
type Sending = (Vec<Change>, Index, u8, (u8, Index, u8), Vec<u8>);

fn sending() -> impl Strategy<Value = Sending> {
    let change = (any::<u8>(), any::<Index>(), any::<u8>());
    (
        proptest::collection::vec(change, 0..3),
        any::<Index>(),
        any::<u8>(),
        (any::<u8>(), any::<Index>(), any::<u8>()),
        proptest::collection::vec(any::<u8>(), 1..12),
    )
}

#[test]
fn i19_caches_change_no_outcome() {
    let sendings = proptest::collection::vec(sending(), 1..24);
    hold(
        60,
        (case(0..40), sendings, any::<bool>()),
        |(case, sendings, is_tight)| {
            let limits = match is_tight {
                // Room for a few entries: each list pushes out others'.
                true => CacheLimits {
                    bytes_max: 8 << 10,
                    agent_bytes_max: 1 << 10,
                },
                false => CacheLimits::default(),
            };
            let caches = Arc::new(ImaCaches::new(limits, 0));
            let agents = ["a", "b", "c"].map(|name| AgentId::parse(name).unwrap());
            let mut other = case.clone();
            other
                .listed
                .iter_mut()
                .step_by(2)
                .for_each(|listed| *listed = false);
            let judges = [case.judge(), other.judge()];
            for (changes, cut, choice, (fault, at, byte), sizes) in &sendings {
                let case = changed(case.clone(), changes);
                let replayed = case.replay();
                // Most lists are proven whole.
                let cut = match choice & 1 {
                    0 => case.list.len(),
                    _ => cut.index(replayed.len()),
                };
                let mut log = case.log(0..case.list.len());
                let at = at.index(log.len());
                match fault % 8 {
                    0 => log[at] ^= byte,
                    1 => log.truncate(at),
                    _ => {}
                }
                let mut options = case.options();
                options.require_valid_ima_sig = choice & 2 != 0;
                if choice & 12 == 12 {
                    let templates = options.templates.to_mut();
                    templates.retain(|template| *template != Template::ImaSig);
                }
                let judge = match choice >> 4 & 3 {
                    0 => None,
                    1 => Some(&judges[1]),
                    _ => Some(&judges[0]),
                };
                let agent = &agents[usize::from(choice >> 6) % agents.len()];
                let appraise = |caches| {
                    let pieces = match choice & 4 {
                        0 => vec![log.as_slice()],
                        _ => pieces(&log, sizes),
                    };
                    let outcome = case.appraise_under(
                        &replayed[cut],
                        Start::First,
                        options.clone(),
                        judge.cloned(),
                        caches,
                        pieces.into_iter(),
                    );
                    format!("{outcome:?}")
                };
                let expected = appraise(None);
                assert_eq!(appraise(Some((&caches, agent))), expected);
                // And with what the list itself has left there.
                assert_eq!(appraise(Some((&caches, agent))), expected);
            }
        },
    );
}
