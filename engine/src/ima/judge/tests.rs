use super::*;
use crate::agent_id::AgentId;
use crate::hash::HashAlg;
use crate::ima::hashes::Algorithms;
use crate::ima::{CacheLimits, ImaCaches};
use crate::limits;

const POLICY: &str = r#"{
    "meta": { "version": 1 }, "release": 0, "digests": { "/usr/bin/x": [] },
    "excludes": ["/never/(?!a)b", "/var/(?!lib/)(a|b)*c", "/var/linear"]
}"#;

fn judge() -> Judge {
    let text = POLICY.replace("[]", &format!("[\"{}\"]", "0".repeat(64)));
    Judge::new(Arc::new(RuntimePolicy::parse(text.as_bytes()).unwrap())).unwrap()
}

/// The budget of a list that has used up all but so many steps.
fn budget(left: usize) -> StepBudget {
    let mut budget = StepBudget::default();
    assert!(budget.take(limits::EXCLUDE_STEPS_PER_LIST_MAX - left));
    budget
}

/// What is said of a path, and the steps that are left then.
fn ask(judge: &Judge, path: &str, left: usize, recall: Option<&mut Recall>) -> (String, usize) {
    let event = Event {
        template: Template::ImaNg,
        digest: MeasuredDigest {
            of: DigestOf::Content,
            alg: b"sha256",
            bytes: &[7; 32],
        },
        name: path.as_bytes(),
        tail: &[],
    };
    let (mut learned, mut budget) = (LearnedKeys::default(), budget(left));
    let mut asking = Asking::new(false, &mut learned, &mut budget, recall);
    let (result, kept) = judge.judge_for(&event, &mut asking);
    if kept != Kept::NeedsAgentState {
        // What is kept for others is what a list with a whole budget would hear.
        let whole = judge.judge(
            &event,
            false,
            &mut LearnedKeys::default(),
            &mut StepBudget::default(),
        );
        assert_eq!(result, whole, "{path}, {left} steps left");
    }
    (format!("{result:?}"), budget.left())
}

#[test]
fn i19_a_known_path_takes_the_steps_that_it_took_and_passes_no_list_that_has_fewer() {
    // A cap of one pattern is never an answer that is kept.
    assert!(limits::EXCLUDE_STEPS_MAX > usize::from(u16::MAX));
    let caches = Arc::new(ImaCaches::new(CacheLimits::default(), 1));
    let agent = AgentId::parse("a").unwrap();
    let algorithms = Algorithms::default().with(HashAlg::Sha1);
    let paths = [
        "/var/abababc",
        "/var/lib/abc",
        "/var/linear",
        "/never/b",
        "/usr/bin/x",
        "/other",
    ];
    // Lists with few steps left come first and last: neither teaches the caches a wrong answer.
    let lefts = (0..60)
        .chain([1_000, limits::EXCLUDE_STEPS_PER_LIST_MAX])
        .chain(0..60);
    let (with, without) = (judge(), judge());
    let mut answers = std::collections::BTreeSet::new();
    for left in lefts {
        let mut recall = Recall::new(Arc::clone(&caches), &agent, algorithms);
        for path in paths {
            let expected = ask(&without, path, left, None);
            // Within the list, too.
            for _ in 0..2 {
                let found = ask(&with, path, left, Some(&mut recall));
                assert_eq!(found, expected, "{path}, {left} steps left");
            }
            answers.insert((path, expected.0));
        }
        recall.learn(Some(with.verdicts()));
    }
    // The budget mattered.
    assert!(answers.len() > paths.len(), "{answers:?}");
    assert!(caches.figures().insertions >= 5);
}
