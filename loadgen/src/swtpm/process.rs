//! swtpm: making a TPM with an EK certificate, and running it.

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use rat_agent::device::Tcti;

use super::firmware::Firmware;

const SETUP_TRIES: u32 = 3;
const START_TRIES: u32 = 10;
/// How much longer is waited before each try.
const START_PAUSE: Duration = Duration::from_millis(100);
/// What swtpm complained about, in the folder of its TPM.
const SAID: &str = "swtpm.said";
/// A TPM that runs and does not answer yet is waited for: one that is ended and started again has
/// counted two resets.
const ANSWER_TRIES: u32 = 600;
const ANSWER_WAIT: Duration = Duration::from_millis(50);
/// Becomes the program that is named, with nothing open but its standard streams. The TSS lets its
/// sockets pass to every child; a swtpm that held another one's would keep that waiting for a
/// client who has left.
const WITHOUT_OUR_FILES: &str = r#"for fd in /proc/self/fd/*; do
    fd=${fd##*/}
    ((fd > 2)) && eval "exec $fd>&-"
done
exec "$0" "$@""#;
const MISSING: &str = "install the packages swtpm and swtpm-tools";

/// Where the CA that signs the EK certificates of all machines is.
#[derive(Debug, Clone)]
pub struct Manufacturer {
    directory: PathBuf,
}

impl Manufacturer {
    /// A manufacturer whose CA is in this directory; it is made with the first TPM.
    ///
    /// # Errors
    /// When its settings cannot be written.
    pub fn new(directory: &Path) -> Result<Self> {
        fs::create_dir_all(directory)?;
        let directory = directory.canonicalize()?;
        let at = |name: &str| directory.join(name).display().to_string();
        let authority = format!(
            "statedir = {}\nsigningkey = {}\nissuercert = {}\ncertserial = {}\n",
            directory.display(),
            at("signkey.pem"),
            at("issuercert.pem"),
            at("certserial")
        );
        fs::write(directory.join("localca.conf"), authority)?;
        let platform = "--platform-manufacturer simulated\n--platform-version 1\n\
                        --platform-model simulated\n";
        fs::write(directory.join("localca.options"), platform)?;
        let setup = format!(
            "create_certs_tool = swtpm_localca\ncreate_certs_tool_config = {}\n\
             create_certs_tool_options = {}\nactive_pcr_banks = sha256\n",
            at("localca.conf"),
            at("localca.options")
        );
        fs::write(directory.join("setup.conf"), setup)?;
        Ok(Self { directory })
    }

    /// Makes a TPM with a certificate of its RSA endorsement key, unless it was made before. Of a
    /// P-256 key swtpm_setup makes no certificate.
    ///
    /// # Errors
    /// When swtpm_setup is not there or fails.
    pub fn make(&self, tpm: &Path) -> Result<()> {
        if tpm.join("tpm2-00.permall").exists() {
            return Ok(());
        }
        fs::create_dir_all(tpm)?;
        // swtpm_setup gives its TPM 5 s to start, which a busy machine may not keep.
        let mut made = self.set_up(tpm);
        for _ in 1..SETUP_TRIES {
            made = made.or_else(|_| self.set_up(tpm));
        }
        made
    }

    fn set_up(&self, tpm: &Path) -> Result<()> {
        let output = Command::new("swtpm_setup")
            .args(["--tpm2", "--create-ek-cert", "--overwrite", "--tpmstate"])
            .arg(tpm)
            .arg("--config")
            .arg(self.directory.join("setup.conf"))
            .output()
            .with_context(|| format!("swtpm_setup cannot be started; {MISSING}"))?;
        let said = String::from_utf8_lossy(&output.stderr);
        let more = String::from_utf8_lossy(&output.stdout);
        ensure!(output.status.success(), "swtpm_setup: {said}{more}");
        Ok(())
    }

    /// Writes root and issuer to one file, for an operator to name to the server.
    ///
    /// # Errors
    /// When no TPM was made yet.
    pub fn write_chain(&self, to: &Path) -> Result<()> {
        let mut chain = Vec::new();
        for name in ["issuercert.pem", "swtpm-localca-rootca-cert.pem"] {
            let path = self.directory.join(name);
            chain.extend(fs::read(&path).with_context(|| path.display().to_string())?);
        }
        Ok(fs::write(to, chain)?)
    }
}

/// A running swtpm, which ends when this is dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    port: u16,
    tcti: Tcti,
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}

impl Process {
    /// Starts the TPM whose state is in this directory, as a machine's power button does.
    ///
    /// # Errors
    /// When swtpm is not there, or does not answer.
    pub fn start(tpm: &Path) -> Result<Self> {
        let said = tpm.join(SAID);
        // The ports may be taken between this look and swtpm's start, or the system be short of
        // something for a moment; then another pair is tried, a little later each time.
        for nth in 0..START_TRIES {
            sleep(START_PAUSE.saturating_mul(nth));
            let Some((port, control)) = free_pair()? else {
                continue;
            };
            let child = Command::new("bash")
                .args(["-c", WITHOUT_OUR_FILES, "swtpm"])
                .args(["socket", "--tpm2", "--flags", "not-need-init,startup-clear"])
                .arg("--tpmstate")
                .arg(format!("dir={}", tpm.display()))
                .arg("--server")
                .arg(format!("type=tcp,port={port},bindaddr=127.0.0.1"))
                .arg("--ctrl")
                .arg(format!("type=tcp,port={control},bindaddr=127.0.0.1"))
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(File::create(&said).with_context(|| said.display().to_string())?)
                .spawn()
                .context("bash cannot be started")?;
            let tcti = format!("swtpm:host=127.0.0.1,port={port}").parse()?;
            let mut process = Self { child, port, tcti };
            if process.answers()? {
                return Ok(process);
            }
        }
        let said = fs::read_to_string(&said).unwrap_or_default();
        bail!("swtpm does not answer; {MISSING}; it said: {}", said.trim())
    }

    /// The way to it.
    pub const fn tcti(&self) -> &Tcti {
        &self.tcti
    }

    /// Ends it: the power is gone.
    pub fn end(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    fn answers(&mut self) -> Result<bool> {
        for _ in 0..ANSWER_TRIES {
            if self.child.try_wait()?.is_some() {
                return Ok(false);
            }
            // Who else took the port may be a TPM too, and answers as well.
            if listens(self.child.id(), self.port) && Firmware::new(&self.tcti).is_there() {
                return Ok(true);
            }
            sleep(ANSWER_WAIT);
        }
        Ok(false)
    }
}

/// Whether this process is the one that takes connections on this port of an IPv4 address
/// (proc(5): `/proc/net/tcp`, state 0A, and the sockets that the process has open).
fn listens(process: u32, port: u16) -> bool {
    let sockets = fs::read_to_string("/proc/net/tcp").unwrap_or_default();
    let port = format!(":{port:04X}");
    let mut listening = sockets.lines().filter_map(|socket| {
        let columns: Vec<&str> = socket.split_whitespace().collect();
        let local = columns.get(1)?;
        let inode = columns.get(9)?;
        (local.ends_with(&port) && columns.get(3) == Some(&"0A"))
            .then(|| PathBuf::from(format!("socket:[{inode}]")))
    });
    let open: Vec<PathBuf> = fs::read_dir(format!("/proc/{process}/fd"))
        .map(|files| files.flatten().flat_map(|file| fs::read_link(file.path())))
        .map(Iterator::collect)
        .unwrap_or_default();
    listening.any(|socket| open.contains(&socket))
}

/// Two neighbouring ports that nobody uses now, as the TSS wants them.
fn free_pair() -> Result<Option<(u16, u16)>> {
    let first = TcpListener::bind("127.0.0.1:0")?;
    let port = first.local_addr()?.port();
    let pair = port
        .checked_add(1)
        .filter(|next| TcpListener::bind(("127.0.0.1", *next)).is_ok())
        .map(|next| (port, next));
    Ok(pair)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The files that `ls` has open when this shell script starts it.
    fn open_files(script: &str) -> Vec<String> {
        let output = Command::new("bash")
            .args(["-c", script, WITHOUT_OUR_FILES])
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        let listed = String::from_utf8(output.stdout).unwrap();
        listed.lines().map(str::to_owned).collect()
    }

    #[test]
    fn only_the_process_that_took_a_port_listens_there() {
        let mut other = Command::new("sleep").arg("60").spawn().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let connected = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
        let ours = connected.local_addr().unwrap().port();
        let us = std::process::id();
        let found = [
            listens(us, port),
            listens(us, ours),
            listens(other.id(), port),
        ];
        other.kill().unwrap();
        other.wait().unwrap();
        assert_eq!(found, [true, false, false]);
        drop(listener);
        assert!(!listens(us, port));
    }

    #[test]
    fn a_tpm_gets_nothing_that_we_have_open() {
        let inherited = open_files("exec 7</dev/null 42</dev/null; exec ls /proc/self/fd");
        assert!(inherited.contains(&"7".into()) && inherited.contains(&"42".into()));
        let left =
            open_files("exec 7</dev/null 42</dev/null; exec bash -c \"$0\" ls /proc/self/fd");
        // The fourth is the folder that it lists.
        assert_eq!(left, ["0", "1", "2", "3"]);
    }
}
