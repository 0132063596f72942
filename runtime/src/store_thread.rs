//! The store thread: groups what all workers want durable, and answers when it is.

use std::collections::VecDeque;
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
    FOLD_INTERVAL_MS, JOBS_PER_ROUND_MAX, PIECES_PER_STAGING_MAX, RETENTION_INTERVAL_MS,
    RETRY_MS_MAX, RETRY_MS_MIN, TICKS_PER_FOLD_MAX,
};
use crate::mailbox::{Mailbox, Notice};
use crate::measures;

/// How the audit log names the server itself.
const AUDIT_ACTOR: &str = "ratd";

/// What a worker wants of the store. There is never more of it than one tick for each shard, two
/// pieces for each upload, one for each proven baseline, one for each request about an agent, and
/// so many faults an hour.
pub(crate) enum Job {
    /// The ticks of one turn of a worker, and where the worker is told what became of them.
    Commit {
        ticks: Vec<Tick>,
        mailbox: Arc<Mailbox>,
    },
    Stage(Piece),
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

/// What came together.
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

/// A piece of a list that is being judged, to be staged.
pub(crate) struct Piece {
    pub(crate) agent: AgentId,
    pub(crate) challenge: ChallengeId,
    pub(crate) piece: u64,
    pub(crate) bytes: Vec<u8>,
    pub(crate) mailbox: Arc<Mailbox>,
}

impl Batch {
    fn of(jobs: impl Iterator<Item = Job>) -> Self {
        let mut batch = Self::default();
        for job in jobs {
            match job {
                Job::Commit { ticks, mailbox } => {
                    let owners = std::iter::repeat_n(mailbox, ticks.len());
                    batch.tick_owners.extend(owners);
                    batch.ticks.extend(ticks);
                }
                Job::Stage(piece) => batch.pieces.push(piece),
                Job::Baseline { group, policy } => batch.baselines.push((group, policy)),
                Job::Fault(fault) => batch.faults.push(fault),
                Job::Settle(settled) => batch.settled.push(settled),
                Job::Stop => batch.stops = true,
            }
        }
        batch
    }
}

/// What is left to do when nobody waits for a verdict.
struct Backlog {
    /// Pieces that are not staged yet. Each upload has two at most.
    pieces: VecDeque<Piece>,
    folded_at: Instant,
    /// Whether folding began, and did not come to its end.
    is_folding: bool,
    retained_at: Instant,
    keeps_too_much: bool,
}

impl Backlog {
    fn new() -> Self {
        let now = Instant::now();
        Self {
            pieces: VecDeque::new(),
            folded_at: now,
            is_folding: false,
            retained_at: now,
            // What became due while nobody ran.
            keeps_too_much: true,
        }
    }

    fn is_to_fold(&self) -> bool {
        self.is_folding || self.folded_at.elapsed() >= Duration::from_millis(FOLD_INTERVAL_MS)
    }

    fn is_to_retain(&self) -> bool {
        self.keeps_too_much
            || self.retained_at.elapsed() >= Duration::from_millis(RETENTION_INTERVAL_MS)
    }
}

impl StoreThread {
    /// Works until it is told to stop, and has done everything that came before that.
    ///
    /// Agents wait for ticks, so they come first, in every round. What else there is to do is done
    /// in small steps, one a round: a quote waits for one of them at most.
    pub(crate) async fn run(self, mut jobs: mpsc::UnboundedReceiver<Job>) {
        let mut received = Vec::new();
        let mut backlog = Backlog::new();
        loop {
            let pause = match backlog.pieces.is_empty() {
                true => Duration::from_millis(FOLD_INTERVAL_MS),
                false => Duration::ZERO,
            };
            let arrived = timeout(pause, jobs.recv_many(&mut received, JOBS_PER_ROUND_MAX)).await;
            if arrived == Ok(0) {
                return;
            }
            let batch = Batch::of(received.drain(..));
            let stops = batch.stops;
            self.commit(batch.ticks, batch.tick_owners).await;
            backlog.pieces.extend(batch.pieces);
            // A list is complete when its pieces are staged: whoever waits for an end waits for all.
            let is_awaited = stops || !batch.settled.is_empty();
            self.stage(&mut backlog.pieces, is_awaited).await;
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
            self.keep_house(&mut backlog, &jobs).await;
        }
    }

    async fn keep_house(&self, backlog: &mut Backlog, jobs: &mpsc::UnboundedReceiver<Job>) {
        if backlog.is_to_fold() {
            backlog.is_folding = self.fold(jobs).await;
            if !backlog.is_folding {
                backlog.folded_at = Instant::now();
            }
        }
        if backlog.is_to_retain() {
            backlog.keeps_too_much = self.retain(jobs).await;
            backlog.retained_at = Instant::now();
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
                let mut answers = ticks.iter().zip(&owners).zip(results).peekable();
                while let Some(((_, owner), _)) = answers.peek().copied() {
                    let of_owner = std::iter::from_fn(|| {
                        answers.next_if(|((_, other), _)| Arc::ptr_eq(owner, other))
                    });
                    let notices = of_owner.map(|((tick, _), result)| self.notice(tick, result));
                    // All of them before the first is told: a notice of a tick that was fenced
                    // tells every mailbox.
                    let notices: Vec<_> = notices.collect();
                    owner.tell_all(notices);
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

    /// What the worker is told of a tick.
    fn notice(&self, tick: &Tick, result: CommitResult) -> Notice {
        let (shard, seq) = (tick.shard, tick.seq);
        match result {
            CommitResult::Committed | CommitResult::AlreadyCommitted => {
                measures::ticks("committed");
                Notice::Committed { shard, seq }
            }
            CommitResult::Fenced | CommitResult::OutOfOrder => {
                measures::ticks("fenced");
                if !self.pulse.is_fenced.swap(true, Ordering::AcqRel) {
                    tracing::error!(shard = shard.get(), "another owner writes; serving ends");
                    let mailboxes = self.mailboxes.iter();
                    mailboxes.for_each(|mailbox| mailbox.tell(Notice::Drain));
                }
                Notice::CommitFailed { shard, seq }
            }
        }
    }

    /// Stages the first pieces, or all that there are.
    async fn stage(&self, pieces: &mut VecDeque<Piece>, all: bool) {
        let now = self.clock.now().unix_ms;
        while !pieces.is_empty() {
            let count = pieces.len().min(PIECES_PER_STAGING_MAX);
            let group: Vec<_> = pieces.drain(..count).collect();
            if self.stage_group(&group, now).await.is_break() {
                return;
            }
            // What could not be staged is a gap in what is kept, and no reason to hold a verdict.
            for piece in group {
                let (agent, challenge) = (piece.agent, piece.challenge);
                piece.mailbox.tell(Notice::Staged { agent, challenge });
            }
            if !all {
                return;
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

#[cfg(test)]
mod tests {
    use rat_engine::agent_id::ShardIndex;
    use rat_engine::shard::ChainHash;
    use rat_store::limits::CHUNK_BYTES;

    use super::*;
    use crate::clock::SystemClock;

    const PIECES: u64 = 20;

    #[tokio::test]
    async fn s07_a_tick_waits_for_no_list_that_came_before_it() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("data")).await.unwrap();
        let epoch = store.take_ownership("test").await.unwrap();
        let mailbox = Arc::new(Mailbox::new(1));
        let (door, jobs) = StoreDoor::new();
        for piece in 0..PIECES {
            door.give(Job::Stage(Piece {
                agent: AgentId::parse("machine-1").unwrap(),
                challenge: ChallengeId([1; 16]),
                piece,
                bytes: vec![1; CHUNK_BYTES],
                mailbox: Arc::clone(&mailbox),
            }));
        }
        let shard = ShardIndex::new(7).unwrap();
        let tick = Tick::new(shard, epoch, 1, ChainHash::default(), Vec::new());
        let ticks = vec![tick];
        let owner = Arc::clone(&mailbox);
        door.give(Job::Commit {
            ticks,
            mailbox: owner,
        });
        let (settled, all) = oneshot::channel();
        door.give(Job::Settle(settled));
        door.give(Job::Stop);
        let thread = StoreThread {
            store: store.clone(),
            clock: Arc::new(SystemClock::start()),
            retention: RetentionPolicy::default(),
            pulse: Arc::new(StorePulse::default()),
            mailboxes: vec![Arc::clone(&mailbox)],
            told: Arc::new(Told::of(&[])),
            gives_up: Arc::new(AtomicBool::new(false)),
            seed: 1,
        };
        thread.run(jobs).await;
        let told: Vec<_> = mailbox.take(1, Duration::ZERO).notices.into();
        assert!(matches!(told[0], Notice::Committed { seq: 1, .. }));
        // Whoever waited for all that came before waited for the pieces, too.
        let is_staged = |notice: &&Notice| matches!(notice, Notice::Staged { .. });
        let staged = told.iter().filter(is_staged).count();
        assert_eq!(u64::try_from(staged).unwrap(), PIECES);
        all.await.unwrap();
        let head = store.heads().await.unwrap()[usize::from(shard.get())];
        assert_eq!(head.seq, 1);
    }
}
