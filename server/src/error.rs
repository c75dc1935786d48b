//! What can go wrong in the server beside a repository's own errors. Texts say what and why; the command line says what to do.

use std::io;

pub type Result<T> = std::result::Result<T, Error>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Store(#[from] chunkstore::Error),
    #[error(transparent)]
    Protocol(#[from] protocol::Error),
    /// The server's own records: clients, invitations, repositories.
    #[error("the server's records: {0}")]
    Registry(#[from] rusqlite::Error),
    #[error("{action} {object}: {source}")]
    Io { action: &'static str, object: String, source: io::Error },
    /// A request that makes no sense.
    #[error("{what}: {reason}")]
    Argument { what: String, reason: String },
    #[error("there is no configuration file {place}")]
    NoConfiguration { place: String },
    #[error("{place}, line {line}: {mistake}{}", if *more == 0 { String::new() } else { format!(" (and {more} more)") })]
    Configuration { place: String, line: usize, mistake: String, more: usize },
    /// Another job has it.
    #[error("{what}: {holder}")]
    Busy { what: String, holder: String },
    /// All was said already; only the exit code is left.
    #[error("there are problems")]
    Told,
    /// As [`Error::Told`], and it can be tried again.
    #[error("busy")]
    ToldBusy,
    /// No daemon listens on the socket.
    #[error("nobody listens on {place}")]
    NotRunning { place: String },
    /// What the daemon answered.
    #[error("{0}")]
    Refused(String),
}

impl Error {
    pub fn io(action: &'static str, object: impl Into<String>, source: io::Error) -> Error {
        Error::Io { action, object: object.into(), source }
    }

    pub fn argument(what: impl Into<String>, reason: impl Into<String>) -> Error {
        Error::Argument { what: what.into(), reason: reason.into() }
    }
}
