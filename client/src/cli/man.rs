//! `man`: writes the manual pages, for packagers.

use super::Exit;
use super::arguments::Cli;
use super::console::Console;
use crate::error::{Error, Result};
use clap::CommandFactory;
use std::path::{Path, PathBuf};

const EXAMPLES: &str = "\
EXAMPLES
  nightkeep man /usr/local/share/man/man1";

/// Write the manual pages into a directory
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// An existing directory
    #[arg(value_name = "DIR", value_hint = clap::ValueHint::DirPath)]
    directory: PathBuf,
}

pub fn run(console: &Console, arguments: &Arguments) -> Result<Exit> {
    let mut command = Cli::command();
    command.build();
    let mut pages = Vec::new();
    collect(&command, "nightkeep", &mut pages);
    for (name, page) in pages {
        let path = arguments.directory.join(format!("{name}.1"));
        write(&path, &page)?;
        console.say(&path.display().to_string())?;
    }
    Ok(Exit::Done)
}

/// A page for each command that is not hidden.
fn collect(command: &clap::Command, name: &str, pages: &mut Vec<(String, clap::Command)>) {
    for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
        collect(sub, &format!("{name}-{}", sub.get_name()), pages);
    }
    pages.push((name.to_owned(), command.clone()));
}

fn write(path: &Path, command: &clap::Command) -> Result<()> {
    let mut page = Vec::new();
    let shown = || path.display().to_string();
    let rendered = clap_mangen::Man::new(command.clone()).render(&mut page);
    rendered.and_then(|()| std::fs::write(path, &page)).map_err(|error| Error::io("cannot write", shown(), error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_verb_has_a_page_with_its_examples() {
        let dir = tempfile::tempdir().unwrap();
        let mut command = Cli::command();
        command.build();
        let mut pages = Vec::new();
        collect(&command, "nightkeep", &mut pages);
        let names: Vec<&str> = pages.iter().map(|(name, _)| name.as_str()).collect();
        assert!(names.contains(&"nightkeep") && names.contains(&"nightkeep-backup-files"), "{names:?}");
        assert!(!names.contains(&"nightkeep-man"));
        for (name, page) in &pages {
            let path = dir.path().join(name);
            write(&path, page).unwrap();
            let text = std::fs::read_to_string(&path).unwrap();
            assert!(page.has_subcommands() || text.contains("EXAMPLES"), "{name}");
        }
    }
}
