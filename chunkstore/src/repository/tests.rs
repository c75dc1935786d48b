//! The whole of a repository against its promises: at every operation a stop or an error, with the index old, ahead or gone.

use super::*;
use crate::backend::simulated::{Fault, Simulated};
use crate::codec::{Opener, Sealer};
use crate::gc::{PruneOptions, PruneOutcome};
use crate::id::{Reference, RepositoryId, RunId};
use crate::key::Keys;
use crate::list::{Item, List};
use crate::mark::{Action, Believed};
use crate::record::Kind;
use crate::snapshot::{Details, Summary, Totals, Writer};
use crate::tree::{Attributes, Content, Entry, Node, Tree};
use crate::writer::BlobWriter;
use std::io;

const DAY: i64 = 86_400;

pub(crate) struct World {
    pub configuration: Configuration,
    pub keys: Keys,
    writer: Writer,
    pub backend: Arc<Simulated>,
    dir: tempfile::TempDir,
}

impl World {
    pub fn new() -> World {
        let mut configuration = Configuration::new(RepositoryId([7; 16]), 0);
        configuration.pack_bytes_target = 1 << 20;
        let keys = Keys::generate(&configuration).unwrap();
        let backend = Arc::new(Simulated::new());
        Repository::create(&*backend, &configuration).unwrap();
        let (writer, _) = Writer::generate().unwrap();
        World { configuration, keys, writer, backend, dir: tempfile::tempdir().unwrap() }
    }

    pub fn catalog(&self) -> std::path::PathBuf {
        self.dir.path().join("catalog.sqlite3")
    }

    pub fn open(&self, access: Access, now: i64) -> Result<Repository> {
        Repository::open_backend(self.backend.clone(), &self.catalog(), access, now)
    }

    pub fn write(&self, now: i64) -> Result<Repository> {
        self.open(Access::Write { holder: "a test".into(), wait: Duration::ZERO }, now)
    }

    pub fn read(&self) -> Repository {
        self.open(Access::Read, 0).unwrap()
    }

    /// A snapshot of one directory: a small file inline, a large one of `chunks` chunks that differ by `seed`, two chunks the same for all.
    pub fn backup(&self, repository: &dyn Store, seed: u8, chunks: usize) -> Result<Snapshot> {
        let sealer = Sealer::new(&self.keys.write, &self.configuration)?;
        let writer = BlobWriter::new(repository, sealer);
        let mut items = Vec::new();
        for n in 0..chunks {
            let content = if n < 2 { shared(n) } else { own(seed, n) };
            let link = writer.put(Kind::Chunk, &content, &[])?;
            items.push(Item::Chunk { len: content.len() as u64, link });
        }
        let size = crate::list::total(&items).unwrap();
        let list = List { level: 0, items };
        let root = writer.put(Kind::List, &list.encode(), &list.links())?;
        let file = |name: &str, content| Entry {
            name: name.into(),
            attributes: Attributes::default(),
            node: Node::File(content),
        };
        let tree = Tree::Leaf(vec![
            file("large", Content::List { size, root }),
            file("small", Content::Inline(vec![seed; 9])),
        ]);
        let root = writer.put(Kind::Tree, &tree.encode(), &tree.links())?;
        let snapshot = self.snapshot(&writer.sealer, root, seed)?;
        repository.commit(&snapshot)?;
        Ok(snapshot)
    }

    pub fn snapshot(&self, sealer: &Sealer, root: Reference, seed: u8) -> Result<Snapshot> {
        let summary = Summary {
            repository: self.configuration.repository,
            run: RunId([seed; 16]),
            dataset: "host/files/test".into(),
            time: i64::from(seed),
            incomplete: false,
            root,
            writer: self.writer.public_key(),
            sequence: u64::from(seed),
            previous: None,
            labels: Vec::new(),
            totals: Totals::default(),
        };
        Snapshot::seal(summary, &Details::default(), sealer, &self.writer)
    }

    /// Reads back all of a snapshot; the number of chunks.
    pub fn restore(&self, repository: &Repository, snapshot: &Snapshot) -> Result<usize> {
        let opener = Opener::new(&self.keys, &self.configuration)?;
        let open = |link: Reference, kind| {
            let record = repository.read(&[link.id])?.remove(0)?;
            opener.open(&record, kind, &|id| repository.capsule(id), &|id| Err(Error::missing(id.to_string())))
        };
        let seed = u8::try_from(snapshot.summary.sequence).unwrap();
        let Tree::Leaf(entries) = Tree::decode(&open(snapshot.summary.root, Kind::Tree)?, "tree")? else {
            return Err(Error::corrupt("tree", "level"));
        };
        let Node::File(Content::List { root, .. }) = &entries[0].node else {
            return Err(Error::corrupt("tree", "content"));
        };
        let list = List::decode(&open(*root, Kind::List)?, "list")?;
        for (n, item) in list.items.iter().enumerate() {
            let content = open(item.link().unwrap(), Kind::Chunk)?;
            assert_eq!(content, if n < 2 { shared(n) } else { own(seed, n) });
        }
        Ok(list.items.len())
    }

    pub fn forget(&self, repository: &dyn Store, snapshot: &Snapshot, time: i64) -> Result<()> {
        let mark = Mark {
            repository: self.configuration.repository,
            snapshot: snapshot.id,
            action: Action::Forget,
            counter: 1,
            time: time * 1_000_000_000,
        };
        repository.mark(&mark.encode(&self.keys.write))
    }

    pub fn prune(&self, repository: &Repository, now: i64, grace: i64) -> Result<PruneOutcome> {
        let options = PruneOptions {
            grace: Duration::from_secs(grace.unsigned_abs()),
            now: now * 1_000_000_000,
            dry_run: false,
            arrived: Default::default(),
        };
        repository.prune(Believed::Key(&self.keys.write, None), &options)
    }

    /// What a restart finds: the objects, without locks and faults.
    fn restart(&mut self) {
        self.backend = Arc::new(self.backend.restarted());
    }

    pub fn committed(&self) -> Vec<Snapshot> {
        self.read().snapshots().unwrap().into_iter().map(|(_, snapshot)| snapshot.unwrap()).collect()
    }
}

/// Incompressible, so that packs fill.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

pub(crate) fn shared(n: usize) -> Vec<u8> {
    noise(n as u64, 50_000)
}

pub(crate) fn own(seed: u8, n: usize) -> Vec<u8> {
    noise(u64::from(seed) * 1000 + n as u64, 60_000)
}

fn packs(world: &World) -> Vec<(ObjectName, u64)> {
    world.backend.list(ObjectKind::Pack).unwrap()
}

#[test]
fn what_is_committed_is_read_back_and_deduplicated() {
    let world = World::new();
    let repository = world.write(0).unwrap();
    let first = world.backup(&repository, 1, 40).unwrap();
    let before: u64 = packs(&world).iter().map(|(_, len)| len).sum();
    let second = world.backup(&repository, 2, 2).unwrap();
    let added: u64 = packs(&world).iter().map(|(_, len)| len).sum::<u64>() - before;
    assert!(added < 5_000, "{added} bytes for two nodes");
    drop(repository);
    let reader = world.read();
    assert_eq!(world.restore(&reader, &first).unwrap(), 40);
    assert_eq!(world.restore(&reader, &second).unwrap(), 2);
    assert!(matches!(reader.mark(b""), Err(Error::Invalid { .. })), "a reader writes nothing");
}

#[test]
fn a_second_writer_is_told_who_holds_the_lock_and_readers_run() {
    let world = World::new();
    let repository = world.write(0).unwrap();
    assert!(matches!(world.write(0), Err(Error::Locked { .. })));
    let snapshot = world.backup(&repository, 1, 3).unwrap();
    assert_eq!(world.restore(&world.read(), &snapshot).unwrap(), 3);
    drop(repository);
    world.write(0).unwrap();
}

#[test]
fn links_must_be_there() {
    let world = World::new();
    let repository = world.write(0).unwrap();
    let sealer = Sealer::new(&world.keys.write, &world.configuration).unwrap();
    let list = List { level: 0, items: vec![Item::Chunk { len: 1, link: Reference::default() }] };
    let tag = world.keys.write.tag(Kind::List, &list.encode());
    let record = sealer.seal(Kind::List, tag, &list.encode(), &list.links()).unwrap();
    assert!(matches!(repository.put(record, &sealer.capsule), Err(Error::Missing { .. })));
    let snapshot = world.snapshot(&sealer, Reference::default(), 1).unwrap();
    assert!(matches!(repository.commit(&snapshot), Err(Error::Missing { .. })));
    assert!(world.committed().is_empty());
}

/// Runs `work` on a fresh world with a fault at each operation in turn, until it passes without meeting one.
fn at_every_operation(
    fault: Fault,
    prepare: &dyn Fn(&World),
    work: &dyn Fn(&World) -> Result<()>,
    after: &dyn Fn(&mut World, bool),
) {
    for nth in 1.. {
        assert!(nth < 500, "the work never ends");
        let mut world = World::new();
        prepare(&world);
        let start = world.backend.operations();
        world.backend.arm(nth, fault);
        let done = work(&world).is_ok();
        let met = world.backend.operations() - start >= nth;
        world.restart();
        after(&mut world, done);
        if !met {
            assert!(done, "work fails without a fault");
            return;
        }
    }
}

const FAULTS: [Fault; 4] = [
    Fault::Stop { applied: false },
    Fault::Stop { applied: true },
    Fault::Error(io::ErrorKind::StorageFull),
    Fault::Error(io::ErrorKind::Other),
];

#[test]
fn a_backup_stopped_anywhere_loses_nothing_and_the_next_completes() {
    for fault in FAULTS {
        at_every_operation(
            fault,
            &|world| {
                world.backup(&world.write(0).unwrap(), 1, 5).unwrap();
            },
            &|world| {
                let repository = world.write(DAY)?;
                world.backup(&repository, 2, 40).map(|_| ())
            },
            &|world, done| {
                let committed = world.committed();
                // A stop after the commit point is a commit that nobody was told of.
                assert!(committed.len() == 2 || committed.len() == 1 && !done, "{fault:?}");
                for snapshot in &committed {
                    world.restore(&world.read(), snapshot).unwrap();
                }
                let repository = world.write(2 * DAY).unwrap();
                let third = world.backup(&repository, 2, 40).unwrap();
                assert_eq!(world.restore(&repository, &third).unwrap(), 40);
            },
        );
    }
}

/// Packs are stored by a thread that nobody waits for.
#[test]
fn a_pack_that_cannot_be_stored_is_told_with_its_own_reason() {
    for nth in 1.. {
        let world = World::new();
        let repository = world.write(0).unwrap();
        world.backend.arm(nth, Fault::Error(io::ErrorKind::StorageFull));
        match world.backup(&repository, 1, 40) {
            Err(Error::Full { .. }) => {}
            Ok(_) => {
                assert!(nth > 4, "several packs were full");
                return;
            }
            Err(other) => panic!("at operation {nth}: {other}"),
        }
    }
}

/// What senders are told may be forgotten: packs that are stored, with or without rows; never what only waits.
#[test]
fn a_stored_pack_is_durable_before_it_has_rows() {
    let world = World::new();
    let repository = Arc::new(world.write(0).unwrap());
    let store = repository.leased().unwrap();
    let writer = BlobWriter::new(&store, Sealer::new(&world.keys.write, &world.configuration).unwrap());
    let put = |kind, n| writer.put(kind, &own(9, n), &[]).unwrap().id;
    let chunks: Vec<BlobId> = (0..60).map(|n| put(Kind::Chunk, n)).collect();
    let node = put(Kind::List, 61);
    store.store_full().unwrap();
    let durable = store.durable(&chunks).unwrap();
    let count = durable.iter().take_while(|durable| **durable).count();
    assert!(count > 0 && count < 60, "{count} of 60 are in packs that were full");
    assert!(durable[count..].iter().all(|durable| !durable), "in order");
    assert_eq!(store.present(&chunks).unwrap(), [false; 60], "no rows so far");
    assert_eq!(store.durable(&[node]).unwrap(), [false]);
    drop(writer);
    drop(store);
    // Whoever opens it next, without a word from this one, has just those.
    drop(Arc::into_inner(repository).unwrap());
    let repository = Arc::new(world.write(0).unwrap());
    assert_eq!(repository.present(&chunks).unwrap(), durable);
    assert_eq!(repository.leased().unwrap().durable(&chunks).unwrap(), durable);
}

/// Memory is kept for a pack if any of its records came from somebody who reads here.
#[test]
fn packs_of_nothing_but_copies_are_not_kept_in_memory() {
    let world = World::new();
    let repository = Arc::new(world.write(0).unwrap());
    let store = repository.leased().unwrap();
    let sealer = Sealer::new(&world.keys.write, &world.configuration).unwrap();
    let flushed = |puts: &[&dyn Fn(Record)]| {
        let before = packs(&world).len();
        for (n, put) in puts.iter().enumerate() {
            let content = own(8, before * 10 + n);
            put(sealer.seal(Kind::Chunk, sealer.key.tag(Kind::Chunk, &content), &content, &[]).unwrap());
        }
        store.flush().unwrap();
        (packs(&world).len() - before, world.backend.uncached().len())
    };
    let copy = |record| store.put_copy(record, &sealer.capsule).unwrap();
    let exact = |record| store.put_exact(record, &sealer.capsule).unwrap();
    let read_here = |record| assert!(store.put(record, &sealer.capsule).is_ok());
    assert_eq!(flushed(&[&copy, &copy]), (1, 1));
    assert_eq!(flushed(&[&copy, &exact, &copy]), (1, 1));
    assert_eq!(flushed(&[&read_here, &copy]), (1, 1));
    assert_eq!(flushed(&[&copy]), (1, 2), "what was put once asks for nothing in the pack after it");
    assert!(packs(&world).iter().filter(|(name, _)| world.backend.uncached().contains(name)).count() == 2);
}

#[test]
fn a_prune_stopped_anywhere_keeps_every_live_snapshot() {
    for fault in FAULTS {
        at_every_operation(
            fault,
            &|world| {
                let repository = world.write(0).unwrap();
                let first = world.backup(&repository, 1, 40).unwrap();
                world.backup(&repository, 2, 10).unwrap();
                world.forget(&repository, &first, 0).unwrap();
            },
            &|world| {
                let repository = world.write(30 * DAY)?;
                world.prune(&repository, 30 * DAY, 0).map(|_| ())
            },
            &|world, _| {
                let kept = world.committed().into_iter().find(|s| s.summary.sequence == 2).unwrap();
                assert_eq!(world.restore(&world.read(), &kept).unwrap(), 10);
                let repository = world.write(31 * DAY).unwrap();
                world.prune(&repository, 31 * DAY, 0).unwrap();
                assert_eq!(world.committed().len(), 1);
                assert_eq!(world.restore(&repository, &kept).unwrap(), 10);
                let left: u64 = packs(world).iter().map(|(_, len)| len).sum();
                assert!(left < 700_000, "{left} bytes are left of half a megabyte of live data");
                let again = world.backup(&repository, 1, 40).unwrap();
                assert_eq!(world.restore(&repository, &again).unwrap(), 40);
            },
        );
    }
}

#[test]
fn a_lost_old_or_foreign_index_is_made_again() {
    let world = World::new();
    let first = world.backup(&world.write(0).unwrap(), 1, 20).unwrap();
    let old = std::fs::read(world.catalog()).unwrap();
    let second = world.backup(&world.write(0).unwrap(), 2, 20).unwrap();
    let stranger = World::new();
    stranger.backup(&stranger.write(0).unwrap(), 9, 2).unwrap();
    let foreign = {
        let mut configuration = world.configuration.clone();
        configuration.repository = RepositoryId([8; 16]);
        let path = world.dir.path().join("foreign");
        drop(Index::open_writer(&path, &configuration.repository).unwrap());
        std::fs::read(path).unwrap()
    };
    let other_version = {
        let path = world.dir.path().join("other");
        std::fs::write(&path, &old).unwrap();
        let other = rusqlite::Connection::open(&path).unwrap();
        other.execute_batch("DROP VIEW by_id; DROP VIEW by_tag; PRAGMA user_version = 2").unwrap();
        drop(other);
        std::fs::read(path).unwrap()
    };
    let garbage = vec![0x5a; 10_000];
    let all = [("old", old), ("foreign", foreign), ("of another version", other_version), ("garbage", garbage)];
    for (name, bytes) in all.into_iter().chain([("empty", Vec::new())]) {
        for writer in [false, true] {
            Index::remove(&world.catalog()).unwrap();
            std::fs::write(world.catalog(), &bytes).unwrap();
            let repository = if writer { world.write(0).unwrap() } else { world.read() };
            assert_eq!(world.restore(&repository, &first).unwrap(), 20, "{name}");
            assert_eq!(world.restore(&repository, &second).unwrap(), 20, "{name}");
            assert!(!repository.index.has_damage().unwrap(), "{name}");
        }
    }
    Index::remove(&world.catalog()).unwrap();
    assert_eq!(world.restore(&world.read(), &second).unwrap(), 20);
}

/// The index knows packs that are no longer there: a repository that was set back to an earlier state.
#[test]
fn an_index_from_the_future_is_corrected() {
    let mut world = World::new();
    let first = world.backup(&world.write(0).unwrap(), 1, 20).unwrap();
    let earlier = Arc::new(world.backend.restarted());
    world.backup(&world.write(0).unwrap(), 2, 20).unwrap();
    world.backend = earlier;
    let repository = world.write(0).unwrap();
    assert_eq!(world.restore(&repository, &first).unwrap(), 20);
    // What only the future had must be stored again.
    let again = world.backup(&repository, 2, 20).unwrap();
    assert_eq!(world.restore(&repository, &again).unwrap(), 20);
}

#[test]
fn a_lost_pack_is_filled_again_by_the_next_backup_for_old_snapshots_too() {
    let world = World::new();
    let first = world.backup(&world.write(0).unwrap(), 1, 30).unwrap();
    let data = packs(&world).into_iter().max_by_key(|(_, len)| *len).unwrap().0;
    world.backend.damage(data, None);
    let repository = world.write(0).unwrap();
    assert!(world.restore(&repository, &first).unwrap_err().is_damage());
    assert!(repository.index.has_damage().unwrap());
    let second = world.backup(&repository, 1, 30).unwrap();
    assert_eq!(world.restore(&repository, &second).unwrap(), 30);
    // The old snapshot's links lead to lost blobs of which equal ones are stored now.
    assert!(repository.index.lost().unwrap().iter().all(|lost| lost.replaced));
    assert!(repository.index.tainted().unwrap().is_empty());
    let half = world.keys.write.tag(Kind::Chunk, &own(1, 5)).half();
    assert!(repository.alternate(half).unwrap().is_some());
    // Collection keeps them for as long as the old snapshot stays.
    world.forget(&repository, &second, 0).unwrap();
    world.prune(&repository, 100 * DAY, 0).unwrap();
    assert!(repository.alternate(half).unwrap().is_some());
}

#[test]
fn forgotten_snapshots_stay_for_their_grace_and_pinned_ones_longer() {
    let world = World::new();
    let repository = world.write(0).unwrap();
    let first = world.backup(&repository, 1, 5).unwrap();
    let second = world.backup(&repository, 2, 5).unwrap();
    world.forget(&repository, &first, 0).unwrap();
    let outcome = world.prune(&repository, 13 * DAY, 14 * DAY).unwrap();
    assert_eq!(outcome.snapshots_in_grace.len(), 1);
    assert_eq!(world.restore(&repository, &first).unwrap(), 5);
    let pin = |action, counter| Mark {
        repository: world.configuration.repository,
        snapshot: first.id,
        action,
        counter,
        time: 0,
    };
    repository.mark(&pin(Action::Pin, 2).encode(&world.keys.write)).unwrap();
    world.prune(&repository, 20 * DAY, 14 * DAY).unwrap();
    assert_eq!(world.committed().len(), 2);
    repository.mark(&pin(Action::Unpin, 3).encode(&world.keys.write)).unwrap();
    let outcome = world.prune(&repository, 20 * DAY, 14 * DAY).unwrap();
    assert_eq!(outcome.snapshots_removed, [first.id]);
    assert_eq!(world.committed().len(), 1);
    assert_eq!(repository.marks().unwrap().len(), 3, "they tell other sites");
    world.prune(&repository, 399 * DAY, 14 * DAY).unwrap();
    assert_eq!(repository.marks().unwrap().len(), 3);
    world.prune(&repository, 401 * DAY, 14 * DAY).unwrap();
    assert!(repository.marks().unwrap().is_empty(), "in the end they go too");
    assert_eq!(world.restore(&repository, &second).unwrap(), 5);
}

#[test]
fn the_grace_of_a_word_from_afar_begins_when_it_arrives() {
    let world = World::new();
    let repository = world.write(0).unwrap();
    let snapshot = world.backup(&repository, 1, 5).unwrap();
    world.forget(&repository, &snapshot, 0).unwrap();
    let mut options = PruneOptions {
        grace: Duration::from_secs(14 * 86_400),
        now: 33 * 86_400 * 1_000_000_000,
        dry_run: false,
        arrived: [(snapshot.id, 20 * 86_400 * 1_000_000_000)].into(),
    };
    let outcome = repository.prune(Believed::Key(&world.keys.write, None), &options).unwrap();
    assert_eq!(outcome.snapshots_in_grace, [(snapshot.id, 34 * 86_400 * 1_000_000_000)]);
    options.now = 34 * 86_400 * 1_000_000_000;
    let outcome = repository.prune(Believed::Key(&world.keys.write, None), &options).unwrap();
    assert_eq!(outcome.snapshots_removed, [snapshot.id]);
}

#[test]
fn a_forged_mark_deletes_nothing() {
    let world = World::new();
    let repository = world.write(0).unwrap();
    let snapshot = world.backup(&repository, 1, 5).unwrap();
    let stranger = Keys::generate(&world.configuration).unwrap();
    let mark = Mark {
        repository: world.configuration.repository,
        snapshot: snapshot.id,
        action: Action::Forget,
        counter: 1,
        time: 0,
    };
    repository.mark(&mark.encode(&stranger.write)).unwrap();
    world.prune(&repository, 1000 * DAY, 0).unwrap();
    assert_eq!(world.restore(&repository, &snapshot).unwrap(), 5);
}

#[test]
fn what_an_interrupted_backup_stored_is_kept_for_a_day() {
    let world = World::new();
    {
        let repository = world.write(0).unwrap();
        let writer = BlobWriter::new(&repository, Sealer::new(&world.keys.write, &world.configuration).unwrap());
        writer.put(Kind::Chunk, &own(1, 5), &[]).unwrap();
        repository.flush().unwrap();
    }
    let tag = world.keys.write.tag(Kind::Chunk, &own(1, 5));
    let repository = world.write(0).unwrap();
    world.prune(&repository, DAY / 2, 14 * DAY).unwrap();
    assert!(repository.known(&[tag]).unwrap()[0].is_some());
    world.prune(&repository, 2 * DAY, 14 * DAY).unwrap();
    assert!(repository.known(&[tag]).unwrap()[0].is_none());
    assert!(packs(&world).is_empty());
}

/// Nothing a damaged index says may cost live data: each of its pages is spoilt in turn before a collection.
#[test]
fn collection_on_a_damaged_index_deletes_nothing_that_lives() {
    let world = World::new();
    let (kept, pristine, objects) = {
        let repository = world.write(0).unwrap();
        let gone = world.backup(&repository, 1, 12).unwrap();
        let kept = world.backup(&repository, 2, 12).unwrap();
        world.forget(&repository, &gone, 0).unwrap();
        repository.index.compact().unwrap();
        drop(repository);
        (kept, std::fs::read(world.catalog()).unwrap(), world.backend.restarted())
    };
    let mut world = world;
    for at in (100..pristine.len()).step_by(701) {
        let mut spoilt = pristine.clone();
        spoilt[at] ^= 0x11;
        Index::remove(&world.catalog()).unwrap();
        std::fs::write(world.catalog(), &spoilt).unwrap();
        world.backend = Arc::new(objects.restarted());
        if let Ok(repository) = world.write(30 * DAY) {
            let _ = world.prune(&repository, 30 * DAY, 0);
        }
        Index::remove(&world.catalog()).unwrap();
        assert_eq!(world.restore(&world.read(), &kept).unwrap(), 12, "after spoiling byte {at}");
    }
}

#[test]
fn reading_groups_neighbours_and_answers_in_order() {
    let world = World::new();
    let repository = world.write(0).unwrap();
    let writer = BlobWriter::new(&repository, Sealer::new(&world.keys.write, &world.configuration).unwrap());
    let mut ids: Vec<BlobId> = (0..30).map(|n| writer.put(Kind::Chunk, &own(3, n), &[]).unwrap().id).collect();
    repository.flush().unwrap();
    ids.reverse();
    ids.insert(4, BlobId([9; 32]));
    let groups = repository.arrange(&ids).unwrap();
    let mut positions: Vec<usize> = groups.iter().flatten().copied().collect();
    positions.sort_unstable();
    assert_eq!(positions, (0..31).collect::<Vec<_>>());
    assert!(groups.len() < 10, "{} reads for two packs", groups.len());
    for (id, record) in ids.iter().zip(repository.read(&ids).unwrap()) {
        match record {
            Ok(record) => assert_eq!(record.id, *id),
            Err(e) => assert!(*id == BlobId([9; 32]) && e.is_damage()),
        }
    }
}

/// Copying all of a pack in its order gives the same bytes and so the same name: it must not be taken for a copy.
#[test]
fn merging_small_packs_never_loses_one() {
    let world = World::new();
    let mut snapshots = Vec::new();
    for seed in 1..=12 {
        // Packs of a fifth of the target: some fill a copy alone.
        snapshots.push(world.backup(&world.write(0).unwrap(), seed, 5).unwrap());
    }
    let before = packs(&world).len();
    for _ in 0..3 {
        let repository = world.write(100 * DAY).unwrap();
        world.prune(&repository, 100 * DAY, 0).unwrap();
        for snapshot in &snapshots {
            assert_eq!(world.restore(&repository, snapshot).unwrap(), 5);
        }
    }
    assert!(packs(&world).len() < before / 2, "{} of {before} packs are left", packs(&world).len());
}
