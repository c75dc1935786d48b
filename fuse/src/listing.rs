//! What a mount shows: snapshots, as whoever knows them lists them.

use chunkstore::id::{Reference, RunId, SnapshotId};
use chunkstore::reader::Reader;
use std::sync::Arc;

/// One snapshot. Names are made by the caller, who knows the time zone and the kinds of datasets.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Shown {
    pub id: SnapshotId,
    pub run: RunId,
    /// `HOST/KIND/NAME`
    pub dataset: String,
    /// Nanoseconds since 1970.
    pub time: i64,
    pub root: Reference,
    /// What it is called among those of its dataset.
    pub name: String,
    /// The same to the nanosecond, for when another has that name.
    pub exact_name: String,
    /// What its only file is called among the dumps.
    pub dump_name: Option<String>,
}

#[derive(Clone, Default, Debug)]
pub struct Listing {
    pub snapshots: Vec<Shown>,
    /// What the repository takes where it lies.
    pub stored_bytes: u64,
}

/// What changed since the last look.
pub struct Fresh {
    pub listing: Listing,
    /// Another reader, if the one before does not see the new snapshots.
    pub reader: Option<Arc<Reader>>,
}
