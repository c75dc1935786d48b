//! What a source tells while it is saved: problems go to the journal too, and files that a database names are ticked off.

use super::event::Event;
use super::journal::Journal;
use super::referenced::Expected;
use super::source::Tally;
use crate::monitor::{Counters, Monitor};
use crate::names;
use std::sync::{Mutex, PoisonError};

/// So many vanished files are named; of the others, the number is.
const NAMED_MAX: usize = 20;

pub struct Watch<'a> {
    inner: Box<dyn Monitor>,
    journal: &'a Journal<'a>,
    job: &'a str,
    expected: Option<Mutex<Expected>>,
}

impl<'a> Watch<'a> {
    pub fn new(
        inner: Box<dyn Monitor>,
        journal: &'a Journal<'a>,
        job: &'a str,
        expected: Option<Expected>,
    ) -> Watch<'a> {
        Watch { inner, journal, job, expected: expected.map(Mutex::new) }
    }

    /// After the end: what was there when the job began, and was gone before it was saved.
    pub fn judge(self, tally: &mut Tally) {
        let Some(expected) = &self.expected else { return };
        let gone = std::mem::take(&mut *expected.lock().unwrap_or_else(PoisonError::into_inner)).gone();
        let reason = "it was there when the database was saved and gone before it was saved itself: the two do not belong together";
        for path in gone.iter().take(NAMED_MAX) {
            self.problem(path, reason);
        }
        if gone.len() > NAMED_MAX {
            let more = format!("and {} more files", gone.len() - NAMED_MAX);
            self.problem(more.as_bytes(), reason);
        }
        if let Some(saved) = tally.saved.last_mut() {
            saved.problems += gone.len() as u64;
        }
    }
}

impl Monitor for Watch<'_> {
    fn counters(&self) -> &Counters {
        self.inner.counters()
    }

    fn current(&self, item: &[u8]) {
        self.inner.current(item);
    }

    fn problem(&self, item: &[u8], reason: &str) {
        self.inner.problem(item, reason);
        let (job, item) = (self.job.to_owned(), names::shown(item));
        self.journal.tell(&Event::Problem { job, item, reason: reason.to_owned() });
    }

    fn detail(&self, verb: &str, item: &[u8]) {
        if let Some(expected) = &self.expected {
            expected.lock().unwrap_or_else(PoisonError::into_inner).seen(verb, item);
        }
        self.inner.detail(verb, item);
    }
}
