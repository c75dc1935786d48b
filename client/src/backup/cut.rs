//! One file's or stream's content, of any length: cut into chunks in one pass, stored, collected in order.
//!
//! Bytes are read into windows. A full window is cut and handed on with its chunks in place; the bytes after the last
//! boundary move to the next window. Windows are used again, so memory is bounded by [`AHEAD_MAX`] of them.

use super::chunks::Chunks;
use super::pipeline::{Pieces, Work};
use chunkstore::chunker::Chunker;
use chunkstore::id::Reference;
use chunkstore::list::Item;
use chunkstore::store::Store;
use chunkstore::tree::Content;
use chunkstore::writer::ListBuilder;
use chunkstore::{Error, Result};
use crossbeam_channel::{Receiver, Sender, bounded};
use std::collections::VecDeque;
use std::io;

/// A window has this many bytes, unless the largest chunk asks for more.
const WINDOW_BYTES: usize = 2 << 20;
/// So many windows of one file are on their way at once, for each caller that the store wants.
const AHEAD_MAX: usize = 4;

/// Who stores the chunks.
#[derive(Clone, Copy)]
pub enum Storing<'a> {
    /// This thread.
    Here,
    Workers(&'a Sender<Work>),
}

/// A stretch of the content.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Piece {
    Hole(u64),
    Chunk(usize),
}

/// A window that was handed on.
struct Handed {
    pieces: Vec<Piece>,
    done: Receiver<Result<(Vec<Reference>, Vec<u8>)>>,
}

pub struct Cutter<'a> {
    chunker: &'a Chunker,
    chunks: &'a Chunks<'a>,
    storing: Storing<'a>,
    list: ListBuilder,
    /// The last item, which is not in the list yet.
    last: Option<Item>,
    window: Vec<u8>,
    /// Bytes of the window that were read, and those before the last boundary.
    filled: usize,
    cut: usize,
    pieces: Vec<Piece>,
    handed: VecDeque<Handed>,
    spare: &'a mut Vec<Vec<u8>>,
    len: u64,
}

impl<'a> Cutter<'a> {
    /// `spare` keeps windows from one content to the next.
    pub fn new(
        chunker: &'a Chunker,
        chunks: &'a Chunks<'a>,
        storing: Storing<'a>,
        spare: &'a mut Vec<Vec<u8>>,
    ) -> Cutter<'a> {
        Cutter {
            chunker,
            chunks,
            storing,
            list: ListBuilder::new(),
            last: None,
            window: Vec::new(),
            filled: 0,
            cut: 0,
            pieces: Vec::new(),
            handed: VecDeque::new(),
            spare,
            len: 0,
        }
    }

    /// Goes on with a content that was begun long ago.
    pub fn after(mut self, list: ListBuilder) -> Cutter<'a> {
        self.list = list;
        self
    }

    /// How many bytes there are so far.
    pub fn len(&self) -> u64 {
        self.len
    }

    pub fn hole(&mut self, len: u64) {
        if len > 0 {
            self.pieces.push(Piece::Hole(len));
            self.len += len;
        }
    }

    /// One stretch of data: of `limit` bytes, or less if the source ends before. `read` fills the front of a buffer and
    /// answers 0 at the end. The outer error is the store's, the inner one the source's.
    pub fn data(
        &mut self,
        limit: u64,
        read: &mut dyn FnMut(&mut [u8]) -> io::Result<usize>,
    ) -> Result<io::Result<u64>> {
        let mut left = limit;
        loop {
            if self.window.is_empty() {
                self.window = self.spare.pop().unwrap_or_else(|| vec![0; self.window_bytes()]);
            }
            let room = self.window.get_mut(self.filled..).unwrap_or_default();
            let wanted = usize::try_from(left).unwrap_or(usize::MAX).min(room.len());
            let mut len = 0;
            if wanted > 0 {
                len = match read(room.get_mut(..wanted).unwrap_or_default()) {
                    Ok(len) => len.min(wanted),
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    Err(error) => return Ok(Err(error)),
                };
            }
            self.filled += len;
            self.len += len as u64;
            left -= len as u64;
            let is_end = len == 0 || left == 0;
            if self.filled == self.window.len() || is_end {
                self.cut_window(is_end);
                if self.filled == self.window.len() {
                    self.hand_on()?;
                }
            }
            if is_end {
                return Ok(Ok(limit - left));
            }
        }
    }

    /// All of it.
    pub fn finish(self) -> Result<Content> {
        let writer = self.chunks.writer;
        let (mut list, last) = self.collect_all()?;
        if let Some(last) = last {
            list.push(last, writer)?;
        }
        list.finish(writer)
    }

    /// All of it, and what to go on with when there is more. The last chunk ended because there was no more: unless it is longer
    /// than `again_max`, it is to be read again then.
    pub fn finish_growing(self, again_max: u64) -> Result<(Content, ListBuilder)> {
        let writer = self.chunks.writer;
        let (mut list, last) = self.collect_all()?;
        list.settle(writer)?;
        let mut growing = list.clone();
        if let Some(last) = last {
            list.push(last, writer)?;
            if last.covers() > again_max {
                list.settle(writer)?;
                growing = list.clone();
            }
        }
        Ok((list.finish(writer)?, growing))
    }

    /// All but the last item in a list.
    fn collect_all(mut self) -> Result<(ListBuilder, Option<Item>)> {
        self.hand_on()?;
        while let Some(handed) = self.handed.pop_front() {
            self.collect(handed)?;
        }
        if !self.window.is_empty() {
            self.spare.push(self.window);
        }
        Ok((self.list, self.last))
    }

    fn window_bytes(&self) -> usize {
        WINDOW_BYTES.max(2 * self.chunker.sizes().max as usize)
    }

    fn cut_window(&mut self, is_end: bool) {
        while let Some(len) = self.chunker.cut(self.window.get(self.cut..self.filled).unwrap_or_default(), is_end) {
            self.pieces.push(Piece::Chunk(len));
            self.cut += len;
        }
    }

    /// Gives the window away up to the last boundary; the rest begins the next one.
    fn hand_on(&mut self) -> Result<()> {
        if self.pieces.is_empty() {
            return Ok(());
        }
        let mut next = Vec::new();
        if self.filled > 0 {
            next = self.spare.pop().unwrap_or_else(|| vec![0; self.window_bytes()]);
        }
        let rest = self.window.get(self.cut..self.filled).unwrap_or_default();
        if let Some(to) = next.get_mut(..rest.len()) {
            to.copy_from_slice(rest);
        }
        self.filled = rest.len();
        self.cut = 0;
        let window = std::mem::replace(&mut self.window, next);
        let pieces = std::mem::take(&mut self.pieces);
        let lens = pieces.iter().filter_map(|piece| match piece {
            Piece::Chunk(len) => Some(*len),
            Piece::Hole(_) => None,
        });
        let (send, done) = bounded(1);
        let work = Pieces { window, lens: lens.collect(), done: send };
        match self.storing {
            Storing::Here => work.store(self.chunks),
            // Nobody is left only when all is being given up.
            Storing::Workers(workers) => workers.send(Work::Pieces(work)).map_err(|_| Error::Interrupted)?,
        }
        self.handed.push_back(Handed { pieces, done });
        while self.handed.len() >= AHEAD_MAX * self.chunks.gate.callers().max(1) {
            let Some(first) = self.handed.pop_front() else { break };
            self.collect(first)?;
        }
        Ok(())
    }

    fn collect(&mut self, handed: Handed) -> Result<()> {
        let (references, window) = handed.done.recv().map_err(|_| Error::Interrupted)??;
        let mut references = references.into_iter();
        for piece in handed.pieces {
            let item = match piece {
                Piece::Hole(len) => Item::Hole { len },
                Piece::Chunk(len) => {
                    let link = references.next().ok_or_else(|| Error::invalid("chunk", "it was not stored"))?;
                    Item::Chunk { len: len as u64, link }
                }
            };
            if let Some(before) = self.last.replace(item) {
                self.list.push(before, self.chunks.writer)?;
            }
        }
        if !window.is_empty() {
            self.spare.push(window);
        }
        Ok(())
    }
}
