//! Metrics. Labels hold names of the configuration and fixed words. (X07)

use std::time::Duration;

use metrics::{counter, gauge, histogram};

use super::client::Failure;

pub(super) fn attempt(webhook: &str, result: Result<(), Failure>) {
    let result = match result {
        Ok(()) => "taken",
        Err(failure) => failure.as_str(),
    };
    counter!("attest_webhook_attempts_total", "webhook" => webhook.to_owned(), "result" => result)
        .increment(1);
}

pub(super) fn queued(webhook: &str, messages: u64) {
    let messages = u32::try_from(messages).unwrap_or(u32::MAX);
    gauge!("attest_webhook_messages_queued", "webhook" => webhook.to_owned())
        .set(f64::from(messages));
}

pub(super) fn dead_letters(webhook: &str, more: u64) {
    counter!("attest_webhook_dead_letters_total", "webhook" => webhook.to_owned()).increment(more);
}

pub(super) fn delivered(webhook: &str, after_ms: u64) {
    let seconds = Duration::from_millis(after_ms).as_secs_f64();
    histogram!("attest_webhook_delivery_duration_seconds", "webhook" => webhook.to_owned())
        .record(seconds);
}

/// Agents are compared with what was noted last.
pub(super) fn comparison(why: &'static str) {
    counter!("attest_webhook_comparisons_total", "why" => why).increment(1);
}

pub(super) fn limit_rejection(limit: &'static str) {
    counter!("attest_limit_rejections_total", "limit" => limit).increment(1);
}
