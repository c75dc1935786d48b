//! Whether a data record is a blob's: told from its first pickle, which names the object's class.
//!
//! Only what makes a bare global of a class is understood; anything else is not a blob, as ZODB itself judges.

/// So many bytes of a record are enough to tell.
pub const HEAD_LEN: usize = 64;

const MODULE: &[u8] = b"ZODB.blob";
const CLASS: &[u8] = b"Blob";

const PROTO: u8 = 0x80;
const FRAME: u8 = 0x95;
const GLOBAL: u8 = b'c';
const STACK_GLOBAL: u8 = 0x93;
const STOP: u8 = b'.';

/// `head` is the beginning of a record.
pub fn is_blob(head: &[u8]) -> bool {
    names_blob(head).is_some()
}

fn names_blob(head: &[u8]) -> Option<()> {
    let mut rest = head;
    if let [PROTO, _, after @ ..] = rest {
        rest = after;
    }
    if let [FRAME, _, _, _, _, _, _, _, _, after @ ..] = rest {
        rest = after;
    }
    let rest = match rest {
        [GLOBAL, after @ ..] => line(line(after, MODULE)?, CLASS)?,
        _ => {
            let after = memo(text(rest, MODULE)?);
            memo(text(after, CLASS)?).strip_prefix(&[STACK_GLOBAL])?
        }
    };
    (memo(rest).first() == Some(&STOP)).then_some(())
}

fn line<'a>(bytes: &'a [u8], text: &[u8]) -> Option<&'a [u8]> {
    bytes.strip_prefix(text)?.strip_prefix(b"\n")
}

/// A string of any pickle protocol.
fn text<'a>(bytes: &'a [u8], text: &[u8]) -> Option<&'a [u8]> {
    let len = [u8::try_from(text.len()).ok()?];
    let after = match bytes {
        // SHORT_BINUNICODE, SHORT_BINSTRING
        [0x8c | b'U', after @ ..] => after.strip_prefix(&len)?,
        // BINUNICODE, BINSTRING
        [b'X' | b'T', after @ ..] => after.strip_prefix(&len)?.strip_prefix(&[0; 3])?,
        _ => return None,
    };
    after.strip_prefix(text)
}

/// What stands after remembering the top of the stack, if it is.
fn memo(bytes: &[u8]) -> &[u8] {
    match bytes {
        // MEMOIZE; BINPUT; LONG_BINPUT
        [0x94, rest @ ..] | [b'q', _, rest @ ..] | [b'r', _, _, _, _, rest @ ..] => rest,
        // PUT
        [b'p', rest @ ..] => {
            let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
            rest.get(digits..).and_then(|rest| rest.strip_prefix(b"\n")).unwrap_or(bytes)
        }
        _ => bytes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_protocols_name_the_class() {
        let blobs: &[&[u8]] = &[
            b"\x80\x03cZODB.blob\nBlob\nq\x00.\x80\x03N.",
            b"cZODB.blob\nBlob\nq\x01.N.",
            b"cZODB.blob\nBlob\np0\n.N.",
            b"\x80\x02cZODB.blob\nBlob\nr\0\x01\0\0.",
            b"\x80\x03cZODB.blob\nBlob\n.",
            b"\x80\x04\x95\x16\0\0\0\0\0\0\0\x8c\x09ZODB.blob\x94\x8c\x04Blob\x94\x93\x94.N.",
            b"\x80\x04X\x09\0\0\0ZODB.blobq\x00X\x04\0\0\0Blobq\x01\x93q\x02.",
        ];
        for blob in blobs {
            assert!(blob.len() <= HEAD_LEN && is_blob(blob), "{}", blob.escape_ascii());
            for len in 0..blob.iter().position(|byte| *byte == STOP).unwrap() {
                assert!(!is_blob(&blob[..len]));
            }
        }
    }

    #[test]
    fn nothing_else_is_a_blob() {
        let others: &[&[u8]] = &[
            b"",
            b"\x80\x03",
            b"\x80\x03cZODB.blob\nBlobFile\nq\x00.",
            b"\x80\x03cmy.ZODB.blob\nBlob\nq\x00.",
            b"\x80\x03(cZODB.blob\nBlob\nq\x00tq\x01.",
            b"\x80\x03cpersistent.mapping\nPersistentMapping\nq\x00.",
            b"\x80\x03X\x09\0\0\0ZODB.blob.",
            b".zsomething",
        ];
        for other in others {
            assert!(!is_blob(other), "{}", other.escape_ascii());
        }
    }
}
