//! Roundup trackers: database, home and files as one snapshot, taken while the tracker works.
//!
//! The database first, the files after it: files are only ever added, so each row that was saved has its file in what is
//! walked later. That every row has it is checked; where one has not, either the tracker changed meanwhile, and all is
//! done once more, or the file is lost, and the snapshot is incomplete and names it.

mod ini;

mod content;

mod sqlite;

mod tracker;

mod leftout;

mod facts;

mod restore;

pub use restore::{Restore, Restored, is_occupied};

use crate::backup::special::{Depot, Made, Prepared, Tree, compose};
use crate::backup::{Context, FilesOptions, Outcome, Request};
use crate::error::{Error, Result};
use chunkstore::tree::{Attributes, Time};
use content::{Contents, Lost};
use leftout::LeftOut;
use sqlite::{Copying, Rows};
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tracker::{Backend, Tracker};

/// All is done so often if the tracker changes in a way that leaves rows without files.
const ATTEMPTS: usize = 3;
/// A commit makes its rows visible an instant before its files have their names.
const COMMIT_PATIENCE: Duration = Duration::from_secs(2);
const COMMIT_POLL: Duration = Duration::from_millis(20);

/// Which tracker is to be saved.
pub struct Options {
    /// The directory with its `config.ini`.
    pub home: PathBuf,
    /// Patterns of what is left out, as for files.
    pub excludes: Vec<String>,
}

/// What was saved.
#[derive(Debug)]
pub struct Saved {
    pub outcome: Outcome,
    /// `sqlite` or `postgresql`.
    pub backend: &'static str,
    /// Of all classes.
    pub rows: u64,
    /// Rows with content in a file.
    pub contents: u64,
}

/// Whether a tracker can be saved, before anything is opened for it.
pub fn inspect(home: &Path) -> Result<()> {
    Tracker::open(home).map(|_| ())
}

/// Saves a tracker. Ends incomplete (problems > 0) if a file cannot be read or a row has lost its file.
pub fn save(context: &Context<'_>, request: &Request, options: &Options) -> Result<Saved> {
    for attempt in 1..=ATTEMPTS {
        let tracker = Tracker::open(&options.home)?;
        let task = Task { context, request, options, tracker: &tracker, is_last: attempt == ATTEMPTS };
        let saved = match &tracker.backend {
            Backend::Sqlite { file, patience } => task.with_sqlite(file, *patience)?,
            Backend::Postgres(_) => {
                return Err(Error::Backend {
                    tracker: tracker.home.display().to_string(),
                    backend: "postgresql".into(),
                });
            }
        };
        if let Some(saved) = saved {
            return Ok(saved);
        }
        context.monitor.detail("changed meanwhile, again", tracker.root.as_os_str().as_bytes());
    }
    Err(Error::Tracker { path: options.home.display().to_string(), reason: "it does not hold still".into() })
}

/// One attempt.
struct Task<'a> {
    context: &'a Context<'a>,
    request: &'a Request,
    options: &'a Options,
    tracker: &'a Tracker,
    is_last: bool,
}

/// A database in the repository, and what it says about files.
struct Database<'a> {
    prepared: Prepared,
    rows: &'a Rows,
    facts: Vec<(String, Vec<u8>)>,
}

impl Task<'_> {
    fn with_sqlite(&self, file: &Path, patience: Duration) -> Result<Option<Saved>> {
        let context = self.context;
        context.monitor.current(file.as_os_str().as_bytes());
        let copying =
            Copying { database: file, directory: context.cache_dir, patience, interrupted: context.interrupted };
        let copy = copying.copy()?;
        let still_there = |class: &str, ids: &[u64]| copying.present(class, ids).map(|present| present.len()).ok();
        let outcome = compose(context, self.request, &|depot| {
            depot.hold_problems();
            if let Some(damage) = &copy.damage {
                depot.problem(file.as_os_str().as_bytes(), &format!("SQLite's own check finds damage: {damage}"));
            }
            let content = depot.file(&file.display().to_string(), copy.file.as_file())?;
            let attributes = attributes(depot, file)?;
            let prepared = Prepared { path: self.tracker.database.join("db"), attributes, content };
            let checked = if copy.damage.is_none() { "ok" } else { "damaged" };
            let facts = vec![facts::fact("roundup.database-check", checked)];
            self.make(depot, Database { prepared, rows: &copy.rows, facts }, &still_there)
        })?;
        Ok(outcome.map(|outcome| self.saved(outcome, &copy.rows)))
    }

    /// The walk after the database, and whether both agree. `None`: the tracker changed so that it is better done again.
    fn make(
        &self,
        depot: &mut Depot<'_>,
        database: Database<'_>,
        still_there: &dyn Fn(&str, &[u64]) -> Option<usize>,
    ) -> chunkstore::Result<Option<Made>> {
        let tracker = self.tracker;
        let mut contents = Contents::new(&database.rows.classes, tracker.database.join("files"), &tracker.links);
        let began = Instant::now();
        contents.look(&mut || {
            std::thread::sleep(COMMIT_POLL);
            began.elapsed() < COMMIT_PATIENCE && !self.context.interrupted.load(Ordering::Relaxed)
        });
        depot.check()?;
        let left_out = LeftOut::new(tracker);
        let options =
            FilesOptions { paths: tracker.paths(), excludes: self.options.excludes.clone(), ..FilesOptions::default() };
        let keep = |path: &[u8], is_directory: bool| left_out.keep(path, is_directory) && contents.keep(path);
        let walked = depot.walk(&Tree { options: &options, prepared: vec![database.prepared], keep: Some(&keep) })?;
        let missing = contents.missing();
        if !self.is_last && is_passing(&missing, &mut contents, still_there) {
            return Ok(None);
        }
        for lost in &missing {
            let path = tracker.database.join("files").join(lost.place());
            let reason = format!("{} is in the database, but its content is not here", lost.name());
            depot.problem(path.as_os_str().as_bytes(), &reason);
        }
        let mut facts = facts::of(tracker, database.rows, contents.count(), missing.len());
        facts.extend(database.facts);
        Ok(Some(Made { walked, facts }))
    }

    fn saved(&self, outcome: Outcome, rows: &Rows) -> Saved {
        let contents = rows.classes.iter().map(|class| class.ids.len() as u64).sum();
        Saved { outcome, backend: self.tracker.backend.word(), rows: rows.total, contents }
    }
}

/// Whether files are missing only since the tracker went on: some are there now, or their rows are gone as well.
fn is_passing(
    missing: &[Lost],
    contents: &mut Contents<'_>,
    still_there: &dyn Fn(&str, &[u64]) -> Option<usize>,
) -> bool {
    if missing.is_empty() {
        return false;
    }
    let now = contents.look(&mut || false);
    if missing.iter().any(|lost| now.binary_search(lost).is_err()) {
        return true;
    }
    missing.chunk_by(|a, b| a.class == b.class).any(|group| {
        let Some(first) = group.first() else { return false };
        let ids: Vec<u64> = group.iter().map(|lost| lost.id).collect();
        // If it cannot be asked any more, doing it again would not help.
        still_there(&first.class, &ids).is_some_and(|count| count < ids.len())
    })
}

/// Those of the original. Its time is that of the last write, also of one that is still in the log.
fn attributes(depot: &Depot<'_>, path: &Path) -> chunkstore::Result<Attributes> {
    let shown = path.as_os_str().as_bytes();
    let file = File::open(path).map_err(|error| chunkstore::Error::io("open", path.display().to_string(), error))?;
    let (_, attributes) = depot.attributes(shown, &file)?;
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    let logged = std::fs::metadata(log).ok().filter(|log| log.len() > 0).and_then(|log| {
        let nanoseconds = u32::try_from(log.mtime_nsec()).ok()?;
        Some(Time { seconds: log.mtime(), nanoseconds })
    });
    let modified = match logged {
        Some(logged) if later(&attributes.modified, &logged) => logged,
        _ => attributes.modified,
    };
    Ok(Attributes { modified, ..attributes })
}

fn later(time: &Time, than: &Time) -> bool {
    (than.seconds, than.nanoseconds) > (time.seconds, time.nanoseconds)
}
