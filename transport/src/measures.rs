//! The metrics of the transports: names, units, and the one place that counts.

use std::time::Duration;

use metrics::{
    Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
};

use crate::quic::Reason;

/// Connections that are open, whatever their state.
pub const CONNECTIONS: &str = "attest_transport_connections";
/// Handshakes by how they ended.
pub const HANDSHAKES: &str = "attest_transport_handshakes_total";
/// Peers that were told to show that they receive at their address.
pub const RETRIES: &str = "attest_transport_address_validations_total";
/// Conversations and requests that the server ended, by reason.
pub const REFUSALS: &str = "attest_transport_refusals_total";
/// Evidence handed over.
pub const EVIDENCE: &str = "attest_transport_evidence_total";
/// Verdicts sent.
pub const VERDICTS: &str = "attest_transport_verdicts_total";
/// Bytes of boot logs and lists handed over.
pub const LOG_BYTES: &str = "attest_transport_log_bytes_total";
/// Certificates renewed.
pub const RENEWALS: &str = "attest_transport_renewals_total";
/// Bytes of logs that are held until they are handed over.
pub const BUFFERED_BYTES: &str = "attest_transport_buffered_bytes";
/// Relays that are connected.
pub const RELAYS: &str = "attest_transport_relays";
/// Agents that relays speak for.
pub const RELAYED_AGENTS: &str = "attest_transport_relayed_agents";
/// What relays sent for agents that were not asked for it, or that are not connected.
pub const RELAY_UNASKED: &str = "attest_transport_relay_unasked_total";
/// Polls of Keylime's agents by how they ended.
pub const POLLS: &str = "attest_pull_polls_total";
/// How long a poll took, to the end of the agent's answer.
pub const POLL_DURATION: &str = "attest_pull_duration_seconds";
/// Agents that are polled.
pub const POLLED_AGENTS: &str = "attest_pull_agents";
/// Of these, those that did not answer last.
pub const UNREACHABLE_AGENTS: &str = "attest_pull_unreachable_agents";
/// Connections that were opened to agents.
pub const POLL_CONNECTIONS: &str = "attest_pull_connections_total";
/// V keys sent, by result.
pub const V_KEYS: &str = "attest_pull_v_keys_total";
/// Revocations told to polled agents, by result.
pub const REVOCATIONS: &str = "attest_pull_revocations_total";
/// What a named limit turned away.
pub const LIMIT_REJECTIONS: &str = "attest_limit_rejections_total";

/// Tells the recorder what each metric means. Call it once, after the recorder is installed.
pub fn describe() {
    describe_gauge!(CONNECTIONS, Unit::Count, "Open connections of agents.");
    describe_counter!(
        HANDSHAKES,
        Unit::Count,
        "TLS handshakes by result: done, failed, timeout or refused."
    );
    describe_counter!(
        RETRIES,
        Unit::Count,
        "Peers that had to validate their address first."
    );
    describe_counter!(
        REFUSALS,
        Unit::Count,
        "Conversations and requests refused, by reason."
    );
    describe_counter!(EVIDENCE, Unit::Count, "Evidence handed to the shards.");
    describe_counter!(VERDICTS, Unit::Count, "Verdicts sent to agents.");
    describe_counter!(
        LOG_BYTES,
        Unit::Bytes,
        "Bytes of boot logs and measurement lists handed over."
    );
    describe_counter!(RENEWALS, Unit::Count, "Agent certificates renewed.");
    describe_gauge!(
        BUFFERED_BYTES,
        Unit::Bytes,
        "Bytes of logs held until they are handed over."
    );
    describe_gauge!(RELAYS, Unit::Count, "Connected relays.");
    describe_gauge!(RELAYED_AGENTS, Unit::Count, "Agents that relays speak for.");
    describe_counter!(
        RELAY_UNASKED,
        Unit::Count,
        "What relays sent for agents that were not asked for it, or are not connected."
    );
    describe_pull();
    describe_counter!(
        LIMIT_REJECTIONS,
        Unit::Count,
        "What a named limit turned away."
    );
}

fn describe_pull() {
    describe_counter!(
        POLLS,
        Unit::Count,
        "Polls of Keylime's agents by result: evidence, or why there is none."
    );
    describe_histogram!(
        POLL_DURATION,
        Unit::Seconds,
        "Time from a challenge to the end of its agent's answer."
    );
    describe_gauge!(POLLED_AGENTS, Unit::Count, "Agents that are polled.");
    describe_gauge!(
        UNREACHABLE_AGENTS,
        Unit::Count,
        "Polled agents that did not answer last."
    );
    describe_counter!(
        POLL_CONNECTIONS,
        Unit::Count,
        "Connections opened to polled agents."
    );
    describe_counter!(
        V_KEYS,
        Unit::Count,
        "V keys sent to polled agents, by result."
    );
    describe_counter!(
        REVOCATIONS,
        Unit::Count,
        "Revocations told to polled agents, by result."
    );
}

pub(crate) fn poll(result: &'static str, took: Duration) {
    counter!(POLLS, "result" => result).increment(1);
    histogram!(POLL_DURATION).record(took.as_secs_f64());
}

pub(crate) fn v_key(result: &'static str) {
    counter!(V_KEYS, "result" => result).increment(1);
}

pub(crate) fn revocations(result: &'static str, count: u64) {
    if count > 0 {
        counter!(REVOCATIONS, "result" => result).increment(count);
    }
}

pub(crate) fn polled_agents(change: f64) {
    gauge!(POLLED_AGENTS).increment(change);
}

pub(crate) fn unreachable_agents(change: f64) {
    gauge!(UNREACHABLE_AGENTS).increment(change);
}

pub(crate) fn handshake(result: &'static str) {
    counter!(HANDSHAKES, "result" => result).increment(1);
}

pub(crate) fn refusal(reason: Reason) {
    counter!(REFUSALS, "reason" => reason.as_str()).increment(1);
}

pub(crate) fn limit(name: &'static str) {
    counter!(LIMIT_REJECTIONS, "limit" => name).increment(1);
}

pub(crate) fn connections(change: f64) {
    gauge!(CONNECTIONS).increment(change);
}

pub(crate) fn relays(change: f64) {
    gauge!(RELAYS).increment(change);
}

pub(crate) fn relayed_agents(change: f64) {
    gauge!(RELAYED_AGENTS).increment(change);
}

pub(crate) fn buffered(change: f64) {
    gauge!(BUFFERED_BYTES).increment(change);
}

pub(crate) fn count(name: &'static str, by: u64) {
    counter!(name).increment(by);
}
