//! One file on its way into the target, and the batch that bounds how many are on their way at once.

use super::target::{Directory, Identity};
use chunkstore::list::Slice;
use chunkstore::tree::{Attributes, Content, Node};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// What a batch holds at most: pieces of content, files and finished directories, bytes of content that is to be read, bytes
/// that entries brought with them (small contents, extended attributes).
const SPANS_MAX: usize = 64 << 10;
const ENTRIES_MAX: usize = 16 << 10;
const BYTES_MAX: u64 = 1 << 30;
const HELD_BYTES_MAX: usize = 32 << 20;

/// How a job begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Start {
    /// What is there goes first.
    Create { replace: bool },
    /// A file is there; content that differs is written.
    Update,
    /// The content that is there is taken as right. With `check` it is compared nevertheless, to be told.
    Keep { check: bool },
}

/// Anything but a directory.
pub struct Job {
    pub place: Arc<Place>,
    pub attributes: Attributes,
    /// The content of a small file included; one that comes in spans is empty here.
    pub node: Node,
    pub size: u64,
    pub start: Start,
    /// Whether spans of the content are part of the batches, this one or later ones.
    pub has_spans: bool,
    /// What existed was changed, or would be in a dry run.
    pub touched: AtomicBool,
    pub finished: AtomicBool,
    pub written: AtomicU64,
    /// Of its size: what the monitor's counters hold already.
    pub counted: AtomicU64,
    /// Held while the file is replaced by a copy.
    pub renewing: Mutex<()>,
}

/// Where a job's file is, and what became of it: all that later names of the same file need to know.
pub struct Place {
    pub directory: Arc<Directory>,
    pub name: Box<[u8]>,
    /// The inode, once there is one that this run created or found.
    identity: Mutex<Option<Identity>>,
    failure: Mutex<Option<String>>,
}

impl Place {
    pub fn new(directory: Arc<Directory>, name: &[u8]) -> Place {
        Place { directory, name: Box::from(name), identity: Mutex::new(None), failure: Mutex::new(None) }
    }

    pub fn path(&self) -> Vec<u8> {
        self.directory.path_of(&self.name)
    }

    pub fn identity(&self) -> Option<Identity> {
        *self.identity.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn set_identity(&self, identity: Identity) {
        *self.identity.lock().unwrap_or_else(PoisonError::into_inner) = Some(identity);
    }

    /// The first reason stays.
    pub fn fail(&self, reason: impl ToString) {
        let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        failure.get_or_insert_with(|| reason.to_string());
    }

    pub fn failure(&self) -> Option<String> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn has_failed(&self) -> bool {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }
}

impl Job {
    pub fn is_created(&self) -> bool {
        matches!(self.start, Start::Create { .. })
    }

    pub fn is_compared(&self) -> bool {
        matches!(self.start, Start::Update | Start::Keep { check: true })
    }

    pub fn touch(&self) {
        self.touched.store(true, Ordering::Relaxed);
    }

    pub fn is_touched(&self) -> bool {
        self.touched.load(Ordering::Relaxed)
    }

    /// True the first time.
    pub fn set_finished(&self) -> bool {
        !self.finished.swap(true, Ordering::Relaxed)
    }

    pub fn is_finished(&self) -> bool {
        self.finished.load(Ordering::Relaxed)
    }

    /// The content, if it lies in the entry.
    pub fn inline(&self) -> Option<&[u8]> {
        match &self.node {
            Node::File(Content::Inline(bytes)) if !self.has_spans => Some(bytes),
            _ => None,
        }
    }
}

/// A piece of a job's content.
pub struct Span {
    /// Position among the batch's jobs.
    pub job: usize,
    pub offset: u64,
    pub len: u64,
    /// What is read for it; none is a hole.
    pub slice: Option<Slice>,
    /// The target holds it: found there or written.
    pub done: AtomicBool,
    /// It was written, not found.
    pub written: AtomicBool,
}

impl Span {
    pub fn is_done(&self) -> bool {
        self.done.load(Ordering::Relaxed)
    }

    pub fn set_done(&self) {
        self.done.store(true, Ordering::Relaxed);
    }

    pub fn set_written(&self) {
        self.written.store(true, Ordering::Relaxed);
        self.set_done();
    }

    pub fn is_written(&self) -> bool {
        self.written.load(Ordering::Relaxed)
    }
}

/// A later name of a file that has a job or had one.
pub struct LinkJob {
    pub first: Arc<Place>,
    pub directory: Arc<Directory>,
    pub name: Box<[u8]>,
    pub is_file: bool,
}

/// A directory whose entries are all in this batch or were in earlier ones.
pub struct Closing {
    pub directory: Arc<Directory>,
    /// None for the target itself, if the snapshot says nothing about it.
    pub attributes: Option<Attributes>,
    pub created: bool,
}

#[derive(Default)]
pub struct Batch {
    pub jobs: Vec<Arc<Job>>,
    pub spans: Vec<Span>,
    pub links: Vec<LinkJob>,
    /// Children before parents.
    pub directories: Vec<Closing>,
    /// The first job was begun by an earlier batch.
    pub continues: bool,
    /// The last job goes on in the next batch.
    pub is_open: bool,
    bytes: u64,
    held_bytes: usize,
}

impl Batch {
    pub fn push_job(&mut self, job: Arc<Job>) {
        self.held_bytes += job.inline().map_or(0, <[u8]>::len) + held(&job.attributes);
        self.jobs.push(job);
    }

    pub fn push_directory(&mut self, closing: Closing) {
        self.held_bytes += closing.attributes.as_ref().map_or(0, held);
        self.directories.push(closing);
    }

    /// A piece of the last job's content.
    pub fn push_span(&mut self, offset: u64, len: u64, slice: Option<Slice>) {
        let Some(job) = self.jobs.len().checked_sub(1) else { return };
        if slice.is_some() {
            self.bytes += len;
        }
        self.spans.push(Span {
            job,
            offset,
            len,
            slice,
            done: AtomicBool::new(false),
            written: AtomicBool::new(false),
        });
    }

    pub fn is_full(&self) -> bool {
        self.spans.len() >= SPANS_MAX
            || self.jobs.len() + self.links.len() + self.directories.len() >= ENTRIES_MAX
            || self.bytes >= BYTES_MAX
            || self.held_bytes >= HELD_BYTES_MAX
    }

    /// Takes the batch; the last job, if it is still open, is the first of the next.
    pub fn take(&mut self) -> Batch {
        let taken = std::mem::take(self);
        if taken.is_open {
            self.jobs.extend(taken.jobs.last().cloned());
            self.continues = true;
            self.is_open = true;
        }
        taken
    }
}

/// What attributes take beyond their fixed part.
pub fn held(attributes: &Attributes) -> usize {
    attributes.xattrs.iter().map(|(name, value)| name.len() + value.len() + 64).sum()
}
