//! A blob as stored: header, plain links, sealed payload (`docs/format.md`, section 8). Needs no key.

use crate::error::Result;
use crate::id::{BlobId, CapsuleId, RepositoryId, Tag};

/// What a blob's content is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Chunk = 1,
    List = 2,
    Tree = 3,
}

impl Kind {
    pub fn class(self) -> Class {
        match self {
            Kind::Chunk => Class::Data,
            Kind::List | Kind::Tree => Class::Node,
        }
    }
}

/// Which packs a record goes to.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Class {
    Data = 0,
    Node = 1,
}

/// A stored record whose header is well formed and whose id was computed from its bytes.
#[derive(Clone, Debug)]
pub struct Record {
    pub id: BlobId,
    pub tag: Tag,
    pub class: Class,
    pub capsule: CapsuleId,
    /// Strictly ascending.
    pub links: Vec<BlobId>,
    /// The whole record.
    pub bytes: Vec<u8>,
}

impl Record {
    pub const HEADER_LEN: usize = 88;

    /// Checks lengths, limits and that it belongs to `repository`; computes the id. The caller compares the id.
    pub fn parse(bytes: Vec<u8>, repository: &RepositoryId) -> Result<Record> {
        let _ = (bytes, repository);
        todo!()
    }

    /// The length of the record that begins with these header bytes, if they are a header: for scanning a pack without its trailer.
    pub fn announced_len(header: &[u8]) -> Option<usize> {
        let _ = header;
        todo!()
    }
}
