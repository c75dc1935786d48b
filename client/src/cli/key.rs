//! `key`: the ways into a repository.

use super::Exit;
use super::console::Console;
use super::table::Table;
use crate::clock;
use crate::error::{Error, Result};
use crate::names;
use crate::session::{self, Purpose, Session};
use crate::session_files;
use chunkstore::id::SlotId;
use chunkstore::key::{self, SlotKind};
use serde_json::json;
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

const EXAMPLES_LIST: &str = "\
EXAMPLES
  nightkeep key list";

const EXAMPLES_ADD: &str = "\
EXAMPLES
  nightkeep key add --label ada
  nightkeep key add --label cron --new-password-file /root/.nightkeep-new
  nightkeep key add --recovery";

const EXAMPLES_REMOVE: &str = "\
Removing a key closes its way in. It does not take back what somebody has read or copied with it.

EXAMPLES
  nightkeep key remove 1a2b3c4d";

const EXAMPLES_PASSWD: &str = "\
EXAMPLES
  nightkeep key passwd
  nightkeep key passwd --new-password-file /root/.nightkeep-new";

const EXAMPLES_RECOVER: &str = "\
Passphrases that were set before keep working: `nightkeep key list` shows them, `nightkeep key remove` removes them.

EXAMPLES
  nightkeep key recover
  nightkeep key recover --recovery-key-file /mnt/usb/recovery --new-password-file /root/.nightkeep";

const EXAMPLES_EXPORT: &str = "\
Give the file to --password-file on machines that are to back up and not to read.

EXAMPLES
  nightkeep key export /root/www.nkw
  nightkeep key export > www.nkw";

/// List, add, remove, change and export keys of the repository
#[derive(clap::Args, Debug)]
pub struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(clap::Subcommand, Debug)]
enum Verb {
    /// List the keys that open the repository
    #[command(after_help = EXAMPLES_LIST)]
    List,
    Add(Add),
    Remove(Remove),
    Passwd(Passwd),
    Recover(Recover),
    Export(Export),
}

/// Add a passphrase, or another recovery key
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES_ADD)]
struct Add {
    /// Whose or what for it is: shown by `key list`
    #[arg(long, value_name = "TEXT", default_value = "", conflicts_with = "recovery")]
    label: String,
    /// Read the new passphrase from a file instead of asking for it
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath, conflicts_with = "recovery")]
    new_password_file: Option<PathBuf>,
    /// Make another recovery key, and print it
    #[arg(long)]
    recovery: bool,
}

/// Remove a key; the last one stays
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES_REMOVE)]
struct Remove {
    /// The first digits of its id, at least four
    #[arg(value_name = "ID")]
    id: String,
}

/// Change the passphrase that is presented
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES_PASSWD)]
struct Passwd {
    /// Read the new passphrase from a file instead of asking for it
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    new_password_file: Option<PathBuf>,
}

/// Set a new passphrase with the recovery key, when the passphrase is lost
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES_RECOVER)]
struct Recover {
    /// Read the recovery key from a file instead of asking for it
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    recovery_key_file: Option<PathBuf>,
    /// Read the new passphrase from a file instead of asking for it
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    new_password_file: Option<PathBuf>,
}

/// Export a key that can write backups and read none
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES_EXPORT)]
struct Export {
    /// A new file to write it to; standard output without
    #[arg(value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    file: Option<PathBuf>,
}

pub fn run(console: &Console, arguments: &Arguments) -> Result<Exit> {
    match &arguments.verb {
        Verb::List => list(console),
        Verb::Add(arguments) => add(console, arguments),
        Verb::Remove(arguments) => remove(console, &arguments.id),
        Verb::Passwd(arguments) => passwd(console, arguments),
        Verb::Recover(arguments) => recover(console, arguments),
        Verb::Export(arguments) => export(console, arguments),
    }
}

fn list(console: &Console) -> Result<Exit> {
    let session::Located { objects: backend, configuration, .. } = session::locate(&console.settings)?;
    let mut table = Table::new(&[("ID", false), ("KIND", false), ("CREATED", false), ("LABEL", false)]);
    let zone = clock::zone();
    let mut problems = 0;
    for (id, slot) in key::list(&*backend, &configuration)? {
        match slot {
            Ok(slot) if console.json() => console.object(&json!({
                "message_type": "key",
                "id": id.hex(),
                "kind": kind(slot.kind),
                "created": clock::rfc3339(slot.created),
                "label": slot.label,
            }))?,
            Ok(slot) => table.row(vec![
                id.short(),
                kind(slot.kind).into(),
                clock::local(slot.created, &zone),
                names::shown(slot.label.as_bytes()),
            ]),
            Err(error) => {
                problems += 1;
                console.problem(format!("key {}", id.short()).as_bytes(), &error.to_string());
            }
        }
    }
    if !console.json() {
        console.table(&table)?;
    }
    Ok(Exit::with_problems(problems))
}

fn kind(kind: SlotKind) -> &'static str {
    match kind {
        SlotKind::Passphrase => "passphrase",
        SlotKind::Recovery => "recovery",
    }
}

fn add(console: &Console, arguments: &Add) -> Result<Exit> {
    let session = console.open("key add", Purpose::Write)?;
    if !arguments.recovery {
        let passphrase = console.new_passphrase(arguments.new_password_file.as_deref())?;
        let id = add_passphrase(&session, &passphrase, &arguments.label)?;
        return told(console, id, "Added passphrase");
    }
    let (backend, configuration) = (&*session.objects, session.configuration());
    let (id, text) = key::add_recovery(backend, configuration, &session.keys, clock::now())?;
    if console.json() {
        console.object(&json!({"message_type": "summary", "id": id.hex(), "recovery_key": text.as_str()}))?;
    } else {
        console.print(&format!("Recovery key: {}", *text))?;
        console
            .say(&format!("It is key {}. Write it down and keep it elsewhere: it is shown only now.", id.short()))?;
    }
    Ok(Exit::Done)
}

fn remove(console: &Console, prefix: &str) -> Result<Exit> {
    let session = console.open("key remove", Purpose::Write)?;
    let (backend, configuration) = (&*session.objects, session.configuration());
    let id = choose(prefix, key::list(backend, configuration)?.into_iter().map(|(id, _)| id))?;
    key::remove(backend, configuration, id)?;
    told(console, id, "Removed")
}

/// The slot whose id begins so.
fn choose(prefix: &str, ids: impl Iterator<Item = SlotId>) -> Result<SlotId> {
    let what = || format!("key `{prefix}`");
    if prefix.len() < 4 || !prefix.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(Error::argument(what(), "expected at least four digits of its id; `nightkeep key list` shows it"));
    }
    let found: Vec<SlotId> = ids.filter(|id| id.hex().starts_with(&prefix.to_ascii_lowercase())).collect();
    match found.as_slice() {
        [id] => Ok(*id),
        [] => Err(Error::argument(what(), "there is none; `nightkeep key list` shows what there is")),
        _ => Err(Error::Ambiguous { wanted: prefix.to_owned(), candidates: found.iter().map(SlotId::hex).collect() }),
    }
}

/// The new slot is durable before the old one goes.
fn passwd(console: &Console, arguments: &Passwd) -> Result<Exit> {
    let session = console.open("key passwd", Purpose::Write)?;
    let (backend, configuration) = (&*session.objects, session.configuration());
    let old = key::list(backend, configuration)?.into_iter().find_map(|(id, slot)| {
        let slot = slot.ok()?;
        (Some(id) == session.slot && slot.kind == SlotKind::Passphrase).then_some(slot)
    });
    let Some(old) = old else {
        let reason = "present the passphrase to change; with the recovery key, use `nightkeep key recover`";
        return Err(Error::argument("key passwd", reason));
    };
    let passphrase = console.new_passphrase(arguments.new_password_file.as_deref())?;
    let id = add_passphrase(&session, &passphrase, &old.label)?;
    key::remove(backend, configuration, old.id)?;
    told(console, id, "Changed the passphrase; it is now")
}

fn recover(console: &Console, arguments: &Recover) -> Result<Exit> {
    let credential = |place: &str| console.recovery_key(place, arguments.recovery_key_file.as_deref());
    let session = Session::open(&console.settings, "key recover", Purpose::Write, &credential)?;
    let passphrase = console.new_passphrase(arguments.new_password_file.as_deref())?;
    let id = add_passphrase(&session, &passphrase, "recovered")?;
    told(console, id, "Added passphrase")
}

fn add_passphrase(session: &Session, passphrase: &Zeroizing<Vec<u8>>, label: &str) -> Result<SlotId> {
    let (backend, configuration) = (&*session.objects, session.configuration());
    let (now, hardness) = (clock::now(), session::hardness());
    Ok(key::add_passphrase(backend, configuration, &session.keys, passphrase, label, now, hardness)?)
}

fn told(console: &Console, id: SlotId, what: &str) -> Result<Exit> {
    console.outcome(&json!({"message_type": "summary", "id": id.hex()}))?;
    console.say(&format!("{what} key {}.", id.short()))?;
    Ok(Exit::Done)
}

fn export(console: &Console, arguments: &Export) -> Result<Exit> {
    let session = console.open("key export", Purpose::Read)?;
    let text = session.keys.write.to_text();
    match &arguments.file {
        Some(file) => write(console, file, &text),
        None if console.json() => {
            console.object(&json!({"message_type": "summary", "write_key": text.as_str()}))?;
            Ok(Exit::Done)
        }
        None => console.print(&text).map(|()| Exit::Done),
    }
}

fn write(console: &Console, file: &Path, text: &str) -> Result<Exit> {
    session_files::write_private(file, Zeroizing::new(format!("{text}\n")).as_bytes())?;
    let shown = file.display().to_string();
    console.outcome(&json!({"message_type": "summary", "file": shown}))?;
    console.say(&format!("Wrote a write-only key to {shown}."))?;
    Ok(Exit::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_chosen_by_prefix() {
        let ids = || [SlotId([0xab; 8]), SlotId([0xac; 8]), SlotId([0x12; 8])].into_iter();
        assert_eq!(choose("abAB", ids()).unwrap(), SlotId([0xab; 8]));
        assert!(choose("abab", std::iter::empty()).is_err());
        assert!(choose("aba", ids()).is_err());
        assert!(choose("zzzz", ids()).is_err());
        assert!(matches!(choose("1212", [SlotId([0x12; 8]); 2].into_iter()), Err(Error::Ambiguous { .. })));
    }
}
