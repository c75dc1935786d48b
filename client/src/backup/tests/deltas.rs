//! Nights of a content that changes a little.

use super::super::testing::{Fixture, Told};
use crate::backup::{Deltas, FilesOptions, Outcome, files};
use chunkstore::record::Class;
use chunkstore::store::Store;
use std::path::PathBuf;

/// A table of 20,000 rows of which every hundredth, another one each night, was updated.
fn table(night: u64) -> Vec<u8> {
    let row = |id: u64| {
        let version = (1..=night).rev().find(|night| (id * 7 + night * 31).is_multiple_of(100)).unwrap_or(0);
        let hash = blake3::hash(&[id.to_le_bytes(), version.to_le_bytes()].concat()).to_hex();
        format!("{id}\t{version}\t{hash}\t{}\n", "some note or other ".repeat(usize::try_from(id % 5).unwrap()))
    };
    (0..20_000).flat_map(|id| row(id).into_bytes()).collect()
}

struct House {
    fixture: Fixture,
    file: PathBuf,
}

impl House {
    fn new(deltas: impl FnOnce(&Fixture) -> Deltas) -> House {
        let mut fixture = Fixture::new();
        fixture.deltas = deltas(&fixture);
        let top = fixture.temp.path().join("source");
        std::fs::create_dir(&top).unwrap();
        House { file: top.join("table.sql"), fixture }
    }

    fn save(&self, content: &[u8]) -> Outcome {
        std::fs::write(&self.file, content).unwrap();
        let outcome = self.fixture.save(self.file.parent().unwrap()).0;
        self.verify(&outcome, content);
        outcome
    }

    /// Read again by a reader with nothing in its caches.
    fn verify(&self, outcome: &Outcome, content: &[u8]) {
        let entries = self.fixture.entries_below(outcome, self.file.parent().unwrap());
        assert!(self.fixture.content(&entries["table.sql"]) == content);
    }
}

fn read(fixture: &Fixture) -> Deltas {
    Deltas::Read(Box::new(fixture.reader()))
}

fn keep(_: &Fixture) -> Deltas {
    Deltas::Keep { bytes_max: 64 << 20 }
}

#[test]
fn a_night_costs_what_changed() {
    for deltas in [read as fn(&Fixture) -> Deltas, keep] {
        let house = House::new(deltas);
        let first = house.save(&table(0));
        assert_eq!(first.delta_chunks, 0);
        for night in 1..8 {
            let outcome = house.save(&table(night));
            assert!(outcome.delta_chunks > 5 && outcome.delta_bytes <= outcome.added_bytes, "{night}: {outcome:?}");
            assert!(outcome.added_bytes < first.added_bytes / 5, "{night}: {outcome:?} of {first:?}");
        }
    }
}

#[test]
fn no_chain_is_longer_than_eight() {
    let house = House::new(read);
    let nights: Vec<Outcome> = (0..12).map(|night| house.save(&table(night))).collect();
    let mut deepest = 0;
    for outcome in &nights {
        for entry in house.fixture.entries_below(outcome, house.file.parent().unwrap()).values() {
            for id in entry.links() {
                deepest = deepest.max(depth(&house.fixture, id));
            }
        }
    }
    assert_eq!(deepest, 8);
}

fn depth(fixture: &Fixture, id: chunkstore::id::BlobId) -> u8 {
    let record = fixture.repository.read(&[id]).unwrap().pop().unwrap().unwrap();
    let own = u8::from(record.class == Class::Data);
    record.links.iter().map(|link| depth(fixture, *link) + own).max().unwrap_or(0)
}

#[test]
fn what_is_remembered_may_be_lost_damaged_or_foreign() {
    for deltas in [read as fn(&Fixture) -> Deltas, keep] {
        let house = House::new(deltas);
        house.save(&table(0));
        let cache = house.fixture.cache_dir();
        let before = house.save(&table(1));
        let similar = std::fs::read(cache.join("similar")).unwrap();
        let spoil = |night: u64| {
            let at = usize::try_from(night).unwrap() * 1013 % similar.len();
            match night {
                2 => std::fs::remove_file(cache.join("similar")).unwrap(),
                3 => std::fs::write(cache.join("similar"), &similar[..at]).unwrap(),
                _ => {
                    let mut changed = similar.clone();
                    changed[at] ^= 4;
                    std::fs::write(cache.join("similar"), changed).unwrap();
                }
            }
        };
        for night in 2..6 {
            spoil(night);
            let outcome = house.save(&table(night));
            assert!(outcome.added_bytes > before.added_bytes, "{night}");
        }
        let after = house.save(&table(6));
        assert!(after.delta_chunks > 5, "{after:?}");
    }
}

#[test]
fn a_damaged_cache_of_bases_costs_only_bytes() {
    let house = House::new(keep);
    house.save(&table(0));
    let segment = house.fixture.cache_dir().join("bases/00000000.bases");
    let mut bytes = std::fs::read(&segment).unwrap();
    for at in (0..bytes.len()).step_by(1001) {
        bytes[at] ^= 1;
    }
    std::fs::write(&segment, &bytes).unwrap();
    house.save(&table(1));
    std::fs::write(&segment, &bytes[..bytes.len() / 2]).unwrap();
    house.save(&table(2));
    std::fs::remove_dir_all(house.fixture.cache_dir().join("bases")).unwrap();
    let outcome = house.save(&table(3));
    assert_eq!(outcome.delta_chunks, 0);
    assert!(house.save(&table(4)).delta_chunks > 5);
}

#[test]
fn the_cache_of_bases_stays_within_its_bound_and_belongs_to_its_owner() {
    use std::os::unix::fs::PermissionsExt;
    let house = House::new(|_| Deltas::Keep { bytes_max: 900_000 });
    let directory = house.fixture.cache_dir().join("bases");
    for night in 0..10 {
        house.save(&table(night * 50));
        let sizes = std::fs::read_dir(&directory).unwrap().map(|entry| {
            let metadata = entry.unwrap().metadata().unwrap();
            assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
            metadata.len()
        });
        assert!(sizes.sum::<u64>() <= 900_000);
    }
    assert_eq!(std::fs::metadata(&directory).unwrap().permissions().mode() & 0o777, 0o700);
    let mode = std::fs::metadata(house.fixture.cache_dir().join("similar")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn off_and_a_dry_run_make_no_deltas_and_remember_nothing() {
    let house = House::new(|_| Deltas::Off);
    house.save(&table(0));
    assert_eq!(house.save(&table(1)).delta_chunks, 0);
    assert!(!house.fixture.cache_dir().join("similar").exists());

    let house = House::new(read);
    house.save(&table(0));
    let before = std::fs::read(house.fixture.cache_dir().join("similar")).unwrap();
    std::fs::write(&house.file, table(1)).unwrap();
    let request = crate::backup::Request { dry_run: true, ..Fixture::request() };
    let options = FilesOptions { paths: vec![house.file.clone()], ..FilesOptions::default() };
    let told = Told::default();
    let cache_dir = house.fixture.cache_dir();
    let outcome = files(&house.fixture.context(&told, &cache_dir), &request, &options).unwrap();
    assert!(outcome.delta_chunks == 0 && outcome.new_bytes > 100_000);
    assert_eq!(std::fs::read(cache_dir.join("similar")).unwrap(), before);
}
