//! When and why a backup is to stop before its end: a signal, or the first failure in any of its threads.

use chunkstore::{Error, Result};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

pub struct Halt<'a> {
    interrupted: &'a AtomicBool,
    failed: AtomicBool,
    failure: Mutex<Option<Error>>,
}

impl<'a> Halt<'a> {
    pub fn new(interrupted: &'a AtomicBool) -> Halt<'a> {
        Halt { interrupted, failed: AtomicBool::new(false), failure: Mutex::new(None) }
    }

    /// An error if it is time to stop.
    pub fn check(&self) -> Result<()> {
        if self.interrupted.load(Ordering::Relaxed) || self.failed.load(Ordering::Relaxed) {
            return Err(Error::Interrupted);
        }
        Ok(())
    }

    /// Keeps the first failure and makes all threads stop; what stands in for it says only that.
    pub fn fail(&self, error: Error) -> Error {
        let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        // Where one thread learns the reason, others may only learn that there was one, and sooner.
        let is_open = failure.as_ref().is_none_or(|kept| matches!(kept, Error::Poisoned { .. }));
        if is_open && !matches!(error, Error::Interrupted) {
            *failure = Some(error);
            self.failed.store(true, Ordering::Relaxed);
        }
        Error::Interrupted
    }

    /// The outcome of all threads, after their end: the first failure, if one gave up for it.
    pub fn outcome<T>(&self, outcome: Result<T>) -> Result<T> {
        let outcome = outcome.map_err(|error| self.fail(error));
        let failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner).take();
        match failure {
            Some(error) => Err(error),
            None => outcome,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_reason_is_what_is_told() {
        let interrupted = AtomicBool::new(false);
        let halt = Halt::new(&interrupted);
        assert!(halt.check().is_ok() && halt.outcome(Ok(())).is_ok());
        halt.fail(Error::Interrupted);
        assert!(halt.check().is_ok(), "it stands for a reason told elsewhere");
        halt.fail(Error::Poisoned { reason: "what follows".into() });
        assert!(matches!(halt.fail(Error::Full { object: "pack".into() }), Error::Interrupted));
        halt.fail(Error::missing("another"));
        assert!(halt.check().is_err());
        assert!(matches!(halt.outcome(Err::<(), _>(Error::Interrupted)), Err(Error::Full { .. })));
        let halt = Halt::new(&interrupted);
        interrupted.store(true, Ordering::Relaxed);
        assert!(matches!(halt.check(), Err(Error::Interrupted)));
        assert!(matches!(halt.outcome(Err::<(), _>(Error::Interrupted)), Err(Error::Interrupted)));
    }
}
