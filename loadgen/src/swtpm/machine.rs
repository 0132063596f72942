//! One simulated machine: a TPM process, a kernel and an agent.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use rat_agent::device::{KeyKind, Tpm, TpmSettings};
use rat_agent::enrol::{EnrolOptions, enrol};
use rat_agent::https::ServerUrl;
use rat_agent::logs::KernelLogs;
use rat_agent::machine::Machine;
use rat_agent::run::{Agent, Through, Watcher};
use rat_agent::state::{Enrolled, StateDir};
use rat_agent::token::Token;
use rat_engine::agent_id::AgentId;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::firmware::Firmware;
use super::kernel::Kernel;
use super::process::{Manufacturer, Process};
use crate::measured::Entry;

/// What firmware and a kernel take at least. A server takes a machine that is back sooner for one
/// whose TPM alone was reset. (T08)
const BOOT: Duration = Duration::from_millis(1_500);

/// A machine that is switched on.
#[derive(Debug)]
pub struct SimulatedMachine {
    name: AgentId,
    directory: PathBuf,
    kind: KeyKind,
    state: StateDir,
    kernel: Kernel,
    process: Process,
    relay: Option<Through>,
    agent: Option<RunningAgent>,
}

#[derive(Debug)]
struct RunningAgent {
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl SimulatedMachine {
    /// Makes the machine's TPM when there is none, and boots it. Its agent uses keys of this type.
    /// Blocks.
    ///
    /// # Errors
    /// When swtpm fails, or files cannot be written.
    pub fn boot(
        name: AgentId,
        kind: KeyKind,
        directory: &Path,
        manufacturer: &Manufacturer,
    ) -> Result<Self> {
        let tpm = directory.join("tpm");
        manufacturer.make(&tpm)?;
        let state = StateDir::open(&directory.join("state"))?;
        let kernel = Kernel::new(directory);
        let process = Process::start(&tpm)?;
        kernel.boot(process.tcti())?;
        Ok(Self {
            name,
            directory: directory.to_path_buf(),
            kind,
            state,
            kernel,
            process,
            relay: None,
            agent: None,
        })
    }

    /// Has its agent speak through a relay when it starts next.
    pub fn speak_through(&mut self, relay: Option<Through>) {
        self.relay = relay;
    }

    /// Its name, which is its agent's id too.
    pub const fn name(&self) -> &AgentId {
        &self.name
    }

    /// Its state directory.
    pub const fn state(&self) -> &StateDir {
        &self.state
    }

    /// Runs a file of this content: the kernel measures it. Blocks.
    ///
    /// # Errors
    /// When the TPM or a file refuses.
    pub fn run_file(&self, path: &str, content: &[u8]) -> Result<()> {
        self.kernel
            .measure(self.process.tcti(), &Entry::file(path, content))
    }

    /// Runs a file and keeps it out of the list. Blocks.
    ///
    /// # Errors
    /// When the TPM refuses.
    pub fn hide(&self) -> Result<()> {
        let entry = Entry::file("/usr/bin/hidden", b"hidden");
        self.kernel.hide(self.process.tcti(), &entry)
    }

    /// Enrols the machine, unless it is enrolled.
    ///
    /// # Errors
    /// When the server refuses.
    pub async fn enrol(&self, server: &ServerUrl, token: &Token) -> Result<Enrolled> {
        if let Some(enrolled) = self.state.enrolled()? {
            return Ok(enrolled);
        }
        let options = EnrolOptions {
            token: token.clone(),
            server: server.clone(),
            agent: Some(self.name.clone()),
            hostname: self.name.to_string(),
            kind: self.kind,
        };
        let enrolled = enrol(&self.machine()?, &options, None)
            .await
            .with_context(|| format!("enrolling {}", self.name))?;
        self.state.save_enrolled(&enrolled)?;
        Ok(enrolled)
    }

    /// Starts its agent.
    ///
    /// # Errors
    /// When the machine is not enrolled.
    pub fn start_agent(&mut self, watcher: Watcher) -> Result<()> {
        let enrolled = self
            .state
            .enrolled()?
            .with_context(|| format!("{} is not enrolled", self.name))?;
        let agent = Agent::new(self.machine()?, enrolled, Some(self.state.clone()), watcher)
            .through(self.relay.clone());
        let (stop, stopped) = watch::channel(false);
        let task = tokio::spawn(agent.run(stopped));
        self.agent = Some(RunningAgent { stop, task });
        Ok(())
    }

    /// Stops its agent, and waits until it said goodbye.
    pub async fn stop_agent(&mut self) {
        if let Some(RunningAgent { stop, task }) = self.agent.take() {
            let _ = stop.send(true);
            let _ = task.await;
        }
    }

    /// Takes the power away and gives it back: PCRs and lists start anew.
    ///
    /// # Errors
    /// When swtpm fails.
    pub async fn reboot(&mut self, watcher: Watcher) -> Result<()> {
        self.stop_agent().await;
        Firmware::new(self.process.tcti()).shut_down()?;
        // The state belongs to one process at a time: the old one has to end first.
        self.process.end();
        sleep(BOOT).await;
        self.process = Process::start(&self.directory.join("tpm"))?;
        self.kernel.boot(self.process.tcti())?;
        self.start_agent(watcher)
    }

    fn machine(&self) -> Result<Machine> {
        let settings = TpmSettings::new(self.process.tcti().clone(), self.kind);
        let logs = KernelLogs::open(self.kernel.paths().clone(), self.state.path())?;
        Ok(Machine::new(Tpm::new(settings), logs))
    }
}

/// The directory of a machine, made when it is not there.
pub(super) fn directory(root: &Path, name: &AgentId) -> Result<PathBuf> {
    let directory = root.join(name.as_str());
    fs::create_dir_all(&directory)?;
    Ok(directory.canonicalize()?)
}
