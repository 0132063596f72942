//! Metrics. Labels are fixed words. (X07)

use metrics::counter;

/// A message was noted for those who are told.
pub(super) fn told(kind: &'static str) {
    counter!("attest_keylime_revocations_total", "type" => kind).increment(1);
}

/// A message could not be signed with its agent's key.
pub(super) fn unsigned() {
    counter!("attest_keylime_revocations_unsigned_total").increment(1);
}

/// A message was too long to be kept whole.
pub(super) fn shortened() {
    counter!("attest_limit_rejections_total", "limit" => "MESSAGE_BYTES_MAX").increment(1);
}
