//! Evidence for `benches/keylime-evidence`, and what judging it costs in this process.
//!
//! ```text
//! evidence make DIR         writes quote.json, list-10000.json: requests to verify/evidence
//! evidence judge SECONDS    prints a JSON object: CPU time of each unit, in seconds
//! ```
//!
//! The key is RSA-2048, as TPMs have one for each agent of Keylime. The list is ascii, of distinct
//! files, with boot_aggregate listed in the policy; PCR 10 alone is quoted with it, as Keylime does.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::as_conversions,
    clippy::arithmetic_side_effects,
    clippy::print_stdout
)]

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rat_api::keylime::{ApiVersion, Keylime, MeasuredBoot};
use rat_engine::agent_id::AgentId;
use rat_engine::hash::HashAlg;
use rat_engine::ima::boot_aggregate::BootAggregates;
use rat_engine::ima::judge::Judge;
use rat_engine::ima::{CacheLimits, ImaAppraiser, ImaCaches, ImaOptions, LogFormat, Start};
use rat_engine::pcr::{PcrSet, PcrValues};
use rat_engine::policy::RuntimePolicy;
use rat_tests::evidence::Machine;
use rat_tests::keylime::{NONCE, data_of};
use rat_tests::measured::{self, Measured};
use rat_tests::software_tpm::{Scheme, SoftwareAk};
use serde_json::{Value, json};

/// Entries of a long list, boot_aggregate included.
const ENTRIES: usize = 10_000;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["make", directory] => make(Path::new(directory)),
        ["judge", seconds] => judge(Duration::from_secs_f64(seconds.parse().unwrap())),
        _ => {
            eprintln!("usage: evidence make DIR | evidence judge SECONDS");
            std::process::exit(2);
        }
    }
}

/// A machine that measured so many entries, and quotes these PCRs.
fn machine(entries: usize, pcrs: u32) -> Machine {
    Machine::valid().with(|machine| {
        machine.ak = SoftwareAk::new(Scheme::RsaSsa(2048), HashAlg::Sha256);
        machine.banks = vec![(HashAlg::Sha256, PcrSet::from_bits(pcrs).unwrap())];
        machine.list.truncate(1);
        machine.list.extend((1..entries).map(|file| {
            let name = format!("/usr/lib/x86_64-linux-gnu/package-{file:06}/libfile.so.{file}");
            Measured::file(&name, &file.to_le_bytes())
        }));
    })
}

/// Its policy, with boot_aggregate.
fn policy(machine: &Machine) -> String {
    let mut policy: Value = serde_json::from_str(&machine.policy()).unwrap();
    let aggregate = hex::encode(&machine.list[0].digest);
    policy["digests"]["boot_aggregate"] = json!([aggregate]);
    policy.to_string()
}

/// A quote and nothing else: of PCR 16, which agents of Keylime quote always.
fn quote() -> Value {
    let machine = machine(1, 1 << 16);
    let mut data = data_of(&machine, &machine.attest(NONCE.as_bytes()));
    let members = data.as_object_mut().unwrap();
    members.remove("runtime_policy");
    members.remove("ima_measurement_list");
    data["tpm_policy"] = r#"{"mask": "0x10000"}"#.into();
    data
}

fn list(machine: &Machine) -> Value {
    let mut data = data_of(machine, &machine.attest(NONCE.as_bytes()));
    data["runtime_policy"] = policy(machine).into();
    data
}

fn request(data: &Value) -> Vec<u8> {
    json!({"type": "tpm", "data": data})
        .to_string()
        .into_bytes()
}

fn make(directory: &Path) {
    std::fs::create_dir_all(directory).unwrap();
    let write = |name: &str, data: &Value| {
        std::fs::write(directory.join(name), request(data)).unwrap();
    };
    write("quote.json", &quote());
    write("list-10000.json", &list(&machine(ENTRIES, 1 << 10)));
}

/// CPU time that this process has used.
fn cpu() -> Duration {
    let usage = std::fs::read_to_string("/proc/self/schedstat").unwrap();
    let nanoseconds = usage.split(' ').next().unwrap().parse().unwrap();
    Duration::from_nanos(nanoseconds)
}

/// Seconds of CPU time that a unit takes, done over and over.
fn each(time: Duration, mut unit: impl FnMut()) -> f64 {
    for _ in 0..3 {
        unit();
    }
    let (begun, mut count) = (cpu(), 0_u32);
    loop {
        unit();
        count += 1;
        let took = cpu() - begun;
        if took >= time {
            return took.as_secs_f64() / f64::from(count);
        }
    }
}

/// One list, and what it is appraised by.
struct List {
    format: LogFormat,
    bytes: Vec<u8>,
    quoted: PcrValues,
    judge: Arc<Judge>,
}

impl List {
    fn appraise(&self, caches: &Arc<ImaCaches>, agent: &str) {
        let options = ImaOptions {
            format: self.format,
            ..ImaOptions::default()
        };
        let references = self.judge.policy().compiled().reference_boot_aggregates();
        let boot = BootAggregates::from_quoted(&self.quoted);
        let boot = boot.with_references(references.iter().copied());
        let judge = Some(Arc::clone(&self.judge));
        let agent = AgentId::parse(agent).unwrap();
        let mut appraiser = ImaAppraiser::new(&self.quoted, options, Start::First, boot, judge)
            .unwrap()
            .with_caches(Arc::clone(caches), &agent);
        for piece in self.bytes.chunks(64 * 1024) {
            appraiser.feed(piece);
        }
        let outcome = appraiser.finish().unwrap();
        assert!(outcome.proof.passed_under().is_some());
        black_box(outcome);
    }
}

fn judge(time: Duration) {
    let caches = || Arc::new(ImaCaches::new(CacheLimits::default(), 1));
    let mut units = serde_json::Map::new();
    let machine = machine(ENTRIES, 1 << 10);
    let compiled = RuntimePolicy::parse(policy(&machine).as_bytes()).unwrap();
    let judge = Arc::new(Judge::new(compiled.into()).unwrap());
    for (form, format, bytes) in [
        ("ascii", LogFormat::Ascii, measured::ascii(&machine.list)),
        ("binary", LogFormat::Binary, measured::binary(&machine.list)),
    ] {
        let list = List {
            format,
            bytes,
            quoted: machine.values(),
            judge: Arc::clone(&judge),
        };
        let cold = each(time, || list.appraise(&caches(), "first"));
        units.insert(format!("list cold, {form}"), cold.into());
        let warm = caches();
        list.appraise(&warm, "first");
        list.appraise(&warm, "second");
        let recurring = each(time, || list.appraise(&warm, "third"));
        units.insert(format!("list recurring, {form}"), recurring.into());
    }
    for (name, data) in [("quote", quote()), ("request with list", list(&machine))] {
        let (keylime, body) = (Keylime::new(1, MeasuredBoot::default()), request(&data));
        let body = axum::body::Bytes::from(body);
        let verify = || {
            let answer = keylime.answer(ApiVersion::V2_6, body.clone());
            assert_eq!(answer.status(), 200);
            black_box(answer);
        };
        units.insert(name.to_owned(), each(time, verify).into());
    }
    println!("{}", Value::Object(units));
}
