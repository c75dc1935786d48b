//! `restore files`: from arguments to the engine's options, from its outcome to a summary.

use crate::cli::Exit;
use crate::cli::console::Console;
use crate::cli::ls::Found;
use crate::cli::progress::Progress;
use crate::clock;
use crate::error::Result;
use crate::names;
use crate::restore::{self as engine, Options, Outcome};
use crate::selection::Selector;
use crate::session::Purpose;
use crate::units::{format_count, format_elapsed, format_size, plural};
use chunkstore::tree::{Entry, Node};
use clap::ValueEnum;
use serde_json::json;
use std::ffi::OsString;
use std::path::PathBuf;

const EXAMPLES: &str = "\
Of a whole snapshot, /etc becomes DIR/etc. Of a directory, its contents appear in DIR. Of a file, DIR/NAME. What is in \
the way is replaced; nothing else in DIR is touched unless --delete is given.

EXAMPLES
  nightkeep restore files etc --target /tmp/restored
  nightkeep restore files home@2026-11-20:/home/ada --target /home/ada --overwrite if-changed
  nightkeep restore files 1a2b3c4d --target /mnt --delete --verify
  nightkeep restore files etc:/etc/ssh --target /tmp/ssh --dry-run -v";

/// Restore files and directories
///
/// Also the file of a stream. What cannot be restored is named, the rest is restored, and the exit code is 3.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Files {
    /// Which snapshot, and which directory or file in it
    #[arg(value_name = "SNAPSHOT[:PATH]")]
    snapshot: OsString,
    /// The directory to restore into
    #[arg(short, long, value_name = "DIR", value_hint = clap::ValueHint::DirPath)]
    target: PathBuf,
    /// Remove what is in the target and not in the snapshot
    #[arg(long)]
    delete: bool,
    /// What to do with files that are there already
    #[arg(long, value_enum, value_name = "WHEN", default_value_t = Overwrite::Always)]
    overwrite: Overwrite,
    /// Change nothing; with -v, name what would be done
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Read every restored file again and compare
    #[arg(long)]
    verify: bool,
    /// Leave out setuid bits, devices, and security.* and trusted.* attributes
    #[arg(long)]
    no_special: bool,
}

#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
enum Overwrite {
    /// Compare contents, write what differs
    Always,
    /// Leave files alone whose size and time agree
    IfChanged,
    /// Leave alone whatever exists
    Never,
}

pub fn run(console: &Console, files: &Files) -> Result<Exit> {
    let selector = Selector::parse(&files.snapshot, &clock::zone())?;
    let session = console.open("restore", Purpose::Read)?;
    let reader = session.reader()?;
    let history = session.history()?;
    let found = Found::find(&selector, &history, &reader)?;
    let summary = found.version.summary();
    if summary.incomplete {
        console.warn(&format!("snapshot {} is incomplete: some items could not be saved", found.version.id.short()));
    }
    let options = Options {
        target: files.target.clone(),
        delete: files.delete,
        overwrite: match files.overwrite {
            Overwrite::Always => engine::Overwrite::Always,
            Overwrite::IfChanged => engine::Overwrite::IfChanged,
            Overwrite::Never => engine::Overwrite::Never,
        },
        dry_run: files.dry_run,
        verify: files.verify,
        special: !files.no_special,
    };
    let progress = Progress::start(console);
    match found.entry.as_deref() {
        None => progress.expect(summary.totals.files, summary.totals.content_bytes),
        Some(Entry { node: Node::File(content), .. }) => progress.expect(1, content.size()),
        Some(_) => {}
    }
    let outcome = console
        .interrupts
        .watched(|interrupted| engine::files(&reader, &found.selection(), &options, &progress, interrupted));
    drop(progress);
    let outcome = outcome?;
    summarise(console, &found, &options, &outcome)?;
    Ok(Exit::with_problems(outcome.problems))
}

fn summarise(console: &Console, found: &Found<'_>, options: &Options, outcome: &Outcome) -> Result<()> {
    let version = found.version;
    console.outcome(&json!({
        "message_type": "summary",
        "snapshot": version.id.hex(),
        "dataset": version.summary().dataset,
        "target": options.target.to_string_lossy(),
        "dry_run": options.dry_run,
        "files": outcome.files,
        "directories": outcome.directories,
        "others": outcome.others,
        "unchanged": outcome.unchanged,
        "deleted": outcome.deleted,
        "written_bytes": outcome.written_bytes,
        "kept_bytes": outcome.kept_bytes,
        "verified_files": outcome.verified_files,
        "problems": outcome.problems,
        "seconds_elapsed": outcome.elapsed.as_secs_f64(),
    }))?;
    let dry = options.dry_run;
    console.say(&format!(
        "{} {}, {}, {}; {} already right; {} {}",
        if dry { "Would restore" } else { "Restored" },
        plural(outcome.files, "file"),
        format_count(outcome.directories) + if outcome.directories == 1 { " directory" } else { " directories" },
        plural(outcome.others, "other"),
        format_count(outcome.unchanged),
        format_count(outcome.deleted),
        if dry { "would be removed" } else { "removed" },
    ))?;
    let (written, kept) = (format_size(outcome.written_bytes), format_size(outcome.kept_bytes));
    console.say(&format!("Written:  {written}; {kept} were in place"))?;
    if options.verify && !dry {
        console.say(&format!("Verified: {}", plural(outcome.verified_files, "file")))?;
    }
    console.say(&format!("Time:     {}", format_elapsed(outcome.elapsed)))?;
    if outcome.problems > 0 {
        let target = names::shown(options.target.as_os_str().as_encoded_bytes());
        console.say(&format!("{target} is incomplete: {}, named above.", plural(outcome.problems, "problem")))?;
    }
    Ok(())
}
