//! What can go wrong in the client beside the repository's own errors. Texts say what and why; what to do next is said by
//! `cli::report` alone.

use std::io;

pub type Result<T> = std::result::Result<T, Error>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Store(#[from] chunkstore::Error),
    #[error(transparent)]
    Mount(#[from] nightkeep_fuse::Error),
    #[error("no repository is named")]
    NoRepositoryNamed,
    #[error("a passphrase is needed, and there is no terminal to ask for it")]
    NoCredential,
    /// The source of the credential failed, not the credential.
    #[error("cannot read the passphrase from {place}: {reason}")]
    Credential { place: String, reason: String },
    #[error("no snapshot matches `{wanted}`")]
    NoSuchSnapshot { wanted: String },
    #[error("`{wanted}` is ambiguous: it could be {}", candidates.join(", "))]
    Ambiguous { wanted: String, candidates: Vec<String> },
    /// It matches only snapshots that were forgotten.
    #[error("snapshot {id} was forgotten")]
    Forgotten { id: String },
    #[error("snapshot {id} of {dataset} holds no `{path}`")]
    NoSuchPath { id: String, dataset: String, path: String },
    #[error("there is no configuration file {place}")]
    NoConfiguration { place: String },
    #[error("{place}, line {line}: {mistake}{}", if *more == 0 { String::new() } else { format!(" (and {more} more)") })]
    Configuration { place: String, line: usize, mistake: String, more: usize },
    /// Another `run` of this machine.
    #[error("another run is going on: {holder}")]
    RunGoingOn { holder: String },
    /// A request that makes no sense.
    #[error("{what}: {reason}")]
    Argument { what: String, reason: String },
    /// Refused, because it would destroy more than was meant.
    #[error("{what}: {reason}")]
    Refused { what: String, reason: String },
    /// A program of another product is needed and not there, or too old.
    #[error("{program}: {reason}")]
    NoProgram { program: String, reason: String },
    /// A database server that does not answer, or does not let us in: what libpq says.
    #[error("cannot connect to PostgreSQL: {reason}")]
    Unreachable { reason: String },
    /// A source or target that refuses what is asked of it: a database, a program's failure.
    #[error("{what}: {reason}")]
    Source { what: String, reason: String },
    /// A tracker's configuration.
    #[error("{path}: {reason}")]
    Tracker { path: String, reason: String },
    #[error("the tracker {tracker} keeps its data in `{backend}`, which cannot be saved")]
    Backend { tracker: String, backend: String },
    /// An SQLite database of a tracker.
    #[error("database {path}: {reason}")]
    Database { path: String, reason: String },
    #[error("database {path} stayed locked by another process for {seconds} s")]
    DatabaseLocked { path: String, seconds: u64 },
    #[error("{action} {object}: {source}")]
    Io { action: &'static str, object: String, source: io::Error },
    /// Standard output is gone or full.
    #[error("cannot write to standard output: {0}")]
    Output(#[source] io::Error),
    /// The arguments make no sense: clap's message.
    #[error("{0}")]
    Usage(String),
}

impl From<rules::Malformed> for Error {
    fn from(rules::Malformed { what, reason }: rules::Malformed) -> Error {
        Error::Argument { what, reason }
    }
}

impl Error {
    pub fn argument(what: impl Into<String>, reason: impl Into<String>) -> Error {
        Error::Argument { what: what.into(), reason: reason.into() }
    }

    pub fn refused(what: impl Into<String>, reason: impl Into<String>) -> Error {
        Error::Refused { what: what.into(), reason: reason.into() }
    }

    pub fn source(what: impl Into<String>, reason: impl Into<String>) -> Error {
        Error::Source { what: what.into(), reason: reason.into() }
    }

    pub fn io(action: &'static str, object: impl Into<String>, source: io::Error) -> Error {
        Error::Io { action, object: object.into(), source }
    }
}
