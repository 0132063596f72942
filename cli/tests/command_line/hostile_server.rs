//! A server that answers whatever a test wants, under a CA of its own.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use openssl::ssl::{SslAcceptor, SslMethod, SslStream};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

use crate::operator::Operator;

type Answers = dyn Fn(&Request) -> Reply + Send + Sync;

/// What it answers to a request.
pub(crate) struct Reply {
    status: u16,
    headers: Vec<String>,
    body: String,
}

impl Reply {
    pub(crate) fn ok(body: &str) -> Self {
        Self::of(200, body)
    }

    pub(crate) fn of(status: u16, body: &str) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: body.to_owned(),
        }
    }

    pub(crate) fn with(mut self, header: &str) -> Self {
        self.headers.push(header.to_owned());
        self
    }
}

/// What it was asked.
pub(crate) struct Request {
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Request {
    /// The method and the target.
    pub(crate) fn line(&self) -> (&str, &str) {
        let mut words = self.head.split(' ');
        (words.next().unwrap(), words.next().unwrap())
    }
}

/// The server.
pub(crate) struct HostileServer {
    pub(crate) url: String,
    pub(crate) fingerprint: String,
    /// All requests so far.
    pub(crate) requests: Arc<Mutex<Vec<Request>>>,
}

impl HostileServer {
    /// A server that answers `/health` as any would, and other targets like this.
    pub(crate) fn start(answers: impl Fn(&str) -> Reply + Send + Sync + 'static) -> Self {
        Self::answering(move |request| match request.line().1 {
            "/health" => Reply::ok(r#"{"status":"ok","version":"0.1.0","uptime":5,"new":[1]}"#),
            target => answers(target),
        })
    }

    /// A server that answers requests like this. It ends with the test.
    pub(crate) fn answering(answers: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let leaf = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        let leaf = leaf.signed_by(&key, &*ca).unwrap();
        let mut acceptor = SslAcceptor::mozilla_modern_v5(SslMethod::tls()).unwrap();
        let x509 = |pem: String| openssl::x509::X509::from_pem(pem.as_bytes()).unwrap();
        let key = openssl::pkey::PKey::private_key_from_pem(key.serialize_pem().as_bytes());
        acceptor.set_private_key(&key.unwrap()).unwrap();
        acceptor.set_certificate(&x509(leaf.pem())).unwrap();
        acceptor.add_extra_chain_cert(x509(ca.pem())).unwrap();
        let acceptor = acceptor.build();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let heard = Arc::clone(&requests);
        let answers: Arc<Answers> = Arc::new(answers);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                // A client that turns away in the handshake has sent no request.
                if let Ok(stream) = acceptor.accept(stream.unwrap()) {
                    serve(stream, &heard, &*answers);
                }
            }
        });
        Self {
            url,
            fingerprint: hex::encode(openssl::sha::sha256(ca.der())),
            requests,
        }
    }

    /// An operator who is connected to it, with a token.
    pub(crate) fn operator(&self) -> Operator {
        let token = format!("rat_{}", "5".repeat(80));
        let operator = Operator::new().with("RAT_TOKEN", &token);
        operator.ok(&["connect", &self.url, "--ca-sha256", &self.fingerprint]);
        self.requests.lock().unwrap().clear();
        operator
    }

    /// The first lines of all requests so far.
    pub(crate) fn asked(&self) -> Vec<String> {
        let requests = self.requests.lock().unwrap();
        let first = |request: &Request| request.head.lines().next().unwrap().to_owned();
        requests.iter().map(first).collect()
    }
}

fn serve(mut stream: SslStream<TcpStream>, heard: &Mutex<Vec<Request>>, answers: &Answers) {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte) {
            Ok(1) => head.extend(byte),
            _ => return,
        }
    }
    let head = String::from_utf8(head).unwrap();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "));
    let length = length.map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body).unwrap();
    let request = Request { head, body };
    let reply = answers(&request);
    heard.lock().unwrap().push(request);
    let mut text = format!(
        "HTTP/1.1 {} x\r\ncontent-type: application/json\r\ncontent-length: {}\r\n",
        reply.status,
        reply.body.len()
    );
    for header in &reply.headers {
        text.push_str(&format!("{header}\r\n"));
    }
    // A client that has seen enough closes.
    let _ = write!(stream, "{text}\r\n{}", reply.body);
    let _ = stream.shutdown();
}
