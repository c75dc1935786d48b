//! The open files of a batch, and what is counted about them.

use super::bytes;
use super::job::{Batch, Job, Place};
use super::run::{Run, add};
use super::target::{Failure, Identity, Outcome, Target, system};
use chunkstore::Result;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs;
use rustix::io::Errno;
use std::collections::HashMap;
use std::sync::atomic::Ordering;
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
        if write {
            // What was open for reading may have been replaced.
            files.remove(&(job, false));
        }
        files.insert((job, write), opened.clone());
        Ok(opened)
    }
}

/// A job's file, checked to be the one that was planned for or created. A program that runs cannot be written to: it is
/// replaced by a copy, and goes on running from what it was.
pub fn open(target: &Target, job: &Job, write: bool) -> Outcome<OwnedFd> {
    let place = &job.place;
    let _renewing = job.renewing.lock().unwrap_or_else(PoisonError::into_inner);
    let meant = place.identity().ok_or(Failure::Raced)?;
    match target.open_file(&place.directory, &place.name, meant, write) {
        Err(failure) if failure.is(Errno::TXTBSY) => renew(target, place, meant),
        other => other,
    }
}

fn renew(target: &Target, place: &Place, meant: Identity) -> Outcome<OwnedFd> {
    let old = target.open_file(&place.directory, &place.name, meant, false)?;
    let temporary = format!(".nightkeep-{}", meant.text());
    // Left by a run that was killed.
    let _ = target.unlink(&place.directory, temporary.as_bytes());
    let new = target.create_file(&place.directory, temporary.as_bytes())?;
    let renewed = bytes::copy(old.as_fd(), new.as_fd())
        .and_then(|()| target.rename(&place.directory, temporary.as_bytes(), &place.name))
        .and_then(|()| fs::fstat(&new).map_err(system("looking at it")));
    match renewed {
        Ok(stat) => {
            place.set_identity(Identity::of(&stat));
            Ok(new)
        }
        Err(failure) => {
            let _ = target.unlink(&place.directory, temporary.as_bytes());
            Err(failure)
        }
    }
}

pub fn count_written(run: &Run<'_>, job: &Job, bytes: u64) {
    job.touch();
    add(&job.written, bytes);
    add(&run.tally.written_bytes, bytes);
    count(run, job, bytes);
}

pub fn count_kept(run: &Run<'_>, job: &Job, bytes: u64) {
    add(&run.tally.kept_bytes, bytes);
    count(run, job, bytes);
}

fn count(run: &Run<'_>, job: &Job, bytes: u64) {
    add(&job.counted, bytes);
    add(&run.monitor.counters().bytes_done, bytes);
}

/// Counts holes and what was not looked at, so that all sizes add up in the end.
pub fn count_rest(run: &Run<'_>, job: &Job) {
    let counted = job.counted.load(Ordering::Relaxed);
    count(run, job, job.size.saturating_sub(counted));
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
