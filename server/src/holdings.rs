//! The snapshots of a repository with all that was said about them, as far as a server without a key can tell. Objects are
//! immutable, so each is read once.

use crate::registry::Receipt;
use chunkstore::Result;
use chunkstore::backend::{ObjectKind, ObjectName};
use chunkstore::id::{BlobId, MarkId, SnapshotId};
use chunkstore::mark::{Action, Believed, Mark, State};
use chunkstore::repository::Repository;
use chunkstore::snapshot::{Snapshot, Summary};
use chunkstore::store::Store;
use protocol::identity::NodeId;
use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Who had the last word on whether a snapshot is forgotten.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Word {
    #[default]
    None,
    KeyForgot,
    KeyRestored,
    ServerForgot,
    ServerRestored,
}

#[derive(Clone, Debug)]
pub struct Holding {
    pub id: SnapshotId,
    pub dataset: String,
    /// When this server received it; its own time if it did not, but not the future.
    pub received: i64,
    /// Who sent it.
    pub client: Option<NodeId>,
    pub incomplete: bool,
    pub root: BlobId,
    pub content_bytes: u64,
    /// What it added when it was made.
    pub added_bytes: u64,
    pub forgotten: Option<i64>,
    pub word: Word,
    pub pinned: bool,
    pub labels: BTreeSet<String>,
}

#[derive(Default, Debug)]
pub struct Holdings {
    /// Ascending by receipt.
    pub snapshots: Vec<Holding>,
    /// Snapshot objects that cannot be read.
    pub damaged: u64,
    pub counter_max: u64,
}

/// What was read of a repository's objects; None of what does not parse.
#[derive(Default)]
pub struct Cache {
    snapshots: Mutex<HashMap<SnapshotId, Option<Known>>>,
    marks: Mutex<HashMap<MarkId, Option<(Mark, bool, bool)>>>,
}

#[derive(Clone)]
struct Known {
    dataset: String,
    time: i64,
    incomplete: bool,
    root: BlobId,
    content_bytes: u64,
    added_bytes: u64,
    labels: Vec<String>,
}

impl Known {
    fn new(summary: Summary) -> Known {
        Known {
            dataset: summary.dataset,
            time: summary.time,
            incomplete: summary.incomplete,
            root: summary.root.id,
            content_bytes: summary.totals.content_bytes,
            added_bytes: summary.totals.added_bytes,
            labels: summary.labels,
        }
    }
}

impl Cache {
    /// `now` in nanoseconds since 1970.
    pub fn load(
        &self,
        repository: &Repository,
        receipts: &HashMap<SnapshotId, Receipt>,
        server: NodeId,
        now: i64,
    ) -> Result<Holdings> {
        let mut holdings = Holdings::default();
        let mut marks = self.marks_of(repository, server, &mut holdings.counter_max)?;
        for (id, known) in self.snapshots_of(repository)? {
            let Some(known) = known else {
                holdings.damaged += 1;
                continue;
            };
            let marks = marks.remove(&id).unwrap_or_default();
            let own: Vec<(MarkId, Mark)> = marks.iter().map(|(id, mark, _)| (*id, mark.clone())).collect();
            let state = State::fold(&known.labels, &own);
            let receipt = receipts.get(&id);
            holdings.snapshots.push(Holding {
                id,
                received: receipt.map_or(known.time.min(now), |receipt| receipt.received),
                client: receipt.map(|receipt| receipt.client),
                dataset: known.dataset,
                incomplete: known.incomplete,
                root: known.root,
                content_bytes: known.content_bytes,
                added_bytes: known.added_bytes,
                forgotten: state.forgotten,
                word: last_word(marks),
                pinned: state.pinned,
                labels: state.labels,
            });
        }
        holdings.snapshots.sort_by_key(|holding| (holding.received, holding.id));
        Ok(holdings)
    }

    fn snapshots_of(&self, repository: &Repository) -> Result<Vec<(SnapshotId, Option<Known>)>> {
        let mut before = std::mem::take(&mut *lock(&self.snapshots));
        let mut found = HashMap::new();
        for (name, _) in repository.backend().list(ObjectKind::Snapshot)? {
            let ObjectName::Snapshot(id) = name else { continue };
            let known = match before.remove(&id) {
                Some(known) => known,
                None => match repository.backend().get(name) {
                    Ok(bytes) => parsed(bytes, id, repository).map(|snapshot| Known::new(snapshot.summary)),
                    // It went meanwhile.
                    Err(chunkstore::Error::Missing { .. }) => continue,
                    Err(error) => return Err(error),
                },
            };
            found.insert(id, known);
        }
        let all = found.iter().map(|(id, known)| (*id, known.clone())).collect();
        *lock(&self.snapshots) = found;
        Ok(all)
    }

    /// By snapshot; whether each is this server's own word.
    fn marks_of(
        &self,
        repository: &Repository,
        server: NodeId,
        counter_max: &mut u64,
    ) -> Result<HashMap<SnapshotId, Vec<(MarkId, Mark, bool)>>> {
        let mut before = std::mem::take(&mut *lock(&self.marks));
        let mut found = HashMap::new();
        let mut by_snapshot: HashMap<SnapshotId, Vec<(MarkId, Mark, bool)>> = HashMap::new();
        let believed = Believed::Server(server.0);
        for (name, _) in repository.backend().list(ObjectKind::Mark)? {
            let ObjectName::Mark(id) = name else { continue };
            let known = match before.remove(&id) {
                Some(known) => known,
                None => match repository.backend().get(name) {
                    Ok(bytes) => Mark::parse(&bytes, &repository.configuration().repository)
                        .ok()
                        .filter(|(named, _)| *named == id)
                        .map(|(_, mark)| (mark, Mark::server(&bytes).is_some(), believed.counts(&bytes))),
                    Err(chunkstore::Error::Missing { .. }) => continue,
                    Err(error) => return Err(error),
                },
            };
            if let Some((mark, by_server, counts)) = &known {
                *counter_max = (*counter_max).max(mark.counter);
                if *counts {
                    by_snapshot.entry(mark.snapshot).or_default().push((id, mark.clone(), *by_server));
                }
            }
            found.insert(id, known);
        }
        *lock(&self.marks) = found;
        Ok(by_snapshot)
    }
}

fn parsed(bytes: Vec<u8>, id: SnapshotId, repository: &Repository) -> Option<Snapshot> {
    let snapshot = Snapshot::parse(bytes, &repository.configuration().repository).ok();
    snapshot.filter(|snapshot| snapshot.id == id)
}

fn last_word(mut marks: Vec<(MarkId, Mark, bool)>) -> Word {
    marks.sort_unstable_by_key(|(id, mark, _)| (mark.counter, *id));
    let word = |(_, mark, by_server): &(MarkId, Mark, bool)| match (&mark.action, by_server) {
        (Action::Forget, false) => Some(Word::KeyForgot),
        (Action::Forget, true) => Some(Word::ServerForgot),
        (Action::Undelete, false) => Some(Word::KeyRestored),
        (Action::Undelete, true) => Some(Word::ServerRestored),
        _ => None,
    };
    marks.iter().filter_map(word).next_back().unwrap_or_default()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
