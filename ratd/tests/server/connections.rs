//! X01, X05: clients that connect and do nothing, or too little.

use std::io::Write;
use std::net::TcpStream;
use std::time::Instant;

use rat_tests::http_client::read;
use serde_json::json;

use crate::process::{Home, drain, eventually, metric};

#[test]
fn x05_clients_that_never_finish_their_handshake_hold_up_nobody() {
    let home = Home::new();
    let ratd = home.start(&[]);
    let client = ratd.client();
    // Silent ones, and ones that send the beginning of a TLS record.
    let idle: Vec<TcpStream> = (0..60)
        .map(|number| {
            let mut stream = client.tcp();
            if number % 2 == 0 {
                stream.write_all(&[0x16, 3, 1]).unwrap();
            }
            stream
        })
        .collect();
    assert_eq!(client.get("/livez", None).status, 200);
    // Each is closed by the server's own time-out.
    for mut stream in idle {
        drain(&mut stream);
    }
    // It counts after it has closed.
    eventually("every handshake is counted", || {
        let text = String::from_utf8(client.get("/metrics", None).body).unwrap();
        let labels = ["listener=\"core\"", "result=\"timeout\""];
        metric(&text, "attest_tls_handshakes_total", &labels) == 60.0
    });
}

#[test]
fn x05_one_address_has_so_many_connections_and_no_more() {
    let home = Home::new();
    let ratd = home.start(&[]);
    let client = ratd.client();
    let held: Vec<TcpStream> = (0..140).map(|_| client.tcp()).collect();
    let closed = |stream: &TcpStream| {
        stream.set_nonblocking(true).unwrap();
        let at_end = matches!(stream.peek(&mut [0]), Ok(0));
        stream.set_nonblocking(false).unwrap();
        at_end
    };
    eventually("those above the limit are closed", || {
        held.iter().filter(|stream| closed(stream)).count() >= 12
    });
    drop(held);
    eventually("there is room again", || {
        client.try_get("/livez") == Some(200)
    });
    let text = String::from_utf8(client.get("/metrics", None).body).unwrap();
    let labels = ["limit=\"CONNECTIONS_PER_ADDRESS_MAX\""];
    assert!(metric(&text, "attest_limit_rejections_total", &labels) >= 12.0);
}

#[test]
fn x01_a_head_that_drips_in_is_cut_off() {
    let home = Home::new();
    let ratd = home.start(&[]);
    let client = ratd.client();
    let mut stream = client.tls();
    let started = Instant::now();
    stream.write_all(b"GET /livez HTTP/1.1\r\n").unwrap();
    // A byte now and then keeps it alive for nobody.
    while stream.write_all(b"x").is_ok() {
        std::thread::sleep(std::time::Duration::from_millis(500));
        assert!(started.elapsed().as_secs() < 60, "still listened to");
    }
    assert_eq!(client.get("/livez", None).status, 200);
}

#[test]
fn x01_a_body_that_never_comes_is_408() {
    let home = Home::new();
    let ratd = home.start(&[]);
    let client = ratd.client();
    let mut stream = client.tls();
    let head = "POST /tokens/validate HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{\"tok";
    stream.write_all(head.as_bytes()).unwrap();
    assert_eq!(read(&mut stream).status, 408);
}

#[test]
fn x04_slow_bodies_of_one_address_hold_up_nobody() {
    let home = Home::new();
    let ratd = home.start(&[]);
    let client = ratd.client();
    let begin = |path: &str, length: usize| {
        let mut stream = client.tls();
        let head = format!("POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n{{");
        stream.write_all(head.as_bytes()).unwrap();
        stream
    };
    let held: Vec<_> = (0..32).map(|_| begin("/tokens/validate", 100)).collect();
    eventually("an address has its share of bodies, and no more", || {
        client.post("/tokens/validate", &json!({})).status == 429
    });
    // Whoever sends no body needs no place for one.
    assert_eq!(client.get("/livez", None).status, 200);
    let text = String::from_utf8(client.get("/metrics", None).body).unwrap();
    let labels = ["limit=\"BODIES_PER_ADDRESS_MAX\""];
    assert!(metric(&text, "attest_limit_rejections_total", &labels) >= 1.0);
    drop(held);
    // And of the longest bodies an address has one.
    let slow = begin("/agents/enroll-baseline", 1 << 20);
    eventually("a second list is put off", || {
        client.post("/agents/enroll-baseline", &json!({})).status == 429
    });
    drop(slow);
    eventually("there is room again", || {
        client.post("/agents/enroll-baseline", &json!({})).status == 422
    });
}

#[test]
fn x01_plain_http_has_the_same_limits() {
    let home = Home::new();
    let ratd = home.start(&["core.plain_http=true"]);
    let mut stream = TcpStream::connect(ratd.core).unwrap();
    stream
        .write_all(b"GET /livez HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        .unwrap();
    assert_eq!(read(&mut stream).status, 200);
    let mut idle = TcpStream::connect(ratd.core).unwrap();
    idle.write_all(b"GET /livez HTTP/1.1\r\n").unwrap();
    drain(&mut idle);
}
