//! Sets of blob numbers: a bit each, in pages that exist only where something was inserted.

/// Bits of a page: 4 KiB.
const WORDS: usize = 512;
const PAGE_BITS: i64 = 64 * WORDS as i64;
/// No index holds more blobs; larger numbers are refused, so that a wrong one costs no memory.
const NUMBERS_MAX: i64 = 1 << 36;

#[derive(Default)]
pub struct Numbers {
    pages: Vec<Option<Box<[u64; WORDS]>>>,
}

impl Numbers {
    /// False if it was there already, or can be no blob's.
    pub fn insert(&mut self, no: i64) -> bool {
        let Some((page, word, bit)) = position(no) else { return false };
        if self.pages.len() <= page {
            self.pages.resize_with(page + 1, || None);
        }
        let Some(page) = self.pages.get_mut(page) else { return false };
        let Some(word) = page.get_or_insert_with(|| Box::new([0; WORDS])).get_mut(word) else { return false };
        let fresh = *word & bit == 0;
        *word |= bit;
        fresh
    }

    pub fn contains(&self, no: i64) -> bool {
        let Some((page, word, bit)) = position(no) else { return false };
        let page = self.pages.get(page).and_then(Option::as_ref);
        page.and_then(|page| page.get(word)).is_some_and(|word| word & bit != 0)
    }

    /// Ascending.
    pub fn iter(&self) -> impl Iterator<Item = i64> + '_ {
        let pages =
            self.pages.iter().zip(0..).filter_map(|(page, no)| page.as_ref().map(|page| (page, no * PAGE_BITS)));
        let words = pages.flat_map(|(page, first)| page.iter().zip(0..).map(move |(word, n)| (*word, first + 64 * n)));
        words
            .filter(|(word, _)| *word != 0)
            .flat_map(|(word, first)| (0..64).filter(move |bit| word >> bit & 1 == 1).map(move |bit| first + bit))
    }

    /// How many are not above `last`.
    pub fn count_through(&self, last: i64) -> u64 {
        self.iter().take_while(|no| *no <= last).count() as u64
    }
}

/// Page, word in it, bit of it.
fn position(no: i64) -> Option<(usize, usize, u64)> {
    if !(0..NUMBERS_MAX).contains(&no) {
        return None;
    }
    let page = usize::try_from(no / PAGE_BITS).ok()?;
    let word = usize::try_from(no % PAGE_BITS / 64).ok()?;
    Some((page, word, 1 << (no % 64)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn it_is_a_set(inserted in prop::collection::vec(0i64..200_000, 0..300), asked in prop::collection::vec(0i64..200_000, 50), last in 0i64..200_000) {
            let mut numbers = Numbers::default();
            let mut model = BTreeSet::new();
            for no in inserted {
                prop_assert_eq!(numbers.insert(no), model.insert(no));
            }
            prop_assert_eq!(numbers.iter().collect::<Vec<_>>(), model.iter().copied().collect::<Vec<_>>());
            prop_assert!(asked.iter().all(|no| numbers.contains(*no) == model.contains(no)));
            prop_assert_eq!(numbers.count_through(last), model.range(..=last).count() as u64);
        }
    }

    #[test]
    fn what_can_be_no_number_costs_nothing() {
        let mut numbers = Numbers::default();
        for no in [-1, i64::MIN, i64::MAX, NUMBERS_MAX] {
            assert!(!numbers.insert(no) && !numbers.contains(no));
        }
        assert!(numbers.pages.is_empty());
        assert!(numbers.insert(NUMBERS_MAX - 1));
    }
}
