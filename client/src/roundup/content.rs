//! Where Roundup keeps the content of messages and files, and whether each row of a database has its own.
//!
//! An item `msg12345` lies in `files/msg/12/msg12345`, in very old trackers in `files/msg12345`. While a transaction is not
//! committed its new content has `.tmp` appended; Roundup takes such a file for the content if it finds nothing else, since
//! then the database was committed and the rename was not reached.

use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// A class whose items have their content in files.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FileClass {
    pub name: String,
    /// Ascending.
    pub ids: Vec<u64>,
}

/// Every class of messages or files has these two properties.
pub fn is_file_class(columns: &[String]) -> bool {
    ["_content", "_type"].iter().all(|wanted| columns.iter().any(|column| column == wanted))
}

/// The number in `{'version': 8, 'tables': …}`; a text without one is of the first version.
pub fn schema_version(text: &str) -> Option<u64> {
    let Some((_, after)) = text.split_once("'version':") else { return Some(1) };
    let digits: String = after.trim_start().chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

/// What a path below the directory of files stands for.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Place {
    Content {
        class: usize,
        at: usize,
    },
    /// The same, not committed.
    Temporary {
        class: usize,
        at: usize,
    },
    /// Not committed, and of no row.
    TemporaryOfNothing,
    Other,
}

/// Where a part of the directory of files really lies.
struct Root {
    path: Vec<u8>,
    below: Vec<u8>,
}

/// Which rows have their content, as far as it was seen.
pub struct Contents<'a> {
    classes: &'a [FileClass],
    files: PathBuf,
    roots: Vec<Root>,
    /// By class, for each row.
    seen: Mutex<Vec<Vec<bool>>>,
    /// Rows whose only content is a `.tmp`.
    unfinished: Vec<(usize, usize)>,
}

/// A row without its file.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Lost {
    pub class: String,
    pub id: u64,
}

impl Lost {
    pub fn name(&self) -> String {
        format!("{}{}", self.class, self.id)
    }

    /// Where its content should be, from the directory of files on.
    pub fn place(&self) -> PathBuf {
        PathBuf::from(&self.class).join((self.id / 1000).to_string()).join(self.name())
    }
}

impl<'a> Contents<'a> {
    /// `files` may be reached through symlinks; `links` are those that it holds or is.
    pub fn new(classes: &'a [FileClass], files: PathBuf, links: &[Link]) -> Contents<'a> {
        let real = files.canonicalize().unwrap_or_else(|_| files.clone());
        let mut roots = vec![Root { path: real.into_os_string().into_vec(), below: Vec::new() }];
        roots.extend(
            links
                .iter()
                .map(|link| Root { path: link.leads_to.as_os_str().as_bytes().to_vec(), below: link.below.clone() }),
        );
        // The longest first: one may lie in another.
        roots.sort_by_key(|root| std::cmp::Reverse(root.path.len()));
        let seen = Mutex::new(none_seen(classes));
        Contents { classes, files, roots, seen, unfinished: Vec::new() }
    }

    /// Looks at what is there before the walk: rows whose only content is a `.tmp`, and those that have none. `again` says
    /// whether to look once more while there are such as a commit at this very moment would make.
    pub fn look(&mut self, again: &mut dyn FnMut() -> bool) -> Vec<Lost> {
        loop {
            let mut seen = none_seen(self.classes);
            let mut unfinished = Vec::new();
            self.list(&mut |place| match place {
                Place::Content { class, at } => set(&mut seen, class, at),
                Place::Temporary { class, at } => unfinished.push((class, at)),
                Place::TemporaryOfNothing | Place::Other => {}
            });
            unfinished.retain(|(class, at)| !is_set(&seen, *class, *at));
            if unfinished.is_empty() || !again() {
                for (class, at) in &unfinished {
                    set(&mut seen, *class, *at);
                }
                self.unfinished = unfinished;
                return self.lost(&seen);
            }
        }
    }

    /// Whether a path of the walk is to be saved, as far as contents are concerned; remembers that it was there.
    pub fn keep(&self, path: &[u8]) -> bool {
        let below = self.roots.iter().find_map(|root| {
            let below = path.strip_prefix(root.path.as_slice())?.strip_prefix(b"/")?;
            Some(if root.below.is_empty() { below.to_vec() } else { [&root.below, &b"/"[..], below].concat() })
        });
        let Some(below) = below else { return true };
        let (class, at) = match self.place(&below) {
            Place::Content { class, at } => (class, at),
            Place::Temporary { class, at } if self.unfinished.contains(&(class, at)) => (class, at),
            Place::Temporary { .. } | Place::TemporaryOfNothing => return false,
            Place::Other => return true,
        };
        set(&mut self.seen.lock().unwrap_or_else(PoisonError::into_inner), class, at);
        true
    }

    /// Rows whose content the walk did not come by.
    pub fn missing(&self) -> Vec<Lost> {
        self.lost(&self.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub fn count(&self) -> u64 {
        self.classes.iter().map(|class| class.ids.len() as u64).sum()
    }

    fn lost(&self, seen: &[Vec<bool>]) -> Vec<Lost> {
        let mut lost = Vec::new();
        for (class, seen) in self.classes.iter().zip(seen) {
            let missing = class.ids.iter().zip(seen).filter(|(_, seen)| !**seen);
            lost.extend(missing.map(|(id, _)| Lost { class: class.name.clone(), id: *id }));
        }
        lost
    }

    /// Calls `each` with what every name in the directories of contents stands for.
    fn list(&self, each: &mut dyn FnMut(Place)) {
        let mut names = |directory: &Path, prefix: &[u8]| {
            for entry in directory.read_dir().into_iter().flatten().flatten() {
                each(self.place(&[prefix, entry.file_name().as_bytes()].concat()));
            }
        };
        names(&self.files, b"");
        for class in self.classes {
            let directory = self.files.join(&class.name);
            for bucket in directory.read_dir().into_iter().flatten().flatten() {
                let bucket = bucket.file_name();
                let prefix = [class.name.as_bytes(), b"/", bucket.as_bytes(), b"/"].concat();
                names(&directory.join(&bucket), &prefix);
            }
        }
    }

    /// What a path from the directory of files on stands for.
    fn place(&self, below: &[u8]) -> Place {
        let parts: Vec<&[u8]> = below.split(|byte| *byte == b'/').collect();
        let (name, above) = match parts.split_last() {
            Some((name, above)) => (*name, above),
            None => return Place::Other,
        };
        let (stem, is_temporary) = match name.strip_suffix(b".tmp") {
            Some(stem) => (stem, true),
            None => (name, false),
        };
        let row = self.row(stem, above);
        match (row, is_temporary) {
            (Some((class, at)), true) => Place::Temporary { class, at },
            (Some((class, at)), false) => Place::Content { class, at },
            (None, true) => Place::TemporaryOfNothing,
            (None, false) => Place::Other,
        }
    }

    fn row(&self, name: &[u8], above: &[&[u8]]) -> Option<(usize, usize)> {
        let (class, row) = self.classes.iter().enumerate().find_map(|(at, class)| {
            let digits = name.strip_prefix(class.name.as_bytes())?;
            Some((at, class.ids.binary_search(&number(digits)?).ok()?))
        })?;
        let id = *self.classes.get(class)?.ids.get(row)?;
        let is_there = match above {
            [] => true,
            [directory, bucket] => {
                *directory == self.classes.get(class)?.name.as_bytes() && number(bucket) == Some(id / 1000)
            }
            _ => false,
        };
        is_there.then_some((class, row))
    }
}

/// A decimal number as Python writes it.
fn number(digits: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(digits).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))?;
    (text == "0" || !text.starts_with('0')).then(|| text.parse().ok()).flatten()
}

fn none_seen(classes: &[FileClass]) -> Vec<Vec<bool>> {
    classes.iter().map(|class| vec![false; class.ids.len()]).collect()
}

fn set(seen: &mut [Vec<bool>], class: usize, at: usize) {
    if let Some(seen) = seen.get_mut(class).and_then(|class| class.get_mut(at)) {
        *seen = true;
    }
}

fn is_set(seen: &[Vec<bool>], class: usize, at: usize) -> bool {
    seen.get(class).and_then(|class| class.get(at)).is_some_and(|seen| *seen)
}

/// A directory of contents whose real path shows nothing of that: a symlink leads to it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Link {
    /// Where the symlink is, its directory's symlinks resolved.
    pub at: PathBuf,
    pub leads_to: PathBuf,
    /// From the directory of files on; empty for this directory itself.
    below: Vec<u8>,
}

/// Symlinks among the directories of contents: `files` itself, a class, a bucket.
pub fn links(files: &Path) -> Vec<Link> {
    let mut found = Vec::new();
    follow(files, b"", &mut found);
    for class in files.read_dir().into_iter().flatten().flatten() {
        let name = class.file_name();
        follow(&class.path(), name.as_bytes(), &mut found);
        if class.file_type().is_ok_and(|kind| kind.is_file()) {
            continue;
        }
        for bucket in class.path().read_dir().into_iter().flatten().flatten() {
            if bucket.file_type().is_ok_and(|kind| kind.is_symlink()) {
                let below = [name.as_bytes(), b"/", bucket.file_name().as_bytes()].concat();
                follow(&bucket.path(), &below, &mut found);
            }
        }
    }
    found
}

fn follow(path: &Path, below: &[u8], found: &mut Vec<Link>) {
    if !path.is_symlink() {
        return;
    }
    let above = path.parent().and_then(|above| above.canonicalize().ok());
    if let (Some(above), Some(name), Ok(leads_to)) = (above, path.file_name(), path.canonicalize()) {
        found.push(Link { at: above.join(name), leads_to, below: below.to_vec() });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn classes() -> Vec<FileClass> {
        vec![
            FileClass { name: "file".into(), ids: vec![1, 2, 999, 1000] },
            FileClass { name: "file_note".into(), ids: vec![1] },
            FileClass { name: "msg".into(), ids: vec![7, 12_345] },
        ]
    }

    fn put(files: &Path, place: &str) {
        let path = files.join(place);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, b"x").unwrap();
    }

    fn names(lost: &[Lost]) -> Vec<String> {
        lost.iter().map(Lost::name).collect()
    }

    #[test]
    fn a_place_stands_for_a_row() {
        let classes = classes();
        let contents = Contents::new(&classes, "/t/db/files".into(), &[]);
        let table: &[(&str, Place)] = &[
            ("msg/12/msg12345", Place::Content { class: 2, at: 1 }),
            ("msg/0/msg7", Place::Content { class: 2, at: 0 }),
            ("msg7", Place::Content { class: 2, at: 0 }),
            ("file/1/file1000", Place::Content { class: 0, at: 3 }),
            ("file/0/file999", Place::Content { class: 0, at: 2 }),
            ("file_note/0/file_note1", Place::Content { class: 1, at: 0 }),
            ("msg/0/msg7.tmp", Place::Temporary { class: 2, at: 0 }),
            ("msg7.tmp", Place::Temporary { class: 2, at: 0 }),
            ("msg/0/msg8.tmp", Place::TemporaryOfNothing),
            ("msg/0/anything.tmp", Place::TemporaryOfNothing),
            ("msg/0/msg8", Place::Other),
            ("msg/1/msg7", Place::Other),
            ("file/0/msg7", Place::Other),
            ("msg/0/msg07", Place::Other),
            ("msg/0/msg7.old", Place::Other),
            ("msg/00/msg7", Place::Other),
            ("msg/msg7", Place::Other),
            ("msg/0/0/msg7", Place::Other),
            ("msg/0/msg99999999999999999999999", Place::Other),
            ("", Place::Other),
        ];
        for (place, stands_for) in table {
            assert_eq!(contents.place(place.as_bytes()), *stands_for, "{place}");
        }
    }

    #[test]
    fn rows_without_content_are_told() {
        let temp = tempfile::tempdir().unwrap();
        let files = temp.path().join("files");
        for place in ["file/0/file1", "file2", "file/1/file1000", "file_note/0/file_note1", "msg/0/msg7"] {
            put(&files, place);
        }
        let classes = classes();
        let mut contents = Contents::new(&classes, files.clone(), &[]);
        assert_eq!(names(&contents.look(&mut || false)), ["file999", "msg12345"]);
        assert_eq!(contents.count(), 7);
        // Nothing was walked yet.
        assert_eq!(contents.missing().len(), 7);
        let real = files.canonicalize().unwrap();
        for place in ["file/0/file1", "file2", "file/1/file1000", "file_note/0/file_note1", "msg/0/msg7"] {
            assert!(contents.keep(real.join(place).as_os_str().as_bytes()));
        }
        assert_eq!(names(&contents.missing()), ["file999", "msg12345"]);
        assert_eq!(contents.missing()[1].place(), Path::new("msg/12/msg12345"));
    }

    #[test]
    fn uncommitted_content_is_kept_only_for_a_row_that_has_nothing_else() {
        let temp = tempfile::tempdir().unwrap();
        let files = temp.path().canonicalize().unwrap().join("files");
        for place in ["msg/0/msg7", "msg/0/msg7.tmp", "msg/12/msg12345.tmp", "msg/0/msg8.tmp", "file/0/file1"] {
            put(&files, place);
        }
        let classes = classes();
        let mut contents = Contents::new(&classes, files.clone(), &[]);
        let mut asked = 0;
        contents.look(&mut || {
            asked += 1;
            asked < 3
        });
        assert_eq!(asked, 3, "a commit may be going on");
        let keep = |place: &str| contents.keep(files.join(place).as_os_str().as_bytes());
        assert!(keep("msg/0/msg7") && keep("msg/12/msg12345.tmp") && keep("file/0/file1"));
        assert!(!keep("msg/0/msg7.tmp") && !keep("msg/0/msg8.tmp") && !keep("msg/0/x.tmp"));
        assert!(contents.keep(b"/elsewhere/x.tmp"), "only contents are judged");
        assert_eq!(names(&contents.missing()), ["file2", "file999", "file1000", "file_note1"]);
        // The commit went through.
        std::fs::rename(files.join("msg/12/msg12345.tmp"), files.join("msg/12/msg12345")).unwrap();
        contents.look(&mut || panic!("nothing is open"));
    }

    #[test]
    fn contents_behind_symlinks_are_found() {
        let temp = tempfile::tempdir().unwrap();
        let base = temp.path().canonicalize().unwrap();
        let (files, far, bucket) = (base.join("db/files"), base.join("far"), base.join("bucket"));
        put(&far, "msg/0/msg7");
        put(&bucket, "msg12345");
        std::os::unix::fs::symlink(&bucket, far.join("msg/12")).unwrap();
        std::fs::create_dir(base.join("db")).unwrap();
        std::os::unix::fs::symlink("../far", &files).unwrap();
        let links = links(&files);
        assert_eq!(links.iter().map(|link| link.leads_to.clone()).collect::<Vec<_>>(), [far.clone(), bucket.clone()]);
        assert_eq!(links[1].at, far.join("msg/12"));
        let classes = classes();
        let mut contents = Contents::new(&classes, files, &links);
        assert!(!names(&contents.look(&mut || false)).iter().any(|name| name.starts_with("msg")));
        contents.keep(far.join("msg/0/msg7").as_os_str().as_bytes());
        contents.keep(bucket.join("msg12345").as_os_str().as_bytes());
        assert!(!names(&contents.missing()).iter().any(|name| name.starts_with("msg")));
    }

    #[test]
    fn the_version_of_a_schema_is_read() {
        assert_eq!(schema_version("{'version': 8, 'tables': {}}"), Some(8));
        assert_eq!(schema_version("{'tables': {'a': 1}, 'version':12}"), Some(12));
        assert_eq!(schema_version("{'issue': ('', [])}"), Some(1));
        assert_eq!(schema_version("{'version': None}"), None);
    }
}
