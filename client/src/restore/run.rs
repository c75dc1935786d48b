//! One restore while it runs: what it works with, what it has done so far, and its threads.

use super::target::Failure;
use super::{Options, Outcome};
use crate::metadata::apply::{Omission, Rules};
use crate::monitor::Monitor;
use chunkstore::reader::Reader;
use chunkstore::{Error, Result};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

pub struct Run<'a> {
    pub reader: &'a Reader,
    pub options: &'a Options,
    pub monitor: &'a dyn Monitor,
    pub interrupted: &'a AtomicBool,
    pub tally: Tally,
}

/// Figures that workers add to.
#[derive(Default)]
pub struct Tally {
    pub files: AtomicU64,
    pub directories: AtomicU64,
    pub others: AtomicU64,
    pub unchanged: AtomicU64,
    pub deleted: AtomicU64,
    pub written_bytes: AtomicU64,
    pub kept_bytes: AtomicU64,
    pub verified_files: AtomicU64,
    problems: AtomicU64,
    omissions: Mutex<BTreeMap<Omission, Omitted>>,
}

/// The entries that lack one attribute.
struct Omitted {
    first: Vec<u8>,
    errno: Errno,
    count: u64,
}

pub fn add(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::Relaxed);
}

impl Run<'_> {
    pub fn rules(&self) -> Rules {
        Rules { special: self.options.special, dry_run: self.options.dry_run }
    }

    pub fn check_interrupted(&self) -> Result<()> {
        if self.interrupted.load(Ordering::Relaxed) { Err(Error::Interrupted) } else { Ok(()) }
    }

    pub fn problem(&self, path: &[u8], reason: &str) {
        add(&self.tally.problems, 1);
        self.monitor.problem(path, reason);
    }

    /// A failure of one item: named, unless nothing more can be written at all.
    pub fn failed(&self, path: &[u8], failure: &Failure) -> Result<()> {
        if let Some(error) = failure.fatal(path) {
            return Err(error);
        }
        self.problem(path, &failure.to_string());
        Ok(())
    }

    /// Notes attributes that were left out. They are named together at the end: a restore by an ordinary user may have one
    /// for every file.
    pub fn omitted(&self, path: &[u8], omitted: Vec<(Omission, Errno)>) {
        let mut omissions = self.tally.omissions.lock().unwrap_or_else(PoisonError::into_inner);
        for (omission, errno) in omitted {
            omissions.entry(omission).or_insert_with(|| Omitted { first: path.to_vec(), errno, count: 0 }).count += 1;
        }
    }

    pub fn name_omissions(&self) {
        let omissions = std::mem::take(&mut *self.tally.omissions.lock().unwrap_or_else(PoisonError::into_inner));
        for (omission, omitted) in omissions {
            let what = match omission {
                Omission::Owner => "owner".to_owned(),
                Omission::Mode => "mode".to_owned(),
                Omission::ModificationTime => "modification time".to_owned(),
                Omission::Flags => "inode flags".to_owned(),
                Omission::ExtendedAttribute(name) => {
                    format!("extended attribute {}", String::from_utf8_lossy(&name).escape_debug())
                }
            };
            let others = match omitted.count - 1 {
                0 => String::new(),
                n => format!(" (and of {n} more)"),
            };
            let cause = std::io::Error::from(omitted.errno);
            self.problem(&omitted.first, &format!("its {what} could not be set{others}: {cause}"));
        }
    }

    pub fn outcome(&self) -> Outcome {
        let figure = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let tally = &self.tally;
        Outcome {
            files: figure(&tally.files),
            directories: figure(&tally.directories),
            others: figure(&tally.others),
            unchanged: figure(&tally.unchanged),
            deleted: figure(&tally.deleted),
            written_bytes: figure(&tally.written_bytes),
            kept_bytes: figure(&tally.kept_bytes),
            verified_files: figure(&tally.verified_files),
            problems: figure(&tally.problems),
            elapsed: std::time::Duration::ZERO,
        }
    }

    /// Does `work` for every number below `count`, on all cores. The first error stops all and is returned.
    pub fn parallel(&self, count: usize, work: impl Fn(usize) -> Result<()> + Sync) -> Result<()> {
        let next = AtomicUsize::new(0);
        let error = Mutex::new(None);
        let worker = || {
            loop {
                let n = next.fetch_add(1, Ordering::Relaxed);
                if n >= count {
                    return;
                }
                if let Err(e) = self.check_interrupted().and_then(|()| work(n)) {
                    next.store(count, Ordering::Relaxed);
                    error.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(e);
                    return;
                }
            }
        };
        let workers = std::thread::available_parallelism().map_or(1, usize::from).min(count);
        std::thread::scope(|scope| {
            for _ in 1..workers {
                scope.spawn(worker);
            }
            worker();
        });
        error.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
    }
}
