//! A fleet is taken over from Keylime: policies, registrations and agents, from its databases.
//!
//! What a row says is checked as if a tenant or an agent had sent it. A row that cannot be taken is
//! left, with its reason, and the others are not. An agent without its policy is none: it is left
//! with it. Nobody is trusted for what another verifier found: an agent attests from entry 0, and one
//! that had failed stays failed until an operator clears it. A second run finds everything there.
//!
//! Source: Keylime 7.14.3 `keylime/db`, `keylime/cloud_verifier_tornado.py`.

mod agents;
mod policies;
mod registrations;
mod report;
mod standing;

use std::collections::{HashMap, HashSet};

use rat_engine::uefi::policy::PolicyName;
use rat_identity::ek::EkTrust;
use rat_identity::keylime::Policy;
use rat_store::{
    ImportMode, KeylimeKind, KeylimeSource, KeylimeTable, SourceError, SourceRow, Store, StoreError,
};
use thiserror::Error;

pub use report::{Counts, Outcome, Report, RowReport};

use super::verifier::Mode;
use crate::clock::unix_ms;
use report::Found;

/// What a migration works with.
#[derive(Debug)]
pub struct Migration<'a> {
    /// Where everything goes; `None` where there is nothing yet, and nothing is written.
    pub store: Option<&'a Store>,
    /// Whether it is written.
    pub mode: ImportMode,
    /// Which TPMs are known.
    pub trust: &'a EkTrust,
    /// What is demanded of registrations.
    pub policy: Policy,
    /// Whether one machine may have several ids.
    pub shares_ek: bool,
    /// Whether runtime policies must be signed. Keylime's database keeps no key to verify one with,
    /// so that none is taken then.
    pub require_policy_signatures: bool,
    /// The policy that judges reference states of boots.
    pub boot_policy: PolicyName,
    /// By which way evidence of agents comes.
    pub path: Mode,
    /// Whom the audit log names.
    pub actor: &'a str,
}

/// Keylime's databases, as far as they are given.
#[derive(Debug)]
pub struct Sources {
    /// The verifier's.
    pub verifier: Option<KeylimeSource>,
    /// The registrar's.
    pub registrar: Option<KeylimeSource>,
}

/// Why a migration ends early. What was imported before is; running it again goes on.
#[derive(Debug, Error)]
pub enum MigrationError {
    /// Keylime's database cannot be read on.
    #[error("Keylime's database: {0}")]
    Source(#[from] SourceError),
    /// Nothing can be written.
    #[error("the records: {0}")]
    Store(#[from] StoreError),
}

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// The table that is read.
    pub table: KeylimeTable,
    /// Rows that are done.
    pub done: u64,
    /// All of them, as they were counted before.
    pub rows: u64,
}

/// A policy of Keylime, by what its agents may be imported.
#[derive(Debug, Clone)]
enum Kept {
    /// It is here under this name, or will be.
    Here(String),
    /// It is not, for this reason.
    Left(String),
}

/// What earlier rows led to.
#[derive(Debug, Default)]
struct Known {
    /// Policies by the number of their row.
    policies: HashMap<(KeylimeKind, String), Kept>,
    /// Registrations that are here: the attestation key's name, and the machine.
    registered: HashMap<String, (Vec<u8>, [u8; 32])>,
    /// Their machines.
    registered_machines: HashSet<[u8; 32]>,
    /// Registrations that were left.
    left: HashSet<String>,
    /// Machines that agents of this run have.
    machines: HashMap<[u8; 32], String>,
}

impl Migration<'_> {
    /// Takes over what the sources hold; what became of each row is added to the report, also when
    /// it ends early.
    ///
    /// # Errors
    /// [`MigrationError`]: a source cannot be read on, or the records not written. What is wrong
    /// with a row is none.
    pub async fn run(
        &self,
        sources: &mut Sources,
        report: &mut Report,
        progress: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<(), MigrationError> {
        let mut known = Known::default();
        if let Some(registrar) = &mut sources.registrar {
            let table = KeylimeTable::Registrations;
            self.table(registrar, table, (&mut known, report), progress)
                .await?;
        }
        if let Some(verifier) = &mut sources.verifier {
            for table in [
                KeylimeTable::RuntimePolicies,
                KeylimeTable::BootPolicies,
                KeylimeTable::Agents,
            ] {
                self.table(verifier, table, (&mut known, report), progress)
                    .await?;
            }
        }
        Ok(())
    }

    async fn table(
        &self,
        source: &mut KeylimeSource,
        table: KeylimeTable,
        (known, report): (&mut Known, &mut Report),
        progress: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<(), MigrationError> {
        let rows = source.count(table).await?;
        let mut after = None;
        let mut done: u64 = 0;
        while let Some((key, row)) = source.next(table, after.as_ref()).await? {
            after = Some(key);
            let found = match table {
                KeylimeTable::RuntimePolicies => {
                    self.policy(&row, KeylimeKind::Runtime, known).await
                }
                KeylimeTable::BootPolicies => {
                    self.policy(&row, KeylimeKind::MeasuredBoot, known).await
                }
                KeylimeTable::Agents => self.agent(&row, known).await,
                KeylimeTable::Registrations => self.registration(&row, known).await,
            };
            report.add(&row, found?);
            done = done.saturating_add(1);
            progress(Progress { table, done, rows });
            // Rows that came since they were counted end somewhere, too.
            if done > rows.saturating_mul(2).saturating_add(1_000) {
                return Err(SourceError::TooMany(table.name()).into());
            }
        }
        Ok(())
    }
}

/// What a call to the store led to: a row that it refuses is left, and anything else ends all.
fn of_row<T>(result: Result<T, StoreError>) -> Result<Result<T, Found>, MigrationError> {
    match result {
        Ok(value) => Ok(Ok(value)),
        Err(
            error @ (StoreError::TooLarge { .. }
            | StoreError::Exists(_)
            | StoreError::Missing(_)
            | StoreError::Number(_)
            | StoreError::Unreadable { .. }),
        ) => Ok(Err(Found::left("records", error.to_string()))),
        Err(error) => Err(error.into()),
    }
}

/// The id that a row has, as far as it can be shown.
fn name_of(row: &SourceRow, column: &'static str) -> String {
    let text = row.text(column).ok().flatten().unwrap_or("?");
    super::verifier::add::shown(text)
}

fn now() -> u64 {
    unix_ms()
}
