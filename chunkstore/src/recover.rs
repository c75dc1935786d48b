//! What opening for writing does after a crash, a lost index, or nothing: numbered steps, one function each.
//!
//! Costs a listing and the trailers of packs that the index does not know; never a read of all data.

use crate::backend::{Backend, ObjectKind, ObjectName};
use crate::error::{Error, Result};
use crate::id::{PackId, RepositoryId};
use crate::index::{Index, PackRow};
use crate::pack::{self, Trailer};
use crate::record::Class;
use std::collections::BTreeMap;
use std::path::Path;

/// How the index was left: `1` in order; `0` perhaps not, since a writer has not ended; or [`DAMAGED`].
const CLEAN: &str = "clean";
const DAMAGED: &[u8] = b"damaged";

/// The index, agreeing with the packs that are there. The caller holds the writer lock; `now` is in seconds since 1970.
pub fn recover(backend: &dyn Backend, catalog: &Path, repository: &RepositoryId, now: i64) -> Result<Index> {
    // 1. An index that cannot be used is made anew.
    let index = open_or_discard(catalog, repository)?;
    // 2. Packs and rows are reconciled.
    match reconcile(backend, &index, repository, now) {
        Err(Error::Corrupt { object, .. }) if object == "the index" => {
            drop(index);
            rebuild(backend, catalog, repository, now)
        }
        Err(e) => Err(e),
        Ok(Reconciled::Agrees) => {
            // 3. From here to a clean end, the next opening looks closer.
            index.set_meta(CLEAN, b"0")?;
            Ok(index)
        }
        Ok(Reconciled::LinksUnsettled) => {
            drop(index);
            rebuild(backend, catalog, repository, now)
        }
    }
}

/// Discards the index and makes it again from the packs' trailers.
pub fn rebuild(backend: &dyn Backend, catalog: &Path, repository: &RepositoryId, now: i64) -> Result<Index> {
    Index::remove(catalog)?;
    let index = Index::open_writer(catalog, repository)?;
    reconcile(backend, &index, repository, now)?;
    index.set_meta(CLEAN, b"0")?;
    Ok(index)
}

/// Makes a usable index again, in place, for when it was found to disagree with the packs.
pub fn refill(backend: &dyn Backend, index: &Index, repository: &RepositoryId, now: i64) -> Result<()> {
    index.clear(repository)?;
    reconcile(backend, index, repository, now)?;
    index.set_meta(CLEAN, b"0")
}

/// Says that the index was left in order, or that it was not and must be made anew.
pub fn mark_clean(index: &Index) -> Result<()> {
    index.set_meta(CLEAN, if index.is_damaged() { DAMAGED } else { b"1" })
}

/// True if the index names exactly the packs that are there and was left in order.
pub fn is_current(backend: &dyn Backend, index: &Index) -> Result<bool> {
    let (known, found) = (index.packs()?, backend.list(ObjectKind::Pack)?);
    let clean = index.meta(CLEAN)?.as_deref() == Some(b"1");
    let mut known: Vec<_> = known.iter().map(|row| (ObjectName::Pack(row.id), row.length)).collect();
    known.sort_unstable();
    Ok(clean && known == found)
}

fn open_or_discard(catalog: &Path, repository: &RepositoryId) -> Result<Index> {
    let opened = Index::open_writer(catalog, repository).and_then(|index| match index.meta(CLEAN)?.as_deref() {
        Some(b"1") => Ok(index),
        Some(DAMAGED) => Err(Error::corrupt("the index", "its last user came upon damage")),
        _ => index.quick_check().map(|()| index),
    });
    match opened {
        Err(Error::Corrupt { .. } | Error::Unsupported { .. }) => {
            Index::remove(catalog)?;
            Index::open_writer(catalog, repository)
        }
        other => other,
    }
}

enum Reconciled {
    Agrees,
    /// Packs appeared that earlier links may have been waiting for.
    LinksUnsettled,
}

fn reconcile(backend: &dyn Backend, index: &Index, repository: &RepositoryId, now: i64) -> Result<Reconciled> {
    // A listing that fails aborts: an empty answer is never believed.
    let mut found: BTreeMap<PackId, u64> = BTreeMap::new();
    for (name, length) in backend.list(ObjectKind::Pack)? {
        if let ObjectName::Pack(id) = name {
            found.insert(id, length);
        }
    }
    let rows = index.packs()?;
    let (kept, gone): (Vec<&PackRow>, Vec<&PackRow>) =
        rows.iter().partition(|row| found.get(&row.id) == Some(&row.length));
    if !gone.is_empty() {
        index.drop_packs(&gone.iter().map(|row| row.no).collect::<Vec<_>>())?;
    }
    for row in kept {
        found.remove(&row.id);
    }
    let unknown: Vec<(PackId, u64)> = found.into_iter().collect();
    if unknown.is_empty() {
        if !gone.is_empty() || index.was_sweeping()? {
            index.update_taint()?;
        }
        return Ok(Reconciled::Agrees);
    }
    let was_dangling = !rows.is_empty() && index.meta("dangling")?.is_some();
    index.adopt(&unknown, now, &mut |id, length| trailer_or_scan(backend, id, length, repository))?;
    Ok(if was_dangling { Reconciled::LinksUnsettled } else { Reconciled::Agrees })
}

/// What a pack holds: from its trailer, or what can still be found in it. None if nothing can.
pub fn trailer_or_scan(
    backend: &dyn Backend,
    id: PackId,
    length: u64,
    repository: &RepositoryId,
) -> Result<Option<Trailer>> {
    match Trailer::read(backend, id, length, repository) {
        Ok(trailer) => return Ok(Some(trailer)),
        Err(e) if e.is_damage() => {}
        Err(Error::Unsupported { .. }) => {}
        Err(e) => return Err(e),
    }
    if length > pack::PACK_BYTES_MAX {
        return Ok(None);
    }
    let bytes = match backend.get(ObjectName::Pack(id)) {
        Err(e) if e.is_damage() => return Ok(None),
        other => other?,
    };
    let entries = pack::scan(&bytes, repository);
    let is_node = entries.iter().any(|entry| !entry.links.is_empty());
    let class = if is_node { Class::Node } else { Class::Data };
    Ok((!entries.is_empty()).then_some(Trailer { class, capsules: Vec::new(), entries }))
}
