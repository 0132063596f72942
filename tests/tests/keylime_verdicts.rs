//! The same evidence before Keylime's own verification and before this one: `make interop`.
//!
//! Keylime's function runs in a process of its Python, with the evidence of this repository that was
//! recorded, tampered copies of it, and machines in software. What is judged differently is listed
//! here with its reason, and stands in `docs/keylime.md`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::as_conversions,
    clippy::arithmetic_side_effects
)]

use std::io::Write;
use std::process::{Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use rat_engine::hash::HashAlg;
use rat_engine::ima::Template;
use rat_engine::tpm::Signature;
use rat_tests::evidence::{Machine, policy_json};
use rat_tests::keylime::{data, pcr_blob, quote_text, tpm2b, verify};
use rat_tests::measured::Measured;
use rat_tests::software_tpm::{Scheme, SoftwareAk};
use rat_tests::transcripts::recorded;
use rat_tests::vectors::{self, RecordedQuote};
use rat_tests::{python, workspace_root};
use serde_json::{Value, json};

/// Evidence that Keylime believes and this server does not: the beginning of its name, and why.
const STRICTER: [(&str, &str); 6] = [
    (
        "quote attestation-operator-checkQuote-success",
        "PCR 16 proves nothing: software resets it",
    ),
    (
        "set gcp-windows-rsa-sha1-boot",
        "SHA-1, over a nonce that is empty",
    ),
    ("agent 2", "its boot_aggregate is of zeros"),
    ("scripted 0", "its boot_aggregate is of zeros"),
    ("scripted 8", "its boot_aggregate is of zeros"),
    (
        "machine a violation",
        "what ran is not known, but for keylime.verifier.accept_violations",
    ),
];

/// What Keylime refuses and this server believes, and why.
const WIDER: [(&str, &str); 2] = [
    (
        "machine boot_aggregate, of quoted PCRs and not in its policy",
        "the quote itself says what it must be",
    ),
    (
        "machine entries of ima-ngv2",
        "a template that Keylime cannot read",
    ),
];

/// Evidence, by name.
type Cases = Vec<(String, Value)>;

/// A quote as a request has it, under a policy that names one of its PCRs.
fn quoted(quote: &RecordedQuote) -> Value {
    let signature = Signature::parse(&quote.signature).unwrap();
    let hash = signature.hash();
    // The bank of some is another one than the signature's.
    let bank = HashAlg::ALL
        .into_iter()
        .find(|bank| !quote.values.pcrs(*bank).is_empty());
    let bank = bank.unwrap();
    let pcrs = quote.values.pcrs(bank);
    let blob = pcr_blob(&[(bank, pcrs)], &quote.values);
    let ak = quote.ak_public.clone().unwrap();
    let is_sized = usize::from(u16::from_be_bytes([ak[0], ak[1]])) == ak.len() - 2;
    let nonce = quote.nonce.clone().unwrap_or_default();
    let first = pcrs.iter().next().unwrap();
    let value = hex::encode(quote.values.get(bank, first).unwrap().as_bytes());
    let mut policy = json!({"mask": format!("{:#x}", 1_u32 << u32::from(first.get()))});
    policy[first.to_string()] = json!([value]);
    json!({
        "quote": quote_text(&quote.message, &quote.signature, &blob),
        "nonce": BASE64.encode(nonce),
        "hash_alg": hash.name(),
        "tpm_ek": "unused",
        "tpm_ak": if is_sized { BASE64.encode(&ak) } else { tpm2b(&ak) },
        "tpm_policy": policy.to_string(),
    })
}

/// Quotes on their own.
fn quotes() -> Cases {
    let files = [
        "attestation-operator-checkQuote-success",
        "attestation-operator-checkQuote-wrong-agent",
        "go-tpm-tools-gce-cos-85-nonce9009-sha1",
        "go-tpm-tools-gce-cos-85-nonce9009-sha256",
        "go-tpm-tools-gce-cos-85-nonce9009-sha384",
        "hpe-perf-mock-quote",
    ];
    let mut cases = Vec::new();
    for file in files {
        let quote = RecordedQuote::read(&format!("quotes/{file}.json"));
        let genuine = quoted(&quote);
        let mut other = genuine.clone();
        other["nonce"] = "another".into();
        cases.push((format!("quote {file}"), genuine));
        cases.push((format!("quote {file}, another nonce"), other));
    }
    cases
}

/// What allows exactly the entries of a list.
fn allowing(list: &str) -> String {
    let mut digests = serde_json::Map::new();
    for line in list.lines() {
        let [_, _, _, digest, path] = line.splitn(5, ' ').collect::<Vec<_>>()[..] else {
            panic!("{line}");
        };
        let digest = digest.rsplit(':').next().unwrap();
        let listed = digests.entry(path).or_insert_with(|| json!([]));
        listed.as_array_mut().unwrap().push(digest.into());
    }
    policy_json(digests.into(), &[])
}

/// Complete evidence of machines, and every tampered copy of it.
fn sets() -> Cases {
    let state = |name: &str| vectors::json(name).to_string();
    let cos = "measured_boot/refstates/gtt_att_gce-cos-85-nonce9009.evlog.json";
    let hpe = "sets/hpe-rsa-sha256-ima780-uefi/uefi_refstate.json";
    let mut cases = Vec::new();
    for (set, refstate) in [
        ("gcp-cos85-rsa-sha256-boot", Some(state(cos))),
        ("gcp-cos85-rsa-sha384bank-boot", Some(state(cos))),
        ("gcp-windows-rsa-sha1-boot", None),
        ("hpe-rsa-sha256-ima780-uefi", Some(state(hpe))),
    ] {
        let read = |file: &str| std::fs::read(vectors::path(&format!("sets/{set}/{file}"))).ok();
        let variants = vectors::json(&format!("sets/{set}/tampered/EXPECTED.json"));
        let names = variants.as_object().unwrap().keys().map(String::as_str);
        for variant in std::iter::once("").chain(names) {
            let replaced = |end: &str| read(&format!("tampered/{variant}.{end}"));
            let file = match replaced("quote.json") {
                Some(_) => format!("sets/{set}/tampered/{variant}.quote.json"),
                None => format!("sets/{set}/quote.json"),
            };
            let mut data = quoted(&RecordedQuote::read(&file));
            let boot = replaced("boot").or_else(|| read("boot_log.bin"));
            if let (Some(boot), Some(refstate)) = (boot, &refstate) {
                data["mb_log"] = BASE64.encode(boot).into();
                data["mb_policy"] = refstate.clone().into();
            }
            if let Some(genuine) = read("ima_log.ascii") {
                let list = replaced("ima").unwrap_or_else(|| genuine.clone());
                let genuine = String::from_utf8(genuine).unwrap();
                data["runtime_policy"] = allowing(&genuine).into();
                data["ima_measurement_list"] = String::from_utf8(list).unwrap().into();
            }
            cases.push((format!("set {set} {variant}").trim().to_owned(), data));
        }
    }
    cases
}

/// What a real agent answered to Keylime's verifier, and what a client had judged.
fn transcripts() -> Cases {
    let tenant = recorded("verifier-tenant-pullmode-01.txt");
    let added = tenant
        .iter()
        .find(|it| it.method == "POST")
        .unwrap()
        .asked();
    let policy = BASE64.decode(added["runtime_policy"].as_str().unwrap());
    let policy = String::from_utf8(policy.unwrap()).unwrap();
    let mut cases = Vec::new();
    for (number, exchange) in recorded("agent-pull.txt").iter().enumerate() {
        let Some((_, rest)) = exchange.path.split_once("nonce=") else {
            continue;
        };
        let results = &exchange.json()["results"];
        let mut data = json!({
            "quote": results["quote"],
            "nonce": rest.split('&').next().unwrap(),
            "hash_alg": results["hash_alg"],
            "tpm_ek": "unused",
            "tpm_ak": added["ak_tpm"],
            "tpm_policy": "{}",
        });
        if results["ima_measurement_list_entry"] == 0 {
            data["ima_measurement_list"] = results["ima_measurement_list"].clone();
            let list = results["ima_measurement_list"].as_str().unwrap();
            data["runtime_policy"] = allowing(list).into();
            cases.push((format!("agent {number}, its whole list"), data.clone()));
            data["runtime_policy"] = policy.clone().into();
        }
        cases.push((format!("agent {number}"), data));
    }
    let scripted = recorded("verifier-pullmode-02-edge-cases-scripted.txt");
    for (number, exchange) in scripted.iter().enumerate() {
        // What is refused before it is judged says nothing of evidence.
        if exchange.path.ends_with("verify/evidence") && exchange.status == 200 {
            let data = exchange.asked()["data"].clone();
            cases.push((format!("scripted {number}"), data));
        }
    }
    cases
}

/// The valid machine after a change.
fn machine_of(change: &dyn Fn(&mut Machine)) -> Machine {
    Machine::valid().with(|it| change(it))
}

/// A machine's evidence under the policy that it keeps to.
fn kept(machine: &Machine) -> Value {
    let digests = machine.list.iter().map(|entry| {
        let name = String::from_utf8(entry.name.clone()).unwrap();
        (name, json!([hex::encode(&entry.digest)]))
    });
    let mut data = data(machine);
    data["runtime_policy"] = policy_json(Value::Object(digests.collect()), &[]).into();
    data
}

/// Machines in software that keep to their policies.
fn machines_that_keep() -> Cases {
    let listing = |entry: Measured| kept(&machine_of(&|it| it.list.push(entry.clone())));
    let with_key = |scheme| {
        kept(&machine_of(&|it| {
            it.ak = SoftwareAk::new(scheme, HashAlg::Sha256)
        }))
    };
    let file = |name: &str| Measured::file(name, b"content");
    let cases = [
        ("keeps to its policy", kept(&Machine::valid())),
        ("boot_aggregate, of quoted PCRs and not in its policy", {
            data(&Machine::valid())
        }),
        ("an RSA key", with_key(Scheme::RsaSsa(2048))),
        ("a P-384 key", with_key(Scheme::Ecdsa(384))),
        ("entries of ima-sig", {
            listing(file("/usr/bin/signed").in_template(Template::ImaSig))
        }),
        ("entries of ima-ngv2", {
            listing(file("/usr/bin/newer").in_template(Template::ImaNgV2))
        }),
        ("a violation", {
            let violation = true;
            listing(Measured {
                violation,
                ..file("/var/log/open")
            })
        }),
        (
            "a name that others begin with",
            listing(file("/usr/bin/ba")),
        ),
    ];
    named(cases)
}

fn named<const N: usize>(cases: [(&str, Value); N]) -> Cases {
    let named = cases.map(|(name, data)| (format!("machine {name}"), data));
    named.into()
}

/// The valid machine's evidence after a change to its request.
fn changed(change: impl FnOnce(&mut Value)) -> Value {
    let mut data = kept(&Machine::valid());
    change(&mut data);
    data
}

/// The same evidence before other policies.
fn machines_and_policies() -> Cases {
    let valid = kept(&Machine::valid());
    let listing: Value = serde_json::from_str(valid["runtime_policy"].as_str().unwrap()).unwrap();
    let allowed = &listing["digests"];
    let bash = hex::encode(&Machine::valid().list[1].digest);
    let policy = |digests: Value, excludes: &[&str]| {
        let policy = policy_json(digests, excludes);
        changed(|data| data["runtime_policy"] = policy.into())
    };
    let but = |name: &str, digests: Value| {
        let mut all = allowed.clone();
        all[name] = digests;
        all
    };
    let pcrs = |policy: Value| changed(|data| data["tpm_policy"] = policy.to_string().into());
    let aggregate = json!({"boot_aggregate": allowed["boot_aggregate"]});
    let zeros = "0".repeat(64);
    let cases = [
        (
            "everything excluded but boot_aggregate",
            policy(aggregate, &["/usr/.*"]),
        ),
        ("nothing allowed", policy(json!({}), &[])),
        (
            "another digest",
            policy(but("/usr/bin/ls", json!([bash])), &[]),
        ),
        (
            "one of two digests",
            policy(but("/usr/bin/bash", json!([zeros, bash])), &[]),
        ),
        ("a file beyond its policy", {
            let evil = Measured::file("/tmp/evil", b"evil");
            let mut data = data(&machine_of(&|it| it.list.push(evil.clone())));
            data["runtime_policy"] = valid["runtime_policy"].clone();
            data
        }),
        (
            "a PCR of another value",
            pcrs(json!({"0": [zeros], "mask": "0x1"})),
        ),
        ("a PCR that is not quoted", {
            pcrs(json!({"22": ["f".repeat(64)], "mask": "0x400000"}))
        }),
    ];
    named(cases)
}

/// The same evidence with something done to its list or quote.
fn machines_and_lists() -> Cases {
    let valid = kept(&Machine::valid());
    let lines: Vec<&str> = valid["ima_measurement_list"]
        .as_str()
        .unwrap()
        .lines()
        .collect();
    // Keys of the evidence are made anew each time: list and quote must be of one.
    let with = |change: &dyn Fn(&mut Value)| {
        let mut data = valid.clone();
        change(&mut data);
        data
    };
    let list = |lines: Vec<&str>| {
        with(&|data| data["ima_measurement_list"] = format!("{}\n", lines.join("\n")).into())
    };
    let cases = [
        ("a line left out", list([&lines[..2], &lines[3..]].concat())),
        ("the last line left out", list(lines[..3].to_vec())),
        (
            "two lines exchanged",
            list(vec![lines[0], lines[2], lines[1], lines[3]]),
        ),
        ("a line twice", list([&lines[..], &lines[3..]].concat())),
        (
            "no list",
            with(&|data| {
                data.as_object_mut().unwrap().remove("ima_measurement_list");
            }),
        ),
        (
            "another hash",
            with(&|data| data["hash_alg"] = "sha384".into()),
        ),
        (
            "a quote cut off",
            with(&|data| {
                let quote = data["quote"].as_str().unwrap();
                data["quote"] = quote[..quote.len() - 40].into();
            }),
        ),
    ];
    named(cases)
}

/// Keylime's event ids for each, from its own function.
fn keylimes(cases: &Cases) -> Vec<Vec<String>> {
    let folder = tempfile::tempdir().unwrap();
    let verifier = "[verifier]\nversion = 2.6\nmeasured_boot_policy_name = accept-all\n\
                    measured_boot_imports = []\nmeasured_boot_evaluate = once\n\
                    ignore_tomtou_errors = False\n\
                    severity_labels = ['info', 'emergency']\n\
                    severity_policy = [{'event_id': '.*', 'severity_label': 'emergency'}]\n";
    let logging = "[loggers]\nkeys = root\n[handlers]\nkeys = none\n[formatters]\nkeys = none\n\
                   [formatter_none]\nformat = %(message)s\n[logger_root]\nlevel = CRITICAL\n\
                   handlers = none\n[handler_none]\nclass = StreamHandler\nlevel = CRITICAL\n\
                   formatter = none\nargs = (sys.stderr,)\n";
    let script = workspace_root().join("tests/python/keylime_verdicts.py");
    let mut keylime = Command::new(python::keylime().join("python"));
    keylime.arg(script).env("KEYLIME_DIR", folder.path());
    for (part, text) in [
        ("verifier", verifier),
        ("logging", logging),
        ("tenant", "[tenant]\n"),
        ("registrar", "[registrar]\n"),
        ("ca", "[ca]\n"),
    ] {
        let file = folder.path().join(format!("{part}.conf"));
        std::fs::write(&file, text).unwrap();
        keylime.env(format!("KEYLIME_{}_CONFIG", part.to_uppercase()), file);
    }
    keylime.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut keylime = keylime.spawn().unwrap();
    let mut input = keylime.stdin.take().unwrap();
    let lines: Vec<String> = cases.iter().map(|(_, data)| format!("{data}\n")).collect();
    let writing = std::thread::spawn(move || {
        for line in lines {
            input.write_all(line.as_bytes()).unwrap();
        }
    });
    let output = keylime.wait_with_output().unwrap();
    writing.join().unwrap();
    assert!(output.status.success());
    let said = String::from_utf8(output.stdout).unwrap();
    let verdicts = said
        .lines()
        .filter_map(|line| line.strip_prefix("verdict "));
    verdicts
        .map(|it| serde_json::from_str(it).unwrap())
        .collect()
}

#[test]
#[ignore = "needs Keylime from PyPI: make interop"]
fn keylimes_own_verification_and_ours_give_the_same_verdicts() {
    let machines = [
        machines_that_keep(),
        machines_and_policies(),
        machines_and_lists(),
    ];
    let cases = [quotes(), sets(), transcripts(), machines.concat()].concat();
    let theirs = keylimes(&cases);
    assert_eq!(theirs.len(), cases.len());
    let (mut faults, mut used, mut believed) = (Vec::new(), Vec::new(), 0);
    for ((name, data), theirs) in cases.iter().zip(theirs) {
        let answered = verify(data);
        let is_valid = answered.status == 200 && answered.is_valid();
        let about = format!(
            "{name}: Keylime {theirs:?}, here {}",
            answered.body["results"]["failures"]
        );
        match (theirs.is_empty(), is_valid) {
            (true, true) => believed += 1,
            (false, false) => {}
            (false, true) => match WIDER.iter().find(|(it, _)| name == it) {
                Some((it, _)) => used.push(*it),
                None => faults.push(about),
            },
            (true, false) => match STRICTER.iter().find(|(it, _)| name.starts_with(it)) {
                Some((it, _)) => used.push(*it),
                None => faults.push(about),
            },
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    for (name, _) in STRICTER.iter().chain(&WIDER) {
        assert!(used.contains(name), "{name} is no difference");
    }
    assert!(believed >= 8, "{believed} of {} are believed", cases.len());
}
