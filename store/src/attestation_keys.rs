//! Attestation keys that enrolled agents want to change to, until an operator decides.

use rat_engine::agent_id::AgentId;
use rat_engine::crypto;
use rat_engine::hash::HashAlg;
use rat_engine::shard::{AgentRecord, AgentState};

use crate::Store;
use crate::agents;
use crate::audit::{self, AuditEntry};
use crate::database::{Connection, number};
use crate::enrolment::{current_state, enrolled, put_state};
use crate::error::StoreError;
use crate::load::{self, StoredAgent};
use crate::packed;

/// How operators tell one attestation key from another: SHA-256 of its public area.
pub fn key_sha256(ak_public: &[u8]) -> [u8; 32] {
    // SHA-256 has 32 bytes; the zeros are never reached.
    let digest = crypto::digest(HashAlg::Sha256, ak_public);
    digest.as_bytes().try_into().unwrap_or([0; 32])
}

impl Store {
    /// The attestation key that an agent wants to change to.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn proposed_ak(&self, agent: &AgentId) -> Result<Option<AgentRecord>, StoreError> {
        let stored: Option<Vec<u8>> =
            sqlx::query_scalar("SELECT packed FROM ak_candidate WHERE shard = $1 AND agent = $2")
                .bind(i64::from(agent.shard().get()))
                .bind(agent.as_str())
                .fetch_optional(self.pools().read())
                .await?;
        stored
            .map(|packed| load::read_record(agent.as_str(), &packed))
            .transpose()
    }

    /// Takes the attestation key that an agent proposed, under a new key epoch: an operator's
    /// decision. Its failure stays, its trust ends; `None` when no key is proposed, or another one
    /// than `ak_sha256`, which is [`key_sha256`] of the key that the operator saw.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn approve_ak(
        &self,
        agent: &AgentId,
        ak_sha256: Option<&[u8; 32]>,
        actor: &str,
        now_unix_ms: u64,
    ) -> Result<Option<StoredAgent>, StoreError> {
        let mut tx = self.pools().write().await?;
        let stored: Option<Vec<u8>> = sqlx::query_scalar(
            "DELETE FROM ak_candidate WHERE shard = $1 AND agent = $2 RETURNING packed",
        )
        .bind(i64::from(agent.shard().get()))
        .bind(agent.as_str())
        .fetch_optional(&mut *tx)
        .await?;
        let (Some(stored), Some(old)) = (stored, enrolled(&mut tx, agent).await?) else {
            return Ok(None);
        };
        let proposed = load::read_record(agent.as_str(), &stored)?;
        if ak_sha256.is_some_and(|wanted| *wanted != key_sha256(&proposed.ak_public)) {
            return Ok(None);
        }
        // An operator may have changed the rest since the key was proposed.
        let record = AgentRecord {
            ak_epoch: old.ak_epoch.saturating_add(1),
            group: old.group,
            relay_key_sha256: old.relay_key_sha256,
            baseline: proposed.baseline.clone().or(old.baseline),
            ..proposed
        };
        agents::update(&mut tx, &record).await?;
        let state = AgentState {
            trusted_until_unix_ms: 0,
            ..current_state(&mut tx, agent).await?
        };
        put_state(&mut tx, agent, &state).await?;
        let entry = AuditEntry {
            at_unix_ms: now_unix_ms,
            actor,
            action: "agent.approve_ak",
            target: agent.as_str(),
            detail: &format!("key epoch {}", record.ak_epoch),
        };
        audit::append(&mut tx, entry).await?;
        tx.commit().await?;
        Ok(Some(StoredAgent { record, state }))
    }
}

/// Remembers that an enrolled agent wants to change to the key of this record.
pub(crate) async fn propose(
    tx: &mut Connection,
    record: &AgentRecord,
    actor: &str,
    now_unix_ms: u64,
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO ak_candidate (shard, agent, at_unix_ms, packed) VALUES ($1, $2, $3, $4)
         ON CONFLICT (shard, agent)
         DO UPDATE SET at_unix_ms = excluded.at_unix_ms, packed = excluded.packed",
    )
    .bind(i64::from(record.id.shard().get()))
    .bind(record.id.as_str())
    .bind(number(now_unix_ms)?)
    .bind(packed::pack(record)?)
    .execute(&mut *tx)
    .await?;
    let entry = AuditEntry {
        at_unix_ms: now_unix_ms,
        actor,
        action: "agent.propose_ak",
        target: record.id.as_str(),
        detail: &format!("sha256:{}", hex::encode(key_sha256(&record.ak_public))),
    };
    audit::append(tx, entry).await?;
    Ok(())
}

/// Forgets what an agent proposed.
pub(crate) async fn withdraw(tx: &mut Connection, agent: &AgentId) -> Result<(), StoreError> {
    sqlx::query("DELETE FROM ak_candidate WHERE shard = $1 AND agent = $2")
        .bind(i64::from(agent.shard().get()))
        .bind(agent.as_str())
        .execute(tx)
        .await?;
    Ok(())
}
