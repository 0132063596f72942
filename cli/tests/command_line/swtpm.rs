//! A software TPM, and a kernel played by the test: it extends PCR 0-7 at boot and PCR 10 with
//! each entry of its measurement list. `rat` gets the files that tpm2-tools wrote.

use std::fs;
use std::path::Path;

use rat_engine::hash::HashAlg;
use rat_engine::pcr::PcrIndex;
use rat_engine::tpm::pcr_values::parse_pcr_blob;
use rat_tests::measured::{self, Measured};
use rat_tests::oracle;
use rat_tests::swtpm::Tpm;

use crate::run::{Run, rat};

const BANK: HashAlg = HashAlg::Sha256;
const SELECTION: &str = "sha256:0,1,2,3,4,5,6,7,8,9,10";

/// Extends a digest into a PCR, as firmware and kernel do.
fn extend(tpm: &Tpm, pcr: u8, digest: &[u8]) {
    let argument = format!("{pcr}:sha256={}", hex::encode(digest));
    tpm.tool("tpm2_pcrextend", &[&argument]).unwrap();
}

/// Measures an event: into the list and into PCR 10.
fn measure(tpm: &Tpm, list: &mut Vec<Measured>, event: Measured) {
    extend(tpm, 10, &oracle::digest(BANK, &event.data()));
    list.push(event);
    fs::write(tpm.path().join("ima_log"), measured::ascii(list)).unwrap();
}

/// A machine that booted and measured its boot PCRs.
fn boot(key: &str, scheme: &str) -> (Tpm, Vec<Measured>) {
    let tpm = Tpm::start().unwrap();
    let endorsement = if key == "ecc" { "ecc" } else { "rsa" };
    tpm.create_ek(endorsement).unwrap();
    tpm.create_ak(key, "sha256", scheme).unwrap();
    for pcr in 0..8 {
        extend(&tpm, pcr, &oracle::digest(BANK, &[b'f', pcr]));
    }
    tpm.quote(SELECTION, "sha256", scheme).unwrap();
    let (_, values) = parse_pcr_blob(&tpm.read("pcrs").unwrap()).unwrap();
    let value = |index| values.get(BANK, PcrIndex::new(index).unwrap()).unwrap();
    let boot: Vec<_> = (0..10)
        .map(|index| value(index).as_bytes().to_vec())
        .collect();
    let mut list = Vec::new();
    measure(&tpm, &mut list, Measured::boot_aggregate(BANK, &boot));
    (tpm, list)
}

fn verify(directory: &Path, more: &[&str]) -> Run {
    let file = |name: &str| directory.join(name).display().to_string();
    let mut arguments: Vec<String> = ["verify", "--strict", "--nonce", "c0ffee"]
        .map(String::from)
        .into();
    for (option, name) in [
        ("--ak", "ak.pub"),
        ("--quote", "msg"),
        ("--signature", "sig"),
        ("--pcrs", "pcrs"),
    ] {
        arguments.extend([option.into(), file(name)]);
    }
    arguments.extend([
        "--ima-log".into(),
        file("ima_log"),
        "--output".into(),
        "json".into(),
    ]);
    arguments.extend(more.iter().map(|argument| (*argument).to_owned()));
    rat(&arguments)
}

#[test]
fn a_machine_is_trusted_until_it_runs_what_its_policy_does_not_list() {
    for (key, scheme) in [("rsa", "rsassa"), ("rsa", "rsapss"), ("ecc", "ecdsa")] {
        let (tpm, mut list) = boot(key, scheme);
        for name in ["/usr/bin/bash", "/usr/bin/ls", "/usr/lib/libc.so.6"] {
            measure(&tpm, &mut list, Measured::file(name, name.as_bytes()));
        }
        tpm.quote(SELECTION, "sha256", scheme).unwrap();
        assert_eq!(
            verify(tpm.path(), &[]).verdict(),
            ("authentic".into(), vec![])
        );

        let policy = tpm.path().join("policy.json").display().to_string();
        let list_file = tpm.path().join("ima_log").display().to_string();
        let made = rat(&[
            "policies",
            "create",
            "runtime",
            "--from-ima-log",
            &list_file,
            "--out",
            &policy,
        ]);
        assert_eq!(made.code, 0, "{made:?}");
        let judged = || verify(tpm.path(), &["--policy", &policy]).verdict();
        assert_eq!(judged(), ("trusted".into(), vec![]), "{key} {scheme}");

        // Something new runs after the quote: pending. Quoted again, it counts.
        measure(&tpm, &mut list, Measured::file("/tmp/implant", b"implant"));
        assert_eq!(judged(), ("trusted".into(), vec![]), "{key} {scheme}");
        tpm.quote(SELECTION, "sha256", scheme).unwrap();
        assert_eq!(
            judged(),
            ("untrusted".into(), vec!["ima.path_not_listed".into()])
        );

        // Hiding it from the list does not help: PCR 10 remembers.
        list.pop();
        fs::write(tpm.path().join("ima_log"), measured::ascii(&list)).unwrap();
        assert_eq!(
            judged(),
            ("untrusted".into(), vec!["ima.pcr_mismatch".into()])
        );
    }
}
