//! `backup roundup`: one tracker.

use super::{Common, Opened, expect, request, summarise_with};
use crate::cli::Exit;
use crate::cli::console::Console;
use crate::cli::progress::Progress;
use crate::dataset::{self, Kind};
use crate::error::{Error, Result};
use crate::roundup::{self as engine, Options};
use crate::units::{format_count, plural};
use serde_json::json;
use std::path::PathBuf;

const EXAMPLES: &str = "\
The database is saved first, in one moment of its own, while the tracker works: SQLite through its online backup, \
PostgreSQL through pg_dump with what config.ini says. Then the home, files, and whatever config.ini or a symlink puts \
elsewhere. Sessions, locks, logs, compiled Python and full-text indexes are left out; see docs/roundup.md.

EXAMPLES
  nightkeep backup roundup /srv/trackers/support
  nightkeep backup roundup /srv/trackers/support --dataset support --tag nightly";

/// Save a Roundup tracker: its database, home and files
///
/// A message or file whose content is lost is named, the rest is saved, and the exit code is 3.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Roundup {
    /// The tracker's home: the directory with its config.ini
    #[arg(value_name = "TRACKER_HOME", value_hint = clap::ValueHint::DirPath)]
    home: PathBuf,
    #[command(flatten)]
    common: Common,
}

pub fn run(console: &Console, arguments: &Roundup) -> Result<Exit> {
    let (common, shown) = (&arguments.common, arguments.home.display());
    let home =
        std::path::absolute(&arguments.home).map_err(|error| Error::io("cannot resolve", shown.to_string(), error))?;
    let host = dataset::host();
    let default = dataset::name_of_paths(std::slice::from_ref(&home));
    let dataset = dataset::name(&host, Kind::Roundup, common.dataset.as_deref(), &default)?;
    let options = Options { home, ..Options::default() };
    // Before a passphrase is asked for: that this is a tracker which can be saved.
    engine::inspect(&options.home)?;
    let opened = Opened::open(console)?;
    let request = request(&console.settings, common, dataset, host)?;
    let progress = Progress::start(console);
    expect(&progress, &opened.session.history()?, &request.dataset);
    let saved = opened.with_context(console, &progress, |context| engine::save(context, &request, &options));
    drop(progress);
    let saved = saved?;
    console.say(&format!(
        "Database:  {}, {}, {} with content in files",
        saved.backend,
        plural(saved.rows, "row"),
        format_count(saved.contents)
    ))?;
    let details = json!({"backend": saved.backend, "rows": saved.rows, "contents": saved.contents});
    summarise_with(console, &request, Kind::Roundup, &saved.outcome, details)?;
    Ok(Exit::with_problems(saved.outcome.problems))
}
