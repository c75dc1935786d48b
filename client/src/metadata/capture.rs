//! Attributes from a file system into an entry.
//!
//! Everything is read through descriptors: of the file itself, or of its directory and a name in it that is never followed.
//! Names are single components. What cannot be read is reported and left out; the rest is kept.

use chunkstore::tree::{Attributes, HardLink, Time};
use rustix::fs::{AtFlags, FileType, Statx, StatxFlags};
use rustix::io::Errno;
use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

/// All extended attributes of an entry together may have this many bytes (`docs/format.md`, section 12).
const XATTR_BYTES_MAX: usize = 1 << 20;

/// What the kernel says about a file in one call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stat {
    pub device: u64,
    pub inode: u64,
    /// Type and permissions.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub links: u64,
    pub size: u64,
    /// Of 512 bytes: fewer than the size needs means that there may be holes.
    pub blocks: u64,
    pub modified: Time,
    pub changed: Time,
    /// Major and minor number of a device file.
    pub special: (u32, u32),
}

impl Stat {
    /// Of a name in a directory; a symlink is not followed.
    pub fn at(directory: BorrowedFd<'_>, name: &[u8]) -> io::Result<Stat> {
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
        Ok(Stat::from(&rustix::fs::statx(directory, name, flags, StatxFlags::BASIC_STATS)?))
    }

    pub fn of(file: BorrowedFd<'_>) -> io::Result<Stat> {
        Ok(Stat::from(&rustix::fs::statx(file, c"", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS)?))
    }

    pub fn file_type(&self) -> FileType {
        FileType::from_raw_mode(self.mode)
    }

    pub fn is_directory(&self) -> bool {
        self.file_type() == FileType::Directory
    }

    pub fn is_regular(&self) -> bool {
        self.file_type() == FileType::RegularFile
    }

    /// Same content and attributes as at the time of `other`, as far as the kernel tells.
    pub fn is_same_state(&self, other: &Stat) -> bool {
        self.size == other.size && self.modified == other.modified && self.changed == other.changed
    }

    /// Fewer blocks than the size needs.
    pub fn may_have_holes(&self) -> bool {
        self.blocks < self.size.div_ceil(512)
    }
}

impl From<&Statx> for Stat {
    fn from(x: &Statx) -> Stat {
        Stat {
            device: rustix::fs::makedev(x.stx_dev_major, x.stx_dev_minor),
            inode: x.stx_ino,
            mode: u32::from(x.stx_mode),
            uid: x.stx_uid,
            gid: x.stx_gid,
            links: u64::from(x.stx_nlink),
            size: x.stx_size,
            blocks: x.stx_blocks,
            modified: Time { seconds: x.stx_mtime.tv_sec, nanoseconds: x.stx_mtime.tv_nsec },
            changed: Time { seconds: x.stx_ctime.tv_sec, nanoseconds: x.stx_ctime.tv_nsec },
            special: (x.stx_rdev_major, x.stx_rdev_minor),
        }
    }
}

/// Names of users and groups by number, as the local files tell; a number without a name has an empty one.
#[derive(Default, Debug)]
pub struct Names {
    users: HashMap<u32, Vec<u8>>,
    groups: HashMap<u32, Vec<u8>>,
}

impl Names {
    /// Reads `/etc/passwd` and `/etc/group`. Either may be absent.
    pub fn load() -> Names {
        let read = |path| std::fs::read(path).unwrap_or_default();
        Names { users: by_number(&read("/etc/passwd")), groups: by_number(&read("/etc/group")) }
    }

    pub fn user(&self, uid: u32) -> &[u8] {
        self.users.get(&uid).map_or(&[], Vec::as_slice)
    }

    pub fn group(&self, gid: u32) -> &[u8] {
        self.groups.get(&gid).map_or(&[], Vec::as_slice)
    }
}

/// `name:password:number:…` lines; the first name of a number counts.
fn by_number(text: &[u8]) -> HashMap<u32, Vec<u8>> {
    let mut map = HashMap::new();
    for line in text.split(|byte| *byte == b'\n') {
        let mut fields = line.split(|byte| *byte == b':');
        let (Some(name), Some(number)) = (fields.next(), fields.nth(1)) else { continue };
        let number = std::str::from_utf8(number).ok().and_then(|text| text.parse().ok());
        if let (Some(number), false) = (number, name.is_empty()) {
            map.entry(number).or_insert_with(|| name.to_vec());
        }
    }
    map
}

/// Where a file's extended attributes are read from.
#[derive(Clone, Copy)]
pub enum Place<'a> {
    /// It is open for reading.
    Open(BorrowedFd<'a>),
    /// It cannot or must not be opened: a name in a directory.
    Named(BorrowedFd<'a>, &'a [u8]),
    /// It is open as a place only (`O_PATH`).
    Path(BorrowedFd<'a>),
}

/// The attributes of a file. `unreadable` is told what had to be left out, and why.
pub fn attributes(
    place: Place<'_>,
    stat: &Stat,
    names: &Names,
    unreadable: &mut dyn FnMut(&[u8], io::Error),
) -> Attributes {
    let hard_link = (stat.links > 1 && !stat.is_directory()).then_some(HardLink {
        device: stat.device,
        inode: stat.inode,
        names: stat.links,
    });
    Attributes {
        mode: stat.mode & 0o7777,
        uid: stat.uid,
        gid: stat.gid,
        user: names.user(stat.uid).to_vec(),
        group: names.group(stat.gid).to_vec(),
        modified: stat.modified,
        flags: flags(place),
        xattrs: xattrs(place, unreadable),
        hard_link,
    }
}

/// Inode flags; file systems without them have none.
fn flags(place: Place<'_>) -> u32 {
    match place {
        Place::Open(file) => rustix::fs::ioctl_getflags(file).map_or(0, |flags| flags.bits() & Attributes::FLAGS),
        Place::Named(..) | Place::Path(_) => 0,
    }
}

fn xattrs(place: Place<'_>, unreadable: &mut dyn FnMut(&[u8], io::Error)) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut list = [0; 1024];
    let list = match list_xattrs(place, &mut list) {
        Ok(0) => return Vec::new(),
        Ok(len) => list.get(..len).map(<[u8]>::to_vec),
        Err(Errno::RANGE) => {
            let mut list = vec![0; 64 << 10];
            list_xattrs(place, &mut list).ok().map(|len| {
                list.truncate(len);
                list
            })
        }
        // Not supported here, or the file has gone since, which the caller notices.
        Err(Errno::NOTSUP | Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Vec::new(),
        Err(error) => {
            unreadable(b"extended attributes", error.into());
            return Vec::new();
        }
    };
    let Some(list) = list else {
        unreadable(b"extended attributes", io::Error::other("their list is too long"));
        return Vec::new();
    };
    let mut names: Vec<&[u8]> = list.split(|byte| *byte == 0).filter(|name| !name.is_empty()).collect();
    names.sort_unstable();
    names.dedup();
    let mut values = Vec::with_capacity(names.len());
    let mut total = 0;
    for name in names {
        match xattr(place, name) {
            Ok(Some(value)) if total + name.len() + value.len() + 20 > XATTR_BYTES_MAX => {
                unreadable(name, io::Error::other(format!("all together exceed {XATTR_BYTES_MAX} bytes")));
            }
            Ok(Some(value)) => {
                total += name.len() + value.len() + 20;
                values.push((name.to_vec(), value));
            }
            Ok(None) => (),
            Err(error) => unreadable(name, error.into()),
        }
    }
    values
}

/// One value; `None` if it went since it was listed.
fn xattr(place: Place<'_>, name: &[u8]) -> Result<Option<Vec<u8>>, Errno> {
    let mut value = vec![0; 256];
    // The largest value that Linux allows is 64 KiB.
    for len in [256, 4 << 10, 64 << 10] {
        value.resize(len, 0);
        match read_xattr(place, name, &mut value) {
            Ok(len) => {
                value.truncate(len);
                return Ok(Some(value));
            }
            Err(Errno::NODATA) => return Ok(None),
            Err(Errno::RANGE) => (),
            Err(error) => return Err(error),
        }
    }
    Err(Errno::RANGE)
}

fn list_xattrs(place: Place<'_>, list: &mut [u8]) -> Result<usize, Errno> {
    match place {
        Place::Open(file) => rustix::fs::flistxattr(file, list),
        Place::Named(directory, name) => rustix::fs::llistxattr(proc_path(directory, Some(name)), list),
        Place::Path(file) => rustix::fs::listxattr(proc_path(file, None), list),
    }
}

fn read_xattr(place: Place<'_>, name: &[u8], value: &mut [u8]) -> Result<usize, Errno> {
    match place {
        Place::Open(file) => rustix::fs::fgetxattr(file, name, value),
        Place::Named(directory, file) => rustix::fs::lgetxattr(proc_path(directory, Some(file)), name, value),
        Place::Path(file) => rustix::fs::getxattr(proc_path(file, None), name, value),
    }
}

/// A path of bounded length to what a descriptor stands for, or to a name below it.
fn proc_path(fd: BorrowedFd<'_>, name: Option<&[u8]>) -> Vec<u8> {
    let mut path = format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd()).into_bytes();
    if let Some(name) = name {
        path.push(b'/');
        path.extend_from_slice(name);
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{CWD, XattrFlags};
    use std::fs::File;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    fn none(name: &[u8], error: io::Error) {
        panic!("{} {error}", String::from_utf8_lossy(name));
    }

    #[test]
    fn names_come_from_the_tables() {
        let users = by_number(
            b"root:x:0:0:root:/root:/bin/sh\ntoor:x:0:0::/:\nbroken\nw\xff:x:33:33\n:x:7:\n+::::::\nx:x:99999999999:\n",
        );
        assert_eq!(users.get(&0).unwrap(), b"root");
        assert_eq!(users.get(&33).unwrap(), b"w\xff");
        assert_eq!(users.len(), 2);
        assert_eq!(Names::default().user(0), b"");
    }

    #[test]
    fn a_file_with_everything() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("file");
        std::fs::write(&path, b"content").unwrap();
        std::fs::hard_link(&path, temp.path().join("second")).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o6751)).unwrap();
        let early = std::time::UNIX_EPOCH - std::time::Duration::new(10, 250);
        File::open(&path).unwrap().set_modified(early).unwrap();
        rustix::fs::setxattr(&path, "user.b", b"\0two", XattrFlags::empty()).unwrap();
        rustix::fs::setxattr(&path, "user.a", &[7; 3000], XattrFlags::empty()).unwrap();
        let meta = std::fs::metadata(&path).unwrap();
        let file = File::open(&path).unwrap();
        let stat = Stat::of(file.as_fd()).unwrap();
        let directory = File::open(temp.path()).unwrap();
        assert_eq!(Stat::at(directory.as_fd(), b"file").unwrap(), stat);
        assert_eq!((stat.device, stat.inode, stat.size), (meta.dev(), meta.ino(), 7));
        let names = Names { users: HashMap::from([(stat.uid, b"me".to_vec())]), groups: HashMap::new() };
        let open = attributes(Place::Open(file.as_fd()), &stat, &names, &mut none);
        assert_eq!(open.mode, 0o6751);
        assert_eq!(open.modified, Time { seconds: -11, nanoseconds: 999_999_750 });
        assert_eq!(open.user, b"me");
        assert_eq!(open.group, b"");
        assert_eq!(open.xattrs, [(b"user.a".to_vec(), vec![7; 3000]), (b"user.b".to_vec(), b"\0two".to_vec())]);
        assert_eq!(open.hard_link, Some(HardLink { device: meta.dev(), inode: meta.ino(), names: 2 }));
        let named = attributes(Place::Named(directory.as_fd(), b"file"), &stat, &names, &mut none);
        assert_eq!(named.xattrs, open.xattrs);
    }

    #[test]
    fn a_symlink_is_not_followed() {
        let temp = tempfile::tempdir().unwrap();
        let target = temp.path().join("target");
        std::fs::write(&target, b"").unwrap();
        rustix::fs::setxattr(&target, "user.of-the-target", b"1", XattrFlags::empty()).unwrap();
        symlink("target", temp.path().join("link")).unwrap();
        let link = temp.path().join("link");
        let directory = File::open(temp.path()).unwrap();
        let stat = Stat::at(directory.as_fd(), b"link").unwrap();
        assert_eq!(stat.file_type(), FileType::Symlink);
        let trusted = rustix::fs::lsetxattr(&link, "trusted.nightkeep", b"own", XattrFlags::empty());
        let read = attributes(Place::Named(directory.as_fd(), b"link"), &stat, &Names::default(), &mut none);
        match trusted {
            Ok(()) => assert_eq!(read.xattrs, [(b"trusted.nightkeep".to_vec(), b"own".to_vec())]),
            Err(error) => {
                println!("skipped in part: trusted attributes cannot be set here: {error}");
                assert!(read.xattrs.is_empty());
            }
        }
    }

    #[test]
    fn holes_are_suspected_by_blocks() {
        let temp = tempfile::tempdir().unwrap();
        let file = File::create(temp.path().join("sparse")).unwrap();
        file.set_len(1 << 40).unwrap();
        assert!(Stat::of(file.as_fd()).unwrap().may_have_holes());
        std::fs::write(temp.path().join("dense"), vec![1; 100_000]).unwrap();
        let stat = Stat::at(File::open(temp.path()).unwrap().as_fd(), b"dense").unwrap();
        assert!(!stat.may_have_holes() || stat.blocks == 0, "delayed allocation may leave it without blocks");
        assert!(Stat::at(CWD, b"no such name").is_err());
    }
}
