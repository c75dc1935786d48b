//! What can go wrong between two nodes. Each variant says whether asking again can help: only [`Error::Lost`] and
//! [`Error::Unreachable`] mean that the peer said nothing about the request.

use crate::refusal::Refusal;

pub type Result<T> = std::result::Result<T, Error>;

#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// Nobody answers at this address, or not as a node does.
    #[error("{place} cannot be reached: {reason}")]
    Unreachable { place: String, reason: String },
    /// Whoever answers at this address is not the node that was pinned.
    #[error("{place} has another key than the one it is known by")]
    WrongServer { place: String },
    /// The peer did not accept our key.
    #[error("{place} does not know this machine")]
    Unknown { place: String },
    /// The connection ended; what is unanswered may have been done.
    #[error("the connection was lost: {reason}")]
    Lost { reason: String },
    /// The peer ended the connection and said why.
    #[error("the connection was closed: {reason}")]
    Closed { code: u32, reason: String },
    /// The peer does not keep to the protocol.
    #[error("the peer broke the protocol: {reason}")]
    Violation { reason: String },
    #[error("{0}")]
    Refused(Refusal),
}

impl Error {
    pub fn violation(reason: impl Into<String>) -> Error {
        Error::Violation { reason: reason.into() }
    }

    pub fn lost(reason: impl Into<String>) -> Error {
        Error::Lost { reason: reason.into() }
    }
}
