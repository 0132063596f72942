//! Limits on labels and rules of severities.

use rat_engine::limits;
use rat_engine::verdict::severity::{SeverityError, SeverityPolicy, SeverityRule};

fn read(labels: usize, rules: usize, pattern: &str) -> Result<SeverityPolicy, SeverityError> {
    let labels: Vec<String> = (0..labels).map(|label| label.to_string()).collect();
    let rule = SeverityRule {
        event_id: pattern.to_owned(),
        severity_label: "0".to_owned(),
    };
    SeverityPolicy::new(&labels, &vec![rule; rules])
}

pub(crate) fn labels() {
    let max = limits::SEVERITY_LABELS_MAX;
    assert!(read(max, 0, "").is_ok());
    assert_eq!(read(max + 1, 0, "").err(), Some(SeverityError::Labels));
}

pub(crate) fn rules() {
    let max = limits::SEVERITY_RULES_MAX;
    assert!(read(1, max, "x").is_ok());
    assert_eq!(read(1, max + 1, "x").err(), Some(SeverityError::Rules));
}

pub(crate) fn pattern_bytes() {
    let max = limits::SEVERITY_PATTERN_BYTES_MAX;
    assert!(read(1, 1, &"x".repeat(max)).is_ok());
    let refused = read(1, 1, &"x".repeat(max + 1)).err();
    assert_eq!(refused, Some(SeverityError::TooLong { rule: 1 }));
}

pub(crate) fn pattern_compiled_bytes() {
    assert!(read(1, 1, "x{100}").is_ok());
    let refused = read(1, 1, "(?:x{500}){500}").err();
    assert!(matches!(
        refused,
        Some(SeverityError::Pattern { rule: 1, .. })
    ));
}
