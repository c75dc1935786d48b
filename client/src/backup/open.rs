//! What a name is at the moment it is opened, and its bytes.

use super::read::Job;
use crate::metadata::capture::Stat;
use rustix::buffer::spare_capacity;
use rustix::fs::{Mode, OFlags, SeekFrom};
use rustix::io::{Errno, pread};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsFd;

/// A file that changes while it is read is read again so many times.
pub const RETRIES: usize = 3;

pub enum Opened {
    Regular(File, Stat),
    /// A type that is not opened.
    Special(Stat),
}

/// Opens what is there now.
pub fn open(job: &Job) -> io::Result<Opened> {
    if !job.stat.is_regular() {
        return match Stat::at(job.directory.as_fd(), &job.name) {
            // A regular file where there was something else: once more, as such.
            Ok(stat) if stat.is_regular() => open_regular(job),
            Ok(stat) => Ok(Opened::Special(stat)),
            Err(error) => Err(vanished(error)),
        };
    }
    open_regular(job)
}

fn open_regular(job: &Job) -> io::Result<Opened> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
    let open = |more| rustix::fs::openat(job.directory.as_fd(), &*job.name, flags | more, Mode::empty());
    let mut failure = Errno::LOOP;
    for _ in 0..=RETRIES {
        let opened = match open(OFlags::NOATIME) {
            Err(Errno::PERM) => open(OFlags::empty()),
            opened => opened,
        };
        let stat = match &opened {
            Ok(file) => Stat::of(file.as_fd()),
            Err(_) => Stat::at(job.directory.as_fd(), &job.name),
        };
        match (opened, stat) {
            (Ok(file), Ok(stat)) if stat.is_regular() => return Ok(Opened::Regular(file.into(), stat)),
            (_, Ok(stat)) if !stat.is_regular() => return Ok(Opened::Special(stat)),
            (Err(error), Ok(_)) if !matches!(error, Errno::LOOP | Errno::NXIO) => {
                return Err(error.into());
            }
            (Err(error), Ok(_)) => failure = error,
            (_, Err(error)) => return Err(vanished(error)),
            (Ok(_), Ok(_)) => (),
        }
    }
    Err(failure.into())
}

pub fn is_same_after(file: &File, before: &Stat) -> bool {
    Stat::of(file.as_fd()).is_ok_and(|after| after.is_same_state(before))
}

/// Appends up to `size` bytes of a file.
pub fn read_whole(file: &File, size: u64, buffer: &mut Vec<u8>) -> io::Result<()> {
    let start = buffer.len();
    let end = start.saturating_add(usize::try_from(size).map_err(io::Error::other)?);
    buffer.reserve(end - start);
    while buffer.len() < end {
        let at = (buffer.len() - start) as u64;
        match pread(file, spare_capacity(buffer), at) {
            Ok(0) => break,
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => {
                buffer.truncate(start);
                return Err(errno.into());
            }
        }
    }
    // There may have been room for more.
    buffer.truncate(end);
    Ok(())
}

/// The next stretch of data from `at` on; empty at `size` if there is none. A file system that knows of no holes
/// has none.
pub fn next_data(file: &File, at: u64, size: u64) -> Range<u64> {
    let start = match rustix::fs::seek(file, SeekFrom::Data(at)) {
        Ok(start) => start.clamp(at, size),
        Err(Errno::NXIO) => return size..size,
        Err(_) => return at..size,
    };
    let end = match rustix::fs::seek(file, SeekFrom::Hole(start)) {
        Ok(end) if end > start => end.min(size),
        _ => size,
    };
    start..end
}

fn vanished(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::NotFound => io::Error::other("it vanished while it was read"),
        _ => error,
    }
}
