//! The content of a large file: items over chunks, holes and further lists (`docs/format.md`, section 9).
//!
//! A decoded list is canonical: it encodes to the bytes it came from. That children are what their items announce is
//! for the reader to check, who has them.

use crate::coding::{Decoder, Encoder};
use crate::error::Result;
use crate::id::{BlobId, HalfTag, Reference};
use crate::record::CONTENT_BYTES_MAX;

/// The highest level of a list or tree.
pub const LEVELS_MAX: u8 = 8;

/// How many items, entries or children one node may have, and items one entry.
pub const NODE_ITEMS_MAX: usize = 65_536;

const HOLE: u8 = 0;
const CHUNK: u8 = 1;
const LIST: u8 = 2;
const SLICE: u8 = 3;

/// A piece of a file's content, in order; offsets are the sums of the lengths before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Item {
    /// Reads as zeros, is never stored.
    Hole {
        len: u64,
    },
    Chunk {
        len: u64,
        link: Reference,
    },
    /// Only in list nodes of level 1 and up.
    List {
        len: u64,
        link: Reference,
    },
    Slice(Slice),
}

/// A part of a chunk that several files share.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Slice {
    pub len: u64,
    /// Where it begins in the chunk.
    pub offset: u64,
    /// The chunk.
    pub link: Reference,
    /// Of these bytes as if they were a chunk of their own: the chunk's, if they are all of it.
    pub tag: HalfTag,
}

impl Slice {
    /// Whether it is all of its chunk.
    pub fn is_whole(&self) -> bool {
        self.tag == self.link.tag
    }

    /// Its bytes, if `chunk` can be the chunk: long enough, and no longer if it is meant as a whole.
    pub fn of<'c>(&self, chunk: &'c [u8]) -> Option<&'c [u8]> {
        let begin = usize::try_from(self.offset).ok()?;
        let bytes = chunk.get(begin..)?.get(..usize::try_from(self.len).ok()?)?;
        (!self.is_whole() || bytes.len() == chunk.len()).then_some(bytes)
    }
}

impl Item {
    /// How many bytes of the file it covers.
    pub fn covers(&self) -> u64 {
        match *self {
            Item::Hole { len } | Item::Chunk { len, .. } | Item::List { len, .. } | Item::Slice(Slice { len, .. }) => {
                len
            }
        }
    }

    /// The blob it names; a hole names none.
    pub fn link(&self) -> Option<Reference> {
        match *self {
            Item::Hole { .. } => None,
            Item::Chunk { link, .. } | Item::List { link, .. } | Item::Slice(Slice { link, .. }) => Some(link),
        }
    }

    /// The part of a chunk that it reads as: of one that it names alone, all. A hole and a list have none.
    pub fn slice(&self) -> Option<Slice> {
        match *self {
            Item::Chunk { len, link } => Some(Slice { len, offset: 0, link, tag: link.tag }),
            Item::Slice(slice) => Some(slice),
            Item::Hole { .. } | Item::List { .. } => None,
        }
    }

    fn encode_to(&self, e: &mut Encoder) {
        match self {
            Item::Hole { len } => e.u8(HOLE).varint(*len),
            Item::Chunk { len, link } => encode_reference(link, e.u8(CHUNK).varint(*len)),
            Item::List { len, link } => encode_reference(link, e.u8(LIST).varint(*len)),
            Item::Slice(Slice { len, offset, link, tag }) => {
                encode_reference(link, e.u8(SLICE).varint(*len).varint(*offset)).raw(&tag.0)
            }
        };
    }

    fn decode_from(d: &mut Decoder<'_>, level: u8) -> Result<Item> {
        let kind = d.u8()?;
        let len = d.varint()?;
        if len == 0 {
            return Err(d.corrupt("an item covers nothing"));
        }
        match (kind, level) {
            (HOLE, 0) => Ok(Item::Hole { len }),
            (CHUNK, 0) => Ok(Item::Chunk { len, link: decode_reference(d)? }),
            (LIST, 1..) => Ok(Item::List { len, link: decode_reference(d)? }),
            (SLICE, 0) => {
                let offset = d.varint()?;
                if offset.saturating_add(len) > CONTENT_BYTES_MAX as u64 {
                    return Err(d.corrupt("a slice reaches beyond any chunk"));
                }
                Ok(Item::Slice(Slice { len, offset, link: decode_reference(d)?, tag: HalfTag(d.array()?) }))
            }
            _ => Err(d.corrupt(format!("an item of kind {kind} at level {level}"))),
        }
    }
}

/// A link as nodes write it.
pub(crate) fn encode_reference<'e>(link: &Reference, e: &'e mut Encoder) -> &'e mut Encoder {
    e.raw(&link.id.0).raw(&link.tag.0)
}

pub(crate) fn decode_reference(d: &mut Decoder<'_>) -> Result<Reference> {
    Ok(Reference { id: BlobId(d.array()?), tag: HalfTag(d.array()?) })
}

/// The sum of what items cover, unless it exceeds 64 bits.
pub fn total(items: &[Item]) -> Option<u64> {
    items.iter().try_fold(0u64, |sum, item| sum.checked_add(item.covers()))
}

/// A count and that many items.
pub(crate) fn encode_items(items: &[Item], e: &mut Encoder) {
    e.varint(items.len() as u64);
    for item in items {
        item.encode_to(e);
    }
}

/// The reverse of [`encode_items`], with what they cover in all; at least one item, each of a kind that `level` may have.
pub(crate) fn decode_items(d: &mut Decoder<'_>, level: u8) -> Result<(Vec<Item>, u64)> {
    let count = d.count(NODE_ITEMS_MAX, 2, "items")?;
    if count == 0 {
        return Err(d.corrupt("a list of no items"));
    }
    let mut items = Vec::with_capacity(count);
    for _ in 0..count {
        items.push(Item::decode_from(d, level)?);
    }
    let size = total(&items).ok_or_else(|| d.corrupt("its items cover more than 64 bits can say"))?;
    Ok((items, size))
}

/// A decoded list node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct List {
    pub level: u8,
    pub items: Vec<Item>,
}

impl List {
    pub fn encode(&self) -> Vec<u8> {
        let mut e = Encoder::new();
        e.u8(self.level);
        encode_items(&self.items, &mut e);
        e.bytes
    }

    pub fn decode(bytes: &[u8], object: &str) -> Result<List> {
        let mut d = Decoder::new(bytes, object);
        let level = d.u8()?;
        if level > LEVELS_MAX {
            return Err(d.corrupt(format!("its level is {level}")));
        }
        let (items, _) = decode_items(&mut d, level)?;
        d.finish()?;
        Ok(List { level, items })
    }

    /// The blobs that this node names, in order, with duplicates.
    pub fn links(&self) -> Vec<BlobId> {
        self.items.iter().filter_map(Item::link).map(|link| link.id).collect()
    }
}

#[cfg(test)]
pub(crate) mod strategy {
    //! Arbitrary valid lists, for the tests of this and higher modules.

    use super::*;
    use proptest::prelude::*;

    pub fn link() -> impl Strategy<Value = Reference> {
        any::<([u8; 32], [u8; 16])>().prop_map(|(id, tag)| Reference { id: BlobId(id), tag: HalfTag(tag) })
    }

    /// Lengths small enough that any number of them can be summed, and of every varint size up to that.
    fn length() -> impl Strategy<Value = u64> {
        (0u32..46, any::<u64>()).prop_map(|(shift, n)| (n >> (18 + shift)).max(1))
    }

    fn slice() -> impl Strategy<Value = Slice> {
        let place = (1..=CONTENT_BYTES_MAX as u64).prop_flat_map(|end| (1..=end, Just(end)));
        (place, link(), any::<[u8; 16]>()).prop_map(|((len, end), link, tag)| Slice {
            len,
            offset: end - len,
            link,
            tag: HalfTag(tag),
        })
    }

    pub fn item() -> impl Strategy<Value = Item> {
        prop_oneof![
            length().prop_map(|len| Item::Hole { len }),
            (length(), link()).prop_map(|(len, link)| Item::Chunk { len, link }),
            slice().prop_map(Item::Slice),
        ]
    }

    pub fn list() -> impl Strategy<Value = List> {
        let leaf = prop::collection::vec(item(), 1..20).prop_map(|items| List { level: 0, items });
        let child = (length(), link()).prop_map(|(len, link)| Item::List { len, link });
        let inner =
            (1..=LEVELS_MAX, prop::collection::vec(child, 1..20)).prop_map(|(level, items)| List { level, items });
        prop_oneof![leaf, inner]
    }
}

#[cfg(test)]
pub(crate) mod damage {
    //! What every decoder has to bear: all truncations, all single-bit flips.

    use crate::error::{Error, Result};

    /// `reencode` decodes and encodes again. Truncated and extended forms are refused; a flipped bit is refused or means
    /// something else, but nothing has two forms. Every refusal is that of damage.
    pub fn check_every(bytes: &[u8], reencode: &dyn Fn(&[u8]) -> Result<Vec<u8>>) {
        assert_eq!(reencode(bytes).unwrap(), bytes);
        let refused = |bytes: &[u8]| {
            let error = reencode(bytes).unwrap_err();
            assert!(matches!(error, Error::Corrupt { .. }), "{error}");
        };
        (0..bytes.len()).for_each(|len| refused(&bytes[..len]));
        refused(&[bytes, &[0]].concat());
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut flipped = bytes.to_vec();
                flipped[at] ^= 1 << bit;
                match reencode(&flipped) {
                    Ok(again) => assert_eq!(again, flipped, "byte {at} bit {bit}"),
                    Err(error) => assert!(matches!(error, Error::Corrupt { .. }), "{error}"),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn reference(byte: u8) -> Reference {
        Reference { id: BlobId([byte; 32]), tag: HalfTag([byte; 16]) }
    }

    fn decode(bytes: &[u8]) -> Result<List> {
        List::decode(bytes, "list")
    }

    fn refused(bytes: &[u8]) -> bool {
        matches!(decode(bytes), Err(crate::Error::Corrupt { .. }))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn round_trip(list in strategy::list()) {
            prop_assert_eq!(decode(&list.encode()).unwrap(), list);
        }

        #[test]
        fn every_damage_is_borne(list in strategy::list()) {
            damage::check_every(&list.encode(), &|bytes| decode(bytes).map(|list| list.encode()));
        }

        #[test]
        fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(list) = decode(&bytes) {
                prop_assert_eq!(list.encode(), bytes);
            }
        }
    }

    #[test]
    fn a_slice_is_taken_from_a_chunk_that_has_it() {
        let slice = |offset, len, tag| Slice { len, offset, link: reference(1), tag: HalfTag([tag; 16]) };
        assert_eq!(slice(1, 3, 2).of(b"01234"), Some(&b"123"[..]));
        assert_eq!(slice(2, 3, 2).of(b"01234"), Some(&b"234"[..]));
        assert_eq!(slice(3, 3, 2).of(b"01234"), None);
        assert_eq!(slice(6, 1, 2).of(b"01234"), None);
        assert_eq!(slice(u64::MAX, 1, 2).of(b"01234"), None);
        let chunk = Item::Chunk { len: 5, link: reference(1) };
        assert_eq!(chunk.slice(), Some(slice(0, 5, 1)));
        assert_eq!(slice(0, 5, 1).of(b"01234"), Some(&b"01234"[..]));
        assert_eq!(slice(0, 4, 1).of(b"01234"), None, "all of a chunk is no less than it");
        assert_eq!(Item::Slice(slice(1, 3, 2)).slice(), Some(slice(1, 3, 2)));
        assert_eq!(Item::Hole { len: 1 }.slice(), None);
        assert_eq!(Item::List { len: 1, link: reference(1) }.slice(), None);
    }

    #[test]
    fn known_bytes() {
        let list = List { level: 0, items: vec![Item::Hole { len: 300 }, Item::Chunk { len: 5, link: reference(7) }] };
        let mut bytes = vec![0, 2, 0, 0xac, 2, 1, 5];
        bytes.extend([7; 48]);
        assert_eq!(list.encode(), bytes);
        let slice = Slice { len: 5, offset: 300, link: reference(7), tag: HalfTag([8; 16]) };
        let sliced = List { level: 0, items: vec![Item::Slice(slice)] };
        assert_eq!(sliced.encode(), [&[0, 1, 3, 5, 0xac, 2][..], &[7; 48], &[8; 16]].concat());
        let upper = List { level: 3, items: vec![Item::List { len: 1, link: reference(9) }] };
        assert_eq!(upper.encode(), [&[3, 1, 2, 1][..], &[9; 48]].concat());
    }

    #[test]
    fn what_no_writer_makes_is_refused() {
        let link = reference(1);
        let encoded = |level, items| List { level, items }.encode();
        assert!(!refused(&encoded(0, vec![Item::Hole { len: u64::MAX }])));
        assert!(refused(&encoded(0, vec![])), "empty");
        assert!(refused(&encoded(1, vec![])), "empty");
        assert!(refused(&encoded(0, vec![Item::Hole { len: 0 }])), "no length");
        assert!(refused(&encoded(0, vec![Item::Chunk { len: 0, link }])), "no length");
        assert!(refused(&encoded(0, vec![Item::List { len: 1, link }])), "a list below level 1");
        assert!(refused(&encoded(1, vec![Item::Chunk { len: 1, link }])), "a chunk above level 0");
        assert!(refused(&encoded(1, vec![Item::Hole { len: 1 }])), "a hole above level 0");
        assert!(refused(&encoded(9, vec![Item::List { len: 1, link }])), "too high");
        assert!(refused(&encoded(0, vec![Item::Hole { len: u64::MAX }, Item::Hole { len: 1 }])), "overflow");
        let slice = |len, offset| Item::Slice(Slice { len, offset, link, tag: link.tag });
        assert!(!refused(&encoded(0, vec![slice(16 << 20, 0)])));
        assert!(refused(&encoded(0, vec![slice(16 << 20, 1)])), "beyond any chunk");
        assert!(refused(&encoded(0, vec![slice(1, u64::MAX)])), "beyond any chunk");
        assert!(refused(&encoded(0, vec![slice(0, 1)])), "no length");
        assert!(refused(&encoded(1, vec![slice(1, 1)])), "a slice above level 0");
        assert!(refused(&[0, 1, 4, 1]), "unknown kind");
        assert!(!refused(&encoded(0, vec![Item::Hole { len: 1 }; NODE_ITEMS_MAX])));
        assert!(refused(&encoded(0, vec![Item::Hole { len: 1 }; NODE_ITEMS_MAX + 1])), "too many");
        assert!(refused(&[0, 0xff, 0xff, 0xff, 0xff, 0x0f]), "a count is no reason to allocate");
    }
}
