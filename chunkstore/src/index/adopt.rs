//! Rows from trailers: for packs just written and for packs found at opening.
//!
//! Many packs at a time, because what costs is the number of pages that a transaction touches.

use super::levels::{self, Heads};
use super::{INTACT, Index, MISSING, State, TAINTED};
use super::{blob_checksum, change_generation, find, fit_cache, head, link_checksum, set_meta, sql};
use crate::error::{Error, Result};
use crate::id::{BlobId, PackId};
use crate::pack::{PackEntry, Trailer};
use crate::record::Class;
use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params};
use std::collections::HashMap;

/// So many rows are worth a transaction; its memory is about 200 bytes a row.
pub const BATCH_ROWS: usize = 1 << 17;

/// A durable pack that has no rows yet.
pub struct NewPack {
    pub id: PackId,
    pub length: u64,
    pub trailer: Trailer,
}

/// Numbers of blobs that were given rows in this transaction, and whether they may link further.
type Numbered = HashMap<BlobId, (i64, bool)>;

impl Index {
    /// Rows of packs that are durable, in one transaction. Every link must be known already, or lie in a pack before its
    /// parent's or in the same one before its parent.
    pub fn add_packs(&self, packs: &[NewPack], stored: i64) -> Result<()> {
        self.write(|connection, state| {
            let numbered = add_blobs(connection, state, packs, stored)?;
            packs.iter().try_for_each(|pack| add_links(connection, state, &pack.trailer, &numbered))
        })
    }

    /// Rows of packs that were found: first all blobs, then all links, so that the order of packs does not matter.
    /// `trailer` is asked for twice for packs with links.
    pub fn adopt(
        &self,
        packs: &[(PackId, u64)],
        stored: i64,
        trailer: &mut dyn FnMut(PackId, u64) -> Result<Option<Trailer>>,
    ) -> Result<()> {
        let mut linking = Vec::new();
        let mut batch = Vec::new();
        let mut rows = 0;
        for &(id, length) in packs {
            let Some(trailer) = trailer(id, length)? else { continue };
            if trailer.entries.iter().any(|entry| !entry.links.is_empty()) || trailer.class == Class::Node {
                linking.push((trailer.class as u8, id, length));
            }
            rows += trailer.entries.len();
            batch.push(NewPack { id, length, trailer });
            if rows >= BATCH_ROWS {
                self.write(|connection, state| add_blobs(connection, state, &batch, stored))?;
                batch.clear();
                rows = 0;
            }
        }
        self.write(|connection, state| add_blobs(connection, state, &batch, stored))?;
        linking.sort_by_key(|(class, ..)| *class);
        for (_, id, length) in linking {
            let Some(trailer) = trailer(id, length)? else { continue };
            self.write(|connection, state| add_links(connection, state, &trailer, &Numbered::new()))?;
        }
        self.update_taint()
    }

    /// Records that the objects of packs are gone: their blobs are missing from now on.
    pub fn drop_packs(&self, numbers: &[i64]) -> Result<()> {
        self.write(|connection, _| {
            let write = sql("write");
            for number in numbers {
                connection.execute("UPDATE pack SET gone = 1 WHERE no = ?1", [number]).map_err(&write)?;
                connection.execute("UPDATE blob SET state = ?2 WHERE pack = ?1", [*number, MISSING]).map_err(&write)?;
            }
            change_generation(connection)
        })
    }

    /// One transaction.
    pub(super) fn write<T>(&self, rows: impl FnOnce(&Connection, &State) -> Result<T>) -> Result<T> {
        let mut state = self.lock();
        state.forget();
        let transaction = rusqlite::Transaction::new_unchecked(&state.connection, TransactionBehavior::Immediate)
            .map_err(sql("write"))?;
        let done = state.watch(rows(&transaction, &state))?;
        transaction.commit().map_err(sql("write"))?;
        fit_cache(&state.connection)?;
        Ok(done)
    }
}

fn add_blobs(connection: &Connection, state: &State, packs: &[NewPack], stored: i64) -> Result<Numbered> {
    let write = sql("write");
    let mut ids: Vec<&BlobId> = packs.iter().flat_map(|pack| &pack.trailer.entries).map(|entry| &entry.id).collect();
    ids.sort_by_key(|id| head(&id.0));
    let mut known: HashMap<&BlobId, (i64, i64)> = HashMap::new();
    for id in ids {
        if let Some(found) = find(connection, state.condemned.as_deref(), id)? {
            known.insert(id, found);
        }
    }
    let mut next = state.next.get();
    let mut numbered = Numbered::new();
    let (mut by_id, mut by_tag) = (Vec::new(), Vec::new());
    for NewPack { id, length, trailer } in packs {
        let pack = insert_pack(connection, *id, *length, stored, trailer)?;
        add_capsules(connection, trailer)?;
        let mut insert = connection
            .prepare_cached(
                "INSERT INTO blob(no, id, tag, pack, offset, length, state, checksum) VALUES(?1, ?2, ?3, ?4, ?5, ?6, 0, ?7)",
            )
            .map_err(&write)?;
        for entry in &trailer.entries {
            // The first place of an id wins; a place that was lost is replaced.
            match known.get_mut(&entry.id) {
                Some((no, state)) if *state == MISSING => {
                    replace_place(connection, *no, entry, pack)?;
                    *state = INTACT;
                    continue;
                }
                Some(_) => continue,
                None if numbered.contains_key(&entry.id) => continue,
                None => {}
            }
            let checksum = blob_checksum(next, &entry.id, &entry.tag, (pack, entry.offset, entry.length));
            insert
                .execute(params![next, &entry.id.0[..], &entry.tag.0[..], pack, entry.offset, entry.length, checksum])
                .map_err(&write)?;
            by_id.push((head(&entry.id.0), next));
            by_tag.push((head(&entry.tag.0), next));
            numbered.insert(entry.id, (next, trailer.class == Class::Node || !entry.links.is_empty()));
            next += 1;
        }
    }
    state.next.set(next);
    levels::insert(connection, Heads::OfIds, by_id)?;
    levels::insert(connection, Heads::OfTags, by_tag)?;
    Ok(numbered)
}

fn add_capsules(connection: &Connection, trailer: &Trailer) -> Result<()> {
    for capsule in &trailer.capsules {
        connection
            .prepare_cached("INSERT OR IGNORE INTO capsule(id, bytes) VALUES(?1, ?2)")
            .and_then(|mut s| s.execute(params![&capsule.id.0[..], capsule.bytes]))
            .map_err(sql("write"))?;
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

/// The blob lies here now, whole.
pub(super) fn replace_place(connection: &Connection, no: i64, entry: &PackEntry, pack: i64) -> Result<()> {
    let checksum = blob_checksum(no, &entry.id, &entry.tag, (pack, entry.offset, entry.length));
    connection
        .prepare_cached(
            "UPDATE blob SET pack = ?2, offset = ?3, length = ?4, checksum = ?5, \
             state = CASE state WHEN 1 THEN 0 ELSE state END WHERE no = ?1",
        )
        .and_then(|mut s| s.execute(params![no, pack, entry.offset, entry.length, checksum]))
        .map(|_| ())
        .map_err(sql("write"))
}

/// A child as the link table writes it: number * 2 + (1 if it may link further). Packs of data come before packs of nodes, so
/// a delta's own links are known here.
fn child_number(connection: &Connection, no: i64) -> Result<i64> {
    let has_links: bool = connection
        .prepare_cached(
            "SELECT coalesce(pack.class, 0) OR EXISTS(SELECT 1 FROM link WHERE parent = blob.no) \
             FROM blob LEFT JOIN pack ON pack.no = blob.pack WHERE blob.no = ?1",
        )
        .and_then(|mut s| s.query_row([no], |r| r.get(0)).optional())
        .map_err(sql("read"))?
        .unwrap_or(true);
    Ok(no * 2 + i64::from(has_links))
}

fn add_links(connection: &Connection, state: &State, trailer: &Trailer, numbered: &Numbered) -> Result<()> {
    let mut seen: HashMap<BlobId, i64> = HashMap::new();
    let mut dangling = false;
    for entry in &trailer.entries {
        if trailer.class == Class::Data && entry.links.is_empty() {
            continue;
        }
        let fresh = numbered.get(&entry.id).map(|(no, _)| (*no, INTACT));
        let Some((parent, parent_state)) =
            fresh.map_or_else(|| find(connection, state.condemned.as_deref(), &entry.id), |fresh| Ok(Some(fresh)))?
        else {
            return Err(Error::corrupt("the index", format!("blob {} has no row", entry.id)));
        };
        let mut children = Vec::with_capacity(entry.links.len() * 8);
        let mut whole = true;
        for link in &entry.links {
            let is_base = trailer.class == Class::Data;
            let number = match (seen.get(link), numbered.get(link)) {
                (Some(number), _) => *number,
                (None, Some((no, has_links))) => no * 2 + i64::from(*has_links),
                (None, None) => match find(connection, state.condemned.as_deref(), link)? {
                    Some((no, state)) => {
                        whole &= state == INTACT;
                        if is_base { no * 2 } else { child_number(connection, no)? }
                    }
                    None => {
                        whole = false;
                        0
                    }
                },
            };
            dangling |= number == 0;
            // The base of a delta may be a delta whose links come later: always look.
            let number = if is_base && number != 0 { number | 1 } else { number };
            children.extend_from_slice(&number.to_le_bytes());
        }
        seen.insert(entry.id, parent * 2 + 1);
        insert_link(connection, parent, &children)?;
        if !whole && parent_state == INTACT {
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
