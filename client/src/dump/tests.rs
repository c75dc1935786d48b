//! Dumps, unpacked by the system's tar.

use super::dump;
use crate::restore::Selection;
use crate::restore::fixture::*;
use chunkstore::Error;
use chunkstore::tree::{Node, Time};
use std::io::{self, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::AtomicBool;

fn dumped(fixture: &Fixture, selection: &Selection) -> Vec<u8> {
    let mut bytes = Vec::new();
    let outcome = dump(&fixture.reader, selection, &mut bytes, &fixture.seen, &AtomicBool::new(false)).unwrap();
    assert_eq!(outcome.problems, fixture.seen.problems().len() as u64);
    bytes
}

/// Feeds an archive to tar; nothing may be said about it.
fn unpack(archive: &[u8], target: &Path) {
    std::fs::create_dir_all(target).unwrap();
    let mut tar = Command::new("tar")
        .args([
            "-x",
            "--xattrs",
            "--xattrs-include=*",
            "--acls",
            "--numeric-owner",
            "-p",
            "--warning=no-timestamp",
            "-C",
        ])
        .arg(target)
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    tar.stdin.take().unwrap().write_all(archive).unwrap();
    let output = tar.wait_with_output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn tar_gives_everything_back() {
    let fixture = Fixture::new();
    let mut items = crate::restore::everything();
    let tree = fixture.save(&items);
    let archive = dumped(&fixture, &Selection::Root(tree));
    let problems = fixture.seen.problems();
    assert!(problems.len() == 1 && problems[0].0 == "specials/socket", "{problems:?}");
    // What tar does not know of.
    each(&mut items, &mut |item| item.attributes.flags = 0);
    for item in &mut items {
        if let What::Directory(below) = &mut item.what {
            below.retain(|item| item.name != b"socket");
        }
    }
    assert!(archive.len() < 10 << 20, "holes take no space");
    let target = fixture.target();
    unpack(&archive, &target);
    assert_holds(&target, &items);
    use std::os::unix::fs::MetadataExt;
    let inode = |name: &str| std::fs::symlink_metadata(target.join(name)).unwrap().ino();
    assert_eq!(inode("links/one"), inode("links/far/three"));
    assert_eq!(inode("specials/link 1"), inode("specials/link 2"));
}

fn each(items: &mut [Described], change: &mut dyn FnMut(&mut Described)) {
    for item in items {
        change(item);
        if let What::Directory(below) = &mut item.what {
            each(below, change);
        }
    }
}

#[test]
fn awkward_names_numbers_and_times() {
    let fixture = Fixture::new();
    let long = "n".repeat(255);
    let odd = |name: &[u8], seconds, nanoseconds| {
        let mut item = small(name, name);
        item.attributes.modified = Time { seconds, nanoseconds };
        item
    };
    let mut far = small("far", b"f");
    (far.attributes.uid, far.attributes.gid) = (3_000_000_000, 0o7_777_777);
    far.attributes.user = "ü".repeat(20).into_bytes();
    far.attributes.group = vec![b'g'; 32];
    far.attributes.xattrs = vec![(b"user.a=b%c".to_vec(), b"=\n\0%".to_vec()), (b"user.z".to_vec(), vec![0xff; 3000])];
    let items = vec![
        directory(&long, vec![directory(&long, vec![small(&long, b"deep"), symlink("s", &"t".repeat(3000))])]),
        odd(b"\xff\xfe raw", -1, 999_999_999),
        odd("nämlich".as_bytes(), -1, 0),
        odd(b"new\nline", 0, 1),
        odd(b" space ", -1_000_000_000, 1),
        odd(b"\\back\"slash*", 1 << 33, 500_000_000),
        odd(&[b'a'; 100], 1, 0),
        odd(&[b'b'; 101], 0, 0),
        far,
    ];
    let tree = fixture.save(&items);
    unpack(&dumped(&fixture, &Selection::Root(tree)), &fixture.target());
    assert_eq!(fixture.seen.problems(), []);
    assert_holds(&fixture.target(), &items);
}

#[test]
fn a_directory_brings_its_own_attributes() {
    let fixture = Fixture::new();
    let items = vec![item("dir", 0o2711, What::Directory(vec![small("in", b"in"), data("data", 1, 100_000)]))];
    let tree = fixture.save(&items);
    let entry = fixture.reader.resolve(tree, b"dir").unwrap().unwrap();
    unpack(&dumped(&fixture, &Selection::Entry(Box::new(entry))), &fixture.target());
    assert_is(&fixture.target(), &items[0]);
}

#[test]
fn a_file_comes_as_it_is() {
    let fixture = Fixture::new();
    let pieces = vec![
        Piece::Hole(100),
        Piece::Data(noise(1, 30 << 20)),
        Piece::Hole(70 << 20),
        Piece::Data(noise(2, 90 << 20)),
        Piece::Hole(1),
    ];
    let mut wanted = vec![0; 100];
    wanted.extend(noise(1, 30 << 20));
    wanted.resize(wanted.len() + (70 << 20), 0);
    wanted.extend(noise(2, 90 << 20));
    wanted.push(0);
    let items = [item("file", 0o600, What::File(pieces)), small("small", b"small"), small("empty", b"")];
    let tree = fixture.save(&items);
    let entry = |name: &[u8]| Selection::Entry(Box::new(fixture.reader.resolve(tree, name).unwrap().unwrap()));
    assert!(dumped(&fixture, &entry(b"file")) == wanted);
    assert_eq!(dumped(&fixture, &entry(b"small")), b"small");
    assert_eq!(dumped(&fixture, &entry(b"empty")), b"");
    fixture.lose(fixture.chunks(tree, "file")[700].1);
    let result = dump(&fixture.reader, &entry(b"file"), &mut io::sink(), &fixture.seen, &AtomicBool::new(false));
    assert!(result.is_err_and(|error| error.is_damage()));
}

#[test]
fn damage_leaves_out_small_files_and_ends_in_large_ones() {
    let fixture = Fixture::new();
    let items = vec![
        data("broken", 1, 5 * CHUNK),
        linked(data("first", 2, 2 * CHUNK), 1, 2),
        linked(data("second", 2, 2 * CHUNK), 1, 2),
        data("whole", 3, 5 * CHUNK),
    ];
    let tree = fixture.save(&items);
    fixture.lose(fixture.chunks(tree, "broken")[3].1);
    fixture.lose(fixture.chunks(tree, "first")[1].1);
    unpack(&dumped(&fixture, &Selection::Root(tree)), &fixture.target());
    let named: Vec<String> = fixture.seen.problems().into_iter().map(|(item, _)| item).collect();
    assert_eq!(named, ["broken", "first", "second"]);
    assert_holds(&fixture.target(), &items[3..]);

    let tree = fixture.save(&[data("large", 4, 20 << 20)]);
    fixture.lose(fixture.chunks(tree, "large")[100].1);
    let result = dump(&fixture.reader, &Selection::Root(tree), &mut io::sink(), &fixture.seen, &AtomicBool::new(false));
    assert!(result.is_err_and(|error| error.is_damage()));
}

#[test]
fn a_writer_that_fails_and_an_interruption_end_it() {
    struct Full(usize);
    impl Write for Full {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 = self.0.checked_sub(bytes.len()).ok_or(io::ErrorKind::BrokenPipe)?;
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let fixture = Fixture::new();
    let items: Vec<Described> = (0..20).map(|n| data(format!("{n:02}"), n, 10 * CHUNK)).collect();
    let selection = Selection::Root(fixture.save(&items));
    let result = dump(&fixture.reader, &selection, &mut Full(5 << 20), &fixture.seen, &AtomicBool::new(false));
    assert!(matches!(result, Err(Error::Io { .. })));
    let result = dump(&fixture.reader, &selection, &mut io::sink(), &fixture.seen, &AtomicBool::new(true));
    assert!(matches!(result, Err(Error::Interrupted)));
    let fifo = chunkstore::tree::Entry { name: b"f".to_vec(), attributes: attributes(0o600), node: Node::Fifo };
    let selection = Selection::Entry(Box::new(fifo));
    let result = dump(&fixture.reader, &selection, &mut io::sink(), &fixture.seen, &AtomicBool::new(false));
    assert!(matches!(result, Err(Error::Invalid { .. })));
}
