//! A mount in the background: the program runs itself again, waits until that says that it is ready, and goes.
//!
//! The child says so on its standard output, which is a pipe until then. Before, it talks to the terminal as the foreground
//! does (and asks for the passphrase); after, it has none.

use super::super::Exit;
use super::super::console::{error_line, problem_line};
use crate::error::{Error, Result};
use crate::names;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

const CHILD: &str = "NIGHTKEEP_MOUNT_CHILD";
const READY: &str = "ready";
const SYSTEM_LOG: &str = "/dev/log";
/// Facility daemon, severity error.
const PRIORITY: u8 = 3 << 3 | 3;

/// Runs the program again with the same arguments; `ready` tells that it is mounted.
pub fn start(ready: &dyn Fn() -> Result<()>) -> Result<Exit> {
    let failed = |source| Error::io("cannot start", "the mount in the background", source);
    let mut child = Command::new(std::env::current_exe().map_err(failed)?)
        .args(std::env::args_os().skip(1))
        .env(CHILD, "1")
        .stdout(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let output = child.stdout.take().map(BufReader::new);
    let said = output.and_then(|output| output.lines().next()).transpose().map_err(failed)?;
    if said.as_deref() == Some(READY) {
        ready()?;
        return Ok(Exit::Done);
    }
    // It has said why.
    let status = child.wait().map_err(failed)?;
    Ok(Exit::Ended(status.code().and_then(|code| u8::try_from(code).ok()).filter(|code| *code != 0).unwrap_or(1)))
}

/// The process that [`start`] started.
pub struct Child;

impl Child {
    pub fn is_this() -> bool {
        std::env::var_os(CHILD).is_some()
    }

    /// Tells the parent that it may go, and leaves the terminal and, if nothing is named relative to it, the directory.
    pub fn let_go(log: &Log, leave_directory: bool) -> Result<()> {
        let failed = |source: std::io::Error| Error::io("cannot go", "into the background", source);
        log.leave_terminal();
        rustix::process::setsid().map_err(|errno| failed(errno.into()))?;
        if leave_directory {
            std::env::set_current_dir("/").map_err(failed)?;
        }
        let nothing = OpenOptions::new().read(true).write(true).open("/dev/null").map_err(failed)?;
        let mut output = std::io::stdout();
        writeln!(output, "{READY}").and_then(|()| output.flush()).map_err(failed)?;
        for moved in [
            rustix::stdio::dup2_stdin(&nothing),
            rustix::stdio::dup2_stdout(&nothing),
            rustix::stdio::dup2_stderr(&nothing),
        ] {
            moved.map_err(|errno| failed(errno.into()))?;
        }
        Ok(())
    }
}

/// Where problems are told that come up while it is mounted.
pub struct Log {
    target: Mutex<Target>,
}

enum Target {
    StandardError,
    File(File),
    System,
}

impl Log {
    pub fn open(file: Option<&Path>) -> Result<Arc<Log>> {
        let target = match file {
            None => Target::StandardError,
            Some(path) => {
                let failed = |source| Error::io("cannot open", path.display().to_string(), source);
                Target::File(OpenOptions::new().append(true).create(true).open(path).map_err(failed)?)
            }
        };
        Ok(Arc::new(Log { target: Mutex::new(target) }))
    }

    fn leave_terminal(&self) {
        let mut target = self.target.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(*target, Target::StandardError) {
            *target = Target::System;
        }
    }

    /// There is nobody to tell that a log cannot be written.
    pub fn problem(&self, json: bool, item: &[u8], reason: &str) {
        match &mut *self.target.lock().unwrap_or_else(PoisonError::into_inner) {
            Target::StandardError => error_line(&problem_line(json, item, reason)),
            Target::File(file) => {
                let _ = writeln!(file, "{}", problem_line(json, item, reason));
            }
            Target::System => {
                let what = format!("{}: {}", names::shown(item), names::printable(reason));
                let line = format!("<{PRIORITY}>nightkeep[{}]: {what}", std::process::id());
                let _ = UnixDatagram::unbound().and_then(|socket| socket.send_to(line.as_bytes(), SYSTEM_LOG));
            }
        }
    }
}
