//! What a chunk looks like: minima of sampled hashes of its windows, by bins.

/// Bins of a sketch.
pub(super) const BINS: usize = 16;
/// Pairs of neighbouring bins, by which chunks are found.
pub(super) const PAIRS: usize = BINS / 2;
/// A hash covers so many bytes.
const WINDOW: usize = 32;
/// Places of a content that are looked at together.
const BLOCK: usize = 512;
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
        let windows = (content.len() + 1).saturating_sub(WINDOW);
        for at in (0..windows).step_by(BLOCK) {
            let block = match content.get(at..).and_then(<[u8]>::first_chunk) {
                Some(block) => sampled(block),
                None => sampled(&padded(content.get(at..).unwrap_or_default())),
            };
            for (at, mut flags) in (at..).step_by(8).zip(block) {
                while flags != 0 {
                    let place = at + usize::try_from(flags.trailing_zeros() / 8).unwrap_or(0);
                    flags &= flags - 1;
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

/// Which windows that begin in a block are sampled, a byte for each place, 0 or 1, eight bytes a number.
fn sampled(block: &[u8; MARKED]) -> [u64; BLOCK / 8] {
    let (even, odd) = (marks(block), marks(block.get(1..).unwrap_or_default()));
    let mut flags = [0; BLOCK / 2];
    for ((flags, even), odd) in flags.iter_mut().zip(&even).zip(&odd) {
        let is_sampled = |mark: &u16| u16::from(mark >> (u16::BITS - SAMPLED_BITS) == 0);
        *flags = is_sampled(even) | is_sampled(odd) << 8;
    }
    let (eights, _) = flags.as_chunks::<4>();
    std::array::from_fn(|n| {
        let [a, b, c, d] = eights.get(n).map_or([0; 4], |four| four.map(u64::from));
        a | b << 16 | c << 32 | d << 48
    })
}

/// What eight bytes from each second place make: a polynomial of their four words. Its loops, and that above, do not branch and their
/// numbers are short, so that the compiler makes one instruction of eight steps.
fn marks(bytes: &[u8]) -> [u16; BLOCK / 2] {
    let mut words = [0; BLOCK / 2 + 3];
    for (word, pair) in words.iter_mut().zip(bytes.as_chunks().0) {
        *word = u16::from_le_bytes(*pair);
    }
    let twos: [u16; BLOCK / 2 + 2] = joined(&words, 1, MARK_FACTOR);
    joined(&twos, 2, MARK_FACTOR.wrapping_mul(MARK_FACTOR)).map(|mark| mark.wrapping_add(MARK_OFFSET))
}

/// Each part joined with the one so far behind it.
fn joined<const N: usize>(parts: &[u16], distance: usize, factor: u16) -> [u16; N] {
    let mut joined = [0; N];
    for ((joined, part), behind) in joined.iter_mut().zip(parts).zip(parts.iter().skip(distance)) {
        *joined = part.wrapping_mul(factor).wrapping_add(*behind);
    }
    joined
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
