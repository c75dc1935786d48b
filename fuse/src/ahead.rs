//! Reading ahead: which readers go through a file in order, how far ahead of them, and the threads that do it. What lies behind such a
//! reader is let go: the kernel has it, and the same memory used again is faster than new memory.
//!
//! There are no open files to hang this on (the kernel does not tell of them): a stream is a file's number and the offset
//! where the next read is expected. A window is dropped rather than waited for.

use chunkstore::id::Reference;
use chunkstore::list::Item;
use chunkstore::reader::Reader;
use chunkstore::record::Kind;
use chunkstore::tree::Content;
use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use std::ops::{ControlFlow, Range};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread::JoinHandle;

const STREAMS_MAX: usize = 64;
/// One job of a thread.
const STRETCH: u64 = 1 << 20;
const WINDOW_MIN: u64 = 1 << 20;
const WINDOW_MAX: u64 = 8 << 20;
/// Reads of one stream arrive from several threads, so their order is only nearly that of the reader.
const SLACK: u64 = 2 << 20;
const JOBS_MAX: usize = 256;

/// Which reader is used at the moment; another one replaces it when the repository was opened anew.
pub type Current = Arc<RwLock<Arc<Reader>>>;

pub struct Ahead {
    streams: Mutex<Streams>,
    jobs: Option<Sender<Job>>,
    threads: Vec<JoinHandle<()>>,
}

enum Job {
    Stretch(Content, Range<u64>),
    Behind(Content, Range<u64>),
    Directories(Vec<Reference>),
}

impl Ahead {
    /// With so many threads; `room` is what the cache of chunks holds.
    pub fn new(reader: &Current, threads: usize, room: u64) -> std::io::Result<Ahead> {
        let (sender, receiver) = bounded(JOBS_MAX);
        let start = |at: usize| {
            let (reader, receiver) = (Arc::clone(reader), receiver.clone());
            std::thread::Builder::new().name(format!("ahead-{at}")).spawn(move || work(&reader, &receiver))
        };
        let threads = (0..threads).map(start).collect::<std::io::Result<Vec<_>>>()?;
        let streams = Mutex::new(Streams::new((room / 4).min(WINDOW_MAX)));
        Ok(Ahead { streams, jobs: Some(sender), threads })
    }

    /// A read that is about to be served: what follows it is fetched, if it looks like one in a row.
    pub fn follow(&self, number: u64, content: &Content, read: Range<u64>) {
        if matches!(content, Content::Inline(_)) {
            return;
        }
        let mut streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(Around { ahead, behind }) = streams.note(number, &read, content.size()) else { return };
        drop(streams);
        self.start(Job::Behind(content.clone(), behind));
        let mut at = ahead.start;
        while at < ahead.end {
            let end = (at / STRETCH + 1).saturating_mul(STRETCH).min(ahead.end);
            self.start(Job::Stretch(content.clone(), at..end));
            at = end;
        }
    }

    /// Directories that are likely to be listed next.
    pub fn directories(&self, trees: Vec<Reference>) {
        if !trees.is_empty() {
            self.start(Job::Directories(trees));
        }
    }

    fn start(&self, job: Job) {
        // What is dropped here is read when it is wanted.
        if let Some(jobs) = &self.jobs {
            match jobs.try_send(job) {
                Ok(()) | Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {}
            }
        }
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        self.jobs = None;
        for thread in self.threads.drain(..) {
            // It has told what it had to tell.
            let _ = thread.join();
        }
    }
}

fn work(reader: &Current, jobs: &Receiver<Job>) {
    while let Ok(job) = jobs.recv() {
        let reader = Arc::clone(&reader.read().unwrap_or_else(PoisonError::into_inner));
        // Whoever wants what fails here fails by itself, and tells why.
        let _ = match job {
            Job::Stretch(content, range) => fetch(&reader, &content, range),
            Job::Behind(content, range) => let_go(&reader, &content, range),
            Job::Directories(trees) => reader.prefetch(Kind::Tree, &trees),
        };
    }
}

fn fetch(reader: &Reader, content: &Content, range: Range<u64>) -> chunkstore::Result<()> {
    let mut links = Vec::new();
    reader.items(content, range, &mut |_, item| {
        links.extend(item.slice().map(|slice| slice.link));
        Ok(ControlFlow::Continue(()))
    })?;
    links.retain(|link| !reader.is_at_hand(link));
    reader.shared(&links).map(drop)
}

/// The chunks that end in a range. One that files share is still of use to its other files.
fn let_go(reader: &Reader, content: &Content, range: Range<u64>) -> chunkstore::Result<()> {
    let (mut links, end) = (Vec::new(), range.end);
    reader.items(content, range, &mut |at, item| {
        if let Item::Chunk { len, link } = item
            && at.saturating_add(len) <= end
        {
            links.push(link);
        }
        Ok(ControlFlow::Continue(()))
    })?;
    reader.let_go(&links);
    Ok(())
}

/// What to do around a reader in order.
#[derive(PartialEq, Eq, Debug)]
struct Around {
    ahead: Range<u64>,
    behind: Range<u64>,
}

struct Streams {
    streams: Vec<Stream>,
    window_max: u64,
    clock: u64,
}

struct Stream {
    number: u64,
    /// The end of what was read.
    next: u64,
    /// The end of what was fetched.
    ahead: u64,
    /// The end of what was let go.
    behind: u64,
    window: u64,
    used: u64,
}

impl Streams {
    fn new(window_max: u64) -> Streams {
        Streams { streams: Vec::with_capacity(STREAMS_MAX), window_max, clock: 0 }
    }

    /// What is to be fetched, and let go, because of this read.
    fn note(&mut self, number: u64, read: &Range<u64>, size: u64) -> Option<Around> {
        self.clock += 1;
        let clock = self.clock;
        let follows = |stream: &&mut Stream| {
            stream.number == number
                && read.start <= stream.next.saturating_add(SLACK)
                && read.end.saturating_add(SLACK) >= stream.next
        };
        let Some(stream) = self.streams.iter_mut().find(follows) else {
            let (next, ahead, behind) = (read.end, read.end, read.start);
            self.start(Stream { number, next, ahead, behind, window: 0, used: clock });
            return None;
        };
        stream.used = clock;
        // Something near, but not onwards: nothing to follow.
        if read.end <= stream.next {
            return None;
        }
        stream.next = read.end;
        stream.window = (stream.window * 2).clamp(WINDOW_MIN, WINDOW_MAX).min(self.window_max);
        let from = stream.ahead.max(read.end);
        let until = read.end.saturating_add(stream.window).min(size);
        // In steps, so that there are few jobs; the last one whatever it is.
        if until <= from || (until - from < stream.window / 4 && until < size) {
            return None;
        }
        stream.ahead = until;
        let read_by_all = read.end.saturating_sub(SLACK).max(stream.behind);
        Some(Around { ahead: from..until, behind: std::mem::replace(&mut stream.behind, read_by_all)..read_by_all })
    }

    fn start(&mut self, stream: Stream) {
        if self.streams.len() < STREAMS_MAX {
            self.streams.push(stream);
        } else if let Some(oldest) = self.streams.iter_mut().min_by_key(|stream| stream.used) {
            *oldest = stream;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn a_reader_in_order_is_followed_to_the_end_and_never_twice() {
        let (size, step) = (100 * MIB, 128 << 10);
        let mut streams = Streams::new(WINDOW_MAX);
        let (mut ahead, mut behind, mut at) = (0, 0, 0);
        while at < size {
            let around = streams.note(7, &(at..at + step), size);
            at += step;
            if let Some(Around { ahead: wanted, behind: done }) = around {
                assert!(wanted.start >= ahead && wanted.end <= size && wanted.end <= at + WINDOW_MAX);
                assert!(ahead == 0 || wanted.start == ahead, "no gap");
                ahead = wanted.end;
                assert!(done.start == behind && done.end <= at.saturating_sub(SLACK), "{done:?} while at {at}");
                behind = done.end;
            }
            assert!(at < 4 * MIB || ahead >= (at + WINDOW_MAX / 2).min(size), "{at} {ahead}");
        }
        assert_eq!(ahead, size);
        assert!(behind >= size - WINDOW_MAX - SLACK - 2 * STRETCH, "what was read is let go: {behind}");
    }

    #[test]
    fn random_reads_fetch_nothing_more() {
        let mut streams = Streams::new(WINDOW_MAX);
        let mut at = 1u64;
        for _ in 0..1000 {
            at = at.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let offset = (at >> 20) & !4095;
            assert!(streams.note(7, &(offset..offset + 4096), u64::MAX).is_none());
        }
        assert_eq!(streams.streams.len(), STREAMS_MAX);
    }

    #[test]
    fn sixteen_readers_of_one_file_are_sixteen_streams() {
        let mut streams = Streams::new(WINDOW_MAX);
        for step in 0..8u64 {
            for reader in 0..16u64 {
                let offset = reader * 64 * MIB + step * MIB;
                streams.note(7, &(offset..offset + MIB), 1024 * MIB);
            }
        }
        assert_eq!(streams.streams.len(), 16);
        assert!(streams.streams.iter().all(|stream| stream.window == WINDOW_MAX));
    }

    #[test]
    fn a_small_cache_has_a_small_window() {
        let mut streams = Streams::new(MIB / 2);
        for step in 0..10u64 {
            if let Some(around) = streams.note(7, &(step * MIB..(step + 1) * MIB), 100 * MIB) {
                assert!(around.ahead.end - around.ahead.start <= MIB / 2);
            }
        }
    }
}
