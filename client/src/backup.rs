//! Back up: source, chunks, trees, snapshot.

mod exclude;
mod given;
mod names;
#[cfg(test)]
mod testing;
mod unchanged;
mod walk;

use crate::monitor::Monitor;
use chunkstore::Result;
use chunkstore::id::{RunId, SnapshotId};
use chunkstore::key::WriteKey;
use chunkstore::snapshot::{Totals, Writer};
use chunkstore::store::Store;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// What every backup works with.
pub struct Context<'a> {
    pub store: &'a dyn Store,
    pub key: &'a WriteKey,
    pub writer: &'a Writer,
    pub monitor: &'a dyn Monitor,
    /// Where change caches live; they may be lost at any time.
    pub cache_dir: &'a Path,
    /// Set by a signal: stop soon, commit nothing, leave what was stored for the next run. The result is `Error::Interrupted`.
    pub interrupted: &'a AtomicBool,
}

/// Which snapshot is to be made.
pub struct Request {
    pub run: RunId,
    /// `HOST/KIND/NAME`
    pub dataset: String,
    pub host: String,
    pub labels: Vec<String>,
    pub dry_run: bool,
    /// No snapshot if its root equals that of the dataset's latest.
    pub skip_if_unchanged: bool,
    /// Bytes a second of new records.
    pub upload_bytes_per_second: Option<u64>,
}

#[derive(Default)]
pub struct FilesOptions {
    pub paths: Vec<PathBuf>,
    pub excludes: Vec<String>,
    pub exclude_files: Vec<PathBuf>,
    pub exclude_caches: bool,
    pub exclude_if_present: Vec<OsString>,
    pub one_file_system: bool,
    pub exclude_larger_than: Option<u64>,
    /// One path a line, or separated by NUL if the file holds one; `-` is standard input.
    pub files_from: Vec<PathBuf>,
}

pub enum StreamSource {
    Stdin,
    /// Program and arguments; committed only if it exits 0.
    Command(Vec<OsString>),
}

#[derive(Default, Debug)]
pub struct Outcome {
    /// None for a dry run or an unchanged source.
    pub snapshot: Option<SnapshotId>,
    pub totals: Totals,
    pub files_new: u64,
    pub files_changed: u64,
    pub files_unchanged: u64,
    /// Bytes of content that were read from the source.
    pub read_bytes: u64,
    /// Bytes of content that were not known before, and of the records they became.
    pub new_bytes: u64,
    pub added_bytes: u64,
    /// Items that could not be saved as they should; each was named to the monitor.
    pub problems: u64,
    pub elapsed: Duration,
}

/// Tells the monitor, and counts what could not be saved as it should.
struct Report<'a> {
    monitor: &'a dyn Monitor,
    problems: AtomicU64,
}

impl<'a> Report<'a> {
    fn new(monitor: &'a dyn Monitor) -> Report<'a> {
        Report { monitor, problems: AtomicU64::new(0) }
    }

    fn problem(&self, item: &[u8], reason: &str) {
        self.problems.fetch_add(1, Ordering::Relaxed);
        self.monitor.problem(item, reason);
    }

    fn detail(&self, verb: &str, item: &[u8]) {
        self.monitor.detail(verb, item);
    }
}

/// Saves directory trees. Ends incomplete (problems > 0) rather than failing when some items cannot be read.
pub fn files(context: &Context<'_>, request: &Request, options: &FilesOptions) -> Result<Outcome> {
    let _ = (context, request, options);
    todo!()
}

/// Saves a stream under `name` (a single file name), always reading it to the end.
pub fn stream(context: &Context<'_>, request: &Request, name: &OsString, source: StreamSource) -> Result<Outcome> {
    let _ = (context, request, name, source);
    todo!()
}
