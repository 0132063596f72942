//! One row of a table of Keylime.

use serde_json::Value;
use thiserror::Error;

use super::KeylimeTable;

/// What a column holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Cell {
    Null,
    Text(String),
    /// More bytes than are taken: how many.
    TooLong(u64),
    /// Bytes that are no UTF-8.
    NoText,
}

/// A row: its columns by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceRow {
    table: KeylimeTable,
    cells: Vec<(&'static str, Cell)>,
}

/// What is wrong with a column.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ColumnFault {
    /// Nothing is in it.
    #[error("is empty")]
    Empty,
    /// It holds more than any real one.
    #[error("has {0} bytes, which is more than is taken")]
    TooLong(u64),
    /// It holds bytes that are no text.
    #[error("holds bytes that are no UTF-8")]
    NoText,
    /// It holds no number, or one that is none of those that are possible.
    #[error("holds no number that is possible")]
    Number,
    /// It is neither true nor false.
    #[error("is neither true nor false")]
    Flag,
    /// It holds no JSON of the kind that belongs there.
    #[error("holds no JSON of this kind: {0}")]
    Json(&'static str),
    /// What it holds is refused.
    #[error("{0}")]
    Refused(String),
}

/// What is wrong with a column, and with which.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{table}.{column} {fault}")]
pub struct ColumnError {
    /// The table's name.
    pub table: &'static str,
    /// The column's.
    pub column: &'static str,
    /// What.
    pub fault: ColumnFault,
}

impl SourceRow {
    pub(super) const fn new(table: KeylimeTable, cells: Vec<(&'static str, Cell)>) -> Self {
        Self { table, cells }
    }

    /// The table that it is of.
    pub const fn table(&self) -> KeylimeTable {
        self.table
    }

    /// That this column is at fault.
    pub const fn fault(&self, column: &'static str, fault: ColumnFault) -> ColumnError {
        ColumnError {
            table: self.table.name(),
            column,
            fault,
        }
    }

    /// The text of a column; `None` when nothing is in it.
    ///
    /// # Errors
    /// [`ColumnError`].
    pub fn text(&self, column: &'static str) -> Result<Option<&str>, ColumnError> {
        let cell = self.cells.iter().find(|(name, _)| *name == column);
        match cell.map(|(_, cell)| cell) {
            None | Some(Cell::Null) => Ok(None),
            Some(Cell::Text(text)) => Ok(Some(text)),
            Some(Cell::TooLong(bytes)) => Err(self.fault(column, ColumnFault::TooLong(*bytes))),
            Some(Cell::NoText) => Err(self.fault(column, ColumnFault::NoText)),
        }
    }

    /// The text of a column that must hold one.
    ///
    /// # Errors
    /// [`ColumnError`].
    pub fn needed(&self, column: &'static str) -> Result<&str, ColumnError> {
        let text = self.text(column)?.filter(|text| !text.is_empty());
        text.ok_or_else(|| self.fault(column, ColumnFault::Empty))
    }

    /// The number in a column.
    ///
    /// # Errors
    /// [`ColumnError`], also for a number below zero or above `max`.
    pub fn number(&self, column: &'static str, max: u64) -> Result<Option<u64>, ColumnError> {
        let text = self.text(column)?;
        let number = text.map(str::parse::<u64>).transpose().ok();
        match number {
            Some(number) if number.is_none_or(|number| number <= max) => Ok(number),
            _ => Err(self.fault(column, ColumnFault::Number)),
        }
    }

    /// The truth in a column, as either database writes it.
    ///
    /// # Errors
    /// [`ColumnError`].
    pub fn flag(&self, column: &'static str) -> Result<Option<bool>, ColumnError> {
        match self.text(column)? {
            None => Ok(None),
            Some("1" | "true" | "t") => Ok(Some(true)),
            Some("0" | "false" | "f") => Ok(Some(false)),
            Some(_) => Err(self.fault(column, ColumnFault::Flag)),
        }
    }

    /// The JSON text in a column, which Keylime may have written as JSON once more.
    ///
    /// # Errors
    /// [`ColumnError`].
    pub fn json(&self, column: &'static str) -> Result<Option<String>, ColumnError> {
        let Some(text) = self.text(column)? else {
            return Ok(None);
        };
        let damaged = |_| self.fault(column, ColumnFault::Json("a document"));
        match serde_json::from_str(text).map_err(damaged)? {
            Value::String(inner) => Ok(Some(inner)),
            Value::Null => Ok(None),
            _ => Ok(Some(text.to_owned())),
        }
    }

    /// The list of texts in a column.
    ///
    /// # Errors
    /// [`ColumnError`].
    pub fn list(&self, column: &'static str) -> Result<Vec<String>, ColumnError> {
        let damaged = |_| self.fault(column, ColumnFault::Json("a list of names"));
        let list: Option<Vec<String>> =
            serde_json::from_str(self.text(column)?.unwrap_or("null")).map_err(damaged)?;
        Ok(list.unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_value_of_its_kind_is_said_by_table_and_column() {
        let text = |text: &str| Cell::Text(text.to_owned());
        let row = SourceRow::new(
            KeylimeTable::Agents,
            vec![
                ("port", text("70000")),
                ("verifier_port", text("-1")),
                ("v", Cell::TooLong(1 << 40)),
                ("ip", Cell::NoText),
                ("mtls_cert", text("")),
                ("accept_attestations", text("maybe")),
                ("tpm_policy", text(r#""{\"mask\": \"0x0\"}""#)),
                ("meta_data", text("{")),
                ("accept_tpm_hash_algs", text("[1]")),
                ("ak_tpm", Cell::Null),
            ],
        );
        let fault = |error: ColumnError| {
            assert_eq!(error.table, "verifiermain");
            (error.column, error.fault)
        };
        assert_eq!(
            fault(row.number("port", 65_535).unwrap_err()),
            ("port", ColumnFault::Number)
        );
        assert_eq!(
            fault(row.number("verifier_port", 65_535).unwrap_err()).1,
            ColumnFault::Number
        );
        assert_eq!(
            fault(row.text("v").unwrap_err()).1,
            ColumnFault::TooLong(1 << 40)
        );
        assert_eq!(fault(row.text("ip").unwrap_err()).1, ColumnFault::NoText);
        assert_eq!(
            fault(row.needed("mtls_cert").unwrap_err()).1,
            ColumnFault::Empty
        );
        assert_eq!(
            fault(row.needed("ak_tpm").unwrap_err()).1,
            ColumnFault::Empty
        );
        assert_eq!(
            fault(row.flag("accept_attestations").unwrap_err()).1,
            ColumnFault::Flag
        );
        assert!(matches!(
            fault(row.json("meta_data").unwrap_err()).1,
            ColumnFault::Json(_)
        ));
        assert!(matches!(
            fault(row.list("accept_tpm_hash_algs").unwrap_err()).1,
            ColumnFault::Json(_)
        ));
        assert_eq!(
            row.json("tpm_policy").unwrap().unwrap(),
            r#"{"mask": "0x0"}"#
        );
        let shown = row.text("v").unwrap_err().to_string();
        assert!(shown.starts_with("verifiermain.v has "), "{shown}");
    }
}
