//! File names are bytes: how people and programs see them without losing any. Pure.

use data_encoding::BASE64;
use serde_json::{Map, Value};

/// For people: control characters, invisible direction marks, backslashes and what is not UTF-8 are escaped as `ls -b` does.
pub fn shown(name: &[u8]) -> String {
    let mut text = String::with_capacity(name.len());
    for chunk in name.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\\' => text.push_str("\\\\"),
                '\n' => text.push_str("\\n"),
                '\t' => text.push_str("\\t"),
                '\r' => text.push_str("\\r"),
                c if c.is_control() || is_direction_mark(c) => {
                    c.encode_utf8(&mut [0; 4]).bytes().for_each(|byte| octal(byte, &mut text));
                }
                c => text.push(c),
            }
        }
        chunk.invalid().iter().for_each(|&byte| octal(byte, &mut text));
    }
    text
}

/// A message for people, which may have names in it: control characters are escaped, all else is as it was.
pub fn printable(message: &str) -> String {
    let mut text = String::with_capacity(message.len());
    for c in message.chars() {
        if (c.is_control() && c != '\n') || is_direction_mark(c) {
            c.encode_utf8(&mut [0; 4]).bytes().for_each(|byte| octal(byte, &mut text));
        } else {
            text.push(c);
        }
    }
    text
}

/// For programs: `KEY` is the text; if the name is not UTF-8, `KEY_base64` beside it has the exact bytes.
pub fn insert(object: &mut Map<String, Value>, key: &str, name: &[u8]) {
    object.insert(key.to_owned(), String::from_utf8_lossy(name).into());
    if std::str::from_utf8(name).is_err() {
        object.insert(format!("{key}_base64"), BASE64.encode(name).into());
    }
}

/// A path within a snapshot, from its root.
pub fn join(directory: &[u8], name: &[u8]) -> Vec<u8> {
    let mut path = directory.to_vec();
    path.push(b'/');
    path.extend_from_slice(name);
    path
}

/// They can make one name look like another.
fn is_direction_mark(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn octal(byte: u8, text: &mut String) {
    text.push_str(&format!("\\{byte:03o}"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_for_people() {
        assert_eq!(shown("rapport été.pdf".as_bytes()), "rapport été.pdf");
        assert_eq!(shown(b"a\nb\x1b[31m\\\xff"), "a\\nb\\033[31m\\\\\\377");
        assert_eq!(shown("a\u{202e}b\u{9b}".as_bytes()), "a\\342\\200\\256b\\302\\233");
    }

    #[test]
    fn messages_cannot_drive_a_terminal() {
        assert_eq!(printable("a\\b\nc\x1b[2J\r\u{9b}é"), "a\\b\nc\\033[2J\\015\\302\\233é");
    }

    #[test]
    fn names_for_programs_lose_nothing() {
        let mut object = Map::new();
        insert(&mut object, "path", b"/a\nb");
        insert(&mut object, "other", b"/\xff");
        assert_eq!(object.get("path").unwrap(), "/a\nb");
        assert!(!object.contains_key("path_base64"));
        assert_eq!(BASE64.decode(object.get("other_base64").unwrap().as_str().unwrap().as_bytes()).unwrap(), b"/\xff");
    }
}
