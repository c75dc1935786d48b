//! A kill or a failing system call at any point loses nothing that was committed, shows nothing that was not, and the
//! next run goes on by itself. Points are sampled:
//! `NIGHTKEEP_CRASH_POINTS` sets how many, `NIGHTKEEP_CRASH_SEED` which.

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::manifest;
use crate::support::program::{House, told};
use crate::support::torture::Random;

fn number(variable: &str, usual: u64) -> u64 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(usual)
}

fn points(usual: u64) -> u64 {
    number("NIGHTKEEP_CRASH_POINTS", usual)
}

/// A snapshot and what it holds. One that was `doomed` by a forget that may not have come to it may be gone.
struct Known {
    id: String,
    listing: Vec<String>,
    doomed: bool,
}

/// A house whose source changes from run to run, and all that was acknowledged so far.
struct Life {
    house: House,
    source: PathBuf,
    random: Random,
    known: Vec<Known>,
    generation: u64,
}

impl Life {
    fn new(seed: u64) -> Life {
        let house = House::new();
        let source = house.directory("source");
        let mut life = Life { house, source, random: Random(seed), known: Vec::new(), generation: 0 };
        for _ in 0..3 {
            life.change();
        }
        life.backup();
        life
    }

    /// One file new, one changed, one removed.
    fn change(&mut self) {
        self.generation += 1;
        let directory = self.source.join(format!("d{}", self.generation % 5));
        std::fs::create_dir_all(&directory).unwrap();
        let size = [0, 10, 5000, 150_000][self.random.below(4) as usize];
        std::fs::write(directory.join(format!("f{}", self.generation)), self.random.bytes(size)).unwrap();
        std::fs::write(self.source.join("same-name"), self.random.bytes(20_000)).unwrap();
        if self.generation > 6 {
            let old = self.generation - 6;
            let _ = std::fs::remove_file(self.source.join(format!("d{}/f{old}", old % 5)));
        }
    }

    fn backup(&mut self) {
        let id = self.house.backup(&self.source);
        self.learn(id, manifest::of(&self.source));
    }

    fn learn(&mut self, id: String, listing: Vec<String>) {
        self.known.push(Known { id, listing, doomed: false });
    }

    /// Everything acknowledged is there; what is there besides (killed between commit and answer) is whole too.
    fn settle(&mut self, what: &str, thoroughly: bool) {
        let listed = self.house.snapshots();
        for known in self.known.iter().filter(|known| !known.doomed) {
            assert!(listed.contains(&known.id), "{what}: {} is lost; there are {listed:?}", known.id);
        }
        self.known.retain(|known| listed.contains(&known.id));
        for id in listed {
            let known = self.known.iter().find(|known| known.id == id).map(|known| known.listing.clone());
            if known.is_some() && !thoroughly {
                continue;
            }
            let target = self.house.restore(&id, &self.source);
            let found = manifest::of(&target);
            manifest::assert_same(known.as_ref().unwrap_or(&manifest::of(&self.source)), &found);
            if known.is_none() {
                self.learn(id, found);
            }
            std::fs::remove_dir_all(target).unwrap();
        }
        if thoroughly {
            self.house.ok(["check", "--read-data"]);
        }
    }

    /// After an incomplete run: what it saved is no copy of the source, but must restore.
    fn learn_partial(&mut self) {
        for id in self.house.snapshots() {
            if self.known.iter().all(|known| known.id != id) {
                let target = self.house.restore(&id, &self.source);
                self.learn(id, manifest::of(&target));
                std::fs::remove_dir_all(target).unwrap();
            }
        }
    }

    /// How to forget all but the newest three.
    fn forget(&mut self) -> Vec<String> {
        let doomed = self.known.len().saturating_sub(3);
        self.known.iter_mut().take(doomed).for_each(|known| known.doomed = true);
        ["forget", "--keep-last", "3"].map(str::to_owned).to_vec()
    }
}

fn kill_after(command: &mut Command, delay: Duration) -> Option<i32> {
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    std::thread::sleep(delay);
    // Gone already: it was quick, and that is a point too.
    let _ = child.kill();
    child.wait().unwrap().signal()
}

#[test]
fn kills_at_any_time_lose_nothing() {
    let mut life = Life::new(number("NIGHTKEEP_CRASH_SEED", 21));
    let begun = Instant::now();
    life.change();
    life.backup();
    let usual = begun.elapsed() / 2;
    let total = points(150);
    for point in 0..total {
        life.change();
        let delay = usual.mul_f64(life.random.below(1000) as f64 / 800.0);
        let target = life.house.fresh("killed");
        let newest = life.known.last().unwrap().id.clone();
        let selection = format!("{newest}:{}", life.source.display());
        let mut command = match point % 5 {
            0 => {
                let words = life.forget();
                life.house.command(words)
            }
            1 => life.house.command(["restore", "files", &selection, "--target", target.to_str().unwrap()]),
            2 => life.house.command(["prune", "--grace", "0"]),
            _ => life.house.command([Path::new("backup"), Path::new("files"), &life.source]),
        };
        let signal = kill_after(&mut command, delay);
        if target.exists() {
            // A restore that goes on over what a killed one left ends at the same tree.
            life.house.ok(["restore", "files", &selection, "--target", target.to_str().unwrap()]);
            manifest::assert_same(&life.known.last().unwrap().listing, &manifest::of(&target));
            std::fs::remove_dir_all(&target).unwrap();
        }
        life.settle(&format!("point {point}, signal {signal:?}"), point % 25 == 24);
        if point % 10 == 9 {
            life.change();
            life.backup();
        }
    }
    life.settle("the end", true);
}

fn strace_works() -> bool {
    let works =
        Command::new("strace").args(["-qq", "-o", "/dev/null", "true"]).status().is_ok_and(|status| status.success());
    if !works {
        assert!(std::env::var_os("CI").is_none(), "strace does not work here");
        println!("SKIPPED: strace does not work here");
    }
    works
}

/// Not `close`: the standard library itself gives up when closing a directory fails.
const CALLS: [&str; 14] = [
    "write",
    "pwrite64",
    "fsync",
    "fdatasync",
    "rename",
    "renameat2",
    "openat",
    "mkdir",
    "unlink",
    "ftruncate",
    "read",
    "pread64",
    "getdents64",
    "statx",
];

/// How often one run makes each call.
fn counts(life: &Life, words: &[String]) -> Vec<u64> {
    let log = life.house.path().join("trace");
    let wrapper = ["strace", "-f", "-qq", "-o", log.to_str().unwrap(), "-e", &format!("trace={}", CALLS.join(","))];
    told(&mut life.house.wrapped(&wrapper, words)).expect(0);
    let text = String::from_utf8_lossy(&std::fs::read(&log).unwrap()).into_owned();
    CALLS.iter().map(|call| text.matches(&format!(" {call}(")).count() as u64).collect()
}

fn backup_words(life: &Life) -> Vec<String> {
    ["backup", "files", life.source.to_str().unwrap()].map(str::to_owned).to_vec()
}

#[test]
fn failing_calls_lose_nothing() {
    if !strace_works() {
        return;
    }
    let mut life = Life::new(number("NIGHTKEEP_CRASH_SEED", 22));
    life.change();
    let words = backup_words(&life);
    let counts = counts(&life, &words);
    assert!(counts.iter().sum::<u64>() > 50, "the trace shows nothing: {counts:?}");
    life.settle("after the trace", true);
    let mut outcomes = std::collections::BTreeMap::new();
    for point in 0..points(80) {
        let which = life.random.below(CALLS.len() as u64) as usize;
        if counts[which] == 0 {
            continue;
        }
        let when = 1 + life.random.below(counts[which]);
        let fault = ["error=EIO", "error=ENOSPC", "signal=KILL", "error=EIO"][(point % 4) as usize];
        let tail = if point % 8 == 7 { "+" } else { "" };
        let trace = format!("trace={}", CALLS[which]);
        let inject = format!("inject={}:{fault}:when={when}{tail}", CALLS[which]);
        let log = life.house.path().join("trace");
        let wrapper = ["strace", "-f", "-qq", "-o", log.to_str().unwrap(), "-e", &trace, "-e", &inject];
        let words = match point % 6 {
            4 => life.forget(),
            5 => ["prune", "--grace", "0"].map(str::to_owned).to_vec(),
            _ => backup_words(&life),
        };
        life.change();
        let outcome = told(&mut life.house.wrapped(&wrapper, &words));
        let what = format!("{inject} in {words:?} -> {:?} {:?}: {}", outcome.code, outcome.signal, outcome.err);
        // 137: the tracer's word for a kill. 127: the dynamic loader met the fault before the program began.
        let clean = matches!(outcome.code, Some(0 | 1 | 3 | 10 | 11 | 12 | 127 | 137)) || outcome.signal == Some(9);
        assert!(clean, "{what}");
        *outcomes.entry((outcome.code, outcome.signal)).or_insert(0) += 1;
        if outcome.code == Some(3) {
            life.learn_partial();
        }
        life.settle(&what, point % 20 == 19);
        if point % 10 == 9 {
            life.change();
            life.backup();
        }
    }
    life.settle("the end", true);
    // Faults that change nothing would prove nothing.
    let undisturbed = outcomes.get(&(Some(0), None)).copied().unwrap_or(0);
    println!("(exit code, signal) of each point: {outcomes:?}");
    assert!(undisturbed * 10 < outcomes.values().sum::<u64>() * 9, "the faults do not reach the program: {outcomes:?}");
}
