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

    /// What the TPM releases of a credential in tpm2-tools' form, for `ak.ctx`, with its endorsement
    /// key, which a policy opens or its empty password.
    pub fn activate(&self, ek: &str, credential: &[u8], by_policy: bool) -> Result<Vec<u8>> {
        fs::write(self.path().join("credential"), credential)?;
        self.tool("tpm2_flushcontext", &["-t"])?;
        let mut arguments = vec!["-Q", "-c", "ak.ctx", "-C", ek, "-i", "credential"];
        arguments.extend(["-o", "released"]);
        if by_policy {
            let session = ["-Q", "--policy-session", "-S", "session.ctx"];
            self.tool("tpm2_startauthsession", &session)?;
            self.tool("tpm2_policysecret", &["-Q", "-S", "session.ctx", "-c", "e"])?;
            arguments.extend(["-P", "session:session.ctx"]);
        }
        let activated = self.tool("tpm2_activatecredential", &arguments);
        if by_policy {
            self.tool("tpm2_flushcontext", &["session.ctx"])?;
        }
        self.tool("tpm2_flushcontext", &["-t"])?;
        activated?;
        self.read("released")
    }

    /// A certificate and an endorsement key that the TPM keeps.
    pub fn endorsement(&self, nv_index: &str, handle: &str) -> Result<(Vec<u8>, Vec<u8>)> {
        self.run("tpm2_nvread", &["-Q", "-C", "o", nv_index, "-o", "ek.crt"])?;
        self.run("tpm2_readpublic", &["-Q", "-c", handle, "-o", "ek.pub"])?;
        Ok((self.read("ek.crt")?, self.read("ek.pub")?))
    }

    /// `TPM2_Certify` of a key by itself: `TPMS_ATTEST` and `TPMT_SIGNATURE`. The key must stay in
    /// the TPM under this handle; tpm2-tools' own command takes no qualifying data.
    // TPM 2.0 Library, part 3, 18.2.
    pub fn certify(&self, handle: u32, qualifying: &[u8]) -> Result<(Vec<u8>, Vec<u8>)> {
        let handle = handle.to_be_bytes();
        let sized = |bytes: &[u8]| -> Result<Vec<u8>> {
            Ok([&u16::try_from(bytes.len())?.to_be_bytes()[..], bytes].concat())
        };
        // TPM_RS_PW with an empty password, once for each handle.
        let password = [0x40, 0, 0, 9, 0, 0, 0, 0, 0];
        let mut body = [handle, handle, 18_u32.to_be_bytes()].concat();
        body.extend([password, password].concat());
        body.extend(sized(qualifying)?);
        // TPM_ALG_NULL: the key's own scheme.
        body.extend([0x00, 0x10]);
        let size = u32::try_from(body.len() + 10)?.to_be_bytes();
        let command = [
            &[0x80, 0x02][..],
            &size,
            &0x0000_0148_u32.to_be_bytes(),
            &body,
        ]
        .concat();
        fs::write(self.path().join("command"), command)?;
        self.tool("tpm2_send", &["-Q", "-o", "response", "command"])?;
        let response = self.read("response")?;
        let at = |from: usize, to: usize| {
            let bytes = response.get(from..to);
            bytes.with_context(|| format!("TPM2_Certify: {}", hex::encode(&response)))
        };
        ensure!(
            at(6, 10)? == [0; 4],
            "TPM2_Certify: {}",
            hex::encode(&response)
        );
        let parameters = usize::try_from(u32::from_be_bytes(at(10, 14)?.try_into()?))?;
        let attest = usize::from(u16::from_be_bytes(at(14, 16)?.try_into()?)) + 16;
        Ok((
            at(16, attest)?.to_vec(),
            at(attest, 14 + parameters)?.to_vec(),
        ))
    }
}
