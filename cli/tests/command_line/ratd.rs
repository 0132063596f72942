//! A `ratd` of this workspace, in a data directory of its own, on ports that the system chooses.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use tempfile::TempDir;

use crate::operator::Operator;

/// A running server.
pub(crate) struct Ratd {
    child: Child,
    /// Kept open: a server must be able to print.
    _stdout: BufReader<ChildStdout>,
    folder: TempDir,
    pub(crate) url: String,
}

/// Beside `rat`, where cargo puts every program of the workspace.
fn program() -> PathBuf {
    let path = Path::new(env!("CARGO_BIN_EXE_rat")).with_file_name("ratd");
    assert!(path.exists(), "no {}: cargo build -p ratd", path.display());
    path
}

fn command(folder: &Path) -> Command {
    let mut command = Command::new(program());
    command
        .current_dir(folder)
        .env_clear()
        .arg("--data-dir")
        .arg(folder.join("data"))
        .stdin(Stdio::null());
    command
}

impl Ratd {
    /// Starts a server, with more `--set` options; `{folder}` in them is its folder.
    pub(crate) fn start(set: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self::start_in(folder, set)
    }

    pub(crate) fn start_in(folder: TempDir, set: &[&str]) -> Self {
        let mut command = command(folder.path());
        let ports = ["core.listen=127.0.0.1:0", "evidence.listen=127.0.0.1:0"];
        for option in ports.iter().chain(set) {
            command.arg("--set").arg(option);
        }
        let log = std::fs::File::create(folder.path().join("log")).unwrap();
        let spawned = command.stdout(Stdio::piped()).stderr(log).spawn();
        let mut child = spawned.unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut core = None;
        loop {
            let mut line = String::new();
            if stdout.read_line(&mut line).unwrap() == 0 {
                let _ = child.wait();
                let log = std::fs::read_to_string(folder.path().join("log"));
                panic!("no start: {}", log.unwrap());
            }
            match line.trim().split_once(' ') {
                Some(("core", address)) => core = Some(address.to_owned()),
                Some(("ca", _)) => break,
                _ => {}
            }
        }
        Self {
            child,
            _stdout: stdout,
            folder,
            url: format!("https://{}", core.unwrap()),
        }
    }

    /// Runs a command on the data directory, beside the server; what it printed.
    #[track_caller]
    pub(crate) fn ok(&self, arguments: &[&str]) -> String {
        let output = command(self.folder.path()).args(arguments).output();
        let output = output.unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {error}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    pub(crate) fn fingerprint(&self) -> String {
        self.ok(&["ca", "fingerprint"])
    }

    /// A new API token with this role.
    pub(crate) fn api_token(&self, role: &str) -> String {
        self.ok(&["api-token", "create", "--name", "tests", "--role", role])
    }

    /// The file with the first user's first password.
    pub(crate) fn first_password(&self) -> PathBuf {
        self.folder.path().join("data/admin-password")
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap()
    }

    /// Connects an operator.
    pub(crate) fn connect(&self, operator: &Operator) {
        let fingerprint = self.fingerprint();
        operator.ok(&["connect", &self.url, "--ca-sha256", &fingerprint]);
    }

    /// An operator who is connected, and has an API token with this role.
    pub(crate) fn operator(&self, role: &str) -> Operator {
        let operator = Operator::new().with("RAT_TOKEN", &self.api_token(role));
        self.connect(&operator);
        operator
    }
}

impl Drop for Ratd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
