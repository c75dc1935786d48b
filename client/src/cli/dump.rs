//! `dump`: one entry to standard output.

use super::Exit;
use super::console::Console;
use super::ls::Found;
use super::progress::Progress;
use crate::clock;
use crate::dump as engine;
use crate::error::{Error, Result};
use crate::monitor::Monitor;
use crate::names;
use crate::postgres;
use crate::restore::Selection;
use crate::selection::Selector;
use crate::session::Purpose;
use chunkstore::reader::Reader;
use chunkstore::tree::{Entry, Node};
use serde_json::json;
use std::ffi::OsString;
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

const EXAMPLES: &str = "\
With --export the dump of a database is written to a file in DIR that has the traditional name: pg_dump.HOST.DB.YYYYMMDD.HHMMSS.sql, \
or .dump if it is for pg_restore, with the local time at which the dump began.

EXAMPLES
  nightkeep dump etc:/etc/fstab
  nightkeep dump www/stream/all.sql:all.sql | psql
  nightkeep dump 1a2b3c4d:/home/ada > ada.tar
  nightkeep dump www/postgres/projop --export /web/projop/filestorage/backup";

/// Write a file of a snapshot to standard output, a directory as tar
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// Which snapshot, and which file or directory in it
    #[arg(value_name = "SNAPSHOT[:PATH]")]
    snapshot: OsString,
    /// Write the dump of a database to a file in this directory, under its traditional name
    #[arg(long, value_name = "DIR", value_hint = clap::ValueHint::DirPath)]
    export: Option<PathBuf>,
    /// KiB a second that come from a server, at most
    #[arg(long, value_name = "KIB_S", value_parser = clap::value_parser!(u64).range(1..))]
    pub limit_download: Option<u64>,
}

pub fn run(console: &Console, arguments: &Arguments) -> Result<Exit> {
    let selector = Selector::parse(&arguments.snapshot, &clock::zone())?;
    let session = console.open("dump", Purpose::Read)?;
    let reader = session.reader()?;
    let history = session.history()?;
    let found = Found::find(&selector, &history, &reader)?;
    if let Some(dir) = &arguments.export {
        return export(console, &reader, &found, dir);
    }
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

/// The only file of a database's snapshot, under a name that tells what it is. It appears when it is whole.
fn export(console: &Console, reader: &Reader, found: &Found<'_>, dir: &Path) -> Result<Exit> {
    let version = found.version;
    let facts = version.snapshot.details(&reader.opener)?.facts;
    let dataset = &version.summary().dataset;
    let Some(name) = postgres::export_name(dataset, &facts) else {
        return Err(Error::argument(
            "--export",
            format!("snapshot {} of {dataset} is no dump of a database", version.id.short()),
        ));
    };
    if found.entry.is_some() {
        return Err(Error::argument("--export", "the snapshot is exported as a whole: give no path"));
    }
    let mut files = Vec::new();
    reader.entries(version.summary().root, &mut |entry| {
        files.push(entry);
        Ok(ControlFlow::Continue(()))
    })?;
    let Some(entry) = files.pop().filter(|_| files.is_empty()) else {
        return Err(Error::argument("--export", "the snapshot does not hold one dump and nothing else"));
    };
    let path = dir.join(&name);
    let failed = |error| Error::io("cannot write", path.display().to_string(), error);
    let mut file = tempfile::NamedTempFile::new_in(dir).map_err(failed)?;
    let progress = Progress::start(console);
    progress.expect(1, version.summary().totals.content_bytes);
    let selection = Selection::Entry(Box::new(entry));
    let dumped =
        console.interrupts.watched(|interrupted| engine::dump(reader, &selection, &mut file, &progress, interrupted));
    drop(progress);
    let outcome = dumped?;
    file.as_file().sync_all().map_err(failed)?;
    file.persist_noclobber(&path).map_err(|error| failed(error.error))?;
    console.outcome(&json!({
        "message_type": "summary",
        "snapshot": version.id.hex(),
        "dataset": dataset,
        "path": path.to_string_lossy(),
        "total_bytes": outcome.content_bytes,
    }))?;
    console.say(&format!("Wrote {}.", names::shown(path.as_os_str().as_bytes())))?;
    Ok(Exit::Done)
}
