//! Nightkeep's client. The modules stand in layers, lowest first; a module uses only those above it in this list.

pub mod monitor;

pub mod metadata;

pub mod backup;

pub mod restore;

pub mod dump;
