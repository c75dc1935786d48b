//! A store in memory for tests: keeps the contract of `Store` and counts what it is asked.

use super::Store;
use crate::capsule::Capsule;
use crate::codec::{Opener, Sealer};
use crate::configuration::{Configuration, Kem};
use crate::error::{Error, Result};
use crate::id::{BlobId, CapsuleId, HalfTag, MarkId, RepositoryId, SnapshotId, Tag};
use crate::key::Keys;
use crate::mark::Mark;
use crate::record::{Kind, Record};
use crate::snapshot::Snapshot;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard};

pub struct MemoryStore {
    configuration: Configuration,
    pub keys: Keys,
    contents: Mutex<Contents>,
}

#[derive(Default)]
pub struct Contents {
    pub records: HashMap<BlobId, Record>,
    pub tags: HashMap<Tag, BlobId>,
    pub capsules: HashMap<CapsuleId, Capsule>,
    pub snapshots: BTreeMap<SnapshotId, Snapshot>,
    pub marks: BTreeMap<MarkId, (Mark, Vec<u8>)>,
    /// Blobs that are taken for stored without being so.
    pub pretended: HashSet<BlobId>,
    /// Blobs that others are answered for where no id is compared.
    pub swapped: HashMap<BlobId, BlobId>,
    /// What was stored, in order.
    pub put: Vec<BlobId>,
    /// What was read, in order.
    pub read: Vec<BlobId>,
    /// How often it was asked what is known.
    pub asked: usize,
}

impl MemoryStore {
    pub fn new() -> Arc<MemoryStore> {
        let configuration = Configuration { kem: Kem::X25519, ..Configuration::new(RepositoryId([8; 16]), 0) };
        let mut keys = Keys::generate(&configuration).unwrap();
        // Directories are split alike in every run.
        keys.write.gear = zeroize::Zeroizing::new([1; 32]);
        Arc::new(MemoryStore { configuration, keys, contents: Mutex::default() })
    }

    pub fn sealer(&self) -> Sealer {
        Sealer::new(&self.keys.write, &self.configuration).unwrap()
    }

    pub fn opener(&self) -> Opener {
        Opener::new(&self.keys, &self.configuration).unwrap()
    }

    pub fn contents(&self) -> MutexGuard<'_, Contents> {
        self.contents.lock().unwrap()
    }

    /// What was stored since it was last asked.
    pub fn take_put(&self) -> Vec<BlobId> {
        std::mem::take(&mut self.contents().put)
    }

    /// What was read since it was last asked.
    pub fn take_read(&self) -> Vec<BlobId> {
        std::mem::take(&mut self.contents().read)
    }

    /// The record is gone, and its content no longer known.
    pub fn lose(&self, id: BlobId) {
        let mut contents = self.contents();
        contents.records.remove(&id);
        contents.tags.retain(|_, known| *known != id);
    }

    /// The content of an intact blob.
    pub fn content(&self, id: BlobId, kind: Kind) -> Vec<u8> {
        let record = self.contents().records[&id].clone();
        self.opener().open(&record, kind, &|id| self.capsule(id), &|id| Err(Error::missing(id.hex()))).unwrap()
    }

    /// Stores a record whatever it links to, as a hostile store might hold it.
    pub fn insert(&self, record: Record, capsule: &Capsule) -> BlobId {
        let id = record.id;
        let mut contents = self.contents();
        contents.capsules.insert(capsule.id, capsule.clone());
        contents.records.insert(id, record);
        id
    }
}

impl Store for MemoryStore {
    fn configuration(&self) -> &Configuration {
        &self.configuration
    }

    fn known(&self, tags: &[Tag]) -> Result<Vec<Option<BlobId>>> {
        let mut contents = self.contents();
        contents.asked += 1;
        Ok(tags.iter().map(|tag| contents.tags.get(tag).copied()).collect())
    }

    fn present(&self, ids: &[BlobId]) -> Result<Vec<bool>> {
        let contents = self.contents();
        Ok(ids.iter().map(|id| contents.records.contains_key(id)).collect())
    }

    fn generation(&self) -> Result<[u8; 16]> {
        Ok([0; 16])
    }

    fn alternate(&self, tag: HalfTag) -> Result<Option<BlobId>> {
        let contents = self.contents();
        Ok(contents.tags.iter().find(|(known, _)| known.half() == tag).map(|(_, id)| *id))
    }

    fn put(&self, record: Record, capsule: &Capsule) -> Result<BlobId> {
        let mut contents = self.contents();
        let stored = |link: &&BlobId| contents.records.contains_key(link) || contents.pretended.contains(link);
        if let Some(link) = record.links.iter().find(|link| !stored(link)) {
            return Err(Error::invalid(
                format!("blob {}", record.id),
                format!("it links to {link}, which is not stored"),
            ));
        }
        if let Some(id) = contents.tags.get(&record.tag) {
            return Ok(*id);
        }
        let id = record.id;
        contents.tags.insert(record.tag, id);
        contents.capsules.insert(capsule.id, capsule.clone());
        contents.put.push(id);
        contents.records.insert(id, record);
        Ok(id)
    }

    fn flush(&self) -> Result<()> {
        Ok(())
    }

    fn commit(&self, snapshot: &Snapshot) -> Result<()> {
        let mut contents = self.contents();
        if !contents.records.contains_key(&snapshot.summary.root.id) {
            return Err(Error::missing(format!("blob {}", snapshot.summary.root.id)));
        }
        contents.snapshots.insert(snapshot.id, snapshot.clone());
        Ok(())
    }

    fn snapshots(&self) -> Result<Vec<(SnapshotId, Result<Snapshot>)>> {
        Ok(self.contents().snapshots.iter().map(|(id, snapshot)| (*id, Ok(snapshot.clone()))).collect())
    }

    fn marks(&self) -> Result<Vec<(MarkId, Result<(Mark, Vec<u8>)>)>> {
        Ok(self.contents().marks.iter().map(|(id, mark)| (*id, Ok(mark.clone()))).collect())
    }

    fn mark(&self, object: &[u8]) -> Result<()> {
        let (id, mark) = Mark::parse(object, &self.configuration.repository)?;
        self.contents().marks.insert(id, (mark, object.to_vec()));
        Ok(())
    }

    fn arrange(&self, ids: &[BlobId]) -> Result<Vec<Vec<usize>>> {
        Ok((0..ids.len()).map(|position| vec![position]).collect())
    }

    fn read(&self, ids: &[BlobId]) -> Result<Vec<Result<Record>>> {
        let mut contents = self.contents();
        contents.read.extend_from_slice(ids);
        let record =
            |id: &BlobId| contents.records.get(id).cloned().ok_or_else(|| Error::missing(format!("blob {id}")));
        Ok(ids.iter().map(record).collect())
    }

    fn read_linked(&self, ids: &[BlobId]) -> Result<Vec<Result<Record>>> {
        let swapped = self.contents().swapped.clone();
        let answered: Vec<BlobId> = ids.iter().map(|id| *swapped.get(id).unwrap_or(id)).collect();
        let records = self.read(&answered)?.into_iter().zip(ids);
        Ok(records.map(|(record, id)| record.map(|record| Record { id: *id, ..record })).collect())
    }

    fn capsule(&self, id: CapsuleId) -> Result<Capsule> {
        self.contents().capsules.get(&id).cloned().ok_or_else(|| Error::missing(format!("capsule {id}")))
    }
}
