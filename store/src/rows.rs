//! Statements about many rows: each costs more than a row, for it goes to the thread that owns the
//! connection, and its answer comes back.

use sqlx::query::Query;
use sqlx::sqlite::SqliteArguments;
use sqlx::{AssertSqlSafe, Sqlite};

/// Rows of one statement. Any number of rows up to the last takes one statement, filled up with rows
/// of NULL, and few are prepared.
const ROWS_PER_STATEMENT: [usize; 16] = [
    1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, ROWS_MAX,
];
const ROWS_MAX: usize = 256;

/// A statement about rows that a table of parameters stands for, between two literals.
///
/// What follows the table must pass over a row whose columns are all NULL.
#[derive(Clone, Copy)]
pub(crate) struct Statement {
    pub(crate) before: &'static str,
    pub(crate) columns: usize,
    pub(crate) after: &'static str,
}

pub(crate) type Rows = Query<'static, Sqlite, SqliteArguments>;

impl Statement {
    /// The statement about these rows, as many as one takes at most; `bind` binds the columns of one.
    pub(crate) fn about<T, E>(
        &self,
        rows: &[T],
        bind: impl Fn(Rows, &T) -> Result<Rows, E>,
    ) -> Result<Rows, E> {
        let size = ROWS_PER_STATEMENT.into_iter().find(|it| rows.len() <= *it);
        let size = size.unwrap_or(rows.len());
        let mut filled = sqlx::query(self.sql(size));
        for row in rows {
            filled = bind(filled, row)?;
        }
        let missing = size.saturating_sub(rows.len());
        for _ in 0..missing.saturating_mul(self.columns) {
            filled = filled.bind(None::<i64>);
        }
        Ok(filled)
    }

    fn sql(&self, rows: usize) -> AssertSqlSafe<String> {
        let mut sql = String::from(self.before);
        for row in 0..rows {
            sql.push_str(if row == 0 { "(" } else { ", (" });
            for column in 0..self.columns {
                // Without a number: SQLite looks for the name of each that has one among all others.
                sql.push_str(if column == 0 { "?" } else { ", ?" });
            }
            sql.push(')');
        }
        sql.push_str(self.after);
        // Nothing in it comes from outside: it is parameters between two literals.
        AssertSqlSafe(sql)
    }
}

/// As many rows as one statement takes, in order.
pub(crate) fn slices<T>(rows: &[T]) -> impl Iterator<Item = &[T]> {
    rows.chunks(ROWS_MAX)
}
