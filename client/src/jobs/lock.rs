//! Runs of one machine do not overlap: a lock of the kernel on a file of the state directory, bound to the open file, so
//! that it dies with the process, however it dies. The file's text is for people only.

use crate::clock;
use crate::error::{Error, Result};
use crate::session_files::create_private;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

const HOLDER_BYTES_MAX: u64 = 4096;

/// Held until it is dropped.
#[derive(Debug)]
pub struct RunLock {
    _file: File,
}

impl RunLock {
    /// Never waits: who comes second is told who holds it.
    pub fn take(state_dir: &Path, jobs: &[String]) -> Result<RunLock> {
        create_private(state_dir)?;
        let path = state_dir.join("run.lock");
        let failed = |error| Error::io("cannot lock", path.display().to_string(), error);
        let mut options = OpenOptions::new();
        let mut file =
            options.read(true).write(true).create(true).truncate(false).mode(0o600).open(&path).map_err(failed)?;
        match patiently(&file) {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                // Its holder may be about to write it: a name that is missing is better than none to be told.
                let _ = (&file).take(HOLDER_BYTES_MAX).read_to_string(&mut holder);
                let holder =
                    if holder.trim().is_empty() { "its process is not known".into() } else { holder.trim().into() };
                return Err(Error::RunGoingOn { holder });
            }
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        let since = clock::local(clock::now(), &clock::zone());
        let holder = format!("process {} since {since}, jobs {}\n", std::process::id(), jobs.join(" "));
        let written = file.set_len(0).and_then(|()| file.rewind()).and_then(|()| file.write_all(holder.as_bytes()));
        // A full disk is no reason not to run.
        let _ = written;
        Ok(RunLock { _file: file })
    }

    /// Whether a run is going on.
    pub fn is_held(state_dir: &Path) -> bool {
        let file = OpenOptions::new().read(true).write(true).open(state_dir.join("run.lock"));
        file.is_ok_and(|file| matches!(file.try_lock(), Err(TryLockError::WouldBlock)))
    }
}

/// Who only looks whether there is a run holds the lock for a moment.
fn patiently(file: &File) -> std::result::Result<(), TryLockError> {
    for _ in 0..5 {
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(20)),
            other => return other,
        }
    }
    file.try_lock()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_is_told_who_is_first_and_a_drop_frees() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("deep/state");
        assert!(!RunLock::is_held(&state));
        let first = RunLock::take(&state, &["web".into(), "db".into()]).unwrap();
        assert!(RunLock::is_held(&state));
        let second = RunLock::take(&state, &[]).unwrap_err();
        let process = format!("process {} since", std::process::id());
        assert!(
            matches!(second, Error::RunGoingOn { holder } if holder.contains(&process) && holder.contains("web db"))
        );
        drop(first);
        assert!(!RunLock::is_held(&state));
        RunLock::take(&state, &["x".into()]).unwrap();
    }
}
