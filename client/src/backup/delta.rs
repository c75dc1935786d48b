//! Which stored chunks a new one may be stored as a difference from (`docs/delta.md`), and what is remembered of it for the next run.
//!
//! All of this may be missing, lost or wrong: then chunks are stored whole, and that is all.

use super::bases::Cache;
use super::gate::Gate;
use chunkstore::Result;
use chunkstore::codec::{Bases, Part};
use chunkstore::id::{BlobId, RepositoryId, Tag};
use chunkstore::key::WriteKey;
use chunkstore::list::Slice;
use chunkstore::reader::Reader;
use chunkstore::similar::{CHUNKS_MAX, Candidate, Chain, SimilarityIndex, Sketch};
use chunkstore::store::Store;
use std::collections::{HashMap, HashSet};
use std::io::Write;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Shorter chunks are stored whole: what names the bases would be as long as what they save.
const CHUNK_BYTES_MIN: usize = 1 << 10;
/// Bases of a delta: as many as the format allows.
const BASES_MAX: usize = 3;
/// A further base has at least so many bins of the chunk that those before it lack: reading and searching one costs as much as the first.
const GAIN_MIN: u32 = 2;

/// What was there before is worth reading if it is at least this part of what is there now.
const FORMER_SHARE_MIN: usize = 4;

/// Whether and how chunks are stored as differences.
pub enum Deltas {
    Off,
    /// Bases are read from the repository.
    Read(Box<Reader>),
    /// Bases are kept on this machine, up to so many bytes: for a key that cannot read.
    Keep {
        bytes_max: u64,
    },
}

/// What deltas of one backup are made with. Shared by workers.
pub struct Delta<'a> {
    source: Option<Source<'a>>,
    place: PathBuf,
    repository: RepositoryId,
    /// Loaded when the first new chunk appears.
    index: Mutex<Option<SimilarityIndex>>,
}

enum Source<'a> {
    Repository(&'a Reader),
    Cache(Box<Cache<'a>>),
}

/// What is known of a new chunk before it is sealed.
#[derive(Default)]
pub struct Prepared {
    sketch: Option<Sketch>,
    pub bases: Bases,
    /// If it becomes a delta of these bases.
    chain: Chain,
}

impl Prepared {
    /// A delta of these bases would be the last of its chain.
    pub fn is_last(&self) -> bool {
        !self.chain.goes_on()
    }
}

impl<'a> Delta<'a> {
    /// `cache_dir` is where what is remembered lies.
    pub fn new(deltas: &'a Deltas, key: &'a WriteKey, cache_dir: &Path, is_dry: bool) -> Delta<'a> {
        let source = match deltas {
            Deltas::Off | Deltas::Keep { bytes_max: 0 } => None,
            Deltas::Read(reader) => Some(Source::Repository(reader)),
            Deltas::Keep { bytes_max } => {
                Cache::open(key, &cache_dir.join("bases"), *bytes_max).map(|cache| Source::Cache(Box::new(cache)))
            }
        };
        let place = cache_dir.to_owned();
        Delta { source: source.filter(|_| !is_dry), place, repository: key.repository, index: Mutex::default() }
    }

    /// What is known of each of these new chunks, in order.
    pub fn prepare(&self, pieces: &[&[u8]], gate: &Gate<'_>) -> Result<Vec<Prepared>> {
        let mut prepared: Vec<Prepared> = pieces.iter().map(|_| Prepared::default()).collect();
        let Some(source) = &self.source else { return Ok(prepared) };
        for (prepared, piece) in prepared.iter_mut().zip(pieces).filter(|(_, piece)| piece.len() >= CHUNK_BYTES_MIN) {
            prepared.sketch = Some(Sketch::of(piece));
        }
        let sketches: Vec<Sketch> = prepared.iter().filter_map(|prepared| prepared.sketch).collect();
        let mut found = self.with_index(|index| index.find(&sketches)).into_iter();
        let candidates = prepared.iter().map(|one| one.sketch.and_then(|_| found.next()).unwrap_or_default()).collect();
        let chosen = choose(candidates, &|ids| gate.present(ids), &mut |gone| {
            self.with_index(|index| index.forget(gone));
        })?;
        let ids: HashSet<BlobId> = chosen.iter().flatten().map(|candidate| candidate.id).collect();
        if ids.is_empty() {
            return Ok(prepared);
        }
        let ids: Vec<BlobId> = ids.into_iter().collect();
        let contents = match source {
            Source::Repository(reader) => reader.bases(&ids)?,
            Source::Cache(cache) => ids.iter().map(|id| cache.read(*id)).collect(),
        };
        let contents: HashMap<BlobId, Arc<Vec<u8>>> =
            ids.into_iter().zip(contents).filter_map(|(id, content)| Some((id, content?))).collect();
        for (prepared, chosen) in prepared.iter_mut().zip(chosen) {
            let had: Vec<_> = chosen.iter().rev().filter_map(|one| Some((one, contents.get(&one.id)?))).collect();
            // As all of them may be, so may some.
            prepared.chain = Chain::of(had.iter().map(|(one, _)| one.chain)).unwrap_or_default();
            prepared.bases = Bases::new(had.into_iter().map(|(one, content)| (one.id, Arc::clone(content))).collect());
        }
        Ok(prepared)
    }

    /// What is known of a new chunk of several files, of which these were the contents before, if enough of that can be had: of
    /// chunks that are no deltas themselves, so that what one content needs stays bounded.
    pub fn prepare_from(&self, piece: &[u8], former: &[Slice], gate: &Gate<'_>) -> Result<Option<Prepared>> {
        let Some(source) = &self.source else { return Ok(None) };
        let former = longest(former);
        let ids: HashSet<BlobId> = former.iter().map(|slice| slice.link.id).collect();
        let ids: Vec<BlobId> = ids.into_iter().collect();
        let present = gate.present(&ids)?;
        let ids: Vec<BlobId> = ids.into_iter().zip(present).filter_map(|(id, is)| is.then_some(id)).collect();
        let contents = match source {
            Source::Repository(reader) => reader.whole_bases(&ids)?,
            Source::Cache(cache) => ids.iter().map(|id| cache.read_whole(*id)).collect(),
        };
        let contents: HashMap<BlobId, Arc<Vec<u8>>> =
            ids.into_iter().zip(contents).filter_map(|(id, content)| Some((id, content?))).collect();
        let part = |slice: &Slice| {
            let chunk = contents.get(&slice.link.id)?;
            let begin = usize::try_from(slice.offset).ok()?;
            let range = begin..begin + slice.of(chunk)?.len();
            Some(Part { id: slice.link.id, range, chunk: Arc::clone(chunk) })
        };
        let parts: Vec<Part> = former.iter().filter_map(part).collect();
        let found: usize = parts.iter().map(|part| part.range.len()).sum();
        if found < piece.len() / FORMER_SHARE_MIN {
            return Ok(None);
        }
        let chain = Chain::of(std::iter::repeat_n(Chain::WHOLE, contents.len()));
        let prepared = |chain| Prepared { sketch: Some(Sketch::of(piece)), bases: Bases::of_parts(parts), chain };
        Ok(chain.map(prepared))
    }

    /// Whether [`Delta::remember`] wants to know what is inside the record.
    pub fn keeps(&self) -> bool {
        matches!(self.source, Some(Source::Cache(_)))
    }

    /// A chunk was stored under this id, as a delta or whole. `revealed` is what is inside its record.
    pub fn remember(&self, id: BlobId, tag: Tag, prepared: &Prepared, is_delta: bool, revealed: Option<&[u8]>) {
        let Some(sketch) = &prepared.sketch else { return };
        self.with_index(|index| index.insert(id, sketch, if is_delta { prepared.chain } else { Chain::WHOLE }));
        if let (Some(Source::Cache(cache)), Some(revealed)) = (&self.source, revealed) {
            cache.keep(id, tag, revealed);
        }
    }

    /// Remembers for the next run what was entered. It may fail: then less is saved.
    pub fn finish(&self) {
        let index = lock(&self.index);
        let Some(index) = index.as_ref().filter(|index| index.has_changed()) else { return };
        let bytes = index.encode(&self.repository);
        let write = || {
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.place)?;
            let mut file = tempfile::NamedTempFile::new_in(&self.place)?;
            file.write_all(&bytes)?;
            file.persist(self.place.join("similar")).map_err(|error| error.error)
        };
        let _ = write();
    }

    fn with_index<T>(&self, f: impl FnOnce(&mut SimilarityIndex) -> T) -> T {
        f(lock(&self.index).get_or_insert_with(|| {
            let read = std::fs::read(self.place.join("similar")).ok();
            let index = read.and_then(|bytes| SimilarityIndex::decode(&bytes, &self.repository, CHUNKS_MAX));
            index.unwrap_or_else(|| SimilarityIndex::new(CHUNKS_MAX))
        }))
    }
}

/// The longest of these slices, as many as a delta may be made from, in the order of their chunks.
fn longest(former: &[Slice]) -> Vec<Slice> {
    let mut former = former.to_vec();
    former.sort_by_key(|slice| std::cmp::Reverse(slice.len));
    former.truncate(Bases::PARTS_MAX);
    former.sort_by_key(|slice| (slice.link, slice.offset));
    former
}

/// The best candidates of each that are `present`. Only those that would be read are asked for; others take the place of what is not
/// there. What is not there and was stored before this run is `gone` for good.
fn choose(
    mut candidates: Vec<Vec<Candidate>>,
    present: &dyn Fn(&[BlobId]) -> Result<Vec<bool>>,
    gone: &mut dyn FnMut(&Candidate),
) -> Result<Vec<Vec<Candidate>>> {
    let mut there: HashSet<BlobId> = HashSet::new();
    loop {
        let chosen: Vec<Vec<Candidate>> = candidates.iter().map(|some| worth_reading(some.clone())).collect();
        let wanted: HashSet<BlobId> = chosen.iter().flatten().map(|candidate| candidate.id).collect();
        let asked: Vec<BlobId> = wanted.difference(&there).copied().collect();
        if asked.is_empty() {
            return Ok(chosen);
        }
        let answers = present(&asked)?;
        there.extend(asked.iter().zip(answers).filter_map(|(id, is_there)| is_there.then_some(*id)));
        let missing: HashSet<BlobId> = asked.into_iter().filter(|id| !there.contains(id)).collect();
        candidates
            .iter()
            .flatten()
            .filter(|candidate| missing.contains(&candidate.id) && !candidate.is_fresh)
            .for_each(&mut *gone);
        candidates.iter_mut().for_each(|some| some.retain(|candidate| !missing.contains(&candidate.id)));
    }
}

/// Of candidates in the order of [`SimilarityIndex::find`].
fn worth_reading(candidates: Vec<Candidate>) -> Vec<Candidate> {
    let mut chosen: Vec<Candidate> = Vec::with_capacity(BASES_MAX);
    let mut covered = 0;
    for candidate in candidates {
        let gains = chosen.is_empty() || (candidate.equal & !covered).count_ones() >= GAIN_MIN;
        let chains = chosen.iter().chain([&candidate]).map(|one| one.chain);
        if gains && chosen.len() < BASES_MAX && Chain::of(chains).is_some() {
            covered |= candidate.equal;
            chosen.push(candidate);
        }
    }
    chosen
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    #[test]
    fn a_further_base_has_what_the_first_lacks() {
        let chosen = |equal: &[u16]| {
            let candidate = |equal: &u16| Candidate {
                number: 0,
                id: BlobId([0; 32]),
                chain: Chain::WHOLE,
                equal: *equal,
                is_fresh: false,
            };
            let chosen = worth_reading(equal.iter().map(candidate).collect());
            chosen.iter().map(|candidate| candidate.equal).collect::<Vec<_>>()
        };
        assert!(chosen(&[]).is_empty());
        assert_eq!(chosen(&[0xff]), [0xff]);
        assert_eq!(chosen(&[0xff, 0xff, 0x1ff]), [0xff], "one bin more is not worth it");
        assert_eq!(chosen(&[0xff, 0x3f0, 0x700]), [0xff, 0x3f0]);
        assert_eq!(chosen(&[0xff, 0xf0, 0x300]), [0xff, 0x300]);
        assert_eq!(chosen(&[0x3, 0xc, 0x30, 0xc0]), [0x3, 0xc, 0x30], "three at most");
    }

    #[test]
    fn a_base_that_would_make_the_chain_too_wide_is_left_out() {
        let candidate = |bases, equal| {
            let chain = Chain { depth: 2, bases };
            Candidate { number: 0, id: BlobId([0; 32]), chain, equal, is_fresh: false }
        };
        let chosen = worth_reading(vec![candidate(80, 0xff), candidate(60, 0xff00), candidate(40, 0xf00)]);
        assert_eq!(chosen.iter().map(|one| one.chain.bases).collect::<Vec<_>>(), [80, 40]);
    }

    #[test]
    fn what_would_not_be_read_is_asked_for_only_in_the_place_of_what_is_gone() {
        let candidate = |n: u8, equal, is_fresh| Candidate {
            number: n.into(),
            id: BlobId([n; 32]),
            chain: Chain::WHOLE,
            equal,
            is_fresh,
        };
        let candidates = vec![
            vec![candidate(1, 0xff, false), candidate(2, 0xfff0, false), candidate(3, 0xff, false)],
            vec![candidate(1, 0xff, false)],
            vec![candidate(4, 0xff, true), candidate(5, 0xff, false)],
        ];
        let outcome = |missing: &[u8]| {
            let (asked, mut gone) = (RefCell::new(Vec::new()), Vec::new());
            let present = |ids: &[BlobId]| {
                let mut sorted: Vec<u8> = ids.iter().map(|id| id.0[0]).collect();
                sorted.sort_unstable();
                asked.borrow_mut().push(sorted);
                Ok(ids.iter().map(|id| !missing.contains(&id.0[0])).collect())
            };
            let chosen = choose(candidates.clone(), &present, &mut |one| gone.push(one.number)).unwrap();
            let chosen: Vec<Vec<u8>> = chosen.iter().map(|some| some.iter().map(|one| one.id.0[0]).collect()).collect();
            (asked.into_inner(), gone, chosen)
        };
        assert_eq!(outcome(&[]), (vec![vec![1, 2, 4]], vec![], vec![vec![1, 2], vec![1], vec![4]]));
        assert_eq!(outcome(&[1]), (vec![vec![1, 2, 4], vec![3]], vec![1, 1], vec![vec![2, 3], vec![], vec![4]]));
        assert_eq!(outcome(&[4, 5]), (vec![vec![1, 2, 4], vec![5]], vec![5], vec![vec![1, 2], vec![1], vec![]]));
    }
}
