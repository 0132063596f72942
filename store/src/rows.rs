//! Statements about many rows: each costs more than a row, for it goes to the thread that owns the
//! connection, and its answer comes back.

use sqlx::{AssertSqlSafe, SqlSafeStr};

/// Rows of one statement. Any number of rows takes few statements, and few are prepared.
const ROWS_PER_STATEMENT: [usize; 9] = [256, 128, 64, 32, 16, 8, 4, 2, 1];

/// A statement with so many rows of parameters between two literals.
pub(crate) fn statement(
    before: &str,
    columns: usize,
    rows: usize,
    after: &str,
) -> impl SqlSafeStr + use<> {
    let mut sql = String::from(before);
    for row in 0..rows {
        sql.push_str(if row == 0 { "(" } else { ", (" });
        for column in 0..columns {
            // Without a number: SQLite looks for the name of each that has one among all others.
            sql.push_str(if column == 0 { "?" } else { ", ?" });
        }
        sql.push(')');
    }
    sql.push_str(after);
    // Nothing in it comes from outside: it is parameters between two literals.
    AssertSqlSafe(sql)
}

/// The largest slices that one statement takes, in order.
pub(crate) fn slices<T>(mut rest: &[T]) -> impl Iterator<Item = &[T]> {
    std::iter::from_fn(move || {
        let take = ROWS_PER_STATEMENT
            .into_iter()
            .find(|rows| *rows <= rest.len())?;
        let (slice, after) = rest.split_at_checked(take)?;
        rest = after;
        Some(slice)
    })
}
