//! From a source of the configuration to the call that saves it: the one place that knows them all.

use super::config::{Files, Postgres, Source, What, Zodb};
use super::event::{Event, Saved};
use super::journal::Journal;
use super::verdict::FAILED;
use crate::backup::{self, Compression, Context, FilesOptions, Outcome, Request, StreamSource};
use crate::dataset::{self, Kind};
use crate::error::Result;
use crate::names;
use crate::postgres::{self, Connection, DatabaseOutcome, Format, PostgresOutcome, User};
use crate::roundup;
use crate::session::Session;
use crate::zodb::{self, Where};
use chunkstore::id::RunId;
use std::collections::BTreeMap;
use std::ffi::OsString;

/// What is the same for all sources of a job.
pub struct Order<'a> {
    pub job: &'a str,
    pub run: RunId,
    pub host: &'a str,
    pub tags: &'a [String],
    pub skip_if_unchanged: bool,
    pub upload_bytes_per_second: Option<u64>,
    pub compression: Compression,
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
pub fn save(
    source: &Source,
    order: &Order<'_>,
    session: &Session,
    context: &Context<'_>,
    journal: &Journal<'_>,
) -> Result<Tally> {
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
        What::Postgres(databases) => {
            let options = postgres_options(databases, source.dataset.as_deref())?;
            let request = order.request_of(String::new());
            let observe = |event: postgres::Event<'_>| order.observe(event, journal);
            let outcome = postgres::save(context, &request, &options, &session.history()?, &observe)?;
            Ok(order.several(&outcome, journal))
        }
        What::Zodb(storage) => {
            let site = place_of(storage).find()?;
            for other in &site.others {
                order.note(format!("another storage beside it is not saved with it: {}", other.display()), journal);
            }
            let request =
                order.request(source, Kind::Zodb, &dataset::name_of_paths(std::slice::from_ref(&site.root)))?;
            let saved = zodb::save(context, &request, &site)?;
            Ok(order.one(request, &saved.outcome, journal))
        }
        What::Roundup { home, excludes, server } => {
            let connection = connection(server)?;
            let (home, excludes) = (home.clone(), excludes.clone());
            let options = roundup::Options { home, excludes, connection };
            let request =
                order.request(source, Kind::Roundup, &dataset::name_of_paths(std::slice::from_ref(&options.home)))?;
            let saved = roundup::save(context, &request, &options)?;
            Ok(order.one(request, &saved.outcome, journal))
        }
    }
}

fn place_of(storage: &Zodb) -> Where {
    match storage {
        Zodb::Instance(instance) => Where::Instance(instance.clone()),
        Zodb::Storage { data_fs, blobs } => Where::Files { data_fs: data_fs.clone(), blobs: blobs.clone() },
    }
}

impl Order<'_> {
    fn request(&self, source: &Source, kind: Kind, default: &str) -> Result<Request> {
        Ok(self.request_of(dataset::name(self.host, kind, source.dataset.as_deref(), default)?))
    }

    fn request_of(&self, dataset: String) -> Request {
        Request {
            run: self.run,
            dataset,
            host: self.host.to_owned(),
            labels: self.tags.to_vec(),
            dry_run: false,
            skip_if_unchanged: self.skip_if_unchanged,
            upload_bytes_per_second: self.upload_bytes_per_second,
            compression: self.compression,
        }
    }

    fn note(&self, text: String, journal: &Journal<'_>) {
        journal.tell(&Event::Note { job: self.job.to_owned(), text });
    }

    /// What is told while databases are saved; what fails of them goes to the monitor.
    fn observe(&self, event: postgres::Event<'_>, journal: &Journal<'_>) {
        match event {
            postgres::Event::Selected(databases) => {
                for database in databases {
                    let database = names::shown(&database.name);
                    journal.tell(&Event::Found { job: self.job.to_owned(), database });
                }
                journal.tell(&Event::Counted { job: self.job.to_owned(), databases: databases.len() as u64 });
            }
            postgres::Event::Finished(database) => {
                if let Some(saved) = saved_database(database) {
                    journal.tell(&Event::Saved { job: self.job.to_owned(), saved });
                }
            }
        }
    }

    fn several(&self, outcome: &PostgresOutcome, journal: &Journal<'_>) -> Tally {
        let mut left_out: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for (name, rule) in &outcome.excluded {
            left_out.entry(rule).or_default().push(names::shown(name));
        }
        for (rule, databases) in left_out {
            self.note(format!("left out ({rule}): {}", databases.join(", ")), journal);
        }
        for name in &outcome.near {
            let name = names::shown(name);
            self.note(format!("database {name} is left out: it matches a pattern but for its case"), journal);
        }
        for database in outcome.databases.iter().filter(|database| database.is_new) {
            let name = database.name.as_deref().map(names::shown).unwrap_or_default();
            self.note(format!("database {name} was never saved before"), journal);
        }
        for name in &outcome.vanished {
            let name = names::shown(name);
            self.note(format!("database {name} was saved lately and is there no longer"), journal);
        }
        outcome.warnings.iter().for_each(|warning| self.note(warning.clone(), journal));
        let missing = outcome.unmatched.iter().filter(|unmatched| unmatched.is_name);
        let missing: Vec<String> = missing.map(|one| format!("there is no database {}", one.pattern)).collect();
        let selected = (outcome.databases.len() + missing.len()) as u64;
        journal.tell(&Event::Databases { job: self.job.to_owned(), selected, saved: outcome.saved() as u64 });
        let all = || outcome.databases.iter().chain([&outcome.globals]);
        Tally {
            saved: all().filter_map(saved_database).collect(),
            failed: outcome.problems(),
            cause: all().find_map(failure).or_else(|| missing.first().cloned()),
            ..Tally::default()
        }
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

fn saved_database(database: &DatabaseOutcome) -> Option<Saved> {
    let outcome = database.result.as_ref().ok()?;
    Some(Saved {
        dataset: database.dataset.clone(),
        snapshot: outcome.snapshot.map(|id| id.hex()),
        database: database.name.as_deref().map(names::shown),
        bytes: outcome.totals.content_bytes,
        added_bytes: outcome.added_bytes,
        problems: 0,
        elapsed: database.elapsed,
    })
}

fn failure(database: &DatabaseOutcome) -> Option<String> {
    let error = database.result.as_ref().err()?;
    let name = database.name.as_deref().map_or_else(|| "roles and tablespaces".into(), names::shown);
    Some(format!("database {name}: {error}"))
}

fn postgres_options(databases: &Postgres, dataset: Option<&str>) -> Result<postgres::Options> {
    Ok(postgres::Options {
        connection: connection(databases)?,
        matches: databases.matches.clone(),
        excludes: databases.excludes.clone(),
        format: if databases.plain { Format::Plain } else { Format::Custom },
        jobs: databases.jobs.unwrap_or(1),
        dataset: dataset.map(str::to_owned),
    })
}

fn connection(server: &Postgres) -> Result<Connection> {
    Ok(Connection {
        host: server.host.clone(),
        port: server.port,
        username: server.username.clone(),
        service: server.service.clone(),
        programs: server.programs.clone(),
        run_as: server.run_as.as_deref().map(User::named).transpose()?,
        ..Connection::default()
    })
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
        What::Zodb(Zodb::Instance(path)) => format!("zodb {}", path.display()),
        What::Zodb(Zodb::Storage { data_fs, .. }) => format!("zodb {}", data_fs.display()),
        What::Roundup { home, .. } => format!("roundup {}", home.display()),
    }
}
