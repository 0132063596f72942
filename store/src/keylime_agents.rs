//! What Keylime's tenants say of their agents, beside the record that every agent has.

use std::fmt;

use rat_engine::agent_id::AgentId;
use rat_engine::hash::{Digest, HashAlg};
use rat_engine::shard::AgentRecord;
use serde::{Deserialize, Serialize};
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use crate::Store;
use crate::agents::Registration;
use crate::audit::{self, AuditEntry};
use crate::database::{Connection, natural};
use crate::enrolment::{self, Conflict};
use crate::error::{RowName, StoreError};
use crate::groups;
use crate::keylime_policies::{self, KeylimeKind, KeylimePut, NewKeylimePolicy};
use crate::keylime_standing::NotedStanding;
use crate::limits;
use crate::load::StoredAgent;
use crate::packed::{self, Fault};

/// What a tenant said of an agent, as Keylime's API names it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeylimeFacts {
    /// The V key that the agent is given when it proved itself: 32 bytes.
    pub v: Option<Vec<u8>>,
    /// Where it is polled; `None` for one that pushes.
    pub ip: Option<String>,
    /// The port of that.
    pub port: Option<u16>,
    /// `tpm_policy`: JSON.
    pub tpm_policy: String,
    /// `metadata`: JSON that nobody here reads.
    pub metadata: String,
    /// `ima_sign_verification_keys`: a keyring, or nothing.
    pub ima_sign_verification_keys: String,
    /// The PEM private key that its revocations are signed with, or nothing.
    pub revocation_key: String,
    /// Hash algorithms that are accepted, in the order in which they are preferred.
    pub accept_tpm_hash_algs: Vec<String>,
    /// Algorithms of keys.
    pub accept_tpm_encryption_algs: Vec<String>,
    /// Signature schemes.
    pub accept_tpm_signing_algs: Vec<String>,
    /// The certificate that the agent is trusted by when it is polled: PEM.
    pub mtls_cert: Option<String>,
    /// The version of the API that it speaks.
    pub supported_version: String,
    /// The verifier that the tenant spoke to, as it called it.
    pub verifier_ip: String,
    /// Its port.
    pub verifier_port: u16,
    /// The bank that it is asked to quote: one of those that are accepted.
    pub bank: HashAlg,
}

// Two members are secrets.
impl fmt::Debug for KeylimeFacts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeylimeFacts")
            .field("ip", &self.ip)
            .field("port", &self.port)
            .field("supported_version", &self.supported_version)
            .field("bank", &self.bank)
            .finish_non_exhaustive()
    }
}

/// A policy that a new agent is to be judged by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PolicyOfAgent<'a> {
    /// One that is kept under this name.
    Kept(&'a str),
    /// One that is kept with the agent, under a name that must be free.
    New(NewKeylimePolicy<'a>),
    /// One that is kept with the agent, unless there is one of its name already.
    NewUnlessKept(NewKeylimePolicy<'a>),
}

/// One of Keylime's agents that is added.
#[derive(Debug, Clone, Copy)]
pub struct NewKeylimeAgent<'a> {
    /// What is bound to its id.
    pub record: &'a AgentRecord,
    /// What the tenant said of it.
    pub facts: &'a KeylimeFacts,
    /// What may run on it.
    pub runtime_policy: PolicyOfAgent<'a>,
    /// How it may boot.
    pub mb_policy: PolicyOfAgent<'a>,
    /// Who adds it.
    pub actor: &'a str,
}

/// A policy that an agent is judged by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JudgedBy {
    /// Its name.
    pub name: String,
    /// SHA-256 of its text; `None` when it demands nothing.
    pub digest: Option<Digest>,
}

/// One of Keylime's agents, as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredKeylimeAgent {
    /// Its id.
    pub id: AgentId,
    /// What the tenant said.
    pub facts: KeylimeFacts,
    /// What may run on it.
    pub runtime_policy: JudgedBy,
    /// How it may boot.
    pub mb_policy: JudgedBy,
    /// Grows with each change of the agent or of its policies.
    pub version: u64,
    /// What was decided and told of it, read together with the rest.
    pub standing: NotedStanding,
}

/// Some of Keylime's agents.
#[derive(Debug)]
pub struct KeylimePage {
    /// Each, or why it cannot be read.
    pub agents: Vec<Result<StoredKeylimeAgent, StoreError>>,
    /// Where the page ends; `None` when nobody was left.
    pub end: Option<KeylimePageEnd>,
}

/// The last agent of a page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeylimePageEnd(i64, String);

/// Where the columns of the standing begin.
const STANDING_COLUMN: usize = 11;

/// The query of agents with their policies and standing, with what follows.
macro_rules! agents {
    ($rest:literal) => {
        concat!(
            "SELECT k.id, k.packed, k.version, k.runtime_policy, r.digest,
                    coalesce(r.version, 0), k.mb_policy, m.digest, coalesce(m.version, 0),
                    r.name IS NULL OR m.name IS NULL, k.shard, s.halted, s.resumed_unix_ms,
                    s.failed_unix_ms, s.severity, s.event_id, s.is_silent
             FROM keylime_agent k
             LEFT JOIN keylime_standing s ON s.shard = k.shard AND s.id = k.id
             LEFT JOIN keylime_policy r ON r.kind = 'runtime' AND r.name = k.runtime_policy
             LEFT JOIN keylime_policy m ON m.kind = 'measured_boot' AND m.name = k.mb_policy ",
            $rest
        )
    };
}

impl StoredKeylimeAgent {
    fn read(row: &SqliteRow) -> Result<Self, StoreError> {
        let id: String = row.try_get(0)?;
        let unreadable = |fault| StoreError::unreadable(RowName::Agent(id.clone()), fault);
        let digest = |bytes: Option<&[u8]>| {
            let digest = bytes.map(|bytes| Digest::new(HashAlg::Sha256, bytes));
            digest.transpose().map_err(|_| unreadable(Fault::Content))
        };
        // An agent whose policy is gone must not be taken for one that nothing is demanded of.
        if row.try_get(9)? {
            return Err(unreadable(Fault::Content));
        }
        let mut version: u64 = 0;
        for column in [2, 5, 8] {
            let part = natural(row.try_get(column)?).map_err(unreadable)?;
            version = version.saturating_add(part);
        }
        Ok(Self {
            facts: packed::unpack(row.try_get(1)?).map_err(unreadable)?,
            runtime_policy: JudgedBy {
                name: row.try_get(3)?,
                digest: digest(row.try_get(4)?)?,
            },
            mb_policy: JudgedBy {
                name: row.try_get(6)?,
                digest: digest(row.try_get(7)?)?,
            },
            version,
            standing: NotedStanding::beside(row, STANDING_COLUMN, &id)?,
            id: AgentId::parse(&id).map_err(|error| unreadable(error.into()))?,
        })
    }
}

impl Store {
    /// Adds one of Keylime's agents, its policies and their entries in the audit log, in one
    /// transaction.
    ///
    /// # Errors
    /// The outer for the database, for a policy ([`StoreError::Exists`], [`StoreError::Missing`])
    /// and without the record's group; the inner when the record contradicts what is enrolled. All
    /// of them leave everything as it was.
    ///
    /// # Security
    /// The caller has authenticated an administrator. A machine that failed and was removed
    /// otherwise than by one is failed again. (S16)
    pub async fn add_keylime_agent(
        &self,
        new: NewKeylimeAgent<'_>,
        now_unix_ms: u64,
    ) -> Result<Result<StoredAgent, Conflict>, StoreError> {
        check(new.facts)?;
        let mut tx = self.pools().write().await?;
        groups::require(&mut tx, &new.record.group).await?;
        if let Some(conflict) = enrolment::taken(&mut tx, new.record).await? {
            return Ok(Err(conflict));
        }
        let (added, detail) = match add(&mut tx, new, now_unix_ms).await? {
            Ok(added) => added,
            Err(conflict) => return Ok(Err(conflict)),
        };
        let entry = AuditEntry {
            at_unix_ms: now_unix_ms,
            actor: new.actor,
            action: "keylime.agent.add",
            target: new.record.id.as_str(),
            detail: &detail,
        };
        audit::append(&mut tx, entry).await?;
        tx.commit().await?;
        Ok(Ok(added))
    }

    /// One of Keylime's agents.
    ///
    /// # Errors
    /// [`StoreError::Unreadable`], also when a policy that it is judged by is not there.
    pub async fn keylime_agent(
        &self,
        id: &AgentId,
    ) -> Result<Option<StoredKeylimeAgent>, StoreError> {
        let row = sqlx::query(agents!("WHERE k.shard = $1 AND k.id = $2"))
            .bind(i64::from(id.shard().get()))
            .bind(id.as_str())
            .fetch_optional(self.pools().read())
            .await?;
        row.as_ref().map(StoredKeylimeAgent::read).transpose()
    }

    /// All of Keylime's agents, each readable or not, after the page that ended here.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn keylime_agents(
        &self,
        after: Option<KeylimePageEnd>,
        agents_max: u32,
    ) -> Result<KeylimePage, StoreError> {
        let KeylimePageEnd(shard, id) = after.unwrap_or(KeylimePageEnd(-1, String::new()));
        let rows = sqlx::query(agents!(
            "WHERE (k.shard, k.id) > ($1, $2) ORDER BY k.shard, k.id LIMIT $3"
        ))
        .bind(shard)
        .bind(id)
        .bind(agents_max.min(limits::PAGE_MAX))
        .fetch_all(self.pools().read())
        .await?;
        let end = match rows.last() {
            Some(last) => Some(KeylimePageEnd(last.try_get(10)?, last.try_get(0)?)),
            None => None,
        };
        Ok(KeylimePage {
            agents: rows.iter().map(StoredKeylimeAgent::read).collect(),
            end,
        })
    }

    /// Ids of agents that a policy judges, in order, after this one.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn keylime_agents_judged_by(
        &self,
        kind: KeylimeKind,
        name: &str,
        after: &str,
        ids_max: u32,
    ) -> Result<Vec<String>, StoreError> {
        let sql = match kind {
            KeylimeKind::Runtime => {
                "SELECT id FROM keylime_agent WHERE runtime_policy = $1 AND id > $2
                 ORDER BY id LIMIT $3"
            }
            KeylimeKind::MeasuredBoot => {
                "SELECT id FROM keylime_agent WHERE mb_policy = $1 AND id > $2
                 ORDER BY id LIMIT $3"
            }
        };
        let ids = sqlx::query_scalar(sql)
            .bind(name)
            .bind(after)
            .bind(ids_max.min(limits::PAGE_MAX));
        Ok(ids.fetch_all(self.pools().read()).await?)
    }

    /// Another bank is to be quoted from now on: the agent said which it has. False when there is no
    /// such agent.
    ///
    /// # Errors
    /// [`StoreError::Unreadable`].
    pub async fn set_keylime_bank(&self, id: &AgentId, bank: HashAlg) -> Result<bool, StoreError> {
        let changed = self.change_facts(id, true, |facts| {
            facts.bank = bank;
            true
        });
        changed.await
    }

    /// The agent speaks this version of the API: the one to begin with after a restart, and the least
    /// that is believed of one that attested. False when that was known, and when there is no such
    /// agent.
    ///
    /// # Errors
    /// [`StoreError::Unreadable`].
    pub async fn set_keylime_supported_version(
        &self,
        id: &AgentId,
        version: &str,
    ) -> Result<bool, StoreError> {
        limits::check_name("a version", version)?;
        let changed = self.change_facts(id, false, |facts| {
            let is_other = facts.supported_version != version;
            version.clone_into(&mut facts.supported_version);
            is_other
        });
        changed.await
    }

    /// Changes what is known of an agent, when `change` says that it did; `is_demand` when what is
    /// demanded of it follows from that.
    async fn change_facts(
        &self,
        id: &AgentId,
        is_demand: bool,
        change: impl FnOnce(&mut KeylimeFacts) -> bool,
    ) -> Result<bool, StoreError> {
        let mut tx = self.pools().write().await?;
        let shard = i64::from(id.shard().get());
        let stored: Option<Vec<u8>> =
            sqlx::query_scalar("SELECT packed FROM keylime_agent WHERE shard = $1 AND id = $2")
                .bind(shard)
                .bind(id.as_str())
                .fetch_optional(&mut *tx)
                .await?;
        let Some(stored) = stored else {
            return Ok(false);
        };
        let mut facts: KeylimeFacts = packed::unpack(&stored).map_err(|fault| {
            StoreError::unreadable(RowName::Agent(id.as_str().to_owned()), fault)
        })?;
        if !change(&mut facts) {
            return Ok(false);
        }
        sqlx::query(
            "UPDATE keylime_agent SET packed = $3, version = version + $4
             WHERE shard = $1 AND id = $2",
        )
        .bind(shard)
        .bind(id.as_str())
        .bind(packed::pack(&facts)?)
        .bind(i64::from(is_demand))
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(true)
    }
}

/// Writes a new agent with its policies; gives what it is judged by, too, as the audit log says it.
pub(crate) async fn add(
    tx: &mut Connection,
    new: NewKeylimeAgent<'_>,
    now_unix_ms: u64,
) -> Result<Result<(StoredAgent, String), Conflict>, StoreError> {
    let NewKeylimeAgent { record, facts, .. } = new;
    let (actor, now) = (new.actor, now_unix_ms);
    let runtime = (KeylimeKind::Runtime, new.runtime_policy);
    let runtime_policy = keep(tx, runtime, actor, now).await?;
    let boot = (KeylimeKind::MeasuredBoot, new.mb_policy);
    let mb_policy = keep(tx, boot, actor, now).await?;
    let registration = Registration {
        hostname: String::new(),
        ip: facts.ip.clone().unwrap_or_default(),
        registered_unix_ms: now,
    };
    let added = match enrolment::enrol(tx, record, &registration).await? {
        Ok(added) => added,
        Err(conflict) => return Ok(Err(conflict)),
    };
    sqlx::query(
        "INSERT INTO keylime_agent (shard, id, runtime_policy, mb_policy, version, packed)
         VALUES ($1, $2, $3, $4, 1, $5)",
    )
    .bind(i64::from(record.id.shard().get()))
    .bind(record.id.as_str())
    .bind(runtime_policy)
    .bind(mb_policy)
    .bind(packed::pack(facts)?)
    .execute(tx)
    .await?;
    let judged = format!("judged by {runtime_policy} and {mb_policy}");
    Ok(Ok((added, judged)))
}

/// Keeps the policy of a new agent; gives its name.
async fn keep<'a>(
    tx: &mut Connection,
    (kind, policy): (KeylimeKind, PolicyOfAgent<'a>),
    actor: &str,
    now_unix_ms: u64,
) -> Result<&'a str, StoreError> {
    match policy {
        PolicyOfAgent::Kept(name) => match keylime_policies::exists(tx, kind, name).await? {
            true => Ok(name),
            false => Err(StoreError::Missing(RowName::KeylimePolicy(name.to_owned()))),
        },
        PolicyOfAgent::NewUnlessKept(new)
            if keylime_policies::exists(tx, kind, new.name).await? =>
        {
            Ok(new.name)
        }
        PolicyOfAgent::New(new) | PolicyOfAgent::NewUnlessKept(new) => {
            keylime_policies::put(tx, new, KeylimePut::Create, actor, now_unix_ms).await?;
            Ok(new.name)
        }
    }
}

/// Refuses what is longer than any real agent's.
pub(crate) fn check(facts: &KeylimeFacts) -> Result<(), StoreError> {
    let texts = [
        facts.ip.as_deref().unwrap_or_default(),
        &facts.tpm_policy,
        &facts.metadata,
        &facts.ima_sign_verification_keys,
        &facts.revocation_key,
        facts.mtls_cert.as_deref().unwrap_or_default(),
        &facts.supported_version,
        &facts.verifier_ip,
    ];
    let names = [
        &facts.accept_tpm_hash_algs,
        &facts.accept_tpm_encryption_algs,
        &facts.accept_tpm_signing_algs,
    ];
    let bytes = texts.iter().map(|text| text.len());
    let more = names.iter().flat_map(|names| names.iter());
    let bytes = bytes.chain(more.map(String::len)).sum();
    limits::check(
        "bytes of what a tenant says of an agent",
        bytes,
        limits::KEYLIME_FACTS_BYTES_MAX,
    )
}

/// Removes, with an agent, the policies that are named after it and judge nobody else.
pub(crate) async fn remove_own_policies(
    tx: &mut Connection,
    id: &AgentId,
) -> Result<(), StoreError> {
    for kind in [KeylimeKind::Runtime, KeylimeKind::MeasuredBoot] {
        if keylime_policies::used_by(tx, kind, id.as_str())
            .await?
            .is_none()
        {
            keylime_policies::remove(tx, kind, id.as_str()).await?;
        }
    }
    Ok(())
}
