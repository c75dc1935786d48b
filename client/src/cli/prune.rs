//! `prune`: frees the space of what was forgotten long enough ago.

use super::Exit;
use super::console::Console;
use super::table::Table;
use crate::clock;
use crate::error::Result;
use crate::history::History;
use crate::session::{Purpose, Session};
use crate::units::{format_size, parse_wait, plural};
use chunkstore::gc::{PruneOptions, PruneOutcome};
use chunkstore::id::SnapshotId;
use chunkstore::mark::Believed;
use serde_json::json;
use std::collections::BTreeMap;
use std::time::Duration;

const EXAMPLES: &str = "\
Backups wait while this runs. It may be interrupted at any time: what it has not done yet, the next run does.

EXAMPLES
  nightkeep prune
  nightkeep prune --dry-run
  nightkeep prune --grace 0";

/// Free the space of forgotten snapshots whose grace period has ended
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// How long a forgotten snapshot can be brought back, instead of what the repository says: 0, 12h, 14d
    #[arg(long, value_name = "TIME", value_parser = wait)]
    grace: Option<Duration>,
    /// Free nothing, show what would be
    #[arg(short = 'n', long)]
    dry_run: bool,
}

pub fn run(console: &Console, arguments: &Arguments) -> Result<Exit> {
    let session = console.open("prune", Purpose::Write)?;
    perform(console, &session, arguments.grace, arguments.dry_run)
}

pub fn perform(console: &Console, session: &Session, grace: Option<Duration>, dry_run: bool) -> Result<Exit> {
    let grace = grace.unwrap_or(Duration::from_secs(session.configuration().grace_seconds));
    let history = session.history()?;
    let options = PruneOptions { grace, now: clock::now(), dry_run, arrived: BTreeMap::new() };
    let repository =
        session.here("prune", "`nightkeepd gc` frees the space of what was forgotten, on a schedule or on demand")?;
    let outcome = repository.prune(Believed::Key(&session.keys.write, None), &options)?;
    if console.json() {
        console.outcome(&json!({
            "message_type": "summary",
            "dry_run": dry_run,
            "snapshots_removed": outcome.snapshots_removed.iter().map(SnapshotId::hex).collect::<Vec<_>>(),
            "snapshots_in_grace": outcome.snapshots_in_grace.iter().map(|(id, until)| json!({
                "snapshot": id.hex(), "recoverable_until": clock::rfc3339(*until),
            })).collect::<Vec<_>>(),
            "blobs_kept": outcome.blobs_kept,
            "blobs_removed": outcome.blobs_removed,
            "packs_kept": outcome.packs_kept,
            "packs_deleted": outcome.packs_deleted,
            "packs_rewritten": outcome.packs_rewritten,
            "bytes_freed": outcome.bytes_freed,
            "bytes_unused_kept": outcome.bytes_unused_kept,
        }))?;
    } else if !console.settings.quiet {
        show(console, &history, &outcome, dry_run)?;
    }
    Ok(Exit::Done)
}

fn show(console: &Console, history: &History, outcome: &PruneOutcome, dry_run: bool) -> Result<()> {
    let would = if dry_run { "would be " } else { "" };
    let removed = plural(outcome.snapshots_removed.len() as u64, "forgotten snapshot");
    console.say(&format!("{removed} {would}removed for good."))?;
    if !outcome.snapshots_in_grace.is_empty() {
        let mut table = Table::new(&[("IN GRACE", false), ("DATASET", false), ("RECOVERABLE UNTIL", false)]);
        let zone = clock::zone();
        for (id, until) in &outcome.snapshots_in_grace {
            let version = history.versions.iter().find(|version| version.id == *id);
            let dataset = version.map_or("", |version| &version.summary().dataset);
            table.row(vec![id.short(), dataset.to_owned(), clock::local(*until, &zone)]);
        }
        console.table(&table)?;
    }
    console.say(&format!("Blobs: {} kept, {} {would}removed", outcome.blobs_kept, outcome.blobs_removed))?;
    console.say(&format!(
        "Packs: {} kept, {} {would}deleted, {} {would}rewritten",
        outcome.packs_kept, outcome.packs_deleted, outcome.packs_rewritten
    ))?;
    let unused = match outcome.bytes_unused_kept {
        0 => String::new(),
        bytes => format!("; {} of unused blobs stay in packs that are not worth rewriting", format_size(bytes)),
    };
    console.say(&format!("Space: {} {would}freed{unused}", format_size(outcome.bytes_freed)))
}

fn wait(text: &str) -> std::result::Result<Duration, String> {
    parse_wait(text).map_err(|error| error.to_string())
}
