//! Real tools on a software TPM: swtpm and tpm2-tools.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;

/// A TPM of the test's own, and a directory for the files of the tools.
#[derive(Debug)]
pub struct Tpm {
    directory: TempDir,
    process: Child,
    port: u16,
}

impl Drop for Tpm {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Tpm {
    /// Starts one; needs swtpm and tpm2-tools, and says so when they are missing.
    pub fn start() -> Result<Self> {
        Self::start_in(|_| Ok(()))
    }

    /// Starts one with an RSA-2048 and a P-384 endorsement key and their certificates, which a CA
    /// of its own has issued: that lies in [`Tpm::ca`].
    pub fn manufacture() -> Result<Self> {
        Self::start_in(manufacture)
    }

    /// The folder with the CA of [`Tpm::manufacture`].
    pub fn ca(&self) -> std::path::PathBuf {
        self.path().join("ca")
    }

    fn start_in(prepare: impl Fn(&Path) -> Result<()>) -> Result<Self> {
        // The ports may be taken between this look and swtpm's start; then another pair is tried.
        for _ in 0..10 {
            let first = TcpListener::bind("127.0.0.1:0")?;
            let port = first.local_addr()?.port();
            let Some(next) = port.checked_add(1) else {
                continue;
            };
            if TcpListener::bind(("127.0.0.1", next)).is_err() {
                continue;
            }
            drop(first);
            let directory = tempfile::tempdir()?;
            prepare(directory.path())?;
            let process = Command::new("swtpm")
                .args(["socket", "--tpm2", "--flags", "not-need-init,startup-clear"])
                .arg("--tpmstate")
                .arg(format!("dir={}", directory.path().display()))
                .arg("--server")
                .arg(format!("type=tcp,port={port},bindaddr=127.0.0.1"))
                .arg("--ctrl")
                .arg(format!("type=tcp,port={next},bindaddr=127.0.0.1"))
                .stdin(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .context("swtpm cannot be started; install the packages swtpm and tpm2-tools")?;
            let tpm = Self {
                directory,
                process,
                port,
            };
            for _ in 0..50 {
                if tpm.tool("tpm2_getrandom", &["--hex", "4"]).is_ok() {
                    return Ok(tpm);
                }
                std::thread::sleep(Duration::from_millis(100));
            }
        }
        bail!("swtpm does not answer tpm2_getrandom; are swtpm and tpm2-tools installed?")
    }

    /// The directory in which the tools run.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// How the TSS reaches it.
    pub fn tcti(&self) -> String {
        format!("swtpm:host=127.0.0.1,port={}", self.port)
    }

    /// A file that a tool left there.
    pub fn read(&self, name: &str) -> Result<Vec<u8>> {
        Ok(fs::read(self.path().join(name))?)
    }

    /// Runs a tool of tpm2-tools.
    pub fn tool(&self, tool: &str, arguments: &[&str]) -> Result<()> {
        let output = Command::new(tool)
            .args(arguments)
            .current_dir(self.path())
            .env("TPM2TOOLS_TCTI", self.tcti())
            .output()
            .with_context(|| format!("{tool} cannot be started; install tpm2-tools"))?;
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{tool} {arguments:?}: {errors}");
        Ok(())
    }

    /// Runs a tool and clears what it left in the TPM: there is no resource manager.
    pub fn run(&self, tool: &str, arguments: &[&str]) -> Result<()> {
        let result = self.tool(tool, arguments);
        for kind in ["-t", "-l", "-s"] {
            self.tool("tpm2_flushcontext", &[kind])?;
        }
        result
    }

    /// An endorsement key: `ek.ctx`, `ek.pub`.
    pub fn create_ek(&self, algorithm: &str) -> Result<()> {
        self.run(
            "tpm2_createek",
            &["-Q", "-G", algorithm, "-c", "ek.ctx", "-u", "ek.pub"],
        )
    }

    /// An attestation key under it: `ak.ctx`, `ak.pub`, `ak.name`.
    pub fn create_ak(&self, key: &str, hash: &str, scheme: &str) -> Result<()> {
        let mut arguments = vec!["-Q", "-C", "ek.ctx", "-c", "ak.ctx"];
        arguments.extend(["-G", key, "-g", hash, "-s", scheme]);
        arguments.extend(["-u", "ak.pub", "-n", "ak.name"]);
        self.run("tpm2_createak", &arguments)
    }

    /// A quote over `c0ffee`: `msg`, `sig`, `pcrs`.
    pub fn quote(&self, selection: &str, hash: &str, scheme: &str) -> Result<()> {
        let mut arguments = vec!["-Q", "-c", "ak.ctx", "-l", selection, "-q", "c0ffee"];
        arguments.extend(["-g", hash, "-m", "msg", "-s", "sig", "-o", "pcrs"]);
        arguments.extend(["-F", "serialized", "--scheme", scheme]);
        self.run("tpm2_quote", &arguments)
    }
}

/// Gives a TPM, whose state is to lie in this directory, endorsement keys with certificates.
fn manufacture(directory: &Path) -> Result<()> {
    let at = |name: &str| directory.join(name).display().to_string();
    let localca = format!(
        "statedir = {ca}\nsigningkey = {ca}/signkey.pem\nissuercert = {ca}/issuercert.pem\n\
         certserial = {ca}/certserial\n",
        ca = at("ca")
    );
    fs::write(at("localca.conf"), localca)?;
    fs::write(at("localca.options"), "")?;
    // swtpm_setup does not look the tool up itself.
    let folders = std::env::var_os("PATH").unwrap_or_default();
    let tool = std::env::split_paths(&folders)
        .map(|folder| folder.join("swtpm_localca"))
        .find(|tool| tool.is_file())
        .context("there is no swtpm_localca; install the package swtpm-tools")?;
    let setup = format!(
        "create_certs_tool = {}\ncreate_certs_tool_config = {}\n\
         create_certs_tool_options = {}\n",
        tool.display(),
        at("localca.conf"),
        at("localca.options")
    );
    fs::write(at("setup.conf"), setup)?;
    let output = Command::new("swtpm_setup")
        .args(["--tpm2", "--create-ek-cert"])
        .args(["--tpmstate", &at("")])
        .args(["--config", &at("setup.conf")])
        .output()
        .context("swtpm_setup cannot be started; install the package swtpm-tools")?;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "swtpm_setup: {said}");
    Ok(())
}
