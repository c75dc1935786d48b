//! Whatever happens to an object is found, named, and never read back as something else.

use super::*;
use crate::backend::Backend;
use crate::backend::simulated::Simulated;
use crate::codec::{Opener, Sealer};
use crate::list::Item;
use crate::record::Kind;
use crate::repository::tests::World;
use crate::tree::{Attributes, Content, Entry, Node};
use crate::writer::{BlobWriter, ListBuilder, TreeBuilder};
use std::sync::Arc;

/// One directory `d` with a chunked file `large` and an inline one, in a repository of a few kilobytes.
fn small_backup(world: &World, text: &str) -> Snapshot {
    let repository = world.write(0).unwrap();
    let writer = BlobWriter::new(&repository, Sealer::new(&world.keys.write, &world.configuration).unwrap());
    let mut list = ListBuilder::new();
    for n in 0..6 {
        let content = chunk(text, n);
        let link = writer.put(Kind::Chunk, &content, &[]).unwrap();
        list.push(Item::Chunk { len: content.len() as u64, link }, &writer).unwrap();
    }
    let entry = |name: &str, node| Entry { name: name.into(), attributes: Attributes::default(), node };
    let directory = |entries: Vec<Entry>| {
        let mut tree = TreeBuilder::new();
        for entry in entries {
            tree.push(&entry.name, &entry.encode(), &entry.links(), &writer).unwrap();
        }
        tree.finish(&writer).unwrap()
    };
    let large = entry("large", Node::File(list.finish(&writer).unwrap()));
    let small = entry("small", Node::File(Content::Inline(b"inline".to_vec())));
    let inner = directory(vec![large, small]);
    let root = directory(vec![entry("d", Node::Directory(inner))]);
    let snapshot = world.snapshot(&writer.sealer, root, 1).unwrap();
    repository.commit(&snapshot).unwrap();
    snapshot
}

fn chunk(text: &str, n: usize) -> Vec<u8> {
    format!("{text} {n} ").repeat(20).into_bytes()
}

fn reader(world: &World, repository: Repository) -> Reader {
    Reader::new(Arc::new(repository), Opener::new(&world.keys, &world.configuration).unwrap())
}

fn check(world: &World, read_data: ReadData) -> Result<CheckOutcome> {
    check_until(world, read_data, &AtomicBool::new(false))
}

fn check_until(world: &World, read_data: ReadData, interrupted: &AtomicBool) -> Result<CheckOutcome> {
    let repository = world.write(0)?;
    let reader = reader(world, world.read());
    let check = Check {
        repository: &repository,
        configuration: &world.configuration,
        key: Some(&world.keys.write),
        reader: Some(&reader),
        read_data,
        threads: 3,
        interrupted,
        progress: &|_, _| {},
    };
    check.run()
}

/// The large file of a snapshot, or why not.
fn read_large(world: &World, snapshot: &Snapshot) -> Result<Vec<u8>> {
    let reader = reader(world, world.read());
    let found = reader.resolve(snapshot.summary.root, b"d/large")?;
    match found.map(|entry| entry.node) {
        Some(Node::File(content)) => reader.read_at(&content, 0, 1 << 20),
        other => panic!("{other:?} where a file should be"),
    }
}

fn expected(text: &str) -> Vec<u8> {
    (0..6).flat_map(|n| chunk(text, n)).collect()
}

fn objects(world: &World) -> Vec<ObjectName> {
    let mut names = vec![ObjectName::Configuration, ObjectName::ConfigurationCopy];
    for kind in [ObjectKind::Pack, ObjectKind::Snapshot, ObjectKind::Mark] {
        names.extend(world.backend.list(kind).unwrap().into_iter().map(|(name, _)| name));
    }
    names
}

/// After a damage: the check names it, and what can be read is right.
fn found_and_never_wrong(world: &World, snapshot: &Snapshot, what: &str) {
    match check(world, ReadData::All) {
        Ok(outcome) => assert!(!outcome.findings.is_empty(), "{what}: not found"),
        Err(e) => assert!(e.is_damage() || matches!(e, Error::Unsupported { .. }), "{what}: {e}"),
    }
    match read_large(world, snapshot) {
        Ok(bytes) => assert!(bytes == expected("one"), "{what}: wrong bytes"),
        Err(e) => assert!(e.is_damage() || matches!(e, Error::Unsupported { .. }), "{what}: {e}"),
    }
}

#[test]
fn a_whole_repository_has_no_findings() {
    let world = World::new();
    let snapshot = small_backup(&world, "one");
    for read_data in [ReadData::Nothing, ReadData::All, ReadData::Part { part: 1, of: 1 }] {
        let outcome = check(&world, read_data).unwrap();
        assert!(outcome.findings.is_empty(), "{:?}", outcome.findings);
        assert_eq!((outcome.snapshots, outcome.packs), (1, 2));
    }
    assert_eq!(read_large(&world, &snapshot).unwrap(), expected("one"));
}

#[test]
fn an_interruption_ends_all_threads() {
    let world = World::new();
    small_backup(&world, "one");
    for read_data in [ReadData::Nothing, ReadData::All] {
        let outcome = check_until(&world, read_data, &AtomicBool::new(true));
        assert!(matches!(outcome, Err(Error::Interrupted)), "{outcome:?}");
    }
}

#[test]
fn every_flipped_byte_is_found() {
    let mut world = World::new();
    let snapshot = small_backup(&world, "one");
    let pristine = world.backend.clone();
    let mut bit = 0;
    for name in objects(&world) {
        let bytes = pristine.get(name).unwrap();
        for at in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << (bit % 8);
            bit += 1;
            world.backend = Arc::new(pristine.restarted());
            world.backend.damage(name, Some(flipped));
            // Most flips need only the cheap half; each ninth goes through everything.
            if at % 9 == 0 {
                found_and_never_wrong(&world, &snapshot, &format!("{name} byte {at}"));
                recover_index(&world, &pristine);
            } else {
                let read = world.backend.get(name).and_then(|bytes| verify_alone(&world, name, &bytes));
                assert!(read.is_err(), "{name} byte {at}");
            }
        }
    }
}

/// The check of one object's bytes that a full check makes first.
fn verify_alone(world: &World, name: ObjectName, bytes: &[u8]) -> Result<()> {
    let repository = &world.configuration.repository;
    let hash = blake3::hash(bytes);
    let named = |id: &[u8; 32]| if hash == *id { Ok(()) } else { Err(Error::corrupt(name.to_string(), "its name")) };
    match name {
        ObjectName::Configuration | ObjectName::ConfigurationCopy => {
            Configuration::decode(bytes, &name.to_string()).map(|_| ())
        }
        ObjectName::Pack(id) => named(&id.0),
        ObjectName::Snapshot(id) => named(&id.0).and_then(|()| Snapshot::parse(bytes.to_vec(), repository).map(|_| ())),
        ObjectName::Mark(id) => named(&id.0),
        ObjectName::KeySlot(_) => Ok(()),
    }
}

/// The next case begins with an index that knows of no damage.
fn recover_index(world: &World, pristine: &Arc<Simulated>) {
    crate::index::Index::remove(&world.catalog()).unwrap();
    let other = Arc::new(pristine.restarted());
    let access = crate::repository::Access::Write { holder: "test".into(), wait: std::time::Duration::ZERO };
    drop(Repository::open_backend(other, &world.catalog(), access, 0).unwrap());
}

#[test]
fn every_truncation_and_deletion_is_found() {
    let mut world = World::new();
    let snapshot = small_backup(&world, "one");
    let pristine = world.backend.clone();
    for name in objects(&world) {
        let bytes = pristine.get(name).unwrap();
        let lengths = (0..bytes.len()).filter(|len| len % 512 == 0 || len + 40 > bytes.len());
        for cut in lengths.map(Some).chain([None]) {
            world.backend = Arc::new(pristine.restarted());
            world.backend.damage(name, cut.map(|len| bytes[..len].to_vec()));
            if matches!(name, ObjectName::Snapshot(_)) && cut.is_none() {
                // A snapshot exists if and only if its object does.
                assert_eq!(check(&world, ReadData::All).unwrap().snapshots, 0);
            } else {
                found_and_never_wrong(&world, &snapshot, &format!("{name} cut to {cut:?}"));
            }
            recover_index(&world, &pristine);
        }
    }
}

#[test]
fn damage_names_the_paths_it_affects_and_the_next_backup_heals_it() {
    let world = World::new();
    let snapshot = small_backup(&world, "one");
    let (data, _) = world.backend.list(ObjectKind::Pack).unwrap().into_iter().max_by_key(|(_, len)| *len).unwrap();
    let mut bytes = world.backend.get(data).unwrap();
    bytes[100] ^= 1;
    world.backend.damage(data, Some(bytes));
    let outcome = check(&world, ReadData::All).unwrap();
    assert!(outcome.findings.iter().any(|finding| finding.lost && finding.object.starts_with("blob ")));
    assert_eq!(outcome.affected.len(), 1, "{:?}", outcome.affected);
    assert_eq!(outcome.affected[0].path, b"/d/large");
    assert_eq!(outcome.affected[0].snapshot, snapshot.id);
    assert!(read_large(&world, &snapshot).unwrap_err().is_damage());
    let second = small_backup(&world, "one");
    assert_eq!(read_large(&world, &second).unwrap(), expected("one"));
    // The same content is there again under another id, and serves the old snapshot too.
    assert_eq!(read_large(&world, &snapshot).unwrap(), expected("one"));
    let outcome = check(&world, ReadData::All).unwrap();
    assert!(outcome.affected.is_empty(), "{:?}", outcome.affected);
}

#[test]
fn a_record_under_another_name_is_found() {
    let world = World::new();
    let snapshot = small_backup(&world, "one");
    let packs = world.backend.list(ObjectKind::Pack).unwrap();
    let (first, second) = (packs[0].0, packs[1].0);
    let (a, b) = (world.backend.get(first).unwrap(), world.backend.get(second).unwrap());
    world.backend.damage(first, Some(b));
    world.backend.damage(second, Some(a));
    found_and_never_wrong(&world, &snapshot, "two packs swapped");
}

#[test]
fn parts_cover_every_pack_once() {
    let world = World::new();
    for text in ["one", "two", "three", "four"] {
        small_backup(&world, text);
    }
    let read = |part| check(&world, ReadData::Part { part, of: 3 }).unwrap().packs_read;
    assert_eq!(read(1) + read(2) + read(3), 8);
    assert_eq!(check(&world, ReadData::Percent { percent: 100.0, seed: 1 }).unwrap().packs_read, 8);
    assert_eq!(check(&world, ReadData::Percent { percent: 0.0, seed: 1 }).unwrap().packs_read, 0);
}

#[test]
fn a_pack_that_is_gone_is_named_until_nothing_needs_it() {
    let world = World::new();
    small_backup(&world, "one");
    let (data, _) = world.backend.list(ObjectKind::Pack).unwrap().into_iter().min_by_key(|(_, len)| *len).unwrap();
    let bytes = world.backend.get(data).unwrap();
    let names_it = || {
        let outcome = check(&world, ReadData::Nothing).unwrap();
        outcome.findings.into_iter().find(|finding| finding.object == data.to_string())
    };
    world.backend.damage(data, None);
    assert!(names_it().is_some_and(|finding| finding.lost));
    world.backend.damage(data, Some(bytes));
    assert!(names_it().is_none(), "it was put back");
    world.backend.damage(data, None);
    check(&world, ReadData::Nothing).unwrap();
    small_backup(&world, "one");
    assert!(names_it().is_some_and(|finding| !finding.lost), "its content is stored again");
}

#[test]
fn a_damaged_copy_of_the_configuration_is_written_again() {
    let world = World::new();
    small_backup(&world, "one");
    let pristine = world.backend.get(ObjectName::Configuration).unwrap();
    for name in [ObjectName::Configuration, ObjectName::ConfigurationCopy] {
        world.backend.damage(name, Some(pristine[..20].to_vec()));
        let outcome = check(&world, ReadData::Nothing).unwrap();
        assert!(outcome.findings.iter().any(|finding| finding.object == name.to_string() && !finding.lost));
        assert_eq!(world.backend.get(name).unwrap(), pristine);
    }
}

#[test]
fn a_damaged_pack_goes_with_the_prune_once_its_content_is_stored_again() {
    let world = World::new();
    let first = small_backup(&world, "one");
    let (data, _) = world.backend.list(ObjectKind::Pack).unwrap().into_iter().min_by_key(|(_, len)| *len).unwrap();
    let mut bytes = world.backend.get(data).unwrap();
    bytes[300] ^= 1;
    world.backend.damage(data, Some(bytes));
    assert!(check(&world, ReadData::All).unwrap().findings.iter().any(|finding| finding.lost));
    small_backup(&world, "one");
    let outcome = check(&world, ReadData::All).unwrap();
    assert!(!outcome.findings.is_empty() && outcome.findings.iter().all(|finding| !finding.lost), "{outcome:?}");
    let options = crate::gc::PruneOptions {
        grace: std::time::Duration::ZERO,
        now: i64::MAX / 2,
        dry_run: false,
        arrived: Default::default(),
    };
    world.write(0).unwrap().prune(crate::mark::Believed::Key(&world.keys.write, None), &options).unwrap();
    assert!(world.backend.get(data).is_err(), "the damaged pack is gone");
    assert_eq!(read_large(&world, &first).unwrap(), expected("one"));
    let outcome = check(&world, ReadData::All).unwrap();
    assert!(outcome.findings.iter().all(|finding| !finding.lost) && outcome.affected.is_empty(), "{outcome:?}");
}

#[test]
fn a_pack_whose_records_are_whole_is_made_again() {
    let world = World::new();
    small_backup(&world, "one");
    for (name, _) in world.backend.list(ObjectKind::Pack).unwrap() {
        let pristine = world.backend.get(name).unwrap();
        let mut flipped = pristine.clone();
        *flipped.iter_mut().rev().nth(30).unwrap() ^= 1;
        for damaged in [flipped, pristine[..pristine.len() - 1].to_vec()] {
            world.backend.damage(name, Some(damaged));
            let outcome = check(&world, ReadData::All).unwrap();
            assert!(
                outcome.findings.iter().any(|finding| finding.object == name.to_string() && !finding.lost),
                "{outcome:?}"
            );
            assert_eq!(world.backend.get(name).unwrap(), pristine);
            assert!(check(&world, ReadData::All).unwrap().findings.is_empty());
        }
    }
}
