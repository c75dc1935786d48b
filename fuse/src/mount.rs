//! A mount from the check of its place to its end.

use crate::ahead::{Ahead, Current};
use crate::attributes::Owners;
use crate::error::{Error, Result};
use crate::filesystem::Mounted;
use crate::keeper::{Keeper, Refresh};
use crate::listing::Listing;
use crate::notices::{Log, Notices};
use crate::skeleton::Skeleton;
use crate::tree::Files;
use chunkstore::reader::Reader;
use crossbeam_channel::{Sender, bounded};
use fuser::{BackgroundSession, Config, MountOption, Session, SessionACL};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, RwLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long the end of the session may take once nothing uses it.
const END_WAIT: Duration = Duration::from_secs(2);
const READAHEAD_KIB: &str = "1024";
/// Of those who asks a mount whose process is gone.
const ENOTCONN: i32 = 107;

#[derive(Clone, Debug)]
pub struct Options {
    /// Other users may look, as the files' permissions say.
    pub allow_other: bool,
    /// Everything is shown as root's.
    pub all_root: bool,
    /// `security.*` attributes are shown.
    pub security: bool,
    /// What the reader's cache of chunks holds.
    pub cache_bytes: u64,
    /// How often to look for new snapshots.
    pub poll: Duration,
    /// Of so many files the kernel's memory costs memory here; beyond, it is asked to forget.
    pub rows_max: usize,
}

impl Options {
    /// What [`Options::rows_max`] usually is: some 60 MB.
    pub const ROWS_MAX: usize = 400_000;
}

/// Where the content comes from.
pub struct Source {
    pub reader: Arc<Reader>,
    pub listing: Listing,
    pub refresh: Refresh,
    pub log: Log,
}

/// A mount that is there. Dropping it unmounts.
pub struct Mount {
    place: PathBuf,
    session: Option<BackgroundSession>,
    keeper: Option<(Sender<()>, JoinHandle<()>)>,
    files: Arc<Files>,
}

/// How it ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    Clean,
    /// It is no longer to be seen, but programs have files of it open, which they cannot read any more.
    InUse,
}

/// The place as it is really called, if something can be mounted there: an empty directory that has nothing to do with the
/// repository.
pub fn check(place: &Path, repository: Option<&Path>) -> Result<PathBuf> {
    let shown = place.display().to_string();
    let failed = |source: io::Error| match source.raw_os_error() {
        _ if source.kind() == ErrorKind::NotFound => Error::place(&shown, "it does not exist"),
        Some(ENOTCONN) => Error::Stale { place: shown.clone() },
        _ => Error::System { action: "mount on", place: shown.clone(), source },
    };
    let real = place.canonicalize().map_err(failed)?;
    if !real.metadata().map_err(failed)?.is_dir() {
        return Err(Error::place(shown, "it is not a directory"));
    }
    if let Some(repository) = repository.and_then(|path| path.canonicalize().ok()) {
        if real.starts_with(&repository) {
            return Err(Error::place(shown, "it is in the repository itself"));
        }
        if repository.starts_with(&real) {
            return Err(Error::place(shown, "the repository is in it and would be hidden"));
        }
    }
    if let Some(entry) = real.read_dir().map_err(failed)?.next() {
        let name = entry.map_err(failed)?.file_name();
        return Err(Error::place(shown, format!("it is not empty: it holds `{}`", name.to_string_lossy())));
    }
    Ok(real)
}

/// Mounts on a place that [`check`] has found good. Requests are answered when this returns.
pub fn mount(place: &Path, source: Source, options: &Options) -> Result<Mount> {
    let shown = place.display().to_string();
    let failed = |action| {
        let place = shown.clone();
        move |source| Error::System { action, place, source }
    };
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    let current: Current = Arc::new(RwLock::new(source.reader));
    let owners = Owners {
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        all_root: options.all_root,
    };
    let ahead = Ahead::new(&current, threads, options.cache_bytes).map_err(failed("start threads for"))?;
    let files = Arc::new(Files::new(current, Skeleton::new(&source.listing), owners));
    let notices = Arc::new(Notices::new(source.log));
    let mounted = Mounted::new(Arc::clone(&files), ahead, Arc::clone(&notices), options.security);
    let session =
        Session::new(mounted, place, &configuration(options, threads)).map_err(|error| refused(&shown, error))?;
    let session = session.spawn().map_err(failed("start threads for"))?;
    let keeper = Keeper {
        files: Arc::clone(&files),
        notices,
        notifier: session.notifier(),
        refresh: source.refresh,
        poll: options.poll,
        rows_max: options.rows_max,
    };
    let (sender, receiver) = bounded(0);
    let keeping = std::thread::Builder::new().name("keeper".into()).spawn(move || keeper.run(&receiver));
    let keeper = keeping.map(|thread| (sender, thread)).map_err(failed("start threads for"))?;
    raise_readahead(place);
    Ok(Mount { place: place.to_owned(), session: Some(session), keeper: Some(keeper), files })
}

impl Mount {
    /// True once somebody else has unmounted it.
    pub fn is_over(&self) -> bool {
        self.session.as_ref().is_none_or(|session| session.guard.is_finished())
    }

    /// How many files of snapshots the kernel knows of now.
    pub fn remembered(&self) -> usize {
        self.files.table().len()
    }

    pub fn unmount(mut self) -> End {
        self.end()
    }

    fn end(&mut self) -> End {
        let Some(session) = self.session.take() else { return End::Clean };
        let begun = Instant::now();
        let guard = let_go(session);
        let is_over = || guard.as_ref().is_none_or(JoinHandle::is_finished);
        while !is_over() && begun.elapsed() < END_WAIT {
            std::thread::sleep(Duration::from_millis(5));
        }
        let end = if is_over() {
            End::Clean
        } else {
            // In use: out of sight, so that nobody new comes. Those who are there lose it with this process.
            let _ = rustix::mount::unmount(&self.place, rustix::mount::UnmountFlags::DETACH);
            End::InUse
        };
        if let Some((stop, thread)) = self.keeper.take() {
            drop(stop);
            // It may be waiting for a repository that does not answer.
            while !thread.is_finished() && begun.elapsed() < END_WAIT {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        end
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        self.end();
    }
}

/// Unmounts by dropping what holds the mount; the thread that serves it remains. None if it is over.
fn let_go(session: BackgroundSession) -> Option<JoinHandle<io::Result<()>>> {
    if session.guard.is_finished() {
        // Somebody else unmounted it, and may have mounted anew. What holds the mount would unmount that, since fuser 0.18 takes a device
        // that is disconnected for one that is mounted. So it keeps a descriptor of that device until the process ends.
        std::mem::forget(session);
        return None;
    }
    Some(session.guard)
}

fn configuration(options: &Options, processors: usize) -> Config {
    let mut config = Config::default();
    config.mount_options = vec![
        MountOption::RO,
        MountOption::NoSuid,
        MountOption::NoDev,
        MountOption::NoAtime,
        MountOption::DefaultPermissions,
        MountOption::FSName("nightkeep".into()),
        MountOption::Subtype("nightkeep".into()),
    ];
    config.acl = if options.allow_other { SessionACL::All } else { SessionACL::Owner };
    // More than processors: a thread that waits for the repository serves nobody else.
    config.n_threads = Some((2 * processors).clamp(4, 16));
    config.clone_fd = true;
    config
}

fn refused(place: &str, source: io::Error) -> Error {
    let text = source.to_string();
    match source.kind() {
        _ if !Path::new("/dev/fuse").exists() => Error::NoDevice,
        ErrorKind::NotFound => Error::NoHelper,
        ErrorKind::PermissionDenied if text.contains("user_allow_other") => Error::OthersNotAllowed,
        _ => Error::System { action: "mount on", place: place.to_owned(), source },
    }
}

/// The kernel reads 128 KiB ahead unless root asks for more; without it reading is only slower.
fn raise_readahead(place: &Path) {
    if let Ok(stat) = rustix::fs::stat(place) {
        let (major, minor) = (rustix::fs::major(stat.st_dev), rustix::fs::minor(stat.st_dev));
        let _ = std::fs::write(format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb"), READAHEAD_KIB);
    }
}
