//! A PostgreSQL server of a test's own: in a folder, on a socket in it, ended with the test.

use std::fs::Permissions;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// A running server, with an empty database `keylime` of the user `keylime`.
pub(crate) struct Postgres {
    folder: tempfile::TempDir,
    programs: PathBuf,
}

/// Debian keeps the server's programs apart from those of clients, by version.
fn programs() -> PathBuf {
    let mut found: Vec<_> = std::fs::read_dir("/usr/lib/postgresql")
        .expect("PostgreSQL is not installed: scripts/setup build test")
        .map(|version| version.unwrap().path().join("bin"))
        .filter(|folder| folder.join("initdb").exists())
        .collect();
    found.sort();
    found
        .pop()
        .expect("PostgreSQL is not installed: scripts/setup build test")
}

/// The user that Debian's package makes. PostgreSQL does not run as root.
fn unprivileged() -> Option<(u32, u32)> {
    if !rustix::process::getuid().is_root() {
        return None;
    }
    let users = std::fs::read_to_string("/etc/passwd").unwrap();
    let line = users.lines().find(|line| line.starts_with("postgres:"));
    let fields: Vec<_> = line
        .expect("there is no user postgres")
        .split(':')
        .collect();
    Some((fields[2].parse().unwrap(), fields[3].parse().unwrap()))
}

impl Postgres {
    pub(crate) fn start() -> Self {
        // A path of a socket has about a hundred bytes at most.
        let folder = tempfile::Builder::new()
            .permissions(Permissions::from_mode(0o755))
            .tempdir()
            .unwrap();
        let server = Self {
            programs: programs(),
            folder,
        };
        let own = server.folder();
        std::fs::create_dir(&own).unwrap();
        std::fs::set_permissions(&own, Permissions::from_mode(0o700)).unwrap();
        if let Some((user, group)) = unprivileged() {
            chown(&own, Some(user), Some(group)).unwrap();
        }
        let data = own.join("data");
        let data = data.to_str().unwrap();
        server.run(
            "initdb",
            &[
                "-A",
                "trust",
                "-U",
                "keylime",
                "-E",
                "UTF8",
                "--no-sync",
                "-D",
                data,
            ],
        );
        let options = format!("-c listen_addresses='' -c fsync=off -k {}", own.display());
        let log = own.join("log");
        let log = log.to_str().unwrap();
        server.run(
            "pg_ctl",
            &[
                "-D", data, "-w", "-t", "60", "-l", log, "-o", &options, "start",
            ],
        );
        server.sql("postgres", "CREATE DATABASE keylime;");
        server
    }

    /// Where its socket is.
    pub(crate) fn folder(&self) -> PathBuf {
        self.folder.path().join("pg")
    }

    /// SQLAlchemy's URL of the database.
    pub(crate) fn url(&self) -> String {
        let folder = self.folder();
        format!(
            "postgresql+psycopg2://keylime:s3cret@/keylime?host={}",
            folder.display()
        )
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.programs.join(program));
        command.current_dir(self.folder()).stdin(Stdio::null());
        if let Some((user, group)) = unprivileged() {
            command.uid(user).gid(group);
        }
        command
    }

    fn run(&self, program: &str, arguments: &[&str]) {
        // What it starts must not hold the test's own pipes.
        let status = self
            .command(program)
            .args(arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .unwrap();
        let log = std::fs::read_to_string(self.folder().join("log")).unwrap_or_default();
        assert!(status.success(), "{program}: {log}");
    }

    /// Has a database run statements.
    pub(crate) fn sql(&self, database: &str, statements: &str) -> String {
        let folder = self.folder();
        let mut child = self
            .command("psql")
            .args([
                "-q",
                "-t",
                "-A",
                "-v",
                "ON_ERROR_STOP=1",
                "-U",
                "keylime",
                "-h",
            ])
            .args([folder.to_str().unwrap(), database])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child
            .stdin
            .take()
            .unwrap()
            .write_all(statements.as_bytes())
            .unwrap();
        let Output {
            status,
            stdout,
            stderr,
        } = child.wait_with_output().unwrap();
        assert!(status.success(), "{}", String::from_utf8_lossy(&stderr));
        String::from_utf8(stdout).unwrap()
    }

    /// Has the database run what stands in a file.
    pub(crate) fn load(&self, path: &Path) {
        self.sql("keylime", &std::fs::read_to_string(path).unwrap());
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let data = self.folder().join("data");
        // A server that never started is none to stop.
        let _ = self
            .command("pg_ctl")
            .args([
                "-D",
                data.to_str().unwrap(),
                "-m",
                "immediate",
                "-w",
                "-t",
                "30",
                "stop",
            ])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
    }
}
