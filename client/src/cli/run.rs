//! `run`: the jobs of the configuration file as one run, for cron and systemd timers.

use super::Exit;
use super::config;
use super::console::{Console, error_line};
use super::progress::Progress;
use super::report::{FAILED, Report};
use crate::error::{Error, Result};
use crate::jobs::config::{Config, Loaded, Reports};
use crate::jobs::event::Event;
use crate::jobs::journal::{self, Journal};
use crate::jobs::lock::RunLock;
use crate::jobs::run::{self as engine, Cause, Conclusion, Done, Work};
use crate::jobs::verdict::Verdict;
use crate::jobs::words;
use crate::names;
use crate::settings::{CredentialSource, Settings};
use serde_json::{Value, json};
use std::cell::OnceCell;
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

const EXAMPLES: &str = "\
Jobs are carried out one after the other, their snapshots have one run's id, and a failure stops none of the others. Only \
one run at a time: a second one ends with exit code 11 and names the first.

EXIT CODES
  0    all jobs did all
  3    something was saved and something is missing: a job failed, an item could not be read, a hook after the backup failed
  1    nothing was saved; or the configuration is wrong
  10   nothing was saved, since the repository is away      12   nothing was saved, the credential is wrong
  11   another run, or another writer, is at work           130  a signal ended it

EXAMPLES
  nightkeep run
  nightkeep -q run projop system
  nightkeep run --log /var/log/nightkeep/run.log --error-log /var/log/nightkeep/run.err";

/// Carry out the jobs of the configuration file, all or those named
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// Which jobs
    #[arg(value_name = "JOB")]
    jobs: Vec<String>,
    /// Write what happens into a file, begun anew with each run
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    log: Option<PathBuf>,
    /// Write errors into a file that is there only if there were any
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    error_log: Option<PathBuf>,
}

pub fn run(console: &Console, arguments: &Arguments) -> Result<Exit> {
    let path = config::path();
    let loaded = match crate::jobs::config::load(&path) {
        Ok(loaded) => loaded,
        Err(error) => return refuse(arguments.error_log.as_deref(), error),
    };
    let reports = reports(&loaded, arguments);
    let error_log = reports.error_log.clone();
    let prepared = prepare(console, arguments, loaded);
    let (config, settings) = match prepared {
        Ok(prepared) => prepared,
        Err(error) => return refuse(error_log.as_deref(), error),
    };
    let jobs = match config.select(&arguments.jobs) {
        Ok(jobs) => jobs,
        Err(error) => return refuse(error_log.as_deref(), error),
    };
    let names: Vec<String> = jobs.iter().map(|job| job.name.clone()).collect();
    let lock = match RunLock::take(&settings.state_dir, &names) {
        Ok(lock) => lock,
        Err(error) => return refuse(error_log.as_deref(), error),
    };
    let kept = OnceCell::new();
    if settings.credential == CredentialSource::Prompt {
        // Before signals are only noted: a person is there.
        let _ = kept.set(console.prompt(&format!("Passphrase for {}: ", settings.place_shown()))?);
    }
    let conclusion = console.interrupts.watched(|interrupted| {
        let listener = |event: &Event| listen(console, &reports, event);
        let journal = Journal::open(&reports, &listener);
        let work = Work {
            config: &config,
            settings: &settings,
            jobs,
            open: &|| open(console, &settings, &kept),
            monitor: &|| Box::new(Progress::start(console)),
            explain: &explain,
            interrupted,
            command_line: command_line(),
        };
        engine::run(&work, &journal)
    });
    drop(lock);
    conclude(console, &conclusion?)
}

fn open(
    console: &Console,
    settings: &Settings,
    kept: &OnceCell<Zeroizing<Vec<u8>>>,
) -> Result<crate::session::Session> {
    console.open_again(settings, "run", kept)
}

fn explain(error: &Error) -> Cause {
    let report = Report::of(error);
    Cause { message: report.message, hint: report.hint.map(str::to_owned), code: report.code }
}

/// The configuration without mistakes, and what it settles.
fn prepare(console: &Console, arguments: &Arguments, loaded: Loaded) -> Result<(Config, Settings)> {
    for mistake in loaded.errors() {
        config::show_mistake(console, &loaded.path, mistake);
    }
    if let Some(error_log) = arguments.error_log.iter().chain(&loaded.config.reports.error_log).next() {
        // All of them: whoever reads the file was not there to see them.
        let lines: Vec<String> = loaded.errors().map(|mistake| config::mistake_line(&loaded.path, mistake)).collect();
        if !lines.is_empty() {
            let _ = journal::replace_error(error_log, &lines.join("\n"));
        }
    }
    let config = loaded.require(|_| true)?;
    let settings = console.settings.clone().or(&config.defaults())?;
    Ok((config, settings))
}

fn reports(loaded: &Loaded, arguments: &Arguments) -> Reports {
    let reports = loaded.config.reports.clone();
    Reports {
        log: arguments.log.clone().or(reports.log),
        error_log: arguments.error_log.clone().or(reports.error_log),
        ..reports
    }
}

/// Also tells the error file, since nobody may be watching.
fn refuse(error_log: Option<&Path>, error: Error) -> Result<Exit> {
    if let Some(path) = error_log {
        let line = format!("error: {error}");
        let written = match error {
            // The file is of the run that is going on.
            Error::RunGoingOn { .. } | Error::Configuration { .. } => journal::append_error(path, &line),
            _ => journal::replace_error(path, &line),
        };
        if let Err(problem) = written {
            error_line(&format!("nightkeep: cannot write the error file {}: {problem}", path.display()));
        }
    }
    Err(error)
}

/// How it was called; secrets are no arguments.
fn command_line() -> String {
    std::env::args_os().map(|word| names::shown(word.as_encoded_bytes())).collect::<Vec<_>>().join(" ")
}

fn listen(console: &Console, reports: &Reports, event: &Event) {
    let shown = match event {
        // The monitor showed it.
        Event::Problem { .. } => Ok(()),
        Event::Failed { job, what, cause, hint } => {
            show_failure(console, job.as_deref(), what, cause, hint.as_deref());
            Ok(())
        }
        Event::Waits { .. } => {
            console.warn(&words::line(event, reports.language));
            Ok(())
        }
        event => match object(event) {
            Some(object) if console.json() => console.outcome(&object),
            _ => console.say(&words::line(event, reports.language)),
        },
    };
    // Whoever watched is gone; the run goes on, and its end tells that standard output is gone.
    let _ = shown.and_then(|()| console.flush());
}

fn show_failure(console: &Console, job: Option<&str>, what: &str, cause: &str, hint: Option<&str>) {
    if console.json() {
        let line = json!({"message_type": "error", "job": job, "item": what, "message": cause, "hint": hint});
        return error_line(&line.to_string());
    }
    let job = job.map(|job| format!("{job}: ")).unwrap_or_default();
    error_line(&format!("nightkeep: {job}{what}: {}", names::printable(cause)));
    if let Some(hint) = hint {
        error_line(&format!("  {}", names::printable(hint)));
    }
}

fn object(event: &Event) -> Option<Value> {
    Some(match event {
        Event::JobBegins { job } => json!({"message_type": "job_begin", "job": job}),
        Event::Found { job, database } => json!({"message_type": "database", "job": job, "database": database}),
        Event::Counted { job, databases } => json!({"message_type": "databases", "job": job, "found": databases}),
        Event::Databases { job, selected, saved } => {
            json!({"message_type": "databases", "job": job, "selected": selected, "saved": saved})
        }
        Event::Saved { job, saved } => json!({
            "message_type": "saved",
            "job": job,
            "dataset": saved.dataset,
            "database": saved.database,
            "snapshot": saved.snapshot,
            "total_bytes": saved.bytes,
            "added_bytes": saved.added_bytes,
            "problems": saved.problems,
            "seconds_elapsed": saved.elapsed.as_secs_f64(),
        }),
        Event::Note { job, text } => json!({"message_type": "note", "job": job, "message": text}),
        Event::Forgot { job, forgotten, kept } => {
            json!({"message_type": "forgot", "job": job, "forgotten": forgotten, "kept": kept})
        }
        Event::Pruned { bytes_freed } => json!({"message_type": "pruned", "bytes_freed": bytes_freed}),
        Event::HookSays { job, moment, line } => {
            json!({"message_type": "hook", "job": job, "hook": moment.word(), "line": line})
        }
        Event::JobEnds { job, ending, elapsed, .. } => json!({
            "message_type": "job_end",
            "job": job,
            "verdict": ending.verdict.word(),
            "exit_code": ending.code,
            "seconds_elapsed": elapsed.as_secs_f64(),
        }),
        // The summary has it.
        _ => Value::Null,
    })
    .filter(|value| !value.is_null())
}

fn conclude(console: &Console, conclusion: &Conclusion) -> Result<Exit> {
    let ending = conclusion.ending;
    let sum = |of: fn(&Done) -> u64| conclusion.jobs.iter().map(of).sum::<u64>();
    console.outcome(&json!({
        "message_type": "summary",
        "run": conclusion.run.hex(),
        "verdict": ending.verdict.word(),
        "exit_code": ending.code,
        "incomplete": ending.verdict != Verdict::Done,
        "jobs": conclusion.jobs.iter().map(job_object).collect::<Vec<_>>(),
        "snapshots": sum(|job| job.tally.saved.iter().filter(|saved| saved.snapshot.is_some()).count() as u64),
        "total_bytes": sum(Done::bytes),
        "added_bytes": sum(Done::added_bytes),
        "seconds_elapsed": conclusion.elapsed.as_secs_f64(),
    }))?;
    if console.json() && !matches!(ending.verdict, Verdict::Done | Verdict::Incomplete) {
        let message = conclusion.jobs.iter().find_map(|job| job.cause.clone());
        let message = message.unwrap_or_else(|| ending.verdict.word().to_owned());
        error_line(&json!({"message_type": "exit_error", "code": ending.code, "message": message}).to_string());
    }
    debug_assert!(ending.verdict != Verdict::Failed || ending.code >= FAILED);
    Ok(Exit::Ended(ending.code))
}

fn job_object(job: &Done) -> Value {
    json!({
        "job": job.name,
        "verdict": job.ending.verdict.word(),
        "exit_code": job.ending.code,
        "cause": job.cause,
        "snapshots": job.tally.saved.iter().filter_map(|saved| saved.snapshot.clone()).collect::<Vec<_>>(),
        "total_bytes": job.bytes(),
        "added_bytes": job.added_bytes(),
        "seconds_elapsed": job.elapsed.as_secs_f64(),
    })
}
