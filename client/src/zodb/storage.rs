//! A storage's file, open: read forward once, letting through whole committed transactions only.
//!
//! The writer appends a transaction with its length repeated behind it, and clears the mark in its header last. So what a
//! header says to be committed was there whole before it said so: bytes are read in ascending order, never the other way.
//! Everything is read from one descriptor; whatever takes the file's name meanwhile is not looked at, but noticed.

use super::scan::{Found, Scan};
use super::transaction::{FIRST, MAGICS, TRAILER_LEN, TRANSACTION_LEN, Transaction};
use crate::metadata::capture::Stat;
use chunkstore::{Error, Result};
use rustix::fs::{CWD, Mode, OFlags};
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

const WINDOW_BYTES: usize = 1 << 20;

pub struct Storage {
    pub path: PathBuf,
    pub file: File,
    pub stat: Stat,
    pub read_bytes: AtomicU64,
}

/// What follows the last whole transaction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tail {
    Nothing,
    /// So many bytes of a transaction that is being written, or whose writer died.
    Unfinished(u64),
    /// So many bytes that no writer leaves like this.
    Torn(u64),
}

impl Storage {
    pub fn open(path: &Path) -> Result<Storage> {
        let name = path.to_string_lossy();
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let open = |more| rustix::fs::openat(CWD, path, flags | more, Mode::empty());
        let opened = open(OFlags::NOATIME).or_else(|_| open(OFlags::empty()));
        let file = File::from(opened.map_err(|error| Error::io("open", name.clone(), error.into()))?);
        let stat = Stat::of(file.as_fd()).map_err(|error| Error::io("read", name.clone(), error))?;
        if !stat.is_regular() {
            return Err(Error::invalid(name, "it is not a file"));
        }
        let storage = Storage { path: path.to_owned(), file, stat, read_bytes: AtomicU64::new(0) };
        let mut magic = [0; 4];
        if storage.read_at(&mut magic, 0)? < magic.len() {
            return Err(Error::corrupt(name, "it is shorter than the mark that every storage begins with"));
        }
        if !MAGICS.contains(&&magic) {
            return Err(Error::corrupt(name, "it does not begin like a FileStorage (FS21 or FS30)"));
        }
        Ok(storage)
    }

    pub fn name(&self) -> String {
        self.path.display().to_string()
    }

    /// Still the file of this name, and not shorter than `end`.
    pub fn is_in_place(&self, end: u64) -> bool {
        let named = Stat::at(CWD, self.path.as_os_str().as_bytes());
        let is_same = named.is_ok_and(|named| (named.device, named.inode) == (self.stat.device, self.stat.inode));
        is_same && Stat::of(self.file.as_fd()).is_ok_and(|now| now.size >= end)
    }

    /// Fills the buffer as far as the file goes.
    pub fn read_at(&self, buffer: &mut [u8], at: u64) -> Result<usize> {
        let mut len = 0;
        while let Some(room) = buffer.get_mut(len..).filter(|room| !room.is_empty()) {
            match self.file.read_at(room, at + len as u64) {
                Ok(0) => break,
                Ok(more) => len += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => (),
                Err(error) => return Err(Error::io("read", self.name(), error)),
            }
        }
        self.read_bytes.fetch_add(len as u64, Ordering::Relaxed);
        Ok(len)
    }

    pub fn read_array<const N: usize>(&self, at: u64) -> Result<Option<[u8; N]>> {
        let mut bytes = [0; N];
        Ok((self.read_at(&mut bytes, at)? == N).then_some(bytes))
    }

    /// The header at `at`, if a whole committed transaction is there that ends at or before `end`.
    pub fn transaction(&self, at: u64, end: u64) -> Result<Option<Transaction>> {
        let Some(head) = self.read_array::<TRANSACTION_LEN>(at)? else { return Ok(None) };
        let transaction = Transaction::decode(&head);
        let Some(trailer_at) = trailer_within(at, &transaction, end).filter(|_| transaction.is_sound()) else {
            return Ok(None);
        };
        let repeated = self.read_array(trailer_at)?.map(u64::from_be_bytes);
        Ok((repeated == Some(transaction.len)).then_some(transaction))
    }

    /// Where the transaction that ends at `end` begins, and its header, if there is one.
    pub fn transaction_before(&self, end: u64) -> Result<Option<(u64, Transaction)>> {
        let Some(len) = self.read_array(end.saturating_sub(TRAILER_LEN))?.map(u64::from_be_bytes) else {
            return Ok(None);
        };
        let begin = len.checked_add(TRAILER_LEN).and_then(|whole| end.checked_sub(whole));
        let Some(begin) = begin.filter(|begin| *begin >= FIRST) else { return Ok(None) };
        Ok(self.transaction(begin, end)?.filter(|found| found.len == len).map(|found| (begin, found)))
    }
}

/// Where a transaction's length is repeated, if that is all before `end`.
fn trailer_within(at: u64, transaction: &Transaction, end: u64) -> Option<u64> {
    let trailer = at.checked_add(transaction.len)?;
    (trailer.checked_add(TRAILER_LEN)? <= end).then_some(trailer)
}

/// Reads from one place to the end of the last whole transaction.
pub struct Forward<'a> {
    storage: &'a Storage,
    pub scan: Scan,
    /// Bytes of the file from `window_at` on.
    window: Vec<u8>,
    window_at: u64,
    /// Of the next byte to be handed out.
    at: u64,
    /// Bytes before this were scanned long ago.
    scanned: u64,
    /// Where the last transaction that was found whole ends.
    pub end: u64,
    pub tail: Tail,
    /// How long the file was when it was opened.
    size: u64,
    is_over: bool,
    /// The last bytes that were handed out: [`RECENT_BYTES`] of them, or all, and perhaps some more.
    recent: Vec<u8>,
}

/// So many of the last bytes are kept.
pub const RECENT_BYTES: usize = 48 << 10;

impl<'a> Forward<'a> {
    /// Hands out bytes from `at` on. Up to `end` they are known to be good, and `scan` has seen all before that. `window` holds
    /// those from `at` on that were read already, `before` those right before it.
    pub fn new(
        storage: &'a Storage,
        at: u64,
        end: u64,
        scan: Scan,
        before: Vec<u8>,
        mut window: Vec<u8>,
    ) -> Forward<'a> {
        window.reserve(WINDOW_BYTES.saturating_sub(window.len()));
        Forward {
            storage,
            scan,
            window,
            window_at: at,
            at,
            scanned: end,
            end,
            tail: Tail::Nothing,
            size: storage.stat.size,
            is_over: false,
            recent: before,
        }
    }

    /// All from the beginning.
    pub fn whole(storage: &'a Storage) -> Forward<'a> {
        let scan = Scan::new(storage.name(), FIRST, Found::default());
        Forward::new(storage, 0, FIRST, scan, Vec::new(), Vec::new())
    }

    /// The last bytes that were handed out.
    pub fn recent(&self) -> &[u8] {
        self.recent.get(self.recent.len().saturating_sub(RECENT_BYTES)..).unwrap_or_default()
    }

    /// The next bytes into the front of a buffer; 0 at the end.
    pub fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        if self.at == self.end && !self.is_over {
            self.find_more()?;
        }
        let wanted = usize::try_from(self.end - self.at).unwrap_or(usize::MAX).min(buffer.len());
        if wanted == 0 {
            return Ok(0);
        }
        if self.held(self.at).is_empty() {
            self.fill()?;
        }
        let len = wanted.min(self.held(self.at).len());
        let held = self.window.get(self.place(self.at)..).and_then(|held| held.get(..len));
        let (Some(from), Some(to)) = (held.filter(|from| !from.is_empty()), buffer.get_mut(..len)) else {
            return Err(Error::corrupt(self.storage.name(), "it was cut short while it was read"));
        };
        to.copy_from_slice(from);
        let known = usize::try_from(self.scanned.saturating_sub(self.at)).unwrap_or(usize::MAX);
        if let Some(new) = from.get(known..) {
            self.scan.push(new)?;
        }
        self.at += len as u64;
        self.recent.extend_from_slice(to.get(len.saturating_sub(RECENT_BYTES)..).unwrap_or_default());
        if self.recent.len() > 4 * RECENT_BYTES {
            self.recent.drain(..self.recent.len() - RECENT_BYTES);
        }
        Ok(len)
    }

    /// Moves the end over transactions, at least one if there is one, and all that are in the window.
    fn find_more(&mut self) -> Result<()> {
        if self.held(self.end).len() < TRANSACTION_LEN {
            self.fill()?;
        }
        loop {
            let Some(head) = self.held(self.end).first_chunk::<TRANSACTION_LEN>() else {
                // Perhaps only the window ends here.
                return if self.at == self.end { self.finish(None) } else { Ok(()) };
            };
            let transaction = Transaction::decode(head);
            let mut trailer_at = trailer_within(self.end, &transaction, self.size);
            if trailer_at.is_none() && transaction.is_sound() && self.at == self.end {
                // It was being written when the storage was opened, and is committed by now. It is the last one.
                let size = Stat::of(self.storage.file.as_fd()).map_or(self.size, |now| now.size);
                trailer_at = trailer_within(self.end, &transaction, size);
                self.is_over = trailer_at.is_some();
            }
            let Some(trailer_at) = trailer_at.filter(|_| transaction.is_sound()) else {
                return if self.at == self.end { self.finish(Some(&transaction)) } else { Ok(()) };
            };
            let held = self.held(trailer_at).first_chunk().copied();
            let is_far = held.is_none();
            let repeated = if is_far { self.storage.read_array(trailer_at)? } else { held };
            if repeated.map(u64::from_be_bytes) != Some(transaction.len) {
                return if self.at == self.end { self.finish(Some(&transaction)) } else { Ok(()) };
            }
            self.end = trailer_at + TRAILER_LEN;
            if is_far || self.is_over {
                return Ok(());
            }
        }
    }

    /// Nothing whole follows: tells why. Bytes before others that are good are damage.
    fn finish(&mut self, next: Option<&Transaction>) -> Result<()> {
        self.is_over = true;
        let left = self.size.saturating_sub(self.end);
        self.tail = match next {
            None if left == 0 => Tail::Nothing,
            None => Tail::Unfinished(left),
            Some(next) if next.status == b'c' => Tail::Unfinished(left),
            Some(_) => Tail::Torn(left),
        };
        let last = if left > 0 { self.storage.transaction_before(self.size)? } else { None };
        match last {
            Some((begin, _)) if begin > self.end => Err(Error::corrupt(
                format!("{}: the transaction at {}", self.storage.name(), self.end),
                "its header makes no sense, although whole transactions follow it",
            )),
            _ => Ok(()),
        }
    }

    /// What the window has from a place on.
    fn held(&self, at: u64) -> &[u8] {
        self.window.get(self.place(at)..).unwrap_or_default()
    }

    fn place(&self, at: u64) -> usize {
        at.checked_sub(self.window_at).and_then(|place| usize::try_from(place).ok()).unwrap_or(usize::MAX)
    }

    /// Moves the window to the next byte to be handed out, and fills it.
    fn fill(&mut self) -> Result<()> {
        let held = self.held(self.at).len();
        self.window.drain(..self.window.len() - held);
        self.window_at = self.at;
        // What comes after the last transaction is not read, nor is what was not there when the storage was opened.
        let limit = self.size.max(self.end) - self.at;
        self.window.resize(WINDOW_BYTES.min(usize::try_from(limit).unwrap_or(usize::MAX)).max(held), 0);
        let room = self.window.get_mut(held..).unwrap_or_default();
        let len = self.storage.read_at(room, self.at + held as u64)?;
        self.window.truncate(held + len);
        Ok(())
    }
}
