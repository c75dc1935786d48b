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
        let mut fresh: HashMap<Tag, Reference> = HashMap::new();
        let mut references = Vec::with_capacity(pieces.len());
        for ((piece, tag), known) in pieces.iter().zip(tags).zip(known) {
            let known = known.map(|id| Reference { id, tag: tag.half() });
            let reference = match known.or_else(|| fresh.get(&tag).copied()) {
                Some(reference) => reference,
                None => {
                    let reference = self.put_new(tag, piece)?;
                    fresh.insert(tag, reference);
                    reference
                }
            };
            references.push(reference);
        }
        Ok(references)
    }

    fn put_new(&self, tag: Tag, piece: &[u8]) -> Result<Reference> {
        self.halt.check()?;
        if !self.gate.is_dry() {
            return self.writer.add(Kind::Chunk, tag, piece, &[]);
        }
        let id = BlobId(tag.0);
        if self.gate.pretend(tag, id) {
            self.writer.new_bytes.fetch_add(piece.len() as u64, Ordering::Relaxed);
        }
        Ok(Reference { id, tag: tag.half() })
    }
}
