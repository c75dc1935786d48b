//! A site as a model: which blobs it has, which of them last, what leases hold, what a collection takes.

use crate::replication::{Described, is_wanted};
use chunkstore::coding::Encoder;
use chunkstore::id::{BlobId, MarkId, RepositoryId, SnapshotId};
use chunkstore::mark::{Mark, State};
use chunkstore::record::Record;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

pub const GRACE: i64 = 4000;
pub const REPOSITORY: RepositoryId = RepositoryId([1; 16]);

/// A well-formed record with nothing in it: the same for the same arguments.
pub fn record(content: u64, links: &[BlobId]) -> Record {
    let mut links = links.to_vec();
    links.sort_unstable();
    links.dedup();
    let mut e = Encoder::new();
    e.raw(b"NKrb").u8(1).u8(1).u8(u8::from(!links.is_empty())).u8(0).raw(&[7; 16]).u64(content);
    e.u32(u32::try_from(links.len()).unwrap()).u32(26).raw(&REPOSITORY.0);
    e.u64(content).raw(&[0; 24]);
    for link in &links {
        e.raw(&link.0);
    }
    e.raw(&[0; 26]);
    Record::parse(e.bytes, &REPOSITORY).unwrap()
}

#[derive(Default)]
pub struct Site {
    /// With those that do not last yet, in order.
    pub blobs: HashMap<BlobId, Record>,
    pub volatile: Vec<BlobId>,
    pub lost: BTreeSet<BlobId>,
    pub snapshots: BTreeMap<SnapshotId, Described>,
    /// With the time at which they came to be here.
    pub marks: BTreeMap<MarkId, (Mark, i64)>,
    /// What sessions hold.
    pub leases: BTreeMap<u64, HashSet<BlobId>>,
}

impl Site {
    /// With all below it, and durable.
    pub fn present(&mut self, id: BlobId, session: u64) -> bool {
        let is_so = !self.volatile.contains(&id) && self.is_intact(id, &mut HashMap::new());
        if is_so {
            self.leases.entry(session).or_default().insert(id);
        }
        is_so
    }

    fn is_intact(&self, id: BlobId, known: &mut HashMap<BlobId, bool>) -> bool {
        // What is here has all below it, unless something is lost: that is what is shown all the time.
        if self.lost.is_empty() {
            return self.blobs.contains_key(&id);
        }
        self.has_all(id, known)
    }

    fn has_all(&self, id: BlobId, known: &mut HashMap<BlobId, bool>) -> bool {
        if let Some(known) = known.get(&id) {
            return *known;
        }
        let here = self.blobs.get(&id).filter(|_| !self.lost.contains(&id));
        let is_so = here.is_some_and(|record| record.links.iter().all(|link| self.has_all(*link, known)));
        known.insert(id, is_so);
        is_so
    }

    /// Refuses a record that links to what is not here.
    pub fn put(&mut self, record: Record, session: u64) -> bool {
        let mut known = HashMap::new();
        if !record.links.iter().all(|link| self.is_intact(*link, &mut known)) {
            return false;
        }
        self.leases.entry(session).or_default().insert(record.id);
        let was_lost = self.lost.remove(&record.id);
        if was_lost || !self.blobs.contains_key(&record.id) {
            self.volatile.push(record.id);
            self.blobs.insert(record.id, record);
        }
        true
    }

    pub fn commit(&mut self, snapshot: Described) -> bool {
        self.volatile.clear();
        let is_so = self.is_intact(snapshot.root, &mut HashMap::new());
        if is_so {
            self.snapshots.insert(snapshot.id, snapshot);
        }
        is_so
    }

    pub fn mark(&mut self, id: MarkId, mark: Mark, now: i64) {
        self.marks.entry(id).or_insert((mark, now));
    }

    fn marks_of(&self, id: SnapshotId) -> Vec<(MarkId, Mark)> {
        let own = self.marks.iter().filter(|(_, (mark, _))| mark.snapshot == id);
        own.map(|(id, (mark, _))| (*id, mark.clone())).collect()
    }

    pub fn state(&self, id: SnapshotId) -> State {
        State::fold(&[], &self.marks_of(id))
    }

    pub fn wants(&self, id: SnapshotId) -> bool {
        !self.snapshots.contains_key(&id) && is_wanted(&self.marks_of(id))
    }

    /// Stops dead: of what does not last, some was written, in order.
    pub fn crash(&mut self, kept: usize) {
        for id in self.volatile.split_off(kept.min(self.volatile.len())) {
            self.blobs.remove(&id);
        }
        self.volatile.clear();
        self.leases.clear();
    }

    /// How many snapshots went.
    pub fn collect(&mut self, now: i64) -> u64 {
        let arrived = |id: SnapshotId| {
            let own = self.marks.values().filter(|(mark, _)| mark.snapshot == id);
            own.map(|(_, arrived)| *arrived).max().unwrap_or(0)
        };
        let is_over = |id: &SnapshotId| {
            let state = self.state(*id);
            !state.pinned && state.forgotten.is_some_and(|time| time.max(arrived(*id)) + GRACE <= now)
        };
        let over: Vec<SnapshotId> = self.snapshots.keys().filter(|id| is_over(id)).copied().collect();
        self.snapshots.retain(|id, _| !over.contains(id));
        let leased = self.leases.values().flatten().copied();
        let mut open: Vec<BlobId> =
            self.snapshots.values().map(|s| s.root).chain(leased).chain(self.volatile.iter().copied()).collect();
        let mut live = HashSet::new();
        while let Some(id) = open.pop() {
            if live.insert(id)
                && let Some(record) = self.blobs.get(&id)
            {
                open.extend(&record.links);
            }
        }
        self.blobs.retain(|id, _| live.contains(id));
        self.lost.retain(|id| live.contains(id));
        over.len() as u64
    }

    /// What a snapshot here lacks.
    pub fn gaps(&self) -> Vec<SnapshotId> {
        let mut known = HashMap::new();
        self.snapshots.values().filter(|s| !self.has_all(s.root, &mut known)).map(|s| s.id).collect()
    }

    pub fn closure(&self, root: BlobId) -> Vec<BlobId> {
        let (mut open, mut seen) = (vec![root], Vec::new());
        while let Some(id) = open.pop() {
            if !seen.contains(&id) {
                seen.push(id);
                open.extend(self.blobs.get(&id).into_iter().flat_map(|record| &record.links));
            }
        }
        seen
    }
}
