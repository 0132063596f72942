use super::{Engine, Match, Pattern, PatternError};
use crate::limits::{EXCLUDE_NESTING_MAX, EXCLUDE_PATTERN_BYTES_MAX};

fn excludes(pattern: &str, path: &str) -> bool {
    Pattern::compile(pattern).unwrap().excludes(path) == Match::Excluded
}

fn engine(pattern: &str) -> Engine {
    Pattern::compile(pattern).unwrap().engine()
}

#[test]
fn l09_anchored_at_the_start_and_not_at_the_end() {
    assert!(excludes("/tmp", "/tmpevil"));
    assert!(!excludes("tmp", "/tmp"));
    assert!(excludes("/tmp$", "/tmp\n"));
    assert!(!excludes(r"/tmp\Z", "/tmp\n"));
    assert!(!excludes("/tmp$", "/tmpevil"));
}

#[test]
fn l09_what_is_no_syntax_to_cpython_is_literal() {
    assert!(excludes("x{,2}$", "xx"));
    assert!(excludes("x{$", "x{"));
    assert!(excludes(r"\101", "A"));
    assert!(excludes("[a&&b]", "&"));
    assert!(!excludes("[[:alpha:]]", "q]"));
    assert!(excludes("[[:alpha:]]", "h]"));
}

#[test]
fn l02_constructs_choose_their_engine() {
    for linear in [
        "/tmp/.*$", "(a|b)*?", "(?i)é", r"\w+\Z", "(?m)^a$", "(a$|b)",
    ] {
        assert_eq!(engine(linear), Engine::Linear, "{linear}");
    }
    for backtracking in [
        "(?!a)",
        r"(a)\1",
        "a++",
        "(?>a)",
        r"\ba",
        "(a)?(?(1)b)",
        "a$b",
    ] {
        assert_eq!(engine(backtracking), Engine::Backtracking, "{backtracking}");
    }
}

#[test]
fn l02_a_catastrophic_pattern_reaches_its_cap_and_does_not_exclude() {
    let pattern = Pattern::compile(r"(?:(?=a)(?:a|a)*)*\1?()b".replace(r"\1?", "").as_str());
    let path = "a".repeat(4000);
    assert_eq!(pattern.unwrap().excludes(&path), Match::StepCap);
    let linear = Pattern::compile("(a*)*b").unwrap();
    assert_eq!(linear.engine(), Engine::Linear);
    assert_eq!(linear.excludes(&path), Match::NotExcluded);
}

#[test]
fn l02_limits_at_n_and_n_plus_one() {
    let nested = |depth: usize| format!("{}a{}", "(".repeat(depth), ")".repeat(depth));
    assert!(excludes(&nested(EXCLUDE_NESTING_MAX), "a"));
    assert_eq!(
        Pattern::compile(&nested(EXCLUDE_NESTING_MAX + 1)).unwrap_err(),
        PatternError::Limit {
            limit: "EXCLUDE_NESTING_MAX",
            max: EXCLUDE_NESTING_MAX
        }
    );
    let long = "a".repeat(EXCLUDE_PATTERN_BYTES_MAX);
    assert!(excludes(&long, &long));
    assert!(matches!(
        Pattern::compile(&format!("{long}a")),
        Err(PatternError::Limit {
            limit: "EXCLUDE_PATTERN_BYTES_MAX",
            ..
        })
    ));
    for big in [
        r"\W".repeat(4000),
        r"((\w{900}){900}){900}".to_owned(),
        "(?:a{9999}){9999}".to_owned(),
    ] {
        let error = Pattern::compile(&big).unwrap_err();
        assert!(matches!(error, PatternError::Limit { .. }), "{error:?}");
    }
    let deep = "(?(1)".repeat(20_000);
    assert!(Pattern::compile(&format!("()?{deep}")).is_err());
}

#[test]
fn l02_a_parenthesis_cannot_reach_into_the_next_pattern() {
    // Keylime joins ["a)|(/", "b"] into "(a)|(/)|(b)", which compiles and excludes "/".
    for pattern in ["a)|(/", "(a", "a)"] {
        assert!(matches!(
            Pattern::compile(pattern),
            Err(PatternError::Syntax { .. })
        ));
    }
}

#[test]
fn l09_what_we_cannot_mean_is_refused_by_name_and_place() {
    let cases = [
        (r"a\N{DIGIT ONE}", 1),
        ("(?t)a", 3),
        ("é(?:ab)*+", 8),
        ("(a)(?( 1)b)", 6),
        ("(?P<é>a)", 0),
        ("(?i)\u{10400}", 4),
    ];
    for (pattern, expected) in cases {
        match Pattern::compile(pattern) {
            Err(PatternError::Unsupported { offset, .. }) => {
                assert_eq!(offset, expected, "{pattern}");
            }
            other => panic!("{pattern}: {other:?}"),
        }
    }
}

#[test]
fn l10_shape_tells_open_ends_and_empty_matches() {
    let shape = |pattern: &str| Pattern::compile(pattern).unwrap().shape().clone();
    assert!(!shape("/tmp/.*").is_end_anchored());
    assert!(shape("/tmp/.*$").is_end_anchored());
    assert!(shape("(/a$|/b\\Z)").is_end_anchored());
    assert!(!shape("(/a$|/b)").is_end_anchored());
    assert!(!shape("(?m)/a$").is_end_anchored());
    for everything in ["", "a*", "(|a)", "a?b*", "^", ".*"] {
        assert!(shape(everything).matches_everything(), "{everything}");
    }
    for something in ["a", "$", "a|b", "(?!a)", r"\b"] {
        assert!(!shape(something).matches_everything(), "{something}");
    }
    assert_eq!(shape("/tmp/x.*").literal_prefix(), "/tmp/x");
    assert_eq!(shape("/tmp/x*").literal_prefix(), "/tmp/");
    assert_eq!(shape("(?i)/tmp").literal_prefix(), "/");
    assert!(shape("(a*)*").has_nested_quantifiers());
    assert!(!shape("a*b*").has_nested_quantifiers());
}
