//! The change cache: what the last backup of a dataset saved, by path and state, so that an unchanged file costs one look.
//!
//! One file for each dataset: a header, then blocks of frames in the order of the walk; it is read in step with
//! the walk and never held whole. It may be lost, damaged or foreign at any time: then files are read again, that is all.
//!
//! ```text
//! header   magic 8 | repository 16 | H(dataset) 32 | generation 16 | checksum 16
//! block    len u32 | checksum 16 | frames
//! ```
//! A cache is written as `NAME.writing`, under a lock. After the commit it becomes `NAME.cache`, whose blobs are there as long as
//! the store's generation is the same; if it would be the same byte for byte, the old one stays. After an interruption it becomes `NAME.partial`, whose blobs are always asked for.
//! `NAME.stream` remembers of a stream which content its latest snapshot holds.

pub mod frame;

mod reader;
mod writer;

pub use reader::{CacheReader, Finding};
pub use writer::CacheWriter;

use chunkstore::id::{RepositoryId, SnapshotId};
use chunkstore::store::Store;
use frame::{Frame, Key};
use rustix::fs::FlockOperation;
use std::fs::{DirBuilder, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

const MAGIC: &[u8; 8] = b"NKunch\0\x01";
const CHECKSUM_LEN: usize = 16;
const GENERATION_AT: usize = 8 + 16 + 32;
const HEADER_LEN: usize = GENERATION_AT + 16 + CHECKSUM_LEN;
/// A block is closed when it has this many bytes.
const BLOCK_BYTES: usize = 64 << 10;
/// No frame is longer than the limits of an entry allow.
const BLOCK_BYTES_MAX: usize = 4 << 20;

/// Where the caches of one dataset lie, and what binds them to it.
pub struct Place {
    directory: PathBuf,
    stem: String,
    header: [u8; HEADER_LEN],
    generation: [u8; 16],
}

/// All that is remembered of a dataset: of its last run, and of one that was interrupted since.
#[derive(Default)]
pub struct Unchanged<'s> {
    readers: Vec<CacheReader<'s>>,
    /// The reader that found what was asked for last.
    chosen: usize,
    /// Where what was taken last ends among the frames of the first reader.
    taken: u64,
}

impl Place {
    pub fn new(cache_dir: &Path, repository: &RepositoryId, dataset: &str, generation: [u8; 16]) -> Place {
        let dataset = blake3::hash(dataset.as_bytes());
        let stem = dataset.to_hex().chars().take(32).collect();
        let header = header(repository, dataset.as_bytes(), &generation);
        Place { directory: cache_dir.join(repository.hex()), stem, header, generation }
    }

    fn path(&self, suffix: &str) -> PathBuf {
        self.directory.join(format!("{}.{suffix}", self.stem))
    }

    /// What is remembered. With `trust`, ids of the last run are relied on if nothing can have been removed since.
    pub fn read<'s>(&self, store: &'s dyn Store, trust: bool) -> Unchanged<'s> {
        let open = |suffix: &str, may_trust: bool| {
            let (file, generation) = reader::open(&self.path(suffix), &self.header)?;
            let is_trusted = trust && may_trust && generation == self.generation;
            Some(CacheReader::new(file, (!is_trusted).then_some(store)))
        };
        let readers = [open("cache", true), open("partial", false)];
        Unchanged { readers: readers.into_iter().flatten().collect(), ..Unchanged::default() }
    }

    /// Begins a new cache. `None` if another run is writing one or it cannot be written.
    ///
    /// One that a killed run left is kept for [`Place::read`] to find: call this first.
    pub fn write(&self) -> Option<CacheWriter> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.directory).ok()?;
        let path = self.path("writing");
        let open = || {
            let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
            let file = file.ok()?;
            rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).ok()?;
            // Another run may have finished with it before the lock was taken.
            (file.metadata().ok()?.ino() == std::fs::metadata(&path).ok()?.ino()).then_some(file)
        };
        let mut file = open()?;
        if file.metadata().ok()?.len() > HEADER_LEN as u64 && self.keep_partial() {
            file = open()?;
        }
        file.set_len(0).ok()?;
        let old =
            reader::open(&self.path("cache"), &self.header).filter(|(_, generation)| *generation == self.generation);
        let old = old.filter(|_| !self.path("partial").exists()).map(|(file, _)| file);
        Some(CacheWriter::new(file, &self.header, old))
    }

    /// The run was committed: the new cache takes the place of the old one, unless it would be the same.
    pub fn commit(&self, writer: CacheWriter) {
        let is_same = writer.is_same();
        match writer.finish() {
            Some(_) if !is_same && std::fs::rename(self.path("writing"), self.path("cache")).is_ok() => {}
            _ => self.remove("writing"),
        }
        self.remove("partial");
    }

    /// The run was not committed: what was written helps the next one.
    pub fn abandon(&self, writer: CacheWriter) {
        let is_same = writer.is_same();
        if writer.finish().is_none() || is_same || !self.keep_partial() {
            self.remove("writing");
        }
    }

    /// What a stream held that was committed last as this snapshot: a hash, if it is remembered.
    pub fn read_stream(&self, snapshot: &SnapshotId) -> Option<[u8; 32]> {
        let bytes = std::fs::read(self.path("stream")).ok()?;
        let (body, sum) = bytes.split_last_chunk()?;
        let (named, content) = body.split_last_chunk()?;
        (checksum(body) == *sum && named == self.stream_head(snapshot)).then_some(*content)
    }

    /// Remembers what a stream held; its loss costs a snapshot that says nothing new.
    pub fn write_stream(&self, snapshot: &SnapshotId, content: &[u8; 32]) {
        let mut bytes = [&self.stream_head(snapshot)[..], content].concat();
        bytes.extend(checksum(&bytes));
        let write = || {
            DirBuilder::new().recursive(true).mode(0o700).create(&self.directory)?;
            let mut file = tempfile::NamedTempFile::new_in(&self.directory)?;
            file.write_all(&bytes)?;
            file.persist(self.path("stream")).map_err(|error| error.error)
        };
        let _ = write();
    }

    fn stream_head(&self, snapshot: &SnapshotId) -> Vec<u8> {
        [self.header.get(..GENERATION_AT).unwrap_or_default(), &snapshot.0].concat()
    }

    /// Of two partial caches the longer one stays.
    fn keep_partial(&self) -> bool {
        let len = |suffix| std::fs::metadata(self.path(suffix)).map_or(0, |meta| meta.len());
        len("writing") > len("partial") && std::fs::rename(self.path("writing"), self.path("partial")).is_ok()
    }

    fn remove(&self, suffix: &str) {
        // It may not exist, and a cache that stays is read with the same care.
        let _ = std::fs::remove_file(self.path(suffix));
    }
}

impl Unchanged<'_> {
    /// How the attributes of a directory compare with what is remembered.
    pub fn enter(&mut self, name: &[u8], key: &Key) -> Finding {
        let mut best = Finding::New;
        for (at, reader) in self.readers.iter_mut().enumerate() {
            let finding = reader.enter(name, key);
            if finding > best {
                best = finding;
                self.chosen = at;
            }
        }
        best
    }

    /// How something that is no directory compares with what is remembered.
    pub fn find(&mut self, name: &[u8], key: &Key) -> Finding {
        let mut best = Finding::New;
        for (at, reader) in self.readers.iter_mut().enumerate() {
            let finding = reader.find(name, key);
            if finding > best {
                best = finding;
                self.chosen = at;
            }
        }
        best
    }

    /// How a directory's attributes compare, and whether it is the same with everything below.
    pub fn leave(&mut self, key: &Key) -> (Finding, bool) {
        let mut best = (Finding::New, false);
        for (at, reader) in self.readers.iter_mut().enumerate() {
            let left = reader.leave(key);
            if left > best {
                best = left;
                self.chosen = at;
            }
        }
        best
    }

    /// Takes the frame found or left last. True if it comes right after the one taken before: nothing of the last run was left out between.
    pub fn take(&mut self) -> Option<(&[u8], bool)> {
        let reader = self.readers.get(self.chosen)?;
        let (begin, (block, frame)) = (reader.found_at()?, reader.found()?);
        let follows = self.chosen == 0 && begin == self.taken;
        self.taken = begin + frame.all.len() as u64;
        Some((block.get(frame.all.clone())?, follows))
    }

    /// What was found or left last, unless that was [`Finding::New`].
    pub fn found(&self) -> Option<(&[u8], &Frame)> {
        self.readers.get(self.chosen)?.found()
    }
}

fn checksum(bytes: &[u8]) -> [u8; CHECKSUM_LEN] {
    let mut sum = [0; CHECKSUM_LEN];
    sum.copy_from_slice(blake3::hash(bytes).as_bytes().first_chunk::<CHECKSUM_LEN>().unwrap_or(&[0; CHECKSUM_LEN]));
    sum
}

fn header(repository: &RepositoryId, dataset: &[u8; 32], generation: &[u8; 16]) -> [u8; HEADER_LEN] {
    let parts = [&MAGIC[..], &repository.0, dataset, generation].concat();
    let mut header = [0; HEADER_LEN];
    for (to, from) in header.iter_mut().zip(parts.iter().chain(&checksum(&parts))) {
        *to = *from;
    }
    header
}

/// The generation of a header that is whole and differs from the expected one in nothing else.
fn generation_of(header: &[u8; HEADER_LEN], expected: &[u8; HEADER_LEN]) -> Option<[u8; 16]> {
    let (bound, rest) = header.split_at_checked(GENERATION_AT)?;
    let generation: [u8; 16] = *rest.first_chunk()?;
    let (body, sum) = header.split_at_checked(HEADER_LEN - CHECKSUM_LEN)?;
    (bound == expected.get(..GENERATION_AT)? && checksum(body) == sum).then_some(generation)
}

#[cfg(test)]
mod tests {
    use super::frame::{Kind, Remembered, key};
    use super::*;
    use crate::backup::testing::Fixture;
    use crate::metadata::capture::Stat;
    use chunkstore::id::BlobId;
    use chunkstore::tree::Time;
    use proptest::prelude::*;
    use std::collections::BTreeMap;
    use std::fs::File;
    use std::io::{Read, Seek};

    fn stat(inode: u64) -> Stat {
        let time = Time { seconds: 5, nanoseconds: 0 };
        Stat {
            device: 1,
            inode,
            mode: 0o100644,
            uid: 0,
            gid: 0,
            links: 1,
            size: 7,
            blocks: 8,
            modified: time,
            changed: time,
            special: (0, 0),
        }
    }

    fn remembered(name: &str, inode: u64) -> Remembered<'_> {
        const LINKS: [BlobId; 1] = [BlobId([9; 32])];
        Remembered {
            name: name.as_bytes(),
            usable: true,
            key: key(&stat(inode)),
            entry: name.as_bytes(),
            links: &LINKS,
        }
    }

    /// A small language: `d(` enters, `)` leaves, `x` is an item; inodes are the positions.
    fn write(writer: &mut CacheWriter, tree: &str) {
        let mut open = Vec::new();
        for (at, word) in tree.split(' ').enumerate() {
            let inode = at as u64;
            match word.strip_suffix('(') {
                Some(name) => {
                    writer.remember(Kind::Enter, &Remembered { links: &[], ..remembered(name, inode) });
                    open.push((name, inode));
                }
                None if word == ")" => {
                    let (name, inode) = open.pop().unwrap();
                    writer.remember(Kind::Leave, &remembered(name, inode));
                }
                None => writer.remember(Kind::Item, &remembered(word, inode)),
            }
        }
    }

    /// Reads in step with a tree in the same language; a `!` after a name gives it another inode.
    fn read(unchanged: &mut Unchanged<'_>, tree: &str, inode_of: &dyn Fn(&str) -> u64) -> String {
        let mut open = Vec::new();
        let mut told = Vec::new();
        let inode = |name: &str| if name.ends_with('!') { 1000 } else { inode_of(name) };
        for word in tree.split(' ') {
            if let Some(name) = word.strip_suffix('(') {
                let finding = unchanged.enter(name.trim_end_matches('!').as_bytes(), &key(&stat(inode(name))));
                if finding != Finding::New {
                    let (bytes, frame) = unchanged.found().unwrap();
                    assert_eq!(&bytes[frame.entry.clone()], name.trim_end_matches('!').as_bytes());
                    assert_eq!(finding == Finding::Same, !name.ends_with('!'));
                }
                open.push(name);
            } else if word == ")" {
                let name = open.pop().unwrap();
                let left = unchanged.leave(&key(&stat(inode(name))));
                told.push(format!("{name}:{:?}{}", left.0, if left.1 { "+" } else { "" }));
            } else {
                let finding = unchanged.find(word.trim_end_matches('!').as_bytes(), &key(&stat(inode(word))));
                if finding != Finding::New {
                    let (bytes, frame) = unchanged.found().unwrap();
                    assert_eq!(&bytes[frame.entry.clone()], word.trim_end_matches('!').as_bytes());
                }
                told.push(format!("{word}:{finding:?}"));
            }
        }
        told.join(" ")
    }

    const TREE: &str = "( a b( c d( ) e ) f g( h ) )";

    fn inode(name: &str) -> u64 {
        TREE.split(' ').position(|word| word.trim_end_matches('(') == name).unwrap() as u64
    }

    fn place(temp: &tempfile::TempDir) -> Place {
        Place::new(temp.path(), &RepositoryId([1; 16]), "host/files/x", [2; 16])
    }

    fn compare(place: &Place, fixture: &Fixture, tree: &str) -> String {
        read(&mut place.read(&*fixture.repository, true), tree, &inode)
    }

    #[test]
    fn a_walk_finds_what_is_the_same() {
        let (temp, fixture) = (tempfile::tempdir().unwrap(), Fixture::new());
        let place = place(&temp);
        let mut writer = place.write().unwrap();
        write(&mut writer, TREE);
        place.commit(writer);
        let all = compare(&place, &fixture, TREE);
        assert_eq!(all, "a:Same c:Same d:Same+ e:Same b:Same+ f:Same h:Same g:Same+ :Same+");
        let changed = compare(&place, &fixture, "( a b( c d( ) e! ) f g( h ) )");
        assert_eq!(changed, "a:Same c:Same d:Same+ e!:Changed b:Same f:Same h:Same g:Same+ :Same");
        let attributes = compare(&place, &fixture, "( a b( c d!( ) e ) f g( h ) )");
        assert_eq!(attributes, "a:Same c:Same d!:Changed+ e:Same b:Same f:Same h:Same g:Same+ :Same");
        // Gone, new, a file for a directory, a directory for a file.
        let gone = compare(&place, &fixture, "( b( c e ) f g( h ) )");
        assert_eq!(gone, "c:Same e:Same b:Same f:Same h:Same g:Same+ :Same");
        let gone = compare(&place, &fixture, "( a g( h ) )");
        assert_eq!(gone, "a:Same h:Same g:Same+ :Same");
        let gone = compare(&place, &fixture, "( a b( c d( ) ) f g( ) )");
        assert_eq!(gone, "a:Same c:Same d:Same+ b:Same f:Same g:Same :Same");
        let new = compare(&place, &fixture, "( a aa! b( c d( ) e ) f g( h ) z! )");
        assert_eq!(new, "a:Same aa!:New c:Same d:Same+ e:Same b:Same+ f:Same h:Same g:Same+ z!:New :Same");
        let turned = compare(&place, &fixture, "( a!( x! ) b! f g( h ) )");
        assert_eq!(turned, "x!:New a!:New b!:New f:Same h:Same g:Same+ :Same");
        let new = compare(&place, &fixture, "( a b( c c!( b! ) d( ) e ) f g( h ) )");
        assert_eq!(new, "a:Same c:Same b!:New c!:New d:Same+ e:Same b:Same f:Same h:Same g:Same+ :Same");
    }

    #[test]
    fn ids_are_asked_for_unless_nothing_can_have_gone() {
        let (temp, fixture) = (tempfile::tempdir().unwrap(), Fixture::new());
        let inode_a = |name: &str| u64::from(name == "a");
        let mut writer = place(&temp).write().unwrap();
        write(&mut writer, "( a )");
        place(&temp).commit(writer);
        assert_eq!(read(&mut place(&temp).read(&*fixture.repository, true), "( a )", &inode_a), "a:Same :Same+");
        assert_eq!(read(&mut place(&temp).read(&*fixture.repository, false), "( a )", &inode_a), "a:Changed :Changed");
        let later = Place::new(temp.path(), &RepositoryId([1; 16]), "host/files/x", [3; 16]);
        assert_eq!(read(&mut later.read(&*fixture.repository, true), "( a )", &inode_a), "a:Changed :Changed");
    }

    #[test]
    fn foreign_caches_are_not_read() {
        let (temp, fixture) = (tempfile::tempdir().unwrap(), Fixture::new());
        let mut writer = place(&temp).write().unwrap();
        write(&mut writer, TREE);
        place(&temp).commit(writer);
        let other = Place::new(temp.path(), &RepositoryId([1; 16]), "host/files/y", [2; 16]);
        std::fs::rename(place(&temp).path("cache"), other.path("cache")).unwrap();
        assert!(compare(&other, &fixture, TREE).starts_with("a:New"));
    }

    #[test]
    fn nothing_damaged_is_relied_on() {
        let (temp, fixture) = (tempfile::tempdir().unwrap(), Fixture::new());
        let place = place(&temp);
        let mut writer = place.write().unwrap();
        write(&mut writer, TREE);
        place.commit(writer);
        let path = place.path("cache");
        let whole = std::fs::read(&path).unwrap();
        let replace = |bytes: &[u8]| {
            // Some file systems flush a file that is truncated and written again.
            std::fs::remove_file(&path).unwrap();
            std::fs::write(&path, bytes).unwrap();
        };
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            replace(&bytes);
            let told = compare(&place, &fixture, TREE);
            // A header whose generation alone differs does not pass its checksum either.
            assert!(told.starts_with("a:New") && told.ends_with(":New"), "byte {at}: {told}");
            replace(&whole[..at]);
            assert!(compare(&place, &fixture, TREE).starts_with("a:New"), "cut at {at}");
        }
    }

    #[test]
    fn large_caches_are_read_block_by_block() {
        let (temp, fixture) = (tempfile::tempdir().unwrap(), Fixture::new());
        let place = place(&temp);
        let mut writer = place.write().unwrap();
        let names: Vec<String> = (0..5000).map(|n| format!("{n:06}")).collect();
        writer.remember(Kind::Enter, &remembered("", 0));
        for (at, name) in names.iter().enumerate() {
            writer.remember(Kind::Item, &remembered(name, at as u64));
        }
        writer.remember(Kind::Leave, &remembered("", 0));
        place.commit(writer);
        assert!(std::fs::metadata(place.path("cache")).unwrap().len() > 5 * BLOCK_BYTES as u64);
        let mut unchanged = place.read(&*fixture.repository, true);
        unchanged.enter(b"", &key(&stat(0)));
        for (at, name) in names.iter().enumerate() {
            assert_eq!(unchanged.find(name.as_bytes(), &key(&stat(at as u64))), Finding::Same);
        }
        assert_eq!(unchanged.leave(&key(&stat(0))), (Finding::Same, true));
    }

    /// Names in four directories, as many as fill some blocks, each with its inode; changed as told.
    fn names(changes: &BTreeMap<usize, u8>) -> Vec<(String, u64)> {
        let mut names = Vec::new();
        for at in 0..3000 {
            let inode = at as u64;
            match changes.get(&at) {
                Some(0) => {}
                Some(1) => names.push((format!("{at:05}"), inode + 10_000)),
                Some(_) => names.extend([(format!("{at:05}"), inode), (format!("{at:05}new"), inode + 20_000)]),
                None => names.push((format!("{at:05}"), inode)),
            }
        }
        names
    }

    /// Writes the cache of a run that finds these names, with what is remembered of the last one.
    fn rerun(place: &Place, fixture: &Fixture, names: &[(String, u64)]) -> CacheWriter {
        let mut writer = place.write().unwrap();
        let mut unchanged = place.read(&*fixture.repository, true);
        let mut directory = None;
        let mut take = |is_same: bool, kind, name: &str, inode, unchanged: &mut Unchanged<'_>| match unchanged.take() {
            Some((frame, follows)) if is_same => {
                if !follows {
                    writer.differ();
                }
                writer.copy(frame);
            }
            _ => writer.remember(kind, &remembered(name, inode)),
        };
        let leave = |directory: &str,
                     unchanged: &mut Unchanged<'_>,
                     take: &mut dyn FnMut(bool, Kind, &str, u64, &mut Unchanged<'_>)| {
            let is_same = unchanged.leave(&key(&stat(1))) == (Finding::Same, true);
            take(is_same, Kind::Leave, directory, 1, unchanged);
        };
        for (name, inode) in names {
            let parent = name.get(..2).unwrap();
            if directory != Some(parent) {
                if let Some(before) = directory.replace(parent) {
                    leave(before, &mut unchanged, &mut take);
                }
                let is_same = unchanged.enter(parent.as_bytes(), &key(&stat(1))) == Finding::Same;
                take(is_same, Kind::Enter, parent, 1, &mut unchanged);
            }
            let is_same = unchanged.find(name.as_bytes(), &key(&stat(*inode))) == Finding::Same;
            take(is_same, Kind::Item, name, *inode, &mut unchanged);
        }
        if let Some(last) = directory {
            leave(last, &mut unchanged, &mut take);
        }
        writer
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(30))]
        #[test]
        fn what_is_the_same_to_the_end_stays_and_all_else_is_written_as_if_anew(
            first in prop::collection::btree_map(0usize..3000, 0u8..3, 0..4),
            second in prop::collection::btree_map(0usize..3000, 0u8..3, 0..4),
        ) {
            let (temp, fresh, fixture) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), Fixture::new());
            let cached = place(&temp);
            for changes in [&first, &first, &second, &second] {
                let before = std::fs::metadata(cached.path("cache")).map(|metadata| metadata.ino()).ok();
                let old = std::fs::read(cached.path("cache")).ok();
                cached.commit(rerun(&cached, &fixture, &names(changes)));
                let anew = place(&fresh);
                anew.remove("cache");
                anew.commit(rerun(&anew, &fixture, &names(changes)));
                let expected = std::fs::read(anew.path("cache")).unwrap();
                prop_assert!(std::fs::read(cached.path("cache")).unwrap() == expected);
                let stays = std::fs::metadata(cached.path("cache")).map(|metadata| metadata.ino()).ok() == before;
                prop_assert_eq!(stays, old == Some(expected));
                prop_assert!(!cached.path("writing").exists());
            }
        }
    }

    #[test]
    fn an_interrupted_run_leaves_the_longer_part() {
        let (temp, fixture) = (tempfile::tempdir().unwrap(), Fixture::new());
        let place = place(&temp);
        let mut writer = place.write().unwrap();
        assert!(place.write().is_none(), "one writes at a time");
        write(&mut writer, "( a b( c");
        place.abandon(writer);
        let mut shorter = place.write().unwrap();
        write(&mut shorter, "( a");
        place.abandon(shorter);
        assert!(!place.path("writing").exists());
        // Ids of a part are asked for, and these are not there.
        assert_eq!(compare(&place, &fixture, "( a b( c ) )"), "a:Changed c:Changed b:New :New");
        // A killed run leaves what it wrote under the name it wrote it.
        let mut killed = place.write().unwrap();
        write(&mut killed, "( a b( c d( ) e ) f");
        assert!(killed.finish().is_some());
        let writer = place.write().unwrap();
        assert_eq!(compare(&place, &fixture, "( f"), "f:Changed");
        place.commit(writer);
        assert!(!place.path("partial").exists());
    }

    #[test]
    fn a_part_and_the_last_run_complete_each_other() {
        let (temp, fixture) = (tempfile::tempdir().unwrap(), Fixture::new());
        let place = place(&temp);
        let mut writer = place.write().unwrap();
        write(&mut writer, TREE);
        place.commit(writer);
        let mut writer = place.write().unwrap();
        writer.remember(Kind::Enter, &Remembered { links: &[], ..remembered("", 0) });
        writer.remember(Kind::Item, &Remembered { links: &[], ..remembered("a", 1000) });
        place.abandon(writer);
        let told = compare(&place, &fixture, "( a! b( c d( ) e ) f g( h ) )");
        assert_eq!(told, "a!:Same c:Same d:Same+ e:Same b:Same+ f:Same h:Same g:Same+ :Same");
    }

    #[test]
    fn caches_are_for_their_owner_only() {
        use std::os::unix::fs::PermissionsExt;
        let temp = tempfile::tempdir().unwrap();
        let place = place(&temp);
        place.commit(place.write().unwrap());
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&place.path("cache")), 0o600);
        assert_eq!(mode(&place.directory), 0o700);
        let mut file = File::options().read(true).append(true).open(place.path("cache")).unwrap();
        file.write_all(b"more").unwrap();
        file.rewind().unwrap();
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes.len(), HEADER_LEN + 4, "the file holds nothing but its header");
    }
}
