//! What of a tracker is not saved: what changes under every reader and that Roundup makes again when it is not there.
//!
//! Uncommitted contents (`.tmp`) are not judged here, since the database decides about them.

use super::tracker::{Backend, Tracker};
use std::os::unix::ffi::OsStrExt;

/// Beside the database: locks, sessions and one-time keys of the web interface (SQLite or dbm), and full-text indexes
/// that `roundup-admin reindex` makes again.
const DERIVED: [&[u8]; 3] = [b"lock", b"text-index", b"whoosh-index"];
const SESSIONS: [&[u8]; 4] = [b"sessions", b"otks", b"db-session", b"db-otk"];
const SIDE_FILES: [&[u8]; 4] = [b"", b"-wal", b"-shm", b"-journal"];
const DBM_SUFFIXES: [&[u8]; 5] = [b".db", b".dir", b".dat", b".bak", b".pag"];

pub struct LeftOut {
    root: Vec<u8>,
    database: Vec<u8>,
    log: Option<Vec<u8>>,
    is_sqlite: bool,
}

impl LeftOut {
    pub fn new(tracker: &Tracker) -> LeftOut {
        LeftOut {
            root: tracker.root.as_os_str().as_bytes().to_vec(),
            database: tracker.database.as_os_str().as_bytes().to_vec(),
            log: tracker.log.as_ref().map(|log| log.as_os_str().as_bytes().to_vec()),
            is_sqlite: matches!(tracker.backend, Backend::Sqlite { .. }),
        }
    }

    pub fn keep(&self, path: &[u8], is_directory: bool) -> bool {
        let at = path.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
        let (above, name) = path.split_at(at);
        let name = name.strip_prefix(b"/").unwrap_or(name);
        if is_directory && name == b"__pycache__" {
            return false;
        }
        let is_compiled = name.ends_with(b".pyc") || name.ends_with(b".pyo");
        let is_pid = above == self.root && name.ends_with(b".pid");
        if !is_directory && (is_compiled || is_pid || self.is_log(path)) {
            return false;
        }
        !(above == self.database && self.is_live(name))
    }

    fn is_live(&self, name: &[u8]) -> bool {
        let is_side_of =
            |stem: &[u8], suffixes: &[&[u8]]| name.strip_prefix(stem).is_some_and(|suffix| suffixes.contains(&suffix));
        DERIVED.contains(&name)
            || (self.is_sqlite && name != b"db" && is_side_of(b"db", &SIDE_FILES))
            || SESSIONS.iter().any(|stem| is_side_of(stem, &SIDE_FILES) || is_side_of(stem, &DBM_SUFFIXES))
    }

    /// The log and its older parts, `LOG.1` and so on.
    fn is_log(&self, path: &[u8]) -> bool {
        let rest = self.log.as_deref().and_then(|log| path.strip_prefix(log));
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(b"."))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_live_or_derived_is_left_out() {
        let left_out = LeftOut {
            root: b"/srv/t".to_vec(),
            database: b"/srv/t/db".to_vec(),
            log: Some(b"/srv/t/tracker.log".to_vec()),
            is_sqlite: true,
        };
        let kept: [&[u8]; 9] = [
            b"/srv/t/config.ini",
            b"/srv/t/db/db",
            b"/srv/t/db/backend_name",
            b"/srv/t/db/files/msg/0/msg1",
            b"/srv/t/html/db-session",
            b"/srv/t/html/lock",
            b"/srv/t/html/x.pid",
            b"/srv/t/tracker.logic",
            b"/srv/t/db/db-sessions-of-mine",
        ];
        for path in kept {
            assert!(left_out.keep(path, false), "{}", path.escape_ascii());
        }
        let gone: [&[u8]; 16] = [
            b"/srv/t/db/db-wal",
            b"/srv/t/db/db-shm",
            b"/srv/t/db/db-journal",
            b"/srv/t/db/db-session",
            b"/srv/t/db/db-otk-wal",
            b"/srv/t/db/sessions",
            b"/srv/t/db/sessions.db",
            b"/srv/t/db/otks.dat",
            b"/srv/t/db/lock",
            b"/srv/t/x.pid",
            b"/srv/t/tracker.log",
            b"/srv/t/tracker.log.1",
            b"/srv/t/detectors/a.pyc",
            b"/srv/t/schema.pyo",
            b"/srv/t/db/text-index",
            b"/srv/t/db/db-otk",
        ];
        for path in gone {
            assert!(!left_out.keep(path, false), "{}", path.escape_ascii());
        }
        assert!(!left_out.keep(b"/srv/t/detectors/__pycache__", true));
        assert!(left_out.keep(b"/srv/t/tracker.log", true));
        let other = LeftOut { is_sqlite: false, ..left_out };
        assert!(other.keep(b"/srv/t/db/db-wal", false), "not this tracker's database");
    }
}
