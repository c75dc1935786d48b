//! A store seen through the wishes of one backup: an upload limit, or a dry run that stores nothing.

use chunkstore::capsule::Capsule;
use chunkstore::configuration::Configuration;
use chunkstore::id::{BlobId, CapsuleId, HalfTag, MarkId, SnapshotId, Tag};
use chunkstore::mark::Mark;
use chunkstore::record::Record;
use chunkstore::snapshot::Snapshot;
use chunkstore::store::Store;
use chunkstore::{Error, Result};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A dry run remembers so many contents; those after them may be counted twice.
const PRETENDED_MAX: usize = 1 << 20;

pub struct Gate<'s> {
    store: &'s dyn Store,
    bucket: Option<Mutex<Bucket>>,
    /// In a dry run, what would have been stored.
    pretended: Option<Mutex<HashMap<Tag, BlobId>>>,
    interrupted: &'s AtomicBool,
}

/// Bytes that may go now; filled with time, up to what a second brings.
struct Bucket {
    bytes_per_second: f64,
    level: f64,
    filled: Instant,
}

impl<'s> Gate<'s> {
    pub fn new(
        store: &'s dyn Store,
        bytes_per_second: Option<u64>,
        dry_run: bool,
        interrupted: &'s AtomicBool,
    ) -> Gate<'s> {
        let bucket = bytes_per_second.map(|bytes| Mutex::new(Bucket::new(bytes, Instant::now())));
        Gate { store, bucket, pretended: dry_run.then(Mutex::default), interrupted }
    }

    /// Nothing is stored; contents need not be sealed.
    pub fn is_dry(&self) -> bool {
        self.pretended.is_some()
    }

    /// In a dry run: remembers a content as stored. False if it was already.
    pub fn pretend(&self, tag: Tag, id: BlobId) -> bool {
        let Some(pretended) = &self.pretended else { return false };
        let mut pretended = lock(pretended);
        pretended.len() >= PRETENDED_MAX || pretended.insert(tag, id).is_none()
    }

    fn wait_for(&self, bytes: usize) -> Result<()> {
        let Some(bucket) = &self.bucket else { return Ok(()) };
        let mut wait = lock(bucket).take(bytes, Instant::now());
        while !wait.is_zero() {
            if self.interrupted.load(Ordering::Relaxed) {
                return Err(Error::Interrupted);
            }
            let nap = wait.min(Duration::from_millis(100));
            std::thread::sleep(nap);
            wait -= nap;
        }
        Ok(())
    }
}

impl Bucket {
    fn new(bytes_per_second: u64, now: Instant) -> Bucket {
        #[expect(clippy::cast_precision_loss, reason = "a limit needs no more than 53 bits")]
        let bytes_per_second = bytes_per_second.max(1) as f64;
        Bucket { bytes_per_second, level: bytes_per_second, filled: now }
    }

    /// Takes bytes that may not be there yet: how long to wait for them.
    fn take(&mut self, bytes: usize, now: Instant) -> Duration {
        let since = now.saturating_duration_since(self.filled).as_secs_f64();
        self.filled = now;
        self.level = (self.level + since * self.bytes_per_second).min(self.bytes_per_second);
        #[expect(clippy::cast_precision_loss, reason = "a record has few bytes")]
        let bytes = bytes as f64;
        self.level -= bytes;
        let missing = (-self.level / self.bytes_per_second).max(0.0);
        Duration::try_from_secs_f64(missing).unwrap_or(Duration::MAX)
    }
}

impl Store for Gate<'_> {
    fn configuration(&self) -> &Configuration {
        self.store.configuration()
    }

    fn callers(&self) -> usize {
        self.store.callers()
    }

    fn known(&self, tags: &[Tag]) -> Result<Vec<Option<BlobId>>> {
        let mut known = self.store.known(tags)?;
        if let Some(pretended) = &self.pretended {
            let pretended = lock(pretended);
            for (answer, tag) in known.iter_mut().zip(tags) {
                *answer = answer.or_else(|| pretended.get(tag).copied());
            }
        }
        Ok(known)
    }

    fn present(&self, ids: &[BlobId]) -> Result<Vec<bool>> {
        self.store.present(ids)
    }

    fn generation(&self) -> Result<[u8; 16]> {
        self.store.generation()
    }

    fn alternate(&self, tag: HalfTag) -> Result<Option<BlobId>> {
        self.store.alternate(tag)
    }

    fn put(&self, record: Record, capsule: &Capsule) -> Result<BlobId> {
        if self.is_dry() {
            self.pretend(record.tag, record.id);
            return Ok(record.id);
        }
        self.wait_for(record.bytes.len())?;
        self.store.put(record, capsule)
    }

    fn flush(&self) -> Result<()> {
        if self.is_dry() { Ok(()) } else { self.store.flush() }
    }

    fn commit(&self, snapshot: &Snapshot) -> Result<()> {
        if self.is_dry() { Ok(()) } else { self.store.commit(snapshot) }
    }

    fn snapshots(&self) -> Result<Vec<(SnapshotId, Result<Snapshot>)>> {
        self.store.snapshots()
    }

    fn marks(&self) -> Result<Vec<(MarkId, Result<(Mark, Vec<u8>)>)>> {
        self.store.marks()
    }

    fn mark(&self, object: &[u8]) -> Result<()> {
        if self.is_dry() { Ok(()) } else { self.store.mark(object) }
    }

    fn arrange(&self, ids: &[BlobId]) -> Result<Vec<Vec<usize>>> {
        self.store.arrange(ids)
    }

    fn read(&self, ids: &[BlobId]) -> Result<Vec<Result<Record>>> {
        self.store.read(ids)
    }

    fn capsule(&self, id: CapsuleId) -> Result<Capsule> {
        self.store.capsule(id)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bucket_lets_through_what_the_limit_says() {
        let start = Instant::now();
        let mut bucket = Bucket::new(1000, start);
        assert_eq!(bucket.take(1000, start), Duration::ZERO, "one second's worth may go at once");
        assert_eq!(bucket.take(500, start), Duration::from_millis(500));
        let later = start + Duration::from_millis(500);
        assert_eq!(bucket.take(0, later), Duration::ZERO);
        assert_eq!(bucket.take(2000, later), Duration::from_secs(2));
        let much_later = start + Duration::from_secs(3600);
        assert_eq!(bucket.take(1000, much_later), Duration::ZERO, "idle time does not add up");
        assert_eq!(bucket.take(100, much_later), Duration::from_millis(100));
    }
}
