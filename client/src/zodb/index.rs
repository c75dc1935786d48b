//! The index file beside a storage (`Data.fs.index`): a pickle that begins with the position up to which it tells of.
//!
//! It is derived: a server that finds none reads the whole storage. One that tells of more than there is, or of another storage, is
//! worth nothing.

use super::storage::Storage;
use chunkstore::Result;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Up to where the index tells of the storage, if that is the end of a transaction at or before `end`.
pub fn position(index: &Path, storage: &Storage, end: u64) -> Result<Option<u64>> {
    let mut head = [0; 24];
    let len = File::open(index).and_then(|file| file.read_at(&mut head, 0)).unwrap_or(0);
    let Some(position) = first_number(head.get(..len).unwrap_or_default()).filter(|position| *position <= end) else {
        return Ok(None);
    };
    Ok(storage.transaction_before(position)?.map(|_| position))
}

/// A pickled number.
fn first_number(bytes: &[u8]) -> Option<u64> {
    let rest = match bytes {
        [0x80, _, rest @ ..] => rest,
        rest => rest,
    };
    let (number, rest) = match rest {
        [b'K', one, rest @ ..] => (u64::from(*one), rest),
        [b'M', a, b, rest @ ..] => (u64::from(u16::from_le_bytes([*a, *b])), rest),
        [b'J', a, b, c, d, rest @ ..] => (u64::try_from(i32::from_le_bytes([*a, *b, *c, *d])).ok()?, rest),
        [0x8a, len, rest @ ..] => {
            let (digits, rest) = rest.split_at_checked(usize::from(*len).min(9))?;
            let negative = digits.last().is_none_or(|last| *last >= 0x80);
            let (low, high) = digits.split_at(digits.len().min(8));
            if negative || high.iter().any(|digit| *digit != 0) {
                return None;
            }
            let mut number = [0; 8];
            number.get_mut(..low.len())?.copy_from_slice(low);
            (u64::from_le_bytes(number), rest)
        }
        _ => return None,
    };
    (rest.first() == Some(&b'.')).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_every_size() {
        let table: &[(&[u8], Option<u64>)] = &[
            (b"\x80\x03K\x05.", Some(5)),
            (b"\x80\x03M\x05\x01.", Some(261)),
            (b"\x80\x03J\x00\x00\x00\x01.", Some(1 << 24)),
            (b"\x80\x03J\xff\xff\xff\xff.", None),
            (b"\x80\x03\x8a\x05\x00\x00\x00\x80\x00.", Some(1 << 31)),
            (b"\x80\x03\x8a\x05\x00\x00\x00\x80\xff.", None),
            (b"\x80\x03\x8a\x09\x00\x00\x00\x00\x00\x00\x00\x80\x00.", Some(1 << 63)),
            (b"K\x05.", Some(5)),
            (b"\x80\x03}q\x00.", None),
            (b"\x80\x03K\x05", None),
            (b"\x80\x03\x8a\x05\x00", None),
            (b"", None),
        ];
        for (bytes, number) in table {
            assert_eq!(first_number(bytes), *number, "{}", bytes.escape_ascii());
        }
    }
}
