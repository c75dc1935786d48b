//! Runs ahead: walks, compares with what is remembered, and says in order what there is. What must be read goes to
//! others at once, so that its outcome is there, or on its way, when its turn comes.

use super::Report;
use super::halt::Halt;
use super::pipeline::{Group, Large, Work};
use super::read::{Job, Reading, SMALL_BYTES_MAX, Saved, Verb};
use super::unchanged::frame::{Key, is_settled, key};
use super::unchanged::{Finding, Unchanged};
use super::walk::{Step, Task, Walk};
use crate::metadata::capture::{Names, Stat, attributes};
use chunkstore::key::WriteKey;
use chunkstore::tree::{Attributes, Entry};
use chunkstore::{Error, Result};
use crossbeam_channel::{Receiver, Sender, bounded};
use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// A batch has at most so many events, and bytes of frames.
const EVENTS_MAX: usize = 512;
const FRAMES_BYTES_MAX: usize = 256 << 10;
/// A group of small files has at most so many, in so many directories: that bounds open descriptors.
const GROUP_FILES_MAX: usize = 512;
const GROUP_DIRECTORIES_MAX: usize = 64;
const OPEN_DIRECTORIES_MAX: usize = 512;
/// The small files of a group become one bundle, which ends at so many bytes, or from the lower bound on after a name that says so: then
/// the same files become the same bundles, whatever came before them.
const BUNDLE_BYTES_MIN: u64 = 128 << 10;
const BUNDLE_BYTES_MAX: u64 = 512 << 10;
/// Files of several names are read once if they have at least so many bytes, and as long as no more of them are remembered.
const SHARED_BYTES_MIN: u64 = 64 << 10;
const SHARED_MAX: usize = 65_536;

/// What came to pass, in the order of the walk.
pub enum Event {
    Enter(Box<Entered>),
    /// A directory whose attributes are the same; its frame ends at this place in the batch.
    EnterSame(usize),
    /// Something that is remembered is not there any more, or is left out.
    Skipped,
    /// What is remembered is still so: frames up to this place in the batch.
    Same(usize),
    /// The outcome of a read: which group of the batch, which of the group.
    Read(usize, usize),
    /// What the source stored itself.
    Prepared(Box<Saved>),
    /// Another name of a file that was read under its first.
    Again(Box<Again>),
    Leave,
    /// The directory is the same with all that is in it; its frame ends at this place in the batch.
    LeaveSame(usize),
}

/// A directory whose attributes are not remembered.
pub struct Entered {
    pub name: Vec<u8>,
    pub key: Key,
    pub usable: bool,
    pub attributes: Attributes,
}

pub struct Again {
    pub name: Vec<u8>,
    pub path: Vec<u8>,
    pub key: Key,
    pub previous: Option<Vec<u8>>,
    /// No further name of it will come.
    pub is_last: bool,
}

#[derive(Default)]
pub struct Batch {
    pub events: Vec<Event>,
    pub frames: Vec<u8>,
    pub groups: Vec<Receiver<Result<Vec<Option<Saved>>>>>,
}

/// Where findings and work go.
pub struct Outlets<'a> {
    pub batches: Sender<Batch>,
    pub work: Sender<Work>,
    pub large: Sender<Large>,
    /// What may be done ahead of the walk.
    pub ahead: Sender<Task<'a>>,
    /// How many groups of small files there may be at once, waiting, being read and being filled.
    pub groups_max: usize,
}

pub struct Survey<'a> {
    walk: Walk<'a>,
    unchanged: Unchanged<'a>,
    names: &'a Names,
    report: &'a Report<'a>,
    halt: &'a Halt<'a>,
    outlets: Outlets<'a>,
    batch: Batch,
    open: OpenGroup,
    /// Of the directories that the walk is in.
    keys: Vec<Key>,
    /// Files that were given to be read under one name and have others: how many are still to come.
    shared: HashMap<Key, u64>,
    group_directories_max: usize,
    prepared: &'a [Saved],
    key: &'a WriteKey,
    /// Sizes of files that go into bundles.
    bundled: RangeInclusive<u64>,
}

/// The group of small files that is being filled; it is the batch's last group.
#[derive(Default)]
struct OpenGroup {
    jobs: Vec<Job>,
    done: Option<Sender<Result<Vec<Option<Saved>>>>>,
    /// Its place among the batch's groups.
    at: usize,
    bytes: u64,
    /// Of these: what goes into its bundle.
    bundle_bytes: u64,
    directories: usize,
}

/// Whoever was to take something has given up.
fn gone() -> Error {
    Error::Interrupted
}

impl<'a> Survey<'a> {
    pub fn new(walk: Walk<'a>, unchanged: Unchanged<'a>, reading: &'a Reading<'a>, outlets: Outlets<'a>) -> Survey<'a> {
        let (batch, open) = (Batch::default(), OpenGroup::default());
        let group_directories_max = (OPEN_DIRECTORIES_MAX / outlets.groups_max).clamp(1, GROUP_DIRECTORIES_MAX);
        Survey {
            walk: walk.ahead(outlets.ahead.clone()),
            unchanged,
            names: reading.names,
            report: reading.report,
            halt: reading.chunks.halt,
            key: &reading.chunks.writer.sealer.key,
            bundled: reading.inline_bytes_max + 1..=reading.bundled_bytes_max,
            outlets,
            batch,
            open,
            keys: Vec::new(),
            shared: HashMap::new(),
            group_directories_max,
            prepared: &[],
        }
    }

    /// What the source stored itself, by the numbers that the walk tells.
    pub fn with_prepared(mut self, prepared: &'a [Saved]) -> Survey<'a> {
        self.prepared = prepared;
        self
    }

    /// Walks to the end, unless it is interrupted. How many given paths were there.
    pub fn run(mut self) -> usize {
        while let Some(step) = self.walk.step() {
            if self.halt.check().is_err() || self.take(step).is_err() {
                return 0;
            }
        }
        let found = self.walk.found();
        // If nobody takes it any more, nobody asks how many were found.
        let _ = self.close_batch();
        found
    }

    fn take(&mut self, step: Step) -> Result<()> {
        match step {
            Step::Enter(stat) => self.enter(&stat),
            Step::Item(stat) => self.item(&stat)?,
            Step::Prepared(at) => self.prepared(at),
            Step::Leave => self.leave(),
        }
        let (events, frames) = (self.batch.events.len(), self.batch.frames.len());
        // A bundle that is being filled is not ended by what comes between its files, unless that is much.
        let times = if self.open.bundle_bytes > 0 { 2 } else { 1 };
        if events >= EVENTS_MAX * times || frames >= FRAMES_BYTES_MAX * times {
            self.close_batch()?;
        }
        Ok(())
    }

    fn enter(&mut self, stat: &Stat) {
        let (moment, key) = (self.walk.moment(), key(stat));
        self.keys.push(key);
        self.report.monitor.current(self.walk.path());
        let finding = self.unchanged.enter(self.walk.name(), &key);
        if finding == Finding::Same && self.take_found() {
            self.batch.events.push(Event::EnterSame(self.batch.frames.len()));
            return;
        }
        let mut is_whole = true;
        let mut unreadable = |what: &[u8], error: std::io::Error| {
            is_whole = false;
            let reason = format!("{} cannot be read: {error}", String::from_utf8_lossy(what));
            self.report.problem(self.walk.path(), &reason);
        };
        let mut attributes = match self.walk.place() {
            Some(place) => attributes(place, stat, self.names, &mut unreadable),
            None => Attributes::default(),
        };
        if finding != Finding::New && self.walk.is_on_the_way() {
            self.keep_time(&mut attributes);
        }
        let (name, usable) = (self.walk.name().to_vec(), is_whole && is_settled(stat, moment));
        self.batch.events.push(Event::Enter(Box::new(Entered { name, key, usable, attributes })));
    }

    /// A directory that is only on the way keeps the time it was remembered with: others may make files in it at any time, which
    /// is no change of what is saved.
    fn keep_time(&self, attributes: &mut Attributes) {
        let entry = self.unchanged.found().and_then(|(bytes, frame)| bytes.get(frame.entry.clone()));
        if let Some(Ok(last)) = entry.map(|entry| Entry::decode(entry, "change cache")) {
            attributes.modified = last.attributes.modified;
        }
    }

    fn leave(&mut self) {
        let Some(key) = self.keys.pop() else { return };
        let is_same = self.unchanged.leave(&key) == (Finding::Same, true) && self.take_found();
        let event = if is_same { Event::LeaveSame(self.batch.frames.len()) } else { Event::Leave };
        self.batch.events.push(event);
    }

    /// The frame that was found last into the batch.
    fn take_found(&mut self) -> bool {
        let Some((frame, follows)) = self.unchanged.take() else { return false };
        if !follows {
            self.batch.events.push(Event::Skipped);
        }
        self.batch.frames.extend_from_slice(frame);
        true
    }

    fn item(&mut self, stat: &Stat) -> Result<()> {
        let key = key(stat);
        let finding = self.unchanged.find(self.walk.name(), &key);
        if finding == Finding::Same && self.take_found() {
            let end = self.batch.frames.len();
            match self.batch.events.last_mut() {
                Some(Event::Same(last)) => *last = end,
                _ => self.batch.events.push(Event::Same(end)),
            }
            self.report.detail("unchanged", self.walk.path());
            return Ok(());
        }
        let found = self.unchanged.found().filter(|_| finding != Finding::New);
        let previous = found.and_then(|(bytes, frame)| bytes.get(frame.entry.clone())).map(<[u8]>::to_vec);
        let Some(directory) = self.walk.directory().cloned() else { return Ok(()) };
        let (name, path) = (self.walk.name().to_vec(), self.walk.path().to_vec());
        if let Some(left) = self.shared.get_mut(&key) {
            *left -= 1;
            let is_last = *left == 0;
            if is_last {
                self.shared.remove(&key);
            }
            self.batch.events.push(Event::Again(Box::new(Again { name, path, key, previous, is_last })));
            return Ok(());
        }
        let shared =
            stat.is_regular() && stat.links > 1 && stat.size >= SHARED_BYTES_MIN && self.shared.len() < SHARED_MAX;
        if shared {
            self.shared.insert(key, stat.links - 1);
        }
        self.read(Job { directory, name, path, stat: *stat, previous, shared })
    }

    fn prepared(&mut self, at: usize) {
        let Some(saved) = self.prepared.get(at) else { return };
        // Its key is made of all that it is, so a directory with it may well be the same as the last time.
        let verb = match self.unchanged.find(self.walk.name(), &saved.key) {
            Finding::Same => Verb::Unchanged,
            Finding::Changed => Verb::Changed,
            Finding::New => Verb::New,
        };
        self.report.detail(verb.text(), self.walk.path());
        self.batch.events.push(Event::Prepared(Box::new(Saved { verb, ..saved.clone() })));
    }

    fn read(&mut self, job: Job) -> Result<()> {
        let size = if job.stat.is_regular() { job.stat.size } else { 0 };
        if size > SMALL_BYTES_MAX {
            let (done, outcome) = bounded(1);
            self.batch.events.push(Event::Read(self.batch.groups.len(), 0));
            self.batch.groups.push(outcome);
            return self.outlets.large.send(Large { job, done }).map_err(|_| gone());
        }
        let bundled = if self.bundled.contains(&size) { size } else { 0 };
        let is_here = |last: &Job| Arc::<OwnedFd>::ptr_eq(&last.directory, &job.directory);
        let mut is_elsewhere = !self.open.jobs.last().is_some_and(is_here);
        if self.open.jobs.len() >= GROUP_FILES_MAX
            || self.open.bytes + size > SMALL_BYTES_MAX
            || self.open.bundle_bytes + bundled > BUNDLE_BYTES_MAX
            || (is_elsewhere && self.open.directories >= self.group_directories_max)
        {
            self.close_group()?;
            is_elsewhere = true;
        }
        if self.open.done.is_none() {
            let (done, outcome) = bounded(1);
            self.open.done = Some(done);
            self.open.at = self.batch.groups.len();
            self.batch.groups.push(outcome);
        }
        self.batch.events.push(Event::Read(self.open.at, self.open.jobs.len()));
        self.open.directories += usize::from(is_elsewhere);
        self.open.bytes += size;
        self.open.bundle_bytes += bundled;
        let ends = bundled > 0 && self.open.bundle_bytes >= BUNDLE_BYTES_MIN && self.key.splits_bundle(&job.name);
        self.open.jobs.push(job);
        if ends { self.close_group() } else { Ok(()) }
    }

    fn close_group(&mut self) -> Result<()> {
        let OpenGroup { jobs, done, .. } = std::mem::take(&mut self.open);
        match done {
            Some(done) => self.outlets.work.send(Work::Group(Group { jobs, done })).map_err(|_| gone()),
            None => Ok(()),
        }
    }

    /// All that the batch waits for was sent before it.
    fn close_batch(&mut self) -> Result<()> {
        self.close_group()?;
        self.outlets.batches.send(std::mem::take(&mut self.batch)).map_err(|_| gone())
    }
}
