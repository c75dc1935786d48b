//! Walks over small trees, in peace and while they change.

use super::*;
use crate::backup::FilesOptions;
use crate::backup::exclude::{CACHE_SIGNATURE, Excludes};
use crate::backup::testing::Told;
use crossbeam_channel::bounded;
use proptest::prelude::*;
use rustix::fs::{Mode, OFlags};
use std::ffi::OsStr;
use std::fs::{DirBuilder, create_dir, create_dir_all, write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::path::{Path, PathBuf};

#[derive(PartialEq, Debug)]
struct Walked {
    /// Relative to the temporary directory; a slash after directories as they are entered.
    paths: Vec<String>,
    told: Vec<String>,
    found: usize,
}

/// Alone and with others that look ahead: it comes to the same.
fn walk(top: &Path, given: &[&str], options: &FilesOptions) -> Walked {
    let alone = walk_with(top, given, options, 0, |_| ());
    for others in [1, 3] {
        assert_eq!(walk_with(top, given, options, others, |_| ()), alone);
    }
    alone
}

fn walk_with(top: &Path, given: &[&str], options: &FilesOptions, others: usize, at: impl FnMut(&str)) -> Walked {
    let given: Vec<PathBuf> = given.iter().map(|path| top.join(path)).collect();
    let (root, _) = Branch::merge(&given, Path::new("/")).unwrap();
    let excludes = Excludes::new(options).unwrap();
    let told = Told::default();
    let report = Report::new(&told);
    let walk = Walk::new(&root, Rules::new(&excludes, None, options.one_file_system, [].into_iter()), &report);
    let (paths, found) = std::thread::scope(|scope| {
        let (ahead, tasks) = bounded::<Task<'_>>(4);
        for _ in 0..others {
            let tasks = tasks.clone();
            scope.spawn(move || tasks.into_iter().for_each(|task| task()));
        }
        take_steps(if others > 0 { walk.ahead(ahead) } else { walk }, top, at)
    });
    let top = top.to_str().unwrap();
    let told = told.lines().iter().map(|line| line.replace(top, "")).collect();
    Walked { paths, told, found }
}

fn take_steps(mut walk: Walk<'_>, top: &Path, mut at: impl FnMut(&str)) -> (Vec<String>, usize) {
    let mut paths = Vec::new();
    let mut open: Vec<Vec<u8>> = Vec::new();
    while let Some(step) = walk.step() {
        let path = walk.path().to_vec();
        assert!(path.is_empty() || path.ends_with(&[b"/", walk.name()].concat()));
        let top = top.as_os_str().as_bytes();
        let below = path.strip_prefix(top.strip_suffix(b"/").unwrap_or(top)).and_then(|path| path.strip_prefix(b"/"));
        let below = below.map(|path| path.escape_ascii().to_string());
        match step {
            Step::Enter(_) => open.push(path),
            Step::Leave => assert_eq!(open.pop().unwrap(), path),
            Step::Item(stat) => assert!(!stat.is_directory()),
            Step::Prepared(_) => panic!("nothing was prepared"),
        }
        if let (Some(below), false) = (below, step == Step::Leave) {
            at(&below);
            paths.push(if matches!(step, Step::Enter(_)) { format!("{below}/") } else { below });
        }
    }
    assert!(open.is_empty());
    (paths, walk.found())
}

fn tree() -> tempfile::TempDir {
    let temp = tempfile::tempdir().unwrap();
    let at = |name: &str| temp.path().join(name);
    create_dir_all(at("a/sub")).unwrap();
    create_dir_all(at("a.b")).unwrap();
    create_dir_all(at("z")).unwrap();
    for name in ["a/file", "a/sub/x.o", "a/sub/y", "a-", "a.b/c", "b"] {
        write(at(name), b"1234").unwrap();
    }
    symlink("a", at("link")).unwrap();
    temp
}

#[test]
fn the_order_is_by_name_within_each_directory() {
    let temp = tree();
    let raw = OsStr::from_bytes(b"\xff\x01");
    create_dir(temp.path().join(raw)).unwrap();
    let walked = walk(temp.path(), &[""], &FilesOptions::default());
    let expected =
        ["a/", "a/file", "a/sub/", "a/sub/x.o", "a/sub/y", "a-", "a.b/", "a.b/c", "b", "link", "z/", "\\xff\\x01/"];
    assert_eq!(walked.paths, expected);
    assert!(walked.told.is_empty(), "{:?}", walked.told);
}

#[test]
fn only_what_is_given_is_visited() {
    let temp = tree();
    let options = FilesOptions::default();
    let walked = walk(temp.path(), &["a/sub", "b", "a/sub/y", "link"], &options);
    assert_eq!(walked.paths, ["a/", "a/sub/", "a/sub/x.o", "a/sub/y", "b", "link"]);
    assert_eq!((walked.found, walked.told.len()), (4, 0));
    let walked = walk(temp.path(), &["no", "a/no", "b/no/no"], &options);
    assert_eq!(walked.paths, ["a/"]);
    assert_eq!(walked.found, 0);
    assert_eq!(walked.told.len(), 3, "{:?}", walked.told);
    assert!(walked.told.iter().any(|line| line.starts_with("problem /b/no/no")), "{:?}", walked.told);
}

#[test]
fn what_is_given_and_listed_is_visited_once() {
    let temp = tempfile::tempdir().unwrap();
    let names: Vec<String> = (10..60).map(|n| n.to_string()).collect();
    for name in names.iter().filter(|name| !name.ends_with('7')) {
        write(temp.path().join(name), b"").unwrap();
    }
    let given: Vec<&str> = names.iter().map(String::as_str).chain([""]).collect();
    let walked = walk(temp.path(), &given, &FilesOptions::default());
    let there: Vec<&String> = names.iter().filter(|name| !name.ends_with('7')).collect();
    assert_eq!(walked.paths.iter().collect::<Vec<_>>(), there);
    assert_eq!(walked.told.len(), 5, "{:?}", walked.told);
}

#[test]
fn symlinks_are_followed_only_on_the_way() {
    let temp = tree();
    let walked = walk(temp.path(), &["link/sub"], &FilesOptions::default());
    assert_eq!(walked.paths, ["link/", "link/sub/", "link/sub/x.o", "link/sub/y"]);
    // Saved as a symlink, it cannot be a directory too.
    let walked = walk(temp.path(), &["", "link/sub"], &FilesOptions::default());
    assert!(walked.paths.contains(&"link".to_owned()));
    assert_eq!(walked.told.len(), 1, "{:?}", walked.told);
    assert!(walked.told[0].starts_with("problem /link/sub"));
}

#[test]
fn excluded_directories_are_not_entered_but_given_paths_are() {
    let temp = tree();
    let mut options = FilesOptions { excludes: vec!["sub".into(), "a-".into()], ..FilesOptions::default() };
    let walked = walk(temp.path(), &["a", "a-"], &options);
    assert_eq!(walked.paths, ["a/", "a/file", "a-"]);
    assert_eq!(walked.told, ["excluded /a/sub"]);
    let walked = walk(temp.path(), &["a", "a/sub/y"], &options);
    assert_eq!(walked.paths, ["a/", "a/file", "a/sub/", "a/sub/y"]);
    options.excludes = vec!["*.o".into(), "a/".into(), "link/".into()];
    options.exclude_larger_than = Some(4);
    write(temp.path().join("big"), b"12345").unwrap();
    let walked = walk(temp.path(), &[""], &options);
    assert_eq!(walked.paths, ["a-", "a.b/", "a.b/c", "b", "link", "z/"]);
    options.exclude_larger_than = Some(1);
    assert_eq!(walk(temp.path(), &["big"], &options).paths, ["big"]);
}

#[test]
fn marked_directories_keep_their_mark() {
    let temp = tree();
    write(temp.path().join("a/CACHEDIR.TAG"), [CACHE_SIGNATURE, &b" more"[..]].concat()).unwrap();
    write(temp.path().join("a.b/CACHEDIR.TAG"), b"Signature: none").unwrap();
    write(temp.path().join("z/.nobackup"), b"").unwrap();
    write(temp.path().join("z/other"), b"").unwrap();
    let mut options = FilesOptions { exclude_caches: true, ..FilesOptions::default() };
    let walked = walk(temp.path(), &["a", "a.b", "z"], &options);
    let expected = ["a/", "a/CACHEDIR.TAG", "a.b/", "a.b/CACHEDIR.TAG", "a.b/c", "z/", "z/.nobackup", "z/other"];
    assert_eq!(walked.paths, expected);
    options.exclude_if_present = vec![".nobackup".into()];
    let walked = walk(temp.path(), &["a", "a/sub/y", "z"], &options);
    assert_eq!(walked.paths, ["a/", "a/CACHEDIR.TAG", "a/sub/", "a/sub/x.o", "a/sub/y", "z/", "z/.nobackup"]);
}

#[test]
fn mount_points_are_kept_empty() {
    if Stat::at(CWD, b"/proc").unwrap().device == Stat::at(CWD, b"/").unwrap().device {
        println!("skipped: /proc is not mounted");
        return;
    }
    let options = FilesOptions {
        one_file_system: true,
        // Everything but the way to the mount point, so that the test is quick.
        excludes: vec!["/*".into(), "!/proc".into()],
        ..FilesOptions::default()
    };
    assert_eq!(walk(Path::new("/"), &[""], &options).paths, ["proc/"]);
    let walked = walk(Path::new("/"), &["", "proc/self/status"], &options);
    assert_eq!(walked.paths, ["proc/", "proc/self/", "proc/self/status"]);
}

#[test]
fn paths_may_be_longer_than_any_call_takes() {
    let temp = tempfile::tempdir().unwrap();
    let name = "n".repeat(200);
    let mut directory: OwnedFd = std::fs::File::open(temp.path()).unwrap().into();
    let depth = 3 * OPEN_MAX;
    for _ in 0..depth {
        rustix::fs::mkdirat(&directory, &*name, Mode::RWXU).unwrap();
        for file in ["a", "z"] {
            rustix::fs::openat(&directory, file, OFlags::CREATE | OFlags::WRONLY, Mode::RWXU).unwrap();
        }
        directory = rustix::fs::openat(&directory, &*name, OFlags::RDONLY, Mode::empty()).unwrap();
    }
    let walked = walk(temp.path(), &[""], &FilesOptions::default());
    assert_eq!(walked.paths.len(), 3 * depth, "every level is left through an open directory");
    assert!(walked.told.is_empty(), "{:?}", walked.told);
    assert!(walked.paths.iter().any(|path| path.len() > 30_000));
}

#[test]
fn what_vanishes_or_turns_is_told_or_taken_as_it_is() {
    let temp = tree();
    let top = temp.path().to_owned();
    let walked = walk_with(temp.path(), &[""], &FilesOptions::default(), 0, |path| {
        if path == "a/file" {
            std::fs::remove_dir_all(top.join("a/sub")).unwrap();
            std::fs::remove_file(top.join("b")).unwrap();
            std::fs::remove_dir_all(top.join("a.b")).unwrap();
            symlink("/etc", top.join("a.b")).unwrap();
            std::fs::remove_file(top.join("link")).unwrap();
            std::fs::remove_dir(top.join("z")).unwrap();
        }
    });
    // What had been looked at is for its reader to miss.
    assert_eq!(walked.paths, ["a/", "a/file", "a-", "a.b", "b"]);
    let told: Vec<_> = walked.told.iter().map(|line| line.split(':').next().unwrap()).collect();
    assert_eq!(told, ["problem /a/sub", "problem /link", "problem /z"]);
}

#[test]
fn nobody_is_waited_for_who_does_not_look_ahead() {
    let temp = tree();
    let (root, _) = Branch::merge(&[temp.path().to_owned()], Path::new("/")).unwrap();
    let excludes = Excludes::new(&FilesOptions::default()).unwrap();
    let told = Told::default();
    let report = Report::new(&told);
    let rules = || Rules::new(&excludes, None, false, [].into_iter());
    // Nobody takes the tasks, nobody is there, and whoever takes one drops it.
    let (ahead, tasks) = bounded::<Task<'_>>(2);
    let (all, _) = take_steps(Walk::new(&root, rules(), &report).ahead(ahead.clone()), temp.path(), |_| ());
    assert_eq!(tasks.len(), 2);
    drop(tasks);
    assert_eq!(take_steps(Walk::new(&root, rules(), &report).ahead(ahead), temp.path(), |_| ()).0, all);
    assert_eq!(walk(temp.path(), &[""], &FilesOptions::default()).paths, all);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn looking_ahead_changes_nothing(shape in prop::collection::vec((0usize..40, 0usize..9, any::<bool>()), 1..80)) {
        let temp = tempfile::tempdir().unwrap();
        let mut directories = vec![PathBuf::new()];
        for (number, (parent, files, is_excluded)) in shape.into_iter().enumerate() {
            let ending = if is_excluded { "no" } else { "yes" };
            let directory = directories[parent % directories.len()].join(format!("{number}.{ending}"));
            create_dir(temp.path().join(&directory)).unwrap();
            for file in 0..files {
                write(temp.path().join(&directory).join(format!("{}.{file}", file % 5)), b"").unwrap();
            }
            directories.push(directory);
        }
        let options = FilesOptions { excludes: vec!["*.no".into(), "*.3".into()], ..FilesOptions::default() };
        let walked = walk(temp.path(), &[""], &options);
        prop_assert!(walked.paths.iter().all(|path| !path.contains(".no") && !path.ends_with(".3")));
        let given = walk(temp.path(), &["", "0.no", "0.yes/1.no"], &options);
        prop_assert!(given.paths.len() >= walked.paths.len());
    }
}

#[test]
fn a_directory_moved_away_is_read_on() {
    let temp = tempfile::tempdir().unwrap();
    let deep = vec!["d"; OPEN_MAX + 4].join("/");
    create_dir_all(temp.path().join(&deep)).unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    write(temp.path().join("d/d/z"), b"").unwrap();
    write(temp.path().join("zz"), b"").unwrap();
    let away = elsewhere.path().join("d");
    let walk_and_move = |from: &str| {
        walk_with(temp.path(), &[""], &FilesOptions::default(), 0, |path| {
            if path == deep {
                std::fs::rename(temp.path().join(from), &away).unwrap();
            }
        })
    };
    let walked = walk_and_move("d/d/d");
    assert!(walked.told.is_empty(), "{:?}", walked.told);
    assert_eq!(walked.paths[walked.paths.len() - 2..], ["d/d/z", "zz"]);
    std::fs::rename(&away, temp.path().join("d/d/d")).unwrap();
    // The directory to come back to is where `..` leads, and its own is found from the root.
    let walked = walk_and_move("d/d");
    assert!(walked.told.is_empty(), "{:?}", walked.told);
    assert_eq!(walked.paths[walked.paths.len() - 2..], ["d/d/z", "zz"]);
}

#[test]
fn an_unreadable_directory_is_told_and_empty() {
    let temp = tree();
    DirBuilder::new().mode(0o311).create(temp.path().join("closed")).unwrap();
    write(temp.path().join("closed/x"), b"").unwrap();
    if rustix::process::geteuid().is_root() {
        println!("skipped: root may list every directory");
        return;
    }
    let walked = walk(temp.path(), &["closed"], &FilesOptions::default());
    assert_eq!(walked.paths, ["closed/"]);
    assert_eq!(walked.told.len(), 1);
}
