//! Nodes that no writer makes. Each is sealed with the right keys: a member of the repository turned hostile.

use super::*;

fn inner(level: u8, children: &[(&str, Reference)]) -> Tree {
    Tree::Inner { level, children: children.iter().map(|(name, link)| (name.as_bytes().to_vec(), *link)).collect() }
}

fn object(link: Reference) -> String {
    format!("blob {}", link.id)
}

/// The directory is refused as a whole and where a name leads to the bad child, naming that.
fn refused_at(s: &Setup, root: Reference, name: &str, bad: Reference, why: &str) {
    let (found, reason) = damage(all_entries(&s.reader(), root));
    assert_eq!(found, object(bad));
    assert!(reason.contains(why), "{reason}");
    assert_eq!(damage(s.reader().lookup(root, name.as_bytes())).0, object(bad));
}

#[test]
fn children_of_another_level_are_refused() {
    let s = Setup::new();
    let leaf = s.insert_tree(&Tree::Leaf(vec![fifo("a")]));
    refused_at(&s, s.insert_tree(&inner(2, &[("a", leaf)])), "a", leaf, "level 0 below one of level 2");
    let one = s.insert_tree(&inner(1, &[("a", leaf)]));
    refused_at(&s, s.insert_tree(&inner(1, &[("a", one)])), "a", one, "level 1 below one of level 1");
    let two = s.insert_tree(&inner(2, &[("a", one)]));
    assert_eq!(all_entries(&s.reader(), two).unwrap(), [fifo("a")]);
}

#[test]
fn children_that_begin_otherwise_are_refused() {
    let s = Setup::new();
    let leaf = s.insert_tree(&Tree::Leaf(vec![fifo("b"), fifo("c")]));
    refused_at(&s, s.insert_tree(&inner(1, &[("a", leaf)])), "a", leaf, "does not begin with the name");
    refused_at(&s, s.insert_tree(&inner(1, &[("c", leaf)])), "c", leaf, "does not begin with the name");
    let empty = s.insert_tree(&Tree::Leaf(vec![]));
    refused_at(&s, s.insert_tree(&inner(1, &[("a", empty)])), "a", empty, "does not begin with the name");
}

#[test]
fn names_ascend_through_all_leaves() {
    let s = Setup::new();
    let first = s.insert_tree(&Tree::Leaf(vec![fifo("a"), fifo("m")]));
    for second_name in ["b", "m"] {
        let second = s.insert_tree(&Tree::Leaf(vec![fifo(second_name), fifo("z")]));
        let root = s.insert_tree(&inner(1, &[("a", first), (second_name, second)]));
        let (found, reason) = damage(all_entries(&s.reader(), root));
        assert_eq!(found, object(second));
        assert!(reason.contains("do not follow"), "{reason}");
    }
}

#[test]
fn a_blob_of_another_kind_is_refused() {
    let s = Setup::new();
    let tree = s.insert_tree(&Tree::Leaf(vec![]));
    let list = s.insert_list(0, vec![Item::Hole { len: 1 }]);
    let chunk = s.chunk(&[0, 0]).link().unwrap();
    let content = |root| Content::List { size: 1, root };
    // Once from the store, once with what the cache knows.
    let reader = s.reader();
    for _ in 0..2 {
        assert_eq!(damage(reader.chunks(&[tree]).unwrap().remove(0)).0, object(tree));
        assert_eq!(damage(all_entries(&reader, list)).0, object(list));
        assert_eq!(damage(all_entries(&reader, chunk)).0, object(chunk));
        assert_eq!(damage(all_items(&reader, &content(tree), 0..1)).0, object(tree));
        assert_eq!(damage(all_items(&reader, &content(chunk), 0..1)).0, object(chunk));
        all_entries(&reader, tree).unwrap();
        all_items(&reader, &content(list), 0..1).unwrap();
        assert_eq!(reader.chunks(&[chunk]).unwrap().remove(0).unwrap(), [0, 0]);
    }
}

#[test]
fn links_must_be_those_that_the_content_names() {
    let s = Setup::new();
    let chunk = s.chunk(b"content").link().unwrap();
    let other = s.chunk(b"other").link().unwrap();
    let list = List { level: 0, items: vec![Item::Chunk { len: 7, link: chunk }] };
    let tree = Tree::Leaf(vec![Entry { node: EntryNode::Directory(chunk), ..fifo("d") }]);
    for links in [vec![], vec![other.id], vec![chunk.id, other.id]] {
        let root = s.insert(Kind::List, &list.encode(), &links);
        let (found, reason) = damage(s.reader().read_at(&Content::List { size: 7, root }, 0, 7));
        assert_eq!(found, object(root));
        assert!(reason.contains("links"), "{reason}");
        let root = s.insert(Kind::Tree, &tree.encode(), &links);
        assert_eq!(damage(s.reader().lookup(root, b"d")).0, object(root));
    }
}

#[test]
fn content_of_another_tag_is_refused() {
    let s = Setup::new();
    let mut link = s.insert_tree(&Tree::Leaf(vec![fifo("a")]));
    link.tag.0[15] ^= 1;
    let (found, reason) = damage(all_entries(&s.reader(), link));
    assert_eq!(found, object(link));
    assert!(reason.contains("its parent names"), "{reason}");
    let mut chunk = s.chunk(b"content").link().unwrap();
    let reader = s.reader();
    reader.read_at(&Content::Items { size: 7, items: vec![Item::Chunk { len: 7, link: chunk }] }, 0, 7).unwrap();
    chunk.tag.0[0] ^= 1;
    let content = Content::Items { size: 7, items: vec![Item::Chunk { len: 7, link: chunk }] };
    assert_eq!(damage(reader.read_at(&content, 0, 7)).0, object(chunk), "not from the cache either");
}

#[test]
fn malformed_nodes_are_refused() {
    let s = Setup::new();
    for content in [&b""[..], b"\0", b"\0\x01", b"\x09\x01", b"\0\0\0"] {
        let root = s.insert(Kind::Tree, content, &[]);
        assert_eq!(damage(all_entries(&s.reader(), root)).0, object(root));
        let root = s.insert(Kind::List, content, &[]);
        assert_eq!(damage(all_items(&s.reader(), &Content::List { size: 1, root }, 0..1)).0, object(root));
    }
}

#[test]
fn lists_cover_what_is_announced() {
    let s = Setup::new();
    let leaf = s.insert_list(0, vec![Item::Hole { len: 7 }]);
    let upper = |len| s.insert_list(1, vec![Item::List { len, link: leaf }]);
    let all = |size, root| all_items(&s.reader(), &Content::List { size, root }, 0..u64::MAX);
    assert_eq!(all(7, upper(7)).unwrap(), [(0, Item::Hole { len: 7 })]);
    for len in [6, 8] {
        assert_eq!(damage(all(len, leaf)).0, object(leaf));
        assert_eq!(damage(all(len, upper(len))).0, object(leaf));
        let root = upper(7);
        assert_eq!(damage(all(len, root)).0, object(root));
    }
    let high = s.insert_list(2, vec![Item::List { len: 7, link: leaf }]);
    let (found, reason) = damage(all(7, high));
    assert_eq!(found, object(leaf));
    assert!(reason.contains("level 0 below one of level 2"), "{reason}");
}

#[test]
fn chunks_are_as_long_as_announced() {
    let s = Setup::new();
    let link = s.chunk(b"content").link().unwrap();
    for len in [1, 6, 8, 1 << 50] {
        let content = Content::Items { size: len, items: vec![Item::Chunk { len, link }] };
        assert_eq!(damage(s.reader().read_at(&content, 0, 5)).0, object(link));
    }
}

#[test]
fn content_made_by_hand_is_refused() {
    let s = Setup::new();
    let invalid = |content| matches!(all_items(&s.reader(), &content, 0..100), Err(Error::Invalid { .. }));
    assert!(invalid(Content::Items { size: 5, items: vec![Item::Hole { len: 4 }] }));
    let items = vec![Item::Hole { len: u64::MAX }, Item::Hole { len: 1 }];
    assert!(invalid(Content::Items { size: u64::MAX, items }));
    let list = s.insert_list(0, vec![Item::Hole { len: 7 }]);
    let content = Content::Items { size: 7, items: vec![Item::List { len: 7, link: list }] };
    assert_eq!(damage(all_items(&s.reader(), &content, 0..7)).0, object(list));
}

/// Eight levels of 4,096 times the same child: more items than any time suffices for, in nine records.
#[test]
fn a_bomb_of_lists_costs_only_what_is_asked_of_it() {
    let s = Setup::new();
    let mut len = 2u64;
    let mut root = s.insert_list(0, vec![Item::Hole { len: 1 }, Item::Hole { len: 1 }]);
    for level in 1..=5 {
        root = s.insert_list(level, vec![Item::List { len, link: root }; 4096]);
        len *= 4096;
    }
    let content = Content::List { size: len, root };
    let reader = s.reader();
    s.store.take_read();
    assert_eq!(reader.read_at(&content, len - 3, 100).unwrap(), [0; 3]);
    assert_eq!(reader.read_at(&content, len / 2 + 1, 2).unwrap(), [0; 2]);
    assert_eq!(s.store.take_read().len(), 6);
    let mut seen = 0;
    let mut visit = |_, _| {
        seen += 1;
        Ok(if seen < 10_000 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
    };
    reader.items(&content, 0..len, &mut visit).unwrap();
    let beyond = s.insert_list(6, vec![Item::List { len: 1 << 61, link: root }; 8]);
    assert!(damage(reader.list(beyond)).1.contains("64 bits"));
}

#[test]
fn a_store_that_answers_with_another_record_is_found_out() {
    let s = Setup::new();
    let asked = s.insert_tree(&Tree::Leaf(vec![fifo("a")]));
    let other = s.insert_tree(&Tree::Leaf(vec![fifo("b")]));
    let mut contents = s.store.contents();
    let record = contents.records[&other.id].clone();
    contents.records.insert(asked.id, record);
    drop(contents);
    let (found, reason) = damage(all_entries(&s.reader(), asked));
    assert_eq!(found, object(asked));
    assert!(reason.contains("another record"), "{reason}");
}

/// A chunk sealed as a delta of others.
fn delta(s: &Setup, content: &[u8], bases: &[(Reference, Vec<u8>)]) -> Reference {
    let tag = s.sealer.key.tag(Kind::Chunk, content);
    let bases: Vec<_> = bases.iter().map(|(link, content)| (link.id, content.clone().into())).collect();
    let record = s.sealer.seal_delta(tag, content, &bases).unwrap();
    Reference { id: s.store.insert(record, &s.sealer.capsule), tag: tag.half() }
}

/// A chunk and `len` deltas, each of the one before.
fn chain(s: &Setup, len: u32) -> (Reference, Vec<u8>) {
    let content = |n: u32| [&[7; 200][..], &n.to_le_bytes()].concat();
    let mut last = (s.chunk(&content(0)).link().unwrap(), content(0));
    for n in 1..=len {
        let link = delta(s, &content(n), &[last]);
        last = (link, content(n));
    }
    last
}

fn one(reader: &Reader, link: Reference) -> Result<Vec<u8>> {
    reader.chunks(&[link]).unwrap().remove(0)
}

#[test]
fn chains_of_deltas_end_at_sixteen() {
    let s = Setup::new();
    let (link, content) = chain(&s, 16);
    assert_eq!(one(&s.reader(), link).unwrap(), content);
    let uncached = Reader::with_caches(s.store.clone(), s.store.opener(), 0, 0);
    assert_eq!(one(&uncached, link).unwrap(), content);
    let (link, _) = chain(&s, 17);
    for reader in [s.reader(), uncached] {
        assert!(damage(one(&reader, link)).1.contains("chain"));
    }
    let (link, _) = chain(&s, 10_000);
    assert!(damage(one(&s.reader(), link)).1.contains("chain"), "no recursion without end");
}

#[test]
fn bases_are_cached() {
    let s = Setup::new();
    let (base, content) = chain(&s, 3);
    let other = delta(&s, b"other", &[(base, content)]);
    let reader = s.reader();
    s.store.take_read();
    one(&reader, base).unwrap();
    assert_eq!(s.store.take_read().len(), 4);
    one(&reader, other).unwrap();
    assert_eq!(s.store.take_read().len(), 2, "itself and the one base that was not needed as such before");
}

/// Sixteen levels of three bases each: 43 million ways down, in 49 records.
#[test]
fn a_bomb_of_deltas_is_bounded() {
    let s = Setup::new();
    let content = |level: usize, n: usize| vec![u8::try_from(level * 3 + n).unwrap(); 100];
    let mut below: Vec<_> = (0..3).map(|n| (s.chunk(&content(0, n)).link().unwrap(), content(0, n))).collect();
    for level in 1..=15 {
        below = (0..3).map(|n| (delta(&s, &content(level, n), &below), content(level, n))).collect();
    }
    let top = delta(&s, b"top", &below);
    let uncached = Reader::with_caches(s.store.clone(), s.store.opener(), 0, 0);
    s.store.take_read();
    assert!(damage(one(&uncached, top)).1.contains("bases"));
    // Twice: the second time each base is proved by itself.
    assert!(s.store.take_read().len() < 600);
    assert_eq!(one(&s.reader(), top).unwrap(), b"top", "each base once");
}

#[test]
fn a_chunk_of_a_chunk_that_is_none_fails_alone() {
    let s = Setup::new();
    let good = s.chunk(b"good").link().unwrap();
    let node = s.insert_tree(&Tree::Leaf(vec![]));
    let odd = delta(&s, b"odd", &[(node, b"pretended".to_vec())]);
    let missing = Reference { id: BlobId([9; 32]), ..Reference::default() };
    let mut contents = s.reader().chunks(&[good, odd, missing, node, good]).unwrap();
    assert_eq!(contents.remove(4).unwrap(), b"good");
    assert_eq!(damage(contents.remove(3)).0, object(node));
    assert!(matches!(contents.remove(2), Err(Error::Missing { .. })));
    assert_eq!(damage(contents.remove(1)).0, object(node), "named is what is wrong");
    assert_eq!(contents.remove(0).unwrap(), b"good");
}
