//! Collecting beside sessions, and what a collection leaves that did not end.

use super::*;
use crate::index::sweep::Collecting;
use crate::record::Kind;
use crate::repository::tests::{World, own, shared};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

const DAY: i64 = 86_400;
const CHUNKS: usize = 12;

/// A world with one snapshot that is forgotten past its grace, and one that stays.
fn two_nights() -> (World, Arc<Repository>) {
    let world = World::new();
    let repository = Arc::new(world.write(0).unwrap());
    let first = world.backup(&*repository, 1, CHUNKS).unwrap();
    world.backup(&*repository, 2, CHUNKS).unwrap();
    world.forget(&*repository, &first, 0).unwrap();
    (world, repository)
}

fn chunk_ids(world: &World, store: &dyn Store, seed: u8) -> Vec<Option<BlobId>> {
    let content = |n: usize| if n < 2 { shared(n) } else { own(seed, n) };
    let tags: Vec<_> = (0..CHUNKS).map(|n| world.keys.write.tag(Kind::Chunk, &content(n))).collect();
    store.known(&tags).unwrap()
}

/// A collection up to its decision, with the latest snapshot as its only root.
fn condemned(repository: &Repository) -> Collecting<'_> {
    let collecting = repository.index.collect().unwrap();
    let snapshots = repository.snapshots().unwrap().into_iter().map(|(_, snapshot)| snapshot.unwrap().summary);
    let root = snapshots.max_by_key(|summary| summary.sequence).unwrap().root.id;
    let survey = repository.index.survey().unwrap();
    let (marks, unknown) = survey.mark(&[root], &[]).unwrap();
    assert!(unknown.is_empty());
    repository.index.condemn(marks, survey.last).unwrap();
    collecting
}

#[test]
fn a_session_keeps_what_it_was_told() {
    let (world, repository) = two_nights();
    let session = repository.leased().unwrap();
    assert!(chunk_ids(&world, &session, 1).iter().all(Option::is_some));
    let outcome = world.prune(&repository, 30 * DAY, 0).unwrap();
    assert_eq!(outcome.snapshots_removed.len(), 1);
    let again = world.backup(&session, 1, CHUNKS).unwrap();
    assert_eq!(world.restore(&repository, &again).unwrap(), CHUNKS);
    drop(session);
    world.prune(&repository, 30 * DAY, 0).unwrap();
    assert_eq!(world.restore(&repository, &again).unwrap(), CHUNKS);
}

#[test]
fn what_no_session_holds_goes_once_its_lease_is_dropped() {
    let (world, repository) = two_nights();
    let session = repository.leased().unwrap();
    chunk_ids(&world, &session, 1);
    drop(session);
    world.prune(&repository, 30 * DAY, 0).unwrap();
    let left = chunk_ids(&world, &*repository, 1);
    assert_eq!(left.iter().filter(|id| id.is_some()).count(), 2, "two are in the other snapshot");
}

#[test]
fn what_a_session_stored_before_its_commit_is_kept() {
    let (world, repository) = two_nights();
    let session = repository.leased().unwrap();
    let sealer = crate::codec::Sealer::new(&world.keys.write, &world.configuration).unwrap();
    let writer = crate::writer::BlobWriter::new(&session, sealer);
    let link = writer.put(Kind::Chunk, b"stored long before the commit", &[]).unwrap();
    session.flush().unwrap();
    world.prune(&repository, 30 * DAY, 0).unwrap();
    assert_eq!(session.present(&[link.id]).unwrap(), [true]);
    drop(session);
    world.prune(&repository, 30 * DAY, 0).unwrap();
    assert_eq!(repository.present(&[link.id]).unwrap(), [false]);
}

#[test]
fn an_answer_is_held_before_the_decision_or_given_after_it() {
    let (world, repository) = two_nights();
    let collecting = condemned(&repository);
    let session = repository.leased().unwrap();
    let left = chunk_ids(&world, &session, 1);
    assert_eq!(left.iter().filter(|id| id.is_some()).count(), 2, "what is to go is not known");
    // The backup that is told so stores it again while the old rows go.
    let again = world.backup(&session, 1, CHUNKS).unwrap();
    repository.index.sweep(&[]).unwrap();
    drop(collecting);
    assert_eq!(world.restore(&repository, &again).unwrap(), CHUNKS);
}

#[test]
fn a_lease_that_is_released_holds_until_the_collection_ends() {
    let (world, repository) = two_nights();
    let session = repository.leased().unwrap();
    chunk_ids(&world, &session, 1);
    let collecting = repository.index.collect().unwrap();
    let again = world.backup(&session, 1, CHUNKS).unwrap();
    drop(session);
    drop(collecting);
    assert!(!repository.index.has_leases());
    let session = repository.leased().unwrap();
    chunk_ids(&world, &session, 1);
    let collecting = repository.index.collect().unwrap();
    drop(session);
    let survey = repository.index.survey().unwrap();
    let (marks, _) = survey.mark(&[], &[]).unwrap();
    repository.index.condemn(marks, survey.last).unwrap();
    assert!(chunk_ids(&world, &*repository, 1).iter().all(Option::is_some));
    drop(collecting);
    assert_eq!(world.restore(&repository, &again).unwrap(), CHUNKS);
}

#[test]
fn a_record_that_comes_again_while_its_row_goes_stays() {
    let (world, repository) = two_nights();
    let id = chunk_ids(&world, &*repository, 1)[5].unwrap();
    let record = repository.read(&[id]).unwrap().remove(0).unwrap();
    let capsule = repository.capsule(record.capsule).unwrap();
    let collecting = condemned(&repository);
    assert_eq!(repository.put(record, &capsule).unwrap(), id);
    repository.flush().unwrap();
    let packs: Vec<i64> = repository.index.packs().unwrap().iter().take(1).map(|pack| pack.no).collect();
    repository.index.sweep(&packs).unwrap();
    drop(collecting);
    assert_eq!(repository.present(&[id]).unwrap(), [true]);
    assert_eq!(repository.read(&[id]).unwrap().remove(0).unwrap().id, id);
}

#[test]
fn what_is_stored_after_the_newest_blobs_are_gone_is_kept() {
    let world = World::new();
    let repository = Arc::new(world.write(0).unwrap());
    world.backup(&*repository, 1, CHUNKS).unwrap();
    let session = repository.leased().unwrap();
    let collecting = repository.index.collect().unwrap();
    let survey = repository.index.survey().unwrap();
    repository.index.condemn(crate::index::numbers::Numbers::default(), survey.last).unwrap();
    repository.index.sweep(&[]).unwrap();
    // All numbers that the table knows of are free now.
    let second = world.backup(&session, 2, CHUNKS).unwrap();
    drop(collecting);
    assert_eq!(world.restore(&repository, &second).unwrap(), CHUNKS);
}

#[test]
fn a_pack_that_is_stored_again_while_it_goes_stays() {
    let (world, repository) = two_nights();
    let pack = repository.index.packs().unwrap().remove(0);
    let rows = repository.index.live_rows(pack.no).unwrap();
    let ids: Vec<BlobId> = rows.iter().map(|row| row.id).collect();
    let records: Vec<Record> = repository.read(&ids).unwrap().into_iter().map(Result::unwrap).collect();
    let collecting = repository.index.collect().unwrap();
    let survey = repository.index.survey().unwrap();
    repository.index.condemn(crate::index::numbers::Numbers::default(), survey.last).unwrap();
    for record in records {
        let capsule = repository.capsule(record.capsule).unwrap();
        repository.put(record, &capsule).unwrap();
    }
    repository.flush().unwrap();
    let packs: Vec<i64> = survey.packs().unwrap().iter().map(|pack| pack.no).collect();
    repository.index.sweep(&packs).unwrap();
    repository.delete_pack(pack.id).unwrap();
    drop((survey, collecting));
    assert_eq!(repository.index.packs().unwrap().iter().map(|pack| pack.id).collect::<Vec<_>>(), [pack.id]);
    assert!(repository.read(&ids).unwrap().iter().all(Result::is_ok));
    drop(world);
}

#[test]
fn after_a_sweep_that_did_not_end_nothing_is_known_above_what_is_gone() {
    let world = World::new();
    let repository = world.write(0).unwrap();
    let first = world.backup(&repository, 1, CHUNKS).unwrap();
    let collecting = repository.index.collect().unwrap();
    let survey = repository.index.survey().unwrap();
    repository.index.condemn(crate::index::numbers::Numbers::default(), survey.last).unwrap();
    assert_eq!(repository.present(&[first.summary.root.id]).unwrap(), [false]);
    drop((survey, collecting));
    let other = rusqlite::Connection::open(world.catalog()).unwrap();
    let of_chunks = "SELECT blob.no FROM blob JOIN pack ON pack.no = blob.pack WHERE class = 0";
    let mut gone = 0;
    for level in 0..3 {
        other.execute(&format!("DELETE FROM by_tag_{level}"), []).unwrap();
        gone += other.execute(&format!("DELETE FROM by_id_{level} WHERE no IN ({of_chunks})"), []).unwrap();
    }
    assert_eq!(gone, CHUNKS);
    drop((repository, other));

    let repository = world.write(0).unwrap();
    assert_eq!(repository.present(&[first.summary.root.id]).unwrap(), [false]);
    let again = world.backup(&repository, 1, CHUNKS).unwrap();
    assert_eq!(world.restore(&repository, &again).unwrap(), CHUNKS);
    world.prune(&repository, 30 * DAY, 0).unwrap();
    assert_eq!(world.restore(&repository, &again).unwrap(), CHUNKS);
    assert!(!repository.index.was_sweeping().unwrap() && !repository.index.has_damage().unwrap());
}

#[test]
fn one_collection_at_a_time() {
    let (world, repository) = two_nights();
    let collecting = repository.index.collect().unwrap();
    assert!(world.prune(&repository, 30 * DAY, 0).is_err());
    drop(collecting);
    world.prune(&repository, 30 * DAY, 0).unwrap();
}

/// Sessions that save, forget and save again what others just forgot, while collections without any grace never pause.
#[test]
fn collecting_without_pause_beside_backups_loses_nothing() {
    let world = World::new();
    let repository = Arc::new(world.write(0).unwrap());
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let savers: Vec<_> = (0..3u8)
            .map(|saver| {
                let (world, repository) = (&world, &repository);
                scope.spawn(move || {
                    let mut last = None;
                    for round in 0..25u8 {
                        let session = repository.leased().unwrap();
                        // Seeds overlap among the savers and come back after they were forgotten.
                        let snapshot = world.backup(&session, (round + saver) % 4 + 1, CHUNKS).unwrap();
                        assert_eq!(world.restore(repository, &snapshot).unwrap(), CHUNKS);
                        if let Some(last) = last.replace(snapshot) {
                            world.forget(&session, &last, 0).unwrap();
                        }
                    }
                    last.unwrap()
                })
            })
            .collect();
        let collector = scope.spawn(|| {
            let mut rounds = 0;
            while !done.load(Ordering::Relaxed) {
                world.prune(&repository, 30 * DAY, 0).unwrap();
                rounds += 1;
            }
            rounds
        });
        let ended: Vec<_> = savers.into_iter().map(|saver| saver.join()).collect();
        done.store(true, Ordering::Relaxed);
        let kept: Vec<_> = ended.into_iter().map(|saved| saved.unwrap()).collect();
        assert!(collector.join().unwrap() > 0);
        world.prune(&repository, 30 * DAY, 0).unwrap();
        for snapshot in kept {
            assert_eq!(world.restore(&repository, &snapshot).unwrap(), CHUNKS);
        }
    });
}

#[test]
fn a_server_obeys_its_own_words_and_no_other_servers() {
    let world = World::new();
    let repository = world.write(0).unwrap();
    let first = world.backup(&repository, 1, CHUNKS).unwrap();
    let second = world.backup(&repository, 2, CHUNKS).unwrap();
    let (all, one) = (repository.statistics().unwrap().blob_bytes, [first.summary.root.id]);
    let held = repository.held_bytes(&one).unwrap();
    assert!(0 < held && held < all, "{held} of {all}");
    assert_eq!(repository.held_bytes(&[one[0], second.summary.root.id]).unwrap(), all);
    let (server, _) = crate::snapshot::Writer::generate().unwrap();
    let own = server.public_key();
    let action = crate::mark::Action::Forget;
    let mark = Mark { repository: first.summary.repository, snapshot: first.id, action, counter: 1, time: 0 };
    repository.mark(&mark.sign(&server).unwrap()).unwrap();
    let removed = |believed| {
        let now = 30 * DAY * 1_000_000_000;
        let options = PruneOptions { grace: Duration::ZERO, now, dry_run: true, arrived: Default::default() };
        repository.prune(believed, &options).unwrap().snapshots_removed
    };
    assert!(removed(Believed::Server([1; 32])).is_empty());
    assert!(removed(Believed::Key(&world.keys.write, None)).is_empty());
    assert_eq!(removed(Believed::Server(own)), [first.id]);
    assert_eq!(removed(Believed::Key(&world.keys.write, Some(own))), [first.id]);
}
