//! The names in one directory, held compactly: a directory may have millions.

use rustix::fs::{FileType, RawDir};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;

/// What the listing tells of a name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Directory,
    Other,
    Unknown,
}

#[derive(Default)]
pub struct NameList {
    bytes: Vec<u8>,
    names: Vec<Name>,
}

#[derive(Clone, Copy)]
struct Name {
    start: usize,
    len: u8,
    kind: Kind,
}

impl NameList {
    /// Reads all names of a directory but `.` and `..`. After an error those read before stay.
    pub fn read(&mut self, directory: BorrowedFd<'_>, buffer: &mut [MaybeUninit<u8>]) -> io::Result<()> {
        let mut listing = RawDir::new(directory, buffer);
        while let Some(entry) = listing.next() {
            let entry = entry?;
            let kind = match entry.file_type() {
                FileType::Directory => Kind::Directory,
                FileType::Unknown => Kind::Unknown,
                _ => Kind::Other,
            };
            match entry.file_name().to_bytes() {
                b"." | b".." => (),
                name if name.len() > 255 => return Err(io::Error::other("a name in it has more than 255 bytes")),
                name => self.push(name, kind),
            }
        }
        Ok(())
    }

    /// Appends a name of at most 255 bytes; a longer one is cut.
    pub fn push(&mut self, name: &[u8], kind: Kind) {
        let len = u8::try_from(name.len()).unwrap_or(u8::MAX);
        self.names.push(Name { start: self.bytes.len(), len, kind });
        self.bytes.extend_from_slice(name.get(..usize::from(len)).unwrap_or_default());
    }

    pub fn len(&self) -> usize {
        self.names.len()
    }

    pub fn get(&self, at: usize) -> Option<(&[u8], Kind)> {
        let name = self.names.get(at)?;
        Some((slice(&self.bytes, *name), name.kind))
    }

    pub fn sort(&mut self) {
        let bytes = &self.bytes;
        self.names.sort_unstable_by(|a, b| slice(bytes, *a).cmp(slice(bytes, *b)));
    }

    /// Only after [`NameList::sort`].
    pub fn contains(&self, name: &[u8]) -> bool {
        self.names.binary_search_by(|probe| slice(&self.bytes, *probe).cmp(name)).is_ok()
    }

    pub fn retain(&mut self, keep: impl Fn(&[u8]) -> bool) {
        let bytes = &self.bytes;
        self.names.retain(|name| keep(slice(bytes, *name)));
    }
}

fn slice(bytes: &[u8], name: Name) -> &[u8] {
    bytes.get(name.start..name.start + usize::from(name.len)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn all_names_are_read_in_order() {
        let temp = tempfile::tempdir().unwrap();
        std::fs::create_dir(temp.path().join("d")).unwrap();
        let mut expected: Vec<String> = (0..5000).map(|n| format!("file {n}")).collect();
        for name in &expected {
            std::fs::write(temp.path().join(name), b"").unwrap();
        }
        expected.push("d".into());
        expected.sort();
        let directory = std::fs::File::open(temp.path()).unwrap();
        let mut buffer: Vec<u8> = Vec::with_capacity(4096);
        let mut names = NameList::default();
        names.read(directory.as_fd(), buffer.spare_capacity_mut()).unwrap();
        names.sort();
        assert_eq!(names.len(), 5001);
        for (at, name) in expected.iter().enumerate() {
            assert_eq!(names.get(at).unwrap().0, name.as_bytes());
        }
        assert_eq!(names.get(0).unwrap().1, Kind::Directory);
        assert!(names.contains(b"file 77") && !names.contains(b"file") && names.get(5001).is_none());
        names.retain(|name| name == b"d");
        assert_eq!(names.len(), 1);
    }
}
