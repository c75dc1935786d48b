//! What a chunk looks like: minima of sampled hashes of its windows, by bins.

/// Bins of a sketch.
pub(super) const BINS: usize = 16;
/// Pairs of neighbouring bins, by which chunks are found.
pub(super) const PAIRS: usize = BINS / 2;
/// A hash covers so many bytes.
const WINDOW: usize = 32;
/// A hash is sampled if its upper bits are zero: one in 64.
const SAMPLED_BELOW: u32 = 1 << 26;
/// Windows are hashed in so many places of a chunk at once, as the processor can do more than one step at a time.
const LANES: usize = 4;

/// Any numbers do; these never change, or sketches of before would be of no use.
const GEAR: [u32; 256] = gear();

const fn gear() -> [u32; 256] {
    let mut table = [0; 256];
    let mut state = 0x6e69_6768_746b_6570_u64;
    let mut n = 0;
    while n < 256 {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        #[expect(clippy::indexing_slicing, reason = "n < 256")]
        {
            table[n] = ((z ^ (z >> 31)) >> 32) as u32;
        }
        n += 1;
    }
    table
}

/// One number for each bin, 0 where nothing was sampled. Two chunks agree in a bin as often as they share windows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sketch(pub(super) [u16; BINS]);

impl Sketch {
    pub fn of(content: &[u8]) -> Sketch {
        let mut bins = Bins([u64::MAX; BINS]);
        let windows = (content.len() + 1).saturating_sub(WINDOW);
        let lane = windows / LANES;
        let parts: [&[u8]; LANES] =
            std::array::from_fn(|n| content.get(n * lane..n * lane + lane + WINDOW - 1).unwrap_or_default());
        if lane > 0 {
            bins.sample(parts);
        }
        let rest = content.get(LANES * lane..).unwrap_or_default();
        bins.sample([rest, &[], &[], &[]]);
        Sketch(bins.0.map(|minimum| if minimum == u64::MAX { 0 } else { folded(minimum) }))
    }

    /// Pairs of bins that something was sampled in, each with its place and a hash.
    pub(super) fn pairs(&self) -> impl Iterator<Item = (usize, u32)> {
        let (pairs, _) = self.0.as_chunks::<2>();
        pairs.iter().enumerate().filter(|(_, pair)| !pair.contains(&0)).map(|(n, [a, b])| {
            let n_more = u64::try_from(n).unwrap_or(0) << 32;
            let mixed = mixed(n_more | u64::from(*a) << 16 | u64::from(*b));
            (n, upper_half(mixed))
        })
    }

    pub(super) fn agrees(&self, other: &Sketch, pair: usize) -> bool {
        let of = |sketch: &Sketch| sketch.0.as_chunks::<2>().0.get(pair).copied();
        of(self) == of(other)
    }

    /// Which bins are equal, a bit for each.
    pub(super) fn equal(&self, other: &Sketch) -> u16 {
        self.0.iter().zip(other.0).fold(0, |bins, (a, b)| bins << 1 | u16::from(*a == b && b != 0))
    }
}

/// The least hash of each bin so far.
struct Bins([u64; BINS]);

impl Bins {
    /// Takes every whole window of each part. Parts are equally long, or only the first is not empty.
    fn sample(&mut self, parts: [&[u8]; LANES]) {
        let [first, ..] = parts;
        let Some(warm) = parts.map(|part| part.split_at_checked(WINDOW - 1)).first().copied().flatten() else { return };
        let mut hashes = parts.map(|part| part.iter().take(WINDOW - 1).fold(0, |hash, byte| step(hash, *byte)));
        let tails = parts.map(|part| part.get(WINDOW - 1..).unwrap_or_default());
        let [_, second, third, fourth] = tails;
        if second.is_empty() {
            let mut hash = hashes.first().copied().unwrap_or(0);
            for byte in warm.1 {
                hash = step(hash, *byte);
                self.offer(hash);
            }
            return;
        }
        debug_assert!(parts.iter().all(|part| part.len() == first.len()));
        for (((a, b), c), d) in warm.1.iter().zip(second).zip(third).zip(fourth) {
            let [ha, hb, hc, hd] = &mut hashes;
            *ha = step(*ha, *a);
            *hb = step(*hb, *b);
            *hc = step(*hc, *c);
            *hd = step(*hd, *d);
            if (*ha).min(*hb).min((*hc).min(*hd)) < SAMPLED_BELOW {
                for hash in hashes {
                    self.offer(hash);
                }
            }
        }
    }

    fn offer(&mut self, hash: u32) {
        if hash < SAMPLED_BELOW {
            let mixed = mixed(u64::from(hash));
            // The upper four bits choose the bin, the rest competes there.
            if let Some(bin) = usize::try_from(mixed >> 60).ok().and_then(|bin| self.0.get_mut(bin)) {
                *bin = (*bin).min(mixed & (u64::MAX >> 4));
            }
        }
    }
}

fn step(hash: u32, byte: u8) -> u32 {
    #[expect(clippy::indexing_slicing, reason = "a byte is below 256")]
    (hash << 1).wrapping_add(GEAR[byte as usize])
}

fn mixed(value: u64) -> u64 {
    let z = (value ^ (value >> 31)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z ^ (z >> 32)
}

fn upper_half(value: u64) -> u32 {
    u32::try_from(value >> 32).unwrap_or(0)
}

/// A minimum as what is kept of it: never 0, which stands for an empty bin.
fn folded(minimum: u64) -> u16 {
    u16::try_from(mixed(minimum) >> 48).unwrap_or(0).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(len: usize, seed: u64) -> Vec<u8> {
        let mut bytes = vec![0; len];
        blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
        bytes
    }

    /// One window after the other, each from its first byte.
    fn plain(content: &[u8]) -> Sketch {
        let mut bins = Bins([u64::MAX; BINS]);
        for window in content.windows(WINDOW) {
            bins.offer(window.iter().fold(0, |hash, byte| step(hash, *byte)));
        }
        Sketch(bins.0.map(|minimum| if minimum == u64::MAX { 0 } else { folded(minimum) }))
    }

    #[test]
    fn lanes_see_every_window_once() {
        for len in (0..300).chain([1000, 4095, 65_537, 100_003]) {
            let content = noise(len, len as u64);
            assert_eq!(Sketch::of(&content), plain(&content), "{len}");
        }
    }

    #[test]
    fn equal_bins_tell_what_is_shared() {
        let old = noise(100_000, 1);
        let mut new = old.clone();
        new[40_000..60_000].copy_from_slice(&noise(20_000, 2));
        let shifted = [&noise(333, 3), &old[..]].concat();
        let [old, new, shifted, other] = [&old, &new, &shifted, &noise(100_000, 4)].map(|content| Sketch::of(content));
        let [new, shifted, other] = [new, shifted, other].map(|sketch| old.equal(&sketch).count_ones());
        assert!((8..16).contains(&new), "{new}");
        assert!((13..=16).contains(&shifted), "{shifted}");
        assert!(other < 2);
        assert_eq!(old.equal(&old), u16::MAX);
    }

    #[test]
    fn sketches_are_the_same_for_ever() {
        // What an index of before remembers is of use only as long as this holds.
        let sketch = Sketch::of(&noise(10_000, 9));
        assert_eq!(sketch.0, KNOWN);
        assert_eq!(Sketch::of(&[0; 50_000]).pairs().count(), 0);
    }

    const KNOWN: [u16; BINS] =
        [48687, 36873, 23867, 43216, 13302, 44906, 26948, 39748, 55520, 7901, 40145, 33782, 62901, 5362, 56540, 35832];
}
