//! A target and a repository that try to lead outside.

use super::*;
use chunkstore::tree::Content;
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;

/// Files beside the target that nothing may touch.
struct Outside {
    dir: PathBuf,
    before: Vec<(PathBuf, i64, i64)>,
}

impl Outside {
    fn new(fixture: &Fixture) -> Outside {
        let dir = fixture.dir.path().join("outside");
        std::fs::create_dir_all(dir.join("dir/sub")).unwrap();
        for name in ["file", "dir/file", "dir/sub/file", "linked"] {
            std::fs::write(dir.join(name), "precious").unwrap();
        }
        std::fs::create_dir_all(fixture.target()).unwrap();
        Outside { before: Vec::new(), dir }
    }

    fn remember(&mut self) {
        self.before = change_times(&self.dir);
    }
}

#[test]
fn planted_links_are_replaced() {
    for delete in [false, true] {
        let fixture = Fixture::new();
        let items = vec![
            directory("dir", vec![small("file", b"new"), directory("sub", vec![data("file", 1, 70_000)])]),
            data("file", 2, 200_000),
            small("inline", b"inline"),
            data("linked", 3, 70_000),
            linked(data("linked 2", 4, 70_000), 9, 2),
            linked(data("linked 3", 4, 70_000), 9, 2),
            item("fifo", 0o600, What::Other(Node::Fifo)),
        ];
        let tree = fixture.save(&items);
        let mut outside = Outside::new(&fixture);
        let target = fixture.target();
        make_symlink(outside.dir.join("dir"), target.join("dir")).unwrap();
        make_symlink(outside.dir.join("file"), target.join("file")).unwrap();
        make_symlink(outside.dir.join("new"), target.join("inline")).unwrap();
        for name in ["linked", "linked 2", "linked 3", "fifo"] {
            std::fs::hard_link(outside.dir.join("linked"), target.join(name)).unwrap();
        }
        // Losing a name changes an inode's change time, so only its content is compared.
        std::fs::remove_file(target.join("fifo")).unwrap();
        outside.remember();
        let linked = |t: &Vec<(PathBuf, i64, i64)>| t.iter().filter(|t| !t.0.ends_with("linked")).cloned().collect();
        outside.before = linked(&outside.before);
        fixture.restore(tree, |o| o.delete = delete);
        assert_eq!(fixture.seen.problems(), []);
        assert_holds(&target, &items);
        assert_eq!(std::fs::read(outside.dir.join("linked")).unwrap(), b"precious");
        let after: Vec<_> = linked(&change_times(&outside.dir));
        assert_eq!(after, outside.before);
        assert!(!outside.dir.join("new").exists());
    }
}

/// A file that is right, but for attributes, and has another name outside.
#[test]
fn attributes_are_not_set_through_planted_hard_links() {
    let fixture = Fixture::new();
    for names in [1, 2] {
        let wanted = item("file", 0o4777, What::Inline(b"precious".to_vec()));
        let items = vec![if names == 2 { linked(wanted, 1, 2) } else { wanted }];
        let tree = fixture.save(&items);
        let outside = Outside::new(&fixture);
        let _ = std::fs::remove_file(fixture.target().join("file"));
        std::fs::hard_link(outside.dir.join("file"), fixture.target().join("file")).unwrap();
        let before = std::fs::metadata(outside.dir.join("file")).unwrap();
        fixture.restore(tree, |_| {});
        let after = std::fs::metadata(outside.dir.join("file")).unwrap();
        assert_eq!((after.mode(), after.mtime()), (before.mode(), before.mtime()));
        assert_is(&fixture.target().join("file"), &items[0]);
    }
}

/// Another program replaces directories by symlinks and files by links, again and again.
#[test]
fn a_racing_swapper_leads_nowhere() {
    let fixture = Fixture::new();
    let below =
        |seed| vec![data("file", seed, 70_000), small("small", b"new"), directory("sub", vec![small("f", b"n")])];
    let items: Vec<Described> = (0..8).map(|n| directory(format!("dir{n}"), below(n))).collect();
    let tree = fixture.save(&items);
    let empty = fixture.save(&[]);
    let mut outside = Outside::new(&fixture);
    for name in ["file", "small", "sub/f"] {
        std::fs::write(outside.dir.join("dir").join(name), "precious").unwrap();
    }
    outside.remember();
    let stop = Arc::new(AtomicBool::new(false));
    let swaps = Arc::new(AtomicU64::new(0));
    let swapper = {
        let swaps = swaps.clone();
        let (stop, target, lure) = (stop.clone(), fixture.target(), outside.dir.join("dir"));
        let aside = fixture.dir.path().join("aside");
        std::fs::create_dir(&aside).unwrap();
        std::thread::spawn(move || {
            let mut attempts = 0u64;
            while !stop.load(Ordering::Relaxed) {
                for n in 0..8 {
                    let (at, sub) = (target.join(format!("dir{n}")), target.join(format!("dir{n}/sub")));
                    attempts += 1;
                    let away = aside.join(format!("{attempts}"));
                    let _ = std::fs::rename(&at, &away);
                    if make_symlink(&lure, &at).is_ok() {
                        swaps.fetch_add(1, Ordering::Relaxed);
                        std::thread::yield_now();
                        let _ = std::fs::remove_file(&at);
                    }
                    let _ = std::fs::rename(&away, &at);
                    let _ = std::fs::rename(&sub, aside.join(format!("{attempts} sub")));
                    let _ = make_symlink(lure.join("sub"), &sub);
                    let _ = std::fs::remove_file(at.join("file"));
                    let _ = make_symlink(lure.join("file"), at.join("file"));
                }
            }
        })
    };
    let mut round = 0;
    while swaps.load(Ordering::Relaxed) < 2000 {
        round += 1;
        let tree = if round % 3 == 2 { empty } else { tree };
        fixture.restore(tree, |o| (o.delete, o.verify) = (round % 2 == 0, false));
    }
    stop.store(true, Ordering::Relaxed);
    swapper.join().unwrap();
    println!("{round} restores");
    assert_eq!(change_times(&outside.dir), outside.before);
    // With the swapper gone all is put right.
    let outcome = fixture.restore(tree, |o| o.delete = true);
    assert_eq!((outcome.problems, fixture.seen.problems()), (0, vec![]));
    assert_holds(&fixture.target(), &items);
}

/// Entries of one group that say different things are not one file, and a group that claims fewer names than it has ends.
#[test]
fn a_group_of_hard_links_must_agree() {
    let fixture = Fixture::new();
    let items = vec![
        linked(small("1", b"one"), 5, 2),
        linked(small("2", b"two"), 5, 2),
        linked(item("3", 0o644, What::Other(Node::Fifo)), 5, 2),
        linked(small("4", b"one"), 5, 2),
        linked(small("5", b"one"), 5, 2),
        directory("6", vec![linked(small("in", b"one"), 5, 0)]),
        linked(small("7", b"x"), u64::MAX, 0),
        linked(small("8", b"x"), u64::MAX, 0),
    ];
    let tree = fixture.save(&items);
    fixture.restore(tree, |_| {});
    assert_eq!(fixture.seen.problems(), []);
    assert_holds(&fixture.target(), &items);
    assert_eq!(inode(&fixture.target().join("1")), inode(&fixture.target().join("4")));
}

/// The first name is restored, then swapped: no other inode gets the further names.
#[test]
fn a_file_that_cannot_be_made_gives_no_links() {
    let fixture = Fixture::new();
    let items = vec![linked(data("first", 1, 70_000), 5, 2), linked(data("second", 1, 70_000), 5, 2)];
    let tree = fixture.save(&items);
    std::fs::create_dir_all(fixture.target().join("first/full")).unwrap();
    fixture.restore(tree, |_| {});
    let names: Vec<String> = fixture.seen.problems().into_iter().map(|(item, _)| item).collect();
    assert_eq!(names, ["first", "second"]);
    assert!(!fixture.target().join("second").exists());
}

/// A list that does not cover its file, and chunks that are not as long as they say.
#[test]
fn contents_that_do_not_fit_fail_their_file() {
    let fixture = Fixture::new();
    let tree = fixture.save(&[data("file", 1, 3 * CHUNK)]);
    let entry = fixture.reader.resolve(tree, b"file").unwrap().unwrap();
    let Node::File(Content::Items { size, items }) = entry.node.clone() else { panic!("not in the entry") };
    let mut longer = items.clone();
    if let chunkstore::list::Item::Chunk { len, .. } = &mut longer[1] {
        *len += 1;
    }
    for (size, items) in [(size + 1, items.clone()), (size - 1, items.clone()), (size + 1, longer), (u64::MAX, items)] {
        let node = Node::File(Content::Items { size, items });
        let selection = Selection::Entry(Box::new(chunkstore::tree::Entry { node, ..entry.clone() }));
        let outcome = fixture.try_restore(&selection, |_| {}, &AtomicBool::new(false));
        assert!(outcome.is_ok_and(|outcome| outcome.problems == 1), "{:?}", fixture.seen.problems());
        assert_holds(&fixture.target(), &[]);
    }
}

#[test]
fn names_that_are_paths_are_refused() {
    let fixture = Fixture::new();
    Outside::new(&fixture);
    for name in ["../outside/new", "/tmp/new", "..", ".", "", "a\0b"] {
        let node = Node::File(Content::Inline(b"x".to_vec()));
        let entry = chunkstore::tree::Entry { name: name.into(), attributes: attributes(0o644), node };
        let outcome = fixture.try_restore(&Selection::Entry(Box::new(entry)), |_| {}, &AtomicBool::new(false));
        assert!(outcome.is_ok_and(|outcome| outcome.problems == 1), "{name:?}");
    }
    assert!(!fixture.dir.path().join("outside/new").exists());
}

/// Another program puts further names of files outside in place of what is restored, again and again.
#[test]
fn a_racing_linker_changes_nothing_outside() {
    let fixture = Fixture::new();
    let other = |name, node| owned(item(name, 0o666, What::Other(node)), 5, 5);
    let items: Vec<Described> = (0..8)
        .map(|n| {
            let below = vec![
                owned(data("file", n, 70_000), 5, 5),
                owned(small("small", b"new"), 5, 5),
                other("fifo", Node::Fifo),
                other("symlink", Node::Symlink(b"there".to_vec())),
            ];
            directory(format!("dir{n}"), below)
        })
        .collect();
    let tree = fixture.save(&items);
    let empty = fixture.save(&(0..8).map(|n| directory(format!("dir{n}"), vec![])).collect::<Vec<_>>());
    let outside = fixture.dir.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("file"), "precious").unwrap();
    std::fs::write(outside.join("small"), "precious").unwrap();
    make_symlink("there", outside.join("symlink")).unwrap();
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(rustix::fs::CWD, outside.join("fifo"), rustix::fs::FileType::Fifo, mode, 0).unwrap();
    let state = || {
        ["file", "small", "fifo", "symlink"].map(|name| {
            let found = std::fs::symlink_metadata(outside.join(name)).unwrap();
            (found.mode(), found.uid(), found.mtime(), found.mtime_nsec(), found.size())
        })
    };
    let before = state();
    let stop = Arc::new(AtomicBool::new(false));
    let links = Arc::new(AtomicU64::new(0));
    let linker = {
        let (stop, links, target, outside) = (stop.clone(), links.clone(), fixture.target(), outside.clone());
        std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                for n in 0..8 {
                    for name in ["file", "small", "fifo", "symlink"] {
                        let at = target.join(format!("dir{n}")).join(name);
                        let _ = std::fs::remove_file(&at);
                        if std::fs::hard_link(outside.join(name), &at).is_ok() {
                            links.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                }
            }
        })
    };
    let mut round = 0;
    while links.load(Ordering::Relaxed) < 8_000 {
        round += 1;
        let tree = if round % 2 == 0 { empty } else { tree };
        fixture.restore(tree, |o| o.delete = true);
        assert_eq!(state(), before);
    }
    stop.store(true, Ordering::Relaxed);
    linker.join().unwrap();
    println!("{round} restores");
    let outcome = fixture.restore(tree, |o| o.delete = true);
    assert_eq!((outcome.problems, fixture.seen.problems()), (0, vec![]));
    assert_holds(&fixture.target(), &items);
    assert_eq!(state(), before);
}
