//! A stream under a file's name: standard input, or the output of a command that is committed only if it succeeds, or of
//! a producer that is judged by its owner.

use super::cut::Cutter;
use super::read::Reading;
use super::{Producer, StreamSource, Verdict, pipeline};
use chunkstore::tree::Content;
use chunkstore::{Error, Result};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

/// Reads the source to its end; a failed command is an error.
pub fn read(source: &StreamSource, reading: &Reading<'_>) -> Result<Content> {
    match source {
        StreamSource::Stdin => cut(std::io::stdin().as_fd(), "standard input", reading, &mut |_| ()),
        StreamSource::Command(words) => {
            let name = program(words);
            let mut child = Running { child: start(words)?, leads: false };
            let output = child.child.stdout.take().ok_or_else(|| Error::invalid(&name, "its output is not open"))?;
            let content = cut(output.as_fd(), &name, reading, &mut |_| ())?;
            drop(output);
            let status = child.end(&name, reading)?;
            if status.success() { Ok(content) } else { Err(Error::invalid(format!("command {name}"), reason(status))) }
        }
    }
}

/// Of what a producer complains so many bytes are kept, the last ones.
const COMPLAINTS_BYTES_MAX: usize = 64 << 10;
/// Room between a writer and its reader: each waits less for the other.
const PIPE_BYTES: usize = 1 << 20;
/// So long a pipe is left alone to fill, so often in a row.
const NAP: Duration = Duration::from_micros(300);
const NAPS_MAX: usize = 10;

/// Reads a producer to its end and asks for its verdict.
pub fn produce(producer: &mut Producer<'_>, reading: &Reading<'_>) -> Result<(Content, Verdict)> {
    let name = producer.name.clone();
    let command = &mut producer.command;
    command.env_remove("NIGHTKEEP_PASSWORD").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.process_group(0).spawn().map_err(|error| Error::io("run", &name, error))?;
    let mut child = Running { child, leads: true };
    let not_open = || Error::invalid(&name, "its output is not open");
    let output = child.child.stdout.take().ok_or_else(not_open)?;
    let complaints = child.child.stderr.take().ok_or_else(not_open)?;
    std::thread::scope(|scope| {
        let listener = scope.spawn(move || last_bytes(complaints));
        let content = cut(output.as_fd(), &name, reading, producer.watch);
        drop(output);
        if content.is_err() {
            child.stop();
        }
        let status = child.end(&name, reading);
        if status.is_err() {
            child.stop();
        }
        let complaints = listener.join().unwrap_or_default();
        let content = content?;
        Ok((content, (producer.judge)(status?, &complaints)?))
    })
}

/// All that comes is read, so that nobody waits for room; the last part is kept.
fn last_bytes(mut source: impl Read) -> Vec<u8> {
    let mut kept = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        match source.read(&mut buffer) {
            Ok(0) => return kept,
            Ok(len) => kept.extend_from_slice(buffer.get(..len).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => (),
            Err(_) => return kept,
        }
        let over = kept.len().saturating_sub(COMPLAINTS_BYTES_MAX);
        kept.drain(..over);
    }
}

/// What may be told of a command: its program. Arguments may hold secrets.
pub fn program(words: &[OsString]) -> String {
    words.first().map(|word| word.to_string_lossy().into_owned()).unwrap_or_default()
}

/// An open file from its beginning to its end.
pub fn read_file(name: &str, file: &File, reading: &Reading<'_>) -> Result<Content> {
    let mut at = 0;
    cut_from(name, reading, &mut |room| {
        reading.chunks.halt.check().map_err(io::Error::other)?;
        let len = file.read_at(room, at)?;
        at += len as u64;
        reading.count_bytes(len as u64);
        Ok(len)
    })
}

/// A command that does not outlive its reader.
struct Running {
    child: Child,
    /// It leads a process group, whose others end with it.
    leads: bool,
}

impl Running {
    /// Waits for its end, which may come long after that of its output.
    fn end(&mut self, name: &str, reading: &Reading<'_>) -> Result<ExitStatus> {
        let mut nap = Duration::from_millis(1);
        loop {
            match self.child.try_wait() {
                Ok(Some(status)) => return Ok(status),
                Ok(None) => reading.chunks.halt.check()?,
                Err(error) => return Err(Error::io("wait for", name, error)),
            }
            std::thread::sleep(nap);
            nap = (nap * 2).min(Duration::from_millis(100));
        }
    }
}

impl Running {
    fn stop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            // It may end by itself in between; either way nobody reads it any more.
            if self.leads {
                let group = rustix::process::Pid::from_child(&self.child);
                let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
            }
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop();
    }
}

fn start(words: &[OsString]) -> Result<Child> {
    let Some((program, arguments)) = words.split_first() else {
        return Err(Error::invalid("command", "none is given"));
    };
    let mut command = Command::new(program);
    // What opens the repository is none of the producer's business.
    command.args(arguments).env_remove("NIGHTKEEP_PASSWORD").stdin(Stdio::null()).stdout(Stdio::piped());
    command.spawn().map_err(|error| Error::io("run", program.to_string_lossy(), error))
}

fn reason(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("it failed with exit status {code}; nothing was saved"),
        (None, Some(signal)) => format!("it was killed by signal {signal}; nothing was saved"),
        (None, None) => "it failed; nothing was saved".into(),
    }
}

/// What is short enough lies in its entry, the rest is cut into chunks.
fn cut(source: BorrowedFd<'_>, name: &str, reading: &Reading<'_>, watch: &mut dyn FnMut(&[u8])) -> Result<Content> {
    // A smaller pipe is as good, only slower; what is no pipe stays as it is.
    let _ = rustix::pipe::fcntl_setpipe_size(source, PIPE_BYTES);
    cut_from(name, reading, &mut |room| read_some(source, room, reading, watch))
}

/// `read` fills the front of a buffer and answers 0 at the end.
pub fn cut_from(
    name: &str,
    reading: &Reading<'_>,
    read: &mut dyn FnMut(&mut [u8]) -> io::Result<usize>,
) -> Result<Content> {
    let halt = reading.chunks.halt;
    let failed = |error| halt.check().err().unwrap_or_else(|| Error::io("read", name, error));
    let mut start = vec![0; usize::try_from(reading.inline_bytes_max).unwrap_or(0) + 1];
    let mut len = 0;
    while let Some(room) = start.get_mut(len..).filter(|room| !room.is_empty()) {
        let more = match read(room) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            more => more.map_err(failed)?,
        };
        match more {
            0 => {
                start.truncate(len);
                return Ok(Content::Inline(start));
            }
            more => len += more,
        }
    }
    pipeline::with_workers(reading.chunks, |storing| {
        let mut spare = Vec::new();
        let mut cutter = Cutter::new(reading.chunker, reading.chunks, storing, &mut spare);
        let mut start = start.as_slice();
        let outcome = cutter.data(u64::MAX, &mut |buffer| {
            if start.is_empty() { read(buffer) } else { start.read(buffer) }
        })?;
        outcome.map_err(failed)?;
        cutter.finish()
    })
}

/// Waits for bytes no longer than it takes to notice that it is time to stop.
fn read_some(
    source: BorrowedFd<'_>,
    buffer: &mut [u8],
    reading: &Reading<'_>,
    watch: &mut dyn FnMut(&[u8]),
) -> io::Result<usize> {
    let patience = Timespec { tv_sec: 0, tv_nsec: 200_000_000 };
    loop {
        reading.chunks.halt.check().map_err(io::Error::other)?;
        match rustix::event::poll(&mut [PollFd::from_borrowed_fd(source, PollFlags::IN)], Some(&patience)) {
            Ok(0) | Err(Errno::INTR) => continue,
            Ok(_) => gather(source, buffer.len()),
            Err(error) => return Err(error.into()),
        }
        match rustix::io::read(source, &mut *buffer) {
            Ok(len) => {
                reading.count_bytes(len as u64);
                watch(buffer.get(..len).unwrap_or_default());
                return Ok(len);
            }
            Err(Errno::INTR | Errno::AGAIN) => (),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Lets a pipe fill as long as it does, for three milliseconds at most. Who writes a few kilobytes at a time, as pg_dump does,
/// otherwise wakes its reader for each of them, which takes both of them longer than what is done with the bytes.
fn gather(source: BorrowedFd<'_>, wanted: usize) {
    let Ok(size) = rustix::pipe::fcntl_getpipe_size(source) else { return };
    // There must be room for what comes meanwhile.
    let enough = wanted.min(size / 4) as u64;
    let mut before = 0;
    for _ in 0..NAPS_MAX {
        match rustix::io::ioctl_fionread(source) {
            Ok(there) if there > before && there < enough => before = there,
            _ => return,
        }
        std::thread::sleep(NAP);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Seek, Write};

    #[test]
    fn nothing_is_lost_by_waiting_for_a_pipe_to_fill() {
        let (mut source, mut writer) = io::pipe().unwrap();
        writer.write_all(&[1; 100]).unwrap();
        gather(source.as_fd(), 100);
        gather(source.as_fd(), 1 << 20);
        drop(writer);
        gather(source.as_fd(), 1 << 20);
        let mut read = Vec::new();
        source.read_to_end(&mut read).unwrap();
        assert_eq!(read, [1; 100]);
        gather(source.as_fd(), 1 << 20);
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"no pipe").unwrap();
        file.rewind().unwrap();
        gather(file.as_fd(), 1 << 20);
    }
}
