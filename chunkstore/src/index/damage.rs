//! Blobs that are lost, and the nodes above them: neither counts as known, so that the next backup stores them again.

use super::{Index, MISSING, TAINTED, change_generation, key, link_checksum, set_meta, sql};
use crate::error::{Error, Result};
use crate::id::{BlobId, PackId};
use rusqlite::{Connection, TransactionBehavior, params};
use std::collections::HashSet;

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
        let connection = self.lock();
        let mut statement = connection
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
        {
            let connection = self.lock();
            for id in ids {
                connection
                    .prepare_cached("UPDATE blob SET state = 0 WHERE id_key = ?1 AND id = ?2 AND state = 1")
                    .and_then(|mut s| s.execute(params![key(&id.0), &id.0[..]]))
                    .map_err(sql("write"))?;
            }
        }
        if ids.is_empty() { Ok(()) } else { self.update_taint() }
    }

    /// Records that these blobs are lost, and taints what stands above them. Answers how many were not known to be.
    pub fn set_missing(&self, ids: &[BlobId]) -> Result<usize> {
        let mut changed = 0;
        {
            let mut connection = self.lock();
            let transaction =
                connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(sql("write"))?;
            for id in ids {
                changed += transaction
                    .prepare_cached("UPDATE blob SET state = 1 WHERE id_key = ?1 AND id = ?2 AND state != 1")
                    .and_then(|mut s| s.execute(params![key(&id.0), &id.0[..]]))
                    .map_err(sql("write"))?;
            }
            transaction.commit().map_err(sql("write"))?;
        }
        self.update_taint()?;
        Ok(changed)
    }

    /// All lost blobs that have a row.
    pub fn lost(&self) -> Result<Vec<LostBlob>> {
        let connection = self.lock();
        let mut statement = connection
            .prepare(
                "SELECT id, (SELECT name FROM pack WHERE no = lost.pack), EXISTS(SELECT 1 FROM blob AS other \
                 WHERE other.tag_key = lost.tag_key AND other.tag = lost.tag AND other.state = 0) \
                 FROM blob AS lost WHERE state = 1",
            )
            .map_err(sql("read"))?;
        let rows = statement
            .query_map([], |r| {
                Ok(LostBlob { id: BlobId(r.get(0)?), pack: r.get::<_, Option<_>>(1)?.map(PackId), replaced: r.get(2)? })
            })
            .map_err(sql("read"))?;
        rows.collect::<rusqlite::Result<_>>().map_err(sql("read"))
    }

    /// Ids of the nodes from which a lost blob can be reached.
    pub fn tainted(&self) -> Result<HashSet<BlobId>> {
        let connection = self.lock();
        let mut statement = connection.prepare("SELECT id FROM blob WHERE state = 2").map_err(sql("read"))?;
        let rows = statement.query_map([], |r| r.get(0).map(BlobId)).map_err(sql("read"))?;
        rows.collect::<rusqlite::Result<_>>().map_err(sql("read"))
    }

    /// Taints exactly the nodes above lost blobs that no equal content replaces. Cheap when nothing is lost. Changes the
    /// generation if any state changed.
    pub fn update_taint(&self) -> Result<()> {
        let mut connection = self.lock();
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(sql("write"))?;
        let before = numbers(&transaction, "SELECT no FROM blob WHERE state = 2")?;
        let lost = numbers(&transaction, LOST_WITHOUT_REPLACEMENT)?;
        let dangling = super::meta(&transaction, "dangling")?.is_some();
        if before.is_empty() && lost.is_empty() && !dangling {
            return transaction.commit().map_err(sql("write"));
        }
        let (tainted, still_dangling) = ancestors(&transaction, lost)?;
        if tainted != before {
            transaction.execute("UPDATE blob SET state = 0 WHERE state = 2", []).map_err(sql("write"))?;
            for no in &tainted {
                transaction
                    .prepare_cached("UPDATE blob SET state = ?2 WHERE no = ?1 AND state = 0")
                    .and_then(|mut s| s.execute([*no, TAINTED]))
                    .map_err(sql("write"))?;
            }
        }
        if dangling && !still_dangling {
            transaction.execute("DELETE FROM meta WHERE key = 'dangling'", []).map_err(sql("write"))?;
        } else if still_dangling {
            set_meta(&transaction, "dangling", b"1")?;
        }
        change_generation(&transaction)?;
        transaction.commit().map_err(sql("write"))
    }

    /// True if anything is lost, or linked to without a row.
    pub fn has_damage(&self) -> Result<bool> {
        let connection = self.lock();
        let lost: bool = connection
            .query_row("SELECT EXISTS(SELECT 1 FROM blob WHERE state != 0)", [], |r| r.get(0))
            .map_err(sql("read"))?;
        Ok(lost || super::meta(&connection, "dangling")?.is_some())
    }
}

const LOST_WITHOUT_REPLACEMENT: &str = "SELECT no FROM blob AS lost WHERE state = 1 AND NOT EXISTS(SELECT 1 FROM blob AS other \
    WHERE other.tag_key = lost.tag_key AND other.tag = lost.tag AND other.state = 0)";

fn numbers(connection: &Connection, query: &str) -> Result<HashSet<i64>> {
    let mut statement = connection.prepare_cached(query).map_err(sql("read"))?;
    let rows = statement.query_map([], |r| r.get(0)).map_err(sql("read"))?;
    rows.collect::<rusqlite::Result<_>>().map_err(sql("read"))
}

/// All nodes above `lost` or above a child without a row (and whether there is such a child): repeats until nothing is added,
/// since parents may stand before their children after a rebuild.
fn ancestors(connection: &Connection, lost: HashSet<i64>) -> Result<(HashSet<i64>, bool)> {
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
                dangling |= child.no == 0;
                if child.no == 0 || reached.contains(&child.no) {
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
