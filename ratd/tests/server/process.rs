//! A `ratd` process in a data directory of its own, on ports that the system chooses.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rat_tests::http_client::Client;
use rustix::process::{Pid, Signal, kill_process};

/// However busy the machine is, it takes less.
const PATIENCE: Duration = Duration::from_secs(60);

/// The program on a data directory, with an environment that says nothing else.
fn program(data: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ratd"));
    command
        .env_clear()
        .arg("--data-dir")
        .arg(data)
        .stdin(Stdio::null());
    command
}

/// A data directory, and how `ratd` is called on it.
pub(crate) struct Home {
    folder: tempfile::TempDir,
}

impl Home {
    pub(crate) fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
        }
    }

    /// A path beside the data directory.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.path("data")
    }

    /// The program, on this data directory, with an environment that says nothing else.
    pub(crate) fn command(&self) -> Command {
        let mut command = program(&self.data());
        command.current_dir(self.folder.path());
        command
    }

    /// Runs a command to its end.
    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        self.command().args(arguments).output().unwrap()
    }

    /// Runs a command that must succeed; what it printed.
    #[track_caller]
    pub(crate) fn ok(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {error}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// Runs a command that must fail with this exit code; what it said.
    #[track_caller]
    pub(crate) fn fails(&self, code: i32, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {error}");
        error
    }

    /// Starts the server, with more `--set` options.
    pub(crate) fn start(&self, set: &[&str]) -> Ratd {
        let mut command = self.command();
        let ports = ["core.listen=127.0.0.1:0", "evidence.listen=127.0.0.1:0"];
        for option in ports.iter().chain(set) {
            command.arg("--set").arg(option);
        }
        Ratd::spawn(command, &self.data())
    }
}

/// A running server.
pub(crate) struct Ratd {
    child: Child,
    /// Kept open: a server must be able to print.
    _stdout: BufReader<ChildStdout>,
    log: PathBuf,
    data: PathBuf,
    admin: OnceLock<String>,
    pub(crate) core: SocketAddr,
    pub(crate) evidence: SocketAddr,
    /// Where Keylime's API has a listener of its own.
    pub(crate) keylime: Option<SocketAddr>,
    /// Where Keylime's registrar is, over plain HTTP and over TLS.
    pub(crate) registrar: Option<SocketAddr>,
    pub(crate) registrar_tls: Option<SocketAddr>,
    /// Where Keylime's verifier is.
    pub(crate) verifier: Option<SocketAddr>,
}

impl Ratd {
    pub(crate) fn spawn(mut command: Command, data: &Path) -> Self {
        let log = data.with_extension("log");
        let child = command
            .stdout(Stdio::piped())
            .stderr(std::fs::File::create(&log).unwrap())
            .spawn();
        let mut child = child.unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let (mut core, mut evidence, mut keylime) = (None, None, None);
        let (mut registrar, mut registrar_tls, mut verifier) = (None, None, None);
        loop {
            let mut line = String::new();
            if stdout.read_line(&mut line).unwrap() == 0 {
                let _ = child.wait();
                panic!("no start: {}", std::fs::read_to_string(&log).unwrap());
            }
            match line.trim().split_once(' ') {
                Some(("core", address)) => core = Some(address.parse().unwrap()),
                Some(("evidence", address)) => evidence = Some(address.parse().unwrap()),
                Some(("keylime", address)) => keylime = Some(address.parse().unwrap()),
                Some(("verifier", address)) => verifier = Some(address.parse().unwrap()),
                Some(("registrar", address)) => registrar = Some(address.parse().unwrap()),
                Some(("registrar-tls", address)) => {
                    registrar_tls = Some(address.parse().unwrap());
                }
                Some(("ca", _)) => break,
                _ => {}
            }
        }
        Self {
            child,
            _stdout: stdout,
            log,
            data: data.to_owned(),
            admin: OnceLock::new(),
            core: core.unwrap(),
            evidence: evidence.unwrap(),
            keylime,
            registrar,
            registrar_tls,
            verifier,
        }
    }

    /// A client that trusts the server's own CA.
    pub(crate) fn client(&self) -> Client {
        self.client_of(self.core)
    }

    /// The same for another of its listeners.
    pub(crate) fn client_of(&self, address: SocketAddr) -> Client {
        Client::new(address, &self.data.join("ca/ca.pem"))
    }

    /// An API token with the role `admin`, made when it is first asked for.
    pub(crate) fn admin(&self) -> String {
        self.admin.get_or_init(|| self.api_token("admin")).clone()
    }

    /// A new API token with this role.
    pub(crate) fn api_token(&self, role: &str) -> String {
        self.ok(&["api-token", "create", "--name", "tests", "--role", role])
    }

    /// Runs a command beside it that must succeed; what it printed.
    #[track_caller]
    pub(crate) fn ok(&self, arguments: &[&str]) -> String {
        let output = program(&self.data).args(arguments).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {error}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// The first user's password, from its file.
    pub(crate) fn first_password(&self) -> String {
        let text = std::fs::read_to_string(self.data.join("admin-password")).unwrap();
        text.trim().to_owned()
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits for the process to end.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "still running: {}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Stops it as an operator does.
    pub(crate) fn stop(mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait()
    }
}

impl Drop for Ratd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Polls until it holds.
#[track_caller]
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The value of a metric with these labels in an exposition; 0 when it is not there.
pub(crate) fn metric(text: &str, name: &str, labels: &[&str]) -> f64 {
    let line = text.lines().find(|line| {
        line.strip_prefix(name)
            .is_some_and(|rest| rest.starts_with([' ', '{']))
            && labels.iter().all(|label| line.contains(label))
    });
    line.and_then(|line| line.rsplit(' ').next()?.parse().ok())
        .unwrap_or(0.0)
}

/// Reads what is there until the other end closes.
pub(crate) fn drain(stream: &mut impl Read) -> usize {
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes);
    bytes.len()
}
