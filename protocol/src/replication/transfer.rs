//! One snapshot's way from a source to a target: what to ask the target, what to read at the source, what to put in which order.
//!
//! A record without links is put as soon as it was read. Records with links wait in *frames*, one for each level, until all
//! below them was put: so the target can link to everything at every moment, and a walk that is begun anew never enters
//! what arrived before.

use crate::error::{Error, Result};
use crate::message::BATCH_MAX;
use crate::refusal::Refusal;
use chunkstore::id::BlobId;
use chunkstore::record::Record;
use std::collections::{HashSet, VecDeque};

/// Records with links of one level that wait at once, about.
const FRAME_BYTES: usize = 4 << 20;
/// Of all levels.
const WAITING_BYTES_MAX: usize = 256 << 20;
/// Questions and reads that are under way at once.
const ASKING_MAX: usize = 8;
const READING_MAX: usize = 4;
const READ_IDS_MAX: usize = 1024;
/// What a record with links is taken to be before any was seen: so many, of so many bytes together.
const PRIOR: (usize, usize) = (8, 512 << 10);
/// Half of what is remembered of blobs that the target has.
const SETTLED_MAX: usize = 512 << 10;

/// What is to be done next. The machine goes on without waiting for answers where it can.
#[derive(Debug)]
pub enum Action {
    /// Which of these does the target have, with all below them? Answered by [`Transfer::answered`].
    Ask(Vec<BlobId>),
    /// Read these at the source. Answered by [`Transfer::arrived`] or [`Transfer::lost`] for each.
    Read(Vec<BlobId>),
    /// Put this at the target, after all that was to be put before.
    Put(Record),
    /// Everything was put: the snapshot may be committed.
    Commit,
}

pub struct Transfer {
    frames: Vec<Frame>,
    ready: VecDeque<Record>,
    settled: Recent,
    waiting_bytes: usize,
    is_committed: bool,
}

/// A level of the walk.
#[derive(Default)]
struct Frame {
    /// They wait for everything below them.
    nodes: Vec<Record>,
    /// One node's links after the other's: what one node holds together lies together at the source, is read at once and
    /// stays together at the target.
    unasked: VecDeque<BlobId>,
    asking: HashSet<BlobId>,
    questions: usize,
    /// The target does not have them; to be read.
    absent: VecDeque<BlobId>,
    reading: HashSet<BlobId>,
    /// Were read, and have links: the nodes of the next level.
    gathered: Vec<Record>,
    gathered_bytes: usize,
    /// Of all that was read at this level, and what of it has links.
    read: usize,
    linked_bytes: usize,
}

impl Transfer {
    pub fn new(root: BlobId) -> Transfer {
        let top = Frame { unasked: VecDeque::from([root]), ..Frame::default() };
        Transfer {
            frames: vec![top],
            ready: VecDeque::new(),
            settled: Recent::default(),
            waiting_bytes: 0,
            is_committed: false,
        }
    }

    /// None until something that is under way was answered; and after [`Action::Commit`].
    pub fn next_action(&mut self) -> Option<Action> {
        loop {
            if let Some(record) = self.ready.pop_front() {
                return Some(Action::Put(record));
            }
            let Some(frame) = self.frames.last_mut() else {
                return (!std::mem::replace(&mut self.is_committed, true)).then_some(Action::Commit);
            };
            if let Some(ids) = frame.question(&self.settled) {
                return Some(Action::Ask(ids));
            }
            if !frame.asking.is_empty() {
                return None;
            }
            if let Some(ids) = frame.reading(&self.settled) {
                return Some(Action::Read(ids));
            }
            if !frame.reading.is_empty() {
                return None;
            }
            if frame.gathered.is_empty() {
                self.close_frame();
            } else {
                let nodes = std::mem::take(&mut frame.gathered);
                frame.gathered_bytes = 0;
                self.frames.push(Frame::above(nodes));
            }
        }
    }

    /// What the target says to a question. Answers to what was not asked mean nothing.
    pub fn answered(&mut self, ids: &[BlobId], present: &[bool]) {
        let Some(frame) = self.frames.last_mut() else { return };
        let mut is_own = false;
        for (id, present) in ids.iter().zip(present) {
            if !frame.asking.remove(id) {
                continue;
            }
            is_own = true;
            if *present {
                self.settled.insert(*id);
            } else {
                frame.absent.push_back(*id);
            }
        }
        if is_own {
            frame.questions = frame.questions.saturating_sub(1);
        }
    }

    /// A record was read. One that was not to be read means nothing.
    pub fn arrived(&mut self, record: Record) -> Result<()> {
        let Some(frame) = self.frames.last_mut() else { return Ok(()) };
        if !frame.reading.remove(&record.id) {
            return Ok(());
        }
        frame.read += 1;
        if record.links.iter().all(|link| self.settled.contains(link)) {
            self.settled.insert(record.id);
            self.ready.push_back(record);
            return Ok(());
        }
        let len = weight(&record);
        self.waiting_bytes += len;
        if self.waiting_bytes > WAITING_BYTES_MAX {
            return Err(Error::violation("a snapshot is too deep to be sent"));
        }
        frame.gathered_bytes += len;
        frame.linked_bytes += len;
        frame.gathered.push(record);
        Ok(())
    }

    /// The source cannot read a blob: the snapshot cannot go over.
    pub fn lost(&mut self, refusal: Refusal) -> Error {
        self.frames.clear();
        self.ready.clear();
        self.is_committed = true;
        Error::Refused(refusal)
    }

    /// All below the nodes of the lowest level was put: they may be.
    fn close_frame(&mut self) {
        let Some(frame) = self.frames.pop() else { return };
        for record in ordered(frame.nodes) {
            self.waiting_bytes = self.waiting_bytes.saturating_sub(weight(&record));
            self.settled.insert(record.id);
            self.ready.push_back(record);
        }
    }
}

impl Frame {
    fn above(nodes: Vec<Record>) -> Frame {
        let mut met: HashSet<BlobId> = nodes.iter().map(|node| node.id).collect();
        let unasked = nodes.iter().flat_map(|node| &node.links).filter(|link| met.insert(**link)).copied().collect();
        Frame { nodes, unasked, ..Frame::default() }
    }

    fn question(&mut self, settled: &Recent) -> Option<Vec<BlobId>> {
        if self.questions >= ASKING_MAX {
            return None;
        }
        let mut ids = Vec::new();
        while ids.len() < BATCH_MAX
            && let Some(id) = self.unasked.pop_front()
        {
            if !settled.contains(&id) {
                ids.push(id);
            }
        }
        if ids.is_empty() {
            return None;
        }
        self.asking.extend(&ids);
        self.questions += 1;
        Some(ids)
    }

    /// As many as may be expected to fit into a frame.
    fn reading(&mut self, settled: &Recent) -> Option<Vec<BlobId>> {
        let expected = ((PRIOR.1 + self.linked_bytes) / (PRIOR.0 + self.read)).max(1);
        let room = FRAME_BYTES.saturating_sub(self.gathered_bytes) / expected;
        let room = room.max(usize::from(self.gathered.is_empty() && self.reading.is_empty()));
        let room = room.saturating_sub(self.reading.len()).min(READ_IDS_MAX);
        // Few at a time only if nothing else is under way: a request costs a round trip.
        // And each has a stream, of which there are 16.
        let is_worth_it = self.reading.is_empty() || room >= READ_IDS_MAX / 2;
        if room == 0 || !is_worth_it || self.reading.len() >= READING_MAX * READ_IDS_MAX {
            return None;
        }
        let mut ids = Vec::new();
        while ids.len() < room
            && let Some(id) = self.absent.pop_front()
        {
            if !settled.contains(&id) {
                ids.push(id);
            }
        }
        self.reading.extend(&ids);
        (!ids.is_empty()).then_some(ids)
    }
}

/// What a record that waits takes of memory.
fn weight(record: &Record) -> usize {
    record.bytes.len() + record.links.len() * BlobId::LEN
}

/// The same records, each after those among them that it links to (a delta after its base).
fn ordered(nodes: Vec<Record>) -> Vec<Record> {
    let ids: HashSet<BlobId> = nodes.iter().map(|node| node.id).collect();
    let (mut out, mut done) = (Vec::with_capacity(nodes.len()), HashSet::new());
    let mut waiting = nodes;
    while !waiting.is_empty() {
        let before = waiting.len();
        let mut later = Vec::new();
        for node in waiting {
            if node.links.iter().all(|link| !ids.contains(link) || done.contains(link)) {
                done.insert(node.id);
                out.push(node);
            } else {
                later.push(node);
            }
        }
        // No hash is part of what it is the hash of.
        if later.len() == before {
            out.append(&mut later);
        }
        waiting = later;
    }
    out
}

/// A set that forgets what was put in long ago.
#[derive(Default)]
struct Recent {
    young: HashSet<BlobId>,
    old: HashSet<BlobId>,
}

impl Recent {
    fn insert(&mut self, id: BlobId) {
        if self.young.len() >= SETTLED_MAX {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(id);
    }

    fn contains(&self, id: &BlobId) -> bool {
        self.young.contains(id) || self.old.contains(id)
    }
}

/// Records that heal, in an order in which they can be put as far as they link to each other.
pub fn healing_order(records: Vec<Record>) -> Vec<Record> {
    ordered(records)
}
