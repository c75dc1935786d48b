//! `check`: what is lost, who is affected, what happens next.

use super::Exit;
use super::console::Console;
use super::progress::Progress;
use crate::error::Result;
use crate::history::History;
use crate::monitor::Monitor;
use crate::names;
use crate::session::{Purpose, Session};
use crate::session_files;
use crate::units::{format_count, format_size, plural};
use chunkstore::check::{Check, CheckOutcome, ReadData};
use serde_json::{Map, Value, json};
use std::sync::atomic::Ordering;

const EXAMPLES: &str = "\
What is damaged counts as missing from then on, so the next backup of the same data stores it again. Nothing is removed.

EXAMPLES
  nightkeep check
  nightkeep check --read-data
  nightkeep check --read-data-subset 1/7
  nightkeep check --read-data-subset 5%";

const NEXT: &str = "What is lost counts as missing now: the next backup of the same data stores it again and heals the
snapshots above. Run one, then check again.";

const UNAFFECTED: &str = "No file of a snapshot that can be read is affected.";

/// Check the repository, and with --read-data all it holds
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// Read and verify every byte that is stored
    #[arg(long, conflicts_with = "read_data_subset")]
    read_data: bool,
    /// Read a part: 1/7, 2/7 and so on in turn are all of it; 5% is a random share
    #[arg(long, value_name = "N/M|P%", value_parser = subset)]
    read_data_subset: Option<Subset>,
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Subset {
    Part { part: u64, of: u64 },
    Percent(f64),
}

pub fn run(console: &Console, arguments: &Arguments) -> Result<Exit> {
    let session = console.open("check", Purpose::Write)?;
    let read_data = match arguments.read_data_subset {
        None if arguments.read_data => ReadData::All,
        None => ReadData::Nothing,
        Some(Subset::Part { part, of }) => ReadData::Part { part, of },
        Some(Subset::Percent(percent)) => ReadData::Percent { percent, seed: session_files::seed()? },
    };
    let outcome = check(console, &session, read_data)?;
    let history = session.history()?;
    if console.json() {
        as_json(console, &outcome)?;
    } else {
        as_text(console, &outcome, &history)?;
    }
    let damaged = outcome.findings.iter().any(|finding| finding.lost) || outcome.affected_total > 0;
    Ok(if damaged { Exit::Failed } else { Exit::Done })
}

fn check(console: &Console, session: &Session, read_data: ReadData) -> Result<CheckOutcome> {
    // With a write-only key nothing can be opened; what can be checked without is.
    let reader = if session.keys.opening.is_some() { Some(session.reader()?) } else { None };
    if reader.is_none() {
        console.warn("with a write-only key, contents are not opened and affected paths are not named");
    }
    let repository = session.here("check", "`nightkeepd verify` reads back what is stored")?;
    let progress = Progress::start(console);
    let counters = progress.counters();
    let outcome = console.interrupts.watched(|interrupted| {
        let check = Check {
            repository,
            configuration: session.configuration(),
            key: Some(&session.keys.write),
            reader: reader.as_ref(),
            read_data,
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            interrupted,
            progress: &|done, total| {
                counters.bytes_done.store(done, Ordering::Relaxed);
                counters.bytes_total.store(total, Ordering::Relaxed);
            },
        };
        check.run()
    })?;
    Ok(outcome)
}

fn as_json(console: &Console, outcome: &CheckOutcome) -> Result<()> {
    for finding in &outcome.findings {
        console.object(&json!({
            "message_type": "finding",
            "object": finding.object,
            "message": finding.reason,
            "lost": finding.lost,
        }))?;
    }
    for affected in &outcome.affected {
        let mut object = Map::new();
        object.insert("message_type".into(), "affected".into());
        object.insert("snapshot".into(), affected.snapshot.hex().into());
        object.insert("dataset".into(), affected.dataset.clone().into());
        names::insert(&mut object, "path", &affected.path);
        console.object(&Value::Object(object))?;
    }
    console.outcome(&json!({
        "message_type": "summary",
        "packs": outcome.packs,
        "packs_read": outcome.packs_read,
        "blobs": outcome.blobs,
        "bytes_read": outcome.bytes_read,
        "snapshots": outcome.snapshots,
        "findings": outcome.findings.len(),
        "affected": outcome.affected_total,
        "index_rebuilt": outcome.index_rebuilt,
    }))
}

fn as_text(console: &Console, outcome: &CheckOutcome, history: &History) -> Result<()> {
    for finding in &outcome.findings {
        let word = if finding.lost { "damaged" } else { "note" };
        let line =
            format!("{word}: {}: {}", names::shown(finding.object.as_bytes()), names::shown(finding.reason.as_bytes()));
        if finding.lost { console.print(&line)? } else { console.say(&line)? }
    }
    let mut last = None;
    for affected in &outcome.affected {
        if last != Some(affected.snapshot) {
            last = Some(affected.snapshot);
            let known = history.versions.iter().find(|version| version.id == affected.snapshot);
            let forgotten = if known.is_some_and(|v| v.is_forgotten()) { " (forgotten)" } else { "" };
            let dataset = names::shown(affected.dataset.as_bytes());
            console.print(&format!("affected: snapshot {} of {dataset}{forgotten}:", affected.snapshot.short()))?;
        }
        console.print(&format!("  {}", names::shown(super::walk::or_root(&affected.path))))?;
    }
    let unnamed = outcome.affected_total.saturating_sub(outcome.affected.len() as u64);
    if unnamed > 0 {
        console.print(&format!("  and {} more", plural(unnamed, "path")))?;
    }
    if outcome.affected_total > 0 {
        console.print(NEXT)?;
    } else if outcome.findings.iter().any(|finding| finding.lost) {
        console.print(UNAFFECTED)?;
    }
    if outcome.index_rebuilt {
        console.say("The index was damaged, or disagreed with the packs, and was made again.")?;
    }
    console.say(&format!(
        "Checked {} packs ({} read, {}), {} blobs, {}: {}",
        format_count(outcome.packs),
        format_count(outcome.packs_read),
        format_size(outcome.bytes_read),
        format_count(outcome.blobs),
        plural(outcome.snapshots, "snapshot"),
        match outcome.findings.iter().filter(|finding| finding.lost).count() {
            0 if outcome.affected_total == 0 => "no damage found.".to_owned(),
            0 => format!("{} affected by earlier damage.", plural(outcome.affected_total, "path")),
            lost => format!(
                "{} damaged, {} affected.",
                plural(lost as u64, "object"),
                plural(outcome.affected_total, "path")
            ),
        }
    ))
}

fn subset(text: &str) -> std::result::Result<Subset, String> {
    let bad = || "expected N/M with 1 <= N <= M, or P% with 0 < P <= 100".to_owned();
    if let Some(percent) = text.strip_suffix('%') {
        let percent: f64 = percent.parse().map_err(|_| bad())?;
        return if percent > 0.0 && percent <= 100.0 { Ok(Subset::Percent(percent)) } else { Err(bad()) };
    }
    let (part, of) = text.split_once('/').ok_or_else(bad)?;
    let (part, of): (u64, u64) = (part.parse().map_err(|_| bad())?, of.parse().map_err(|_| bad())?);
    if (1..=of).contains(&part) { Ok(Subset::Part { part, of }) } else { Err(bad()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subsets() {
        assert_eq!(subset("1/7"), Ok(Subset::Part { part: 1, of: 7 }));
        assert_eq!(subset("7/7"), Ok(Subset::Part { part: 7, of: 7 }));
        assert_eq!(subset("2.5%"), Ok(Subset::Percent(2.5)));
        assert_eq!(subset("100%"), Ok(Subset::Percent(100.0)));
        for bad in ["", "0/7", "8/7", "1/0", "0%", "101%", "-1%", "NaN%", "inf%", "5", "1/2/3", "/", "%"] {
            assert!(subset(bad).is_err(), "{bad}");
        }
    }
}
