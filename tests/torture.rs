//! A tree with everything awkward in it comes back as it was. First the instruments themselves: a listing that
//! overlooks a difference would make every later comparison worthless.

use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;

use crate::support::manifest;
use crate::support::program::House;
use crate::support::python;
use crate::support::torture::{self, Place, Shape};

fn small() -> Shape {
    Shape { small_files: 50, ..Shape::default() }
}

#[test]
fn same_seed_makes_the_same_tree() {
    let place = Place::new();
    let (one, two) = (place.directory("one"), place.directory("two"));
    for top in [&one, &two] {
        for line in torture::make(top, &small()) {
            println!("left out: {line}");
        }
    }
    let listing = manifest::of(&one);
    assert!(listing.len() > 500, "{} lines", listing.len());
    manifest::assert_same(&listing, &manifest::of(&two));
}

#[test]
fn listing_sees_every_kind_of_change() {
    let place = Place::new();
    let top = place.directory("tree");
    torture::make(&top, &Shape { locked: false, ..small() });
    let mut before = manifest::of(&top);
    let mut changed = |what: &str, action: &dyn Fn(&Path)| {
        action(&top);
        let after = manifest::of(&top);
        assert!(before != after, "the listing does not see: {what}");
        before = after;
    };
    changed("one byte", &|top| {
        let file = std::fs::File::options().write(true).open(top.join("sizes/1048577")).unwrap();
        let time = file.metadata().unwrap().modified().unwrap();
        file.write_all_at(b"!", 77_777).unwrap();
        file.set_modified(time).unwrap();
    });
    changed("a byte moved inside a hole", &|top| {
        let file = std::fs::File::options().write(true).open(top.join("sparse/terabyte")).unwrap();
        let time = file.metadata().unwrap().modified().unwrap();
        file.write_all_at(b"\0\0\0\0head", 0).unwrap();
        file.set_modified(time).unwrap();
    });
    changed("a hole filled with zeros", &|top| {
        let file = std::fs::File::options().write(true).open(top.join("sparse/all-hole")).unwrap();
        let time = file.metadata().unwrap().modified().unwrap();
        file.write_all_at(&vec![0; 1 << 20], 1 << 20).unwrap();
        file.set_modified(time).unwrap();
    });
    changed("a nanosecond", &|top| {
        let file = std::fs::File::open(top.join("times/epoch")).unwrap();
        file.set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_nanos(1)).unwrap();
    });
    changed("a permission bit", &|top| {
        std::fs::set_permissions(top.join("modes/0644"), PermissionsExt::from_mode(0o645)).unwrap_or_else(|_| {
            std::fs::set_permissions(top.join("modes/0600"), PermissionsExt::from_mode(0o601)).unwrap();
        });
    });
    changed("a hard link broken", &|top| {
        let name = top.join("hardlinks/elsewhere/file1-0");
        std::fs::copy(&name, top.join("copy")).unwrap();
        std::fs::rename(top.join("copy"), &name).unwrap();
    });
    changed("a symlink's target", &|top| {
        std::fs::remove_file(top.join("symlinks/space")).unwrap();
        std::os::unix::fs::symlink("  ", top.join("symlinks/space")).unwrap();
    });
    changed("an attribute's value", &|top| {
        rustix::fs::setxattr(top.join("xattrs/plain"), "user.comment", b"bonsoir", rustix::fs::XattrFlags::empty())
            .unwrap();
    });
    changed("an entry less", &|top| std::fs::remove_file(top.join("names/--help")).unwrap());
}

/// The tree, what of it could not be made, and a house to save it in.
fn saved_tree() -> (House, std::path::PathBuf) {
    let house = House::new();
    let source = house.directory("source");
    for line in torture::make(&source, &Shape::default()) {
        println!("left out: {line}");
    }
    (house, source)
}

#[test]
fn everything_comes_back_as_it_was() {
    let (house, source) = saved_tree();
    let listing = manifest::of(&source);
    let snapshot = house.backup(&source);
    manifest::assert_same(&listing, &manifest::of(&source));
    manifest::assert_same(&listing, &manifest::of(&house.restore(&snapshot, &source)));

    // Nothing changed: the second run must say the same, and cost next to nothing.
    let before = house.stored_bytes();
    let second = house.backup(&source);
    assert!(
        house.stored_bytes() - before < 64 * 1024,
        "an unchanged tree cost {} bytes",
        house.stored_bytes() - before
    );
    manifest::assert_same(&listing, &manifest::of(&house.restore(&second, &source)));
    house.ok(["check", "--read-data"]);

    if python::available() {
        let repository = house.repository();
        let reader = house.reader(&repository);
        let seen = reader.lines(&["manifest", &format!("{second}:{}", source.display())]);
        manifest::assert_same(&listing, &seen);
    }
}

#[test]
fn changes_are_seen_and_the_past_stays() {
    let (house, source) = saved_tree();
    let first = (house.backup(&source), manifest::of(&source));
    torture::release(&source);
    for gone in ["names", "symlinks", "sparse/terabyte", "flags"] {
        let path = source.join(gone);
        if path.is_dir() { std::fs::remove_dir_all(path).unwrap() } else { std::fs::remove_file(path).unwrap() }
    }
    std::fs::rename(source.join("sizes"), source.join("sizes-renamed")).unwrap();
    std::fs::remove_file(source.join("hardlinks/elsewhere/file1-0")).unwrap();
    std::fs::hard_link(source.join("sizes-renamed/65536"), source.join("hardlinks/new")).unwrap();
    std::fs::write(source.join("sizes-renamed/4096"), b"now a short file").unwrap();
    std::fs::remove_file(source.join("special/fifo")).unwrap();
    std::fs::create_dir(source.join("special/fifo")).unwrap();
    let same_size = std::fs::File::options().write(true).open(source.join("sizes-renamed/1048577")).unwrap();
    let time = same_size.metadata().unwrap().modified().unwrap();
    same_size.write_all_at(b"!", 500_000).unwrap();
    // Same size, same modification time: only the change time tells.
    same_size.set_modified(time).unwrap();
    std::fs::set_permissions(source.join("many"), PermissionsExt::from_mode(0o711)).unwrap();
    let second = (house.backup(&source), manifest::of(&source));
    assert_ne!(first.1.len(), second.1.len());
    for (snapshot, listing) in [&second, &first] {
        manifest::assert_same(listing, &manifest::of(&house.restore(snapshot, &source)));
    }
    house.ok(["check", "--read-data"]);
}

#[test]
fn a_restore_over_an_older_state_brings_the_newer_one() {
    let house = House::new();
    let source = house.directory("source");
    torture::make(&source, &Shape { locked: false, small_files: 60, ..Shape::default() });
    let (snapshot, listing) = (house.backup(&source), manifest::of(&source));
    let what = format!("{snapshot}:{}", source.display());
    let target = house.directory("target");
    // Everything that can stand in the way: other types, other content, extra names, wrong attributes.
    std::fs::create_dir_all(target.join("symlinks/dangling")).unwrap();
    std::fs::write(target.join("deep"), b"a file where a directory belongs").unwrap();
    std::fs::create_dir_all(target.join("sizes/4096/x")).unwrap();
    std::os::unix::fs::symlink("/", target.join("names")).unwrap();
    std::fs::write(target.join("extra"), b"not in the snapshot").unwrap();
    std::fs::create_dir_all(target.join("sparse")).unwrap();
    std::fs::write(target.join("sparse/all-hole"), vec![7; 10 << 20]).unwrap();
    house.ok([
        "restore",
        "files",
        &what,
        "--target",
        target.to_str().unwrap(),
        "--delete",
        "--overwrite",
        "always",
        "--verify",
    ]);
    manifest::assert_same(&listing, &manifest::of(&target));
}
