//! One challenge, as one request to its agent, and the answer as evidence.

use std::sync::Arc;
use std::time::Duration;

use rat_engine::evidence::{
    Busy, Challenge, PULL_NONCE_BYTES, SessionId, pull_nonce, qualifying_data,
};
use rat_engine::pcr::PcrIndex;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

use super::answer::Answer;
use super::connection::{Answered, Asked, Line};
use super::failure::Failure;
use super::polled::{Permits, Polled};
use super::poller::Shared;
use super::version::AgentVersion;
use crate::limits;
use crate::measures;
use crate::memory::Held;

/// What Keylime's agents say of a path whose version they do not serve.
const VERSION_NOT_SUPPORTED: &[u8] = b"API version not supported";
/// Answers that are longer are read on a thread of their own.
const LONG_BYTES: usize = 256 * 1024;

/// Answers a challenge of this session.
pub(super) fn begin(
    shared: &Arc<Shared>,
    polled: &Arc<Polled>,
    session: SessionId,
    challenge: Challenge,
) {
    if shared.is_stopping() {
        return;
    }
    polled.challenged(session, challenge.id, |more| {
        let exchange = Exchange {
            shared: Arc::clone(shared),
            polled: Arc::clone(polled),
            session,
            challenge,
        };
        shared.spawn(async move { exchange.run(&more).await })
    });
}

struct Exchange {
    shared: Arc<Shared>,
    polled: Arc<Polled>,
    session: SessionId,
    challenge: Challenge,
}

impl Exchange {
    async fn run(&self, more: &Semaphore) {
        let begun = Instant::now();
        let evidence = self.evidence_in_time(begun).await;
        let failure = evidence.as_ref().err();
        let result = failure.map_or("evidence", |failure| failure.as_str());
        measures::poll(result, begun.elapsed());
        let delivered = match evidence {
            Ok((answer, held)) => self.deliver(answer, held, more).await,
            Err(failure) => Err(failure),
        };
        if let Err(failure) = delivered {
            self.polled
                .failed(&self.shared, Some(self.session), failure);
        }
    }

    /// How long the agent has: a little less than its challenge, so that evidence that comes late is
    /// known to be late here already.
    fn limit(&self) -> Duration {
        let of_challenge = u64::from(self.challenge.deadline_ms);
        let of_challenge = of_challenge.saturating_sub(of_challenge / 20);
        Duration::from_millis(self.shared.settings.answer_ms.min(of_challenge))
    }

    /// The agent is not blamed for the time in which it waits for its turn here.
    async fn evidence_in_time(&self, begun: Instant) -> Result<(Answer, Vec<Held>), Failure> {
        let limit = self.limit();
        let waits_max = limit.checked_div(2).unwrap_or_default();
        let permits = timeout(waits_max, self.polled.permits(&self.shared)).await;
        let Ok(permits) = permits else {
            measures::limit("PULL_EXCHANGES_MAX");
            return Err(Failure::Busy);
        };
        let left = limit.saturating_sub(begun.elapsed());
        let evidence = timeout(left, self.evidence(permits?)).await;
        evidence.unwrap_or(Err(Failure::Timeout))
    }

    async fn evidence(&self, permits: Permits) -> Result<(Answer, Vec<Held>), Failure> {
        let (shared, polled) = (&self.shared, &self.polled);
        let version = polled.version().ok_or(Failure::Version)?;
        let (mut line, mut answered) = self.ask(version).await?;
        if is_unknown_version(&answered) {
            let mut anew = polled.open_line(shared).await?;
            let other = polled.ask_version(shared, &mut anew).await?;
            if other == version {
                return Err(Failure::Version);
            }
            polled.speaks(shared, other);
            (line, answered) = self.ask(other).await?;
        }
        if self.keeps_lines()
            && let Some(line) = line.reusable().await
        {
            polled.keep(shared, line);
        }
        drop(permits);
        match answered.status {
            200 => self.read(answered).await,
            status @ 300..=399 => Err(Failure::Redirect(status)),
            status => Err(Failure::Status(status)),
        }
    }

    /// Asks over the connection that was kept, or over a new one when that is closed by now.
    async fn ask(&self, version: AgentVersion) -> Result<(Line, Answered), Failure> {
        let (shared, polled) = (&self.shared, &self.polled);
        let asked = || Asked::get(self.target(version), !self.keeps_lines());
        let most = shared.settings.answer_bytes_max;
        if let Some(mut kept) = polled.kept_line(shared) {
            match kept.ask(asked(), &polled.known, &shared.memory, most).await {
                Ok(answered) => return Ok((kept, answered)),
                Err(Failure::Exchange) => {}
                Err(failure) => return Err(failure),
            }
        }
        let mut line = polled.open_line(shared).await?;
        let answered = line
            .ask(asked(), &polled.known, &shared.memory, most)
            .await?;
        Ok((line, answered))
    }

    /// Whether the next poll comes before the agent would close the connection.
    fn keeps_lines(&self) -> bool {
        self.shared.settings.interval_ms < limits::PULL_KEPT_MS_MAX
    }

    /// Path and query. (keylime.md section 3)
    fn target(&self, version: AgentVersion) -> String {
        let Self {
            challenge, polled, ..
        } = self;
        let known = &polled.known;
        let agent = &known.contact.agent;
        let data = qualifying_data(challenge, &known.binding, &known.ak_name, agent);
        let nonce: [u8; PULL_NONCE_BYTES] = pull_nonce(&data);
        let nonce: String = nonce.into_iter().map(char::from).collect();
        let partial = u8::from(!polled.is_to_show_key());
        let from = challenge.ima_from_entry.unwrap_or(0);
        let mask = mask(challenge);
        format!(
            "/v{version}/quotes/integrity?nonce={nonce}&mask={mask:#x}&partial={partial}&ima_ml_entry={from}"
        )
    }

    async fn read(&self, answered: Answered) -> Result<(Answer, Vec<Held>), Failure> {
        let Answered { body, held, .. } = answered;
        let (polled, challenge) = (Arc::clone(&self.polled), self.challenge);
        let is_long = body.len() > LONG_BYTES;
        let read = move || {
            let known = &polled.known;
            Answer::read(&body, &known.contact, &challenge, known.binding)
        };
        let answer = match is_long {
            true => tokio::task::spawn_blocking(read)
                .await
                .map_err(|_| Failure::Busy)?,
            false => read(),
        };
        Ok((answer?, held))
    }

    /// Hands the evidence over: a short list with it, a long one in the pieces that the shard asks
    /// for.
    async fn deliver(
        &self,
        mut answer: Answer,
        held: Vec<Held>,
        more: &Semaphore,
    ) -> Result<(), Failure> {
        let (shared, session) = (&self.shared, self.session);
        let agent = &self.polled.known.contact.agent;
        if !self.polled.answered(shared, session, &answer) {
            return Ok(());
        }
        let long_list = answer.long_list.take();
        let submission = answer.submission;
        let whole = submission.ima.as_ref().and_then(|ima| ima.whole.as_ref());
        let logs = [submission.boot_log.as_ref(), whole];
        let log_bytes: usize = logs.into_iter().flatten().map(Vec::len).sum();
        let busy = |_: Busy| Failure::Busy;
        let intake = &shared.intake;
        intake.evidence(session, agent, submission).map_err(busy)?;
        measures::count(measures::EVIDENCE, 1);
        count_bytes(log_bytes);
        for piece in long_list
            .iter()
            .flat_map(|list| list.chunks(limits::PIECE_BYTES_MAX))
        {
            let within = Duration::from_millis(limits::PULL_PIECE_MS_MAX);
            match timeout(within, more.acquire()).await {
                Ok(Ok(permit)) => permit.forget(),
                Ok(Err(_)) | Err(_) => return Err(Failure::Busy),
            }
            let (id, bytes) = (self.challenge.id, piece.len());
            let taken = intake.log_piece(session, agent, id, piece.to_vec());
            taken.map_err(busy)?;
            count_bytes(bytes);
        }
        drop(held);
        Ok(())
    }
}

fn count_bytes(bytes: usize) {
    measures::count(
        measures::LOG_BYTES,
        u64::try_from(bytes).unwrap_or(u64::MAX),
    );
}

/// The PCRs that the agent is asked for. PCR 16 comes by itself. The agent sends its boot log with
/// PCR 0 and its list with PCR 10.
fn mask(challenge: &Challenge) -> u32 {
    let asked = challenge.selection.banks().next();
    let pcrs = asked.map_or(0, |(_, pcrs)| pcrs.bits());
    pcrs & !bit(PcrIndex::KEYLIME_DATA) | u32::from(challenge.boot_log)
}

fn bit(pcr: PcrIndex) -> u32 {
    1_u32.wrapping_shl(u32::from(pcr.get()))
}

fn is_unknown_version(answered: &Answered) -> bool {
    let mut windows = answered.body.windows(VERSION_NOT_SUPPORTED.len());
    answered.status == 400 && windows.any(|window| window == VERSION_NOT_SUPPORTED)
}
