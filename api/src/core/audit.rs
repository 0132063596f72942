//! Who changed what.

use axum::http::Uri;

use super::request::{Answered, Parameters, Reply, last_of_full, next_page};
use super::{State, wire};
use crate::clock::rfc3339;

/// Lists entries of the audit log, the oldest first.
#[utoipa::path(
    get, path = "/audit", tag = "server",
    params(
        ("limit" = Option<u64>, Query, minimum = 1, maximum = 1000, description = "Items of a page; 1000 when missing."),
        ("after" = Option<u64>, Query, description = "Entries after this number."),
    ),
    responses((status = 200, body = Vec<wire::AuditEntry>, headers(("link" = String, description = "Where the next page is, when there is one.")))),
)]
pub(super) async fn list(
    state: State,
    uri: Uri,
    parameters: Parameters,
) -> Answered<Vec<wire::AuditEntry>> {
    parameters.only(&["limit", "after"])?;
    let newest = u64::try_from(i64::MAX).unwrap_or(u64::MAX);
    let after = parameters.number("after", 0..=newest)?.unwrap_or(0);
    let limit = parameters.limit()?;
    let entries = state.0.store.audit_entries(after, limit).await?;
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
