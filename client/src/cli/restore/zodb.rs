//! `restore zodb`: what would be replaced, the question, the restore, what is where now.

use crate::cli::Exit;
use crate::cli::console::Console;
use crate::cli::progress::Progress;
use crate::cli::question::confirm;
use crate::clock;
use crate::error::{Error, Result};
use crate::history::Version;
use crate::names;
use crate::selection::{Among, Selector};
use crate::session::Purpose;
use crate::units::{format_count, format_size};
use crate::zodb::restore::{self as engine, At, Plan, Restored, Source};
use serde_json::json;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

const EXAMPLES: &str = "\
DIR is what the data directory of the instance was: DIR/filestorage/Data.fs and DIR/blobstorage. Both are restored beside \
what is there, looked through to the last transaction and the last blob, and only then swapped with it. What was there is \
kept as Data.fs.before_YYYYMMDD_HHMMSS and blobstorage.before_YYYYMMDD_HHMMSS. Stop the ZEO server first.

--at takes a transaction id (16 hex digits), or a moment: 2026-11-21-10-20-30 (UTC) or 2026-11-21T10:20:30+01:00. Any \
transaction of the snapshot will do, blobs of later ones are left out.

EXAMPLES
  nightkeep restore zodb senaitelims --target /home/senaite/data/senaitelims
  nightkeep restore zodb zodb/portal@2026-11-20 --target /tmp/portal --at 2026-11-19-22-00-00
  nightkeep restore zodb 1a2b3c4d --target /srv/zope --at 040d29ac82222222 --yes
  nightkeep restore zodb portal --target /srv/zope --dry-run";

/// Restore a ZODB storage and its blobs, as of the snapshot or of any transaction in it
///
/// Stopped before its end, it leaves what is there as it is.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Zodb {
    /// Which snapshot
    #[arg(value_name = "SNAPSHOT")]
    snapshot: OsString,
    /// The data directory to restore into
    #[arg(short, long, value_name = "DIR", value_hint = clap::ValueHint::DirPath)]
    target: PathBuf,
    /// Leave out all transactions after this one, or after this moment
    #[arg(long, value_name = "TID|TIME", value_parser = at)]
    at: Option<At>,
    /// Answer the question with yes
    #[arg(long, visible_alias = "no-prompt")]
    yes: bool,
    /// Only name what would be replaced
    #[arg(short = 'n', long)]
    dry_run: bool,
}

fn at(text: &str) -> std::result::Result<At, String> {
    At::parse(text).ok_or_else(|| {
        "expected 16 hex digits, YYYY-MM-DD[-HH[-MM[-SS]]] (UTC), or a time such as 2026-11-21T10:20:30Z".into()
    })
}

pub fn run(console: &Console, arguments: &Zodb) -> Result<Exit> {
    let selector = Selector::parse(&arguments.snapshot, &clock::zone())?;
    if !selector.path.is_empty() {
        return Err(Error::argument("SNAPSHOT", "a storage is restored as a whole: give no path"));
    }
    let session = console.open("restore", Purpose::Read)?;
    let reader = session.reader()?;
    let history = session.history()?;
    let version = selector.resolve(&history, Among::Present)?;
    let summary = version.summary();
    let facts = version.snapshot.details(&reader.opener)?.facts;
    let Some(source) = Source::read(summary.root, &facts, summary.incomplete) else {
        let reason = format!("it is of {}, not of a ZODB storage", summary.dataset);
        return Err(Error::argument(format!("snapshot {}", version.id.short()), reason));
    };
    if summary.incomplete {
        console.warn(&format!("snapshot {} is incomplete: some items could not be saved", version.id.short()));
    }
    let name: String = version.id.hex().chars().take(16).collect();
    let plan = Plan::new(source, &arguments.target, arguments.at, &name)?;
    plan.check_space(summary.totals.content_bytes)?;
    if arguments.dry_run {
        return show(console, version, &plan);
    }
    if !arguments.yes {
        confirm(console, "the restore", &consequence(&plan))?;
    }
    let progress = Progress::start(console);
    progress.expect(summary.totals.files, summary.totals.content_bytes);
    let stamp = clock::zoned(clock::now(), &clock::zone()).strftime("%Y%m%d_%H%M%S").to_string();
    let restored =
        console.interrupts.watched(|interrupted| engine::restore(&reader, &plan, &stamp, &progress, interrupted));
    drop(progress);
    let restored = restored?;
    summarise(console, version, &plan, &restored)?;
    Ok(Exit::with_problems(restored.problems))
}

/// Names both targets.
fn consequence(plan: &Plan) -> String {
    let mut text = format!("This will replace the filestorage {}", shown(&plan.data_fs));
    if let Some(blobs) = &plan.blobs {
        text.push_str(&format!(" and the blobstorage {}", shown(blobs)));
    }
    text + ". What is there is kept under another name."
}

fn show(console: &Console, version: &Version, plan: &Plan) -> Result<Exit> {
    console.outcome(&json!({
        "message_type": "summary",
        "snapshot": version.id.hex(),
        "dataset": version.summary().dataset,
        "dry_run": true,
        "data_fs": shown(&plan.data_fs),
        "blob_dir": plan.blobs.as_deref().map(shown),
    }))?;
    console.say(&format!("Would replace {}", shown(&plan.data_fs)))?;
    if let Some(blobs) = &plan.blobs {
        console.say(&format!("Would replace {}", shown(blobs)))?;
    }
    Ok(Exit::Done)
}

fn summarise(console: &Console, version: &Version, plan: &Plan, restored: &Restored) -> Result<()> {
    console.outcome(&json!({
        "message_type": "summary",
        "snapshot": version.id.hex(),
        "dataset": version.summary().dataset,
        "dry_run": false,
        "data_fs": shown(&plan.data_fs),
        "blob_dir": plan.blobs.as_deref().map(shown),
        "transactions": restored.transactions,
        "last_tid": restored.last.map(|tid| tid.to_string()),
        "last_time": restored.last.and_then(|tid| tid.time()).map(|time| time.to_string()),
        "data_bytes": restored.data_bytes,
        "blobs": restored.blobs,
        "kept": restored.kept.iter().map(|path| shown(path)).collect::<Vec<_>>(),
        "problems": restored.problems,
    }))?;
    let end = restored.last.map_or_else(String::new, |tid| format!(", the last {tid} of {}", tid.shown_time()));
    console.say(&format!(
        "Restored {}: {} with {} transactions{end}",
        shown(&plan.data_fs),
        format_size(restored.data_bytes),
        format_count(restored.transactions),
    ))?;
    if let Some(blobs) = &plan.blobs {
        console.say(&format!(
            "Restored {}: {} blobs, all that the transactions name",
            shown(blobs),
            format_count(restored.blobs)
        ))?;
    }
    restored.kept.iter().try_for_each(|path| console.say(&format!("Kept what was there as {}", shown(path))))
}

fn shown(path: &Path) -> String {
    names::shown(path.as_os_str().as_bytes())
}
