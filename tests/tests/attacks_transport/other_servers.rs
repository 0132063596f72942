//! Servers that agents of ours may meet: newer ones, broken ones, and ones that lie.

use std::net::Ipv4Addr;
use std::sync::Arc;

use quinn::crypto::rustls::QuicServerConfig;
use quinn::{Endpoint, ServerConfig};
use rat_transport::quic::client::{Client, ClientError, ClientOptions};
use rat_transport::quic::wire::{Frame, Refused, Versions, WireError};
use rat_transport::quic::{ALPN, Advice, Reason};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use super::certificates::{Authority, SERVER_NAME};
use super::world::hello;

/// What such a server does with a Hello.
#[derive(Clone)]
enum Does {
    /// Answers with these bytes.
    Answers(Vec<u8>),
    /// Closes the connection with this code and these bytes.
    Closes(u32, Vec<u8>),
}

/// What an agent of ours says of a server that does this.
async fn met(does: Does, alpn: &[u8]) -> ClientError {
    let authority = Authority::new("another authority");
    let tls = authority.server(&[&authority]);
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let chain = tls.certificate_chain.into_iter().map(CertificateDer::from);
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(tls.key_pkcs8));
    let mut crypto = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain.collect(), key)
        .unwrap();
    crypto.alpn_protocols = vec![alpn.to_vec()];
    let crypto = QuicServerConfig::try_from(Arc::new(crypto)).unwrap();
    let config = ServerConfig::with_crypto(Arc::new(crypto));
    let endpoint = Endpoint::server(config, (Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let address = endpoint.local_addr().unwrap();
    let serving = tokio::spawn(async move {
        let incoming = endpoint.accept().await.unwrap();
        let Ok(connection) = incoming.await else {
            return;
        };
        let (mut send, mut receive) = connection.accept_bi().await.unwrap();
        receive.read_to_end(1 << 17).await.unwrap();
        match does {
            Does::Answers(bytes) => {
                send.write_all(&bytes).await.unwrap();
                send.finish().unwrap();
                connection.closed().await;
            }
            Does::Closes(code, bytes) => connection.close(code.into(), &bytes),
        }
        endpoint.wait_idle().await;
    });
    let identity = authority.agent("meets");
    let client = Client::new(ClientOptions {
        keep_alive_ms: 20_000,
        probe_mtu: true,
        ca_set: vec![authority.der()],
        certificate_chain: identity.chain,
        key_pkcs8: identity.key,
    })
    .unwrap();
    let error = match client.connect(address, SERVER_NAME).await {
        Ok(connection) => {
            let error = connection.hello(hello("meets")).await.unwrap_err();
            connection.close();
            error
        }
        Err(error) => error,
    };
    client.finish().await;
    serving.await.unwrap();
    error
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_of_other_versions_is_understood_and_stops_the_agent() {
    let mut list = Frame::Versions(Versions::SPOKEN).encode().unwrap();
    // The preamble's versions and the body's.
    for at in [4, 12] {
        list[at..at + 2].copy_from_slice(&[3, 4]);
    }
    for does in [
        Does::Answers(list.clone()),
        Does::Closes(Reason::Version.number(), list),
    ] {
        let error = met(does, ALPN).await;
        let ClientError::Versions { server } = error else {
            panic!("{error:?}")
        };
        assert_eq!(server, Versions { min: 3, max: 4 });
        assert_eq!(error.advice(), Advice::Stop);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reasons_that_this_version_does_not_know_are_kept_and_waited_out() {
    let refused = Frame::Refused(Refused {
        reason: Reason::Unknown(4711),
        retry_after_ms: 99,
    });
    let bytes = refused.encode().unwrap();
    for (does, after_ms) in [
        (Does::Answers(bytes.clone()), 99),
        (Does::Closes(4711, bytes), 99),
        (Does::Closes(4711, b"in words".to_vec()), 0),
    ] {
        let error = met(does, ALPN).await;
        let ClientError::Refused { reason, .. } = error else {
            panic!("{error:?}")
        };
        assert_eq!(reason, Reason::Unknown(4711));
        assert_eq!(error.advice(), Advice::BackOff { after_ms });
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_are_none_are_named() {
    let unexpected = Frame::Renewed(vec![vec![1]]).encode().unwrap();
    let error = met(Does::Answers(unexpected.clone()), ALPN).await;
    assert!(
        matches!(error, ClientError::Wire(WireError::Unexpected { .. })),
        "{error:?}"
    );
    let error = met(Does::Answers(b"HTTP/1.1 200 OK\r\n".to_vec()), ALPN).await;
    assert!(
        matches!(error, ClientError::Wire(WireError::Magic { .. })),
        "{error:?}"
    );
    let more = [unexpected.clone(), vec![0]].concat();
    let error = met(Does::Answers(more), ALPN).await;
    assert!(
        matches!(error, ClientError::Wire(WireError::Trailing { .. })),
        "{error:?}"
    );
    let error = met(Does::Answers(unexpected[..20].to_vec()), ALPN).await;
    assert!(
        matches!(error, ClientError::Wire(WireError::Truncated { .. })),
        "{error:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_of_another_protocol_is_not_spoken_to() {
    let error = met(Does::Closes(0, Vec::new()), b"h3").await;
    assert!(matches!(error, ClientError::Handshake { .. }), "{error:?}");
}
