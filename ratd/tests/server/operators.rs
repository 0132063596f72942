//! A01-A03: every route, and everybody who might call it.

use rat_api::auth::Permission;
use rat_api::surface::Route;
use rat_tests::http_client::Client;

use crate::described::routes;
use crate::process::{Home, Ratd};

struct Identity {
    name: &'static str,
    header: Option<String>,
    is_admin: bool,
}

fn identities(ratd: &Ratd) -> Vec<Identity> {
    let admin = ratd.admin();
    let identity = |name, header: Option<String>, is_admin| Identity {
        name,
        header,
        is_admin,
    };
    let bearer = |token: &str| Some(format!("authorization: Bearer {token}"));
    vec![
        identity("nobody", None, false),
        identity("empty", bearer(""), false),
        identity("wrong", bearer(&"rat_admin_0".repeat(7)), false),
        identity("prefix", bearer(&admin[..admin.len() - 1]), false),
        identity("longer", bearer(&format!("{admin}0")), false),
        identity(
            "enrolment token",
            bearer(&format!("esp_{}", "0".repeat(112))),
            false,
        ),
        identity(
            "basic",
            Some(format!("authorization: Basic {admin}")),
            false,
        ),
        identity(
            "other header",
            Some(format!("x-admin-token: {admin}")),
            false,
        ),
        identity("admin", bearer(&admin), true),
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
    let headers: Vec<&str> = identity.header.as_deref().into_iter().collect();
    let body: &[u8] = if route.method == "GET" { b"" } else { b"{}" };
    client
        .request(route.method.as_str(), &path, &headers, body)
        .status
}

/// Each of them is called with six wrong tokens, and twenty make an address wait.
const ROUTES_PER_SERVER: usize = 3;

#[test]
fn a01_every_route_by_every_identity() {
    let routes = routes();
    assert!(routes.len() >= 40);
    for routes in routes.chunks(ROUTES_PER_SERVER) {
        let home = Home::new();
        let ratd = home.start(&[]);
        for route in routes {
            every_identity(&ratd, route);
        }
    }
}

fn every_identity(ratd: &Ratd, route: &Route) {
    let client = ratd.client();
    for identity in identities(ratd) {
        let status = call(&client, route, &identity);
        let denied = matches!(status, 401 | 403);
        let expected = match route.permission {
            // This client is on a loopback address.
            Permission::Public | Permission::LoopbackOrOperator(_) => false,
            // Without its token or proof in the body: 422, whoever asks.
            Permission::EnrolmentToken | Permission::PendingActivation => false,
            Permission::Operator(_) => !identity.is_admin,
        };
        let who = identity.name;
        assert_eq!(denied, expected, "{who} on {}: {status}", route.path);
        let wants_a_body = matches!(
            route.permission,
            Permission::EnrolmentToken | Permission::PendingActivation
        );
        if wants_a_body {
            assert_eq!(status, 422, "{who} on {}", route.path);
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
    assert!(!ratd.log().contains(&admin));
}
