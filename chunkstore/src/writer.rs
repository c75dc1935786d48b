//! Content into a store, bottom up: chunk, lists over chunks, trees over entries.
//!
//! `Writer` asks before it compresses. Builders split nodes by content (`docs/format.md`, section 9).

use crate::codec::Sealer;
use crate::error::Result;
use crate::id::{BlobId, Reference};
use crate::list::Item;
use crate::record::Kind;
use crate::store::Store;
use crate::tree::Content;
use std::sync::atomic::AtomicU64;

/// One session's way into a store. Shared by threads.
pub struct BlobWriter<'s> {
    pub store: &'s dyn Store,
    pub sealer: Sealer,
    /// Bytes of content that were new, and of the records they became.
    pub new_bytes: AtomicU64,
    pub added_bytes: AtomicU64,
}

impl<'s> BlobWriter<'s> {
    pub fn new(store: &'s dyn Store, sealer: Sealer) -> Self {
        BlobWriter { store, sealer, new_bytes: AtomicU64::new(0), added_bytes: AtomicU64::new(0) }
    }

    /// Tag, known?, else compress, seal, put. The answer is what a parent names the content by.
    pub fn put(&self, kind: Kind, content: &[u8], links: &[BlobId]) -> Result<Reference> {
        let _ = (kind, content, links);
        todo!()
    }
}

/// Collects a file's items in order; writes list nodes as they fill. Adjacent holes are joined.
pub struct ListBuilder {}

impl ListBuilder {
    pub fn new() -> Self {
        ListBuilder {}
    }

    pub fn push(&mut self, item: Item, writer: &BlobWriter<'_>) -> Result<()> {
        let _ = (item, writer);
        todo!()
    }

    /// Few items stay in the entry (at most 4), more become lists.
    pub fn finish(self, writer: &BlobWriter<'_>) -> Result<Content> {
        let _ = writer;
        todo!()
    }
}

impl Default for ListBuilder {
    fn default() -> Self {
        Self::new()
    }
}

/// Collects a directory's entries in ascending order of names; writes tree nodes as they fill.
pub struct TreeBuilder {}

impl TreeBuilder {
    pub fn new() -> Self {
        TreeBuilder {}
    }

    /// `entry` is an encoded entry ([`Entry::encode`](crate::tree::Entry::encode)), `links` what it names.
    pub fn push(&mut self, name: &[u8], entry: &[u8], links: &[BlobId], writer: &BlobWriter<'_>) -> Result<()> {
        let _ = (name, entry, links, writer);
        todo!()
    }

    /// The root of the directory.
    pub fn finish(self, writer: &BlobWriter<'_>) -> Result<Reference> {
        let _ = writer;
        todo!()
    }
}

impl Default for TreeBuilder {
    fn default() -> Self {
        Self::new()
    }
}
