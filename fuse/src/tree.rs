//! What stands where: from inode numbers to entries, from names to numbers, listings that may begin anywhere.
//!
//! | lock | protects | taken |
//! |---|---|---|
//! | `skeleton`, `reader` | which one counts now; both are immutable | briefly, to clone it |
//! | `table` | rows of inodes | briefly, never across reading |
//! | `leaves` | the directories of several leaves that were listed lately | briefly |

use crate::ahead::Current;
use crate::attributes::{self, Owners};
use crate::number::{self, Identity};
use crate::skeleton::{Kind, Skeleton};
use crate::table::{Place, Row, Table};
use chunkstore::id::Reference;
use chunkstore::reader::{Leaf, Leaves, Reader};
use chunkstore::record;
use chunkstore::tree::{Content, Entry, Node};
use fuser::{Errno, FileAttr};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

/// A position in a leaf takes so many bits of a listing's offset.
const POSITION_BITS: u32 = 17;
const LEAVES_KEPT: usize = 8;
/// The store is asked for at most so many nodes because of one listing.
const AT_ONCE_MAX: usize = 256;
/// A list node seldom covers more than so many average chunks: in one that does there is a hole.
const PLAUSIBLE_CHUNKS: u64 = 4096;

pub enum Failure {
    Plain(Errno),
    Store(chunkstore::Error),
}

pub type Answer<T> = Result<T, Failure>;

pub struct Files {
    pub reader: Current,
    pub owners: Owners,
    skeleton: RwLock<Arc<Skeleton>>,
    table: Mutex<Table>,
    leaves: Mutex<VecDeque<(Reference, Arc<Leaves>)>>,
}

/// An entry of a snapshot.
pub struct Item {
    leaf: Leaf,
    position: usize,
}

/// A directory of a snapshot.
pub struct Directory {
    pub number: u64,
    pub parent: u64,
    scope: u64,
    pub tree: Reference,
}

/// One line of a listing.
pub struct Line<'a> {
    /// Where to go on after it.
    pub next: u64,
    pub entry: &'a Entry,
    place: &'a Arc<Place>,
    position: u32,
    identity: Identity,
}

impl Files {
    pub fn new(reader: Current, skeleton: Skeleton, owners: Owners) -> Files {
        let skeleton = RwLock::new(Arc::new(skeleton));
        Files { reader, owners, skeleton, table: Mutex::default(), leaves: Mutex::default() }
    }

    pub fn reader(&self) -> Arc<Reader> {
        Arc::clone(&self.reader.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub fn skeleton(&self) -> Arc<Skeleton> {
        Arc::clone(&self.skeleton.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub fn replace_skeleton(&self, skeleton: Skeleton) {
        *self.skeleton.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(skeleton);
    }

    pub fn replace_reader(&self, reader: Arc<Reader>) {
        *self.reader.write().unwrap_or_else(PoisonError::into_inner) = reader;
    }

    pub fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The entry of a file that the kernel was told of.
    pub fn item(&self, number: u64) -> Answer<Item> {
        if number::is_virtual(number) {
            let skeleton = self.skeleton();
            return match skeleton.node(number).map(|node| &node.kind) {
                Some(Kind::Dump(shown)) => self.only_file(shown.root),
                Some(_) => Err(Errno::EINVAL.into()),
                None => Err(stale()),
            };
        }
        let row = self.row(number)?;
        self.item_of(&row)
    }

    pub fn directory(&self, number: u64) -> Answer<Directory> {
        if number::is_virtual(number) {
            let skeleton = self.skeleton();
            let node = skeleton.node(number).ok_or_else(stale)?;
            return match &node.kind {
                Kind::Snapshot(shown) => Ok(Directory { number, parent: node.parent, scope: number, tree: shown.root }),
                _ => Err(Errno::ENOTDIR.into()),
            };
        }
        let row = self.row(number)?;
        let item = self.item_of(&row)?;
        match &item.entry()?.node {
            Node::Directory(tree) => {
                Ok(Directory { number, parent: row.place.directory, scope: row.place.scope, tree: *tree })
            }
            _ => Err(Errno::ENOTDIR.into()),
        }
    }

    pub fn attr(&self, number: u64) -> Answer<FileAttr> {
        if number::is_virtual(number) {
            let skeleton = self.skeleton();
            let node = skeleton.node(number).ok_or_else(stale)?;
            return match &node.kind {
                Kind::Dump(shown) => {
                    let item = self.only_file(shown.root)?;
                    Ok(FileAttr { nlink: 1, ..self.attr_of(number, item.entry()?) })
                }
                _ => Ok(attributes::of_virtual(number, node, &self.owners)),
            };
        }
        let item = self.item(number)?;
        Ok(self.attr_of(number, item.entry()?))
    }

    /// A list that cannot be read is no reason not to show the file: its size is known.
    pub fn attr_of(&self, number: u64, entry: &Entry) -> FileAttr {
        let data_bytes = match &entry.node {
            Node::File(content) => {
                let reader = self.reader();
                let average = u64::from(reader.store.configuration().chunk_sizes.average);
                reader.data_bytes(content, PLAUSIBLE_CHUNKS * average).unwrap_or_else(|_| content.size())
            }
            _ => 0,
        };
        attributes::of_entry(number, entry, data_bytes, &self.owners)
    }

    /// Tells the kernel of a name: counted, until it forgets.
    pub fn lookup(&self, directory: &Directory, name: &[u8]) -> Answer<Option<FileAttr>> {
        let Some(found) = self.reader().find(directory.tree, name)? else { return Ok(None) };
        let item = Item { leaf: found.leaf, position: found.position };
        let entry = item.entry()?;
        let attr = self.attr_of(0, entry);
        let position = u32::try_from(found.position).map_err(|_| Failure::from(Errno::EOVERFLOW))?;
        let mut table = self.table();
        let place = table.place(found.link, directory.number, directory.scope);
        let number = table.tell(directory.identity(entry), &place, position);
        Ok(Some(FileAttr { ino: fuser::INodeNo(number), ..attr }))
    }

    /// Visits entries from an offset on (0, or what a line said) until told that there is enough.
    pub fn list(&self, directory: &Directory, from: u64, visit: &mut dyn FnMut(Line<'_>) -> bool) -> Answer<()> {
        let reader = self.reader();
        let leaves = self.leaves_of(&reader, directory.tree)?;
        let mut at = usize::try_from(from >> POSITION_BITS).map_err(|_| Failure::from(Errno::EINVAL))?;
        let mut position = from & ((1 << POSITION_BITS) - 1);
        while let Some((link, leaf)) = reader.leaf_of(&leaves, at)? {
            let start = usize::try_from(position).unwrap_or(usize::MAX);
            let entries = leaf.entries().get(start..).unwrap_or_default();
            self.prefetch_lists(&reader, entries);
            let place = self.table().place(link, directory.number, directory.scope);
            for (entry, position) in entries.iter().zip(position..) {
                let next = (at as u64) << POSITION_BITS | (position + 1);
                let position = u32::try_from(position).map_err(|_| Failure::from(Errno::EINVAL))?;
                let identity = directory.identity(entry);
                if !visit(Line { next, entry, place: &place, position, identity }) {
                    return Ok(());
                }
            }
            at += 1;
            position = 0;
        }
        Ok(())
    }

    /// Directories that stand in the first leaf of this one.
    pub fn directories_in(&self, directory: &Directory) -> Answer<Vec<Reference>> {
        let reader = self.reader();
        let leaves = self.leaves_of(&reader, directory.tree)?;
        let Some((_, leaf)) = reader.leaf_of(&leaves, 0)? else { return Ok(Vec::new()) };
        let trees = leaf.entries().iter().filter_map(|entry| match entry.node {
            Node::Directory(tree) => Some(tree),
            _ => None,
        });
        Ok(trees.take(AT_ONCE_MAX).collect())
    }

    /// The path below the mount point, for people; what cannot be found is left out.
    pub fn path(&self, number: u64) -> Vec<u8> {
        let (mut names, mut number) = (Vec::new(), number);
        while !number::is_virtual(number) {
            let Ok(row) = self.row(number) else { break };
            let item = self.item_of(&row);
            let name = item.ok().and_then(|item| Some(item.entry().ok()?.name.clone()));
            names.push(name.unwrap_or_else(|| b"?".to_vec()));
            number = row.place.directory;
        }
        let skeleton = self.skeleton();
        while let Some(node) = skeleton.node(number).filter(|_| number != number::ROOT) {
            if let Some(Kind::Directory(children)) = skeleton.node(node.parent).map(|parent| &parent.kind) {
                names.extend(children.iter().find(|(_, child)| **child == number).map(|(name, _)| name.clone()));
            }
            number = node.parent;
        }
        names.reverse();
        names.join(&b'/')
    }

    fn row(&self, number: u64) -> Answer<Row> {
        self.table().row(number).cloned().ok_or_else(stale)
    }

    fn item_of(&self, row: &Row) -> Answer<Item> {
        let leaf = self.reader().leaf(row.place.link)?;
        Ok(Item { leaf, position: usize::try_from(row.position).unwrap_or(usize::MAX) })
    }

    /// The first file that stands in a snapshot's root: all there is in the snapshot of a dump.
    fn only_file(&self, root: Reference) -> Answer<Item> {
        let reader = self.reader();
        let leaves = self.leaves_of(&reader, root)?;
        let Some((_, leaf)) = reader.leaf_of(&leaves, 0)? else { return Err(Errno::ENOENT.into()) };
        let file = leaf.entries().iter().position(|entry| matches!(entry.node, Node::File(_)));
        let position = file.ok_or_else(|| Failure::from(Errno::ENOENT))?;
        Ok(Item { leaf, position })
    }

    fn leaves_of(&self, reader: &Reader, tree: Reference) -> Answer<Arc<Leaves>> {
        let lock = || self.leaves.lock().unwrap_or_else(PoisonError::into_inner);
        let known = lock().iter().find(|(link, _)| *link == tree).map(|(_, leaves)| Arc::clone(leaves));
        if let Some(leaves) = known {
            return Ok(leaves);
        }
        let leaves = Arc::new(reader.leaves(tree)?);
        if leaves.links.len() > 1 {
            let mut kept = lock();
            kept.truncate(LEAVES_KEPT - 1);
            kept.push_front((tree, Arc::clone(&leaves)));
        }
        Ok(leaves)
    }

    /// The highest list node of each large file says how much of it is holes: all are asked for at once.
    fn prefetch_lists(&self, reader: &Reader, entries: &[Entry]) {
        let lists = entries.iter().filter_map(|entry| match &entry.node {
            Node::File(Content::List { root, .. }) => Some(*root),
            _ => None,
        });
        let lists: Vec<Reference> = lists.take(AT_ONCE_MAX).collect();
        if lists.len() > 1 {
            // Those that fail here are asked for again, one by one.
            let _ = reader.prefetch(record::Kind::List, &lists);
        }
    }
}

impl Directory {
    fn identity(&self, entry: &Entry) -> Identity {
        match entry.attributes.hard_link {
            Some(link) if link.names > 1 => Identity::of_hard_link(self.scope, link.device, link.inode),
            _ => Identity::of_name(self.number, &entry.name),
        }
    }
}

impl Line<'_> {
    /// Tells the kernel of it: counted, until it forgets.
    pub fn tell(&self, table: &mut Table) -> u64 {
        table.tell(self.identity, self.place, self.position)
    }

    /// The number that it has, without the kernel being told of it.
    pub fn number(&self, table: &Table) -> u64 {
        table.number(self.identity)
    }
}

impl Item {
    pub fn entry(&self) -> Answer<&Entry> {
        self.leaf.entries().get(self.position).ok_or_else(stale)
    }

    pub fn content(&self) -> Answer<&Content> {
        match &self.entry()?.node {
            Node::File(content) => Ok(content),
            Node::Directory(_) => Err(Errno::EISDIR.into()),
            _ => Err(Errno::EINVAL.into()),
        }
    }
}

impl From<Errno> for Failure {
    fn from(errno: Errno) -> Failure {
        Failure::Plain(errno)
    }
}

impl From<chunkstore::Error> for Failure {
    fn from(error: chunkstore::Error) -> Failure {
        Failure::Store(error)
    }
}

/// The kernel asks for what it was told of before and is gone: it looks the path up again.
fn stale() -> Failure {
    Failure::Plain(Errno::ESTALE)
}
