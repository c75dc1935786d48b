//! What all sessions share: settings, records, repositories, and who is connected.

use crate::peer::Sites;
use crate::registry::Registry;
use crate::settings::Settings;
use crate::storage::Storage;
use protocol::connection::{Close, Connection};
use protocol::identity::NodeId;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Semaphore;

pub struct Hub {
    pub settings: Settings,
    pub server: NodeId,
    pub registry: Registry,
    pub storage: Storage,
    pub sites: Arc<Sites>,
    /// KiB of records that may wait to be stored.
    pub waiting: Arc<Semaphore>,
    live: Mutex<HashMap<NodeId, Vec<(u64, Connection)>>>,
    serial: Mutex<u64>,
}

/// A connection's place among the live ones, until it is dropped.
pub struct Presence {
    hub: Arc<Hub>,
    client: NodeId,
    serial: u64,
}

impl Hub {
    pub fn new(settings: Settings, server: NodeId, registry: Registry) -> Arc<Hub> {
        let waiting = usize::try_from(settings.limits.waiting_bytes >> 10).unwrap_or(usize::MAX);
        Arc::new(Hub {
            settings,
            server,
            registry,
            storage: Storage::default(),
            sites: Arc::default(),
            waiting: Arc::new(Semaphore::new(waiting.clamp(64 << 10, Semaphore::MAX_PERMITS))),
            live: Mutex::default(),
            serial: Mutex::default(),
        })
    }

    /// None if there are too many of this client or in all.
    pub fn enter(self: &Arc<Hub>, connection: &Connection) -> Option<Presence> {
        let mut live = lock(&self.live);
        let all: usize = live.values().map(Vec::len).sum();
        let client = connection.peer();
        let own = live.get(&client).map_or(0, Vec::len);
        let limits = &self.settings.limits;
        if all >= limits.connections || own >= limits.connections_per_client {
            return None;
        }
        let mut serial = lock(&self.serial);
        *serial += 1;
        live.entry(client).or_default().push((*serial, connection.clone()));
        Some(Presence { hub: Arc::clone(self), client, serial: *serial })
    }

    /// Ends what this client is doing, now.
    pub fn expel(&self, client: NodeId) -> usize {
        let connections = lock(&self.live).get(&client).cloned().unwrap_or_default();
        for (_, connection) in &connections {
            connection.close(Close::Revoked, "this client was revoked");
        }
        connections.len()
    }

    pub fn sessions(&self) -> usize {
        lock(&self.live).values().map(Vec::len).sum()
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        let mut live = lock(&self.hub.live);
        if let Some(connections) = live.get_mut(&self.client) {
            connections.retain(|(serial, _)| *serial != self.serial);
            if connections.is_empty() {
                live.remove(&self.client);
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
