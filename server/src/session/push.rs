//! A push: frames come in on the network's side, are stored in order on a thread of their own, and are answered as they
//! become durable. What waits between the two is bounded in bytes, so that a slow disk slows the sender.

use super::{Session, refusal_of};
use crate::access::Verb;
use crate::storage::{blocking, nanoseconds};
use chunkstore::record::Class;
use chunkstore::repository::Leased;
use chunkstore::snapshot::Snapshot;
use chunkstore::store::Store;
use protocol::connection::{Reader, Writer};
use protocol::message::{ByClass, Code, Message, Refusal, Role};
use protocol::push::{Receiver, Step};
use protocol::{Error, Result};
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

/// KiB of records of one session that wait to be stored.
const WAITING_KIB_MAX: usize = 8 << 10;
/// Records that are looked at together.
const LOOK_MAX: usize = 1024;

/// A frame with its share of what may wait.
struct Waiting {
    frame: Message,
    _own: OwnedSemaphorePermit,
    _all: OwnedSemaphorePermit,
}

pub async fn serve(session: &Arc<Session>, mut writer: Writer, mut reader: Reader) -> Result<()> {
    if let Err(refusal) = session.access.check(Verb::Push) {
        writer.send(&Message::Refused(refusal)).await?;
        writer.finish();
        return Ok(());
    }
    let (frames, waiting) = mpsc::unbounded_channel();
    let (answers, mut to_answer) = mpsc::unbounded_channel();
    let own = Arc::clone(session);
    let storing = blocking(move || store_all(&own, waiting, &answers));
    let own = Arc::new(Semaphore::new(WAITING_KIB_MAX));
    let receiving = async {
        loop {
            let frame = match reader.next().await {
                Ok(Some(frame)) => frame,
                Ok(None) => return Ok(()),
                Err(error) => return Err(error),
            };
            let kib = match &frame {
                Message::Record(bytes) => (bytes.len() >> 10) + 1,
                _ => 1,
            };
            let permits = |all: &Arc<Semaphore>, kib: usize| {
                let kib = u32::try_from(kib.min(WAITING_KIB_MAX)).unwrap_or(u32::MAX);
                Arc::clone(all).acquire_many_owned(kib)
            };
            let closed = |_| Error::lost("the server stops");
            let _own = permits(&own, kib).await.map_err(closed)?;
            let _all = permits(&session.hub.waiting, kib).await.map_err(closed)?;
            if frames.send(Waiting { frame, _own, _all }).is_err() {
                // Storing ended with an answer.
                return Ok(());
            }
        }
    };
    let answering = async {
        while let Some(answer) = to_answer.recv().await {
            writer.send(&answer).await?;
        }
        writer.finish();
        Ok(())
    };
    // The thread ends when it gave up, or when no frames come any more; its answers end with it.
    let working = async { tokio::join!(storing, answering) };
    tokio::pin!(working);
    let received = tokio::select! {
        received = receiving => received,
        (stored, answered) = &mut working => return conclude(stored, answered),
    };
    drop(frames);
    let (stored, answered) = working.await;
    received.and(conclude(stored, answered))
}

fn conclude(stored: Option<Result<()>>, answered: Result<()>) -> Result<()> {
    stored.unwrap_or_else(|| Err(Error::lost("storing failed"))).and(answered)
}

/// The thread: until the frames end, or one is refused (which is answered) or breaks the protocol (which is the error).
fn store_all(
    session: &Session,
    mut frames: mpsc::UnboundedReceiver<Waiting>,
    answers: &mpsc::UnboundedSender<Message>,
) -> Result<()> {
    let store = match session.store() {
        Ok(store) => store,
        Err(error) => {
            // Nobody listens only if the connection is gone.
            let _ = answers.send(Message::Refused(refusal_of(&session.shelf, &error)));
            return Ok(());
        }
    };
    // Before anything of it is taken.
    if let Err(refusal) = session.admit() {
        let _ = answers.send(Message::Refused(refusal));
        return Ok(());
    }
    let mut storing = Storing {
        session,
        receiver: Receiver::new(store.configuration().repository, session.push_bytes_max),
        store,
        answers,
        unaccounted: 0,
        is_dirty: false,
    };
    while let Some(waiting) = frames.blocking_recv() {
        match storing.take(waiting.frame) {
            Ok(()) => {}
            Err(Error::Refused(refusal)) => {
                tracing::warn!(client = session.access.client, repository = session.shelf.name, %refusal, "push refused");
                let _ = answers.send(Message::Refused(refusal));
                break;
            }
            Err(error) => {
                storing.settle();
                return Err(error);
            }
        }
    }
    storing.settle();
    Ok(())
}

struct Storing<'a> {
    session: &'a Session,
    store: Arc<Leased>,
    receiver: Receiver,
    answers: &'a mpsc::UnboundedSender<Message>,
    /// Bytes put that were not noted yet.
    unaccounted: u64,
    /// Something was put that is not known to be durable.
    is_dirty: bool,
}

impl Storing<'_> {
    fn take(&mut self, frame: Message) -> Result<()> {
        match self.receiver.take(frame)? {
            Step::Kept => Ok(()),
            Step::Put(record, capsule) => {
                let (id, class, len) = (record.id, record.class, record.bytes.len());
                let is_copy = self.session.access.has(Role::Replica);
                let put = if is_copy { Leased::put_copy } else { Leased::put_exact };
                let stored = put(&self.store, record, &capsule);
                stored.map_err(|error| self.refused(&error))?;
                self.is_dirty = true;
                self.unaccounted += len as u64;
                if !self.receiver.stored(id, class, len) {
                    return Ok(());
                }
                self.account();
                self.look()?;
                self.session.admit().map_err(Error::Refused)
            }
            Step::Flush => {
                self.flush()?;
                let answer = self.receiver.flushed();
                self.answer(answer);
                Ok(())
            }
            Step::Commit(snapshot) => self.commit(&snapshot),
        }
    }

    /// Tells what is durable by now, and sees to it that this is enough for the sender to get on.
    fn look(&mut self) -> Result<()> {
        self.tell()?;
        if self.receiver.is_crowded() {
            self.store.store_full().map_err(|error| self.refused(&error))?;
            self.tell()?;
        }
        if self.receiver.is_crowded() {
            self.flush()?;
            self.tell_all();
        }
        Ok(())
    }

    /// All that is durable, by batches.
    fn tell(&mut self) -> Result<()> {
        loop {
            let counts = ByClass { data: self.durable(Class::Data)?, nodes: self.durable(Class::Node)? };
            let answer = self.receiver.settled(counts);
            answer.into_iter().for_each(|answer| self.answer(answer));
            if counts.data < LOOK_MAX && counts.nodes < LOOK_MAX {
                return Ok(());
            }
        }
    }

    /// How many of the oldest are durable, of one batch.
    fn durable(&mut self, class: Class) -> Result<usize> {
        let oldest = self.receiver.oldest(class, LOOK_MAX);
        let durable = self.store.durable(&oldest).map_err(|error| self.refused(&error))?;
        Ok(durable.into_iter().take_while(|durable| *durable).count())
    }

    /// Everything is durable.
    fn tell_all(&mut self) {
        let answer = self.receiver.settled(ByClass { data: usize::MAX, nodes: usize::MAX });
        answer.into_iter().for_each(|answer| self.answer(answer));
    }

    fn account(&mut self) {
        self.session.account(std::mem::take(&mut self.unaccounted));
    }

    fn flush(&mut self) -> Result<()> {
        self.store.flush().map_err(|error| self.refused(&error))?;
        self.is_dirty = false;
        Ok(())
    }

    fn commit(&mut self, snapshot: &Snapshot) -> Result<()> {
        let (access, summary) = (&self.session.access, &snapshot.summary);
        access.check_dataset(Verb::Commit, &summary.dataset).map_err(Error::Refused)?;
        if summary.writer != self.session.writer && !access.has(Role::Replica) {
            tracing::warn!(client = access.client, dataset = summary.dataset, "a snapshot of a stranger");
            let what = format!("dataset {}", summary.dataset);
            let reason = "the snapshot is signed by another key than the one this client enrolled with";
            return Err(Error::Refused(Refusal::new(Code::Denied, what, reason)));
        }
        self.store.commit(snapshot).map_err(|error| self.refused(&error))?;
        self.is_dirty = false;
        let (registry, repository) = (&self.session.hub.registry, &self.session.shelf.name);
        self.session.hub.sites.touch(repository);
        // What another site brings was received there when it was made; it is not all of one day here.
        let is_own = summary.writer == self.session.writer || !access.has(Role::Replica);
        let time = if is_own { nanoseconds() } else { summary.time.min(nanoseconds()) };
        let receipt = registry.receipt(repository, snapshot.id, &summary.dataset, self.session.client, time);
        // It is committed whatever happens to the note about it.
        let received = receipt.unwrap_or_else(|error| {
            tracing::error!(%error, snapshot = %snapshot.id, "a receipt could not be recorded");
            nanoseconds()
        });
        tracing::info!(client = access.client, repository, dataset = summary.dataset, snapshot = %snapshot.id, "committed");
        // The receipt of all before it.
        self.tell_all();
        self.answer(Message::Committed { snapshot: snapshot.id, received });
        Ok(())
    }

    /// However a push ends, what arrived is known to whoever comes next.
    fn settle(&mut self) {
        self.account();
        if self.is_dirty
            && let Err(error) = self.store.flush()
        {
            refusal_of(&self.session.shelf, &error);
        }
        self.is_dirty = false;
    }

    fn answer(&self, answer: Message) {
        // Nobody listens only if the connection is gone.
        let _ = self.answers.send(answer);
    }

    fn refused(&self, error: &chunkstore::Error) -> Error {
        Error::Refused(refusal_of(&self.session.shelf, error))
    }
}
