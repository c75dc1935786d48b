//! `restore postgres`: what stands in the way, the question, the restore step by step.

use crate::cli::Exit;
use crate::cli::backup::postgres::Server;
use crate::cli::console::Console;
use crate::cli::progress::Progress;
use crate::cli::question::confirm;
use crate::clock;
use crate::error::{Error, Result};
use crate::history::Version;
use crate::names;
use crate::postgres::restore::{self as engine, Options, Plan, Restored, Standing, Step};
use crate::postgres::{Saved, is_database, is_globals};
use crate::restore::Selection;
use crate::selection::{Among, Selector};
use crate::session::Purpose;
use crate::session_files::seed;
use crate::units::{format_size, plural};
use chunkstore::reader::Reader;
use chunkstore::tree::{Entry, Node};
use serde_json::json;
use std::ffi::OsString;
use std::io::Write;
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::AtomicBool;

const EXAMPLES: &str = "\
First it is looked whether all that is needed is there; what stands in the way is named and nothing is touched. Then the dump \
is loaded into a new database under a temporary name, and an error ends it. Only then does that database get its name; with \
--replace, the old one is renamed to NAME_before_YYYYMMDD_HHMMSS and kept.

A snapshot of HOST/postgres-globals restores roles and tablespaces into the server.

EXAMPLES
  nightkeep restore postgres projop --dbname projop_check
  nightkeep restore postgres www/postgres/projop@2026-11-20 --replace
  nightkeep restore postgres postgres-globals/cluster --host db2 --username postgres
  nightkeep restore postgres 1a2b3c4d --replace --yes -q";

/// Restore a PostgreSQL database
///
/// Killed at any moment, the old database is there, under its own name or the one that was told.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Postgres {
    /// Which snapshot
    #[arg(value_name = "SNAPSHOT")]
    snapshot: OsString,
    /// Give the database another name than it had
    #[arg(long, value_name = "NAME")]
    dbname: Option<OsString>,
    /// Replace a database that exists: it is renamed aside and kept
    #[arg(long)]
    replace: bool,
    /// Answer the question with yes
    #[arg(long)]
    yes: bool,
    /// Leave owners and rights out
    #[arg(long)]
    no_owner: bool,
    /// Restore although the server is in another time zone than the one the dump is of
    #[arg(long)]
    force_tz: bool,
    #[command(flatten)]
    server: Server,
}

pub fn run(console: &Console, arguments: &Postgres) -> Result<Exit> {
    let selector = Selector::parse(&arguments.snapshot, &clock::zone())?;
    if !selector.path.is_empty() {
        return Err(Error::argument("SNAPSHOT", "a database is restored as a whole: give no path"));
    }
    let session = console.open("restore", Purpose::Read)?;
    let reader = session.reader()?;
    let history = session.history()?;
    let version = selector.resolve(&history, Among::Present)?;
    let facts = version.snapshot.details(&reader.opener)?.facts;
    let source = Source { reader: &reader, version, selection: only_file(&reader, version)? };
    if is_globals(&facts) {
        return restore_globals(console, arguments, &source);
    }
    if !is_database(&facts) {
        let reason = format!("it is of {}, not of a PostgreSQL database", version.summary().dataset);
        return Err(Error::argument(format!("snapshot {}", version.id.short()), reason));
    }
    let options = Options {
        connection: arguments.server.connection(),
        dbname: arguments.dbname.as_ref().map(|name| name.as_bytes().to_vec()),
        replace: arguments.replace,
        owners: !arguments.no_owner,
        force_timezone: arguments.force_tz,
    };
    let now = clock::zoned(clock::now(), &clock::zone());
    let plan = Plan::new(Saved::read(&facts)?, &options, seed()?, &now)?;
    show(console, &plan)?;
    let obstacles = plan.obstacles().count();
    if obstacles > 0 {
        return Err(Error::refused(
            "the restore",
            format!("{} in the way, named above; nothing was touched", plural(obstacles as u64, "obstacle")),
        ));
    }
    if plan.aside.is_some() && !arguments.yes {
        confirm(console, "the restore", &consequence(&plan, version))?;
    }
    let restored = carry_out(console, &source, plan)?;
    summarise(console, version, &restored)?;
    Ok(Exit::with_problems(restored.problems.len() as u64))
}

/// What is restored.
struct Source<'a> {
    reader: &'a Reader,
    version: &'a Version,
    selection: Selection,
}

impl Source<'_> {
    fn write(&self, out: &mut dyn Write, progress: &Progress, interrupted: &AtomicBool) -> Result<()> {
        crate::dump::dump(self.reader, &self.selection, out, progress, interrupted).map(drop).map_err(Error::from)
    }
}

/// The dump, which is the only file of its snapshot.
fn only_file(reader: &Reader, version: &Version) -> Result<Selection> {
    let mut found: Vec<Entry> = Vec::new();
    reader.entries(version.summary().root, &mut |entry| {
        found.push(entry);
        Ok(if found.len() > 1 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    })?;
    match found.pop() {
        Some(entry) if found.is_empty() && matches!(entry.node, Node::File(_)) => Ok(Selection::Entry(Box::new(entry))),
        _ => Err(Error::argument(
            format!("snapshot {}", version.id.short()),
            "it does not hold one dump and nothing else",
        )),
    }
}

fn restore_globals(console: &Console, arguments: &Postgres, source: &Source<'_>) -> Result<Exit> {
    if !arguments.yes {
        let consequence = "Roles and tablespaces of the snapshot are made in the server; roles that exist get the rights and the password \
             that they had then.";
        confirm(console, "the restore", consequence)?;
    }
    let progress = Progress::start(console);
    let existing = console.interrupts.watched(|interrupted| {
        let connection = arguments.server.connection();
        engine::globals(&connection, &mut |out| source.write(out, &progress, interrupted), interrupted)
    });
    drop(progress);
    let existing = existing?;
    console.outcome(&json!({
        "message_type": "summary",
        "snapshot": source.version.id.hex(),
        "dataset": source.version.summary().dataset,
        "existing": existing,
    }))?;
    console.say(&format!("Restored roles and tablespaces; {existing} were there already."))?;
    Ok(Exit::Done)
}

/// What was found, and what stands in the way even when quiet.
fn show(console: &Console, plan: &Plan<'_>) -> Result<()> {
    for finding in &plan.findings {
        let standing = match finding.standing {
            Standing::Fine => "fine",
            Standing::Note => "note",
            Standing::Obstacle => "obstacle",
        };
        console.outcome(&json!({
            "message_type": "preflight", "check": finding.what, "standing": standing, "message": finding.text,
        }))?;
        if finding.standing == Standing::Obstacle {
            console.problem(finding.what.as_bytes(), &finding.text);
        } else {
            console.say(&names::printable(&format!("{standing}: {}: {}", finding.what, finding.text)))?;
        }
    }
    Ok(())
}

fn consequence(plan: &Plan<'_>, version: &Version) -> String {
    let (target, aside) = (names::shown(&plan.target.name), names::shown(plan.aside.as_deref().unwrap_or_default()));
    let saved = plan.saved();
    format!(
        "Database {target} will be renamed to {aside}, and {target} will be what {} was at {} (snapshot {}, {}).",
        names::shown(&saved.database.name),
        saved.started.strftime("%Y-%m-%d %H:%M:%S %Z"),
        version.id.short(),
        format_size(version.summary().totals.content_bytes),
    )
}

fn carry_out(console: &Console, source: &Source<'_>, plan: Plan<'_>) -> Result<Restored> {
    let progress = Progress::start(console);
    progress.expect(1, source.version.summary().totals.content_bytes);
    let restored = console.interrupts.watched(|interrupted| {
        let mut tell = |step: Step, plan: &Plan<'_>| {
            let (temporary, target) = (names::shown(&plan.temporary), names::shown(&plan.target.name));
            let text = match (step, &plan.aside) {
                (Step::Create, _) => format!("Creating {temporary}"),
                (Step::Load, _) => format!("Loading the dump into {temporary}"),
                (Step::Properties, _) => return,
                (Step::Swap, Some(aside)) => {
                    format!("Renaming {target} to {}, and {temporary} to {target}", names::shown(aside))
                }
                (Step::Swap, None) => format!("Renaming {temporary} to {target}"),
            };
            // Whoever does not read it wants the restore nevertheless.
            let _ =
                console.say(&text).and_then(|()| console.outcome(&json!({"message_type": "step", "message": text})));
            let _ = console.flush();
        };
        plan.carry_out(&mut |out| source.write(out, &progress, interrupted), interrupted, &mut tell)
    });
    drop(progress);
    restored
}

fn summarise(console: &Console, version: &Version, restored: &Restored) -> Result<()> {
    for problem in &restored.problems {
        console.problem(&restored.name, problem);
    }
    let shown = |name: &[u8]| String::from_utf8_lossy(name).into_owned();
    console.outcome(&json!({
        "message_type": "summary",
        "snapshot": version.id.hex(),
        "dataset": version.summary().dataset,
        "database": shown(&restored.name),
        "kept_as": restored.kept_as.as_deref().map(shown),
        "expected_errors": restored.expected_errors,
        "problems": restored.problems.len(),
    }))?;
    if restored.expected_errors > 0 {
        console.say(&format!(
            "{} of DROP commands were expected in a new database.",
            plural(restored.expected_errors, "error")
        ))?;
    }
    console.say(&format!("Restored database {}.", names::shown(&restored.name)))?;
    match &restored.kept_as {
        Some(kept) => {
            console.say(&format!("The old one is kept as {}; drop it when it is no longer needed.", names::shown(kept)))
        }
        None => Ok(()),
    }
}
