//! `config example|check|show`: the configuration file itself.

use super::Exit;
use super::console::{Console, error_line};
use crate::error::Result;
use crate::jobs::config::load;
use crate::jobs::{Mistake, Severity, show};
use crate::names;
use crate::units::plural;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

const EXAMPLES: &str = "\
The file is /etc/nightkeep/client.toml, or what NIGHTKEEP_CONFIG names. It should belong to root and be readable by root only.

EXAMPLES
  nightkeep config example > /etc/nightkeep/client.toml
  nightkeep config check
  nightkeep config show";

const EXAMPLES_EXAMPLE: &str = "\
EXAMPLES
  nightkeep config example > /etc/nightkeep/client.toml";

const EXAMPLES_CHECK: &str = "\
Every mistake is named with its line and what to do about it. Errors keep `run` from running (exit code 1); warnings do not.

EXAMPLES
  nightkeep config check
  nightkeep config check --json";

const EXAMPLES_SHOW: &str = "\
Presets are spelled out, defaults filled in, secrets left out. Flags and environment are taken into account.

EXAMPLES
  nightkeep config show
  nightkeep config show --json";

/// Write, check or show the configuration file
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Subcommand, Debug)]
enum Action {
    /// Print a commented example for all kinds of sources
    #[command(after_help = EXAMPLES_EXAMPLE)]
    Example,
    /// Find every mistake
    #[command(after_help = EXAMPLES_CHECK)]
    Check,
    /// Show what the file means
    #[command(after_help = EXAMPLES_SHOW)]
    Show,
}

pub fn run(console: &Console, arguments: &Arguments) -> Result<Exit> {
    match arguments.action {
        Action::Example => example(console),
        Action::Check => check(console),
        Action::Show => show(console),
    }
}

/// Where the configuration file lies.
pub fn path() -> PathBuf {
    crate::jobs::config::path(std::env::var_os("NIGHTKEEP_CONFIG"))
}

fn example(console: &Console) -> Result<Exit> {
    if console.json() {
        console.object(&json!({"message_type": "example", "text": show::EXAMPLE}))?;
    } else {
        console.print(show::EXAMPLE.trim_end())?;
    }
    Ok(Exit::Done)
}

fn check(console: &Console) -> Result<Exit> {
    let loaded = load(&path())?;
    for mistake in &loaded.mistakes {
        if mistake.is_error() || !console.settings.quiet {
            show_mistake(console, &loaded.path, mistake);
        }
    }
    let errors = loaded.errors().count() as u64;
    let warnings = loaded.mistakes.len() as u64 - errors;
    let place = loaded.path.display().to_string();
    console.outcome(&json!({
        "message_type": "summary", "file": place, "errors": errors, "warnings": warnings, "jobs": loaded.config.jobs.len(),
    }))?;
    let jobs = plural(loaded.config.jobs.len() as u64, "job");
    let found = match (errors, warnings) {
        (0, 0) => "no mistakes".to_owned(),
        (0, warnings) => plural(warnings, "warning"),
        (errors, warnings) => format!("{}, {}", plural(errors, "error"), plural(warnings, "warning")),
    };
    console.say(&format!("{place}: {jobs}, {found}."))?;
    Ok(Exit::Ended(u8::from(errors > 0)))
}

fn show(console: &Console) -> Result<Exit> {
    let loaded = load(&path())?;
    for mistake in loaded.errors() {
        show_mistake(console, &loaded.path, mistake);
    }
    let config = loaded.require(|_| true)?;
    let settings = console.settings.clone().or(&config.defaults())?;
    let mut object = show::object(&config, &settings);
    if console.json() {
        if let Some(object) = object.as_object_mut() {
            object.insert("message_type".into(), Value::from("config"));
        }
        console.object(&object)?;
    } else {
        show::text_of(&object, &config).iter().try_for_each(|line| console.print(line))?;
    }
    Ok(Exit::Done)
}

pub fn show_mistake(console: &Console, path: &Path, mistake: &Mistake) {
    let severity = match mistake.severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
    };
    error_line(&if console.json() {
        json!({
            "message_type": severity,
            "file": path.display().to_string(),
            "line": mistake.line,
            "column": mistake.column,
            "item": mistake.place,
            "message": mistake.what,
            "remedy": mistake.remedy,
        })
        .to_string()
    } else {
        mistake_line(path, mistake)
    });
}

/// `FILE:LINE:COLUMN: error: PLACE: WHAT; REMEDY`
pub fn mistake_line(path: &Path, mistake: &Mistake) -> String {
    let severity = if mistake.is_error() { "error" } else { "warning" };
    let spot = if mistake.line == 0 { String::new() } else { format!("{}:{}:", mistake.line, mistake.column) };
    names::printable(&format!("{}:{spot} {severity}: {mistake}", path.display()).replace('\n', " "))
}
