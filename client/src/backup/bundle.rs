//! Several small files as one chunk, a *bundle*, of which each is a slice: compressed together they take a third less than alone, and one
//! record has room for many (`docs/decisions/012-small-files-share-chunks.md`).
//!
//! A content that this run has seen, or that its file had before, is named where it lies and not stored again.

use super::chunks::Chunks;
use chunkstore::Result;
use chunkstore::id::{BlobId, HalfTag, Reference};
use chunkstore::list::{Item, Slice};
use chunkstore::record::Kind;
use chunkstore::store::Store;
use chunkstore::tree::{Content, Entry, Node};
use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// So many contents of a run are remembered.
const REMEMBERED_MAX: usize = 1 << 18;

/// Small contents that this run has stored or found stored, by their tags.
#[derive(Default)]
pub struct Slices {
    known: Mutex<HashMap<HalfTag, Slice>>,
}

/// A small file: its content, and its encoded entry of the last run.
pub struct Small<'a> {
    pub content: &'a [u8],
    pub previous: Option<&'a [u8]>,
}

/// Where a small content is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// It is stored.
    Slice(Slice),
    /// This part of the bundle that is to be stored.
    Part(usize),
    /// It is to be stored by itself.
    Alone,
}

/// A chunk in the making.
#[derive(Default)]
pub struct Bundle {
    pub bytes: Vec<u8>,
    /// Where the former contents of its files are.
    pub former: Vec<Slice>,
    parts: Vec<Part>,
}

struct Part {
    offset: usize,
    len: usize,
    tag: HalfTag,
}

impl Bundle {
    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    fn push(&mut self, content: &[u8], tag: HalfTag) -> usize {
        self.parts.push(Part { offset: self.bytes.len(), len: content.len(), tag });
        self.bytes.extend_from_slice(content);
        self.parts.len() - 1
    }

    /// A part, once the bundle is stored.
    pub fn slice(&self, part: usize, link: Reference) -> Option<Slice> {
        let Part { offset, len, tag } = self.parts.get(part)?;
        Some(Slice { len: *len as u64, offset: *offset as u64, link, tag: *tag })
    }
}

impl Slices {
    /// Where each of these contents is, in order, and what of them is to be stored together.
    pub fn place(&self, files: &[Small<'_>], chunks: &Chunks<'_>) -> Result<(Vec<Place>, Bundle)> {
        let tag = |file: &Small<'_>| chunks.writer.sealer.key.tag(Kind::Chunk, file.content).half();
        let tags: Vec<HalfTag> = files.iter().map(tag).collect();
        let former: Vec<Former> = files.iter().map(Former::of).collect();
        let kept = self.find(&tags, &former, chunks)?;
        let (mut bundle, mut parts) = (Bundle::default(), HashMap::new());
        let fresh = files.iter().zip(&tags).filter(|(_, tag)| !kept.contains_key(*tag));
        bundle.bytes.reserve(fresh.map(|(file, _)| file.content.len()).sum());
        let places: Vec<Place> = files
            .iter()
            .zip(tags.iter().zip(&former))
            .map(|(file, (tag, former))| match (kept.get(tag), former) {
                (Some(slice), _) => Place::Slice(*slice),
                // What it becomes resembles what it was.
                (None, Former::Other) => Place::Alone,
                (None, former) => Place::Part(*parts.entry(*tag).or_insert_with(|| {
                    if let Former::Slice(former) = former {
                        bundle.former.push(*former);
                    }
                    bundle.push(file.content, *tag)
                })),
            })
            .collect();
        // What changed by itself still becomes a delta of what it was.
        if bundle.parts.len() > 1 || !bundle.former.is_empty() {
            return Ok((places, bundle));
        }
        // One new content is no bundle.
        let alone = |place| if matches!(place, Place::Part(_)) { Place::Alone } else { place };
        Ok((places.into_iter().map(alone).collect(), Bundle::default()))
    }

    /// The contents that are stored as slices.
    fn find(&self, tags: &[HalfTag], former: &[Former], chunks: &Chunks<'_>) -> Result<HashMap<HalfTag, Slice>> {
        let mut found = HashMap::new();
        let mut perhaps: Vec<Slice> = Vec::new();
        {
            let known = lock(&self.known);
            for (tag, former) in tags.iter().zip(former) {
                match (known.get(tag), former) {
                    (Some(slice), _) => _ = found.insert(*tag, *slice),
                    (None, Former::Slice(slice)) if slice.tag == *tag => perhaps.push(*slice),
                    (None, _) => {}
                }
            }
        }
        if perhaps.is_empty() {
            return Ok(found);
        }
        let ids: Vec<BlobId> = perhaps.iter().map(|slice| slice.link.id).collect::<HashSet<_>>().into_iter().collect();
        let present = chunks.gate.present(&ids)?;
        let present: HashSet<BlobId> = ids.into_iter().zip(present).filter_map(|(id, is)| is.then_some(id)).collect();
        perhaps.retain(|slice| present.contains(&slice.link.id));
        self.remember(&perhaps);
        found.extend(perhaps.into_iter().map(|slice| (slice.tag, slice)));
        Ok(found)
    }

    /// Slices of what is stored.
    pub fn remember(&self, slices: &[Slice]) {
        let mut known = lock(&self.known);
        let room = REMEMBERED_MAX.saturating_sub(known.len());
        known.extend(slices.iter().take(room).map(|slice| (slice.tag, *slice)));
    }
}

/// What a file was in the last run.
enum Former {
    Slice(Slice),
    /// Chunks of its own, for instance.
    Other,
    Nothing,
}

impl Former {
    fn of(file: &Small<'_>) -> Former {
        let Some(previous) = file.previous else { return Former::Nothing };
        match Entry::decode(previous, "change cache").map(|entry| entry.node) {
            Ok(Node::File(Content::Items { items, .. })) => match items.as_slice() {
                [Item::Slice(slice)] => Former::Slice(*slice),
                _ => Former::Other,
            },
            // Empty or inline: it may as well be new.
            _ => Former::Nothing,
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
