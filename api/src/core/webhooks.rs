//! Webhooks: how they stand, what they never took, and whether they can be reached.

use std::future::Future;
use std::pin::Pin;

use axum::Extension;
use axum::http::Uri;
use rat_store::{AuditEntry, DeadLetter, WebhookStanding};

use super::request::{
    Answered, LetterInPath, Parameters, Reply, WebhookInPath, last_of_full, next_page,
};
use super::{Core, State, wire::webhook as wire};
use crate::auth::Caller;
use crate::clock::{rfc3339, unix_ms};
use crate::error::ApiError;

const UNKNOWN: ApiError = ApiError::NotFound("webhook");

/// Whether messages arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WebhookState {
    /// There is nothing to deliver.
    Idle,
    /// Messages are on their way.
    Delivering,
    /// The last attempt failed; it is tried again.
    Failing,
}

/// A webhook, without anything secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShownWebhook {
    /// Its name.
    pub name: String,
    /// Where it is, without its query.
    pub url: String,
    /// Whether messages arrive.
    pub state: WebhookState,
    /// How it stands.
    pub standing: WebhookStanding,
}

/// How a test message was taken: its id, and why it was not.
pub type Tested = (String, Result<(), String>);

/// Sends one test message; `None` when there are no random numbers for its id.
pub type Test<'a> = Pin<Box<dyn Future<Output = Option<Tested>> + Send + 'a>>;

/// Whoever delivers.
pub trait Webhooks: Send + Sync {
    /// All that are configured, in that order.
    fn shown(&self) -> Vec<ShownWebhook>;

    /// Says that a message was put into a webhook's queue.
    fn queued(&self, name: &str);

    /// A test message for a webhook, sent when it is awaited; `None` when there is no such webhook.
    fn test(&self, name: &str) -> Option<Test<'_>>;
}

/// Lists the webhooks of the server's configuration, and how each stands.
#[utoipa::path(
    get, path = "/webhooks/", tag = "server",
    responses((status = 200, body = Vec<wire::Webhook>)),
)]
pub(super) async fn list(state: State, parameters: Parameters) -> Answered<Vec<wire::Webhook>> {
    parameters.only(&[])?;
    let shown = state.0.webhooks.shown().into_iter();
    Ok(Reply::ok(shown.map(wire::Webhook::from).collect()))
}

/// Lists messages that were given up, the newest first. The newest 10,000 are kept.
#[utoipa::path(
    get, path = "/webhooks/{webhook_name}/dead-letters", tag = "server",
    params(
        ("webhook_name" = String, Path),
        ("limit" = Option<u64>, Query, minimum = 1, maximum = 1000, description = "Items of a page; 1000 when missing."),
        ("after" = Option<u64>, Query, description = "The page after the message of this number."),
    ),
    responses((status = 200, body = Vec<wire::DeadLetter>, headers(("link" = String, description = "Where the next page is, when there is one.")))),
)]
pub(super) async fn dead_letters(
    state: State,
    WebhookInPath(name): WebhookInPath,
    uri: Uri,
    parameters: Parameters,
) -> Answered<Vec<wire::DeadLetter>> {
    parameters.only(&["limit", "after"])?;
    let newest = u64::try_from(i64::MAX).unwrap_or(u64::MAX);
    let before = parameters.number("after", 0..=newest)?.unwrap_or(newest);
    let limit = parameters.limit()?;
    let core = &state.0;
    require(core, &name)?;
    let letters = core.store.dead_letters(&name, before, limit).await?;
    let last = last_of_full(&letters, limit);
    let next = last.map(|last| next_page(uri.path(), &parameters, &last.number.to_string()));
    let shown = letters.into_iter().map(shown_letter);
    Ok(Reply::ok(shown.collect()).with_next(next))
}

/// Refuses a name that no webhook of the configuration has.
fn require(core: &Core, name: &str) -> Result<(), ApiError> {
    let shown = core.webhooks.shown();
    let is_there = shown.iter().any(|webhook| webhook.name == name);
    is_there.then_some(()).ok_or(UNKNOWN)
}

fn shown_letter(letter: DeadLetter) -> wire::DeadLetter {
    wire::DeadLetter {
        number: letter.number,
        id: letter.id,
        agent_id: letter.subject,
        // What we wrote is JSON; a row that somebody damaged is shown without.
        message: serde_json::from_str(&letter.body).ok(),
        queued_at: rfc3339(letter.queued_unix_ms),
        given_up_at: rfc3339(letter.given_up_unix_ms),
        attempts: letter.attempts,
        error: letter.error,
    }
}

/// Puts a message that was given up into the queue again, behind those that wait about its agent. It
/// is the same message, with the same id: it says what was so when it was made. Its attempts and
/// its age are counted anew.
#[utoipa::path(
    post, path = "/webhooks/{webhook_name}/dead-letters/{message_id}/redeliver", tag = "server",
    params(("webhook_name" = String, Path), ("message_id" = String, Path, description = "The `id` of a dead letter.")),
    responses((status = 200, body = wire::Redelivery)),
)]
pub(super) async fn redeliver(
    state: State,
    LetterInPath { webhook, id }: LetterInPath,
    Extension(caller): Extension<Caller>,
) -> Answered<wire::Redelivery> {
    let core = &state.0;
    require(core, &webhook)?;
    let (actor, now) = (caller.actor(), unix_ms());
    let queued = core.store.redeliver(&webhook, &id, actor, now).await?;
    let agent_id = queued.ok_or(ApiError::NotFound("dead letter"))?;
    core.webhooks.queued(&webhook);
    Ok(Reply::ok(wire::Redelivery { id, agent_id }))
}

/// Sends a signed test message at once, past the queue, and says how it was taken.
#[utoipa::path(
    post, path = "/webhooks/{webhook_name}/test", tag = "server",
    params(("webhook_name" = String, Path)),
    responses((status = 200, body = wire::Tested)),
)]
pub(super) async fn test(
    state: State,
    WebhookInPath(name): WebhookInPath,
    Extension(caller): Extension<Caller>,
) -> Answered<wire::Tested> {
    let core = &state.0;
    let test = core.webhooks.test(&name).ok_or(UNKNOWN)?;
    let entry = AuditEntry {
        at_unix_ms: unix_ms(),
        actor: caller.actor(),
        action: "webhook.test",
        target: &name,
        detail: "",
    };
    // Nothing is sent unless it stands in the log who asked for it.
    core.store.audit(entry).await?;
    let no_random = ApiError::Unavailable("there are no random numbers to be had");
    let (id, result) = test.await.ok_or(no_random)?;
    Ok(Reply::ok(wire::Tested {
        id,
        delivered: result.is_ok(),
        error: result.err(),
    }))
}
