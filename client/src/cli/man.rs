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
    for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set() && sub.get_name() != "help") {
        collect(sub, &format!("{name}-{}", sub.get_name()), pages);
    }
    pages.push((name.to_owned(), command.clone()));
}

fn write(path: &Path, command: &clap::Command) -> Result<()> {
    let failed = |error| Error::io("cannot write", path.display().to_string(), error);
    let mut page = Vec::new();
    clap_mangen::Man::new(command.clone()).render(&mut page).map_err(failed)?;
    std::fs::write(path, with_sections(&String::from_utf8_lossy(&page))).map_err(failed)
}

/// What stands behind the options becomes sections by its headings: lines of capitals. What stands before the first is `NOTES`.
fn with_sections(page: &str) -> String {
    let Some((options, extra)) = page.split_once(".SH EXTRA\n") else { return page.to_owned() };
    let is_heading = |line: &str| !line.is_empty() && line.chars().all(|c| c.is_ascii_uppercase() || c == ' ');
    let mut text = String::from(options);
    if !extra.lines().next().is_some_and(is_heading) {
        text.push_str(".SH NOTES\n");
    }
    for line in extra.lines() {
        match line {
            heading if is_heading(heading) => text.push_str(&format!(".SH {heading}\n")),
            "" => text.push_str(".PP\n"),
            line => text.push_str(&format!("{line}\n")),
        }
    }
    text
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
            assert!(page.has_subcommands() || text.contains("\n.SH EXAMPLES\n"), "{name}");
            assert!(!text.contains("EXTRA"), "{name}");
        }
    }
}
