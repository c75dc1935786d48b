//! What a chunk looks like: minima of sampled hashes of its windows, by bins.

/// Bins of a sketch.
pub(super) const BINS: usize = 16;
/// Pairs of neighbouring bins, by which chunks are found.
pub(super) const PAIRS: usize = BINS / 2;
/// A hash covers so many bytes.
const WINDOW: usize = 32;
/// Places of a content that are looked at together.
const BLOCK: usize = 512;
/// Of these, so many share one number, a bit for each.
const GROUP: usize = 32;
/// Bytes that tell whether a window is sampled: its first.
const MARK: usize = 8;
/// The marks of a block reach so far beyond it.
const MARKED: usize = BLOCK + MARK - 1;
/// Odd, and together with what is added such that no run of one byte is sampled.
const MARK_FACTOR: u16 = 0x9e53;
const MARK_OFFSET: u16 = 0x1cff;
/// A window is sampled if so many upper bits of what its mark makes are zero: one in 128.
const SAMPLED_BITS: u32 = 7;

/// One number for each bin, 0 where nothing was sampled. Two chunks agree in a bin as often as they share windows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sketch(pub(super) [u16; BINS]);

impl Sketch {
    pub fn of(content: &[u8]) -> Sketch {
        let mut bins = [u64::MAX; BINS];
        let mut sampled = [0; BLOCK / GROUP];
        let windows = (content.len() + 1).saturating_sub(WINDOW);
        for block in (0..windows).step_by(BLOCK) {
            match content.get(block..).and_then(<[u8]>::first_chunk) {
                Some(bytes) => sample(bytes, &mut sampled),
                None => sample(&padded(content.get(block..).unwrap_or_default()), &mut sampled),
            }
            for (group, mut bits) in (block..).step_by(GROUP).zip(sampled) {
                while bits != 0 {
                    let place = group + place_of(bits.trailing_zeros());
                    bits &= bits - 1;
                    if let Some(window) = content.get(place..).and_then(<[u8]>::first_chunk) {
                        offer(&mut bins, hash(window));
                    }
                }
            }
        }
        Sketch(bins.map(|minimum| if minimum == u64::MAX { 0 } else { folded(minimum) }))
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

/// The words that begin at each second byte of a block and of what its marks reach.
type Words = [[u8; 2]; MARKED / 2];

/// Which windows that begin in a block are sampled, a bit for each ([`place_of`]). Its inner loop has no branches, and a fixed length, so that the
/// compiler makes it one of eight steps at once; measure when you change its shape.
fn sample(block: &[u8; MARKED], sampled: &mut [u32; BLOCK / GROUP]) {
    let words = |from: usize| block.get(from..from + size_of::<Words>())?.as_chunks().0.try_into().ok();
    let (Some(even), Some(odd)): (Option<&Words>, Option<&Words>) = (words(0), words(1)) else { return };
    for (group, bits) in sampled.iter_mut().enumerate() {
        let (mut of_even, mut of_odd) = (0, 0);
        for lane in 0..GROUP / 2 {
            let at = group * (GROUP / 2) + lane;
            of_even |= is_sampled(even, at) << lane;
            of_odd |= is_sampled(odd, at) << lane;
        }
        *bits = u32::from(of_even) | u32::from(of_odd) << 16;
    }
}

/// Where in its group a window begins whose bit has this number: the even places come first.
fn place_of(bit: u32) -> usize {
    let bit = usize::try_from(bit).unwrap_or(0);
    bit % (GROUP / 2) * 2 + bit / (GROUP / 2)
}

/// Whether the mark from this word on, a polynomial of four, begins with zeros: 1 or 0.
fn is_sampled(words: &Words, at: usize) -> u16 {
    let word = |at: usize| words.get(at).map_or(0, |word| u16::from_le_bytes(*word));
    let two = |at: usize| word(at).wrapping_mul(MARK_FACTOR).wrapping_add(word(at + 1));
    let four = two(at).wrapping_mul(MARK_FACTOR.wrapping_mul(MARK_FACTOR)).wrapping_add(two(at + 2));
    u16::from(four.wrapping_add(MARK_OFFSET) >> (u16::BITS - SAMPLED_BITS) == 0)
}

/// The end of a content as a block.
fn padded(rest: &[u8]) -> [u8; MARKED] {
    std::array::from_fn(|n| rest.get(n).copied().unwrap_or(0))
}

/// Any number does; neither this nor the others ever change, or sketches of before would be of no use.
const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

fn hash(window: &[u8; WINDOW]) -> u64 {
    let (words, _) = window.as_chunks::<8>();
    let steps = |hash: u64, word: &[u8; 8]| (hash.rotate_left(29) ^ u64::from_le_bytes(*word)).wrapping_mul(FACTOR);
    mixed(words.iter().fold(0, steps))
}

/// Keeps the least hash of each bin.
fn offer(bins: &mut [u64; BINS], hash: u64) {
    // The upper four bits choose the bin, the rest competes there.
    if let Some(bin) = usize::try_from(hash >> 60).ok().and_then(|bin| bins.get_mut(bin)) {
        *bin = (*bin).min(hash & (u64::MAX >> 4));
    }
}

fn mixed(value: u64) -> u64 {
    let z = (value ^ (value >> 31)).wrapping_mul(FACTOR);
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

    /// One window after the other.
    fn plain(content: &[u8]) -> Sketch {
        let mut bins = [u64::MAX; BINS];
        for window in content.windows(WINDOW) {
            let (words, _) = window[..MARK].as_chunks();
            let add = |sum: u16, word: &[u8; 2]| sum.wrapping_mul(MARK_FACTOR).wrapping_add(u16::from_le_bytes(*word));
            let mark = words.iter().fold(0, add).wrapping_add(MARK_OFFSET);
            if mark < 1 << 9 {
                offer(&mut bins, hash(window.try_into().unwrap()));
            }
        }
        Sketch(bins.map(|minimum| if minimum == u64::MAX { 0 } else { folded(minimum) }))
    }

    #[test]
    fn every_window_is_seen_once() {
        for len in (0..1200).chain([4095, 65_537, 100_003]) {
            let content = noise(len, len as u64);
            assert_eq!(Sketch::of(&content), plain(&content), "{len}");
        }
    }

    #[test]
    fn runs_are_not_sampled() {
        for byte in 0..=255 {
            assert_eq!(Sketch::of(&[byte; 2000]), Sketch([0; BINS]), "{byte}");
        }
    }

    /// Of twenty contents: how many bins agree after a fifth was replaced (two thirds of all windows are in both), after something was
    /// put before, and with another content.
    #[test]
    fn equal_bins_tell_what_is_shared() {
        let mut equal = [0; 3];
        for seed in (0..80).step_by(4) {
            let old = noise(100_000, seed);
            let mut replaced = old.clone();
            replaced[40_000..60_000].copy_from_slice(&noise(20_000, seed + 1));
            let shifted = [&noise(333, seed + 2), &old[..]].concat();
            let sketch = Sketch::of(&old);
            assert_eq!(sketch.equal(&sketch), u16::MAX);
            for (equal, other) in equal.iter_mut().zip([replaced, shifted, noise(100_000, seed + 3)]) {
                *equal += sketch.equal(&Sketch::of(&other)).count_ones();
            }
        }
        let [replaced, shifted, other] = equal;
        assert!((190..240).contains(&replaced), "{replaced} of 320");
        assert!((300..=320).contains(&shifted), "{shifted} of 320");
        assert!(other < 5, "{other} of 320");
    }

    #[test]
    fn sketches_are_the_same_for_ever() {
        // What an index of before remembers is of use only as long as this holds.
        let sketch = Sketch::of(&noise(10_000, 9));
        assert_eq!(sketch.0, KNOWN);
    }

    const KNOWN: [u16; BINS] =
        [57806, 49799, 63815, 46877, 59111, 18167, 62107, 3077, 61345, 16188, 62580, 11836, 41710, 47509, 43442, 27753];
}
