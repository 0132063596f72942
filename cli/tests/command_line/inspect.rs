//! `rat inspect` on every kind of file.

use rat_tests::evidence::Machine;
use rat_tests::measured::{self, Measured};
use rat_tests::software_tpm::AK_ATTRIBUTES;
use rat_tests::vectors;
use serde_json::{Value, json};

use crate::run::{Run, pcr_blob, pcr_json, rat};

const NONCE: &[u8] = b"nonce-of-Keylime";

/// Inspects this content.
fn inspect(kind: &str, content: &[u8], options: &[&str]) -> Run {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), content).unwrap();
    let arguments = ["inspect", kind, file.path().to_str().unwrap()];
    rat(&[&arguments, options].concat())
}

/// The same as JSON, which says that nothing was verified; so does the table.
fn as_json(kind: &str, content: &[u8], code: i32) -> Value {
    let table = inspect(kind, content, &[]);
    assert_eq!(table.code, code, "{table:?}");
    assert!(table.stdout.starts_with("UNVERIFIED: "), "{table:?}");
    let run = inspect(kind, content, &["--output", "json"]);
    assert_eq!(run.code, code, "{run:?}");
    let json = run.json();
    assert_eq!(json["verified"], false);
    json
}

#[test]
fn quotes() {
    let submission = Machine::valid().attest(NONCE);
    let json = as_json("quote", &submission.quote, 0);
    assert_eq!(json["type"], "quote");
    assert_eq!(json["form"], "TPMS_ATTEST");
    assert_eq!(json["extra_data"], hex::encode(NONCE));
    assert_eq!(json["extra_data_text"], "nonce-of-Keylime");
    assert_eq!(json["selection"]["sha256"].as_array().unwrap().len(), 11);
    let size = u16::try_from(submission.quote.len()).unwrap().to_be_bytes();
    let sized = [&size[..], &submission.quote].concat();
    assert_eq!(as_json("quote", &sized, 0)["form"], "TPM2B_ATTEST");
}

#[test]
fn keys() {
    let mut ak = Machine::valid().ak;
    let json = as_json("ak", &ak.public(), 0);
    assert_eq!(json["type"], "P-256");
    assert_eq!(json["form"], "TPMT_PUBLIC");
    assert_eq!(json["scheme"], "ecdsa with sha256");
    assert_eq!(json["is_attestation_key"], true);
    let name = rat_engine::tpm::Public::parse(&ak.public())
        .unwrap()
        .name()
        .to_string();
    assert_eq!(json["name"], name);
    let pem = as_json("ak", &ak.pem(), 0);
    assert_eq!(
        (&pem["form"], &pem["attributes"]),
        (&json!("PEM"), &json!(null))
    );
    // Without `restricted`, which makes it fit for forging quotes.
    ak.attributes = AK_ATTRIBUTES & !0x0001_0000;
    let json = as_json("ak", &ak.public(), 1);
    assert_eq!(json["is_attestation_key"], false);
    assert!(json["objection"].as_str().unwrap().contains("restricted"));
}

#[test]
fn pcr_values_in_both_forms() {
    let values = Machine::valid().values();
    let expected = pcr_json(&values);
    let json = as_json("pcrs", expected.to_string().as_bytes(), 0);
    assert_eq!(json["sha256"], expected["sha256"]);
    let json = as_json("pcrs", &pcr_blob(&values), 0);
    assert_eq!(json["sha256"], expected["sha256"]);
    assert_eq!(json["selection"], "sha256:0,1,2,3,4,5,6,7,8,9,10");
}

#[test]
fn measurement_lists() {
    let mut list = Machine::valid().list;
    list.push(Measured {
        violation: true,
        ..Measured::file("/var/log/x", b"")
    });
    for log in [measured::ascii(&list), measured::binary(&list)] {
        let json = as_json("ima-log", &log, 0);
        assert_eq!(json["entries"], 5);
        assert_eq!(json["violations"], 1);
        assert_eq!(json["templates"], json!({ "ima-ng": 5 }));
        assert_eq!(json["first"][0]["path"], "boot_aggregate");
        assert_eq!(json["last"][1]["remarks"], json!(["violation"]));
    }
    let log = measured::ascii(&list);
    let table = inspect("ima-log", &log, &["--entries"]).stdout;
    assert_eq!(
        table
            .lines()
            .filter(|line| line.contains("ima-ng   sha256:"))
            .count(),
        5
    );
    let lines = inspect("ima-log", &log, &["--entries", "--output", "json"]).stdout;
    let lines: Vec<Value> = lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines.len(), 6);
    assert_eq!(lines[3]["path"], "/usr/lib/libc.so.6");
    assert_eq!(lines[5]["summary"]["entries"], 5);
}

#[test]
fn faults_of_a_list_are_shown_after_what_could_be_read() {
    let list = Machine::valid().list;
    let mut log = measured::ascii(&list);
    log.extend(b"10 not-an-entry\n");
    let json = as_json("ima-log", &log, 1);
    assert_eq!(json["entries"], 4);
    assert!(
        json["fault"].as_str().unwrap().starts_with("entry 4 "),
        "{json}"
    );
    let text = String::from_utf8(measured::ascii(&list)).unwrap();
    let altered = text.replace("/usr/bin/ls", "/usr/bin/lz");
    let json = as_json("ima-log", altered.as_bytes(), 1);
    assert_eq!(json["wrong_template_hashes"], 1);
    assert_eq!(json["first"][2]["remarks"], json!(["wrong template hash"]));
}

#[test]
fn event_logs() {
    let log = vectors::read("sets/hpe-rsa-sha256-ima780-uefi/boot_log.bin");
    let json = as_json("event-log", &log, 0);
    assert_eq!(json["events"], 153);
    assert_eq!(json["list"].as_array().unwrap().len(), 153);
    assert_eq!(json["list"][5]["data"]["variable"], "SecureBoot");
    assert_eq!(json["list"][5]["type"], "EV_EFI_VARIABLE_DRIVER_CONFIG");
    let quote = vectors::json("sets/hpe-rsa-sha256-ima780-uefi/quote.json");
    assert_eq!(
        json["replayed"]["sha256"]["4"],
        quote["pcrs"]["sha256"]["4"]
    );
    let list = vectors::read("sets/hpe-rsa-sha256-ima780-uefi/ima_log.ascii");
    let aggregate = json["replayed"]["sha256"]["boot_aggregate_0_9"]
        .as_str()
        .unwrap();
    assert!(String::from_utf8(list).unwrap().contains(aggregate));
}

#[test]
fn policies() {
    let json = as_json("policy", Machine::valid().policy().as_bytes(), 0);
    assert_eq!(json["paths"], 3);
    assert_eq!(json["digests"], 3);
    assert_eq!(json["empty"], false);
}

#[test]
fn every_recorded_event_log_is_shown_or_refused() {
    let mut shown = 0;
    for file in std::fs::read_dir(vectors::path("eventlogs")).unwrap() {
        let path = file.unwrap().path();
        let run = rat(&["inspect", "event-log", path.to_str().unwrap()]);
        match run.code {
            0 => shown += 1,
            1 => assert!(run.stdout.contains("faults")),
            _ => run.is_unusable(&[path.to_str().unwrap()]),
        }
        assert!(
            !run.stdout.chars().any(|c| c.is_control() && c != '\n'),
            "{path:?}"
        );
    }
    assert!(shown > 20, "{shown}");
}

#[test]
fn what_cannot_be_read() {
    for (kind, content, reason) in [
        ("quote", &b"x"[..], "TPMS_ATTEST"),
        ("ak", b"x", "TPMT_PUBLIC"),
        ("pcrs", b"{]", "line 1"),
        ("event-log", b"x", "event log"),
        ("policy", b"{\n[", "line 2"),
    ] {
        inspect(kind, content, &[]).is_unusable(&[reason]);
        let run = inspect(kind, content, &["--output", "json"]);
        assert_eq!(run.code, 2);
        assert!(
            run.json()["error"]["message"]
                .as_str()
                .unwrap()
                .contains(reason)
        );
    }
    for kind in ["quote", "ak", "pcrs", "ima-log", "event-log", "policy"] {
        rat(&["inspect", kind, "missing.file"]).is_unusable(&["missing.file"]);
    }
}

#[test]
fn a_reader_that_has_seen_enough_is_no_failure() {
    let log = vectors::path("sets/hpe-rsa-sha256-ima780-uefi/ima_log.ascii");
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_rat"))
        .args(["inspect", "ima-log", "--entries"])
        .arg(log)
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}
