//! Names and texts as libpq and SQL want them written. Bytes in, bytes out: nothing is assumed of their encoding.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

/// `dbname='…'`: a name on its own would be taken for a connection string if it holds a `=`.
pub fn conninfo(database: &[u8]) -> OsString {
    let mut text = b"dbname='".to_vec();
    for &byte in database {
        if matches!(byte, b'\'' | b'\\') {
            text.push(b'\\');
        }
        text.push(byte);
    }
    text.push(b'\'');
    OsString::from_vec(text)
}

pub fn identifier(name: &[u8]) -> Vec<u8> {
    quoted(name, b"\"", |byte| byte == b'"')
}

/// The same whatever `standard_conforming_strings` is.
pub fn literal(text: &[u8]) -> Vec<u8> {
    quoted(text, b"E'", |byte| matches!(byte, b'\'' | b'\\'))
}

fn quoted(text: &[u8], open: &[u8], is_doubled: fn(u8) -> bool) -> Vec<u8> {
    let mut quoted = open.to_vec();
    for &byte in text {
        if is_doubled(byte) {
            quoted.push(byte);
        }
        quoted.push(byte);
    }
    quoted.extend(open.last());
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_gets_out_of_its_quotes() {
        let name = br#"a'b\c"d=e"#;
        assert_eq!(conninfo(name).as_encoded_bytes(), br#"dbname='a\'b\\c"d=e'"#);
        assert_eq!(identifier(name), br#""a'b\c""d=e""#);
        assert_eq!(literal(name), br#"E'a''b\\c"d=e'"#);
    }
}
