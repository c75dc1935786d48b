//! What befalls the world: backups, words, collections, crashes, cuts, lost disks, damage.

use super::site::{GRACE, REPOSITORY, Site, record};
use super::world::{CHAOS, Event, World};
use crate::replication::Described;
use chunkstore::id::{BlobId, MarkId, SnapshotId};
use chunkstore::mark::{self, Mark};

impl World {
    pub(super) fn act(&mut self) {
        if self.now >= CHAOS {
            for link in &mut self.links {
                link.is_cut = false;
            }
            return;
        }
        let site = self.below(self.sites.len());
        match self.below(100) {
            0..=29 => self.back_up(site),
            30..=47 => self.say(site),
            48..=57 => self.tally.collected += self.sites[site].collect(self.now),
            58..=64 => {
                self.tally.crashes += 1;
                let kept = self.below(20);
                self.stop(site, kept);
            }
            65..=74 => {
                let link = self.below(self.links.len());
                self.links[link].is_cut = !self.links[link].is_cut;
            }
            75..=79 => self.lose_disk(site),
            80..=89 => self.damage(site),
            _ => {}
        }
        let pause = 20 + self.below(400);
        self.later(i64::try_from(pause).unwrap(), Event::Act);
    }

    fn back_up(&mut self, at: usize) {
        let session = 1 << 40;
        let ids: Vec<BlobId> = self.sites[at].blobs.keys().copied().collect();
        let mut ids: Vec<BlobId> = ids.into_iter().filter(|id| self.sites[at].present(*id, session)).collect();
        ids.sort_unstable();
        let mut made = Vec::new();
        for _ in 0..1 + self.below(12) {
            let mut links: Vec<BlobId> = Vec::new();
            for _ in 0..self.below(4) {
                let pool = if self.chance(60) { &made } else { &ids };
                if !pool.is_empty() {
                    let pool = pool.clone();
                    links.push(pool[self.below(pool.len())]);
                }
            }
            let content = self.next();
            let record = record(content, &links);
            made.push(record.id);
            assert!(self.sites[at].put(record, session));
        }
        let root = record(self.next(), &made);
        let mut id = [0; 32];
        id[..8].copy_from_slice(&self.next().to_le_bytes());
        let snapshot = Described { id: SnapshotId(id), root: root.id, time: self.now, bytes: 1 };
        assert!(self.sites[at].put(root, session) && self.sites[at].commit(snapshot));
        self.sites[at].leases.remove(&session);
        self.all.insert(snapshot.id, snapshot);
    }

    /// Somebody forgets, brings back, pins or unpins a snapshot that is seen there.
    fn say(&mut self, at: usize) {
        let seen: Vec<SnapshotId> = self.sites[at].snapshots.keys().copied().collect();
        if seen.is_empty() {
            return;
        }
        let snapshot = seen[self.below(seen.len())];
        let action = match self.below(10) {
            0..=4 => mark::Action::Forget,
            5 => mark::Action::Undelete,
            6..=7 => mark::Action::Pin,
            _ => mark::Action::Unpin,
        };
        match action {
            mark::Action::Forget => {
                self.tally.forgotten += 1;
                self.ever_forgotten.insert(snapshot);
            }
            _ => self.tally.pinned += 1,
        }
        let own = self.sites[at].marks.values().filter(|(mark, _)| mark.snapshot == snapshot);
        let counter = own.map(|(mark, _)| mark.counter).max().unwrap_or(0) + 1;
        // Clocks are wrong at times.
        let time = if self.chance(20) { self.now - GRACE * 3 } else { self.now };
        let mut id = [0; 32];
        id[..8].copy_from_slice(&self.next().to_le_bytes());
        let mark = Mark { repository: REPOSITORY, snapshot, action, counter, time };
        let now = self.now;
        self.sites[at].mark(MarkId(id), mark, now);
    }

    /// Connections of a site are gone; if it is one that stops, so is what does not last.
    fn stop(&mut self, site: usize, kept: usize) {
        for link in 0..self.links.len() {
            if self.links[link].dials == site || self.links[link].answers == site {
                self.disconnect(link);
            }
        }
        self.sites[site].crash(kept);
    }

    /// Only where nothing is lost for good by it.
    fn lose_disk(&mut self, site: usize) {
        let others: Vec<&Site> = self.sites.iter().enumerate().filter(|(n, _)| *n != site).map(|(_, s)| s).collect();
        let is_elsewhere = |id: &SnapshotId| {
            others.iter().any(|other| other.snapshots.contains_key(id) && other.lost.is_empty())
                && !self.ever_forgotten.contains(id)
        };
        let has_marks = |id: &MarkId| others.iter().any(|other| other.marks.contains_key(id));
        let own = &self.sites[site];
        if own.snapshots.is_empty() || !own.snapshots.keys().all(is_elsewhere) || !own.marks.keys().all(has_marks) {
            return;
        }
        self.tally.disks += 1;
        self.stop(site, 0);
        self.sites[site] = Site::default();
    }

    /// A blob is found damaged at one site; others have it.
    fn damage(&mut self, site: usize) {
        let whole: Vec<&Described> =
            self.sites[site].snapshots.values().filter(|s| !self.ever_forgotten.contains(&s.id)).collect();
        let pick = |s: &&Described| {
            self.sites.iter().all(|other| other.lost.is_empty() && other.snapshots.contains_key(&s.id))
        };
        let Some(snapshot) = whole.into_iter().find(pick).copied() else { return };
        let blobs = self.sites[site].closure(snapshot.root);
        let blob = blobs[self.below(blobs.len())];
        if !self.sites[site].volatile.contains(&blob) {
            self.sites[site].lost.insert(blob);
        }
    }
}
