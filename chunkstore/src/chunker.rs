//! Bytes to chunk boundaries: FastCDC with a secret gear table (`docs/format.md`, section 6).

use crate::configuration::ChunkSizes;
use crate::key::WriteKey;
use fastcdc::v2020::{Normalization, select_masks};
use zeroize::Zeroizing;

/// Each byte's number leaves the hash by its upper end after so many more, so that the hash anywhere follows from as many bytes before.
const REACH: usize = 64;
/// So many places are searched in turns: what the next hash of one waits for, leaves the processor time for the others.
const LANES: usize = 4;
const LANE: usize = 512;
const STRETCH: usize = LANES * LANE;

/// Cuts one data extent after another; keeps no bytes.
pub struct Chunker {
    sizes: ChunkSizes,
    gear: Gear,
    mask_small: u64,
    mask_large: u64,
}

impl Chunker {
    /// `sizes` must be within the bounds that a configuration is checked against.
    pub fn new(key: &WriteKey, sizes: ChunkSizes) -> Self {
        let (mask_small, mask_large) = select_masks(sizes.average as usize, Normalization::Level1);
        Chunker { sizes, gear: Gear::new(&key.gear), mask_small, mask_large }
    }

    /// The length of the first chunk of `window`, which begins at a chunk boundary. `last` says that the extent ends
    /// with the window. `None`: more bytes are needed (the window is shorter than the largest chunk and not the last),
    /// or the extent has ended (the last window is empty).
    pub fn cut(&self, window: &[u8], last: bool) -> Option<usize> {
        let max = self.sizes.max as usize;
        if window.is_empty() || (window.len() < max && !last) {
            return None;
        }
        let longest = window.len().min(max);
        // A single byte at the end is no place to cut.
        let end = longest / 2 * 2;
        let (begin, average) = (self.sizes.min as usize, end.min(self.sizes.average as usize));
        let mut hash = 0;
        let mut seek = |from: usize, to: usize, mask| {
            let bytes = window.get(from..to).unwrap_or_default();
            self.gear.seek(&mut hash, bytes, mask).map(|at| from + at)
        };
        let cut = seek(begin, average, self.mask_small).or_else(|| seek(average.max(begin), end, self.mask_large));
        Some(cut.unwrap_or(longest))
    }

    pub fn sizes(&self) -> ChunkSizes {
        self.sizes
    }
}

/// A secret number for each byte.
struct Gear(Zeroizing<[u64; 256]>);

impl Gear {
    fn new(key: &[u8; 32]) -> Gear {
        let mut reader = blake3::Hasher::new_keyed(key).update(b"nightkeep v1 gear table").finalize_xof();
        let mut table = Zeroizing::new([0; 256]);
        for value in table.iter_mut() {
            let mut bytes = [0; 8];
            reader.fill(&mut bytes);
            *value = u64::from_le_bytes(bytes);
        }
        Gear(table)
    }

    fn step(&self, hash: u64, byte: u8) -> u64 {
        (hash << 1).wrapping_add(self.0.get(usize::from(byte)).copied().unwrap_or_default())
    }

    /// Where the hash, which goes on through these bytes, has no bit of the mask for the first time.
    fn seek(&self, hash: &mut u64, bytes: &[u8], mask: u64) -> Option<usize> {
        let (stretches, rest) = bytes.as_chunks();
        for (n, stretch) in stretches.iter().enumerate() {
            match self.pass(*hash, stretch, mask) {
                Some(end) => *hash = end,
                None => return self.seek_plainly(hash, stretch, mask).map(|at| n * STRETCH + at),
            }
        }
        self.seek_plainly(hash, rest, mask).map(|at| bytes.len() - rest.len() + at)
    }

    fn seek_plainly(&self, hash: &mut u64, bytes: &[u8], mask: u64) -> Option<usize> {
        bytes.iter().position(|byte| {
            *hash = self.step(*hash, *byte);
            *hash & mask == 0
        })
    }

    /// The hash after a stretch, if what is sought is nowhere in it.
    fn pass(&self, hash: u64, stretch: &[u8; STRETCH], mask: u64) -> Option<u64> {
        let [a, b, c, d]: &[[u8; LANE]; LANES] = stretch.as_chunks().0.try_into().ok()?;
        let after = |lane: &[u8; LANE]| {
            lane.last_chunk::<REACH>().into_iter().flatten().fold(0, |hash, byte| self.step(hash, *byte))
        };
        let mut hashes = [hash, after(a), after(b), after(c)];
        for (((a, b), c), d) in a.iter().zip(b).zip(c).zip(d) {
            let mut is_found = false;
            for (hash, byte) in hashes.iter_mut().zip([a, b, c, d]) {
                *hash = self.step(*hash, *byte);
                is_found |= *hash & mask == 0;
            }
            if is_found {
                return None;
            }
        }
        hashes.last().copied()
    }
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

    /// What the library says that the format names.
    fn reference_cut(chunker: &Chunker, data: &[u8]) -> usize {
        let ChunkSizes { min, average, max } = chunker.sizes;
        let (small, large) = (chunker.mask_small, chunker.mask_large);
        let (gear, shifted) = (*chunker.gear.0, chunker.gear.0.map(|value| value << 1));
        let [min, average, max] = [min, average, max].map(|size| size as usize);
        fastcdc::v2020::cut_gear(data, min, average, max, small, large, small << 1, large << 1, &gear, &shifted).1
    }

    #[test]
    fn gear_table_is_the_one_of_the_format() {
        let secret = "cb9da0136fe07cb22e3105e21c5127511f7440709ac17cbcef7a2c809b8c4143";
        let secret = data_encoding::HEXLOWER.decode(secret.as_bytes()).unwrap();
        let Gear(table) = Gear::new(&secret.try_into().unwrap());
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

        /// Of noise, and of what never has a place to cut for a while.
        #[test]
        fn cuts_are_those_of_the_format(seed: u64, size in 8u32..=14, len in 1usize..80_000, zeros in 0usize..80_000) {
            let sizes = ChunkSizes { min: 1 << (size - 2), average: 1 << size, max: 1 << (size + 2) };
            let chunker = Chunker::new(&key(1), sizes);
            let mut data = noise(len, seed);
            let zeros = zeros.min(len);
            data[..zeros].fill(0);
            let mut rest = data.as_slice();
            while !rest.is_empty() {
                let len = chunker.cut(rest, true);
                prop_assert_eq!(len, Some(reference_cut(&chunker, rest)));
                rest = &rest[len.unwrap()..];
            }
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
