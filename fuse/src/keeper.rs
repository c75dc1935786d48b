//! The thread beside the requests: looks for new snapshots, tells the kernel what it must forget, and makes it forget
//! the oldest when it remembers too much.

use crate::listing::Fresh;
use crate::notices::Notices;
use crate::skeleton::{Changes, Skeleton};
use crate::tree::Files;
use chunkstore::tree::Node;
use fuser::{INodeNo, Notifier};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};

const TICK: Duration = Duration::from_millis(200);
const LISTING: &[u8] = b"the list of snapshots";

/// Brings a newer listing, or nothing if it would be the same.
pub type Refresh = Box<dyn FnMut() -> chunkstore::Result<Option<Fresh>> + Send>;

pub struct Keeper {
    pub files: Arc<Files>,
    pub notices: Arc<Notices>,
    pub notifier: Notifier,
    pub refresh: Refresh,
    pub poll: Duration,
    /// Rows of inodes beyond which the kernel is asked to forget.
    pub rows_max: usize,
}

impl Keeper {
    /// Until the other end of `stop` is dropped.
    pub fn run(mut self, stop: &Receiver<()>) {
        let mut looked = Instant::now();
        while let Err(RecvTimeoutError::Timeout) = stop.recv_timeout(TICK) {
            if looked.elapsed() >= self.poll {
                self.look();
                looked = Instant::now();
            }
            self.thin_out(stop);
        }
    }

    fn look(&mut self) {
        let fresh = match (self.refresh)() {
            Ok(fresh) => fresh,
            Err(error) => return self.notices.tell(LISTING, &error.to_string()),
        };
        self.notices.forget(LISTING);
        let Some(fresh) = fresh else { return };
        if let Some(reader) = fresh.reader {
            self.files.replace_reader(reader);
        }
        let newer = Skeleton::new(&fresh.listing);
        let changes = self.files.skeleton().changes(&newer);
        self.files.replace_skeleton(newer);
        self.tell(&changes);
    }

    /// An error says that the kernel has forgotten by itself, or that the mount is gone.
    fn tell(&self, changes: &Changes) {
        for number in &changes.directories {
            let _ = self.notifier.inval_inode(INodeNo(*number), 0, 0);
        }
        for (parent, name) in &changes.names {
            let _ = self.notifier.inval_entry(INodeNo(*parent), OsStr::from_bytes(name));
        }
    }

    /// Drops names of files, oldest first; directories stay, since programs may stand in them.
    fn thin_out(&self, stop: &Receiver<()>) {
        let mut seen = 0usize;
        while self.files.table().len() > self.rows_max
            && seen < self.rows_max.max(self.files.table().len())
            && stop.is_empty()
        {
            let Some(place) = self.files.table().next_oldest() else { return };
            let Ok(leaf) = self.files.reader().leaf(place.link) else { continue };
            seen += leaf.entries().len() + 1;
            for entry in leaf.entries().iter().filter(|entry| !matches!(entry.node, Node::Directory(_))) {
                let _ = self.notifier.inval_entry(INodeNo(place.directory), OsStr::from_bytes(&entry.name));
            }
        }
    }
}
