//! Waits until the snapshots of a job are at as many sites as the job wants.

use super::event::Saved;
use crate::error::Result;
use crate::session::Session;
use chunkstore::id::SnapshotId;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Between two questions, at first and later.
const PAUSE_MIN: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(5);
const NAP: Duration = Duration::from_millis(50);

/// What is missing when the time is over; None if every snapshot is at `wanted` sites.
pub fn wait(
    session: &Session,
    saved: &[Saved],
    wanted: u64,
    patience: Duration,
    interrupted: &AtomicBool,
) -> Result<Option<String>> {
    let ids: Vec<SnapshotId> =
        saved.iter().filter_map(|saved| SnapshotId::from_hex(saved.snapshot.as_ref()?).ok()).collect();
    let begun = Instant::now();
    let mut pause = PAUSE_MIN;
    loop {
        let Some(copies) = session.copies(&ids)? else {
            return Ok(Some("the repository is a directory, which no server copies to other sites".into()));
        };
        let lacking: Vec<_> = ids.iter().zip(&copies).filter(|(_, sites)| (sites.len() as u64) < wanted).collect();
        let Some((id, sites)) = lacking.first() else { return Ok(None) };
        if begun.elapsed() >= patience {
            let (count, id) = (lacking.len(), id.short());
            return Ok(Some(format!(
                "{count} snapshots are not at {wanted} sites after {} s; {id} is at {}: {}",
                patience.as_secs(),
                sites.len(),
                sites.join(" ")
            )));
        }
        let until = Instant::now() + pause.min(patience.saturating_sub(begun.elapsed()));
        while Instant::now() < until {
            if interrupted.load(Ordering::Relaxed) {
                return Err(chunkstore::Error::Interrupted.into());
            }
            std::thread::sleep(NAP);
        }
        pause = (pause * 2).min(PAUSE_MAX);
    }
}
