//! What a file shows of itself: entries as the kernel wants them told. Pure.

use crate::skeleton::{Kind, Node};
use chunkstore::tree::{self, Entry, Time};
use fuser::{FileAttr, FileType, INodeNo};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const BLOCK: u64 = 512;
const READ_BYTES: u32 = 1 << 20;

/// Who owns what the mount shows.
#[derive(Clone, Copy, Debug)]
pub struct Owners {
    /// Of the directories that only the mount has.
    pub uid: u32,
    pub gid: u32,
    /// Everything else is root's, whoever owned it.
    pub all_root: bool,
}

/// `data_bytes` is how much of a file's content is not holes.
pub fn of_entry(number: u64, entry: &Entry, data_bytes: u64, owners: &Owners) -> FileAttr {
    let attributes = &entry.attributes;
    let (kind, size, rdev) = match &entry.node {
        tree::Node::File(content) => (FileType::RegularFile, content.size(), 0),
        tree::Node::Directory(_) => (FileType::Directory, 0, 0),
        tree::Node::Symlink(target) => (FileType::Symlink, target.len() as u64, 0),
        tree::Node::Fifo => (FileType::NamedPipe, 0, 0),
        tree::Node::Socket => (FileType::Socket, 0, 0),
        tree::Node::CharacterDevice { major, minor } => (FileType::CharDevice, 0, device(*major, *minor)),
        tree::Node::BlockDevice { major, minor } => (FileType::BlockDevice, 0, device(*major, *minor)),
    };
    let names = attributes.hard_link.as_ref().map_or(1, |link| link.names);
    let (uid, gid) = if owners.all_root { (0, 0) } else { (attributes.uid, attributes.gid) };
    FileAttr {
        size,
        blocks: if kind == FileType::RegularFile { data_bytes.div_ceil(BLOCK) } else { 0 },
        perm: u16::try_from(attributes.mode & 0o7777).unwrap_or(0),
        nlink: u32::try_from(names).unwrap_or(u32::MAX).max(1),
        uid,
        gid,
        rdev,
        ..plain(number, kind, system_time(attributes.modified))
    }
}

pub fn of_virtual(number: u64, node: &Node, owners: &Owners) -> FileAttr {
    let (kind, size, perm) = match &node.kind {
        Kind::Link(target) => (FileType::Symlink, target.len() as u64, 0o777),
        Kind::Directory(_) | Kind::Snapshot(_) | Kind::Dump(_) => (FileType::Directory, 0, 0o755),
    };
    let modified = Time {
        seconds: node.modified.div_euclid(1_000_000_000),
        nanoseconds: u32::try_from(node.modified.rem_euclid(1_000_000_000)).unwrap_or(0),
    };
    let (uid, gid) = if owners.all_root { (0, 0) } else { (owners.uid, owners.gid) };
    FileAttr { size, perm, uid, gid, ..plain(number, kind, system_time(modified)) }
}

pub fn kind_of(entry: &Entry) -> FileType {
    match &entry.node {
        tree::Node::File(_) => FileType::RegularFile,
        tree::Node::Directory(_) => FileType::Directory,
        tree::Node::Symlink(_) => FileType::Symlink,
        tree::Node::Fifo => FileType::NamedPipe,
        tree::Node::Socket => FileType::Socket,
        tree::Node::CharacterDevice { .. } => FileType::CharDevice,
        tree::Node::BlockDevice { .. } => FileType::BlockDevice,
    }
}

pub fn plain(number: u64, kind: FileType, time: SystemTime) -> FileAttr {
    FileAttr {
        ino: INodeNo(number),
        size: 0,
        blocks: 0,
        atime: time,
        mtime: time,
        ctime: time,
        crtime: time,
        kind,
        perm: 0,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: READ_BYTES,
        flags: 0,
    }
}

/// The kernel's way of writing a device's number: 12 bits and 20.
fn device(major: u32, minor: u32) -> u32 {
    (minor & 0xff) | (major & 0xfff) << 8 | (minor & 0xf_ff00) << 12
}

/// Times that a clock cannot have are 1970.
fn system_time(time: Time) -> SystemTime {
    let whole = Duration::from_secs(time.seconds.unsigned_abs());
    let second = if time.seconds < 0 { UNIX_EPOCH.checked_sub(whole) } else { UNIX_EPOCH.checked_add(whole) };
    let exact = second.and_then(|second| second.checked_add(Duration::from_nanos(u64::from(time.nanoseconds))));
    exact.unwrap_or(UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;
    use chunkstore::tree::{Attributes, Content, HardLink};

    const OWNERS: Owners = Owners { uid: 5, gid: 6, all_root: false };

    fn entry(node: tree::Node) -> Entry {
        let modified = Time { seconds: -2, nanoseconds: 800_000_000 };
        let hard_link = Some(HardLink { device: 1, inode: 2, names: 3 });
        let attributes =
            Attributes { mode: 0o4751, uid: 1000, gid: 1001, modified, hard_link, ..Attributes::default() };
        Entry { name: b"x".to_vec(), attributes, node }
    }

    #[test]
    fn a_file_shows_all_that_was_saved() {
        let attr = of_entry(99, &entry(tree::Node::File(Content::Inline(vec![1; 700]))), 700, &OWNERS);
        assert_eq!((attr.ino.0, attr.size, attr.blocks, attr.perm, attr.nlink), (99, 700, 2, 0o4751, 3));
        assert_eq!((attr.uid, attr.gid, attr.kind), (1000, 1001, FileType::RegularFile));
        assert_eq!(attr.mtime, UNIX_EPOCH - Duration::from_millis(1200));
        let root = Owners { all_root: true, ..OWNERS };
        let attr = of_entry(99, &entry(tree::Node::Symlink(b"to".to_vec())), 0, &root);
        assert_eq!((attr.uid, attr.gid, attr.size, attr.blocks), (0, 0, 2, 0));
    }

    #[test]
    fn devices_and_extreme_times() {
        assert_eq!(device(1, 3), 0x103);
        assert_eq!(device(4000, 1_000_000), 0x40 | 4000 << 8 | (1_000_000 & 0xf_ff00) << 12);
        for seconds in [i64::MIN, i64::MAX] {
            let _ = system_time(Time { seconds, nanoseconds: 999_999_999 });
        }
        assert_eq!(system_time(Time { seconds: 0, nanoseconds: 7 }), UNIX_EPOCH + Duration::from_nanos(7));
    }
}
