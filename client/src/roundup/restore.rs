//! Brings a tracker back: beside the target first, complete and checked, then by one exchange of names.
//!
//! What comes back is one directory that depends on nothing else on this machine: parts that lay outside the home lie in it
//! now, and where `config.ini` named a place that is not in it, that one option is changed (the old line stays as a comment).
//! Otherwise a tracker that was restored to try it would work on the data of the living one.

use super::database::{DUMP, connection};
use super::facts::Described;
use super::ini::Ini;
use super::sqlite;
use super::tracker::{self, Origin, PathOption, Postgres, paths, read};
use crate::clock;
use crate::error::{Error, Result};
use crate::monitor::Monitor;
use crate::postgres::Connection;
use crate::postgres::restore as postgres;
use crate::restore::{self as engine, Outcome, Overwrite, Selection};
use crate::session_files::seed;
use chunkstore::id::Reference;
use chunkstore::reader::Reader;
use chunkstore::tree::{Entry, Node};
use rustix::fs::{CWD, RenameFlags};
use rustix::io::Errno;
use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::AtomicBool;

/// What is brought back, and where to.
pub struct Restore<'a> {
    pub reader: &'a Reader,
    /// The snapshot's tree.
    pub root: Reference,
    /// What the snapshot says of itself.
    pub facts: &'a [(String, Vec<u8>)],
    pub target: &'a Path,
    /// The database to make of a PostgreSQL tracker's; `None` is the one of its configuration.
    pub dbname: Option<&'a str>,
    /// How to reach the server where that is not as `config.ini` says.
    pub connection: &'a Connection,
    pub monitor: &'a dyn Monitor,
    pub interrupted: &'a AtomicBool,
}

#[derive(Debug)]
pub struct Restored {
    pub outcome: Outcome,
    /// Where it is: the target, or beside it if it is incomplete and something is in the target already.
    pub place: PathBuf,
    /// Under which name what was in the target is kept.
    pub aside: Option<PathBuf>,
    /// The PostgreSQL database that was made.
    pub database: Option<String>,
    /// What is to be known about it.
    pub notes: Vec<String>,
    /// Options of `config.ini` that were changed: `[section] option`.
    pub changed: Vec<String>,
    /// A full-text index of its own was not saved, and `roundup-admin reindex` makes it again.
    pub needs_reindex: bool,
}

/// Whether a target holds something that would be replaced.
pub fn is_occupied(target: &Path) -> Result<bool> {
    match target.read_dir() {
        Ok(mut entries) => Ok(entries.next().is_some()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(Error::io("cannot restore to", target.display().to_string(), error)),
    }
}

impl Restore<'_> {
    pub fn run(&self) -> Result<Restored> {
        let described = self.described()?;
        let target = real(self.target)?;
        let staging = staging(&target)?;
        let restored = self.into(&described, &staging, &target);
        if restored.is_err() {
            // The target is as it was; the error at hand says more than one of this.
            let _ = std::fs::remove_dir_all(&staging);
        }
        restored
    }

    fn described(&self) -> Result<Described> {
        let described = Described::from(self.facts)
            .ok_or_else(|| Error::refused("this snapshot", "it is not one of a Roundup tracker"))?;
        match described.backend.as_str() {
            "sqlite" if self.dbname.is_some() => {
                Err(Error::argument("--dbname", "this tracker is on SQLite, which has its database in the home"))
            }
            "sqlite" | "postgresql" => Ok(described),
            other => Err(Error::Backend { tracker: described.home.display().to_string(), backend: other.into() }),
        }
    }

    fn into(&self, described: &Described, staging: &Path, target: &Path) -> Result<Restored> {
        let mut placed = Placed { staging, parts: vec![(described.root.clone(), PathBuf::new())] };
        let mut outcome = self.directory(&described.root, staging)?;
        for part in &described.outside {
            let place = placed.place_for(&part.origin)?;
            add(&mut outcome, &self.part(&part.path, &staging.join(&place), staging)?);
            placed.parts.push((part.path.clone(), place));
        }
        let database = placed.place(&described.database).ok_or_else(|| missing(&described.database))?;
        placed.repoint(&database);
        require_inside(staging, &staging.join(&database))?;
        require_inside(staging, &staging.join("config.ini"))?;
        let mut changed = configure(described, &placed, target)?;
        let loaded = match described.backend.as_str() {
            "postgresql" => {
                let dump = staging.join(&database).join(DUMP);
                let loaded = self.load(&self.resolve(&described.database.join(DUMP))?, staging)?;
                // It is in the server now, and was never a part of the tracker.
                std::fs::remove_file(&dump).map_err(|error| Error::io("remove", dump.display().to_string(), error))?;
                changed.extend(loaded.changed.iter().cloned());
                Some(loaded)
            }
            _ => {
                check(&staging.join(&database).join("db"))?;
                None
            }
        };
        let settled = settle(staging, target, outcome.problems == 0);
        let (place, aside) = settled.map_err(|error| match &loaded {
            Some(Loaded { database, .. }) => {
                Error::source("the restore", format!("{error}; database {database} was loaded and stays"))
            }
            None => error,
        })?;
        let needs_reindex = self.facts.iter().any(|(key, _)| key == super::facts::INDEX_LEFT_OUT);
        let (database, notes) = loaded.map_or((None, Vec::new()), |loaded| (Some(loaded.database), loaded.notes));
        Ok(Restored { outcome, place, aside, database, notes, changed, needs_reindex })
    }

    /// Loads the dump into a database of its own and makes the configuration name it.
    fn load(&self, dump: &Entry, staging: &Path) -> Result<Loaded> {
        let path = staging.join("config.ini");
        let mut ini = read(&path, staging)?;
        let config = tracker::postgres(&ini, staging)?;
        let connection = reached(&config, self.connection)?;
        let name = self.dbname.unwrap_or(&config.database);
        let options = postgres::Options {
            connection: connection.clone(),
            dbname: Some(name.as_bytes().to_vec()),
            replace: false,
            owners: true,
            force_timezone: true,
        };
        let now = clock::zoned(clock::now(), &clock::zone());
        let plan = postgres::Plan::new(crate::postgres::Saved::read(self.facts)?, &options, seed()?, &now)?;
        let noted = plan.findings.iter().filter(|finding| finding.standing == postgres::Standing::Note);
        let mut notes: Vec<String> = noted.map(|finding| format!("{}: {}", finding.what, finding.text)).collect();
        let selection = Selection::Entry(Box::new(dump.clone()));
        let mut content = |out: &mut dyn Write| {
            crate::dump::dump(self.reader, &selection, out, self.monitor, self.interrupted)
                .map(drop)
                .map_err(Error::from)
        };
        self.monitor.current(name.as_bytes());
        let restored = plan.carry_out(&mut content, self.interrupted, &mut |_, _| ())?;
        notes.extend(restored.problems);
        let mut changed = Vec::new();
        let mut set = |key: &str, is: Option<&str>, wanted: Option<&str>| {
            if is != wanted {
                ini.replace("rdbms", key, wanted.unwrap_or_default().as_bytes());
                changed.push(format!("[rdbms] {key}"));
            }
        };
        let full =
            |database: &str| config.schema.as_ref().map_or(database.into(), |schema| format!("{database}.{schema}"));
        set("name", Some(&full(&config.database)), Some(&full(name)));
        set("host", config.host.as_deref(), connection.host.as_deref());
        set("port", config.port.as_deref(), connection.port.map(|port| port.to_string()).as_deref());
        if !changed.is_empty() {
            write(&path, &ini)?;
        }
        Ok(Loaded { database: name.to_owned(), notes, changed })
    }

    /// A part that lay outside the home, in place of the symlink that led to it, if one did.
    fn part(&self, path: &Path, to: &Path, staging: &Path) -> Result<Outcome> {
        let failed = |error| Error::io("cannot restore", to.display().to_string(), error);
        require_inside(staging, to.parent().unwrap_or(staging))?;
        if to.is_symlink() {
            std::fs::remove_file(to).map_err(failed)?;
        }
        std::fs::create_dir(to).map_err(failed)?;
        self.directory(path, to)
    }

    /// The content of a saved directory.
    fn directory(&self, path: &Path, to: &Path) -> Result<Outcome> {
        let entry = self.resolve(path)?;
        if !matches!(entry.node, Node::Directory(_)) {
            return Err(missing(path));
        }
        let options = engine::Options {
            target: to.to_owned(),
            delete: false,
            overwrite: Overwrite::Always,
            dry_run: false,
            verify: false,
            special: true,
        };
        Ok(engine::files(self.reader, &Selection::Entry(Box::new(entry)), &options, self.monitor, self.interrupted)?)
    }

    fn resolve(&self, path: &Path) -> Result<Entry> {
        let inner = path.as_os_str().as_bytes().strip_prefix(b"/").unwrap_or_default();
        self.reader.resolve(self.root, inner)?.ok_or_else(|| missing(path))
    }
}

/// A dump that became a database.
struct Loaded {
    database: String,
    notes: Vec<String>,
    changed: Vec<String>,
}

/// How the server is reached: who restores knows better than a configuration that may be of another machine.
fn reached(config: &Postgres, given: &Connection) -> Result<Connection> {
    let said = connection(config, &Connection::default())?;
    Ok(Connection {
        host: given.host.clone().or(said.host),
        port: given.port.or(said.port),
        username: given.username.clone().or(said.username),
        // A password is that of its user.
        password: if given.username.is_some() {
            given.password.clone()
        } else {
            given.password.clone().or(said.password)
        },
        service: given.service.clone().or(said.service),
        ..given.clone()
    })
}

/// Where the parts of the tracker, by the paths they had, lie in what was restored.
struct Placed<'a> {
    staging: &'a Path,
    parts: Vec<(PathBuf, PathBuf)>,
}

impl Placed<'_> {
    /// The place of an old path, from the new home on.
    fn place(&self, old: &Path) -> Option<PathBuf> {
        let fitting =
            self.parts.iter().filter_map(|(part, place)| Some((part, place.join(old.strip_prefix(part).ok()?))));
        let (_, place) = fitting.max_by_key(|(part, _)| part.as_os_str().len())?;
        let is_plain = place.components().all(|part| matches!(part, Component::Normal(_)));
        is_plain.then(|| place.components().collect())
    }

    fn place_for(&self, origin: &Origin) -> Result<PathBuf> {
        match origin {
            Origin::Link(at) => self.place(at).ok_or_else(|| missing(at)),
            Origin::Option(option) => {
                let name = option.default_name();
                let names = std::iter::once(name.to_owned()).chain((1..).map(|number| format!("{name}.{number}")));
                let mut free =
                    names.map(PathBuf::from).filter(|name| self.staging.join(name).symlink_metadata().is_err());
                free.next().ok_or_else(|| missing(Path::new(name)))
            }
        }
    }

    /// A symlink among the directories of contents that names an old place by its absolute path gets the new one.
    fn repoint(&self, database: &Path) {
        let files = self.staging.join(database).join("files");
        let classes = files.read_dir().into_iter().flatten().flatten().map(|entry| entry.path());
        for path in [self.staging.join(database), files.clone()].into_iter().chain(classes) {
            let Some(new) = std::fs::read_link(&path).ok().and_then(|old| self.place(&old)) else { continue };
            let Some(depth) = path.parent().and_then(|above| above.strip_prefix(self.staging).ok()) else { continue };
            let up: PathBuf = depth.components().map(|_| OsStr::new("..")).collect();
            // If it stays as it was the check that follows, or the tracker, tells of it.
            if std::fs::remove_file(&path).is_ok() {
                let _ = std::os::unix::fs::symlink(up.join(new), &path);
            }
        }
    }
}

/// Makes every path of `config.ini` lead to what was restored.
fn configure(described: &Described, placed: &Placed<'_>, target: &Path) -> Result<Vec<String>> {
    let path = placed.staging.join("config.ini");
    let old = read(&path, &described.home)?;
    let mut new = read(&path, target)?;
    let mut changed = Vec::new();
    for key in ["database", "templates", "static_files"] {
        let wrong = |mistake: super::ini::Mistake| Error::Tracker {
            path: path.display().to_string(),
            reason: mistake.to_string(),
        };
        let old_paths = paths(&old, &described.home, key).map_err(wrong)?;
        let new_paths = paths(&new, target, key).map_err(wrong)?;
        let wanted: Vec<Option<PathBuf>> =
            old_paths.iter().enumerate().map(|(at, old)| wanted(described, placed, key, at, old)).collect();
        let is_right = |(wanted, new): (&Option<PathBuf>, &PathBuf)| {
            wanted.as_ref().is_none_or(|wanted| target.join(wanted) == *new)
        };
        if wanted.iter().zip(&new_paths).all(is_right) {
            continue;
        }
        let texts: Vec<OsString> =
            wanted.into_iter().zip(old_paths).map(|(wanted, old)| wanted.unwrap_or(old).into_os_string()).collect();
        new.replace("main", key, texts.join(OsStr::new(" ")).as_bytes());
        changed.push(format!("[main] {key}"));
    }
    if !changed.is_empty() {
        write(&path, &new)?;
    }
    Ok(changed)
}

/// Where the path of an option lies now, from the new home on; `None` if it was not saved.
fn wanted(described: &Described, placed: &Placed<'_>, key: &str, at: usize, old: &Path) -> Option<PathBuf> {
    let is_this = |option: PathOption| match option {
        PathOption::StaticFiles(number) => key == "static_files" && number == at,
        other => key == other.key(),
    };
    let outside = described.outside.iter().find(|part| matches!(part.origin, Origin::Option(o) if is_this(o)));
    if let Some(part) = outside {
        return placed.place(&part.path);
    }
    // A symlink in the home keeps its name; what it leads to is in its place.
    match old.strip_prefix(&described.home) {
        Ok(inner) if !inner.components().any(|part| part == Component::ParentDir) => Some(inner.to_owned()),
        _ if key == "database" => placed.place(&described.database),
        _ => placed.place(old),
    }
}

fn write(path: &Path, ini: &Ini) -> Result<()> {
    // Into the file as it is, so that owner and permissions stay.
    std::fs::write(path, ini.bytes()).map_err(|error| Error::io("cannot write", path.display().to_string(), error))
}

fn check(database: &Path) -> Result<()> {
    let failed = |reason: String| Error::Database { path: database.display().to_string(), reason };
    let connection = rusqlite::Connection::open_with_flags(database, rusqlite::OpenFlags::SQLITE_OPEN_READ_WRITE);
    let damage = connection.and_then(|connection| sqlite::check(&connection));
    match damage.map_err(|error| failed(error.to_string()))? {
        None => Ok(()),
        Some(damage) => Err(failed(format!("SQLite's own check finds damage: {damage}"))),
    }
}

/// The target itself, if it is reached through symlinks: names are exchanged in the directory where it is.
fn real(target: &Path) -> Result<PathBuf> {
    let shown = || target.display().to_string();
    let absolute = std::path::absolute(target).map_err(|error| Error::io("cannot resolve", shown(), error))?;
    if let Ok(real) = absolute.canonicalize() {
        return Ok(real);
    }
    let (Some(above), Some(name)) = (absolute.parent(), absolute.file_name()) else {
        return Err(Error::argument(shown(), "a tracker is not restored to this place"));
    };
    std::fs::create_dir_all(above).map_err(|error| Error::io("cannot create", above.display().to_string(), error))?;
    let above = above.canonicalize().map_err(|error| Error::io("cannot resolve", shown(), error))?;
    Ok(above.join(name))
}

/// A new directory beside the target, on the same file system.
fn staging(target: &Path) -> Result<PathBuf> {
    let (Some(above), Some(name)) = (target.parent(), target.file_name()) else {
        return Err(Error::argument(target.display().to_string(), "a tracker is not restored to this place"));
    };
    let mut prefix = OsString::from(".");
    prefix.push(name);
    prefix.push(".restoring-");
    let made = tempfile::Builder::new().prefix(&prefix).tempdir_in(above);
    made.map(tempfile::TempDir::keep)
        .map_err(|error| Error::io("cannot create a directory in", above.display().to_string(), error))
}

/// Gives what was restored its name. Something incomplete never takes the place of what is there.
fn settle(staging: &Path, target: &Path, is_whole: bool) -> Result<(PathBuf, Option<PathBuf>)> {
    let failed = |errno: Errno| Error::io("cannot rename to", target.display().to_string(), errno.into());
    let directory = rustix::fs::open(
        staging,
        rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    );
    directory.and_then(rustix::fs::syncfs).map_err(failed)?;
    match rustix::fs::renameat_with(CWD, staging, CWD, target, RenameFlags::NOREPLACE) {
        Ok(()) => return Ok((target.to_owned(), None)),
        Err(Errno::EXIST | Errno::NOTEMPTY) => {}
        Err(errno) => return Err(failed(errno)),
    }
    if !is_occupied(target)? {
        rustix::fs::renameat(CWD, staging, CWD, target).map_err(failed)?;
        return Ok((target.to_owned(), None));
    }
    if !is_whole {
        let beside = beside(target, "restored");
        rustix::fs::renameat_with(CWD, staging, CWD, &beside, RenameFlags::NOREPLACE).map_err(failed)?;
        return Ok((beside, None));
    }
    let aside = beside(target, "before");
    // At every moment one of the two has the name.
    match rustix::fs::renameat_with(CWD, staging, CWD, target, RenameFlags::EXCHANGE) {
        Ok(()) => rustix::fs::renameat_with(CWD, staging, CWD, &aside, RenameFlags::NOREPLACE).map_err(failed)?,
        // Not every file system can exchange.
        Err(Errno::INVAL | Errno::NOSYS) => {
            rustix::fs::renameat_with(CWD, target, CWD, &aside, RenameFlags::NOREPLACE).map_err(failed)?;
            rustix::fs::renameat_with(CWD, staging, CWD, target, RenameFlags::NOREPLACE).map_err(failed)?;
        }
        Err(errno) => return Err(failed(errno)),
    }
    Ok((target.to_owned(), Some(aside)))
}

/// `TARGET.WORD-20261121-030000`
fn beside(target: &Path, word: &str) -> PathBuf {
    let now = clock::rfc3339(clock::now());
    let digits: String = now.chars().take(19).filter(|c| c.is_ascii_digit() || *c == 'T').collect();
    let stamp = digits.replace('T', "-");
    let named = |number: usize| {
        let more = if number == 0 { String::new() } else { format!(".{number}") };
        let mut name = target.as_os_str().to_owned();
        name.push(format!(".{word}-{stamp}{more}"));
        PathBuf::from(name)
    };
    (0..).map(named).find(|path| path.symlink_metadata().is_err()).unwrap_or_else(|| named(0))
}

fn add(sum: &mut Outcome, more: &Outcome) {
    sum.files += more.files;
    sum.directories += more.directories;
    sum.others += more.others;
    sum.unchanged += more.unchanged;
    sum.written_bytes += more.written_bytes;
    sum.kept_bytes += more.kept_bytes;
    sum.problems += more.problems;
    sum.elapsed += more.elapsed;
}

/// Nothing is written or opened through a symlink that leads out of what is being restored: there is the living tracker.
fn require_inside(staging: &Path, path: &Path) -> Result<()> {
    let real = path.canonicalize().map_err(|error| Error::io("cannot restore", path.display().to_string(), error))?;
    if real.starts_with(staging) {
        return Ok(());
    }
    Err(Error::refused(path.display().to_string(), format!("it leads out of the tracker, to {}", real.display())))
}

fn missing(path: &Path) -> Error {
    Error::refused("this snapshot", format!("it does not hold {}, a part of the tracker", path.display()))
}
