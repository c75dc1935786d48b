//! Objects as files of a local directory.
