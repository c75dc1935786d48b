//! The configuration file, read once into plain values; where things lie below the data directory.

use crate::error::{Error, Result};
use serde::Deserialize;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

pub const DEFAULT_FILE: &str = "/etc/nightkeep/server.toml";

#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Everything that the server keeps.
    pub data: PathBuf,
    pub listen: SocketAddr,
    /// HOST:PORT under which clients reach it: what invitations say.
    #[serde(default)]
    pub address: Option<String>,
    #[serde(default)]
    pub limits: Limits,
}

#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    pub connections: usize,
    pub connections_per_client: usize,
    /// Bytes that a session may have put without their being durable.
    pub push_bytes: u64,
    /// Bytes of records in memory that wait to be stored, in all sessions together.
    pub waiting_bytes: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { connections: 128, connections_per_client: 4, push_bytes: 64 << 20, waiting_bytes: 512 << 20 }
    }
}

impl Settings {
    pub fn load(file: &Path) -> Result<Settings> {
        let shown = file.display().to_string();
        let text = std::fs::read_to_string(file).map_err(|error| Error::io("cannot read", &shown, error))?;
        toml::from_str(&text).map_err(|error| Error::argument(shown, error.to_string()))
    }

    pub fn key_file(&self) -> PathBuf {
        self.data.join("server.pk8")
    }

    pub fn registry_file(&self) -> PathBuf {
        self.data.join("server.sqlite3")
    }

    pub fn socket(&self) -> PathBuf {
        self.data.join("admin.sock")
    }

    pub fn repositories(&self) -> PathBuf {
        self.data.join("repositories")
    }
}
