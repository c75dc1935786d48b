//! Read back and compare: every object, every record, every link; and who is affected by what is lost.
//!
//! Finds, names and remembers damage, and never deletes. A blob found damaged counts as missing from then on, so that the next
//! backup of the same data stores it again; one found whole again counts as stored. The caller holds the writer lock. Sessions of
//! this process may save meanwhile, if each has a lease; no collection may run.

mod affected;

use crate::backend::{ObjectKind, ObjectName};
use crate::configuration::Configuration;
use crate::error::{Error, Result};
use crate::id::{BlobId, PackId, SnapshotId};
use crate::index::PackRow;
use crate::index::damage::ExpectedBlob;
use crate::key::{self, WriteKey};
use crate::mark::Mark;
use crate::pack::{PackBuilder, PackEntry, Trailer};
use crate::reader::Reader;
use crate::record::{Class, Kind, Record};
use crate::repository::Repository;
use crate::snapshot::Snapshot;
use crate::store::Store;
use affected::AffectedWalk;
use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// How much data is read back.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum ReadData {
    Nothing,
    All,
    /// The `part`-th (from 1) of `of` equal parts of the packs: all parts together are all packs.
    Part {
        part: u64,
        of: u64,
    },
    /// A random share of the packs; `seed` chooses which.
    Percent {
        percent: f64,
        seed: u64,
    },
}

/// A path of a snapshot that something is lost from.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Affected {
    pub snapshot: SnapshotId,
    pub dataset: String,
    pub path: Vec<u8>,
}

/// One thing that is not as it should be.
#[derive(Clone, Debug)]
pub struct Finding {
    /// What is damaged, by name.
    pub object: String,
    pub reason: String,
    /// False for what is only derived, or was mended on the spot.
    pub lost: bool,
}

#[derive(Clone, Default, Debug)]
pub struct CheckOutcome {
    pub packs: u64,
    pub packs_read: u64,
    pub blobs: u64,
    pub bytes_read: u64,
    pub snapshots: u64,
    pub findings: Vec<Finding>,
    /// Sorted; at most [`AFFECTED_MAX`], `affected_total` counts all.
    pub affected: Vec<Affected>,
    pub affected_total: u64,
    /// The index disagreed with the packs and was made again.
    pub index_rebuilt: bool,
}

/// How many affected paths are named.
pub const AFFECTED_MAX: usize = 10_000;
/// How many findings are kept; what comes after is only counted in the index.
const FINDINGS_MAX: usize = 100_000;

/// What a check works with and whom it tells.
pub struct Check<'a> {
    pub repository: &'a Repository,
    pub configuration: &'a Configuration,
    /// Without it (a server), that key holders made snapshots and marks is not checked.
    pub key: Option<&'a WriteKey>,
    /// Without it (a write-only key), contents are not opened and affected paths not named.
    pub reader: Option<&'a Reader>,
    pub read_data: ReadData,
    pub threads: usize,
    pub interrupted: &'a AtomicBool,
    /// Bytes of packs read so far, and to be read in all.
    pub progress: &'a (dyn Fn(u64, u64) + Sync),
}

/// Gathered by all threads.
#[derive(Default)]
struct Gathered {
    findings: Vec<Finding>,
    damaged_packs: Vec<(PackId, String)>,
    lost: Vec<BlobId>,
    whole: Vec<BlobId>,
    index_wrong: bool,
}

impl Check<'_> {
    pub fn run(&self) -> Result<CheckOutcome> {
        let mut outcome = CheckOutcome::default();
        self.check_configuration(&mut outcome)?;
        self.check_keys(&mut outcome)?;
        self.check_packs(&mut outcome)?;
        let snapshots = self.check_snapshots(&mut outcome)?;
        self.check_marks(&mut outcome)?;
        self.find_affected(&snapshots, &mut outcome)?;
        outcome.findings.sort_by(|a, b| a.object.cmp(&b.object));
        outcome.affected.sort();
        Ok(outcome)
    }

    /// A copy that is damaged is written again from the other.
    fn check_configuration(&self, outcome: &mut CheckOutcome) -> Result<()> {
        for name in [ObjectName::Configuration, ObjectName::ConfigurationCopy] {
            let read = self.repository.backend().get(name).and_then(|b| Configuration::decode(&b, &name.to_string()));
            if let Err(e) = read {
                let reason = format!("{}; it was written again from its other copy", damage(e)?);
                note(&mut outcome.findings, name.to_string(), &reason, false);
                self.repository.backend().put(name, &self.configuration.encode())?;
            }
        }
        Ok(())
    }

    fn check_keys(&self, outcome: &mut CheckOutcome) -> Result<()> {
        for (slot, read) in key::list(self.repository.backend(), self.configuration)? {
            if let Err(e) = read {
                note(&mut outcome.findings, ObjectName::KeySlot(slot).to_string(), &damage(e)?, true);
            }
        }
        Ok(())
    }

    /// Every pack's trailer against the index, and the chosen packs' bytes against their names.
    fn check_packs(&self, outcome: &mut CheckOutcome) -> Result<()> {
        let packs = self.repository.index.packs()?;
        let unreadable = self.packs_without_rows(&packs)?;
        for id in unreadable {
            let reason = "neither its trailer nor any record in it can be read".to_owned();
            note(&mut outcome.findings, format!("pack {id}"), &reason, true);
        }
        let chosen: Vec<bool> = packs.iter().map(|pack| self.is_chosen(pack)).collect();
        let total: u64 = packs.iter().zip(&chosen).filter(|(_, chosen)| **chosen).map(|(pack, _)| pack.length).sum();
        let gathered = Mutex::new(Gathered::default());
        let (next, done, read) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
        let work = || -> Result<()> {
            let mut memory = Vec::new();
            loop {
                let at = usize::try_from(next.fetch_add(1, Ordering::Relaxed)).unwrap_or(usize::MAX);
                let Some((pack, chosen)) = packs.get(at).zip(chosen.get(at)) else { return Ok(()) };
                if self.interrupted.load(Ordering::Relaxed) {
                    return Err(Error::Interrupted);
                }
                if *chosen {
                    self.check_data(pack, &mut memory, &gathered)?;
                    read.fetch_add(1, Ordering::Relaxed);
                    (self.progress)(done.fetch_add(pack.length, Ordering::Relaxed) + pack.length, total);
                } else {
                    self.check_structure(pack, &mut memory, &gathered)?;
                }
            }
        };
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..self.threads.max(1)).map(|_| scope.spawn(work)).collect();
            workers.into_iter().try_for_each(|worker| {
                worker.join().unwrap_or_else(|_| Err(Error::invalid("check", "a worker ended unexpectedly")))
            })
        })?;
        let gathered = gathered.into_inner().unwrap_or_else(PoisonError::into_inner);
        outcome.packs = packs.len() as u64;
        outcome.packs_read = read.into_inner();
        outcome.bytes_read = done.into_inner();
        outcome.blobs = self.repository.index.totals()?.0;
        self.remember(gathered, outcome)
    }

    /// Writes what was found into the index: lost blobs, blobs that are there after all, or that it must be made again.
    fn remember(&self, gathered: Gathered, outcome: &mut CheckOutcome) -> Result<()> {
        let index = &self.repository.index;
        outcome.findings.extend(gathered.findings);
        if gathered.index_wrong && index.has_leases() {
            let reason = "it disagrees with the packs; it is made again by a check while nobody saves";
            note(&mut outcome.findings, "the index".into(), reason, true);
        } else if gathered.index_wrong {
            outcome.index_rebuilt = true;
            note(&mut outcome.findings, "the index".into(), "it disagreed with the packs and was made again", false);
            self.repository.rebuild_index()?;
        }
        index.set_found(&gathered.whole)?;
        index.set_missing(&gathered.lost)?;
        let lost = index.lost()?;
        let mut packs = gathered.damaged_packs;
        packs.extend(index.gone_packs()?.into_iter().map(|pack| (pack.id, "it is missing".to_owned())));
        for (id, reason) in packs {
            let is_needed = lost.iter().any(|lost| lost.pack == Some(id) && !lost.replaced);
            let more = if is_needed { "" } else { "; nothing is lost by it, and the next prune removes it" };
            note(&mut outcome.findings, format!("pack {id}"), &format!("{reason}{more}"), is_needed);
        }
        for lost in lost {
            let place = lost.pack.map_or("its pack is gone".to_owned(), |pack| format!("in pack {pack}"));
            let reason = if lost.replaced {
                format!("lost ({place}), but the same content is stored again and serves in its place")
            } else {
                format!("lost ({place})")
            };
            note(&mut outcome.findings, format!("blob {}", lost.id), &reason, !lost.replaced);
        }
        Ok(())
    }

    /// Packs that are there but of which nothing could be read when the repository was opened; not those that were stored a
    /// moment ago and whose rows are to come.
    fn packs_without_rows(&self, known: &[PackRow]) -> Result<Vec<PackId>> {
        let known: HashSet<PackId> = known.iter().map(|pack| pack.id).collect();
        let mut unknown = Vec::new();
        for (name, length) in self.repository.backend().list(ObjectKind::Pack)? {
            if let ObjectName::Pack(id) = name
                && !known.contains(&id)
                && Trailer::read(self.repository.backend(), id, length, &self.configuration.repository).is_err()
            {
                unknown.push(id);
            }
        }
        Ok(unknown)
    }

    fn is_chosen(&self, pack: &PackRow) -> bool {
        let head = u64::from_le_bytes(pack.id.0.first_chunk::<8>().copied().unwrap_or_default());
        match self.read_data {
            ReadData::Nothing => false,
            ReadData::All => true,
            ReadData::Part { part, of } => head % of.max(1) == part.saturating_sub(1),
            ReadData::Percent { percent, seed } => {
                let mut bytes = pack.id.0.to_vec();
                bytes.extend_from_slice(&seed.to_le_bytes());
                let draw = blake3::hash(&bytes);
                let draw = u32::from_le_bytes(draw.as_bytes().first_chunk::<4>().copied().unwrap_or_default());
                f64::from(draw) < percent / 100.0 * f64::from(u32::MAX)
            }
        }
    }

    /// The trailer alone.
    fn check_structure(&self, pack: &PackRow, memory: &mut Vec<u8>, gathered: &Mutex<Gathered>) -> Result<()> {
        let backend = self.repository.backend();
        match Trailer::read(backend, pack.id, pack.length, &self.configuration.repository) {
            Ok(trailer) => self.compare_with_index(pack, &trailer.entries, gathered),
            Err(e) => {
                // Its records may be whole: only reading them tells.
                let reason = damage(e)?;
                note(&mut lock(gathered).findings, format!("pack {}", pack.id), &reason, false);
                self.check_data(pack, memory, gathered)
            }
        }
    }

    /// The index must send a reader to this place, or to another where the blob lies too.
    fn compare_with_index(&self, pack: &PackRow, entries: &[PackEntry], gathered: &Mutex<Gathered>) -> Result<()> {
        let ids: Vec<BlobId> = entries.iter().map(|entry| entry.id).collect();
        let places = self.repository.index.locate(&ids)?;
        let wrong = entries.iter().zip(places).any(|(entry, place)| {
            // Unreachable blobs lose their rows before their bytes.
            place.is_some_and(|place| {
                place.pack == pack.id && (place.offset, place.length) != (entry.offset, entry.length)
            })
        });
        lock(gathered).index_wrong |= wrong;
        Ok(())
    }

    /// Every byte of a pack: its name, and if that fails, record by record.
    fn check_data(&self, pack: &PackRow, memory: &mut Vec<u8>, gathered: &Mutex<Gathered>) -> Result<()> {
        let name = ObjectName::Pack(pack.id);
        let expected = self.repository.index.entries_of(pack.no)?;
        // Damage, or a medium that no longer gives it up.
        if let Err(e) = self.repository.backend().get_into(name, memory) {
            let mut gathered = lock(gathered);
            gathered.damaged_packs.push((pack.id, e.to_string()));
            gathered.lost.extend(expected.iter().map(|entry| entry.id));
            return Ok(());
        }
        let bytes = memory.as_slice();
        let matches_name = *blake3::hash(bytes).as_bytes() == pack.id.0;
        if matches_name && let Ok(trailer) = Trailer::parse(bytes, &self.configuration.repository, &name.to_string()) {
            self.compare_with_index(pack, &trailer.entries, gathered)?;
        }
        let (mut lost, mut whole) = (Vec::new(), Vec::new());
        for entry in &expected {
            match self.check_record(bytes, entry, pack.class) {
                Ok(()) if entry.missing => whole.push(entry.id),
                Ok(()) => {}
                Err(e) if e.is_damage() => lost.push(entry.id),
                Err(e) => return Err(e),
            }
        }
        let mended = !matches_name && lost.is_empty() && self.make_again(pack, bytes, &expected)?;
        let mut gathered = lock(gathered);
        if mended {
            let reason = "its bytes did not match its name; it was made again from its records, which are whole";
            note(&mut gathered.findings, name.to_string(), reason, false);
        } else if !matches_name {
            gathered.damaged_packs.push((pack.id, "its bytes do not match its name".into()));
        }
        gathered.lost.extend(lost);
        gathered.whole.extend(whole);
        Ok(())
    }

    /// A pack whose records are all whole follows from them: if what follows has its name, it is stored again.
    fn make_again(&self, pack: &PackRow, bytes: &[u8], entries: &[ExpectedBlob]) -> Result<bool> {
        let mut builder = PackBuilder::new();
        for entry in entries {
            let range = entry.offset as usize..(entry.offset as usize).saturating_add(entry.length as usize);
            let Some(record) = bytes.get(range) else { return Ok(false) };
            let record = Record::parse(record.to_vec(), &self.configuration.repository)?;
            let capsule = match self.repository.capsule(record.capsule) {
                Err(e) if e.is_damage() => return Ok(false),
                other => other?,
            };
            builder.push(&record, &capsule)?;
        }
        let (id, bytes, _) = builder.finish(pack.class, &self.configuration.repository)?;
        if id == pack.id {
            self.repository.backend().put(ObjectName::Pack(id), &bytes)?;
        }
        Ok(id == pack.id)
    }

    fn check_record(&self, pack: &[u8], entry: &ExpectedBlob, class: Class) -> Result<()> {
        let object = || format!("blob {}", entry.id);
        let range = entry.offset as usize..(entry.offset as usize).saturating_add(entry.length as usize);
        let bytes = pack.get(range).ok_or_else(|| Error::corrupt(object(), "its pack is too short"))?;
        let record = Record::parse(bytes.to_vec(), &self.configuration.repository)?;
        if record.id != entry.id {
            return Err(Error::corrupt(object(), "its bytes do not match its id"));
        }
        match (class, self.reader) {
            // A delta's bases are elsewhere: reading them here would read packs many times over.
            (Class::Data, Some(reader)) if record.links.is_empty() => {
                let capsule = |id| self.repository.capsule(id);
                let no_base = |id: BlobId| Err(Error::missing(format!("base {id}")));
                reader.opener.open(&record, Kind::Chunk, &capsule, &no_base).map(|_| ())
            }
            _ => Ok(()),
        }
    }

    fn check_snapshots(&self, outcome: &mut CheckOutcome) -> Result<Vec<Snapshot>> {
        let mut whole = Vec::new();
        for (id, snapshot) in self.repository.snapshots()? {
            outcome.snapshots += 1;
            let checked = snapshot.and_then(|snapshot| {
                self.key.map_or(Ok(()), |key| snapshot.authenticate(key))?;
                if let Some(reader) = self.reader {
                    snapshot.details(&reader.opener)?;
                }
                Ok(snapshot)
            });
            match checked {
                Ok(snapshot) => whole.push(snapshot),
                Err(e) => {
                    let name = ObjectName::Snapshot(id).to_string();
                    note(&mut outcome.findings, name, &damage(e)?, true);
                }
            }
        }
        Ok(whole)
    }

    fn check_marks(&self, outcome: &mut CheckOutcome) -> Result<()> {
        for (id, mark) in self.repository.marks()? {
            let checked = mark.and_then(|(_, bytes)| match self.key {
                // What a server signed was checked when it was parsed.
                Some(key) if Mark::server(&bytes).is_none() => Mark::authenticate(&bytes, key),
                _ => Ok(()),
            });
            if let Err(e) = checked {
                note(&mut outcome.findings, ObjectName::Mark(id).to_string(), &damage(e)?, true);
            }
        }
        Ok(())
    }

    /// Walks what stands above lost blobs, and nothing else.
    fn find_affected(&self, snapshots: &[Snapshot], outcome: &mut CheckOutcome) -> Result<()> {
        let tainted = self.repository.index.tainted()?;
        for snapshot in snapshots {
            let mut walk = AffectedWalk { check: self, snapshot, tainted: &tainted, outcome };
            let root = snapshot.summary.root;
            if walk.is_whole(root)? {
                continue;
            }
            match self.reader {
                Some(reader) => walk.descend(reader, root)?,
                None => walk.report(b"/"),
            }
        }
        Ok(())
    }
}

fn note(findings: &mut Vec<Finding>, object: String, reason: &str, lost: bool) {
    if findings.len() < FINDINGS_MAX {
        findings.push(Finding { object, reason: reason.to_owned(), lost });
    }
}

/// What damage says of itself; other errors end the check.
fn damage(e: Error) -> Result<String> {
    match e {
        Error::Corrupt { reason, .. } => Ok(reason),
        Error::Missing { .. } => Ok("it is missing".into()),
        Error::Unsupported { reason, .. } => Ok(reason),
        other => Err(other),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
