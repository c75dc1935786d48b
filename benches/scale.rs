//! The index at scale: fills one with synthetic packs and reports rates and memory of what backup, prune and check ask of it.

use chunkstore::Result;
use chunkstore::id::{BlobId, PackId, RepositoryId, Tag};
use chunkstore::index::Index;
use chunkstore::index::adopt::{BATCH_ROWS, NewPack};
use chunkstore::pack::{PackEntry, Trailer};
use chunkstore::record::Class;
use corpus::Random;
use std::path::Path;
use std::time::Instant;

const BLOBS_A_PACK: u64 = 512;
const CHUNKS_A_LIST: usize = 1024;
const LOOKUPS: u64 = 1_000_000;

/// Prints a table row a phase.
pub fn run(blobs: u64, dir: &Path) -> Result<()> {
    let repository = RepositoryId([1; 16]);
    let index = Index::open_writer(&dir.join("scale.sqlite3"), &repository)?;
    println!("| phase of {blobs} blobs | rate | peak memory |\n|---|---|---|");
    let begun = Instant::now();
    let (mut lists, mut children, mut packs) = (Vec::new(), Vec::new(), Vec::new());
    for number in 0..blobs.div_ceil(BLOBS_A_PACK) {
        let entries: Vec<PackEntry> =
            (0..BLOBS_A_PACK).map(|n| entry(number * BLOBS_A_PACK + n, n, Vec::new())).collect();
        children.extend(entries.iter().map(|entry| entry.id));
        packs.push(pack(Class::Data, number, entries));
        while children.len() >= CHUNKS_A_LIST {
            let mut links: Vec<BlobId> = children.drain(..CHUNKS_A_LIST).collect();
            links.sort_unstable();
            let number = u64::MAX - lists.len() as u64;
            let list = entry(number, 0, links);
            lists.push(list.id);
            packs.push(pack(Class::Node, number, vec![list]));
        }
        if packs.len() as u64 * BLOBS_A_PACK >= BATCH_ROWS as u64 {
            index.add_packs(&packs, 0)?;
            packs.clear();
        }
    }
    index.add_packs(&packs, 0)?;
    report("insert, packs of 512", blobs, begun);
    let mut random = Random::new(5);
    let begun = Instant::now();
    for _ in 0..LOOKUPS / 1000 {
        let tags: Vec<Tag> = (0..1000).map(|_| entry(random.below(blobs), 0, Vec::new()).tag).collect();
        assert!(index.known(&tags, None)?.iter().all(Option::is_some), "every blob was inserted");
    }
    report("look-up of known contents, random", LOOKUPS, begun);
    let begun = Instant::now();
    for _ in 0..LOOKUPS / 1000 {
        let first = random.below(blobs.saturating_sub(1000));
        let tags: Vec<Tag> = (first..first + 1000.min(blobs)).map(|number| entry(number, 0, Vec::new()).tag).collect();
        assert!(index.known(&tags, None)?.iter().all(Option::is_some), "every blob was inserted");
    }
    report("look-up of known contents, a thousand neighbours at a time", LOOKUPS, begun);
    let begun = Instant::now();
    for _ in 0..LOOKUPS / 1000 {
        let tags: Vec<Tag> = (0..1000).map(|_| entry(2 * blobs + random.below(blobs), 0, Vec::new()).tag).collect();
        assert!(index.known(&tags, None)?.iter().all(Option::is_none), "these were not");
    }
    report("look-up of unknown contents", LOOKUPS, begun);
    let begun = Instant::now();
    let collecting = index.collect()?;
    let survey = index.survey()?;
    let half = lists.get(..lists.len() / 2).unwrap_or_default();
    let (marks, unknown) = survey.mark(half, &[])?;
    let condemned = index.condemn(marks, survey.last)?;
    let usage = survey.usage(&condemned.live)?;
    drop(survey);
    assert!(unknown.is_empty() && usage.values().all(|pack| pack.dead_blobs <= BLOBS_A_PACK));
    report("prune: mark half of it and plan", blobs, begun);
    let begun = Instant::now();
    index.sweep(&[])?;
    drop(collecting);
    report("prune: sweep the other half", blobs / 2, begun);
    let size = std::fs::metadata(index.path()).map_or(0, |metadata| metadata.len());
    println!("\nThe index has {} bytes a blob.", size / blobs.max(1));
    Ok(())
}

/// Ids and tags that follow from a number.
fn entry(number: u64, place: u64, links: Vec<BlobId>) -> PackEntry {
    let mut random = Random::new(number);
    let mut bytes = || {
        let mut bytes = [0; 32];
        for part in bytes.as_chunks_mut::<8>().0 {
            *part = random.draw().to_le_bytes();
        }
        bytes
    };
    let (id, tag) = (BlobId(bytes()), Tag(bytes()));
    let offset = u32::try_from(place * 40_000).unwrap_or(u32::MAX);
    PackEntry { id, tag, offset, length: 40_000, links }
}

fn pack(class: Class, number: u64, entries: Vec<PackEntry>) -> NewPack {
    let mut name = [0; 32];
    name.as_chunks_mut::<8>().0.iter_mut().for_each(|part| *part = number.to_le_bytes());
    NewPack { id: PackId(name), length: 1 << 25, trailer: Trailer { class, capsules: Vec::new(), entries } }
}

fn report(phase: &str, count: u64, begun: Instant) {
    let seconds = begun.elapsed().as_secs_f64();
    #[expect(clippy::cast_precision_loss, reason = "a rate needs no more than 53 bits")]
    let rate = count as f64 / seconds;
    println!(
        "| {phase} | {rate:.0}/s, {seconds:.1} s | {} MiB |",
        crate::measure::high_water("/proc/self/status") / 1024
    );
}
