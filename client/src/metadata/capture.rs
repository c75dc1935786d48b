//! Attributes from a file system into an entry.
