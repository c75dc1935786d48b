//! `stats`: how much is kept, and how much room it takes.

use super::Exit;
use super::console::Console;
use super::table::Table;
use crate::clock;
use crate::error::Result;
use crate::history::{History, Version};
use crate::names;
use crate::session::{Purpose, Session};
use crate::units::{format_count, format_size, plural};
use chunkstore::codec::Opener;
use serde_json::json;
use std::path::Path;

const EXAMPLES: &str = "\
SIZE is the content of all snapshots as if each were stored whole; ADDED is what they made the repository grow.

EXAMPLES
  nightkeep stats
  nightkeep stats --json";

/// Show how much is saved and how much space it takes
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {}

#[derive(Default)]
struct Sum {
    snapshots: u64,
    content_bytes: u64,
    added_bytes: u64,
    latest: i64,
}

impl Sum {
    fn of(versions: &[&Version]) -> Sum {
        let mut sum = Sum::default();
        for summary in versions.iter().map(|version| version.summary()) {
            sum.snapshots += 1;
            sum.content_bytes = sum.content_bytes.saturating_add(summary.totals.content_bytes);
            sum.added_bytes = sum.added_bytes.saturating_add(summary.totals.added_bytes);
            sum.latest = sum.latest.max(summary.time);
        }
        sum
    }
}

pub fn run(console: &Console, _arguments: &Arguments) -> Result<Exit> {
    let session = console.open("stats", Purpose::Read)?;
    let history = session.history()?;
    let datasets: Vec<(&str, Sum)> =
        history.datasets().into_iter().map(|(name, versions)| (name, Sum::of(&versions))).collect();
    let forgotten = history.versions.iter().filter(|version| version.is_forgotten()).count();
    let stored = session.statistics()?;
    let saved = Saved::of(&session, &history);
    let kept = kept_bytes(&session.cache_dir(&console.settings)?);
    let snapshots: u64 = datasets.iter().map(|(_, sum)| sum.snapshots).sum();
    let content = datasets.iter().fold(0u64, |total, (_, sum)| total.saturating_add(sum.content_bytes));
    if console.json() {
        for (name, sum) in &datasets {
            console.object(&json!({
                "message_type": "dataset",
                "dataset": name,
                "snapshots": sum.snapshots,
                "content_bytes": sum.content_bytes,
                "added_bytes": sum.added_bytes,
                "latest": clock::rfc3339(sum.latest),
            }))?;
        }
        console.object(&json!({
            "message_type": "summary",
            "snapshots": snapshots,
            "snapshots_forgotten": forgotten,
            "datasets": datasets.len(),
            "content_bytes": content,
            "stored_bytes": stored.pack_bytes,
            "packs": stored.packs,
            "blobs": stored.blobs,
            "blob_bytes": stored.blob_bytes,
            "delta_chunks": saved.chunks,
            "delta_content_bytes": saved.content_bytes,
            "delta_stored_bytes": saved.stored_bytes,
            "delta_cache_bytes": kept,
        }))?;
        return Ok(Exit::Done);
    }
    let mut table =
        Table::new(&[("DATASET", false), ("SNAPSHOTS", true), ("SIZE", true), ("ADDED", true), ("LATEST", false)]);
    let zone = clock::zone();
    for (name, sum) in &datasets {
        table.row(vec![
            names::shown(name.as_bytes()),
            format_count(sum.snapshots),
            format_size(sum.content_bytes),
            format_size(sum.added_bytes),
            clock::local(sum.latest, &zone),
        ]);
    }
    if !table.is_empty() {
        console.table(&table)?;
        console.print("")?;
    }
    let datasets = plural(datasets.len() as u64, "dataset");
    console.print(&format!("Snapshots: {} of {datasets}, {forgotten} forgotten", format_count(snapshots)))?;
    console.print(&format!("Saved:     {} in all snapshots", format_size(content)))?;
    let (blobs, packs) = (plural(stored.blobs, "blob"), plural(stored.packs, "pack"));
    console.print(&format!("Stored:    {} in {blobs} and {packs}", format_size(stored.pack_bytes)))?;
    saved.print(console, kept)?;
    if let Some(ratio) = ratio(content, stored.pack_bytes) {
        console.print(&format!("Ratio:     {ratio}"))?;
    }
    Ok(Exit::Done)
}

/// What deltas saved when the snapshots that are still there were made; nothing for a key that cannot read.
#[derive(Default)]
struct Saved {
    chunks: u64,
    content_bytes: u64,
    stored_bytes: u64,
}

impl Saved {
    fn of(session: &Session, history: &History) -> Saved {
        let mut saved = Saved::default();
        let Ok(opener) = Opener::new(&session.keys, session.configuration()) else { return saved };
        for details in history.versions.iter().filter_map(|version| version.snapshot.details(&opener).ok()) {
            let figure = |key: &str| {
                let value = details.facts.iter().find(|(found, _)| found == key).map(|(_, value)| value);
                value.and_then(|value| std::str::from_utf8(value).ok()?.parse().ok()).unwrap_or(0u64)
            };
            saved.chunks = saved.chunks.saturating_add(figure("delta.chunks"));
            saved.content_bytes = saved.content_bytes.saturating_add(figure("delta.content.bytes"));
            saved.stored_bytes = saved.stored_bytes.saturating_add(figure("delta.stored.bytes"));
        }
        saved
    }

    /// With the bytes that this machine keeps for it.
    fn print(&self, console: &Console, kept: u64) -> Result<()> {
        if self.chunks > 0 {
            let (content, stored) = (format_size(self.content_bytes), format_size(self.stored_bytes));
            let chunks = plural(self.chunks, "chunk");
            console.print(&format!("Deltas:    {stored} for {content} in {chunks} that resemble others"))?;
        }
        if kept > 0 {
            console.print(&format!("Cached:    {} on this machine, to find what resembles", format_size(kept)))?;
        }
        Ok(())
    }
}

/// Bytes of sketches and bases that this machine keeps of the repository.
fn kept_bytes(cache_dir: &Path) -> u64 {
    let len = |path: &Path| std::fs::metadata(path).map_or(0, |metadata| metadata.len());
    let bases = cache_dir.join("bases").read_dir().into_iter().flatten().flatten();
    bases.map(|entry| len(&entry.path())).sum::<u64>() + len(&cache_dir.join("similar"))
}

/// `12.3 to 1`
fn ratio(content: u64, stored: u64) -> Option<String> {
    let tenths = (u128::from(content) * 10).checked_div(u128::from(stored))?;
    Some(format!("{}.{} to 1", tenths / 10, tenths % 10))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios() {
        assert_eq!(ratio(123, 10).unwrap(), "12.3 to 1");
        assert_eq!(ratio(0, 10).unwrap(), "0.0 to 1");
        assert_eq!(ratio(u64::MAX, 1).unwrap(), "18446744073709551615.0 to 1");
        assert!(ratio(1, 0).is_none());
    }
}
