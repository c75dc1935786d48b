//! What was done and used: the last job of each kind, whose turn it is to be verified, how much clients have stored. One SQLite
//! database, which may be deleted: then schedules begin anew, and usage is measured by the next gc.

use crate::error::Result;
use protocol::identity::NodeId;
use rusqlite::{Connection, OptionalExtension, params};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

const SCHEMA: &str = "
    PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA mmap_size = 0; PRAGMA trusted_schema = OFF;
    PRAGMA busy_timeout = 5000;
    CREATE TABLE IF NOT EXISTS job(repository TEXT NOT NULL, kind TEXT NOT NULL, began INTEGER NOT NULL, ended INTEGER NOT NULL,
                                   failure TEXT, told TEXT NOT NULL, PRIMARY KEY(repository, kind)) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS turn(repository TEXT PRIMARY KEY, last INTEGER NOT NULL, part INTEGER NOT NULL) WITHOUT ROWID;
    -- held: by its snapshots, when it was measured; put: ever; put_then: when it was measured
    CREATE TABLE IF NOT EXISTS usage(repository TEXT NOT NULL, client BLOB NOT NULL, held INTEGER NOT NULL DEFAULT 0,
                                     put INTEGER NOT NULL DEFAULT 0, put_then INTEGER NOT NULL DEFAULT 0,
                                     PRIMARY KEY(repository, client)) WITHOUT ROWID;";

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Retention,
    Gc,
    Verify,
}

impl Kind {
    pub const ALL: [Kind; 3] = [Kind::Retention, Kind::Gc, Kind::Verify];

    pub fn text(self) -> &'static str {
        match self {
            Kind::Retention => "retention",
            Kind::Gc => "gc",
            Kind::Verify => "verify",
        }
    }

    pub fn from_text(text: &str) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| kind.text() == text)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

/// The last job of a kind.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Done {
    pub kind: Kind,
    /// Seconds since 1970.
    pub began: i64,
    pub ended: i64,
    pub failure: Option<String>,
    /// What it answered, as JSON.
    pub told: String,
}

/// When the maintenance of a repository began last, and which part is to be verified next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Turn {
    pub last: i64,
    pub part: u64,
}

pub struct Ledger {
    connection: Mutex<Connection>,
}

impl Ledger {
    pub fn open(file: &Path) -> Result<Ledger> {
        let connection = Connection::open(file)?;
        connection.execute_batch(SCHEMA)?;
        Ok(Ledger { connection: Mutex::new(connection) })
    }

    pub fn note(&self, repository: &str, done: &Done) -> Result<()> {
        self.lock().execute(
            "INSERT OR REPLACE INTO job VALUES(?1, ?2, ?3, ?4, ?5, ?6)",
            params![repository, done.kind.text(), done.began, done.ended, done.failure, done.told],
        )?;
        Ok(())
    }

    pub fn done(&self, repository: &str) -> Result<Vec<Done>> {
        let connection = self.lock();
        let mut statement = connection
            .prepare_cached("SELECT kind, began, ended, failure, told FROM job WHERE repository = ?1 ORDER BY kind")?;
        let rows = statement.query_map([repository], |row| {
            Ok((row.get::<_, String>(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?))
        })?;
        let mut found = Vec::new();
        for row in rows {
            let (kind, began, ended, failure, told) = row?;
            if let Some(kind) = Kind::from_text(&kind) {
                found.push(Done { kind, began, ended, failure, told });
            }
        }
        Ok(found)
    }

    /// `first` is what is remembered of a repository that is seen for the first time.
    pub fn turn(&self, repository: &str, first: i64) -> Result<Turn> {
        let connection = self.lock();
        let row = connection
            .prepare_cached("SELECT last, part FROM turn WHERE repository = ?1")?
            .query_row([repository], |row| Ok((row.get(0)?, row.get::<_, i64>(1)?)))
            .optional()?;
        if let Some((last, part)) = row {
            return Ok(Turn { last, part: part.unsigned_abs() });
        }
        connection.execute("INSERT INTO turn VALUES(?1, ?2, 0)", params![repository, first])?;
        Ok(Turn { last: first, part: 0 })
    }

    pub fn set_turn(&self, repository: &str, turn: Turn) -> Result<()> {
        let part = i64::try_from(turn.part).unwrap_or(0);
        self.lock().execute("INSERT OR REPLACE INTO turn VALUES(?1, ?2, ?3)", params![repository, turn.last, part])?;
        Ok(())
    }

    pub fn add_put(&self, repository: &str, client: NodeId, bytes: u64) -> Result<()> {
        let connection = self.lock();
        let mut statement = connection.prepare_cached(
            "INSERT INTO usage(repository, client, put) VALUES(?1, ?2, ?3)
             ON CONFLICT DO UPDATE SET put = put + excluded.put",
        )?;
        statement.execute(params![repository, &client.0[..], i64::try_from(bytes).unwrap_or(i64::MAX)])?;
        Ok(())
    }

    /// All that a client has put ever: to be asked before its snapshots are looked at.
    pub fn put(&self, repository: &str, client: NodeId) -> Result<u64> {
        let connection = self.lock();
        let put: Option<i64> = connection
            .prepare_cached("SELECT put FROM usage WHERE repository = ?1 AND client = ?2")?
            .query_row(params![repository, &client.0[..]], |row| row.get(0))
            .optional()?;
        Ok(put.unwrap_or(0).unsigned_abs())
    }

    /// `held` is what its snapshots hold, of which `put` were there when it was looked.
    pub fn measured(&self, repository: &str, client: NodeId, held: u64, put: u64) -> Result<()> {
        let number = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
        self.lock().execute(
            "INSERT INTO usage(repository, client, held, put, put_then) VALUES(?1, ?2, ?3, ?4, ?4)
             ON CONFLICT DO UPDATE SET held = excluded.held, put_then = excluded.put_then",
            params![repository, &client.0[..], number(held), number(put)],
        )?;
        Ok(())
    }

    /// What each client uses in each repository, as far as is known.
    pub fn usage(&self) -> Result<Vec<(String, NodeId, u64)>> {
        let connection = self.lock();
        let mut statement = connection.prepare_cached(
            "SELECT repository, client, held + put - put_then FROM usage ORDER BY repository, client",
        )?;
        let rows = statement
            .query_map([], |row| Ok((row.get(0)?, NodeId(row.get(1)?), row.get::<_, i64>(2)?.max(0).unsigned_abs())))?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    fn lock(&self) -> MutexGuard<'_, Connection> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("work.sqlite3");
        let ledger = Ledger::open(&file).unwrap();
        let done = Done { kind: Kind::Gc, began: 1, ended: 2, failure: Some("x".into()), told: "{}".into() };
        ledger.note("a", &done).unwrap();
        ledger.note("a", &Done { failure: None, ..done.clone() }).unwrap();
        assert_eq!(ledger.done("a").unwrap(), [Done { failure: None, ..done }]);
        assert!(ledger.done("b").unwrap().is_empty());
        assert_eq!(ledger.turn("a", 7).unwrap(), Turn { last: 7, part: 0 });
        ledger.set_turn("a", Turn { last: 9, part: 3 }).unwrap();
        drop(ledger);
        assert_eq!(Ledger::open(&file).unwrap().turn("a", 1).unwrap(), Turn { last: 9, part: 3 });
    }

    #[test]
    fn usage_is_what_was_measured_and_what_came_since() {
        let place = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(&place.path().join("work.sqlite3")).unwrap();
        let (one, other) = (NodeId([1; 32]), NodeId([2; 32]));
        let used = |client| {
            ledger.usage().unwrap().into_iter().find(|(_, id, _)| *id == client).map_or(0, |(_, _, bytes)| bytes)
        };
        ledger.add_put("a", one, 100).unwrap();
        ledger.add_put("a", one, 50).unwrap();
        assert_eq!((used(one), used(other)), (150, 0));
        let put = ledger.put("a", one).unwrap();
        ledger.add_put("a", one, 7).unwrap();
        ledger.measured("a", one, 40, put).unwrap();
        assert_eq!(used(one), 47);
        ledger.measured("a", other, 5, 0).unwrap();
        assert_eq!(used(other), 5);
    }
}
