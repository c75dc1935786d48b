//! Sketches and the choice of bases, without a repository.

use super::*;
use proptest::prelude::*;

const REPOSITORY: RepositoryId = RepositoryId([5; 16]);

fn id(n: usize) -> BlobId {
    BlobId(*blake3::hash(&n.to_le_bytes()).as_bytes())
}

/// A sketch of bins that hold these numbers.
fn sketch(bins: impl Fn(usize) -> u16) -> Sketch {
    Sketch(std::array::from_fn(bins))
}

/// Of a delta of one base, which is one of one base, and so on.
fn chain(depth: u8) -> Chain {
    Chain { depth, bases: depth }
}

fn numbered(n: usize) -> Sketch {
    sketch(|bin| u16::try_from(n * 16 + bin + 1).unwrap())
}

fn find(index: &SimilarityIndex, sketch: &Sketch) -> Vec<Candidate> {
    index.find(std::slice::from_ref(sketch)).pop().unwrap()
}

/// All of its entries.
fn forget(index: &mut SimilarityIndex, sketch: &Sketch, id: BlobId) {
    while let Some(gone) = find(index, sketch).iter().find(|found| found.id == id) {
        index.forget(gone);
    }
}

#[test]
fn a_chain_counts_every_way_to_every_base() {
    let of = |bases: &[Chain]| Chain::of(bases.iter().copied());
    assert_eq!(of(&[]), Some(Chain::WHOLE));
    let one = of(&[Chain::WHOLE]).unwrap();
    assert_eq!(one, chain(1));
    let three = of(&[one, Chain::WHOLE, one]).unwrap();
    assert_eq!(three, Chain { depth: 2, bases: 5 });
    assert_eq!(of(&[three, three]), Some(Chain { depth: 3, bases: 12 }));
    // A chain of single bases ends by its length, one that fans out by its bases.
    let longest = (0..DEPTH_MAX).fold(Chain::WHOLE, |chain, _| of(&[chain]).unwrap());
    assert!(longest == chain(DEPTH_MAX) && !longest.goes_on());
    let half = Chain { depth: 1, bases: BASES_MAX / 2 };
    assert!(half.goes_on() && of(&[half, half]).is_none());
    let widest = of(&[half, Chain { depth: 0, bases: BASES_MAX / 2 - 2 }]).unwrap();
    assert!(widest.bases == BASES_MAX && !widest.goes_on());
    assert_eq!(of(&[GONE]), None);
}

#[test]
fn the_newest_of_the_most_similar_comes_first() {
    let mut index = SimilarityIndex::new(100);
    let wanted = sketch(|_| 7);
    let sharing = |equal: usize| sketch(|bin| if bin < equal { 7 } else { 9 });
    index.insert(id(1), &sharing(4), Chain::WHOLE);
    index.insert(id(2), &sharing(13), Chain::WHOLE);
    index.insert(id(3), &sharing(16), chain(1));
    index.insert(id(4), &sharing(13), chain(3));
    index.insert(id(5), &sharing(14), chain(DEPTH_MAX));
    index.insert(id(6), &sketch(|_| 9), Chain::WHOLE);
    let found: Vec<_> =
        find(&index, &wanted).iter().map(|found| (found.id, found.equal.count_ones(), found.chain.depth)).collect();
    assert_eq!(found, [(id(4), 13, 3), (id(3), 16, 1), (id(2), 13, 0), (id(1), 4, 0)]);
    index.insert(id(7), &sharing(12), Chain::WHOLE);
    assert_eq!(find(&index, &wanted)[0].id, id(4), "that is less");
    forget(&mut index, &wanted, id(3));
    assert!(find(&index, &wanted).iter().all(|found| found.id != id(3)));
    assert!(find(&index, &sketch(|bin| if bin % 2 == 0 { 7 } else { 11 })).is_empty(), "no pair agrees");
    assert!(find(&index, &sketch(|_| 0)).is_empty());
}

#[test]
fn after_the_most_similar_comes_what_has_the_rest() {
    let mut index = SimilarityIndex::new(100);
    let wanted = sketch(|_| 7);
    let sharing = |shared: std::ops::Range<usize>| sketch(move |bin| if shared.contains(&bin) { 7 } else { 9 });
    for (n, shared) in [0..10, 0..12, 2..12, 10..16, 12..14].into_iter().enumerate() {
        index.insert(id(n), &sharing(shared), Chain::WHOLE);
    }
    let found: Vec<_> = find(&index, &wanted).iter().map(|found| found.id).collect();
    assert_eq!(found, [id(1), id(3), id(4), id(2)]);
}

#[test]
fn what_was_entered_beside_the_match_of_a_neighbour_is_found() {
    let mut index = SimilarityIndex::new(100);
    (0..20).for_each(|n| index.insert(id(n), &numbered(n), Chain::WHOLE));
    // Of these bins no two are a pair.
    let part = |n: usize| sketch(move |bin| if bin % 2 == 0 { numbered(n).0[bin] } else { 9999 });
    assert!(find(&index, &part(7)).is_empty());
    let places = |sketches: &[Sketch]| -> Vec<Vec<BlobId>> {
        index.find(sketches).iter().map(|found| found.iter().map(|found| found.id).collect()).collect()
    };
    assert_eq!(places(&[numbered(5), part(7)]), [vec![id(5)], vec![id(7)]]);
    assert_eq!(places(&[part(3), numbered(5)]), [vec![id(3)], vec![id(5)]]);
    assert_eq!(places(&[numbered(5), part(10)]), [vec![id(5)], vec![]], "too far away");
    // Half of one chunk, half of the next.
    let both = sketch(|bin| numbered(if bin < 12 { 5 } else { 6 }).0[bin]);
    let found = find(&index, &both);
    assert_eq!(found.iter().map(|found| (found.id, found.equal)).collect::<Vec<_>>(), [(id(5), 0xfff0), (id(6), 0xf)]);
    let lone = sketch(|bin| if bin == 12 { numbered(6).0[bin] } else { numbered(5).0[bin] });
    assert_eq!(find(&index, &lone).len(), 1, "one bin may be chance");
}

#[test]
fn neighbours_are_found_around_the_end_of_the_ring() {
    let mut index = SimilarityIndex::new(50);
    let part = |n: usize| sketch(move |bin| if bin % 2 == 0 { numbered(n).0[bin] } else { 9999 });
    for n in 0..120 {
        index.insert(id(n), &numbered(n), Chain::WHOLE);
        if n >= 50 {
            assert_eq!(index.find(&[numbered(n), part(n - 2)])[1][0].id, id(n - 2), "{n}");
            let oldest = n - 49;
            assert_eq!(index.find(&[numbered(oldest), part(oldest + 1)])[1][0].id, id(oldest + 1), "{n}");
            assert!(index.find(&[numbered(oldest), part(oldest - 1)])[1].is_empty(), "{n}");
        }
    }
}

#[test]
fn the_oldest_makes_room() {
    let mut index = SimilarityIndex::new(50);
    for n in 0..500 {
        index.insert(id(n), &numbered(n), Chain::WHOLE);
        assert!(index.len() <= 50);
        for kept in n.saturating_sub(49)..=n {
            assert_eq!(find(&index, &numbered(kept)).first().map(|found| found.id), Some(id(kept)), "{kept} of {n}");
        }
        if n >= 50 {
            assert!(find(&index, &numbered(n - 50)).is_empty());
        }
    }
}

#[test]
fn of_many_that_are_alike_the_newest_are_found() {
    let mut index = SimilarityIndex::new(1000);
    for n in 0..100 {
        index.insert(id(n), &numbered(1), Chain::WHOLE);
        index.insert(id(1000 + n), &numbered(10 + n), Chain::WHOLE);
    }
    assert_eq!(find(&index, &numbered(1)).iter().map(|found| found.id).collect::<Vec<_>>(), [99, 98, 97, 96].map(id));
}

#[test]
fn a_decoded_index_finds_the_same_and_knows_what_is_fresh() {
    let mut index = SimilarityIndex::new(40);
    for n in 0..60 {
        index.insert(id(n), &numbered(n), chain(u8::try_from(n % 3).unwrap()));
    }
    forget(&mut index, &numbered(30), id(30));
    let bytes = index.encode(&REPOSITORY);
    let mut decoded = SimilarityIndex::decode(&bytes, &REPOSITORY, 40).unwrap();
    assert_eq!(decoded.len(), 39);
    assert!(!decoded.has_changed() && index.has_changed());
    for n in 0..60 {
        let found = find(&decoded, &numbered(n));
        assert_eq!(found.len(), usize::from(n >= 20 && n != 30), "{n}");
        assert!(found.iter().all(|found| !found.is_fresh && found.chain == chain(u8::try_from(n % 3).unwrap())));
    }
    decoded.insert(id(100), &numbered(100), Chain::WHOLE);
    assert!(find(&decoded, &numbered(100))[0].is_fresh && decoded.has_changed());
    let fewer = SimilarityIndex::decode(&bytes, &REPOSITORY, 10).unwrap();
    assert_eq!((fewer.len(), find(&fewer, &numbered(59)).len(), find(&fewer, &numbered(49)).len()), (10, 1, 0));
}

#[test]
fn what_is_damaged_or_foreign_is_nothing() {
    let mut index = SimilarityIndex::new(40);
    index.insert(id(1), &numbered(1), Chain::WHOLE);
    let bytes = index.encode(&REPOSITORY);
    assert!(SimilarityIndex::decode(&bytes, &RepositoryId([6; 16]), 40).is_none());
    for len in 0..bytes.len() {
        assert!(SimilarityIndex::decode(&bytes[..len], &REPOSITORY, 40).is_none(), "{len}");
    }
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(SimilarityIndex::decode(&flipped, &REPOSITORY, 40).is_none(), "{bit}");
    }
}

proptest! {
    #[test]
    fn found_is_what_was_entered_last_under_its_id(
        steps in prop::collection::vec((0usize..30, 0..DEPTH_MAX + 2, any::<bool>()), 0..200), chunks_max in 1usize..40,
    ) {
        let mut index = SimilarityIndex::new(chunks_max);
        for (n, depth, is_forgotten) in steps {
            if is_forgotten {
                forget(&mut index, &numbered(n), id(n));
                prop_assert!(find(&index, &numbered(n)).is_empty());
            } else {
                index.insert(id(n), &numbered(n), chain(depth));
                let found = find(&index, &numbered(n));
                prop_assert!(found.iter().all(|found| found.id == id(n) && found.equal == u16::MAX && found.chain.depth < DEPTH_MAX));
                if depth < DEPTH_MAX {
                    prop_assert!(!found.is_empty());
                }
            }
            prop_assert!(index.len() <= chunks_max);
            let decoded = SimilarityIndex::decode(&index.encode(&REPOSITORY), &REPOSITORY, chunks_max).unwrap();
            prop_assert!(find(&index, &numbered(n)).is_empty() || !find(&decoded, &numbered(n)).is_empty());
        }
    }
}
