//! From a source of the configuration to the call that saves it: the one place that knows them all.

use super::config::{Files, Source, What};
use super::event::{Event, Saved};
use super::journal::Journal;
use super::verdict::FAILED;
use crate::backup::{self, Context, FilesOptions, Outcome, Request, StreamSource};
use crate::dataset::{self, Kind};
use crate::error::Result;
use chunkstore::id::RunId;
use std::ffi::OsString;

/// What is the same for all sources of a job.
pub struct Order<'a> {
    pub job: &'a str,
    pub run: RunId,
    pub host: &'a str,
    pub tags: &'a [String],
    pub skip_if_unchanged: bool,
    pub upload_bytes_per_second: Option<u64>,
}

/// What a source came to. What failed of it was told.
#[derive(Debug)]
pub struct Tally {
    pub saved: Vec<Saved>,
    /// Parts of the source that failed as a whole, such as databases.
    pub failed: u64,
    /// Of the first that failed.
    pub cause: Option<String>,
    /// The exit code if nothing at all was saved.
    pub code: u8,
}

impl Default for Tally {
    fn default() -> Tally {
        Tally { saved: Vec::new(), failed: 0, cause: None, code: FAILED }
    }
}

impl Tally {
    pub fn is_complete(&self) -> bool {
        self.failed == 0 && self.saved.iter().all(|saved| saved.problems == 0)
    }
}

/// Saves one source, or fails as a whole.
pub fn save(source: &Source, order: &Order<'_>, context: &Context<'_>, journal: &Journal<'_>) -> Result<Tally> {
    match &source.what {
        What::Files(files) => {
            let request = order.request(source, Kind::Files, &dataset::name_of_paths(&files.paths))?;
            let outcome = backup::files(context, &request, &options(files))?;
            Ok(order.one(request, &outcome, journal))
        }
        What::Command { name, command } => {
            let name = OsString::from(name);
            let request = order.request(source, Kind::Stream, &dataset::name_of_stream(&name))?;
            let outcome = backup::stream(context, &request, &name, StreamSource::Command(command.words()))?;
            Ok(order.one(request, &outcome, journal))
        }
        What::Postgres(_) => Err(missing("postgres")),
        What::Zodb(_) => Err(missing("zodb")),
        What::Roundup { .. } => Err(missing("roundup")),
    }
}

fn missing(kind: &str) -> crate::error::Error {
    crate::error::Error::argument(kind, "this version cannot save it yet")
}

impl Order<'_> {
    fn request(&self, source: &Source, kind: Kind, default: &str) -> Result<Request> {
        Ok(Request {
            run: self.run,
            dataset: dataset::name(self.host, kind, source.dataset.as_deref(), default)?,
            host: self.host.to_owned(),
            labels: self.tags.to_vec(),
            dry_run: false,
            skip_if_unchanged: self.skip_if_unchanged,
            upload_bytes_per_second: self.upload_bytes_per_second,
        })
    }

    /// Of a source that makes one snapshot.
    fn one(&self, request: Request, outcome: &Outcome, journal: &Journal<'_>) -> Tally {
        let saved = Saved {
            dataset: request.dataset,
            snapshot: outcome.snapshot.map(|id| id.hex()),
            database: None,
            bytes: outcome.totals.content_bytes,
            added_bytes: outcome.added_bytes,
            problems: outcome.problems,
            elapsed: outcome.elapsed,
        };
        journal.tell(&Event::Saved { job: self.job.to_owned(), saved: saved.clone() });
        Tally { saved: vec![saved], ..Tally::default() }
    }
}

fn options(files: &Files) -> FilesOptions {
    FilesOptions {
        paths: files.paths.clone(),
        excludes: files.excludes.clone(),
        exclude_files: files.exclude_files.clone(),
        exclude_caches: files.exclude_caches,
        exclude_if_present: files.exclude_if_present.iter().map(OsString::from).collect(),
        one_file_system: files.one_file_system,
        exclude_larger_than: files.exclude_larger_than,
        files_from: Vec::new(),
    }
}

/// How a source is called when it fails.
pub fn name(source: &Source) -> String {
    match &source.what {
        What::Files(files) => {
            let paths: Vec<String> = files.paths.iter().map(|path| path.display().to_string()).collect();
            format!("files {}", paths.join(" "))
        }
        What::Command { name, .. } => format!("command {name}"),
        What::Postgres(postgres) => format!("postgres {}", postgres.matches.join(" ")),
        What::Zodb(super::config::Zodb::Instance(path)) => format!("zodb {}", path.display()),
        What::Zodb(super::config::Zodb::Storage { data_fs, .. }) => format!("zodb {}", data_fs.display()),
        What::Roundup { home } => format!("roundup {}", home.display()),
    }
}
