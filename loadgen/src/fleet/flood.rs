//! Agents that flood: evidence that nobody asked for, and evidence that does not end.
//!
//! The product's own client can do neither, so this is one that writes what it likes.

use std::sync::Arc;
use std::time::Duration;

use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Connection, ConnectionError, Endpoint, RecvStream};
use rat_agent::keys::{ClientKey, certificates};
use rat_agent::run::{Answering, RunError};
use rat_agent::state::Enrolled;
use rat_engine::evidence::{Challenge, ChallengeId, Nonce};
use rat_engine::pcr::PcrSet;
use rat_engine::tpm::PcrSelection;
use rat_transport::quic::client::{ClientError, EvidenceParts, ListSource};
use rat_transport::quic::wire::{Evidence, Frame, ListHead, PREAMBLE_BYTES, Preamble, Refused};
use rat_transport::quic::{ALPN, BINDING_LABEL, Reason};
use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::time::timeout;

use super::visitor::{Introduction, Visitor};
use crate::measured::BANK;
use crate::misdeeds::{Conduct, Told};

/// Pieces of evidence on one connection, unless the server ends it earlier.
const PIECES_MAX: u64 = 1_000;
/// How long the server may take for anything, after which the connection is given up.
const PATIENCE: Duration = Duration::from_secs(10);

/// One connection of an agent that floods. In turn it sends evidence unasked, and the answer to a
/// challenge again and again.
///
/// # Errors
/// Why the connection ended, or was not to be had.
pub(super) async fn run(visitor: &Visitor, told: &Told, turn: u64) -> Result<(), RunError> {
    let Introduction { hello, answering } = visitor.introduction().await?;
    let (_endpoint, connection) = connect(&visitor.enrolled).await?;
    let (mut send, mut receive) = connection.open_bi().await.map_err(ended)?;
    let hello = Frame::Hello(hello).encode().map_err(ClientError::from)?;
    let _ = send.write_all(&hello).await;
    let _ = send.finish();
    match read(&connection, &mut receive).await? {
        Frame::Welcome(_) => told.welcome(Conduct::Flooding),
        other => return Err(said(other).into()),
    }
    let flood = Flood {
        visitor,
        told,
        connection: &connection,
        answering: &answering,
    };
    let heard = match turn.is_multiple_of(2) {
        true => flood.unasked().await?,
        false => flood.repeated().await?,
    };
    // Whatever the server has to say to it, it should not be a verdict.
    if let Some(mut stream) = heard
        && let Ok(Frame::Verdict(_, answer)) = read(&connection, &mut stream).await
    {
        told.verdict(Conduct::Flooding, &answer, false);
    }
    match timeout(PATIENCE, connection.closed()).await {
        Ok(error) => Err(ended(error).into()),
        Err(_) => Err(ClientError::Timeout.into()),
    }
}

/// One connection on which the agent is welcome.
struct Flood<'f> {
    visitor: &'f Visitor,
    told: &'f Told,
    connection: &'f Connection,
    answering: &'f Answering,
}

impl Flood<'_> {
    /// Sends evidence on streams that the server did not open. Gives the last one, to hear on it.
    async fn unasked(&self) -> Result<Option<RecvStream>, RunError> {
        let mut id = [0; 16];
        getrandom::fill(&mut id)?;
        let challenge = unasked(ChallengeId(id)).ok_or(ClientError::Lost)?;
        let made = self.visitor.evidence(challenge, [0; 32], self.answering);
        let evidence = bytes(challenge.id, None, made.await?.parts)?;
        let mut last = None;
        for _ in 0..PIECES_MAX {
            let sent = timeout(PATIENCE, send_unasked(self.connection, &evidence)).await;
            self.told.sent(Conduct::Flooding);
            match sent {
                Ok(Ok(stream)) => last = Some(stream),
                _ => break,
            }
        }
        Ok(last)
    }

    /// Sends the answer to a challenge again and again. Gives the challenge's stream.
    async fn repeated(&self) -> Result<Option<RecvStream>, RunError> {
        let stream = timeout(PATIENCE, self.connection.accept_bi()).await;
        let stream = stream.map_err(|_| ClientError::Timeout)?;
        let (mut send, mut receive) = stream.map_err(ended)?;
        let Frame::Challenge(challenge) = read(self.connection, &mut receive).await? else {
            return Err(ClientError::Lost.into());
        };
        let mut binding = [0; 32];
        let context = &challenge.id.0;
        let exported = self
            .connection
            .export_keying_material(&mut binding, BINDING_LABEL, context);
        exported.map_err(|_| ClientError::Lost)?;
        let made = self.visitor.evidence(challenge, binding, self.answering);
        let evidence = bytes(challenge.id, Some(binding), made.await?.parts)?;
        for _ in 0..PIECES_MAX {
            let sent = timeout(PATIENCE, send.write_all(&evidence)).await;
            self.told.sent(Conduct::Flooding);
            if !matches!(sent, Ok(Ok(()))) {
                break;
            }
        }
        Ok(Some(receive))
    }
}

/// A challenge that the server never made.
fn unasked(id: ChallengeId) -> Option<Challenge> {
    Some(Challenge {
        id,
        nonce: Nonce([0; 32]),
        selection: PcrSelection::new([(BANK, PcrSet::BOOT)])?,
        ima_from_entry: None,
        boot_log: false,
        deadline_ms: 0,
    })
}

async fn send_unasked(connection: &Connection, evidence: &[u8]) -> Result<RecvStream, ClientError> {
    let (mut send, receive) = connection.open_bi().await.map_err(ended)?;
    let written = send.write_all(evidence).await;
    written.map_err(|_| ClientError::Lost)?;
    send.finish().map_err(|_| ClientError::Lost)?;
    Ok(receive)
}

/// Evidence as it stands on a stream: the frame, then the logs.
fn bytes(
    challenge: ChallengeId,
    claimed_binding: Option<[u8; 32]>,
    parts: EvidenceParts,
) -> Result<Vec<u8>, ClientError> {
    let length = |log: &Vec<u8>| u64::try_from(log.len()).unwrap_or(u64::MAX);
    let frame = Frame::Evidence(Evidence {
        challenge,
        claimed_binding,
        quote: parts.quote,
        signature: parts.signature,
        pcr_values: parts.pcr_values,
        reset_count: parts.reset_count,
        restart_count: parts.restart_count,
        ima: parts.ima.as_ref().map(|list| ListHead {
            from_entry: list.from_entry,
            count: list.count,
            format: list.format,
            length: list.length,
        }),
        boot_log_bytes: parts.boot_log.as_ref().map(length),
    });
    let mut bytes = frame.encode()?;
    bytes.extend(parts.boot_log.into_iter().flatten());
    // Lists of machines in software are in memory.
    if let Some(ListSource::Bytes(list)) = parts.ima.map(|list| list.source) {
        bytes.extend(list);
    }
    Ok(bytes)
}

async fn connect(enrolled: &Enrolled) -> Result<(Endpoint, Connection), RunError> {
    let mut roots = RootCertStore::empty();
    for pem in &enrolled.ca_pem {
        roots.add_parsable_certificates(certificates(pem)?.into_iter().map(CertificateDer::from));
    }
    let chain = certificates(&enrolled.certificate_pem)?;
    let chain = chain.into_iter().map(CertificateDer::from).collect();
    let key = ClientKey::from_pem(&enrolled.key_pem)?.to_pkcs8_der()?;
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key));
    let unusable = |error| ClientError::Tls(rat_transport::quic::client::TlsError::from(error));
    let mut tls = rustls::ClientConfig::builder_with_protocol_versions(&[&rustls::version::TLS13])
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .map_err(unusable)?;
    tls.alpn_protocols = vec![ALPN.to_vec()];
    let tls = QuicClientConfig::try_from(Arc::new(tls)).map_err(|_| ClientError::Lost)?;
    let config = ClientConfig::new(Arc::new(tls));
    let mut last = ClientError::Unreachable;
    for address in &enrolled.evidence_addresses {
        let resolved = tokio::net::lookup_host(address.as_str()).await;
        let resolved = resolved.map_err(|source| RunError::Resolve {
            address: address.clone(),
            source,
        })?;
        for server in resolved {
            let any: std::net::IpAddr = match server {
                std::net::SocketAddr::V4(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
                std::net::SocketAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
            };
            let endpoint = Endpoint::client((any, 0).into()).map_err(ClientError::from)?;
            let name = &enrolled.evidence_server_name;
            let connecting = endpoint.connect_with(config.clone(), server, name);
            let connecting = connecting.map_err(ClientError::from)?;
            match timeout(PATIENCE, connecting).await {
                Ok(Ok(connection)) => return Ok((endpoint, connection)),
                Ok(Err(error)) => last = ended(error),
                Err(_) => last = ClientError::Unreachable,
            }
        }
    }
    Err(last.into())
}

/// The next frame, or why the connection ended instead.
async fn read(connection: &Connection, stream: &mut RecvStream) -> Result<Frame, ClientError> {
    let frame = async {
        let mut preamble = [0; PREAMBLE_BYTES];
        stream.read_exact(&mut preamble).await.ok()?;
        let preamble = Preamble::parse(&preamble).ok()?;
        let mut body = vec![0; preamble.body_bytes];
        stream.read_exact(&mut body).await.ok()?;
        Frame::decode_body(&preamble, &body).ok()
    };
    let frame = timeout(PATIENCE, frame).await;
    match frame.map_err(|_| ClientError::Timeout)? {
        Some(frame) => Ok(frame),
        None => match timeout(PATIENCE, connection.closed()).await {
            Ok(error) => Err(ended(error)),
            Err(_) => Err(ClientError::Timeout),
        },
    }
}

fn ended(error: ConnectionError) -> ClientError {
    match error {
        ConnectionError::ApplicationClosed(close) => match Frame::decode(&close.reason) {
            Ok(frame) => said(frame),
            Err(_) => ClientError::Refused {
                reason: u32::try_from(close.error_code.into_inner())
                    .map_or(Reason::Unknown(u32::MAX), Reason::from_number),
                retry_after_ms: 0,
            },
        },
        ConnectionError::ConnectionClosed(_) => ClientError::Full,
        _ => ClientError::Lost,
    }
}

fn said(frame: Frame) -> ClientError {
    match frame {
        Frame::Refused(Refused {
            reason,
            retry_after_ms,
        }) => ClientError::Refused {
            reason,
            retry_after_ms,
        },
        _ => ClientError::Lost,
    }
}
