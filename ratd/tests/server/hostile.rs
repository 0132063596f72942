//! X01, X07: bodies, paths and filters of operators' routes that are not what an operator sends.

use rat_api::auth::Permission;
use rat_api::surface::{BodyLimit, Route};
use serde_json::{Value, json};

use crate::described::routes;
use crate::operating::Operated;

/// Names that would do harm in a page, a log, a terminal, a path or a header.
const HOSTILE: [&str; 9] = [
    "a\nb",
    "a\r\nset-cookie: x=1",
    "\u{1b}[31mred",
    "..",
    "../../etc/passwd",
    "<script>alert(1)</script>",
    "'; DROP TABLE agent; --",
    "%",
    "\u{0}",
];

/// One address makes all of these requests.
const PATIENT: &str = "core.requests_per_address_per_second=10000";

fn encoded(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

/// A route's path with this text as each of its parameters.
fn filled(route: &Route, text: &str) -> String {
    let parts = route
        .path
        .split('/')
        .map(|part| match part.strip_prefix('{') {
            Some(_) => text.to_owned(),
            None => part.to_owned(),
        });
    parts.collect::<Vec<_>>().join("/")
}

/// No control character, no markup: what is repeated is repeated as text.
#[track_caller]
fn is_harmless(body: &[u8], headers: &[(String, String)], what: &str) {
    let text = String::from_utf8(body.to_vec()).unwrap();
    let detail: Value = serde_json::from_str(&text).unwrap_or_default();
    for shown in [&detail["detail"], &detail["error"]] {
        let shown = shown.as_str().unwrap_or_default();
        assert!(!shown.chars().any(char::is_control), "{what}: {shown:?}");
    }
    for raw in ["<script", "passwd", "DROP TABLE", "\u{1b}", "set-cookie"] {
        assert!(!text.contains(raw), "{what}: {text}");
    }
    assert!(
        headers.iter().all(|(name, _)| name != "set-cookie"),
        "{what}"
    );
}

#[test]
fn x07_hostile_names_in_any_path_or_filter_are_refused_without_being_repeated() {
    let server = Operated::start(&[PATIENT]);
    server.group("web");
    let changes = server.changes();
    for route in routes() {
        for name in HOSTILE {
            if route.path.contains('{') {
                let path = filled(&route, &encoded(name));
                let answer = server.send(route.method.as_str(), &path, Some(&json!({})));
                let what = format!("{} {path}: {}", route.method, answer.status);
                assert!((400..500).contains(&answer.status), "{what}");
                is_harmless(&answer.body, &answer.headers, &what);
            }
            if route.method == "GET" && !route.path.contains('{') {
                let query = format!("?{}={}", encoded(name), encoded(name));
                let answer = server.get(&format!("{}{query}", route.path));
                let what = format!("{}{query}: {}", route.path, answer.status);
                assert!(answer.status < 500, "{what}");
                is_harmless(
                    &answer.body[..answer.body.len().min(200)],
                    &answer.headers,
                    &what,
                );
            }
        }
    }
    for (path, parameters) in [
        (
            "/agents/",
            &["after", "group", "status", "hostname", "since", "limit"][..],
        ),
        ("/agents/pending", &["after", "limit"]),
        ("/policies/", &["group", "after", "limit"]),
        ("/tokens/", &["after", "limit"]),
        ("/groups/", &["after", "limit"]),
        ("/groups/web/ek", &["after", "limit"]),
        ("/audit", &["after", "limit", "order"]),
    ] {
        for (parameter, name) in parameters
            .iter()
            .flat_map(|it| HOSTILE.map(|name| (it, name)))
        {
            let path = format!("{path}?{parameter}={}", encoded(name));
            let answer = server.get(&path);
            assert!(
                matches!(answer.status, 200 | 422),
                "{path}: {}",
                answer.status
            );
            is_harmless(&answer.body, &answer.headers, &path);
        }
    }
    assert_eq!(server.changes(), changes);
    let log = server.ratd.log();
    assert!(
        !log.contains('\u{1b}') && !log.contains("\nset-cookie"),
        "{log}"
    );
}

#[test]
fn x07_hostile_texts_in_any_member_are_refused_or_shown_as_text() {
    let server = Operated::start(&[PATIENT]);
    server.group("web");
    for name in HOSTILE {
        for (path, body) in [
            ("/groups/", json!({"policy_group_id": name})),
            ("/groups/", json!({"policy_group_id": "x", name: 1})),
            (
                "/policies/",
                json!({"policy_group_id": name, "name": "n", "content": {}}),
            ),
            ("/tokens/generate", json!({"policy_group_id": name})),
            (
                "/tokens/generate-baseline",
                json!({"policy_group_id": name}),
            ),
            ("/agents/a/approve", json!({"ek_sha256": name})),
            ("/agents/a/move", json!({"policy_group_id": name})),
            ("/agents/a/clear", json!({name: name})),
            ("/policies/p-web-001/activate", json!({"slot": name})),
        ] {
            let answer = server.post(path, &body);
            assert_eq!(answer.status, 422, "{path}: {body}");
            is_harmless(&answer.body, &answer.headers, path);
        }
    }
    // What people may write freely comes back as JSON, on no page of ours.
    let name = "<script>alert(1)</script>";
    let body = json!({ "name": name });
    let answer = server.send("PUT", "/groups/web", Some(&body));
    assert_eq!(
        (answer.status, answer.json()["name"].as_str()),
        (200, Some(name))
    );
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
}

#[test]
fn x01_every_operators_route_refuses_what_is_no_request() {
    let server = Operated::start(&[PATIENT]);
    server.group("web");
    let content = crate::operating::policy(&[]);
    server.policy("web", "n", &content);
    let changes = server.changes();
    let authorization = format!("authorization: Bearer {}", server.admin);
    let deep = [vec![b'['; 2000], vec![b']'; 2000]].concat();
    let deep = [&b"{\"policy_group_id\":"[..], &deep, b"}"].concat();
    let cases: [(&[u8], u16); 8] = [
        (b"{", 400),
        (b"{\"a\":1,\"a\":2}", 400),
        (b"{\"name\":\"\xff\"}", 400),
        (b"\xef\xbb\xbf{}", 400),
        (b"{} {}", 400),
        (&deep, 400),
        (b"[]", 422),
        (b"{\"nobody_knows_this\":1}", 422),
    ];
    let mut tried = 0;
    for route in routes() {
        let BodyLimit::Bytes(_, max) = route.body else {
            continue;
        };
        if !matches!(route.permission, Permission::Operator(_)) {
            continue;
        }
        // Accounts' routes answer in a shape of their own, which has no 422.
        let is_of_accounts = route.path.starts_with(rat_api::people::PREFIX);
        let path = match route.path {
            path if path.contains("{agent_id}") => path.replace("{agent_id}", "nobody"),
            path if path.contains("{policy_id}") => path.replace("{policy_id}", "p-web-001"),
            path => path
                .replace("{group_id}", "web")
                .replace("{user_id}", "nobody"),
        };
        let (method, headers) = (route.method.as_str(), [authorization.as_str()]);
        // Nothing is asked of this one but that it is done.
        let takes_none = path.ends_with("sync-status");
        for (body, status) in cases.iter().filter(|_| !takes_none) {
            let answer = server.client.request(method, &path, &headers, body);
            let shown = String::from_utf8_lossy(&body[..body.len().min(40)]);
            let found = String::from_utf8_lossy(&answer.body);
            let status = if is_of_accounts { &400 } else { status };
            assert_eq!(answer.status, *status, "{method} {path} {shown}: {found}");
        }
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{authorization}\r\n\
             content-length: {}\r\n\r\n",
            max + 1
        );
        let answer = server.client.raw(head.as_bytes());
        assert_eq!(answer.status, 413, "{method} {path}");
        let code = if is_of_accounts {
            "BAD_REQUEST"
        } else {
            "request.too_long"
        };
        assert_eq!(answer.json()["code"], code);
        tried += 1;
    }
    assert!(tried >= 16, "{tried}");
    assert_eq!(server.changes(), changes);
}

#[test]
fn errors_have_a_text_and_a_stable_code() {
    let server = Operated::start(&[]);
    let code = |method: &str, path: &str, token: Option<&str>, body: Option<&Value>| {
        let body = server.client.send(method, path, token, body).json();
        assert_eq!(crate::operating::members(&body), ["code", "detail"]);
        body["code"].as_str().unwrap().to_owned()
    };
    let admin = Some(server.admin.as_str());
    assert_eq!(
        code("GET", "/agents/", None, None),
        "auth.not_authenticated"
    );
    assert_eq!(code("GET", "/nowhere", admin, None), "path.not_found");
    assert_eq!(code("PATCH", "/agents/", admin, None), "request.method");
    assert_eq!(code("GET", "/agents/a", admin, None), "agent.not_found");
    assert_eq!(code("GET", "/groups/a", admin, None), "group.not_found");
    assert_eq!(
        code("GET", "/policies/p-a-001", admin, None),
        "policy.not_found"
    );
    let unknown = json!({"policy_group_id": "a", "x": 1});
    let found = code("POST", "/groups/", admin, Some(&unknown));
    assert_eq!(found, "request.unknown_member");
    let found = code("GET", "/agents/?x=1", admin, None);
    assert_eq!(found, "request.unknown_parameter");
    assert_eq!(
        code("GET", "/agents/?limit=0", admin, None),
        "request.parameter"
    );
    assert_eq!(
        code("POST", "/groups/", admin, Some(&json!({}))),
        "request.member"
    );
    assert_eq!(
        code("POST", "/groups/", admin, Some(&json!([]))),
        "request.not_an_object"
    );
}
