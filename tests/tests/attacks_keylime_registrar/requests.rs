//! X01, X07 and the versions: requests as they should not be, and where each route is.

use std::net::IpAddr;

use rat_store::limits::KEYLIME_PENDING_PER_ADDRESS_MAX;
use rat_tests::registrar::{Agent, Served, Settings};
use serde_json::{Value, json};

use super::{assert_empty, assert_invalid, told};

const JSON: &str = "content-type: application/json";

#[test]
fn versions_2_and_3_have_the_routes_that_keylime_documents() {
    let served = Served::start(Settings::open(), &[]);
    for version in [
        "v2.0", "v2.1", "v2.2", "v2.3", "v2.4", "v2.5", "v2.6", "v2", "2.6", "2",
    ] {
        let agent = Agent::new("a");
        let path = format!("/{version}/agents/a");
        for (method, activate) in [
            ("PUT", path.clone()),
            ("PUT", format!("{path}/activate")),
            ("POST", format!("{path}/activate/")),
        ] {
            let answer = served.json("POST", &path, &agent.body()).json();
            let tag = agent.answer(&answer);
            assert_eq!(
                served.json(method, &activate, &tag).status,
                200,
                "{method} {activate}"
            );
        }
        assert_eq!(served.ask("GET", &format!("{path}/")).status, 200);
        assert_eq!(
            served.ask("GET", &format!("/{version}/agents/")).status,
            200
        );
        assert_eq!(served.ask("DELETE", &path).status, 200);
        assert_empty(&served.plain("GET", &format!("/{version}/"), &[], b""), 404);
    }
    for version in ["v3.0", "v3", "3.0"] {
        let agent = Agent::new("a");
        let mut body = agent.body();
        body["agent_id"] = "a".into();
        let agents = format!("/{version}/agents/");
        let answer = served.json("POST", &agents, &body).json();
        assert_eq!(answer["code"], 200);
        let path = format!("/{version}/agents/a");
        let tag = agent.answer(&answer);
        assert_empty(&served.json("PUT", &path, &tag), 405);
        assert_empty(&served.json("PUT", &format!("{path}/activate"), &tag), 405);
        assert_empty(&served.json("POST", &path, &body), 405);
        assert_eq!(
            served
                .json("POST", &format!("{path}/activate"), &tag)
                .status,
            200
        );
        assert_eq!(
            served.ask("GET", &agents).json()["results"],
            json!({"uuids": ["a"]})
        );
        assert_eq!(served.ask("GET", &path).json()["results"]["agent_id"], "a");
        assert_eq!(served.ask("DELETE", &path).status, 200);
        let root = served.plain("GET", &format!("/{version}/"), &[], b"");
        assert_eq!(told(&root), (200, "Success".to_owned()));
    }
    for version in ["v1.0", "v2.7", "v2.9", "v3.1", "v4", "agents", "v2.x"] {
        assert_empty(&served.ask("GET", &format!("/{version}/agents")), 404);
        let path = format!("/{version}/agents/a");
        assert_empty(&served.json("POST", &path, &Agent::new("a").body()), 404);
        assert_empty(&served.json("PUT", &path, &json!({"auth_tag": "0"})), 404);
        assert_empty(&served.plain("GET", &format!("/{version}/"), &[], b""), 404);
    }
}

#[test]
fn unknown_paths_and_methods_have_no_body() {
    let served = Served::start(Settings::open(), &[]);
    for (method, path, status) in [
        ("GET", "/nosuch/of/all", 404),
        ("GET", "/nosuch", 404),
        ("GET", "/", 404),
        ("POST", "/version", 405),
        ("PATCH", "/v2.6/agents/a", 405),
        ("DELETE", "/v2.6/agents", 405),
        ("GET", "/v2.6/agents/a/activate", 405),
        ("BREW", "/v2.6/agents/a", 501),
    ] {
        assert_empty(&served.plain(method, path, &[], b""), status);
        assert_empty(
            &served.admin().request_of_own(method, path, &[], b""),
            status,
        );
    }
    let answer = served.plain("GET", "/version", &["x-request-id: abc-1"], b"");
    assert_eq!(answer.header("x-request-id"), Some("abc-1"));
    assert_eq!(answer.json()["results"]["current_version"], "2.6");
    let answer = served.plain("GET", "/version/", &["x-request-id: <script>"], b"");
    assert_ne!(answer.header("x-request-id"), Some("<script>"));
}

#[test]
fn the_path_beats_the_body_and_the_body_the_query() {
    let served = Served::start(Settings::open(), &[]);
    let agent = Agent::new("a");
    let mut body = agent.body();
    body["agent_id"] = "other".into();
    body["unknown"] = json!({"deep": [1, 2]});
    let answer = served.json("POST", "/v2.6/agents/a?agent_id=third&port=1", &body);
    assert_eq!(answer.status, 200);
    assert!(served.registration("other").is_none());
    let registration = served.registration("a").unwrap();
    assert_eq!(registration.details.port, Some(9002));
    body["agent_id"] = "b".into();
    let answer = served.json("POST", "/v2.6/agents?agent_id=third", &body);
    assert_eq!(answer.status, 200);
    assert!(served.registration("third").is_none());
    assert!(served.registration("b").is_some());
    // Without an id there is nothing to call.
    body.as_object_mut().unwrap().remove("agent_id");
    assert_empty(&served.json("POST", "/v2.6/agents", &body), 400);
}

#[test]
fn x01_bodies_that_are_none_change_nothing() {
    let served = Served::start(Settings::open(), &[]);
    let agent = Agent::new("a");
    served.register(&agent);
    let before = served.registration("a").unwrap();
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let twice = r#"{"ek_tpm": "x", "ek_tpm": "y"}"#;
    let nested = format!(r#"{{"a": {}1{}}}"#, "[".repeat(40), "]".repeat(40));
    for body in ["", "notjson", "{", twice, &nested, "\u{feff}{}"] {
        let answer = served.plain("POST", "/v2.6/agents/a", &[JSON], body.as_bytes());
        assert_empty(&answer, 400);
        let answer = served.plain("PUT", "/v2.6/agents/a", &[JSON], body.as_bytes());
        assert_empty(&answer, 400);
    }
    assert_empty(
        &served.plain("POST", "/v2.6/agents/a", &[JSON], &[0xff, 0xfe]),
        400,
    );
    // Too long, announced or not; encoded.
    let answer = served.plain("POST", "/v2.6/agents/a", &[JSON], deep.as_bytes());
    assert_eq!(answer.status, 413);
    let zipped = [JSON, "content-encoding: gzip"];
    assert_eq!(
        served.plain("POST", "/v2.6/agents/a", &zipped, b"x").status,
        415
    );
    // What says nothing: for a new agent that is too little, for a known one it asks again.
    for (kind, body) in [
        (JSON, "[1]"),
        ("content-type: text/plain", "x"),
        ("x: y", "{}"),
    ] {
        let answer = served.plain("POST", "/v2.6/agents/new", &[kind], body.as_bytes());
        assert_invalid(&answer);
        let answer = served.plain("PUT", "/v2.6/agents/a", &[kind], body.as_bytes());
        assert_empty(&answer, 400);
    }
    for tag in [json!(null), json!(1), json!(["a"]), json!("a".repeat(257))] {
        let body = json!({"auth_tag": tag});
        assert_empty(&served.json("PUT", "/v2.6/agents/a", &body), 400);
    }
    assert_eq!(served.registration("a").unwrap(), before);
    assert!(served.registration("new").is_none());
}

#[test]
fn x01_x07_members_that_are_none_are_refused_in_one_text() {
    let served = Served::start(Settings::open(), &[]);
    let agent = Agent::new("a");
    let pem = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let key = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
    for (member, value) in [
        ("ek_tpm", json!("x")),
        ("ek_tpm", json!(7)),
        ("ek_tpm", json!("AAAA")),
        ("ek_tpm", json!("")),
        ("aik_tpm", json!("A".repeat(4000))),
        ("aik_tpm", json!(null)),
        ("aik_tpm", json!("AAAA AAAA")),
        ("ekcert", json!("x")),
        ("ekcert", json!(pem)),
        ("ekcert", json!(key)),
        ("ekcert", json!("AAAA")),
        ("ekcert", json!(true)),
        ("mtls_cert", json!("enabled")),
        ("mtls_cert", json!(pem)),
        ("ip", json!("a b")),
        ("ip", json!("<script>")),
        ("ip", json!("a\nb")),
        ("ip", json!(["192.0.2.1"])),
        ("port", json!(65536)),
        ("port", json!("x")),
        ("port", json!(-1)),
        ("iak_tpm", json!("AAAA")),
        ("iak_cert", json!("AAAA")),
        ("iak_attest", json!("*")),
    ] {
        let mut body = agent.body();
        body[member] = value.clone();
        assert_invalid(&served.json("POST", &agent.path(), &body));
        assert!(served.registration("a").is_none(), "{member} {value}");
    }
    // What an agent leaves out, and says as null, is nothing.
    let mut body = agent.body();
    for member in ["ip", "port", "mtls_cert", "ekcert"] {
        body[member] = Value::Null;
    }
    assert_eq!(served.json("POST", &agent.path(), &body).status, 200);
    // A form is as good as JSON.
    let text = |member: &str| {
        let text = agent.body()[member].as_str().unwrap().to_owned();
        text.replace('+', "%2B")
            .replace('/', "%2F")
            .replace('=', "%3D")
    };
    let form = format!(
        "ek_tpm={}&aik_tpm={}&port=9005",
        text("ek_tpm"),
        text("aik_tpm")
    );
    let kind = "content-type: application/x-www-form-urlencoded";
    let answer = served.plain("POST", &agent.path(), &[kind], form.as_bytes());
    assert_eq!(answer.status, 200);
    assert_eq!(served.registration("a").unwrap().details.port, Some(9005));
}

#[test]
fn wrong_answers_are_repeated_only_as_far_as_they_are_plain() {
    let served = Served::start(Settings::open(), &[]);
    let agent = Agent::new("a");
    served.register(&agent);
    for tag in ["<script>", "a b", "00\n00", &"0".repeat(97)] {
        let answer = served.json("PUT", &agent.path(), &json!({"auth_tag": tag}));
        let (status, text) = told(&answer);
        assert_eq!(status, 400);
        assert!(
            text.starts_with("Auth tag '(not shown)' for agent 'a'"),
            "{text}"
        );
    }
}

#[test]
fn x04_addresses_have_a_share_of_what_is_not_proven_and_a_rate() {
    let served = Served::start(Settings::open(), &[]);
    let agent = Agent::new("x");
    let body = agent.body().to_string();
    let here = IpAddr::from([127, 0, 0, 1]);
    let register = |source, id: &str| {
        let path = format!("/v2.6/agents/{id}");
        served.plain_from(source, "POST", &path, &[JSON], body.as_bytes())
    };
    for number in 0..KEYLIME_PENDING_PER_ADDRESS_MAX {
        assert_eq!(register(here, &format!("a{number}")).status, 200);
    }
    let answer = register(here, "one-more");
    assert_eq!(answer.status, 429);
    assert!(answer.header("retry-after").is_some());
    assert_eq!(answer.json()["results"], json!({}));
    // Who is there can ask again, and others have room.
    assert_eq!(register(here, "a0").status, 200);
    assert_eq!(
        register(IpAddr::from([127, 0, 0, 2]), "elsewhere").status,
        200
    );
    // A registration that was proven takes none of it.
    assert_eq!(served.ask("DELETE", "/v2.6/agents/a1").status, 200);
    assert_eq!(register(here, "one-more").status, 200);

    let slow = Served::start(
        Settings {
            per_second: 1,
            ..Settings::open()
        },
        &[],
    );
    let statuses: Vec<u16> = (0..8)
        .map(|_| slow.plain("GET", "/version", &[], b"").status)
        .collect();
    assert!(statuses.contains(&429), "{statuses:?}");
    let elsewhere = IpAddr::from([127, 0, 0, 2]);
    assert_eq!(
        slow.plain_from(elsewhere, "GET", "/version", &[], b"")
            .status,
        200
    );
}
