//! `restore roundup`: one tracker.

use crate::cli::Exit;
use crate::cli::console::Console;
use crate::cli::ls::Found;
use crate::cli::progress::Progress;
use crate::cli::question::confirm;
use crate::clock;
use crate::error::{Error, Result};
use crate::names;
use crate::postgres::{Connection, Password};
use crate::roundup::{Restore, Restored, is_occupied};
use crate::selection::Selector;
use crate::session::Purpose;
use crate::units::{format_elapsed, format_size, plural};
use chunkstore::codec::Opener;
use serde_json::json;
use std::ffi::OsString;
use std::path::PathBuf;

const EXAMPLES: &str = "\
The tracker is restored beside DIR, checked, and takes its name when all of it is there. What was in DIR is kept as \
DIR.before-DATE-TIME. Parts that lay outside the home (a database directory, files behind a symlink) come back inside \
DIR, and config.ini names them there: what is restored shares nothing with a tracker that still works. A PostgreSQL \
tracker's database is loaded into NAME, which must not exist; PGHOST, PGPORT, PGUSER and PGPASSWORD, where they are set, \
beat what config.ini says of the server.

EXAMPLES
  nightkeep restore roundup support --target /srv/trackers/support
  nightkeep restore roundup support@2026-11-20 --target /tmp/support-yesterday
  nightkeep restore roundup 1a2b3c4d --target /srv/trackers/support --dbname support_2 --yes";

/// Restore a Roundup tracker: its database, home and files
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Roundup {
    /// Which snapshot
    #[arg(value_name = "SNAPSHOT")]
    snapshot: OsString,
    /// The tracker's home, which is made, or replaced
    #[arg(short, long, value_name = "DIR", value_hint = clap::ValueHint::DirPath)]
    target: PathBuf,
    /// The new PostgreSQL database, if the tracker uses one
    #[arg(long, value_name = "NAME")]
    dbname: Option<String>,
    /// Replace what is in DIR without asking
    #[arg(long)]
    yes: bool,
}

pub fn run(console: &Console, arguments: &Roundup) -> Result<Exit> {
    let selector = Selector::parse(&arguments.snapshot, &clock::zone())?;
    if !selector.path.is_empty() {
        return Err(Error::argument("the snapshot", "a tracker is restored as a whole, without :PATH"));
    }
    let session = console.open("restore", Purpose::Read)?;
    let reader = session.reader()?;
    let history = session.history()?;
    let found = Found::find(&selector, &history, &reader)?;
    let version = found.version;
    let summary = version.summary();
    if summary.incomplete {
        console.warn(&format!("snapshot {} is incomplete: some items could not be saved", version.id.short()));
    }
    let opener = Opener::new(&session.keys, session.configuration())?;
    let details = version.snapshot.details(&opener)?;
    let shown = arguments.target.display();
    if is_occupied(&arguments.target)? && !arguments.yes {
        let what = format!("{shown} will be replaced by {} of {}.", summary.dataset, clock::rfc3339(summary.time));
        confirm(console, "the restore", &what)?;
    }
    let connection = connection()?;
    let progress = Progress::start(console);
    progress.expect(summary.totals.files, summary.totals.content_bytes);
    let restored = console.interrupts.watched(|interrupted| {
        let (root, facts) = (summary.root, details.facts.as_slice());
        let (target, dbname) = (&arguments.target, arguments.dbname.as_deref());
        let (reader, connection, monitor) = (&reader, &connection, &progress);
        Restore { reader, root, facts, target, dbname, connection, monitor, interrupted }.run()
    });
    drop(progress);
    let restored = restored?;
    summarise(console, &found, &restored)?;
    Ok(Exit::with_problems(restored.outcome.problems))
}

/// What libpq's variables say beats the configuration that was saved, perhaps on another machine.
fn connection() -> Result<Connection> {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let port = variable("PGPORT").map(|port| port.parse()).transpose();
    Ok(Connection {
        host: variable("PGHOST"),
        port: port.map_err(|_| Error::argument("PGPORT", "expected a number"))?,
        username: variable("PGUSER"),
        password: variable("PGPASSWORD").map(Password),
        ..Connection::default()
    })
}

fn summarise(console: &Console, found: &Found<'_>, restored: &Restored) -> Result<()> {
    let (outcome, place) = (&restored.outcome, restored.place.display());
    let aside = restored.aside.as_ref().map(|path| path.display().to_string());
    console.outcome(&json!({
        "message_type": "summary",
        "snapshot": found.version.id.hex(),
        "dataset": found.version.summary().dataset,
        "target": place.to_string(),
        "aside": aside,
        "database": restored.database,
        "changed_options": restored.changed,
        "needs_reindex": restored.needs_reindex,
        "files": outcome.files,
        "directories": outcome.directories,
        "others": outcome.others,
        "written_bytes": outcome.written_bytes,
        "problems": outcome.problems,
        "seconds_elapsed": outcome.elapsed.as_secs_f64(),
    }))?;
    let (files, size) = (plural(outcome.files, "file"), format_size(outcome.written_bytes));
    console.say(&format!("Restored {files}, {size}, in {}", format_elapsed(outcome.elapsed)))?;
    if let Some(database) = &restored.database {
        console.say(&format!("Loaded the PostgreSQL database {}", names::shown(database.as_bytes())))?;
    }
    for note in &restored.notes {
        console.warn(note);
    }
    for option in &restored.changed {
        console.say(&format!("Changed in config.ini, so that it leads to what was restored: {option}"))?;
    }
    if let Some(aside) = &aside {
        console.say(&format!("What was there before is in {aside}"))?;
    }
    if restored.needs_reindex {
        console.say(&format!("Its full-text index has to be made again: roundup-admin -i {place} reindex"))?;
    }
    if outcome.problems > 0 {
        return console.say(&format!("{place} is incomplete: {}, named above.", plural(outcome.problems, "problem")));
    }
    console.say(&format!("The tracker is in {place}."))
}
