//! The one file that crosses from the asynchronous server into blocking storage work.
//!
//! A [`Shelf`] is one repository, opened for writing when it is first needed and shared by all its sessions.

use crate::access::{Access, Verb};
use crate::holdings::Cache;
use chunkstore::backend::directory::Directory;
use chunkstore::backend::{Backend, ObjectKind, ObjectName};
use chunkstore::configuration::Configuration;
use chunkstore::id::{MarkId, SlotId, SnapshotId};
use chunkstore::mark::Mark;
use chunkstore::repository::{Access as Opening, Leased, Repository, read_configuration};
use chunkstore::snapshot::Snapshot;
use chunkstore::{Error, Result};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::task;

/// How long opening waits for somebody else to let go of the repository's lock.
const LOCK_WAIT: Duration = Duration::from_secs(5);

/// Runs blocking work beside the network. None if it panicked: a fault of the program, which its thread has told.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    task::spawn_blocking(work).await.ok()
}

#[derive(Default)]
pub struct Storage {
    shelves: Mutex<HashMap<String, Arc<Shelf>>>,
}

pub struct Shelf {
    pub name: String,
    directory: PathBuf,
    open: Mutex<Option<Open>>,
    /// The dataset of each snapshot that was looked at; None of one that does not parse.
    datasets: Mutex<HashMap<SnapshotId, Option<String>>>,
    pub cache: Cache,
}

/// A repository, and what each session holds of it.
struct Open {
    repository: Arc<Repository>,
    leases: HashMap<u64, Arc<Leased>>,
}

impl Storage {
    /// `directory` holds a repository, or nothing yet.
    pub fn shelf(&self, name: &str, directory: &Path) -> Arc<Shelf> {
        let shelf = || {
            let (open, datasets, cache) = (Mutex::default(), Mutex::default(), Cache::default());
            Arc::new(Shelf { name: name.to_owned(), directory: directory.to_owned(), open, datasets, cache })
        };
        Arc::clone(lock(&self.shelves).entry(name.to_owned()).or_insert_with(shelf))
    }

    pub fn shelves(&self) -> Vec<Arc<Shelf>> {
        lock(&self.shelves).values().cloned().collect()
    }

    /// Lets go of every repository that nobody uses any more.
    pub fn close(&self) {
        lock(&self.shelves).clear();
    }
}

impl Shelf {
    /// [`Error::NoRepository`] if nothing was created yet.
    pub fn store(&self) -> Result<Arc<Repository>> {
        self.with_open(|open| Ok(Arc::clone(&open.repository)))
    }

    /// What a session works with: nothing that it is told is collected before [`Shelf::release`].
    pub fn leased(&self, session: u64) -> Result<Arc<Leased>> {
        self.with_open(|open| {
            open.repository.set_time(seconds());
            if let Some(leased) = open.leases.get(&session) {
                return Ok(Arc::clone(leased));
            }
            let leased = Arc::new(open.repository.leased()?);
            open.leases.insert(session, Arc::clone(&leased));
            Ok(leased)
        })
    }

    /// The session is over.
    pub fn release(&self, session: u64) {
        if let Some(open) = &mut *lock(&self.open) {
            open.leases.remove(&session);
        }
    }

    fn with_open<T>(&self, work: impl FnOnce(&mut Open) -> Result<T>) -> Result<T> {
        let mut open = lock(&self.open);
        if let Some(open) = &mut *open {
            return work(open);
        }
        let here = |error| match error {
            Error::NoRepository { .. } => Error::NoRepository { place: format!("repository {}", self.name) },
            other => other,
        };
        let holder = format!("nightkeepd (process {})", std::process::id());
        let access = Opening::Write { holder, wait: LOCK_WAIT };
        let repository = Arc::new(Repository::open(&self.directory, access, seconds()).map_err(here)?);
        work(open.insert(Open { repository, leases: HashMap::new() }))
    }

    /// After an error that closed it for writing: the next session opens it again.
    pub fn give_up(&self, error: &Error) {
        if matches!(error, Error::Poisoned { .. } | Error::Io { .. } | Error::Full { .. }) {
            tracing::error!(repository = self.name, %error, "the repository is opened again");
            lock(&self.open).take();
        }
    }

    /// Makes the empty place a repository with a client's keys. Told the same again, it has been done.
    pub fn create(&self, configuration: &[u8], slots: &[(SlotId, Vec<u8>)]) -> Result<()> {
        let decoded = Configuration::decode(configuration, "the configuration")?;
        if slots.is_empty() {
            return Err(Error::invalid("key slots", "there is none, so that nobody could ever read the repository"));
        }
        let _one_at_a_time = lock(&self.open);
        let backend = Directory::create(&self.directory)?;
        match read_configuration(&backend) {
            Err(Error::NoRepository { .. }) => {}
            Ok(there) if there == decoded => return Ok(()),
            _ => return Err(Error::RepositoryExists { place: format!("repository {}", self.name) }),
        }
        for (id, bytes) in slots {
            backend.put(ObjectName::KeySlot(*id), bytes)?;
        }
        Repository::create(&backend, &decoded)
    }

    /// Names of the objects of a kind that are to be seen, ascending.
    pub fn names(&self, kind: ObjectKind, access: &Access) -> Result<Vec<Vec<u8>>> {
        let repository = self.store()?;
        let mut names = Vec::new();
        for (name, _) in repository.backend().list(kind)? {
            match name {
                ObjectName::Snapshot(id) if self.shows_snapshot(&repository, id, access) => names.push(id.0.to_vec()),
                ObjectName::Mark(id) if self.shows_mark(&repository, id, access) => names.push(id.0.to_vec()),
                ObjectName::KeySlot(id) => names.push(id.0.to_vec()),
                _ => {}
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    /// An object by its name, if it is to be seen.
    pub fn object(&self, name: ObjectName, access: &Access) -> Result<Vec<u8>> {
        let repository = self.store()?;
        let shows = match name {
            ObjectName::Snapshot(id) => self.shows_snapshot(&repository, id, access),
            ObjectName::Mark(id) => self.shows_mark(&repository, id, access),
            ObjectName::KeySlot(_) => true,
            _ => false,
        };
        if shows { repository.backend().get(name) } else { Err(Error::missing(name.to_string())) }
    }

    /// The dataset of a snapshot that parses.
    pub fn dataset(&self, repository: &Repository, id: SnapshotId) -> Option<String> {
        if let Some(known) = lock(&self.datasets).get(&id) {
            return known.clone();
        }
        let bytes = repository.backend().get(ObjectName::Snapshot(id)).ok()?;
        let parsed = Snapshot::parse(bytes, &chunkstore::store::Store::configuration(repository).repository);
        let dataset = parsed.ok().map(|snapshot| snapshot.summary.dataset);
        lock(&self.datasets).insert(id, dataset.clone());
        dataset
    }

    fn shows_snapshot(&self, repository: &Repository, id: SnapshotId, access: &Access) -> bool {
        access.covers_all(Verb::List)
            || self.dataset(repository, id).is_some_and(|dataset| access.covers(Verb::List, &dataset))
    }

    fn shows_mark(&self, repository: &Repository, id: MarkId, access: &Access) -> bool {
        if access.covers_all(Verb::List) {
            return true;
        }
        let configuration = chunkstore::store::Store::configuration(repository);
        let bytes = repository.backend().get(ObjectName::Mark(id));
        let mark = bytes.and_then(|bytes| Mark::parse(&bytes, &configuration.repository));
        mark.is_ok_and(|(_, mark)| self.shows_snapshot(repository, mark.snapshot, access))
    }
}

pub fn seconds() -> i64 {
    nanoseconds() / 1_000_000_000
}

pub fn nanoseconds() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Held by the one daemon of a data directory.
pub struct DataLock {
    _file: std::fs::File,
}

pub fn lock_data(directory: &Path) -> Result<DataLock> {
    let path = directory.join("server.lock");
    let failed = |error| Error::io("open", path.display().to_string(), error);
    let file = std::fs::OpenOptions::new().create(true).truncate(false).write(true).open(&path).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(DataLock { _file: file }),
        Err(_) => Err(Error::Locked { holder: format!("another nightkeepd, which serves {}", directory.display()) }),
    }
}
