//! Every metric that the server exposes: name, kind, unit, help and labels in one catalogue.
//!
//! No label takes a value that a client chooses (an id, a path, a name): each has a bounded set.
//! (X07)

use std::fmt::Write;

use axum::http::{Method, StatusCode};
use metrics::Unit;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use thiserror::Error;
use tokio::time::Instant;

/// What a metric counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It only grows.
    Counter,
    /// It goes up and down.
    Gauge,
    /// How often each range of values was seen.
    Histogram,
}

impl Kind {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// One metric.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    /// Its name.
    pub name: &'static str,
    /// Its kind.
    pub kind: Kind,
    /// Its unit.
    pub unit: Unit,
    /// Its labels, with the values that each takes.
    pub labels: &'static [(&'static str, &'static str)],
    /// What it says, in a sentence.
    pub help: &'static str,
}

macro_rules! catalogue {
    ($($ident:ident = $name:literal, $kind:ident, $unit:ident, [$($label:literal: $values:literal),*], $help:literal;)*) => {
        $(
            #[doc = $help]
            pub const $ident: &str = $name;
        )*

        /// All metrics, in the order of their documentation.
        pub const ALL: &[Metric] = &[
            $(Metric {
                name: $name,
                kind: Kind::$kind,
                unit: Unit::$unit,
                labels: &[$(($label, $values)),*],
                help: $help,
            },)*
        ];
    };
}

catalogue! {
    BUILD_INFO = "attest_build_info", Gauge, Count, ["version": "the program's version"],
        "Always 1; its label names the build.";
    READY = "attest_ready", Gauge, Count, ["check": "as in /readyz"],
        "1 where a readiness check passes, 0 where it does not.";
    CERTIFICATE_EXPIRY = "attest_certificate_expiry_timestamp_seconds", Gauge, Seconds,
        ["certificate": "`ca` or `server`"],
        "When a certificate of the server expires, in seconds since 1970.";
    HTTP_REQUESTS = "attest_http_requests_total", Counter, Count,
        ["route": "the route's pattern", "method": "the method", "status": "the answer's status"],
        "Requests answered.";
    HTTP_DURATION = "attest_http_request_duration_seconds", Histogram, Seconds,
        ["route": "the route's pattern"],
        "Time from the end of a request's head to the head of its answer.";
    HTTP_IN_FLIGHT = "attest_http_requests_in_flight", Gauge, Count, [],
        "Requests in work.";
    CONNECTIONS = "attest_http_connections", Gauge, Count, ["listener": "the listener's name"],
        "Open connections.";
    ACCEPT_ERRORS = "attest_http_accept_errors_total", Counter, Count,
        ["listener": "the listener's name"],
        "Connections that the operating system could not hand over, mostly for want of descriptors.";
    HANDSHAKES = "attest_tls_handshakes_total", Counter, Count,
        ["listener": "the listener's name", "result": "`done`, `failed` or `timeout`"],
        "TLS handshakes ended.";
    LIMIT_REJECTIONS = "attest_limit_rejections_total", Counter, Count,
        ["limit": "the limit's name"],
        "What was refused because a named limit was reached.";
    TOKEN_FAILURES = "attest_token_failures_total", Counter, Count,
        ["kind": "`enrolment` or `operator`"],
        "Tokens presented that were not valid.";
    LOGINS = "attest_logins_total", Counter, Count,
        ["result": "`done` or `refused`"],
        "Logins whose password was looked at.";
    PASSWORD_HASHES = "attest_password_hashes_total", Counter, Count, [],
        "Passwords hashed, to keep or to compare.";
    EVIDENCE_VERIFICATIONS = "attest_evidence_verifications_total", Counter, Count,
        ["result": "`valid`, `invalid` or `refused`", "code": "the first code that failed, or empty"],
        "Evidence that somebody sent to be verified, of machines that need not be enrolled.";
    IDENTITY_VERIFICATIONS = "attest_identity_verifications_total", Counter, Count,
        ["result": "`valid`, `invalid` or `refused`", "code": "the first code that failed, why it was refused, or empty"],
        "Quotes that somebody sent to learn whether they are of an agent that is enrolled.";
    KEYLIME_PUSHES = "attest_keylime_pushes_total", Counter, Count,
        ["step": "`session`, `begin` or `answer`", "result": "`pass`, or why it was refused"],
        "Sessions that Keylime's pushing agents proved their keys for, and what of their attestations was refused.";
    KEYLIME_REGISTRATIONS = "attest_keylime_registrations_total", Counter, Count,
        ["result": "`done`, `warned` when nobody vouches for the TPM, or the refusal's code"],
        "Registrations of agents of Keylime, and attempts.";
    KEYLIME_ACTIVATIONS = "attest_keylime_activations_total", Counter, Count,
        ["result": "`new`, `same`, `changed`, `proposed` when it waits for an operator, or the refusal's code"],
        "Answers of agents of Keylime to what their TPMs were asked.";
    ENROLMENTS = "attest_enrolments_total", Counter, Count,
        ["step": "`enrol`, `baseline` or `activate`", "result": "`done` or the refusal's code"],
        "Enrolment steps ended.";
    VERIFICATIONS = "attest_verifications_total", Counter, Count,
        ["verdict": "the agent's status from then on", "code": "the first code that failed, or empty"],
        "Attestations concluded and committed.";
    VERIFY_DURATION = "attest_verify_duration_seconds", Histogram, Seconds,
        ["stage": "`arrival_to_commit`"],
        "Time from the arrival of evidence to its durable verdict.";
    EVIDENCE_AGE = "attest_evidence_age_seconds", Histogram, Seconds, [],
        "Age of the evidence of an agent's last pass when the next pass replaced it.";
    AGENTS = "attest_agents", Gauge, Count, ["state": "an effective status"],
        "Agents that are served, by what relying parties see of them.";
    IMA_ENTRIES = "attest_ima_entries_total", Counter, Count, ["result": "`proven`"],
        "Entries of measurement lists that quotes proved.";
    TURNED_AWAY = "attest_turned_away_total", Counter, Count, ["code": "the code of the verdict"],
        "Evidence and connections that were turned away without changing anything about their agent.";
    RELAY_MISMATCHES = "attest_relay_mismatches_total", Counter, Count, ["code": "the code of the verdict"],
        "Evidence that came through a relay and did not fit what its agent's key had signed. The agent is to come directly; the audit log names the relay.";
    ABANDONED = "attest_abandoned_total", Counter, Count, ["why": "a fixed word"],
        "Challenges that led to no verdict.";
    SECOND_LOOKS = "attest_second_looks_total", Counter, Count, ["code": "the verdict code"],
        "Agents that were asked again at once, because more evidence could settle a doubt.";
    LIST_PIECES_READ = "attest_list_pieces_read_total", Counter, Count, [],
        "Pieces of stored lists that were read to be judged again.";
    LISTS_REJUDGED = "attest_lists_rejudged_total", Counter, Count,
        ["result": "`passed`, `denied`, or a fixed word for why the list cannot be used"],
        "Stored lists judged by a changed policy. Agents whose list cannot be used are asked for it.";
    PROTOCOL_FAULTS = "attest_protocol_faults_total", Counter, Count, ["kind": "a fixed word"],
        "Messages of agents that did not fit into the conversation.";
    QUEUE_DEPTH = "attest_queue_depth", Histogram, Count, [],
        "Messages that waited in a worker's mailbox when it looked.";
    QUEUE_WAIT = "attest_queue_wait_seconds", Histogram, Seconds, [],
        "Time that the oldest message in a worker's mailbox had waited when it looked.";
    EVENTS_LOST = "attest_events_lost_total", Counter, Count, [],
        "Events that a slow listener missed.";
    WORKER_DEATHS = "attest_worker_deaths_total", Counter, Count, [],
        "Worker threads that died. Their agents are not served until the next start.";
    GROUPS_WITHOUT_POLICIES = "attest_groups_without_policies_total", Counter, Count, [],
        "Groups that were loaded without their policies, because these cannot be used: nobody in them is trusted.";
    IMA_CACHE = "attest_ima_cache_total", Counter, Count,
        ["result": "`hit`, `miss`, `inserted`, `promoted` by a second machine, `refused` by a machine's quota, or `evicted`"],
        "Entries of measurement lists that lists before had too, and what became of the memory of them.";
    IMA_CACHE_BYTES = "attest_ima_cache_bytes", Gauge, Bytes, [],
        "Memory of what the lists of the fleet have in common.";
    SIGNATURES_PER_BATCH = "attest_signatures_per_batch", Histogram, Count, [],
        "Signatures of quotes that were verified together.";
    VECTOR_UNIT = "attest_vector_unit", Gauge, Count,
        ["state": "`in_use`, `absent`, or `distrusted` after a wrong answer"],
        "1 for the state of the processor's unit that verifies eight signatures at a time, 0 for the others.";
    LANE_PANICS = "attest_lane_panics_total", Counter, Count, [],
        "Appraisals that ended in a defect of the program; their agents are asked again.";
    TICKS = "attest_ticks_total", Counter, Count, ["result": "a fixed word"],
        "Commits of shards, by how they ended.";
    STORE_DURATION = "attest_store_duration_seconds", Histogram, Seconds, ["op": "the operation"],
        "Time that the store took.";
    STORE_ERRORS = "attest_store_errors_total", Counter, Count, ["op": "the operation"],
        "Operations of the store that failed; ticks are tried again.";
    WEBHOOK_ATTEMPTS = "attest_webhook_attempts_total", Counter, Count,
        ["webhook": "the name in the configuration", "result": "`taken`, or a fixed word for why the message was not"],
        "Attempts to deliver a message to a webhook.";
    WEBHOOK_QUEUED = "attest_webhook_messages_queued", Gauge, Count,
        ["webhook": "the name in the configuration"],
        "Messages that a webhook has not taken yet.";
    WEBHOOK_DEAD_LETTERS = "attest_webhook_dead_letters_total", Counter, Count,
        ["webhook": "the name in the configuration"],
        "Messages to a webhook that were given up.";
    WEBHOOK_DELIVERY = "attest_webhook_delivery_duration_seconds", Histogram, Seconds,
        ["webhook": "the name in the configuration"],
        "Time from noting a change of an agent's status to the webhook's taking its message.";
    WEBHOOK_COMPARISONS = "attest_webhook_comparisons_total", Counter, Count,
        ["why": "`start`, `schedule`, or `missed` when changes came faster than they could be written"],
        "Comparisons of every agent's status with what was noted of it for webhooks.";
    KEYLIME_REVOCATIONS = "attest_keylime_revocations_total", Counter, Count,
        ["type": "`revocation`, or `comm_error` when nothing is heard of an agent"],
        "What was to be told of Keylime's agents.";
    KEYLIME_UNSIGNED = "attest_keylime_revocations_unsigned_total", Counter, Count, [],
        "Of these, those that could not be signed, because the revocation_key cannot be used.";
    ZEROMQ_MESSAGES = "attest_zeromq_messages_total", Counter, Count,
        ["result": "`sent`, or `dropped` when the subscriber does not read"],
        "Messages for subscribers over ZeroMQ, each counted for every one of them.";
    ZEROMQ_SUBSCRIBERS = "attest_zeromq_subscribers", Gauge, Count, [],
        "Peers that are connected to the ZeroMQ publisher.";
    TRANSPORT_CONNECTIONS = "attest_transport_connections", Gauge, Count, [],
        "Open connections of agents.";
    TRANSPORT_HANDSHAKES = "attest_transport_handshakes_total", Counter, Count,
        ["result": "`done`, `failed`, `timeout` or `refused`"],
        "TLS handshakes of agents ended.";
    TRANSPORT_VALIDATIONS = "attest_transport_address_validations_total", Counter, Count, [],
        "Peers that had to show first that they receive at their address.";
    TRANSPORT_REFUSALS = "attest_transport_refusals_total", Counter, Count,
        ["reason": "the refusal's code"],
        "Conversations and requests of agents that the server ended.";
    TRANSPORT_EVIDENCE = "attest_transport_evidence_total", Counter, Count, [],
        "Evidence handed to the shards.";
    TRANSPORT_VERDICTS = "attest_transport_verdicts_total", Counter, Count, [],
        "Verdicts sent to agents.";
    TRANSPORT_LOG_BYTES = "attest_transport_log_bytes_total", Counter, Bytes, [],
        "Bytes of boot logs and measurement lists handed to the shards.";
    TRANSPORT_RENEWALS = "attest_transport_renewals_total", Counter, Count, [],
        "Certificates of agents renewed.";
    TRANSPORT_RELAYS = "attest_transport_relays", Gauge, Count, [],
        "Connected relays.";
    TRANSPORT_RELAYED_AGENTS = "attest_transport_relayed_agents", Gauge, Count, [],
        "Agents that relays speak for.";
    TRANSPORT_RELAY_UNASKED = "attest_transport_relay_unasked_total", Counter, Count, [],
        "What relays sent for agents that were not asked for it, or are not connected.";
    TRANSPORT_BUFFERED = "attest_transport_buffered_bytes", Gauge, Bytes, [],
        "Bytes of logs that are held until they are handed over.";
    PULL_POLLS = "attest_pull_polls_total", Counter, Count,
        ["result": "`evidence`, or why there is none: `connect`, `timeout`, `status` and so on"],
        "Polls of Keylime's agents ended, and attempts to reach them that failed.";
    PULL_DURATION = "attest_pull_duration_seconds", Histogram, Seconds, [],
        "Time from a challenge to the end of its agent's answer, or of an attempt to reach one.";
    PULL_AGENTS = "attest_pull_agents", Gauge, Count, [],
        "Keylime's agents that are polled.";
    PULL_UNREACHABLE = "attest_pull_unreachable_agents", Gauge, Count, [],
        "Of these, those that gave no evidence when they were asked last.";
    PULL_CONNECTIONS = "attest_pull_connections_total", Counter, Count, [],
        "Connections opened to polled agents.";
    PULL_V_KEYS = "attest_pull_v_keys_total", Counter, Count,
        ["result": "`taken` or `failed`"],
        "V keys sent to polled agents.";
    PULL_REVOCATIONS = "attest_pull_revocations_total", Counter, Count,
        ["result": "`taken`, `failed`, or `silent` when the agent does not answer polls either"],
        "Revocations told to polled agents, each counted for every one of them.";
}

/// Installs the recorder for this process, and describes every metric to it.
///
/// # Errors
/// [`MetricsError`] when a recorder is installed already.
pub fn install() -> Result<PrometheusHandle, MetricsError> {
    let durations = Matcher::Suffix("_seconds".to_owned());
    let ages = Matcher::Full(EVIDENCE_AGE.to_owned());
    let deliveries = Matcher::Full(WEBHOOK_DELIVERY.to_owned());
    let depths = Matcher::Suffix("_depth".to_owned());
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(durations, &SECONDS)
        .and_then(|builder| builder.set_buckets_for_metric(depths, &DEPTHS))
        .and_then(|builder| builder.set_buckets_for_metric(ages, &AGES))
        .and_then(|builder| builder.set_buckets_for_metric(deliveries, &AGES))
        .and_then(PrometheusBuilder::install_recorder)
        .map_err(|error| MetricsError(error.to_string()))?;
    describe(ALL);
    metrics::gauge!(BUILD_INFO, "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    Ok(handle)
}

/// Bounds of time histograms, from a cached answer to the request's time-out.
const SECONDS: [f64; 12] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0,
];

/// Bounds of what can take from the shortest interval to a day: the age of evidence, deliveries.
const AGES: [f64; 11] = [
    0.1, 1.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 900.0, 3600.0, 86400.0,
];

/// Bounds of histograms of queues.
const DEPTHS: [f64; 8] = [0.0, 1.0, 4.0, 16.0, 64.0, 256.0, 1024.0, 4096.0];

/// Tells the recorder what these metrics are.
pub fn describe(catalogue: &[Metric]) {
    for metric in catalogue {
        match metric.kind {
            Kind::Counter => metrics::describe_counter!(metric.name, metric.unit, metric.help),
            Kind::Gauge => metrics::describe_gauge!(metric.name, metric.unit, metric.help),
            Kind::Histogram => metrics::describe_histogram!(metric.name, metric.unit, metric.help),
        }
    }
}

/// The reference page of a catalogue, as a table in Markdown.
pub fn reference(catalogue: &[Metric]) -> String {
    let mut page = String::from("| metric | kind | labels | says |\n|---|---|---|---|\n");
    for metric in catalogue {
        let labels: Vec<String> = metric
            .labels
            .iter()
            .map(|(label, values)| format!("`{label}`: {values}"))
            .collect();
        // Writing to a String cannot fail.
        let _ = writeln!(
            page,
            "| `{}` | {} | {} | {} |",
            metric.name,
            metric.kind.as_str(),
            labels.join("; "),
            metric.help
        );
    }
    page
}

/// The recorder could not be installed.
#[derive(Debug, Error)]
#[error("the metrics recorder cannot be installed: {0}")]
pub struct MetricsError(String);

/// Counts one more, with one label.
pub(crate) fn counter_of(name: &'static str, label: &'static str, value: &'static str) {
    metrics::counter!(name, label => value).increment(1);
}

/// Counts one password that is hashed.
pub(crate) fn password_hashed() {
    metrics::counter!(PASSWORD_HASHES).increment(1);
}

/// Counts one refusal because of a named limit.
pub(crate) fn limit_rejected(limit: &'static str) {
    metrics::counter!(LIMIT_REJECTIONS, "limit" => limit).increment(1);
}

/// The route of requests that no route takes.
pub(crate) const NO_ROUTE: &str = "none";

/// A method as a label: what clients make up would be a label each. (X07)
pub(crate) fn known_method(method: &Method) -> &'static str {
    let known = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
    let found = known.into_iter().find(|known| method.as_str() == *known);
    found.unwrap_or("other")
}

/// One request in work.
pub(crate) struct InFlight {
    method: &'static str,
    route: &'static str,
    started: Instant,
}

impl InFlight {
    pub(crate) fn start(method: &'static str, route: &'static str) -> Self {
        metrics::gauge!(HTTP_IN_FLIGHT).increment(1.0);
        Self {
            method,
            route,
            started: Instant::now(),
        }
    }

    pub(crate) fn finish(self, status: StatusCode) {
        let seconds = self.started.elapsed().as_secs_f64();
        metrics::histogram!(HTTP_DURATION, "route" => self.route).record(seconds);
        let labels = [
            ("route", self.route.to_owned()),
            ("method", self.method.to_owned()),
            ("status", status.as_str().to_owned()),
        ];
        metrics::counter!(HTTP_REQUESTS, &labels).increment(1);
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        metrics::gauge!(HTTP_IN_FLIGHT).decrement(1.0);
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn the_reference_page_is_the_catalogue() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let path = root.join("docs/reference/metrics.md");
        let page = std::fs::read_to_string(&path).unwrap();
        let (before, rest) = page.split_once("<!-- metrics -->\n").unwrap();
        let (table, after) = rest.split_once("<!-- end -->").unwrap();
        if std::env::var_os("UPDATE_DOCS").is_some() {
            let table = reference(ALL);
            std::fs::write(
                &path,
                format!("{before}<!-- metrics -->\n{table}<!-- end -->{after}"),
            )
            .unwrap();
        } else {
            assert!(
                table == reference(ALL),
                "{} is stale: run this test with UPDATE_DOCS=1",
                path.display()
            );
        }
    }

    #[test]
    fn names_follow_the_rules_of_prometheus() {
        for metric in ALL {
            assert!(metric.name.starts_with("attest_"), "{}", metric.name);
            let counts = metric.kind == Kind::Counter;
            assert_eq!(metric.name.ends_with("_total"), counts, "{}", metric.name);
            assert!(metric.help.ends_with('.'), "{}", metric.name);
            let seconds = metric.unit == Unit::Seconds;
            assert_eq!(
                metric.name.ends_with("_seconds"),
                seconds,
                "{}",
                metric.name
            );
        }
    }
}
