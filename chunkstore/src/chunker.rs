//! Bytes to chunk boundaries: FastCDC with a secret gear table (`docs/format.md`, section 6).

use crate::configuration::ChunkSizes;
use crate::key::WriteKey;
use fastcdc::v2020::{Normalization, cut_gear, select_masks};
use zeroize::Zeroizing;

/// Cuts one data extent after another; keeps no bytes.
pub struct Chunker {
    sizes: ChunkSizes,
    gear: Zeroizing<[u64; 256]>,
    /// `gear`, each shifted left by one: the algorithm takes two bytes at a time.
    gear_shifted: Zeroizing<[u64; 256]>,
    mask_small: u64,
    mask_large: u64,
}

impl Chunker {
    /// `sizes` must be within the bounds that a configuration is checked against.
    pub fn new(key: &WriteKey, sizes: ChunkSizes) -> Self {
        let gear = gear_table(&key.gear);
        let gear_shifted = Zeroizing::new(gear.map(|value| value << 1));
        let (mask_small, mask_large) = select_masks(sizes.average as usize, Normalization::Level1);
        Chunker { sizes, gear, gear_shifted, mask_small, mask_large }
    }

    /// The length of the first chunk of `window`, which begins at a chunk boundary. `last` says that the extent ends
    /// with the window. `None`: more bytes are needed (the window is shorter than the largest chunk and not the last),
    /// or the extent has ended (the last window is empty).
    pub fn cut(&self, window: &[u8], last: bool) -> Option<usize> {
        let max = self.sizes.max as usize;
        if window.is_empty() || (window.len() < max && !last) {
            return None;
        }
        let (_, len) = cut_gear(
            window,
            self.sizes.min as usize,
            self.sizes.average as usize,
            max,
            self.mask_small,
            self.mask_large,
            self.mask_small << 1,
            self.mask_large << 1,
            self.gear.as_slice(),
            self.gear_shifted.as_slice(),
        );
        Some(len)
    }

    pub fn sizes(&self) -> ChunkSizes {
        self.sizes
    }
}

fn gear_table(key: &[u8; 32]) -> Zeroizing<[u64; 256]> {
    let mut reader = blake3::Hasher::new_keyed(key).update(b"nightkeep v1 gear table").finalize_xof();
    let mut table = Zeroizing::new([0; 256]);
    for value in table.iter_mut() {
        let mut bytes = [0; 8];
        reader.fill(&mut bytes);
        *value = u64::from_le_bytes(bytes);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::configuration::Configuration;
    use crate::id::RepositoryId;
    use crate::key::Keys;
    use proptest::prelude::*;
    use std::collections::HashSet;

    const SIZES: ChunkSizes = ChunkSizes { min: 256, average: 1024, max: 4096 };

    fn key(n: u8) -> WriteKey {
        let mut key = Keys::generate(&Configuration::new(RepositoryId([1; 16]), 0)).unwrap().write;
        *key.gear = [n; 32];
        key
    }

    fn noise(len: usize, seed: u64) -> Vec<u8> {
        let mut bytes = vec![0; len];
        blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
        bytes
    }

    /// The lengths of the chunks of `data`, seen through a window of `window` bytes.
    fn lengths(chunker: &Chunker, data: &[u8], window: usize) -> Vec<usize> {
        let (mut lengths, mut at) = (Vec::new(), 0);
        while at < data.len() {
            let end = data.len().min(at + window);
            let len = chunker.cut(&data[at..end], end == data.len()).unwrap();
            lengths.push(len);
            at += len;
        }
        lengths
    }

    /// FastCDC as its paper has it, one byte at a time.
    fn plain_cut(gear: &[u64; 256], data: &[u8]) -> usize {
        let ChunkSizes { min, average, max } = SIZES;
        let (masks, mut hash) = (select_masks(average as usize, Normalization::Level1), 0u64);
        let end = data.len().min(max as usize);
        let mut at = min as usize;
        while at < end {
            hash = (hash << 1).wrapping_add(gear[data[at] as usize]);
            // The two-byte form does not test the odd byte at the end.
            let tested = at < end / 2 * 2;
            let mask = if at < end.min(average as usize) / 2 * 2 { masks.0 } else { masks.1 };
            if tested && hash & mask == 0 {
                return at;
            }
            at += 1;
        }
        end
    }

    #[test]
    fn gear_table_is_the_one_of_the_format() {
        let secret = "cb9da0136fe07cb22e3105e21c5127511f7440709ac17cbcef7a2c809b8c4143";
        let secret = data_encoding::HEXLOWER.decode(secret.as_bytes()).unwrap();
        let table = gear_table(&secret.try_into().unwrap());
        assert_eq!((table[0], table[255]), (13_994_250_493_581_582_204, 5_155_197_987_099_854_242));
    }

    #[test]
    fn default_sizes_give_chunks_of_about_the_average() {
        let sizes = Configuration::new(RepositoryId([1; 16]), 0).chunk_sizes;
        let chunker = Chunker::new(&key(1), sizes);
        let lengths = lengths(&chunker, &noise(16 << 20, 1), 1 << 20);
        let average = (16 << 20) / lengths.len();
        assert!((48 << 10..112 << 10).contains(&average), "{average}");
    }

    #[test]
    fn more_is_asked_for_only_while_the_answer_may_change() {
        let chunker = Chunker::new(&key(1), SIZES);
        let data = noise(4096, 2);
        assert_eq!(chunker.cut(&data[..4095], false), None);
        assert!(chunker.cut(&data, false).is_some());
        assert_eq!(chunker.cut(&data[..100], true), Some(100));
        assert_eq!(chunker.cut(&[], true), None);
        assert_eq!(chunker.cut(&[], false), None);
    }

    #[test]
    fn another_key_cuts_elsewhere() {
        let data = noise(200_000, 3);
        let (a, b) = (Chunker::new(&key(1), SIZES), Chunker::new(&key(2), SIZES));
        assert_ne!(lengths(&a, &data, 1 << 20), lengths(&b, &data, 1 << 20));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(100))]

        #[test]
        fn window_does_not_matter_and_limits_hold(seed: u64, len in 0usize..60_000, extra in 0usize..10_000) {
            let chunker = Chunker::new(&key(1), SIZES);
            let data = noise(len, seed);
            let whole = lengths(&chunker, &data, usize::MAX / 2);
            prop_assert_eq!(&whole, &lengths(&chunker, &data, 4096 + extra));
            prop_assert_eq!(whole.iter().sum::<usize>(), len);
            prop_assert!(whole.iter().all(|len| (1..=4096).contains(len)));
            let but_last = &whole[..whole.len().saturating_sub(1)];
            prop_assert!(but_last.iter().all(|len| *len >= 256));
        }

        #[test]
        fn cuts_are_those_of_the_paper(seed: u64, len in 1usize..20_000) {
            let chunker = Chunker::new(&key(1), SIZES);
            let data = noise(len, seed);
            prop_assert_eq!(chunker.cut(&data, true), Some(plain_cut(&chunker.gear, &data)));
        }

        /// Cuts meet again within a few chunks; fifty, of two hundred, is beyond any bad luck.
        #[test]
        fn an_insertion_changes_few_chunks(seed: u64, at in 0usize..200_000, inserted in 1usize..300) {
            let chunker = Chunker::new(&key(1), SIZES);
            let before = noise(200_000, seed);
            let mut after = before.clone();
            after.splice(at..at, noise(inserted, !seed));
            let pieces = |data: &[u8]| {
                let mut at = 0;
                let cut = |len: usize| { at += len; blake3::hash(&data[at - len..at]) };
                lengths(&chunker, data, 1 << 20).into_iter().map(cut).collect::<Vec<_>>()
            };
            let known: HashSet<_> = pieces(&before).into_iter().collect();
            let new = pieces(&after).into_iter().filter(|piece| !known.contains(piece)).count();
            prop_assert!((1..=50).contains(&new), "{} new chunks", new);
        }
    }

    #[test]
    fn zeros_are_cut_at_the_largest_size_or_evenly() {
        let chunker = Chunker::new(&key(1), SIZES);
        let lengths = lengths(&chunker, &[0; 40_960], 1 << 20);
        assert!(lengths.iter().all(|len| *len == lengths[0] || *len == 40_960 % lengths[0]), "{lengths:?}");
    }
}
