//! Nightkeep's server: keeps repositories that it cannot read. The modules stand in layers, lowest first; a module uses
//! only those above it in this list.
//!
//! Asynchronous, with one file (`storage`) that crosses into blocking work.

pub mod error;

pub mod settings;

pub mod access;

pub mod notify;

mod log;

pub mod registry;

pub mod config;

pub mod ledger;

pub mod holdings;

pub mod retention;

pub mod storage;

pub mod peer;

pub mod hub;

pub mod quota;

pub mod session;

pub mod enrolment;

pub mod maintenance;

mod lag;

pub mod status;

pub mod metrics;

pub mod reload;

pub mod replica;

pub mod admin;

pub mod listener;

pub mod cli;
