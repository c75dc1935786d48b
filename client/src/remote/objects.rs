//! Small objects of a remote repository: snapshots and marks as this session has seen them, key slots as a `Backend`.

use super::{Link, lock, unexpected};
use chunkstore::backend::{Backend, ObjectKind as Kind, ObjectName, WriterLock};
use chunkstore::id::SlotId;
use chunkstore::{Error, Result};
use protocol::message::{Message, ObjectKind};
use std::collections::HashMap;
use std::slice;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What was fetched once is not fetched again: objects never change.
#[derive(Default)]
pub struct Objects {
    held: Mutex<HashMap<(ObjectKind, Vec<u8>), Arc<Vec<u8>>>>,
}

impl Objects {
    pub fn lacking(&self, kind: ObjectKind, names: &[Vec<u8>]) -> Vec<Vec<u8>> {
        let held = lock(&self.held);
        names.iter().filter(|name| !held.contains_key(&(kind, (*name).clone()))).cloned().collect()
    }

    pub fn keep(&self, kind: ObjectKind, fetched: Vec<(Vec<u8>, Vec<u8>)>) {
        lock(&self.held).extend(fetched.into_iter().map(|(name, bytes)| ((kind, name), Arc::new(bytes))));
    }

    pub fn drop(&self, kind: ObjectKind, name: &[u8]) {
        lock(&self.held).remove(&(kind, name.to_vec()));
    }

    pub fn held(&self, kind: ObjectKind, names: &[Vec<u8>]) -> Vec<(Vec<u8>, Arc<Vec<u8>>)> {
        let held = lock(&self.held);
        let found = names.iter().filter_map(|name| Some((name.clone(), Arc::clone(held.get(&(kind, name.clone()))?))));
        found.collect()
    }
}

/// The key slots of a remote repository. The server decides who may change them.
pub struct KeySlots {
    link: Arc<Link>,
}

impl KeySlots {
    pub fn new(link: Arc<Link>) -> KeySlots {
        KeySlots { link }
    }
}

impl Backend for KeySlots {
    fn put(&self, name: ObjectName, bytes: &[u8]) -> Result<()> {
        match name {
            ObjectName::KeySlot(_) => {
                self.link.done(Message::Store { kind: ObjectKind::KeySlot, bytes: bytes.to_vec() })
            }
            other => Err(elsewhere(&other.to_string())),
        }
    }

    fn get(&self, name: ObjectName) -> Result<Vec<u8>> {
        let Some((kind, bytes)) = object_name(name) else { return Err(Error::missing(name.to_string())) };
        match self.link.wire.objects.held(kind, slice::from_ref(&bytes)).pop() {
            Some((_, held)) => Ok(held.to_vec()),
            None => self.link.request(Message::Fetch { kind, names: vec![bytes] }, |answer| match answer {
                Message::Object(bytes) => Ok(bytes),
                other => Err(unexpected(&other)),
            }),
        }
    }

    fn get_range(&self, name: ObjectName, offset: u64, len: usize) -> Result<Vec<u8>> {
        let bytes = self.get(name)?;
        let part = usize::try_from(offset).ok().and_then(|from| bytes.get(from..from.checked_add(len)?));
        part.map(<[u8]>::to_vec).ok_or_else(|| Error::corrupt(name.to_string(), "it is too short"))
    }

    fn list(&self, kind: Kind) -> Result<Vec<(ObjectName, u64)>> {
        if kind != Kind::KeySlot {
            return Err(elsewhere("objects"));
        }
        let slots = self.link.objects(ObjectKind::KeySlot)?;
        let slot = |(name, bytes): &(Vec<u8>, Arc<Vec<u8>>)| {
            Some((ObjectName::KeySlot(SlotId::from_slice(name)?), bytes.len() as u64))
        };
        Ok(slots.iter().filter_map(slot).collect())
    }

    fn delete(&self, name: ObjectName) -> Result<()> {
        match name {
            ObjectName::KeySlot(id) => {
                self.link.done(Message::Remove(id))?;
                self.link.wire.objects.drop(ObjectKind::KeySlot, &id.0);
                Ok(())
            }
            other => Err(elsewhere(&other.to_string())),
        }
    }

    fn lock(&self, _holder: &str, _wait: Duration) -> Result<Box<dyn WriterLock>> {
        Err(elsewhere("the writer lock"))
    }
}

/// How an object is called on its way.
fn object_name(name: ObjectName) -> Option<(ObjectKind, Vec<u8>)> {
    match name {
        ObjectName::KeySlot(id) => Some((ObjectKind::KeySlot, id.0.to_vec())),
        ObjectName::Snapshot(id) => Some((ObjectKind::Snapshot, id.0.to_vec())),
        ObjectName::Mark(id) => Some((ObjectKind::Mark, id.0.to_vec())),
        _ => None,
    }
}

fn elsewhere(what: &str) -> Error {
    Error::invalid(what, "only the server reaches it")
}
