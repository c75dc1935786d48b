//! Objects in memory, with faults: fails, or stops for good, at the n-th operation.
//!
//! Each operation is atomic, as the contract of `Backend` allows; a put that stops may or may not have taken effect,
//! and both are tried. The writer lock is held by the process, so a simulated crash releases it.

use super::{Backend, ObjectKind, ObjectName, WriterLock};
use crate::error::{Error, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What happens at the chosen operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// It fails, once, without effect.
    Error(io::ErrorKind),
    /// The process dies there: this operation and all later ones fail; `applied` says whether this one took effect.
    Stop { applied: bool },
}

#[derive(Default)]
struct State {
    objects: BTreeMap<ObjectName, Vec<u8>>,
    uncached: BTreeSet<ObjectName>,
    operations: u64,
    fault: Option<(u64, Fault)>,
    stopped: bool,
}

#[derive(Default)]
pub struct Simulated {
    state: Mutex<State>,
    locked: Arc<AtomicBool>,
}

impl Simulated {
    pub fn new() -> Simulated {
        Simulated::default()
    }

    /// Arms a fault for the `nth` operation from now (1 is the next).
    pub fn arm(&self, nth: u64, fault: Fault) {
        let mut state = self.state();
        state.fault = Some((state.operations + nth, fault));
    }

    /// How many operations that change something were asked for.
    pub fn operations(&self) -> u64 {
        self.state().operations
    }

    /// The same objects after a restart: no fault, no lock.
    pub fn restarted(&self) -> Simulated {
        let objects = self.state().objects.clone();
        Simulated { state: Mutex::new(State { objects, ..State::default() }), locked: Arc::default() }
    }

    /// Changes an object behind everybody's back; `None` removes it.
    pub fn damage(&self, name: ObjectName, bytes: Option<Vec<u8>>) {
        let objects = &mut self.state().objects;
        match bytes {
            Some(bytes) => objects.insert(name, bytes),
            None => objects.remove(&name),
        };
    }

    /// What was said to be read by nobody soon.
    pub fn uncached(&self) -> BTreeSet<ObjectName> {
        self.state().uncached.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a changing operation, applies it unless a fault says otherwise.
    fn change(&self, name: ObjectName, apply: impl FnOnce(&mut BTreeMap<ObjectName, Vec<u8>>)) -> Result<()> {
        let mut state = self.state();
        let stopped = || Error::io("write", name.to_string(), io::Error::other("the process was stopped"));
        if state.stopped {
            return Err(stopped());
        }
        state.operations += 1;
        match state.fault {
            Some((at, fault)) if at == state.operations => match fault {
                Fault::Error(kind) => Err(Error::io("write", name.to_string(), kind.into())),
                Fault::Stop { applied } => {
                    if applied {
                        apply(&mut state.objects);
                    }
                    state.stopped = true;
                    Err(stopped())
                }
            },
            _ => {
                apply(&mut state.objects);
                Ok(())
            }
        }
    }
}

impl Backend for Simulated {
    fn put(&self, name: ObjectName, bytes: &[u8]) -> Result<()> {
        self.change(name, |objects| {
            objects.insert(name, bytes.to_vec());
        })
    }

    fn get(&self, name: ObjectName) -> Result<Vec<u8>> {
        self.state().objects.get(&name).cloned().ok_or_else(|| Error::missing(name.to_string()))
    }

    fn get_range(&self, name: ObjectName, offset: u64, len: usize) -> Result<Vec<u8>> {
        let state = self.state();
        let object = state.objects.get(&name).ok_or_else(|| Error::missing(name.to_string()))?;
        let range = usize::try_from(offset).ok().and_then(|o| Some(o..o.checked_add(len)?));
        range
            .and_then(|range| object.get(range))
            .map(<[u8]>::to_vec)
            .ok_or_else(|| Error::corrupt(name.to_string(), format!("it ends at {}", object.len())))
    }

    fn uncache(&self, name: ObjectName) {
        self.state().uncached.insert(name);
    }

    fn list(&self, kind: ObjectKind) -> Result<Vec<(ObjectName, u64)>> {
        let wanted = |name: &ObjectName| match name {
            ObjectName::Configuration | ObjectName::ConfigurationCopy => false,
            ObjectName::KeySlot(_) => kind == ObjectKind::KeySlot,
            ObjectName::Pack(_) => kind == ObjectKind::Pack,
            ObjectName::Snapshot(_) => kind == ObjectKind::Snapshot,
            ObjectName::Mark(_) => kind == ObjectKind::Mark,
        };
        let state = self.state();
        Ok(state.objects.iter().filter(|(name, _)| wanted(name)).map(|(name, b)| (*name, b.len() as u64)).collect())
    }

    fn delete(&self, name: ObjectName) -> Result<()> {
        self.change(name, |objects| {
            objects.remove(&name);
        })
    }

    fn lock(&self, _holder: &str, _wait: Duration) -> Result<Box<dyn WriterLock>> {
        if self.locked.swap(true, Ordering::SeqCst) {
            return Err(Error::Locked { holder: "a simulated process".into() });
        }
        Ok(Box::new(SimulatedLock(Arc::clone(&self.locked))))
    }
}

struct SimulatedLock(Arc<AtomicBool>);

impl WriterLock for SimulatedLock {}

impl Drop for SimulatedLock {
    fn drop(&mut self) {
        self.0.store(false, Ordering::SeqCst);
    }
}
