//! The files of a blob directory: which belong to the transactions that are saved, and whether all of those were there.
//!
//! ```text
//! bushy   0xOO/0xOO/0xOO/0xOO/0xOO/0xOO/0xOO/0xOO/0xTID.blob      eight directories, one for each byte of the object's id
//! lawn    0xOID/0xTID.blob                                        ids without leading zeros
//! ```
//! The name of a file tells which revision it is, so the layout need not be known.

use super::scan::BlobName;
use super::transaction::Tid;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

/// Says which layout a directory has.
pub const LAYOUT: &[u8] = b".layout";
/// Where files are before they are committed; it is saved empty.
const TEMPORARY: &[u8] = b"tmp";
const LEVELS: usize = 8;

/// The blobs of a storage, each once, and which were seen.
pub struct Blobs {
    /// Ascending.
    names: Vec<BlobName>,
    seen: Vec<AtomicBool>,
}

impl Blobs {
    pub fn new(mut names: Vec<BlobName>) -> Blobs {
        names.sort_unstable();
        names.dedup();
        let seen = names.iter().map(|_| AtomicBool::new(false)).collect();
        Blobs { names, seen }
    }

    pub fn names(&self) -> &[BlobName] {
        &self.names
    }

    /// Whether what is at this path, relative to the blob directory, is saved. A blob's file is remembered as seen.
    pub fn keep(&self, path: &[u8], is_directory: bool) -> bool {
        if path == LAYOUT {
            return !is_directory;
        }
        if is_directory {
            return path == TEMPORARY || self.holds_any(path);
        }
        let Some(at) = parse(path).and_then(|name| self.names.binary_search(&name).ok()) else { return false };
        if let Some(seen) = self.seen.get(at) {
            seen.store(true, Ordering::Relaxed);
        }
        true
    }

    /// Those that were not seen.
    pub fn missing(&self) -> impl Iterator<Item = BlobName> {
        let all = self.names.iter().zip(&self.seen);
        all.filter(|(_, seen)| !seen.load(Ordering::Relaxed)).map(|(name, _)| *name)
    }

    /// Whether a directory is one of an object with a blob, or above such.
    fn holds_any(&self, path: &[u8]) -> bool {
        if oid_of_name(path).is_some_and(|oid| self.has_in(oid, oid)) {
            return true;
        }
        // A single `0x05` may be object 5 of a lawn, or the first of eight.
        let Some((prefix, depth)) = oid_of_bytes(path) else { return false };
        let first = prefix << (8 * (LEVELS - depth));
        let below = u64::MAX.checked_shr(u32::try_from(8 * depth).unwrap_or(u32::MAX)).unwrap_or(0);
        self.has_in(first, first | below)
    }

    fn has_in(&self, first: u64, last: u64) -> bool {
        let at = self.names.partition_point(|name| name.oid < first);
        self.names.get(at).is_some_and(|name| name.oid <= last)
    }
}

/// Which revision a file is, by its path relative to the blob directory.
pub fn parse(path: &[u8]) -> Option<BlobName> {
    let slash = path.iter().rposition(|byte| *byte == b'/')?;
    let (directory, file) = (path.get(..slash)?, path.get(slash + 1..)?);
    let tid = number(file.strip_suffix(b".blob")?, 16)?;
    let oid = match oid_of_bytes(directory) {
        Some((oid, LEVELS)) => oid,
        _ => oid_of_name(directory)?,
    };
    Some(BlobName { oid, tid: Tid(tid) })
}

/// Where a blob's file should be.
pub fn path_of(directory: &Path, is_lawn: bool, name: BlobName) -> PathBuf {
    let mut path = directory.to_owned();
    if is_lawn {
        path.push(shortest(name.oid));
    } else {
        path.extend(name.oid.to_be_bytes().map(|byte| format!("0x{byte:02x}")));
    }
    path.push(format!("{}.blob", shortest(name.tid.0)));
    path
}

/// The layout as ZODB finds it out.
pub fn is_lawn(directory: &Path) -> bool {
    match std::fs::read(directory.join(std::ffi::OsStr::from_bytes(LAYOUT))) {
        Ok(layout) => layout.trim_ascii() == b"lawn",
        Err(_) => std::fs::read_dir(directory).is_ok_and(|entries| {
            let mut names = entries.flatten().map(|entry| entry.file_name());
            names.any(|name| !name.as_bytes().starts_with(b"."))
        }),
    }
}

/// `0x` and two digits for each byte that is needed.
fn shortest(number: u64) -> String {
    let digits = format!("{number:x}");
    if digits.len() % 2 == 1 { format!("0x0{digits}") } else { format!("0x{digits}") }
}

/// Up to eight directories of a byte each: their number, and how many.
fn oid_of_bytes(path: &[u8]) -> Option<(u64, usize)> {
    let mut oid = 0u64;
    let mut depth = 0;
    for part in path.split(|byte| *byte == b'/') {
        oid = oid << 8 | number(part, 2)?;
        depth += 1;
    }
    (depth <= LEVELS).then_some((oid, depth))
}

fn oid_of_name(name: &[u8]) -> Option<u64> {
    number(name, 16)
}

/// `0x` and hex digits, at most so many.
fn number(text: &[u8], digits_max: usize) -> Option<u64> {
    let digits = text.strip_prefix(b"0x")?;
    let is_hex = digits.iter().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
    if digits.is_empty() || digits.len() > digits_max || !is_hex {
        return None;
    }
    u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn blob(oid: u64, tid: u64) -> BlobName {
        BlobName { oid, tid: Tid(tid) }
    }

    fn text(path: &Path) -> &[u8] {
        path.as_os_str().as_bytes()
    }

    #[test]
    fn known_paths() {
        let tid = 0x0405_c87c_8222_2222;
        let bushy = path_of(Path::new(""), false, blob(0x102, tid));
        assert_eq!(text(&bushy), b"0x00/0x00/0x00/0x00/0x00/0x00/0x01/0x02/0x0405c87c82222222.blob");
        let lawn = path_of(Path::new(""), true, blob(0x102, tid));
        assert_eq!(text(&lawn), b"0x0102/0x0405c87c82222222.blob");
        assert_eq!(text(&path_of(Path::new(""), true, blob(0, 5))), b"0x00/0x05.blob");
        for wrong in
            ["0x01", "0x01.blob", "0x01/0x02.tmp", "0x01/02.blob", "x/0x02.blob", "0x01/0x.blob", "0x01/0xg.blob"]
        {
            assert_eq!(parse(wrong.as_bytes()), None, "{wrong}");
        }
        assert_eq!(parse(b"0x01/0x02/0x03.blob"), None, "two of eight");
    }

    #[test]
    fn only_what_belongs_is_kept() {
        let blobs = Blobs::new(vec![blob(0x0500, 7), blob(0x0500, 7), blob(3, 9)]);
        assert_eq!(blobs.names().len(), 2);
        assert!(blobs.keep(LAYOUT, false) && blobs.keep(b"tmp", true));
        assert!(!blobs.keep(b"tmp/x.tmp", false) && !blobs.keep(b".removed", false) && !blobs.keep(b"README", false));
        assert!(blobs.keep(b"0x00", true) && blobs.keep(b"0x00/0x00/0x00/0x00/0x00/0x00/0x05", true));
        assert!(!blobs.keep(b"0x01", true) && !blobs.keep(b"0x00/0x00/0x00/0x00/0x00/0x00/0x06", true));
        assert!(!blobs.keep(b"0x00/0x00/0x00/0x00/0x00/0x00/0x05/0x01", true));
        assert!(blobs.keep(b"0x00/0x00/0x00/0x00/0x00/0x00/0x05/0x00", true));
        assert!(blobs.keep(b"0x0500", true) && blobs.keep(b"0x03", true) && !blobs.keep(b"0x0501", true));
        assert!(!blobs.keep(b"0x03/0x08.blob", false));
        assert_eq!(blobs.missing().collect::<Vec<_>>(), [blob(3, 9), blob(0x0500, 7)]);
        assert!(blobs.keep(b"0x03/0x09.blob", false));
        assert_eq!(blobs.missing().collect::<Vec<_>>(), [blob(0x0500, 7)]);
    }

    proptest! {
        #[test]
        fn a_path_names_its_blob(oid: u64, tid: u64, is_lawn: bool) {
            let path = path_of(Path::new(""), is_lawn, blob(oid, tid));
            prop_assert_eq!(parse(text(&path)), Some(blob(oid, tid)));
            let blobs = Blobs::new(vec![blob(oid, tid)]);
            for above in path.ancestors().skip(1).filter(|path| !text(path).is_empty()) {
                prop_assert!(blobs.keep(text(above), true), "{:?}", above);
            }
            prop_assert!(blobs.keep(text(&path), false));
            prop_assert_eq!(blobs.missing().count(), 0);
        }
    }
}
