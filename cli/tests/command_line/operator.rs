//! An operator: a folder for what `rat` saves, and an environment that says nothing else.

use std::ffi::OsStr;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::run::Run;

pub(crate) struct Operator {
    folder: TempDir,
    variables: Vec<(String, String)>,
}

impl Operator {
    pub(crate) fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            variables: Vec::new(),
        }
    }

    /// The same, with a variable.
    pub(crate) fn with(mut self, variable: &str, value: &str) -> Self {
        self.set(variable, Some(value));
        self
    }

    /// Sets or removes a variable.
    pub(crate) fn set(&mut self, variable: &str, value: Option<&str>) {
        self.variables.retain(|(name, _)| name != variable);
        let value = value.map(|value| (variable.to_owned(), value.to_owned()));
        self.variables.extend(value);
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Where `rat` saves.
    pub(crate) fn saved(&self, name: &str) -> PathBuf {
        self.path("config/rat").join(name)
    }

    /// A new file that only this operator can read.
    pub(crate) fn secret(&self, name: &str, text: &str) -> String {
        use std::os::unix::fs::PermissionsExt;
        let path = self.path(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        path.display().to_string()
    }

    /// The program, in a session of its own: whoever runs the tests at a terminal is not asked.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new("setsid");
        command.arg("--wait").arg(env!("CARGO_BIN_EXE_rat"));
        self.prepare(&mut command);
        command
    }

    /// Gives a command this operator's environment.
    pub(crate) fn prepare(&self, command: &mut Command) {
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.path("home"))
            .env("XDG_CONFIG_HOME", self.path("config"))
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .current_dir(self.folder.path())
            .stdin(Stdio::null());
    }

    /// Runs `rat`.
    pub(crate) fn rat<A: AsRef<OsStr>>(&self, arguments: &[A]) -> Run {
        Run::of(self.command().args(arguments).output().unwrap())
    }

    /// Runs `rat` with this on its standard input.
    pub(crate) fn rat_reading(&self, input: &str, arguments: &[&str]) -> Run {
        let mut child = self
            .command()
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // A program that does not read it is no fault of the test.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        Run::of(child.wait_with_output().unwrap())
    }

    /// Runs `rat`, which must succeed; what it printed.
    #[track_caller]
    pub(crate) fn ok<A: AsRef<OsStr>>(&self, arguments: &[A]) -> String {
        let run = self.rat(arguments);
        assert_eq!(run.code, 0, "{run:?}");
        run.stdout
    }

    /// Runs `rat` with `--output json`, which must succeed.
    #[track_caller]
    pub(crate) fn json(&self, arguments: &[&str]) -> serde_json::Value {
        let run = self.rat(&[arguments, &["--output", "json"]].concat());
        assert_eq!(run.code, 0, "{run:?}");
        run.json()
    }

    /// Runs `rat`, which must end with this code; what it said.
    #[track_caller]
    pub(crate) fn fails(&self, code: i32, arguments: &[&str]) -> String {
        let run = self.rat(arguments);
        assert_eq!((run.code, run.stdout.as_str()), (code, ""), "{run:?}");
        run.stderr
    }
}

/// The bits of a file's permissions.
pub(crate) fn mode(path: &Path) -> u32 {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}
