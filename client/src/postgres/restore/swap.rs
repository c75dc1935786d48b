//! The end of a restore: names change hands in one transaction, or what was begun is removed.

use crate::error::{Error, Result};
use crate::names;
use crate::postgres::catalogue::Server;
use crate::postgres::program::Version;
use crate::postgres::query::Psql;
use crate::postgres::quote::{identifier, literal};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const ATTEMPTS: usize = 5;
/// After that time, and again and again, sessions are ended that an attempt waits for.
const PATIENCE: Duration = Duration::from_millis(300);

/// The old database steps aside and the new one takes its name, both or none.
pub fn swap(
    psql: &Psql<'_>,
    temporary: &[u8],
    target: &[u8],
    aside: Option<&[u8]>,
    interrupted: &AtomicBool,
) -> Result<()> {
    // Statements of one string are one transaction.
    let mut statement = Vec::new();
    if let Some(aside) = aside {
        statement.extend(renaming(target, aside));
    }
    statement.extend(renaming(temporary, target));
    let mut last = None;
    for _ in 0..ATTEMPTS {
        if interrupted.load(Ordering::Relaxed) {
            break;
        }
        // The first rename locks the database, so nobody new gets in, and waits some seconds for those inside to leave.
        let result = std::thread::scope(|scope| {
            let renaming = scope.spawn(|| psql.ask(&statement));
            let mut in_the_way = vec![temporary];
            in_the_way.extend(aside.map(|_| target));
            let mut ended = Instant::now();
            while !renaming.is_finished() {
                if ended.elapsed() > PATIENCE {
                    if let Err(error) = end_sessions(psql, &in_the_way) {
                        last = Some(error);
                    }
                    ended = Instant::now();
                }
                std::thread::sleep(PATIENCE / 20);
            }
            renaming.join().unwrap_or_else(|_| Err(Error::source("PostgreSQL", "the renaming failed")))
        });
        match result {
            Ok(_) => return Ok(()),
            Err(error) => last = Some(error),
        }
    }
    let why = match last {
        Some(error) if !interrupted.load(Ordering::Relaxed) => error.to_string(),
        _ => "interrupted".into(),
    };
    let (new, target) = (names::shown(temporary), names::shown(target));
    let reason = format!("{why}; the database is restored as {new} and waits to be renamed, {target} is as it was");
    Err(Error::source(format!("database {target}"), reason))
}

fn renaming(from: &[u8], to: &[u8]) -> Vec<u8> {
    [b"ALTER DATABASE ", identifier(from).as_slice(), b" RENAME TO ", &identifier(to), b";"].concat()
}

fn end_sessions(psql: &Psql<'_>, databases: &[&[u8]]) -> Result<()> {
    let names: Vec<Vec<u8>> = databases.iter().map(|name| literal(name)).collect();
    let statement = [
        b"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname IN ("
            .as_slice(),
        &names.join(b",".as_slice()),
        b")",
    ];
    psql.ask(&statement.concat()).map(drop)
}

/// Removes a database that nobody needs, with whoever is in it.
pub fn remove(psql: &Psql<'_>, server: &Server, database: &[u8]) -> Result<()> {
    let mut statement = b"DROP DATABASE IF EXISTS ".to_vec();
    statement.extend(identifier(database));
    if server.version >= Version(13, 0) {
        statement.extend_from_slice(b" WITH (FORCE)");
    } else {
        end_sessions(psql, &[database])?;
    }
    psql.ask(&statement).map(drop)
}
