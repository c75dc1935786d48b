//! What is remembered of a storage between two runs: how far it was read, and what its stored content is to be gone on with.
//!
//! One file for each dataset in the cache directory. It may be lost, damaged or foreign at any time: then the storage is read
//! again from its beginning, that is all. `docs/zodb.md` tells why what is compared proves that the part that was read is unchanged.
//!
//! ```text
//! magic 8 | repository 16 | H(dataset) 32 | generation 16 | path bytes | device u64 | inode u64
//! end u64 | transactions u64 | first tid u64 | last position u64 | last header 23
//! tail_len u32 | H(tail) 32 | list bytes | n varint, n * (oid u64, tid u64) | H(all before) 32
//! ```

use super::scan::{BlobName, Found, Last};
use super::storage::{RECENT_BYTES, Storage};
use super::transaction::{TRANSACTION_LEN, Tid, Transaction};
use crate::backup::{Context, Request};
use chunkstore::Result;
use chunkstore::coding::{Decoder, Encoder};
use chunkstore::writer::ListBuilder;
use std::fs::DirBuilder;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;

const MAGIC: &[u8; 8] = b"NKzodb\0\x01";
/// So many bytes before the end are compared, and the content is gone on with at most so far before it.
pub const TAIL_BYTES_MAX: u64 = RECENT_BYTES as u64;
const BLOBS_MAX: usize = 1 << 28;

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Known {
    pub generation: [u8; 16],
    pub device: u64,
    pub inode: u64,
    /// Where the last transaction ends.
    pub end: u64,
    pub tail_len: u32,
    pub tail_hash: [u8; 32],
    pub growing: ListBuilder,
    /// Nothing in it is borrowed: that was looked up.
    pub found: Found,
}

/// Where it is kept, and what binds it to its dataset.
pub struct Place {
    path: PathBuf,
    head: Vec<u8>,
}

impl Place {
    pub fn new(context: &Context<'_>, request: &Request, storage: &Storage) -> Place {
        let dataset = blake3::hash(request.dataset.as_bytes());
        let stem: String = dataset.to_hex().chars().take(32).collect();
        let mut e = Encoder::new();
        e.raw(MAGIC).raw(&context.store.configuration().repository.0).raw(dataset.as_bytes());
        e.bytes(storage.path.as_os_str().as_bytes());
        Place { path: context.cache_dir.join(format!("{stem}.zodb")), head: e.bytes }
    }

    /// What is remembered, if it is whole.
    pub fn read(&self) -> Option<Known> {
        decode(&std::fs::read(&self.path).ok()?, &self.head).ok()
    }

    /// Only of what is committed. Its loss costs a reading of the whole storage.
    pub fn write(&self, known: &Known) {
        let bytes = encode(known, &self.head);
        let write = || -> io::Result<()> {
            let directory = self.path.parent().ok_or(io::ErrorKind::NotFound)?;
            DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
            let mut file = tempfile::NamedTempFile::new_in(directory)?;
            file.write_all(&bytes)?;
            file.persist(&self.path).map_err(|error| error.error)?;
            Ok(())
        };
        if write().is_err() {
            self.forget();
        }
    }

    pub fn forget(&self) {
        // It may not exist; one that stays is looked at with the same care.
        let _ = std::fs::remove_file(&self.path);
    }
}

impl Known {
    /// Where the content is gone on with.
    pub fn resume(&self) -> u64 {
        self.growing.size()
    }

    /// Whether the storage still begins with what is remembered. The answer holds the bytes before [`Known::resume`], and those
    /// from there to the end, as far as they were read.
    pub fn proves(&self, storage: &Storage) -> Result<Option<(Vec<u8>, Vec<u8>)>> {
        let stat = &storage.stat;
        if (stat.device, stat.inode) != (self.device, self.inode) || stat.size < self.end {
            return Ok(None);
        }
        let Some(last) = self.found.last else { return Ok(None) };
        if storage.read_array(last.position)? != Some(last.head) {
            return Ok(None);
        }
        let mut tail = vec![0; usize::try_from(self.tail_len).unwrap_or(0)];
        let begin = self.end.saturating_sub(u64::from(self.tail_len));
        let is_whole = storage.read_at(&mut tail, begin)? == tail.len();
        if !is_whole || *blake3::hash(&tail).as_bytes() != self.tail_hash {
            return Ok(None);
        }
        let Some(again) = self.resume().checked_sub(begin).filter(|_| self.resume() <= self.end) else {
            return Ok(None);
        };
        let from_resume = tail.split_off(usize::try_from(again).unwrap_or(usize::MAX).min(tail.len()));
        Ok(Some((tail, from_resume)))
    }
}

fn encode(known: &Known, head: &[u8]) -> Vec<u8> {
    let mut e = Encoder { bytes: head.to_vec() };
    let first = known.found.first.map_or(0, |tid| tid.0);
    let (position, last_head) = known.found.last.map_or((0, [0; TRANSACTION_LEN]), |last| (last.position, last.head));
    e.raw(&known.generation).u64(known.device).u64(known.inode).u64(known.end);
    e.u64(known.found.transactions).u64(first).u64(position).raw(&last_head);
    e.u32(known.tail_len).raw(&known.tail_hash).bytes(&known.growing.encode());
    e.varint(known.found.blobs.len() as u64);
    for blob in &known.found.blobs {
        e.u64(blob.oid).u64(blob.tid.0);
    }
    let sum = blake3::hash(&e.bytes);
    e.raw(sum.as_bytes());
    e.bytes
}

fn decode(bytes: &[u8], head: &[u8]) -> Result<Known> {
    let (body, sum) = bytes.split_last_chunk::<32>().unwrap_or((&[], &[0; 32]));
    let mut d = Decoder::new(body, "what is known of a storage");
    if blake3::hash(body) != *sum {
        return Err(d.corrupt("its checksum does not fit"));
    }
    if d.raw(head.len())? != head {
        return Err(d.corrupt("it is of another dataset or storage"));
    }
    let generation = d.array()?;
    let (device, inode, end) = (d.u64()?, d.u64()?, d.u64()?);
    let (transactions, first, position) = (d.u64()?, d.u64()?, d.u64()?);
    let head = d.array()?;
    let (tail_len, tail_hash) = (d.u32()?, d.array()?);
    if u64::from(tail_len) > TAIL_BYTES_MAX.min(end) {
        return Err(d.corrupt("its tail is too long"));
    }
    let growing = ListBuilder::decode(d.bytes(64 << 20, "a list")?, "what is known of a storage")?;
    let count = d.count(BLOBS_MAX, 16, "blobs")?;
    let mut blobs = Vec::with_capacity(count);
    for _ in 0..count {
        blobs.push(BlobName { oid: d.u64()?, tid: Tid(d.u64()?) });
    }
    d.finish()?;
    let last = Some(Last { tid: Transaction::decode(&head).tid, position, head });
    let found = Found { transactions, first: Some(Tid(first)), last, blobs, borrowed: Vec::new() };
    Ok(Known { generation, device, inode, end, tail_len, tail_hash, growing, found })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known() -> Known {
        let blob = |oid| BlobName { oid, tid: Tid(oid + 1) };
        Known {
            generation: [1; 16],
            device: 2,
            inode: 3,
            end: 100_000,
            tail_len: 5000,
            tail_hash: [5; 32],
            growing: ListBuilder::new(),
            found: Found {
                transactions: 6,
                first: Some(Tid(7)),
                last: Some(Last { tid: Tid(0x0404_0404_0404_0404), position: 9, head: [4; TRANSACTION_LEN] }),
                blobs: vec![blob(10), blob(11)],
                borrowed: Vec::new(),
            },
        }
    }

    #[test]
    fn it_comes_back_or_not_at_all() {
        let bytes = encode(&known(), b"head");
        assert_eq!(decode(&bytes, b"head").unwrap(), known());
        assert!(decode(&bytes, b"hear").is_err());
        for len in 0..bytes.len() {
            assert!(decode(&bytes[..len], b"head").is_err());
        }
        for at in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[at / 8] ^= 1 << (at % 8);
            assert!(decode(&damaged, b"head").is_err());
        }
    }
}
