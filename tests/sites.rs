//! Real daemons on one machine keep each other equal: through cuts, crashes, lost disks, damage and contradiction.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::manifest;
use crate::support::program::House;
use crate::support::server::Appliance;
use crate::support::torture::Random;

mod relay;

use relay::Relay;

const PATIENCE: Duration = Duration::from_secs(90);

fn fill(directory: &Path, seed: u64, megabytes: usize) {
    let mut random = Random(seed);
    for number in 0..30 {
        let sub = directory.join(format!("part-{}", number % 7));
        std::fs::create_dir_all(&sub).unwrap();
        let len = random.below(90_000) as usize;
        std::fs::write(sub.join(format!("file-{number}-{seed}")), random.bytes(len)).unwrap();
    }
    std::fs::write(directory.join(format!("large-{seed}")), random.bytes(megabytes << 20)).unwrap();
}

fn peers(site: &Appliance) -> Vec<Value> {
    site.ok(&["--json", "peer", "list"]).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Waits until a thing is so.
#[track_caller]
fn until(what: &str, sites: &[&Appliance], mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is_so() {
        if Instant::now() > end {
            let logs: Vec<String> = sites.iter().map(|site| tail(&site.log())).collect();
            panic!("waited in vain: {what}\n{}", logs.join("\n---\n"));
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(25)..].join("\n")
}

fn invite(site: &Appliance, address: &str) -> String {
    let words = ["invite", "--repository", "office", "--role", "replica", "--address", address];
    site.ok(&words).trim().to_owned()
}

/// `dialling` joins `answering`, by way of a relay.
fn joined(dialling: &Appliance, answering: &Appliance, more: &[&str]) -> Relay {
    let relay = Relay::to(&answering.address);
    let token = invite(answering, &relay.address);
    dialling.ok(&[&["peer", "join", &token], more].concat());
    relay
}

/// What a machine that saves at one site says at the other: the same keys, another place.
fn at(house: &House, site: &Appliance) -> House {
    let mut other = site.client("admin", &[]);
    other.password.clone_from(&house.password);
    other
}

#[track_caller]
fn converge(dialling: &Appliance, other: &Appliance) {
    until("both have the same", &[dialling, other], || {
        let told = dialling.run(&["peer", "compare"]);
        told.code == Some(0)
    });
}

fn assert_restores(house: &House, snapshot: &str, source: &Path) {
    let restored = house.restore(snapshot, source);
    manifest::assert_same(&manifest::of(source), &manifest::of(&restored));
}

/// A site with a repository, and one that has just joined it.
fn pair() -> (Appliance, Appliance, House) {
    let (a, b) = (Appliance::new(), Appliance::new());
    let house = a.founder();
    (a, b, house)
}

#[test]
fn a_commit_is_at_the_other_site_within_a_second_whoever_dials() {
    for b_dials in [true, false] {
        let (a, b, house) = pair();
        let source = house.directory("source");
        fill(&source, 1, 4);
        let first = house.backup(&source);
        let _relay = if b_dials { joined(&b, &a, &[]) } else { joined(&a, &b, &[]) };
        let dialling = if b_dials { &b } else { &a };
        converge(dialling, if b_dials { &a } else { &b });
        let there = at(&house, &b);
        assert_restores(&there, &first, &source);

        fill(&source, 2, 1);
        let second = house.backup(&source);
        let path = b.repository().join("snapshots").join(&second);
        let began = Instant::now();
        until("the second snapshot is there", &[&a, &b], || path.exists());
        // The rest of the second is for a machine that is busy.
        assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
        assert_restores(&there, &second, &source);

        // And the other way round, with a mark.
        let own = there.directory("source");
        fill(&own, 3, 1);
        let third = there.backup(&own);
        there.ok(["tag", &third, "+there"]);
        until("the third is here", &[&a, &b], || house.snapshots().contains(&third));
        assert_restores(&house, &third, &own);
        converge(dialling, if b_dials { &a } else { &b });
        assert!(house.ok(["snapshots"]).contains("there"));
        let figures = &peers(dialling)[0];
        assert_eq!(
            (figures["state"].as_str(), figures["lag_snapshots"].as_u64()),
            (Some("even"), Some(0)),
            "{figures}"
        );
    }
}

#[test]
fn what_was_cut_off_goes_on_where_it_was() {
    let (a, b, house) = pair();
    for (direction, seed) in [("push", 10), ("pull", 11)] {
        let source = house.directory(&format!("source-{seed}"));
        fill(&source, seed, 48);
        let relay = if direction == "push" { joined(&a, &b, &[]) } else { joined(&b, &a, &[]) };
        let dialling = if direction == "push" { &a } else { &b };
        converge(dialling, &b);
        // In the middle.
        relay.cut_after(24 << 20);
        house.backup(&source);
        until("it was cut", &[&a, &b], || relay.is_cut());
        std::thread::sleep(Duration::from_secs(1));
        let before = relay.bytes();
        // Both notice that nobody answers.
        until("the link failed", &[&a, &b], || peers(dialling)[0]["state"] == "failed");
        relay.heal();
        converge(dialling, &b);
        let all = (relay.bytes() - before) + (24 << 20);
        let needed = 48u64 << 20;
        eprintln!("{direction}: {all} bytes for {needed}, {:.2} % more", 100.0 * (all as f64 / needed as f64 - 1.0));
        assert!(all < needed + needed / 10, "{direction}: {all} bytes went over for {needed}");
        dialling.ok(&["peer", "remove", "office"]);
    }
}
