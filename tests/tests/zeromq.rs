//! The ZeroMQ publisher, read by libzmq, and by peers that do otherwise.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::disallowed_types,
    reason = "a panic is how a test fails"
)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::time::Duration;

use rat_ops::limits::{ZEROMQ_FRAME_BYTES_MAX, ZEROMQ_SUBSCRIPTIONS_MAX};
use rat_ops::zeromq::{Publisher, wire};
use rat_tests::driven::PATIENCE;
use rat_tests::python;

/// What Keylime's `await_notifications` does: subscribes to everything, and reads texts.
const SUBSCRIBER: &str = r#"
import sys
import zmq
socket = zmq.Context().socket(zmq.SUB)
socket.connect(sys.argv[1])
socket.setsockopt(zmq.SUBSCRIBE, sys.argv[2].encode())
print("subscribed", flush=True)
while True:
    print(socket.recv_string(), flush=True)
"#;

const LOOPBACK: &str = "127.0.0.1:0";

struct Subscriber {
    child: std::process::Child,
    lines: BufReader<std::process::ChildStdout>,
}

impl Subscriber {
    fn start(address: SocketAddr, topic: &str) -> Self {
        let python = python::with_packages("tests/python/pyzmq.txt").join("bin/python");
        let url = format!("tcp://{address}");
        let mut child = Command::new(python)
            .args(["-c", SUBSCRIBER, &url, topic])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        let mut subscriber = Self { child, lines };
        assert_eq!(subscriber.line(), "subscribed");
        subscriber
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn until(what: impl Fn() -> bool) {
    let waiting = async {
        while !what() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn libzmq_reads_what_it_subscribed_to_in_order_and_whole() {
    let publisher = Publisher::bind(LOOPBACK.parse().unwrap()).await.unwrap();
    let address = publisher.local_addr();
    let starting = tokio::task::spawn_blocking(move || {
        let all = Subscriber::start(address, "");
        (all, Subscriber::start(address, "{\"b"))
    });
    let (mut all, mut some) = starting.await.unwrap();
    // Nobody says when a subscription arrived: what comes before it is not for the subscriber.
    let mut first = None;
    for number in 0.. {
        publisher.publish(&format!("{{\"b\": {number}}}"));
        tokio::time::sleep(Duration::from_millis(50)).await;
        if number == 40 {
            first = Some(number);
            break;
        }
    }
    assert!(first.is_some());
    let long = format!("{{\"a\": \"{}\"}}", "x".repeat(100_000));
    publisher.publish(&long);
    publisher.publish("{\"b\": \"last\"}");
    let reading = tokio::task::spawn_blocking(move || {
        let read = |subscriber: &mut Subscriber| {
            let mut lines = Vec::new();
            while lines.last().is_none_or(|line| line != "{\"b\": \"last\"}") {
                lines.push(subscriber.line());
            }
            lines
        };
        (read(&mut all), read(&mut some))
    });
    let (all, some) = tokio::time::timeout(PATIENCE, reading)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(all[all.len() - 2], long);
    assert!(
        some.iter().all(|line| line.starts_with("{\"b\"")),
        "{some:?}"
    );
    for lines in [&all, &some] {
        let numbers: Vec<i32> = lines
            .iter()
            .filter_map(|line| {
                line.strip_prefix("{\"b\": ")?
                    .strip_suffix('}')?
                    .parse()
                    .ok()
            })
            .collect();
        let last = *numbers.last().unwrap();
        assert_eq!(last, 40);
        let expected: Vec<i32> = (numbers[0]..=last).collect();
        assert_eq!(numbers, expected, "none is lost, none comes twice");
    }
}

/// A peer of our own: it has greeted and said that it is this kind of socket.
fn peer(address: SocketAddr, socket: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(&wire::greeting()).unwrap();
    let length = u32::try_from(socket.len()).unwrap().to_be_bytes();
    let body = [b"\x05READY\x0bSocket-Type", &length[..], socket].concat();
    let head = [4, u8::try_from(body.len()).unwrap()];
    stream.write_all(&[&head[..], &body].concat()).unwrap();
    let mut theirs = vec![0; wire::GREETING_BYTES + wire::ready().len()];
    stream.read_exact(&mut theirs).unwrap();
    assert_eq!(theirs[wire::GREETING_BYTES..], wire::ready());
    stream
}

/// Whether the other side has ended the connection.
fn is_over(stream: &mut TcpStream) -> bool {
    let mut rest = Vec::new();
    match stream.read_to_end(&mut rest) {
        Ok(_) => true,
        Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn x02_peers_that_are_no_subscribers_are_cut_off_and_others_served() {
    let publisher = Publisher::bind(LOOPBACK.parse().unwrap()).await.unwrap();
    let address = publisher.local_addr();
    let (mut good, ended) = tokio::task::spawn_blocking(move || {
        let mut ended = Vec::new();
        let mut http = TcpStream::connect(address).unwrap();
        http.set_read_timeout(Some(PATIENCE)).unwrap();
        http.write_all(&b"GET / HTTP/1.1\r\nhost: x\r\n\r\n".repeat(4))
            .unwrap();
        ended.push(is_over(&mut http));
        ended.push(is_over(&mut peer(address, b"REQ")));
        let long = u64::try_from(ZEROMQ_FRAME_BYTES_MAX + 1).unwrap();
        let mut longest = peer(address, b"SUB");
        longest
            .write_all(&[&[2][..], &long.to_be_bytes()].concat())
            .unwrap();
        ended.push(is_over(&mut longest));
        let mut many = peer(address, b"SUB");
        many.write_all(&b"\0\x02\x01a".repeat(ZEROMQ_SUBSCRIPTIONS_MAX + 1))
            .unwrap();
        ended.push(is_over(&mut many));
        let mut good = peer(address, b"SUB");
        good.write_all(b"\0\x01\x01").unwrap();
        (good, ended)
    })
    .await
    .unwrap();
    assert_eq!(ended, [true; 4]);
    until(|| publisher.subscribers() == 1).await;
    // Its subscription may be on its way still.
    let read = tokio::task::spawn_blocking(move || {
        let mut head = [0; 2];
        good.read_exact(&mut head).unwrap();
        head
    });
    let reading = async {
        while !read.is_finished() {
            publisher.publish("{}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, reading).await.unwrap();
    assert_eq!(read.await.unwrap(), [0, 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscriber_that_does_not_read_holds_up_nobody() {
    let publisher = Publisher::bind(LOOPBACK.parse().unwrap()).await.unwrap();
    let address = publisher.local_addr();
    let mut slow = tokio::task::spawn_blocking(move || peer(address, b"SUB"))
        .await
        .unwrap();
    slow.write_all(b"\0\x01\x01").unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    let body = "x".repeat(100_000);
    let begun = std::time::Instant::now();
    for _ in 0..1_000 {
        publisher.publish(&body);
    }
    assert!(
        begun.elapsed() < Duration::from_secs(10),
        "{:?}",
        begun.elapsed()
    );
    drop(publisher);
}
