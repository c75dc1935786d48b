//! What cannot be understood.

pub type Result<T> = std::result::Result<T, Malformed>;

#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{what}: {reason}")]
pub struct Malformed {
    pub what: String,
    pub reason: String,
}

impl Malformed {
    pub fn new(what: impl Into<String>, reason: impl Into<String>) -> Malformed {
        Malformed { what: what.into(), reason: reason.into() }
    }
}
