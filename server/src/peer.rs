//! What is known of other sites while the server runs: which links there are and how they fare, who is connected, and what
//! changed here. Also what a repository answers another site, whoever dials.

use crate::error::Result;
use crate::registry::{Peer, Registry};
use crate::storage::{Shelf, nanoseconds};
use chunkstore::backend::ObjectName;
use chunkstore::id::{MarkId, RepositoryId, SnapshotId};
use chunkstore::mark::{self, Believed, Mark};
use chunkstore::repository::Repository;
use chunkstore::snapshot::Snapshot;
use chunkstore::store::Store;
use protocol::identity::NodeId;
use protocol::replication::{Described, Lag, Limit, Pace, is_wanted, takes_away};
use serde::Serialize;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, watch};

/// How far back a rate looks.
const RATE_SPAN: Duration = Duration::from_secs(10);

/// All that concerns other sites. One for the process.
#[derive(Default)]
pub struct Sites {
    changes: Mutex<HashMap<String, watch::Sender<u64>>>,
    /// Connections of other sites that dialled us, by their key and our repository.
    attending: Mutex<HashMap<(NodeId, String), usize>>,
    links: Mutex<Vec<Arc<Link>>>,
    /// Links came, went, or were paused.
    pub changed: Notify,
}

/// One link that this site dials.
pub struct Link {
    pub peer: Peer,
    status: Mutex<Status>,
    pace: Mutex<Pace>,
    began: Instant,
    moved: AtomicU64,
}

struct Status {
    state: State,
    lag: Lag,
    /// Moved since the lag was worked out.
    moved_before: u64,
    last_contact: Option<i64>,
    last_complete: Option<i64>,
    problem: Option<String>,
    samples: Vec<(Instant, u64)>,
}

#[derive(Clone, Copy, PartialEq, Eq, Default, Serialize, Debug)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Not connected yet.
    Connecting,
    /// Something goes over, or is being compared.
    Working,
    /// Both have what they want of each other.
    Even,
    /// The other site dialled us and does the work.
    Attended,
    Failed,
    #[default]
    Paused,
    /// It dials us, and is here.
    Answering,
    /// It dials us, and is not here.
    Away,
}

/// How a link fares: what `peer list`, `status` and metrics show.
#[derive(Clone, Default, Serialize, Debug)]
pub struct Figures {
    pub key: String,
    pub address: String,
    pub repository: String,
    pub remote_repository: String,
    pub datasets: Vec<String>,
    pub limits: Vec<String>,
    pub delay_seconds: u64,
    pub state: State,
    pub problem: Option<String>,
    pub lag_snapshots: u64,
    pub lag_bytes: u64,
    /// Age of the oldest snapshot that one side lacks.
    pub lag_seconds: u64,
    /// How old it may be, and whether it is older, or the peer was not heard for longer.
    pub max_lag_seconds: u64,
    pub overdue: bool,
    pub moved_bytes: u64,
    pub bytes_per_second: u64,
    pub seconds_left: Option<u64>,
    /// Seconds since 1970: when the peer was last heard, and when both last had everything.
    pub last_contact: Option<i64>,
    pub last_complete: Option<i64>,
}

/// Holds a place among those who attend.
pub struct Attendance {
    sites: Arc<Sites>,
    place: (NodeId, String),
}

impl Sites {
    /// A commit, a mark or a key slot: whoever watches this repository is told.
    pub fn touch(&self, repository: &str) {
        lock(&self.changes).entry(repository.to_owned()).or_default().send_modify(|count| *count += 1);
    }

    pub fn watch(&self, repository: &str) -> watch::Receiver<u64> {
        lock(&self.changes).entry(repository.to_owned()).or_default().subscribe()
    }

    pub fn attend(self: &Arc<Sites>, peer: NodeId, repository: &str) -> Attendance {
        let place = (peer, repository.to_owned());
        *lock(&self.attending).entry(place.clone()).or_default() += 1;
        Attendance { sites: Arc::clone(self), place }
    }

    pub fn is_attended(&self, peer: NodeId, repository: &str) -> bool {
        lock(&self.attending).contains_key(&(peer, repository.to_owned()))
    }

    pub fn set_links(&self, links: Vec<Arc<Link>>) {
        *lock(&self.links) = links;
    }

    pub fn links(&self) -> Vec<Arc<Link>> {
        lock(&self.links).clone()
    }
}

impl Drop for Attendance {
    fn drop(&mut self) {
        let mut attending = lock(&self.sites.attending);
        if let Some(count) = attending.get_mut(&self.place) {
            *count -= 1;
            if *count == 0 {
                attending.remove(&self.place);
            }
        }
    }
}

impl Link {
    pub fn new(peer: Peer) -> Arc<Link> {
        let status = Status {
            state: if peer.paused { State::Paused } else { State::Connecting },
            lag: Lag::default(),
            moved_before: 0,
            last_contact: None,
            last_complete: None,
            problem: None,
            samples: Vec::new(),
        };
        let (pace, began, moved) = (Mutex::default(), Instant::now(), AtomicU64::new(0));
        Arc::new(Link { peer, status: Mutex::new(status), pace, began, moved })
    }

    pub fn enter(&self, state: State) {
        let mut status = lock(&self.status);
        status.state = state;
        if state != State::Failed {
            status.problem = None;
        }
        if matches!(state, State::Working | State::Even) {
            status.last_contact = Some(crate::storage::seconds());
        }
    }

    /// Both had everything then: what was listed then was the last that was missing.
    pub fn complete(&self, time: Option<i64>) {
        lock(&self.status).last_complete = time;
    }

    pub fn fail(&self, problem: String) {
        let mut status = lock(&self.status);
        status.state = State::Failed;
        status.problem = Some(problem);
    }

    pub fn set_lag(&self, lag: Lag) {
        let mut status = lock(&self.status);
        if status.lag != lag {
            status.lag = lag;
            status.moved_before = self.moved.load(Ordering::Relaxed);
        }
    }

    /// So many bytes are about to go over, in either direction: waits for as long as the limits want.
    pub async fn pass(&self, bytes: usize) {
        let moved = self.moved.fetch_add(bytes as u64, Ordering::Relaxed) + bytes as u64;
        {
            let mut status = lock(&self.status);
            let now = Instant::now();
            if status.samples.last().is_none_or(|(at, _)| now - *at > Duration::from_millis(500)) {
                status.samples.push((now, moved));
                status.samples.retain(|(at, _)| now - *at <= RATE_SPAN);
            }
        }
        if let Some(rate) = Limit::at(&self.peer.limits, minute()) {
            let pause = lock(&self.pace).take(bytes as u64, rate, self.began.elapsed());
            if !pause.is_zero() {
                tokio::time::sleep(pause).await;
            }
        }
    }

    pub fn figures(&self) -> Figures {
        let status = lock(&self.status);
        let peer = &self.peer;
        let moved = self.moved.load(Ordering::Relaxed);
        let now = Instant::now();
        let recent = status.samples.iter().find(|(at, _)| now - *at <= RATE_SPAN);
        let bytes_per_second = recent.map_or(0, |(at, before)| {
            let millis = u64::try_from((now - *at).as_millis()).unwrap_or(u64::MAX).max(1000);
            (moved - before).saturating_mul(1000) / millis
        });
        let lag_bytes = status.lag.bytes.saturating_sub(moved - status.moved_before);
        let oldest = status.lag.oldest.map_or(0, |time| nanoseconds().saturating_sub(time) / 1_000_000_000);
        Figures {
            key: peer.key.to_string(),
            address: peer.address.clone(),
            repository: peer.own.clone(),
            remote_repository: peer.repository.clone(),
            datasets: peer.datasets.clone(),
            limits: peer.limits.iter().map(Limit::to_string).collect(),
            delay_seconds: peer.delay,
            state: status.state,
            problem: status.problem.clone(),
            lag_snapshots: status.lag.snapshots,
            lag_bytes,
            lag_seconds: u64::try_from(oldest).unwrap_or(0),
            max_lag_seconds: 0,
            overdue: false,
            moved_bytes: moved,
            bytes_per_second,
            seconds_left: lag_bytes.checked_div(bytes_per_second),
            last_contact: status.last_contact,
            last_complete: status.last_complete,
        }
    }
}

/// Which of these snapshots this site does not have and wants, by the marks that it has and that count for `server`, which it is.
pub fn wanted(store: &Repository, server: NodeId, snapshots: &[SnapshotId]) -> chunkstore::Result<Vec<bool>> {
    let believed = Believed::Server(server.0);
    let mut marks: HashMap<SnapshotId, Vec<(MarkId, Mark)>> = HashMap::new();
    for (id, mark) in store.marks()? {
        if let Ok((mark, bytes)) = mark
            && believed.counts(&bytes)
        {
            marks.entry(mark.snapshot).or_default().push((id, mark));
        }
    }
    let is_wanted = |id: &SnapshotId| {
        let is_here = store.backend().get(ObjectName::Snapshot(*id)).is_ok();
        !is_here && is_wanted(marks.get(id).map(Vec::as_slice).unwrap_or_default())
    };
    Ok(snapshots.iter().map(is_wanted).collect())
}

/// What is in clear of a snapshot object.
pub fn described(snapshot: &Snapshot) -> Described {
    let summary = &snapshot.summary;
    Described { id: snapshot.id, root: summary.root.id, time: summary.time, bytes: summary.totals.added_bytes }
}

/// Stores a mark that came from another site; false if it is to be applied later. `delay` is in seconds.
pub fn accept_mark(registry: &Registry, shelf: &Shelf, object: &[u8], delay: u64) -> Result<bool> {
    let store = shelf.store()?;
    let repository: RepositoryId = store.configuration().repository;
    let (id, mark) = Mark::parse(object, &repository)?;
    // A server's word counts nowhere but there.
    if takes_away(&mark.action) && Mark::server(object).is_none() {
        let now = nanoseconds();
        let seen = registry.note_word(&shelf.name, id, mark.snapshot, now)?;
        let delay = i64::try_from(u128::from(delay) * 1_000_000_000).unwrap_or(i64::MAX);
        if delay > 0 && seen.saturating_add(delay) > now {
            return Ok(false);
        }
        // A word that is lost between these two only waits a little longer.
        if mark.action == mark::Action::Forget {
            registry.apply_word(&shelf.name, id, now)?;
        }
    }
    store.mark(object)?;
    Ok(true)
}

/// How others call this site.
pub fn own_name(settings: &crate::settings::Settings) -> String {
    let name = settings.address.clone().unwrap_or_else(|| {
        let system = rustix::system::uname();
        format!("{}:{}", system.nodename().to_string_lossy(), settings.listen.port())
    });
    name.chars().filter(|c| !c.is_control()).take(32).collect()
}

/// Of the day, in local time.
fn minute() -> u16 {
    let now = jiff::Zoned::now();
    u16::try_from(i32::from(now.hour()) * 60 + i32::from(now.minute())).unwrap_or(0)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
