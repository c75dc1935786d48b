//! The rules, the pace and the walk by themselves.

use super::*;
use chunkstore::id::{BlobId, RepositoryId, SnapshotId};
use chunkstore::record::Record;
use std::collections::{HashMap, HashSet};
use std::time::Duration;

fn marks(actions: &[(u64, mark::Action)]) -> Vec<(MarkId, Mark)> {
    let mark = |(counter, action): &(u64, mark::Action)| Mark {
        repository: RepositoryId([1; 16]),
        snapshot: SnapshotId([2; 32]),
        action: action.clone(),
        counter: *counter,
        time: 0,
    };
    (0u8..).zip(actions).map(|(n, action)| (MarkId([n; 32]), mark(action))).collect()
}

#[test]
fn what_is_forgotten_is_not_wanted_unless_it_is_pinned() {
    use mark::Action::{AddLabel, Forget, Pin, Undelete, Unpin};
    assert!(is_wanted(&[]));
    assert!(is_wanted(&marks(&[(1, AddLabel("x".into()))])));
    assert!(!is_wanted(&marks(&[(1, Forget)])));
    assert!(is_wanted(&marks(&[(1, Forget), (2, Undelete)])));
    assert!(!is_wanted(&marks(&[(2, Forget), (1, Undelete)])));
    assert!(is_wanted(&marks(&[(1, Forget), (1, Pin)])));
    assert!(!is_wanted(&marks(&[(1, Forget), (1, Pin), (2, Unpin)])));
}

#[test]
fn what_takes_away_waits_at_a_lagging_site() {
    use mark::Action::{AddLabel, Forget, Pin, RemoveLabel, Undelete, Unpin};
    assert!([Forget, Unpin, RemoveLabel("x".into())].iter().all(takes_away));
    assert!(![Undelete, Pin, AddLabel("x".into())].iter().any(takes_away));
}

#[test]
fn limits_as_text_and_by_the_clock() {
    for text in ["2M", "08:00-18:00=500K", "22:30-06:00=1G", "1025"] {
        assert_eq!(Limit::from_text(text).unwrap().to_string(), text);
    }
    for text in
        ["", "x", "0", "5", "8:00-18:00=1M", "08:00=1M", "08:00-25:00=1M", "08:60-09:00=1M", "08:00-09:00=", "1T"]
    {
        assert_eq!(Limit::from_text(text), None, "{text}");
    }
    let limits = ["08:00-18:00=500K", "22:00-06:00=1M"].map(|text| Limit::from_text(text).unwrap());
    let at = |hour: u16, minute: u16| Limit::at(&limits, hour * 60 + minute);
    assert_eq!((at(7, 59), at(8, 0), at(17, 59), at(18, 0)), (None, Some(500 << 10), Some(500 << 10), None));
    assert_eq!((at(22, 0), at(0, 0), at(5, 59), at(6, 0)), (Some(1 << 20), Some(1 << 20), Some(1 << 20), None));
    assert_eq!(Limit::at(&[Limit::from_text("1M").unwrap()], 77), Some(1 << 20));
}

#[test]
fn a_walk_reads_what_one_node_holds_together() {
    let leaf = |n| simulation::site::record(n, &[]);
    let nodes: Vec<Record> =
        (0..20).map(|n| simulation::site::record(100 + n, &[leaf(n).id, leaf(n / 2).id])).collect();
    let root = simulation::site::record(999, &nodes.iter().map(|node| node.id).collect::<Vec<_>>());
    let mut transfer = Transfer::new(root.id);
    let mut read: Vec<Vec<BlobId>> = Vec::new();
    let known: HashMap<BlobId, Record> = nodes
        .iter()
        .cloned()
        .chain((0..20).map(leaf))
        .chain([root.clone()])
        .map(|record| (record.id, record))
        .collect();
    loop {
        match transfer.next_action() {
            Some(Action::Ask(ids)) => transfer.answered(&ids, &vec![false; ids.len()]),
            Some(Action::Read(ids)) => {
                ids.iter().for_each(|id| transfer.arrived(known[id].clone()).unwrap());
                read.push(ids);
            }
            Some(Action::Put(_)) => {}
            Some(Action::Commit) => break,
            None => unreachable!("everything was answered"),
        }
    }
    let [.., of_root, of_nodes] = &read[..] else { panic!("three levels") };
    assert_eq!(of_root, &root.links);
    let mut expected: Vec<BlobId> = of_root.iter().flat_map(|id| known[id].links.clone()).collect();
    let mut met = HashSet::new();
    expected.retain(|id| met.insert(*id));
    assert_eq!(of_nodes, &expected, "each once, as the nodes name them");
}

#[test]
fn the_pace_is_kept_whatever_the_pieces() {
    for piece in [100u64, 10_000, 1 << 20] {
        let (mut pace, mut now, mut sent) = (Pace::default(), Duration::from_secs(5), 0);
        while sent < 10 << 20 {
            now += pace.take(piece, 1 << 20, now);
            sent += piece;
        }
        let expected = Duration::from_secs_f64((sent - piece) as f64 / f64::from(1 << 20));
        let took = now - Duration::from_secs(5);
        assert!(
            took + Duration::from_millis(101) >= expected && took <= expected,
            "{piece}: {took:?} for {expected:?}"
        );
        // Idle time is not saved up.
        let rested = now + Duration::from_secs(3600);
        assert!(pace.take(2 << 20, 1 << 20, rested).is_zero());
        assert!(pace.take(1, 1 << 20, rested) > Duration::from_millis(1800));
    }
}

#[test]
fn digests_tell_sets_apart() {
    let name = |n: u8| vec![n; 32];
    let digest = |sets: &[&[Vec<u8>]]| super::digest(sets.iter().copied());
    let one = digest(&[&[name(1)], &[]]);
    assert_eq!(one, digest(&[&[name(1)], &[]]));
    assert_ne!(one, digest(&[&[], &[name(1)]]), "a mark is no snapshot");
    assert_ne!(one, digest(&[&[name(1), name(2)], &[]]));
}
