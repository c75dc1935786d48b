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

mod chunks;

mod cut;

mod read;

mod survey;

mod assemble;

mod pipeline;

mod stream;

mod saving;

#[cfg(test)]
mod testing;

#[cfg(test)]
mod tests;

use crate::metadata::capture::Names;
use crate::monitor::Monitor;
use assemble::Assembler;
use chunks::Chunks;
use chunkstore::chunker::Chunker;
use chunkstore::codec::Sealer;
use chunkstore::id::{RunId, SnapshotId};
use chunkstore::key::WriteKey;
use chunkstore::snapshot::{Totals, Writer};
use chunkstore::store::Store;
use chunkstore::tree::{Attributes, Entry, Node, Time, is_name};
use chunkstore::writer::{BlobWriter, TreeBuilder};
use chunkstore::{Error, Result};
use delta::Delta;
pub use delta::Deltas;
use exclude::Excludes;
use gate::Gate;
use given::Branch;
use halt::Halt;
use read::Reading;
use saving::{Account, Saving, fact};
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use survey::Survey;
use unchanged::Place;
use walk::Walk;

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
    let source = Source::new(options)?;
    let saving = Saving::begin(context, request)?;
    if let Some(expected) = saving.expected() {
        let counters = context.monitor.counters();
        counters.files_total.store(expected.files + expected.others, Ordering::Relaxed);
        counters.bytes_total.store(expected.content_bytes, Ordering::Relaxed);
    }
    match save_files(context, request, &source, &saving, true) {
        // Something that the change cache names has gone although nothing told of it: once more, asking for everything.
        Err(Error::Missing { .. }) => save_files(context, request, &source, &saving, false),
        outcome => outcome,
    }
}

/// Saves a stream under `name` (a single file name), always reading it to the end.
pub fn stream(context: &Context<'_>, request: &Request, name: &OsString, source: StreamSource) -> Result<Outcome> {
    let saving = Saving::begin(context, request)?;
    save_stream(context, request, name.as_bytes(), &source, &saving)
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

    fn facts(&self, outcome: &Outcome) -> Vec<(String, Vec<u8>)> {
        let mut facts = vec![
            fact("files.new", outcome.files_new),
            fact("files.changed", outcome.files_changed),
            fact("files.unchanged", outcome.files_unchanged),
            fact("read.bytes", outcome.read_bytes),
        ];
        if !self.options.excludes.is_empty() {
            facts.push(fact("excludes", self.options.excludes.join("\n")));
        }
        facts
    }
}

fn save_files(
    context: &Context<'_>,
    request: &Request,
    source: &Source<'_>,
    saving: &Saving<'_>,
    trust: bool,
) -> Result<Outcome> {
    let store = context.store;
    let repository = store.configuration().repository;
    let place = Place::new(context.cache_dir, &repository, &request.dataset, store.generation()?);
    let mut cache = if request.dry_run { None } else { place.write() };
    let outcome = with_session(context, request, |session| {
        let mut walk = Walk::new(&source.root, &source.excludes, source.options.one_file_system, session.report)
            .without(context.cache_dir);
        if let Some(own) = context.repository_dir {
            walk = walk.without(own);
        }
        let unchanged = place.read(store, trust);
        let names = Names::load();
        let reading = session.reading(&names);
        let assembler = Assembler::new(session.chunks.writer, session.report, session.chunks.halt, cache.as_mut());
        let (assembled, found) = pipeline::run(&reading, assembler, |outlets| {
            Survey::new(walk, unchanged, &names, session.report, session.chunks.halt, outlets)
        })?;
        if found == 0 {
            return Err(Error::invalid("paths", "none of those given exists"));
        }
        let outcome = Outcome {
            files_new: assembled.files_new,
            files_changed: assembled.files_changed,
            files_unchanged: assembled.files_unchanged,
            read_bytes: reading.read_bytes.load(Ordering::Relaxed),
            ..Outcome::default()
        };
        let account = Account {
            root: assembled.root,
            totals: assembled.totals,
            problems: session.report.problems.load(Ordering::Relaxed),
            paths: source.paths.clone(),
            facts: source.facts(&outcome),
            is_latest: false,
        };
        saving.finish(session.chunks.writer, account, outcome)
    });
    match (cache, &outcome) {
        (None, _) => (),
        (Some(cache), Ok(_)) => place.commit(cache),
        (Some(cache), Err(_)) => {
            // What was stored helps the next run if it lasts; the error at hand says more than one of this.
            let _ = store.flush();
            place.abandon(cache);
        }
    }
    outcome
}

fn save_stream(
    context: &Context<'_>,
    request: &Request,
    name: &[u8],
    source: &StreamSource,
    saving: &Saving<'_>,
) -> Result<Outcome> {
    if !is_name(name) {
        return Err(Error::invalid(String::from_utf8_lossy(name), "it is not the name of a file"));
    }
    with_session(context, request, |session| {
        let names = Names::load();
        let reading = session.reading(&names);
        let content = stream::read(source, &reading)?;
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
        let held = *blake3::hash(&timeless.encode()).as_bytes();
        let configuration = context.store.configuration();
        let place = Place::new(context.cache_dir, &configuration.repository, &request.dataset, [0; 16]);
        let mut tree = TreeBuilder::new();
        let writer = session.chunks.writer;
        tree.push(name, &entry.encode(), &entry.links(), writer)?;
        let read_bytes = reading.read_bytes.load(Ordering::Relaxed);
        let mut facts = vec![saving::fact("read.bytes", read_bytes)];
        if let StreamSource::Command(words) = source {
            facts.push(saving::fact("command", stream::program(words)));
        }
        let account = Account {
            root: tree.finish(writer)?,
            totals: Totals { files: 1, content_bytes: size, ..Totals::default() },
            problems: session.report.problems.load(Ordering::Relaxed),
            paths: vec![name.to_vec()],
            facts,
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
            read_bytes: AtomicU64::new(0),
        }
    }
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
    let delta = Delta::new(context.deltas, context.key, context.cache_dir, request.dry_run);
    let chunks = Chunks { writer: &writer, gate: &gate, halt: &halt, delta: &delta };
    let outcome = save(&Session { report: &report, chunker: &chunker, chunks: &chunks });
    // After a failure too: what was stored by then is there for the next run.
    delta.finish();
    outcome
}
