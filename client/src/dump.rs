//! Content as a stream: one file as it is, a directory as a tar archive.
//!
//! A tar archive names the size of a file before its content. So a file that is small enough is read as a whole before
//! anything of it is written, and left out by name if it is damaged; damage in a larger one ends the archive with an error.
//! Nothing is ever filled up with zeros.

mod archive;

mod stream;

mod walk;

#[cfg(test)]
mod tests;

use crate::monitor::Monitor;
use crate::restore::Selection;
use chunkstore::reader::Reader;
use chunkstore::tree::Node;
use chunkstore::{Error, Result};
use std::io::Write;
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use stream::Stream;
use walk::Walk;

#[derive(Default, Debug)]
pub struct Outcome {
    /// Files and, in an archive, everything else that has a name.
    pub entries: u64,
    /// Bytes of content.
    pub content_bytes: u64,
    pub problems: u64,
    pub elapsed: Duration,
}

/// Writes a file's content, or a directory (or a whole snapshot) as a tar archive in pax format.
pub fn dump(
    reader: &Reader,
    selection: &Selection,
    out: &mut dyn Write,
    monitor: &dyn Monitor,
    interrupted: &AtomicBool,
) -> Result<Outcome> {
    let started = std::time::Instant::now();
    let mut outcome = Stream::run(reader, out, monitor, interrupted, |stream| match selection {
        Selection::Root(tree) => Walk::new(reader, stream).archive(*tree, None),
        Selection::Entry(entry) => match &entry.node {
            Node::Directory(tree) => Walk::new(reader, stream).archive(*tree, Some(&entry.attributes)),
            Node::File(content) => {
                stream.count_entry();
                stream.content(content, &entry.name)
            }
            _ => Err(Error::invalid(
                String::from_utf8_lossy(&entry.name),
                "it is neither a file nor a directory, so it has no content",
            )),
        },
    })?;
    outcome.elapsed = started.elapsed();
    Ok(outcome)
}
