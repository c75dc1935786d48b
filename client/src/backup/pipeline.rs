//! The threads of a backup, and what passes between them. Nothing else in this module starts threads.
//!
//! ```text
//! walk   ──> looks and listings to come ─> scouts, and back
//! survey ──> batches ───────────────────────────────┐
//!        ──> groups of small files ─> workers ──────┼─> assembly (the calling thread)
//!        ──> large files ─> readers ─> windows ─────┘
//!                                      └─> workers ─> back to their reader
//! ```
//! All queues are bounded. A batch waits only for what was sent before it, workers wait for nobody: so all of it ends. When one
//! side gives up, its channels close and the others follow.

use super::assemble::{Assembled, Assembler};
use super::chunks::{Chunks, Piece};
use super::cut::Storing;
use super::read::{Job, Reading, Saved};
use super::survey::{Outlets, Survey};
use super::walk::Task;
use chunkstore::id::Reference;
use chunkstore::store::Store;
use chunkstore::{Error, Result};
use crossbeam_channel::{Receiver, Sender, bounded};
use std::num::NonZero;

/// Files above [`super::read::SMALL_BYTES_MAX`] are read by so many threads.
const READERS: usize = 2;
/// The walk is looked ahead of by so many threads, which mostly wait for disks.
const SCOUTS: usize = 4;
const TASKS_MAX: usize = 64;
const BATCHES_MAX: usize = 4;
const LARGE_MAX: usize = 2;
/// Groups and windows that wait for a worker, for each worker.
const WORK_MAX: usize = 2;

/// What a worker does; it waits for nothing while doing it.
pub enum Work {
    Group(Group),
    Pieces(Pieces),
}

/// Small files, read and stored by one worker.
pub struct Group {
    pub jobs: Vec<Job>,
    pub done: Sender<Result<Vec<Option<Saved>>>>,
}

/// A window of a large content: chunks of these lengths from its front.
pub struct Pieces {
    pub window: Vec<u8>,
    pub lens: Vec<usize>,
    pub done: Sender<Result<(Vec<Reference>, Vec<u8>)>>,
}

pub struct Large {
    pub job: Job,
    pub done: Sender<Result<Vec<Option<Saved>>>>,
}

impl Pieces {
    pub fn store(self, chunks: &Chunks<'_>) {
        let mut rest = self.window.as_slice();
        let mut pieces = Vec::with_capacity(self.lens.len());
        for len in &self.lens {
            let (piece, after) = rest.split_at_checked(*len).unwrap_or((rest, &[]));
            pieces.push(Piece::from(piece));
            rest = after;
        }
        let stored = if pieces.is_empty() { Ok(Vec::new()) } else { chunks.put(&pieces) };
        let stored = stored.map_err(|error| chunks.halt.fail(error));
        // Who does not wait for it any more has given up.
        let _ = self.done.send(stored.map(|references| (references, self.window)));
    }
}

/// How many threads ask and compress.
fn workers(chunks: &Chunks<'_>) -> usize {
    std::thread::available_parallelism().map_or(1, NonZero::get) * chunks.gate.callers().max(1)
}

/// How many groups of small files there are at once, waiting, being read and being filled.
fn groups_max(workers: usize) -> usize {
    (WORK_MAX + 1) * workers + 1
}

/// Runs a survey to its end and assembles what it finds. `survey` makes it from its outlets.
pub fn run<'a>(
    reading: &Reading<'_>,
    assembler: Assembler<'_>,
    survey: impl FnOnce(Outlets<'a>) -> Survey<'a> + Send,
) -> Result<(Assembled, usize)> {
    let (batches, to_assemble) = bounded(BATCHES_MAX);
    let workers = workers(reading.chunks);
    let (work, to_work) = bounded(WORK_MAX * workers);
    let (large, to_read) = bounded(LARGE_MAX);
    let (ahead, tasks) = bounded(TASKS_MAX);
    let outcome = std::thread::scope(|scope| {
        for _ in 0..workers {
            let to_work = to_work.clone();
            scope.spawn(move || do_work(reading, &to_work));
        }
        drop(to_work);
        for _ in 0..READERS {
            let (to_read, work) = (to_read.clone(), work.clone());
            scope.spawn(move || read_large(reading, &to_read, &work));
        }
        drop(to_read);
        for _ in 0..SCOUTS {
            let tasks = tasks.clone();
            scope.spawn(move || tasks.into_iter().for_each(|task: Task<'_>| task()));
        }
        drop(tasks);
        let outlets = Outlets { batches, work, large, ahead, groups_max: groups_max(workers) };
        let found = scope.spawn(move || survey(outlets).run());
        let assembled = assembler.run(&to_assemble).map_err(|error| reading.chunks.halt.fail(error));
        drop(to_assemble);
        let found = found.join().map_err(|_| Error::invalid("backup", "its survey failed"));
        assembled.and_then(|assembled| Ok((assembled, found?)))
    });
    reading.chunks.halt.outcome(outcome)
}

/// Runs workers for a content that `read` cuts.
pub fn with_workers<T>(chunks: &Chunks<'_>, read: impl FnOnce(Storing<'_>) -> Result<T>) -> Result<T> {
    let workers = workers(chunks);
    let (work, to_work) = bounded(WORK_MAX * workers);
    let outcome = std::thread::scope(|scope| {
        for _ in 0..workers {
            let to_work: Receiver<Work> = to_work.clone();
            scope.spawn(move || {
                for work in to_work {
                    if let Work::Pieces(pieces) = work {
                        pieces.store(chunks);
                    }
                }
            });
        }
        let outcome = read(Storing::Workers(&work));
        drop(work);
        outcome
    });
    chunks.halt.outcome(outcome)
}

fn do_work(reading: &Reading<'_>, work: &Receiver<Work>) {
    let mut buffer = Vec::new();
    for work in work {
        match work {
            Work::Group(group) => {
                let saved = reading.small(group.jobs, &mut buffer);
                let _ = group.done.send(saved.map_err(|error| reading.chunks.halt.fail(error)));
            }
            Work::Pieces(pieces) => pieces.store(reading.chunks),
        }
    }
}

fn read_large(reading: &Reading<'_>, large: &Receiver<Large>, work: &Sender<Work>) {
    let mut spare = Vec::new();
    for Large { job, done } in large {
        reading.report.monitor.current(&job.path);
        let saved = reading.large(job, Storing::Workers(work), &mut spare);
        let _ = done.send(saved.map(|saved| vec![saved]).map_err(|error| reading.chunks.halt.fail(error)));
    }
}
