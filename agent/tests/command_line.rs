//! The program `rat-agent`, from enrolment to its end, with a real TPM and the real protocols.
//!
//! Needs `swtpm` and `swtpm-tools`; without them the tests fail and say so.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a panic is how a test fails"
)]

use std::fs::{self, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use anyhow::Result;
use rat_identity::ek::EkTrust;
use rat_load::measured::Entry;
use rat_load::swtpm::{Kernel, Manufacturer, Process};
use rat_tests::enrolment_server::Core;
use rat_tests::verifier::Verifier;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;
use tokio::time::Instant;

const PATIENCE: Duration = Duration::from_secs(60);

/// A machine that booted, and its settings file.
struct Machine {
    directory: TempDir,
    kernel: Kernel,
    process: Process,
    ek_ca: PathBuf,
}

impl Machine {
    fn boot() -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let at = |name: &str| directory.path().join(name);
        let manufacturer = Manufacturer::new(&at("ek-ca"))?;
        manufacturer.make(&at("tpm"))?;
        let ek_ca = at("ek-ca.pem");
        manufacturer.write_chain(&ek_ca)?;
        let process = Process::start(&at("tpm"))?;
        let kernel = Kernel::new(directory.path());
        kernel.boot(process.tcti())?;
        let paths = kernel.paths();
        let settings = format!(
            "state_dir = {:?}\ntcti = \"{}\"\nima_binary = {:?}\nima_ascii = {:?}\n\
             boot_log = {:?}\nboot_id = {:?}\n",
            at("state"),
            process.tcti(),
            paths.ima_binary,
            paths.ima_ascii,
            paths.boot_log,
            paths.boot_id
        );
        fs::write(at("settings.toml"), settings)?;
        // Whatever the umask is: what others can write is refused.
        fs::set_permissions(at("settings.toml"), fs::Permissions::from_mode(0o600))?;
        Ok(Self {
            directory,
            kernel,
            process,
            ek_ca,
        })
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rat-agent"));
        command
            .args(arguments)
            .arg("--config")
            .arg(self.directory.path().join("settings.toml"))
            .env_remove("TCTI")
            .env_remove("STATE_DIRECTORY")
            .env_remove("NOTIFY_SOCKET");
        command
    }

    fn run(&self, arguments: &[&str]) -> Result<Output> {
        Ok(self.command(arguments).output()?)
    }

    /// With a line on standard input.
    fn run_with(&self, arguments: &[&str], line: &str) -> Result<Output> {
        let mut child = self
            .command(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        // Dropped at the end of the statement: the program reads to the line's end or this one.
        writeln!(child.stdin.take().unwrap(), "{line}")?;
        Ok(child.wait_with_output()?)
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A check of `doctor --json`.
fn finding<'r>(report: &'r Value, check: &str) -> &'r Value {
    let findings = report["findings"].as_array().unwrap();
    let finding = findings.iter().find(|finding| finding["check"] == check);
    finding.unwrap_or_else(|| panic!("no {check} in {report}"))
}

fn level(report: &Value, check: &str) -> String {
    finding(report, check)["level"].as_str().unwrap().to_owned()
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "never: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A child that ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A machine whose TPM and logs are where kernels put them has no file of settings.
#[test]
fn without_a_file_of_settings_the_defaults_hold() -> Result<()> {
    let private = Permissions::from_mode(0o700);
    let state = tempfile::Builder::new().permissions(private).tempdir()?;
    let output = Command::new(env!("CARGO_BIN_EXE_rat-agent"))
        .args(["status", "--state-dir"])
        .arg(state.path())
        .env_remove("STATE_DIRECTORY")
        .output()?;
    assert_eq!(output.status.code(), Some(2));
    let said = text(&output.stderr);
    assert!(said.contains("holds no enrolment"), "{said}");
    Ok(())
}

#[test]
fn a_machine_that_is_not_enrolled_is_told_what_to_do() -> Result<()> {
    let machine = Machine::boot()?;
    let doctor = machine.run(&["doctor"])?;
    assert_eq!(doctor.status.code(), Some(1));
    let said = text(&doctor.stdout);
    assert!(
        said.contains("FAIL  enrolment") && said.contains("rat-agent enroll"),
        "{said}"
    );
    let report: Value = serde_json::from_slice(&machine.run(&["doctor", "--json"])?.stdout)?;
    for (check, expected) in [
        ("enrolment", "fail"),
        ("tpm", "ok"),
        ("banks", "ok"),
        ("endorsement key", "ok"),
        ("ek certificate", "ok"),
        ("ima list", "warn"),
        ("boot log", "ok"),
    ] {
        assert_eq!(level(&report, check), expected, "{check}");
    }
    for command in ["run", "status"] {
        let output = machine.run(&[command])?;
        assert_eq!(output.status.code(), Some(2));
        assert!(
            text(&output.stderr).contains("rat-agent enroll"),
            "{command}"
        );
    }
    let refused = machine.run(&["enroll", "esp_nonsense", "--server", "https://localhost"])?;
    assert!(text(&refused.stderr).contains("was all of it copied?"));
    Ok(())
}

#[test]
fn unknown_settings_are_errors_and_a_missing_tpm_is_named() -> Result<()> {
    let machine = Machine::boot()?;
    let settings = machine.directory.path().join("settings.toml");
    let good = fs::read_to_string(&settings)?;
    fs::write(&settings, format!("{good}colour = \"red\"\n"))?;
    let output = machine.run(&["doctor"])?;
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("colour"));
    fs::write(&settings, &good)?;
    // A flag is stronger than the file.
    let output = machine.run(&["doctor", "--json", "--tcti", "device:/nowhere/tpm"])?;
    let report: Value = serde_json::from_slice(&output.stdout)?;
    assert_eq!(level(&report, "tpm"), "fail");
    Ok(())
}

/// Reads what the agent tells systemd, as systemd does: all the time.
fn notifications(socket: UnixDatagram) -> Receiver<String> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(read) = socket.recv(&mut buffer) {
            if sender.send(text(&buffer[..read])).is_err() {
                return;
            }
        }
    });
    receiver
}

fn notified(messages: &Receiver<String>, expected: &str) {
    while !messages.recv_timeout(PATIENCE).unwrap().contains(expected) {}
}

fn service(machine: &Machine, socket: &Path) -> Result<Running> {
    let child = machine
        .command(&["run"])
        .env("NOTIFY_SOCKET", socket)
        .env("WATCHDOG_USEC", "200000")
        .stderr(Stdio::piped())
        .spawn()?;
    Ok(Running(child))
}

fn check_status(machine: &Machine) -> Result<()> {
    let status: Value = serde_json::from_slice(&machine.run(&["status", "--json"])?.stdout)?;
    assert_eq!(status["last_known"]["connected"], true, "{status}");
    assert_eq!(status["last_known"]["verdict"]["status"], "authentic");
    assert!(
        status["tpm"]["Ok"]["banks"][0].as_str() == Some("sha256"),
        "{status}"
    );
    let shown = text(&machine.run(&["status"])?.stdout);
    assert!(
        shown.contains("connected to") && shown.contains("authentic"),
        "{shown}"
    );
    Ok(())
}

fn check_doctor(machine: &Machine) -> Result<()> {
    // The server of this test has the wrong time.
    let doctor = machine.run(&["doctor", "--json"])?;
    let report: Value = serde_json::from_slice(&doctor.stdout)?;
    for (check, expected) in [
        ("enrolment", "ok"),
        ("attestation key", "ok"),
        ("ima list", "ok"),
        ("certificate", "ok"),
        ("server", "ok"),
        ("evidence", "ok"),
        ("clock", "fail"),
    ] {
        assert_eq!(level(&report, check), expected, "{check}: {report}");
    }
    assert_eq!(doctor.status.code(), Some(1));
    Ok(())
}

#[test]
fn a_machine_enrols_attests_reports_and_ends() -> Result<()> {
    let machine = Machine::boot()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let trust = EkTrust::load(std::slice::from_ref(&machine.ek_ca), &[])?;
    let core = Arc::new(Core::new(&machine.directory.path().join("ca"), trust)?);
    let verifier = Verifier::new(Arc::clone(&core));
    let (server, address) = runtime.block_on(async {
        let server = verifier.bind("127.0.0.1:0".parse()?)?;
        anyhow::Ok((server, core.serve().await?))
    })?;
    let url = format!("https://localhost:{}", address.port());
    let token = core.token(true);
    // From standard input, where no other user sees it.
    let enrolled = machine.run_with(&["enroll", "-", "--server", &url], token.as_str())?;
    let said = text(&enrolled.stdout);
    assert!(enrolled.status.success(), "{}", text(&enrolled.stderr));
    assert!(
        said.contains("enrolled as") && said.contains("systemctl"),
        "{said}"
    );
    assert_eq!(core.lists.lock().unwrap().len(), 1);

    let socket_path = machine.directory.path().join("notify");
    let socket = notifications(UnixDatagram::bind(&socket_path)?);
    let mut running = service(&machine, &socket_path)?;
    notified(&socket, "READY=1");
    notified(&socket, "WATCHDOG=1");
    until("attestations", || verifier.rounds().len() >= 3);
    machine
        .kernel
        .measure(machine.process.tcti(), &Entry::file("/usr/bin/new", b"new"))?;
    until("the new entry", || {
        verifier.rounds().iter().any(|round| round.asked_from == 2)
    });
    assert!(verifier.rounds().iter().all(|round| round.codes.is_empty()));

    // One agent for one state.
    let second = machine.run(&["run"])?;
    assert_eq!(second.status.code(), Some(2));
    assert!(text(&second.stderr).contains("another rat-agent runs"));

    check_status(&machine)?;
    check_doctor(&machine)?;

    kill_process(Pid::from_child(&running.0), Signal::TERM)?;
    notified(&socket, "STOPPING=1");
    let mut ended = None;
    until("the agent's end", || {
        ended = running.0.try_wait().unwrap();
        ended.is_some()
    });
    assert_eq!(ended.unwrap().code(), Some(0));
    let status: Value = serde_json::from_slice(&machine.run(&["status", "--json"])?.stdout)?;
    assert_eq!(status["last_known"]["connected"], false);
    drop(server);
    Ok(())
}

/// A server that knows these TPMs; its address, and what keeps it running.
fn serve(
    runtime: &tokio::runtime::Runtime,
    folder: &Path,
    trust: EkTrust,
) -> Result<(Arc<Core>, String)> {
    let core = Arc::new(Core::new(folder, trust)?);
    let address = runtime.block_on(core.serve())?;
    Ok((core, format!("https://localhost:{}", address.port())))
}

#[test]
fn n09_a_tpm_without_a_certificate_enrols_by_the_hash_that_doctor_shows() -> Result<()> {
    let machine = Machine::boot()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let doctor = || -> Result<(String, String)> {
        let output = machine.run(&["doctor", "--json", "--key", "ecc"])?;
        let report: Value = serde_json::from_slice(&output.stdout)?;
        assert_eq!(level(&report, "endorsement key"), "ok");
        assert_eq!(level(&report, "ek certificate"), "warn");
        let remedy = finding(&report, "ek certificate")["remedy"].as_str();
        let found = finding(&report, "endorsement key")["found"].as_str();
        let sha256 = found.unwrap().strip_prefix("ecc, SHA-256 ").unwrap();
        Ok((sha256.to_owned(), remedy.unwrap().to_owned()))
    };
    let (sha256, remedy) = doctor()?;
    assert!(remedy.contains("identity.ek_list"), "{remedy}");
    let enrol = |core: &Core, url: &str| {
        let token = core.token(false);
        machine.run(&["enroll", token.as_str(), "--server", url, "--key", "ecc"])
    };

    // The maker's CA vouches for the RSA key of this TPM, and not for the other.
    let at = |name: &str| machine.directory.path().join(name);
    let chain = EkTrust::load(std::slice::from_ref(&machine.ek_ca), &[])?;
    let (core, url) = serve(&runtime, &at("ca-1"), chain)?;
    let refused = enrol(&core, &url)?;
    assert!(!refused.status.success());
    let said = text(&refused.stderr);
    assert!(said.contains("on no list of the operator"), "{said}");
    assert!(core.enrolled.lock().unwrap().is_empty());

    fs::write(at("ek-list"), format!("{sha256}  # this machine\n"))?;
    let listed = EkTrust::load(&[], &[at("ek-list")])?;
    let (core, url) = serve(&runtime, &at("ca-2"), listed)?;
    let enrolled = enrol(&core, &url)?;
    assert!(enrolled.status.success(), "{}", text(&enrolled.stderr));
    {
        let known = core.enrolled.lock().unwrap();
        let known = known.values().next().unwrap();
        assert_eq!(hex::encode(known.ek_sha256), sha256);
    }
    // Now the key stays in the TPM, and is still the same.
    assert_eq!(doctor()?.0, sha256);
    Ok(())
}
