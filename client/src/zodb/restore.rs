//! Brings a storage back: beside its target first, looked through to its end, and only then swapped with what is there.
//!
//! Whenever it is stopped before the swap, what was there is as it was; what was restored so far lies beside it and is used
//! when the same restore is run again. What was there is kept under another name.

use super::blobs::{self, Blobs};
use super::save::resolve;
use super::site::index_of;
use super::storage::{Forward, Storage, Tail};
use super::swap::{Swapped, swap};
use super::transaction::{FIRST, TRAILER_LEN, Tid};
use super::{index, lock};
use crate::monitor::Monitor;
use crate::restore::{self as engine, Options, Overwrite, Selection};
use chunkstore::id::Reference;
use chunkstore::reader::Reader;
use chunkstore::tree::{Entry, Node};
use chunkstore::{Error, Result};
use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use rustix::fs::FlockOperation;
use std::ffi::{OsStr, OsString};
use std::fs::{DirBuilder, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

/// Which state is wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum At {
    /// With this transaction, and none after it.
    Tid(Tid),
    /// With all transactions up to this moment.
    Time(Timestamp),
}

/// What a snapshot says of its storage.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Source {
    pub root: Reference,
    pub data_fs: PathBuf,
    pub index: Option<PathBuf>,
    pub blobs: Option<PathBuf>,
    /// The others are told relative to it.
    pub base: PathBuf,
    pub last: Option<Tid>,
    /// Blobs were missing when it was saved.
    pub is_incomplete: bool,
}

/// What goes where.
pub struct Plan {
    pub source: Source,
    pub at: Option<At>,
    /// Distinguishes this restore from others beside the same target.
    pub name: String,
    pub data_fs: PathBuf,
    pub blobs: Option<PathBuf>,
}

#[derive(Debug)]
pub struct Restored {
    pub transactions: u64,
    pub last: Option<Tid>,
    pub data_bytes: u64,
    pub blobs: u64,
    /// Where what was there before is now.
    pub kept: Vec<PathBuf>,
    pub problems: u64,
}

impl At {
    /// Sixteen hex digits, `YYYY-MM-DD[-HH[-MM[-SS]]]` (UTC), or RFC 3339.
    pub fn parse(text: &str) -> Option<At> {
        if let Some(tid) = Tid::parse(text) {
            return Some(At::Tid(tid));
        }
        let parts: Vec<&str> = text.split('-').collect();
        let is_plain = parts.iter().all(|part| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()));
        if !is_plain || !(3..=6).contains(&parts.len()) {
            return text.parse().ok().map(At::Time);
        }
        let part = |at: usize| parts.get(at).map_or(Some(0), |part| part.parse::<i8>().ok());
        let year = parts.first()?.parse().ok()?;
        let civil = DateTime::new(year, part(1)?, part(2)?, part(3)?, part(4)?, part(5)?, 0).ok()?;
        TimeZone::UTC.to_timestamp(civil).ok().map(At::Time)
    }
}

impl Source {
    /// From a snapshot's root and facts. `None`: it is not of a storage.
    pub fn read(root: Reference, facts: &[(String, Vec<u8>)], is_incomplete: bool) -> Option<Source> {
        let fact = |key: &str| facts.iter().find(|(found, _)| found == key).map(|(_, value)| value.as_slice());
        let path = |key: &str| fact(key).map(|value| PathBuf::from(OsStr::from_bytes(value)));
        let last = fact("zodb.last.tid").and_then(|tid| Tid::parse(std::str::from_utf8(tid).ok()?));
        Some(Source {
            root,
            data_fs: path("zodb.data_fs")?,
            index: path("zodb.index"),
            blobs: path("zodb.blobs"),
            base: path("zodb.root")?,
            last,
            is_incomplete,
        })
    }
}

impl Plan {
    /// Where a source is restored below `target`. Refused if a server has the target open.
    pub fn new(source: Source, target: &Path, at: Option<At>, name: &str) -> Result<Plan> {
        let target =
            std::path::absolute(target).map_err(|error| Error::io("find", target.display().to_string(), error))?;
        // What is there may be a link to where it really is.
        let below = |path: &Path| {
            let name = path.file_name().map_or(path, Path::new);
            let path = target.join(path.strip_prefix(&source.base).unwrap_or(name));
            path.canonicalize().unwrap_or(path)
        };
        let data_fs = below(&source.data_fs);
        let blobs = source.blobs.as_deref().map(below);
        for path in std::iter::once(&data_fs).chain(&blobs) {
            let device = |path: &Path| std::fs::metadata(path).ok().map(|meta| meta.dev());
            let above = path.parent().and_then(device);
            if device(path).zip(above).is_some_and(|(own, above)| own != above) {
                let reason = "it is a mount point, so nothing can take its place: restore elsewhere and move it there";
                return Err(Error::invalid(path.display().to_string(), reason));
            }
        }
        if let Some(process) = lock::holder(&data_fs) {
            let reason = format!("process {process} has it open: stop the ZEO server or the instance first");
            return Err(Error::invalid(data_fs.display().to_string(), reason));
        }
        Ok(Plan { source, at, name: name.to_owned(), data_fs, blobs })
    }

    /// Whether there is room for all that the snapshot holds, beside what is there.
    pub fn check_space(&self, bytes: u64) -> Result<()> {
        let there = self.data_fs.ancestors().find(|path| path.is_dir()).unwrap_or(Path::new("/"));
        let Ok(stat) = rustix::fs::statvfs(there) else { return Ok(()) };
        let free = stat.f_bavail.saturating_mul(stat.f_frsize);
        if free < bytes {
            let reason = format!("{bytes} bytes are needed beside what is there, {free} are free");
            return Err(Error::invalid(there.display().to_string(), reason));
        }
        Ok(())
    }

    fn stage_of(&self, target: &Path) -> PathBuf {
        let mut name = OsString::from(".");
        name.push(target.file_name().unwrap_or(OsStr::new("target")));
        name.push(format!(".restoring-{}", self.name));
        target.with_file_name(name)
    }
}

/// Carries it out. `stamp` is part of the names that what is there gets.
pub fn restore(
    reader: &Reader,
    plan: &Plan,
    stamp: &str,
    monitor: &dyn Monitor,
    interrupted: &AtomicBool,
) -> Result<Restored> {
    let engine = Engine { reader, monitor, interrupted, root: plan.source.root };
    let data_stage = plan.stage_of(&plan.data_fs);
    let blobs_stage = plan.blobs.as_deref().map(|blobs| plan.stage_of(blobs));
    engine.make_parent(&plan.data_fs, &plan.source.data_fs)?;
    if let (Some(blobs), Some(source)) = (&plan.blobs, &plan.source.blobs) {
        engine.make_parent(blobs, source)?;
    }
    let _lock = stage(&data_stage)?;
    let name = plan.source.data_fs.file_name().unwrap_or(OsStr::new("Data.fs"));
    let mut problems = engine.restore(&plan.source.data_fs, &data_stage)?;
    if let Some(index) = &plan.source.index {
        match engine.restore(index, &data_stage) {
            // A server does without it.
            Err(error) if error.is_damage() => (),
            restored => problems += restored?,
        }
    }
    if let (Some(source), Some(stage)) = (&plan.source.blobs, &blobs_stage) {
        problems += engine.restore(source, stage)?;
    }
    // A file whose content cannot be read is not there now; the other problems are of owners and attributes.
    let checked = check(plan, &data_stage.join(name), blobs_stage.as_deref(), monitor);
    let checked = checked.map_err(|error| lost(plan, error)).inspect_err(|error| {
        if error.is_damage() {
            discard(&data_stage, blobs_stage.as_deref());
        }
    })?;
    if interrupted.load(std::sync::atomic::Ordering::Relaxed) {
        return Err(Error::Interrupted);
    }
    // It may have been started since.
    if let Some(process) = lock::holder(&plan.data_fs) {
        let reason = format!("process {process} has opened it meanwhile; nothing was touched");
        return Err(Error::invalid(plan.data_fs.display().to_string(), reason));
    }
    let blobs = plan.blobs.as_deref().zip(blobs_stage.as_deref());
    let Swapped { kept } = swap((&plan.data_fs, &data_stage.join(name)), blobs, stamp)?;
    // Empty by now, unless a file of the system's own is in it.
    let _ = std::fs::remove_dir_all(&data_stage);
    Ok(Restored { kept, problems: checked.problems + problems, ..checked })
}

struct Engine<'a> {
    reader: &'a Reader,
    monitor: &'a dyn Monitor,
    interrupted: &'a AtomicBool,
    root: Reference,
}

impl Engine<'_> {
    fn entry(&self, path: &Path) -> Result<Entry> {
        let bytes = path.as_os_str().as_bytes();
        let path_below = bytes.strip_prefix(b"/").unwrap_or(bytes);
        let found = self.reader.resolve(self.root, path_below)?;
        found.ok_or_else(|| Error::missing(format!("{} in the snapshot", path.display())))
    }

    /// A file into a directory, or a directory as `into`. How many problems there were.
    fn restore(&self, path: &Path, into: &Path) -> Result<u64> {
        let options = Options {
            target: into.to_owned(),
            delete: false,
            overwrite: Overwrite::Always,
            dry_run: false,
            verify: false,
            special: true,
        };
        let selection = Selection::Entry(Box::new(self.entry(path)?));
        Ok(engine::files(self.reader, &selection, &options, self.monitor, self.interrupted)?.problems)
    }

    /// The directory that a target is in, as it was in the snapshot, unless it is there.
    fn make_parent(&self, target: &Path, source: &Path) -> Result<()> {
        let (Some(parent), Some(source)) = (target.parent(), source.parent()) else { return Ok(()) };
        if parent.is_dir() {
            return Ok(());
        }
        self.make_parent(parent, source)?;
        let failed = |error| Error::io("create", parent.display().to_string(), error);
        std::fs::create_dir(parent).map_err(failed)?;
        let attributes = match self.entry(source) {
            Ok(Entry { attributes, node: Node::Directory(_), .. }) => attributes,
            _ => return Ok(()),
        };
        // Whoever is not root owns what is made.
        let _ = std::os::unix::fs::chown(parent, Some(attributes.uid), Some(attributes.gid));
        let mode = std::os::unix::fs::PermissionsExt::from_mode(attributes.mode);
        std::fs::set_permissions(parent, mode).map_err(failed)
    }
}

/// A directory of our own beside the target, which nobody else restores into as long as the answer is held.
fn stage(directory: &Path) -> Result<File> {
    let failed = |error| Error::io("create", directory.display().to_string(), error);
    DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed)?;
    let file = File::open(directory).map_err(failed)?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(_) => Err(Error::invalid(directory.display().to_string(), "another restore is using it")),
    }
}

fn discard(data: &Path, blobs: Option<&Path>) {
    // What stays is restored over the next time.
    for directory in std::iter::once(data).chain(blobs) {
        let _ = std::fs::remove_dir_all(directory);
    }
}

/// What could not be restored is told as a fault of the snapshot, not of a path of ours.
fn lost(plan: &Plan, error: Error) -> Error {
    if error.is_damage() || matches!(error, Error::Io { .. }) {
        let reason = format!("it was not replaced, since what was restored is not whole: {error}");
        return Error::corrupt(plan.data_fs.display().to_string(), reason);
    }
    error
}

/// Cuts what was restored where it is wanted, and looks through all of it.
fn check(plan: &Plan, data_fs: &Path, blobs_stage: Option<&Path>, monitor: &dyn Monitor) -> Result<Restored> {
    if let Some(at) = plan.at {
        cut(data_fs, at)?;
    }
    let storage = Storage::open(data_fs)?;
    let mut forward = Forward::whole(&storage);
    let mut buffer = vec![0; 1 << 20];
    while forward.read(&mut buffer)? > 0 {}
    if forward.tail != Tail::Nothing {
        return Err(Error::corrupt(
            storage.name(),
            format!("it does not end with the transaction before {}", forward.end),
        ));
    }
    let (end, mut found) = (forward.end, forward.scan.found);
    resolve(&storage, &mut found)?;
    let last = found.last.map(|last| last.tid);
    if plan.at.is_none() && plan.source.last.is_some() && last != plan.source.last {
        return Err(Error::corrupt(storage.name(), "its last transaction is not the one that was saved last"));
    }
    let index = index_of(data_fs);
    if index.exists() && index::position(&index, &storage, end)?.is_none() {
        std::fs::remove_file(&index).map_err(|error| Error::io("remove", index.display().to_string(), error))?;
    }
    let blobs = Blobs::new(found.blobs);
    let mut problems = 0;
    if let Some(stage) = blobs_stage {
        look_through(stage, stage, &blobs)?;
        for missing in blobs.missing() {
            let path = blobs::path_of(stage, blobs::is_lawn(stage), missing);
            if !plan.source.is_incomplete {
                return Err(Error::missing(format!("blob {}", path.display())));
            }
            let shown = plan.blobs.as_deref().unwrap_or(stage).join(path.strip_prefix(stage).unwrap_or(&path));
            monitor.problem(shown.as_os_str().as_bytes(), "blob is missing in the snapshot");
            problems += 1;
        }
    }
    Ok(Restored {
        transactions: found.transactions,
        last,
        data_bytes: end,
        blobs: blobs.names().len() as u64 - problems,
        kept: Vec::new(),
        problems,
    })
}

/// Cuts a storage after the transaction that is wanted.
fn cut(data_fs: &Path, at: At) -> Result<()> {
    let storage = Storage::open(data_fs)?;
    let limit = match at {
        At::Tid(tid) => tid,
        At::Time(time) => Tid::at(time),
    };
    let (mut end, mut last, mut first) = (FIRST, None, None);
    while let Some(transaction) = storage.transaction(end, storage.stat.size)? {
        first.get_or_insert(transaction.tid);
        if transaction.tid > limit {
            break;
        }
        last = Some(transaction.tid);
        end += transaction.len + TRAILER_LEN;
    }
    let refused = |reason: String| Error::invalid("--at", reason);
    match (at, last) {
        (At::Tid(tid), last) if last != Some(tid) => {
            return Err(refused(format!("the snapshot holds no transaction {tid}")));
        }
        (_, None) => {
            let first =
                first.map_or_else(String::new, |first| format!(": its first is {first} of {}", first.shown_time()));
            return Err(refused(format!("the snapshot holds no transaction as early{first}")));
        }
        _ => (),
    }
    let failed = |error| Error::io("cut", data_fs.display().to_string(), error);
    let file = File::options().write(true).open(data_fs).map_err(failed)?;
    file.set_len(end).and_then(|()| file.sync_all()).map_err(failed)
}

/// Removes blobs of later transactions, and directories that have none then.
fn look_through(directory: &Path, stage: &Path, blobs: &Blobs) -> Result<()> {
    let failed = |error| Error::io("read", directory.display().to_string(), error);
    for entry in std::fs::read_dir(directory).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let (path, kind) = (entry.path(), entry.file_type().map_err(failed)?);
        let below = path.strip_prefix(stage).unwrap_or(&path);
        let is_kept = blobs.keep(below.as_os_str().as_bytes(), kind.is_dir());
        let outcome = match (is_kept, kind.is_dir()) {
            (true, true) => look_through(&path, stage, blobs),
            (true, false) => Ok(()),
            (false, true) => std::fs::remove_dir_all(&path).map_err(failed),
            (false, false) => std::fs::remove_file(&path).map_err(failed),
        };
        outcome?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_told_in_three_ways() {
        let time = |text: &str| Some(At::Time(text.parse().unwrap()));
        assert_eq!(At::parse("040d29ac82222222"), Some(At::Tid(Tid(0x040d_29ac_8222_2222))));
        assert_eq!(At::parse("2026-11-21-10-20-30"), time("2026-11-21T10:20:30Z"));
        assert_eq!(At::parse("2026-11-21-10"), time("2026-11-21T10:00:00Z"));
        assert_eq!(At::parse("2026-11-21"), time("2026-11-21T00:00:00Z"));
        assert_eq!(At::parse("2026-11-21T11:20:30+01:00"), time("2026-11-21T10:20:30Z"));
        assert_eq!(At::parse("2026-11-21T10:20:30.5Z"), time("2026-11-21T10:20:30.5Z"));
        for wrong in [
            "",
            "2026",
            "2026-11",
            "2026-13-01",
            "2026-11-21-25",
            "2026-11-21-1-2-3-4",
            "yesterday",
            "2026-11-21T10:20:30",
        ] {
            assert_eq!(At::parse(wrong), None, "{wrong}");
        }
    }
}
