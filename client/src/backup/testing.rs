//! What tests of backups share: a repository in memory, a monitor that remembers, a look at what was saved.

use crate::backup::{Compression, Context, Deltas, FilesOptions, Outcome, Request, StreamSource, files, stream};
use crate::monitor::{Counters, Monitor};
use chunkstore::Result;
use chunkstore::backend::Backend;
use chunkstore::backend::simulated::Simulated;
use chunkstore::codec::Opener;
use chunkstore::configuration::Configuration;
use chunkstore::id::{RepositoryId, RunId};
use chunkstore::key::Keys;
use chunkstore::reader::Reader;
use chunkstore::repository::{Access, Repository};
use chunkstore::snapshot::{Snapshot, Writer};
use chunkstore::store::Store;
use chunkstore::tree::{Entry, Node};
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A monitor that remembers what it was told, and may act on it: also whenever bytes are counted, which is while a file
/// is being read.
#[derive(Default)]
pub struct Told {
    counters: Counters,
    lines: Mutex<Vec<String>>,
    act: Option<Act>,
}

type Act = Box<dyn Fn(&str) + Send + Sync>;

impl Told {
    pub fn acting(act: impl Fn(&str) + Send + Sync + 'static) -> Told {
        Told { act: Some(Box::new(act)), ..Told::default() }
    }

    pub fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap().clone()
    }

    pub fn problems(&self) -> Vec<String> {
        self.lines().into_iter().filter(|line| line.starts_with("problem ")).collect()
    }

    fn tell(&self, line: String) {
        if let Some(act) = &self.act {
            act(&line);
        }
        self.lines.lock().unwrap().push(line);
    }
}

impl Monitor for Told {
    fn counters(&self) -> &Counters {
        if let Some(act) = &self.act {
            act("counters");
        }
        &self.counters
    }

    fn current(&self, item: &[u8]) {
        if let Some(act) = &self.act {
            act(&format!("current {}", item.escape_ascii()));
        }
    }

    fn problem(&self, item: &[u8], reason: &str) {
        self.tell(format!("problem {}: {reason}", item.escape_ascii()));
    }

    fn detail(&self, verb: &str, item: &[u8]) {
        self.tell(format!("{verb} {}", item.escape_ascii()));
    }
}

/// A repository in memory, its index and the change caches in a directory of their own.
pub struct Fixture {
    pub backend: Arc<Simulated>,
    pub repository: Arc<Repository>,
    pub keys: Keys,
    pub writer: Writer,
    pub temp: tempfile::TempDir,
    pub interrupted: Arc<AtomicBool>,
    pub deltas: Deltas,
}

impl Fixture {
    pub fn new() -> Fixture {
        Fixture::with(Fixture::configuration())
    }

    pub fn configuration() -> Configuration {
        Configuration::new(RepositoryId([7; 16]), 0)
    }

    pub fn with(configuration: Configuration) -> Fixture {
        let backend = Arc::new(Simulated::new());
        Repository::create(&*backend, &configuration).unwrap();
        let temp = tempfile::tempdir().unwrap();
        Fixture {
            repository: Arc::new(open(backend.clone(), temp.path())),
            backend,
            keys: Keys::generate(&configuration).unwrap(),
            writer: Writer::generate().unwrap().0,
            temp,
            interrupted: Arc::default(),
            deltas: Deltas::Off,
        }
    }

    /// As after a restart of the process; with `forget`, the index is made anew from the packs.
    pub fn reopen(&mut self, forget: bool) {
        let catalog = self.temp.path().join("catalog.sqlite3");
        self.backend = Arc::new(self.backend.restarted());
        let elsewhere = tempfile::tempdir().unwrap();
        let other = Arc::new(Simulated::new());
        Repository::create(&*other, self.repository.configuration()).unwrap();
        // The old one is closed before its catalogue is opened again.
        self.repository = Arc::new(open(other, elsewhere.path()));
        if forget {
            for suffix in ["", "-wal", "-shm"] {
                let _ = std::fs::remove_file(format!("{}{suffix}", catalog.display()));
            }
        }
        self.repository = Arc::new(open(self.backend.clone(), self.temp.path()));
    }

    pub fn request() -> Request {
        Request {
            run: RunId([3; 16]),
            dataset: "host/files/test".into(),
            host: "host".into(),
            labels: Vec::new(),
            dry_run: false,
            skip_if_unchanged: false,
            upload_bytes_per_second: None,
            compression: Compression::default(),
        }
    }

    pub fn context<'a>(&'a self, told: &'a Told, cache_dir: &'a Path) -> Context<'a> {
        Context {
            store: &*self.repository,
            key: &self.keys.write,
            writer: &self.writer,
            monitor: told,
            cache_dir,
            deltas: &self.deltas,
            repository_dir: None,
            interrupted: &self.interrupted,
        }
    }

    pub fn cache_dir(&self) -> std::path::PathBuf {
        self.temp.path().join("cache")
    }

    /// All of one directory.
    pub fn save(&self, top: &Path) -> (Outcome, Told) {
        self.save_with(&FilesOptions { paths: vec![top.to_owned()], ..FilesOptions::default() }, Told::default())
    }

    pub fn save_with(&self, options: &FilesOptions, told: Told) -> (Outcome, Told) {
        let outcome = self.try_save(options, &told).unwrap();
        (outcome, told)
    }

    pub fn try_save(&self, options: &FilesOptions, told: &Told) -> Result<Outcome> {
        files(&self.context(told, &self.cache_dir()), &Fixture::request(), options)
    }

    pub fn save_stream(&self, name: &str, command: &[&str]) -> Result<Outcome> {
        self.save_stream_as(&Fixture::request(), name, command)
    }

    pub fn save_stream_as(&self, request: &Request, name: &str, command: &[&str]) -> Result<Outcome> {
        let source = StreamSource::Command(command.iter().map(Into::into).collect());
        let told = Told::default();
        stream(&self.context(&told, &self.cache_dir()), request, &name.into(), source)
    }

    pub fn reader(&self) -> Reader {
        let opener = Opener::new(&self.keys, self.repository.configuration()).unwrap();
        Reader::new(self.repository.clone(), opener)
    }

    pub fn snapshot(&self, outcome: &Outcome) -> Snapshot {
        let id = outcome.snapshot.unwrap();
        let found = self.repository.snapshots().unwrap().into_iter().find(|(found, _)| *found == id);
        found.unwrap().1.unwrap()
    }

    /// All entries of a snapshot by absolute path.
    pub fn entries(&self, outcome: &Outcome) -> BTreeMap<Vec<u8>, Entry> {
        let reader = self.reader();
        let mut found = BTreeMap::new();
        let mut todo = vec![(Vec::new(), self.snapshot(outcome).summary.root)];
        while let Some((path, tree)) = todo.pop() {
            let mut visit = |entry: Entry| {
                let path = [&path, &b"/"[..], &entry.name].concat();
                if let Node::Directory(tree) = entry.node {
                    todo.push((path.clone(), tree));
                }
                assert!(found.insert(path, entry).is_none());
                Ok(ControlFlow::Continue(()))
            };
            reader.entries(tree, &mut visit).unwrap();
        }
        found
    }

    /// Entries below a directory, by path relative to it.
    pub fn entries_below(&self, outcome: &Outcome, top: &Path) -> BTreeMap<String, Entry> {
        let top = [top.as_os_str().as_bytes(), b"/"].concat();
        let below = |path: Vec<u8>| path.strip_prefix(&top[..]).map(|path| path.escape_ascii().to_string());
        self.entries(outcome).into_iter().filter_map(|(path, entry)| Some((below(path)?, entry))).collect()
    }

    pub fn content(&self, entry: &Entry) -> Vec<u8> {
        let Node::File(content) = &entry.node else { panic!("no file") };
        self.reader().read_at(content, 0, usize::try_from(content.size()).unwrap()).unwrap()
    }
}

pub fn open(backend: Arc<dyn Backend>, temp: &Path) -> Repository {
    let access = Access::Write { holder: "test".into(), wait: Duration::ZERO };
    Repository::open_backend(backend, &temp.join("catalog.sqlite3"), access, 0).unwrap()
}
