//! A file's items into list nodes. Holds one open node per level, whatever the size of the file.

use super::BlobWriter;
use crate::error::{Error, Result};
use crate::id::Reference;
use crate::list::{Item, LEVELS_MAX, List};
use crate::record::Kind;
use crate::tree::Content;

/// A file of so few items needs no list.
const ENTRY_ITEMS_MAX: usize = 4;
const SPLIT_ITEMS_MIN: usize = 64;
const SPLIT_ITEMS_MAX: usize = 4096;

/// Collects a file's items in order; writes list nodes as they fill. Adjacent holes are joined.
#[derive(Default)]
pub struct ListBuilder {
    size: u64,
    /// The length of a hole that may go on.
    hole: u64,
    /// The open node of each level, lowest first. Only a lower one than the highest may have no items.
    levels: Vec<Vec<Item>>,
}

impl ListBuilder {
    pub fn new() -> Self {
        ListBuilder::default()
    }

    /// A hole or a chunk; none may be empty.
    pub fn push(&mut self, item: Item, writer: &BlobWriter<'_>) -> Result<()> {
        let refused = |reason: &str| Error::invalid("a file's content", reason);
        if item.covers() == 0 {
            return Err(refused("an item covers nothing"));
        }
        self.size = self.size.checked_add(item.covers()).ok_or_else(|| refused("it is longer than 64 bits can say"))?;
        match item {
            Item::Hole { len } => {
                self.hole += len;
                Ok(())
            }
            Item::Chunk { .. } => {
                self.end_hole(writer)?;
                self.append(0, item, writer)
            }
            Item::List { .. } => Err(refused("a list among its chunks")),
        }
    }

    /// Few items stay in the entry (at most 4), more become lists. Nothing at all is empty inline content.
    pub fn finish(mut self, writer: &BlobWriter<'_>) -> Result<Content> {
        self.end_hole(writer)?;
        let size = self.size;
        match self.levels.as_mut_slice() {
            [] => return Ok(Content::Inline(Vec::new())),
            [only] if only.len() <= ENTRY_ITEMS_MAX => return Ok(Content::Items { size, items: std::mem::take(only) }),
            _ => {}
        }
        let mut below = None;
        let levels = self.levels.len();
        for (level, mut items) in (0u8..).zip(self.levels) {
            items.extend(below.take());
            below = match items.as_slice() {
                [] => None,
                // The highest node would have but one child.
                [only @ Item::List { .. }] if usize::from(level) + 1 == levels => Some(*only),
                _ => Some(put(level, items, writer)?),
            };
        }
        match below {
            Some(Item::List { link, .. }) => Ok(Content::List { size, root: link }),
            _ => Err(Error::invalid("a file's content", "no list was made of its items")),
        }
    }

    fn end_hole(&mut self, writer: &BlobWriter<'_>) -> Result<()> {
        match std::mem::take(&mut self.hole) {
            0 => Ok(()),
            len => self.append(0, Item::Hole { len }, writer),
        }
    }

    /// Appends to a level, and while that closes one to the level above.
    fn append(&mut self, mut level: u8, mut item: Item, writer: &BlobWriter<'_>) -> Result<()> {
        loop {
            let at = usize::from(level);
            if at == self.levels.len() {
                self.levels.push(Vec::new());
            }
            let Some(open) = self.levels.get_mut(at).filter(|_| level <= LEVELS_MAX) else {
                return Err(Error::invalid("a file's content", "it has too many items"));
            };
            open.push(item);
            if !closes(open.len(), item.link()) {
                return Ok(());
            }
            item = put(level, std::mem::take(open), writer)?;
            level += 1;
        }
    }
}

fn closes(len: usize, last: Option<Reference>) -> bool {
    len >= SPLIT_ITEMS_MAX || len >= SPLIT_ITEMS_MIN && last.is_some_and(|link| link.id.0.first() == Some(&0))
}

/// Stores a node: what stands for it one level up.
fn put(level: u8, items: Vec<Item>, writer: &BlobWriter<'_>) -> Result<Item> {
    let len = crate::list::total(&items).ok_or_else(|| Error::invalid("a list", "it covers too much"))?;
    let list = List { level, items };
    let link = writer.put(Kind::List, &list.encode(), &list.links())?;
    Ok(Item::List { len, link })
}
