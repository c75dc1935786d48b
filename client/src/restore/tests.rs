//! Whole restores from a repository in a temporary directory.

use super::fixture::*;
use super::{Overwrite, Selection};
use chunkstore::Error;
use chunkstore::tree::{Attributes, Node, Time};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink as make_symlink};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

mod hostile;

mod modes;

fn acl(user: u32, permissions: u8) -> Vec<u8> {
    let mut value = 2u32.to_le_bytes().to_vec();
    let none = u32::MAX;
    for (tag, permissions, id) in
        [(1u16, 6, none), (2, permissions, user), (4, 4, none), (0x10, 6, none), (0x20, 0, none)]
    {
        value.extend(tag.to_le_bytes());
        value.extend(u16::from(permissions).to_le_bytes());
        value.extend(id.to_le_bytes());
    }
    value
}

/// `cap_net_raw` permitted and effective, version 2.
const CAPABILITY: [u8; 20] = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

fn xattr(mut item: Described, name: &str, value: &[u8]) -> Described {
    item.attributes.xattrs.push((name.into(), value.to_vec()));
    item.attributes.xattrs.sort();
    item
}

fn with(mut item: Described, change: impl FnOnce(&mut Attributes)) -> Described {
    change(&mut item.attributes);
    item
}

fn owned(item: Described, uid: u32, gid: u32) -> Described {
    with(item, |a| (a.uid, a.gid) = (uid, gid))
}

/// A bit of everything.
pub fn everything() -> Vec<Described> {
    let sparse = What::File(vec![
        Piece::Hole(3 << 20),
        Piece::Data(noise(1, 100_000)),
        Piece::Hole(1 << 20),
        Piece::Data(noise(2, CHUNK)),
        Piece::Hole(12_345),
    ]);
    let other = |name: &str, node| item(name, 0o620, What::Other(node));
    let specials = vec![
        other("char", Node::CharacterDevice { major: 1, minor: 3 }),
        other("block", Node::BlockDevice { major: 7, minor: 300 }),
        owned(other("fifo", Node::Fifo), 12, 34),
        other("socket", Node::Socket),
        owned(symlink("dangling", "../nowhere"), 5, 6),
        with(symlink("long", &"x".repeat(4000)), |a| a.modified = Time { seconds: -5, nanoseconds: 7 }),
        linked(other("fifo 2", Node::Fifo), 50, 2),
        linked(other("fifo 3", Node::Fifo), 50, 2),
        linked(symlink("link 1", "there"), 51, 2),
        linked(symlink("link 2", "there"), 51, 2),
    ];
    let old = Time { seconds: -1_000_000_000, nanoseconds: 999_999_999 };
    let attributes = vec![
        xattr(xattr(small("user", b"u"), "user.a", b"1"), "user.empty", b""),
        xattr(item("acl", 0o660, What::Inline(b"acl".to_vec())), "system.posix_acl_access", &acl(4711, 6)),
        xattr(owned(data("capable", 3, 5000), 9, 9), "security.capability", &CAPABILITY),
        xattr(small("trusted", b""), "trusted.t", &[0, 255]),
        owned(item("setuid", 0o4755, What::Inline(b"#!".to_vec())), 77, 78),
        with(small("old", b"old"), |a| a.modified = old),
        with(small("immutable", b"i"), |a| a.flags = 0x10 | 0x40),
        with(data("append", 4, 70_000), |a| a.flags = 0x20),
        xattr(directory("defaults", vec![small("in", b"in")]), "system.posix_acl_default", &acl(4711, 5)),
        with(directory("locked", vec![small("in", b"in"), directory("below", vec![])]), |a| a.flags = 0x10),
        owned(item("sticky", 0o3777, What::Directory(vec![])), 1, 2),
    ];
    let links = vec![
        linked(data("one", 5, 150_000), 60, 4),
        linked(data("two", 5, 150_000), 60, 4),
        directory("far", vec![linked(data("three", 5, 150_000), 60, 4), linked(small("a", b"s"), 61, 2)]),
        directory("away", vec![linked(small("b", b"s"), 61, 2)]),
    ];
    vec![
        directory("specials", specials),
        directory("attributes", attributes),
        directory("links", links),
        directory("empty", vec![]),
        item("sparse", 0o600, sparse),
        item("hole", 0o600, What::File(vec![Piece::Hole(1 << 30)])),
        data("large", 6, 3_000_000),
        data([b'n', 0xff, b'\n'], 6, 100_000),
        small("", b"").renamed("empty file"),
    ]
}

impl Described {
    fn renamed(mut self, name: &str) -> Described {
        self.name = name.into();
        self
    }
}

/// Gives the temporary directory back its right to be removed.
pub struct Unlocking<'a>(pub &'a Path);

impl Drop for Unlocking<'_> {
    fn drop(&mut self) {
        let _ = std::process::Command::new("chattr").args(["-R", "-f", "-i", "-a"]).arg(self.0).output();
    }
}

fn inode(path: &Path) -> u64 {
    std::fs::symlink_metadata(path).unwrap().ino()
}

#[test]
fn everything_comes_back() {
    let fixture = Fixture::new();
    let _unlocking = Unlocking(fixture.dir.path());
    let tree = fixture.save(&everything());
    let target = fixture.target();
    let outcome = fixture.restore(tree, |o| o.verify = true);
    assert_eq!(fixture.seen.problems(), []);
    assert_holds(&target, &everything());
    assert_eq!(outcome.unchanged, 0);
    assert_eq!(outcome.verified_files, outcome.files);
    for (a, b) in [("one", "two"), ("one", "far/three"), ("far/a", "away/b")] {
        assert_eq!(inode(&target.join("links").join(a)), inode(&target.join("links").join(b)), "{a} {b}");
    }
    assert_eq!(inode(&target.join("specials/fifo 2")), inode(&target.join("specials/fifo 3")));
    assert_eq!(inode(&target.join("specials/link 1")), inode(&target.join("specials/link 2")));
}

#[test]
fn again_changes_nothing() {
    let fixture = Fixture::new();
    let _unlocking = Unlocking(fixture.dir.path());
    let tree = fixture.save(&everything());
    fixture.restore(tree, |_| {});
    let before = change_times(&fixture.target());
    for overwrite in [Overwrite::Always, Overwrite::IfChanged, Overwrite::Never] {
        for verify in [false, true] {
            fixture.store.chunks_read.store(0, Ordering::Relaxed);
            let outcome = fixture.restore(tree, |o| (o.overwrite, o.delete, o.verify) = (overwrite, true, verify));
            assert_eq!(fixture.seen.problems(), [], "{overwrite:?}");
            assert_eq!(outcome.written_bytes, 0, "{overwrite:?}");
            assert_eq!(outcome.deleted, 0);
            assert_eq!(fixture.store.chunks_read.load(Ordering::Relaxed), 0, "{overwrite:?}");
            assert_eq!(fixture.seen.details("updated"), Vec::<String>::new(), "{overwrite:?}");
            assert_eq!(fixture.seen.details("restored"), Vec::<String>::new(), "{overwrite:?}");
            if overwrite != Overwrite::Never {
                assert_eq!(outcome.unchanged, outcome.files + outcome.directories + outcome.others);
            }
        }
    }
    assert_eq!(change_times(&fixture.target()), before, "not one inode was touched");
}

/// The change time of everything below a directory.
fn change_times(root: &Path) -> Vec<(std::path::PathBuf, i64, i64)> {
    let mut times = Vec::new();
    let mut pending = vec![root.to_owned()];
    while let Some(path) = pending.pop() {
        let found = std::fs::symlink_metadata(&path).unwrap();
        times.push((path.clone(), found.ctime(), found.ctime_nsec()));
        if found.is_dir() {
            pending.extend(std::fs::read_dir(&path).unwrap().map(|e| e.unwrap().path()));
        }
    }
    times.sort();
    times
}

#[test]
fn only_what_differs_is_read_and_written() {
    let fixture = Fixture::new();
    let items = vec![data("file", 1, 20 * CHUNK), data("same", 2, 10 * CHUNK)];
    let tree = fixture.save(&items);
    fixture.restore(tree, |_| {});
    let path = fixture.target().join("file");
    let before = inode(&path);
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.write_at(b"?", 5 * CHUNK as u64 + 17).unwrap();
    file.write_at(b"?", 7 * CHUNK as u64).unwrap();
    fixture.store.chunks_read.store(0, Ordering::Relaxed);
    let outcome = fixture.restore(tree, |_| {});
    assert_holds(&fixture.target(), &items);
    assert_eq!(outcome.written_bytes, 2 * CHUNK as u64);
    assert_eq!(outcome.kept_bytes, 28 * CHUNK as u64);
    assert_eq!(fixture.store.chunks_read.load(Ordering::Relaxed), 2);
    assert_eq!(inode(&path), before);
    assert_eq!(fixture.seen.details("updated"), ["file"]);
}

#[test]
fn sizes_and_holes_are_put_right() {
    let fixture = Fixture::new();
    let pieces = vec![Piece::Data(noise(1, CHUNK)), Piece::Hole(1 << 20), Piece::Data(noise(2, 1000))];
    let items = vec![item("file", 0o600, What::File(pieces)), small("small", b"small")];
    let tree = fixture.save(&items);
    let (path, small) = (fixture.target().join("file"), fixture.target().join("small"));
    let right = CHUNK + (1 << 20) + 1000;
    for wrong in [vec![], noise(3, right), vec![0; right], noise(4, right + 99_999), noise(5, CHUNK / 2)] {
        fixture.restore(tree, |_| {});
        std::fs::write(&path, &wrong).unwrap();
        std::fs::write(&small, &wrong).unwrap();
        fixture.restore(tree, |_| {});
        assert_eq!(fixture.seen.problems(), []);
        assert_holds(&fixture.target(), &items);
    }
}

#[test]
fn surplus_attributes_go() {
    let fixture = Fixture::new();
    let items = vec![small("file", b"x"), directory("dir", vec![])];
    let tree = fixture.save(&items);
    fixture.restore(tree, |_| {});
    for name in ["file", "dir"] {
        let path = fixture.target().join(name);
        rustix::fs::setxattr(&path, "user.more", b"1", rustix::fs::XattrFlags::empty()).unwrap();
        let value = acl(1, 7);
        rustix::fs::setxattr(&path, "system.posix_acl_access", &value, rustix::fs::XattrFlags::empty()).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o777)).unwrap();
        set_flags(&path, 0x40 | 0x10);
    }
    let outcome = fixture.restore(tree, |_| {});
    assert_eq!(fixture.seen.problems(), []);
    assert_holds(&fixture.target(), &items);
    assert_eq!(outcome.unchanged, 1);
}

#[test]
fn a_lost_chunk_fails_its_file_alone() {
    let fixture = Fixture::new();
    let items = vec![
        data("broken", 1, 5 * CHUNK),
        data("whole", 2, 5 * CHUNK),
        linked(data("first", 3, 2 * CHUNK), 1, 2),
        linked(data("second", 3, 2 * CHUNK), 1, 2),
    ];
    let tree = fixture.save(&items);
    fixture.lose(fixture.chunks(tree, "broken")[3].1);
    fixture.lose(fixture.chunks(tree, "first")[0].1);
    for _ in 0..2 {
        let outcome = fixture.restore(tree, |_| {});
        assert_eq!(outcome.problems, 3);
        let mut named: Vec<String> = fixture.seen.problems().into_iter().map(|(item, _)| item).collect();
        named.sort();
        assert_eq!(named, ["broken", "first", "second"]);
        assert_holds(&fixture.target(), &items[1..2]);
    }
    // An existing file is left with what could be restored, and named.
    std::fs::write(fixture.target().join("broken"), noise(9, 5 * CHUNK)).unwrap();
    fixture.restore(tree, |_| {});
    let problems = fixture.seen.problems();
    let (_, reason) = problems.iter().find(|(item, _)| item == "broken").unwrap();
    assert!(reason.contains("partly"), "{reason}");
}

#[test]
fn a_lost_node_fails_what_it_holds() {
    let fixture = Fixture::new();
    let items = vec![directory("lost", vec![small("in", b"in")]), small("other", b"other")];
    let tree = fixture.save(&items);
    let Node::Directory(lost) = fixture.reader.resolve(tree, b"lost").unwrap().unwrap().node else { panic!() };
    fixture.lose(lost.id);
    std::fs::create_dir_all(fixture.target().join("lost")).unwrap();
    std::fs::write(fixture.target().join("lost/mine"), "mine").unwrap();
    let reader = chunkstore::reader::Reader::new(fixture.store.clone(), fixture.opener());
    let fixture = Fixture { reader, ..fixture };
    let outcome = fixture.restore(tree, |o| o.delete = true);
    assert_eq!(outcome.problems, 1);
    assert_eq!(fixture.seen.problems()[0].0, "lost");
    assert!(fixture.target().join("other").exists());
    assert!(fixture.target().join("lost/mine").exists(), "what is not known is not surplus");
}

#[test]
fn many_batches_and_one_large_directory() {
    let fixture = Fixture::new();
    let items: Vec<Described> = (0..100_000).map(|n| small(format!("{n:06}"), &u32::to_le_bytes(n))).collect();
    let tree = fixture.save(&items);
    let outcome = fixture.restore(tree, |_| {});
    assert_eq!(outcome.files, 100_000);
    assert_eq!(fixture.seen.problems(), []);
    let read = |n: u32| std::fs::read(fixture.target().join(format!("{n:06}"))).unwrap();
    assert!((0..100_000).step_by(97).all(|n| read(n) == n.to_le_bytes()));
    let again = fixture.restore(tree, |o| o.delete = true);
    assert_eq!((again.written_bytes, again.unchanged), (0, 100_001));
}

#[test]
fn a_file_larger_than_a_batch() {
    let fixture = Fixture::new();
    let one = noise(1, 1 << 20);
    let mut pieces = Vec::new();
    for n in 0..300u64 {
        pieces.push(Piece::Data(one.clone()));
        pieces.push(Piece::Hole(1 + n % 5000));
    }
    let items = vec![item("large", 0o600, What::File(pieces)), data("z", 3, CHUNK)];
    let tree = fixture.save(&items);
    for _ in 0..2 {
        fixture.restore(tree, |o| o.verify = true);
        assert_eq!(fixture.seen.problems(), []);
        let found = std::fs::File::open(fixture.target().join("large")).unwrap();
        let mut at = 0;
        for n in 0..300u64 {
            let mut bytes = vec![0; one.len()];
            found.read_exact_at(&mut bytes, at).unwrap();
            assert!(bytes == one, "at {at}");
            at += one.len() as u64 + 1 + n % 5000;
        }
        assert_eq!(found.metadata().unwrap().len(), at);
    }
}

#[test]
fn an_interrupted_restore_is_continued() {
    let fixture = Fixture::new();
    let items: Vec<Described> = (0..50).map(|n| data(format!("{n}"), n, 10 * CHUNK)).collect();
    let tree = fixture.save(&items);
    let interrupted = AtomicBool::new(true);
    let result = fixture.try_restore(&Selection::Root(tree), |_| {}, &interrupted);
    assert!(matches!(result, Err(Error::Interrupted)));
    // Once more, in the middle.
    let interrupted = Arc::new(AtomicBool::new(false));
    let stop = interrupted.clone();
    let watched = fixture.store.clone();
    let before = watched.chunks_read.load(Ordering::Relaxed);
    let watcher = std::thread::spawn(move || {
        while watched.chunks_read.load(Ordering::Relaxed) - before < 20 {
            std::thread::yield_now();
        }
        stop.store(true, Ordering::Relaxed);
    });
    let result = fixture.try_restore(&Selection::Root(tree), |_| {}, &interrupted);
    watcher.join().unwrap();
    assert!(matches!(result, Err(Error::Interrupted)), "{result:?}");
    let outcome = fixture.restore(tree, |_| {});
    assert_eq!(fixture.seen.problems(), []);
    assert!(outcome.kept_bytes > 0, "what was written before is kept");
    assert_holds(&fixture.target(), &items);
}

#[test]
fn deep_trees() {
    let fixture = Fixture::new();
    // Names of 200 bytes: the paths are far longer than the system's limit for one.
    for (depth, name) in [(60, "d".repeat(8)), (400, "n".repeat(200)), (3000, "d".to_owned())] {
        let saved = fixture.save_below(&[small("bottom", b"bottom")], &name, depth);
        for _ in 0..2 {
            let outcome = fixture.restore(saved, |o| o.target = fixture.dir.path().join(format!("deep{depth}")));
            assert_eq!(fixture.seen.problems(), []);
            assert_eq!((outcome.files, outcome.directories), (1, depth as u64 + 1));
        }
        let removed = fixture.restore(fixture.save(&[]), |o| {
            (o.target, o.delete) = (fixture.dir.path().join(format!("deep{depth}")), true);
        });
        assert_eq!((removed.deleted, removed.problems), (1, 0));
    }
}

#[test]
fn one_entry_appears_under_its_name() {
    let fixture = Fixture::new();
    let items = vec![directory("dir", vec![small("in", b"in")]), data("file", 1, 100_000)];
    let tree = fixture.save(&items);
    let entry = |path: &[u8]| Selection::Entry(Box::new(fixture.reader.resolve(tree, path).unwrap().unwrap()));
    std::fs::create_dir(fixture.target()).unwrap();
    std::fs::write(fixture.target().join("mine"), "mine").unwrap();
    let never = AtomicBool::new(false);
    fixture.try_restore(&entry(b"file"), |o| o.delete = true, &never).unwrap();
    assert_is(&fixture.target().join("file"), &items[1]);
    assert!(fixture.target().join("mine").exists(), "a file has no surplus beside it");
    let outcome = fixture.try_restore(&entry(b"dir"), |o| o.delete = true, &never).unwrap();
    assert_eq!(outcome.deleted, 2);
    assert_is(&fixture.target(), &items[0]);
}
