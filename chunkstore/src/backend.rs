//! Where a repository's objects lie: immutable, bounded, named.
//!
//! An object fits in memory, so there are no streams. Implementations promise the durability stated at each method and
//! nothing else; they know no format. All methods may be called from several threads at once.

pub mod directory;

pub mod simulated;

use crate::error::Result;
use crate::id::{MarkId, PackId, SlotId, SnapshotId};
use std::fmt;
use std::time::Duration;

/// The name of an object: `docs/format.md`, section 3.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum ObjectName {
    Configuration,
    ConfigurationCopy,
    KeySlot(SlotId),
    Pack(PackId),
    Snapshot(SnapshotId),
    Mark(MarkId),
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ObjectName::Configuration => f.write_str("configuration REPO"),
            ObjectName::ConfigurationCopy => f.write_str("configuration REPO.copy"),
            ObjectName::KeySlot(id) => write!(f, "key slot {id}"),
            ObjectName::Pack(id) => write!(f, "pack {id}"),
            ObjectName::Snapshot(id) => write!(f, "snapshot {id}"),
            ObjectName::Mark(id) => write!(f, "mark {id}"),
        }
    }
}

/// The kinds that can be listed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ObjectKind {
    KeySlot,
    Pack,
    Snapshot,
    Mark,
}

pub trait Backend: Send + Sync {
    /// Stores an object. On success it is durable, whole and visible; on error it is either absent or durable and whole.
    /// An object that is already there is left as it is (same name, same bytes).
    fn put(&self, name: ObjectName, bytes: &[u8]) -> Result<()>;

    /// The whole object; [`Error::Missing`](crate::Error::Missing) if there is none.
    fn get(&self, name: ObjectName) -> Result<Vec<u8>>;

    /// As [`Backend::get`], in the place of what `bytes` hold: for who reads one large object after the other, since memory used again
    /// costs less than new memory.
    fn get_into(&self, name: ObjectName, bytes: &mut Vec<u8>) -> Result<()> {
        *bytes = self.get(name)?;
        Ok(())
    }

    /// `len` bytes from `offset`; corrupt if the object is shorter.
    fn get_range(&self, name: ObjectName, offset: u64, len: usize) -> Result<Vec<u8>>;

    /// Memory that holds what was put may go to others: nobody is expected to read it soon. A hint that changes nothing.
    fn uncache(&self, _name: ObjectName) {}

    /// Names and lengths of all objects of a kind. An error aborts: an empty answer is never a failure in disguise.
    fn list(&self, kind: ObjectKind) -> Result<Vec<(ObjectName, u64)>>;

    /// Removes an object durably; removing what is not there succeeds.
    fn delete(&self, name: ObjectName) -> Result<()>;

    /// The writer lock: held until the value is dropped or the process dies; waits for at most `wait`.
    /// `holder` is what others are told, [`Error::Locked`](crate::Error::Locked) names who holds it.
    fn lock(&self, holder: &str, wait: Duration) -> Result<Box<dyn WriterLock>>;
}

/// Held while a process may write. Dropping it releases the lock.
pub trait WriterLock: Send + Sync {}
