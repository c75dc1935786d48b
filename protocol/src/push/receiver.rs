//! The receiving end: what each frame asks for, and which records are not durable yet.

use crate::error::{Error, Result};
use crate::message::{ByClass, Message, Refusal};
use chunkstore::capsule::Capsule;
use chunkstore::id::{BlobId, CapsuleId, RepositoryId};
use chunkstore::record::{Class, Record};
use chunkstore::snapshot::Snapshot;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

/// Of one stream; and their bytes.
const CAPSULES_MAX: usize = 8192;
const CAPSULE_BYTES_MAX: usize = 16 << 20;

/// What a frame asks for.
pub enum Step {
    /// Nothing now.
    Kept,
    Put(Record, Arc<Capsule>),
    Flush,
    Commit(Box<Snapshot>),
}

pub struct Receiver {
    repository: RepositoryId,
    bytes_max: u64,
    capsules: HashMap<CapsuleId, Arc<Capsule>>,
    capsule_bytes: usize,
    /// Put and not durable yet, in order.
    pending: ByClass<VecDeque<(BlobId, u64)>>,
    pending_bytes: u64,
    durable: ByClass<u64>,
    /// Bytes put since the last look.
    since_look: u64,
}

impl Receiver {
    pub fn new(repository: RepositoryId, bytes_max: u64) -> Receiver {
        Receiver {
            repository,
            bytes_max,
            capsules: HashMap::new(),
            capsule_bytes: 0,
            pending: ByClass::default(),
            pending_bytes: 0,
            durable: ByClass::default(),
            since_look: 0,
        }
    }

    /// A frame of the stream. An object that does not parse is refused, a frame that has no place here is a violation.
    pub fn take(&mut self, message: Message) -> Result<Step> {
        let refused = |error: chunkstore::Error| Error::Refused(Refusal::of(&error));
        match message {
            Message::CapsuleObject(bytes) => {
                let capsule = Capsule::parse(bytes, &self.repository).map_err(refused)?;
                self.capsule_bytes += capsule.bytes.len();
                if self.capsules.len() >= CAPSULES_MAX || self.capsule_bytes > CAPSULE_BYTES_MAX {
                    return Err(Error::violation("too many capsules in one stream"));
                }
                self.capsules.insert(capsule.id, Arc::new(capsule));
                Ok(Step::Kept)
            }
            Message::Record(bytes) => {
                // The last one may be larger than what was left.
                if self.pending_bytes > self.bytes_max {
                    return Err(Error::violation("more bytes than may wait to be durable"));
                }
                let record = Record::parse(bytes, &self.repository).map_err(refused)?;
                let capsule = self.capsules.get(&record.capsule);
                let capsule = capsule.ok_or_else(|| Error::violation("a record came before its capsule"))?;
                Ok(Step::Put(record, Arc::clone(capsule)))
            }
            Message::Flush => Ok(Step::Flush),
            Message::Commit(bytes) => {
                Ok(Step::Commit(Box::new(Snapshot::parse(bytes, &self.repository).map_err(refused)?)))
            }
            other => Err(Error::violation(format!("{} in a push", other.name()))),
        }
    }

    /// A record was put. Whether it is time for a look at what is durable: that is after each sixteenth of the room.
    ///
    /// A look happens only when something arrives, so each must leave the sender enough room to come to the next one: see
    /// [`Receiver::is_crowded`].
    #[must_use]
    pub fn stored(&mut self, id: BlobId, class: Class, len: usize) -> bool {
        self.pending.of(class).push_back((id, len as u64));
        self.pending_bytes = self.pending_bytes.saturating_add(len as u64);
        self.since_look = self.since_look.saturating_add(len as u64);
        let is_due = self.since_look >= self.bytes_max / 16;
        if is_due {
            self.since_look = 0;
        }
        is_due
    }

    /// Whether less than a quarter of the room is left. No look may end like this: the sender might be unable to send another
    /// record, and then there is no next look. A quarter is the sixteenth to the next look and the three that a record needs at most.
    pub fn is_crowded(&self) -> bool {
        self.pending_bytes > self.bytes_max / 4 * 3
    }

    /// The oldest records of a class that are not known to be durable.
    pub fn oldest(&mut self, class: Class, count: usize) -> Vec<BlobId> {
        self.pending.of(class).iter().take(count).map(|(id, _)| *id).collect()
    }

    /// So many of the oldest are durable: what to tell, if there is anything.
    pub fn settled(&mut self, counts: ByClass<usize>) -> Option<Message> {
        let before = self.durable;
        self.drop_oldest(Class::Data, counts.data);
        self.drop_oldest(Class::Node, counts.nodes);
        (self.durable != before).then_some(Message::Durable(self.durable))
    }

    /// Everything is durable.
    pub fn flushed(&mut self) -> Message {
        self.settled(ByClass { data: usize::MAX, nodes: usize::MAX });
        Message::Flushed(self.durable.sum())
    }

    fn drop_oldest(&mut self, class: Class, count: usize) {
        let pending = self.pending.of(class);
        for (_, len) in pending.drain(..count.min(pending.len())) {
            self.pending_bytes -= len;
            *self.durable.of(class) += 1;
        }
    }
}
