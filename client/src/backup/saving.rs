//! From a root to a committed snapshot: what comes before it in its dataset, and what is said about it.

use super::read::now;
use super::{Context, Outcome, Request};
use chunkstore::id::{Reference, SnapshotId};
use chunkstore::snapshot::{Details, Snapshot, Summary, Totals, validate_dataset, validate_label};
use chunkstore::tree::Time;
use chunkstore::writer::BlobWriter;
use chunkstore::{Error, Result};
use std::sync::atomic::Ordering;
use std::time::Instant;

/// A snapshot names at most so many paths, and bytes of them.
const PATHS_MAX: usize = 4096;
const PATHS_BYTES_MAX: usize = 256 << 10;

/// One backup between its beginning and its commit.
pub struct Saving<'a> {
    context: &'a Context<'a>,
    request: &'a Request,
    started: Time,
    clock: Instant,
    /// The dataset's latest snapshot, by anyone.
    latest: Option<(SnapshotId, Summary)>,
    /// The last of this writer's own: the one with the highest sequence.
    own: Option<(SnapshotId, u64)>,
}

/// What a source says about what it saved.
pub struct Account {
    pub root: Reference,
    pub totals: Totals,
    pub problems: u64,
    pub paths: Vec<Vec<u8>>,
    pub facts: Vec<(String, Vec<u8>)>,
    /// The dataset's latest snapshot holds the same although its root differs.
    pub is_latest: bool,
}

impl<'a> Saving<'a> {
    pub fn begin(context: &'a Context<'a>, request: &'a Request) -> Result<Saving<'a>> {
        validate_dataset(&request.dataset)?;
        for label in &request.labels {
            validate_label(label)?;
        }
        let writer = context.writer.public_key();
        let mut saving = Saving { context, request, started: now(), clock: Instant::now(), latest: None, own: None };
        for (id, snapshot) in context.store.snapshots()? {
            // What is wrong with another snapshot is for a check to tell.
            let Ok(snapshot) = snapshot else { continue };
            let summary = snapshot.summary;
            if summary.dataset != request.dataset {
                continue;
            }
            if summary.writer == writer && saving.own.is_none_or(|(_, sequence)| sequence < summary.sequence) {
                saving.own = Some((id, summary.sequence));
            }
            if saving.latest.as_ref().is_none_or(|(_, latest)| latest.time < summary.time) {
                saving.latest = Some((id, summary));
            }
        }
        Ok(saving)
    }

    /// What the dataset's latest snapshot held: a guess of what is to come.
    pub fn expected(&self) -> Option<Totals> {
        self.latest.as_ref().map(|(_, summary)| summary.totals)
    }

    pub fn started(&self) -> Time {
        self.started
    }

    pub fn latest(&self) -> Option<SnapshotId> {
        self.latest.as_ref().map(|(id, _)| *id)
    }

    /// Commits, unless nothing is to be committed; completes the outcome.
    pub fn finish(&self, writer: &BlobWriter<'_>, account: Account, outcome: Outcome) -> Result<Outcome> {
        let mut outcome = Outcome {
            totals: account.totals,
            problems: account.problems,
            new_bytes: writer.new_bytes.load(Ordering::Relaxed),
            added_bytes: writer.added_bytes.load(Ordering::Relaxed),
            delta_chunks: writer.delta_chunks.load(Ordering::Relaxed),
            delta_content_bytes: writer.delta_content_bytes.load(Ordering::Relaxed),
            delta_bytes: writer.delta_bytes.load(Ordering::Relaxed),
            ..outcome
        };
        outcome.totals.added_bytes = outcome.added_bytes;
        let is_same_root = self.latest.as_ref().is_some_and(|(_, latest)| latest.root.id == account.root.id);
        let is_unchanged = is_same_root || account.is_latest;
        let is_skipped = self.request.skip_if_unchanged && is_unchanged;
        if !self.request.dry_run && !is_skipped {
            let snapshot = self.seal(writer, account, &outcome)?;
            if self.context.interrupted.load(Ordering::Relaxed) {
                return Err(Error::Interrupted);
            }
            self.context.store.commit(&snapshot)?;
            outcome.snapshot = Some(snapshot.id);
        }
        outcome.elapsed = self.clock.elapsed();
        Ok(outcome)
    }

    fn seal(&self, writer: &BlobWriter<'_>, account: Account, outcome: &Outcome) -> Result<Snapshot> {
        let finished = nanoseconds(now());
        let summary = Summary {
            repository: self.context.store.configuration().repository,
            run: self.request.run,
            dataset: self.request.dataset.clone(),
            time: finished,
            incomplete: account.problems > 0,
            root: account.root,
            writer: self.context.writer.public_key(),
            sequence: self.own.map_or(0, |(_, sequence)| sequence + 1),
            previous: self.own.map(|(id, _)| id),
            labels: self.request.labels.clone(),
            totals: outcome.totals,
        };
        let mut facts = account.facts;
        let paths = bounded_paths(account.paths, &mut facts);
        if outcome.delta_chunks > 0 {
            facts.push(fact("delta.chunks", outcome.delta_chunks));
            facts.push(fact("delta.content.bytes", outcome.delta_content_bytes));
            facts.push(fact("delta.stored.bytes", outcome.delta_bytes));
        }
        facts.sort();
        let details = Details {
            host: self.request.host.clone().into_bytes(),
            paths,
            started: nanoseconds(self.started),
            finished,
            program: format!("nightkeep {}", env!("CARGO_PKG_VERSION")),
            facts,
        };
        Snapshot::seal(summary, &details, &writer.sealer, self.context.writer)
    }
}

/// As many paths as a snapshot may name; how many are left out becomes a fact.
fn bounded_paths(mut paths: Vec<Vec<u8>>, facts: &mut Vec<(String, Vec<u8>)>) -> Vec<Vec<u8>> {
    let all = paths.len();
    let mut bytes = 0;
    let kept = paths.iter().take(PATHS_MAX).take_while(|path| {
        bytes += path.len();
        bytes <= PATHS_BYTES_MAX
    });
    paths.truncate(kept.count());
    if paths.len() < all {
        facts.push(fact("paths.omitted", all - paths.len()));
    }
    paths
}

pub fn fact(key: &str, value: impl ToString) -> (String, Vec<u8>) {
    (key.to_owned(), value.to_string().into_bytes())
}

pub fn nanoseconds(time: Time) -> i64 {
    time.seconds.saturating_mul(1_000_000_000).saturating_add(i64::from(time.nanoseconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_names_a_bounded_number_of_paths() {
        let mut facts = Vec::new();
        assert_eq!(bounded_paths(vec![b"/a".to_vec(); 3], &mut facts).len(), 3);
        assert!(facts.is_empty());
        assert_eq!(bounded_paths(vec![b"/a".to_vec(); 5000], &mut facts).len(), PATHS_MAX);
        assert_eq!(facts, [fact("paths.omitted", 5000 - PATHS_MAX)]);
        facts.clear();
        assert_eq!(bounded_paths(vec![vec![b'x'; PATHS_BYTES_MAX / 2]; 5], &mut facts).len(), 2);
        assert_eq!(facts, [fact("paths.omitted", 3)]);
    }
}
