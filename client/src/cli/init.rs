//! `init`: the repository, its keys, the recovery key shown once.

use super::Exit;
use super::console::{Console, error_line};
use super::password;
use crate::clock;
use crate::error::Result;
use crate::session;
use serde_json::json;
use std::io::{BufRead, IsTerminal, Write};

const EXAMPLES: &str = "\
EXAMPLES
  nightkeep -r /srv/backup init
  nightkeep -r /srv/backup --password-file /root/.nightkeep init";

const PURPOSE: &str =
    "It opens the repository when the passphrase is lost. Write it down and keep it elsewhere: it is shown
only now, and without passphrase and recovery key nobody can read the backups.";

/// Create the repository and its key, print the recovery key once
///
/// The directory must be empty or not exist yet.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {}

pub fn run(console: &Console, _arguments: &Arguments) -> Result<Exit> {
    session::require_vacant(&console.settings)?;
    let passphrase = console.first_passphrase()?;
    let created = session::create(&console.settings, &passphrase)?;
    if console.json() {
        console.object(&json!({
            "message_type": "summary",
            "repository": created.configuration.repository.hex(),
            "place": created.place,
            "created": clock::rfc3339(created.configuration.created),
            "recovery_key": created.recovery_key.as_str(),
        }))?;
        return Ok(Exit::Done);
    }
    console.say(&format!("Created repository {} in {}.", created.configuration.repository.short(), created.place))?;
    console.print(&format!("Recovery key: {}", *created.recovery_key))?;
    console.say(PURPOSE)?;
    console.flush()?;
    if !console.settings.quiet && std::io::stdin().is_terminal() && password::has_terminal() {
        confirm(&created.recovery_key);
    }
    Ok(Exit::Done)
}

/// Has the last group typed again. The repository is made already, so a failure is only a warning.
fn confirm(recovery_key: &str) {
    let last = recovery_key.rsplit('-').next().unwrap_or_default();
    for _ in 0..3 {
        // Standard error cannot fail in a way that anybody could be told of.
        let _ = write!(std::io::stderr(), "Type the last four letters of what you wrote down: ");
        let mut typed = String::new();
        if std::io::stdin().lock().read_line(&mut typed).unwrap_or(0) == 0 {
            break;
        }
        if typed.trim().eq_ignore_ascii_case(last) {
            return;
        }
        error_line("That is not what the recovery key ends with.");
    }
    error_line("warning: not confirmed; `nightkeep key add --recovery` makes another recovery key");
}
