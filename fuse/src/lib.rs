//! Snapshots as a read-only file system. Knows a reader of content and a list of snapshots, nothing of how they are
//! reached.
//!
//! The modules stand in layers, lowest first; a module uses only those above it in this list.

pub mod error;

pub mod listing;

mod number;

mod skeleton;

mod table;

mod attributes;

mod notices;

mod ahead;

mod tree;

mod filesystem;

mod keeper;

pub mod patience;

pub mod mount;

#[cfg(test)]
mod tests;

pub use error::{Error, Result};
