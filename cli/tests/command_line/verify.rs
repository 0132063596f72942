//! `rat verify` from files to exit code.

use crate::run::{Verify, pcr_blob, rat};
use rat_engine::hash::HashAlg;
use rat_engine::ima::LogFormat;
use rat_tests::evidence::{Machine, policy_json};
use rat_tests::measured::{self, Measured};
use rat_tests::software_tpm::{Scheme, SoftwareAk};
use rat_tests::vectors;
use serde_json::json;

const NONCE: &[u8] = b"0123456789abcdef";
const SERVER: &str = "hpe-rsa-sha256-ima780-uefi";

fn verify(machine: &Machine) -> Verify {
    Verify::of(&machine.attest(NONCE), NONCE)
}

fn valid() -> (Machine, Verify) {
    let machine = Machine::valid();
    let verify = verify(&machine);
    (machine, verify)
}

#[test]
fn authentic_without_and_trusted_with_a_policy() {
    let (machine, verify) = valid();
    assert_eq!(verify.json().verdict(), ("authentic".into(), vec![]));
    let verify = verify.with_file("--policy", machine.policy().as_bytes());
    let run = verify.json();
    assert_eq!(run.verdict(), ("trusted".into(), vec![]));
    assert_eq!(run.stderr, "");
    let table = verify.table();
    assert_eq!(table.code, 0);
    assert!(table.stdout.starts_with("TRUSTED: "), "{table:?}");
    assert!(!table.stdout.contains('\x1b'), "colours without a terminal");
}

#[test]
fn the_members_of_the_json() {
    let (machine, verify) = valid();
    let json = verify
        .with_file("--policy", machine.policy().as_bytes())
        .json()
        .json();
    let members: Vec<_> = json.as_object().unwrap().keys().collect();
    assert_eq!(
        members,
        [
            "boot", "codes", "ima", "policy", "quote", "verdict", "warnings"
        ]
    );
    assert_eq!(json["codes"], json!([]));
    assert_eq!(json["warnings"], json!([]));
    assert_eq!(json["ima"]["entries"], 4);
    assert_eq!(json["ima"]["cut"], 4);
    assert_eq!(json["ima"]["violations"], 0);
    assert_eq!(json["ima"]["pcr"], 10);
    assert_eq!(json["boot"]["events"], json!(null));
    assert_eq!(json["quote"]["key"], "P-256");
    assert_eq!(json["quote"]["selection"]["sha256"][10], 10);
    assert_eq!(json["quote"]["nonce"], hex::encode(NONCE));
}

#[test]
fn a_finding_has_code_detail_entry_path_pcr_and_what_to_do() {
    let (machine, verify) = valid();
    let machine = machine.with(|machine| {
        machine.list.truncate(3);
    });
    let run = verify
        .with_file("--policy", machine.policy().as_bytes())
        .json();
    let expected = ("untrusted".into(), vec!["ima.path_not_listed".into()]);
    assert_eq!(run.verdict(), expected);
    let code = &run.json()["codes"][0];
    assert_eq!(code["entry"], 3);
    assert_eq!(code["path"], "/usr/lib/libc.so.6");
    assert_eq!(code["pcr"], json!(null));
    assert_eq!(code["count"], 1);
    assert_eq!(code["attribution"], "agent");
    assert!(code["detail"].is_string() && code["remedy"].is_string());
}

#[test]
fn the_first_line_says_why() {
    let (_, verify) = valid();
    let run = verify.with("--nonce", "00").table();
    assert_eq!(run.code, 1);
    let first = run.stdout.lines().next().unwrap();
    assert_eq!(
        first,
        "UNTRUSTED: The quote was made for another challenge: its extraData is not the expected \
         nonce."
    );
    assert!(run.stdout.contains("quote.nonce_mismatch: "));
}

#[test]
fn every_form_of_key_quote_and_pcr_values() {
    for scheme in [
        Scheme::RsaSsa(2048),
        Scheme::RsaPss(2048),
        Scheme::Ecdsa(384),
    ] {
        let machine = Machine::valid();
        let machine = machine.with(|it| it.ak = SoftwareAk::new(scheme, HashAlg::Sha256));
        let submission = machine.attest(NONCE);
        let sized = |bytes: &[u8]| {
            let size = u16::try_from(bytes.len()).unwrap().to_be_bytes();
            [&size[..], bytes].concat()
        };
        let verify = verify(&machine)
            .with_file("--policy", machine.policy().as_bytes())
            .with_flag("--strict")
            .with_file("--ak", &sized(&machine.ak.public()))
            .with_file("--quote", &sized(&submission.quote))
            .with_file("--pcrs", &pcr_blob(&submission.values));
        let run = Verify::of(&submission, NONCE).json();
        assert_eq!(run.verdict().0, "authentic");
        let run = verify.json();
        assert_eq!(run.verdict(), ("trusted".into(), vec![]));
        assert_eq!(run.json()["quote"]["ak_form"], "TPM2B_PUBLIC");

        let pem = verify.with_file("--ak", &machine.ak.pem());
        assert_eq!(
            pem.json().verdict(),
            ("untrusted".into(), vec!["ak.attributes".into()])
        );
    }
}

#[test]
fn pem_has_no_attributes_and_is_warned_of() {
    let (machine, verify) = valid();
    let run = verify.with_file("--ak", &machine.ak.pem());
    let json = run.json().json();
    assert_eq!(json["verdict"], "authentic");
    assert_eq!(json["warnings"][0]["code"], "ak.attributes");
    let table = run.table().stdout;
    assert!(
        table.contains("Warnings") && table.contains("TPM2B_PUBLIC"),
        "{table}"
    );
}

#[test]
fn ascii_and_binary_lists_are_told_apart() {
    let (machine, verify) = valid();
    let policy = machine.policy();
    let verify = verify.with_file("--policy", policy.as_bytes());
    for log in [
        measured::ascii(&machine.list),
        measured::binary(&machine.list),
    ] {
        let format = LogFormat::detect(&log);
        let verdict = Verify::of(&machine.attest(NONCE), NONCE)
            .with_file("--policy", policy.as_bytes())
            .with_file("--ima-log", &log)
            .json()
            .verdict();
        assert_eq!(verdict, ("trusted".into(), vec![]), "{format:?}");
    }
    let empty = verify.with_file("--ima-log", b"").json().verdict();
    assert_eq!(empty.1, ["ima.pcr_mismatch"]);
}

#[test]
fn lists_longer_than_a_piece_are_streamed() {
    let machine = Machine::valid().with(|machine| {
        for nth in 0..3000 {
            let path = format!("/usr/share/{nth:0>90}");
            machine.list.push(Measured::file(&path, path.as_bytes()));
        }
    });
    let verify = verify(&machine).with_file("--policy", machine.policy().as_bytes());
    let run = verify.json();
    assert_eq!(run.verdict(), ("trusted".into(), vec![]));
    assert_eq!(run.json()["ima"]["entries"], 3004);
    let limited = verify.with("--max-log-size", "100K").json();
    assert_eq!(limited.verdict().1, ["ima.limit"]);
}

#[test]
fn x07_hostile_names_are_escaped() {
    let hostile = b"/tmp/\x1b[2J\r\n\xff\xc2\x9bevil\\x1b".to_vec();
    let machine = Machine::valid();
    let policy = machine.policy();
    let machine = machine.with(|machine| {
        let file = Measured::file("x", b"evil");
        machine.list.push(Measured {
            name: hostile.clone(),
            ..file
        });
    });
    // A newline in a name is at home in the binary list only.
    let verify = verify(&machine)
        .with_file("--policy", policy.as_bytes())
        .with_file("--ima-log", &measured::binary(&machine.list));
    let shown = r"/tmp/\x1b[2J\x0d\x0a\xff\u{9b}evil\\x1b";
    let table = verify.table();
    assert_eq!(table.code, 1);
    assert!(table.stdout.contains(shown), "{}", table.stdout);
    let controls = |text: &str| text.chars().any(|c| c.is_control() && c != '\n');
    assert!(!controls(&table.stdout));
    let run = verify.json();
    assert!(!controls(&run.stdout));
    let code = &run.json()["codes"][0];
    assert_eq!(code["path"], shown);
    assert_eq!(code["path_hex"], hex::encode(hostile));
}

#[test]
fn violations_are_counted_and_fail_only_under_a_policy() {
    let machine = Machine::valid().with(|machine| {
        machine.list.push(Measured {
            violation: true,
            ..Measured::file("/var/log/x", b"")
        });
    });
    let policy = Machine::valid().policy();
    let verify = verify(&machine);
    let run = verify.json();
    assert_eq!(run.verdict().0, "authentic");
    assert_eq!(run.json()["ima"]["violations"], 1);
    let verify = verify.with_file("--policy", policy.as_bytes());
    assert_eq!(verify.json().verdict().1, ["ima.violation"]);
    let accepted = verify.with_flag("--accept-violations").json();
    assert_eq!(accepted.verdict().0, "trusted");
}

#[test]
fn malformed_evidence_is_a_verdict() {
    let cases = [
        ("--quote", "quote.malformed"),
        ("--signature", "quote.malformed"),
        ("--pcrs", "pcr.malformed"),
    ];
    for (option, code) in cases {
        let (_, verify) = valid();
        let run = verify.with_file(option, b"{").json();
        assert_eq!(
            run.verdict(),
            ("untrusted".into(), vec![code.into()]),
            "{option}"
        );
    }
    let (_, verify) = valid();
    let run = verify.with_file("--boot-log", b"not a log").json();
    assert_eq!(run.verdict().1, ["uefi.malformed"]);
    let (machine, verify) = valid();
    let weak = SoftwareAk::new(Scheme::RsaSsa(1024), HashAlg::Sha256);
    for key in [weak.pem(), weak.public()] {
        let run = Verify::of(&machine.attest(NONCE), NONCE)
            .with_file("--ak", &key)
            .json();
        assert_eq!(run.verdict().1, ["ak.not_allowed"]);
    }
    drop(verify);
}

#[test]
fn a_key_or_policy_that_cannot_be_read_leaves_no_verdict() {
    for (option, content, reason) in [
        ("--ak", "nonsense", "TPMT_PUBLIC"),
        ("--ak", "-----BEGIN PUBLIC KEY-----\n", "not one PEM block"),
        ("--policy", "{\"meta\":\n  oops}", "line 2"),
        ("--policy", "{}", "meta"),
    ] {
        let (_, verify) = valid();
        let verify = verify.with_file(option, content.as_bytes());
        let file = verify.path(option.trim_start_matches('-'));
        verify
            .table()
            .is_unusable(&[option, file.to_str().unwrap(), reason]);
        let run = verify.json();
        assert_eq!(run.code, 2);
        let error = &run.json()["error"];
        assert_eq!(error["option"], option);
        assert_eq!(error["file"], file.to_str().unwrap());
        let code = if option == "--ak" {
            "ak.malformed"
        } else {
            "policy.malformed"
        };
        assert_eq!(error["code"], code);
    }
}

#[test]
fn missing_files_folders_and_standard_input() {
    for option in [
        "--ak",
        "--quote",
        "--signature",
        "--pcrs",
        "--ima-log",
        "--boot-log",
        "--policy",
    ] {
        let (_, verify) = valid();
        let missing = verify.path("missing");
        let missing = missing.to_str().unwrap().to_owned();
        let verify = verify.with(option, &missing);
        verify
            .table()
            .is_unusable(&[option, &missing, "No such file"]);
        let folder = verify.path("");
        let verify = verify.with_path(option, &folder);
        verify.table().is_unusable(&[option, "is a directory"]);
        verify
            .with(option, "-")
            .table()
            .is_unusable(&[option, "/dev/stdin"]);
    }
}

#[test]
fn files_over_their_limit_are_not_read() {
    for (option, bytes) in [
        ("--ak", 20_000),
        ("--quote", 2_000),
        ("--signature", 2_000),
        ("--pcrs", 70_000),
        ("--boot-log", 5_000_000),
    ] {
        let (_, verify) = valid();
        let run = verify.with_file(option, &vec![0; bytes]).table();
        run.is_unusable(&[option, &bytes.to_string(), "_BYTES_MAX"]);
        let (_, verify) = valid();
        verify
            .with(option, "/dev/zero")
            .table()
            .is_unusable(&[option, "_BYTES_MAX"]);
    }
}

#[test]
fn the_verdict_as_yaml() {
    let (machine, verify) = valid();
    let verify = verify.with_file("--policy", machine.policy().as_bytes());
    let run = verify.with("--output", "yaml").table();
    assert_eq!(run.code, 0, "{run:?}");
    for line in ["verdict: trusted\n", "\nquote:\n  proven: true\n"] {
        assert!(run.stdout.contains(line), "{run:?}");
    }
}

#[test]
fn usage_errors() {
    let (_, verify) = valid();
    let with = |option: &str, value: &str| {
        let mut arguments = verify.arguments();
        arguments.extend([option, value]);
        arguments.retain(|argument| !argument.is_empty());
        rat(&arguments)
    };
    for (option, value) in [
        ("--bank", "md5"),
        ("--mb-pcrs", "0-3"),
        ("--ima-pcrs", "24"),
        ("--ima-pcrs", "10,16"),
        ("--max-log-size", "2G"),
        ("--require-valid-ima-sig", ""),
        ("--output", "xml"),
        ("--unknown", ""),
    ] {
        with(option, value).is_unusable(&[option]);
    }
    let (_, odd) = valid();
    odd.with("--nonce", "abc")
        .table()
        .is_unusable(&["--nonce", "Odd"]);
    let (_, policy) = valid();
    let policy = policy.with("--tpm-policy", "{\"16\":\"00\"}");
    policy.table().is_unusable(&["--tpm-policy", "line 1"]);
    rat::<&str>(&[]).is_unusable(&["Usage"]);
    rat(&["verify"]).is_unusable(&["--ak"]);
}

#[test]
fn pcr_policies_as_text_and_as_file() {
    let (machine, verify) = valid();
    let value = machine.values();
    let pcr4 = value
        .iter()
        .find(|(_, pcr, _)| pcr.get() == 4)
        .unwrap()
        .2
        .to_hex();
    let right = json!({ "4": [pcr4], "mask": "0x10" }).to_string();
    let wrong = json!({ "4": ["00".repeat(32)] }).to_string();
    let verify = verify.with("--tpm-policy", &right);
    assert_eq!(verify.json().verdict().0, "authentic");
    let verify = verify.with("--tpm-policy", &wrong);
    let run = verify.json();
    assert_eq!(run.verdict().1, ["pcr.value_not_allowed"]);
    assert_eq!(run.json()["codes"][0]["pcr"], 4);
    let file = verify.path("pcr_policy");
    std::fs::write(&file, &wrong).unwrap();
    let at_file = format!("@{}", file.to_str().unwrap());
    let verify = verify.with("--tpm-policy", &at_file);
    assert_eq!(verify.json().verdict().1, ["pcr.value_not_allowed"]);
}

#[test]
fn a_verdict_that_cannot_be_written_is_no_verdict() {
    let (_, verify) = valid();
    let full = std::fs::OpenOptions::new()
        .write(true)
        .open("/dev/full")
        .unwrap();
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_rat"))
        .args(verify.arguments())
        .stdout(full)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("standard output"));
}

#[test]
fn an_empty_policy_allows_nothing() {
    let (_, verify) = valid();
    let policy = policy_json(json!({}), &[]);
    let (verdict, codes) = verify
        .with_file("--policy", policy.as_bytes())
        .json()
        .verdict();
    assert_eq!(verdict, "untrusted");
    assert!(codes.contains(&"policy.missing".to_owned()), "{codes:?}");
}

#[test]
fn recorded_sets_are_authentic() {
    for name in [
        SERVER,
        "gcp-cos85-rsa-sha256-boot",
        "gcp-cos85-rsa-sha384bank-boot",
    ] {
        assert_eq!(
            Verify::set(name, None).json().verdict(),
            ("authentic".into(), vec![]),
            "{name}"
        );
    }
    let run = Verify::set(SERVER, None).json().json();
    assert_eq!(run["ima"]["entries"], 780);
    assert_eq!(run["boot"]["events"], 153);
    let boot = Verify::set(SERVER, None)
        .with("--mb-pcrs", "0-9,11-15")
        .json();
    assert_eq!(boot.verdict(), ("authentic".into(), vec![]));
    let unquoted = Verify::set(SERVER, None).with("--mb-pcrs", "17").json();
    assert_eq!(unquoted.verdict().1, ["pcr.not_attested"]);
    assert_eq!(unquoted.json()["boot"]["proven"], false);
    let one = Verify::set(SERVER, None)
        .with("--mb-pcrs", "4")
        .json()
        .json();
    assert_eq!(one["boot"]["pcrs"], json!([4]));
    let default = json!([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 14]);
    assert_eq!(run["boot"]["pcrs"], default);
}

#[test]
fn q09_sha1_is_refused_unless_allowed() {
    let windows = Verify::set("gcp-windows-rsa-sha1-boot", None);
    let run = windows.json();
    assert_eq!(
        run.verdict(),
        ("untrusted".into(), vec!["quote.alg_not_allowed".into()])
    );
    let allowed = windows.with_flag("--allow-sha1").json();
    assert_eq!(allowed.verdict(), ("authentic".into(), vec![]));
}

#[test]
fn every_tampered_variant_is_refused() {
    let mut refused = 0;
    for name in [
        SERVER,
        "gcp-cos85-rsa-sha256-boot",
        "gcp-cos85-rsa-sha384bank-boot",
        "gcp-windows-rsa-sha1-boot",
    ] {
        let folder = vectors::path(&format!("sets/{name}/tampered"));
        for file in std::fs::read_dir(folder).unwrap() {
            let file = file.unwrap().file_name().into_string().unwrap();
            if file == "EXPECTED.json" {
                continue;
            }
            let mut verify = Verify::set(name, Some(&file));
            if name.contains("sha1") {
                verify = verify.with_flag("--allow-sha1");
            }
            let (verdict, codes) = verify.json().verdict();
            assert_eq!(verdict, "untrusted", "{name} {file}");
            assert!(!codes.is_empty());
            refused += 1;
        }
    }
    assert!(refused > 30, "{refused}");
}
