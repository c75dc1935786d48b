//! Real daemons on one machine keep each other equal: through cuts, crashes, lost disks, damage and contradiction.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::manifest;
use crate::support::program::House;
use crate::support::server::Appliance;
use crate::support::torture::Random;

mod relay;

mod standing;

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

/// What goes over twice is what was on its way: the window of a stream or of the connection, whatever the size of the snapshot.
fn cut_in_the_middle(is_push: bool, seed: u64) {
    let (a, b, house) = pair();
    let relay = if is_push { joined(&a, &b, &[]) } else { joined(&b, &a, &[]) };
    let (dialling, other) = if is_push { (&a, &b) } else { (&b, &a) };
    let first = house.directory("first");
    fill(&first, seed, 1);
    house.backup(&first);
    converge(dialling, other);
    let source = house.directory("source");
    fill(&source, seed + 1, 48);
    let (before, half) = (relay.bytes(), 24 << 20);
    relay.cut_after(half);
    house.backup(&source);
    until("it was cut", &[&a, &b], || relay.is_cut());
    until("the link failed", &[&a, &b], || peers(dialling)[0]["state"] == "failed");
    relay.heal();
    converge(dialling, other);
    let (all, needed) = (relay.bytes() - before, 50 << 20);
    eprintln!("push {is_push}: {all} bytes for about {needed}");
    let on_its_way = 9 << 20;
    assert!(all < needed + (needed / 20) + on_its_way, "push {is_push}: {all} bytes went over for {needed}");
    assert_restores(&at(&house, &b), &house.snapshots()[1], &source);
}

#[test]
fn a_push_that_was_cut_off_goes_on_where_it_was() {
    cut_in_the_middle(true, 10);
}

#[test]
fn a_pull_that_was_cut_off_goes_on_where_it_was() {
    cut_in_the_middle(false, 20);
}

#[test]
fn two_sites_that_were_cut_off_become_one_again() {
    let (a, b, house) = pair();
    let relay = joined(&b, &a, &[]);
    let source = house.directory("source");
    fill(&source, 30, 1);
    let (kept, gone) = (house.backup(&source), {
        fill(&source, 31, 1);
        house.backup(&source)
    });
    fill(&source, 34, 1);
    let last = house.backup(&source);
    converge(&b, &a);
    let there = at(&house, &b);
    relay.cut();
    // Both take backups; one pins what the other forgets, and forgets what the other knows nothing more of.
    let own = house.directory("own");
    fill(&own, 32, 2);
    let at_a = house.backup(&own);
    house.ok(["forget", &kept]);
    house.ok(["forget", &gone]);
    fill(&own, 33, 2);
    let at_b = there.backup(&own);
    there.ok(["pin", &kept]);
    until("the link failed", &[&a, &b], || peers(&b)[0]["state"] == "failed");
    relay.heal();
    converge(&b, &a);
    for house in [&house, &there] {
        let mut expected = vec![at_a.clone(), at_b.clone(), last.clone()];
        let mut seen = house.snapshots();
        expected.sort();
        seen.sort();
        assert_eq!(seen, expected);
        // Both words came over: it is forgotten, and as long as it is pinned nothing takes it.
        let forgotten = house.ok(["snapshots", "--forgotten"]);
        assert!(forgotten.contains(&gone[..8]), "{forgotten}");
        assert!(forgotten.lines().any(|line| line.contains(&kept[..8]) && line.contains("pinned")), "{forgotten}");
    }
    assert_restores(&there, &at_b, &own);
}

/// What a check of the directory finds while the server is stopped.
fn checked(site: &mut Appliance) -> i32 {
    site.stop();
    let local = House::with_url(site.repository().display().to_string());
    let code = local.run(["check", "--read-data"]).code.unwrap();
    site.start();
    code
}

#[test]
fn a_lost_disk_is_filled_again_and_a_damaged_blob_fetched() {
    let (a, mut b, house) = pair();
    let _relay = joined(&a, &b, &[]);
    let source = house.directory("source");
    fill(&source, 40, 6);
    let snapshot = house.backup(&source);
    house.ok(["tag", &snapshot, "+kept"]);
    converge(&a, &b);
    b.stop();
    std::fs::remove_dir_all(b.repository()).unwrap();
    b.start();
    until("the repository is there again", &[&a, &b], || b.repository().join("REPO").exists());
    converge(&a, &b);
    let there = at(&house, &b);
    assert_restores(&there, &snapshot, &source);
    assert!(there.ok(["snapshots"]).contains("kept"));

    // One byte of the largest pack.
    b.stop();
    let packs = std::fs::read_dir(b.repository().join("packs")).unwrap();
    let files = packs.flat_map(|directory| std::fs::read_dir(directory.unwrap().path()).unwrap());
    let pack = files.map(|file| file.unwrap().path()).max_by_key(|path| path.metadata().unwrap().len()).unwrap();
    let mut bytes = std::fs::read(&pack).unwrap();
    bytes[3000] ^= 1;
    std::fs::write(&pack, bytes).unwrap();
    b.start();
    assert_ne!(checked(&mut b), 0, "the damage is found");
    until("it is healed", &[&a, &b], || a.log().contains("blobs that were lost are back"));
    until("the link is even", &[&a, &b], || peers(&a)[0]["state"] == "even");
    assert_restores(&there, &snapshot, &source);
    assert_eq!(checked(&mut b), 0, "nothing is lost any more");
}

#[test]
fn whoever_is_killed_whenever_nothing_is_lost() {
    let rounds: u64 = std::env::var("NIGHTKEEP_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(4);
    let (mut a, mut b, house) = pair();
    let _relay = joined(&b, &a, &[]);
    let mut random = Random(50);
    let source = house.directory("source");
    let mut snapshots = Vec::new();
    for round in 0..rounds {
        fill(&source, 60 + round, 3);
        snapshots.push(house.backup(&source));
        std::thread::sleep(Duration::from_millis(random.below(900)));
        let victim = if random.below(2) == 0 { &mut a } else { &mut b };
        victim.kill();
        victim.start();
    }
    converge(&b, &a);
    let there = at(&house, &b);
    for snapshot in &snapshots {
        assert!(there.snapshots().contains(snapshot));
    }
    assert_restores(&there, snapshots.last().unwrap(), &source);
    assert_eq!((checked(&mut a), checked(&mut b)), (0, 0));
}

#[test]
fn a_lagging_site_takes_at_once_and_deletes_late() {
    let (a, b, house) = pair();
    let relay = Relay::to(&a.address);
    let token = invite(&a, &relay.address);
    b.ok(&["peer", "join", &token, "--delay", "6s"]);
    assert!(b.run(&["invite", "--repository", "office", "--role", "replica"]).expect(1).err.contains("lagging"));
    let source = house.directory("source");
    fill(&source, 70, 1);
    let snapshot = house.backup(&source);
    let there = at(&house, &b);
    until("it is there", &[&a, &b], || there.snapshots().contains(&snapshot));
    let own = there.backup(&source);
    fill(&source, 71, 1);
    let second = house.backup(&source);
    house.ok(["forget", &snapshot]);
    house.ok(["tag", &second, "+seen"]);
    until("the label is there", &[&a, &b], || there.ok(["snapshots"]).contains("seen"));
    assert!(there.snapshots().contains(&snapshot), "not yet forgotten here");
    std::thread::sleep(Duration::from_secs(7));
    house.ok(["tag", &second, "+again"]);
    until("it is forgotten here too", &[&a, &b], || !there.snapshots().contains(&snapshot));
    assert!(!house.snapshots().contains(&own), "nothing goes out of a lagging site");
}

#[test]
fn a_client_goes_to_the_next_site_and_counts_copies() {
    let (mut a, mut b, house) = pair();
    let _relay = joined(&b, &a, &[]);
    house.ok(["join", &b.invite("admin", &[])]);
    let source = house.directory("source");
    fill(&source, 80, 1);
    let first = house.backup(&source);
    converge(&b, &a);
    let shown = house.ok(["snapshots"]);
    assert!(shown.contains("COPIES") && shown.contains("2: "), "{shown}");
    let line = house.json(["snapshots"]).remove(0);
    assert_eq!(line["copies"].as_array().unwrap().len(), 2, "{line}");

    let config = house.path().join("client.toml");
    let job = |wait: &str| {
        let (one, two, source) = (a.url(), b.url(), source.display());
        format!(
            "repository = [\"{one}\", \"{two}\"]\n[jobs.web]\ncopies = 2\ncopies_wait = \"{wait}\"\n\
             [[jobs.web.sources]]\nfiles = [\"{source}\"]\n"
        )
    };
    std::fs::write(&config, job("60s")).unwrap();
    let long = job("2s");
    let run = |house: &House| {
        let mut command = house.command(["run"]);
        command.env_remove("NIGHTKEEP_REPOSITORY").env("NIGHTKEEP_CONFIG", &config);
        crate::support::program::told(&mut command)
    };
    run(&house).expect(0);
    a.stop();
    let list = format!("{},{}", a.url(), b.url());
    let told = house.run(["-r", &list, "backup", "files", source.to_str().unwrap()]).expect(0);
    assert!(told.err.contains("is away, another site is used"), "{}", told.err);
    std::fs::write(&config, &long).unwrap();
    let told = run(&house).expect(3);
    assert!(told.err.contains("not at 2 sites") || String::from_utf8_lossy(&told.out).contains("not at 2 sites"));
    a.start();
    converge(&b, &a);
    assert_eq!(house.snapshots().len(), 4);
    assert_restores(&house, &first, &source);
    b.stop();
}

#[test]
fn the_drill_is_passed() {
    let place = tempfile::tempdir().unwrap();
    let free = || std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let port = (0..).map(|_| free()).find(|port| std::net::UdpSocket::bind(("127.0.0.1", port + 1)).is_ok()).unwrap();
    let mut command = std::process::Command::new(crate::support::source::workspace().join("deploy/drill"));
    let command = command.arg(place.path()).env("NIGHTKEEP_TEST_CHEAP_KDF", "1").env("LC_ALL", "C");
    let bin = crate::support::program::nightkeep().parent().unwrap();
    let told = command.env("NIGHTKEEP_BIN", bin).env("NIGHTKEEP_DRILL_PORT", port.to_string()).output().unwrap();
    let report = String::from_utf8_lossy(&told.stdout);
    assert!(told.status.success(), "{report}{}", String::from_utf8_lossy(&told.stderr));
    assert!(report.contains("every step did what it should"), "{report}");
}
