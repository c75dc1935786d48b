//! Whole backups into a repository in memory, read back.

use super::testing::{Fixture, Told};
use super::*;
use std::os::unix::fs::symlink;

/// Bytes that neither repeat nor compress.
fn noise(seed: u8, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new_keyed(&[seed; 32]).finalize_xof().fill(&mut bytes);
    bytes
}

/// As if all of it had been there for a while: what was changed just now is read again.
fn wait_until_settled() {
    std::thread::sleep(Duration::from_millis(2100));
}

fn given(paths: &[&Path]) -> FilesOptions {
    FilesOptions { paths: paths.iter().map(|path| path.to_path_buf()).collect(), ..FilesOptions::default() }
}

#[test]
fn contents_of_all_sizes_come_back() {
    let (fixture, top) = (Fixture::new(), tempfile::tempdir().unwrap());
    let lens = [0, 1, 2048, 2049, 16 << 10, 100_000, 1 << 20, (1 << 20) + 1, 5 << 20];
    for len in lens {
        std::fs::write(top.path().join(format!("{len}")), noise(1, len)).unwrap();
    }
    let (outcome, told) = fixture.save(top.path());
    assert!(told.problems().is_empty(), "{:?}", told.problems());
    let entries = fixture.entries_below(&outcome, top.path());
    assert_eq!(entries.len(), lens.len());
    for len in lens {
        assert!(fixture.content(&entries[&len.to_string()]) == noise(1, len), "{len} bytes");
    }
    assert_eq!(outcome.totals.files, lens.len() as u64);
    assert_eq!(outcome.totals.content_bytes, lens.iter().sum::<usize>() as u64);
    assert_eq!(outcome.read_bytes, outcome.totals.content_bytes);
    assert_eq!((outcome.files_new, outcome.files_changed, outcome.files_unchanged), (lens.len() as u64, 0, 0));
    // Contents that begin alike share chunks.
    assert!(outcome.added_bytes < 6 << 20, "{}", outcome.added_bytes);
}

#[test]
fn an_unchanged_tree_is_not_read_again() {
    let (fixture, top) = (Fixture::new(), tempfile::tempdir().unwrap());
    std::fs::create_dir_all(top.path().join("a/b")).unwrap();
    std::fs::write(top.path().join("a/b/file"), noise(1, 10_000)).unwrap();
    std::fs::write(top.path().join("a/other"), b"small").unwrap();
    symlink("target", top.path().join("link")).unwrap();
    wait_until_settled();
    let (first, _) = fixture.save(top.path());
    let (second, told) = fixture.save(top.path());
    assert_eq!((second.files_new, second.files_changed, second.files_unchanged), (0, 0, 3));
    assert_eq!((second.read_bytes, second.new_bytes), (0, 0));
    assert_eq!(second.totals, Totals { added_bytes: 0, ..first.totals });
    assert_eq!(fixture.entries(&first), fixture.entries(&second));
    assert!(told.lines().contains(&format!("unchanged {}", top.path().join("a/b/file").display())));
    let (one, two) = (fixture.snapshot(&first).summary, fixture.snapshot(&second).summary);
    assert_eq!((two.sequence, two.previous, two.root), (1, first.snapshot, one.root));
    std::fs::write(top.path().join("a/other"), b"SMALL").unwrap();
    std::fs::write(top.path().join("a/new"), b"new").unwrap();
    let (third, _) = fixture.save(top.path());
    assert_eq!((third.files_new, third.files_changed, third.files_unchanged), (1, 1, 2));
    assert_eq!(third.read_bytes, 8);
    let entries = fixture.entries_below(&third, top.path());
    assert_eq!(fixture.content(&entries["a/other"]), b"SMALL");
    assert_eq!(fixture.content(&entries["a/b/file"]), noise(1, 10_000));
}
