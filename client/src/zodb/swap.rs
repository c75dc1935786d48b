//! What was restored takes the place of what is there, by names alone: one exchange for the blobs, one for the storage.
//!
//! There is no moment without a storage. Between the two exchanges, which follow each other at once, the old storage has the new
//! blobs; if the second fails the first is taken back.

use super::site::index_of;
use chunkstore::{Error, Result};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;
use std::ffi::OsString;
use std::fs::File;
use std::path::{Path, PathBuf};

pub struct Swapped {
    /// Where what was there is now.
    pub kept: Vec<PathBuf>,
}

/// Puts a restored storage (with its index beside it) and blobs, each told as `(target, restored)`, in place.
pub fn swap(data: (&Path, &Path), blobs: Option<(&Path, &Path)>, stamp: &str) -> Result<Swapped> {
    sync_all(data.1, blobs.map(|(_, restored)| restored))?;
    let mut kept = Vec::new();
    if let Some((target, restored)) = blobs {
        kept.extend(put(target, restored, &aside(target, stamp))?);
    }
    let old_index = index_of(data.0);
    let data_aside = aside(data.0, stamp);
    // An index of the old storage must never stand beside the new one.
    let moved = if old_index.exists() { rename(&old_index, &index_of(&data_aside)) } else { Ok(()) };
    match moved.and_then(|()| put(data.0, data.1, &data_aside)) {
        Ok(old) => kept.extend(old),
        Err(error) => {
            if let Some((target, restored)) = blobs {
                take_back(target, restored, &aside(target, stamp));
            }
            if index_of(&data_aside).exists() {
                rename(&index_of(&data_aside), &old_index)?;
            }
            return Err(error);
        }
    }
    let index = index_of(data.1);
    if index.exists() {
        rename(&index, &old_index)?;
    }
    for target in std::iter::once(data.0).chain(blobs.map(|(target, _)| target)) {
        sync_parent(target)?;
    }
    Ok(Swapped { kept })
}

/// The name that what is at `target` gets.
fn aside(target: &Path, stamp: &str) -> PathBuf {
    let mut name = OsString::from(target.file_name().unwrap_or_default());
    name.push(format!(".before_{stamp}"));
    target.with_file_name(name)
}

/// `restored` becomes `target`; what was there is at `aside` then.
fn put(target: &Path, restored: &Path, aside: &Path) -> Result<Option<PathBuf>> {
    let failed = |errno: Errno| Error::io("replace", target.display().to_string(), errno.into());
    if std::fs::symlink_metadata(target).is_err() {
        renameat_with(CWD, restored, CWD, target, RenameFlags::NOREPLACE).map_err(failed)?;
        return Ok(None);
    }
    match renameat_with(CWD, restored, CWD, target, RenameFlags::EXCHANGE) {
        Ok(()) => rename(restored, aside)?,
        // Not every file system can exchange: then there is a moment without it.
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
            rename(target, aside)?;
            if let Err(error) = rename(restored, target) {
                rename(aside, target)?;
                return Err(error);
            }
        }
        Err(errno) => return Err(failed(errno)),
    }
    Ok(Some(aside.to_owned()))
}

fn take_back(target: &Path, restored: &Path, aside: &Path) {
    // What cannot be taken back is still there under the name that was told.
    let _ = rename(target, restored);
    let _ = rename(aside, target);
}

fn rename(from: &Path, to: &Path) -> Result<()> {
    std::fs::rename(from, to).map_err(|error| Error::io("rename", from.display().to_string(), error))
}

/// All that was restored is on the disk before anything has its name.
fn sync_all(data: &Path, blobs: Option<&Path>) -> Result<()> {
    for path in std::iter::once(data).chain(blobs) {
        let file = File::open(path).map_err(|error| Error::io("open", path.display().to_string(), error))?;
        rustix::fs::syncfs(&file).map_err(|errno| Error::io("sync", path.display().to_string(), errno.into()))?;
    }
    Ok(())
}

fn sync_parent(path: &Path) -> Result<()> {
    let parent = path.parent().unwrap_or(Path::new("/"));
    let sync = || File::open(parent)?.sync_all();
    sync().map_err(|error| Error::io("sync", parent.display().to_string(), error))
}
