//! What garbage collection asks of the index: which blobs are reachable, how full each pack is, and their removal.
//!
//! Looking (a [`Survey`]) happens on a connection of its own, on the state of one moment; deciding takes the index's lock
//! for a moment; removing is many short transactions. Memory: a bit a blob and a few words a pack. Every row that a deletion
//! depends on is checked first; a row that does not fit stops the collection before anything is removed.

use super::adopt::{NewPack, insert_pack, replace_place};
use super::damage::{SWEEPING, child_numbers};
use super::lease::{Condemned, Lease};
use super::levels::{self, Heads};
use super::numbers::Numbers;
use super::{Index, MISSING, PackRow, State};
use super::{
    blob_checksum, change_generation, configure, find, head, last_number, link_checksum, packs, set_meta, sql,
};
use crate::error::{Error, Result};
use crate::id::{BlobId, Tag};
use rusqlite::{Connection, OpenFlags, OptionalExtension, params};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Rows that one transaction of a sweep looks at.
const STEP_ROWS: i64 = 20_000;

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

/// The index as it was at one moment, on a connection of its own.
pub struct Survey {
    connection: Connection,
    leases: Vec<Arc<Lease>>,
    pub last: i64,
}

/// Until it is dropped, leases are kept and what was condemned stays hidden.
pub struct Collecting<'a> {
    index: &'a Index,
}

impl Drop for Collecting<'_> {
    fn drop(&mut self) {
        let mut state = self.index.lock();
        state.collecting = false;
        // Rows may be half gone if the sweep failed: then they stay hidden until the next one.
        if !matches!(super::meta(&state.connection, SWEEPING), Ok(Some(_)) | Err(_)) {
            state.condemned = None;
        }
        for lease in std::mem::take(&mut state.released) {
            state.leases.retain(|other| !Arc::ptr_eq(other, &lease));
        }
    }
}

impl Index {
    /// Begins a collection: before the snapshots are listed that are to be its roots. One at a time.
    pub fn collect(&self) -> Result<Collecting<'_>> {
        let mut state = self.lock();
        if state.collecting {
            return Err(Error::invalid("a collection", "another one is under way"));
        }
        state.collecting = true;
        Ok(Collecting { index: self })
    }

    pub fn survey(&self) -> Result<Survey> {
        let leases = self.lock().leases.clone();
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(&self.path, flags).map_err(sql("open"))?;
        configure(&connection)?;
        connection.execute_batch("BEGIN").map_err(sql("read"))?;
        let last = last_number(&connection)?;
        Ok(Survey { connection, leases, last })
    }

    /// Decides: of the blobs up to `last`, what is neither marked nor held by a lease is to go, and is not known from now on.
    pub fn condemn(&self, marks: Numbers, last: i64) -> Result<Arc<Condemned>> {
        let mut state = self.lock();
        let mut marking = Marking::new(&state.connection, marks)?;
        let newest = last_number(&state.connection)?;
        for lease in &state.leases {
            marking.lease(lease, newest)?;
        }
        let condemned = Arc::new(Condemned { live: marking.marks, last });
        self.begin_sweep(&state)?;
        state.condemned = Some(Arc::clone(&condemned));
        Ok(condemned)
    }

    fn begin_sweep(&self, state: &State) -> Result<()> {
        let transaction = state.connection.unchecked_transaction().map_err(sql("write"))?;
        set_meta(&transaction, SWEEPING, b"1")?;
        change_generation(&transaction)?;
        transaction.commit().map_err(sql("write"))
    }

    /// The live rows of a pack, by offset: also of blobs that are thought lost, since reading them again tells.
    pub fn live_rows(&self, pack: i64) -> Result<Vec<LiveRow>> {
        let state = self.lock();
        let mut statement = state
            .connection
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
            if !state.is_condemned(no) {
                live.push(row);
            }
        }
        Ok(live)
    }

    /// Records that blobs lie in this pack from now on (which an earlier, interrupted run may have stored); nothing else
    /// changes.
    pub fn move_blobs(&self, copy: &NewPack, stored: i64) -> Result<()> {
        self.write(|connection, state| {
            let pack = insert_pack(connection, copy.id, copy.length, stored, &copy.trailer)?;
            for entry in &copy.trailer.entries {
                let (no, _) = find(connection, state.condemned.as_deref(), &entry.id)?
                    .ok_or_else(|| Error::corrupt("the index", format!("blob {} has no row", entry.id)))?;
                replace_place(connection, no, entry, pack)?;
            }
            Ok(())
        })
    }

    /// Removes the rows of the condemned and of the given packs, in many transactions, the last of which is durable when
    /// this returns. Tags go first, so that nothing is answered that cannot be linked to any more; a stop in between is
    /// noticed by [`Index::update_taint`]. A lost blob that is still linked to keeps its row, without a place. A pack that a
    /// session stored again meanwhile, byte for byte, has new rows: it stays.
    pub fn sweep(&self, packs: &[i64]) -> Result<()> {
        for heads in [Heads::OfTags, Heads::OfIds] {
            heads.tables().try_for_each(|table| self.sweep_heads(&table))?;
        }
        self.sweep_blobs()?;
        self.lock().connection.execute_batch("PRAGMA synchronous = FULL").map_err(sql("write"))?;
        let ended = self.write(|connection, _| {
            for pack in packs {
                if holds_blobs(connection, *pack)? {
                    continue;
                }
                displace_lost(connection, *pack)?;
                connection.execute("DELETE FROM pack WHERE no = ?1", [pack]).map_err(sql("write"))?;
            }
            connection.execute("DELETE FROM meta WHERE key = ?1", [SWEEPING]).map_err(sql("write"))?;
            change_generation(connection)
        });
        self.lock().connection.execute_batch("PRAGMA synchronous = NORMAL").map_err(sql("write"))?;
        ended
    }

    fn sweep_heads(&self, table: &str) -> Result<()> {
        let next =
            format!("SELECT head, no FROM {table} WHERE (head, no) > (?1, ?2) ORDER BY head, no LIMIT {STEP_ROWS}");
        let delete = format!("DELETE FROM {table} WHERE head = ?1 AND no = ?2");
        let mut after = Some((i64::MIN, i64::MIN));
        while let Some(from) = after {
            after = self.write(|connection, state| {
                let mut statement = connection.prepare_cached(&next).map_err(sql("read"))?;
                let rows =
                    statement.query_map([from.0, from.1], |r| Ok((r.get(0)?, r.get(1)?))).map_err(sql("read"))?;
                let rows: Vec<(i64, i64)> = rows.collect::<rusqlite::Result<_>>().map_err(sql("read"))?;
                let mut removed = 0;
                for (head, no) in rows.iter().filter(|(_, no)| state.is_condemned(*no)) {
                    connection.prepare_cached(&delete).and_then(|mut s| s.execute([head, no])).map_err(sql("write"))?;
                    removed += 1;
                }
                levels::count(connection, table, -removed)?;
                Ok(rows.last().copied())
            })?;
        }
        Ok(())
    }

    fn sweep_blobs(&self) -> Result<()> {
        let next = format!("SELECT no FROM blob WHERE no > ?1 ORDER BY no LIMIT {STEP_ROWS}");
        let mut after = Some(0);
        while let Some(from) = after {
            after = self.write(|connection, state| {
                let mut statement = connection.prepare_cached(&next).map_err(sql("read"))?;
                let rows = statement.query_map([from], |r| r.get(0)).map_err(sql("read"))?;
                let rows: Vec<i64> = rows.collect::<rusqlite::Result<_>>().map_err(sql("read"))?;
                for no in rows.iter().filter(|no| state.is_condemned(**no)) {
                    for query in ["DELETE FROM blob WHERE no = ?1", "DELETE FROM link WHERE parent = ?1"] {
                        connection.prepare_cached(query).and_then(|mut s| s.execute([no])).map_err(sql("write"))?;
                    }
                }
                Ok(rows.last().copied())
            })?;
        }
        Ok(())
    }

    /// Gives freed pages back and folds the log into the file.
    pub fn compact(&self) -> Result<()> {
        self.lock().connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).map_err(sql("write"))
    }
}

impl Survey {
    pub fn packs(&self) -> Result<Vec<PackRow>> {
        packs(&self.connection, false)
    }

    pub fn gone_packs(&self) -> Result<Vec<PackRow>> {
        packs(&self.connection, true)
    }

    /// Everything reachable from the roots, from a blob of these packs or from what a lease holds; and the roots that have no
    /// row. A lost blob stands for every blob of equal content. A child without a row has nothing to keep.
    pub fn mark(&self, roots: &[BlobId], packs: &[i64]) -> Result<(Numbers, Vec<BlobId>)> {
        let mut marking = Marking::new(&self.connection, Numbers::default())?;
        let mut unknown = Vec::new();
        for root in roots {
            let numbers = numbers_of(&self.connection, root)?;
            if numbers.is_empty() {
                unknown.push(*root);
            }
            numbers.into_iter().try_for_each(|no| marking.root(no))?;
        }
        for pack in packs {
            let numbers: Vec<i64> = {
                let mut statement =
                    self.connection.prepare_cached("SELECT no FROM blob WHERE pack = ?1").map_err(sql("read"))?;
                let rows = statement.query_map([pack], |r| r.get(0)).map_err(sql("read"))?;
                rows.collect::<rusqlite::Result<_>>().map_err(sql("read"))?
            };
            numbers.into_iter().try_for_each(|no| marking.root(no))?;
        }
        for lease in &self.leases {
            marking.lease(lease, self.last)?;
        }
        Ok((marking.marks, unknown))
    }

    /// Bytes of all records that can be reached from the roots, whatever leases hold.
    pub fn held_bytes(&self, roots: &[BlobId]) -> Result<u64> {
        let mut marking = Marking::new(&self.connection, Numbers::default())?;
        for root in roots {
            numbers_of(&self.connection, root)?.into_iter().try_for_each(|no| marking.root(no))?;
        }
        let mut statement = self.connection.prepare("SELECT no, length FROM blob ORDER BY no").map_err(sql("read"))?;
        let mut rows = statement.query([]).map_err(sql("read"))?;
        let mut bytes = 0;
        while let Some(row) = rows.next().map_err(sql("read"))? {
            if marking.marks.contains(row.get(0).map_err(sql("read"))?) {
                bytes += row.get::<_, i64>(1).map_err(sql("read"))?.unsigned_abs();
            }
        }
        Ok(bytes)
    }

    /// How much of each pack is marked, by pack number. Checks every row's checksum.
    pub fn usage(&self, marks: &Numbers) -> Result<BTreeMap<i64, Usage>> {
        let mut usage: BTreeMap<i64, Usage> = BTreeMap::new();
        let mut statement = self
            .connection
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
            let is_marked = marks.contains(no);
            marked += u64::from(is_marked);
            pack.lost_blobs += u64::from(is_marked && state == MISSING);
            if is_marked && state != MISSING {
                pack.live_blobs += 1;
                pack.live_bytes += u64::from(place.2);
            } else {
                pack.dead_blobs += 1;
                pack.dead_bytes += u64::from(place.2);
            }
        }
        if marked != marks.count_through(self.last) {
            return Err(Error::corrupt("the index", "rows that something links to are gone"));
        }
        Ok(usage)
    }
}

/// Marks all that can be reached from what is given.
struct Marking<'a> {
    connection: &'a Connection,
    marks: Numbers,
    open: Vec<i64>,
    lost_exist: bool,
}

impl<'a> Marking<'a> {
    fn new(connection: &'a Connection, marks: Numbers) -> Result<Marking<'a>> {
        let lost_exist = connection
            .query_row("SELECT EXISTS(SELECT 1 FROM blob WHERE state != 0 AND state = 1)", [], |r| r.get(0))
            .map_err(sql("read"))?;
        Ok(Marking { connection, marks, open: Vec::new(), lost_exist })
    }

    fn root(&mut self, no: i64) -> Result<()> {
        self.push(no)?;
        self.close()
    }

    /// What a lease holds, and what was stored since it began, up to `last`.
    fn lease(&mut self, lease: &Lease, last: i64) -> Result<()> {
        let held: Vec<i64> = lease.numbers().iter().filter(|no| *no <= last && !self.marks.contains(*no)).collect();
        for no in held.into_iter().chain(lease.from..=last) {
            if !self.marks.contains(no) && self.exists(no)? {
                self.root(no)?;
            }
        }
        Ok(())
    }

    fn exists(&self, no: i64) -> Result<bool> {
        let mut statement = self.connection.prepare_cached("SELECT 1 FROM blob WHERE no = ?1").map_err(sql("read"))?;
        statement.exists([no]).map_err(sql("read"))
    }

    fn close(&mut self) -> Result<()> {
        while let Some(parent) = self.open.pop() {
            let Some(children) = checked_children(self.connection, parent)? else { continue };
            for child in child_numbers(&children) {
                if child.no == 0 {
                    continue;
                }
                if child.has_links || self.lost_exist {
                    self.push(child.no)?;
                } else {
                    self.marks.insert(child.no);
                }
            }
        }
        Ok(())
    }

    /// Marks a blob and, if it is lost, those of equal content.
    fn push(&mut self, no: i64) -> Result<()> {
        if !self.marks.insert(no) {
            return Ok(());
        }
        self.open.push(no);
        let row: Option<(i64, [u8; 32], i64)> = self
            .connection
            .prepare_cached(
                "SELECT blob.state, blob.tag, coalesce(pack.class, 2) FROM blob LEFT JOIN pack ON pack.no = blob.pack \
                 WHERE blob.no = ?1",
            )
            .and_then(|mut s| s.query_row([no], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?))).optional())
            .map_err(sql("read"))?;
        let Some((state, tag, class)) = row else {
            return Err(Error::corrupt("the index", "a row that something links to is gone"));
        };
        if class == 1 && checked_children(self.connection, no)?.is_none() {
            return Err(Error::corrupt("the index", "a node has no row of links"));
        }
        if self.lost_exist && state == MISSING {
            let mut statement = self
                .connection
                .prepare_cached(
                    "SELECT no FROM by_tag CROSS JOIN blob USING(no) WHERE head = ?1 AND tag = ?2 AND state != 1",
                )
                .map_err(sql("read"))?;
            let same: Vec<i64> = statement
                .query_map(params![head(&tag), &tag[..]], |r| r.get(0))
                .and_then(|rows| rows.collect())
                .map_err(sql("read"))?;
            for other in same {
                if self.marks.insert(other) {
                    self.open.push(other);
                }
            }
        }
        Ok(())
    }
}

fn holds_blobs(connection: &Connection, pack: i64) -> Result<bool> {
    connection
        .prepare_cached("SELECT 1 FROM blob WHERE pack = ?1 AND state != ?2")
        .and_then(|mut s| s.exists([pack, MISSING]))
        .map_err(sql("read"))
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

/// All rows of an id: more than one only while a collection removes one of them.
fn numbers_of(connection: &Connection, id: &BlobId) -> Result<Vec<i64>> {
    let mut statement = connection
        .prepare_cached("SELECT no FROM by_id CROSS JOIN blob USING(no) WHERE head = ?1 AND id = ?2")
        .map_err(sql("read"))?;
    let rows = statement.query_map(params![head(&id.0), &id.0[..]], |r| r.get(0)).map_err(sql("read"))?;
    rows.collect::<rusqlite::Result<_>>().map_err(sql("read"))
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
