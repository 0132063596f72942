//! New certificates for agents, on streams that they open.

use std::sync::Arc;
use std::time::Duration;

use quinn::{RecvStream, SendStream};
use rat_engine::evidence::Refusal;
use tokio::time::{Instant, timeout};

use super::end::End;
use super::renewed::TooOften;
use super::session::Session;
use crate::limits;
use crate::measures;
use crate::quic::streams::{read_end, read_frame};
use crate::quic::wire::{Frame, FrameType, Refused, WireError};
use crate::quic::{Reason, RenewRefused};

/// Serves one request after another until the connection is to end.
pub(super) async fn run(session: &Session<'_>) -> End {
    loop {
        let streams = match session.connection.accept_bi().await {
            Ok(streams) => streams,
            Err(error) => return error.into(),
        };
        // Boxed, so that a connection that renews nothing does not carry room for it.
        if let Err(end) = Box::pin(serve(session, streams)).await {
            return end;
        }
    }
}

async fn serve(
    session: &Session<'_>,
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
    let shared = session.shared;
    let answer = match shared.renewed.count(&session.client.agent, Instant::now()) {
        Err(TooOften { limit, wait }) => {
            measures::limit(limit);
            let wait_ms = u32::try_from(wait.as_millis()).unwrap_or(u32::MAX);
            Err((RenewRefused::TooOften, wait_ms))
        }
        Ok(()) => renew(session, csr)
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
