//! The content of a large file: items over chunks, holes and further lists (`docs/format.md`, section 9).

use crate::error::Result;
use crate::id::BlobId;

/// A piece of a file's content, in order; offsets are the sums of the lengths before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Item {
    /// Reads as zeros, is never stored.
    Hole {
        len: u64,
    },
    Chunk {
        len: u64,
        id: BlobId,
    },
    /// Only in list nodes of level 1 and up.
    List {
        len: u64,
        id: BlobId,
    },
}

/// A decoded list node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct List {
    pub level: u8,
    pub items: Vec<Item>,
}

impl List {
    pub fn encode(&self) -> Vec<u8> {
        todo!()
    }

    pub fn decode(bytes: &[u8], object: &str) -> Result<List> {
        let _ = (bytes, object);
        todo!()
    }
}
