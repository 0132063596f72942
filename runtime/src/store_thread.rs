//! The store thread: groups what all workers want durable, and answers when it is.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rat_engine::agent_id::AgentId;
use rat_engine::evidence::ChallengeId;
use rat_engine::shard::Tick;
use rat_engine::verdict::Code;
use rat_store::{AuditEntry, CommitResult, LogPiece, RetentionPolicy, Staged, Store, StoreError};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, timeout};

use crate::clock::Clock;
use crate::groups::{self, Told};
use crate::health::StorePulse;
use crate::limits::{
    FOLD_INTERVAL_MS, PIECES_PER_STAGING_MAX, RETENTION_INTERVAL_MS, RETRY_MS_MAX, RETRY_MS_MIN,
    TICKS_PER_COMMIT_MAX, TICKS_PER_FOLD_MAX,
};
use crate::mailbox::{Mailbox, Notice};
use crate::measures;

/// How the audit log names the server itself.
const AUDIT_ACTOR: &str = "ratd";

/// What a worker wants of the store. There is never more of it than one tick for each shard, two
/// pieces for each upload, one for each proven baseline, one for each request about an agent, and
/// so many faults an hour.
pub(crate) enum Job {
    Commit {
        tick: Box<Tick>,
        mailbox: Arc<Mailbox>,
    },
    Stage {
        agent: AgentId,
        challenge: ChallengeId,
        piece: u64,
        bytes: Vec<u8>,
        mailbox: Arc<Mailbox>,
    },
    /// A quote proved the list that a baseline was made of.
    Baseline {
        group: String,
        policy: rat_engine::hash::Digest,
    },
    /// The audit log is told of evidence that was turned away.
    Fault(Fault),
    /// Says when everything that came before is in the store, or known never to be.
    Settle(oneshot::Sender<()>),
    Stop,
}

/// Evidence that came under an agent's name and was not by its key, or not for its connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) agent: AgentId,
    pub(crate) code: Code,
    /// The agent whose challenge it answered, when that was another. (Q05)
    pub(crate) other: Option<AgentId>,
    /// SHA-256 of the public key of the relay that brought it, where what it brought did not fit.
    /// (Q16)
    pub(crate) relay: Option<[u8; 32]>,
}

/// How to reach the store thread.
#[derive(Clone)]
pub(crate) struct StoreDoor(mpsc::UnboundedSender<Job>);

impl StoreDoor {
    pub(crate) fn new() -> (Self, mpsc::UnboundedReceiver<Job>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (Self(sender), receiver)
    }

    /// A store thread that is gone commits nothing: whoever waits for it waits until trust ends.
    pub(crate) fn give(&self, job: Job) {
        let _ = self.0.send(job);
    }
}

pub(crate) struct StoreThread {
    pub(crate) store: Store,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) retention: RetentionPolicy,
    pub(crate) pulse: Arc<StorePulse>,
    pub(crate) mailboxes: Vec<Arc<Mailbox>>,
    pub(crate) told: Arc<Told>,
    /// Set when the process stops and will not wait for a failing store any longer.
    pub(crate) gives_up: Arc<AtomicBool>,
    pub(crate) seed: u64,
}

#[derive(Default)]
struct Batch {
    ticks: Vec<Tick>,
    tick_owners: Vec<Arc<Mailbox>>,
    pieces: Vec<Piece>,
    baselines: Vec<(String, rat_engine::hash::Digest)>,
    faults: Vec<Fault>,
    settled: Vec<oneshot::Sender<()>>,
    stops: bool,
}

struct Piece {
    agent: AgentId,
    challenge: ChallengeId,
    piece: u64,
    bytes: Vec<u8>,
    mailbox: Arc<Mailbox>,
}

impl Batch {
    fn of(jobs: impl Iterator<Item = Job>) -> Self {
        let mut batch = Self::default();
        for job in jobs {
            match job {
                Job::Commit { tick, mailbox } => {
                    batch.ticks.push(*tick);
                    batch.tick_owners.push(mailbox);
                }
                Job::Stage {
                    agent,
                    challenge,
                    piece,
                    bytes,
                    mailbox,
                } => batch.pieces.push(Piece {
                    agent,
                    challenge,
                    piece,
                    bytes,
                    mailbox,
                }),
                Job::Baseline { group, policy } => batch.baselines.push((group, policy)),
                Job::Fault(fault) => batch.faults.push(fault),
                Job::Settle(settled) => batch.settled.push(settled),
                Job::Stop => batch.stops = true,
            }
        }
        batch
    }
}

impl StoreThread {
    /// Works until it is told to stop, and has done everything that came before that.
    pub(crate) async fn run(self, mut jobs: mpsc::UnboundedReceiver<Job>) {
        let mut received = Vec::new();
        let mut folded_at = Instant::now();
        let mut retained_at = folded_at;
        let mut is_behind = false;
        // What became due while nobody ran.
        let mut keeps_too_much = true;
        loop {
            let pause = Duration::from_millis(FOLD_INTERVAL_MS);
            let arrived = timeout(pause, jobs.recv_many(&mut received, TICKS_PER_COMMIT_MAX)).await;
            if arrived == Ok(0) {
                return;
            }
            let batch = Batch::of(received.drain(..));
            let stops = batch.stops;
            self.stage(batch.pieces).await;
            self.commit(batch.ticks, batch.tick_owners).await;
            for (group, policy) in batch.baselines {
                self.baseline(&group, &policy).await;
            }
            for fault in batch.faults {
                self.audit(&fault).await;
            }
            for settled in batch.settled {
                // Whoever asked may have gone away.
                let _ = settled.send(());
            }
            if stops {
                return;
            }
            if is_behind || folded_at.elapsed() >= pause {
                is_behind = self.fold(&jobs).await;
                folded_at = Instant::now();
            }
            let is_due = retained_at.elapsed() >= Duration::from_millis(RETENTION_INTERVAL_MS);
            if keeps_too_much || is_due {
                keeps_too_much = self.retain(&jobs).await;
                retained_at = Instant::now();
            }
        }
    }

    /// Commits the ticks of all shards together, and the same again until it is known what became
    /// of them. (S03) A tick that can never be stored is found by halves, and refused: one damaged
    /// row, or one bad tick, holds up nobody else's. (S06)
    async fn commit(&self, mut ticks: Vec<Tick>, mut owners: Vec<Arc<Mailbox>>) {
        if ticks.is_empty() {
            return;
        }
        match self
            .until_known("commit", || self.store.commit(&ticks))
            .await
        {
            Outcome::Known(results) => {
                for ((tick, owner), result) in ticks.iter().zip(&owners).zip(results) {
                    self.answer(tick, owner, result);
                }
            }
            Outcome::Refused if ticks.len() > 1 => {
                let half = ticks.len().div_ceil(2);
                let (later, later_owners) = (ticks.split_off(half), owners.split_off(half));
                Box::pin(self.commit(ticks, owners)).await;
                Box::pin(self.commit(later, later_owners)).await;
            }
            Outcome::Refused => {
                for (tick, owner) in ticks.iter().zip(&owners) {
                    tracing::error!(shard = tick.shard.get(), "a tick cannot be stored");
                    measures::ticks("refused");
                    self.pulse.is_failing.store(true, Ordering::Release);
                    owner.tell(Notice::CommitFailed {
                        shard: tick.shard,
                        seq: tick.seq,
                    });
                }
            }
            // The process ends: what is not known to be durable was never told to anybody.
            Outcome::GivenUp => {}
        }
    }

    fn answer(&self, tick: &Tick, owner: &Mailbox, result: CommitResult) {
        let (shard, seq) = (tick.shard, tick.seq);
        match result {
            CommitResult::Committed | CommitResult::AlreadyCommitted => {
                measures::ticks("committed");
                owner.tell(Notice::Committed { shard, seq });
            }
            CommitResult::Fenced | CommitResult::OutOfOrder => {
                measures::ticks("fenced");
                if !self.pulse.is_fenced.swap(true, Ordering::AcqRel) {
                    tracing::error!(shard = shard.get(), "another owner writes; serving ends");
                    let mailboxes = self.mailboxes.iter();
                    mailboxes.for_each(|mailbox| mailbox.tell(Notice::Drain));
                }
                owner.tell(Notice::CommitFailed { shard, seq });
            }
        }
    }

    async fn stage(&self, pieces: Vec<Piece>) {
        let now = self.clock.now().unix_ms;
        for group in pieces.chunks(PIECES_PER_STAGING_MAX) {
            if self.stage_group(group, now).await.is_break() {
                return;
            }
            // What could not be staged is a gap in what is kept, and no reason to hold a verdict.
            for piece in group {
                piece.mailbox.tell(Notice::Staged {
                    agent: piece.agent.clone(),
                    challenge: piece.challenge,
                });
            }
        }
    }

    /// Stages these pieces together, or, when one of them is refused, by halves. Breaks when the
    /// process ends first.
    async fn stage_group(&self, group: &[Piece], now: u64) -> ControlFlow<()> {
        let staged: Vec<_> = group
            .iter()
            .map(|piece| LogPiece {
                agent: &piece.agent,
                upload: piece.challenge,
                piece: piece.piece,
                bytes: &piece.bytes,
            })
            .collect();
        let outcome = self
            .until_known("stage", || self.store.stage_log(&staged, now))
            .await;
        match outcome {
            Outcome::Known(results) => results.into_iter().for_each(count_staged),
            Outcome::Refused if group.len() > 1 => {
                for half in group.chunks(group.len().div_ceil(2)) {
                    Box::pin(self.stage_group(half, now)).await?;
                }
            }
            Outcome::Refused => {}
            Outcome::GivenUp => return ControlFlow::Break(()),
        }
        ControlFlow::Continue(())
    }

    /// Folds in small steps until all is folded or somebody waits; says whether ticks are left.
    /// Then one step follows every commit, so that the folder never falls behind for good.
    async fn fold(&self, jobs: &mpsc::UnboundedReceiver<Job>) -> bool {
        loop {
            let began = Instant::now();
            let folded = self.store.fold(TICKS_PER_FOLD_MAX).await;
            measures::store_duration("fold", began.elapsed().as_secs_f64());
            let is_behind = folded.as_ref().is_ok_and(|folded| folded.more);
            self.housekeeping("fold", folded.map(drop));
            if !is_behind || !jobs.is_empty() {
                return is_behind;
            }
        }
    }

    /// Drops what is due in small steps, like [`fold`](Self::fold): until nothing is due or somebody
    /// waits, and then one step after every commit. Says whether more is due.
    async fn retain(&self, jobs: &mpsc::UnboundedReceiver<Job>) -> bool {
        loop {
            let now = self.clock.now().unix_ms;
            let began = Instant::now();
            let dropped = self.store.retention(now, &self.retention).await;
            measures::store_duration("retention", began.elapsed().as_secs_f64());
            let is_more_due = dropped.as_ref().is_ok_and(|dropped| dropped.more);
            self.housekeeping("retention", dropped.map(drop));
            if !is_more_due || !jobs.is_empty() {
                return is_more_due;
            }
        }
    }

    async fn baseline(&self, group: &str, policy: &rat_engine::hash::Digest) {
        let now = self.clock.now().unix_ms;
        match groups::adopt_baseline(&self.store, group, policy, now, self.seed).await {
            Ok(Some(group)) => {
                let group = Arc::new(group);
                for mailbox in &self.mailboxes {
                    mailbox.tell(Notice::Group(Arc::clone(&group)));
                }
                self.told.note(&group.slug, group.row_version);
            }
            Ok(None) => {}
            // The next attestation of the same agent proves it again.
            Err(error) => tracing::error!(group, %error, "a proven baseline was not adopted"),
        }
    }

    /// Tells the audit log who sent what under whose name. Nothing waits for it: what was turned
    /// away stands in the shard's history, too.
    async fn audit(&self, fault: &Fault) {
        let (code, other) = (fault.code, fault.other.as_ref());
        let of_other = other.map(|other| format!("; it answers a challenge of {other}"));
        let by_relay = fault
            .relay
            .map(|relay| format!("; relay {}", hex::encode(relay)));
        let detail = [
            Some(format!("{code}: {}", code.cause())),
            of_other,
            by_relay,
        ];
        let detail: String = detail.into_iter().flatten().collect();
        let entry = AuditEntry {
            at_unix_ms: self.clock.now().unix_ms,
            actor: AUDIT_ACTOR,
            action: match fault.relay {
                Some(_) => "agent.relay_mismatch",
                None => "agent.turn_away",
            },
            target: fault.agent.as_str(),
            detail: &detail,
        };
        self.until_known("audit", || self.store.audit(entry)).await;
    }

    /// Tries until the store answers, with pauses that grow.
    async fn until_known<T, F>(&self, operation: &'static str, run: impl Fn() -> F) -> Outcome<T>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        let mut pause_ms = RETRY_MS_MIN;
        loop {
            let began = Instant::now();
            let result = run().await;
            measures::store_duration(operation, began.elapsed().as_secs_f64());
            match result {
                Ok(known) => {
                    self.pulse.is_failing.store(false, Ordering::Release);
                    return Outcome::Known(known);
                }
                Err(error) if error.is_lasting() => {
                    measures::store_failed(operation);
                    tracing::error!(%error, operation, "the store refuses");
                    return Outcome::Refused;
                }
                Err(error) => {
                    measures::store_failed(operation);
                    if !self.pulse.is_failing.swap(true, Ordering::AcqRel) {
                        tracing::error!(%error, operation, "the store fails; trying again");
                    }
                    if self.gives_up.load(Ordering::Acquire) {
                        return Outcome::GivenUp;
                    }
                    sleep(Duration::from_millis(pause_ms)).await;
                    pause_ms = pause_ms.saturating_mul(2).min(RETRY_MS_MAX);
                }
            }
        }
    }

    fn housekeeping(&self, operation: &'static str, result: Result<(), StoreError>) {
        if let Err(error) = result {
            measures::store_failed(operation);
            tracing::warn!(%error, operation, "the store's housekeeping failed");
        }
    }
}

fn count_staged(result: Staged) {
    match result {
        Staged::Kept => {}
        Staged::AgentFull => measures::limit_rejection("staged_agent_bytes_max"),
        Staged::Full => measures::limit_rejection("staged_bytes_max"),
    }
}

/// What became of a call.
enum Outcome<T> {
    Known(T),
    /// The store will never take this.
    Refused,
    /// The process ends first.
    GivenUp,
}

/// Runs the store thread to its end.
pub(crate) fn run(thread: StoreThread, jobs: mpsc::UnboundedReceiver<Job>) {
    let pulse = Arc::clone(&thread.pulse);
    let built = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    match built {
        Ok(runtime) => {
            let run = std::panic::AssertUnwindSafe(|| runtime.block_on(thread.run(jobs)));
            if std::panic::catch_unwind(run).is_err() {
                tracing::error!("the store thread panicked");
            }
        }
        Err(error) => tracing::error!(%error, "the store thread cannot start"),
    }
    pulse.is_dead.store(true, Ordering::Release);
}
