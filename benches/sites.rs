//! Replication between two servers behind the loopback, and over an emulated long line: what goes over, how fast.
//!
//! The line is a thread between the two that delays, limits and loses datagrams, so it needs no rights and no other machine. It does not
//! stand for what happens beside other traffic.

use crate::measure;
use crate::server::Server;
use std::io;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

mod line;

use line::Line;

const PASSWORD: &str = "benchmark";
/// So much larger is the dump behind the loopback, where one of a benchmark's usual size would measure how a transfer begins and ends.
const LOOPBACK_TIMES: f64 = 4.0;
const PATIENCE: Duration = Duration::from_secs(900);

/// Prints a table: loopback, a line of 100 Mbit/s and 80 ms without and with loss, and a night of the database over it.
pub fn run(nightkeep: &Path, size: f64, rounds: usize, scratch: &Path) -> io::Result<()> {
    println!("| work | bytes of records | on the line | seconds | rate |\n|---|---|---|---|---|");
    for dials in [Dials::Source, Dials::Target] {
        for (name, loss) in
            [("loopback", None), ("80 ms, 100 Mbit/s", Some(0)), ("80 ms, 100 Mbit/s, 1 % lost", Some(100))]
        {
            for _ in 0..rounds.max(1) {
                let size = if loss.is_none() { size * LOOPBACK_TIMES } else { size };
                let figures = once(nightkeep, size, loss, dials, scratch)?;
                for (work, Moved { bytes, on_line, seconds }) in ["first backup", "next night"].iter().zip(figures) {
                    let who = if matches!(dials, Dials::Source) { "push" } else { "pull" };
                    let bytes = bytes as f64 / 1e6;
                    let on_line = on_line.map_or(String::new(), |bytes| format!("{:.1} MB", bytes as f64 / 1e6));
                    println!(
                        "| {work}, {who}, {name} | {bytes:.1} MB | {on_line} | {seconds:.2} | {:.1} MB/s, {:.1} Mbit/s |",
                        bytes / seconds,
                        bytes * 8.0 / seconds
                    );
                }
            }
        }
    }
    Ok(())
}

/// Which of the two works the link: where backups come in, or the other.
#[derive(Clone, Copy)]
enum Dials {
    Source,
    Target,
}

struct Moved {
    bytes: u64,
    /// Of an emulated line.
    on_line: Option<u64>,
    seconds: f64,
}

/// The first backup, and the next night.
fn once(nightkeep: &Path, size: f64, loss: Option<u64>, dials: Dials, scratch: &Path) -> io::Result<[Moved; 2]> {
    let state = tempfile::tempdir_in(scratch)?;
    let source = state.path().join("source");
    std::fs::create_dir_all(&source)?;
    let places = ["a", "b"].map(|name| state.path().join(name));
    for place in &places {
        std::fs::create_dir_all(place)?;
    }
    let [a, b] = [Server::start(nightkeep, &places[0])?, Server::start(nightkeep, &places[1])?];
    let client = |words: &[&str]| {
        let mut command = Command::new(nightkeep);
        command
            .env("NIGHTKEEP_REPOSITORY", format!("quic://{}/bench", a.address))
            .env("NIGHTKEEP_PASSWORD", PASSWORD)
            .env("NIGHTKEEP_CACHE_DIR", state.path().join("cache"))
            .env("NIGHTKEEP_STATE_DIR", state.path().join("state"))
            .args(words);
        measure::run(command).map(|_| ())
    };
    client(&["join", a.token.trim()])?;
    client(&["init"])?;
    let (dialling, answering) = if matches!(dials, Dials::Source) { (&a, &b) } else { (&b, &a) };
    let line = loss.map(|loss| Line::to(&answering.address, loss)).transpose()?;
    let address = line.as_ref().map_or(&answering.address, |line| &line.address);
    let token = answering.told(&["invite", "--repository", "bench", "--role", "replica", "--address", address])?;
    dialling.told(&["peer", "join", token.trim()])?;
    dialling.told(&["peer", "pause", "bench"])?;
    let mut moved = [0, 1].map(|_| Moved { bytes: 0, on_line: None, seconds: 0.0 });
    for (night, moved) in (0u64..).zip(&mut moved) {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a scale times a constant")]
        corpus::dump(&source.join("erp.sql"), (494e6 * size) as u64, night)?;
        client(&["backup", "files", "--dataset", "bench", &source.to_string_lossy()])?;
        // The dump and the first site's packs are on the disk before the other's are written.
        Command::new("sync").status()?;
        // Both ends' memory, and what the kernel keeps of the other's packs.
        measure::touch_memory(3 << 30);
        let on_line = || line.as_ref().map(Line::bytes);
        let (before, began) = (on_line(), Instant::now());
        dialling.told(&["peer", "resume", "bench"])?;
        wait_for_snapshots(&places[1], night + 1)?;
        let figures = dialling.even()?;
        let seconds = began.elapsed().as_secs_f64();
        let on_line = on_line().zip(before).map(|(now, before)| now - before);
        *moved = Moved { bytes: figures, on_line, seconds };
        dialling.told(&["peer", "pause", "bench"])?;
    }
    Ok(moved)
}

/// Until so many are committed at a site. Seen from its directory, since each question to a daemon is a process of its own, and
/// fifty a second take a twentieth of the processors.
fn wait_for_snapshots(place: &Path, count: u64) -> io::Result<()> {
    let snapshots = place.join("data/repositories/bench/snapshots");
    let until = Instant::now() + PATIENCE;
    while Instant::now() < until {
        if snapshots.read_dir().is_ok_and(|found| found.count() as u64 >= count) {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Err(io::Error::other("no snapshot arrives"))
}

impl Server {
    /// Waits until both sites have everything; what has gone over since the link was resumed.
    fn even(&self) -> io::Result<u64> {
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until {
            let told = self.told(&["--json", "peer", "list"])?;
            let row: serde_json::Value =
                told.lines().next().and_then(|line| serde_json::from_str(line).ok()).unwrap_or_default();
            let field = |name: &str| row.get(name).cloned().unwrap_or_default();
            if field("state") == "even" {
                return Ok(field("moved_bytes").as_u64().unwrap_or(0));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Err(io::Error::other("the sites do not become equal"))
    }
}
