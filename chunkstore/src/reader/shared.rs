//! Chunks that several threads want: each is opened once, whoever asks first, kept in the cache and handed out shared.
//!
//! A thread that finds a chunk being opened waits for it; if that fails, it tries itself and fails with its own reason. Chunks are opened
//! in the order asked, so whoever waits for several waits for the last one first and is woken once.
//! Lock order: those being loaded, then the cache.

use super::open::ids_of;
use super::{ChunkKey, Reader, damaged, lock};
use crate::error::Result;
use crate::id::Reference;
use crate::list::Slice;
use crate::record::Kind;
use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

/// Contents as they were found, or why not.
pub type Contents = HashMap<Reference, Result<Arc<Vec<u8>>>>;

/// Which chunks are being opened just now, and whether somebody waits for each.
#[derive(Default)]
pub(super) struct Loading {
    links: Mutex<HashMap<Reference, bool>>,
    settled: Condvar,
}

impl Reader {
    /// The contents of chunks, each asked of the store once however many threads want it; one that fails leaves others
    /// readable. That lengths are those of a file's items is for the caller to check.
    pub fn shared(&self, links: &[Reference]) -> Result<Contents> {
        let mut found = Contents::with_capacity(links.len());
        let (mut own, mut awaited) = (Vec::new(), Vec::new());
        {
            let mut loading = lock(&self.loading.links);
            let mut cache = lock(&self.chunks);
            let mut seen = HashSet::with_capacity(links.len());
            for link in links.iter().copied().filter(|link| seen.insert(*link)) {
                if let Some(content) = cache.find(&ChunkKey::Linked(link)) {
                    found.insert(link, Ok(content));
                } else if let Entry::Vacant(place) = loading.entry(link) {
                    place.insert(false);
                    own.push(link);
                } else {
                    awaited.push(link);
                }
            }
        }
        self.load(own, &mut found)?;
        for link in awaited.into_iter().rev() {
            let content = self.awaited(link)?;
            found.insert(link, content);
        }
        Ok(found)
    }

    /// The bytes of parts of chunks, in order, each as long as it says or an error. Chunks that are read in part are kept in the
    /// cache, since their other parts are likely to be wanted next.
    pub fn slices(&self, slices: &[Slice]) -> Result<Vec<Result<Vec<u8>>>> {
        let links: Vec<Reference> = slices.iter().map(|slice| slice.link).collect();
        if slices.iter().all(Slice::is_whole) {
            let fitting = |(chunk, slice): (Result<Vec<u8>>, &Slice)| {
                let chunk = chunk?;
                self.cut(slice, &chunk)?;
                Ok(chunk)
            };
            return Ok(self.chunks(&links)?.into_iter().zip(slices).map(fitting).collect());
        }
        let mut contents = self.shared(&links)?;
        Ok(slices.iter().map(|slice| self.part(slice, &mut contents).map(<[u8]>::to_vec)).collect())
    }

    /// The bytes of a slice, out of contents that were asked for. An error is handed on once.
    pub(super) fn part<'c>(&self, slice: &Slice, contents: &'c mut Contents) -> Result<&'c [u8]> {
        let link = slice.link;
        let failed = if matches!(contents.get(&link), Some(Ok(_))) { None } else { contents.remove(&link) };
        match (contents.get(&link), failed) {
            (Some(Ok(chunk)), _) => self.cut(slice, chunk),
            (_, Some(Err(error))) => Err(error),
            _ => Err(damaged(link.id, "it was not read")),
        }
    }

    /// The bytes of a slice out of its chunk, if they are what their tag says.
    pub fn cut<'c>(&self, slice: &Slice, chunk: &'c [u8]) -> Result<&'c [u8]> {
        let bytes = slice.of(chunk).ok_or_else(|| {
            damaged(slice.link.id, format!("it has not the {} bytes that its file announces", slice.len))
        })?;
        if slice.is_whole() || self.opener.tag(Kind::Chunk, bytes).half() == slice.tag {
            Ok(bytes)
        } else {
            Err(damaged(slice.link.id, format!("the {} bytes at {} are not its file's", slice.len, slice.offset)))
        }
    }

    /// Whether a chunk need not be fetched now: it is in the cache, or on its way there.
    pub fn is_at_hand(&self, link: &Reference) -> bool {
        lock(&self.loading.links).contains_key(link) || lock(&self.chunks).contains(&ChunkKey::Linked(*link))
    }

    /// Chunks that nobody is expected to ask for again give their room to others. To ask all the same only costs time.
    pub fn let_go(&self, links: &[Reference]) {
        let mut cache = lock(&self.chunks);
        links.iter().for_each(|link| cache.remove(&ChunkKey::Linked(*link)));
    }

    /// Opens chunks that this thread has entered as being loaded; others may have each as soon as it is there.
    fn load(&self, links: Vec<Reference>, found: &mut Contents) -> Result<()> {
        if links.is_empty() {
            return Ok(());
        }
        let mut claim = Claim { loading: &self.loading, left: links.iter().copied().collect() };
        let records = self.read_unproved(&ids_of(&links))?;
        let ahead = self.read_ahead(&records)?;
        for (link, record) in links.into_iter().zip(records) {
            let content = self.proved(link, record, &ahead).map(Arc::new);
            if let Ok(content) = &content {
                lock(&self.chunks).insert(ChunkKey::Linked(link), Arc::clone(content), content.len());
            }
            claim.settle(link);
            found.insert(link, content);
        }
        Ok(())
    }

    /// A chunk that another thread was loading.
    fn awaited(&self, link: Reference) -> Result<Result<Arc<Vec<u8>>>> {
        let mut loading = lock(&self.loading.links);
        while let Some(awaited) = loading.get_mut(&link) {
            *awaited = true;
            loading = self.loading.settled.wait(loading).unwrap_or_else(PoisonError::into_inner);
        }
        drop(loading);
        let cached = lock(&self.chunks).find(&ChunkKey::Linked(link));
        match cached {
            Some(content) => Ok(Ok(content)),
            // It failed, or had no room in the cache.
            None => Ok(self.chunks(&[link])?.pop().unwrap_or_else(|| Ok(Vec::new())).map(Arc::new)),
        }
    }
}

/// Those of this thread that are not settled; settles them when dropped, whatever happened.
struct Claim<'a> {
    loading: &'a Loading,
    left: HashSet<Reference>,
}

impl Claim<'_> {
    fn settle(&mut self, link: Reference) {
        self.left.remove(&link);
        if lock(&self.loading.links).remove(&link) == Some(true) {
            self.loading.settled.notify_all();
        }
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        if self.left.is_empty() {
            return;
        }
        let mut loading = lock(&self.loading.links);
        self.left.iter().for_each(|link| {
            loading.remove(link);
        });
        drop(loading);
        self.loading.settled.notify_all();
    }
}
