//! What file systems hold, and what they do while they are read.

use super::*;
use chunkstore::tree::{HardLink, Time};
use rustix::fs::{CWD, FileType, Mode, OFlags, XattrFlags};
use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;

fn saved_below(top: &Path) -> (Fixture, std::collections::BTreeMap<String, Entry>, Told) {
    let fixture = Fixture::new();
    let (outcome, told) = fixture.save(top);
    let entries = fixture.entries_below(&outcome, top);
    (fixture, entries, told)
}

#[test]
fn every_type_of_file_with_its_attributes() {
    let top = tempfile::tempdir().unwrap();
    let at = |name: &str| top.path().join(name);
    std::fs::write(at("file"), b"content").unwrap();
    rustix::fs::setxattr(at("file"), "user.note", b"x", XattrFlags::empty()).unwrap();
    std::fs::set_permissions(at("file"), PermissionsExt::from_mode(0o6755)).unwrap();
    std::fs::hard_link(at("file"), at("same file")).unwrap();
    std::fs::create_dir(at("directory")).unwrap();
    std::fs::set_permissions(at("directory"), PermissionsExt::from_mode(0o3777)).unwrap();
    rustix::fs::setxattr(at("directory"), "user.note", b"y", XattrFlags::empty()).unwrap();
    symlink(OsStr::from_bytes(b"to/\xff\xfe"), at("link")).unwrap();
    rustix::fs::mknodat(CWD, at("fifo"), FileType::Fifo, Mode::from_raw_mode(0o640), 0).unwrap();
    let _listener = UnixListener::bind(at("socket")).unwrap();
    let early = std::time::UNIX_EPOCH - Duration::new(1000, 1);
    File::open(at("directory")).unwrap().set_modified(early).unwrap();
    let device = rustix::fs::mknodat(
        CWD,
        at("device"),
        FileType::CharacterDevice,
        Mode::from_raw_mode(0o600),
        rustix::fs::makedev(1, 7),
    );
    let (fixture, entries, told) = saved_below(top.path());
    assert!(told.problems().is_empty(), "{:?}", told.problems());
    let file = &entries["file"];
    let meta = std::fs::metadata(at("file")).unwrap();
    assert_eq!(file.attributes.mode, 0o6755);
    assert_eq!((file.attributes.uid, file.attributes.gid), (meta.uid(), meta.gid()));
    assert_eq!(file.attributes.xattrs, [(b"user.note".to_vec(), b"x".to_vec())]);
    assert_eq!(file.attributes.hard_link, Some(HardLink { device: meta.dev(), inode: meta.ino(), names: 2 }));
    assert_eq!(entries["same file"].attributes, file.attributes);
    assert_eq!(fixture.content(&entries["same file"]), b"content");
    if meta.uid() == 0 {
        assert_eq!(file.attributes.user, b"root");
    }
    let directory = &entries["directory"].attributes;
    assert_eq!((directory.mode, directory.xattrs.len()), (0o3777, 1));
    assert_eq!(directory.modified, Time { seconds: -1001, nanoseconds: 999_999_999 });
    assert_eq!(entries["link"].node, Node::Symlink(b"to/\xff\xfe".to_vec()));
    assert_eq!((&entries["fifo"].node, entries["fifo"].attributes.mode), (&Node::Fifo, 0o640));
    assert_eq!(entries["socket"].node, Node::Socket);
    match device {
        Ok(()) => assert_eq!(entries["device"].node, Node::CharacterDevice { major: 1, minor: 7 }),
        Err(error) => println!("skipped in part: no device can be made here: {error}"),
    }
}

#[test]
fn a_file_of_many_names_is_read_once() {
    let top = tempfile::tempdir().unwrap();
    let at = |name: &str| top.path().join(name);
    std::fs::write(at("1"), noise(1, 3 << 20)).unwrap();
    std::fs::write(at("small"), noise(2, 100)).unwrap();
    std::fs::create_dir(at("d")).unwrap();
    for name in ["0", "d/2", "d/3"] {
        std::fs::hard_link(at("1"), at(name)).unwrap();
    }
    std::fs::hard_link(at("small"), at("d/small")).unwrap();
    let (fixture, elsewhere) = (Fixture::new(), tempfile::tempdir().unwrap());
    let (outcome, told) = fixture.save(top.path());
    assert_eq!(outcome.read_bytes, (3 << 20) + 200);
    assert_eq!((outcome.totals.files, outcome.files_new, outcome.totals.content_bytes), (6, 6, 4 * (3 << 20) + 200));
    assert_eq!(told.lines().iter().filter(|line| line.starts_with("new ")).count(), 6);
    let entries = fixture.entries_below(&outcome, top.path());
    for name in ["0", "1", "d/2", "d/3"] {
        assert!(fixture.content(&entries[name]) == noise(1, 3 << 20));
        assert_eq!(entries[name].attributes, entries["0"].attributes);
    }
    wait_until_settled();
    fixture.save(top.path());
    let (again, _) = fixture.save(top.path());
    assert_eq!((again.files_unchanged, again.read_bytes), (6, 0));
    // A name more changes the count of names in all entries.
    std::fs::hard_link(at("1"), elsewhere.path().join("out of sight")).unwrap();
    let (again, _) = fixture.save(top.path());
    assert_eq!((again.files_changed, again.files_unchanged, again.read_bytes), (4, 2, 3 << 20));
    let entries = fixture.entries_below(&again, top.path());
    assert!(["0", "1", "d/2", "d/3"].iter().all(|name| entries[*name].attributes.hard_link.unwrap().names == 5));
}

#[test]
fn access_lists_are_attributes() {
    let top = tempfile::tempdir().unwrap();
    let file = top.path().join("file");
    std::fs::write(&file, b"").unwrap();
    // version 2; user::rw-, user:12:r--, group::---, mask::r--, other::---
    let mut list = vec![2, 0, 0, 0];
    for (tag, perm, id) in [(1u16, 6u16, u32::MAX), (2, 4, 12), (4, 0, u32::MAX), (16, 4, u32::MAX), (32, 0, u32::MAX)]
    {
        list.extend([tag.to_le_bytes(), perm.to_le_bytes()].concat());
        list.extend(id.to_le_bytes());
    }
    if let Err(error) = rustix::fs::setxattr(&file, "system.posix_acl_access", &list, XattrFlags::empty()) {
        println!("skipped: no access lists here: {error}");
        return;
    }
    let (_, entries, _) = saved_below(top.path());
    assert_eq!(entries["file"].attributes.xattrs, [(b"system.posix_acl_access".to_vec(), list)]);
}

#[test]
fn holes_are_kept_and_not_read() {
    let top = tempfile::tempdir().unwrap();
    let file = File::create(top.path().join("sparse")).unwrap();
    if file.set_len(1 << 40).is_err() {
        println!("skipped: no file of a terabyte here");
        return;
    }
    let write = |bytes: &[u8], at| std::os::unix::fs::FileExt::write_all_at(&file, bytes, at).unwrap();
    write(&noise(1, 100_000), 0);
    write(&noise(2, 3 << 20), 1 << 30);
    let data = rustix::fs::seek(&file, rustix::fs::SeekFrom::Hole(0));
    if !matches!(data, Ok(end) if end < 1 << 30) {
        println!("skipped: this file system tells of no holes");
        return;
    }
    File::create(top.path().join("only a hole")).unwrap().set_len(5 << 30).unwrap();
    File::create(top.path().join("small hole")).unwrap().set_len(100_000).unwrap();
    let fixture = Fixture::new();
    let (outcome, told) = fixture.save(top.path());
    assert!(told.problems().is_empty());
    assert!(outcome.read_bytes < 4 << 20, "{}", outcome.read_bytes);
    assert_eq!(outcome.totals.content_bytes, (1 << 40) + (5 << 30) + 100_000);
    let entries = fixture.entries_below(&outcome, top.path());
    let Node::File(content) = &entries["sparse"].node else { panic!() };
    assert_eq!(content.size(), 1 << 40);
    let reader = fixture.reader();
    assert!(reader.read_at(content, 1 << 30, 3 << 20).unwrap() == noise(2, 3 << 20));
    assert_eq!(reader.read_at(content, 50_000, 50_000).unwrap(), noise(1, 100_000)[50_000..]);
    assert_eq!(reader.read_at(content, (1 << 40) - 10, 20).unwrap(), [0; 10]);
    assert!(matches!(&entries["only a hole"].node, Node::File(content) if content.size() == 5 << 30));
    assert_eq!(fixture.content(&entries["small hole"]), vec![0; 100_000]);
}

/// Files of these lengths, each changed at every one of the first `times` times that bytes are counted.
fn changing(top: &Path, lens: &[(&str, usize)], times: u64) -> Told {
    let write = |(name, len): &(&str, usize)| {
        std::fs::write(top.join(name), noise(1, *len)).unwrap();
        File::options().write(true).open(top.join(name)).unwrap()
    };
    let files: Vec<File> = lens.iter().map(write).collect();
    let count = AtomicU64::new(0);
    Told::acting(move |line| {
        let count = count.fetch_add(u64::from(line == "counters"), Ordering::Relaxed);
        if line == "counters" && count < times {
            for file in &files {
                std::os::unix::fs::FileExt::write_all_at(file, &count.to_le_bytes(), 0).unwrap();
                file.set_modified(std::time::UNIX_EPOCH + Duration::from_secs(count)).unwrap();
            }
        }
    })
}

#[test]
fn a_file_that_changes_is_kept_as_read_last_and_told() {
    for len in [500, 500_000, 5 << 20] {
        let top = tempfile::tempdir().unwrap();
        let told = changing(top.path(), &[("file", len)], u64::MAX);
        let fixture = Fixture::new();
        let (outcome, told) = fixture.save_with(&given(&[top.path()]), told);
        let problems = told.problems();
        assert_eq!((outcome.problems, problems.len()), (1, 1), "{problems:?}");
        assert!(problems[0].contains("/file: it changed while it was read"), "{problems:?}");
        assert!(fixture.snapshot(&outcome).summary.incomplete);
        let entries = fixture.entries_below(&outcome, top.path());
        assert!(fixture.content(&entries["file"])[8..] == noise(1, len)[8..]);
        assert_eq!(outcome.read_bytes, 4 * len as u64, "read once and three times again");
        // What was read while it changed is not taken for known, however long ago that was.
        wait_until_settled();
        assert_eq!(fixture.save(top.path()).0.read_bytes, len as u64);
    }
}

#[test]
fn a_file_that_changed_once_is_read_again() {
    for len in [500, 500_000, 5 << 20] {
        let top = tempfile::tempdir().unwrap();
        let told = changing(top.path(), &[("file", len)], 1);
        let fixture = Fixture::new();
        let (outcome, told) = fixture.save_with(&given(&[top.path()]), told);
        assert!(told.problems().is_empty(), "{:?}", told.problems());
        assert_eq!(outcome.read_bytes, 2 * len as u64);
        let entries = fixture.entries_below(&outcome, top.path());
        assert!(fixture.content(&entries["file"]) == std::fs::read(top.path().join("file")).unwrap());
    }
}

#[test]
fn a_file_that_grows_or_shrinks_is_saved_as_long_as_read() {
    let top = tempfile::tempdir().unwrap();
    std::fs::write(top.path().join("shrinks"), noise(1, 6 << 20)).unwrap();
    std::fs::write(top.path().join("grows"), noise(2, 6 << 20)).unwrap();
    let directory = top.path().to_owned();
    let fixture = Fixture::new();
    // Between being listed and being opened.
    let told = Told::acting(move |line| {
        if line.ends_with("/shrinks") && line.starts_with("current") {
            File::options().write(true).open(directory.join("shrinks")).unwrap().set_len(1000).unwrap();
        }
        if line.ends_with("/grows") && line.starts_with("current") {
            File::options().write(true).open(directory.join("grows")).unwrap().set_len(7 << 20).unwrap();
        }
    });
    let (outcome, told) = fixture.save_with(&given(&[top.path()]), told);
    assert!(told.problems().is_empty(), "opened after it changed: {:?}", told.problems());
    let entries = fixture.entries_below(&outcome, top.path());
    assert_eq!(fixture.content(&entries["shrinks"]), noise(1, 6 << 20)[..1000]);
    assert_eq!(fixture.content(&entries["grows"]).len(), 7 << 20);
}

#[test]
fn what_vanishes_is_told_and_left_out() {
    let top = tempfile::tempdir().unwrap();
    std::fs::write(top.path().join("a"), b"").unwrap();
    std::fs::write(top.path().join("b"), b"").unwrap();
    std::fs::write(top.path().join("large"), noise(1, 2 << 20)).unwrap();
    let directory = top.path().to_owned();
    let told = Told::acting(move |line| {
        // The survey has listed the directory; the reader has not opened the file.
        if line == format!("current {}", directory.display()) {
            std::fs::remove_file(directory.join("b")).unwrap();
        }
        if line == format!("current {}", directory.join("large").display()) {
            std::fs::remove_file(directory.join("large")).unwrap();
        }
    });
    let fixture = Fixture::new();
    let (outcome, told) = fixture.save_with(&given(&[top.path()]), told);
    assert_eq!(outcome.problems, 2, "{:?}", told.problems());
    assert!(told.problems().iter().any(|line| line.contains("/b: ")));
    assert!(told.problems().iter().any(|line| line.contains("/large: it vanished")));
    assert!(fixture.snapshot(&outcome).summary.incomplete);
    assert_eq!(fixture.entries_below(&outcome, top.path()).into_keys().collect::<Vec<_>>(), ["a"]);
}

#[test]
fn what_cannot_be_read_is_told_and_left_out() {
    let top = tempfile::tempdir().unwrap();
    for (name, len) in [("large", 2 << 20), ("open", 10), ("small", 10)] {
        std::fs::write(top.path().join(name), noise(1, len)).unwrap();
        let mode = if name == "open" { 0o600 } else { 0 };
        std::fs::set_permissions(top.path().join(name), PermissionsExt::from_mode(mode)).unwrap();
    }
    if rustix::process::geteuid().is_root() {
        println!("skipped: root may read every file");
        return;
    }
    let fixture = Fixture::new();
    let (outcome, told) = fixture.save(top.path());
    assert_eq!((outcome.problems, told.problems().len()), (2, 2), "{:?}", told.problems());
    assert!(told.problems().iter().all(|line| line.contains("Permission denied")));
    assert_eq!(fixture.entries_below(&outcome, top.path()).into_keys().collect::<Vec<_>>(), ["open"]);
}

#[test]
fn a_file_turned_into_something_else_is_saved_as_that() {
    let top = tempfile::tempdir().unwrap();
    for name in ["fifo", "link", "other"] {
        std::fs::write(top.path().join(name), noise(1, 2 << 20)).unwrap();
    }
    let directory = top.path().to_owned();
    let told = Told::acting(move |line| {
        let Some(path) = line.strip_prefix("current ").map(PathBuf::from) else { return };
        match path.strip_prefix(&directory).ok().and_then(Path::to_str) {
            Some("fifo") => {
                std::fs::remove_file(&path).unwrap();
                rustix::fs::mknodat(CWD, &path, FileType::Fifo, Mode::RWXU, 0).unwrap();
            }
            Some("link") => {
                std::fs::remove_file(&path).unwrap();
                symlink("/etc/passwd", &path).unwrap();
            }
            Some("other") => {
                std::fs::write(directory.join("new"), b"replaced").unwrap();
                std::fs::rename(directory.join("new"), &path).unwrap();
            }
            _ => (),
        }
    });
    let fixture = Fixture::new();
    let (outcome, told) = fixture.save_with(&given(&[top.path()]), told);
    assert!(told.problems().is_empty(), "{:?}", told.problems());
    let entries = fixture.entries_below(&outcome, top.path());
    assert_eq!(entries["fifo"].node, Node::Fifo);
    assert_eq!(entries["link"].node, Node::Symlink(b"/etc/passwd".to_vec()));
    assert_eq!(fixture.content(&entries["other"]), b"replaced");
}

#[test]
fn given_paths_merge_into_one_tree() {
    let top = tempfile::tempdir().unwrap();
    for name in ["a/x", "a/b/y", "c/z", "not this"] {
        let path = top.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, name).unwrap();
    }
    std::fs::set_permissions(top.path().join("a"), PermissionsExt::from_mode(0o751)).unwrap();
    let fixture = Fixture::new();
    let at = |name: &str| top.path().join(name);
    let options = given(&[&at("a/b"), &at("c"), &at("a/b/../b/y"), &at("a/b"), &at("none")]);
    let (outcome, told) = fixture.save_with(&options, Told::default());
    assert_eq!(told.problems().len(), 1);
    assert!(told.problems()[0].contains("/none: "));
    let entries = fixture.entries_below(&outcome, top.path());
    assert_eq!(entries.keys().collect::<Vec<_>>(), ["a", "a/b", "a/b/y", "c", "c/z"]);
    assert_eq!(entries["a"].attributes.mode, 0o751, "directories above carry their attributes");
    let all = fixture.entries(&outcome);
    assert!(all.contains_key(&b"/tmp"[..]) || !top.path().starts_with("/tmp"));
    let failed = fixture.try_save(&given(&[&at("none"), &at("c/none")]), &Told::default());
    assert!(matches!(failed, Err(Error::Invalid { .. })), "{failed:?}");
}

#[test]
fn our_own_caches_are_left_out() {
    let fixture = Fixture::new();
    let (outcome, told) = fixture.save(fixture.temp.path());
    assert!(told.lines().contains(&format!("excluded {}", fixture.cache_dir().display())));
    let entries = fixture.entries_below(&outcome, fixture.temp.path());
    assert!(entries.contains_key("cache") && !entries.keys().any(|path| path.starts_with("cache/")));
    assert!(entries.contains_key("catalog.sqlite3"));
}

#[test]
fn names_may_be_any_bytes_and_paths_any_length() {
    let top = tempfile::tempdir().unwrap();
    let raw = OsStr::from_bytes(b"\xff\n\t\\");
    std::fs::write(top.path().join(raw), b"raw").unwrap();
    let name = "d".repeat(250);
    let mut directory: std::os::fd::OwnedFd = File::open(top.path()).unwrap().into();
    for _ in 0..100 {
        rustix::fs::mkdirat(&directory, &*name, Mode::RWXU).unwrap();
        directory = rustix::fs::openat(&directory, &*name, OFlags::RDONLY, Mode::empty()).unwrap();
    }
    let flags = OFlags::CREATE | OFlags::WRONLY;
    let mut file = File::from(rustix::fs::openat(&directory, "file", flags, Mode::RWXU).unwrap());
    std::io::Write::write_all(&mut file, &noise(1, 10_000)).unwrap();
    let (fixture, entries, told) = saved_below(top.path());
    assert!(told.problems().is_empty(), "{:?}", told.problems());
    let (path, entry) = entries.iter().max_by_key(|(path, _)| path.len()).unwrap();
    assert!(path.len() > 25_000);
    assert_eq!(fixture.content(entry), noise(1, 10_000));
    assert_eq!(fixture.content(&entries["\\xff\\n\\t\\\\"]), b"raw");
}

#[test]
fn a_hundred_thousand_entries() {
    let place = if Path::new("/dev/shm").is_dir() { Path::new("/dev/shm") } else { Path::new("/tmp") };
    let top = tempfile::tempdir_in(place).unwrap();
    for directory in 0..100 {
        let directory = top.path().join(format!("{directory}"));
        std::fs::create_dir(&directory).unwrap();
        for name in 0..900 {
            std::fs::write(directory.join(format!("{name}")), format!("{name}")).unwrap();
        }
    }
    let many = top.path().join("many");
    std::fs::create_dir(&many).unwrap();
    for name in 0..10_000 {
        std::fs::hard_link(top.path().join("0/0"), many.join(format!("{name}"))).unwrap();
    }
    wait_until_settled();
    let fixture = Fixture::new();
    let (outcome, told) = fixture.save(top.path());
    assert!(told.problems().is_empty());
    assert_eq!(outcome.totals.files, 100_000);
    let (again, _) = fixture.save(top.path());
    assert_eq!((again.files_unchanged, again.read_bytes), (100_000, 0));
    std::fs::write(many.join("5000a"), b"new").unwrap();
    let (third, _) = fixture.save(top.path());
    assert_eq!((third.files_unchanged, third.files_new), (100_000, 1));
    assert!(third.new_bytes < 400 << 10, "{} bytes of nodes for one new name", third.new_bytes);
    let entries = fixture.entries_below(&third, top.path());
    assert_eq!(entries.len(), 100_000 + 101 + 1);
    assert_eq!(fixture.content(&entries["99/899"]), b"899");
}

#[test]
fn a_dry_run_stores_nothing_and_says_what_it_would() {
    let (fixture, top) = (Fixture::new(), tempfile::tempdir().unwrap());
    std::fs::write(top.path().join("a"), noise(1, 3 << 20)).unwrap();
    std::fs::write(top.path().join("same"), noise(1, 3 << 20)).unwrap();
    let request = Request { dry_run: true, ..Fixture::request() };
    let told = Told::default();
    let operations = fixture.backend.operations();
    let outcome = files(&fixture.context(&told, &fixture.cache_dir()), &request, &given(&[top.path()])).unwrap();
    assert_eq!((outcome.snapshot, outcome.totals.files), (None, 2));
    assert!(outcome.new_bytes >= 3 << 20 && outcome.new_bytes < (3 << 20) + 50_000, "{}", outcome.new_bytes);
    fixture.repository.flush().unwrap();
    assert_eq!(fixture.backend.operations(), operations);
    assert!(!fixture.cache_dir().exists());
}

#[test]
fn an_unchanged_source_may_make_no_snapshot() {
    let (fixture, way) = (Fixture::new(), tempfile::tempdir().unwrap());
    let top = way.path().join("top");
    std::fs::create_dir(&top).unwrap();
    std::fs::write(top.join("a"), b"x").unwrap();
    let request = Request { skip_if_unchanged: true, labels: vec!["nightly".into()], ..Fixture::request() };
    let told = Told::default();
    let cache_dir = fixture.cache_dir();
    let save = || files(&fixture.context(&told, &cache_dir), &request, &given(&[&top])).unwrap();
    assert_eq!(fixture.snapshot(&save()).summary.labels, ["nightly"]);
    assert_eq!(save().snapshot, None);
    // What others do beside it is no change of it, but who may go there is.
    std::fs::write(way.path().join("beside"), b"").unwrap();
    assert_eq!(save().snapshot, None);
    std::fs::set_permissions(way.path(), PermissionsExt::from_mode(0o711)).unwrap();
    assert!(save().snapshot.is_some());
    assert_eq!(save().snapshot, None);
    std::fs::write(top.join("a"), b"y").unwrap();
    assert!(save().snapshot.is_some());
}

#[test]
fn a_snapshot_tells_how_it_came_to_be() {
    let (fixture, top) = (Fixture::new(), tempfile::tempdir().unwrap());
    std::fs::write(top.path().join("a"), b"12345").unwrap();
    let options = FilesOptions { excludes: vec!["*.o".into()], ..given(&[top.path()]) };
    let (outcome, told) = fixture.save_with(&options, Told::default());
    let snapshot = fixture.snapshot(&outcome);
    snapshot.authenticate(&fixture.keys.write).unwrap();
    let details = snapshot.details(&fixture.reader().opener).unwrap();
    assert_eq!(details.paths, [top.path().as_os_str().as_bytes()]);
    assert!(details.program.starts_with("nightkeep ") && details.started <= details.finished);
    let fact = |key: &str| details.facts.iter().find(|(found, _)| found == key).map(|(_, value)| value.as_slice());
    assert_eq!(fact("files.new"), Some(&b"1"[..]));
    assert_eq!(fact("read.bytes"), Some(&b"5"[..]));
    assert_eq!(fact("excludes"), Some(&b"*.o"[..]));
    assert_eq!(told.lines().iter().filter(|line| line.starts_with("new ")).count(), 1);
    assert_eq!(outcome.totals.added_bytes, outcome.added_bytes);
    assert!(outcome.added_bytes > 0 && !snapshot.summary.incomplete);
}

#[test]
fn the_repository_itself_is_saved_as_an_empty_directory() {
    let (fixture, top) = (Fixture::new(), tempfile::tempdir().unwrap());
    let own = top.path().join("repository");
    std::fs::create_dir_all(own.join("packs")).unwrap();
    std::fs::write(top.path().join("beside"), b"saved").unwrap();
    let (told, cache_dir) = (Told::default(), fixture.cache_dir());
    let context = Context { repository_dir: Some(&own), ..fixture.context(&told, &cache_dir) };
    let options = FilesOptions { paths: vec![top.path().to_owned()], ..FilesOptions::default() };
    let outcome = files(&context, &Fixture::request(), &options).unwrap();
    let names: Vec<String> = fixture.entries_below(&outcome, top.path()).into_keys().collect();
    assert!(names.contains(&"beside".into()) && names.contains(&"repository".into()), "{names:?}");
    assert!(!names.contains(&"repository/packs".into()), "{names:?}");
}
