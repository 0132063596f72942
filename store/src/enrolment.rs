//! Enrolment: pending activations, and the one transaction that makes an agent.

use rat_engine::agent_id::{AgentId, ShardIndex};
use rat_engine::shard::{AgentPath, AgentRecord, AgentState, Failure};
use sqlx::Row;
use thiserror::Error;

use crate::Store;
use crate::agents::{self, Registration};
use crate::approvals;
use crate::attestation_keys;
use crate::audit::{self, AuditEntry};
use crate::database::{Connection, natural, number, time};
use crate::error::{RowName, StoreError};
use crate::fold;
use crate::groups;
use crate::limits;
use crate::load::{self, StateRow, StoredAgent};
use crate::packed;
use crate::registrations;

/// An activation that a machine has yet to answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NewPending<'a> {
    /// Its id; random.
    pub id: &'a str,
    /// The agent that it is for. One agent can have several: the first answer wins. (N07)
    pub agent: &'a AgentId,
    /// What the caller needs to check the answer, in its own form.
    pub body: &'a [u8],
    /// When it ends by itself.
    pub expires_unix_ms: u64,
}

/// A pending activation, as it was kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pending {
    /// The agent that it is for.
    pub agent: AgentId,
    /// What the caller kept.
    pub body: Vec<u8>,
    /// Wrong answers so far.
    pub tries: u64,
    /// When it ends by itself.
    pub expires_unix_ms: u64,
}

/// What counting a wrong answer led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TryResult {
    /// So many more are allowed.
    Left(u64),
    /// That was the last: the activation is dropped.
    Dropped,
    /// There is no such activation.
    Unknown,
}

/// An activation that a machine answered, and what else must still hold when it is concluded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answered<'a> {
    /// Its id.
    pub activation_id: &'a str,
    /// Who enrols the machine, for the audit log.
    pub actor: &'a str,
    /// The enrolment token; `None` where none was asked for.
    pub token_id: Option<&'a str>,
    /// Whether nothing but an operator's approval of this machine lets it in.
    pub needs_approval: bool,
}

impl<'a> Answered<'a> {
    /// An answer that needs neither token nor approval.
    pub const fn new(activation_id: &'a str, actor: &'a str) -> Self {
        Self {
            activation_id,
            actor,
            token_id: None,
            needs_approval: false,
        }
    }
}

/// What an activation led to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Activated {
    /// A new agent. Its state holds the failure that its machine had under an earlier agent. (S16)
    New(StoredAgent),
    /// The agent was enrolled with the same endorsement and attestation key: it gets another
    /// certificate, and its state stays.
    SameAgain(StoredAgent),
    /// The machine is enrolled under this id with another attestation key. Nothing changed; the
    /// new key waits for [`Store::approve_ak`].
    NewAkNeedsOperator,
}

/// Why an activation contradicts what is enrolled. Nothing changed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Conflict {
    /// The activation was never begun, is over, was answered, or is for another agent.
    #[error("no such activation is pending")]
    NotPending,
    /// The id belongs to another machine.
    #[error("the id belongs to another machine")]
    IdTaken,
    /// The machine is enrolled under another id. (S16)
    #[error("the machine is enrolled as {0}")]
    EkEnrolled(String),
    /// The id is enrolled on another path. (S15)
    #[error("the id is enrolled on another path")]
    OtherPath,
    /// The machine belongs to another group, or failed in one before it was removed: a token of
    /// the new group does not move it, because what another group asks would end its failure.
    /// Only [`Store::change_agent`] moves it. (S16)
    #[error("the machine belongs to another group")]
    OtherGroup,
    /// The enrolment token was revoked meanwhile. (N08)
    #[error("the enrolment token was revoked")]
    TokenRevoked,
    /// The operator's approval of the machine was withdrawn meanwhile. (N12)
    #[error("the machine is not approved")]
    NotApproved,
}

impl Store {
    /// Keeps an activation until it is answered.
    ///
    /// # Errors
    /// [`StoreError::TooLarge`] when as many as may be are pending, [`StoreError::Exists`].
    pub async fn put_pending(
        &self,
        pending: NewPending<'_>,
        now_unix_ms: u64,
    ) -> Result<(), StoreError> {
        limits::check_name("a pending activation's id", pending.id)?;
        let bytes = pending.body.len();
        limits::check(
            "bytes of a pending activation",
            bytes,
            limits::PENDING_BYTES_MAX,
        )?;
        let mut tx = self.pools().write().await?;
        let waiting: i64 =
            sqlx::query_scalar("SELECT count(*) FROM pending WHERE expires_unix_ms > $1")
                .bind(number(now_unix_ms)?)
                .fetch_one(&mut *tx)
                .await?;
        let waiting = usize::try_from(waiting).unwrap_or(usize::MAX);
        let with_this = waiting.saturating_add(1);
        limits::check("pending activations", with_this, limits::PENDING_MAX)?;
        let kept = sqlx::query(
            "INSERT INTO pending (id, agent, tries, expires_unix_ms, packed)
             VALUES ($1, $2, 0, $3, $4) ON CONFLICT (id) DO NOTHING",
        )
        .bind(pending.id)
        .bind(pending.agent.as_str())
        .bind(number(pending.expires_unix_ms)?)
        .bind(packed::pack_bytes(pending.body))
        .execute(&mut *tx)
        .await?;
        if kept.rows_affected() == 0 {
            return Err(StoreError::Exists(RowName::Pending(pending.id.to_owned())));
        }
        tx.commit().await?;
        Ok(())
    }

    /// The pending activation with this id, unless it is over.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn pending(&self, id: &str, now_unix_ms: u64) -> Result<Option<Pending>, StoreError> {
        let row = sqlx::query(
            "SELECT agent, packed, tries, expires_unix_ms FROM pending
             WHERE id = $1 AND expires_unix_ms > $2",
        )
        .bind(id)
        .bind(number(now_unix_ms)?)
        .fetch_optional(self.pools().read())
        .await?;
        let Some(row) = row else {
            return Ok(None);
        };
        let unreadable = |fault| StoreError::unreadable(RowName::Pending(id.to_owned()), fault);
        let body = packed::unpack_bytes(row.try_get(1)?, limits::PENDING_BYTES_MAX);
        Ok(Some(Pending {
            agent: AgentId::parse(row.try_get(0)?).map_err(|e| unreadable(e.into()))?,
            body: body.map_err(unreadable)?,
            tries: natural(row.try_get(2)?).map_err(unreadable)?,
            expires_unix_ms: natural(row.try_get(3)?).map_err(unreadable)?,
        }))
    }

    /// Counts a wrong answer, and drops the activation at the last that is allowed.
    ///
    /// # Errors
    /// [`StoreError`]; then the answer must not be looked at.
    pub async fn count_try(&self, id: &str, tries_max: u64) -> Result<TryResult, StoreError> {
        let mut tx = self.pools().write().await?;
        let tries: Option<i64> = sqlx::query_scalar(
            "UPDATE pending SET tries = tries + 1 WHERE id = $1 RETURNING tries",
        )
        .bind(id)
        .fetch_optional(&mut *tx)
        .await?;
        let Some(tries) = tries else {
            return Ok(TryResult::Unknown);
        };
        let left = tries_max.saturating_sub(natural(tries).unwrap_or(u64::MAX));
        if left == 0 {
            drop_pending(&mut tx, id).await?;
        }
        tx.commit().await?;
        Ok(match left {
            0 => TryResult::Dropped,
            left => TryResult::Left(left),
        })
    }

    /// Drops a pending activation; false when there is none.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn drop_pending(&self, id: &str) -> Result<bool, StoreError> {
        let mut tx = self.pools().write().await?;
        let dropped = drop_pending(&mut tx, id).await?;
        tx.commit().await?;
        Ok(dropped)
    }

    /// Enrols the agent that answered this activation, in one transaction with its entry in the audit
    /// log: the activation is used up, and the id, the machine and its keys are bound to each other.
    /// (N07)
    ///
    /// # Errors
    /// The outer for the database and [`StoreError::Missing`] without the record's group; the
    /// inner when the record contradicts what is enrolled, or what the enrolment stood on holds no
    /// more. All of them leave everything as it was.
    ///
    /// # Security
    /// The caller has checked the answer. Whatever the record says, a machine that failed is
    /// failed again, an attestation key is replaced only by [`Store::approve_ak`], and a group only
    /// by [`Store::change_agent`]. A token that was revoked and an approval that was withdrawn
    /// before this transaction let nobody in. (N08)
    pub async fn activate(
        &self,
        answered: &Answered<'_>,
        record: &AgentRecord,
        registration: &Registration,
    ) -> Result<Result<Activated, Conflict>, StoreError> {
        let mut tx = self.pools().write().await?;
        let was_pending = sqlx::query(
            "DELETE FROM pending WHERE id = $1 AND agent = $2 AND expires_unix_ms > $3",
        )
        .bind(answered.activation_id)
        .bind(record.id.as_str())
        .bind(number(registration.registered_unix_ms)?)
        .execute(&mut *tx)
        .await?;
        if was_pending.rows_affected() == 0 {
            return Ok(Err(Conflict::NotPending));
        }
        groups::require(&mut tx, &record.group).await?;
        if let Some(ended) = ended(&mut tx, answered, record).await? {
            return Ok(Err(ended));
        }
        let (activated, action) = match bind(&mut tx, answered, record, registration).await? {
            Err(conflict) => return Ok(Err(conflict)),
            Ok(new @ Activated::New(_)) => (new, "agent.enrol"),
            Ok(again @ Activated::SameAgain(_)) => (again, "agent.enrol_again"),
            // That a key is proposed has an entry of its own.
            Ok(proposed @ Activated::NewAkNeedsOperator) => {
                tx.commit().await?;
                return Ok(Ok(proposed));
            }
        };
        let entry = AuditEntry {
            at_unix_ms: registration.registered_unix_ms,
            actor: answered.actor,
            action,
            target: record.id.as_str(),
            detail: &record.group,
        };
        audit::append(&mut tx, entry).await?;
        tx.commit().await?;
        Ok(Ok(activated))
    }

    /// An agent as a shard takes it up: its record, and what it proved last.
    ///
    /// # Errors
    /// [`StoreError::Unreadable`] when one of them cannot be read.
    pub async fn enrolled_agent(&self, agent: &AgentId) -> Result<Option<StoredAgent>, StoreError> {
        let mut tx = self.pools().write().await?;
        let Some(record) = enrolled(&mut tx, agent).await? else {
            return Ok(None);
        };
        let state = current_state(&mut tx, agent).await?;
        tx.commit().await?;
        Ok(Some(StoredAgent { record, state }))
    }
}

/// What of that which the enrolment stood on holds no more.
async fn ended(
    tx: &mut Connection,
    answered: &Answered<'_>,
    record: &AgentRecord,
) -> Result<Option<Conflict>, StoreError> {
    if let Some(token) = answered.token_id {
        let valid: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM token WHERE id = $1 AND revoked_unix_ms IS NULL",
        )
        .bind(token)
        .fetch_one(&mut *tx)
        .await?;
        if valid == 0 {
            return Ok(Some(Conflict::TokenRevoked));
        }
    }
    let is_let_in = !answered.needs_approval
        || approvals::is_approved(&mut *tx, &record.group, &record.ek_sha256).await?;
    Ok((!is_let_in).then_some(Conflict::NotApproved))
}

/// Binds the id, the machine and its keys to each other, as far as they do not contradict what is
/// enrolled.
async fn bind(
    tx: &mut Connection,
    answered: &Answered<'_>,
    record: &AgentRecord,
    registration: &Registration,
) -> Result<Result<Activated, Conflict>, StoreError> {
    let now = registration.registered_unix_ms;
    // What registered with Keylime's registrar stays there until an operator removes it. (S15)
    if record.path == AgentPath::Native
        && (registrations::is_active(tx, &record.id).await?
            || registrations::machine_id(tx, &record.ek_sha256, &record.id)
                .await?
                .is_some())
    {
        return Ok(Err(Conflict::OtherPath));
    }
    Ok(match enrolled(tx, &record.id).await? {
        None => match machine_id(tx, &record.ek_sha256).await? {
            Some(other) => Err(Conflict::EkEnrolled(other)),
            None => enrol(tx, record, registration).await?.map(Activated::New),
        },
        Some(old) if old.ek_sha256 != record.ek_sha256 => Err(Conflict::IdTaken),
        Some(old) if old.path != record.path => Err(Conflict::OtherPath),
        Some(old) if old.group != record.group => Err(Conflict::OtherGroup),
        Some(old) if old.ak_public != record.ak_public => {
            attestation_keys::propose(tx, record, answered.actor, now).await?;
            Ok(Activated::NewAkNeedsOperator)
        }
        Some(old) => {
            let record = AgentRecord {
                ak_epoch: old.ak_epoch,
                relay_key_sha256: old.relay_key_sha256,
                baseline: record.baseline.clone().or(old.baseline),
                ..record.clone()
            };
            agents::update(tx, &record).await?;
            agents::update_registration(tx, &record.id, registration).await?;
            // It has the key that it had: it does not want the other one any more.
            attestation_keys::withdraw(tx, &record.id).await?;
            let state = current_state(tx, &record.id).await?;
            Ok(Activated::SameAgain(StoredAgent { record, state }))
        }
    })
}

async fn drop_pending(tx: &mut Connection, id: &str) -> Result<bool, StoreError> {
    let dropped = sqlx::query("DELETE FROM pending WHERE id = $1")
        .bind(id)
        .execute(tx)
        .await?;
    Ok(dropped.rows_affected() > 0)
}

/// The record under this id.
pub(crate) async fn enrolled(
    tx: &mut Connection,
    agent: &AgentId,
) -> Result<Option<AgentRecord>, StoreError> {
    let stored: Option<Vec<u8>> =
        sqlx::query_scalar("SELECT packed FROM agent WHERE shard = $1 AND id = $2")
            .bind(i64::from(agent.shard().get()))
            .bind(agent.as_str())
            .fetch_optional(tx)
            .await?;
    stored
        .map(|packed| load::read_record(agent.as_str(), &packed))
        .transpose()
}

/// The id under which a machine is enrolled.
pub(crate) async fn machine_id(
    tx: &mut Connection,
    ek_sha256: &[u8; 32],
) -> Result<Option<String>, StoreError> {
    Ok(
        sqlx::query_scalar("SELECT id FROM agent WHERE ek_sha256 = $1")
            .bind(&ek_sha256[..])
            .fetch_optional(tx)
            .await?,
    )
}

/// Who has a new record's id, or its machine.
pub(crate) async fn taken(
    tx: &mut Connection,
    record: &AgentRecord,
) -> Result<Option<Conflict>, StoreError> {
    if enrolled(tx, &record.id).await?.is_some() {
        return Ok(Some(Conflict::IdTaken));
    }
    let other = machine_id(tx, &record.ek_sha256).await?;
    Ok(other.map(Conflict::EkEnrolled))
}

pub(crate) async fn enrol(
    tx: &mut Connection,
    record: &AgentRecord,
    registration: &Registration,
) -> Result<Result<StoredAgent, Conflict>, StoreError> {
    // What is left of an earlier agent must be in its rows before this one's are made: its last
    // failure, and outcomes that must not be taken for this one's.
    let shard = record.id.shard();
    fold::fold_shard(tx, shard).await?;
    sqlx::query("DELETE FROM removed_agent WHERE shard = $1 AND id = $2")
        .bind(i64::from(shard.get()))
        .bind(record.id.as_str())
        .execute(&mut *tx)
        .await?;
    let failure: Option<(String, Vec<u8>)> =
        sqlx::query_as("DELETE FROM ek_failure WHERE ek_sha256 = $1 RETURNING slug, packed")
            .bind(&record.ek_sha256[..])
            .fetch_optional(&mut *tx)
            .await?;
    let failure = match failure {
        Some((group, _)) if group != record.group => return Ok(Err(Conflict::OtherGroup)),
        Some((_, packed)) => Some(
            packed::unpack::<Failure>(&packed)
                .map_err(|fault| StoreError::unreadable(RowName::EkFailure, fault))?,
        ),
        None => None,
    };
    let state = AgentState {
        failure: failure.map(Box::new),
        ..AgentState::default()
    };
    agents::insert(tx, record, registration).await?;
    put_state(tx, &record.id, &state).await?;
    Ok(Ok(StoredAgent {
        record: record.clone(),
        state,
    }))
}

/// The state of an agent after all that is committed. Folds its shard.
pub(crate) async fn current_state(
    tx: &mut Connection,
    agent: &AgentId,
) -> Result<AgentState, StoreError> {
    let shard = agent.shard();
    fold::fold_shard(tx, shard).await?;
    let row = sqlx::query(
        "SELECT seq, suspect_seq, packed FROM agent_state WHERE shard = $1 AND agent = $2",
    )
    .bind(i64::from(shard.get()))
    .bind(agent.as_str())
    .fetch_optional(tx)
    .await?;
    let name = || RowName::State(agent.as_str().to_owned());
    let row = row.ok_or_else(|| StoreError::Missing(name()))?;
    let unreadable = |fault| StoreError::unreadable(name(), fault);
    let row = StateRow {
        seq: natural(row.try_get(0)?).map_err(unreadable)?,
        suspect_seq: natural(row.try_get(1)?).map_err(unreadable)?,
        packed: row.try_get(2)?,
    };
    load::folded_state(&row).map_err(unreadable)
}

/// Writes a state that comes from no tick: as of the newest one of its shard.
pub(crate) async fn put_state(
    tx: &mut Connection,
    agent: &AgentId,
    state: &AgentState,
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO agent_state (shard, agent, seq, packed)
         SELECT id, $2, seq, $3 FROM shard WHERE id = $1
         ON CONFLICT (shard, agent)
         DO UPDATE SET seq = excluded.seq, suspect_seq = 0, packed = excluded.packed",
    )
    .bind(i64::from(agent.shard().get()))
    .bind(agent.as_str())
    .bind(packed::pack(state)?)
    .execute(tx)
    .await?;
    Ok(())
}

/// Keeps the failure of a machine whose agent was removed before this tick was committed.
pub(crate) async fn failed_after_removal(
    tx: &mut Connection,
    agent: &AgentId,
    seq: u64,
    failure: &Failure,
) -> Result<(), StoreError> {
    let shard: ShardIndex = agent.shard();
    let machine: Option<(Vec<u8>, String)> = sqlx::query_as(
        "SELECT ek_sha256, slug FROM removed_agent WHERE shard = $1 AND id = $2 AND removed_seq < $3",
    )
    .bind(i64::from(shard.get()))
    .bind(agent.as_str())
    .bind(number(seq)?)
    .fetch_optional(&mut *tx)
    .await?;
    match machine {
        Some((ek_sha256, group)) => {
            let machine = FailedMachine {
                ek_sha256: &ek_sha256,
                group: &group,
                agent,
            };
            keep_failure(tx, &machine, failure).await
        }
        None => Ok(()),
    }
}

/// A machine without an agent, and what it failed as.
pub(crate) struct FailedMachine<'a> {
    pub(crate) ek_sha256: &'a [u8],
    pub(crate) group: &'a str,
    pub(crate) agent: &'a AgentId,
}

/// Keeps a failure by machine, for when it comes back. (S16)
pub(crate) async fn keep_failure(
    tx: &mut Connection,
    machine: &FailedMachine<'_>,
    failure: &Failure,
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO ek_failure (ek_sha256, slug, agent, at_unix_ms, packed)
         VALUES ($1, $2, $3, $4, $5)
         ON CONFLICT (ek_sha256) DO UPDATE SET slug = excluded.slug, agent = excluded.agent,
             at_unix_ms = excluded.at_unix_ms, packed = excluded.packed",
    )
    .bind(machine.ek_sha256)
    .bind(machine.group)
    .bind(machine.agent.as_str())
    .bind(time(failure.at_unix_ms))
    .bind(packed::pack(failure)?)
    .execute(tx)
    .await?;
    Ok(())
}
