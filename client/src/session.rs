//! From settings to an opened repository: place, lock, keys, this machine's identity as a writer.
//!
//! A `Session` holds the writer lock, if it was opened for writing, until it is dropped.

use crate::backup::Deltas;
use crate::clock;
use crate::dataset;
use crate::error::{Error, Result};
use crate::history::History;
use crate::remote::{KeySlots, Link, Remote};
use crate::servers::RemotePlace;
use crate::session_files::{create_private, random, seed, write_private};
use crate::settings::Settings;
use chunkstore::backend::Backend;
use chunkstore::backend::directory::Directory;
use chunkstore::backend::simulated::Simulated;
use chunkstore::codec::Opener;
use chunkstore::configuration::Configuration;
use chunkstore::id::{RepositoryId, RunId, SlotId, SnapshotId};
use chunkstore::key::{self, Credential, Hardness, Keys};
use chunkstore::reader::Reader;
use chunkstore::repository::{Access, Repository, Statistics, read_configuration};
use chunkstore::snapshot::Writer;
use chunkstore::store::Store;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::Arc;
use zeroize::Zeroizing;

/// Opened bases that a backup keeps in memory.
const BASES_BYTES: usize = 24 << 20;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Purpose {
    Read,
    Write,
}

pub struct Session {
    pub store: Arc<dyn Store>,
    /// Where the key slots lie; on a server, nothing else.
    pub objects: Arc<dyn Backend>,
    pub keys: Keys,
    /// The key slot that the credential opened; none for a write-only key.
    pub slot: Option<SlotId>,
    /// Servers that were away, and why: another one was taken.
    pub passed_over: Vec<(String, String)>,
    home: Home,
}

/// Where the repository is.
pub enum Home {
    Here(Arc<Repository>),
    Server(Arc<Remote>),
}

impl Session {
    /// `verb` tells others who holds the lock. `credential` is asked for only once there is something to open, and before
    /// the lock is taken.
    pub fn open(
        settings: &Settings,
        verb: &str,
        purpose: Purpose,
        credential: &dyn Fn(&str) -> Result<Credential>,
    ) -> Result<Session> {
        let Located { place, objects, configuration, link, passed_over } = locate(settings)?;
        let (slot, keys) = key::unlock_with_slot(&*objects, &configuration, &credential(&place)?)?;
        let home = match link {
            Some(link) => Home::Server(Arc::new(Remote::new(link, configuration))),
            None => {
                let access = match purpose {
                    Purpose::Read => Access::Read,
                    Purpose::Write => Access::Write { holder: holder(verb), wait: settings.lock_wait },
                };
                Home::Here(Arc::new(Repository::open(settings.directory()?, access, clock::seconds())?))
            }
        };
        let store: Arc<dyn Store> = match &home {
            Home::Here(repository) => Arc::<Repository>::clone(repository),
            Home::Server(remote) => Arc::<Remote>::clone(remote),
        };
        Ok(Session { store, objects, keys, slot, passed_over, home })
    }

    pub fn store(&self) -> &dyn Store {
        &*self.store
    }

    pub fn configuration(&self) -> &Configuration {
        self.store.configuration()
    }

    pub fn home(&self) -> &Home {
        &self.home
    }

    /// The repository itself, for what only the machine that keeps it can do; `instead` is what to do there.
    pub fn here(&self, what: &str, instead: &str) -> Result<&Repository> {
        match &self.home {
            Home::Here(repository) => Ok(repository),
            Home::Server(_) => {
                Err(Error::refused(what, format!("the repository is kept by a server; there, {instead}")))
            }
        }
    }

    pub fn history(&self) -> Result<History> {
        let server = match &self.home {
            Home::Here(_) => None,
            Home::Server(remote) => Some(remote.server()),
        };
        History::load(self.store(), &self.keys.write, server)
    }

    /// Fails with a write-only key.
    pub fn reader(&self) -> Result<Reader> {
        let opener = Opener::new(&self.keys, self.configuration())?;
        Ok(Reader::new(Arc::clone(&self.store), opener))
    }

    /// At which sites these snapshots are, this one first; None if the repository is a directory.
    pub fn copies(&self, snapshots: &[SnapshotId]) -> chunkstore::Result<Option<Vec<Vec<String>>>> {
        match &self.home {
            Home::Here(_) => Ok(None),
            Home::Server(remote) => remote.copies(snapshots).map(Some),
        }
    }

    /// What is stored.
    pub fn statistics(&self) -> chunkstore::Result<Statistics> {
        match &self.home {
            Home::Here(repository) => repository.statistics(),
            Home::Server(remote) => remote.statistics(),
        }
    }

    /// Opens a local repository once more for reading: an index that was made anew since does not tell who had the old one
    /// open. False for a server's, which is never stale.
    pub fn open_again(&mut self, settings: &Settings) -> Result<bool> {
        if let Home::Server(_) = self.home {
            return Ok(false);
        }
        let repository = Arc::new(Repository::open(settings.directory()?, Access::Read, clock::seconds())?);
        self.store = Arc::<Repository>::clone(&repository);
        self.home = Home::Here(repository);
        Ok(true)
    }

    /// How new chunks that resemble stored ones are to be saved.
    pub fn deltas(&self, settings: &Settings) -> Result<Deltas> {
        if !settings.delta {
            return Ok(Deltas::Off);
        }
        // Bases are never fetched over a network.
        if self.keys.opening.is_none() || matches!(self.home, Home::Server(_)) {
            return Ok(Deltas::Keep { bytes_max: settings.delta_cache_bytes });
        }
        let opener = Opener::new(&self.keys, self.configuration())?;
        Ok(Deltas::Read(Box::new(Reader::with_caches(Arc::clone(&self.store), opener, 0, BASES_BYTES))))
    }

    /// Where what may be lost about this repository is kept.
    pub fn cache_dir(&self, settings: &Settings) -> Result<PathBuf> {
        let dir = settings.cache_dir.join(self.configuration().repository.hex());
        create_private(&dir)?;
        Ok(dir)
    }
}

/// A new repository and its recovery key, which is nowhere else.
pub struct Created {
    pub place: String,
    pub configuration: Configuration,
    pub recovery_key: Zeroizing<String>,
}

/// Refuses a place that holds a repository, or anything else.
pub fn require_vacant(settings: &Settings) -> Result<()> {
    if let Some(place) = settings.remote()? {
        return vacant_link(settings, place).map(|_| ());
    }
    let path = settings.directory()?;
    let place = path.display().to_string();
    let entries = match path.read_dir() {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Error::io("cannot read", place, error)),
    };
    let mut foreign = None;
    for entry in entries {
        let name = entry.map_err(|error| Error::io("cannot read", &place, error))?.file_name();
        if name == "REPO" || name == "REPO.copy" {
            return Err(chunkstore::Error::RepositoryExists { place }.into());
        }
        if name != "lost+found" {
            foreign = Some(name);
        }
    }
    match foreign {
        Some(name) => {
            let reason = format!("it is not empty: it holds `{}`", name.to_string_lossy());
            Err(Error::refused(format!("cannot create a repository in {place}"), reason))
        }
        None => Ok(()),
    }
}

/// Makes the keys first and the configuration last: a repository exists once it can be opened.
pub fn create(settings: &Settings, passphrase: &[u8]) -> Result<Created> {
    require_vacant(settings)?;
    let now = clock::now();
    let configuration = Configuration::new(RepositoryId(random()?), now);
    if let Some(place) = settings.remote()? {
        // The keys are made here; the server gets what is sealed.
        let slots = Simulated::new();
        let recovery_key = add_keys(&slots, &configuration, passphrase, now)?;
        vacant_link(settings, place)?.create(&configuration, &slots)?;
        return Ok(Created { place: place.to_string(), configuration, recovery_key });
    }
    let path = settings.directory()?;
    create_private(path)?;
    let backend: Arc<dyn Backend> = Arc::new(Directory::create(path)?);
    let recovery_key = add_keys(&*backend, &configuration, passphrase, now)?;
    Repository::create(&*backend, &configuration)?;
    Ok(Created { place: path.display().to_string(), configuration, recovery_key })
}

fn add_keys(
    backend: &dyn Backend,
    configuration: &Configuration,
    passphrase: &[u8],
    now: i64,
) -> Result<Zeroizing<String>> {
    let keys = Keys::generate(configuration)?;
    key::add_passphrase(backend, configuration, &keys, passphrase, "first", now, hardness())?;
    Ok(key::add_recovery(backend, configuration, &keys, now)?.1)
}

fn vacant_link(settings: &Settings, place: &RemotePlace) -> Result<Link> {
    let link = Link::open(settings, place)?;
    if link.configuration()?.is_some() {
        return Err(chunkstore::Error::RepositoryExists { place: place.to_string() }.into());
    }
    Ok(link)
}

/// A repository's configuration and key slots, without its keys.
pub struct Located {
    pub place: String,
    pub objects: Arc<dyn Backend>,
    pub configuration: Configuration,
    /// The way to the server that keeps it.
    pub link: Option<Arc<Link>>,
    /// Servers that were away, and why: another one was taken.
    pub passed_over: Vec<(String, String)>,
}

pub fn locate(settings: &Settings) -> Result<Located> {
    let mut passed_over = Vec::new();
    let servers = settings.servers()?;
    for (number, place) in servers.iter().enumerate() {
        let located = locate_at(settings, place);
        match located {
            Err(error) if is_away(&error) && number + 1 < servers.len() => {
                passed_over.push((place.to_string(), error.to_string()));
            }
            located => return Ok(Located { passed_over, ..located? }),
        }
    }
    let path = settings.directory()?;
    let objects: Arc<dyn Backend> = Arc::new(Directory::open(path)?);
    let place = path.display().to_string();
    let configuration = read_configuration(&*objects).map_err(|error| match error {
        chunkstore::Error::NoRepository { .. } => chunkstore::Error::NoRepository { place: place.clone() },
        other => other,
    })?;
    Ok(Located { place, objects, configuration, link: None, passed_over })
}

fn locate_at(settings: &Settings, place: &RemotePlace) -> Result<Located> {
    let link = Arc::new(Link::open(settings, place)?);
    let place = place.to_string();
    let Some(configuration) = link.configuration()? else {
        return Err(chunkstore::Error::NoRepository { place }.into());
    };
    let objects = Arc::new(KeySlots::new(Arc::clone(&link)));
    Ok(Located { place, objects, configuration, link: Some(link), passed_over: Vec::new() })
}

/// Whether another site may do instead: nobody answers there, or it has nothing yet.
fn is_away(error: &Error) -> bool {
    matches!(error, Error::Store(chunkstore::Error::Unreachable { .. } | chunkstore::Error::NoRepository { .. }))
}

/// How hard new passphrase slots are to try. Only debug builds can be asked for the cheap setting of tests.
pub fn hardness() -> Hardness {
    let asked = || cfg!(test) || std::env::var_os("NIGHTKEEP_TEST_CHEAP_KDF").is_some_and(|value| value == "1");
    if cfg!(debug_assertions) && asked() { Hardness::Cheap } else { Hardness::Normal }
}

pub fn new_run() -> Result<RunId> {
    random().map(RunId)
}

/// This machine's identity, made when there is none.
pub fn writer(settings: &Settings) -> Result<Writer> {
    let path = settings.state_dir.join("writer.pk8");
    let shown = path.display().to_string();
    match std::fs::read(&path) {
        Ok(bytes) => return Ok(Writer::from_pkcs8(&Zeroizing::new(bytes))?),
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(Error::io("cannot read", shown, error)),
    }
    create_private(&settings.state_dir)?;
    let (_, bytes) = Writer::generate()?;
    // Under a name of its own: what a process that was killed left behind is in nobody's way.
    let temporary = settings.state_dir.join(format!("writer.pk8.{:016x}", seed()?));
    write_private(&temporary, &bytes)?;
    // Whoever comes first wins, so that two processes end up with one identity.
    let linked = std::fs::hard_link(&temporary, &path);
    let _ = std::fs::remove_file(&temporary);
    match linked {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(Error::io("cannot create", shown, error)),
        _ => {
            let bytes = std::fs::read(&path).map_err(|error| Error::io("cannot read", shown, error))?;
            Ok(Writer::from_pkcs8(&Zeroizing::new(bytes))?)
        }
    }
}

fn holder(verb: &str) -> String {
    format!("nightkeep {verb} (process {} on {})", std::process::id(), dataset::host())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backup::{self, Context, Request, StreamSource};
    use crate::monitor::{Counters, Monitor};
    use crate::settings::Flags;
    use chunkstore::mark::Action;
    use std::ffi::OsString;
    use std::os::unix::fs::PermissionsExt;
    use std::sync::atomic::AtomicBool;

    struct Silent(Counters);

    impl Monitor for Silent {
        fn counters(&self) -> &Counters {
            &self.0
        }

        fn current(&self, _: &[u8]) {}

        fn problem(&self, item: &[u8], reason: &str) {
            panic!("{}: {reason}", String::from_utf8_lossy(item));
        }

        fn detail(&self, _: &str, _: &[u8]) {}
    }

    struct House {
        dir: tempfile::TempDir,
        settings: Settings,
    }

    impl House {
        fn new() -> House {
            let dir = tempfile::tempdir().unwrap();
            let flags = Flags { repository: Some(dir.path().join("repository").into()), ..Flags::default() };
            let variable = |name: &str| match name {
                "NIGHTKEEP_CACHE_DIR" => Some(dir.path().join("cache").into()),
                "NIGHTKEEP_STATE_DIR" => Some(dir.path().join("state/deep").into()),
                _ => None,
            };
            let settings = Settings::resolve(&flags, &variable, true).unwrap();
            House { dir, settings }
        }

        fn open(&self, purpose: Purpose, passphrase: &[u8]) -> Result<Session> {
            let credential = |_: &str| Ok(Credential::from_text(passphrase)?);
            Session::open(&self.settings, "test", purpose, &credential)
        }

        fn save(&self, text: &str) -> chunkstore::id::SnapshotId {
            let session = self.open(Purpose::Write, b"secret").unwrap();
            let request = Request {
                run: new_run().unwrap(),
                dataset: "h/stream/x".into(),
                host: "h".into(),
                labels: vec!["born".into()],
                dry_run: false,
                skip_if_unchanged: false,
                upload_bytes_per_second: None,
                compression: crate::backup::Compression::default(),
            };
            let context = Context {
                store: session.store(),
                key: &session.keys.write,
                writer: &writer(&self.settings).unwrap(),
                monitor: &Silent(Counters::default()),
                cache_dir: &session.cache_dir(&self.settings).unwrap(),
                deltas: &session.deltas(&self.settings).unwrap(),
                repository_dir: None,
                interrupted: &AtomicBool::new(false),
            };
            let source = StreamSource::Command(vec!["echo".into(), text.into()]);
            backup::stream(&context, &request, &OsString::from("x"), source).unwrap().snapshot.unwrap()
        }
    }

    #[test]
    fn a_place_is_vacant_or_refused_with_its_reason() {
        let house = House::new();
        let place = house.dir.path().join("repository");
        let nothing = house.open(Purpose::Read, b"secret").err().unwrap();
        let named = |place: &str| place.ends_with("/repository");
        assert!(matches!(nothing, Error::Store(chunkstore::Error::NoRepository { place }) if named(&place)));
        std::fs::create_dir(&place).unwrap();
        let empty = house.open(Purpose::Write, b"secret").err().unwrap();
        assert!(matches!(empty, Error::Store(chunkstore::Error::NoRepository { place }) if named(&place)));
        std::fs::write(place.join("letter"), b"x").unwrap();
        assert!(matches!(create(&house.settings, b"secret"), Err(Error::Refused { .. })));
        std::fs::remove_file(place.join("letter")).unwrap();
        create(&house.settings, b"secret").unwrap();
        let again = create(&house.settings, b"secret").err().unwrap();
        assert!(matches!(again, Error::Store(chunkstore::Error::RepositoryExists { .. })));
    }

    #[test]
    fn credentials_open_what_they_should() {
        let house = House::new();
        let created = create(&house.settings, b"secret").unwrap();
        let wrong = house.open(Purpose::Read, b"other").err().unwrap();
        assert!(matches!(wrong, Error::Store(chunkstore::Error::WrongCredential)));
        let with_passphrase = house.open(Purpose::Read, b"secret\n").unwrap();
        let with_recovery = house.open(Purpose::Read, created.recovery_key.as_bytes()).unwrap();
        assert!(with_passphrase.slot.is_some() && with_passphrase.slot != with_recovery.slot);
        let text = with_recovery.keys.write.to_text();
        let write_only = house.open(Purpose::Read, text.as_bytes()).unwrap();
        assert!(write_only.slot.is_none());
        assert!(matches!(write_only.reader(), Err(Error::Store(chunkstore::Error::WriteOnly { .. }))));
    }

    #[test]
    fn a_second_writer_is_told_who_holds_the_lock() {
        let mut house = House::new();
        create(&house.settings, b"secret").unwrap();
        house.settings.lock_wait = std::time::Duration::ZERO;
        let first = house.open(Purpose::Write, b"secret").unwrap();
        let second = house.open(Purpose::Write, b"secret").err().unwrap();
        let process = format!("nightkeep test (process {} on ", std::process::id());
        assert!(matches!(second, Error::Store(chunkstore::Error::Locked { holder }) if holder.contains(&process)));
        house.open(Purpose::Read, b"secret").unwrap();
        drop(first);
        house.open(Purpose::Write, b"secret").unwrap();
    }

    #[test]
    fn the_identity_is_made_once_and_kept_private() {
        let house = House::new();
        let keys: Vec<[u8; 32]> = std::thread::scope(|scope| {
            let threads: Vec<_> =
                (0..4).map(|_| scope.spawn(|| writer(&house.settings).unwrap().public_key())).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(keys.iter().all(|key| *key == keys[0]));
        let mode = |path: &str| {
            let path = house.dir.path().join("state/deep").join(path);
            std::fs::metadata(path).unwrap().permissions().mode() & 0o777
        };
        assert_eq!((mode("."), mode("writer.pk8")), (0o700, 0o600));
        assert_eq!(std::fs::read_dir(&house.settings.state_dir).unwrap().count(), 1);
        std::fs::write(house.settings.state_dir.join("writer.pk8"), b"not a key").unwrap();
        assert!(writer(&house.settings).is_err());
    }

    #[test]
    fn marks_change_what_history_says() {
        let house = House::new();
        create(&house.settings, b"secret").unwrap();
        let (first, second) = (house.save("one"), house.save("two"));
        let session = house.open(Purpose::Write, b"secret").unwrap();
        let mut history = session.history().unwrap();
        assert_eq!(history.versions.iter().map(|v| v.id).collect::<Vec<_>>(), [first, second]);
        let label = || "later".to_owned();
        for action in [
            Action::Forget,
            Action::Pin,
            Action::AddLabel(label()),
            Action::Undelete,
            Action::RemoveLabel("born".into()),
            Action::Forget,
            Action::Unpin,
        ] {
            history.mark(session.store(), &session.keys.write, first, action).unwrap();
        }
        let history = session.history().unwrap();
        let state = &history.versions[0].state;
        assert!(state.forgotten.is_some() && !state.pinned);
        assert_eq!(state.labels.iter().collect::<Vec<_>>(), [&label()]);
        assert_eq!(history.present().map(|v| v.id).collect::<Vec<_>>(), [second]);
        assert_eq!(history.datasets()["h/stream/x"].len(), 1);
        let since = state.forgotten.unwrap();
        assert_eq!(history.versions[0].recoverable_until(2), Some(since + 2_000_000_000));
        assert_eq!(history.versions[1].recoverable_until(2), None);

        // Who reads the marks anew goes on counting where they end.
        let mut anew = session.history().unwrap();
        anew.mark(session.store(), &session.keys.write, first, Action::Undelete).unwrap();
        assert!(session.history().unwrap().versions[0].state.forgotten.is_none());
    }

    #[test]
    fn damaged_snapshots_are_named_until_they_are_given_up() {
        let house = House::new();
        create(&house.settings, b"secret").unwrap();
        let (first, second) = (house.save("one"), house.save("two"));
        let path = house.dir.path().join(format!("repository/snapshots/{first}"));
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[40] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        let session = house.open(Purpose::Write, b"secret").unwrap();
        let mut history = session.history().unwrap();
        assert_eq!(history.versions.len(), 1);
        assert_eq!(history.versions[0].id, second);
        assert_eq!((history.damaged[0].snapshot, history.damaged[0].given_up), (Some(first), false));
        history.mark(session.store(), &session.keys.write, first, Action::Forget).unwrap();
        assert!(session.history().unwrap().damaged[0].given_up);
    }
}
