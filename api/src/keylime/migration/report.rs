//! What became of each row.

use rat_store::{ColumnError, ColumnFault, KeylimeTable, SourceRow};
use serde::Serialize;

use super::name_of;

/// What became of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It is imported, or would be.
    Imported,
    /// It is here already, as the row has it.
    AlreadyThere,
    /// It is not imported.
    Left,
}

/// One row, and what became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RowReport {
    /// The table.
    pub table: &'static str,
    /// What names the row there.
    pub id: String,
    /// The policy's name, where it is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What became of it.
    pub outcome: Outcome,
    /// The column that is why it was left.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub column: Option<&'static str>,
    /// Why, in a stable word.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<&'static str>,
    /// Why, in a sentence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// What an operator should know of a row that is imported.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// How many rows of a table became what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Counts {
    /// Imported, or would be.
    pub imported: u64,
    /// Here already.
    pub already_there: u64,
    /// Not imported.
    pub left: u64,
}

/// What became of all rows.
#[derive(Debug, Default)]
pub struct Report {
    /// Each row, in the order in which they were read.
    pub rows: Vec<RowReport>,
}

impl Report {
    /// How many rows of this table became what.
    pub fn counts(&self, table: KeylimeTable) -> Counts {
        let mut counts = Counts::default();
        for row in self.rows.iter().filter(|row| row.table == table.name()) {
            let count = match row.outcome {
                Outcome::Imported => &mut counts.imported,
                Outcome::AlreadyThere => &mut counts.already_there,
                Outcome::Left => &mut counts.left,
            };
            *count = count.saturating_add(1);
        }
        counts
    }

    /// Rows that were left.
    pub fn left(&self) -> u64 {
        let left = self.rows.iter().filter(|row| row.outcome == Outcome::Left);
        u64::try_from(left.count()).unwrap_or(u64::MAX)
    }

    pub(super) fn add(&mut self, row: &SourceRow, found: Found) {
        let table = row.table();
        let (id, name) = match table {
            KeylimeTable::RuntimePolicies | KeylimeTable::BootPolicies => {
                (name_of(row, "id"), Some(name_of(row, "name")))
            }
            KeylimeTable::Agents | KeylimeTable::Registrations => (name_of(row, "agent_id"), None),
        };
        let why = found.why;
        self.rows.push(RowReport {
            table: table.name(),
            id,
            name,
            outcome: found.outcome,
            column: why.as_ref().and_then(|why| why.column),
            code: why.as_ref().map(|why| why.code),
            detail: why.map(|why| why.detail),
            notes: found.notes,
        });
    }
}

/// What was found of a row.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) outcome: Outcome,
    pub(super) why: Option<Why>,
    pub(super) notes: Vec<String>,
}

/// Why a row is left.
#[derive(Debug)]
pub(super) struct Why {
    pub(super) column: Option<&'static str>,
    pub(super) code: &'static str,
    pub(super) detail: String,
}

impl Found {
    pub(super) const fn imported(notes: Vec<String>) -> Self {
        Self {
            outcome: Outcome::Imported,
            why: None,
            notes,
        }
    }

    pub(super) const fn already_there() -> Self {
        Self {
            outcome: Outcome::AlreadyThere,
            why: None,
            notes: Vec::new(),
        }
    }

    pub(super) fn left(code: &'static str, detail: impl Into<String>) -> Self {
        let detail: String = detail.into();
        // What a row brought may be of any length and kind. (X07)
        let detail = detail.chars().take(400).map(|c| match c {
            ' '..='~' => c.to_string(),
            other => other.escape_debug().to_string(),
        });
        let detail: String = detail.collect();
        Self {
            outcome: Outcome::Left,
            why: Some(Why {
                column: None,
                code,
                detail,
            }),
            notes: Vec::new(),
        }
    }

    pub(super) fn of_column(
        column: &'static str,
        code: &'static str,
        detail: impl Into<String>,
    ) -> Self {
        let mut found = Self::left(code, detail);
        if let Some(why) = &mut found.why {
            why.column = Some(column);
        }
        found
    }
}

impl From<ColumnError> for Found {
    fn from(error: ColumnError) -> Self {
        let code = match &error.fault {
            ColumnFault::Empty => "column.empty",
            ColumnFault::TooLong(_) => "column.too_long",
            ColumnFault::NoText => "column.no_text",
            ColumnFault::Number => "column.number",
            ColumnFault::Flag => "column.flag",
            ColumnFault::Json(_) => "column.json",
            ColumnFault::Refused(_) => "column.refused",
        };
        Self::of_column(error.column, code, error.to_string())
    }
}
