//! What tests of backups share: a repository in memory, a monitor that remembers.

use crate::monitor::{Counters, Monitor};
use chunkstore::backend::Backend;
use chunkstore::backend::simulated::Simulated;
use chunkstore::configuration::Configuration;
use chunkstore::id::RepositoryId;
use chunkstore::key::Keys;
use chunkstore::repository::{Access, Repository};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A monitor that remembers what it was told.
#[derive(Default)]
pub struct Told {
    counters: Counters,
    lines: Mutex<Vec<String>>,
}

impl Told {
    pub fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap().clone()
    }
}

impl Monitor for Told {
    fn counters(&self) -> &Counters {
        &self.counters
    }

    fn current(&self, _: &[u8]) {}

    fn problem(&self, item: &[u8], reason: &str) {
        self.lines.lock().unwrap().push(format!("problem {}: {reason}", item.escape_ascii()));
    }

    fn detail(&self, verb: &str, item: &[u8]) {
        self.lines.lock().unwrap().push(format!("{verb} {}", item.escape_ascii()));
    }
}

/// A repository in memory, its index and the change caches in a directory of their own.
pub struct Fixture {
    pub repository: Arc<Repository>,
    pub keys: Keys,
    pub temp: tempfile::TempDir,
}

impl Fixture {
    pub fn new() -> Fixture {
        let backend: Arc<dyn Backend> = Arc::new(Simulated::new());
        let configuration = Configuration::new(RepositoryId([7; 16]), 0);
        Repository::create(&*backend, &configuration).unwrap();
        let keys = Keys::generate(&configuration).unwrap();
        let temp = tempfile::tempdir().unwrap();
        let access = Access::Write { holder: "test".into(), wait: Duration::ZERO };
        let repository = Repository::open_backend(backend, &temp.path().join("catalog.sqlite3"), access, 0).unwrap();
        Fixture { repository: Arc::new(repository), keys, temp }
    }
}
