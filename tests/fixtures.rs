//! Repositories written by released versions, kept for ever: every later version, and the independent reader, read them.
//! A fixture never changes; its digest stands here. `NIGHTKEEP_WRITE_FIXTURES=DIR` makes new ones in DIR.

use std::path::{Path, PathBuf};

use chunkstore::configuration::{Kem, Suite};
use chunkstore::key::Hardness;

use crate::reader;
use crate::support::manifest;
use crate::support::program::{House, told};
use crate::support::python::{self, Reader};
use crate::support::source::workspace;
use crate::support::torture::{self, Place, Shape};

/// Each with its passphrase and the digest of all its files.
const FIXTURES: [(&str, &str, &str); 3] = [
    ("format-1", PASSWORD, "b436d938d98259175f217fefb72f47bdebc24156d3a01965ecf0dadb56e361e3"),
    ("format-1-shapes", reader::PASSWORD, "be58433d164f93e1859b5bb98c3fbfd4ec0f06acc5ba303c3fafde00eedbb433"),
    ("format-1-slices", reader::PASSWORD, "68169746e1d0d94e2ae1011ef202ca92967a1f6907dffc67c838f5fc25b61f10"),
];

const PASSWORD: &str = "golden since the first day";

fn directory() -> PathBuf {
    workspace().join("tests/fixtures")
}

/// SHA-256 over path, length and content of every file, in order of path.
fn digest(top: &Path) -> String {
    let (mut files, mut directories) = (Vec::new(), vec![top.to_owned()]);
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { directories.push(path) } else { files.push(path) }
        }
    }
    files.sort();
    let mut context = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    for file in files {
        let bytes = std::fs::read(&file).unwrap();
        context.update(file.strip_prefix(top).unwrap().to_str().unwrap().as_bytes());
        context.update(&(bytes.len() as u64).to_le_bytes());
        context.update(&bytes);
    }
    context.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn copy(from: &Path, to: &Path) {
    told(std::process::Command::new("cp").arg("-r").arg(from).arg(to)).expect(0);
}

/// Snapshot id and listing, for each file `ID.manifest` of a fixture.
fn listings(fixture: &Path) -> Vec<(String, Vec<String>)> {
    let names = std::fs::read_dir(fixture).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let ids = names.filter_map(|name| name.strip_suffix(".manifest").map(str::to_owned));
    let found: Vec<_> = ids
        .map(|id| {
            let text = std::fs::read_to_string(fixture.join(format!("{id}.manifest"))).unwrap();
            (id, text.lines().map(str::to_owned).collect())
        })
        .collect();
    assert!(!found.is_empty(), "{} has no listings", fixture.display());
    found
}

#[test]
fn every_fixture_is_listed_and_unchanged() {
    let mut there: Vec<String> = match std::fs::read_dir(directory()) {
        Ok(entries) => entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect(),
        Err(_) => Vec::new(),
    };
    there.sort();
    let listed: Vec<&str> = FIXTURES.iter().map(|(name, _, _)| *name).collect();
    assert_eq!(there, listed);
    for (name, _, expected) in FIXTURES {
        assert_eq!(digest(&directory().join(name)), expected, "{name} has changed");
    }
}

#[test]
fn every_fixture_can_be_read() {
    for (name, password, _) in FIXTURES {
        let fixture = directory().join(name);
        let mut house = House::bare();
        house.password = password.to_owned();
        copy(&fixture.join("repository"), &house.repository());
        house.ok(["check", "--read-data"]);
        let expected = listings(&fixture);
        let listed = house.snapshots();
        for (snapshot, listing) in expected {
            assert!(listed.contains(&snapshot), "{name}: {snapshot} is not listed");
            if rustix::process::geteuid().is_root() {
                manifest::assert_same(&listing, &manifest::of(&house.restore(&snapshot, Path::new("/tree"))));
            } else {
                println!("SKIPPED: restoring {name} with its owners and devices wants root");
            }
            house.run(["ls", &snapshot]).expect(0);
        }
    }
}

#[test]
fn the_independent_reader_reads_every_fixture() {
    if !python::available() {
        return;
    }
    for (name, password, _) in FIXTURES {
        let fixture = directory().join(name);
        let repository = fixture.join("repository");
        let reader = Reader { repository: &repository, password: Some(password), recovery_key: None };
        reader.reads(&["verify"]);
        for (snapshot, listing) in listings(&fixture) {
            manifest::assert_same(&listing, &reader.lines(&["manifest", &format!("{snapshot}:/tree")]));
        }
    }
}

#[test]
fn new_fixtures_are_written_when_asked() {
    let Some(target) = std::env::var_os("NIGHTKEEP_WRITE_FIXTURES").map(PathBuf::from) else { return };
    let mut house = House::bare();
    house.password = PASSWORD.to_owned();
    // A root of its own, so that the saved path is /tree wherever the fixture is made.
    let source = PathBuf::from("/tree");
    std::fs::create_dir(&source).expect("/tree is in the way");
    torture::make(&source, &Shape { small_files: 40, large: false, locked: false, ..Shape::default() });
    told(house.command(["init"]).env_remove("NIGHTKEEP_TEST_CHEAP_KDF")).expect(0);
    let mut saved = Vec::new();
    for round in ["first", "second"] {
        std::fs::write(source.join("names").join(round), round).unwrap();
        let snapshot = house.backup(&source);
        house.ok(["tag", &snapshot, &format!("+{round}")]);
        saved.push((snapshot, manifest::of(&source)));
    }
    std::fs::remove_dir_all(&source).unwrap();
    keep(&house.repository(), &target.join("format-1"), &saved);

    let place = Place::new();
    let root = place.directory("repository");
    let made = reader::make(&root, Suite::ChaCha20Poly1305, Kem::XWing, Hardness::Normal);
    let python = Reader { repository: &root, password: Some(reader::PASSWORD), recovery_key: None };
    let listing = python.lines(&["manifest", &format!("{}:/tree", made.snapshot)]);
    keep(&root, &target.join("format-1-slices"), &[(made.snapshot, listing)]);
}

/// Truth and listings; what is derived stays behind.
fn keep(repository: &Path, target: &Path, snapshots: &[(String, Vec<String>)]) {
    std::fs::create_dir_all(target).unwrap();
    copy(repository, &target.join("repository"));
    for derived in ["catalog.sqlite3", "catalog.sqlite3-wal", "catalog.sqlite3-shm", "writer.lock"] {
        let _ = std::fs::remove_file(target.join("repository").join(derived));
    }
    for (snapshot, listing) in snapshots {
        std::fs::write(target.join(format!("{snapshot}.manifest")), listing.join("\n") + "\n").unwrap();
    }
    println!("{}: {}", target.display(), digest(target));
}
