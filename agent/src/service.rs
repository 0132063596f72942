//! The agent as a service: what it tells systemd, its journal, and `rat-agent status`.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sd_notify::NotifyState;
use thiserror::Error;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::time::interval;

use crate::device::Tpm;
use crate::https::printable;
use crate::keys::{self, ClientKey, KeysError};
use crate::logs::{KernelLogs, LogError};
use crate::machine::Machine;
use crate::run::{Agent, Event};
use crate::settings::{Settings, SettingsError};
use crate::state::{LastKnown, LastVerdict, StateDir, StateError};
use crate::unix_ms;

/// What is known is written this often even when only counters change.
const WRITE_EVERY_MS: u64 = 60_000;
/// Messages to systemd that wait until it reads.
const NOTIFICATIONS_MAX: usize = 16;

/// Why the service does not start.
#[derive(Debug, Error)]
pub enum ServiceError {
    /// The state.
    #[error(transparent)]
    State(#[from] StateError),
    /// The settings.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// The logs.
    #[error(transparent)]
    Log(#[from] LogError),
    /// A key or certificate.
    #[error(transparent)]
    Keys(#[from] KeysError),
    /// Signals cannot be caught.
    #[error("signals cannot be caught: {0}")]
    Signal(#[from] std::io::Error),
}

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// [`ServiceError`], before anything is done.
pub async fn run(settings: &Settings) -> Result<(), ServiceError> {
    let state = StateDir::open(&settings.state_dir())?;
    let _running = state.lock()?;
    let path = state.path().to_path_buf();
    let enrolled = state.enrolled()?.ok_or(StateError::NotEnrolled { path })?;
    let tpm = Tpm::new(settings.tpm(settings.kind(Some(enrolled.kind)))?);
    let logs = KernelLogs::open(settings.logs(), state.path())?;
    let machine = Machine::new(tpm, logs);
    let key = ClientKey::from_pem(&enrolled.key_pem)?;
    let chain = keys::certificates(&enrolled.certificate_pem)?;
    let leaf = chain.first().ok_or(KeysError::NoCertificate)?;
    let until = keys::validity(leaf, &key)?.not_after_unix_ms;

    let notifier = Notifier::start()?;
    let journal = Arc::new(Journal::new(state.clone(), until, notifier.clone()));
    let watcher = Arc::clone(&journal);
    let agent = Agent::new(
        machine.clone(),
        enrolled,
        Some(state),
        Arc::new(move |event| watcher.tell(&event)),
    )
    .through(settings.relay()?);
    let (stop, stopped) = watch::channel(false);
    let (mut terminate, mut interrupt) = (
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
    );
    let watchdog = tokio::spawn(watchdog(machine, notifier));
    notify(&[NotifyState::Ready]);
    let mut running = tokio::spawn(agent.run(stopped));
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        _ = &mut running => {}
    }
    notify(&[NotifyState::Stopping]);
    watchdog.abort();
    // The agent says goodbye to its server; a second signal ends it at once.
    let _ = stop.send(true);
    if !running.is_finished() {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            _ = &mut running => {}
        }
    }
    journal.away("stopped".to_owned());
    Ok(())
}

/// What systemd is told while the agent works.
///
/// Sending blocks while systemd does not read, so a thread does it; what it cannot take in time
/// is out of date, and dropped.
#[derive(Clone)]
struct Notifier(SyncSender<String>);

impl Notifier {
    fn start() -> std::io::Result<Self> {
        let (sender, messages) = sync_channel::<String>(NOTIFICATIONS_MAX);
        let send = move || {
            for message in messages {
                notify(&[NotifyState::Custom(&message)]);
            }
        };
        std::thread::Builder::new()
            .name("notify".to_owned())
            .spawn(send)?;
        Ok(Self(sender))
    }

    fn status(&self, text: &str) {
        let _ = self.0.try_send(format!("STATUS={}", printable(text)));
    }

    fn alive(&self) {
        let _ = self.0.try_send("WATCHDOG=1".to_owned());
    }
}

/// Tells systemd that the agent lives, as long as its work with the TPM comes to an end.
///
/// A TPM or a log that hangs holds the machine's lock, and then this waits with it.
async fn watchdog(machine: Machine, notifier: Notifier) {
    let Some(limit) = sd_notify::watchdog_enabled() else {
        return;
    };
    let half = limit.checked_div(2).unwrap_or(limit);
    let mut ticks = interval(half.max(Duration::from_millis(1)));
    loop {
        ticks.tick().await;
        if machine.with(|_| ()).await.is_ok() {
            notifier.alive();
        }
    }
}

fn notify(states: &[NotifyState<'_>]) {
    // Without systemd there is nobody to tell.
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "systemd was not told");
    }
}

/// Remembers what happens, and says once what changes.
struct Journal {
    state: StateDir,
    known: Mutex<LastKnown>,
    written_unix_ms: AtomicU64,
    notifier: Notifier,
}

impl Journal {
    fn new(state: StateDir, certificate_until_unix_ms: u64, notifier: Notifier) -> Self {
        Self {
            state,
            notifier,
            known: Mutex::new(LastKnown {
                process: std::process::id(),
                certificate_until_unix_ms,
                ..LastKnown::default()
            }),
            written_unix_ms: AtomicU64::new(0),
        }
    }

    fn tell(&self, event: &Event<'_>) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = match event {
            Event::Connected { address, entries } => {
                tracing::info!(%address, "connected");
                known.connected = true;
                known.address = Some(address.to_string());
                known.trouble = None;
                known.entries = *entries;
                true
            }
            Event::Answered {
                answer, entries, ..
            } => {
                known.attestations = known.attestations.saturating_add(1);
                known.entries = entries.unwrap_or(known.entries);
                let new = LastVerdict {
                    status: answer.status.to_string(),
                    code: answer.code.map(|code| code.to_string()),
                    detail: printable(&answer.detail),
                    at_unix_ms: unix_ms(),
                };
                let changed = known.verdict.as_ref().is_none_or(|before| {
                    (&before.status, &before.code) != (&new.status, &new.code)
                });
                if changed {
                    self.say(&new);
                }
                let recovered = known.trouble.take().is_some();
                known.verdict = Some(new);
                changed || recovered
            }
            Event::Unanswered(error) => trouble(&mut known, error.to_string()),
            Event::Renewed { until_unix_ms } => {
                tracing::info!(until_unix_ms, "certificate renewed");
                known.certificate_until_unix_ms = *until_unix_ms;
                true
            }
            Event::Away { error, wait } => {
                let was_connected = std::mem::take(&mut known.connected);
                match error {
                    Some(error) => {
                        let text = format!("{error}; next try in {} s", wait.as_secs());
                        let changed = trouble(&mut known, error.to_string());
                        self.notifier.status(&text);
                        changed || was_connected
                    }
                    None => was_connected,
                }
            }
        };
        self.write(&mut known, changed);
    }

    /// Says a verdict that is new.
    fn say(&self, verdict: &LastVerdict) {
        let LastVerdict {
            status,
            code,
            detail,
            ..
        } = verdict;
        let code = code.as_deref().unwrap_or("-");
        self.notifier.status(&format!("{status} {code}"));
        if verdict.code.is_none() {
            tracing::info!(%status, "verdict");
        } else {
            tracing::warn!(%status, %code, %detail, "verdict");
        }
    }

    fn away(&self, why: String) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.connected = false;
        known.trouble = Some(why);
        self.write(&mut known, true);
    }

    fn write(&self, known: &mut LastKnown, changed: bool) {
        let now = unix_ms();
        let before = self.written_unix_ms.load(Ordering::Relaxed);
        if !changed && now.abs_diff(before) < WRITE_EVERY_MS {
            return;
        }
        known.at_unix_ms = now;
        self.written_unix_ms.store(now, Ordering::Relaxed);
        if let Err(error) = self.state.save_last_known(known) {
            tracing::warn!(%error, "the status cannot be written");
        }
    }
}

/// Says a trouble that is new; whether it was.
fn trouble(known: &mut LastKnown, text: String) -> bool {
    if known.trouble.as_ref() == Some(&text) {
        return false;
    }
    tracing::warn!("{text}");
    known.trouble = Some(text);
    true
}

#[cfg(test)]
mod tests {
    const UNIT: &str = include_str!("../../deploy/systemd/rat-agent.service");

    fn values<'u>(key: &'u str) -> impl Iterator<Item = &'u str> {
        let value = move |line: &'u str| line.strip_prefix(key)?.strip_prefix('=');
        UNIT.lines().filter_map(value)
    }

    #[test]
    fn a_tpm_that_comes_after_the_agents_start_is_not_denied() {
        // systemd looks a path up once, and allows nothing when there is nothing yet.
        let allowed: Vec<_> = values("DeviceAllow").collect();
        assert_eq!(allowed, ["char-tpm rw"]);
        let after: Vec<_> = values("After").flat_map(str::split_whitespace).collect();
        let wanted: Vec<_> = values("Wants").flat_map(str::split_whitespace).collect();
        assert!(after.contains(&"dev-tpmrm0.device"), "{after:?}");
        // The class has a number once the kernel's TPM core is loaded.
        assert!(after.contains(&"modprobe@tpm.service"), "{after:?}");
        assert!(wanted.contains(&"modprobe@tpm.service"), "{wanted:?}");
        // A machine whose TPM is away still has an agent that says so.
        assert_eq!(values("Requires").count(), 0);
    }
}
