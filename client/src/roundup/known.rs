//! What is remembered of a tracker's database between two runs: by what to know it again, and as what it is stored.
//!
//! One file for each dataset in the cache directory. It may be lost, damaged or foreign at any time: then the database is
//! copied and read again, that is all.
//!
//! ```text
//! magic 8 | repository 16 | H(dataset) 32 | path bytes | generation 16 | proof bytes | entry bytes | H(all before) 32
//! ```

use crate::backup::special::Depot;
use crate::backup::{Context, Request};
use chunkstore::coding::{Decoder, Encoder};
use chunkstore::tree::Entry;
use chunkstore::{Error, Result};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

const MAGIC: &[u8; 8] = b"NKroun\0\x01";
const PROOF_BYTES_MAX: usize = 4096;
const ENTRY_BYTES_MAX: usize = 4 << 20;
const OBJECT: &str = "what is known of a tracker";

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Known {
    pub generation: [u8; 16],
    /// If it is the same, so is the database.
    pub proof: Vec<u8>,
    pub entry: Entry,
}

/// Where it is kept, and what binds it to its dataset and tracker.
pub struct Place {
    path: PathBuf,
    head: Vec<u8>,
}

impl Place {
    pub fn new(context: &Context<'_>, request: &Request, root: &Path) -> Place {
        let dataset = blake3::hash(request.dataset.as_bytes());
        let stem: String = dataset.to_hex().chars().take(32).collect();
        let mut e = Encoder::new();
        e.raw(MAGIC).raw(&context.store.configuration().repository.0).raw(dataset.as_bytes());
        e.bytes(root.as_os_str().as_bytes());
        Place { path: context.cache_dir.join(format!("{stem}.roundup")), head: e.bytes }
    }

    /// The stored database, if it is known by this proof and still in the repository.
    pub fn find(&self, proof: &[u8], generation: [u8; 16], depot: &Depot<'_>) -> Result<Option<Entry>> {
        let known = std::fs::read(&self.path).ok().and_then(|bytes| decode(&bytes, &self.head).ok());
        let Some(known) = known.filter(|known| known.proof == proof) else { return Ok(None) };
        let is_stored = known.generation == generation && depot.trusts();
        Ok((is_stored || depot.are_present(&known.entry.links())?).then_some(known.entry))
    }

    /// Only of what is committed. Its loss costs a reading of the whole database.
    pub fn write(&self, known: &Known) {
        let bytes = encode(known, &self.head);
        let write = || -> io::Result<()> {
            let directory = self.path.parent().ok_or(io::ErrorKind::NotFound)?;
            let mut file = tempfile::NamedTempFile::new_in(directory)?;
            file.write_all(&bytes)?;
            file.persist(&self.path).map_err(|error| error.error)?;
            Ok(())
        };
        if write().is_err() {
            // It may not exist; one that stays is looked at with the same care.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn encode(known: &Known, head: &[u8]) -> Vec<u8> {
    let mut e = Encoder { bytes: head.to_vec() };
    e.raw(&known.generation).bytes(&known.proof).bytes(&known.entry.encode());
    let sum = blake3::hash(&e.bytes);
    e.raw(sum.as_bytes());
    e.bytes
}

fn decode(bytes: &[u8], head: &[u8]) -> Result<Known> {
    let (body, sum) = bytes.split_last_chunk::<32>().unwrap_or((&[], &[0; 32]));
    let mut d = Decoder::new(body, OBJECT);
    if blake3::hash(body) != *sum {
        return Err(Error::corrupt(OBJECT, "its checksum does not fit"));
    }
    if d.raw(head.len())? != head {
        return Err(Error::corrupt(OBJECT, "it is of another dataset or tracker"));
    }
    let generation = d.array()?;
    let proof = d.bytes(PROOF_BYTES_MAX, "a proof")?.to_vec();
    let entry = Entry::decode(d.bytes(ENTRY_BYTES_MAX, "an entry")?, OBJECT)?;
    d.finish()?;
    Ok(Known { generation, proof, entry })
}

#[cfg(test)]
mod tests {
    use super::*;
    use chunkstore::tree::{Attributes, Content, Node};

    fn known() -> Known {
        let node = Node::File(Content::Inline(b"bytes".to_vec()));
        let entry =
            Entry { name: b"db".to_vec(), attributes: Attributes { mode: 0o640, ..Attributes::default() }, node };
        Known { generation: [7; 16], proof: b"proof".to_vec(), entry }
    }

    #[test]
    fn what_is_written_is_read_and_nothing_else() {
        let bytes = encode(&known(), b"head");
        assert_eq!(decode(&bytes, b"head").unwrap(), known());
        assert!(decode(&bytes, b"tail").is_err());
        for end in 0..bytes.len() {
            assert!(decode(&bytes[..end], b"head").is_err());
        }
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&flipped, b"head").is_err());
        }
    }
}
