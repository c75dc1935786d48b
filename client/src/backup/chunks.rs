//! Pieces of content into the store: all tags are asked for at once, and only what is new is compressed.

use super::gate::Gate;
use super::halt::Halt;
use chunkstore::id::{BlobId, Reference, Tag};
use chunkstore::record::Kind;
use chunkstore::store::Store;
use chunkstore::writer::BlobWriter;
use chunkstore::{Error, Result};
use std::collections::HashMap;
use std::sync::atomic::Ordering;

pub struct Chunks<'a> {
    pub writer: &'a BlobWriter<'a>,
    pub gate: &'a Gate<'a>,
    pub halt: &'a Halt<'a>,
}

impl Chunks<'_> {
    /// What names each piece, in order.
    pub fn put(&self, pieces: &[&[u8]]) -> Result<Vec<Reference>> {
        let key = &self.writer.sealer.key;
        let tags: Vec<Tag> = pieces.iter().map(|piece| key.tag(Kind::Chunk, piece)).collect();
        let known = self.gate.known(&tags)?;
        if known.len() != tags.len() {
            return Err(Error::corrupt("the answer of the repository", "it does not fit the question"));
        }
        let mut fresh: HashMap<Tag, BlobId> = HashMap::new();
        let mut references = Vec::with_capacity(pieces.len());
        for ((piece, tag), known) in pieces.iter().zip(tags).zip(known) {
            let id = match known.or_else(|| fresh.get(&tag).copied()) {
                Some(id) => id,
                None => {
                    let id = self.put_new(tag, piece)?;
                    fresh.insert(tag, id);
                    id
                }
            };
            references.push(Reference { id, tag: tag.half() });
        }
        Ok(references)
    }

    fn put_new(&self, tag: Tag, piece: &[u8]) -> Result<BlobId> {
        self.halt.check()?;
        if self.gate.is_dry() {
            let id = BlobId(tag.0);
            if self.gate.pretend(tag, id) {
                self.writer.new_bytes.fetch_add(piece.len() as u64, Ordering::Relaxed);
            }
            return Ok(id);
        }
        let record = self.writer.sealer.seal(Kind::Chunk, tag, piece, &[])?;
        let (own, len) = (record.id, record.bytes.len() as u64);
        let id = self.gate.put(record, &self.writer.sealer.capsule)?;
        if id == own {
            self.writer.new_bytes.fetch_add(piece.len() as u64, Ordering::Relaxed);
            self.writer.added_bytes.fetch_add(len, Ordering::Relaxed);
        }
        Ok(id)
    }
}
