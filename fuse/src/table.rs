//! The inodes of snapshots that the kernel remembers, with how often it was told of each. Pure.
//!
//! A row says where the entry stands (a leaf of a directory, shared by rows, and a position in it), never what it says. It
//! lives from the first time that the kernel is told of it until the kernel has forgotten as often.

use crate::number::Identity;
use chunkstore::id::Reference;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Weak};

/// A leaf of one directory of the mount.
#[derive(PartialEq, Eq, Debug)]
pub struct Place {
    pub link: Reference,
    /// The number of the directory.
    pub directory: u64,
    /// The number of the root of the snapshot, as it was reached: hard links are sought within it.
    pub scope: u64,
}

#[derive(Clone, Debug)]
pub struct Row {
    pub place: Arc<Place>,
    pub position: u32,
    check: u32,
    told: u64,
}

#[derive(Default)]
pub struct Table {
    rows: HashMap<u64, Row>,
    places: HashMap<(u64, Reference), Weak<Place>>,
    /// How many there were when last counted.
    live_places: usize,
    /// Places in the order in which they were first named, for forgetting the oldest.
    oldest: VecDeque<Weak<Place>>,
}

impl Table {
    pub fn row(&self, number: u64) -> Option<&Row> {
        self.rows.get(&number)
    }

    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// The place of this leaf: one value as long as a row or a caller has it.
    pub fn place(&mut self, link: Reference, directory: u64, scope: u64) -> Arc<Place> {
        let known = self.places.get(&(directory, link)).and_then(Weak::upgrade);
        known.filter(|place| place.scope == scope).unwrap_or_else(|| {
            let place = Arc::new(Place { link, directory, scope });
            self.places.insert((directory, link), Arc::downgrade(&place));
            self.oldest.push_back(Arc::downgrade(&place));
            self.tidy();
            place
        })
    }

    /// The number of an entry that the kernel is about to be told of.
    pub fn tell(&mut self, mut identity: Identity, place: &Arc<Place>, position: u32) -> u64 {
        loop {
            let fresh = || Row { place: Arc::clone(place), position, check: identity.check, told: 0 };
            let row = self.rows.entry(identity.number).or_insert_with(fresh);
            if row.check == identity.check {
                row.told += 1;
                return identity.number;
            }
            identity = identity.next();
        }
    }

    /// The number that it has, or would have.
    pub fn number(&self, mut identity: Identity) -> u64 {
        while self.rows.get(&identity.number).is_some_and(|row| row.check != identity.check) {
            identity = identity.next();
        }
        identity.number
    }

    pub fn forget(&mut self, number: u64, times: u64) {
        let Some(row) = self.rows.get_mut(&number) else { return };
        row.told = row.told.saturating_sub(times);
        if row.told == 0 {
            self.rows.remove(&number);
            if self.rows.len() < self.rows.capacity() / 8 {
                self.rows.shrink_to(self.rows.capacity() / 4);
            }
        }
    }

    /// The oldest place that still has rows; it counts as the newest from now on.
    pub fn next_oldest(&mut self) -> Option<Arc<Place>> {
        while let Some(place) = self.oldest.pop_front() {
            if let Some(place) = place.upgrade() {
                self.oldest.push_back(Arc::downgrade(&place));
                return Some(place);
            }
        }
        None
    }

    /// Drops what no row has any more, once that is most of it.
    fn tidy(&mut self) {
        if self.oldest.len() > 1024 && self.oldest.len() > 2 * self.live_places {
            self.oldest.retain(|place| place.strong_count() > 0);
            self.places.retain(|_, place| place.strong_count() > 0);
            self.live_places = self.oldest.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chunkstore::id::{BlobId, HalfTag};
    use proptest::prelude::*;

    fn link(n: u8) -> Reference {
        Reference { id: BlobId([n; 32]), tag: HalfTag([n; 16]) }
    }

    #[test]
    fn a_row_lives_until_forgotten_as_often_as_told() {
        let mut table = Table::default();
        let place = table.place(link(1), 5, 2);
        let identity = Identity::of_name(5, b"a");
        let number = table.tell(identity, &place, 7);
        assert_eq!(table.tell(identity, &place, 7), number);
        table.forget(number, 1);
        assert_eq!(table.row(number).unwrap().position, 7);
        table.forget(number, 1);
        assert!(table.row(number).is_none());
        table.forget(number, 1);
        assert_eq!(table.tell(identity, &place, 7), number, "the same again");
    }

    #[test]
    fn another_file_of_the_same_number_gets_another() {
        let mut table = Table::default();
        let place = table.place(link(1), 5, 2);
        let one = Identity::of_name(5, b"a");
        let two = Identity { check: one.check ^ 1, ..one };
        let numbers = [one, two].map(|identity| table.tell(identity, &place, 0));
        assert_ne!(numbers[0], numbers[1]);
        assert_eq!([one, two].map(|identity| table.number(identity)), numbers);
    }

    #[test]
    fn places_are_shared_and_go_with_their_rows() {
        let mut table = Table::default();
        let place = table.place(link(1), 5, 2);
        assert!(Arc::ptr_eq(&place, &table.place(link(1), 5, 2)));
        assert!(!Arc::ptr_eq(&place, &table.place(link(1), 6, 2)), "another directory of the same content");
        let number = table.tell(Identity::of_name(5, b"a"), &place, 0);
        drop(place);
        assert_eq!(table.next_oldest().unwrap().directory, 5);
        table.forget(number, 1);
        assert!(table.next_oldest().is_none());
        for n in 0..5000 {
            table.place(link(1), n, 2);
        }
        assert!(table.places.len() < 2000 && table.oldest.len() < 2000);
    }

    proptest! {
        #[test]
        fn counts_are_those_of_a_plain_model(steps in prop::collection::vec((0u8..12, any::<bool>(), 1u64..3), 0..200)) {
            let mut table = Table::default();
            let place = table.place(link(1), 5, 2);
            let mut model: HashMap<u8, u64> = HashMap::new();
            for (name, tell, times) in steps {
                let identity = Identity::of_name(5, &[name]);
                let count = model.entry(name).or_default();
                if tell {
                    table.tell(identity, &place, u32::from(name));
                    *count += 1;
                } else {
                    table.forget(identity.number, times);
                    *count = count.saturating_sub(times);
                }
                for (name, count) in &model {
                    let row = table.row(Identity::of_name(5, &[*name]).number);
                    prop_assert_eq!(row.map(|row| (row.position, row.told)), (*count > 0).then_some((u32::from(*name), *count)));
                }
            }
        }
    }
}
