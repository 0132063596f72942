//! New certificates for agents, on streams that they open.

use std::sync::Arc;
use std::time::Duration;

use quinn::{RecvStream, SendStream};
use rat_engine::agent_id::AgentId;
use rat_engine::evidence::Refusal;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

use super::end::End;
use super::renewed::TooOften;
use super::session::Session;
use super::{Client, RelayClient, Shared};
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
    let Client {
        agent, key_sha256, ..
    } = session.client.clone();
    let signing = Signing::of(session.shared, Whose::Agent(agent, key_sha256));
    let frame = match signing.run(csr).await {
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

/// Who asks for a certificate.
pub(super) enum Whose {
    /// An agent, whose certificate so far is for this key.
    Agent(AgentId, [u8; 32]),
    /// A relay.
    Relay(RelayClient),
}

/// Signs a PKCS#10 request; may block.
type Sign = dyn FnOnce(&[u8]) -> Result<Vec<Vec<u8>>, RenewRefused> + Send;

/// A request for a certificate that is counted already.
pub(super) struct Signing {
    counted: Result<(), TooOften>,
    places: Arc<Semaphore>,
    sign: Box<Sign>,
}

impl Signing {
    pub(super) fn of(shared: &Shared, whose: Whose) -> Self {
        let places = Arc::clone(&shared.renewals);
        match whose {
            Whose::Agent(agent, key_sha256) => {
                let renew = Arc::clone(&shared.renew);
                Self {
                    counted: shared.renewed.count(&agent, Instant::now()),
                    places,
                    sign: Box::new(move |csr| renew(&agent, key_sha256, csr)),
                }
            }
            Whose::Relay(relay) => {
                let renew = Arc::clone(&shared.renew_relay);
                Self {
                    counted: Ok(()),
                    places,
                    sign: Box::new(move |csr| renew(&relay.name, relay.key_sha256, csr)),
                }
            }
        }
    }

    /// Has the CA sign, on a thread that may block; or says why not, and when to ask again.
    pub(super) async fn run(self, csr: Vec<u8>) -> Result<Vec<Vec<u8>>, (RenewRefused, u32)> {
        if let Err(TooOften { limit, wait }) = self.counted {
            measures::limit(limit);
            let wait_ms = u32::try_from(wait.as_millis()).unwrap_or(u32::MAX);
            return Err((RenewRefused::TooOften, wait_ms));
        }
        let _place = self.places.acquire_owned().await;
        let sign = self.sign;
        let answer = match tokio::task::spawn_blocking(move || sign(&csr)).await {
            Ok(answer) => answer,
            // A panic while signing must not take the connection with it.
            Err(error) => {
                tracing::error!(%error, "renewing a certificate failed");
                Err(RenewRefused::Unavailable)
            }
        };
        answer.map_err(|refused| (refused, limits::BUSY_RETRY_MS))
    }
}
