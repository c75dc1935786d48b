//! Questions to the index, by tags and by ids.
//!
//! Many at once are put to several connections side by side, each a stretch of the order that the tables have, so that neighbours share
//! pages and none waits for the disk alone. All of them see what this process has committed, since it writes only under the lock
//! that is held meanwhile.

use super::lease::{Condemned, Lease, goes};
use super::{INTACT, Index, Place, State, configure, fit_cache, head, sql};
use crate::error::{Error, Result};
use crate::id::{BlobId, HalfTag, PackId, Tag};
use rusqlite::{Connection, OpenFlags, Row, Transaction, params};
use std::collections::HashMap;
use std::path::Path;

/// So many names or more are worth threads. In tests fewer are.
const MANY: usize = if cfg!(test) { 8 } else { 512 };
/// So many unknown tags, and as many intact ids, are remembered, and those of one question more.
const ANSWERS_MAX: usize = 1 << 14;
/// Connections beside the first: they mostly wait for disks, or for pages to be copied.
const OTHERS: usize = 3;

/// Names to look up, with their positions among those asked for.
type Part<'n, N> = [(usize, &'n N)];

impl Index {
    /// The ids of intact blobs with these tags; the lease holds what is answered.
    pub fn known(&self, tags: &[Tag], lease: Option<&Lease>) -> Result<Vec<Option<BlobId>>> {
        let mut state = self.lock();
        if let [tag] = tags
            && state.unknown.contains(tag)
        {
            return Ok(vec![None]);
        }
        let condemned = state.condemned.clone();
        let look = |connection: &Connection, part: &Part<'_, Tag>| {
            let mut statement = connection
                .prepare_cached(
                    "SELECT no, id FROM by_tag CROSS JOIN blob USING(no) WHERE head = ?1 AND tag = ?2 AND state = 0",
                )
                .map_err(sql("read"))?;
            let mut found = Vec::new();
            for (position, tag) in part {
                let mut rows = statement.query(params![head(&tag.0), &tag.0[..]]).map_err(sql("read"))?;
                while let Some(row) = rows.next().map_err(sql("read"))? {
                    let (no, id) = (row.get(0).map_err(sql("read"))?, row.get(1).map_err(sql("read"))?);
                    if goes(condemned.as_deref(), no) {
                        continue;
                    }
                    if let Some(lease) = lease {
                        lease.add(no);
                    }
                    found.push((*position, Some(BlobId(id))));
                    break;
                }
            }
            Ok(found)
        };
        let answers = state.look_up(&self.path, tags, |tag| &tag.0, &look)?;
        if tags.len() > 1 {
            if state.unknown.len() > ANSWERS_MAX {
                state.unknown.clear();
            }
            state.unknown.extend(tags.iter().zip(&answers).filter(|(_, id)| id.is_none()).map(|(tag, _)| *tag));
        }
        Ok(answers)
    }

    /// The id of an intact blob whose tag begins with this half.
    pub fn known_by_half(&self, half: HalfTag) -> Result<Option<BlobId>> {
        let state = self.lock();
        let mut statement = state
            .connection
            .prepare_cached("SELECT no, id, tag FROM by_tag CROSS JOIN blob USING(no) WHERE head = ?1 AND state = 0")
            .map_err(sql("read"))?;
        let rows = statement
            .query_map([head(&half.0)], |r| Ok((r.get(0)?, BlobId(r.get(1)?), Tag(r.get(2)?))))
            .map_err(sql("read"))?;
        for row in rows {
            let (no, id, tag) = row.map_err(sql("read"))?;
            if tag.half() == half && !state.is_condemned(no) {
                return Ok(Some(id));
            }
        }
        Ok(None)
    }

    /// Which of these are stored, intact with their closure; the lease holds those that are.
    pub fn present(&self, ids: &[BlobId], lease: Option<&Lease>) -> Result<Vec<bool>> {
        let mut state = self.lock();
        let condemned = state.condemned.clone();
        let remembered = |id| state.intact.as_ref()?.get(id).filter(|no| !goes(condemned.as_deref(), **no)).copied();
        let answers = match ids.iter().map(|id| remembered(id).map(Some)).collect() {
            Some(numbers) => numbers,
            None => {
                let look = |connection: &Connection, part: &Part<'_, BlobId>| {
                    let mut found = Vec::new();
                    for (position, id) in part {
                        if let Some((no, INTACT)) = find(connection, condemned.as_deref(), id)? {
                            found.push((*position, Some(no)));
                        }
                    }
                    Ok(found)
                };
                let answers = state.look_up(&self.path, ids, |id| &id.0, &look)?;
                state.remember(ids, &answers);
                answers
            }
        };
        if let Some(lease) = lease {
            answers.iter().flatten().for_each(|no| lease.add(*no));
        }
        Ok(answers.iter().map(Option::is_some).collect())
    }

    /// Where these lie, damaged or not.
    pub fn locate(&self, ids: &[BlobId]) -> Result<Vec<Option<Place>>> {
        let row = |r: &Row<'_>| -> rusqlite::Result<(i64, Place)> {
            Ok((r.get(0)?, Place { pack: PackId(r.get(1)?), offset: r.get(2)?, length: r.get(3)? }))
        };
        let look = |connection: &Connection, part: &Part<'_, BlobId>| {
            let mut statement = connection
                .prepare_cached(
                    "SELECT blob.no, pack.name, blob.offset, blob.length FROM by_id \
                     CROSS JOIN blob ON blob.no = by_id.no CROSS JOIN pack ON pack.no = blob.pack \
                     WHERE head = ?1 AND blob.id = ?2",
                )
                .map_err(sql("read"))?;
            let mut locate = |id: &BlobId| -> rusqlite::Result<Option<Place>> {
                let rows: Vec<(i64, Place)> =
                    statement.query_map(params![head(&id.0), &id.0[..]], row)?.collect::<rusqlite::Result<_>>()?;
                // Of two rows the later: the earlier one may be about to go.
                Ok(rows.into_iter().max_by_key(|(no, _)| *no).map(|(_, place)| place))
            };
            let found = part.iter().map(|(position, id)| Ok((*position, locate(id).map_err(sql("read"))?)));
            found.collect()
        };
        self.lock().look_up(&self.path, ids, |id| &id.0, &look)
    }
}

impl State {
    /// What was answered before rows were changed is answered no more.
    pub(super) fn forget(&mut self) {
        self.unknown.clear();
        self.intact.iter_mut().for_each(HashMap::clear);
    }

    fn remember(&mut self, ids: &[BlobId], numbers: &[Option<i64>]) {
        let Some(intact) = &mut self.intact else { return };
        if intact.len() > ANSWERS_MAX {
            intact.clear();
        }
        intact.extend(ids.iter().zip(numbers).filter_map(|(id, no)| Some((*id, (*no)?))));
    }

    /// What `look` finds of these names, in their order; the default for the others.
    fn look_up<N: Sync, A: Clone + Default + Send>(
        &mut self,
        path: &Path,
        names: &[N],
        bytes: fn(&N) -> &[u8; 32],
        look: &(dyn Fn(&Connection, &Part<'_, N>) -> Result<Vec<(usize, A)>> + Sync),
    ) -> Result<Vec<A>> {
        let mut sorted: Vec<(usize, &N)> = names.iter().enumerate().collect();
        sorted.sort_by_key(|(_, name)| head(bytes(name)));
        if sorted.len() >= MANY && self.others.is_empty() {
            self.others = others(path)?;
        }
        let State { connection, others, .. } = self;
        let others = if sorted.len() < MANY { &mut [] } else { others.as_mut_slice() };
        let look = |connection: &Connection, part: &Part<'_, N>| {
            let _reading = reading(connection, part.len())?;
            look(connection, part)
        };
        let mut parts = sorted.chunks(sorted.len().div_ceil(others.len() + 1).max(1));
        let first = parts.next().unwrap_or_default();
        let found = std::thread::scope(|scope| {
            let (look, mut theirs) = (&look, Vec::new());
            for (connection, part) in others.iter_mut().zip(parts) {
                theirs.push(scope.spawn(move || look(connection, part)));
            }
            let mut found = vec![look(connection, first)];
            found.extend(theirs.into_iter().map(|part| part.join().unwrap_or_else(|_| Err(failed()))));
            found
        });
        let mut answers = vec![A::default(); names.len()];
        for part in found {
            for (position, answer) in self.watch(part)? {
                if let Some(slot) = answers.get_mut(position) {
                    *slot = answer;
                }
            }
        }
        Ok(answers)
    }
}

/// Further connections.
fn others(path: &Path) -> Result<Vec<Connection>> {
    (0..OTHERS).map(|_| reading_connection(path)).collect()
}

/// A connection that only reads, and that nobody waits for.
pub(super) fn reading_connection(path: &Path) -> Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(sql("open"))?;
    configure(&connection)?;
    fit_cache(&connection)?;
    Ok(connection)
}

/// Number and state of the blob with this id, unless it is to go.
pub(super) fn find(connection: &Connection, condemned: Option<&Condemned>, id: &BlobId) -> Result<Option<(i64, i64)>> {
    let mut statement = connection
        .prepare_cached("SELECT no, state FROM by_id CROSS JOIN blob USING(no) WHERE head = ?1 AND id = ?2")
        .map_err(sql("read"))?;
    let mut rows = statement.query(params![head(&id.0), &id.0[..]]).map_err(sql("read"))?;
    while let Some(row) = rows.next().map_err(sql("read"))? {
        let no = row.get(0).map_err(sql("read"))?;
        if !goes(condemned, no) {
            return Ok(Some((no, row.get(1).map_err(sql("read"))?)));
        }
    }
    Ok(None)
}

/// Many look-ups see one moment, and take its lock once; a single one does so by itself.
fn reading(connection: &Connection, lookups: usize) -> Result<Option<Transaction<'_>>> {
    if lookups < 2 { Ok(None) } else { connection.unchecked_transaction().map(Some).map_err(sql("read")) }
}

fn failed() -> Error {
    Error::invalid("the index", "a look-up failed")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::RepositoryId;
    use crate::index::adopt::NewPack;
    use crate::pack::{PackEntry, Trailer};
    use crate::record::Class;
    use std::collections::BTreeSet;

    fn id(n: u32) -> BlobId {
        BlobId(*blake3::hash(&n.to_le_bytes()).as_bytes())
    }

    fn tag(n: u32) -> Tag {
        Tag(*blake3::hash(&n.to_be_bytes()).as_bytes())
    }

    fn add(index: &Index, blobs: std::ops::Range<u32>) {
        let entry = |n| PackEntry { id: id(n), tag: tag(n), offset: n * 100, length: 100, links: Vec::new() };
        let name = PackId(*blake3::hash(&blobs.start.to_le_bytes()).as_bytes());
        let trailer = Trailer { class: Class::Data, capsules: Vec::new(), entries: blobs.map(entry).collect() };
        index.add_packs(&[NewPack { id: name, length: 1 << 20, trailer }], 0).unwrap();
    }

    #[test]
    fn many_at_once_are_answered_as_one_by_one() {
        let temp = tempfile::tempdir().unwrap();
        let index = Index::open_writer(&temp.path().join("index"), &RepositoryId([1; 16])).unwrap();
        add(&index, 0..100);
        // Names in no order, some of them twice, every third unknown; before and after more was added.
        let asked: Vec<u32> = (0..300).map(|n| n * 37 % 150 * if n % 3 == 0 { 1000 } else { 1 }).collect();
        let (ids, tags): (Vec<BlobId>, Vec<Tag>) = asked.iter().map(|n| (id(*n), tag(*n))).unzip();
        for last in [100, 130] {
            if last > 100 {
                add(&index, 100..last);
            }
            let lease = index.lease(None);
            let known = index.known(&tags, Some(&lease)).unwrap();
            let expected: Vec<_> = asked.iter().map(|n| (*n < last).then_some(id(*n))).collect();
            assert_eq!(known, expected);
            // What was unknown to many a moment ago may be known now.
            for (tag, id) in tags.iter().zip(&expected) {
                assert_eq!(index.known(&[*tag], None).unwrap(), [*id]);
            }
            let held = asked.iter().filter(|n| **n < last).collect::<BTreeSet<_>>().len();
            assert_eq!(lease.numbers().iter().count(), held);
            let other = index.lease(None);
            let present = index.present(&ids, Some(&other)).unwrap();
            assert_eq!(present, asked.iter().map(|n| *n < last).collect::<Vec<_>>());
            assert_eq!(other.numbers().iter().count(), held);
            let places = index.locate(&ids).unwrap();
            for (at, id) in ids.iter().enumerate() {
                assert_eq!(index.locate(&[*id]).unwrap(), [places[at]]);
                assert_eq!(places[at].map(|place| place.offset), (asked[at] < last).then(|| asked[at] * 100));
            }
            index.release(&lease);
            index.release(&other);
        }
        assert!(index.known(&[], None).unwrap().is_empty());
    }

    #[test]
    fn what_is_to_go_is_not_known_to_many_either() {
        let temp = tempfile::tempdir().unwrap();
        let index = Index::open_writer(&temp.path().join("index"), &RepositoryId([1; 16])).unwrap();
        add(&index, 0..60);
        let collecting = index.collect().unwrap();
        let survey = index.survey().unwrap();
        let (marks, _) = survey.mark(&(0..30).map(id).collect::<Vec<_>>(), &[]).unwrap();
        index.condemn(marks, survey.last).unwrap();
        let (ids, tags): (Vec<BlobId>, Vec<Tag>) = (0..60).map(|n| (id(n), tag(n))).unzip();
        let live: Vec<bool> = (0..60).map(|n| n < 30).collect();
        assert_eq!(index.present(&ids, None).unwrap(), live);
        assert_eq!(index.known(&tags, None).unwrap().iter().map(Option::is_some).collect::<Vec<_>>(), live);
        drop(collecting);
    }

    #[test]
    fn what_was_present_is_so_until_rows_change() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("index");
        let (index, ids) = (Index::open_writer(&path, &RepositoryId([1; 16])).unwrap(), [1, 2, 70].map(id));
        add(&index, 0..60);
        let reader = Index::open_reader(&path, &RepositoryId([1; 16])).unwrap();
        for _ in 0..2 {
            let lease = index.lease(None);
            assert_eq!(index.present(&ids[..2], Some(&lease)).unwrap(), [true, true]);
            assert_eq!(lease.numbers().iter().count(), 2, "what is remembered is held as well");
            index.release(&lease);
            assert_eq!(index.present(&ids, None).unwrap(), [true, true, false]);
            assert_eq!(reader.present(&ids[..2], None).unwrap(), [true, true]);
        }
        add(&index, 70..71);
        assert_eq!(index.present(&ids, None).unwrap(), [true; 3]);
        index.set_missing(&ids[..1]).unwrap();
        assert_eq!(index.present(&ids, None).unwrap(), [false, true, true]);
        assert_eq!(reader.present(&ids[..2], None).unwrap(), [false, true], "who only reads asks again");
        index.clear(&RepositoryId([1; 16])).unwrap();
        assert_eq!(index.present(&ids[1..], None).unwrap(), [false, false]);
    }

    /// The writer closes last: then nothing is left in the log.
    #[test]
    fn nothing_is_left_in_the_log() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("index");
        let index = Index::open_writer(&path, &RepositoryId([1; 16])).unwrap();
        add(&index, 0..60);
        index.present(&(0..60).map(id).collect::<Vec<_>>(), None).unwrap();
        drop(index);
        assert_eq!(temp.path().read_dir().unwrap().count(), 1, "no log, no shared memory");
    }
}
