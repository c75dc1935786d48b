//! One stage of the pipeline at a time, on one thread: `cargo bench -p nightkeep-bench -- [NAME]`.
//!
//! The contents are those of the whole-program benchmark, in chunks as Nightkeep cuts them. The stages' figures are limits for the whole.

use chunkstore::Result;
use chunkstore::chunker::Chunker;
use chunkstore::codec::{Bases, Differ, Level, Opener, Sealer};
use chunkstore::configuration::Configuration;
use chunkstore::id::{BlobId, PackId, Reference, RepositoryId, Tag};
use chunkstore::index::Index;
use chunkstore::index::adopt::NewPack;
use chunkstore::key::Keys;
use chunkstore::list::Item;
use chunkstore::pack::{PackEntry, Trailer};
use chunkstore::record::{Class, Kind, Record};
use chunkstore::similar::{CHUNKS_MAX, Chain, SimilarityIndex, Sketch};
use chunkstore::tree::{Attributes, Content, Entry, Node, Time, Tree};
use corpus::Random;
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput};
use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Bytes of each corpus: more than the caches hold.
const BYTES: u64 = 32 << 20;
const BLOBS: u64 = 200_000;

/// Keys, and contents cut into chunks.
struct Setup {
    configuration: Configuration,
    keys: Keys,
    chunker: Chunker,
    /// By name: the first night, the next, and noise.
    corpora: [(&'static str, Vec<u8>); 3],
}

impl Setup {
    fn new(scratch: &Path) -> std::io::Result<Setup> {
        let configuration = Configuration::new(RepositoryId([1; 16]), 0);
        let keys = Keys::generate(&configuration).map_err(std::io::Error::other)?;
        let chunker = Chunker::new(&keys.write, configuration.chunk_sizes);
        let dump = |night| {
            let path = scratch.join("dump.sql");
            corpus::dump(&path, BYTES, night)?;
            std::fs::read(path)
        };
        let mut random = Random::new(3);
        let noise = (0..BYTES / 8).flat_map(|_| random.draw().to_le_bytes()).collect();
        Ok(Setup { configuration, keys, chunker, corpora: [("dump", dump(0)?), ("next", dump(1)?), ("noise", noise)] })
    }

    fn corpus(&self, name: &str) -> &[u8] {
        self.corpora.iter().find(|(other, _)| *other == name).map_or(&[], |(_, bytes)| bytes)
    }

    fn chunks(&self, name: &str) -> Vec<&[u8]> {
        let mut rest = self.corpus(name);
        let mut chunks = Vec::new();
        while let Some((chunk, after)) = self.chunker.cut(rest, true).and_then(|len| rest.split_at_checked(len)) {
            chunks.push(chunk);
            rest = after;
        }
        chunks
    }

    fn sealer(&self) -> Result<Sealer> {
        Sealer::new(&self.keys.write, &self.configuration)
    }

    fn seal(&self, sealer: &Sealer, chunk: &[u8]) -> Result<Record> {
        sealer.seal(Kind::Chunk, self.keys.write.tag(Kind::Chunk, chunk), chunk, &[])
    }
}

fn bytes_of(chunks: &[&[u8]]) -> Throughput {
    Throughput::Bytes(chunks.iter().map(|chunk| chunk.len() as u64).sum())
}

fn cutting(c: &mut Criterion, setup: &Setup) {
    let mut group = c.benchmark_group("chunker");
    let dump = setup.corpus("dump");
    group.throughput(Throughput::Bytes(dump.len() as u64));
    group.bench_function("cut", |b| b.iter(|| setup.chunks("dump").len()));
    group.finish();
    let mut group = c.benchmark_group("tag");
    let chunks = setup.chunks("dump");
    group.throughput(bytes_of(&chunks));
    group.bench_function("chunks", |b| {
        b.iter(|| chunks.iter().for_each(|chunk| _ = black_box(setup.keys.write.tag(Kind::Chunk, chunk))));
    });
    group.finish();
}

/// Compressing, sealing and reading back: `raw` is all but the compression.
fn sealing(c: &mut Criterion, setup: &Setup) -> Result<()> {
    let sealer = setup.sealer()?;
    let mut group = c.benchmark_group("seal");
    for name in ["dump", "noise"] {
        // As much as takes a while at the highest level.
        let chunks: Vec<&[u8]> = setup.chunks(name).into_iter().take(64).collect();
        group.throughput(bytes_of(&chunks));
        for level in [Level::RAW].into_iter().chain([1, 3, 6, 9].into_iter().filter_map(Level::new)) {
            sealer.set_level(level);
            group.bench_function(BenchmarkId::new(name, level.number()), |b| {
                b.iter(|| chunks.iter().for_each(|chunk| _ = black_box(setup.seal(&sealer, chunk))));
            });
        }
    }
    group.finish();
    sealer.set_level(Level::FASTEST);
    let opener = Opener::new(&setup.keys, &setup.configuration)?;
    let mut group = c.benchmark_group("open");
    for name in ["dump", "noise"] {
        let chunks = setup.chunks(name);
        let records: Vec<Record> = chunks.iter().map(|chunk| setup.seal(&sealer, chunk)).collect::<Result<_>>()?;
        group.throughput(bytes_of(&chunks));
        let capsule = |_| Ok(sealer.capsule.clone());
        let base = |id: BlobId| Err(chunkstore::Error::missing(id.hex()));
        group.bench_function(name, |b| {
            b.iter(|| records.iter().for_each(|r| _ = black_box(opener.open(r, Kind::Chunk, &capsule, &base))));
        });
    }
    group.finish();
    Ok(())
}

/// Chunks of a dump's next night against those of the first.
fn deltas(c: &mut Criterion, setup: &Setup) -> Result<()> {
    let sealer = setup.sealer()?;
    let mut index = SimilarityIndex::new(CHUNKS_MAX);
    let mut bases = std::collections::HashMap::new();
    for chunk in setup.chunks("dump") {
        let id = BlobId(setup.keys.write.tag(Kind::Chunk, chunk).0);
        index.insert(id, &Sketch::of(chunk), Chain::WHOLE);
        bases.insert(id, Arc::new(chunk.to_vec()));
    }
    let chunks = setup.chunks("next");
    let sketches: Vec<Sketch> = chunks.iter().map(|chunk| Sketch::of(chunk)).collect();
    let mut group = c.benchmark_group("delta");
    group.throughput(bytes_of(&chunks));
    group.bench_function("sketch", |b| b.iter(|| chunks.iter().for_each(|chunk| _ = black_box(Sketch::of(chunk)))));
    group.bench_function("find", |b| b.iter(|| sketches.chunks(16).for_each(|some| _ = black_box(index.find(some)))));
    let similar: Vec<_> = chunks
        .iter()
        .zip(sketches.chunks(16).flat_map(|some| index.find(some)))
        .map(|(chunk, found)| {
            let found = found.iter().take(2).rev();
            let found: Vec<_> = found.filter_map(|found| Some((found.id, Arc::clone(bases.get(&found.id)?)))).collect();
            (*chunk, setup.keys.write.tag(Kind::Chunk, chunk), (!found.is_empty()).then(|| Bases::new(found)))
        })
        .filter_map(|(chunk, tag, bases)| Some((chunk, tag, bases?)))
        .collect();
    group.throughput(bytes_of(&similar.iter().map(|(chunk, ..)| *chunk).collect::<Vec<_>>()));
    group.bench_function("seal", |b| {
        b.iter(|| {
            let mut differ = Differ::default();
            similar.iter().for_each(|(chunk, tag, bases)| {
                _ = black_box(sealer.seal_similar(*tag, chunk, bases, false, &mut differ))
            })
        });
    });
    group.finish();
    Ok(())
}

fn indexing(c: &mut Criterion, scratch: &Path) -> Result<()> {
    let repository = RepositoryId([1; 16]);
    let index = Index::open_writer(&scratch.join("index.sqlite3"), &repository)?;
    let packs: Vec<NewPack> = (0..BLOBS / 512).map(|number| pack(number * 512)).collect();
    index.add_packs(&packs, 0)?;
    let mut random = Random::new(5);
    let tags: Vec<Tag> = (0..1000).map(|_| entry(random.below(BLOBS / 512 * 512)).tag).collect();
    let others: Vec<Tag> = (0..1000).map(|n| entry(BLOBS + n).tag).collect();
    let mut group = c.benchmark_group("index");
    group.throughput(Throughput::Elements(1000));
    group.bench_function("known", |b| b.iter(|| index.known(&tags, None)));
    group.bench_function("unknown", |b| b.iter(|| index.known(&others, None)));
    group.throughput(Throughput::Elements(100));
    let singly = |tags: &[Tag]| tags.iter().take(100).try_for_each(|tag| index.known(&[*tag], None).map(|_| ()));
    group.bench_function("unknown, one by one", |b| b.iter(|| singly(&others)));
    let pairs = |tags: &[Tag]| tags.chunks(2).take(50).try_for_each(|tags| index.known(tags, None).map(|_| ()));
    group.bench_function("unknown, two by two", |b| b.iter(|| pairs(&others)));
    group.throughput(Throughput::Elements(32 * 512));
    let mut next = 2 * BLOBS;
    let mut batch = || {
        let first = next;
        next += 32 * 512;
        (0..32).map(|number| pack(first + number * 512)).collect::<Vec<_>>()
    };
    group.sample_size(10);
    group.bench_function("insert", |b| {
        b.iter_batched(&mut batch, |packs| index.add_packs(&packs, 0), BatchSize::PerIteration);
    });
    group.finish();
    Ok(())
}

fn pack(first: u64) -> NewPack {
    let entries = (first..first + 512).map(entry).collect();
    let mut name = [0; 32];
    name.as_chunks_mut::<8>().0.iter_mut().for_each(|part| *part = first.to_le_bytes());
    NewPack {
        id: PackId(name),
        length: 1 << 25,
        trailer: Trailer { class: Class::Data, capsules: Vec::new(), entries },
    }
}

fn entry(number: u64) -> PackEntry {
    let mut random = Random::new(number);
    let mut bytes = || {
        let mut bytes = [0; 32];
        bytes.as_chunks_mut::<8>().0.iter_mut().for_each(|part| *part = random.draw().to_le_bytes());
        bytes
    };
    let (id, tag) = (BlobId(bytes()), Tag(bytes()));
    let offset = u32::try_from(number % 512 * 40_000).unwrap_or(u32::MAX);
    PackEntry { id, tag, offset, length: 40_000, links: Vec::new() }
}

fn trees(c: &mut Criterion) -> Result<()> {
    let file = |n: u64| {
        let link = Reference { id: entry(n).id, tag: entry(n).tag.half() };
        Entry {
            name: format!("module_{n:05}.c").into_bytes(),
            attributes: Attributes {
                mode: 0o644,
                uid: 1000,
                gid: 1000,
                user: b"builder".to_vec(),
                group: b"builder".to_vec(),
                modified: Time { seconds: 1_780_000_000, nanoseconds: 5 },
                ..Attributes::default()
            },
            node: Node::File(Content::Items { size: 9_000, items: vec![Item::Chunk { len: 9_000, link }] }),
        }
    };
    let tree = Tree::Leaf((0..256).map(file).collect());
    let bytes = tree.encode();
    Tree::decode(&bytes, "a tree")?;
    let mut group = c.benchmark_group("tree");
    group.throughput(Throughput::Elements(256));
    group.bench_function("encode", |b| b.iter(|| tree.encode()));
    group.bench_function("decode", |b| b.iter(|| Tree::decode(&bytes, "a tree")));
    group.finish();
    Ok(())
}

fn main() -> std::io::Result<()> {
    let mut criterion = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .without_plots()
        .configure_from_args();
    let scratch = tempfile::tempdir()?;
    let setup = Setup::new(scratch.path())?;
    cutting(&mut criterion, &setup);
    sealing(&mut criterion, &setup).map_err(std::io::Error::other)?;
    deltas(&mut criterion, &setup).map_err(std::io::Error::other)?;
    indexing(&mut criterion, scratch.path()).map_err(std::io::Error::other)?;
    trees(&mut criterion).map_err(std::io::Error::other)?;
    criterion.final_summary();
    Ok(())
}
