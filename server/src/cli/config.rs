//! `config example|check`.

use super::{Cli, print, tell};
use crate::config::{EXAMPLE, Loaded, load};
use crate::error::{Error, Result};
use rules::units::plural;
use serde_json::json;
use std::io::Write;

#[derive(clap::Subcommand, Debug)]
pub enum Verb {
    /// Print a commented example
    #[command(after_help = "EXAMPLES\n  nightkeepd config example > /etc/nightkeep/server.toml")]
    Example,
    /// Find every mistake
    #[command(after_help = "EXAMPLES\n  nightkeepd config check\n  nightkeepd --config new.toml config check --json")]
    Check,
}

pub fn run(cli: &Cli, verb: &Verb) -> Result<()> {
    match verb {
        Verb::Example if cli.json => print(&json!({"message_type": "example", "text": EXAMPLE}).to_string()),
        Verb::Example => print(EXAMPLE.trim_end()),
        Verb::Check => check(cli),
    }
}

fn check(cli: &Cli) -> Result<()> {
    let loaded = load(&cli.config)?;
    show_mistakes(cli, &loaded);
    let errors = loaded.errors().count() as u64;
    let warnings = loaded.mistakes.len() as u64 - errors;
    let place = loaded.path.display().to_string();
    let found = match (errors, warnings) {
        (0, 0) => "no mistakes".to_owned(),
        (0, warnings) => plural(warnings, "warning"),
        (errors, 0) => plural(errors, "error"),
        (errors, warnings) => format!("{}, {}", plural(errors, "error"), plural(warnings, "warning")),
    };
    let line = format!("{place}: {found}.");
    tell(cli, &json!({"file": place, "errors": errors, "warnings": warnings}), &[line])?;
    if errors == 0 { Ok(()) } else { Err(Error::Told) }
}

/// On standard error.
pub fn show_mistakes(cli: &Cli, loaded: &Loaded) {
    for mistake in &loaded.mistakes {
        let line = if cli.json {
            json!({
                "message_type": if mistake.is_error() { "error" } else { "warning" },
                "file": loaded.path.display().to_string(),
                "line": mistake.line,
                "column": mistake.column,
                "item": mistake.place,
                "message": mistake.what,
                "remedy": mistake.remedy,
            })
            .to_string()
        } else {
            loaded.line(mistake)
        };
        // There is nobody to tell if even that fails.
        let _ = writeln!(std::io::stderr(), "{line}");
    }
}
