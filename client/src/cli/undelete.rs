//! `undelete`: brings a forgotten snapshot back.

use super::Exit;
use super::console::Console;
use crate::clock;
use crate::error::Result;
use crate::selection::{Among, Selector};
use crate::session::Purpose;
use chunkstore::mark::Action;
use serde_json::json;
use std::ffi::OsString;

const EXAMPLES: &str = "\
`nightkeep snapshots --forgotten` lists what can be brought back, and until when.

EXAMPLES
  nightkeep undelete 1a2b3c4d
  nightkeep undelete www/files/etc@2026-11-01";

/// Bring forgotten snapshots back
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// Which snapshots, among those that were forgotten
    #[arg(value_name = "SNAPSHOT", required = true)]
    snapshots: Vec<OsString>,
}

pub fn run(console: &Console, arguments: &Arguments) -> Result<Exit> {
    let zone = clock::zone();
    let selectors: Vec<Selector> =
        arguments.snapshots.iter().map(|text| Selector::parse(text, &zone)).collect::<Result<_>>()?;
    let session = console.open("undelete", Purpose::Write)?;
    let mut history = session.history()?;
    let mut versions = Vec::new();
    for selector in &selectors {
        versions.push(selector.resolve(&history, Among::Forgotten)?.clone());
    }
    for version in versions {
        history.mark(session.store(), &session.keys.write, version.id, Action::Undelete)?;
        console.outcome(&json!({"message_type": "summary", "snapshot": version.id.hex(), "forgotten": null}))?;
        console.say(&format!("Snapshot {} of {} is back.", version.id.short(), version.summary().dataset))?;
    }
    Ok(Exit::Done)
}
