//! What attacks on the conversation leave in the metrics that docs/reference/metrics.md names, and
//! that they leave nothing in the agent's state: Q02, Q03, Q13, S07, X03, X04.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::as_conversions,
    clippy::arithmetic_side_effects
)]

use std::sync::OnceLock;
use std::time::Duration;

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use rat_engine::agent_id::AgentId;
use rat_engine::evidence::{Binding, Challenge, Submission, ToAgent};
use rat_engine::shard::AgentState;
use rat_engine::verdict::Code;
use rat_runtime::Settings;
use rat_tests::assignment::{BINDING, streamed};
use rat_tests::driven::{Connected, Driven, PATIENCE, agent_of, settings, until};
use rat_tests::evidence::Machine;

const TURNED_AWAY: &str = "attest_turned_away_total";
const PROTOCOL_FAULTS: &str = "attest_protocol_faults_total";
const ABANDONED: &str = "attest_abandoned_total";

fn metrics() -> &'static PrometheusHandle {
    static RECORDER: OnceLock<PrometheusHandle> = OnceLock::new();
    RECORDER.get_or_init(|| PrometheusBuilder::new().install_recorder().unwrap())
}

/// The value of one series; 0 when there is none yet.
fn metric(name: &str, key: &str, value: &str) -> f64 {
    let series = format!("{name}{{{key}=\"{value}\"}} ");
    let text = metrics().render();
    let line = text.lines().find_map(|line| line.strip_prefix(&series));
    line.map_or(0.0, |count| count.trim().parse().unwrap())
}

fn turned_away(code: Code) -> f64 {
    metric(TURNED_AWAY, "code", code.as_str())
}

/// An agent that is connected and asked for evidence.
struct Asked {
    driven: Driven,
    agent: AgentId,
    connected: Connected,
    challenge: Challenge,
    before: AgentState,
}

impl Asked {
    async fn new(settings: Settings) -> Self {
        metrics();
        let machine = Machine::valid();
        let driven = Driven::new(&machine, settings).await;
        let agent = agent_of(0, 0);
        driven.enrol(&machine, &agent).await;
        let connected = driven.connect(1, &machine, &agent);
        let challenge = connected.challenged();
        let before = driven.view(&agent).await.state;
        Self {
            driven,
            agent,
            connected,
            challenge,
            before,
        }
    }

    /// Delivers evidence, which is answered with this code.
    fn is_answered(&self, submission: Submission, code: Code) {
        self.driven.deliver(&self.connected, submission).unwrap();
        let answer = self.connected.verdict(self.challenge.id);
        assert_eq!(answer.code, Some(code));
    }

    async fn changed_nothing(self) {
        let after = self.driven.view(&self.agent).await.state;
        assert_eq!(after, self.before);
        self.driven.runtime.drain(PATIENCE).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn q02_replayed_evidence_is_counted() {
    let mut asked = Asked::new(settings()).await;
    let submission = asked.connected.answer(&asked.challenge);
    let driven = &asked.driven;
    driven
        .deliver(&asked.connected, submission.clone())
        .unwrap();
    assert_eq!(asked.connected.verdict(asked.challenge.id).code, None);
    asked.before = driven.view(&asked.agent).await.state;
    let before = turned_away(Code::QuoteNonceConsumed);
    for nth in 1..=3 {
        asked.is_answered(submission.clone(), Code::QuoteNonceConsumed);
        let counted = turned_away(Code::QuoteNonceConsumed) - before;
        assert_eq!(counted, f64::from(nth));
    }
    asked.changed_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn q03_late_evidence_is_counted() {
    let mut settings = settings();
    settings.shard.challenge_deadline_ms = 1;
    let asked = Asked::new(settings).await;
    let submission = asked.connected.answer(&asked.challenge);
    let before = turned_away(Code::QuoteStale);
    // However long this really takes, it is longer than the deadline.
    std::thread::sleep(Duration::from_millis(50));
    asked.is_answered(submission, Code::QuoteStale);
    assert_eq!(turned_away(Code::QuoteStale) - before, 1.0);
    asked.changed_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn q13_evidence_of_another_channel_is_counted() {
    let asked = Asked::new(settings()).await;
    let mut submission = asked.connected.answer(&asked.challenge);
    submission.binding = Binding::Channel([9; 32]);
    submission.claimed_binding = Some(*BINDING.bytes());
    let before = turned_away(Code::QuoteChannelMismatch);
    asked.is_answered(submission, Code::QuoteChannelMismatch);
    assert_eq!(turned_away(Code::QuoteChannelMismatch) - before, 1.0);
    asked.changed_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn s07_a_flood_of_pieces_is_counted_and_ends_its_own_evidence_alone() {
    let asked = Asked::new(settings()).await;
    let (submission, bytes) = streamed(asked.connected.answer(&asked.challenge));
    let fault = |kind| metric(PROTOCOL_FAULTS, "kind", kind);
    let abandoned = || metric(ABANDONED, "why", "incomplete");
    let before = (
        fault("piece_not_asked"),
        fault("piece_without_upload"),
        abandoned(),
    );
    asked.driven.deliver(&asked.connected, submission).unwrap();
    let id = asked.challenge.id;
    assert_eq!(asked.connected.next(), ToAgent::More(id));
    // Pieces without bytes are none that were asked for.
    let intake = asked.driven.runtime.intake();
    let (session, agent) = (asked.connected.session, &asked.agent);
    let mut taken = 0;
    for _ in 0..200 {
        // A full mailbox says Busy, which is no fault of the conversation.
        let sent = intake.log_piece(session, agent, id, bytes[..0].to_vec());
        taken += u32::from(sent.is_ok());
    }
    assert!(taken >= 2);
    let all = || fault("piece_not_asked") + fault("piece_without_upload") - before.0 - before.1;
    until(|| all() >= f64::from(taken)).await;
    assert_eq!(fault("piece_not_asked") - before.0, 1.0);
    assert_eq!(abandoned() - before.2, 1.0);
    asked.changed_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn x04_a_piece_that_does_not_come_is_counted() {
    let settings = Settings {
        piece_ms_max: 100,
        ..settings()
    };
    let asked = Asked::new(settings).await;
    let (submission, _) = streamed(asked.connected.answer(&asked.challenge));
    let late = || metric(PROTOCOL_FAULTS, "kind", "piece_late");
    let abandoned = || metric(ABANDONED, "why", "timeout");
    let before = (late(), abandoned());
    asked.driven.deliver(&asked.connected, submission).unwrap();
    until(|| abandoned() > before.1).await;
    assert_eq!((late() - before.0, abandoned() - before.1), (1.0, 1.0));
    asked.changed_nothing().await;
}

/// Where the tests' hosts have a vector unit or none, one of its states is shown.
#[tokio::test(flavor = "multi_thread")]
async fn q17_what_verifies_signatures_and_how_many_at_once_is_shown() {
    let asked = Asked::new(settings()).await;
    let states = ["in_use", "absent", "distrusted"];
    let shown = states.map(|state| metric("attest_vector_unit", "state", state));
    assert_eq!(shown.iter().sum::<f64>(), 1.0, "{shown:?}");
    assert_eq!(shown[2], 0.0, "{shown:?}");
    let submission = asked.connected.answer(&asked.challenge);
    asked.driven.deliver(&asked.connected, submission).unwrap();
    assert_eq!(asked.connected.verdict(asked.challenge.id).code, None);
    let text = metrics().render();
    assert!(
        text.contains("attest_signatures_per_batch_count 1"),
        "{text}"
    );
    asked.driven.runtime.drain(PATIENCE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn i19_a_list_like_another_machines_is_remembered() {
    metrics();
    let machines = [Machine::valid(), Machine::valid(), Machine::valid()];
    let driven = Driven::new(&machines[0], settings()).await;
    for (nth, machine) in machines.iter().enumerate() {
        let agent = agent_of(0, nth);
        driven.enrol(machine, &agent).await;
        let (_, answer) = driven.attest(nth as u64 + 1, machine, &agent);
        assert_eq!(answer.code, None);
    }
    let counted = |result| metric("attest_ima_cache_total", "result", result);
    // The aggregate of each boot is never remembered; the three files are, from the first list on.
    until(|| counted("hit") >= 6.0).await;
    assert_eq!(counted("promoted"), 3.0);
    assert!(counted("inserted") >= 3.0);
    assert!(metrics().render().contains("attest_ima_cache_bytes "));
    driven.runtime.drain(PATIENCE).await;
}
