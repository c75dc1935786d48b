//! The directory that is restored into. One descriptor of its root; everything below is reached from it by single names
//! that are never followed, so neither a hostile repository nor whoever changes the target meanwhile leads outside.
//!
//! Mount points may be crossed while restoring, since targets hold mounts (`/` with `/home` on another disk); they are
//! the administrator's own. Removing never crosses one.

use crate::metadata::apply;
use chunkstore::Error;
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use rustix::fs::{self, AtFlags, CWD, Dev, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;
use std::collections::HashMap;
use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

/// Open directories that are kept for the next use.
const OPEN_DIRECTORIES_MAX: usize = 256;
/// Directories below one another. Deeper trees are refused by name.
pub const DEPTH_MAX: usize = 4096;

/// Which inode a name stood for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Identity {
    device: u64,
    inode: u64,
}

impl Identity {
    pub fn of(stat: &Stat) -> Identity {
        Identity { device: stat.st_dev, inode: stat.st_ino }
    }

    /// Enough to tell inodes of a file system apart in a name.
    pub fn text(&self) -> String {
        format!("{:x}", self.inode)
    }

    pub fn is_same_device(&self, other: &Identity) -> bool {
        self.device == other.device
    }
}

/// Why an operation on the target did not happen.
#[derive(Debug)]
pub enum Failure {
    System {
        action: &'static str,
        errno: Errno,
    },
    /// A name stands for something else than before: another program works in the target.
    Raced,
    /// A name that no decoder lets through.
    Name,
    /// Something that is no directory has its name, and stays.
    InPlace,
    /// A signal asked to stop.
    Interrupted,
}

impl Failure {
    /// The error that ends the restore, if it is not one file's alone: no space or quota, or a signal.
    pub fn fatal(&self, path: &[u8]) -> Option<Error> {
        match self {
            Failure::System { errno: Errno::NOSPC | Errno::DQUOT, .. } => {
                Some(Error::Full { object: String::from_utf8_lossy(path).into_owned() })
            }
            Failure::Interrupted => Some(Error::Interrupted),
            _ => None,
        }
    }

    pub fn is(&self, wanted: Errno) -> bool {
        matches!(self, Failure::System { errno, .. } if *errno == wanted)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::System { action, errno } => write!(f, "{action}: {}", std::io::Error::from(*errno)),
            Failure::Raced => write!(f, "another program changed it while it was restored"),
            Failure::Name => write!(f, "its name is not a single file name"),
            Failure::InPlace => write!(f, "something else has its name and was left; nothing below it was restored"),
            Failure::Interrupted => write!(f, "interrupted"),
        }
    }
}

impl From<apply::Refused> for Failure {
    fn from(refused: apply::Refused) -> Failure {
        Failure::System { action: refused.action, errno: refused.errno }
    }
}

pub type Outcome<T> = std::result::Result<T, Failure>;

/// A directory below the target: known by its place and inode, opened when needed.
pub struct Directory {
    place: Option<(Arc<Directory>, Box<[u8]>)>,
    pub identity: Identity,
    pub depth: usize,
}

impl Directory {
    /// The path from the target on; the target itself is `.`.
    pub fn path(&self) -> Vec<u8> {
        match &self.place {
            Some((parent, name)) => parent.path_of(name),
            None => b".".to_vec(),
        }
    }

    /// The path of a name in this directory, from the target on.
    pub fn path_of(&self, name: &[u8]) -> Vec<u8> {
        let mut names = vec![name];
        let mut at = self;
        while let Some((parent, name)) = &at.place {
            names.push(name);
            at = parent;
        }
        names.reverse();
        names.join(&b'/')
    }
}

pub struct Target {
    root: Arc<Directory>,
    root_fd: Arc<OwnedFd>,
    /// Refuses every change: for dry runs.
    read_only: bool,
    open: Mutex<HashMap<Identity, Arc<OwnedFd>>>,
}

impl Target {
    /// Opens an existing directory, which may be reached through symlinks: it is what the user named.
    pub fn open(path: &Path, read_only: bool) -> Result<Target, Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = fs::openat(CWD, path, flags, Mode::empty())?;
        let identity = Identity::of(&fs::fstat(&fd)?);
        Ok(Target {
            root: Arc::new(Directory { place: None, identity, depth: 0 }),
            root_fd: Arc::new(fd),
            read_only,
            open: Mutex::new(HashMap::new()),
        })
    }

    pub fn root(&self) -> Arc<Directory> {
        self.root.clone()
    }

    /// What a name stands for, never what it leads to.
    pub fn stat(&self, directory: &Arc<Directory>, name: &[u8]) -> Outcome<Option<Stat>> {
        match fs::statat(self.fd(directory)?, component(name)?, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(Failure::System { action: "looking at it", errno }),
        }
    }

    pub fn read_link(&self, directory: &Arc<Directory>, name: &[u8]) -> Outcome<Vec<u8>> {
        let target = fs::readlinkat(self.fd(directory)?, component(name)?, Vec::new());
        target.map(std::ffi::CString::into_bytes).map_err(system("reading the symlink"))
    }

    /// All names in a directory, ascending.
    pub fn names(&self, directory: &Arc<Directory>) -> Outcome<Vec<Vec<u8>>> {
        let failed = system("listing the directory");
        let mut names = Vec::new();
        for entry in fs::Dir::read_from(self.fd(directory)?).map_err(&failed)? {
            let entry = entry.map_err(&failed)?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                names.push(name.to_vec());
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    /// The directory of this name; a symlink is refused. With `resolve`, so are mount points.
    pub fn enter(&self, parent: &Arc<Directory>, name: &[u8], resolve: ResolveFlags) -> Outcome<Arc<Directory>> {
        let parent_fd = self.fd(parent)?;
        let open = || open_at(parent_fd.as_fd(), name, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty(), resolve);
        let fd = match open() {
            Err(failure) if failure.is(Errno::ACCESS) && !self.read_only => {
                // An ordinary user's own directory without the bits to read it.
                let path = open_at(parent_fd.as_fd(), name, OFlags::PATH | OFlags::DIRECTORY, Mode::empty(), resolve)?;
                grant(path.as_fd(), Mode::RWXU)?;
                open()?
            }
            other => other?,
        };
        let identity = Identity::of(&fs::fstat(&fd).map_err(system("looking at it"))?);
        self.keep(identity, Arc::new(fd));
        let place = Some((parent.clone(), Box::from(name)));
        Ok(Arc::new(Directory { place, identity, depth: parent.depth + 1 }))
    }

    pub fn make_directory(&self, parent: &Arc<Directory>, name: &[u8]) -> Outcome<Arc<Directory>> {
        self.change(parent, "creating the directory", |fd| fs::mkdirat(fd, component_or(name)?, Mode::RWXU))?;
        self.enter(parent, name, ResolveFlags::empty())
    }

    /// A new empty file, open for reading and writing, for the owner alone.
    pub fn create_file(&self, directory: &Arc<Directory>, name: &[u8]) -> Outcome<OwnedFd> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL;
        let mut created = None;
        self.change(directory, "creating the file", |fd| {
            created =
                Some(open_at_raw(fd, component_or(name)?, flags, Mode::RUSR | Mode::WUSR, ResolveFlags::empty())?);
            Ok(())
        })?;
        created.ok_or(Failure::Raced)
    }

    /// An existing regular file, checked to be the inode that is meant.
    pub fn open_file(&self, directory: &Arc<Directory>, name: &[u8], meant: Identity, write: bool) -> Outcome<OwnedFd> {
        let parent = self.fd(directory)?;
        let access = if write { OFlags::RDWR } else { OFlags::RDONLY };
        if write && self.read_only {
            return Err(Failure::System { action: "opening it", errno: Errno::ROFS });
        }
        // A FIFO put in its place would block an open.
        let flags = access | OFlags::NONBLOCK | OFlags::NOCTTY;
        let open = || open_at(parent.as_fd(), name, flags, Mode::empty(), ResolveFlags::empty());
        let fd = match open() {
            Err(failure) if (failure.is(Errno::ACCESS) || failure.is(Errno::PERM)) && !self.read_only => {
                self.make_accessible(directory, name, meant)?;
                open()?
            }
            other => other?,
        };
        let stat = fs::fstat(&fd).map_err(system("looking at it"))?;
        let is_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
        // The inode of a file that was removed meanwhile may be a new one's by now, which has a name elsewhere.
        let is_shared = write && stat.st_nlink > 1;
        if Identity::of(&stat) != meant || !is_file || is_shared { Err(Failure::Raced) } else { Ok(fd) }
    }

    /// Anything, opened for its attributes only and checked to be the inode that is meant.
    pub fn open_path(&self, directory: &Arc<Directory>, name: &[u8], meant: Option<Identity>) -> Outcome<OwnedFd> {
        let parent = self.fd(directory)?;
        let fd = open_at(parent.as_fd(), name, OFlags::PATH, Mode::empty(), ResolveFlags::empty())?;
        let found = Identity::of(&fs::fstat(&fd).map_err(system("looking at it"))?);
        match meant {
            Some(meant) if meant != found => Err(Failure::Raced),
            _ => Ok(fd),
        }
    }

    pub fn make_symlink(&self, directory: &Arc<Directory>, name: &[u8], target: &[u8]) -> Outcome<()> {
        self.change(directory, "creating the symlink", |fd| fs::symlinkat(target, fd, component_or(name)?))
    }

    pub fn make_node(&self, directory: &Arc<Directory>, name: &[u8], kind: FileType, device: Dev) -> Outcome<()> {
        let mode = Mode::RUSR | Mode::WUSR;
        self.change(directory, "creating it", |fd| fs::mknodat(fd, component_or(name)?, kind, mode, device))
    }

    /// Gives an open inode another name.
    pub fn link(&self, object: BorrowedFd<'_>, directory: &Arc<Directory>, name: &[u8]) -> Outcome<()> {
        let object = format!("/proc/self/fd/{}", object.as_raw_fd());
        self.change(directory, "creating the hard link", |fd| {
            fs::linkat(CWD, object.as_bytes(), fd, component_or(name)?, AtFlags::SYMLINK_FOLLOW)
        })
    }

    /// Gives a file another name in its directory, in place of what has it.
    pub fn rename(&self, directory: &Arc<Directory>, from: &[u8], to: &[u8]) -> Outcome<()> {
        self.change(directory, "replacing it", |fd| fs::renameat(fd, component_or(from)?, fd, component_or(to)?))
    }

    /// Removes anything but a directory.
    pub fn unlink(&self, directory: &Arc<Directory>, name: &[u8]) -> Outcome<()> {
        self.remove(directory, name, AtFlags::empty())
    }

    /// Removes an empty directory.
    pub fn remove_directory(&self, parent: &Arc<Directory>, name: &[u8]) -> Outcome<()> {
        self.remove(parent, name, AtFlags::REMOVEDIR)
    }

    fn remove(&self, directory: &Arc<Directory>, name: &[u8], flags: AtFlags) -> Outcome<()> {
        let action = "removing it";
        match self.change(directory, action, |fd| fs::unlinkat(fd, component_or(name)?, flags)) {
            // The name's own inode may be locked as well.
            Err(failure) if failure.is(Errno::PERM) && !self.read_only => match self.unlock(directory, name) {
                Ok(true) => fs::unlinkat(self.fd(directory)?, component(name)?, flags).map_err(system(action)),
                _ => Err(failure),
            },
            other => other,
        }
    }

    /// Unlocks a file or directory that is to be removed. Nothing else has inode flags, and opening a device may do things.
    fn unlock(&self, directory: &Arc<Directory>, name: &[u8]) -> Outcome<bool> {
        let kind = self.stat(directory, name)?.map(|stat| FileType::from_raw_mode(stat.st_mode));
        if !matches!(kind, Some(FileType::RegularFile | FileType::Directory)) {
            return Ok(false);
        }
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
        let fd = open_at(self.fd(directory)?.as_fd(), name, flags, Mode::empty(), ResolveFlags::empty())?;
        apply::unlock(fd.as_fd()).map_err(system("clearing its inode flags"))
    }

    /// Runs a change of a directory, once more if the directory was locked by its inode flags. Those come back with the
    /// directory's attributes; the root of the target may have none to come, so it stays as it is.
    fn change(
        &self,
        directory: &Arc<Directory>,
        action: &'static str,
        mut operation: impl FnMut(BorrowedFd<'_>) -> Result<(), Errno>,
    ) -> Outcome<()> {
        if self.read_only {
            return Err(Failure::System { action, errno: Errno::ROFS });
        }
        let fd = self.fd(directory)?;
        let result = match operation(fd.as_fd()) {
            Err(Errno::PERM) if directory.place.is_some() && apply::unlock(fd.as_fd()) == Ok(true) => {
                operation(fd.as_fd())
            }
            Err(Errno::ACCESS) if directory.place.is_some() && grant(fd.as_fd(), Mode::RWXU).is_ok() => {
                operation(fd.as_fd())
            }
            other => other,
        };
        result.map_err(system(action))
    }

    /// Unlocks a file and gives its owner the bits to write it; its attributes are set again afterwards.
    fn make_accessible(&self, directory: &Arc<Directory>, name: &[u8], meant: Identity) -> Outcome<()> {
        let path = self.open_path(directory, name, Some(meant))?;
        let _ = grant(path.as_fd(), Mode::RUSR | Mode::WUSR);
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
        let fd = open_at(self.fd(directory)?.as_fd(), name, flags, Mode::empty(), ResolveFlags::empty())?;
        if Identity::of(&fs::fstat(&fd).map_err(system("looking at it"))?) == meant {
            let _ = apply::unlock(fd.as_fd());
        }
        grant(path.as_fd(), Mode::RUSR | Mode::WUSR)
    }

    /// The descriptor of a directory. One that was closed is opened again name by name from the nearest that is
    /// still open, and must be the same inode as before.
    pub fn fd(&self, directory: &Arc<Directory>) -> Outcome<Arc<OwnedFd>> {
        let mut closed = Vec::new();
        let mut at = directory;
        let mut fd = loop {
            let Some((parent, name)) = &at.place else { break self.root_fd.clone() };
            if let Some(fd) = self.lock().get(&at.identity) {
                break fd.clone();
            }
            closed.push((at.identity, name));
            at = parent;
        };
        while let Some((identity, name)) = closed.pop() {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY;
            let opened = Arc::new(open_at(fd.as_fd(), name, flags, Mode::empty(), ResolveFlags::empty())?);
            if Identity::of(&fs::fstat(&opened).map_err(system("looking at it"))?) != identity {
                return Err(Failure::Raced);
            }
            if closed.len() < OPEN_DIRECTORIES_MAX / 2 {
                self.keep(identity, opened.clone());
            }
            fd = opened;
        }
        Ok(fd)
    }

    fn keep(&self, identity: Identity, fd: Arc<OwnedFd>) {
        let mut open = self.lock();
        if open.len() >= OPEN_DIRECTORIES_MAX {
            open.clear();
        }
        open.insert(identity, fd);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Identity, Arc<OwnedFd>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Adds bits to the mode of an inode that the user owns.
fn grant(fd: BorrowedFd<'_>, bits: Mode) -> Outcome<()> {
    let stat = fs::fstat(fd).map_err(system("looking at it"))?;
    let mode = Mode::from_raw_mode(stat.st_mode) | bits;
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    fs::chmodat(CWD, path, mode, AtFlags::empty()).map_err(system("making it accessible"))
}

/// Opens one name in a directory without following anything.
fn open_at(
    directory: BorrowedFd<'_>,
    name: &[u8],
    flags: OFlags,
    mode: Mode,
    resolve: ResolveFlags,
) -> Outcome<OwnedFd> {
    open_at_raw(directory, component(name)?, flags, mode, resolve).map_err(system("opening it"))
}

fn open_at_raw(
    directory: BorrowedFd<'_>,
    name: &[u8],
    flags: OFlags,
    mode: Mode,
    resolve: ResolveFlags,
) -> Result<OwnedFd, Errno> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    // With O_PATH a symlink as the last name is opened itself; everything else refuses it.
    let resolve = resolve | ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    match fs::openat2(directory, name, flags, mode, resolve) {
        // Kernels before 5.6. The name is a single component, so `O_NOFOLLOW` alone keeps inside.
        Err(Errno::NOSYS) => fs::openat(directory, name, flags, mode),
        other => other,
    }
}

/// The tree decoder lets no other names through; here they are refused once more before they reach the system.
fn component(name: &[u8]) -> Outcome<&[u8]> {
    let single = !name.is_empty() && name != b"." && name != b".." && !name.iter().any(|b| matches!(b, 0 | b'/'));
    if single { Ok(name) } else { Err(Failure::Name) }
}

fn component_or(name: &[u8]) -> Result<&[u8], Errno> {
    component(name).map_err(|_| Errno::INVAL)
}

pub fn system(action: &'static str) -> impl Fn(Errno) -> Failure {
    move |errno| Failure::System { action, errno }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(read_only: bool) -> (tempfile::TempDir, Target) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("file"), "x").unwrap();
        std::fs::create_dir_all(dir.path().join("a/b/c")).unwrap();
        std::os::unix::fs::symlink("a", dir.path().join("link")).unwrap();
        let target = Target::open(dir.path(), read_only).unwrap();
        (dir, target)
    }

    fn enter(target: &Target, parent: &Arc<Directory>, name: &str) -> Outcome<Arc<Directory>> {
        target.enter(parent, name.as_bytes(), ResolveFlags::empty())
    }

    #[test]
    fn symlinks_are_not_followed() {
        let (_dir, target) = target(false);
        let root = target.root();
        assert!(enter(&target, &root, "link").is_err());
        assert!(
            target
                .open_path(&root, b"link", None)
                .is_ok_and(|fd| { FileType::from_raw_mode(fs::fstat(fd).unwrap().st_mode) == FileType::Symlink })
        );
        for name in ["..", ".", "", "a/b", "/etc", "a\0"] {
            assert!(matches!(enter(&target, &root, name), Err(Failure::Name)), "{name:?}");
            assert!(target.make_directory(&root, name.as_bytes()).is_err(), "{name:?}");
        }
    }

    #[test]
    fn a_directory_that_was_replaced_is_refused_when_it_is_opened_again() {
        let (dir, target) = target(false);
        let a = enter(&target, &target.root(), "a").unwrap();
        let b = enter(&target, &a, "b").unwrap();
        let c = enter(&target, &b, "c").unwrap();
        assert_eq!(c.path_of(b"x"), b"a/b/c/x");
        target.lock().clear();
        assert!(target.fd(&c).is_ok());
        std::fs::rename(dir.path().join("a/b"), dir.path().join("away")).unwrap();
        std::fs::create_dir_all(dir.path().join("a/b/c")).unwrap();
        assert!(target.fd(&c).is_ok(), "it is still open");
        target.lock().clear();
        assert!(matches!(target.fd(&c), Err(Failure::Raced)));
        std::fs::remove_dir_all(dir.path().join("a/b")).unwrap();
        std::os::unix::fs::symlink("../away", dir.path().join("a/b")).unwrap();
        assert!(target.fd(&c).is_err());
    }

    #[test]
    fn a_file_that_was_replaced_is_refused() {
        let (dir, target) = target(false);
        let root = target.root();
        let meant = Identity::of(&target.stat(&root, b"file").unwrap().unwrap());
        assert!(target.open_file(&root, b"file", meant, true).is_ok());
        std::fs::hard_link(dir.path().join("file"), dir.path().join("again")).unwrap();
        assert!(matches!(target.open_file(&root, b"file", meant, true), Err(Failure::Raced)), "two names");
        std::fs::write(dir.path().join("other"), "y").unwrap();
        std::fs::rename(dir.path().join("other"), dir.path().join("file")).unwrap();
        assert!(matches!(target.open_file(&root, b"file", meant, false), Err(Failure::Raced)));
        assert!(matches!(target.open_path(&root, b"file", Some(meant)), Err(Failure::Raced)));
    }

    #[test]
    fn a_dry_run_cannot_change_anything() {
        let (dir, target) = target(true);
        let root = target.root();
        let before = target.names(&root).unwrap();
        let file = Identity::of(&target.stat(&root, b"file").unwrap().unwrap());
        assert!(target.make_directory(&root, b"n").is_err());
        assert!(target.create_file(&root, b"n").is_err());
        assert!(target.make_symlink(&root, b"n", b"x").is_err());
        assert!(target.make_node(&root, b"n", FileType::Fifo, 0).is_err());
        assert!(target.link(std::fs::File::open(dir.path().join("file")).unwrap().as_fd(), &root, b"n").is_err());
        assert!(target.rename(&root, b"file", b"n").is_err());
        assert!(target.unlink(&root, b"file").is_err());
        assert!(target.remove_directory(&root, b"a").is_err());
        assert!(target.open_file(&root, b"file", file, true).is_err());
        assert!(target.open_file(&root, b"file", file, false).is_ok());
        assert_eq!(target.names(&root).unwrap(), before);
    }
}
