//! Read back and compare: every object, every record, every link; and who is affected by what is lost.
//!
//! Finds, names and remembers damage, and never deletes. A blob found damaged counts as missing from then on, so that the next
//! backup of the same data stores it again; one found whole again counts as stored. The caller holds the writer lock. Sessions of
//! this process may save meanwhile, if each has a lease; no collection may run.

mod affected;

mod packs;

mod share;

use crate::backend::{ObjectKind, ObjectName};
use crate::configuration::Configuration;
use crate::error::{Error, Result};
use crate::id::{BlobId, PackId, SnapshotId};
use crate::index::PackRow;
use crate::key::{self, WriteKey};
use crate::mark::Mark;
use crate::pack::Trailer;
use crate::reader::Reader;
use crate::repository::Repository;
use crate::snapshot::Snapshot;
use crate::store::Store;
use affected::AffectedWalk;
use share::Packs;
use std::collections::HashSet;
use std::sync::atomic::AtomicBool;
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
    /// The index was damaged, or disagreed with the packs, and was made again.
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
        self.check_index(&mut outcome)?;
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

    /// That the index is a whole file; what it says is held against the packs later.
    fn check_index(&self, outcome: &mut CheckOutcome) -> Result<()> {
        let index = &self.repository.index;
        let checked = index.quick_check().and_then(|()| index.check_capsules(&self.configuration.repository));
        match checked {
            Err(error) if error.is_damage() => self.make_index_again("it was damaged", outcome),
            other => other,
        }
    }

    fn make_index_again(&self, reason: &str, outcome: &mut CheckOutcome) -> Result<()> {
        if self.repository.index.has_leases() {
            let reason = format!("{reason}; it is made again by a check while nobody saves");
            note(&mut outcome.findings, "the index".into(), &reason, true);
            return Ok(());
        }
        outcome.index_rebuilt = true;
        note(&mut outcome.findings, "the index".into(), &format!("{reason} and was made again"), false);
        self.repository.rebuild_index()
    }

    /// Every pack's trailer against the index, and the chosen packs' bytes against their names.
    fn check_packs(&self, outcome: &mut CheckOutcome) -> Result<()> {
        let packs = self.repository.index.packs()?;
        let unreadable = self.packs_without_rows(&packs)?;
        for id in unreadable {
            let reason = "neither its trailer nor any record in it can be read".to_owned();
            note(&mut outcome.findings, format!("pack {id}"), &reason, true);
        }
        let packs: Vec<(PackRow, bool)> = packs
            .into_iter()
            .map(|pack| {
                let chosen = self.is_chosen(&pack);
                (pack, chosen)
            })
            .collect();
        let shared = Packs::new(self, &packs);
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..self.threads.max(1)).map(|_| scope.spawn(|| shared.work())).collect();
            workers.into_iter().try_for_each(|worker| {
                worker.join().unwrap_or_else(|_| Err(Error::invalid("check", "a worker ended unexpectedly")))
            })
        })?;
        let (gathered, packs_read, bytes_read) = shared.finish();
        outcome.packs = packs.len() as u64;
        outcome.packs_read = packs_read;
        outcome.bytes_read = bytes_read;
        outcome.blobs = self.repository.index.totals()?.0;
        self.remember(gathered, outcome)
    }

    /// Writes what was found into the index: lost blobs, blobs that are there after all, or that it must be made again.
    fn remember(&self, gathered: Gathered, outcome: &mut CheckOutcome) -> Result<()> {
        let index = &self.repository.index;
        outcome.findings.extend(gathered.findings);
        if gathered.index_wrong {
            self.make_index_again("it disagreed with the packs", outcome)?;
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
