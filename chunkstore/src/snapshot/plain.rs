//! What a snapshot says, as values and as bytes: the summary for anyone, the details for key holders.

use crate::coding::{Decoder, Encoder};
use crate::error::{Error, Result};
use crate::id::{BlobId, HalfTag, Reference, RepositoryId, RunId, SnapshotId};
use std::collections::BTreeSet;

const ELEMENT_BYTES_MAX: usize = 65_536;
const ELEMENTS_MAX: usize = 4_096;
const COMPONENT_BYTES_MAX: usize = 255;

#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Totals {
    pub files: u64,
    pub directories: u64,
    /// Symlinks, devices, FIFOs, sockets.
    pub others: u64,
    /// Sum of the sizes of files.
    pub content_bytes: u64,
    /// Bytes of new records.
    pub added_bytes: u64,
}

/// What anyone may read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Summary {
    pub repository: RepositoryId,
    pub run: RunId,
    /// `HOST/KIND/NAME`
    pub dataset: String,
    /// Nanoseconds since 1970: when it was committed.
    pub time: i64,
    pub incomplete: bool,
    pub root: Reference,
    pub writer: [u8; 32],
    pub sequence: u64,
    pub previous: Option<SnapshotId>,
    pub labels: Vec<String>,
    pub totals: Totals,
}

impl Summary {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut e = Encoder::new();
        e.raw(&self.repository.0).raw(&self.run.0).bytes(self.dataset.as_bytes()).i64(self.time);
        e.u8(u8::from(self.incomplete)).raw(&self.root.id.0).raw(&self.root.tag.0).raw(&self.writer).u64(self.sequence);
        e.raw(&self.previous.unwrap_or_default().0);
        e.varint(self.labels.len() as u64);
        for label in &self.labels {
            e.bytes(label.as_bytes());
        }
        let Totals { files, directories, others, content_bytes, added_bytes } = self.totals;
        e.varint(files).varint(directories).varint(others).varint(content_bytes).varint(added_bytes);
        e.bytes
    }

    pub(super) fn decode(bytes: &[u8], object: &str) -> Result<Summary> {
        let mut d = Decoder::new(bytes, object);
        let summary = Summary {
            repository: RepositoryId(d.array()?),
            run: RunId(d.array()?),
            dataset: decode_word(&mut d, "a dataset", validate_dataset)?,
            time: d.i64()?,
            incomplete: decode_bool(&mut d)?,
            root: Reference { id: BlobId(d.array()?), tag: HalfTag(d.array()?) },
            writer: d.array()?,
            sequence: d.u64()?,
            previous: Some(SnapshotId(d.array()?)).filter(|id| *id != SnapshotId::default()),
            labels: decode_labels(&mut d)?,
            totals: Totals {
                files: d.varint()?,
                directories: d.varint()?,
                others: d.varint()?,
                content_bytes: d.varint()?,
                added_bytes: d.varint()?,
            },
        };
        d.finish()?;
        Ok(summary)
    }
}

/// What only key holders read.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Details {
    pub host: Vec<u8>,
    pub paths: Vec<Vec<u8>>,
    pub started: i64,
    pub finished: i64,
    pub program: String,
    /// Facts of the source, keys in ASCII and unique, in order.
    pub facts: Vec<(String, Vec<u8>)>,
}

impl Details {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut e = Encoder::new();
        e.bytes(&self.host).varint(self.paths.len() as u64);
        for path in &self.paths {
            e.bytes(path);
        }
        e.i64(self.started).i64(self.finished).bytes(self.program.as_bytes()).varint(self.facts.len() as u64);
        for (key, value) in &self.facts {
            e.bytes(key.as_bytes()).bytes(value);
        }
        e.bytes
    }

    pub(super) fn decode(bytes: &[u8], object: &str) -> Result<Details> {
        let mut d = Decoder::new(bytes, object);
        let details = Details {
            host: d.bytes(ELEMENT_BYTES_MAX, "a host's name")?.to_vec(),
            paths: decode_paths(&mut d)?,
            started: d.i64()?,
            finished: d.i64()?,
            program: decode_word(&mut d, "a program's name", |_| Ok(()))?,
            facts: decode_facts(&mut d)?,
        };
        d.finish()?;
        Ok(details)
    }
}

/// `HOST/KIND/NAME`: three components of 1 to 255 bytes without control characters, none of them `.` or `..`.
pub fn validate_dataset(dataset: &str) -> Result<()> {
    let refused = |reason: &str| Err(Error::invalid(format!("dataset {dataset:?}"), reason));
    if dataset.split('/').count() != 3 {
        return refused("it has to be HOST/KIND/NAME");
    }
    for component in dataset.split('/') {
        match component {
            "" | "." | ".." => return refused("a part of HOST/KIND/NAME is empty or only dots"),
            long if long.len() > COMPONENT_BYTES_MAX => return refused("a part of HOST/KIND/NAME exceeds 255 bytes"),
            _ => {}
        }
    }
    if dataset.chars().any(char::is_control) { refused("it has control characters") } else { Ok(()) }
}

/// A snapshot's label: text without control characters; the same text, for chaining.
pub fn validate_label(label: &str) -> Result<&str> {
    if label.is_empty() || label.chars().any(char::is_control) {
        return Err(Error::invalid(format!("label {label:?}"), "it is empty or has control characters"));
    }
    Ok(label)
}

fn decode_word(d: &mut Decoder<'_>, what: &str, validate: fn(&str) -> Result<()>) -> Result<String> {
    let bytes = d.bytes(ELEMENT_BYTES_MAX, what)?;
    let text = std::str::from_utf8(bytes).map_err(|_| d.corrupt(format!("{what} is not UTF-8")))?;
    validate(text).map_err(|error| d.corrupt(error.to_string()))?;
    Ok(text.to_owned())
}

fn decode_bool(d: &mut Decoder<'_>) -> Result<bool> {
    match d.u8()? {
        0 => Ok(false),
        1 => Ok(true),
        other => Err(d.corrupt(format!("{other} where 0 or 1 should be"))),
    }
}

fn decode_labels(d: &mut Decoder<'_>) -> Result<Vec<String>> {
    let count = d.count(ELEMENTS_MAX, 2, "labels")?;
    (0..count).map(|_| decode_word(d, "a label", |label| validate_label(label).map(drop))).collect()
}

fn decode_paths(d: &mut Decoder<'_>) -> Result<Vec<Vec<u8>>> {
    let count = d.count(ELEMENTS_MAX, 1, "paths")?;
    (0..count).map(|_| d.bytes(ELEMENT_BYTES_MAX, "a path").map(<[u8]>::to_vec)).collect()
}

fn decode_facts(d: &mut Decoder<'_>) -> Result<Vec<(String, Vec<u8>)>> {
    let count = d.count(ELEMENTS_MAX, 2, "facts")?;
    let mut facts = Vec::with_capacity(count);
    let mut keys = BTreeSet::new();
    for _ in 0..count {
        let key = decode_word(d, "a fact's key", validate_key)?;
        if !keys.insert(key.clone()) {
            return Err(d.corrupt(format!("the fact {key} is there twice")));
        }
        facts.push((key, d.bytes(ELEMENT_BYTES_MAX, "a fact")?.to_vec()));
    }
    Ok(facts)
}

fn validate_key(key: &str) -> Result<()> {
    if key.is_empty() || !key.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Error::invalid(format!("fact {key:?}"), "its key is not printable ASCII"));
    }
    Ok(())
}
