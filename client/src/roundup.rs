//! Roundup trackers: home, database and files as one snapshot.
mod ini;
