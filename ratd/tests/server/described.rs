//! The OpenAPI document: it is what the server does, and it is shown safely.

use std::collections::BTreeSet;
use std::process::{Command, Stdio};
use std::sync::Arc;

use rat_api::auth::Gate;
use rat_api::docs::{self, text};
use rat_api::openapi::document;
use rat_api::surface::{Route, Shared};
use rat_api::{core, exposition, health, people};
use rat_store::Store;
use rat_tests::workspace_root;
use serde_json::Value;

use crate::operating::Operated;

/// Every route that the program serves, as the code declares it.
pub(crate) fn routes() -> Vec<Route> {
    let folder = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let store = runtime.block_on(Store::open(folder.path())).unwrap();
    let shared = Shared::new(Gate::new(store), 50);
    [
        core::surface(Arc::clone(&shared)).routes().to_vec(),
        people::surface(Arc::clone(&shared)).routes().to_vec(),
        health::surface(Arc::clone(&shared)).routes().to_vec(),
        exposition::surface(Arc::clone(&shared)).routes().to_vec(),
        docs::surface(shared).routes().to_vec(),
    ]
    .concat()
}

#[test]
fn the_document_in_the_repository_is_the_servers() {
    let path = workspace_root().join("docs/openapi.json");
    let made = text(&document(&routes()));
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, &made).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap();
    assert!(
        kept == made,
        "docs/openapi.json is not what the code describes: run with UPDATE_DOCS=1"
    );
    let server = Operated::start(&[]);
    let served = server.client.get("/openapi.json", None);
    assert_eq!(String::from_utf8(served.body).unwrap(), made);
}

#[test]
fn a01_every_route_is_described_with_what_it_demands() {
    let document = serde_json::to_value(document(&routes())).unwrap();
    let mut described = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let security = operation["security"].to_string();
            described.insert((method.to_uppercase(), path.clone(), security));
        }
    }
    let routes = routes();
    // What is another spelling of a path is described with that.
    let declared = routes.iter().filter(|route| route.alias_of.is_none());
    let declared: BTreeSet<_> = declared
        .map(|route| {
            use rat_api::auth::Permission;
            let security = match route.permission {
                Permission::Operator(action) => format!("[{{\"operator\":[\"{action}\"]}}]"),
                Permission::LoopbackOrOperator(action) => {
                    format!("[{{}},{{\"operator\":[\"{action}\"]}}]")
                }
                Permission::Session | Permission::AnySession => "[{\"session\":[]}]".to_owned(),
                _ => "[]".to_owned(),
            };
            (route.method.to_string(), route.path.to_owned(), security)
        })
        .collect();
    assert_eq!(described, declared);
    let ids: Vec<&Value> = document["paths"]
        .as_object()
        .unwrap()
        .values()
        .flat_map(|item| item.as_object().unwrap().values())
        .map(|operation| &operation["operationId"])
        .collect();
    let distinct: BTreeSet<&str> = ids.iter().map(|id| id.as_str().unwrap()).collect();
    assert_eq!(distinct.len(), ids.len(), "{ids:?}");
}

#[test]
fn a04_the_page_runs_nothing_and_is_framed_by_nobody() {
    let server = Operated::start(&[]);
    let page = server.client.get("/docs", None);
    assert_eq!(page.status, 200);
    let policy = page.header("content-security-policy").unwrap().to_owned();
    for rule in [
        "default-src 'none'",
        "frame-ancestors 'none'",
        "base-uri 'none'",
    ] {
        assert!(policy.contains(rule), "{policy}");
    }
    assert!(
        !policy.contains("unsafe") && !policy.contains("script-src"),
        "{policy}"
    );
    assert_eq!(page.header("x-content-type-options"), Some("nosniff"));
    let html = String::from_utf8(page.body).unwrap();
    assert!(html.contains("/policies/{policy_id}/activate"));
    assert!(html.contains("policies:activate"));
    for foreign in ["<script", "http://", "https://", " style=", " onclick="] {
        assert!(!html.contains(foreign), "{foreign}");
    }
    let style = server.client.get("/docs/style.css", None);
    assert_eq!(
        style.header("content-type"),
        Some("text/css; charset=utf-8")
    );
    for path in ["/docs/../admin-password", "/docs/page.rs", "/docs/"] {
        assert_eq!(server.client.get(path, None).status, 404, "{path}");
    }
}

/// Of schemathesis' checks those that hold for what is generated from schemas alone. What these
/// cannot say (hexadecimal digits, ids of what exists, policies) is refused though it fits.
const CHECKS: &str = "not_a_server_error,status_code_conformance,content_type_conformance,\
                      response_schema_conformance,response_headers_conformance,\
                      negative_data_rejection,unsupported_method,missing_required_header";

/// Routes whose credential stands in the body. Made-up ones make an address wait, and then nothing
/// of it is looked at.
const WITH_TOKENS: [&str; 3] = [
    "/agents/enroll",
    "/agents/enroll-baseline",
    "/tokens/validate",
];

/// Generates requests from the document, and holds what comes back against it.
fn schemathesis(server: &Operated, chosen: &str) {
    let python = rat_tests::python::with_packages("tests/python/schemathesis.txt");
    let mut command = Command::new(python.join("bin/schemathesis"));
    command
        .current_dir(server.home.path(""))
        .arg("--config-file")
        .arg(workspace_root().join("tests/python/schemathesis.toml"))
        .arg("run")
        .arg(workspace_root().join("docs/openapi.json"))
        .args(["--url", &format!("https://{}", server.ratd.core)])
        .args([
            "--header",
            &format!("authorization: Bearer {}", server.admin),
        ])
        .args(["--phases", "examples,coverage,fuzzing", "--checks", CHECKS])
        .args([
            "--seed",
            "1",
            "--max-examples",
            "20",
            "--generation-database",
            "none",
        ])
        .args(["--continue-on-failure", "--no-color", "--workers", "1"])
        .arg("--tls-verify")
        .arg(server.home.data().join("ca/ca.pem"));
    for path in WITH_TOKENS {
        command.args([chosen, path]);
    }
    let output = command.stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}{error}");
}

#[test]
fn x01_requests_made_from_the_document_find_no_answer_that_it_does_not_have() {
    let server = Operated::start(&["core.requests_per_address_per_second=100000"]);
    server.group("web");
    let content = crate::operating::policy(&[("/usr/bin/a", 'a')]);
    server.policy("web", "n", &content);
    schemathesis(&server, "--exclude-path");
    // It was let in to the end.
    server.expect("GET", "/agents/", None, 200);
    schemathesis(&server, "--include-path");
    // Somebody else is not held back by that.
    let elsewhere = server.client.at([127, 0, 0, 2].into());
    let listed = elsewhere.get("/agents/", Some(&server.admin));
    assert_eq!(listed.status, 200);
}
