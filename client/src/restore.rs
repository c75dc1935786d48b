//! Restore: snapshot, plan, read in storage order, write, attributes.

use crate::monitor::Monitor;
use chunkstore::Result;
use chunkstore::id::BlobId;
use chunkstore::reader::Reader;
use chunkstore::tree::Entry;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

/// What is restored.
pub enum Selection {
    /// All of a snapshot: its top-level names appear below the target.
    Root(BlobId),
    /// One entry: a directory's contents appear below the target, which takes its attributes; anything else appears
    /// in the target under its own name.
    Entry(Box<Entry>),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Overwrite {
    /// Compare contents; write what differs.
    Always,
    /// Leave files whose size and modification time agree unread.
    IfChanged,
    /// Leave whatever exists.
    Never,
}

pub struct Options {
    pub target: PathBuf,
    pub delete: bool,
    pub overwrite: Overwrite,
    pub dry_run: bool,
    /// Read back and compare every restored file afterwards.
    pub verify: bool,
    /// False leaves out setuid bits, devices and `security.*`, `trusted.*` attributes.
    pub special: bool,
}

#[derive(Default, Debug)]
pub struct Outcome {
    pub files: u64,
    pub directories: u64,
    pub others: u64,
    /// Entries that were already right.
    pub unchanged: u64,
    pub deleted: u64,
    /// Bytes of content written, and those found in place.
    pub written_bytes: u64,
    pub kept_bytes: u64,
    pub verified_files: u64,
    pub problems: u64,
    pub elapsed: Duration,
}

/// Restores a selection below the target. No path leaves the target and no symlink is followed, whatever the
/// repository or the target hold. Missing or damaged content fails its file, by name, and nothing else.
pub fn files(
    reader: &Reader,
    selection: &Selection,
    options: &Options,
    monitor: &dyn Monitor,
    interrupted: &AtomicBool,
) -> Result<Outcome> {
    let _ = (reader, selection, options, monitor, interrupted);
    todo!()
}
