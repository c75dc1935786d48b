//! The queue between threads that put and the task that sends: bounded by what the server lets be undurable.

use super::wire::{ATTEMPTS_MAX, Wire, is_loss};
use super::{Answered, lock, unexpected};
use chunkstore::capsule::Capsule;
use chunkstore::id::{BlobId, Tag};
use chunkstore::record::Record;
use chunkstore::snapshot::Snapshot;
use protocol::connection::Writer;
use protocol::message::{BATCH_MAX, Message};
use protocol::push::{Event, Outgoing, Sender};
use protocol::{Error, Result};
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::timeout;

/// Contents that this session put lately, so that two threads that meet the same one store it once.
const LATELY_MAX: usize = 64 << 10;

pub struct Push {
    queue: Arc<PushQueue>,
    started: OnceLock<()>,
}

pub struct PushQueue {
    state: Mutex<State>,
    /// There is more room, or an answer, or a failure.
    changed: Condvar,
    /// There is something to send, or it is over.
    wake: Notify,
}

struct State {
    sender: Sender,
    lately: HashMap<Tag, BlobId>,
    lately_order: VecDeque<Tag>,
    answered: HashSet<u64>,
    answers: u64,
    failure: Option<Error>,
    is_over: bool,
}

impl Push {
    pub fn new(bytes_max: u64) -> Push {
        let state = State {
            sender: Sender::new(bytes_max),
            lately: HashMap::new(),
            lately_order: VecDeque::new(),
            answered: HashSet::new(),
            answers: 0,
            failure: None,
            is_over: false,
        };
        let queue = PushQueue { state: Mutex::new(state), changed: Condvar::new(), wake: Notify::new() };
        Push { queue: Arc::new(queue), started: OnceLock::new() }
    }

    pub fn started(&self, start: impl FnOnce(Arc<PushQueue>)) -> &Arc<PushQueue> {
        self.started.get_or_init(|| start(Arc::clone(&self.queue)));
        &self.queue
    }

    pub fn was_started(&self) -> bool {
        self.started.get().is_some()
    }

    /// Under which id this session put these, as far as it remembers.
    pub fn put_before(&self, tags: &[Tag]) -> Vec<Option<BlobId>> {
        let state = lock(&self.queue.state);
        tags.iter().map(|tag| state.lately.get(tag).copied()).collect()
    }

    /// Waits while there is no room.
    pub fn put(&self, record: Record, capsule: &Capsule) -> Result<BlobId> {
        let mut state = lock(&self.queue.state);
        loop {
            state.check()?;
            if let Some(id) = state.lately.get(&record.tag) {
                return Ok(*id);
            }
            if state.sender.has_room_for(record.bytes.len()) {
                break;
            }
            state = self.queue.wait(state);
        }
        let (id, tag) = (record.id, record.tag);
        state.remember(tag, id);
        state.sender.put(record, capsule);
        drop(state);
        self.queue.wake.notify_one();
        Ok(id)
    }

    pub fn flush(&self) -> Result<()> {
        let mut state = lock(&self.queue.state);
        state.check()?;
        let ticket = state.sender.flush();
        self.answered(state, ticket)
    }

    pub fn commit(&self, snapshot: &Snapshot) -> Result<()> {
        let mut state = lock(&self.queue.state);
        state.check()?;
        let ticket = state.sender.commit(snapshot.id, snapshot.bytes.clone());
        self.answered(state, ticket)
    }

    /// Nothing more will be put.
    pub fn end(&self) {
        lock(&self.queue.state).is_over = true;
        self.queue.wake.notify_one();
    }

    fn answered(&self, mut state: MutexGuard<'_, State>, ticket: u64) -> Result<()> {
        self.queue.wake.notify_one();
        while !state.answered.remove(&ticket) {
            state.check()?;
            state = self.queue.wait(state);
        }
        Ok(())
    }
}

impl State {
    fn check(&self) -> Result<()> {
        self.failure.clone().map_or(Ok(()), Err)
    }

    fn remember(&mut self, tag: Tag, id: BlobId) {
        if self.lately_order.len() >= LATELY_MAX
            && let Some(oldest) = self.lately_order.pop_front()
        {
            self.lately.remove(&oldest);
        }
        self.lately.insert(tag, id);
        self.lately_order.push_back(tag);
    }
}

impl PushQueue {
    /// The next frame, once there is one; None when it is over.
    pub async fn outgoing(&self) -> Option<Outgoing> {
        loop {
            let woken = self.wake.notified();
            {
                let mut state = lock(&self.state);
                if let Some(frame) = state.sender.outgoing() {
                    return Some(frame);
                }
                if state.is_over {
                    return None;
                }
            }
            woken.await;
        }
    }

    pub fn received(&self, answer: Message) -> Result<()> {
        let mut state = lock(&self.state);
        state.answers += 1;
        match state.sender.received(answer)? {
            Event::Room => {}
            Event::Flushed(ticket) | Event::Committed { ticket, .. } => {
                state.answered.insert(ticket);
            }
        }
        drop(state);
        self.changed.notify_all();
        Ok(())
    }

    /// How many answers there were so far: whether things move.
    pub fn answers(&self) -> u64 {
        lock(&self.state).answers
    }

    pub fn interrupted(&self) -> Vec<Tag> {
        lock(&self.state).sender.interrupted()
    }

    pub fn resume(&self, known: &HashSet<BlobId>, bytes_max: u64) {
        lock(&self.state).sender.resume(known, bytes_max);
        self.changed.notify_all();
    }

    pub fn fail(&self, error: Error) {
        lock(&self.state).failure.get_or_insert(error);
        self.changed.notify_all();
    }

    fn wait<'s>(&self, state: MutexGuard<'s, State>) -> MutexGuard<'s, State> {
        self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
    }
}

async fn send(writer: &mut Writer, frame: Outgoing) -> Result<()> {
    match frame {
        Outgoing::Capsule(bytes) => writer.send(&Message::CapsuleObject(bytes.to_vec())).await,
        Outgoing::Record(bytes) => writer.send_record(bytes).await,
        Outgoing::Flush => writer.send(&Message::Flush).await,
        Outgoing::Commit(bytes) => writer.send(&Message::Commit(bytes.to_vec())).await,
    }
}
/// Sends what is put until the end, over one connection after another.
pub async fn push_all(wire: Arc<Wire>, queue: Arc<PushQueue>) {
    let mut attempts = 0;
    let mut durable = 0;
    loop {
        match push_once(&wire, &queue).await {
            Ok(()) => return,
            Err(error) if is_loss(&error) && attempts < ATTEMPTS_MAX => {
                let now = queue.answers();
                attempts = if now > durable { 0 } else { attempts + 1 };
                durable = now;
            }
            Err(error) => return queue.fail(error),
        }
    }
}

/// One stream, from what is not durable to its end. Ok only when nothing more is to come.
async fn push_once(wire: &Wire, queue: &PushQueue) -> Answered<()> {
    let connection = wire.connected().await?;
    let bytes_max = wire.welcome().push_bytes_max;
    let tags = queue.interrupted();
    let mut known = HashSet::new();
    for batch in tags.chunks(BATCH_MAX) {
        match wire.ask(&Message::Known(batch.to_vec())).await? {
            Message::KnownAnswer(answers) => known.extend(answers.into_iter().flatten()),
            other => return Err(unexpected(&other)),
        }
    }
    queue.resume(&known, bytes_max);
    let (mut writer, mut reader) = connection.open().await?;
    writer.send(&Message::Push).await?;
    let receiving = async {
        loop {
            let answer = reader.next().await?.ok_or_else(|| protocol::Error::lost("a push was ended"))?;
            queue.received(answer)?;
        }
    };
    let sending = async {
        loop {
            match queue.outgoing().await {
                None => return Ok(()),
                Some(frame) => send(&mut writer, frame).await?,
            }
        }
    };
    tokio::pin!(receiving);
    let outcome: Answered<()> = tokio::select! {
        received = &mut receiving => return received,
        sent = sending => sent,
    };
    match outcome {
        Ok(()) => {
            writer.finish();
            Ok(())
        }
        // It may have been stopped by an answer that says why.
        Err(error) => timeout(Duration::from_secs(5), receiving).await.unwrap_or(Err(error)),
    }
}
