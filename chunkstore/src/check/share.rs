//! The packs of a check, shared out to its threads.
//!
//! A thread takes a part of a pack that is in memory already, and reads another pack only if there is none. So at most as
//! many packs are in memory as there are threads, and all of these are done at about the same time.

use super::packs::{Held, Part};
use super::{Check, Gathered, lock};
use crate::error::{Error, Result};
use crate::index::PackRow;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

/// Bytes of a pack that were used are kept for the next.
type Memory = Vec<u8>;

pub(super) struct Packs<'p> {
    check: &'p Check<'p>,
    /// Each with whether its data is read.
    packs: &'p [(PackRow, bool)],
    total: u64,
    gathered: Mutex<Gathered>,
    queue: Mutex<Queue<'p>>,
    /// A pack that was being read has parts now, or will have none.
    arrived: Condvar,
    packs_read: AtomicU64,
    bytes_read: AtomicU64,
}

#[derive(Default)]
struct Queue<'p> {
    next: usize,
    parts: VecDeque<(Arc<Open<'p>>, Part)>,
    /// Threads that may bring parts.
    reading: usize,
    memories: Vec<Memory>,
    /// Something failed: nobody need go on.
    stopped: bool,
}

/// A pack of which parts are left.
struct Open<'p> {
    held: Held<'p>,
    /// False if only its trailer was to be read.
    chosen: bool,
}

enum Task<'p> {
    Part(Arc<Open<'p>>, Part),
    Pack(&'p PackRow, bool, Memory),
}

/// A thread that may bring parts, until this is dropped.
struct Reading<'a, 'p>(&'a Packs<'p>);

impl Drop for Reading<'_, '_> {
    fn drop(&mut self) {
        lock(&self.0.queue).reading -= 1;
        self.0.arrived.notify_all();
    }
}

impl<'p> Packs<'p> {
    pub fn new(check: &'p Check<'p>, packs: &'p [(PackRow, bool)]) -> Packs<'p> {
        let total = packs.iter().filter(|(_, chosen)| *chosen).map(|(pack, _)| pack.length).sum();
        Packs {
            check,
            packs,
            total,
            gathered: Mutex::default(),
            queue: Mutex::default(),
            arrived: Condvar::new(),
            packs_read: AtomicU64::new(0),
            bytes_read: AtomicU64::new(0),
        }
    }

    /// One thread's work; ends when nothing is left, or with the first error of any.
    pub fn work(&self) -> Result<()> {
        while let Some(task) = self.next() {
            let done = match task {
                _ if self.check.interrupted.load(Ordering::Relaxed) => Err(Error::Interrupted),
                Task::Part(open, part) => self.part(open, part),
                Task::Pack(pack, chosen, memory) => {
                    let _reading = Reading(self);
                    self.pack(pack, chosen, memory)
                }
            };
            if done.is_err() {
                lock(&self.queue).stopped = true;
                self.arrived.notify_all();
                return done;
            }
        }
        Ok(())
    }

    /// What was gathered; how many packs were read, and bytes of packs.
    pub fn finish(self) -> (Gathered, u64, u64) {
        let gathered = self.gathered.into_inner().unwrap_or_else(PoisonError::into_inner);
        (gathered, self.packs_read.into_inner(), self.bytes_read.into_inner())
    }

    fn next(&self) -> Option<Task<'p>> {
        let mut queue = lock(&self.queue);
        loop {
            if queue.stopped {
                return None;
            }
            if let Some((open, part)) = queue.parts.pop_front() {
                return Some(Task::Part(open, part));
            }
            if let Some((pack, chosen)) = self.packs.get(queue.next) {
                queue.next += 1;
                queue.reading += 1;
                return Some(Task::Pack(pack, *chosen, queue.memories.pop().unwrap_or_default()));
            }
            if queue.reading == 0 {
                return None;
            }
            queue = self.arrived.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn pack(&self, pack: &'p PackRow, chosen: bool, memory: Memory) -> Result<()> {
        if !chosen && self.check.check_structure(pack, &self.gathered)? {
            lock(&self.queue).memories.push(memory);
            return Ok(());
        }
        let Some(held) = self.check.hold(pack, memory, &self.gathered)? else {
            self.count(pack, chosen);
            return Ok(());
        };
        let open = Arc::new(Open { held, chosen });
        let parts = open.held.parts().map(|part| (Arc::clone(&open), part)).collect::<Vec<_>>();
        lock(&self.queue).parts.extend(parts);
        self.close(open)
    }

    fn part(&self, open: Arc<Open<'p>>, part: Part) -> Result<()> {
        self.check.check_part(&open.held, part, &self.gathered)?;
        self.close(open)
    }

    /// Whoever has a pack last settles it.
    fn close(&self, open: Arc<Open<'p>>) -> Result<()> {
        let Some(Open { held, chosen }) = Arc::into_inner(open) else { return Ok(()) };
        self.check.settle(&held, &self.gathered)?;
        self.count(held.pack, chosen);
        lock(&self.queue).memories.push(held.bytes);
        Ok(())
    }

    fn count(&self, pack: &PackRow, chosen: bool) {
        if chosen {
            self.packs_read.fetch_add(1, Ordering::Relaxed);
            let done = self.bytes_read.fetch_add(pack.length, Ordering::Relaxed) + pack.length;
            (self.check.progress)(done, self.total);
        }
    }
}
