//! Looks on while a dump passes: is its end there, and is it the same dump but for what differs every time (the time in an
//! archive's header, the token in a plain dump)?

use super::archive::{Archive, State};

/// The end of a plain dump, and what differs at its beginning, are within so many bytes.
const TAIL_BYTES: usize = 512;
const HEAD_BYTES: usize = 512;

/// What is dumped, and how.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shape {
    Custom,
    Plain,
    /// The plain text of `pg_dumpall`.
    Globals,
}

pub struct Watch {
    shape: Shape,
    archive: Archive,
    /// Bytes not yet digested: up to [`HEAD_BYTES`] of the beginning.
    head: Vec<u8>,
    /// The last bytes.
    tail: Vec<u8>,
    hasher: Option<blake3::Hasher>,
}

impl Watch {
    /// Digests only if it is asked for: that is not for nothing.
    pub fn new(shape: Shape, digests: bool) -> Watch {
        Watch {
            shape,
            archive: Archive::new(),
            head: Vec::new(),
            tail: Vec::new(),
            hasher: digests.then(blake3::Hasher::new),
        }
    }

    pub fn feed(&mut self, bytes: &[u8]) {
        if self.shape == Shape::Custom {
            self.archive.feed(bytes);
        }
        let room = HEAD_BYTES.saturating_sub(self.head.len());
        let (head, rest) = bytes.split_at(room.min(bytes.len()));
        let was_full = room == 0;
        self.head.extend_from_slice(head);
        if !was_full && self.head.len() == HEAD_BYTES {
            let masked = self.masked(&self.head);
            self.digest(&masked);
        }
        self.pass(rest);
    }

    /// Digests what is no longer at the end.
    fn pass(&mut self, bytes: &[u8]) {
        let (old, last) = bytes.split_at(bytes.len().saturating_sub(TAIL_BYTES));
        if !old.is_empty() {
            let tail = std::mem::take(&mut self.tail);
            self.digest(&tail);
            self.digest(old);
        }
        self.tail.extend_from_slice(last);
        let over = self.tail.len().saturating_sub(TAIL_BYTES);
        let past: Vec<u8> = self.tail.drain(..over).collect();
        self.digest(&past);
    }

    fn digest(&mut self, bytes: &[u8]) {
        if let Some(hasher) = &mut self.hasher {
            hasher.update(bytes);
        }
    }

    /// Without what differs every time.
    fn masked(&self, bytes: &[u8]) -> Vec<u8> {
        if self.shape == Shape::Custom {
            return mask_time(bytes);
        }
        let lines = bytes.split_inclusive(|byte| *byte == b'\n');
        let kept = lines.filter(|line| !line.starts_with(b"\\restrict ") && !line.starts_with(b"\\unrestrict "));
        kept.flatten().copied().collect()
    }

    /// Why it is not whole, if it is not.
    pub fn fault(&self) -> Option<&'static str> {
        match (self.shape, self.archive.state()) {
            (Shape::Custom, State::Complete | State::Unknown) => None,
            (Shape::Custom, State::Incomplete) => {
                Some("the archive is not whole: not all that its table of contents names has come")
            }
            (Shape::Custom, State::Wrong) => Some("what it wrote is not an archive in the custom format"),
            (Shape::Plain, _) => (!self.ends_with("-- PostgreSQL database dump complete")).then_some(NO_END),
            (Shape::Globals, _) => (!self.ends_with("-- PostgreSQL database cluster dump complete")).then_some(NO_END),
        }
    }

    /// Nothing is known of the format of this archive: only how the program ended speaks for it.
    pub fn is_unknown(&self) -> bool {
        self.shape == Shape::Custom && self.archive.state() == State::Unknown
    }

    /// Equal for dumps that say the same.
    pub fn sameness(&mut self) -> Option<[u8; 32]> {
        let mut last = Vec::new();
        if self.head.len() < HEAD_BYTES {
            last.extend(self.masked(&self.head));
        }
        last.extend(if self.shape == Shape::Custom { self.tail.clone() } else { self.masked(&self.tail) });
        let hasher = self.hasher.as_mut()?;
        hasher.update(&last);
        Some(*hasher.finalize().as_bytes())
    }

    /// Whether the last comment is this, but for a token that may follow.
    fn ends_with(&self, comment: &str) -> bool {
        let mut end = self.head.clone();
        end.extend_from_slice(&self.tail);
        let end = String::from_utf8_lossy(&end);
        let mut lines = end.lines().rev().filter(|line| !line.is_empty() && !line.starts_with("\\unrestrict "));
        lines.next() == Some("--") && lines.next() == Some(comment) && lines.next() == Some("--")
    }
}

const NO_END: &str = "the dump is not whole: its last line is missing";

/// The time in an archive's header: seven numbers after the compression.
fn mask_time(head: &[u8]) -> Vec<u8> {
    let mut head = head.to_vec();
    let number = usize::from(head.get(8).copied().unwrap_or_default()) + 1;
    let compression = if head.get(6).is_some_and(|minor| *minor >= 0x0F) { 1 } else { number };
    let start = 11 + compression;
    if let Some(time) = head.get_mut(start..start + 7 * number) {
        time.fill(0);
    }
    head
}

#[cfg(test)]
mod tests {
    use super::super::archive::tests::golden;
    use super::*;

    const PLAIN: &str = "--\n-- PostgreSQL database dump\n--\n\n\\restrict TOKEN\n\nSET x;\nBODY\
        --\n-- PostgreSQL database dump complete\n--\n\n\\unrestrict TOKEN\n\n";

    fn watched(shape: Shape, bytes: &[u8], step: usize) -> Watch {
        let mut watch = Watch::new(shape, true);
        bytes.chunks(step).for_each(|part| watch.feed(part));
        watch
    }

    fn plain(body: &str, token: &str) -> Vec<u8> {
        PLAIN.replace("BODY", body).replace("TOKEN", token).into_bytes()
    }

    #[test]
    fn a_plain_dump_has_its_last_line() {
        for size in [0, 10, 400, 500, 5000] {
            let whole = plain(&format!("{}\n", "x".repeat(size)), "abc");
            for step in [1, 100, 100_000] {
                assert_eq!(watched(Shape::Plain, &whole, step).fault(), None, "{size}");
            }
            // The last line may lack its line end, and a token.
            let end = whole.windows(10).rposition(|part| part == b"complete\n-").unwrap() + 8;
            for len in (0..=end).rev().take(300) {
                assert!(watched(Shape::Plain, &whole[..len], 100_000).fault().is_some(), "{len} of {size}");
            }
            assert!(watched(Shape::Globals, &whole, 100).fault().is_some());
        }
    }

    #[test]
    fn an_archive_has_all_its_blocks() {
        assert_eq!(watched(Shape::Custom, &golden(), 7).fault(), None);
        assert!(watched(Shape::Custom, &golden()[..300], 7).fault().is_some());
        assert!(watched(Shape::Custom, &plain("", "x"), 7).fault().is_some());
    }

    #[test]
    fn what_differs_every_time_makes_no_difference() {
        let same = |shape, bytes: &[u8], step| watched(shape, bytes, step).sameness().unwrap();
        for size in [0, 10, 500, 1000, 5000] {
            let body = format!("{}\n", "x\n".repeat(size));
            let first = same(Shape::Plain, &plain(&body, "abc"), 100_000);
            for step in [1, 9, 511, 512, 513, 100_000] {
                assert_eq!(same(Shape::Plain, &plain(&body, "abc"), step), first, "{size} {step}");
            }
            assert_eq!(same(Shape::Plain, &plain(&body, "xyz"), 100), first);
            assert_ne!(same(Shape::Plain, &plain(&format!("y{body}"), "abc"), 100), first);
        }
        let mut archive = golden();
        let first = same(Shape::Custom, &archive, 100);
        archive[17] ^= 1;
        assert_eq!(same(Shape::Custom, &archive, 1), first, "the second");
        archive[17 + 35] ^= 1;
        assert_ne!(same(Shape::Custom, &archive, 1), first, "the length of the name");
    }
}
