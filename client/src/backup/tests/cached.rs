//! What the change cache spares, and what it must never hide.

use super::*;
use chunkstore::backend::simulated::Fault;
use chunkstore::backend::{Backend, ObjectKind};
use std::sync::Arc;

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
    assert_eq!(second.read_bytes, 0);
    assert_eq!((second.new_bytes, second.added_bytes), (0, 0));
    assert_eq!(second.totals, Totals { added_bytes: 0, ..first.totals });
    assert_eq!(fixture.entries_below(&first, top.path()), fixture.entries_below(&second, top.path()));
    assert!(told.lines().contains(&format!("unchanged {}", top.path().join("a/b/file").display())));
    let (one, two) = (fixture.snapshot(&first).summary, fixture.snapshot(&second).summary);
    assert_eq!((one.sequence, one.previous), (0, None));
    assert_eq!((two.sequence, two.previous), (1, first.snapshot));
    std::fs::write(top.path().join("a/other"), b"SMALL").unwrap();
    std::fs::write(top.path().join("a/new"), b"new").unwrap();
    let (third, _) = fixture.save(top.path());
    assert_eq!((third.files_new, third.files_changed, third.files_unchanged), (1, 1, 2));
    assert_eq!(third.read_bytes, 8);
    let entries = fixture.entries_below(&third, top.path());
    assert_eq!(fixture.content(&entries["a/other"]), b"SMALL");
    assert_eq!(fixture.content(&entries["a/b/file"]), noise(1, 10_000));
}

/// A tree of three files, saved once.
fn saved() -> (Fixture, tempfile::TempDir) {
    let (fixture, top) = (Fixture::new(), tempfile::tempdir().unwrap());
    std::fs::create_dir(top.path().join("d")).unwrap();
    for (name, seed) in [("a", 1), ("d/b", 3), ("d/c", 3)] {
        std::fs::write(top.path().join(name), noise(seed, 5000)).unwrap();
    }
    wait_until_settled();
    let (first, _) = fixture.save(top.path());
    assert_eq!(first.files_new, 3);
    (fixture, top)
}

fn cache_files(fixture: &Fixture, suffix: &str) -> Vec<PathBuf> {
    let below = |path: &Path| std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()).collect::<Vec<_>>();
    let found = below(&fixture.cache_dir()).iter().flat_map(|path| below(path)).collect::<Vec<_>>();
    found.into_iter().filter(|path| path.extension().is_some_and(|found| found == suffix)).collect()
}

fn counts(outcome: &Outcome) -> (u64, u64, u64) {
    (outcome.files_new, outcome.files_changed, outcome.files_unchanged)
}

#[test]
fn a_lost_or_damaged_cache_costs_a_read_and_no_more() {
    let (fixture, top) = saved();
    let (before, _) = fixture.save(top.path());
    let path = cache_files(&fixture, "cache").remove(0);
    let whole = std::fs::read(&path).unwrap();
    let middle = whole.len() / 2;
    let damaged: [Option<Vec<u8>>; 4] = [
        None,
        Some(Vec::new()),
        Some(whole[..middle].to_vec()),
        Some(whole.iter().enumerate().map(|(at, byte)| if at == middle { !byte } else { *byte }).collect()),
    ];
    for bytes in damaged {
        std::fs::remove_file(&path).unwrap();
        if let Some(bytes) = bytes {
            std::fs::write(&path, bytes).unwrap();
        }
        let (again, told) = fixture.save(top.path());
        assert_eq!(counts(&again), (3, 0, 0));
        assert_eq!(again.read_bytes, 15_000);
        assert!(again.new_bytes < 1000, "at most nodes of the directories above, which others may change");
        assert!(told.problems().is_empty());
        assert_eq!(fixture.entries_below(&before, top.path()), fixture.entries_below(&again, top.path()));
        assert_eq!(counts(&fixture.save(top.path()).0), (0, 0, 3), "it is made anew");
    }
}

#[test]
fn another_generation_is_asked_for_every_id() {
    let (mut fixture, top) = saved();
    fixture.reopen(true);
    let (again, _) = fixture.save(top.path());
    assert_eq!(counts(&again), (0, 0, 3), "all is still there");
    // One of the packs goes, and with it what the cache believes to be stored.
    let stored = |fixture: &Fixture| fixture.backend.list(ObjectKind::Pack).unwrap().into_iter().map(|(pack, _)| pack);
    let packs: Vec<_> = stored(&fixture).collect();
    assert_eq!(packs.len(), 2, "data and nodes");
    for pack in &packs {
        let bytes = fixture.backend.get(*pack).unwrap();
        fixture.backend.damage(*pack, None);
        fixture.reopen(true);
        let (again, told) = fixture.save(top.path());
        assert!(again.added_bytes > 0 && told.problems().is_empty());
        let entries = fixture.entries_below(&again, top.path());
        assert_eq!(fixture.content(&entries["d/b"]), noise(3, 5000));
        assert_eq!(fixture.content(&entries["a"]), noise(1, 5000));
        // What was stored in its place would make up for the next one too.
        for other in stored(&fixture).filter(|other| !packs.contains(other)) {
            fixture.backend.damage(other, None);
        }
        fixture.backend.damage(*pack, Some(bytes));
    }
}

#[test]
fn an_id_that_went_without_notice_is_noticed() {
    let (mut fixture, top) = saved();
    let place = |fixture: &Fixture| std::fs::read(cache_files(fixture, "cache").remove(0)).unwrap();
    let trusted = place(&fixture);
    // Everything is lost, but the cache is made to claim the present generation.
    for (pack, _) in fixture.backend.list(ObjectKind::Pack).unwrap() {
        fixture.backend.damage(pack, None);
    }
    fixture.reopen(true);
    let elsewhere = tempfile::tempdir().unwrap();
    std::fs::write(elsewhere.path().join("x"), b"x").unwrap();
    fixture.save(elsewhere.path());
    let header = place(&fixture)[..88].to_vec();
    std::fs::write(cache_files(&fixture, "cache").remove(0), [&header[..], &trusted[88..]].concat()).unwrap();
    std::fs::write(top.path().join("d/new"), b"so that a node is written that links to what went").unwrap();
    let (again, _) = fixture.save(top.path());
    let entries = fixture.entries_below(&again, top.path());
    assert_eq!(fixture.content(&entries["d/b"]), noise(3, 5000));
}

#[test]
fn what_changed_just_now_is_read_again() {
    let (fixture, top) = (Fixture::new(), tempfile::tempdir().unwrap());
    let file = top.path().join("file");
    std::fs::write(&file, b"one").unwrap();
    let modified = std::fs::metadata(&file).unwrap().modified().unwrap();
    fixture.save(top.path());
    // As if the clock of the file system had not moved on: same size, same times as far as a cache could tell.
    std::fs::write(&file, b"two").unwrap();
    std::fs::File::options().write(true).open(&file).unwrap().set_modified(modified).unwrap();
    let (again, _) = fixture.save(top.path());
    assert_eq!(fixture.content(&fixture.entries_below(&again, top.path())["file"]), b"two");
    let (unchanged, _) = fixture.save(top.path());
    assert_eq!((counts(&unchanged), unchanged.read_bytes), ((0, 0, 1), 3), "read again, found the same");
    wait_until_settled();
    assert_eq!(fixture.save(top.path()).0.read_bytes, 3);
    assert_eq!(fixture.save(top.path()).0.read_bytes, 0);
}

#[test]
fn attributes_alone_are_a_change() {
    use std::os::unix::fs::PermissionsExt;
    let (fixture, top) = saved();
    std::fs::set_permissions(top.path().join("a"), PermissionsExt::from_mode(0o4700)).unwrap();
    std::fs::set_permissions(top.path().join("d"), PermissionsExt::from_mode(0o1700)).unwrap();
    let (again, _) = fixture.save(top.path());
    assert_eq!(counts(&again), (0, 1, 2));
    let entries = fixture.entries_below(&again, top.path());
    assert_eq!((entries["a"].attributes.mode, entries["d"].attributes.mode), (0o4700, 0o1700));
    std::fs::rename(top.path().join("d/c"), top.path().join("d/e")).unwrap();
    let (again, _) = fixture.save(top.path());
    assert_eq!(again.files_new, 1);
    assert_eq!(again.totals.files, 3);
}

#[test]
fn other_options_change_what_is_saved_not_what_is_known() {
    let (fixture, top) = saved();
    let mut options = given(&[top.path()]);
    options.excludes = vec!["b".into()];
    let (less, _) = fixture.save_with(&options, Told::default());
    assert_eq!((counts(&less), less.totals.files, less.read_bytes), ((0, 0, 2), 2, 0));
    assert!(!fixture.entries_below(&less, top.path()).contains_key("d/b"));
    let (more, _) = fixture.save(top.path());
    assert_eq!((counts(&more), more.totals.files), ((1, 0, 2), 3));
}

#[test]
fn an_interrupted_first_run_is_continued() {
    let (fixture, top) = (Fixture::new(), tempfile::tempdir().unwrap());
    for name in 0..3000 {
        std::fs::write(top.path().join(format!("{name:06}")), noise(1, 4000)).unwrap();
    }
    wait_until_settled();
    let interrupted = fixture.interrupted.clone();
    let told = Told::acting(move |line| {
        if line.starts_with("new ") && line.ends_with("002500") {
            interrupted.store(true, Ordering::Relaxed);
        }
    });
    let stopped = fixture.try_save(&given(&[top.path()]), &told);
    assert!(matches!(stopped, Err(Error::Interrupted)), "{stopped:?}");
    assert!(fixture.repository.snapshots().unwrap().is_empty());
    assert_eq!(cache_files(&fixture, "partial").len(), 1);
    fixture.interrupted.store(false, Ordering::Relaxed);
    let (again, _) = fixture.save(top.path());
    assert!(again.files_unchanged > 300, "{}", again.files_unchanged);
    assert_eq!(again.totals.files, 3000);
    assert_eq!(again.read_bytes, again.files_new * 4000);
    assert!(cache_files(&fixture, "partial").is_empty());
    assert_eq!(fixture.save(top.path()).0.read_bytes, 0);
}

#[test]
fn whatever_write_fails_nothing_is_committed_and_the_next_run_is_whole() {
    for fault in [Fault::Error(std::io::ErrorKind::StorageFull), Fault::Stop { applied: true }] {
        for nth in 1..=3 {
            let (mut fixture, top) = (Fixture::new(), tempfile::tempdir().unwrap());
            for name in 0..40u8 {
                std::fs::write(top.path().join(format!("{name}")), noise(name, 900_000)).unwrap();
            }
            std::fs::write(top.path().join("large"), noise(200, 20 << 20)).unwrap();
            fixture.backend.arm(nth, fault);
            let failed = fixture.try_save(&given(&[top.path()]), &Told::default());
            let error = failed.err().unwrap_or_else(|| panic!("write {nth} failed without notice"));
            let is_full = matches!(error, Error::Full { .. });
            assert_eq!(is_full, !matches!(fault, Fault::Stop { .. }), "the reason is told: {error}");
            fixture.reopen(false);
            if !matches!(fault, Fault::Stop { .. }) {
                assert!(fixture.repository.snapshots().unwrap().is_empty());
            }
            let (again, told) = fixture.save(top.path());
            assert!(told.problems().is_empty());
            let entries = fixture.entries_below(&again, top.path());
            assert_eq!(entries.len(), 41);
            assert!(fixture.content(&entries["7"]) == noise(7, 900_000));
        }
    }
}

#[test]
fn two_runs_at_once_do_not_share_a_cache() {
    let (fixture, top) = saved();
    let repository = fixture.repository.clone();
    let place = unchanged::Place::new(
        &fixture.cache_dir(),
        &repository.configuration().repository,
        &Fixture::request().dataset,
        repository.generation().unwrap(),
    );
    let other = place.write().unwrap();
    let (again, _) = fixture.save(top.path());
    assert_eq!(counts(&again), (0, 0, 3));
    place.abandon(other);
    assert_eq!(counts(&fixture.save(top.path()).0), (0, 0, 3));
    drop(Arc::clone(&repository));
}

#[test]
fn snapshots_of_a_dataset_form_a_chain() {
    let (fixture, top) = (Fixture::new(), tempfile::tempdir().unwrap());
    std::fs::write(top.path().join("a"), b"x").unwrap();
    let mut previous = None;
    for sequence in 0..8 {
        // Others do not belong to it: another dataset, and another writer of the same one.
        let told = Told::default();
        let cache_dir = fixture.cache_dir();
        let other = Request { dataset: "host/files/other".into(), ..Fixture::request() };
        files(&fixture.context(&told, &cache_dir), &other, &given(&[top.path()])).unwrap();
        let (writer, _) = Writer::generate().unwrap();
        let context = Context { writer: &writer, ..fixture.context(&told, &cache_dir) };
        files(&context, &Fixture::request(), &given(&[top.path()])).unwrap();
        let (outcome, _) = fixture.save(top.path());
        let summary = fixture.snapshot(&outcome).summary;
        assert_eq!((summary.sequence, summary.previous), (sequence, previous));
        previous = outcome.snapshot;
    }
}
