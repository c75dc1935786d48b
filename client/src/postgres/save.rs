//! One run: all databases that are selected, several at once, each by itself; then what belongs to all, which is the
//! record of the run.

use super::catalogue::Database;
use super::choose::{Choice, Patterns, Unmatched};
use super::datasets::Datasets;
use super::dump::Dumper;
use super::facts::{self, Fact, Format};
use super::name::component;
use super::program::Connection;
use super::query::{Asked, text};
use crate::backup::{self, Context, Request};
use crate::error::{Error, Result};
use crate::history::History;
use crate::names;
use jiff::Zoned;
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

pub struct Options {
    pub connection: Connection,
    /// Globs; none selects every database but `postgres`.
    pub matches: Vec<String>,
    pub excludes: Vec<String>,
    pub format: Format,
    /// Databases at once.
    pub jobs: usize,
    /// HOST/KIND/NAME or NAME, in which `*` stands for the database.
    pub dataset: Option<String>,
}

/// What is told while it goes on.
pub enum Event<'a> {
    Selected(&'a [Database]),
    /// A database, or (without a name) what belongs to all.
    Finished(&'a DatabaseOutcome),
}

/// What became of one database.
#[derive(Debug)]
pub struct DatabaseOutcome {
    /// None for what belongs to all databases.
    pub name: Option<Vec<u8>>,
    pub dataset: String,
    /// It was never saved before.
    pub is_new: bool,
    pub result: Result<backup::Outcome>,
    pub started: Zoned,
    pub elapsed: Duration,
    /// What the program said although it succeeded.
    pub warnings: String,
}

#[derive(Debug)]
pub struct PostgresOutcome {
    /// Its version.
    pub server: String,
    /// In the order of the catalogue; all that were selected.
    pub databases: Vec<DatabaseOutcome>,
    pub globals: DatabaseOutcome,
    /// With the rule that left each out.
    pub excluded: Vec<(Vec<u8>, String)>,
    /// Databases that would be selected if case made no difference.
    pub near: Vec<Vec<u8>>,
    pub unmatched: Vec<Unmatched>,
    /// Saved lately, and no longer there.
    pub vanished: Vec<Vec<u8>>,
    /// What should be known although nothing is missing.
    pub warnings: Vec<String>,
    pub elapsed: Duration,
}

impl PostgresOutcome {
    pub fn failed(&self) -> impl Iterator<Item = &DatabaseOutcome> {
        self.databases.iter().filter(|database| database.result.is_err())
    }

    pub fn saved(&self) -> usize {
        self.databases.iter().filter(|database| database.result.is_ok()).count()
    }

    /// Databases that failed or are not there, and the globals.
    pub fn problems(&self) -> u64 {
        let missing = self.unmatched.iter().filter(|unmatched| unmatched.is_name).count();
        (self.failed().count() + missing + usize::from(self.globals.result.is_err())) as u64
    }

    /// Whether anything was saved.
    pub fn is_any(&self) -> bool {
        self.saved() > 0 || self.globals.result.is_ok()
    }

    /// Of all that was saved.
    pub fn sum(&self, figure: impl Fn(&backup::Outcome) -> u64) -> u64 {
        let all = self.databases.iter().chain([&self.globals]);
        all.filter_map(|database| database.result.as_ref().ok()).map(figure).sum()
    }
}

/// Saves what is selected. Whatever happens to one database, the others are saved; an error means that none was tried, or
/// that it was told to stop. The request's dataset is of no account.
pub fn save(
    context: &Context<'_>,
    request: &Request,
    options: &Options,
    history: &History,
    observe: &(dyn Fn(Event<'_>) + Sync),
) -> Result<PostgresOutcome> {
    let clock = Instant::now();
    let datasets = Datasets::new(&request.host, options.dataset.as_deref())?;
    let patterns = Patterns::new(&options.matches, &options.excludes)?;
    let dumper = Dumper::of_server(&options.connection)?;
    let databases = dumper.server.databases(&dumper.psql)?;
    let names: Vec<Vec<u8>> = databases.iter().map(|database| database.name.clone()).collect();
    let there: BTreeSet<&[u8]> = names.iter().map(Vec::as_slice).collect();
    let choice = patterns.choose(databases);
    let selected = &choice.selected;
    if selected.is_empty() {
        return Err(none_selected(&choice));
    }
    if datasets.is_single() && selected.len() > 1 {
        let reason = format!("{} databases are selected: put a `*` where their names belong", selected.len());
        return Err(Error::argument("--dataset", reason));
    }
    let run = Run { context, request, options, datasets: &datasets, dumper: &dumper, history, observe };
    run.announce(&choice);
    observe(Event::Selected(selected));
    let trusting = run.ask_trusting();
    let databases = run.all(selected);
    let interrupted =
        databases.iter().any(|outcome| matches!(outcome.result, Err(Error::Store(chunkstore::Error::Interrupted))));
    if interrupted {
        return Err(chunkstore::Error::Interrupted.into());
    }
    let globals = run.globals(&databases, &choice);
    if let Err(Error::Store(chunkstore::Error::Interrupted)) = globals.result {
        return Err(chunkstore::Error::Interrupted.into());
    }
    Ok(PostgresOutcome {
        server: dumper.server.version_text.clone(),
        vanished: datasets.vanished(history, &there),
        warnings: run.warnings(trusting),
        databases,
        globals,
        excluded: choice.excluded,
        near: choice.near,
        unmatched: choice.unmatched,
        elapsed: clock.elapsed(),
    })
}

fn none_selected(choice: &Choice) -> Error {
    let unmatched: Vec<String> = choice.unmatched.iter().map(|one| names::shown(one.pattern.as_bytes())).collect();
    let reason = match unmatched.as_slice() {
        [] => "the server has none but templates and what is excluded".into(),
        patterns => format!("none matches {}", patterns.join(", ")),
    };
    Error::source("no database is selected", reason)
}

struct Run<'a> {
    context: &'a Context<'a>,
    request: &'a Request,
    options: &'a Options,
    datasets: &'a Datasets,
    dumper: &'a Dumper<'a>,
    history: &'a History,
    observe: &'a (dyn Fn(Event<'_>) + Sync),
}

impl Run<'_> {
    /// How much to expect, and what is left out.
    fn announce(&self, choice: &Choice) {
        let counters = self.context.monitor.counters();
        counters.files_total.store(choice.selected.len() as u64 + 1, Ordering::Relaxed);
        let datasets = self.history.datasets();
        let last = |dataset: String| datasets.get(dataset.as_str()).and_then(|versions| versions.last().copied());
        let known = choice.selected.iter().filter_map(|database| last(self.datasets.of(&database.name)));
        let bytes: u64 = known.map(|version| version.summary().totals.content_bytes).sum();
        counters.bytes_total.store(bytes, Ordering::Relaxed);
        for (name, rule) in &choice.excluded {
            let mut item = name.clone();
            item.extend_from_slice(format!(" ({rule})").as_bytes());
            self.context.monitor.detail("excluded", &item);
        }
        for unmatched in choice.unmatched.iter().filter(|unmatched| unmatched.is_name) {
            self.context.monitor.problem(unmatched.pattern.as_bytes(), "there is no such database");
        }
    }

    fn all(&self, selected: &[Database]) -> Vec<DatabaseOutcome> {
        let (next, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
        let outcomes: Mutex<Vec<(usize, DatabaseOutcome)>> = Mutex::default();
        std::thread::scope(|scope| {
            for _ in 0..self.options.jobs.clamp(1, selected.len()) {
                scope.spawn(|| {
                    while let (at, Some(database)) = {
                        let at = next.fetch_add(1, Ordering::Relaxed);
                        (at, selected.get(at))
                    } {
                        let outcome = self.one(database, &stop);
                        outcomes.lock().unwrap_or_else(PoisonError::into_inner).push((at, outcome));
                    }
                });
            }
        });
        let mut outcomes = outcomes.into_inner().unwrap_or_else(PoisonError::into_inner);
        outcomes.sort_by_key(|(at, _)| *at);
        outcomes.into_iter().map(|(_, outcome)| outcome).collect()
    }

    fn one(&self, database: &Database, stop: &AtomicBool) -> DatabaseOutcome {
        let (clock, started) = (Instant::now(), facts::now());
        let mut warnings = String::new();
        let result = if stop.load(Ordering::Relaxed) {
            Err(Error::source("the run", "it ended before this database's turn, since the repository failed"))
        } else {
            self.context.monitor.current(&database.name);
            self.dump(database, &mut warnings)
        };
        if let Err(Error::Store(error)) = &result {
            use chunkstore::Error::{Full, Interrupted, Poisoned};
            // What fails one fails the rest.
            stop.fetch_or(matches!(error, Full { .. } | Interrupted | Poisoned { .. }), Ordering::Relaxed);
        }
        let outcome = DatabaseOutcome {
            dataset: self.datasets.of(&database.name),
            is_new: self.datasets.is_new(self.history, &database.name),
            name: Some(database.name.clone()),
            result,
            started,
            elapsed: clock.elapsed(),
            warnings,
        };
        self.tell(&database.name, &outcome);
        outcome
    }

    fn dump(&self, database: &Database, warnings: &mut String) -> Result<backup::Outcome> {
        let request = self.request_for(self.datasets.of(&database.name));
        let mut dump = self.dumper.database(database, self.options.format, request.skip_if_unchanged)?;
        let name = OsString::from(format!("{}.{}", component(&database.name), self.options.format.extension()));
        let result = dump.produce(0, |producer| backup::produced(self.context, &request, &name, producer));
        *warnings = std::mem::take(&mut dump.warnings);
        result.map_err(source_error)
    }

    fn globals(&self, databases: &[DatabaseOutcome], choice: &Choice) -> DatabaseOutcome {
        let (clock, started) = (Instant::now(), facts::now());
        self.context.monitor.current(GLOBALS_NAME.as_bytes());
        let request = self.request_for(self.datasets.globals.clone());
        let mut warnings = String::new();
        let mut result = Err(Error::source(GLOBALS_NAME, "pg_dumpall was not looked for"));
        if let Some(mut dump) = self.dumper.globals(request.skip_if_unchanged) {
            let (record, problems) = record(databases, choice);
            dump.record(record);
            let name = OsString::from("globals.sql");
            let saved = dump.produce(problems, |producer| backup::produced(self.context, &request, &name, producer));
            warnings = std::mem::take(&mut dump.warnings);
            result = saved.map_err(source_error);
        }
        let dataset = self.datasets.globals.clone();
        let is_new = !self.history.present().any(|version| version.summary().dataset == dataset);
        let outcome =
            DatabaseOutcome { name: None, dataset, is_new, result, started, elapsed: clock.elapsed(), warnings };
        self.tell(GLOBALS_NAME.as_bytes(), &outcome);
        outcome
    }

    fn request_for(&self, dataset: String) -> Request {
        let jobs = u64::try_from(self.options.jobs).unwrap_or(1).max(1);
        Request {
            run: self.request.run,
            dataset,
            host: self.request.host.clone(),
            labels: self.request.labels.clone(),
            dry_run: self.request.dry_run,
            skip_if_unchanged: self.request.skip_if_unchanged,
            upload_bytes_per_second: self.request.upload_bytes_per_second.map(|bytes| (bytes / jobs).max(1)),
            compression: self.request.compression,
        }
    }

    fn tell(&self, item: &[u8], outcome: &DatabaseOutcome) {
        match &outcome.result {
            Ok(saved) if saved.snapshot.is_some() => self.context.monitor.detail("saved", item),
            Ok(_) => self.context.monitor.detail("unchanged", item),
            Err(Error::Store(chunkstore::Error::Interrupted)) => (),
            // What it happened to is the item.
            Err(Error::Source { reason, .. }) => self.context.monitor.problem(item, reason),
            Err(error) => self.context.monitor.problem(item, &error.to_string()),
        }
        (self.observe)(Event::Finished(outcome));
    }

    fn warnings(&self, trusting: Option<Asked>) -> Vec<String> {
        if !self.dumper.server.is_superuser {
            return vec!["roles were saved without their passwords: only a superuser may read them".to_owned()];
        }
        // Servers before version 10 cannot tell.
        let lines = trusting.and_then(|asked| asked.answer().ok()).unwrap_or_default();
        let lines: Vec<String> = lines.iter().map(|line| text(line)).collect();
        if lines.is_empty() {
            return Vec::new();
        }
        vec![format!("the server lets anybody in as any user: pg_hba.conf says `trust` in line {}", lines.join(", "))]
    }

    /// For lines of pg_hba.conf that let people in without asking who they are; only a superuser is told.
    fn ask_trusting(&self) -> Option<Asked> {
        let statement = "SELECT line_number FROM pg_hba_file_rules WHERE auth_method = 'trust' ORDER BY line_number";
        let psql = &self.dumper.psql;
        let asked = self.dumper.server.is_superuser.then(|| psql.begin(psql.maintenance(), &[statement.into()]));
        asked.and_then(Result::ok)
    }
}

const GLOBALS_NAME: &str = "roles and tablespaces";

/// What the snapshot of the globals tells of the run.
fn record(databases: &[DatabaseOutcome], choice: &Choice) -> (Vec<Fact>, u64) {
    let failed = databases.iter().filter(|database| database.result.is_err());
    let mut missing: Vec<&[u8]> = failed.filter_map(|database| database.name.as_deref()).collect();
    let count = missing.len();
    missing.extend(choice.unmatched.iter().filter(|one| one.is_name).map(|one| one.pattern.as_bytes()));
    let number = |key: &str, value: usize| facts::fact(key, value.to_string());
    let mut facts = vec![
        number("postgres.selected", databases.len()),
        number("postgres.saved", databases.len() - count),
        number("postgres.failed", count),
    ];
    if !missing.is_empty() {
        let mut names = missing.join(&0);
        names.truncate(60 << 10);
        facts.push(facts::fact("postgres.missing", names));
    }
    (facts, missing.len() as u64)
}

/// A failure of the source is no failure of the repository.
fn source_error(error: chunkstore::Error) -> Error {
    match error {
        chunkstore::Error::Invalid { what, reason } => Error::source(what, reason),
        other => Error::Store(other),
    }
}
