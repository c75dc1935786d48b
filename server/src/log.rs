//! Where the log goes and how a line of it looks: one event a line, fields as `name=value`, nothing that would forge a line.

use crate::error::{Error, Result};
use crate::settings::{Log, LogTarget};
use std::fmt;
use std::io::{self, Write};
use std::os::unix::net::UnixDatagram;
use std::sync::Mutex;
use std::time::Duration;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

const SYSLOG: &str = "/dev/log";
/// Facility daemon.
const FACILITY: u8 = 3 << 3;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Style {
    /// With time and level as words.
    Terminal,
    /// With the level as systemd takes it from standard error; the journal has the time.
    Journal,
    Syslog {
        process: u32,
    },
}

/// `journal` is whether standard error goes there.
pub fn begin(log: Log, journal: bool) -> Result<()> {
    let builder = tracing_subscriber::fmt().with_max_level(log.level).with_ansi(false);
    match log.to {
        LogTarget::StandardError => {
            let style = if journal { Style::Journal } else { Style::Terminal };
            builder.event_format(Lines { style }).with_writer(io::stderr).init();
        }
        LogTarget::Syslog => {
            let failed = |error| Error::io("cannot write to", SYSLOG, error);
            let socket = UnixDatagram::unbound().map_err(failed)?;
            socket.connect(SYSLOG).map_err(failed)?;
            // A log daemon that hangs does not hang a backup.
            socket.set_write_timeout(Some(Duration::from_secs(1))).map_err(failed)?;
            let style = Style::Syslog { process: std::process::id() };
            builder.event_format(Lines { style }).with_writer(Mutex::new(Datagrams { socket })).init();
        }
    }
    Ok(())
}

struct Lines {
    style: Style,
}

fn severity(level: &Level) -> u8 {
    match *level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
    }
}

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let level = event.metadata().level();
        match self.style {
            Style::Terminal => {
                SystemTime.format_time(&mut writer)?;
                write!(writer, " {level:>5} ")?;
            }
            Style::Journal => write!(writer, "<{}>", severity(level))?,
            // As the C library's syslog() writes to the local daemon.
            Style::Syslog { process } => {
                let now = jiff::Zoned::now().strftime("%b %e %H:%M:%S").to_string();
                write!(writer, "<{}>{now} nightkeepd[{process}]: ", FACILITY | severity(level))?;
            }
        }
        let mut line = Line::default();
        event.record(&mut line);
        writeln!(writer, "{}", line.text())
    }
}

/// The message, then what belongs to it.
#[derive(Default)]
struct Line {
    message: String,
    fields: String,
}

impl Line {
    fn add(&mut self, field: &Field, value: &str) {
        let value = escaped(value);
        if field.name() == "message" {
            self.message = value;
        } else if value.is_empty() || value.contains([' ', '"', '=']) {
            self.fields.push_str(&format!(" {}=\"{}\"", field.name(), value.replace('"', "'")));
        } else {
            self.fields.push_str(&format!(" {}={value}", field.name()));
        }
    }

    fn text(&self) -> String {
        format!("{}{}", self.message, self.fields)
    }
}

impl Visit for Line {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add(field, &format!("{value:?}"));
    }
}

fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() { out.extend(c.escape_default()) } else { out.push(c) }
    }
    out
}

/// A datagram a line.
struct Datagrams {
    socket: UnixDatagram,
}

impl Write for Datagrams {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let text = line.strip_suffix(b"\n").unwrap_or(line);
        if self.socket.send(text).is_err() {
            // The daemon was restarted; what cannot be sent even then is lost.
            let _ = self.socket.connect(SYSLOG).and_then(|()| self.socket.send(text));
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, PoisonError};

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(style: Style) -> String {
        let kept = Kept::default();
        let writer = kept.clone();
        let subscriber =
            tracing_subscriber::fmt().event_format(Lines { style }).with_writer(move || writer.clone()).finish();
        tracing::subscriber::with_default(subscriber, || {
            tracing::warn!(client = "a b", name = "x\nERROR forged", count = 3, "denied");
        });
        let bytes = kept.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn one_event_is_one_line() {
        assert_eq!(logged(Style::Journal), "<4>denied client=\"a b\" name=\"x\\nERROR forged\" count=3\n");
        let line = logged(Style::Syslog { process: 7 });
        assert!(line.starts_with("<28>") && line.contains(" nightkeepd[7]: denied client="), "{line}");
        assert!(logged(Style::Terminal).contains("  WARN denied client="));
    }
}
