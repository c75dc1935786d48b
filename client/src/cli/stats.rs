//! `stats`: how much is kept, and how much room it takes.

use super::Exit;
use super::console::Console;
use super::table::Table;
use crate::clock;
use crate::error::Result;
use crate::history::Version;
use crate::names;
use crate::session::{Home, Purpose};
use crate::units::{format_count, format_size, plural};
use serde_json::json;

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
    let stored = match session.home() {
        Home::Here(repository) => repository.statistics()?,
        Home::Server(remote) => remote.statistics()?,
    };
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
    if let Some(ratio) = ratio(content, stored.pack_bytes) {
        console.print(&format!("Ratio:     {ratio}"))?;
    }
    Ok(Exit::Done)
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
