//! `tag`: a snapshot's tags.

use super::Exit;
use super::backup::label;
use super::console::Console;
use crate::clock;
use crate::error::{Error, Result};
use crate::names;
use crate::selection::{Among, Selector};
use crate::session::Purpose;
use chunkstore::mark::Action;
use serde_json::json;
use std::ffi::OsString;

const EXAMPLES: &str = "\
Global options stand before the tags.

EXAMPLES
  nightkeep tag 1a2b3c4d +release -nightly
  nightkeep tag www/files/etc +before-upgrade
  nightkeep tag 1a2b3c4d";

/// Add (+T) and remove (-T) tags of a snapshot, or show them
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// Which snapshot
    #[arg(value_name = "SNAPSHOT")]
    snapshot: OsString,
    /// Tags to add and remove
    #[arg(value_name = "+T|-T", value_parser = change, allow_hyphen_values = true, trailing_var_arg = true)]
    changes: Vec<Action>,
}

pub fn run(console: &Console, arguments: &Arguments) -> Result<Exit> {
    let selector = Selector::parse(&arguments.snapshot, &clock::zone())?;
    let purpose = if arguments.changes.is_empty() { Purpose::Read } else { Purpose::Write };
    let session = console.open("tag", purpose)?;
    let mut history = session.history()?;
    let version = selector.resolve(&history, Among::Present)?.clone();
    let mut labels = version.state.labels.clone();
    for change in &arguments.changes {
        let changed = match change {
            Action::AddLabel(label) => labels.insert(label.clone()),
            Action::RemoveLabel(label) if labels.remove(label) => true,
            Action::RemoveLabel(label) => {
                let what = format!("snapshot {}", version.id.short());
                return Err(Error::argument(what, format!("it has no tag `{}`", names::shown(label.as_bytes()))));
            }
            _ => false,
        };
        if changed {
            history.mark(session.store(), &session.keys.write, version.id, change.clone())?;
        }
    }
    if console.json() {
        console.object(&json!({"message_type": "summary", "snapshot": version.id.hex(), "tags": labels}))?;
    } else if arguments.changes.is_empty() {
        labels.iter().try_for_each(|label| console.print(&names::shown(label.as_bytes())))?;
    } else {
        let all: Vec<String> = labels.iter().map(|label| names::shown(label.as_bytes())).collect();
        let all = if all.is_empty() { "none".into() } else { all.join(", ") };
        console.say(&format!("Tags of snapshot {} of {}: {all}", version.id.short(), version.summary().dataset))?;
    }
    Ok(Exit::Done)
}

fn change(text: &str) -> std::result::Result<Action, String> {
    match (text.strip_prefix('+'), text.strip_prefix('-')) {
        (Some(added), _) => label(added).map(Action::AddLabel),
        (_, Some(removed)) => label(removed).map(Action::RemoveLabel),
        _ => Err("expected +TAG or -TAG".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::arguments::{Cli, Verb};
    use super::*;
    use clap::Parser;

    fn changes(words: &[&str]) -> Option<Vec<Action>> {
        let cli = Cli::try_parse_from(["nightkeep", "tag", "abcd"].iter().chain(words)).ok()?;
        match cli.verb {
            Verb::Tag(arguments) => Some(arguments.changes),
            _ => None,
        }
    }

    #[test]
    fn tags_to_add_and_remove() {
        let add = |text: &str| Action::AddLabel(text.into());
        let remove = |text: &str| Action::RemoveLabel(text.into());
        assert_eq!(changes(&[]), Some(vec![]));
        assert_eq!(changes(&["+a", "-b", "+c"]), Some(vec![add("a"), remove("b"), add("c")]));
        assert_eq!(changes(&["-nightly", "+a"]), Some(vec![remove("nightly"), add("a")]));
        assert_eq!(changes(&["-verified"]), Some(vec![remove("verified")]));
        assert_eq!(changes(&["-quiet"]), Some(vec![remove("quiet")]));
        assert_eq!(changes(&["a"]), None);
        assert_eq!(changes(&["+"]), None);
        assert_eq!(changes(&["+-a"]), None);
        assert_eq!(changes(&["+a\nb"]), None);
    }
}
