//! A repository at hand: owns the order pack, index, snapshot, acknowledge.
//!
//! One process writes at a time (the backend's lock); readers need no lock. Threads of a writer share it:
//!
//! | lock | protects | taken |
//! |---|---|---|
//! | `storing` | packs become durable in the order they were taken, data before the nodes that link to it | before `packer`, by who flushes, who has no room, or the thread `packs` |
//! | `packer` | the packs being filled and what they hold | briefly, never across I/O |
//! | the index's own | one SQLite connection | innermost |

mod healing;

mod leased;

mod packer;

mod reading;

mod storing;

use crate::backend::directory::Directory;
use crate::backend::{Backend, ObjectKind, ObjectName};
use crate::capsule::Capsule;
use crate::configuration::Configuration;
use crate::error::{Error, Result};
use crate::id::{BlobId, CapsuleId, HalfTag, MarkId, PackId, SnapshotId, Tag};
use crate::index::Index;
use crate::index::lease::Lease;
use crate::mark::Mark;
use crate::record::Record;
use crate::recover;
use crate::snapshot::Snapshot;
use crate::store::Store;
pub use leased::Leased;
use packer::Packer;
use reading::Proof;
use std::collections::HashSet;
use std::path::Path;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;
use storing::{Storer, Writing};
use tempfile::TempDir;

/// How a repository is opened.
pub enum Access {
    Read,
    /// Takes the writer lock, waiting for at most `wait`; `holder` is what others are told meanwhile.
    Write {
        holder: String,
        wait: Duration,
    },
}

pub struct Repository {
    pub(crate) backend: Arc<dyn Backend>,
    configuration: Configuration,
    pub(crate) index: Arc<Index>,
    /// Seconds since 1970: at opening, or what [`Repository::set_time`] said last.
    time: Arc<AtomicI64>,
    writing: Option<Arc<Writing>>,
    storer: Storer,
    /// Snapshots whose signature was checked: that takes most of the time of reading one, and a run reads all for each of its sources.
    signed: Mutex<HashSet<SnapshotId>>,
    /// Where an index of our own lies, if the repository's could not be used and not be mended.
    _private_catalog: Option<TempDir>,
    /// An index of our own that was made when the repository's was doubted; `None` if it could not be made.
    second: OnceLock<Option<(Index, TempDir)>>,
}

#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Statistics {
    pub packs: u64,
    pub pack_bytes: u64,
    pub blobs: u64,
    /// Of all records, each once.
    pub blob_bytes: u64,
}

impl Repository {
    /// Makes an empty backend a repository: from now on it opens. Key slots were put before.
    pub fn create(backend: &dyn Backend, configuration: &Configuration) -> Result<()> {
        let object = configuration.encode();
        backend.put(ObjectName::ConfigurationCopy, &object)?;
        backend.put(ObjectName::Configuration, &object)
    }

    /// A repository in a local directory. `now` is in seconds since 1970.
    pub fn open(place: &Path, access: Access, now: i64) -> Result<Repository> {
        let backend = Arc::new(Directory::open(place)?);
        Repository::open_backend(backend, &place.join("catalog.sqlite3"), access, now)
    }

    /// `catalog` is the file of the index, in a local file system.
    pub fn open_backend(backend: Arc<dyn Backend>, catalog: &Path, access: Access, now: i64) -> Result<Repository> {
        let configuration = read_configuration(&*backend)?;
        let mut writer_lock = None;
        let mut private = None;
        let index = match access {
            Access::Write { holder, wait } => {
                writer_lock = Some(backend.lock(&holder, wait)?);
                recover::recover(&*backend, catalog, &configuration.repository, now)?
            }
            Access::Read => match open_for_reading(&*backend, catalog, &configuration, now)? {
                Some(index) => index,
                None => {
                    let (index, directory) = private_index(&*backend, &configuration, now)?;
                    private = Some(directory);
                    index
                }
            },
        };
        let (index, time) = (Arc::new(index), Arc::new(AtomicI64::new(now)));
        let writing = writer_lock.map(|lock| {
            let (backend, index, time) = (Arc::clone(&backend), Arc::clone(&index), Arc::clone(&time));
            Arc::new(Writing::new(backend, index, configuration.clone(), time, lock))
        });
        let (storer, signed, second) = (Storer::default(), Mutex::default(), OnceLock::new());
        let _private_catalog = private;
        Ok(Repository { backend, configuration, index, time, writing, storer, signed, _private_catalog, second })
    }

    pub fn backend(&self) -> &dyn Backend {
        &*self.backend
    }

    /// What counts as now for the age of packs, in seconds since 1970: for who keeps a repository open for long.
    pub fn set_time(&self, now: i64) {
        self.time.store(now, Ordering::Relaxed);
    }

    pub(crate) fn time(&self) -> i64 {
        self.time.load(Ordering::Relaxed)
    }

    /// What is stored, as the index has it.
    pub fn statistics(&self) -> Result<Statistics> {
        let packs = self.index.packs()?;
        let (blobs, blob_bytes) = self.index.totals()?;
        let pack_bytes = packs.iter().map(|pack| pack.length).sum();
        Ok(Statistics { packs: packs.len() as u64, pack_bytes, blobs, blob_bytes })
    }

    /// Number of packs, and their bytes; what was accepted a moment ago counts.
    pub fn pack_totals(&self) -> Result<(u64, u64)> {
        let pending = self.writing.as_ref().map_or((0, 0), |writing| lock(&writing.packer).pending());
        let (packs, bytes) = self.index.pack_totals()?;
        Ok((packs + pending.0, bytes + pending.1))
    }

    /// Bytes of the records that can be reached from these, each once.
    pub fn held_bytes(&self, roots: &[BlobId]) -> Result<u64> {
        self.index.survey()?.held_bytes(roots)
    }

    /// Makes the index again from the packs, for when it was found to disagree with them.
    pub(crate) fn rebuild_index(&self) -> Result<()> {
        self.writing()?;
        recover::refill(&*self.backend, &self.index, &self.configuration.repository, self.time())
    }

    fn put_exact_for(&self, record: Record, capsule: &Capsule, lease: &Lease, is_read_soon: bool) -> Result<()> {
        let lease = Some(lease);
        let stored = self.accept(record, capsule, lease, is_read_soon, |record, packer| {
            let is_there = packer.ids.contains_key(&record.id) || self.index.present(&[record.id], lease)? == [true];
            Ok(is_there.then_some(record.id))
        });
        stored.map(|_| ())
    }

    /// Which of these are stored so that a crash leaves them known: in the index, or in a pack that the next opening finds.
    fn durable_for(&self, ids: &[BlobId], lease: Option<&Lease>) -> Result<Vec<bool>> {
        // In this order: rows come before the packer forgets.
        let pending: Vec<Option<bool>> = {
            let packer = lock(&self.writing()?.packer);
            ids.iter().map(|id| packer.ids.get(id).copied()).collect()
        };
        let unknown = ids.iter().zip(&pending).filter(|(_, durable)| durable.is_none()).map(|(id, _)| *id);
        let mut settled = self.index.present(&unknown.collect::<Vec<_>>(), lease)?.into_iter();
        Ok(pending.into_iter().map(|durable| durable.or_else(|| settled.next()).unwrap_or(false)).collect())
    }

    /// Puts a record, unless `known` says that it, or another of its content, is there.
    fn accept(
        &self,
        record: Record,
        capsule: &Capsule,
        lease: Option<&Lease>,
        is_read_soon: bool,
        known: impl Fn(&Record, &Packer) -> Result<Option<BlobId>>,
    ) -> Result<BlobId> {
        let writing = self.writing()?;
        let target = self.configuration.pack_bytes_target as usize;
        loop {
            let mut packer = lock(&writing.packer);
            packer.check()?;
            if let Some(id) = known(&record, &packer)? {
                return Ok(id);
            }
            let builder = packer.builder(record.class);
            if builder.len() >= target || !builder.has_room_for(&record, capsule) {
                let is_set_aside = packer.set_aside(record.class);
                drop(packer);
                if is_set_aside {
                    self.storer.wake(writing);
                } else {
                    writing.store_packs(false)?;
                }
                continue;
            }
            self.check_links(&record, &packer, lease)?;
            let builder = packer.builder(record.class);
            builder.push(&record, capsule)?;
            builder.is_read_soon |= is_read_soon;
            packer.by_tag.insert(record.tag, record.id);
            packer.ids.insert(record.id, false);
            return Ok(record.id);
        }
    }

    fn writing(&self) -> Result<&Arc<Writing>> {
        self.writing.as_ref().ok_or_else(|| Error::invalid("the repository", "it was opened for reading only"))
    }

    pub(crate) fn require_writing(&self) -> Result<()> {
        self.writing().map(|_| ())
    }

    /// Runs `work`, which no store of this pack comes between, unless the pack is stored or being stored.
    pub(crate) fn unless_stored(&self, id: PackId, work: impl FnOnce() -> Result<()>) -> Result<()> {
        let packer = lock(&self.writing()?.packer);
        if packer.on_their_way.contains(&id) || self.index.has_pack(id)? { Ok(()) } else { work() }
    }

    fn known_for(&self, tags: &[Tag], lease: Option<&Lease>) -> Result<Vec<Option<BlobId>>> {
        let mut answers = vec![None; tags.len()];
        if let Some(writing) = &self.writing {
            let packer = lock(&writing.packer);
            for (answer, tag) in answers.iter_mut().zip(tags) {
                *answer = packer.by_tag.get(tag).copied();
            }
        }
        let settled = self.index.known(tags, lease)?;
        for (answer, settled) in answers.iter_mut().zip(settled) {
            *answer = answer.or(settled);
        }
        Ok(answers)
    }

    fn put_for(&self, record: Record, capsule: &Capsule, lease: Option<&Lease>) -> Result<BlobId> {
        self.accept(record, capsule, lease, true, |record, packer| {
            let known = packer.by_tag.get(&record.tag).copied();
            if known.is_some() {
                Ok(known)
            } else {
                Ok(self.index.known(&[record.tag], lease)?.into_iter().flatten().next())
            }
        })
    }

    fn commit_for(&self, snapshot: &Snapshot, lease: Option<&Lease>) -> Result<()> {
        self.flush()?;
        if self.index.present(&[snapshot.summary.root.id], lease)? != [true] {
            return Err(Error::missing(format!("the root of snapshot {}", snapshot.id)));
        }
        self.backend.put(ObjectName::Snapshot(snapshot.id), &snapshot.bytes)?;
        // What this run stored may stand in for what was lost.
        if self.index.has_damage()? { self.index.update_taint() } else { Ok(()) }
    }

    /// Links must be stored intact or be accepted before: closure holds by induction.
    fn check_links(&self, record: &Record, packer: &Packer, lease: Option<&Lease>) -> Result<()> {
        let settled: Vec<BlobId> = record.links.iter().filter(|link| !packer.ids.contains_key(link)).copied().collect();
        let present = self.index.present(&settled, lease)?;
        match settled.iter().zip(present).find(|(_, present)| !present) {
            Some((link, _)) => Err(Error::missing(format!("blob {link}, which blob {} links to,", record.id))),
            None => Ok(()),
        }
    }
}

impl Store for Repository {
    fn configuration(&self) -> &Configuration {
        &self.configuration
    }

    fn known(&self, tags: &[Tag]) -> Result<Vec<Option<BlobId>>> {
        self.known_for(tags, None)
    }

    fn present(&self, ids: &[BlobId]) -> Result<Vec<bool>> {
        self.index.present(ids, None)
    }

    fn generation(&self) -> Result<[u8; 16]> {
        self.index.generation()
    }

    fn alternate(&self, tag: HalfTag) -> Result<Option<BlobId>> {
        self.index.known_by_half(tag)
    }

    fn put(&self, record: Record, capsule: &Capsule) -> Result<BlobId> {
        self.put_for(record, capsule, None)
    }

    fn flush(&self) -> Result<()> {
        self.writing()?.store_packs(true)
    }

    fn commit(&self, snapshot: &Snapshot) -> Result<()> {
        self.commit_for(snapshot, None)
    }

    fn snapshots(&self) -> Result<Vec<(SnapshotId, Result<Snapshot>)>> {
        let mut found = Vec::new();
        for (name, _) in self.backend.list(ObjectKind::Snapshot)? {
            let ObjectName::Snapshot(id) = name else { continue };
            let snapshot = self.backend.get(name).and_then(|bytes| {
                named_by(&bytes, id.0, name)?;
                Snapshot::parse_unless(bytes, &self.configuration.repository, |id| lock(&self.signed).contains(id))
            });
            if snapshot.is_ok() {
                lock(&self.signed).insert(id);
            }
            // One that was deleted while we listed is not damage.
            if !matches!(snapshot, Err(Error::Missing { .. })) {
                found.push((id, snapshot));
            }
        }
        Ok(found)
    }

    fn marks(&self) -> Result<Vec<(MarkId, Result<(Mark, Vec<u8>)>)>> {
        let mut found = Vec::new();
        for (name, _) in self.backend.list(ObjectKind::Mark)? {
            let ObjectName::Mark(id) = name else { continue };
            let mark = self.backend.get(name).and_then(|bytes| {
                named_by(&bytes, id.0, name)?;
                Ok((Mark::parse(&bytes, &self.configuration.repository)?.1, bytes))
            });
            if !matches!(mark, Err(Error::Missing { .. })) {
                found.push((id, mark));
            }
        }
        Ok(found)
    }

    fn mark(&self, object: &[u8]) -> Result<()> {
        self.writing()?;
        let (id, _) = Mark::parse(object, &self.configuration.repository)?;
        self.backend.put(ObjectName::Mark(id), object)
    }

    fn arrange(&self, ids: &[BlobId]) -> Result<Vec<Vec<usize>>> {
        self.grouped(ids)
    }

    fn read(&self, ids: &[BlobId]) -> Result<Vec<Result<Record>>> {
        self.records(ids, Proof::Id)
    }

    fn read_linked(&self, ids: &[BlobId]) -> Result<Vec<Result<Record>>> {
        self.records(ids, Proof::Tag)
    }

    fn capsule(&self, id: CapsuleId) -> Result<Capsule> {
        self.ask(|index| index.capsule(id, &self.configuration.repository), |_| true)
    }
}

impl Drop for Repository {
    fn drop(&mut self) {
        if let Some(writing) = &self.writing {
            self.storer.end(writing);
        }
        let in_order = self.writing.as_ref().is_some_and(|w| lock(&w.packer).poisoned.is_none());
        if in_order {
            // A failure here only makes the next opening look closer.
            let _ = recover::mark_clean(&self.index);
        }
    }
}

fn named_by(bytes: &[u8], id: [u8; 32], name: ObjectName) -> Result<()> {
    let matches = *blake3::hash(bytes).as_bytes() == id;
    if matches { Ok(()) } else { Err(Error::corrupt(name.to_string(), "its bytes do not match its name")) }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whichever copy is whole; two that differ are neither.
pub fn read_configuration(backend: &dyn Backend) -> Result<Configuration> {
    let read = |name: ObjectName| backend.get(name).and_then(|bytes| Configuration::decode(&bytes, &name.to_string()));
    match (read(ObjectName::Configuration), read(ObjectName::ConfigurationCopy)) {
        (Ok(a), Ok(b)) if a == b => Ok(a),
        (Ok(_), Ok(_)) => Err(Error::corrupt("the configuration", "its two copies differ")),
        (Ok(a), Err(_)) => Ok(a),
        (Err(Error::Missing { .. }), Err(Error::Missing { .. })) => {
            Err(Error::NoRepository { place: "this place".into() })
        }
        (Err(first), Ok(b)) if first.is_damage() => Ok(b),
        (Err(first), _) => Err(first),
    }
}

/// The repository's own index if it agrees with the packs or a live writer looks after it; None if it cannot be used.
fn open_for_reading(
    backend: &dyn Backend,
    catalog: &Path,
    configuration: &Configuration,
    now: i64,
) -> Result<Option<Index>> {
    let repository = &configuration.repository;
    let usable =
        Index::open_reader(catalog, repository).and_then(|index| Ok((recover::is_current(backend, &index)?, index)));
    if let Ok((true, index)) = usable {
        return Ok(Some(index));
    }
    match backend.lock("a reader that mends the index", Duration::ZERO) {
        Ok(_lock) => {
            let index = recover::recover(backend, catalog, repository, now)?;
            recover::mark_clean(&index)?;
            drop(index);
            Index::open_reader(catalog, repository).map(Some)
        }
        // The writer has brought the index in order when it began.
        Err(Error::Locked { .. }) => Ok(usable.ok().map(|(_, index)| index)),
        // A read-only file system: no writer can be there.
        Err(_) => Ok(None),
    }
}

/// An index that nobody else uses, and the directory that it lies in.
fn private_index(backend: &dyn Backend, configuration: &Configuration, now: i64) -> Result<(Index, TempDir)> {
    let directory = tempfile::tempdir().map_err(|e| Error::io("create", "a private index", e))?;
    let catalog = directory.path().join("catalog.sqlite3");
    Ok((recover::rebuild(backend, &catalog, &configuration.repository, now)?, directory))
}

#[cfg(test)]
pub(crate) mod tests;
