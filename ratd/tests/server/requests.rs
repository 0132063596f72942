//! X01, X02, X07: bodies, heads and paths that are not what a client sends.

use std::io::Write;

use rat_tests::http_client::read;
use serde_json::json;

use crate::process::{Home, metric};

#[test]
fn x01_bodies_that_are_no_request_are_400_413_or_422() {
    let home = Home::new();
    let ratd = home.start(&[]);
    let client = ratd.client();
    let post = |body: &[u8]| client.request("POST", "/tokens/validate", &[], body);
    let deep = [vec![b'['; 2000], vec![b']'; 2000]].concat();
    let cases: [(&[u8], u16); 11] = [
        (b"{", 400),
        (b"{\"token\":\"a\",\"token\":\"b\"}", 400),
        (b"{\"token\":\"\xff\"}", 400),
        (b"\xef\xbb\xbf{\"token\":\"a\"}", 400),
        (b"{\"token\":\"a\"} x", 400),
        (&deep, 422),
        (b"[]", 422),
        (b"null", 422),
        (b"{\"token\":1}", 422),
        (b"{}", 422),
        (&vec![b' '; 5000], 413),
    ];
    for (body, status) in cases {
        let answer = post(body);
        let shown = String::from_utf8_lossy(&body[..body.len().min(40)]);
        assert_eq!(answer.status, status, "{shown}: {}", answer.detail());
        assert_eq!(answer.header("content-type"), Some("application/json"));
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
    }
    // An array of the same depth within an object is not read either.
    let nested = [&b"{\"token\":"[..], &deep, b"}"].concat();
    assert_eq!(post(&nested).status, 400);
    let text = String::from_utf8(client.get("/metrics", None).body).unwrap();
    let refused = metric(
        &text,
        "attest_limit_rejections_total",
        &["limit=\"TOKEN_BODY_BYTES_MAX\""],
    );
    assert_eq!(refused, 1.0);
}

#[test]
fn x01_a_body_announced_too_long_is_refused_before_it_is_sent() {
    let home = Home::new();
    let ratd = home.start(&[]);
    let client = ratd.client();
    for path in [
        "/tokens/validate",
        "/agents/enroll",
        "/agents/enroll-baseline",
    ] {
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 1073741824\r\n\r\n"
        );
        let answer = client.raw(head.as_bytes());
        assert_eq!(answer.status, 413, "{path}");
    }
    // Chunks that never say how many they are end at the limit too.
    let mut stream = client.tls();
    let head = "POST /tokens/validate HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes()).unwrap();
    let chunk = format!("400\r\n{}\r\n", "a".repeat(1024));
    for _ in 0..64 {
        if stream.write_all(chunk.as_bytes()).is_err() {
            break;
        }
    }
    assert_eq!(read(&mut stream).status, 413);
}

#[test]
fn a_list_up_to_its_limit_is_read() {
    let home = Home::new();
    let ratd = home.start(&[]);
    let client = ratd.client();
    // Of a machine that has run for long: what is wrong with this one is its token.
    let body = json!({"token": "none", "ima_log": "a".repeat(30 << 20)});
    let answer = client.post("/agents/enroll-baseline", &body);
    assert_eq!(answer.status, 401, "{}", answer.json());
}

#[test]
fn x02_nothing_is_decompressed() {
    let home = Home::new();
    let ratd = home.start(&[]);
    let client = ratd.client();
    for encoding in ["gzip", "br", "zstd", "deflate", "identity"] {
        let header = format!("content-encoding: {encoding}");
        let answer = client.request("POST", "/tokens/validate", &[&header], b"{}");
        assert_eq!(answer.status, 415, "{encoding}");
    }
}

#[test]
fn x01_heads_that_are_too_long_or_broken_end_the_connection() {
    let home = Home::new();
    let ratd = home.start(&[]);
    let client = ratd.client();
    let long = format!(
        "GET /livez HTTP/1.1\r\nhost: x\r\nx: {}\r\n\r\n",
        "a".repeat(70_000)
    );
    let many = format!(
        "GET /livez HTTP/1.1\r\nhost: x\r\n{}\r\n",
        "x: y\r\n".repeat(1000)
    );
    for request in [long.as_str(), &many, "\0\0\0\0\r\n\r\n", "GET\r\n\r\n"] {
        let answer = client.raw(request.as_bytes());
        assert!(matches!(answer.status, 0 | 400 | 431), "{}", answer.status);
    }
    // Two lengths, or a length and chunks: a proxy in front might read another request.
    let smuggled = [
        "POST /tokens/validate HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n{} ",
        "POST /tokens/validate HTTP/1.1\r\nhost: x\r\ncontent-length: x\r\n\r\n{}",
    ];
    for request in smuggled {
        assert!(matches!(client.raw(request.as_bytes()).status, 0 | 400));
    }
    assert_eq!(
        client.get("/livez", None).status,
        200,
        "others are not affected"
    );
}

#[test]
fn x07_unknown_paths_methods_and_ids_are_answered_without_repeating_them() {
    let home = Home::new();
    let ratd = home.start(&[]);
    let (client, admin) = (ratd.client(), ratd.admin());
    for path in [
        "/nowhere",
        "/agents/../admin-password",
        "/agents/%2e%2e/evidence",
        "/agents/%3Cscript%3E/evidence",
        "/agents/a%0ab/evidence",
        "/agents/%ff/evidence",
        "/agents/nobody/evidence",
    ] {
        let answer = client.get(path, Some(&admin));
        assert_eq!(answer.status, 404, "{path}");
        assert!(!answer.detail().contains("script"), "{path}");
    }
    assert_eq!(client.request("DELETE", "/agents/", &[], b"").status, 405);
    let body = json!({"activation_id": "0".repeat(32), "proof": "00"});
    for id in ["nobody", "%0a", "%ff"] {
        let answer = client.post(&format!("/agents/{id}/activate"), &body);
        assert_eq!(answer.status, 404, "{id}");
    }
    let text = String::from_utf8(client.get("/metrics", None).body).unwrap();
    for hostile in ["script", "nobody", "nowhere", "%"] {
        assert!(!text.contains(hostile), "{hostile} is in a label");
    }
}

#[test]
fn a06_no_path_leads_to_a_file() {
    let home = Home::new();
    let ratd = home.start(&[]);
    let (client, admin) = (ratd.client(), ratd.admin());
    let password = ratd.first_password();
    let key = std::fs::read_to_string(home.data().join("ca/ca.key")).unwrap();
    for below in [
        "../admin-password",
        "../ca/ca.key",
        "../../data/ca/ca.key",
        "%2e%2e/ca/ca.key",
        "..%2fca%2fca.key",
        "..%5cca%5cca.key",
        "%252e%252e/ca/ca.key",
        "..;/ca/ca.key",
        "style.css/../../ca/ca.key",
        "style.css%00.key",
        "./style.css",
        "/etc/passwd",
        "%2fetc%2fpasswd",
        "file:///etc/passwd",
    ] {
        for above in ["/docs/", "/openapi.json/", "/policies/", "/agents/", "/"] {
            let path = format!("{above}{below}");
            for token in [None, Some(admin.as_str())] {
                let answer = client.get(&path, token);
                let text = String::from_utf8_lossy(&answer.body);
                // Not even a refusal repeats what it was asked for.
                for hidden in [password.as_str(), key.trim(), "root:", "passwd", "ca.key"] {
                    assert!(!text.contains(hidden), "{path}: {text}");
                }
                let expected: &[u16] = match token {
                    None => &[401, 404],
                    Some(_) => &[404],
                };
                assert!(
                    expected.contains(&answer.status),
                    "{path}: {}",
                    answer.status
                );
            }
        }
    }
    // Nor does anything that is put in become a file's name.
    let groups = ["../evil", "/tmp/evil", "..", "a/b", "a\\b", "evil\u{0}"];
    for group in groups {
        let body = json!({ "policy_group_id": group });
        for path in ["/groups/", "/tokens/generate-baseline"] {
            let refused = client.send("POST", path, Some(&admin), Some(&body));
            assert_eq!(refused.status, 422, "{path} {group:?}");
        }
    }
    assert!(!home.path("evil").exists());
}
