//! What was written comes back; what a hostile or damaged store holds is refused by name.

mod hostile;

mod lost;

mod places;

use super::*;
use crate::codec::Sealer;
use crate::list::{Item, Slice};
use crate::store::memory::MemoryStore;
use crate::tree::{Attributes, Content, Entry, Node as EntryNode, strategy};
use crate::writer::{BlobWriter, ListBuilder, TreeBuilder};
use proptest::prelude::*;
use std::ops::{ControlFlow, Range};

/// A store with a writing session that may also store what no writer would.
struct Setup {
    store: Arc<MemoryStore>,
    sealer: Sealer,
}

impl Setup {
    fn new() -> Setup {
        let store = MemoryStore::new();
        Setup { sealer: store.sealer(), store }
    }

    fn reader(&self) -> Reader {
        Reader::new(self.store.clone(), self.store.opener())
    }

    fn writer(&self) -> BlobWriter<'_> {
        BlobWriter::new(&*self.store, self.store.sealer())
    }

    /// Stores a blob with any links, whether they are stored or not.
    fn insert(&self, kind: Kind, content: &[u8], links: &[BlobId]) -> Reference {
        let tag = self.sealer.key.tag(kind, content);
        let record = self.sealer.seal(kind, tag, content, links).unwrap();
        Reference { id: self.store.insert(record, &self.sealer.capsule), tag: tag.half() }
    }

    fn insert_tree(&self, tree: &Tree) -> Reference {
        self.insert(Kind::Tree, &tree.encode(), &tree.links())
    }

    fn insert_list(&self, level: u8, items: Vec<Item>) -> Reference {
        let list = List { level, items };
        self.insert(Kind::List, &list.encode(), &list.links())
    }

    fn chunk(&self, content: &[u8]) -> Item {
        let link = self.writer().put(Kind::Chunk, content, &[]).unwrap();
        Item::Chunk { len: content.len() as u64, link }
    }

    fn build(&self, entries: &[Entry]) -> Reference {
        let writer = self.writer();
        let mut builder = TreeBuilder::new();
        for entry in entries {
            self.store.contents().pretended.extend(entry.links());
            builder.push(&entry.name, &entry.encode(), &entry.links(), &writer).unwrap();
        }
        builder.finish(&writer).unwrap()
    }

    fn build_file(&self, items: &[Item]) -> Content {
        let writer = self.writer();
        let mut builder = ListBuilder::new();
        for item in items {
            builder.push(*item, &writer).unwrap();
        }
        builder.finish(&writer).unwrap()
    }
}

fn fifo(name: &str) -> Entry {
    Entry { name: name.into(), attributes: Attributes::default(), node: EntryNode::Fifo }
}

fn many(count: usize) -> Vec<Entry> {
    (0..count).map(|n| fifo(&format!("{n:06}"))).collect()
}

fn all_entries(reader: &Reader, tree: Reference) -> Result<Vec<Entry>> {
    let mut entries = Vec::new();
    reader.entries(tree, &mut |entry| {
        entries.push(entry);
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(entries)
}

fn all_items(reader: &Reader, content: &Content, range: Range<u64>) -> Result<Vec<(u64, Item)>> {
    let mut items = Vec::new();
    reader.items(content, range, &mut |at, item| {
        items.push((at, item));
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(items)
}

/// The blob that is found damaged, and why.
fn damage<T: std::fmt::Debug>(result: Result<T>) -> (String, String) {
    match result {
        Err(Error::Corrupt { object, reason }) => (object, reason),
        other => panic!("{other:?}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn directories_come_back(entries in strategy::entries(0..30)) {
        let s = Setup::new();
        let root = s.build(&entries);
        prop_assert_eq!(all_entries(&s.reader(), root).unwrap(), entries);
    }

    #[test]
    fn bytes_at_any_offset_are_those_written(
        pieces in prop::collection::vec((1usize..60, any::<u8>(), any::<bool>()), 0..150),
        offset in 0u64..5000, len in 0usize..5000,
    ) {
        let s = Setup::new();
        let mut bytes = Vec::new();
        let mut items = Vec::new();
        for (len, fill, hole) in pieces {
            let content = vec![if hole { 0 } else { fill }; len];
            items.push(if hole { Item::Hole { len: len as u64 } } else { s.chunk(&content) });
            bytes.extend(content);
        }
        let content = s.build_file(&items);
        prop_assert_eq!(content.size(), bytes.len() as u64);
        let start = bytes.len().min(usize::try_from(offset).unwrap());
        let end = bytes.len().min(start.saturating_add(len));
        prop_assert_eq!(s.reader().read_at(&content, offset, len).unwrap(), &bytes[start..end]);
    }
}

#[test]
fn large_directories_are_found_by_name() {
    let s = Setup::new();
    let entries = many(60_000);
    let root = s.build(&entries);
    let reader = s.reader();
    assert_eq!(all_entries(&reader, root).unwrap(), entries);
    for entry in entries.iter().step_by(997) {
        assert_eq!(reader.lookup(root, &entry.name).unwrap().as_ref(), Some(entry));
    }
    for name in ["", "0", "000000a", "1", "zzz"] {
        assert_eq!(reader.lookup(root, name.as_bytes()).unwrap(), None, "{name}");
    }
    let levels = usize::from(reader.tree(root).unwrap().level()) + 1;
    assert!(levels > 1);
    s.store.take_read();
    let fresh = s.reader();
    fresh.lookup(root, b"012345").unwrap().unwrap();
    assert_eq!(s.store.take_read().len(), levels, "one node of each level");
    fresh.lookup(root, b"012345").unwrap().unwrap();
    assert!(s.store.take_read().is_empty(), "nodes are cached");
}

#[test]
fn a_visit_may_end_early_or_fail() {
    let s = Setup::new();
    let root = s.build(&many(20_000));
    let reader = s.reader();
    let mut seen = 0;
    let count = |seen: &mut i32| {
        *seen += 1;
        Ok(if *seen == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    };
    s.store.take_read();
    reader.entries(root, &mut |_| count(&mut seen)).unwrap();
    assert_eq!(seen, 3);
    assert!(s.store.take_read().len() <= 3);
    assert!(matches!(reader.entries(root, &mut |_| Err(Error::Interrupted)), Err(Error::Interrupted)));
    let content = Content::Items { size: 9, items: vec![Item::Hole { len: 1 }; 9] };
    seen = 0;
    reader.items(&content, 0..9, &mut |_, _| count(&mut seen)).unwrap();
    assert_eq!(seen, 3);
    assert!(matches!(reader.items(&content, 0..9, &mut |_, _| Err(Error::Interrupted)), Err(Error::Interrupted)));
}

#[test]
fn paths_are_followed() {
    let s = Setup::new();
    let directory = |name: &str, tree| Entry { node: EntryNode::Directory(tree), ..fifo(name) };
    let etc = directory("etc", s.build(&[fifo("passwd")]));
    let root = s.build(&[etc.clone(), fifo("file")]);
    let reader = s.reader();
    let resolve = |path: &str| reader.resolve(root, path.as_bytes()).unwrap();
    assert_eq!(resolve("etc/passwd"), Some(fifo("passwd")));
    assert_eq!(resolve("/etc//passwd"), Some(fifo("passwd")));
    assert_eq!(resolve("etc/"), Some(etc));
    for path in ["", "/", "etc/x", "x", "file/x", "etc/passwd/x", "..", "etc/.."] {
        assert_eq!(resolve(path), None, "{path}");
    }
}

#[test]
fn a_range_reads_few_lists() {
    let s = Setup::new();
    let chunk = s.chunk(b"0123456789");
    let items = vec![chunk; 4096 * 70 + 5];
    let content = s.build_file(&items);
    let size = content.size();
    let reader = s.reader();
    assert_eq!(all_items(&reader, &content, 0..size).unwrap().len(), items.len());
    let root = match &content {
        Content::List { root, .. } => reader.list(*root).unwrap(),
        other => panic!("{other:?}"),
    };
    s.store.take_read();
    for at in [0, 40_955, 1_000_000, 1_234_567, size - 15] {
        let found = all_items(&s.reader(), &content, at..at + 10).unwrap();
        let begin = at / 10 * 10;
        let expected: Vec<_> = (begin..(at + 10).min(size)).step_by(10).map(|at| (at, chunk)).collect();
        assert_eq!(found, expected);
        assert!(s.store.take_read().len() <= (usize::from(root.level) + 1) * 2, "the path to either end");
    }
    assert_eq!(reader.read_at(&content, size - 15, 100).unwrap(), b"567890123456789");
    assert_eq!(reader.read_at(&content, 2_000_003, 4).unwrap(), b"3456");
    assert!(all_items(&reader, &content, size..u64::MAX).unwrap().is_empty());
    assert!(all_items(&reader, &content, 7..7).unwrap().is_empty());
}

#[test]
fn holes_of_any_length_and_inline_content() {
    let s = Setup::new();
    let reader = s.reader();
    let content = s.build_file(&[s.chunk(b"begin"), Item::Hole { len: u64::MAX - 8 }, s.chunk(b"end")]);
    assert_eq!(content.size(), u64::MAX);
    assert_eq!(reader.read_at(&content, 3, 4).unwrap(), b"in\0\0");
    assert_eq!(reader.read_at(&content, u64::MAX - 4, 100).unwrap(), b"\0end");
    assert_eq!(reader.read_at(&content, 1 << 40, 3).unwrap(), [0; 3]);
    assert_eq!(all_items(&reader, &content, 0..u64::MAX).unwrap().len(), 3);
    let inline = Content::Inline(b"inline".to_vec());
    assert_eq!(reader.read_at(&inline, 2, 3).unwrap(), b"lin");
    assert_eq!(reader.read_at(&inline, 2, 300).unwrap(), b"line");
    assert!(reader.read_at(&inline, 6, 1).unwrap().is_empty());
    assert!(reader.read_at(&inline, u64::MAX, 1).unwrap().is_empty());
    assert!(all_items(&reader, &inline, 0..6).unwrap().is_empty());
}

#[test]
fn files_that_share_a_chunk_are_read_from_it() {
    let s = Setup::new();
    let files = [&b"one"[..], b"and two", b"three"];
    let Item::Chunk { link, .. } = s.chunk(&files.concat()) else { panic!() };
    let tag = |content: &[u8]| s.store.opener().tag(Kind::Chunk, content).half();
    let slice = |offset, content: &[u8]| Slice { len: content.len() as u64, offset, link, tag: tag(content) };
    let slices = [slice(0, files[0]), slice(3, files[1]), slice(10, files[2])];
    let reader = s.reader();
    s.store.take_read();
    for (slice, file) in slices.iter().zip(files) {
        let content = Content::Items { size: slice.len, items: vec![Item::Slice(*slice)] };
        assert_eq!(reader.read_at(&content, 0, 100).unwrap(), file);
        assert_eq!(reader.read_at(&content, 1, 2).unwrap(), file[1..3]);
        assert_eq!(reader.data_bytes(&content, 0).unwrap(), slice.len);
    }
    assert_eq!(s.store.take_read().len(), 1, "it is opened once");
    let read: Vec<Vec<u8>> = reader.slices(&slices).unwrap().into_iter().map(Result::unwrap).collect();
    assert_eq!(read, files);
    let whole = Item::Chunk { len: 15, link }.slice().unwrap();
    assert_eq!(reader.slices(&[whole]).unwrap().pop().unwrap().unwrap(), files.concat());
    // What a file is not is never given out as it.
    let wrong = [slice(1, files[0]), Slice { len: 6, ..slices[2] }, Slice { len: 14, ..whole }];
    for wrong in wrong {
        let content = Content::Items { size: wrong.len, items: vec![Item::Slice(wrong)] };
        assert!(matches!(reader.read_at(&content, 0, 1), Err(Error::Corrupt { .. })), "{wrong:?}");
        assert!(matches!(reader.slices(&[wrong]).unwrap().pop().unwrap(), Err(Error::Corrupt { .. })), "{wrong:?}");
    }
}

#[test]
fn chunks_that_are_read_in_part_are_cached() {
    let s = Setup::new();
    let content = s.build_file(&[s.chunk(&[1; 1000]), s.chunk(&[2; 1000])]);
    let reader = s.reader();
    s.store.take_read();
    assert_eq!(reader.read_at(&content, 990, 20).unwrap(), [[1; 10], [2; 10]].concat());
    assert_eq!(s.store.take_read().len(), 2);
    assert_eq!(reader.read_at(&content, 900, 200).unwrap(), [[1; 100], [2; 100]].concat());
    assert!(s.store.take_read().is_empty());
    let small = Reader::with_caches(s.store.clone(), s.store.opener(), 0, 0);
    assert_eq!(small.read_at(&content, 990, 20).unwrap(), [[1; 10], [2; 10]].concat());
    assert_eq!(small.read_at(&content, 990, 20).unwrap().len(), 20);
    assert_eq!(s.store.take_read().len(), 4);
}

#[test]
fn threads_share_a_reader() {
    let s = Setup::new();
    let entries = many(20_000);
    let root = s.build(&entries);
    let reader = Reader::with_caches(s.store.clone(), s.store.opener(), 200_000, 0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| assert_eq!(all_entries(&reader, root).unwrap(), entries));
            scope.spawn(|| assert_eq!(reader.lookup(root, b"010000").unwrap(), Some(fifo("010000"))));
        }
    });
}
