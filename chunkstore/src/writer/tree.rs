//! A directory's entries into tree nodes. Holds one open node per level, as bytes, whatever the size of the directory.

use super::BlobWriter;
use crate::coding::Encoder;
use crate::error::{Error, Result};
use crate::id::{BlobId, Reference};
use crate::list::{LEVELS_MAX, NODE_ITEMS_MAX};
use crate::record::{CONTENT_BYTES_MAX, Kind, LINKS_MAX};
use crate::tree::{Entry, encode_child, encode_head};

const SPLIT_BYTES_MIN: usize = 16 << 10;
const SPLIT_BYTES_MAX: usize = 256 << 10;
/// Level and count.
const HEAD_BYTES_MAX: usize = 11;

/// Collects a directory's entries in ascending order of names; writes tree nodes as they fill.
#[derive(Default)]
pub struct TreeBuilder {
    last_name: Vec<u8>,
    /// The open node of each level, lowest first. Only a lower one than the highest may be empty.
    levels: Vec<Open>,
}

impl TreeBuilder {
    pub fn new() -> Self {
        TreeBuilder::default()
    }

    /// `entry` is an encoded entry ([`Entry::encode`]), `links` what it names, in any order. All of it is checked, since
    /// both may come from a cache.
    pub fn push(&mut self, name: &[u8], entry: &[u8], links: &[BlobId], writer: &BlobWriter<'_>) -> Result<()> {
        self.add(name, (entry, links), false, writer)
    }

    /// As [`TreeBuilder::push`], of an entry that was another one the last time: the node that it comes into is put without
    /// asking whether it is known, which over a network is a round trip.
    pub fn push_changed(&mut self, name: &[u8], entry: &[u8], links: &[BlobId], writer: &BlobWriter<'_>) -> Result<()> {
        self.add(name, (entry, links), true, writer)
    }

    fn add(
        &mut self,
        name: &[u8],
        (entry, links): (&[u8], &[BlobId]),
        is_changed: bool,
        writer: &BlobWriter<'_>,
    ) -> Result<()> {
        check(name, entry, links)?;
        if self.last_name.as_slice() >= name {
            return Err(refused(name, "it is out of order"));
        }
        self.last_name = name.to_vec();
        if self.levels.first().is_some_and(|leaf| leaf.has_no_room(entry.len(), links.len())) {
            self.close(0, writer)?;
        }
        let leaf = open_node(&mut self.levels, 0)?;
        leaf.append(name, links, |e| {
            e.raw(entry);
        });
        leaf.is_changed |= is_changed;
        if leaf.closes(name, writer) { self.close(0, writer) } else { Ok(()) }
    }

    /// The root of the directory.
    pub fn finish(self, writer: &BlobWriter<'_>) -> Result<Reference> {
        let mut below: Option<(Vec<u8>, Reference)> = None;
        let levels = self.levels.len();
        for (level, mut open) in (0u8..).zip(self.levels) {
            if let Some((name, link)) = below.take() {
                open.append_child(&name, link);
            }
            below = match (open.count, open.first_child) {
                (0, _) => None,
                // The highest node would have but one child.
                (1, Some(child)) if usize::from(level) + 1 == levels => Some((open.first_name, child)),
                _ => Some(open.put(level, writer)?),
            };
        }
        match below {
            Some((_, root)) => Ok(root),
            None => Open::default().put(0, writer).map(|(_, root)| root),
        }
    }

    /// Writes the open node of a level, and of those above that close by it.
    fn close(&mut self, mut level: u8, writer: &BlobWriter<'_>) -> Result<()> {
        loop {
            let (name, link) = std::mem::take(open_node(&mut self.levels, level)?).put(level, writer)?;
            level += 1;
            let above = open_node(&mut self.levels, level)?;
            above.append_child(&name, link);
            if !above.closes(&name, writer) {
                return Ok(());
            }
        }
    }
}

/// A node that takes entries or children.
#[derive(Default)]
struct Open {
    first_name: Vec<u8>,
    /// None at level 0.
    first_child: Option<Reference>,
    count: usize,
    body: Encoder,
    /// With duplicates.
    links: Vec<BlobId>,
    is_changed: bool,
}

impl Open {
    fn append(&mut self, name: &[u8], links: &[BlobId], encode: impl FnOnce(&mut Encoder)) {
        if self.count == 0 {
            self.first_name = name.to_vec();
        }
        self.count += 1;
        encode(&mut self.body);
        self.links.extend_from_slice(links);
    }

    fn append_child(&mut self, name: &[u8], link: Reference) {
        self.first_child = self.first_child.or(Some(link));
        self.append(name, &[link.id], |e| encode_child(name, &link, e));
    }

    /// By the rule of the format, after the entry or child of this name.
    fn closes(&self, name: &[u8], writer: &BlobWriter<'_>) -> bool {
        let len = self.body.bytes.len();
        len >= SPLIT_BYTES_MAX || len >= SPLIT_BYTES_MIN && writer.sealer.key.splits(name)
    }

    /// True if with so much more it would break a limit of the format.
    fn has_no_room(&self, bytes: usize, links: usize) -> bool {
        self.count > 0
            && (self.count >= NODE_ITEMS_MAX
                || self.links.len() + links > LINKS_MAX
                || self.body.bytes.len() + bytes > CONTENT_BYTES_MAX - HEAD_BYTES_MAX)
    }

    fn put(self, level: u8, writer: &BlobWriter<'_>) -> Result<(Vec<u8>, Reference)> {
        let mut content = Encoder::new();
        encode_head(level, self.count, &mut content);
        content.raw(&self.body.bytes);
        let put = if self.is_changed { BlobWriter::put_changed } else { BlobWriter::put };
        let link = put(writer, Kind::Tree, &content.bytes, &self.links)?;
        Ok((self.first_name, link))
    }
}

fn open_node(levels: &mut Vec<Open>, level: u8) -> Result<&mut Open> {
    if usize::from(level) == levels.len() {
        levels.push(Open::default());
    }
    let open = levels.get_mut(usize::from(level)).filter(|_| level <= LEVELS_MAX);
    open.ok_or_else(|| Error::invalid("a directory", "it has too many entries"))
}

fn check(name: &[u8], entry: &[u8], links: &[BlobId]) -> Result<()> {
    let decoded = Entry::decode(entry, "").map_err(|error| match error {
        Error::Corrupt { reason, .. } => refused(name, reason),
        other => other,
    })?;
    let set = |mut ids: Vec<BlobId>| {
        ids.sort_unstable();
        ids.dedup();
        ids
    };
    if decoded.name != name {
        return Err(refused(name, "it is announced under another name"));
    }
    if decoded.links() != links && set(decoded.links()) != set(links.to_vec()) {
        return Err(refused(name, "it is announced with other links"));
    }
    Ok(())
}

fn refused(name: &[u8], reason: impl Into<String>) -> Error {
    Error::invalid(format!("entry `{}`", name.escape_ascii()), reason)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::list::Item;
    use crate::store::memory::MemoryStore;
    use crate::tree::{Attributes, Content, Node, Time, Tree};

    fn entry(name: &str, node: Node) -> Entry {
        let modified = Time { seconds: 1_700_000_000, nanoseconds: 123_456_789 };
        let attributes = Attributes { mode: 0o644, user: b"root".to_vec(), modified, ..Attributes::default() };
        Entry { name: name.into(), attributes, node }
    }

    fn entries(count: usize) -> Vec<Entry> {
        (0..count).map(|n| entry(&format!("file-{n:06}"), Node::File(Content::Inline(vec![7; n % 90])))).collect()
    }

    fn push(builder: &mut TreeBuilder, entry: &Entry, writer: &BlobWriter<'_>) -> Result<()> {
        builder.push(&entry.name, &entry.encode(), &entry.links(), writer)
    }

    fn build(store: &MemoryStore, entries: &[Entry]) -> Result<Reference> {
        let writer = BlobWriter::new(store, store.sealer());
        let mut builder = TreeBuilder::new();
        for entry in entries {
            push(&mut builder, entry, &writer)?;
        }
        builder.finish(&writer)
    }

    fn tree(store: &MemoryStore, link: Reference) -> Tree {
        Tree::decode(&store.content(link.id, Kind::Tree), "tree").unwrap()
    }

    /// Nodes by level, in order; each begins with the name announced.
    fn levels(store: &MemoryStore, root: Reference) -> Vec<Vec<Tree>> {
        let mut levels = vec![vec![tree(store, root)]];
        while levels[0][0].level() > 0 {
            let level = levels[0][0].level();
            let mut below = Vec::new();
            for node in &levels[0] {
                let Tree::Inner { children, .. } = node else { panic!() };
                for (name, link) in children {
                    let child = tree(store, *link);
                    assert_eq!(child.first_name(), Some(name.as_slice()));
                    assert_eq!(child.level(), level - 1);
                    below.push(child);
                }
            }
            levels.insert(0, below);
        }
        levels
    }

    fn leaves(levels: &[Vec<Tree>]) -> Vec<Vec<Entry>> {
        let leaf = |node: &Tree| match node {
            Tree::Leaf(entries) => entries.clone(),
            Tree::Inner { .. } => panic!(),
        };
        levels[0].iter().map(leaf).collect()
    }

    #[test]
    fn an_empty_directory_has_a_node() {
        let store = MemoryStore::new();
        let root = build(&store, &[]).unwrap();
        assert_eq!(tree(&store, root), Tree::Leaf(vec![]));
    }

    #[test]
    fn nodes_end_where_the_format_says() {
        let store = MemoryStore::new();
        let entries = entries(30_000);
        let root = build(&store, &entries).unwrap();
        let levels = levels(&store, root);
        assert!(levels.len() >= 2);
        let leaves = leaves(&levels);
        assert_eq!(leaves.concat(), entries);
        let splits = |entry: &Entry| store.keys.write.splits(&entry.name);
        let last = leaves.len() - 1;
        for (at, leaf) in leaves.iter().enumerate() {
            let mut len = 0;
            let ends = |entry: &Entry| {
                len += entry.encode().len();
                len >= SPLIT_BYTES_MAX || len >= SPLIT_BYTES_MIN && splits(entry)
            };
            let ends: Vec<bool> = leaf.iter().map(ends).collect();
            assert_eq!(ends[..leaf.len() - 1].iter().position(|ends| *ends), None, "it should have ended earlier");
            assert!(ends[leaf.len() - 1] || at == last, "it should not have ended");
        }
    }

    #[test]
    fn a_full_node_is_its_own_root() {
        let store = MemoryStore::new();
        let writer = BlobWriter::new(&*store, store.sealer());
        let mut builder = TreeBuilder::new();
        let mut entries = entries(30_000).into_iter();
        let mut pushed = Vec::new();
        while builder.levels.len() < 2 {
            pushed.extend(entries.next());
            push(&mut builder, pushed.last().unwrap(), &writer).unwrap();
        }
        assert!(pushed.len() > 1);
        let root = builder.finish(&writer).unwrap();
        assert_eq!(tree(&store, root), Tree::Leaf(pushed));
        assert_eq!(store.take_put(), [root.id]);
    }

    #[test]
    fn a_lonely_node_below_the_root_is_kept() {
        let store = MemoryStore::new();
        let writer = BlobWriter::new(&*store, store.sealer());
        let mut builder = TreeBuilder::new();
        // Each entry ends its leaf, each child of 16 KiB of children its node.
        let names = (0..).map(|n| format!("{n:0200}")).filter(|name| store.keys.write.splits(name.as_bytes()));
        let mut entries = names.map(|name| {
            let mut entry = entry(&name, Node::Fifo);
            entry.attributes.xattrs = vec![(b"user.x".to_vec(), vec![1; SPLIT_BYTES_MIN])];
            entry
        });
        let mut pushed = Vec::new();
        let mut more = |builder: &mut TreeBuilder| {
            pushed.extend(entries.next());
            push(builder, pushed.last().unwrap(), &writer).unwrap();
        };
        while builder.levels.len() < 3 {
            more(&mut builder);
        }
        assert_eq!(builder.levels.iter().map(|open| open.count).collect::<Vec<_>>(), [0, 0, 1]);
        more(&mut builder);
        assert_eq!(builder.levels.iter().map(|open| open.count).collect::<Vec<_>>(), [0, 1, 1]);
        let levels = levels(&store, builder.finish(&writer).unwrap());
        assert_eq!(leaves(&levels).concat(), pushed);
        assert_eq!(levels.iter().map(Vec::len).collect::<Vec<_>>(), [pushed.len(), 2, 1]);
    }

    #[test]
    fn one_change_of_many_makes_one_node_of_each_level() {
        let store = MemoryStore::new();
        let mut entries = entries(100_000);
        let root = build(&store, &entries).unwrap();
        let levels = levels(&store, root);
        assert_eq!(store.take_put().len(), levels.iter().map(Vec::len).sum::<usize>());
        assert_eq!(build(&store, &entries).unwrap(), root, "equal entries make equal nodes");
        assert!(store.take_put().is_empty());
        entries[54_321].attributes.modified.nanoseconds += 1;
        assert_ne!(build(&store, &entries).unwrap(), root);
        assert_eq!(store.take_put().len(), levels.len());
        entries.remove(12_345);
        build(&store, &entries).unwrap();
        assert!(store.take_put().len() <= levels.len() + 2);
    }

    #[test]
    fn large_entries_end_their_node() {
        let store = MemoryStore::new();
        let large = |name: &str| {
            let mut entry = entry(name, Node::Fifo);
            entry.attributes.xattrs = vec![(b"user.x".to_vec(), vec![1; (1 << 20) - 6])];
            entry
        };
        let entries = [entry("a", Node::Socket), large("b"), large("c"), entry("d", Node::Fifo)];
        let root = build(&store, &entries).unwrap();
        let leaves = leaves(&levels(&store, root));
        assert_eq!(leaves, [entries[..2].to_vec(), entries[2..3].to_vec(), entries[3..].to_vec()]);
    }

    #[test]
    fn a_node_never_has_more_links_than_a_record_may() {
        let store = MemoryStore::new();
        // Below 256 KiB with as many links as fit there, then an entry with as many as an entry may have.
        let items = |count: u32| -> Vec<Item> {
            let id = |n: u32| BlobId(*blake3::hash(&n.to_le_bytes()).as_bytes());
            let link = |n| Reference { id: id(n), ..Reference::default() };
            (0..count).map(|n| Item::Chunk { len: 1, link: link(n) }).collect()
        };
        let file = |name: &str, count: u32| {
            entry(name, Node::File(Content::Items { size: u64::from(count), items: items(count) }))
        };
        let entries = [file("a", 5000), file("b", 65_536), file("c", 1)];
        for entry in &entries {
            store.contents().pretended.extend(entry.links());
        }
        let root = build(&store, &entries).unwrap();
        assert_eq!(leaves(&levels(&store, root)), entries.map(|entry| vec![entry]));
    }

    #[test]
    fn what_is_not_as_announced_is_refused() {
        let store = MemoryStore::new();
        let writer = BlobWriter::new(&*store, store.sealer());
        let link = Reference { id: BlobId([1; 32]), ..Reference::default() };
        store.contents().pretended.insert(link.id);
        let directory = entry("b", Node::Directory(link));
        let bytes = directory.encode();
        let attempt = |name: &[u8], entry: &[u8], links: &[BlobId]| {
            let mut builder = TreeBuilder::new();
            builder.push(b"a", &super::tests::entry("a", Node::Fifo).encode(), &[], &writer).unwrap();
            match builder.push(name, entry, links, &writer) {
                Ok(()) => true,
                Err(Error::Invalid { .. }) => false,
                Err(error) => panic!("{error}"),
            }
        };
        assert!(attempt(b"b", &bytes, &[link.id]));
        assert!(attempt(b"b", &bytes, &[link.id, link.id]));
        assert!(!attempt(b"b", &bytes, &[]), "links");
        assert!(!attempt(b"b", &bytes, &[link.id, BlobId([2; 32])]), "links");
        assert!(!attempt(b"c", &bytes, &[link.id]), "name");
        assert!(!attempt(b"b", &bytes[1..], &[link.id]), "damaged");
        assert!(!attempt(b"b", &[&bytes[..], &[0]].concat(), &[link.id]), "damaged");
        for name in ["a", "A", "../b", ""] {
            assert!(!attempt(name.as_bytes(), &entry(name, Node::Fifo).encode(), &[]), "{name:?}");
        }
    }

    #[test]
    fn a_directory_with_a_changed_entry_is_not_asked_for() {
        let store = MemoryStore::new();
        let writer = BlobWriter::new(&*store, store.sealer());
        let fifo = |name: &str| (name.as_bytes().to_vec(), entry(name, Node::Fifo).encode());
        let mut asked = Vec::new();
        for changed in [false, true] {
            let mut tree = TreeBuilder::new();
            for name in ["a", "b"] {
                let (name, entry) = fifo(&format!("{name}{changed}"));
                tree.push(&name, &entry, &[], &writer).unwrap();
            }
            let (name, entry) = fifo("c");
            let push = if changed { TreeBuilder::push_changed } else { TreeBuilder::push };
            push(&mut tree, &name, &entry, &[], &writer).unwrap();
            tree.finish(&writer).unwrap();
            asked.push(store.contents().asked);
        }
        assert_eq!(asked, [1, 1]);
    }
}
