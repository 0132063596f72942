//! Every change is in the audit log: each route and each command that changes something, tried.

use std::collections::BTreeSet;

use rat_agent::relay::settings::RelaySettings;
use rat_store::{AuditRecord, Store};
use rat_tests::receiver::{Receiver, Reply};
use serde_json::{Value, json};

use crate::attested::{Attested, GROUP};
use crate::described::routes;
use crate::operating::{Operated, policy};
use crate::process::{Home, eventually};
use crate::relayed::request;

/// Routes that are no GET and change nothing.
const CHANGES_NOTHING: [&str; 2] = ["/tokens/validate", "/agents/{agent_id}/sync-status"];

/// Tries routes, and sees that each leaves an entry.
struct Tried<'a> {
    server: &'a Operated,
    routes: BTreeSet<(String, String)>,
}

impl Tried<'_> {
    /// The answer of a route that must succeed and be recorded.
    #[track_caller]
    fn by(
        &mut self,
        token: &str,
        method: &str,
        (pattern, path): (&str, &str),
        body: Option<Value>,
    ) -> Value {
        let before = self.server.changes();
        let answer = self
            .server
            .client
            .send(method, path, Some(token), body.as_ref());
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        assert!(
            (200..300).contains(&answer.status),
            "{method} {path}: {text}"
        );
        assert!(
            self.server.changes() > before,
            "{method} {path} left no entry"
        );
        self.noted(method, pattern);
        serde_json::from_str(&text).unwrap_or_default()
    }

    #[track_caller]
    fn by_admin(&mut self, method: &str, route: (&str, &str), body: Option<Value>) -> Value {
        let admin = self.server.admin.clone();
        self.by(&admin, method, route, body)
    }

    fn noted(&mut self, method: &str, pattern: &str) {
        self.routes.insert((method.to_owned(), pattern.to_owned()));
    }
}

fn text<'a>(value: &'a Value, member: &str) -> &'a str {
    value[member].as_str().unwrap()
}

fn of_policies_and_groups(tried: &mut Tried<'_>) {
    let same = |path: &'static str| (path, path);
    let db = json!({"policy_group_id": "db"});
    tried.by_admin("POST", same("/groups/"), Some(db.clone()));
    let group = ("/groups/{group_id}", "/groups/db");
    tried.by_admin("PUT", group, Some(json!({"name": "Databases"})));
    let machine = format!("/groups/db/ek/{}", "ab".repeat(32));
    let machine = ("/groups/{group_id}/ek/{ek_sha256}", machine.as_str());
    tried.by_admin("PUT", machine, None);
    tried.by_admin("DELETE", machine, None);
    for number in 1..=2 {
        let content = policy(&[("/usr/bin/a", char::from(b'0' + number))]);
        let body = json!({"policy_group_id": "db", "name": "n", "content": content});
        let made = tried.by_admin("POST", same("/policies/"), Some(body));
        let path = format!("/policies/{}/activate", text(&made, "id"));
        tried.by_admin("POST", ("/policies/{policy_id}/activate", &path), None);
    }
    let back = (
        "/policies/groups/{group_id}/rollback",
        "/policies/groups/db/rollback",
    );
    tried.by_admin("POST", back, Some(json!({})));
    let issued = tried.by_admin("POST", same("/tokens/generate"), Some(db));
    let other = json!({"policy_group_id": "mail"});
    tried.by_admin("POST", same("/tokens/generate-baseline"), Some(other));
    let id = text(&issued, "token")[4..20].to_owned();
    let token = format!("/tokens/{id}");
    tried.by_admin("DELETE", ("/tokens/{token_id}", &token), None);
    let test = ("/webhooks/{webhook_name}/test", "/webhooks/hook/test");
    tried.by_admin("POST", test, None);
    let letters = "/webhooks/hook/dead-letters";
    let given_up = tried.server.expect("GET", letters, None, 200);
    let pattern = "/webhooks/{webhook_name}/dead-letters/{message_id}/redeliver";
    let path = format!("{letters}/{}/redeliver", text(&given_up[0], "id"));
    tried.by_admin("POST", (pattern, &path), None);
}

fn of_accounts(tried: &mut Tried<'_>) {
    let users = "/api/v1/users";
    let alice = json!({
        "username": "alice", "password": "a long password", "email": "a@example.com",
        "roles": ["admin"],
    });
    let made = tried.by_admin("POST", (users, users), Some(alice));
    let user = format!("{users}/{}", text(&made, "id"));
    let change = json!({"email": "b@example.com"});
    tried.by_admin("PUT", ("/api/v1/users/{user_id}", &user), Some(change));
    let password = format!("{user}/password");
    let pattern = "/api/v1/users/{user_id}/password";
    let new = json!({"new_password": "another password", "must_change_password": false});
    tried.by_admin("PUT", (pattern, &password), Some(new));

    let login = "/api/v1/auth/login";
    let credentials = json!({"username": "alice", "password": "another password"});
    let opened = tried.by_admin("POST", (login, login), Some(credentials));
    let session = text(&opened, "token").to_owned();
    let mut mine = |method: &str, route: (&str, &str), body: Option<Value>| {
        tried.by(&session, method, route, body)
    };
    let me = "/api/v1/auth/me";
    mine("PUT", (me, me), Some(json!({"email": "c@example.com"})));
    let password = "/api/v1/auth/me/password";
    let both = json!({"current_password": "another password", "new_password": "a third password"});
    mine("PUT", (password, password), Some(both));
    let tokens = "/api/v1/auth/tokens";
    let token = json!({"name": "t", "role": "viewer"});
    let made = mine("POST", (tokens, tokens), Some(token));
    let token = format!("{tokens}/{}", text(&made, "id"));
    mine("DELETE", ("/api/v1/auth/tokens/{token_id}", &token), None);
    let logout = "/api/v1/auth/logout";
    mine("POST", (logout, logout), None);
    tried.by_admin("DELETE", ("/api/v1/users/{user_id}", &user), None);
}

#[test]
fn s12_every_route_that_changes_something_is_in_the_audit_log() {
    let receiver = Receiver::start();
    let home = Home::new();
    receiver.answers(|_| Reply::status(422));
    let hook = crate::webhooks::option(&home, &receiver, ", attempts_max=1");
    let mut attested = Attested::trusted_in(home, &[&hook]);
    eventually("a message is given up", || {
        let shown = attested.server.expect("GET", "/webhooks/", None, 200);
        shown[0]["dead_letters"] != 0
    });
    // What the machine did to enrol.
    let enrolled = attested.server.audited("agent.enrol");
    assert_eq!(enrolled.len(), 1, "{enrolled:?}");
    assert!(enrolled[0][0].starts_with("token "), "{enrolled:?}");
    assert_eq!(enrolled[0][1..], ["m1", "web"]);
    let token = attested.server.token(GROUP);
    attested.enrol(&token).unwrap();
    assert_eq!(attested.server.audited("agent.enrol_again").len(), 1);
    attested.runs("/tmp/implant");
    attested.becomes("untrusted");
    attested.change_key();
    assert!(attested.enrol(&token).is_err(), "nobody approved the key");
    assert_eq!(attested.server.audited("agent.propose_ak").len(), 1);

    let mut tried = Tried {
        server: &attested.server,
        routes: BTreeSet::new(),
    };
    for enrolment in [
        "/agents/enroll",
        "/agents/enroll-baseline",
        "/agents/{agent_id}/activate",
    ] {
        tried.noted("POST", enrolment);
    }
    of_policies_and_groups(&mut tried);
    of_accounts(&mut tried);
    let clear = ("/agents/{agent_id}/clear", "/agents/m1/clear");
    tried.by_admin("POST", clear, Some(json!({"reason": "looked at"})));
    let approve = ("/agents/{agent_id}/approve", "/agents/m1/approve");
    tried.by_admin("POST", approve, Some(json!({})));
    let settings = RelaySettings {
        state_dir: Some(tried.server.home.path("relay")),
        ..RelaySettings::default()
    };
    let body = json!({"name": "site-1", "csr": request(&settings)});
    tried.by_admin("POST", ("/relays/", "/relays/"), Some(body));
    let relay = ("/agents/{agent_id}/relay", "/agents/m1/relay");
    tried.by_admin("POST", relay, Some(json!({"relay": "site-1"})));
    let relay = ("/relays/{relay_name}", "/relays/site-1");
    tried.by_admin("DELETE", relay, None);
    let moving = ("/agents/{agent_id}/move", "/agents/m1/move");
    tried.by_admin("POST", moving, Some(json!({"policy_group_id": "db"})));
    tried.by_admin("DELETE", ("/agents/{agent_id}", "/agents/m1"), None);

    let changing: BTreeSet<(String, String)> = routes()
        .iter()
        .filter(|route| route.method != "GET" && !CHANGES_NOTHING.contains(&route.path))
        .filter(|route| route.alias_of.is_none())
        .map(|route| (route.method.to_string(), route.path.to_owned()))
        .collect();
    assert_eq!(tried.routes, changing);
}

fn entries(home: &Home) -> Vec<AuditRecord> {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let store = Store::open_shared(&home.data()).await.unwrap();
        let entries = store.audit_entries(0, 1_000).await.unwrap();
        assert!(store.verify_audit().await.unwrap().is_ok());
        store.close().await;
        entries
    })
}

#[test]
fn s12_every_command_that_changes_something_is_in_the_audit_log() {
    let home = Home::new();
    let ratd = home.start(&[]);
    assert_eq!(ratd.stop().code(), Some(0));
    let ek = "ab".repeat(32);
    let mut made = String::new();
    for (arguments, action) in [
        (
            vec!["user", "create", "alice", "--role", "viewer"],
            "user.create",
        ),
        (vec!["user", "password", "alice"], "user.password"),
        (vec!["user", "disable", "alice"], "user.change"),
        (vec!["group", "create", "web"], "group.create"),
        (
            vec!["group", "set", "web", "--protected", "false"],
            "group.update",
        ),
        (vec!["ek", "approve", &ek, "--group", "web"], "ek.approve"),
        (vec!["ek", "withdraw", &ek, "--group", "web"], "ek.withdraw"),
        (vec!["token", "create", "--group", "web"], "token.create"),
        (vec!["token", "revoke", "TOKEN"], "token.revoke"),
        (
            vec!["api-token", "create", "--name", "t"],
            "api_token.create",
        ),
        (vec!["api-token", "revoke", "TOKEN"], "api_token.revoke"),
        (vec!["ca", "rotate"], "ca.rotate"),
    ] {
        let before = entries(&home).len();
        // Both kinds of token hold their ids after a prefix of four characters.
        let id = made.get(4..20).unwrap_or_default().to_owned();
        let arguments: Vec<&str> = arguments
            .into_iter()
            .map(|word| if word == "TOKEN" { id.as_str() } else { word })
            .collect();
        made = home.ok(&arguments);
        let new = entries(&home).split_off(before);
        assert_eq!(new.len(), 1, "{arguments:?}: {new:?}");
        assert_eq!(
            (new[0].action.as_str(), new[0].actor.as_str()),
            (action, "local operator")
        );
    }
    let before = entries(&home).len();
    for looks in [
        vec!["user", "list"],
        vec!["api-token", "list"],
        vec!["group", "show"],
        vec!["ca", "fingerprint"],
        vec!["config", "check"],
    ] {
        home.ok(&looks);
    }
    assert_eq!(entries(&home).len(), before);
    // An operator's own CA, before the first start.
    let other = Home::new();
    let ca = other.path("own");
    std::fs::create_dir(&ca).unwrap();
    let (certificate, key) = own_ca(&ca);
    let import = ["ca", "import", &certificate, &key];
    other.ok(&import);
    let imported = entries(&other);
    assert_eq!(imported.len(), 1);
    assert_eq!(imported[0].action, "ca.import");
}

/// A CA's certificate and its key, in files.
fn own_ca(folder: &std::path::Path) -> (String, String) {
    let path = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    let (certificate, key) = (path("ca.pem"), path("ca.key"));
    let made = std::process::Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
        ])
        .args(["-days", "30", "-subj", "/CN=own CA", "-addext"])
        .args([
            "keyUsage=critical,keyCertSign,cRLSign",
            "-keyout",
            &key,
            "-out",
            &certificate,
        ])
        .output()
        .unwrap();
    assert!(
        made.status.success(),
        "{}",
        String::from_utf8_lossy(&made.stderr)
    );
    (certificate, key)
}
