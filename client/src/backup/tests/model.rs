//! Whatever happens to a tree between backups, what a cache spares makes no difference to what is saved.

use super::*;
use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;

const TREES: u8 = 12;
const ROUNDS: u64 = 6;
const EVENTS: u64 = 12;

/// Numbers that are the same in every run of the test.
struct Numbers(blake3::OutputReader);

impl Numbers {
    fn below(&mut self, limit: u64) -> u64 {
        let mut bytes = [0; 8];
        self.0.fill(&mut bytes);
        u64::from_le_bytes(bytes) % limit
    }

    /// One of few, so that events meet.
    fn path(&mut self, top: &Path) -> PathBuf {
        let mut path = top.to_owned();
        for _ in 0..=self.below(3) {
            path.push(["a", "b", "c", "d", "d.x"][usize::try_from(self.below(5)).unwrap()]);
        }
        path
    }
}

/// Something happens to the tree, or cannot.
fn change(top: &Path, numbers: &mut Numbers) {
    let (path, other) = (numbers.path(top), numbers.path(top));
    let len = [3, 3, 5000, 300_000][usize::try_from(numbers.below(4)).unwrap()];
    let content = noise(u8::try_from(numbers.below(4)).unwrap(), len);
    let _ = match numbers.below(10) {
        0..=2 => std::fs::create_dir_all(path.parent().unwrap()).and_then(|()| std::fs::write(&path, content)),
        3 => std::fs::remove_file(&path),
        4 => std::fs::remove_dir_all(&path),
        5 => std::fs::create_dir_all(&path),
        6 => symlink("somewhere", &path),
        7 => std::fs::rename(&path, &other),
        8 => std::fs::hard_link(&path, &other),
        _ => std::fs::set_permissions(&path, PermissionsExt::from_mode(0o700 + u32::try_from(len % 64).unwrap())),
    };
}

/// A run that is stopped after so many findings.
fn interrupt(fixture: &Fixture, options: &FilesOptions, after: u64) {
    let (flag, count) = (fixture.interrupted.clone(), AtomicU64::new(0));
    let told = Told::acting(move |_| {
        if count.fetch_add(1, Ordering::Relaxed) >= after {
            flag.store(true, Ordering::Relaxed);
        }
    });
    match fixture.try_save(options, &told) {
        Ok(_) | Err(Error::Interrupted) => fixture.interrupted.store(false, Ordering::Relaxed),
        Err(error) => panic!("{error}"),
    }
}

/// A file's content, or what else it is.
type Seen = std::result::Result<Vec<u8>, String>;

/// What was saved of each name, wherever it lies: attributes, and content or whatever else it is.
fn seen(fixture: &Fixture, outcome: &Outcome, top: &Path) -> BTreeMap<String, (Attributes, Seen)> {
    let seen = |entry: &Entry| match &entry.node {
        Node::File(_) => Ok(fixture.content(entry)),
        Node::Directory(_) => Err("a directory".to_owned()),
        other => Err(format!("{other:?}")),
    };
    let entries = fixture.entries_below(outcome, top);
    entries.into_iter().map(|(path, entry)| (path, (entry.attributes.clone(), seen(&entry)))).collect()
}

#[test]
fn a_cache_makes_no_difference() {
    let mut trees: Vec<(Fixture, tempfile::TempDir, Numbers)> = (0..TREES)
        .map(|seed| {
            let numbers = Numbers(blake3::Hasher::new_keyed(&[seed; 32]).finalize_xof());
            (Fixture::new(), tempfile::tempdir().unwrap(), numbers)
        })
        .collect();
    let mut spared = 0;
    for _ in 0..ROUNDS {
        for (_, top, numbers) in &mut trees {
            (0..EVENTS).for_each(|_| change(top.path(), numbers));
        }
        wait_until_settled();
        for (fixture, top, numbers) in &mut trees {
            let mut options = given(&[top.path()]);
            if numbers.below(3) == 0 {
                options.excludes = vec!["d*".into()];
            }
            if numbers.below(3) == 0 {
                let after = numbers.below(20);
                interrupt(fixture, &options, after);
            }
            if numbers.below(4) == 0 {
                fixture.reopen(true);
            }
            let (with, told) = fixture.save_with(&options, Told::default());
            assert!(told.problems().is_empty(), "{:?}", told.problems());
            let (none, fresh_told) = (tempfile::tempdir().unwrap(), Told::default());
            let without = files(&fixture.context(&fresh_told, none.path()), &Fixture::request(), &options).unwrap();
            assert_eq!(without.files_unchanged, 0);
            spared += with.files_unchanged;
            assert_eq!(seen(fixture, &with, top.path()), seen(fixture, &without, top.path()));
            assert_eq!(Totals { added_bytes: 0, ..with.totals }, Totals { added_bytes: 0, ..without.totals });
            let all = with.files_new + with.files_changed + with.files_unchanged;
            assert_eq!(all, with.totals.files + with.totals.others);
        }
    }
    assert!(spared > 100, "only {spared} files were spared: the test shows nothing");
}
