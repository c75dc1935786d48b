//! Administration of a running daemon: one JSON line each way over a Unix socket that only its owner may use.

use crate::access::pattern_of;
use crate::error::{Error, Result};
use crate::hub::Hub;
use crate::ledger::Kind;
use crate::maintenance::{self, Job};
use crate::registry::{chosen, validate_name};
use crate::reload;
use crate::replica::{self, Joining};
use crate::settings::Settings;
use crate::status;
use crate::storage::{blocking, seconds};
use protocol::connection::PORT;
use protocol::identity::NodeId;
use protocol::message::{PATTERN_BYTES_MAX, PATTERNS_MAX, Role};
use protocol::replication::Limit;
use protocol::token::Token;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;

const REQUEST_BYTES_MAX: u64 = 1 << 20;

#[derive(Serialize, Deserialize, Debug)]
#[serde(tag = "verb", rename_all = "kebab-case")]
pub enum Request {
    RepositoryCreate {
        name: String,
    },
    RepositoryList,
    Invite {
        repository: String,
        role: String,
        datasets: Vec<String>,
        expires_seconds: u64,
        address: Option<String>,
    },
    ClientsList,
    ClientsRevoke {
        client: String,
    },
    Reload,
    /// Retention, gc or verify of one repository, or of all.
    Maintain {
        kind: Kind,
        repository: Option<String>,
        dry_run: bool,
    },
    Status,
    PeerJoin {
        token: String,
        own: Option<String>,
        datasets: Vec<String>,
        limits: Vec<String>,
        delay_seconds: u64,
    },
    PeerList,
    PeerRemove {
        peer: String,
    },
    PeerPause {
        peer: String,
        paused: bool,
    },
    PeerCompare {
        peer: Option<String>,
    },
}

/// Asks the daemon.
pub fn call(settings: &Settings, request: &Request) -> Result<Value> {
    let socket = settings.socket();
    let place = || socket.display().to_string();
    let mut stream = UnixStream::connect(&socket).map_err(|_| Error::NotRunning { place: place() })?;
    let failed = |error| Error::io("cannot talk over", place(), error);
    let text = serde_json::to_string(request).map_err(|error| Error::argument("request", error.to_string()))?;
    stream.write_all(format!("{text}\n").as_bytes()).map_err(failed)?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).map_err(failed)?;
    let answer: Value = serde_json::from_str(&line).map_err(|_| failed(std::io::Error::other("no answer")))?;
    match answer.get("error").and_then(Value::as_str) {
        Some(error) => Err(Error::Refused(error.to_owned())),
        None => Ok(answer.get("answer").cloned().unwrap_or(Value::Null)),
    }
}

/// The socket, in place of one that a daemon which died left behind. The data directory's lock makes sure of that.
pub fn bind(settings: &Settings) -> Result<UnixListener> {
    let socket = settings.socket();
    let failed = |error| Error::io("cannot listen on", socket.display().to_string(), error);
    match std::fs::remove_file(&socket) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let listener = UnixListener::bind(&socket).map_err(failed)?;
    std::fs::set_permissions(&socket, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
    Ok(listener)
}

pub async fn serve(hub: Arc<Hub>, listener: UnixListener) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => drop(tokio::spawn(answer_one(Arc::clone(&hub), stream))),
            Err(error) => {
                tracing::error!(%error, "the administration socket failed");
                tokio::time::sleep(std::time::Duration::from_secs(1)).await;
            }
        }
    }
}

async fn answer_one(hub: Arc<Hub>, stream: tokio::net::UnixStream) {
    let (reader, mut writer) = stream.into_split();
    let mut line = String::new();
    let mut reader = tokio::io::BufReader::new(reader.take(REQUEST_BYTES_MAX));
    if reader.read_line(&mut line).await.is_err() {
        return;
    }
    let answer = match serde_json::from_str::<Request>(&line) {
        Ok(request) => blocking(move || perform(&hub, request)).await,
        Err(error) => Some(Err(Error::argument("request", error.to_string()))),
    };
    let answer = match answer {
        Some(Ok(answer)) => json!({ "answer": answer }),
        Some(Err(error)) => json!({ "error": error.to_string() }),
        None => json!({ "error": "the server failed" }),
    };
    // Whoever asked may be gone.
    let _ = writer.write_all(format!("{answer}\n").as_bytes()).await;
}

fn perform(hub: &Arc<Hub>, request: Request) -> Result<Value> {
    match request {
        Request::RepositoryCreate { name } => {
            hub.registry.add_repository(&name, seconds())?;
            tracing::info!(repository = name, "repository added");
            Ok(json!({ "name": name }))
        }
        Request::RepositoryList => repositories(hub),
        Request::Invite { repository, role, datasets, expires_seconds, address } => {
            let granted = Granted { repository, role, datasets };
            invite(hub, granted, expires_seconds, address)
        }
        Request::ClientsList => Ok(json!(hub.registry.clients()?)),
        Request::ClientsRevoke { client } => revoke(hub, &client),
        Request::Reload => reload::reload(hub),
        Request::Maintain { kind, repository, dry_run } => maintain(hub, kind, repository.as_deref(), dry_run),
        Request::Status => Ok(Value::from(status::report(hub)?.lines())),
        Request::PeerJoin { token, own, datasets, limits, delay_seconds } => {
            validate_patterns(&datasets)?;
            let limits = limits.iter().map(|text| limit(text)).collect::<Result<_>>()?;
            join(hub, &token, Joining { own, datasets, limits, delay: delay_seconds })
        }
        Request::PeerList => Ok(json!(crate::lag::figures(hub)?)),
        Request::PeerRemove { peer } => {
            let peer = chosen(hub.registry.peers()?, &peer)?;
            hub.registry.remove_peer(&peer)?;
            hub.sites.changed.notify_one();
            tracing::info!(address = peer.address, repository = peer.own, "peer removed");
            Ok(json!({ "key": peer.key.to_string(), "address": peer.address, "repository": peer.own }))
        }
        Request::PeerPause { peer, paused } => {
            let peer = chosen(hub.registry.peers()?, &peer)?;
            hub.registry.pause_peer(&peer, paused)?;
            hub.sites.changed.notify_one();
            tracing::info!(address = peer.address, repository = peer.own, paused, "peer paused or resumed");
            Ok(json!({ "address": peer.address, "repository": peer.own, "paused": paused }))
        }
        Request::PeerCompare { peer } => {
            let peers = hub.registry.peers()?;
            let peers = match peer {
                Some(peer) => vec![chosen(peers, &peer)?],
                None => peers,
            };
            let runtime = tokio::runtime::Handle::current();
            let compared = peers.iter().map(|peer| runtime.block_on(replica::compare(hub, peer)));
            Ok(json!(compared.collect::<Result<Vec<_>>>()?))
        }
    }
}

/// A row for each repository; what failed in one does not keep the others from their turn.
fn maintain(hub: &Hub, kind: Kind, named: Option<&str>, dry_run: bool) -> Result<Value> {
    let mut rows = Vec::new();
    for name in maintenance::repositories(hub, named)? {
        let outcome = maintenance::perform(hub, &name, Job { kind, dry_run, part: None });
        let busy = matches!(outcome, Err(Error::Busy { .. }));
        let (told, failure) = match outcome {
            Ok(told) => (told, None),
            Err(error) => (Value::Null, Some(error.to_string())),
        };
        rows.push(json!({ "repository": name, "kind": kind, "dry_run": dry_run, "told": told, "failure": failure, "busy": busy }));
    }
    Ok(Value::from(rows))
}

fn limit(text: &str) -> Result<Limit> {
    let reason = "expected bytes a second, as in 2M, or with hours, as in 08:00-18:00=500K";
    Limit::from_text(text).ok_or_else(|| Error::argument(format!("--limit `{text}`"), reason))
}

/// This thread is one for blocking work; the network goes on beside it.
fn join(hub: &Arc<Hub>, token: &str, joining: Joining) -> Result<Value> {
    let token = Token::from_text(token)?;
    let peer = tokio::runtime::Handle::current().block_on(replica::join(hub, &token, joining))?;
    tracing::info!(address = peer.address, repository = peer.own, key = %peer.key, "peer joined");
    Ok(json!({
        "key": peer.key.to_string(),
        "address": peer.address,
        "repository": peer.own,
        "remote_repository": peer.repository,
        "own_key": hub.server.to_string(),
    }))
}

fn repositories(hub: &Hub) -> Result<Value> {
    let clients = hub.registry.clients()?;
    let describe = |name: String| {
        let directory = hub.settings.repositories().join(&name);
        let own = clients.iter().filter(|client| client.repository == name).count();
        json!({ "name": name, "created": directory.join("REPO").exists(), "clients": own })
    };
    Ok(hub.registry.repositories()?.into_iter().map(describe).collect())
}

struct Granted {
    repository: String,
    role: String,
    datasets: Vec<String>,
}

fn invite(hub: &Hub, granted: Granted, expires_seconds: u64, address: Option<String>) -> Result<Value> {
    let Granted { repository, role, datasets } = granted;
    validate_name(&repository)?;
    let number = Role::from_text(&role);
    let role = number
        .ok_or_else(|| Error::argument(format!("role `{role}`"), "expected backup, restore, admin or replica"))?;
    validate_patterns(&datasets)?;
    if role == Role::Replica && hub.registry.peers()?.iter().any(|peer| peer.own == repository && peer.delay > 0) {
        let reason = "this is a lagging site of it, which only takes; no other site may write to it here";
        return Err(Error::argument(format!("repository {repository}"), reason));
    }
    let mut random = [0; 24];
    let failed = |error: getrandom::Error| Error::io("cannot read", "random numbers", std::io::Error::other(error));
    getrandom::fill(&mut random).map_err(failed)?;
    let (invitation, secret) = random.split_at(8);
    let expires = seconds().saturating_add(i64::try_from(expires_seconds).unwrap_or(i64::MAX));
    let token = Token {
        server: hub.server,
        invitation: invitation.try_into().unwrap_or_default(),
        secret: <[u8; 16]>::try_from(secret).unwrap_or_default().into(),
        expires,
        address: address.unwrap_or_else(|| advertised(&hub.current())),
        repository,
    };
    hub.registry.invite(&token, role, &datasets)?;
    tracing::info!(repository = token.repository, role = role.text(), ?datasets, expires, "invitation made");
    Ok(json!({
        "token": token.to_text().as_str(),
        "repository": token.repository,
        "role": role.text(),
        "datasets": datasets,
        "expires": expires,
        "address": token.address,
        "server_key": hub.server.to_string(),
    }))
}

fn validate_patterns(datasets: &[String]) -> Result<()> {
    if datasets.len() > PATTERNS_MAX {
        return Err(Error::argument("--datasets", format!("more than {PATTERNS_MAX} patterns")));
    }
    for pattern in datasets {
        let bad = |reason: String| Error::argument(format!("--datasets `{pattern}`"), reason);
        if pattern.is_empty() || pattern.len() > PATTERN_BYTES_MAX || pattern.chars().any(char::is_control) {
            return Err(bad("expected a pattern of 1 to 255 bytes".into()));
        }
        pattern_of(pattern).map_err(|error| bad(error.to_string()))?;
    }
    Ok(())
}

/// Where clients are to look for this server.
fn advertised(settings: &Settings) -> String {
    let port = settings.listen.port();
    let port = if port == 0 { PORT } else { port };
    match &settings.address {
        Some(address) => address.clone(),
        None if settings.listen.ip().is_unspecified() => {
            let node = rustix::system::uname();
            format!("{}:{port}", node.nodename().to_string_lossy())
        }
        None => settings.listen.to_string(),
    }
}

/// By its key, the beginning of it, or its name if only one client has it.
fn revoke(hub: &Hub, wanted: &str) -> Result<Value> {
    let mut found: Vec<(String, String)> = Vec::new();
    for client in hub.registry.clients()? {
        let by_key = wanted.len() >= 9 && client.key.starts_with(wanted);
        if (by_key || client.name == wanted) && !found.iter().any(|(key, _)| *key == client.key) {
            found.push((client.key, client.name));
        }
    }
    match found.as_slice() {
        [(key, name)] => {
            let id = NodeId::from_text(key)?;
            let grants = hub.registry.revoke(id)?;
            let closed = hub.expel(id);
            tracing::info!(client = %id, name, grants, closed, "client revoked");
            Ok(json!({ "key": key, "name": name, "connections_closed": closed }))
        }
        [] => Err(Error::argument(format!("client `{wanted}`"), "there is none; `nightkeepd clients list` shows them")),
        _ => Err(Error::argument(format!("client `{wanted}`"), "it could be several; give its key")),
    }
}
