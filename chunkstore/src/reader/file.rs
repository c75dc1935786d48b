//! Files: items in order, bytes at an offset.
//!
//! Every list covers exactly what its parent says and no item covers nothing, so a walk visits at most as many items and
//! nodes of each level as the file has bytes: a hostile file can be long only by claiming its length openly.

use super::{Reader, damaged};
use crate::error::{Error, Result};
use crate::id::Reference;
use crate::list::{Item, List, total};
use crate::tree::Content;
use std::ops::{ControlFlow, Range};
use std::sync::Arc;

/// What [`Reader::read_at`] asks the store for at once.
const BATCH_ITEMS: usize = 16;
const BATCH_BYTES: u64 = 4 << 20;

/// What [`Reader::data_bytes`] reads at most.
const LISTS_MAX: usize = 1024;

impl Reader {
    /// Visits holes and chunks that overlap `range`, with the offset of each: touches O(log n) list nodes besides those that
    /// lie within. Inline content has no items.
    pub fn items(
        &self,
        content: &Content,
        range: Range<u64>,
        visit: &mut dyn FnMut(u64, Item) -> Result<ControlFlow<()>>,
    ) -> Result<()> {
        if range.start >= range.end.min(content.size()) {
            return Ok(());
        }
        let root = match content {
            Content::Inline(_) => return Ok(()),
            Content::Items { size, items } if total(items) == Some(*size) => {
                Arc::new(List { level: 0, items: items.clone() })
            }
            Content::Items { .. } => return Err(Error::invalid("a file's content", "its items are not its size")),
            Content::List { size, root } => self.covering(*root, *size)?,
        };
        let mut path = vec![Step { list: root, next: 0, offset: 0 }];
        while let Some(step) = path.last_mut() {
            let Some(item) = step.list.items.get(step.next).copied() else {
                path.pop();
                continue;
            };
            let begin = step.offset;
            step.next += 1;
            // The sum of a list's items was found to fit.
            step.offset = begin.saturating_add(item.covers());
            if step.offset <= range.start {
                continue;
            }
            if begin >= range.end {
                return Ok(());
            }
            if let Item::List { len, link } = item {
                let level = step.list.level;
                path.push(Step { list: self.child_list(link, level, len)?, next: 0, offset: begin });
            } else if visit(begin, item)?.is_break() {
                return Ok(());
            }
        }
        Ok(())
    }

    /// `len` bytes from `offset`, fewer at the end of the file; holes read as zeros.
    pub fn read_at(&self, content: &Content, offset: u64, len: usize) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.read_into(content, offset, len, &mut bytes)?;
        Ok(bytes)
    }

    /// As [`Reader::read_at`], appending to `bytes`; after an error they are of no use.
    pub fn read_into(&self, content: &Content, offset: u64, len: usize, bytes: &mut Vec<u8>) -> Result<()> {
        let range = offset..offset.saturating_add(len as u64).min(content.size());
        if let Content::Inline(inline) = content {
            append(inline, 0, &range, bytes);
            return Ok(());
        }
        let mut batch = Vec::with_capacity(BATCH_ITEMS);
        let mut batch_bytes = 0u64;
        self.items(content, range.clone(), &mut |at, item| {
            batch.push((at, item));
            batch_bytes = batch_bytes.saturating_add(item.covers());
            if batch.len() >= BATCH_ITEMS || batch_bytes >= BATCH_BYTES {
                self.append_batch(&batch, &range, bytes)?;
                batch.clear();
                batch_bytes = 0;
            }
            Ok(ControlFlow::Continue(()))
        })?;
        self.append_batch(&batch, &range, bytes)
    }

    fn append_batch(&self, batch: &[(u64, Item)], range: &Range<u64>, bytes: &mut Vec<u8>) -> Result<()> {
        let links: Vec<Reference> = batch.iter().filter_map(|(_, item)| item.link()).collect();
        let mut contents = self.shared(&links)?;
        for (at, item) in batch {
            match item {
                Item::Hole { len } => {
                    let zeros = range.end.min(at.saturating_add(*len)).saturating_sub(range.start.max(*at));
                    let zeros = usize::try_from(zeros)
                        .map_err(|_| Error::invalid("a hole", "it is longer than memory can be"))?;
                    bytes.resize(bytes.len() + zeros, 0);
                }
                _ => {
                    let slice =
                        item.slice().ok_or_else(|| Error::invalid("a file's content", "a list was not entered"))?;
                    append(self.part(&slice, &mut contents)?, *at, range, bytes);
                }
            }
        }
        Ok(())
    }

    /// How many bytes of a file are not holes. Reads the list's upper nodes, and of the lowest only such that cover more than
    /// `plausible` bytes, at most [`LISTS_MAX`] in all: holes elsewhere are counted as data.
    pub fn data_bytes(&self, content: &Content, plausible: u64) -> Result<u64> {
        let (size, root) = match content {
            Content::Inline(bytes) => return Ok(bytes.len() as u64),
            Content::Items { items, .. } => return Ok(data(items)),
            Content::List { size, root } => (*size, *root),
        };
        let mut bytes = 0u64;
        let mut pending = vec![(root, None, size)];
        let mut budget = LISTS_MAX;
        while let Some((link, parent_level, len)) = pending.pop() {
            if budget == 0 {
                bytes = bytes.saturating_add(len);
                continue;
            }
            budget -= 1;
            let list = match parent_level {
                None => self.covering(link, len)?,
                Some(level) => self.child_list(link, level, len)?,
            };
            bytes = bytes.saturating_add(data(&list.items));
            for item in &list.items {
                match *item {
                    Item::List { len, .. } if list.level == 1 && len <= plausible => bytes = bytes.saturating_add(len),
                    Item::List { len, link } => pending.push((link, Some(list.level), len)),
                    _ => {}
                }
            }
        }
        Ok(bytes)
    }

    fn child_list(&self, link: Reference, parent_level: u8, len: u64) -> Result<Arc<List>> {
        let list = self.covering(link, len)?;
        if Some(list.level) == parent_level.checked_sub(1) {
            Ok(list)
        } else {
            Err(damaged(link.id, format!("a list of level {} below one of level {parent_level}", list.level)))
        }
    }

    /// A list that covers exactly `len` bytes.
    fn covering(&self, link: Reference, len: u64) -> Result<Arc<List>> {
        let list = self.list(link)?;
        if total(&list.items) == Some(len) {
            Ok(list)
        } else {
            Err(damaged(link.id, format!("it does not cover the {len} bytes that its parent announces")))
        }
    }
}

fn data(items: &[Item]) -> u64 {
    let chunks = items.iter().filter(|item| item.slice().is_some());
    chunks.fold(0u64, |sum, item| sum.saturating_add(item.covers()))
}

/// A list on the way down, its item that is next and where in the file that begins.
struct Step {
    list: Arc<List>,
    next: usize,
    offset: u64,
}

/// Appends what of `content`, which begins at `at`, lies in the range.
fn append(content: &[u8], at: u64, range: &Range<u64>, bytes: &mut Vec<u8>) {
    let within = |offset: u64| usize::try_from(offset.saturating_sub(at)).unwrap_or(usize::MAX).min(content.len());
    let part = content.get(within(range.start)..within(range.end)).unwrap_or_default();
    bytes.extend_from_slice(part);
}
