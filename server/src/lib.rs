//! Nightkeep's server: keeps repositories that it cannot read. The modules stand in layers, lowest first; a module uses
//! only those above it in this list.
//!
//! Asynchronous, with one file (`storage`) that crosses into blocking work.

pub mod error;

pub mod settings;

pub mod access;

pub mod registry;

pub mod storage;

pub mod peer;

pub mod hub;

pub mod session;

pub mod enrolment;

pub mod replica;

pub mod admin;

pub mod listener;

pub mod cli;
