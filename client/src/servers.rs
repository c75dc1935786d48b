//! The servers that this machine joined, by the keys they were pinned with, and the key that it is known by there. Both lie
//! in the state directory.

use crate::error::{Error, Result};
use crate::session_files::{create_private, seed, write_private};
use protocol::connection::PORT;
use protocol::identity::{NodeId, NodeKey};
use std::collections::BTreeMap;
use std::fmt;
use std::io::ErrorKind;
use std::path::Path;
use zeroize::Zeroizing;

/// quic://HOST:PORT/REPOSITORY
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RemotePlace {
    /// HOST:PORT
    pub address: String,
    pub repository: String,
}

impl RemotePlace {
    pub fn parse(text: &str) -> Result<RemotePlace> {
        let bad = || Error::argument(format!("repository `{text}`"), "expected quic://HOST:PORT/REPOSITORY");
        let rest = text.strip_prefix("quic://").ok_or_else(bad)?;
        let (authority, repository) = rest.split_once('/').ok_or_else(bad)?;
        let repository = repository.trim_end_matches('/');
        if authority.is_empty() || repository.is_empty() || repository.contains('/') || authority.contains('@') {
            return Err(bad());
        }
        Ok(RemotePlace { address: with_port(authority).ok_or_else(bad)?, repository: repository.to_owned() })
    }
}

impl fmt::Display for RemotePlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "quic://{}/{}", self.address, self.repository)
    }
}

/// The key of a server that was joined.
pub fn pinned(state_dir: &Path, address: &str) -> Result<NodeId> {
    let unknown = || {
        let reason =
            "this machine has not joined it; `nightkeep join TOKEN` does, with what `nightkeepd invite` prints there";
        Error::refused(format!("server {address}"), reason)
    };
    read(state_dir)?.remove(address).ok_or_else(unknown)
}

/// Remembers a server. What was known under this address gives way: the token says who is there now.
pub fn pin(state_dir: &Path, address: &str, key: NodeId) -> Result<()> {
    create_private(state_dir)?;
    let mut servers = read(state_dir)?;
    servers.insert(address.to_owned(), key);
    let lines: String = servers.iter().map(|(address, key)| format!("{address} {key}\n")).collect();
    let temporary = state_dir.join(format!("servers.{:016x}", seed()?));
    write_private(&temporary, lines.as_bytes())?;
    let path = state_dir.join("servers");
    std::fs::rename(&temporary, &path).map_err(|error| Error::io("cannot write", path.display().to_string(), error))
}

/// This machine's key for servers, made when there is none.
pub fn node_key(state_dir: &Path) -> Result<NodeKey> {
    let path = state_dir.join("node.pk8");
    let shown = path.display().to_string();
    let read = || std::fs::read(&path).map(Zeroizing::new);
    let parse = |bytes| {
        NodeKey::from_pkcs8(bytes).map_err(|error| Error::argument(path.display().to_string(), error.to_string()))
    };
    match read() {
        Ok(bytes) => return parse(bytes),
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(Error::io("cannot read", shown, error)),
    }
    create_private(state_dir)?;
    let key = NodeKey::generate().map_err(|error| Error::argument("this machine's key", error.to_string()))?;
    let temporary = state_dir.join(format!("node.pk8.{:016x}", seed()?));
    write_private(&temporary, key.to_pkcs8())?;
    // Whoever comes first wins, so that two processes end up with one identity.
    let linked = std::fs::hard_link(&temporary, &path);
    let _ = std::fs::remove_file(&temporary);
    match linked {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(Error::io("cannot create", shown, error)),
        _ => parse(read().map_err(|error| Error::io("cannot read", shown, error))?),
    }
}

fn read(state_dir: &Path) -> Result<BTreeMap<String, NodeId>> {
    let path = state_dir.join("servers");
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(error) => return Err(Error::io("cannot read", path.display().to_string(), error)),
    };
    let mut servers = BTreeMap::new();
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let bad = |reason: String| Error::argument(format!("{}, line {}", path.display(), number + 1), reason);
        let (address, key) = line.split_once(' ').ok_or_else(|| bad("expected an address and a key".into()))?;
        servers.insert(address.to_owned(), NodeId::from_text(key.trim()).map_err(|error| bad(error.to_string()))?);
    }
    Ok(servers)
}

/// HOST:PORT of HOST, HOST:PORT, [V6] or [V6]:PORT.
fn with_port(authority: &str) -> Option<String> {
    let after_host = match authority.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?.1,
        None => authority.find(':').and_then(|at| authority.get(at..)).unwrap_or_default(),
    };
    match after_host.strip_prefix(':') {
        Some(port) => port.parse::<u16>().ok().map(|_| authority.to_owned()),
        None if after_host.is_empty() => Some(format!("{authority}:{PORT}")),
        None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places() {
        let parse = |text: &str| RemotePlace::parse(text).map(|place| place.to_string());
        assert_eq!(parse("quic://h:1/r").unwrap(), "quic://h:1/r");
        assert_eq!(parse("quic://h/r/").unwrap(), "quic://h:4747/r");
        assert_eq!(parse("quic://[::1]/r").unwrap(), "quic://[::1]:4747/r");
        assert_eq!(parse("quic://[::1]:9/r").unwrap(), "quic://[::1]:9/r");
        for bad in [
            "quic://h",
            "quic:///r",
            "quic://h:x/r",
            "quic://h:99999/r",
            "quic://h/",
            "quic://h/a/b",
            "quic://u@h/r",
            "http://h/r",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn servers_are_known_by_their_keys() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        assert!(matches!(pinned(&state, "h:1"), Err(Error::Refused { .. })));
        let (a, b) = (node_key(&state).unwrap().id(), NodeId([3; 32]));
        assert_eq!(node_key(&state).unwrap().id(), a, "it stays");
        pin(&state, "h:1", a).unwrap();
        pin(&state, "h:2", a).unwrap();
        pin(&state, "h:1", b).unwrap();
        assert_eq!((pinned(&state, "h:1").unwrap(), pinned(&state, "h:2").unwrap()), (b, a));
        assert_eq!(std::fs::read_dir(&state).unwrap().count(), 2);
        std::fs::write(state.join("servers"), "h:1 nkn1-x\n").unwrap();
        assert!(matches!(pinned(&state, "h:1"), Err(Error::Argument { .. })));
    }
}
