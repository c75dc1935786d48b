//! Both ends of a link: does at either what a round asks for.

use super::{Control, failed, relay};
use crate::access::{Access, Verb};
use crate::error::{Error, Result};
use crate::hub::Hub;
use crate::peer::{self, Link};
use crate::storage::{Shelf, blocking};
use chunkstore::backend::{self, ObjectName};
use chunkstore::capsule::Capsule;
use chunkstore::id::{BlobId, CapsuleId, MarkId, SlotId, SnapshotId};
use chunkstore::key;
use chunkstore::mark::Mark;
use chunkstore::repository::Leased;
use chunkstore::snapshot::Snapshot;
use chunkstore::store::Store;
use protocol::connection::Connection;
use protocol::message::{BATCH_MAX, Code, FETCH_MAX, Message, ObjectKind};
use protocol::replication::{Answer, Described, End, Request, healing_order};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::task::JoinSet;

/// Capsules that are remembered.
const CAPSULES_MAX: usize = 4096;
/// Small objects that are on their way at once.
const STORING_MAX: usize = 8;
/// Bytes of records that heal, at once.
const HEALING_BYTES_MAX: usize = 32 << 20;

pub struct Ends {
    pub hub: Arc<Hub>,
    pub link: Arc<Link>,
    pub connection: Connection,
    pub shelf: Arc<Shelf>,
    /// Holds what we were told or took, until the connection ends.
    pub store: Arc<Leased>,
    pub push_bytes_max: u64,
    access: Access,
    session: u64,
    capsules: Mutex<HashMap<CapsuleId, Arc<Capsule>>>,
    _control: Control,
}

impl Ends {
    pub async fn new(
        hub: Arc<Hub>,
        link: Arc<Link>,
        connection: Connection,
        control: Control,
        shelf: Arc<Shelf>,
        (access, push_bytes_max): (Access, u64),
    ) -> Result<Ends> {
        /// Sessions of clients count from 0.
        static NEXT: AtomicU64 = AtomicU64::new(1 << 62);
        let session = NEXT.fetch_add(1, Ordering::Relaxed);
        let own = Arc::clone(&shelf);
        let store = blocking(move || own.leased(session)).await.ok_or_else(failed)??;
        let capsules = Mutex::default();
        Ok(Ends { hub, link, connection, shelf, store, push_bytes_max, access, session, capsules, _control: control })
    }

    /// What the peer has once it is something else than `seen`.
    pub async fn watch(&self, seen: [u8; 32]) -> Result<[u8; 32]> {
        match ask(&self.connection, &Message::Watch(seen)).await? {
            Message::State(state) => Ok(state),
            other => Err(unexpected(other).into()),
        }
    }

    pub async fn perform(&self, request: Request) -> Result<Answer> {
        Ok(match request {
            Request::List { at: End::Own, kind } => Answer::Names(self.own_names(kind).await?),
            Request::List { at: End::Peer, kind } => Answer::Names(list(&self.connection, kind).await?),
            Request::Copy { from: End::Peer, kind, names } => {
                let objects = fetch(&self.connection, kind, &names).await?;
                self.take_objects(kind, objects).await?;
                Answer::Done
            }
            Request::Copy { from: End::Own, kind, names } => {
                self.give_objects(kind, names).await?;
                Answer::Done
            }
            Request::Offer { to: End::Own, snapshots } => {
                let (shelf, server) = (Arc::clone(&self.shelf), self.hub.server);
                let wanted = blocking(move || peer::wanted(&*shelf.store()?, server, &snapshots));
                Answer::Wanted(wanted.await.ok_or_else(failed)??)
            }
            Request::Offer { to: End::Peer, snapshots } => {
                match ask(&self.connection, &Message::Offer(snapshots.clone())).await? {
                    Message::Wanted(wanted) if wanted.len() == snapshots.len() => Answer::Wanted(wanted),
                    other => return Err(unexpected(other).into()),
                }
            }
            Request::Describe { at, snapshots } => Answer::Described(self.describe(at, &snapshots).await?),
            Request::Transfer { from, snapshot } => Answer::Transferred(self.transfer(from, snapshot).await?),
            Request::Lacking { at: End::Own } => {
                let shelf = Arc::clone(&self.shelf);
                let lost = blocking(move || -> chunkstore::Result<_> {
                    let store = shelf.store()?;
                    store.settle_healed()?;
                    store.lost_blobs()
                });
                Answer::Lost(lost.await.ok_or_else(failed)??)
            }
            Request::Lacking { at: End::Peer } => match ask(&self.connection, &Message::Lacking).await? {
                Message::Blobs(blobs) => Answer::Lost(blobs),
                other => return Err(unexpected(other).into()),
            },
            Request::Heal { at, blobs } => {
                self.heal(at, &blobs).await?;
                Answer::Done
            }
            Request::Held(snapshots) => match ask(&self.connection, &Message::Held(snapshots)).await? {
                Message::Done => Answer::Done,
                other => return Err(unexpected(other).into()),
            },
        })
    }

    async fn own_names(&self, kind: ObjectKind) -> Result<Vec<Vec<u8>>> {
        let (shelf, access) = (Arc::clone(&self.shelf), self.access.clone());
        let kind = match kind {
            ObjectKind::Snapshot => backend::ObjectKind::Snapshot,
            ObjectKind::Mark => backend::ObjectKind::Mark,
            ObjectKind::KeySlot => backend::ObjectKind::KeySlot,
        };
        Ok(blocking(move || shelf.names(kind, &access)).await.ok_or_else(failed)??)
    }

    /// Small objects of the peer that we do not have.
    async fn take_objects(&self, kind: ObjectKind, objects: Vec<(Vec<u8>, Vec<u8>)>) -> Result<()> {
        let (hub, shelf, delay) = (Arc::clone(&self.hub), Arc::clone(&self.shelf), self.link.peer.delay);
        let taking = blocking(move || -> Result<()> {
            let mut is_changed = false;
            for (name, bytes) in objects {
                is_changed |= match kind {
                    ObjectKind::Mark => take_mark(&hub, &shelf, &name, &bytes, delay)?,
                    ObjectKind::KeySlot => take_slot(&hub, &shelf, &name, &bytes)?,
                    ObjectKind::Snapshot => false,
                };
            }
            if is_changed {
                hub.sites.touch(&shelf.name);
            }
            Ok(())
        });
        taking.await.ok_or_else(failed)?
    }

    async fn give_objects(&self, kind: ObjectKind, names: Vec<Vec<u8>>) -> Result<()> {
        let (shelf, access) = (Arc::clone(&self.shelf), self.access.clone());
        let reading = blocking(move || {
            let name = |name: &Vec<u8>| match kind {
                ObjectKind::Mark => MarkId::from_slice(name).map(ObjectName::Mark),
                ObjectKind::KeySlot => SlotId::from_slice(name).map(ObjectName::KeySlot),
                ObjectKind::Snapshot => None,
            };
            // One that went meanwhile is not missed.
            let objects = names.iter().filter_map(name).filter_map(|name| shelf.object(name, &access).ok());
            objects.collect::<Vec<_>>()
        });
        let objects = reading.await.ok_or_else(failed)?;
        for batch in objects.chunks(STORING_MAX) {
            let mut storing = JoinSet::new();
            for bytes in batch {
                let (connection, request) = (self.connection.clone(), Message::Store { kind, bytes: bytes.clone() });
                storing.spawn(async move { ask(&connection, &request).await });
            }
            while let Some(stored) = storing.join_next().await {
                match stored.map_err(|_| failed())?? {
                    Message::Done => {}
                    // What the peer does not take says nothing about the rest.
                    Message::Refused(refusal) => tracing::warn!(%refusal, ?kind, "a peer does not take an object"),
                    other => return Err(unexpected(other).into()),
                }
            }
        }
        Ok(())
    }

    /// Those that can be read and belong to a dataset of this link.
    async fn describe(&self, at: End, snapshots: &[SnapshotId]) -> Result<Vec<Described>> {
        let mut found = Vec::new();
        for batch in snapshots.chunks(FETCH_MAX) {
            for snapshot in self.snapshots(at, batch).await? {
                if self.access.covers(Verb::Commit, &snapshot.summary.dataset) {
                    found.push(peer::described(&snapshot));
                }
            }
        }
        Ok(found)
    }

    async fn snapshots(&self, at: End, ids: &[SnapshotId]) -> Result<Vec<Snapshot>> {
        let repository = self.store.configuration().repository;
        let objects: Vec<Vec<u8>> = match at {
            End::Own => {
                let (shelf, access, ids) = (Arc::clone(&self.shelf), self.access.clone(), ids.to_vec());
                let object = move |id: &SnapshotId| shelf.object(ObjectName::Snapshot(*id), &access).ok();
                blocking(move || ids.iter().filter_map(object).collect()).await.ok_or_else(failed)?
            }
            End::Peer => {
                let names: Vec<Vec<u8>> = ids.iter().map(|id| id.0.to_vec()).collect();
                let objects = fetch(&self.connection, ObjectKind::Snapshot, &names).await?;
                objects.into_iter().map(|(_, bytes)| bytes).collect()
            }
        };
        // One that is damaged there is that site's to mend.
        let parsed = objects.into_iter().filter_map(|bytes| Snapshot::parse(bytes, &repository).ok());
        Ok(parsed.filter(|snapshot| ids.contains(&snapshot.id)).collect())
    }

    /// Whether it is there now. What concerns this snapshot alone is no error.
    async fn transfer(&self, from: End, described: Described) -> Result<bool> {
        let Some(snapshot) = self.snapshots(from, &[described.id]).await?.pop() else { return Ok(false) };
        let (id, dataset) = (snapshot.id, snapshot.summary.dataset.clone());
        let (address, repository) = (&self.link.peer.address, &self.link.peer.own);
        let began = std::time::Instant::now();
        match relay::transfer(self, from, snapshot).await {
            Ok(bytes) => {
                let took = began.elapsed().as_secs_f64();
                tracing::info!(address, repository, dataset, snapshot = %id, ?from, bytes, took, "replicated");
                Ok(true)
            }
            Err(error) if is_of_one_snapshot(&error) => {
                tracing::warn!(address, repository, dataset, snapshot = %id, ?from, %error, "a snapshot does not go over");
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Brings what the other end has of these.
    async fn heal(&self, at: End, blobs: &[BlobId]) -> Result<()> {
        let mut waiting = Vec::new();
        let mut bytes = 0;
        let mut healed = 0;
        for batch in blobs.chunks(BATCH_MAX / 64) {
            let records = relay::read(self, at.other(), batch).await?;
            bytes += records.iter().map(|record| record.bytes.len()).sum::<usize>();
            waiting.extend(records);
            if bytes > HEALING_BYTES_MAX {
                healed += relay::put_all(self, at, healing_order(std::mem::take(&mut waiting))).await?;
                bytes = 0;
            }
        }
        healed += relay::put_all(self, at, healing_order(waiting)).await?;
        let (address, repository) = (&self.link.peer.address, &self.link.peer.own);
        tracing::info!(address, repository, ?at, healed, lost = blobs.len(), "blobs that were lost are back");
        Ok(())
    }

    /// By which a record of `at` is sealed.
    pub async fn capsule(&self, at: End, id: CapsuleId) -> Result<Arc<Capsule>> {
        let held = || self.capsules.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(capsule) = held().get(&id) {
            return Ok(Arc::clone(capsule));
        }
        let capsule = match at {
            End::Own => {
                let store = Arc::clone(&self.store);
                blocking(move || store.capsule(id)).await.ok_or_else(failed)??
            }
            End::Peer => match ask(&self.connection, &Message::Capsule(id)).await? {
                Message::CapsuleObject(bytes) => Capsule::parse(bytes, &self.store.configuration().repository)?,
                other => return Err(unexpected(other).into()),
            },
        };
        if capsule.id != id {
            return Err(protocol::Error::violation("a capsule came under another's name").into());
        }
        let capsule = Arc::new(capsule);
        let mut held = held();
        if held.len() >= CAPSULES_MAX {
            held.clear();
        }
        held.insert(id, Arc::clone(&capsule));
        Ok(capsule)
    }
}

impl Drop for Ends {
    fn drop(&mut self) {
        self.shelf.release(self.session);
    }
}

/// Whether an error says something of one snapshot only: others may go over.
fn is_of_one_snapshot(error: &Error) -> bool {
    match error {
        Error::Protocol(protocol::Error::Refused(refusal)) => {
            matches!(refusal.code, Code::Missing | Code::Corrupt | Code::Denied | Code::Invalid)
        }
        Error::Store(error) => {
            use chunkstore::Error as Store;
            matches!(
                error,
                Store::Missing { .. } | Store::Corrupt { .. } | Store::Denied { .. } | Store::Invalid { .. }
            )
        }
        _ => false,
    }
}

fn take_mark(hub: &Hub, shelf: &Shelf, name: &[u8], bytes: &[u8], delay: u64) -> Result<bool> {
    let repository = shelf.store()?.configuration().repository;
    let (id, _) = Mark::parse(bytes, &repository)?;
    if id.0 != name {
        return Err(protocol::Error::violation("a mark came under another's name").into());
    }
    peer::accept_mark(&hub.registry, shelf, bytes, delay)
}

fn take_slot(hub: &Hub, shelf: &Shelf, name: &[u8], bytes: &[u8]) -> Result<bool> {
    let store = shelf.store()?;
    let id = key::slot::name_of(bytes, store.configuration())?;
    if id.0 != name || hub.registry.was_slot_removed(&shelf.name, name)? {
        return Ok(false);
    }
    store.backend().put(ObjectName::KeySlot(id), bytes)?;
    Ok(true)
}

/// One question, one answer.
pub async fn ask(connection: &Connection, request: &Message) -> protocol::Result<Message> {
    let (mut writer, mut reader) = connection.open().await?;
    writer.send(request).await?;
    writer.finish();
    reader.expect().await
}

/// All names of a kind.
pub async fn list(connection: &Connection, kind: ObjectKind) -> protocol::Result<Vec<Vec<u8>>> {
    let mut names: Vec<Vec<u8>> = Vec::new();
    loop {
        let after = names.last().cloned().unwrap_or_default();
        match ask(connection, &Message::List { kind, after }).await? {
            Message::Names { more, kind: listed, names: page } if listed == kind => {
                let ends = !more || page.is_empty();
                names.extend(page);
                if ends {
                    return Ok(names);
                }
            }
            other => return Err(unexpected(other)),
        }
    }
}

/// Objects by name, without those that are not there any more.
pub async fn fetch(
    connection: &Connection,
    kind: ObjectKind,
    names: &[Vec<u8>],
) -> protocol::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut objects = Vec::with_capacity(names.len());
    for batch in names.chunks(FETCH_MAX) {
        let (mut writer, mut reader) = connection.open().await?;
        writer.send(&Message::Fetch { kind, names: batch.to_vec() }).await?;
        writer.finish();
        for name in batch {
            match reader.expect().await? {
                Message::Object(bytes) => objects.push((name.clone(), bytes)),
                Message::Refused(refusal) if matches!(refusal.code, Code::Missing | Code::Corrupt) => {}
                other => return Err(unexpected(other)),
            }
        }
    }
    Ok(objects)
}

pub fn unexpected(message: Message) -> protocol::Error {
    match message {
        Message::Refused(refusal) => protocol::Error::Refused(refusal),
        other => protocol::Error::violation(format!("{} is no answer to this", other.name())),
    }
}
