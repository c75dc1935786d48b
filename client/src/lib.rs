//! Nightkeep's client. The modules stand in layers, lowest first; a module uses only those above it in this list.

pub mod monitor;

pub mod metadata;

pub mod backup;

pub mod restore;

pub mod dump;

pub mod error;

pub mod clock;

pub mod units;

pub mod names;

pub mod interrupts;

pub mod zodb;

pub mod dataset;

pub mod retention;

pub mod session_files;

pub mod servers;

pub mod settings;

pub mod history;

pub mod selection;

pub mod remote;

pub mod session;

pub mod postgres;

pub mod roundup;

pub mod jobs;

pub mod cli;
