//! Running one command and knowing what it cost; medians, ratios, tables.

use crate::peer::Peer;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// By work, then by peer: one measurement a round.
pub type Figures = BTreeMap<String, BTreeMap<&'static str, Vec<Measurement>>>;

/// The kernel counts processor time in ticks of so many seconds, on every machine this runs on.
const TICK: f64 = 0.01;
/// About what one command writes to, in its own memory and the kernel's.
const TOUCHED_BYTES: u64 = 1 << 30;

#[derive(Clone, Default, Debug)]
pub struct Measurement {
    pub seconds: f64,
    /// Processor time of all processes, in seconds.
    pub processor: f64,
    /// Highest resident memory seen of all processes together, in KiB.
    pub memory_kib: u64,
    /// Bytes in the repository afterwards.
    pub stored: u64,
    /// By how much the repository grew: what would have been sent.
    pub added: u64,
}

impl Measurement {
    /// A second command of the same work.
    pub fn add(&mut self, other: &Measurement) {
        self.seconds += other.seconds;
        self.processor += other.processor;
        self.memory_kib = self.memory_kib.max(other.memory_kib);
    }
}

/// Takes so much memory from the system, a quarter of what is free at most, and gives it back. A virtual machine's host takes away what its guest
/// leaves free for seconds, and to write to such memory costs eight times as much as to any other: without this the
/// first of several programs, or the one that waited, is measured against the host.
pub fn touch_memory(bytes: u64) {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let free =
        line.and_then(|line| line.split_whitespace().next()).and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0);
    let bytes = usize::try_from(bytes.min(free.saturating_mul(1024) / 4)).unwrap_or(0);
    std::hint::black_box(vec![1u8; bytes]);
}

/// Runs a command to its end; an error if it fails. Memory is the high-water mark that the kernel keeps, read until the end.
pub fn run(mut command: Command) -> io::Result<Measurement> {
    touch_memory(TOUCHED_BYTES);
    let before = processor_of_children();
    let begun = Instant::now();
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
    let mut child = child.map_err(|e| io::Error::other(format!("{command:?}: {e}")))?;
    let mut memory_kib = 0;
    let ended = loop {
        if let Some(ended) = child.try_wait()? {
            break ended;
        }
        memory_kib = memory_kib.max(high_water_of_all(child.id()));
        std::thread::sleep(Duration::from_millis(2));
    };
    let seconds = begun.elapsed().as_secs_f64();
    let processor = processor_of_children() - before;
    if !ended.success() {
        let mut text = String::new();
        if let Some(mut stderr) = child.stderr.take() {
            let _ = io::Read::read_to_string(&mut stderr, &mut text);
        }
        return Err(io::Error::other(format!("{command:?} ended with {ended}: {text}")));
    }
    Ok(Measurement { seconds, processor, memory_kib, ..Measurement::default() })
}

/// Processor time of those children, and their own, that were waited for.
fn processor_of_children() -> f64 {
    let text = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = text.rsplit_once(')').map_or("", |(_, fields)| fields);
    fields.split_whitespace().skip(13).take(2).filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() * TICK
}

/// Peak resident memory in KiB, from a process's status file.
pub fn high_water(status: &str) -> u64 {
    let text = std::fs::read_to_string(status).unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with("VmHWM:"));
    line.and_then(|line| line.split_whitespace().nth(1)).and_then(|kib| kib.parse().ok()).unwrap_or(0)
}

/// That of a process and all below it.
fn high_water_of_all(process: u32) -> u64 {
    let children = std::fs::read_to_string(format!("/proc/{process}/task/{process}/children")).unwrap_or_default();
    let below = children.split_whitespace().filter_map(|id| id.parse().ok()).map(high_water_of_all);
    high_water(&format!("/proc/{process}/status")) + below.sum::<u64>()
}

pub fn stored_bytes(path: &Path) -> u64 {
    let Ok(metadata) = path.symlink_metadata() else { return 0 };
    if !metadata.is_dir() {
        return metadata.len();
    }
    std::fs::read_dir(path).map_or(0, |entries| entries.flatten().map(|entry| stored_bytes(&entry.path())).sum())
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn seconds(rounds: &[Measurement]) -> f64 {
    median(rounds.iter().map(|m| m.seconds))
}

/// A row a piece of work: medians of seconds and processor seconds, stored MB and peak MiB of each peer, and how many times longer the
/// fastest peer took that deduplicates and encrypts too.
pub fn markdown(all: &Figures, peers: &[Peer]) -> String {
    let mut text = String::from("| work |");
    for peer in peers {
        let _ = write!(text, " {} |", peer.name());
    }
    text.push_str(" fastest peer / nightkeep |\n|---|");
    text.push_str(&"---|".repeat(peers.len() + 1));
    text.push('\n');
    for (work, by_peer) in all {
        let _ = write!(text, "| {work} |");
        let mut fastest = f64::INFINITY;
        for peer in peers {
            let Some(rounds) = by_peer.get(peer.name()) else {
                text.push_str(" |");
                continue;
            };
            if peer.is_rival() {
                fastest = fastest.min(seconds(rounds));
            }
            let processor = median(rounds.iter().map(|m| m.processor));
            let stored = rounds.first().map_or(0, |m| m.stored) / 1_000_000;
            let memory = rounds.iter().map(|m| m.memory_kib).max().unwrap_or(0) / 1024;
            let _ = write!(text, " {:.2} s ({processor:.1}), {stored} MB, {memory} MiB |", seconds(rounds));
        }
        let ratio = fastest / by_peer.get("nightkeep").map_or(f64::NAN, |rounds| seconds(rounds));
        let _ = if ratio.is_finite() { writeln!(text, " {ratio:.1} |") } else { writeln!(text, " |") };
    }
    text
}

pub fn json(all: &Figures) -> serde_json::Value {
    let row = |m: &Measurement| {
        serde_json::json!({
            "seconds": m.seconds, "processor_seconds": m.processor, "memory_kib": m.memory_kib,
            "stored_bytes": m.stored, "added_bytes": m.added,
        })
    };
    all.iter()
        .map(|(work, by_peer)| {
            let peers: serde_json::Map<_, _> =
                by_peer.iter().map(|(peer, rounds)| ((*peer).to_owned(), rounds.iter().map(row).collect())).collect();
            (work.clone(), serde_json::Value::Object(peers))
        })
        .collect::<serde_json::Map<_, _>>()
        .into()
}
