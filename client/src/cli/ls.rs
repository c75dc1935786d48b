//! `ls`: what a snapshot holds.

use super::Exit;
use super::console::Console;
use super::walk::{or_root, walk};
use crate::clock;
use crate::error::{Error, Result};
use crate::history::{History, Version};
use crate::names;
use crate::restore::Selection;
use crate::selection::{Among, Selector};
use crate::session::Purpose;
use chunkstore::id::Reference;
use chunkstore::reader::Reader;
use chunkstore::tree::{Entry, Node};
use jiff::tz::TimeZone;
use serde_json::{Map, Value};
use std::ffi::OsString;

const EXAMPLES: &str = "\
Names with control characters, or that are not UTF-8, are shown with escapes as by `ls -b`. With --json each line is an \
object of message_type `entry`; a path that is not UTF-8 has its exact bytes in path_base64.

EXAMPLES
  nightkeep ls etc
  nightkeep ls -l 1a2b3c4d:/etc/ssh
  nightkeep ls -R www/files/home@2026-11-20:/home/ada";

/// List what a snapshot, or a directory in it, holds
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// Which snapshot, and which directory or file in it
    #[arg(value_name = "SNAPSHOT[:PATH]")]
    snapshot: OsString,
    /// Show type, permissions, owner, size and time
    #[arg(short, long)]
    long: bool,
    /// Show all that lies below, too
    #[arg(short = 'R', long)]
    recursive: bool,
}

pub fn run(console: &Console, arguments: &Arguments) -> Result<Exit> {
    let selector = Selector::parse(&arguments.snapshot, &clock::zone())?;
    let session = console.open("ls", Purpose::Read)?;
    let reader = session.reader()?;
    let history = session.history()?;
    let found = Found::find(&selector, &history, &reader)?;
    let lister = Lister { console, long: arguments.long, whole_path: arguments.recursive, zone: clock::zone() };
    let mut problems = 0;
    match found.directory() {
        None => {
            if let Some(entry) = &found.entry {
                lister.show(&found.path, entry)?;
            }
        }
        Some(tree) => walk(
            &reader,
            tree,
            found.path.clone(),
            &mut |path, entry| lister.show(path, entry).map(|()| arguments.recursive),
            &mut |path, error| {
                problems += 1;
                console.problem(or_root(path), &error.to_string());
            },
        )?,
    }
    Ok(Exit::with_problems(problems))
}

/// What SNAPSHOT[:PATH] leads to.
pub struct Found<'h> {
    pub version: &'h Version,
    /// Empty, or with a leading slash.
    pub path: Vec<u8>,
    /// None for the whole snapshot.
    pub entry: Option<Box<Entry>>,
}

impl<'h> Found<'h> {
    pub fn find(selector: &Selector, history: &'h History, reader: &Reader) -> Result<Found<'h>> {
        let version = selector.resolve(history, Among::Present)?;
        if selector.path.is_empty() {
            return Ok(Found { version, path: Vec::new(), entry: None });
        }
        let path = names::join(b"", &selector.path);
        match reader.resolve(version.summary().root, &selector.path)? {
            Some(entry) => Ok(Found { version, path, entry: Some(Box::new(entry)) }),
            None => Err(Error::NoSuchPath {
                id: version.id.short(),
                dataset: version.summary().dataset.clone(),
                path: names::shown(&path),
            }),
        }
    }

    pub fn selection(&self) -> Selection {
        match &self.entry {
            None => Selection::Root(self.version.summary().root),
            Some(entry) => Selection::Entry(entry.clone()),
        }
    }

    /// Its tree, if it is one.
    pub fn directory(&self) -> Option<Reference> {
        match self.entry.as_deref() {
            None => Some(self.version.summary().root),
            Some(Entry { node: Node::Directory(tree), .. }) => Some(*tree),
            Some(_) => None,
        }
    }
}

struct Lister<'a> {
    console: &'a Console,
    long: bool,
    whole_path: bool,
    zone: TimeZone,
}

impl Lister<'_> {
    fn show(&self, path: &[u8], entry: &Entry) -> Result<()> {
        if self.console.json() {
            return self.console.object(&object(path, entry));
        }
        let name = names::shown(if self.whole_path { path } else { &entry.name });
        if !self.long {
            return self.console.print(&name);
        }
        self.console.print(&long_line(entry, &name, &self.zone))
    }
}

fn long_line(entry: &Entry, name: &str, zone: &TimeZone) -> String {
    let attributes = &entry.attributes;
    let owner = |name: &[u8], id: u32| if name.is_empty() { id.to_string() } else { names::shown(name) };
    let size = match &entry.node {
        Node::File(content) => content.size().to_string(),
        Node::CharacterDevice { major, minor } | Node::BlockDevice { major, minor } => format!("{major}, {minor}"),
        _ => "-".into(),
    };
    let time = clock::nanoseconds(attributes.modified.seconds, attributes.modified.nanoseconds);
    let target = match &entry.node {
        Node::Symlink(target) => format!(" -> {}", names::shown(target)),
        _ => String::new(),
    };
    format!(
        "{} {:<8} {:<8} {size:>12} {} {name}{target}",
        mode(entry),
        owner(&attributes.user, attributes.uid),
        owner(&attributes.group, attributes.gid),
        clock::local(time, zone),
    )
}

/// `-rwxr-sr-t`, as `ls` has it.
fn mode(entry: &Entry) -> String {
    let kind = match entry.node {
        Node::File(_) => '-',
        Node::Directory(_) => 'd',
        Node::Symlink(_) => 'l',
        Node::Fifo => 'p',
        Node::Socket => 's',
        Node::CharacterDevice { .. } => 'c',
        Node::BlockDevice { .. } => 'b',
    };
    let mode = entry.attributes.mode;
    let mut text = String::from(kind);
    for (shift, special, letter) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
        text.push(if mode >> shift & 4 != 0 { 'r' } else { '-' });
        text.push(if mode >> shift & 2 != 0 { 'w' } else { '-' });
        text.push(match (mode >> shift & 1 != 0, mode & special != 0) {
            (true, true) => letter,
            (false, true) => letter.to_ascii_uppercase(),
            (true, false) => 'x',
            (false, false) => '-',
        });
    }
    text
}

pub fn object(path: &[u8], entry: &Entry) -> Value {
    let attributes = &entry.attributes;
    let mut object = Map::new();
    object.insert("message_type".into(), "entry".into());
    names::insert(&mut object, "path", path);
    object.insert("type".into(), kind(&entry.node).into());
    object.insert("mode".into(), format!("{:04o}", attributes.mode).into());
    object.insert("uid".into(), attributes.uid.into());
    object.insert("gid".into(), attributes.gid.into());
    names::insert(&mut object, "user", &attributes.user);
    names::insert(&mut object, "group", &attributes.group);
    let time = clock::nanoseconds(attributes.modified.seconds, attributes.modified.nanoseconds);
    object.insert("mtime".into(), clock::rfc3339(time).into());
    match &entry.node {
        Node::File(content) => {
            object.insert("size".into(), content.size().into());
        }
        Node::Symlink(target) => names::insert(&mut object, "target", target),
        Node::CharacterDevice { major, minor } | Node::BlockDevice { major, minor } => {
            object.insert("major".into(), (*major).into());
            object.insert("minor".into(), (*minor).into());
        }
        Node::Directory(_) | Node::Fifo | Node::Socket => {}
    }
    Value::Object(object)
}

fn kind(node: &Node) -> &'static str {
    match node {
        Node::File(_) => "file",
        Node::Directory(_) => "directory",
        Node::Symlink(_) => "symlink",
        Node::Fifo => "fifo",
        Node::Socket => "socket",
        Node::CharacterDevice { .. } => "character device",
        Node::BlockDevice { .. } => "block device",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chunkstore::tree::{Attributes, Content, Time};

    fn entry(mode: u32, node: Node) -> Entry {
        let modified = Time { seconds: 0, nanoseconds: 0 };
        Entry { name: b"a\nb".to_vec(), attributes: Attributes { mode, modified, ..Attributes::default() }, node }
    }

    #[test]
    fn modes() {
        let file = || Node::File(Content::Inline(Vec::new()));
        assert_eq!(mode(&entry(0o644, file())), "-rw-r--r--");
        assert_eq!(mode(&entry(0o6755, file())), "-rwsr-sr-x");
        assert_eq!(mode(&entry(0o7644, file())), "-rwSr-Sr-T");
        assert_eq!(mode(&entry(0o1777, Node::Directory(Reference::default()))), "drwxrwxrwt");
        assert_eq!(mode(&entry(0o777, Node::Symlink(b"x".to_vec()))), "lrwxrwxrwx");
    }

    #[test]
    fn long_lines_escape_names_and_targets() {
        let line = long_line(&entry(0o777, Node::Symlink(b"\x1b".to_vec())), "a\\nb", &TimeZone::UTC);
        assert_eq!(line, "lrwxrwxrwx 0        0                   - 1970-01-01 00:00:00 a\\nb -> \\033");
        let line = long_line(&entry(0o600, Node::BlockDevice { major: 8, minor: 1 }), "sda1", &TimeZone::UTC);
        assert!(line.contains("8, 1"));
    }

    #[test]
    fn objects_lose_no_bytes() {
        let object = object(b"/\xff", &entry(0o600, Node::File(Content::Inline(b"abc".to_vec()))));
        assert_eq!(object["path_base64"], "L/8=");
        assert_eq!(object["size"], 3);
        assert_eq!(object["mode"], "0600");
        assert_eq!(object["mtime"], "1970-01-01T00:00:00Z");
    }
}
