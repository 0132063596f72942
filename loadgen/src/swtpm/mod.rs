//! `rat-load swtpm`: machines with real TPMs, whose kernels do what they are told.

mod control;
mod firmware;
mod kernel;
mod machine;
mod process;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use rat_agent::device::{Device as _, KeyKind, Tpm, TpmSettings};
use rat_agent::https::ServerUrl;
use rat_agent::run::{Event, Through};
use rat_agent::token::Token;
use rat_engine::agent_id::AgentId;
use rayon::prelude::*;
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Semaphore;
use tokio::task::{JoinSet, spawn_blocking};

use crate::progress;

pub use control::{Command, CommandError};
pub use firmware::Firmware;
pub use kernel::Kernel;
pub use machine::SimulatedMachine;
pub use process::{Manufacturer, Process};

/// Which machines.
#[derive(Debug, Clone, clap::Args)]
pub struct Machines {
    /// Where the machines live: TPMs, lists and agents' states; ek-ca.pem and ek-list are written
    /// there
    #[arg(long, value_name = "DIR")]
    pub dir: PathBuf,
    /// How many
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub machines: usize,
    /// How many of them, the last ones, have P-256 keys. Their endorsement keys have no
    /// certificate: ek-list names them
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub ecc: usize,
    /// First part of their names
    #[arg(long, value_name = "PREFIX", default_value = "m")]
    pub prefix: String,
}

/// What to do with them.
#[derive(Debug, Clone, clap::Args)]
pub struct SwtpmOptions {
    /// Which machines
    #[command(flatten)]
    pub machines: Machines,
    /// The server, as https://host:port
    #[arg(long, value_name = "URL")]
    pub server: ServerUrl,
    /// A token that all machines may use
    #[arg(long)]
    pub token: Token,
    /// A baseline token, for the first machine: its list becomes the group's policy
    #[arg(long)]
    pub baseline_token: Option<Token>,
    /// The relay that agents speak through, as host:port
    #[arg(long, value_name = "ADDRESS")]
    pub through: Option<String>,
    /// Files that each machine runs after its first boot, before it enrols
    #[arg(long, value_name = "PATH", default_values_t = ["/usr/bin/init".to_owned(), "/usr/bin/service".to_owned()])]
    pub runs: Vec<String>,
    /// Take commands from this FIFO instead of standard input
    #[arg(long, value_name = "FIFO")]
    pub control: Option<PathBuf>,
}

/// Machines that were made, and the files by which a server knows them.
#[derive(Debug)]
pub struct Manufactured {
    /// Who made them.
    pub manufacturer: Manufacturer,
    /// The CA of their endorsement keys' certificates, for `identity.ek_ca`.
    pub ek_ca: PathBuf,
    /// Their endorsement keys without a certificate, for `identity.ek_list`; `None` without any.
    pub ek_list: Option<PathBuf>,
}

impl Machines {
    /// Names and types of keys.
    fn each(&self) -> Result<Vec<(AgentId, KeyKind)>> {
        let rsa = self.machines.checked_sub(self.ecc);
        let rsa = rsa.context("--ecc is larger than --machines")?;
        (0..self.machines)
            .map(|index| {
                let name = format!("{}{}", self.prefix, index.saturating_add(1));
                let kind = if index < rsa {
                    KeyKind::Rsa
                } else {
                    KeyKind::Ecc
                };
                let id = AgentId::parse(&name).with_context(|| name.clone())?;
                Ok((id, kind))
            })
            .collect()
    }

    /// Makes the machines' TPMs and writes `ek-ca.pem` and `ek-list`, so that a server can be told
    /// of them before the machines start. The machines must be off. Blocks.
    ///
    /// # Errors
    /// When swtpm_setup or swtpm fails.
    pub fn manufacture(&self) -> Result<Manufactured> {
        let manufacturer = Manufacturer::new(&self.dir.join("ek-ca"))?;
        let each = self.each()?;
        let bar = progress::bar("TPMs", each.len());
        let make = |(name, kind): &(AgentId, KeyKind)| {
            let listed = self.make(&manufacturer, name, *kind);
            bar.inc(1);
            listed
        };
        // The CA is made with the first TPM; others can be made together.
        let (first, others) = each.split_at(each.len().min(1));
        let mut listed: Vec<String> = first.iter().map(make).collect::<Result<_>>()?;
        let more: Vec<String> = others.par_iter().map(make).collect::<Result<_>>()?;
        listed.extend(more);
        bar.finish_and_clear();
        let list = listed.concat();
        let ek_ca = self.dir.join("ek-ca.pem");
        manufacturer.write_chain(&ek_ca)?;
        let ek_list = (!list.is_empty()).then(|| self.dir.join("ek-list"));
        if let Some(path) = &ek_list {
            fs::write(path, list)?;
        }
        Ok(Manufactured {
            manufacturer,
            ek_ca,
            ek_list,
        })
    }
}

impl Machines {
    /// Makes one TPM; gives its line of the list of endorsement keys, which is empty when the key
    /// has a certificate.
    fn make(&self, manufacturer: &Manufacturer, name: &AgentId, kind: KeyKind) -> Result<String> {
        let tpm = machine::directory(&self.dir, name)?.join("tpm");
        manufacturer.make(&tpm)?;
        if kind == KeyKind::Rsa {
            return Ok(String::new());
        }
        let process = Process::start(&tpm)?;
        let settings = TpmSettings::new(process.tcti().clone(), kind);
        let sha256 = Tpm::new(settings).endorsement()?.sha256()?;
        Firmware::new(process.tcti()).shut_down()?;
        Ok(format!("{}  # {name}\n", hex::encode(sha256)))
    }
}

/// Machines that boot, or enrol, at the same time.
const STARTING_MAX: usize = 8;

/// The machines that run, by name.
type Running = BTreeMap<AgentId, SimulatedMachine>;

/// Boots the machines, enrols them, and carries commands out until told to end.
///
/// Events go to standard output, one JSON object a line.
///
/// # Errors
/// When a machine cannot be booted or enrolled.
pub async fn run(options: SwtpmOptions) -> Result<()> {
    let (mut terminate, mut interrupt) = (
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
    );
    let mut commands = control::commands(options.control.clone())?;
    let mut machines = tokio::select! {
        started = start(&options) => started?,
        _ = terminate.recv() => return Ok(()),
        _ = interrupt.recv() => return Ok(()),
    };
    emit(&json!({"event": "ready", "machines": machines.len()}));
    loop {
        let line = tokio::select! {
            line = commands.recv() => line,
            _ = terminate.recv() => None,
            _ = interrupt.recv() => None,
        };
        let Some(line) = line else { break };
        match Command::parse(&line) {
            Ok(Command::Quit) => break,
            Ok(command) => machines = carry_out(command, machines).await?,
            Err(error) => emit(&json!({"event": "error", "error": error.to_string()})),
        }
    }
    for machine in machines.values_mut() {
        machine.stop_agent().await;
    }
    emit(&json!({"event": "stopped"}));
    Ok(())
}

async fn start(options: &SwtpmOptions) -> Result<Running> {
    let wanted = options.machines.clone();
    let made = spawn_blocking(move || wanted.manufacture()).await??;
    emit(&json!({"event": "ek_ca", "path": made.ek_ca.display().to_string()}));
    if let Some(list) = &made.ek_list {
        emit(&json!({"event": "ek_list", "path": list.display().to_string()}));
    }
    let places = Arc::new(Semaphore::new(STARTING_MAX));
    let mut booting = JoinSet::new();
    for (name, kind) in options.machines.each()? {
        let place = Arc::clone(&places).acquire_owned().await?;
        let (root, runs) = (options.machines.dir.clone(), options.runs.clone());
        let manufacturer = made.manufacturer.clone();
        let relay = options.through.as_deref();
        let relay = relay
            .map(|address| Through::new(address, None))
            .transpose()?;
        booting.spawn_blocking(move || {
            let _place = place;
            let directory = machine::directory(&root, &name)?;
            let mut machine = SimulatedMachine::boot(name, kind, &directory, &manufacturer)?;
            machine.speak_through(relay);
            for path in &runs {
                machine.run_file(path, path.as_bytes())?;
            }
            anyhow::Ok(machine)
        });
    }
    let mut machines = Running::new();
    while let Some(booted) = booting.join_next().await {
        let machine = booted??;
        emit(&json!({"event": "booted", "machine": machine.name()}));
        machines.insert(machine.name().clone(), machine);
    }
    let mut attesting = Running::new();
    // The first one's list may be the policy that the others enrol under.
    if let Some((name, machine)) = machines.pop_first() {
        let token = options.baseline_token.as_ref().unwrap_or(&options.token);
        let baseline = options.baseline_token.is_some();
        let machine = enrol(machine, &options.server, token, baseline).await?;
        attesting.insert(name, machine);
    }
    let mut enrolling = JoinSet::new();
    for machine in machines.into_values() {
        let place = Arc::clone(&places).acquire_owned().await?;
        let (server, token) = (options.server.clone(), options.token.clone());
        enrolling.spawn(async move {
            let _place = place;
            enrol(machine, &server, &token, false).await
        });
    }
    while let Some(enrolled) = enrolling.join_next().await {
        let machine = enrolled??;
        attesting.insert(machine.name().clone(), machine);
    }
    Ok(attesting)
}

/// Enrols a machine and starts its agent.
async fn enrol(
    mut machine: SimulatedMachine,
    server: &ServerUrl,
    token: &Token,
    baseline: bool,
) -> Result<SimulatedMachine> {
    let enrolled = machine.enrol(server, token).await?;
    emit(&json!({
        "event": "enrolled",
        "machine": machine.name(),
        "group": enrolled.group,
        "baseline": baseline,
    }));
    let watcher = watcher(machine.name());
    machine.start_agent(watcher)?;
    Ok(machine)
}

/// Carries one command out. Its failure is an event: the machines go on.
async fn carry_out(command: Command, mut machines: Running) -> Result<Running> {
    let name = command.machine().cloned();
    let Some(machine) = name.as_ref().and_then(|name| machines.get_mut(name)) else {
        let known: Vec<_> = machines.keys().collect();
        emit(&json!({"event": "error", "error": "no such machine", "machines": known}));
        return Ok(machines);
    };
    let watcher = watcher(machine.name());
    let done = match &command {
        Command::Run { path, content, .. } => {
            let content = content.as_ref().unwrap_or(path);
            tokio::task::block_in_place(|| machine.run_file(path, content.as_bytes()))
        }
        Command::Hide(_) => tokio::task::block_in_place(|| machine.hide()),
        Command::Reboot(_) => machine.reboot(watcher).await,
        Command::Quit => Ok(()),
    };
    emit(&match done {
        Ok(()) => json!({"event": "done", "command": command.to_string()}),
        Err(error) => {
            json!({"event": "error", "command": command.to_string(), "error": format!("{error:#}")})
        }
    });
    Ok(machines)
}

/// Tells what happens to a machine's agent.
fn watcher(name: &AgentId) -> rat_agent::run::Watcher {
    let machine = name.clone();
    Arc::new(move |event| emit(&told(&machine, &event)))
}

fn told(machine: &AgentId, event: &Event<'_>) -> Value {
    match event {
        Event::Connected { address, entries } => json!({
            "event": "connected",
            "machine": machine,
            "address": address.to_string(),
            "entries": entries,
        }),
        Event::Answered {
            answer,
            took,
            entries,
        } => json!({
            "event": "verdict",
            "machine": machine,
            "status": answer.status.as_str(),
            "code": answer.code.map(|code| code.to_string()),
            "detail": answer.detail,
            "entries": entries,
            "took_ms": u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
        }),
        Event::Unanswered(error) => json!({
            "event": "unanswered",
            "machine": machine,
            "error": error.to_string(),
        }),
        Event::Renewed { until_unix_ms } => json!({
            "event": "renewed",
            "machine": machine,
            "until_unix_ms": until_unix_ms,
        }),
        Event::Away { error, wait } => json!({
            "event": "away",
            "machine": machine,
            "error": error.map(ToString::to_string),
            "wait_ms": u64::try_from(wait.as_millis()).unwrap_or(u64::MAX),
        }),
    }
}

/// Writes one line. Whoever stopped reading ends the run by other means.
fn emit(event: &Value) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{event}").and_then(|()| out.flush());
}
