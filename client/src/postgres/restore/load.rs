//! Feeds a dump to the program that loads it, and tells how that went.

use super::log::{Log, Tolerance};
use crate::error::{Error, Result};
use crate::postgres::program::failure;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How the end is judged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Judge {
    /// The program ends with an error at the first thing that goes wrong.
    Strict,
    /// It goes on whatever happens; its log tells.
    Log(Tolerance),
}

/// Of what a program complains so many bytes are kept, the last ones.
const COMPLAINTS_BYTES_MAX: usize = 64 << 10;

/// Writes the dump into what it is given.
pub type Content<'a> = dyn FnMut(&mut dyn Write) -> Result<()> + 'a;

/// Runs the program to its end. Answers how many errors were expected ones.
pub fn run(
    mut command: Command,
    what: &str,
    judge: Judge,
    content: &mut Content<'_>,
    interrupted: &AtomicBool,
) -> Result<u64> {
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).process_group(0);
    let name = command.get_program().to_string_lossy().into_owned();
    let child = command.spawn().map_err(|error| Error::io("run", &name, error))?;
    let mut child = Running(child);
    let not_open = || Error::source(&name, "its input is not open");
    let input = child.0.stdin.take().ok_or_else(not_open)?;
    let complaints = child.0.stderr.take().ok_or_else(not_open)?;
    let (fed, status, heard) = std::thread::scope(|scope| {
        let listener = scope.spawn(move || listen(complaints, judge));
        let fed = feed(input, content, interrupted);
        // What broke off in between is not to be taken for the end.
        if fed.as_ref().is_err_and(|error| !is_broken_pipe(error)) {
            child.stop();
        }
        let status = child.end(interrupted);
        if status.is_err() {
            child.stop();
        }
        (fed, status, listener.join().unwrap_or_default())
    });
    let (last, log) = heard;
    if interrupted.load(Ordering::Relaxed) {
        return Err(chunkstore::Error::Interrupted.into());
    }
    // A program that ends too early knows best why.
    fed.or_else(|error| if is_broken_pipe(&error) { Ok(()) } else { Err(error) })?;
    let status = status.map_err(|error| Error::io("wait for", &name, error))?;
    if !status.success() {
        return Err(Error::source(what, failure(status, &last)));
    }
    match log {
        Some(log) => log.verdict().map_or(Ok(log.expected), |verdict| Err(Error::source(what, verdict))),
        None => Ok(0),
    }
}

fn is_broken_pipe(error: &Error) -> bool {
    match error {
        Error::Store(chunkstore::Error::Io { source, .. }) | Error::Io { source, .. } | Error::Output(source) => {
            source.kind() == io::ErrorKind::BrokenPipe
        }
        _ => false,
    }
}

fn feed(input: ChildStdin, content: &mut Content<'_>, interrupted: &AtomicBool) -> Result<()> {
    let failed = |error: Errno| Error::io("write to", "the program that loads", error.into());
    let flags = rustix::fs::fcntl_getfl(&input).map_err(failed)?;
    rustix::fs::fcntl_setfl(&input, flags | rustix::fs::OFlags::NONBLOCK).map_err(failed)?;
    content(&mut Patient { input, interrupted })
}

/// Writes as fast as it is read, and looks up meanwhile.
struct Patient<'a> {
    input: ChildStdin,
    interrupted: &'a AtomicBool,
}

impl Write for Patient<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let patience = Timespec { tv_sec: 0, tv_nsec: 200_000_000 };
        loop {
            if self.interrupted.load(Ordering::Relaxed) {
                return Err(io::Error::other("interrupted"));
            }
            match rustix::io::write(&self.input, bytes) {
                Ok(len) => return Ok(len),
                Err(Errno::INTR) => (),
                Err(Errno::AGAIN) => {
                    match rustix::event::poll(
                        &mut [PollFd::from_borrowed_fd(self.input.as_fd(), PollFlags::OUT)],
                        Some(&patience),
                    ) {
                        Ok(_) | Err(Errno::INTR) => (),
                        Err(error) => return Err(error.into()),
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn listen(mut source: impl Read, judge: Judge) -> (Vec<u8>, Option<Log>) {
    let mut log = match judge {
        Judge::Strict => None,
        Judge::Log(tolerance) => Some(Log::new(tolerance)),
    };
    let (mut last, mut buffer) = (Vec::new(), [0; 8192]);
    loop {
        match source.read(&mut buffer) {
            Ok(0) => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => (),
            Err(_) => break,
            Ok(len) => {
                let bytes = buffer.get(..len).unwrap_or_default();
                if let Some(log) = &mut log {
                    log.feed(bytes);
                }
                last.extend_from_slice(bytes);
                let over = last.len().saturating_sub(COMPLAINTS_BYTES_MAX);
                last.drain(..over);
            }
        }
    }
    if let Some(log) = &mut log {
        log.end();
    }
    (last, log)
}

/// A program, with all it started, that does not outlive us.
struct Running(Child);

impl Running {
    fn end(&mut self, interrupted: &AtomicBool) -> io::Result<ExitStatus> {
        let mut nap = Duration::from_millis(1);
        loop {
            if let Some(status) = self.0.try_wait()? {
                return Ok(status);
            }
            if interrupted.load(Ordering::Relaxed) {
                return Err(io::Error::other("interrupted"));
            }
            std::thread::sleep(nap);
            nap = (nap * 2).min(Duration::from_millis(100));
        }
    }

    fn stop(&mut self) {
        if matches!(self.0.try_wait(), Ok(None)) {
            let group = rustix::process::Pid::from_child(&self.0);
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
            let _ = self.0.wait();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    fn loaded(script: &str, judge: Judge) -> Result<u64> {
        let mut content = |out: &mut dyn Write| {
            (0..64).try_for_each(|_| out.write_all(&[b'x'; 65_536])).map_err(|error| Error::io("write", "it", error))
        };
        run(shell(script), "database x", judge, &mut content, &AtomicBool::new(false))
    }

    #[test]
    fn all_that_is_fed_arrives() {
        assert_eq!(loaded("test $(wc -c) = 4194304", Judge::Strict).unwrap(), 0);
    }

    #[test]
    fn a_program_that_gives_up_tells_why() {
        let error = loaded("head -c 10 >/dev/null; echo no room >&2; exit 1", Judge::Strict).unwrap_err();
        assert!(error.to_string().contains("database x: no room"), "{error}");
        let error = loaded("kill -9 $$", Judge::Strict).unwrap_err();
        assert!(error.to_string().contains("signal 9"), "{error}");
    }

    #[test]
    fn a_log_is_judged() {
        let bad = "cat >/dev/null; printf 'psql:<stdin>:3: ERROR:  23505: twice\\nSTATEMENT:  COPY x;\\n' >&2";
        assert!(loaded(bad, Judge::Log(Tolerance::Drops)).unwrap_err().to_string().contains("23505"));
        let good = "cat >/dev/null; printf 'psql:<stdin>:3: ERROR:  42P01: no\\nSTATEMENT:  DROP TABLE x;\\n' >&2";
        assert_eq!(loaded(good, Judge::Log(Tolerance::Drops)).unwrap(), 1);
    }

    #[test]
    fn content_that_breaks_off_is_the_failure_that_is_told() {
        let mut content = |out: &mut dyn Write| {
            out.write_all(b"half").map_err(|error| Error::io("write", "it", error))?;
            Err(chunkstore::Error::missing("a chunk").into())
        };
        let error =
            run(shell("cat >/dev/null"), "x", Judge::Strict, &mut content, &AtomicBool::new(false)).unwrap_err();
        assert!(matches!(error, Error::Store(chunkstore::Error::Missing { .. })), "{error}");
    }

    #[test]
    fn it_can_be_interrupted_while_the_program_is_busy() {
        let interrupted = AtomicBool::new(false);
        let mut content = |out: &mut dyn Write| {
            (0..64).try_for_each(|_| out.write_all(&[b'x'; 65_536])).map_err(|error| Error::io("write", "it", error))
        };
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(100));
                interrupted.store(true, Ordering::Relaxed);
            });
            assert!(run(shell("sleep 1000"), "x", Judge::Strict, &mut content, &interrupted).is_err());
        });
    }
}
