//! Which blobs stay: those reachable from a snapshot that is not past its grace. Plan first, then apply.
//!
//! Needs no key to collect; who collects says whose words about snapshots count. Order of a deletion: the snapshot
//! object, then the rows of its blobs, durably, then the packs. A crash anywhere leaves garbage that the next run finds,
//! never a link to what is gone. Sessions of this process may go on meanwhile, if each has a lease
//! ([`Repository::leased`]); `docs/concurrency.md` says why nothing they were told is lost.

use crate::backend::ObjectName;
use crate::error::{Error, Result};
use crate::id::{BlobId, MarkId, PackId, SnapshotId};
use crate::index::PackRow;
use crate::index::adopt::NewPack;
use crate::index::sweep::{Survey, Usage};
use crate::mark::{Believed, Mark, State};
use crate::pack::PackBuilder;
use crate::record::{Class, Record};
use crate::repository::Repository;
use crate::store::Store;
use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

/// A pack of which less than this share is reachable is rewritten.
const LIVE_PERCENT_MIN: u64 = 60;
/// Packs below this share of the target length are merged once there are [`SMALL_PACKS_MIN`] of a class.
const SMALL_PERCENT: u64 = 25;
const SMALL_PACKS_MIN: usize = 10;
/// Marks of a snapshot that is gone tell other sites, and this one, that it is gone on purpose; for this long.
const TOMBSTONES_KEPT: Duration = Duration::from_secs(400 * 24 * 3600);
/// What an interrupted backup has stored is kept for the next run at most this long.
const UNREFERENCED_KEPT: Duration = Duration::from_secs(24 * 3600);

pub struct PruneOptions {
    /// How long a forgotten snapshot can be brought back.
    pub grace: Duration,
    /// Nanoseconds since 1970.
    pub now: i64,
    pub dry_run: bool,
    /// When the word that a snapshot is forgotten came in from another site: its grace does not begin before.
    pub arrived: BTreeMap<SnapshotId, i64>,
}

/// What was done, or would be.
#[derive(Clone, Default, Debug)]
pub struct PruneOutcome {
    pub snapshots_removed: Vec<SnapshotId>,
    /// Forgotten, and until when they can be brought back.
    pub snapshots_in_grace: Vec<(SnapshotId, i64)>,
    pub blobs_kept: u64,
    pub blobs_removed: u64,
    pub packs_kept: u64,
    pub packs_deleted: u64,
    pub packs_rewritten: u64,
    /// Bytes of pack objects that go, less those written anew.
    pub bytes_freed: u64,
    /// Unreachable bytes that stay because rewriting their packs does not pay.
    pub bytes_unused_kept: u64,
}

struct Plan {
    removed: Vec<SnapshotId>,
    /// Packs that are gone from the backend, and forgotten now.
    gone: Vec<i64>,
    delete: Vec<PackRow>,
    rewrite: Vec<PackRow>,
    outcome: PruneOutcome,
}

impl Repository {
    /// Removes snapshots past their grace and all that only they held.
    pub fn prune(&self, believed: Believed<'_>, options: &PruneOptions) -> Result<PruneOutcome> {
        self.require_writing()?;
        let _collecting = self.index.collect()?;
        let plan = match self.plan(believed, options, false) {
            // Rows that do not fit together: make them again from the packs, then look once more.
            Err(Error::Corrupt { object, .. }) if object == "the index" && !self.index.has_leases() => {
                self.rebuild_index()?;
                self.plan(believed, options, true)?
            }
            other => other?,
        };
        if options.dry_run { Ok(plan.outcome) } else { self.apply(plan, options.now) }
    }

    /// `fresh`: the index was just made from the packs, so what it does not know is not there. Unless this is a dry run, what
    /// is to go is condemned afterwards.
    fn plan(&self, believed: Believed<'_>, options: &PruneOptions, fresh: bool) -> Result<Plan> {
        let mut outcome = PruneOutcome::default();
        let (removed, roots) = self.choose_roots(believed, options, &mut outcome)?;
        let survey = self.index.survey()?;
        let recent = recent_packs(&survey, options)?;
        let (marks, unknown) = survey.mark(&roots, &recent)?;
        if let Some(id) = unknown.first().filter(|_| !fresh) {
            return Err(Error::corrupt("the index", format!("it does not know the root {id} of a snapshot")));
        }
        let usage = if options.dry_run {
            survey.usage(&marks)?
        } else {
            survey.usage(&self.index.condemn(marks, survey.last)?.live)?
        };
        let (mut delete, mut rewrite) = (Vec::new(), Vec::new());
        let mut small: BTreeMap<u8, Vec<PackRow>> = BTreeMap::new();
        for pack in survey.packs()? {
            let used = usage.get(&pack.no).copied().unwrap_or_default();
            outcome.blobs_kept += used.live_blobs;
            outcome.blobs_removed += used.dead_blobs;
            match fate(&pack, used, u64::from(self.configuration().pack_bytes_target)) {
                _ if recent.contains(&pack.no) => outcome.packs_kept += 1,
                Fate::Delete => delete.push(pack),
                Fate::Rewrite => rewrite.push(pack),
                Fate::Merge => small.entry(pack.class as u8).or_default().push(pack),
                Fate::Keep => {
                    outcome.packs_kept += 1;
                    outcome.bytes_unused_kept += pack.record_bytes.saturating_sub(used.live_bytes);
                }
            }
        }
        for packs in small.into_values() {
            if packs.len() >= SMALL_PACKS_MIN {
                rewrite.extend(packs);
            } else {
                outcome.packs_kept += packs.len() as u64;
            }
        }
        outcome.packs_deleted = delete.len() as u64;
        outcome.packs_rewritten = rewrite.len() as u64;
        let live: u64 = rewrite.iter().filter_map(|pack| usage.get(&pack.no)).map(|used| used.live_bytes).sum();
        let gone: u64 = delete.iter().chain(&rewrite).map(|pack| pack.length).sum();
        outcome.bytes_freed = gone.saturating_sub(live);
        outcome.snapshots_removed.clone_from(&removed);
        let gone = survey.gone_packs()?.iter().map(|pack| pack.no).collect();
        Ok(Plan { removed, gone, delete, rewrite, outcome })
    }

    /// Snapshots that go, and the roots of those that stay. A snapshot that cannot be read stops the collection, since what it
    /// holds is unknown, unless it is itself to go.
    fn choose_roots(
        &self,
        believed: Believed<'_>,
        options: &PruneOptions,
        outcome: &mut PruneOutcome,
    ) -> Result<(Vec<SnapshotId>, Vec<BlobId>)> {
        let states = self.states(believed)?;
        let grace = i64::try_from(options.grace.as_nanos()).unwrap_or(i64::MAX);
        let (mut removed, mut roots) = (Vec::new(), Vec::new());
        for (id, snapshot) in self.snapshots()? {
            let state = states.get(&id).cloned().unwrap_or_default();
            let arrived = options.arrived.get(&id).copied().unwrap_or(i64::MIN);
            match state.forgotten.filter(|_| !state.pinned).map(|time| time.max(arrived)) {
                Some(time) if time.saturating_add(grace) <= options.now => {
                    removed.push(id);
                    continue;
                }
                Some(time) => outcome.snapshots_in_grace.push((id, time.saturating_add(grace))),
                None => {}
            }
            roots.push(snapshot?.summary.root.id);
        }
        Ok((removed, roots))
    }

    /// The fold of all marks that count, by snapshot (labels given at the backup are not among them).
    fn states(&self, believed: Believed<'_>) -> Result<BTreeMap<SnapshotId, State>> {
        let mut by_snapshot: BTreeMap<SnapshotId, Vec<(MarkId, Mark)>> = BTreeMap::new();
        for (id, mark) in self.marks()? {
            // A mark that is damaged or forged says nothing.
            let Ok((mark, bytes)) = mark else { continue };
            if believed.counts(&bytes) {
                by_snapshot.entry(mark.snapshot).or_default().push((id, mark));
            }
        }
        Ok(by_snapshot.into_iter().map(|(id, marks)| (id, State::fold(&[], &marks))).collect())
    }

    fn apply(&self, plan: Plan, now: i64) -> Result<PruneOutcome> {
        let mut outcome = plan.outcome;
        for id in &plan.removed {
            self.backend.delete(ObjectName::Snapshot(*id))?;
        }
        let copied = self.rewrite(&plan.rewrite)?;
        let unused = plan.delete.iter().filter(|pack| !copied.stored.contains(&pack.id));
        let rewritten = plan.rewrite.iter().filter(|pack| copied.sources.contains(&pack.no));
        let gone: Vec<&PackRow> = unused.chain(rewritten).collect();
        let mut rows: Vec<i64> = gone.iter().map(|pack| pack.no).collect();
        rows.extend(plan.gone);
        self.index.sweep(&rows)?;
        for pack in &gone {
            self.delete_pack(pack.id)?;
        }
        outcome.packs_rewritten = copied.sources.len() as u64;
        outcome.packs_kept += (plan.rewrite.len() - copied.sources.len()) as u64;
        self.remove_marks_without_snapshot(now)?;
        if self.index.has_damage()? {
            self.index.update_taint()?;
        }
        self.index.compact()?;
        Ok(outcome)
    }

    /// Unless a session has stored the very same one meanwhile, or is about to.
    fn delete_pack(&self, id: PackId) -> Result<()> {
        self.unless_stored(id, || self.backend.delete(ObjectName::Pack(id)))
    }

    /// Once the last word about a snapshot that is gone is old enough.
    fn remove_marks_without_snapshot(&self, now: i64) -> Result<()> {
        // In this order: a snapshot that appears meanwhile is no reason to remove its marks.
        let marks = self.marks()?;
        let snapshots: HashSet<SnapshotId> = self.snapshots()?.into_iter().map(|(id, _)| id).collect();
        let horizon = now.saturating_sub(i64::try_from(TOMBSTONES_KEPT.as_nanos()).unwrap_or(i64::MAX));
        let mut last: BTreeMap<SnapshotId, i64> = BTreeMap::new();
        for (_, mark) in &marks {
            if let Ok((mark, _)) = mark {
                let time = last.entry(mark.snapshot).or_insert(mark.time);
                *time = mark.time.max(*time);
            }
        }
        for (id, mark) in marks {
            let is_over = |mark: &Mark| {
                !snapshots.contains(&mark.snapshot) && last.get(&mark.snapshot).is_none_or(|time| *time < horizon)
            };
            if mark.is_ok_and(|(mark, _)| is_over(&mark)) {
                self.backend.delete(ObjectName::Mark(id))?;
            }
        }
        Ok(())
    }

    /// Copies the live records of packs into new ones. A full disk ends the copying early, since deleting comes first then.
    fn rewrite(&self, packs: &[PackRow]) -> Result<Copied> {
        let mut done = Copied { from: packs.iter().map(|pack| pack.id).collect(), ..Copied::default() };
        for class in [Class::Data, Class::Node] {
            let mut target = Target { class, builder: PackBuilder::new(), from: Vec::new() };
            for pack in packs.iter().filter(|pack| pack.class == class) {
                match self.copy_live(pack, &mut target, &mut done) {
                    Err(Error::Full { .. }) => return Ok(done),
                    other => other?,
                }
            }
            match self.store_copies(&mut target, &mut done) {
                Err(Error::Full { .. }) => return Ok(done),
                other => other?,
            }
        }
        Ok(done)
    }

    fn copy_live(&self, pack: &PackRow, target: &mut Target, done: &mut Copied) -> Result<()> {
        let name = ObjectName::Pack(pack.id);
        let bytes = self.backend.get(name)?;
        let mut lost = Vec::new();
        for row in self.index.live_rows(pack.no)? {
            let range = row.offset as usize..(row.offset as usize).saturating_add(row.length as usize);
            let record = bytes
                .get(range)
                .and_then(|bytes| Record::parse(bytes.to_vec(), &self.configuration().repository).ok())
                .filter(|record| record.id == row.id);
            let Some(record) = record else {
                lost.push(row.id);
                continue;
            };
            let capsule = match self.capsule(record.capsule) {
                // Without its capsule a record cannot be opened here, but a pack elsewhere may bring it: keep the pack.
                Err(e) if e.is_damage() => return Ok(()),
                other => other?,
            };
            let full = target.builder.len() >= self.configuration().pack_bytes_target as usize;
            if full || !target.builder.has_room_for(&record, &capsule) {
                self.store_copies(target, done)?;
            }
            target.builder.push(&record, &capsule)?;
        }
        self.index.set_missing(&lost)?;
        target.from.push(pack.no);
        Ok(())
    }

    /// A source may go once all its copies are stored: those that were copied whole before this pack was closed. A copy that came out
    /// equal to one of the sources has its name: nothing moves, and no source of it may go.
    fn store_copies(&self, target: &mut Target, done: &mut Copied) -> Result<()> {
        if !target.builder.is_empty() {
            let builder = std::mem::take(&mut target.builder);
            let (id, bytes, trailer) = builder.finish(target.class, &self.configuration().repository)?;
            if done.from.contains(&id) {
                target.from.clear();
                return Ok(());
            }
            self.backend.put(ObjectName::Pack(id), &bytes)?;
            self.index.move_blobs(&NewPack { id, length: bytes.len() as u64, trailer }, self.time())?;
            done.stored.insert(id);
        }
        done.sources.extend(target.from.drain(..));
        Ok(())
    }
}

/// Packs so young that an interrupted backup may want them.
fn recent_packs(survey: &Survey, options: &PruneOptions) -> Result<Vec<i64>> {
    let kept = options.grace.min(UNREFERENCED_KEPT).as_secs();
    let horizon = (options.now / 1_000_000_000).saturating_sub(i64::try_from(kept).unwrap_or(i64::MAX));
    Ok(survey.packs()?.iter().filter(|pack| pack.stored > horizon).map(|pack| pack.no).collect())
}

/// What was copied.
#[derive(Default)]
struct Copied {
    /// All packs that are copied from.
    from: HashSet<PackId>,
    /// Numbers of those that may go, since all that lives in them is stored elsewhere.
    sources: HashSet<i64>,
    stored: HashSet<PackId>,
}

/// The pack that copies go to, and the packs that were copied whole since it was begun.
struct Target {
    class: Class,
    builder: PackBuilder,
    from: Vec<i64>,
}

enum Fate {
    Keep,
    Delete,
    Rewrite,
    /// Too small to stay alone.
    Merge,
}

fn fate(pack: &PackRow, used: Usage, target: u64) -> Fate {
    if used.live_blobs == 0 && used.lost_blobs == 0 {
        Fate::Delete
    } else if used.lost_blobs > 0 || used.live_bytes * 100 < pack.record_bytes * LIVE_PERCENT_MIN {
        Fate::Rewrite
    } else if pack.length * 100 < target * SMALL_PERCENT {
        Fate::Merge
    } else {
        Fate::Keep
    }
}

#[cfg(test)]
mod tests;
