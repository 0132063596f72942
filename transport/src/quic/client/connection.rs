//! One connection to a server.

use std::time::Duration;

use rustls::pki_types::CertificateDer;
use tokio::sync::Mutex;
use tokio::time::timeout;

use super::answer::Incoming;
use super::error::{ClientError, connection_error, said_no};
use super::tls::verify;
use super::{CLOSE, Hello, UploadLimits, Welcome};
use crate::limits;
use crate::quic::Reason;
use crate::quic::streams::{StreamFault, read_end, read_frame, write_all};
use crate::quic::wire::{Frame, WireError};

/// One connection. Say [`hello`](Self::hello) first; the server takes nothing before it.
#[derive(Debug)]
pub struct Connection {
    quic: quinn::Connection,
    server_name: String,
    limits: std::sync::OnceLock<UploadLimits>,
    // The server serves one renewal at a time.
    renewing: Mutex<()>,
}

impl Connection {
    pub(super) fn new(quic: quinn::Connection, server_name: String) -> Self {
        Self {
            quic,
            server_name,
            limits: std::sync::OnceLock::new(),
            renewing: Mutex::new(()),
        }
    }

    pub(super) const fn quic(&self) -> &quinn::Connection {
        &self.quic
    }

    /// Introduces the agent. The answer tells the server's CA set; the client pins what it was
    /// made with.
    ///
    /// # Errors
    /// [`ClientError`]; [`ClientError::advice`] says what to do.
    ///
    /// # Security
    /// The CA set is told by whoever holds the key of the server's certificate, which is less than
    /// a CA: what is told must not be pinned for that reason alone. (N14)
    pub async fn hello(&self, hello: Hello) -> Result<Welcome, ClientError> {
        let frame = self.request(&Frame::Hello(hello)).await?;
        let Frame::Welcome(welcome) = frame else {
            return Err(said_no(frame));
        };
        let _ = self.limits.set(welcome.limits);
        Ok(welcome)
    }

    /// The certificate, in DER, whose key the server has shown to hold.
    pub fn server_certificate(&self) -> Option<Vec<u8>> {
        self.server_chain().first().map(|leaf| leaf.to_vec())
    }

    /// Whether the server would be trusted, by its name and now, if these CAs alone were pinned.
    pub fn is_trusted_under(&self, ca_set: &[Vec<u8>]) -> bool {
        verify(ca_set, &self.server_chain(), &self.server_name).is_ok()
    }

    fn server_chain(&self) -> Vec<CertificateDer<'static>> {
        self.quic
            .peer_identity()
            .and_then(|identity| identity.downcast::<Vec<CertificateDer<'static>>>().ok())
            .map_or_else(Vec::new, |chain| *chain)
    }

    /// Waits for the next challenge. Dropping what it returns without an answer declines it.
    ///
    /// # Errors
    /// [`ClientError`], when the connection ends; otherwise this waits for as long as it takes.
    pub async fn next_challenge(&self) -> Result<Incoming, ClientError> {
        let (send, mut receive) = self.quic.accept_bi().await.map_err(connection_error)?;
        let limit = Duration::from_millis(limits::ANSWER_MS_MAX);
        let frame = timeout(limit, read_frame(&mut receive))
            .await
            .map_err(|_| ClientError::Timeout)??;
        let Frame::Challenge(challenge) = frame else {
            return Err(said_no(frame));
        };
        let binding = crate::quic::binding(&self.quic, challenge.id).ok_or(ClientError::Lost)?;
        let most = self.limits.get().copied();
        Ok(Incoming::new(
            self.quic.clone(),
            challenge,
            binding,
            most,
            (send, receive),
        ))
    }

    /// The new certificate, and those above it, for this PKCS#10 request in DER.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn renew(&self, csr_der: Vec<u8>) -> Result<Vec<Vec<u8>>, ClientError> {
        let _alone = self.renewing.lock().await;
        match self.request(&Frame::Renew(csr_der)).await? {
            Frame::Renewed(chain) => Ok(chain),
            other => Err(said_no(other)),
        }
    }

    /// Resolves when the connection has ended, with the reason.
    pub async fn closed(&self) -> ClientError {
        connection_error(self.quic.closed().await)
    }

    /// Says that the agent is done. [`Client::finish`](super::Client::finish) waits until the
    /// server knows.
    pub fn close(&self) {
        self.quic.close(Reason::Done.code(), &[]);
    }

    /// Sends one frame on a stream of its own, and gives the one that answers.
    async fn request(&self, frame: &Frame) -> Result<Frame, ClientError> {
        let bytes = frame.encode()?;
        let exchange = async {
            let (mut send, mut receive) = self.quic.open_bi().await.map_err(connection_error)?;
            // A server that refuses may answer before it has read everything; what it says counts.
            let _ = write_all(&mut send, &bytes).await;
            read_last(&self.quic, &mut receive).await
        };
        let limit = Duration::from_millis(limits::ANSWER_MS_MAX);
        let answered = timeout(limit, exchange).await;
        answered.map_err(|_| ClientError::Timeout)?
    }
}

/// The one frame that is left on a stream.
///
/// A server that ends the connection may end the stream a moment before it: then the connection's
/// end says why.
pub(super) async fn read_last(
    connection: &quinn::Connection,
    stream: &mut quinn::RecvStream,
) -> Result<Frame, ClientError> {
    match read_frame(stream).await {
        Ok(frame) => {
            read_end(stream, frame.frame_type()).await?;
            Ok(frame)
        }
        Err(fault @ StreamFault::Wire(WireError::Truncated { found: 0, .. })) => {
            match timeout(CLOSE, connection.closed()).await {
                Ok(error) => Err(connection_error(error)),
                Err(_) => Err(fault.into()),
            }
        }
        Err(fault) => Err(fault.into()),
    }
}
