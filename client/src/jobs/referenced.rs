//! Files that a database names: what was there when the job began must be in the snapshot of the files, or the two do not
//! belong together. Names only, in memory, up to a bound.

use std::collections::BTreeSet;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

const NAMES_BYTES_MAX: usize = 256 << 20;

/// The files that were there and were not yet seen to be saved.
#[derive(Default, Debug)]
pub struct Expected {
    files: BTreeSet<Vec<u8>>,
}

impl Expected {
    /// All files below `directories`; None if there are more than can be remembered. What cannot be read, the backup itself
    /// will tell of.
    pub fn list(directories: &[PathBuf]) -> Option<Expected> {
        let mut expected = Expected::default();
        let mut bytes = 0;
        let mut pending: Vec<PathBuf> = directories.to_vec();
        while let Some(directory) = pending.pop() {
            let Ok(entries) = directory.read_dir() else { continue };
            for entry in entries.flatten() {
                match entry.file_type() {
                    Ok(kind) if kind.is_dir() => pending.push(entry.path()),
                    Ok(kind) if kind.is_file() => {
                        let path = entry.path().as_os_str().as_bytes().to_vec();
                        bytes += path.len() + 64;
                        expected.files.insert(path);
                    }
                    _ => {}
                }
                if bytes > NAMES_BYTES_MAX {
                    return None;
                }
            }
        }
        Some(expected)
    }

    /// What the backup says of an item.
    pub fn seen(&mut self, verb: &str, path: &[u8]) {
        if self.files.is_empty() || self.files.remove(path) || verb != "excluded" {
            return;
        }
        let path = path.strip_suffix(b"/").unwrap_or(path);
        let below = [path, b"/"].concat();
        let mut rest = self.files.split_off(&below);
        let first_after = rest.iter().find(|file| !file.starts_with(&below)).cloned();
        if let Some(after) = first_after {
            self.files.append(&mut rest.split_off(&after));
        }
    }

    /// What is not there any more. A file that is still there was left out, which is not its disappearance.
    pub fn gone(self) -> Vec<Vec<u8>> {
        let is_gone = |path: &Vec<u8>| {
            let path = Path::new(std::ffi::OsStr::from_bytes(path));
            path.symlink_metadata().is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound)
        };
        self.files.into_iter().filter(is_gone).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_vanished_unsaved_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("store");
        std::fs::create_dir_all(root.join("backup")).unwrap();
        std::fs::create_dir_all(root.join("backup-old")).unwrap();
        for name in ["saved", "gone", "saved-then-gone", "left-out", "backup/x", "backup/y", "backup-old/z"] {
            std::fs::write(root.join(name), name).unwrap();
        }
        let mut expected = Expected::list(&[root.clone(), dir.path().join("absent")]).unwrap();
        assert_eq!(expected.files.len(), 7);
        let path = |name: &str| root.join(name).as_os_str().as_bytes().to_vec();
        expected.seen("new", &path("saved"));
        expected.seen("unchanged", &path("saved-then-gone"));
        expected.seen("excluded", &path("backup"));
        expected.seen("new", &path("never listed"));
        std::fs::remove_dir_all(root.join("backup")).unwrap();
        for name in ["gone", "saved-then-gone", "backup-old/z"] {
            std::fs::remove_file(root.join(name)).unwrap();
        }
        assert_eq!(expected.gone(), [path("backup-old/z"), path("gone")]);
    }
}
