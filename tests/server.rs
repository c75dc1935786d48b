//! A server without keys does for a client all that a directory does, for nobody more than they were granted, and through
//! whatever happens to either of them.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::support::manifest;
use crate::support::program::{House, told};
use crate::support::server::Appliance;
use crate::support::torture::Random;

mod hostile;

mod maintenance;

/// Files of all sizes, some larger than a window.
fn fill(directory: &Path, seed: u64, megabytes: usize) {
    let mut random = Random(seed);
    for number in 0..40 {
        let sub = directory.join(format!("part-{}", number % 7));
        std::fs::create_dir_all(&sub).unwrap();
        let len = random.below(60_000) as usize;
        std::fs::write(sub.join(format!("file-{number}")), random.bytes(len)).unwrap();
    }
    std::fs::write(directory.join("large"), random.bytes(megabytes << 20)).unwrap();
}

fn assert_restores(house: &House, snapshot: &str, source: &Path) {
    let restored = house.restore(snapshot, source);
    manifest::assert_same(&manifest::of(source), &manifest::of(&restored));
}

#[test]
fn a_server_does_what_a_directory_does() {
    let appliance = Appliance::new();
    let house = appliance.founder();
    assert!(house.fails(1, ["init"]).contains("already holds a repository"));
    let source = house.directory("source");
    fill(&source, 1, 6);
    let first = house.backup(&source);
    assert_restores(&house, &first, &source);
    std::fs::write(source.join("large"), Random(2).bytes(3 << 20)).unwrap();
    std::fs::remove_dir_all(source.join("part-3")).unwrap();
    let second = house.backup(&source);
    assert_restores(&house, &second, &source);
    assert_restores(&house, &second[..8], &source);

    let path = |name: &str| format!("{second}:{}", source.join(name).display());
    assert!(house.run(["dump", &path("large")]).expect(0).out == std::fs::read(source.join("large")).unwrap());
    assert!(house.ok(["ls", &path("")]).contains("part-1"));
    assert!(house.ok(["find", "file-1*"]).contains("file-1"));
    assert!(house.ok(["diff", &first, &second]).contains("large"));
    house.ok(["tag", &second, "+kept"]);
    house.ok(["pin", &second]);
    assert!(house.ok(["snapshots"]).contains("kept"));
    house.ok(["forget", &first]);
    assert_eq!(house.snapshots(), std::slice::from_ref(&second));
    house.ok(["undelete", &first]);
    assert_eq!(house.snapshots().len(), 2);
    assert!(house.ok(["stats"]).contains("2 in") || house.ok(["stats"]).contains("Snapshots: 2"));

    house.ok(["key", "add", "--recovery"]);
    assert_eq!(house.json(["key", "list"]).iter().filter(|line| line["id"].is_string()).count(), 3);
    let mut wrong = appliance.client("admin", &[]);
    wrong.password = "another".into();
    assert!(wrong.fails(12, ["snapshots"]).contains("wrong passphrase"));

    // What only the machine that keeps it can do says so.
    assert!(house.fails(1, ["prune"]).contains("nightkeepd gc"));
    assert!(house.fails(1, ["check"]).contains("nightkeepd verify"));
}

#[test]
fn a_repository_moves_between_directory_and_server() {
    let mut appliance = Appliance::new();
    let house = appliance.founder();
    let source = house.directory("source");
    fill(&source, 3, 1);
    let snapshot = house.backup(&source);
    appliance.stop();
    let local = House::with_url(appliance.repository().display().to_string());
    assert_restores(&local, &snapshot, &source);
    local.ok(["check", "--read-data"]);
    let own = local.backup(&source);
    appliance.start();
    assert!(house.snapshots().contains(&own));
    assert_restores(&house, &own, &source);
}

#[test]
fn clients_deduplicate_among_each_other() {
    let appliance = Appliance::new();
    let one = appliance.founder();
    let two = appliance.client("backup", &[]);
    let source = one.directory("source");
    fill(&source, 4, 8);
    one.backup(&source);
    let summary = two.json(["backup", "files", source.to_str().unwrap()]);
    let summary = summary.iter().find(|line| line["message_type"] == "summary").unwrap();
    assert!(summary["added_bytes"].as_u64().unwrap() < 20_000, "{summary}");
}

#[test]
fn four_at_once_store_the_same_and_all_come_back() {
    let appliance = Appliance::new();
    let founder = appliance.founder();
    let source = founder.directory("source");
    fill(&source, 5, 8);
    let clients: Vec<House> = (0..4).map(|_| appliance.client("backup", &[])).collect();
    std::thread::scope(|scope| {
        for (number, client) in clients.iter().enumerate() {
            let source = &source;
            let dataset = format!("m{number}");
            scope.spawn(move || client.ok(["backup", "files", "--dataset", &dataset, source.to_str().unwrap()]));
        }
    });
    let snapshots = founder.snapshots();
    assert_eq!(snapshots.len(), 4);
    for snapshot in &snapshots {
        assert_restores(&founder, snapshot, &source);
    }
}

#[test]
fn each_role_does_its_own_and_no_more() {
    let appliance = Appliance::new();
    let admin = appliance.founder();
    let source = admin.directory("source");
    fill(&source, 6, 1);
    let path = source.to_str().unwrap();
    admin.ok(["backup", "files", "--dataset", "other/files/x", path]);
    let secret = admin.snapshots().remove(0);

    let backup = appliance.client("backup", &["web/*"]);
    assert!(backup.fails(12, ["backup", "files", "--dataset", "other/files/x", path]).contains("may not commit"));
    backup.ok(["backup", "files", "--dataset", "web/files/x", path]);
    backup.ok(["backup", "files", "--dataset", "web/files/x", path]);
    assert_eq!(backup.snapshots().len(), 2, "it sees its own");
    let own = backup.snapshots().remove(0);
    assert!(backup.fails(1, ["ls", &secret]).contains("no snapshot matches"));
    let target = backup.fresh("target");
    let restore = |house: &House, snapshot: &str| {
        told(&mut house.command(["restore", "files", snapshot, "--target", target.to_str().unwrap()]))
    };
    assert!(restore(&backup, &own).err.contains("may not read data"));
    assert!(restore(&backup, &secret).err.contains("no snapshot matches"));
    for words in
        [["forget", &own].as_slice(), &["tag", &own, "+x"], &["pin", &own], &["stats"], &["key", "add", "--recovery"]]
    {
        let told = told(&mut backup.command(words));
        assert_eq!(told.code, Some(12), "{words:?}: {}", told.err);
    }
    let slot = admin.json(["key", "list"])[0]["id"].as_str().unwrap().to_owned();
    backup.fails(12, ["key", "remove", &slot]);

    let reader = appliance.client("restore", &["web/*"]);
    assert_eq!(reader.snapshots(), backup.snapshots());
    restore(&reader, &own).expect(0);
    assert!(reader.fails(12, ["backup", "files", "--dataset", "web/files/y", path]).contains("may not store data"));
    reader.fails(12, ["forget", &own]);

    let log = appliance.log();
    for (what, who) in [("Commit", "other/files/x"), ("Mark", "backup"), ("Read", "backup"), ("Push", "restore")] {
        let logged = log.lines().any(|line| line.contains("denied") && line.contains(what) && line.contains(who));
        assert!(logged, "{what} was not logged:\n{log}");
    }
    assert_eq!(admin.snapshots().len(), 3, "nothing went");
    assert_restores(&admin, &secret, &source);
}

#[test]
fn an_invitation_lets_one_machine_in() {
    let mut appliance = Appliance::new();
    let stranger = appliance.stranger();
    assert!(stranger.fails(1, ["snapshots"]).contains("nightkeep join"));
    let token = appliance.invite("admin", &[]);
    stranger.ok(["join", &token]);
    assert!(stranger.fails(10, ["snapshots"]).contains("no repository"));
    stranger.ok(["init"]);
    let second = appliance.stranger();
    assert!(second.fails(12, ["join", &token]).contains("it is used, expired"));
    let mistyped = format!("{}b", &token[..token.len() - 1]);
    second.fails(1, ["join", &mistyped]);

    // Another server behind the same address is not believed.
    std::fs::rename(appliance.data().join("server.pk8"), appliance.data().join("old.pk8")).unwrap();
    appliance.stop();
    let other = Appliance::new();
    std::fs::copy(other.data().join("server.pk8"), appliance.data().join("server.pk8")).unwrap();
    appliance.start();
    let told = stranger.fails(12, ["snapshots"]);
    assert!(told.contains("another key") && told.contains("join"), "{told}");
}

#[test]
fn who_is_revoked_is_out_at_once() {
    let appliance = Appliance::new();
    let house = appliance.founder();
    let sessions = || appliance.log().matches("session begins").count();
    let before = sessions();
    let mut command = house.command(["backup", "stdin", "--name", "x"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    wait_for(|| sessions() > before);
    let key = appliance.ok(&["clients", "list"]).split_whitespace().next().unwrap().to_owned();
    // The connection of what it did before may still be ending.
    assert!(!appliance.ok(&["clients", "revoke", &key]).contains(" 0 connections closed"));
    drop(child.stdin.take());
    let output = child.wait_with_output().unwrap();
    let err = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(12), "{err}");
    assert!(house.fails(12, ["snapshots"]).contains("does not know this machine"));
    assert!(appliance.ok(&["clients", "list"]).is_empty());
}

#[test]
fn nothing_in_clear_is_kept() {
    let appliance = Appliance::new();
    let house = appliance.founder();
    let source = house.directory("source");
    let marker = "a-very-peculiar-name";
    let text = "a sentence that nobody else may read. ".repeat(3000);
    std::fs::write(source.join(marker), &text).unwrap();
    std::fs::write(source.join("tiny"), &text[..200]).unwrap();
    house.backup(&source);
    let mut files = Vec::new();
    list(&appliance.data(), &mut files);
    assert!(files.len() > 8, "{files:?}");
    for file in files {
        let bytes = std::fs::read(&file).unwrap_or_default();
        for needle in [marker.as_bytes(), b"that nobody else may read", house.password.as_bytes()] {
            let found = bytes.windows(needle.len()).any(|window| window == needle);
            assert!(!found, "{} holds {}", file.display(), String::from_utf8_lossy(needle));
        }
    }
}

fn list(directory: &Path, files: &mut Vec<std::path::PathBuf>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { list(&path, files) } else { files.push(path) }
    }
}

/// The server stops or dies and comes back while a backup runs: it goes on as if nothing had been.
#[test]
fn a_backup_outlives_its_server() {
    let mut appliance = Appliance::new();
    let house = appliance.founder();
    let mut random = Random(7);
    for way in ["stop", "kill", "kill"] {
        let content = random.bytes(24 << 20);
        let mut command = house.command(["backup", "stdin", "--name", "big", "--dataset", way]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let (first, second) = content.split_at(8 << 20 | random.below(8 << 20) as usize);
        std::io::Write::write_all(&mut stdin, first).unwrap();
        std::thread::sleep(Duration::from_millis(random.below(300)));
        if way == "stop" {
            appliance.stop()
        } else {
            appliance.kill()
        }
        std::thread::sleep(Duration::from_millis(500));
        appliance.start();
        std::io::Write::write_all(&mut stdin, second).unwrap();
        drop(stdin);
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{way}: {}\n{}", String::from_utf8_lossy(&output.stderr), appliance.log());
        let snapshot = house.snapshots().pop().unwrap();
        assert!(house.run(["dump", &format!("{snapshot}:big")]).expect(0).out == content, "{way}");
    }
}

/// A server that was started again knows what was said to it before, and says that it knows nothing of it: nobody waits until a connection
/// times out, which takes 30 seconds.
#[test]
fn a_client_hears_at_once_that_the_server_was_started_again() {
    let mut appliance = Appliance::new();
    let house = appliance.founder();
    let sessions = |appliance: &Appliance| appliance.log().matches("session begins").count();
    let before = sessions(&appliance);
    let mut command = house.command(["backup", "stdin", "--dataset", "pipe", "--name", "stream"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    std::io::Write::write_all(&mut input, &Random(4).bytes(8 << 20)).unwrap();
    while sessions(&appliance) == before {
        assert!(child.try_wait().unwrap().is_none(), "it ended early");
        std::thread::sleep(Duration::from_millis(20));
    }
    appliance.kill();
    appliance.start();
    let begun = Instant::now();
    drop(input);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(begun.elapsed() < Duration::from_secs(25), "{:?}", begun.elapsed());
}

/// Whenever the server dies under several clients, what was acknowledged is there, and what was not goes through the next
/// time. `NIGHTKEEP_TEST_KILLS` says how often.
#[test]
fn what_was_acknowledged_survives_every_kill() {
    let kills: u64 = std::env::var("NIGHTKEEP_TEST_KILLS").map_or(3, |text| text.parse().unwrap());
    let mut random = Random(8);
    let mut appliance = Appliance::new();
    let founder = appliance.founder();
    let clients: Vec<House> = (0..4).map(|_| appliance.client("backup", &[])).collect();
    let mut acknowledged: Vec<(String, Vec<String>)> = Vec::new();
    for kill in 0..kills {
        let tree = |number: u64| {
            let source = founder.fresh("tree");
            std::fs::create_dir(&source).unwrap();
            fill(&source, kill * 4 + number, 3);
            (number, source)
        };
        let sources: Vec<_> = (0..4).map(tree).collect();
        let children: Vec<_> = clients
            .iter()
            .zip(&sources)
            .map(|(client, (_, source))| {
                let name = format!("k{kill}-{}", source.file_name().unwrap().to_str().unwrap());
                let mut command = client.command(["backup", "files", "--dataset", &name, source.to_str().unwrap()]);
                command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
            })
            .collect();
        std::thread::sleep(Duration::from_millis(random.below(900)));
        appliance.kill();
        appliance.start();
        for (child, (_, source)) in children.into_iter().zip(&sources) {
            let output = child.wait_with_output().unwrap();
            let err = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(!err.contains("panicked"), "{err}");
            let name = format!("k{kill}-{}", source.file_name().unwrap().to_str().unwrap());
            if !output.status.success() {
                // Its links were lost with the server; the next run sends what is missing.
                println!("run again after: {err}");
                clients[0].ok(["backup", "files", "--dataset", &name, source.to_str().unwrap()]);
            }
            acknowledged.push((source.display().to_string(), manifest::of(source)));
        }
        let snapshots = founder.json(["snapshots"]);
        assert_eq!(snapshots.iter().filter(|line| line["message_type"] == "snapshot").count(), acknowledged.len());
        for (source, expected) in acknowledged.iter().rev().take(4) {
            let name = format!("k{kill}-{}", Path::new(source).file_name().unwrap().to_str().unwrap());
            let target = founder.fresh("out");
            let what = format!("{name}:{source}");
            founder.ok(["restore", "files", &what, "--target", target.to_str().unwrap()]);
            manifest::assert_same(expected, &manifest::of(&target));
            std::fs::remove_dir_all(target).unwrap();
        }
    }
    appliance.stop();
    let local = House::with_url(appliance.repository().display().to_string());
    local.ok(["check", "--read-data"]);
}

/// A client that died sends next time only what had not arrived.
#[test]
fn what_arrived_is_not_sent_again() {
    let appliance = Appliance::new();
    let house = appliance.founder();
    let content = Random(9).bytes(40 << 20);
    let source = house.directory("source");
    std::fs::write(source.join("big"), &content).unwrap();
    let mut command = house.command(["backup", "stdin", "--name", "big"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    std::io::Write::write_all(&mut stdin, &content[..30 << 20]).unwrap();
    std::thread::sleep(Duration::from_secs(1));
    child.kill().unwrap();
    child.wait().unwrap();
    let ended = appliance.log().matches("session ends").count();
    wait_for(|| appliance.log().matches("session ends").count() > ended || appliance.log().contains("lost"));
    let summary = house.json(["backup", "files", source.to_str().unwrap()]);
    let summary = summary.iter().find(|line| line["message_type"] == "summary").unwrap();
    let added = summary["added_bytes"].as_u64().unwrap();
    assert!(added < 14 << 20, "{added} bytes were sent again or anew, of 40 MiB of which 30 had been read");
}

/// What is told after a look must be all there is to tell: a sender that has filled its room sends nothing, and then nobody looks.
#[test]
fn small_records_do_not_fill_the_senders_room_for_good() {
    let appliance = Appliance::new();
    let house = appliance.founder();
    let source = house.directory("small");
    let mut random = Random(7);
    for n in 0..60_000 {
        let directory = source.join((n / 1000).to_string());
        if n % 1000 == 0 {
            std::fs::create_dir(&directory).unwrap();
        }
        std::fs::write(directory.join(n.to_string()), random.bytes(2200)).unwrap();
    }
    // A hang is a failure, not a test that never ends.
    let mut backup = house.wrapped(&["timeout", "-k", "5", "300"], ["backup", "files", "-q"]);
    told(backup.arg(&source)).expect(0);
}

#[track_caller]
fn wait_for(mut condition: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(Instant::now() < until, "it does not happen");
        std::thread::sleep(Duration::from_millis(20));
    }
}
