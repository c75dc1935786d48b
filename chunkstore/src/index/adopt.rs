//! Rows from trailers: for packs just written and for packs found at opening.

use super::{INTACT, Index, MISSING, TAINTED, blob_checksum, change_generation, key, link_checksum, set_meta, sql};
use crate::error::{Error, Result};
use crate::id::{BlobId, PackId};
use crate::pack::{PackEntry, Trailer};
use crate::record::Class;
use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params};
use std::collections::HashMap;

impl Index {
    /// Rows of a pack that is durable. Every link must be known already or lie in the pack before its parent.
    pub fn add_pack(&self, id: PackId, length: u64, stored: i64, trailer: &Trailer) -> Result<()> {
        let mut connection = self.lock();
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(sql("write"))?;
        add_blobs(&transaction, id, length, stored, trailer)?;
        add_links(&transaction, trailer)?;
        transaction.commit().map_err(sql("write"))
    }

    /// Rows of packs that were found: first all blobs, then all links, so that the order of packs does not matter.
    /// `trailer` is asked for twice for packs of nodes.
    pub fn adopt(
        &self,
        packs: &[(PackId, u64)],
        stored: i64,
        trailer: &mut dyn FnMut(PackId, u64) -> Result<Option<Trailer>>,
    ) -> Result<()> {
        let mut nodes = Vec::new();
        for &(id, length) in packs {
            let Some(found) = trailer(id, length)? else { continue };
            let mut connection = self.lock();
            let transaction =
                connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(sql("write"))?;
            add_blobs(&transaction, id, length, stored, &found)?;
            transaction.commit().map_err(sql("write"))?;
            if found.entries.iter().any(|entry| !entry.links.is_empty()) || found.class == Class::Node {
                nodes.push((found.class as u8, id, length));
            }
        }
        nodes.sort_by_key(|(class, ..)| *class);
        for (_, id, length) in nodes {
            let Some(found) = trailer(id, length)? else { continue };
            let mut connection = self.lock();
            let transaction =
                connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(sql("write"))?;
            add_links(&transaction, &found)?;
            transaction.commit().map_err(sql("write"))?;
        }
        self.update_taint()
    }

    /// Records that the objects of packs are gone: their blobs are missing from now on.
    pub fn drop_packs(&self, numbers: &[i64]) -> Result<()> {
        let mut connection = self.lock();
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(sql("write"))?;
        let write = sql("write");
        for number in numbers {
            transaction.execute("UPDATE pack SET gone = 1 WHERE no = ?1", [number]).map_err(&write)?;
            transaction.execute("UPDATE blob SET state = ?2 WHERE pack = ?1", [*number, MISSING]).map_err(&write)?;
        }
        change_generation(&transaction)?;
        transaction.commit().map_err(write)
    }
}

fn add_blobs(connection: &Connection, id: PackId, length: u64, stored: i64, trailer: &Trailer) -> Result<()> {
    let write = sql("write");
    let pack = insert_pack(connection, id, length, stored, trailer)?;
    for capsule in &trailer.capsules {
        connection
            .prepare_cached("INSERT OR IGNORE INTO capsule(id, bytes) VALUES(?1, ?2)")
            .and_then(|mut s| s.execute(params![&capsule.id.0[..], capsule.bytes]))
            .map_err(&write)?;
    }
    let mut next: i64 = connection
        .prepare_cached("SELECT coalesce(max(no), 0) + 1 FROM blob")
        .and_then(|mut s| s.query_row([], |r| r.get(0)))
        .map_err(&write)?;
    let mut insert = connection
        .prepare_cached(
            "INSERT INTO blob(no, id_key, tag_key, id, tag, pack, offset, length, state, checksum) \
             VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, 0, ?9)",
        )
        .map_err(&write)?;
    for entry in &trailer.entries {
        if heals_or_repeats(connection, entry, pack)? {
            continue;
        }
        let checksum = blob_checksum(next, &entry.id, &entry.tag, (pack, entry.offset, entry.length));
        insert
            .execute(params![
                next,
                key(&entry.id.0),
                key(&entry.tag.0),
                &entry.id.0[..],
                &entry.tag.0[..],
                pack,
                entry.offset,
                entry.length,
                checksum
            ])
            .map_err(&write)?;
        next += 1;
    }
    Ok(())
}

/// The row of a pack, which an earlier, interrupted run may have made, or which was gone; its number.
pub(super) fn insert_pack(
    connection: &Connection,
    id: PackId,
    length: u64,
    stored: i64,
    trailer: &Trailer,
) -> Result<i64> {
    let length = i64::try_from(length).map_err(|_| Error::corrupt(format!("pack {id}"), "it is too long"))?;
    let record_bytes: i64 = trailer.entries.iter().map(|entry| i64::from(entry.length)).sum();
    connection
        .prepare_cached(
            "INSERT INTO pack(name, length, record_bytes, class, stored) VALUES(?1, ?2, ?3, ?4, ?5) \
             ON CONFLICT(name) DO UPDATE SET length = ?2, gone = 0",
        )
        .and_then(|mut s| s.execute(params![&id.0[..], length, record_bytes, trailer.class as i64, stored]))
        .map_err(sql("write"))?;
    connection
        .prepare_cached("SELECT no FROM pack WHERE name = ?1")
        .and_then(|mut s| s.query_row([&id.0[..]], |r| r.get(0)))
        .map_err(sql("write"))
}

/// The first place of an id wins; a place that was lost is replaced.
fn heals_or_repeats(connection: &Connection, entry: &PackEntry, pack: i64) -> Result<bool> {
    let Some((no, state)) = find(connection, &entry.id)? else { return Ok(false) };
    if state == MISSING {
        let checksum = blob_checksum(no, &entry.id, &entry.tag, (pack, entry.offset, entry.length));
        connection
            .execute(
                "UPDATE blob SET pack = ?2, offset = ?3, length = ?4, state = 0, checksum = ?5 WHERE no = ?1",
                params![no, pack, entry.offset, entry.length, checksum],
            )
            .map_err(sql("write"))?;
    }
    Ok(true)
}

fn find(connection: &Connection, id: &BlobId) -> Result<Option<(i64, i64)>> {
    connection
        .prepare_cached("SELECT no, state FROM blob WHERE id_key = ?1 AND id = ?2")
        .and_then(|mut s| s.query_row(params![key(&id.0), &id.0[..]], |r| Ok((r.get(0)?, r.get(1)?))).optional())
        .map_err(sql("read"))
}

/// A child as the link table writes it: number * 2 + (1 if it may link further). Packs of data come before packs of nodes, so
/// a delta's own links are known here.
fn child_number(connection: &Connection, id: &BlobId) -> Result<Option<(i64, i64)>> {
    connection
        .prepare_cached(
            "SELECT blob.no * 2 + (coalesce(pack.class, 0) OR EXISTS(SELECT 1 FROM link WHERE parent = blob.no)), blob.state \
             FROM blob LEFT JOIN pack ON pack.no = blob.pack WHERE blob.id_key = ?1 AND blob.id = ?2",
        )
        .and_then(|mut s| {
            s.query_row(params![key(&id.0), &id.0[..]], |r| Ok((r.get(0)?, r.get(1)?))).optional()
        })
        .map_err(sql("read"))
}

fn add_links(connection: &Connection, trailer: &Trailer) -> Result<()> {
    let mut seen: HashMap<BlobId, i64> = HashMap::new();
    let mut dangling = false;
    for entry in &trailer.entries {
        if trailer.class == Class::Data && entry.links.is_empty() {
            continue;
        }
        let Some((parent, state)) = find(connection, &entry.id)? else {
            return Err(Error::corrupt("the index", format!("blob {} has no row", entry.id)));
        };
        let mut children = Vec::with_capacity(entry.links.len() * 8);
        let mut whole = true;
        for link in &entry.links {
            let number = match seen.get(link) {
                Some(number) => *number,
                None => {
                    let (number, state) = child_number(connection, link)?.unwrap_or((0, MISSING));
                    whole &= state == INTACT;
                    number
                }
            };
            dangling |= number == 0;
            // The base of a delta may be a delta whose links come later: always look.
            let number = if trailer.class == Class::Data && number != 0 { number | 1 } else { number };
            children.extend_from_slice(&number.to_le_bytes());
        }
        seen.insert(entry.id, parent * 2 + 1);
        insert_link(connection, parent, &children)?;
        if !whole && state == INTACT {
            connection.execute("UPDATE blob SET state = ?2 WHERE no = ?1", [parent, TAINTED]).map_err(sql("write"))?;
        }
    }
    if dangling { set_meta(connection, "dangling", b"1") } else { Ok(()) }
}

fn insert_link(connection: &Connection, parent: i64, children: &[u8]) -> Result<()> {
    connection
        .prepare_cached("INSERT OR REPLACE INTO link(parent, children, checksum) VALUES(?1, ?2, ?3)")
        .and_then(|mut s| s.execute(params![parent, children, link_checksum(parent, children)]))
        .map(|_| ())
        .map_err(sql("write"))
}
