//! Which stored chunks resemble a new one (`docs/delta.md`): sketches, and a bounded index of them.
//!
//! Nothing here is believed: a candidate may be gone, or resemble nothing. No key is needed and nothing of it is stored in a
//! repository.

mod sketch;

pub use sketch::Sketch;

use crate::coding::{Decoder, Encoder};
use crate::id::{BlobId, RepositoryId};
use sketch::{BINS, PAIRS};

/// Deltas are made up to this depth, half of what readers accept.
const DEPTH_MAX: u8 = 8;
/// And of so many chunks, half of what readers open for one.
const BASES_MAX: u8 = 128;
/// Chunks that an index holds, at most.
pub const CHUNKS_MAX: usize = 600_000;

const MAGIC: &[u8; 8] = b"NKsimi\0\x03";
const ENTRY_LEN: usize = BlobId::LEN + 2 * BINS + 2;
const HEAD_LEN: usize = MAGIC.len() + 16;
const CHECKSUM_LEN: usize = 32;
/// Chunks found under one pair of bins; the oldest makes room.
const WAYS: usize = 8;
const CANDIDATES_MAX: usize = 4;
/// So many chunks before and after one are its neighbours: two threads enter theirs in turn.
const NEARBY: usize = 3;
/// Equal bins of a candidate, at least. A pair is two.
const EQUAL_MIN: u32 = 2;
/// Chunks that agree with another in so many bins are equally good as its first base, and the newest of them is taken: all that changed after
/// an older one was made would be told once more.
const NEARLY_ALL: u32 = 13;
/// Of an entry whose blob is gone.
const GONE: Chain = Chain { depth: u8::MAX, bases: u8::MAX };

/// What has to be opened before a chunk. None is made that would need more than a reader opens, whatever its bases share.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Chain {
    /// Deltas on the longest way to a chunk that is stored whole; 0 if it is so itself.
    pub depth: u8,
    /// Chunks to be opened, each counted once for each way to it.
    pub bases: u8,
}

impl Chain {
    pub const WHOLE: Chain = Chain { depth: 0, bases: 0 };

    /// Of a delta made from such chunks, if it may be made.
    pub fn of(bases: impl IntoIterator<Item = Chain>) -> Option<Chain> {
        let add = |chain: Chain, base: Chain| {
            let depth = chain.depth.max(base.depth.checked_add(1)?);
            Some(Chain { depth, bases: chain.bases.checked_add(base.bases)?.checked_add(1)? })
        };
        let chain = bases.into_iter().try_fold(Chain::WHOLE, add)?;
        (chain.depth <= DEPTH_MAX && chain.bases <= BASES_MAX).then_some(chain)
    }

    /// A delta may be made from it.
    pub fn goes_on(self) -> bool {
        Chain::of([self]).is_some()
    }
}

/// A stored chunk that resembles another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Candidate {
    /// What [`SimilarityIndex::forget`] knows it by.
    pub number: usize,
    pub id: BlobId,
    pub chain: Chain,
    /// Which bins are equal, a bit for each.
    pub equal: u16,
    /// It was entered since this index was made or decoded, so that its blob may not be durable yet.
    pub is_fresh: bool,
}

/// Sketches of stored chunks. When it is full, the oldest makes room.
pub struct SimilarityIndex {
    chunks_max: usize,
    /// A ring: chunk number n is at `n % chunks_max`.
    entries: Vec<Entry>,
    entered: usize,
    /// Numbers from here on are fresh.
    fresh_from: usize,
    /// Place in `entries` plus one, or 0; [`WAYS`] for each bucket.
    ways: Vec<u32>,
}

/// A chunk by its number.
struct Found {
    number: usize,
    chain: Chain,
    equal: u16,
}

#[derive(Clone, Copy)]
struct Entry {
    id: BlobId,
    sketch: Sketch,
    chain: Chain,
}

impl SimilarityIndex {
    /// `chunks_max` is at most [`CHUNKS_MAX`].
    pub fn new(chunks_max: usize) -> SimilarityIndex {
        SimilarityIndex::with_room(chunks_max, 1024)
    }

    /// It grows beyond `room` chunks, but that takes as long as entering them all once more.
    fn with_room(chunks_max: usize, room: usize) -> SimilarityIndex {
        let chunks_max = chunks_max.clamp(1, CHUNKS_MAX);
        let room = room.min(chunks_max);
        let ways = vec![0; buckets(room) * WAYS];
        SimilarityIndex { chunks_max, entries: Vec::with_capacity(room), entered: 0, fresh_from: 0, ways }
    }

    /// What resembles each sketch, a few at most: what resembles it most, then what has most of the bins that those before lack. The
    /// sketches are those of neighbours in a file, in order: what was entered beside that which resembles a neighbour is looked at too,
    /// so that what is too little to be found by itself is found.
    pub fn find(&self, sketches: &[Sketch]) -> Vec<Vec<Candidate>> {
        let found: Vec<Vec<Found>> = sketches.iter().map(|sketch| self.find_by_pairs(sketch)).collect();
        let best: Vec<Option<usize>> = found.iter().map(|found| best(found, 0).map(|(_, best)| best.number)).collect();
        let with_nearby = sketches.iter().zip(found).enumerate().map(|(at, (sketch, mut found))| {
            for number in best.get(at.saturating_sub(1)..best.len().min(at + 2)).into_iter().flatten().flatten() {
                self.find_nearby(*number, sketch, &mut found);
            }
            self.in_order(found)
        });
        with_nearby.collect()
    }

    /// Chunks that agree with the sketch in a pair of bins.
    fn find_by_pairs(&self, sketch: &Sketch) -> Vec<Found> {
        let mut found: Vec<Found> = Vec::new();
        for (pair, hash) in sketch.pairs() {
            for way in self.bucket(hash) {
                let Some(place) = (*way as usize).checked_sub(1) else { continue };
                let Some(entry) = self.entries.get(place) else { continue };
                // Other pairs share the bucket.
                if entry.sketch.agrees(sketch, pair) {
                    self.offer(self.number(place), sketch, &mut found);
                }
            }
        }
        found
    }

    /// Chunks that were entered just before or after this one.
    fn find_nearby(&self, number: usize, sketch: &Sketch, found: &mut Vec<Found>) {
        let oldest = self.entered - self.entries.len();
        for number in number.saturating_sub(NEARBY).max(oldest)..(number + NEARBY + 1).min(self.entered) {
            self.offer(number, sketch, found);
        }
    }

    fn offer(&self, number: usize, sketch: &Sketch, found: &mut Vec<Found>) {
        let entry = self.entries.get(number % self.chunks_max).filter(|entry| entry.chain.goes_on());
        let Some(entry) = entry else { return };
        let equal = entry.sketch.equal(sketch);
        if equal.count_ones() >= EQUAL_MIN && found.iter().all(|other| other.number != number) {
            found.push(Found { number, chain: entry.chain, equal });
        }
    }

    fn in_order(&self, mut found: Vec<Found>) -> Vec<Candidate> {
        let mut covered = 0;
        (0..CANDIDATES_MAX)
            .map_while(|_| {
                let (at, _) = best(&found, covered)?;
                let Found { number, chain, equal } = found.swap_remove(at);
                covered |= equal;
                let id = self.entries.get(number % self.chunks_max)?.id;
                Some(Candidate { number, id, chain, equal, is_fresh: number >= self.fresh_from })
            })
            .collect()
    }

    /// Enters a chunk that was stored. What ends a chain, or is too short to tell, is not entered.
    pub fn insert(&mut self, id: BlobId, sketch: &Sketch, chain: Chain) {
        if !chain.goes_on() || sketch.pairs().next().is_none() {
            return;
        }
        let entry = Entry { id, sketch: *sketch, chain };
        let place = self.entered % self.chunks_max;
        self.unrefer(place);
        match self.entries.get_mut(place) {
            Some(oldest) => *oldest = entry,
            None => {
                self.entries.push(entry);
                self.grow();
            }
        }
        self.entered += 1;
        self.refer(place);
    }

    /// Drops what was found and is gone from the store.
    pub fn forget(&mut self, candidate: &Candidate) {
        let entry = self.entries.get_mut(candidate.number % self.chunks_max);
        // Another chunk may have taken its place meanwhile.
        if let Some(entry) = entry.filter(|entry| entry.id == candidate.id) {
            entry.chain = GONE;
        }
    }

    /// Whether there is anything that [`SimilarityIndex::encode`] was not told by a decoding.
    pub fn has_changed(&self) -> bool {
        self.entered > self.fresh_from
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// `magic 8 | repository 16 | entries, oldest first: id 32 | bins 16 * u16 | depth u8 | bases u8 | H(all before) 32`
    pub fn encode(&self, repository: &RepositoryId) -> Vec<u8> {
        let mut e = Encoder { bytes: Vec::with_capacity(HEAD_LEN + self.entries.len() * ENTRY_LEN + CHECKSUM_LEN) };
        e.raw(MAGIC).raw(&repository.0);
        for number in self.entered.saturating_sub(self.entries.len())..self.entered {
            let Some(entry) = self.entries.get(number % self.chunks_max).filter(|entry| entry.chain != GONE) else {
                continue;
            };
            e.raw(&entry.id.0);
            for bin in entry.sketch.0 {
                e.u16(bin);
            }
            e.u8(entry.chain.depth).u8(entry.chain.bases);
        }
        let sum = *blake3::hash(&e.bytes).as_bytes();
        e.raw(&sum);
        e.bytes
    }

    /// `None` for what is not whole or another repository's. Of more than `chunks_max` entries the newest stay.
    pub fn decode(bytes: &[u8], repository: &RepositoryId, chunks_max: usize) -> Option<SimilarityIndex> {
        let (body, sum) = bytes.split_last_chunk::<CHECKSUM_LEN>()?;
        if blake3::hash(body).as_bytes() != sum {
            return None;
        }
        let (head, entries) = body.split_at_checked(HEAD_LEN)?;
        if head != [&MAGIC[..], &repository.0].concat() || entries.len() % ENTRY_LEN != 0 {
            return None;
        }
        // Room for those that are to come as well, or the first of them would have all entered once more.
        let mut index = SimilarityIndex::with_room(chunks_max, 2 * (entries.len() / ENTRY_LEN));
        let surplus = (entries.len() / ENTRY_LEN).saturating_sub(index.chunks_max);
        for entry in entries.chunks_exact(ENTRY_LEN).skip(surplus) {
            let mut d = Decoder::new(entry, "the similarity index");
            let id = BlobId(d.array().ok()?);
            let mut bins = [0; BINS];
            for bin in &mut bins {
                *bin = d.u16().ok()?;
            }
            index.insert(id, &Sketch(bins), Chain { depth: d.u8().ok()?, bases: d.u8().ok()? });
        }
        index.fresh_from = index.entered;
        Some(index)
    }

    fn bucket(&self, hash: u32) -> &[u32] {
        let at = self.bucket_at(hash);
        self.ways.get(at..at + WAYS).unwrap_or_default()
    }

    fn bucket_at(&self, hash: u32) -> usize {
        let buckets = (self.ways.len() / WAYS) as u64;
        usize::try_from((u64::from(hash) * buckets) >> 32).unwrap_or(0) * WAYS
    }

    /// The number of the chunk at this place of the ring.
    fn number(&self, place: usize) -> usize {
        let lap = self.entered / self.chunks_max * self.chunks_max;
        if place + lap < self.entered { place + lap } else { (place + lap).saturating_sub(self.chunks_max) }
    }

    fn refer(&mut self, place: usize) {
        let Some(sketch) = self.entries.get(place).map(|entry| entry.sketch) else { return };
        let Ok(value) = u32::try_from(place + 1) else { return };
        // Those before it were entered in this lap of the ring, the others in the one before.
        let next = self.entered % self.chunks_max;
        let age = |way: u32| match (way as usize).checked_sub(1) {
            Some(place) => 1 + usize::from(place < next),
            // An empty way is older than all.
            None => 0,
        };
        for (_, hash) in sketch.pairs() {
            let at = self.bucket_at(hash);
            let ways = self.ways.get_mut(at..at + WAYS).unwrap_or_default();
            if let Some(oldest) = ways.iter_mut().min_by_key(|way| (age(**way), **way)) {
                *oldest = value;
            }
        }
    }

    /// Before the place is used for another chunk.
    fn unrefer(&mut self, place: usize) {
        let Some(sketch) = self.entries.get(place).map(|entry| entry.sketch) else { return };
        for (_, hash) in sketch.pairs() {
            let at = self.bucket_at(hash);
            let ways = self.ways.get_mut(at..at + WAYS).unwrap_or_default();
            ways.iter_mut().filter(|way| (**way as usize).checked_sub(1) == Some(place)).for_each(|way| *way = 0);
        }
    }

    /// Keeps buckets at most two thirds full.
    fn grow(&mut self) {
        let wanted = buckets(self.entries.len()) * WAYS;
        if wanted <= self.ways.len() {
            return;
        }
        let wanted = wanted.max(self.ways.len() * 2);
        self.ways.clear();
        self.ways.resize(wanted.min(buckets(self.chunks_max) * WAYS), 0);
        // What was entered last is referred to by the caller.
        for place in 0..self.entries.len() - 1 {
            self.refer(place);
        }
    }
}

/// Place in the list and what it is, of that which has most bins besides these; of several, the newest.
fn best(found: &[Found], covered: u16) -> Option<(usize, &Found)> {
    found
        .iter()
        .enumerate()
        .max_by_key(|(_, found)| ((found.equal & !covered).count_ones().min(NEARLY_ALL), found.number))
}

/// Buckets for so many chunks.
fn buckets(chunks: usize) -> usize {
    (chunks * PAIRS * 3 / 2).div_ceil(WAYS).max(1)
}

#[cfg(test)]
mod tests;
