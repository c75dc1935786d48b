//! Every byte of Nightkeep that lasts. Synchronous; no network, no configuration file, no terminal.
//!
//! The modules stand in layers, lowest first; a module uses only those above it in this list.

pub mod error;

pub mod id;

pub mod coding;

pub mod configuration;

pub mod backend;

pub mod record;

mod cipher;

pub mod key;

pub mod chunker;

pub mod capsule;

pub mod pack;

pub mod index;

pub mod codec;

pub mod similar;

pub mod list;

pub mod tree;

pub mod snapshot;

pub mod mark;

pub mod store;

pub mod recover;

pub mod repository;

pub mod gc;

pub mod writer;

pub mod reader;

pub mod check;

pub use error::{Error, Result};
