//! One directory as it is found: opened, listed, its names looked at. Nothing here waits for the walk, so that it may be done ahead of
//! it, by other threads.

use super::{Keep, vanished};
use crate::backup::exclude::{CACHE_SIGNATURE, CACHE_TAG, Excludes};
use crate::backup::given::Branch;
use crate::backup::names::{Kind, NameList};
use crate::backup::read::now;
use crate::metadata::capture::Stat;
use chunkstore::tree::Time;
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Names are asked for in so many bytes at a time.
const BUFFER_BYTES: usize = 32 << 10;

/// What is visited and what is not.
pub struct Rules<'a> {
    pub excludes: &'a Excludes,
    keep: Option<&'a Keep<'a>>,
    one_file_system: bool,
    /// Device and inode of directories that are kept empty.
    own: Vec<(u64, u64)>,
}

/// How a directory is entered.
#[derive(Clone, Copy)]
pub struct Entrance {
    /// All of it is saved, unless the rules say otherwise.
    pub whole: bool,
    /// The device to stay on; a given path may be anywhere.
    pub device: Option<u64>,
    pub follow: bool,
}

impl Entrance {
    /// What was listed in a directory that is saved, on this device.
    pub fn listed(device: u64) -> Entrance {
        Entrance { whole: true, device: Some(device), follow: false }
    }
}

/// A directory that was opened.
pub struct Listing {
    pub directory: OwnedFd,
    /// False: open as a place only.
    pub readable: bool,
    pub stat: Stat,
    /// Before that was asked.
    pub moment: Time,
    /// All of it is saved.
    pub whole: bool,
    /// In order; none if not all of it is saved.
    pub names: NameList,
    /// Of the first names.
    pub looks: VecDeque<Look>,
    /// Why it could not be listed, or not to its end.
    pub failure: Option<String>,
    /// Some of it was left out by what it is itself.
    pub is_marked: bool,
}

/// What a listed name was when it was looked at.
pub enum Look {
    /// It was not looked at: it is given, or on the way to something given.
    Given,
    LeftOut,
    Directory,
    Other(Stat),
    Gone(String),
}

impl Listing {
    /// Names that are visited whether they were listed or not.
    pub fn add<'n>(&mut self, names: impl Iterator<Item = &'n Vec<u8>>) {
        let missing: Vec<&Vec<u8>> = names.filter(|name| !self.names.contains(name)).collect();
        for name in missing {
            self.names.push(name, Kind::Unknown);
        }
        self.names.sort();
    }
}

impl<'a> Rules<'a> {
    /// Leaves out what `keep` does not want, beside what the exclusions say. Directories of our `own`, which change all the time, are kept
    /// empty wherever the walk meets them.
    pub fn new<'p>(
        excludes: &'a Excludes,
        keep: Option<&'a Keep<'a>>,
        one_file_system: bool,
        own: impl Iterator<Item = &'p Path>,
    ) -> Rules<'a> {
        let stat = |path: &Path| Stat::at(CWD, path.as_os_str().as_bytes()).ok();
        let own = own.filter_map(stat).map(|stat| (stat.device, stat.inode)).collect();
        Rules { excludes, keep, one_file_system, own }
    }

    /// Opens and lists a directory, looking at nothing in it.
    pub fn list(&self, parent: BorrowedFd<'_>, name: &[u8], entrance: Entrance) -> io::Result<Listing> {
        let (directory, readable) = open_directory(parent, name, entrance.follow)?;
        let moment = now();
        let stat = Stat::of(directory.as_fd())?;
        let is_foreign = self.one_file_system && entrance.device.is_some_and(|device| device != stat.device);
        let is_own = self.own.contains(&(stat.device, stat.inode));
        let whole = entrance.whole && !is_foreign && !is_own;
        let (mut names, mut failure, mut is_marked) = (NameList::default(), None, is_own);
        if whole && !readable {
            failure = Some("permission denied".to_owned());
        } else if whole {
            let mut buffer = Vec::with_capacity(BUFFER_BYTES);
            failure = names.read(directory.as_fd(), buffer.spare_capacity_mut()).err().map(|error| error.to_string());
            names.sort();
            is_marked |= self.keep_markers(&directory, &mut names);
        }
        let looks = VecDeque::new();
        Ok(Listing { directory, readable, stat, moment, whole, names, looks, failure, is_marked })
    }

    /// Looks at names of a directory with this absolute path, as far as there are so many and they are not given as well.
    pub fn look(
        &self,
        directory: BorrowedFd<'_>,
        (path, given): (&[u8], Option<&Branch>),
        names: &NameList,
        which: Range<usize>,
    ) -> VecDeque<Look> {
        let mut path = [path, b"/"].concat();
        let len = path.len();
        let look = |at| {
            let (name, kind) = names.get(at)?;
            if given.is_some_and(|branch| branch.children.contains_key(name)) {
                return Some(Look::Given);
            }
            path.truncate(len);
            path.extend_from_slice(name);
            Some(self.look_at(directory, &path, name, kind))
        };
        which.map_while(look).collect()
    }

    fn look_at(&self, directory: BorrowedFd<'_>, path: &[u8], name: &[u8], kind: Kind) -> Look {
        let stat = || Stat::at(directory, name).map_err(|error| Look::Gone(vanished(&error)));
        let look = || {
            let is_known = kind == Kind::Other;
            if is_known && self.is_left_out(path, false) {
                return Ok(Look::LeftOut);
            }
            let is_directory = kind == Kind::Directory;
            let stat = if is_directory { None } else { Some(stat()?) };
            // A name may have become a directory since it was listed.
            let other = stat.filter(|stat| !stat.is_directory());
            if !is_known && self.is_left_out(path, other.is_none()) {
                return Ok(Look::LeftOut);
            }
            Ok(match other {
                None => Look::Directory,
                Some(stat) if stat.is_regular() && self.excludes.is_too_large(stat.size) => Look::LeftOut,
                Some(stat) => Look::Other(stat),
            })
        };
        look().unwrap_or_else(|gone| gone)
    }

    /// Whether patterns leave out a listed path, or a source does.
    pub fn is_left_out(&self, path: &[u8], is_directory: bool) -> bool {
        let is_excluded = self.excludes.has_patterns() && self.excludes.matches(path, is_directory);
        is_excluded || self.keep.is_some_and(|keep| !keep(path, is_directory))
    }

    /// In a directory that is marked as not worth saving, only the marks stay.
    fn keep_markers(&self, directory: &OwnedFd, names: &mut NameList) -> bool {
        let is_cache = self.excludes.caches && names.contains(CACHE_TAG) && has_signature(directory);
        let markers = &self.excludes.markers;
        let is_marked = is_cache || markers.iter().any(|marker| names.contains(marker));
        if is_marked {
            names.retain(|name| (is_cache && name == CACHE_TAG) || markers.iter().any(|marker| marker == name));
        }
        is_marked
    }
}

/// A directory and whether it can be listed; one that only can be passed through is open as a place.
pub fn open_directory(parent: BorrowedFd<'_>, name: &[u8], follow: bool) -> Result<(OwnedFd, bool), Errno> {
    let mut flags = OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    if !follow {
        flags |= OFlags::NOFOLLOW;
    }
    let open = |more| rustix::fs::openat(parent, name, flags | more, Mode::empty());
    let opened = match open(OFlags::RDONLY | OFlags::NOATIME) {
        Err(Errno::PERM) => open(OFlags::RDONLY),
        opened => opened,
    };
    match opened {
        Ok(directory) => Ok((directory, true)),
        Err(Errno::ACCESS) => open(OFlags::PATH).map(|directory| (directory, false)),
        Err(error) => Err(error),
    }
}

fn has_signature(directory: &OwnedFd) -> bool {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let Ok(tag) = rustix::fs::openat(directory, CACHE_TAG, flags, Mode::empty()) else { return false };
    if !Stat::of(tag.as_fd()).is_ok_and(|stat| stat.is_regular()) {
        return false;
    }
    let mut start = [0; CACHE_SIGNATURE.len()];
    matches!(rustix::io::pread(&tag, &mut start[..], 0), Ok(len) if len == start.len()) && start == *CACHE_SIGNATURE
}
