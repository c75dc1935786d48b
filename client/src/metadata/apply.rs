//! Attributes of an entry onto a file: owner, extended attributes and ACLs, mode, times, inode flags, in this order.
//!
//! Works on an open descriptor only, so that no name is looked up twice. Sets what differs and nothing else. Owners go by
//! number; their recorded names are for people. What the system refuses to an ordinary user is left out and told.

use chunkstore::tree::{Attributes, Time};
use rustix::fd::{AsRawFd, BorrowedFd};
use rustix::fs::{self, AtFlags, CWD, FileType, Gid, IFlags, Mode, Stat, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;
use std::fmt;

/// Immutable and append-only: with either, nothing else of an inode can be changed.
const LOCKING: u32 = 0x10 | 0x20;
const SET_ID: u32 = 0o6000;
const CAPABILITY: &[u8] = b"security.capability";

/// A file to change.
#[derive(Clone, Copy)]
pub enum Handle<'a> {
    /// Opened for reading or writing.
    Open(BorrowedFd<'a>),
    /// Opened with `O_PATH`: all that symlinks, devices, FIFOs and sockets allow. It is reached through
    /// `/proc/self/fd`, whose magic link leads to this very inode.
    Path(BorrowedFd<'a>),
}

/// What is to be left out.
#[derive(Clone, Copy)]
pub struct Rules {
    /// Setuid and setgid bits, `security.*` and `trusted.*` attributes too.
    pub special: bool,
    /// Find out what differs, change nothing.
    pub dry_run: bool,
}

/// An attribute that could not be set; the file is right otherwise.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Omission {
    Owner,
    Mode,
    ModificationTime,
    ExtendedAttribute(Vec<u8>),
    Flags,
}

#[derive(Default, Debug)]
pub struct Applied {
    /// Something was changed, or would be in a dry run.
    pub changed: bool,
    pub omitted: Vec<(Omission, Errno)>,
}

/// The attributes could not be read, or not be changed at all.
#[derive(Debug)]
pub struct Refused {
    pub action: &'static str,
    pub errno: Errno,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.action, std::io::Error::from(self.errno))
    }
}

/// Gives a file the attributes of an entry.
pub fn apply(handle: Handle<'_>, attributes: &Attributes, rules: Rules) -> Result<Applied, Refused> {
    let difference = Difference::find(handle, attributes, rules)?;
    let mut applied = Applied { changed: !difference.is_empty(), omitted: Vec::new() };
    if rules.dry_run || difference.is_empty() {
        return Ok(applied);
    }
    applied.changed = difference.resolve(handle, attributes, &mut applied.omitted)?;
    Ok(applied)
}

/// Takes the immutable and append-only flags away; true if one was set.
pub fn unlock(fd: BorrowedFd<'_>) -> Result<bool, Errno> {
    let flags = fs::ioctl_getflags(fd)?;
    if flags.bits() & LOCKING == 0 {
        return Ok(false);
    }
    fs::ioctl_setflags(fd, IFlags::from_bits_retain(flags.bits() & !LOCKING))?;
    Ok(true)
}

/// A modification time as the system keeps it.
pub fn modified(stat: &Stat) -> Time {
    Time { seconds: stat.st_mtime, nanoseconds: u32::try_from(stat.st_mtime_nsec).unwrap_or(0) }
}

/// What of a file is not as an entry says.
struct Difference {
    is_symlink: bool,
    owner: bool,
    /// Names and values to set, names to remove.
    set: Vec<(Vec<u8>, Vec<u8>)>,
    remove: Vec<Vec<u8>>,
    /// Is right and wanted, but a new owner takes it away.
    capability: Option<(Vec<u8>, Vec<u8>)>,
    mode: Option<u32>,
    wanted_mode: u32,
    modified: bool,
    /// The flags now, if the file can have any, and those wanted.
    flags: Option<u32>,
    wanted_flags: u32,
}

impl Difference {
    fn find(handle: Handle<'_>, attributes: &Attributes, rules: Rules) -> Result<Difference, Refused> {
        let stat = fs::fstat(handle.fd()).map_err(refused("reading its attributes"))?;
        let is_symlink = FileType::from_raw_mode(stat.st_mode) == FileType::Symlink;
        let wanted_mode = if rules.special { attributes.mode } else { attributes.mode & !SET_ID } & 0o7777;
        let capability = attributes.xattrs.iter().find(|(name, _)| rules.special && name == CAPABILITY).cloned();
        let (set, remove) = handle.differing_xattrs(&attributes.xattrs, rules.special)?;
        Ok(Difference {
            is_symlink,
            owner: stat.st_uid != attributes.uid || stat.st_gid != attributes.gid,
            capability: capability.filter(|(name, _)| !set.iter().any(|(n, _)| n == name)),
            set,
            remove,
            mode: (!is_symlink && stat.st_mode & 0o7777 != wanted_mode).then_some(wanted_mode),
            wanted_mode,
            modified: modified(&stat) != attributes.modified,
            flags: handle.flags(),
            wanted_flags: attributes.flags & Attributes::FLAGS,
        })
    }

    fn is_empty(&self) -> bool {
        !self.is_unlocking() && !self.flags_differ()
    }

    /// Something differs that a locked inode would not let be changed.
    fn is_unlocking(&self) -> bool {
        self.owner || !self.set.is_empty() || !self.remove.is_empty() || self.mode.is_some() || self.modified
    }

    fn flags_differ(&self) -> bool {
        self.flags.unwrap_or(0) & Attributes::FLAGS != self.wanted_flags
    }

    /// True if anything was changed.
    fn resolve(
        &self,
        handle: Handle<'_>,
        attributes: &Attributes,
        omitted: &mut Vec<(Omission, Errno)>,
    ) -> Result<bool, Refused> {
        let mut changed = false;
        let locked = self.flags.is_some_and(|flags| flags & LOCKING != 0);
        if locked && self.is_unlocking() {
            unlock(handle.fd()).map_err(refused("clearing its inode flags"))?;
        }
        let mut mode = self.wanted_mode;
        if self.owner {
            match handle.chown(attributes.uid, attributes.gid) {
                Ok(()) => changed = true,
                Err(errno) => {
                    omitted.push((Omission::Owner, errno));
                    // A setuid bit is only right with the owner that it was set for.
                    mode &= !SET_ID;
                }
            }
        }
        changed |= self.resolve_xattrs(handle, omitted);
        // Changing the owner clears bits of the mode, and an ACL replaces its group bits.
        if !self.is_symlink && (self.mode.is_some() || self.owner || !self.set.is_empty() || !self.remove.is_empty()) {
            match handle.chmod(mode) {
                Ok(()) => changed |= self.mode.is_some(),
                Err(errno) => omitted.push((Omission::Mode, errno)),
            }
        }
        if self.modified {
            match handle.set_modified(attributes.modified) {
                Ok(()) => changed = true,
                Err(errno) => omitted.push((Omission::ModificationTime, errno)),
            }
        }
        let unlocked = locked && self.is_unlocking();
        if self.flags_differ() || (unlocked && self.wanted_flags & LOCKING != 0) {
            match handle.set_flags(self.flags, self.wanted_flags) {
                Ok(()) => changed = true,
                Err(errno) => omitted.push((Omission::Flags, errno)),
            }
        }
        Ok(changed)
    }

    fn resolve_xattrs(&self, handle: Handle<'_>, omitted: &mut Vec<(Omission, Errno)>) -> bool {
        let mut changed = false;
        for name in &self.remove {
            match handle.remove_xattr(name) {
                // A new owner takes capabilities away by itself.
                Ok(()) | Err(Errno::NODATA) => changed = true,
                Err(errno) => omitted.push((Omission::ExtendedAttribute(name.clone()), errno)),
            }
        }
        for (name, value) in self.set.iter().chain(self.capability.as_ref().filter(|_| self.owner)) {
            match handle.set_xattr(name, value) {
                Ok(()) => changed = true,
                Err(errno) => omitted.push((Omission::ExtendedAttribute(name.clone()), errno)),
            }
        }
        changed
    }
}

type Differing = (Vec<(Vec<u8>, Vec<u8>)>, Vec<Vec<u8>>);

impl Handle<'_> {
    fn fd(&self) -> BorrowedFd<'_> {
        match self {
            Handle::Open(fd) | Handle::Path(fd) => *fd,
        }
    }

    fn path(&self) -> String {
        format!("/proc/self/fd/{}", self.fd().as_raw_fd())
    }

    fn chown(&self, uid: u32, gid: u32) -> Result<(), Errno> {
        // The highest number means "leave as it is" to the system: it cannot be an owner.
        let owner = (uid != u32::MAX).then(|| Uid::from_raw(uid)).ok_or(Errno::INVAL)?;
        let group = (gid != u32::MAX).then(|| Gid::from_raw(gid)).ok_or(Errno::INVAL)?;
        let chown = |owner| match self {
            Handle::Open(fd) => fs::fchown(fd, owner, Some(group)),
            Handle::Path(fd) => fs::chownat(fd, c"", owner, Some(group), AtFlags::EMPTY_PATH),
        };
        // An ordinary user may still choose among the user's own groups.
        chown(Some(owner)).inspect_err(|_| {
            let _ = chown(None);
        })
    }

    fn chmod(&self, mode: u32) -> Result<(), Errno> {
        let mode = Mode::from_raw_mode(mode);
        match self {
            Handle::Open(fd) => fs::fchmod(fd, mode),
            Handle::Path(_) => fs::chmodat(CWD, self.path(), mode, AtFlags::empty()),
        }
    }

    fn set_modified(&self, time: Time) -> Result<(), Errno> {
        let times = Timestamps {
            last_access: Timespec { tv_sec: 0, tv_nsec: fs::UTIME_OMIT },
            last_modification: Timespec { tv_sec: time.seconds, tv_nsec: time.nanoseconds.into() },
        };
        match self {
            Handle::Open(fd) => fs::futimens(fd, &times),
            Handle::Path(_) => fs::utimensat(CWD, self.path(), &times, AtFlags::empty()),
        }
    }

    /// The inode flags; `None` where the file or its file system has none.
    fn flags(&self) -> Option<u32> {
        match self {
            Handle::Open(fd) => fs::ioctl_getflags(fd).ok().map(|flags| flags.bits()),
            Handle::Path(_) => None,
        }
    }

    fn set_flags(&self, present: Option<u32>, wanted: u32) -> Result<(), Errno> {
        let present = present.ok_or(Errno::OPNOTSUPP)?;
        fs::ioctl_setflags(self.fd(), IFlags::from_bits_retain(present & !Attributes::FLAGS | wanted))
    }

    /// What to set and what to remove, so that the file has `wanted` and no more.
    fn differing_xattrs(&self, wanted: &[(Vec<u8>, Vec<u8>)], special: bool) -> Result<Differing, Refused> {
        let names = match self.xattr_names() {
            Ok(names) => names,
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => Vec::new(),
            Err(errno) => return Err(Refused { action: "reading its extended attributes", errno }),
        };
        let allowed = |name: &[u8]| special || !(name.starts_with(b"security.") || name.starts_with(b"trusted."));
        let mut set = Vec::new();
        for (name, value) in wanted.iter().filter(|(name, _)| allowed(name)) {
            let present = names.contains(name) && self.xattr(name, value.len()).is_ok_and(|found| found == *value);
            if !present {
                set.push((name.clone(), value.clone()));
            }
        }
        let surplus =
            |name: &Vec<u8>| is_ours_to_remove(name) && !wanted.iter().any(|(n, _)| n == name && allowed(name));
        let remove = names.into_iter().filter(surplus).collect();
        Ok((set, remove))
    }

    fn xattr_names(&self) -> Result<Vec<Vec<u8>>, Errno> {
        let list = |buffer: &mut [u8]| match self {
            Handle::Open(fd) => fs::flistxattr(fd, buffer),
            Handle::Path(_) => fs::listxattr(self.path(), buffer),
        };
        let mut small = [0; 512];
        let mut large = Vec::new();
        let found: &[u8] = match list(&mut small) {
            Ok(len) => small.get(..len).unwrap_or_default(),
            Err(Errno::RANGE) => {
                // 64 KiB is the most that the kernel returns.
                large.resize(64 << 10, 0);
                let len = list(&mut large)?;
                large.get(..len).unwrap_or_default()
            }
            Err(errno) => return Err(errno),
        };
        Ok(found.split(|byte| *byte == 0).filter(|name| !name.is_empty()).map(<[u8]>::to_vec).collect())
    }

    /// The value, if it is no longer than `len`.
    fn xattr(&self, name: &[u8], len: usize) -> Result<Vec<u8>, Errno> {
        let mut value = vec![0; len + 1];
        let found = match self {
            Handle::Open(fd) => fs::fgetxattr(fd, name, value.as_mut_slice()),
            Handle::Path(_) => fs::getxattr(self.path(), name, value.as_mut_slice()),
        }?;
        value.truncate(found);
        Ok(value)
    }

    fn set_xattr(&self, name: &[u8], value: &[u8]) -> Result<(), Errno> {
        match self {
            Handle::Open(fd) => fs::fsetxattr(fd, name, value, XattrFlags::empty()),
            Handle::Path(_) => fs::setxattr(self.path(), name, value, XattrFlags::empty()),
        }
    }

    fn remove_xattr(&self, name: &[u8]) -> Result<(), Errno> {
        match self {
            Handle::Open(fd) => fs::fremovexattr(fd, name),
            Handle::Path(_) => fs::removexattr(self.path(), name),
        }
    }
}

/// Labels that the system's security modules or file systems give by themselves are not surplus.
fn is_ours_to_remove(name: &[u8]) -> bool {
    name.starts_with(b"user.")
        || name.starts_with(b"trusted.")
        || name == CAPABILITY
        || name == b"system.posix_acl_access"
        || name == b"system.posix_acl_default"
}

fn refused(action: &'static str) -> impl Fn(Errno) -> Refused {
    move |errno| Refused { action, errno }
}
