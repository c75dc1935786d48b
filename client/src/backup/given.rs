//! The paths that are to be saved, merged into one tree of absolute paths.
//!
//! Paths are made absolute by their text alone: `.` and `..` are resolved before any symlink is.

use chunkstore::{Error, Result};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::Read;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// One directory on the way to given paths, or a given path itself.
#[derive(Default, PartialEq, Eq, Debug)]
pub struct Branch {
    /// Given: all of it is saved. If not, nothing but the children.
    pub whole: bool,
    /// What the source stored itself stands here, whatever the file system has: its place in the list of such.
    pub prepared: Option<usize>,
    /// Given paths and ways to them below, by name. Below a whole branch they are named because a given path is saved even
    /// where an exclusion or a mount point would leave it out.
    pub children: BTreeMap<Vec<u8>, Branch>,
}

impl Branch {
    /// The root of the tree, and the absolute paths as they count: sorted, without duplicates.
    pub fn merge(paths: &[PathBuf], current: &Path) -> Result<(Branch, Vec<Vec<u8>>)> {
        let mut root = Branch::default();
        let mut absolute = Vec::new();
        for path in paths {
            let components = components(path, current)?;
            let mut branch = &mut root;
            let mut text = Vec::new();
            for component in &components {
                text.push(b'/');
                text.extend_from_slice(component);
                branch = branch.children.entry(component.clone()).or_default();
            }
            branch.whole = true;
            absolute.push(if text.is_empty() { b"/".to_vec() } else { text });
        }
        absolute.sort();
        absolute.dedup();
        Ok((root, absolute))
    }

    /// Makes a way to what the source stored itself, for an absolute path.
    pub fn prepare(&mut self, path: &[u8], at: usize) -> Result<()> {
        let path = Path::new(OsStr::from_bytes(path));
        let mut branch = self;
        for component in components(path, Path::new("/"))? {
            branch = branch.children.entry(component).or_default();
        }
        branch.prepared = Some(at);
        Ok(())
    }

    /// Calls `each` with every given path from here on, whose own path is `path`.
    pub fn each_given(&self, path: &mut Vec<u8>, each: &mut dyn FnMut(&[u8])) {
        if self.whole || self.prepared.is_some() {
            each(if path.is_empty() { b"/" } else { path });
        }
        for (name, child) in &self.children {
            let len = path.len();
            path.push(b'/');
            path.extend_from_slice(name);
            child.each_given(path, each);
            path.truncate(len);
        }
    }
}

fn components(path: &Path, current: &Path) -> Result<Vec<Vec<u8>>> {
    if path.as_os_str().is_empty() {
        return Err(Error::invalid("path", "it is empty"));
    }
    let whole = current.join(path);
    let mut components: Vec<Vec<u8>> = Vec::new();
    for component in whole.as_os_str().as_bytes().split(|byte| *byte == b'/') {
        match component {
            b"" | b"." => (),
            b".." => {
                components.pop();
            }
            name if name.contains(&0) || name.len() > 255 => {
                return Err(Error::invalid(path.to_string_lossy(), "no file can have this name"));
            }
            name => components.push(name.to_vec()),
        }
    }
    Ok(components)
}

/// Paths from a list: separated by NUL if it holds one, by newlines if not; `-` is standard input.
pub fn read_list(list: &Path) -> Result<Vec<PathBuf>> {
    let mut bytes = Vec::new();
    let outcome = match list.as_os_str() == OsStr::new("-") {
        true => std::io::stdin().lock().read_to_end(&mut bytes),
        false => std::fs::File::open(list).and_then(|mut file| file.read_to_end(&mut bytes)),
    };
    outcome.map_err(|error| Error::io("read the list of paths", list.to_string_lossy(), error))?;
    Ok(split_list(&bytes))
}

fn split_list(bytes: &[u8]) -> Vec<PathBuf> {
    let separator = if bytes.contains(&0) { 0 } else { b'\n' };
    let paths = bytes.split(|byte| *byte == separator).filter(|path| !path.is_empty());
    paths.map(|path| PathBuf::from(std::ffi::OsString::from_vec(path.to_vec()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merged(paths: &[&str]) -> Vec<String> {
        let paths: Vec<PathBuf> = paths.iter().map(PathBuf::from).collect();
        let (root, absolute) = Branch::merge(&paths, Path::new("/home/me")).unwrap();
        let mut found = Vec::new();
        root.each_given(&mut Vec::new(), &mut |path| found.push(String::from_utf8(path.to_vec()).unwrap()));
        let mut sorted = found.clone();
        sorted.sort();
        assert_eq!(sorted.iter().map(|path| path.clone().into_bytes()).collect::<Vec<_>>(), absolute);
        found
    }

    #[test]
    fn paths_become_absolute_by_text() {
        assert_eq!(merged(&["a", "/etc"]), ["/etc", "/home/me/a"]);
        assert_eq!(merged(&["../../x/./y//z/", ".."]), ["/home", "/x/y/z"]);
        assert_eq!(merged(&["/..", "."]), ["/", "/home/me"]);
        assert_eq!(merged(&["/a/../b", "/b/", "/b"]), ["/b"]);
        assert_eq!(merged(&["/b/c", "/b"]), ["/b", "/b/c"]);
    }

    #[test]
    fn names_that_no_file_has_are_refused() {
        let refused = |path: &str| Branch::merge(&[PathBuf::from(path)], Path::new("/")).is_err();
        assert!(refused(""));
        assert!(refused(&"n".repeat(256)));
        assert!(refused("a\0b"));
        assert!(!refused(&"n".repeat(255)));
    }

    #[test]
    fn lists_are_split_by_what_they_hold() {
        let split =
            |bytes: &[u8]| split_list(bytes).into_iter().map(|p| p.into_os_string().into_vec()).collect::<Vec<_>>();
        assert_eq!(split(b"/a\n\n/b c\n"), [b"/a".to_vec(), b"/b c".to_vec()]);
        assert_eq!(split(b"/a\n/b\0/\xff\0"), [b"/a\n/b".to_vec(), b"/\xff".to_vec()]);
        assert!(split(b"").is_empty());
    }
}
