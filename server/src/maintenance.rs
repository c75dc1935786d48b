//! What the server does with its repositories by itself: retention, gc, verify; on request and on its schedule. One job at a
//! time works on a repository; backups and readers go on beside it.

mod schedule;

use crate::error::{Error, Result};
use crate::holdings::Holdings;
use crate::hub::Hub;
use crate::ledger::{Done, Kind};
use crate::retention;
use crate::settings::Settings;
use crate::storage::{Shelf, nanoseconds, seconds};
use chunkstore::check::{Check, CheckOutcome, ReadData};
use chunkstore::gc::{PruneOptions, PruneOutcome};
use chunkstore::id::BlobId;
use chunkstore::mark::{Action, Believed, Mark};
use chunkstore::repository::Repository;
use chunkstore::store::Store;
use jiff::tz::TimeZone;
use protocol::identity::NodeId;
use rules::clock::rfc3339;
pub use schedule::run;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How much the system's clock may move against the time since boot before it is not believed any more.
const CLOCK_DRIFT_MAX: Duration = Duration::from_secs(24 * 3600);
const FINDINGS_TOLD_MAX: usize = 100;

/// What is to be done.
#[derive(Clone, Copy, Debug)]
pub struct Job {
    pub kind: Kind,
    pub dry_run: bool,
    /// Which part of how many to verify; all of it without.
    pub part: Option<(u64, u64)>,
}

/// Does it now. [`Error::Busy`] if something else works on this repository.
pub fn perform(hub: &Hub, name: &str, job: Job) -> Result<Value> {
    let began = seconds();
    let _place = hub.begin_work(name, job.kind, began)?;
    tracing::info!(repository = name, kind = %job.kind, dry_run = job.dry_run, "maintenance begins");
    let shelf = hub.storage.shelf(name, &hub.settings.repositories().join(name));
    let outcome = match job.kind {
        Kind::Retention => retain(hub, &shelf, job.dry_run),
        Kind::Gc => collect(hub, &shelf, job.dry_run),
        Kind::Verify => verify(hub, &shelf, job),
    };
    if let Err(Error::Store(error)) = &outcome {
        shelf.give_up(error);
    }
    let failure = match &outcome {
        Ok(_) => None,
        // The stop of the server is no failure of the job.
        Err(Error::Store(chunkstore::Error::Interrupted)) => return outcome,
        Err(error) => Some(error.to_string()),
    };
    match &outcome {
        Ok(told) => tracing::info!(repository = name, kind = %job.kind, %told, "maintenance ends"),
        Err(error) => tracing::error!(repository = name, kind = %job.kind, %error, "maintenance failed"),
    }
    if !job.dry_run {
        let told = outcome.as_ref().map_or_else(|_| "null".to_owned(), Value::to_string);
        hub.ledger.note(name, &Done { kind: job.kind, began, ended: seconds(), failure, told })?;
    }
    outcome
}

/// What is held, with receipts.
pub fn holdings(hub: &Hub, shelf: &Shelf, repository: &Repository) -> Result<Holdings> {
    let receipts = hub.registry.receipts(&shelf.name)?;
    Ok(shelf.cache.load(repository, &receipts, hub.server, nanoseconds())?)
}

fn retain(hub: &Hub, shelf: &Shelf, dry_run: bool) -> Result<Value> {
    let repository = shelf.store()?;
    let held = holdings(hub, shelf, &repository)?;
    let settings = hub.current();
    let policy = |dataset: &str| settings.rule(&shelf.name, dataset).0;
    let plan = retention::plan(&held.snapshots, &policy, nanoseconds(), &TimeZone::system());
    let mut counter = held.counter_max;
    let (mut forgotten, mut restored) = (Vec::new(), Vec::new());
    for change in &plan.changes {
        if !dry_run {
            counter = counter.saturating_add(1);
            let mark = Mark {
                repository: repository.configuration().repository,
                snapshot: change.snapshot,
                action: change.action.clone(),
                counter,
                time: nanoseconds(),
            };
            repository.mark(&mark.sign(&hub.signer)?)?;
        }
        let told = json!({
            "snapshot": change.snapshot.hex(), "dataset": change.dataset, "received": rfc3339(change.received),
        });
        if change.action == Action::Forget { forgotten.push(told) } else { restored.push(told) }
    }
    if !dry_run && !plan.changes.is_empty() {
        hub.sites.touch(&shelf.name);
    }
    Ok(json!({
        "forgotten": forgotten, "restored": restored, "kept": plan.kept, "forgotten_before": plan.forgotten,
    }))
}

fn collect(hub: &Hub, shelf: &Shelf, dry_run: bool) -> Result<Value> {
    let repository = shelf.store()?;
    repository.set_time(seconds());
    let is_trusted = hub.clock_drift() <= CLOCK_DRIFT_MAX;
    if !is_trusted {
        tracing::error!("the clock has moved against the time since boot: no snapshot is removed until a restart");
    }
    let own = Duration::from_secs(repository.configuration().grace_seconds);
    let grace = hub.current().maintenance.grace.unwrap_or(own);
    let grace = if is_trusted { grace } else { Duration::MAX };
    let options = PruneOptions { grace, now: nanoseconds(), dry_run, arrived: hub.registry.arrived(&shelf.name)? };
    let outcome = repository.prune(Believed::Server(hub.server.0), &options)?;
    if !dry_run {
        hub.registry.remove_receipts(&shelf.name, &outcome.snapshots_removed)?;
        measure(hub, shelf, &repository)?;
    }
    Ok(told_of_gc(&outcome))
}

fn told_of_gc(outcome: &PruneOutcome) -> Value {
    json!({
        "snapshots_removed": outcome.snapshots_removed.iter().map(|id| id.hex()).collect::<Vec<_>>(),
        "snapshots_in_grace": outcome.snapshots_in_grace.len(),
        "blobs_kept": outcome.blobs_kept,
        "blobs_removed": outcome.blobs_removed,
        "packs_kept": outcome.packs_kept,
        "packs_deleted": outcome.packs_deleted,
        "packs_rewritten": outcome.packs_rewritten,
        "bytes_freed": outcome.bytes_freed,
    })
}

/// What the snapshots of each client hold, if somebody asks: a quota of its own.
fn measure(hub: &Hub, shelf: &Shelf, repository: &Repository) -> Result<()> {
    if hub.current().quotas.iter().all(|quota| quota.client.is_none()) {
        return Ok(());
    }
    let clients = hub.ledger.usage()?.into_iter().filter(|(name, ..)| *name == shelf.name);
    let mut put: BTreeMap<NodeId, u64> = BTreeMap::new();
    for (_, client, _) in clients {
        put.insert(client, hub.ledger.put(&shelf.name, client)?);
    }
    // In this order: what is committed in between counts twice rather than not.
    let mut roots: BTreeMap<NodeId, Vec<BlobId>> = BTreeMap::new();
    for holding in holdings(hub, shelf, repository)?.snapshots {
        if let Some(client) = holding.client {
            roots.entry(client).or_default().push(holding.root);
        }
    }
    for client in roots.keys().chain(put.keys()).copied().collect::<std::collections::BTreeSet<_>>() {
        let held = repository.held_bytes(roots.get(&client).map_or(&[], Vec::as_slice))?;
        hub.ledger.measured(&shelf.name, client, held, put.get(&client).copied().unwrap_or(0))?;
    }
    Ok(())
}

fn verify(hub: &Hub, shelf: &Shelf, job: Job) -> Result<Value> {
    let repository = shelf.store()?;
    if job.dry_run {
        let statistics = repository.statistics()?;
        return Ok(json!({ "packs": statistics.packs, "bytes": statistics.pack_bytes }));
    }
    let pace = Pace::new(hub.current());
    let progress = |done: u64, total: u64| {
        hub.progress(&shelf.name, done, total);
        pace.wait(done, &|| hub.is_stopping());
    };
    let check = Check {
        repository: &repository,
        configuration: repository.configuration(),
        key: None,
        reader: None,
        read_data: job.part.map_or(ReadData::All, |(part, of)| ReadData::Part { part, of }),
        threads: 1,
        interrupted: &hub.stopping,
        progress: &progress,
    };
    let outcome = check.run()?;
    for finding in outcome.findings.iter().filter(|finding| finding.lost) {
        tracing::error!(repository = shelf.name, object = finding.object, reason = finding.reason, "damage");
    }
    Ok(told_of_verify(&outcome))
}

fn told_of_verify(outcome: &CheckOutcome) -> Value {
    let told = outcome
        .findings
        .iter()
        .take(FINDINGS_TOLD_MAX)
        .map(|finding| json!({ "object": finding.object, "message": finding.reason, "lost": finding.lost }));
    json!({
        "packs": outcome.packs,
        "packs_read": outcome.packs_read,
        "bytes_read": outcome.bytes_read,
        "blobs": outcome.blobs,
        "snapshots": outcome.snapshots,
        "lost": outcome.findings.iter().filter(|finding| finding.lost).count(),
        "snapshots_affected": outcome.affected_total,
        "findings": told.collect::<Vec<_>>(),
    })
}

/// Slows reading down to what is allowed.
struct Pace {
    began: Instant,
    bytes_per_second: u64,
}

impl Pace {
    fn new(settings: Arc<Settings>) -> Pace {
        Pace { began: Instant::now(), bytes_per_second: settings.maintenance.verify_bytes_per_second.max(1) }
    }

    /// Until so many bytes may have been read.
    fn wait(&self, bytes: u64, is_over: &dyn Fn() -> bool) {
        let micros = u128::from(bytes) * 1_000_000 / u128::from(self.bytes_per_second);
        let due = self.began.checked_add(Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX)));
        while let Some(left) = due.and_then(|due| due.checked_duration_since(Instant::now())) {
            if left.is_zero() || is_over() {
                break;
            }
            std::thread::sleep(left.min(Duration::from_millis(200)));
        }
    }
}

/// Every repository that was created, or the one that is named.
pub fn repositories(hub: &Hub, named: Option<&str>) -> Result<Vec<String>> {
    let known = hub.registry.repositories()?;
    match named {
        Some(name) if known.iter().any(|known| known == name) => Ok(vec![name.to_owned()]),
        Some(name) => {
            let reason = "there is none of this name; `nightkeepd repository list` shows them";
            Err(Error::argument(format!("repository `{name}`"), reason))
        }
        None => {
            Ok(known.into_iter().filter(|name| hub.settings.repositories().join(name).join("REPO").exists()).collect())
        }
    }
}
