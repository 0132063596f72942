//! Who changed what.

use axum::http::Uri;

use super::request::{Answered, Parameters, Reply, last_of_full, next_page, wrong};
use super::{State, wire};
use crate::clock::rfc3339;
use crate::error::ApiError;

/// Lists entries of the audit log, the oldest or the newest first.
#[utoipa::path(
    get, path = "/audit", tag = "server",
    params(
        ("limit" = Option<u64>, Query, minimum = 1, maximum = 1000, description = "Items of a page; 1000 when missing."),
        ("order" = Option<wire::AuditOrder>, Query, description = "Which come first; the oldest when missing."),
        ("after" = Option<u64>, Query, description = "Entries that come after the one of this number, in that order."),
    ),
    responses((status = 200, body = Vec<wire::AuditEntry>, headers(("link" = String, description = "Where the next page is, when there is one.")))),
)]
pub(super) async fn list(
    state: State,
    uri: Uri,
    parameters: Parameters,
) -> Answered<Vec<wire::AuditEntry>> {
    parameters.only(&["limit", "order", "after"])?;
    let newest = u64::try_from(i64::MAX).unwrap_or(u64::MAX);
    let after = parameters.number("after", 0..=newest)?;
    let limit = parameters.limit()?;
    let store = &state.0.store;
    let entries = match order(&parameters)? {
        wire::AuditOrder::Oldest => store.audit_entries(after.unwrap_or(0), limit).await?,
        wire::AuditOrder::Newest => {
            let before = after.unwrap_or(newest);
            store.audit_entries_before(before, limit).await?
        }
    };
    let last = last_of_full(&entries, limit);
    let next = last.map(|last| next_page(uri.path(), &parameters, &last.seq.to_string()));
    let shown = entries.into_iter().map(|entry| wire::AuditEntry {
        seq: entry.seq,
        at: rfc3339(entry.at_unix_ms),
        actor: entry.actor,
        action: entry.action,
        target: entry.target,
        detail: entry.detail,
        head: hex::encode(entry.head.0),
    });
    Ok(Reply::ok(shown.collect()).with_next(next))
}

fn order(parameters: &Parameters) -> Result<wire::AuditOrder, ApiError> {
    match parameters.text("order") {
        None | Some("oldest") => Ok(wire::AuditOrder::Oldest),
        Some("newest") => Ok(wire::AuditOrder::Newest),
        Some(_) => Err(wrong("order", "must be oldest or newest".to_owned())),
    }
}
