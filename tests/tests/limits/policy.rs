//! Limits on runtime policies and exclude patterns.

use std::fmt::Write as _;

use rat_engine::limits;
use rat_engine::policy::exclude::{Engine, Match, Pattern, StepBudget};
use rat_engine::policy::{Fault, Lint, PatternError, PolicyError, RuntimePolicy, lint};
use rat_tests::evidence::policy_json;

/// Panics unless the first policy is read, and the second refused for this limit.
#[track_caller]
fn limited(name: &str, max: usize, at: &str, above: &str) -> RuntimePolicy {
    let fault = match RuntimePolicy::parse(above.as_bytes()) {
        Err(PolicyError::Content { fault, .. }) => fault,
        other => panic!("{other:?}"),
    };
    assert_eq!(
        fault,
        Fault::Limit {
            limit: limit_name(name),
            max
        }
    );
    RuntimePolicy::parse(at.as_bytes()).unwrap()
}

/// The name as the list of limits has it.
fn limit_name(name: &str) -> &'static str {
    let mut all = limits::ALL.iter();
    all.find(|limit| limit.name == name).unwrap().name
}

/// A policy with these members of `digests`, and this text after it.
fn policy(digests: &str, further: &str) -> String {
    format!(r#"{{"meta":{{"version":1}},"digests":{{{digests}}}{further}}}"#)
}

fn with_excludes(patterns: &[&str]) -> String {
    policy_json(serde_json::json!({}), patterns)
}

pub(crate) fn bytes() {
    let max = limits::POLICY_BYTES_MAX;
    // Zeros that nobody writes cost no memory. They are no JSON.
    let zeros = vec![0; max + 1];
    let at = RuntimePolicy::parse(&zeros[..max]).unwrap_err();
    assert_eq!(at, PolicyError::Json { line: 1, column: 1 });
    let bytes = max + 1;
    let above = RuntimePolicy::parse(&zeros).unwrap_err();
    assert_eq!(above, PolicyError::TooLarge { bytes, max });
}

/// Read once only, for its size: the refusal names the path that is one too many, so those before
/// it were not refused.
pub(crate) fn paths() {
    let max = limits::POLICY_PATHS_MAX;
    let digest = "00".repeat(20);
    let mut text = String::from(r#"{"meta":{"version":1},"digests":{"#);
    for path in 1..=max + 1 {
        let separator = if path == 1 { "" } else { "," };
        write!(text, r#"{separator}"{path}":["{digest}"]"#).unwrap();
    }
    text.push_str("}}");
    let limit = limit_name("POLICY_PATHS_MAX");
    match RuntimePolicy::parse(text.as_bytes()) {
        Err(PolicyError::Content { at, fault, .. }) => {
            assert_eq!(at, format!("digests.{}", max + 1));
            assert_eq!(fault, Fault::Limit { limit, max });
        }
        other => panic!("{:?}", other.map(|_| ())),
    }
}

pub(crate) fn digests_per_path() {
    let max = limits::POLICY_DIGESTS_PER_PATH_MAX;
    let with = |count: usize| {
        let digests: Vec<_> = (0..count).map(|n| format!(r#""{n:040x}""#)).collect();
        policy(&format!(r#""/a":[{}]"#, digests.join(",")), "")
    };
    limited(
        "POLICY_DIGESTS_PER_PATH_MAX",
        max,
        &with(max),
        &with(max + 1),
    );
}

pub(crate) fn warnings() {
    let max = limits::POLICY_WARNINGS_MAX;
    let with = |count: usize| {
        let unknown: String = (0..count).map(|n| format!(r#","x{n}":0"#)).collect();
        policy("", &unknown)
    };
    let read = limited("POLICY_WARNINGS_MAX", max, &with(max), &with(max + 1));
    assert_eq!(read.warnings().len(), max);
}

pub(crate) fn lint_tries() {
    let patterns = vec!["x"; limits::EXCLUDES_MAX];
    let tried = limits::LINT_TRIES_MAX / patterns.len();
    let incomplete = |paths: usize| {
        let digest = serde_json::json!(["00".repeat(32)]);
        let digests: serde_json::Map<_, _> = (0..paths)
            .map(|path| (format!("/{path}"), digest.clone()))
            .collect();
        let policy = policy_json(digests.into(), &patterns);
        let findings = lint(&RuntimePolicy::parse(policy.as_bytes()).unwrap());
        findings.iter().find_map(|finding| match finding {
            Lint::ShadowCheckIncomplete { paths_tried } => Some(*paths_tried),
            _ => None,
        })
    };
    assert_eq!(incomplete(tried), None);
    assert_eq!(incomplete(tried + 1), Some(tried));
}

pub(crate) fn excludes() {
    let max = limits::EXCLUDES_MAX;
    let with = |count: usize| with_excludes(&vec!["x"; count]);
    limited("EXCLUDES_MAX", max, &with(max), &with(max + 1));
}

pub(crate) fn excludes_bytes() {
    let max = limits::EXCLUDES_BYTES_MAX;
    // Comments, which cost nothing but their length.
    let bytes = limits::EXCLUDE_PATTERN_BYTES_MAX;
    let comment = format!("(?#{})", "c".repeat(bytes - "(?#)".len()));
    let mut patterns = vec![comment.as_str(); max / bytes];
    let at = with_excludes(&patterns);
    patterns.push("x");
    limited("EXCLUDES_BYTES_MAX", max, &at, &with_excludes(&patterns));
}

pub(crate) fn excludes_program_bytes() {
    let max = limits::EXCLUDES_PROGRAM_BYTES_MAX;
    // Distinct, so that nothing is shared; each is some hundreds of KiB.
    let heavy: Vec<_> = (0..1_000).map(|n| format!(r"\w{{12}}{n}")).collect();
    let size = Pattern::compile(&heavy[0]).unwrap().size_bytes();
    let fitting: Vec<_> = heavy.iter().take(max / size).map(String::as_str).collect();
    let more: Vec<_> = heavy
        .iter()
        .take(max / size + 1)
        .map(String::as_str)
        .collect();
    assert!(
        more.len() > fitting.len() && fitting.len() > 10,
        "{size} bytes each"
    );
    limited(
        "EXCLUDES_PROGRAM_BYTES_MAX",
        max,
        &with_excludes(&fitting),
        &with_excludes(&more),
    );
}

pub(crate) fn name_shown() {
    let max = limits::POLICY_NAME_SHOWN_MAX;
    let shown = |length: usize| {
        let unknown = format!(r#","{}":0"#, "x".repeat(length));
        let read = RuntimePolicy::parse(policy("", &unknown).as_bytes()).unwrap();
        read.warnings()[0].to_string().matches('x').count()
    };
    assert_eq!(
        shown(max),
        shown(max + 1),
        "a longer name is not shown longer"
    );
    assert_eq!(
        shown(max),
        shown(max - 1) + 1,
        "a shorter one is shown whole"
    );
}

/// Panics unless the first pattern compiles, and the second is refused for this limit.
#[track_caller]
fn pattern_limited(name: &str, max: usize, at: &str, above: &str) {
    let limit = limit_name(name);
    let error = Pattern::compile(above).unwrap_err();
    assert_eq!(error, PatternError::Limit { limit, max });
    Pattern::compile(at).unwrap();
}

pub(crate) fn exclude_pattern_bytes() {
    let max = limits::EXCLUDE_PATTERN_BYTES_MAX;
    let (at, above) = ("a".repeat(max), "a".repeat(max + 1));
    pattern_limited("EXCLUDE_PATTERN_BYTES_MAX", max, &at, &above);
}

pub(crate) fn exclude_nesting() {
    let max = limits::EXCLUDE_NESTING_MAX;
    let nested = |depth: usize| format!("{}a{}", "(".repeat(depth), ")".repeat(depth));
    pattern_limited("EXCLUDE_NESTING_MAX", max, &nested(max), &nested(max + 1));
}

pub(crate) fn exclude_look_behind() {
    let max = limits::EXCLUDE_LOOK_BEHIND_MAX;
    let behind = |width: usize| format!("(?<=a{{{width}}})b");
    pattern_limited(
        "EXCLUDE_LOOK_BEHIND_MAX",
        max,
        &behind(max),
        &behind(max + 1),
    );
}

/// The size of a pattern is not visible, so the last piece that fits is looked for: with the
/// smallest piece there is, what fits and what does not differ by one character.
pub(crate) fn exclude_program_bytes() {
    let max = limits::EXCLUDE_PROGRAM_BYTES_MAX;
    // A look-ahead keeps it from the linear engine, which measures in its own way.
    let mut at = String::from("(?=a)");
    for piece in [r"\d", "a"] {
        let refused = |count: &usize| {
            let pattern = format!("{at}{}", piece.repeat(*count));
            Pattern::compile(&pattern).is_err()
        };
        let fitting = first(refused, limits::EXCLUDE_PATTERN_BYTES_MAX / 4) - 1;
        at.push_str(&piece.repeat(fitting));
    }
    pattern_limited("EXCLUDE_PROGRAM_BYTES_MAX", max, &at, &format!("{at}a"));
    let (at, above) = (r"\w{10}", r"(?:\w{1000}){10}");
    pattern_limited("EXCLUDE_PROGRAM_BYTES_MAX", max, at, above);
}

/// The first number up to `end` that `holds` of; it holds of all larger ones too.
fn first(holds: impl Fn(&usize) -> bool, end: usize) -> usize {
    let numbers: Vec<_> = (0..end).collect();
    let first = numbers.partition_point(|number| !holds(number));
    assert!((1..end).contains(&first), "{first}");
    first
}

/// A literal costs one step, so the first pattern that reaches the cap needs one step more than
/// the cap allows, and the one before it needs exactly as many.
pub(crate) fn exclude_steps() {
    let path = "a".repeat(22_000);
    let tried = |literals: usize| {
        let pattern = Pattern::compile(&format!("(?=a*){}", "a".repeat(literals))).unwrap();
        assert_eq!(pattern.engine(), Engine::Backtracking);
        pattern.excludes(&path)
    };
    let literals = first(|literals| tried(*literals) == Match::StepCap, path.len());
    assert_eq!(tried(literals - 1), Match::Excluded);
    assert_eq!(tried(literals), Match::StepCap);
}

/// Paths that reach the cap of one pattern use up the budget of the list; then a pattern that
/// would match in a few steps excludes nothing.
pub(crate) fn exclude_steps_per_list() {
    let endless = Pattern::compile("(?=a*)(a|aa)*b").unwrap();
    let path = "a".repeat(64);
    let quick = Pattern::compile("(?=/)/tmp").unwrap();
    let mut budget = StepBudget::default();
    let affordable = limits::EXCLUDE_STEPS_PER_LIST_MAX / limits::EXCLUDE_STEPS_MAX;
    for _ in 1..affordable {
        assert_eq!(endless.excludes_within(&path, &mut budget), Match::StepCap);
    }
    assert_eq!(
        quick.excludes_within("/tmp/x", &mut budget),
        Match::Excluded
    );
    assert_eq!(endless.excludes_within(&path, &mut budget), Match::StepCap);
    assert_eq!(quick.excludes_within("/tmp/x", &mut budget), Match::StepCap);
    assert_eq!(
        quick.excludes("/tmp/x"),
        Match::Excluded,
        "another list has its own"
    );
}

pub(crate) fn exclude_automaton_bytes() {
    let width = 14;
    let pattern = Pattern::compile(&format!("(?:a|b)*a(?:a|b){{{width}}}c")).unwrap();
    assert_eq!(pattern.engine(), Engine::Linear);
    // Any automaton for it has a state for each of the 2^14 texts that may come before the end,
    // and these texts visit more of them than the cache can hold.
    let mut bits: u32 = 1;
    let mut text = String::new();
    for _ in 0..100_000 {
        // A linear congruential generator, of which the high bits are good enough.
        bits = bits.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        text.push(if bits >> 31 == 0 { 'a' } else { 'b' });
    }
    for end in text.len() - 64..text.len() {
        let decides = text.as_bytes()[end - width - 1];
        let expected = match decides {
            b'a' => Match::Excluded,
            _ => Match::NotExcluded,
        };
        assert_eq!(pattern.excludes(&format!("{}c", &text[..end])), expected);
    }
}
