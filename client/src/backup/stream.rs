//! A stream under a file's name: standard input, or the output of a command that is committed only if it succeeds.

use super::cut::Cutter;
use super::halt::Halt;
use super::{StreamSource, pipeline};
use super::chunks::Chunks;
use crate::monitor::Counters;
use chunkstore::chunker::Chunker;
use chunkstore::tree::Content;
use chunkstore::{Error, Result};
use std::ffi::OsString;
use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};

/// Reads the source to its end; a failed command is an error.
pub fn read(
    source: &StreamSource,
    chunker: &Chunker,
    chunks: &Chunks<'_>,
    inline_bytes_max: u64,
    counters: &Counters,
) -> Result<Content> {
    match source {
        StreamSource::Stdin => {
            cut(&mut std::io::stdin().lock(), "standard input", chunker, chunks, inline_bytes_max, counters)
        }
        StreamSource::Command(words) => {
            let name = program(words);
            let mut child = Running(start(words)?);
            let mut output = child.0.stdout.take().ok_or_else(|| Error::invalid(&name, "its output is not open"))?;
            let content = cut(&mut output, &name, chunker, chunks, inline_bytes_max, counters)?;
            drop(output);
            let status = child.0.wait().map_err(|error| Error::io("wait for", &name, error))?;
            if status.success() { Ok(content) } else { Err(Error::invalid(format!("command {name}"), reason(status))) }
        }
    }
}

/// What may be told of a command: its program. Arguments may hold secrets.
pub fn program(words: &[OsString]) -> String {
    words.first().map(|word| word.to_string_lossy().into_owned()).unwrap_or_default()
}

/// A command that does not outlive its reader.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.0.try_wait(), Ok(None)) {
            // It may end by itself in between; either way nobody reads it any more.
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
}

fn start(words: &[OsString]) -> Result<Child> {
    let Some((program, arguments)) = words.split_first() else {
        return Err(Error::invalid("command", "none is given"));
    };
    let child = Command::new(program).args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
    child.map_err(|error| Error::io("run", program.to_string_lossy(), error))
}

fn reason(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("it failed with exit status {code}; nothing was saved"),
        (None, Some(signal)) => format!("it was killed by signal {signal}; nothing was saved"),
        (None, None) => "it failed; nothing was saved".into(),
    }
}

fn cut(
    source: &mut dyn Read,
    name: &str,
    chunker: &Chunker,
    chunks: &Chunks<'_>,
    inline_bytes_max: u64,
    counters: &Counters,
) -> Result<Content> {
    let halt: &Halt<'_> = chunks.halt;
    // What is short enough lies in its entry.
    let mut start = Vec::new();
    let mut head = std::io::Read::take(&mut *source, inline_bytes_max + 1);
    head.read_to_end(&mut start).map_err(|error| Error::io("read", name, error))?;
    counters.bytes_done.fetch_add(start.len() as u64, Ordering::Relaxed);
    if start.len() as u64 <= inline_bytes_max {
        return Ok(Content::Inline(start));
    }
    let left = AtomicU64::new(0);
    pipeline::with_workers(chunks, |storing| {
        let mut cutter = Cutter::new(chunker, chunks, storing);
        let mut start = start.as_slice();
        let read = cutter.data(u64::MAX, &mut |buffer| {
            if halt.check().is_err() {
                return Err(std::io::Error::other("interrupted"));
            }
            if !start.is_empty() {
                return start.read(buffer);
            }
            let len = source.read(buffer)?;
            left.fetch_add(len as u64, Ordering::Relaxed);
            counters.bytes_done.fetch_add(len as u64, Ordering::Relaxed);
            Ok(len)
        })?;
        halt.check()?;
        read.map_err(|error| Error::io("read", name, error))?;
        cutter.finish()
    })
}
