//! `forget`: by name or by policy; a forgotten snapshot can be brought back until its grace period ends.

use super::Exit;
use super::console::Console;
use super::prune;
use super::snapshots::{dataset_glob, matching};
use super::table::Table;
use crate::clock;
use crate::error::{Error, Result};
use crate::history::{History, Version};
use crate::names;
use crate::retention::{self, Candidate, Count, Policy, Reason};
use crate::selection::{Among, Selector};
use crate::session::{Purpose, Session};
use crate::units::{Stretch, plural};
use chunkstore::mark::Action;
use globset::GlobMatcher;
use serde_json::json;
use std::collections::BTreeMap;
use std::ffi::OsString;

const EXAMPLES: &str = "\
A policy is applied to each dataset on its own. Each --keep option keeps the newest snapshot of each of the N newest hours, \
days, ISO weeks, months or years (local time) that have one, and the oldest snapshot as long as there are fewer than N. \
A snapshot stays if any option keeps it. Whatever the options: pinned snapshots stay, and so does the newest complete one \
of each dataset. An incomplete snapshot never takes the place of a complete one: it stands for a period only if no \
complete one does, and is not counted.

A damaged snapshot is forgotten by its id, which `nightkeep snapshots` shows; what it held is then given up.

What is forgotten can be brought back with `nightkeep undelete` until its grace period ends; then `prune` frees its space.

EXAMPLES
  nightkeep forget --keep-daily 7 --keep-weekly 5 --keep-monthly 12 --keep-yearly 3 --dry-run
  nightkeep forget --keep-within 1y6m --keep-tag release --dataset 'www/*' --prune
  nightkeep forget 1a2b3c4d 5e6f7a8b";

/// Forget snapshots, by name or by a retention policy
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// Which snapshots to forget, instead of a policy
    #[arg(value_name = "SNAPSHOT")]
    snapshots: Vec<OsString>,
    /// Keep the N newest snapshots
    #[arg(short = 'l', long, value_name = "N", value_parser = Count::parse, allow_negative_numbers = true)]
    keep_last: Option<Count>,
    /// Keep the newest of each of N hours
    #[arg(short = 'H', long, value_name = "N", value_parser = Count::parse, allow_negative_numbers = true)]
    keep_hourly: Option<Count>,
    /// Keep the newest of each of N days
    #[arg(short = 'd', long, value_name = "N", value_parser = Count::parse, allow_negative_numbers = true)]
    keep_daily: Option<Count>,
    /// Keep the newest of each of N weeks
    #[arg(short = 'w', long, value_name = "N", value_parser = Count::parse, allow_negative_numbers = true)]
    keep_weekly: Option<Count>,
    /// Keep the newest of each of N months
    #[arg(short = 'm', long, value_name = "N", value_parser = Count::parse, allow_negative_numbers = true)]
    keep_monthly: Option<Count>,
    /// Keep the newest of each of N years
    #[arg(short = 'y', long, value_name = "N", value_parser = Count::parse, allow_negative_numbers = true)]
    keep_yearly: Option<Count>,
    /// Keep all within this time before the newest complete one: 7d, 1y5m7d2h (m is months)
    #[arg(long, value_name = "TIME", value_parser = stretch)]
    keep_within: Option<Stretch>,
    /// Keep all with this tag; may be repeated
    #[arg(long, value_name = "TAG")]
    keep_tag: Vec<String>,
    /// Only of datasets that match
    #[arg(long, value_name = "GLOB", value_parser = dataset_glob, conflicts_with = "snapshots")]
    dataset: Option<GlobMatcher>,
    /// Forget nothing, show what would be
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Then free the space of what was forgotten long enough ago
    #[arg(long)]
    prune: bool,
}

impl Arguments {
    fn policy(&self) -> Policy {
        Policy {
            last: self.keep_last,
            hourly: self.keep_hourly,
            daily: self.keep_daily,
            weekly: self.keep_weekly,
            monthly: self.keep_monthly,
            yearly: self.keep_yearly,
            within: self.keep_within,
            labels: self.keep_tag.clone(),
        }
    }
}

pub fn run(console: &Console, arguments: &Arguments) -> Result<Exit> {
    let policy = arguments.policy();
    let zone = clock::zone();
    let selectors: Vec<Selector> =
        arguments.snapshots.iter().map(|text| Selector::parse(text, &zone)).collect::<Result<_>>()?;
    match (policy.is_given(), selectors.is_empty()) {
        (false, true) => return Err(Error::argument("forget", "name snapshots or give a policy with --keep options")),
        (true, false) => return Err(Error::argument("forget", "name snapshots or give a policy, not both")),
        (true, true) => policy.validate()?,
        (false, false) => {}
    }
    let session = console.open("forget", Purpose::Write)?;
    let mut history = session.history()?;
    let (named, damaged): (Vec<&Selector>, Vec<&Selector>) =
        selectors.iter().partition(|selector| selector.damaged(&history).is_none());
    let plan = if selectors.is_empty() {
        by_policy(&history, &policy, arguments.dataset.as_ref())?
    } else {
        by_name(&history, &named)?
    };
    let mut forgotten: Vec<_> =
        plan.iter().filter(|verdict| verdict.goes()).map(|verdict| verdict.version.id).collect();
    let kept = plan.len() - forgotten.len();
    show(console, &plan, arguments.dry_run)?;
    forgotten.extend(damaged.iter().filter_map(|selector| selector.damaged(&history)));
    if !arguments.dry_run {
        for id in &forgotten {
            history.mark(session.store(), &session.keys.write, *id, Action::Forget)?;
        }
    }
    summarise(console, &session, forgotten.len() as u64, kept as u64, arguments.dry_run)?;
    if arguments.prune { prune::perform(console, &session, None, arguments.dry_run) } else { Ok(Exit::Done) }
}

struct Verdict<'h> {
    version: &'h Version,
    /// Why it stays.
    reasons: Vec<Reason>,
}

impl Verdict<'_> {
    fn goes(&self) -> bool {
        self.reasons.is_empty()
    }
}

fn by_policy<'h>(history: &'h History, policy: &Policy, glob: Option<&GlobMatcher>) -> Result<Vec<Verdict<'h>>> {
    let (now, zone) = (clock::now(), clock::zone());
    let mut datasets: BTreeMap<&str, Vec<&Version>> = BTreeMap::new();
    for version in matching(history.present(), glob)? {
        datasets.entry(&version.summary().dataset).or_default().push(version);
    }
    let mut plan = Vec::new();
    for versions in datasets.into_values() {
        let candidates: Vec<Candidate> = versions.iter().map(|version| candidate(version)).collect();
        let verdicts = retention::apply(policy, &candidates, now, &zone);
        plan.extend(versions.into_iter().zip(verdicts).map(|(version, reasons)| Verdict { version, reasons }));
    }
    Ok(plan)
}

fn candidate(version: &Version) -> Candidate {
    Candidate {
        time: version.summary().time,
        incomplete: version.summary().incomplete,
        pinned: version.state.pinned,
        labels: version.state.labels.clone(),
    }
}

/// All or nothing: refuses pinned ones, and whatever would leave a dataset without a snapshot to restore.
fn by_name<'h>(history: &'h History, selectors: &[&Selector]) -> Result<Vec<Verdict<'h>>> {
    let mut plan: Vec<Verdict<'h>> = Vec::new();
    for selector in selectors {
        let version = selector.resolve(history, Among::Present)?;
        let what = format!("cannot forget snapshot {} of {}", version.id.short(), version.summary().dataset);
        if !selector.path.is_empty() {
            return Err(Error::argument(what, "a path makes no sense here"));
        }
        if version.state.pinned {
            return Err(Error::refused(what, "it is pinned; `nightkeep unpin` takes that away"));
        }
        if plan.iter().all(|verdict| verdict.version.id != version.id) {
            plan.push(Verdict { version, reasons: Vec::new() });
        }
    }
    let goes = |version: &Version| plan.iter().any(|verdict| verdict.version.id == version.id);
    for (dataset, versions) in history.datasets() {
        let left: Vec<_> = versions.iter().filter(|version| !goes(version)).collect();
        let touched = left.len() < versions.len();
        let complete = |version: &&Version| !version.summary().incomplete;
        if touched && left.is_empty() {
            return Err(Error::refused(format!("cannot forget all of {dataset}"), "its last snapshot always stays"));
        }
        if touched && versions.iter().any(complete) && !left.iter().any(|version| complete(version)) {
            let reason = "its last complete snapshot always stays; the others are incomplete";
            return Err(Error::refused(format!("cannot forget all complete snapshots of {dataset}"), reason));
        }
    }
    Ok(plan)
}

fn show(console: &Console, plan: &[Verdict<'_>], dry_run: bool) -> Result<()> {
    if console.json() {
        for Verdict { version, reasons } in plan {
            console.outcome(&json!({
                "message_type": "verdict",
                "snapshot": version.id.hex(),
                "dataset": version.summary().dataset,
                "time": clock::rfc3339(version.summary().time),
                "keep": !reasons.is_empty(),
                "reasons": reasons.iter().map(ToString::to_string).collect::<Vec<_>>(),
                "dry_run": dry_run,
            }))?;
        }
        return Ok(());
    }
    if console.settings.quiet {
        return Ok(());
    }
    let zone = clock::zone();
    let mut last = None;
    let mut table = new_table();
    for Verdict { version, reasons } in plan {
        let dataset = version.summary().dataset.as_str();
        if last.is_some_and(|last| last != dataset) {
            flush(console, last, &mut table)?;
        }
        last = Some(dataset);
        let words: Vec<String> = reasons.iter().map(|reason| names::shown(reason.to_string().as_bytes())).collect();
        let verdict = if reasons.is_empty() { "forget" } else { "keep" };
        let incomplete = if version.summary().incomplete { "incomplete" } else { "" };
        table.row(vec![
            version.id.short(),
            clock::local(version.summary().time, &zone),
            verdict.into(),
            words.join(", "),
            incomplete.into(),
        ]);
    }
    flush(console, last, &mut table)
}

fn new_table() -> Table {
    Table::new(&[("ID", false), ("TIME", false), ("VERDICT", false), ("REASONS", false), ("NOTES", false)])
}

fn flush(console: &Console, dataset: Option<&str>, table: &mut Table) -> Result<()> {
    let Some(dataset) = dataset else { return Ok(()) };
    console.print(&format!("{}:", names::shown(dataset.as_bytes())))?;
    console.table(&std::mem::replace(table, new_table()))?;
    console.print("")
}

fn summarise(console: &Console, session: &Session, forgotten: u64, kept: u64, dry_run: bool) -> Result<()> {
    console.outcome(&json!({
        "message_type": "summary", "forgotten": forgotten, "kept": kept, "dry_run": dry_run,
    }))?;
    let (would, verb) = if dry_run { ("would be ", "would stay") } else { ("", "stay") };
    console.say(&format!("{} {would}forgotten, {kept} {verb}.", plural(forgotten, "snapshot")))?;
    if forgotten > 0 && !dry_run {
        let until = clock::now().saturating_add(clock::span(session.configuration().grace_seconds));
        let until = clock::local(until, &clock::zone());
        console.say(&format!("`nightkeep undelete` brings them back until {until}."))?;
    }
    Ok(())
}

fn stretch(text: &str) -> std::result::Result<Stretch, String> {
    Stretch::parse(text).map_err(|error| error.to_string())
}
