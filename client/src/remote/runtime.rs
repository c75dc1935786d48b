//! The thread of the network. Callers wait for what it works on.

use crate::error::{Error, Result};
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

/// One thread that drives the network until it is dropped.
pub struct Runtime {
    pub handle: Handle,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Runtime {
    pub fn start() -> Result<Runtime> {
        let failed = |error| Error::io("cannot start", "the network's thread", error);
        let runtime = Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let (handle, (stop, stopped)) = (runtime.handle().clone(), oneshot::channel());
        let drive = move || {
            // Whether it is told or the sender is gone is the same.
            let _ = runtime.block_on(stopped);
        };
        let thread = std::thread::Builder::new().name("network".into()).spawn(drive).map_err(failed)?;
        Ok(Runtime { handle, stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
