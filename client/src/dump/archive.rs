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
    Some(finish(header, path, attributes, size, target))
}

/// A further name of a member.
pub fn hard_link(path: &[u8], attributes: &Attributes, first: &[u8]) -> Vec<u8> {
    let mut header = Header::new_ustar();
    header.set_entry_type(EntryType::Link);
    finish(header, path, attributes, 0, first)
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

fn finish(mut header: Header, path: &[u8], attributes: &Attributes, size: u64, target: &[u8]) -> Vec<u8> {
    let mut records = Records::default();
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
