//! The OpenAPI document: what every route takes, answers and demands.
//!
//! Handlers describe themselves; what a route demands comes from its declaration, which is what
//! the server obeys.

mod refusals;

use axum::http::Method;
use utoipa::OpenApi as _;
use utoipa::openapi::path::Operation;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{OpenApi, RefOr, Required};

use crate::auth::Permission;
use crate::error::Detail;
use crate::surface::Route;
use crate::{core, docs, exposition, health, people};

#[derive(utoipa::OpenApi)]
#[openapi(
    info(
        title = "ratd",
        description = "Remote attestation for fleets of machines with a TPM 2.0. Errors have a text \
                       for people and a stable code for programs. Times are RFC 3339 in UTC, or \
                       null for never.",
        license(name = "Apache-2.0", identifier = "Apache-2.0"),
    ),
    components(schemas(Detail))
)]
struct Frame;

/// The security scheme of routes that demand an `area:action`.
const OPERATOR: &str = "operator";
/// The security scheme of routes that demand a login.
const SESSION: &str = "session";

/// A login has no scopes: whoever is logged in may ask.
const NO_SCOPES: [&str; 0] = [];

/// Routes that take a body without members, and none at all, for the same.
const OPTIONAL_BODIES: [&str; 2] = [
    "/agents/{agent_id}/approve",
    "/policies/{policy_id}/activate",
];

/// The document of these routes. Routes that nobody describes are not in it; a test compares.
pub fn document(routes: &[Route]) -> OpenApi {
    let mut document = Frame::openapi();
    // What runs now is told by /health; the document is of the interface.
    document.info.version = env!("CARGO_PKG_VERSION").to_owned();
    for part in [
        core::described(),
        people::described(),
        health::described(),
        exposition::described(),
        docs::described(),
    ] {
        document.merge(part);
    }
    if let Some(components) = &mut document.components {
        for (name, description) in [
            (
                OPERATOR,
                "A session or an API token. What each route demands of it is named.",
            ),
            (SESSION, "A session; no API token."),
        ] {
            let bearer = HttpBuilder::new()
                .scheme(HttpAuthScheme::Bearer)
                .description(Some(description))
                .build();
            components.add_security_scheme(name, SecurityScheme::Http(bearer));
        }
    }
    for route in routes {
        if let Some(operation) = operation(&mut document, route) {
            operation.operation_id = Some(operation_id(route));
            operation.security = Some(security(route.permission));
            refusals::describe(operation, route);
            if OPTIONAL_BODIES.contains(&route.path) {
                leave_out_body(operation);
            }
        }
    }
    document
}

fn operation<'d>(document: &'d mut OpenApi, route: &Route) -> Option<&'d mut Operation> {
    let item = document.paths.paths.get_mut(route.path)?;
    match route.method {
        Method::GET => item.get.as_mut(),
        Method::PUT => item.put.as_mut(),
        Method::POST => item.post.as_mut(),
        Method::DELETE => item.delete.as_mut(),
        Method::PATCH => item.patch.as_mut(),
        _ => None,
    }
}

/// A name that clients' generators can use: `get_agents_agent_id_evidence`.
fn operation_id(route: &Route) -> String {
    let words = route.path.split(|c: char| !c.is_ascii_alphanumeric());
    let words = words.filter(|word| !word.is_empty());
    let method = route.method.as_str().to_ascii_lowercase();
    let words: Vec<&str> = std::iter::once(method.as_str()).chain(words).collect();
    words.join("_")
}

fn security(permission: Permission) -> Vec<SecurityRequirement> {
    let with = |action: &'static str| SecurityRequirement::new(OPERATOR, [action]);
    match permission {
        // What they demand stands in the body.
        Permission::Public
        | Permission::KeylimePublic
        // A certificate, which the document has no scheme for.
        | Permission::KeylimeAdmin(_)
        | Permission::KeylimeAgentOrAdmin(_)
        // A token of an agent, likewise.
        | Permission::KeylimeAgent(_)
        | Permission::KeylimeSession
        | Permission::Password
        | Permission::EnrolmentToken
        | Permission::PendingActivation => Vec::new(),
        Permission::AnySession | Permission::Session => {
            vec![SecurityRequirement::new(SESSION, NO_SCOPES)]
        }
        Permission::Operator(action) => vec![with(action)],
        Permission::LoopbackOrOperator(action) => {
            vec![SecurityRequirement::default(), with(action)]
        }
    }
}

fn leave_out_body(operation: &mut Operation) {
    if let Some(RefOr::T(body)) = &mut operation.request_body {
        body.required = Some(Required::False);
    }
}
