//! A01-A03: every route, and everybody who might call it.

use std::net::IpAddr;

use rat_api::auth::Permission;
use rat_api::surface::Route;
use rat_tests::http_client::Client;

use crate::described::routes;
use crate::process::{Home, Ratd};

struct Identity {
    name: &'static str,
    header: Option<String>,
    role: Option<&'static str>,
}

fn identities(ratd: &Ratd) -> Vec<Identity> {
    let admin = ratd.admin();
    let identity = |name, header: Option<String>| Identity {
        name,
        header,
        role: None,
    };
    let bearer = |token: &str| Some(format!("authorization: Bearer {token}"));
    let of_role = |role| Identity {
        name: role,
        header: bearer(&ratd.api_token(role)),
        role: Some(role),
    };
    let revoked = ratd.api_token("admin");
    ratd.ok(&["api-token", "revoke", &revoked[4..20]]);
    vec![
        identity("nobody", None),
        identity("empty", bearer("")),
        identity("wrong", bearer(&"rat_admin_0".repeat(7))),
        identity("prefix", bearer(&admin[..admin.len() - 1])),
        identity("longer", bearer(&format!("{admin}0"))),
        identity("revoked", bearer(&revoked)),
        identity(
            "enrolment token",
            bearer(&format!("esp_{}", "0".repeat(112))),
        ),
        identity("basic", Some(format!("authorization: Basic {admin}"))),
        identity("other header", Some(format!("x-admin-token: {admin}"))),
        of_role("viewer"),
        of_role("operator"),
        of_role("admin"),
    ]
}

fn call(client: &Client, route: &Route, identity: &Identity) -> u16 {
    // Names that nothing has, so that an admin's call changes nothing.
    let path = route.path.replace("{agent_id}", "nobody");
    let path = path
        .replace("{group_id}", "none")
        .replace("{policy_id}", "p-none-001");
    let path = path.replace("{token_id}", &"0".repeat(16));
    let path = path.replace("{ek_sha256}", &"0".repeat(64));
    let path = path.replace("{user_id}", "nobody");
    let path = path
        .replace("{webhook_name}", "none")
        .replace("{message_id}", "none");
    let headers: Vec<&str> = identity.header.as_deref().into_iter().collect();
    let body: &[u8] = if route.method == "GET" { b"" } else { b"{}" };
    client
        .request(route.method.as_str(), &path, &headers, body)
        .status
}

#[test]
fn a01_every_route_by_every_identity() {
    let home = Home::new();
    let ratd = home.start(&[]);
    let routes = routes();
    assert!(routes.len() >= 60);
    for identity in identities(&ratd) {
        for (number, route) in (0_u16..).zip(&routes) {
            // Each from an address of its own, so that no guesses are counted together.
            let [high, low] = number.to_be_bytes();
            let client = ratd.client().at(IpAddr::from([127, 9, high, low.max(1)]));
            let status = call(&client, route, &identity);
            let role = identity.role.and_then(rat_api::auth::roles::named);
            let expected: &[u16] = match (route.permission, role) {
                // This client is on a loopback address.
                (Permission::Public | Permission::LoopbackOrOperator(_), _) => &[200],
                // No route of this listener has it.
                (
                    Permission::KeylimePublic
                    | Permission::KeylimeSession
                    | Permission::KeylimeAdmin(_)
                    | Permission::KeylimeAgent(_)
                    | Permission::KeylimeAgentOrAdmin(_),
                    _,
                ) => &[],
                // Without its credential in the body, whoever asks. Accounts have no 422.
                (Permission::Password, _) => &[400],
                (Permission::EnrolmentToken | Permission::PendingActivation, _) => &[422],
                (_, None) => &[401],
                // An API token is no login.
                (Permission::Session | Permission::AnySession, Some(_)) => &[403],
                (Permission::Operator(action), Some(role)) if !role.gives(action) => &[403],
                // It is let in; nothing is named that there is, or that it asks for.
                (Permission::Operator(_), Some(_)) => match route.path.contains('{') {
                    true => &[200, 204, 400, 404, 409, 422],
                    false if route.method == "GET" => &[200],
                    false => &[400, 422],
                },
            };
            let (who, path) = (identity.name, route.path);
            assert!(expected.contains(&status), "{who} on {path}: {status}");
        }
    }
}

#[test]
fn a03_a_token_is_not_taken_from_the_url_and_stands_in_no_log() {
    let home = Home::new();
    let ratd = home.start(&["log.level=trace"]);
    let (client, admin) = (ratd.client(), ratd.admin());
    for parameter in ["token", "access_token", "authorization"] {
        let path = format!("/agents/?{parameter}={admin}");
        assert_eq!(client.get(&path, None).status, 401);
    }
    let refused = client.get("/agents/", Some("wrong"));
    assert_eq!(refused.status, 401);
    assert_eq!(refused.header("www-authenticate"), Some("Bearer"));
    assert_eq!(client.get("/agents/", Some(&admin)).status, 200);
    assert_eq!(
        client.get("/agents/", Some(&admin)).json(),
        serde_json::json!([])
    );
    assert!(!ratd.log().contains(&admin[20..]));
}
