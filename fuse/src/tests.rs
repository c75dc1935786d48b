//! What only shows inside: how much is remembered, and what a store that falls silent does to those who read. They mount
//! with the kernel's own device; where that is missing they say so and do nothing.

use crate::listing::{Listing, Shown};
use crate::mount::{self, Mount, Options, Source};
use crate::patience::Patient;
use chunkstore::Result;
use chunkstore::backend::directory::Directory;
use chunkstore::capsule::Capsule;
use chunkstore::codec::{Opener, Sealer};
use chunkstore::configuration::Configuration;
use chunkstore::id::{BlobId, CapsuleId, HalfTag, MarkId, Reference, RepositoryId, RunId, SnapshotId, Tag};
use chunkstore::key::Keys;
use chunkstore::list::Item;
use chunkstore::mark::Mark;
use chunkstore::reader::Reader;
use chunkstore::record::{Kind, Record};
use chunkstore::repository::{Access, Repository};
use chunkstore::snapshot::Snapshot;
use chunkstore::store::Store;
use chunkstore::tree::{Attributes, Content, Entry, Node};
use chunkstore::writer::{BlobWriter, ListBuilder, TreeBuilder};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

fn available() -> bool {
    let device = std::fs::File::options().read(true).write(true).open("/dev/fuse");
    if rustix::process::geteuid().is_root() && device.is_ok() {
        return true;
    }
    println!("SKIPPED: no mount without root and /dev/fuse");
    false
}

/// A repository and a tree in it.
struct Setup {
    dir: tempfile::TempDir,
    store: Arc<dyn Store>,
    keys: Keys,
    root: Reference,
}

impl Setup {
    fn new(build: impl FnOnce(&BlobWriter<'_>) -> Reference) -> Setup {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("repository");
        let configuration = Configuration::new(RepositoryId([7; 16]), 0);
        let keys = Keys::generate(&configuration).unwrap();
        Repository::create(&Directory::create(&place).unwrap(), &configuration).unwrap();
        let access = Access::Write { holder: "a test".into(), wait: Duration::ZERO };
        let store: Arc<dyn Store> = Arc::new(Repository::open(&place, access, 0).unwrap());
        let root = build(&BlobWriter::new(&*store, Sealer::new(&keys.write, &configuration).unwrap()));
        store.flush().unwrap();
        Setup { dir, store, keys, root }
    }

    fn mount(&self, store: Arc<dyn Store>, rows_max: usize) -> Mounted {
        let opener = Opener::new(&self.keys, store.configuration()).unwrap();
        let shown = Shown {
            id: SnapshotId([0xab; 32]),
            run: RunId::default(),
            dataset: "h/files/x".into(),
            time: 0,
            root: self.root,
            name: "now".into(),
            exact_name: "now.0".into(),
            dump_name: None,
        };
        let said: Arc<Mutex<Vec<String>>> = Arc::default();
        let telling = Arc::clone(&said);
        let source = Source {
            reader: Arc::new(Reader::with_caches(store, opener, 8 << 20, 1 << 20)),
            listing: Listing { snapshots: vec![shown], stored_bytes: 0 },
            refresh: Box::new(|| Ok(None)),
            log: Box::new(move |item, reason| {
                telling.lock().unwrap().push(format!("{}: {reason}", String::from_utf8_lossy(item)));
            }),
        };
        let place = self.dir.path().join("mount");
        std::fs::create_dir_all(&place).unwrap();
        let options = Options {
            allow_other: false,
            all_root: false,
            security: false,
            cache_bytes: 1 << 20,
            poll: Duration::from_secs(60),
            rows_max,
        };
        let mount = mount::mount(&mount::check(&place, None).unwrap(), source, &options).unwrap();
        Mounted { mount, top: place.join("by-id/abababab"), said }
    }
}

struct Mounted {
    mount: Mount,
    top: std::path::PathBuf,
    said: Arc<Mutex<Vec<String>>>,
}

fn entry(name: &str, node: Node) -> Entry {
    Entry { name: name.into(), attributes: Attributes { mode: 0o755, ..Attributes::default() }, node }
}

fn directory(writer: &BlobWriter<'_>, entries: &[Entry]) -> Reference {
    let mut builder = TreeBuilder::new();
    for entry in entries {
        builder.push(&entry.name, &entry.encode(), &entry.links(), writer).unwrap();
    }
    builder.finish(writer).unwrap()
}

/// Looks at every attribute below a directory; how many entries there are.
fn walk(top: &Path) -> usize {
    let entries = std::fs::read_dir(top).unwrap().map(|entry| entry.unwrap());
    entries.map(|entry| 1 + if entry.metadata().unwrap().is_dir() { walk(&entry.path()) } else { 0 }).sum()
}

#[test]
fn what_the_kernel_remembers_is_bounded() {
    if !available() {
        return;
    }
    let setup = Setup::new(|writer| {
        let file = |number: usize| entry(&format!("{number:05}"), Node::File(Content::Inline(vec![1])));
        let files: Vec<Entry> = (0..500).map(file).collect();
        let full = directory(writer, &files);
        let directories: Vec<Entry> = (0..40).map(|at| entry(&format!("{at:02}"), Node::Directory(full))).collect();
        directory(writer, &directories)
    });
    let mounted = setup.mount(Arc::clone(&setup.store), 2000);
    for _ in 0..2 {
        assert_eq!(walk(&mounted.top), 40 * 501);
    }
    let begun = Instant::now();
    while mounted.mount.remembered() > 2000 + 500 {
        assert!(begun.elapsed() < Duration::from_secs(20), "{} rows", mounted.mount.remembered());
        std::thread::sleep(Duration::from_millis(50));
    }
    // What was forgotten is found again, under the same number.
    let number = |path: &Path| std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(path).unwrap());
    let first = mounted.top.join("00/00000");
    assert_eq!(number(&first), number(&first));
    assert_eq!(std::fs::read(first).unwrap(), [1]);
    assert!(mounted.said.lock().unwrap().is_empty());
}

/// A store that can be made to answer nothing for a while.
struct Gate {
    store: Arc<dyn Store>,
    shut: AtomicBool,
}

impl Gate {
    fn pass(&self) {
        while self.shut.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Store for Gate {
    fn configuration(&self) -> &Configuration {
        self.store.configuration()
    }

    fn known(&self, tags: &[Tag]) -> Result<Vec<Option<BlobId>>> {
        self.store.known(tags)
    }

    fn present(&self, ids: &[BlobId]) -> Result<Vec<bool>> {
        self.store.present(ids)
    }

    fn generation(&self) -> Result<[u8; 16]> {
        self.store.generation()
    }

    fn alternate(&self, tag: HalfTag) -> Result<Option<BlobId>> {
        self.pass();
        self.store.alternate(tag)
    }

    fn put(&self, record: Record, capsule: &Capsule) -> Result<BlobId> {
        self.store.put(record, capsule)
    }

    fn flush(&self) -> Result<()> {
        self.store.flush()
    }

    fn commit(&self, snapshot: &Snapshot) -> Result<()> {
        self.store.commit(snapshot)
    }

    fn snapshots(&self) -> Result<Vec<(SnapshotId, Result<Snapshot>)>> {
        self.store.snapshots()
    }

    fn marks(&self) -> Result<Vec<(MarkId, Result<(Mark, Vec<u8>)>)>> {
        self.store.marks()
    }

    fn mark(&self, object: &[u8]) -> Result<()> {
        self.store.mark(object)
    }

    fn arrange(&self, ids: &[BlobId]) -> Result<Vec<Vec<usize>>> {
        self.pass();
        self.store.arrange(ids)
    }

    fn read(&self, ids: &[BlobId]) -> Result<Vec<Result<Record>>> {
        self.pass();
        self.store.read(ids)
    }

    fn capsule(&self, id: CapsuleId) -> Result<Capsule> {
        self.store.capsule(id)
    }
}

#[test]
fn a_silent_store_is_an_error_in_time_and_then_forgiven() {
    if !available() {
        return;
    }
    let chunk = |number: u8| vec![number; 100_000];
    let setup = Setup::new(|writer| {
        let mut list = ListBuilder::new();
        for number in 0..100 {
            let link = writer.put(Kind::Chunk, &chunk(number), &[]).unwrap();
            list.push(Item::Chunk { len: 100_000, link }, writer).unwrap();
        }
        directory(writer, &[entry("file", Node::File(list.finish(writer).unwrap()))])
    });
    let gate = Arc::new(Gate { store: Arc::clone(&setup.store), shut: AtomicBool::new(false) });
    let patient = Arc::new(Patient::new(Arc::<Gate>::clone(&gate), Duration::from_millis(700)));
    let mounted = setup.mount(patient, 1000);
    let path = mounted.top.join("file");
    let file = std::fs::File::open(&path).unwrap();
    let read = |number: u8| {
        let mut bytes = vec![0; 50_000];
        let offset = u64::from(number) * 100_000 + 20_000;
        std::os::unix::fs::FileExt::read_exact_at(&file, &mut bytes, offset).map(|()| bytes)
    };
    assert!(read(3).unwrap() == chunk(3)[..50_000]);
    gate.shut.store(true, Ordering::SeqCst);
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for number in [60, 70, 80, 90] {
            scope.spawn(move || assert_eq!(read(number).unwrap_err().raw_os_error(), Some(5)));
        }
    });
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
    assert!(read(3).unwrap() == chunk(3)[..50_000], "what is at hand stays readable");
    assert!(mounted.said.lock().unwrap().iter().any(|line| line.contains("does not answer")));
    gate.shut.store(false, Ordering::SeqCst);
    std::thread::sleep(Duration::from_millis(100));
    for number in [60, 70, 80, 90] {
        assert!(read(number).unwrap() == chunk(number)[..50_000]);
    }
}

#[test]
fn the_end_of_a_mount_that_is_gone_leaves_its_successor_alone() {
    if !available() {
        return;
    }
    let setup = Setup::new(|writer| directory(writer, &[entry("file", Node::File(Content::Inline(vec![1])))]));
    let first = setup.mount(Arc::clone(&setup.store), 1000);
    rustix::mount::unmount(setup.dir.path().join("mount"), rustix::mount::UnmountFlags::empty()).unwrap();
    while !first.mount.is_over() {
        std::thread::sleep(Duration::from_millis(1));
    }
    let second = setup.mount(Arc::clone(&setup.store), 1000);
    assert_eq!(first.mount.unmount(), mount::End::Clean);
    assert_eq!(std::fs::read(second.top.join("file")).unwrap(), [1]);
}
