//! Follows the bytes of pg_dump's custom format as they pass, to tell at the end whether all that its table of contents
//! announces is there. Holds no more than one number at a time, whatever the bytes are.

/// Versions whose layout is known; of newer ones nothing is told.
const VERSION_MIN: u16 = 0x010C;
const VERSION_MAX: u16 = 0x0110;

/// Fields of an entry in the table of contents.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Field {
    Number,
    /// Whether data follows for it.
    HasData,
    Text,
    /// Texts up to one that is null.
    Texts,
    /// A flag and a position in the file.
    Place,
}

/// What the next bytes are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Next {
    Magic,
    /// Version (3), sizes of numbers and positions, format.
    Sizes,
    Compression,
    /// So many numbers of the header, then three texts.
    HeaderNumbers(u8),
    HeaderText(u8),
    EntryCount,
    /// The n-th field of an entry.
    Entry(usize),
    BlockType,
    BlockId,
    /// Length of a piece of data, 0 at its end.
    Length,
    /// Number of a large object, 0 at the end of them.
    ObjectId,
}

/// How it stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// All blocks that were announced have come, and the last one ended.
    Complete,
    Incomplete,
    /// These bytes are no such archive.
    Wrong,
    /// A format of a newer program.
    Unknown,
}

pub struct Archive {
    next: Next,
    state: Option<State>,
    /// Bytes to let pass before `next`.
    skip: u64,
    /// What of `next` has come.
    held: Vec<u8>,
    version: u16,
    number_bytes: usize,
    place_bytes: usize,
    entries_left: u64,
    announced: u64,
    ended: u64,
    in_objects: bool,
}

const MAGIC: &[u8; 5] = b"PGDMP";
const CUSTOM: u8 = 1;
const DATA: u8 = 1;
const OBJECTS: u8 = 3;

impl Archive {
    pub fn new() -> Archive {
        Archive {
            next: Next::Magic,
            state: None,
            skip: 0,
            held: Vec::with_capacity(16),
            version: 0,
            number_bytes: 0,
            place_bytes: 0,
            entries_left: 0,
            announced: 0,
            ended: 0,
            in_objects: false,
        }
    }

    pub fn state(&self) -> State {
        let is_at_end = self.next == Next::BlockType && self.skip == 0 && self.held.is_empty();
        match self.state {
            Some(state) => state,
            None if is_at_end && self.ended == self.announced => State::Complete,
            None => State::Incomplete,
        }
    }

    pub fn feed(&mut self, mut bytes: &[u8]) {
        while self.state.is_none() {
            if self.skip > 0 {
                let len = usize::try_from(self.skip).unwrap_or(usize::MAX).min(bytes.len());
                self.skip -= len as u64;
                bytes = bytes.get(len..).unwrap_or_default();
                if self.skip > 0 {
                    return;
                }
            }
            let wanted = self.wanted().saturating_sub(self.held.len());
            let Some((now, later)) = bytes.split_at_checked(wanted) else {
                self.held.extend_from_slice(bytes);
                return;
            };
            self.held.extend_from_slice(now);
            bytes = later;
            let held = std::mem::take(&mut self.held);
            if let Err(state) = self.take(&held) {
                self.state = Some(state);
            }
            self.held = held;
            self.held.clear();
            if bytes.is_empty() && self.skip == 0 {
                return;
            }
        }
    }

    /// How many bytes the next thing has.
    fn wanted(&self) -> usize {
        let number = self.number_bytes + 1;
        match self.next {
            Next::Magic => MAGIC.len(),
            Next::Sizes => 6,
            Next::Compression if self.version >= 0x010F => 1,
            Next::BlockType => 1,
            Next::Entry(field) if self.field(field) == Some(Field::Place) => self.place_bytes + 1,
            _ => number,
        }
    }

    fn take(&mut self, held: &[u8]) -> Result<(), State> {
        match self.next {
            Next::Magic if held == MAGIC => self.next = Next::Sizes,
            Next::Magic => return Err(State::Wrong),
            Next::Sizes => self.take_sizes(held)?,
            Next::Compression => self.next = Next::HeaderNumbers(0),
            // Second, minute, hour, day, month, year, summer time.
            Next::HeaderNumbers(n) => self.next = if n < 6 { Next::HeaderNumbers(n + 1) } else { Next::HeaderText(0) },
            // Database, version of the server, version of the program.
            Next::HeaderText(n) => {
                self.skip_text(held);
                self.next = if n < 2 { Next::HeaderText(n + 1) } else { Next::EntryCount };
            }
            Next::EntryCount => {
                self.entries_left = positive(held)?;
                self.next = if self.entries_left > 0 { Next::Entry(0) } else { Next::BlockType };
            }
            Next::Entry(field) => self.take_field(field, held)?,
            Next::BlockType => {
                self.in_objects = held == [OBJECTS];
                if held != [DATA] && !self.in_objects {
                    return Err(State::Wrong);
                }
                self.next = Next::BlockId;
            }
            Next::BlockId => self.next = if self.in_objects { Next::ObjectId } else { Next::Length },
            Next::ObjectId if positive(held)? == 0 => self.end_block(),
            Next::ObjectId => self.next = Next::Length,
            Next::Length => match (positive(held)?, self.in_objects) {
                (0, true) => self.next = Next::ObjectId,
                (0, false) => self.end_block(),
                (len, _) => self.skip = len,
            },
        }
        Ok(())
    }

    fn take_sizes(&mut self, held: &[u8]) -> Result<(), State> {
        let &[major, minor, _, number_bytes, place_bytes, format] = held else { return Err(State::Wrong) };
        self.version = u16::from_be_bytes([major, minor]);
        if self.version > VERSION_MAX {
            return Err(State::Unknown);
        }
        if self.version < VERSION_MIN
            || !(1..=8).contains(&number_bytes)
            || !(1..=8).contains(&place_bytes)
            || format != CUSTOM
        {
            return Err(State::Wrong);
        }
        (self.number_bytes, self.place_bytes) = (number_bytes.into(), place_bytes.into());
        self.next = Next::Compression;
        Ok(())
    }

    /// Number, data, two object ids, tag, kind, section, four statements and names, table space, access method, kind of
    /// relation, owner, an old flag, dependencies, place.
    fn field(&self, n: usize) -> Option<Field> {
        use Field::{HasData, Number, Place, Text, Texts};
        const HEAD: [Field; 12] = [Number, HasData, Text, Text, Text, Text, Number, Text, Text, Text, Text, Text];
        let method = (self.version >= 0x010E).then_some(Text);
        let relation = (self.version >= 0x0110).then_some(Number);
        let tail = [method, relation, Some(Text), Some(Text), Some(Texts), Some(Place)];
        HEAD.into_iter().chain(tail.into_iter().flatten()).nth(n)
    }

    fn take_field(&mut self, n: usize, held: &[u8]) -> Result<(), State> {
        match self.field(n) {
            Some(Field::Number | Field::Place) => (),
            Some(Field::HasData) => self.announced += u64::from(positive(held)? != 0),
            Some(Field::Text) => _ = self.skip_text(held),
            Some(Field::Texts) => {
                if self.skip_text(held) {
                    return Ok(());
                }
            }
            None => return Err(State::Wrong),
        }
        self.next = Next::Entry(n + 1);
        if self.field(n + 1).is_none() {
            self.entries_left -= 1;
            self.next = if self.entries_left > 0 { Next::Entry(0) } else { Next::BlockType };
        }
        Ok(())
    }

    /// False for a text that is null.
    fn skip_text(&mut self, held: &[u8]) -> bool {
        let (len, is_negative) = number(held);
        if !is_negative {
            self.skip = len;
        }
        !is_negative
    }

    fn end_block(&mut self) {
        self.ended += 1;
        self.next = Next::BlockType;
    }
}

/// A sign, then little-endian bytes.
fn number(held: &[u8]) -> (u64, bool) {
    let (sign, bytes) = held.split_first().unwrap_or((&0, &[]));
    (bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)), *sign != 0)
}

fn positive(held: &[u8]) -> Result<u64, State> {
    match number(held) {
        (number, false) => Ok(number),
        _ => Err(State::Wrong),
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// What pg_dump 15 writes for two tables (one empty) and two large objects.
    pub fn golden() -> Vec<u8> {
        let mut bytes = b"PGDMP\x01\x0e\x00\x04\x08\x01".to_vec();
        let number = |bytes: &mut Vec<u8>, n: i32| {
            bytes.push(u8::from(n < 0));
            bytes.extend(n.unsigned_abs().to_le_bytes());
        };
        let text = |bytes: &mut Vec<u8>, t: Option<&str>| match t {
            None => number(bytes, -1),
            Some(t) => {
                number(bytes, i32::try_from(t.len()).unwrap());
                bytes.extend(t.as_bytes());
            }
        };
        for n in [0, 1, 2, 3, 4, 5, 126, 0] {
            number(&mut bytes, n);
        }
        for t in ["projop", "15.18", "15.18"] {
            text(&mut bytes, Some(t));
        }
        number(&mut bytes, 4);
        for (id, has_data) in [(1, 0), (2, 1), (3, 1), (4, 1)] {
            number(&mut bytes, id);
            number(&mut bytes, has_data);
            for t in [Some("1259"), Some("16384"), Some("partner"), Some("TABLE DATA")] {
                text(&mut bytes, t);
            }
            number(&mut bytes, 3);
            for t in
                [Some("CREATE TABLE x ();"), None, Some("COPY x FROM stdin;\n"), Some("public"), None, Some("heap")]
            {
                text(&mut bytes, t);
            }
            for t in [Some("projop"), Some("false"), Some("1"), Some("2"), None] {
                text(&mut bytes, t);
            }
            bytes.extend([1; 9]);
        }
        bytes.push(1);
        number(&mut bytes, 2);
        for row in ["1\tone\n", "2\ttwo\n"] {
            text(&mut bytes, Some(row));
        }
        number(&mut bytes, 0);
        bytes.push(1);
        number(&mut bytes, 3);
        number(&mut bytes, 0);
        bytes.push(3);
        number(&mut bytes, 4);
        for object in [16400, 16401] {
            number(&mut bytes, object);
            text(&mut bytes, Some("large"));
            number(&mut bytes, 0);
        }
        number(&mut bytes, 0);
        bytes
    }

    fn judge(bytes: &[u8], step: usize) -> State {
        let mut archive = Archive::new();
        bytes.chunks(step).for_each(|part| archive.feed(part));
        archive.state()
    }

    #[test]
    fn the_whole_is_complete_however_it_comes() {
        let golden = golden();
        for step in [1, 2, 3, 5, 7, 64, 100_000] {
            assert_eq!(judge(&golden, step), State::Complete, "{step}");
        }
    }

    #[test]
    fn no_part_of_it_is() {
        let golden = golden();
        for len in 0..golden.len() {
            assert_eq!(judge(&golden[..len], 100_000), State::Incomplete, "{len} bytes");
        }
        let mut longer = golden;
        longer.push(1);
        assert_eq!(judge(&longer, 9), State::Incomplete);
    }

    #[test]
    fn nothing_makes_it_panic_or_grow() {
        let golden = golden();
        for at in 0..golden.len() {
            for bit in 0..8 {
                let mut bytes = golden.clone();
                bytes[at] ^= 1 << bit;
                let mut archive = Archive::new();
                archive.feed(&bytes);
                assert!(archive.held.capacity() <= 64);
            }
        }
        let flipped = |at: usize, value: u8| {
            let mut bytes = golden.clone();
            bytes[at] = value;
            judge(&bytes, 1000)
        };
        assert_eq!(flipped(0, b'X'), State::Wrong);
        assert_eq!(flipped(6, 0x11), State::Unknown);
        assert_eq!(flipped(10, 2), State::Wrong, "not the custom format");
    }
}
