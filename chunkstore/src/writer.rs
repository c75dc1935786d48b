//! Content into a store, bottom up: chunk, lists over chunks, trees over entries.
//!
//! `BlobWriter` asks before it compresses. Builders split nodes by content (`docs/format.md`, section 9), so that
//! equal content makes equal nodes and a small change makes few new ones.

mod list;

mod tree;

pub use list::ListBuilder;
pub use tree::TreeBuilder;

use crate::codec::Sealer;
use crate::error::{Error, Result};
use crate::id::{BlobId, Reference, Tag};
use crate::record::{Kind, Record};
use crate::store::Store;
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// How many of the records that have come to be are remembered: those that a node names are among the latest.
const FRESH_MAX: usize = 1 << 14;

/// One session's way into a store. Shared by threads.
pub struct BlobWriter<'s> {
    pub store: &'s dyn Store,
    pub sealer: Sealer,
    /// Bytes of content that were new, and of the records they became.
    pub new_bytes: AtomicU64,
    pub added_bytes: AtomicU64,
    /// Of these: chunks that became deltas, their content, and the records they became.
    pub delta_chunks: AtomicU64,
    pub delta_content_bytes: AtomicU64,
    pub delta_bytes: AtomicU64,
    fresh: Mutex<Fresh>,
}

/// Records that this writer has just made, the oldest first.
#[derive(Default)]
struct Fresh {
    ids: HashSet<BlobId>,
    order: VecDeque<BlobId>,
}

impl<'s> BlobWriter<'s> {
    pub fn new(store: &'s dyn Store, sealer: Sealer) -> Self {
        BlobWriter {
            store,
            sealer,
            new_bytes: AtomicU64::new(0),
            added_bytes: AtomicU64::new(0),
            delta_chunks: AtomicU64::new(0),
            delta_content_bytes: AtomicU64::new(0),
            delta_bytes: AtomicU64::new(0),
            fresh: Mutex::default(),
        }
    }

    /// Tag, known?, else compress, seal, put. The answer is what a parent names the content by.
    pub fn put(&self, kind: Kind, content: &[u8], links: &[BlobId]) -> Result<Reference> {
        let stored = self.put_all(kind, &[(content, links)])?.pop();
        stored.ok_or_else(|| Error::invalid("a blob", "it was not stored"))
    }

    /// As [`BlobWriter::put`], of several that do not link to each other: one question for all. In their order.
    pub fn put_all<C: AsRef<[u8]>, L: AsRef<[BlobId]>>(&self, kind: Kind, blobs: &[(C, L)]) -> Result<Vec<Reference>> {
        let tags: Vec<Tag> = blobs.iter().map(|(content, _)| self.sealer.key.tag(kind, content.as_ref())).collect();
        // What names a record that has just come to be was never stored before, or by ourselves, which putting finds out.
        // So what is new costs no question, which over a network is a round trip for each directory.
        let asked: Vec<Tag> = {
            let fresh = self.fresh.lock().unwrap_or_else(PoisonError::into_inner);
            let is_asked = |(_, links): &&(C, L)| !fresh.holds_any(links.as_ref());
            tags.iter().zip(blobs).filter(|(_, blob)| is_asked(blob)).map(|(tag, _)| *tag).collect()
        };
        let mut known: HashMap<Tag, BlobId> = HashMap::new();
        if !asked.is_empty() {
            let answers = self.store.known(&asked)?;
            known.extend(asked.into_iter().zip(answers).filter_map(|(tag, id)| Some((tag, id?))));
        }
        let stored = tags.iter().zip(blobs).map(|(tag, (content, links))| match known.get(tag) {
            Some(id) => Ok(Reference { id: *id, tag: tag.half() }),
            None => self.add(kind, *tag, content.as_ref(), links.as_ref()),
        });
        stored.collect()
    }

    /// As [`BlobWriter::put`], of content that replaces another: it is hardly ever known, and nobody is asked. A store that finds
    /// it all the same answers with what it has.
    pub fn put_changed(&self, kind: Kind, content: &[u8], links: &[BlobId]) -> Result<Reference> {
        self.add(kind, self.sealer.key.tag(kind, content), content, links)
    }

    /// The rest of [`BlobWriter::put`], for who asked in a batch and was told that `tag`, that of the content, is not known.
    pub fn add(&self, kind: Kind, tag: Tag, content: &[u8], links: &[BlobId]) -> Result<Reference> {
        self.put_record(kind, self.sealer.seal(kind, tag, content, links)?, content.len())
    }

    /// A record that this writer's sealer made of a content of this length.
    pub fn put_record(&self, kind: Kind, record: Record, content_len: usize) -> Result<Reference> {
        let (sealed, tag, record_bytes) = (record.id, record.tag, record.bytes.len() as u64);
        let is_delta = kind == Kind::Chunk && !record.links.is_empty();
        let stored = self.store.put(record, &self.sealer.capsule)?;
        // Otherwise another thread stored the same content first, and counted it.
        if stored == sealed {
            self.fresh.lock().unwrap_or_else(PoisonError::into_inner).insert(stored);
            self.new_bytes.fetch_add(content_len as u64, Ordering::Relaxed);
            self.added_bytes.fetch_add(record_bytes, Ordering::Relaxed);
            if is_delta {
                self.delta_chunks.fetch_add(1, Ordering::Relaxed);
                self.delta_content_bytes.fetch_add(content_len as u64, Ordering::Relaxed);
                self.delta_bytes.fetch_add(record_bytes, Ordering::Relaxed);
            }
        }
        Ok(Reference { id: stored, tag: tag.half() })
    }
}

impl Fresh {
    fn holds_any(&self, ids: &[BlobId]) -> bool {
        ids.iter().any(|id| self.ids.contains(id))
    }

    fn insert(&mut self, id: BlobId) {
        if self.order.len() >= FRESH_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.ids.remove(&oldest);
        }
        if self.ids.insert(id) {
            self.order.push_back(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::memory::MemoryStore;

    #[test]
    fn known_content_is_not_stored_again() {
        let store = MemoryStore::new();
        let writer = BlobWriter::new(&*store, store.sealer());
        let content = vec![7; 10_000];
        let link = writer.put(Kind::Chunk, &content, &[]).unwrap();
        let added = writer.added_bytes.load(Ordering::Relaxed);
        assert_eq!(writer.new_bytes.load(Ordering::Relaxed), 10_000);
        assert_eq!(added, store.contents().records[&link.id].bytes.len() as u64);
        assert_eq!(writer.put(Kind::Chunk, &content, &[]).unwrap(), link);
        // Asked too early: the store knows it by now.
        let tag = store.keys.write.tag(Kind::Chunk, &content);
        assert_eq!(link.tag, tag.half());
        assert_eq!(writer.add(Kind::Chunk, tag, &content, &[]).unwrap(), link);
        let later = BlobWriter::new(&*store, store.sealer());
        assert_eq!(later.put(Kind::Chunk, &content, &[]).unwrap(), link);
        assert_eq!(later.added_bytes.load(Ordering::Relaxed), 0);
        assert_eq!(writer.new_bytes.load(Ordering::Relaxed), 10_000);
        assert_eq!(writer.added_bytes.load(Ordering::Relaxed), added);
        assert_eq!(store.take_put(), [link.id]);
    }

    #[test]
    fn what_names_something_new_is_not_asked_for_and_yet_stored_once() {
        let store = MemoryStore::new();
        let writer = BlobWriter::new(&*store, store.sealer());
        let chunk = writer.put(Kind::Chunk, b"new", &[]).unwrap();
        assert_eq!(store.contents().asked, 1);
        let node = writer.put(Kind::List, b"names it", &[chunk.id]).unwrap();
        assert_eq!(store.contents().asked, 1);
        assert_eq!(writer.put(Kind::List, b"names it", &[chunk.id]).unwrap(), node);
        assert_eq!(store.take_put(), [chunk.id, node.id]);
        // Another session finds both.
        let later = BlobWriter::new(&*store, store.sealer());
        assert_eq!(later.put(Kind::Chunk, b"new", &[]).unwrap(), chunk);
        assert_eq!(later.put(Kind::List, b"names it", &[chunk.id]).unwrap(), node);
        assert_eq!(later.added_bytes.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn the_kind_is_part_of_the_name() {
        let store = MemoryStore::new();
        let writer = BlobWriter::new(&*store, store.sealer());
        let content = crate::tree::Tree::Leaf(vec![]).encode();
        let tree = writer.put(Kind::Tree, &content, &[]).unwrap();
        assert_ne!(writer.put(Kind::Chunk, &content, &[]).unwrap(), tree);
    }

    #[test]
    fn links_must_be_stored() {
        let store = MemoryStore::new();
        let writer = BlobWriter::new(&*store, store.sealer());
        assert!(writer.put(Kind::List, b"list", &[BlobId([1; 32])]).is_err());
        assert_eq!(writer.new_bytes.load(Ordering::Relaxed), 0);
    }
}
