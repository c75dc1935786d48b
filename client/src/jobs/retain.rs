//! What `forget --keep-…` and `prune` do, for the datasets of a job.

use crate::clock;
use crate::error::Result;
use crate::history::Version;
use crate::retention::{self, Candidate, Policy};
use crate::session::Session;
use chunkstore::gc::PruneOptions;
use chunkstore::id::SnapshotId;
use chunkstore::mark::{Action, Believed};
use std::collections::BTreeMap;
use std::time::Duration;

/// How many snapshots were forgotten and how many stay.
pub fn forget(session: &Session, policy: &Policy, datasets: &[&str]) -> Result<(u64, u64)> {
    policy.validate()?;
    let mut history = session.history()?;
    let (now, zone) = (clock::now(), clock::zone());
    let mut gone: Vec<SnapshotId> = Vec::new();
    let mut kept = 0;
    for (dataset, versions) in history.datasets() {
        if !datasets.contains(&dataset) {
            continue;
        }
        let candidates: Vec<Candidate> = versions.iter().map(|version| candidate(version)).collect();
        for (version, reasons) in versions.iter().zip(retention::apply(policy, &candidates, now, &zone)) {
            if reasons.is_empty() {
                gone.push(version.id);
            } else {
                kept += 1;
            }
        }
    }
    for id in &gone {
        history.mark(session.store(), &session.keys.write, *id, Action::Forget)?;
    }
    Ok((gone.len() as u64, kept))
}

/// Bytes that were freed.
pub fn prune(session: &Session) -> Result<u64> {
    let grace = Duration::from_secs(session.configuration().grace_seconds);
    let options = PruneOptions { grace, now: clock::now(), dry_run: false, arrived: BTreeMap::new() };
    Ok(session
        .here("prune", "leave `prune` out of the job: the server frees space by itself")?
        .prune(Believed::Key(&session.keys.write, None), &options)?
        .bytes_freed)
}

fn candidate(version: &Version) -> Candidate {
    Candidate {
        time: version.summary().time,
        incomplete: version.summary().incomplete,
        pinned: version.state.pinned,
        labels: version.state.labels.clone(),
    }
}
