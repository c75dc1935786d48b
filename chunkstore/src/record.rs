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

/// A stored record whose header is well formed and whose id was computed from its bytes.
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
            id: BlobId(*blake3::hash(&bytes).as_bytes()),
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
