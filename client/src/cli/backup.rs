//! `backup files|command|stdin`: from arguments to the engine's request, from its outcome to a summary.

use super::Exit;
use super::console::Console;
use super::progress::Progress;
use crate::backup::{self as engine, Context, FilesOptions, Outcome, Request, StreamSource};
use crate::dataset::{self, Kind};
use crate::error::{Error, Result};
use crate::history::History;
use crate::session::{self, Purpose};
use crate::units::{format_count, format_elapsed, format_size, parse_size, plural};
use chunkstore::snapshot::validate_label;
use serde_json::json;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

const EXAMPLES_FILES: &str = "\
A pattern of --exclude is like one of .gitignore: * ? [a-z] within a name, ** across directories, a leading / anchors it
to the root, a trailing / matches directories only, a leading ! includes again.

EXAMPLES
  nightkeep backup files /etc /home
  nightkeep backup files / --one-file-system --exclude-caches --exclude '/var/tmp/*' --tag nightly
  nightkeep backup files /srv/media --dataset media --exclude-larger-than 4G";

const EXAMPLES_COMMAND: &str = "\
EXAMPLES
  nightkeep backup command --name all.sql -- pg_dumpall --clean
  nightkeep backup command --name ldap.ldif --dataset ldap -- slapcat";

const EXAMPLES_STDIN: &str = "\
If what writes into the pipe fails, this cannot be seen here: prefer `backup command`.

EXAMPLES
  ssh www cat /srv/big.img | nightkeep backup stdin --name big.img
  nightkeep backup stdin --name list.txt --dataset lists";

/// Save files, the output of a command or standard input as a snapshot
#[derive(clap::Args, Debug)]
pub struct Arguments {
    #[command(subcommand)]
    source: Source,
}

#[derive(clap::Subcommand, Debug)]
enum Source {
    Files(Files),
    Command(Command),
    Stdin(Stdin),
}

/// Save directory trees and files
///
/// Items that cannot be read are named, the rest is saved, and the exit code is 3.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES_FILES)]
struct Files {
    /// What to save
    #[arg(required_unless_present = "files_from", value_name = "PATH", value_hint = clap::ValueHint::AnyPath)]
    paths: Vec<PathBuf>,
    /// Leave out what matches a pattern
    #[arg(short, long, value_name = "GLOB")]
    exclude: Vec<String>,
    /// Leave out what matches a pattern of a file (one a line, # begins a comment)
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    exclude_file: Vec<PathBuf>,
    /// Leave out the contents of directories marked by a CACHEDIR.TAG
    #[arg(long)]
    exclude_caches: bool,
    /// Leave out the contents of directories that hold an entry of this name
    #[arg(long, value_name = "NAME")]
    exclude_if_present: Vec<OsString>,
    /// Do not descend into other file systems
    #[arg(short = 'x', long)]
    one_file_system: bool,
    /// Read paths from a file, one a line, or separated by NUL; - is standard input
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    files_from: Vec<PathBuf>,
    /// Leave out files larger than this: 500M, 4G
    #[arg(long, value_name = "SIZE", value_parser = size)]
    exclude_larger_than: Option<u64>,
    #[command(flatten)]
    common: Common,
}

/// Run a command and save what it prints
///
/// A snapshot is made only if the command ends with exit code 0.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES_COMMAND)]
struct Command {
    /// The file name under which the output is saved
    #[arg(long, value_name = "FILE")]
    name: OsString,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
    #[command(flatten)]
    common: Common,
}

/// Save standard input
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES_STDIN)]
struct Stdin {
    /// The file name under which it is saved
    #[arg(long, value_name = "FILE")]
    name: OsString,
    #[command(flatten)]
    common: Common,
}

#[derive(clap::Args, Debug)]
struct Common {
    /// The line of snapshots this belongs to: HOST/KIND/NAME or NAME
    #[arg(long, value_name = "NAME")]
    dataset: Option<String>,
    /// Attach a tag to the snapshot; may be repeated
    #[arg(long, value_name = "TAG", value_parser = label)]
    tag: Vec<String>,
    /// Read and compare, store nothing
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Make no snapshot if nothing changed since the last one
    #[arg(long)]
    skip_if_unchanged: bool,
    /// Store at most so many KiB a second
    #[arg(long, value_name = "KIB_S", value_parser = clap::value_parser!(u64).range(1..))]
    limit_upload: Option<u64>,
}

pub fn run(console: &Console, arguments: &Arguments) -> Result<Exit> {
    match &arguments.source {
        Source::Files(files) => save(console, &files.common, Kind::Files, &default_name(files), &|context, request| {
            engine::files(context, request, &options(files)?)
        }),
        Source::Command(command) => {
            stream(console, &command.common, &command.name, &|| StreamSource::Command(command.command.clone()))
        }
        Source::Stdin(stdin) => stream(console, &stdin.common, &stdin.name, &|| StreamSource::Stdin),
    }
}

fn stream(console: &Console, common: &Common, name: &OsString, source: &dyn Fn() -> StreamSource) -> Result<Exit> {
    let bytes = name.as_bytes();
    if matches!(bytes, b"" | b"." | b"..") || bytes.len() > 255 || bytes.iter().any(|byte| matches!(byte, b'/' | 0)) {
        return Err(Error::argument("--name", "expected a file name: 1 to 255 bytes without `/`"));
    }
    save(console, common, Kind::Stream, &dataset::name_of_stream(name), &|context, request| {
        engine::stream(context, request, name, source())
    })
}

type Save<'a> = dyn Fn(&Context<'_>, &Request) -> chunkstore::Result<Outcome> + 'a;

fn save(console: &Console, common: &Common, kind: Kind, default: &str, engine: &Save<'_>) -> Result<Exit> {
    let host = dataset::host();
    let dataset = dataset::name(&host, kind, common.dataset.as_deref(), default)?;
    let session = console.open("backup", Purpose::Write)?;
    let writer = session::writer(&console.settings)?;
    let cache_dir = session.cache_dir(&console.settings)?;
    let deltas = session.deltas(&console.settings)?;
    let history = session.history()?;
    let request = Request {
        run: session::new_run()?,
        dataset,
        host,
        labels: common.tag.clone(),
        dry_run: common.dry_run,
        skip_if_unchanged: common.skip_if_unchanged,
        upload_bytes_per_second: common.limit_upload.map(|kib| kib.saturating_mul(1024)),
    };
    let progress = Progress::start(console);
    expect(&progress, &history, &request.dataset);
    let outcome = console.interrupts.watched(|interrupted| {
        let context = Context {
            store: session.store(),
            key: &session.keys.write,
            writer: &writer,
            monitor: &progress,
            cache_dir: &cache_dir,
            deltas: &deltas,
            repository_dir: console.settings.directory().ok().map(PathBuf::as_path),
            interrupted,
        };
        engine(&context, &request)
    });
    drop(progress);
    let outcome = outcome?;
    summarise(console, &request, kind, &outcome)?;
    Ok(Exit::with_problems(outcome.problems))
}

/// The last snapshot tells how much to expect.
fn expect(progress: &Progress, history: &History, dataset: &str) {
    if let Some(last) = history.present().rev().find(|version| version.summary().dataset == dataset) {
        let totals = last.summary().totals;
        progress.expect(totals.files, totals.content_bytes);
    }
}

fn summarise(console: &Console, request: &Request, kind: Kind, outcome: &Outcome) -> Result<()> {
    console.outcome(&json!({
        "message_type": "summary",
        "dataset": request.dataset,
        "run": request.run.hex(),
        "snapshot": outcome.snapshot.map(|id| id.hex()),
        "dry_run": request.dry_run,
        "incomplete": outcome.problems > 0,
        "files": outcome.totals.files,
        "directories": outcome.totals.directories,
        "others": outcome.totals.others,
        "total_bytes": outcome.totals.content_bytes,
        "files_new": outcome.files_new,
        "files_changed": outcome.files_changed,
        "files_unchanged": outcome.files_unchanged,
        "read_bytes": outcome.read_bytes,
        "new_bytes": outcome.new_bytes,
        "added_bytes": outcome.added_bytes,
        "delta_chunks": outcome.delta_chunks,
        "delta_content_bytes": outcome.delta_content_bytes,
        "delta_stored_bytes": outcome.delta_bytes,
        "problems": outcome.problems,
        "seconds_elapsed": outcome.elapsed.as_secs_f64(),
    }))?;
    if kind == Kind::Files {
        console.say(&format!(
            "Files:     {} new, {} changed, {} unchanged",
            format_count(outcome.files_new),
            format_count(outcome.files_changed),
            format_count(outcome.files_unchanged)
        ))?;
    }
    let (read, new, added) =
        (format_size(outcome.read_bytes), format_size(outcome.new_bytes), format_size(outcome.added_bytes));
    console.say(&format!("Read:      {read} of {}", format_size(outcome.totals.content_bytes)))?;
    let added_word = if request.dry_run { "Would add:" } else { "Added:    " };
    console.say(&format!("{added_word} {new} new, {added} stored"))?;
    if outcome.delta_chunks > 0 {
        let (content, stored) = (format_size(outcome.delta_content_bytes), format_size(outcome.delta_bytes));
        console.say(&format!("Deltas:    {content} of it resemble what was there, {stored} stored"))?;
    }
    console.say(&format!("Time:      {}", format_elapsed(outcome.elapsed)))?;
    console.say(&match outcome.snapshot {
        Some(id) if outcome.problems == 0 => format!("Saved snapshot {} of {}.", id.short(), request.dataset),
        Some(id) => format!(
            "Saved snapshot {} of {}, which is incomplete: {}, named above.",
            id.short(),
            request.dataset,
            plural(outcome.problems, "problem")
        ),
        None if request.dry_run => format!("Dry run: no snapshot of {} was made.", request.dataset),
        None => format!("Nothing changed since the last snapshot of {}: no new one was made.", request.dataset),
    })
}

fn default_name(files: &Files) -> String {
    if files.paths.is_empty() {
        let lists = files.files_from.iter().filter_map(|file| file.file_name().filter(|name| *name != "-"));
        let lists: Vec<PathBuf> = lists.map(PathBuf::from).collect();
        return if lists.is_empty() { "files-from".into() } else { dataset::name_of_paths(&lists) };
    }
    let absolute = |path: &PathBuf| std::path::absolute(path).unwrap_or_else(|_| path.clone());
    dataset::name_of_paths(&files.paths.iter().map(absolute).collect::<Vec<_>>())
}

fn options(files: &Files) -> chunkstore::Result<FilesOptions> {
    let absolute = |path: &PathBuf| {
        std::path::absolute(path)
            .map_err(|error| chunkstore::Error::io("cannot resolve", path.display().to_string(), error))
    };
    Ok(FilesOptions {
        paths: files.paths.iter().map(absolute).collect::<chunkstore::Result<_>>()?,
        excludes: files.exclude.clone(),
        exclude_files: files.exclude_file.clone(),
        exclude_caches: files.exclude_caches,
        exclude_if_present: files.exclude_if_present.clone(),
        one_file_system: files.one_file_system,
        exclude_larger_than: files.exclude_larger_than,
        files_from: files.files_from.clone(),
    })
}

fn size(text: &str) -> std::result::Result<u64, String> {
    parse_size(text).map_err(|error| error.to_string())
}

/// A tag that can be given and taken away again with `tag SNAPSHOT +T -T`.
pub fn label(text: &str) -> std::result::Result<String, String> {
    validate_label(text).map_err(|error| error.to_string())?;
    if text.starts_with(['+', '-']) || text.len() > 1024 {
        return Err("a tag does not begin with + or - and has at most 1024 bytes".into());
    }
    Ok(text.to_owned())
}
