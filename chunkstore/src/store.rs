//! What a push or a fetch needs of a repository, local or remote. Knows no keys: records go in and out sealed.

#[cfg(test)]
pub(crate) mod memory;

use crate::capsule::Capsule;
use crate::configuration::Configuration;
use crate::error::Result;
use crate::id::{BlobId, CapsuleId, HalfTag, MarkId, SnapshotId, Tag};
use crate::mark::Mark;
use crate::record::Record;
use crate::snapshot::Snapshot;

pub trait Store: Send + Sync {
    fn configuration(&self) -> &Configuration;

    /// How many callers for each processor keep it busy: more than one if a call waits for a network.
    fn callers(&self) -> usize {
        1
    }

    /// Which contents are stored, intact with all that they link to, under which id. What is answered stays
    /// collectable by nobody until this session ends. Ask in batches.
    fn known(&self, tags: &[Tag]) -> Result<Vec<Option<BlobId>>>;

    /// The same question by id, of what is durable: for what a change cache remembers.
    fn present(&self, ids: &[BlobId]) -> Result<Vec<bool>>;

    /// Changes whenever a blob that was once known may be so no longer: while it is equal, no id needs to be asked for again.
    fn generation(&self) -> Result<[u8; 16]>;

    /// An intact blob of the same content, for a reader whose link leads to a lost one. The reader checks the tag it finds.
    fn alternate(&self, tag: HalfTag) -> Result<Option<BlobId>>;

    /// Stores a record; refused unless every link is stored or was put before. The answer is the id under which the content is
    /// known now: another one, if another thread stored the same content first. Durable only after a commit or [`Store::flush`].
    fn put(&self, record: Record, capsule: &Capsule) -> Result<BlobId>;

    /// All that was put is durable afterwards.
    fn flush(&self) -> Result<()>;

    /// Makes all that was put durable, then the snapshot. On success the snapshot exists and survives everything.
    fn commit(&self, snapshot: &Snapshot) -> Result<()>;

    /// Snapshots whose objects are well formed, and what is wrong with others. Forgotten ones are among them.
    fn snapshots(&self) -> Result<Vec<(SnapshotId, Result<Snapshot>)>>;

    /// All marks, as objects (for authentication) and parsed.
    fn marks(&self) -> Result<Vec<(MarkId, Result<(Mark, Vec<u8>)>)>>;

    /// Stores a mark object ([`Mark::encode`]).
    fn mark(&self, object: &[u8]) -> Result<()>;

    /// Groups positions of `ids` so that each group is one cheap [`Store::read`] of a few MiB at most and groups come in
    /// storage order. Every position is in one group.
    fn arrange(&self, ids: &[BlobId]) -> Result<Vec<Vec<usize>>>;

    /// The records, in the order asked; each is checked against its id, and one that fails leaves others readable.
    fn read(&self, ids: &[BlobId]) -> Result<Vec<Result<Record>>>;

    /// As [`Store::read`], for who proves each content by the tag of the link that named it
    /// (`docs/decisions/011-links-proved-by-tags.md`): ids need not be compared, so that a record may come under another's.
    fn read_linked(&self, ids: &[BlobId]) -> Result<Vec<Result<Record>>> {
        self.read(ids)
    }

    fn capsule(&self, id: CapsuleId) -> Result<Capsule>;
}
