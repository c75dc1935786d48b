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

#[derive(Clone, Default, Debug)]
pub struct Measurement {
    pub seconds: f64,
    /// Highest resident memory seen, in KiB.
    pub memory_kib: u64,
    /// Bytes in the repository afterwards.
    pub stored: u64,
}

impl Measurement {
    /// A second command of the same work.
    pub fn add(&mut self, other: &Measurement) {
        self.seconds += other.seconds;
        self.memory_kib = self.memory_kib.max(other.memory_kib);
    }
}

/// Runs a command to its end; an error if it fails. Memory is the high-water mark that the kernel keeps, read until the end.
pub fn run(mut command: Command) -> io::Result<Measurement> {
    let begun = Instant::now();
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
    let mut child = child.map_err(|e| io::Error::other(format!("{command:?}: {e}")))?;
    let status = format!("/proc/{}/status", child.id());
    let mut memory_kib = 0;
    let ended = loop {
        if let Some(ended) = child.try_wait()? {
            break ended;
        }
        memory_kib = memory_kib.max(high_water(&status));
        std::thread::sleep(Duration::from_millis(2));
    };
    let seconds = begun.elapsed().as_secs_f64();
    if !ended.success() {
        let mut text = String::new();
        if let Some(mut stderr) = child.stderr.take() {
            let _ = io::Read::read_to_string(&mut stderr, &mut text);
        }
        return Err(io::Error::other(format!("{command:?} ended with {ended}: {text}")));
    }
    Ok(Measurement { seconds, memory_kib, stored: 0 })
}

/// Peak resident memory in KiB, from a process's status file.
pub fn high_water(status: &str) -> u64 {
    let text = std::fs::read_to_string(status).unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with("VmHWM:"));
    line.and_then(|line| line.split_whitespace().nth(1)).and_then(|kib| kib.parse().ok()).unwrap_or(0)
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

/// A row a piece of work: median seconds, stored MB and peak MiB of each peer, and how many times longer the fastest peer took.
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
            let seconds = median(rounds.iter().map(|m| m.seconds));
            if *peer != Peer::Nightkeep {
                fastest = fastest.min(seconds);
            }
            let stored = rounds.first().map_or(0, |m| m.stored) / 1_000_000;
            let memory = rounds.iter().map(|m| m.memory_kib).max().unwrap_or(0) / 1024;
            let _ = write!(text, " {seconds:.2} s, {stored} MB, {memory} MiB |");
        }
        let ours = by_peer.get("nightkeep").map_or(f64::NAN, |rounds| median(rounds.iter().map(|m| m.seconds)));
        let _ = writeln!(text, " {:.1} |", fastest / ours);
    }
    text
}

pub fn json(all: &Figures) -> serde_json::Value {
    let row = |m: &Measurement| serde_json::json!({"seconds": m.seconds, "memory_kib": m.memory_kib, "stored_bytes": m.stored});
    all.iter()
        .map(|(work, by_peer)| {
            let peers: serde_json::Map<_, _> =
                by_peer.iter().map(|(peer, rounds)| ((*peer).to_owned(), rounds.iter().map(row).collect())).collect();
            (work.clone(), serde_json::Value::Object(peers))
        })
        .collect::<serde_json::Map<_, _>>()
        .into()
}
