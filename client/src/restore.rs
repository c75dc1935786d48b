//! Restore: snapshot, plan, read in storage order, write, attributes.
//!
//! Owners go by number; their names are for people and archives. What a target holds is compared first, so that a restore
//! over an older state, or one that continues an interrupted one, reads and writes what differs and nothing else.

mod target;

mod plan;

mod job;

mod bytes;

mod run;

mod remove;

mod files;

mod content;

mod finish;

mod write;

mod shared;

mod walk;

#[cfg(test)]
pub mod fixture;

#[cfg(test)]
mod tests;

#[cfg(test)]
pub use tests::everything;

use crate::monitor::Monitor;
use chunkstore::id::Reference;
use chunkstore::reader::Reader;
use chunkstore::tree::{Entry, Node};
use chunkstore::{Error, Result};
use run::{Run, Tally};
use rustix::io::Errno;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use target::Target;
use walk::Walk;

/// What is restored.
pub enum Selection {
    /// All of a snapshot: its top-level names appear below the target.
    Root(Reference),
    /// One entry: a directory's contents appear below the target, which takes its attributes; anything else appears
    /// in the target under its own name.
    Entry(Box<Entry>),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Overwrite {
    /// Compare contents; write what differs.
    Always,
    /// Leave files whose size and modification time agree unread.
    IfChanged,
    /// Leave whatever exists.
    Never,
}

pub struct Options {
    pub target: PathBuf,
    pub delete: bool,
    pub overwrite: Overwrite,
    pub dry_run: bool,
    /// Read back and compare every restored file afterwards.
    pub verify: bool,
    /// False leaves out setuid bits, devices and `security.*`, `trusted.*` attributes.
    pub special: bool,
}

#[derive(Default, Debug)]
pub struct Outcome {
    pub files: u64,
    pub directories: u64,
    pub others: u64,
    /// Entries that were already right.
    pub unchanged: u64,
    pub deleted: u64,
    /// Bytes of content written, and those found in place.
    pub written_bytes: u64,
    pub kept_bytes: u64,
    pub verified_files: u64,
    pub problems: u64,
    pub elapsed: Duration,
}

/// Pieces of memory up to this size are used again.
const KEPT_BYTES: usize = 8 << 20;

/// Restores a selection below the target. No path leaves the target and no symlink is followed, whatever the
/// repository or the target hold. Missing or damaged content fails its file, by name, and nothing else.
pub fn files(
    reader: &Reader,
    selection: &Selection,
    options: &Options,
    monitor: &dyn Monitor,
    interrupted: &AtomicBool,
) -> Result<Outcome> {
    let started = std::time::Instant::now();
    keep_memory();
    let run = Run { reader, options, monitor, interrupted, tally: Tally::default() };
    let (target, created) = open_target(options)?;
    let walk = Walk::new(&run, target.as_ref());
    match selection {
        Selection::Root(tree) => {
            refuse_emptying_the_system(options, target.as_ref())?;
            walk.directory(*tree, None, created)?;
        }
        Selection::Entry(entry) => match &entry.node {
            Node::Directory(tree) => walk.directory(*tree, Some(entry.attributes.clone()), created)?,
            _ => walk.single(Entry::clone(entry))?,
        },
    }
    run.name_omissions();
    let mut outcome = run.outcome();
    outcome.elapsed = started.elapsed();
    Ok(outcome)
}

/// The C library gives free memory back to the kernel beyond a bound that follows the largest piece freed so far, and takes larger
/// pieces anew each time. Where chunks come and go, that is new memory all the time, and to touch it costs more than what is done with it: so
/// the bound is set by one piece, which nobody touches.
fn keep_memory() {
    drop(std::hint::black_box(Vec::<u8>::with_capacity(KEPT_BYTES)));
}

/// Opens the target, which is created unless this is a dry run; says whether it is new.
fn open_target(options: &Options) -> Result<(Option<Target>, bool)> {
    let place = || options.target.display().to_string();
    let failed = |errno: Errno| Error::io("opening", place(), errno.into());
    match Target::open(&options.target, options.dry_run) {
        Ok(target) => Ok((Some(target), false)),
        Err(Errno::NOENT) if options.dry_run => Ok((None, true)),
        Err(Errno::NOENT) => {
            std::fs::create_dir_all(&options.target).map_err(|e| Error::io("creating", place(), e))?;
            Ok((Some(Target::open(&options.target, false).map_err(failed)?), true))
        }
        Err(errno) => Err(failed(errno)),
    }
}

/// A snapshot holds what was selected of a machine, so all else below `/` would be surplus.
fn refuse_emptying_the_system(options: &Options, target: Option<&Target>) -> Result<()> {
    let system = Target::open(Path::new("/"), true).map_err(|errno| Error::io("opening", "/", errno.into()))?;
    if options.delete && target.is_some_and(|target| target.root().identity == system.root().identity) {
        return Err(Error::invalid("--delete", "it would empty / of all that the snapshot does not hold"));
    }
    Ok(())
}
