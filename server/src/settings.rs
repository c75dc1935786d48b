//! What the configuration file says, as plain values; where things lie below the data directory.

use globset::GlobMatcher;
use jiff::civil::Time;
use rules::retention::Policy;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

pub const DEFAULT_FILE: &str = "/etc/nightkeep/server.toml";

#[derive(Clone, Debug)]
pub struct Settings {
    /// Everything that the server keeps.
    pub data: PathBuf,
    pub listen: SocketAddr,
    /// HOST:PORT under which clients reach it: what invitations say.
    pub address: Option<String>,
    pub limits: Limits,
    /// Where metrics and health are asked for.
    pub http: Option<SocketAddr>,
    /// How full the file system may be for new backups.
    pub full_percent: u64,
    /// Of the last backup of a dataset, unless a rule says otherwise.
    pub max_age: Option<Duration>,
    /// How far another site may be behind.
    pub max_lag: Duration,
    pub retention: Policy,
    /// The first that matches counts.
    pub datasets: Vec<DatasetRule>,
    /// All that match count.
    pub quotas: Vec<Quota>,
    pub maintenance: Maintenance,
    pub log: Log,
}

#[derive(Clone, PartialEq, Eq, Debug)]
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

/// What holds for datasets that match.
#[derive(Clone, Debug)]
pub struct DatasetRule {
    pub patterns: Vec<GlobMatcher>,
    /// None: all.
    pub repository: Option<GlobMatcher>,
    pub max_age: Option<Duration>,
    pub retention: Option<Policy>,
}

#[derive(Clone, Debug)]
pub struct Quota {
    pub repository: Option<GlobMatcher>,
    /// A name, or a key.
    pub client: Option<String>,
    pub bytes: u64,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Maintenance {
    pub every: Duration,
    /// From this time of day on, local time.
    pub at: Option<Time>,
    /// How long what was forgotten stays here, if not as long as the repository says.
    pub grace: Option<Duration>,
    /// Within which every byte is read once.
    pub verify_period: Duration,
    pub verify_bytes_per_second: u64,
}

impl Default for Maintenance {
    fn default() -> Maintenance {
        let day = Duration::from_secs(86_400);
        Maintenance { every: day, at: None, grace: None, verify_period: 30 * day, verify_bytes_per_second: 20 << 20 }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Log {
    pub to: LogTarget,
    pub level: tracing::Level,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LogTarget {
    StandardError,
    Syslog,
}

impl Settings {
    pub fn new(data: PathBuf, listen: SocketAddr) -> Settings {
        Settings {
            data,
            listen,
            address: None,
            limits: Limits::default(),
            http: Some((Ipv4Addr::LOCALHOST, 4748).into()),
            full_percent: 95,
            max_age: None,
            max_lag: Duration::from_secs(86_400),
            retention: Policy::default(),
            datasets: Vec::new(),
            quotas: Vec::new(),
            maintenance: Maintenance::default(),
            log: Log { to: LogTarget::StandardError, level: tracing::Level::INFO },
        }
    }

    pub fn key_file(&self) -> PathBuf {
        self.data.join("server.pk8")
    }

    pub fn registry_file(&self) -> PathBuf {
        self.data.join("server.sqlite3")
    }

    /// What was done and used: may be deleted.
    pub fn ledger_file(&self) -> PathBuf {
        self.data.join("work.sqlite3")
    }

    pub fn socket(&self) -> PathBuf {
        self.data.join("admin.sock")
    }

    pub fn repositories(&self) -> PathBuf {
        self.data.join("repositories")
    }

    /// Which snapshots of a dataset stay, and how old its last backup may be.
    pub fn rule(&self, repository: &str, dataset: &str) -> (&Policy, Option<Duration>) {
        let matches = |rule: &&DatasetRule| {
            rule.repository.as_ref().is_none_or(|pattern| pattern.is_match(repository))
                && rule.patterns.iter().any(|pattern| pattern.is_match(dataset))
        };
        let rule = self.datasets.iter().find(matches);
        let policy = rule.and_then(|rule| rule.retention.as_ref()).unwrap_or(&self.retention);
        (policy, rule.and_then(|rule| rule.max_age).or(self.max_age))
    }

    /// What cannot change while the server runs, of what is different in `new`.
    pub fn fixed_difference(&self, new: &Settings) -> Option<&'static str> {
        let differs = [
            ("data", self.data != new.data),
            ("listen", self.listen != new.listen),
            ("http", self.http != new.http),
            ("log", self.log != new.log),
        ];
        differs.into_iter().find(|(_, differs)| *differs).map(|(key, _)| key)
    }
}
