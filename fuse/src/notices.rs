//! What the log is told: each thing once, however often programs try again.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

/// Beyond so many different ones, some may be told again.
const REMEMBERED_MAX: usize = 4096;

/// Where a line goes that tells what is wrong: the item, and why.
pub type Log = Box<dyn Fn(&[u8], &str) + Send + Sync>;

pub struct Notices {
    log: Log,
    told: Mutex<HashSet<(Vec<u8>, String)>>,
}

impl Notices {
    pub fn new(log: Log) -> Notices {
        Notices { log, told: Mutex::default() }
    }

    pub fn tell(&self, item: &[u8], reason: &str) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.len() >= REMEMBERED_MAX {
            told.clear();
        }
        if told.insert((item.to_vec(), reason.to_owned())) {
            drop(told);
            (self.log)(item, reason);
        }
    }

    /// From now on these may be told again, since they were over.
    pub fn forget(&self, item: &[u8]) {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).retain(|(told, _)| told != item);
    }
}
