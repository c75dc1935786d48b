//! `pin` and `unpin`: whether a snapshot may be forgotten.

use super::Exit;
use super::console::Console;
use crate::clock;
use crate::error::Result;
use crate::selection::{Among, Selector};
use crate::session::Purpose;
use chunkstore::mark::Action;
use serde_json::json;
use std::ffi::OsString;

pub const EXAMPLES: &str = "\
EXAMPLES
  nightkeep pin 1a2b3c4d
  nightkeep pin www/postgres/school@2026-09-01";

pub const EXAMPLES_UNPIN: &str = "\
EXAMPLES
  nightkeep unpin 1a2b3c4d";

#[derive(clap::Args, Debug)]
pub struct Arguments {
    /// Which snapshots
    #[arg(value_name = "SNAPSHOT", required = true)]
    snapshots: Vec<OsString>,
}

pub fn run(console: &Console, arguments: &Arguments, pin: bool) -> Result<Exit> {
    let zone = clock::zone();
    let selectors: Vec<Selector> =
        arguments.snapshots.iter().map(|text| Selector::parse(text, &zone)).collect::<Result<_>>()?;
    let session = console.open(if pin { "pin" } else { "unpin" }, Purpose::Write)?;
    let mut history = session.history()?;
    let mut versions = Vec::new();
    for selector in &selectors {
        versions.push(selector.resolve(&history, Among::Present)?.clone());
    }
    for version in versions {
        if version.state.pinned != pin {
            let action = if pin { Action::Pin } else { Action::Unpin };
            history.mark(session.store(), &session.keys.write, version.id, action)?;
        }
        console.outcome(&json!({"message_type": "summary", "snapshot": version.id.hex(), "pinned": pin}))?;
        let word = if pin { "pinned" } else { "not pinned" };
        console.say(&format!("Snapshot {} of {} is {word}.", version.id.short(), version.summary().dataset))?;
    }
    Ok(Exit::Done)
}
