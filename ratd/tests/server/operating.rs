//! A server, and its operator at the Core API.

use rat_tests::http_client::{Answer, Client};
use serde_json::{Value, json};

use crate::machine::Machine;
use crate::process::{Home, Ratd};

/// A server and whoever operates it.
pub(crate) struct Operated {
    pub(crate) home: Home,
    pub(crate) ratd: Ratd,
    pub(crate) client: Client,
    pub(crate) admin: String,
}

impl Operated {
    pub(crate) fn start(set: &[&str]) -> Self {
        let home = Home::new();
        Self::start_in(home, set)
    }

    pub(crate) fn start_in(home: Home, set: &[&str]) -> Self {
        let ratd = home.start(set);
        let (client, admin) = (ratd.client(), ratd.admin());
        Self {
            home,
            ratd,
            client,
            admin,
        }
    }

    /// A server that knows these machines' TPMs.
    pub(crate) fn knowing(machines: &[&Machine]) -> Self {
        let home = Home::new();
        let list = home.path("ek-list");
        let lines: Vec<String> = machines.iter().map(|machine| machine.listed()).collect();
        std::fs::write(&list, lines.join("\n")).unwrap();
        Self::start_in(home, &[&format!("identity.ek_list={:?}", [list])])
    }

    #[track_caller]
    pub(crate) fn send(&self, method: &str, path: &str, body: Option<&Value>) -> Answer {
        self.client.send(method, path, Some(&self.admin), body)
    }

    #[track_caller]
    pub(crate) fn get(&self, path: &str) -> Answer {
        self.send("GET", path, None)
    }

    #[track_caller]
    pub(crate) fn post(&self, path: &str, body: &Value) -> Answer {
        self.send("POST", path, Some(body))
    }

    /// The body of an answer that must have this status.
    #[track_caller]
    pub(crate) fn expect(
        &self,
        method: &str,
        path: &str,
        body: Option<&Value>,
        status: u16,
    ) -> Value {
        let answer = self.send(method, path, body);
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        assert_eq!(answer.status, status, "{method} {path}: {text}");
        serde_json::from_str(&text).unwrap_or_default()
    }

    /// The code of a refusal that must have this status.
    #[track_caller]
    pub(crate) fn refused(
        &self,
        method: &str,
        path: &str,
        body: Option<&Value>,
        status: u16,
    ) -> String {
        let body = self.expect(method, path, body, status);
        body["code"].as_str().unwrap().to_owned()
    }

    #[track_caller]
    pub(crate) fn group(&self, slug: &str) -> Value {
        let body = json!({ "policy_group_id": slug });
        self.expect("POST", "/groups/", Some(&body), 201)
    }

    /// The id of a new version.
    #[track_caller]
    pub(crate) fn policy(&self, group: &str, name: &str, content: &Value) -> String {
        let body = json!({"policy_group_id": group, "name": name, "content": content});
        let created = self.expect("POST", "/policies/", Some(&body), 201);
        created["id"].as_str().unwrap().to_owned()
    }

    /// An enrolment token of a group that is there.
    #[track_caller]
    pub(crate) fn token(&self, group: &str) -> String {
        let body = json!({ "policy_group_id": group });
        let issued = self.expect("POST", "/tokens/generate", Some(&body), 200);
        issued["token"].as_str().unwrap().to_owned()
    }

    /// The audit log's entries of one kind: who, to what, and more about it.
    pub(crate) fn audited(&self, action: &str) -> Vec<[String; 3]> {
        let entries = self.expect("GET", "/audit", None, 200);
        let text = |entry: &Value, name: &str| entry[name].as_str().unwrap().to_owned();
        let entries = entries.as_array().unwrap().iter();
        entries
            .filter(|entry| entry["action"] == action)
            .map(|entry| ["actor", "target", "detail"].map(|name| text(entry, name)))
            .collect()
    }

    /// How many changes the audit log holds.
    pub(crate) fn changes(&self) -> usize {
        let entries = self.expect("GET", "/audit", None, 200);
        entries.as_array().unwrap().len()
    }
}

/// A runtime policy that lists these paths, each with one digest of so many equal digits.
pub(crate) fn policy(paths: &[(&str, char)]) -> Value {
    let digests: serde_json::Map<String, Value> = paths
        .iter()
        .map(|(path, digit)| ((*path).to_owned(), json!([digit.to_string().repeat(64)])))
        .collect();
    json!({
        "meta": {"version": 1, "generator": 2, "timestamp": "2026-01-01T00:00:00Z"},
        "release": 0,
        "digests": digests,
        "excludes": [],
        "keyrings": {},
        "ima": {"ignored_keyrings": [], "log_hash_alg": "sha1", "dm_policy": null},
    })
}

/// Names of an object's members, in their order.
pub(crate) fn members(object: &Value) -> Vec<&str> {
    let mut names: Vec<&str> = object
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    names.sort_unstable();
    names
}
