//! Arbitrary valid entries and tree nodes, of every type and form, for the tests of this and higher modules.

use super::*;
use crate::list::{self, strategy as lists};
use proptest::prelude::*;
use std::collections::BTreeMap;

pub fn name() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![4 => b'a'..=b'z', 1 => 1u8..=255].prop_filter("separator", |byte| *byte != b'/');
    prop::collection::vec(byte, 1..40).prop_filter("a name", |name| is_name(name))
}

fn bytes(len: usize) -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..len)
}

fn hard_link() -> impl Strategy<Value = HardLink> {
    (any::<u64>(), any::<u64>(), 2u64..10).prop_map(|(device, inode, names)| HardLink { device, inode, names })
}

pub fn attributes() -> impl Strategy<Value = Attributes> {
    let owner = (any::<u32>(), any::<u32>(), bytes(10), bytes(10));
    let time = (any::<i64>(), 0u32..1_000_000_000);
    let xattrs = prop::collection::btree_map(name(), bytes(30), 0..4);
    let hard_link = prop::option::weighted(0.2, hard_link());
    (0u32..=0o7777, owner, time, any::<u32>(), xattrs, hard_link).prop_map(
        |(mode, (uid, gid, user, group), (seconds, nanoseconds), flags, xattrs, hard_link)| Attributes {
            mode,
            uid,
            gid,
            user,
            group,
            modified: Time { seconds, nanoseconds },
            flags: flags & Attributes::FLAGS,
            xattrs: xattrs.into_iter().collect(),
            hard_link,
        },
    )
}

pub fn content() -> impl Strategy<Value = Content> {
    let items = prop::collection::vec(lists::item(), 1..5)
        .prop_map(|items| Content::Items { size: list::total(&items).unwrap(), items });
    let list = (1..=u64::MAX, lists::link()).prop_map(|(size, root)| Content::List { size, root });
    prop_oneof![bytes(60).prop_map(Content::Inline), items, list]
}

pub fn node() -> impl Strategy<Value = Node> {
    let target = prop::collection::vec(1u8..=255, 1..60);
    let device = || (any::<u32>(), any::<u32>());
    prop_oneof![
        3 => content().prop_map(Node::File),
        1 => lists::link().prop_map(Node::Directory),
        1 => target.prop_map(Node::Symlink),
        1 => Just(Node::Fifo),
        1 => Just(Node::Socket),
        1 => device().prop_map(|(major, minor)| Node::CharacterDevice { major, minor }),
        1 => device().prop_map(|(major, minor)| Node::BlockDevice { major, minor }),
    ]
}

pub fn entry() -> impl Strategy<Value = Entry> {
    (name(), attributes(), node()).prop_map(|(name, mut attributes, node)| {
        if matches!(node, Node::Directory(_)) {
            attributes.hard_link = None;
        }
        Entry { name, attributes, node }
    })
}

/// Entries with names ascending.
pub fn entries(count: std::ops::Range<usize>) -> impl Strategy<Value = Vec<Entry>> {
    prop::collection::vec(entry(), count).prop_map(|entries| {
        let sorted: BTreeMap<_, _> = entries.into_iter().map(|entry| (entry.name.clone(), entry)).collect();
        sorted.into_values().collect()
    })
}

pub fn tree() -> impl Strategy<Value = Tree> {
    let children = prop::collection::btree_map(name(), lists::link(), 1..8);
    let inner = (1..=list::LEVELS_MAX, children)
        .prop_map(|(level, children)| Tree::Inner { level, children: children.into_iter().collect() });
    prop_oneof![entries(0..6).prop_map(Tree::Leaf), inner]
}
