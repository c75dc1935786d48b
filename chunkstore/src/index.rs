//! Where each blob lies: SQLite, derived from the packs' trailers, rebuilt when in doubt.
//!
//! A row is never believed for bytes (every record is checked against its id on reading) and carries a checksum where
//! deletion depends on it. One connection, one lock: writers are serialised by the repository's writer lock anyway.

pub mod numbers;

pub mod lease;

mod levels;

pub mod adopt;

pub mod damage;

mod lookup;

pub mod sweep;

use crate::capsule::Capsule;
use crate::error::{Error, Result};
use crate::id::{BlobId, CapsuleId, PackId, RepositoryId, Tag};
use crate::record::Class;
use lease::{Condemned, Lease};
use lookup::{find, reading_connection};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, MAIN_DB, OpenFlags, OptionalExtension, params};
use std::cell::Cell;
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Raised whenever a table changes; an index of another version is rebuilt.
const SCHEMA_VERSION: i64 = 3;
/// KiB of the page cache: a 32nd of the file within these bounds. It should hold the upper pages of all trees and the smaller levels.
const CACHE_KIB: std::ops::RangeInclusive<i64> = 24 << 10..=128 << 10;

/// A blob's `state`.
const INTACT: i64 = 0;
/// Its bytes are lost here.
const MISSING: i64 = 1;
/// Something below it is.
const TAINTED: i64 = 2;

/// Where a record's bytes are.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Place {
    pub pack: PackId,
    pub offset: u32,
    pub length: u32,
}

/// A pack that the index knows.
#[derive(Clone, Debug)]
pub struct PackRow {
    pub no: i64,
    pub id: PackId,
    pub length: u64,
    /// Of all records in it, known or not.
    pub record_bytes: u64,
    pub class: Class,
    /// When it was stored or adopted, seconds since 1970.
    pub stored: i64,
}

pub struct Index {
    state: Mutex<State>,
    path: PathBuf,
}

struct State {
    /// For many look-ups at once; opened when they are asked for. They go before the writer, which tidies up as the last one.
    others: Vec<Connection>,
    connection: Connection,
    /// The number of the next blob. Numbers that became free are not used again by this process: leases and what is
    /// condemned go by them.
    next: Cell<i64>,
    /// It was found to be damaged.
    damaged: Cell<bool>,
    /// Tags that many were asked about together and that were not found, since rows were added last: who asks for contents puts
    /// those next, and each of them is asked for once more then.
    unknown: HashSet<Tag>,
    /// Numbers of ids that were found intact since rows were changed last: who asks for bases stores what links to them next. None for who
    /// only reads, since rows are changed beside it.
    intact: Option<HashMap<BlobId, i64>>,
    /// While a collection removes rows.
    condemned: Option<Arc<Condemned>>,
    /// A collection is under way.
    collecting: bool,
    leases: Vec<Arc<Lease>>,
    /// Leases whose sessions ended since the collection began; they are among `leases`.
    released: Vec<Arc<Lease>>,
}

impl Index {
    /// Opens for writing, creating an empty index if there is none. `Corrupt` and `Unsupported` ask for a rebuild.
    pub fn open_writer(path: &Path, repository: &RepositoryId) -> Result<Index> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags).map_err(sql("open"))?;
        configure(&connection)?;
        connection
            .execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA temp_store = MEMORY;")
            .map_err(sql("configure"))?;
        let version: i64 = connection.pragma_query_value(None, "user_version", |r| r.get(0)).map_err(sql("read"))?;
        if version == 0 {
            create_tables(&connection, repository)?;
        }
        fit_cache(&connection)?;
        Index::checked(connection, path, repository)
    }

    /// Opens for reading only.
    pub fn open_reader(path: &Path, repository: &RepositoryId) -> Result<Index> {
        if !path.exists() {
            return Err(Error::missing("the index"));
        }
        Index::checked(reading_connection(path)?, path, repository)
    }

    fn checked(connection: Connection, path: &Path, repository: &RepositoryId) -> Result<Index> {
        let version: i64 = connection.pragma_query_value(None, "user_version", |r| r.get(0)).map_err(sql("read"))?;
        if version != SCHEMA_VERSION {
            return Err(Error::Unsupported {
                object: "the index".into(),
                reason: format!("version {version} is unknown to this program"),
            });
        }
        let next = Cell::new(last_number(&connection)? + 1);
        let (leases, released) = (Vec::new(), Vec::new());
        let (others, damaged, unknown) = (Vec::new(), Cell::new(false), HashSet::new());
        let intact = if connection.is_readonly(MAIN_DB).map_err(sql("read"))? { None } else { Some(HashMap::new()) };
        let (condemned, collecting) = (None, false);
        let state =
            State { others, connection, next, damaged, unknown, intact, condemned, collecting, leases, released };
        let index = Index { state: Mutex::new(state), path: path.to_owned() };
        if index.meta("repository")?.as_deref() != Some(&repository.0[..]) {
            return Err(Error::corrupt("the index", "it belongs to another repository"));
        }
        Ok(index)
    }

    /// Removes the files of an index that is to be rebuilt.
    pub fn remove(path: &Path) -> Result<()> {
        for suffix in ["", "-wal", "-shm"] {
            let mut file = path.as_os_str().to_owned();
            file.push(suffix);
            match std::fs::remove_file(&file) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(Error::io("remove", "the index", e)),
                _ => {}
            }
        }
        Ok(())
    }

    /// Forgets everything, to be filled again. Nothing of the file is read, however damaged it is.
    pub fn clear(&self, repository: &RepositoryId) -> Result<()> {
        let mut state = self.lock();
        state.condemned = None;
        state.others.clear();
        state.forget();
        let connection = &state.connection;
        connection.flush_prepared_statement_cache();
        // How SQLite's documentation of this setting tells to do it.
        let resetting = |on| connection.set_db_config(DbConfig::SQLITE_DBCONFIG_RESET_DATABASE, on);
        resetting(true).and_then(|_| connection.execute_batch("VACUUM")).map_err(sql("clear"))?;
        resetting(false).map_err(sql("clear"))?;
        create_tables(connection, repository)?;
        state.damaged.set(false);
        Ok(())
    }

    /// SQLite's own check of its file; slow for a large index, which can be used meanwhile.
    pub fn quick_check(&self) -> Result<()> {
        let connection = reading_connection(&self.path)?;
        let verdict: String = connection.query_row("PRAGMA quick_check(1)", [], |r| r.get(0)).map_err(sql("check"))?;
        if verdict == "ok" { Ok(()) } else { Err(Error::corrupt("the index", verdict)) }
    }

    /// That its copies of capsules are whole.
    pub fn check_capsules(&self, repository: &RepositoryId) -> Result<()> {
        let ids: Vec<CapsuleId> = self
            .lock()
            .connection
            .prepare("SELECT id FROM capsule")
            .and_then(|mut s| s.query_map([], |r| r.get(0).map(CapsuleId))?.collect())
            .map_err(sql("read"))?;
        ids.into_iter().try_for_each(|id| self.capsule(id, repository).map(|_| ()))
    }

    /// Whether a look-up or a change came upon damage since it was opened.
    pub fn is_damaged(&self) -> bool {
        self.lock().damaged.get()
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn meta(&self, key: &str) -> Result<Option<Vec<u8>>> {
        meta(&self.lock().connection, key)
    }

    pub fn set_meta(&self, key: &str, value: &[u8]) -> Result<()> {
        set_meta(&self.lock().connection, key, value)
    }

    /// See [`Store::generation`](crate::store::Store::generation).
    pub fn generation(&self) -> Result<[u8; 16]> {
        self.meta("generation")?
            .and_then(|bytes| bytes.try_into().ok())
            .ok_or_else(|| Error::corrupt("the index", "it has no generation"))
    }

    pub fn capsule(&self, id: CapsuleId, repository: &RepositoryId) -> Result<Capsule> {
        let state = self.lock();
        let query = "SELECT bytes FROM capsule WHERE id = ?1";
        let bytes: Option<Vec<u8>> = state
            .connection
            .prepare_cached(query)
            .and_then(|mut s| s.query_row([&id.0[..]], |r| r.get(0)).optional())
            .map_err(sql("read"))?;
        let parsed = Capsule::parse(bytes.ok_or_else(|| Error::missing(format!("capsule {id}")))?, repository);
        state.watch(match parsed {
            Ok(capsule) if capsule.id == id => Ok(capsule),
            Err(error @ Error::Unsupported { .. }) => Err(error),
            _ => Err(Error::corrupt("the index", format!("its copy of capsule {id} is wrong"))),
        })
    }

    /// All packs that are there, by number.
    pub fn packs(&self) -> Result<Vec<PackRow>> {
        packs(&self.lock().connection, false)
    }

    /// Packs whose objects were found missing, until a collection forgets them.
    pub fn gone_packs(&self) -> Result<Vec<PackRow>> {
        packs(&self.lock().connection, true)
    }

    pub fn has_pack(&self, id: PackId) -> Result<bool> {
        let state = self.lock();
        let query = "SELECT 1 FROM pack WHERE name = ?1 AND gone = 0";
        state.connection.prepare_cached(query).and_then(|mut s| s.exists([&id.0[..]])).map_err(sql("read"))
    }

    /// Number and bytes of all packs that are there.
    pub fn pack_totals(&self) -> Result<(u64, u64)> {
        let query = "SELECT count(*), coalesce(sum(length), 0) FROM pack WHERE gone = 0";
        let row = |r: &rusqlite::Row<'_>| Ok((r.get::<_, i64>(0)?.unsigned_abs(), r.get::<_, i64>(1)?.unsigned_abs()));
        let state = self.lock();
        state.connection.prepare_cached(query).and_then(|mut s| s.query_row([], row)).map_err(sql("read"))
    }

    /// Number of blobs and of bytes of their records.
    pub fn totals(&self) -> Result<(u64, u64)> {
        self.lock()
            .connection
            .query_row("SELECT count(*), coalesce(sum(length), 0) FROM blob", [], |r| {
                Ok((r.get::<_, i64>(0)?.unsigned_abs(), r.get::<_, i64>(1)?.unsigned_abs()))
            })
            .map_err(sql("read"))
    }
}

impl State {
    /// Remembers it if an outcome tells of damage.
    fn watch<T>(&self, outcome: Result<T>) -> Result<T> {
        if matches!(outcome, Err(Error::Corrupt { .. })) {
            self.damaged.set(true);
        }
        outcome
    }
}

fn packs(connection: &Connection, gone: bool) -> Result<Vec<PackRow>> {
    let mut statement = connection
        .prepare_cached("SELECT no, name, length, record_bytes, class, stored FROM pack WHERE gone = ?1 ORDER BY no")
        .map_err(sql("read"))?;
    let rows = statement
        .query_map([gone], |r| {
            Ok(PackRow {
                no: r.get(0)?,
                id: PackId(r.get(1)?),
                length: r.get::<_, i64>(2)?.unsigned_abs(),
                record_bytes: r.get::<_, i64>(3)?.unsigned_abs(),
                class: if r.get::<_, i64>(4)? == 0 { Class::Data } else { Class::Node },
                stored: r.get(5)?,
            })
        })
        .map_err(sql("read"))?;
    rows.collect::<rusqlite::Result<_>>().map_err(sql("read"))
}

fn last_number(connection: &Connection) -> Result<i64> {
    connection
        .prepare_cached("SELECT coalesce(max(no), 0) FROM blob")
        .and_then(|mut s| s.query_row([], |r| r.get(0)))
        .map_err(sql("read"))
}

fn configure(connection: &Connection) -> Result<()> {
    connection
        .execute_batch(&format!(
            "PRAGMA mmap_size = 0; PRAGMA trusted_schema = OFF; PRAGMA cell_size_check = ON; PRAGMA cache_size = -{}; \
             PRAGMA busy_timeout = 10000;",
            CACHE_KIB.start()
        ))
        .map_err(sql("configure"))?;
    // Plans depend on no bound value, or a statement that is used again is planned again: that costs more than a look-up.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true).map_err(sql("configure"))?;
    connection.set_prepared_statement_cache_capacity(128);
    Ok(())
}

/// The cache follows the size of the file.
fn fit_cache(connection: &Connection) -> Result<()> {
    let pragma = |name: &str| connection.pragma_query_value(None, name, |r| r.get::<_, i64>(0)).map_err(sql("read"));
    let kib = pragma("page_count")? * (pragma("page_size")? >> 10);
    let cache_kib = (kib / 32).clamp(*CACHE_KIB.start(), *CACHE_KIB.end());
    connection.pragma_update(None, "cache_size", -cache_kib).map_err(sql("configure"))
}

fn create_tables(connection: &Connection, repository: &RepositoryId) -> Result<()> {
    connection
        .execute_batch(
            "BEGIN IMMEDIATE;
             CREATE TABLE meta(key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
             CREATE TABLE capsule(id BLOB PRIMARY KEY, bytes BLOB NOT NULL) WITHOUT ROWID;
             CREATE TABLE pack(no INTEGER PRIMARY KEY, name BLOB NOT NULL UNIQUE, length INTEGER NOT NULL,
                               record_bytes INTEGER NOT NULL, class INTEGER NOT NULL, stored INTEGER NOT NULL,
                               gone INTEGER NOT NULL DEFAULT 0);
             -- pack 0: the bytes are nowhere, the row remembers a tag that something links to
             CREATE TABLE blob(no INTEGER PRIMARY KEY, id BLOB NOT NULL, tag BLOB NOT NULL, pack INTEGER NOT NULL,
                               offset INTEGER NOT NULL, length INTEGER NOT NULL, state INTEGER NOT NULL,
                               checksum INTEGER NOT NULL);
             -- ascending with every pack, so it costs next to nothing to keep
             CREATE INDEX blob_by_pack ON blob(pack);
             CREATE INDEX blob_not_intact ON blob(state) WHERE state != 0;
             -- children: 8 bytes each, number * 2 + (1 if it may link further); 0 for a blob that is not known
             CREATE TABLE link(parent INTEGER PRIMARY KEY, children BLOB NOT NULL, checksum INTEGER NOT NULL);",
        )
        .map_err(sql("create"))?;
    levels::create(connection)?;
    set_meta(connection, "repository", &repository.0)?;
    change_generation(connection)?;
    connection.execute_batch(&format!("PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;")).map_err(sql("create"))
}

fn meta(connection: &Connection, key: &str) -> Result<Option<Vec<u8>>> {
    connection
        .prepare_cached("SELECT value FROM meta WHERE key = ?1")
        .and_then(|mut s| s.query_row([key], |r| r.get(0)).optional())
        .map_err(sql("read"))
}

fn set_meta(connection: &Connection, key: &str, value: &[u8]) -> Result<()> {
    connection
        .prepare_cached("INSERT OR REPLACE INTO meta(key, value) VALUES(?1, ?2)")
        .and_then(|mut s| s.execute(params![key, value]))
        .map(|_| ())
        .map_err(sql("write"))
}

fn change_generation(connection: &Connection) -> Result<()> {
    let mut fresh = [0; 16];
    getrandom::fill(&mut fresh).map_err(|e| Error::io("draw", "random bytes", std::io::Error::other(e)))?;
    set_meta(connection, "generation", &fresh)
}

/// The first eight bytes: what the tables are searched by.
fn head(bytes: &[u8]) -> i64 {
    let head = bytes.first_chunk::<8>().copied().unwrap_or_default();
    i64::from_le_bytes(head)
}

/// Covers what a deletion depends on.
fn blob_checksum(no: i64, id: &BlobId, tag: &Tag, place: (i64, u32, u32)) -> i64 {
    let mut hash = blake3::Hasher::new();
    hash.update(&no.to_le_bytes()).update(&id.0).update(&tag.0).update(&place.0.to_le_bytes());
    hash.update(&place.1.to_le_bytes()).update(&place.2.to_le_bytes());
    head(hash.finalize().as_bytes())
}

fn link_checksum(parent: i64, children: &[u8]) -> i64 {
    let mut hash = blake3::Hasher::new();
    hash.update(&parent.to_le_bytes()).update(children);
    head(hash.finalize().as_bytes())
}

/// SQLite's errors as ours: a damaged index is told apart, since it can be rebuilt.
fn sql(action: &'static str) -> impl Fn(rusqlite::Error) -> Error {
    use rusqlite::ErrorCode;
    move |e| {
        let object = || "the index".to_owned();
        match e.sqlite_error_code() {
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Error::corrupt(object(), e.to_string()),
            Some(ErrorCode::DiskFull) => Error::Full { object: object() },
            // A value of the wrong type or length, a missing table: not written by us.
            None => Error::corrupt(object(), e.to_string()),
            Some(ErrorCode::Unknown) => Error::corrupt(object(), e.to_string()),
            Some(_) => Error::Io { action, object: object(), source: std::io::Error::other(e) },
        }
    }
}
