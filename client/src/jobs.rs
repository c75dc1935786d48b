//! Unattended runs: what the configuration file says, carried out job by job, and what became of it.
//!
//! Nothing here prints: a run tells its events to whoever started it, and writes its log files and state.

pub mod config;

pub mod verdict;

pub mod event;

pub mod words;

pub mod lock;

pub mod journal;

mod hook;

pub mod state;

mod referenced;

mod source;

mod watch;

mod retain;

mod copies;

mod repository;

pub mod run;

pub use rules::mistake::{Mistake, Severity};

pub mod status;

pub mod show;
