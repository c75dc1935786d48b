//! Tar headers: ustar, with pax records for whatever it has no room for. Pure.
//!
//! Extended attributes are `SCHILY.xattr.*` and ACLs `SCHILY.acl.*` in text form, which is what GNU tar and libarchive
//! read. Names that are not UTF-8 are written as they are, which both take (GNU tar complains of `hdrcharset`). Inode flags
//! have no place in an archive.

use chunkstore::tree::{Attributes, Node};
use tar::{EntryType, Header};

const BLOCK: usize = 512;
/// The most that a ustar header's octal fields hold.
const OWNER_MAX: u32 = 0o7_777_777;
const SIZE_MAX: u64 = 0o77_777_777_777;
const TIME_MAX: i64 = 0o77_777_777_777;
const DEVICE_MAX: u32 = 0o7_777_777;

/// Where a file with holes has data: offset and length of each stretch, ascending. They begin and end at whole blocks, since
/// GNU tar reads each from a new one.
#[derive(Default)]
pub struct Map {
    stretches: Vec<(u64, u64)>,
}

impl Map {
    /// Adds data after all that was added before, in a file of this size.
    pub fn push(&mut self, offset: u64, len: u64, size: u64) {
        let block = BLOCK as u64;
        let begin = offset - offset % block;
        let end = (offset + len).checked_next_multiple_of(block).map_or(size, |end| end.min(size));
        match self.stretches.last_mut() {
            Some((last, len)) if *last + *len >= begin => *len = end - *last,
            _ => self.stretches.push((begin, end - begin)),
        }
    }

    pub fn len(&self) -> usize {
        self.stretches.len()
    }

    /// How much of a hole belongs to stretches of data.
    pub fn overlap(&self, offset: u64, len: u64) -> u64 {
        let first = self.stretches.partition_point(|(begin, len)| begin + len <= offset);
        let touched = self.stretches.iter().skip(first).take_while(|(begin, _)| *begin < offset + len);
        touched.map(|(begin, l)| (begin + l).min(offset + len) - offset.max(*begin)).sum()
    }

    pub fn data_bytes(&self) -> u64 {
        self.stretches.iter().map(|(_, len)| len).sum()
    }

    /// What precedes the data. The file's end is told by an empty stretch.
    fn encode(&self, size: u64) -> Vec<u8> {
        let numbers = self.stretches.iter().copied().chain([(size, 0)]).flat_map(|(offset, len)| [offset, len]);
        let mut bytes = format!("{}\n", self.stretches.len() + 1).into_bytes();
        for number in numbers {
            bytes.extend_from_slice(format!("{number}\n").as_bytes());
        }
        bytes.extend(padding(bytes.len() as u64));
        bytes
    }
}

/// A regular file with holes: GNU's sparse format 1.0, which libarchive reads as well.
pub fn sparse_member(path: &[u8], attributes: &Attributes, size: u64, map: &Map) -> Vec<u8> {
    let mut records = Records::default();
    records.push("GNU.sparse.major", b"1");
    records.push("GNU.sparse.minor", b"0");
    records.push("GNU.sparse.name", path);
    records.push("GNU.sparse.realsize", size.to_string().as_bytes());
    let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    let stand_in = [b"GNUSparseFile.0/", name.get(..80).unwrap_or(name)].concat();
    let mut header = Header::new_ustar();
    header.set_entry_type(EntryType::Regular);
    let map_bytes = map.encode(size);
    let len = map_bytes.len() as u64 + map.data_bytes();
    let mut bytes = finish(header, records, &stand_in, attributes, len, &[]);
    bytes.extend(map_bytes);
    bytes
}

/// Headers of one member, ready to be written. None for what no archive can hold: sockets, and numbers out of range.
pub fn member(path: &[u8], attributes: &Attributes, node: &Node) -> Option<Vec<u8>> {
    let mut header = Header::new_ustar();
    let mut size = 0;
    let mut target: &[u8] = &[];
    header.set_entry_type(match node {
        Node::File(content) => {
            size = content.size();
            EntryType::Regular
        }
        Node::Directory(_) => EntryType::Directory,
        Node::Symlink(to) => {
            target = to;
            EntryType::Symlink
        }
        Node::Fifo => EntryType::Fifo,
        Node::CharacterDevice { .. } => EntryType::Char,
        Node::BlockDevice { .. } => EntryType::Block,
        Node::Socket => return None,
    });
    if let Node::CharacterDevice { major, minor } | Node::BlockDevice { major, minor } = node {
        if *major > DEVICE_MAX || *minor > DEVICE_MAX {
            return None;
        }
        header.set_device_major(*major).ok()?;
        header.set_device_minor(*minor).ok()?;
    }
    Some(finish(header, Records::default(), path, attributes, size, target))
}

/// A further name of a member.
pub fn hard_link(path: &[u8], attributes: &Attributes, first: &[u8]) -> Vec<u8> {
    let mut header = Header::new_ustar();
    header.set_entry_type(EntryType::Link);
    finish(header, Records::default(), path, attributes, 0, first)
}

/// What fills the last block of a content.
pub fn padding(size: u64) -> Vec<u8> {
    let rest = usize::try_from(size % BLOCK as u64).unwrap_or(0);
    vec![0; if rest == 0 { 0 } else { BLOCK - rest }]
}

/// What ends an archive.
pub fn end() -> Vec<u8> {
    vec![0; 2 * BLOCK]
}

fn finish(
    mut header: Header,
    mut records: Records,
    path: &[u8],
    attributes: &Attributes,
    size: u64,
    target: &[u8],
) -> Vec<u8> {
    let fields = header.as_ustar_mut();
    if let Some(fields) = fields {
        records.text(&mut fields.name, "path", path);
        records.text(&mut fields.linkname, "linkpath", target);
        records.text(&mut fields.uname, "uname", &attributes.user);
        records.text(&mut fields.gname, "gname", &attributes.group);
    }
    header.set_mode(attributes.mode);
    header.set_uid(records.number("uid", attributes.uid.into(), OWNER_MAX.into()));
    header.set_gid(records.number("gid", attributes.gid.into(), OWNER_MAX.into()));
    header.set_size(records.number("size", size, SIZE_MAX));
    let time = attributes.modified;
    let fits = time.nanoseconds == 0 && (0..=TIME_MAX).contains(&time.seconds);
    if !fits {
        records.push("mtime", decimal(time.seconds, time.nanoseconds).as_bytes());
    }
    header.set_mtime(u64::try_from(time.seconds.clamp(0, TIME_MAX)).unwrap_or(0));
    for (name, value) in &attributes.xattrs {
        records.extended_attribute(name, value);
    }
    header.set_cksum();
    let mut bytes = records.member();
    bytes.extend_from_slice(header.as_bytes());
    bytes
}

/// Seconds before or after 1970 with a fraction: nanoseconds count forward, a decimal fraction away from zero.
fn decimal(seconds: i64, nanoseconds: u32) -> String {
    let (sign, whole, fraction) = if seconds < 0 && nanoseconds > 0 {
        ("-", (seconds + 1).unsigned_abs(), 1_000_000_000 - nanoseconds)
    } else {
        (if seconds < 0 { "-" } else { "" }, seconds.unsigned_abs(), nanoseconds)
    };
    if fraction == 0 { format!("{sign}{whole}") } else { format!("{sign}{whole}.{fraction:09}") }
}

/// Pax records of one member.
#[derive(Default)]
struct Records {
    bytes: Vec<u8>,
}

impl Records {
    fn push(&mut self, key: &str, value: &[u8]) {
        self.push_raw(key.as_bytes(), value);
    }

    /// A record begins with its own length, digits included.
    fn push_raw(&mut self, key: &[u8], value: &[u8]) {
        let rest = key.len() + value.len() + 3;
        let mut len = rest + 1;
        while len != rest + len.to_string().len() {
            len = rest + len.to_string().len();
        }
        self.bytes.extend_from_slice(len.to_string().as_bytes());
        for part in [b" ", key, b"=", value, b"\n"] {
            self.bytes.extend_from_slice(part);
        }
    }

    /// Fills a field, and adds a record if the text does not fit in or is not plain.
    fn text(&mut self, field: &mut [u8], key: &str, value: &[u8]) {
        if value.len() > field.len() || !value.is_ascii() {
            self.push(key, value);
        }
        for (to, from) in field.iter_mut().zip(value) {
            *to = *from;
        }
    }

    /// The number for the field: a record says it if it is too large.
    fn number(&mut self, key: &str, value: u64, max: u64) -> u64 {
        if value <= max {
            return value;
        }
        self.push(key, value.to_string().as_bytes());
        0
    }

    fn extended_attribute(&mut self, name: &[u8], value: &[u8]) {
        let acl = match name {
            b"system.posix_acl_access" => Some(("SCHILY.acl.access", acl_text(value))),
            b"system.posix_acl_default" => Some(("SCHILY.acl.default", acl_text(value))),
            _ => None,
        };
        if let Some((key, Some(text))) = acl {
            return self.push(key, text.as_bytes());
        }
        let mut key = b"SCHILY.xattr.".to_vec();
        for byte in name {
            match byte {
                b'=' => key.extend_from_slice(b"%3D"),
                b'%' => key.extend_from_slice(b"%25"),
                byte => key.push(*byte),
            }
        }
        self.push_raw(&key, value);
    }

    /// The member that carries the records, if there are any.
    fn member(mut self) -> Vec<u8> {
        if self.bytes.is_empty() {
            return Vec::new();
        }
        let mut header = Header::new_ustar();
        header.set_entry_type(EntryType::XHeader);
        if let Some(fields) = header.as_ustar_mut() {
            for (to, from) in fields.name.iter_mut().zip(b"pax_header") {
                *to = *from;
            }
        }
        header.set_mode(0o600);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(self.bytes.len() as u64);
        header.set_cksum();
        let mut bytes = header.as_bytes().to_vec();
        let padding = padding(self.bytes.len() as u64);
        bytes.append(&mut self.bytes);
        bytes.extend_from_slice(&padding);
        bytes
    }
}

/// The text form of the kernel's binary form of a POSIX ACL; none if it is not one.
fn acl_text(value: &[u8]) -> Option<String> {
    let entries = value.strip_prefix(&2u32.to_le_bytes())?;
    let (entries, rest) = entries.as_chunks::<8>();
    if !rest.is_empty() {
        return None;
    }
    let mut texts = Vec::new();
    for [tag_low, tag_high, perm_low, perm_high, id @ ..] in entries {
        let id = u32::from_le_bytes(*id);
        let subject = match u16::from_le_bytes([*tag_low, *tag_high]) {
            0x01 => "user:".to_owned(),
            0x02 => format!("user:{id}"),
            0x04 => "group:".to_owned(),
            0x08 => format!("group:{id}"),
            0x10 => "mask:".to_owned(),
            0x20 => "other:".to_owned(),
            _ => return None,
        };
        let permissions = u16::from_le_bytes([*perm_low, *perm_high]);
        let bit = |bit, letter| if permissions & bit != 0 { letter } else { '-' };
        texts.push(format!("{subject}:{}{}{}", bit(4, 'r'), bit(2, 'w'), bit(1, 'x')));
    }
    Some(texts.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_as_decimals() {
        for (seconds, nanoseconds, text) in [
            (0, 0, "0"),
            (1, 5, "1.000000005"),
            (-1, 0, "-1"),
            (-1, 999_999_999, "-0.000000001"),
            (-2, 250_000_000, "-1.750000000"),
            (i64::MIN, 0, "-9223372036854775808"),
            (i64::MAX, 1, "9223372036854775807.000000001"),
        ] {
            assert_eq!(decimal(seconds, nanoseconds), text);
        }
    }

    #[test]
    fn stretches_are_whole_blocks() {
        let mut map = Map::default();
        for (offset, len) in [(10, 100), (600, 1), (5000, 1000), (9000, 1000)] {
            map.push(offset, len, 10_000);
        }
        assert_eq!(map.stretches, [(0, 1024), (4608, 1536), (8704, 1296)]);
        assert_eq!(map.data_bytes(), 1024 + 1536 + 1296);
        assert_eq!((map.overlap(0, 10), map.overlap(110, 490)), (10, 490));
        assert_eq!((map.overlap(601, 4399), map.overlap(6000, 3000)), (423 + 392, 144 + 296));
        assert_eq!(map.overlap(2000, 100), 0);
        assert_eq!(map.encode(10_000).len(), 512);
        assert!(map.encode(10_000).starts_with(b"4\n0\n1024\n4608\n1536\n8704\n1296\n10000\n0\n\0"));
    }

    #[test]
    fn a_record_says_its_own_length() {
        for len in (0..300).chain([980, 990, 991, 992, 993, 994, 9_980, 9_985, 9_986, 9_987, 99_999]) {
            let mut records = Records::default();
            records.push("k", &vec![b'v'; len]);
            let text = std::str::from_utf8(&records.bytes).unwrap();
            let (said, rest) = text.split_once(' ').unwrap();
            assert_eq!(said.parse::<usize>().unwrap(), text.len());
            assert!(rest.starts_with("k=") && rest.ends_with('\n'));
        }
    }

    #[test]
    fn acls_that_are_none_stay_binary() {
        assert_eq!(acl_text(b""), None);
        assert_eq!(acl_text(&[2, 0, 0, 0, 1]), None);
        assert_eq!(acl_text(&[2, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0]), None, "unknown tag");
        let acl = [2, 0, 0, 0, 1, 0, 7, 0, 255, 255, 255, 255, 2, 0, 4, 0, 1, 1, 0, 0];
        assert_eq!(acl_text(&acl).unwrap(), "user::rwx,user:257:r--");
        let mut records = Records::default();
        records.extended_attribute(b"system.posix_acl_access", b"?");
        assert!(records.bytes.ends_with(b" SCHILY.xattr.system.posix_acl_access=?\n"));
    }
}
