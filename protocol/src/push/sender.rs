//! The sending end: what is to be sent next, what is durable, what is to be sent again.

use crate::error::{Error, Result};
use crate::message::{ByClass, Message};
use bytes::Bytes;
use chunkstore::capsule::Capsule;
use chunkstore::id::{BlobId, CapsuleId, SnapshotId, Tag};
use chunkstore::record::{Class, Record};
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

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
    Record { id: BlobId, tag: Tag, class: Class, capsule: CapsuleId, bytes: Bytes },
    Flush { ticket: u64 },
    Commit { ticket: u64, snapshot: SnapshotId, bytes: Bytes },
}

pub struct Sender {
    /// The server's number: one that counts by a larger one waits for more than ever comes.
    bytes_max: u64,
    /// What is not answered, by number, in order; those below `unsent` went out on this stream.
    queue: BTreeMap<u64, Item>,
    number: u64,
    unsent: u64,
    kept_bytes: u64,
    /// Numbers of records that went out on this stream and are not durable, and of what else waits for an answer.
    undurable: ByClass<VecDeque<u64>>,
    unanswered: VecDeque<u64>,
    /// Records of this stream that are durable.
    durable: ByClass<u64>,
    capsules: HashMap<CapsuleId, Bytes>,
    capsules_sent: HashSet<CapsuleId>,
    ticket: u64,
}

impl Sender {
    /// `bytes_max` is what the server says in `Welcome`.
    pub fn new(bytes_max: u64) -> Sender {
        Sender {
            bytes_max,
            queue: BTreeMap::new(),
            number: 0,
            unsent: 0,
            kept_bytes: 0,
            undurable: ByClass::default(),
            unanswered: VecDeque::new(),
            durable: ByClass::default(),
            capsules: HashMap::new(),
            capsules_sent: HashSet::new(),
            ticket: 0,
        }
    }

    /// Whether a record of so many bytes may be put now. Of a large one only three sixteenths of the room count: so much is
    /// free after each look ([`Receiver::is_crowded`](super::Receiver::is_crowded)) and up to the next one, whatever else is sent.
    pub fn has_room_for(&self, len: usize) -> bool {
        let counted = (len as u64).min(self.bytes_max / 16 * 3);
        self.kept_bytes == 0 || self.kept_bytes.saturating_add(counted) <= self.bytes_max
    }

    pub fn kept_bytes(&self) -> u64 {
        self.kept_bytes
    }

    pub fn is_idle(&self) -> bool {
        self.queue.is_empty()
    }

    /// Whether a content is on its way, and under which id.
    pub fn holds(&self, tag: &Tag) -> Option<BlobId> {
        self.queue.values().find_map(|item| match item {
            Item::Record { id, tag: own, .. } if own == tag => Some(*id),
            _ => None,
        })
    }

    pub fn put(&mut self, record: Record, capsule: &Capsule) {
        self.capsules.entry(record.capsule).or_insert_with(|| Bytes::copy_from_slice(&capsule.bytes));
        self.kept_bytes = self.kept_bytes.saturating_add(record.bytes.len() as u64);
        let Record { id, tag, class, capsule, bytes, .. } = record;
        self.push(Item::Record { id, tag, class, capsule, bytes: bytes.into() });
    }

    pub fn flush(&mut self) -> u64 {
        self.ticket += 1;
        self.push(Item::Flush { ticket: self.ticket });
        self.ticket
    }

    pub fn commit(&mut self, snapshot: SnapshotId, bytes: Vec<u8>) -> u64 {
        self.ticket += 1;
        self.push(Item::Commit { ticket: self.ticket, snapshot, bytes: bytes.into() });
        self.ticket
    }

    fn push(&mut self, item: Item) {
        self.queue.insert(self.number, item);
        self.number += 1;
    }

    /// The next frame; whoever takes it sends it.
    pub fn outgoing(&mut self) -> Option<Outgoing> {
        let (&number, item) = self.queue.range(self.unsent..).next()?;
        if let Item::Record { capsule, .. } = item
            && let Some(bytes) = self.capsules.get(capsule)
            && self.capsules_sent.insert(*capsule)
        {
            return Some(Outgoing::Capsule(bytes.clone()));
        }
        self.unsent = number + 1;
        Some(match item {
            Item::Record { class, bytes, .. } => {
                self.undurable.of(*class).push_back(number);
                Outgoing::Record(bytes.clone())
            }
            Item::Flush { .. } => {
                self.unanswered.push_back(number);
                Outgoing::Flush
            }
            Item::Commit { bytes, .. } => {
                self.unanswered.push_back(number);
                Outgoing::Commit(bytes.clone())
            }
        })
    }

    /// An answer on the present stream.
    pub fn received(&mut self, message: Message) -> Result<Event> {
        match message {
            Message::Durable(mut counts) => {
                for class in [Class::Data, Class::Node] {
                    let more = counts.of(class).checked_sub(*self.durable.of(class));
                    for _ in 0..more.ok_or_else(|| unasked("fewer records durable than before"))? {
                        if !self.drop_oldest(class) {
                            return Err(unasked("more records durable than were sent"));
                        }
                    }
                }
                Ok(Event::Room)
            }
            Message::Flushed(count) => match self.answered()? {
                Item::Flush { ticket } if count == self.durable.sum() => Ok(Event::Flushed(ticket)),
                _ => Err(unasked("a flush that does not fit")),
            },
            Message::Committed { snapshot: named, received } => match self.answered()? {
                Item::Commit { ticket, snapshot, .. } if snapshot == named => {
                    Ok(Event::Committed { ticket, snapshot, received })
                }
                _ => Err(unasked("a commit that does not fit")),
            },
            Message::Refused(refusal) => Err(Error::Refused(refusal)),
            other => Err(unasked(other.name())),
        }
    }

    /// The stream is gone. These are the tags to ask for before another one begins.
    pub fn interrupted(&mut self) -> Vec<Tag> {
        self.unsent = 0;
        self.undurable = ByClass::default();
        self.unanswered.clear();
        self.durable = ByClass::default();
        self.capsules_sent.clear();
        let tags = self.queue.values().filter_map(|item| match item {
            Item::Record { tag, .. } => Some(*tag),
            _ => None,
        });
        tags.collect()
    }

    /// Another stream begins, of a connection whose `Welcome` said `bytes_max`. What arrived before the last one was gone, by the
    /// ids under which those tags are known, need not go again.
    pub fn resume(&mut self, known: &HashSet<BlobId>, bytes_max: u64) {
        self.bytes_max = bytes_max;
        let kept_bytes = &mut self.kept_bytes;
        self.queue.retain(|_, item| match item {
            Item::Record { id, bytes, .. } if known.contains(id) => {
                *kept_bytes -= bytes.len() as u64;
                false
            }
            _ => true,
        });
    }

    /// Takes the flush or commit that went out first off the queue, and all records before it: they are durable.
    fn answered(&mut self) -> Result<Item> {
        let unasked = || unasked("an answer to nothing");
        let number = self.unanswered.pop_front().ok_or_else(unasked)?;
        for class in [Class::Data, Class::Node] {
            while self.undurable.of(class).front().is_some_and(|record| *record < number) {
                self.drop_oldest(class);
            }
        }
        self.queue.remove(&number).ok_or_else(unasked)
    }

    /// False if there is none.
    fn drop_oldest(&mut self, class: Class) -> bool {
        let item = self.undurable.of(class).pop_front().and_then(|number| self.queue.remove(&number));
        if let Some(Item::Record { bytes, .. }) = &item {
            self.kept_bytes -= bytes.len() as u64;
            *self.durable.of(class) += 1;
        }
        item.is_some()
    }
}

fn unasked(what: &str) -> Error {
    Error::violation(format!("the server answered a push with {what}"))
}
