//! Directories for those who come back to a place in them: the leaves in order, one leaf, many nodes at once.

use super::tree::Step;
use super::{Reader, damaged};
use crate::error::Result;
use crate::id::Reference;
use crate::record::Kind;
use crate::tree::{Entry, Tree};
use std::sync::Arc;

/// A leaf of a directory, decoded. Never an inner node.
#[derive(Clone)]
pub struct Leaf {
    node: Arc<Tree>,
}

impl Leaf {
    pub fn entries(&self) -> &[Entry] {
        match &*self.node {
            Tree::Leaf(entries) => entries,
            Tree::Inner { .. } => &[],
        }
    }
}

/// The leaves of a directory in order, each with the name that its parent says it begins with (none if the directory is
/// one leaf).
pub struct Leaves {
    pub links: Vec<(Option<Vec<u8>>, Reference)>,
}

/// An entry and where it stands.
pub struct Found {
    pub link: Reference,
    pub leaf: Leaf,
    pub position: usize,
}

impl Reader {
    /// Reads the inner nodes only.
    pub fn leaves(&self, tree: Reference) -> Result<Leaves> {
        let node = self.tree(tree)?;
        let Tree::Inner { .. } = &*node else { return Ok(Leaves { links: vec![(None, tree)] }) };
        let mut links: Vec<(Option<Vec<u8>>, Reference)> = Vec::new();
        let mut path = vec![Step { link: tree, node, next: 0 }];
        while let Some(step) = path.last_mut() {
            let Tree::Inner { level, children } = &*step.node else { break };
            let Some((name, link)) = children.get(step.next) else {
                path.pop();
                continue;
            };
            step.next += 1;
            if *level > 1 {
                let (link, node) = (*link, self.child(*link, *level, name)?);
                path.push(Step { link, node, next: 0 });
            } else if links.last().is_some_and(|(last, _)| last.as_ref() >= Some(name)) {
                return Err(damaged(step.link.id, "its names do not follow those before it"));
            } else {
                links.push((Some(name.clone()), *link));
            }
        }
        Ok(Leaves { links })
    }

    /// The leaf at `at`, as its parent and its neighbour announce it; none after the last.
    pub fn leaf_of(&self, leaves: &Leaves, at: usize) -> Result<Option<(Reference, Leaf)>> {
        let Some((first, link)) = leaves.links.get(at) else { return Ok(None) };
        let leaf = self.leaf(*link)?;
        let entries = leaf.entries();
        if first.is_some() && entries.first().map(|entry| &entry.name) != first.as_ref() {
            return Err(damaged(link.id, "it does not begin with the name that its parent announces"));
        }
        let next = leaves.links.get(at + 1).and_then(|(next, _)| next.as_ref());
        if next.is_some() && entries.last().map(|entry| &entry.name) >= next {
            return Err(damaged(link.id, "its names do not end before those after it"));
        }
        Ok(Some((*link, leaf)))
    }

    /// A leaf that was found before.
    pub fn leaf(&self, link: Reference) -> Result<Leaf> {
        let node = self.tree(link)?;
        match &*node {
            Tree::Leaf(_) => Ok(Leaf { node }),
            Tree::Inner { .. } => Err(damaged(link.id, "an inner node where a leaf should be")),
        }
    }

    /// Finds one name and its place: reads one node per level.
    pub fn find(&self, tree: Reference, name: &[u8]) -> Result<Option<Found>> {
        let (mut link, mut node) = (tree, self.tree(tree)?);
        loop {
            let child = match &*node {
                Tree::Leaf(entries) => {
                    let at = entries.binary_search_by(|entry| entry.name.as_slice().cmp(name));
                    return Ok(at.ok().map(|position| Found { link, leaf: Leaf { node }, position }));
                }
                Tree::Inner { level, children } => {
                    let after = children.partition_point(|(first, _)| first.as_slice() <= name);
                    let Some((first, below)) = after.checked_sub(1).and_then(|at| children.get(at)) else {
                        return Ok(None);
                    };
                    link = *below;
                    self.child(link, *level, first)?
                }
            };
            node = child;
        }
    }

    /// Brings nodes into the cache with as few requests to the store as their places allow. What fails here fails again for
    /// whoever needs it.
    pub fn prefetch(&self, kind: Kind, links: &[Reference]) -> Result<()> {
        let missing = self.uncached_nodes(links);
        let ids: Vec<_> = missing.iter().map(|link| link.id).collect();
        for group in self.store.arrange(&ids)? {
            let links: Vec<Reference> = group.iter().filter_map(|at| missing.get(*at)).copied().collect();
            let ids: Vec<_> = links.iter().map(|link| link.id).collect();
            for (link, record) in links.into_iter().zip(self.read(&ids)?) {
                let _ = self.keep_node(link, record, kind);
            }
        }
        Ok(())
    }
}
