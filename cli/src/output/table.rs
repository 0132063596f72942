//! Rows below a heading, for people.

use std::io::{self, Write};

use super::record::Item;
use super::{Look, Terminal};

/// Between two columns.
const GAP: &str = "  ";

/// A column: its heading, and the member of a row that stands in it.
pub(crate) struct Column(pub(crate) &'static str, pub(crate) &'static str);

/// Writes rows; their texts are escaped. (X07)
pub(crate) fn table(terminal: &mut Terminal, columns: &[Column], rows: &[Item]) -> io::Result<()> {
    let absent = Item::Absent;
    let cell = |row: &Item, column: &Column| row.get(column.1).unwrap_or(&absent).to_string();
    let cells: Vec<Vec<String>> = rows
        .iter()
        .map(|row| columns.iter().map(|column| cell(row, column)).collect())
        .collect();
    let mut widths: Vec<usize> = columns.iter().map(|column| column.0.len()).collect();
    for row in &cells {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    let headings: Vec<String> = columns.iter().map(|column| column.0.to_owned()).collect();
    line(terminal, &headings, &widths, |_, _| Some(Look::Bold))?;
    // Only the server chooses these words; a machine may call itself `trusted`.
    let is_status = |nth: usize| {
        let column = columns.get(nth);
        column.is_some_and(|column| matches!(column.1, "status" | "effective_status" | "result"))
    };
    for row in &cells {
        let look = |nth: usize, word: &str| status_look(word).filter(|_| is_status(nth));
        line(terminal, row, &widths, look)?;
    }
    Ok(())
}

fn line(
    terminal: &mut Terminal,
    cells: &[String],
    widths: &[usize],
    look: impl Fn(usize, &str) -> Option<Look>,
) -> io::Result<()> {
    let last = cells.len().saturating_sub(1);
    for (nth, (cell, width)) in cells.iter().zip(widths).enumerate() {
        let shown = match look(nth, cell) {
            Some(look) => terminal.styled(look, cell),
            None => cell.clone(),
        };
        // Colours have no width; and no line ends in blanks.
        let blanks = width.saturating_sub(cell.chars().count());
        let blanks = if nth == last { 0 } else { blanks };
        let gap = if nth == last { "" } else { GAP };
        write!(terminal, "{shown}{:blanks$}{gap}", "")?;
    }
    writeln!(terminal)
}

/// How the word for a status looks; `None` for any other word.
pub(crate) fn status_look(word: &str) -> Option<Look> {
    match word {
        "active" | "trusted" | "ok" => Some(Look::Green),
        "failed" | "untrusted" | "blocked" | "revoked" => Some(Look::Red),
        "stale" | "overdue" | "pending" | "unverified" | "trusted_unenforced" | "authentic"
        | "warning" => Some(Look::Yellow),
        _ => None,
    }
}
