//! The registry's part about other sites: links, which site has which snapshot, and when words from afar came in.

use super::{Registry, joined};
use crate::error::{Error, Result};
use chunkstore::id::{MarkId, SnapshotId};
use protocol::identity::NodeId;
use protocol::message::Role;
use protocol::replication::Limit;
use rusqlite::{OptionalExtension, Row, params};
use std::collections::{BTreeMap, HashSet};

pub(super) const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS peer(key BLOB NOT NULL, repository TEXT NOT NULL, own TEXT NOT NULL, address TEXT NOT NULL,
                                    datasets TEXT NOT NULL, limits TEXT NOT NULL, delay INTEGER NOT NULL,
                                    paused INTEGER NOT NULL, joined INTEGER NOT NULL, PRIMARY KEY(key, own)) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS copy(repository TEXT NOT NULL, snapshot BLOB NOT NULL, site TEXT NOT NULL,
                                    PRIMARY KEY(repository, snapshot, site)) WITHOUT ROWID;
    -- what a site did not want, and when it last had all that it did
    CREATE TABLE IF NOT EXISTS declined(repository TEXT NOT NULL, snapshot BLOB NOT NULL, site TEXT NOT NULL,
                                        PRIMARY KEY(repository, snapshot, site)) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS complete(repository TEXT NOT NULL, site TEXT NOT NULL, time INTEGER NOT NULL,
                                        PRIMARY KEY(repository, site)) WITHOUT ROWID;
    -- when a word that takes something away was first seen here, and of which snapshot; whether it is applied
    CREATE TABLE IF NOT EXISTS word(repository TEXT NOT NULL, mark BLOB NOT NULL, snapshot BLOB NOT NULL,
                                    seen INTEGER NOT NULL, applied INTEGER NOT NULL,
                                    PRIMARY KEY(repository, mark)) WITHOUT ROWID;
    -- key slots that were removed here: they do not come back from elsewhere
    CREATE TABLE IF NOT EXISTS removed_slot(repository TEXT NOT NULL, slot BLOB NOT NULL,
                                            PRIMARY KEY(repository, slot)) WITHOUT ROWID;";

/// A site that this one dials, for one repository.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Peer {
    pub key: NodeId,
    /// HOST:PORT
    pub address: String,
    /// Its name there and here.
    pub repository: String,
    pub own: String,
    /// Patterns; empty means all.
    pub datasets: Vec<String>,
    pub limits: Vec<Limit>,
    /// Seconds; not 0 at a lagging site.
    pub delay: u64,
    pub paused: bool,
}

impl Registry {
    pub fn peers(&self) -> Result<Vec<Peer>> {
        let connection = self.lock();
        let mut statement = connection.prepare(
            "SELECT key, address, repository, own, datasets, limits, delay, paused FROM peer ORDER BY address, own",
        )?;
        let rows = statement.query_map([], peer)?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    /// Replaces what was said of the same link before.
    pub fn add_peer(&self, peer: &Peer, now: i64) -> Result<()> {
        let limits: Vec<String> = peer.limits.iter().map(Limit::to_string).collect();
        self.lock().execute(
            "INSERT OR REPLACE INTO peer(key, address, repository, own, datasets, limits, delay, paused, joined)
             VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
            params![
                &peer.key.0[..],
                peer.address,
                peer.repository,
                peer.own,
                joined(&peer.datasets),
                limits.join("\n"),
                i64::try_from(peer.delay).unwrap_or(i64::MAX),
                peer.paused,
                now
            ],
        )?;
        Ok(())
    }

    pub fn remove_peer(&self, peer: &Peer) -> Result<()> {
        let connection = self.lock();
        connection.execute("DELETE FROM peer WHERE key = ?1 AND own = ?2", params![&peer.key.0[..], peer.own])?;
        for table in ["copy", "declined", "complete"] {
            let delete = format!("DELETE FROM {table} WHERE repository = ?1 AND site = ?2");
            connection.execute(&delete, params![peer.own, peer.address])?;
        }
        Ok(())
    }

    pub fn pause_peer(&self, peer: &Peer, paused: bool) -> Result<()> {
        self.lock().execute(
            "UPDATE peer SET paused = ?3 WHERE key = ?1 AND own = ?2",
            params![&peer.key.0[..], peer.own, paused],
        )?;
        Ok(())
    }

    /// Whether other sites may write to this repository.
    pub fn has_replicas(&self, repository: &str) -> Result<bool> {
        let connection = self.lock();
        let replica = params![repository, Role::Replica as u8];
        let enrolled =
            connection.prepare("SELECT 1 FROM client WHERE repository = ?1 AND role = ?2")?.exists(replica)?;
        let invited =
            connection.prepare("SELECT 1 FROM invitation WHERE repository = ?1 AND role = ?2")?.exists(replica)?;
        Ok(enrolled || invited)
    }

    /// A site has these snapshots; with `only`, no others.
    pub fn note_copies(&self, repository: &str, site: &str, snapshots: &[SnapshotId], only: bool) -> Result<()> {
        let mut connection = self.lock();
        let transaction = connection.transaction()?;
        if only {
            transaction.execute("DELETE FROM copy WHERE repository = ?1 AND site = ?2", params![repository, site])?;
        }
        let mut insert = transaction.prepare("INSERT OR IGNORE INTO copy VALUES(?1, ?2, ?3)")?;
        for snapshot in snapshots {
            insert.execute(params![repository, &snapshot.0[..], site])?;
        }
        drop(insert);
        Ok(transaction.commit()?)
    }

    /// A site has all that it wants; these it did not. `now` is in seconds since 1970.
    pub fn note_complete(&self, repository: &str, site: &str, declined: &[SnapshotId], now: i64) -> Result<()> {
        let mut connection = self.lock();
        let transaction = connection.transaction()?;
        transaction.execute("DELETE FROM declined WHERE repository = ?1 AND site = ?2", params![repository, site])?;
        let mut insert = transaction.prepare("INSERT OR IGNORE INTO declined VALUES(?1, ?2, ?3)")?;
        for snapshot in declined {
            insert.execute(params![repository, &snapshot.0[..], site])?;
        }
        drop(insert);
        transaction.execute("INSERT OR REPLACE INTO complete VALUES(?1, ?2, ?3)", params![repository, site, now])?;
        Ok(transaction.commit()?)
    }

    /// When a site last had all that it wanted, in seconds since 1970.
    pub fn complete(&self, repository: &str, site: &str) -> Result<Option<i64>> {
        let connection = self.lock();
        let mut statement =
            connection.prepare_cached("SELECT time FROM complete WHERE repository = ?1 AND site = ?2")?;
        Ok(statement.query_row(params![repository, site], |row| row.get(0)).optional()?)
    }

    /// What a site has.
    pub fn copies_at(&self, repository: &str, site: &str) -> Result<HashSet<SnapshotId>> {
        self.named("SELECT snapshot FROM copy WHERE repository = ?1 AND site = ?2", repository, site)
    }

    /// What a site did not want.
    pub fn declined_at(&self, repository: &str, site: &str) -> Result<HashSet<SnapshotId>> {
        self.named("SELECT snapshot FROM declined WHERE repository = ?1 AND site = ?2", repository, site)
    }

    fn named(&self, query: &str, repository: &str, site: &str) -> Result<HashSet<SnapshotId>> {
        let connection = self.lock();
        let mut statement = connection.prepare_cached(query)?;
        let rows = statement.query_map(params![repository, site], |row| Ok(SnapshotId(row.get(0)?)))?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    /// The other sites that have a snapshot, as they said last.
    pub fn copies(&self, repository: &str, snapshot: SnapshotId) -> Result<Vec<String>> {
        let connection = self.lock();
        let mut statement =
            connection.prepare_cached("SELECT site FROM copy WHERE repository = ?1 AND snapshot = ?2 ORDER BY site")?;
        let rows = statement.query_map(params![repository, &snapshot.0[..]], |row| row.get(0))?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    /// When a mark that takes something away was first seen, in nanoseconds since 1970: now, if never before.
    pub fn note_word(&self, repository: &str, mark: MarkId, snapshot: SnapshotId, now: i64) -> Result<i64> {
        let connection = self.lock();
        connection.execute(
            "INSERT OR IGNORE INTO word VALUES(?1, ?2, ?3, ?4, 0)",
            params![repository, &mark.0[..], &snapshot.0[..], now],
        )?;
        Ok(connection.query_row(
            "SELECT seen FROM word WHERE repository = ?1 AND mark = ?2",
            params![repository, &mark.0[..]],
            |row| row.get(0),
        )?)
    }

    /// From now on it counts.
    pub fn apply_word(&self, repository: &str, mark: MarkId, now: i64) -> Result<()> {
        self.lock().execute(
            "UPDATE word SET seen = ?3, applied = 1 WHERE repository = ?1 AND mark = ?2 AND applied = 0",
            params![repository, &mark.0[..], now],
        )?;
        Ok(())
    }

    /// For each snapshot, when the last word from afar that takes something away came to count: what a collection is to be told
    /// (`PruneOptions::arrived`).
    pub fn arrived(&self, repository: &str) -> Result<BTreeMap<SnapshotId, i64>> {
        let connection = self.lock();
        let mut statement = connection
            .prepare("SELECT snapshot, max(seen) FROM word WHERE repository = ?1 AND applied = 1 GROUP BY snapshot")?;
        let rows = statement.query_map([repository], |row| Ok((SnapshotId(row.get(0)?), row.get(1)?)))?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    pub fn note_removed_slot(&self, repository: &str, slot: &[u8]) -> Result<()> {
        self.lock().execute("INSERT OR IGNORE INTO removed_slot VALUES(?1, ?2)", params![repository, slot])?;
        Ok(())
    }

    pub fn was_slot_removed(&self, repository: &str, slot: &[u8]) -> Result<bool> {
        let connection = self.lock();
        let row = connection
            .query_row(
                "SELECT 1 FROM removed_slot WHERE repository = ?1 AND slot = ?2",
                params![repository, slot],
                |row| row.get::<_, i64>(0),
            )
            .optional()?;
        Ok(row.is_some())
    }
}

fn peer(row: &Row<'_>) -> rusqlite::Result<Peer> {
    let lines = |at: usize| -> rusqlite::Result<Vec<String>> {
        let text: String = row.get(at)?;
        Ok(text.split('\n').filter(|line| !line.is_empty()).map(str::to_owned).collect())
    };
    Ok(Peer {
        key: NodeId(row.get(0)?),
        address: row.get(1)?,
        repository: row.get(2)?,
        own: row.get(3)?,
        datasets: lines(4)?,
        limits: lines(5)?.iter().filter_map(|text| Limit::from_text(text)).collect(),
        delay: row.get::<_, i64>(6)?.unsigned_abs(),
        paused: row.get(7)?,
    })
}

/// One of them by its address, its key, the beginning of that, or our repository, if only one has it.
pub fn chosen(peers: Vec<Peer>, wanted: &str) -> Result<Peer> {
    let is_it = |peer: &Peer| {
        let key = peer.key.to_string();
        peer.address == wanted || (wanted.len() >= 9 && key.starts_with(wanted)) || peer.own == wanted
    };
    let mut found: Vec<Peer> = peers.into_iter().filter(is_it).collect();
    match (found.pop(), found.is_empty()) {
        (Some(peer), true) => Ok(peer),
        (None, _) => {
            Err(Error::argument(format!("peer `{wanted}`"), "there is none; `nightkeepd peer list` shows them"))
        }
        _ => Err(Error::argument(format!("peer `{wanted}`"), "it could be several; give its key, or the repository")),
    }
}
