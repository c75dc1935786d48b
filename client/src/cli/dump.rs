//! `dump`: one entry to standard output.

use super::Exit;
use super::console::Console;
use super::ls::Found;
use super::progress::Progress;
use crate::clock;
use crate::dump as engine;
use crate::error::{Error, Result};
use crate::monitor::Monitor;
use crate::selection::Selector;
use crate::session::Purpose;
use chunkstore::tree::{Entry, Node};
use std::ffi::OsString;
use std::sync::atomic::Ordering;

const EXAMPLES: &str = "\
EXAMPLES
  nightkeep dump etc:/etc/fstab
  nightkeep dump www/stream/all.sql:all.sql | psql
  nightkeep dump 1a2b3c4d:/home/ada > ada.tar";

/// Write a file of a snapshot to standard output, a directory as tar
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// Which snapshot, and which file or directory in it
    #[arg(value_name = "SNAPSHOT[:PATH]")]
    snapshot: OsString,
}

pub fn run(console: &Console, arguments: &Arguments) -> Result<Exit> {
    let selector = Selector::parse(&arguments.snapshot, &clock::zone())?;
    let session = console.open("dump", Purpose::Read)?;
    let reader = session.reader()?;
    let history = session.history()?;
    let found = Found::find(&selector, &history, &reader)?;
    let is_file = matches!(found.entry.as_deref(), Some(Entry { node: Node::File(_), .. }));
    if !is_file && console.output.is_terminal() {
        return Err(Error::refused("dump", "a tar archive is not for a terminal: redirect it to a file or a program"));
    }
    // Standard output is the data, so there is nothing else on it.
    let progress = Progress::silent(console);
    let mut output = &*console.output;
    console
        .interrupts
        .watched(|interrupted| engine::dump(&reader, &found.selection(), &mut output, &progress, interrupted))?;
    console.flush()?;
    Ok(Exit::with_problems(progress.counters().problems.load(Ordering::Relaxed)))
}
