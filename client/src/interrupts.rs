//! SIGINT and SIGTERM. Where nothing watches the flag they end the process at once (exit code 130); within
//! [`Interrupts::watched`] the first one only sets it, and the second ends the process.

use crate::error::{Error, Result};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

const EXIT_CODE: i32 = 130;

pub struct Interrupts {
    flag: Arc<AtomicBool>,
    /// The next signal ends the process.
    last: Arc<AtomicBool>,
}

impl Interrupts {
    pub fn install() -> Result<Interrupts> {
        let interrupts = Interrupts { flag: Arc::default(), last: Arc::new(AtomicBool::new(true)) };
        for signal in [SIGINT, SIGTERM] {
            // In the order of registration: the second signal finds `last` set by the first.
            flag::register_conditional_shutdown(signal, EXIT_CODE, Arc::clone(&interrupts.last))
                .and_then(|_| flag::register(signal, Arc::clone(&interrupts.last)))
                .and_then(|_| flag::register(signal, Arc::clone(&interrupts.flag)))
                .map_err(|source| Error::io("cannot watch for", "signals", source))?;
        }
        Ok(interrupts)
    }

    /// Runs `work`, which is to look at the flag and stop.
    pub fn watched<T>(&self, work: impl FnOnce(&AtomicBool) -> T) -> T {
        self.last.store(false, Ordering::SeqCst);
        let result = work(&self.flag);
        self.last.store(true, Ordering::SeqCst);
        result
    }

    pub fn check(&self) -> Result<()> {
        if self.flag.load(Ordering::SeqCst) { Err(chunkstore::Error::Interrupted.into()) } else { Ok(()) }
    }
}
