//! Two and three sites under a seeded scheduler: loss, delay, reorder, duplication, partitions, crashes at any step, collections,
//! forgetting, pinning, damage and lost disks, on every side. Whatever happens, no site has a snapshot without all its blobs, and
//! once things calm down all sites have every snapshot that their marks together want.
//!
//! The network and the disks are models; the round, the transfer and the rules are those of the product.
//! `NIGHTKEEP_SCHEDULES` says how many (1,000 without it), `NIGHTKEEP_SCHEDULE` runs a single one.

mod fate;

pub(super) mod site;

mod world;

use world::World;

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

#[test]
fn sites_converge_and_lose_nothing() {
    let mut done = world::Tally::default();
    let seeds = match number("NIGHTKEEP_SCHEDULE") {
        Some(seed) => seed..seed + 1,
        None => 0..number("NIGHTKEEP_SCHEDULES").unwrap_or(1000),
    };
    for seed in seeds.clone() {
        let mut world = World::new(seed);
        world.run();
        world.assert_converged();
        done.add(&world.tally);
    }
    eprintln!("{} schedules: {done:?}", seeds.end - seeds.start);
    if seeds.end - seeds.start >= 100 {
        assert!(done.happened(), "something never happened, so nothing was shown of it: {done:?}");
    }
}
