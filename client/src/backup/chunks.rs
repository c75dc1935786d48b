//! Pieces of content into the store: all tags are asked for at once, and only what is new is compressed, as a delta if something similar is stored.

use super::compression::Pace;
use super::delta::{Delta, Prepared};
use super::gate::Gate;
use super::halt::Halt;
use chunkstore::codec::{Differ, Level, Sealer};
use chunkstore::id::{BlobId, Reference, Tag};
use chunkstore::list::Slice;
use chunkstore::record::Kind;
use chunkstore::store::Store;
use chunkstore::writer::BlobWriter;
use chunkstore::{Error, Result};
use std::collections::HashMap;
use std::sync::atomic::Ordering;

/// At least, for what stands alone among deltas.
const LEVEL_ALONE: u8 = 3;

pub struct Chunks<'a> {
    pub writer: &'a BlobWriter<'a>,
    pub gate: &'a Gate<'a>,
    pub halt: &'a Halt<'a>,
    pub delta: &'a Delta<'a>,
    pub pace: &'a Pace,
}

/// A content to be stored.
#[derive(Clone, Copy)]
pub struct Piece<'a> {
    pub content: &'a [u8],
    /// What was stored where it comes from.
    pub former: &'a [Slice],
}

impl<'a> From<&'a [u8]> for Piece<'a> {
    fn from(content: &'a [u8]) -> Piece<'a> {
        Piece { content, former: &[] }
    }
}

impl Chunks<'_> {
    /// What names each piece, in order.
    pub fn put(&self, pieces: &[Piece<'_>]) -> Result<Vec<Reference>> {
        let key = &self.writer.sealer.key;
        let tags: Vec<Tag> = pieces.iter().map(|piece| key.tag(Kind::Chunk, piece.content)).collect();
        let known = self.gate.known(&tags)?;
        if known.len() != tags.len() {
            return Err(Error::corrupt("the answer of the repository", "it does not fit the question"));
        }
        let mut references: HashMap<Tag, Reference> = HashMap::new();
        let mut fresh: Vec<(Tag, Piece<'_>)> = Vec::new();
        for ((piece, tag), known) in pieces.iter().zip(&tags).zip(known) {
            match known {
                Some(id) => _ = references.insert(*tag, Reference { id, tag: tag.half() }),
                None if fresh.iter().any(|(other, _)| other == tag) => {}
                None => fresh.push((*tag, *piece)),
            }
        }
        let prepared = self.prepare(&fresh)?;
        let mut differ = Differ::default();
        for ((tag, piece), prepared) in fresh.iter().zip(&prepared) {
            references.insert(*tag, self.put_new(*tag, piece.content, prepared, &mut differ)?);
        }
        let named = tags.iter().map(|tag| references.get(tag).copied());
        named.collect::<Option<_>>().ok_or_else(|| Error::invalid("chunk", "it was not stored"))
    }

    /// What each new piece may become a delta of: what was there before or else what resembles it.
    fn prepare(&self, fresh: &[(Tag, Piece<'_>)]) -> Result<Vec<Prepared>> {
        let mut prepared = Vec::with_capacity(fresh.len());
        for (_, piece) in fresh {
            prepared.push(match piece.former {
                [] => None,
                former => self.delta.prepare_from(piece.content, former, self.gate)?,
            });
        }
        let others = fresh.iter().zip(&prepared).filter(|(_, prepared)| prepared.is_none());
        let others: Vec<&[u8]> = others.map(|((_, piece), _)| piece.content).collect();
        let mut similar = self.delta.prepare(&others, self.gate)?.into_iter();
        Ok(prepared.into_iter().map(|one| one.or_else(|| similar.next()).unwrap_or_default()).collect())
    }

    fn put_new<'b>(
        &self,
        tag: Tag,
        piece: &[u8],
        prepared: &'b Prepared,
        differ: &mut Differ<'b>,
    ) -> Result<Reference> {
        self.halt.check()?;
        if !self.gate.is_dry() {
            let seal = |sealer: &Sealer| match self.level_alone() {
                Some(least) if prepared.bases.is_empty() => sealer.seal_chunk(tag, piece, least),
                _ => sealer.seal_similar(tag, piece, &prepared.bases, prepared.is_last(), differ),
            };
            let record = self.pace.sealing(&self.writer.sealer, seal)?;
            let (sealed, is_delta) = (record.id, !record.links.is_empty());
            let revealed = if self.delta.keeps() { Some(self.writer.sealer.reveal(&record)?) } else { None };
            let reference = self.writer.put_record(Kind::Chunk, record, piece.len())?;
            // Otherwise another thread stored the same content first, and remembers it.
            if reference.id == sealed {
                self.delta.remember(reference.id, tag, prepared, is_delta, revealed.as_deref());
            }
            return Ok(reference);
        }
        let id = BlobId(tag.0);
        if self.gate.pretend(tag, id) {
            self.writer.new_bytes.fetch_add(piece.len() as u64, Ordering::Relaxed);
        }
        Ok(Reference { id, tag: tag.half() })
    }

    /// Where most of what is new becomes deltas, the rest is little of the work and much of what is stored: worth a better search.
    fn level_alone(&self) -> Option<Level> {
        let new = self.writer.new_bytes.load(Ordering::Relaxed);
        let deltas = self.writer.delta_content_bytes.load(Ordering::Relaxed);
        if deltas > 0 && deltas >= new / 4 * 3 { Level::new(LEVEL_ALONE) } else { None }
    }
}
