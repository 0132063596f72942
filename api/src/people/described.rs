//! The accounts' part of the OpenAPI document.

use utoipa::OpenApi;

use super::refusal::Refusal;
use super::{me, session, tokens, users};

#[derive(OpenApi)]
#[openapi(
    paths(
        me::change,
        me::change_password,
        me::show,
        session::log_in,
        session::log_out,
        tokens::create,
        tokens::list,
        tokens::revoke,
        users::change,
        users::create,
        users::disable,
        users::list,
        users::roles,
        users::set_password,
        users::show,
    ),
    components(schemas(Refusal)),
    tags((name = "accounts", description = "People, what they may do, and the tokens of programs.")),
)]
struct Described;

/// What this surface's routes take and answer.
pub fn described() -> utoipa::openapi::OpenApi {
    Described::openapi()
}
