//! Everything of Nightkeep that travels (`docs/protocol.md`): messages with a limit on every length, push and fetch as
//! state machines without I/O and without a clock, identities, and one file that names quinn.
//!
//! The modules stand in layers, lowest first; a module uses only those above it in this list.

mod refusal;

pub mod error;

pub mod message;

pub mod identity;

pub mod token;

pub mod push;

pub mod fetch;

pub mod replication;

mod congestion;

pub mod tls;

pub mod connection;

pub use error::{Error, Result};
