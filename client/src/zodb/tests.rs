//! Whole storages saved and brought back; what they are damaged by and what happens meanwhile.

use super::scan::{Found, Scan};
use super::storage::{Forward, Storage, Tail};
use super::testing::{BLOB, Data, House, noise, tid, transaction};
use super::transaction::{FIRST, Tid};
use crate::backup::testing::Told;
use chunkstore::Error;
use chunkstore::store::Store;
use proptest::prelude::*;
use std::fs::{remove_file, rename, write};
use std::os::unix::fs::MetadataExt;

fn scan(bytes: &[u8], pieces: usize) -> chunkstore::Result<Found> {
    let mut scan = Scan::new("x".into(), FIRST, Found::default());
    for piece in bytes[4..].chunks(pieces.max(1)) {
        scan.push(piece)?;
    }
    Ok(scan.found)
}

/// All that a storage's file lets through.
fn forward(bytes: &[u8]) -> chunkstore::Result<(Vec<u8>, Tail)> {
    let temp = tempfile::tempdir().unwrap();
    write(temp.path().join("Data.fs"), bytes).unwrap();
    let storage = Storage::open(&temp.path().join("Data.fs"))?;
    let mut forward = Forward::whole(&storage);
    let mut read = Vec::new();
    let mut buffer = vec![0; 1000];
    loop {
        match forward.read(&mut buffer)? {
            0 => break,
            len => read.extend_from_slice(&buffer[..len]),
        }
    }
    assert_eq!(forward.end, read.len() as u64);
    Ok((read, forward.tail))
}

fn small() -> House {
    let mut house = House::new();
    house.add(&[(0, Data::Pickle(b"root"))]);
    let at = house.add(&[(5, Data::Pickle(BLOB)), (6, Data::Pickle(&noise(1, 200)))]);
    house.add(&[]);
    house.add(&[(5, Data::At(at + 31)), (6, Data::At(0))]);
    house
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn pieces_do_not_matter(pieces in 1usize..300) {
        let house = small();
        let found = scan(&house.bytes, pieces).unwrap();
        prop_assert_eq!(&found, &scan(&house.bytes, 1 << 20).unwrap());
        prop_assert_eq!(found.transactions, 4);
        prop_assert_eq!(found.first, Some(Tid(tid(1))));
        prop_assert_eq!(found.last.map(|last| (last.tid, last.position)), Some((Tid(tid(4)), house.ends[2])));
        prop_assert_eq!((found.blobs.len(), found.borrowed.len()), (1, 1));
    }

    #[test]
    fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = scan(&[b"FS30", &bytes[..]].concat(), 7);
        let _ = forward(&[b"FS30", &bytes[..]].concat());
    }
}

#[test]
fn every_truncation_ends_at_a_transaction() {
    let house = small();
    let ends: Vec<u64> = std::iter::once(4).chain(house.ends.iter().copied()).collect();
    for len in 4..house.bytes.len() {
        let (read, tail) = forward(&house.bytes[..len]).unwrap();
        let end = ends.iter().rev().find(|end| **end <= len as u64).unwrap();
        assert_eq!(read, house.bytes[..usize::try_from(*end).unwrap()]);
        let left = len as u64 - end;
        let expected = match left {
            0 => Tail::Nothing,
            1..23 => Tail::Unfinished(left),
            _ => Tail::Torn(left),
        };
        assert_eq!(tail, expected, "{len}");
    }
    for len in 0..4 {
        assert!(matches!(forward(&house.bytes[..len]), Err(Error::Corrupt { .. })));
    }
}

#[test]
fn every_flipped_bit_is_borne() {
    let house = small();
    for at in 0..house.bytes.len() * 8 {
        let mut bytes = house.bytes.clone();
        bytes[at / 8] ^= 1 << (at % 8);
        match forward(&bytes) {
            Ok((read, _)) => assert_eq!(read, bytes[..read.len()]),
            Err(error) => assert!(matches!(error, Error::Corrupt { .. }), "{error}"),
        }
    }
}

#[test]
fn what_is_not_committed_is_left_out() {
    let house = small();
    let at = house.bytes.len() as u64;
    let next = |status| transaction(at, tid(5), status, "x", &[(9, Data::Pickle(&noise(9, 5000)))]);
    let read = |tail: &[u8]| forward(&[&house.bytes, tail].concat()).unwrap();
    assert_eq!(read(&next(b'c')), (house.bytes.clone(), Tail::Unfinished(next(b'c').len() as u64)));
    assert_eq!(read(&next(b'c')[..100]), (house.bytes.clone(), Tail::Unfinished(100)));
    assert_eq!(read(&next(b' ')[..100]), (house.bytes.clone(), Tail::Torn(100)));
    assert_eq!(read(&[0; 100]), (house.bytes.clone(), Tail::Torn(100)));
    assert_eq!(read(&next(b'p')).0.len(), house.bytes.len() + next(b'p').len());
    assert_eq!(read(&next(b'u')).0.len(), house.bytes.len() + next(b'u').len());
    // What is damaged before whole ones is not a torn end.
    let mut damaged = house.bytes.clone();
    let second = usize::try_from(house.ends[0]).unwrap();
    damaged[second + 16] = b'x';
    let error = forward(&damaged).unwrap_err().to_string();
    assert!(error.contains("whole transactions follow") && error.contains(&format!("at {second}")), "{error}");
}

#[test]
fn a_storage_is_saved_with_its_blobs_and_nothing_else() {
    let mut house = House::new();
    house.fill(20, 20_000);
    // Of no transaction, not committed yet, or no blobs at all.
    house.write_blob(3, 99);
    house.write_blob(77, 99);
    for name in ["blobstorage/tmp/x", "blobstorage/README", "filestorage/Data.fs.old", "filestorage/Data.fs.lock"] {
        write(house.site_dir().join(name), b"x").unwrap();
    }
    let saved = house.save();
    let held = house.held(&saved);
    assert_eq!(held["filestorage/Data.fs"], house.bytes);
    assert_eq!(held.len(), 1 + 1 + 20, "the storage, the layout, the blobs: {:?}", held.keys());
    for n in 1..=20 {
        let path = house.blob_path(n, n);
        let name = path.strip_prefix(house.site_dir()).unwrap().to_str().unwrap().to_owned();
        assert_eq!(held[&name], noise(n * 1001, 3000));
    }
    let coverage = &saved.coverage;
    assert_eq!((coverage.transactions, coverage.blobs, coverage.blobs_missing), (20, 20, 0));
    assert_eq!((coverage.first, coverage.last), (Some(Tid(tid(1))), Some(Tid(tid(20)))));
    assert_eq!((coverage.end, coverage.read_from), (house.bytes.len() as u64, 0));
    assert!(!coverage.index);
    assert!(house.blob_dir().join("tmp").is_dir());
    assert!(house.fixture.entries_below(&saved.outcome, &house.site_dir()).contains_key("blobstorage/tmp"));
    assert!(!house.fixture.entries_below(&saved.outcome, &house.blob_dir()).keys().any(|path| path.ends_with("0x4d")));
}

#[test]
fn a_lawn_is_a_layout_too() {
    let mut house = House::lawn();
    house.fill(5, 100);
    house.write_blob(3, 99);
    assert_eq!(house.held(&house.save()).len(), 7);
    remove_file(house.blob_path(4, 4)).unwrap();
    let (saved, problems) = house.save_with_problems();
    assert_eq!(saved.coverage.blobs_missing, 1);
    assert!(problems[0].contains("blobstorage/0x04/") && problems[0].contains("blob is missing"), "{problems:?}");
}

#[test]
fn later_runs_read_the_tail() {
    let mut house = House::new();
    house.fill(40, 50_000);
    let first = house.save();
    assert!(first.coverage.read_bytes >= house.bytes.len() as u64);
    let unchanged = house.save();
    assert!(unchanged.coverage.read_bytes <= 49 << 10, "{}", unchanged.coverage.read_bytes);
    assert_eq!(unchanged.outcome.files_changed + unchanged.outcome.files_new, 0);
    for step in 0..12 {
        let before = house.bytes.len() as u64;
        house.fill(1 + step % 3, 7000 * usize::try_from(step).unwrap() + 10);
        let saved = house.save();
        let tail = house.bytes.len() as u64 - before;
        assert!(saved.coverage.read_bytes <= tail + (64 << 10), "{} for {tail}", saved.coverage.read_bytes);
        assert!(saved.coverage.read_from > 0 && saved.coverage.transactions == house.ends.len() as u64);
        assert_eq!(saved.coverage.blobs, house.ends.len() as u64);
        assert_eq!(saved.coverage.first, Some(Tid(tid(1))));
        assert_eq!(house.held_data_fs(&saved), house.bytes);
        assert_eq!(house.held(&saved).len(), 2 + house.ends.len());
    }
    // The same bytes, read in one go, are mostly known.
    std::fs::remove_dir_all(house.fixture.cache_dir()).unwrap();
    let again = house.save();
    assert_eq!(again.coverage.read_from, 0);
    assert!(again.outcome.new_bytes < house.bytes.len() as u64 * 2 / 3, "{}", again.outcome.new_bytes);
    assert_eq!(house.held_data_fs(&again), house.bytes);
}

#[test]
fn another_storage_in_the_same_file_is_read_in_full() {
    let mut house = House::new();
    house.fill(40, 20_000);
    house.save();
    let inode = || std::fs::metadata(house.data_fs()).unwrap().ino();
    let before = inode();
    // A copy of another one over it, as `cp` does, of another history but the same size.
    let mut other = House::new();
    other.fill(39, 20_000);
    other.add(&[(40, Data::Pickle(BLOB)), (100_040, Data::Pickle(&noise(4711, 20_000)))]);
    assert_eq!(other.bytes.len(), house.bytes.len());
    write(house.data_fs(), &other.bytes).unwrap();
    assert_eq!(inode(), before);
    let saved = house.save();
    assert_eq!(saved.coverage.read_from, 0);
    assert_eq!(house.held_data_fs(&saved), other.bytes);
    // A longer one.
    let mut longer = House::new();
    longer.fill(30, 20_000);
    longer.fill(15, 20_001);
    write(house.data_fs(), &longer.bytes).unwrap();
    let (saved, _) = house.save_with_problems();
    assert_eq!(saved.coverage.read_from, 0);
    assert_eq!(house.held_data_fs(&saved), longer.bytes);
    // Packed: another inode.
    let packed = house.site_dir().join("filestorage/Data.fs.pack");
    write(&packed, &longer.bytes).unwrap();
    rename(&packed, house.data_fs()).unwrap();
    assert_eq!(house.save_with_problems().0.coverage.read_from, 0);
}

#[test]
fn a_file_that_became_shorter_is_told() {
    let mut house = House::new();
    house.fill(10, 30_000);
    house.save();
    house.bytes.truncate(usize::try_from(house.ends[7]).unwrap());
    house.write();
    let (saved, problems) = house.save_with_problems();
    assert!(problems[0].contains("it was cut short since"), "{problems:?}");
    assert_eq!(saved.coverage.transactions, 8);
    assert_eq!(house.held_data_fs(&saved), house.bytes);
    assert_eq!(house.save().coverage.transactions, 8);
}

#[test]
fn what_is_remembered_is_not_believed_when_it_may_be_gone() {
    let mut house = House::new();
    house.fill(30, 30_000);
    house.save();
    house.fixture.reopen(true);
    assert!(house.save().coverage.read_from > 0, "it was asked for and is there");
    // Another repository that knows nothing of it.
    let mut other = House::new();
    other.fill(30, 30_000);
    let state = |house: &House| {
        let mut found = std::fs::read_dir(house.fixture.cache_dir()).unwrap().map(|entry| entry.unwrap().path());
        found.find(|path| path.extension().is_some_and(|extension| extension == "zodb")).unwrap()
    };
    other.save();
    let (mine, theirs) = (state(&house), state(&other));
    // Damaged.
    let mut bytes = std::fs::read(&mine).unwrap();
    bytes[100] ^= 1;
    write(&mine, bytes).unwrap();
    assert_eq!(house.save().coverage.read_from, 0);
    std::fs::copy(theirs, &mine).unwrap();
    assert_eq!(house.save().coverage.read_from, 0, "it is of another file");
}

#[test]
fn torn_ends_are_told() {
    let mut house = House::new();
    house.fill(3, 30_000);
    let at = house.bytes.len() as u64;
    let next = transaction(at, tid(4), b' ', "", &[(9, Data::Pickle(&noise(9, 5000)))]);
    house.write_with(&next[..4000]);
    let (saved, problems) = house.save_with_problems();
    assert!(problems[0].contains("its last transaction is torn: the 4000 bytes from"), "{problems:?}");
    assert_eq!(house.held_data_fs(&saved), house.bytes);
    // Unfinished, and nobody is there to finish it.
    house.write_with(&transaction(at, tid(4), b'c', "", &[]));
    let (saved, problems) = house.save_with_problems();
    assert_eq!((problems.len(), house.held_data_fs(&saved)), (1, house.bytes.clone()));
    // A server is there.
    let lock = std::fs::File::create(house.site_dir().join("filestorage/Data.fs.lock")).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
    assert_eq!(house.held_data_fs(&house.save()), house.bytes);
    house.write_with(&next[..4000]);
    assert_eq!(house.save_with_problems().1.len(), 1, "no server leaves it so");
}

#[test]
fn damage_fails_and_leaves_no_snapshot() {
    let mut house = House::new();
    house.fill(3, 30_000);
    let mut bytes = house.bytes.clone();
    bytes[usize::try_from(house.ends[0]).unwrap() + 10] = 0xff;
    write(house.data_fs(), &bytes).unwrap();
    let error = house.try_save(&Told::default()).unwrap_err();
    assert!(matches!(&error, Error::Corrupt { object, .. } if object.contains("the transaction at")), "{error}");
    write(house.data_fs(), b"PK\x03\x04").unwrap();
    let error = house.try_save(&Told::default()).unwrap_err();
    assert!(error.to_string().contains("does not begin like a FileStorage"), "{error}");
    assert!(house.fixture.repository.snapshots().unwrap().is_empty());
    house.write();
    house.save();
}

#[test]
fn missing_blobs_are_named() {
    let mut house = House::new();
    house.fill(4, 100);
    remove_file(house.blob_path(2, 2)).unwrap();
    let (saved, problems) = house.save_with_problems();
    let path = house.blob_path(2, 2).display().to_string();
    assert!(problems[0].contains(&path) && problems[0].contains(&Tid(tid(2)).to_string()), "{problems:?}");
    assert_eq!((saved.coverage.blobs, saved.coverage.blobs_missing), (4, 1));
    assert!(house.fixture.snapshot(&saved.outcome).summary.incomplete);
    std::fs::rename(house.blob_dir(), house.site_dir().join("elsewhere")).unwrap();
    let (_, problems) = house.save_with_problems();
    assert!(problems[0].contains("names 4 blobs, and where they are is not known"), "{problems:?}");
}

#[test]
fn an_undone_change_has_a_blob_of_its_own() {
    let mut house = House::new();
    let at = house.add(&[(5, Data::Pickle(BLOB))]) + 31;
    let back = house.add(&[(5, Data::Pickle(BLOB)), (6, Data::Pickle(b"x"))]);
    // Back to what was there first, by way of a record that leads on.
    let third = house.add(&[(5, Data::At(at))]) + 31;
    house.add(&[(5, Data::At(third)), (6, Data::At(0))]);
    for n in 1..=3 {
        house.write_blob(5, n);
    }
    house.write();
    let (saved, problems) = house.save_with_problems();
    assert!(problems.len() == 1 && problems[0].contains(&house.blob_path(5, 4).display().to_string()), "{problems:?}");
    assert_eq!(saved.coverage.blobs, 4);
    house.write_blob(5, 4);
    house.save();
    // It leads nowhere.
    house.add(&[(5, Data::At(back))]);
    house.write();
    assert!(matches!(house.try_save(&Told::default()), Err(Error::Corrupt { .. })));
}

#[test]
fn a_pack_meanwhile_begins_again() {
    let mut house = House::new();
    house.fill(10, 30_000);
    let mut packed = House::new();
    packed.fill(4, 30_000);
    // When the walk begins, the storage has been read: now somebody packs, and removes the blobs of what was packed away.
    let (data_fs, site) = (house.data_fs(), house.site_dir());
    let (bytes, gone) = (packed.bytes.clone(), house.blob_path(7, 7));
    let blobs: Vec<_> = (5..=10).map(|n| house.blob_path(n, n)).collect();
    let told = Told::acting(move |line| {
        if line.starts_with("current") && line.ends_with("/blobstorage") && gone.exists() {
            write(site.join("filestorage/Data.fs.pack"), &bytes).unwrap();
            rename(&data_fs, site.join("filestorage/Data.fs.old")).unwrap();
            rename(site.join("filestorage/Data.fs.pack"), &data_fs).unwrap();
            blobs.iter().for_each(|blob| remove_file(blob).unwrap());
        }
    });
    let saved = house.try_save(&told).unwrap();
    assert_eq!(told.problems(), Vec::<String>::new());
    assert_eq!((saved.coverage.transactions, saved.coverage.blobs), (4, 4));
    assert_eq!(house.held_data_fs(&saved), packed.bytes);
    assert_eq!(house.fixture.repository.snapshots().unwrap().len(), 1);
    assert!(told.lines().iter().any(|line| line.starts_with("again, packed meanwhile")));
}

#[test]
fn a_commit_meanwhile_is_for_the_next_run() {
    let mut house = House::new();
    house.fill(10, 30_000);
    let expected = house.bytes.clone();
    let data_fs = house.data_fs();
    house.fill(1, 100);
    let more = house.bytes.clone();
    write(&data_fs, &expected).unwrap();
    let blob = house.blob_path(11, 11);
    remove_file(&blob).unwrap();
    let told = Told::acting(move |line| {
        if line.starts_with("current") && line.ends_with("/blobstorage") {
            use std::io::Write;
            let mut file = std::fs::File::options().append(true).open(&data_fs).unwrap();
            file.write_all(&more[expected.len()..]).unwrap();
            std::fs::create_dir_all(blob.parent().unwrap()).unwrap();
            write(&blob, b"new").unwrap();
        }
    });
    let saved = house.try_save(&told).unwrap();
    assert_eq!((saved.coverage.transactions, saved.coverage.blobs, saved.outcome.problems), (10, 10, 0));
    assert_eq!(house.held(&saved).len(), 12);
    let next = house.save_with_problems().0;
    assert_eq!((next.coverage.transactions, next.coverage.blobs), (11, 11));
    assert!(next.coverage.read_from > 0);
}

#[test]
fn a_valid_index_rides_along() {
    let mut house = House::new();
    house.fill(5, 30_000);
    let index = house.site_dir().join("filestorage/Data.fs.index");
    let pickled = |position: u64| [b"\x80\x03\x8a\x08", &position.to_le_bytes()[..], b".rest"].concat();
    let has_index = |position| {
        write(&index, pickled(position)).unwrap();
        let saved = house.save();
        assert_eq!(saved.coverage.index, house.held(&saved).contains_key("filestorage/Data.fs.index"));
        saved.coverage.index
    };
    assert!(has_index(house.ends[4]));
    assert!(has_index(house.ends[2]));
    assert!(!has_index(house.ends[4] + 1));
    assert!(!has_index(house.ends[4] - 1));
    assert!(!has_index(house.ends[4] + 1000));
    assert!(!has_index(0));
}

#[test]
fn it_comes_back_as_of_any_transaction() {
    let mut house = House::new();
    house.fill(6, 30_000);
    let index = house.site_dir().join("filestorage/Data.fs.index");
    write(&index, [b"\x80\x03\x8a\x08", &house.ends[3].to_le_bytes()[..], b".x"].concat()).unwrap();
    let saved = house.save();
    let restored = house.restore(&saved, None).unwrap();
    assert_eq!((restored.transactions, restored.last, restored.blobs), (6, Some(Tid(tid(6))), 6));
    assert!(restored.kept.is_empty() && restored.problems == 0);
    assert_eq!(house.restored(), house.held(&saved));
    for n in (1..=6u64).rev() {
        std::fs::remove_dir_all(house.top.path().join("out")).unwrap();
        let restored = house.restore(&saved, Some(&Tid(tid(n)).to_string())).unwrap();
        assert_eq!((restored.transactions, restored.last, restored.blobs), (n, Some(Tid(tid(n))), n));
        let files = house.restored();
        let end = usize::try_from(house.ends[usize::try_from(n).unwrap() - 1]).unwrap();
        assert_eq!(files["filestorage/Data.fs"], house.bytes[..end]);
        assert_eq!(files.contains_key("filestorage/Data.fs.index"), n >= 4);
        let blobs: Vec<&String> = files.keys().filter(|path| path.ends_with(".blob")).collect();
        assert_eq!(blobs.len() as u64, n);
    }
    let time = Tid(tid(3)).time().unwrap();
    let later = time.checked_add(jiff::SignedDuration::from_millis(300)).unwrap();
    assert_eq!(house.restore(&saved, Some(&later.to_string())).unwrap().last, Some(Tid(tid(3))));
    let error = house.restore(&saved, Some("2001-01-01")).unwrap_err().to_string();
    assert!(error.contains("no transaction as early") && error.contains(&Tid(tid(1)).to_string()), "{error}");
    let error = house.restore(&saved, Some("0000000000000001")).unwrap_err().to_string();
    assert!(error.contains("no transaction 0000000000000001"), "{error}");
    assert_eq!(
        house.restored().get("filestorage/Data.fs").map(Vec::len),
        Some(usize::try_from(house.ends[2]).unwrap())
    );
}

#[test]
fn what_was_there_is_kept() {
    let mut house = House::new();
    house.fill(3, 1000);
    let saved = house.save();
    house.restore(&saved, None).unwrap();
    let out = house.top.path().join("out");
    write(out.join("filestorage/Data.fs"), b"old").unwrap();
    write(out.join("filestorage/Data.fs.index"), b"old index").unwrap();
    write(out.join("blobstorage/extra"), b"extra").unwrap();
    let restored = house.restore(&saved, None).unwrap();
    let files = house.restored();
    assert_eq!(files["filestorage/Data.fs"], house.bytes);
    assert_eq!(files["filestorage/Data.fs.before_stamp"], b"old");
    assert_eq!(files["filestorage/Data.fs.before_stamp.index"], b"old index");
    assert_eq!(files["blobstorage.before_stamp/extra"], b"extra");
    assert!(!files.contains_key("filestorage/Data.fs.index") && !files.contains_key("blobstorage/extra"));
    assert_eq!(restored.kept.len(), 2);
    assert!(!files.keys().any(|path| path.contains("restoring")));
}

#[test]
fn an_incomplete_restore_touches_nothing() {
    let mut house = House::new();
    house.fill(3, 30_000);
    let saved = house.save();
    house.restore(&saved, None).unwrap();
    let out = house.top.path().join("out");
    write(out.join("filestorage/Data.fs"), b"old").unwrap();
    let before = house.restored();
    // Interrupted.
    let plan = house.plan(&saved, None).unwrap();
    let told = Told::default();
    let interrupted = std::sync::atomic::AtomicBool::new(true);
    let reader = house.fixture.reader();
    let outcome = super::restore::restore(&reader, &plan, "stamp", &told, &interrupted);
    assert!(matches!(outcome, Err(Error::Interrupted)));
    let left = |files: std::collections::BTreeMap<String, Vec<u8>>| {
        files
            .into_iter()
            .filter(|(path, _)| !path.contains(".restoring-"))
            .collect::<std::collections::BTreeMap<_, _>>()
    };
    assert_eq!(left(house.restored()), before);
    // A server has it open.
    let lock = std::fs::File::create(out.join("filestorage/Data.fs.lock")).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let error = house.restore(&saved, None).unwrap_err().to_string();
    assert!(error.contains("has it open"), "{error}");
    drop(lock);
    remove_file(out.join("filestorage/Data.fs.lock")).unwrap();
    assert_eq!(left(house.restored()), before);
    // The same once more: it goes on, and ends.
    assert_eq!(house.restore(&saved, None).unwrap().last, Some(Tid(tid(3))));
    assert_eq!(house.restored()["filestorage/Data.fs"], house.bytes);
}

#[test]
fn an_incomplete_snapshot_comes_back_with_what_it_has() {
    let mut house = House::new();
    house.fill(3, 100);
    remove_file(house.blob_path(2, 2)).unwrap();
    let (saved, _) = house.save_with_problems();
    let restored = house.restore(&saved, None).unwrap();
    assert_eq!((restored.blobs, restored.problems), (2, 1));
}

#[test]
fn a_dry_run_remembers_nothing() {
    let mut house = House::new();
    house.fill(10, 30_000);
    let told = Told::default();
    let request = crate::backup::Request { dry_run: true, ..House::request() };
    let cache_dir = house.fixture.cache_dir();
    let saved = super::save(&house.fixture.context(&told, &cache_dir), &request, &house.site()).unwrap();
    assert!(saved.outcome.snapshot.is_none() && saved.coverage.transactions == 10);
    assert_eq!(house.save().coverage.read_from, 0);
    let skip = crate::backup::Request { skip_if_unchanged: true, ..House::request() };
    let saved = super::save(&house.fixture.context(&told, &cache_dir), &skip, &house.site()).unwrap();
    assert!(saved.outcome.snapshot.is_none());
    house.fill(1, 10);
    let saved = super::save(&house.fixture.context(&told, &cache_dir), &skip, &house.site()).unwrap();
    assert!(saved.outcome.snapshot.is_some());
}
