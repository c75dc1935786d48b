//! Content that a source stored itself, in the tree around it.

use crate::backup::special::{Depot, Made, Prepared, Tree, compose};
use crate::backup::testing::{Fixture, Told};
use crate::backup::{FilesOptions, Outcome};
use chunkstore::Result;
use chunkstore::store::Store;
use chunkstore::tree::Node;
use std::fs::{create_dir, write};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

struct House {
    fixture: Fixture,
    top: tempfile::TempDir,
}

/// `top/db/live`, `top/db/other`, `top/files/a`, `top/files/skip`, `top/b`.
fn house() -> House {
    let top = tempfile::tempdir().unwrap();
    let at = |name: &str| top.path().join(name);
    create_dir(at("db")).unwrap();
    create_dir(at("files")).unwrap();
    for name in ["db/live", "db/other", "files/a", "files/skip", "b"] {
        write(at(name), name).unwrap();
        let times = std::fs::FileTimes::new().set_modified(std::time::UNIX_EPOCH);
        std::fs::File::options().append(true).open(at(name)).unwrap().set_times(times).unwrap();
    }
    House { fixture: Fixture::new(), top }
}

impl House {
    /// A depot's content for some names.
    fn prepared(&self, depot: &Depot<'_>, contents: &[(&str, &[u8])]) -> Vec<Prepared> {
        let each = contents.iter().map(|(name, bytes)| {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(bytes).unwrap();
            let (_, attributes) = depot.attributes(name.as_bytes(), &file).unwrap();
            let attributes = chunkstore::tree::Attributes { modified: Default::default(), ..attributes };
            let content = depot.file(name, &file).unwrap();
            Prepared { path: self.top.path().join(name), attributes, content }
        });
        each.collect()
    }

    fn save(&self, contents: &[(&str, &[u8])], told: &Told) -> Result<Option<Outcome>> {
        let skip = self.top.path().join("files/skip");
        let keep = |path: &[u8], is_directory: bool| {
            let is_prepared = |(name, _): &(&str, &[u8])| self.top.path().join(name).as_os_str().as_bytes() == path;
            assert!(!contents.iter().any(is_prepared), "it is not asked about");
            is_directory || path != skip.as_os_str().as_bytes()
        };
        let options = FilesOptions { paths: vec![self.top.path().to_owned()], ..FilesOptions::default() };
        compose(&self.fixture.context(told, &self.fixture.cache_dir()), &Fixture::request(), &|depot| {
            let prepared = self.prepared(depot, contents);
            let walked = depot.walk(&Tree { options: &options, prepared, keep: Some(&keep) })?;
            Ok(Some(Made { walked, facts: vec![("test.fact".into(), b"x".to_vec())] }))
        })
    }

    fn listing(&self, outcome: &Outcome) -> Vec<(String, Option<Vec<u8>>)> {
        let entries = self.fixture.entries_below(outcome, self.top.path());
        let content = |entry| match &entry {
            chunkstore::tree::Entry { node: Node::File(_), .. } => Some(self.fixture.content(&entry)),
            _ => None,
        };
        entries.into_iter().map(|(path, entry)| (path, content(entry))).collect()
    }
}

fn text(listing: &[(String, Option<Vec<u8>>)]) -> Vec<String> {
    let shown = |content: &Option<Vec<u8>>| content.as_ref().map_or("/".into(), |c| format!("={}", c.escape_ascii()));
    listing.iter().map(|(path, content)| format!("{path}{}", shown(content))).collect()
}

#[test]
fn it_stands_in_for_what_is_there_or_beside_it() {
    let house = house();
    let told = Told::default();
    let outcome = house.save(&[("db/live", b"copy"), ("db/dump", b"dump")], &told).unwrap().unwrap();
    let expected = ["b=b", "db/", "db/dump=dump", "db/live=copy", "db/other=db/other", "files/", "files/a=files/a"];
    assert_eq!(text(&house.listing(&outcome)), expected);
    assert_eq!((outcome.totals.files, outcome.problems, outcome.files_new), (5, 0, 5));
    let snapshot = house.fixture.snapshot(&outcome);
    let opener = chunkstore::codec::Opener::new(&house.fixture.keys, house.fixture.repository.configuration()).unwrap();
    let details = snapshot.details(&opener).unwrap();
    assert!(details.facts.contains(&("test.fact".into(), b"x".to_vec())));
    assert_eq!(details.paths, [house.top.path().as_os_str().as_bytes()]);
}

#[test]
fn directories_with_it_are_the_same_as_long_as_it_is() {
    let house = house();
    // Long enough ago that the cache believes what it saw.
    std::thread::sleep(std::time::Duration::from_millis(2100));
    let contents: &[(&str, &[u8])] = &[("db/live", &[7; 200_000]), ("db/dump", b"dump")];
    let first = house.save(contents, &Told::default()).unwrap().unwrap();
    let second = house.save(contents, &Told::default()).unwrap().unwrap();
    assert_eq!((second.files_unchanged, second.files_changed, second.files_new), (5, 0, 0));
    assert_eq!((second.new_bytes, second.totals.files), (0, 5));
    assert_eq!(house.listing(&first), house.listing(&second));
    let third = house.save(&[("db/live", &[8; 200_000]), ("db/dump", b"dump")], &Told::default()).unwrap().unwrap();
    assert_eq!((third.files_unchanged, third.files_changed, third.files_new), (4, 1, 0));
    let listing = house.listing(&third);
    assert!(listing.contains(&("db/live".into(), Some(vec![8; 200_000]))));
    let fourth = house.save(&contents[..1], &Told::default()).unwrap().unwrap();
    assert_eq!((fourth.files_changed, fourth.totals.files), (1, 4));
    assert!(!text(&house.listing(&fourth)).iter().any(|line| line.starts_with("db/dump")));
}

#[test]
fn without_its_directory_it_is_a_problem() {
    let house = house();
    let told = Told::default();
    let outcome = house.save(&[("gone/dump", b"dump")], &told).unwrap().unwrap();
    assert_eq!(outcome.problems, 1);
    assert!(told.problems()[0].contains("gone/dump: it does not exist"), "{:?}", told.problems());
    std::os::unix::fs::symlink("db", house.top.path().join("link")).unwrap();
    let told = Told::default();
    assert_eq!(house.save(&[("link/dump", b"dump")], &told).unwrap().unwrap().problems, 1);
}

#[test]
fn who_gives_up_leaves_nothing() {
    let house = house();
    let told = Told::default();
    let options = FilesOptions { paths: vec![house.top.path().to_owned()], ..FilesOptions::default() };
    let context = house.fixture.context(&told, Path::new("/nonexistent"));
    let given_up = compose(&context, &Fixture::request(), &|depot| {
        depot.hold_problems();
        depot.problem(b"/x", "held");
        depot.walk(&Tree { options: &options, prepared: Vec::new(), keep: None })?;
        Ok(None)
    });
    assert!(given_up.unwrap().is_none());
    assert!(told.problems().is_empty());
    assert!(house.fixture.context(&told, Path::new("/")).store.snapshots().unwrap().is_empty());
    let made = compose(&context, &Fixture::request(), &|depot| {
        depot.hold_problems();
        depot.problem(b"/x", "held");
        let walked = depot.walk(&Tree { options: &options, prepared: Vec::new(), keep: None })?;
        Ok(Some(Made { walked, facts: Vec::new() }))
    });
    assert_eq!(made.unwrap().unwrap().problems, 1);
    assert_eq!(told.problems(), ["problem /x: held"]);
}
