//! The page for users of Keylime names a test for each endpoint: they exist.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::as_conversions,
    clippy::arithmetic_side_effects
)]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use rat_tests::workspace_root;

/// The names of all tests below a folder.
fn tests_below(folder: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            tests_below(&path, found);
        } else if path.extension().is_some_and(|it| it == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            let lines: Vec<&str> = text.lines().collect();
            for (at, line) in lines.iter().enumerate() {
                let name = line.trim_start().trim_start_matches("async ");
                let Some(name) = name.strip_prefix("fn ") else {
                    continue;
                };
                let above = lines[..at].iter().rev();
                let mut above = above.take_while(|it| it.trim_start().starts_with("#["));
                if above.any(|it| it.contains("#[test]") || it.contains("#[tokio::test")) {
                    found.insert(name.split('(').next().unwrap().to_owned());
                }
            }
        }
    }
}

/// Endpoints and the cell with their tests.
fn rows() -> Vec<(String, String)> {
    let page = fs::read_to_string(workspace_root().join("docs/keylime.md")).unwrap();
    let (_, rest) = page.split_once("## Endpoints and their tests\n").unwrap();
    let (section, _) = rest.split_once("\n## ").unwrap();
    let rows = section.lines().filter_map(|line| {
        let (endpoint, tests) = line.strip_prefix("| `")?.split_once(" | ")?;
        Some((
            format!("`{endpoint}"),
            tests.trim_end_matches(" |").to_owned(),
        ))
    });
    rows.collect()
}

#[test]
fn each_endpoint_names_tests_that_exist() {
    let mut tests = BTreeSet::new();
    for folder in ["tests/tests", "ratd/tests"] {
        tests_below(&workspace_root().join(folder), &mut tests);
    }
    let rows = rows();
    assert!(rows.len() >= 38, "{} rows", rows.len());
    let mut faults = Vec::new();
    for (endpoint, cell) in &rows {
        let named: Vec<&str> = cell.split('`').skip(1).step_by(2).collect();
        if named.is_empty() && !cell.starts_with("missing") {
            faults.push(format!("{endpoint} has no test"));
        }
        let unknown = named.iter().filter(|name| !tests.contains(**name));
        faults.extend(unknown.map(|name| format!("{endpoint}: {name} is no test")));
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn each_endpoint_of_keylimes_is_on_the_page() {
    let rows = rows();
    let all: Vec<&str> = rows.iter().map(|(endpoint, _)| endpoint.as_str()).collect();
    let all = all.join("\n");
    for endpoint in [
        "/version",
        "/v2.x/",
        "/v2.x/agents",
        "/v2.x/agents/{id}",
        "/v2.x/agents/{id}/activate",
        "/v2.x/agents/{id}/reactivate",
        "/v2.x/agents/{id}/stop",
        "/v2.x/allowlists",
        "/v2.x/allowlists/{name}",
        "/v2.x/mbpolicies",
        "/v2.x/mbpolicies/{name}",
        "/v2.x/verify/identity",
        "/v2.x/verify/evidence",
        "/v3.0/",
        "/v3.0/sessions",
        "/v3.0/sessions/{id}",
        "/v3.0/agents/{id}/attestations",
        "/v3.0/agents/{id}/attestations/latest",
        "/v3.0/agents/{id}/attestations/{index}",
        "/v2.x/quotes/identity",
        "/v2.x/quotes/integrity",
        "/v2.x/keys/ukey",
        "/v2.x/keys/vkey",
        "/v2.x/keys/verify",
        "/v2.x/notifications/revocation",
    ] {
        assert!(all.contains(&format!(" {endpoint}`")), "{endpoint}");
    }
}
