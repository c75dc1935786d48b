//! The command line: each verb is one file that turns arguments into calls and results into text or JSON.
//!
//! Nothing below this module prints. Text for people goes to standard output; problems, warnings and errors go to
//! standard error; with `--json` the former are JSON lines of `message_type` `status`, `summary` and so on, the latter
//! of `error`, `warning` and `exit_error`.

mod arguments;
mod report;
mod table;

mod console;
mod password;
mod progress;
mod question;
mod walk;

mod backup;
mod check;
mod completions;
mod config;
mod diff;
mod dump;
mod find;
mod forget;
mod init;
mod join;
mod key;
mod ls;
mod man;
mod mount;
mod pin;
mod prune;
mod restore;
mod run;
mod snapshots;
mod stats;
mod status;
mod tag;
mod undelete;

pub use arguments::{Cli, Verb};

use crate::error::{Error, Result};
use crate::interrupts::Interrupts;
use crate::jobs::{self, Mistake};
use crate::settings::Settings;
use clap::Parser;
use clap::error::ErrorKind as UsageKind;
use console::Console;
use std::ffi::OsString;
use std::io::ErrorKind;

/// How a verb ended that did not fail with an error.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exit {
    Done,
    /// Something is lost or damaged, and was reported.
    Failed,
    /// Done, but for items that were named.
    Incomplete,
    /// A code of its own, told of already.
    Ended(u8),
}

impl Exit {
    pub fn code(self) -> u8 {
        match self {
            Exit::Done => 0,
            Exit::Failed => 1,
            Exit::Incomplete => 3,
            Exit::Ended(code) => code,
        }
    }

    pub fn with_problems(problems: u64) -> Exit {
        if problems == 0 { Exit::Done } else { Exit::Incomplete }
    }
}

/// The arguments, or what [`conclude_usage`] is to say instead.
pub fn parse(arguments: &[OsString]) -> std::result::Result<Cli, clap::Error> {
    Cli::try_parse_from(arguments)
}

pub fn run(cli: &Cli) -> Result<Exit> {
    let interrupts = Interrupts::install()?;
    let root = rustix::process::geteuid().is_root();
    let settings = Settings::resolve(&cli.flags, &|name| std::env::var_os(name), root)?;
    let settings = if cli.verb.needs_repository() { configured(settings)? } else { settings };
    let limit = match &cli.verb {
        Verb::Restore(arguments) => arguments.limit_download,
        Verb::Dump(arguments) => arguments.limit_download,
        _ => None,
    };
    let mut console = Console::new(settings, interrupts);
    console.settings.download_bytes_per_second = limit.map(|kib| kib.saturating_mul(1024));
    let exit = dispatch(&console, &cli.verb)?;
    console.flush()?;
    Ok(exit)
}

/// What flags and environment leave open, the configuration file says, if there is one that may be read.
fn configured(settings: Settings) -> Result<Settings> {
    if !settings.is_open() {
        return Ok(settings);
    }
    match jobs::config::load(&config::path()) {
        Ok(loaded) => settings.or(&loaded.require(Mistake::is_general)?.defaults()),
        Err(Error::NoConfiguration { .. }) => Ok(settings),
        Err(Error::Io { source, .. }) if source.kind() == ErrorKind::PermissionDenied => Ok(settings),
        Err(error) => Err(error),
    }
}

/// Says how it ended and gives the exit code.
pub fn conclude(result: Result<Exit>, json: bool) -> u8 {
    match result {
        Ok(exit) => {
            if exit == Exit::Failed && json {
                report::conclude_damaged();
            }
            exit.code()
        }
        Err(error) => report::conclude(&error, json),
    }
}

/// Prints help, or reports what is wrong with the arguments. Returns the exit code.
pub fn conclude_usage(error: &clap::Error, arguments: &[OsString]) -> u8 {
    if matches!(error.kind(), UsageKind::DisplayHelp | UsageKind::DisplayVersion) {
        return match error.print() {
            Ok(()) => 0,
            Err(source) => report::conclude(&Error::Output(source), false),
        };
    }
    let options = arguments.iter().take_while(|argument| *argument != "--");
    if options.into_iter().any(|argument| argument == "--json") {
        return report::conclude(&Error::Usage(usage(error)), true);
    }
    // With clap's colours, where they can be seen; there is nobody to tell if even that fails.
    let _ = error.print();
    1
}

/// clap's message without its first word and its advice.
fn usage(error: &clap::Error) -> String {
    let text = error.to_string();
    let message = text.split("\n\n").next().unwrap_or_default();
    message.strip_prefix("error: ").unwrap_or(message).trim().to_owned()
}

fn dispatch(console: &Console, verb: &Verb) -> Result<Exit> {
    match verb {
        Verb::Init(arguments) => init::run(console, arguments),
        Verb::Backup(arguments) => backup::run(console, arguments),
        Verb::Snapshots(arguments) => snapshots::run(console, arguments),
        Verb::Ls(arguments) => ls::run(console, arguments),
        Verb::Find(arguments) => find::run(console, arguments),
        Verb::Diff(arguments) => diff::run(console, arguments),
        Verb::Stats(arguments) => stats::run(console, arguments),
        Verb::Dump(arguments) => dump::run(console, arguments),
        Verb::Restore(arguments) => restore::run(console, arguments),
        Verb::Run(arguments) => run::run(console, arguments),
        Verb::Status(arguments) => status::run(console, arguments),
        Verb::Config(arguments) => config::run(console, arguments),
        Verb::Check(arguments) => check::run(console, arguments),
        Verb::Forget(arguments) => forget::run(console, arguments),
        Verb::Prune(arguments) => prune::run(console, arguments),
        Verb::Pin(arguments) => pin::run(console, arguments, true),
        Verb::Unpin(arguments) => pin::run(console, arguments, false),
        Verb::Tag(arguments) => tag::run(console, arguments),
        Verb::Undelete(arguments) => undelete::run(console, arguments),
        Verb::Join(arguments) => join::run(console, arguments),
        Verb::Mount(arguments) => mount::run(console, arguments),
        Verb::Key(arguments) => key::run(console, arguments),
        Verb::Completions(arguments) => completions::run(console, arguments),
        Verb::Man(arguments) => man::run(console, arguments),
    }
}
