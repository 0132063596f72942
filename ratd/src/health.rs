//! What `/readyz` asks, answered from memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rat_api::clock::unix_ms;
use rat_api::health::{Check, Probe, Readiness};
use rat_api::metrics::CERTIFICATE_EXPIRY;
use rat_api::tls::ServerCertificate;
use rat_store::Store;
use tokio::time::{Instant, interval, timeout};
use tokio_util::sync::CancellationToken;

/// How often the store is asked whether it answers.
const STORE_EVERY: Duration = Duration::from_secs(5);
/// A store that takes longer holds up everything.
const STORE_PATIENCE: Duration = Duration::from_secs(3);
/// How far the wall clock may run away from the monotonic one before times are not believed.
const CLOCK_STEP_MS_MAX: u64 = 60_000;
/// 2026-01-01: no machine that runs this program has an earlier date.
const BUILT_AFTER_UNIX_MS: u64 = 1_767_225_600_000;

/// Asks the store regularly, and remembers the answer.
pub(crate) struct StoreWatch(AtomicBool);

impl StoreWatch {
    /// Asks until `stop`. The store answered a moment ago: it was opened.
    pub(crate) fn start(store: Store, stop: CancellationToken) -> Arc<Self> {
        let watch = Arc::new(Self(AtomicBool::new(true)));
        let seen = Arc::clone(&watch);
        tokio::spawn(async move {
            let mut ticks = interval(STORE_EVERY);
            loop {
                tokio::select! {
                    () = stop.cancelled() => return,
                    _ = ticks.tick() => {}
                }
                let answered = timeout(STORE_PATIENCE, store.agent_count()).await;
                let ok = matches!(answered, Ok(Ok(_)));
                if !ok && seen.0.load(Ordering::Relaxed) {
                    tracing::error!("the store does not answer");
                }
                seen.0.store(ok, Ordering::Relaxed);
            }
        });
        watch
    }

    fn check(&self) -> Check {
        if self.0.load(Ordering::Relaxed) {
            return Check::ok("store");
        }
        Check::failed("store", "the store does not answer".to_owned())
    }
}

/// Everything that must work for the server to be ready.
pub(crate) fn readiness(
    store: Arc<StoreWatch>,
    certificate: Arc<ServerCertificate>,
    ca_not_after_unix_ms: u64,
    workers: Probe,
) -> Arc<Readiness> {
    let started = Started {
        mono: Instant::now(),
        unix_ms: unix_ms(),
    };
    let probes: Vec<Probe> = vec![
        Box::new(move || store.check()),
        workers,
        Box::new(move || {
            let server = certificate.not_after_unix_ms();
            set_expiry("ca", ca_not_after_unix_ms);
            set_expiry("server", server);
            certificates(ca_not_after_unix_ms.min(server), unix_ms())
        }),
        Box::new(move || started.check(unix_ms())),
    ];
    Readiness::new(probes)
}

fn set_expiry(certificate: &'static str, not_after_unix_ms: u64) {
    let seconds = not_after_unix_ms.checked_div(1000).unwrap_or(0);
    // Seconds of a date fit into the 52 bits of a gauge; a later one is shown as the latest.
    let seconds = f64::from(u32::try_from(seconds).unwrap_or(u32::MAX));
    metrics::gauge!(CERTIFICATE_EXPIRY, "certificate" => certificate).set(seconds);
}

fn certificates(not_after_unix_ms: u64, now_unix_ms: u64) -> Check {
    if now_unix_ms < not_after_unix_ms {
        return Check::ok("certificates");
    }
    let reason = "the CA's or the server's certificate has expired".to_owned();
    Check::failed("certificates", reason)
}

struct Started {
    mono: Instant,
    unix_ms: u64,
}

impl Started {
    /// Whether the wall clock has moved as the monotonic one did since the start.
    fn check(&self, now_unix_ms: u64) -> Check {
        if now_unix_ms < BUILT_AFTER_UNIX_MS {
            let reason = "the clock shows a time before this program was made".to_owned();
            return Check::failed("clock", reason);
        }
        let since = u64::try_from(self.mono.elapsed().as_millis()).unwrap_or(u64::MAX);
        let off = self.unix_ms.saturating_add(since).abs_diff(now_unix_ms);
        if off <= CLOCK_STEP_MS_MAX {
            return Check::ok("clock");
        }
        Check::failed(
            "clock",
            format!("the clock was set by {off} ms since the start"),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_clock_that_was_set_is_not_ready() {
        let started = Started {
            mono: Instant::now(),
            unix_ms: BUILT_AFTER_UNIX_MS,
        };
        assert!(started.check(BUILT_AFTER_UNIX_MS).ok);
        assert!(started.check(BUILT_AFTER_UNIX_MS + CLOCK_STEP_MS_MAX).ok);
        let later = started.check(BUILT_AFTER_UNIX_MS + 2 * CLOCK_STEP_MS_MAX);
        assert!(!later.ok && later.reason.is_some());
        assert!(!started.check(0).ok);
    }

    #[test]
    fn an_expired_certificate_is_not_ready() {
        assert!(certificates(2, 1).ok);
        assert!(!certificates(2, 2).ok);
    }
}
