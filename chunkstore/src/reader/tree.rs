//! Directories: all entries in order, or one by name.
//!
//! Levels fall strictly from a node to its children, so a walk holds at most one node per level.

use super::{Reader, damaged};
use crate::error::Result;
use crate::id::Reference;
use crate::tree::{Entry, Node, Tree};
use std::ops::ControlFlow;
use std::sync::Arc;

impl Reader {
    /// Visits a directory's entries in order, node by node (memory is bounded by a node of each level).
    pub fn entries(&self, tree: Reference, visit: &mut dyn FnMut(Entry) -> Result<ControlFlow<()>>) -> Result<()> {
        let mut path = vec![Step { link: tree, node: self.tree(tree)?, next: 0 }];
        let mut last_name = Vec::new();
        while let Some(step) = path.last_mut() {
            match &*step.node {
                Tree::Leaf(entries) => {
                    for entry in entries {
                        if last_name >= entry.name {
                            return Err(damaged(step.link.id, "its names do not follow those before it"));
                        }
                        last_name.clone_from(&entry.name);
                        if visit(entry.clone())?.is_break() {
                            return Ok(());
                        }
                    }
                    path.pop();
                }
                Tree::Inner { level, children } => match children.get(step.next) {
                    Some((name, link)) => {
                        step.next += 1;
                        let link = *link;
                        let node = self.child(link, *level, name)?;
                        path.push(Step { link, node, next: 0 });
                    }
                    None => {
                        path.pop();
                    }
                },
            }
        }
        Ok(())
    }

    /// Finds one name: reads one node per level.
    pub fn lookup(&self, tree: Reference, name: &[u8]) -> Result<Option<Entry>> {
        let found = self.find(tree, name)?;
        Ok(found.and_then(|found| found.leaf.entries().get(found.position).cloned()))
    }

    /// Follows components separated by `/`, empty ones left out; `None` if a component does not exist or is no directory,
    /// and for a path of no components, since the root is no entry.
    pub fn resolve(&self, root: Reference, path: &[u8]) -> Result<Option<Entry>> {
        let mut found: Option<Entry> = None;
        for name in path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()) {
            let directory = match found.take().map(|entry| entry.node) {
                None => root,
                Some(Node::Directory(tree)) => tree,
                Some(_) => return Ok(None),
            };
            found = self.lookup(directory, name)?;
            if found.is_none() {
                return Ok(None);
            }
        }
        Ok(found)
    }

    /// A child as its parent, of `level`, announces it.
    pub(super) fn child(&self, link: Reference, level: u8, first_name: &[u8]) -> Result<Arc<Tree>> {
        let child = self.tree(link)?;
        if Some(child.level()) != level.checked_sub(1) {
            return Err(damaged(link.id, format!("a node of level {} below one of level {level}", child.level())));
        }
        if child.first_name() != Some(first_name) {
            return Err(damaged(link.id, "it does not begin with the name that its parent announces"));
        }
        Ok(child)
    }
}

/// A node on the way down, and its child that is next.
pub(super) struct Step {
    pub link: Reference,
    pub node: Arc<Tree>,
    pub next: usize,
}
