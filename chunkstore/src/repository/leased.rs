//! The repository as one of several sessions sees it while others write and a collection runs.

use super::{Repository, lock};
use crate::capsule::Capsule;
use crate::configuration::Configuration;
use crate::error::Result;
use crate::id::{BlobId, CapsuleId, HalfTag, MarkId, SnapshotId, Tag};
use crate::index::lease::Lease;
use crate::mark::Mark;
use crate::record::Record;
use crate::snapshot::Snapshot;
use crate::store::Store;
use std::sync::Arc;

/// What it was told is known stays until it is dropped.
pub struct Leased {
    repository: Arc<Repository>,
    lease: Arc<Lease>,
}

impl Repository {
    /// A store whose answers no collection takes back. The repository itself, used as a [`Store`], gives no such promise: it
    /// is for who does not collect meanwhile.
    pub fn leased(self: &Arc<Self>) -> Result<Leased> {
        // What the packer tells of is held by its number, which it gets later, or is just getting.
        let packer = self.writing.as_ref().map(|writing| lock(&writing.packer));
        let lease = self.index.lease(packer.as_ref().and_then(|packer| packer.indexing_from));
        Ok(Leased { repository: Arc::clone(self), lease })
    }
}

impl Leased {
    /// As [`Store::put`], for a writer elsewhere who goes on linking to this very record whoever stored the same content
    /// meanwhile: only an equal id makes it one that is there already.
    pub fn put_exact(&self, record: Record, capsule: &Capsule) -> Result<()> {
        self.repository.put_exact_for(record, capsule, &self.lease, true)
    }

    /// As [`Leased::put_exact`], of what another repository has had before: who reads it soon reads it there, so memory need not hold it.
    pub fn put_copy(&self, record: Record, capsule: &Capsule) -> Result<()> {
        self.repository.put_exact_for(record, capsule, &self.lease, false)
    }

    /// Waits for packs that are being stored, and stores what is full.
    pub fn store_full(&self) -> Result<()> {
        self.repository.writing()?.store_packs(false)
    }

    /// Which of these a crash would leave stored and known.
    pub fn durable(&self, ids: &[BlobId]) -> Result<Vec<bool>> {
        self.repository.durable_for(ids, Some(&self.lease))
    }
}

impl Drop for Leased {
    fn drop(&mut self) {
        self.repository.index.release(&self.lease);
    }
}

impl Store for Leased {
    fn configuration(&self) -> &Configuration {
        self.repository.configuration()
    }

    fn known(&self, tags: &[Tag]) -> Result<Vec<Option<BlobId>>> {
        self.repository.known_for(tags, Some(&self.lease))
    }

    fn present(&self, ids: &[BlobId]) -> Result<Vec<bool>> {
        self.repository.index.present(ids, Some(&self.lease))
    }

    fn generation(&self) -> Result<[u8; 16]> {
        self.repository.generation()
    }

    fn alternate(&self, tag: HalfTag) -> Result<Option<BlobId>> {
        self.repository.alternate(tag)
    }

    fn put(&self, record: Record, capsule: &Capsule) -> Result<BlobId> {
        self.repository.put_for(record, capsule, Some(&self.lease))
    }

    fn flush(&self) -> Result<()> {
        self.repository.flush()
    }

    fn commit(&self, snapshot: &Snapshot) -> Result<()> {
        self.repository.commit_for(snapshot, Some(&self.lease))
    }

    fn snapshots(&self) -> Result<Vec<(SnapshotId, Result<Snapshot>)>> {
        self.repository.snapshots()
    }

    fn marks(&self) -> Result<Vec<(MarkId, Result<(Mark, Vec<u8>)>)>> {
        self.repository.marks()
    }

    fn mark(&self, object: &[u8]) -> Result<()> {
        self.repository.mark(object)
    }

    fn arrange(&self, ids: &[BlobId]) -> Result<Vec<Vec<usize>>> {
        self.repository.arrange(ids)
    }

    fn read(&self, ids: &[BlobId]) -> Result<Vec<Result<Record>>> {
        self.repository.read(ids)
    }

    fn read_linked(&self, ids: &[BlobId]) -> Result<Vec<Result<Record>>> {
        self.repository.read_linked(ids)
    }

    fn capsule(&self, id: CapsuleId) -> Result<Capsule> {
        self.repository.capsule(id)
    }
}
