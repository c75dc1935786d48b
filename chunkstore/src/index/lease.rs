//! What sessions rely on while a collection runs beside them (`docs/concurrency.md`, "Collecting beside backups").
//!
//! A lease holds the blobs that its session was told are known, and all that was stored since it began. It and the decision
//! what is to go take the same lock, so that an answer is either held before that decision or given after it.

use super::numbers::Numbers;
use super::{Index, State};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A session's hold on blobs, until it is released.
pub struct Lease {
    /// Blobs numbered from here on were not in the index before it began.
    pub(super) from: i64,
    numbers: Mutex<Numbers>,
}

impl Lease {
    pub(super) fn add(&self, no: i64) {
        if no < self.from {
            self.numbers().insert(no);
        }
    }

    pub(super) fn numbers(&self) -> MutexGuard<'_, Numbers> {
        self.numbers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is to go: all numbers up to `last` that are not in `live`. Until it is gone, nothing of it is known.
pub struct Condemned {
    pub live: Numbers,
    pub last: i64,
}

impl Condemned {
    pub fn contains(&self, no: i64) -> bool {
        no <= self.last && !self.live.contains(no)
    }
}

pub(super) fn goes(condemned: Option<&Condemned>, no: i64) -> bool {
    condemned.is_some_and(|condemned| condemned.contains(no))
}

impl State {
    pub(super) fn is_condemned(&self, no: i64) -> bool {
        goes(self.condemned.as_deref(), no)
    }
}

impl Index {
    /// Holds all that is numbered from `from` on; None: all that is numbered from now on.
    pub fn lease(&self, from: Option<i64>) -> Arc<Lease> {
        let mut state = self.lock();
        let from = from.unwrap_or_else(|| state.next.get());
        let lease = Arc::new(Lease { from, numbers: Mutex::default() });
        state.leases.push(Arc::clone(&lease));
        lease
    }

    /// The number of the next blob.
    pub fn next_number(&self) -> i64 {
        self.lock().next.get()
    }

    /// Whether anyone relies on what this index said.
    pub fn has_leases(&self) -> bool {
        !self.lock().leases.is_empty()
    }

    /// A collection that is under way goes on respecting it to its end.
    pub fn release(&self, lease: &Arc<Lease>) {
        let mut state = self.lock();
        if !state.collecting {
            state.leases.retain(|other| !Arc::ptr_eq(other, lease));
        } else {
            state.released.push(Arc::clone(lease));
        }
    }
}
