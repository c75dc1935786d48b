//! PostgreSQL's own programs: where they are, which version fits, how they are started.

use crate::error::{Error, Result};
use crate::names;
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

/// How to reach the server; what is not said is libpq's to find.
#[derive(Clone, Default, Debug)]
pub struct Connection {
    pub host: Option<String>,
    pub port: Option<u16>,
    pub username: Option<String>,
    /// Look for the programs here only.
    pub programs: Option<PathBuf>,
    /// Run the programs as this user.
    pub run_as: Option<User>,
    /// Travels in the environment of the programs, never in their arguments.
    pub password: Option<Password>,
    /// A section of pg_service.conf.
    pub service: Option<String>,
}

#[derive(Clone, PartialEq, Eq)]
pub struct Password(pub String);

impl std::fmt::Debug for Password {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Password(...)")
    }
}

/// A user of this machine.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct User {
    pub name: String,
    pub uid: u32,
    pub gid: u32,
    pub home: PathBuf,
}

impl User {
    /// The user of that name, if this process may act as it.
    pub fn named(name: &str) -> Result<User> {
        let refused = |reason: &str| Error::refused(format!("run as user `{name}`"), reason);
        // The system knows more users than /etc/passwd.
        let output = Command::new("getent").args(["passwd", "--", name]).stdin(Stdio::null()).output();
        let output = output.map_err(|error| Error::io("run", "getent", error))?;
        let user =
            User::parse(&String::from_utf8_lossy(&output.stdout), name).ok_or_else(|| refused("there is none"))?;
        let own = rustix::process::geteuid();
        if own.is_root() || own.as_raw() == user.uid { Ok(user) } else { Err(refused("only root may")) }
    }

    fn parse(text: &str, name: &str) -> Option<User> {
        let fields: Vec<&str> = text.lines().next()?.split(':').collect();
        let [found, _, uid, gid, _, home, ..] = fields.as_slice() else { return None };
        (*found == name).then_some(())?;
        Some(User { name: name.into(), uid: uid.parse().ok()?, gid: gid.parse().ok()?, home: home.into() })
    }
}

/// A program and its version.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Program {
    pub path: PathBuf,
    pub version: Version,
    /// As it says: `15.18 (Debian 15.18-0+deb12u1)`
    pub text: String,
}

/// `15.18` is (15, 18), `9.6.24` is (9, 6): of versions before 10 the second number counts like the first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Version(pub u32, pub u32);

impl Version {
    /// What `server_version_num` says: 150018, 90624.
    pub fn of_number(number: u32) -> Version {
        if number >= 100_000 {
            Version(number / 10_000, number % 10_000)
        } else {
            Version(number / 10_000, number / 100 % 100)
        }
    }

    /// Of `15.18 (Debian…)`, `17beta1`, `9.6.24`.
    pub fn parse(text: &str) -> Option<Version> {
        let number = |text: &str| {
            let digits = text.bytes().take_while(u8::is_ascii_digit).count();
            text.get(..digits).and_then(|digits| digits.parse().ok())
        };
        let mut parts = text.split('.');
        Some(Version(number(parts.next()?)?, parts.next().and_then(number).unwrap_or(0)))
    }

    /// What decides whether one program understands another.
    pub fn major(self) -> Version {
        if self.0 >= 10 { Version(self.0, 0) } else { self }
    }

    pub fn shown(self) -> String {
        if self.0 >= 10 { self.0.to_string() } else { format!("{}.{}", self.0, self.1) }
    }
}

impl Connection {
    /// The program that fits best: of the oldest major version not older than `wanted`, or the newest there is.
    pub fn find(&self, program: &str, wanted: Option<Version>) -> Result<Program> {
        self.choose(program, wanted, &self.installed(program))
    }

    /// Each that says its version, in order of preference.
    pub fn installed(&self, program: &str) -> Vec<Program> {
        self.candidates(program).into_iter().filter_map(|path| probe(program, path)).collect()
    }

    /// As [`Connection::find`], of what is installed.
    pub fn choose(&self, program: &str, wanted: Option<Version>, installed: &[Program]) -> Result<Program> {
        choose(installed, wanted).cloned().ok_or_else(|| self.unfit(program, wanted, installed))
    }

    fn unfit(&self, program: &str, wanted: Option<Version>, found: &[Program]) -> Error {
        let wanted = wanted.map_or(String::new(), |wanted| format!(" of version {} or newer", wanted.shown()));
        let reason = if found.is_empty() {
            let place = self.programs.as_ref().map(|dir| dir.display().to_string());
            format!(
                "it was not found in {}",
                place.unwrap_or_else(|| "PATH nor where PostgreSQL is usually installed".into())
            )
        } else {
            let found: Vec<String> = found.iter().map(|p| format!("{} ({})", p.path.display(), p.text)).collect();
            format!("it is too old; found: {}", found.join(", "))
        };
        Error::NoProgram { program: format!("{program}{wanted} is needed"), reason }
    }

    /// In order of preference; a wrapper that chooses among installed versions comes last.
    fn candidates(&self, program: &str) -> Vec<PathBuf> {
        let dirs = match &self.programs {
            Some(dir) => vec![dir.clone()],
            None => {
                let mut dirs: Vec<PathBuf> = std::env::var_os("PATH")
                    .iter()
                    .flat_map(std::env::split_paths)
                    .filter(|dir| dir.is_absolute())
                    .collect();
                dirs.extend(versions_below(Path::new("/usr/lib/postgresql"), ""));
                dirs.extend(versions_below(Path::new("/usr"), "pgsql-"));
                dirs
            }
        };
        let mut seen = BTreeSet::new();
        let (mut direct, mut wrappers) = (Vec::new(), Vec::new());
        for path in dirs.into_iter().map(|dir| dir.join(program)) {
            let Ok(real) = path.canonicalize() else { continue };
            let is_wrapper = real.file_name() == Some(OsStr::new("pg_wrapper"));
            if seen.insert(path.clone()) {
                if is_wrapper { &mut wrappers } else { &mut direct }.push(path);
            }
        }
        if direct.is_empty() { wrappers } else { direct }
    }

    /// The program with the options for the server, that never asks for a password, as the user it is to run as.
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.env_remove("NIGHTKEEP_PASSWORD").arg("--no-password");
        // A dump is the same whoever makes it.
        for name in ["PGCLIENTENCODING", "PGTZ", "PGDATESTYLE"] {
            command.env_remove(name);
        }
        for (name, value) in [("PGAPPNAME", "nightkeep"), ("PGCONNECT_TIMEOUT", "30")] {
            if std::env::var_os(name).is_none() {
                command.env(name, value);
            }
        }
        if let Some(host) = &self.host {
            command.arg(format!("--host={host}"));
        }
        if let Some(port) = self.port {
            command.arg(format!("--port={port}"));
        }
        if let Some(username) = &self.username {
            command.arg(format!("--username={username}"));
        }
        let secret = self.password.as_ref().map(|password| &password.0);
        for (name, value) in [("PGPASSWORD", secret), ("PGSERVICE", self.service.as_ref())] {
            if let Some(value) = value {
                command.env(name, value);
            }
        }
        if let Some(user) = &self.run_as {
            command.env("HOME", &user.home).env("USER", &user.name).env("LOGNAME", &user.name).current_dir("/");
            // Also drops all further groups, if this is root.
            if rustix::process::geteuid().as_raw() != user.uid {
                command.uid(user.uid).gid(user.gid);
            }
        }
        command
    }
}

/// `PLACE/PREFIX*/bin`
fn versions_below(place: &Path, prefix: &str) -> Vec<PathBuf> {
    let entries = place.read_dir().into_iter().flatten().flatten();
    let mut dirs: Vec<PathBuf> = entries
        .filter(|entry| entry.file_name().as_encoded_bytes().starts_with(prefix.as_bytes()))
        .map(|entry| entry.path().join("bin"))
        .filter(|dir| dir.is_dir())
        .collect();
    dirs.sort();
    dirs
}

fn probe(program: &str, path: PathBuf) -> Option<Program> {
    let output = Command::new(&path).arg("--version").stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    let line = String::from_utf8(output.stdout).ok()?;
    let text = line.trim().strip_prefix(program)?.trim_start().strip_prefix("(PostgreSQL) ")?.to_owned();
    Some(Program { path, version: Version::parse(&text)?, text })
}

fn choose(found: &[Program], wanted: Option<Version>) -> Option<&Program> {
    let major = |program: &&Program| program.version.major();
    let chosen = match wanted {
        Some(wanted) => found.iter().map(|p| p.version.major()).filter(|major| *major >= wanted.major()).min()?,
        None => found.iter().map(|p| p.version.major()).max()?,
    };
    // The first of those with the newest minor version.
    found.iter().filter(|program| major(program) == chosen).rev().max_by_key(|program| program.version)
}

/// Why a program failed: its own last words, or how it ended.
pub fn failure(status: ExitStatus, complaints: &[u8]) -> String {
    use std::os::unix::process::ExitStatusExt;
    let said = String::from_utf8_lossy(complaints);
    let said: Vec<&str> = said.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
    // What went wrong is said at the end; hints and details follow it.
    let last = said.get(said.len().saturating_sub(6)..).unwrap_or_default().join("\n");
    let how = match (status.code(), status.signal()) {
        (_, Some(signal)) => format!("it was killed by signal {signal}"),
        (Some(0), _) => "it ended too early".into(),
        (Some(code), _) => format!("it failed with exit status {code}"),
        (None, None) => "it failed".into(),
    };
    if last.is_empty() {
        how
    } else if status.signal().is_some() {
        format!("{how}; {last}")
    } else {
        names::printable(&last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(path: &str, version: &str) -> Program {
        Program { path: path.into(), version: Version::parse(version).unwrap(), text: version.into() }
    }

    #[test]
    fn versions() {
        assert_eq!(Version::parse("15.18 (Debian 15.18-0+deb12u1)"), Some(Version(15, 18)));
        assert_eq!(Version::parse("17beta1"), Some(Version(17, 0)));
        assert_eq!(Version::parse("9.6.24"), Some(Version(9, 6)));
        assert_eq!(Version::parse("devel"), None);
        assert_eq!((Version::of_number(150_018), Version::of_number(90_624)), (Version(15, 18), Version(9, 6)));
        assert_eq!((Version(15, 18).major(), Version(9, 6).major()), (Version(15, 0), Version(9, 6)));
        assert_eq!((Version(15, 18).shown(), Version(9, 6).shown()), ("15".into(), "9.6".into()));
    }

    #[test]
    fn the_version_next_to_the_wanted_one_is_chosen() {
        let found = [
            program("/a", "16.2"),
            program("/b", "15.3"),
            program("/c", "15.18"),
            program("/d", "15.18"),
            program("/e", "9.6.1"),
        ];
        let path = |wanted| choose(&found, wanted).map(|program| program.path.to_str().unwrap().to_owned());
        assert_eq!(path(Some(Version(15, 20))).as_deref(), Some("/c"), "a minor version is never too old");
        assert_eq!(path(Some(Version(13, 1))).as_deref(), Some("/c"));
        assert_eq!(path(Some(Version(16, 9))).as_deref(), Some("/a"));
        assert_eq!(path(Some(Version(9, 4))).as_deref(), Some("/e"));
        assert_eq!(path(Some(Version(17, 0))), None);
        assert_eq!(path(None).as_deref(), Some("/a"));
        assert_eq!(choose(&[], None), None);
    }

    #[test]
    fn users_are_looked_up() {
        let line = "postgres:x:111:113:PostgreSQL administrator,,,:/var/lib/postgresql:/bin/bash\n";
        let user = User::parse(line, "postgres").unwrap();
        assert_eq!((user.uid, user.gid, user.home), (111, 113, PathBuf::from("/var/lib/postgresql")));
        assert_eq!(User::parse(line, "111"), None, "a name, not a number");
        assert_eq!(User::parse("", "x"), None);
        assert!(User::named("no such user").is_err());
    }

    #[test]
    fn programs_run_as_the_user_that_is_asked_for() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: only root may run programs as another user");
            assert!(User::named("root").unwrap_err().to_string().contains("only root may"));
            return;
        }
        let user = User::named("nobody").unwrap();
        let connection = Connection { run_as: Some(user.clone()), ..Connection::default() };
        let script = "#!/bin/sh\necho $(id -u):$(id -G):$HOME:$USER:$(pwd)\n";
        let dir = tempfile::Builder::new()
            .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .tempdir()
            .unwrap();
        let path = dir.path().join("who");
        std::fs::write(&path, script).unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let output = connection.command(&path).output().unwrap();
        let expected = format!("{}:{}:{}:nobody:/\n", user.uid, user.gid, user.home.display());
        assert_eq!(String::from_utf8_lossy(&output.stdout), expected);
    }

    #[test]
    fn what_is_missing_is_named() {
        let empty = tempfile::tempdir().unwrap();
        let connection = Connection { programs: Some(empty.path().into()), ..Connection::default() };
        let error = connection.find("pg_dump", Some(Version(15, 1))).unwrap_err().to_string();
        assert!(
            error.contains("pg_dump of version 15 or newer") && error.contains(empty.path().to_str().unwrap()),
            "{error}"
        );
    }

    #[test]
    fn the_last_words_tell_why() {
        use std::os::unix::process::ExitStatusExt;
        let status = |raw| ExitStatus::from_raw(raw);
        assert_eq!(failure(status(1 << 8), b"pg_dump: error: no\n\nDETAIL: x\n"), "pg_dump: error: no\nDETAIL: x");
        assert_eq!(failure(status(9), b""), "it was killed by signal 9");
        assert_eq!(failure(status(3 << 8), b"\n"), "it failed with exit status 3");
    }
}
