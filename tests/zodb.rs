//! ZODB from outside: a real ZEO server under load, saved and restored while it commits and packs; failures and what they say.
//!
//! `NIGHTKEEP_ZODB_ROUNDS` sets how many backups are made under load (200 for the full run).

use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::support::program::House;
use super::support::python::applications;
use super::support::source::workspace;

fn rounds() -> usize {
    std::env::var("NIGHTKEEP_ZODB_ROUNDS").ok().map_or(6, |rounds| rounds.parse().unwrap())
}

/// A child that ends with its test.
struct Running(Child);

impl Running {
    /// Terminated, and waited for.
    fn end(mut self) {
        self.terminate();
    }

    fn terminate(&mut self) {
        if let Ok(None) = self.0.try_wait() {
            let process = rustix::process::Pid::from_child(&self.0);
            rustix::process::kill_process(process, rustix::process::Signal::TERM).unwrap();
            self.0.wait().unwrap();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.terminate();
    }
}

struct Site {
    python: PathBuf,
    path: PathBuf,
}

impl Site {
    /// `None`, and aloud, if there is no ZODB here.
    fn new(house: &House) -> Option<Site> {
        let python = applications()?;
        let path = house.directory("site");
        Some(Site { python, path })
    }

    fn script(&self, words: &[&OsStr]) -> Command {
        let mut command = Command::new(&self.python);
        command.arg("-B").arg(workspace().join("tests/python/storage.py")).args(words);
        command.stdin(Stdio::null());
        command
    }

    fn fill(&self, count: usize) {
        let status = self.script(&["fill".as_ref(), self.path.as_os_str(), count.to_string().as_ref()]).status();
        assert!(status.unwrap().success());
    }

    /// A ZEO server and its port.
    fn serve(&self) -> (Running, String) {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let words = ["serve".as_ref(), self.path.as_os_str(), OsStr::new(&port.to_string())].map(OsStr::to_owned);
        let words: Vec<&OsStr> = words.iter().map(AsRef::as_ref).collect();
        let child = self.script(&words).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let running = Running(child);
        let begin = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(begin.elapsed() < Duration::from_secs(60), "the ZEO server does not start");
            std::thread::sleep(Duration::from_millis(50));
        }
        (running, port.to_string())
    }

    /// Commits at a rate; the answer comes after the first one.
    fn write(&self, port: &str, rate: &str) -> Running {
        let words = ["write".as_ref(), port.as_ref(), self.path.as_os_str(), rate.as_ref()];
        let mut child = self.script(&words).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(lines.next().is_some(), "nothing is committed");
        std::thread::spawn(move || lines.count());
        Running(child)
    }

    fn pack(&self, port: &str) -> Running {
        Running(self.script(&["pack".as_ref(), port.as_ref()]).spawn().unwrap())
    }
}

/// What ZODB finds in a storage; nothing may be wrong with it.
#[track_caller]
fn look(site: &Site, at: &Path) -> Value {
    let output = site.script(&["look".as_ref(), at.as_os_str()]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(found["faults"], Value::Array(vec![]), "{found}");
    assert_eq!(found["missing"], Value::Array(vec![]));
    found
}

#[track_caller]
fn save(house: &House, site: &Site) -> Value {
    let lines = house.json([
        "backup".as_ref(),
        "zodb".as_ref(),
        site.path.as_os_str(),
        "--dataset".as_ref(),
        OsStr::new("site"),
    ]);
    let summary = lines.into_iter().find(|line| line["message_type"] == "summary").unwrap();
    assert_eq!(summary["incomplete"], false);
    summary
}

#[track_caller]
fn restore(house: &House, snapshot: &str, more: &[&str]) -> PathBuf {
    let target = house.fresh("restored");
    let words = ["restore", "zodb", snapshot, "--yes", "--target", target.to_str().unwrap()];
    house.ok(words.iter().chain(more));
    target
}

/// Each restored storage opens, ends with the recorded transaction, has every blob, and no other.
#[test]
fn a_server_under_load_is_saved_exactly() {
    let house = House::new();
    let Some(site) = Site::new(&house) else { return };
    let (server, port) = site.serve();
    let writer = site.write(&port, "50");
    let (mut transactions, mut restarts) = (0, 0);
    for round in 0..rounds() {
        // Each third run has a pack going on.
        let pack = (round % 3 == 2).then(|| site.pack(&port));
        let summary = save(&house, &site);
        let zodb = &summary["zodb"];
        let target = restore(&house, summary["snapshot"].as_str().unwrap(), &[]);
        let found = look(&site, &target);
        let tids = found["tids"].as_array().unwrap();
        assert_eq!(tids.last(), Some(&zodb["last_tid"]));
        assert_eq!(tids.first(), Some(&zodb["first_tid"]));
        assert_eq!(tids.len() as u64, zodb["transactions"].as_u64().unwrap());
        assert_eq!(found["blob_files"], zodb["blobs"]);
        restarts += u64::from(pack.is_some() && zodb["read_from"] == 0);
        transactions = tids.len();
        drop(pack);
        std::fs::remove_dir_all(target).unwrap();
    }
    println!("{} rounds, {transactions} transactions at the end, read anew after a pack: {restarts}", rounds());
    writer.end();
    server.end();
    house.ok(["check", "--read-data"]);
}

#[test]
fn any_transaction_comes_back_with_its_blobs() {
    let house = House::new();
    let Some(site) = Site::new(&house) else { return };
    site.fill(40);
    let summary = save(&house, &site);
    let whole = restore(&house, "site", &[]);
    let all: Vec<Value> = look(&site, &whole)["tids"].as_array().unwrap().clone();
    assert!(whole.join("filestorage/Data.fs.index").exists());
    assert_eq!(all.last(), Some(&summary["zodb"]["last_tid"]));
    for at in [0, 7, all.len() / 2, all.len() - 2] {
        let tid = all[at].as_str().unwrap();
        let target = restore(&house, "site", &["--at", tid]);
        let found = look(&site, &target);
        assert_eq!(found["tids"].as_array().unwrap(), &all[..=at]);
        // A later blob is not there: as many files as this part of the storage names.
        assert!(found["blob_files"].as_u64().unwrap() <= summary["zodb"]["blobs"].as_u64().unwrap());
    }
    // By time, over what is there: that is kept.
    let before = summary["zodb"]["last_time"].as_str().unwrap().to_owned();
    let target = whole.to_str().unwrap();
    let told = house.ok(["restore", "zodb", "site", "--target", target, "--no-prompt", "--at", &before]);
    assert_eq!(told.matches("Kept what was there as").count(), 2, "{told}");
    look(&site, &whole);
    let early = house.fails(1, ["restore", "zodb", "site", "--target", target, "--yes", "--at", "2001-02-03-04-05-06"]);
    assert!(early.contains("no transaction as early"), "{early}");
    look(&site, &whole);
}

#[test]
fn nothing_is_replaced_without_the_whole_word() {
    let house = House::new();
    let Some(site) = Site::new(&house) else { return };
    site.fill(5);
    save(&house, &site);
    let target = house.directory("target");
    let shown = target.to_str().unwrap();
    for answer in ["", "y\n", "no\n", "yes"] {
        let mut child = house
            .command(["restore", "zodb", "site", "--target", shown])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), answer.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(told.contains("Are you sure? (yes/No)"), "{told}");
        assert!(told.contains("filestorage/Data.fs") && told.contains(&format!("{shown}/blobstorage")), "{told}");
        assert_eq!(output.status.code(), Some(i32::from(answer != "yes")), "{told}");
        assert_eq!(target.join("filestorage").exists(), answer == "yes");
    }
    let told = house.ok(["restore", "zodb", "site", "--target", shown, "--dry-run"]);
    assert!(told.contains("Would replace") && told.contains("blobstorage"), "{told}");
    // With a server on it, nothing happens even so.
    let there = Site { python: site.python.clone(), path: target.clone() };
    let (server, _) = there.serve();
    let told = house.fails(1, ["restore", "zodb", "site", "--target", shown, "--yes"]);
    assert!(told.contains("has it open") && told.contains("stop the ZEO server"), "{told}");
    server.end();
    house.ok(["restore", "zodb", "site", "--target", shown, "--yes"]);
    look(&site, &target);
}

/// Killed at any moment before the swap, the old site is as it was; the same restore then ends.
#[test]
fn a_killed_restore_leaves_the_old_site() {
    let house = House::new();
    let Some(site) = Site::new(&house) else { return };
    site.fill(10);
    save(&house, &site);
    let target = restore(&house, "site", &[]);
    let old = look(&site, &target)["tids"].clone();
    site.fill(150);
    let last = save(&house, &site)["zodb"]["last_tid"].clone();
    let shown = target.to_str().unwrap();
    let arguments = ["restore", "zodb", "site", "--target", shown, "--yes"];
    for milliseconds in [20, 40, 80, 120] {
        let mut child = house.command(arguments).stdout(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(milliseconds));
        let was_running = child.try_wait().unwrap().is_none();
        child.kill().unwrap();
        child.wait().unwrap();
        let tids = look(&site, &target)["tids"].clone();
        if tids != old {
            assert_eq!(tids.as_array().unwrap().last(), Some(&last), "the old or the new one");
            println!("it was swapped after {milliseconds} ms, running: {was_running}");
            return;
        }
    }
    house.ok(arguments);
    assert_eq!(look(&site, &target)["tids"].as_array().unwrap().last(), Some(&last));
    let names = std::fs::read_dir(&target).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert!(!names.into_iter().any(|name| name.contains("restoring")));
}

#[test]
fn failures_have_their_own_words_and_codes() {
    let house = House::new();
    let Some(site) = Site::new(&house) else { return };
    site.fill(20);
    save(&house, &site);
    let data_fs = site.path.join("filestorage/Data.fs");
    let whole = std::fs::read(&data_fs).unwrap();
    let path = site.path.to_str().unwrap();
    let arguments = ["backup", "zodb", path, "--dataset", "site"];
    let fails = |code: i32, text: &str| {
        let told = house.fails(code, arguments);
        assert!(told.contains(text), "{told}");
    };
    std::fs::write(&data_fs, &whole[..whole.len() - 100]).unwrap();
    fails(3, "it was cut short since");
    fails(3, "its last transaction is torn");
    let mut damaged = whole.clone();
    damaged[30] ^= 0xff;
    damaged[12] ^= 0xff;
    std::fs::write(&data_fs, &damaged).unwrap();
    fails(1, "although whole transactions follow");
    std::fs::write(&data_fs, b"").unwrap();
    fails(1, "it is shorter than the mark");
    std::fs::write(&data_fs, &whole).unwrap();
    let blob = find_blob(&site.path.join("blobstorage")).unwrap();
    std::fs::rename(&blob, blob.with_extension("gone")).unwrap();
    fails(3, "blob is missing");
    let json = house.run(["--json"].iter().chain(&arguments)).expect(3);
    assert!(json.err.contains("\"message_type\":\"error\"") && json.err.contains(".blob"), "{}", json.err);
    std::fs::rename(blob.with_extension("gone"), &blob).unwrap();
    let told = house.fails(1, ["backup", "zodb", house.path().to_str().unwrap()]);
    assert!(told.contains("no storage is there"), "{told}");
    let told = house.fails(1, ["restore", "zodb", "nothing", "--target", "x", "--yes"]);
    assert!(told.contains("no snapshot matches"), "{told}");
    house.ok(["backup", "files", path, "--dataset", "plain"]);
    let told = house.fails(1, ["restore", "zodb", "plain", "--target", "x", "--yes"]);
    assert!(told.contains("not of a ZODB storage"), "{told}");
    save(&house, &site);
    assert_eq!(house.ok(["-q", "backup", "zodb", path, "--dataset", "site"]), "");
    let told = house.ok(["backup", "zodb", path, "--dataset", "site", "--style", "zope"]);
    assert!(told.lines().all(|line| line.starts_with("INFO: ")), "{told}");
    assert!(told.contains("INFO: Please wait while backing up database file: "), "{told}");
}

/// A restore from a damaged repository replaces nothing.
#[test]
fn damage_in_the_repository_touches_nothing() {
    let house = House::new();
    let Some(site) = Site::new(&house) else { return };
    site.fill(30);
    save(&house, &site);
    let target = restore(&house, "site", &[]);
    let old = look(&site, &target);
    let packs = std::fs::read_dir(house.repository().join("packs")).unwrap();
    let mut packs: Vec<PathBuf> = packs
        .flat_map(|directory| std::fs::read_dir(directory.unwrap().path()).unwrap())
        .map(|file| file.unwrap().path())
        .collect();
    packs.sort_by_key(|path| path.metadata().unwrap().len());
    let largest = packs.last().unwrap();
    let mut bytes = std::fs::read(largest).unwrap();
    for at in (5000..bytes.len() - 20_000).step_by(10_000) {
        bytes[at] ^= 0xff;
    }
    std::fs::remove_file(largest).unwrap();
    std::fs::write(largest, bytes).unwrap();
    let told = house.fails(1, ["restore", "zodb", "site", "--target", target.to_str().unwrap(), "--yes"]);
    assert!(told.contains("it was not replaced"), "{told}");
    assert_eq!(look(&site, &target), old);
}

fn find_blob(directory: &Path) -> Option<PathBuf> {
    let mut entries: Vec<PathBuf> = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    entries.into_iter().find_map(|path| match path.is_dir() {
        true => find_blob(&path),
        false => (path.extension() == Some(OsStr::new("blob"))).then_some(path),
    })
}
