//! Questions to a server through `psql`: statements in, fields out, as raw bytes whatever is in them.

use super::program::{Connection, Program, failure};
use super::quote::conninfo;
use crate::error::{Error, Result};
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::process::{Child, Command, Stdio};

/// What `psql` ends with if it did not get a connection, or lost it.
const NO_CONNECTION: i32 = 2;

/// The databases that one may connect to in order to ask about others.
const MAINTENANCE: [&[u8]; 2] = [b"postgres", b"template1"];

/// A question that is being answered; who drops it does without the answer.
pub struct Asked(Child);

pub struct Psql<'a> {
    pub connection: &'a Connection,
    program: Program,
    maintenance: Vec<u8>,
}

impl<'a> Psql<'a> {
    /// Finds the program and a database to ask in: one where `question` is answered.
    pub fn answering<T>(
        connection: &'a Connection,
        question: impl Fn(&Psql<'a>) -> Result<T>,
    ) -> Result<(Psql<'a>, T)> {
        let mut psql = Psql::within(connection, MAINTENANCE[0])?;
        let answer = question(&psql).or_else(|first| {
            psql.maintenance = MAINTENANCE[1].to_vec();
            question(&psql).map_err(|_| first)
        })?;
        Ok((psql, answer))
    }

    /// Finds the program and asks in this database only: a user may not be let into any other.
    pub fn within(connection: &'a Connection, database: &[u8]) -> Result<Psql<'a>> {
        Ok(Psql { connection, program: connection.find("psql", None)?, maintenance: database.to_vec() })
    }

    /// The fields of one statement's answer, in the maintenance database.
    pub fn ask(&self, statement: &[u8]) -> Result<Vec<Vec<u8>>> {
        self.ask_in(&self.maintenance, &[statement.to_vec()])
    }

    /// All fields of all answers, one after another. Each statement is a transaction of its own; the first that fails ends it.
    pub fn ask_in(&self, database: &[u8], statements: &[Vec<u8>]) -> Result<Vec<Vec<u8>>> {
        self.begin(database, statements)?.answer()
    }

    /// As [`Psql::ask_in`], without waiting for the answer.
    pub fn begin(&self, database: &[u8], statements: &[Vec<u8>]) -> Result<Asked> {
        let mut command = self.command(database);
        command.args(["--quiet", "--tuples-only", "--no-align", "--field-separator-zero", "--record-separator-zero"]);
        for statement in statements {
            command.arg("--command").arg(OsString::from_vec(statement.clone()));
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Ok(Asked(command.spawn().map_err(|error| Error::io("run", "psql", error))?))
    }

    /// `psql` on a database, without anybody's start-up file, in which the first failure ends it.
    pub fn command(&self, database: &[u8]) -> Command {
        let mut command = self.connection.command(&self.program.path);
        command.env("LC_ALL", "C").env("PGCLIENTENCODING", "SQL_ASCII");
        command.args(["--no-psqlrc", "--set=ON_ERROR_STOP=1", "--dbname"]).arg(conninfo(database));
        command
    }

    pub fn maintenance(&self) -> &[u8] {
        &self.maintenance
    }
}

impl Asked {
    pub fn answer(self) -> Result<Vec<Vec<u8>>> {
        let output = self.0.wait_with_output().map_err(|error| Error::io("run", "psql", error))?;
        if !output.status.success() {
            let reason = failure(output.status, &output.stderr);
            return Err(match output.status.code() {
                Some(NO_CONNECTION) => Error::Unreachable { reason },
                _ => Error::source("PostgreSQL", reason),
            });
        }
        // Every field is ended by a NUL, which none can hold.
        let mut fields: Vec<Vec<u8>> = output.stdout.split(|byte| *byte == 0).map(<[u8]>::to_vec).collect();
        fields.pop();
        Ok(fields)
    }
}

/// Takes fields off an answer, `N` at a time; what is left over is a fault of the question.
pub fn records<const N: usize>(fields: Vec<Vec<u8>>) -> Result<Vec<[Vec<u8>; N]>> {
    let wrong = || Error::source("PostgreSQL", "psql's answer has another form than was asked for");
    if !fields.len().is_multiple_of(N) {
        return Err(wrong());
    }
    let mut fields = fields.into_iter();
    let mut records = Vec::new();
    while fields.len() > 0 {
        let record: Vec<Vec<u8>> = fields.by_ref().take(N).collect();
        records.push(record.try_into().map_err(|_| wrong())?);
    }
    Ok(records)
}

pub fn text(field: &[u8]) -> String {
    String::from_utf8_lossy(field).into_owned()
}

pub fn number<T: std::str::FromStr>(field: &[u8]) -> Option<T> {
    std::str::from_utf8(field).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_have_their_number_of_fields() {
        let fields = |n: usize| (0..n).map(|i| vec![u8::try_from(i).unwrap()]).collect::<Vec<_>>();
        assert_eq!(records::<2>(fields(4)).unwrap(), [[vec![0], vec![1]], [vec![2], vec![3]]]);
        assert!(records::<2>(fields(3)).is_err());
        assert!(records::<3>(fields(0)).unwrap().is_empty());
    }
}
