//! The walk of a snapshot against the target. Directories are made on the way; everything else is planned into batches.
//!
//! Entries are taken node by node and directories are closed as soon as all below them is done, so memory holds one batch and,
//! for each directory on the way down, the subdirectories still to come. Only hard links are remembered to the end, and
//! a group only until its last name.

use super::job::{Batch, Closing, Job, LinkJob, Place, Start, held};
use super::plan::{self, Action, Existing};
use super::run::{Run, add};
use super::target::{DEPTH_MAX, Directory, Failure, Identity, Outcome, Target};
use super::{Overwrite, content, remove, shared, write};
use chunkstore::id::Reference;
use chunkstore::list::Item;
use chunkstore::tree::{Attributes, Content, Entry, HardLink, Node};
use chunkstore::{Error, Result};
use rustix::fs::{FileType, ResolveFlags};
use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex};

/// What the directories on the way down may hold together: some million subdirectories.
const HELD_BYTES_MAX: usize = 512 << 20;

pub struct Walk<'r> {
    run: &'r Run<'r>,
    /// None in a dry run into a target that does not exist.
    target: Option<&'r Target>,
    batch: Batch,
    groups: HashMap<(u64, u64), Group>,
    frames: Vec<Frame>,
    /// What the frames hold.
    held_bytes: usize,
}

/// The names of one file.
struct Group {
    first: Arc<Place>,
    /// Other names must say the same, or they are files of their own.
    digest: blake3::Hash,
    names_left: u64,
}

/// A directory that is being restored.
struct Frame {
    /// None in a dry run, where it would be created.
    directory: Option<Arc<Directory>>,
    path: Vec<u8>,
    attributes: Option<Attributes>,
    created: bool,
    /// Encoded entries of the subdirectories to come: a third of the space of decoded ones.
    pending: std::vec::IntoIter<Box<[u8]>>,
    held_bytes: usize,
}

impl<'r> Walk<'r> {
    pub fn new(run: &'r Run<'r>, target: Option<&'r Target>) -> Walk<'r> {
        Walk { run, target, batch: Batch::default(), groups: HashMap::new(), frames: Vec::new(), held_bytes: 0 }
    }

    /// Restores a directory's entries into the target itself.
    pub fn directory(mut self, tree: Reference, attributes: Option<Attributes>, created: bool) -> Result<()> {
        let frame = Frame {
            directory: self.target.map(Target::root),
            path: Vec::new(),
            attributes,
            created,
            pending: Vec::new().into_iter(),
            held_bytes: 0,
        };
        self.open(frame, tree)?;
        while let Some(top) = self.frames.last_mut() {
            match top.pending.next() {
                Some(entry) => self.descend(&Entry::decode(&entry, "directory entry")?)?,
                None => self.close()?,
            }
        }
        self.flush()
    }

    /// Restores one entry that is no directory into the target.
    pub fn single(mut self, entry: Entry) -> Result<()> {
        self.leaf(self.target.map(Target::root).as_ref(), b"", entry)?;
        self.flush()
    }

    /// Plans all entries of a directory but its subdirectories, which are to come.
    fn open(&mut self, mut frame: Frame, tree: Reference) -> Result<()> {
        let run = self.run;
        let mut pending = Vec::new();
        let mut surplus = self.surplus(&frame)?;
        let visited = run.reader.entries(tree, &mut |entry| {
            run.check_interrupted()?;
            surplus.before(self, &frame, Some(&entry.name))?;
            if matches!(entry.node, Node::Directory(_)) {
                let entry = entry.encode().into_boxed_slice();
                frame.held_bytes += entry.len() + size_of::<Box<[u8]>>();
                if self.held_bytes + frame.held_bytes > HELD_BYTES_MAX {
                    let object = String::from_utf8_lossy(displayed(&frame.path)).into_owned();
                    return Err(Error::Unsupported {
                        object,
                        reason: "its subdirectories do not fit in memory".into(),
                    });
                }
                pending.push(entry);
            } else {
                self.leaf(frame.directory.as_ref(), &frame.path, entry)?;
            }
            Ok(ControlFlow::Continue(()))
        });
        match visited {
            Ok(()) => surplus.before(self, &frame, None)?,
            // Whatever follows is not known, so nothing more is surplus.
            Err(error) if is_confined(&error) => run.problem(displayed(&frame.path), &error.to_string()),
            Err(error) => return Err(error),
        }
        frame.pending = pending.into_iter();
        self.held_bytes += frame.held_bytes;
        self.frames.push(frame);
        Ok(())
    }

    fn close(&mut self) -> Result<()> {
        let Some(frame) = self.frames.pop() else { return Ok(()) };
        self.held_bytes -= frame.held_bytes;
        match frame.directory {
            Some(directory) => {
                self.batch.push_directory(Closing { directory, attributes: frame.attributes, created: frame.created });
            }
            None => super::finish::count(self.run, &self.run.tally.directories, displayed(&frame.path), (true, true)),
        }
        self.flush_if_full()
    }

    /// Goes into a subdirectory, which is made if necessary.
    fn descend(&mut self, entry: &Entry) -> Result<()> {
        let (Some(above), Node::Directory(tree)) = (self.frames.last(), &entry.node) else { return Ok(()) };
        let path = join(&above.path, &entry.name);
        if self.frames.len() >= DEPTH_MAX {
            self.run.problem(&path, &format!("it lies more than {DEPTH_MAX} directories deep"));
            return Ok(());
        }
        let entered = match (&above.directory, self.target) {
            (Some(parent), Some(target)) => self.enter(target, parent, &entry.name),
            _ => Ok((None, true)),
        };
        match entered {
            Ok((directory, created)) => {
                let attributes = Some(entry.attributes.clone());
                let held_bytes = held(&entry.attributes) + path.len();
                let pending = Vec::new().into_iter();
                let frame = Frame { directory, path, attributes, created, pending, held_bytes };
                self.open(frame, *tree)
            }
            Err(failure) => self.run.failed(&path, &failure),
        }
    }

    /// The directory, and whether it is a new one.
    fn enter(&self, target: &Target, parent: &Arc<Directory>, name: &[u8]) -> Outcome<(Option<Arc<Directory>>, bool)> {
        let found = target.stat(parent, name)?.map(|stat| FileType::from_raw_mode(stat.st_mode));
        if found == Some(FileType::Directory) {
            return Ok((Some(target.enter(parent, name, ResolveFlags::empty())?), false));
        }
        if found.is_some() && self.run.options.overwrite == Overwrite::Never {
            return Err(Failure::InPlace);
        }
        if self.run.options.dry_run {
            return Ok((None, true));
        }
        if found.is_some() {
            remove::make_way(self.run, target, parent, name)?;
        }
        Ok((Some(target.make_directory(parent, name)?), true))
    }

    /// Plans anything but a directory.
    fn leaf(&mut self, directory: Option<&Arc<Directory>>, above: &[u8], entry: Entry) -> Result<()> {
        let (Some(directory), Some(target)) = (directory, self.target) else {
            self.would_create(&join(above, &entry.name), &entry);
            return Ok(());
        };
        if let Some(first) = self.first_name(&entry) {
            let is_file = matches!(entry.node, Node::File(_));
            let name = entry.name.into_boxed_slice();
            self.batch.links.push(LinkJob { first, directory: directory.clone(), name, is_file });
            return self.flush_if_full();
        }
        let existing = match look(target, directory, &entry.name) {
            Ok(existing) => existing,
            Err(failure) => return self.run.failed(&join(above, &entry.name), &failure),
        };
        let options = self.run.options;
        let action = plan::decide(&entry, existing.as_ref(), options.overwrite, options.special);
        let identity = existing.as_ref().map(|existing| Identity::of(&existing.stat));
        let check = options.verify && !options.dry_run && matches!(entry.node, Node::File(_));
        let start = match action {
            Action::Leave | Action::Skip => {
                let verb = if action == Action::Leave { "kept" } else { "left out" };
                self.run.monitor.detail(verb, &join(above, &entry.name));
                return Ok(());
            }
            Action::Create => Start::Create { replace: false },
            Action::Replace => Start::Create { replace: true },
            Action::Update => Start::Update,
            Action::Attributes => Start::Keep { check },
            Action::Shared => match self.keeps_shared(target, directory, &entry, existing.as_ref())? {
                true => Start::Keep { check: false },
                false => Start::Create { replace: true },
            },
        };
        if matches!(start, Start::Create { .. }) && options.dry_run {
            self.would_create(&join(above, &entry.name), &entry);
            return Ok(());
        }
        self.push(directory, entry, start, identity.filter(|_| !matches!(start, Start::Create { .. })))
    }

    fn keeps_shared(
        &self,
        target: &Target,
        directory: &Arc<Directory>,
        entry: &Entry,
        existing: Option<&Existing>,
    ) -> Result<bool> {
        let Some(existing) = existing else { return Ok(false) };
        match shared::is_right(self.run, target, directory, entry, existing) {
            Ok(outcome) => Ok(outcome.unwrap_or(false)),
            // What cannot be compared is replaced, and named if it cannot be read then either.
            Err(error) if is_confined(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn would_create(&self, path: &[u8], entry: &Entry) {
        let is_device = matches!(entry.node, Node::CharacterDevice { .. } | Node::BlockDevice { .. });
        if is_device && !self.run.options.special {
            self.run.monitor.detail("left out", path);
            return;
        }
        let tally = &self.run.tally;
        let kind = if let Node::File(content) = &entry.node {
            add(&tally.written_bytes, content.size());
            &tally.files
        } else {
            &tally.others
        };
        super::finish::count(self.run, kind, path, (true, true));
    }

    /// Puts a job with all of its content into the batch, or into several.
    fn push(&mut self, directory: &Arc<Directory>, entry: Entry, start: Start, found: Option<Identity>) -> Result<()> {
        let digest = entry.attributes.hard_link.map(|link| (link, digest(&entry.node)));
        let place = Arc::new(Place::new(directory.clone(), &entry.name));
        if let Some(found) = found {
            place.set_identity(found);
        }
        if let Some((link, digest)) = digest.filter(|(link, _)| link.names > 1) {
            let group = Group { first: place.clone(), digest, names_left: link.names - 1 };
            self.groups.entry((link.device, link.inode)).or_insert(group);
        }
        let (size, spans) = match &entry.node {
            Node::File(content @ (Content::Items { size, .. } | Content::List { size, .. })) => {
                let is_read = !matches!(start, Start::Keep { check: false }) && *size > 0;
                (*size, is_read.then(|| content.clone()))
            }
            Node::File(Content::Inline(bytes)) => (bytes.len() as u64, None),
            _ => (0, None),
        };
        let job = Arc::new(Job {
            place,
            attributes: entry.attributes,
            node: if spans.is_some() { Node::File(Content::Inline(Vec::new())) } else { entry.node },
            size,
            start,
            has_spans: spans.is_some(),
            touched: AtomicBool::new(false),
            finished: AtomicBool::new(false),
            written: AtomicU64::new(0),
            counted: AtomicU64::new(0),
            renewing: Mutex::new(()),
        });
        self.batch.push_job(job.clone());
        if let Some(content) = spans {
            self.batch.is_open = true;
            let pushed = self.push_spans(&job, &content);
            self.batch.is_open = false;
            pushed?;
        }
        self.flush_if_full()
    }

    fn push_spans(&mut self, job: &Job, content: &Content) -> Result<()> {
        let mut expected = 0;
        let run = self.run;
        let visited = run.reader.items(content, 0..job.size, &mut |offset, item| {
            let (len, slice) = (item.covers(), item.slice());
            let is_too_long = slice.is_some_and(|slice| slice.len > content::CHUNK_BYTES_MAX);
            if is_too_long || matches!(item, Item::List { .. }) {
                return Err(Error::corrupt("its list of chunks", "an item is out of place"));
            }
            if offset != expected || job.size - expected < len {
                return Err(Error::corrupt("its list of chunks", "it does not cover the file"));
            }
            expected += len;
            self.batch.push_span(offset, len, slice);
            self.flush_if_full()?;
            Ok(if job.place.has_failed() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        });
        match visited {
            Ok(()) if expected == job.size => {}
            Ok(()) => job.place.fail("its list of chunks does not cover it"),
            Err(error) if is_confined(&error) => job.place.fail(error),
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// The first name of the file that an entry is a further name of.
    fn first_name(&mut self, entry: &Entry) -> Option<Arc<Place>> {
        let HardLink { device, inode, .. } = entry.attributes.hard_link?;
        let group = self.groups.get_mut(&(device, inode))?;
        if group.digest != digest(&entry.node) {
            return None;
        }
        let first = group.first.clone();
        group.names_left -= 1;
        if group.names_left == 0 {
            self.groups.remove(&(device, inode));
        }
        Some(first)
    }

    fn flush_if_full(&mut self) -> Result<()> {
        if self.batch.is_full() { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<()> {
        self.run.check_interrupted()?;
        let batch = self.batch.take();
        self.target.map_or(Ok(()), |target| write::execute(self.run, target, &batch))
    }

    /// The names that an existing directory holds, if surplus ones are to go.
    fn surplus(&self, frame: &Frame) -> Result<Surplus> {
        let mut surplus = Surplus { names: Vec::new().into_iter().peekable() };
        if let (true, false, Some(directory), Some(target)) =
            (self.run.options.delete, frame.created, &frame.directory, self.target)
        {
            match target.names(directory) {
                Ok(names) => surplus.names = names.into_iter().peekable(),
                Err(failure) => self.run.failed(displayed(&frame.path), &failure)?,
            }
        }
        Ok(surplus)
    }
}

/// The names of a directory in the target that the snapshot has not mentioned yet, ascending as the snapshot's are.
struct Surplus {
    names: std::iter::Peekable<std::vec::IntoIter<Vec<u8>>>,
}

impl Surplus {
    /// Removes all names before one that the snapshot has; all that are left at its end.
    fn before(&mut self, walk: &Walk<'_>, frame: &Frame, kept: Option<&Vec<u8>>) -> Result<()> {
        let (Some(directory), Some(target)) = (&frame.directory, walk.target) else { return Ok(()) };
        while let Some(name) = self.names.next_if(|name| kept.is_none_or(|kept| name < kept)) {
            remove::surplus(walk.run, target, directory, &name)?;
        }
        self.names.next_if(|name| Some(name) == kept);
        Ok(())
    }
}

fn look(target: &Target, directory: &Arc<Directory>, name: &[u8]) -> Outcome<Option<Existing>> {
    let Some(stat) = target.stat(directory, name)? else { return Ok(None) };
    let is_symlink = FileType::from_raw_mode(stat.st_mode) == FileType::Symlink;
    let link_target = if is_symlink { Some(target.read_link(directory, name)?) } else { None };
    Ok(Some(Existing { stat, link_target }))
}

/// Of all that the names of one file must agree in.
fn digest(node: &Node) -> blake3::Hash {
    let entry = Entry { name: b"x".to_vec(), attributes: Attributes::default(), node: node.clone() };
    blake3::hash(&entry.encode())
}

/// An error of what is read, not of the reading: other files are not concerned.
fn is_confined(error: &Error) -> bool {
    error.is_damage() || matches!(error, Error::Unsupported { .. } | Error::Invalid { .. })
}

fn join(path: &[u8], name: &[u8]) -> Vec<u8> {
    if path.is_empty() { name.to_vec() } else { [path, name].join(&b'/') }
}

fn displayed(path: &[u8]) -> &[u8] {
    if path.is_empty() { b"." } else { path }
}
