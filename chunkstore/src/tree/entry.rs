//! One name of a directory: attributes and content, as values and as bytes (`docs/format.md`, section 9).
//!
//! Decoding enforces every rule of the format that an entry can break by itself; encoding writes what it is given.

use crate::coding::{Decoder, Encoder};
use crate::error::Result;
use crate::id::{BlobId, Reference};
use crate::list::{self, Item};

const NAME_BYTES_MAX: usize = 255;
const OWNER_BYTES_MAX: usize = 1024;
const TARGET_BYTES_MAX: usize = 4095;
const XATTRS_BYTES_MAX: usize = 1 << 20;
const XATTRS_MAX: usize = 65_536;
const INLINE_BYTES_MAX: u64 = 64 << 10;
const MODE_MAX: u32 = 0o7777;
const NANOSECONDS: u32 = 1_000_000_000;

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
    /// The only form of an empty file.
    Inline(Vec<u8>),
    /// Few items: holes and chunks only.
    Items {
        size: u64,
        items: Vec<Item>,
    },
    List {
        size: u64,
        root: Reference,
    },
}

impl Content {
    pub fn size(&self) -> u64 {
        match self {
            Content::Inline(bytes) => bytes.len() as u64,
            Content::Items { size, .. } | Content::List { size, .. } => *size,
        }
    }

    /// Whether both are the same bytes as far as their names tell, wherever those lie.
    pub fn is_same(&self, other: &Content) -> bool {
        let names = |item: &Item| (item.covers(), item.slice().map(|slice| slice.tag), item.link().is_none());
        match (self, other) {
            (Content::Items { items, .. }, Content::Items { items: others, .. }) => {
                items.iter().map(names).eq(others.iter().map(names))
            }
            _ => self == other,
        }
    }

    /// The blobs that it names, in order, with duplicates.
    pub fn links(&self) -> Vec<BlobId> {
        match self {
            Content::Inline(_) => Vec::new(),
            Content::Items { items, .. } => items.iter().filter_map(Item::link).map(|link| link.id).collect(),
            Content::List { root, .. } => vec![root.id],
        }
    }

    fn encode_to(&self, e: &mut Encoder) {
        e.varint(self.size());
        match self {
            Content::Inline(bytes) => {
                e.u8(0).raw(bytes);
            }
            Content::Items { items, .. } => {
                e.u8(1);
                list::encode_items(items, e);
            }
            Content::List { root, .. } => {
                list::encode_reference(root, e.u8(2));
            }
        }
    }

    fn decode_from(d: &mut Decoder<'_>) -> Result<Content> {
        let size = d.varint()?;
        let content = match d.u8()? {
            0 if size > INLINE_BYTES_MAX => return Err(d.corrupt(format!("{size} bytes of inline content"))),
            0 => Content::Inline(d.raw(usize::try_from(size).unwrap_or(usize::MAX))?.to_vec()),
            1 => {
                let (items, size) = list::decode_items(d, 0)?;
                Content::Items { size, items }
            }
            2 if size == 0 => return Err(d.corrupt("an empty file with a list")),
            2 => Content::List { size, root: list::decode_reference(d)? },
            form => return Err(d.corrupt(format!("content of form {form}"))),
        };
        if content.size() != size {
            return Err(d.corrupt(format!("a file of {size} bytes has content of {}", content.size())));
        }
        Ok(content)
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Node {
    File(Content),
    Directory(Reference),
    Symlink(Vec<u8>),
    Fifo,
    Socket,
    CharacterDevice { major: u32, minor: u32 },
    BlockDevice { major: u32, minor: u32 },
}

impl Node {
    fn type_number(&self) -> u8 {
        match self {
            Node::File(_) => 1,
            Node::Directory(_) => 2,
            Node::Symlink(_) => 3,
            Node::Fifo => 4,
            Node::Socket => 5,
            Node::CharacterDevice { .. } => 6,
            Node::BlockDevice { .. } => 7,
        }
    }

    fn encode_to(&self, e: &mut Encoder) {
        match self {
            Node::File(content) => content.encode_to(e),
            Node::Directory(tree) => {
                list::encode_reference(tree, e);
            }
            Node::Symlink(target) => {
                e.bytes(target);
            }
            Node::Fifo | Node::Socket => {}
            Node::CharacterDevice { major, minor } | Node::BlockDevice { major, minor } => {
                e.varint(u64::from(*major)).varint(u64::from(*minor));
            }
        }
    }

    fn decode_from(d: &mut Decoder<'_>, type_number: u8) -> Result<Node> {
        Ok(match type_number {
            1 => Node::File(Content::decode_from(d)?),
            2 => Node::Directory(list::decode_reference(d)?),
            3 => {
                let target = d.bytes(TARGET_BYTES_MAX, "a symlink's target")?;
                if target.is_empty() || target.contains(&0) {
                    return Err(d.corrupt("a symlink's target cannot be one"));
                }
                Node::Symlink(target.to_vec())
            }
            4 => Node::Fifo,
            5 => Node::Socket,
            6 => Node::CharacterDevice { major: d.number("major")?, minor: d.number("minor")? },
            7 => Node::BlockDevice { major: d.number("major")?, minor: d.number("minor")? },
            other => return Err(d.corrupt(format!("an entry of type {other}"))),
        })
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    pub name: Vec<u8>,
    pub attributes: Attributes,
    pub node: Node,
}

impl Entry {
    /// No encoded entry is shorter.
    pub(super) const BYTES_MIN: usize = 13;

    pub fn encode(&self) -> Vec<u8> {
        let mut e = Encoder::new();
        self.encode_to(&mut e);
        e.bytes
    }

    /// One entry from its bytes alone.
    pub fn decode(bytes: &[u8], object: &str) -> Result<Entry> {
        let mut d = Decoder::new(bytes, object);
        let entry = Entry::decode_from(&mut d)?;
        d.finish()?;
        Ok(entry)
    }

    /// The blobs that this entry names, in order, with duplicates.
    pub fn links(&self) -> Vec<BlobId> {
        match &self.node {
            Node::File(content) => content.links(),
            Node::Directory(tree) => vec![tree.id],
            _ => Vec::new(),
        }
    }

    pub(super) fn encode_to(&self, e: &mut Encoder) {
        let Attributes { mode, uid, gid, user, group, modified, flags, xattrs, hard_link } = &self.attributes;
        e.bytes(&self.name).u8(self.node.type_number()).varint(u64::from(*mode));
        e.varint(u64::from(*uid)).varint(u64::from(*gid)).bytes(user).bytes(group);
        e.zigzag(modified.seconds).varint(u64::from(modified.nanoseconds)).varint(u64::from(*flags));
        e.varint(xattrs.len() as u64);
        for (name, value) in xattrs {
            e.bytes(name).bytes(value);
        }
        match hard_link {
            None => e.u8(0),
            Some(HardLink { device, inode, names }) => e.u8(1).varint(*device).varint(*inode).varint(*names),
        };
        self.node.encode_to(e);
    }

    pub(super) fn decode_from(d: &mut Decoder<'_>) -> Result<Entry> {
        let name = decode_name(d)?;
        let type_number = d.u8()?;
        let attributes = Attributes {
            mode: decode_mode(d)?,
            uid: d.number("uid")?,
            gid: d.number("gid")?,
            user: d.bytes(OWNER_BYTES_MAX, "an owner's name")?.to_vec(),
            group: d.bytes(OWNER_BYTES_MAX, "a group's name")?.to_vec(),
            modified: decode_time(d)?,
            flags: decode_flags(d)?,
            xattrs: decode_xattrs(d)?,
            hard_link: decode_hard_link(d)?,
        };
        let node = Node::decode_from(d, type_number)?;
        if attributes.hard_link.is_some() && matches!(node, Node::Directory(_)) {
            return Err(d.corrupt("a directory with hard links"));
        }
        Ok(Entry { name, attributes, node })
    }
}

/// True if a directory may have an entry of this name.
pub fn is_name(name: &[u8]) -> bool {
    (1..=NAME_BYTES_MAX).contains(&name.len())
        && name != b"."
        && name != b".."
        && !name.iter().any(|byte| matches!(byte, 0 | b'/'))
}

pub(super) fn decode_name(d: &mut Decoder<'_>) -> Result<Vec<u8>> {
    let name = d.bytes(NAME_BYTES_MAX, "a name")?;
    if is_name(name) { Ok(name.to_vec()) } else { Err(d.corrupt("a name that no entry may have")) }
}

fn decode_mode(d: &mut Decoder<'_>) -> Result<u32> {
    match d.number("mode")? {
        mode if mode <= MODE_MAX => Ok(mode),
        mode => Err(d.corrupt(format!("mode {mode:o}"))),
    }
}

fn decode_time(d: &mut Decoder<'_>) -> Result<Time> {
    let time = Time { seconds: d.zigzag()?, nanoseconds: d.number("nanoseconds")? };
    if time.nanoseconds < NANOSECONDS { Ok(time) } else { Err(d.corrupt("a second has fewer nanoseconds")) }
}

fn decode_flags(d: &mut Decoder<'_>) -> Result<u32> {
    match d.number("flags")? {
        flags if flags & !Attributes::FLAGS == 0 => Ok(flags),
        flags => Err(d.corrupt(format!("flags {flags:#x}"))),
    }
}

fn decode_xattrs(d: &mut Decoder<'_>) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let count = d.count(XATTRS_MAX, 3, "extended attributes")?;
    let mut xattrs: Vec<(Vec<u8>, Vec<u8>)> = Vec::with_capacity(count);
    let mut left = XATTRS_BYTES_MAX;
    for _ in 0..count {
        let name = d.bytes(NAME_BYTES_MAX.min(left), "an extended attribute's name")?;
        left = left.saturating_sub(name.len());
        let value = d.bytes(left, "an extended attribute")?;
        left = left.saturating_sub(value.len());
        if name.is_empty() || name.contains(&0) {
            return Err(d.corrupt("an extended attribute's name cannot be one"));
        }
        if xattrs.last().is_some_and(|(last, _)| last.as_slice() >= name) {
            return Err(d.corrupt("extended attributes are out of order"));
        }
        xattrs.push((name.to_vec(), value.to_vec()));
    }
    Ok(xattrs)
}

fn decode_hard_link(d: &mut Decoder<'_>) -> Result<Option<HardLink>> {
    match d.u8()? {
        0 => Ok(None),
        1 => Ok(Some(HardLink { device: d.varint()?, inode: d.varint()?, names: d.varint()? })),
        other => Err(d.corrupt(format!("a hard link of form {other}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::super::strategy;
    use super::*;
    use crate::id::HalfTag;
    use crate::list::{NODE_ITEMS_MAX, Slice, damage};
    use proptest::prelude::*;

    fn decode(bytes: &[u8]) -> Result<Entry> {
        Entry::decode(bytes, "entry")
    }

    fn accepted(entry: &Entry) -> bool {
        match decode(&entry.encode()) {
            Ok(decoded) => decoded == *entry,
            Err(crate::Error::Corrupt { .. }) => false,
            Err(error) => panic!("{error}"),
        }
    }

    fn fifo() -> Entry {
        Entry { name: b"f".to_vec(), attributes: Attributes::default(), node: Node::Fifo }
    }

    fn file(content: Content) -> Entry {
        Entry { node: Node::File(content), ..fifo() }
    }

    fn changed(change: impl FnOnce(&mut Attributes)) -> Entry {
        let mut entry = fifo();
        change(&mut entry.attributes);
        entry
    }

    proptest! {
        #[test]
        fn round_trip(entry in strategy::entry()) {
            let bytes = entry.encode();
            prop_assert!(bytes.len() >= Entry::BYTES_MIN);
            prop_assert_eq!(decode(&bytes).unwrap(), entry);
        }

        #[test]
        fn every_damage_is_borne(entry in strategy::entry()) {
            damage::check_every(&entry.encode(), &|bytes| decode(bytes).map(|entry| entry.encode()));
        }
    }

    #[test]
    fn known_bytes() {
        assert_eq!(fifo().encode(), [1, b'f', 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        let entry = Entry {
            name: b"ab".to_vec(),
            attributes: Attributes {
                mode: 0o644,
                uid: 1000,
                gid: 1,
                user: b"u".to_vec(),
                group: b"gr".to_vec(),
                modified: Time { seconds: -1, nanoseconds: 5 },
                flags: 0x40,
                xattrs: vec![(b"user.a".to_vec(), b"v".to_vec())],
                hard_link: Some(HardLink { device: 3, inode: 4, names: 2 }),
            },
            node: Node::File(Content::Inline(b"hey".to_vec())),
        };
        let expected =
            b"\x02ab\x01\xa4\x03\xe8\x07\x01\x01u\x02gr\x01\x05\x40\x01\x06user.a\x01v\x01\x03\x04\x02\x03\x00hey";
        assert_eq!(entry.encode(), expected);
    }

    #[test]
    fn names_that_no_directory_has_are_refused() {
        for name in [&b""[..], b".", b"..", b"a/b", b"a\0", &[b'n'; 256]] {
            assert!(!is_name(name));
            assert!(!accepted(&Entry { name: name.to_vec(), ..fifo() }), "{name:?}");
        }
        for name in [&b"..."[..], b".a", b"\xff\x01 \n", &[b'n'; 255]] {
            assert!(is_name(name));
            assert!(accepted(&Entry { name: name.to_vec(), ..fifo() }), "{name:?}");
        }
    }

    #[test]
    fn attributes_out_of_bounds_are_refused() {
        assert!(accepted(&changed(|a| a.mode = 0o7777)));
        assert!(!accepted(&changed(|a| a.mode = 0o10000)));
        assert!(accepted(&changed(|a| a.modified.nanoseconds = 999_999_999)));
        assert!(!accepted(&changed(|a| a.modified.nanoseconds = 1_000_000_000)));
        assert!(accepted(&changed(|a| a.flags = Attributes::FLAGS)));
        assert!(!accepted(&changed(|a| a.flags = 0x100)));
        assert!(!accepted(&changed(|a| a.flags = 0x1)));
        assert!(accepted(&changed(|a| a.user = vec![b'u'; OWNER_BYTES_MAX])));
        assert!(!accepted(&changed(|a| a.group = vec![b'u'; OWNER_BYTES_MAX + 1])));
        let linked = Entry { node: Node::Directory(Reference::default()), ..fifo() };
        assert!(accepted(&linked));
        let hard_link = Some(HardLink { device: 1, inode: 2, names: 3 });
        assert!(!accepted(&Entry { attributes: Attributes { hard_link, ..Attributes::default() }, ..linked }));
    }

    #[test]
    fn extended_attributes_out_of_bounds_are_refused() {
        let with = |xattrs: &[(&[u8], usize)]| {
            changed(|a| a.xattrs = xattrs.iter().map(|(name, len)| (name.to_vec(), vec![1; *len])).collect())
        };
        assert!(accepted(&with(&[(b"a", 0), (b"b", 1)])));
        assert!(!accepted(&with(&[(b"b", 0), (b"a", 1)])), "order");
        assert!(!accepted(&with(&[(b"a", 0), (b"a", 1)])), "twice");
        assert!(!accepted(&with(&[(b"", 0)])), "no name");
        assert!(!accepted(&with(&[(b"a\0", 0)])), "a NUL");
        assert!(!accepted(&with(&[(&[b'a'; 256], 0)])), "a long name");
        assert!(accepted(&with(&[(b"a", XATTRS_BYTES_MAX - 1)])));
        assert!(!accepted(&with(&[(b"a", XATTRS_BYTES_MAX)])));
        assert!(accepted(&with(&[(b"a", 1000), (b"b", XATTRS_BYTES_MAX - 1002)])));
        assert!(!accepted(&with(&[(b"a", 1000), (b"b", XATTRS_BYTES_MAX - 1001)])), "more than 1 MiB in all");
    }

    #[test]
    fn symlink_targets_out_of_bounds_are_refused() {
        let to = |target: &[u8]| accepted(&Entry { node: Node::Symlink(target.to_vec()), ..fifo() });
        assert!(to(b"../x"));
        assert!(to(&[b't'; 4095]));
        assert!(!to(&[b't'; 4096]));
        assert!(!to(b""));
        assert!(!to(b"a\0b"));
    }

    #[test]
    fn content_that_is_not_its_size_is_refused() {
        let chunk = Item::Chunk { len: 5, link: Reference::default() };
        let items = |size, items: &[Item]| accepted(&file(Content::Items { size, items: items.to_vec() }));
        assert!(items(10, &[chunk, chunk]));
        assert!(!items(9, &[chunk, chunk]));
        assert!(!items(0, &[]));
        assert!(!items(5, &[Item::List { len: 5, link: Reference::default() }]));
        assert!(!items(u64::MAX, &[Item::Hole { len: u64::MAX }, Item::Hole { len: 1 }]));
        assert!(items(u64::MAX, &[Item::Hole { len: u64::MAX }]));
        assert!(!items(NODE_ITEMS_MAX as u64 + 1, &vec![Item::Hole { len: 1 }; NODE_ITEMS_MAX + 1]));
        assert!(accepted(&file(Content::List { size: 1, root: Reference::default() })));
        assert!(!accepted(&file(Content::List { size: 0, root: Reference::default() })));
        assert!(accepted(&file(Content::Inline(vec![0; 64 << 10]))));
        assert!(!accepted(&file(Content::Inline(vec![0; (64 << 10) + 1]))));
    }

    #[test]
    fn the_same_bytes_may_lie_elsewhere() {
        let reference = |byte: u8| Reference { id: BlobId([byte; 32]), tag: HalfTag([byte; 16]) };
        let items = |items: &[Item]| Content::Items { size: list::total(items).unwrap(), items: items.to_vec() };
        let slice = |len, chunk, tag| {
            items(&[Item::Slice(Slice { len, offset: 7, link: reference(chunk), tag: HalfTag([tag; 16]) })])
        };
        assert!(slice(5, 1, 3).is_same(&slice(5, 2, 3)));
        assert!(!slice(5, 1, 3).is_same(&slice(5, 1, 4)));
        assert!(!slice(5, 1, 3).is_same(&slice(6, 1, 3)));
        let chunk = Item::Chunk { len: 5, link: reference(3) };
        assert!(slice(5, 1, 3).is_same(&items(&[chunk])));
        assert!(!slice(5, 1, 3).is_same(&items(&[chunk, chunk])));
        assert!(!items(&[chunk]).is_same(&items(&[Item::Hole { len: 5 }])));
        assert!(!slice(5, 1, 3).is_same(&Content::Inline(vec![0; 5])));
    }

    #[test]
    fn links_are_in_order_with_duplicates() {
        let [a, b] = [BlobId([1; 32]), BlobId([2; 32])];
        let items = [b, a, b].map(|id| Item::Chunk { len: 1, link: Reference { id, ..Reference::default() } }).to_vec();
        assert_eq!(file(Content::Items { size: 3, items }).links(), [b, a, b]);
        assert_eq!(file(Content::List { size: 3, root: Reference { id: a, ..Reference::default() } }).links(), [a]);
        assert_eq!(Entry { node: Node::Directory(Reference { id: b, ..Reference::default() }), ..fifo() }.links(), [b]);
        assert!(fifo().links().is_empty());
    }
}
