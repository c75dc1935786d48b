//! A ZODB storage and its next run: what is read and how long it takes, beside repozo on the same file in the same run.
//!
//! Nightkeep is given a write-only key, as an unattended machine has it. repozo is run as it is, and with `-Q`, which believes
//! that the part it saved before is unchanged.

use crate::measure;
use corpus::Random;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

const MIB: u64 = 1 << 20;
const PASSWORD: &str = "benchmark";

/// Prints a table: `mib` of storage, then one more.
pub fn run(mib: u64, nightkeep: &Path, repozo: &Path, scratch: &Path) -> io::Result<()> {
    let data_fs = scratch.join("Data.fs");
    let mut storage =
        Storage { file: BufWriter::new(File::create(&data_fs)?), at: 0, count: 0, random: Random::new(7) };
    storage.write(b"FS30")?;
    storage.grow(mib * MIB)?;
    println!("| {mib} MiB of storage | first | 1 MiB more | nothing new | read by the second |\n|---|---|---|---|---|");
    let ours = Ours { nightkeep, data_fs: &data_fs, scratch, key: String::new() };
    ours.command().arg("init").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status()?;
    let exported = ours.command().args(["key", "export"]).output()?;
    let ours = Ours { key: String::from_utf8_lossy(&exported.stdout).trim().to_owned(), ..ours };
    let first = ours.save()?;
    repozo_runs(repozo, &data_fs, scratch, "first")?;
    storage.grow(MIB)?;
    let second = ours.save()?;
    let third = ours.save()?;
    println!("| nightkeep | {:.2} s | {:.3} s | {:.3} s | {:.2} MiB |", first.0, second.0, third.0, mib_of(second.1));
    for row in repozo_runs(repozo, &data_fs, scratch, "more")? {
        println!("{row}");
    }
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "a figure for people")]
fn mib_of(bytes: u64) -> f64 {
    bytes as f64 / MIB as f64
}

struct Storage {
    file: BufWriter<File>,
    at: u64,
    count: u64,
    random: Random,
}

impl Storage {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.at += bytes.len() as u64;
        self.file.write_all(bytes)
    }

    /// Transactions of a few records of text each, until there are so many bytes more.
    fn grow(&mut self, bytes: u64) -> io::Result<()> {
        let end = self.at + bytes;
        while self.at < end {
            self.transaction()?;
        }
        self.file.flush()?;
        self.file.get_ref().sync_all()
    }

    fn transaction(&mut self) -> io::Result<()> {
        self.count += 1;
        let tid = 0x0400_0000_0000_0000 + self.count * 0x0444_4445;
        let mut body = Vec::new();
        for _ in 0..4 {
            let words = 100 + self.random.below(400);
            let mut data = b"\x80\x03cpersistent.mapping\nPersistentMapping\nq\x00.\x80\x03}q\x01U\x04data".to_vec();
            for _ in 0..words {
                data.extend_from_slice(format!("{:x} ", self.random.below(50_000)).as_bytes());
            }
            for number in [self.random.below(1 << 20), tid, 0, self.at] {
                body.extend_from_slice(&number.to_be_bytes());
            }
            body.extend_from_slice(&[0, 0]);
            body.extend_from_slice(&(data.len() as u64).to_be_bytes());
            body.extend_from_slice(&data);
        }
        let len = (23 + body.len() as u64).to_be_bytes();
        let head = [&tid.to_be_bytes()[..], &len, b" ", &[0; 6]].concat();
        self.write(&head)?;
        self.write(&body)?;
        self.write(&len)
    }
}

struct Ours<'a> {
    nightkeep: &'a Path,
    data_fs: &'a Path,
    scratch: &'a Path,
    /// The write-only key, or nothing.
    key: String,
}

impl Ours<'_> {
    fn command(&self) -> Command {
        let mut command = Command::new(self.nightkeep);
        let password = if self.key.is_empty() { PASSWORD } else { &self.key };
        command
            .env("NIGHTKEEP_REPOSITORY", self.scratch.join("repository"))
            .env("NIGHTKEEP_PASSWORD", password)
            .env("NIGHTKEEP_CACHE_DIR", self.scratch.join("cache"))
            .env("NIGHTKEEP_STATE_DIR", self.scratch.join("state"));
        command
    }

    /// Seconds, and bytes read.
    fn save(&self) -> io::Result<(f64, u64)> {
        let begun = Instant::now();
        let output = self.command().args(["--json", "backup", "zodb", "--data-fs"]).arg(self.data_fs).output()?;
        let seconds = begun.elapsed().as_secs_f64();
        if !output.status.success() {
            return Err(io::Error::other(String::from_utf8_lossy(&output.stderr).into_owned()));
        }
        let lines = String::from_utf8_lossy(&output.stdout).into_owned();
        let summary = lines.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        let read =
            summary.filter_map(|line| line.pointer("/zodb/read_bytes").and_then(serde_json::Value::as_u64)).next_back();
        Ok((seconds, read.unwrap_or(0)))
    }
}

/// With and without `-Q`: the first run, or the two after it as rows of the table.
fn repozo_runs(repozo: &Path, data_fs: &Path, scratch: &Path, phase: &str) -> io::Result<Vec<String>> {
    let mut rows = Vec::new();
    if Command::new(repozo).arg("--help").output().is_err() {
        return Ok(rows);
    }
    for quick in [false, true] {
        let directory = scratch.join(format!("repozo-{quick}"));
        std::fs::create_dir_all(&directory)?;
        let times = directory.with_extension("first");
        let run = || {
            let mut command = Command::new(repozo);
            command.arg("-B").args(quick.then_some("-Q")).arg("-r").arg(&directory).arg("-f").arg(data_fs);
            measure::run(command).map(|measured| measured.seconds)
        };
        let seconds = run()?;
        if phase == "first" {
            std::fs::write(times, format!("{seconds:.2}"))?;
            continue;
        }
        let (first, name) = (std::fs::read_to_string(times)?, if quick { "repozo -Q" } else { "repozo" });
        // A second between two runs: its files are named by it.
        std::thread::sleep(std::time::Duration::from_millis(1100));
        rows.push(format!("| {name} | {first} s | {seconds:.3} s | {:.3} s | |", run()?));
    }
    Ok(rows)
}
