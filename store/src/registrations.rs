//! Agents of Keylime that registered: what they claim, what they have proven, and what waits for a
//! proof.
//!
//! Whoever decides reads a registration, decides, and writes with the [`Revision`] that was read: a
//! change that came in between makes the write a [`KeylimeConflict::Changed`], and the decision is
//! made again. So no request is checked against one record and written over another. (N07)

use rat_engine::agent_id::AgentId;
use rat_engine::shard::AgentPath;
use serde::{Deserialize, Serialize};
use sqlx::Row;
use sqlx::sqlite::SqliteRow;
use thiserror::Error;

use crate::Store;
use crate::audit::{self, AuditEntry};
use crate::database::{Connection, number};
use crate::enrolment;
use crate::error::{RowName, StoreError};
use crate::limits;
use crate::packed::{self, Stored};

/// An agent of Keylime, as it registered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeylimeRegistration {
    /// Its id.
    pub id: AgentId,
    /// SHA-256 of the endorsement key's SubjectPublicKeyInfo: the machine.
    pub ek_sha256: [u8; 32],
    /// The endorsement key: `TPM2B_PUBLIC`, as it was sent.
    pub ek_public: Vec<u8>,
    /// The attestation key: `TPM2B_PUBLIC`, as it was sent.
    pub ak_public: Vec<u8>,
    /// What a later registration may change.
    pub details: KeylimeDetails,
    /// How often what identifies it was registered anew.
    pub regcount: u64,
    /// Whether its TPM has proven that it holds both keys.
    pub standing: KeylimeStanding,
    /// What its TPM is asked now.
    pub challenge: Option<KeylimeChallenge>,
    /// A change that its TPM has proven, of an agent that is enrolled: it waits for an operator. (N10)
    pub proposed: Option<KeylimeDetails>,
    /// When it registered first.
    pub registered_unix_ms: u64,
}

/// Whether a registration was proven.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum KeylimeStanding {
    /// Not yet.
    Pending {
        /// When it ends by itself.
        expires_unix_ms: u64,
    },
    /// It was.
    Active,
}

/// What an agent's registration says beside its keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeylimeDetails {
    /// The certificate of the endorsement key, in DER.
    pub ek_certificate: Option<Vec<u8>>,
    /// How the TPM is known.
    pub vouch: KeylimeVouch,
    /// IAK and IDevID.
    pub device: Option<KeylimeDevice>,
    /// Where it is reached: an address or a name.
    pub ip: Option<String>,
    /// Its port.
    pub port: Option<u16>,
    /// The certificate of its own server.
    pub mtls_cert: KeylimeMtlsCertificate,
}

/// How the TPM of a registration is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum KeylimeVouch {
    /// Nobody has looked.
    Unchecked,
    /// Nobody vouches for it, and the operator takes it all the same.
    Unknown,
    /// By the chain of its EK certificate to this root (SHA-256).
    Chain {
        /// SHA-256 of the root's certificate.
        root: [u8; 32],
    },
    /// By the operator's list.
    List,
    /// By the certificates of IAK and IDevID.
    Device,
}

/// Initial keys of a device. Each has its certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeylimeDevice {
    /// The initial attestation key: `TPM2B_PUBLIC`.
    pub iak_public: Vec<u8>,
    /// Its certificate, in DER.
    pub iak_certificate: Vec<u8>,
    /// The initial device identity: `TPM2B_PUBLIC`.
    pub idevid_public: Vec<u8>,
    /// Its certificate, in DER.
    pub idevid_certificate: Vec<u8>,
}

/// What an agent says of its own server's certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum KeylimeMtlsCertificate {
    /// Nothing.
    Absent,
    /// That it has none.
    Disabled,
    /// This one, in DER.
    Certificate(Vec<u8>),
}

/// A question to a TPM, and what its answer makes true.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeylimeChallenge {
    /// SHA-256 of the only right answer: who reads it cannot answer.
    pub answer_sha256: [u8; 32],
    /// When it ends by itself.
    pub expires_unix_ms: u64,
    /// Details that the answer puts in place of the present ones. (N10)
    pub staged: Option<KeylimeDetails>,
}

impl Stored for KeylimeRegistration {}

/// Which state of a registration was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Revision(i64);

/// A registration to be written.
#[derive(Debug, Clone, Copy)]
pub struct NewKeylimeRegistration<'a> {
    /// The registration.
    pub registration: &'a KeylimeRegistration,
    /// What it was decided on; `None` when there was none.
    pub over: Option<Revision>,
    /// The address that it came from.
    pub source: &'a str,
    /// Whether one machine may have several ids.
    pub shares_ek: bool,
}

/// Why a registration is not written. Nothing changed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum KeylimeConflict {
    /// It is not the one that was read any more.
    #[error("the registration was changed meanwhile")]
    Changed,
    /// The machine is active under another id. (N06)
    #[error("the machine is known as {0}")]
    EkTaken(String),
    /// The id, or the machine, is enrolled on the native path. (S15)
    #[error("the id is enrolled on another path")]
    OtherPath,
    /// As many as may be have proven nothing yet.
    #[error("too many registrations wait for their proof")]
    TooMany {
        /// The limit's name.
        limit: &'static str,
    },
}

/// What an activation led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeylimeActivated {
    /// The agent was not active before.
    New,
    /// It was, and nothing of it changed.
    SameAgain,
    /// It was, and its staged details are in place.
    Changed,
    /// It is enrolled: the staged details wait for an operator.
    Proposed,
}

impl Store {
    /// The registration under this id, unless it has ended.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn keylime_registration(
        &self,
        id: &AgentId,
        now_unix_ms: u64,
    ) -> Result<Option<(KeylimeRegistration, Revision)>, StoreError> {
        let mut connection = self.pools().read().acquire().await?;
        read_one(&mut connection, id, now_unix_ms).await
    }

    /// Ids of all registrations that have not ended, in their order.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn keylime_registration_ids(
        &self,
        now_unix_ms: u64,
    ) -> Result<Vec<String>, StoreError> {
        let ids = sqlx::query_scalar(
            "SELECT id FROM keylime_registration
             WHERE expires_unix_ms IS NULL OR expires_unix_ms > $1 ORDER BY id",
        );
        Ok(ids
            .bind(number(now_unix_ms)?)
            .fetch_all(self.pools().read())
            .await?)
    }

    /// Registrations with a change that waits for an operator, in the order of their ids.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn keylime_proposals(&self) -> Result<Vec<KeylimeRegistration>, StoreError> {
        let rows = sqlx::query(
            "SELECT id, packed, revision FROM keylime_registration
             WHERE is_proposed = 1 ORDER BY id LIMIT $1",
        )
        .bind(limits::KEYLIME_PROPOSALS_LISTED_MAX)
        .fetch_all(self.pools().read())
        .await?;
        let read = rows.iter().map(|row| read(row).map(|(it, _)| it));
        read.collect()
    }

    /// Keeps a registration that waits for a proof, in place of the one that was read. It is not in
    /// the audit log before it is proven: anybody can make one.
    ///
    /// # Errors
    /// The outer for the database, the inner for what contradicts it.
    pub async fn put_keylime_registration(
        &self,
        new: NewKeylimeRegistration<'_>,
        now_unix_ms: u64,
    ) -> Result<Result<(), KeylimeConflict>, StoreError> {
        limits::check_name("an address", new.source)?;
        let registration = new.registration;
        let mut tx = self.pools().write().await?;
        sqlx::query("DELETE FROM keylime_registration WHERE expires_unix_ms <= $1")
            .bind(number(now_unix_ms)?)
            .execute(&mut *tx)
            .await?;
        let found = revision(&mut tx, &registration.id).await?;
        if found != new.over {
            return Ok(Err(KeylimeConflict::Changed));
        }
        if let Some(conflict) = contradiction(&mut tx, registration, new.shares_ek).await? {
            return Ok(Err(conflict));
        }
        if found.is_none()
            && let Some(limit) = full(&mut tx, new.source).await?
        {
            return Ok(Err(KeylimeConflict::TooMany { limit }));
        }
        write(&mut tx, registration, found, Some(new.source)).await?;
        tx.commit().await?;
        Ok(Ok(()))
    }

    /// Makes a registration active whose challenge was answered, and puts in place what was staged
    /// with it, in one transaction with the entry in the audit log. Of an agent that is enrolled a
    /// change waits for an operator. (N10)
    ///
    /// # Errors
    /// The outer for the database, the inner for what contradicts it.
    ///
    /// # Security
    /// The caller has checked the answer. It serves once: the challenge is gone. (N05)
    pub async fn activate_keylime_registration(
        &self,
        id: &AgentId,
        over: Revision,
        shares_ek: bool,
        now_unix_ms: u64,
    ) -> Result<Result<KeylimeActivated, KeylimeConflict>, StoreError> {
        let mut tx = self.pools().write().await?;
        let Some((mut registration, found)) = read_one(&mut tx, id, now_unix_ms).await? else {
            return Ok(Err(KeylimeConflict::Changed));
        };
        let Some(challenge) = registration.challenge.take().filter(|_| found == over) else {
            return Ok(Err(KeylimeConflict::Changed));
        };
        if let Some(conflict) = contradiction(&mut tx, &registration, shares_ek).await? {
            return Ok(Err(conflict));
        }
        let was_active = registration.standing == KeylimeStanding::Active;
        registration.standing = KeylimeStanding::Active;
        let is_enrolled = enrolment::enrolled(&mut tx, id).await?.is_some();
        let (activated, action) = match challenge.staged {
            None if was_active => (KeylimeActivated::SameAgain, None),
            None => (KeylimeActivated::New, Some("registration.activate")),
            Some(staged) if is_enrolled => {
                registration.proposed = Some(staged);
                (KeylimeActivated::Proposed, Some("registration.propose"))
            }
            Some(staged) => {
                replace_details(&mut registration, staged);
                (KeylimeActivated::Changed, Some("registration.change"))
            }
        };
        write(&mut tx, &registration, Some(found), None).await?;
        if let Some(action) = action {
            let actor = "keylime-agent";
            append(&mut tx, &registration, actor, action, now_unix_ms).await?;
        }
        tx.commit().await?;
        Ok(Ok(activated))
    }

    /// Takes back what a registration asked for, after a wrong answer: one that was never active is
    /// gone, of an active one nothing but its challenge. (N10)
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn refuse_keylime_answer(
        &self,
        id: &AgentId,
        over: Revision,
        now_unix_ms: u64,
    ) -> Result<Result<KeylimeStanding, KeylimeConflict>, StoreError> {
        let mut tx = self.pools().write().await?;
        let read = read_one(&mut tx, id, now_unix_ms).await?;
        let Some((mut registration, found)) = read.filter(|(_, found)| *found == over) else {
            return Ok(Err(KeylimeConflict::Changed));
        };
        match registration.standing {
            KeylimeStanding::Pending { .. } => delete(&mut tx, id).await?,
            KeylimeStanding::Active => {
                registration.challenge = None;
                write(&mut tx, &registration, Some(found), None).await?;
            }
        }
        tx.commit().await?;
        Ok(Ok(registration.standing))
    }

    /// Removes a registration for an operator; false when there is none.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn remove_keylime_registration(
        &self,
        id: &AgentId,
        actor: &str,
        now_unix_ms: u64,
    ) -> Result<bool, StoreError> {
        let mut tx = self.pools().write().await?;
        // One that cannot be read can be removed.
        let ended: Option<i64> = sqlx::query_scalar(
            "DELETE FROM keylime_registration WHERE id = $1
             RETURNING coalesce(expires_unix_ms, $2 + 1) <= $2",
        )
        .bind(id.as_str())
        .bind(number(now_unix_ms)?)
        .fetch_optional(&mut *tx)
        .await?;
        if ended != Some(0) {
            return Ok(false);
        }
        let entry = AuditEntry {
            at_unix_ms: now_unix_ms,
            actor,
            action: "registration.remove",
            target: id.as_str(),
            detail: "",
        };
        audit::append(&mut tx, entry).await?;
        tx.commit().await?;
        Ok(true)
    }

    /// Puts a proven change in place, or drops it, as an operator says; false when none waits.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn settle_keylime_proposal(
        &self,
        id: &AgentId,
        is_approved: bool,
        actor: &str,
        now_unix_ms: u64,
    ) -> Result<bool, StoreError> {
        let mut tx = self.pools().write().await?;
        let Some((mut registration, found)) = read_one(&mut tx, id, now_unix_ms).await? else {
            return Ok(false);
        };
        let Some(proposed) = registration.proposed.take() else {
            return Ok(false);
        };
        let action = if is_approved {
            replace_details(&mut registration, proposed);
            "registration.approve"
        } else {
            "registration.reject"
        };
        write(&mut tx, &registration, Some(found), None).await?;
        append(&mut tx, &registration, actor, action, now_unix_ms).await?;
        tx.commit().await?;
        Ok(true)
    }
}

/// Puts details in place; what identifies the machine counts as a registration.
fn replace_details(registration: &mut KeylimeRegistration, details: KeylimeDetails) {
    let old = &registration.details;
    if old.ek_certificate != details.ek_certificate || old.device != details.device {
        registration.regcount = registration.regcount.saturating_add(1);
    }
    registration.details = details;
}

pub(crate) async fn append(
    tx: &mut Connection,
    registration: &KeylimeRegistration,
    actor: &str,
    action: &str,
    now_unix_ms: u64,
) -> Result<(), StoreError> {
    let entry = AuditEntry {
        at_unix_ms: now_unix_ms,
        actor,
        action,
        target: registration.id.as_str(),
        detail: &format!("ek {}", hex::encode(registration.ek_sha256)),
    };
    audit::append(tx, entry).await?;
    Ok(())
}

/// The active registration of an id, if there is one: then no other path may take it. (S15)
pub(crate) async fn is_active(tx: &mut Connection, id: &AgentId) -> Result<bool, StoreError> {
    let active: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM keylime_registration WHERE id = $1 AND expires_unix_ms IS NULL",
    )
    .bind(id.as_str())
    .fetch_one(tx)
    .await?;
    Ok(active > 0)
}

/// The id under which a machine is active.
pub(crate) async fn machine_id(
    tx: &mut Connection,
    ek_sha256: &[u8; 32],
    except: &AgentId,
) -> Result<Option<String>, StoreError> {
    let id = sqlx::query_scalar(
        "SELECT id FROM keylime_registration
         WHERE ek_sha256 = $1 AND id <> $2 AND expires_unix_ms IS NULL",
    );
    Ok(id
        .bind(&ek_sha256[..])
        .bind(except.as_str())
        .fetch_optional(tx)
        .await?)
}

/// What a registration contradicts.
pub(crate) async fn contradiction(
    tx: &mut Connection,
    registration: &KeylimeRegistration,
    shares_ek: bool,
) -> Result<Option<KeylimeConflict>, StoreError> {
    let id = &registration.id;
    if let Some(record) = enrolment::enrolled(tx, id).await?
        && record.path == AgentPath::Native
    {
        return Ok(Some(KeylimeConflict::OtherPath));
    }
    let enrolled: Option<(String, String)> =
        sqlx::query_as("SELECT id, path FROM agent WHERE ek_sha256 = $1")
            .bind(&registration.ek_sha256[..])
            .fetch_optional(&mut *tx)
            .await?;
    match enrolled {
        Some((_, path)) if path == "native" => return Ok(Some(KeylimeConflict::OtherPath)),
        Some((other, _)) if other != id.as_str() && !shares_ek => {
            return Ok(Some(KeylimeConflict::EkTaken(other)));
        }
        _ => {}
    }
    if shares_ek {
        return Ok(None);
    }
    let other = machine_id(tx, &registration.ek_sha256, id).await?;
    Ok(other.map(KeylimeConflict::EkTaken))
}

/// The limit that one more would exceed.
async fn full(tx: &mut Connection, source: &str) -> Result<Option<&'static str>, StoreError> {
    let count = |found: i64| usize::try_from(found).unwrap_or(usize::MAX);
    let pending: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM keylime_registration WHERE expires_unix_ms IS NOT NULL",
    )
    .fetch_one(&mut *tx)
    .await?;
    if count(pending) >= limits::KEYLIME_PENDING_MAX {
        return Ok(Some("KEYLIME_PENDING_MAX"));
    }
    let of_address: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM keylime_registration
         WHERE source = $1 AND expires_unix_ms IS NOT NULL",
    )
    .bind(source)
    .fetch_one(tx)
    .await?;
    let is_full = count(of_address) >= limits::KEYLIME_PENDING_PER_ADDRESS_MAX;
    Ok(is_full.then_some("KEYLIME_PENDING_PER_ADDRESS_MAX"))
}

pub(crate) async fn revision(
    tx: &mut Connection,
    id: &AgentId,
) -> Result<Option<Revision>, StoreError> {
    let found = sqlx::query_scalar("SELECT revision FROM keylime_registration WHERE id = $1");
    let found: Option<i64> = found.bind(id.as_str()).fetch_optional(tx).await?;
    Ok(found.map(Revision))
}

async fn read_one(
    tx: &mut Connection,
    id: &AgentId,
    now_unix_ms: u64,
) -> Result<Option<(KeylimeRegistration, Revision)>, StoreError> {
    let row = sqlx::query(
        "SELECT id, packed, revision FROM keylime_registration
         WHERE id = $1 AND (expires_unix_ms IS NULL OR expires_unix_ms > $2)",
    )
    .bind(id.as_str())
    .bind(number(now_unix_ms)?)
    .fetch_optional(tx)
    .await?;
    row.as_ref().map(read).transpose()
}

/// Columns id, packed, revision.
fn read(row: &SqliteRow) -> Result<(KeylimeRegistration, Revision), StoreError> {
    let id: &str = row.try_get(0)?;
    let name = || RowName::KeylimeRegistration(id.to_owned());
    let registration: KeylimeRegistration =
        packed::unpack(row.try_get(1)?).map_err(|fault| StoreError::unreadable(name(), fault))?;
    if registration.id.as_str() != id {
        return Err(StoreError::unreadable(name(), packed::Fault::Content));
    }
    Ok((registration, Revision(row.try_get(2)?)))
}

/// Writes a registration over the one that was found, or as a new one. Without `source` it stays
/// what it was.
pub(crate) async fn write(
    tx: &mut Connection,
    registration: &KeylimeRegistration,
    found: Option<Revision>,
    source: Option<&str>,
) -> Result<(), StoreError> {
    let expires = match registration.standing {
        KeylimeStanding::Pending { expires_unix_ms } => Some(number(expires_unix_ms)?),
        KeylimeStanding::Active => None,
    };
    let next = found.map_or(1, |Revision(before)| before.saturating_add(1));
    sqlx::query(
        "INSERT INTO keylime_registration (id, ek_sha256, revision, source, expires_unix_ms,
                                           is_proposed, registered_unix_ms, packed)
         VALUES ($1, $2, $3, coalesce($4, ''), $5, $6, $7, $8)
         ON CONFLICT (id) DO UPDATE SET ek_sha256 = excluded.ek_sha256,
             revision = excluded.revision, source = coalesce($4, source),
             expires_unix_ms = excluded.expires_unix_ms, is_proposed = excluded.is_proposed,
             packed = excluded.packed",
    )
    .bind(registration.id.as_str())
    .bind(&registration.ek_sha256[..])
    .bind(next)
    .bind(source)
    .bind(expires)
    .bind(registration.proposed.is_some())
    .bind(number(registration.registered_unix_ms)?)
    .bind(packed::pack_compressed(registration)?)
    .execute(tx)
    .await?;
    Ok(())
}

async fn delete(tx: &mut Connection, id: &AgentId) -> Result<(), StoreError> {
    sqlx::query("DELETE FROM keylime_registration WHERE id = $1")
        .bind(id.as_str())
        .execute(tx)
        .await?;
    Ok(())
}
