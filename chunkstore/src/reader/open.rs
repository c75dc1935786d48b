//! Chunks and the bases of deltas. A hostile chain of deltas ends at a limit: of length, of bases opened, of bytes held.

use super::{Reader, damaged, lock};
use crate::error::Result;
use crate::id::BlobId;
use crate::record::{Kind, Record};
use std::cell::Cell;
use std::sync::Arc;

const CHAIN_MAX: usize = 16;
/// Bases opened for one chunk. Chains share bases, so that their number may grow much faster than their length.
const BASES_MAX: usize = 256;
/// Bytes of bases in memory for one chunk.
const HELD_BYTES_MAX: usize = 128 << 20;

/// What one chunk has taken so far.
#[derive(Default)]
struct Taken {
    bases: Cell<usize>,
    held_bytes: Cell<usize>,
}

impl Reader {
    /// The content of a chunk, whatever it is a delta of.
    pub(super) fn open_chunk(&self, record: &Record) -> Result<Vec<u8>> {
        self.open_at(record, 0, &Taken::default())
    }

    fn open_at(&self, record: &Record, depth: usize, taken: &Taken) -> Result<Vec<u8>> {
        let capsule = |id| self.store.capsule(id);
        self.opener.open(record, Kind::Chunk, &capsule, &|base| self.open_base(base, record, depth, taken))
    }

    /// Recurses through [`Reader::open_at`], at most [`CHAIN_MAX`] deep.
    fn open_base(&self, id: BlobId, of: &Record, depth: usize, taken: &Taken) -> Result<Vec<u8>> {
        if depth >= CHAIN_MAX {
            return Err(of.corrupt(format!("its chain of deltas is longer than {CHAIN_MAX}")));
        }
        taken.bases.set(taken.bases.get() + 1);
        if taken.bases.get() > BASES_MAX {
            return Err(of.corrupt(format!("more than {BASES_MAX} bases for one chunk")));
        }
        let held_before = taken.held_bytes.get();
        let key = (id, None);
        let cached = lock(&self.chunks).find(&key);
        let content = match cached {
            Some(content) => content.to_vec(),
            None => {
                let content = self.open_at(&self.record(id)?, depth + 1, taken)?;
                lock(&self.chunks).insert(key, Arc::new(content.clone()), content.len());
                content
            }
        };
        // What the base needed itself is free again.
        taken.held_bytes.set(held_before + content.len());
        if taken.held_bytes.get() > HELD_BYTES_MAX {
            return Err(damaged(id, "the bases of a delta take too much memory"));
        }
        Ok(content)
    }
}
