//! What all sessions share: settings, records, repositories, and who is connected.

use crate::error::{Error, Result};
use crate::ledger::{Kind, Ledger};
use crate::notify::Notify;
use crate::peer::Sites;
use crate::registry::Registry;
use crate::settings::Settings;
use crate::storage::{Storage, seconds};
use chunkstore::snapshot::Writer;
use protocol::connection::{Close, Connection};
use protocol::identity::{NodeId, NodeKey};
use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;
use tokio::sync::Semaphore;

/// A session at work, for who asks what goes on.
pub struct Visit {
    pub client: String,
    pub key: String,
    pub address: String,
    pub repository: String,
    /// Seconds since 1970.
    pub since: i64,
    pub received_bytes: AtomicU64,
}

/// A job at work on a repository.
#[derive(Clone, Debug)]
pub struct Working {
    pub kind: Kind,
    /// Seconds since 1970.
    pub began: i64,
    pub done: u64,
    /// 0: it cannot be told.
    pub total: u64,
}

/// A job's hold on its repository, until it is dropped.
pub struct Work<'a> {
    hub: &'a Hub,
    repository: String,
}

pub struct Hub {
    /// As they were when the server began: what cannot change while it runs.
    pub settings: Settings,
    current: RwLock<Arc<Settings>>,
    /// Where they come from.
    pub file: PathBuf,
    /// Whether the last reading of it was taken.
    pub reloaded: AtomicBool,
    /// Told when the settings changed.
    pub wake: tokio::sync::Notify,
    pub server: NodeId,
    /// Signs what this server says of snapshots.
    pub signer: Writer,
    pub notify: Notify,
    pub ledger: Ledger,
    /// Seconds since 1970.
    pub began: i64,
    began_after_boot: Duration,
    pub stopping: AtomicBool,
    pub received_bytes: AtomicU64,
    working: Mutex<BTreeMap<String, Working>>,
    visits: Mutex<BTreeMap<u64, Arc<Visit>>>,
    pub registry: Registry,
    pub storage: Storage,
    pub sites: Arc<Sites>,
    /// KiB of records that may wait to be stored.
    pub waiting: Arc<Semaphore>,
    live: Mutex<HashMap<NodeId, Vec<(u64, Connection)>>>,
    serial: Mutex<u64>,
}

/// A connection's place among the live ones, until it is dropped.
pub struct Presence {
    hub: Arc<Hub>,
    client: NodeId,
    serial: u64,
}

impl Hub {
    pub fn new(
        file: PathBuf,
        settings: Settings,
        key: &NodeKey,
        registry: Registry,
        notify: Notify,
    ) -> Result<Arc<Hub>> {
        let signer = Writer::from_pkcs8(key.to_pkcs8())?;
        let ledger = Ledger::open(&settings.ledger_file())?;
        let waiting = usize::try_from(settings.limits.waiting_bytes >> 10).unwrap_or(usize::MAX);
        Ok(Arc::new(Hub {
            current: RwLock::new(Arc::new(settings.clone())),
            settings,
            file,
            reloaded: AtomicBool::new(true),
            wake: tokio::sync::Notify::new(),
            server: key.id(),
            signer,
            notify,
            ledger,
            began: seconds(),
            began_after_boot: since_boot(),
            stopping: AtomicBool::new(false),
            received_bytes: AtomicU64::new(0),
            working: Mutex::default(),
            visits: Mutex::default(),
            registry,
            storage: Storage::default(),
            sites: Arc::default(),
            waiting: Arc::new(Semaphore::new(waiting.clamp(64 << 10, Semaphore::MAX_PERMITS))),
            live: Mutex::default(),
            serial: Mutex::default(),
        }))
    }

    /// As the file says by now.
    pub fn current(&self) -> Arc<Settings> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes other settings in all their parts, or none of them.
    pub fn change(&self, new: Settings) -> Result<()> {
        if let Some(key) = self.settings.fixed_difference(&new) {
            let reason = "it cannot change while the server runs; restart it";
            return Err(Error::argument(format!("`{key}`"), reason));
        }
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(new);
        Ok(())
    }

    /// None if there are too many of this client or in all.
    pub fn enter(self: &Arc<Hub>, connection: &Connection) -> Option<Presence> {
        let mut live = lock(&self.live);
        let all: usize = live.values().map(Vec::len).sum();
        let client = connection.peer();
        let own = live.get(&client).map_or(0, Vec::len);
        let limits = &self.current().limits;
        if all >= limits.connections || own >= limits.connections_per_client {
            return None;
        }
        let mut serial = lock(&self.serial);
        *serial += 1;
        live.entry(client).or_default().push((*serial, connection.clone()));
        Some(Presence { hub: Arc::clone(self), client, serial: *serial })
    }

    /// Ends what this client is doing, now.
    pub fn expel(&self, client: NodeId) -> usize {
        let connections = lock(&self.live).get(&client).cloned().unwrap_or_default();
        for (_, connection) in &connections {
            connection.close(Close::Revoked, "this client was revoked");
        }
        connections.len()
    }

    /// [`Error::Busy`] if another job works on this repository.
    pub fn begin_work(&self, repository: &str, kind: Kind, began: i64) -> Result<Work<'_>> {
        let mut working = lock(&self.working);
        if let Some(other) = working.get(repository) {
            let holder = format!("{} is at work there; try again later", other.kind);
            return Err(Error::Busy { what: format!("repository {repository}"), holder });
        }
        working.insert(repository.to_owned(), Working { kind, began, done: 0, total: 0 });
        Ok(Work { hub: self, repository: repository.to_owned() })
    }

    pub fn progress(&self, repository: &str, done: u64, total: u64) {
        if let Some(working) = lock(&self.working).get_mut(repository) {
            (working.done, working.total) = (done, total);
        }
    }

    pub fn working(&self) -> BTreeMap<String, Working> {
        lock(&self.working).clone()
    }

    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    /// How far the system's clock has moved since the server began, against the time since boot.
    pub fn clock_drift(&self) -> Duration {
        let told = seconds().saturating_sub(self.began);
        let passed = since_boot().saturating_sub(self.began_after_boot).as_secs();
        Duration::from_secs(told.abs_diff(i64::try_from(passed).unwrap_or(i64::MAX)))
    }

    pub fn arrive(&self, session: u64, visit: Arc<Visit>) {
        lock(&self.visits).insert(session, visit);
    }

    pub fn leave(&self, session: u64) {
        lock(&self.visits).remove(&session);
    }

    pub fn visits(&self) -> Vec<Arc<Visit>> {
        lock(&self.visits).values().cloned().collect()
    }

    pub fn sessions(&self) -> usize {
        lock(&self.live).values().map(Vec::len).sum()
    }
}

impl Drop for Work<'_> {
    fn drop(&mut self) {
        lock(&self.hub.working).remove(&self.repository);
    }
}

fn since_boot() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::from_secs(time.tv_sec.max(0).unsigned_abs())
}

impl Drop for Presence {
    fn drop(&mut self) {
        let mut live = lock(&self.hub.live);
        if let Some(connections) = live.get_mut(&self.client) {
            connections.retain(|(serial, _)| *serial != self.serial);
            if connections.is_empty() {
                live.remove(&self.client);
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
