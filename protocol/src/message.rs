//! Messages and their frames: `docs/protocol.md`, sections 2, 7 and 8. Every length has its limit here.
//!
//! A frame is read in two steps, so that its length is judged before anything is allocated: [`Head::decode`], then
//! [`Message::decode`] on a body of exactly that length.

mod body;

#[cfg(test)]
mod tests;

pub use crate::refusal::{Code, Refusal};

use crate::error::{Error, Result};
use chunkstore::id::{BlobId, CapsuleId, HalfTag, SlotId, SnapshotId, Tag};
use chunkstore::record::{Class, RECORD_BYTES_MAX};

pub const VERSION: u16 = 1;

pub const FRAME_BYTES_MAX: usize = 1 << 20;
/// Length and type.
pub const HEAD_LEN: usize = 5;

pub const BATCH_MAX: usize = 4096;
pub const NAMES_MAX: usize = 16_384;
pub const FETCH_MAX: usize = 1024;
pub const COPIES_MAX: usize = 512;
pub const SITES_MAX: usize = 16;
pub const SITE_BYTES_MAX: usize = 64;
pub const SLOTS_MAX: usize = 32;
pub const PATTERNS_MAX: usize = 64;
pub const PATTERN_BYTES_MAX: usize = 255;
pub const REPOSITORY_BYTES_MAX: usize = 64;
pub const CONFIGURATION_BYTES_MAX: usize = 4 << 10;
pub const SLOT_BYTES_MAX: usize = 16 << 10;
pub const STORE_BYTES_MAX: usize = 64 << 10;
pub const CAPSULE_BYTES_MAX: usize = 64 << 10;
const PROGRAM_BYTES_MAX: usize = 128;
const TEXT_BYTES_MAX: usize = 4096;

/// What a client may do in a repository.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Role {
    Backup = 1,
    Restore = 2,
    Admin = 3,
    Replica = 4,
}

impl Role {
    pub const ALL: [Role; 4] = [Role::Backup, Role::Restore, Role::Admin, Role::Replica];

    pub fn text(self) -> &'static str {
        match self {
            Role::Backup => "backup",
            Role::Restore => "restore",
            Role::Admin => "admin",
            Role::Replica => "replica",
        }
    }

    pub fn from_text(text: &str) -> Option<Role> {
        Role::ALL.into_iter().find(|role| role.text() == text)
    }

    pub fn from_number(number: u8) -> Option<Role> {
        Role::ALL.into_iter().find(|role| *role as u8 == number)
    }
}

/// The small objects of a repository that are listed and fetched by name.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ObjectKind {
    Snapshot = 1,
    Mark = 2,
    KeySlot = 3,
}

impl ObjectKind {
    /// Bytes of such an object's name.
    pub fn name_len(self) -> usize {
        match self {
            ObjectKind::Snapshot | ObjectKind::Mark => 32,
            ObjectKind::KeySlot => 8,
        }
    }
}

/// One of each class of records.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct ByClass<T> {
    pub data: T,
    pub nodes: T,
}

impl<T> ByClass<T> {
    pub fn of(&mut self, class: Class) -> &mut T {
        match class {
            Class::Data => &mut self.data,
            Class::Node => &mut self.nodes,
        }
    }
}

impl ByClass<u64> {
    pub(crate) fn sum(self) -> u64 {
        self.data.saturating_add(self.nodes)
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Message {
    Hello {
        version: u16,
        repository: String,
        program: String,
    },
    Welcome {
        version: u16,
        program: String,
        /// Empty while there is no repository, only its name.
        configuration: Vec<u8>,
        /// Of the repository as it is now: see `chunkstore::store::Store::generation`.
        generation: [u8; 16],
        push_bytes_max: u64,
    },
    Refused(Refusal),
    Enroll {
        version: u16,
        invitation: [u8; 8],
        proof: [u8; 32],
        writer: [u8; 32],
        name: String,
    },
    Enrolled {
        repository: String,
        role: Role,
        datasets: Vec<String>,
    },
    Known(Vec<Tag>),
    KnownAnswer(Vec<Option<BlobId>>),
    Present(Vec<BlobId>),
    PresentAnswer(Vec<bool>),
    Alternate(HalfTag),
    AlternateAnswer(Option<BlobId>),
    /// Names after one, or all.
    List {
        kind: ObjectKind,
        after: Vec<u8>,
    },
    Names {
        more: bool,
        kind: ObjectKind,
        names: Vec<Vec<u8>>,
    },
    Fetch {
        kind: ObjectKind,
        names: Vec<Vec<u8>>,
    },
    Object(Vec<u8>),
    Store {
        kind: ObjectKind,
        bytes: Vec<u8>,
    },
    Done,
    Remove(SlotId),
    Create {
        configuration: Vec<u8>,
        slots: Vec<(SlotId, Vec<u8>)>,
    },
    Arrange(Vec<BlobId>),
    Groups(Vec<Vec<u32>>),
    Read(Vec<BlobId>),
    Record(Vec<u8>),
    /// Instead of a record: why it cannot be had.
    Lost {
        id: BlobId,
        refusal: Refusal,
    },
    Capsule(CapsuleId),
    CapsuleObject(Vec<u8>),
    Statistics,
    StatisticsAnswer {
        packs: u64,
        pack_bytes: u64,
        blobs: u64,
        blob_bytes: u64,
    },
    Push,
    Flush,
    Commit(Vec<u8>),
    Durable(ByClass<u64>),
    Flushed(u64),
    Committed {
        snapshot: SnapshotId,
        received: i64,
    },
    /// Answered once the names of snapshots, marks and key slots are others than those of this digest.
    Watch([u8; 32]),
    State([u8; 32]),
    /// Which of these are wanted?
    Offer(Vec<SnapshotId>),
    Wanted(Vec<bool>),
    /// Which blobs are lost?
    Lacking,
    Blobs(Vec<BlobId>),
    /// The sender has these, durably.
    Held(Vec<SnapshotId>),
    /// At which sites are these?
    Copies(Vec<SnapshotId>),
    CopiesAnswer(Vec<Vec<String>>),
}

/// The type of a frame and the length of its body.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Head {
    pub number: u8,
    pub body_len: usize,
}

impl Head {
    /// Refuses a length that no frame of this type has.
    pub fn decode(bytes: &[u8; HEAD_LEN]) -> Result<Head> {
        let [a, b, c, d, number] = *bytes;
        let len = u32::from_le_bytes([a, b, c, d]) as usize;
        let max = if number == body::RECORD { RECORD_BYTES_MAX + 1 } else { FRAME_BYTES_MAX };
        if !(1..=max).contains(&len) {
            return Err(Error::violation(format!("a frame of type {number} and {len} bytes")));
        }
        Ok(Head { number, body_len: len - 1 })
    }
}

impl Message {
    /// The whole frame.
    pub fn frame(&self) -> Vec<u8> {
        let mut bytes = vec![0; HEAD_LEN];
        body::encode(self, &mut bytes);
        let len = u32::try_from(bytes.len() - HEAD_LEN + 1).unwrap_or(u32::MAX).to_le_bytes();
        let head = len.into_iter().chain([body::number(self)]);
        bytes.iter_mut().zip(head).for_each(|(to, from)| *to = from);
        bytes
    }

    /// The whole body of a frame with this type.
    pub fn decode(number: u8, body: Vec<u8>) -> Result<Message> {
        body::decode(number, body).map_err(|error| Error::violation(error.to_string()))
    }

    /// For logs and violations: the name without content.
    pub fn name(&self) -> &'static str {
        body::name(self)
    }
}

/// The head of a frame that holds a record, so that the record itself need not be copied.
pub fn record_head(record: &[u8]) -> [u8; HEAD_LEN] {
    let [a, b, c, d] = u32::try_from(record.len() + 1).unwrap_or(u32::MAX).to_le_bytes();
    [a, b, c, d, body::RECORD]
}
