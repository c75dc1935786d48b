//! The configuration file: from text to [`Settings`], with every mistake in one pass. A value that is wrong is left out, so
//! what was understood can be used by who only has to find the server.

mod read;

#[cfg(test)]
mod tests;

use crate::error::{Error, Result};
use crate::settings::Settings;
use rules::mistake::{Mistake, Mistakes, Severity};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// What `nightkeepd config example` prints.
pub const EXAMPLE: &str = include_str!("../../deploy/server.toml");
const EXAMPLE_COMMAND: &str = "nightkeepd config example";
const BYTES_MAX: u64 = 1 << 20;

/// A configuration file as it was read.
#[derive(Debug)]
pub struct Loaded {
    pub path: PathBuf,
    /// None if not even the data directory could be understood.
    pub settings: Option<Settings>,
    /// In the order of the file.
    pub mistakes: Vec<Mistake>,
}

impl Loaded {
    pub fn errors(&self) -> impl Iterator<Item = &Mistake> {
        self.mistakes.iter().filter(|mistake| mistake.is_error())
    }

    /// Refuses a file with errors.
    pub fn require(self) -> Result<Settings> {
        let more = self.errors().count().saturating_sub(1);
        let refused = |line: usize, mistake: String| Error::Configuration {
            place: self.path.display().to_string(),
            line,
            mistake,
            more,
        };
        if let Some(first) = self.errors().next() {
            return Err(refused(first.line, first.to_string()));
        }
        self.settings.ok_or_else(|| refused(0, "it says nothing".into()))
    }

    /// `FILE:LINE:COLUMN: error: PLACE: WHAT; REMEDY`
    pub fn line(&self, mistake: &Mistake) -> String {
        let severity = if mistake.is_error() { "error" } else { "warning" };
        let spot = if mistake.line == 0 { String::new() } else { format!("{}:{}:", mistake.line, mistake.column) };
        let line = format!("{}:{spot} {severity}: {mistake}", self.path.display());
        line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
    }
}

/// Fails only if the file cannot be read; whatever is wrong in it is a mistake.
pub fn load(path: &Path) -> Result<Loaded> {
    let place = path.display().to_string();
    let failed = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::NotFound => Error::NoConfiguration { place: place.clone() },
        _ => Error::io("cannot read", place.clone(), error),
    };
    let file = std::fs::File::open(path).map_err(failed)?;
    let mode = file.metadata().map_err(failed)?.mode();
    let mut bytes = Vec::new();
    file.take(BYTES_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
    let (settings, mistakes) = parse(&bytes, Some(mode));
    Ok(Loaded { path: path.to_owned(), settings, mistakes })
}

fn parse(bytes: &[u8], mode: Option<u32>) -> (Option<Settings>, Vec<Mistake>) {
    let whole = |what: String, remedy: &str| {
        let mistakes = Mistakes::new("", EXAMPLE_COMMAND);
        mistakes.file(Severity::Error, what, remedy);
        (None, mistakes.into_list())
    };
    if bytes.len() as u64 > BYTES_MAX {
        return whole("the file is larger than 1 MiB".into(), "this can hardly be a configuration");
    }
    match std::str::from_utf8(bytes) {
        Ok(text) => read::read(text.strip_prefix('\u{feff}').unwrap_or(text), mode),
        Err(error) => {
            let line = bytes.iter().take(error.valid_up_to()).filter(|byte| **byte == b'\n').count() + 1;
            whole(format!("line {line} is not UTF-8"), "save the file as UTF-8")
        }
    }
}
