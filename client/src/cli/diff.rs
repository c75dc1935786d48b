//! `diff`: what changed between two snapshots. Directories that are one tree in both are not read.

use super::Exit;
use super::console::Console;
use super::ls::Found;
use super::walk::or_root;
use crate::clock;
use crate::error::{Error, Result};
use crate::names;
use crate::selection::Selector;
use crate::session::Purpose;
use crate::units::{format_count, format_size};
use chunkstore::id::Reference;
use chunkstore::reader::Reader;
use chunkstore::tree::{Attributes, Entry, Node};
use serde_json::{Map, Value, json};
use std::ffi::OsString;
use std::ops::ControlFlow;

const EXAMPLES: &str = "\
A line is + for what only B has, - for what only A has, M for changed content, U for changed attributes alone (owner, \
permissions, time, extended attributes), T for a changed type.

EXAMPLES
  nightkeep diff etc@2026-11-20 etc
  nightkeep diff 1a2b3c4d:/etc 5e6f7a8b:/etc --json";

/// Show what changed from one snapshot to another
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// The older one
    #[arg(value_name = "A")]
    a: OsString,
    /// The newer one
    #[arg(value_name = "B")]
    b: OsString,
}

pub fn run(console: &Console, arguments: &Arguments) -> Result<Exit> {
    let zone = clock::zone();
    let (a, b) = (Selector::parse(&arguments.a, &zone)?, Selector::parse(&arguments.b, &zone)?);
    let session = console.open("diff", Purpose::Read)?;
    let reader = session.reader()?;
    let history = session.history()?;
    let (a, b) = (Found::find(&a, &history, &reader)?, Found::find(&b, &history, &reader)?);
    // Of two paths, neither is the one of an entry: it is shown from there on.
    let path: &[u8] = if a.path == b.path { &b.path } else { b"" };
    let mut differ = Differ { console, reader: &reader, tally: Tally::default() };
    match (a.directory(), b.directory()) {
        (Some(left), Some(right)) => differ.trees(left, right, path)?,
        _ => match (&a.entry, &b.entry) {
            (Some(left), Some(right)) => differ.pair(&b.path, left, right).map(drop)?,
            _ => return Err(Error::argument("diff", "one is a directory, the other is not")),
        },
    }
    let tally = differ.tally;
    console.outcome(&json!({
        "message_type": "summary",
        "added": tally.added, "removed": tally.removed, "content": tally.content,
        "attributes": tally.attributes, "type": tally.types,
        "added_bytes": tally.added_bytes, "removed_bytes": tally.removed_bytes, "problems": tally.problems,
    }))?;
    console.say(&format!(
        "{} added, {} removed, {} with other content, {} with other attributes, {} of other type; +{} -{}",
        format_count(tally.added),
        format_count(tally.removed),
        format_count(tally.content),
        format_count(tally.attributes),
        format_count(tally.types),
        format_size(tally.added_bytes),
        format_size(tally.removed_bytes),
    ))?;
    Ok(Exit::with_problems(tally.problems))
}

#[derive(Default)]
struct Tally {
    added: u64,
    removed: u64,
    content: u64,
    attributes: u64,
    types: u64,
    added_bytes: u64,
    removed_bytes: u64,
    problems: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Change {
    Added,
    Removed,
    Content,
    Attributes,
    Type,
}

impl Change {
    fn letter(self) -> &'static str {
        match self {
            Change::Added => "+",
            Change::Removed => "-",
            Change::Content => "M",
            Change::Attributes => "U",
            Change::Type => "T",
        }
    }
}

/// A directory of which one side or both are to be looked at.
type Pending = (Vec<u8>, Option<Reference>, Option<Reference>);

struct Differ<'a> {
    console: &'a Console,
    reader: &'a Reader,
    tally: Tally,
}

impl Differ<'_> {
    fn trees(&mut self, left: Reference, right: Reference, path: &[u8]) -> Result<()> {
        let mut pending: Vec<Pending> = vec![(path.to_vec(), Some(left), Some(right))];
        while let Some((path, left, right)) = pending.pop() {
            if left == right {
                continue;
            }
            match self.directory(&path, left, right) {
                Ok(mut below) => {
                    below.reverse();
                    pending.append(&mut below);
                }
                Err(Error::Store(error)) if error.is_damage() => {
                    self.tally.problems += 1;
                    self.console.problem(or_root(&path), &error.to_string());
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn directory(&mut self, path: &[u8], left: Option<Reference>, right: Option<Reference>) -> Result<Vec<Pending>> {
        let mut left = self.entries(left)?.into_iter().peekable();
        let mut right = self.entries(right)?.into_iter().peekable();
        let mut below = Vec::new();
        loop {
            let order = match (left.peek(), right.peek()) {
                (None, None) => return Ok(below),
                (Some(_), None) => std::cmp::Ordering::Less,
                (None, Some(_)) => std::cmp::Ordering::Greater,
                (Some(l), Some(r)) => l.name.cmp(&r.name),
            };
            let l = if order.is_le() { left.next() } else { None };
            let r = if order.is_ge() { right.next() } else { None };
            match (l, r) {
                (Some(l), Some(r)) => {
                    let path = names::join(path, &r.name);
                    below.extend(self.pair(&path, &l, &r)?.map(|(l, r)| (path, l, r)));
                }
                (Some(l), None) => {
                    let path = names::join(path, &l.name);
                    self.tell(Change::Removed, &path, &l, None)?;
                    below.extend(tree(&l).map(|tree| (path, Some(tree), None)));
                }
                (None, Some(r)) => {
                    let path = names::join(path, &r.name);
                    self.tell(Change::Added, &path, &r, None)?;
                    below.extend(tree(&r).map(|tree| (path, None, Some(tree))));
                }
                (None, None) => return Ok(below),
            }
        }
    }

    /// Two entries of one name; what of them remains to be looked into.
    fn pair(
        &mut self,
        path: &[u8],
        left: &Entry,
        right: &Entry,
    ) -> Result<Option<(Option<Reference>, Option<Reference>)>> {
        if let Some(change) = change(left, right) {
            self.tell(change, path, right, Some(left))?;
        }
        let (left, right) = (tree(left), tree(right));
        Ok((left.is_some() || right.is_some()).then_some((left, right)))
    }

    fn entries(&self, tree: Option<Reference>) -> Result<Vec<Entry>> {
        let mut entries = Vec::new();
        if let Some(tree) = tree {
            self.reader.entries(tree, &mut |entry| {
                entries.push(entry);
                Ok(ControlFlow::Continue(()))
            })?;
        }
        Ok(entries)
    }

    fn tell(&mut self, change: Change, path: &[u8], entry: &Entry, before: Option<&Entry>) -> Result<()> {
        let tally = &mut self.tally;
        *match change {
            Change::Added => &mut tally.added,
            Change::Removed => &mut tally.removed,
            Change::Content => &mut tally.content,
            Change::Attributes => &mut tally.attributes,
            Change::Type => &mut tally.types,
        } += 1;
        match change {
            Change::Removed => tally.removed_bytes += size(entry),
            Change::Attributes => {}
            Change::Added | Change::Content | Change::Type => {
                tally.added_bytes += size(entry);
                tally.removed_bytes += before.map_or(0, size);
            }
        }
        if !self.console.json() {
            let slash = if matches!(entry.node, Node::Directory(_)) { "/" } else { "" };
            return self.console.print(&format!("{} {}{slash}", change.letter(), names::shown(path)));
        }
        let mut object = Map::new();
        object.insert("message_type".into(), "change".into());
        object.insert("modifier".into(), change.letter().into());
        names::insert(&mut object, "path", path);
        self.console.object(&Value::Object(object))
    }
}

/// A directory's content is told by what lies in it.
fn change(left: &Entry, right: &Entry) -> Option<Change> {
    if std::mem::discriminant(&left.node) != std::mem::discriminant(&right.node) {
        return Some(Change::Type);
    }
    let is_same = match (&left.node, &right.node) {
        (Node::File(left), Node::File(right)) => left.is_same(right),
        (left, right) => matches!(left, Node::Directory(_)) || left == right,
    };
    if !is_same {
        return Some(Change::Content);
    }
    (significant(&left.attributes) != significant(&right.attributes)).then_some(Change::Attributes)
}

/// Which other names a file has says nothing about this one.
fn significant(attributes: &Attributes) -> Attributes {
    Attributes { hard_link: None, ..attributes.clone() }
}

fn tree(entry: &Entry) -> Option<Reference> {
    match &entry.node {
        Node::Directory(tree) => Some(*tree),
        _ => None,
    }
}

fn size(entry: &Entry) -> u64 {
    match &entry.node {
        Node::File(content) => content.size(),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chunkstore::tree::{Content, HardLink};

    fn entry(node: Node) -> Entry {
        Entry { name: b"x".to_vec(), attributes: Attributes::default(), node }
    }

    fn file(content: &[u8]) -> Entry {
        entry(Node::File(Content::Inline(content.to_vec())))
    }

    #[test]
    fn changes_are_told_apart() {
        assert_eq!(change(&file(b"a"), &file(b"a")), None);
        assert_eq!(change(&file(b"a"), &file(b"b")), Some(Change::Content));
        assert_eq!(change(&file(b"a"), &entry(Node::Fifo)), Some(Change::Type));
        assert_eq!(
            change(&entry(Node::Symlink(b"a".to_vec())), &entry(Node::Symlink(b"b".to_vec()))),
            Some(Change::Content)
        );
        let mut touched = file(b"a");
        touched.attributes.mode = 0o600;
        assert_eq!(change(&file(b"a"), &touched), Some(Change::Attributes));
        let mut linked = file(b"a");
        linked.attributes.hard_link = Some(HardLink { device: 1, inode: 2, names: 2 });
        assert_eq!(change(&file(b"a"), &linked), None);
    }
}
