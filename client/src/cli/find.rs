//! `find`: which snapshots hold a name.

use super::Exit;
use super::console::Console;
use super::ls;
use super::snapshots::{dataset_glob, matching};
use super::walk::{or_root, walk};
use crate::clock;
use crate::error::Result;
use crate::history::{History, Version};
use crate::names;
use crate::selection::{Among, Selector};
use crate::session::Purpose;
use crate::units::format_size;
use chunkstore::reader::Reader;
use chunkstore::tree::{Entry, Node};
use globset::{GlobBuilder, GlobMatcher};
use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

const EXAMPLES: &str = "\
A GLOB without / is compared with names, one with / with whole paths: from the root if it begins with /, else from any \
directory. * and ? stop at /, ** does not.

EXAMPLES
  nightkeep find '*.odt'
  nightkeep find '/home/*/.ssh/**' --dataset 'www/*'
  nightkeep find Data.fs --snapshot 1a2b3c4d --json";

/// Find files by name in all snapshots, newest first
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// What to look for
    #[arg(value_name = "GLOB", value_parser = Pattern::parse)]
    pattern: Pattern,
    /// Only in datasets that match
    #[arg(long, value_name = "GLOB", value_parser = dataset_glob, conflicts_with = "snapshot")]
    dataset: Option<GlobMatcher>,
    /// Only in this snapshot; may be repeated
    #[arg(long, value_name = "SNAPSHOT")]
    snapshot: Vec<OsString>,
    /// Ignore case
    #[arg(short, long)]
    ignore_case: bool,
}

#[derive(Clone, Debug)]
struct Pattern {
    glob: String,
    whole_path: bool,
}

impl Pattern {
    fn parse(text: &str) -> std::result::Result<Pattern, String> {
        let whole_path = text.contains('/');
        let anywhere = whole_path && !text.starts_with(['/', '*']);
        let pattern = Pattern { glob: if anywhere { format!("**/{text}") } else { text.to_owned() }, whole_path };
        pattern.matcher(false)?;
        Ok(pattern)
    }

    fn matcher(&self, ignore_case: bool) -> std::result::Result<GlobMatcher, String> {
        let mut glob = GlobBuilder::new(&self.glob);
        glob.literal_separator(true).backslash_escape(true).case_insensitive(ignore_case);
        glob.build().map(|glob| glob.compile_matcher()).map_err(|error| error.to_string())
    }
}

pub fn run(console: &Console, arguments: &Arguments) -> Result<Exit> {
    let zone = clock::zone();
    let selectors: Vec<Selector> =
        arguments.snapshot.iter().map(|text| Selector::parse(text, &zone)).collect::<Result<_>>()?;
    let session = console.open("find", Purpose::Read)?;
    let reader = session.reader()?;
    let history = session.history()?;
    let matcher = arguments
        .pattern
        .matcher(arguments.ignore_case)
        .map_err(|reason| crate::error::Error::argument("GLOB", reason))?;
    let mut finder = Finder {
        console,
        reader: &reader,
        matcher,
        whole_path: arguments.pattern.whole_path,
        barren: HashSet::new(),
        problems: 0,
    };
    for version in versions(&history, &selectors, arguments.dataset.as_ref())? {
        finder.search(version)?;
    }
    Ok(Exit::with_problems(finder.problems))
}

/// Newest first.
fn versions<'h>(
    history: &'h History,
    selectors: &[Selector],
    dataset: Option<&GlobMatcher>,
) -> Result<Vec<&'h Version>> {
    if selectors.is_empty() {
        return matching(history.present().rev(), dataset);
    }
    selectors.iter().map(|selector| selector.resolve(history, Among::Present)).collect()
}

struct Finder<'a> {
    console: &'a Console,
    reader: &'a Reader,
    matcher: GlobMatcher,
    whole_path: bool,
    /// Directories below which nothing was found, by tree (and path, where the path decides): snapshots share most.
    barren: HashSet<[u8; 32]>,
    problems: u64,
}

impl Finder<'_> {
    fn search(&mut self, version: &Version) -> Result<()> {
        let mut entered: Vec<(Vec<u8>, [u8; 32])> = Vec::new();
        let mut fruitful: HashSet<Vec<u8>> = HashSet::new();
        let mut headed = false;
        let mut damaged: Vec<Vec<u8>> = Vec::new();
        let (console, matcher, barren, whole_path) = (self.console, &self.matcher, &self.barren, self.whole_path);
        walk(
            self.reader,
            version.summary().root,
            Vec::new(),
            &mut |path, entry| {
                let subject = if whole_path { path } else { &entry.name };
                if matcher.is_match(OsStr::from_bytes(subject)) {
                    if !headed && !console.json() {
                        headed = true;
                        head(console, version)?;
                    }
                    show(console, version, path, entry)?;
                    mark_above(path, &mut fruitful);
                }
                let Node::Directory(tree) = &entry.node else { return Ok(false) };
                let key = key(&tree.id.0, whole_path.then_some(path));
                if barren.contains(&key) {
                    return Ok(false);
                }
                entered.push((path.to_vec(), key));
                Ok(true)
            },
            &mut |path, error| {
                let reason = format!("in snapshot {}: {error}", version.id.short());
                console.problem(or_root(path), &reason);
                damaged.push(path.to_vec());
            },
        )?;
        self.problems += damaged.len() as u64;
        for path in &damaged {
            fruitful.insert(path.clone());
            mark_above(path, &mut fruitful);
        }
        let barren = entered.into_iter().filter(|(path, _)| !fruitful.contains(path));
        self.barren.extend(barren.map(|(_, key)| key));
        Ok(())
    }
}

/// All directories above `path`.
fn mark_above(path: &[u8], marked: &mut HashSet<Vec<u8>>) {
    let mut above = path;
    while let Some(at) = above.iter().rposition(|byte| *byte == b'/') {
        above = above.get(..at).unwrap_or_default();
        if !marked.insert(above.to_vec()) {
            break;
        }
    }
}

fn key(tree: &[u8; 32], path: Option<&[u8]>) -> [u8; 32] {
    match path {
        None => *tree,
        Some(path) => *blake3::Hasher::new().update(tree).update(path).finalize().as_bytes(),
    }
}

fn head(console: &Console, version: &Version) -> Result<()> {
    let summary = version.summary();
    let time = clock::local(summary.time, &clock::zone());
    console.print(&format!("{}  {time}  {}", version.id.short(), names::shown(summary.dataset.as_bytes())))
}

fn show(console: &Console, version: &Version, path: &[u8], entry: &Entry) -> Result<()> {
    if !console.json() {
        let size = match &entry.node {
            Node::File(content) => format_size(content.size()),
            Node::Directory(_) => "directory".into(),
            _ => "-".into(),
        };
        let modified = clock::nanoseconds(entry.attributes.modified.seconds, entry.attributes.modified.nanoseconds);
        let modified = clock::local(modified, &clock::zone());
        return console.print(&format!("  {size:>10}  {modified}  {}", names::shown(path)));
    }
    let mut object = ls::object(path, entry);
    if let Some(object) = object.as_object_mut() {
        object.insert("snapshot".into(), version.id.hex().into());
        object.insert("dataset".into(), version.summary().dataset.clone().into());
        object.insert("time".into(), clock::rfc3339(version.summary().time).into());
    }
    console.object(&object)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_names_or_paths() {
        let matches = |pattern: &str, subject: &str| {
            let pattern = Pattern::parse(pattern).unwrap();
            pattern.matcher(false).unwrap().is_match(subject)
        };
        assert!(!Pattern::parse("*.odt").unwrap().whole_path);
        assert!(matches("*.odt", "thesis.odt"));
        assert!(!matches("*.odt", "thesis.ODT"));
        assert!(Pattern::parse("/home/*/x").unwrap().whole_path);
        assert!(matches("/home/*/x", "/home/ada/x"));
        assert!(!matches("/home/*/x", "/home/ada/b/x"));
        assert!(matches("/home/**/x", "/home/ada/b/x"));
        assert!(matches("**/x/*", "/a/x/y"));
        assert!(matches("x/*", "/a/x/y"));
        assert!(matches("x/*", "/x/y"));
        assert!(!matches("x/*", "/a/xx/y"));
        assert!(Pattern::parse("[").is_err());
        let any_case = Pattern::parse("*.odt").unwrap().matcher(true).unwrap();
        assert!(any_case.is_match("A.ODT"));
        assert!(Pattern::parse("*").unwrap().matcher(false).unwrap().is_match(OsStr::from_bytes(b"\xff")));
    }

    #[test]
    fn directories_above_a_find_are_marked() {
        let mut marked = HashSet::new();
        mark_above(b"/a/b/c", &mut marked);
        let mut marked: Vec<Vec<u8>> = marked.into_iter().collect();
        marked.sort();
        assert_eq!(marked, [b"".to_vec(), b"/a".to_vec(), b"/a/b".to_vec()]);
    }
}
