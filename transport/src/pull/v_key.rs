//! The V key: what an agent is given once it has proved itself.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::Method;
use rat_engine::hash::Digest;
use thiserror::Error;
use tokio::time::timeout;

use super::connection::{Asked, Line};
use super::failure::Failure;
use super::polled::Polled;
use super::poller::{News, Shared};
use crate::limits;
use crate::measures;

/// Why an agent has no V key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum VKeyFailure {
    /// Its key is none, or too weak.
    #[error("its key cannot be encrypted for")]
    Key,
    /// It did not take it.
    #[error(transparent)]
    Exchange(#[from] Failure),
}

/// Sends the V key to an agent whose TPM has shown this key in evidence that passed.
pub(super) fn send(
    shared: &Arc<Shared>,
    polled: &Arc<Polled>,
    public_key: String,
    data_pcr: Digest,
) {
    if shared.is_stopping() {
        return;
    }
    let (of, polled) = (Arc::clone(shared), Arc::clone(polled));
    shared.spawn(async move {
        let within = Duration::from_millis(of.settings.answer_ms);
        let sent = timeout(within, deliver(&of, &polled, &public_key)).await;
        let agent = &polled.known.contact.agent;
        let news = match sent.unwrap_or(Err(Failure::Timeout.into())) {
            Ok(()) => {
                polled.took_v_key(data_pcr);
                measures::v_key("taken");
                News::HasVKey
            }
            Err(failure) => {
                tracing::warn!(%agent, %failure, "an agent did not take its V key");
                measures::v_key("failed");
                News::NoVKey(failure)
            }
        };
        of.watcher.told(agent, news);
    });
}

async fn deliver(shared: &Shared, polled: &Polled, public_key: &str) -> Result<(), VKeyFailure> {
    let known = &polled.known;
    let Some(v_key) = &known.contact.v_key else {
        return Ok(());
    };
    let sealed = (shared.seal)(public_key.as_bytes(), &v_key.0).ok_or(VKeyFailure::Key)?;
    let version = polled.version().ok_or(Failure::Version)?;
    let _permits = polled.permits(shared).await?;
    let body = serde_json::json!({ "encrypted_key": STANDARD.encode(sealed) }).to_string();
    let asked = Asked {
        method: Method::POST,
        target: format!("/v{version}/keys/vkey"),
        body: body.into(),
        is_last: true,
    };
    // What was kept may be closed by now, and this is not to be sent twice.
    let mut line: Line = polled.open_line(shared).await?;
    let most = limits::PULL_VERSION_BYTES_MAX;
    let answered = line.ask(asked, known, &shared.memory, most).await?;
    match answered.status {
        200 => Ok(()),
        status => Err(Failure::Status(status).into()),
    }
}
