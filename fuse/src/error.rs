//! What can stand in the way of a mount. What goes wrong while it is there is told to programs as EIO and to the log.

use std::io;

pub type Result<T> = std::result::Result<T, Error>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Store(#[from] chunkstore::Error),
    /// It is no place for a mount.
    #[error("cannot mount on {place}: {reason}")]
    Place { place: String, reason: String },
    /// The process that served an earlier mount there is gone.
    #[error("cannot mount on {place}: a mount is still there whose process was killed")]
    Stale { place: String },
    #[error("cannot mount: /dev/fuse is missing")]
    NoDevice,
    /// Not root, and no program that may mount for others.
    #[error("cannot mount: the program fusermount3 is missing")]
    NoHelper,
    #[error("cannot mount for other users: /etc/fuse.conf does not allow it")]
    OthersNotAllowed,
    #[error("cannot {action} {place}: {source}")]
    System { action: &'static str, place: String, source: io::Error },
}

impl Error {
    pub fn place(place: impl Into<String>, reason: impl Into<String>) -> Error {
        Error::Place { place: place.into(), reason: reason.into() }
    }
}
