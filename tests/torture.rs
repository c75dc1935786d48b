//! A tree with everything awkward in it comes back as it was. First the instruments themselves: a listing that
//! overlooks a difference would make every later comparison worthless.

use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;

use crate::support::manifest;
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
