//! A blob as stored: header, plain links, sealed payload (`docs/format.md`, section 8). Needs no key.
//!
//! What is checked here is all that a site without keys can check; what is inside the seal belongs to `codec`.

use crate::coding::{Decoder, Encoder};
use crate::configuration::Suite;
use crate::error::{Error, Result};
use crate::id::{BlobId, CapsuleId, RepositoryId, Tag};

/// Limits of section 12.
pub const CONTENT_BYTES_MAX: usize = 16 << 20;
pub const RECORD_BYTES_MAX: usize = 20 << 20;
pub const LINKS_MAX: usize = 65_536;

const MAGIC: &[u8; 4] = b"NKrb";
const FORMAT: u8 = 1;

/// Bytes of the AEAD's authenticator, in both suites.
pub(crate) const AUTHENTICATOR_LEN: usize = 16;
/// Bytes of a payload before its body.
pub(crate) const PAYLOAD_HEADER_LEN: usize = 10;

/// What a blob's content is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Chunk = 1,
    List = 2,
    Tree = 3,
}

impl Kind {
    pub fn class(self) -> Class {
        match self {
            Kind::Chunk => Class::Data,
            Kind::List | Kind::Tree => Class::Node,
        }
    }

    pub(crate) fn from_number(number: u8) -> Option<Kind> {
        match number {
            1 => Some(Kind::Chunk),
            2 => Some(Kind::List),
            3 => Some(Kind::Tree),
            _ => None,
        }
    }
}

/// Which packs a record goes to.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Class {
    Data = 0,
    Node = 1,
}

/// A stored record whose header is well formed and whose id was computed from its bytes, unless [`Record::parse_as`] made it.
#[derive(Clone, Debug)]
pub struct Record {
    pub id: BlobId,
    pub tag: Tag,
    pub class: Class,
    pub suite: Suite,
    pub capsule: CapsuleId,
    /// The nonce: used once per session key.
    pub counter: u64,
    /// Strictly ascending.
    pub links: Vec<BlobId>,
    /// The whole record.
    pub bytes: Vec<u8>,
}

impl Record {
    pub const HEADER_LEN: usize = 88;

    /// Checks lengths, limits and that it belongs to `repository`; computes the id. The caller compares the id.
    pub fn parse(bytes: Vec<u8>, repository: &RepositoryId) -> Result<Record> {
        Record::decode(bytes, repository, |bytes| BlobId(*blake3::hash(bytes).as_bytes()))
    }

    /// As [`Record::parse`], under the id that it should have, whether it has it or not: for who proves the content by a tag.
    pub fn parse_as(id: BlobId, bytes: Vec<u8>, repository: &RepositoryId) -> Result<Record> {
        Record::decode(bytes, repository, |_| id)
    }

    fn decode(bytes: Vec<u8>, repository: &RepositoryId, id: impl FnOnce(&[u8]) -> BlobId) -> Result<Record> {
        let mut d = Decoder::new(&bytes, "a record");
        let header = Header::decode(&mut d)?;
        if d.remaining() != header.links_len + header.payload_len {
            return Err(d.corrupt("its length is not the announced one"));
        }
        if header.repository != *repository {
            return Err(d.corrupt(format!("it belongs to repository {}", header.repository)));
        }
        let links = decode_links(&mut d, header.links_len)?;
        Ok(Record {
            id: id(&bytes),
            tag: header.tag,
            class: header.class,
            suite: header.suite,
            capsule: header.capsule,
            counter: header.counter,
            links,
            bytes,
        })
    }

    /// The length of the record that begins with these header bytes, if they are a header: for scanning a pack without its trailer.
    pub fn announced_len(header: &[u8]) -> Option<usize> {
        Header::decode(&mut Decoder::new(header, "a record")).ok().map(|h| h.record_len())
    }

    /// What the seal authenticates (header and links) and the sealed payload. `None` only for a value not made by
    /// [`Record::parse`].
    pub(crate) fn split(&self) -> Option<(&[u8], &[u8])> {
        self.bytes.split_at_checked(Self::HEADER_LEN + self.links.len() * BlobId::LEN)
    }

    pub(crate) fn corrupt(&self, reason: impl Into<String>) -> Error {
        Error::corrupt(format!("blob {}", self.id), reason)
    }
}

/// Checks that `ids`, which the content names in any order and number, are exactly the record's links. A reader of nodes
/// calls it with the children it decoded.
pub fn check_links(record: &Record, mut ids: Vec<BlobId>) -> Result<()> {
    ids.sort_unstable();
    ids.dedup();
    if ids == record.links { Ok(()) } else { Err(record.corrupt("its links are not those that its content names")) }
}

/// The first bytes of a record, and what follows from them.
pub(crate) struct Header {
    pub suite: Suite,
    pub class: Class,
    pub capsule: CapsuleId,
    pub counter: u64,
    pub links_len: usize,
    /// With the authenticator.
    pub payload_len: usize,
    pub repository: RepositoryId,
    pub tag: Tag,
}

impl Header {
    /// At most [`RECORD_BYTES_MAX`] for a decoded header.
    pub fn record_len(&self) -> usize {
        Record::HEADER_LEN.saturating_add(self.links_len).saturating_add(self.payload_len)
    }

    /// Header and links, in a buffer with room for the whole record. `links` must be strictly ascending.
    pub fn encode(&self, links: &[BlobId]) -> Result<Vec<u8>> {
        let too_large = || Error::invalid("a record", format!("{} bytes exceed its limits", self.record_len()));
        if links.len() > LINKS_MAX || self.record_len() > RECORD_BYTES_MAX {
            return Err(too_large());
        }
        let mut e = Encoder { bytes: Vec::with_capacity(self.record_len()) };
        e.raw(MAGIC).u8(FORMAT).u8(self.suite as u8).u8(self.class as u8).u8(0);
        e.raw(&self.capsule.0).u64(self.counter);
        e.u32(u32::try_from(links.len()).map_err(|_| too_large())?);
        e.u32(u32::try_from(self.payload_len).map_err(|_| too_large())?);
        e.raw(&self.repository.0).raw(&self.tag.0);
        for link in links {
            e.raw(&link.0);
        }
        Ok(e.bytes)
    }

    fn decode(d: &mut Decoder<'_>) -> Result<Header> {
        d.magic(MAGIC)?;
        let format = d.u8()?;
        if format != FORMAT {
            return Err(d.corrupt(format!("record format {format} is unknown")));
        }
        let suite = match d.u8()? {
            1 => Suite::Aes256Gcm,
            2 => Suite::ChaCha20Poly1305,
            n => return Err(d.corrupt(format!("cipher suite {n} is unknown"))),
        };
        let class = match d.u8()? {
            0 => Class::Data,
            1 => Class::Node,
            n => return Err(d.corrupt(format!("class {n} is unknown"))),
        };
        if d.u8()? != 0 {
            return Err(d.corrupt("a flag is unknown"));
        }
        let header = Header {
            suite,
            class,
            capsule: CapsuleId(d.array()?),
            counter: d.u64()?,
            links_len: (d.u32()? as usize).saturating_mul(BlobId::LEN),
            payload_len: d.u32()? as usize,
            repository: RepositoryId(d.array()?),
            tag: Tag(d.array()?),
        };
        if header.links_len > LINKS_MAX * BlobId::LEN || header.record_len() > RECORD_BYTES_MAX {
            return Err(d.corrupt(format!("it announces {} bytes", header.record_len())));
        }
        if header.payload_len < PAYLOAD_HEADER_LEN + AUTHENTICATOR_LEN {
            return Err(d.corrupt(format!("it announces a payload of {} bytes", header.payload_len)));
        }
        Ok(header)
    }
}

fn decode_links(d: &mut Decoder<'_>, links_len: usize) -> Result<Vec<BlobId>> {
    let links: Vec<BlobId> = d.raw(links_len)?.chunks_exact(BlobId::LEN).filter_map(BlobId::from_slice).collect();
    if links.is_sorted_by(|a, b| a < b) { Ok(links) } else { Err(d.corrupt("its links are not ascending")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const REPOSITORY: RepositoryId = RepositoryId([9; 16]);

    fn record(links: &[BlobId], payload: &[u8]) -> Vec<u8> {
        let header = Header {
            suite: Suite::Aes256Gcm,
            class: Class::Node,
            capsule: CapsuleId([3; 16]),
            counter: 0x0102_0304_0506_0708,
            links_len: links.len() * BlobId::LEN,
            payload_len: payload.len(),
            repository: REPOSITORY,
            tag: Tag([5; 32]),
        };
        let mut bytes = header.encode(links).unwrap();
        bytes.extend_from_slice(payload);
        bytes
    }

    #[test]
    fn header_bytes_are_those_of_the_format() {
        let bytes = record(&[BlobId([1; 32])], &[0xee; 30]);
        let mut expected = b"NKrb\x01\x01\x01\x00".to_vec();
        expected.extend([3; 16]);
        expected.extend([8, 7, 6, 5, 4, 3, 2, 1]);
        expected.extend([1, 0, 0, 0, 30, 0, 0, 0]);
        expected.extend([9; 16]);
        expected.extend([5; 32]);
        assert_eq!(expected.len(), Record::HEADER_LEN);
        expected.extend([1; 32]);
        expected.extend([0xee; 30]);
        assert_eq!(bytes, expected);
    }

    #[test]
    fn parsed_fields_are_those_written() {
        let links = [BlobId([1; 32]), BlobId([2; 32])];
        let bytes = record(&links, &[0; 40]);
        let parsed = Record::parse(bytes.clone(), &REPOSITORY).unwrap();
        assert_eq!(parsed.id.0, *blake3::hash(&bytes).as_bytes());
        assert_eq!((parsed.tag, parsed.class, parsed.suite), (Tag([5; 32]), Class::Node, Suite::Aes256Gcm));
        assert_eq!((parsed.capsule, parsed.counter), (CapsuleId([3; 16]), 0x0102_0304_0506_0708));
        assert_eq!(parsed.links, links);
        assert_eq!(parsed.split().unwrap(), bytes.split_at(88 + 64));
        assert_eq!(Record::announced_len(&bytes), Some(bytes.len()));
        assert_eq!(Record::announced_len(&bytes[..Record::HEADER_LEN]), Some(bytes.len()));
        assert_eq!(Record::announced_len(&bytes[..Record::HEADER_LEN - 1]), None);
    }

    #[test]
    fn an_id_may_be_taken_on_trust_and_nothing_else() {
        let bytes = record(&[BlobId([1; 32])], &[0; 40]);
        let named = Record::parse_as(BlobId([7; 32]), bytes.clone(), &REPOSITORY).unwrap();
        assert_eq!((named.id, named.tag, &named.bytes), (BlobId([7; 32]), Tag([5; 32]), &bytes));
        assert!(Record::parse_as(BlobId([7; 32]), bytes[1..].to_vec(), &REPOSITORY).is_err());
        assert!(Record::parse_as(BlobId([7; 32]), bytes, &RepositoryId([8; 16])).is_err());
    }

    #[test]
    fn truncated_lengthened_and_foreign_records_are_refused() {
        let bytes = record(&[BlobId([1; 32])], &[0; 40]);
        for len in 0..bytes.len() {
            assert!(Record::parse(bytes[..len].to_vec(), &REPOSITORY).is_err(), "{len}");
        }
        let longer = [bytes.as_slice(), &[0]].concat();
        assert!(Record::parse(longer, &REPOSITORY).is_err());
        assert!(Record::parse(bytes, &RepositoryId([8; 16])).is_err());
    }

    #[test]
    fn unknown_formats_suites_classes_and_flags_are_refused() {
        let good = record(&[], &[0; 40]);
        for (at, value) in [(4, 0), (4, 2), (5, 0), (5, 3), (6, 2), (7, 1), (7, 128)] {
            let mut bytes = good.clone();
            bytes[at] = value;
            assert!(Record::parse(bytes, &REPOSITORY).is_err(), "{at} {value}");
        }
    }

    #[test]
    fn links_out_of_order_or_twice_are_refused() {
        for links in [[2, 1], [1, 1]] {
            let bytes = record(&links.map(|n| BlobId([n; 32])), &[0; 40]);
            assert!(matches!(Record::parse(bytes, &REPOSITORY), Err(Error::Corrupt { .. })));
        }
    }

    #[test]
    fn hostile_lengths_are_refused_before_anything_is_done() {
        let good = record(&[], &[0; 40]);
        for (at, value) in [(32, 65_537), (32, u32::MAX), (36, 20 << 20), (36, u32::MAX), (36, 25)] {
            let mut bytes = good.clone();
            bytes[at..at + 4].copy_from_slice(&u32::to_le_bytes(value));
            assert_eq!(Record::announced_len(&bytes), None, "{at} {value}");
            assert!(Record::parse(bytes, &REPOSITORY).is_err());
        }
    }

    #[test]
    fn links_are_compared_as_sets() {
        let [a, b, c] = [1, 2, 3].map(|n| BlobId([n; 32]));
        let record = Record::parse(record(&[a, b], &[0; 40]), &REPOSITORY).unwrap();
        check_links(&record, vec![b, a, b]).unwrap();
        for wrong in [vec![], vec![a], vec![b, c], vec![a, b, c]] {
            assert!(matches!(check_links(&record, wrong), Err(Error::Corrupt { .. })));
        }
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300), magic: bool) {
            let bytes = if magic { [&b"NKrb\x01\x01\x00\x00"[..], &bytes].concat() } else { bytes };
            let _ = Record::announced_len(&bytes);
            let _ = Record::parse(bytes, &REPOSITORY);
        }
    }
}
