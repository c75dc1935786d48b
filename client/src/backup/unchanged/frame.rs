//! What the change cache remembers of one name, as bytes.
//!
//! ```text
//! kind u8 | name bytes | usable u8 | key 76 | n varint, n * id | entry bytes
//! kind    1 enter a directory, whose entry names no tree yet; 2 item: anything else; 3 leave the directory
//! ```
//! in the notation of `docs/format.md`. A whole tree is the sequence of its frames in the order of the walk.

use crate::metadata::capture::Stat;
use chunkstore::coding::Encoder;
use chunkstore::id::BlobId;
use chunkstore::tree::Time;
use rustix::fs::FileType;
use std::ops::Range;

pub const KEY_LEN: usize = 76;

/// Equal as long as neither content nor attributes changed.
pub type Key = [u8; KEY_LEN];

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Enter = 1,
    Item = 2,
    Leave = 3,
}

/// The number of a device changes with the order of mounts on some file systems. Only an entry that tells it is bound to it.
pub fn key(stat: &Stat) -> Key {
    let device = if stat.links > 1 && !stat.is_directory() { stat.device } else { 0 };
    let mut key = [0; KEY_LEN];
    let mut rest = &mut key[..];
    let mut put = |bytes: &[u8]| {
        if let Some((head, tail)) = std::mem::take(&mut rest).split_at_mut_checked(bytes.len()) {
            head.copy_from_slice(bytes);
            rest = tail;
        }
    };
    put(&stat.mode.to_le_bytes());
    put(&stat.size.to_le_bytes());
    put(&device.to_le_bytes());
    put(&stat.inode.to_le_bytes());
    put(&stat.uid.to_le_bytes());
    put(&stat.gid.to_le_bytes());
    put(&stat.links.to_le_bytes());
    for time in [stat.modified, stat.changed] {
        put(&time.seconds.to_le_bytes());
        put(&time.nanoseconds.to_le_bytes());
    }
    put(&stat.special.0.to_le_bytes());
    put(&stat.special.1.to_le_bytes());
    key
}

/// Whether a file that was read at `moment` can be told from one that changes right afterwards: clocks of file
/// systems are coarse.
pub fn is_settled(stat: &Stat, moment: Time) -> bool {
    let after = Time { seconds: stat.changed.seconds.saturating_add(2), ..stat.changed };
    after <= moment
}

/// A name with all that is remembered of it.
pub struct Remembered<'a> {
    pub name: &'a [u8],
    /// False: the content or the attributes may differ from what was saved although the key is equal.
    pub usable: bool,
    pub key: Key,
    /// Encoded, as it lies in its tree node.
    pub entry: &'a [u8],
    pub links: &'a [BlobId],
}

impl Remembered<'_> {
    /// Appends the frame.
    pub fn encode(&self, kind: Kind, to: &mut Vec<u8>) {
        let mut e = Encoder { bytes: std::mem::take(to) };
        e.u8(kind as u8).bytes(self.name).u8(u8::from(self.usable)).raw(&self.key).varint(self.links.len() as u64);
        for link in self.links {
            e.raw(&link.0);
        }
        e.bytes(self.entry);
        *to = e.bytes;
    }
}

/// Where the parts of a frame are in the bytes that it was found in.
#[derive(Clone, Debug)]
pub struct Frame {
    pub kind: Kind,
    pub all: Range<usize>,
    pub name: Range<usize>,
    pub usable: usize,
    pub key: Range<usize>,
    pub links: Range<usize>,
    pub entry: Range<usize>,
}

impl Frame {
    /// The frame that begins at `at`; `None` if there is no whole one.
    pub fn find(bytes: &[u8], at: usize) -> Option<Frame> {
        let mut place = at;
        let kind = match bytes.get(place)? {
            1 => Kind::Enter,
            2 => Kind::Item,
            3 => Kind::Leave,
            _ => return None,
        };
        place += 1;
        let name = prefixed(bytes, &mut place)?;
        let usable = place;
        let key = place + 1..place + 1 + KEY_LEN;
        place = key.end;
        let count = varint(bytes, &mut place)?;
        let links = place..place.checked_add(count.checked_mul(BlobId::LEN)?)?;
        place = links.end;
        let entry = prefixed(bytes, &mut place)?;
        Some(Frame { kind, all: at..place, name, usable, key, links, entry })
    }

    pub fn is_usable(&self, bytes: &[u8]) -> bool {
        bytes.get(self.usable) == Some(&1)
    }

    pub fn links<'a>(&self, bytes: &'a [u8]) -> impl Iterator<Item = BlobId> + 'a {
        let links = bytes.get(self.links.clone()).unwrap_or_default();
        links.as_chunks().0.iter().map(|id| BlobId(*id))
    }

    /// Type and permissions, and size.
    pub fn mode_and_size(&self, bytes: &[u8]) -> Option<(FileType, u64)> {
        let (mode, rest) = bytes.get(self.key.clone())?.split_first_chunk()?;
        let mode = u32::from_le_bytes(*mode);
        Some((FileType::from_raw_mode(mode), u64::from_le_bytes(*rest.first_chunk()?)))
    }
}

fn varint(bytes: &[u8], place: &mut usize) -> Option<usize> {
    let mut value = 0usize;
    for shift in [0, 7, 14, 21, 28] {
        let byte = *bytes.get(*place)?;
        *place += 1;
        value |= usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn prefixed(bytes: &[u8], place: &mut usize) -> Option<Range<usize>> {
    let len = varint(bytes, place)?;
    let range = *place..place.checked_add(len)?;
    *place = range.end;
    (range.end <= bytes.len()).then_some(range)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn frames_follow_one_another() {
        let mut bytes = Vec::new();
        let links = [BlobId([1; 32]), BlobId([2; 32])];
        let stat = Stat {
            device: 1,
            inode: 2,
            mode: 0o100644,
            uid: 3,
            gid: 4,
            links: 1,
            size: 99,
            blocks: 8,
            modified: Time { seconds: 100, nanoseconds: 5 },
            changed: Time { seconds: 100, nanoseconds: 6 },
            special: (0, 0),
        };
        let enter = Remembered { name: b"d", usable: false, key: key(&stat), entry: &[], links: &[] };
        enter.encode(Kind::Enter, &mut bytes);
        let item = Remembered { name: b"f", usable: true, key: key(&stat), entry: &[7; 300], links: &links };
        item.encode(Kind::Item, &mut bytes);
        let first = Frame::find(&bytes, 0).unwrap();
        assert_eq!((first.kind, &bytes[first.name.clone()]), (Kind::Enter, &b"d"[..]));
        let second = Frame::find(&bytes, first.all.end).unwrap();
        assert_eq!(&bytes[second.name.clone()], b"f");
        assert_eq!(bytes[second.key.clone()], key(&stat));
        assert_eq!(&bytes[second.entry.clone()], &[7; 300]);
        assert!(second.is_usable(&bytes) && second.all.end == bytes.len());
        assert_eq!(second.links(&bytes).collect::<Vec<_>>(), links);
        assert_eq!(second.mode_and_size(&bytes).unwrap(), (FileType::RegularFile, 99));
        for len in 0..second.all.end {
            assert!(Frame::find(&bytes[..len], first.all.end).is_none());
        }
        for change in [
            Stat { inode: 0, ..stat },
            Stat { mode: 0, ..stat },
            Stat { uid: 0, ..stat },
            Stat { gid: 0, ..stat },
            Stat { links: 0, ..stat },
            Stat { size: 0, ..stat },
            Stat { modified: Time { seconds: 100, nanoseconds: 0 }, ..stat },
            Stat { changed: Time { seconds: 100, nanoseconds: 0 }, ..stat },
            Stat { special: (0, 1), ..stat },
        ] {
            assert_ne!(key(&change), key(&stat));
        }
        assert_eq!(key(&Stat { device: 5, ..stat }), key(&stat));
        assert_ne!(key(&Stat { device: 5, links: 2, ..stat }), key(&Stat { links: 2, ..stat }));
        assert!(is_settled(&stat, Time { seconds: 102, nanoseconds: 6 }));
        assert!(!is_settled(&stat, Time { seconds: 102, nanoseconds: 5 }));
    }

    proptest! {
        #[test]
        fn garbage_is_no_frame_or_one_within_bounds(bytes in proptest::collection::vec(any::<u8>(), 0..200), kind in 1u8..4) {
            let mut bytes = bytes;
            bytes.insert(0, kind);
            if let Some(frame) = Frame::find(&bytes, 0) {
                prop_assert!(frame.all.end <= bytes.len());
                prop_assert!(bytes.get(frame.entry.clone()).is_some() && bytes.get(frame.name.clone()).is_some());
            }
        }
    }
}
