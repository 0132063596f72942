//! X04: bodies of requests that are refused for what they lack: a short one is taken off the
//! connection, so that its sender reads the refusal; no other one is waited for.

use std::io::{Read, Write};
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::http::Request;
use h2::client::SendRequest;
use rat_tests::http_client::read;
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;

use crate::world::{Served, World};

/// A route that only somebody who logged in may call.
const PATH: &str = "/api/v1/auth/tokens";
/// What is the most that is taken off.
const SHORT_BYTES: usize = 16 * 1024;
/// The server waits for twice as long for what a sender of this time still sends.
const SURELY_IN_TIME: Duration = Duration::from_millis(500);

fn head(length: usize) -> String {
    format!(
        "POST {PATH} HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\nexpect: 100-continue\r\n\r\n"
    )
}

/// The first line of whatever the server says next.
fn line(stream: &mut impl Read) -> String {
    let mut line = Vec::new();
    let mut byte = [0];
    while !line.ends_with(b"\r\n") && stream.read(&mut byte).unwrap_or(0) == 1 {
        line.push(byte[0]);
    }
    String::from_utf8(line).unwrap()
}

#[test]
fn x04_over_http_1_a_short_body_is_taken_before_the_refusal() {
    let world = World::new(Served::Accounts);
    for length in [1, 100, SHORT_BYTES] {
        let mut stream = world.client().tls();
        stream.write_all(head(length).as_bytes()).unwrap();
        // It wants the body.
        assert_eq!(line(&mut stream), "HTTP/1.1 100 Continue\r\n", "{length}");
        assert_eq!(line(&mut stream), "\r\n");
        stream.write_all(&vec![b'x'; length]).unwrap();
        let ending = "GET /nowhere HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
        let _ = stream.write_all(ending.as_bytes());
        let answer = read(&mut stream);
        assert_eq!(answer.status, 401, "{length}");
    }
}

#[test]
fn x04_over_http_1_a_longer_body_is_not_asked_for() {
    let world = World::new(Served::Accounts);
    for length in [SHORT_BYTES + 1, 1 << 30] {
        let mut stream = world.client().tls();
        stream.write_all(head(length).as_bytes()).unwrap();
        assert_eq!(
            line(&mut stream),
            "HTTP/1.1 401 Unauthorized\r\n",
            "{length}"
        );
    }
}

#[test]
fn x04_over_http_1_a_short_body_that_never_comes_is_waited_for_no_longer_than_the_limit() {
    let world = World::new(Served::Accounts);
    for sent in ["", "x"] {
        let mut stream = world.client().tls();
        stream.write_all(head(100).as_bytes()).unwrap();
        assert_eq!(line(&mut stream), "HTTP/1.1 100 Continue\r\n");
        assert_eq!(line(&mut stream), "\r\n");
        stream.write_all(sent.as_bytes()).unwrap();
        // The client's patience is a minute, and the time to answer a request half of one.
        assert_eq!(line(&mut stream), "HTTP/1.1 401 Unauthorized\r\n");
    }
}

/// A connection on which HTTP/2 was agreed on.
async fn http_2(world: &World) -> SendRequest<Bytes> {
    let mut roots = RootCertStore::empty();
    for certificate in world.ca_certificates() {
        roots.add(certificate.into()).unwrap();
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let address = world.address();
    let stream = TcpStream::connect(address).await.unwrap();
    let connecting = TlsConnector::from(Arc::new(config)).connect(address.ip().into(), stream);
    let (requests, connection) = h2::client::handshake(connecting.await.unwrap())
        .await
        .unwrap();
    tokio::spawn(connection);
    requests.ready().await.unwrap()
}

fn request(method: &str, length: Option<usize>) -> Request<()> {
    let request = Request::builder()
        .method(method)
        .uri(format!("https://127.0.0.1{PATH}"));
    let request = match length {
        Some(length) => request.header("content-length", length),
        None => request,
    };
    request.body(()).unwrap()
}

/// Whether the rest of a short body could still be sent when the server had looked at its request,
/// and the refusal came; `None` when this machine was too slow for the rest to be waited for.
async fn is_read_to_its_end(world: &World) -> Option<bool> {
    let mut requests = http_2(world).await;
    let began = Instant::now();
    let (refusal, mut body) = requests
        .send_request(request("POST", Some(100)), false)
        .unwrap();
    body.send_data(Bytes::from_static(b"x"), false).unwrap();
    // Others that came after it are answered: a refusal that does not wait was sent by now, and with
    // it that nobody reads the rest.
    for _ in 0..5 {
        requests = requests.ready().await.unwrap();
        let (answer, _) = requests.send_request(request("GET", None), true).unwrap();
        assert_eq!(answer.await.unwrap().status(), 401);
    }
    let is_sent = body.send_data(Bytes::from(vec![b'x'; 99]), true).is_ok();
    if began.elapsed() > SURELY_IN_TIME {
        return None;
    }
    let refusal = refusal.await.unwrap();
    assert_eq!(refusal.status(), 401);
    let mut text = Vec::new();
    let mut rest = refusal.into_body();
    while let Some(data) = rest.data().await {
        text.extend(data.unwrap());
    }
    let text: serde_json::Value = serde_json::from_slice(&text).unwrap();
    assert_eq!(text["code"], "UNAUTHORIZED");
    Some(is_sent)
}

#[test]
fn x04_over_http_2_a_short_body_is_taken_and_its_stream_not_reset() {
    let world = World::new(Served::Accounts);
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(is_read) = world.run(is_read_to_its_end(&world)) {
            assert!(is_read, "nobody read the rest");
            return;
        }
        assert!(Instant::now() < deadline, "the machine is too slow");
    }
}

#[test]
fn x04_over_http_2_a_body_that_never_comes_is_waited_for_no_longer_than_the_limit() {
    let world = World::new(Served::Accounts);
    world.run(async {
        for length in [100, SHORT_BYTES + 1] {
            let mut requests = http_2(&world).await;
            let request = request("POST", Some(length));
            let (refusal, _body) = requests.send_request(request, false).unwrap();
            // The time to answer a request is half a minute.
            let refusal = timeout(Duration::from_secs(20), refusal).await;
            assert_eq!(refusal.unwrap().unwrap().status(), 401);
        }
    });
}
