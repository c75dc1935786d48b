//! Places in directories, nodes fetched in groups, holes counted, chunks shared by threads.

use super::*;

#[test]
fn a_listing_may_begin_at_any_leaf() {
    let s = Setup::new();
    for count in [0, 1, 500, 60_000] {
        let entries = many(count);
        let root = s.build(&entries);
        s.store.take_read();
        let reader = s.reader();
        let leaves = reader.leaves(root).unwrap();
        let inner = s.store.take_read().len();
        assert!(leaves.links.len() > 20 || count < 60_000);
        assert!(inner <= 3, "{inner} nodes are read for {} leaves", leaves.links.len());
        let mut found = Vec::new();
        for at in 0..leaves.links.len() {
            let (link, leaf) = s.reader().leaf_of(&leaves, at).unwrap().unwrap();
            assert_eq!(reader.leaf(link).unwrap().entries(), leaf.entries());
            found.extend_from_slice(leaf.entries());
        }
        assert_eq!(found, entries);
        assert!(reader.leaf_of(&leaves, leaves.links.len()).unwrap().is_none());
        for entry in entries.iter().step_by(1009) {
            let found = reader.find(root, &entry.name).unwrap().unwrap();
            assert_eq!(&found.leaf.entries()[found.position], entry);
            assert_eq!(&reader.leaf(found.link).unwrap().entries()[found.position], entry);
        }
    }
}

#[test]
fn leaves_that_are_not_what_was_announced_are_refused() {
    let s = Setup::new();
    let leaf = |names: &[&str]| s.insert_tree(&Tree::Leaf(names.iter().map(|name| fifo(name)).collect()));
    let [ab, cd, bx] = [leaf(&["a", "b"]), leaf(&["c", "d"]), leaf(&["b", "x"])];
    let inner = |children: &[(&str, Reference)]| {
        let children = children.iter().map(|(name, link)| (name.as_bytes().to_vec(), *link)).collect();
        s.insert_tree(&Tree::Inner { level: 1, children })
    };
    let reader = s.reader();
    let names = |root| -> Result<Vec<usize>> {
        let leaves = reader.leaves(root)?;
        (0..leaves.links.len()).map(|at| Ok(reader.leaf_of(&leaves, at)?.unwrap().1.entries().len())).collect()
    };
    assert_eq!(names(inner(&[("a", ab), ("c", cd)])).unwrap(), [2, 2]);
    assert_eq!(damage(names(inner(&[("a", ab), ("ca", cd)]))).0, format!("blob {}", cd.id), "another first name");
    assert_eq!(damage(names(inner(&[("a", ab), ("b", bx)]))).0, format!("blob {}", ab.id), "a name twice");
    let root = inner(&[("a", ab), ("c", cd)]);
    assert_eq!(damage(names(inner(&[("a", root)]))).0, format!("blob {}", root.id), "too high");
    assert_eq!(damage(reader.leaf(root).map(|_| ())).0, format!("blob {}", root.id), "no leaf");
}

#[test]
fn nodes_that_were_fetched_together_are_there() {
    let s = Setup::new();
    let trees: Vec<Reference> = (0..20).map(|n| s.build(&many(n))).collect();
    let reader = s.reader();
    s.store.take_read();
    let lost = Reference { id: BlobId([9; 32]), ..Reference::default() };
    reader.prefetch(Kind::Tree, &[&trees[..], &trees[..3], &[lost]].concat()).unwrap();
    let read = s.store.take_read();
    assert_eq!(read.iter().filter(|id| trees.iter().any(|tree| tree.id == **id)).count(), trees.len());
    for (n, tree) in trees.iter().enumerate() {
        assert_eq!(all_entries(&reader, *tree).unwrap().len(), n);
    }
    reader.prefetch(Kind::Tree, &trees).unwrap();
    assert!(s.store.take_read().is_empty());
}

#[test]
fn holes_are_counted() {
    let s = Setup::new();
    let reader = s.reader();
    let (chunk, hole) = (s.chunk(b"0123456789"), Item::Hole { len: 1000 });
    assert_eq!(reader.data_bytes(&Content::Inline(vec![0; 7]), 0).unwrap(), 7);
    assert_eq!(reader.data_bytes(&s.build_file(&[hole, chunk, hole]), 0).unwrap(), 10);
    assert_eq!(reader.data_bytes(&s.build_file(&[hole, chunk].repeat(20)), 0).unwrap(), 200);
    let long = s.build_file(&[hole, chunk].repeat(4096 * 4));
    assert_eq!(reader.data_bytes(&long, 10_000).unwrap(), 10 * 4096 * 4, "every list is looked into");
    s.store.take_read();
    assert_eq!(s.reader().data_bytes(&long, u64::MAX).unwrap(), long.size(), "no list is");
    assert_eq!(s.store.take_read().len(), 1);
}

#[test]
fn a_chunk_that_many_want_is_read_once() {
    let s = Setup::new();
    let links: Vec<Reference> = (0..50u8).map(|n| s.chunk(&[n; 3000]).link().unwrap()).collect();
    let reader = s.reader();
    s.store.take_read();
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let (reader, mut wanted) = (&reader, links.clone());
            wanted.rotate_left(thread * 6);
            scope.spawn(move || {
                for wanted in wanted.chunks(7) {
                    let found = reader.shared(wanted).unwrap();
                    assert_eq!(found.len(), wanted.len());
                    assert!(wanted.iter().all(|link| found[link].as_ref().unwrap().len() == 3000));
                }
            });
        }
    });
    let mut read = s.store.take_read();
    read.sort_unstable();
    let mut expected: Vec<BlobId> = links.iter().map(|link| link.id).collect();
    expected.sort_unstable();
    assert_eq!(read, expected);
    assert!(links.iter().all(|link| reader.is_at_hand(link)));
}

#[test]
fn one_that_is_lost_fails_for_all_who_want_it_and_nobody_waits_for_ever() {
    let s = Setup::new();
    let links: Vec<Reference> = (0..6u8).map(|n| s.chunk(&[n; 3000]).link().unwrap()).collect();
    s.store.lose(links[3].id);
    // Without room in the cache, whoever waited opens it again.
    for room in [0, 1 << 20] {
        let reader = Reader::with_caches(s.store.clone(), s.store.opener(), 0, room);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let found = reader.shared(&links).unwrap();
                    assert!(matches!(&found[&links[3]], Err(Error::Missing { .. })));
                    assert_eq!(found.values().filter(|content| content.is_ok()).count(), 5);
                });
            }
        });
        assert!(!reader.is_at_hand(&links[3]));
    }
}

#[test]
fn what_is_let_go_gives_its_room_and_is_read_again_when_asked_for() {
    let s = Setup::new();
    let links: Vec<Reference> = (0..4u8).map(|n| s.chunk(&[n; 3000]).link().unwrap()).collect();
    let reader = Reader::with_caches(s.store.clone(), s.store.opener(), 0, 9000);
    reader.shared(&links[..3]).unwrap();
    reader.let_go(&links[1..2]);
    reader.shared(&links[3..]).unwrap();
    assert_eq!([0, 1, 2, 3].map(|n: usize| reader.is_at_hand(&links[n])), [true, false, true, true]);
    s.store.take_read();
    assert_eq!(**reader.shared(&links[1..2]).unwrap()[&links[1]].as_ref().unwrap(), vec![1; 3000]);
    assert_eq!(s.store.take_read(), [links[1].id]);
}

#[test]
fn chunks_come_one_after_the_other_until_somebody_has_enough() {
    let s = Setup::new();
    let mut links: Vec<Reference> = (0..4u8).map(|n| s.chunk(&[n; 3000]).link().unwrap()).collect();
    links.insert(1, Reference { id: BlobId([9; 32]), ..Reference::default() });
    let mut seen = Vec::new();
    let visited = s.reader().each_chunk(&links, &mut |at, content| {
        seen.push((at, content.ok()));
        if at == 2 { Err(Error::Interrupted) } else { Ok(()) }
    });
    assert!(matches!(visited, Err(Error::Interrupted)));
    assert_eq!(seen, [(0, Some(vec![0; 3000])), (1, None), (2, Some(vec![1; 3000]))]);
}
