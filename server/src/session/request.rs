//! Every exchange but a push: checked, done beside the network, answered.

use super::{Session, refusal_of, site};
use crate::access::Verb;
use crate::storage::blocking;
use chunkstore::backend::{self, ObjectName};
use chunkstore::id::{BlobId, MarkId, SlotId, SnapshotId};
use chunkstore::key;
use chunkstore::mark::Mark;
use chunkstore::record::Record;
use chunkstore::repository::Repository;
use chunkstore::store::Store;
use protocol::connection::Writer;
use protocol::message::{Code, Message, NAMES_MAX, ObjectKind, Refusal, Role};
use protocol::{Error, Result};
use std::sync::Arc;
use tokio::sync::mpsc;

type Answer = std::result::Result<Message, Refusal>;

pub async fn serve(session: &Arc<Session>, writer: &mut Writer, request: Message) -> Result<()> {
    match request {
        Message::Read(ids) => read(session, writer, ids).await,
        Message::Fetch { kind, names } => fetch(session, writer, kind, names).await,
        request => {
            let own = Arc::clone(session);
            let answer = blocking(move || answer(&own, request)).await;
            let answer = answer.unwrap_or_else(|| Ok(Err(Refusal::new(Code::Failed, "", "the server failed"))))?;
            writer.send(&answer.unwrap_or_else(Message::Refused)).await
        }
    }
}

/// The outer error is a violation.
fn answer(session: &Session, request: Message) -> Result<Answer> {
    let verb = match &request {
        Message::Known(_) | Message::Present(_) => Verb::Push,
        Message::Alternate(_) => Verb::Alternate,
        Message::List { kind: ObjectKind::KeySlot, .. } => Verb::ListKeys,
        Message::List { .. } => Verb::List,
        Message::Store { kind: ObjectKind::Mark, .. } => Verb::Mark,
        Message::Store { kind: ObjectKind::KeySlot, .. } => Verb::AddKeys,
        Message::Remove(_) => Verb::ChangeKeys,
        Message::Offer(_) | Message::Lacking | Message::Held(_) => Verb::Replicate,
        Message::Copies(_) => Verb::List,
        Message::Create { .. } => Verb::Create,
        Message::Arrange(_) => Verb::Read,
        Message::Capsule(_) => Verb::Capsule,
        Message::Statistics => Verb::Statistics,
        other => return Err(Error::violation(format!("{} as a request", other.name()))),
    };
    Ok(session.access.check(verb).and_then(|()| {
        perform(session, request).map_err(|error| match error {
            Fault::Store(error) => refusal_of(&session.shelf, &error),
            Fault::Refused(refusal) => refusal,
        })
    }))
}

enum Fault {
    Store(chunkstore::Error),
    Refused(Refusal),
}

impl From<chunkstore::Error> for Fault {
    fn from(error: chunkstore::Error) -> Fault {
        Fault::Store(error)
    }
}

/// Its verb is allowed; what hangs on a dataset is looked at here.
fn perform(session: &Session, request: Message) -> std::result::Result<Message, Fault> {
    let shelf = &session.shelf;
    if let Message::Create { configuration, slots } = request {
        shelf.create(&configuration, &slots)?;
        tracing::info!(client = session.access.client, repository = shelf.name, "repository created");
        return Ok(Message::Done);
    }
    let store = shelf.store()?;
    Ok(match request {
        Message::Known(tags) => Message::KnownAnswer(session.store()?.known(&tags)?),
        Message::Present(ids) => Message::PresentAnswer(session.store()?.present(&ids)?),
        Message::Alternate(half) => Message::AlternateAnswer(store.alternate(half)?),
        Message::List { kind, after } => {
            let mut names = shelf.names(backend_kind(kind), &session.access)?;
            names.retain(|name| *name > after);
            let more = names.len() > NAMES_MAX;
            names.truncate(NAMES_MAX);
            if kind == ObjectKind::Snapshot && session.access.has(Role::Replica) {
                session.note_shown(after.is_empty(), &names);
            }
            Message::Names { more, kind, names }
        }
        Message::Store { kind: ObjectKind::Mark, bytes } => {
            leave_mark(session, &store, &bytes)?;
            Message::Done
        }
        Message::Store { kind: ObjectKind::KeySlot, bytes } => {
            add_slot(session, &store, &bytes)?;
            Message::Done
        }
        Message::Remove(id) => {
            match key::remove(store.backend(), store.configuration(), id) {
                // It was removed before.
                Err(chunkstore::Error::Missing { .. }) => {}
                removed => removed?,
            }
            site::note_removed_slot(session, id);
            tracing::info!(client = session.access.client, repository = shelf.name, slot = %id, "key slot removed");
            Message::Done
        }
        Message::Arrange(ids) => {
            let position = |position: usize| u32::try_from(position).unwrap_or(u32::MAX);
            let groups = store.arrange(&ids)?;
            Message::Groups(groups.into_iter().map(|group| group.into_iter().map(position).collect()).collect())
        }
        Message::Offer(ids) => {
            // What a connection that nobody has missed yet brought counts as well.
            store.flush()?;
            Message::Wanted(crate::peer::wanted(&store, session.hub.server, &ids)?)
        }
        Message::Lacking => site::lacking(session, &store)?,
        Message::Held(ids) => site::held(session, &ids)?,
        Message::Copies(ids) => site::copies(session, &store, &ids)?,
        Message::Capsule(id) => Message::CapsuleObject(store.capsule(id)?.bytes),
        Message::Statistics => {
            let found = store.statistics()?;
            Message::StatisticsAnswer {
                packs: found.packs,
                pack_bytes: found.pack_bytes,
                blobs: found.blobs,
                blob_bytes: found.blob_bytes,
            }
        }
        other => return Err(chunkstore::Error::invalid(other.name(), "it is no request").into()),
    })
}

fn leave_mark(session: &Session, store: &Repository, bytes: &[u8]) -> std::result::Result<(), Fault> {
    let (_, mark) = Mark::parse(bytes, &store.configuration().repository)?;
    if Mark::server(bytes).is_some() && !session.access.has(Role::Replica) {
        let reason = "only a server itself says what it says";
        return Err(Fault::Refused(Refusal::new(Code::Denied, "the mark", reason)));
    }
    if !session.access.covers_all(Verb::Mark) {
        let dataset = session.shelf.dataset(store, mark.snapshot);
        session.access.check_dataset(Verb::Mark, dataset.as_deref().unwrap_or("?")).map_err(Fault::Refused)?;
    }
    if session.access.has(Role::Replica) {
        site::accept_mark(session, bytes)?;
    } else {
        store.mark(bytes)?;
    }
    session.hub.sites.touch(&session.shelf.name);
    Ok(())
}

fn add_slot(session: &Session, store: &Repository, bytes: &[u8]) -> chunkstore::Result<()> {
    let id = key::slot::name_of(bytes, store.configuration())?;
    if session.access.has(Role::Replica) && site::refuses_slot(session, id)? {
        return Ok(());
    }
    if store.backend().get(ObjectName::KeySlot(id)).is_ok_and(|there| there != bytes) {
        return Err(chunkstore::Error::invalid(format!("key slot {id}"), "there is another one of this id"));
    }
    store.backend().put(ObjectName::KeySlot(id), bytes)?;
    session.hub.sites.touch(&session.shelf.name);
    tracing::info!(client = session.access.client, repository = session.shelf.name, slot = %id, "key slot added");
    Ok(())
}

/// Records, group by group as they are cheap to read; at most one group waits while another is sent.
async fn read(session: &Arc<Session>, writer: &mut Writer, ids: Vec<BlobId>) -> Result<()> {
    if let Err(refusal) = session.access.check(Verb::Read) {
        return writer.send(&Message::Refused(refusal)).await;
    }
    let (send, mut groups) = mpsc::channel::<Vec<(BlobId, chunkstore::Result<Record>)>>(1);
    let own = Arc::clone(session);
    let reading = blocking(move || -> chunkstore::Result<()> {
        let store = own.shelf.store()?;
        for group in store.arrange(&ids)? {
            let ids: Vec<BlobId> = group.iter().filter_map(|position| ids.get(*position).copied()).collect();
            let records = store.read(&ids)?;
            if send.blocking_send(ids.into_iter().zip(records).collect()).is_err() {
                break;
            }
        }
        Ok(())
    });
    let sending = async {
        while let Some(group) = groups.recv().await {
            for (id, record) in group {
                match record {
                    Ok(record) => writer.send_record(record.bytes.into()).await?,
                    Err(error) => {
                        let refusal = refusal_of(&session.shelf, &error);
                        writer.send(&Message::Lost { id, refusal }).await?;
                    }
                }
            }
        }
        // Nobody reads on: the other side is to notice.
        groups.close();
        Ok(())
    };
    let (read, sent): (_, Result<()>) = tokio::join!(reading, sending);
    sent?;
    match read {
        Some(Ok(())) => Ok(()),
        Some(Err(error)) => writer.send(&Message::Refused(refusal_of(&session.shelf, &error))).await,
        None => writer.send(&Message::Refused(Refusal::new(Code::Failed, "", "the server failed"))).await,
    }
}

async fn fetch(session: &Arc<Session>, writer: &mut Writer, kind: ObjectKind, names: Vec<Vec<u8>>) -> Result<()> {
    let verb = if kind == ObjectKind::KeySlot { Verb::ListKeys } else { Verb::List };
    if let Err(refusal) = session.access.check(verb) {
        return writer.send(&Message::Refused(refusal)).await;
    }
    // A few at a time: an object may have a MiB.
    for names in names.chunks(16) {
        let (own, names) = (Arc::clone(session), names.to_vec());
        let objects = blocking(move || {
            let object = |name: &Vec<u8>| match object_name(kind, name) {
                Some(name) => own.shelf.object(name, &own.access),
                None => Err(chunkstore::Error::missing("an object of this name")),
            };
            names.iter().map(object).collect::<Vec<_>>()
        });
        for object in objects.await.unwrap_or_default() {
            let answer =
                object.map_or_else(|error| Message::Refused(refusal_of(&session.shelf, &error)), Message::Object);
            writer.send(&answer).await?;
        }
    }
    Ok(())
}

fn backend_kind(kind: ObjectKind) -> backend::ObjectKind {
    match kind {
        ObjectKind::Snapshot => backend::ObjectKind::Snapshot,
        ObjectKind::Mark => backend::ObjectKind::Mark,
        ObjectKind::KeySlot => backend::ObjectKind::KeySlot,
    }
}

fn object_name(kind: ObjectKind, name: &[u8]) -> Option<ObjectName> {
    Some(match kind {
        ObjectKind::Snapshot => ObjectName::Snapshot(SnapshotId::from_slice(name)?),
        ObjectKind::Mark => ObjectName::Mark(MarkId::from_slice(name)?),
        ObjectKind::KeySlot => ObjectName::KeySlot(SlotId::from_slice(name)?),
    })
}
