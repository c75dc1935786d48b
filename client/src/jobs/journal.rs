//! Where a run is told of: the log file, the error file, syslog (or the journal behind it), and whoever listens.
//!
//! Both files are of one run: the log is begun anew with it, the error file is made with the first error and removed by a
//! run that had none. Lines are written one by one, so that a run that was killed leaves its last word.

use super::config::{Language, Reports};
use super::event::Event;
use super::words;
use crate::clock;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use syslog::{Facility, LogFormat, Logger, LoggerBackend, Severity};

/// A hung log daemon must not hang a backup.
const SYSLOG_PATIENCE: Duration = Duration::from_millis(500);
const SYSLOG_SOCKETS: [&str; 2] = ["/dev/log", "/var/run/syslog"];

pub struct Journal<'a> {
    listener: &'a (dyn Fn(&Event) + Sync),
    language: Language,
    written: Mutex<Written>,
}

struct Written {
    log: Option<File>,
    errors: Option<ErrorFile>,
    syslog: Option<Logger<LoggerBackend, Format>>,
    /// The first thing that went wrong with any of them.
    trouble: Option<String>,
}

struct ErrorFile {
    path: PathBuf,
    keep_empty: bool,
    /// Once there was an error.
    file: Option<File>,
    had_errors: bool,
}

impl<'a> Journal<'a> {
    /// What cannot be opened is told at the end of the run: that it cannot be written of is no reason not to back up.
    pub fn open(reports: &Reports, listener: &'a (dyn Fn(&Event) + Sync)) -> Journal<'a> {
        let mut trouble = None;
        let log = reports.log.as_ref().and_then(|path| match create(path) {
            Ok(file) => Some(file),
            Err(error) => {
                trouble = Some(format!("cannot write the log {}: {error}", path.display()));
                None
            }
        });
        let syslog = reports.syslog.and_then(|facility| match connect(facility, reports.syslog_socket.as_deref()) {
            Ok(logger) => Some(logger),
            Err(error) => {
                trouble.get_or_insert(format!("cannot reach syslog: {error}"));
                None
            }
        });
        let errors = reports.error_log.clone().map(|path| ErrorFile {
            path,
            keep_empty: reports.keep_empty_error_log,
            file: None,
            had_errors: false,
        });
        let written = Mutex::new(Written { log, errors, syslog, trouble });
        Journal { listener, language: reports.language, written }
    }

    pub fn tell(&self, event: &Event) {
        let line = words::line(event, self.language);
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        if event.is_error() {
            written.error(&line);
        }
        if matches!(event, Event::RunEnds { .. }) {
            written.settle(self.language);
        }
        written.log(&line);
        written.syslog(event, &line);
        drop(written);
        (self.listener)(event);
    }

    /// The first thing that went wrong with log, error file or syslog.
    pub fn trouble(&self) -> Option<String> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner).trouble.clone()
    }
}

impl Written {
    fn log(&mut self, line: &str) {
        let Some(log) = &mut self.log else { return };
        if let Err(error) = log.write_all(stamped(line).as_bytes()) {
            self.trouble.get_or_insert(format!("cannot write the log: {error}"));
            self.log = None;
        }
    }

    fn error(&mut self, line: &str) {
        let Some(errors) = &mut self.errors else { return };
        errors.had_errors = true;
        if let Err(error) = errors.write(line) {
            self.trouble.get_or_insert(format!("cannot write the error file {}: {error}", errors.path.display()));
        }
    }

    fn syslog(&mut self, event: &Event, line: &str) {
        let Some(logger) = &mut self.syslog else { return };
        let told = match event {
            Event::Problem { .. } | Event::Failed { .. } => logger.err(line),
            Event::Waits { .. } => logger.warning(line),
            Event::RunBegins { .. } | Event::RunEnds { .. } | Event::JobEnds { .. } => logger.notice(line),
            _ => logger.info(line),
        };
        if let Err(error) = told {
            self.trouble.get_or_insert(format!("cannot write to syslog: {error}"));
            self.syslog = None;
        }
    }

    /// The run is over: what the error file says must be of this run.
    fn settle(&mut self, language: Language) {
        let Some(errors) = &self.errors else { return };
        let name = errors.path.display().to_string();
        if errors.had_errors {
            return self.log(&words::consult(language, &name));
        }
        let settled = if errors.keep_empty { create(&errors.path).map(|_| false) } else { remove(&errors.path) };
        match settled {
            Ok(true) => self.log(&words::removed(language, &name)),
            Ok(false) => {}
            Err(error) => {
                self.trouble.get_or_insert(format!("cannot remove the error file {name}: {error}"));
            }
        }
    }
}

impl ErrorFile {
    fn write(&mut self, line: &str) -> std::io::Result<()> {
        if self.file.is_none() {
            self.file = Some(create(&self.path)?);
        }
        match &mut self.file {
            Some(file) => file.write_all(stamped(line).as_bytes()),
            None => Ok(()),
        }
    }
}

/// One more line for an error file of which another run may be in charge.
pub fn append_error(path: &Path, line: &str) -> std::io::Result<()> {
    let mut file = OpenOptions::new().append(true).create(true).mode(0o640).open(path)?;
    file.write_all(stamped(&words::one_line(line)).as_bytes())
}

/// An error file for a run that failed before it began.
pub fn replace_error(path: &Path, line: &str) -> std::io::Result<()> {
    create(path)?.write_all(stamped(&words::one_line(line)).as_bytes())
}

fn stamped(line: &str) -> String {
    format!("{} {line}\n", clock::local(clock::now(), &clock::zone()))
}

fn create(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(true).mode(0o640).open(path)
}

/// Whether there was one.
fn remove(path: &Path) -> std::io::Result<bool> {
    match std::fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

fn connect(facility: Facility, socket: Option<&Path>) -> std::io::Result<Logger<LoggerBackend, Format>> {
    let datagram = UnixDatagram::unbound()?;
    datagram.set_write_timeout(Some(SYSLOG_PATIENCE))?;
    match socket {
        Some(socket) => datagram.connect(socket)?,
        None => {
            let connected = SYSLOG_SOCKETS.iter().map(|socket| datagram.connect(socket));
            let absent = || Err(std::io::Error::new(ErrorKind::NotFound, "there is no /dev/log"));
            connected.reduce(Result::or).unwrap_or_else(absent)?;
        }
    }
    Ok(Logger::new(LoggerBackend::Unix(datagram), Format { facility }))
}

/// As the C library's `syslog()` writes it to the local socket: local time, no host. The crate's own formats are in UTC or
/// name a host, which local daemons take for part of the text.
struct Format {
    facility: Facility,
}

impl LogFormat<&str> for Format {
    fn format<W: Write>(&self, w: &mut W, severity: Severity, message: &str) -> syslog::Result<()> {
        let priority = self.facility as u8 | severity as u8;
        let time = clock::zoned(clock::now(), &clock::zone()).strftime("%b %e %H:%M:%S").to_string();
        let process = std::process::id();
        write!(w, "<{priority}>{time} nightkeep[{process}]: {message}").map_err(syslog::Error::Write)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jobs::verdict::Ending;

    fn failed() -> Event {
        Event::Failed { job: Some("web".into()), what: "files".into(), cause: "no disk".into(), hint: None }
    }

    fn end(ending: Ending) -> Event {
        Event::RunEnds { run: "1".into(), ending, jobs: 1, jobs_done: 1, elapsed: Duration::ZERO }
    }

    fn read(path: &Path) -> String {
        std::fs::read_to_string(path).unwrap()
    }

    #[test]
    fn the_error_file_is_there_only_after_errors() {
        let dir = tempfile::tempdir().unwrap();
        let (log, errors) = (dir.path().join("log"), dir.path().join("errors"));
        let reports = Reports { log: Some(log.clone()), error_log: Some(errors.clone()), ..Reports::default() };
        let silent = |_: &Event| {};
        std::fs::write(&errors, "an older error\n").unwrap();
        let journal = Journal::open(&reports, &silent);
        journal.tell(&failed());
        assert!(read(&errors).ends_with("web: error: files: no disk\n") && !read(&errors).contains("older"));
        journal.tell(&failed());
        journal.tell(&end(Ending::INCOMPLETE));
        assert_eq!(read(&errors).lines().count(), 2);
        assert!(read(&log).contains(&format!("there were errors: see {}", errors.display())));
        assert!(journal.trouble().is_none());

        let journal = Journal::open(&reports, &silent);
        assert!(errors.exists(), "until it is known how this run ends");
        journal.tell(&end(Ending::DONE));
        assert!(!errors.exists());
        assert!(read(&log).lines().count() == 2 && read(&log).contains("was removed"), "{}", read(&log));

        let keeping = Reports { keep_empty_error_log: true, ..reports };
        Journal::open(&keeping, &silent).tell(&end(Ending::DONE));
        assert_eq!(read(&errors), "");
    }

    #[test]
    fn what_cannot_be_written_is_told_once_and_stops_nothing() {
        let reports = Reports {
            log: Some("/no/such/log".into()),
            error_log: Some("/no/such/errors".into()),
            syslog: Some(Facility::LOG_DAEMON),
            syslog_socket: Some("/no/such/socket".into()),
            ..Reports::default()
        };
        let count = std::sync::atomic::AtomicU64::new(0);
        let listener = |_: &Event| {
            count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        };
        let journal = Journal::open(&reports, &listener);
        journal.tell(&failed());
        journal.tell(&end(Ending::DONE));
        assert_eq!(count.load(std::sync::atomic::Ordering::Relaxed), 2);
        assert!(journal.trouble().unwrap().contains("/no/such/log"));
        let full = Reports { log: Some("/dev/full".into()), ..Reports::default() };
        let journal = Journal::open(&full, &listener);
        journal.tell(&failed());
        assert!(journal.trouble().unwrap().contains("cannot write the log"));
    }

    #[test]
    fn syslog_gets_lines_with_priorities() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("log");
        let daemon = UnixDatagram::bind(&socket).unwrap();
        let reports = Reports { syslog: Some(Facility::LOG_LOCAL3), syslog_socket: Some(socket), ..Reports::default() };
        let journal = Journal::open(&reports, &|_| {});
        journal.tell(&failed());
        journal.tell(&end(Ending::DONE));
        assert!(journal.trouble().is_none());
        let mut buffer = [0; 1000];
        let mut next = || {
            let len = daemon.recv(&mut buffer).unwrap();
            String::from_utf8(buffer[..len].to_vec()).unwrap()
        };
        // local3 is 19; errors are 3, notices 5.
        let line = next();
        let tag = format!("nightkeep[{}]: web: error: files: no disk", std::process::id());
        assert!(line.starts_with("<155>") && line.ends_with(&tag), "{line}");
        assert!(next().starts_with("<157>"));
    }

    #[test]
    fn a_hung_daemon_hangs_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("log");
        let _daemon = UnixDatagram::bind(&socket).unwrap();
        let reports = Reports { syslog: Some(Facility::LOG_DAEMON), syslog_socket: Some(socket), ..Reports::default() };
        let journal = Journal::open(&reports, &|_| {});
        for _ in 0..2000 {
            journal.tell(&failed());
        }
        assert!(journal.trouble().unwrap().contains("syslog"));
    }
}
