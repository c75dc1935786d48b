//! Keeps links: dials peers, runs rounds whenever something changed on either side, and begins anew after whatever broke.
//! `docs/replication.md`, section 2.

mod ends;

mod relay;

use crate::access::{Access, Grant};
use crate::error::{Error, Result};
use crate::hub::Hub;
use crate::peer::{self, Link, State};
use crate::registry::{Peer, validate_name};
use crate::storage::{Shelf, blocking, seconds};
use chunkstore::backend::{self, ObjectName};
use chunkstore::id::SnapshotId;
use ends::Ends;
use protocol::connection::{Close, Connection};
use protocol::identity::NodeKey;
use protocol::message::{Code, Message, Role, VERSION};
use protocol::replication::{Answer, End, Request, Round};
use protocol::tls::Purpose;
use protocol::token::{EXPORTER_LABEL, Token};
use serde::Serialize;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::sleep;

const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// A round is run at least this often: words that were to wait may be due.
const ROUND_EVERY: Duration = Duration::from_secs(600);
/// After a round that left something undone.
const RETRY: Duration = Duration::from_secs(30);
/// While the other site does the work, it is looked so often whether it still does.
const ATTENDED_LOOK: Duration = Duration::from_secs(2);

/// What `peer join` was told.
#[derive(Clone, Debug)]
pub struct Joining {
    pub own: Option<String>,
    pub datasets: Vec<String>,
    pub limits: Vec<protocol::replication::Limit>,
    pub delay: u64,
}

/// Two catalogues side by side.
#[derive(Serialize, Debug)]
pub struct Comparison {
    pub address: String,
    pub repository: String,
    pub equal: bool,
    pub snapshots: u64,
    pub missing_here: Vec<String>,
    pub missing_there: Vec<String>,
    /// Only at one site, and the other does not want them: forgotten there, or a lagging site's own.
    pub not_kept_here: Vec<String>,
    pub not_kept_there: Vec<String>,
    pub marks_missing_here: u64,
    pub marks_missing_there: u64,
    pub key_slots_missing_here: u64,
    pub key_slots_missing_there: u64,
}

/// Keeps all links until it is dropped.
pub async fn run(hub: Arc<Hub>, key: Arc<NodeKey>) {
    let mut tasks: HashMap<(protocol::identity::NodeId, String), (Arc<Link>, Task)> = HashMap::new();
    loop {
        let changed = hub.sites.changed.notified();
        let own = Arc::clone(&hub);
        match blocking(move || own.registry.peers()).await {
            Some(Ok(peers)) => {
                tasks.retain(|_, (link, _)| peers.contains(&link.peer));
                for peer in peers {
                    let place = (peer.key, peer.own.clone());
                    tasks.entry(place).or_insert_with(|| {
                        let link = Link::new(peer);
                        let keeping = keep(Arc::clone(&hub), Arc::clone(&key), Arc::clone(&link));
                        (link, Task(tokio::spawn(keeping)))
                    });
                }
                let mut links: Vec<Arc<Link>> = tasks.values().map(|(link, _)| Arc::clone(link)).collect();
                links.sort_by(|a, b| (&a.peer.address, &a.peer.own).cmp(&(&b.peer.address, &b.peer.own)));
                hub.sites.set_links(links);
            }
            Some(Err(error)) => tracing::error!(%error, "the links to other sites are not known"),
            None => tracing::error!("the links to other sites are not known"),
        }
        changed.await;
    }
}

struct Task(JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// One link, for ever.
async fn keep(hub: Arc<Hub>, key: Arc<NodeKey>, link: Arc<Link>) {
    if link.peer.paused {
        return;
    }
    let (address, repository) = (&link.peer.address, &link.peer.own);
    let mut pause = PAUSE_MIN;
    let (own, peer) = (Arc::clone(&hub), link.peer.clone());
    if let Some(Ok(time)) = blocking(move || own.registry.complete(&peer.own, &peer.address)).await {
        link.complete(time);
    }
    loop {
        if yields(&hub, &link) {
            link.enter(State::Attended);
            sleep(ATTENDED_LOOK).await;
            continue;
        }
        link.enter(State::Connecting);
        let ends = match connected(&hub, &key, &link).await {
            Ok(ends) => ends,
            Err(error) => {
                tracing::warn!(address, repository, %error, "a peer is away");
                link.fail(error.to_string());
                sleep(pause).await;
                pause = (pause * 2).min(PAUSE_MAX);
                continue;
            }
        };
        tracing::info!(address, repository, "connected to a peer");
        let mut rounds = 0;
        let ended = attend(&hub, &ends, &mut rounds).await;
        ends.connection.close(Close::Done, "");
        match ended {
            Ok(()) => pause = PAUSE_MIN,
            Err(error) => {
                tracing::warn!(address, repository, %error, "a link broke off");
                link.fail(error.to_string());
                pause = if rounds > 0 { PAUSE_MIN } else { (pause * 2).min(PAUSE_MAX) };
                sleep(pause).await;
            }
        }
    }
}

/// Of two sites that dial each other, the one with the smaller key leaves the work to the other while that one is here. A lagging
/// site takes for itself.
fn yields(hub: &Hub, link: &Link) -> bool {
    link.peer.delay == 0 && hub.server < link.peer.key && hub.sites.is_attended(link.peer.key, &link.peer.own)
}

/// Rounds over one connection, until it ends, or the other site does the work.
async fn attend(hub: &Arc<Hub>, ends: &Ends, rounds: &mut u64) -> Result<()> {
    let mut changes = hub.sites.watch(&ends.link.peer.own);
    loop {
        changes.mark_unchanged();
        let state = ends.watch([0; 32]).await?;
        let began = seconds();
        let (failed, declined) = round(ends).await?;
        *rounds += 1;
        let next = if failed == 0 { ROUND_EVERY } else { RETRY };
        if failed == 0 {
            note_complete(ends, declined, began).await?;
            ends.link.complete(Some(began));
            ends.link.enter(State::Even);
        } else {
            ends.link.fail(format!("{failed} snapshots could not be transferred; the log says why"));
        }
        tokio::select! {
            _ = changes.changed() => {}
            state = ends.watch(state) => { state?; }
            () = sleep(next) => {}
        }
        if yields(hub, &ends.link) {
            return Ok(());
        }
        // What comes at once is done at once.
        sleep(Duration::from_millis(50)).await;
    }
}

async fn note_complete(ends: &Ends, declined: Vec<SnapshotId>, began: i64) -> Result<()> {
    let (hub, peer) = (Arc::clone(&ends.hub), ends.link.peer.clone());
    let noted = blocking(move || hub.registry.note_complete(&peer.own, &peer.address, &declined, began)).await;
    noted.unwrap_or_else(|| Err(failed()))
}

/// How many snapshots failed, and which the peer did not want.
async fn round(ends: &Ends) -> Result<(u64, Vec<SnapshotId>)> {
    ends.link.enter(State::Working);
    let mut round = Round::new(ends.link.peer.delay > 0);
    let mut are_copies_noted = false;
    while let Some(request) = round.next_request() {
        if matches!(request, Request::Transfer { .. } | Request::Lacking { .. }) && !are_copies_noted {
            are_copies_noted = true;
            note_copies(ends, round.at_peer(), true).await?;
        }
        ends.link.set_lag(round.lag());
        let transferred = match &request {
            Request::Transfer { snapshot, .. } => Some(snapshot.id),
            _ => None,
        };
        let answer = ends.perform(request).await?;
        if answer == Answer::Transferred(true)
            && let Some(id) = transferred
        {
            note_copies(ends, &BTreeSet::from([id]), false).await?;
        }
        round.answer(answer);
    }
    ends.link.set_lag(round.lag());
    Ok((round.failed(), round.declined()))
}

async fn note_copies(ends: &Ends, at_peer: &BTreeSet<SnapshotId>, only: bool) -> Result<()> {
    let (hub, peer) = (Arc::clone(&ends.hub), ends.link.peer.clone());
    let snapshots: Vec<SnapshotId> = at_peer.iter().copied().collect();
    let noted = blocking(move || hub.registry.note_copies(&peer.own, &peer.address, &snapshots, only)).await;
    noted.unwrap_or_else(|| Err(failed()))
}

/// A connection with which both sites have the same repository.
async fn connected(hub: &Arc<Hub>, key: &NodeKey, link: &Arc<Link>) -> Result<Ends> {
    let peer = &link.peer;
    let connection = Connection::connect_site(&peer.address, key, peer.key).await?;
    let (control, push_bytes_max, theirs) = greet(&connection, &peer.repository).await?;
    let shelf = hub.storage.shelf(&peer.own, &hub.settings.repositories().join(&peer.own));
    let own = Arc::clone(&shelf);
    let ours = match blocking(move || own.store()).await.ok_or_else(failed)? {
        Ok(store) => Some(chunkstore::store::Store::configuration(&*store).encode()),
        Err(chunkstore::Error::NoRepository { .. }) => None,
        Err(error) => return Err(error.into()),
    };
    match (ours, theirs.is_empty()) {
        (None, true) => return Err(Error::argument("the repository", "neither site has created it yet")),
        (Some(ours), true) => found_there(&connection, &shelf, ours).await?,
        (None, false) => found_here(&connection, &shelf, &theirs).await?,
        (Some(ours), false) if ours != theirs => {
            return Err(Error::argument(
                format!("repository {}", peer.own),
                "the peer has another repository of this name",
            ));
        }
        _ => {}
    }
    let grant = Grant::new(Role::Replica, &peer.datasets)
        .map_err(|error| Error::argument(format!("datasets of peer {}", peer.address), error.to_string()))?;
    let access = Access { client: format!("peer {}", peer.address), repository: peer.own.clone(), grants: vec![grant] };
    Ends::new(Arc::clone(hub), Arc::clone(link), connection, control, shelf, (access, push_bytes_max)).await
}

type Control = (protocol::connection::Writer, protocol::connection::Reader);

async fn greet(connection: &Connection, repository: &str) -> Result<(Control, u64, Vec<u8>)> {
    let (mut writer, mut reader) = connection.open().await?;
    let program = format!("nightkeepd {}", env!("CARGO_PKG_VERSION"));
    writer.send(&Message::Hello { version: VERSION, repository: repository.to_owned(), program }).await?;
    match reader.expect().await? {
        Message::Welcome { configuration, push_bytes_max, .. } => Ok(((writer, reader), push_bytes_max, configuration)),
        other => Err(ends::unexpected(other).into()),
    }
}

/// The peer has none yet, or lost it.
async fn found_there(connection: &Connection, shelf: &Arc<Shelf>, configuration: Vec<u8>) -> Result<()> {
    let own = Arc::clone(shelf);
    let slots = blocking(move || -> chunkstore::Result<_> {
        let store = own.store()?;
        let mut slots = Vec::new();
        for (name, _) in store.backend().list(backend::ObjectKind::KeySlot)? {
            if let ObjectName::KeySlot(id) = name {
                slots.push((id, store.backend().get(name)?));
            }
        }
        Ok(slots)
    });
    let slots = slots.await.ok_or_else(failed)??;
    match ends::ask(connection, &Message::Create { configuration, slots }).await? {
        Message::Done => Ok(()),
        other => Err(ends::unexpected(other).into()),
    }
}

/// We have none yet, or lost it.
async fn found_here(connection: &Connection, shelf: &Arc<Shelf>, configuration: &[u8]) -> Result<()> {
    let kind = protocol::message::ObjectKind::KeySlot;
    let names = ends::list(connection, kind).await?;
    let mut slots = Vec::new();
    for (name, bytes) in ends::fetch(connection, kind, &names).await? {
        if let Some(id) = chunkstore::id::SlotId::from_slice(&name) {
            slots.push((id, bytes));
        }
    }
    let (shelf, configuration) = (Arc::clone(shelf), configuration.to_vec());
    blocking(move || shelf.create(&configuration, &slots)).await.ok_or_else(failed)??;
    Ok(())
}

/// Answers the invitation of another site, and remembers it as a peer.
pub async fn join(hub: &Arc<Hub>, token: &Token, joining: Joining) -> Result<Peer> {
    let own = joining.own.unwrap_or_else(|| token.repository.clone());
    validate_name(&own)?;
    if token.server == hub.server {
        return Err(Error::argument("the token", "it is this site's own"));
    }
    if joining.delay > 0 && hub.registry.has_replicas(&own)? {
        let reason = "other sites may write to it here; a lagging site only takes";
        return Err(Error::argument(format!("repository {own}"), reason));
    }
    let connection = Connection::connect(&token.address, &node_key(hub)?, token.server, Purpose::Enrol).await?;
    let proof = Token::proof(&token.secret, &connection.exported(EXPORTER_LABEL)?, hub.server);
    let (mut writer, mut reader) = connection.open().await?;
    let (invitation, name) = (token.invitation, peer::own_name(&hub.settings));
    let (proof, own_writer) = (*proof.as_bytes(), hub.server.0);
    writer.send(&Message::Enroll { version: VERSION, invitation, proof, writer: own_writer, name }).await?;
    let answer = reader.expect().await?;
    connection.close_gently().await;
    match answer {
        Message::Enrolled { role: Role::Replica, .. } => {}
        Message::Enrolled { role, .. } => {
            let reason =
                format!("it is for the role {}; the other site has to invite with --role replica", role.text());
            return Err(Error::argument("the token", reason));
        }
        other => return Err(ends::unexpected(other).into()),
    }
    let peer = Peer {
        key: token.server,
        address: token.address.clone(),
        repository: token.repository.clone(),
        own,
        datasets: joining.datasets,
        limits: joining.limits,
        delay: joining.delay,
        paused: false,
    };
    if !hub.registry.has_repository(&peer.own)? {
        hub.registry.add_repository(&peer.own, seconds())?;
    }
    hub.registry.add_peer(&peer, seconds())?;
    hub.sites.changed.notify_one();
    Ok(peer)
}

/// Compares by name what both sites have.
pub async fn compare(hub: &Arc<Hub>, peer: &Peer) -> Result<Comparison> {
    let key = node_key(hub)?;
    let ends = connected(hub, &key, &Link::new(peer.clone())).await?;
    let mut comparison = Comparison {
        address: peer.address.clone(),
        repository: peer.own.clone(),
        equal: true,
        snapshots: 0,
        missing_here: Vec::new(),
        missing_there: Vec::new(),
        not_kept_here: Vec::new(),
        not_kept_there: Vec::new(),
        marks_missing_here: 0,
        marks_missing_there: 0,
        key_slots_missing_here: 0,
        key_slots_missing_there: 0,
    };
    use protocol::message::ObjectKind;
    for kind in [ObjectKind::Snapshot, ObjectKind::Mark, ObjectKind::KeySlot] {
        let mut names = [BTreeSet::new(), BTreeSet::new()];
        for (end, names) in [End::Own, End::Peer].into_iter().zip(&mut names) {
            if let Answer::Names(found) = ends.perform(Request::List { at: end, kind }).await? {
                *names = found.into_iter().collect();
            }
        }
        let [own, theirs] = names;
        let (only_own, only_theirs) = protocol::replication::difference(&own, &theirs);
        if kind == ObjectKind::Snapshot {
            comparison.snapshots = own.intersection(&theirs).count() as u64;
            (comparison.missing_here, comparison.not_kept_here) = judged(&ends, End::Own, &only_theirs).await?;
            (comparison.missing_there, comparison.not_kept_there) = judged(&ends, End::Peer, &only_own).await?;
            comparison.equal &= comparison.missing_here.is_empty() && comparison.missing_there.is_empty();
            continue;
        }
        comparison.equal &= only_own.is_empty() && only_theirs.is_empty();
        match kind {
            ObjectKind::Snapshot => {}
            ObjectKind::Mark => {
                comparison.marks_missing_here = only_theirs.len() as u64;
                comparison.marks_missing_there = only_own.len() as u64;
            }
            ObjectKind::KeySlot => {
                comparison.key_slots_missing_here = only_theirs.len() as u64;
                comparison.key_slots_missing_there = only_own.len() as u64;
            }
        }
    }
    ends.connection.close_gently().await;
    Ok(comparison)
}

/// Of snapshots that an end does not have, those that it wants, and the others.
async fn judged(ends: &Ends, end: End, names: &[Vec<u8>]) -> Result<(Vec<String>, Vec<String>)> {
    let ids: Vec<SnapshotId> = names.iter().filter_map(|name| SnapshotId::from_slice(name)).collect();
    let (mut wanted, mut others) = (Vec::new(), Vec::new());
    for batch in ids.chunks(protocol::message::BATCH_MAX) {
        let answers = match (end, ends.link.peer.delay) {
            // Nothing goes out of a lagging site.
            (End::Peer, 1..) => vec![false; batch.len()],
            _ => match ends.perform(Request::Offer { to: end, snapshots: batch.to_vec() }).await? {
                Answer::Wanted(answers) => answers,
                _ => return Err(failed()),
            },
        };
        for (id, is_wanted) in batch.iter().zip(answers) {
            if is_wanted { wanted.push(id.hex()) } else { others.push(id.hex()) }
        }
    }
    Ok((wanted, others))
}

fn node_key(hub: &Hub) -> Result<NodeKey> {
    let file = hub.settings.key_file();
    let bytes = std::fs::read(&file).map_err(|error| Error::io("cannot read", file.display().to_string(), error))?;
    Ok(NodeKey::from_pkcs8(zeroize::Zeroizing::new(bytes))?)
}

fn failed() -> Error {
    Error::Protocol(protocol::Error::Refused(protocol::message::Refusal::new(Code::Failed, "", "the server failed")))
}
