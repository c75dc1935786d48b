//! `backup postgres`: the databases of a server.

use super::{Common, Opened, request};
use crate::backup::Request;
use crate::cli::Exit;
use crate::cli::console::Console;
use crate::cli::progress::Progress;
use crate::dataset;
use crate::error::{Error, Result};
use crate::names;
use crate::postgres::{self as engine, Connection, DatabaseOutcome, Event, Options, PostgresOutcome};
use crate::units::{format_elapsed, format_size, plural};
use clap::ValueEnum;
use serde_json::{Map, Value, json};
use std::num::NonZeroUsize;
use std::path::PathBuf;

const EXAMPLES: &str = "\
Each database is a snapshot of its own, HOST/postgres/NAME; roles and tablespaces go to HOST/postgres-globals/cluster, which \
is marked incomplete if any database is missing. With --dataset, * stands for the name of the database.

A pattern is for the whole name: * ? [a-z] {a,b}, and \\ before a character takes it as it is. Without --match all \
databases are saved but templates and `postgres`.

The server is found as by psql: PGHOST, PGPORT, PGUSER, PGSERVICE; passwords come from PGPASSFILE or ~/.pgpass.

EXAMPLES
  nightkeep backup postgres
  nightkeep backup postgres --match 'Specibike*' --exclude '*_test' --jobs 2
  nightkeep backup postgres --match projop --format plain --host db1 --username openpg
  nightkeep backup postgres --port 5433 --dataset 'second-*' -q";

/// Save PostgreSQL databases, each as a snapshot of its own
///
/// A database that cannot be saved is named, the others are saved, and the exit code is 3.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Postgres {
    /// Save databases whose name matches a pattern; may be repeated
    #[arg(long = "match", value_name = "GLOB")]
    matches: Vec<String>,
    /// Leave out databases whose name matches a pattern; may be repeated
    #[arg(short, long, value_name = "GLOB")]
    exclude: Vec<String>,
    /// How the databases are dumped
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t = Format::Custom)]
    format: Format,
    #[command(flatten)]
    server: Server,
    /// How many databases are saved at once
    #[arg(short, long, value_name = "N", default_value = "1")]
    jobs: NonZeroUsize,
    #[command(flatten)]
    common: Common,
}

/// Where the server is.
#[derive(clap::Args, Clone, Debug)]
pub struct Server {
    /// The server's host, or the directory of its socket
    #[arg(long)]
    host: Option<String>,
    /// The server's port
    #[arg(long)]
    port: Option<u16>,
    /// The role to connect as
    #[arg(long, value_name = "NAME")]
    username: Option<String>,
    /// Look for PostgreSQL's programs in this directory only
    #[arg(long, value_name = "DIR", value_hint = clap::ValueHint::DirPath)]
    programs: Option<PathBuf>,
}

impl Server {
    pub fn connection(&self) -> Connection {
        Connection {
            host: self.host.clone(),
            port: self.port,
            username: self.username.clone(),
            programs: self.programs.clone(),
            ..Connection::default()
        }
    }
}

#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
enum Format {
    /// For pg_restore (-Fc -Z0)
    Custom,
    /// SQL for psql (-c -O -Fp)
    Plain,
}

pub fn run(console: &Console, arguments: &Postgres) -> Result<Exit> {
    let options = Options {
        connection: arguments.server.connection(),
        matches: arguments.matches.clone(),
        excludes: arguments.exclude.clone(),
        format: match arguments.format {
            Format::Custom => engine::Format::Custom,
            Format::Plain => engine::Format::Plain,
        },
        jobs: arguments.jobs.get(),
        dataset: arguments.common.dataset.clone(),
    };
    let opened = Opened::open(console)?;
    let history = opened.session.history()?;
    let request = request(&console.settings, &arguments.common, String::new(), dataset::host())?;
    let progress = Progress::start(console);
    let observe = |event: Event<'_>| {
        if let Event::Finished(finished) = event {
            // If nobody reads it any more, the summary shows that.
            let _ = console.outcome(&line(&request, finished));
        }
    };
    let outcome = opened
        .with_context(console, &progress, |context| engine::save(context, &request, &options, &history, &observe));
    drop(progress);
    let outcome = outcome?;
    warn(console, &outcome);
    summarise(console, &request, &outcome)?;
    if !outcome.is_any() && !request.dry_run {
        return Err(Error::source(
            "nothing was saved",
            format!("{} failed, named above", plural(outcome.problems(), "item")),
        ));
    }
    Ok(Exit::with_problems(outcome.problems()))
}

/// Of one database, or of what belongs to all.
fn line(request: &Request, finished: &DatabaseOutcome) -> Value {
    let mut object = Map::new();
    object.insert("message_type".into(), if finished.name.is_some() { "database" } else { "globals" }.into());
    if let Some(name) = &finished.name {
        names::insert(&mut object, "database", name);
    }
    let mut add = |key: &str, value: Value| object.insert(key.into(), value);
    add("dataset", finished.dataset.clone().into());
    add("run", request.run.hex().into());
    add("started", finished.started.timestamp().to_string().into());
    add("seconds_elapsed", finished.elapsed.as_secs_f64().into());
    add("new", finished.is_new.into());
    match &finished.result {
        Ok(saved) => {
            add("saved", true.into());
            add("snapshot", saved.snapshot.map(|id| id.hex()).into());
            add("total_bytes", saved.totals.content_bytes.into());
            add("new_bytes", saved.new_bytes.into());
            add("added_bytes", saved.added_bytes.into());
        }
        Err(error) => {
            add("saved", false.into());
            add("error", error.to_string().into());
        }
    }
    Value::Object(object)
}

fn warn(console: &Console, outcome: &PostgresOutcome) {
    let shown = |name: &Vec<u8>| names::shown(name);
    // At the first run that goes without saying.
    let is_first = outcome.globals.is_new && outcome.databases.iter().all(|database| database.is_new);
    for database in outcome.databases.iter().filter(|database| database.is_new && !is_first) {
        console.warn(&format!(
            "database {} was never saved before",
            database.name.as_ref().map(shown).unwrap_or_default()
        ));
    }
    for name in &outcome.vanished {
        console.warn(&format!("database {} was saved lately and is there no longer", names::shown(name)));
    }
    for name in &outcome.near {
        console.warn(&format!("database {} is left out: it matches a pattern but for its case", names::shown(name)));
    }
    for unmatched in outcome.unmatched.iter().filter(|unmatched| !unmatched.is_name) {
        console.warn(&format!("no database matches {}", names::shown(unmatched.pattern.as_bytes())));
    }
    for database in outcome.databases.iter().chain([&outcome.globals]) {
        if !database.warnings.is_empty() && database.result.is_ok() {
            console.warn(&format!("{}: {}", database.name.as_ref().map(shown).unwrap_or_default(), database.warnings));
        }
    }
    outcome.warnings.iter().for_each(|warning| console.warn(warning));
}

fn summarise(console: &Console, request: &Request, outcome: &PostgresOutcome) -> Result<()> {
    let list = |names: &mut dyn Iterator<Item = &Vec<u8>>| -> Value {
        names.map(|name| Value::from(String::from_utf8_lossy(name))).collect()
    };
    let (total, new, added) = (
        outcome.sum(|saved| saved.totals.content_bytes),
        outcome.sum(|saved| saved.new_bytes),
        outcome.sum(|saved| saved.added_bytes),
    );
    console.outcome(&json!({
        "message_type": "summary",
        "run": request.run.hex(),
        "server": outcome.server,
        "dry_run": request.dry_run,
        "incomplete": outcome.problems() > 0,
        "selected": outcome.databases.len(),
        "saved": outcome.saved(),
        "failed": list(&mut outcome.failed().filter_map(|database| database.name.as_ref())),
        "globals_saved": outcome.globals.result.is_ok(),
        "new": list(&mut outcome.databases.iter().filter(|one| one.is_new).filter_map(|one| one.name.as_ref())),
        "vanished": list(&mut outcome.vanished.iter()),
        "near": list(&mut outcome.near.iter()),
        "excluded": outcome.excluded.iter().map(|(name, rule)| json!({
            "database": String::from_utf8_lossy(name), "rule": rule,
        })).collect::<Vec<_>>(),
        "unmatched": outcome.unmatched.iter().map(|one| one.pattern.clone()).collect::<Vec<_>>(),
        "total_bytes": total,
        "new_bytes": new,
        "added_bytes": added,
        "problems": outcome.problems(),
        "seconds_elapsed": outcome.elapsed.as_secs_f64(),
    }))?;
    let failed = outcome.failed().count();
    console.say(&format!(
        "Databases: {} selected, {} saved, {failed} failed",
        outcome.databases.len(),
        outcome.saved()
    ))?;
    console.say(&format!("Read:      {}", format_size(total)))?;
    let added_word = if request.dry_run { "Would add:" } else { "Added:    " };
    console.say(&format!("{added_word} {} new, {} stored", format_size(new), format_size(added)))?;
    console.say(&format!("Time:      {}", format_elapsed(outcome.elapsed)))?;
    console.say(&match (request.dry_run, outcome.problems()) {
        (true, _) => "Dry run: no snapshot was made.".to_owned(),
        (false, 0) => format!("Saved run {}.", request.run.hex()),
        (false, problems) => {
            format!(
                "Saved run {}, which is incomplete: {}, named above.",
                request.run.hex(),
                plural(problems, "problem")
            )
        }
    })
}
