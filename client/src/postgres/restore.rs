//! Back into a server: looked at first, loaded under a temporary name, renamed when it is whole. Killed at any moment, the
//! old database is there under its own name or under the one that was told before.

mod log;

mod load;

mod preflight;

mod properties;

mod swap;

pub use load::Content;
pub use preflight::{Finding, Standing};

use super::catalogue::Server;
use super::facts::{Format, Saved};
use super::program::{Connection, Version};
use super::query::Psql;
use super::quote::{conninfo, identifier, literal};
use crate::error::{Error, Result};
use crate::names;
use jiff::Zoned;
use load::Judge;
use log::Tolerance;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::AtomicBool;

/// How names of databases begin that are being loaded.
pub const TEMPORARY: &str = "nightkeep_restore_";

/// A name has no more bytes; longer ones would be cut by the server.
const NAME_BYTES_MAX: usize = 63;

pub struct Options {
    pub connection: Connection,
    /// Another name than it had.
    pub dbname: Option<Vec<u8>>,
    /// A database of that name is renamed aside.
    pub replace: bool,
    /// Owners and rights are restored.
    pub owners: bool,
    /// Restore although the server is in another time zone.
    pub force_timezone: bool,
}

/// The name that the database is to have.
pub struct Target {
    pub name: Vec<u8>,
    pub exists: bool,
}

/// A restore that was looked at and touched nothing yet.
pub struct Plan<'a> {
    psql: Psql<'a>,
    server: Server,
    saved: Saved,
    options: &'a Options,
    program: PathBuf,
    pub target: Target,
    /// The name it has while it is loaded.
    pub temporary: Vec<u8>,
    /// The name that the old database gets.
    pub aside: Option<Vec<u8>>,
    pub findings: Vec<Finding>,
}

/// What is told before it is done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    Create,
    Load,
    Properties,
    Swap,
}

#[derive(Default, Debug)]
pub struct Restored {
    pub name: Vec<u8>,
    /// Where the old database is.
    pub kept_as: Option<Vec<u8>>,
    /// Errors of the log that say nothing.
    pub expected_errors: u64,
    /// What could not be set as it was.
    pub problems: Vec<String>,
}

impl<'a> Plan<'a> {
    /// Looks at everything. `number` makes the temporary name; `now` goes into that of the old database.
    pub fn new(saved: Saved, options: &'a Options, number: u64, now: &Zoned) -> Result<Plan<'a>> {
        let (psql, server) = Psql::answering(&options.connection, Server::ask)?;
        let program = preflight::program(&psql, &saved)?;
        let databases = server.databases(&psql)?;
        let name = options.dbname.clone().unwrap_or_else(|| saved.database.name.clone());
        if name.is_empty() || name.len() > NAME_BYTES_MAX || name.contains(&0) {
            return Err(Error::argument("--dbname", "expected a name of 1 to 63 bytes"));
        }
        let is_there = |name: &[u8]| databases.iter().any(|database| database.name == name);
        let target = Target { exists: is_there(&name), name };
        if let Some(reason) = refused(&target, options, &psql) {
            return Err(Error::refused(format!("database {}", names::shown(&target.name)), reason));
        }
        let aside = target.exists.then(|| aside(&target.name, now, &is_there));
        let findings = preflight::look(&psql, &server, &saved, &target, &databases, options)?;
        let temporary = format!("{TEMPORARY}{number:016x}").into_bytes();
        Ok(Plan { psql, server, saved, options, program, target, temporary, aside, findings })
    }

    pub fn obstacles(&self) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(|finding| finding.standing == Standing::Obstacle)
    }

    pub fn saved(&self) -> &Saved {
        &self.saved
    }

    /// Does it. `tell` hears of each step before it begins; `content` writes the dump.
    pub fn carry_out(
        self,
        content: &mut Content<'_>,
        interrupted: &AtomicBool,
        tell: &mut dyn FnMut(Step, &Plan<'_>),
    ) -> Result<Restored> {
        if let Some(obstacle) = self.obstacles().next() {
            return Err(Error::refused("the restore", format!("{}: {}", obstacle.what, obstacle.text)));
        }
        tell(Step::Create, &self);
        self.psql.ask(&self.creation())?;
        let loaded = self.fill(content, interrupted, tell);
        let (expected_errors, problems) = match loaded {
            Ok(done) => done,
            Err(error) => return Err(self.give_up(error)),
        };
        tell(Step::Swap, &self);
        swap::swap(&self.psql, &self.temporary, &self.target.name, self.aside.as_deref(), interrupted)?;
        Ok(Restored { name: self.target.name, kept_as: self.aside, expected_errors, problems })
    }

    fn fill(
        &self,
        content: &mut Content<'_>,
        interrupted: &AtomicBool,
        tell: &mut dyn FnMut(Step, &Plan<'_>),
    ) -> Result<(u64, Vec<String>)> {
        tell(Step::Load, self);
        let (command, judge) = self.loader();
        let what = format!("the dump of {}", names::shown(&self.saved.database.name));
        let expected = load::run(command, &what, judge, content, interrupted)?;
        tell(Step::Properties, self);
        Ok((expected, properties::apply(&self.psql, &self.temporary, &self.saved, self.options)))
    }

    /// What was begun goes; the old database was not touched.
    fn give_up(&self, error: Error) -> Error {
        match swap::remove(&self.psql, &self.server, &self.temporary) {
            Ok(()) => error,
            Err(second) => {
                let shown = names::shown(&self.temporary);
                match error {
                    // How it ended is told by its own kind.
                    Error::Store(error) => Error::Store(error),
                    first => Error::source("the restore", format!("{first}; {shown} is left over: {second}")),
                }
            }
        }
    }

    fn creation(&self) -> Vec<u8> {
        let database = &self.saved.database;
        let mut sql = b"CREATE DATABASE ".to_vec();
        sql.extend(identifier(&self.temporary));
        let mut add = |words: &str, value: Vec<u8>| {
            sql.extend_from_slice(words.as_bytes());
            sql.extend(value);
        };
        add(" TEMPLATE template0 ENCODING ", literal(database.encoding.as_bytes()));
        add(" LC_COLLATE ", literal(&database.collate));
        add(" LC_CTYPE ", literal(&database.ctype));
        match database.provider.as_str() {
            "i" => add(" LOCALE_PROVIDER icu ICU_LOCALE ", literal(&database.locale)),
            "b" => add(" LOCALE_PROVIDER builtin BUILTIN_LOCALE ", literal(&database.locale)),
            // Otherwise it would have the provider that the server's templates have.
            _ if self.server.version >= Version(15, 0) => add(" LOCALE_PROVIDER ", b"libc".to_vec()),
            _ => (),
        }
        if self.options.owners {
            add(" OWNER ", identifier(&database.owner));
        }
        sql
    }

    fn loader(&self) -> (Command, Judge) {
        if self.saved.format == Format::Custom {
            let mut command = self.psql.connection.command(&self.program);
            command.args(["--format=custom", "--exit-on-error"]);
            if !self.options.owners {
                command.args(["--no-owner", "--no-privileges"]);
            }
            command.arg("--dbname").arg(conninfo(&self.temporary));
            return (command, Judge::Strict);
        }
        let tolerance = if self.options.owners { Tolerance::Drops } else { Tolerance::DropsAndRoles };
        (judged_psql(&self.psql, &self.temporary), Judge::Log(tolerance))
    }
}

/// `psql` that goes on after errors and says what a [`log::Log`] wants to know.
fn judged_psql(psql: &Psql<'_>, database: &[u8]) -> Command {
    let mut command = psql.command(database);
    command.args(["--set=ON_ERROR_STOP=0", "--set=VERBOSITY=verbose", "--echo-errors", "--quiet", "--file=-"]);
    command
}

/// Restores roles and tablespaces into a server. Answers how many were there already.
pub fn globals(connection: &Connection, content: &mut Content<'_>, interrupted: &AtomicBool) -> Result<u64> {
    let (psql, _) = Psql::answering(connection, Server::ask)?;
    let command = judged_psql(&psql, psql.maintenance());
    load::run(command, "roles and tablespaces", Judge::Log(Tolerance::Existing), content, interrupted)
}

fn refused(target: &Target, options: &Options, psql: &Psql<'_>) -> Option<&'static str> {
    if !target.exists {
        return None;
    }
    if !options.replace {
        return Some("it exists: give another name with --dbname, or --replace to have it renamed aside");
    }
    let is_special = matches!(target.name.as_slice(), b"template0" | b"template1") || target.name == psql.maintenance();
    is_special.then_some("it cannot be replaced while the server is asked through it: give another name with --dbname")
}

/// `NAME_before_20261121_030000`, shortened to what a name may have, and free.
fn aside(name: &[u8], now: &Zoned, is_there: &dyn Fn(&[u8]) -> bool) -> Vec<u8> {
    let stem = format!("_before_{}", now.strftime("%Y%m%d_%H%M%S"));
    let mut candidates = (1..).map(|n: u64| {
        let end = if n == 1 { stem.clone() } else { format!("{stem}_{n}") };
        let mut text = shortened(name, NAME_BYTES_MAX.saturating_sub(end.len())).to_vec();
        text.extend_from_slice(end.as_bytes());
        text
    });
    candidates.find(|candidate| !is_there(candidate)).unwrap_or_default()
}

/// The beginning of a name, without a part of a character at its end.
fn shortened(name: &[u8], bytes_max: usize) -> &[u8] {
    let mut end = name.len().min(bytes_max);
    if let Ok(text) = std::str::from_utf8(name) {
        while !text.is_char_boundary(end) {
            end -= 1;
        }
    }
    name.get(..end).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_old_database_gets_a_free_name() {
        let now: Zoned = "2026-11-21T03:04:05+01:00[Europe/Paris]".parse().unwrap();
        let free = |name: &str| String::from_utf8(aside(name.as_bytes(), &now, &|_| false)).unwrap();
        assert_eq!(free("projop"), "projop_before_20261121_030405");
        let long = "é".repeat(31);
        assert_eq!(free(&long), format!("{}_before_20261121_030405", "é".repeat(20)));
        assert!(free(&long).len() <= NAME_BYTES_MAX);
        let taken = |name: &[u8]| name.ends_with(b"05") || name.ends_with(b"_2");
        assert!(aside(b"projop", &now, &taken).ends_with(b"projop_before_20261121_030405_3"));
    }
}
