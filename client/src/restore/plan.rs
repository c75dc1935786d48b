//! What is to be done about one name: pure, from the entry and what the target holds under its name.

use super::Overwrite;
use crate::metadata::apply::modified;
use chunkstore::tree::{Entry, Node};
use rustix::fs::{self, FileType, Stat};

/// What the target holds under a name.
pub struct Existing {
    pub stat: Stat,
    /// Of a symlink: where it points.
    pub link_target: Option<Vec<u8>>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// Nothing is there.
    Create,
    /// Something else is there and goes first.
    Replace,
    /// A regular file of a single name: compare the content, write what differs, then the attributes.
    Update,
    /// What cannot be changed in place is right: only the attributes may differ.
    Attributes,
    /// It has other names, perhaps outside the target. It may stay if all of it is right, and is replaced otherwise.
    Shared,
    /// It stays as it is.
    Leave,
    /// It is not restored at all.
    Skip,
}

/// The plan for anything but a directory.
pub fn decide(entry: &Entry, existing: Option<&Existing>, overwrite: Overwrite, special: bool) -> Action {
    let is_device = matches!(entry.node, Node::CharacterDevice { .. } | Node::BlockDevice { .. });
    if is_device && !special {
        return Action::Skip;
    }
    let Some(existing) = existing else { return Action::Create };
    if overwrite == Overwrite::Never {
        return Action::Leave;
    }
    let found = FileType::from_raw_mode(existing.stat.st_mode);
    if found != kind(&entry.node) || !is_equal_node(&entry.node, existing) {
        return Action::Replace;
    }
    if existing.stat.st_nlink > 1 {
        return if entry.attributes.hard_link.is_some() { Action::Shared } else { Action::Replace };
    }
    match &entry.node {
        Node::File(_) if overwrite == Overwrite::IfChanged && is_unchanged(entry, &existing.stat) => Action::Attributes,
        Node::File(_) => Action::Update,
        _ => Action::Attributes,
    }
}

/// Size and modification time agree.
pub fn is_unchanged(entry: &Entry, stat: &Stat) -> bool {
    let size = match &entry.node {
        Node::File(content) => content.size(),
        _ => 0,
    };
    u64::try_from(stat.st_size) == Ok(size) && modified(stat) == entry.attributes.modified
}

pub fn kind(node: &Node) -> FileType {
    match node {
        Node::File(_) => FileType::RegularFile,
        Node::Directory(_) => FileType::Directory,
        Node::Symlink(_) => FileType::Symlink,
        Node::Fifo => FileType::Fifo,
        Node::Socket => FileType::Socket,
        Node::CharacterDevice { .. } => FileType::CharacterDevice,
        Node::BlockDevice { .. } => FileType::BlockDevice,
    }
}

/// Of what no change in place exists for: the same symlink, the same device.
fn is_equal_node(node: &Node, existing: &Existing) -> bool {
    match node {
        Node::Symlink(target) => existing.link_target.as_ref() == Some(target),
        Node::CharacterDevice { major, minor } | Node::BlockDevice { major, minor } => {
            existing.stat.st_rdev == fs::makedev(*major, *minor)
        }
        _ => true,
    }
}
