//! Writes a cache while a backup goes on. A cache that cannot be written is left out, never an error.

use super::frame::{Kind, Remembered};
use super::{BLOCK_BYTES, checksum};
use std::fs::File;
use std::io::Write;

pub struct CacheWriter {
    file: File,
    block: Vec<u8>,
    written: u64,
    failed: bool,
}

impl CacheWriter {
    /// `file` is empty.
    pub fn new(file: File, header: &[u8]) -> CacheWriter {
        let mut writer = CacheWriter { file, block: Vec::with_capacity(2 * BLOCK_BYTES), written: 0, failed: false };
        writer.write(header);
        writer
    }

    pub fn remember(&mut self, kind: Kind, name: &Remembered<'_>) {
        name.encode(kind, &mut self.block);
        self.close_block_if_full();
    }

    /// A frame as it was read.
    pub fn copy(&mut self, frame: &[u8]) {
        self.block.extend_from_slice(frame);
        self.close_block_if_full();
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
