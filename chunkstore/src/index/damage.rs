//! Blobs that are lost, and the nodes above them: neither counts as known, so that the next backup stores them again.

use super::numbers::Numbers;
use super::{Index, MISSING, TAINTED, change_generation, find, head, link_checksum, set_meta, sql};
use crate::error::{Error, Result};
use crate::id::{BlobId, PackId, Tag};
use rusqlite::{Connection, params};
use std::collections::HashSet;

/// While this is set, rows that a sweep removes may be gone without those that link to them.
pub(super) const SWEEPING: &str = "sweeping";

/// A blob whose bytes are lost here.
#[derive(Clone, Debug)]
pub struct LostBlob {
    pub id: BlobId,
    /// None if its pack was gone and forgotten.
    pub pack: Option<PackId>,
    /// The same content is stored under another id: links to the lost one are served by it.
    pub replaced: bool,
}

/// What a pack should hold at a place.
#[derive(Clone, Debug)]
pub struct ExpectedBlob {
    pub id: BlobId,
    pub offset: u32,
    pub length: u32,
    /// Known to be lost, unless it is found there after all.
    pub missing: bool,
}

impl Index {
    /// The rows of a pack, by offset.
    pub fn entries_of(&self, pack: i64) -> Result<Vec<ExpectedBlob>> {
        let state = self.lock();
        let mut statement = state
            .connection
            .prepare_cached("SELECT id, offset, length, state = 1 FROM blob WHERE pack = ?1 ORDER BY offset")
            .map_err(sql("read"))?;
        let rows = statement
            .query_map([pack], |r| {
                Ok(ExpectedBlob { id: BlobId(r.get(0)?), offset: r.get(1)?, length: r.get(2)?, missing: r.get(3)? })
            })
            .map_err(sql("read"))?;
        rows.collect::<rusqlite::Result<_>>().map_err(sql("read"))
    }

    /// Records that these blobs are there after all.
    pub fn set_found(&self, ids: &[BlobId]) -> Result<()> {
        self.set_state(ids, "UPDATE blob SET state = 0 WHERE no = ?1 AND state = 1")?;
        if ids.is_empty() { Ok(()) } else { self.update_taint() }
    }

    /// Records that these blobs are lost, and taints what stands above them. Answers how many were not known to be.
    pub fn set_missing(&self, ids: &[BlobId]) -> Result<usize> {
        let changed = self.set_state(ids, "UPDATE blob SET state = 1 WHERE no = ?1 AND state != 1")?;
        self.update_taint()?;
        Ok(changed)
    }

    fn set_state(&self, ids: &[BlobId], update: &str) -> Result<usize> {
        self.write(|connection, state| {
            let mut changed = 0;
            for id in ids {
                let Some((no, _)) = find(connection, state.condemned.as_deref(), id)? else { continue };
                changed += connection.prepare_cached(update).and_then(|mut s| s.execute([no])).map_err(sql("write"))?;
            }
            Ok(changed)
        })
    }

    /// All lost blobs that have a row.
    pub fn lost(&self) -> Result<Vec<LostBlob>> {
        let state = self.lock();
        let mut statement = state
            .connection
            .prepare(
                "SELECT id, tag, (SELECT name FROM pack WHERE no = blob.pack) FROM blob WHERE state != 0 AND state = 1",
            )
            .map_err(sql("read"))?;
        let rows = statement
            .query_map([], |r| Ok((BlobId(r.get(0)?), Tag(r.get(1)?), r.get::<_, Option<_>>(2)?.map(PackId))))
            .map_err(sql("read"))?;
        let mut lost = Vec::new();
        for row in rows {
            let (id, tag, pack) = row.map_err(sql("read"))?;
            lost.push(LostBlob { id, pack, replaced: is_replaced(&state.connection, &tag)? });
        }
        Ok(lost)
    }

    /// Ids of the nodes from which a lost blob can be reached.
    pub fn tainted(&self) -> Result<HashSet<BlobId>> {
        let state = self.lock();
        let query = "SELECT id FROM blob WHERE state != 0 AND state = 2";
        let mut statement = state.connection.prepare(query).map_err(sql("read"))?;
        let rows = statement.query_map([], |r| r.get(0).map(BlobId)).map_err(sql("read"))?;
        rows.collect::<rusqlite::Result<_>>().map_err(sql("read"))
    }

    /// Taints exactly the nodes above lost blobs that no equal content replaces, and above rows that a sweep which did not
    /// end has removed. Cheap when nothing is lost. Changes the generation if any state changed.
    pub fn update_taint(&self) -> Result<()> {
        self.write(|connection, _| {
            let before = numbers(connection, "SELECT no FROM blob WHERE state != 0 AND state = 2")?;
            let lost = lost_without_replacement(connection)?;
            let dangling = super::meta(connection, "dangling")?.is_some();
            let existing = match super::meta(connection, SWEEPING)? {
                Some(_) => Some(existing(connection)?),
                None => None,
            };
            if before.is_empty() && lost.is_empty() && !dangling && existing.is_none() {
                return Ok(());
            }
            let (tainted, still_dangling) = ancestors(connection, lost, existing.as_ref())?;
            if tainted != before {
                connection
                    .execute("UPDATE blob SET state = 0 WHERE state != 0 AND state = 2", [])
                    .map_err(sql("write"))?;
                for no in &tainted {
                    connection
                        .prepare_cached("UPDATE blob SET state = ?2 WHERE no = ?1 AND state = 0")
                        .and_then(|mut s| s.execute([*no, TAINTED]))
                        .map_err(sql("write"))?;
                }
            }
            if dangling && !still_dangling {
                connection.execute("DELETE FROM meta WHERE key = 'dangling'", []).map_err(sql("write"))?;
            } else if still_dangling {
                set_meta(connection, "dangling", b"1")?;
            }
            change_generation(connection)
        })
    }

    /// Whether a sweep was begun that did not end.
    pub fn was_sweeping(&self) -> Result<bool> {
        Ok(self.meta(SWEEPING)?.is_some())
    }

    /// True if anything is lost, or linked to without a row.
    pub fn has_damage(&self) -> Result<bool> {
        let state = self.lock();
        let lost: bool = state
            .connection
            .prepare_cached("SELECT EXISTS(SELECT 1 FROM blob WHERE state != 0)")
            .and_then(|mut s| s.query_row([], |r| r.get(0)))
            .map_err(sql("read"))?;
        Ok(lost || super::meta(&state.connection, "dangling")?.is_some())
    }
}

fn numbers(connection: &Connection, query: &str) -> Result<HashSet<i64>> {
    let mut statement = connection.prepare_cached(query).map_err(sql("read"))?;
    let rows = statement.query_map([], |r| r.get(0)).map_err(sql("read"))?;
    rows.collect::<rusqlite::Result<_>>().map_err(sql("read"))
}

fn lost_without_replacement(connection: &Connection) -> Result<HashSet<i64>> {
    let mut statement =
        connection.prepare_cached("SELECT no, tag FROM blob WHERE state != 0 AND state = 1").map_err(sql("read"))?;
    let rows = statement.query_map([], |r| Ok((r.get(0)?, Tag(r.get(1)?)))).map_err(sql("read"))?;
    let mut lost = HashSet::new();
    for row in rows {
        let (no, tag) = row.map_err(sql("read"))?;
        if !is_replaced(connection, &tag)? {
            lost.insert(no);
        }
    }
    Ok(lost)
}

/// Whether an intact blob holds this content.
fn is_replaced(connection: &Connection, tag: &Tag) -> Result<bool> {
    connection
        .prepare_cached("SELECT 1 FROM by_tag CROSS JOIN blob USING(no) WHERE head = ?1 AND tag = ?2 AND state = 0")
        .and_then(|mut s| s.exists(params![head(&tag.0), &tag.0[..]]))
        .map_err(sql("read"))
}

/// Blobs that can still be found by their id.
fn existing(connection: &Connection) -> Result<Numbers> {
    let mut statement = connection.prepare("SELECT no FROM by_id CROSS JOIN blob USING(no)").map_err(sql("read"))?;
    let mut rows = statement.query([]).map_err(sql("read"))?;
    let mut existing = Numbers::default();
    while let Some(row) = rows.next().map_err(sql("read"))? {
        existing.insert(row.get(0).map_err(sql("read"))?);
    }
    Ok(existing)
}

/// All nodes above `lost`, above a child without a row (and whether there is such a child) or above one that is not among
/// `existing`: repeats until nothing is added, since parents may stand before their children after a rebuild.
fn ancestors(connection: &Connection, lost: HashSet<i64>, existing: Option<&Numbers>) -> Result<(HashSet<i64>, bool)> {
    let mut reached = lost.clone();
    let mut dangling = false;
    loop {
        let before = reached.len();
        let mut statement = connection
            .prepare_cached("SELECT parent, children, checksum FROM link ORDER BY parent")
            .map_err(sql("read"))?;
        let mut rows = statement.query([]).map_err(sql("read"))?;
        while let Some(row) = rows.next().map_err(sql("read"))? {
            let parent: i64 = row.get(0).map_err(sql("read"))?;
            let children: Vec<u8> = row.get(1).map_err(sql("read"))?;
            let checksum: i64 = row.get(2).map_err(sql("read"))?;
            if link_checksum(parent, &children) != checksum {
                return Err(Error::corrupt("the index", "a row of links is damaged"));
            }
            for child in child_numbers(&children) {
                let is_gone = child.no == 0 || existing.is_some_and(|existing| !existing.contains(child.no));
                dangling |= child.no == 0;
                if is_gone || reached.contains(&child.no) {
                    reached.insert(parent);
                }
            }
        }
        if reached.len() == before {
            break;
        }
    }
    for no in &lost {
        reached.remove(no);
    }
    Ok((reached, dangling))
}

#[derive(Clone, Copy)]
pub(super) struct ChildNumber {
    /// 0 if the blob has no row.
    pub no: i64,
    /// Whether it may link further: a node, or a delta.
    pub has_links: bool,
}

pub(super) fn child_numbers(children: &[u8]) -> impl Iterator<Item = ChildNumber> + '_ {
    children.as_chunks::<8>().0.iter().map(|bytes| {
        let number = i64::from_le_bytes(*bytes);
        ChildNumber { no: number >> 1, has_links: number & 1 == 1 }
    })
}

const _: () = assert!(MISSING == 1 && TAINTED == 2, "queries above spell the states out");
