//! The walk of a directory into an archive: each directory, what lies in it, then its subdirectories.

use super::archive::{self, Map};
use super::stream::{File, Stream};
use chunkstore::Result;
use chunkstore::id::Reference;
use chunkstore::list::Item;
use chunkstore::reader::Reader;
use chunkstore::tree::{Attributes, Content, Entry, Node};
use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Arc;

/// Directories below one another. Deeper trees are refused by name.
const DEPTH_MAX: usize = 4096;

/// Files with less are written in full.
const HOLE_BYTES_MIN: u64 = 64 << 10;
/// Files with more stretches of data are written in full.
const STRETCHES_MAX: usize = 64 << 10;

pub struct Walk<'s, 'a> {
    reader: &'s Reader,
    stream: &'s mut Stream<'a>,
    groups: HashMap<(u64, u64), Group>,
    frames: Vec<Frame>,
}

/// The names of one file.
struct Group {
    first: Arc<File>,
    /// Other names must say the same, or they are files of their own.
    digest: blake3::Hash,
    names_left: u64,
}

struct Frame {
    path: Vec<u8>,
    /// Encoded entries of the subdirectories to come.
    pending: std::vec::IntoIter<Box<[u8]>>,
}

impl<'s, 'a> Walk<'s, 'a> {
    pub fn new(reader: &'s Reader, stream: &'s mut Stream<'a>) -> Walk<'s, 'a> {
        Walk { reader, stream, groups: HashMap::new(), frames: Vec::new() }
    }

    /// Writes a whole archive. With attributes, its first member is `./` and gives them to the directory it is unpacked in.
    pub fn archive(mut self, tree: Reference, attributes: Option<&Attributes>) -> Result<()> {
        if let Some(attributes) = attributes {
            self.member(b"./".to_vec(), attributes, &Node::Directory(tree))?;
        }
        self.open(tree, Vec::new())?;
        while let Some(top) = self.frames.last_mut() {
            let Some(entry) = top.pending.next() else {
                self.frames.pop();
                continue;
            };
            let entry = Entry::decode(&entry, "directory entry")?;
            let path = [&top.path, entry.name.as_slice(), b"/"].concat();
            self.member(path.clone(), &entry.attributes, &entry.node)?;
            match entry.node {
                Node::Directory(_) if self.frames.len() >= DEPTH_MAX => {
                    self.stream.problem(&path, &format!("it lies more than {DEPTH_MAX} directories deep"));
                }
                Node::Directory(tree) => self.open(tree, path)?,
                _ => {}
            }
        }
        self.stream.bytes(archive::end())
    }

    fn open(&mut self, tree: Reference, path: Vec<u8>) -> Result<()> {
        let reader = self.reader;
        let mut pending = Vec::new();
        let visited = reader.entries(tree, &mut |entry| {
            if matches!(entry.node, Node::Directory(_)) {
                pending.push(entry.encode().into_boxed_slice());
            } else {
                self.leaf(&path, &entry)?;
            }
            Ok(ControlFlow::Continue(()))
        });
        match visited {
            Err(error) if error.is_damage() => self.stream.problem(&path, &error.to_string()),
            other => other?,
        }
        self.frames.push(Frame { path, pending: pending.into_iter() });
        Ok(())
    }

    fn leaf(&mut self, above: &[u8], entry: &Entry) -> Result<()> {
        let path = [above, entry.name.as_slice()].concat();
        if let Some(first) = self.first_name(entry, &path) {
            let header = archive::hard_link(&path, &entry.attributes, &first.path);
            return self.stream.link(first, path, header);
        }
        let Node::File(content) = &entry.node else {
            return self.member(path, &entry.attributes, &entry.node);
        };
        let map = match self.map(content) {
            Err(error) if error.is_damage() => {
                self.stream.problem(&path, &format!("{error}; it was left out"));
                return Ok(());
            }
            other => other?,
        };
        let header = match &map {
            Some(map) => archive::sparse_member(&path, &entry.attributes, content.size(), map),
            None => archive::member(&path, &entry.attributes, &entry.node).unwrap_or_default(),
        };
        let file = File::new(path);
        self.begin_group(entry, &file);
        self.stream.file(file, header, content, map)
    }

    /// Where the data is, if holes are worth it and few enough to remember.
    fn map(&self, content: &Content) -> Result<Option<Map>> {
        let mut map = Map::default();
        let mut hole_bytes = 0;
        self.reader.items(content, 0..content.size(), &mut |offset, item| {
            if let Item::Hole { len } = item {
                hole_bytes += len;
            } else {
                map.push(offset, item.covers(), content.size());
            }
            let is_too_long = map.len() > STRETCHES_MAX;
            Ok(if is_too_long { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        })?;
        Ok(Some(map).filter(|map| hole_bytes >= HOLE_BYTES_MIN && map.len() <= STRETCHES_MAX))
    }

    fn member(&mut self, path: Vec<u8>, attributes: &Attributes, node: &Node) -> Result<()> {
        match archive::member(&path, attributes, node) {
            Some(header) => {
                self.stream.count_entry();
                self.stream.bytes(header)
            }
            None => {
                let what = if matches!(node, Node::Socket) { "sockets" } else { "devices of such numbers" };
                self.stream.problem(&path, &format!("a tar archive cannot hold {what}; it was left out"));
                Ok(())
            }
        }
    }

    fn begin_group(&mut self, entry: &Entry, file: &Arc<File>) {
        if let Some(link) = entry.attributes.hard_link.filter(|link| link.names > 1) {
            let group = Group { first: file.clone(), digest: digest(&entry.node), names_left: link.names - 1 };
            self.groups.entry((link.device, link.inode)).or_insert(group);
        }
    }

    /// The member that an entry is a further name of.
    fn first_name(&mut self, entry: &Entry, path: &[u8]) -> Option<Arc<File>> {
        let key = entry.attributes.hard_link.map(|link| (link.device, link.inode))?;
        if let Some(group) = self.groups.get_mut(&key) {
            if group.digest != digest(&entry.node) {
                return None;
            }
            let first = group.first.clone();
            group.names_left -= 1;
            if group.names_left == 0 {
                self.groups.remove(&key);
            }
            return Some(first);
        }
        if !matches!(entry.node, Node::File(_) | Node::Socket) {
            self.begin_group(entry, &File::new(path.to_vec()));
        }
        None
    }
}

/// Of all that the names of one file must agree in.
fn digest(node: &Node) -> blake3::Hash {
    let entry = Entry { name: b"x".to_vec(), attributes: Attributes::default(), node: node.clone() };
    blake3::hash(&entry.encode())
}
