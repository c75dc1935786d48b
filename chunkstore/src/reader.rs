//! Content out of a store, verified: snapshot, trees, lists, chunks.
//!
//! `Reader` may be shared by threads. It keeps bounded caches of decoded nodes and of chunks, and assumes nothing of what it
//! reads: every node is checked against what its parent says of it, nothing recurses deeper than a chain of deltas may be.

mod cache;

mod open;

mod tree;

mod leaves;

mod shared;

mod file;

#[cfg(test)]
mod tests;

pub use leaves::{Found, Leaf, Leaves};
pub use shared::Contents;

use crate::codec::Opener;
use crate::error::{Error, Result};
use crate::id::{BlobId, Reference};
use crate::list::List;
use crate::record::{Kind, Record, check_links};
use crate::store::Store;
use crate::tree::Tree;
use cache::Cache;
use open::Ahead;
use shared::Loading;
use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

const NODE_CACHE_BYTES: usize = 32 << 20;
const CHUNK_CACHE_BYTES: usize = 16 << 20;

/// What a content in the cache was opened for, and so what was proved of it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum ChunkKey {
    /// Its parts are read. Another record than the one it names may have served.
    Linked(Reference),
    /// The base of a delta: the content of just this record.
    Base(BlobId),
    /// The same, on the way to another content, whose tag was to prove it.
    Between(BlobId),
}

pub struct Reader {
    pub store: Arc<dyn Store>,
    pub opener: Opener,
    nodes: Mutex<Cache<Reference, Node>>,
    chunks: Mutex<Cache<ChunkKey, Arc<Vec<u8>>>>,
    loading: Loading,
}

impl Reader {
    pub fn new(store: Arc<dyn Store>, opener: Opener) -> Self {
        Reader::with_caches(store, opener, NODE_CACHE_BYTES, CHUNK_CACHE_BYTES)
    }

    /// With room for so many bytes of nodes and of chunks.
    pub fn with_caches(store: Arc<dyn Store>, opener: Opener, node_bytes: usize, chunk_bytes: usize) -> Self {
        let nodes = Mutex::new(Cache::new(node_bytes));
        let chunks = Mutex::new(Cache::new(chunk_bytes));
        Reader { store, opener, nodes, chunks, loading: Loading::default() }
    }

    /// A tree node, whole and with the links that it names.
    fn tree(&self, link: Reference) -> Result<Arc<Tree>> {
        match self.node(link, Kind::Tree)? {
            Node::Tree(tree) => Ok(tree),
            Node::List(_) => Err(damaged(link.id, "it is a list where a directory should be")),
        }
    }

    fn list(&self, link: Reference) -> Result<Arc<List>> {
        match self.node(link, Kind::List)? {
            Node::List(list) => Ok(list),
            Node::Tree(_) => Err(damaged(link.id, "it is a directory where a list should be")),
        }
    }

    fn node(&self, link: Reference, kind: Kind) -> Result<Node> {
        if let Some(node) = lock(&self.nodes).find(&link) {
            return Ok(node);
        }
        self.keep_node(link, self.record(link.id), kind)
    }

    fn keep_node(&self, link: Reference, record: Result<Record>, kind: Kind) -> Result<Node> {
        let (node, bytes) = self.intact(link, record, &|record| self.open_node(record, kind))?;
        lock(&self.nodes).insert(link, node.clone(), bytes);
        Ok(node)
    }

    /// Those of `links`, each once, that are not in the cache of nodes.
    fn uncached_nodes(&self, links: &[Reference]) -> Vec<Reference> {
        let nodes = lock(&self.nodes);
        let mut seen = HashSet::new();
        links.iter().copied().filter(|link| !nodes.contains(link) && seen.insert(*link)).collect()
    }

    /// The node, and about how many bytes it takes.
    fn open_node(&self, record: &Record, kind: Kind) -> Result<(Node, usize)> {
        let no_base = |_| Err(record.corrupt("a node made as a delta"));
        let content = self.opener.open(record, kind, &|id| self.store.capsule(id), &no_base)?;
        let object = format!("blob {}", record.id);
        let node = match kind {
            Kind::Tree => Node::Tree(Arc::new(Tree::decode(&content, &object)?)),
            Kind::List => Node::List(Arc::new(List::decode(&content, &object)?)),
            Kind::Chunk => return Err(record.corrupt("a chunk where a node should be")),
        };
        check_links(record, node.links())?;
        let bytes = content.len() + node.overhead();
        Ok((node, bytes))
    }

    /// Opens the record that `link` names or, if that is lost, another of the same content.
    fn intact<T>(&self, link: Reference, found: Result<Record>, open: &dyn Fn(&Record) -> Result<T>) -> Result<T> {
        let open_checked = |record: Record| {
            // What opens matches its own tag; this is whether it is the content that the parent means.
            if record.tag.half() != link.tag {
                return Err(record.corrupt("its content is not the one that its parent names"));
            }
            open(&record)
        };
        let failure = match found.and_then(open_checked) {
            Err(error @ (Error::Corrupt { .. } | Error::Missing { .. } | Error::Io { .. })) => error,
            other => return other,
        };
        match self.store.alternate(link.tag) {
            Ok(Some(id)) if id != link.id => self.record(id).and_then(open_checked).map_err(|_| failure),
            _ => Err(failure),
        }
    }

    /// The chunk that `link` names, from a record whose id nobody has compared. If it does not open to the content that the parent means,
    /// it and all that it is made from is asked for again by ids, so that the store may look where else that is, and the error says which
    /// of it is wrong and why.
    fn proved(&self, link: Reference, found: Result<Record>, ahead: &Ahead) -> Result<Vec<u8>> {
        if let Ok(record) = &found
            && record.tag.half() == link.tag
            && let Ok(content) = self.open_chunk(record, Some(ahead))
        {
            return Ok(content);
        }
        let again = found.and_then(|_| self.record(link.id));
        self.intact(link, again, &|record| self.open_chunk(record, None))
    }

    fn record(&self, id: BlobId) -> Result<Record> {
        self.read(&[id])?.pop().unwrap_or_else(|| Err(Error::missing(format!("blob {id}"))))
    }

    /// As many answers as ids, each the record asked for or a reason.
    fn read(&self, ids: &[BlobId]) -> Result<Vec<Result<Record>>> {
        answers(ids, self.store.read(ids)?)
    }

    /// The same, of records whose ids nobody compares: what is made of them is proved otherwise.
    fn read_unproved(&self, ids: &[BlobId]) -> Result<Vec<Result<Record>>> {
        answers(ids, self.store.read_linked(ids)?)
    }
}

fn answers(ids: &[BlobId], records: Vec<Result<Record>>) -> Result<Vec<Result<Record>>> {
    if records.len() != ids.len() {
        return Err(Error::invalid("the store", format!("{} answers to {} questions", records.len(), ids.len())));
    }
    let checked = |(record, id): (Result<Record>, &BlobId)| match record {
        Ok(other) if other.id != *id => Err(damaged(*id, "another record is in its place")),
        record => record,
    };
    Ok(records.into_iter().zip(ids).map(checked).collect())
}

#[derive(Clone)]
enum Node {
    Tree(Arc<Tree>),
    List(Arc<List>),
}

impl Node {
    fn links(&self) -> Vec<BlobId> {
        match self {
            Node::Tree(tree) => tree.links(),
            Node::List(list) => list.links(),
        }
    }

    /// What decoding adds to the content, roughly.
    fn overhead(&self) -> usize {
        match self {
            Node::Tree(tree) => match &**tree {
                Tree::Leaf(entries) => size_of_val(entries.as_slice()),
                Tree::Inner { children, .. } => size_of_val(children.as_slice()),
            },
            Node::List(list) => size_of_val(list.items.as_slice()),
        }
    }
}

fn damaged(id: BlobId, reason: impl Into<String>) -> Error {
    Error::corrupt(format!("blob {id}"), reason)
}

/// A cache is whole after every step, so a panic of another thread does not matter.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
