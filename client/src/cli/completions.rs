//! `completions`: scripts for shells.

use super::Exit;
use super::arguments::Cli;
use super::console::Console;
use crate::error::{Error, Result};
use clap::CommandFactory;
use clap_complete::{Shell, generate};
use std::io::Write;

const EXAMPLES: &str = "\
EXAMPLES
  nightkeep completions bash > /etc/bash_completion.d/nightkeep
  nightkeep completions zsh > /usr/local/share/zsh/site-functions/_nightkeep
  nightkeep completions fish > /etc/fish/completions/nightkeep.fish";

/// Print a script that completes commands in a shell
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// Which shell
    #[arg(value_enum)]
    shell: Shell,
}

pub fn run(console: &Console, arguments: &Arguments) -> Result<Exit> {
    let mut script = Vec::new();
    generate(arguments.shell, &mut Cli::command(), "nightkeep", &mut script);
    (&*console.output).write_all(&script).map_err(Error::Output)?;
    Ok(Exit::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_know_the_verbs() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let mut script = Vec::new();
            generate(shell, &mut Cli::command(), "nightkeep", &mut script);
            let script = String::from_utf8(script).unwrap();
            assert!(script.contains("snapshots") && script.contains("keep-daily"), "{shell}");
        }
    }
}
