//! The repository of a run: opened once, opened again after a failure that may have cost it, waited for while it is away.

use super::config::Retry;
use super::event::Event;
use super::journal::Journal;
use crate::backup::Deltas;
use crate::error::{Error, Result};
use crate::session::{self, Session};
use crate::settings::Settings;
use chunkstore::snapshot::Writer;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How often another writer's lock is asked for.
const LOCK_PAUSE: Duration = Duration::from_secs(1);
const NAP: Duration = Duration::from_millis(50);

pub struct Opened {
    pub session: Session,
    pub writer: Writer,
    pub cache_dir: PathBuf,
    pub deltas: Deltas,
}

pub struct Repository<'a> {
    pub settings: &'a Settings,
    /// Opens it without waiting for its lock.
    pub open: &'a dyn Fn() -> Result<Session>,
    pub interrupted: &'a AtomicBool,
    opened: Option<Opened>,
    /// It was waited for in vain: nobody waits again.
    given_up: bool,
}

impl<'a> Repository<'a> {
    pub fn new(
        settings: &'a Settings,
        open: &'a dyn Fn() -> Result<Session>,
        interrupted: &'a AtomicBool,
    ) -> Repository<'a> {
        Repository { settings, open, interrupted, opened: None, given_up: false }
    }

    /// Opens it unless it is open.
    pub fn reach(&mut self, retry: Retry, journal: &Journal<'_>) -> Result<&Opened> {
        if self.opened.is_none() {
            let opened = self.open_patiently(retry, journal);
            self.given_up = opened.is_err();
            self.opened = Some(opened?);
        }
        self.opened.as_ref().ok_or(Error::NoRepositoryNamed)
    }

    pub fn opened(&self) -> Option<&Opened> {
        self.opened.as_ref()
    }

    /// After a failure: lets go of it, so that what comes next opens it anew. The reason, if it is away now.
    pub fn doubt(&mut self) -> Option<Error> {
        self.opened = None;
        session::locate(self.settings).err().filter(is_away)
    }

    /// Why a source failed: that the repository is away (`Ok`), or the error itself.
    pub fn is_it(&mut self, error: Error) -> Result<Error> {
        match (self.doubt(), error) {
            (Some(away), _) => Ok(away),
            (None, lost @ Error::Store(chunkstore::Error::Unreachable { .. })) => Ok(lost),
            (None, error) => Err(error),
        }
    }

    /// Pauses before another try, if there is to be one.
    pub fn pause(&self, retry: Retry, tries: u64, cause: &Error, journal: &Journal<'_>) -> Result<bool> {
        let Some(wait) = retry.pause(tries).filter(|_| !self.given_up) else { return Ok(false) };
        journal.tell(&Event::Waits { cause: cause.to_string(), wait, tries, tries_max: retry.tries });
        self.sleep(wait)?;
        Ok(true)
    }

    pub fn check(&self) -> Result<()> {
        let is_over = self.interrupted.load(Ordering::Relaxed);
        if is_over { Err(chunkstore::Error::Interrupted.into()) } else { Ok(()) }
    }

    fn open_patiently(&self, retry: Retry, journal: &Journal<'_>) -> Result<Opened> {
        let begun = Instant::now();
        let mut tries = 1;
        loop {
            self.check()?;
            let error = match (self.open)().and_then(|session| self.furnish(session)) {
                Ok(opened) => return Ok(opened),
                Err(error) => error,
            };
            let is_locked = matches!(error, Error::Store(chunkstore::Error::Locked { .. }));
            if is_locked && begun.elapsed() < self.settings.lock_wait {
                self.sleep(LOCK_PAUSE.min(self.settings.lock_wait))?;
            } else if is_away(&error) && self.pause(retry, tries, &error, journal)? {
                tries += 1;
            } else {
                return Err(error);
            }
        }
    }

    fn furnish(&self, session: Session) -> Result<Opened> {
        let writer = session::writer(self.settings)?;
        let cache_dir = session.cache_dir(self.settings)?;
        let deltas = session.deltas(self.settings)?;
        Ok(Opened { session, writer, cache_dir, deltas })
    }

    fn sleep(&self, wait: Duration) -> Result<()> {
        let begun = Instant::now();
        while begun.elapsed() < wait {
            self.check()?;
            std::thread::sleep(NAP.min(wait.saturating_sub(begun.elapsed())));
        }
        Ok(())
    }
}

/// Whether it may come back by itself: a disk or a mount that is not there, unlike a wrong credential or a full disk.
fn is_away(error: &Error) -> bool {
    match error {
        Error::Store(chunkstore::Error::NoRepository { .. } | chunkstore::Error::Unreachable { .. }) => true,
        Error::Store(chunkstore::Error::Io { source, .. }) => source.kind() != ErrorKind::PermissionDenied,
        _ => false,
    }
}
