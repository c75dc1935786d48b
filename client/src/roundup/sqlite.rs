//! A tracker's SQLite database: a copy of one moment, made through SQLite's own backup while the tracker works.
//!
//! The database is opened for reading only and within one read transaction, so the copy is one committed state and is never
//! begun again however much is written meanwhile. In WAL mode nobody waits for it; in the older journal modes commits wait
//! until the copy is done, as they would for any long query.

use super::content::{FileClass, is_file_class};
use crate::error::{Error, Result};
use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, ErrorCode, OpenFlags};
use rustix::fs::FlockOperation;
use std::fs::File;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tempfile::NamedTempFile;

/// Pages of a step, after which signals are looked for.
const STEP_PAGES: i32 = 4096;
const POLL: Duration = Duration::from_millis(100);
const PREFIX: &str = "roundup-";
const SUFFIX: &str = ".copy";

/// A private copy that nobody else changes; its file goes with it.
pub struct Copy {
    pub file: NamedTempFile,
    /// What SQLite's check of it found wrong.
    pub damage: Option<String>,
    pub rows: Rows,
}

/// What a database says about what should be there beside it.
#[derive(Default, PartialEq, Eq, Debug)]
pub struct Rows {
    /// Of the database's schema; 1 in trackers that do not say.
    pub schema_version: Option<u64>,
    /// Of all classes.
    pub total: u64,
    pub classes: Vec<FileClass>,
}

/// Where and how long.
pub struct Copying<'a> {
    pub database: &'a Path,
    /// A private directory for the copy.
    pub directory: &'a Path,
    /// How long to wait for a lock.
    pub patience: Duration,
    pub interrupted: &'a AtomicBool,
}

impl Copying<'_> {
    pub fn copy(&self) -> Result<Copy> {
        let source = self.open()?;
        self.require_space(&source)?;
        remove_abandoned(self.directory);
        let file = self.private_file()?;
        self.transfer(&source, file.path())?;
        // Ends the transaction, and with it the lock.
        drop(source);
        let connection = Connection::open(file.path()).map_err(|error| self.failed(&error))?;
        let damage = check(&connection).map_err(|error| self.failed(&error))?;
        let rows = match damage {
            // Of a damaged database what can be counted may be wrong, but is better than nothing.
            Some(_) => rows(&connection).unwrap_or_default(),
            None => rows(&connection).map_err(|error| self.failed(&error))?,
        };
        Ok(Copy { file, damage, rows })
    }

    /// What the database itself says now.
    pub fn rows(&self) -> Result<Rows> {
        rows(&self.open()?).map_err(|error| self.failed(&error))
    }

    /// How many of these rows are there now.
    pub fn present(&self, class: &str, ids: &[u64]) -> Result<usize> {
        let connection = self.open()?;
        let failed = |error: rusqlite::Error| self.failed(&error);
        let mut query = connection.prepare(&format!("select 1 from \"_{class}\" where id = ?1")).map_err(failed)?;
        let mut present = 0;
        for id in ids {
            let id = i64::try_from(*id).unwrap_or(i64::MAX);
            present += usize::from(query.exists([id]).map_err(failed)?);
        }
        Ok(present)
    }

    /// Open, within a transaction that has begun.
    fn open(&self) -> Result<Connection> {
        let began = Instant::now();
        // A journal that a crash left can only be rolled back by who may write, as the tracker itself would at its next start.
        let mut flags = OpenFlags::SQLITE_OPEN_READ_ONLY;
        loop {
            let begun = begin(self.database, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX);
            match begun {
                Ok(connection) => return Ok(connection),
                Err(error) if is_locked(&error) && began.elapsed() < self.patience => self.check()?,
                Err(error) if is_locked(&error) => {
                    let seconds = self.patience.as_secs();
                    return Err(Error::DatabaseLocked { path: self.shown(), seconds });
                }
                Err(error) if flags == OpenFlags::SQLITE_OPEN_READ_ONLY && wants_writing(&error) => {
                    flags = OpenFlags::SQLITE_OPEN_READ_WRITE;
                }
                Err(error) => return Err(self.failed(&error)),
            }
        }
    }

    fn transfer(&self, source: &Connection, to: &Path) -> Result<()> {
        let failed = |error: rusqlite::Error| self.failed(&error);
        let mut target = Connection::open(to).map_err(failed)?;
        // It is thrown away whenever anything fails.
        target.pragma_update(None, "synchronous", "off").map_err(failed)?;
        target.pragma_update(None, "journal_mode", "off").map_err(failed)?;
        let backup = Backup::new(source, &mut target).map_err(failed)?;
        loop {
            match backup.step(STEP_PAGES).map_err(failed)? {
                StepResult::Done => return Ok(()),
                StepResult::More => self.check()?,
                _ => {
                    self.check()?;
                    std::thread::sleep(POLL);
                }
            }
        }
    }

    fn require_space(&self, source: &Connection) -> Result<()> {
        let pages: u64 = pragma(source, "page_count").map_err(|error| self.failed(&error))?;
        let page_bytes: u64 = pragma(source, "page_size").map_err(|error| self.failed(&error))?;
        let wanted = pages.saturating_mul(page_bytes);
        let directory = self.directory.display().to_string();
        let space = rustix::fs::statvfs(self.directory)
            .map_err(|errno| Error::io("cannot look at", &directory, errno.into()))?;
        if space.f_bavail.saturating_mul(space.f_frsize) < wanted {
            return Err(chunkstore::Error::Full { object: format!("a copy of {} in {directory}", self.shown()) }.into());
        }
        Ok(())
    }

    /// Locked as long as it is used, so that what a killed process left can be told apart.
    fn private_file(&self) -> Result<NamedTempFile> {
        let shown = || self.directory.display().to_string();
        let file = tempfile::Builder::new()
            .prefix(PREFIX)
            .suffix(SUFFIX)
            .permissions(std::fs::Permissions::from_mode(0o600))
            .tempfile_in(self.directory)
            .map_err(|error| Error::io("cannot create a file in", shown(), error))?;
        rustix::fs::flock(file.as_file(), FlockOperation::NonBlockingLockExclusive)
            .map_err(|errno| Error::io("cannot lock a file in", shown(), errno.into()))?;
        Ok(file)
    }

    fn check(&self) -> Result<()> {
        if self.interrupted.load(Ordering::Relaxed) { Err(chunkstore::Error::Interrupted.into()) } else { Ok(()) }
    }

    fn failed(&self, error: &rusqlite::Error) -> Error {
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => {
                chunkstore::Error::Full { object: format!("a copy of {}", self.shown()) }.into()
            }
            _ => Error::Database { path: self.shown(), reason: error.to_string() },
        }
    }

    fn shown(&self) -> String {
        self.database.display().to_string()
    }
}

fn begin(path: &Path, flags: OpenFlags) -> rusqlite::Result<Connection> {
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(POLL)?;
    connection.execute_batch("begin; select count(*) from sqlite_master;")?;
    Ok(connection)
}

fn is_locked(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
}

fn wants_writing(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::ReadOnly | ErrorCode::CannotOpen))
}

fn pragma(connection: &Connection, name: &str) -> rusqlite::Result<u64> {
    let value: i64 = connection.pragma_query_value(None, name, |row| row.get(0))?;
    Ok(u64::try_from(value).unwrap_or(0))
}

/// SQLite's own check of pages, cells and records; `None` if all is well.
pub fn check(connection: &Connection) -> rusqlite::Result<Option<String>> {
    let found = connection.pragma_query_value(None, "quick_check", |row| row.get::<_, String>(0));
    match found {
        Ok(text) if text == "ok" => Ok(None),
        Ok(text) => Ok(Some(text)),
        Err(error) if error.sqlite_error_code() == Some(ErrorCode::DatabaseCorrupt) => Ok(Some(error.to_string())),
        Err(error) => Err(error),
    }
}

/// Counts, and finds the classes whose items have their content in files.
fn rows(connection: &Connection) -> rusqlite::Result<Rows> {
    let mut rows = Rows { schema_version: schema_version(connection), ..Rows::default() };
    for table in class_tables(connection)? {
        let columns = columns(connection, &table)?;
        if !columns.iter().any(|column| column == "id") {
            continue;
        }
        let quoted = table.replace('"', "\"\"");
        let mut query = connection.prepare(&format!("select id from \"{quoted}\""))?;
        let ids = query.query_map([], |row| row.get::<_, i64>(0))?;
        let mut ids =
            ids.map(|id| id.map(|id| u64::try_from(id).unwrap_or(0))).collect::<rusqlite::Result<Vec<u64>>>()?;
        rows.total += ids.len() as u64;
        if !is_file_class(&columns) || holds_content(connection, &quoted)? {
            continue;
        }
        ids.sort_unstable();
        rows.classes.push(FileClass { name: table.trim_start_matches('_').to_owned(), ids });
    }
    Ok(rows)
}

/// `_issue`, `_msg`, …; tables of Roundup's own begin with two.
fn class_tables(connection: &Connection) -> rusqlite::Result<Vec<String>> {
    let mut query = connection.prepare("select name from sqlite_master where type = 'table' order by name")?;
    let names = query.query_map([], |row| row.get::<_, String>(0))?;
    let names = names.collect::<rusqlite::Result<Vec<String>>>()?;
    Ok(names.into_iter().filter(|name| name.starts_with('_') && !name.starts_with("__")).collect())
}

fn columns(connection: &Connection, table: &str) -> rusqlite::Result<Vec<String>> {
    let mut query = connection.prepare("select name from pragma_table_info(?1)")?;
    let names = query.query_map([table], |row| row.get::<_, String>(0))?;
    names.collect()
}

/// A class of another kind may have properties of the same names; its contents are in the database.
fn holds_content(connection: &Connection, quoted: &str) -> rusqlite::Result<bool> {
    let query = format!(
        "select exists (select 1 from (select _content from \"{quoted}\" limit 1000) where _content is not null)"
    );
    connection.query_row(&query, [], |row| row.get(0))
}

/// `{'version': 8, 'tables': …}`: a Python literal, of which only the number is wanted.
fn schema_version(connection: &Connection) -> Option<u64> {
    let text: String = connection.query_row("select schema from schema", [], |row| row.get(0)).ok()?;
    super::content::schema_version(&text)
}

/// Copies that killed processes left.
fn remove_abandoned(directory: &Path) {
    let Ok(entries) = directory.read_dir() else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with(PREFIX) && name.contains(SUFFIX) {
            // Whoever uses one has locked it; the journals beside one go with it.
            let path: PathBuf = entry.path();
            let stem = name.split(SUFFIX).next().unwrap_or_default();
            let main = directory.join(format!("{stem}{SUFFIX}"));
            let is_used = File::open(&main)
                .is_ok_and(|file| rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_err());
            if !is_used {
                let _ = std::fs::remove_file(path);
            }
        }
    }
}

/// Size and times of the files of a database: as long as they are the same, so is the database.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Footprint(pub Vec<u8>);

impl Footprint {
    /// `None` if it was written so lately that a change might not show.
    pub fn of(database: &Path) -> Option<Footprint> {
        let mut bytes = Vec::new();
        for suffix in ["", "-wal", "-journal"] {
            let mut path = database.as_os_str().to_owned();
            path.push(suffix);
            match std::fs::metadata(&path) {
                // An empty log holds nothing, whenever it was emptied.
                Ok(metadata) if metadata.len() == 0 && !suffix.is_empty() => bytes.push(0),
                Ok(metadata) => {
                    let age = metadata.modified().ok()?.elapsed().ok()?;
                    if age < Duration::from_secs(2) {
                        return None;
                    }
                    bytes.push(1);
                    bytes.extend(metadata.dev().to_le_bytes());
                    for number in [metadata.ino(), metadata.len()] {
                        bytes.extend(number.to_le_bytes());
                    }
                    for number in [metadata.mtime(), metadata.mtime_nsec(), metadata.ctime(), metadata.ctime_nsec()] {
                        bytes.extend(number.to_le_bytes());
                    }
                }
                Err(error) if error.kind() == std::io::ErrorKind::NotFound && !suffix.is_empty() => bytes.push(0),
                Err(_) => return None,
            }
        }
        Some(Footprint(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct House {
        temp: tempfile::TempDir,
        database: PathBuf,
        interrupted: AtomicBool,
    }

    impl House {
        /// With a database as Roundup makes it, as far as we look at it.
        fn new(journal: &str) -> House {
            let temp = tempfile::tempdir().unwrap();
            let database = temp.path().join("db");
            let connection = Connection::open(&database).unwrap();
            connection.pragma_update(None, "journal_mode", journal).unwrap();
            connection
                .execute_batch(
                    "create table schema (schema varchar); insert into schema values (\"{'version': 8}\");
                     create table __textids (id integer primary key); create table otks (id integer);
                     create table _issue (_title varchar, id integer primary key, __retired__ integer default 0);
                     create table _msg (_content varchar, _type varchar, id integer primary key, __retired__ integer default 0);
                     create table _page (_content varchar, _type varchar, id integer primary key);
                     insert into _issue (id) values (1), (2), (3);
                     insert into _msg (id, __retired__) values (5, 0), (3, 1), (12345, 0);
                     insert into _page (id, _content) values (1, 'here');",
                )
                .unwrap();
            std::fs::create_dir(temp.path().join("private")).unwrap();
            House { temp, database, interrupted: AtomicBool::new(false) }
        }

        fn private(&self) -> PathBuf {
            self.temp.path().join("private")
        }

        fn copying<'a>(&'a self, directory: &'a Path) -> Copying<'a> {
            let patience = Duration::from_millis(300);
            Copying { database: &self.database, directory, patience, interrupted: &self.interrupted }
        }

        fn left_behind(&self) -> usize {
            self.private().read_dir().unwrap().count()
        }
    }

    #[test]
    fn a_copy_is_one_moment_and_knows_its_rows() {
        for journal in ["wal", "delete"] {
            let house = House::new(journal);
            // Something that is only in the log.
            let writer = Connection::open(&house.database).unwrap();
            writer.execute_batch("insert into _msg (id) values (7); begin; insert into _msg (id) values (8);").unwrap();
            let private = house.private();
            let copy = house.copying(&private).copy().unwrap();
            writer.execute_batch("commit").unwrap();
            let classes = [FileClass { name: "msg".into(), ids: vec![3, 5, 7, 12_345] }];
            assert_eq!(copy.rows, Rows { schema_version: Some(8), total: 8, classes: classes.to_vec() });
            assert_eq!(copy.damage, None);
            let mode = copy.file.as_file().metadata().unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
            // As it was, log or not.
            let kind = |path: &Path| std::fs::read(path).unwrap()[18..20].to_vec();
            assert_eq!(kind(copy.file.path()), kind(&house.database));
            assert_eq!(house.copying(&private).present("msg", &[3, 8, 9]).unwrap(), 2);
            drop(copy);
            assert_eq!(house.left_behind(), 0);
        }
    }

    #[test]
    fn the_same_database_gives_the_same_copy() {
        let house = House::new("wal");
        let private = house.private();
        let bytes = || std::fs::read(house.copying(&private).copy().unwrap().file.path()).unwrap();
        assert_eq!(bytes(), bytes());
    }

    #[test]
    fn a_lock_is_waited_for_and_then_told() {
        let house = House::new("delete");
        let holder = Connection::open(&house.database).unwrap();
        holder.execute_batch("begin exclusive").unwrap();
        let private = house.private();
        let error = house.copying(&private).copy().err().unwrap();
        assert!(matches!(&error, Error::DatabaseLocked { path, .. } if path.ends_with("/db")), "{error}");
        assert_eq!(house.left_behind(), 0);
        house.interrupted.store(true, Ordering::Relaxed);
        let error = house.copying(&private).copy().err().unwrap();
        assert!(matches!(error, Error::Store(chunkstore::Error::Interrupted)));
        house.interrupted.store(false, Ordering::Relaxed);
        let waiting = Copying { patience: Duration::from_secs(60), ..house.copying(&private) };
        std::thread::scope(|scope| {
            let copy = scope.spawn(|| waiting.copy().map(|copy| copy.rows.total));
            holder.execute_batch("commit").unwrap();
            assert_eq!(copy.join().unwrap().unwrap(), 7);
        });
    }

    #[test]
    fn damage_is_told_and_what_is_no_database_refused() {
        let house = House::new("delete");
        let private = house.private();
        let mut bytes = std::fs::read(&house.database).unwrap();
        let len = bytes.len();
        bytes[len - 4096..].fill(0x5a);
        std::fs::write(&house.database, &bytes).unwrap();
        let copy = house.copying(&private).copy().unwrap();
        assert!(copy.damage.is_some());
        std::fs::write(&house.database, b"this is no database, it is a letter to a friend").unwrap();
        let error = house.copying(&private).copy().err().unwrap();
        assert!(matches!(&error, Error::Database { path, .. } if path.ends_with("/db")), "{error}");
    }

    #[test]
    fn a_journal_that_a_crash_left_is_rolled_back() {
        let house = House::new("delete");
        let writer = Connection::open(&house.database).unwrap();
        writer.execute_batch("pragma cache_size = 1; pragma cache_spill = 1; begin").unwrap();
        for id in 100..2000 {
            writer.execute("insert into _msg (id, _type) values (?1, 'text/plain; charset=utf-8')", [id]).unwrap();
        }
        // The state of a crash: what was written so far, and the journal.
        let crashed = house.temp.path().join("crashed");
        std::fs::copy(&house.database, &crashed).unwrap();
        std::fs::copy(house.temp.path().join("db-journal"), house.temp.path().join("crashed-journal")).unwrap();
        let private = house.private();
        let copy = Copying { database: &crashed, ..house.copying(&private) }.copy().unwrap();
        assert_eq!((copy.rows.total, copy.damage), (7, None));
    }

    #[test]
    fn what_a_killed_process_left_goes_and_what_is_used_stays() {
        let house = House::new("delete");
        let private = house.private();
        std::fs::write(private.join("roundup-abc.copy"), b"x").unwrap();
        std::fs::write(private.join("roundup-abc.copy-journal"), b"x").unwrap();
        std::fs::write(private.join("other"), b"x").unwrap();
        let first = house.copying(&private).copy().unwrap();
        let second = house.copying(&private).copy().unwrap();
        assert!(first.file.path().exists() && second.file.path().exists());
        assert_eq!(house.left_behind(), 3);
    }

    #[test]
    fn a_footprint_changes_with_the_database() {
        let house = House::new("delete");
        assert_eq!(Footprint::of(&house.database), None, "written a moment ago");
        let past = std::time::SystemTime::now() - Duration::from_secs(100);
        let set = |time| File::options().write(true).open(&house.database).unwrap().set_modified(time).unwrap();
        set(past);
        let first = Footprint::of(&house.database).unwrap();
        set(past);
        set(past - Duration::from_secs(1));
        let second = Footprint::of(&house.database).unwrap();
        assert_ne!(first, second);
        let log = house.temp.path().join("db-wal");
        std::fs::write(&log, b"").unwrap();
        assert_eq!(Footprint::of(&house.database).unwrap(), second);
        std::fs::write(&log, b"x").unwrap();
        File::options().write(true).open(&log).unwrap().set_modified(past).unwrap();
        assert_ne!(Footprint::of(&house.database).unwrap(), second);
    }
}
