//! What can go wrong in a repository: one value, one cause, one object.
//!
//! Rules: each variant is a different *fact* that a caller may act on; `object` names what it happened to as an
//! administrator would recognise it (a path, `pack 1f2e…`); the text says what and why, never what to do next (the
//! program that shows it knows that). Nothing matches on texts.

use std::io;

pub type Result<T> = std::result::Result<T, Error>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The system refused an operation. The object may or may not have changed.
    #[error("{action} {object}: {source}")]
    Io { action: &'static str, object: String, source: io::Error },
    /// No space or quota left for a write. Nothing of it is visible.
    #[error("no space left to write {object}")]
    Full { object: String },
    /// Bytes that cannot have been written by a correct program, or that changed since.
    #[error("{object} is damaged: {reason}")]
    Corrupt { object: String, reason: String },
    /// An object or blob that something links to is not there.
    #[error("{object} is missing")]
    Missing { object: String },
    /// Another process holds the writer lock.
    #[error("the repository is in use by {holder}")]
    Locked { holder: String },
    /// Written by a newer program, or for another purpose.
    #[error("{object} is not supported: {reason}")]
    Unsupported { object: String, reason: String },
    /// An earlier failed sync leaves it unknown what is durable; reopen the repository.
    #[error("the repository was closed for writing after an error: {reason}")]
    Poisoned { reason: String },
    /// No key slot opens with the credential. Says nothing about which.
    #[error("wrong passphrase or key")]
    WrongCredential,
    /// The keys at hand can write but not open.
    #[error("{object} cannot be opened with a write-only key")]
    WriteOnly { object: String },
    #[error("there is no repository at {place}")]
    NoRepository { place: String },
    #[error("{place} already holds a repository")]
    RepositoryExists { place: String },
    /// A signal asked to stop; nothing was committed.
    #[error("interrupted")]
    Interrupted,
    /// The repository is elsewhere and nobody answers there, or not any more.
    #[error("{place} cannot be reached: {reason}")]
    Unreachable { place: String, reason: String },
    /// Whoever keeps the repository does not let us.
    #[error("{what}: {reason}")]
    Denied { what: String, reason: String },
    /// A request that makes no sense: a bug or a bad argument, not a fault of the repository.
    #[error("{what}: {reason}")]
    Invalid { what: String, reason: String },
}

impl Error {
    pub fn corrupt(object: impl Into<String>, reason: impl Into<String>) -> Error {
        Error::Corrupt { object: object.into(), reason: reason.into() }
    }

    pub fn missing(object: impl Into<String>) -> Error {
        Error::Missing { object: object.into() }
    }

    pub fn invalid(what: impl Into<String>, reason: impl Into<String>) -> Error {
        Error::Invalid { what: what.into(), reason: reason.into() }
    }

    /// An I/O error with its place; a full disk or quota becomes [`Error::Full`].
    pub fn io(action: &'static str, object: impl Into<String>, source: io::Error) -> Error {
        let object = object.into();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Error::Full { object },
            _ => Error::Io { action, object, source },
        }
    }

    /// True when the bytes in question are lost here: damaged or missing.
    pub fn is_damage(&self) -> bool {
        matches!(self, Error::Corrupt { .. } | Error::Missing { .. })
    }
}
