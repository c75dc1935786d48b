//! One snapshot of two parts: what a source stores itself, first, and the tree around it, walked afterwards.
//!
//! A source (a storage, a tracker) is called with a [`Depot`]: it stores its database through it, walks the files that belong to
//! it, compares what was found with what should be there, and says what is to be said. Only then there is a snapshot. If the
//! source finds that everything changed under its hands it gives up, and the caller begins again.

use super::assemble::{Assembled, Assembler};
use super::cut::Cutter;
use super::given::Branch;
use super::read::{Reading, Saved, Verb};
use super::saving::{Account, Saving, fact};
use super::survey::Survey;
use super::unchanged::frame::{KEY_LEN, Key};
use super::unchanged::{CacheWriter, Place};
use super::walk::{Rules, Walk};
use super::{
    Context, FilesOptions, Outcome, Producer, Request, Session, Source, StreamSource, Verdict, pipeline, stream,
    with_session,
};
use crate::metadata::capture::{self, Names, Stat};
use chunkstore::id::BlobId;
use chunkstore::tree::{Attributes, Content, Entry, Node};
use chunkstore::writer::ListBuilder;
use chunkstore::{Error, Result};
use rustix::fs::FileType;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::atomic::Ordering;

pub use super::walk::Keep;

/// A file as its source stored it: saved under its path instead of whatever lies there, or where nothing does. The
/// directory must exist, unless it is below a directory that is left out anyway.
pub struct Prepared {
    /// Absolute.
    pub path: PathBuf,
    pub attributes: Attributes,
    pub content: Content,
}

/// What is walked.
pub struct Tree<'a> {
    pub options: &'a FilesOptions,
    pub prepared: Vec<Prepared>,
    /// What of the listed is wanted, beside what the options leave out.
    pub keep: Option<&'a Keep<'a>>,
}

/// What a walk came to.
pub struct Walked {
    assembled: Assembled,
    paths: Vec<Vec<u8>>,
    excludes: Vec<String>,
}

/// A stored content that may grow.
pub struct Grown {
    pub content: Content,
    pub growing: ListBuilder,
}

/// What a source says at its end.
pub struct Made {
    pub walked: Walked,
    /// Keys are printable ASCII; those of a walk are added.
    pub facts: Vec<(String, Vec<u8>)>,
}

/// A source's way into the repository. What it stores is part of no snapshot yet.
pub struct Depot<'a> {
    context: &'a Context<'a>,
    request: &'a Request,
    session: &'a Session<'a>,
    reading: Reading<'a>,
    place: &'a Place,
    cache: Option<&'a mut CacheWriter>,
    trust: bool,
}

/// Calls a source and commits what it made. `None` if it gave up: nothing is committed, and no problem it told is known.
///
/// The source may be called twice.
pub fn compose(
    context: &Context<'_>,
    request: &Request,
    make: &dyn Fn(&mut Depot<'_>) -> Result<Option<Made>>,
) -> Result<Option<Outcome>> {
    let saving = Saving::begin(context, request)?;
    if let Some(expected) = saving.expected() {
        let counters = context.monitor.counters();
        counters.files_total.store(expected.files + expected.others, Ordering::Relaxed);
        counters.bytes_total.store(expected.content_bytes, Ordering::Relaxed);
    }
    match attempt(context, request, &saving, true, make) {
        // Something that the change cache names has gone although nothing told of it: once more, asking for everything.
        Err(Error::Missing { .. }) => attempt(context, request, &saving, false, make),
        outcome => outcome,
    }
}

fn attempt(
    context: &Context<'_>,
    request: &Request,
    saving: &Saving<'_>,
    trust: bool,
    make: &dyn Fn(&mut Depot<'_>) -> Result<Option<Made>>,
) -> Result<Option<Outcome>> {
    let store = context.store;
    let repository = store.configuration().repository;
    let place = Place::new(context.cache_dir, &repository, &request.dataset, store.generation()?);
    let mut cache = if request.dry_run { None } else { place.write() };
    let outcome = with_session(context, request, |session| {
        let names = Names::load();
        let reading = session.reading(&names);
        let mut depot = Depot { context, request, session, reading, place: &place, cache: cache.as_mut(), trust };
        let made = make(&mut depot);
        if !matches!(made, Ok(None)) {
            session.report.release();
        }
        made?.map(|made| finish(&depot, saving, made)).transpose()
    });
    match (cache, &outcome) {
        (None, _) => (),
        (Some(cache), Ok(Some(_))) => place.commit(cache),
        (Some(cache), Ok(None) | Err(_)) => {
            // What was stored helps the next run if it lasts; the error at hand says more than one of this.
            let _ = store.flush();
            place.abandon(cache);
        }
    }
    outcome
}

fn finish(depot: &Depot<'_>, saving: &Saving<'_>, made: Made) -> Result<Outcome> {
    let Made { walked: Walked { assembled, paths, excludes }, mut facts } = made;
    let outcome = Outcome {
        files_new: assembled.files_new,
        files_changed: assembled.files_changed,
        files_unchanged: assembled.files_unchanged,
        read_bytes: depot.reading.read_bytes.load(Ordering::Relaxed),
        ..Outcome::default()
    };
    facts.extend([
        fact("files.new", outcome.files_new),
        fact("files.changed", outcome.files_changed),
        fact("files.unchanged", outcome.files_unchanged),
        fact("read.bytes", outcome.read_bytes),
    ]);
    if !excludes.is_empty() {
        facts.push(fact("excludes", excludes.join("\n")));
    }
    let account = Account {
        root: assembled.root,
        totals: assembled.totals,
        problems: depot.session.report.problems.load(Ordering::Relaxed),
        paths,
        facts,
        is_latest: false,
    };
    saving.finish(depot.session.chunks.writer, account, outcome)
}

impl Depot<'_> {
    /// Nothing is stored: what is named does not exist.
    pub fn is_dry(&self) -> bool {
        self.request.dry_run
    }

    /// An error if it is time to stop.
    pub fn check(&self) -> Result<()> {
        self.session.chunks.halt.check()
    }

    /// Something is not saved as it should be; the snapshot will be incomplete.
    pub fn problem(&self, item: &[u8], reason: &str) {
        self.session.report.problem(item, reason);
    }

    /// Problems are told only when the source has not given up.
    pub fn hold_problems(&self) {
        self.session.report.hold();
    }

    /// What the kernel says of an open file, and the attributes it is saved with.
    pub fn attributes(&self, path: &[u8], file: &File) -> Result<(Stat, Attributes)> {
        let stat = Stat::of(file.as_fd()).map_err(|error| Error::io("read", String::from_utf8_lossy(path), error))?;
        let place = capture::Place::Open(file.as_fd());
        let attributes = capture::attributes(place, &stat, self.reading.names, &mut |what, error| {
            self.problem(path, &format!("{} cannot be read: {error}", String::from_utf8_lossy(what)));
        });
        Ok((stat, attributes))
    }

    /// Stores an open file as it is now, up to its end; nobody may be changing it. `name` is for people.
    pub fn file(&self, name: &str, file: &File) -> Result<Content> {
        stream::read_file(name, file, &self.reading)
    }

    /// Stores a content from `read`, which fills the front of a buffer and answers 0 at the end, after a part of it that
    /// was stored before. The answer says what to go on with when it has grown: no more than `again_max` bytes before its end are to
    /// be read again then.
    pub fn grow(
        &self,
        begun: ListBuilder,
        again_max: u64,
        read: &mut dyn FnMut(&mut [u8]) -> Result<usize>,
    ) -> Result<Grown> {
        let chunks = self.session.chunks;
        pipeline::with_workers(chunks, |storing| {
            let mut spare = Vec::new();
            let mut cutter = Cutter::new(self.session.chunker, chunks, storing, &mut spare).after(begun);
            let mut failure = None;
            let outcome = cutter.data(u64::MAX, &mut |buffer| self.read_for(buffer, read, &mut failure))?;
            outcome.map_err(|error| failure.unwrap_or_else(|| Error::io("read", "a content", error)))?;
            let (content, growing) = cutter.finish_growing(again_max)?;
            Ok(Grown { content, growing })
        })
    }

    /// Stores a content that will not be gone on with, from such a `read`.
    pub fn content(&self, name: &str, read: &mut dyn FnMut(&mut [u8]) -> Result<usize>) -> Result<Content> {
        let mut failure = None;
        let stored = stream::cut_from(name, &self.reading, &mut |buffer| self.read_for(buffer, read, &mut failure));
        stored.map_err(|error| failure.unwrap_or(error))
    }

    /// Calls `read` for who knows errors of the system only; keeps the one that it gave.
    fn read_for(
        &self,
        buffer: &mut [u8],
        read: &mut dyn FnMut(&mut [u8]) -> Result<usize>,
        failure: &mut Option<Error>,
    ) -> io::Result<usize> {
        let outcome = self.check().and_then(|()| read(buffer));
        outcome.inspect(|len| self.count_bytes(*len as u64)).map_err(|error| {
            *failure = Some(error);
            io::Error::other("it cannot be read")
        })
    }

    /// Bytes that are done with, for whoever watches.
    pub fn count_bytes(&self, len: u64) {
        self.context.monitor.counters().bytes_done.fetch_add(len, Ordering::Relaxed);
    }

    /// What is remembered from the last run may be relied on as long as the store's generation is the same.
    pub fn trusts(&self) -> bool {
        self.trust
    }

    /// Bytes that a source read by itself.
    pub fn count_read(&self, len: u64) {
        self.reading.read_bytes.fetch_add(len, Ordering::Relaxed);
    }

    /// Small contents lie in their entry: up to so many bytes.
    pub fn inline_bytes_max(&self) -> u64 {
        self.reading.inline_bytes_max
    }

    /// Whether all these blobs are stored, with all that they link to.
    pub fn are_present(&self, ids: &[BlobId]) -> Result<bool> {
        Ok(self.context.store.present(ids)?.into_iter().all(|present| present))
    }

    /// Stores what a program writes, if it is judged to be whole.
    pub fn produce(&self, producer: &mut Producer<'_>) -> Result<(Content, Verdict)> {
        stream::produce(producer, &self.reading)
    }

    /// Stores what comes out of a pipe; a command that fails is an error.
    pub fn stream(&self, source: &StreamSource) -> Result<Content> {
        stream::read(source, &self.reading)
    }

    /// Walks what there is, with what was stored before. At the end of it nothing is committed yet.
    pub fn walk(&mut self, tree: &Tree<'_>) -> Result<Walked> {
        let source = Source::new(tree.options)?;
        self.walk_source(source, tree)
    }

    pub(super) fn walk_source(&mut self, source: Source<'_>, tree: &Tree<'_>) -> Result<Walked> {
        let Source { options, mut root, paths, excludes } = source;
        let prepared = prepare(&tree.prepared, &mut root)?;
        let report = self.session.report;
        let halt = self.session.chunks.halt;
        let own = [Some(self.context.cache_dir), self.context.repository_dir].into_iter().flatten();
        let rules = Rules::new(&excludes, tree.keep, options.one_file_system, own);
        let walk = Walk::new(&root, rules, report);
        let unchanged = self.place.read(self.context.store, self.trust);
        let reading = &self.reading;
        let assembler = Assembler::new(self.session.chunks.writer, report, halt, self.cache.as_deref_mut());
        let (assembled, found) = pipeline::run(reading, assembler, |outlets| {
            Survey::new(walk, unchanged, reading, outlets).with_prepared(&prepared)
        })?;
        if found == 0 {
            return Err(Error::invalid("paths", "none of those given exists"));
        }
        Ok(Walked { assembled, paths, excludes: options.excludes.clone() })
    }
}

/// Makes ways to what was stored, and of each what the assembly takes.
fn prepare(prepared: &[Prepared], root: &mut Branch) -> Result<Vec<Saved>> {
    let mut all = Vec::with_capacity(prepared.len());
    for (at, Prepared { path, attributes, content }) in prepared.iter().enumerate() {
        root.prepare(path.as_os_str().as_bytes(), at)?;
        let Some(name) = path.file_name() else {
            return Err(Error::invalid(path.to_string_lossy(), "it is not the name of a file"));
        };
        let size = content.size();
        let node = Node::File(content.clone());
        let entry = Entry { name: name.as_bytes().to_vec(), attributes: attributes.clone(), node };
        let encoded = entry.encode();
        all.push(Saved {
            links: entry.links(),
            name: entry.name,
            key: key_of(attributes.mode, size, &encoded),
            entry: encoded,
            usable: true,
            verb: Verb::New,
            file_type: FileType::RegularFile,
            size,
            shared: false,
        });
    }
    Ok(all)
}

/// Stands where a file's state stands in the change cache: begins as that does with type, permissions and size; the rest is a
/// hash of all that the entry says.
fn key_of(mode: u32, size: u64, entry: &[u8]) -> Key {
    let mode = FileType::RegularFile.as_raw_mode() | mode;
    let mut key = [0; KEY_LEN];
    let mut hash = blake3::Hasher::new().update(entry).finalize_xof();
    hash.fill(&mut key);
    for (to, from) in key.iter_mut().zip(mode.to_le_bytes().into_iter().chain(size.to_le_bytes())) {
        *to = from;
    }
    key
}
