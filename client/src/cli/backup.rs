//! `backup`: one file for each kind of source turns its arguments into the engine's options; what they share is here.

mod files;
pub mod postgres;
mod roundup;
mod stream;
mod zodb;

use super::Exit;
use super::console::Console;
use super::progress::Progress;
use crate::backup::{Compression, Context, Deltas, Outcome, Request};
use crate::dataset::{self, Kind};
use crate::error::Result;
use crate::history::History;
use crate::session::{self, Purpose, Session};
use crate::settings::Settings;
use crate::units::{format_count, format_elapsed, format_size, plural};
use chunkstore::snapshot::{Writer, validate_label};
use serde_json::{Value, json};
use std::path::PathBuf;

/// Save files, databases, the output of a command or standard input as snapshots
#[derive(clap::Args, Debug)]
pub struct Arguments {
    #[command(subcommand)]
    source: Source,
}

#[derive(clap::Subcommand, Debug)]
enum Source {
    Files(files::Files),
    Command(stream::Command),
    Stdin(stream::Stdin),
    Postgres(postgres::Postgres),
    Roundup(roundup::Roundup),
    Zodb(zodb::Zodb),
}

/// What every kind of source takes.
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
    /// How hard to compress: auto, none, or a fixed level from 1 to 19 [NIGHTKEEP_COMPRESSION] [default: auto]
    ///
    /// auto compresses fast while the processors are the limit, and better while they idle: behind a slow source or line.
    #[arg(long, value_name = "LEVEL", value_parser = compression)]
    compression: Option<Compression>,
}

pub fn run(console: &Console, arguments: &Arguments) -> Result<Exit> {
    match &arguments.source {
        Source::Files(arguments) => files::run(console, arguments),
        Source::Command(arguments) => stream::command(console, arguments),
        Source::Stdin(arguments) => stream::stdin(console, arguments),
        Source::Postgres(arguments) => postgres::run(console, arguments),
        Source::Roundup(arguments) => roundup::run(console, arguments),
        Source::Zodb(arguments) => zodb::run(console, arguments),
    }
}

/// The repository, opened for writing, and this machine's part in it.
struct Opened {
    session: Session,
    writer: Writer,
    cache_dir: PathBuf,
    deltas: Deltas,
}

impl Opened {
    fn open(console: &Console) -> Result<Opened> {
        let session = console.open("backup", Purpose::Write)?;
        let writer = session::writer(&console.settings)?;
        let cache_dir = session.cache_dir(&console.settings)?;
        let deltas = session.deltas(&console.settings)?;
        Ok(Opened { session, writer, cache_dir, deltas })
    }

    /// Runs `work` while signals are watched.
    fn with_context<T>(&self, console: &Console, progress: &Progress, work: impl FnOnce(&Context<'_>) -> T) -> T {
        console.interrupts.watched(|interrupted| {
            work(&Context {
                store: self.session.store(),
                key: &self.session.keys.write,
                writer: &self.writer,
                monitor: progress,
                cache_dir: &self.cache_dir,
                deltas: &self.deltas,
                repository_dir: console.settings.directory().ok().map(PathBuf::as_path),
                interrupted,
            })
        })
    }
}

/// A request of a run of its own.
fn request(settings: &Settings, common: &Common, dataset: String, host: String) -> Result<Request> {
    Ok(Request {
        run: session::new_run()?,
        dataset,
        host,
        labels: common.tag.clone(),
        dry_run: common.dry_run,
        skip_if_unchanged: common.skip_if_unchanged,
        upload_bytes_per_second: common.limit_upload.map(|kib| kib.saturating_mul(1024)),
        compression: common.compression.or(settings.compression).unwrap_or_default(),
    })
}

/// Saves one snapshot and says how it went.
type Save<'a> = dyn Fn(&Context<'_>, &Request) -> chunkstore::Result<Outcome> + 'a;

fn save(console: &Console, common: &Common, kind: Kind, default: &str, engine: &Save<'_>) -> Result<Exit> {
    let host = dataset::host();
    let dataset = dataset::name(&host, kind, common.dataset.as_deref(), default)?;
    let opened = Opened::open(console)?;
    let request = request(&console.settings, common, dataset, host)?;
    let progress = Progress::start(console);
    expect(&progress, &opened.session.history()?, &request.dataset);
    let outcome = opened.with_context(console, &progress, |context| engine(context, &request));
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
    summarise_with(console, request, kind, outcome, json!({}))
}

/// `details` is an object with what only this kind of source has to say.
fn summarise_with(console: &Console, request: &Request, kind: Kind, outcome: &Outcome, details: Value) -> Result<()> {
    let mut summary = summary(request, outcome);
    if let (Value::Object(summary), Value::Object(details)) = (&mut summary, details) {
        summary.extend(details);
    }
    console.outcome(&summary)?;
    if kind != Kind::Stream {
        console.say(&format!(
            "Files:     {} new, {} changed, {} unchanged",
            format_count(outcome.files_new),
            format_count(outcome.files_changed),
            format_count(outcome.files_unchanged)
        ))?;
    }
    lines(request, outcome).iter().try_for_each(|line| console.say(line))
}

fn summary(request: &Request, outcome: &Outcome) -> Value {
    json!({
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
    })
}

/// What a summary ends with for people.
fn lines(request: &Request, outcome: &Outcome) -> Vec<String> {
    let (read, new, added) =
        (format_size(outcome.read_bytes), format_size(outcome.new_bytes), format_size(outcome.added_bytes));
    let added_word = if request.dry_run { "Would add:" } else { "Added:    " };
    let last = match outcome.snapshot {
        Some(id) if outcome.problems == 0 => format!("Saved snapshot {} of {}.", id.short(), request.dataset),
        Some(id) => format!(
            "Saved snapshot {} of {}, which is incomplete: {}, named above.",
            id.short(),
            request.dataset,
            plural(outcome.problems, "problem")
        ),
        None if request.dry_run => format!("Dry run: no snapshot of {} was made.", request.dataset),
        None => format!("Nothing changed since the last snapshot of {}: no new one was made.", request.dataset),
    };
    let mut lines = vec![
        format!("Read:      {read} of {}", format_size(outcome.totals.content_bytes)),
        format!("{added_word} {new} new, {added} stored"),
    ];
    if outcome.delta_chunks > 0 {
        let (content, stored) = (format_size(outcome.delta_content_bytes), format_size(outcome.delta_bytes));
        lines.push(format!("Deltas:    {content} of it resemble what was there and take {stored}"));
    }
    lines.extend([format!("Time:      {}", format_elapsed(outcome.elapsed)), last]);
    lines
}

fn compression(text: &str) -> std::result::Result<Compression, String> {
    Compression::parse(text).ok_or_else(|| Compression::EXPECTED.to_owned())
}

/// A tag that can be given and taken away again with `tag SNAPSHOT +T -T`.
pub fn label(text: &str) -> std::result::Result<String, String> {
    validate_label(text).map_err(|error| error.to_string())?;
    if text.starts_with(['+', '-']) || text.len() > 1024 {
        return Err("a tag does not begin with + or - and has at most 1024 bytes".into());
    }
    Ok(text.to_owned())
}
