//! For tests: a repository in a temporary directory, trees written into it from a description, and the comparison of
//! what was restored with that description.

use super::{Options, Outcome, Overwrite, Selection, files};
use crate::monitor::{Counters, Monitor};
use chunkstore::backend::directory::Directory;
use chunkstore::capsule::Capsule;
use chunkstore::codec::{Opener, Sealer};
use chunkstore::configuration::Configuration;
use chunkstore::id::{BlobId, CapsuleId, HalfTag, MarkId, Reference, RepositoryId, SnapshotId, Tag};
use chunkstore::key::Keys;
use chunkstore::list::{Item, Slice};
use chunkstore::mark::Mark;
use chunkstore::reader::Reader;
use chunkstore::record::{Class, Kind, Record};
use chunkstore::repository::{Access, Repository};
use chunkstore::snapshot::Snapshot;
use chunkstore::store::Store;
use chunkstore::tree::{Attributes, Content, Entry, Node, Time};
use chunkstore::writer::{BlobWriter, ListBuilder, TreeBuilder};
use chunkstore::{Error, Result};
use rustix::fs::{self, IFlags};
use std::collections::{BTreeMap, HashSet};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

pub const CHUNK: usize = 64 << 10;

/// A file of a described tree.
#[derive(Clone)]
pub struct Described {
    pub name: Vec<u8>,
    pub attributes: Attributes,
    pub what: What,
}

#[derive(Clone)]
pub enum What {
    /// Stored in the entry.
    Inline(Vec<u8>),
    File(Vec<Piece>),
    /// One chunk holds the contents of all such files of a directory.
    Shared(Vec<u8>),
    Directory(Vec<Described>),
    Other(Node),
}

#[derive(Clone)]
pub enum Piece {
    Data(Vec<u8>),
    Hole(u64),
}

/// Bytes that do not compress and do not repeat.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

pub fn attributes(mode: u32) -> Attributes {
    let modified = Time { seconds: 1_600_000_000, nanoseconds: 123_456_789 };
    Attributes { mode, modified, user: b"root".to_vec(), group: b"root".to_vec(), ..Attributes::default() }
}

pub fn item(name: impl AsRef<[u8]>, mode: u32, what: What) -> Described {
    Described { name: name.as_ref().to_vec(), attributes: attributes(mode), what }
}

pub fn small(name: impl AsRef<[u8]>, bytes: &[u8]) -> Described {
    item(name, 0o644, What::Inline(bytes.to_vec()))
}

pub fn data(name: impl AsRef<[u8]>, seed: u64, len: usize) -> Described {
    item(name, 0o640, What::File(vec![Piece::Data(noise(seed, len))]))
}

pub fn directory(name: impl AsRef<[u8]>, children: Vec<Described>) -> Described {
    item(name, 0o755, What::Directory(children))
}

pub fn symlink(name: impl AsRef<[u8]>, to: &str) -> Described {
    item(name, 0o777, What::Other(Node::Symlink(to.as_bytes().to_vec())))
}

pub fn linked(mut item: Described, inode: u64, names: u64) -> Described {
    item.attributes.hard_link = Some(chunkstore::tree::HardLink { device: 7, inode, names });
    item
}

/// A store that counts what is read and can lose blobs.
pub struct Lossy {
    inner: Repository,
    pub lost: Mutex<HashSet<BlobId>>,
    /// Chunks, not nodes.
    pub chunks_read: AtomicU64,
}

impl Store for Lossy {
    fn configuration(&self) -> &Configuration {
        self.inner.configuration()
    }
    fn known(&self, tags: &[Tag]) -> Result<Vec<Option<BlobId>>> {
        self.inner.known(tags)
    }
    fn present(&self, ids: &[BlobId]) -> Result<Vec<bool>> {
        self.inner.present(ids)
    }
    fn generation(&self) -> Result<[u8; 16]> {
        self.inner.generation()
    }
    fn alternate(&self, tag: HalfTag) -> Result<Option<BlobId>> {
        Ok(self.inner.alternate(tag)?.filter(|id| !self.lost.lock().unwrap().contains(id)))
    }
    fn put(&self, record: Record, capsule: &Capsule) -> Result<BlobId> {
        self.inner.put(record, capsule)
    }
    fn flush(&self) -> Result<()> {
        self.inner.flush()
    }
    fn commit(&self, snapshot: &Snapshot) -> Result<()> {
        self.inner.commit(snapshot)
    }
    fn snapshots(&self) -> Result<Vec<(SnapshotId, Result<Snapshot>)>> {
        self.inner.snapshots()
    }
    fn marks(&self) -> Result<Vec<(MarkId, Result<(Mark, Vec<u8>)>)>> {
        self.inner.marks()
    }
    fn mark(&self, object: &[u8]) -> Result<()> {
        self.inner.mark(object)
    }
    fn arrange(&self, ids: &[BlobId]) -> Result<Vec<Vec<usize>>> {
        self.inner.arrange(ids)
    }
    fn read(&self, ids: &[BlobId]) -> Result<Vec<Result<Record>>> {
        let lost = self.lost.lock().unwrap();
        let records = self.inner.read(ids)?;
        let answer = ids.iter().zip(records).map(|(id, record)| {
            if lost.contains(id) {
                return Err(Error::missing(id.to_string()));
            }
            if record.as_ref().is_ok_and(|record| record.class == Class::Data) {
                self.chunks_read.fetch_add(1, Ordering::Relaxed);
            }
            record
        });
        Ok(answer.collect())
    }
    fn capsule(&self, id: CapsuleId) -> Result<Capsule> {
        self.inner.capsule(id)
    }
}

pub struct Fixture {
    pub dir: tempfile::TempDir,
    pub store: Arc<Lossy>,
    pub keys: Keys,
    pub reader: Reader,
    pub seen: Seen,
}

impl Fixture {
    #[expect(clippy::new_without_default, reason = "only tests make one")]
    pub fn new() -> Fixture {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("repository");
        let configuration = Configuration::new(RepositoryId([3; 16]), 0);
        let keys = Keys::generate(&configuration).unwrap();
        Repository::create(&Directory::create(&place).unwrap(), &configuration).unwrap();
        let access = Access::Write { holder: "test".into(), wait: Duration::ZERO };
        let inner = Repository::open(&place, access, 0).unwrap();
        let store = Arc::new(Lossy { inner, lost: Mutex::default(), chunks_read: AtomicU64::new(0) });
        let opener = Opener::new(&keys, &configuration).unwrap();
        let reader = Reader::new(store.clone(), opener);
        Fixture { dir, store, keys, reader, seen: Seen::default() }
    }

    pub fn target(&self) -> std::path::PathBuf {
        self.dir.path().join("target")
    }

    /// Writes a described tree into the repository.
    pub fn save(&self, items: &[Described]) -> Reference {
        let sealer = Sealer::new(&self.keys.write, self.store.configuration()).unwrap();
        let writer = BlobWriter::new(&*self.store, sealer);
        let root = save_directory(&writer, items);
        self.store.flush().unwrap();
        root
    }

    /// Puts a tree `depth` directories deep.
    pub fn save_below(&self, items: &[Described], name: &str, depth: usize) -> Reference {
        let sealer = Sealer::new(&self.keys.write, self.store.configuration()).unwrap();
        let writer = BlobWriter::new(&*self.store, sealer);
        let bottom = save_directory(&writer, items);
        let root = (0..depth).fold(bottom, |below, _| {
            save_directory(&writer, &[item(name, 0o755, What::Other(Node::Directory(below)))])
        });
        self.store.flush().unwrap();
        root
    }

    pub fn restore(&self, tree: Reference, change: impl FnOnce(&mut Options)) -> Outcome {
        self.try_restore(&Selection::Root(tree), change, &AtomicBool::new(false)).unwrap()
    }

    pub fn try_restore(
        &self,
        selection: &Selection,
        change: impl FnOnce(&mut Options),
        interrupted: &AtomicBool,
    ) -> Result<Outcome> {
        let mut options = Options {
            target: self.target(),
            delete: false,
            overwrite: Overwrite::Always,
            dry_run: false,
            verify: false,
            special: true,
        };
        change(&mut options);
        self.seen.clear();
        files(&self.reader, selection, &options, &self.seen, interrupted)
    }

    pub fn opener(&self) -> Opener {
        Opener::new(&self.keys, self.store.configuration()).unwrap()
    }

    /// The chunks of a file.
    pub fn chunks(&self, tree: Reference, path: &str) -> Vec<(u64, BlobId)> {
        let entry = self.reader.resolve(tree, path.as_bytes()).unwrap().unwrap();
        let Node::File(content) = entry.node else { panic!("{path} is no file") };
        let mut chunks = Vec::new();
        self.reader
            .items(&content, 0..content.size(), &mut |offset, item| {
                if let Item::Chunk { link, .. } = item {
                    chunks.push((offset, link.id));
                }
                Ok(std::ops::ControlFlow::Continue(()))
            })
            .unwrap();
        chunks
    }

    pub fn lose(&self, id: BlobId) {
        self.store.lost.lock().unwrap().insert(id);
    }
}

fn save_directory(writer: &BlobWriter<'_>, items: &[Described]) -> Reference {
    let mut sorted: Vec<&Described> = items.iter().collect();
    sorted.sort_by(|a, b| a.name.cmp(&b.name));
    let mut tree = TreeBuilder::new();
    let mut shared = save_shared(writer, &sorted).into_iter();
    for item in sorted {
        let node = match &item.what {
            What::Inline(bytes) => Node::File(Content::Inline(bytes.clone())),
            What::File(pieces) => Node::File(save_file(writer, pieces)),
            What::Shared(_) => Node::File(shared.next().unwrap()),
            What::Directory(children) => Node::Directory(save_directory(writer, children)),
            What::Other(node) => node.clone(),
        };
        let entry = Entry { name: item.name.clone(), attributes: item.attributes.clone(), node };
        tree.push(&entry.name, &entry.encode(), &entry.links(), writer).unwrap();
    }
    tree.finish(writer).unwrap()
}

fn save_shared(writer: &BlobWriter<'_>, items: &[&Described]) -> Vec<Content> {
    let contents = items.iter().filter_map(|item| match &item.what {
        What::Shared(bytes) => Some(bytes.as_slice()),
        _ => None,
    });
    let contents: Vec<&[u8]> = contents.collect();
    if contents.is_empty() {
        return Vec::new();
    }
    let link = writer.put(Kind::Chunk, &contents.concat(), &[]).unwrap();
    let mut end = 0;
    let slice = |bytes: &&[u8]| {
        let (len, tag) = (bytes.len() as u64, writer.sealer.key.tag(Kind::Chunk, bytes).half());
        end += len;
        Content::Items { size: len, items: vec![Item::Slice(Slice { len, offset: end - len, link, tag })] }
    };
    contents.iter().map(slice).collect()
}

fn save_file(writer: &BlobWriter<'_>, pieces: &[Piece]) -> Content {
    let mut list = ListBuilder::new();
    for piece in pieces {
        match piece {
            Piece::Hole(len) => list.push(Item::Hole { len: *len }, writer).unwrap(),
            Piece::Data(bytes) => {
                for chunk in bytes.chunks(CHUNK) {
                    let link = writer.put(Kind::Chunk, chunk, &[]).unwrap();
                    list.push(Item::Chunk { len: chunk.len() as u64, link }, writer).unwrap();
                }
            }
        }
    }
    list.finish(writer).unwrap()
}

/// A monitor that remembers.
#[derive(Default)]
pub struct Seen {
    counters: Counters,
    pub problems: Mutex<Vec<(String, String)>>,
    pub details: Mutex<Vec<(String, String)>>,
}

impl Seen {
    fn clear(&self) {
        self.problems.lock().unwrap().clear();
        self.details.lock().unwrap().clear();
    }

    pub fn problems(&self) -> Vec<(String, String)> {
        self.problems.lock().unwrap().clone()
    }

    pub fn details(&self, verb: &str) -> Vec<String> {
        let mut items: Vec<String> =
            self.details.lock().unwrap().iter().filter(|(v, _)| v == verb).map(|(_, item)| item.clone()).collect();
        items.sort();
        items
    }
}

impl Monitor for Seen {
    fn counters(&self) -> &Counters {
        &self.counters
    }
    fn current(&self, _: &[u8]) {}
    fn problem(&self, item: &[u8], reason: &str) {
        self.problems.lock().unwrap().push((String::from_utf8_lossy(item).into_owned(), reason.to_owned()));
    }
    fn detail(&self, verb: &str, item: &[u8]) {
        self.details.lock().unwrap().push((verb.to_owned(), String::from_utf8_lossy(item).into_owned()));
    }
}

/// Compares a directory with a description, names, attributes and contents; nothing more may be there.
pub fn assert_holds(root: &Path, items: &[Described]) {
    let mut found: Vec<_> = std::fs::read_dir(root).unwrap().map(|e| e.unwrap().file_name()).collect();
    found.sort();
    let mut wanted: Vec<_> = items.iter().map(|i| std::ffi::OsStr::from_bytes(&i.name).to_owned()).collect();
    wanted.sort();
    assert_eq!(found, wanted, "names in {}", root.display());
    for item in items {
        assert_is(&root.join(std::ffi::OsStr::from_bytes(&item.name)), item);
    }
}

pub fn assert_is(path: &Path, item: &Described) {
    let at = path.display();
    let found = std::fs::symlink_metadata(path).unwrap();
    let wanted = &item.attributes;
    let kind = found.file_type();
    match &item.what {
        What::Inline(bytes) | What::Shared(bytes) => assert!(std::fs::read(path).unwrap() == *bytes, "{at}: content"),
        What::File(pieces) => assert_pieces(path, pieces, found.blocks() * 512),
        What::Directory(children) => assert_holds(path, children),
        What::Other(Node::Symlink(to)) => {
            assert_eq!(std::fs::read_link(path).unwrap().as_os_str().as_bytes(), to, "{at}");
        }
        What::Other(Node::Fifo) => assert!(kind.is_fifo(), "{at}"),
        What::Other(Node::Socket) => assert!(kind.is_socket(), "{at}"),
        What::Other(Node::CharacterDevice { major, minor }) => {
            assert!(kind.is_char_device(), "{at}");
            assert_eq!(found.rdev(), fs::makedev(*major, *minor), "{at}");
        }
        What::Other(Node::BlockDevice { major, minor }) => {
            assert!(kind.is_block_device(), "{at}");
            assert_eq!(found.rdev(), fs::makedev(*major, *minor), "{at}");
        }
        What::Other(_) => panic!("{at}: not described so"),
    }
    let modified = Time { seconds: found.mtime(), nanoseconds: u32::try_from(found.mtime_nsec()).unwrap() };
    assert_eq!(modified, wanted.modified, "{at}: modification time");
    assert_eq!((found.uid(), found.gid()), (wanted.uid, wanted.gid), "{at}: owner");
    if !kind.is_symlink() {
        assert_eq!(found.mode() & 0o7777, wanted.mode, "{at}: mode");
    }
    assert_eq!(xattrs(path), wanted.xattrs.iter().cloned().collect(), "{at}: extended attributes");
    if kind.is_file() || kind.is_dir() {
        assert_eq!(flags(path) & Attributes::FLAGS, wanted.flags, "{at}: inode flags");
    }
}

fn assert_pieces(path: &Path, pieces: &[Piece], allocated: u64) {
    let file = std::fs::File::open(path).unwrap();
    let mut at = 0;
    let mut bytes_of_data = 0;
    for piece in pieces {
        match piece {
            Piece::Hole(len) => {
                for edge in [0, len / 2, len.saturating_sub(4096)] {
                    let mut found = vec![1; usize::try_from(4096.min(len - edge)).unwrap()];
                    file.read_exact_at(&mut found, at + edge).unwrap();
                    assert!(found.iter().all(|b| *b == 0), "{}: hole at {at}", path.display());
                }
                at += len;
            }
            Piece::Data(bytes) => {
                let mut found = vec![0; bytes.len()];
                file.read_exact_at(&mut found, at).unwrap();
                assert!(found == *bytes, "{}: content at {at}", path.display());
                at += bytes.len() as u64;
                bytes_of_data += bytes.len() as u64 + 8192;
            }
        }
    }
    assert_eq!(file.metadata().unwrap().len(), at, "{}: size", path.display());
    assert!(allocated <= bytes_of_data + 8192, "{}: {allocated} bytes allocated", path.display());
}

pub fn xattrs(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut names = vec![0; 64 << 10];
    let len = fs::llistxattr(path, names.as_mut_slice()).unwrap();
    let names = names[..len].split(|b| *b == 0).filter(|n| !n.is_empty() && !n.starts_with(b"security.selinux"));
    let value = |name: &[u8]| {
        let mut value = vec![0; 64 << 10];
        let len = fs::lgetxattr(path, name, value.as_mut_slice()).unwrap();
        value[..len].to_vec()
    };
    names.map(|name| (name.to_vec(), value(name))).collect()
}

pub fn flags(path: &Path) -> u32 {
    fs::ioctl_getflags(std::fs::File::open(path).unwrap()).map_or(0, |flags| flags.bits())
}

pub fn set_flags(path: &Path, flags: u32) {
    let file = std::fs::File::open(path).unwrap();
    let now = fs::ioctl_getflags(&file).unwrap().bits();
    fs::ioctl_setflags(&file, IFlags::from_bits_retain(now & !Attributes::FLAGS | flags)).unwrap();
}
