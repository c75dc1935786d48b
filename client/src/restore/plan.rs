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

#[cfg(test)]
mod tests {
    use super::super::fixture::attributes;
    use super::*;
    use chunkstore::tree::{Content, HardLink};
    use rustix::fs::Mode;

    fn existing(path: &std::path::Path) -> Existing {
        let link_target = std::fs::read_link(path).ok().map(|to| to.into_os_string().into_encoded_bytes());
        Existing { stat: fs::lstat(path).unwrap(), link_target }
    }

    #[test]
    fn each_type_over_each_type() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name| dir.path().join(name);
        std::fs::write(path("file"), "12345").unwrap();
        std::os::unix::fs::symlink("there", path("symlink")).unwrap();
        std::fs::create_dir(path("directory")).unwrap();
        fs::mknodat(fs::CWD, path("fifo"), FileType::Fifo, Mode::RUSR, 0).unwrap();
        let nodes = [
            ("file", Node::File(Content::Inline(b"54321".to_vec()))),
            ("symlink", Node::Symlink(b"there".to_vec())),
            ("fifo", Node::Fifo),
            ("other symlink", Node::Symlink(b"elsewhere".to_vec())),
            ("socket", Node::Socket),
        ];
        for (name, node) in nodes {
            let mut entry = Entry { name: b"n".to_vec(), attributes: attributes(0o600), node };
            for there in ["file", "symlink", "directory", "fifo"] {
                let found = existing(&path(there));
                let wanted = match there == name {
                    true if name == "file" => Action::Update,
                    true => Action::Attributes,
                    false => Action::Replace,
                };
                let plan = |overwrite, special| decide(&entry, Some(&found), overwrite, special);
                assert_eq!(plan(Overwrite::Always, true), wanted, "{name} over {there}");
                assert_eq!(plan(Overwrite::IfChanged, false), wanted, "{name} over {there}");
                assert_eq!(plan(Overwrite::Never, true), Action::Leave, "{name} over {there}");
            }
            assert_eq!(decide(&entry, None, Overwrite::Never, true), Action::Create);
            if name == "file" {
                let found = existing(&path("file"));
                entry.attributes.modified = modified(&found.stat);
                assert_eq!(decide(&entry, Some(&found), Overwrite::IfChanged, true), Action::Attributes);
                assert_eq!(decide(&entry, Some(&found), Overwrite::Always, true), Action::Update);
            }
        }
    }

    #[test]
    fn what_has_other_names_is_shared_or_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, "12345").unwrap();
        std::fs::hard_link(&path, dir.path().join("again")).unwrap();
        let node = Node::File(Content::Inline(b"12345".to_vec()));
        let mut entry = Entry { name: b"n".to_vec(), attributes: attributes(0o600), node };
        let found = existing(&path);
        entry.attributes.modified = modified(&found.stat);
        for overwrite in [Overwrite::Always, Overwrite::IfChanged] {
            entry.attributes.hard_link = None;
            assert_eq!(decide(&entry, Some(&found), overwrite, true), Action::Replace);
            entry.attributes.hard_link = Some(HardLink { device: 1, inode: 1, names: 2 });
            assert_eq!(decide(&entry, Some(&found), overwrite, true), Action::Shared);
        }
    }

    #[test]
    fn devices_are_skipped_unless_wanted() {
        let node = Node::BlockDevice { major: 8, minor: 1 };
        let entry = Entry { name: b"n".to_vec(), attributes: attributes(0o600), node };
        assert_eq!(decide(&entry, None, Overwrite::Always, false), Action::Skip);
        assert_eq!(decide(&entry, None, Overwrite::Always, true), Action::Create);
    }
}
