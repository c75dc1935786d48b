//! Bodies of frames: the table of `docs/protocol.md`, section 7, as code. Encoding and decoding stand side by side.

use super::{
    BATCH_MAX, ByClass, CAPSULE_BYTES_MAX, CONFIGURATION_BYTES_MAX, COPIES_MAX, Code, FETCH_MAX, FRAME_BYTES_MAX,
    Message, NAMES_MAX, ObjectKind, PATTERN_BYTES_MAX, PATTERNS_MAX, PROGRAM_BYTES_MAX, REPOSITORY_BYTES_MAX, Refusal,
    Role, SITE_BYTES_MAX, SITES_MAX, SLOT_BYTES_MAX, SLOTS_MAX, STORE_BYTES_MAX, TEXT_BYTES_MAX,
};
use chunkstore::Result;
use chunkstore::coding::{Decoder, Encoder};
use chunkstore::id::{BlobId, CapsuleId, HalfTag, SlotId, SnapshotId, Tag};

pub const RECORD: u8 = 35;
const OBJECT: u8 = 27;
const CAPSULE_OBJECT: u8 = 37;
const COMMIT: u8 = 42;

/// The type of a frame, and its name.
fn entry(message: &Message) -> (u8, &'static str) {
    match message {
        Message::Hello { .. } => (1, "Hello"),
        Message::Welcome { .. } => (2, "Welcome"),
        Message::Refused(_) => (3, "Refused"),
        Message::Enroll { .. } => (4, "Enroll"),
        Message::Enrolled { .. } => (5, "Enrolled"),
        Message::Known(_) => (16, "Known"),
        Message::KnownAnswer(_) => (17, "KnownAnswer"),
        Message::Present(_) => (18, "Present"),
        Message::PresentAnswer(_) => (19, "PresentAnswer"),
        Message::Alternate(_) => (22, "Alternate"),
        Message::AlternateAnswer(_) => (23, "AlternateAnswer"),
        Message::List { .. } => (24, "List"),
        Message::Names { .. } => (25, "Names"),
        Message::Fetch { .. } => (26, "Fetch"),
        Message::Object(_) => (OBJECT, "Object"),
        Message::Store { .. } => (28, "Store"),
        Message::Done => (29, "Done"),
        Message::Remove(_) => (30, "Remove"),
        Message::Create { .. } => (31, "Create"),
        Message::Arrange(_) => (32, "Arrange"),
        Message::Groups(_) => (33, "Groups"),
        Message::Read(_) => (34, "Read"),
        Message::Record(_) => (RECORD, "Record"),
        Message::Capsule(_) => (36, "Capsule"),
        Message::CapsuleObject(_) => (CAPSULE_OBJECT, "CapsuleObject"),
        Message::Statistics => (38, "Statistics"),
        Message::StatisticsAnswer { .. } => (39, "StatisticsAnswer"),
        Message::Push => (40, "Push"),
        Message::Flush => (41, "Flush"),
        Message::Commit(_) => (COMMIT, "Commit"),
        Message::Durable(_) => (43, "Durable"),
        Message::Committed { .. } => (44, "Committed"),
        Message::Flushed(_) => (45, "Flushed"),
        Message::Lost { .. } => (46, "Lost"),
        Message::Watch(_) => (64, "Watch"),
        Message::State(_) => (65, "State"),
        Message::Offer(_) => (66, "Offer"),
        Message::Wanted(_) => (67, "Wanted"),
        Message::Lacking => (68, "Lacking"),
        Message::Blobs(_) => (69, "Blobs"),
        Message::Held(_) => (70, "Held"),
        Message::Copies(_) => (71, "Copies"),
        Message::CopiesAnswer(_) => (72, "CopiesAnswer"),
    }
}

pub fn number(message: &Message) -> u8 {
    entry(message).0
}

pub fn name(message: &Message) -> &'static str {
    entry(message).1
}

/// Appends the body.
#[expect(clippy::too_many_lines, reason = "a table: one arm for each message")]
pub fn encode(message: &Message, bytes: &mut Vec<u8>) {
    let mut e = Encoder { bytes: std::mem::take(bytes) };
    match message {
        Message::Hello { version, repository, program } => {
            e.u16(*version).bytes(repository.as_bytes()).bytes(program.as_bytes());
        }
        Message::Welcome { version, program, configuration, generation, push_bytes_max } => {
            e.u16(*version).bytes(program.as_bytes()).bytes(configuration).raw(generation).u64(*push_bytes_max);
        }
        Message::Refused(refusal) => encode_refusal(&mut e, refusal),
        Message::Lost { id, refusal } => encode_refusal(e.raw(&id.0), refusal),
        Message::Enroll { version, invitation, proof, writer, name } => {
            e.u16(*version).raw(invitation).raw(proof).raw(writer).bytes(name.as_bytes());
        }
        Message::Enrolled { repository, role, datasets } => {
            e.bytes(repository.as_bytes()).u8(*role as u8).varint(datasets.len() as u64);
            datasets.iter().for_each(|pattern| {
                e.bytes(pattern.as_bytes());
            });
        }
        Message::Known(tags) => list(&mut e, tags.iter().map(|tag| &tag.0[..])),
        Message::Present(ids) | Message::Arrange(ids) | Message::Read(ids) | Message::Blobs(ids) => {
            list(&mut e, ids.iter().map(|id| &id.0[..]));
        }
        Message::Offer(ids) | Message::Held(ids) | Message::Copies(ids) => {
            list(&mut e, ids.iter().map(|id| &id.0[..]));
        }
        Message::Watch(digest) | Message::State(digest) => {
            e.raw(digest);
        }
        Message::CopiesAnswer(answers) => {
            e.varint(answers.len() as u64);
            for sites in answers {
                e.varint(sites.len() as u64);
                sites.iter().for_each(|site| {
                    e.bytes(site.as_bytes());
                });
            }
        }
        Message::KnownAnswer(answers) => {
            e.varint(answers.len() as u64);
            answers.iter().for_each(|answer| option(&mut e, *answer));
        }
        Message::PresentAnswer(answers) | Message::Wanted(answers) => {
            e.varint(answers.len() as u64);
            answers.iter().for_each(|answer| {
                e.u8(u8::from(*answer));
            });
        }
        Message::Alternate(half) => {
            e.raw(&half.0);
        }
        Message::AlternateAnswer(answer) => option(&mut e, *answer),
        Message::List { kind, after } => {
            e.u8(*kind as u8).bytes(after);
        }
        Message::Names { more, kind, names } => {
            e.u8(u8::from(*more)).u8(*kind as u8);
            list(&mut e, names.iter().map(Vec::as_slice));
        }
        Message::Fetch { kind, names } => {
            e.u8(*kind as u8);
            list(&mut e, names.iter().map(Vec::as_slice));
        }
        Message::Store { kind, bytes } => {
            e.u8(*kind as u8).bytes(bytes);
        }
        Message::Remove(id) => {
            e.raw(&id.0);
        }
        Message::Create { configuration, slots } => {
            e.bytes(configuration).varint(slots.len() as u64);
            slots.iter().for_each(|(id, bytes)| {
                e.raw(&id.0).bytes(bytes);
            });
        }
        Message::Groups(groups) => {
            e.varint(groups.len() as u64);
            for group in groups {
                e.varint(group.len() as u64);
                group.iter().for_each(|position| {
                    e.varint(u64::from(*position));
                });
            }
        }
        Message::Capsule(id) => {
            e.raw(&id.0);
        }
        Message::Object(bytes) | Message::Record(bytes) | Message::CapsuleObject(bytes) | Message::Commit(bytes) => {
            e.raw(bytes);
        }
        Message::StatisticsAnswer { packs, pack_bytes, blobs, blob_bytes } => {
            e.u64(*packs).u64(*pack_bytes).u64(*blobs).u64(*blob_bytes);
        }
        Message::Durable(counts) => {
            e.u64(counts.data).u64(counts.nodes);
        }
        Message::Flushed(count) => {
            e.u64(*count);
        }
        Message::Committed { snapshot, received } => {
            e.raw(&snapshot.0).i64(*received);
        }
        Message::Done | Message::Statistics | Message::Push | Message::Flush | Message::Lacking => {}
    }
    *bytes = e.bytes;
}

pub fn decode(number: u8, body: Vec<u8>) -> Result<Message> {
    // These are their bodies; their limit is that of the frame.
    match number {
        RECORD => return Ok(Message::Record(body)),
        OBJECT if body.len() <= FRAME_BYTES_MAX - 8 => return Ok(Message::Object(body)),
        CAPSULE_OBJECT if body.len() <= CAPSULE_BYTES_MAX => return Ok(Message::CapsuleObject(body)),
        COMMIT if body.len() <= FRAME_BYTES_MAX - 8 => return Ok(Message::Commit(body)),
        _ => {}
    }
    let object = format!("a frame of type {number}");
    let mut d = Decoder::new(&body, &object);
    let message = match number {
        1..=5 => decode_greeting(number, &mut d)?,
        24..=31 => decode_object(number, &mut d)?,
        64..=72 => decode_site(number, &mut d)?,
        _ => decode_blob(number, &mut d)?,
    };
    d.finish()?;
    Ok(message)
}

fn decode_greeting(number: u8, d: &mut Decoder<'_>) -> Result<Message> {
    Ok(match number {
        1 => {
            let (version, repository) = (d.u16()?, text(d, REPOSITORY_BYTES_MAX, "repository")?);
            Message::Hello { version, repository, program: text(d, PROGRAM_BYTES_MAX, "program")? }
        }
        2 => Message::Welcome {
            version: d.u16()?,
            program: text(d, PROGRAM_BYTES_MAX, "program")?,
            configuration: d.bytes(CONFIGURATION_BYTES_MAX, "configuration")?.to_vec(),
            generation: d.array()?,
            push_bytes_max: d.u64()?,
        },
        3 => Message::Refused(decode_refusal(d)?),
        4 => Message::Enroll {
            version: d.u16()?,
            invitation: d.array()?,
            proof: d.array()?,
            writer: d.array()?,
            name: text(d, PATTERN_BYTES_MAX, "name")?,
        },
        _ => {
            let repository = text(d, REPOSITORY_BYTES_MAX, "repository")?;
            let role = d.u8()?;
            let role = Role::from_number(role).ok_or_else(|| d.corrupt(format!("role {role} is unknown")))?;
            let count = d.count(PATTERNS_MAX, 1, "patterns")?;
            let datasets = (0..count).map(|_| text(d, PATTERN_BYTES_MAX, "pattern")).collect::<Result<_>>()?;
            Message::Enrolled { repository, role, datasets }
        }
    })
}

fn decode_object(number: u8, d: &mut Decoder<'_>) -> Result<Message> {
    Ok(match number {
        24 => {
            let kind = kind(d)?;
            let after = d.bytes(kind.name_len(), "name")?.to_vec();
            if !after.is_empty() && after.len() != kind.name_len() {
                return Err(d.corrupt("a name has a wrong length"));
            }
            Message::List { kind, after }
        }
        25 => {
            let (more, kind) = (flag(d)?, kind(d)?);
            let names = names(d, kind, NAMES_MAX)?;
            if !names.is_sorted_by(|a, b| a < b) {
                return Err(d.corrupt("its names are not in order"));
            }
            Message::Names { more, kind, names }
        }
        26 => {
            let kind = kind(d)?;
            Message::Fetch { kind, names: names(d, kind, FETCH_MAX)? }
        }
        28 => Message::Store { kind: kind(d)?, bytes: d.bytes(STORE_BYTES_MAX, "object")?.to_vec() },
        29 => Message::Done,
        30 => Message::Remove(SlotId(d.array()?)),
        31 => {
            let configuration = d.bytes(CONFIGURATION_BYTES_MAX, "configuration")?.to_vec();
            let count = d.count(SLOTS_MAX, 9, "key slots")?;
            let mut slots = Vec::with_capacity(count);
            for _ in 0..count {
                slots.push((SlotId(d.array()?), d.bytes(SLOT_BYTES_MAX, "key slot")?.to_vec()));
            }
            Message::Create { configuration, slots }
        }
        _ => return Err(unknown(number, d)),
    })
}

fn decode_blob(number: u8, d: &mut Decoder<'_>) -> Result<Message> {
    Ok(match number {
        16 => Message::Known(arrays(d, "tags")?.into_iter().map(Tag).collect()),
        17 => {
            let count = d.count(BATCH_MAX, 1, "answers")?;
            Message::KnownAnswer((0..count).map(|_| decode_option(d)).collect::<Result<_>>()?)
        }
        18 => Message::Present(ids(d)?),
        19 => {
            let count = d.count(BATCH_MAX, 1, "answers")?;
            Message::PresentAnswer((0..count).map(|_| flag(d)).collect::<Result<_>>()?)
        }
        22 => Message::Alternate(HalfTag(d.array()?)),
        23 => Message::AlternateAnswer(decode_option(d)?),
        32 => Message::Arrange(ids(d)?),
        33 => Message::Groups(groups(d)?),
        34 => Message::Read(ids(d)?),
        36 => Message::Capsule(CapsuleId(d.array()?)),
        38 => Message::Statistics,
        39 => {
            Message::StatisticsAnswer { packs: d.u64()?, pack_bytes: d.u64()?, blobs: d.u64()?, blob_bytes: d.u64()? }
        }
        40 => Message::Push,
        41 => Message::Flush,
        43 => Message::Durable(ByClass { data: d.u64()?, nodes: d.u64()? }),
        44 => Message::Committed { snapshot: SnapshotId(d.array()?), received: d.i64()? },
        45 => Message::Flushed(d.u64()?),
        46 => Message::Lost { id: BlobId(d.array()?), refusal: decode_refusal(d)? },
        _ => return Err(unknown(number, d)),
    })
}

fn decode_site(number: u8, d: &mut Decoder<'_>) -> Result<Message> {
    let snapshots = |d: &mut Decoder<'_>, limit: usize| -> Result<Vec<SnapshotId>> {
        let count = d.count(limit, 32, "snapshots")?;
        (0..count).map(|_| d.array().map(SnapshotId)).collect()
    };
    Ok(match number {
        64 => Message::Watch(d.array()?),
        65 => Message::State(d.array()?),
        66 => Message::Offer(snapshots(d, BATCH_MAX)?),
        67 => {
            let count = d.count(BATCH_MAX, 1, "answers")?;
            Message::Wanted((0..count).map(|_| flag(d)).collect::<Result<_>>()?)
        }
        68 => Message::Lacking,
        69 => Message::Blobs(ids(d)?),
        70 => Message::Held(snapshots(d, BATCH_MAX)?),
        71 => Message::Copies(snapshots(d, COPIES_MAX)?),
        _ => {
            let mut answers = Vec::new();
            for _ in 0..d.count(COPIES_MAX, 1, "answers")? {
                let count = d.count(SITES_MAX, 1, "sites")?;
                answers.push((0..count).map(|_| text(d, SITE_BYTES_MAX, "site")).collect::<Result<_>>()?);
            }
            Message::CopiesAnswer(answers)
        }
    })
}

fn encode_refusal(e: &mut Encoder, Refusal { code, object, reason }: &Refusal) {
    e.u16(*code as u16).bytes(cut(object).as_bytes()).bytes(cut(reason).as_bytes());
}

fn decode_refusal(d: &mut Decoder<'_>) -> Result<Refusal> {
    let code = d.u16()?;
    let code = Code::from_number(code).ok_or_else(|| d.corrupt(format!("refusal {code} is unknown")))?;
    Ok(Refusal { code, object: text(d, TEXT_BYTES_MAX, "object")?, reason: text(d, TEXT_BYTES_MAX, "reason")? })
}

fn unknown(number: u8, d: &Decoder<'_>) -> chunkstore::Error {
    d.corrupt(format!("type {number} is unknown, or it is too long"))
}

fn list<'a>(e: &mut Encoder, items: impl ExactSizeIterator<Item = &'a [u8]>) {
    e.varint(items.len() as u64);
    items.for_each(|item| {
        e.raw(item);
    });
}

fn option(e: &mut Encoder, answer: Option<BlobId>) {
    match answer {
        None => {
            e.u8(0);
        }
        Some(id) => {
            e.u8(1).raw(&id.0);
        }
    }
}

fn decode_option(d: &mut Decoder<'_>) -> Result<Option<BlobId>> {
    Ok(if flag(d)? { Some(BlobId(d.array()?)) } else { None })
}

fn flag(d: &mut Decoder<'_>) -> Result<bool> {
    match d.u8()? {
        0 => Ok(false),
        1 => Ok(true),
        other => Err(d.corrupt(format!("{other} is neither yes nor no"))),
    }
}

fn kind(d: &mut Decoder<'_>) -> Result<ObjectKind> {
    match d.u8()? {
        1 => Ok(ObjectKind::Snapshot),
        2 => Ok(ObjectKind::Mark),
        3 => Ok(ObjectKind::KeySlot),
        other => Err(d.corrupt(format!("object kind {other} is unknown"))),
    }
}

fn names(d: &mut Decoder<'_>, kind: ObjectKind, limit: usize) -> Result<Vec<Vec<u8>>> {
    let count = d.count(limit, kind.name_len(), "names")?;
    (0..count).map(|_| d.raw(kind.name_len()).map(<[u8]>::to_vec)).collect()
}

fn arrays(d: &mut Decoder<'_>, what: &str) -> Result<Vec<[u8; 32]>> {
    let count = d.count(BATCH_MAX, 32, what)?;
    (0..count).map(|_| d.array()).collect()
}

fn ids(d: &mut Decoder<'_>) -> Result<Vec<BlobId>> {
    Ok(arrays(d, "ids")?.into_iter().map(BlobId).collect())
}

/// Each position below their number, and each once.
fn groups(d: &mut Decoder<'_>) -> Result<Vec<Vec<u32>>> {
    let count = d.count(BATCH_MAX, 1, "groups")?;
    let mut groups = Vec::with_capacity(count);
    let mut seen = Vec::new();
    for _ in 0..count {
        let len = d.count(BATCH_MAX - seen.len(), 1, "positions")?;
        let group: Vec<u32> = (0..len).map(|_| d.number("position")).collect::<Result<_>>()?;
        seen.extend_from_slice(&group);
        groups.push(group);
    }
    seen.sort_unstable();
    if !seen.iter().zip(0..).all(|(position, expected)| *position == expected) {
        return Err(d.corrupt("its positions are not each there once"));
    }
    Ok(groups)
}

fn text(d: &mut Decoder<'_>, limit: usize, what: &str) -> Result<String> {
    let bytes = d.bytes(limit, what)?;
    str::from_utf8(bytes).map(str::to_owned).map_err(|_| d.corrupt(format!("its {what} is no text")))
}

/// As much of a text as a message may hold.
fn cut(text: &str) -> &str {
    text.get(..text.floor_char_boundary(TEXT_BYTES_MAX)).unwrap_or_default()
}
