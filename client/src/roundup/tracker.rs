//! A tracker home and what its `config.ini` says: where database, files and templates lie, and which backend it uses.
//!
//! Paths are resolved as Roundup does it: relative ones from the home. Whatever the configuration or a symlink puts outside the
//! home is a part of the tracker all the same.

use super::content::{self, Link};
use super::ini::{Ini, Mistake};
use crate::error::{Error, Result};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

/// No `config.ini` is longer; the one that Roundup writes has 60 KB.
const CONFIG_BYTES_MAX: u64 = 4 << 20;
const SQLITE_TIMEOUT_SECONDS: u64 = 30;

#[derive(Debug)]
pub struct Tracker {
    /// As it was named, made absolute.
    pub home: PathBuf,
    /// Where that really is.
    pub root: PathBuf,
    /// The database's directory, which also holds the files.
    pub database: PathBuf,
    pub backend: Backend,
    pub outside: Vec<Outside>,
    pub links: Vec<Link>,
    /// Grows all the time and is worth nothing without the machine it was written on.
    pub log: Option<PathBuf>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Backend {
    Sqlite { file: PathBuf, patience: Duration },
    Postgres(Postgres),
}

impl Backend {
    pub fn word(&self) -> &'static str {
        match self {
            Backend::Sqlite { .. } => "sqlite",
            Backend::Postgres(_) => "postgresql",
        }
    }
}

/// `[rdbms]` as far as PostgreSQL is concerned. What is empty is left to libpq.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Postgres {
    pub database: String,
    /// Roundup may live in one schema of a shared database: `DATABASE.SCHEMA`.
    pub schema: Option<String>,
    pub host: Option<String>,
    pub port: Option<String>,
    pub user: Option<String>,
    pub password: Option<String>,
    pub service: Option<String>,
}

/// Without the password.
impl std::fmt::Debug for Postgres {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Postgres({:?}.{:?} at {:?}:{:?})", self.database, self.schema, self.host, self.port)
    }
}

/// A part of the tracker that lies outside its home.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outside {
    pub origin: Origin,
    /// Where it really is.
    pub path: PathBuf,
}

/// Why something outside belongs to the tracker.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Origin {
    Option(PathOption),
    /// A symlink at this path leads to it.
    Link(PathBuf),
}

/// An option of `[main]` that names directories.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum PathOption {
    Database,
    Templates,
    /// The nth of the list.
    StaticFiles(usize),
}

impl PathOption {
    pub fn key(self) -> &'static str {
        match self {
            PathOption::Database => "database",
            PathOption::Templates => "templates",
            PathOption::StaticFiles(_) => "static_files",
        }
    }

    /// What Roundup takes when nothing is said, and the name of what is brought into the home.
    pub fn default_name(self) -> &'static str {
        match self {
            PathOption::Database => "db",
            PathOption::Templates => "html",
            PathOption::StaticFiles(_) => "static",
        }
    }
}

impl Tracker {
    pub fn open(home: &Path) -> Result<Tracker> {
        let shown = home.display().to_string();
        let home = std::path::absolute(home).map_err(|error| Error::io("cannot resolve", &shown, error))?;
        let root = home.canonicalize().map_err(|error| Error::io("cannot open tracker", &shown, error))?;
        let ini = read(&root.join("config.ini"), &home)?;
        let named = |option| paths(&ini, &home, option).map_err(|mistake| wrong(&home, &mistake));
        let place = named("database")?.into_iter().next().unwrap_or_else(|| home.join("db"));
        let database = place
            .canonicalize()
            .map_err(|error| Error::io("cannot open database directory", place.display().to_string(), error))?;
        let mut outside = Vec::new();
        let mut add = |option, path: &Path| {
            if let Some(part) = outside_part(&root, option, path) {
                outside.push(part);
            }
        };
        add(PathOption::Database, &place);
        for path in named("templates")? {
            add(PathOption::Templates, &path);
        }
        for (at, path) in named("static_files")?.into_iter().enumerate() {
            add(PathOption::StaticFiles(at), &path);
        }
        let links = content::links(&database.join("files"));
        for link in links.iter().filter(|link| !link.leads_to.starts_with(&root)) {
            outside.push(Outside { origin: Origin::Link(link.at.clone()), path: link.leads_to.clone() });
        }
        let backend = backend(&ini, &home, &database)?;
        let log = log(&ini, &home).map_err(|mistake| wrong(&home, &mistake))?;
        Ok(Tracker { home, root, database, backend, outside, links, log })
    }

    /// What is walked: the home and the parts outside.
    pub fn paths(&self) -> Vec<PathBuf> {
        std::iter::once(&self.root).chain(self.outside.iter().map(|part| &part.path)).cloned().collect()
    }
}

/// The options of a `config.ini`.
pub fn read(path: &Path, home: &Path) -> Result<Ini> {
    let shown = path.display().to_string();
    let wrong = |reason: String| Error::Tracker { path: shown.clone(), reason };
    let metadata = match std::fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(wrong("it does not exist, so this is no tracker home".into()));
        }
        Err(error) => return Err(Error::io("cannot read", shown, error)),
    };
    if metadata.len() > CONFIG_BYTES_MAX || !metadata.is_file() {
        return Err(wrong("it is not a configuration file of Roundup".into()));
    }
    let bytes = std::fs::read(path).map_err(|error| Error::io("cannot read", &shown, error))?;
    Ini::parse(&bytes, home.as_os_str().as_bytes()).map_err(|mistake| wrong(mistake.to_string()))
}

/// The paths of an option of `[main]`, absolute by their text; the default if it is not there.
pub fn paths(ini: &Ini, home: &Path, option: &str) -> std::result::Result<Vec<PathBuf>, Mistake> {
    let value = match ini.value("main", option)? {
        Some(value) => value,
        None if option == "database" => b"db".to_vec(),
        None if option == "templates" => b"html".to_vec(),
        None => Vec::new(),
    };
    let parts: Vec<&[u8]> = match option {
        "static_files" => value.split(u8::is_ascii_whitespace).filter(|part| !part.is_empty()).collect(),
        _ => vec![&value],
    };
    Ok(parts.into_iter().map(|part| lexical(&home.join(OsStr::from_bytes(part)))).collect())
}

/// Without `.` and doubled slashes; `..` stays, since what it leads to is for the file system to say.
fn lexical(path: &Path) -> PathBuf {
    path.components().filter(|part| *part != Component::CurDir).collect()
}

fn wrong(home: &Path, mistake: &Mistake) -> Error {
    Error::Tracker { path: home.join("config.ini").display().to_string(), reason: mistake.to_string() }
}

/// What an option names, if it is a directory that lies outside.
fn outside_part(root: &Path, option: PathOption, named: &Path) -> Option<Outside> {
    let path = named.canonicalize().ok().filter(|path| path.is_dir() && path.parent().is_some())?;
    if path.starts_with(root) {
        return None;
    }
    let above = named.parent().and_then(|above| above.canonicalize().ok());
    let link = match (above, named.file_name()) {
        (Some(above), Some(name)) if above.starts_with(root) => Some(above.join(name)),
        _ => None,
    };
    Some(Outside { origin: link.map_or(Origin::Option(option), Origin::Link), path })
}

fn log(ini: &Ini, home: &Path) -> std::result::Result<Option<PathBuf>, Mistake> {
    let name = ini.value("logging", "filename")?.filter(|name| !name.is_empty());
    // Its directory must be there; the file need not.
    Ok(name.and_then(|name| {
        let path = home.join(OsStr::from_bytes(&name));
        Some(path.parent()?.canonicalize().ok()?.join(path.file_name()?))
    }))
}

fn backend(ini: &Ini, home: &Path, database: &Path) -> Result<Backend> {
    let option = |name: &str| -> Result<Option<Vec<u8>>> {
        let value = ini.value("rdbms", name).map_err(|mistake| wrong(home, &mistake))?;
        Ok(value.filter(|value| !value.is_empty()))
    };
    let word = match option("backend")? {
        Some(word) => word,
        None => backend_of_old(home, database).ok_or_else(|| {
            let reason = match ini.has_section("rdbms") {
                true => "its section [rdbms] names no backend",
                false => "it has no section [rdbms], which names the database",
            };
            Error::Tracker { path: home.join("config.ini").display().to_string(), reason: reason.into() }
        })?,
    };
    let word = String::from_utf8_lossy(&word).trim().to_ascii_lowercase();
    match word.as_str() {
        "sqlite" => {
            let file = database.join("db");
            let file = file
                .canonicalize()
                .map_err(|error| Error::io("cannot open database", file.display().to_string(), error))?;
            let seconds = option("sqlite_timeout")?.and_then(|text| String::from_utf8(text).ok()?.trim().parse().ok());
            let patience = Duration::from_secs(seconds.unwrap_or(SQLITE_TIMEOUT_SECONDS));
            Ok(Backend::Sqlite { file, patience })
        }
        "postgresql" => Ok(Backend::Postgres(postgres(ini, home)?)),
        _ => Err(Error::Backend { tracker: home.display().to_string(), backend: word }),
    }
}

/// Before 1.5 or so, a file beside the database named the backend.
fn backend_of_old(home: &Path, database: &Path) -> Option<Vec<u8>> {
    let named = |path: PathBuf| {
        let small = std::fs::metadata(&path).is_ok_and(|metadata| metadata.len() < 100);
        let text = small.then(|| std::fs::read(&path).ok()).flatten()?;
        text.split(|byte| *byte == b'\n').next().map(|line| line.trim_ascii().to_vec()).filter(|line| !line.is_empty())
    };
    named(database.join("backend_name")).or_else(|| named(home.join("db/backend_name")))
}

/// What is there but empty is left to libpq; for what is not there Roundup has its own defaults.
pub fn postgres(ini: &Ini, home: &Path) -> Result<Postgres> {
    let text = |name: &str, default: &str| -> Result<Option<String>> {
        let value = ini.value("rdbms", name).map_err(|mistake| wrong(home, &mistake))?;
        let value = value.unwrap_or_else(|| default.into());
        let text = String::from_utf8(value).map_err(|_| Error::Tracker {
            path: home.join("config.ini").display().to_string(),
            reason: format!("[rdbms] {name} is not UTF-8"),
        })?;
        Ok(Some(text).filter(|text| !text.is_empty()))
    };
    let name = text("name", "roundup")?.unwrap_or_default();
    let (database, schema) = match name.split_once('.') {
        Some((database, schema)) => (database.to_owned(), Some(schema.to_owned())),
        None => (name, None),
    };
    Ok(Postgres {
        database,
        schema,
        host: text("host", "localhost")?,
        port: text("port", "")?,
        user: text("user", "roundup")?,
        password: text("password", "roundup")?.map(|password| secret(home, password)).transpose()?,
        service: text("service", "")?,
    })
}

/// `file://PATH` means the first line of that file.
fn secret(home: &Path, text: String) -> Result<String> {
    let Some(path) = text.strip_prefix("file://") else { return Ok(text) };
    let path = home.join(path.trim());
    let content = std::fs::read_to_string(&path).map_err(|error| {
        Error::io("cannot read the password of the database from", path.display().to_string(), error)
    })?;
    Ok(content.lines().next().unwrap_or_default().trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    const CONFIG: &str = "[main]\ndatabase = db\n[rdbms]\nbackend = sqlite\n";

    /// A home in a directory of its own.
    fn home(config: &str) -> (tempfile::TempDir, PathBuf) {
        let temp = tempfile::tempdir().unwrap();
        let home = temp.path().canonicalize().unwrap().join("t");
        std::fs::create_dir_all(home.join("db/files")).unwrap();
        std::fs::write(home.join("db/db"), b"").unwrap();
        std::fs::write(home.join("config.ini"), config).unwrap();
        (temp, home)
    }

    fn refusal(config: &str) -> String {
        let (_temp, home) = home(config);
        Tracker::open(&home).unwrap_err().to_string()
    }

    #[test]
    fn a_tracker_is_what_its_configuration_says() {
        let (_temp, home) = home(&format!("{CONFIG}sqlite_timeout = 7\n[logging]\nfilename = log/../t.log\n"));
        std::fs::create_dir(home.join("log")).unwrap();
        let tracker = Tracker::open(&home).unwrap();
        let backend = Backend::Sqlite { file: home.join("db/db"), patience: Duration::from_secs(7) };
        assert_eq!((&tracker.database, &tracker.backend), (&home.join("db"), &backend));
        assert_eq!(tracker.log, Some(home.join("t.log")));
        assert_eq!(tracker.paths(), std::slice::from_ref(&home));
        // What is not said has Roundup's defaults.
        std::fs::write(home.join("config.ini"), "[rdbms]\nbackend: SQLite\n").unwrap();
        assert!(
            matches!(Tracker::open(&home).unwrap().backend, Backend::Sqlite { patience, .. } if patience.as_secs() == 30)
        );
    }

    #[test]
    fn what_cannot_be_saved_is_refused_by_name() {
        assert!(refusal("[main]\ndatabase = db\n").contains("no section [rdbms]"));
        assert!(refusal("[rdbms]\nname = x\n").contains("names no backend"));
        assert!(refusal("[main]\n\noops\n").contains("config.ini: line 3: "));
        assert!(refusal("[main]\ndatabase = %(nothing)s\n[rdbms]\nbackend = sqlite\n").contains("[main] database"));
        assert!(refusal("[main]\ndatabase = gone\n[rdbms]\nbackend = sqlite\n").contains("t/gone"));
        for backend in ["mysql", "anydbm", "metakit"] {
            assert!(refusal(&format!("[rdbms]\nbackend = {backend}\n")).contains(&format!("`{backend}`")));
        }
        let (temp, home) = home(CONFIG);
        std::fs::remove_file(home.join("db/db")).unwrap();
        assert!(Tracker::open(&home).unwrap_err().to_string().contains("db/db"));
        std::fs::remove_file(home.join("config.ini")).unwrap();
        assert!(Tracker::open(&home).unwrap_err().to_string().contains("no tracker home"));
        assert!(Tracker::open(&temp.path().join("none")).unwrap_err().to_string().contains("none"));
    }

    #[test]
    fn old_trackers_name_their_backend_in_a_file() {
        let (_temp, home) = home("[main]\ndatabase = db\n[rdbms]\nname = x\n");
        std::fs::write(home.join("db/backend_name"), "sqlite\n").unwrap();
        assert_eq!(Tracker::open(&home).unwrap().backend.word(), "sqlite");
        std::fs::write(home.join("db/backend_name"), "anydbm\n").unwrap();
        assert!(Tracker::open(&home).unwrap_err().to_string().contains("`anydbm`"));
    }

    #[test]
    fn parts_outside_are_found() {
        let (temp, home) = home(
            "[main]\ndatabase = ../far\ntemplates = looks\nstatic_files = %(TRACKER_HOME)s/s /nowhere ../static -\n[rdbms]\nbackend = sqlite\n",
        );
        let base = temp.path().canonicalize().unwrap();
        std::fs::rename(home.join("db"), base.join("far")).unwrap();
        for directory in ["t/s", "static", "look", "files"] {
            std::fs::create_dir(base.join(directory)).unwrap();
        }
        symlink("../look", home.join("looks")).unwrap();
        std::fs::remove_dir(base.join("far/files")).unwrap();
        symlink(base.join("files"), base.join("far/files")).unwrap();
        let tracker = Tracker::open(&home).unwrap();
        assert_eq!(tracker.database, base.join("far"));
        let part = |origin, path: &str| Outside { origin, path: base.join(path) };
        let expected = [
            part(Origin::Option(PathOption::Database), "far"),
            part(Origin::Link(home.join("looks")), "look"),
            part(Origin::Option(PathOption::StaticFiles(2)), "static"),
            part(Origin::Link(base.join("far/files")), "files"),
        ];
        assert_eq!(tracker.outside, expected);
        assert_eq!(tracker.paths().len(), 5);
    }

    #[test]
    fn a_home_may_be_reached_through_a_symlink() {
        let (temp, home) = home(CONFIG);
        let named = temp.path().join("link");
        symlink(&home, &named).unwrap();
        let tracker = Tracker::open(&named).unwrap();
        assert_eq!((&tracker.home, &tracker.root), (&named, &home));
        assert!(tracker.outside.is_empty(), "{:?}", tracker.outside);
    }

    #[test]
    fn postgresql_is_described_as_roundup_describes_it() {
        let (_temp, home) = home("");
        std::fs::write(home.join("secret"), "pa ss \nmore\n").unwrap();
        let of = |config: &str| {
            std::fs::write(home.join("config.ini"), format!("[rdbms]\nbackend = postgresql\n{config}")).unwrap();
            match Tracker::open(&home).unwrap().backend {
                Backend::Postgres(postgres) => postgres,
                other => panic!("{other:?}"),
            }
        };
        let bare = of("");
        let text = |text: &str| Some(text.to_owned());
        assert_eq!((bare.database.as_str(), bare.host, bare.port), ("roundup", text("localhost"), None));
        assert_eq!((bare.user, bare.password.clone()), (text("roundup"), text("roundup")));
        let other = of("name = shared.support\nhost =\nport = 5433\nuser =\npassword = file://secret\n");
        assert_eq!((other.database.as_str(), other.schema.as_deref()), ("shared", Some("support")));
        assert_eq!((&other.host, &other.port, &other.user), (&None, &text("5433"), &None));
        assert_eq!(other.password, text("pa ss"));
        assert!(!format!("{other:?}").contains("pa ss"));
    }
}
