//! Back up: source, chunks, trees, snapshot.

mod given;

mod exclude;

mod names;

mod walk;

mod unchanged;

mod gate;

mod halt;

mod bases;

mod delta;

mod compression;

mod chunks;

mod bundle;

mod cut;

mod open;

mod read;

mod survey;

mod assemble;

mod pipeline;

mod stream;

mod saving;

pub mod special;

#[cfg(test)]
pub(crate) mod testing;

#[cfg(test)]
mod tests;

use crate::metadata::capture::Names;
use crate::monitor::Monitor;
use bundle::Slices;
use chunks::Chunks;
use chunkstore::chunker::Chunker;
use chunkstore::codec::Sealer;
use chunkstore::configuration::Configuration;
use chunkstore::id::{RunId, SnapshotId};
use chunkstore::key::WriteKey;
use chunkstore::snapshot::{Totals, Writer};
use chunkstore::store::Store;
use chunkstore::tree::{Attributes, Content, Entry, Node, Time, is_name};
use chunkstore::writer::{BlobWriter, TreeBuilder};
use chunkstore::{Error, Result};
pub use compression::Compression;
use compression::Pace;
use delta::Delta;
pub use delta::Deltas;
use exclude::Excludes;
use gate::Gate;
use given::Branch;
use halt::Halt;
use read::Reading;
use saving::{Account, Saving, fact};
use special::{Made, Tree};
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use unchanged::Place;

/// What every backup works with.
pub struct Context<'a> {
    pub store: &'a dyn Store,
    pub key: &'a WriteKey,
    pub writer: &'a Writer,
    pub monitor: &'a dyn Monitor,
    /// Where change caches live; they may be lost at any time.
    pub cache_dir: &'a Path,
    /// Where the repository lies, if it is local: like the cache, it changes meanwhile, and is saved as an empty directory.
    pub repository_dir: Option<&'a Path>,
    /// Whether new chunks that resemble stored ones become deltas.
    pub deltas: &'a Deltas,
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
    pub compression: Compression,
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

/// A program whose output is saved: watched while it is read, and judged at its end.
pub struct Producer<'a> {
    /// What messages call it.
    pub name: String,
    pub command: Command,
    /// Sees all bytes, in order.
    pub watch: &'a mut dyn FnMut(&[u8]),
    /// Told how it ended and what it complained of last; an error means that nothing is committed.
    pub judge: &'a mut dyn FnMut(ExitStatus, &[u8]) -> Result<Verdict>,
}

/// What a producer's output turned out to be.
#[derive(Default, Debug)]
pub struct Verdict {
    pub facts: Vec<(String, Vec<u8>)>,
    /// Each makes the snapshot incomplete; they were told to the monitor.
    pub problems: u64,
    /// Equal for equal contents where their bytes differ (a time in them, for instance).
    pub sameness: Option<[u8; 32]>,
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
    /// Of these: chunks that became deltas, their content, and the records they became.
    pub delta_chunks: u64,
    pub delta_content_bytes: u64,
    pub delta_bytes: u64,
    /// Items that could not be saved as they should; each was named to the monitor.
    pub problems: u64,
    pub elapsed: Duration,
}

/// Tells the monitor, and counts what could not be saved as it should.
struct Report<'a> {
    monitor: &'a dyn Monitor,
    problems: AtomicU64,
    /// Told later, or never: `None` if they are told at once.
    held: Mutex<Option<Vec<(Vec<u8>, String)>>>,
}

/// So many problems are held back; those after them are told at once.
const HELD_MAX: usize = 10_000;

impl<'a> Report<'a> {
    fn new(monitor: &'a dyn Monitor) -> Report<'a> {
        Report { monitor, problems: AtomicU64::new(0), held: Mutex::new(None) }
    }

    fn problem(&self, item: &[u8], reason: &str) {
        self.problems.fetch_add(1, Ordering::Relaxed);
        match self.held.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            Some(held) if held.len() < HELD_MAX => held.push((item.to_vec(), reason.to_owned())),
            _ => self.monitor.problem(item, reason),
        }
    }

    /// From now on problems are told only on [`Report::release`].
    fn hold(&self) {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_default();
    }

    fn release(&self) {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner).take();
        for (item, reason) in held.into_iter().flatten() {
            self.monitor.problem(&item, &reason);
        }
    }

    fn detail(&self, verb: &str, item: &[u8]) {
        self.monitor.detail(verb, item);
    }
}

/// Saves directory trees. Ends incomplete (problems > 0) rather than failing when some items cannot be read.
pub fn files(context: &Context<'_>, request: &Request, options: &FilesOptions) -> Result<Outcome> {
    Source::new(options)?;
    let made = special::compose(context, request, &|depot| {
        let walked = depot.walk(&Tree { options, prepared: Vec::new(), keep: None })?;
        Ok(Some(Made { walked, facts: Vec::new() }))
    })?;
    made.ok_or_else(|| Error::invalid("backup", "nothing was made"))
}

/// Saves a stream under `name` (a single file name), always reading it to the end.
pub fn stream(context: &Context<'_>, request: &Request, name: &OsString, source: StreamSource) -> Result<Outcome> {
    let saving = Saving::begin(context, request)?;
    save_stream(context, request, name.as_bytes(), &saving, &mut |reading| {
        let mut verdict = Verdict::default();
        if let StreamSource::Command(words) = &source {
            verdict.facts.push(fact("command", stream::program(words)));
        }
        Ok((stream::read(&source, reading)?, verdict))
    })
}

/// Saves what a program writes under `name` (a single file name), if it is judged to be whole.
pub fn produced(
    context: &Context<'_>,
    request: &Request,
    name: &OsString,
    mut producer: Producer<'_>,
) -> Result<Outcome> {
    let saving = Saving::begin(context, request)?;
    save_stream(context, request, name.as_bytes(), &saving, &mut |reading| stream::produce(&mut producer, reading))
}

/// What is to be saved, and what not.
struct Source<'a> {
    options: &'a FilesOptions,
    root: Branch,
    paths: Vec<Vec<u8>>,
    excludes: Excludes,
}

impl<'a> Source<'a> {
    fn new(options: &'a FilesOptions) -> Result<Source<'a>> {
        let mut paths = options.paths.clone();
        for list in &options.files_from {
            paths.extend(given::read_list(list)?);
        }
        if paths.is_empty() {
            return Err(Error::invalid("paths", "none is given"));
        }
        let current = std::env::current_dir().map_err(|error| Error::io("find", "the current directory", error))?;
        let (root, paths) = Branch::merge(&paths, &current)?;
        Ok(Source { options, root, paths, excludes: Excludes::new(options)? })
    }
}

fn save_stream(
    context: &Context<'_>,
    request: &Request,
    name: &[u8],
    saving: &Saving<'_>,
    read: &mut dyn FnMut(&Reading<'_>) -> Result<(Content, Verdict)>,
) -> Result<Outcome> {
    if !is_name(name) {
        return Err(Error::invalid(String::from_utf8_lossy(name), "it is not the name of a file"));
    }
    with_session(context, request, |session| {
        let names = Names::load();
        let reading = session.reading(&names);
        let (content, mut verdict) = read(&reading)?;
        let size = content.size();
        let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        let attributes = Attributes {
            mode: 0o600,
            uid,
            gid,
            user: names.user(uid).to_vec(),
            group: names.group(gid).to_vec(),
            modified: saving.started(),
            ..Attributes::default()
        };
        let entry = Entry { name: name.to_vec(), attributes, node: Node::File(content) };
        // Its time is that of the run; what is left tells whether there is anything new.
        let timeless =
            Entry { attributes: Attributes { modified: Time::default(), ..entry.attributes.clone() }, ..entry.clone() };
        let held = verdict.sameness.unwrap_or_else(|| *blake3::hash(&timeless.encode()).as_bytes());
        let configuration = context.store.configuration();
        let place = Place::new(context.cache_dir, &configuration.repository, &request.dataset, [0; 16]);
        let mut tree = TreeBuilder::new();
        let writer = session.chunks.writer;
        tree.push(name, &entry.encode(), &entry.links(), writer)?;
        let read_bytes = reading.read_bytes.load(Ordering::Relaxed);
        verdict.facts.push(fact("read.bytes", read_bytes));
        let account = Account {
            root: tree.finish(writer)?,
            totals: Totals { files: 1, content_bytes: size, ..Totals::default() },
            problems: session.report.problems.load(Ordering::Relaxed) + verdict.problems,
            paths: vec![name.to_vec()],
            facts: verdict.facts,
            is_latest: saving.latest().and_then(|latest| place.read_stream(&latest)) == Some(held),
        };
        context.monitor.counters().files_done.fetch_add(1, Ordering::Relaxed);
        let outcome = saving.finish(writer, account, Outcome { files_new: 1, read_bytes, ..Outcome::default() })?;
        if let Some(snapshot) = outcome.snapshot {
            place.write_stream(&snapshot, &held);
        }
        Ok(outcome)
    })
}

/// What every way of saving works with.
struct Session<'a> {
    report: &'a Report<'a>,
    chunker: &'a Chunker,
    chunks: &'a Chunks<'a>,
}

impl<'a> Session<'a> {
    fn reading(&self, names: &'a Names) -> Reading<'a> {
        let configuration = self.chunks.gate.configuration();
        Reading {
            names,
            report: self.report,
            chunker: self.chunker,
            chunks: self.chunks,
            inline_bytes_max: u64::from(configuration.inline_bytes_max),
            bundled_bytes_max: bundled_bytes_max(configuration),
            slices: Slices::default(),
            read_bytes: AtomicU64::new(0),
        }
    }
}

/// The longest chunk, as it is by default: what is larger gains nothing that counts.
fn bundled_bytes_max(configuration: &Configuration) -> u64 {
    if configuration.slices { 4 * u64::from(configuration.chunk_sizes.average) } else { 0 }
}

fn with_session<T>(
    context: &Context<'_>,
    request: &Request,
    save: impl FnOnce(&Session<'_>) -> Result<T>,
) -> Result<T> {
    let gate = Gate::new(context.store, request.upload_bytes_per_second, request.dry_run, context.interrupted);
    let writer = BlobWriter::new(&gate, Sealer::new(context.key, gate.configuration())?);
    let halt = Halt::new(context.interrupted);
    let report = Report::new(context.monitor);
    let chunker = Chunker::new(context.key, gate.configuration().chunk_sizes);
    // A delta is a way to compress.
    let deltas = if request.compression.is_none() { &Deltas::Off } else { context.deltas };
    let delta = Delta::new(deltas, context.key, context.cache_dir, request.dry_run);
    let pace = Pace::new(request.compression, &writer.sealer);
    let chunks = Chunks { writer: &writer, gate: &gate, halt: &halt, delta: &delta, pace: &pace };
    let outcome = save(&Session { report: &report, chunker: &chunker, chunks: &chunks });
    // After a failure too: what was stored by then is there for the next run.
    delta.finish();
    outcome
}
