//! Names of things: typed, so that a chunk's name is never taken for a pack's.
//!
//! All are plain bytes; hex is for people. Ordering is that of the bytes.

use crate::error::{Error, Result};
use std::fmt;

macro_rules! id_type {
    ($(#[$doc:meta])* $name:ident, $len:expr, $word:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub [u8; $len]);

        impl $name {
            pub const LEN: usize = $len;

            pub fn from_slice(bytes: &[u8]) -> Option<Self> {
                bytes.try_into().ok().map(Self)
            }

            pub fn from_hex(text: &str) -> Result<Self> {
                let bad = || Error::invalid(concat!($word, " id"), format!("`{text}` is not {} hex digits", 2 * $len));
                let bytes = data_encoding::HEXLOWER_PERMISSIVE.decode(text.as_bytes()).map_err(|_| bad())?;
                Self::from_slice(&bytes).ok_or_else(bad)
            }

            pub fn hex(&self) -> String {
                data_encoding::HEXLOWER.encode(&self.0)
            }

            /// The first eight hex digits: enough for people.
            pub fn short(&self) -> String {
                self.hex().chars().take(8).collect()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.hex())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($word, " {}"), self.short())
            }
        }
    };
}

id_type!(
    /// BLAKE3 of a stored record: anyone can check it.
    BlobId, 32, "blob");
id_type!(
    /// Keyed hash of a blob's kind and content in clear: answers "is this known?".
    Tag, 32, "tag");
id_type!(
    /// The first half of a tag, kept beside a link: whoever holds the link can recognise the content, and find it under
    /// another id when the linked record is lost.
    HalfTag, 16, "tag");
id_type!(
    /// BLAKE3 of a whole pack.
    PackId, 32, "pack");
id_type!(
    /// BLAKE3 of a snapshot object.
    SnapshotId, 32, "snapshot");
id_type!(
    /// BLAKE3 of a mark object.
    MarkId, 32, "mark");
id_type!(RepositoryId, 16, "repository");
id_type!(
    /// All snapshots made by one invocation share it.
    RunId, 16, "run");
id_type!(
    /// First 16 bytes of BLAKE3 of a capsule.
    CapsuleId, 16, "capsule");
id_type!(SlotId, 8, "key slot");

impl Tag {
    pub fn half(&self) -> HalfTag {
        HalfTag(self.0.first_chunk().copied().unwrap_or_default())
    }
}

/// How a node names its child: the record it meant, and the content.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct Reference {
    pub id: BlobId,
    pub tag: HalfTag,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_round_trip_and_refusals() {
        let id = BlobId([0xab; 32]);
        assert_eq!(BlobId::from_hex(&id.hex()).unwrap(), id);
        assert_eq!(id.short(), "abababab");
        assert!(BlobId::from_hex("ab").is_err());
        assert!(BlobId::from_hex(&"zz".repeat(32)).is_err());
    }
}
