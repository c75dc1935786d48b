//! An immutable object of many records, with a trailer that tells where they lie (`docs/format.md`, section 10).

use crate::backend::{Backend, ObjectName};
use crate::capsule::Capsule;
use crate::coding::{Decoder, Encoder};
use crate::error::{Error, Result};
use crate::id::{BlobId, CapsuleId, PackId, RepositoryId, Tag};
use crate::record::{Class, Record};
use std::collections::BTreeMap;

/// No object of the repository is larger.
pub const PACK_BYTES_MAX: u64 = 64 << 20;
const ENTRIES_MAX: usize = 1 << 20;
const LINKS_MAX: usize = 65_536;
const FOOTER_LEN: usize = 16;
const FOOTER_MAGIC: &[u8; 8] = b"NKpack\0\x01";
/// What one read from the end usually covers.
const TAIL_BYTES: u64 = 128 << 10;

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PackEntry {
    pub id: BlobId,
    pub tag: Tag,
    pub offset: u32,
    pub length: u32,
    pub links: Vec<BlobId>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Trailer {
    pub class: Class,
    pub capsules: Vec<Capsule>,
    /// In offset order, without gaps.
    pub entries: Vec<PackEntry>,
}

/// A pack that is being filled, in memory.
pub struct PackBuilder {
    bytes: Vec<u8>,
    entries: Vec<PackEntry>,
    capsules: BTreeMap<CapsuleId, Capsule>,
    trailer_bytes: usize,
    /// Who put some of it is likely to read it before long.
    pub is_read_soon: bool,
}

impl PackBuilder {
    pub fn new() -> Self {
        PackBuilder::within(Vec::new())
    }

    /// With the memory of an object that is done with.
    pub fn within(mut bytes: Vec<u8>) -> Self {
        bytes.clear();
        let (entries, capsules) = (Vec::new(), BTreeMap::new());
        PackBuilder { bytes, entries, capsules, trailer_bytes: 64, is_read_soon: false }
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// True if the pack with this record would stay within the format's limits.
    pub fn has_room_for(&self, record: &Record, capsule: &Capsule) -> bool {
        let more = record.bytes.len() + entry_bytes(record) + capsule.bytes.len();
        self.entries.len() < ENTRIES_MAX && ((self.len() + more) as u64) < PACK_BYTES_MAX
    }

    /// The length the finished pack will about have.
    pub fn len(&self) -> usize {
        self.bytes.len() + self.trailer_bytes + FOOTER_LEN
    }

    /// The caller has checked [`PackBuilder::has_room_for`].
    pub fn push(&mut self, record: &Record, capsule: &Capsule) -> Result<()> {
        let too_large = |_| Error::invalid("pack", "it exceeds its limit");
        let offset = u32::try_from(self.bytes.len()).map_err(too_large)?;
        let length = u32::try_from(record.bytes.len()).map_err(too_large)?;
        self.trailer_bytes += entry_bytes(record);
        if self.capsules.insert(record.capsule, capsule.clone()).is_none() {
            self.trailer_bytes += capsule.bytes.len() + 2;
        }
        self.bytes.extend_from_slice(&record.bytes);
        self.entries.push(PackEntry { id: record.id, tag: record.tag, offset, length, links: record.links.clone() });
        Ok(())
    }

    /// The object, its name and its trailer.
    pub fn finish(self, class: Class, repository: &RepositoryId) -> Result<(PackId, Vec<u8>, Trailer)> {
        let trailer = Trailer { class, capsules: self.capsules.into_values().collect(), entries: self.entries };
        let encoded = trailer.encode(repository)?;
        let mut object = Encoder { bytes: self.bytes };
        object.raw(&encoded).u32(narrow(encoded.len())?).u8(1).raw(&[0; 3]).raw(FOOTER_MAGIC);
        let id = PackId(*blake3::hash(&object.bytes).as_bytes());
        Ok((id, object.bytes, trailer))
    }
}

impl Default for PackBuilder {
    fn default() -> Self {
        Self::new()
    }
}

fn entry_bytes(record: &Record) -> usize {
    76 + 32 * record.links.len()
}

fn narrow<T: TryFrom<usize>>(n: usize) -> Result<T> {
    T::try_from(n).map_err(|_| Error::invalid("pack", "a count exceeds its limit"))
}

impl Trailer {
    fn encode(&self, repository: &RepositoryId) -> Result<Vec<u8>> {
        let mut e = Encoder::new();
        e.raw(&repository.0).u8(self.class as u8).u16(narrow(self.capsules.len())?);
        for capsule in &self.capsules {
            e.u16(narrow(capsule.bytes.len())?).raw(&capsule.bytes);
        }
        e.u32(narrow(self.entries.len())?);
        for entry in &self.entries {
            e.raw(&entry.id.0).raw(&entry.tag.0).u32(entry.offset).u32(entry.length);
            e.u32(narrow(entry.links.len())?);
            for link in &entry.links {
                e.raw(&link.0);
            }
        }
        let hash = blake3::hash(&e.bytes);
        e.raw(hash.as_bytes());
        Ok(e.bytes)
    }

    /// `records_len` is what the entries must cover.
    fn decode(bytes: &[u8], records_len: u64, repository: &RepositoryId, object: &str) -> Result<Trailer> {
        let Some((body, hash)) = bytes.split_last_chunk::<32>() else {
            return Err(Error::corrupt(object, "its trailer is too short"));
        };
        if blake3::hash(body) != *hash {
            return Err(Error::corrupt(object, "the checksum of its trailer is wrong"));
        }
        let mut d = Decoder::new(body, object);
        if d.array()? != repository.0 {
            return Err(d.corrupt("it belongs to another repository"));
        }
        let class = match d.u8()? {
            0 => Class::Data,
            1 => Class::Node,
            n => return Err(d.corrupt(format!("class {n} is unknown"))),
        };
        let n_capsules = usize::from(d.u16()?);
        let mut capsules = Vec::with_capacity(d.check_count(n_capsules, n_capsules, 2, "capsules")?);
        for _ in 0..n_capsules {
            let len = usize::from(d.u16()?);
            capsules.push(Capsule::parse(d.raw(len)?.to_vec(), repository)?);
        }
        let n_entries = d.u32()? as usize;
        let mut entries = Vec::with_capacity(d.check_count(n_entries, ENTRIES_MAX, 76, "entries")?);
        let mut expected = 0u64;
        for _ in 0..n_entries {
            let entry = decode_entry(&mut d)?;
            if u64::from(entry.offset) != expected {
                return Err(d.corrupt("its entries leave a gap"));
            }
            expected += u64::from(entry.length);
            entries.push(entry);
        }
        if expected != records_len {
            return Err(d.corrupt("its entries do not cover it"));
        }
        d.finish()?;
        Ok(Trailer { class, capsules, entries })
    }

    /// Of a whole pack in memory.
    pub fn parse(bytes: &[u8], repository: &RepositoryId, object: &str) -> Result<Trailer> {
        let (records_len, trailer_len) = footer(bytes, bytes.len() as u64, object)?;
        let start = bytes.len() - FOOTER_LEN - trailer_len;
        let trailer = bytes.get(start..start + trailer_len).unwrap_or_default();
        Trailer::decode(trailer, records_len, repository, object)
    }

    /// Of a stored pack of known length, by one or two reads from its end.
    pub fn read(backend: &dyn Backend, id: PackId, len: u64, repository: &RepositoryId) -> Result<Trailer> {
        let name = ObjectName::Pack(id);
        let object = name.to_string();
        if len > PACK_BYTES_MAX {
            return Err(Error::corrupt(object, format!("{len} bytes exceed the limit of a pack")));
        }
        let tail_from = |wanted: u64| {
            let wanted = wanted.min(len);
            let wanted_len = usize::try_from(wanted).map_err(|_| Error::corrupt(name.to_string(), "it is too long"))?;
            backend.get_range(name, len - wanted, wanted_len)
        };
        let mut tail = tail_from(TAIL_BYTES)?;
        let (records_len, trailer_len) = footer(&tail, len, &object)?;
        if tail.len() < trailer_len + FOOTER_LEN {
            tail = tail_from((trailer_len + FOOTER_LEN) as u64)?;
        }
        let start = tail.len() - FOOTER_LEN - trailer_len;
        let trailer = tail.get(start..start + trailer_len).unwrap_or_default();
        Trailer::decode(trailer, records_len, repository, &object)
    }
}

fn decode_entry(d: &mut Decoder<'_>) -> Result<PackEntry> {
    let id = BlobId(d.array()?);
    let tag = Tag(d.array()?);
    let (offset, length) = (d.u32()?, d.u32()?);
    let n_links = d.u32()? as usize;
    let mut links: Vec<BlobId> = Vec::with_capacity(d.check_count(n_links, LINKS_MAX, 32, "links")?);
    for _ in 0..n_links {
        let link = BlobId(d.array()?);
        if links.last().is_some_and(|last| *last >= link) {
            return Err(d.corrupt("links are not ascending"));
        }
        links.push(link);
    }
    Ok(PackEntry { id, tag, offset, length, links })
}

/// Lengths of the records and of the trailer, from the last bytes of a pack of `len` bytes.
fn footer(tail: &[u8], len: u64, object: &str) -> Result<(u64, usize)> {
    let bad = |reason: &str| Error::corrupt(object, reason);
    let Some(footer) = tail.last_chunk::<FOOTER_LEN>() else { return Err(bad("it is too short")) };
    let mut d = Decoder::new(footer, object);
    let trailer_len = d.u32()?;
    if d.u8()? != 1 || d.array()? != [0u8; 3] {
        return Err(Error::Unsupported { object: object.into(), reason: "its format is unknown".into() });
    }
    d.magic(FOOTER_MAGIC)?;
    let rest = len.checked_sub(u64::from(trailer_len) + FOOTER_LEN as u64);
    Ok((rest.ok_or_else(|| bad("its trailer is longer than itself"))?, trailer_len as usize))
}

/// Records that can still be told apart in a pack whose trailer is lost: by magic and announced length, kept only if
/// the record is well formed. Their ids are computed, so what is found is what was stored.
pub fn scan(bytes: &[u8], repository: &RepositoryId) -> Vec<PackEntry> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(rest) = bytes.get(at..).filter(|rest| rest.len() >= Record::HEADER_LEN) {
        let record = Record::announced_len(rest)
            .and_then(|len| rest.get(..len))
            .and_then(|bytes| Record::parse(bytes.to_vec(), repository).ok());
        let Some(record) = record else {
            at += 1;
            continue;
        };
        if let (Ok(offset), Ok(length)) = (u32::try_from(at), u32::try_from(record.bytes.len())) {
            found.push(PackEntry { id: record.id, tag: record.tag, offset, length, links: record.links });
        }
        at += record.bytes.len();
    }
    found
}
