//! The Core API's part of the OpenAPI document.

use utoipa::OpenApi;

use super::{
    activation, agents, audit, enrolment, evidence, groups, health, issue, machines, operate,
    policies, relays, status, sync, tokens, webhooks,
};

#[derive(OpenApi)]
#[openapi(
    paths(
        activation::activate,
        agents::list,
        agents::show,
        audit::list,
        enrolment::enrol,
        enrolment::enrol_baseline,
        evidence::show,
        groups::change,
        groups::create,
        groups::list,
        groups::show,
        health::show,
        issue::baseline,
        issue::list,
        issue::revoke,
        issue::standard,
        machines::approved,
        machines::keep_out,
        machines::let_in,
        machines::waiting,
        operate::approve,
        operate::change_group,
        operate::clear,
        operate::remove,
        policies::activate,
        policies::active,
        policies::add,
        policies::diff,
        policies::list,
        policies::roll_back,
        policies::show,
        relays::add,
        relays::list,
        relays::of_agent,
        relays::remove,
        status::show,
        sync::sync_status,
        tokens::validate,
        webhooks::dead_letters,
        webhooks::list,
        webhooks::redeliver,
        webhooks::test,
    ),
    tags(
        (name = "enrolment", description = "Machines that join, and the tokens that let them."),
        (name = "agents", description = "Machines that are enrolled, and how they stand."),
        (name = "policies", description = "What machines may run."),
        (name = "groups", description = "Which policy holds for whom, and how strictly."),
        (name = "relays", description = "Machines that carry the evidence of others."),
        (name = "server", description = "The server itself."),
    ),
)]
struct Described;

/// What this surface's routes take and answer.
pub fn described() -> utoipa::openapi::OpenApi {
    Described::openapi()
}
