use std::sync::Arc;

use super::*;
use crate::crypto::hash_mb::MESSAGES;
use crate::hash::HashAlg;
use crate::ima::Entry;
use crate::ima::hashes::{Hashes, Together};
use crate::ima::recall::{PathKnown, Recall};
use crate::ima::verdicts::PathAnswer;

fn algorithms() -> Algorithms {
    Algorithms::default()
        .with(HashAlg::Sha1)
        .with(HashAlg::Sha256)
}

fn agent(name: u32) -> AgentId {
    AgentId::parse(&format!("agent-{name}")).unwrap()
}

/// The hashes of an entry.
fn packed(data: &[u8]) -> Vec<u8> {
    let mut packed = Vec::new();
    Together::new(algorithms(), &[None; MESSAGES], &mut None).write(0, data, &mut packed);
    packed
}

/// What a list of this machine, which found these entries unknown, adds once it is proven.
fn learn(caches: &Arc<ImaCaches>, name: u32, data: impl Iterator<Item = Vec<u8>>) {
    let mut recall = Recall::new(Arc::clone(caches), &agent(name), algorithms());
    for data in data {
        let packed = packed(&data);
        let hashes = Hashes::remembered(algorithms(), &packed, &data);
        let hash = caches.hash(&data);
        recall.note_entry(Template::ImaNg, hash, &hashes, Answers::default());
    }
    recall.learn(None);
}

/// Which of these entries are known, asked by a list of this machine that is then proven.
fn known(caches: &Arc<ImaCaches>, name: u32, data: &[Vec<u8>]) -> Vec<bool> {
    let mut recall = Recall::new(Arc::clone(caches), &agent(name), algorithms());
    let mut batch = Batch::default();
    for data in data {
        batch.push(&Entry {
            pcr: 10,
            template_hash: &[1; 20],
            template: Template::ImaNg,
            data,
            end_bytes: 0,
        });
    }
    recall.look_up(&mut batch);
    let found = batch.entries().map(|(entry, row)| {
        let is_known = row.known.is_some();
        let expected = packed(entry.data);
        assert_eq!(
            batch.hashes(row),
            if is_known { &expected[..] } else { &[] }
        );
        is_known
    });
    let found = found.collect();
    recall.learn(None);
    found
}

fn entries(kind: &str, range: std::ops::Range<u32>) -> Vec<Vec<u8>> {
    range.map(|n| format!("{kind} {n}").into_bytes()).collect()
}

fn caches(bytes_max: usize, agent_bytes_max: usize) -> Arc<ImaCaches> {
    let limits = CacheLimits {
        bytes_max,
        agent_bytes_max,
    };
    Arc::new(ImaCaches::new(limits, 0x5bd1_e995))
}

#[test]
fn i19_a_million_unique_entries_of_one_agent_do_not_evict_the_fleet() {
    let caches = caches(2 << 20, 64 << 10);
    let fleet = entries("fleet", 0..200);
    learn(&caches, 1, fleet.iter().cloned());
    // Another machine shows the same: now they are the fleet's.
    assert_eq!(known(&caches, 2, &fleet), vec![true; 200]);
    assert_eq!(caches.figures().promotions, 200);
    let others = entries("newcomer", 0..100);
    learn(&caches, 3, others.iter().cloned());

    for start in (0..1_000_000).step_by(250) {
        learn(
            &caches,
            66,
            entries("unique", start..start + 250).into_iter(),
        );
    }
    let figures = caches.figures();
    assert_eq!(figures.insertions, 1_000_300);
    assert_eq!(known(&caches, 4, &fleet), vec![true; 200]);
    // Not even what one other machine has shown: the flood pushes out its own.
    assert_eq!(known(&caches, 4, &others), vec![true; 100]);
    assert!(figures.bytes <= (64 << 10) + 300 * 300, "{figures:?}");
    assert_eq!(figures.records, 1_000_300 - figures.evictions);
}

#[test]
fn i19_one_list_adds_no_more_than_its_machine_may_hold() {
    let caches = caches(2 << 20, 16 << 10);
    learn(&caches, 1, entries("unique", 0..10_000).into_iter());
    let figures = caches.figures();
    assert!(figures.bytes <= 16 << 10, "{figures:?}");
    assert!(figures.insertions >= 50, "{figures:?}");
    assert_eq!(figures.insertions + figures.refused_by_quota, 10_000);
    assert_eq!(figures.evictions, 0);
}

#[test]
fn i19_many_machines_stay_within_the_bytes() {
    let bytes_max = 256 << 10;
    let caches = caches(bytes_max, 32 << 10);
    for round in 0..40 {
        let shown = entries("round", round * 100..round * 100 + 150);
        for machine in 0..4 {
            // Half of them are the machine's own, the other half becomes the fleet's.
            let own = entries(&format!("machine {machine}"), round * 50..round * 50 + 50);
            let unknown = known(&caches, machine, &shown);
            let unknown = shown.iter().zip(unknown).filter(|(_, known)| !known);
            learn(
                &caches,
                machine,
                unknown.map(|(data, _)| data.clone()).chain(own),
            );
            let figures = caches.figures();
            assert!(figures.bytes <= bytes_max as u64, "{figures:?}");
            assert_eq!(figures.records, figures.insertions - figures.evictions);
        }
    }
    let figures = caches.figures();
    assert!(
        figures.evictions > 0 && figures.promotions > 0,
        "{figures:?}"
    );
    // What everybody showed last is there, though shared records alone would not all fit.
    let last = entries("round", 3_900..4_050);
    assert!(known(&caches, 9, &last).iter().all(|known| *known));
}

#[test]
fn i19_a_record_of_its_machine_alone_is_not_promoted_by_it() {
    let caches = caches(1 << 20, 64 << 10);
    let data = entries("own", 0..10);
    learn(&caches, 1, data.iter().cloned());
    assert_eq!(known(&caches, 1, &data), vec![true; 10]);
    assert_eq!(caches.figures().promotions, 0);
    // Inserted again by another that did not find it in time.
    learn(&caches, 2, data.iter().cloned());
    let figures = caches.figures();
    assert_eq!((figures.promotions, figures.insertions), (10, 10));
}

#[test]
fn i19_equal_hashes_are_not_equal_entries() {
    let caches = caches(1 << 20, 64 << 10);
    let mut recall = Recall::new(Arc::clone(&caches), &agent(1), algorithms());
    // Two entries that a sender made collide, as if it knew the seed.
    let (first, second) = (b"first".to_vec(), b"second".to_vec());
    let hash = caches.hash(&second);
    let packed = packed(&first);
    let hashes = Hashes::remembered(algorithms(), &packed, &first);
    recall.note_entry(Template::ImaNg, hash, &hashes, Answers::default());
    recall.learn(None);
    assert_eq!(caches.figures().insertions, 1);
    assert_eq!(known(&caches, 1, std::slice::from_ref(&second)), [false]);
    // Neither replaces the other.
    learn(&caches, 1, std::iter::once(second.clone()));
    assert_eq!(known(&caches, 1, &[second]), [false]);
    assert_eq!(caches.figures().insertions, 1);
}

#[test]
fn i19_kinds_and_hash_algorithms_are_told_apart() {
    let other = Algorithms::default().with(HashAlg::Sha384);
    let kinds: Vec<_> = Template::ALL
        .into_iter()
        .flat_map(|template| [algorithms(), other].map(|set| Kind::of_entry(template, set)))
        .chain([Some(Kind::PATH)])
        .collect();
    assert_eq!(
        kinds.iter().filter(|kind| kind.is_none()).count(),
        2,
        "ima-buf"
    );
    let kinds: Vec<_> = kinds.into_iter().flatten().collect();
    for (at, kind) in kinds.iter().enumerate() {
        assert!(!kinds[..at].contains(kind), "{kind:?}");
    }
    // The bytes of an entry, asked for as a path.
    let caches = caches(1 << 20, 64 << 10);
    learn(&caches, 1, std::iter::once(b"/usr/bin/x".to_vec()));
    let mut recall = Recall::new(Arc::clone(&caches), &agent(1), algorithms());
    let found = recall.path(b"/usr/bin/x", &Verdicts::default());
    assert!(matches!(found, PathKnown::Nothing { .. }), "{found:?}");
}

#[test]
fn i19_a_path_is_known_within_its_list_and_to_others_once_proven() {
    let caches = caches(1 << 20, 64 << 10);
    let (policy, other_policy) = (Verdicts::default(), Verdicts::default());
    let answer = PathAnswer {
        is_excluded: true,
        steps: 7,
    };
    let is_answer = |found: PathKnown| matches!(found, PathKnown::Answer(found) if found == answer);
    let path = b"/var/lib/x";
    let mut unproven = Recall::new(Arc::clone(&caches), &agent(1), algorithms());
    let known = unproven.path(path, &policy);
    unproven.note_path(known, path, answer, &policy);
    assert!(is_answer(unproven.path(path, &policy)));
    drop(unproven);

    let mut proven = Recall::new(Arc::clone(&caches), &agent(1), algorithms());
    let known = proven.path(path, &policy);
    assert!(matches!(known, PathKnown::Nothing { .. }), "{known:?}");
    proven.note_path(known, path, answer, &policy);
    proven.learn(Some(&policy));
    let mut later = Recall::new(Arc::clone(&caches), &agent(2), algorithms());
    assert!(is_answer(later.path(path, &policy)));
    // Under another policy the record is there, and its answer is not.
    let known = later.path(path, &other_policy);
    assert!(matches!(known, PathKnown::Record(_)), "{known:?}");
    later.note_path(
        known,
        path,
        PathAnswer {
            is_excluded: false,
            steps: 0,
        },
        &other_policy,
    );
    assert!(!is_answer(later.path(path, &other_policy)));
    assert!(is_answer(later.path(path, &policy)));
}

#[test]
fn a_poisoned_table_knows_nothing_and_learns_nothing() {
    let caches = caches(1 << 20, 64 << 10);
    let data = entries("entry", 0..3);
    learn(&caches, 1, data.iter().cloned());
    let poisoner = Arc::clone(&caches);
    let panicked = std::thread::spawn(move || {
        let _table = poisoner.table.write().unwrap();
        panic!("while records are changed");
    });
    assert!(panicked.join().is_err());
    assert_eq!(known(&caches, 1, &data), [false; 3]);
    learn(&caches, 1, data.into_iter());
    assert_eq!(caches.figures().records, 0);
}
