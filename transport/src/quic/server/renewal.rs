//! New certificates for agents, on streams that they open.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use quinn::{RecvStream, SendStream};
use rat_engine::evidence::Refusal;
use tokio::time::{Instant, timeout};

use super::end::End;
use super::session::Session;
use crate::limits;
use crate::measures;
use crate::quic::streams::{read_end, read_frame};
use crate::quic::wire::{Frame, FrameType, Refused, WireError};
use crate::quic::{Reason, RenewRefused};

const HOUR: Duration = Duration::from_secs(3600);

/// Serves one request after another until the connection is to end.
pub(super) async fn run(session: &Session<'_>) -> End {
    let mut renewed = VecDeque::new();
    loop {
        let streams = match session.connection.accept_bi().await {
            Ok(streams) => streams,
            Err(error) => return error.into(),
        };
        // Boxed, so that a connection that renews nothing does not carry room for it.
        if let Err(end) = Box::pin(serve(session, &mut renewed, streams)).await {
            return end;
        }
    }
}

async fn serve(
    session: &Session<'_>,
    renewed: &mut VecDeque<Instant>,
    (mut send, mut receive): (SendStream, RecvStream),
) -> Result<(), End> {
    let limit = Duration::from_millis(limits::RENEW_MS_MAX);
    let csr = match timeout(limit, request(&mut receive)).await {
        Ok(csr) => csr?,
        Err(_) => {
            measures::limit("RENEW_MS_MAX");
            return Err(End::refused(Refusal::Timeout.into(), limits::BUSY_RETRY_MS));
        }
    };
    let answer = match too_often(renewed) {
        Some(retry_after_ms) => {
            measures::limit("RENEWALS_PER_HOUR_MAX");
            Err((RenewRefused::TooOften, retry_after_ms))
        }
        None => renew(session, csr)
            .await
            .map_err(|refused| (refused, limits::BUSY_RETRY_MS)),
    };
    let frame = match answer {
        Ok(chain) => Frame::Renewed(chain),
        Err((refused, retry_after_ms)) => {
            let reason = Reason::Renew(refused);
            measures::refusal(reason);
            Frame::Refused(Refused {
                reason,
                retry_after_ms,
            })
        }
    };
    session.write(&mut send, &frame).await?;
    if matches!(frame, Frame::Renewed(_)) {
        measures::count(measures::RENEWALS, 1);
    }
    Ok(())
}

async fn request(stream: &mut RecvStream) -> Result<Vec<u8>, End> {
    let frame = read_frame(stream).await?;
    let Frame::Renew(csr) = frame else {
        let found = frame.frame_type();
        return Err(WireError::Unexpected { found }.into());
    };
    read_end(stream, FrameType::Renew).await?;
    Ok(csr)
}

/// Counts this request; gives the time to wait when the last hour had enough of them.
fn too_often(renewed: &mut VecDeque<Instant>) -> Option<u32> {
    renewed.retain(|at| at.elapsed() < HOUR);
    if renewed.len() >= limits::RENEWALS_PER_HOUR_MAX {
        let oldest = renewed.front().map_or(HOUR, Instant::elapsed);
        let wait = HOUR.saturating_sub(oldest).as_millis();
        return Some(u32::try_from(wait).unwrap_or(u32::MAX));
    }
    renewed.push_back(Instant::now());
    None
}

/// Has the CA sign, on a thread that may block.
async fn renew(session: &Session<'_>, csr: Vec<u8>) -> Result<Vec<Vec<u8>>, RenewRefused> {
    let shared = session.shared;
    let _place = shared.renewals.acquire().await;
    let (renew, client) = (Arc::clone(&shared.renew), session.client.clone());
    let sign = move || renew(&client.agent, client.key_sha256, &csr);
    match tokio::task::spawn_blocking(sign).await {
        Ok(answer) => answer,
        // A panic while signing must not take the connection with it.
        Err(error) => {
            tracing::error!(%error, "renewing a certificate failed");
            Err(RenewRefused::Unavailable)
        }
    }
}
