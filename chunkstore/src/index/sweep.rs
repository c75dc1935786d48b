//! What garbage collection asks of the index: which blobs are reachable, how full each pack is, and their removal.
//!
//! Memory: two bits a blob and a few words a pack. Every row that a deletion depends on is checked first; a row that
//! does not fit stops the collection before anything is removed.

use super::adopt::insert_pack;
use super::damage::child_numbers;
use super::{Index, MISSING, blob_checksum, change_generation, key, link_checksum, sql};
use crate::error::{Error, Result};
use crate::id::{BlobId, PackId, Tag};
use crate::pack::Trailer;
use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params};
use std::collections::BTreeMap;

/// A set of blob numbers.
pub struct Marks {
    words: Vec<u64>,
    pub count: u64,
}

impl Marks {
    fn new(numbers: i64) -> Marks {
        let words = usize::try_from(numbers / 64 + 1).unwrap_or(usize::MAX);
        Marks { words: vec![0; words], count: 0 }
    }

    /// False if it was there already, or is out of range.
    fn insert(&mut self, no: i64) -> bool {
        let (word, bit) = position(no);
        let Some(word) = self.words.get_mut(word) else { return false };
        let fresh = *word & bit == 0;
        *word |= bit;
        self.count += u64::from(fresh);
        fresh
    }

    pub fn contains(&self, no: i64) -> bool {
        let (word, bit) = position(no);
        self.words.get(word).is_some_and(|word| word & bit != 0)
    }
}

fn position(no: i64) -> (usize, u64) {
    (usize::try_from(no / 64).unwrap_or(usize::MAX), 1 << no.rem_euclid(64))
}

/// What of a pack is reachable.
#[derive(Clone, Copy, Default, Debug)]
pub struct Usage {
    pub live_blobs: u64,
    pub live_bytes: u64,
    pub dead_blobs: u64,
    pub dead_bytes: u64,
    /// Reachable, and lost.
    pub lost_blobs: u64,
}

/// A reachable record of a pack that is to be rewritten.
pub struct LiveRow {
    pub id: BlobId,
    pub offset: u32,
    pub length: u32,
}

impl Index {
    /// Everything reachable from the roots or from a blob of these packs, and the roots that have no row. A lost blob stands for every blob of equal
    /// content. A child without a row has nothing to keep.
    pub fn mark(&self, roots: &[BlobId], packs: &[i64]) -> Result<(Marks, Vec<BlobId>)> {
        let connection = self.lock();
        let last: i64 =
            connection.query_row("SELECT coalesce(max(no), 0) FROM blob", [], |r| r.get(0)).map_err(sql("read"))?;
        let mut marks = Marks::new(last);
        let lost_exist = connection
            .query_row("SELECT EXISTS(SELECT 1 FROM blob WHERE state = 1)", [], |r| r.get(0))
            .map_err(sql("read"))?;
        let mut open: Vec<i64> = Vec::new();
        let mut unknown = Vec::new();
        for root in roots {
            match number_of(&connection, root)? {
                Some(no) => push(&connection, &mut marks, &mut open, no, lost_exist)?,
                None => unknown.push(*root),
            }
        }
        close(&connection, &mut marks, &mut open, lost_exist)?;
        for pack in packs {
            let numbers: Vec<i64> = {
                let mut statement =
                    connection.prepare_cached("SELECT no FROM blob WHERE pack = ?1").map_err(sql("read"))?;
                let rows = statement.query_map([pack], |r| r.get(0)).map_err(sql("read"))?;
                rows.collect::<rusqlite::Result<_>>().map_err(sql("read"))?
            };
            for no in numbers {
                push(&connection, &mut marks, &mut open, no, lost_exist)?;
            }
            close(&connection, &mut marks, &mut open, lost_exist)?;
        }
        Ok((marks, unknown))
    }

    /// How much of each pack is marked, by pack number. Checks every row's checksum.
    pub fn usage(&self, marks: &Marks) -> Result<BTreeMap<i64, Usage>> {
        let connection = self.lock();
        let mut usage: BTreeMap<i64, Usage> = BTreeMap::new();
        let mut statement = connection
            .prepare("SELECT no, id, tag, pack, offset, length, state, checksum FROM blob ORDER BY no")
            .map_err(sql("read"))?;
        let mut rows = statement.query([]).map_err(sql("read"))?;
        let mut marked = 0;
        while let Some(row) = rows.next().map_err(sql("read"))? {
            let read = || -> rusqlite::Result<_> {
                let place: (i64, u32, u32) = (row.get(3)?, row.get(4)?, row.get(5)?);
                Ok((
                    row.get::<_, i64>(0)?,
                    BlobId(row.get(1)?),
                    Tag(row.get(2)?),
                    place,
                    row.get::<_, i64>(6)?,
                    row.get::<_, i64>(7)?,
                ))
            };
            let (no, id, tag, place, state, checksum) = read().map_err(sql("read"))?;
            if blob_checksum(no, &id, &tag, place) != checksum {
                return Err(Error::corrupt("the index", format!("the row of blob {id} is damaged")));
            }
            let pack = usage.entry(place.0).or_default();
            marked += u64::from(marks.contains(no));
            pack.lost_blobs += u64::from(marks.contains(no) && state == MISSING);
            if marks.contains(no) && state != MISSING {
                pack.live_blobs += 1;
                pack.live_bytes += u64::from(place.2);
            } else {
                pack.dead_blobs += 1;
                pack.dead_bytes += u64::from(place.2);
            }
        }
        if marked != marks.count {
            return Err(Error::corrupt("the index", "rows that something links to are gone"));
        }
        Ok(usage)
    }

    /// The marked rows of a pack, by offset: also of blobs that are thought lost, since reading them again tells.
    pub fn live_rows(&self, pack: i64, marks: &Marks) -> Result<Vec<LiveRow>> {
        let connection = self.lock();
        let mut statement = connection
            .prepare_cached("SELECT no, id, offset, length FROM blob WHERE pack = ?1 ORDER BY offset")
            .map_err(sql("read"))?;
        let rows = statement
            .query_map([pack], |r| {
                Ok((r.get::<_, i64>(0)?, LiveRow { id: BlobId(r.get(1)?), offset: r.get(2)?, length: r.get(3)? }))
            })
            .map_err(sql("read"))?;
        let mut live = Vec::new();
        for row in rows {
            let (no, row) = row.map_err(sql("read"))?;
            if marks.contains(no) {
                live.push(row);
            }
        }
        Ok(live)
    }

    /// Records that blobs lie in this pack from now on (which an earlier, interrupted run may have stored); nothing else changes. Durable when it returns.
    pub fn move_blobs(&self, id: PackId, length: u64, stored: i64, trailer: &Trailer) -> Result<()> {
        let write = sql("write");
        let mut connection = self.lock();
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(&write)?;
        let pack = insert_pack(&transaction, id, length, stored, trailer)?;
        for entry in &trailer.entries {
            let no = number_of(&transaction, &entry.id)?
                .ok_or_else(|| Error::corrupt("the index", format!("blob {} has no row", entry.id)))?;
            let checksum = blob_checksum(no, &entry.id, &entry.tag, (pack, entry.offset, entry.length));
            transaction
                .prepare_cached(
                    "UPDATE blob SET pack = ?2, offset = ?3, length = ?4, checksum = ?5, \
                     state = CASE state WHEN 1 THEN 0 ELSE state END WHERE no = ?1",
                )
                .and_then(|mut s| s.execute(params![no, pack, entry.offset, entry.length, checksum]))
                .map_err(&write)?;
        }
        transaction.commit().map_err(write)
    }

    /// Removes the rows of unmarked blobs and of the given packs, in one durable transaction: from then on none of them is known.
    /// A lost blob that is still linked to keeps its row, without a place.
    pub fn sweep(&self, marks: &Marks, packs: &[i64]) -> Result<()> {
        let write = sql("write");
        let mut connection = self.lock();
        connection.execute_batch("PRAGMA synchronous = FULL").map_err(&write)?;
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(&write)?;
        let mut unmarked: Vec<i64> = Vec::new();
        let mut after = 0;
        loop {
            unmarked.clear();
            {
                let mut statement = transaction
                    .prepare_cached("SELECT no FROM blob WHERE no > ?1 ORDER BY no LIMIT 100000")
                    .map_err(&write)?;
                let mut rows = statement.query([after]).map_err(&write)?;
                let start = after;
                while let Some(row) = rows.next().map_err(&write)? {
                    after = row.get(0).map_err(&write)?;
                    if !marks.contains(after) {
                        unmarked.push(after);
                    }
                }
                if after == start {
                    break;
                }
            }
            for no in &unmarked {
                for query in ["DELETE FROM blob WHERE no = ?1", "DELETE FROM link WHERE parent = ?1"] {
                    transaction.prepare_cached(query).and_then(|mut s| s.execute([no])).map_err(&write)?;
                }
            }
        }
        for pack in packs {
            displace_lost(&transaction, *pack)?;
            transaction.execute("DELETE FROM pack WHERE no = ?1", [pack]).map_err(&write)?;
        }
        change_generation(&transaction)?;
        transaction.commit().map_err(&write)?;
        connection.execute_batch("PRAGMA synchronous = NORMAL").map_err(write)
    }

    /// Gives freed pages back and folds the log into the file.
    pub fn compact(&self) -> Result<()> {
        self.lock().query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).map_err(sql("write"))
    }
}

/// Lost blobs of a pack that goes away: remembered without a place.
fn displace_lost(connection: &Connection, pack: i64) -> Result<()> {
    let write = sql("write");
    let lost: Vec<(i64, BlobId, Tag)> = {
        let mut statement =
            connection.prepare_cached("SELECT no, id, tag FROM blob WHERE pack = ?1").map_err(&write)?;
        let rows =
            statement.query_map([pack], |r| Ok((r.get(0)?, BlobId(r.get(1)?), Tag(r.get(2)?)))).map_err(&write)?;
        rows.collect::<rusqlite::Result<_>>().map_err(&write)?
    };
    for (no, id, tag) in lost {
        let checksum = blob_checksum(no, &id, &tag, (0, 0, 0));
        connection
            .execute(
                "UPDATE blob SET pack = 0, offset = 0, length = 0, state = 1, checksum = ?2 WHERE no = ?1",
                [no, checksum],
            )
            .map_err(&write)?;
    }
    Ok(())
}

fn number_of(connection: &Connection, id: &BlobId) -> Result<Option<i64>> {
    connection
        .prepare_cached("SELECT no FROM blob WHERE id_key = ?1 AND id = ?2")
        .and_then(|mut s| s.query_row(params![key(&id.0), &id.0[..]], |r| r.get(0)).optional())
        .map_err(sql("read"))
}

/// The children of a node, or of a delta; None for plain data.
fn checked_children(connection: &Connection, parent: i64) -> Result<Option<Vec<u8>>> {
    let row: Option<(Vec<u8>, i64)> = connection
        .prepare_cached("SELECT children, checksum FROM link WHERE parent = ?1")
        .and_then(|mut s| s.query_row([parent], |r| Ok((r.get(0)?, r.get(1)?))).optional())
        .map_err(sql("read"))?;
    match row {
        Some((children, checksum)) if link_checksum(parent, &children) == checksum => Ok(Some(children)),
        Some(_) => Err(Error::corrupt("the index", "a row of links is damaged")),
        None => Ok(None),
    }
}

/// Marks all that can be reached from the open numbers.
fn close(connection: &Connection, marks: &mut Marks, open: &mut Vec<i64>, lost_exist: bool) -> Result<()> {
    while let Some(parent) = open.pop() {
        let Some(children) = checked_children(connection, parent)? else { continue };
        for child in child_numbers(&children) {
            if child.no == 0 {
                continue;
            }
            if child.has_links || lost_exist {
                push(connection, marks, open, child.no, lost_exist)?;
            } else {
                marks.insert(child.no);
            }
        }
    }
    Ok(())
}

/// Marks a blob and, if it is lost, those of equal content.
fn push(connection: &Connection, marks: &mut Marks, open: &mut Vec<i64>, no: i64, lost_exist: bool) -> Result<()> {
    if !marks.insert(no) {
        return Ok(());
    }
    open.push(no);
    let row: Option<(i64, Vec<u8>, i64)> = connection
        .prepare_cached(
            "SELECT blob.state, blob.tag, coalesce(pack.class, 2) FROM blob LEFT JOIN pack ON pack.no = blob.pack \
             WHERE blob.no = ?1",
        )
        .and_then(|mut s| s.query_row([no], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?))).optional())
        .map_err(sql("read"))?;
    let Some((state, tag, class)) = row else {
        return Err(Error::corrupt("the index", "a row that something links to is gone"));
    };
    if class == 1 && checked_children(connection, no)?.is_none() {
        return Err(Error::corrupt("the index", "a node has no row of links"));
    }
    if lost_exist && state == MISSING {
        let mut statement = connection
            .prepare_cached("SELECT no FROM blob WHERE tag_key = ?1 AND tag = ?2 AND state != 1")
            .map_err(sql("read"))?;
        let same: Vec<i64> = statement
            .query_map(params![key(&tag), tag], |r| r.get(0))
            .and_then(|rows| rows.collect())
            .map_err(sql("read"))?;
        for other in same {
            if marks.insert(other) {
                open.push(other);
            }
        }
    }
    Ok(())
}
