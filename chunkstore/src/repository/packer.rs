//! Records on their way into packs, and packs on their way to the backend and into the index.

use crate::error::{Error, Result};
use crate::id::{BlobId, PackId, Tag};
use crate::index::adopt::{BATCH_ROWS, NewPack};
use crate::pack::PackBuilder;
use crate::record::Class;
use std::collections::{HashMap, HashSet};

/// What was accepted and is not in the index yet.
#[derive(Default)]
pub struct Packer {
    pub data: PackBuilder,
    pub nodes: PackBuilder,
    /// Data that waits to be stored, since it is full.
    full: Option<PackBuilder>,
    /// Memory of a pack that was stored, for one to come: new memory costs more than filling it.
    spare: Vec<u8>,
    /// Durable, in the order they were stored.
    unindexed: Vec<NewPack>,
    unindexed_rows: usize,
    /// While packs go into the index: what is numbered from here on may still be told from here.
    pub indexing_from: Option<i64>,
    /// Packs whose objects are about to be stored, or are, and that have no rows.
    pub on_their_way: HashSet<PackId>,
    pub by_tag: HashMap<Tag, BlobId>,
    /// What was accepted, and whether its pack is durable.
    pub ids: HashMap<BlobId, bool>,
    /// What nothing may be written any more for.
    pub poisoned: Option<Poison>,
    /// Nobody puts any more.
    pub is_closing: bool,
}

/// A full disk stays one for everybody: what helps is known.
pub enum Poison {
    Full(String),
    Other(String),
}

impl Packer {
    pub fn check(&self) -> Result<()> {
        match &self.poisoned {
            Some(Poison::Full(object)) => Err(Error::Full { object: object.clone() }),
            Some(Poison::Other(reason)) => Err(Error::Poisoned { reason: reason.clone() }),
            None => Ok(()),
        }
    }

    /// Nothing is taken any more; what failed is given back.
    pub fn poison(&mut self, failed: Error) -> Error {
        self.poisoned = Some(match &failed {
            Error::Full { object } => Poison::Full(object.clone()),
            other => Poison::Other(other.to_string()),
        });
        failed
    }

    pub fn close(&mut self) {
        self.is_closing = true;
        self.full = None;
    }

    pub fn builder(&mut self, class: Class) -> &mut PackBuilder {
        match class {
            Class::Data => &mut self.data,
            Class::Node => &mut self.nodes,
        }
    }

    /// Makes room for more data, unless some waits already. Nodes wait for nobody: they are few.
    pub fn set_aside(&mut self, class: Class) -> bool {
        let has_room = class == Class::Data && self.full.is_none();
        if has_room {
            let next = self.emptied();
            self.full = Some(std::mem::replace(&mut self.data, next));
        }
        has_room
    }

    pub fn has_set_aside(&self) -> bool {
        self.full.is_some()
    }

    fn emptied(&mut self) -> PackBuilder {
        PackBuilder::within(std::mem::take(&mut self.spare))
    }

    /// What is to be stored next. Nodes never go before the data they link to.
    pub fn take(&mut self, all: bool, target: usize) -> Result<Option<(Class, PackBuilder)>> {
        self.check()?;
        if let Some(full) = self.full.take() {
            return Ok(Some((Class::Data, full)));
        }
        let nodes_due = all || self.nodes.len() >= target;
        let data_due = nodes_due || self.data.len() >= target;
        let class = if data_due && !self.data.is_empty() {
            Class::Data
        } else if nodes_due && !self.nodes.is_empty() {
            Class::Node
        } else {
            return Ok(None);
        };
        // Who asks for all is done for now, maybe for long.
        let next = if all { PackBuilder::new() } else { self.emptied() };
        Ok(Some((class, std::mem::replace(self.builder(class), next))))
    }

    /// What [`Packer::take`] gave was stored, and its memory is free.
    pub fn give_back(&mut self, memory: Vec<u8>, all: bool) {
        self.spare = if all { Vec::new() } else { memory };
    }

    /// Durable packs that are to get rows now: enough of them, or with `all` what there is.
    pub fn take_unindexed(&mut self, all: bool) -> Vec<NewPack> {
        if all || self.unindexed_rows >= BATCH_ROWS {
            self.unindexed_rows = 0;
            std::mem::take(&mut self.unindexed)
        } else {
            Vec::new()
        }
    }

    pub fn push_unindexed(&mut self, pack: NewPack) {
        self.unindexed_rows += pack.trailer.entries.len();
        self.ids.extend(pack.trailer.entries.iter().map(|entry| (entry.id, true)));
        self.unindexed.push(pack);
    }

    /// Number and bytes of packs without rows, those being filled among them.
    pub fn pending(&self) -> (u64, u64) {
        let open = [Some(&self.data), Some(&self.nodes), self.full.as_ref()].into_iter().flatten();
        let open = open.filter(|builder| !builder.is_empty());
        let lengths = self.unindexed.iter().map(|pack| pack.length).chain(open.map(|builder| builder.len() as u64));
        lengths.fold((0, 0), |(packs, bytes), length| (packs + 1, bytes + length))
    }

    /// These are in the index now.
    pub fn settle(&mut self, packs: &[NewPack]) {
        self.indexing_from = None;
        for pack in packs {
            self.on_their_way.remove(&pack.id);
        }
        for entry in packs.iter().flat_map(|pack| &pack.trailer.entries) {
            self.ids.remove(&entry.id);
            self.by_tag.remove(&entry.tag);
        }
    }
}
