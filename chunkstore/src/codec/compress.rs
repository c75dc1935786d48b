//! zstd, one frame per content, with contexts kept per thread.
//!
//! Decompression is single-shot into a buffer of the exact size, so a hostile frame can neither grow nor ask for a window.
//! Callers bound the size.

use std::cell::RefCell;
use zstd::zstd_safe::{
    CCtx, CParameter, DCtx, ResetDirective, Strategy, compress_bound, find_frame_compressed_size,
    get_frame_content_size,
};

/// Up to this level deltas are made by [`Search::Swift`] and [`Search::Thorough`]: the prefix does the work.
const DELTA_LEVEL_MIN: i32 = 3;
/// A delta of more than this part of its content is worth a more thorough search.
const THOROUGH_PART: usize = 64;
/// Up to this level zstd gives up early on what cannot be compressed, at 2 GB/s on 16 KiB of noise and 7 GB/s on 64 KiB; above, at a tenth of that.
const SWIFT_LEVEL_MAX: i32 = 3;
/// Higher levels are tried only on what a part of this size tells to be compressible.
const SAMPLE_BYTES: usize = 8 << 10;
/// A content and its prefix up to this size need no tables of their own measure, so that a context can be kept.
const COMMON_BYTES_MAX: usize = 1 << COMMON_WINDOW;
const COMMON_WINDOW: u32 = 20;
/// What begins like this is no raw prefix for the function that keeps its context.
const DICTIONARY_MAGIC: [u8; 4] = 0xec30_a437_u32.to_le_bytes();

/// Slots of the table, as a power of two, at level 1, where zstd itself has half as many for contents of this size: with these a
/// dump becomes 2.6 % smaller at the same speed. More of them cost decompression speed.
const SWIFTEST_TABLE: u32 = 14;
/// Longer contents, bundles mostly, have the search of level 3 at least, a tenth slower than level 1 and 5 to 8 % smaller on source code.
const SWIFTEST_BYTES_MAX: usize = 128 << 10;
/// Slots of its tables there, of eight and of five bytes, as powers of two. Half of what zstd has for contents of this size, they fit into a
/// processor's second cache: a tenth faster, for 0.4 % more of a tree.
const SWIFT_TABLES: [u32; 2] = [16, 15];

thread_local! {
    static COMPRESSOR: RefCell<CCtx<'static>> = RefCell::new(CCtx::create());
    static DECOMPRESSOR: RefCell<DCtx<'static>> = RefCell::new(DCtx::create());
}

/// One frame of at most `limit` bytes, `None` if there is none. The limit is also the probe for what cannot be compressed:
/// zstd gives up within the first block.
pub(super) fn compress(content: &[u8], limit: usize, level: i32) -> Option<Vec<u8>> {
    let level = if level > SWIFT_LEVEL_MAX && !is_promising(content) { SWIFT_LEVEL_MAX } else { level };
    frame(content, limit, level)
}

fn is_promising(content: &[u8]) -> bool {
    let start = content.len().saturating_sub(SAMPLE_BYTES) / 2;
    let sample = content.get(start..).unwrap_or_default();
    let sample = sample.get(..SAMPLE_BYTES).unwrap_or(sample);
    frame(sample, sample.len() - sample.len() / 50, 1).is_some()
}

fn frame(content: &[u8], limit: usize, level: i32) -> Option<Vec<u8>> {
    // 0 is what the level says.
    let (level, [hash, chain]) = match level {
        ..=SWIFT_LEVEL_MAX if content.len() > SWIFTEST_BYTES_MAX => (SWIFT_LEVEL_MAX, SWIFT_TABLES),
        1 => (1, [SWIFTEST_TABLE, 0]),
        _ => (level, [0, 0]),
    };
    let mut frame = Vec::with_capacity(limit);
    COMPRESSOR.with_borrow_mut(|context| {
        context.set_parameter(CParameter::CompressionLevel(level)).ok()?;
        context.set_parameter(CParameter::HashLog(hash)).ok()?;
        context.set_parameter(CParameter::ChainLog(chain)).ok()?;
        context.compress2(&mut frame, content).ok()
    })?;
    Some(frame)
}

/// What a prefix is searched with.
#[derive(Clone, Copy)]
enum Search {
    /// One table of strings of seven bytes. Of a chunk in which some rows changed it finds as much as the two tables of level 3, in
    /// three fifths of the time.
    Swift,
    /// Two tables, of five and of eight bytes, larger than those of level 3: finds more of a chunk with many small changes.
    Thorough,
    Level(i32),
}

/// Makes deltas one after the other. Its context costs as much as half a delta, so it should serve several, and there is none before the
/// first; what it refers to lives longer than it.
#[derive(Default)]
pub struct Differ<'b>(Option<CCtx<'b>>);

impl<'b> Differ<'b> {
    /// One frame that needs `prefix` to be read.
    pub(super) fn compress(&mut self, content: &[u8], prefix: &'b [u8], level: i32) -> Option<Vec<u8>> {
        if content.len() + prefix.len() > COMMON_BYTES_MAX {
            return compress_large(content, prefix, level.max(DELTA_LEVEL_MIN));
        }
        if level > DELTA_LEVEL_MIN {
            return self.frame(content, prefix, Search::Level(level));
        }
        let swift = self.frame(content, prefix, Search::Swift)?;
        if swift.len() <= content.len() / THOROUGH_PART {
            return Some(swift);
        }
        let thorough = self.frame(content, prefix, Search::Thorough)?;
        Some(if thorough.len() < swift.len() { thorough } else { swift })
    }

    fn frame(&mut self, content: &[u8], prefix: &'b [u8], search: Search) -> Option<Vec<u8>> {
        let mut frame = Vec::with_capacity(compress_bound(content.len()));
        let context = self.0.get_or_insert_with(CCtx::create);
        context.reset(ResetDirective::Parameters).ok()?;
        let mut set = |parameter| context.set_parameter(parameter).ok();
        // zstd narrows what is wider than prefix and content.
        set(CParameter::WindowLog(COMMON_WINDOW))?;
        match search {
            Search::Swift => {
                set(CParameter::Strategy(Strategy::ZSTD_fast))?;
                set(CParameter::HashLog(16))?;
                set(CParameter::MinMatch(7))?;
                set(CParameter::TargetLength(0))?;
            }
            Search::Thorough => {
                set(CParameter::Strategy(Strategy::ZSTD_dfast))?;
                set(CParameter::HashLog(17))?;
                set(CParameter::ChainLog(15))?;
                set(CParameter::MinMatch(5))?;
            }
            Search::Level(level) => set(CParameter::CompressionLevel(level)).map(|_| ())?,
        }
        context.ref_prefix(prefix).ok()?;
        context.compress2(&mut frame, content).ok()?;
        Some(frame)
    }
}

fn compress_large(content: &[u8], prefix: &[u8], level: i32) -> Option<Vec<u8>> {
    let mut frame = Vec::with_capacity(compress_bound(content.len()));
    let mut context = CCtx::create();
    // The window must reach back from the end of the content over all of the prefix, and the tables must have room for it:
    // zstd indexes no more than the last eight bytes of a prefix for each of their slots.
    let window = (content.len() + prefix.len()).next_power_of_two().trailing_zeros().max(10);
    let tables = window.saturating_sub(3).clamp(17, 24);
    context.set_parameter(CParameter::CompressionLevel(level)).ok()?;
    context.set_parameter(CParameter::WindowLog(window)).ok()?;
    context.set_parameter(CParameter::HashLog(tables)).ok()?;
    context.set_parameter(CParameter::ChainLog(tables)).ok()?;
    context.ref_prefix(prefix).ok()?;
    context.compress2(&mut frame, content).ok()?;
    Some(frame)
}

/// The content of exactly one frame, if that is `len` bytes long.
pub(super) fn decompress(frame: &[u8], len: usize) -> Option<Vec<u8>> {
    is_one_frame(frame, len)?;
    let mut content = Vec::with_capacity(len);
    DECOMPRESSOR.with_borrow_mut(|context| context.decompress(&mut content, frame).ok())?;
    (content.len() == len).then_some(content)
}

/// As [`decompress`], for a frame made with [`compress_delta`].
pub(super) fn decompress_delta(frame: &[u8], prefix: &[u8], len: usize) -> Option<Vec<u8>> {
    is_one_frame(frame, len)?;
    let mut content = Vec::with_capacity(len);
    if prefix.starts_with(&DICTIONARY_MAGIC) {
        let mut context = DCtx::create();
        context.ref_prefix(prefix).ok()?;
        context.decompress(&mut content, frame).ok()?;
    } else {
        DECOMPRESSOR.with_borrow_mut(|context| context.decompress_using_dict(&mut content, frame, prefix).ok())?;
    }
    (content.len() == len).then_some(content)
}

/// zstd itself would take several frames, or frames to skip, in a row.
fn is_one_frame(frame: &[u8], len: usize) -> Option<()> {
    let one = find_frame_compressed_size(frame) == Ok(frame.len())
        && get_frame_content_size(frame).is_ok_and(|announced| announced.is_none_or(|n| n == len as u64));
    one.then_some(())
}
