//! `mount`: snapshots as files, in the foreground until it is unmounted, or in the background once it is there.

mod background;
mod snapshots;

use super::Exit;
use super::console::Console;
use super::snapshots::dataset_glob;
use crate::clock;
use crate::error::{Error, Result};
use crate::selection::{Among, Selector};
use crate::session::{Home, Purpose};
use crate::units;
use background::Child;
use chunkstore::codec::Opener;
use chunkstore::reader::Reader;
use chunkstore::store::Store;
use globset::GlobMatcher;
use nightkeep_fuse::mount::{self as engine, End, Options, Source};
use nightkeep_fuse::patience::{self, Patient};
use serde_json::json;
use snapshots::Watcher;
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Decoded directories and lists; the cache of content comes on top.
const NODE_CACHE_BYTES: usize = 32 << 20;
const POLL: Duration = Duration::from_secs(2);
/// A server is asked for all of them.
const POLL_SERVER: Duration = Duration::from_secs(30);
const TICK: Duration = Duration::from_millis(50);

const EXAMPLES: &str = "\
Below DIR are datasets/HOST/KIND/NAME/TIME, by-id, by-run, and dumps with databases' dumps under their traditional \
names; `latest` leads to the newest. New snapshots appear by themselves. `umount DIR`, Ctrl-C or SIGTERM end it.

EXAMPLES
  nightkeep mount /mnt
  nightkeep mount /mnt --dataset 'www/*' --allow-other --background
  nightkeep mount /mnt --snapshot home@2026-11-21";

/// Show snapshots as read-only files
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// An empty directory
    #[arg(value_name = "DIR", value_hint = clap::ValueHint::DirPath)]
    place: PathBuf,
    /// Only snapshots of datasets that match
    #[arg(long, value_name = "GLOB", value_parser = dataset_glob, conflicts_with = "snapshot")]
    dataset: Option<GlobMatcher>,
    /// Only this snapshot
    #[arg(long, value_name = "SNAPSHOT")]
    snapshot: Option<OsString>,
    /// Let other users look too, as far as the files' permissions allow
    #[arg(long)]
    allow_other: bool,
    /// Show everything as root's
    #[arg(long)]
    owner_root: bool,
    /// Show security.* attributes too: capabilities and labels
    #[arg(long)]
    security_xattrs: bool,
    /// Return once it is mounted
    #[arg(long)]
    background: bool,
    /// Where damage that is met is told, instead of standard error or, in the background, the system's log
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    log: Option<PathBuf>,
    /// Memory for content that was read
    #[arg(long, value_name = "SIZE", value_parser = size, default_value = "256M")]
    cache: u64,
}

pub fn run(console: &Console, arguments: &Arguments) -> Result<Exit> {
    if arguments.background && !Child::is_this() {
        let place = engine::check(&arguments.place, console.settings.directory().ok().map(PathBuf::as_path))?;
        return background::start(&|| {
            let line = json!({"message_type": "status", "mounted": place.display().to_string()});
            console.outcome(&line)?;
            console.say(&format!("Mounted on {0}; `umount {0}` ends it.", place.display()))
        });
    }
    serve(console, arguments)
}

fn serve(console: &Console, arguments: &Arguments) -> Result<Exit> {
    let own = if console.settings.remote()?.is_some() { None } else { Some(console.settings.directory()?.as_path()) };
    let place = engine::check(&arguments.place, own)?;
    let selector = arguments.snapshot.as_ref().map(|text| Selector::parse(text, &clock::zone())).transpose()?;
    let log = background::Log::open(arguments.log.as_deref())?;
    let session = console.open("mount", Purpose::Read)?;
    let history = session.history()?;
    let only = selector.map(|selector| selector.resolve(&history, Among::Present).map(|found| found.id)).transpose()?;
    super::snapshots::matching(history.present(), arguments.dataset.as_ref())?;
    for damaged in history.damaged.iter().filter(|damaged| !damaged.given_up) {
        console.problem(damaged.object.as_bytes(), &damaged.error.to_string());
    }
    let remote = matches!(session.home(), Home::Server(_));
    let store: Arc<dyn Store> = match remote {
        true => Arc::new(Patient::new(Arc::clone(&session.store), patience::WAIT)),
        false => Arc::clone(&session.store),
    };
    let opener = Opener::new(&session.keys, session.configuration())?;
    let room =
        usize::try_from(arguments.cache).map_err(|_| Error::argument("--cache", "it is more than memory can be"))?;
    let reader = Arc::new(Reader::with_caches(store, opener, NODE_CACHE_BYTES, room));
    let mut watcher = Watcher::new(session, console.settings.clone(), arguments.dataset.clone(), only, room);
    let listing = watcher.listing(&history)?;
    drop(history);
    let json = console.json();
    let child = Child::is_this();
    let telling = Arc::clone(&log);
    let source = Source {
        reader,
        listing,
        refresh: Box::new(move || watcher.look()),
        log: Box::new(move |item, reason| telling.problem(json, item, reason)),
    };
    let options = Options {
        allow_other: arguments.allow_other,
        all_root: arguments.owner_root,
        security: arguments.security_xattrs,
        cache_bytes: arguments.cache,
        poll: if remote { POLL_SERVER } else { POLL },
        rows_max: Options::ROWS_MAX,
    };
    // A signal that comes as soon as it is told that it stands ends it as one that comes later does.
    let mounted = console.interrupts.watched(|interrupted| -> Result<_> {
        let mounted = engine::mount(&place, source, &options)?;
        if child {
            Child::let_go(&log, console.settings.directory().is_ok_and(|path| path.is_absolute()))?;
        } else {
            console.outcome(&json!({"message_type": "status", "mounted": place.display().to_string()}))?;
            console.say(&format!("Mounted on {0}; `umount {0}` or Ctrl-C ends it.", place.display()))?;
            console.flush()?;
        }
        while !mounted.is_over() && !interrupted.load(Ordering::SeqCst) {
            std::thread::sleep(TICK);
        }
        Ok(mounted)
    })?;
    let end = mounted.unmount();
    if end == End::InUse {
        log.problem(json, place.display().to_string().as_bytes(), "it was in use; what had files open cannot read on");
    }
    let ended = if end == End::Clean { "clean" } else { "in use" };
    console.outcome(&json!({"message_type": "summary", "unmounted": ended}))?;
    Ok(Exit::Done)
}

fn size(text: &str) -> std::result::Result<u64, String> {
    units::parse_size(text).map_err(|error| error.to_string())
}
