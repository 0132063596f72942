use std::collections::BTreeMap;

use proptest::prelude::*;

use super::{GenerateError, GenerateOptions, Measured, MeasuredKind, OnObstacle, generate};
use crate::hash::HashAlg;
use crate::policy::{PathRule, RuntimePolicy};

const NOW: &str = "2026-01-01 00:00:00";

/// Without white space, which is for people.
fn bare(text: &str) -> String {
    text.split_whitespace().collect()
}

fn file<'a>(name: &'a [u8], alg_name: &'a [u8], digest: &'a [u8]) -> Measured<'a> {
    let kind = MeasuredKind::File { alg_name, digest };
    Measured { name, kind }
}

const LENIENT: GenerateOptions<'_> = GenerateOptions {
    excludes: &[],
    log_hash_alg: HashAlg::Sha1,
    violations: OnObstacle::LeaveOut,
    unrepresentable: OnObstacle::LeaveOut,
};

#[test]
fn the_text_has_keylimes_shape() {
    let (sha1, sha256) = ([1; 20], [2; 32]);
    let key = MeasuredKind::Key {
        alg_name: b"sha256",
        digest: &sha256,
    };
    let buffer = MeasuredKind::Buffer {
        alg_name: b"sha1",
        digest: &sha1,
    };
    let items = [
        file(b"/b", b"sha256", &sha256),
        file(b"/a", b"sha1", &sha1),
        file(b"/b", b"sha256", &sha256),
        file(b"/b", b"sha1", &sha1),
        Measured {
            name: b".ima",
            kind: key,
        },
        Measured {
            name: b"kexec-cmdline",
            kind: buffer,
        },
    ];
    let made = generate(NOW, items, GenerateOptions::default()).unwrap();
    let one = "01".repeat(20);
    let two = "02".repeat(32);
    let expected = format!(
        r#"{{"meta":{{"version":1,"generator":3,"timestamp":"{NOW}"}},"release":0,"digests":{{"/a":["{one}"],"/b":["{one}","{two}"]}},"excludes":[],"keyrings":{{".ima":["{two}"]}},"ima":{{"ignored_keyrings":[],"log_hash_alg":"sha1","dm_policy":null}},"ima-buf":{{"kexec-cmdline":["{one}"]}},"verification-keys":""}}"#
    );
    assert_eq!(bare(&made.text), bare(&expected));
    assert_eq!((made.paths, made.digests), (2, 3));
    let policy = RuntimePolicy::parse(made.text.as_bytes()).unwrap();
    assert!(policy.warnings().is_empty());
}

#[test]
fn l08_the_boot_aggregate_is_left_out() {
    let items = [file(b"boot_aggregate", b"sha256", &[1; 32])];
    let made = generate(NOW, items, GenerateOptions::default()).unwrap();
    assert_eq!((made.boot_aggregates, made.paths), (1, 0));
    assert!(!made.text.contains("boot_aggregate"));
}

#[test]
fn l08_obstacles_refuse_unless_left_out() {
    let violation = Measured {
        name: b"/v",
        kind: MeasuredKind::Violation,
    };
    let good = file(b"/a", b"sha1", &[1; 20]);
    let cases = [
        (violation, GenerateError::Violation { entry: 1 }),
        (
            file(b"/\xff", b"sha1", &[1; 20]),
            GenerateError::NotUtf8 { entry: 1 },
        ),
        (
            file(b"/m", b"md5", &[1; 16]),
            GenerateError::UnknownAlgorithm { entry: 1 },
        ),
        (
            file(b"/m", b"sha1", &[1; 16]),
            GenerateError::UnknownAlgorithm { entry: 1 },
        ),
    ];
    for (item, expected) in cases {
        let error = generate(NOW, [good, item], GenerateOptions::default());
        assert_eq!(error, Err(expected));
        let made = generate(NOW, [good, item], LENIENT).unwrap();
        assert_eq!((made.paths, made.violations + made.unrepresentable), (1, 1));
    }
}

type Item = (String, usize, u8);

fn digest(alg: usize, seed: u8) -> (HashAlg, Vec<u8>) {
    let alg = HashAlg::ALL[alg];
    (alg, vec![seed; alg.size()])
}

proptest! {
    // A slow, obvious oracle: a map from path to pairs.
    #[test]
    fn generated_policies_answer_as_a_naive_map(
        items in prop::collection::vec(("[/a-c \"\\\\\u{0}é]{0,3}", 0_usize..4, 0_u8..4), 0..40),
        asked in prop::collection::vec(("[/a-c \"\\\\\u{0}é]{0,3}", 0_usize..4, 0_u8..4), 40),
    ) {
        let digests: Vec<_> = items.iter().map(|(_, alg, seed)| digest(*alg, *seed)).collect();
        let measured = items.iter().zip(&digests).map(|((path, _, _), (alg, bytes))| {
            file(path.as_bytes(), alg.name().as_bytes(), bytes)
        });
        let made = generate(NOW, measured.clone(), GenerateOptions::default()).unwrap();
        let backwards: Vec<_> = measured.rev().collect();
        prop_assert_eq!(&generate(NOW, backwards, GenerateOptions::default()).unwrap(), &made);
        let policy = RuntimePolicy::parse(made.text.as_bytes()).unwrap();
        prop_assert!(policy.warnings().is_empty());
        let mut naive: BTreeMap<&str, Vec<(usize, u8)>> = BTreeMap::new();
        for (path, alg, seed) in &items {
            naive.entry(path).or_default().push((*alg, *seed));
        }
        prop_assert_eq!(policy.compiled().path_count(), naive.len());
        let questions: Vec<&Item> = items.iter().chain(&asked).collect();
        for (path, alg, seed) in questions {
            let expected = match naive.get(path.as_str()) {
                None => PathRule::PathNotListed,
                Some(listed) if listed.contains(&(*alg, *seed)) => PathRule::Allowed,
                Some(_) => PathRule::DigestNotListed,
            };
            let (alg, bytes) = digest(*alg, *seed);
            let found = policy.compiled().lookup(path.as_bytes(), alg.name().as_bytes(), &bytes);
            prop_assert_eq!(found, expected);
        }
    }
}
