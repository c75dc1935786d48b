//! What is inside a record's seal: kind, codec, lengths, body, padding (`docs/format.md`, section 8).

use super::pad::padded_len;
use crate::coding::{Decoder, Encoder};
use crate::error::{Error, Result};
use crate::id::BlobId;
use crate::record::{CONTENT_BYTES_MAX, Kind, PAYLOAD_HEADER_LEN};
use std::ops::Range;
use std::sync::Arc;

/// Most bases of a delta.
pub(super) const BASES_MAX: usize = 3;
/// Most parts that a delta of parts is made from.
pub(super) const PARTS_MAX: usize = 64;

/// A base of a delta: all of its content, or this stretch.
pub(super) type Base = (BlobId, Option<Range<usize>>);

/// A part of a stored chunk that a delta is made from. The range is not empty.
#[derive(Clone, Debug)]
pub struct Part {
    pub id: BlobId,
    pub range: Range<usize>,
    /// All of its content.
    pub chunk: Arc<Vec<u8>>,
}

impl Part {
    pub(super) fn bytes(&self) -> &[u8] {
        self.chunk.get(self.range.clone()).unwrap_or_default()
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Codec {
    Raw = 0,
    Zstd = 1,
    Delta = 2,
    /// A delta of parts of its bases.
    Parts = 4,
}

impl Codec {
    pub fn is_delta(self) -> bool {
        matches!(self, Codec::Delta | Codec::Parts)
    }
}

/// A payload whose lengths fit and whose padding is zero.
pub(super) struct Payload<'a> {
    pub kind: Kind,
    pub codec: Codec,
    pub plain_len: usize,
    pub body: &'a [u8],
}

impl<'a> Payload<'a> {
    pub fn decode(bytes: &'a [u8], object: &str) -> Result<Payload<'a>> {
        let corrupt = |reason: String| Error::corrupt(object, reason);
        let (head, rest) =
            bytes.split_at_checked(PAYLOAD_HEADER_LEN).ok_or_else(|| corrupt("it is too short".into()))?;
        let mut d = Decoder::new(head, object);
        let number = d.u8()?;
        let kind = Kind::from_number(number).ok_or_else(|| corrupt(format!("kind {number} is unknown")))?;
        let codec = match d.u8()? {
            0 => Codec::Raw,
            1 => Codec::Zstd,
            2 if kind == Kind::Chunk => Codec::Delta,
            4 if kind == Kind::Chunk => Codec::Parts,
            n => return Err(corrupt(format!("codec {n} is unknown"))),
        };
        let plain_len = d.u32()? as usize;
        if plain_len > CONTENT_BYTES_MAX {
            return Err(corrupt(format!("it announces {plain_len} bytes of content")));
        }
        let body_len = d.u32()? as usize;
        let (body, padding) =
            rest.split_at_checked(body_len).ok_or_else(|| corrupt("its body is longer than it".into()))?;
        if padding.iter().any(|byte| *byte != 0) {
            return Err(corrupt("its padding is not zero".into()));
        }
        Ok(Payload { kind, codec, plain_len, body })
    }

    /// The bytes that [`Payload::encode`] appends.
    pub fn encoded_len(body_len: usize) -> usize {
        padded_len(PAYLOAD_HEADER_LEN + body_len)
    }

    /// Appends the payload, padded.
    pub fn encode(&self, bytes: Vec<u8>) -> Result<Vec<u8>> {
        let len = |n: usize| u32::try_from(n).map_err(|_| Error::invalid("a record", "its content is too long"));
        let end = bytes.len() + Payload::encoded_len(self.body.len());
        let mut e = Encoder { bytes };
        e.u8(self.kind as u8).u8(self.codec as u8).u32(len(self.plain_len)?).u32(len(self.body.len())?);
        e.raw(self.body);
        e.bytes.resize(end, 0);
        Ok(e.bytes)
    }
}

/// The bases and the frame of a delta's body.
pub(super) fn decode_delta<'a>(body: &'a [u8], object: &'static str) -> Result<(Vec<Base>, &'a [u8])> {
    let mut d = Decoder::new(body, object);
    let count = usize::from(d.u8()?);
    if !(1..=BASES_MAX).contains(&count) {
        return Err(d.corrupt(format!("{count} bases announced")));
    }
    let bases = (0..count).map(|_| Ok((BlobId(d.array()?), None))).collect::<Result<Vec<_>>>()?;
    let frame = d.raw(d.remaining())?;
    Ok((bases, frame))
}

/// As [`decode_delta`], of a delta of parts; together these are no longer than a content may be.
pub(super) fn decode_parts<'a>(body: &'a [u8], object: &'static str) -> Result<(Vec<Base>, &'a [u8])> {
    let mut d = Decoder::new(body, object);
    let count = usize::from(d.u8()?);
    if !(1..=PARTS_MAX).contains(&count) {
        return Err(d.corrupt(format!("{count} parts announced")));
    }
    let (mut parts, mut all) = (Vec::with_capacity(count), 0u64);
    for _ in 0..count {
        let (id, offset, len) = (BlobId(d.array()?), d.varint()?, d.varint()?);
        all = all.saturating_add(len);
        if len == 0 || all > CONTENT_BYTES_MAX as u64 || offset > CONTENT_BYTES_MAX as u64 {
            return Err(d.corrupt(format!("a part of {len} bytes at {offset}")));
        }
        let begin = usize::try_from(offset).unwrap_or(usize::MAX);
        parts.push((id, Some(begin..begin.saturating_add(usize::try_from(len).unwrap_or(usize::MAX)))));
    }
    let frame = d.raw(d.remaining())?;
    Ok((parts, frame))
}

pub(super) fn encode_parts<'a>(
    parts: impl ExactSizeIterator<Item = (&'a BlobId, &'a Range<usize>)>,
    frame: &[u8],
) -> Vec<u8> {
    let mut e = Encoder::new();
    e.u8(u8::try_from(parts.len()).unwrap_or(u8::MAX));
    for (id, range) in parts {
        e.raw(&id.0).varint(range.start as u64).varint(range.len() as u64);
    }
    e.raw(frame);
    e.bytes
}

pub(super) fn encode_delta<'a>(bases: impl ExactSizeIterator<Item = &'a BlobId>, frame: &[u8]) -> Vec<u8> {
    let mut e = Encoder::new();
    e.u8(u8::try_from(bases.len()).unwrap_or(u8::MAX));
    for base in bases {
        e.raw(&base.0);
    }
    e.raw(frame);
    e.bytes
}
