//! Which paths of a snapshot miss something. Walks only what stands above lost blobs.

use super::{AFFECTED_MAX, Affected, Check, CheckOutcome};
use crate::error::Result;
use crate::id::{BlobId, Reference};
use crate::reader::Reader;
use crate::snapshot::Snapshot;
use crate::store::Store;
use crate::tree::{Content, Entry, Node};
use std::collections::HashSet;
use std::ops::ControlFlow;

/// One snapshot's walk down the tainted nodes.
pub(super) struct AffectedWalk<'w> {
    pub check: &'w Check<'w>,
    pub snapshot: &'w Snapshot,
    pub tainted: &'w HashSet<BlobId>,
    pub outcome: &'w mut CheckOutcome,
}

/// So many damaged directories waiting are named without a look inside.
const OPEN_MAX: usize = 65_536;

impl AffectedWalk<'_> {
    pub fn report(&mut self, path: &[u8]) {
        self.outcome.affected_total += 1;
        if self.outcome.affected.len() < AFFECTED_MAX {
            self.outcome.affected.push(Affected {
                snapshot: self.snapshot.id,
                dataset: self.snapshot.summary.dataset.clone(),
                path: path.to_vec(),
            });
        }
    }

    /// Stored with all below it, or replaced by equal content that is.
    pub fn is_whole(&self, link: Reference) -> Result<bool> {
        let store = self.check.repository;
        Ok(store.present(&[link.id])? == [true] || store.alternate(link.tag)?.is_some())
    }

    /// Depth first with a stack of its own.
    pub fn descend(&mut self, reader: &Reader, root: Reference) -> Result<()> {
        let mut open: Vec<(Reference, Vec<u8>)> = vec![(root, Vec::new())];
        while let Some((tree, path)) = open.pop() {
            if open.len() > OPEN_MAX || !self.tainted.contains(&tree.id) && !self.is_whole(tree)? {
                self.report(if path.is_empty() { b"/" } else { &path });
                continue;
            }
            let mut entries: Vec<(Entry, Vec<u8>)> = Vec::new();
            let visited = reader.entries(tree, &mut |entry| {
                let full = [&path[..], b"/", &entry.name].concat();
                if self.entry_needs_look(&entry)? {
                    entries.push((entry, full));
                }
                Ok(ControlFlow::Continue(()))
            });
            match visited {
                Err(e) if e.is_damage() => self.report(if path.is_empty() { b"/" } else { &path }),
                other => other?,
            }
            for (entry, full) in entries {
                match entry.node {
                    Node::Directory(tree) => open.push((tree, full)),
                    Node::File(content) if !self.content_is_whole(reader, &content)? => self.report(&full),
                    _ => {}
                }
            }
        }
        Ok(())
    }

    fn entry_needs_look(&self, entry: &Entry) -> Result<bool> {
        Ok(match &entry.node {
            Node::Directory(tree) => !self.is_whole(*tree)?,
            Node::File(_) => true,
            _ => false,
        })
    }

    fn content_is_whole(&self, reader: &Reader, content: &Content) -> Result<bool> {
        if let Content::List { root, .. } = content
            && self.is_whole(*root)?
        {
            return Ok(true);
        }
        let mut whole = true;
        let visited = reader.items(content, 0..u64::MAX, &mut |_, item| {
            if let Some(slice) = item.slice()
                && !self.is_whole(slice.link)?
            {
                whole = false;
                return Ok(ControlFlow::Break(()));
            }
            Ok(ControlFlow::Continue(()))
        });
        match visited {
            Err(e) if e.is_damage() => Ok(false),
            other => other.map(|()| whole),
        }
    }
}
