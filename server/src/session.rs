//! One connection of an enrolled client: greeting, then exchanges side by side (`docs/protocol.md`, section 4).

mod push;

mod request;

mod site;

use crate::access::Access;
use crate::hub::{Hub, Visit};
use crate::quota::{self, Applicant};
use crate::storage::{Shelf, blocking, seconds};
use chunkstore::repository::Leased;
use chunkstore::store::Store;
use protocol::connection::{Close, Connection, Reader, Writer};
use protocol::identity::NodeId;
use protocol::message::{Code, Message, Refusal, Role, VERSION};
use protocol::{Error, Result};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// A client that was let in says what it wants within this time.
const GREETING_MAX: Duration = Duration::from_secs(10);
/// Requests of one session at work at once.
const REQUESTS_MAX: usize = 16;

/// What every exchange of a session works with.
pub struct Session {
    pub hub: Arc<Hub>,
    pub shelf: Arc<Shelf>,
    pub access: Access,
    pub client: NodeId,
    /// The key under which this client signs snapshots.
    pub writer: [u8; 32],
    /// Like no other of this process.
    number: u64,
    /// What the client calls itself.
    pub name: String,
    visit: Arc<Visit>,
    /// What `Welcome` said: the sender counts by it whatever the configuration becomes.
    push_bytes_max: u64,
    /// Of another site: the snapshots that it was shown last.
    shown: Mutex<Vec<Vec<u8>>>,
    /// Requests at work; more wait, on their streams.
    turns: Semaphore,
}

impl Session {
    pub fn store(&self) -> chunkstore::Result<Arc<Leased>> {
        self.shelf.leased(self.number)
    }

    /// Refuses if there is no room for what this client wants to store.
    fn admit(&self) -> std::result::Result<(), Refusal> {
        let repository = self.shelf.store().map_err(|error| refusal_of(&self.shelf, &error))?;
        let applicant = Applicant { client: self.client, name: &self.name, repository: &self.shelf.name };
        quota::admit(&self.hub, &repository, applicant)
    }

    fn note_shown(&self, is_first: bool, names: &[Vec<u8>]) {
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        if is_first {
            shown.clear();
        }
        shown.extend_from_slice(names);
    }

    fn shown(&self) -> Vec<Vec<u8>> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notes what was stored.
    fn account(&self, bytes: u64) {
        self.visit.received_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.hub.received_bytes.fetch_add(bytes, Ordering::Relaxed);
        if let Err(error) = self.hub.ledger.add_put(&self.shelf.name, self.client, bytes) {
            tracing::error!(%error, "what a client stored could not be noted");
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.hub.leave(self.number);
        self.shelf.release(self.number);
    }
}

pub async fn serve(hub: &Arc<Hub>, connection: &Connection) {
    let (client, address) = (connection.peer(), connection.address());
    let greeted = timeout(GREETING_MAX, greet(hub, connection)).await;
    let (session, _control) = match greeted {
        Ok(Ok(Some(greeted))) => greeted,
        Ok(Ok(None)) => return,
        Ok(Err(error)) => return fail(connection, &error),
        Err(_) => return connection.close(Close::TooSlow, "no greeting"),
    };
    tracing::info!(%client, %address, name = session.access.client, repository = session.shelf.name, "session begins");
    let _attendance = session.access.has(Role::Replica).then(|| hub.sites.attend(client, &session.shelf.name));
    let mut exchanges = JoinSet::new();
    let error = loop {
        tokio::select! {
            stream = connection.accept() => match stream {
                Ok((writer, reader)) => {
                    exchanges.spawn(exchange(Arc::clone(&session), connection.clone(), writer, reader));
                }
                Err(error) => break error,
            },
            Some(_) = exchanges.join_next() => {}
        }
    };
    // What arrived becomes durable before the session is over.
    while exchanges.join_next().await.is_some() {}
    tracing::info!(%client, repository = session.shelf.name, reason = %error, "session ends");
}

/// The first stream. None if the client was told why not.
async fn greet(hub: &Arc<Hub>, connection: &Connection) -> Result<Option<(Arc<Session>, (Writer, Reader))>> {
    let (mut writer, mut reader) = connection.accept().await?;
    let greeting = match reader.expect().await? {
        Message::Hello { version, .. } if version != VERSION => {
            Err(Refusal::new(Code::Unsupported, "the protocol", format!("version {VERSION} is spoken here")))
        }
        Message::Hello { repository, .. } => {
            let (hub, client) = (Arc::clone(hub), connection.peer());
            let address = connection.address().to_string();
            let found = blocking(move || find(&hub, client, &repository, address)).await;
            found.unwrap_or_else(|| Err(Refusal::new(Code::Failed, "", "the server failed")))
        }
        other => return Err(Error::violation(format!("{} before Hello", other.name()))),
    };
    match greeting {
        Ok((session, welcome)) => {
            writer.send(&welcome).await?;
            Ok(Some((Arc::new(session), (writer, reader))))
        }
        Err(refusal) => {
            tracing::warn!(client = %connection.peer(), address = %connection.address(), %refusal, "not let in");
            writer.send(&Message::Refused(refusal)).await?;
            writer.finish();
            writer.stopped().await;
            Ok(None)
        }
    }
}

fn find(
    hub: &Arc<Hub>,
    client: NodeId,
    repository: &str,
    address: String,
) -> std::result::Result<(Session, Message), Refusal> {
    let failed = |error: crate::error::Error| {
        tracing::error!(%error, repository, "a session cannot begin");
        Refusal::new(Code::Failed, "", "the server could not do it; its log has the reason")
    };
    // A client that was granted nothing there is not told whether it exists.
    let unknown = || {
        let reason = "this client was granted nothing in a repository of this name";
        Refusal::new(Code::Unknown, format!("repository {repository}"), reason)
    };
    let granted = hub.registry.grants(client, repository, seconds()).map_err(failed)?;
    let (grants, writer, name) = granted.ok_or_else(unknown)?;
    let shelf = hub.storage.shelf(repository, &hub.settings.repositories().join(repository));
    let described = shelf.store().and_then(|store| Ok((store.configuration().encode(), store.generation()?)));
    let (configuration, generation) = match described {
        Ok(described) => described,
        Err(chunkstore::Error::NoRepository { .. }) => (Vec::new(), [0; 16]),
        Err(error) => return Err(refusal_of(&shelf, &error)),
    };
    let access = Access { client: format!("{name} ({client})"), repository: repository.to_owned(), grants };
    let program = format!("nightkeepd {}", env!("CARGO_PKG_VERSION"));
    let push_bytes_max = hub.current().limits.push_bytes;
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let visit = Arc::new(Visit {
        client: name.clone(),
        key: client.to_string(),
        address,
        repository: repository.to_owned(),
        since: seconds(),
        received_bytes: AtomicU64::new(0),
    });
    hub.arrive(number, Arc::clone(&visit));
    let (hub, shown, turns) = (Arc::clone(hub), Mutex::default(), Semaphore::new(REQUESTS_MAX));
    let session = Session { hub, shelf, access, client, writer, number, name, visit, push_bytes_max, shown, turns };
    Ok((session, Message::Welcome { version: VERSION, program, configuration, generation, push_bytes_max }))
}

/// What a client is told of an error; the log is told all of it.
fn refusal_of(shelf: &Shelf, error: &chunkstore::Error) -> Refusal {
    let refusal = Refusal::of(error);
    if refusal.code == Code::Failed || refusal.code == Code::Full {
        tracing::error!(repository = shelf.name, %error, "storage failed");
    }
    shelf.give_up(error);
    refusal
}

async fn exchange(session: Arc<Session>, connection: Connection, mut writer: Writer, mut reader: Reader) {
    let outcome = async {
        // It is never closed.
        let turn = session.turns.acquire().await;
        match reader.expect().await? {
            Message::Push => {
                drop(turn);
                push::serve(&session, writer, reader).await
            }
            Message::Watch(seen) => {
                drop(turn);
                site::watch(&session, &mut writer, seen).await?;
                writer.finish();
                Ok(())
            }
            request => {
                request::serve(&session, &mut writer, request).await?;
                writer.finish();
                Ok(())
            }
        }
    };
    if let Err(error) = outcome.await {
        match error {
            // The connection's own end is told once.
            Error::Lost { .. } | Error::Unknown { .. } => {}
            error => fail(&connection, &error),
        }
    }
}

/// Ends a connection whose peer does not keep to the protocol.
fn fail(connection: &Connection, error: &Error) {
    let (client, address) = (connection.peer(), connection.address());
    match error {
        Error::Violation { reason } => {
            tracing::warn!(%client, %address, reason, "the protocol was broken");
            connection.close(Close::Violation, reason);
        }
        Error::Closed { code, .. } if *code == Close::TooSlow as u32 => {
            tracing::warn!(%client, %address, "too slow");
            connection.close(Close::TooSlow, "");
        }
        error => tracing::debug!(%client, %address, %error, "a connection ended"),
    }
}
