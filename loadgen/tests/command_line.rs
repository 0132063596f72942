//! The program `rat-load` against enrolment and evidence protocol.
//!
//! Needs `swtpm` and `swtpm-tools` for one test; without them it fails and says so.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a panic is how a test fails"
)]

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use anyhow::Result;
use rat_engine::agent_id::AgentId;
use rat_engine::crypto::VerifyingKey;
use rat_engine::tpm::Public;
use rat_identity::ek::{EkTrust, EkVouch};
use rat_tests::enrolment_server::Core;
use rat_tests::vectors::RecordedQuote;
use rat_tests::verifier::Verifier;
use rat_transport::quic::server::Server;
use serde_json::Value;
use tempfile::TempDir;
use tokio::runtime::Runtime;

const PATIENCE: Duration = Duration::from_secs(120);

fn rat_load() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rat-load"));
    command.stderr(Stdio::inherit());
    command
}

/// A server that knows the TPMs of these files, one a line: a CA, and perhaps a list.
struct Installation {
    _directory: TempDir,
    runtime: Runtime,
    core: Arc<Core>,
    verifier: Arc<Verifier>,
    _server: Server,
    url: String,
}

fn installation(files: &str) -> Result<Installation> {
    let directory = tempfile::tempdir()?;
    let files: Vec<PathBuf> = files.lines().map(PathBuf::from).collect();
    let trust = EkTrust::load(&files[..1], &files[1..])?;
    let core = Arc::new(Core::new(&directory.path().join("ca"), trust)?);
    let verifier = Verifier::new(Arc::clone(&core));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let (server, address) = runtime.block_on(async {
        let server = verifier.bind("127.0.0.1:0".parse()?)?;
        anyhow::Ok((server, core.serve().await?))
    })?;
    Ok(Installation {
        _directory: directory,
        runtime,
        core,
        verifier,
        _server: server,
        url: format!("https://localhost:{}", address.port()),
    })
}

fn output(command: &mut Command) -> Result<String> {
    let output = command.output()?;
    assert!(output.status.success(), "{command:?}");
    Ok(String::from_utf8(output.stdout)?)
}

#[test]
fn a_fleet_enrols_attests_and_is_counted() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let ek_ca = directory.path().join("ek-ca");
    let certificate = output(rat_load().arg("ek-ca").arg(&ek_ca))?;
    let server = installation(&certificate)?;
    let fleet = |more: &[&str]| -> Result<Value> {
        let report = output(
            rat_load()
                .args([
                    "fleet",
                    "--server",
                    &server.url,
                    "--seconds",
                    "2",
                    "--growth",
                    "1",
                ])
                .args(["--token", server.core.token(false).as_str()])
                .args(["--baseline-token", server.core.token(true).as_str()])
                .arg("--ek-ca")
                .arg(&ek_ca)
                .args(more),
        )?;
        Ok(serde_json::from_str(&report)?)
    };
    for (prefix, key) in [("p256", "ecc"), ("rsa2048", "rsa")] {
        let report = fleet(&[
            "--agents",
            "12",
            "--key",
            key,
            "--ak-pool",
            "3",
            "--prefix",
            prefix,
        ])?;
        assert_eq!(report["agents"], 12, "{report}");
        assert_eq!(report["connections"], 12);
        let attestations = report["attestations"].as_u64().unwrap();
        assert!(attestations >= 12, "{report}");
        assert_eq!(report["by_status"]["authentic"], attestations);
        assert_eq!(report["by_code"]["-"], attestations);
        assert_eq!(report["troubles"], serde_json::json!({}));
        assert!(report["latency_ms"]["p50"].as_f64().unwrap() > 0.0);
    }
    let rounds = server.verifier.rounds();
    assert!(rounds.iter().all(|round| round.codes.is_empty()));
    // Lists grow, and only what is new is sent.
    assert!(rounds.iter().any(|round| round.from_entry > Some(20)));
    assert_eq!(server.core.lists.lock().unwrap().len(), 2);
    Ok(())
}

/// A command that runs a fleet against this server, whose agents' CA is in this directory.
fn fleet(server: &Installation, ek_ca: &Path, options: &[&str]) -> Command {
    fleet_at(&server.url, server, ek_ca, options)
}

/// The same at another address.
fn fleet_at(url: &str, server: &Installation, ek_ca: &Path, options: &[&str]) -> Command {
    let mut command = rat_load();
    command
        .args(["fleet", "--server", url, "--ek-ca"])
        .arg(ek_ca)
        .args(["--token", server.core.token(false).as_str()])
        .args(options);
    command
}

/// A server, and the directory of the CA that it knows.
fn world() -> Result<(TempDir, PathBuf, Installation)> {
    let directory = tempfile::tempdir()?;
    let ek_ca = directory.path().join("ek-ca");
    let certificate = output(rat_load().arg("ek-ca").arg(&ek_ca))?;
    let server = installation(&certificate)?;
    Ok((directory, ek_ca, server))
}

/// Polls until it holds.
fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..PATIENCE.as_millis() / 5 {
        if holds() {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("never: {what}");
}

#[test]
fn visits_count_from_when_they_were_to_begin() -> Result<()> {
    let (_directory, ek_ca, server) = world()?;
    // A server that is slow for a second: one agent hears nothing, and the others are to visit.
    server.verifier.pause();
    let visits = ["--agents", "1", "--rate", "20", "--seconds", "3"];
    let mut running = fleet(&server, &ek_ca, &visits);
    let running = running.stdout(Stdio::piped()).spawn()?;
    eventually("a visit", || !server.verifier.hellos().is_empty());
    std::thread::sleep(Duration::from_secs(1));
    server.verifier.resume();
    let output = running.wait_with_output()?;
    assert!(output.status.success());
    let report: Value = serde_json::from_slice(&output.stdout)?;
    let schedule = &report["schedule"];
    let count = |name: &str| schedule[name].as_u64().unwrap();
    assert_eq!(
        (schedule["rate"].as_f64(), count("intended")),
        (Some(20.0), 60)
    );
    assert_eq!(count("begun") + count("not_begun"), 60, "{report}");
    assert_eq!(schedule["visit_ms"]["count"], count("begun"));
    assert_eq!(report["attestations"], count("begun"));
    assert_eq!(report["by_code"]["-"], count("begun"));
    // Twenty starts were due in that second, of which a loop that waits sees one.
    let corrected = schedule["visit_ms"]["p90"].as_f64().unwrap();
    assert!(corrected >= 500.0, "{report}");
    let welcome = schedule["welcome_ms"]["p90"].as_f64().unwrap();
    assert!(welcome >= 450.0, "{report}");
    Ok(())
}

#[test]
fn what_could_not_begin_is_counted() -> Result<()> {
    let (_directory, ek_ca, server) = world()?;
    // Nobody is challenged, so that the only agent is never free again.
    server.verifier.pause();
    let visits = ["--agents", "1", "--rate", "10", "--seconds", "1"];
    let mut running = fleet(&server, &ek_ca, &visits);
    let running = running.stdout(Stdio::piped()).spawn()?;
    eventually("a visit", || !server.verifier.hellos().is_empty());
    std::thread::sleep(Duration::from_millis(1500));
    server.verifier.resume();
    let output = running.wait_with_output()?;
    let report: Value = serde_json::from_slice(&output.stdout)?;
    let schedule = &report["schedule"];
    assert_eq!(schedule["intended"], 10, "{report}");
    assert_eq!(schedule["begun"], 1, "{report}");
    assert_eq!(schedule["not_begun"], 9, "{report}");
    Ok(())
}

#[test]
fn agents_arrive_at_a_rate_and_stay() -> Result<()> {
    let (_directory, ek_ca, server) = world()?;
    let stay = [
        "--agents",
        "20",
        "--rate",
        "10",
        "--stay",
        "--seconds",
        "1",
        "--ak-pool",
        "2",
    ];
    let report: Value = serde_json::from_str(&output(&mut fleet(&server, &ek_ca, &stay))?)?;
    let schedule = &report["schedule"];
    // Ten fit into a second; the others are not there.
    assert_eq!(schedule["intended"], 10, "{report}");
    assert_eq!(schedule["begun"], 10, "{report}");
    assert!(schedule["visit_ms"].is_null(), "{report}");
    assert!(server.verifier.hellos().len() <= 10);
    let table = output(fleet(&server, &ek_ca, &stay).args(["--output", "table", "--prefix", "b"]))?;
    let has = |line: &str| table.lines().any(|it| it.starts_with(line));
    for line in [
        "machine ",
        "agents ",
        "intended ",
        "challenge to verdict, ms ",
        "code - ",
    ] {
        assert!(has(line), "{line}: {table}");
    }
    Ok(())
}

#[test]
fn s13_a_server_that_takes_spoilt_evidence_is_found() -> Result<()> {
    let (_directory, ek_ca, server) = world()?;
    let spoilt = |prefix: &str| {
        let mut command = fleet(&server, &ek_ca, &["--agents", "4", "--seconds", "2"]);
        command.args(["--tampered", "25", "--replaying", "25", "--prefix", prefix]);
        command
    };
    let report: Value = serde_json::from_str(&output(&mut spoilt("sound"))?)?;
    let misbehaving = &report["misbehaving"];
    for kind in ["tampered", "replaying"] {
        let told = &misbehaving[kind];
        assert_eq!((&told["agents"], &told["accepted"]), (&1.into(), &0.into()));
        assert!(told["sent"].as_u64() > Some(0), "{report}");
        assert!(told["by_code"]["-"].is_null(), "{report}");
    }
    assert!(misbehaving["replaying"]["honest"].as_u64() >= Some(1));
    server.verifier.believe_everything();
    let failed = spoilt("gullible").output()?;
    assert_eq!(failed.status.code(), Some(3));
    let report: Value = serde_json::from_slice(&failed.stdout)?;
    for kind in ["tampered", "replaying"] {
        let told = &report["misbehaving"][kind];
        assert!(told["accepted"].as_u64() > Some(0), "{report}");
    }
    Ok(())
}

#[test]
fn agents_misbehave_towards_ones_own_server_only() -> Result<()> {
    let (_directory, ek_ca, server) = world()?;
    // Nobody is at this address. (RFC 5737)
    let far = "https://192.0.2.1:8001";
    let mut command = fleet_at(far, &server, &ek_ca, &["--agents", "2", "--late", "50"]);
    let failed = command.stderr(Stdio::piped()).output()?;
    let said = String::from_utf8(failed.stderr)?;
    assert!(
        !failed.status.success() && said.contains("--beyond-loopback"),
        "{said}"
    );
    let mut command = fleet(&server, &ek_ca, &["--agents", "2", "--late", "80"]);
    let failed = command
        .args(["--flooding", "80"])
        .stderr(Stdio::piped())
        .output()?;
    let said = String::from_utf8(failed.stderr)?;
    assert!(
        said.contains("more agents are to misbehave than there are"),
        "{said}"
    );
    assert!(server.core.enrolled.lock().unwrap().is_empty());
    Ok(())
}

#[test]
fn the_engine_judges_evidence_that_is_made_up() -> Result<()> {
    for key in ["ecc", "rsa"] {
        let report = output(rat_load().args([
            "replay",
            "--key",
            key,
            "--machines",
            "2",
            "--entries",
            "30",
            "--threads",
            "2",
            "--seconds",
            "1",
        ]))?;
        let report: Value = serde_json::from_str(&report)?;
        let quotes = report["quotes"].as_u64().unwrap();
        assert!(quotes >= 2, "{report}");
        assert_eq!(
            report["by_verdict"],
            serde_json::json!({ "trusted": quotes })
        );
        assert_eq!(report["entries"], 30 * quotes);
        assert_eq!(report["latency_ms"]["count"], quotes);
        assert_eq!(
            (&report["threads"], &report["evidence"]),
            (&2.into(), &2.into())
        );
    }
    Ok(())
}

/// Writes recorded evidence as `rat verify` takes it.
fn record(directory: &Path, quote: &RecordedQuote) -> Result<()> {
    std::fs::create_dir(directory)?;
    let mut banks = serde_json::Map::new();
    for (bank, pcr, value) in quote.values.iter() {
        let bank = banks
            .entry(bank.name())
            .or_insert_with(|| serde_json::json!({}));
        bank[pcr.get().to_string()] = value.to_hex().into();
    }
    let pcrs = Value::Object(banks).to_string();
    let nonce = hex::encode(quote.nonce.as_ref().unwrap());
    let ak = quote.ak_pem.as_ref().unwrap();
    for (name, content) in [
        ("ak", ak.as_bytes()),
        ("quote", &quote.message),
        ("signature", &quote.signature),
        ("pcrs", pcrs.as_bytes()),
        ("nonce", nonce.as_bytes()),
    ] {
        std::fs::write(directory.join(name), content)?;
    }
    Ok(())
}

#[test]
fn the_engine_judges_evidence_of_a_real_tpm() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let recorded = RecordedQuote::read("quotes/keylime-tpm_util_test-rsa-sha256.json");
    let (good, bad) = (directory.path().join("good"), directory.path().join("bad"));
    record(&good, &recorded)?;
    let mut spoilt = recorded;
    *spoilt.signature.last_mut().unwrap() ^= 1;
    record(&bad, &spoilt)?;
    let replay = |seconds: &str| {
        let mut command = rat_load();
        command.args(["replay", "--threads", "1", "--seconds", seconds]);
        command
    };
    let report = output(replay("1").args([&good, &bad]))?;
    let report: Value = serde_json::from_str(&report)?;
    // They take turns.
    let count = |verdict: &str| report["by_verdict"][verdict].as_u64().unwrap();
    assert!(
        count("authentic").abs_diff(count("untrusted")) <= 1,
        "{report}"
    );
    assert_eq!(report["by_code"]["quote.signature"], count("untrusted"));
    assert_eq!(report["entries"], 0);
    std::fs::remove_file(bad.join("nonce"))?;
    let failed = replay("1").arg(&bad).stderr(Stdio::piped()).output()?;
    let said = String::from_utf8(failed.stderr)?;
    assert!(
        !failed.status.success() && said.contains("there is no file nonce"),
        "{said}"
    );
    Ok(())
}

#[test]
fn more_machines_with_p256_keys_than_machines_are_an_error() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let failed = rat_load()
        .args(["manufacture", "--machines", "1", "--ecc", "2", "--dir"])
        .arg(directory.path().join("machines"))
        .stderr(Stdio::piped())
        .output()?;
    assert!(!failed.status.success());
    let said = String::from_utf8(failed.stderr)?;
    assert!(said.contains("--ecc is larger than --machines"), "{said}");
    Ok(())
}

#[test]
fn n09_a_fleet_under_an_unnamed_ca_does_not_enrol() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let (ours, other) = (
        directory.path().join("ours"),
        directory.path().join("other"),
    );
    let certificate = output(rat_load().arg("ek-ca").arg(&ours))?;
    let server = installation(&certificate)?;
    let failed = rat_load()
        .args(["fleet", "--server", &server.url, "--agents", "1"])
        .args(["--token", server.core.token(false).as_str(), "--ek-ca"])
        .arg(&other)
        .stderr(Stdio::null())
        .output()?;
    assert!(!failed.status.success());
    assert!(server.core.enrolled.lock().unwrap().is_empty());
    Ok(())
}

/// m1 has RSA keys; m2 has P-256 keys, and no certificate for them.
const TWO_MACHINES: [&str; 5] = ["--machines", "2", "--ecc", "1", "--dir"];

/// Makes the machines twice; the files that a server is told of, one a line.
fn manufacture(home: &Path) -> Result<String> {
    let make = || -> Result<(String, Vec<String>)> {
        let files = output(rat_load().arg("manufacture").args(TWO_MACHINES).arg(home))?;
        let read = files.lines().map(std::fs::read_to_string);
        let contents = read.collect::<Result<_, _>>()?;
        Ok((files, contents))
    };
    let (files, contents) = make()?;
    assert!(contents[0].contains("BEGIN CERTIFICATE"), "{contents:?}");
    assert!(contents[1].ends_with("  # m2\n"), "{contents:?}");
    assert_eq!(contents[1].lines().count(), 1, "{contents:?}");
    assert_eq!(make()?, (files.clone(), contents), "they stay as they are");
    Ok(files)
}

/// Both machines enrolled as what they are.
fn check_keys(core: &Core) -> Result<()> {
    let enrolled = core.enrolled.lock().unwrap();
    for (name, is_listed, key) in [("m1", false, "RSA-2048"), ("m2", true, "P-256")] {
        let proven = &enrolled[&AgentId::parse(name)?];
        assert_eq!(proven.vouch == EkVouch::List, is_listed, "{name}");
        let ak = VerifyingKey::from_tpm(&Public::parse(&proven.ak_public)?)?;
        assert_eq!(ak.material().type_name(), key, "{name}");
    }
    Ok(())
}

/// A running `rat-load swtpm`, its commands and its events.
struct Machines {
    child: Child,
    events: Receiver<Value>,
}

impl Drop for Machines {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Machines {
    fn start(home: &Path, server: &Installation) -> Result<Self> {
        let mut child = rat_load()
            .arg("swtpm")
            .args(TWO_MACHINES)
            .arg(home)
            .args(["--server", &server.url])
            .args(["--token", server.core.token(false).as_str()])
            .args(["--baseline-token", server.core.token(true).as_str()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let (sender, events) = channel();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let _ = sender.send(serde_json::from_str(&line).unwrap());
            }
        });
        Ok(Self { child, events })
    }

    fn say(&mut self, command: &str) -> Result<()> {
        Ok(writeln!(self.child.stdin.as_mut().unwrap(), "{command}")?)
    }

    fn until(&self, what: &str, mut holds: impl FnMut(&Value) -> bool) -> Value {
        loop {
            let event = self.events.recv_timeout(PATIENCE);
            let event = event.unwrap_or_else(|error| panic!("never: {what} ({error})"));
            if holds(&event) {
                return event;
            }
        }
    }
}

#[test]
fn machines_do_what_they_are_told_and_end_with_their_tpms() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let home = directory.path().join("machines");
    let files = manufacture(&home)?;
    let server = installation(&files)?;
    let mut machines = Machines::start(&home, &server)?;
    let ready = machines.until("ready", |event| event["event"] == "ready");
    assert_eq!(ready["machines"], 2);
    assert_eq!(server.core.lists.lock().unwrap().len(), 1);
    check_keys(&server.core)?;

    machines.say("run m2 /usr/bin/new some content")?;
    machines.until("the file", |event| {
        event["command"] == "run m2 /usr/bin/new"
    });
    machines.until("its attestation", |event| {
        event["machine"] == "m2" && event["entries"] == 4 && event["code"].is_null()
    });
    machines.say("hide m1")?;
    machines.until("the hidden file", |event| {
        event["machine"] == "m1" && event["code"] == "ima.pcr_mismatch"
    });
    machines.say("reboot m1")?;
    machines.until("the reboot", |event| event["command"] == "reboot m1");
    machines.until("good evidence", |event| {
        event["machine"] == "m1" && event["event"] == "verdict" && event["code"].is_null()
    });
    machines.say("fly m1")?;
    machines.until("a complaint", |event| event["event"] == "error");
    machines.say("run m9 /usr/bin/new")?;
    let unknown = machines.until("a complaint", |event| event["event"] == "error");
    assert_eq!(unknown["machines"], serde_json::json!(["m1", "m2"]));
    machines.say("quit")?;
    machines.until("the end", |event| event["event"] == "stopped");
    assert!(machines.child.wait()?.success());
    // No TPM was left behind: each of them held its state directory in its command line.
    let home = home.display().to_string();
    for process in std::fs::read_dir("/proc")? {
        let command = process?.path().join("cmdline");
        let command = std::fs::read(command).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).into_owned();
        assert!(!command.contains(&home), "{command}");
    }
    drop(server.runtime);
    Ok(())
}
