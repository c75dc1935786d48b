//! What every verb talks through: settings, standard output (buffered, shared with progress), warnings, signals.

use super::table::Table;
use crate::error::{Error, Result};
use crate::interrupts::Interrupts;
use crate::names;
use crate::settings::Settings;
use serde_json::{Map, Value, json};
use std::io::{BufWriter, IsTerminal, Stdout, Write};
use std::sync::{Arc, Mutex, PoisonError};

pub struct Console {
    pub settings: Settings,
    pub interrupts: Interrupts,
    pub output: Arc<Output>,
}

impl Console {
    pub fn new(settings: Settings, interrupts: Interrupts) -> Console {
        Console { settings, interrupts, output: Arc::new(Output::new()) }
    }

    pub fn json(&self) -> bool {
        self.settings.json
    }

    /// What was asked for: not silenced by `-q`.
    pub fn print(&self, line: &str) -> Result<()> {
        self.output.line(line)
    }

    /// What was done: silenced by `-q`; with `--json`, [`Console::outcome`] says it.
    pub fn say(&self, line: &str) -> Result<()> {
        if self.settings.quiet || self.settings.json { Ok(()) } else { self.print(line) }
    }

    /// A JSON line that was asked for.
    pub fn object(&self, value: &Value) -> Result<()> {
        self.output.line(&value.to_string())
    }

    /// A JSON line that tells what was done: only with `--json`, silenced by `-q`.
    pub fn outcome(&self, value: &Value) -> Result<()> {
        if self.settings.json && !self.settings.quiet { self.object(value) } else { Ok(()) }
    }

    pub fn table(&self, table: &Table) -> Result<()> {
        let lines = table.lines(self.output.is_coloured());
        lines.iter().try_for_each(|line| self.print(line))
    }

    /// Something to know that does not change the outcome. Silent when quiet, so that cron stays silent.
    pub fn warn(&self, message: &str) {
        if self.settings.quiet {
            return;
        }
        error_line(&if self.json() {
            json!({"message_type": "warning", "message": message}).to_string()
        } else {
            format!("warning: {}", names::printable(message))
        });
    }

    /// A problem with one item: it is never silenced.
    pub fn problem(&self, item: &[u8], reason: &str) {
        error_line(&problem_line(self.json(), item, reason));
    }

    pub fn flush(&self) -> Result<()> {
        self.output.flush()
    }
}

pub fn problem_line(json: bool, item: &[u8], reason: &str) -> String {
    if !json {
        return format!("error: {}: {}", names::shown(item), names::printable(reason));
    }
    let mut object = Map::new();
    object.insert("message_type".into(), "error".into());
    names::insert(&mut object, "item", item);
    object.insert("message".into(), reason.into());
    Value::Object(object).to_string()
}

/// Nobody can be told that standard error is gone.
pub fn error_line(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Standard output, buffered.
pub struct Output {
    writer: Mutex<BufWriter<Stdout>>,
    terminal: bool,
}

impl Output {
    fn new() -> Output {
        let stdout = std::io::stdout();
        let terminal = stdout.is_terminal();
        Output { writer: Mutex::new(BufWriter::with_capacity(64 << 10, stdout)), terminal }
    }

    pub fn is_terminal(&self) -> bool {
        self.terminal
    }

    pub fn is_coloured(&self) -> bool {
        let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        self.terminal && set("NO_COLOR").is_none() && set("TERM").is_none_or(|term| term != "dumb")
    }

    pub fn line(&self, line: &str) -> Result<()> {
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        writeln!(writer, "{line}").map_err(Error::Output)?;
        if self.terminal { writer.flush().map_err(Error::Output) } else { Ok(()) }
    }

    pub fn flush(&self) -> Result<()> {
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        writer.flush().map_err(Error::Output)
    }
}

/// Bytes as they are: for `dump`.
impl Write for &Output {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner).write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner).flush()
    }
}
