//! What two sites need to keep a repository equal (`docs/replication.md`), without I/O and without a clock: the rules of merging, the
//! walk that brings a snapshot over, and how fast it may.

mod pace;

mod round;

mod transfer;

#[cfg(test)]
mod simulation;

#[cfg(test)]
mod tests;

pub use pace::{Limit, Pace};
pub use round::{Answer, Described, End, Lag, Request, Round};
pub use transfer::{Action, Transfer, healing_order};

use chunkstore::id::MarkId;
use chunkstore::mark::{self, Mark, State};
use std::collections::BTreeSet;

/// Whether a site that does not have a snapshot wants it, by the marks about it that it has. Their order means nothing.
pub fn is_wanted(marks: &[(MarkId, Mark)]) -> bool {
    let state = State::fold(&[], marks);
    state.pinned || state.forgotten.is_none()
}

/// Whether a mark takes something away: what a lagging site applies late.
pub fn takes_away(action: &mark::Action) -> bool {
    matches!(action, mark::Action::Forget | mark::Action::Unpin | mark::Action::RemoveLabel(_))
}

/// What only the one has, and what only the other has.
pub fn difference<T: Ord + Clone>(one: &BTreeSet<T>, other: &BTreeSet<T>) -> (Vec<T>, Vec<T>) {
    (one.difference(other).cloned().collect(), other.difference(one).cloned().collect())
}

/// Stands for sets of names: each set in ascending order.
pub fn digest<'a>(sets: impl IntoIterator<Item = &'a [Vec<u8>]>) -> [u8; 32] {
    let mut hash = blake3::Hasher::new_derive_key("nightkeep v1 names");
    for names in sets {
        hash.update(&(names.len() as u64).to_le_bytes());
        for name in names {
            hash.update(name);
        }
    }
    *hash.finalize().as_bytes()
}
