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
    ENROLMENTS = "attest_enrolments_total", Counter, Count,
        ["step": "`enrol`, `baseline` or `activate`", "result": "`done` or the refusal's code"],
        "Enrolment steps ended.";
}

/// Installs the recorder for this process, and describes every metric to it.
///
/// # Errors
/// [`MetricsError`] when a recorder is installed already.
pub fn install() -> Result<PrometheusHandle, MetricsError> {
    let duration = Matcher::Full(HTTP_DURATION.to_owned());
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(duration, &SECONDS)
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

/// Counts one refusal because of a named limit.
pub(crate) fn limit_rejected(limit: &'static str) {
    metrics::counter!(LIMIT_REJECTIONS, "limit" => limit).increment(1);
}

/// One request in work.
pub(crate) struct InFlight {
    method: Method,
    route: &'static str,
    started: Instant,
}

impl InFlight {
    pub(crate) fn start(method: Method, route: &'static str) -> Self {
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
            ("method", self.method.as_str().to_owned()),
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
        let (before, rest) = page.split_once("<!-- http -->\n").unwrap();
        let (table, after) = rest.split_once("<!-- end -->").unwrap();
        if std::env::var_os("UPDATE_DOCS").is_some() {
            let table = reference(ALL);
            std::fs::write(
                &path,
                format!("{before}<!-- http -->\n{table}<!-- end -->{after}"),
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
