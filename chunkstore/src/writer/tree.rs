//! A directory's entries into tree nodes. Holds one open node per level, as bytes, whatever the size of the directory.

use super::BlobWriter;
use crate::coding::Encoder;
use crate::error::{Error, Result};
use crate::id::{BlobId, Reference};
use crate::list::{LEVELS_MAX, NODE_ITEMS_MAX};
use crate::record::{CONTENT_BYTES_MAX, Kind, LINKS_MAX};
use crate::tree::{Entry, encode_child, encode_head};

const SPLIT_BYTES_MIN: usize = 16 << 10;
const SPLIT_BYTES_MAX: usize = 256 << 10;
/// Level and count.
const HEAD_BYTES_MAX: usize = 11;

/// Collects a directory's entries in ascending order of names; writes tree nodes as they fill.
#[derive(Default)]
pub struct TreeBuilder {
    last_name: Vec<u8>,
    /// The open node of each level, lowest first. Only a lower one than the highest may be empty.
    levels: Vec<Open>,
}

impl TreeBuilder {
    pub fn new() -> Self {
        TreeBuilder::default()
    }

    /// `entry` is an encoded entry ([`Entry::encode`]), `links` what it names, in any order. All of it is checked, since
    /// both may come from a cache.
    pub fn push(&mut self, name: &[u8], entry: &[u8], links: &[BlobId], writer: &BlobWriter<'_>) -> Result<()> {
        check(name, entry, links)?;
        if self.last_name.as_slice() >= name {
            return Err(refused(name, "it is out of order"));
        }
        self.last_name = name.to_vec();
        if self.levels.first().is_some_and(|leaf| leaf.has_no_room(entry.len(), links.len())) {
            self.close(0, writer)?;
        }
        let leaf = open_node(&mut self.levels, 0)?;
        leaf.append(name, links, |e| {
            e.raw(entry);
        });
        if leaf.closes(name, writer) { self.close(0, writer) } else { Ok(()) }
    }

    /// The root of the directory.
    pub fn finish(self, writer: &BlobWriter<'_>) -> Result<Reference> {
        let mut below: Option<(Vec<u8>, Reference)> = None;
        let levels = self.levels.len();
        for (level, mut open) in (0u8..).zip(self.levels) {
            if let Some((name, link)) = below.take() {
                open.append_child(&name, link);
            }
            below = match (open.count, open.first_child) {
                (0, _) => None,
                // The highest node would have but one child.
                (1, Some(child)) if usize::from(level) + 1 == levels => Some((open.first_name, child)),
                _ => Some(open.put(level, writer)?),
            };
        }
        match below {
            Some((_, root)) => Ok(root),
            None => Open::default().put(0, writer).map(|(_, root)| root),
        }
    }

    /// Writes the open node of a level, and of those above that close by it.
    fn close(&mut self, mut level: u8, writer: &BlobWriter<'_>) -> Result<()> {
        loop {
            let (name, link) = std::mem::take(open_node(&mut self.levels, level)?).put(level, writer)?;
            level += 1;
            let above = open_node(&mut self.levels, level)?;
            above.append_child(&name, link);
            if !above.closes(&name, writer) {
                return Ok(());
            }
        }
    }
}

/// A node that takes entries or children.
#[derive(Default)]
struct Open {
    first_name: Vec<u8>,
    /// None at level 0.
    first_child: Option<Reference>,
    count: usize,
    body: Encoder,
    /// With duplicates.
    links: Vec<BlobId>,
}

impl Open {
    fn append(&mut self, name: &[u8], links: &[BlobId], encode: impl FnOnce(&mut Encoder)) {
        if self.count == 0 {
            self.first_name = name.to_vec();
        }
        self.count += 1;
        encode(&mut self.body);
        self.links.extend_from_slice(links);
    }

    fn append_child(&mut self, name: &[u8], link: Reference) {
        self.first_child = self.first_child.or(Some(link));
        self.append(name, &[link.id], |e| encode_child(name, &link, e));
    }

    /// By the rule of the format, after the entry or child of this name.
    fn closes(&self, name: &[u8], writer: &BlobWriter<'_>) -> bool {
        let len = self.body.bytes.len();
        len >= SPLIT_BYTES_MAX || len >= SPLIT_BYTES_MIN && writer.sealer.key.splits(name)
    }

    /// True if with so much more it would break a limit of the format.
    fn has_no_room(&self, bytes: usize, links: usize) -> bool {
        self.count > 0
            && (self.count >= NODE_ITEMS_MAX
                || self.links.len() + links > LINKS_MAX
                || self.body.bytes.len() + bytes > CONTENT_BYTES_MAX - HEAD_BYTES_MAX)
    }

    fn put(self, level: u8, writer: &BlobWriter<'_>) -> Result<(Vec<u8>, Reference)> {
        let mut content = Encoder::new();
        encode_head(level, self.count, &mut content);
        content.raw(&self.body.bytes);
        let link = writer.put(Kind::Tree, &content.bytes, &self.links)?;
        Ok((self.first_name, link))
    }
}

fn open_node(levels: &mut Vec<Open>, level: u8) -> Result<&mut Open> {
    if usize::from(level) == levels.len() {
        levels.push(Open::default());
    }
    let open = levels.get_mut(usize::from(level)).filter(|_| level <= LEVELS_MAX);
    open.ok_or_else(|| Error::invalid("a directory", "it has too many entries"))
}

fn check(name: &[u8], entry: &[u8], links: &[BlobId]) -> Result<()> {
    let decoded = Entry::decode(entry, "").map_err(|error| match error {
        Error::Corrupt { reason, .. } => refused(name, reason),
        other => other,
    })?;
    let set = |mut ids: Vec<BlobId>| {
        ids.sort_unstable();
        ids.dedup();
        ids
    };
    if decoded.name != name {
        return Err(refused(name, "it is announced under another name"));
    }
    if decoded.links() != links && set(decoded.links()) != set(links.to_vec()) {
        return Err(refused(name, "it is announced with other links"));
    }
    Ok(())
}

fn refused(name: &[u8], reason: impl Into<String>) -> Error {
    Error::invalid(format!("entry `{}`", name.escape_ascii()), reason)
}
