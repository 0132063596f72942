//! The server: its parts made, joined, and stopped in order.

mod evidence;
mod keylime;
mod keylime_tls;
mod polled;
mod registrar;
mod relays;
mod revocations;
mod shards;
mod verifier;
mod webhooks;
mod wiring;

use std::process::ExitCode;
use std::time::Duration;

use rat_api::listen::Stop;
use sd_notify::NotifyState;
use tokio::time::timeout;

use crate::config::Config;
use crate::failure::{Exit, Failure, Means};
use crate::signals::Signals;

pub(crate) use verifier::make_group as make_keylime_group;
use wiring::Parts;

/// How long threads and connections to the store may take to end after the deadline.
const ENDING: Duration = Duration::from_secs(5);

/// Serves until a signal, then drains.
pub(crate) async fn run(config: &Config) -> Result<ExitCode, Failure> {
    let mut signals = Signals::new()?;
    let stop = Stop::default();
    let parts = Parts::start(config, &stop).await?;
    // Without systemd there is nobody to tell.
    let _ = sd_notify::notify(&[NotifyState::Ready]);
    let signal = signals.next().await;
    tracing::info!(signal, "stopping");
    let _ = sd_notify::notify(&[NotifyState::Stopping]);
    let deadline = Duration::from_millis(config.drain.deadline_ms);
    // Each part of it keeps to the deadline; what ends the parts themselves takes a moment more.
    let at_most = deadline.saturating_add(ENDING);
    let drained = tokio::select! {
        drained = timeout(at_most, parts.drain(&stop, deadline)) => drained.unwrap_or(false),
        signal = signals.next() => {
            tracing::warn!(signal, "stopping at once");
            false
        }
    };
    stop.force.cancel();
    if drained {
        tracing::info!("stopped");
        return Ok(ExitCode::SUCCESS);
    }
    let error = anyhow::anyhow!("stopped before everything under way had ended");
    Err(error).means(Exit::Forced)
}
