//! Other spellings of routes: each answers as the canonical one does.

use rat_api::core::ALIASES;
use rat_api::surface::Route;
use serde_json::{Value, json};

use crate::described::routes;
use crate::machine::Machine;
use crate::operating::{Operated, members};

/// The spellings that the Core API's document names, and the two of each collection.
#[test]
fn every_spelling_that_is_documented_is_there() {
    let has = |method: &str, path: &str, alias_of: Option<&str>| {
        let is_it = |route: &&Route| route.method == method && route.path == path;
        let route = routes().into_iter().find(|route| is_it(&route));
        let route = route.unwrap_or_else(|| panic!("{method} {path}"));
        assert_eq!(route.alias_of, alias_of, "{method} {path}");
    };
    for (canonical, aliases) in [
        (
            "/agents/enroll-baseline",
            &["/agents/baseline", "/agents/establish-baseline"][..],
        ),
        (
            "/tokens/generate-baseline",
            &["/enrollment/generate-baseline"],
        ),
        (
            "/tokens/generate",
            &["/tokens/generate-standard", "/enrollment/generate"],
        ),
        ("/tokens/validate", &["/enrollment/validate"]),
    ] {
        has("POST", canonical, None);
        for alias in aliases {
            has("POST", alias, Some(canonical));
        }
    }
    for path in [
        "/agents/",
        "/agents/pending",
        "/audit",
        "/groups/",
        "/groups/{group_id}/ek",
        "/policies/",
        "/tokens/",
    ] {
        let other = match path.strip_suffix('/') {
            Some(bare) => bare.to_owned(),
            None => format!("{path}/"),
        };
        has("GET", path, None);
        has("GET", &other, Some(path));
    }
    let aliases = ALIASES.iter().map(|(_, aliases)| aliases.len()).sum();
    let declared = routes().iter().filter(|it| it.alias_of.is_some()).count();
    assert!(declared >= aliases, "{declared} of {aliases}");
}

#[test]
fn a_route_answers_in_every_spelling_as_in_its_own() {
    let server = Operated::start(&["core.requests_per_address_per_second=10000"]);
    server.group("web");
    for route in routes() {
        let Some(canonical) = route.alias_of else {
            continue;
        };
        let method = route.method.as_str();
        let [own, other] = [canonical, route.path].map(|path| path.replace("{group_id}", "web"));
        for body in [None, Some(json!({})), Some(json!({"nobody_knows": 1}))] {
            let answers = [&own, &other].map(|path| {
                let answer = server.send(method, path, body.as_ref());
                let headers = ["content-type", "cache-control", "etag", "link"]
                    .map(|name| answer.header(name).map(str::to_owned));
                (answer.status, headers, answer.body)
            });
            assert_eq!(answers[0], answers[1], "{method} {own} and {other}");
        }
        // And asks for the same permission.
        let refused = [&own, &other].map(|path| {
            let answer = server.client.send(method, path, None, None);
            (answer.status, answer.body)
        });
        assert_eq!(refused[0], refused[1], "{method} {own} and {other}");
    }
}

#[test]
fn a_machine_enrols_by_the_other_spellings_too() {
    let (golden, second) = (Machine::new("golden"), Machine::new("second"));
    let server = Operated::knowing(&[&golden, &second]);
    let issue = |path: &str, group: &str| {
        let body = json!({ "policy_group_id": group });
        let issued = server.expect("POST", path, Some(&body), 200);
        assert_eq!(members(&issued), ["command", "expires_at", "token"]);
        issued["token"].as_str().unwrap().to_owned()
    };
    let list = crate::enrolment::list();
    for (machine, path) in [
        (&golden, "/agents/baseline"),
        (&second, "/agents/establish-baseline"),
    ] {
        let group = format!("of-{}", machine.id);
        let token = issue("/enrollment/generate-baseline", &group);
        let body = json!({ "token": token });
        let config = server.client.post("/enrollment/validate", &body);
        assert_eq!(config.status, 200);
        let config: Value = config.json();
        assert_eq!(config["is_baseline"], true);
        let answer = server.client.post(path, &machine.baseline(&token, &list));
        assert_eq!(answer.status, 200, "{}", answer.json());
        let asked = machine.release(&token, &group, &answer);
        assert_eq!(machine.activate(&server.client, &asked).status, 200);
        // A token that is used is used in every spelling.
        let again = server.client.post(path, &machine.baseline(&token, &list));
        assert_eq!(again.status, 401);
    }
    for path in ["/tokens/generate-standard", "/enrollment/generate"] {
        let token = issue(path, "of-golden");
        assert_eq!(
            golden.enrol(&server.client, &token, "of-golden").status,
            200
        );
    }
}
