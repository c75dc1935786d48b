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
