//! The configuration file: what it says, as plain values. Reading it finds all mistakes in one pass; a value that is
//! wrong is left out, so what was understood can be used by those whom the mistakes do not concern.

mod read;

mod secret;

mod source;

#[cfg(test)]
mod tests;

use super::{Mistake, Severity};
use crate::backup::Compression;
use crate::error::{Error, Result};
use crate::retention::Policy;
use crate::settings::{CredentialSource, Defaults};
use rules::mistake::Mistakes;
use std::ffi::OsString;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;
use syslog::Facility;

pub const DEFAULT_PATH: &str = "/etc/nightkeep/client.toml";
const BYTES_MAX: u64 = 1 << 20;
/// How long other sites may take to have a copy.
const COPIES_WAIT: Duration = Duration::from_secs(3600);

#[derive(Default, Debug)]
pub struct Config {
    pub repository: Option<OsString>,
    pub credential: Option<CredentialSource>,
    pub lock_wait: Option<Duration>,
    pub reports: Reports,
    /// Around the whole run.
    pub hooks: Hooks,
    pub retry: Retry,
    /// In the order of the file.
    pub jobs: Vec<Job>,
}

/// Where a run is told of.
#[derive(Clone, Default, Debug)]
pub struct Reports {
    pub log: Option<PathBuf>,
    pub error_log: Option<PathBuf>,
    /// A run without errors leaves an empty error file rather than none.
    pub keep_empty_error_log: bool,
    pub language: Language,
    pub syslog: Option<Facility>,
    /// Instead of the usual socket.
    pub syslog_socket: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Language {
    #[default]
    English,
    French,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Job {
    pub name: String,
    pub sources: Vec<Source>,
    pub tags: Vec<String>,
    /// Of the last success, or `status` complains.
    pub max_age: Option<Duration>,
    pub skip_if_unchanged: bool,
    /// Sites that must have the snapshots before the job counts as done, and how long they may take.
    pub copies: u64,
    pub copies_wait: Duration,
    pub upload_bytes_per_second: Option<u64>,
    pub compression: Compression,
    pub hooks: Hooks,
    pub retry: Retry,
    pub retention: Retention,
}

#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Retention {
    /// Nothing is forgotten without a rule.
    pub policy: Policy,
    pub prune: bool,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hooks {
    pub before: Option<Command>,
    /// Runs always.
    pub after: Option<Command>,
    pub on_failure: Option<Command>,
    pub timeout: Duration,
}

impl Default for Hooks {
    fn default() -> Hooks {
        Hooks { before: None, after: None, on_failure: None, timeout: Duration::from_secs(600) }
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Command {
    /// For `/bin/sh -c`.
    Shell(String),
    /// A program and its arguments.
    Words(Vec<String>),
}

impl Command {
    pub fn words(&self) -> Vec<OsString> {
        match self {
            Command::Shell(script) => vec!["/bin/sh".into(), "-c".into(), script.into()],
            Command::Words(words) => words.iter().map(OsString::from).collect(),
        }
    }
}

/// Whether it holds what looks like a password.
pub fn has_secret(command: &Command) -> bool {
    match command {
        Command::Shell(script) => secret::is_in(script),
        Command::Words(words) => secret::is_in(&words.join(" ")),
    }
}

/// How often to try again when the repository is away, and how long to wait: twice as long each time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Retry {
    pub tries: u64,
    pub wait: Duration,
    pub wait_max: Duration,
}

impl Default for Retry {
    fn default() -> Retry {
        Retry { tries: 3, wait: Duration::from_secs(10), wait_max: Duration::from_secs(600) }
    }
}

impl Retry {
    /// How long to wait after so many tries; None if there are to be no more.
    pub fn pause(&self, tries: u64) -> Option<Duration> {
        let doubled = u32::try_from(tries.saturating_sub(1)).ok().and_then(|shift| 1u32.checked_shl(shift));
        let wait = doubled.and_then(|factor| self.wait.checked_mul(factor)).unwrap_or(Duration::MAX);
        (tries < self.tries).then(|| wait.min(self.wait_max))
    }
}

/// One thing to save, in the order in which they are saved.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Source {
    pub dataset: Option<String>,
    pub what: What,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum What {
    Files(Files),
    Command {
        name: String,
        command: Command,
    },
    Postgres(Postgres),
    Zodb(Zodb),
    /// Of the database's server, only what the tracker's configuration does not say.
    Roundup {
        home: PathBuf,
        excludes: Vec<String>,
        server: Postgres,
    },
}

#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Files {
    pub paths: Vec<PathBuf>,
    pub excludes: Vec<String>,
    pub exclude_files: Vec<PathBuf>,
    pub exclude_caches: bool,
    pub exclude_if_present: Vec<String>,
    pub one_file_system: bool,
    pub exclude_larger_than: Option<u64>,
    /// Directories whose files a database of the same job names: what was there when the job began must be saved.
    pub referenced: Vec<PathBuf>,
}

#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Postgres {
    pub matches: Vec<String>,
    pub excludes: Vec<String>,
    /// As text rather than in pg_dump's own format.
    pub plain: bool,
    pub host: Option<String>,
    pub port: Option<u16>,
    pub username: Option<String>,
    /// A section of pg_service.conf.
    pub service: Option<String>,
    /// Where PostgreSQL's programs are looked for.
    pub programs: Option<PathBuf>,
    pub run_as: Option<String>,
    pub jobs: Option<usize>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Zodb {
    /// A directory with `filestorage/Data.fs` and `blobstorage`.
    Instance(PathBuf),
    Storage {
        data_fs: PathBuf,
        blobs: Option<PathBuf>,
    },
}

impl Config {
    /// What other verbs take from it.
    pub fn defaults(&self) -> Defaults {
        Defaults { repository: self.repository.clone(), credential: self.credential.clone(), lock_wait: self.lock_wait }
    }

    /// The jobs of these names, in the order of the file; all if there are none.
    pub fn select(&self, names: &[String]) -> Result<Vec<&Job>> {
        for name in names {
            if !self.jobs.iter().any(|job| job.name == *name) {
                let known: Vec<&str> = self.jobs.iter().map(|job| job.name.as_str()).collect();
                return Err(Error::argument(
                    format!("job `{name}`"),
                    format!("there is none; there are: {}", known.join(" ")),
                ));
            }
        }
        let jobs: Vec<&Job> = self.jobs.iter().filter(|job| names.is_empty() || names.contains(&job.name)).collect();
        if jobs.is_empty() { Err(Error::argument("jobs", "the configuration has none")) } else { Ok(jobs) }
    }
}

/// Where the file lies that NIGHTKEEP_CONFIG names, or the usual one.
pub fn path(named: Option<OsString>) -> PathBuf {
    named.filter(|path| !path.is_empty()).map_or_else(|| PathBuf::from(DEFAULT_PATH), PathBuf::from)
}

/// A configuration file as it was read.
#[derive(Debug)]
pub struct Loaded {
    pub path: PathBuf,
    pub config: Config,
    /// In the order of the file.
    pub mistakes: Vec<Mistake>,
}

impl Loaded {
    pub fn errors(&self) -> impl Iterator<Item = &Mistake> {
        self.mistakes.iter().filter(|mistake| mistake.is_error())
    }

    /// Refuses a file with errors that `concern` the one who asks.
    pub fn require(self, concern: impl Fn(&Mistake) -> bool) -> Result<Config> {
        let errors: Vec<&Mistake> = self.errors().filter(|mistake| concern(mistake)).collect();
        match errors.first() {
            None => Ok(self.config),
            Some(first) => Err(Error::Configuration {
                place: self.path.display().to_string(),
                line: first.line,
                mistake: first.to_string(),
                more: errors.len() - 1,
            }),
        }
    }
}

/// Reads the file at `path`. Fails only if there is none that can be read; whatever is wrong in it is a mistake.
pub fn load(path: &Path) -> Result<Loaded> {
    let place = path.display().to_string();
    let failed = |error: std::io::Error| match error.kind() {
        ErrorKind::NotFound => Error::NoConfiguration { place: place.clone() },
        _ => Error::io("cannot read", place.clone(), error),
    };
    let file = std::fs::File::open(path).map_err(failed)?;
    let permissions = secret::Permissions::of(&file.metadata().map_err(failed)?);
    let mut bytes = Vec::new();
    file.take(BYTES_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
    let (config, mistakes) = parse(&bytes, path, Some(permissions));
    Ok(Loaded { path: path.to_owned(), config, mistakes })
}

fn parse(bytes: &[u8], path: &Path, permissions: Option<secret::Permissions>) -> (Config, Vec<Mistake>) {
    let whole = |what: &str, remedy: &str| {
        let mistakes = Mistakes::new("", "");
        mistakes.file(Severity::Error, what, remedy);
        (Config::default(), mistakes.into_list())
    };
    if bytes.len() as u64 > BYTES_MAX {
        return whole("the file is larger than 1 MiB", "this can hardly be a configuration");
    }
    match std::str::from_utf8(bytes) {
        Ok(text) => read::read(text.strip_prefix('\u{feff}').unwrap_or(text), path, permissions),
        Err(error) => {
            let line = bytes.iter().take(error.valid_up_to()).filter(|byte| **byte == b'\n').count() + 1;
            whole(&format!("line {line} is not UTF-8"), "save the file as UTF-8")
        }
    }
}
