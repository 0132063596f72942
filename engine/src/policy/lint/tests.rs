use super::{Lint, Severity, lint};
use crate::policy::RuntimePolicy;

const SHA256: &str = "00000000000000000000000000000000000000000000000000000000000000aa";
const SHA1: &str = "00000000000000000000000000000000000000aa";

fn findings(excludes: &str, digests: &str) -> Vec<Lint> {
    let text =
        format!(r#"{{"meta":{{"version":1}},"digests":{{{digests}}},"excludes":[{excludes}]}}"#);
    lint(&RuntimePolicy::parse(text.as_bytes()).unwrap())
}

fn ids(excludes: &str, digests: &str) -> Vec<&'static str> {
    findings(excludes, digests).iter().map(Lint::id).collect()
}

fn listed(path: &str) -> String {
    format!(r#""{path}":["{SHA256}"]"#)
}

#[test]
fn a_sound_policy_has_no_findings() {
    assert!(findings(r#""/var/log/.*$""#, &listed("/usr/bin/dd")).is_empty());
}

#[test]
fn l01_an_empty_policy_is_a_danger() {
    let found = findings("", "");
    assert_eq!(found, [Lint::EmptyPolicy]);
    assert_eq!(found[0].severity(), Severity::Danger);
}

#[test]
fn l10_open_ended_patterns_and_writable_places() {
    let dd = listed("/usr/bin/dd");
    assert_eq!(ids(r#""/tmp/.*$""#, &dd), ["exclude.writable_place"]);
    assert_eq!(
        ids(r#""/tmp""#, &dd),
        [
            "exclude.writable_place",
            "exclude.matches_siblings",
            "exclude.start_anchored_only"
        ]
    );
    assert_eq!(
        ids(r#""/opt/app/.*""#, &dd),
        ["exclude.start_anchored_only"]
    );
    assert_eq!(ids(r#""/tmp/_MEI.*$""#, &dd), ["exclude.writable_place"]);
    assert_eq!(
        ids(r#""/opt/app""#, &dd),
        ["exclude.matches_siblings", "exclude.start_anchored_only"]
    );
}

#[test]
fn l04_patterns_that_shadow_digests() {
    let digests = format!("{},{}", listed("/usr/bin/dd"), listed("/usr/bin/ls"));
    let found = findings(r#""/usr/bin/.*$""#, &digests);
    let [Lint::ExcludeShadowsDigests { paths, .. }] = found.as_slice() else {
        panic!("{found:?}");
    };
    assert_eq!(
        (paths.count, paths.first.as_slice()),
        (2, &b"/usr/bin/dd"[..])
    );
    assert!(
        found[0]
            .to_string()
            .contains("2 paths, the first \"/usr/bin/dd\"")
    );
    assert_eq!(
        ids(r#"".*""#, &listed("/a")),
        ["exclude.matches_everything", "exclude.shadows_digests"]
    );
}

#[test]
fn l02_backtracking_patterns_and_their_cap() {
    let path = format!("/{}", "a".repeat(60));
    assert_eq!(
        ids(r#""/(?=a)(?:a|a)*?(?:a*)*b$""#, &listed(&path)),
        ["exclude.backtracks", "exclude.step_cap"]
    );
    assert_eq!(
        ids(r#""/x(?!/y).*$""#, &listed("/a")),
        ["exclude.backtracks"]
    );
}

#[test]
fn i24_a_pattern_for_the_boot_aggregate() {
    assert_eq!(
        ids(r#""boot_aggregate$""#, &listed("/a")),
        ["exclude.boot_aggregate"]
    );
}

#[test]
fn i27_names_that_the_kernel_writes_otherwise() {
    let digests = [
        listed("/a b"),
        listed("/a_b"),
        listed("/x (deleted)"),
        listed("/y_(deleted)"),
    ];
    assert_eq!(
        ids("", &digests.join(",")),
        ["path.space", "path.collision", "path.deleted"]
    );
    let apart = [listed("/a b c"), listed("/a_b c")];
    let found = findings("", &apart.join(","));
    assert!(matches!(&found[1], Lint::PathCollision(paths) if paths.count == 1));
}

#[test]
fn paths_and_digests() {
    assert_eq!(ids("", &listed("dd")), ["path.not_absolute"]);
    assert_eq!(ids("", &format!(r#""/a":["{SHA1}"]"#)), ["path.sha1_only"]);
    assert!(ids("", &format!(r#""/a":["{SHA1}","{SHA256}"]"#)).is_empty());
    let twice = format!(r#""/a":["{SHA256}","{SHA256}"]"#);
    assert_eq!(ids("", &twice), ["digest.duplicate"]);
    let odd = format!(r#""/a":["{SHA256}0000"]"#);
    assert_eq!(ids("", &odd), ["digest.never_matches"]);
}

#[test]
fn members() {
    let text = format!(
        r#"{{"meta":{{"version":1}},"digests":{{{}}},"new":1,"ima":{{"ignored_keyrings":["*"]}}}}"#,
        listed("/a")
    );
    let found = lint(&RuntimePolicy::parse(text.as_bytes()).unwrap());
    let ids: Vec<_> = found.iter().map(Lint::id).collect();
    assert_eq!(ids, ["keyring.ignores_all", "member.unknown"]);
}
