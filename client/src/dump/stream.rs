//! An ordered stream of pieces whose contents are read ahead by several threads. What is under way is bounded in bytes.

use super::Outcome;
use super::archive::{self, Map};
use crate::monitor::Monitor;
use chunkstore::list::{Item, Slice};
use chunkstore::reader::Reader;
use chunkstore::tree::Content;
use chunkstore::{Error, Result};
use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use std::collections::VecDeque;
use std::io::Write;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Content under way: being read, or read and not yet written.
const AHEAD_BYTES_MAX: u64 = 48 << 20;
/// Pieces under way: each costs some hundred bytes.
const AHEAD_PIECES_MAX: usize = 16 << 10;
/// Content of one request to the reader.
const GROUP_BYTES_MAX: u64 = 2 << 20;
/// Files up to this size are held back until all of their content is there.
pub const WHOLE_BYTES_MAX: u64 = 16 << 20;
/// No chunk is longer (the format's limit for the content of a record).
const CHUNK_BYTES_MAX: u64 = 16 << 20;
/// Enough to keep the cores busy while some wait for a repository far away.
const THREADS_MIN: usize = 4;

static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

type Answer = Result<Vec<Result<Vec<u8>>>>;
type Request = (Vec<Slice>, Sender<Answer>);

/// What comes next in the output.
enum Piece {
    Bytes(Vec<u8>),
    Zeros(u64),
    /// So many bytes of chunks or parts of them.
    Chunks {
        bytes: u64,
        answer: Receiver<Answer>,
    },
    /// Of a file that is held back until it is known to be whole: header, content, padding. An error of the walk makes it
    /// incomplete from the start.
    Whole {
        file: Arc<File>,
        pieces: Vec<Piece>,
        error: Option<Error>,
    },
    /// A further name of a file: nothing without it.
    Link {
        first: Arc<File>,
        path: Vec<u8>,
        header: Vec<u8>,
    },
}

impl Piece {
    fn bytes(&self) -> u64 {
        match self {
            Piece::Bytes(bytes) => bytes.len() as u64,
            Piece::Zeros(_) | Piece::Link { .. } => 0,
            Piece::Chunks { bytes, .. } => *bytes,
            Piece::Whole { pieces, .. } => pieces.iter().map(Piece::bytes).sum(),
        }
    }
}

/// A file in an archive.
pub struct File {
    pub path: Vec<u8>,
    is_left_out: AtomicBool,
}

impl File {
    pub fn new(path: Vec<u8>) -> Arc<File> {
        Arc::new(File { path, is_left_out: AtomicBool::new(false) })
    }
}

pub struct Stream<'a> {
    reader: &'a Reader,
    out: &'a mut dyn Write,
    monitor: &'a dyn Monitor,
    interrupted: &'a AtomicBool,
    requests: Sender<Request>,
    ahead: VecDeque<(Piece, u64)>,
    ahead_bytes: u64,
    outcome: Outcome,
}

impl<'a> Stream<'a> {
    /// Runs `produce` with a stream into `out` and writes all that it pushed.
    pub fn run(
        reader: &Reader,
        out: &mut dyn Write,
        monitor: &dyn Monitor,
        interrupted: &AtomicBool,
        produce: impl FnOnce(&mut Stream<'_>) -> Result<()>,
    ) -> Result<Outcome> {
        let (requests, queue) = unbounded::<Request>();
        let threads = std::thread::available_parallelism().map_or(1, usize::from).max(THREADS_MIN);
        std::thread::scope(|scope| {
            for _ in 0..threads {
                let queue = queue.clone();
                scope.spawn(move || {
                    for (slices, answer) in queue {
                        // Nobody waits for it any more after an error.
                        let _ = answer.send(reader.slices(&slices));
                    }
                });
            }
            drop(queue);
            let mut stream = Stream {
                reader,
                out,
                monitor,
                interrupted,
                requests,
                ahead: VecDeque::new(),
                ahead_bytes: 0,
                outcome: Outcome::default(),
            };
            produce(&mut stream)?;
            stream.write_down_to(0, 0)?;
            stream.out.flush().map_err(written)?;
            Ok(std::mem::take(&mut stream.outcome))
        })
    }

    pub fn problem(&mut self, path: &[u8], reason: &str) {
        self.outcome.problems += 1;
        self.monitor.problem(path, reason);
    }

    pub fn count_entry(&mut self) {
        self.outcome.entries += 1;
    }

    pub fn bytes(&mut self, bytes: Vec<u8>) -> Result<()> {
        self.push(Piece::Bytes(bytes))
    }

    /// A content on its own: the first damage ends the stream.
    pub fn content(&mut self, content: &Content, path: &[u8]) -> Result<()> {
        self.monitor.current(path);
        match content {
            Content::Inline(bytes) => self.push(Piece::Bytes(bytes.clone())),
            _ => self.items(content, None, &mut |stream, piece| stream.push(piece)),
        }
    }

    /// A file of an archive: left out by name if it is damaged and small enough to know in time. With a map, its holes are
    /// left out.
    pub fn file(&mut self, file: Arc<File>, header: Vec<u8>, content: &Content, map: Option<Map>) -> Result<()> {
        let data_bytes = map.as_ref().map_or(content.size(), Map::data_bytes);
        let padding = archive::padding(data_bytes);
        if data_bytes > WHOLE_BYTES_MAX {
            self.monitor.current(&file.path);
            self.push(Piece::Bytes(header))?;
            self.items(content, map.as_ref(), &mut |stream, piece| stream.push(piece))?;
            self.count_entry();
            return self.push(Piece::Bytes(padding));
        }
        let mut pieces = vec![Piece::Bytes(header)];
        let gathered = match content {
            Content::Inline(bytes) => {
                pieces.push(Piece::Bytes(bytes.clone()));
                Ok(())
            }
            _ => self.items(content, map.as_ref(), &mut |_, piece| {
                pieces.push(piece);
                Ok(())
            }),
        };
        let error = match gathered {
            Err(error) if !error.is_damage() => return Err(error),
            other => other.err(),
        };
        pieces.push(Piece::Bytes(padding));
        self.push(Piece::Whole { file, pieces, error })
    }

    pub fn link(&mut self, first: Arc<File>, path: Vec<u8>, header: Vec<u8>) -> Result<()> {
        self.push(Piece::Link { first, path, header })
    }

    /// Requests the chunks of a content in groups; checks that the items cover it. With a map, holes are left out as far as
    /// it does not cover them.
    fn items(
        &mut self,
        content: &Content,
        map: Option<&Map>,
        push: &mut dyn FnMut(&mut Stream<'a>, Piece) -> Result<()>,
    ) -> Result<()> {
        let mut expected = 0;
        let group = &mut Group::default();
        let (reader, size) = (self.reader, content.size());
        reader.items(content, 0..size, &mut |offset, item| {
            let (len, slice) = (item.covers(), item.slice());
            if slice.is_some_and(|slice| slice.len > CHUNK_BYTES_MAX) || matches!(item, Item::List { .. }) {
                return Err(Error::corrupt("a list of chunks", "an item is out of place"));
            }
            if offset != expected || size - expected < len {
                return Err(Error::corrupt("a list of chunks", "it does not cover its file"));
            }
            expected += len;
            let is_hole = slice.is_none();
            if let Some(slice) = slice {
                group.slices.push(slice);
                group.bytes += len;
            }
            if is_hole || group.bytes >= GROUP_BYTES_MAX {
                self.request(group, push)?;
            }
            if is_hole {
                push(self, Piece::Zeros(map.map_or(len, |map| map.overlap(offset, len))))?;
            }
            Ok(ControlFlow::Continue(()))
        })?;
        self.request(group, push)?;
        if expected == size { Ok(()) } else { Err(Error::corrupt("a list of chunks", "it does not cover its file")) }
    }

    fn request(&mut self, group: &mut Group, push: &mut dyn FnMut(&mut Stream<'a>, Piece) -> Result<()>) -> Result<()> {
        let Group { slices, bytes } = std::mem::take(group);
        if slices.is_empty() {
            return Ok(());
        }
        let (sender, answer) = bounded(1);
        // The threads live as long as the stream.
        let _ = self.requests.send((slices, sender));
        push(self, Piece::Chunks { bytes, answer })
    }

    fn push(&mut self, piece: Piece) -> Result<()> {
        let bytes = piece.bytes();
        self.ahead_bytes += bytes;
        self.ahead.push_back((piece, bytes));
        self.write_down_to(AHEAD_BYTES_MAX, AHEAD_PIECES_MAX)
    }

    fn write_down_to(&mut self, bytes_max: u64, pieces_max: usize) -> Result<()> {
        while self.ahead_bytes > bytes_max || self.ahead.len() > pieces_max {
            if self.interrupted.load(Ordering::Relaxed) {
                return Err(Error::Interrupted);
            }
            let Some((piece, bytes)) = self.ahead.pop_front() else { return Ok(()) };
            self.ahead_bytes -= bytes;
            match piece {
                Piece::Whole { file, pieces, error } => self.write_whole(&file, pieces, error)?,
                Piece::Link { first, path, header } => self.write_link(&first, &path, &header)?,
                piece => self.write(piece)?,
            }
        }
        Ok(())
    }

    fn write(&mut self, piece: Piece) -> Result<()> {
        match piece {
            Piece::Bytes(bytes) => self.out.write_all(&bytes).map_err(written),
            Piece::Zeros(mut left) => {
                self.count_bytes(left);
                while left > 0 {
                    let len = usize::try_from(left).unwrap_or(usize::MAX).min(ZEROS.len());
                    self.out.write_all(ZEROS.get(..len).unwrap_or(&ZEROS)).map_err(written)?;
                    left -= len as u64;
                }
                Ok(())
            }
            Piece::Chunks { bytes, answer } => {
                for chunk in contents(bytes, &answer)? {
                    self.count_bytes(chunk.len() as u64);
                    self.out.write_all(&chunk).map_err(written)?;
                }
                Ok(())
            }
            Piece::Whole { .. } | Piece::Link { .. } => Ok(()),
        }
    }

    /// Writes a file if all of it is there.
    fn write_whole(&mut self, file: &File, pieces: Vec<Piece>, error: Option<Error>) -> Result<()> {
        let ready = match error {
            Some(error) => Err(error),
            None => pieces.into_iter().map(ready).collect::<Result<Vec<Vec<Piece>>>>(),
        };
        match ready {
            Ok(pieces) => {
                self.monitor.current(&file.path);
                self.count_entry();
                pieces.into_iter().flatten().try_for_each(|piece| self.write(piece))
            }
            Err(error) => {
                file.is_left_out.store(true, Ordering::Relaxed);
                self.problem(&file.path, &format!("{error}; it was left out"));
                Ok(())
            }
        }
    }

    fn write_link(&mut self, first: &File, path: &[u8], header: &[u8]) -> Result<()> {
        if first.is_left_out.load(Ordering::Relaxed) {
            let first = String::from_utf8_lossy(&first.path).into_owned();
            self.problem(path, &format!("it is one file with {first}, which was left out"));
            return Ok(());
        }
        self.count_entry();
        self.out.write_all(header).map_err(written)
    }

    fn count_bytes(&mut self, bytes: u64) {
        self.outcome.content_bytes += bytes;
        self.monitor.counters().bytes_done.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// What one request asks for.
#[derive(Default)]
struct Group {
    slices: Vec<Slice>,
    bytes: u64,
}

/// A piece without anything left to wait for.
fn ready(piece: Piece) -> Result<Vec<Piece>> {
    match piece {
        Piece::Chunks { bytes, answer } => Ok(contents(bytes, &answer)?.into_iter().map(Piece::Bytes).collect()),
        piece => Ok(vec![piece]),
    }
}

/// The answer to a request, if all of it is there and as long as was recorded.
fn contents(bytes: u64, answer: &Receiver<Answer>) -> Result<Vec<Vec<u8>>> {
    let lost = || Error::missing("the answer to a request for chunks");
    let pieces = answer.recv().map_err(|_| lost())??.into_iter().collect::<Result<Vec<Vec<u8>>>>()?;
    if pieces.iter().map(|piece| piece.len() as u64).sum::<u64>() == bytes { Ok(pieces) } else { Err(lost()) }
}

fn written(error: std::io::Error) -> Error {
    Error::io("writing", "the output", error)
}
