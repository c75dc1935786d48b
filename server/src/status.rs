//! How things stand, as plain values: for `nightkeepd status`, `/metrics` and `/health` alike.

use crate::error::Result;
use crate::holdings::{Holding, Holdings};
use crate::hub::Hub;
use crate::lag;
use crate::ledger::{Done, Kind};
use crate::maintenance::{holdings, repositories};
use crate::peer::Figures;
use crate::quota::{of_repository, space};
use crate::settings::Settings;
use crate::storage::seconds;
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

#[derive(Serialize, Debug)]
pub struct Report {
    pub server: Server,
    pub repositories: Vec<Repository>,
    pub datasets: Vec<Dataset>,
    pub sessions: Vec<Session>,
    pub jobs: Vec<Job>,
    pub peers: Vec<Figures>,
    /// What is wrong with this server, a line each.
    pub faults: Vec<String>,
    /// Datasets whose last backup is too old and sites that are too far behind, a line each.
    pub overdue: Vec<String>,
}

#[derive(Serialize, Debug)]
pub struct Server {
    pub version: &'static str,
    pub key: String,
    pub listen: String,
    /// Seconds since 1970, as all times here.
    pub started: i64,
    pub connections: u64,
    pub received_bytes: u64,
    pub disk_bytes: u64,
    pub disk_available_bytes: u64,
    pub full: bool,
    pub reload_ok: bool,
}

#[derive(Serialize, Debug, Default)]
pub struct Repository {
    pub name: String,
    /// Why nothing can be told of it.
    pub failure: Option<String>,
    pub datasets: u64,
    pub snapshots: u64,
    pub forgotten_snapshots: u64,
    pub packs: u64,
    pub stored_bytes: u64,
    /// Of all snapshots together, as if each was stored by itself.
    pub content_bytes: u64,
    pub quota_bytes: Option<u64>,
    pub lost_blobs: u64,
    pub damaged_snapshots: u64,
    pub done: Vec<Past>,
}

/// The last job of a kind.
#[derive(Serialize, Debug)]
pub struct Past {
    pub kind: &'static str,
    pub began: i64,
    pub ended: i64,
    pub failure: Option<String>,
    pub told: Value,
}

#[derive(Serialize, Debug)]
pub struct Dataset {
    pub repository: String,
    pub dataset: String,
    pub snapshots: u64,
    /// When the last complete one was received; None: there is none.
    pub last: Option<i64>,
    pub age_seconds: Option<u64>,
    pub max_age_seconds: Option<u64>,
    pub overdue: bool,
    /// Of the last one.
    pub content_bytes: u64,
}

#[derive(Serialize, Debug)]
pub struct Session {
    pub client: String,
    pub address: String,
    pub repository: String,
    pub since: i64,
    pub received_bytes: u64,
}

#[derive(Serialize, Debug)]
pub struct Job {
    pub repository: String,
    pub kind: &'static str,
    pub since: i64,
    pub done_bytes: u64,
    pub total_bytes: u64,
}

pub fn report(hub: &Hub) -> Result<Report> {
    let settings = hub.current();
    let space = space(hub)?;
    let mut report = Report {
        server: Server {
            version: env!("CARGO_PKG_VERSION"),
            key: hub.server.to_string(),
            listen: settings.listen.to_string(),
            started: hub.began,
            connections: hub.sessions() as u64,
            received_bytes: hub.received_bytes.load(Ordering::Relaxed),
            disk_bytes: space.size,
            disk_available_bytes: space.available,
            full: space.is_full(settings.full_percent),
            reload_ok: hub.reloaded.load(Ordering::Relaxed),
        },
        repositories: Vec::new(),
        datasets: Vec::new(),
        sessions: sessions(hub),
        jobs: jobs(hub),
        peers: lag::figures(hub)?,
        faults: Vec::new(),
        overdue: Vec::new(),
    };
    for name in repositories(hub, None)? {
        let (repository, datasets) = describe(hub, &name, &settings)?;
        report.repositories.push(repository);
        report.datasets.extend(datasets);
    }
    judge(&mut report, &settings);
    Ok(report)
}

fn describe(hub: &Hub, name: &str, settings: &Settings) -> Result<(Repository, Vec<Dataset>)> {
    let mut repository = Repository {
        name: name.to_owned(),
        quota_bytes: of_repository(&settings.quotas, name),
        done: hub.ledger.done(name)?.into_iter().map(Past::new).collect(),
        ..Repository::default()
    };
    match held(hub, name, &mut repository) {
        Ok(holdings) => {
            let datasets = datasets_of(name, &holdings, settings);
            repository.datasets = datasets.len() as u64;
            Ok((repository, datasets))
        }
        Err(error) => {
            repository.failure = Some(error.to_string());
            Ok((repository, Vec::new()))
        }
    }
}

fn held(hub: &Hub, name: &str, repository: &mut Repository) -> Result<Holdings> {
    let shelf = hub.storage.shelf(name, &hub.settings.repositories().join(name));
    let store = shelf.store()?;
    (repository.packs, repository.stored_bytes) = store.pack_totals()?;
    repository.lost_blobs = store.lost_blobs()?.len() as u64;
    let holdings = holdings(hub, &shelf, &store)?;
    repository.damaged_snapshots = holdings.damaged;
    repository.snapshots = present(&holdings).count() as u64;
    repository.forgotten_snapshots = holdings.snapshots.len() as u64 - repository.snapshots;
    repository.content_bytes = holdings.snapshots.iter().map(|holding| holding.content_bytes).sum();
    Ok(holdings)
}

fn present(holdings: &Holdings) -> impl Iterator<Item = &Holding> {
    holdings.snapshots.iter().filter(|holding| holding.forgotten.is_none())
}

fn datasets_of(repository: &str, holdings: &Holdings, settings: &Settings) -> Vec<Dataset> {
    let mut by_name: BTreeMap<&str, Vec<&Holding>> = BTreeMap::new();
    for holding in present(holdings) {
        by_name.entry(&holding.dataset).or_default().push(holding);
    }
    let now = seconds();
    let describe = |(name, holdings): (&str, Vec<&Holding>)| {
        let last = holdings.iter().rev().find(|holding| !holding.incomplete);
        let received = last.map(|last| last.received / 1_000_000_000);
        let age_seconds = received.map(|received| now.saturating_sub(received).max(0).unsigned_abs());
        let max_age_seconds = settings.rule(repository, name).1.map(|age| age.as_secs());
        Dataset {
            repository: repository.to_owned(),
            dataset: name.to_owned(),
            snapshots: holdings.len() as u64,
            last: received,
            age_seconds,
            max_age_seconds,
            overdue: max_age_seconds.is_some_and(|most| age_seconds.is_none_or(|age| age > most)),
            content_bytes: last.or(holdings.last()).map_or(0, |last| last.content_bytes),
        }
    };
    by_name.into_iter().map(describe).collect()
}

fn sessions(hub: &Hub) -> Vec<Session> {
    let session = |visit: &std::sync::Arc<crate::hub::Visit>| Session {
        client: visit.client.clone(),
        address: visit.address.clone(),
        repository: visit.repository.clone(),
        since: visit.since,
        received_bytes: visit.received_bytes.load(Ordering::Relaxed),
    };
    hub.visits().iter().map(session).collect()
}

fn jobs(hub: &Hub) -> Vec<Job> {
    let job = |(repository, working): (String, crate::hub::Working)| Job {
        repository,
        kind: working.kind.text(),
        since: working.began,
        done_bytes: working.done,
        total_bytes: working.total,
    };
    hub.working().into_iter().map(job).collect()
}

impl Past {
    fn new(done: Done) -> Past {
        Past {
            kind: done.kind.text(),
            began: done.began,
            ended: done.ended,
            failure: done.failure,
            told: serde_json::from_str(&done.told).unwrap_or(Value::Null),
        }
    }
}

fn judge(report: &mut Report, settings: &Settings) {
    if report.server.full {
        report.faults.push(format!("the disk is {} % full: no new backups are taken", settings.full_percent));
    }
    for repository in &report.repositories {
        let name = &repository.name;
        if let Some(failure) = &repository.failure {
            report.faults.push(format!("repository {name}: {failure}"));
        }
        if repository.lost_blobs > 0 {
            let what = format!(
                "repository {name}: {} blobs are lost; the next backup heals what it can",
                repository.lost_blobs
            );
            report.faults.push(what);
        }
        if repository.damaged_snapshots > 0 {
            report.faults.push(format!("repository {name}: {} damaged snapshots", repository.damaged_snapshots));
        }
        for past in &repository.done {
            if let Some(failure) = &past.failure {
                report.faults.push(format!("repository {name}: {} failed: {failure}", past.kind));
            }
            // Lost blobs are counted above; this is what else was found.
            let lost = past.told.get("lost").and_then(Value::as_u64).unwrap_or(0);
            if past.kind == Kind::Verify.text() && lost > 0 && repository.lost_blobs == 0 {
                report.faults.push(format!("repository {name}: the last verify found {lost} damaged objects"));
            }
        }
    }
    for dataset in report.datasets.iter().filter(|dataset| dataset.overdue) {
        let Dataset { repository, dataset, .. } = dataset;
        report.overdue.push(format!("repository {repository}: the last backup of {dataset} is too old"));
    }
    for peer in report.peers.iter().filter(|peer| peer.overdue) {
        let Figures { repository, address, .. } = peer;
        report.overdue.push(match peer.lag_snapshots {
            0 => format!("repository {repository}: site {address} has been out of reach for too long"),
            lag => format!("repository {repository}: site {address} is too far behind: {lag} snapshots"),
        });
    }
}

impl Report {
    /// One object a line, the summary last.
    pub fn lines(&self) -> Vec<Value> {
        let mut lines = vec![typed("server", &self.server)];
        lines.extend(self.repositories.iter().map(|row| typed("repository", row)));
        lines.extend(self.datasets.iter().map(|row| typed("dataset", row)));
        lines.extend(self.sessions.iter().map(|row| typed("session", row)));
        lines.extend(self.jobs.iter().map(|row| typed("job", row)));
        lines.extend(self.peers.iter().map(|row| typed("peer", row)));
        let problems: Vec<&String> = self.faults.iter().chain(&self.overdue).collect();
        lines.push(json!({ "message_type": "summary", "problems": problems }));
        lines
    }
}

fn typed(kind: &str, row: &impl Serialize) -> Value {
    let mut value = serde_json::to_value(row).unwrap_or(Value::Null);
    if let Some(object) = value.as_object_mut() {
        object.insert("message_type".into(), kind.into());
    }
    value
}
