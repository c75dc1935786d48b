//! Reads one cache in step with a walk. Whatever is not as it should be ends it: what follows counts as not remembered.

use super::frame::{Frame, Key, Kind};
use super::{BLOCK_BYTES_MAX, CHECKSUM_LEN, HEADER_LEN, checksum};
use chunkstore::store::Store;
use std::fs::File;
use std::io::Read;

/// How what is remembered of a name compares with what is there.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Finding {
    /// Not remembered.
    New,
    /// Remembered in another state, or not to be relied on.
    Changed,
    Same,
}

pub struct CacheReader<'s> {
    file: File,
    /// Asked whether the blobs of a block are present, unless they are known to be.
    verify: Option<&'s dyn Store>,
    block: Vec<u8>,
    /// So many bytes of frames came before the block.
    passed: u64,
    /// The frame to be read next.
    next: Option<Frame>,
    /// The frame found last, in `block`.
    found: Option<Frame>,
    /// One for each directory that both the walk and the cache are in: whether all was the same so far.
    inside: Vec<bool>,
    /// Directories of the walk that the cache does not have, below the last of those.
    outside: usize,
}

impl<'s> CacheReader<'s> {
    /// `file` stands after the header.
    pub fn new(file: File, verify: Option<&'s dyn Store>) -> CacheReader<'s> {
        let (block, inside) = (Vec::new(), Vec::new());
        let mut reader = CacheReader { file, verify, block, passed: 0, next: None, found: None, inside, outside: 0 };
        reader.load_block();
        reader
    }

    /// The walk enters a directory: how its own attributes compare.
    pub fn enter(&mut self, name: &[u8], key: &Key) -> Finding {
        self.settle();
        if self.outside == 0 && self.skip_to(name, Kind::Enter) {
            self.inside.push(true);
            return self.take(key);
        }
        self.differ();
        self.outside += 1;
        Finding::New
    }

    /// The walk comes to something that is no directory.
    pub fn find(&mut self, name: &[u8], key: &Key) -> Finding {
        self.settle();
        if self.outside > 0 || !self.skip_to(name, Kind::Item) {
            self.differ();
            return Finding::New;
        }
        let finding = self.take(key);
        if finding != Finding::Same {
            self.differ();
        }
        finding
    }

    /// The walk leaves a directory: how its attributes compare, and whether everything below is the same.
    pub fn leave(&mut self, key: &Key) -> (Finding, bool) {
        self.settle();
        if self.outside > 0 {
            self.outside -= 1;
            return (Finding::New, false);
        }
        while self.next.as_ref().is_some_and(|frame| frame.kind != Kind::Leave) {
            self.differ();
            self.skip();
        }
        let is_whole = self.inside.pop().unwrap_or(false) && self.next.is_some();
        let finding = if self.next.is_some() { self.take(key) } else { Finding::New };
        if finding != Finding::Same || !is_whole {
            self.differ();
        }
        (finding, is_whole)
    }

    /// The bytes and parts of what was found or left last, until the next call.
    pub fn found(&self) -> Option<(&[u8], &Frame)> {
        self.found.as_ref().map(|frame| (self.block.as_slice(), frame))
    }

    /// Where in all frames the one begins that was found or left last.
    pub fn found_at(&self) -> Option<u64> {
        self.found.as_ref().map(|frame| self.passed + frame.all.start as u64)
    }

    /// The present directory is not as it was.
    fn differ(&mut self) {
        if let Some(is_whole) = self.inside.last_mut() {
            *is_whole = false;
        }
    }

    fn take(&mut self, key: &Key) -> Finding {
        let Some(frame) = self.next.take() else { return Finding::New };
        let is_same = frame.is_usable(&self.block) && self.block.get(frame.key.clone()) == Some(key);
        self.found = Some(frame);
        if is_same { Finding::Same } else { Finding::Changed }
    }

    /// Passes over lesser names in the present directory. True if the next frame then is of that name and kind.
    fn skip_to(&mut self, name: &[u8], kind: Kind) -> bool {
        loop {
            let Some(frame) = &self.next else { return false };
            let is_end = frame.kind == Kind::Leave;
            let order = self.block.get(frame.name.clone()).unwrap_or_default().cmp(name);
            match order {
                _ if is_end => return false,
                std::cmp::Ordering::Less => {
                    self.differ();
                    self.skip();
                }
                std::cmp::Ordering::Equal => return frame.kind == kind,
                std::cmp::Ordering::Greater => return false,
            }
        }
    }

    /// Passes over the next item, or directory with all that is in it.
    fn skip(&mut self) {
        let mut depth = 0usize;
        while let Some(frame) = &self.next {
            match frame.kind {
                Kind::Enter => depth += 1,
                Kind::Item => (),
                Kind::Leave => depth = depth.saturating_sub(1),
            }
            self.advance();
            if depth == 0 {
                return;
            }
        }
    }

    /// What was found last stays in place until something else is asked for.
    fn settle(&mut self) {
        if let Some(found) = self.found.take() {
            self.go_on_after(found.all.end);
        }
    }

    fn advance(&mut self) {
        if let Some(frame) = self.next.take() {
            self.go_on_after(frame.all.end);
        }
    }

    fn go_on_after(&mut self, end: usize) {
        if end < self.block.len() {
            self.next = Frame::find(&self.block, end);
        } else {
            self.load_block();
        }
    }

    fn load_block(&mut self) {
        self.next = None;
        self.passed += self.block.len() as u64;
        let read = read_block(&mut self.file, &mut self.block);
        if read.is_none() || self.forget_missing().is_none() {
            self.block.clear();
            return;
        }
        self.next = Frame::find(&self.block, 0);
    }

    /// Names whose blobs are no longer all there are not to be relied on.
    fn forget_missing(&mut self) -> Option<()> {
        let Some(store) = self.verify else { return Some(()) };
        let mut ids = Vec::new();
        let mut owners = Vec::new();
        let mut at = 0;
        while at < self.block.len() {
            let frame = Frame::find(&self.block, at)?;
            at = frame.all.end;
            if frame.is_usable(&self.block) {
                ids.extend(frame.links(&self.block));
                owners.resize(ids.len(), frame.usable);
            }
        }
        if ids.is_empty() {
            return Some(());
        }
        let present = store.present(&ids).ok().filter(|present| present.len() == ids.len())?;
        for (usable, is_present) in owners.into_iter().zip(present) {
            if !is_present && let Some(byte) = self.block.get_mut(usable) {
                *byte = 0;
            }
        }
        Some(())
    }
}

/// Opens a cache if its header is the one expected but for the generation, which is returned.
pub fn open(path: &std::path::Path, expected: &[u8; HEADER_LEN]) -> Option<(File, [u8; 16])> {
    let mut file = File::open(path).ok()?;
    let mut header = [0; HEADER_LEN];
    file.read_exact(&mut header).ok()?;
    super::generation_of(&header, expected).map(|generation| (file, generation))
}

/// The next block; `None` if there is no whole one.
pub fn read_block(file: &mut File, block: &mut Vec<u8>) -> Option<()> {
    let mut start = [0; 4 + CHECKSUM_LEN];
    file.read_exact(&mut start).ok()?;
    let (len, expected) = start.split_first_chunk()?;
    let len = usize::try_from(u32::from_le_bytes(*len)).ok()?;
    if len > BLOCK_BYTES_MAX {
        return None;
    }
    block.resize(len, 0);
    file.read_exact(block).ok()?;
    (checksum(block) == expected).then_some(())
}
