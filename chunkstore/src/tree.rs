//! Directories: nodes of entries in canonical order and bytes (`docs/format.md`, section 9).
//!
//! A decoded node is canonical: it encodes to the bytes it came from. That children are what their parents announce
//! is for the reader to check, who has them.

mod entry;

#[cfg(test)]
pub(crate) mod strategy;

pub use entry::{Attributes, Content, Entry, HardLink, Node, Time, is_name};

use crate::coding::{Decoder, Encoder};
use crate::error::Result;
use crate::id::{BlobId, HalfTag, Reference};
use crate::list::{self, LEVELS_MAX, NODE_ITEMS_MAX};

/// A decoded tree node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Tree {
    Leaf(Vec<Entry>),
    /// Names the first entry of each child.
    Inner {
        level: u8,
        children: Vec<(Vec<u8>, Reference)>,
    },
}

impl Tree {
    pub fn encode(&self) -> Vec<u8> {
        let mut e = Encoder::new();
        match self {
            Tree::Leaf(entries) => {
                encode_head(0, entries.len(), &mut e);
                entries.iter().for_each(|entry| entry.encode_to(&mut e));
            }
            Tree::Inner { level, children } => {
                encode_head(*level, children.len(), &mut e);
                children.iter().for_each(|(name, link)| encode_child(name, link, &mut e));
            }
        }
        e.bytes
    }

    pub fn decode(bytes: &[u8], object: &str) -> Result<Tree> {
        let mut d = Decoder::new(bytes, object);
        let tree = match d.u8()? {
            0 => Tree::Leaf(decode_entries(&mut d)?),
            level @ 1..=LEVELS_MAX => Tree::Inner { level, children: decode_children(&mut d)? },
            level => return Err(d.corrupt(format!("its level is {level}"))),
        };
        d.finish()?;
        Ok(tree)
    }

    pub fn level(&self) -> u8 {
        match self {
            Tree::Leaf(_) => 0,
            Tree::Inner { level, .. } => *level,
        }
    }

    /// The name it begins with; none if the directory is empty.
    pub fn first_name(&self) -> Option<&[u8]> {
        match self {
            Tree::Leaf(entries) => entries.first().map(|entry| entry.name.as_slice()),
            Tree::Inner { children, .. } => children.first().map(|(name, _)| name.as_slice()),
        }
    }

    /// The blobs that this node names, in order, with duplicates.
    pub fn links(&self) -> Vec<BlobId> {
        match self {
            Tree::Leaf(entries) => entries.iter().flat_map(Entry::links).collect(),
            Tree::Inner { children, .. } => children.iter().map(|(_, link)| link.id).collect(),
        }
    }
}

/// What a node begins with; its `count` entries or children follow.
pub(crate) fn encode_head(level: u8, count: usize, e: &mut Encoder) {
    e.u8(level).varint(count as u64);
}

pub(crate) fn encode_child(first_name: &[u8], link: &Reference, e: &mut Encoder) {
    list::encode_reference(link, e.bytes(first_name));
}

fn decode_entries(d: &mut Decoder<'_>) -> Result<Vec<Entry>> {
    let count = d.count(NODE_ITEMS_MAX, Entry::BYTES_MIN, "entries")?;
    let mut entries: Vec<Entry> = Vec::with_capacity(count);
    for _ in 0..count {
        let entry = Entry::decode_from(d)?;
        if entries.last().is_some_and(|last| last.name >= entry.name) {
            return Err(d.corrupt("names are out of order"));
        }
        entries.push(entry);
    }
    Ok(entries)
}

fn decode_children(d: &mut Decoder<'_>) -> Result<Vec<(Vec<u8>, Reference)>> {
    let count = d.count(NODE_ITEMS_MAX, 2 + BlobId::LEN + HalfTag::LEN, "children")?;
    if count == 0 {
        return Err(d.corrupt("it has no children"));
    }
    let mut children: Vec<(Vec<u8>, Reference)> = Vec::with_capacity(count);
    for _ in 0..count {
        let name = entry::decode_name(d)?;
        if children.last().is_some_and(|(last, _)| *last >= name) {
            return Err(d.corrupt("names are out of order"));
        }
        children.push((name, list::decode_reference(d)?));
    }
    Ok(children)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::list::damage;
    use proptest::prelude::*;

    fn decode(bytes: &[u8]) -> Result<Tree> {
        Tree::decode(bytes, "tree")
    }

    fn refused(tree: &Tree) -> bool {
        matches!(decode(&tree.encode()), Err(crate::Error::Corrupt { .. }))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn round_trip(tree in strategy::tree()) {
            prop_assert_eq!(decode(&tree.encode()).unwrap(), tree);
        }

        #[test]
        fn every_damage_is_borne(tree in strategy::tree()) {
            damage::check_every(&tree.encode(), &|bytes| decode(bytes).map(|tree| tree.encode()));
        }

        #[test]
        fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(tree) = decode(&bytes) {
                prop_assert_eq!(tree.encode(), bytes);
            }
        }
    }

    #[test]
    fn known_bytes() {
        assert_eq!(Tree::Leaf(vec![]).encode(), [0, 0]);
        let inner = Tree::Inner {
            level: 2,
            children: vec![(b"ab".to_vec(), Reference { id: BlobId([5; 32]), tag: HalfTag([5; 16]) })],
        };
        assert_eq!(inner.encode(), [&[2, 1, 2, b'a', b'b'][..], &[5; 48]].concat());
    }

    #[test]
    fn what_no_writer_makes_is_refused() {
        let named = |name: &str| Entry { name: name.into(), attributes: Attributes::default(), node: Node::Fifo };
        let child = |name: &str| (name.as_bytes().to_vec(), Reference { id: BlobId([5; 32]), tag: HalfTag([5; 16]) });
        let inner = |level, names: &[&str]| Tree::Inner { level, children: names.iter().copied().map(child).collect() };
        assert!(!refused(&Tree::Leaf(vec![named("a"), named("b")])));
        assert!(!refused(&inner(8, &["a", "b"])));
        assert!(refused(&Tree::Leaf(vec![named("b"), named("a")])), "order");
        assert!(refused(&Tree::Leaf(vec![named("a"), named("a")])), "twice");
        assert!(refused(&inner(1, &["b", "a"])), "order");
        assert!(refused(&inner(1, &["a", "a"])), "twice");
        assert!(refused(&inner(1, &[])), "empty");
        assert!(refused(&inner(9, &["a"])), "too high");
        for name in ["", ".", "..", "a/b", "a\0b", &"n".repeat(256)] {
            assert!(refused(&inner(1, &[name])), "name {name:?}");
        }
    }
}
