//! The verbs and their help. What an option means is said where its verb is; this file has the list of them.

use super::{
    backup, check, completions, config, diff, dump, find, forget, init, join, key, ls, man, mount, pin, prune, restore,
    run, snapshots, stats, status, tag, undelete,
};
use crate::settings::Flags;
use clap::{Parser, Subcommand};

const ABOUT: &str = "Back up into a deduplicated, compressed, encrypted repository";

const AFTER: &str = "\
SNAPSHOT is one of
  1a2b3c4d               the first digits of a snapshot's id, at least four
  HOST/KIND/NAME         a dataset: its latest snapshot; the last parts will do if only one dataset has them
  DATASET@latest         the same
  DATASET@TIME           the newest not after TIME: 2026-11-21, 2026-11-21T03:00, 2026-11-21T03:00:00Z (local unless it
                         ends in Z or an offset)
A path in it is written SNAPSHOT:PATH.

ENVIRONMENT
  NIGHTKEEP_REPOSITORY        the repository, for --repository
  NIGHTKEEP_PASSWORD_FILE     a file with the credential, for --password-file
  NIGHTKEEP_PASSWORD_COMMAND  a shell command that prints it, for --password-command
  NIGHTKEEP_PASSWORD          the credential itself
  NIGHTKEEP_CACHE_DIR         change caches (/var/cache/nightkeep, or in $XDG_CACHE_HOME or ~/.cache)
  NIGHTKEEP_DELTA             off: store chunks that resemble stored ones whole
  NIGHTKEEP_DELTA_CACHE       size of the bases kept for a key that cannot read, or a server (1G)
  NIGHTKEEP_COMPRESSION       auto, none, or a level from 1 to 19, for --compression
  NIGHTKEEP_STATE_DIR         this machine's identity (/var/lib/nightkeep, or in $XDG_STATE_HOME or ~/.local/state)
  NIGHTKEEP_CONFIG            the configuration file (/etc/nightkeep/client.toml)
An option beats its variable, the variable beats the configuration file. Of several variables for the credential, the
first in this list counts. It is a passphrase, the recovery key (nkr1-...) or an exported write-only key (nkw1-...).

EXIT CODES
  0 done   1 failed, nothing committed   3 done but incomplete, what is missing was named
  10 no repository   11 busy   12 wrong credential   130 interrupted

EXAMPLES
  export NIGHTKEEP_REPOSITORY=/srv/backup NIGHTKEEP_PASSWORD_FILE=/root/.nightkeep
  nightkeep init
  nightkeep backup files /etc /home
  nightkeep snapshots
  nightkeep restore files home:/home/ada/thesis.tex --target /tmp/restored";

#[derive(Parser, Debug)]
#[command(name = "nightkeep", version, about = ABOUT, after_long_help = AFTER, subcommand_required = true)]
#[command(max_term_width = 120)]
pub struct Cli {
    #[command(flatten)]
    pub flags: Flags,

    #[command(subcommand)]
    pub verb: Verb,
}

#[derive(Subcommand, Debug)]
pub enum Verb {
    Init(init::Arguments),
    Backup(backup::Arguments),
    Run(run::Arguments),
    Status(status::Arguments),
    Snapshots(snapshots::Arguments),
    Ls(ls::Arguments),
    Find(find::Arguments),
    Diff(diff::Arguments),
    Stats(stats::Arguments),
    Dump(dump::Arguments),
    Restore(restore::Arguments),
    Mount(mount::Arguments),
    Check(check::Arguments),
    Forget(forget::Arguments),
    Prune(prune::Arguments),
    /// Protect a snapshot from being forgotten
    #[command(after_help = pin::EXAMPLES)]
    Pin(pin::Arguments),
    /// Take a snapshot's protection away
    #[command(after_help = pin::EXAMPLES_UNPIN)]
    Unpin(pin::Arguments),
    Tag(tag::Arguments),
    Undelete(undelete::Arguments),
    Key(key::Arguments),
    Join(join::Arguments),
    Config(config::Arguments),
    Completions(completions::Arguments),
    #[command(hide = true)]
    Man(man::Arguments),
}

impl Verb {
    /// Whether it works with one repository, which the configuration file may name. Verbs that carry out or show that file
    /// read it themselves.
    pub fn needs_repository(&self) -> bool {
        !matches!(self, Verb::Run(_) | Verb::Status(_) | Verb::Config(_) | Verb::Completions(_) | Verb::Man(_))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    /// All commands that can be called, with the words that call them.
    fn leaves(command: &clap::Command, words: &str, found: &mut Vec<(String, clap::Command)>) {
        for sub in command.get_subcommands().filter(|sub| sub.get_name() != "help") {
            let words = format!("{words} {}", sub.get_name());
            if sub.has_subcommands() {
                leaves(sub, &words, found);
            } else {
                found.push((words, sub.clone()));
            }
        }
    }

    fn all() -> Vec<(String, clap::Command)> {
        let mut found = Vec::new();
        let mut command = Cli::command();
        command.build();
        leaves(&command, "nightkeep", &mut found);
        found
    }

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_verb_has_a_description_and_an_example_of_itself() {
        let all = all();
        assert!(all.len() > 20);
        for (words, mut command) in all {
            assert!(command.get_about().is_some(), "{words} has no description");
            let help = command.render_long_help().to_string();
            let (_, examples) = help.split_once("EXAMPLES").unwrap_or_else(|| panic!("{words} has no EXAMPLES"));
            assert!(examples.contains(&words), "the examples of `{words}` do not show it");
        }
    }

    /// Every line of every EXAMPLES section that calls nightkeep is one that it accepts.
    #[test]
    fn every_example_parses() {
        let mut count = 0;
        let mut helps: Vec<String> = all().iter_mut().map(|(_, c)| c.render_long_help().to_string()).collect();
        helps.push(Cli::command().render_long_help().to_string());
        for help in helps {
            let (_, examples) = help.split_once("EXAMPLES").unwrap();
            for line in examples.lines().filter(|line| line.trim_start().starts_with("nightkeep ")) {
                let line = line.split(" | ").next().unwrap().split(" > ").next().unwrap();
                let words: Vec<String> = line.split_whitespace().map(|word| word.replace('\'', "")).collect();
                if let Err(error) = Cli::try_parse_from(&words) {
                    panic!("`{line}`: {error}");
                }
                count += 1;
            }
        }
        assert!(count > 30, "{count}");
    }

    #[test]
    fn no_help_is_wider_than_a_wide_terminal() {
        for (words, mut command) in all() {
            for line in command.render_long_help().to_string().lines() {
                assert!(line.chars().count() <= 120, "{words}: {line}");
            }
        }
        assert!(AFTER.lines().all(|line| line.chars().count() <= 120));
    }

    #[test]
    fn global_options_stand_before_and_after_the_verb() {
        for words in [
            ["nightkeep", "-r", "/r", "--json", "snapshots", "--latest", "1"],
            ["nightkeep", "snapshots", "-r", "/r", "--json", "--latest", "1"],
        ] {
            let cli = Cli::try_parse_from(words).unwrap();
            assert_eq!(cli.flags.repository.as_deref(), Some(std::ffi::OsStr::new("/r")));
            assert!(cli.flags.json);
        }
        let cli = Cli::try_parse_from(["nightkeep", "key", "list", "--lock-wait", "30s", "-vv"]).unwrap();
        assert_eq!(cli.flags.lock_wait, Some(std::time::Duration::from_secs(30)));
        assert_eq!(cli.flags.verbose, 2);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for words in [
            "",
            "snapshots -q -v",
            "snapshots --password-file a --password-command b",
            "snapshots --lock-wait soon",
            "backup files",
            "backup command --name x",
            "backup command --name x ls",
            "backup command -- ls",
            "backup stdin",
            "forget --keep-daily -1",
            "forget --keep-daily x",
            "check --read-data --read-data-subset 1/2",
            "check --read-data-subset 3/2",
            "restore files abcd",
            "prune --grace x",
            "key",
        ] {
            let words = std::iter::once("nightkeep").chain(words.split_whitespace());
            assert!(Cli::try_parse_from(words.clone()).is_err(), "{:?}", words.collect::<Vec<_>>());
        }
    }
}
