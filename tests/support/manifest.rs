//! A complete, canonical listing of a directory tree, to compare two trees line by line. It shares no code with the
//! product, works beyond PATH_MAX, and prints the very lines that `tests/reader/nightkeep_reader.py manifest` prints
//! of a snapshot:
//!
//! path, type, mode, owner, mtime in ns, size or device, digest or link target, link group, extended attributes,
//! inode flags, holes of at least 64 KiB. The digest covers each 64 KiB stretch that is not all zero.

use std::collections::HashMap;
use std::ffi::{CString, OsStr};
use std::fmt::Write as _;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, SeekFrom, Stat};

/// 64 KiB: what a hole must reach to be listed, and the unit of the digest.
const STRETCH: u64 = 65_536;

/// FS_SYNC_FL, FS_IMMUTABLE_FL, FS_APPEND_FL, FS_NODUMP_FL, FS_NOATIME_FL.
const FLAGS_KEPT: u32 = 0x8 | 0x10 | 0x20 | 0x40 | 0x80;

struct Row {
    path: Vec<u8>,
    fields: [String; 6],
    inode: Option<(u64, u64)>,
    tail: [String; 3],
}

/// The listing of everything below `directory`, sorted by path; `.` itself is not in it.
pub fn of(directory: &Path) -> Vec<String> {
    let top = rustix::fs::open(directory, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
    let mut rows = Vec::new();
    descend(&top, b"", &mut rows);
    rows.sort_by(|a, b| a.path.cmp(&b.path));
    let mut groups: HashMap<(u64, u64), (usize, Vec<u8>)> = HashMap::new();
    for row in &rows {
        if let Some(inode) = row.inode {
            groups.entry(inode).or_insert_with(|| (0, row.path.clone())).0 += 1;
        }
    }
    rows.into_iter().map(|row| line(row, &groups)).collect()
}

/// Lines that only one of two listings has, marked `-` and `+`; empty if they are equal.
pub fn difference(expected: &[String], found: &[String]) -> Vec<String> {
    let only = |these: &[String], those: &[String], sign: char| {
        let those: std::collections::HashSet<_> = those.iter().collect();
        these.iter().filter(|line| !those.contains(line)).map(|line| format!("{sign} {line}")).collect::<Vec<_>>()
    };
    let mut lines = only(expected, found, '-');
    lines.extend(only(found, expected, '+'));
    lines.sort_by(|a, b| a[2..].cmp(&b[2..]));
    lines
}

#[track_caller]
pub fn assert_same(expected: &[String], found: &[String]) {
    assert!(!expected.is_empty(), "an empty listing proves nothing");
    let lines = difference(expected, found);
    assert!(lines.is_empty(), "{} lines differ:\n{}", lines.len(), lines[..lines.len().min(60)].join("\n"));
}

fn line(row: Row, groups: &HashMap<(u64, u64), (usize, Vec<u8>)>) -> String {
    let group = match row.inode.and_then(|inode| groups.get(&inode)) {
        Some((names, first)) if *names > 1 => format!("{names}:{}", quoted(first)),
        _ => "-".to_owned(),
    };
    [&[quoted(&row.path)], &row.fields[..], &[group], &row.tail[..]].concat().join("\t")
}

fn descend(directory: &OwnedFd, prefix: &[u8], rows: &mut Vec<Row>) {
    let mut names: Vec<CString> = Dir::read_from(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_owned())
        .filter(|name| !matches!(name.to_bytes(), b"." | b".."))
        .collect();
    names.sort();
    for name in names {
        let path = [prefix, name.to_bytes()].concat();
        if let Some(child) = visit(directory, &name, path.clone(), rows) {
            descend(&child, &[&path[..], b"/"].concat(), rows);
        }
    }
}

fn visit(directory: &OwnedFd, name: &CString, path: Vec<u8>, rows: &mut Vec<Row>) -> Option<OwnedFd> {
    let stat = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW).unwrap();
    let kind = FileType::from_raw_mode(stat.st_mode);
    let open = || {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        rustix::fs::openat(directory, name, flags, Mode::empty()).unwrap()
    };
    let through_proc =
        PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd())).join(OsStr::from_bytes(name.to_bytes()));
    let (mut size, mut what, mut flags, mut holes) = ("-".to_owned(), "-".to_owned(), "0".to_owned(), "-".to_owned());
    let mut below = None;
    match kind {
        FileType::RegularFile => {
            let file = std::fs::File::from(open());
            size = stat.st_size.to_string();
            (what, holes) = digest_and_holes(&file, u64::try_from(stat.st_size).unwrap());
            flags = flags_of(&file);
        }
        FileType::Directory => {
            let opened = open();
            flags = flags_of(&opened);
            below = Some(opened);
        }
        FileType::Symlink => what = quoted(rustix::fs::readlinkat(directory, name, Vec::new()).unwrap().to_bytes()),
        FileType::CharacterDevice | FileType::BlockDevice => {
            size = format!("{}:{}", rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
        }
        _ => {}
    }
    let xattrs = xattrs_of(&through_proc);
    rows.push(Row {
        path,
        fields: [
            letter(kind).to_owned(),
            format!("{:04o}", stat.st_mode & 0o7777),
            format!("{}:{}", stat.st_uid, stat.st_gid),
            mtime(&stat).to_string(),
            size,
            what,
        ],
        inode: (kind != FileType::Directory).then_some((stat.st_dev, stat.st_ino)),
        tail: [xattrs, flags, holes],
    });
    below
}

fn letter(kind: FileType) -> &'static str {
    match kind {
        FileType::RegularFile => "f",
        FileType::Directory => "d",
        FileType::Symlink => "l",
        FileType::Fifo => "p",
        FileType::Socket => "s",
        FileType::CharacterDevice => "c",
        FileType::BlockDevice => "b",
        FileType::Unknown => "?",
    }
}

fn mtime(stat: &Stat) -> i128 {
    i128::from(stat.st_mtime) * 1_000_000_000 + i128::from(stat.st_mtime_nsec)
}

fn flags_of(file: impl std::os::fd::AsFd) -> String {
    let kept = rustix::fs::ioctl_getflags(file).map_or(0, |flags| flags.bits() & FLAGS_KEPT);
    format!("{kept:x}")
}

fn xattrs_of(path: &Path) -> String {
    // The kernel's limits: 64 KiB of names, 64 KiB for each value.
    let mut list = vec![0u8; 65_536];
    let len = match rustix::fs::llistxattr(path, &mut list[..]) {
        Ok(len) => len,
        Err(rustix::io::Errno::NOTSUP) => 0,
        Err(error) => panic!("attributes of {}: {error}", path.display()),
    };
    let mut names: Vec<&[u8]> = list[..len].split(|byte| *byte == 0).filter(|name| !name.is_empty()).collect();
    names.sort_unstable();
    let pairs: Vec<String> = names
        .into_iter()
        .map(|name| {
            let mut value = vec![0u8; 65_536];
            let len = rustix::fs::lgetxattr(path, OsStr::from_bytes(name), &mut value[..]).unwrap();
            format!("{}={}", quoted(name), hex(&value[..len]))
        })
        .collect();
    if pairs.is_empty() { "-".to_owned() } else { pairs.join(",") }
}

fn data_extents(file: &std::fs::File, size: u64) -> Vec<(u64, u64)> {
    let (mut extents, mut at) = (Vec::new(), 0);
    while at < size {
        let Ok(begin) = rustix::fs::seek(file, SeekFrom::Data(at)) else { break };
        let end = rustix::fs::seek(file, SeekFrom::Hole(begin)).unwrap().min(size);
        extents.push((begin, end));
        at = end;
    }
    extents
}

fn digest_and_holes(file: &std::fs::File, size: u64) -> (String, String) {
    let extents = data_extents(file, size);
    let mut digest = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    let mut done = 0;
    for (begin, end) in &extents {
        for stretch in (begin / STRETCH).max(done)..end.div_ceil(STRETCH) {
            let at = stretch * STRETCH;
            let mut bytes = vec![0; usize::try_from(STRETCH.min(size - at)).unwrap()];
            file.read_exact_at(&mut bytes, at).unwrap();
            if bytes.iter().any(|byte| *byte != 0) {
                digest.update(&at.to_le_bytes());
                digest.update(&(bytes.len() as u64).to_le_bytes());
                digest.update(&bytes);
            }
            done = stretch + 1;
        }
    }
    let starts = std::iter::once(0).chain(extents.iter().map(|extent| extent.1));
    let ends = extents.iter().map(|extent| extent.0).chain(std::iter::once(size));
    let holes: Vec<String> =
        starts.zip(ends).filter(|(b, e)| e - b >= STRETCH).map(|(b, e)| format!("{b}-{e}")).collect();
    (hex(digest.finish().as_ref()), if holes.is_empty() { "-".to_owned() } else { holes.join(",") })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

/// Percent-encoded, all but letters, digits and `/._-~`.
pub fn quoted(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'.' | b'_' | b'-' | b'~' => text.push(char::from(*byte)),
            other => write!(text, "%{other:02X}").unwrap(),
        }
        text
    })
}
