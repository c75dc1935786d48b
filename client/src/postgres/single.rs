//! One database by its name, for a source of which it is only a part: reached through itself, since its user may not be let
//! into any other.

use super::catalogue::{Database, Server};
use super::dump::{Dump, Dumper};
use super::facts::Format;
use super::program::Connection;
use super::query::{Psql, records};
use crate::error::{Error, Result};
use crate::names;

pub struct Single<'a> {
    dumper: Dumper<'a>,
    database: Database,
}

impl<'a> Single<'a> {
    pub fn open(connection: &'a Connection, name: &[u8]) -> Result<Single<'a>> {
        let psql = Psql::within(connection, name)?;
        let server = Server::ask(&psql)?;
        let dumper = Dumper::new(psql, server)?;
        let found = dumper.server.databases(&dumper.psql)?.into_iter().find(|database| database.name == name);
        let none = || Error::source(format!("database {}", names::shown(name)), "there is none on the server");
        Ok(Single { database: found.ok_or_else(none)?, dumper })
    }

    /// Its dump, in the custom format, not yet begun. `digests`: its sameness is wanted.
    pub fn dump(&self, digests: bool) -> Result<Dump> {
        self.dumper.database(&self.database, Format::Custom, digests)
    }

    /// The records of one statement's answer.
    pub fn ask<const N: usize>(&self, statement: &str) -> Result<Vec<[Vec<u8>; N]>> {
        records(self.dumper.psql.ask(statement.as_bytes())?)
    }
}
