//! Why a request was not done: `docs/protocol.md`, section 8. The codes are facts to act on; texts are for people.

use std::fmt;

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Code {
    Missing = 1,
    Corrupt = 2,
    Full = 3,
    Denied = 4,
    Invalid = 5,
    Unsupported = 6,
    NoRepository = 7,
    RepositoryExists = 8,
    Busy = 9,
    Failed = 10,
    Unknown = 11,
    Invitation = 12,
}

impl Code {
    pub const ALL: [Code; 12] = [
        Code::Missing,
        Code::Corrupt,
        Code::Full,
        Code::Denied,
        Code::Invalid,
        Code::Unsupported,
        Code::NoRepository,
        Code::RepositoryExists,
        Code::Busy,
        Code::Failed,
        Code::Unknown,
        Code::Invitation,
    ];

    pub fn from_number(number: u16) -> Option<Code> {
        Code::ALL.into_iter().find(|code| *code as u16 == number)
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refusal {
    pub code: Code,
    /// What it happened to.
    pub object: String,
    pub reason: String,
}

impl Refusal {
    pub fn new(code: Code, object: impl Into<String>, reason: impl Into<String>) -> Refusal {
        Refusal { code, object: object.into(), reason: reason.into() }
    }

    /// What a repository's error becomes on its way.
    pub fn of(error: &chunkstore::Error) -> Refusal {
        use chunkstore::Error;
        let (code, object, reason) = match error {
            Error::Missing { object } => (Code::Missing, object.clone(), String::new()),
            Error::Corrupt { object, reason } => (Code::Corrupt, object.clone(), reason.clone()),
            Error::Full { object } => (Code::Full, object.clone(), String::new()),
            Error::Invalid { what, reason } => (Code::Invalid, what.clone(), reason.clone()),
            Error::Unsupported { object, reason } => (Code::Unsupported, object.clone(), reason.clone()),
            Error::NoRepository { place } => (Code::NoRepository, place.clone(), String::new()),
            Error::RepositoryExists { place } => (Code::RepositoryExists, place.clone(), String::new()),
            Error::Locked { holder } => (Code::Busy, holder.clone(), String::new()),
            Error::Denied { what, reason } => (Code::Denied, what.clone(), reason.clone()),
            // Paths of the server are for its log.
            Error::Io { .. } | Error::Poisoned { .. } => {
                (Code::Failed, String::new(), "the server could not do it; its log has the reason".into())
            }
            Error::Unreachable { .. } | Error::Interrupted | Error::WrongCredential | Error::WriteOnly { .. } => {
                (Code::Failed, String::new(), error.to_string())
            }
        };
        Refusal { code, object, reason }
    }

    /// The error that it was, for who asked.
    pub fn into_error(self) -> chunkstore::Error {
        use chunkstore::Error;
        let Refusal { code, object, reason } = self;
        match code {
            Code::Missing => Error::Missing { object },
            Code::Corrupt => Error::Corrupt { object, reason },
            Code::Full => {
                Error::Full { object: if reason.is_empty() { object } else { format!("{object}: {reason}") } }
            }
            Code::Invalid | Code::Invitation => Error::Invalid { what: object, reason },
            Code::Unsupported => Error::Unsupported { object, reason },
            Code::NoRepository => Error::NoRepository { place: object },
            Code::RepositoryExists => Error::RepositoryExists { place: object },
            Code::Busy => Error::Locked { holder: object },
            Code::Denied | Code::Unknown => Error::Denied { what: object, reason },
            Code::Failed => Error::Invalid { what: "the server".into(), reason },
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.object.as_str(), self.reason.as_str()) {
            ("", reason) => write!(f, "{reason}"),
            (object, "") => write!(f, "{object}: {:?}", self.code),
            (object, reason) => write!(f, "{object}: {reason}"),
        }
    }
}
