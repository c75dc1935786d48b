//! One pack: its trailer against the index, its bytes against its name, its records one by one.
//!
//! A pack whose bytes are read is taken in parts, so that several threads may have a share of it ([`super::share`]).

use super::{Check, Gathered, damage, lock, note};
use crate::backend::ObjectName;
use crate::error::{Error, Result};
use crate::id::BlobId;
use crate::index::PackRow;
use crate::index::damage::ExpectedBlob;
use crate::pack::{PackBuilder, PackEntry, Trailer};
use crate::record::{Class, Kind, Record};
use crate::store::Store;
use std::ops::Range;
use std::sync::Mutex;

/// The records that are one thread's share: a hundredth of a second's work. A longer share leaves the others waiting at the end.
const PART_BYTES: u32 = 1 << 20;

/// A pack in memory, while it is looked at.
pub(super) struct Held<'p> {
    pub pack: &'p PackRow,
    pub bytes: Vec<u8>,
    expected: Vec<ExpectedBlob>,
    found: Mutex<Found>,
}

/// What the parts have come to.
#[derive(Default)]
struct Found {
    matches_name: bool,
    lost: Vec<BlobId>,
    whole: Vec<BlobId>,
}

/// A share of the work on a pack.
pub(super) enum Part {
    /// All bytes, against the name; the trailer, against the index.
    Name,
    /// Some of the expected records.
    Records(Range<usize>),
}

impl Held<'_> {
    /// The longest first.
    pub fn parts(&self) -> impl Iterator<Item = Part> {
        std::iter::once(Part::Name).chain(shares(&self.expected).into_iter().map(Part::Records))
    }
}

/// Neighbours together, each entry once.
fn shares(entries: &[ExpectedBlob]) -> Vec<Range<usize>> {
    let mut shares: Vec<Range<usize>> = Vec::new();
    let mut bytes = 0u32;
    for (at, entry) in entries.iter().enumerate() {
        bytes = bytes.saturating_add(entry.length);
        match shares.last_mut() {
            Some(share) if bytes <= PART_BYTES => share.end = at + 1,
            _ => {
                shares.push(at..at + 1);
                bytes = entry.length;
            }
        }
    }
    shares
}

impl Check<'_> {
    /// The trailer alone. False: only reading the records tells.
    pub(super) fn check_structure(&self, pack: &PackRow, gathered: &Mutex<Gathered>) -> Result<bool> {
        let backend = self.repository.backend();
        match Trailer::read(backend, pack.id, pack.length, &self.configuration.repository) {
            Ok(trailer) => self.compare_with_index(pack, &trailer.entries, gathered).map(|()| true),
            Err(e) => {
                let reason = damage(e)?;
                note(&mut lock(gathered).findings, format!("pack {}", pack.id), &reason, false);
                Ok(false)
            }
        }
    }

    /// The index must send a reader to this place, or to another where the blob lies too.
    fn compare_with_index(&self, pack: &PackRow, entries: &[PackEntry], gathered: &Mutex<Gathered>) -> Result<()> {
        let ids: Vec<BlobId> = entries.iter().map(|entry| entry.id).collect();
        let places = self.repository.index.locate(&ids)?;
        let wrong = entries.iter().zip(places).any(|(entry, place)| {
            // Unreachable blobs lose their rows before their bytes.
            place.is_some_and(|place| {
                place.pack == pack.id && (place.offset, place.length) != (entry.offset, entry.length)
            })
        });
        lock(gathered).index_wrong |= wrong;
        Ok(())
    }

    /// Reads a pack, in the place of what `memory` holds. `None` if that fails: it is noted then.
    pub(super) fn hold<'p>(
        &self,
        pack: &'p PackRow,
        mut memory: Vec<u8>,
        gathered: &Mutex<Gathered>,
    ) -> Result<Option<Held<'p>>> {
        let expected = self.repository.index.entries_of(pack.no)?;
        // Damage, or a medium that no longer gives it up.
        if let Err(e) = self.repository.backend().get_into(ObjectName::Pack(pack.id), &mut memory) {
            let mut gathered = lock(gathered);
            gathered.damaged_packs.push((pack.id, e.to_string()));
            gathered.lost.extend(expected.iter().map(|entry| entry.id));
            return Ok(None);
        }
        Ok(Some(Held { pack, bytes: memory, expected, found: Mutex::default() }))
    }

    pub(super) fn check_part(&self, held: &Held<'_>, part: Part, gathered: &Mutex<Gathered>) -> Result<()> {
        match part {
            Part::Name => self.check_name(held, gathered),
            Part::Records(range) => self.check_records(held, held.expected.get(range).unwrap_or_default()),
        }
    }

    fn check_name(&self, held: &Held<'_>, gathered: &Mutex<Gathered>) -> Result<()> {
        let (id, bytes) = (held.pack.id, held.bytes.as_slice());
        let matches_name = *blake3::hash(bytes).as_bytes() == id.0;
        let object = ObjectName::Pack(id).to_string();
        if matches_name && let Ok(trailer) = Trailer::parse(bytes, &self.configuration.repository, &object) {
            self.compare_with_index(held.pack, &trailer.entries, gathered)?;
        }
        lock(&held.found).matches_name = matches_name;
        Ok(())
    }

    fn check_records(&self, held: &Held<'_>, entries: &[ExpectedBlob]) -> Result<()> {
        let (mut lost, mut whole) = (Vec::new(), Vec::new());
        for entry in entries {
            match self.check_record(&held.bytes, entry, held.pack.class) {
                Ok(()) if entry.missing => whole.push(entry.id),
                Ok(()) => {}
                Err(e) if e.is_damage() => lost.push(entry.id),
                Err(e) => return Err(e),
            }
        }
        let mut found = lock(&held.found);
        found.lost.extend(lost);
        found.whole.extend(whole);
        Ok(())
    }

    /// After the last part: what became of the pack as a whole.
    pub(super) fn settle(&self, held: &Held<'_>, gathered: &Mutex<Gathered>) -> Result<()> {
        let Found { matches_name, lost, whole } = std::mem::take(&mut *lock(&held.found));
        let mended = !matches_name && lost.is_empty() && self.make_again(held.pack, &held.bytes, &held.expected)?;
        let mut gathered = lock(gathered);
        if mended {
            let reason = "its bytes did not match its name; it was made again from its records, which are whole";
            note(&mut gathered.findings, ObjectName::Pack(held.pack.id).to_string(), reason, false);
        } else if !matches_name {
            gathered.damaged_packs.push((held.pack.id, "its bytes do not match its name".into()));
        }
        gathered.lost.extend(lost);
        gathered.whole.extend(whole);
        Ok(())
    }

    /// A pack whose records are all whole follows from them: if what follows has its name, it is stored again.
    fn make_again(&self, pack: &PackRow, bytes: &[u8], entries: &[ExpectedBlob]) -> Result<bool> {
        let mut builder = PackBuilder::new();
        for entry in entries {
            let range = entry.offset as usize..(entry.offset as usize).saturating_add(entry.length as usize);
            let Some(record) = bytes.get(range) else { return Ok(false) };
            let record = Record::parse(record.to_vec(), &self.configuration.repository)?;
            let capsule = match self.repository.capsule(record.capsule) {
                Err(e) if e.is_damage() => return Ok(false),
                other => other?,
            };
            builder.push(&record, &capsule)?;
        }
        let (id, bytes, _) = builder.finish(pack.class, &self.configuration.repository)?;
        if id == pack.id {
            self.repository.backend().put(ObjectName::Pack(id), &bytes)?;
        }
        Ok(id == pack.id)
    }

    fn check_record(&self, pack: &[u8], entry: &ExpectedBlob, class: Class) -> Result<()> {
        let object = || format!("blob {}", entry.id);
        let range = entry.offset as usize..(entry.offset as usize).saturating_add(entry.length as usize);
        let bytes = pack.get(range).ok_or_else(|| Error::corrupt(object(), "its pack is too short"))?;
        let record = Record::parse(bytes.to_vec(), &self.configuration.repository)?;
        if record.id != entry.id {
            return Err(Error::corrupt(object(), "its bytes do not match its id"));
        }
        match (class, self.reader) {
            // A delta's bases are elsewhere: reading them here would read packs many times over.
            (Class::Data, Some(reader)) if record.links.is_empty() => {
                let capsule = |id| self.repository.capsule(id);
                let no_base = |id: BlobId| Err(Error::missing(format!("base {id}")));
                reader.opener.open(&record, Kind::Chunk, &capsule, &no_base).map(|_| ())
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_record_is_in_one_share() {
        let lengths =
            [PART_BYTES, 1, PART_BYTES / 2, PART_BYTES / 2, 5, 20 << 20, 7, PART_BYTES - 7, u32::MAX, u32::MAX];
        let entry = |length| ExpectedBlob { id: BlobId([1; 32]), offset: 0, length, missing: false };
        assert_eq!(shares(&lengths.map(entry)), [0..1, 1..3, 3..5, 5..6, 6..8, 8..9, 9..10]);
        assert_eq!(shares(&[]), []);
    }
}
