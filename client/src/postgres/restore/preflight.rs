//! What a restore needs, looked at before anything is touched.

use super::{Options, Target};
use crate::error::Result;
use crate::names;
use crate::postgres::catalogue::{Database, Server};
use crate::postgres::facts::{Format, Saved};
use crate::postgres::program::Version;
use crate::postgres::query::{Psql, number, records, text};
use crate::postgres::quote::literal;
use crate::units::{format_size, plural};
use std::collections::BTreeSet;

/// How one thing stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standing {
    Fine,
    /// To be known.
    Note,
    /// Nothing is done as long as it is so.
    Obstacle,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    pub standing: Standing,
    pub what: &'static str,
    pub text: String,
}

/// What a restored database may grow to beyond what it had: its indexes are new, its log is not yet reused.
const ROOM_NUMERATOR: u64 = 5;
const ROOM_DENOMINATOR: u64 = 4;

pub fn look(
    psql: &Psql<'_>,
    server: &Server,
    saved: &Saved,
    target: &Target,
    databases: &[Database],
    options: &Options,
) -> Result<Vec<Finding>> {
    let mut findings = vec![version(server, saved), timezone(server, saved, options)];
    findings.extend(locale(psql, saved)?);
    findings.push(extensions(psql, saved)?);
    findings.push(roles(psql, saved, options)?);
    findings.push(room(psql, saved)?);
    findings.extend(sessions(psql, target)?);
    let left: Vec<String> = databases
        .iter()
        .filter(|database| database.name.starts_with(super::TEMPORARY.as_bytes()))
        .map(|database| names::shown(&database.name))
        .collect();
    if !left.is_empty() {
        let text = format!("{}: of a restore that goes on, or was killed; drop it then", left.join(", "));
        findings.push(Finding { standing: Standing::Note, what: "left over", text });
    }
    Ok(findings)
}

fn finding(what: &'static str, standing: Standing, text: impl Into<String>) -> Finding {
    Finding { standing, what, text: text.into() }
}

fn version(server: &Server, saved: &Saved) -> Finding {
    let text = format!("the dump is of a server {}, this is one of version {}", saved.server_text, server.version_text);
    let standing = match server.version.major().cmp(&saved.server.major()) {
        std::cmp::Ordering::Less => Standing::Obstacle,
        std::cmp::Ordering::Equal => Standing::Fine,
        std::cmp::Ordering::Greater => Standing::Note,
    };
    finding("version", standing, text)
}

fn timezone(server: &Server, saved: &Saved, options: &Options) -> Finding {
    const UTC: [&str; 7] = ["UTC", "Etc/UTC", "UCT", "Etc/UCT", "Zulu", "Etc/Zulu", "Universal"];
    let (here, there) = (server.timezone.as_str(), saved.timezone.as_str());
    if here == there || (UTC.contains(&here) && UTC.contains(&there)) {
        return finding("time zone", Standing::Fine, here);
    }
    let text = format!(
        "the dump is of a server in {there}, this one is in {here}: what is stored without a zone would mean other moments"
    );
    if options.force_timezone {
        finding("time zone", Standing::Note, text)
    } else {
        finding("time zone", Standing::Obstacle, text + "; --force-tz restores all the same")
    }
}

fn locale(psql: &Psql<'_>, saved: &Saved) -> Result<Option<Finding>> {
    let database = &saved.database;
    let shown = format!("{}, {}, {}", database.encoding, text(&database.collate), text(&database.ctype));
    let mut unknown = Vec::new();
    for name in BTreeSet::from([&database.collate, &database.ctype]) {
        if database.provider == "b" || matches!(name.as_slice(), b"C" | b"POSIX" | b"") {
            continue;
        }
        let plain = |column: &str| format!("regexp_replace(lower({column}), '[^a-z0-9_@.]', '', 'g')");
        let mut statement = format!(
            "SELECT 1 WHERE EXISTS (SELECT 1 FROM pg_collation, (SELECT {} AS l) w WHERE {} = l) \
             OR EXISTS (SELECT 1 FROM pg_database WHERE datcollate = ",
            plain("$"),
            plain("collcollate")
        )
        .into_bytes();
        let name = literal(name);
        if let Some(at) = statement.iter().position(|byte| *byte == b'$') {
            statement.splice(at..=at, name.iter().copied());
        }
        statement.extend_from_slice(&name);
        statement.push(b')');
        if psql.ask(&statement)?.is_empty() {
            unknown.push(text(&name));
        }
    }
    Ok(Some(if unknown.is_empty() {
        finding("encoding and locale", Standing::Fine, shown)
    } else {
        // Those installed after the server are not in its list.
        let text = format!("{shown}; the server may not know it: then it is not restored");
        finding("encoding and locale", Standing::Note, text)
    }))
}

fn extensions(psql: &Psql<'_>, saved: &Saved) -> Result<Finding> {
    let wanted = &saved.properties.extensions;
    let there: BTreeSet<Vec<u8>> = psql.ask(b"SELECT name FROM pg_available_extensions")?.into_iter().collect();
    let missing: Vec<String> =
        wanted.iter().filter(|(name, _)| !there.contains(name)).map(|(name, _)| names::shown(name)).collect();
    Ok(if missing.is_empty() {
        finding("extensions", Standing::Fine, plural(wanted.len() as u64, "extension"))
    } else {
        finding("extensions", Standing::Obstacle, format!("not installed on the server: {}", missing.join(", ")))
    })
}

fn roles(psql: &Psql<'_>, saved: &Saved, options: &Options) -> Result<Finding> {
    if !options.owners {
        return Ok(finding("roles", Standing::Note, "owners and rights are left out"));
    }
    let there: BTreeSet<Vec<u8>> = psql.ask(b"SELECT rolname FROM pg_roles")?.into_iter().collect();
    let mut wanted: BTreeSet<&Vec<u8>> = saved.properties.roles.iter().collect();
    wanted.insert(&saved.database.owner);
    let missing: Vec<String> =
        wanted.iter().filter(|role| !there.contains(**role)).map(|role| names::shown(role)).collect();
    Ok(if missing.is_empty() {
        finding("roles", Standing::Fine, plural(wanted.len() as u64, "role"))
    } else {
        let text = format!(
            "missing: {}; restore them first (`nightkeep restore postgres` with the dataset …/postgres-globals/…), or leave owners \
             and rights out with --no-owner",
            missing.join(", ")
        );
        finding("roles", Standing::Obstacle, text)
    })
}

/// On the disk of the server's data, if it is on this machine and tells where.
fn room(psql: &Psql<'_>, saved: &Saved) -> Result<Finding> {
    let needed = saved.properties.size / ROOM_DENOMINATOR * ROOM_NUMERATOR;
    let answer = psql.ask(
        b"SELECT setting FROM pg_settings WHERE name = 'data_directory' \
          AND (inet_server_addr() IS NULL OR inet_server_addr() = inet_client_addr())",
    )?;
    let unknown = || {
        finding(
            "room",
            Standing::Note,
            format!("about {} are needed; what there is cannot be told from here", format_size(needed)),
        )
    };
    let Some(dir) = answer.first() else { return Ok(unknown()) };
    let Ok(stat) = rustix::fs::statvfs(dir.as_slice()) else { return Ok(unknown()) };
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    let text =
        format!("about {} are needed in {}, {} are free", format_size(needed), names::shown(dir), format_size(free));
    Ok(finding("room", if free < needed { Standing::Obstacle } else { Standing::Fine }, text))
}

fn sessions(psql: &Psql<'_>, target: &Target) -> Result<Option<Finding>> {
    if !target.exists {
        return Ok(None);
    }
    let mut statement =
        b"SELECT count(*), coalesce(string_agg(DISTINCT usename || coalesce(' from ' || client_addr, ''), ', '), '') \
        FROM pg_stat_activity WHERE datname = "
            .to_vec();
    statement.extend(literal(&target.name));
    let answer = records::<2>(psql.ask(&statement)?)?;
    let Some([count, who]) = answer.first() else { return Ok(None) };
    let count: u64 = number(count).unwrap_or(0);
    Ok(Some(if count == 0 {
        finding("sessions", Standing::Fine, "nobody is connected to the database that is replaced")
    } else {
        let text = format!(
            "{} in the database that is replaced will be ended: {}",
            plural(count, "session"),
            names::shown(who)
        );
        finding("sessions", Standing::Note, text)
    }))
}

/// Which `pg_restore` or `psql` it takes.
pub fn program(psql: &Psql<'_>, saved: &Saved) -> Result<std::path::PathBuf> {
    let wanted: Version = saved.pg_dump;
    match saved.format {
        Format::Custom => psql.connection.find("pg_restore", Some(wanted)).map(|program| program.path),
        Format::Plain => psql.connection.find("psql", None).map(|program| program.path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::postgres::catalogue::Properties;
    use crate::postgres::program::Connection;

    fn server(major: u32, timezone: &str) -> Server {
        let version = Version(major, 3);
        Server { version, version_text: format!("{major}.3"), timezone: timezone.into(), is_superuser: true }
    }

    fn saved(timezone: &str) -> Saved {
        Saved {
            database: Database::default(),
            server: Version(15, 18),
            server_text: "15.18".into(),
            timezone: timezone.into(),
            pg_dump: Version(15, 18),
            pg_dump_text: "15.18".into(),
            format: Format::Custom,
            started: "2026-11-21T03:00:00+01:00[Europe/Paris]".parse().unwrap(),
            properties: Properties::default(),
        }
    }

    #[test]
    fn a_server_may_be_newer_not_older() {
        let standing = |major| version(&server(major, "UTC"), &saved("UTC")).standing;
        assert_eq!(standing(15), Standing::Fine, "a minor version makes no difference");
        assert_eq!((standing(14), standing(17)), (Standing::Obstacle, Standing::Note));
    }

    #[test]
    fn another_time_zone_is_an_obstacle_unless_it_is_forced() {
        let standing = |here: &str, there: &str, force_timezone| {
            let options = Options {
                connection: Connection::default(),
                dbname: None,
                replace: false,
                owners: true,
                force_timezone,
            };
            timezone(&server(15, here), &saved(there), &options).standing
        };
        assert_eq!(standing("Europe/Paris", "Europe/Paris", false), Standing::Fine);
        assert_eq!(standing("Etc/UTC", "UTC", false), Standing::Fine);
        assert_eq!(standing("Asia/Tokyo", "Europe/Paris", false), Standing::Obstacle);
        assert_eq!(standing("Asia/Tokyo", "UTC", true), Standing::Note);
    }
}
