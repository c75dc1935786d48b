//! A store that answers within a stated time, around one that may not answer at all: for repositories behind a network.
//!
//! Each question goes to a thread of its own. Who has waited long enough gets an error, and the thread is left to its wait.
//! While the store is silent further questions wait only shortly; whatever it answers ends that.

use chunkstore::capsule::Capsule;
use chunkstore::configuration::Configuration;
use chunkstore::id::{BlobId, CapsuleId, HalfTag, MarkId, SnapshotId, Tag};
use chunkstore::mark::Mark;
use chunkstore::record::Record;
use chunkstore::snapshot::Snapshot;
use chunkstore::store::Store;
use chunkstore::{Error, Result};
use crossbeam_channel::bounded;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

/// How long to wait for a store.
pub const WAIT: Duration = Duration::from_secs(20);
const WAIT_WHILE_SILENT: Duration = Duration::from_secs(1);
/// So many questions may be without an answer.
const UNANSWERED_MAX: usize = 64;

pub struct Patient {
    store: Arc<dyn Store>,
    wait: Duration,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    unanswered: AtomicUsize,
    silent: AtomicBool,
}

impl Patient {
    pub fn new(store: Arc<dyn Store>, wait: Duration) -> Patient {
        Patient { store, wait, state: Arc::default() }
    }

    fn ask<T: Send + 'static>(&self, question: impl FnOnce(&dyn Store) -> Result<T> + Send + 'static) -> Result<T> {
        if self.state.unanswered.fetch_add(1, Ordering::SeqCst) >= UNANSWERED_MAX {
            self.state.unanswered.fetch_sub(1, Ordering::SeqCst);
            return Err(silence("it has left too many questions unanswered"));
        }
        let (sender, receiver) = bounded(1);
        let (store, state) = (Arc::clone(&self.store), Arc::clone(&self.state));
        let asking = move || {
            let answer = question(&*store);
            state.unanswered.fetch_sub(1, Ordering::SeqCst);
            state.silent.store(false, Ordering::SeqCst);
            // Nobody may be waiting any more.
            let _ = sender.send(answer);
        };
        if let Err(source) = std::thread::Builder::new().name("question".into()).spawn(asking) {
            self.state.unanswered.fetch_sub(1, Ordering::SeqCst);
            return Err(Error::io("ask", "the repository", source));
        }
        let silent = self.state.silent.load(Ordering::SeqCst);
        let wait = if silent { self.wait.min(WAIT_WHILE_SILENT) } else { self.wait };
        receiver.recv_timeout(wait).unwrap_or_else(|_| {
            self.state.silent.store(true, Ordering::SeqCst);
            Err(silence("it does not answer"))
        })
    }
}

fn silence(reason: &str) -> Error {
    Error::io("ask", "the repository", io::Error::new(io::ErrorKind::TimedOut, reason))
}

impl Store for Patient {
    fn configuration(&self) -> &Configuration {
        self.store.configuration()
    }

    fn known(&self, tags: &[Tag]) -> Result<Vec<Option<BlobId>>> {
        let tags = tags.to_vec();
        self.ask(move |store| store.known(&tags))
    }

    fn present(&self, ids: &[BlobId]) -> Result<Vec<bool>> {
        let ids = ids.to_vec();
        self.ask(move |store| store.present(&ids))
    }

    fn generation(&self) -> Result<[u8; 16]> {
        self.ask(|store| store.generation())
    }

    fn alternate(&self, tag: HalfTag) -> Result<Option<BlobId>> {
        self.ask(move |store| store.alternate(tag))
    }

    fn put(&self, record: Record, capsule: &Capsule) -> Result<BlobId> {
        self.store.put(record, capsule)
    }

    fn flush(&self) -> Result<()> {
        self.store.flush()
    }

    fn commit(&self, snapshot: &Snapshot) -> Result<()> {
        self.store.commit(snapshot)
    }

    fn snapshots(&self) -> Result<Vec<(SnapshotId, Result<Snapshot>)>> {
        self.ask(|store| store.snapshots())
    }

    fn marks(&self) -> Result<Vec<(MarkId, Result<(Mark, Vec<u8>)>)>> {
        self.ask(|store| store.marks())
    }

    fn mark(&self, object: &[u8]) -> Result<()> {
        self.store.mark(object)
    }

    fn arrange(&self, ids: &[BlobId]) -> Result<Vec<Vec<usize>>> {
        let ids = ids.to_vec();
        self.ask(move |store| store.arrange(&ids))
    }

    fn read(&self, ids: &[BlobId]) -> Result<Vec<Result<Record>>> {
        let ids = ids.to_vec();
        self.ask(move |store| store.read(&ids))
    }

    fn read_linked(&self, ids: &[BlobId]) -> Result<Vec<Result<Record>>> {
        let ids = ids.to_vec();
        self.ask(move |store| store.read_linked(&ids))
    }

    fn capsule(&self, id: CapsuleId) -> Result<Capsule> {
        self.ask(move |store| store.capsule(id))
    }
}
