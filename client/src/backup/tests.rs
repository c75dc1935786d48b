//! Whole backups into a repository in memory, read back.

mod bundles;

mod cached;

mod deltas;

mod model;

mod sources;

mod special;

mod streams;

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
