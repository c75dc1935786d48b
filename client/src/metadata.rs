//! Everything about a file but its name and content: how it is read from a file system and put back.

pub mod apply;

pub mod capture;
