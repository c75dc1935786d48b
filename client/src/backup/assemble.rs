//! Puts findings and outcomes together in the order of the walk: entries into trees, bottom up, and into the new cache.
//!
//! A directory's remembered entries are held back as long as nothing in it differs: if all of it turns out to be the
//! same, its tree is named as it was, and nothing is built or asked for.

use super::Report;
use super::halt::Halt;
use super::read::{Saved, Verb};
use super::survey::{Again, Batch, Entered, Event};
use super::unchanged::CacheWriter;
use super::unchanged::frame::{Frame, Key, Kind, Remembered};
use chunkstore::id::{BlobId, Reference};
use chunkstore::snapshot::Totals;
use chunkstore::tree::{Entry, Node};
use chunkstore::writer::{BlobWriter, TreeBuilder};
use chunkstore::{Error, Result};
use crossbeam_channel::Receiver;
use rustix::fs::FileType;
use std::collections::HashMap;
use std::sync::atomic::Ordering;

/// Remembered entries are held back up to so many bytes in all open directories together.
const HELD_BYTES_MAX: usize = 8 << 20;

/// The root directory's name in the cache: it has none, but an entry needs one.
const ROOT_NAME: &[u8] = b"root";

#[derive(Default, Debug)]
pub struct Assembled {
    pub root: Reference,
    pub totals: Totals,
    pub files_new: u64,
    pub files_changed: u64,
    pub files_unchanged: u64,
}

pub struct Assembler<'a> {
    writer: &'a BlobWriter<'a>,
    report: &'a Report<'a>,
    halt: &'a Halt<'a>,
    cache: Option<&'a mut CacheWriter>,
    levels: Vec<Level>,
    held_bytes: usize,
    /// Files that were read and whose other names are to come.
    shared: HashMap<Key, Saved>,
    root: Option<Reference>,
    done: Assembled,
}

/// A directory that is being put together.
struct Level {
    name: Vec<u8>,
    key: Key,
    usable: bool,
    /// Encoded, naming no tree.
    entry: Vec<u8>,
    tree: TreeBuilder,
    /// Frames that are not in the tree yet.
    held: Vec<u8>,
}

impl<'a> Assembler<'a> {
    pub fn new(
        writer: &'a BlobWriter<'a>,
        report: &'a Report<'a>,
        halt: &'a Halt<'a>,
        cache: Option<&'a mut CacheWriter>,
    ) -> Assembler<'a> {
        Assembler {
            writer,
            report,
            halt,
            cache,
            levels: Vec::new(),
            held_bytes: 0,
            shared: HashMap::new(),
            root: None,
            done: Assembled::default(),
        }
    }

    /// Takes batches until the root is left.
    pub fn run(mut self, batches: &Receiver<Batch>) -> Result<Assembled> {
        for batch in batches {
            self.take_batch(batch)?;
        }
        self.halt.check()?;
        match self.root {
            Some(root) => Ok(Assembled { root, ..self.done }),
            None => Err(Error::invalid("backup", "the root directory cannot be read")),
        }
    }

    fn take_batch(&mut self, batch: Batch) -> Result<()> {
        let mut groups: Vec<Vec<Option<Saved>>> = batch.groups.iter().map(|_| Vec::new()).collect();
        let mut at = 0;
        for event in batch.events {
            let mut frames_to = |end: usize| batch.frames.get(std::mem::replace(&mut at, end)..end).unwrap_or_default();
            match event {
                Event::Enter(entered) => self.enter(*entered),
                Event::EnterSame(end) => self.enter_same(frames_to(end))?,
                Event::Skipped => {
                    if let Some(cache) = &mut self.cache {
                        cache.differ();
                    }
                }
                Event::Same(end) => self.same(frames_to(end))?,
                Event::Prepared(saved) => {
                    self.report.monitor.counters().files_done.fetch_add(1, Ordering::Relaxed);
                    self.read(&saved)?;
                }
                Event::Again(again) => self.again(*again)?,
                Event::Leave => self.leave()?,
                Event::LeaveSame(end) => self.leave_same(frames_to(end))?,
                Event::Read(group, place) => {
                    let outcomes = groups.get_mut(group).zip(batch.groups.get(group));
                    let Some((saved, outcome)) = outcomes else { continue };
                    if saved.is_empty() {
                        // A worker goes without an answer only if it failed.
                        *saved = outcome.recv().map_err(|_| Error::invalid("backup", "a worker failed"))??;
                    }
                    if let Some(saved) = saved.get_mut(place).and_then(Option::take) {
                        self.read(&saved)?;
                        if saved.shared {
                            self.shared.insert(saved.key, saved);
                        }
                    }
                }
            }
        }
        Ok(())
    }

    fn enter(&mut self, entered: Entered) {
        let Entered { name, key, usable, attributes } = entered;
        let entry_name = if name.is_empty() { ROOT_NAME.to_vec() } else { name.clone() };
        let entry = Entry { name: entry_name, attributes, node: Node::Directory(Reference::default()) }.encode();
        if let Some(cache) = &mut self.cache {
            cache.remember(Kind::Enter, &Remembered { name: &name, usable, key, entry: &entry, links: &[] });
        }
        self.levels.push(Level { name, key, usable, entry, tree: TreeBuilder::new(), held: Vec::new() });
    }

    fn enter_same(&mut self, bytes: &[u8]) -> Result<()> {
        let frame = find(bytes, 0)?;
        let part = |range: &std::ops::Range<usize>| bytes.get(range.clone()).unwrap_or_default();
        let key = part(&frame.key).try_into().map_err(|_| damaged())?;
        let (name, entry) = (part(&frame.name).to_vec(), part(&frame.entry).to_vec());
        if let Some(cache) = &mut self.cache {
            cache.copy(bytes);
        }
        self.levels.push(Level { name, key, usable: true, entry, tree: TreeBuilder::new(), held: Vec::new() });
        Ok(())
    }

    fn same(&mut self, bytes: &[u8]) -> Result<()> {
        let mut at = 0;
        while at < bytes.len() {
            let frame = find(bytes, at)?;
            at = frame.all.end;
            let (file_type, size) = frame.mode_and_size(bytes).ok_or_else(damaged)?;
            self.count(file_type, size);
            self.done.files_unchanged += 1;
            let counters = self.report.monitor.counters();
            counters.files_done.fetch_add(1, Ordering::Relaxed);
            if file_type == FileType::RegularFile {
                counters.bytes_done.fetch_add(size, Ordering::Relaxed);
            }
            if let Some(cache) = &mut self.cache {
                cache.copy(bytes.get(frame.all).unwrap_or_default());
            }
        }
        self.hold(bytes)
    }

    fn read(&mut self, saved: &Saved) -> Result<()> {
        self.count(saved.file_type, saved.size);
        match saved.verb {
            Verb::New => self.done.files_new += 1,
            Verb::Changed => self.done.files_changed += 1,
            Verb::Unchanged => self.done.files_unchanged += 1,
        }
        let Saved { name, entry, links, key, usable, .. } = saved;
        if let Some(cache) = &mut self.cache {
            cache.remember(Kind::Item, &Remembered { name, usable: *usable, key: *key, entry, links });
        }
        self.push(name, entry, links, saved.verb == Verb::Changed)
    }

    /// The same file under another name.
    fn again(&mut self, again: Again) -> Result<()> {
        let Again { name, path, key, previous, is_last } = again;
        let first = if is_last { self.shared.remove(&key) } else { self.shared.get(&key).cloned() };
        let Some(first) = first else {
            self.report.problem(&path, "it could not be read under another of its names, or changed meanwhile");
            return Ok(());
        };
        let entry = Entry { name: name.clone(), ..Entry::decode(&first.entry, "entry")? }.encode();
        let verb = Verb::of(previous.as_deref(), &entry);
        self.report.detail(verb.text(), &path);
        self.report.monitor.counters().files_done.fetch_add(1, Ordering::Relaxed);
        self.read(&Saved { name, entry, verb, ..first })
    }

    /// The directory as it was, whatever of it was built meanwhile.
    fn leave_same(&mut self, bytes: &[u8]) -> Result<()> {
        let frame = find(bytes, 0)?;
        if let Some(level) = self.levels.pop() {
            self.held_bytes -= level.held.len();
        }
        if let Some(cache) = &mut self.cache {
            cache.copy(bytes);
        }
        if !self.levels.is_empty() {
            self.done.totals.directories += 1;
            return self.hold(bytes);
        }
        let entry = Entry::decode(bytes.get(frame.entry).unwrap_or_default(), "change cache")?;
        let Node::Directory(root) = entry.node else { return Err(damaged()) };
        self.root = Some(root);
        Ok(())
    }

    fn leave(&mut self) -> Result<()> {
        self.release()?;
        let Some(level) = self.levels.pop() else { return Err(damaged()) };
        let tree = level.tree.finish(self.writer)?;
        let entry = Entry::decode(&level.entry, "change cache")?;
        let entry = Entry { node: Node::Directory(tree), ..entry }.encode();
        let links = [tree.id];
        if let Some(cache) = &mut self.cache {
            let remembered =
                Remembered { name: &level.name, usable: level.usable, key: level.key, entry: &entry, links: &links };
            cache.remember(Kind::Leave, &remembered);
        }
        if self.levels.is_empty() {
            self.root = Some(tree);
            return Ok(());
        }
        self.done.totals.directories += 1;
        self.push(&level.name, &entry, &links, false)
    }

    /// Into the present directory, after all that is held back there.
    fn push(&mut self, name: &[u8], entry: &[u8], links: &[BlobId], is_changed: bool) -> Result<()> {
        self.release()?;
        let push = if is_changed { TreeBuilder::push_changed } else { TreeBuilder::push };
        match self.levels.last_mut() {
            Some(level) => push(&mut level.tree, name, entry, links, self.writer),
            None => Err(damaged()),
        }
    }

    fn hold(&mut self, frames: &[u8]) -> Result<()> {
        let Some(level) = self.levels.last_mut() else { return Err(damaged()) };
        level.held.extend_from_slice(frames);
        self.held_bytes += frames.len();
        if self.held_bytes > HELD_BYTES_MAX { self.release() } else { Ok(()) }
    }

    /// What the present directory holds back goes into its tree.
    fn release(&mut self) -> Result<()> {
        let Some(level) = self.levels.last_mut() else { return Ok(()) };
        let held = std::mem::take(&mut level.held);
        self.held_bytes -= held.len();
        let mut at = 0;
        let mut links = Vec::new();
        while at < held.len() {
            let frame = find(&held, at)?;
            at = frame.all.end;
            links.clear();
            links.extend(frame.links(&held));
            let part = |range: std::ops::Range<usize>| held.get(range).unwrap_or_default();
            level.tree.push(part(frame.name), part(frame.entry), &links, self.writer)?;
        }
        Ok(())
    }

    fn count(&mut self, file_type: FileType, size: u64) {
        if file_type == FileType::RegularFile {
            self.done.totals.files += 1;
            self.done.totals.content_bytes += size;
        } else {
            self.done.totals.others += 1;
        }
    }
}

fn find(bytes: &[u8], at: usize) -> Result<Frame> {
    Frame::find(bytes, at).ok_or_else(damaged)
}

/// Frames were checked when they were read, so this is a fault of the program.
fn damaged() -> Error {
    Error::invalid("change cache", "its frames are not in order")
}
