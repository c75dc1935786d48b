//! How long work tells what it is doing. The terminal, JSON lines and tests listen; nothing below prints.

use std::sync::atomic::AtomicU64;

/// Running figures of one operation; written by workers, read by whoever shows them.
#[derive(Default, Debug)]
pub struct Counters {
    pub files_done: AtomicU64,
    pub files_total: AtomicU64,
    pub bytes_done: AtomicU64,
    /// 0 while unknown.
    pub bytes_total: AtomicU64,
    pub problems: AtomicU64,
}

pub trait Monitor: Send + Sync {
    fn counters(&self) -> &Counters;

    /// What is worked on now: shown on a terminal, lost otherwise.
    fn current(&self, item: &[u8]);

    /// One item could not be done; the operation goes on and ends incomplete (exit code 3). Also counts it.
    fn problem(&self, item: &[u8], reason: &str);

    /// One item was dealt with, for `-v`: a verb (`new`, `changed`, `restored`, `would delete`…) and the item.
    fn detail(&self, verb: &str, item: &[u8]);
}
