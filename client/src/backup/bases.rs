//! Bases of deltas for who cannot read the repository: what new chunks became, kept on this machine up to a bound.
//!
//! Segments, oldest dropped first; in each, entries one after the other, made by one process at a time (a lock). What is read is checked
//! against its tag, so it may be lost or damaged at any time.
//!
//! ```text
//! entry    len u32 (of what follows the checksum) | checksum 16 | id 32 | tag 32 | what is inside the record
//! ```

use chunkstore::codec::{is_delta, reopen};
use chunkstore::id::{BlobId, Tag};
use chunkstore::key::WriteKey;
use chunkstore::{Error, Result};
use rustix::fs::FlockOperation;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

const HEAD_LEN: usize = 4 + 16 + 32 + 32;
const SEGMENTS: u64 = 16;
/// No record is longer.
const ENTRY_BYTES_MAX: usize = 20 << 20;
/// Contents that were read, for the chunks that come next.
const OPENED_BYTES_MAX: usize = 16 << 20;
/// Deltas of deltas are read up to this depth; none are made as deep.
const CHAIN_MAX: usize = 16;

pub struct Cache<'a> {
    key: &'a WriteKey,
    directory: PathBuf,
    bytes_max: u64,
    entries: Mutex<Entries>,
    opened: Mutex<Opened>,
    _lock: File,
}

#[derive(Default)]
struct Entries {
    segments: BTreeMap<u64, Segment>,
    places: HashMap<BlobId, Place>,
}

struct Segment {
    file: Arc<File>,
    len: u64,
}

#[derive(Clone, Copy)]
struct Place {
    segment: u64,
    offset: u64,
    len: usize,
}

/// Contents, in the order they were read.
#[derive(Default)]
struct Opened {
    contents: HashMap<BlobId, Arc<Vec<u8>>>,
    order: VecDeque<BlobId>,
    bytes: usize,
}

impl<'a> Cache<'a> {
    /// `None` if another process has it, or it cannot be written.
    pub fn open(key: &'a WriteKey, directory: &Path, bytes_max: u64) -> Option<Cache<'a>> {
        DirBuilder::new().recursive(true).mode(0o700).create(directory).ok()?;
        let lock = private(&directory.join("lock")).ok()?;
        rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).ok()?;
        let mut entries = Entries::default();
        for found in directory.read_dir().ok()?.flatten() {
            let number = found.file_name().to_str().and_then(|name| name.strip_suffix(".bases")?.parse().ok());
            if let Some(number) = number {
                entries.scan(number, &found.path()).ok()?;
            }
        }
        let (directory, entries, opened) = (directory.to_owned(), Mutex::new(entries), Mutex::default());
        Some(Cache { key, directory, bytes_max, entries, opened, _lock: lock })
    }

    /// Keeps what is inside a record. It may fail: then there is one base less.
    pub fn keep(&self, id: BlobId, tag: Tag, revealed: &[u8]) {
        let Ok(len) = u32::try_from(revealed.len() + 64) else { return };
        let body = [&id.0[..], &tag.0, revealed].concat();
        let entry = [&len.to_le_bytes()[..], &checksum(&body), &body].concat();
        let _ = self.append(id, &entry);
    }

    /// The content of a chunk that was kept.
    pub fn read(&self, id: BlobId) -> Option<Arc<Vec<u8>>> {
        self.read_at(id, 0).ok()
    }

    /// The same, unless it was kept as a delta.
    pub fn read_whole(&self, id: BlobId) -> Option<Arc<Vec<u8>>> {
        let entry = self.entry(id).ok()?;
        let (.., revealed) = parse(&entry)?;
        if is_delta(revealed) { None } else { self.read(id) }
    }

    fn read_at(&self, id: BlobId, depth: usize) -> Result<Arc<Vec<u8>>> {
        if let Some(content) = lock(&self.opened).contents.get(&id) {
            return Ok(Arc::clone(content));
        }
        if depth >= CHAIN_MAX {
            return Err(Error::missing(format!("blob {id} of the cache")));
        }
        let entry = self.entry(id)?;
        let (_, tag, revealed) = parse(&entry).ok_or_else(|| Error::missing(format!("blob {id} of the cache")))?;
        let content = Arc::new(reopen(self.key, revealed, tag, &|base| self.read_at(base, depth + 1))?);
        lock(&self.opened).insert(id, &content);
        Ok(content)
    }

    /// The bytes of an intact entry.
    fn entry(&self, id: BlobId) -> Result<Vec<u8>> {
        let missing = || Error::missing(format!("blob {id} of the cache"));
        let found = {
            let entries = lock(&self.entries);
            let place = entries.places.get(&id).copied().ok_or_else(missing)?;
            (place, entries.segments.get(&place.segment).map(|segment| Arc::clone(&segment.file)).ok_or_else(missing)?)
        };
        let (place, file) = found;
        let mut entry = vec![0; place.len];
        file.read_exact_at(&mut entry, place.offset).map_err(|error| Error::io("read", "the cache of bases", error))?;
        if parse(&entry).is_some_and(|(found, ..)| found == id) { Ok(entry) } else { Err(missing()) }
    }

    fn append(&self, id: BlobId, entry: &[u8]) -> io::Result<()> {
        let mut entries = lock(&self.entries);
        let entry_len = entry.len() as u64;
        let segment_max = self.bytes_max / SEGMENTS;
        if entry_len > segment_max {
            return Ok(());
        }
        let last = entries.segments.last_key_value().map(|(number, segment)| (*number, segment.len));
        let number = match last {
            Some((number, len)) if len + entry_len <= segment_max => number,
            _ => {
                let number = last.map_or(0, |(number, _)| number + 1);
                let file = Arc::new(private(&self.path(number))?);
                entries.segments.insert(number, Segment { file, len: 0 });
                number
            }
        };
        while entries.segments.len() > 1 && entries.total() + entry_len > self.bytes_max {
            let Some((oldest, _)) = entries.segments.pop_first() else { break };
            entries.places.retain(|_, place| place.segment != oldest);
            std::fs::remove_file(self.path(oldest))?;
        }
        let Some(segment) = entries.segments.get_mut(&number) else { return Ok(()) };
        let offset = segment.len;
        segment.file.write_all_at(entry, offset)?;
        segment.len += entry_len;
        entries.places.insert(id, Place { segment: number, offset, len: entry.len() });
        Ok(())
    }

    fn path(&self, number: u64) -> PathBuf {
        self.directory.join(format!("{number:08}.bases"))
    }
}

impl Entries {
    /// Finds the entries of a segment, up to what a crash left half written.
    fn scan(&mut self, number: u64, path: &Path) -> io::Result<()> {
        let file = private(path)?;
        let end = file.metadata()?.len();
        let mut offset = 0;
        let mut head = [0; HEAD_LEN];
        while offset + HEAD_LEN as u64 <= end {
            file.read_exact_at(&mut head, offset)?;
            let Some((len, rest)) = head.split_first_chunk() else { break };
            let len = u32::from_le_bytes(*len) as usize + 4 + 16;
            let Some(id) = rest.get(16..).and_then(|rest| rest.first_chunk()) else { break };
            if !(HEAD_LEN..=ENTRY_BYTES_MAX).contains(&len) || offset + len as u64 > end {
                break;
            }
            self.places.insert(BlobId(*id), Place { segment: number, offset, len });
            offset += len as u64;
        }
        self.segments.insert(number, Segment { file: Arc::new(file), len: offset });
        Ok(())
    }

    fn total(&self) -> u64 {
        self.segments.values().map(|segment| segment.len).sum()
    }
}

impl Opened {
    fn insert(&mut self, id: BlobId, content: &Arc<Vec<u8>>) {
        if self.contents.insert(id, Arc::clone(content)).is_none() {
            self.order.push_back(id);
            self.bytes += content.len();
        }
        while self.bytes > OPENED_BYTES_MAX {
            let Some(gone) = self.order.pop_front().and_then(|oldest| self.contents.remove(&oldest)) else { break };
            self.bytes -= gone.len();
        }
    }
}

fn parse(entry: &[u8]) -> Option<(BlobId, Tag, &[u8])> {
    let (_, rest) = entry.split_first_chunk::<4>()?;
    let (sum, body) = rest.split_first_chunk::<16>()?;
    let (id, after) = body.split_first_chunk()?;
    let (tag, revealed) = after.split_first_chunk()?;
    (checksum(body) == *sum).then_some((BlobId(*id), Tag(*tag), revealed))
}

fn checksum(bytes: &[u8]) -> [u8; 16] {
    let mut sum = [0; 16];
    blake3::Hasher::new().update(bytes).finalize_xof().fill(&mut sum);
    sum
}

/// A file that only its owner may read.
fn private(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
