//! `rat policies lint` and `rat policies create runtime`.

use rat_engine::ima::Template;
use rat_tests::evidence::{Machine, policy_json};
use rat_tests::measured::{self, Measured};
use rat_tests::vectors;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::run::{Run, Verify, rat};

const NONCE: &[u8] = b"nonce";

/// Makes a policy of this list.
fn create(log: &[u8], options: &[&str]) -> Run {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    std::fs::write(&path, log).unwrap();
    let from = [
        "policies",
        "create",
        "runtime",
        "--from-ima-log",
        path.to_str().unwrap(),
    ];
    rat(&[&from, options].concat())
}

fn lint(policy: &str, options: &[&str]) -> Run {
    let folder: TempDir = tempfile::tempdir().unwrap();
    let path = folder.path().join("policy.json");
    std::fs::write(&path, policy).unwrap();
    rat(&[&["policies", "lint", path.to_str().unwrap()], options].concat())
}

#[test]
fn a_machine_is_trusted_under_the_policy_made_of_its_list() {
    let machine = Machine::valid().with(|machine| {
        machine
            .list
            .push(Measured::buffer("kexec-cmdline", b"quiet"));
        machine
            .list
            .push(Measured::file("/usr/bin/bash", b"bash, updated"));
    });
    for log in [
        measured::ascii(&machine.list),
        measured::binary(&machine.list),
    ] {
        let run = create(&log, &[]);
        assert_eq!(run.code, 0, "{run:?}");
        let policy = run.json();
        assert_eq!(
            policy["digests"]["/usr/bin/bash"].as_array().unwrap().len(),
            2
        );
        assert_eq!(policy["digests"]["boot_aggregate"], json!(null));
        assert_eq!(
            policy["ima-buf"]["kexec-cmdline"].as_array().unwrap().len(),
            1
        );
        let verify = Verify::of(&machine.attest(NONCE), NONCE);
        let verify = verify.with_file("--policy", run.stdout.as_bytes());
        assert_eq!(verify.json().verdict(), ("trusted".into(), vec![]));
        assert_eq!(lint(&run.stdout, &[]).code, 0);
    }
}

#[test]
fn the_recorded_server_is_trusted_under_its_policy_and_not_without_a_file() {
    let set = Verify::set("hpe-rsa-sha256-ima780-uefi", None);
    let log = vectors::path("sets/hpe-rsa-sha256-ima780-uefi/ima_log.ascii");
    let out = set.path("policy.json");
    let run = rat(&[
        "policies",
        "create",
        "runtime",
        "--from-ima-log",
        log.to_str().unwrap(),
        "--out",
        out.to_str().unwrap(),
    ]);
    assert_eq!((run.code, run.stdout.as_str()), (0, ""), "{run:?}");
    let set = set.with_path("--policy", &out);
    assert_eq!(set.json().verdict(), ("trusted".into(), vec![]));
    let mut policy: Value = serde_json::from_slice(&std::fs::read(&out).unwrap()).unwrap();
    policy["digests"]
        .as_object_mut()
        .unwrap()
        .remove("/usr/bin/sqlite3")
        .unwrap();
    let set = set.with_file("--policy", policy.to_string().as_bytes());
    let run = set.json();
    assert_eq!(run.verdict().1, ["ima.path_not_listed"]);
    assert_eq!(run.json()["codes"][0]["path"], "/usr/bin/sqlite3");
    assert_eq!(run.json()["codes"][0]["entry"], 779);
}

#[test]
fn excluded_paths_are_not_listed() {
    let log = measured::ascii(&Machine::valid().list);
    let run = create(&log, &["--exclude", "/usr/bin/.*", "--exclude", "/x$"]);
    let policy = run.json();
    assert_eq!(policy["excludes"], json!(["/usr/bin/.*", "/x$"]));
    let paths: Vec<_> = policy["digests"].as_object().unwrap().keys().collect();
    assert_eq!(paths, ["/usr/lib/libc.so.6"]);
    let verify = Verify::of(&Machine::valid().attest(NONCE), NONCE);
    let run = verify.with_file("--policy", run.stdout.as_bytes()).json();
    assert_eq!(run.verdict().0, "trusted");
    assert_eq!(run.json()["ima"]["excluded"], 2);
    create(&log, &["--exclude", "("]).is_unusable(&["--exclude"]);
}

#[test]
fn l08_violations_need_the_operators_word() {
    let mut list = Machine::valid().list;
    list.push(Measured {
        violation: true,
        ..Measured::file("/var/log/x", b"")
    });
    let log = measured::ascii(&list);
    let run = create(&log, &[]);
    assert_eq!((run.code, run.stdout.as_str()), (1, ""));
    assert!(
        run.stderr.contains("1 violation") && run.stderr.contains("/var/log/x"),
        "{run:?}"
    );
    let run = create(&log, &["--allow-violations"]);
    assert_eq!(run.code, 0);
    assert_eq!(run.json()["digests"]["/var/log/x"], json!(null));
}

#[test]
fn lists_that_no_policy_can_hold() {
    let mut list = Machine::valid().list;
    let text = String::from_utf8(measured::ascii(&list)).unwrap();
    let altered = text.replace("/usr/bin/ls", "/usr/bin/lz");
    create(altered.as_bytes(), &[]).is_unusable(&["entry 2", "template hash"]);
    create(b"nonsense\n", &[]).is_unusable(&["entry 0"]);
    let file = Measured::file("x", b"");
    list.push(Measured {
        name: b"/tmp/\xff".to_vec(),
        ..file.clone()
    });
    create(&measured::ascii(&list), &[]).is_unusable(&["entry 4", "UTF-8"]);
    list.pop();
    let mut verity = file.in_template(Template::ImaNgV2);
    verity.digest_prefix = "verity:sha256".into();
    list.push(verity);
    create(&measured::ascii(&list), &[]).is_unusable(&["entry 4", "fs-verity"]);
}

#[test]
fn a_policy_that_cannot_be_written() {
    let log = measured::ascii(&Machine::valid().list);
    let nowhere = "/nonexistent/policy.json";
    create(&log, &["--out", nowhere]).is_unusable(&["--out", nowhere]);
    rat(&["policies", "create", "runtime", "--from-ima-log", "missing"])
        .is_unusable(&["--from-ima-log", "missing"]);
}

#[test]
fn lint_fails_on_what_is_dangerous() {
    let clean = Machine::valid().policy();
    let run = lint(&clean, &[]);
    assert_eq!(
        (run.code, run.stdout.as_str()),
        (0, "0 dangers, 0 warnings, 0 notes\n")
    );
    let digests = json!({ "/usr/bin/ls": ["00".repeat(32)] });
    let dangerous = policy_json(digests, &[".*"]);
    let run = lint(&dangerous, &[]);
    assert_eq!(run.code, 1);
    assert!(run.stdout.contains("exclude.matches_everything"), "{run:?}");
    let run = lint(&dangerous, &["--output", "json"]);
    assert_eq!(run.code, 1);
    assert_eq!(run.json()["findings"][0]["severity"], "danger");
    lint("{", &[]).is_unusable(&["policy.json", "line 1"]);
    let run = lint("{", &["--output", "json"]);
    assert_eq!(run.code, 2);
    assert_eq!(run.json()["error"]["code"], "policy.malformed");
}
