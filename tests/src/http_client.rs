//! A client that writes exactly the bytes that a test wants, over TLS with one pinned CA. Answers
//! to whole requests are held against the OpenAPI document.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use openssl::pkey::{PKey, Private};
use openssl::ssl::{SslConnector, SslMethod, SslStream, SslVerifyMode};
use openssl::x509::X509;
use serde_json::Value;

use crate::described;

/// What a server answered.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status; 0 when the connection ended without an answer.
    pub status: u16,
    /// Header lines, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body, chunks joined.
    pub body: Vec<u8>,
}

impl Answer {
    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {:?}", String::from_utf8_lossy(&self.body)))
    }

    /// The text of an error.
    pub fn detail(&self) -> String {
        self.json()["detail"].as_str().unwrap().to_owned()
    }

    /// A header.
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str())
    }
}

/// A server's address and the CA that it must prove.
#[derive(Debug, Clone)]
pub struct Client {
    address: SocketAddr,
    source: Option<IpAddr>,
    connector: SslConnector,
}

/// Long enough for a busy machine; a server that does not answer at all ends the test.
const PATIENCE: Duration = Duration::from_secs(60);

impl Client {
    /// A client of this server, whose certificate must lead to the CA in this PEM file.
    pub fn new(address: SocketAddr, ca_pem: &Path) -> Self {
        Self::build(address, ca_pem, None)
    }

    /// The same, with a client certificate.
    pub fn with_certificate(
        address: SocketAddr,
        ca_pem: &Path,
        certificate: &X509,
        key: &PKey<Private>,
    ) -> Self {
        Self::build(address, ca_pem, Some((certificate, key)))
    }

    fn build(
        address: SocketAddr,
        ca_pem: &Path,
        identity: Option<(&X509, &PKey<Private>)>,
    ) -> Self {
        let mut builder = SslConnector::builder(SslMethod::tls_client()).unwrap();
        builder.set_ca_file(ca_pem).unwrap();
        builder.set_verify(SslVerifyMode::PEER);
        if let Some((certificate, key)) = identity {
            builder.set_certificate(certificate).unwrap();
            builder.set_private_key(key).unwrap();
        }
        Self {
            address,
            source: None,
            connector: builder.build(),
        }
    }

    /// The same client at another address of this machine, such as any of 127.0.0.0/8.
    #[must_use]
    pub fn at(&self, source: IpAddr) -> Self {
        Self {
            source: Some(source),
            ..self.clone()
        }
    }

    /// A TCP connection.
    pub fn tcp(&self) -> TcpStream {
        let stream = match self.source {
            None => TcpStream::connect(self.address).unwrap(),
            Some(source) => connect_from(source, self.address),
        };
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// A TLS connection, after its handshake.
    pub fn tls(&self) -> SslStream<TcpStream> {
        let name = self.address.ip().to_string();
        self.connector.connect(&name, self.tcp()).unwrap()
    }

    /// Sends these bytes and reads to the connection's end.
    pub fn raw(&self, request: &[u8]) -> Answer {
        let mut stream = self.tls();
        // A server that refuses early closes before everything is written.
        let _ = stream.write_all(request);
        read(&mut stream)
    }

    /// A request with a body and further header lines.
    #[track_caller]
    pub fn request(&self, method: &str, path: &str, headers: &[&str], body: &[u8]) -> Answer {
        let answer = self.request_of_own(method, path, headers, body);
        described::check(method, path, &answer);
        answer
    }

    /// The same to a server whose answers are the test's own: nothing describes them.
    pub fn request_of_own(
        &self,
        method: &str,
        path: &str,
        headers: &[&str],
        body: &[u8],
    ) -> Answer {
        let mut request =
            format!("{method} {path} HTTP/1.1\r\nhost: ratd\r\nconnection: close\r\n");
        for header in headers {
            request.push_str(header);
            request.push_str("\r\n");
        }
        if !body.is_empty() {
            request.push_str(&format!("content-length: {}\r\n", body.len()));
        }
        request.push_str("\r\n");
        self.raw(&[request.as_bytes(), body].concat())
    }

    /// A request as whoever has this token, with a body of JSON if there is one.
    #[track_caller]
    pub fn send(
        &self,
        method: &str,
        path: &str,
        token: Option<&str>,
        body: Option<&Value>,
    ) -> Answer {
        let authorization = token.map(|token| format!("authorization: Bearer {token}"));
        let mut headers: Vec<&str> = authorization.as_deref().into_iter().collect();
        if body.is_some() {
            headers.push("content-type: application/json");
        }
        let body = body.map(Value::to_string).unwrap_or_default();
        self.request(method, path, &headers, body.as_bytes())
    }

    /// A GET, as whoever has this token.
    #[track_caller]
    pub fn get(&self, path: &str, token: Option<&str>) -> Answer {
        let authorization = token.map(|token| format!("authorization: Bearer {token}"));
        let headers: Vec<&str> = authorization.as_deref().into_iter().collect();
        self.request("GET", path, &headers, b"")
    }

    /// The status of a GET; `None` when the server cannot be reached, or goes away before it
    /// answers.
    pub fn try_get(&self, path: &str) -> Option<u16> {
        let stream = TcpStream::connect(self.address).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        let name = self.address.ip().to_string();
        let mut stream = self.connector.connect(&name, stream).ok()?;
        let request = format!("GET {path} HTTP/1.1\r\nhost: ratd\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).ok()?;
        let status = read(&mut stream).status;
        (status != 0).then_some(status)
    }

    /// A POST of JSON.
    #[track_caller]
    pub fn post(&self, path: &str, body: &Value) -> Answer {
        self.send("POST", path, None, Some(body))
    }
}

fn connect_from(source: IpAddr, address: SocketAddr) -> TcpStream {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .unwrap();
    let connected = runtime.block_on(async {
        let socket = tokio::net::TcpSocket::new_v4()?;
        socket.bind(SocketAddr::new(source, 0))?;
        socket.connect(address).await?.into_std()
    });
    let stream = connected.unwrap();
    stream.set_nonblocking(false).unwrap();
    stream
}

/// The answer on a connection, to its end.
pub fn read(stream: &mut impl Read) -> Answer {
    let mut bytes = Vec::new();
    // A connection that is reset after the answer has answered all the same.
    let _ = stream.read_to_end(&mut bytes);
    parse(&bytes)
}

fn parse(bytes: &[u8]) -> Answer {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n");
    let Some(end) = end else {
        return Answer {
            status: 0,
            headers: Vec::new(),
            body: Vec::new(),
        };
    };
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.split(' ').nth(1));
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let chunked = headers
        .iter()
        .any(|(name, value)| name == "transfer-encoding" && value == "chunked");
    let rest = &bytes[end + 4..];
    Answer {
        status: status.and_then(|text| text.parse().ok()).unwrap_or(0),
        body: if chunked { join(rest) } else { rest.to_vec() },
        headers,
    }
}

fn join(mut rest: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    while let Some(end) = rest.windows(2).position(|window| window == b"\r\n") {
        let size = std::str::from_utf8(&rest[..end]).unwrap();
        let size = usize::from_str_radix(size, 16).unwrap();
        if size == 0 {
            break;
        }
        body.extend(&rest[end + 2..end + 2 + size]);
        rest = &rest[end + 2 + size + 2..];
    }
    body
}
