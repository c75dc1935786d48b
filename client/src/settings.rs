//! Flags and environment, resolved once: a flag beats its environment variable, the variable beats the configuration file,
//! that the default.
//!
//! Asks the environment through a function, so that it can be tested; touches no file.

use crate::backup::Compression;
use crate::error::{Error, Result};
use crate::servers::RemotePlace;
use crate::units;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::Duration;
use zeroize::Zeroizing;

const LOCK_WAIT: Duration = Duration::from_secs(300);

/// The options of every verb, accepted before and after it.
#[derive(clap::Args, Clone, Default, Debug)]
#[command(next_help_heading = "Global options")]
pub struct Flags {
    /// The repository: a directory, or quic://HOST:PORT/REPOSITORY; of several, with commas, the first that answers [NIGHTKEEP_REPOSITORY]
    #[arg(short, long, global = true, value_name = "URL", value_hint = clap::ValueHint::DirPath)]
    pub repository: Option<OsString>,

    /// Read the credential from a file [NIGHTKEEP_PASSWORD_FILE]
    ///
    /// The file holds a passphrase, a recovery key (nkr1-...) or an exported write-only key (nkw1-...).
    /// Without this option, --password-command and their variables, the passphrase is asked for.
    #[arg(long, global = true, value_name = "FILE", conflicts_with = "password_command", value_hint = clap::ValueHint::FilePath)]
    pub password_file: Option<PathBuf>,

    /// Read the credential from what a shell command prints [NIGHTKEEP_PASSWORD_COMMAND]
    #[arg(long, global = true, value_name = "COMMAND", value_hint = clap::ValueHint::CommandString)]
    pub password_command: Option<OsString>,

    /// Print JSON lines instead of text
    #[arg(long, global = true)]
    pub json: bool,

    /// Print nothing unless something is wrong
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,

    /// Name each item that is dealt with; twice, unchanged ones too
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,

    /// Show no progress
    #[arg(long, global = true)]
    pub no_progress: bool,

    /// How long to wait while another process writes to the repository: 30s, 5m, 1h [default: 5m]
    #[arg(long, global = true, value_name = "TIME", value_parser = wait)]
    pub lock_wait: Option<Duration>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Place {
    Directory(PathBuf),
    /// The same repository at several sites, in the order in which they are tried; never empty.
    Servers(Vec<RemotePlace>),
}

/// Where the credential comes from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CredentialSource {
    File(PathBuf),
    Command(OsString),
    /// From the environment.
    Text(Zeroizing<Vec<u8>>),
    Prompt,
}

const DELTA_CACHE_BYTES: u64 = 1 << 30;

#[derive(Clone, Debug)]
pub struct Settings {
    place: Option<Place>,
    pub credential: CredentialSource,
    pub json: bool,
    pub quiet: bool,
    pub verbose: u8,
    pub progress: bool,
    pub lock_wait: Duration,
    lock_wait_given: bool,
    /// Change caches: may be lost.
    pub cache_dir: PathBuf,
    /// This machine's identity as a writer: if lost, a new one is made.
    pub state_dir: PathBuf,
    /// Whether chunks that resemble stored ones are stored as differences [NIGHTKEEP_DELTA].
    pub delta: bool,
    /// Bytes of such stored ones that are kept on this machine for a key that cannot read [NIGHTKEEP_DELTA_CACHE].
    pub delta_cache_bytes: u64,
    /// How hard new contents are compressed, unless an option says it [NIGHTKEEP_COMPRESSION].
    pub compression: Option<Compression>,
    /// Of a repository on a server; the verb says it.
    pub download_bytes_per_second: Option<u64>,
}

/// What the configuration file says of them.
#[derive(Clone, Default, Debug)]
pub struct Defaults {
    pub repository: Option<OsString>,
    pub credential: Option<CredentialSource>,
    pub lock_wait: Option<Duration>,
}

impl Settings {
    pub fn resolve(flags: &Flags, environment: &dyn Fn(&str) -> Option<OsString>, root: bool) -> Result<Settings> {
        let variable = |name: &str| environment(name).filter(|value| !value.is_empty());
        let place = flags.repository.clone().filter(|v| !v.is_empty()).or_else(|| variable("NIGHTKEEP_REPOSITORY"));
        let home = |xdg: &str, below: &str, of_root: &str| -> Result<PathBuf> {
            if root {
                return Ok(PathBuf::from(of_root));
            }
            let absolute = variable(xdg).map(PathBuf::from).filter(|dir| dir.is_absolute());
            let dir = absolute.or_else(|| variable("HOME").map(|home| PathBuf::from(home).join(below)));
            let missing = || Error::argument("environment", format!("neither {xdg} nor HOME is set"));
            Ok(dir.ok_or_else(missing)?.join("nightkeep"))
        };
        Ok(Settings {
            place: place.map(|place| Place::parse(&place)).transpose()?,
            credential: credential(flags, &variable),
            json: flags.json,
            quiet: flags.quiet,
            verbose: flags.verbose,
            progress: !flags.no_progress && !flags.quiet,
            lock_wait: flags.lock_wait.unwrap_or(LOCK_WAIT),
            lock_wait_given: flags.lock_wait.is_some(),
            cache_dir: match variable("NIGHTKEEP_CACHE_DIR") {
                Some(dir) => PathBuf::from(dir),
                None => home("XDG_CACHE_HOME", ".cache", "/var/cache/nightkeep")?,
            },
            delta: switch("NIGHTKEEP_DELTA", variable("NIGHTKEEP_DELTA"))?,
            delta_cache_bytes: match variable("NIGHTKEEP_DELTA_CACHE") {
                Some(size) => units::parse_size(&size.to_string_lossy())?,
                None => DELTA_CACHE_BYTES,
            },
            compression: match variable("NIGHTKEEP_COMPRESSION") {
                Some(text) => Some(compression(&text)?),
                None => None,
            },
            download_bytes_per_second: None,
            state_dir: match variable("NIGHTKEEP_STATE_DIR") {
                Some(dir) => PathBuf::from(dir),
                None => home("XDG_STATE_HOME", ".local/state", "/var/lib/nightkeep")?,
            },
        })
    }

    /// The repository's places, if it is on servers: the first one is asked first. Empty if it is a directory.
    pub fn servers(&self) -> Result<&[RemotePlace]> {
        match &self.place {
            None => Err(Error::NoRepositoryNamed),
            Some(Place::Servers(places)) => Ok(places),
            Some(Place::Directory(_)) => Ok(&[]),
        }
    }

    /// The first of them.
    pub fn remote(&self) -> Result<Option<&RemotePlace>> {
        Ok(self.servers()?.first())
    }

    /// The repository as it was named, for people.
    pub fn place_shown(&self) -> String {
        match &self.place {
            None => "(none)".into(),
            Some(Place::Servers(places)) => places.iter().map(RemotePlace::to_string).collect::<Vec<_>>().join(","),
            Some(Place::Directory(path)) => path.display().to_string(),
        }
    }

    /// What neither a flag nor a variable said, the configuration file says.
    pub fn or(mut self, defaults: &Defaults) -> Result<Settings> {
        if let (None, Some(place)) = (&self.place, &defaults.repository) {
            self.place = Some(Place::parse(place)?);
        }
        if let (CredentialSource::Prompt, Some(credential)) = (&self.credential, &defaults.credential) {
            self.credential = credential.clone();
        }
        if let (false, Some(wait)) = (self.lock_wait_given, defaults.lock_wait) {
            self.lock_wait = wait;
        }
        Ok(self)
    }

    /// Whether a repository is named.
    pub fn is_placed(&self) -> bool {
        self.place.is_some()
    }

    /// Whether flags and variables leave open which repository or credential is meant.
    pub fn is_open(&self) -> bool {
        self.place.is_none() || self.credential == CredentialSource::Prompt
    }

    /// The repository's directory.
    pub fn directory(&self) -> Result<&PathBuf> {
        match &self.place {
            None => Err(Error::NoRepositoryNamed),
            Some(Place::Servers(_)) => Err(Error::argument(
                format!("repository {}", self.place_shown()),
                "it is on a server, not in a directory of this machine",
            )),
            Some(Place::Directory(path)) => Ok(path),
        }
    }
}

impl Place {
    pub fn parse(text: &OsString) -> Result<Place> {
        let bytes = text.as_bytes();
        if bytes.starts_with(b"quic://") {
            let places =
                text.to_string_lossy().split(',').map(|place| RemotePlace::parse(place.trim())).collect::<Result<_>>();
            return places.map(Place::Servers);
        }
        if let Some(path) = bytes.strip_prefix(b"file://") {
            return Ok(Place::Directory(PathBuf::from(std::ffi::OsStr::from_bytes(path))));
        }
        let scheme = bytes.windows(3).position(|window| window == b"://");
        match scheme {
            Some(at) if at > 0 && bytes.iter().take(at).all(u8::is_ascii_alphanumeric) => {
                let reason = "expected a directory or quic://HOST:PORT/REPOSITORY";
                Err(Error::argument(format!("repository `{}`", text.to_string_lossy()), reason))
            }
            _ => Ok(Place::Directory(PathBuf::from(text))),
        }
    }
}

/// Flags beat variables; among variables the file beats the command, the command the passphrase itself.
fn credential(flags: &Flags, variable: &dyn Fn(&str) -> Option<OsString>) -> CredentialSource {
    let file = |path: PathBuf| CredentialSource::File(path);
    let given = flags.password_file.clone().map(file);
    let given = given.or_else(|| flags.password_command.clone().map(CredentialSource::Command));
    let given = given.or_else(|| variable("NIGHTKEEP_PASSWORD_FILE").map(PathBuf::from).map(file));
    let given = given.or_else(|| variable("NIGHTKEEP_PASSWORD_COMMAND").map(CredentialSource::Command));
    let text = |text: OsString| CredentialSource::Text(Zeroizing::new(text.as_bytes().to_vec()));
    given.or_else(|| variable("NIGHTKEEP_PASSWORD").map(text)).unwrap_or(CredentialSource::Prompt)
}

fn compression(text: &OsString) -> Result<Compression> {
    let parsed = text.to_str().and_then(Compression::parse);
    parsed.ok_or_else(|| Error::argument("NIGHTKEEP_COMPRESSION", Compression::EXPECTED))
}

/// On unless it is said to be off.
fn switch(name: &str, value: Option<OsString>) -> Result<bool> {
    match value.as_ref().map(|value| value.as_bytes()) {
        None | Some(b"on") => Ok(true),
        Some(b"off") => Ok(false),
        Some(_) => Err(Error::argument(name, "expected on or off")),
    }
}

fn wait(text: &str) -> std::result::Result<Duration, String> {
    units::parse_wait(text).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(flags: &Flags, variables: &[(&str, &str)], root: bool) -> Result<Settings> {
        let get = |name: &str| variables.iter().find(|(n, _)| *n == name).map(|(_, value)| OsString::from(value));
        Settings::resolve(flags, &get, root)
    }

    #[test]
    fn flag_beats_environment_beats_default() {
        let variables = [("HOME", "/home/u"), ("NIGHTKEEP_REPOSITORY", "/env"), ("NIGHTKEEP_PASSWORD", "secret")];
        let settings = resolve(&Flags::default(), &variables, false).unwrap();
        assert_eq!(settings.directory().unwrap(), &PathBuf::from("/env"));
        assert_eq!(settings.credential, CredentialSource::Text(Zeroizing::new(b"secret".to_vec())));
        assert_eq!(settings.cache_dir, PathBuf::from("/home/u/.cache/nightkeep"));
        assert_eq!(settings.state_dir, PathBuf::from("/home/u/.local/state/nightkeep"));
        assert!(settings.progress);

        let flags = Flags {
            repository: Some("/flag".into()),
            password_command: Some("pass show".into()),
            quiet: true,
            ..Flags::default()
        };
        let settings = resolve(&flags, &variables, true).unwrap();
        assert_eq!(settings.directory().unwrap(), &PathBuf::from("/flag"));
        assert_eq!(settings.credential, CredentialSource::Command("pass show".into()));
        assert_eq!(settings.cache_dir, PathBuf::from("/var/cache/nightkeep"));
        assert!(!settings.progress);
    }

    #[test]
    fn directories_come_from_their_variables() {
        let variables =
            [("NIGHTKEEP_CACHE_DIR", "/c"), ("NIGHTKEEP_STATE_DIR", "/s"), ("XDG_CACHE_HOME", "/x"), ("HOME", "/h")];
        let settings = resolve(&Flags::default(), &variables, true).unwrap();
        assert_eq!((settings.cache_dir, settings.state_dir), ("/c".into(), "/s".into()));
        let settings = resolve(&Flags::default(), &[("XDG_CACHE_HOME", "/x"), ("HOME", "/h")], false).unwrap();
        assert_eq!(settings.cache_dir, PathBuf::from("/x/nightkeep"));
        assert!(resolve(&Flags::default(), &[], false).is_err());
    }

    #[test]
    fn deltas_are_on_unless_they_are_said_to_be_off() {
        let settings = |variables: &[(&str, &str)]| resolve(&Flags::default(), variables, true);
        let found = |variables: &[(&str, &str)]| settings(variables).map(|s| (s.delta, s.delta_cache_bytes));
        assert_eq!(found(&[]).unwrap(), (true, 1 << 30));
        assert_eq!(found(&[("NIGHTKEEP_DELTA", "on"), ("NIGHTKEEP_DELTA_CACHE", "0")]).unwrap(), (true, 0));
        assert_eq!(found(&[("NIGHTKEEP_DELTA", "off"), ("NIGHTKEEP_DELTA_CACHE", "64M")]).unwrap(), (false, 64 << 20));
        assert!(settings(&[("NIGHTKEEP_DELTA", "no")]).is_err());
        assert!(settings(&[("NIGHTKEEP_DELTA_CACHE", "much")]).is_err());
    }

    #[test]
    fn compression_is_left_open_unless_it_is_said() {
        let settings = |variables: &[(&str, &str)]| resolve(&Flags::default(), variables, true);
        assert_eq!(settings(&[]).unwrap().compression, None);
        let found = settings(&[("NIGHTKEEP_COMPRESSION", "none")]).unwrap().compression;
        assert!(found.is_some_and(Compression::is_none));
        assert!(settings(&[("NIGHTKEEP_COMPRESSION", "20")]).is_err());
    }

    #[test]
    fn one_variable_beats_another() {
        let all = [
            ("HOME", "/h"),
            ("NIGHTKEEP_PASSWORD", "p"),
            ("NIGHTKEEP_PASSWORD_COMMAND", "c"),
            ("NIGHTKEEP_PASSWORD_FILE", "f"),
        ];
        let source = |variables: &[(&str, &str)]| resolve(&Flags::default(), variables, false).unwrap().credential;
        assert_eq!(source(&all), CredentialSource::File("f".into()));
        assert_eq!(source(&all[..3]), CredentialSource::Command("c".into()));
        assert_eq!(source(&[("HOME", "/h"), ("NIGHTKEEP_PASSWORD", "")]), CredentialSource::Prompt);
    }

    #[test]
    fn places() {
        let place = |text: &str| Place::parse(&OsString::from(text));
        assert_eq!(place("/srv/b").unwrap(), Place::Directory("/srv/b".into()));
        assert_eq!(place("file:///srv/b").unwrap(), Place::Directory("/srv/b".into()));
        assert_eq!(place("odd:name").unwrap(), Place::Directory("odd:name".into()));
        assert_eq!(
            place("quic://h:1/r").unwrap(),
            Place::Servers(vec![RemotePlace { address: "h:1".into(), repository: "r".into() }])
        );
        assert!(matches!(place("quic://h:1/r, quic://i:2/r").unwrap(), Place::Servers(places) if places.len() == 2));
        assert!(place("quic://h:1/r,/srv/b").is_err());
        assert!(place("s3://bucket").is_err());
        let flags = Flags { repository: Some("quic://h:1/r".into()), ..Flags::default() };
        let settings = resolve(&flags, &[("HOME", "/h")], false).unwrap();
        assert!(matches!(settings.directory(), Err(Error::Argument { .. })));
        let unnamed = resolve(&Flags::default(), &[("HOME", "/h")], false).unwrap();
        assert!(matches!(unnamed.directory(), Err(Error::NoRepositoryNamed)));
    }
}
