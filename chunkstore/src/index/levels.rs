//! The tables that ids and tags are searched by: heads and numbers, in levels (`docs/decisions/010-heads-in-levels.md`).
//!
//! Heads are random, so that each new row of a large table dirties a page of its own. Therefore new rows go into a small table,
//! and what is too much for a level moves to the next one in slices of neighbouring heads, many of which share a page there. A row
//! lies in one level at a time and moves only upwards. Reading goes by views of all levels: `by_id` and `by_tag`.

use super::sql;
use crate::error::Result;
use rusqlite::{Connection, OptionalExtension, params};

/// Rows of each level but the last. In tests they are few, so that whatever is tested meets rows of all levels.
const ROWS_MAX: [i64; 2] = if cfg!(test) { [16, 128] } else { [1 << 17, 1 << 21] };

#[derive(Clone, Copy)]
pub enum Heads {
    OfIds,
    OfTags,
}

impl Heads {
    fn view(self) -> &'static str {
        match self {
            Heads::OfIds => "by_id",
            Heads::OfTags => "by_tag",
        }
    }

    fn table(self, level: usize) -> String {
        format!("{}_{level}", self.view())
    }

    /// Whoever reads one after the other while rows are added meets each row that was there at the beginning, since rows move only
    /// to tables that come later.
    pub fn tables(self) -> impl DoubleEndedIterator<Item = String> {
        (0..=ROWS_MAX.len()).map(move |level| self.table(level))
    }
}

/// The tables, their views, and what steers how rows move.
pub fn create(connection: &Connection) -> Result<()> {
    let mut statements = vec![
        // `settled`: the head where the last slice ended
        "CREATE TABLE level(name TEXT PRIMARY KEY, rows INTEGER NOT NULL, settled INTEGER NOT NULL) WITHOUT ROWID"
            .into(),
    ];
    for heads in [Heads::OfIds, Heads::OfTags] {
        for table in heads.tables() {
            statements
                .push(format!("CREATE TABLE {table}(head INTEGER, no INTEGER, PRIMARY KEY(head, no)) WITHOUT ROWID"));
            statements.push(format!("INSERT INTO level(name, rows, settled) VALUES('{table}', 0, {})", i64::MIN));
        }
        // The last table has most rows, and whoever looks for one stops where it is.
        let all: Vec<String> = heads.tables().rev().map(|table| format!("SELECT head, no FROM {table}")).collect();
        statements.push(format!("CREATE VIEW {} AS {}", heads.view(), all.join(" UNION ALL ")));
    }
    connection.execute_batch(&statements.join(";")).map_err(sql("create"))
}

/// Adds rows, and moves as many as there is no room for.
pub fn insert(connection: &Connection, heads: Heads, mut rows: Vec<(i64, i64)>) -> Result<()> {
    rows.sort_unstable();
    let table = heads.table(0);
    let query = format!("INSERT INTO {table}(head, no) VALUES(?1, ?2)");
    let mut insert = connection.prepare_cached(&query).map_err(sql("write"))?;
    for (head, no) in &rows {
        insert.execute([head, no]).map_err(sql("write"))?;
    }
    count(connection, &table, i64::try_from(rows.len()).unwrap_or(i64::MAX))?;
    ROWS_MAX.into_iter().enumerate().try_for_each(|(level, rows_max)| make_room(connection, heads, level, rows_max))
}

/// So many rows more (or fewer) are in a table.
pub fn count(connection: &Connection, table: &str, more: i64) -> Result<()> {
    connection
        .prepare_cached("UPDATE level SET rows = rows + ?2 WHERE name = ?1")
        .and_then(|mut s| s.execute(params![table, more]))
        .map(|_| ())
        .map_err(sql("write"))
}

/// Moves one slice, which begins where the last one ended and holds what is too much, or less at the end of the table. (The smallest
/// head of all never moves, which does no harm.)
fn make_room(connection: &Connection, heads: Heads, level: usize, rows_max: i64) -> Result<()> {
    let (from, to) = (heads.table(level), heads.table(level + 1));
    let (rows, begin): (i64, i64) = connection
        .prepare_cached("SELECT rows, settled FROM level WHERE name = ?1")
        .and_then(|mut s| s.query_row([&from], |r| Ok((r.get(0)?, r.get(1)?))))
        .map_err(sql("read"))?;
    if rows <= rows_max {
        return Ok(());
    }
    let end: Option<i64> = connection
        .prepare_cached(&format!("SELECT head FROM {from} WHERE head > ?1 ORDER BY head LIMIT 1 OFFSET ?2"))
        .and_then(|mut s| s.query_row([begin, rows - rows_max - 1], |r| r.get(0)).optional())
        .map_err(sql("read"))?;
    let slice = [begin, end.unwrap_or(i64::MAX)];
    let write =
        |query: String| connection.prepare_cached(&query).and_then(|mut s| s.execute(slice)).map_err(sql("write"));
    write(format!(
        "INSERT INTO {to}(head, no) SELECT head, no FROM {from} WHERE head > ?1 AND head <= ?2 ORDER BY head, no"
    ))?;
    let moved = write(format!("DELETE FROM {from} WHERE head > ?1 AND head <= ?2"))?;
    let moved = i64::try_from(moved).unwrap_or(i64::MAX);
    connection
        .prepare_cached("UPDATE level SET rows = rows - ?2, settled = ?3 WHERE name = ?1")
        .and_then(|mut s| s.execute(params![from, moved, end.unwrap_or(i64::MIN)]))
        .map_err(sql("write"))?;
    count(connection, &to, moved)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rows(connection: &Connection, table: &str) -> Vec<(i64, i64)> {
        let mut select = connection.prepare(&format!("SELECT head, no FROM {table} ORDER BY head, no")).unwrap();
        let rows = select.query_map([], |r| Ok((r.get(0)?, r.get(1)?))).unwrap();
        rows.map(|row| row.unwrap()).collect()
    }

    proptest! {
        #[test]
        fn every_row_is_in_one_level_and_no_level_but_the_last_grows(
            batches in prop::collection::vec(prop::collection::vec(any::<i64>(), 0..40), 30),
        ) {
            let connection = Connection::open_in_memory().unwrap();
            create(&connection).unwrap();
            let mut all = Vec::new();
            for batch in batches {
                let added: Vec<(i64, i64)> = batch.into_iter().zip(all.len() as i64..).collect();
                all.extend(&added);
                insert(&connection, Heads::OfTags, added).unwrap();
                for (table, rows_max) in Heads::OfTags.tables().zip(ROWS_MAX) {
                    // A slice may be cut short by the end of the table, once in a round.
                    prop_assert!(rows(&connection, &table).len() as i64 <= rows_max + 2 * 40);
                }
            }
            all.sort_unstable();
            prop_assert_eq!(rows(&connection, "by_tag"), all);
            for table in Heads::OfTags.tables() {
                let count: i64 =
                    connection.query_row("SELECT rows FROM level WHERE name = ?1", [&table], |r| r.get(0)).unwrap();
                prop_assert_eq!(count, rows(&connection, &table).len() as i64);
            }
            prop_assert!(rows(&connection, "by_id").is_empty());
        }
    }

    /// Look-ups must go down each table by its key: a plan that puts the levels together first would read all of them.
    #[test]
    fn views_are_searched_by_key() {
        let connection = Connection::open_in_memory().unwrap();
        create(&connection).unwrap();
        connection.execute_batch("CREATE TABLE blob(no INTEGER PRIMARY KEY, id BLOB)").unwrap();
        let query = "EXPLAIN QUERY PLAN SELECT no FROM by_id CROSS JOIN blob USING(no) WHERE head = ?1 AND id = ?2";
        let mut plan = connection.prepare(query).unwrap();
        let steps = plan.query_map(params![1, 2], |r| r.get(3)).unwrap();
        let steps: Vec<String> = steps.map(|step| step.unwrap()).collect();
        let searches = |what: &str| steps.iter().filter(|step| step.contains(what)).count();
        assert_eq!((searches("(head=?)"), searches("(rowid=?)"), searches("SCAN")), (3, 3, 0), "{steps:?}");
        let first = steps.iter().find(|step| step.contains("(head=?)")).unwrap();
        assert!(first.contains("by_id_2"), "the largest table first: {steps:?}");
    }
}
