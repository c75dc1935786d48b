//! What a snapshot tells of the database it holds, and back.

use super::catalogue::{Database, Properties, Server};
use super::name::{component, traditional_name};
use super::program::Version;
use super::query::{number, text};
use crate::clock;
use crate::error::{Error, Result};
use jiff::Zoned;
use std::collections::BTreeMap;

pub type Fact = (String, Vec<u8>);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    Custom,
    Plain,
}

impl Format {
    pub fn word(self) -> &'static str {
        match self {
            Format::Custom => "custom",
            Format::Plain => "plain",
        }
    }

    /// Of its file.
    pub fn extension(self) -> &'static str {
        match self {
            Format::Custom => "dump",
            Format::Plain => "sql",
        }
    }

    pub fn options(self) -> &'static [&'static str] {
        match self {
            Format::Custom => &["-Fc", "-Z0"],
            Format::Plain => &["-c", "-O", "-Fp"],
        }
    }
}

/// A database as it was saved.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Saved {
    pub database: Database,
    pub server: Version,
    pub server_text: String,
    pub timezone: String,
    pub pg_dump: Version,
    pub pg_dump_text: String,
    pub format: Format,
    /// When the dump began, with the zone of the machine that made it.
    pub started: Zoned,
    pub properties: Properties,
}

pub const SOURCE: &str = "source";
pub const DATABASE: &str = "postgres";
pub const GLOBALS: &str = "postgres-globals";

/// What both kinds of snapshots tell.
pub fn common(kind: &str, server: &Server, program: &str, started: &Zoned) -> Vec<Fact> {
    vec![
        fact(SOURCE, kind),
        fact("postgres.server", &server.version_text),
        fact("postgres.timezone", &server.timezone),
        fact("postgres.pg_dump", program),
        fact("postgres.started", started.to_string()),
    ]
}

pub fn of_database(database: &Database, format: Format, properties: &Properties) -> Vec<Fact> {
    let (encoded, omitted) = properties.encode();
    let mut facts = vec![
        fact("postgres.database", &database.name),
        fact("postgres.format", format.word()),
        fact("postgres.options", format.options().join(" ")),
        fact("postgres.owner", &database.owner),
        fact("postgres.encoding", &database.encoding),
        fact("postgres.collate", &database.collate),
        fact("postgres.ctype", &database.ctype),
        fact("postgres.provider", &database.provider),
        fact("postgres.locale", &database.locale),
        fact("postgres.tablespace", &database.tablespace),
        fact("postgres.limit", database.limit.to_string()),
        fact("postgres.size", properties.size.to_string()),
        fact("postgres.properties", encoded),
    ];
    if omitted > 0 {
        facts.push(fact("postgres.properties.omitted", omitted.to_string()));
    }
    facts
}

pub fn fact(key: &str, value: impl AsRef<[u8]>) -> Fact {
    (key.to_owned(), value.as_ref().to_vec())
}

/// Whether a snapshot's facts tell of a database.
pub fn is_database(facts: &[Fact]) -> bool {
    is_of(facts, DATABASE)
}

/// Whether a snapshot's facts tell of roles and tablespaces.
pub fn is_globals(facts: &[Fact]) -> bool {
    is_of(facts, GLOBALS)
}

/// What the file of a snapshot's dump is called outside, by tradition: `pg_dump.HOST.DB.YYYYMMDD.HHMMSS.sql`, `.dump` for an
/// archive; for roles and tablespaces `pg_dumpall.HOST.YYYYMMDD.HHMMSS.sql`. None if it holds no dump.
pub fn export_name(dataset: &str, facts: &[Fact]) -> Option<String> {
    let host = dataset.split('/').next().unwrap_or_default();
    let find = |key: &str| facts.iter().find(|(found, _)| found == key).map(|(_, value)| value.as_slice());
    let started = started(find("postgres.started")?)?;
    if is_globals(facts) {
        return Some(format!("pg_dumpall.{}.{}.sql", component(host.as_bytes()), started.strftime("%Y%m%d.%H%M%S")));
    }
    let extension =
        if find("postgres.format")? == Format::Plain.word().as_bytes() { Format::Plain } else { Format::Custom };
    is_database(facts).then_some(())?;
    Some(traditional_name(host, find("postgres.database")?, &started, extension.extension()))
}

fn is_of(facts: &[Fact], kind: &str) -> bool {
    facts.iter().any(|(key, value)| key == SOURCE && value == kind.as_bytes())
}

impl Saved {
    pub fn read(facts: &[Fact]) -> Result<Saved> {
        let facts: BTreeMap<&str, &[u8]> = facts.iter().map(|(key, value)| (key.as_str(), value.as_slice())).collect();
        let lacking = |key: &str| Error::source("the snapshot", format!("it does not tell `{key}` of a database"));
        let find = |key: &'static str| facts.get(key).copied().ok_or_else(|| lacking(key));
        let version = |key| find(key).and_then(|value| Version::parse(&text(value)).ok_or_else(|| lacking(key)));
        let database = Database {
            name: find("postgres.database")?.to_vec(),
            owner: find("postgres.owner")?.to_vec(),
            encoding: text(find("postgres.encoding")?),
            collate: find("postgres.collate")?.to_vec(),
            ctype: find("postgres.ctype")?.to_vec(),
            provider: text(find("postgres.provider")?),
            locale: find("postgres.locale")?.to_vec(),
            tablespace: find("postgres.tablespace")?.to_vec(),
            limit: number(find("postgres.limit")?).unwrap_or(-1),
            is_template: false,
        };
        Ok(Saved {
            database,
            server: version("postgres.server")?,
            server_text: text(find("postgres.server")?),
            timezone: text(find("postgres.timezone")?),
            pg_dump: version("postgres.pg_dump")?,
            pg_dump_text: text(find("postgres.pg_dump")?),
            format: match find("postgres.format")? {
                b"custom" => Format::Custom,
                b"plain" => Format::Plain,
                _ => {
                    return Err(Error::source(
                        "the snapshot",
                        "its dump is in a format that this version does not know",
                    ));
                }
            },
            started: started(find("postgres.started")?).ok_or_else(|| lacking("postgres.started"))?,
            properties: Properties {
                size: number(find("postgres.size")?).unwrap_or(0),
                ..Properties::decode(find("postgres.properties")?)?
            },
        })
    }
}

/// A time with its zone; of a zone that this machine does not know, its offset.
pub fn started(value: &[u8]) -> Option<Zoned> {
    let text = text(value);
    text.parse().ok().or_else(|| {
        let (time, _) = text.split_once('[')?;
        let pieces = jiff::fmt::temporal::Pieces::parse(time).ok()?;
        let offset = pieces.to_numeric_offset()?;
        time.parse::<jiff::Timestamp>().ok().map(|time| time.to_zoned(jiff::tz::TimeZone::fixed(offset)))
    })
}

/// Now, in this machine's zone, to the second.
pub fn now() -> Zoned {
    let now = clock::zoned(clock::now(), &clock::zone());
    now.round(jiff::ZonedRound::new().smallest(jiff::Unit::Second).mode(jiff::RoundMode::Trunc)).unwrap_or(now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_tell_all_of_a_database() {
        let server = Server {
            version: Version(15, 18),
            version_text: "15.18 (Debian 15.18-0+deb12u1)".into(),
            timezone: "Europe/Paris".into(),
            is_superuser: true,
        };
        let database = Database {
            name: b"Specibike \xe9\n".to_vec(),
            owner: b"openpg".to_vec(),
            encoding: "LATIN1".into(),
            collate: b"C".to_vec(),
            ctype: b"C".to_vec(),
            provider: "c".into(),
            locale: Vec::new(),
            tablespace: b"pg_default".to_vec(),
            limit: 7,
            is_template: false,
        };
        let properties = Properties { size: 8_000_000, roles: vec![b"openpg".to_vec()], ..Properties::default() };
        let at: Zoned = "2026-11-21T03:00:00+01:00[Europe/Paris]".parse().unwrap();
        let mut facts = common(DATABASE, &server, "15.18", &at);
        facts.extend(of_database(&database, Format::Plain, &properties));
        assert!(is_database(&facts) && !is_globals(&facts));
        let saved = Saved::read(&facts).unwrap();
        assert_eq!((&saved.database, &saved.properties, saved.format), (&database, &properties, Format::Plain));
        assert_eq!((saved.server, saved.timezone.as_str(), &saved.started), (Version(15, 18), "Europe/Paris", &at));
        assert_eq!(
            export_name("www/postgres/x", &facts).unwrap(),
            "pg_dump.www.Specibike%20%E9%0A.20261121.030000.sql"
        );
        let globals = common(GLOBALS, &server, "15.18", &at);
        assert_eq!(
            export_name("www/postgres-globals/cluster", &globals).unwrap(),
            "pg_dumpall.www.20261121.030000.sql"
        );
        assert_eq!(export_name("www/files/etc", &[]), None);
        for without in 1..facts.len() {
            let mut fewer = facts.clone();
            let (key, _) = fewer.remove(without);
            assert!(Saved::read(&fewer).is_err() || key == "postgres.options", "{key}");
        }
        assert!(facts.iter().all(|(key, _)| key.bytes().all(|byte| byte.is_ascii_graphic())));
    }

    #[test]
    fn a_zone_that_is_not_known_here_leaves_its_offset() {
        let at = started(b"2026-11-21T03:00:00+01:00[Moon/Base]").unwrap();
        assert_eq!(at.strftime("%Y%m%d.%H%M%S").to_string(), "20261121.030000");
        assert!(started(b"yesterday").is_none());
        let text = now().to_string();
        assert_eq!(started(text.as_bytes()).unwrap().to_string(), text);
    }
}
