//! What is taken over from a Keylime that was there before: agents and registrations, each in one
//! transaction with its entry in the audit log, or only tried.

use rat_engine::shard::{AgentState, Failure};

use crate::Store;
use crate::audit::{self, AuditEntry};
use crate::enrolment::{self, Conflict};
use crate::error::StoreError;
use crate::groups;
use crate::keylime_agents::{self, NewKeylimeAgent};
use crate::keylime_standing::{self, Halted, ToldFailure};
use crate::limits;
use crate::registrations::{self, KeylimeConflict, KeylimeRegistration, KeylimeStanding};

/// Whether what is imported stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ImportMode {
    /// It is written.
    Write,
    /// Everything is done and taken back: nothing changes.
    Rehearse,
}

/// What an agent brings along beside what a tenant says.
#[derive(Debug, Clone, Copy)]
pub struct Imported<'a> {
    /// That it had failed: it is failed here until an operator clears it.
    pub failure: Option<&'a Failure>,
    /// What the other verifier told of that failure; it counts only with it.
    pub told: Option<&'a ToldFailure>,
    /// Whether a tenant had stopped it: it is not polled before it is taken up again.
    pub is_stopped: bool,
    /// Where it comes from and how it stood, for the audit log.
    pub detail: &'a str,
    /// Whether it stays.
    pub mode: ImportMode,
}

impl Store {
    /// Adds an agent that another verifier had, as
    /// [`add_keylime_agent`](Self::add_keylime_agent) does, with its failure. Nothing else of its
    /// state is taken: it has proven nothing here.
    ///
    /// # Errors
    /// As [`add_keylime_agent`](Self::add_keylime_agent).
    ///
    /// # Security
    /// Whatever is brought, the agent is not trusted before an attestation that starts from entry 0
    /// passes, and one that failed not before an operator clears it. (S16)
    pub async fn import_keylime_agent(
        &self,
        new: NewKeylimeAgent<'_>,
        imported: Imported<'_>,
        now_unix_ms: u64,
    ) -> Result<Result<(), Conflict>, StoreError> {
        keylime_agents::check(new.facts)?;
        if let Some(told) = imported.told {
            limits::check_name("an event's id", &told.event_id)?;
        }
        let mut tx = self.pools().write().await?;
        let id = &new.record.id;
        if let Some(conflict) = enrolment::taken(&mut tx, new.record).await? {
            return Ok(Err(conflict));
        }
        let group = groups::require(&mut tx, &new.record.group).await;
        if imported.mode == ImportMode::Rehearse && group.is_err() {
            // It is made with the first agent.
            return Ok(Ok(()));
        }
        group?;
        let added = keylime_agents::add(&mut tx, new, now_unix_ms).await?;
        let state = match added {
            Ok((added, _)) => added.state,
            Err(conflict) => return Ok(Err(conflict)),
        };
        // One that it has here already stays the first.
        if let (Some(failure), None) = (imported.failure, &state.failure) {
            let state = AgentState {
                failure: Some(Box::new(failure.clone())),
                ..state
            };
            enrolment::put_state(&mut tx, id, &state).await?;
            if let Some(told) = imported.told {
                keylime_standing::put_told(&mut tx, id, told).await?;
            }
        }
        if imported.is_stopped {
            keylime_standing::put_halted(&mut tx, id, Halted::ByTenant, now_unix_ms).await?;
        }
        let entry = AuditEntry {
            at_unix_ms: now_unix_ms,
            actor: new.actor,
            action: "keylime.agent.import",
            target: id.as_str(),
            detail: imported.detail,
        };
        audit::append(&mut tx, entry).await?;
        if imported.mode == ImportMode::Write {
            tx.commit().await?;
        }
        Ok(Ok(()))
    }

    /// Keeps a registration that another registrar had as an active one.
    ///
    /// # Errors
    /// The outer for the database, the inner for what contradicts it; a registration under its id
    /// is [`KeylimeConflict::Changed`].
    ///
    /// # Security
    /// The caller has checked its keys. That its TPM holds them is taken on the word of the other
    /// registrar; the attestation key proves itself again with each quote.
    pub async fn import_keylime_registration(
        &self,
        registration: &KeylimeRegistration,
        shares_ek: bool,
        actor: &str,
        (mode, now_unix_ms): (ImportMode, u64),
    ) -> Result<Result<(), KeylimeConflict>, StoreError> {
        let mut tx = self.pools().write().await?;
        if registrations::revision(&mut tx, &registration.id)
            .await?
            .is_some()
        {
            return Ok(Err(KeylimeConflict::Changed));
        }
        let contradiction = registrations::contradiction(&mut tx, registration, shares_ek).await?;
        if let Some(conflict) = contradiction {
            return Ok(Err(conflict));
        }
        let registration = KeylimeRegistration {
            standing: KeylimeStanding::Active,
            challenge: None,
            proposed: None,
            ..registration.clone()
        };
        registrations::write(&mut tx, &registration, None, Some("import")).await?;
        let action = "registration.import";
        registrations::append(&mut tx, &registration, actor, action, now_unix_ms).await?;
        if mode == ImportMode::Write {
            tx.commit().await?;
        }
        Ok(Ok(()))
    }
}
