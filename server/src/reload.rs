//! Reading the configuration again while the server runs: all of it counts, or none.

use crate::config;
use crate::error::Result;
use crate::hub::Hub;
use serde_json::{Value, json};
use std::sync::atomic::Ordering;

/// Also for who sent SIGHUP, who is told by the log alone.
pub fn reload(hub: &Hub) -> Result<Value> {
    hub.notify.reloading();
    let file = hub.file.display();
    let changed = config::load(&hub.file).and_then(|loaded| {
        loaded.mistakes.iter().for_each(|mistake| tracing::warn!("{}", loaded.line(mistake)));
        hub.change(loaded.require()?)
    });
    hub.notify.ready();
    hub.reloaded.store(changed.is_ok(), Ordering::Relaxed);
    match changed {
        Ok(()) => tracing::info!(%file, "the configuration was read again"),
        Err(error) => {
            tracing::error!(%file, %error, "the configuration was not taken; the one before goes on");
            return Err(error);
        }
    }
    hub.wake.notify_waiters();
    Ok(json!({ "file": file.to_string() }))
}
