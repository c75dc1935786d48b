//! The open files of a batch, and what is counted about them.

use super::job::{Batch, Job};
use super::run::{Run, add};
use super::target::{Failure, Outcome, Target};
use chunkstore::Result;
use rustix::fd::OwnedFd;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Files that are kept open while a batch runs.
const OPEN_FILES_MAX: usize = 256;

/// The open files of a batch.
pub struct Files<'a> {
    pub target: &'a Target,
    pub batch: &'a Batch,
    open: Mutex<HashMap<(usize, bool), Arc<OwnedFd>>>,
}

impl<'a> Files<'a> {
    pub fn new(target: &'a Target, batch: &'a Batch) -> Files<'a> {
        Files { target, batch, open: Mutex::new(HashMap::new()) }
    }

    /// A job's file, by the job's position.
    pub fn get(&self, job: usize, write: bool) -> Outcome<Arc<OwnedFd>> {
        let lock = || self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(fd) = lock().get(&(job, write)) {
            return Ok(fd.clone());
        }
        let opened = Arc::new(open(self.target, self.batch.jobs.get(job).ok_or(Failure::Raced)?, write)?);
        let mut files = lock();
        if files.len() >= OPEN_FILES_MAX {
            files.clear();
        }
        files.insert((job, write), opened.clone());
        Ok(opened)
    }
}

/// A job's file, checked to be the one that was planned for or created.
pub fn open(target: &Target, job: &Job, write: bool) -> Outcome<OwnedFd> {
    let meant = job.place.identity.get().ok_or(Failure::Raced)?;
    target.open_file(&job.place.directory, &job.place.name, *meant, write)
}

pub fn count_written(run: &Run<'_>, job: &Job, bytes: u64) {
    job.touch();
    add(&job.written, bytes);
    add(&run.tally.written_bytes, bytes);
    add(&run.monitor.counters().bytes_done, bytes);
}

pub fn count_kept(run: &Run<'_>, job: &Job, bytes: u64) {
    add(&job.kept, bytes);
    add(&run.tally.kept_bytes, bytes);
    add(&run.monitor.counters().bytes_done, bytes);
}

/// A failure belongs to its file, except one that ends the restore.
pub fn settle(job: &Job, outcome: Outcome<()>) -> Result<()> {
    let Err(failure) = outcome else { return Ok(()) };
    if let Some(error) = failure.fatal(&job.place.path()) {
        return Err(error);
    }
    job.place.fail(failure);
    Ok(())
}
