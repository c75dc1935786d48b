//! A file's items into list nodes. Holds one open node per level, whatever the size of the file.
//!
//! What it holds can be kept: so a file that only grows is gone on with where it ended, without its first part.

use super::BlobWriter;
use crate::coding::{Decoder, Encoder};
use crate::error::{Error, Result};
use crate::id::{BlobId, Reference};
use crate::list::{self, Item, LEVELS_MAX, List};
use crate::record::Kind;
use crate::tree::Content;

/// A file of so few items needs no list.
const ENTRY_ITEMS_MAX: usize = 4;
const SPLIT_ITEMS_MIN: usize = 64;
const SPLIT_ITEMS_MAX: usize = 4096;
/// So many nodes are asked for at once: over a network that is one round trip.
const COMPLETE_MAX: usize = 16;

/// Collects a file's items in order; writes list nodes as they fill. Adjacent holes are joined.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct ListBuilder {
    size: u64,
    /// The length of a hole that may go on.
    hole: u64,
    /// The open node of each level, lowest first. Only a lower one than the highest may have no items.
    levels: Vec<Vec<Item>>,
    /// Nodes of the lowest level that are complete and not stored yet.
    complete: Vec<Vec<Item>>,
}

impl ListBuilder {
    pub fn new() -> Self {
        ListBuilder::default()
    }

    /// A hole, a chunk or a slice; none may be empty.
    pub fn push(&mut self, item: Item, writer: &BlobWriter<'_>) -> Result<()> {
        let refused = |reason: &str| Error::invalid("a file's content", reason);
        if item.covers() == 0 {
            return Err(refused("an item covers nothing"));
        }
        self.size = self.size.checked_add(item.covers()).ok_or_else(|| refused("it is longer than 64 bits can say"))?;
        match item {
            Item::Hole { len } => {
                self.hole += len;
                Ok(())
            }
            Item::Chunk { .. } | Item::Slice(_) => {
                self.end_hole(writer)?;
                self.append(0, item, writer)
            }
            Item::List { .. } => Err(refused("a list among its chunks")),
        }
    }

    /// How many bytes of the file there are so far.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Stores the nodes that are complete. Before this is kept to be gone on with.
    pub fn settle(&mut self, writer: &BlobWriter<'_>) -> Result<()> {
        for item in put_all(0, std::mem::take(&mut self.complete), writer)? {
            self.append(1, item, writer)?;
        }
        Ok(())
    }

    /// All that must be stored for this to be gone on with, with duplicates.
    pub fn links(&self) -> Vec<BlobId> {
        self.levels.iter().flatten().filter_map(Item::link).map(|link| link.id).collect()
    }

    /// Its state once settled as bytes, for [`ListBuilder::decode`] of the same program.
    pub fn encode(&self) -> Vec<u8> {
        let mut e = Encoder::new();
        e.varint(self.size).varint(self.hole).varint(self.levels.len() as u64);
        for items in &self.levels {
            e.u8(u8::from(!items.is_empty()));
            if !items.is_empty() {
                list::encode_items(items, &mut e);
            }
        }
        e.bytes
    }

    pub fn decode(bytes: &[u8], object: &str) -> Result<ListBuilder> {
        let mut d = Decoder::new(bytes, object);
        let (size, hole) = (d.varint()?, d.varint()?);
        let count = d.count(usize::from(LEVELS_MAX) + 1, 1, "levels")?;
        let mut levels = Vec::with_capacity(count);
        let mut sum = Some(hole);
        for level in (0u8..).take(count) {
            let mut items = Vec::new();
            match d.u8()? {
                0 => {}
                1 => {
                    let (decoded, covered) = list::decode_items(&mut d, level)?;
                    sum = sum.and_then(|sum| sum.checked_add(covered));
                    items = decoded;
                }
                _ => return Err(d.corrupt("a mark that is neither 0 nor 1")),
            }
            if closes(items.len(), items.last().and_then(Item::link)) {
                return Err(d.corrupt("an open list that should be closed"));
            }
            levels.push(items);
        }
        if sum != Some(size) || levels.last().is_some_and(Vec::is_empty) {
            return Err(d.corrupt("its items are not those of its size"));
        }
        d.finish()?;
        Ok(ListBuilder { size, hole, levels, complete: Vec::new() })
    }

    /// Few items stay in the entry (at most 4), more become lists. Nothing at all is empty inline content.
    pub fn finish(mut self, writer: &BlobWriter<'_>) -> Result<Content> {
        self.end_hole(writer)?;
        self.settle(writer)?;
        let size = self.size;
        match self.levels.as_mut_slice() {
            [] => return Ok(Content::Inline(Vec::new())),
            [only] if only.len() <= ENTRY_ITEMS_MAX => return Ok(Content::Items { size, items: std::mem::take(only) }),
            _ => {}
        }
        let mut below = None;
        let levels = self.levels.len();
        for (level, mut items) in (0u8..).zip(self.levels) {
            items.extend(below.take());
            below = match items.as_slice() {
                [] => None,
                // The highest node would have but one child.
                [only @ Item::List { .. }] if usize::from(level) + 1 == levels => Some(*only),
                _ => Some(put(level, items, writer)?),
            };
        }
        match below {
            Some(Item::List { link, .. }) => Ok(Content::List { size, root: link }),
            _ => Err(Error::invalid("a file's content", "no list was made of its items")),
        }
    }

    fn end_hole(&mut self, writer: &BlobWriter<'_>) -> Result<()> {
        match std::mem::take(&mut self.hole) {
            0 => Ok(()),
            len => self.append(0, Item::Hole { len }, writer),
        }
    }

    /// Appends to a level, and while that closes one to the level above.
    fn append(&mut self, mut level: u8, mut item: Item, writer: &BlobWriter<'_>) -> Result<()> {
        loop {
            let at = usize::from(level);
            if at == self.levels.len() {
                self.levels.push(Vec::new());
            }
            let Some(open) = self.levels.get_mut(at).filter(|_| level <= LEVELS_MAX) else {
                return Err(Error::invalid("a file's content", "it has too many items"));
            };
            open.push(item);
            if !closes(open.len(), item.link()) {
                return Ok(());
            }
            let node = std::mem::take(open);
            if level == 0 {
                self.complete.push(node);
                return if self.complete.len() < COMPLETE_MAX { Ok(()) } else { self.settle(writer) };
            }
            item = put(level, node, writer)?;
            level += 1;
        }
    }
}

fn closes(len: usize, last: Option<Reference>) -> bool {
    len >= SPLIT_ITEMS_MAX || len >= SPLIT_ITEMS_MIN && last.is_some_and(|link| link.id.0.first() == Some(&0))
}

/// Stores a node: what stands for it one level up.
fn put(level: u8, items: Vec<Item>, writer: &BlobWriter<'_>) -> Result<Item> {
    let stored = put_all(level, vec![items], writer)?.pop();
    stored.ok_or_else(|| Error::invalid("a list", "it was not stored"))
}

fn put_all(level: u8, nodes: Vec<Vec<Item>>, writer: &BlobWriter<'_>) -> Result<Vec<Item>> {
    let total = |items: &Vec<Item>| list::total(items).ok_or_else(|| Error::invalid("a list", "it covers too much"));
    let lens = nodes.iter().map(total).collect::<Result<Vec<u64>>>()?;
    let lists = nodes.into_iter().map(|items| List { level, items });
    let contents: Vec<(Vec<u8>, Vec<BlobId>)> = lists.map(|list| (list.encode(), list.links())).collect();
    let links = writer.put_all(Kind::List, &contents)?;
    Ok(lens.into_iter().zip(links).map(|(len, link)| Item::List { len, link }).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::BlobId;
    use crate::store::memory::MemoryStore;
    use proptest::prelude::*;
    use std::sync::Arc;

    const MIB: u64 = 1 << 20;

    /// A chunk that is nowhere: its id does not begin with 0 unless `n` is a multiple of 1,000.
    fn chunk(store: &MemoryStore, n: u64, len: u64) -> Item {
        let mut id = *blake3::hash(&n.to_le_bytes()).as_bytes();
        id[0] = if n.is_multiple_of(1000) { 0 } else { id[0].max(1) };
        store.contents().pretended.insert(BlobId(id));
        Item::Chunk { len, link: Reference { id: BlobId(id), ..Reference::default() } }
    }

    fn build(store: &MemoryStore, items: impl IntoIterator<Item = Item>) -> Result<Content> {
        let writer = BlobWriter::new(store, store.sealer());
        let mut builder = ListBuilder::new();
        for item in items {
            builder.push(item, &writer)?;
        }
        builder.finish(&writer)
    }

    fn list(store: &MemoryStore, link: Reference) -> List {
        List::decode(&store.content(link.id, Kind::List), "list").unwrap()
    }

    /// Lists by level, in order, and the items of the lowest.
    fn flatten(store: &MemoryStore, root: Reference) -> (Vec<Vec<List>>, Vec<Item>) {
        let mut levels = vec![vec![list(store, root)]];
        while levels[0][0].level > 0 {
            let children: Vec<Item> = levels[0].iter().flat_map(|list| list.items.clone()).collect();
            let lists = children.iter().map(|item| {
                let list = list(store, item.link().unwrap());
                assert_eq!(crate::list::total(&list.items), Some(item.covers()));
                list
            });
            let lists = lists.collect();
            levels.insert(0, lists);
        }
        for (level, lists) in levels.iter().enumerate() {
            assert!(lists.iter().all(|list| usize::from(list.level) == level));
        }
        let items = levels[0].iter().flat_map(|list| list.items.clone()).collect();
        (levels, items)
    }

    fn store() -> Arc<MemoryStore> {
        MemoryStore::new()
    }

    #[test]
    fn few_items_stay_in_the_entry() {
        let store = store();
        assert_eq!(build(&store, []).unwrap(), Content::Inline(vec![]));
        let items: Vec<Item> = (1..=4).map(|n| chunk(&store, n, 10)).collect();
        assert_eq!(build(&store, items.clone()).unwrap(), Content::Items { size: 40, items: items.clone() });
        assert_eq!(
            build(&store, items[..1].to_vec()).unwrap(),
            Content::Items { size: 10, items: items[..1].to_vec() }
        );
        assert!(store.take_put().is_empty());
        let more = [items, vec![Item::Hole { len: 2 }]].concat();
        let Content::List { size: 42, root } = build(&store, more.clone()).unwrap() else { panic!() };
        assert_eq!(list(&store, root), List { level: 0, items: more });
        assert_eq!(store.take_put(), [root.id]);
    }

    #[test]
    fn adjacent_holes_are_one() {
        let store = store();
        let [a, b] = [1, 2].map(|n| chunk(&store, n, 10));
        let hole = |len| Item::Hole { len };
        let content = build(&store, [hole(1), hole(2), a, hole(3), hole(4), hole(5), b]).unwrap();
        assert_eq!(content, Content::Items { size: 35, items: vec![hole(3), a, hole(12), b] });
        let content = build(&store, [a, b, hole(6), hole(1)]).unwrap();
        assert_eq!(content, Content::Items { size: 27, items: vec![a, b, hole(7)] });
        let content = build(&store, [hole(u64::MAX - 10), hole(10)]).unwrap();
        assert_eq!(content, Content::Items { size: u64::MAX, items: vec![hole(u64::MAX)] });
    }

    #[test]
    fn impossible_items_are_refused() {
        let store = store();
        let invalid = |items: Vec<Item>| matches!(build(&store, items), Err(Error::Invalid { .. }));
        let id = chunk(&store, 1, 1).link().unwrap();
        assert!(invalid(vec![Item::Hole { len: 0 }]));
        assert!(invalid(vec![Item::Chunk { len: 0, link: id }]));
        assert!(invalid(vec![Item::List { len: 1, link: id }]));
        assert!(invalid(vec![Item::Hole { len: u64::MAX }, Item::Hole { len: 1 }]));
        assert!(invalid(vec![Item::Hole { len: u64::MAX }, chunk(&store, 1, 1)]));
    }

    #[test]
    fn lists_end_where_the_format_says() {
        let store = store();
        // An id begins with 0 at 1,000, 2,000, 3,000; then not before 4,096 items more.
        let numbers = (1..=3000).chain(3001..=3050).chain((4001..).filter(|n| n % 1000 != 0).take(9000));
        let items: Vec<Item> = numbers.map(|n| chunk(&store, n, 1)).collect();
        let Content::List { root, .. } = build(&store, items.clone()).unwrap() else { panic!() };
        let (levels, flat) = flatten(&store, root);
        assert_eq!(flat, items);
        assert_eq!(
            levels[0].iter().map(|list| list.items.len()).collect::<Vec<_>>(),
            [1000, 1000, 1000, 4096, 4096, 858]
        );
        // Not before 64 items.
        let early: Vec<Item> =
            [1000, 1, 2, 2000].into_iter().chain(3..62).chain([3000, 4000, 62]).map(|n| chunk(&store, n, 1)).collect();
        let Content::List { root, .. } = build(&store, early).unwrap() else { panic!() };
        assert_eq!(flatten(&store, root).0[0].iter().map(|list| list.items.len()).collect::<Vec<_>>(), [64, 2]);
    }

    #[test]
    fn a_full_list_is_its_own_root() {
        let store = store();
        let items: Vec<Item> = (1..=1000).map(|n| chunk(&store, n, 1)).collect();
        let Content::List { root, .. } = build(&store, items.clone()).unwrap() else { panic!() };
        assert_eq!(list(&store, root), List { level: 0, items });
        assert_eq!(store.take_put(), [root.id]);
    }

    /// Upper lists close by ids that differ in each session: pushes until one just did.
    #[test]
    fn a_lonely_list_below_the_root_is_kept() {
        let store = store();
        let writer = BlobWriter::new(&*store, store.sealer());
        let mut builder = ListBuilder::new();
        let mut items = Vec::new();
        while builder.levels.len() < 3 {
            items.extend([chunk(&store, 1, 1); 63]);
            items.push(chunk(&store, 1000, 1 + items.len() as u64));
            for item in &items[items.len() - 64..] {
                builder.push(*item, &writer).unwrap();
            }
            builder.settle(&writer).unwrap();
        }
        assert!(builder.levels[0].is_empty() && builder.levels[1].is_empty() && builder.levels[2].len() == 1);
        items.push(chunk(&store, 2, 1));
        builder.push(items[items.len() - 1], &writer).unwrap();
        let Content::List { root, .. } = builder.finish(&writer).unwrap() else { panic!() };
        let (levels, flat) = flatten(&store, root);
        assert_eq!(flat, items);
        assert_eq!(levels[1].last().unwrap().items.len(), 1);
        assert_eq!(levels[2].len(), 1);
    }

    #[test]
    fn a_terabyte_changes_in_few_lists() {
        let store = store();
        let items: Vec<Item> = (1..=131_072).map(|n| chunk(&store, n, 8 * MIB)).collect();
        let Content::List { size, root } = build(&store, items.clone()).unwrap() else { panic!() };
        assert_eq!(size, 1 << 40);
        let (levels, flat) = flatten(&store, root);
        assert_eq!(flat, items);
        let lists: usize = levels.iter().map(Vec::len).sum();
        assert_eq!(store.take_put().len(), lists);
        assert!(levels.len() >= 2);
        assert_eq!(build(&store, items.clone()).unwrap(), Content::List { size, root });
        assert!(store.take_put().is_empty(), "equal items make equal lists");
        let before = store.contents().asked;
        build(&store, items.clone()).unwrap();
        let asked = store.contents().asked - before;
        assert!(asked < lists / COMPLETE_MAX + 2 * levels.len(), "{asked} questions for {lists} lists");
        let mut changed = items.clone();
        changed[70_123] = chunk(&store, 999_999, 8 * MIB);
        build(&store, changed).unwrap();
        // One list of each level; more if the id of a new one happens to end a list.
        let few = levels.len()..=levels.len() + 2;
        assert!(few.contains(&store.take_put().len()));
        let mut inserted = items;
        inserted.insert(70_123, chunk(&store, 999_999, 8 * MIB));
        build(&store, inserted).unwrap();
        assert!(few.contains(&store.take_put().len()));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn what_was_kept_is_gone_on_with(numbers in prop::collection::vec(1u64..5000, 0..700), at in any::<prop::sample::Index>()) {
            let store = store();
            let items: Vec<Item> = numbers.iter().map(|n| match n % 7 {
                0 => Item::Hole { len: 1 + n % 13 },
                _ => chunk(&store, n - n % 5 * u64::from(n % 3 == 0), 1 + n % 11),
            }).collect();
            let writer = BlobWriter::new(&*store, store.sealer());
            let mut builder = ListBuilder::new();
            let at = if items.is_empty() { 0 } else { at.index(items.len()) };
            for item in &items[..at] {
                builder.push(*item, &writer).unwrap();
            }
            builder.settle(&writer).unwrap();
            let mut again = ListBuilder::decode(&builder.encode(), "state").unwrap();
            prop_assert_eq!(&again, &builder);
            prop_assert_eq!(Some(again.size()), crate::list::total(&items[..at]));
            for item in &items[at..] {
                again.push(*item, &writer).unwrap();
            }
            prop_assert_eq!(again.finish(&writer).unwrap(), build(&store, items).unwrap());
        }

        #[test]
        fn a_damaged_state_is_refused_or_sound(count in 0u64..200, at in any::<prop::sample::Index>(), bit in 0u8..8) {
            let store = store();
            let writer = BlobWriter::new(&*store, store.sealer());
            let mut builder = ListBuilder::new();
            for n in 1..=count {
                builder.push(chunk(&store, n, n), &writer).unwrap();
            }
            builder.settle(&writer).unwrap();
            let mut bytes = builder.encode();
            for len in 0..bytes.len() {
                prop_assert!(ListBuilder::decode(&bytes[..len], "state").is_err());
            }
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            if let Ok(decoded) = ListBuilder::decode(&bytes, "state") {
                prop_assert_eq!(decoded.encode(), bytes);
            }
        }

        #[test]
        fn nothing_is_lost_or_moved(numbers in prop::collection::vec((0u64..5000, 1u64..100, any::<bool>()), 0..400)) {
            let store = store();
            let items: Vec<Item> = numbers
                .iter()
                .map(|(n, len, hole)| if *hole { Item::Hole { len: *len } } else { chunk(&store, *n, *len) })
                .collect();
            let mut joined: Vec<Item> = Vec::new();
            for item in &items {
                match (joined.last_mut(), item) {
                    (Some(Item::Hole { len }), Item::Hole { len: more }) => *len += more,
                    _ => joined.push(*item),
                }
            }
            let content = build(&store, items).unwrap();
            prop_assert_eq!(Some(content.size()), crate::list::total(&joined));
            match content {
                Content::Inline(bytes) => prop_assert!(bytes.is_empty() && joined.is_empty()),
                Content::Items { items, .. } => prop_assert!(items == joined && joined.len() <= 4),
                Content::List { root, .. } => prop_assert!(flatten(&store, root).1 == joined && joined.len() > 4),
            }
        }
    }
}
