//! Every committed input of the fuzz targets, and every recorded file that is of a target's kind,
//! again at each run of the tests: without a panic, within a bound on memory for each input byte,
//! and without hanging.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::as_conversions,
    clippy::arithmetic_side_effects
)]

use std::alloc::System;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use rat_tests::targets::{self, Target};
use rat_tests::{vectors, workspace_root};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// How long to wait for one input. The slowest takes a hundredth of it on a busy machine: this
/// finds hangs and measures nothing.
const HANG: Duration = Duration::from_secs(30);

/// All bytes that a target may request from the allocator for an input of `length` bytes, freed
/// ones counted too: `fixed + per_byte * length`.
struct Budget {
    fixed: usize,
    per_byte: usize,
}

/// What a target may allocate: two to five times what the worst input of the fuzzing so far took.
///
/// The fixed part is for errors, buffers, maps and assertions of the target itself. OpenSSL's own
/// allocations are not counted; its inputs are bounded by `limits`.
fn budget(target: &str) -> Budget {
    let (fixed, per_byte) = match target {
        // Copies of 132 KB of genuine evidence, their decoding, and the judging: 0.66 MB.
        "appraisal" => (2 << 20, 64),
        // Borrowed from the input; two copies for the assertions.
        "attest" | "file_signature" | "pcr_selection" => (1 << 10, 4),
        // The same, and the key's or signature's numbers in the form that the library takes.
        "public" | "signature" => (2 << 10, 8),
        // Eight numbers of 512 bytes, several times over.
        "rsa_lanes" => (128 << 10, 4),
        // Eight keys in several encodings.
        "p256_lanes" => (64 << 10, 8),
        // A tree of at most 96 values.
        "pcr_blob" | "pcr_json" => (16 << 10, 8),
        // One entry's data at a time, in buffers that grow by doubling: never the list.
        "ima_ascii" | "ima_binary" => (4 << 10, 8),
        // Four passes of the same, and two outcomes as text.
        "ima_splits" => (16 << 10, 32),
        // Events, measurements replayed in each bank, and texts of decoded data.
        "uefi_event_log" => (16 << 10, 64),
        // The same for two policies, with up to four digests of each event; and a genuine policy.
        "boot_content" => (8 << 20, 1 << 10),
        // Compiled patterns, as in runtime policies, and a genuine log judged.
        "boot_policy" => (64 << 20, 4 << 10),
        // Text is decoded from base64, and the key copied, for each of five readers.
        "keyring_buffer" => (8 << 10, 32),
        // Programs of regular expressions, bounded by EXCLUDE_PROGRAM_BYTES_MAX each: 30 MB are
        // requested, most of them freed, before the largest is given up or kept.
        "exclude_pattern" => (64 << 20, 4 << 10),
        "runtime_policy" => (64 << 20, 4 << 10),
        // The same, of a policy that was made or signed.
        "allowlist" | "dsse" => (64 << 20, 4 << 10),
        // Names and digests, twice, and a buffer of a name.
        "initramfs" => (64 << 10, 64),
        // Names and digests where they stand, and a path of at most 4 KiB for each file.
        "rpm_header" => (16 << 10, 512),
        // A policy among other things.
        "verify_evidence" => (64 << 20, 4 << 10),
        // Copies of the certificate or request, its extensions, and a public area.
        "agent_certificate" | "certificate_request" => (8 << 10, 32),
        // The same, and a chain of six; the library's store holds references.
        "ek_certificate" => (64 << 10, 16),
        // Trees of 24 PCRs, and violations of each.
        "tpm_policy" => (32 << 10, 64),
        // Two trees of values, each a few dozen bytes for two of input, and both written again.
        // Keys and certificates, decoded and checked, and the same twice.
        "keylime_registration" => (256 << 10, 64),
        "core_json" => (8 << 10, 160),
        // The body's strings, what base64 holds, and up to four copies of the list.
        "pull_answer" => (16 << 10, 32),
        // What each step is answered with: evidence, its appraisal and a tick.
        "shard_sequences" => (64 << 10, 64 << 10),
        // Eighteen copies with a preamble; for those that decode, the values and their encodings.
        "wire_frame" => (64 << 10, 256),
        // Topics, at most 64 of 256 bytes, and one copy in a frame.
        "zeromq_peer" => (32 << 10, 8),
        other => panic!("no budget for {other}"),
    };
    Budget { fixed, per_byte }
}

/// Files under a folder, at any depth, in a fixed order.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => folders.push(path),
                false => found.push(path),
            }
        }
    }
    found.sort();
    found
}

/// The targets that a recorded file is an input of, by where it lies and how its name ends.
fn fitting(file: &str) -> &'static [&'static str] {
    const LIST: &[&str] = &["ima_ascii", "ima_splits"];
    match file {
        _ if file.ends_with(".msg") => &["attest"],
        _ if file.ends_with(".sig") => &["signature"],
        _ if file.ends_with(".pem") => &["keyring_buffer"],
        _ if file.ends_with(".ima") || file.ends_with("ima_log.ascii") => LIST,
        _ if file.ends_with(".boot") || file.ends_with("boot_log.bin") => &["uefi_event_log"],
        _ if file.ends_with(".md") => &[],
        _ if file.starts_with("ek/certificates/") => &["ek_certificate"],
        _ if file.starts_with("ima/") && file.ends_with(".json") => &["runtime_policy"],
        _ if file.starts_with("ima/") => LIST,
        _ if file.ends_with(".signed.json") => &["dsse", "runtime_policy"],
        _ if file.starts_with("keylime-policy/images/") => &["initramfs"],
        _ if file.ends_with(".rpm") => &["rpm_header"],
        "keylime-policy/list-keyrings.txt" => LIST,
        _ if file.starts_with("keylime-policy/") && file.ends_with(".txt") => &["allowlist"],
        _ if file.starts_with("eventlogs/") => &["uefi_event_log", "boot_content"],
        _ if file.starts_with("measured_boot/refstates/") => &["boot_policy"],
        _ if file.ends_with(".json") => &["pcr_json", "runtime_policy", "tpm_policy"],
        _ => &[],
    }
}

/// Runs one input, and complains when it panics, hangs or takes too much.
fn replay(name: &str, target: Target, input: Vec<u8>, from: &Path) -> Option<String> {
    let length = input.len();
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let region = Region::new(ALLOCATOR);
        target(&input);
        let change = region.change();
        let grown = usize::try_from(change.bytes_reallocated).unwrap_or(0);
        // The receiver is gone only when this came too late.
        let _ = sender.send(change.bytes_allocated + grown);
    });
    let Budget { fixed, per_byte } = budget(name);
    let allowed = fixed + per_byte * length;
    let fault = match receiver.recv_timeout(HANG) {
        Ok(requested) if requested <= allowed => return None,
        Ok(requested) => format!("{requested} bytes requested, {allowed} allowed"),
        Err(RecvTimeoutError::Timeout) => format!("not done after {HANG:?}"),
        Err(RecvTimeoutError::Disconnected) => "panicked".to_owned(),
    };
    Some(format!(
        "{name}, {} ({length} bytes): {fault}",
        from.display()
    ))
}

/// Held by each test: what another thread allocates would be counted too.
static ALONE: Mutex<()> = Mutex::new(());

#[test]
fn every_input_is_taken_within_its_bounds() {
    let _alone = ALONE.lock();
    let corpora = workspace_root().join("fuzz/corpus");
    let recorded = vectors::path("");
    let mut complaints = Vec::new();
    // Reads the genuine evidence and the vendors' CAs, which are kept: no cost of an input.
    targets::appraisal(&[]);
    let certificate = "ek/certificates/keylime_certificate_wrapper_0.der";
    targets::ek_certificate(&vectors::read(certificate));
    // Makes the machine and its policies.
    targets::shard_sequences(&[]);
    for (name, target) in targets::ALL {
        let mut inputs = files(&corpora.join(name));
        assert!(!inputs.is_empty(), "no corpus for {name}");
        inputs.extend(files(&recorded).into_iter().filter(|path| {
            let below = path.strip_prefix(&recorded).unwrap().to_str().unwrap();
            fitting(below).contains(&name)
        }));
        for path in inputs {
            let input = std::fs::read(&path).unwrap();
            complaints.extend(replay(name, target, input, &path));
        }
    }
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

#[test]
fn every_target_is_built_by_the_fuzz_crate_and_has_a_corpus() {
    let _alone = ALONE.lock();
    let folder = workspace_root().join("fuzz");
    let names = |below: &str| {
        let mut names: Vec<_> = std::fs::read_dir(folder.join(below))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned())
            .collect();
        names.sort();
        names
    };
    let targets: Vec<_> = targets::ALL
        .iter()
        .map(|(name, _)| (*name).to_owned())
        .collect();
    assert_eq!(names("fuzz_targets"), targets);
    assert_eq!(names("corpus"), targets);
    let manifest = std::fs::read_to_string(folder.join("Cargo.toml")).unwrap();
    for name in targets {
        assert!(
            manifest.contains(&format!("path = \"fuzz_targets/{name}.rs\"")),
            "{name}"
        );
        let target = std::fs::read_to_string(folder.join(format!("fuzz_targets/{name}.rs")));
        assert!(
            target
                .unwrap()
                .contains(&format!("rat_tests::targets::{name}(")),
            "{name}"
        );
    }
}
