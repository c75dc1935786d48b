//! The one place that turns an error into a message, what to do next, and an exit code.

use super::console::error_line;
use crate::error::Error;
use crate::names;
use chunkstore::Error as Store;
use nightkeep_fuse::Error as Mount;
use serde_json::{Value, json};
use std::io::ErrorKind;

pub const FAILED: u8 = 1;
pub const NO_REPOSITORY: u8 = 10;
pub const BUSY: u8 = 11;
pub const WRONG_CREDENTIAL: u8 = 12;
pub const INTERRUPTED: u8 = 130;

#[derive(PartialEq, Eq, Debug)]
pub struct Report {
    pub message: String,
    pub hint: Option<&'static str>,
    pub code: u8,
}

impl Report {
    pub fn of(error: &Error) -> Report {
        let (code, hint) = match error {
            Error::Store(error) => of_store(error),
            Error::Mount(error) => of_mount(error),
            Error::NoRepositoryNamed => (
                FAILED,
                Some("give --repository DIR, set NIGHTKEEP_REPOSITORY, or name it in /etc/nightkeep/client.toml"),
            ),
            Error::NoCredential => (
                FAILED,
                Some(
                    "give --password-file or --password-command, or set NIGHTKEEP_PASSWORD_FILE, \
                     NIGHTKEEP_PASSWORD_COMMAND or NIGHTKEEP_PASSWORD",
                ),
            ),
            Error::NoSuchSnapshot { .. } => (FAILED, Some("`nightkeep snapshots` lists what there is")),
            Error::Ambiguous { .. } => (FAILED, Some("give more digits of the id, or the whole name HOST/KIND/NAME")),
            Error::Forgotten { .. } => (FAILED, Some("`nightkeep undelete` brings it back")),
            Error::NoSuchPath { .. } => (FAILED, Some("`nightkeep ls` shows what a snapshot holds")),
            Error::NoConfiguration { .. } => (
                FAILED,
                Some("`nightkeep config example` prints one to begin with; NIGHTKEEP_CONFIG names another place"),
            ),
            Error::Configuration { .. } => (FAILED, Some("`nightkeep config check` lists all mistakes")),
            Error::RunGoingOn { .. } => (BUSY, Some("runs do not overlap: wait for its end")),
            Error::NoProgram { .. } => (
                FAILED,
                Some("install PostgreSQL's client programs of that version, or say where they are with --programs DIR"),
            ),
            Error::Unreachable { .. } => (
                FAILED,
                Some(
                    "check --host, --port and --username, or PGHOST, PGPORT and PGUSER; a password belongs into ~/.pgpass \
                     (PGPASSFILE); with peer authentication run as the user: `runuser -u postgres -- nightkeep ...`",
                ),
            ),
            Error::Tracker { .. } => (FAILED, Some("name the tracker's home: the directory with its config.ini")),
            Error::Backend { .. } => (
                FAILED,
                Some("sqlite and postgresql can be saved; `roundup-admin` exports from the others into one of them"),
            ),
            Error::Database { .. } => (FAILED, Some("see whether `roundup-admin -i HOME list issue` can read it")),
            Error::DatabaseLocked { .. } => (
                FAILED,
                Some("end what holds it (`fuser -v FILE` names it), or let it wait longer: sqlite_timeout in [rdbms]"),
            ),
            Error::Source { .. }
            | Error::Credential { .. }
            | Error::Argument { .. }
            | Error::Refused { .. }
            | Error::Io { .. }
            | Error::Output(_)
            | Error::Usage(_) => (FAILED, None),
        };
        Report { message: error.to_string(), hint, code }
    }
}

fn of_mount(error: &Mount) -> (u8, Option<&'static str>) {
    match error {
        Mount::Store(error) => of_store(error),
        Mount::Place { .. } => (FAILED, Some("give an empty directory outside the repository")),
        Mount::Stale { .. } => (FAILED, Some("remove it with `fusermount3 -u DIR` or, as root, `umount -l DIR`")),
        Mount::NoDevice => (FAILED, Some("load the kernel's module: `modprobe fuse`")),
        Mount::NoHelper => (FAILED, Some("install the package `fuse3`, or mount as root")),
        Mount::OthersNotAllowed => (FAILED, Some("root can put the line `user_allow_other` into /etc/fuse.conf")),
        Mount::System { .. } => {
            (FAILED, Some("a confined fusermount3 (AppArmor) may allow no mount there: try a directory in your home"))
        }
    }
}

fn of_store(error: &Store) -> (u8, Option<&'static str>) {
    match error {
        Store::NoRepository { .. } => (NO_REPOSITORY, Some("check the path, or make one with `nightkeep init`")),
        Store::Locked { .. } => (BUSY, Some("try again when it is done, or wait longer with --lock-wait")),
        Store::WrongCredential => (
            WRONG_CREDENTIAL,
            Some("if the passphrase is lost, `nightkeep key recover` sets a new one with the recovery key"),
        ),
        Store::Interrupted => (INTERRUPTED, None),
        Store::Full { .. } => {
            (FAILED, Some("make space; what was committed before is whole, and nothing half is left"))
        }
        Store::Corrupt { object, .. } if object == "the index" => (
            FAILED,
            Some("nothing is lost by it: it is made again when this is run once more, or the server is started again"),
        ),
        Store::Corrupt { .. } | Store::Missing { .. } => {
            (FAILED, Some("`nightkeep check --read-data` tells which snapshots are affected"))
        }
        Store::Unsupported { .. } => (FAILED, Some("use a newer nightkeep")),
        Store::Poisoned { .. } => (FAILED, Some("look for errors of the disk in the system's log, then run it again")),
        Store::WriteOnly { .. } => (FAILED, Some("use the passphrase or the recovery key for this")),
        Store::RepositoryExists { .. } => (FAILED, Some("use it as it is, or choose another directory")),
        Store::Unreachable { .. } => (
            NO_REPOSITORY,
            Some("is the server running, and does UDP reach it? A later run sends only what is missing"),
        ),
        Store::Denied { .. } => (
            WRONG_CREDENTIAL,
            Some("ask the server's administrator for an invitation (`nightkeepd invite`) and `nightkeep join` it"),
        ),
        Store::Io { .. } | Store::Invalid { .. } => (FAILED, None),
    }
}

/// Reports an error on standard error and gives the exit code.
pub fn conclude(error: &Error, json: bool) -> u8 {
    if is_broken_pipe(error) {
        // Whoever read our output has enough. End as other programs do: by the signal; if that fails, by a code.
        let _ = signal_hook::low_level::emulate_default_handler(signal_hook::consts::SIGPIPE);
        return FAILED;
    }
    let report = Report::of(error);
    if json {
        error_line(&exit_error(&report).to_string());
    } else {
        error_line(&format!("nightkeep: {}", names::printable(&report.message)));
        if let Some(hint) = report.hint {
            error_line(&format!("  {hint}"));
        }
    }
    report.code
}

/// The last JSON line when everything was done and found, and what was found is bad.
pub fn conclude_damaged() {
    let report = Report { message: "damage was found".into(), hint: None, code: FAILED };
    error_line(&exit_error(&report).to_string());
}

fn exit_error(report: &Report) -> Value {
    let mut line = json!({"message_type": "exit_error", "code": report.code, "message": report.message});
    if let (Some(hint), Some(line)) = (report.hint, line.as_object_mut()) {
        line.insert("hint".into(), hint.into());
    }
    line
}

fn is_broken_pipe(error: &Error) -> bool {
    match error {
        Error::Output(source) | Error::Store(Store::Io { source, .. }) => source.kind() == ErrorKind::BrokenPipe,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(error: Store) -> u8 {
        Report::of(&error.into()).code
    }

    #[test]
    fn exit_codes() {
        assert_eq!(code(Store::NoRepository { place: "/x".into() }), 10);
        assert_eq!(code(Store::Locked { holder: "x".into() }), 11);
        assert_eq!(code(Store::WrongCredential), 12);
        assert_eq!(code(Store::Interrupted), 130);
        assert_eq!(code(Store::corrupt("pack", "x")), 1);
        assert_eq!(code(Store::RepositoryExists { place: "/x".into() }), 1);
        assert_eq!(Report::of(&Error::NoCredential).code, 1);
    }

    #[test]
    fn messages_name_the_object_and_say_what_to_do() {
        let report = Report::of(&Store::Locked { holder: "nightkeep backup (process 7 on www)".into() }.into());
        assert!(report.message.contains("process 7 on www"));
        assert!(report.hint.unwrap().contains("--lock-wait"));
        let report = Report::of(&Error::NoCredential);
        assert!(report.hint.unwrap().contains("NIGHTKEEP_PASSWORD_FILE"));
    }

    #[test]
    fn json_has_code_message_and_hint() {
        let line = exit_error(&Report::of(&Error::NoRepositoryNamed));
        assert_eq!((&line["message_type"], &line["code"]), (&json!("exit_error"), &json!(1)));
        assert!(line["message"].is_string() && line["hint"].is_string());
        assert!(exit_error(&Report::of(&Store::Interrupted.into())).get("hint").is_none());
    }

    #[test]
    fn a_broken_pipe_is_told_apart() {
        let broken = || std::io::Error::from(ErrorKind::BrokenPipe);
        assert!(is_broken_pipe(&Error::Output(broken())));
        assert!(is_broken_pipe(&Store::io("write", "standard output", broken()).into()));
        assert!(!is_broken_pipe(&Error::Output(std::io::Error::from(ErrorKind::StorageFull))));
    }
}
