//! Results on standard output: a table for people, JSON for programs.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal, Write};

use clap::ValueEnum;
use serde::Serialize;

use crate::latency::Latency;

/// How a result is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// Lines for people
    Table,
    /// JSON for programs
    Json,
}

impl Output {
    /// What was asked for, or what suits whoever reads standard output.
    pub fn or_by_reader(asked: Option<Self>) -> Self {
        asked.unwrap_or(if io::stdout().is_terminal() {
            Self::Table
        } else {
            Self::Json
        })
    }

    /// Writes a result.
    ///
    /// # Errors
    /// When standard output takes no more.
    pub fn write(self, result: &(impl Serialize + Tabled)) -> io::Result<()> {
        let mut out = io::stdout().lock();
        match self {
            Self::Table => out.write_all(table(&result.rows()).as_bytes()),
            Self::Json => {
                serde_json::to_writer_pretty(&mut out, result)?;
                writeln!(out)
            }
        }
    }
}

/// What a table shows of a result.
pub trait Tabled {
    /// Its lines.
    fn rows(&self) -> Rows;
}

/// Lines of a table, each with a name.
#[derive(Debug, Default)]
pub struct Rows(Vec<(String, String)>);

impl Rows {
    /// A line.
    #[must_use]
    pub fn row(mut self, name: &str, value: impl ToString) -> Self {
        self.0.push((name.to_owned(), value.to_string()));
        self
    }

    /// A line with a number of which one digit after the point says enough.
    #[must_use]
    pub fn number(self, name: &str, value: f64) -> Self {
        self.row(name, format!("{value:.1}"))
    }

    /// A line with quantiles; none when nothing was counted.
    #[must_use]
    pub fn latency(self, name: &str, latency: &Latency) -> Self {
        if latency.count == 0 {
            return self;
        }
        let Latency {
            count,
            p50,
            p90,
            p99,
            p999,
            max,
        } = latency;
        let quantiles = format!(
            "p50 {p50:.2}  p90 {p90:.2}  p99 {p99:.2}  p99.9 {p999:.2}  max {max:.2}  of {count}"
        );
        self.row(&format!("{name}, ms"), quantiles)
    }

    /// A line for each thing that was counted, under one name.
    #[must_use]
    pub fn counts(mut self, name: &str, counts: &BTreeMap<impl ToString + Ord, u64>) -> Self {
        for (what, count) in counts {
            self = self.row(&format!("{name} {}", what.to_string()), count);
        }
        self
    }

    /// The lines of something else.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.0.extend(other.0);
        self
    }
}

fn table(Rows(rows): &Rows) -> String {
    let width = rows.iter().map(|(name, _)| name.chars().count()).max();
    let width = width.unwrap_or(0);
    rows.iter()
        .map(|(name, value)| format!("{name:<width$}  {value}\n"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_stand_below_each_other() {
        let none = Latency {
            count: 0,
            p50: 0.0,
            p90: 0.0,
            p99: 0.0,
            p999: 0.0,
            max: 0.0,
        };
        let some = Latency {
            count: 2,
            p50: 1.0,
            max: 2.5,
            ..none.clone()
        };
        let counts = BTreeMap::from([(200_u16, 7), (404, 1)]);
        let rows = Rows::default()
            .row("agents", 3)
            .number("per second", 1.25)
            .latency("nothing", &none)
            .latency("visit", &some)
            .counts("status", &counts);
        let expected = "agents      3\n\
                        per second  1.2\n\
                        visit, ms   p50 1.00  p90 0.00  p99 0.00  p99.9 0.00  max 2.50  of 2\n\
                        status 200  7\n\
                        status 404  1\n";
        assert_eq!(table(&rows), expected);
    }
}
