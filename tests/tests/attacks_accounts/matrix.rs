//! A01: every route of every surface by every kind of caller. What is expected follows from the
//! permission that the route declares.

use std::collections::BTreeSet;

use rat_api::auth::Gate;
use rat_api::auth::permission::{ACTIONS, Permission};
use rat_api::clock::unix_ms;
use rat_api::surface::{Route, Shared};
use rat_store::{PasswordChange, StoredUser, UserChange};
use rat_tests::http_client::Client;

use crate::world::{HOUR_MS, Served, World, declared};

/// What a caller has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Has {
    /// Nothing.
    Nothing,
    /// Something that is no valid credential.
    Invalid,
    /// A login with this role.
    Session(&'static str),
    /// A login that must change its password first.
    MustChange,
    /// An API token with what this role may do.
    ApiToken(&'static str),
    /// An API token of somebody who must change the password first.
    TokenOfMustChange,
}

struct Identity {
    name: &'static str,
    header: Option<String>,
    has: Has,
    has_certificate: bool,
}

/// What the answer must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Reached,
    Unauthenticated,
    Forbidden,
}

/// The roles, written down a second time.
fn role_gives(role: &str, action: &str) -> bool {
    match role {
        "admin" => true,
        "operator" => {
            let viewed = [
                "evidence:view",
                "groups:view",
                "metrics:view",
                "webhooks:view",
                "relays:view",
            ];
            viewed.contains(&action)
                || ["agents:", "policies:", "enroll:", "ek:"]
                    .iter()
                    .any(|area| action.starts_with(area))
        }
        "viewer" => {
            action.ends_with(":view")
                && !matches!(action, "users:view" | "tokens:view" | "audit:view")
        }
        _ => false,
    }
}

fn expected(permission: Permission, identity: &Identity) -> Outcome {
    let is_met = match permission {
        // Their credentials stand in the body, and the handler looks at them. This client is on a
        // loopback address.
        Permission::Public
        | Permission::Password
        | Permission::EnrolmentToken
        | Permission::PendingActivation
        | Permission::KeylimeSession
        | Permission::LoopbackOrOperator(_) => return Outcome::Reached,
        // Nobody has a session of Keylime's.
        Permission::KeylimePublic => match identity.has {
            Has::Nothing => return Outcome::Reached,
            _ => return Outcome::Unauthenticated,
        },
        // This listener's client certificates are agents', and nobody has a session here.
        Permission::KeylimeAdmin(_)
        | Permission::KeylimeAgent(_)
        | Permission::KeylimeAgentOrAdmin(_) => match identity.has {
            Has::Nothing => return Outcome::Forbidden,
            _ => return Outcome::Unauthenticated,
        },
        Permission::AnySession => matches!(identity.has, Has::Session(_) | Has::MustChange),
        Permission::Session => matches!(identity.has, Has::Session(_)),
        Permission::Operator(action) => match identity.has {
            Has::Session(role) | Has::ApiToken(role) => role_gives(role, action),
            _ => false,
        },
    };
    match (identity.has, identity.has_certificate) {
        (Has::Nothing, true) => Outcome::Forbidden,
        (Has::Nothing, false) | (Has::Invalid, _) => Outcome::Unauthenticated,
        (_, true) => Outcome::Forbidden,
        (_, false) if is_met => Outcome::Reached,
        (_, false) => Outcome::Forbidden,
    }
}

impl Identity {
    fn new(name: &'static str, header: Option<String>, has: Has) -> Self {
        Self {
            name,
            header,
            has,
            has_certificate: false,
        }
    }

    fn bearer(name: &'static str, token: &str, has: Has) -> Self {
        Self::new(name, Some(format!("authorization: Bearer {token}")), has)
    }

    /// The same, from an agent.
    fn with_certificate(self) -> Self {
        Self {
            has_certificate: true,
            ..self
        }
    }
}

fn identities(world: &World) -> Vec<Identity> {
    let later = unix_ms() + HOUR_MS;
    let admin = world.user("admin", &["admin"]);
    let session = world.session(&admin, later);
    let token = world.token("admin", None, later);
    let mut all = vec![
        Identity::new("nobody", None, Has::Nothing),
        Identity::new("an agent", None, Has::Nothing).with_certificate(),
        Identity::bearer("admin", &session, Has::Session("admin")),
        Identity::bearer("an admin's token", &token, Has::ApiToken("admin")),
        Identity::bearer("an agent with a session", &session, Has::Session("admin"))
            .with_certificate(),
        Identity::bearer("an agent with a token", &token, Has::ApiToken("admin"))
            .with_certificate(),
    ];
    all.extend(garbled(&session, &token));
    all.extend(of_roles(world, &admin));
    all.extend(of_others(world));
    // Last: the next session that begins drops one that has expired.
    all.extend(ended(world, &admin));
    all
}

/// What is nearly a credential, or one in the wrong place.
fn garbled(session: &str, token: &str) -> Vec<Identity> {
    let other_secret = format!("{}{}", &token[..20], "0".repeat(64));
    let other_kind = token.replace("rat_", "rats_");
    let twice = format!("authorization: Bearer {token}\r\nauthorization: Bearer {token}");
    let mut all: Vec<Identity> = [
        ("nothing", ""),
        ("garbage", "garbage"),
        ("a token's beginning", &token[..token.len() - 1]),
        ("a longer token", &format!("{token}0")),
        ("another secret", &other_secret),
        ("a token as a session", &other_kind),
        ("an enrolment token", &format!("esp_{}", "0".repeat(112))),
    ]
    .into_iter()
    .map(|(name, text)| Identity::bearer(name, text, Has::Invalid))
    .collect();
    for (name, header, has) in [
        (
            "basic",
            format!("authorization: Basic {token}"),
            Has::Invalid,
        ),
        ("two headers", twice, Has::Invalid),
        (
            "a cookie",
            format!("cookie: session={session}"),
            Has::Nothing,
        ),
        (
            "another header",
            format!("x-api-key: {token}"),
            Has::Nothing,
        ),
    ] {
        all.push(Identity::new(name, Some(header), has));
    }
    all
}

/// What was a credential.
fn ended(world: &World, admin: &StoredUser) -> Vec<Identity> {
    let (later, before) = (unix_ms() + HOUR_MS, unix_ms() - 1);
    let session = world.session(admin, later);
    let ended = world.store.end_session(&session[5..21], "test", before);
    assert!(world.run(ended).unwrap());
    let token = world.token("admin", None, later);
    let revoked = world.store.revoke_api_token(&token[4..20], "test", before);
    assert!(world.run(revoked).unwrap());
    let expired = world.token("admin", None, before);
    vec![
        Identity::bearer("a session that was logged out", &session, Has::Invalid),
        Identity::bearer("a revoked token", &token, Has::Invalid),
        Identity::bearer("an expired token", &expired, Has::Invalid),
        Identity::bearer(
            "an expired session",
            &world.session(admin, before),
            Has::Invalid,
        ),
        Identity::bearer("an agent with a revoked token", &token, Has::Invalid).with_certificate(),
    ]
}

/// Sessions and tokens of lesser roles.
fn of_roles(world: &World, admin: &StoredUser) -> Vec<Identity> {
    let later = unix_ms() + HOUR_MS;
    let mut all = Vec::new();
    for role in ["viewer", "operator"] {
        let user = world.user(role, &[role]);
        let session = world.session(&user, later);
        all.push(Identity::bearer(role, &session, Has::Session(role)));
        for (name, token) in [
            ("a token of a role", world.token(role, None, later)),
            // Made when its owner was an administrator, say.
            (
                "a token with more than its owner",
                world.token("admin", Some(&user), later),
            ),
            (
                "a token with less than its owner",
                world.token(role, Some(admin), later),
            ),
        ] {
            all.push(Identity::bearer(name, &token, Has::ApiToken(role)));
        }
    }
    all
}

/// Somebody who was disabled, and somebody who must change the password.
fn of_others(world: &World) -> Vec<Identity> {
    let later = unix_ms() + HOUR_MS;
    let (gone, new) = (
        world.user("gone", &["admin"]),
        world.user("new", &["admin"]),
    );
    let of_gone = [
        world.session(&gone, later),
        world.token("admin", Some(&gone), later),
    ];
    let disable = UserChange {
        disabled: Some(true),
        ..UserChange::default()
    };
    let disabled = world
        .store
        .change_user(&gone.id, &disable, "admin", "test", unix_ms());
    world.run(disabled).unwrap().unwrap();
    let change = PasswordChange {
        hash: &new.password.clone(),
        replacing: None,
        must_change: true,
        keep_session: None,
    };
    let changed = world
        .store
        .set_password(&new.id, &change, "test", unix_ms());
    assert!(world.run(changed).unwrap());
    let new = world.stored("new");
    let of_new = [
        world.session(&new, later),
        world.token("admin", Some(&new), later),
    ];
    vec![
        Identity::bearer("a session of somebody disabled", &of_gone[0], Has::Invalid),
        Identity::bearer("a token of somebody disabled", &of_gone[1], Has::Invalid),
        Identity::bearer(
            "a session before the change of password",
            &of_new[0],
            Has::MustChange,
        ),
        Identity::bearer(
            "a token before the change of password",
            &of_new[1],
            Has::TokenOfMustChange,
        ),
    ]
}

fn call(client: &Client, route: &Route, identity: &Identity) -> Outcome {
    let mut path = String::new();
    for part in route.path.split_inclusive(['{', '}']) {
        // What stands between braces is a parameter's name.
        match part.strip_suffix('}') {
            Some(_) => path.push('1'),
            None => path.push_str(part.trim_end_matches('{')),
        }
    }
    let headers: Vec<&str> = identity.header.as_deref().into_iter().collect();
    let body: &[u8] = if route.method == "GET" { b"" } else { b"{}" };
    let answer = client.request_of_own(route.method.as_str(), &path, &headers, body);
    match answer.status {
        200 if answer.body == b"reached" => Outcome::Reached,
        401 => Outcome::Unauthenticated,
        403 => Outcome::Forbidden,
        other => panic!("{other} for {} on {} {path}", identity.name, route.method),
    }
}

#[test]
fn a01_every_route_by_every_identity() {
    let world = World::new(Served::Entrances);
    let shared = Shared::new(Gate::new(world.store.clone()), 50);
    let routes = declared(&shared);
    let identities = identities(&world);
    let mut wrong = Vec::new();
    for identity in &identities {
        let client = if identity.has_certificate {
            world.agent()
        } else {
            world.client()
        };
        for route in &routes {
            // Each from an address of its own, so that no guesses are counted together.
            let outcome = call(&client.at(world.source()), route, identity);
            let expected = expected(route.permission, identity);
            if outcome != expected {
                let (method, path) = (&route.method, route.path);
                wrong.push(format!("{method} {path} by {}: {outcome:?}", identity.name));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(
        routes.len() >= 60 && identities.len() >= 30,
        "too few to mean anything"
    );
}

#[test]
fn a01_every_route_declares_a_known_permission_and_none_is_declared_twice() {
    let world = World::new(Served::Accounts);
    let shared = Shared::new(Gate::new(world.store.clone()), 50);
    let mut seen = BTreeSet::new();
    for route in declared(&shared) {
        if let Permission::Operator(action) | Permission::LoopbackOrOperator(action) =
            route.permission
        {
            assert!(ACTIONS.contains(&action), "{action} of {}", route.path);
            // R3 is asked for by POST, and changes nothing.
            let is_sync = route.path == "/agents/{agent_id}/sync-status";
            let changes = route.method != "GET" && !is_sync;
            assert!(
                !(changes && action.ends_with(":view")),
                "{} {action}",
                route.path
            );
        }
        let open = matches!(route.permission, Permission::Public);
        assert!(
            !open || route.method == "GET",
            "{} changes for everybody",
            route.path
        );
        assert!(
            seen.insert((route.method.to_string(), route.path)),
            "{}",
            route.path
        );
    }
}
