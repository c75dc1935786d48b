//! Writes a cache while a backup goes on. A cache that cannot be written is left out, never an error.
//!
//! As long as all is as it was, nothing is written: if that is so to the end, the last run's cache stays.

use super::frame::{Kind, Remembered};
use super::reader::read_block;
use super::{BLOCK_BYTES, checksum};
use std::fs::File;
use std::io::Write;

pub struct CacheWriter {
    file: File,
    block: Vec<u8>,
    written: u64,
    failed: bool,
    same: Option<Same>,
}

/// What the last run wrote, after its header, and how many bytes of frames from its front this run would write again.
struct Same {
    old: File,
    bytes: usize,
}

impl CacheWriter {
    /// `file` is empty. `old` stands after a header that is the same.
    pub fn new(file: File, header: &[u8], old: Option<File>) -> CacheWriter {
        let same = old.map(|old| Same { old, bytes: 0 });
        let mut writer = CacheWriter { file, block: Vec::new(), written: 0, failed: false, same };
        writer.write(header);
        writer
    }

    pub fn remember(&mut self, kind: Kind, name: &Remembered<'_>) {
        self.differ();
        name.encode(kind, &mut self.block);
        self.close_block_if_full();
    }

    /// A frame as it was read: the one after that which was copied before, unless [`CacheWriter::differ`] was called between.
    pub fn copy(&mut self, frame: &[u8]) {
        match &mut self.same {
            Some(same) => same.bytes += frame.len(),
            None => {
                self.block.extend_from_slice(frame);
                self.close_block_if_full();
            }
        }
    }

    /// Something of the last run is left out, or something else comes.
    pub fn differ(&mut self) {
        let Some(Same { mut old, bytes: mut left }) = self.same.take() else { return };
        let mut block = Vec::new();
        while left > 0 && !self.failed {
            self.failed = read_block(&mut old, &mut block).is_none();
            let part = block.get(..left.min(block.len())).unwrap_or_default();
            self.block.extend_from_slice(part);
            left -= part.len();
            self.close_block_if_full();
        }
    }

    /// So far all is as the last run wrote it.
    pub fn is_same(&self) -> bool {
        self.same.is_some()
    }

    /// Writes what is left. The length of the file, or `None` if it is not whole.
    pub fn finish(mut self) -> Option<u64> {
        self.close_block();
        (!self.failed).then_some(self.written)
    }

    fn close_block_if_full(&mut self) {
        if self.block.len() >= BLOCK_BYTES {
            self.close_block();
        }
    }

    fn close_block(&mut self) {
        let Ok(len) = u32::try_from(self.block.len()) else {
            self.failed = true;
            return;
        };
        if len == 0 {
            return;
        }
        let block = std::mem::take(&mut self.block);
        self.write(&len.to_le_bytes());
        self.write(&checksum(&block));
        self.write(&block);
        self.block = block;
        self.block.clear();
    }

    fn write(&mut self, bytes: &[u8]) {
        if !self.failed {
            self.failed = self.file.write_all(bytes).is_err();
            self.written += bytes.len() as u64;
        }
    }
}
