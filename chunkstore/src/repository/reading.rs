//! Records out of packs: neighbours by one read, each checked against its id unless its reader knows better, the index doubted
//! where it misleads.

use super::{Repository, private_index};
use crate::backend::ObjectName;
use crate::error::{Error, Result};
use crate::id::{BlobId, PackId};
use crate::index::{Index, Place};
use crate::pack::Trailer;
use crate::record::Record;

/// One read of the backend covers at most this much, and skips at most [`GAP_BYTES_MAX`] that nobody asked for.
const READ_BYTES_MAX: u32 = 4 << 20;
const GAP_BYTES_MAX: u32 = 64 << 10;

/// How it is known that a record is the one that was asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Proof {
    /// Its id is compared here.
    Id,
    /// The caller compares its tag.
    Tag,
}

impl Repository {
    /// See [`Store::arrange`](crate::store::Store::arrange).
    pub(super) fn grouped(&self, ids: &[BlobId]) -> Result<Vec<Vec<usize>>> {
        let mut groups: Vec<Vec<usize>> = Vec::new();
        let mut placed = vec![false; ids.len()];
        for group in self.groups(ids)? {
            let positions: Vec<usize> = group.into_iter().map(|(_, position)| position).collect();
            for position in &positions {
                if let Some(placed) = placed.get_mut(*position) {
                    *placed = true;
                }
            }
            groups.push(positions);
        }
        groups.extend(placed.iter().enumerate().filter(|(_, placed)| !**placed).map(|(position, _)| vec![position]));
        Ok(groups)
    }

    /// See [`Store::read`](crate::store::Store::read) and [`Store::read_linked`](crate::store::Store::read_linked).
    pub(super) fn records(&self, ids: &[BlobId], proof: Proof) -> Result<Vec<Result<Record>>> {
        let mut out: Vec<Option<Result<Record>>> = ids.iter().map(|_| None).collect();
        for group in self.groups(ids)? {
            self.read_group(&group, ids, proof, &mut out);
        }
        Ok(out
            .into_iter()
            .zip(ids)
            .map(|(r, id)| r.unwrap_or_else(|| Err(Error::missing(format!("blob {id}")))))
            .collect())
    }

    /// Reads one range that covers several records; falls back to one by one.
    fn read_group(&self, group: &[(Place, usize)], ids: &[BlobId], proof: Proof, out: &mut [Option<Result<Record>>]) {
        let (Some((first, _)), Some((last, _))) = (group.first(), group.last()) else { return };
        let len = (last.offset - first.offset).checked_add(last.length);
        let bytes = len.and_then(|len| {
            self.backend.get_range(ObjectName::Pack(first.pack), u64::from(first.offset), len as usize).ok()
        });
        let mut bytes = bytes.unwrap_or_default();
        for (place, position) in group {
            let Some((id, slot)) = ids.get(*position).zip(out.get_mut(*position)) else { continue };
            let record = match group {
                // Nothing else was read, so it need not be copied.
                [_] => Some(std::mem::take(&mut bytes)).filter(|bytes| !bytes.is_empty()),
                _ => {
                    let from = (place.offset - first.offset) as usize;
                    bytes.get(from..from + place.length as usize).map(<[u8]>::to_vec)
                }
            };
            let record = record.map(|record| self.parse(id, *place, record, proof));
            *slot = Some(match record {
                Some(Ok(record)) => Ok(record),
                _ => self.read_carefully(id),
            });
        }
    }

    fn parse(&self, id: &BlobId, place: Place, bytes: Vec<u8>, proof: Proof) -> Result<Record> {
        let damaged =
            |reason: String| Error::corrupt(format!("blob {id} at {} of pack {}", place.offset, place.pack), reason);
        let repository = &self.configuration.repository;
        let parsed = match proof {
            Proof::Id => Record::parse(bytes, repository),
            Proof::Tag => Record::parse_as(*id, bytes, repository),
        };
        match parsed {
            Ok(record) if record.id == *id => Ok(record),
            Ok(_) => Err(damaged("its bytes do not match its id".into())),
            Err(Error::Corrupt { reason, .. }) => Err(damaged(reason)),
            Err(e) => Err(e),
        }
    }

    /// Where these lie. An index that has no place for something although it says that nothing is lost is doubted.
    fn locate(&self, ids: &[BlobId]) -> Result<Vec<Option<Place>>> {
        let is_whole =
            |places: &Vec<Option<Place>>| !places.contains(&None) || self.index.has_damage().unwrap_or(false);
        self.ask(|index| index.locate(ids), is_whole)
    }

    /// Asks the index. SQLite notices some of the damage to it and answers as if nothing were there for the rest: if an answer is
    /// doubtful, a reader makes an index of its own, once, and asks that.
    pub(super) fn ask<T>(
        &self,
        question: impl Fn(&Index) -> Result<T>,
        is_whole: impl FnOnce(&T) -> bool,
    ) -> Result<T> {
        let answer = question(&self.index);
        let is_doubtful = match &answer {
            Ok(answer) => !is_whole(answer),
            Err(error) => error.is_damage(),
        };
        if !is_doubtful || self.writing.is_some() {
            return answer;
        }
        let second = self.second.get_or_init(|| private_index(self.backend(), &self.configuration, self.time()).ok());
        second.as_ref().map_or(answer, |(index, _)| question(index))
    }

    /// One record, doubting the index: where it says, else where it says after a pack was rewritten under us, else
    /// where the pack's own trailer says.
    fn read_carefully(&self, id: &BlobId) -> Result<Record> {
        let mut failure = Error::missing(format!("blob {id}"));
        for _ in 0..2 {
            let Some(place) = self.locate(std::slice::from_ref(id))?.into_iter().flatten().next() else {
                return Err(failure);
            };
            failure = match self.read_at(id, place) {
                Ok(record) => return Ok(record),
                Err(e) => e,
            };
            if let Some(entry) = self.entry_in_trailer(id, place.pack) {
                let place = Place { pack: place.pack, offset: entry.0, length: entry.1 };
                if let Ok(record) = self.read_at(id, place) {
                    return Ok(record);
                }
            }
        }
        Err(failure)
    }

    fn read_at(&self, id: &BlobId, place: Place) -> Result<Record> {
        let name = ObjectName::Pack(place.pack);
        let bytes = self.backend.get_range(name, u64::from(place.offset), place.length as usize)?;
        self.parse(id, place, bytes, Proof::Id)
    }

    fn entry_in_trailer(&self, id: &BlobId, pack: PackId) -> Option<(u32, u32)> {
        let length = self.index.packs().ok()?.iter().find(|row| row.id == pack)?.length;
        let trailer = Trailer::read(&*self.backend, pack, length, &self.configuration.repository).ok()?;
        trailer.entries.iter().find(|entry| entry.id == *id).map(|entry| (entry.offset, entry.length))
    }

    /// Positions of `ids` in storage order, grouped; those without a place come last, each alone.
    fn groups(&self, ids: &[BlobId]) -> Result<Vec<Vec<(Place, usize)>>> {
        let mut places: Vec<(Place, usize)> = Vec::with_capacity(ids.len());
        for (position, place) in self.locate(ids)?.into_iter().enumerate() {
            if let Some(place) = place {
                places.push((place, position));
            }
        }
        places.sort_unstable();
        let mut groups: Vec<Vec<(Place, usize)>> = Vec::new();
        for (place, position) in places {
            let joins = groups.last().and_then(|group| group.first().zip(group.last())).is_some_and(
                |((first, _), (last, _))| {
                    let end = last.offset.saturating_add(last.length);
                    first.pack == place.pack
                        && place.offset.saturating_sub(end) <= GAP_BYTES_MAX
                        && place.offset.saturating_add(place.length) - first.offset <= READ_BYTES_MAX
                },
            );
            match groups.last_mut() {
                Some(group) if joins => group.push((place, position)),
                _ => groups.push(vec![(place, position)]),
            }
        }
        Ok(groups)
    }
}
