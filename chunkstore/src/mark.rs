//! Later words about a snapshot: forgotten, pinned, labelled (`docs/format.md`, section 11). Grow-only; merged by union.

use crate::error::Result;
use crate::id::{MarkId, RepositoryId, SnapshotId};
use crate::key::WriteKey;
use std::collections::BTreeSet;

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    Forget,
    Undelete,
    Pin,
    Unpin,
    AddLabel(String),
    RemoveLabel(String),
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mark {
    pub repository: RepositoryId,
    pub snapshot: SnapshotId,
    pub action: Action,
    pub counter: u64,
    /// Nanoseconds since 1970.
    pub time: i64,
}

impl Mark {
    /// The object, authenticated.
    pub fn encode(&self, key: &WriteKey) -> Vec<u8> {
        let _ = key;
        todo!()
    }

    /// Form only: needs no key.
    pub fn parse(bytes: &[u8], repository: &RepositoryId) -> Result<(MarkId, Mark)> {
        let _ = (bytes, repository);
        todo!()
    }

    pub fn authenticate(bytes: &[u8], key: &WriteKey) -> Result<()> {
        let _ = (bytes, key);
        todo!()
    }
}

/// A snapshot's state: the fold of its marks.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct State {
    /// When it was forgotten, unless it was brought back since.
    pub forgotten: Option<i64>,
    pub pinned: bool,
    pub labels: BTreeSet<String>,
}

impl State {
    /// `labels` are the snapshot's own; `marks` are those of this snapshot in any order.
    pub fn fold(labels: &[String], marks: &[(MarkId, Mark)]) -> State {
        let _ = (labels, marks);
        todo!()
    }
}
