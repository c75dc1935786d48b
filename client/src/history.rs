//! The snapshots of a repository with what was said about them since: authenticated, folded, oldest first.
//!
//! Objects that no key holder made are told apart from the rest and never acted on.

use crate::clock;
use crate::error::Result;
use chunkstore::id::{MarkId, SnapshotId};
use chunkstore::key::WriteKey;
use chunkstore::mark::{Action, Mark, State};
use chunkstore::snapshot::{Snapshot, Summary};
use chunkstore::store::Store;
use std::collections::{BTreeMap, HashMap};

/// One snapshot as it stands today.
#[derive(Clone, Debug)]
pub struct Version {
    pub id: SnapshotId,
    pub snapshot: Snapshot,
    pub state: State,
}

impl Version {
    pub fn summary(&self) -> &Summary {
        &self.snapshot.summary
    }

    pub fn is_forgotten(&self) -> bool {
        self.state.forgotten.is_some()
    }

    /// Until when a forgotten one can be brought back.
    pub fn recoverable_until(&self, grace_seconds: u64) -> Option<i64> {
        self.state.forgotten.map(|since| since.saturating_add(clock::span(grace_seconds)))
    }
}

/// A snapshot or a mark that is damaged, or that no key holder made.
#[derive(Debug)]
pub struct Damaged {
    pub object: String,
    /// If it is a snapshot.
    pub snapshot: Option<SnapshotId>,
    pub error: chunkstore::Error,
    /// It was forgotten in spite of it: nobody waits for it any more.
    pub given_up: bool,
}

#[derive(Default, Debug)]
pub struct History {
    /// Forgotten ones among them; by time, then id.
    pub versions: Vec<Version>,
    pub damaged: Vec<Damaged>,
    counter_max: u64,
}

impl History {
    /// `server` is the key of the one that keeps the repository: its words count too. Those of other servers are passed over.
    pub fn load(store: &dyn Store, key: &WriteKey, server: Option<[u8; 32]>) -> Result<History> {
        let mut history = History::default();
        let mut marks: HashMap<SnapshotId, Vec<(MarkId, Mark)>> = HashMap::new();
        for (id, mark) in store.marks()? {
            let checked = mark.and_then(|(mark, object)| match Mark::server(&object) {
                Some(by) => Ok((mark, server == Some(by))),
                None => Mark::authenticate(&object, key).map(|()| (mark, true)),
            });
            match checked {
                Ok((mark, false)) => history.counter_max = history.counter_max.max(mark.counter),
                Ok((mark, true)) => {
                    history.counter_max = history.counter_max.max(mark.counter);
                    marks.entry(mark.snapshot).or_default().push((id, mark));
                }
                Err(error) => {
                    let object = format!("mark {id}");
                    history.damaged.push(Damaged { object, snapshot: None, error, given_up: false });
                }
            }
        }
        for (id, snapshot) in store.snapshots()? {
            let marks = marks.remove(&id).unwrap_or_default();
            match snapshot.and_then(|snapshot| snapshot.authenticate(key).map(|()| snapshot)) {
                Ok(snapshot) => {
                    let state = State::fold(&snapshot.summary.labels, &marks);
                    history.versions.push(Version { id, snapshot, state });
                }
                Err(error) => {
                    let given_up = State::fold(&[], &marks).forgotten.is_some();
                    let object = format!("snapshot {id}");
                    history.damaged.push(Damaged { object, snapshot: Some(id), error, given_up });
                }
            }
        }
        history.versions.sort_by_key(|version| (version.summary().time, version.id));
        Ok(history)
    }

    /// Those that were not forgotten.
    pub fn present(&self) -> impl DoubleEndedIterator<Item = &Version> {
        self.versions.iter().filter(|version| !version.is_forgotten())
    }

    /// Present ones by dataset, each oldest first.
    pub fn datasets(&self) -> BTreeMap<&str, Vec<&Version>> {
        let mut datasets: BTreeMap<&str, Vec<&Version>> = BTreeMap::new();
        for version in self.present() {
            datasets.entry(&version.summary().dataset).or_default().push(version);
        }
        datasets
    }

    /// Stores a mark that comes after all that were seen.
    pub fn mark(&mut self, store: &dyn Store, key: &WriteKey, snapshot: SnapshotId, action: Action) -> Result<()> {
        let counter = self.counter_max.saturating_add(1);
        let repository = store.configuration().repository;
        let mark = Mark { repository, snapshot, action, counter, time: clock::now() };
        store.mark(&mark.encode(key))?;
        self.counter_max = counter;
        Ok(())
    }
}
