//! Through the trees of a snapshot, one directory after another, without recursion: what a repository holds may be deep.

use crate::error::Result;
use crate::names;
use chunkstore::id::Reference;
use chunkstore::reader::Reader;
use chunkstore::tree::{Entry, Node};
use std::ops::ControlFlow;

/// Visits all below `tree`, each directory's entries before those of its subdirectories. `visit` says whether to enter a
/// directory. A directory that cannot be read is handed to `problem` and the walk goes on.
pub fn walk(
    reader: &Reader,
    tree: Reference,
    path: Vec<u8>,
    visit: &mut dyn FnMut(&[u8], &Entry) -> Result<bool>,
    problem: &mut dyn FnMut(&[u8], &chunkstore::Error),
) -> Result<()> {
    let mut pending = vec![(path, tree)];
    while let Some((directory, tree)) = pending.pop() {
        let first = pending.len();
        let mut failed = None;
        let read = reader.entries(tree, &mut |entry| {
            let path = names::join(&directory, &entry.name);
            match visit(&path, &entry) {
                Ok(enter) => {
                    if let (true, Node::Directory(tree)) = (enter, &entry.node) {
                        pending.push((path, *tree));
                    }
                    Ok(ControlFlow::Continue(()))
                }
                Err(error) => {
                    failed = Some(error);
                    Ok(ControlFlow::Break(()))
                }
            }
        });
        if let Some(error) = failed {
            return Err(error);
        }
        match read {
            Err(error) if error.is_damage() => problem(&directory, &error),
            other => other?,
        }
        // The first of them is taken next.
        if let Some(added) = pending.get_mut(first..) {
            added.reverse();
        }
    }
    Ok(())
}

/// `/` for the root, else the path as it was given.
pub fn or_root(path: &[u8]) -> &[u8] {
    if path.is_empty() { b"/" } else { path }
}
