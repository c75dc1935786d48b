//! Content out of a store, verified: snapshot, trees, lists, chunks.
//!
//! `Reader` may be shared by threads. It keeps a bounded cache of decoded nodes and of delta bases.

use crate::codec::Opener;
use crate::error::Result;
use crate::id::Reference;
use crate::list::Item;
use crate::store::Store;
use crate::tree::{Content, Entry};
use std::ops::ControlFlow;
use std::sync::Arc;

pub struct Reader {
    pub store: Arc<dyn Store>,
    pub opener: Opener,
}

impl Reader {
    pub fn new(store: Arc<dyn Store>, opener: Opener) -> Self {
        Reader { store, opener }
    }

    /// The contents of chunks, in the order asked; one that fails leaves others readable. A chunk whose record is lost is
    /// looked for under another id ([`Store::alternate`]); what is accepted has the reference's tag.
    pub fn chunks(&self, links: &[Reference]) -> Result<Vec<Result<Vec<u8>>>> {
        let _ = links;
        todo!()
    }

    /// Visits a directory's entries in order, node by node (memory is bounded by a node).
    pub fn entries(&self, tree: Reference, visit: &mut dyn FnMut(Entry) -> Result<ControlFlow<()>>) -> Result<()> {
        let _ = (tree, visit);
        todo!()
    }

    /// Finds one name: reads one node per level.
    pub fn lookup(&self, tree: Reference, name: &[u8]) -> Result<Option<Entry>> {
        let _ = (tree, name);
        todo!()
    }

    /// Follows components separated by `/`; `None` if a component does not exist or is no directory.
    pub fn resolve(&self, root: Reference, path: &[u8]) -> Result<Option<Entry>> {
        let _ = (root, path);
        todo!()
    }

    /// Visits holes and chunks that overlap `range`, with the offset of each: touches O(log n) list nodes.
    pub fn items(
        &self,
        content: &Content,
        range: std::ops::Range<u64>,
        visit: &mut dyn FnMut(u64, Item) -> Result<ControlFlow<()>>,
    ) -> Result<()> {
        let _ = (content, range, visit);
        todo!()
    }

    /// `len` bytes from `offset`, fewer at the end of the file; holes read as zeros.
    pub fn read_at(&self, content: &Content, offset: u64, len: usize) -> Result<Vec<u8>> {
        let _ = (content, offset, len);
        todo!()
    }
}
