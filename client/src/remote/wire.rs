//! A connection that comes back, what is asked over it, and what is asked ahead.
//!
//! Whatever is asked may be asked twice: an exchange over a connection that was lost is repeated over the next one.

use super::objects::Objects;
use super::pace::Pace;
use super::{Answered, lock, unexpected};
use crate::servers::RemotePlace;
use protocol::connection::{Close, Connection};
use protocol::identity::{NodeId, NodeKey};
use protocol::message::{Code, FETCH_MAX, Message, ObjectKind, VERSION};
use protocol::tls::Purpose;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;
use tokio::time::sleep;

/// How long a lost connection is tried again before the work is given up.
const OUTAGE_MAX: Duration = Duration::from_secs(60);
/// A request that fails so often over new connections fails.
pub const ATTEMPTS_MAX: usize = 8;
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// What was asked ahead serves for so long: a command asks more than once, and a person may take minutes for a passphrase.
const AHEAD_MAX: Duration = Duration::from_secs(5);

/// Tasks share it; it starts nothing and waits for nothing when it is dropped.
pub struct Wire {
    pub place: RemotePlace,
    pub server: NodeId,
    pub objects: Objects,
    key: NodeKey,
    download: Option<Mutex<Pace>>,
    connection: tokio::sync::Mutex<Option<Connection>>,
    welcome: Mutex<Welcome>,
    ahead: Mutex<HashMap<ObjectKind, Ahead>>,
}

/// What the server said last.
#[derive(Clone, Default)]
pub struct Welcome {
    /// Empty while there is no repository.
    pub configuration: Vec<u8>,
    pub generation: [u8; 16],
    pub push_bytes_max: u64,
}

/// Names that were asked for with the greeting.
struct Ahead {
    began: Instant,
    names: Arc<tokio::sync::Mutex<Names>>,
}

enum Names {
    Coming(JoinHandle<Answered<Vec<Vec<u8>>>>),
    Here(Vec<Vec<u8>>),
    Lost,
}

impl Wire {
    pub fn new(place: RemotePlace, key: NodeKey, server: NodeId, download_bytes_per_second: Option<u64>) -> Wire {
        Wire {
            place,
            server,
            objects: Objects::default(),
            key,
            download: download_bytes_per_second.map(|bytes| Mutex::new(Pace::new(bytes))),
            connection: tokio::sync::Mutex::new(None),
            welcome: Mutex::default(),
            ahead: Mutex::default(),
        }
    }

    pub fn welcome(&self) -> Welcome {
        lock(&self.welcome).clone()
    }

    /// The first connection. What nearly every command wants is asked for behind the greeting, without waiting for its answer.
    pub async fn begin(self: Arc<Self>) -> Answered<()> {
        let mut held = self.connection.lock().await;
        let connection = self.dial(|connection| {
            for kind in [ObjectKind::KeySlot, ObjectKind::Mark, ObjectKind::Snapshot] {
                let (wire, connection) = (Arc::clone(&self), connection.clone());
                let names = tokio::spawn(async move { wire.objects_over(&connection, kind).await });
                let names = Arc::new(tokio::sync::Mutex::new(Names::Coming(names)));
                lock(&self.ahead).insert(kind, Ahead { began: Instant::now(), names });
            }
        });
        *held = Some(connection.await?);
        Ok(())
    }

    /// This session changed what there is: what was asked ahead is asked again.
    pub fn forget_ahead(&self) {
        lock(&self.ahead).clear();
    }

    pub async fn end(&self) {
        if let Some(connection) = self.connection.lock().await.take() {
            connection.close_gently().await;
        }
    }

    /// What is not read fills the stream's window, and the server waits.
    pub async fn wait_for(&self, bytes: u64) {
        if let Some(download) = &self.download {
            let wait = lock(download).count(bytes, Instant::now());
            sleep(wait).await;
        }
    }

    /// One question, one answer.
    pub async fn ask(&self, request: &Message) -> Answered<Message> {
        self.retrying(|connection| async move { ask_over(&connection, request).await }).await
    }

    /// The names of all objects of this kind, which are then held as far as they are still there.
    pub async fn objects(&self, kind: ObjectKind) -> Answered<Vec<Vec<u8>>> {
        if let Some(names) = self.asked_ahead(kind).await {
            return Ok(names);
        }
        self.retrying(|connection| async move { self.objects_over(&connection, kind).await }).await
    }

    /// What is forgotten while somebody waits for it stays forgotten: he alone still gets it.
    async fn asked_ahead(&self, kind: ObjectKind) -> Option<Vec<Vec<u8>>> {
        let names = {
            let ahead = lock(&self.ahead);
            let ahead = ahead.get(&kind).filter(|ahead| ahead.began.elapsed() < AHEAD_MAX)?;
            Arc::clone(&ahead.names)
        };
        let mut names = names.lock().await;
        if let Names::Coming(task) = &mut *names {
            *names = match task.await {
                Ok(Ok(found)) => Names::Here(found),
                Ok(Err(_)) | Err(_) => Names::Lost,
            };
        }
        if let Names::Here(found) = &*names { Some(found.clone()) } else { None }
    }

    async fn objects_over(&self, connection: &Connection, kind: ObjectKind) -> Answered<Vec<Vec<u8>>> {
        let mut names: Vec<Vec<u8>> = Vec::new();
        loop {
            let after = names.last().cloned().unwrap_or_default();
            match ask_over(connection, &Message::List { kind, after }).await? {
                Message::Names { more, kind: listed, names: mut page } if listed == kind => {
                    let ends = !more || page.is_empty();
                    names.append(&mut page);
                    if ends {
                        break;
                    }
                }
                other => return Err(unexpected(&other)),
            }
        }
        for batch in self.objects.lacking(kind, &names).chunks(FETCH_MAX) {
            let (mut writer, mut reader) = connection.open().await?;
            writer.send(&Message::Fetch { kind, names: batch.to_vec() }).await?;
            writer.finish();
            let mut fetched = Vec::with_capacity(batch.len());
            for name in batch {
                match reader.expect().await? {
                    Message::Object(bytes) => fetched.push((name.clone(), bytes)),
                    // It went while we asked.
                    Message::Refused(refusal) if refusal.code == Code::Missing => {}
                    other => return Err(unexpected(&other)),
                }
            }
            self.objects.keep(kind, fetched);
        }
        Ok(names)
    }

    /// Runs an exchange, over a new connection if the old one was lost meanwhile.
    pub async fn retrying<T, F>(&self, exchange: impl Fn(Connection) -> F) -> Answered<T>
    where
        F: Future<Output = Answered<T>>,
    {
        let mut attempts = 0;
        loop {
            let connection = self.connected().await?;
            let outcome = exchange(connection.clone()).await;
            attempts += 1;
            match outcome {
                // A stream may fail by itself; then the connection is of no use either.
                Err(error) if is_loss(&error) && attempts < ATTEMPTS_MAX => connection.close(Close::Done, ""),
                outcome => return outcome,
            }
        }
    }

    /// The connection, made again if it is gone. Who comes first dials, the others wait.
    pub async fn connected(&self) -> Answered<Connection> {
        let mut held = self.connection.lock().await;
        if let Some(connection) = held.as_ref().filter(|connection| connection.is_open()) {
            return Ok(connection.clone());
        }
        if let Some(connection) = held.take()
            && let error = connection.ended().await
            && let protocol::Error::Closed { code, .. } = &error
            && *code == Close::Revoked as u32
        {
            return Err(error);
        }
        let began = Instant::now();
        let mut pause = PAUSE_MIN;
        loop {
            match self.dial(|_| {}).await {
                Ok(connection) => {
                    *held = Some(connection.clone());
                    return Ok(connection);
                }
                Err(error) if is_loss(&error) && began.elapsed() < OUTAGE_MAX => {}
                Err(error) => return Err(error),
            }
            sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// A connection that the server accepted. `greeted` is called when the greeting is on its way; what is opened then is
    /// served behind it.
    async fn dial(&self, greeted: impl FnOnce(&Connection)) -> Answered<Connection> {
        let connection = Connection::connect(&self.place.address, &self.key, self.server, Purpose::Work).await?;
        let (mut writer, mut reader) = connection.open().await?;
        let program = format!("nightkeep {}", env!("CARGO_PKG_VERSION"));
        let repository = self.place.repository.clone();
        writer.send(&Message::Hello { version: VERSION, repository, program }).await?;
        greeted(&connection);
        match reader.expect().await? {
            Message::Welcome { configuration, generation, push_bytes_max, .. } => {
                let mut welcome = lock(&self.welcome);
                if !welcome.configuration.is_empty() && welcome.configuration != configuration {
                    return Err(protocol::Error::violation("the repository became another one"));
                }
                *welcome = Welcome { configuration, generation, push_bytes_max };
                Ok(connection)
            }
            other => Err(unexpected(&other)),
        }
    }
}

async fn ask_over(connection: &Connection, request: &Message) -> Answered<Message> {
    let (mut writer, mut reader) = connection.open().await?;
    writer.send(request).await?;
    writer.finish();
    reader.expect().await
}

/// Whether the same can be tried over another connection.
pub fn is_loss(error: &protocol::Error) -> bool {
    match error {
        protocol::Error::Lost { .. } | protocol::Error::Unreachable { .. } => true,
        protocol::Error::Closed { code, .. } => {
            [Close::Done, Close::Stopping, Close::Busy].iter().any(|c| *c as u32 == *code)
        }
        protocol::Error::Refused(refusal) => refusal.code == Code::Busy,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_forgotten_while_it_is_waited_for_stays_forgotten() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let key = NodeKey::generate().unwrap();
            let place = RemotePlace { address: "localhost:1".into(), repository: "r".into() };
            let server = key.id();
            let wire = Arc::new(Wire::new(place, key, server, None));
            let (answer, answered) = tokio::sync::oneshot::channel();
            let task = tokio::spawn(async move { Ok(answered.await.unwrap()) });
            let names = Arc::new(tokio::sync::Mutex::new(Names::Coming(task)));
            lock(&wire.ahead).insert(ObjectKind::Mark, Ahead { began: Instant::now(), names });
            let waiting = tokio::spawn({
                let wire = Arc::clone(&wire);
                async move { wire.asked_ahead(ObjectKind::Mark).await }
            });
            tokio::task::yield_now().await;
            wire.forget_ahead();
            answer.send(vec![vec![1]]).unwrap();
            assert_eq!(waiting.await.unwrap(), Some(vec![vec![1]]));
            assert_eq!(wire.asked_ahead(ObjectKind::Mark).await, None);

            let names = Arc::new(tokio::sync::Mutex::new(Names::Here(vec![vec![2]])));
            lock(&wire.ahead).insert(ObjectKind::Mark, Ahead { began: Instant::now(), names });
            for _ in 0..2 {
                assert_eq!(wire.asked_ahead(ObjectKind::Mark).await, Some(vec![vec![2]]));
            }
        });
    }
}
