//! The server's records: repositories, clients with what they were granted, invitations, receipts. One SQLite database.
//!
//! [`Roll`] is the part that a handshake asks; it lives in memory and follows the database.

mod peers;

pub use peers::{Peer, chosen};

use crate::access::Grant;
use crate::error::{Error, Result};
use chunkstore::id::SnapshotId;
use protocol::identity::NodeId;
use protocol::message::{Code, Refusal, Role};
use protocol::token::Token;
use rusqlite::{Connection, OptionalExtension, Row, params};
use serde::Serialize;
use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

const PROOFS_MAX: i64 = 5;
/// Kept beside what SQLite knows: a database of another version is not touched.
const SCHEMA_VERSION: i64 = 1;

const SCHEMA: &str = "
    BEGIN IMMEDIATE;
    CREATE TABLE repository(name TEXT PRIMARY KEY, created INTEGER NOT NULL) WITHOUT ROWID;
    -- one row for each thing that a client was granted
    CREATE TABLE client(key BLOB NOT NULL, writer BLOB NOT NULL, name TEXT NOT NULL, repository TEXT NOT NULL,
                        role INTEGER NOT NULL, datasets TEXT NOT NULL, enrolled INTEGER NOT NULL, seen INTEGER);
    CREATE INDEX client_by_key ON client(key);
    CREATE TABLE invitation(id BLOB PRIMARY KEY, secret BLOB NOT NULL, repository TEXT NOT NULL, role INTEGER NOT NULL,
                            datasets TEXT NOT NULL, expires INTEGER NOT NULL, proofs_left INTEGER NOT NULL,
                            tried INTEGER NOT NULL DEFAULT 0) WITHOUT ROWID;
    -- when the server committed what
    CREATE TABLE receipt(repository TEXT NOT NULL, snapshot BLOB NOT NULL, dataset TEXT NOT NULL, client BLOB NOT NULL,
                         received INTEGER NOT NULL, PRIMARY KEY(repository, snapshot)) WITHOUT ROWID;
    PRAGMA user_version = 1;
    COMMIT;";

/// Whose handshake may end well.
#[derive(Default)]
pub struct Roll {
    keys: RwLock<HashSet<NodeId>>,
    /// Until when anybody's may, seconds since 1970.
    open_until: AtomicI64,
}

pub struct Registry {
    connection: Mutex<Connection>,
    roll: Arc<Roll>,
}

/// One row of what clients were granted.
#[derive(Clone, Serialize, Debug)]
pub struct Client {
    pub key: String,
    pub name: String,
    pub repository: String,
    pub role: String,
    pub datasets: Vec<String>,
    /// Seconds since 1970.
    pub enrolled: i64,
    pub seen: Option<i64>,
}

/// That a snapshot was committed here.
#[derive(Clone, Copy, Debug)]
pub struct Receipt {
    /// Nanoseconds since 1970.
    pub received: i64,
    pub client: NodeId,
}

/// What an invitation grants.
#[derive(Clone, Debug)]
pub struct Invitation {
    pub repository: String,
    pub role: Role,
    pub datasets: Vec<String>,
}

/// Who answers an invitation.
pub struct Enrolling<'a> {
    pub key: NodeId,
    pub writer: [u8; 32],
    pub name: &'a str,
    pub invitation: [u8; 8],
    pub proof: [u8; 32],
    /// What TLS exports in this connection.
    pub exported: [u8; 32],
}

impl Roll {
    pub fn admits(&self, key: NodeId, now: i64) -> bool {
        let known = self.keys.read().unwrap_or_else(PoisonError::into_inner).contains(&key);
        known || now < self.open_until.load(Ordering::Relaxed)
    }
}

impl Registry {
    pub fn open(file: &Path) -> Result<Registry> {
        let connection = Connection::open(file)?;
        connection.execute_batch(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA mmap_size = 0; PRAGMA trusted_schema = OFF;
             PRAGMA secure_delete = ON; PRAGMA busy_timeout = 5000;",
        )?;
        match connection.pragma_query_value(None, "user_version", |row| row.get(0))? {
            0i64 => connection.execute_batch(SCHEMA)?,
            SCHEMA_VERSION => {}
            other => {
                let reason = format!("version {other} is unknown to this program");
                return Err(Error::argument(file.display().to_string(), reason));
            }
        }
        connection.execute_batch(peers::SCHEMA)?;
        let registry = Registry { connection: Mutex::new(connection), roll: Arc::default() };
        registry.refresh(&registry.lock())?;
        Ok(registry)
    }

    pub fn roll(&self) -> Arc<Roll> {
        Arc::clone(&self.roll)
    }

    pub fn add_repository(&self, name: &str, now: i64) -> Result<()> {
        validate_name(name)?;
        let added = self.lock().execute("INSERT OR IGNORE INTO repository VALUES(?1, ?2)", params![name, now])?;
        if added == 1 { Ok(()) } else { Err(Error::argument(format!("repository {name}"), "it is there already")) }
    }

    pub fn repositories(&self) -> Result<Vec<String>> {
        let connection = self.lock();
        let mut statement = connection.prepare("SELECT name FROM repository ORDER BY name")?;
        let names = statement.query_map([], |row| row.get(0))?;
        Ok(names.collect::<rusqlite::Result<_>>()?)
    }

    pub fn has_repository(&self, name: &str) -> Result<bool> {
        Ok(self.lock().prepare("SELECT 1 FROM repository WHERE name = ?1")?.exists([name])?)
    }

    /// Remembers what the token says.
    pub fn invite(&self, token: &Token, role: Role, datasets: &[String]) -> Result<()> {
        if !self.has_repository(&token.repository)? {
            let reason = "there is none of this name; `nightkeepd repository create` makes it";
            return Err(Error::argument(format!("repository {}", token.repository), reason));
        }
        let connection = self.lock();
        connection.execute(
            "INSERT INTO invitation(id, secret, repository, role, datasets, expires, proofs_left)
             VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            params![
                &token.invitation[..],
                &token.secret[..],
                token.repository,
                role as u8,
                joined(datasets),
                token.expires,
                PROOFS_MAX
            ],
        )?;
        self.refresh(&connection)
    }

    /// Consumes an invitation, or says why not. Everything in one transaction.
    pub fn enrol(&self, enrolling: &Enrolling<'_>, now: i64) -> Result<std::result::Result<Invitation, Refusal>> {
        let refused = |reason: &str| Ok(Err(Refusal::new(Code::Invitation, "the invitation", reason)));
        let gone = "it is used, expired or was never made; ask for another one";
        let mut connection = self.lock();
        let transaction = connection.transaction()?;
        let row = transaction
            .query_row(
                "SELECT secret, repository, role, datasets, expires, proofs_left, tried FROM invitation WHERE id = ?1",
                [&enrolling.invitation[..]],
                |row| Ok((row.get::<_, [u8; 16]>(0)?, invitation(row)?, row.get(4)?, row.get(5)?, row.get(6)?)),
            )
            .optional()?;
        let Some((secret, invitation, expires, proofs_left, tried)) = row else { return refused(gone) };
        let (expires, proofs_left, tried): (i64, i64, i64) = (expires, proofs_left, tried);
        if expires <= now || proofs_left <= 0 {
            return refused(gone);
        }
        if now <= tried {
            return Ok(Err(Refusal::new(Code::Busy, "the invitation", "it was tried a moment ago; try again")));
        }
        // Compares in constant time.
        if Token::proof(&secret, &enrolling.exported, enrolling.key) != enrolling.proof {
            transaction.execute(
                "UPDATE invitation SET proofs_left = proofs_left - 1, tried = ?2 WHERE id = ?1",
                params![&enrolling.invitation[..], now],
            )?;
            transaction.commit()?;
            self.refresh(&connection)?;
            return refused("the token is not that of this invitation");
        }
        transaction.execute("DELETE FROM invitation WHERE id = ?1", [&enrolling.invitation[..]])?;
        // A new key of a writer that is known stands for the old one of this client too.
        transaction.execute(
            "UPDATE client SET writer = ?2 WHERE key = ?1",
            params![&enrolling.key.0[..], &enrolling.writer[..]],
        )?;
        transaction.execute(
            "INSERT INTO client VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, NULL)",
            params![
                &enrolling.key.0[..],
                &enrolling.writer[..],
                enrolling.name,
                invitation.repository,
                invitation.role as u8,
                joined(&invitation.datasets),
                now
            ],
        )?;
        transaction.commit()?;
        self.refresh(&connection)?;
        Ok(Ok(invitation))
    }

    /// What a client may do in a repository, and its writer key; None if nothing.
    pub fn grants(&self, key: NodeId, repository: &str, now: i64) -> Result<Option<(Vec<Grant>, [u8; 32], String)>> {
        let connection = self.lock();
        connection.execute(
            "UPDATE client SET seen = ?3 WHERE key = ?1 AND repository = ?2",
            params![&key.0[..], repository, now],
        )?;
        let mut statement = connection.prepare_cached(
            "SELECT writer, repository, role, datasets, name FROM client WHERE key = ?1 AND repository = ?2",
        )?;
        let rows = statement.query_map(params![&key.0[..], repository], |row| {
            Ok((row.get::<_, [u8; 32]>(0)?, invitation(row)?, row.get::<_, String>(4)?))
        })?;
        let mut found: Option<(Vec<Grant>, [u8; 32], String)> = None;
        for row in rows {
            let (writer, granted, name) = row?;
            let grant = Grant::new(granted.role, &granted.datasets)
                .map_err(|error| Error::argument(format!("datasets of client {name}"), error.to_string()))?;
            found.get_or_insert_with(|| (Vec::new(), writer, name)).0.push(grant);
        }
        Ok(found)
    }

    pub fn clients(&self) -> Result<Vec<Client>> {
        let connection = self.lock();
        let mut statement = connection.prepare(
            "SELECT key, repository, role, datasets, name, enrolled, seen FROM client ORDER BY name, enrolled",
        )?;
        let rows = statement.query_map([], |row| {
            let granted = invitation(row)?;
            Ok(Client {
                key: NodeId(row.get(0)?).to_string(),
                name: row.get(4)?,
                repository: granted.repository,
                role: granted.role.text().to_owned(),
                datasets: granted.datasets,
                enrolled: row.get(5)?,
                seen: row.get(6)?,
            })
        })?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    /// All that this client was granted ends. The caller closes its connections.
    pub fn revoke(&self, key: NodeId) -> Result<usize> {
        let connection = self.lock();
        let removed = connection.execute("DELETE FROM client WHERE key = ?1", [&key.0[..]])?;
        self.refresh(&connection)?;
        Ok(removed)
    }

    /// When a snapshot was committed: the first time, if it is told again. Nanoseconds since 1970.
    pub fn receipt(&self, repository: &str, snapshot: SnapshotId, dataset: &str, by: NodeId, now: i64) -> Result<i64> {
        let connection = self.lock();
        connection.execute(
            "INSERT OR IGNORE INTO receipt VALUES(?1, ?2, ?3, ?4, ?5)",
            params![repository, &snapshot.0[..], dataset, &by.0[..], now],
        )?;
        Ok(connection.query_row(
            "SELECT received FROM receipt WHERE repository = ?1 AND snapshot = ?2",
            params![repository, &snapshot.0[..]],
            |row| row.get(0),
        )?)
    }

    pub fn receipts(&self, repository: &str) -> Result<HashMap<SnapshotId, Receipt>> {
        let connection = self.lock();
        let mut statement =
            connection.prepare_cached("SELECT snapshot, received, client FROM receipt WHERE repository = ?1")?;
        let rows = statement.query_map([repository], |row| {
            Ok((SnapshotId(row.get(0)?), Receipt { received: row.get(1)?, client: NodeId(row.get(2)?) }))
        })?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    /// Of snapshots that are gone for good.
    pub fn remove_receipts(&self, repository: &str, snapshots: &[SnapshotId]) -> Result<()> {
        let mut connection = self.lock();
        let transaction = connection.transaction()?;
        for snapshot in snapshots {
            transaction.execute(
                "DELETE FROM receipt WHERE repository = ?1 AND snapshot = ?2",
                params![repository, &snapshot.0[..]],
            )?;
        }
        Ok(transaction.commit()?)
    }

    fn refresh(&self, connection: &Connection) -> Result<()> {
        let mut statement = connection.prepare("SELECT DISTINCT key FROM client")?;
        let keys = statement.query_map([], |row| row.get(0).map(NodeId))?.collect::<rusqlite::Result<_>>()?;
        *self.roll.keys.write().unwrap_or_else(PoisonError::into_inner) = keys;
        let until: Option<i64> =
            connection.query_row("SELECT max(expires) FROM invitation WHERE proofs_left > 0", [], |row| row.get(0))?;
        self.roll.open_until.store(until.unwrap_or(0), Ordering::Relaxed);
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Connection> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A repository's name is that of a directory, and part of a URL.
pub fn validate_name(name: &str) -> Result<()> {
    let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_' | '.');
    if (1..=64).contains(&name.len()) && name.chars().all(is_plain) && !name.starts_with(['.', '-']) {
        return Ok(());
    }
    let reason = "expected 1 to 64 of a-z, 0-9, `-`, `_` and `.`, not beginning with `.` or `-`";
    Err(Error::argument(format!("repository `{name}`"), reason))
}

/// Columns 1 to 3.
fn invitation(row: &Row<'_>) -> rusqlite::Result<Invitation> {
    let role: u8 = row.get(2)?;
    let role = Role::from_number(role).ok_or(rusqlite::Error::IntegralValueOutOfRange(2, role.into()))?;
    let datasets: String = row.get(3)?;
    let datasets = datasets.split('\n').filter(|pattern| !pattern.is_empty()).map(str::to_owned).collect();
    Ok(Invitation { repository: row.get(1)?, role, datasets })
}

/// Patterns hold no line ends: who makes an invitation checks that.
fn joined(datasets: &[String]) -> String {
    datasets.join("\n")
}

#[cfg(test)]
mod tests;
