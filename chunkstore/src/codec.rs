//! Content to record and back: compression, padding, sealing, and the checks of opening (`docs/format.md`, section 8).
//!
//! `Sealer` and `Opener` are mirror images. Both may be used from several threads at once.

mod compress;

mod pad;

mod payload;

use crate::capsule::Capsule;
use crate::cipher::Cipher;
use crate::configuration::{Configuration, Suite};
use crate::error::{Error, Result};
use crate::id::{BlobId, CapsuleId, Tag};
use crate::key::{Keys, OpeningKey, WriteKey, random};
use crate::record::{AUTHENTICATOR_LEN, CONTENT_BYTES_MAX, Header, Kind, Record, check_links};
pub use compress::Differ;
pub use payload::Part;
use payload::{BASES_MAX, Base, Codec, PARTS_MAX, Payload, decode_delta, decode_parts, encode_delta, encode_parts};
use std::cell::Cell;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

/// What a delta must be to be stored.
struct Worth {
    /// At most this part of its content: shorter than the content alone, as far as that can be said without trying.
    certain_part: usize,
    /// Otherwise at most this share of what the content alone becomes: numerator, denominator.
    share: [usize; 2],
}

/// Of a delta that others can be made from.
const WORTH: Worth = Worth { certain_part: 8, share: [3, 4] };
/// Of the last of a chain: what is stored whole begins the next one.
const WORTH_OF_LAST: Worth = Worth { certain_part: 16, share: [1, 5] };

/// Session keys that an [`Opener`] keeps, at most.
const SESSIONS_MAX: usize = 4096;

/// How hard a sealer tries to make contents small. Names and readers do not depend on it: it may change at any time.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Level(u8);

impl Level {
    /// Nothing is compressed.
    pub const RAW: Level = Level(0);
    /// On chunks of 64 KiB a twelfth larger than what zstd makes at level 3, in about half the time.
    pub const FASTEST: Level = Level(1);
    pub const MAX: Level = Level(19);

    /// A level of zstd, from 1 to [`Level::MAX`].
    pub fn new(level: u8) -> Option<Level> {
        (Level::FASTEST.0..=Level::MAX.0).contains(&level).then_some(Level(level))
    }

    pub fn number(self) -> u8 {
        self.0
    }
}

/// What a new chunk may be a delta of.
#[derive(Default)]
pub struct Bases {
    /// With all of their contents.
    list: Vec<(BlobId, Arc<Vec<u8>>)>,
    /// If these are parts, which of each; the same chunk may be there several times.
    ranges: Vec<Range<usize>>,
    prefix: Arc<Vec<u8>>,
}

impl Bases {
    /// Stored chunks, up to three, that it resembles, with their contents, the most similar last.
    pub fn new(list: Vec<(BlobId, Arc<Vec<u8>>)>) -> Bases {
        let prefix = joined(list.iter().map(|(_, content)| Arc::clone(content)).collect());
        Bases { list, ranges: Vec::new(), prefix }
    }

    /// Parts of stored chunks, of which the first [`Bases::PARTS_MAX`] count.
    pub fn of_parts(mut parts: Vec<Part>) -> Bases {
        parts.truncate(Bases::PARTS_MAX);
        let prefix = parts.iter().map(Part::bytes).collect::<Vec<_>>().concat();
        let ranges = parts.iter().map(|part| part.range.clone()).collect();
        Bases { list: parts.into_iter().map(|part| (part.id, part.chunk)).collect(), ranges, prefix: Arc::new(prefix) }
    }

    pub const PARTS_MAX: usize = PARTS_MAX;

    fn codec(&self) -> Codec {
        if self.ranges.is_empty() { Codec::Delta } else { Codec::Parts }
    }

    fn are_possible(&self) -> bool {
        let most = if self.ranges.is_empty() { BASES_MAX } else { PARTS_MAX };
        (1..=most).contains(&self.list.len()) && (self.ranges.is_empty() || self.prefix.len() <= CONTENT_BYTES_MAX)
    }

    fn links(&self) -> Vec<BlobId> {
        let mut ids: Vec<BlobId> = self.list.iter().map(|(id, _)| *id).collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    fn body(&self, frame: &[u8]) -> Vec<u8> {
        let ids = self.list.iter().map(|(id, _)| id);
        if self.ranges.is_empty() { encode_delta(ids, frame) } else { encode_parts(ids.zip(&self.ranges), frame) }
    }

    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }
}

/// One writing session: its key, its capsule, its nonce counter.
pub struct Sealer {
    pub key: WriteKey,
    pub capsule: Capsule,
    level: AtomicU8,
    suite: Suite,
    cipher: Cipher,
    counter: AtomicU64,
}

impl Sealer {
    /// A fresh session key, sealed to all recipients.
    pub fn new(key: &WriteKey, configuration: &Configuration) -> Result<Sealer> {
        if key.repository != configuration.repository {
            return Err(Error::invalid("session", "the key is another repository's"));
        }
        let session_key = random()?;
        Ok(Sealer {
            key: key.clone(),
            capsule: Capsule::seal(&session_key, &key.repository, &key.recipients)?,
            level: AtomicU8::new(Level::FASTEST.0),
            suite: configuration.suite,
            cipher: Cipher::new(configuration.suite, &session_key)?,
            counter: AtomicU64::new(0),
        })
    }

    /// For contents from now on; [`Level::FASTEST`] before.
    pub fn set_level(&self, level: Level) {
        self.level.store(level.0, Ordering::Relaxed);
    }

    /// What zstd calls it; `None` for raw.
    fn level(&self) -> Option<i32> {
        Some(self.level.load(Ordering::Relaxed)).filter(|level| *level > 0).map(i32::from)
    }

    /// Compresses and seals; `links` in any order, duplicates allowed. `tag` must be that of the content
    /// ([`WriteKey::tag`]): it was asked for before.
    ///
    /// Opens the record again from memory and compares the tag before returning it, so that a fault of the encoder,
    /// the memory or the caller is found while the source is still there. That takes a third of the time: on chunks of a
    /// database dump 320 MB/s a thread instead of 480, on noise 1,050 instead of 2,300.
    pub fn seal(&self, kind: Kind, tag: Tag, content: &[u8], links: &[BlobId]) -> Result<Record> {
        check_content_len(content)?;
        self.seal_frame(kind, tag, content, links, self.compress(content, content.len()))
    }

    /// Seals a chunk alone, at this level at least, unless nothing is to be compressed.
    pub fn seal_chunk(&self, tag: Tag, content: &[u8], least: Level) -> Result<Record> {
        check_content_len(content)?;
        let level = self.level().map(|level| level.max(i32::from(least.0)));
        let frame = level.and_then(|level| compress_worthily(content, content.len(), level));
        self.seal_frame(Kind::Chunk, tag, content, &[], frame)
    }

    /// A frame of at most `limit` bytes that is worth having.
    fn compress(&self, content: &[u8], limit: usize) -> Option<Vec<u8>> {
        compress_worthily(content, limit, self.level()?)
    }

    fn seal_frame(
        &self,
        kind: Kind,
        tag: Tag,
        content: &[u8],
        links: &[BlobId],
        frame: Option<Vec<u8>>,
    ) -> Result<Record> {
        let frame = frame.filter(|frame| Payload::encoded_len(frame.len()) < Payload::encoded_len(content.len()));
        let (codec, body) = frame.as_deref().map_or((Codec::Raw, content), |frame| (Codec::Zstd, frame));
        let payload = Payload { kind, codec, plain_len: content.len(), body };
        let record = self.seal_payload(&payload, tag, links.to_vec())?;
        self.check(&record, kind, &|id| Err(Error::missing(format!("blob {id}"))))?;
        Ok(record)
    }

    /// Seals a chunk as what differs from its bases, up to three stored chunks with their contents, the most similar last. Whether
    /// that is smaller than the chunk alone is for the caller to see.
    pub fn seal_delta(&self, tag: Tag, content: &[u8], bases: &[(BlobId, Arc<Vec<u8>>)]) -> Result<Record> {
        check_content_len(content)?;
        let bases = Bases::new(bases.to_vec());
        if !bases.are_possible() {
            return Err(Error::invalid("a delta", format!("{} bases", bases.list.len())));
        }
        let body = delta_body(content, &bases, self.level().unwrap_or(0), &mut Differ::default());
        let body = body.ok_or_else(|| Error::invalid("a delta", "its content cannot be compressed"))?;
        self.seal_delta_body(tag, content, &body, &bases)
    }

    /// Seals a chunk as a delta if that pays (`docs/delta.md`), alone otherwise. A delta is the record that has links. From the last of a
    /// chain no other will be made.
    pub fn seal_similar<'b>(
        &self,
        tag: Tag,
        content: &[u8],
        bases: &'b Bases,
        is_last: bool,
        differ: &mut Differ<'b>,
    ) -> Result<Record> {
        check_content_len(content)?;
        let level = self.level().filter(|_| bases.are_possible());
        let Some(body) = level.and_then(|level| delta_body(content, bases, level, differ)) else {
            return self.seal(Kind::Chunk, tag, content, &[]);
        };
        // Its bases are named in clear too.
        let delta_len = body.len() + bases.links().len() * BlobId::LEN;
        let Worth { certain_part, share: [share, of] } = if is_last { WORTH_OF_LAST } else { WORTH };
        if delta_len <= content.len() / certain_part {
            return self.seal_delta_body(tag, content, &body, bases);
        }
        // A frame that is longer loses.
        match self.compress(content, delta_len / share * of) {
            None if delta_len <= content.len() / of * share => self.seal_delta_body(tag, content, &body, bases),
            None => self.seal(Kind::Chunk, tag, content, &[]),
            frame => self.seal_frame(Kind::Chunk, tag, content, &[], frame),
        }
    }

    fn seal_delta_body(&self, tag: Tag, content: &[u8], body: &[u8], bases: &Bases) -> Result<Record> {
        let payload = Payload { kind: Kind::Chunk, codec: bases.codec(), plain_len: content.len(), body };
        let record = self.seal_payload(&payload, tag, bases.links())?;
        self.check(&record, Kind::Chunk, &|id| {
            let base = bases.list.iter().find(|(base, _)| *base == id);
            base.map(|(_, content)| Arc::clone(content)).ok_or_else(|| Error::missing(format!("blob {id}")))
        })?;
        Ok(record)
    }

    /// What is inside a record that this session sealed: for a cache of its own ([`reopen`]).
    pub fn reveal(&self, record: &Record) -> Result<Vec<u8>> {
        if record.capsule != self.capsule.id {
            return Err(record.corrupt("another session sealed it"));
        }
        let opened =
            record.split().and_then(|(associated, sealed)| self.cipher.open(record.counter, associated, sealed));
        opened.ok_or_else(|| record.corrupt("the seal does not open: changed, or of another key"))
    }

    /// Seals a snapshot's details. `associated` makes, from the nonce counter, all that the seal authenticates besides; it
    /// comes back with the ciphertext, which is [`Sealer::DETAILS_OVERHEAD`] bytes longer than `plain`.
    pub fn seal_details(&self, associated: &dyn Fn(u64) -> Vec<u8>, plain: &[u8]) -> Result<(Vec<u8>, Vec<u8>)> {
        let counter = self.next_counter()?;
        let mut bytes = associated(counter);
        let start = bytes.len();
        bytes.extend_from_slice(plain);
        self.cipher.seal(counter, &mut bytes, start)?;
        let sealed = bytes.split_off(start);
        match self.cipher.open(counter, &bytes, &sealed) {
            Some(opened) if opened == plain => Ok((bytes, sealed)),
            _ => Err(fault()),
        }
    }

    pub const DETAILS_OVERHEAD: usize = AUTHENTICATOR_LEN;

    fn seal_payload(&self, payload: &Payload<'_>, tag: Tag, mut links: Vec<BlobId>) -> Result<Record> {
        links.sort_unstable();
        links.dedup();
        let counter = self.next_counter()?;
        let header = Header {
            suite: self.suite,
            class: payload.kind.class(),
            capsule: self.capsule.id,
            counter,
            links_len: links.len() * BlobId::LEN,
            payload_len: Payload::encoded_len(payload.body.len()) + AUTHENTICATOR_LEN,
            repository: self.key.repository,
            tag,
        };
        let bytes = header.encode(&links)?;
        let start = bytes.len();
        let mut bytes = payload.encode(bytes)?;
        self.cipher.seal(counter, &mut bytes, start)?;
        Record::parse(bytes, &self.key.repository)
    }

    /// What opens to the tag opens to the content that was asked to be sealed.
    fn check(&self, record: &Record, kind: Kind, base: &dyn Fn(BlobId) -> Result<Arc<Vec<u8>>>) -> Result<()> {
        open_record(&self.cipher, Some(&self.key), record, kind, base).map(|_| ()).map_err(|_| fault())
    }

    /// A counter that no other call was or will be given.
    fn next_counter(&self) -> Result<u64> {
        self.counter
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |counter| counter.checked_add(1))
            .map_err(|_| Error::invalid("session", "its key was used too often"))
    }
}

/// The content of a chunk from what [`Sealer::reveal`] gave; its tag is checked.
pub fn reopen(
    key: &WriteKey,
    revealed: &[u8],
    tag: Tag,
    base: &dyn Fn(BlobId) -> Result<Arc<Vec<u8>>>,
) -> Result<Vec<u8>> {
    let corrupt = |reason: &str| Error::corrupt("a cached chunk", reason);
    let payload = Payload::decode(revealed, "a cached chunk")?;
    let content = match payload.codec {
        Codec::Raw => (payload.body.len() == payload.plain_len).then(|| payload.body.to_vec()),
        Codec::Zstd => compress::decompress(payload.body, payload.plain_len),
        Codec::Delta | Codec::Parts => {
            let (bases, frame) = bases_and_frame(&payload, "a cached chunk")?;
            compress::decompress_delta(frame, &prefix_of(bases, base)?, payload.plain_len)
        }
    };
    let content = content.ok_or_else(|| corrupt("it cannot be decompressed"))?;
    if key.tag(payload.kind, &content) == tag { Ok(content) } else { Err(corrupt("it does not match its tag")) }
}

/// Whether what [`Sealer::reveal`] gave is a delta.
pub fn is_delta(revealed: &[u8]) -> bool {
    Payload::decode(revealed, "a cached chunk").is_ok_and(|payload| payload.codec.is_delta())
}

/// Opens records and snapshot details; keeps the session keys it has opened.
pub struct Opener {
    key: WriteKey,
    opening: OpeningKey,
    suite: Suite,
    sessions: RwLock<HashMap<CapsuleId, Arc<Cipher>>>,
}

impl Opener {
    /// [`Error::WriteOnly`](crate::Error::WriteOnly) if there is no opening key.
    pub fn new(keys: &Keys, configuration: &Configuration) -> Result<Opener> {
        let Some(opening) = keys.opening.clone() else {
            return Err(Error::WriteOnly { object: format!("repository {}", configuration.repository) });
        };
        let sessions = RwLock::new(HashMap::new());
        Ok(Opener { key: keys.write.clone(), opening, suite: configuration.suite, sessions })
    }

    /// The content, after every check but one: that a node's links are what its content names is for the reader who decodes
    /// it ([`check_links`]). `capsule` fetches a capsule that is not known yet, `base` the content of a delta's base; who
    /// gives `base` bounds the chain.
    pub fn open(
        &self,
        record: &Record,
        kind: Kind,
        capsule: &dyn Fn(CapsuleId) -> Result<Capsule>,
        base: &dyn Fn(BlobId) -> Result<Arc<Vec<u8>>>,
    ) -> Result<Vec<u8>> {
        self.require_suite(record)?;
        let cipher = self.session(record.capsule, capsule)?;
        open_record(&cipher, Some(&self.key), record, kind, base)
    }

    /// As [`Opener::open`], of a chunk on the way to another one that is made from it: its tag is not computed, since that of the other one is.
    pub fn open_between(
        &self,
        record: &Record,
        capsule: &dyn Fn(CapsuleId) -> Result<Capsule>,
        base: &dyn Fn(BlobId) -> Result<Arc<Vec<u8>>>,
    ) -> Result<Vec<u8>> {
        self.require_suite(record)?;
        let cipher = self.session(record.capsule, capsule)?;
        open_record(&cipher, None, record, Kind::Chunk, base)
    }

    fn require_suite(&self, record: &Record) -> Result<()> {
        if record.suite == self.suite {
            return Ok(());
        }
        Err(record.corrupt("its cipher suite is not the repository's"))
    }

    pub fn open_details(&self, capsule: &Capsule, counter: u64, associated: &[u8], sealed: &[u8]) -> Result<Vec<u8>> {
        let cipher = self.session(capsule.id, &|_| Ok(capsule.clone()))?;
        cipher.open(counter, associated, sealed).ok_or_else(|| {
            Error::corrupt("details of a snapshot", "the seal does not open: changed, or of another key")
        })
    }

    /// The tag of a content: for comparing what a target already holds.
    pub fn tag(&self, kind: Kind, content: &[u8]) -> Tag {
        self.key.tag(kind, content)
    }

    fn session(&self, id: CapsuleId, fetch: &dyn Fn(CapsuleId) -> Result<Capsule>) -> Result<Arc<Cipher>> {
        if let Some(cipher) = self.sessions.read().unwrap_or_else(PoisonError::into_inner).get(&id) {
            return Ok(Arc::clone(cipher));
        }
        let capsule = fetch(id)?;
        if capsule.id != id {
            return Err(Error::corrupt(format!("capsule {id}"), format!("capsule {} is in its place", capsule.id)));
        }
        let session_key = capsule.open(&self.key.repository, &self.opening)?;
        let cipher = Arc::new(Cipher::new(self.suite, &session_key)?);
        let mut sessions = self.sessions.write().unwrap_or_else(PoisonError::into_inner);
        if sessions.len() >= SESSIONS_MAX {
            sessions.clear();
        }
        sessions.insert(id, Arc::clone(&cipher));
        Ok(cipher)
    }
}

/// A buffer up to this size is kept by each thread for what is inside the next seal.
const OPENED_BYTES_MAX: usize = 1 << 20;

thread_local! {
    static OPENED: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Everything between the session key and the content, in the order that the format gives. With no `key` the tag is not compared.
fn open_record(
    cipher: &Cipher,
    key: Option<&WriteKey>,
    record: &Record,
    kind: Kind,
    base: &dyn Fn(BlobId) -> Result<Arc<Vec<u8>>>,
) -> Result<Vec<u8>> {
    // Nested calls, for bases, find none and take a new one.
    let mut buffer = OPENED.take();
    let opened = record
        .split()
        .and_then(|(associated, sealed)| cipher.open_into(record.counter, associated, sealed, &mut buffer));
    let plain = opened.ok_or_else(|| record.corrupt("the seal does not open: changed, or of another key"))?;
    let payload = Payload::decode(plain, "a payload").map_err(|error| record.corrupt(error.to_string()))?;
    let content = open_body(record, &payload, base)?;
    if key.is_some_and(|key| key.tag(payload.kind, &content) != record.tag) {
        return Err(record.corrupt("its content does not match its tag"));
    }
    if payload.kind != kind || kind.class() != record.class {
        return Err(record.corrupt(format!("it is a {:?} where a {kind:?} should be", payload.kind)));
    }
    if kind == Kind::Chunk && !payload.codec.is_delta() {
        check_links(record, Vec::new())?;
    }
    if buffer.len() <= OPENED_BYTES_MAX {
        OPENED.set(buffer);
    }
    Ok(content)
}

fn open_body(record: &Record, payload: &Payload<'_>, base: &dyn Fn(BlobId) -> Result<Arc<Vec<u8>>>) -> Result<Vec<u8>> {
    let content = match payload.codec {
        Codec::Raw => (payload.body.len() == payload.plain_len).then(|| payload.body.to_vec()),
        Codec::Zstd => compress::decompress(payload.body, payload.plain_len),
        Codec::Delta | Codec::Parts => {
            let (bases, frame) =
                bases_and_frame(payload, "a delta").map_err(|error| record.corrupt(error.to_string()))?;
            // Before anything is fetched: what is not among the links may not be there.
            check_links(record, bases.iter().map(|(id, _)| *id).collect())?;
            compress::decompress_delta(frame, &prefix_of(bases, base)?, payload.plain_len)
        }
    };
    content.ok_or_else(|| record.corrupt(format!("it does not hold {} bytes of content", payload.plain_len)))
}

fn bases_and_frame<'p>(payload: &Payload<'p>, object: &'static str) -> Result<(Vec<Base>, &'p [u8])> {
    match payload.codec {
        Codec::Parts => decode_parts(payload.body, object),
        _ => decode_delta(payload.body, object),
    }
}

/// The contents of bases, or parts of them, one after the other.
fn prefix_of(bases: Vec<Base>, base: &dyn Fn(BlobId) -> Result<Arc<Vec<u8>>>) -> Result<Arc<Vec<u8>>> {
    if bases.iter().all(|(_, range)| range.is_none()) {
        return Ok(joined(bases.into_iter().map(|(id, _)| base(id)).collect::<Result<Vec<_>>>()?));
    }
    let mut prefix = Vec::new();
    for (id, range) in bases {
        let content = base(id)?;
        let part = content.get(range.unwrap_or(0..content.len()));
        prefix.extend_from_slice(part.ok_or_else(|| Error::corrupt(format!("blob {id}"), "a delta needs more of it"))?);
    }
    Ok(Arc::new(prefix))
}

/// One alone is not copied.
fn joined(mut contents: Vec<Arc<Vec<u8>>>) -> Arc<Vec<u8>> {
    match contents.pop() {
        Some(only) if contents.is_empty() => only,
        last => Arc::new(contents.iter().chain(&last).map(|content| content.as_slice()).collect::<Vec<_>>().concat()),
    }
}

fn delta_body<'b>(content: &[u8], bases: &'b Bases, level: i32, differ: &mut Differ<'b>) -> Option<Vec<u8>> {
    let frame = differ.compress(content, &bases.prefix, level)?;
    Some(bases.body(&frame))
}

fn compress_worthily(content: &[u8], limit: usize, level: i32) -> Option<Vec<u8>> {
    // Below this saving reading back costs more than the space is worth.
    compress::compress(content, limit.min(content.len() - content.len() / 50), level)
}

fn check_content_len(content: &[u8]) -> Result<()> {
    if content.len() > CONTENT_BYTES_MAX {
        return Err(Error::invalid("content of a record", format!("{} bytes exceed 16 MiB", content.len())));
    }
    Ok(())
}

/// What was just sealed does not open to the same.
fn fault() -> Error {
    Error::corrupt(
        "a record just sealed",
        "it does not open to what was sealed; is the memory or the processor faulty?",
    )
}

#[cfg(test)]
mod tests;
