//! The sending end: what is to be sent next, what is durable, what is to be sent again.

use crate::error::{Error, Result};
use crate::message::Message;
use bytes::Bytes;
use chunkstore::capsule::Capsule;
use chunkstore::id::{BlobId, CapsuleId, SnapshotId, Tag};
use chunkstore::record::Record;
use std::collections::{HashMap, HashSet, VecDeque};

/// A frame to send.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outgoing {
    Capsule(Bytes),
    Record(Bytes),
    Flush,
    Commit(Bytes),
}

/// What an answer means to who waits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// There is more room.
    Room,
    /// The flush of this ticket is done.
    Flushed(u64),
    Committed {
        ticket: u64,
        snapshot: SnapshotId,
        received: i64,
    },
}

enum Item {
    Record { id: BlobId, tag: Tag, capsule: CapsuleId, bytes: Bytes },
    Flush { ticket: u64 },
    Commit { ticket: u64, snapshot: SnapshotId, bytes: Bytes },
}

pub struct Sender {
    bytes_max: u64,
    /// What is not answered, in order; the first `sent` of it went out on this stream.
    queue: VecDeque<Item>,
    sent: usize,
    kept_bytes: u64,
    /// Records of this stream that are durable.
    durable: u64,
    capsules: HashMap<CapsuleId, Bytes>,
    capsules_sent: HashSet<CapsuleId>,
    ticket: u64,
}

impl Sender {
    /// `bytes_max` is what the server says in `Welcome`.
    pub fn new(bytes_max: u64) -> Sender {
        Sender {
            bytes_max,
            queue: VecDeque::new(),
            sent: 0,
            kept_bytes: 0,
            durable: 0,
            capsules: HashMap::new(),
            capsules_sent: HashSet::new(),
            ticket: 0,
        }
    }

    /// Whether a record of so many bytes may be put now. One that is larger than all the room may if it is alone.
    pub fn has_room_for(&self, len: usize) -> bool {
        self.kept_bytes == 0 || self.kept_bytes.saturating_add(len as u64) <= self.bytes_max
    }

    pub fn kept_bytes(&self) -> u64 {
        self.kept_bytes
    }

    pub fn is_idle(&self) -> bool {
        self.queue.is_empty()
    }

    /// Whether a content is on its way, and under which id.
    pub fn holds(&self, tag: &Tag) -> Option<BlobId> {
        self.queue.iter().find_map(|item| match item {
            Item::Record { id, tag: own, .. } if own == tag => Some(*id),
            _ => None,
        })
    }

    pub fn put(&mut self, record: Record, capsule: &Capsule) {
        self.capsules.entry(record.capsule).or_insert_with(|| Bytes::copy_from_slice(&capsule.bytes));
        self.kept_bytes = self.kept_bytes.saturating_add(record.bytes.len() as u64);
        let Record { id, tag, capsule, bytes, .. } = record;
        self.queue.push_back(Item::Record { id, tag, capsule, bytes: bytes.into() });
    }

    pub fn flush(&mut self) -> u64 {
        self.ticket += 1;
        self.queue.push_back(Item::Flush { ticket: self.ticket });
        self.ticket
    }

    pub fn commit(&mut self, snapshot: SnapshotId, bytes: Vec<u8>) -> u64 {
        self.ticket += 1;
        self.queue.push_back(Item::Commit { ticket: self.ticket, snapshot, bytes: bytes.into() });
        self.ticket
    }

    /// The next frame; whoever takes it sends it.
    pub fn outgoing(&mut self) -> Option<Outgoing> {
        let item = self.queue.get(self.sent)?;
        if let Item::Record { capsule, .. } = item
            && let Some(bytes) = self.capsules.get(capsule)
            && self.capsules_sent.insert(*capsule)
        {
            return Some(Outgoing::Capsule(bytes.clone()));
        }
        self.sent += 1;
        Some(match item {
            Item::Record { bytes, .. } => Outgoing::Record(bytes.clone()),
            Item::Flush { .. } => Outgoing::Flush,
            Item::Commit { bytes, .. } => Outgoing::Commit(bytes.clone()),
        })
    }

    /// An answer on the present stream.
    pub fn received(&mut self, message: Message) -> Result<Event> {
        match message {
            Message::Durable(count) => {
                let more =
                    count.checked_sub(self.durable).ok_or_else(|| unasked("fewer records durable than before"))?;
                for _ in 0..more {
                    self.drop_record()?;
                }
                Ok(Event::Room)
            }
            Message::Flushed(count) => {
                self.drop_records()?;
                match self.answered()? {
                    Item::Flush { ticket } if count == self.durable => Ok(Event::Flushed(ticket)),
                    _ => Err(unasked("a flush that does not fit")),
                }
            }
            Message::Committed { snapshot: named, received } => {
                self.drop_records()?;
                match self.answered()? {
                    Item::Commit { ticket, snapshot, .. } if snapshot == named => {
                        Ok(Event::Committed { ticket, snapshot, received })
                    }
                    _ => Err(unasked("a commit that does not fit")),
                }
            }
            Message::Refused(refusal) => Err(Error::Refused(refusal)),
            other => Err(unasked(other.name())),
        }
    }

    /// The stream is gone. These are the tags to ask for before another one begins.
    pub fn interrupted(&mut self) -> Vec<Tag> {
        self.sent = 0;
        self.durable = 0;
        self.capsules_sent.clear();
        let tags = self.queue.iter().filter_map(|item| match item {
            Item::Record { tag, .. } => Some(*tag),
            _ => None,
        });
        tags.collect()
    }

    /// What arrived before the stream was gone, by the ids under which those tags are known, need not go again.
    pub fn resume(&mut self, known: &HashSet<BlobId>) {
        let kept_bytes = &mut self.kept_bytes;
        self.queue.retain(|item| match item {
            Item::Record { id, bytes, .. } if known.contains(id) => {
                *kept_bytes -= bytes.len() as u64;
                false
            }
            _ => true,
        });
    }

    /// Takes what was sent first off the queue.
    fn answered(&mut self) -> Result<Item> {
        let item = if self.sent == 0 { None } else { self.queue.pop_front() };
        let item = item.ok_or_else(|| unasked("an answer to nothing"))?;
        self.sent -= 1;
        if let Item::Record { bytes, .. } = &item {
            self.kept_bytes -= bytes.len() as u64;
            self.durable += 1;
        }
        Ok(item)
    }

    fn drop_record(&mut self) -> Result<()> {
        match self.answered()? {
            Item::Record { .. } => Ok(()),
            _ => Err(unasked("more records durable than were sent")),
        }
    }

    fn drop_records(&mut self) -> Result<()> {
        while matches!(self.queue.front(), Some(Item::Record { .. })) {
            self.drop_record()?;
        }
        Ok(())
    }
}

fn unasked(what: &str) -> Error {
    Error::violation(format!("the server answered a push with {what}"))
}
