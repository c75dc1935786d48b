//! One database, or what belongs to all of them, as a stream: the program, what is to be seen of its output, the verdict.

use super::catalogue::{Database, Properties, Server};
use super::facts::{self, Fact, Format};
use super::program::{Connection, Program, failure};
use super::query::{Asked, Psql};
use super::quote::conninfo;
use super::watch::{Shape, Watch};
use crate::backup::{Producer, Verdict};
use crate::error::Result;
use crate::names;
use chunkstore::Error;
use std::cell::RefCell;
use std::process::{Command, ExitStatus};

/// How long a dump waits for a lock that somebody holds on a table.
const LOCK_WAIT_MS: u32 = 600_000;

/// A server and the programs that fit it.
pub struct Dumper<'a> {
    pub psql: Psql<'a>,
    pub server: Server,
    pg_dump: Program,
    pg_dumpall: Option<Program>,
}

/// A dump that was not begun yet.
pub struct Dump {
    /// What messages call it.
    what: String,
    command: Command,
    facts: Vec<Fact>,
    /// Of a database: what is told while it is dumped.
    properties: Option<(Database, Format, Asked)>,
    /// What makes a difference beside the content.
    record: Vec<Fact>,
    watch: Watch,
    /// What the program said although it succeeded.
    pub warnings: String,
}

impl<'a> Dumper<'a> {
    pub fn new(psql: Psql<'a>, server: Server) -> Result<Dumper<'a>> {
        let pg_dump = psql.connection.find("pg_dump", Some(server.version))?;
        Ok(Dumper { psql, server, pg_dump, pg_dumpall: None })
    }

    /// Of a whole server: also finds what dumps roles and tablespaces.
    pub fn of_server(connection: &'a Connection) -> Result<Dumper<'a>> {
        let names = ["pg_dump", "pg_dumpall"];
        // The programs tell their versions while the server is asked for its own.
        let (asked, installed) = std::thread::scope(|scope| {
            let looking = names.map(|name| scope.spawn(move || connection.installed(name)));
            let asked = Psql::answering(connection, Server::ask);
            (asked, looking.map(|looking| looking.join().unwrap_or_default()))
        });
        let (psql, server) = asked?;
        let [pg_dump, pg_dumpall] = &installed;
        let pg_dump = connection.choose(names[0], Some(server.version), pg_dump)?;
        let pg_dumpall = Some(connection.choose(names[1], Some(server.version), pg_dumpall)?);
        Ok(Dumper { psql, server, pg_dump, pg_dumpall })
    }

    /// `digests`: its sameness is wanted.
    pub fn database(&self, database: &Database, format: Format, digests: bool) -> Result<Dump> {
        let properties = Some((database.clone(), format, Properties::ask(&self.psql, &database.name)?));
        let mut command = self.psql.connection.command(&self.pg_dump.path);
        command.args(format.options()).arg(format!("--lock-wait-timeout={LOCK_WAIT_MS}"));
        command.arg("--dbname").arg(conninfo(&database.name));
        let facts = facts::common(facts::DATABASE, &self.server, &self.pg_dump.text, &facts::now());
        let shape = match format {
            Format::Custom => Shape::Custom,
            Format::Plain => Shape::Plain,
        };
        let what = format!("database {}", names::shown(&database.name));
        let watch = Watch::new(shape, digests);
        Ok(Dump { what, command, facts, properties, record: Vec::new(), watch, warnings: String::new() })
    }

    /// Roles and tablespaces; without passwords if the user may not read them.
    pub fn globals(&self, digests: bool) -> Option<Dump> {
        let program = self.pg_dumpall.as_ref()?;
        let mut command = self.psql.connection.command(&program.path);
        command.arg("--globals-only").arg("--dbname").arg(conninfo(self.psql.maintenance()));
        if !self.server.is_superuser {
            command.arg("--no-role-passwords");
        }
        let facts = facts::common(facts::GLOBALS, &self.server, &program.text, &facts::now());
        let watch = Watch::new(Shape::Globals, digests);
        let what = "roles and tablespaces".into();
        Some(Dump { what, command, facts, properties: None, record: Vec::new(), watch, warnings: String::new() })
    }
}

impl Dump {
    /// Facts in which a snapshot differs from another of the same content.
    pub fn record(&mut self, facts: Vec<Fact>) {
        self.record = facts;
    }

    /// Hands the program to `run`, which is to read it to its end, and completes the verdict on it. `problems` are those of
    /// others, which make the snapshot incomplete.
    pub fn produce<T>(
        &mut self,
        problems: u64,
        run: impl FnOnce(Producer<'_>) -> chunkstore::Result<T>,
    ) -> chunkstore::Result<T> {
        let command = std::mem::replace(&mut self.command, Command::new(""));
        let (watch, warnings) = (RefCell::new(&mut self.watch), &mut self.warnings);
        let (what, facts, properties, record) = (&self.what, &mut self.facts, &mut self.properties, &self.record);
        run(Producer {
            name: command.get_program().to_string_lossy().into_owned(),
            command,
            watch: &mut |bytes| watch.borrow_mut().feed(bytes),
            judge: &mut |status, complaints| {
                *warnings = String::from_utf8_lossy(complaints).trim().to_owned();
                let mut watch = watch.borrow_mut();
                let mut verdict = verdict(what, &mut watch, status, complaints)?;
                if let Some((database, format, asked)) = properties.take() {
                    let told = Properties::told(asked).map_err(|error| Error::invalid(what, error.to_string()))?;
                    facts.extend(facts::of_database(&database, format, &told));
                }
                verdict.facts.splice(0..0, facts.drain(..));
                verdict.sameness = verdict.sameness.map(|content| with_record(content, record));
                verdict.facts.extend_from_slice(record);
                Ok(Verdict { problems, ..verdict })
            },
        })
    }
}

fn with_record(content: [u8; 32], record: &[Fact]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&content);
    for (key, value) in record {
        for part in [key.as_bytes(), value] {
            hasher.update(&(part.len() as u64).to_le_bytes()).update(part);
        }
    }
    *hasher.finalize().as_bytes()
}

fn verdict(what: &str, watch: &mut Watch, status: ExitStatus, complaints: &[u8]) -> chunkstore::Result<Verdict> {
    if !status.success() {
        return Err(Error::invalid(what, failure(status, complaints)));
    }
    if let Some(fault) = watch.fault() {
        return Err(Error::invalid(what, fault));
    }
    let mut facts = Vec::new();
    if watch.is_unknown() {
        facts.push(facts::fact("postgres.end", "unchecked"));
    }
    Ok(Verdict { facts, problems: 0, sameness: watch.sameness() })
}
