//! Metrics. No label is unbounded: none holds an id, a path or a group.

use std::time::Duration;

use metrics::{counter, gauge, histogram};
use rat_engine::crypto::VectorUnit;
use rat_engine::ima::CacheFigures;
use rat_engine::shard::{EffectiveStatus, Event};

/// A queue or table was full.
pub(crate) fn limit_rejection(limit: &'static str) {
    counter!("attest_limit_rejections_total", "limit" => limit).increment(1);
}

pub(crate) fn queue_depth(waiting: usize) {
    let waiting = u32::try_from(waiting).unwrap_or(u32::MAX);
    histogram!("attest_queue_depth").record(f64::from(waiting));
}

pub(crate) fn queue_wait(waited: Duration) {
    histogram!("attest_queue_wait_seconds").record(waited.as_secs_f64());
}

pub(crate) fn events_lost(lost: u64) {
    counter!("attest_events_lost_total").increment(lost);
}

pub(crate) fn worker_died() {
    counter!("attest_worker_deaths_total").increment(1);
}

pub(crate) fn group_without_policies() {
    counter!("attest_groups_without_policies_total").increment(1);
}

pub(crate) fn lane_panicked() {
    counter!("attest_lane_panics_total").increment(1);
}

/// What the caches of lists have done, and hold.
pub(crate) fn ima_caches(figures: &CacheFigures) {
    let results = [
        ("hit", figures.hits),
        ("miss", figures.misses),
        ("inserted", figures.insertions),
        ("promoted", figures.promotions),
        ("refused", figures.refused_by_quota),
        ("evicted", figures.evictions),
    ];
    for (result, count) in results {
        counter!("attest_ima_cache_total", "result" => result).absolute(count);
    }
    // No gauge has more precision than 53 bits, and no server as many bytes.
    let bytes = u32::try_from(figures.bytes >> 10).unwrap_or(u32::MAX);
    gauge!("attest_ima_cache_bytes").set(f64::from(bytes) * 1024.0);
}

/// So many signatures are verified together.
pub(crate) fn signatures_per_batch(signatures: usize) {
    let signatures = u32::try_from(signatures).unwrap_or(u32::MAX);
    histogram!("attest_signatures_per_batch").record(f64::from(signatures));
}

/// What verifies signatures from now on.
pub(crate) fn vector_unit(is: VectorUnit) {
    let states = [
        (VectorUnit::InUse, "in_use"),
        (VectorUnit::Absent, "absent"),
        (VectorUnit::Distrusted, "distrusted"),
    ];
    for (state, name) in states {
        let value = if state == is { 1.0 } else { 0.0 };
        gauge!("attest_vector_unit", "state" => name).set(value);
    }
}

pub(crate) fn protocol_fault(kind: &'static str) {
    counter!("attest_protocol_faults_total", "kind" => kind).increment(1);
}

/// So many agents more, or less, are shown with this status.
pub(crate) fn agents(status: EffectiveStatus, by: i64) {
    let gauge = gauge!("attest_agents", "state" => status.as_str());
    let count = u32::try_from(by.unsigned_abs()).map_or(f64::MAX, f64::from);
    if by < 0 {
        gauge.decrement(count);
    } else {
        gauge.increment(count);
    }
}

fn seconds(ms: u64) -> f64 {
    Duration::from_millis(ms).as_secs_f64()
}

pub(crate) fn event(event: &Event) {
    match event {
        Event::Attested {
            status,
            code,
            took_ms,
            age_ms,
            entries,
            ..
        } => {
            let code = code.map_or("", |code| code.as_str());
            counter!("attest_verifications_total", "verdict" => status.as_str(), "code" => code)
                .increment(1);
            histogram!("attest_verify_duration_seconds", "stage" => "arrival_to_commit")
                .record(seconds(*took_ms));
            if let Some(age_ms) = age_ms {
                histogram!("attest_evidence_age_seconds").record(seconds(*age_ms));
            }
            counter!("attest_ima_entries_total", "result" => "proven").increment(*entries);
        }
        Event::TurnedAway { code, .. } => {
            counter!("attest_turned_away_total", "code" => code.as_str()).increment(1);
        }
        Event::Abandoned { why, .. } => {
            counter!("attest_abandoned_total", "why" => why.as_str()).increment(1);
        }
        Event::RelayMismatch { code, .. } => {
            counter!("attest_relay_mismatches_total", "code" => code.as_str()).increment(1);
        }
        Event::SecondLook { code, .. } => {
            counter!("attest_second_looks_total", "code" => code.as_str()).increment(1);
        }
        Event::Rejudged { code, .. } => {
            let result = if code.is_some() { "denied" } else { "passed" };
            rejudged(result);
        }
        Event::ListUnusable { why, .. } => rejudged(why.as_str()),
        Event::Status { .. } | Event::BaselineProven { .. } | Event::Cleared { .. } => {}
    }
}

pub(crate) fn list_piece_read() {
    counter!("attest_list_pieces_read_total").increment(1);
}

fn rejudged(result: &'static str) {
    counter!("attest_lists_rejudged_total", "result" => result).increment(1);
}

pub(crate) fn store_duration(operation: &'static str, seconds: f64) {
    histogram!("attest_store_duration_seconds", "op" => operation).record(seconds);
}

pub(crate) fn store_failed(operation: &'static str) {
    counter!("attest_store_errors_total", "op" => operation).increment(1);
}

pub(crate) fn ticks(result: &'static str) {
    counter!("attest_ticks_total", "result" => result).increment(1);
}
