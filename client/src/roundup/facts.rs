//! What a snapshot says about the tracker in it, for people and for the restore.

use super::sqlite::Rows;
use super::tracker::{Origin, Outside, PathOption, Tracker};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

const BACKEND: &str = "roundup.backend";
const HOME: &str = "roundup.home";
const ROOT: &str = "roundup.root";
const DATABASE: &str = "roundup.database";
const OUTSIDE: &str = "roundup.outside";
/// The directory of a full-text index that was not saved.
pub const INDEX_LEFT_OUT: &str = "roundup.index-left-out";

pub fn fact(key: &str, value: impl ToString) -> (String, Vec<u8>) {
    (key.to_owned(), value.to_string().into_bytes())
}

fn path(key: &str, path: &Path) -> (String, Vec<u8>) {
    (key.to_owned(), path.as_os_str().as_bytes().to_vec())
}

pub fn of(tracker: &Tracker, rows: &Rows, contents: u64, missing: usize) -> Vec<(String, Vec<u8>)> {
    let mut facts = vec![
        fact("source", "roundup"),
        fact(BACKEND, tracker.backend.word()),
        path(HOME, &tracker.home),
        path(ROOT, &tracker.root),
        path(DATABASE, &tracker.database),
        fact("roundup.rows", rows.total),
        fact("roundup.contents", contents),
        fact("roundup.contents-missing", missing),
    ];
    facts.extend(rows.schema_version.map(|version| fact("roundup.schema-version", version)));
    if !tracker.outside.is_empty() {
        facts.push((OUTSIDE.to_owned(), encode(&tracker.outside)));
    }
    let index = ["text-index", "whoosh-index"].into_iter().find(|name| tracker.database.join(name).is_dir());
    facts.extend(index.map(|name| fact(INDEX_LEFT_OUT, name)));
    facts
}

/// A tracker as a snapshot describes it.
#[derive(PartialEq, Eq, Debug)]
pub struct Described {
    pub backend: String,
    pub home: PathBuf,
    pub root: PathBuf,
    pub database: PathBuf,
    pub outside: Vec<Outside>,
}

impl Described {
    /// `None` if this is no snapshot of a tracker.
    pub fn from(facts: &[(String, Vec<u8>)]) -> Option<Described> {
        let find = |key: &str| facts.iter().find(|(found, _)| found == key).map(|(_, value)| value.as_slice());
        let path = |key: &str| find(key).map(|bytes| PathBuf::from(OsStr::from_bytes(bytes)));
        let absolute = |key: &str| path(key).filter(|path| path.is_absolute());
        Some(Described {
            backend: String::from_utf8_lossy(find(BACKEND)?).into_owned(),
            home: absolute(HOME)?,
            root: absolute(ROOT)?,
            database: absolute(DATABASE)?,
            outside: find(OUTSIDE).map_or(Some(Vec::new()), decode)?,
        })
    }
}

/// For each part three texts, separated by NUL, which no path holds: `link` or an option, what it says, and the path.
fn encode(outside: &[Outside]) -> Vec<u8> {
    let mut texts: Vec<Vec<u8>> = Vec::new();
    for part in outside {
        match &part.origin {
            Origin::Link(at) => texts.extend([b"link".to_vec(), at.as_os_str().as_bytes().to_vec()]),
            Origin::Option(option) => {
                let number = if let PathOption::StaticFiles(at) = option { *at } else { 0 };
                texts.extend([option.key().into(), number.to_string().into_bytes()]);
            }
        }
        texts.push(part.path.as_os_str().as_bytes().to_vec());
    }
    texts.join(&0)
}

fn decode(bytes: &[u8]) -> Option<Vec<Outside>> {
    let texts: Vec<&[u8]> = bytes.split(|byte| *byte == 0).collect();
    texts.chunks(3).map(decode_part).collect()
}

fn decode_part(texts: &[&[u8]]) -> Option<Outside> {
    let [kind, what, path] = texts else { return None };
    let absolute = |bytes: &[u8]| Some(PathBuf::from(OsStr::from_bytes(bytes))).filter(|path| path.is_absolute());
    let origin = match *kind {
        b"link" => Origin::Link(absolute(what)?),
        b"database" => Origin::Option(PathOption::Database),
        b"templates" => Origin::Option(PathOption::Templates),
        b"static_files" => Origin::Option(PathOption::StaticFiles(std::str::from_utf8(what).ok()?.parse().ok()?)),
        _ => return None,
    };
    Some(Outside { origin, path: absolute(path)? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn described(outside: &[Outside]) -> Vec<(String, Vec<u8>)> {
        vec![
            fact(BACKEND, "sqlite"),
            path(HOME, Path::new("/srv/t")),
            path(ROOT, Path::new("/data/t")),
            path(DATABASE, Path::new("/data/t/db")),
            (OUTSIDE.to_owned(), encode(outside)),
        ]
    }

    #[test]
    fn what_is_said_is_read() {
        let outside = [
            Outside { origin: Origin::Option(PathOption::Database), path: "/d b\n/x".into() },
            Outside { origin: Origin::Option(PathOption::StaticFiles(3)), path: "/s".into() },
            Outside { origin: Origin::Link("/data/t/db/files".into()), path: "/f".into() },
        ];
        let found = Described::from(&described(&outside)).unwrap();
        assert_eq!(found.outside, outside);
        assert_eq!(found.home, Path::new("/srv/t"));
        assert!(Described::from(&[fact("read.bytes", 1)]).is_none());
    }

    #[test]
    fn what_makes_no_sense_is_no_tracker() {
        for wrong in [
            &b"link"[..],
            b"link\0/a",
            b"link\0a\0/b",
            b"other\0/a\0/b",
            b"static_files\0x\0/b",
            b"database\x000\0b",
            b"",
        ] {
            let mut facts = described(&[]);
            facts.last_mut().unwrap().1 = wrong.to_vec();
            assert!(Described::from(&facts).is_none(), "{}", wrong.escape_ascii());
        }
        let mut facts = described(&[]);
        facts.pop();
        assert!(Described::from(&facts).is_some());
        facts[1].1 = b"srv".to_vec();
        assert!(Described::from(&facts).is_none());
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            let _ = decode(&bytes);
        }
    }
}
