//! Records from one end of a link to the other, as a transfer asks for them. What waits between reading and putting is bounded, so a
//! slow target slows the source.

use super::ends::{Ends, ask, unexpected};
use super::failed;
use crate::error::{Error, Result};
use crate::peer::Link;
use crate::storage::{blocking, nanoseconds};
use chunkstore::capsule::Capsule;
use chunkstore::id::{BlobId, CapsuleId, RepositoryId};
use chunkstore::record::Record;
use chunkstore::repository::Leased;
use chunkstore::snapshot::Snapshot;
use chunkstore::store::Store;
use protocol::connection::{Connection, Writer};
use protocol::message::{Message, Refusal};
use protocol::push::{Event as Pushed, Outgoing, Sender};
use protocol::replication::{Action, End, Transfer};
use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;

/// Records that were read and not looked at.
const EVENTS_MAX: usize = 16;
/// KiB of records that wait to be stored here.
const WAITING_KIB_MAX: usize = 16 << 10;
/// Capsules that one stream of a push carries, at most.
const STREAM_CAPSULES_MAX: usize = 4000;
const REASON_WAIT: Duration = Duration::from_secs(5);

/// What befalls a transfer.
enum Event {
    Answered(Vec<BlobId>, Result<Vec<bool>>),
    Read(Record),
    Lost(Refusal),
    Failed(Error),
}

/// Bytes of the records that went over.
pub async fn transfer(ends: &Ends, from: End, snapshot: Snapshot) -> Result<u64> {
    let mut target = Target::open(ends, from.other(), false).await?;
    let (id, dataset, time) = (snapshot.id, snapshot.summary.dataset.clone(), snapshot.summary.time);
    match walk(ends, from, snapshot.summary.root.id, &mut target).await {
        Ok(bytes) => {
            target.commit(snapshot).await?;
            if from == End::Peer {
                note_receipt(ends, id, dataset, time).await;
            }
            Ok(bytes)
        }
        Err(error) => {
            // What arrived counts when it is tried again.
            target.give_up().await;
            Err(error)
        }
    }
}

async fn walk(ends: &Ends, from: End, root: BlobId, target: &mut Target) -> Result<u64> {
    let mut transfer = Transfer::new(root);
    let (sender, mut events) = mpsc::channel(EVENTS_MAX);
    // What is under way ends with the transfer.
    let mut under_way = JoinSet::new();
    let mut early = VecDeque::new();
    let mut bytes = 0;
    loop {
        while let Some(action) = transfer.next_action() {
            match action {
                Action::Ask(ids) => spawn_question(&mut under_way, ends, from.other(), ids, sender.clone()),
                Action::Read(ids) => spawn_reading(&mut under_way, ends, from, ids, sender.clone()),
                Action::Put(record) => {
                    bytes += record.bytes.len() as u64;
                    let capsule = capsule(ends, from, record.capsule, &mut events, &mut early).await?;
                    target.put(record, capsule).await?;
                }
                Action::Commit => return Ok(bytes),
            }
        }
        while under_way.try_join_next().is_some() {}
        let event = match early.pop_front() {
            Some(event) => event,
            None => events.recv().await.ok_or_else(failed)?,
        };
        match event {
            Event::Answered(ids, present) => transfer.answered(&ids, &present?),
            Event::Read(record) => transfer.arrived(record)?,
            Event::Lost(refusal) => return Err(transfer.lost(refusal).into()),
            Event::Failed(error) => return Err(error),
        }
    }
}

/// What comes meanwhile is taken: the answer shares the connection's window with it, and would never come if it stayed.
async fn capsule(
    ends: &Ends,
    from: End,
    id: CapsuleId,
    events: &mut mpsc::Receiver<Event>,
    early: &mut VecDeque<Event>,
) -> Result<Arc<Capsule>> {
    let asking = ends.capsule(from, id);
    tokio::pin!(asking);
    loop {
        tokio::select! {
            biased;
            capsule = &mut asking => return capsule,
            Some(event) = events.recv() => early.push_back(event),
        }
    }
}

/// What can be had of these.
pub async fn read(ends: &Ends, at: End, ids: &[BlobId]) -> Result<Vec<Record>> {
    let (sender, mut events) = mpsc::channel(EVENTS_MAX);
    let mut reading = JoinSet::new();
    spawn_reading(&mut reading, ends, at, ids.to_vec(), sender);
    let mut records = Vec::new();
    while let Some(event) = events.recv().await {
        match event {
            Event::Read(record) => records.push(record),
            Event::Failed(error) => return Err(error),
            Event::Lost(_) | Event::Answered(..) => {}
        }
    }
    Ok(records)
}

/// How many were put. One whose links are not there is left out.
pub async fn put_all(ends: &Ends, at: End, records: Vec<Record>) -> Result<usize> {
    if records.is_empty() {
        return Ok(0);
    }
    let count = records.len();
    let mut target = Target::open(ends, at, true).await?;
    for record in records {
        let capsule = ends.capsule(at.other(), record.capsule).await?;
        match target.put(record, capsule).await {
            // The rest comes in another round.
            Err(Error::Protocol(protocol::Error::Refused(_))) => return Ok(0),
            put => put?,
        }
    }
    target.flush().await?;
    Ok(count)
}

/// For retention it came in when it was made: the years that a new link brings are not all of one day. But not before both
/// sites had everything the last time, whatever the snapshot says of itself.
async fn note_receipt(ends: &Ends, id: chunkstore::id::SnapshotId, dataset: String, time: i64) {
    let (hub, peer) = (Arc::clone(&ends.hub), ends.link.peer.clone());
    let complete = ends.link.figures().last_complete.map_or(i64::MIN, |time| time.saturating_mul(1_000_000_000));
    let received = time.max(complete).min(nanoseconds());
    let noted = blocking(move || {
        hub.sites.touch(&peer.own);
        hub.registry.receipt(&peer.own, id, &dataset, peer.key, received)
    });
    if let Some(Err(error)) = noted.await {
        tracing::error!(%error, snapshot = %id, "a receipt could not be recorded");
    }
}

fn spawn_question(under_way: &mut JoinSet<()>, ends: &Ends, at: End, ids: Vec<BlobId>, events: mpsc::Sender<Event>) {
    let (connection, store) = (ends.connection.clone(), Arc::clone(&ends.store));
    under_way.spawn(async move {
        let present = match at {
            End::Peer => match ask(&connection, &Message::Present(ids.clone())).await {
                Ok(Message::PresentAnswer(present)) if present.len() == ids.len() => Ok(present),
                Ok(other) => Err(unexpected(other).into()),
                Err(error) => Err(error.into()),
            },
            End::Own => {
                let asked = ids.clone();
                let present = blocking(move || store.present(&asked)).await;
                present.ok_or_else(failed).and_then(|present| Ok(present?))
            }
        };
        // Nobody listens if the transfer is over.
        let _ = events.send(Event::Answered(ids, present)).await;
    });
}

fn spawn_reading(under_way: &mut JoinSet<()>, ends: &Ends, at: End, ids: Vec<BlobId>, events: mpsc::Sender<Event>) {
    match at {
        End::Own => {
            let store = Arc::clone(&ends.store);
            under_way.spawn(async move {
                let _ = blocking(move || read_here(&store, &ids, &events)).await;
            });
        }
        End::Peer => {
            let (connection, link) = (ends.connection.clone(), Arc::clone(&ends.link));
            let repository = ends.store.configuration().repository;
            under_way.spawn(async move {
                if let Err(error) = read_there(&connection, &link, repository, &ids, &events).await {
                    let _ = events.send(Event::Failed(error)).await;
                }
            });
        }
    }
}

/// In storage order.
fn read_here(store: &Leased, ids: &[BlobId], events: &mpsc::Sender<Event>) {
    let groups = match store.arrange(ids) {
        Ok(groups) => groups,
        Err(error) => return drop(events.blocking_send(Event::Failed(error.into()))),
    };
    for group in groups {
        let ids: Vec<BlobId> = group.iter().filter_map(|position| ids.get(*position).copied()).collect();
        let records = match store.read(&ids) {
            Ok(records) => records,
            Err(error) => return drop(events.blocking_send(Event::Failed(error.into()))),
        };
        for record in records {
            let event = record.map_or_else(|error| Event::Lost(Refusal::of(&error)), Event::Read);
            if events.blocking_send(event).is_err() {
                return;
            }
        }
    }
}

async fn read_there(
    connection: &Connection,
    link: &Link,
    repository: RepositoryId,
    ids: &[BlobId],
    events: &mpsc::Sender<Event>,
) -> Result<()> {
    let (mut writer, mut reader) = connection.open().await?;
    writer.send(&Message::Read(ids.to_vec())).await?;
    writer.finish();
    let mut open: HashSet<BlobId> = ids.iter().copied().collect();
    while !open.is_empty() {
        let (id, event) = match reader.expect().await? {
            Message::Record(bytes) => {
                link.pass(bytes.len()).await;
                let record =
                    Record::parse(bytes, &repository).map_err(|error| protocol::Error::violation(error.to_string()))?;
                (record.id, Event::Read(record))
            }
            Message::Lost { id, refusal } => (id, Event::Lost(refusal)),
            other => return Err(unexpected(other).into()),
        };
        if !open.remove(&id) {
            return Err(protocol::Error::violation(format!("blob {id} came unasked")).into());
        }
        if events.send(event).await.is_err() {
            break;
        }
    }
    Ok(())
}

/// Where records are put.
enum Target {
    Own(Storing),
    Peer(Box<Pushing>),
}

impl Target {
    /// `is_tolerant`: a record whose links are not there is left out.
    async fn open(ends: &Ends, at: End, is_tolerant: bool) -> Result<Target> {
        Ok(match at {
            End::Own => Target::Own(Storing::begin(Arc::clone(&ends.store), is_tolerant)),
            End::Peer => {
                let (connection, link) = (ends.connection.clone(), Arc::clone(&ends.link));
                Target::Peer(Box::new(Pushing::open(connection, link, ends.push_bytes_max).await?))
            }
        })
    }

    async fn put(&mut self, record: Record, capsule: Arc<Capsule>) -> Result<()> {
        match self {
            Target::Own(storing) => storing.put(record, capsule).await,
            Target::Peer(pushing) => pushing.put(record, capsule).await,
        }
    }

    async fn give_up(self) {
        if let Target::Own(storing) = self {
            // Why is known already.
            let _ = storing.end(None).await;
        }
    }

    async fn commit(self, snapshot: Snapshot) -> Result<()> {
        match self {
            Target::Own(storing) => storing.end(Some(snapshot)).await,
            Target::Peer(mut pushing) => pushing.commit(snapshot).await,
        }
    }

    async fn flush(self) -> Result<()> {
        match self {
            Target::Own(storing) => storing.end(None).await,
            Target::Peer(mut pushing) => pushing.flush().await,
        }
    }
}

enum Work {
    Put(Record, Arc<Capsule>, OwnedSemaphorePermit),
    Commit(Box<Snapshot>),
}

/// A thread that stores here. If it is dropped, what was put becomes durable all the same.
struct Storing {
    works: mpsc::UnboundedSender<Work>,
    room: Arc<Semaphore>,
    thread: JoinHandle<Option<chunkstore::Result<()>>>,
}

impl Storing {
    fn begin(store: Arc<Leased>, is_tolerant: bool) -> Storing {
        let (works, mut waiting) = mpsc::unbounded_channel();
        let thread = tokio::spawn(blocking(move || {
            let stored = store_all(&store, &mut waiting, is_tolerant);
            // Those who wait for room are to notice.
            drop(waiting);
            store.flush().and(stored)
        }));
        Storing { works, room: Arc::new(Semaphore::new(WAITING_KIB_MAX)), thread }
    }

    async fn put(&mut self, record: Record, capsule: Arc<Capsule>) -> Result<()> {
        let kib = u32::try_from((record.bytes.len() >> 10) + 1).unwrap_or(u32::MAX);
        let kib = kib.min(u32::try_from(WAITING_KIB_MAX).unwrap_or(u32::MAX));
        let permit = Arc::clone(&self.room).acquire_many_owned(kib).await.map_err(|_| failed())?;
        match self.works.send(Work::Put(record, capsule, permit)) {
            Ok(()) => Ok(()),
            Err(_) => Err(self.reason().await),
        }
    }

    async fn end(mut self, snapshot: Option<Snapshot>) -> Result<()> {
        let is_sent = snapshot.is_none_or(|snapshot| self.works.send(Work::Commit(Box::new(snapshot))).is_ok());
        if !is_sent {
            return Err(self.reason().await);
        }
        drop(self.works);
        Ok(self.thread.await.ok().flatten().ok_or_else(failed)??)
    }

    async fn reason(&mut self) -> Error {
        match (&mut self.thread).await {
            Ok(Some(Err(error))) => error.into(),
            _ => failed(),
        }
    }
}

fn store_all(store: &Leased, works: &mut mpsc::UnboundedReceiver<Work>, is_tolerant: bool) -> chunkstore::Result<()> {
    while let Some(work) = works.blocking_recv() {
        match work {
            Work::Put(record, capsule, _permit) => match store.put_copy(record, &capsule) {
                Err(chunkstore::Error::Missing { .. }) if is_tolerant => {}
                put => put?,
            },
            Work::Commit(snapshot) => store.commit(&snapshot)?,
        }
    }
    Ok(())
}

/// A push to the peer.
struct Pushing {
    connection: Connection,
    link: Arc<Link>,
    bytes_max: u64,
    sender: Sender,
    writer: Writer,
    answers: mpsc::UnboundedReceiver<protocol::Result<Message>>,
    reading: JoinHandle<()>,
    capsules: HashSet<CapsuleId>,
}

impl Drop for Pushing {
    fn drop(&mut self) {
        self.writer.finish();
        self.reading.abort();
    }
}

impl Pushing {
    async fn open(connection: Connection, link: Arc<Link>, bytes_max: u64) -> Result<Pushing> {
        let (mut writer, mut reader) = connection.open().await?;
        writer.send(&Message::Push).await?;
        let (send, answers) = mpsc::unbounded_channel();
        let reading = tokio::spawn(async move {
            loop {
                let answer = reader
                    .next()
                    .await
                    .and_then(|answer| answer.ok_or_else(|| protocol::Error::lost("a push was ended")));
                let is_over = answer.is_err();
                if send.send(answer).is_err() || is_over {
                    return;
                }
            }
        });
        let (sender, capsules) = (Sender::new(bytes_max), HashSet::new());
        Ok(Pushing { connection, link, bytes_max, sender, writer, answers, reading, capsules })
    }

    async fn put(&mut self, record: Record, capsule: Arc<Capsule>) -> Result<()> {
        if self.capsules.insert(record.capsule) && self.capsules.len() > STREAM_CAPSULES_MAX {
            self.flush().await?;
            *self = Pushing::open(self.connection.clone(), Arc::clone(&self.link), self.bytes_max).await?;
            self.capsules.insert(record.capsule);
        }
        while let Ok(answer) = self.answers.try_recv() {
            self.sender.received(answer?)?;
        }
        while !self.sender.has_room_for(record.bytes.len()) {
            self.answer().await?;
        }
        self.sender.put(record, &capsule);
        self.send().await
    }

    async fn flush(&mut self) -> Result<()> {
        let ticket = self.sender.flush();
        self.send().await?;
        while self.answer().await? != Pushed::Flushed(ticket) {}
        Ok(())
    }

    async fn commit(&mut self, snapshot: Snapshot) -> Result<()> {
        self.sender.commit(snapshot.id, snapshot.bytes);
        self.send().await?;
        while !matches!(self.answer().await?, Pushed::Committed { .. }) {}
        Ok(())
    }

    async fn answer(&mut self) -> Result<Pushed> {
        let answer = self.answers.recv().await.ok_or_else(|| protocol::Error::lost("a push was ended"))?;
        Ok(self.sender.received(answer?)?)
    }

    async fn send(&mut self) -> Result<()> {
        while let Some(frame) = self.sender.outgoing() {
            let sent = match frame {
                Outgoing::Capsule(bytes) => self.writer.send(&Message::CapsuleObject(bytes.to_vec())).await,
                Outgoing::Record(bytes) => {
                    self.link.pass(bytes.len()).await;
                    self.writer.send_record(bytes).await
                }
                Outgoing::Flush => self.writer.send(&Message::Flush).await,
                Outgoing::Commit(bytes) => self.writer.send(&Message::Commit(bytes.to_vec())).await,
            };
            if let Err(error) = sent {
                return Err(self.reason(error).await);
            }
        }
        Ok(())
    }

    /// A stream may have been stopped by an answer that says why.
    async fn reason(&mut self, error: protocol::Error) -> Error {
        let answering = async {
            loop {
                if let Err(error) = self.answer().await {
                    return error;
                }
            }
        };
        timeout(REASON_WAIT, answering).await.unwrap_or(error.into())
    }
}
