//! `snapshots`: what there is.

use super::Exit;
use super::console::Console;
use super::table::Table;
use crate::clock;
use crate::error::{Error, Result};
use crate::history::Version;
use crate::names;
use crate::session::Purpose;
use crate::units::{format_count, format_size};
use chunkstore::id::SnapshotId;
use globset::{GlobBuilder, GlobMatcher};
use jiff::tz::TimeZone;
use serde_json::{Value, json};
use std::collections::HashMap;

const EXAMPLES: &str = "\
In GLOB, * matches any text, also across /, ? one character, [ab] one of several, {a,b} one of several texts. \
With --json each line is an object of message_type `snapshot`.

EXAMPLES
  nightkeep snapshots
  nightkeep snapshots --dataset 'www/*' --latest 3
  nightkeep snapshots --forgotten
  nightkeep snapshots --json --latest 1";

/// List snapshots, oldest first
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// Only of datasets that match
    #[arg(long, value_name = "GLOB", value_parser = dataset_glob)]
    dataset: Option<GlobMatcher>,
    /// Only the newest N of each dataset
    #[arg(long, value_name = "N")]
    latest: Option<usize>,
    /// Those that were forgotten and can still be brought back
    #[arg(long)]
    forgotten: bool,
}

pub fn run(console: &Console, arguments: &Arguments) -> Result<Exit> {
    let session = console.open("snapshots", Purpose::Read)?;
    let history = session.history()?;
    let grace = session.configuration().grace_seconds;
    let wanted = |version: &&Version| {
        version.is_forgotten() == arguments.forgotten
            && arguments.dataset.as_ref().is_none_or(|glob| glob.is_match(&version.summary().dataset))
    };
    let mut shown: Vec<&Version> = history.versions.iter().filter(wanted).collect();
    if let Some(latest) = arguments.latest {
        let mut seen: HashMap<&str, usize> = HashMap::new();
        shown.reverse();
        shown.retain(|version| {
            let count = seen.entry(&version.summary().dataset).or_default();
            *count += 1;
            *count <= latest
        });
        shown.reverse();
    }
    let ids: Vec<SnapshotId> = shown.iter().map(|version| version.id).collect();
    let copies = session.copies(&ids)?;
    if console.json() {
        for (at, version) in shown.iter().enumerate() {
            let mut object = object(version, grace);
            let sites = copies.as_ref().and_then(|copies| copies.get(at));
            if let (Some(sites), Some(object)) = (sites, object.as_object_mut()) {
                object.insert("copies".into(), json!(sites));
            }
            console.object(&object)?;
        }
    } else if !shown.is_empty() {
        print(console, &shown, grace, arguments.forgotten, copies.as_deref())?;
    } else {
        console.say("There are none.")?;
    }
    let mut problems = 0;
    for damaged in history.damaged.iter().filter(|damaged| !damaged.given_up) {
        problems += 1;
        console.problem(damaged.object.as_bytes(), &damaged.error.to_string());
    }
    Ok(Exit::with_problems(problems))
}

fn print(
    console: &Console,
    versions: &[&Version],
    grace: u64,
    forgotten: bool,
    copies: Option<&[Vec<String>]>,
) -> Result<()> {
    // Where one site is all there is, a column of ones says nothing.
    let copies = copies.filter(|copies| copies.iter().any(|sites| sites.len() > 1));
    let last = if forgotten { "RECOVERABLE UNTIL" } else { "NOTES" };
    let mut columns = vec![
        ("ID", false),
        ("TIME", false),
        ("DATASET", false),
        ("FILES", true),
        ("SIZE", true),
        ("ADDED", true),
        ("TAGS", false),
    ];
    if copies.is_some() {
        columns.push(("COPIES", false));
    }
    columns.push((last, false));
    let mut table = Table::new(&columns);
    let zone = clock::zone();
    for (at, version) in versions.iter().enumerate() {
        let summary = version.summary();
        let labels: Vec<String> = version.state.labels.iter().map(|label| names::shown(label.as_bytes())).collect();
        let mut row = vec![
            version.id.short(),
            clock::local(summary.time, &zone),
            names::shown(summary.dataset.as_bytes()),
            format_count(summary.totals.files),
            format_size(summary.totals.content_bytes),
            format_size(summary.totals.added_bytes),
            labels.join(","),
        ];
        if let Some(copies) = copies {
            let sites = copies.get(at).map(Vec::as_slice).unwrap_or_default();
            row.push(format!("{}: {}", sites.len(), names::printable(&sites.join(" "))));
        }
        row.push(notes(version, grace, &zone));
        table.row(row);
    }
    console.table(&table)
}

fn notes(version: &Version, grace: u64, zone: &TimeZone) -> String {
    let mut notes = Vec::new();
    if let Some(until) = version.recoverable_until(grace) {
        notes.push(clock::local(until, zone));
    }
    if version.state.pinned {
        notes.push("pinned".into());
    }
    if version.summary().incomplete {
        notes.push("incomplete".into());
    }
    notes.join(" ")
}

fn object(version: &Version, grace: u64) -> Value {
    let summary = version.summary();
    let totals = summary.totals;
    json!({
        "message_type": "snapshot",
        "id": version.id.hex(),
        "dataset": summary.dataset,
        "run": summary.run.hex(),
        "time": clock::rfc3339(summary.time),
        "host": summary.dataset.split('/').next(),
        "tags": version.state.labels,
        "pinned": version.state.pinned,
        "incomplete": summary.incomplete,
        "forgotten": version.state.forgotten.map(clock::rfc3339),
        "recoverable_until": version.recoverable_until(grace).map(clock::rfc3339),
        "totals": {
            "files": totals.files,
            "directories": totals.directories,
            "others": totals.others,
            "content_bytes": totals.content_bytes,
            "added_bytes": totals.added_bytes,
        },
    })
}

/// For `--dataset`: `*` crosses `/`.
pub fn dataset_glob(text: &str) -> std::result::Result<GlobMatcher, String> {
    let glob = GlobBuilder::new(text).literal_separator(false).backslash_escape(true).build();
    glob.map(|glob| glob.compile_matcher()).map_err(|error| error.to_string())
}

/// The versions of datasets that match, if a pattern was given; it is an error if none does.
pub fn matching<'h>(
    versions: impl Iterator<Item = &'h Version>,
    glob: Option<&GlobMatcher>,
) -> Result<Vec<&'h Version>> {
    let Some(glob) = glob else { return Ok(versions.collect()) };
    let found: Vec<&Version> = versions.filter(|version| glob.is_match(&version.summary().dataset)).collect();
    if found.is_empty() {
        return Err(Error::NoSuchSnapshot { wanted: glob.glob().to_string() });
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_crosses_slashes() {
        assert!(dataset_glob("www*").unwrap().is_match("www/files/etc"));
        assert!(dataset_glob("*/etc").unwrap().is_match("www/files/etc"));
        assert!(!dataset_glob("etc").unwrap().is_match("www/files/etc"));
        assert!(dataset_glob("*/{etc,home}").unwrap().is_match("www/files/home"));
        assert!(dataset_glob("[").is_err());
    }
}
