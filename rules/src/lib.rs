//! What an administrator writes, as both programs understand it: times and sizes, tables of a configuration file with the
//! mistakes in them, retention. Pure but for the clock; knows no repository and no network. The modules stand in layers,
//! lowest first; a module uses only those above it in this list.

mod error;

pub mod clock;

pub mod units;

pub mod retention;

pub mod mistake;

pub mod table;

pub mod keep;

pub use error::{Malformed, Result};
