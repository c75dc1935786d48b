//! `status`: the jobs of this machine as the last runs left them.

use super::Exit;
use super::config;
use super::console::Console;
use super::table::Table;
use crate::clock;
use crate::error::{Error, Result};
use crate::jobs::lock::RunLock;
use crate::jobs::state::{Entry, State};
use crate::jobs::status::{Health, Standing, standings};
use crate::names;
use crate::units::format_size;
use serde_json::{Value, json};
use std::time::Duration;

const EXAMPLES: &str = "\
AGE counts from when the last run began in which the job saved everything; MAX is its `max_age`. TREND compares the size with \
the mean of up to seven successes before. What is shown is what this machine's runs noted; the repository is not asked.

EXIT CODES
  0    all is well
  3    the last run of some job left something out
  1    some job failed, never succeeded, or its last success is too old

EXAMPLES
  nightkeep status
  nightkeep status projop --json";

/// Show the last success, age and verdict of each job
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// Which jobs
    #[arg(value_name = "JOB")]
    jobs: Vec<String>,
}

pub fn run(console: &Console, arguments: &Arguments) -> Result<Exit> {
    let loaded = crate::jobs::config::load(&config::path())?;
    let config = loaded.config;
    let state_dir = &console.settings.state_dir;
    let (state, trouble) = State::load(state_dir);
    if let Some(reason) = trouble {
        console.warn(&reason);
    }
    let standings = standings(&config, &state, &arguments.jobs, clock::now());
    let is_known = |name: &&String| standings.iter().any(|standing| standing.job == **name);
    if let Some(unknown) = arguments.jobs.iter().find(|name| !is_known(name)) {
        return Err(Error::argument(format!("job `{unknown}`"), "there is none, and none of that name has run"));
    }
    let is_running = RunLock::is_held(state_dir);
    let health = standings.iter().map(Standing::health).max().unwrap_or(Health::Good);
    if console.json() {
        show_json(console, &standings, &state, is_running, health)?;
    } else if !console.settings.quiet {
        show(console, &standings, &state, is_running)?;
    }
    Ok(Exit::Ended(code(health)))
}

fn code(health: Health) -> u8 {
    match health {
        Health::Good => 0,
        Health::Incomplete => 3,
        Health::Bad => 1,
    }
}

fn show(console: &Console, standings: &[Standing<'_>], state: &State, is_running: bool) -> Result<()> {
    let zone = clock::zone();
    let mut table = Table::new(&[
        ("JOB", false),
        ("LAST SUCCESS", false),
        ("AGE", true),
        ("MAX", true),
        ("SIZE", true),
        ("TREND", true),
        ("ADDED", true),
        ("LAST RUN", false),
        ("VERDICT", false),
    ]);
    let dash = || "-".to_owned();
    for standing in standings {
        let size = |of: fn(&Entry) -> u64| standing.success.map_or_else(dash, |run| format_size(of(run)));
        let note = if standing.is_configured { "" } else { " (not configured)" };
        table.row(vec![
            standing.job.to_owned(),
            standing.success.map_or_else(|| "never".into(), |run| clock::local(run.started, &zone)),
            standing.age.map_or_else(dash, age),
            standing.age_max.map_or_else(dash, age),
            size(|run| run.bytes),
            standing.trend.map_or_else(dash, |trend| format!("{:+.1} %", trend * 100.0)),
            size(|run| run.added_bytes),
            standing.last.map_or_else(|| "never".into(), |run| clock::local(run.started, &zone)),
            format!("{}{note}", standing.word()),
        ]);
    }
    console.table(&table)?;
    for standing in standings.iter().filter(|standing| standing.is_configured) {
        if let Some(cause) = standing.last.and_then(|last| last.cause.as_ref()) {
            console.print(&format!("{}: {}", standing.job, names::printable(cause)))?;
        }
    }
    match (&state.running, is_running) {
        (Some(running), true) => {
            let since = clock::local(running.since, &zone);
            console.print(&format!("A run is going on since {since}: {}", running.jobs.join(" ")))
        }
        (Some(running), false) => {
            let since = clock::local(running.since, &zone);
            console.print(&format!("The run that began {since} never ended: it was killed, or the machine went down."))
        }
        (None, _) => Ok(()),
    }
}

fn show_json(
    console: &Console,
    standings: &[Standing<'_>],
    state: &State,
    is_running: bool,
    health: Health,
) -> Result<()> {
    for standing in standings {
        console.outcome(&json!({
            "message_type": "job",
            "job": standing.job,
            "configured": standing.is_configured,
            "verdict": standing.word(),
            "healthy": standing.health() == Health::Good,
            "over_age": standing.is_over_age(),
            "seconds_age": standing.age.map(|age| age.as_secs()),
            "seconds_age_max": standing.age_max.map(|age| age.as_secs()),
            "last_success": standing.success.map(entry),
            "last_run": standing.last.map(entry),
            "trend": standing.trend,
            "runs": standing.runs.iter().map(entry).collect::<Vec<_>>(),
        }))?;
    }
    let unfinished = state.running.as_ref().map(|running| {
        json!({
            "run": running.run,
            "since": clock::rfc3339(running.since),
            "jobs": running.jobs,
            "process": running.process,
            "alive": is_running,
        })
    });
    console.outcome(&json!({
        "message_type": "summary",
        "healthy": health == Health::Good,
        "exit_code": code(health),
        "running": unfinished,
    }))
}

fn entry(run: &Entry) -> Value {
    json!({
        "run": run.run,
        "started": clock::rfc3339(run.started),
        "finished": clock::rfc3339(run.finished),
        "verdict": run.verdict.word(),
        "exit_code": run.code,
        "cause": run.cause,
        "snapshots": run.snapshots,
        "total_bytes": run.bytes,
        "added_bytes": run.added_bytes,
    })
}

/// `3d 04h`, `5h 06m`, `7m`
fn age(age: Duration) -> String {
    let minutes = age.as_secs() / 60;
    match (minutes / 1440, minutes / 60 % 24, minutes % 60) {
        (0, 0, m) => format!("{m}m"),
        (0, h, m) => format!("{h}h {m:02}m"),
        (d, h, _) => format!("{d}d {h:02}h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages() {
        for (seconds, text) in [(0, "0m"), (3599, "59m"), (93_600, "1d 02h"), (18_360, "5h 06m")] {
            assert_eq!(age(Duration::from_secs(seconds)), text);
        }
    }
}
