//! What another site asks when it dials (`docs/replication.md`).

use super::Session;
use crate::access::{Access, Verb};
use crate::hub::Hub;
use crate::peer;
use crate::storage::{Shelf, blocking};
use chunkstore::backend::{self, ObjectName};
use chunkstore::id::{SlotId, SnapshotId};
use chunkstore::repository::Repository;
use protocol::Result;
use protocol::connection::Writer;
use protocol::message::{BATCH_MAX, Code, Message, Refusal, SITES_MAX};
use protocol::replication::digest;
use std::sync::Arc;

/// Key slots that a repository may have before another site adds no more.
const SLOTS_MAX: usize = 64;

/// Answers once the names that this session sees are others than those of `seen`.
pub async fn watch(session: &Arc<Session>, writer: &mut Writer, seen: [u8; 32]) -> Result<()> {
    if let Err(refusal) = session.access.check(Verb::List) {
        return writer.send(&Message::Refused(refusal)).await;
    }
    let mut changes = session.hub.sites.watch(&session.shelf.name);
    loop {
        changes.mark_unchanged();
        let own = Arc::clone(session);
        let state = blocking(move || state(&own.shelf, &own.access)).await;
        match state {
            Some(Ok(state)) if state == seen => {}
            Some(Ok(state)) => return writer.send(&Message::State(state)).await,
            Some(Err(error)) => return writer.send(&Message::Refused(super::refusal_of(&session.shelf, &error))).await,
            None => return writer.send(&Message::Refused(Refusal::new(Code::Failed, "", "the server failed"))).await,
        }
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return Ok(()) },
            () = writer.stopped() => return Ok(()),
        }
    }
}

/// A digest of all names that are to be seen.
fn state(shelf: &Shelf, access: &Access) -> chunkstore::Result<[u8; 32]> {
    let kinds = [backend::ObjectKind::Snapshot, backend::ObjectKind::Mark, backend::ObjectKind::KeySlot];
    let names = kinds.into_iter().map(|kind| shelf.names(kind, access)).collect::<chunkstore::Result<Vec<_>>>()?;
    Ok(digest(names.iter().map(Vec::as_slice)))
}

pub fn accept_mark(session: &Session, object: &[u8]) -> chunkstore::Result<()> {
    peer::accept_mark(&session.hub.registry, &session.shelf, object, 0).map(|_| ()).map_err(store_error)
}

/// Whether a key slot that another site brings is not taken: it was removed here, or there are too many.
pub fn refuses_slot(session: &Session, slot: SlotId) -> chunkstore::Result<bool> {
    let store = session.shelf.store()?;
    let there = store.backend().list(backend::ObjectKind::KeySlot)?;
    let is_there = there.iter().any(|(name, _)| *name == ObjectName::KeySlot(slot));
    let was_removed = session.hub.registry.was_slot_removed(&session.shelf.name, &slot.0).map_err(store_error)?;
    Ok(was_removed || (!is_there && there.len() >= SLOTS_MAX))
}

pub fn note_removed_slot(session: &Session, slot: SlotId) {
    let (hub, repository): (&Arc<Hub>, &str) = (&session.hub, &session.shelf.name);
    if let Err(error) = hub.registry.note_removed_slot(repository, &slot.0) {
        tracing::error!(%error, repository, %slot, "another site may bring this key slot back");
    }
}

pub fn lacking(session: &Session, store: &Repository) -> chunkstore::Result<Message> {
    if !session.access.covers_all(Verb::List) {
        return Ok(Message::Blobs(Vec::new()));
    }
    // What was healed through the last answer, if anything was.
    store.settle_healed()?;
    let mut lost = store.lost_blobs()?;
    lost.truncate(BATCH_MAX);
    Ok(Message::Blobs(lost))
}

/// None: it has all that it wants.
pub fn held(session: &Session, ids: &[SnapshotId]) -> chunkstore::Result<Message> {
    let (registry, repository) = (&session.hub.registry, &session.shelf.name);
    if ids.is_empty() {
        let copies = registry.copies_at(repository, &session.name).map_err(store_error)?;
        let shown = session.shown().into_iter().filter_map(|name| SnapshotId::from_slice(&name));
        let declined: Vec<SnapshotId> = shown.filter(|id| !copies.contains(id)).collect();
        registry.note_complete(repository, &session.name, &declined, crate::storage::seconds()).map_err(store_error)?;
        return Ok(Message::Done);
    }
    registry.note_copies(repository, &session.name, ids, false).map_err(store_error)?;
    Ok(Message::Done)
}

/// Which sites have them: this one first, if it does.
pub fn copies(session: &Session, store: &Repository, ids: &[SnapshotId]) -> chunkstore::Result<Message> {
    let own = peer::own_name(&session.hub.settings);
    let mut answers = Vec::with_capacity(ids.len());
    for id in ids {
        let dataset = session.shelf.dataset(store, *id);
        let is_seen = dataset.is_some_and(|dataset| session.access.covers(Verb::List, &dataset));
        let mut sites = if is_seen { vec![own.clone()] } else { Vec::new() };
        if is_seen {
            sites.extend(session.hub.registry.copies(&session.shelf.name, *id).map_err(store_error)?);
        }
        sites.truncate(SITES_MAX);
        answers.push(sites);
    }
    Ok(Message::CopiesAnswer(answers))
}

fn store_error(error: crate::error::Error) -> chunkstore::Error {
    match error {
        crate::error::Error::Store(error) => error,
        other => chunkstore::Error::io("use", "the server's records", std::io::Error::other(other.to_string())),
    }
}
