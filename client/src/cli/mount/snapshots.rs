//! Which snapshots a mount shows and what they are called; whether there are others by now.

use crate::clock;
use crate::history::{History, Version};
use crate::postgres::traditional_name;
use crate::session::{Home, Session};
use crate::settings::Settings;
use chunkstore::backend::{ObjectKind, ObjectName};
use chunkstore::codec::Opener;
use chunkstore::id::SnapshotId;
use chunkstore::reader::Reader;
use chunkstore::store::Store;
use globset::GlobMatcher;
use jiff::Zoned;
use jiff::tz::TimeZone;
use nightkeep_fuse::listing::{Fresh, Listing, Shown};
use std::collections::HashMap;
use std::sync::Arc;

/// As in `DATASET@TIME`: to the second, and to the nanosecond.
const TIME: &str = "%Y-%m-%dT%H:%M:%S%:z";
const EXACT_TIME: &str = "%Y-%m-%dT%H:%M:%S.%9f%:z";
const POSTGRES: &str = "postgres";

pub struct Watcher {
    session: Session,
    settings: Settings,
    dataset: Option<GlobMatcher>,
    only: Option<SnapshotId>,
    room: usize,
    zone: TimeZone,
    /// Names of the objects that the last listing was made of.
    seen: Vec<ObjectName>,
    dump_names: HashMap<SnapshotId, Option<String>>,
}

impl Watcher {
    pub fn new(
        session: Session,
        settings: Settings,
        dataset: Option<GlobMatcher>,
        only: Option<SnapshotId>,
        room: usize,
    ) -> Watcher {
        let zone = clock::zone();
        Watcher { session, settings, dataset, only, room, zone, seen: Vec::new(), dump_names: HashMap::new() }
    }

    /// Brings a listing if there are other snapshots or marks than the last time. A listing of names is all it costs otherwise.
    pub fn look(&mut self) -> chunkstore::Result<Option<Fresh>> {
        let names = self.names()?;
        if names == self.seen {
            return Ok(None);
        }
        let history = self.history()?;
        let listing = self.listing_of(&history, names)?;
        let roots: Vec<_> = listing.snapshots.iter().map(|shown| shown.root.id).collect();
        let reader = if self.session.store().present(&roots)?.contains(&false) { self.open_again()? } else { None };
        Ok(Some(Fresh { listing, reader }))
    }

    /// The first one, of a history that was read after the session was opened.
    pub fn listing(&mut self, history: &History) -> chunkstore::Result<Listing> {
        self.listing_of(history, Vec::new())
    }

    fn names(&self) -> chunkstore::Result<Vec<ObjectName>> {
        let mut names = Vec::new();
        match self.session.home() {
            Home::Here(repository) => {
                for kind in [ObjectKind::Snapshot, ObjectKind::Mark] {
                    names.extend(repository.backend().list(kind)?.into_iter().map(|(name, _)| name));
                }
            }
            Home::Server(remote) => {
                names.extend(remote.snapshots()?.into_iter().map(|(id, _)| ObjectName::Snapshot(id)));
                names.extend(remote.marks()?.into_iter().map(|(id, _)| ObjectName::Mark(id)));
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn history(&self) -> chunkstore::Result<History> {
        self.session.history().map_err(of_store)
    }

    fn listing_of(&mut self, history: &History, seen: Vec<ObjectName>) -> chunkstore::Result<Listing> {
        let wanted = |version: &&Version| {
            self.only.is_none_or(|only| version.id == only)
                && self.dataset.as_ref().is_none_or(|glob| glob.is_match(&version.summary().dataset))
        };
        let wanted: Vec<&Version> = history.present().filter(wanted).collect();
        let opener = Opener::new(&self.session.keys, self.session.configuration())?;
        let mut snapshots = Vec::with_capacity(wanted.len());
        for version in wanted {
            let known = self.dump_names.get(&version.id).cloned();
            let dump_name = known.unwrap_or_else(|| dump_name(version, &opener, &self.zone));
            self.dump_names.insert(version.id, dump_name.clone());
            snapshots.push(self.shown(version, dump_name));
        }
        let stored_bytes = self.session.statistics()?.pack_bytes;
        self.seen = seen;
        Ok(Listing { snapshots, stored_bytes })
    }

    fn shown(&self, version: &Version, dump_name: Option<String>) -> Shown {
        let summary = version.summary();
        let time = clock::zoned(summary.time, &self.zone);
        Shown {
            id: version.id,
            run: summary.run,
            dataset: summary.dataset.clone(),
            time: summary.time,
            root: summary.root,
            name: time.strftime(TIME).to_string(),
            exact_name: time.strftime(EXACT_TIME).to_string(),
            dump_name,
        }
    }

    /// The index was made anew, or is one of our own: what we have open does not know of new packs.
    fn open_again(&mut self) -> chunkstore::Result<Option<Arc<Reader>>> {
        if !self.session.open_again(&self.settings).map_err(of_store)? {
            return Ok(None);
        }
        let opener = Opener::new(&self.session.keys, self.session.configuration())?;
        let store = Arc::clone(&self.session.store);
        Ok(Some(Arc::new(Reader::with_caches(store, opener, super::NODE_CACHE_BYTES, self.room))))
    }
}

/// What old scripts call the dump of a database: `pg_dump.HOST.DATABASE.YYYYMMDD.HHMMSS.sql`, local time of its beginning.
fn dump_name(version: &Version, opener: &Opener, zone: &TimeZone) -> Option<String> {
    let summary = version.summary();
    let mut parts = summary.dataset.split('/');
    let (host, kind, component) = (parts.next()?, parts.next()?, parts.next()?);
    if kind != POSTGRES {
        return None;
    }
    let details = version.snapshot.details(opener).ok()?;
    let fact = |key: &str| {
        let found = details.facts.iter().find(|(known, _)| known == key);
        found.and_then(|(_, value)| std::str::from_utf8(value).ok())
    };
    let started = fact("postgres.started").and_then(|text| text.parse::<Zoned>().ok());
    let started = started.unwrap_or_else(|| clock::zoned(summary.time, zone));
    let extension = if fact("postgres.format") == Some("custom") { "dump" } else { "sql" };
    let database = details.facts.iter().find(|(known, _)| known == "postgres.database").map(|(_, name)| name.clone());
    let database = database.unwrap_or_else(|| component.as_bytes().to_vec());
    Some(traditional_name(host, &database, &started, extension))
}

fn of_store(error: crate::error::Error) -> chunkstore::Error {
    match error {
        crate::error::Error::Store(error) => error,
        other => chunkstore::Error::invalid("the repository", other.to_string()),
    }
}
