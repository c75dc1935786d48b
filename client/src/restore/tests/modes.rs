//! What the options promise.

use super::*;

fn write(path: std::path::PathBuf, bytes: &[u8]) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, bytes).unwrap();
}

fn set_modified(path: &Path, seconds: u64, nanoseconds: u32) {
    let time = std::time::UNIX_EPOCH + std::time::Duration::new(seconds, nanoseconds);
    std::fs::File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
}

#[test]
fn delete_removes_surplus_and_nothing_else() {
    let fixture = Fixture::new();
    let items = vec![directory("b", vec![small("keep", b"k")]), small("d", b"d")];
    let tree = fixture.save(&items);
    let target = fixture.target();
    let outside = fixture.dir.path().join("outside");
    write(outside.join("precious"), b"p");
    for name in ["a", "b/a", "b/z/y/x", "c/1", "c/2", "e"] {
        write(target.join(name), b"surplus");
    }
    make_symlink(&outside, target.join("to outside")).unwrap();
    make_symlink(&outside, target.join("c/to outside")).unwrap();
    std::fs::hard_link(outside.join("precious"), target.join("c/linked")).unwrap();
    set_flags(&target.join("c/2"), 0x10);
    set_flags(&target.join("c"), 0x20);
    let kept = fixture.restore(tree, |_| {});
    assert_eq!(kept.deleted, 0);
    let dry = fixture.restore(tree, |o| (o.delete, o.dry_run) = (true, true));
    let wanted = ["a", "b/a", "b/z", "c", "e", "to outside"];
    assert_eq!(fixture.seen.details("would delete"), wanted);
    assert!(target.join("c/1").exists());
    let outcome = fixture.restore(tree, |o| o.delete = true);
    assert_eq!(fixture.seen.problems(), []);
    assert_eq!(fixture.seen.details("deleted"), wanted);
    assert_eq!((outcome.deleted, dry.deleted), (6, 6));
    assert_holds(&target, &items);
    assert_eq!(std::fs::read(outside.join("precious")).unwrap(), b"p");
}

#[test]
fn delete_leaves_other_file_systems() {
    let fixture = Fixture::new();
    let tree = fixture.save(&[small("a", b"a")]);
    let mounted = fixture.target().join("mounted/here");
    write(mounted.join("x"), b"x");
    let done = std::process::Command::new("mount").args(["-t", "tmpfs", "none"]).arg(&mounted).status();
    if !done.is_ok_and(|status| status.success()) {
        println!("SKIPPED: mounting a tmpfs is not allowed here");
        return;
    }
    write(mounted.join("precious"), b"p");
    let outcome = fixture.restore(tree, |o| o.delete = true);
    let problems = fixture.seen.problems();
    let survived = mounted.join("precious").exists();
    assert!(std::process::Command::new("umount").arg(&mounted).status().unwrap().success());
    assert!(survived);
    assert_eq!((outcome.deleted, problems.len()), (0, 1), "{problems:?}");
}

#[test]
fn delete_at_the_root_of_the_system_is_refused() {
    let fixture = Fixture::new();
    let tree = fixture.save(&[]);
    let change = |o: &mut super::super::Options| (o.target, o.delete, o.dry_run) = ("/".into(), true, true);
    let result = fixture.try_restore(&Selection::Root(tree), change, &AtomicBool::new(false));
    assert!(matches!(result, Err(Error::Invalid { .. })));
}

#[test]
fn never_leaves_whatever_exists() {
    let fixture = Fixture::new();
    let items = vec![
        directory("dir", vec![small("new", b"new"), small("old", b"old")]),
        directory("taken", vec![small("in", b"in")]),
        data("file", 1, 100_000),
        linked(small("link 1", b"l"), 3, 2),
        linked(small("link 2", b"l"), 3, 2),
    ];
    let tree = fixture.save(&items);
    let target = fixture.target();
    for name in ["dir/old", "taken", "file", "link 1"] {
        write(target.join(name), b"mine");
    }
    let modified = std::fs::metadata(target.join("dir")).unwrap().mode();
    fixture.restore(tree, |o| o.overwrite = Overwrite::Never);
    for name in ["dir/old", "taken", "file", "link 1"] {
        assert_eq!(std::fs::read(target.join(name)).unwrap(), b"mine", "{name}");
    }
    assert_eq!(std::fs::metadata(target.join("dir")).unwrap().mode(), modified);
    assert_eq!(std::fs::read(target.join("dir/new")).unwrap(), b"new");
    assert_eq!(std::fs::read(target.join("link 2")).unwrap(), b"l", "not a link to what was left");
    let problems = fixture.seen.problems();
    assert!(problems.len() == 1 && problems[0].0 == "taken", "{problems:?}");
    assert_eq!(fixture.seen.details("kept"), ["dir/old", "file", "link 1"]);
}

#[test]
fn if_changed_goes_by_size_and_time() {
    let fixture = Fixture::new();
    let items = vec![data("newer", 1, 100_000), data("longer", 2, 100_000), data("alike", 3, 100_000)];
    let tree = fixture.save(&items);
    fixture.restore(tree, |_| {});
    let target = fixture.target();
    let wrong = noise(9, 100_000);
    write(target.join("newer"), &wrong);
    write(target.join("longer"), &noise(9, 100_001));
    write(target.join("alike"), &wrong);
    for name in ["longer", "alike"] {
        set_modified(&target.join(name), 1_600_000_000, 123_456_789);
    }
    std::fs::set_permissions(target.join("alike"), std::fs::Permissions::from_mode(0o777)).unwrap();
    fixture.restore(tree, |o| o.overwrite = Overwrite::IfChanged);
    assert_is(&target.join("newer"), &items[0]);
    assert_is(&target.join("longer"), &items[1]);
    assert!(std::fs::read(target.join("alike")).unwrap() == wrong, "left unread");
    assert_eq!(std::fs::metadata(target.join("alike")).unwrap().mode() & 0o7777, 0o640, "but its attributes are set");
    // Reading back tells.
    let outcome = fixture.restore(tree, |o| (o.overwrite, o.verify) = (Overwrite::IfChanged, true));
    assert_eq!((outcome.problems, outcome.verified_files), (1, 2));
    assert_eq!(fixture.seen.problems()[0].0, "alike");
    fixture.restore(tree, |o| o.verify = true);
    assert_holds(&target, &items);
}

#[test]
fn a_dry_run_tells_and_changes_nothing() {
    let fixture = Fixture::new();
    let _unlocking = Unlocking(fixture.dir.path());
    let tree = fixture.save(&everything());
    let outcome = fixture.restore(tree, |o| o.dry_run = true);
    assert!(!fixture.target().exists());
    let created = fixture.seen.details("would create").len() as u64;
    assert_eq!(created, outcome.files + outcome.directories + outcome.others);
    let real = fixture.restore(tree, |_| {});
    assert_eq!((outcome.files, outcome.directories, outcome.others), (real.files, real.directories, real.others));

    let target = fixture.target();
    let file = std::fs::OpenOptions::new().write(true).open(target.join("large")).unwrap();
    file.write_at(b"?", 17).unwrap();
    std::fs::remove_file(target.join("specials/fifo")).unwrap();
    std::fs::remove_dir(target.join("empty")).unwrap();
    std::fs::write(target.join("empty"), "in the way").unwrap();
    std::fs::set_permissions(target.join("hole"), std::fs::Permissions::from_mode(0o777)).unwrap();
    let before = change_times(&target);
    fixture.store.chunks_read.store(0, Ordering::Relaxed);
    let outcome = fixture.restore(tree, |o| o.dry_run = true);
    assert_eq!(fixture.seen.problems(), []);
    assert_eq!(change_times(&target), before);
    assert_eq!(fixture.store.chunks_read.load(Ordering::Relaxed), 0);
    assert_eq!(outcome.written_bytes, CHUNK as u64);
    assert_eq!(fixture.seen.details("would create"), ["empty", "specials/fifo"]);
    assert_eq!(fixture.seen.details("would update"), ["hole", "large", "specials"]);
    let names: Vec<String> = fixture.seen.details("restored");
    assert!(names.is_empty());
}

#[test]
fn no_special_leaves_out_what_gives_power() {
    let fixture = Fixture::new();
    let _unlocking = Unlocking(fixture.dir.path());
    let tree = fixture.save(&everything());
    let outcome = fixture.restore(tree, |o| o.special = false);
    assert_eq!(outcome.problems, 0);
    let target = fixture.target();
    assert_eq!(fixture.seen.details("left out"), ["specials/block", "specials/char"]);
    assert!(!target.join("specials/char").exists());
    assert_eq!(std::fs::metadata(target.join("attributes/setuid")).unwrap().mode() & 0o7777, 0o755);
    assert!(xattrs(&target.join("attributes/capable")).is_empty());
    assert!(xattrs(&target.join("attributes/trusted")).is_empty());
    assert!(target.join("specials/fifo").exists());
    // And takes it away where it is.
    fixture.restore(tree, |_| {});
    assert_holds(&target, &everything());
    fixture.restore(tree, |o| o.special = false);
    assert_eq!(std::fs::metadata(target.join("attributes/setuid")).unwrap().mode() & 0o7777, 0o755);
    assert!(xattrs(&target.join("attributes/capable")).is_empty());
}

#[test]
fn other_types_are_replaced_but_full_directories_only_with_delete() {
    let fixture = Fixture::new();
    let items = vec![small("a", b"a"), directory("b", vec![]), symlink("c", "x"), data("d", 1, 70_000)];
    let tree = fixture.save(&items);
    let target = fixture.target();
    std::fs::create_dir_all(target.join("a")).unwrap();
    write(target.join("b"), b"file");
    write(target.join("c/full"), b"full");
    make_symlink("nowhere", target.join("d")).unwrap();
    let outcome = fixture.restore(tree, |_| {});
    assert_eq!(outcome.problems, 1);
    assert_eq!(fixture.seen.problems()[0].0, "c");
    assert!(target.join("c/full").exists());
    fixture.restore(tree, |o| o.delete = true);
    assert_eq!(fixture.seen.problems(), []);
    assert_holds(&target, &items);
}

/// Runs a restore as an ordinary user, in a process of its own: this same test again.
#[test]
fn an_ordinary_user_gets_what_is_allowed() {
    const MARK: &str = "NIGHTKEEP_TEST_AS_USER";
    let test = "restore::tests::modes::an_ordinary_user_gets_what_is_allowed";
    if std::env::var_os(MARK).is_none() {
        // The program must lie where that user can reach it.
        let dir = tempfile::tempdir_in("/tmp").unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
        let program = dir.path().join("program");
        std::fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
        let mut command = std::process::Command::new("setpriv");
        command.args(["--reuid=1000", "--regid=1000", "--clear-groups"]).arg(&program);
        command.args([test, "--exact", "--nocapture"]).env(MARK, "1").env("TMPDIR", dir.path());
        match command.output() {
            Ok(output) => assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr)),
            Err(error) => println!("SKIPPED: setpriv cannot be run: {error}"),
        }
        return;
    }
    let fixture = Fixture::new();
    let own = |item| owned(item, 1000, 1000);
    let items = vec![
        own(small("mine", b"m")),
        own(item("unreadable", 0o000, What::Inline(b"u".to_vec()))),
        own(item("read only", 0o444, What::File(vec![Piece::Data(noise(1, 100_000))]))),
        own(item("closed", 0o000, What::Directory(vec![own(small("in", b"in"))]))),
        owned(item("setuid", 0o4755, What::Inline(b"s".to_vec())), 0, 0),
        owned(small("roots", b"r"), 0, 0),
        own(item("null", 0o666, What::Other(Node::CharacterDevice { major: 1, minor: 3 }))),
        own(xattr(small("trusted", b""), "trusted.t", b"")),
    ];
    let tree = fixture.save(&items);
    let outcome = fixture.restore(tree, |_| {});
    let problems = fixture.seen.problems();
    assert_eq!(outcome.problems, 3, "{problems:?}");
    assert!(problems.iter().any(|(item, reason)| item == "null" && reason.contains("not permitted")), "{problems:?}");
    assert!(problems.iter().any(|(_, reason)| reason.contains("owner") && reason.contains("1 more")), "{problems:?}");
    assert!(problems.iter().any(|(item, reason)| item == "trusted" && reason.contains("trusted.t")), "{problems:?}");
    let target = fixture.target();
    let mode = |name: &str| std::fs::metadata(target.join(name)).unwrap().mode() & 0o7777;
    assert_eq!(mode("setuid"), 0o755, "not setuid to somebody else");
    assert_eq!((mode("unreadable"), mode("closed"), mode("read only")), (0, 0, 0o444));
    // Over itself, although not all of it can be opened as it is.
    let again = fixture.restore(tree, |_| {});
    assert_eq!((again.problems, again.written_bytes), (3, 0));
    assert_eq!((mode("unreadable"), mode("closed"), mode("read only")), (0, 0, 0o444));
    let _ = std::fs::set_permissions(target.join("closed"), std::fs::Permissions::from_mode(0o700));
}

#[test]
fn never_leaves_nothing_half_made_for_the_next_run() {
    let fixture = Fixture::new();
    let items: Vec<Described> = (0..20).map(|n| data(format!("{n}"), n, 20 * CHUNK)).collect();
    let tree = fixture.save(&items);
    let interrupted = Arc::new(AtomicBool::new(false));
    let (stop, watched) = (interrupted.clone(), fixture.store.clone());
    let watcher = std::thread::spawn(move || {
        while watched.chunks_read.load(Ordering::Relaxed) < 100 {
            std::thread::yield_now();
        }
        stop.store(true, Ordering::Relaxed);
    });
    let change = |o: &mut super::super::Options| o.overwrite = Overwrite::Never;
    let result = fixture.try_restore(&Selection::Root(tree), change, &interrupted);
    watcher.join().unwrap();
    assert!(matches!(result, Err(Error::Interrupted)));
    fixture.restore(tree, change);
    assert_holds(&fixture.target(), &items);
}

#[test]
fn a_full_disk_ends_it_and_more_space_continues_it() {
    let fixture = Fixture::new();
    let items = vec![data("a", 1, 3 << 20), data("b", 2, 3 << 20), small("c", b"c")];
    let tree = fixture.save(&items);
    let target = fixture.target();
    std::fs::create_dir(&target).unwrap();
    let mount = |options: &str| {
        let mut command = std::process::Command::new("mount");
        command.args(["-t", "tmpfs", "-o", options, "none"]).arg(&target).status().is_ok_and(|s| s.success())
    };
    if !mount("size=4m") {
        println!("SKIPPED: mounting a tmpfs is not allowed here");
        return;
    }
    let never = AtomicBool::new(false);
    let full = fixture.try_restore(&Selection::Root(tree), |_| {}, &never);
    assert!(mount("remount,size=20m"));
    let outcome = fixture.try_restore(&Selection::Root(tree), |_| {}, &never);
    let right: Vec<bool> = items
        .iter()
        .map(|item| match &item.what {
            What::File(pieces) => matches!(&pieces[0], Piece::Data(bytes)
                if std::fs::read(target.join(std::str::from_utf8(&item.name).unwrap())).is_ok_and(|b| b == *bytes)),
            _ => target.join("c").exists(),
        })
        .collect();
    assert!(std::process::Command::new("umount").arg(&target).status().unwrap().success());
    assert!(matches!(full, Err(Error::Full { .. })), "{full:?}");
    assert!(outcome.is_ok_and(|outcome| outcome.kept_bytes > 0 && outcome.problems == 0));
    assert_eq!(right, [true; 3]);
}

#[test]
fn a_running_program_is_replaced() {
    let fixture = Fixture::new();
    let mut program = std::fs::read("/bin/sleep").unwrap();
    program.extend(noise(1, 300_000));
    let mut wanted = program.clone();
    let last = wanted.len() - 1;
    wanted[last] ^= 1;
    let items = vec![item("sleep", 0o755, What::File(vec![Piece::Data(wanted), Piece::Hole(100)]))];
    let tree = fixture.save(&items);
    let path = fixture.target().join("sleep");
    write(path.clone(), &program);
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut running = std::process::Command::new(&path).arg("1000").spawn().unwrap();
    let outcome = fixture.restore(tree, |o| o.verify = true);
    let still_runs = running.try_wait().unwrap().is_none();
    running.kill().unwrap();
    running.wait().unwrap();
    assert!(still_runs);
    assert_eq!(fixture.seen.problems(), []);
    assert!(outcome.written_bytes < program.len() as u64, "the rest was kept");
    assert_holds(&fixture.target(), &items);
}

/// A ramfs keeps neither extended attributes nor inode flags, and knows nothing of holes.
#[test]
fn a_file_system_that_knows_less_gets_what_it_can_hold() {
    let fixture = Fixture::new();
    let mut items = everything();
    items.retain(|item| item.name != b"hole");
    let tree = fixture.save(&items);
    let target = fixture.target();
    std::fs::create_dir(&target).unwrap();
    let done = std::process::Command::new("mount").args(["-t", "ramfs", "none"]).arg(&target).status();
    if !done.is_ok_and(|status| status.success()) {
        println!("SKIPPED: mounting a ramfs is not allowed here");
        return;
    }
    let mut problems = Vec::new();
    let mut written = Vec::new();
    for _ in 0..2 {
        written.push(fixture.restore(tree, |o| (o.delete, o.verify) = (true, true)).written_bytes);
        problems.push(fixture.seen.problems());
    }
    let large = std::fs::read(target.join("large"));
    let sparse = std::fs::read(target.join("sparse"));
    let modified = std::fs::metadata(target.join("attributes/user")).map(|found| found.mtime());
    assert!(std::process::Command::new("umount").arg(&target).status().unwrap().success());
    assert!(large.is_ok_and(|bytes| bytes == noise(6, 3_000_000)));
    assert!(sparse.is_ok_and(|bytes| bytes[3 << 20..][..100_000] == noise(1, 100_000)));
    assert_eq!(modified.unwrap(), 1_600_000_000);
    for problems in problems {
        assert!(problems.iter().all(|(_, reason)| reason.contains("could not be set")), "{problems:?}");
        assert!(problems.len() <= 7, "one for each kind: {problems:?}");
    }
    assert_eq!(written[1], 0);
}

#[test]
fn files_that_share_a_chunk_are_compared_and_written_one_by_one() {
    let fixture = Fixture::new();
    let shared = |name: &str, seed, len| item(name, 0o644, What::Shared(noise(seed, len)));
    let items = vec![shared("a", 1, 5000), shared("b", 2, 70_000), data("c", 3, 100_000), shared("d", 4, 3)];
    let tree = fixture.save(&items);
    let read = |fixture: &Fixture| fixture.store.chunks_read.load(std::sync::atomic::Ordering::Relaxed);
    let first = fixture.restore(tree, |o| o.verify = true);
    assert_eq!((first.written_bytes, first.verified_files, fixture.seen.problems()), (175_003, 4, vec![]));
    assert_holds(&fixture.target(), &items);
    let before = read(&fixture);
    assert_eq!(fixture.restore(tree, |_| {}).kept_bytes, 175_003, "known by their tags");
    assert_eq!(read(&fixture), before, "without the chunk");
    // One of them changed, and keeps size and time.
    let place = fixture.target().join("b");
    let time = std::fs::metadata(&place).unwrap().modified().unwrap();
    write(place.clone(), &noise(9, 70_000));
    std::fs::File::options().write(true).open(&place).unwrap().set_modified(time).unwrap();
    let again = fixture.restore(tree, |_| {});
    assert_eq!((again.written_bytes, again.kept_bytes), (70_000, 105_003));
    assert_eq!(read(&fixture), before + 1);
    assert_holds(&fixture.target(), &items);
}

#[test]
fn a_lost_chunk_fails_all_files_that_share_it_and_no_other() {
    let fixture = Fixture::new();
    let shared = |name: &str, seed| item(name, 0o644, What::Shared(noise(seed, 5000)));
    let tree = fixture.save(&[shared("a", 1), data("b", 2, 9000), shared("c", 3)]);
    let entry = fixture.reader.resolve(tree, b"a").unwrap().unwrap();
    fixture.lose(entry.links()[0]);
    fixture.restore(tree, |_| {});
    let failed: Vec<String> = fixture.seen.problems().into_iter().map(|(path, _)| path).collect();
    assert_eq!(failed, ["a", "c"]);
    assert_eq!(std::fs::read(fixture.target().join("b")).unwrap(), noise(2, 9000));
    assert!(!fixture.target().join("a").exists());
}
