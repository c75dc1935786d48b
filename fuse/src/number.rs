//! Inode numbers: made from what a file is (snapshot and path, or the hard link's inode at the source), so that they are the
//! same after a new mount. Pure.
//!
//! Bit 61 marks files of snapshots, bit 62 what only the mount has; so neither is ever 0 or the root's 1.

use std::hash::{DefaultHasher, Hasher};

pub const ROOT: u64 = 1;
const CONTENT: u64 = 1 << 61;
const VIRTUAL: u64 = 1 << 62;
const MASK: u64 = CONTENT - 1;

/// A number, and enough of another hash to tell whether a file with the same number is the same.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Identity {
    pub number: u64,
    pub check: u32,
}

impl Identity {
    /// An entry of the directory with this number.
    pub fn of_name(directory: u64, name: &[u8]) -> Identity {
        Identity::new(&[&[1], &directory.to_le_bytes(), name])
    }

    /// A file of several names, in the snapshot whose root has the number `scope`.
    pub fn of_hard_link(scope: u64, device: u64, inode: u64) -> Identity {
        Identity::new(&[&[2], &scope.to_le_bytes(), &device.to_le_bytes(), &inode.to_le_bytes()])
    }

    fn new(parts: &[&[u8]]) -> Identity {
        let low = hash(0, parts).to_le_bytes();
        let check = low.last_chunk().copied().map_or(0, u32::from_le_bytes);
        Identity { number: content(hash(1, parts)), check }
    }

    /// Where to look when the number is taken by another file.
    pub fn next(self) -> Identity {
        Identity { number: content(hash(2, &[&self.number.to_le_bytes(), &self.check.to_le_bytes()])), ..self }
    }
}

/// The number of what only the mount has.
pub fn of_virtual(parent: u64, name: &[u8], target: &[u8], attempt: u64) -> u64 {
    let len = (name.len() as u64).to_le_bytes();
    hash(3, &[&parent.to_le_bytes(), &attempt.to_le_bytes(), &len, name, target]) & MASK | VIRTUAL
}

pub fn is_virtual(number: u64) -> bool {
    number == ROOT || number & VIRTUAL != 0
}

fn content(hash: u64) -> u64 {
    hash & MASK | CONTENT
}

fn hash(seed: u8, parts: &[&[u8]]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(&[seed]);
    parts.iter().for_each(|part| hasher.write(part));
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_has_another_number() {
        let all = [
            Identity::of_name(7, b"a"),
            Identity::of_name(8, b"a"),
            Identity::of_name(7, b"b"),
            Identity::of_name(7, b"a").next(),
            Identity::of_hard_link(7, 1, 2),
            Identity::of_hard_link(7, 2, 1),
        ];
        for (at, one) in all.iter().enumerate() {
            assert!(!is_virtual(one.number) && one.number > 1);
            assert!(all[at + 1..].iter().all(|other| other.number != one.number));
        }
        assert_eq!(Identity::of_name(7, b"a"), all[0]);
        assert_ne!(of_virtual(1, b"ab", b"c", 0), of_virtual(1, b"a", b"bc", 0));
        assert!(is_virtual(of_virtual(1, b"a", b"", 0)) && is_virtual(ROOT));
    }
}
