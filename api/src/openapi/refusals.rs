//! Which refusals each operation has: what follows from its declaration, and what its handler adds.
//!
//! They are given as the errors themselves, so that status and code are what the server answers.

use std::collections::{BTreeMap, BTreeSet};

use axum::http::Method;
use utoipa::openapi::path::{Operation, Parameter, ParameterIn};
use utoipa::openapi::schema::{AllOfBuilder, ObjectBuilder, Type};
use utoipa::openapi::{ContentBuilder, Ref, RefOr, Response, ResponseBuilder};

use crate::auth::Permission;
use crate::error::{ApiError, Conflict, JsonFault, MemberFault, ShownName};
use crate::people;
use crate::surface::{BodyLimit, Route};

/// Adds the refusals of an operation to its responses, one for each status, with the codes that it
/// can have.
pub(super) fn describe(operation: &mut Operation, route: &Route) {
    let is_of_accounts = route.path.starts_with(people::PREFIX);
    let shape = if is_of_accounts {
        people::REFUSAL
    } else {
        "Error"
    };
    let mut by_status: BTreeMap<u16, BTreeSet<String>> = BTreeMap::new();
    for error in of(operation, route) {
        let (status, code) = if is_of_accounts {
            let (status, code) = people::told(&error);
            (status, code.to_owned())
        } else {
            (error.status(), error.code().into_owned())
        };
        by_status.entry(status.as_u16()).or_default().insert(code);
    }
    for (status, codes) in by_status {
        let responses = &mut operation.responses.responses;
        let described = responses.entry(status.to_string());
        described.or_insert_with(|| RefOr::T(response(shape, &codes)));
    }
}

/// A refusal in a shape, with one of these codes.
fn response(shape: &str, codes: &BTreeSet<String>) -> Response {
    let code = ObjectBuilder::new()
        .schema_type(Type::String)
        .enum_values(Some(codes.iter().cloned()));
    let schema = AllOfBuilder::new()
        .item(Ref::from_schema_name(shape))
        .item(ObjectBuilder::new().property("code", code));
    let content = ContentBuilder::new().schema(Some(schema)).build();
    let codes: Vec<&str> = codes.iter().map(String::as_str).collect();
    ResponseBuilder::new()
        .description(codes.join(", "))
        .content("application/json", content)
        .build()
}

/// Every refusal of an operation.
fn of(operation: &Operation, route: &Route) -> Vec<ApiError> {
    let mut errors = vec![
        ApiError::Limited {
            limit: "",
            retry_after_seconds: 1,
        },
        ApiError::Unavailable(""),
        ApiError::Unfinished,
    ];
    errors.extend(of_permission(route.permission));
    if let BodyLimit::Bytes(_, max) = route.body {
        errors.extend([
            ApiError::Json(JsonFault::Duplicate),
            ApiError::BodyBroken,
            ApiError::TooSlow,
            ApiError::BodyTooLong { max },
            ApiError::ContentEncoding,
            ApiError::NotAnObject,
            ApiError::member("", MemberFault::Missing),
            ApiError::UnknownMember(ShownName::new("")),
        ]);
    }
    let parameters = operation.parameters.as_deref().unwrap_or_default();
    let is_of_query = |parameter: &RefOr<Parameter>| match parameter {
        RefOr::T(parameter) => parameter.parameter_in == ParameterIn::Query,
        RefOr::Ref(_) => false,
    };
    if parameters.iter().any(is_of_query) {
        errors.extend([
            ApiError::Parameter {
                parameter: "",
                fault: MemberFault::Missing,
            },
            ApiError::UnknownParameter(ShownName::new("")),
        ]);
    }
    errors.extend(of_handler(&route.method, route.path));
    errors
}

fn of_permission(permission: Permission) -> Vec<ApiError> {
    match permission {
        Permission::Public | Permission::PendingActivation | Permission::KeylimeSession => {
            Vec::new()
        }
        Permission::Password => vec![ApiError::WrongPassword],
        Permission::KeylimePublic | Permission::EnrolmentToken => vec![ApiError::NotAuthenticated],
        Permission::KeylimeAdmin(action) | Permission::KeylimeAgentOrAdmin(action) => vec![
            ApiError::NeedsTls,
            ApiError::NotAuthenticated,
            ApiError::NotKeylimeAdmin(action),
        ],
        Permission::KeylimeAgent(action) => vec![
            ApiError::NeedsTls,
            ApiError::NotAuthenticated,
            ApiError::NotKeylimeAgent(action),
        ],
        Permission::AnySession | Permission::Session => vec![
            ApiError::NotAuthenticated,
            ApiError::NeedsLogin,
            ApiError::PasswordChangeRequired,
        ],
        Permission::Operator(action) | Permission::LoopbackOrOperator(action) => vec![
            ApiError::NotAuthenticated,
            ApiError::NotPermitted(action),
            ApiError::PasswordChangeRequired,
        ],
    }
}

/// Codes of what a machine presents, and is refused for.
const OF_MACHINES: [&str; 14] = [
    "ak.attributes",
    "ak.malformed",
    "ak.roca",
    "csr.key",
    "csr.malformed",
    "csr.signature",
    "ek.attributes",
    "ek.certificate_missing",
    "ek.chain_invalid",
    "ek.key_mismatch",
    "ek.malformed",
    "ek.not_approved",
    "ek.not_listed",
    "ek.roca",
];

fn refused(codes: &[&'static str]) -> Vec<ApiError> {
    let refused = |code: &&'static str| ApiError::Refused {
        code,
        detail: String::new(),
    };
    codes.iter().map(refused).collect()
}

fn conflicts(conflicts: &[Conflict]) -> Vec<ApiError> {
    conflicts.iter().copied().map(ApiError::Conflict).collect()
}

fn missing(what: &[&'static str]) -> Vec<ApiError> {
    what.iter().copied().map(ApiError::NotFound).collect()
}

/// What the handler of a path refuses, beside what follows from how the route is declared.
fn of_handler(method: &Method, path: &str) -> Vec<ApiError> {
    match (method.as_str(), path) {
        ("POST", "/agents/enroll" | "/agents/enroll-baseline") => of_enrolment(path),
        ("POST", "/agents/{agent_id}/activate") => [
            refused(&[
                "activation.proof_wrong",
                "ak.attributes",
                "csr.malformed",
                "ek.not_approved",
                "ek.not_listed",
            ]),
            missing(&["pending activation", "group"]),
            conflicts(&[
                Conflict::IdTaken,
                Conflict::EkTaken,
                Conflict::OtherGroup,
                Conflict::NewAk,
            ]),
            vec![ApiError::NotAuthenticated],
        ]
        .concat(),
        _ if path.starts_with("/agents/{agent_id}") => of_agents(path, method),
        _ if path.starts_with("/policies/") => of_policies(path, method),
        _ if path.starts_with("/groups/") => of_groups(path, method),
        ("POST", "/tokens/generate-baseline") => [
            missing(&["group"]),
            conflicts(&[Conflict::PolicyActive, Conflict::GroupExists]),
        ]
        .concat(),
        ("POST", "/tokens/generate") => missing(&["group"]),
        ("DELETE", "/tokens/{token_id}") => missing(&["token"]),
        ("POST", "/relays/") => [
            refused(&["csr.malformed"]),
            conflicts(&[Conflict::RelayExists, Conflict::RelaysFull]),
        ]
        .concat(),
        ("DELETE", "/relays/{relay_name}") => missing(&["relay"]),
        ("GET", "/webhooks/" | "/status" | "/relays/") => {
            vec![ApiError::UnknownParameter(ShownName::new(""))]
        }
        _ if path.ends_with("/redeliver") => missing(&["webhook", "dead letter"]),
        _ if path.starts_with("/webhooks/") => missing(&["webhook"]),
        _ => of_accounts(path, method),
    }
}

fn of_enrolment(path: &str) -> Vec<ApiError> {
    let found = "";
    let own = match path {
        "/agents/enroll" => vec![ApiError::NotSupported("")],
        _ => conflicts(&[Conflict::PolicyActive]),
    };
    [
        refused(&OF_MACHINES),
        missing(&["group"]),
        conflicts(&[Conflict::IdTaken, Conflict::OtherGroup]),
        vec![ApiError::TokenKind { found, hint: "" }],
        own,
    ]
    .concat()
}

fn of_agents(path: &str, method: &Method) -> Vec<ApiError> {
    let action = path.rsplit('/').next().unwrap_or_default();
    let own = match (method.as_str(), action) {
        ("POST", "approve") => [
            conflicts(&[Conflict::NothingWaits, Conflict::SeveralWait]),
            vec![ApiError::MachineNotNamed],
        ]
        .concat(),
        ("POST", "clear") => conflicts(&[Conflict::NotFailed]),
        ("POST", "move") => missing(&["group"]),
        ("POST", "relay") => missing(&["relay"]),
        _ => Vec::new(),
    };
    [missing(&["agent"]), own].concat()
}

fn of_policies(path: &str, method: &Method) -> Vec<ApiError> {
    match (method.as_str(), path) {
        ("POST", "/policies/") => [
            refused(&["policy.malformed"]),
            missing(&["group", "policy"]),
        ]
        .concat(),
        ("GET", "/policies/") => Vec::new(),
        ("GET", "/policies/groups/{group_id}/active-policy") => {
            missing(&["group", "policy", "active policy"])
        }
        ("POST", "/policies/groups/{group_id}/rollback") => {
            [missing(&["group"]), conflicts(&[Conflict::NothingBefore])].concat()
        }
        _ => missing(&["policy", "group"]),
    }
}

fn of_groups(path: &str, method: &Method) -> Vec<ApiError> {
    match (method.as_str(), path) {
        ("GET", "/groups/") => Vec::new(),
        ("POST", "/groups/") => conflicts(&[Conflict::GroupExists]),
        ("PUT", "/groups/{group_id}") => [missing(&["group"]), vec![ApiError::Changed]].concat(),
        ("DELETE", _) => missing(&["group", "endorsement key", "approval"]),
        ("PUT", _) => missing(&["group", "endorsement key"]),
        _ => missing(&["group"]),
    }
}

fn of_accounts(path: &str, method: &Method) -> Vec<ApiError> {
    let changes = matches!(method.as_str(), "POST" | "PUT" | "DELETE");
    let rest = path.strip_prefix(people::PREFIX).unwrap_or_default();
    let member = || ApiError::member("", MemberFault::Missing);
    match rest.split('/').next() {
        Some("users") if path.contains('{') && changes => [
            missing(&["user"]),
            conflicts(&[Conflict::LastAdministrator]),
            vec![ApiError::BeyondCaller],
        ]
        .concat(),
        Some("users") if path.contains('{') => missing(&["user"]),
        Some("users") if changes => [
            conflicts(&[Conflict::UsernameTaken, Conflict::Full]),
            missing(&["user"]),
            vec![ApiError::BeyondCaller],
        ]
        .concat(),
        Some("auth") if rest == "auth/me" && changes => conflicts(&[Conflict::LastAdministrator]),
        Some("auth") if rest == "auth/tokens" && changes => [
            conflicts(&[Conflict::Full]),
            missing(&["token"]),
            vec![ApiError::BeyondCaller],
        ]
        .concat(),
        // The parameter that it takes is refused like a member.
        Some("auth") if rest == "auth/tokens" => {
            vec![member(), ApiError::NotPermitted("tokens:view")]
        }
        Some("auth") if rest.starts_with("auth/tokens/") => missing(&["token"]),
        _ => Vec::new(),
    }
}
