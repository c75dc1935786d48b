//! Chunks and the bases of deltas. A hostile chain of deltas ends at a limit: of length, of bases opened, of bytes held.

use super::{ChunkKey, Reader, damaged, lock};
use crate::error::Result;
use crate::id::{BlobId, Reference};
use crate::record::{Kind, Record};
use std::cell::Cell;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

const CHAIN_MAX: usize = 16;
/// Bases opened for one chunk. Chains share bases, so that their number may grow much faster than their length.
const BASES_MAX: usize = 256;
/// Bytes of bases in memory for one chunk.
const HELD_BYTES_MAX: usize = 128 << 20;
/// Records of bases read ahead for the chunks that were asked for together; bases beyond are read one by one.
const AHEAD_BYTES_MAX: usize = 8 << 20;

const AHEAD_AT_ONCE: usize = 32;
/// More links than a delta may have are none that one needs.
const LINKS_MAX: usize = 64;

/// Records of bases that were read together.
pub(super) type Ahead = HashMap<BlobId, Record>;

/// What one chunk has taken so far.
struct Taken<'a> {
    /// With none, every base is proved by itself.
    ahead: Option<&'a Ahead>,
    bases: Cell<usize>,
    held_bytes: Cell<usize>,
}

impl Reader {
    /// The contents of chunks, in the order asked; one that fails leaves others readable. A chunk whose record is lost is
    /// looked for under another id ([`Store::alternate`](crate::store::Store::alternate)); what is accepted has the reference's tag. That
    /// lengths are those of a file's items is for the caller to check. All contents are in memory at once, and those of deltas may be
    /// much larger than their records: bound what you ask for by its content.
    pub fn chunks(&self, links: &[Reference]) -> Result<Vec<Result<Vec<u8>>>> {
        let mut contents = Vec::with_capacity(links.len());
        self.each_chunk(links, &mut |_, content| {
            contents.push(content);
            Ok(())
        })?;
        Ok(contents)
    }

    /// As [`Reader::chunks`], one after the other: `visit` gets each with its position, and the next is opened when it has returned.
    /// So contents are used while the processor's cache has them, and in the memory of those before. Its first error ends this.
    pub fn each_chunk(
        &self,
        links: &[Reference],
        visit: &mut dyn FnMut(usize, Result<Vec<u8>>) -> Result<()>,
    ) -> Result<()> {
        let records = self.read_unproved(&ids_of(links))?;
        let ahead = self.read_ahead(&records)?;
        for (at, (link, record)) in links.iter().zip(records).enumerate() {
            visit(at, self.proved(*link, record, &ahead))?;
        }
        Ok(())
    }

    /// The contents of chunks that are to be bases of a delta, as far as they can be read.
    pub fn bases(&self, ids: &[BlobId]) -> Result<Vec<Option<Arc<Vec<u8>>>>> {
        let mut found: Vec<Option<Arc<Vec<u8>>>> = Vec::with_capacity(ids.len());
        for id in ids {
            found.push(lock(&self.chunks).find(&ChunkKey::Base(*id)));
        }
        let wanted: Vec<(usize, BlobId)> = ids
            .iter()
            .zip(&found)
            .enumerate()
            .filter(|(_, (_, found))| found.is_none())
            .map(|(at, (id, _))| (at, *id))
            .collect();
        let records = self.read(&wanted.iter().map(|(_, id)| *id).collect::<Vec<_>>())?;
        let ahead = self.read_ahead(&records)?;
        for ((at, id), record) in wanted.into_iter().zip(records) {
            let open =
                |record: Record| self.open_chunk(&record, Some(&ahead)).or_else(|_| self.open_chunk(&record, None));
            let opened = record.and_then(open);
            if let Ok(content) = opened {
                let content = Arc::new(content);
                lock(&self.chunks).insert(ChunkKey::Base(id), Arc::clone(&content), content.len());
                if let Some(slot) = found.get_mut(at) {
                    *slot = Some(content);
                }
            }
        }
        Ok(found)
    }

    /// As [`Reader::bases`], of those that are no deltas themselves.
    pub fn whole_bases(&self, ids: &[BlobId]) -> Result<Vec<Option<Arc<Vec<u8>>>>> {
        let whole = |record: Result<Record>| record.ok().filter(|record| record.links.is_empty());
        let open = |record: Option<Record>| self.open_chunk(&record?, None).ok().map(Arc::new);
        Ok(self.read(ids)?.into_iter().map(|record| open(whole(record))).collect())
    }

    /// The content of a chunk, whatever it is a delta of. With bases read `ahead`, its own tag is what proves them.
    pub(super) fn open_chunk(&self, record: &Record, ahead: Option<&Ahead>) -> Result<Vec<u8>> {
        self.open_at(record, 0, &Taken { ahead, bases: Cell::new(0), held_bytes: Cell::new(0) })
    }

    /// Reads the bases of deltas, then the bases of these, each level at once. What cannot be read is left for whoever needs it to say;
    /// what is read is proved by the tags of those deltas.
    pub(super) fn read_ahead(&self, records: &[Result<Record>]) -> Result<Ahead> {
        let mut ahead = Ahead::new();
        let mut bytes = 0;
        let mut wanted: HashSet<BlobId> = records.iter().flatten().flat_map(bases_of).collect();
        for _ in 0..CHAIN_MAX {
            let ids: Vec<BlobId> = wanted.drain().filter(|id| !self.has_base(*id)).collect();
            for ids in ids.chunks(AHEAD_AT_ONCE) {
                if bytes >= AHEAD_BYTES_MAX {
                    return Ok(ahead);
                }
                for record in self.read_unproved(ids)?.into_iter().flatten() {
                    bytes += record.bytes.len();
                    wanted.extend(bases_of(&record).filter(|link| !ahead.contains_key(link)));
                    ahead.insert(record.id, record);
                }
            }
        }
        Ok(ahead)
    }

    fn has_base(&self, id: BlobId) -> bool {
        let chunks = lock(&self.chunks);
        chunks.contains(&ChunkKey::Base(id)) || chunks.contains(&ChunkKey::Between(id))
    }

    fn cached_base(&self, id: BlobId, may_be_between: bool) -> Option<Arc<Vec<u8>>> {
        let mut chunks = lock(&self.chunks);
        let proved = chunks.find(&ChunkKey::Base(id));
        proved.or_else(|| chunks.find(&ChunkKey::Between(id)).filter(|_| may_be_between))
    }

    fn open_at(&self, record: &Record, depth: usize, taken: &Taken<'_>) -> Result<Vec<u8>> {
        let capsule = |id| self.store.capsule(id);
        let base = |base| self.open_base(base, record, depth, taken);
        if depth > 0 && taken.ahead.is_some() {
            return self.opener.open_between(record, &capsule, &base);
        }
        self.opener.open(record, Kind::Chunk, &capsule, &base)
    }

    /// Recurses through [`Reader::open_at`], at most [`CHAIN_MAX`] deep.
    fn open_base(&self, id: BlobId, of: &Record, depth: usize, taken: &Taken<'_>) -> Result<Arc<Vec<u8>>> {
        if depth >= CHAIN_MAX {
            return Err(of.corrupt(format!("its chain of deltas is longer than {CHAIN_MAX}")));
        }
        taken.bases.set(taken.bases.get() + 1);
        if taken.bases.get() > BASES_MAX {
            return Err(of.corrupt(format!("more than {BASES_MAX} bases for one chunk")));
        }
        let held_before = taken.held_bytes.get();
        let content = match self.cached_base(id, taken.ahead.is_some()) {
            Some(content) => content,
            None => {
                let opened = match taken.ahead.and_then(|ahead| ahead.get(&id)) {
                    Some(record) => self.open_at(record, depth + 1, taken),
                    None => self.open_at(&self.record(id)?, depth + 1, taken),
                };
                let content = Arc::new(opened?);
                let key = if taken.ahead.is_some() { ChunkKey::Between(id) } else { ChunkKey::Base(id) };
                lock(&self.chunks).insert(key, Arc::clone(&content), content.len());
                content
            }
        };
        // What the base needed itself is free again.
        taken.held_bytes.set(held_before + content.len());
        if taken.held_bytes.get() > HELD_BYTES_MAX {
            return Err(damaged(id, "the bases of a delta take too much memory"));
        }
        Ok(content)
    }
}

pub(super) fn ids_of(links: &[Reference]) -> Vec<BlobId> {
    links.iter().map(|link| link.id).collect()
}

fn bases_of(record: &Record) -> impl Iterator<Item = BlobId> {
    record.links.iter().copied().take(if record.links.len() <= LINKS_MAX { LINKS_MAX } else { 0 })
}
