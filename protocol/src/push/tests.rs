//! Both ends against each other: whatever breaks, every record arrives after what it may link to, and nothing is called durable
//! that is not.

use super::*;
use crate::error::Error;
use crate::message::{ByClass, Message};
use bytes::Bytes;
use chunkstore::capsule::Capsule;
use chunkstore::codec::Sealer;
use chunkstore::configuration::{Configuration, Kem};
use chunkstore::id::{BlobId, RepositoryId, SnapshotId};
use chunkstore::key::Keys;
use chunkstore::record::{Class, Kind, Record};
use proptest::prelude::*;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, OnceLock};

fn records() -> &'static (Vec<Record>, Arc<Capsule>) {
    static MADE: OnceLock<(Vec<Record>, Arc<Capsule>)> = OnceLock::new();
    MADE.get_or_init(|| {
        let configuration = Configuration { kem: Kem::X25519, ..Configuration::new(RepositoryId([1; 16]), 0) };
        let keys = Keys::generate(&configuration).unwrap();
        let sealer = Sealer::new(&keys.write, &configuration).unwrap();
        let seal = |n: u8| {
            let content = vec![n; 100 * usize::from(n) + 1];
            let kind = if n % 3 == 2 { Kind::List } else { Kind::Chunk };
            sealer.seal(kind, keys.write.tag(kind, &content), &content, &[]).unwrap()
        };
        ((0..40).map(seal).collect(), Arc::clone(&sealer.capsule.clone().into()))
    })
}

fn durable(data: u64, nodes: u64) -> Message {
    Message::Durable(ByClass { data, nodes })
}

/// A server's storage: what it accepted, and what of it lasts.
#[derive(Default)]
struct Storage {
    accepted: Vec<BlobId>,
    durable: HashSet<BlobId>,
}

fn message(outgoing: Outgoing) -> Message {
    match outgoing {
        Outgoing::Capsule(bytes) => Message::CapsuleObject(bytes.to_vec()),
        Outgoing::Record(bytes) => Message::Record(bytes.to_vec()),
        Outgoing::Flush => Message::Flush,
        Outgoing::Commit(bytes) => Message::Commit(bytes.to_vec()),
    }
}

/// What a server does with one frame; what it answers.
fn serve(receiver: &mut Receiver, storage: &mut Storage, frame: Message) -> Option<Message> {
    match receiver.take(frame).unwrap() {
        Step::Kept => None,
        Step::Put(record, capsule) => {
            assert_eq!(capsule.id, record.capsule);
            assert!(!storage.durable.contains(&record.id), "sent again although it was durable");
            // A node may link to all before it, data to data.
            let before = records().0.iter().take_while(|other| other.id != record.id);
            let mut linkable = before.filter(|other| record.class == Class::Node || other.class == Class::Data);
            assert!(linkable.all(|other| storage.accepted.contains(&other.id)), "before what it links to");
            if !storage.accepted.contains(&record.id) {
                storage.accepted.push(record.id);
            }
            let _ = receiver.stored(record.id, record.class, record.bytes.len());
            None
        }
        Step::Flush => {
            storage.durable.extend(&storage.accepted);
            Some(receiver.flushed())
        }
        Step::Commit(_) => unreachable!("no snapshot is sent here"),
    }
}

proptest! {
    /// Connections break at any frame, servers forget what is not durable, answers get lost.
    #[test]
    fn whatever_breaks_everything_arrives(steps in proptest::collection::vec((0u8..8, 0usize..6), 1..120)) {
        let (records, capsule) = records();
        let mut sender = Sender::new(1 << 20);
        let mut storage = Storage::default();
        let mut receiver = Receiver::new(RepositoryId([1; 16]), 1 << 20);
        let mut answers: Vec<Message> = Vec::new();
        let (mut put, mut flushed, mut flushes) = (0, 0, 0);
        let end = [(1, 40), (3, 0), (2, 200), (6, 0), (2, 200), (6, 0)];
        for (step, count) in steps.into_iter().chain(end) {
            match step {
                // The last steps come to an end in order.
                0 | 1 => for record in records.iter().skip(put).take(count) {
                    sender.put(record.clone(), capsule);
                    put += 1;
                },
                2 => for _ in 0..count {
                    let Some(frame) = sender.outgoing() else { break };
                    answers.extend(serve(&mut receiver, &mut storage, message(frame)));
                },
                3 => { sender.flush(); flushes += 1; }
                4 => {
                    let mut counts = ByClass::default();
                    for class in [Class::Data, Class::Node] {
                        // Data first.
                        if class == Class::Data || receiver.oldest(Class::Data, 99).len() == counts.data {
                            let durable = receiver.oldest(class, count);
                            *counts.of(class) = durable.len();
                            storage.durable.extend(durable);
                        }
                    }
                    answers.extend(receiver.settled(counts));
                }
                5 | 7 => {
                    if step == 7 {
                        // The server was killed.
                        storage.accepted.retain(|id| storage.durable.contains(id));
                    } else {
                        storage.durable.extend(&storage.accepted);
                    }
                    answers.clear();
                    receiver = Receiver::new(RepositoryId([1; 16]), 1 << 20);
                    let by_tag: HashMap<_, _> = records.iter().map(|record| (record.tag, record.id)).collect();
                    let tags = sender.interrupted();
                    let known = tags.iter().map(|tag| by_tag[tag]);
                    sender.resume(&known.filter(|id| storage.accepted.contains(id)).collect(), 1 << 20);
                }
                _ => for answer in answers.drain(..) {
                    if let Event::Flushed(ticket) = sender.received(answer).unwrap() {
                        prop_assert_eq!(ticket, flushed + 1);
                        flushed = ticket;
                    }
                },
            }
        }
        prop_assert!(sender.is_idle());
        prop_assert_eq!(sender.kept_bytes(), 0);
        prop_assert_eq!(flushed, flushes);
        let expected: HashSet<BlobId> = records[..put].iter().map(|record| record.id).collect();
        prop_assert_eq!(storage.accepted.len(), put);
        prop_assert_eq!(&storage.accepted.into_iter().collect::<HashSet<_>>(), &expected);
        prop_assert_eq!(&storage.durable, &expected);
    }

    #[test]
    fn no_answer_makes_a_sender_panic(answers in proptest::collection::vec((0u8..4, 0u64..50), 0..30)) {
        let (records, capsule) = records();
        let mut sender = Sender::new(1 << 20);
        for (at, record) in records.iter().take(20).enumerate() {
            sender.put(record.clone(), capsule);
            match at % 5 { 3 => { sender.flush(); } 4 => { sender.commit(SnapshotId([7; 32]), vec![1]); } _ => {} }
        }
        for _ in 0..15 { sender.outgoing(); }
        for (kind, number) in answers {
            let answer = match kind {
                0 => Message::Durable(ByClass { data: number % 9, nodes: number / 9 }),
                1 => Message::Flushed(number),
                2 => Message::Committed { snapshot: SnapshotId([7; 32]), received: 0 },
                _ => Message::Done,
            };
            if sender.received(answer).is_err() { break; }
        }
    }
}

proptest! {
    /// A server that makes nothing durable unless the room is crowded, and looks only when a record arrives. In the middle it
    /// begins again, with another room.
    #[test]
    fn a_sender_never_waits_for_a_look_that_does_not_come(
        sizes in proptest::collection::vec(0usize..40, 400),
        factors in [1u64..9, 1u64..9],
    ) {
        let (records, capsule) = records();
        let largest = records.iter().map(|record| record.bytes.len()).max().unwrap() as u64;
        // From hardly more than a record to many of them.
        let [first, second] = factors.map(|factor| factor * factor * largest / 2 + 64);
        let mut sender = Sender::new(first);
        let mut receiver = Receiver::new(RepositoryId([1; 16]), first);
        for (at, size) in sizes.into_iter().enumerate() {
            if at == 200 {
                sender.interrupted();
                sender.resume(&HashSet::new(), second);
                receiver = Receiver::new(RepositoryId([1; 16]), second);
            }
            while let Some(frame) = sender.outgoing() {
                let Step::Put(record, _) = receiver.take(message(frame)).unwrap() else { continue };
                if receiver.stored(record.id, record.class, record.bytes.len()) && receiver.is_crowded() {
                    let answer = receiver.settled(ByClass { data: usize::MAX, nodes: usize::MAX }).unwrap();
                    prop_assert_eq!(sender.received(answer).unwrap(), Event::Room);
                }
            }
            let record = &records[size];
            prop_assert!(sender.has_room_for(record.bytes.len()), "{} bytes wait", sender.kept_bytes());
            sender.put(record.clone(), capsule);
        }
    }
}

#[test]
fn room_is_bounded_by_what_is_not_durable() {
    let (records, capsule) = records();
    let mut sender = Sender::new(500);
    assert!(sender.has_room_for(10_000), "one that is too large goes alone");
    let mut full = Sender::new(500);
    while full.has_room_for(10_000) {
        full.put(records[0].clone(), capsule);
    }
    let (kept, len, counted) = (full.kept_bytes(), records[0].bytes.len() as u64, 500 / 16 * 3);
    assert!(kept + counted > 500 && kept + counted <= 500 + len, "{kept}");
    sender.put(records[0].clone(), capsule);
    assert!(matches!(sender.outgoing(), Some(Outgoing::Capsule(_))));
    assert_eq!(sender.outgoing(), Some(Outgoing::Record(Bytes::copy_from_slice(&records[0].bytes))));
    assert_eq!(sender.outgoing(), None);
    assert_eq!(sender.holds(&records[0].tag), Some(records[0].id));
    assert_eq!(sender.received(durable(1, 0)).unwrap(), Event::Room);
    assert!(sender.has_room_for(500) && sender.is_idle());
    assert_eq!(sender.holds(&records[0].tag), None);
}

#[test]
fn answers_must_fit_what_was_sent() {
    let (records, capsule) = records();
    let violation = |answers: &[Message]| {
        let mut sender = Sender::new(1 << 20);
        sender.put(records[1].clone(), capsule);
        sender.flush();
        sender.commit(SnapshotId([7; 32]), vec![1]);
        sender.put(records[2].clone(), capsule);
        for _ in 0..4 {
            sender.outgoing();
        }
        let last = answers.iter().map(|answer| sender.received(answer.clone())).last().unwrap();
        matches!(last, Err(Error::Violation { .. }))
    };
    let committed = |byte| Message::Committed { snapshot: SnapshotId([byte; 32]), received: 0 };
    assert!(!violation(&[durable(1, 0), Message::Flushed(1), committed(7)]));
    assert!(!violation(&[Message::Flushed(1), committed(7)]));
    assert!(violation(&[durable(2, 0)]), "a flush is no record");
    assert!(violation(&[durable(0, 1)]), "it was data");
    assert!(violation(&[Message::Flushed(0)]));
    assert!(violation(&[Message::Flushed(2)]));
    assert!(violation(&[committed(7)]), "the flush was not answered");
    assert!(violation(&[Message::Flushed(1), committed(8)]), "another snapshot");
    assert!(violation(&[Message::Flushed(1), committed(7), durable(1, 1)]), "that one was not sent");
    assert!(violation(&[durable(1, 0), durable(0, 0)]));
    assert!(violation(&[Message::Push]));
}

#[test]
fn frames_have_their_place_in_a_push() {
    let (records, capsule) = records();
    let receiver = || Receiver::new(RepositoryId([1; 16]), 1000);
    let violation = |result: crate::Result<Step>| matches!(result, Err(Error::Violation { .. }));
    let refused = |result: crate::Result<Step>| matches!(result, Err(Error::Refused(_)));
    let record = |n: usize| Message::Record(records[n].bytes.clone());
    assert!(violation(receiver().take(record(0))), "before its capsule");
    assert!(violation(receiver().take(Message::Push)));
    assert!(refused(receiver().take(Message::Record(vec![0; 200]))));
    assert!(refused(receiver().take(Message::CapsuleObject(vec![0; 200]))));
    assert!(refused(receiver().take(Message::Commit(vec![0; 200]))));
    let mut other = Receiver::new(RepositoryId([2; 16]), 1000);
    assert!(refused(other.take(Message::CapsuleObject(capsule.bytes.clone()))), "another repository's");

    let mut full = receiver();
    full.take(Message::CapsuleObject(capsule.bytes.clone())).unwrap();
    let mut put = 0;
    while full.take(record(39)).is_ok() {
        let _ = full.stored(records[39].id, records[39].class, records[39].bytes.len());
        put += 1;
        assert!(put < 100, "the window has no end");
    }
    assert!(full.take(Message::Flush).is_ok());
    assert_eq!(full.flushed(), Message::Flushed(put));
    assert!(full.take(record(39)).is_ok(), "there is room again");
}
