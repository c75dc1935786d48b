//! The walk over what is to be saved: depth first, names ascending by bytes, a directory's subtree at its place.
//!
//! Everything is opened relative to the descriptor of its directory, so paths may have any length and names that are exchanged
//! under the walk lead nowhere else. Symlinks are followed only on the way to a given path. What cannot be visited is
//! reported and left out. Memory: the names of the directories on the way to the present one; descriptors: a fixed number.

#[cfg(test)]
mod tests;

use crate::backup::Report;
use crate::backup::exclude::{CACHE_SIGNATURE, CACHE_TAG, Excludes};
use crate::backup::given::Branch;
use crate::backup::names::{Kind, NameList};
use crate::metadata::capture::{Place, Stat};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxFlags};
use rustix::io::Errno;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

/// So many directories on the way stay open; those above are found again through `..`.
const OPEN_MAX: usize = 64;

/// What the walk came to. [`Walk::path`] and [`Walk::name`] tell which.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// A directory; its entries follow, then `Leave`.
    Enter(Stat),
    /// Anything else.
    Item(Stat),
    /// What the source stored itself: its place in the list of such. The file system was not asked.
    Prepared(usize),
    /// The end of the directory that was entered last and not left yet.
    Leave,
}

pub struct Walk<'a> {
    excludes: &'a Excludes,
    one_file_system: bool,
    report: &'a Report<'a>,
    root: Option<&'a Branch>,
    stack: Vec<Level<'a>>,
    path: Vec<u8>,
    /// The part of the path before the last component, its slash included.
    name_at: usize,
    found: usize,
    list_buffer: Vec<u8>,
    /// Device and inode of a directory that is kept empty: our own, which changes all the time.
    own: Vec<(u64, u64)>,
    keep: Option<&'a Keep<'a>>,
}

/// Whether a listed path is saved; asked with its absolute path and whether it is a directory, from above, and never about
/// given paths. Nothing below a directory that is left out is asked about.
pub type Keep<'a> = dyn Fn(&[u8], bool) -> bool + Sync + 'a;

/// A directory on the way.
struct Level<'a> {
    directory: Option<Arc<OwnedFd>>,
    /// False: open as a place only.
    readable: bool,
    stat: Stat,
    names: NameList,
    next: usize,
    branch: Option<&'a Branch>,
    /// All of it is saved, not only what the branch names.
    whole: bool,
    path_len: usize,
}

/// How a directory is entered.
#[derive(Clone, Copy)]
struct Entrance<'a> {
    branch: Option<&'a Branch>,
    whole: bool,
    /// The device to stay on; a given path may be anywhere.
    device: Option<u64>,
    follow: bool,
}

impl<'a> Walk<'a> {
    pub fn new(root: &'a Branch, excludes: &'a Excludes, one_file_system: bool, report: &'a Report<'a>) -> Walk<'a> {
        Walk {
            excludes,
            one_file_system,
            report,
            root: Some(root),
            stack: Vec::new(),
            path: Vec::new(),
            name_at: 0,
            found: 0,
            list_buffer: Vec::with_capacity(64 << 10),
            own: Vec::new(),
            keep: None,
        }
    }

    /// Leaves out what `keep` does not want, beside what the exclusions say.
    pub fn keeping(mut self, keep: Option<&'a Keep<'a>>) -> Walk<'a> {
        self.keep = keep;
        self
    }

    /// Keeps this directory empty wherever the walk meets it.
    pub fn without(mut self, own: &Path) -> Walk<'a> {
        let stat = Stat::at(CWD, own.as_os_str().as_bytes());
        self.own.extend(stat.ok().map(|stat| (stat.device, stat.inode)));
        self
    }

    /// The absolute path of what the last step came to, empty for the root.
    pub fn path(&self) -> &[u8] {
        &self.path
    }

    /// The last component of the path, empty for the root.
    pub fn name(&self) -> &[u8] {
        self.path.get(self.name_at..).unwrap_or_default()
    }

    /// After `Enter` the directory itself, after `Item` the one that holds the item.
    pub fn directory(&self) -> Option<&Arc<OwnedFd>> {
        self.stack.last()?.directory.as_ref()
    }

    /// Where the attributes of the directory that was just entered are read.
    pub fn place(&self) -> Option<Place<'_>> {
        let level = self.stack.last()?;
        let directory = level.directory.as_ref()?.as_fd();
        Some(if level.readable { Place::Open(directory) } else { Place::Path(directory) })
    }

    /// How many given paths were there.
    pub fn found(&self) -> usize {
        self.found
    }

    /// The next step; `None` at the end.
    pub fn step(&mut self) -> Option<Step> {
        if let Some(root) = self.root.take() {
            if root.whole {
                self.found += 1;
            }
            let entrance = Entrance { branch: Some(root), whole: root.whole, device: None, follow: true };
            return self.enter(entrance);
        }
        loop {
            let level = self.stack.last_mut()?;
            self.path.truncate(level.path_len);
            let Some((name, kind)) = level.names.get(level.next) else { return self.leave() };
            level.next += 1;
            self.name_at = self.path.len() + 1;
            self.path.push(b'/');
            self.path.extend_from_slice(name);
            if let Some(step) = self.visit(kind) {
                return Some(step);
            }
        }
    }

    fn leave(&mut self) -> Option<Step> {
        let level = self.stack.pop()?;
        self.name_at = self.path.iter().rposition(|byte| *byte == b'/').map_or(0, |at| at + 1);
        let Some(above) = self.stack.last_mut() else { return Some(Step::Leave) };
        if above.directory.is_none() {
            let path = self.path.get(..above.path_len).unwrap_or_default();
            let again = level.directory.as_deref().and_then(|below| open_above(below.as_fd(), &above.stat));
            let again = again.or_else(|| open_from_root(path, &above.stat));
            if again.is_none() {
                self.report.problem(path, "it was moved while it was read; the rest of it is left out");
                above.next = above.names.len();
            }
            above.directory = again.map(Arc::new);
        }
        Some(Step::Leave)
    }

    /// Deals with the name at the end of the path. `None`: there is nothing to be saved.
    fn visit(&mut self, kind: Kind) -> Option<Step> {
        let level = self.stack.last()?;
        let branch = level.branch.and_then(|branch| branch.children.get(self.name()));
        let (whole, device) = (level.whole, level.stat.device);
        if let Some(at) = branch.and_then(|branch| branch.prepared) {
            self.found += 1;
            return Some(Step::Prepared(at));
        }
        let given = branch.is_some_and(|branch| branch.whole);
        let mut stat = None;
        let mut is_directory = kind == Kind::Directory;
        if kind == Kind::Unknown {
            let found = self.stat(branch, whole && !given)?;
            is_directory = found.is_directory();
            stat = Some(found);
        }
        // Only a name on the way to a given path is not listed or given itself.
        let mut included = whole || given;
        if whole && !given && self.is_left_out(is_directory) {
            self.report.detail("excluded", &self.path);
            included = false;
        }
        if !included && branch.is_none() {
            return None;
        }
        if given {
            self.found += 1;
        }
        let device = (whole && !given).then_some(device);
        let is_way = !included;
        if is_directory {
            return self.enter(Entrance { branch, whole: included, device, follow: is_way });
        }
        if let Some(branch) = branch {
            self.report_unreachable(branch);
        }
        let stat = match stat {
            _ if is_way => return None,
            Some(stat) => stat,
            None => self.stat(branch, true)?,
        };
        if stat.is_directory() {
            return self.enter(Entrance { branch, whole: included, device, follow: false });
        }
        if !given && stat.is_regular() && self.excludes.is_too_large(stat.size) {
            self.report.detail("excluded", &self.path);
            return None;
        }
        Some(Step::Item(stat))
    }

    fn is_left_out(&self, is_directory: bool) -> bool {
        let is_excluded = self.excludes.has_patterns() && self.excludes.matches(&self.path, is_directory);
        is_excluded || self.keep.is_some_and(|keep| !keep(&self.path, is_directory))
    }

    /// What the name at the end of the path is; the way to a given path may lead through a symlink.
    fn stat(&self, branch: Option<&Branch>, is_listed: bool) -> Option<Stat> {
        let directory = self.directory()?.as_fd();
        let stat = Stat::at(directory, self.name());
        let is_way = branch.is_some_and(|branch| !branch.whole) && !is_listed;
        let stat = match stat {
            Ok(stat) if is_way && !stat.is_directory() => follow(directory, self.name()).or(Ok(stat)),
            stat => stat,
        };
        match (stat, branch) {
            (Ok(stat), _) => Some(stat),
            (Err(error), None) => {
                self.report.problem(&self.path, &vanished(&error));
                None
            }
            (Err(error), Some(branch)) => {
                let reason = vanished(&error);
                branch.each_given(&mut self.path.clone(), &mut |path| self.report.problem(path, &reason));
                None
            }
        }
    }

    /// Given paths below something that is no directory.
    fn report_unreachable(&self, branch: &Branch) {
        for (name, child) in &branch.children {
            let mut path = [&self.path, &b"/"[..], name].concat();
            child.each_given(&mut path, &mut |path| {
                self.report.problem(path, "a part of its path is not a directory that is saved");
            });
        }
    }

    fn enter(&mut self, entrance: Entrance<'a>) -> Option<Step> {
        let above = self.stack.last().and_then(|level| level.directory.as_ref());
        let (parent, name) = match above {
            Some(above) => (above.as_fd(), self.name()),
            None => (CWD, &b"/"[..]),
        };
        let (directory, readable) = match open_directory(parent, name, entrance.follow) {
            Ok(opened) => opened,
            // It was exchanged for something else since it was listed.
            Err(Errno::NOTDIR | Errno::LOOP) if entrance.whole => {
                return self.stat(entrance.branch, true).filter(|stat| !stat.is_directory()).map(Step::Item);
            }
            Err(error) => {
                self.lose(entrance.branch, &error.into());
                return None;
            }
        };
        let stat = match Stat::of(directory.as_fd()) {
            Ok(stat) => stat,
            Err(error) => {
                self.lose(entrance.branch, &error);
                return None;
            }
        };
        let is_foreign = self.one_file_system && entrance.device.is_some_and(|device| device != stat.device);
        let is_own = self.own.contains(&(stat.device, stat.inode));
        if is_own {
            self.report.detail("excluded", self.path_for_people());
        }
        let whole = entrance.whole && !is_foreign && !is_own;
        let names = self.names(&directory, readable, whole, entrance.branch);
        self.stack.push(Level {
            directory: Some(Arc::new(directory)),
            readable,
            stat,
            names,
            next: 0,
            branch: entrance.branch,
            whole,
            path_len: self.path.len(),
        });
        if let Some(far) = self.stack.len().checked_sub(OPEN_MAX).and_then(|at| self.stack.get_mut(at)) {
            far.directory = None;
        }
        Some(Step::Enter(stat))
    }

    fn lose(&self, branch: Option<&Branch>, error: &std::io::Error) {
        match branch {
            None => self.report.problem(&self.path, &vanished(error)),
            Some(branch) => {
                let reason = vanished(error);
                branch.each_given(&mut self.path.clone(), &mut |path| self.report.problem(path, &reason));
            }
        }
    }

    /// The names to visit in a directory, sorted.
    fn names(&mut self, directory: &OwnedFd, readable: bool, whole: bool, branch: Option<&Branch>) -> NameList {
        let mut names = NameList::default();
        if whole && !readable {
            self.report.problem(self.path_for_people(), "it cannot be listed: permission denied");
        } else if whole {
            let mut buffer = std::mem::take(&mut self.list_buffer);
            if let Err(error) = names.read(directory.as_fd(), buffer.spare_capacity_mut()) {
                self.report.problem(self.path_for_people(), &format!("it cannot be listed: {error}"));
            }
            self.list_buffer = buffer;
            names.sort();
            self.keep_markers(directory, &mut names);
        }
        for name in branch.iter().flat_map(|branch| branch.children.keys()) {
            if !names.contains(name) {
                names.push(name, Kind::Unknown);
            }
        }
        names.sort();
        names
    }

    fn path_for_people(&self) -> &[u8] {
        if self.path.is_empty() { b"/" } else { &self.path }
    }

    /// In a directory that is marked as not worth saving, only the marks stay.
    fn keep_markers(&self, directory: &OwnedFd, names: &mut NameList) {
        let is_cache = self.excludes.caches && names.contains(CACHE_TAG) && has_signature(directory);
        let is_marked = self.excludes.markers.iter().any(|marker| names.contains(marker));
        if !is_cache && !is_marked {
            return;
        }
        let markers = &self.excludes.markers;
        names.retain(|name| (is_cache && name == CACHE_TAG) || markers.iter().any(|marker| marker == name));
        self.report.detail("excluded", self.path_for_people());
    }
}

fn vanished(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::NotFound => "it does not exist, or no longer".into(),
        _ => error.to_string(),
    }
}

fn follow(directory: BorrowedFd<'_>, name: &[u8]) -> std::io::Result<Stat> {
    Ok(Stat::from(&rustix::fs::statx(directory, name, AtFlags::empty(), StatxFlags::BASIC_STATS)?))
}

/// A directory and whether it can be listed; one that only can be passed through is open as a place.
fn open_directory(parent: BorrowedFd<'_>, name: &[u8], follow: bool) -> Result<(OwnedFd, bool), Errno> {
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

/// The directory above, if it is still the one that `stat` tells of.
fn open_above(below: BorrowedFd<'_>, stat: &Stat) -> Option<OwnedFd> {
    let (above, _) = open_directory(below, b"..", false).ok()?;
    let found = Stat::of(above.as_fd()).ok()?;
    (found.device == stat.device && found.inode == stat.inode).then_some(above)
}

/// The directory at a path of any length, if it is still the one that `stat` tells of.
fn open_from_root(path: &[u8], stat: &Stat) -> Option<OwnedFd> {
    let (mut directory, _) = open_directory(CWD, b"/", true).ok()?;
    for name in path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()) {
        directory = open_directory(directory.as_fd(), name, true).ok()?.0;
    }
    let found = Stat::of(directory.as_fd()).ok()?;
    (found.device == stat.device && found.inode == stat.inode).then_some(directory)
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
