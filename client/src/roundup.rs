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

mod known;

mod rows;

mod database;

mod restore;

pub use restore::{Restore, Restored, is_occupied};

use crate::backup::special::{Depot, Made, Tree, compose};
use crate::backup::{Context, FilesOptions, Outcome, Request};
use crate::error::{Error, Result};
use crate::postgres::Connection;
use content::{Contents, Lost};
use database::{Database, Source};
use known::{Known, Place};
use leftout::LeftOut;
use std::cell::RefCell;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tracker::Tracker;

/// All is done so often if the tracker changes in a way that leaves rows without files.
const ATTEMPTS: usize = 3;
/// A commit makes its rows visible an instant before its files have their names.
const COMMIT_PATIENCE: Duration = Duration::from_secs(2);
const COMMIT_POLL: Duration = Duration::from_millis(20);

/// Which tracker is to be saved.
#[derive(Clone, Default, Debug)]
pub struct Options {
    /// The directory with its `config.ini`.
    pub home: PathBuf,
    /// Patterns of what is left out, as for files.
    pub excludes: Vec<String>,
    /// What `config.ini` does not say of a PostgreSQL server: where the programs are, as whom they run.
    pub connection: Connection,
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
        if let Some(saved) = task.run()? {
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

/// What an attempt came to.
struct Done {
    made: Made,
    known: Option<Known>,
    rows: u64,
    contents: u64,
}

impl Task<'_> {
    /// `None`: the tracker changed so that it is better done again.
    fn run(&self) -> Result<Option<Saved>> {
        let place = Place::new(self.context, self.request, &self.tracker.root);
        // Errors that the repository has no words for, and what is said when all is well.
        let (failure, figures) = (RefCell::new(None), RefCell::new(None));
        let composed = compose(self.context, self.request, &|depot| match self.make(depot, &place) {
            Ok(None) => Ok(None),
            Ok(Some(Done { made, known, rows, contents })) => {
                figures.replace(Some((known, rows, contents)));
                Ok(Some(made))
            }
            Err(Error::Store(error)) => Err(error),
            Err(other) => {
                let told = chunkstore::Error::invalid("tracker", other.to_string());
                failure.replace(Some(other));
                Err(told)
            }
        });
        if let Some(failure) = failure.into_inner() {
            return Err(failure);
        }
        let (Some(outcome), Some((known, rows, contents))) = (composed?, figures.into_inner()) else { return Ok(None) };
        if let (Some(known), Some(_)) = (known, outcome.snapshot) {
            place.write(&known);
        }
        Ok(Some(Saved { outcome, backend: self.tracker.backend.word(), rows, contents }))
    }

    /// The database, the walk after it, and whether both agree.
    fn make(&self, depot: &mut Depot<'_>, place: &Place) -> Result<Option<Done>> {
        let tracker = self.tracker;
        self.context.monitor.current(tracker.database.as_os_str().as_bytes());
        depot.hold_problems();
        let source = Source { context: self.context, tracker, place, connection: &self.options.connection };
        let Database { prepared, rows, facts: of_database, known } = source.store(depot)?;
        let mut contents = Contents::new(&rows.classes, tracker.database.join("files"), &tracker.links);
        let began = Instant::now();
        contents.look(&mut || {
            std::thread::sleep(COMMIT_POLL);
            began.elapsed() < COMMIT_PATIENCE && !self.context.interrupted.load(Ordering::Relaxed)
        });
        depot.check()?;
        let left_out = LeftOut::new(tracker);
        let (paths, excludes) = (tracker.paths(), self.options.excludes.clone());
        let options = FilesOptions { paths, excludes, ..FilesOptions::default() };
        let keep = |path: &[u8], is_directory: bool| left_out.keep(path, is_directory) && contents.keep(path);
        let prepared = std::iter::once(prepared).chain(source.linked_configuration(depot)?).collect();
        let walked = depot.walk(&Tree { options: &options, prepared, keep: Some(&keep) })?;
        let missing = contents.missing();
        if !self.is_last && is_passing(&missing, &mut contents, &|class, ids| source.count(class, ids)) {
            return Ok(None);
        }
        for lost in &missing {
            let path = tracker.database.join("files").join(lost.place());
            let reason = format!("{} is in the database, but its content is not here", lost.name());
            depot.problem(path.as_os_str().as_bytes(), &reason);
        }
        let mut facts = facts::of(tracker, &rows, contents.count(), missing.len());
        facts.extend(of_database);
        let contents = contents.count();
        Ok(Some(Done { made: Made { walked, facts }, known, rows: rows.total, contents }))
    }
}

/// Whether files are missing only since the tracker went on: some are there now, or their rows are gone as well.
fn is_passing(missing: &[Lost], contents: &mut Contents<'_>, count: &dyn Fn(&str, &[u64]) -> Option<usize>) -> bool {
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
        count(&first.class, &ids).is_some_and(|count| count < ids.len())
    })
}
