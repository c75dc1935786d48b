//! A tracker's database on its way into the repository: copied or dumped, or, if it is known to be what it was the last time,
//! left where it is.

use super::facts::fact;
use super::known::{Known, Place};
use super::rows;
use super::sqlite::{Copying, Footprint, Rows};
use super::tracker::{Backend, Postgres, Tracker};
use crate::backup::Context;
use crate::backup::special::{Depot, Prepared};
use crate::error::{Error, Result};
use crate::postgres::{Connection, Password, Single};
use chunkstore::tree::{Attributes, Content, Entry, Node, Time};
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The name of a PostgreSQL dump, beside the files.
pub const DUMP: &str = "postgresql.dump";

/// Stored, and what it says about files.
pub struct Database {
    pub prepared: Prepared,
    pub rows: Rows,
    pub facts: Vec<(String, Vec<u8>)>,
    /// What is to be remembered once it is committed.
    pub known: Option<Known>,
}

/// Which database, and what is known of it.
pub struct Source<'a> {
    pub context: &'a Context<'a>,
    pub tracker: &'a Tracker,
    pub place: &'a Place,
    /// What `config.ini` does not say of a connection.
    pub connection: &'a Connection,
}

impl Source<'_> {
    pub fn store(&self, depot: &Depot<'_>) -> Result<Database> {
        let generation = self.context.store.generation()?;
        match &self.tracker.backend {
            Backend::Sqlite { file, patience } => self.store_sqlite(depot, file, *patience, generation),
            Backend::Postgres(postgres) => self.store_postgres(depot, postgres, generation),
        }
    }

    /// How many of these rows are there now, if it can be told.
    pub fn count(&self, class: &str, ids: &[u64]) -> Option<usize> {
        match &self.tracker.backend {
            Backend::Sqlite { file, patience } => self.copying(file, *patience).present(class, ids).ok(),
            Backend::Postgres(postgres) => {
                let connection = connection(postgres, self.connection).ok()?;
                let single = Single::open(&connection, postgres.database.as_bytes()).ok()?;
                rows::present(&single, postgres, class, ids).ok()?
            }
        }
    }

    fn copying<'a>(&'a self, file: &'a Path, patience: Duration) -> Copying<'a> {
        let (directory, interrupted) = (self.context.cache_dir, self.context.interrupted);
        Copying { database: file, directory, patience, interrupted }
    }

    fn store_sqlite(
        &self,
        depot: &Depot<'_>,
        file: &Path,
        patience: Duration,
        generation: [u8; 16],
    ) -> Result<Database> {
        let shown = file.as_os_str().as_bytes();
        let copying = self.copying(file, patience);
        let before = Footprint::of(file);
        if let Some(footprint) = &before
            && let Some(Entry { node: Node::File(content), .. }) = self.place.find(&footprint.0, generation, depot)?
        {
            let rows = copying.rows()?;
            if Footprint::of(file).as_ref() == Some(footprint) {
                let prepared = self.prepared("db", attributes(depot, file)?, content);
                return Ok(Database { prepared, rows, facts: checked(true), known: None });
            }
        }
        let copy = copying.copy()?;
        if let Some(damage) = &copy.damage {
            depot.problem(shown, &format!("SQLite's own check finds damage: {damage}"));
        }
        let content = depot.file(&file.display().to_string(), copy.file.as_file())?;
        let prepared = self.prepared("db", attributes(depot, file)?, content);
        let after = before.filter(|before| copy.damage.is_none() && Footprint::of(file).as_ref() == Some(before));
        let known = after.map(|footprint| known(&prepared, footprint.0, generation));
        Ok(Database { prepared, rows: copy.rows, facts: checked(copy.damage.is_none()), known })
    }

    fn store_postgres(&self, depot: &Depot<'_>, postgres: &Postgres, generation: [u8; 16]) -> Result<Database> {
        let connection = connection(postgres, self.connection)?;
        let single = Single::open(&connection, postgres.database.as_bytes())?;
        let mut dump = single.dump(true)?;
        let attributes = self.dump_attributes(depot)?;
        let stored = dump.produce(0, |mut producer| depot.produce(&mut producer));
        let (content, verdict) = stored.map_err(|error| match error {
            chunkstore::Error::Invalid { what, reason } => Error::source(what, reason),
            other => Error::Store(other),
        })?;
        // Rows that came after the dump have their files before the walk as well.
        let rows = rows::ask(&single, postgres)?;
        let mut facts = verdict.facts;
        facts.retain(|(key, _)| key != "source");
        let proof = verdict.sameness.map(|sameness| sameness.to_vec());
        let prepared = self.prepared(DUMP, attributes, content);
        if let Some(proof) = &proof
            && let Some(Entry { node: Node::File(content), attributes, .. }) =
                self.place.find(proof, generation, depot)?
        {
            // The same but for the time in it: stored as it was, it is the same to the last byte.
            let prepared = self.prepared(DUMP, attributes, content);
            return Ok(Database { prepared, rows, facts, known: None });
        }
        let known = proof.map(|proof| known(&prepared, proof, generation));
        Ok(Database { prepared, rows, facts, known })
    }

    /// The configuration itself where the home has a symlink to it: without it nobody could tell what the rest is.
    pub fn linked_configuration(&self, depot: &Depot<'_>) -> Result<Option<Prepared>> {
        let path = self.tracker.root.join("config.ini");
        if !path.is_symlink() {
            return Ok(None);
        }
        let shown = path.display().to_string();
        let file = File::open(&path).map_err(|error| Error::io("cannot open", &shown, error))?;
        let content = depot.file(&shown, &file)?;
        Ok(Some(Prepared { attributes: attributes(depot, &path)?, content, path }))
    }

    fn prepared(&self, name: &str, attributes: Attributes, content: Content) -> Prepared {
        Prepared { path: self.tracker.database.join(name), attributes, content }
    }

    /// A dump is for its owner's eyes, who is the one of the configuration.
    fn dump_attributes(&self, depot: &Depot<'_>) -> Result<Attributes> {
        let of = attributes(depot, &self.tracker.root.join("config.ini"))?;
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let seconds = i64::try_from(since.as_secs()).unwrap_or(i64::MAX);
        let modified = Time { seconds, nanoseconds: since.subsec_nanos() };
        let Attributes { uid, gid, user, group, .. } = of;
        Ok(Attributes { mode: 0o600, uid, gid, user, group, modified, ..Attributes::default() })
    }
}

fn known(prepared: &Prepared, proof: Vec<u8>, generation: [u8; 16]) -> Known {
    let name = prepared.path.file_name().unwrap_or_default().as_bytes().to_vec();
    let node = Node::File(prepared.content.clone());
    Known { generation, proof, entry: Entry { name, attributes: prepared.attributes.clone(), node } }
}

fn checked(is_whole: bool) -> Vec<(String, Vec<u8>)> {
    vec![fact("roundup.database-check", if is_whole { "ok" } else { "damaged" })]
}

/// How `config.ini` reaches the server, with what it does not say taken from `more`.
pub fn connection(postgres: &Postgres, more: &Connection) -> Result<Connection> {
    let config = |reason: &str| Error::Tracker { path: "[rdbms] of config.ini".into(), reason: reason.into() };
    if postgres.database.is_empty() {
        return Err(config("it names no database"));
    }
    let port = postgres.port.as_ref().map(|port| port.trim().parse()).transpose();
    Ok(Connection {
        host: postgres.host.clone().or_else(|| more.host.clone()),
        port: port.map_err(|_| config("its port is not a number"))?.or(more.port),
        username: postgres.user.clone().or_else(|| more.username.clone()),
        password: postgres.password.clone().map(Password).or_else(|| more.password.clone()),
        service: postgres.service.clone().or_else(|| more.service.clone()),
        ..more.clone()
    })
}

/// Those of the original. Its time is that of the last write, also of one that is still in the log.
fn attributes(depot: &Depot<'_>, path: &Path) -> Result<Attributes> {
    let shown = path.as_os_str().as_bytes();
    let file = File::open(path).map_err(|error| Error::io("cannot open", path.display().to_string(), error))?;
    let (_, attributes) = depot.attributes(shown, &file)?;
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    let logged = std::fs::metadata(PathBuf::from(log)).ok().filter(|log| log.len() > 0).and_then(|log| {
        let nanoseconds = u32::try_from(log.mtime_nsec()).ok()?;
        Some(Time { seconds: log.mtime(), nanoseconds })
    });
    let order = |time: &Time| (time.seconds, time.nanoseconds);
    let modified = match logged {
        Some(logged) if order(&logged) > order(&attributes.modified) => logged,
        _ => attributes.modified,
    };
    Ok(Attributes { modified, ..attributes })
}
