//! A repository at the other end of QUIC. What is asynchronous in the client is below this module, which owns the runtime
//! and shows the rest what does not know of it: a [`Store`] whose calls wait.
//!
//! A connection that was lost is made again, for a minute; what was not answered is asked again, and what
//! was sent and is not durable is sent again, unless it arrived. Records go out without waiting for answers, so a fault of
//! one shows at a later `put`, at `flush` or at `commit`.

mod objects;

mod pace;

mod push;

mod runtime;

mod wire;

pub use objects::KeySlots;

use crate::error::{Error, Result};
use crate::servers::{self, RemotePlace};
use crate::settings::Settings;
use chunkstore::backend::{Backend, ObjectKind as Kind, ObjectName};
use chunkstore::capsule::Capsule;
use chunkstore::configuration::Configuration;
use chunkstore::id::{BlobId, CapsuleId, HalfTag, MarkId, SnapshotId, Tag};
use chunkstore::mark::Mark;
use chunkstore::record::Record;
use chunkstore::repository::Statistics;
use chunkstore::snapshot::Snapshot;
use chunkstore::store::Store;
use protocol::connection::{Close, Connection};
use protocol::fetch::Fetch;
use protocol::identity::NodeId;
use protocol::message::{BATCH_MAX, COPIES_MAX, Code, Message, ObjectKind, Role, VERSION};
use protocol::tls::Purpose;
use protocol::token::{EXPORTER_LABEL, Token};
use push::{Push, PushQueue, push_all};
use runtime::Runtime;
use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use wire::Wire;

/// Callers for each processor: what waits for answers leaves room for others.
const CALLERS: usize = 6;

type Answered<T> = std::result::Result<T, protocol::Error>;

/// The way to a repository on a server.
pub struct Link {
    wire: Arc<Wire>,
    runtime: Runtime,
}

pub struct Remote {
    link: Arc<Link>,
    configuration: Configuration,
    capsules: Mutex<HashMap<CapsuleId, Capsule>>,
    push: Push,
}

/// What an invitation brought.
pub struct Joined {
    pub place: RemotePlace,
    pub client: NodeId,
    pub server: NodeId,
    pub role: Role,
    pub datasets: Vec<String>,
}

/// Answers an invitation: pins the server, and makes this machine known to it.
pub fn join(settings: &Settings, token: &Token, writer: [u8; 32], name: &str) -> Result<Joined> {
    let key = servers::node_key(&settings.state_dir)?;
    let runtime = Runtime::start()?;
    let place = RemotePlace { address: token.address.clone(), repository: token.repository.clone() };
    let enrolling = async {
        let connection = Connection::connect(&place.address, &key, token.server, Purpose::Enrol).await?;
        let proof = Token::proof(&token.secret, &connection.exported(EXPORTER_LABEL)?, key.id());
        let (mut sending, mut receiving) = connection.open().await?;
        let (invitation, name) = (token.invitation, name.to_owned());
        sending.send(&Message::Enroll { version: VERSION, invitation, proof: *proof.as_bytes(), writer, name }).await?;
        let answer = receiving.expect().await?;
        connection.close_gently().await;
        Ok(answer)
    };
    let answer = runtime.handle.block_on(enrolling).map_err(|error| match error {
        // A server lets strangers in only while an invitation is open.
        protocol::Error::Unknown { .. } => invitation_gone(),
        error => in_words(&place, error),
    })?;
    match answer {
        Message::Enrolled { role, datasets, .. } => {
            servers::pin(&settings.state_dir, &place.address, token.server)?;
            Ok(Joined { place, client: key.id(), server: token.server, role, datasets })
        }
        Message::Refused(refusal) if refusal.code == Code::Invitation => {
            Err(Error::refused("the invitation", refusal.reason))
        }
        Message::Refused(refusal) => Err(refusal.into_error().into()),
        other => Err(in_words(&place, unexpected(&other)).into()),
    }
}

fn invitation_gone() -> chunkstore::Error {
    let reason = "it is used, expired or was never made; ask for another one";
    chunkstore::Error::Denied { what: "the invitation".into(), reason: reason.into() }
}

impl Link {
    /// Connects, to a server that this machine joined.
    pub fn open(settings: &Settings, place: &RemotePlace) -> Result<Link> {
        let key = servers::node_key(&settings.state_dir)?;
        let server = servers::pinned(&settings.state_dir, &place.address)?;
        let wire = Wire::new(place.clone(), key, server, settings.download_bytes_per_second);
        let link = Link { wire: Arc::new(wire), runtime: Runtime::start()? };
        link.wait(Arc::clone(&link.wire).begin())?;
        Ok(link)
    }

    /// None while nobody has created the repository.
    pub fn configuration(&self) -> Result<Option<Configuration>> {
        let bytes = self.wire.welcome().configuration;
        if bytes.is_empty() {
            return Ok(None);
        }
        Ok(Some(Configuration::decode(&bytes, "the configuration that the server sent")?))
    }

    /// Makes the empty repository one with these key slots.
    pub fn create(&self, configuration: &Configuration, slots: &dyn Backend) -> Result<()> {
        let mut sent = Vec::new();
        for (name, _) in slots.list(Kind::KeySlot)? {
            if let ObjectName::KeySlot(id) = name {
                sent.push((id, slots.get(name)?));
            }
        }
        let request = Message::Create { configuration: configuration.encode(), slots: sent };
        Ok(self.done(request)?)
    }

    /// All small objects of a kind, whole.
    fn objects(&self, kind: ObjectKind) -> chunkstore::Result<Vec<(Vec<u8>, Arc<Vec<u8>>)>> {
        let names = self.wait(self.wire.objects(kind))?;
        Ok(self.wire.objects.held(kind, &names))
    }

    fn done(&self, request: Message) -> chunkstore::Result<()> {
        let done = self.request(request, |answer| match answer {
            Message::Done => Ok(()),
            other => Err(unexpected(&other)),
        });
        self.wire.forget_ahead();
        done
    }

    /// One question, one answer.
    fn request<T>(&self, request: Message, take: impl Fn(Message) -> Answered<T>) -> chunkstore::Result<T> {
        self.wait(self.wire.ask(&request)).and_then(|answer| take(answer).map_err(|error| self.in_words(error)))
    }

    /// Several at once: a round trip for all of them, not for each.
    fn requests<T>(&self, requests: Vec<Message>, take: impl Fn(Message) -> Answered<T>) -> chunkstore::Result<Vec<T>> {
        if let Ok([request]) = <[Message; 1]>::try_from(requests.clone()) {
            return self.request(request, take).map(|answer| vec![answer]);
        }
        let asked: Vec<_> = requests
            .into_iter()
            .map(|request| {
                let wire = Arc::clone(&self.wire);
                self.runtime.handle.spawn(async move { wire.ask(&request).await })
            })
            .collect();
        let mut answers = Vec::with_capacity(asked.len());
        for asked in asked {
            let answer =
                self.wait(async { asked.await.unwrap_or_else(|_| Err(protocol::Error::lost("it was stopped"))) })?;
            answers.push(take(answer).map_err(|error| self.in_words(error))?);
        }
        Ok(answers)
    }

    /// Waits on a thread that does not drive the network.
    fn wait<T>(&self, work: impl Future<Output = Answered<T>>) -> chunkstore::Result<T> {
        self.runtime.handle.block_on(work).map_err(|error| self.in_words(error))
    }

    fn in_words(&self, error: protocol::Error) -> chunkstore::Error {
        in_words(&self.wire.place, error)
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.runtime.handle.block_on(self.wire.end());
    }
}

impl Remote {
    pub fn new(link: Arc<Link>, configuration: Configuration) -> Remote {
        let push = Push::new(link.wire.welcome().push_bytes_max);
        Remote { link, configuration, capsules: Mutex::default(), push }
    }

    /// The key of the server, which was pinned.
    pub fn server(&self) -> [u8; 32] {
        self.link.wire.server.0
    }

    pub fn place(&self) -> &RemotePlace {
        &self.link.wire.place
    }

    pub fn statistics(&self) -> chunkstore::Result<Statistics> {
        self.link.request(Message::Statistics, |answer| match answer {
            Message::StatisticsAnswer { packs, pack_bytes, blobs, blob_bytes } => {
                Ok(Statistics { packs, pack_bytes, blobs, blob_bytes })
            }
            other => Err(unexpected(&other)),
        })
    }

    /// At which sites these snapshots are.
    pub fn copies(&self, snapshots: &[SnapshotId]) -> chunkstore::Result<Vec<Vec<String>>> {
        let requests: Vec<Message> =
            snapshots.chunks(COPIES_MAX).map(|batch| Message::Copies(batch.to_vec())).collect();
        if requests.is_empty() {
            return Ok(Vec::new());
        }
        let answers = self.link.requests(requests, |answer| match answer {
            Message::CopiesAnswer(copies) => Ok(copies),
            other => Err(unexpected(&other)),
        })?;
        let copies = answers.concat();
        if copies.len() == snapshots.len() { Ok(copies) } else { Err(odd("it does not fit the question")) }
    }

    /// Starts what sends, when there is something to send for the first time.
    fn pushing(&self) -> &Arc<PushQueue> {
        self.push.started(|queue| {
            self.link.runtime.handle.spawn(push_all(Arc::clone(&self.link.wire), queue));
        })
    }

    fn read_batch(&self, ids: &[BlobId]) -> chunkstore::Result<Vec<chunkstore::Result<Record>>> {
        let (request, repository) = (&Message::Read(ids.to_vec()), self.configuration.repository);
        let reading = self.link.wire.retrying(|connection| async move {
            let (mut writer, mut reader) = connection.open().await?;
            writer.send(request).await?;
            writer.finish();
            let mut fetch = Fetch::new(repository, ids);
            while !fetch.is_complete() {
                let answer = reader.expect().await?;
                let bytes = if let Message::Record(bytes) = &answer { bytes.len() as u64 } else { 0 };
                fetch.received(answer)?;
                self.link.wire.wait_for(bytes).await;
            }
            fetch.finish()
        });
        self.link.wait(reading)
    }
}

impl Store for Remote {
    fn configuration(&self) -> &Configuration {
        &self.configuration
    }

    fn callers(&self) -> usize {
        CALLERS
    }

    fn known(&self, tags: &[Tag]) -> chunkstore::Result<Vec<Option<BlobId>>> {
        // What this session put needs no question: who puts a node has just put what it links to.
        let mut answers: Vec<Option<BlobId>> = self.push.put_before(tags);
        let asked: Vec<usize> = (0..tags.len()).filter(|at| answers.get(*at).is_some_and(Option::is_none)).collect();
        let batches =
            asked.chunks(BATCH_MAX).map(|batch| batch.iter().filter_map(|at| tags.get(*at).copied()).collect());
        let batches: Vec<Vec<Tag>> = batches.collect();
        if batches.is_empty() {
            return Ok(answers);
        }
        let lens: Vec<usize> = batches.iter().map(Vec::len).collect();
        let known = self.link.requests(batches.into_iter().map(Message::Known).collect(), |answer| match answer {
            Message::KnownAnswer(known) => Ok(known),
            other => Err(unexpected(&other)),
        })?;
        if known.iter().map(Vec::len).ne(lens) {
            return Err(odd("it does not fit the question"));
        }
        for (at, known) in asked.into_iter().zip(known.into_iter().flatten()) {
            if let Some(answer) = answers.get_mut(at) {
                *answer = known;
            }
        }
        Ok(answers)
    }

    fn present(&self, ids: &[BlobId]) -> chunkstore::Result<Vec<bool>> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let requests = ids.chunks(BATCH_MAX).map(|batch| Message::Present(batch.to_vec())).collect();
        let present = self.link.requests(requests, |answer| match answer {
            Message::PresentAnswer(present) => Ok(present),
            other => Err(unexpected(&other)),
        })?;
        let fits = present.iter().map(Vec::len).eq(ids.chunks(BATCH_MAX).map(<[BlobId]>::len));
        if fits { Ok(present.concat()) } else { Err(odd("it does not fit the question")) }
    }

    fn generation(&self) -> chunkstore::Result<[u8; 16]> {
        Ok(self.link.wire.welcome().generation)
    }

    fn alternate(&self, tag: HalfTag) -> chunkstore::Result<Option<BlobId>> {
        self.link.request(Message::Alternate(tag), |answer| match answer {
            Message::AlternateAnswer(id) => Ok(id),
            other => Err(unexpected(&other)),
        })
    }

    fn put(&self, record: Record, capsule: &Capsule) -> chunkstore::Result<BlobId> {
        self.pushing();
        self.push.put(record, capsule).map_err(|error| self.link.in_words(error))
    }

    fn flush(&self) -> chunkstore::Result<()> {
        if !self.push.was_started() {
            return Ok(());
        }
        self.push.flush().map_err(|error| self.link.in_words(error))
    }

    fn commit(&self, snapshot: &Snapshot) -> chunkstore::Result<()> {
        self.pushing();
        let committed = self.push.commit(snapshot).map_err(|error| self.link.in_words(error));
        self.link.wire.forget_ahead();
        committed
    }

    fn snapshots(&self) -> chunkstore::Result<Vec<(SnapshotId, chunkstore::Result<Snapshot>)>> {
        let parse = |(name, bytes): (Vec<u8>, Arc<Vec<u8>>)| {
            let id = SnapshotId::from_slice(&name)?;
            let snapshot = Snapshot::parse(bytes.to_vec(), &self.configuration.repository);
            Some((
                id,
                snapshot.and_then(|snapshot| named(snapshot.id == id, &format!("snapshot {id}")).map(|()| snapshot)),
            ))
        };
        Ok(self.link.objects(ObjectKind::Snapshot)?.into_iter().filter_map(parse).collect())
    }

    fn marks(&self) -> chunkstore::Result<Vec<(MarkId, chunkstore::Result<(Mark, Vec<u8>)>)>> {
        let parse = |(name, bytes): (Vec<u8>, Arc<Vec<u8>>)| {
            let id = MarkId::from_slice(&name)?;
            let mark = Mark::parse(&bytes, &self.configuration.repository);
            let mark =
                mark.and_then(|(own, mark)| named(own == id, &format!("mark {id}")).map(|()| (mark, bytes.to_vec())));
            Some((id, mark))
        };
        Ok(self.link.objects(ObjectKind::Mark)?.into_iter().filter_map(parse).collect())
    }

    fn mark(&self, object: &[u8]) -> chunkstore::Result<()> {
        self.link.done(Message::Store { kind: ObjectKind::Mark, bytes: object.to_vec() })
    }

    fn arrange(&self, ids: &[BlobId]) -> chunkstore::Result<Vec<Vec<usize>>> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let requests = ids.chunks(BATCH_MAX).map(|batch| Message::Arrange(batch.to_vec())).collect();
        let batches = self.link.requests(requests, |answer| match answer {
            Message::Groups(groups) => Ok(groups),
            other => Err(unexpected(&other)),
        })?;
        let mut arranged = Vec::new();
        for ((batch, groups), start) in ids.chunks(BATCH_MAX).zip(batches).zip((0..).step_by(BATCH_MAX)) {
            if groups.iter().map(Vec::len).sum::<usize>() != batch.len() {
                return Err(odd("it does not fit the question"));
            }
            let position = |position: u32| start + position as usize;
            arranged.extend(groups.into_iter().map(|group| group.into_iter().map(position).collect::<Vec<_>>()));
        }
        Ok(arranged)
    }

    fn read(&self, ids: &[BlobId]) -> chunkstore::Result<Vec<chunkstore::Result<Record>>> {
        let mut records = Vec::with_capacity(ids.len());
        for batch in ids.chunks(BATCH_MAX) {
            records.extend(self.read_batch(batch)?);
        }
        Ok(records)
    }

    fn capsule(&self, id: CapsuleId) -> chunkstore::Result<Capsule> {
        if let Some(capsule) = lock(&self.capsules).get(&id) {
            return Ok(capsule.clone());
        }
        let bytes = self.link.request(Message::Capsule(id), |answer| match answer {
            Message::CapsuleObject(bytes) => Ok(bytes),
            other => Err(unexpected(&other)),
        })?;
        let capsule = Capsule::parse(bytes, &self.configuration.repository)?;
        named(capsule.id == id, &format!("capsule {id}"))?;
        lock(&self.capsules).insert(id, capsule.clone());
        Ok(capsule)
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        self.push.end();
    }
}

fn unexpected(message: &Message) -> protocol::Error {
    match message {
        Message::Refused(refusal) => protocol::Error::Refused(refusal.clone()),
        other => protocol::Error::violation(format!("{} is no answer to this", other.name())),
    }
}

/// What the rest of the program is told.
fn in_words(place: &RemotePlace, error: protocol::Error) -> chunkstore::Error {
    use chunkstore::Error as Store;
    let server = || format!("the server {}", place.address);
    match error {
        protocol::Error::Unreachable { reason, .. } | protocol::Error::Lost { reason } => {
            Store::Unreachable { place: server(), reason }
        }
        protocol::Error::WrongServer { .. } => Store::Denied {
            what: server(),
            reason: "it has another key than when this machine joined it: it was set up anew, or somebody else answers"
                .into(),
        },
        protocol::Error::Unknown { .. } => {
            Store::Denied { what: server(), reason: "it does not know this machine, or no longer".into() }
        }
        protocol::Error::Closed { code, reason } if code == Close::Revoked as u32 => {
            Store::Denied { what: server(), reason }
        }
        protocol::Error::Closed { reason, .. } => Store::Unreachable { place: server(), reason },
        protocol::Error::Violation { reason } => odd(&reason),
        protocol::Error::Refused(refusal) => refusal.into_error(),
    }
}

fn odd(reason: &str) -> chunkstore::Error {
    chunkstore::Error::corrupt("the answer of the server", reason)
}

fn named(is_so: bool, object: &str) -> chunkstore::Result<()> {
    if is_so { Ok(()) } else { Err(chunkstore::Error::corrupt(object, "its bytes do not match its name")) }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
