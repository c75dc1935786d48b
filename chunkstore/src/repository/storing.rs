//! Packs on their way to the backend and into the index, in the order they were taken: by whoever needs them durable, or by a thread
//! beside those who put, so that one pack becomes durable while the next is filled.

use super::lock;
use super::packer::Packer;
use crate::backend::{Backend, ObjectName, WriterLock};
use crate::configuration::Configuration;
use crate::error::Result;
use crate::index::Index;
use crate::index::adopt::NewPack;
use crate::pack::PackBuilder;
use crate::record::Class;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;

/// What a repository has that was opened for writing.
pub struct Writing {
    pub packer: Mutex<Packer>,
    backend: Arc<dyn Backend>,
    index: Arc<Index>,
    configuration: Configuration,
    time: Arc<AtomicI64>,
    storing: Mutex<()>,
    /// A full pack was set aside, or none will be any more.
    set_aside: Condvar,
    _lock: Box<dyn WriterLock>,
}

impl Writing {
    pub fn new(
        backend: Arc<dyn Backend>,
        index: Arc<Index>,
        configuration: Configuration,
        time: Arc<AtomicI64>,
        writer_lock: Box<dyn WriterLock>,
    ) -> Writing {
        let (packer, storing, set_aside) = (Mutex::default(), Mutex::default(), Condvar::new());
        Writing { packer, backend, index, configuration, time, storing, set_aside, _lock: writer_lock }
    }

    /// Stores what is full (or, with `all`, what there is): data first, one pack at a time; then its rows, many packs at a time.
    pub fn store_packs(&self, all: bool) -> Result<()> {
        let _order = lock(&self.storing);
        loop {
            let taken = lock(&self.packer).take(all, self.configuration.pack_bytes_target as usize)?;
            let Some((class, builder)) = taken else { break };
            let stored = self.store_pack(class, builder);
            let mut packer = lock(&self.packer);
            match stored {
                Ok((pack, memory)) => {
                    packer.push_unindexed(pack);
                    packer.give_back(memory, all);
                }
                // The session's records are lost from memory too: nothing that follows could be complete.
                Err(e) => return Err(packer.poison(e)),
            }
        }
        let packs = {
            let mut packer = lock(&self.packer);
            let packs = packer.take_unindexed(all);
            if packs.is_empty() {
                return Ok(());
            }
            packer.indexing_from = Some(self.index.next_number());
            packs
        };
        let indexed = self.index.add_packs(&packs, self.time.load(Ordering::Relaxed));
        let mut packer = lock(&self.packer);
        match indexed {
            Ok(()) => packer.settle(&packs),
            Err(e) => return Err(packer.poison(e)),
        }
        Ok(())
    }

    fn store_pack(&self, class: Class, builder: PackBuilder) -> Result<(NewPack, Vec<u8>)> {
        let is_read_soon = builder.is_read_soon;
        let (id, bytes, trailer) = builder.finish(class, &self.configuration.repository)?;
        lock(&self.packer).on_their_way.insert(id);
        self.backend.put(ObjectName::Pack(id), &bytes)?;
        if !is_read_soon {
            self.backend.uncache(ObjectName::Pack(id));
        }
        Ok((NewPack { id, length: bytes.len() as u64, trailer }, bytes))
    }

    /// Until the repository is closed, or storing fails, which whoever puts next is told.
    fn store_beside(&self) {
        loop {
            let mut packer = lock(&self.packer);
            while !packer.has_set_aside() {
                if packer.is_closing {
                    return;
                }
                packer = self.set_aside.wait(packer).unwrap_or_else(PoisonError::into_inner);
            }
            drop(packer);
            if self.store_packs(false).is_err() {
                return;
            }
        }
    }
}

/// The thread, which is there once a pack was full.
#[derive(Default)]
pub struct Storer(OnceLock<Option<JoinHandle<()>>>);

impl Storer {
    /// A pack was set aside. If there can be no thread, it waits for whoever sets the next one aside.
    pub fn wake(&self, writing: &Arc<Writing>) {
        self.0.get_or_init(|| {
            let writing = Arc::clone(writing);
            std::thread::Builder::new().name("packs".into()).spawn(move || writing.store_beside()).ok()
        });
        writing.set_aside.notify_one();
    }

    /// What was set aside and not begun is left, like all else that nobody flushed.
    pub fn end(&mut self, writing: &Writing) {
        lock(&writing.packer).close();
        writing.set_aside.notify_one();
        if let Some(thread) = self.0.take().flatten() {
            // If it panicked, the packs it did not store were acknowledged to nobody.
            let _ = thread.join();
        }
    }
}
