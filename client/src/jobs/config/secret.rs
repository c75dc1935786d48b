//! Secrets in clear text: how they look in commands, and who else could read them. Pure.

use crate::jobs::Severity;
use rules::mistake::Mistakes;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Whose a file is, and who may do what with it.
#[derive(Clone, Copy, Debug)]
pub struct Permissions {
    mode: u32,
    owner: u32,
}

impl Permissions {
    pub fn of(metadata: &Metadata) -> Permissions {
        Permissions { mode: metadata.mode(), owner: metadata.uid() }
    }

    pub fn is_read_by_others(self) -> bool {
        self.mode & 0o044 != 0
    }

    /// The file says what runs, so nobody else may write it.
    pub fn judge(self, path: &Path, mistakes: &Mistakes<'_>) {
        let (path, me) = (path.display(), rustix::process::geteuid().as_raw());
        if self.mode & 0o022 != 0 {
            let what =
                format!("others can write this file (mode {:04o}), and it says what runs as you", self.mode & 0o7777);
            mistakes.file(Severity::Error, what, format!("chmod go-w {path}"));
        }
        if self.owner != 0 && self.owner != me {
            let what = format!("this file belongs to user {}, and it says what runs as you", self.owner);
            mistakes.file(Severity::Error, what, format!("chown root {path}"));
        }
    }
}

/// Says that there is a secret in clear text: an error if others can read it.
pub fn report(
    mistakes: &Mistakes<'_>,
    spot: (usize, String),
    path: &Path,
    permissions: Option<Permissions>,
    better: &str,
) {
    let (at, place) = spot;
    match permissions {
        Some(permissions) if permissions.is_read_by_others() => {
            let mode = permissions.mode & 0o7777;
            let what = format!("a secret in clear text, and others can read this file (mode {mode:04o})");
            mistakes.error(at, &place, what, format!("chmod 600 {}, and better: {better}", path.display()));
        }
        _ => mistakes.warning(at, &place, "a secret in clear text", format!("better: {better}")),
    }
}

/// Whether a command line holds what looks like a password rather than a reference to one.
pub fn is_in(text: &str) -> bool {
    let lower = text.to_lowercase();
    let assigned = ["password=", "passwd=", "passphrase=", "secret=", "token="];
    let is_value = |rest: &str| {
        let rest = rest.trim_start_matches(['"', '\'']);
        !rest.is_empty() && !rest.starts_with(['$', '`', ' ', ';', '&', '|', '/'])
    };
    assigned
        .iter()
        .any(|word| lower.match_indices(word).any(|(at, word)| lower.get(at + word.len()..).is_some_and(is_value)))
        || is_in_url(&lower)
}

/// `scheme://user:password@host`
pub fn is_in_url(text: &str) -> bool {
    text.match_indices("://").any(|(at, _)| {
        let rest = text.get(at + 3..).unwrap_or_default();
        let authority = rest.split(['/', ' ', '"', '\'']).next().unwrap_or_default();
        let user = authority.rsplit_once('@').map(|(user, _)| user);
        user.and_then(|user| user.split_once(':'))
            .is_some_and(|(_, password)| !password.is_empty() && !password.starts_with('$'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_told_from_references() {
        for text in [
            "PGPASSWORD=geheim psql",
            "curl --data 'password=x' https://h",
            "pg_dump postgresql://openpg:openpgpwd@localhost/db",
            "mysqldump --password=\"abc\" all",
        ] {
            assert!(is_in(text), "{text}");
        }
        for text in [
            "PGPASSWORD=$(cat /etc/secret) psql",
            "PGPASSWORD=\"$SECRET\" psql",
            "PGPASSFILE=/root/.pgpass pg_dump x",
            "systemctl stop apache2",
            "curl https://example.org:8080/x@y",
            "pg_dump postgresql://openpg@localhost/db",
            "x --token=/etc/token",
        ] {
            assert!(!is_in(text), "{text}");
        }
    }
}
