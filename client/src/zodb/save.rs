//! One snapshot of a storage: its file up to the last committed transaction first, then the blobs of those transactions.
//!
//! Whoever packs meanwhile puts another file in the storage's place before removing blobs. So if the file is still in place at the end,
//! a blob that was not there is missing; if it is not, all is done again.

use super::blobs::{Blobs, is_lawn, path_of};
use super::known::{Known, Place, TAIL_BYTES_MAX};
use super::scan::{BlobName, Found, Scan};
use super::site::{Site, index_of};
use super::storage::{Forward, Storage, Tail};
use super::transaction::{RECORD_LEN, Record, Tid};
use super::{index, lock, pickle};
use crate::backup::special::{Depot, Keep, Made, Prepared, Tree, Walked, compose};
use crate::backup::{Context, FilesOptions, Outcome, Request};
use crate::metadata::capture::Stat;
use chunkstore::tree::Content;
use chunkstore::writer::ListBuilder;
use chunkstore::{Error, Result};
use rustix::fs::CWD;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// When the storage is replaced meanwhile, all is done again so many times.
const TRIES: usize = 5;
/// A transaction that is being written is waited for so many times.
const LOOKS: usize = 30;
const NAP: Duration = Duration::from_millis(100);

/// What came of it.
#[derive(Default, Debug)]
pub struct Saved {
    pub outcome: Outcome,
    pub coverage: Coverage,
}

/// Which part of the storage is in the snapshot.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Coverage {
    pub transactions: u64,
    pub first: Option<Tid>,
    pub last: Option<Tid>,
    /// Bytes of the storage's file: the end of the last transaction.
    pub end: u64,
    /// The content was gone on with from here; 0: all of it was read.
    pub read_from: u64,
    /// Bytes read of the storage's file.
    pub read_bytes: u64,
    /// Revisions of blobs that the transactions name, and those of them whose file is not there.
    pub blobs: u64,
    pub blobs_missing: u64,
    /// The storage's index was saved with it.
    pub index: bool,
}

/// Saves a storage. Ends incomplete (problems > 0) if a blob is missing or the file is torn; fails if the file is damaged.
pub fn save(context: &Context<'_>, request: &Request, site: &Site) -> Result<Saved> {
    let result = Mutex::new(None);
    for tries_left in (0..TRIES).rev() {
        let outcome = compose(context, request, &|depot| {
            let attempt = Attempt { context, request, site, is_last: tries_left == 0 };
            let Some(done) = attempt.run(depot)? else { return Ok(None) };
            let facts = facts(site, &done.coverage);
            *result.lock().unwrap_or_else(PoisonError::into_inner) = Some((done.coverage, done.place, done.known));
            Ok(Some(Made { walked: done.walked, facts }))
        })?;
        let done = result.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let (Some(outcome), Some((coverage, place, known))) = (outcome, done) {
            if let (Some(_), Some(known)) = (outcome.snapshot, known) {
                place.write(&known);
            }
            return Ok(Saved { outcome, coverage });
        }
        context.monitor.detail("again, packed meanwhile", site.data_fs.as_os_str().as_bytes());
    }
    Err(Error::invalid(site.data_fs.display().to_string(), "it is replaced again and again"))
}

struct Attempt<'a> {
    context: &'a Context<'a>,
    request: &'a Request,
    site: &'a Site,
    /// What is found then counts.
    is_last: bool,
}

struct Done {
    walked: Walked,
    coverage: Coverage,
    place: Place,
    known: Option<Known>,
}

/// The storage's file in the repository.
struct Stored {
    content: Content,
    found: Found,
    end: u64,
    tail: Tail,
    read_from: u64,
    /// The last bytes.
    recent: Vec<u8>,
    /// None: it is too small to go on with.
    growing: Option<ListBuilder>,
    /// It was longer the last time.
    shrunk_from: Option<u64>,
}

impl Attempt<'_> {
    /// `None`: the storage was replaced meanwhile.
    fn run(&self, depot: &mut Depot<'_>) -> Result<Option<Done>> {
        if !self.is_last {
            depot.hold_problems();
        }
        let generation = self.context.store.generation()?;
        let storage = Storage::open(&self.site.data_fs)?;
        let place = Place::new(self.context, self.request, &storage);
        self.context.monitor.current(storage.path.as_os_str().as_bytes());
        let mut stored = self.store(depot, &storage, &place, generation)?;
        resolve(&storage, &mut stored.found)?;
        let (_, attributes) = depot.attributes(storage.path.as_os_str().as_bytes(), &storage.file)?;
        let prepared = vec![Prepared { path: storage.path.clone(), attributes, content: stored.content.clone() }];
        let blobs = Blobs::new(std::mem::take(&mut stored.found.blobs));
        stored.found.blobs = blobs.names().to_vec();
        let index = self.index(&storage, stored.end)?;
        let walked = self.walk(depot, prepared, &blobs, index.as_ref().map(|(path, _)| path.clone()))?;
        let is_replaced = !storage.is_in_place(stored.end) || index.as_ref().is_some_and(has_changed);
        if is_replaced && !self.is_last {
            return Ok(None);
        }
        let missing = self.report(depot, &storage, &stored, &blobs)?;
        let known = remember(&storage, &stored, generation);
        let read_bytes = storage.read_bytes.load(Ordering::Relaxed);
        depot.count_read(read_bytes);
        let coverage = Coverage {
            transactions: stored.found.transactions,
            first: stored.found.first,
            last: stored.found.last.map(|last| last.tid),
            end: stored.end,
            read_from: stored.read_from,
            read_bytes,
            blobs: blobs.names().len() as u64,
            blobs_missing: missing,
            index: index.is_some(),
        };
        Ok(Some(Done { walked, coverage, place, known }))
    }

    /// Reads what is new, or all.
    fn store(&self, depot: &Depot<'_>, storage: &Storage, place: &Place, generation: [u8; 16]) -> Result<Stored> {
        let known = place.read();
        let is_same_file = |known: &Known| (known.device, known.inode) == (storage.stat.device, storage.stat.inode);
        let shrunk = known.as_ref().filter(|known| is_same_file(known) && storage.stat.size < known.end);
        let shrunk_from = shrunk.map(|known| known.end);
        if storage.stat.size <= depot.inline_bytes_max() {
            let mut forward = Forward::whole(storage);
            let content = depot.content(&storage.name(), &mut |buffer| forward.read(buffer))?;
            return Ok(Stored::new(content, forward, 0, None, shrunk_from));
        }
        let mut begun = None;
        if let Some(known) = known {
            let is_stored = known.generation == generation && depot.trusts();
            if is_stored || depot.are_present(&known.growing.links())? {
                begun = known.proves(storage)?.map(|(before, window)| (known, before, window));
            }
        }
        let (list, mut forward) = match begun {
            Some((known, before, window)) => {
                let (resume, end) = (known.resume(), known.end);
                depot.count_bytes(resume);
                let scan = Scan::new(storage.name(), end, known.found);
                (known.growing, Forward::new(storage, resume, end, scan, before, window))
            }
            None => (ListBuilder::new(), Forward::whole(storage)),
        };
        let read_from = list.size();
        let grown = depot.grow(list, TAIL_BYTES_MAX, &mut |buffer| forward.read(buffer))?;
        Ok(Stored::new(grown.content, forward, read_from, Some(grown.growing), shrunk_from))
    }

    fn index(&self, storage: &Storage, end: u64) -> Result<Option<(PathBuf, Stat)>> {
        let path = index_of(&storage.path);
        let Ok(stat) = Stat::at(CWD, path.as_os_str().as_bytes()) else { return Ok(None) };
        let is_valid = stat.is_regular() && index::position(&path, storage, end)?.is_some();
        Ok(is_valid.then_some((path, stat)))
    }

    fn walk(
        &self,
        depot: &mut Depot<'_>,
        prepared: Vec<Prepared>,
        blobs: &Blobs,
        index: Option<PathBuf>,
    ) -> Result<Walked> {
        let directory = self.site.blobs.as_ref().map(|path| [path.as_os_str().as_bytes(), b"/"].concat());
        let keep = |path: &[u8], is_directory: bool| {
            let below = directory.as_ref().and_then(|directory| path.strip_prefix(directory.as_slice()));
            below.is_some_and(|below| blobs.keep(below, is_directory))
        };
        let keep: &Keep<'_> = &keep;
        let paths = [Some(self.site.data_fs.clone()), index, self.site.blobs.clone()];
        let options = FilesOptions { paths: paths.into_iter().flatten().collect(), ..FilesOptions::default() };
        depot.walk(&Tree { options: &options, prepared, keep: Some(keep) })
    }

    /// What is not as it should be. How many blobs are missing.
    fn report(&self, depot: &Depot<'_>, storage: &Storage, stored: &Stored, blobs: &Blobs) -> Result<u64> {
        let name = storage.path.as_os_str().as_bytes();
        if let Some(known) = stored.shrunk_from {
            let reason =
                format!("the same file had {known} bytes of transactions the last time: it was cut short since");
            depot.problem(name, &reason);
        }
        if let Tail::Torn(bytes) | Tail::Unfinished(bytes) = stored.tail
            && self.is_torn(depot, storage, stored)?
        {
            let reason = format!(
                "its last transaction is torn: the {bytes} bytes from {} on are not a whole one; what is before is saved",
                stored.end
            );
            depot.problem(name, &reason);
        }
        let Some(directory) = &self.site.blobs else {
            let count = blobs.names().len();
            if count > 0 {
                let reason = format!("it names {count} blobs, and where they are is not known: give --blobs DIR");
                depot.problem(name, &reason);
            }
            return Ok(count as u64);
        };
        let mut count = 0;
        let mut lawn = None;
        for missing in blobs.missing() {
            let lawn = *lawn.get_or_insert_with(|| is_lawn(directory));
            let path = path_of(directory, lawn, missing);
            let reason = format!("blob is missing: transaction {} names it", missing.tid);
            depot.problem(path.as_os_str().as_bytes(), &reason);
            count += 1;
        }
        Ok(count)
    }

    /// Whether nobody is about to finish the last transaction.
    fn is_torn(&self, depot: &Depot<'_>, storage: &Storage, stored: &Stored) -> Result<bool> {
        for look in 0..LOOKS {
            let size = Stat::at(CWD, storage.path.as_os_str().as_bytes()).map_or(0, |stat| stat.size);
            if size <= stored.end || storage.transaction(stored.end, size)?.is_some() {
                return Ok(false);
            }
            let is_unfinished = matches!(stored.tail, Tail::Unfinished(_));
            if !is_unfinished || look == 0 && lock::holder(&storage.path).is_some() {
                return Ok(!is_unfinished);
            }
            depot.check()?;
            std::thread::sleep(NAP);
        }
        Ok(true)
    }
}

impl Stored {
    fn new(
        content: Content,
        forward: Forward<'_>,
        read_from: u64,
        growing: Option<ListBuilder>,
        shrunk_from: Option<u64>,
    ) -> Stored {
        let recent = forward.recent().to_vec();
        let Forward { scan, end, tail, .. } = forward;
        Stored { content, found: scan.found, end, tail, read_from, recent, growing, shrunk_from }
    }
}

fn has_changed((path, before): &(PathBuf, Stat)) -> bool {
    Stat::at(CWD, path.as_os_str().as_bytes()).ok().as_ref() != Some(before)
}

/// Looks up what records have that only name the position of another: after an undo, and in packed storages.
pub fn resolve(storage: &Storage, found: &mut Found) -> Result<()> {
    for (name, mut position) in std::mem::take(&mut found.borrowed) {
        while position != 0 {
            let head = storage.read_array::<RECORD_LEN>(position)?.map(|head| Record::decode(&head));
            let Some(record) = head.filter(|record| record.oid == name.oid) else {
                return Err(not_there(storage, name, position));
            };
            let mut data = [0; pickle::HEAD_LEN];
            let wanted = usize::try_from(record.body_len()).unwrap_or(usize::MAX).min(data.len());
            let data = data.get_mut(..wanted).unwrap_or_default();
            storage.read_at(data, position + RECORD_LEN as u64)?;
            if record.data_len > 0 {
                if pickle::is_blob(data) {
                    found.blobs.push(name);
                }
                break;
            }
            let next = data.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes));
            if next >= position {
                return Err(not_there(storage, name, next));
            }
            position = next;
        }
    }
    Ok(())
}

fn not_there(storage: &Storage, name: BlobName, position: u64) -> Error {
    let object = format!("{}: object {:016x} in transaction {}", storage.name(), name.oid, name.tid);
    Error::corrupt(object, format!("its data should be at {position}, where it is not"))
}

/// What the next run needs to go on from here.
fn remember(storage: &Storage, stored: &Stored, generation: [u8; 16]) -> Option<Known> {
    let growing = stored.growing.as_ref().filter(|_| stored.found.last.is_some())?;
    Some(Known {
        generation,
        device: storage.stat.device,
        inode: storage.stat.inode,
        end: stored.end,
        tail_len: u32::try_from(stored.recent.len()).ok()?,
        tail_hash: *blake3::hash(&stored.recent).as_bytes(),
        growing: growing.clone(),
        found: stored.found.clone(),
    })
}

fn facts(site: &Site, coverage: &Coverage) -> Vec<(String, Vec<u8>)> {
    let path = |path: &PathBuf| path.as_os_str().as_bytes().to_vec();
    let mut facts: Vec<(&str, Vec<u8>)> = vec![
        ("zodb.data_fs", path(&site.data_fs)),
        ("zodb.root", path(&site.root)),
        ("zodb.transactions", text(coverage.transactions)),
        ("zodb.end", text(coverage.end)),
        ("zodb.read.from", text(coverage.read_from)),
        ("zodb.read.bytes", text(coverage.read_bytes)),
        ("zodb.blobs.count", text(coverage.blobs)),
        ("zodb.blobs.missing", text(coverage.blobs_missing)),
    ];
    facts.extend(site.blobs.as_ref().map(|blobs| ("zodb.blobs", path(blobs))));
    for (tid, keys) in
        [(coverage.first, ["zodb.first.tid", "zodb.first.time"]), (coverage.last, ["zodb.last.tid", "zodb.last.time"])]
    {
        if let Some(tid) = tid {
            facts.extend([(keys[0], text(tid)), (keys[1], text(tid.shown_time()))]);
        }
    }
    if coverage.index {
        facts.push(("zodb.index", path(&index_of(&site.data_fs))));
    }
    facts.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

fn text(value: impl ToString) -> Vec<u8> {
    value.to_string().into_bytes()
}
