//! One name of a directory into an entry: opened, read, compared with itself before and after.
//!
//! What is open is the truth, not what was listed: a file that was replaced meanwhile is saved as it is now. Whatever
//! cannot be saved as it should is reported, and never remembered as unchanged.

use super::Report;
use super::bundle::{Bundle, Place as Placed, Slices, Small};
use super::chunks::{Chunks, Piece};
use super::cut::{Cutter, Storing};
use super::open::{Opened, RETRIES, is_same_after, next_data, open, read_whole};
use super::unchanged::frame::{Key, is_settled, key};
use crate::metadata::capture::{Names, Place, Stat, attributes};
use chunkstore::chunker::Chunker;
use chunkstore::id::{BlobId, Reference};
use chunkstore::list::{Item, Slice};
use chunkstore::tree::{Attributes, Content, Entry, Node, Time};
use chunkstore::writer::ListBuilder;
use chunkstore::{Error, Result};
use rustix::fs::FileType;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// Files up to this size, without holes, are read whole.
pub const SMALL_BYTES_MAX: u64 = 1 << 20;
/// A name that is to be read.
pub struct Job {
    pub directory: Arc<OwnedFd>,
    pub name: Vec<u8>,
    pub path: Vec<u8>,
    pub stat: Stat,
    /// The encoded entry that the last backup saved under this path.
    pub previous: Option<Vec<u8>>,
    /// Other names of the file come later, and are to be saved without reading it again.
    pub shared: bool,
}

/// What became of it.
#[derive(Clone)]
pub struct Saved {
    pub name: Vec<u8>,
    pub entry: Vec<u8>,
    pub links: Vec<BlobId>,
    pub key: Key,
    /// It may be taken for unchanged as long as its key is the same.
    pub usable: bool,
    pub verb: Verb,
    pub file_type: FileType,
    pub size: u64,
    pub shared: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verb {
    New,
    Changed,
    Unchanged,
}

/// What reading needs.
pub struct Reading<'a> {
    pub names: &'a Names,
    pub report: &'a Report<'a>,
    pub chunker: &'a Chunker,
    pub chunks: &'a Chunks<'a>,
    pub inline_bytes_max: u64,
    /// Files up to this size share chunks; 0 if the repository has no such.
    pub bundled_bytes_max: u64,
    pub slices: Slices,
    pub read_bytes: AtomicU64,
}

/// A file that was read, but for the naming of its chunks.
struct Draft {
    content: Drafted,
    stat: Stat,
    moment: Time,
    is_steady: bool,
    /// Nothing of the attributes had to be left out.
    is_whole: bool,
    attributes: Attributes,
}

enum Drafted {
    Node(Node),
    /// A small content at this place of a buffer, which may go into a bundle.
    Small(Range<usize>),
    /// This part of the bundle.
    Part(usize),
    /// Chunks at these places of a buffer.
    Chunks(Vec<Range<usize>>),
}

impl Drafted {
    /// How long a file's content is.
    fn len(&self) -> u64 {
        match self {
            Drafted::Node(Node::File(content)) => content.size(),
            Drafted::Node(_) | Drafted::Part(_) => 0,
            Drafted::Small(place) => place.len() as u64,
            Drafted::Chunks(places) => places.iter().map(|place| place.len() as u64).sum(),
        }
    }
}

impl Reading<'_> {
    /// Reads small files and special ones, in order; all their chunks are asked for at once, and the smallest become one bundle.
    /// `None` stands for what could not be saved. `buffer` is any.
    pub fn small(&self, jobs: Vec<Job>, buffer: &mut Vec<u8>) -> Result<Vec<Option<Saved>>> {
        buffer.clear();
        let mut drafts = Vec::with_capacity(jobs.len());
        for job in &jobs {
            self.chunks.halt.check()?;
            drafts.push(self.draft(job, buffer)?);
        }
        let bundle = self.bundle(&jobs, &mut drafts, buffer)?;
        let places = drafts.iter().flatten().flat_map(|draft| match &draft.content {
            Drafted::Chunks(places) => places.as_slice(),
            _ => &[],
        });
        let mut pieces: Vec<Piece<'_>> =
            places.map(|place| Piece::from(buffer.get(place.clone()).unwrap_or_default())).collect();
        pieces.extend((!bundle.is_empty()).then_some(Piece { content: &bundle.bytes, former: &bundle.former }));
        let mut references = if pieces.is_empty() { Vec::new() } else { self.chunks.put(&pieces)? };
        if !bundle.is_empty() {
            let link = references.pop().ok_or_else(|| Error::invalid("bundle", "it was not stored"))?;
            self.take_slices(&bundle, link, &mut drafts);
        }
        let mut references = references.into_iter();
        let saved = jobs
            .into_iter()
            .zip(drafts)
            .map(|(job, draft)| draft.map(|draft| self.save(job, draft, &mut references)).transpose());
        saved.collect()
    }

    /// Decides where small contents go, and gathers those that go together.
    fn bundle(&self, jobs: &[Job], drafts: &mut [Option<Draft>], buffer: &[u8]) -> Result<Bundle> {
        let is_small = |draft: &Option<Draft>| matches!(draft, Some(Draft { content: Drafted::Small(_), .. }));
        let files = jobs.iter().zip(drafts.iter()).filter_map(|(job, draft)| match draft {
            Some(Draft { content: Drafted::Small(place), .. }) => {
                let content = buffer.get(place.clone()).unwrap_or_default();
                Some(Small { content, previous: job.previous.as_deref() })
            }
            _ => None,
        });
        let files: Vec<Small<'_>> = files.collect();
        if files.is_empty() {
            return Ok(Bundle::default());
        }
        let (places, bundle) = self.slices.place(&files, self.chunks)?;
        for (draft, place) in drafts.iter_mut().filter(|draft| is_small(draft)).flatten().zip(places) {
            let Drafted::Small(at) = &draft.content else { continue };
            draft.content = match place {
                Placed::Slice(slice) => Drafted::Node(sliced(slice)),
                Placed::Part(part) => Drafted::Part(part),
                Placed::Alone => Drafted::Chunks(self.cut(buffer, at.clone())),
            };
        }
        Ok(bundle)
    }

    /// The bundle was stored: names the parts of it.
    fn take_slices(&self, bundle: &Bundle, link: Reference, drafts: &mut [Option<Draft>]) {
        let mut slices = Vec::new();
        for draft in drafts.iter_mut().flatten() {
            if let Drafted::Part(part) = draft.content
                && let Some(slice) = bundle.slice(part, link)
            {
                draft.content = Drafted::Node(sliced(slice));
                slices.push(slice);
            }
        }
        self.slices.remember(&slices);
    }

    /// Reads a large file or one with holes.
    pub fn large(&self, job: Job, storing: Storing<'_>, spare: &mut Vec<Vec<u8>>) -> Result<Option<Saved>> {
        let mut kept = None;
        for _ in 0..=RETRIES {
            self.chunks.halt.check()?;
            let moment = now();
            let (file, stat) = match open(&job) {
                Ok(Opened::Regular(file, stat)) => (file, stat),
                Ok(Opened::Special(_)) => {
                    return Ok(self.small(vec![job], &mut Vec::new())?.into_iter().flatten().next());
                }
                Err(error) => return Ok(self.unreadable(&job, &error)),
            };
            let content = match self.content(&file, &stat, storing, spare)? {
                Ok(content) => content,
                Err(error) => return Ok(self.unreadable(&job, &error)),
            };
            let is_steady = content.size() == stat.size && is_same_after(&file, &stat);
            let content = Drafted::Node(Node::File(content));
            let (attributes, is_whole) = self.attributes(&job, Place::Open(file.as_fd()), &stat);
            kept = Some(Draft { content, stat, moment, is_steady, is_whole, attributes });
            if is_steady {
                break;
            }
        }
        let Some(draft) = kept else { return Ok(None) };
        if !draft.is_steady {
            self.report_unsteady(&job);
        }
        self.save(job, draft, &mut std::iter::empty()).map(Some)
    }

    /// A small file into the buffer, cut; or whatever else it is.
    fn draft(&self, job: &Job, buffer: &mut Vec<u8>) -> Result<Option<Draft>> {
        let start = buffer.len();
        let mut kept = None;
        for _ in 0..=RETRIES {
            buffer.truncate(start);
            let moment = now();
            let (file, stat) = match open(job) {
                Ok(Opened::Regular(file, stat)) => (file, stat),
                Ok(Opened::Special(stat)) => return Ok(self.draft_special(job, &stat, moment)),
                Err(error) => return Ok(self.unreadable(job, &error)),
            };
            let content = match self.small_content(&file, &stat, buffer)? {
                Ok(content) => content,
                Err(error) => return Ok(self.unreadable(job, &error)),
            };
            let is_steady = content.len() == stat.size && is_same_after(&file, &stat);
            let (attributes, is_whole) = self.attributes(job, Place::Open(file.as_fd()), &stat);
            kept = Some(Draft { content, stat, moment, is_steady, is_whole, attributes });
            if is_steady {
                break;
            }
        }
        if kept.as_ref().is_some_and(|draft| !draft.is_steady) {
            self.report_unsteady(job);
        }
        Ok(kept)
    }

    fn small_content(&self, file: &File, stat: &Stat, buffer: &mut Vec<u8>) -> Result<io::Result<Drafted>> {
        let has_holes = stat.size > self.inline_bytes_max
            && stat.may_have_holes()
            && next_data(file, 0, stat.size) != (0..stat.size);
        // Or it has grown since it was listed.
        if has_holes || stat.size > 2 * SMALL_BYTES_MAX {
            return Ok(self
                .content(file, stat, Storing::Here, &mut Vec::new())?
                .map(|content| Drafted::Node(Node::File(content))));
        }
        let start = buffer.len();
        let read = read_whole(file, stat.size, buffer);
        Ok(read.map(|()| {
            self.count_bytes((buffer.len() - start) as u64);
            self.cut_small(buffer, start)
        }))
    }

    fn draft_special(&self, job: &Job, stat: &Stat, moment: Time) -> Option<Draft> {
        let (major, minor) = stat.special;
        let node = match stat.file_type() {
            FileType::Symlink => match rustix::fs::readlinkat(job.directory.as_fd(), &*job.name, Vec::new()) {
                Ok(target) => Node::Symlink(target.into_bytes()),
                Err(error) => return self.unreadable(job, &error.into()),
            },
            FileType::Fifo => Node::Fifo,
            FileType::Socket => Node::Socket,
            FileType::CharacterDevice => Node::CharacterDevice { major, minor },
            FileType::BlockDevice => Node::BlockDevice { major, minor },
            _ => {
                self.report.problem(&job.path, "it became a directory, or something unknown, while it was read");
                return None;
            }
        };
        let place = Place::Named(job.directory.as_fd(), &job.name);
        let (attributes, is_whole) = self.attributes(job, place, stat);
        Some(Draft { content: Drafted::Node(node), stat: *stat, moment, is_steady: true, is_whole, attributes })
    }

    fn unreadable<T>(&self, job: &Job, error: &io::Error) -> Option<T> {
        self.report.problem(&job.path, &error.to_string());
        None
    }

    fn report_unsteady(&self, job: &Job) {
        self.report.problem(&job.path, "it changed while it was read; the last reading is kept");
    }

    /// The attributes, and whether they are all there are.
    fn attributes(&self, job: &Job, place: Place<'_>, stat: &Stat) -> (Attributes, bool) {
        let mut is_whole = true;
        let attributes = attributes(place, stat, self.names, &mut |what, error| {
            is_whole = false;
            self.report.problem(&job.path, &format!("{} cannot be read: {error}", String::from_utf8_lossy(what)));
        });
        (attributes, is_whole)
    }

    /// What was read from `start` on: inline, or chunks in place, or small enough for a bundle.
    fn cut_small(&self, buffer: &mut Vec<u8>, start: usize) -> Drafted {
        let content = buffer.get(start..).unwrap_or_default();
        if content.len() as u64 <= self.inline_bytes_max {
            let inline = Node::File(Content::Inline(content.to_vec()));
            buffer.truncate(start);
            return Drafted::Node(inline);
        }
        let all = start..buffer.len();
        if content.len() as u64 <= self.bundled_bytes_max {
            return Drafted::Small(all);
        }
        Drafted::Chunks(self.cut(buffer, all))
    }

    /// The chunks in a stretch of a buffer.
    fn cut(&self, buffer: &[u8], all: Range<usize>) -> Vec<Range<usize>> {
        let mut places = Vec::new();
        let mut at = all.start;
        while let Some(len) = self.chunker.cut(buffer.get(at..all.end).unwrap_or_default(), true) {
            places.push(at..at + len);
            at += len;
        }
        places
    }

    /// Stretch by stretch, up to the size that the file had when it was opened. Holes are not read.
    fn content(
        &self,
        file: &File,
        stat: &Stat,
        storing: Storing<'_>,
        spare: &mut Vec<Vec<u8>>,
    ) -> Result<io::Result<Content>> {
        let mut cutter = Cutter::new(self.chunker, self.chunks, storing, spare);
        let mut at = 0;
        while at < stat.size {
            let data = if stat.may_have_holes() { next_data(file, at, stat.size) } else { at..stat.size };
            cutter.hole(data.start - at);
            at = data.start;
            let read = cutter.data(data.end - data.start, &mut |buffer| {
                if self.chunks.halt.check().is_err() {
                    return Err(io::Error::other("interrupted"));
                }
                let len = file.read_at(buffer, at)?;
                at += len as u64;
                self.count_bytes(len as u64);
                Ok(len)
            })?;
            match read {
                Ok(len) if len < data.end - data.start => break,
                Ok(_) => (),
                Err(error) => {
                    self.chunks.halt.check()?;
                    return Ok(Err(error));
                }
            }
        }
        if cutter.len() == 0 {
            return Ok(Ok(Content::Inline(Vec::new())));
        }
        cutter.finish().map(Ok)
    }

    fn save(&self, job: Job, draft: Draft, references: &mut dyn Iterator<Item = Reference>) -> Result<Saved> {
        let Draft { content, stat, moment, is_steady, is_whole, attributes } = draft;
        let node = match content {
            Drafted::Node(node) => node,
            Drafted::Chunks(places) => {
                let mut list = ListBuilder::new();
                for (place, link) in places.iter().zip(references) {
                    list.push(Item::Chunk { len: place.len() as u64, link }, self.chunks.writer)?;
                }
                Node::File(list.finish(self.chunks.writer)?)
            }
            Drafted::Small(_) | Drafted::Part(_) => return Err(Error::invalid("a small file", "it was not stored")),
        };
        let size = if let Node::File(content) = &node { content.size() } else { 0 };
        let entry = Entry { name: job.name, attributes, node };
        let encoded = entry.encode();
        let verb = Verb::of(job.previous.as_deref(), &encoded);
        self.report.detail(verb.text(), &job.path);
        self.report.monitor.counters().files_done.fetch_add(1, Ordering::Relaxed);
        let links = entry.links();
        Ok(Saved {
            name: entry.name,
            entry: encoded,
            links,
            key: key(&stat),
            usable: is_steady && is_whole && is_settled(&stat, moment),
            verb,
            file_type: stat.file_type(),
            size,
            shared: job.shared,
        })
    }

    pub fn count_bytes(&self, len: u64) {
        self.read_bytes.fetch_add(len, Ordering::Relaxed);
        self.report.monitor.counters().bytes_done.fetch_add(len, Ordering::Relaxed);
    }
}

impl Verb {
    /// How an encoded entry compares with the one before.
    pub fn of(previous: Option<&[u8]>, entry: &[u8]) -> Verb {
        match previous {
            None => Verb::New,
            Some(previous) if previous == entry => Verb::Unchanged,
            Some(_) => Verb::Changed,
        }
    }

    pub fn text(self) -> &'static str {
        match self {
            Verb::New => "new",
            Verb::Changed => "changed",
            Verb::Unchanged => "unchanged",
        }
    }
}

fn sliced(slice: Slice) -> Node {
    Node::File(Content::Items { size: slice.len, items: vec![Item::Slice(slice)] })
}

pub fn now() -> Time {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Time { seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX), nanoseconds: since.subsec_nanos() }
}
