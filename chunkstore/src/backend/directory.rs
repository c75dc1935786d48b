//! Objects as files of a local directory.
//!
//! A put is: temporary file, write, fsync, rename, fsync of the directory. Names come from typed ids, never from
//! outside, so no path leaves the root. Temporary files of dead writers are removed when the lock is taken.

use super::{Backend, ObjectKind, ObjectName, WriterLock};
use crate::error::{Error, Result};
use crate::id::{MarkId, PackId, SlotId, SnapshotId};
use rustix::buffer::spare_capacity;
use rustix::fs::{self as unix, RenameFlags};
use rustix::io::{Errno, pread};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

const LOCK_POLL: Duration = Duration::from_millis(100);
const HOLDER_BYTES_MAX: u64 = 4096;

/// An object is written in pieces of this size. For a whole pack at once some kernels take memory in blocks so large that a hypervisor has
/// taken them back, and each page of them is fetched again: ten times the time.
const PIECE_BYTES: usize = 1 << 20;

pub struct Directory {
    root: PathBuf,
    temporaries: AtomicU64,
}

impl Directory {
    /// Makes the directories of a new repository, durably. The root may exist if it is empty.
    pub fn create(root: &Path) -> Result<Directory> {
        if root.join("REPO").exists() || root.join("REPO.copy").exists() {
            return Err(Error::RepositoryExists { place: root.display().to_string() });
        }
        match fs::read_dir(root) {
            Ok(mut entries) => {
                if entries.next().is_some() {
                    return Err(Error::invalid(root.display().to_string(), "the directory is not empty"));
                }
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(Error::io("read", root.display().to_string(), e)),
        }
        make_directory(root)?;
        refuse_network(root)?;
        lay_out(root)?;
        if let Some(parent) = root.parent().filter(|p| !p.as_os_str().is_empty()) {
            sync_directory(parent)?;
        }
        Directory::open(root)
    }

    pub fn open(root: &Path) -> Result<Directory> {
        if !root.join("packs").is_dir() || !root.join("snapshots").is_dir() {
            return Err(Error::NoRepository { place: root.display().to_string() });
        }
        Ok(Directory { root: root.to_owned(), temporaries: AtomicU64::new(0) })
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    fn path(&self, name: ObjectName) -> PathBuf {
        let root = &self.root;
        match name {
            ObjectName::Configuration => root.join("REPO"),
            ObjectName::ConfigurationCopy => root.join("REPO.copy"),
            ObjectName::KeySlot(id) => root.join("keys").join(id.hex()),
            ObjectName::Pack(id) => {
                let hex = id.hex();
                root.join("packs").join(hex.get(..2).unwrap_or_default()).join(hex)
            }
            ObjectName::Snapshot(id) => root.join("snapshots").join(id.hex()),
            ObjectName::Mark(id) => root.join("marks").join(id.hex()),
        }
    }

    /// Writes and syncs a temporary file; it is removed again on any error, and its descriptor is not used after one.
    fn write_temporary(&self, name: ObjectName, bytes: &[u8]) -> Result<PathBuf> {
        let number = self.temporaries.fetch_add(1, Ordering::Relaxed);
        let path = self.root.join("tmp").join(format!("{}-{number}", std::process::id()));
        let written = (|| {
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
            bytes.chunks(PIECE_BYTES).try_for_each(|piece| file.write_all(piece))?;
            file.sync_all()
        })();
        match written {
            Ok(()) => Ok(path),
            Err(e) => {
                let _ = fs::remove_file(&path);
                Err(Error::io("write", name.to_string(), e))
            }
        }
    }

    fn list_directory(
        &self,
        path: &Path,
        parse: &dyn Fn(&str) -> Option<ObjectName>,
        found: &mut Vec<(ObjectName, u64)>,
    ) -> Result<()> {
        let fail = |e| Error::io("list", path.display().to_string(), e);
        let entries = match fs::read_dir(path) {
            // Copies of a repository may lack its empty directories. Objects that should be there are missed by their links.
            Err(e) if e.kind() == io::ErrorKind::NotFound && self.root.join("packs").is_dir() => return Ok(()),
            other => other.map_err(fail)?,
        };
        for entry in entries {
            let entry = entry.map_err(fail)?;
            let Some(name) = entry.file_name().to_str().and_then(parse) else { continue };
            match entry.metadata() {
                Ok(metadata) => found.push((name, metadata.len())),
                // Deleted by a writer while we list.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(fail(e)),
            }
        }
        Ok(())
    }

    fn remove_temporaries(&self) -> Result<()> {
        let path = self.root.join("tmp");
        let fail = |e| Error::io("clean", path.display().to_string(), e);
        for entry in fs::read_dir(&path).map_err(fail)? {
            fs::remove_file(entry.map_err(fail)?.path()).map_err(fail)?;
        }
        Ok(())
    }
}

impl Backend for Directory {
    fn put(&self, name: ObjectName, bytes: &[u8]) -> Result<()> {
        let path = self.path(name);
        let temporary = self.write_temporary(name, bytes)?;
        let renamed = match unix::renameat_with(unix::CWD, &temporary, unix::CWD, &path, RenameFlags::NOREPLACE) {
            Err(Errno::EXIST) if fs::read(&path).is_ok_and(|there| there == bytes) => fs::remove_file(&temporary),
            // What stands there under this name is damaged: replace it. So do file systems without NOREPLACE.
            Err(Errno::EXIST | Errno::INVAL | Errno::NOSYS) => fs::rename(&temporary, &path),
            other => other.map_err(io::Error::from),
        };
        if let Err(e) = renamed {
            let _ = fs::remove_file(&temporary);
            return Err(Error::io("rename", name.to_string(), e));
        }
        sync_parent(&path)
    }

    fn get(&self, name: ObjectName) -> Result<Vec<u8>> {
        fs::read(self.path(name)).map_err(|e| read_error(name, e))
    }

    fn get_into(&self, name: ObjectName, bytes: &mut Vec<u8>) -> Result<()> {
        bytes.clear();
        let read = File::open(self.path(name)).and_then(|mut file| file.read_to_end(bytes));
        read.map(drop).map_err(|e| read_error(name, e))
    }

    fn get_range(&self, name: ObjectName, offset: u64, len: usize) -> Result<Vec<u8>> {
        let file = File::open(self.path(name)).map_err(|e| read_error(name, e))?;
        let end = file.metadata().map_err(|e| read_error(name, e))?.len();
        // Before the allocation: a hostile index must not choose its size.
        if offset.checked_add(len as u64).is_none_or(|wanted| wanted > end) {
            return Err(Error::corrupt(name.to_string(), format!("it ends at {end}")));
        }
        let mut bytes = Vec::with_capacity(len);
        while bytes.len() < len {
            let at = offset + bytes.len() as u64;
            match pread(&file, spare_capacity(&mut bytes), at) {
                Ok(0) => return Err(read_error(name, io::ErrorKind::UnexpectedEof.into())),
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(read_error(name, errno.into())),
            }
        }
        // There may have been room for more.
        bytes.truncate(len);
        Ok(bytes)
    }

    fn uncache(&self, name: ObjectName) {
        // Who cannot open it now says so when it is read.
        if let Ok(file) = File::open(self.path(name)) {
            let _ = unix::fadvise(&file, 0, None, unix::Advice::DontNeed);
        }
    }

    fn list(&self, kind: ObjectKind) -> Result<Vec<(ObjectName, u64)>> {
        let mut found = Vec::new();
        match kind {
            ObjectKind::KeySlot => {
                let parse = |name: &str| SlotId::from_hex(name).ok().map(ObjectName::KeySlot);
                self.list_directory(&self.root.join("keys"), &parse, &mut found)?;
            }
            ObjectKind::Snapshot => {
                let parse = |name: &str| SnapshotId::from_hex(name).ok().map(ObjectName::Snapshot);
                self.list_directory(&self.root.join("snapshots"), &parse, &mut found)?;
            }
            ObjectKind::Mark => {
                let parse = |name: &str| MarkId::from_hex(name).ok().map(ObjectName::Mark);
                self.list_directory(&self.root.join("marks"), &parse, &mut found)?;
            }
            ObjectKind::Pack => {
                for prefix in 0..=u8::MAX {
                    let parse = |name: &str| {
                        let id = PackId::from_hex(name).ok().filter(|id| id.0.first() == Some(&prefix))?;
                        Some(ObjectName::Pack(id))
                    };
                    let path = self.root.join("packs").join(format!("{prefix:02x}"));
                    self.list_directory(&path, &parse, &mut found)?;
                }
            }
        }
        found.sort_unstable();
        Ok(found)
    }

    fn delete(&self, name: ObjectName) -> Result<()> {
        let path = self.path(name);
        match fs::remove_file(&path) {
            Ok(()) => sync_parent(&path),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(Error::io("delete", name.to_string(), e)),
        }
    }

    fn lock(&self, holder: &str, wait: Duration) -> Result<Box<dyn WriterLock>> {
        refuse_network(&self.root)?;
        let path = self.root.join("writer.lock");
        let fail = |e| Error::io("lock", path.display().to_string(), e);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(fail)?;
        let deadline = Instant::now() + wait;
        loop {
            match file.try_lock() {
                Ok(()) => break,
                Err(fs::TryLockError::Error(e)) => return Err(fail(e)),
                Err(fs::TryLockError::WouldBlock) if Instant::now() < deadline => std::thread::sleep(LOCK_POLL),
                Err(fs::TryLockError::WouldBlock) => {
                    let mut text = String::new();
                    let _ = (&mut file).take(HOLDER_BYTES_MAX).read_to_string(&mut text);
                    let holder = if text.is_empty() { "another process".to_owned() } else { text };
                    return Err(Error::Locked { holder });
                }
            }
        }
        // The text is for people only; the lock itself is the kernel's and dies with the process.
        let _ = file.set_len(0).and_then(|()| file.write_all_at(holder.as_bytes(), 0));
        lay_out(&self.root)?;
        self.remove_temporaries()?;
        Ok(Box::new(DirectoryLock { file }))
    }
}

/// The lock belongs to the open file: closing it, in whatever way the process ends, releases it.
struct DirectoryLock {
    file: File,
}

impl WriterLock for DirectoryLock {}

impl Drop for DirectoryLock {
    fn drop(&mut self) {
        let _ = self.file.set_len(0);
    }
}

/// The directories of a repository, durable; those that are there stay.
fn lay_out(root: &Path) -> Result<()> {
    let mut made = false;
    let prefixes = (0..=u8::MAX).map(|prefix| format!("packs/{prefix:02x}"));
    for name in ["keys", "packs", "snapshots", "marks", "tmp"].map(str::to_owned).into_iter().chain(prefixes) {
        let path = root.join(name);
        if !path.is_dir() {
            make_directory(&path)?;
            made = true;
        }
    }
    if made {
        sync_directory(&root.join("packs"))?;
        sync_directory(root)?;
    }
    Ok(())
}

fn make_directory(path: &Path) -> Result<()> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|e| Error::io("create", path.display().to_string(), e))
}

fn read_error(name: ObjectName, e: io::Error) -> Error {
    match e.kind() {
        io::ErrorKind::NotFound => Error::missing(name.to_string()),
        _ => Error::io("read", name.to_string(), e),
    }
}

fn sync_parent(path: &Path) -> Result<()> {
    path.parent().map_or(Ok(()), sync_directory)
}

fn sync_directory(path: &Path) -> Result<()> {
    File::open(path).and_then(|d| d.sync_all()).map_err(|e| Error::io("sync", path.display().to_string(), e))
}

/// SQLite's log and advisory locks need one host: a network file system would tell two hosts that each holds the lock.
fn refuse_network(root: &Path) -> Result<()> {
    const NETWORK: [(u32, &str); 7] = [
        (0x6969, "NFS"),
        (0x517b, "SMB"),
        (0xff53_4d42, "CIFS"),
        (0xfe53_4d42, "SMB2"),
        (0x00c3_6400, "Ceph"),
        (0x0102_1997, "9P"),
        (0x5346_414f, "AFS"),
    ];
    let place = || root.display().to_string();
    let kind = unix::statfs(root).map_err(|e| Error::io("examine", place(), e.into()))?.f_type;
    // A signed 32-bit field on some machines.
    #[allow(clippy::useless_conversion, reason = "its type differs between architectures")]
    let kind = i64::from(kind) & 0xffff_ffff;
    match NETWORK.iter().find(|(magic, _)| i64::from(*magic) == kind) {
        Some((_, name)) => Err(Error::Unsupported {
            object: place(),
            reason: format!("a repository cannot be written on a network file system ({name})"),
        }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::io::{Errno, ReadWriteFlags, preadv2};

    #[test]
    fn an_object_that_is_uncached_comes_from_the_disk() {
        let root = tempfile::tempdir().unwrap();
        let directory = Directory::create(root.path()).unwrap();
        let name = ObjectName::Pack(PackId([7; 32]));
        let object: Vec<u8> = (0..1u32 << 18).flat_map(u32::to_le_bytes).collect();
        directory.put(name, &object).unwrap();
        let without_waiting = || {
            let file = File::open(directory.path(name)).unwrap();
            let mut page = vec![0; 4096];
            preadv2(&file, &mut [io::IoSliceMut::new(&mut page)], 8192, ReadWriteFlags::NOWAIT)
        };
        if without_waiting() == Err(Errno::OPNOTSUPP) {
            return eprintln!("skipped: this file system does not tell what of it is in memory");
        }
        assert_eq!(without_waiting(), Ok(4096), "what was just written is in memory");
        const TMPFS: i64 = 0x0102_1994;
        #[allow(clippy::useless_conversion, reason = "its type differs between architectures")]
        if i64::from(unix::statfs(root.path()).unwrap().f_type) == TMPFS {
            return eprintln!("skipped: this file system is memory");
        }
        // It is advice: pages that the kernel itself is at work on stay for a moment.
        let is_uncached = (0..100).any(|_| {
            directory.uncache(name);
            let is_uncached = without_waiting() == Err(Errno::AGAIN);
            if !is_uncached {
                std::thread::sleep(Duration::from_millis(10));
            }
            is_uncached
        });
        assert!(is_uncached);
        assert_eq!(directory.get(name).unwrap(), object);
        directory.uncache(ObjectName::Pack(PackId([8; 32])));
    }
}
