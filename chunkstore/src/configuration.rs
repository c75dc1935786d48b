//! What a repository is made with, once: `docs/format.md`, section 4.

use crate::coding::{Decoder, Encoder};
use crate::error::{Error, Result};
use crate::id::RepositoryId;

const MAGIC: &[u8; 8] = b"NKrepo\0\x01";
/// A bit of what a program must know to read and to check.
const SLICES: u64 = 1;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Suite {
    Aes256Gcm = 1,
    ChaCha20Poly1305 = 2,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kem {
    XWing = 1,
    X25519 = 2,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ChunkSizes {
    pub min: u32,
    pub average: u32,
    pub max: u32,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Configuration {
    /// Small files may share chunks. Not so in repositories from before that was possible.
    pub slices: bool,
    pub repository: RepositoryId,
    /// Nanoseconds since 1970.
    pub created: i64,
    pub suite: Suite,
    pub kem: Kem,
    pub chunk_sizes: ChunkSizes,
    pub pack_bytes_target: u32,
    pub inline_bytes_max: u32,
    pub grace_seconds: u64,
}

impl Configuration {
    /// The defaults of a new repository.
    pub fn new(repository: RepositoryId, created: i64) -> Self {
        Configuration {
            slices: true,
            repository,
            created,
            suite: Suite::Aes256Gcm,
            kem: Kem::XWing,
            chunk_sizes: ChunkSizes { min: 16 << 10, average: 64 << 10, max: 256 << 10 },
            pack_bytes_target: 32 << 20,
            inline_bytes_max: 128,
            grace_seconds: 14 * 86_400,
        }
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut body = Encoder::new();
        let to_read = if self.slices { SLICES } else { 0 };
        body.u64(to_read).u64(0).u64(to_read).raw(&self.repository.0).i64(self.created);
        body.u8(self.suite as u8).u8(self.kem as u8).u8(1);
        body.u32(self.chunk_sizes.min).u32(self.chunk_sizes.average).u32(self.chunk_sizes.max);
        body.u32(self.pack_bytes_target).u32(self.inline_bytes_max).u64(self.grace_seconds);
        let mut object = Encoder::new();
        object.raw(MAGIC).u32(u32::try_from(body.bytes.len()).unwrap_or(u32::MAX)).raw(&body.bytes);
        let checksum = blake3::hash(&object.bytes);
        object.raw(checksum.as_bytes());
        object.bytes
    }

    /// `object` names the copy that is read.
    pub fn decode(bytes: &[u8], object: &str) -> Result<Self> {
        let Some((checked, checksum)) = bytes.split_last_chunk::<32>() else {
            return Err(Error::corrupt(object, "it is too short"));
        };
        if blake3::hash(checked) != *checksum {
            return Err(Error::corrupt(object, "its checksum is wrong"));
        }
        let mut d = Decoder::new(checked, object);
        d.magic(MAGIC)?;
        if d.u32()? as usize != d.remaining() {
            return Err(d.corrupt("its length is wrong"));
        }
        let (to_read, to_write, to_check) = (d.u64()?, d.u64()?, d.u64()?);
        if (to_read | to_check) & !SLICES != 0 || to_write != 0 {
            return Err(Error::Unsupported { object: object.into(), reason: "it needs a newer program".into() });
        }
        if to_read != to_check {
            return Err(d.corrupt("what is needed to read it is not what is needed to check it"));
        }
        let configuration = Configuration {
            slices: to_read == SLICES,
            repository: RepositoryId(d.array()?),
            created: d.i64()?,
            suite: match d.u8()? {
                1 => Suite::Aes256Gcm,
                2 => Suite::ChaCha20Poly1305,
                n => return Err(unsupported(object, "cipher suite", n)),
            },
            kem: match d.u8()? {
                1 => Kem::XWing,
                2 => Kem::X25519,
                n => return Err(unsupported(object, "key encapsulation", n)),
            },
            chunk_sizes: {
                let chunker = d.u8()?;
                if chunker != 1 {
                    return Err(unsupported(object, "chunker", chunker));
                }
                ChunkSizes { min: d.u32()?, average: d.u32()?, max: d.u32()? }
            },
            pack_bytes_target: d.u32()?,
            inline_bytes_max: d.u32()?,
            grace_seconds: d.u64()?,
        };
        if !configuration.is_within_bounds() {
            return Err(d.corrupt("a size is out of bounds"));
        }
        d.finish()?;
        Ok(configuration)
    }

    fn is_within_bounds(&self) -> bool {
        let ChunkSizes { min, average, max } = self.chunk_sizes;
        256 <= min
            && min < average
            && average < max
            && max <= 8 << 20
            && average.is_power_of_two()
            && (min | max).is_multiple_of(2)
            && (1 << 20..=64 << 20).contains(&self.pack_bytes_target)
            && self.inline_bytes_max <= 64 << 10
    }
}

fn unsupported(object: &str, what: &str, number: u8) -> Error {
    Error::Unsupported { object: object.into(), reason: format!("{what} {number} is unknown to this program") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip_and_every_flip_refused() {
        let configuration = Configuration::new(RepositoryId([7; 16]), 42);
        let bytes = configuration.encode();
        assert_eq!(Configuration::decode(&bytes, "REPO").unwrap(), configuration);
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut flipped = bytes.clone();
                flipped[at] ^= 1 << bit;
                assert!(Configuration::decode(&flipped, "REPO").is_err(), "byte {at} bit {bit}");
            }
            assert!(Configuration::decode(&bytes[..at], "REPO").is_err());
        }
    }

    #[test]
    fn hostile_sizes_are_refused() {
        let mut configuration = Configuration::new(RepositoryId([7; 16]), 42);
        configuration.chunk_sizes.max = u32::MAX;
        assert!(Configuration::decode(&configuration.encode(), "REPO").is_err());
    }
}
