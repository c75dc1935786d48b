//! The walk over what is to be saved: depth first, names ascending by bytes, a directory's subtree at its place.
//!
//! Everything is opened relative to the descriptor of its directory, so paths may have any length and names that are exchanged
//! under the walk lead nowhere else. Symlinks are followed only on the way to a given path. What cannot be visited is
//! reported and left out. Memory: the names of the directories on the way to the present one; descriptors: a fixed number.

mod ahead;
mod listing;

#[cfg(test)]
mod tests;

use crate::backup::Report;
use crate::backup::given::Branch;
use crate::backup::names::Kind;
use crate::metadata::capture::{Place, Stat};
pub use ahead::Task;
use ahead::{Ahead, Here, Names};
use chunkstore::tree::Time;
use crossbeam_channel::Sender;
pub use listing::Rules;
use listing::{Entrance, Listing, Look, open_directory};
use rustix::fs::{AtFlags, CWD, StatxFlags};
use rustix::io::Errno;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
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
    ahead: Ahead<'a>,
    report: &'a Report<'a>,
    root: Option<&'a Branch>,
    stack: Vec<Level<'a>>,
    path: Vec<u8>,
    /// The part of the path before the last component, its slash included.
    name_at: usize,
    found: usize,
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
    moment: Time,
    names: Names<'a>,
    branch: Option<&'a Branch>,
    /// All of it is saved, not only what the branch names.
    whole: bool,
    path_len: usize,
}

impl<'a> Walk<'a> {
    pub fn new(root: &'a Branch, rules: Rules<'a>, report: &'a Report<'a>) -> Walk<'a> {
        Walk {
            ahead: Ahead::new(rules),
            report,
            root: Some(root),
            stack: Vec::new(),
            path: Vec::new(),
            name_at: 0,
            found: 0,
        }
    }

    /// Lets other threads look ahead. Tasks that find no room are not waited for.
    pub fn ahead(mut self, tasks: Sender<Task<'a>>) -> Walk<'a> {
        self.ahead.tasks = Some(tasks);
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

    /// A moment before it was asked what the directory is that was just entered.
    pub fn moment(&self) -> Time {
        self.stack.last().map_or_else(Time::default, |level| level.moment)
    }

    /// Whether the directory that was just entered is there only for given paths below it.
    pub fn is_on_the_way(&self) -> bool {
        self.stack.last().is_some_and(|level| !level.whole && level.branch.is_some_and(|branch| !branch.whole))
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
            let entrance = Entrance { whole: root.whole, device: None, follow: true };
            return self.enter_given(entrance, root);
        }
        loop {
            let level = self.stack.last_mut()?;
            self.path.truncate(level.path_len);
            let Some((name, kind)) = level.names.next() else { return self.leave() };
            self.name_at = self.path.len() + 1;
            self.path.push(b'/');
            self.path.extend_from_slice(name);
            let branch = level.branch.and_then(|branch| branch.children.get(name));
            let look = if level.whole { self.look() } else { None };
            let step = match (branch, look) {
                (Some(branch), _) => self.visit_given(branch, kind),
                (None, Some(look)) => self.visit(look),
                (None, None) => None,
            };
            if step.is_some() {
                return step;
            }
        }
    }

    fn leave(&mut self) -> Option<Step> {
        let level = self.stack.pop()?;
        level.names.forget(&mut self.ahead);
        self.name_at = self.path.iter().rposition(|byte| *byte == b'/').map_or(0, |at| at + 1);
        let Some(above) = self.stack.last_mut() else { return Some(Step::Leave) };
        if above.directory.is_none() {
            let path = self.path.get(..above.path_len).unwrap_or_default();
            let again = level.directory.as_deref().and_then(|below| open_above(below.as_fd(), &above.stat));
            let again = again.or_else(|| open_from_root(path, &above.stat));
            if again.is_none() {
                self.report.problem(path, "it was moved while it was read; the rest of it is left out");
                above.names.end();
            }
            above.directory = again.map(Arc::new);
        }
        Some(Step::Leave)
    }

    /// What the present name is, in a directory of which all is saved.
    fn look(&mut self) -> Option<Look> {
        let level = self.stack.last_mut()?;
        let here = Here {
            directory: level.directory.as_ref()?,
            path: self.path.get(..level.path_len)?,
            device: level.stat.device,
            branch: level.branch,
        };
        level.names.look(here, &mut self.ahead)
    }

    /// Deals with a listed name, which is at the end of the path. `None`: there is nothing to be saved.
    fn visit(&mut self, look: Look) -> Option<Step> {
        match look {
            Look::Directory => {
                let level = self.stack.last_mut()?;
                let (directory, device) = (level.directory.as_ref()?, level.stat.device);
                let listing = level.names.listing(directory, device, &mut self.ahead);
                self.enter(listing, true, None)
            }
            Look::Other(stat) => Some(Step::Item(stat)),
            Look::Given => None,
            Look::LeftOut => {
                self.report.detail("excluded", &self.path);
                None
            }
            Look::Gone(reason) => {
                self.report.problem(&self.path, &reason);
                None
            }
        }
    }

    /// Deals with a name that is given, or on the way to something given; it may be listed too.
    fn visit_given(&mut self, branch: &'a Branch, kind: Kind) -> Option<Step> {
        let level = self.stack.last()?;
        let (is_listed, device) = (level.whole && !branch.whole, level.stat.device);
        if let Some(at) = branch.prepared {
            self.found += 1;
            return Some(Step::Prepared(at));
        }
        let mut stat = None;
        let mut is_directory = kind == Kind::Directory;
        if kind == Kind::Unknown {
            let found = self.stat(Some(branch), is_listed)?;
            is_directory = found.is_directory();
            stat = Some(found);
        }
        let mut included = is_listed || branch.whole;
        if is_listed && self.ahead.rules.is_left_out(&self.path, is_directory) {
            self.report.detail("excluded", &self.path);
            included = false;
        }
        self.found += usize::from(branch.whole);
        let mut entrance = Entrance { whole: included, device: is_listed.then_some(device), follow: !included };
        if is_directory {
            return self.enter_given(entrance, branch);
        }
        self.report_unreachable(branch);
        let stat = match stat {
            _ if !included => return None,
            Some(stat) => stat,
            None => self.stat(Some(branch), true)?,
        };
        if stat.is_directory() {
            entrance.follow = false;
            return self.enter_given(entrance, branch);
        }
        if is_listed && stat.is_regular() && self.ahead.rules.excludes.is_too_large(stat.size) {
            self.report.detail("excluded", &self.path);
            return None;
        }
        Some(Step::Item(stat))
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
        stat.map_err(|error| self.lose(branch, &error)).ok()
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

    fn enter_given(&mut self, entrance: Entrance, branch: &'a Branch) -> Option<Step> {
        let above = self.directory();
        let (parent, name) = match above {
            Some(above) => (above.as_fd(), self.name()),
            None => (CWD, &b"/"[..]),
        };
        let mut listing = self.ahead.rules.list(parent, name, entrance);
        if let Ok(listing) = &mut listing {
            listing.add(branch.children.keys());
        }
        self.enter(listing, entrance.whole, Some(branch))
    }

    /// Goes into a directory that was opened, or tells why it was not. `whole`: all of it was to be saved.
    fn enter(&mut self, listing: io::Result<Listing>, whole: bool, branch: Option<&'a Branch>) -> Option<Step> {
        let listing = match listing {
            Ok(listing) => listing,
            // It was exchanged for something else since it was listed.
            Err(error) if whole && is_no_directory(&error) => {
                return self.stat(branch, true).filter(|stat| !stat.is_directory()).map(Step::Item);
            }
            Err(error) => {
                self.lose(branch, &error);
                return None;
            }
        };
        let Listing { directory, readable, stat, moment, whole, names, looks, failure, is_marked } = listing;
        if is_marked {
            self.report.detail("excluded", self.path_for_people());
        }
        if let Some(failure) = failure {
            self.report.problem(self.path_for_people(), &format!("it cannot be listed: {failure}"));
        }
        self.stack.push(Level {
            directory: Some(Arc::new(directory)),
            readable,
            stat,
            moment,
            names: Names::new(names, looks),
            branch,
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

    fn path_for_people(&self) -> &[u8] {
        if self.path.is_empty() { b"/" } else { &self.path }
    }
}

fn is_no_directory(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::NOTDIR | Errno::LOOP))
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
