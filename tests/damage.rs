//! Damage × place × what happens next: whatever is flipped, cut or lost in a stored object is found by a check that
//! names it, never makes the program panic, and never comes back as wrong content.

use std::path::{Path, PathBuf};

use crate::support::manifest;
use crate::support::program::{House, told};
use crate::support::torture::Random;

struct Saved {
    house: House,
    source: PathBuf,
    snapshot: String,
    expected: Vec<String>,
}

/// One snapshot of a small tree that has every kind of node: inline and chunked files, a list, a subtree.
fn saved() -> Saved {
    let house = House::new();
    let source = house.directory("source");
    std::fs::create_dir(source.join("below")).unwrap();
    let mut random = Random(11);
    std::fs::write(source.join("inline"), b"a few bytes").unwrap();
    std::fs::write(source.join("below/chunk"), random.bytes(30_000)).unwrap();
    std::fs::write(source.join("below/many"), random.bytes(900_000)).unwrap();
    std::os::unix::fs::symlink("inline", source.join("symlink")).unwrap();
    let snapshot = house.backup(&source);
    house.ok(["pin", &snapshot]);
    let expected = manifest::of(&source);
    Saved { house, source, snapshot, expected }
}

fn objects(house: &House, below: &str) -> Vec<PathBuf> {
    let (mut files, mut directories) = (Vec::new(), vec![house.repository().join(below)]);
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { directories.push(path) } else { files.push(path) }
        }
    }
    files.sort();
    assert!(!files.is_empty(), "no objects in {below}");
    files
}

/// Puts other bytes, or none, in the place of an object, as a fault of the disk would; back afterwards.
struct Damaged {
    path: PathBuf,
    whole: Vec<u8>,
}

impl Damaged {
    fn new(path: &Path, bytes: Option<&[u8]>) -> Damaged {
        let whole = std::fs::read(path).unwrap();
        std::fs::remove_file(path).unwrap();
        if let Some(bytes) = bytes {
            assert!(bytes != whole, "no damage done");
            std::fs::write(path, bytes).unwrap();
        }
        Damaged { path: path.to_owned(), whole }
    }
}

impl Drop for Damaged {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
        std::fs::write(&self.path, &self.whole).unwrap();
    }
}

impl Saved {
    /// A check names the object; it fails unless nothing is lost and everything still comes back.
    fn is_found(&self, what: &str, object: &Path) {
        let told = self.house.run(["check", "--read-data"]);
        let said = format!("{}{}", String::from_utf8_lossy(&told.out), told.err);
        let name = object.file_name().unwrap().to_str().unwrap();
        assert!(said.contains(&name[..name.len().min(8)]), "{what}: check does not name {name}: {said}");
        match told.code {
            Some(0) => {
                let target = self.house.restore(&self.snapshot, &self.source);
                manifest::assert_same(&self.expected, &manifest::of(&target));
                std::fs::remove_dir_all(target).unwrap();
            }
            Some(1) => {}
            other => panic!("{what}: check ends with {other:?} (signal {:?}): {said}", told.signal),
        }
    }

    /// Every file that a restore leaves is right, or the restore says that something is wrong.
    fn restores_nothing_wrong(&self, what: &str) {
        let target = self.house.fresh("target");
        let selection = format!("{}:{}", self.snapshot, self.source.display());
        let told = self.house.run(["restore", "files", &selection, "--target", target.to_str().unwrap()]);
        let found = if target.exists() { manifest::of(&target) } else { Vec::new() };
        if told.code == Some(0) {
            manifest::assert_same(&self.expected, &found);
        }
        assert!(told.code.is_some(), "{what}: killed by signal {:?}: {}", told.signal, told.err);
        let content = |line: &String| -> Vec<String> { line.split('\t').take(7).map(str::to_owned).collect() };
        for line in found.iter().map(content).filter(|fields| fields[1] == "f") {
            let right =
                self.expected.iter().map(content).find(|fields| fields[0] == line[0]).expect("a file from nowhere");
            assert_eq!((&line[5], &line[6]), (&right[5], &right[6]), "{what}: {} came back changed", line[0]);
        }
        let _ = std::fs::remove_dir_all(target);
    }
}

/// A place in each stretch of the object, ends included.
fn positions(len: usize, count: usize, random: &mut Random) -> Vec<usize> {
    let mut places = vec![0, len / 2, len - 1];
    places.extend((0..count).map(|_| random.below(len as u64) as usize));
    places
}

#[test]
fn flipped_bits_are_found() {
    let saved = saved();
    let mut random = Random(5);
    for below in ["packs", "snapshots", "marks"] {
        for object in objects(&saved.house, below) {
            let whole = std::fs::read(&object).unwrap();
            for position in positions(whole.len(), 3, &mut random) {
                let mut bytes = whole.clone();
                bytes[position] ^= 1 << random.below(8);
                let what = format!("flip at {position} of {}", object.display());
                let _damaged = Damaged::new(&object, Some(&bytes));
                saved.is_found(&what, &object);
                saved.restores_nothing_wrong(&what);
            }
        }
    }
    saved.house.ok(["check", "--read-data"]);
}

#[test]
fn cut_objects_are_found() {
    let saved = saved();
    for below in ["packs", "snapshots", "marks"] {
        for object in objects(&saved.house, below) {
            let whole = std::fs::read(&object).unwrap();
            for length in [0, 1, 17, whole.len() / 2, whole.len() - 1] {
                let what = format!("{} cut to {length}", object.display());
                let _damaged = Damaged::new(&object, Some(&whole[..length]));
                saved.is_found(&what, &object);
                saved.restores_nothing_wrong(&what);
            }
        }
    }
    saved.house.ok(["check", "--read-data"]);
}

#[test]
fn lost_packs_are_found() {
    let saved = saved();
    for object in objects(&saved.house, "packs") {
        let what = format!("{} lost", object.display());
        let _damaged = Damaged::new(&object, None);
        saved.is_found(&what, &object);
        saved.restores_nothing_wrong(&what);
    }
    saved.house.ok(["check", "--read-data"]);
    saved.restores_nothing_wrong("all whole again");
}

#[test]
fn swapped_objects_are_found() {
    let saved = saved();
    let packs = objects(&saved.house, "packs");
    let (one, two) = (std::fs::read(&packs[0]).unwrap(), std::fs::read(&packs[1]).unwrap());
    let _first = Damaged::new(&packs[0], Some(&two));
    let _second = Damaged::new(&packs[1], Some(&one));
    saved.is_found("packs swapped", &packs[0]);
    saved.restores_nothing_wrong("packs swapped");
}

#[test]
fn one_copy_of_the_configuration_is_enough_and_its_loss_is_found() {
    let saved = saved();
    for name in ["REPO", "REPO.copy"] {
        let object = saved.house.repository().join(name);
        let whole = std::fs::read(&object).unwrap();
        let mut flipped = whole.clone();
        flipped[20] ^= 1;
        for bytes in [Some(&flipped[..]), Some(&whole[..9]), None] {
            let _damaged = Damaged::new(&object, bytes);
            // The other copy serves, so nothing is lost yet; but the administrator must hear of it.
            let told = saved.house.run(["check"]);
            let said = format!("{}{}", String::from_utf8_lossy(&told.out), told.err);
            assert!(said.contains(name), "{name} damaged, check says: {said}");
            let target = saved.house.restore(&saved.snapshot, &saved.source);
            manifest::assert_same(&saved.expected, &manifest::of(&target));
        }
    }
}

#[test]
fn the_catalogue_is_only_a_cache() {
    let saved = saved();
    let catalogue = saved.house.repository().join("catalog.sqlite3");
    let whole = std::fs::read(&catalogue).unwrap();
    let place = |bytes: Option<&[u8]>| {
        for file in ["catalog.sqlite3", "catalog.sqlite3-wal", "catalog.sqlite3-shm"] {
            let _ = std::fs::remove_file(catalogue.with_file_name(file));
        }
        if let Some(bytes) = bytes {
            std::fs::write(&catalogue, bytes).unwrap();
        }
    };
    let noise = Random(9).bytes(whole.len());
    let mut damaged = vec![None, Some(noise), Some(whole[..whole.len() / 2].to_vec()), Some(Vec::new())];
    // Holes that end within a page: SQLite does not notice all of them.
    for part in 0..12 {
        let mut holed = whole.clone();
        holed[whole.len() * part / 12 + 100..whole.len() * (part + 1) / 12].fill(0);
        damaged.push(Some(holed));
    }
    for bytes in damaged {
        place(bytes.as_deref());
        let target = saved.house.restore(&saved.snapshot, &saved.source);
        manifest::assert_same(&saved.expected, &manifest::of(&target));
        place(bytes.as_deref());
        saved.house.ok(["check", "--read-data"]);
        saved.house.backup(&saved.source);
        // Who comes upon the damage in the middle of a run fails, but the next one does not.
        place(bytes.as_deref());
        let words = ["backup", "files", saved.source.to_str().unwrap()];
        let told = saved.house.run(words);
        if told.code != Some(0) {
            assert!(told.err.contains("the index is damaged") && told.err.contains("once more"), "{}", told.err);
            saved.house.ok(words);
        }
        saved.house.ok(["check"]);
    }
}

#[test]
fn damaged_keys_open_nothing_or_the_right_thing() {
    let saved = saved();
    let mut random = Random(13);
    for object in objects(&saved.house, "keys") {
        let whole = std::fs::read(&object).unwrap();
        for position in positions(whole.len(), 6, &mut random) {
            let mut bytes = whole.clone();
            bytes[position] ^= 1 << random.below(8);
            let _damaged = Damaged::new(&object, Some(&bytes));
            let told = saved.house.run(["snapshots"]);
            assert!(matches!(told.code, Some(0 | 1 | 12)), "byte {position}: {:?}: {}", told.code, told.err);
            saved.restores_nothing_wrong(&format!("key slot, byte {position}"));
        }
    }
}

/// Many ways to copy a directory leave empty directories behind.
#[test]
fn a_copy_without_its_empty_directories_works() {
    let saved = saved();
    let repository = saved.house.repository();
    let delete_empty = ["-mindepth", "1", "-type", "d", "-empty", "-delete"];
    told(std::process::Command::new("find").arg(&repository).args(delete_empty)).expect(0);
    assert!(!repository.join("tmp").exists());
    saved.restores_nothing_wrong("without empty directories");
    saved.house.ok(["check", "--read-data"]);
    std::fs::write(saved.source.join("later"), Random(8).bytes(500_000)).unwrap();
    let snapshot = saved.house.backup(&saved.source);
    let target = saved.house.restore(&snapshot, &saved.source);
    manifest::assert_same(&manifest::of(&saved.source), &manifest::of(&target));
}
