//! What a server does by itself and what its operator sees: retention and gc beside backups, verification, quotas and the
//! reserve, status, metrics, and its configuration while it runs.

use std::io::{Read, Write};
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{assert_restores, fill, wait_for};
use crate::support::program::{House, json_lines};
use crate::support::server::Appliance;
use crate::support::torture::Random;

/// JSON lines of a verb of the server; it must end with `code`.
#[track_caller]
fn lines(appliance: &Appliance, code: i32, words: &[&str]) -> Vec<Value> {
    json_lines(&appliance.run(&[&["--json"], words].concat()).expect(code).out)
}

#[track_caller]
fn one<'a>(lines: &'a [Value], kind: &str) -> &'a Value {
    lines.iter().find(|line| line["message_type"] == kind).unwrap_or_else(|| panic!("no {kind} in {lines:?}"))
}

fn told(summary: &[Value]) -> Value {
    one(summary, "summary")["repositories"][0]["told"].clone()
}

/// What is forgotten may go at once; each test appends what else it sets.
const NO_GRACE: &str = "http = \"off\"\nmaintenance.grace = \"0s\"\n";

#[test]
fn retention_forgets_by_receipt_and_takes_back() {
    let appliance = Appliance::new();
    let house = appliance.founder();
    let source = house.directory("source");
    fill(&source, 21, 1);
    let snapshots: Vec<String> = (0..4)
        .map(|number| {
            std::fs::write(source.join("changing"), format!("{number}")).unwrap();
            house.backup(&source)
        })
        .collect();
    let reload = |text: &str| {
        appliance.configure(&format!("http = \"off\"\n{text}"));
        appliance.ok(&["reload"]);
    };
    assert!(appliance.ok(&["retention"]).contains("0 snapshots forgotten"), "nothing goes without a rule");
    reload("[retention]\nkeep_last = 1\n");
    assert!(appliance.ok(&["retention", "--dry-run"]).contains("3 snapshots would be forgotten"));
    assert_eq!(house.snapshots().len(), 4);
    appliance.ok(&["retention"]);
    assert_eq!(house.snapshots(), std::slice::from_ref(&snapshots[3]), "its clients see what it said");
    assert!(appliance.ok(&["retention"]).contains("3 forgotten before"));

    // Within the grace all of it is there, and who holds a key has the last word.
    appliance.ok(&["gc"]);
    house.ok(["undelete", &snapshots[0]]);
    let changing = format!("{}:{}", snapshots[0], source.join("changing").display());
    assert_eq!(house.ok(["dump", &changing]), "0");
    house.ok(["forget", &snapshots[3]]);
    appliance.ok(&["retention"]);
    let present = house.snapshots();
    assert!(present.contains(&snapshots[0]) && present.contains(&snapshots[2]), "{present:?}");
    assert!(!present.contains(&snapshots[1]) && !present.contains(&snapshots[3]), "{present:?}");

    // A policy that keeps more gives back what a worse one took.
    reload("[retention]\nkeep_last = 10\n");
    assert!(appliance.ok(&["retention"]).contains("taken back"));
    assert_eq!(house.snapshots().len(), 3);
    // A dataset's own rule counts.
    reload("[retention]\nkeep_last = 10\n[[datasets]]\nmatch = \"*/files/*\"\nretention = { keep_last = 1 }\n");
    appliance.ok(&["retention", "office"]);
    assert_eq!(house.snapshots().len(), 2, "the newest, and what was brought back");
    assert!(appliance.run(&["retention", "nowhere"]).expect(1).err.contains("none of this name"));

    // The words of a server are its own: who opens the directory by hand sees everything that no key holder forgot.
    let mut appliance = appliance;
    appliance.stop();
    let local = House::with_url(appliance.repository().display().to_string());
    assert_eq!(local.snapshots().len(), 3);
    local.ok(["check"]);
}

#[test]
fn what_is_past_its_grace_goes() {
    let appliance = Appliance::new();
    let house = appliance.founder();
    let source = house.directory("source");
    fill(&source, 22, 4);
    let first = house.backup(&source);
    std::fs::remove_file(source.join("large")).unwrap();
    let second = house.backup(&source);
    let stored = || one(&lines(&appliance, 0, &["status"]), "repository")["stored_bytes"].as_u64().unwrap();
    let before = stored();
    appliance.configure(&format!("{NO_GRACE}[retention]\nkeep_last = 1\n"));
    appliance.ok(&["reload"]);
    appliance.ok(&["retention"]);
    let dry = told(&lines(&appliance, 0, &["gc", "--dry-run"]));
    assert_eq!(dry["snapshots_removed"][0], first);
    assert_eq!(stored(), before);
    let done = told(&lines(&appliance, 0, &["gc"]));
    assert_eq!(done["snapshots_removed"][0], first);
    assert!(stored() + (3 << 20) < before, "{} of {before}", stored());
    assert_eq!(house.snapshots(), std::slice::from_ref(&second));
    assert_restores(&house, &second, &source);
}

#[test]
fn the_schedule_does_it_all() {
    let appliance = Appliance::new();
    let house = appliance.founder();
    let source = house.directory("source");
    fill(&source, 23, 1);
    house.backup(&source);
    std::fs::write(source.join("more"), "x").unwrap();
    let second = house.backup(&source);
    appliance.configure(
        "http = \"off\"\n[retention]\nkeep_last = 1\n\
         [maintenance]\ngrace = \"0s\"\nevery = \"1s\"\nverify_period = \"2s\"\n",
    );
    appliance.ok(&["reload"]);
    let done = |kind: &str| {
        let status = lines(&appliance, 0, &["status"]);
        let done = one(&status, "repository")["done"].as_array().unwrap().clone();
        done.into_iter().find(|past| past["kind"] == kind).is_some_and(|past| past["failure"].is_null())
    };
    wait_for(|| ["retention", "gc", "verify"].iter().all(|kind| done(kind)) && house.snapshots().len() == 1);
    assert_restores(&house, &second, &source);
    let log = appliance.log();
    assert!(log.contains("maintenance ends repository=office kind=verify"), "{log}");
}

#[test]
fn damage_is_found_and_the_next_backup_heals_it() {
    let appliance = Appliance::new();
    let house = appliance.founder();
    let source = house.directory("source");
    fill(&source, 24, 2);
    let snapshot = house.backup(&source);
    appliance.configure("http = \"off\"\n[maintenance]\nverify_rate = \"100M\"\n");
    appliance.ok(&["reload"]);
    assert!(appliance.ok(&["verify"]).contains("no damage found"));
    // In the middle of the largest pack.
    let mut packs = Vec::new();
    super::list(&appliance.repository().join("packs"), &mut packs);
    let largest = packs.into_iter().max_by_key(|path| path.metadata().unwrap().len()).unwrap();
    let mut bytes = std::fs::read(&largest).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&largest, bytes).unwrap();
    let found = lines(&appliance, 1, &["verify"]);
    assert!(told(&found)["lost"].as_u64().unwrap() > 0, "{found:?}");
    let status = lines(&appliance, 1, &["status"]);
    assert_eq!(one(&status, "repository")["lost_blobs"], 1);
    assert!(one(&status, "summary")["problems"][0].as_str().unwrap().contains("lost"), "{status:?}");

    let again = house.backup(&source);
    assert_restores(&house, &again, &source);
    assert_restores(&house, &snapshot, &source);
    appliance.ok(&["verify"]);
    assert_eq!(one(&lines(&appliance, 0, &["status"]), "repository")["lost_blobs"], 0);
}

#[test]
fn a_full_quota_refuses_and_loses_nothing() {
    let appliance = Appliance::new();
    let house = appliance.founder();
    let source = house.directory("source");
    fill(&source, 25, 2);
    let snapshot = house.backup(&source);
    let set = |text: &str| {
        appliance.configure(&format!("http = \"off\"\n{text}"));
        appliance.ok(&["reload"]);
    };
    // It begins within and ends beyond: what arrived is kept for the next run.
    set("[[quota]]\nrepository = \"office\"\nsize = \"12M\"\n");
    let content = Random(26).bytes(40 << 20);
    std::fs::write(source.join("huge"), &content).unwrap();
    let told = house.fails(1, ["backup", "files", source.to_str().unwrap()]);
    assert!(told.contains("quota of repository office") && told.contains("of 12.0 MiB"), "{told}");
    assert_eq!(house.snapshots(), std::slice::from_ref(&snapshot));
    let stored = || one(&lines(&appliance, 0, &["status"]), "repository")["stored_bytes"].as_u64().unwrap();
    let first = stored();
    assert!(first < 30 << 20, "{first}");
    // Now it is full before the first byte; reading goes on.
    let told = house.fails(1, ["backup", "files", source.to_str().unwrap()]);
    assert!(told.contains("quota of repository office"), "{told}");
    assert_eq!(stored(), first);
    std::fs::remove_file(source.join("huge")).unwrap();
    assert_restores(&house, &snapshot, &source);
    std::fs::write(source.join("huge"), &content).unwrap();
    set("[[quota]]\nrepository = \"office\"\nsize = \"1G\"\n");
    let again = house.backup(&source);
    assert_restores(&house, &again, &source);
    assert!(stored() < 45 << 20, "what arrived was not sent again");

    // A client's own: counted by what it brought, measured anew by gc.
    let other = appliance.client("backup", &[]);
    let own = other.directory("own");
    std::fs::write(own.join("file"), Random(27).bytes(3 << 20)).unwrap();
    other.backup(&own);
    let key = appliance.ok(&["clients", "list"]).lines().rfind(|line| line.contains("backup")).unwrap().to_owned();
    let key = key.split_whitespace().next().unwrap().to_owned();
    set(&format!("[[quota]]\nclient = \"{key}\"\nsize = \"2M\"\n"));
    std::fs::write(own.join("file"), Random(28).bytes(1 << 20)).unwrap();
    let told = other.fails(1, ["backup", "files", own.to_str().unwrap()]);
    assert!(told.contains("the quota of client"), "{told}");
    house.backup(&source);
    appliance.ok(&["gc"]);
    assert!(other.fails(1, ["backup", "files", own.to_str().unwrap()]).contains("3.0 MiB of 2.0 MiB"));
    set(&format!("[[quota]]\nclient = \"{key}\"\nsize = \"20M\"\n"));
    other.backup(&own);
}

#[test]
fn a_full_disk_takes_no_backups_but_gives_and_collects() {
    let appliance = Appliance::new();
    let house = appliance.founder();
    let source = house.directory("source");
    fill(&source, 29, 1);
    let snapshot = house.backup(&source);
    appliance.configure("http = \"off\"\nfull_percent = 1\n");
    appliance.ok(&["reload"]);
    std::fs::write(source.join("new"), "x").unwrap();
    let told = house.fails(1, ["backup", "files", source.to_str().unwrap()]);
    assert!(told.contains("1 % full") && told.contains("no new backups"), "{told}");
    std::fs::remove_file(source.join("new")).unwrap();
    assert_restores(&house, &snapshot, &source);
    appliance.ok(&["retention"]);
    appliance.ok(&["gc"]);
    appliance.ok(&["verify"]);
    let status = lines(&appliance, 1, &["status"]);
    assert_eq!(one(&status, "server")["full"], true);
}

fn http(address: &str, request: &str) -> (String, String) {
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    (head.lines().next().unwrap_or_default().to_owned(), body.to_owned())
}

#[test]
fn an_operator_sees_how_things_stand() {
    let mut appliance = Appliance::new();
    let address = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().to_string()
    };
    appliance.stop();
    appliance.configure(&format!(
        "http = \"{address}\"\nmax_age = \"1h\"\n[[quota]]\nrepository = \"office\"\nsize = \"1G\"\n\
         [[datasets]]\nmatch = \"*/stream/*\"\nmax_age = \"0s\"\n",
    ));
    appliance.start();
    let house = appliance.founder();
    let source = house.directory("source");
    fill(&source, 30, 1);
    house.backup(&source);
    house.backup(&source);
    let get = |path: &str| http(&address, &format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n"));
    assert_eq!(get("/health"), ("HTTP/1.1 200 OK".into(), "ok\n".into()));
    let status = lines(&appliance, 0, &["status"]);
    let repository = one(&status, "repository");
    assert_eq!((&repository["snapshots"], &repository["datasets"]), (&2.into(), &1.into()));
    let (stored, content) =
        (repository["stored_bytes"].as_u64().unwrap(), repository["content_bytes"].as_u64().unwrap());
    assert!(content > stored, "two of the same: {content} {stored}");
    let dataset = one(&status, "dataset");
    assert_eq!((&dataset["overdue"], &dataset["max_age_seconds"]), (&false.into(), &3600.into()));
    assert!(dataset["age_seconds"].as_u64().unwrap() < 600);

    // A session at work is seen, with who it is.
    let mut command = house.command(["backup", "stdin", "--name", "x"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    // What it saves is overdue as soon as it is there, so that the exit code may be either.
    let status = || json_lines(&appliance.run(&["--json", "status"]).out);
    let session = || status().into_iter().find(|line| line["message_type"] == "session");
    wait_for(|| session().is_some_and(|line| line["repository"] == "office"));
    drop(child.stdin.take());
    assert!(child.wait().unwrap().success());
    wait_for(|| session().is_none());

    // Its dataset may be no second old.
    let until = Instant::now() + Duration::from_secs(30);
    while appliance.run(&["status"]).code == Some(0) {
        assert!(Instant::now() < until);
        std::thread::sleep(Duration::from_millis(100));
    }
    let text = String::from_utf8(appliance.run(&["status"]).expect(1).out).unwrap();
    assert!(text.contains("OVERDUE") && text.contains("PROBLEM") && text.contains("office"), "{text}");
    assert_eq!(get("/health").1, "ok\n", "that is no fault of the server");

    appliance.ok(&["gc"]);
    let (head, metrics) = get("/metrics");
    assert_eq!(head, "HTTP/1.1 200 OK");
    for line in [
        "nightkeep_up 1",
        "nightkeep_full 0",
        "nightkeep_repository_snapshots{repository=\"office\"} 3",
        "nightkeep_repository_quota_bytes{repository=\"office\"} 1073741824",
        "nightkeep_repository_lost_blobs{repository=\"office\"} 0",
        "nightkeep_job_last_success{repository=\"office\",kind=\"gc\"} 1",
        "# TYPE nightkeep_received_bytes_total counter",
    ] {
        assert!(metrics.lines().any(|found| found == line), "{line} is not in\n{metrics}");
    }
    let overdue = metrics.lines().filter(|line| line.starts_with("nightkeep_dataset_overdue{")).collect::<Vec<_>>();
    assert_eq!(overdue.iter().filter(|line| line.ends_with(" 1")).count(), 1, "{overdue:?}");
    assert_eq!(get("/").0, "HTTP/1.1 404 Not Found");
    assert_eq!(http(&address, "POST /metrics HTTP/1.1\r\n\r\n").0, "HTTP/1.1 405 Method Not Allowed");
    assert_eq!(http(&address, "\r\n\r\n").0, "HTTP/1.1 400 Bad Request");
    let mut flood = std::net::TcpStream::connect(&address).unwrap();
    let _ = flood.write_all(&[b'x'; 100_000]);
    assert_eq!(get("/health").1, "ok\n");
}

#[test]
fn the_configuration_changes_while_it_runs_or_not_at_all() {
    let appliance = Appliance::new();
    let house = appliance.founder();
    let check = |code: i32| appliance.run(&["config", "check"]).expect(code).err;
    assert_eq!(check(0), "");
    std::fs::write(appliance.config(), appliance.ok(&["config", "example"])).unwrap();
    assert!(!check(0).contains("error"), "its data may not be there on this machine");

    appliance.configure_anew("http = \"off\"\nmax_age = \"1h\"\nfull_percnt = 90\nverify_rate = \"5M\"\n");
    let told = check(1);
    assert!(
        told.contains("server.toml:6:1: error: full_percnt: this key is not known here; did you mean `full_percent`?"),
        "{told}"
    );
    assert!(told.contains(":7:1: error: verify_rate:") && told.contains("below [maintenance]"), "{told}");
    let told = appliance.run(&["reload"]).expect(1).err;
    assert!(told.contains("line 6") && told.contains("and 1 more"), "{told}");
    assert!(appliance.log().contains("the one before goes on"));
    let source = house.directory("source");
    fill(&source, 31, 1);
    house.backup(&source);
    assert!(one(&lines(&appliance, 0, &["status"]), "dataset")["max_age_seconds"].is_null(), "nothing of it was taken");

    appliance.configure_anew("http = \"off\"\nmax_age = \"1h\"\n[log]\nlevel = \"debug\"\n");
    assert!(appliance.run(&["reload"]).expect(1).err.contains("`log`: it cannot change while the server runs"));
    appliance.configure_anew("http = \"off\"\nmax_age = \"1h\"\n");
    appliance.hang_up();
    wait_for(|| one(&lines(&appliance, 0, &["status"]), "dataset")["max_age_seconds"] == 3600);
}

/// gc without a pause beside backups of the same data, and forgetting: nothing that is committed is ever lost.
/// `NIGHTKEEP_TEST_GC_ROUNDS` says how many backups.
#[test]
fn collecting_all_the_time_loses_nothing() {
    let rounds: u64 = std::env::var("NIGHTKEEP_TEST_GC_ROUNDS").map_or(5, |text| text.parse().unwrap());
    let appliance = Appliance::new();
    let house = appliance.founder();
    let clients: Vec<House> = (0..2).map(|_| appliance.client("admin", &[])).collect();
    appliance.configure(&format!("{NO_GRACE}[retention]\nkeep_last = 1\n"));
    appliance.ok(&["reload"]);
    let is_over = std::sync::atomic::AtomicBool::new(false);
    let over = || is_over.load(std::sync::atomic::Ordering::Relaxed);
    std::thread::scope(|scope| {
        let collector = scope.spawn(|| {
            let mut collections = 0;
            while !over() {
                appliance.ok(&["retention"]);
                appliance.ok(&["gc"]);
                collections += 1;
            }
            collections
        });
        let workers: Vec<_> = clients
            .iter()
            .enumerate()
            .map(|(number, client)| {
                scope.spawn(move || {
                    let source = client.directory("source");
                    for round in 0..rounds {
                        // The same again every other time: what was garbage a moment ago is wanted again.
                        fill(&source, 40 + round % 2, 2);
                        let dataset = format!("c{number}");
                        client.ok(["backup", "files", "--dataset", &dataset, source.to_str().unwrap()]);
                        let target = client.fresh("out");
                        let what = format!("{dataset}:{}", source.display());
                        client.ok(["restore", "files", &what, "--target", target.to_str().unwrap()]);
                        crate::support::manifest::assert_same(
                            &crate::support::manifest::of(&source),
                            &crate::support::manifest::of(&target),
                        );
                        std::fs::remove_dir_all(target).unwrap();
                    }
                })
            })
            .collect();
        let ended: Vec<_> = workers.into_iter().map(|worker| worker.join()).collect();
        is_over.store(true, std::sync::atomic::Ordering::Relaxed);
        let collections = collector.join().unwrap();
        assert!(ended.iter().all(Result::is_ok) && collections > 2, "{collections}");
    });
    assert_eq!(house.snapshots().len(), 2);
    appliance.ok(&["verify"]);
    let mut appliance = appliance;
    appliance.stop();
    let local = House::with_url(appliance.repository().display().to_string());
    local.ok(["check", "--read-data"]);
}

#[test]
fn a_restore_takes_no_more_of_the_line_than_it_may() {
    let appliance = Appliance::new();
    let house = appliance.founder();
    let source = house.directory("source");
    fill(&source, 33, 3);
    let snapshot = house.backup(&source);
    let what = format!("{snapshot}:{}", source.join("large").display());
    let began = Instant::now();
    let dumped = house.run(["dump", "--limit-download", "1024", &what]).expect(0).out;
    assert!(dumped == std::fs::read(source.join("large")).unwrap());
    // 3 MiB at 1 MiB a second; what is in flight at the end is not waited for.
    assert!(began.elapsed() > Duration::from_millis(1900), "{:?}", began.elapsed());
    let target = house.fresh("target");
    let (what, target) = (format!("{snapshot}:{}", source.display()), target.to_str().unwrap());
    house.ok(["restore", "files", "--limit-download", "8192", &what, "--target", target]);
}

/// SIGKILL while it collects: what is committed stays, and the next collection goes on.
#[test]
fn a_collection_that_is_killed_harms_nothing() {
    let mut appliance = Appliance::new();
    let house = appliance.founder();
    let source = house.directory("source");
    let mut random = Random(32);
    appliance.configure(&format!("{NO_GRACE}[retention]\nkeep_last = 1\n"));
    for round in 0..4 {
        fill(&source, 50 + round, 3);
        let snapshot = house.backup(&source);
        appliance.ok(&["reload"]);
        appliance.ok(&["retention"]);
        let mut gc = appliance.command(&["gc"]);
        let mut gc = gc.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(random.below(60)));
        appliance.kill();
        gc.wait().unwrap();
        appliance.start();
        assert_restores(&house, &snapshot, &source);
    }
    appliance.ok(&["gc"]);
    appliance.ok(&["verify"]);
    assert_eq!(house.snapshots().len(), 1);
}

/// A job that takes long is seen, keeps others from its repository and no backup, and does not hold up a stop.
#[test]
fn a_slow_job_is_alone_and_stops_with_the_server() {
    let mut appliance = Appliance::new();
    let house = appliance.founder();
    let source = house.directory("source");
    fill(&source, 34, 1);
    let snapshot = house.backup(&source);
    appliance.configure("http = \"off\"\n[maintenance]\nverify_rate = \"1k\"\n");
    appliance.ok(&["reload"]);
    let mut verify = appliance.command(&["verify"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let job = || lines(&appliance, 0, &["status"]).into_iter().find(|line| line["message_type"] == "job");
    wait_for(|| job().is_some_and(|job| job["kind"] == "verify" && job["done_bytes"].as_u64() > Some(0)));
    assert!(appliance.run(&["gc"]).expect(11).err.contains("verify is at work there"));
    std::fs::write(source.join("new"), "x").unwrap();
    house.backup(&source);
    appliance.stop();
    assert_ne!(verify.wait().unwrap().code(), Some(0), "it was not done");
    appliance.start();
    std::fs::remove_file(source.join("new")).unwrap();
    assert_restores(&house, &snapshot, &source);
    assert!(job_failures(&appliance).is_empty(), "a stop is no failure");
}

fn job_failures(appliance: &Appliance) -> Vec<Value> {
    let status = lines(appliance, 0, &["status"]);
    let done = one(&status, "repository")["done"].as_array().unwrap().clone();
    done.into_iter().filter(|past| !past["failure"].is_null()).collect()
}

/// Many at once are served, within bounded memory; each comes back. `NIGHTKEEP_TEST_CLIENTS` says how many.
#[test]
fn many_clients_at_once_are_served_in_little_memory() {
    let count: u64 = std::env::var("NIGHTKEEP_TEST_CLIENTS").map_or(12, |text| text.parse().unwrap());
    let appliance = Appliance::new();
    let founder = appliance.founder();
    let clients: Vec<House> = (0..count).map(|_| appliance.client("backup", &[])).collect();
    let contents: Vec<Vec<u8>> = (0..count).map(|number| Random(60 + number).bytes(6 << 20)).collect();
    let mut children: Vec<_> = clients
        .iter()
        .enumerate()
        .map(|(number, client)| {
            let mut command =
                client.command(["backup", "stdin", "--name", "x", "--dataset", &format!("h/stream/s{number}")]);
            command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
        })
        .collect();
    std::thread::scope(|scope| {
        for (child, content) in children.iter_mut().zip(&contents) {
            let mut stdin = child.stdin.take().unwrap();
            scope.spawn(move || {
                let (first, second) = content.split_at(content.len() / 2);
                stdin.write_all(first).unwrap();
                // All of them are there, and none is done.
                std::thread::sleep(Duration::from_secs(1));
                stdin.write_all(second).unwrap();
            });
        }
    });
    for child in children {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let peak = appliance.memory_peak_kib();
    println!("{count} clients: {peak} KiB");
    assert!(peak < 1 << 20, "{peak} KiB");
    for (number, content) in contents.iter().enumerate().step_by(5) {
        assert!(founder.run(["dump", &format!("h/stream/s{number}:x")]).expect(0).out == *content);
    }
}

/// The service manager is told when it listens and when it stops.
#[test]
fn the_service_manager_is_told() {
    let mut appliance = Appliance::new();
    appliance.stop();
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("notify");
    let manager = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let told = || {
        let mut buffer = [0; 200];
        let len = manager.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..len]).into_owned()
    };
    appliance.start_with(&[("NOTIFY_SOCKET", path.as_os_str())]);
    assert_eq!(told(), "READY=1");
    appliance.ok(&["reload"]);
    assert!(told().starts_with("RELOADING=1\nMONOTONIC_USEC="));
    assert_eq!(told(), "READY=1");
    appliance.stop();
    assert_eq!(told(), "STOPPING=1");
}

/// Its sandbox is there, and what it names exists.
#[test]
fn the_unit_names_what_there_is() {
    let unit = std::fs::read_to_string(crate::support::source::workspace().join("deploy/nightkeepd.service")).unwrap();
    for line in [
        "Type=notify",
        "ExecStart=/usr/local/bin/nightkeepd serve",
        "ExecReload=/usr/local/bin/nightkeepd reload",
        "NoNewPrivileges=yes",
        "ProtectSystem=strict",
        "Restart=on-failure",
    ] {
        assert!(unit.lines().any(|found| found == line), "{line}");
    }
}
