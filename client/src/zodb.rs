//! ZODB: a FileStorage and its blobs, saved exactly while they are in use, and brought back as of any transaction.
//!
//! `docs/zodb.md` says what is read, what is proved, and what a restore does. Knows nothing of the command line.

pub mod transaction;

mod pickle;

mod scan;

mod storage;

mod blobs;

mod site;

mod lock;

mod index;

mod known;

mod save;

mod swap;

pub mod restore;

pub use save::{Coverage, Saved, save};
pub use site::{Site, Where};

#[cfg(test)]
mod testing;

#[cfg(test)]
mod tests;
