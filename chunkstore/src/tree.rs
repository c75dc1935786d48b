//! Directories: entries, attributes, content; canonical order and bytes (`docs/format.md`, section 9).

use crate::error::Result;
use crate::id::BlobId;
use crate::list::Item;

/// Seconds since 1970 may be negative; nanoseconds count forward from them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Debug)]
pub struct Time {
    pub seconds: i64,
    pub nanoseconds: u32,
}

#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Attributes {
    /// Permission bits only, at most 0o7777.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Names of owner and group, empty if unknown.
    pub user: Vec<u8>,
    pub group: Vec<u8>,
    pub modified: Time,
    /// Inode flags kept, [`Attributes::FLAGS`].
    pub flags: u32,
    /// Extended attributes, POSIX ACLs and capabilities among them, names ascending.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub hard_link: Option<HardLink>,
}

impl Attributes {
    /// The inode flags that are kept: S, i, a, d, A of chattr.
    pub const FLAGS: u32 = 0x8 | 0x10 | 0x20 | 0x40 | 0x80;
}

/// Entries of a snapshot with equal device and inode are one file.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct HardLink {
    pub device: u64,
    pub inode: u64,
    /// How many names the file had, in the snapshot or elsewhere.
    pub names: u64,
}

/// A file's content.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Content {
    Inline(Vec<u8>),
    /// Few items: holes and chunks only.
    Items {
        size: u64,
        items: Vec<Item>,
    },
    List {
        size: u64,
        root: BlobId,
    },
}

impl Content {
    pub fn size(&self) -> u64 {
        match self {
            Content::Inline(bytes) => bytes.len() as u64,
            Content::Items { size, .. } | Content::List { size, .. } => *size,
        }
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Node {
    File(Content),
    Directory(BlobId),
    Symlink(Vec<u8>),
    Fifo,
    Socket,
    CharacterDevice { major: u32, minor: u32 },
    BlockDevice { major: u32, minor: u32 },
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    pub name: Vec<u8>,
    pub attributes: Attributes,
    pub node: Node,
}

impl Entry {
    pub fn encode(&self) -> Vec<u8> {
        todo!()
    }

    /// One entry from its bytes alone.
    pub fn decode(bytes: &[u8], object: &str) -> Result<Entry> {
        let _ = (bytes, object);
        todo!()
    }

    /// The blobs that this entry names, in order, with duplicates.
    pub fn links(&self) -> Vec<BlobId> {
        todo!()
    }
}

/// A decoded tree node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Tree {
    Leaf(Vec<Entry>),
    /// Names the first entry of each child.
    Inner {
        level: u8,
        children: Vec<(Vec<u8>, BlobId)>,
    },
}

impl Tree {
    pub fn encode(&self) -> Vec<u8> {
        todo!()
    }

    pub fn decode(bytes: &[u8], object: &str) -> Result<Tree> {
        let _ = (bytes, object);
        todo!()
    }
}
