//! Attributes of an entry onto a file.
