//! `rat policies create measured-boot`, its lint, and `rat verify --mb-policy`.

use rat_tests::booted::{PASSING, PCRS, booted, log, refstate};
use rat_tests::vectors;
use serde_json::{Value, json};

use crate::run::{Run, Verify, rat};

const NONCE: &[u8] = b"0123456789abcdef";

fn create(name: &str, options: &[&str]) -> Run {
    let path = vectors::path(&format!("eventlogs/{name}"));
    let command = ["policies", "create", "measured-boot", "--eventlog"];
    rat(&[&command, &[path.to_str().unwrap()][..], options].concat())
}

fn lint(policy: &str, options: &[&str]) -> Run {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("refstate.json");
    std::fs::write(&path, policy).unwrap();
    rat(&[&["policies", "lint", path.to_str().unwrap()], options].concat())
}

/// A machine that booted as the recorded log says, held against this reference state.
fn verify(state: &str) -> Verify {
    let (_, submission) = booted(&log(), PCRS, NONCE);
    Verify::of(&submission, NONCE)
        .with_file("--boot-log", &log())
        .with_file("--mb-policy", state.as_bytes())
}

#[test]
fn a_machine_passes_by_the_reference_state_made_of_its_log() {
    let run = create(PASSING, &[]);
    assert_eq!((run.code, run.stderr.as_str()), (0, ""), "{run:?}");
    assert_eq!(run.json(), refstate());
    let verified = verify(&run.stdout).json();
    assert_eq!(verified.verdict(), ("authentic".into(), vec![]));
    let accepted = verify("{\"a\": 1}")
        .with("--mb-policy-name", "accept-all")
        .json();
    assert_eq!(accepted.verdict(), ("authentic".into(), vec![]));
    let rejected = verify(&run.stdout)
        .with("--mb-policy-name", "reject-all")
        .json();
    let codes = vec!["uefi.policy_rejected".into()];
    assert_eq!(rejected.verdict(), ("untrusted".into(), codes));
}

#[test]
fn e05_what_breaks_a_rule_is_named_with_its_event() {
    let mut state = refstate();
    state["kernels"][0]["shim_authcode_sha256"] = format!("0x{}", "11".repeat(32)).into();
    state["mokxdig"] = json!([]);
    let run = verify(&state.to_string()).json();
    let codes = vec!["uefi.policy_mok".into(), "uefi.policy_kernel".into()];
    assert_eq!(run.verdict(), ("untrusted".into(), codes));
    let findings = run.json()["codes"].clone();
    assert_eq!(findings[0]["pcr"], 14);
    assert_eq!(findings[1]["pcr"], 4);
    assert!(findings[1]["entry"].as_u64().is_some(), "{findings}");
}

#[test]
fn files_that_are_no_reference_state_are_refused() {
    for bad in ["", "{}", "[]", "x", "{\"a\": 1}", "null"] {
        let run = verify(bad).json();
        assert_eq!(run.code, 2, "{bad}: {run:?}");
        assert!(run.stderr.contains("--mb-policy"), "{run:?}");
    }
}

#[test]
fn secure_boot_off_is_wanted_by_name() {
    let off = "hpe-perf_uefi_log.bin";
    let run = create(off, &[]);
    assert_eq!(run.code, 2, "{run:?}");
    assert!(run.stderr.contains("--without-secureboot makes"), "{run:?}");
    assert_eq!(run.stdout, "");
    // The log has events that `example` does not know: it is written, and that is said.
    let run = create(off, &["-i"]);
    assert_eq!(run.code, 1, "{run:?}");
    assert!(
        run.stderr.contains("fails by its own reference state"),
        "{run:?}"
    );
    let expected = vectors::json(&format!("measured_boot/refstates/{off}.json"));
    assert_eq!(run.json(), expected);
    let run = create(PASSING, &["--without-secureboot"]);
    assert_eq!(run.code, 0);
    assert!(run.stderr.contains("changes nothing"), "{run:?}");
}

#[test]
fn a_log_that_lacks_something_makes_a_reference_state_only_when_asked() {
    let name = "gtt_arch-linux-workstation.bin";
    let run = create(name, &["-i"]);
    assert_eq!((run.code, run.stdout.as_str()), (1, ""), "{run:?}");
    for missing in ["initrd", "vmlinuz", "kernel_cmdline"] {
        assert!(run.stderr.contains(missing), "{run:?}");
    }
    let run = create(name, &["-i", "--allow-incomplete"]);
    let expected = vectors::json(&format!("measured_boot/refstates/{name}.json"));
    assert_eq!(run.json(), expected);
    for name in [
        "keylime_binary_bios_measurements-bogus",
        "keylime_binary_bios_measurements-empty",
        "gtt_debian-10.bin",
    ] {
        let run = create(name, &["-i"]);
        assert_eq!((run.code, run.stdout.as_str()), (2, ""), "{name}: {run:?}");
    }
}

#[test]
fn lint_reads_reference_states() {
    let run = lint(&refstate().to_string(), &[]);
    assert_eq!(
        (run.code, run.stdout.as_str()),
        (0, "0 dangers, 0 warnings, 0 notes\n")
    );
    let mut state = refstate();
    state["kernels"][0]["kernel_cmdline"] = ".*".into();
    state["comment"] = "x".into();
    let run = lint(&state.to_string(), &["--output", "json"]);
    assert_eq!(run.code, 1, "{run:?}");
    let ids: Vec<Value> = run.json()["findings"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| it["id"].clone())
        .collect();
    assert_eq!(ids, ["boot.command_line_open", "member.unknown"]);
    state["kernels"][0]["kernel_cmdline"] = "(".into();
    let run = lint(&state.to_string(), &[]);
    assert_eq!(run.code, 2);
    assert!(run.stderr.contains("kernels[0].kernel_cmdline"), "{run:?}");
}
