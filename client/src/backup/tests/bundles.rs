//! Small files that share chunks: what is stored of them, when they change, move, or are there twice.

use super::super::testing::{Fixture, Told};
use super::{noise, wait_until_settled};
use crate::backup::{Deltas, FilesOptions, Outcome};
use chunkstore::configuration::Configuration;
use chunkstore::list::{Item, Slice};
use chunkstore::store::Store;
use chunkstore::tree::{Content, Entry, Node};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Words in an order of their own for each seed, so that no file resembles another.
fn text(seed: u8, len: usize) -> Vec<u8> {
    let mut text: Vec<u8> = noise(seed, len / 2).iter().flat_map(|byte| format!("{byte:02x}").into_bytes()).collect();
    text.truncate(len);
    text
}

/// Two hundred files of 3 to 23 kB in four directories.
fn make(top: &Path) {
    for n in 0..200u8 {
        let directory = top.join(format!("d{}", n / 50));
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::write(directory.join(format!("f{n:03}")), text(n, 3000 + usize::from(n) * 100)).unwrap();
    }
}

fn slice(entry: &Entry) -> Option<Slice> {
    match &entry.node {
        Node::File(Content::Items { items, .. }) => match items.as_slice() {
            [Item::Slice(slice)] => Some(*slice),
            _ => None,
        },
        _ => None,
    }
}

fn slices(entries: &BTreeMap<String, Entry>) -> Vec<Slice> {
    entries.values().filter_map(slice).collect()
}

fn verify(fixture: &Fixture, outcome: &Outcome, top: &Path) -> BTreeMap<String, Entry> {
    let entries = fixture.entries_below(outcome, top);
    for (path, entry) in entries.iter().filter(|(_, entry)| matches!(entry.node, Node::File(_))) {
        assert!(fixture.content(entry) == std::fs::read(top.join(path)).unwrap(), "{path}");
    }
    entries
}

#[test]
fn small_files_share_chunks() {
    let (fixture, top) = (Fixture::new(), tempfile::tempdir().unwrap());
    make(top.path());
    std::fs::write(top.path().join("large"), noise(1, 300_000)).unwrap();
    std::fs::write(top.path().join("tiny"), b"tiny").unwrap();
    let (outcome, told) = fixture.save(top.path());
    assert!(told.problems().is_empty());
    let entries = verify(&fixture, &outcome, top.path());
    // The key may end a bundle before the last of them, which is then alone.
    assert!((199..=200).contains(&slices(&entries).len()));
    let chunks: BTreeSet<_> = slices(&entries).iter().map(|slice| slice.link).collect();
    // 2.6 MB in bundles of 128 to 512 KiB.
    assert!((5..=21).contains(&chunks.len()), "{} chunks", chunks.len());
    assert!(slice(&entries["large"]).is_none() && slice(&entries["tiny"]).is_none());
}

#[test]
fn a_content_is_stored_once() {
    let (fixture, top) = (Fixture::new(), tempfile::tempdir().unwrap());
    make(top.path());
    let (first, _) = fixture.save(top.path());
    std::fs::create_dir(top.path().join("twice")).unwrap();
    for n in 0..50 {
        std::fs::copy(top.path().join(format!("d0/f{n:03}")), top.path().join(format!("twice/g{n:03}"))).unwrap();
    }
    // Within one run all are the same slices.
    let other = Fixture::new();
    let (both, _) = other.save(top.path());
    let entries = verify(&other, &both, top.path());
    for n in 0..50 {
        let tag = |name: String| slice(&entries[&name]).unwrap().tag;
        assert_eq!(tag(format!("d0/f{n:03}")), tag(format!("twice/g{n:03}")));
    }
    assert!(both.new_bytes < first.new_bytes + 30_000, "{} and {}", both.new_bytes, first.new_bytes);
}

#[test]
fn a_directory_that_moved_is_known() {
    let (fixture, top) = (Fixture::new(), tempfile::tempdir().unwrap());
    make(top.path());
    let (first, _) = fixture.save(top.path());
    for n in 0..4 {
        std::fs::rename(top.path().join(format!("d{n}")), top.path().join(format!("m{n}"))).unwrap();
    }
    let (moved, _) = fixture.save(top.path());
    verify(&fixture, &moved, top.path());
    assert_eq!(moved.files_new, 200);
    assert!(moved.new_bytes < first.new_bytes / 20, "{} of {}", moved.new_bytes, first.new_bytes);
}

#[test]
fn a_file_that_is_read_again_stays_where_it_is() {
    let (fixture, top) = (Fixture::new(), tempfile::tempdir().unwrap());
    make(top.path());
    let (first, _) = fixture.save(top.path());
    let before = fixture.entries_below(&first, top.path());
    for n in (0..50).step_by(3) {
        let file = std::fs::File::options().write(true).open(top.path().join(format!("d0/f{n:03}"))).unwrap();
        file.set_modified(std::time::UNIX_EPOCH).unwrap();
    }
    let (second, _) = fixture.save(top.path());
    let after = verify(&fixture, &second, top.path());
    assert_eq!(slices(&before), slices(&after));
    assert!(second.new_bytes < 20_000, "nodes: {}", second.new_bytes);
}

/// Changes every tenth file a little.
fn change(top: &Path, version: u64) {
    for n in (0..200).step_by(10) {
        let path = top.join(format!("d{}/f{n:03}", n / 50));
        let mut content = std::fs::read(&path).unwrap();
        content.splice(1000..1000, format!("version {version}").into_bytes());
        std::fs::write(path, content).unwrap();
    }
}

#[test]
fn files_that_change_become_deltas_of_what_they_were() {
    let keep = |_: &Fixture| Deltas::Keep { bytes_max: 64 << 20 };
    for deltas in [(|fixture| Deltas::Read(Box::new(fixture.reader()))) as fn(&Fixture) -> Deltas, keep] {
        let (mut fixture, top) = (Fixture::new(), tempfile::tempdir().unwrap());
        fixture.deltas = deltas(&fixture);
        make(top.path());
        wait_until_settled();
        let (first, _) = fixture.save(top.path());
        let shared = slices(&fixture.entries_below(&first, top.path())).len();
        for version in 1..6 {
            change(top.path(), version);
            let (next, told) = fixture.save(top.path());
            assert!(told.problems().is_empty());
            assert_eq!((next.files_changed, next.files_unchanged), (20, 180));
            let entries = verify(&fixture, &next, top.path());
            assert_eq!(slices(&entries).len(), shared);
            assert!(next.delta_chunks > 0 && next.delta_content_bytes > 200_000, "{version}: {next:?}");
            assert!(next.added_bytes < first.added_bytes / 20, "{version}: {next:?} of {first:?}");
        }
    }
}

#[test]
fn a_file_that_changes_alone_becomes_a_delta() {
    let (mut fixture, top) = (Fixture::new(), tempfile::tempdir().unwrap());
    fixture.deltas = Deltas::Read(Box::new(fixture.reader()));
    make(top.path());
    wait_until_settled();
    fixture.save(top.path());
    let path = top.path().join("d1/f090");
    for version in 1..4 {
        let mut content = std::fs::read(&path).unwrap();
        content.splice(1000..1000, format!("version {version}").into_bytes());
        std::fs::write(&path, &content).unwrap();
        let (next, _) = fixture.save(top.path());
        verify(&fixture, &next, top.path());
        assert_eq!((next.files_changed, next.delta_chunks), (1, 1), "{version}: {next:?}");
        assert!(next.added_bytes < 6000, "{version}: {next:?}");
    }
}

#[test]
fn a_lost_change_cache_costs_little() {
    let (mut fixture, top) = (Fixture::new(), tempfile::tempdir().unwrap());
    fixture.deltas = Deltas::Read(Box::new(fixture.reader()));
    make(top.path());
    let (first, _) = fixture.save(top.path());
    change(top.path(), 1);
    fixture.save(top.path());
    for entry in std::fs::read_dir(fixture.cache_dir()).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && path.file_name().is_some_and(|name| name.len() == 32) {
            std::fs::remove_dir_all(path).unwrap();
        }
    }
    let (again, _) = fixture.save(top.path());
    verify(&fixture, &again, top.path());
    assert_eq!(again.files_new, 200);
    assert!(again.added_bytes < first.added_bytes / 10, "{again:?} of {first:?}");
}

#[test]
fn a_repository_without_slices_gets_none() {
    let top = tempfile::tempdir().unwrap();
    make(top.path());
    let fixture = Fixture::with(Configuration { slices: false, ..Fixture::configuration() });
    let (outcome, _) = fixture.save(top.path());
    assert!(slices(&verify(&fixture, &outcome, top.path())).is_empty());
    assert!(!fixture.repository.configuration().slices);
}

#[test]
fn a_dry_run_counts_a_bundle_once() {
    let (fixture, top) = (Fixture::new(), tempfile::tempdir().unwrap());
    make(top.path());
    let options = FilesOptions { paths: vec![top.path().to_owned()], ..FilesOptions::default() };
    let request = crate::backup::Request { dry_run: true, ..Fixture::request() };
    let told = Told::default();
    let dry = crate::backup::files(&fixture.context(&told, &fixture.cache_dir()), &request, &options).unwrap();
    let (wet, _) = fixture.save(top.path());
    assert_eq!(dry.snapshot, None);
    assert_eq!(dry.new_bytes, wet.new_bytes);
}
