//! `backup zodb`: a FileStorage and its blobs.

use super::{Common, Opened, expect, lines, request, summary};
use crate::cli::Exit;
use crate::cli::console::Console;
use crate::cli::progress::Progress;
use crate::dataset::{self, Kind};
use crate::error::Result;
use crate::names;
use crate::units::{format_count, format_size};
use crate::zodb::{self, Coverage, Site, Where};
use clap::ValueEnum;
use serde_json::Value;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

const EXAMPLES: &str = "\
The storage may be in use. A first run reads all of it, later runs what was added since. In an instance's directory the \
storage is filestorage/Data.fs or var/filestorage/Data.fs, its blobs are in blobstorage beside filestorage; in a buildout \
they are where parts/*/etc/zeo.conf says. Caches, locks, .old and .tmp files are not saved.

EXAMPLES
  nightkeep backup zodb /home/senaite/data/senaitelims --dataset senaitelims
  nightkeep backup zodb --data-fs /srv/zope/Data.fs --blobs /srv/zope/blobs --dataset portal
  nightkeep -q backup zodb /srv/plone/buildout --skip-if-unchanged";

/// Save a ZODB storage (Data.fs) and its blobs, while they are in use
///
/// A blob that is not there is named, the rest is saved, and the exit code is 3.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Zodb {
    /// The data directory of an instance, or the root of a buildout
    #[arg(required_unless_present = "data_fs", conflicts_with = "data_fs")]
    #[arg(value_name = "INSTANCE_DATA_DIR", value_hint = clap::ValueHint::DirPath)]
    instance: Option<PathBuf>,
    /// The storage's file
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    data_fs: Option<PathBuf>,
    /// The directory of its blobs
    #[arg(long, requires = "data_fs", value_name = "DIR", value_hint = clap::ValueHint::DirPath)]
    blobs: Option<PathBuf>,
    /// How to tell what is done
    #[arg(long, value_enum, value_name = "STYLE", default_value_t = Style::Plain, hide_default_value = true)]
    style: Style,
    #[command(flatten)]
    common: Common,
}

#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
enum Style {
    /// A few lines at the end
    Plain,
    /// Lines that begin with INFO:, as those of bin/backup
    Zope,
}

pub fn run(console: &Console, arguments: &Zodb) -> Result<Exit> {
    let place = match (&arguments.instance, &arguments.data_fs) {
        (None, Some(data_fs)) => Where::Files { data_fs: data_fs.clone(), blobs: arguments.blobs.clone() },
        (instance, _) => Where::Instance(instance.clone().unwrap_or_default()),
    };
    let site = place.find()?;
    let host = dataset::host();
    let default = dataset::name_of_paths(std::slice::from_ref(&site.root));
    let dataset = dataset::name(&host, Kind::Zodb, arguments.common.dataset.as_deref(), &default)?;
    let is_zope = arguments.style == Style::Zope;
    announce(console, &site, is_zope)?;
    let opened = Opened::open(console)?;
    let request = request(&console.settings, &arguments.common, dataset, host)?;
    let progress = Progress::start(console);
    expect(&progress, &opened.session.history()?, &request.dataset);
    let saved = opened.with_context(console, &progress, |context| zodb::save(context, &request, &site));
    drop(progress);
    let saved = saved?;
    let mut summary = summary(&request, &saved.outcome);
    if let Some(summary) = summary.as_object_mut() {
        summary.insert("zodb".into(), object(&site, &saved.coverage));
    }
    console.outcome(&summary)?;
    let coverage = text(&saved.coverage);
    for line in coverage.into_iter().chain(lines(&request, &saved.outcome)) {
        console.say(&if is_zope { format!("INFO: {line}") } else { line })?;
    }
    Ok(Exit::with_problems(saved.outcome.problems))
}

fn announce(console: &Console, site: &Site, is_zope: bool) -> Result<()> {
    for other in &site.others {
        console.warn(&format!("another storage beside it is not saved with it: {}", shown(other)));
    }
    if !is_zope {
        return Ok(());
    }
    let to = console.settings.directory().map(|directory| shown(directory)).unwrap_or_default();
    console.say(&format!("INFO: Please wait while backing up database file: {} to {to}", shown(&site.data_fs)))?;
    match &site.blobs {
        Some(blobs) => console.say(&format!("INFO: Please wait while backing up blobs from {} to {to}", shown(blobs))),
        None => Ok(()),
    }
}

fn text(coverage: &Coverage) -> Vec<String> {
    let mut lines = vec![format!(
        "Storage:   {} of Data.fs, read {} of it",
        format_size(coverage.end),
        format_size(coverage.read_bytes)
    )];
    if let (Some(first), Some(last)) = (coverage.first, coverage.last) {
        lines.push(format!(
            "Covered:   {} transactions from {} to {last}, {}",
            format_count(coverage.transactions),
            first.shown_time(),
            last.shown_time()
        ));
    }
    lines.push(match coverage.blobs_missing {
        0 => format!("Blobs:     {}, all there", format_count(coverage.blobs)),
        missing => format!("Blobs:     {}, {} missing", format_count(coverage.blobs), format_count(missing)),
    });
    lines
}

fn object(site: &Site, coverage: &Coverage) -> Value {
    let tid = |tid: Option<zodb::transaction::Tid>| tid.map(|tid| tid.to_string());
    let time =
        |tid: Option<zodb::transaction::Tid>| tid.and_then(zodb::transaction::Tid::time).map(|time| time.to_string());
    serde_json::json!({
        "data_fs": shown(&site.data_fs),
        "blob_dir": site.blobs.as_ref().map(|blobs| shown(blobs)),
        "transactions": coverage.transactions,
        "first_tid": tid(coverage.first),
        "first_time": time(coverage.first),
        "last_tid": tid(coverage.last),
        "last_time": time(coverage.last),
        "end": coverage.end,
        "read_from": coverage.read_from,
        "read_bytes": coverage.read_bytes,
        "blobs": coverage.blobs,
        "blobs_missing": coverage.blobs_missing,
        "index": coverage.index,
    })
}

fn shown(path: &Path) -> String {
    names::shown(path.as_os_str().as_bytes())
}
