//! One connection of a relay, and the agents that it speaks for. (Q16)
//!
//! What the intake hears of them is what it would hear of connected agents, each with a session of
//! its own; it does not know that their bytes came together.
//!
//! # Security
//! A relay is believed nothing. It names agents, and the shard checks that their records name it;
//! evidence is bound to its key; what nobody asked for is dropped here, so that a relay makes no
//! more work than its agents' open challenges. What it can do is withhold. When it goes, its agents
//! are gone, as if each had lost its own connection.

mod agents;
mod hellos;
mod reading;
mod writing;

use std::sync::Arc;
use std::time::Duration;

use quinn::{Connection, RecvStream, SendStream};
use rat_engine::evidence::Refusal;
use tokio::time::{sleep, timeout};

use agents::Agents;
use reading::Reading;
use writing::Outbox;

use super::end::End;
use super::{Certified, RelayClient, Shared};
use crate::limits;
use crate::measures;
use crate::quic::Reason;
use crate::quic::parcels::Parcels;
use crate::quic::streams::{read_frame, write_frame};
use crate::quic::wire::{Frame, RelayWelcome, UploadLimits, WireError};

/// How often it is looked whether the last agent of a server that stops is gone.
const LOOK: Duration = Duration::from_millis(20);

/// What the two halves of a relay's connection share.
struct Shares<'a> {
    server: &'a Shared,
    relay: RelayClient,
    agents: Agents,
    outbox: Arc<Outbox>,
}

/// Serves a relay to the end of its connection.
pub(super) async fn serve(shared: &Shared, connection: &Connection, relay: RelayClient) -> End {
    let _line = shared.relays.enter(relay.key_sha256, connection);
    // It may have been taken back between its handshake and the line above; from here on it is
    // found by whoever takes it back.
    if !matches!(
        super::session::identified(shared, connection),
        Ok(Certified::Relay(_))
    ) {
        return End::refused(Reason::CertificateUnusable, 0);
    }
    let (send, receive) = match greet(shared, connection).await {
        Ok(streams) => streams,
        Err(end) => return end,
    };
    tracing::info!(relay = %relay.name, "a relay is connected");
    let valid_for = relay.valid_for;
    let shares = Shares {
        server: shared,
        agents: Agents::new(Arc::clone(&shared.intake)),
        outbox: Arc::new(Outbox::new(connection)),
        relay,
    };
    let reading = Reading::new(&shares, Parcels::new(receive));
    let end = tokio::select! {
        end = reading.run() => end,
        end = writing::run(&shares, send) => end,
        () = drained(&shares) => End::Refused(shared.stopping(shared.next_session())),
        () = sleep(valid_for) => End::refused(Reason::CertificateExpired, 0),
        error = connection.closed() => error.into(),
    };
    tracing::info!(relay = %shares.relay.name, agents = shares.agents.len(), "a relay is gone");
    end
}

/// Resolves when the server stops and every agent was let go.
async fn drained(shares: &Shares<'_>) {
    let mut draining = shares.server.draining.subscribe();
    // The sender lives as long as the server; without one there is nothing to wait for.
    let _ = draining.wait_for(|draining| *draining).await;
    while shares.agents.len() > 0 || !shares.outbox.is_written() {
        sleep(LOOK).await;
    }
}

/// Takes the relay's first frame and answers it.
async fn greet(shared: &Shared, connection: &Connection) -> Result<(SendStream, RecvStream), End> {
    let hello = async {
        let (send, mut receive) = connection.accept_bi().await?;
        match read_frame(&mut receive).await? {
            Frame::RelayHello => Ok::<_, End>((send, receive)),
            other => {
                let found = other.frame_type();
                Err(WireError::Unexpected { found }.into())
            }
        }
    };
    let limit = Duration::from_millis(shared.limits.hello_ms_max);
    let Ok(greeted) = timeout(limit, hello).await else {
        measures::limit("HELLO_MS_MAX");
        return Err(End::refused(Refusal::Timeout.into(), limits::BUSY_RETRY_MS));
    };
    let (mut send, receive) = greeted?;
    if *shared.draining.borrow() {
        return Err(End::Refused(shared.stopping(shared.next_session())));
    }
    let limits = &shared.limits;
    let welcome = Frame::RelayWelcome(RelayWelcome {
        ca_set: (shared.ca_set)(),
        limits: UploadLimits {
            boot_log_bytes_max: u64::try_from(limits.boot_log_bytes_max).unwrap_or(u64::MAX),
            list_bytes_max: limits.list_bytes_max,
            upload_bytes_per_second_min: limits.upload_bytes_per_second_min,
        },
        agents_max: u32::try_from(limits.relay_agents_max).unwrap_or(u32::MAX),
        hellos_per_second_max: limits.relay_hellos_per_second_max,
    });
    let limit = Duration::from_millis(crate::limits::WRITE_MS_MAX);
    match timeout(limit, write_frame(&mut send, &welcome)).await {
        Ok(written) => written?,
        Err(_) => return Err(super::session::not_reading()),
    }
    Ok((send, receive))
}
