//! Whether a server has a storage open: it holds an advisory lock on the file beside it as long as it lives.
//!
//! The kernel's list of locks is read, so that nobody who is about to take the lock is kept from it.

use super::site::lock_of;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// The process that has the storage open, if one of this machine does; 0 if it cannot be seen which.
pub fn holder(data_fs: &Path) -> Option<u32> {
    let inode = std::fs::metadata(lock_of(data_fs)).ok()?.ino();
    holder_in(&std::fs::read_to_string("/proc/locks").ok()?, inode)
}

/// `1: FLOCK  ADVISORY  WRITE 708 08:01:131 0 EOF`. Numbers of devices differ between file systems and the kernel's list.
fn holder_in(locks: &str, inode: u64) -> Option<u32> {
    locks.lines().find_map(|line| {
        let mut words = line.split_whitespace().skip(1).filter(|word| *word != "->");
        let (_kind, _mode, access) = (words.next()?, words.next()?, words.next()?);
        let (process, file) = (words.next()?, words.next()?);
        let found: u64 = file.rsplit(':').next()?.parse().ok()?;
        (access == "WRITE" && found == inode).then(|| process.parse().unwrap_or(0))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_list_is_understood() {
        let locks = "1: FLOCK  ADVISORY  WRITE 708 08:01:131 0 EOF\n\
                     2: POSIX  ADVISORY  READ  9 00:1f:77 128 128\n\
                     3: OFDLCK ADVISORY  WRITE -1 00:1f:78 0 EOF\n\
                     3: -> FLOCK  ADVISORY  WRITE 12 00:1f:79 0 EOF\n";
        assert_eq!(holder_in(locks, 131), Some(708));
        assert_eq!(holder_in(locks, 77), None);
        assert_eq!(holder_in(locks, 78), Some(0));
        assert_eq!(holder_in(locks, 79), Some(12));
        assert_eq!(holder_in(locks, 1), None);
        assert_eq!(holder_in("", 1), None);
    }

    #[test]
    fn a_lock_is_seen_while_it_is_held() {
        let temp = tempfile::tempdir().unwrap();
        let data_fs = temp.path().join("Data.fs");
        assert_eq!(holder(&data_fs), None);
        let file = std::fs::File::create(lock_of(&data_fs)).unwrap();
        assert_eq!(holder(&data_fs), None);
        rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).unwrap();
        assert_eq!(holder(&data_fs), Some(std::process::id()));
        drop(file);
        assert_eq!(holder(&data_fs), None);
    }
}
