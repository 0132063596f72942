//! Real tools on a software TPM: swtpm and tpm2-tools.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use rat_load::swtpm::{Manufacturer, Process};
use tempfile::TempDir;

/// A TPM of the test's own, and a directory for the files of the tools.
#[derive(Debug)]
pub struct Tpm {
    process: Process,
    directory: TempDir,
}

impl Tpm {
    /// Starts one; needs swtpm and tpm2-tools, and says so when they are missing.
    pub fn start() -> Result<Self> {
        Self::start_in(tempfile::tempdir()?)
    }

    /// Starts one with an RSA-2048 and a P-384 endorsement key and their certificates, which a CA
    /// of its own has issued: that lies in [`Tpm::ca`].
    pub fn manufacture() -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let manufacturer = Manufacturer::new(&directory.path().join("ca"))?;
        manufacturer.make(directory.path())?;
        Self::start_in(directory)
    }

    /// The folder with the CA of [`Tpm::manufacture`].
    pub fn ca(&self) -> PathBuf {
        self.path().join("ca")
    }

    fn start_in(directory: TempDir) -> Result<Self> {
        let process = Process::start(directory.path())?;
        Ok(Self { directory, process })
    }

    /// The directory in which the tools run.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// How the TSS reaches it.
    pub fn tcti(&self) -> &str {
        self.process.tcti().as_str()
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
