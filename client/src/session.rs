//! From settings to an opened repository: place, lock, keys, this machine's identity as a writer.
//!
//! A `Session` holds the writer lock, if it was opened for writing, until it is dropped.

use crate::clock;
use crate::dataset;
use crate::error::{Error, Result};
use crate::history::History;
use crate::settings::Settings;
use chunkstore::backend::Backend;
use chunkstore::backend::directory::Directory;
use chunkstore::codec::Opener;
use chunkstore::configuration::Configuration;
use chunkstore::id::{RepositoryId, RunId, SlotId};
use chunkstore::key::{self, Credential, Hardness, Keys};
use chunkstore::reader::Reader;
use chunkstore::repository::{Access, Repository, read_configuration};
use chunkstore::snapshot::Writer;
use chunkstore::store::Store;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use zeroize::Zeroizing;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Purpose {
    Read,
    Write,
}

pub struct Session {
    pub repository: Arc<Repository>,
    pub keys: Keys,
    /// The key slot that the credential opened; none for a write-only key.
    pub slot: Option<SlotId>,
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
        let (place, backend, configuration) = locate(settings)?;
        let (slot, keys) = key::unlock_with_slot(&*backend, &configuration, &credential(&place)?)?;
        let access = match purpose {
            Purpose::Read => Access::Read,
            Purpose::Write => Access::Write { holder: holder(verb), wait: settings.lock_wait },
        };
        let repository = Repository::open(settings.directory()?, access, clock::seconds())?;
        Ok(Session { repository: Arc::new(repository), keys, slot })
    }

    pub fn store(&self) -> &dyn Store {
        &*self.repository
    }

    pub fn configuration(&self) -> &Configuration {
        self.repository.configuration()
    }

    pub fn history(&self) -> Result<History> {
        History::load(self.store(), &self.keys.write)
    }

    /// Fails with a write-only key.
    pub fn reader(&self) -> Result<Reader> {
        let opener = Opener::new(&self.keys, self.configuration())?;
        let store: Arc<dyn Store> = Arc::<Repository>::clone(&self.repository);
        Ok(Reader::new(store, opener))
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
    let path = settings.directory()?;
    create_private(path)?;
    let now = clock::now();
    let configuration = Configuration::new(RepositoryId(random()?), now);
    let backend: Arc<dyn Backend> = Arc::new(Directory::create(path)?);
    let keys = Keys::generate(&configuration)?;
    key::add_passphrase(&*backend, &configuration, &keys, passphrase, "first", now, hardness())?;
    let (_, recovery_key) = key::add_recovery(&*backend, &configuration, &keys, now)?;
    Repository::create(&*backend, &configuration)?;
    Ok(Created { place: path.display().to_string(), configuration, recovery_key })
}

/// The repository's objects and configuration, without its keys.
pub fn locate(settings: &Settings) -> Result<(String, Arc<dyn Backend>, Configuration)> {
    let path = settings.directory()?;
    let backend: Arc<dyn Backend> = Arc::new(Directory::open(path)?);
    let place = path.display().to_string();
    let configuration = read_configuration(&*backend).map_err(|error| match error {
        chunkstore::Error::NoRepository { .. } => chunkstore::Error::NoRepository { place: place.clone() },
        other => other,
    })?;
    Ok((place, backend, configuration))
}

/// How hard new passphrase slots are to try. Only debug builds can be asked for the cheap setting of tests.
pub fn hardness() -> Hardness {
    if cfg!(debug_assertions) && std::env::var_os("NIGHTKEEP_TEST_CHEAP_KDF").is_some_and(|value| value == "1") {
        Hardness::Cheap
    } else {
        Hardness::Normal
    }
}

pub fn new_run() -> Result<RunId> {
    random().map(RunId)
}

/// A number to choose by, different each time.
pub fn seed() -> Result<u64> {
    random().map(u64::from_le_bytes)
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
    let temporary = settings.state_dir.join(format!("writer.pk8.{}", std::process::id()));
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

/// A new file that only its owner may read.
pub fn write_private(path: &Path, bytes: &[u8]) -> Result<()> {
    let failed = |error| Error::io("cannot create", path.display().to_string(), error);
    let mut file: File = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(failed)
}

fn create_private(dir: &Path) -> Result<()> {
    let failed = |error| Error::io("cannot create", dir.display().to_string(), error);
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed)
}

fn holder(verb: &str) -> String {
    format!("nightkeep {verb} (process {} on {})", std::process::id(), dataset::host())
}

fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    let failed = |error: getrandom::Error| Error::io("cannot read", "random numbers", std::io::Error::other(error));
    getrandom::fill(&mut bytes).map_err(failed)?;
    Ok(bytes)
}
