//! Names of databases, which may be any bytes but NUL, as parts of datasets and of files; and back. Pure.

use jiff::Zoned;
use jiff::civil::DateTime;

const KEPT: &str = "._-+=,~#";

/// As a component of a dataset: what it may not hold, byte by byte, as `%XX`. Different names stay different.
pub fn component(name: &[u8]) -> String {
    let mut text = String::with_capacity(name.len());
    for chunk in name.utf8_chunks() {
        for c in chunk.valid().chars() {
            let is_first_bad = text.is_empty() && matches!(c, '.' | '-');
            if !is_first_bad && (c.is_alphanumeric() || KEPT.contains(c)) {
                text.push(c);
            } else {
                c.encode_utf8(&mut [0; 4]).bytes().for_each(|byte| escape(byte, &mut text));
            }
        }
        chunk.invalid().iter().for_each(|&byte| escape(byte, &mut text));
    }
    text
}

fn escape(byte: u8, text: &mut String) {
    text.push_str(&format!("%{byte:02X}"));
}

/// The name that [`component`] made this of; none if it made it of no name.
pub fn of_component(text: &str) -> Option<Vec<u8>> {
    let mut name = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte == b'%' {
            let digits = std::str::from_utf8(rest.get(..2)?).ok()?;
            name.push(u8::from_str_radix(digits, 16).ok()?);
            rest = rest.get(2..)?;
        } else {
            name.push(byte);
        }
    }
    (component(&name) == text).then_some(name)
}

/// What the name of a dump's file tells, `pg_dump.HOST.DB.YYYYMMDD.HHMMSS.sql`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Traditional {
    pub host: String,
    pub database: Vec<u8>,
    /// In the zone of the machine that made it.
    pub started: DateTime,
    /// `sql` or `dump`
    pub extension: String,
}

/// The traditional name of a dump's file. Dots of the host's name are left out with what follows them, and what a file's
/// name may not hold is escaped as in a dataset.
pub fn traditional_name(host: &str, database: &[u8], started: &Zoned, extension: &str) -> String {
    let host = component(host.split('.').next().unwrap_or_default().as_bytes());
    format!("pg_dump.{host}.{}.{}.{extension}", component(database), started.strftime("%Y%m%d.%H%M%S"))
}

impl Traditional {
    /// Names of this form alone; nothing is guessed.
    pub fn parse(name: &str) -> Option<Traditional> {
        let (rest, extension) = name.strip_prefix("pg_dump.")?.rsplit_once('.')?;
        let (rest, time) = rest.rsplit_once('.')?;
        let (rest, date) = rest.rsplit_once('.')?;
        let (host, database) = rest.split_once('.')?;
        let is_digits = |text: &str, len| text.len() == len && text.bytes().all(|byte| byte.is_ascii_digit());
        if !matches!(extension, "sql" | "dump") || host.is_empty() || !is_digits(date, 8) || !is_digits(time, 6) {
            return None;
        }
        let started = DateTime::strptime("%Y%m%d.%H%M%S", format!("{date}.{time}")).ok()?;
        let database = of_component(database).filter(|name| !name.is_empty())?;
        Some(Traditional { host: host.to_owned(), database, started, extension: extension.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chunkstore::snapshot::validate_dataset;
    use proptest::prelude::*;

    #[test]
    fn known_names() {
        for (name, expected) in [
            ("projop", "projop"),
            ("Specibike L'été 24", "Specibike%20L%27été%2024"),
            ("-Specibike", "%2DSpecibike"),
            ("Specibike-2", "Specibike-2"),
            (".", "%2E"),
            ("a/b", "a%2Fb"),
            ("50%", "50%25"),
            ("a\nb", "a%0Ab"),
            ("x", "x"),
        ] {
            assert_eq!(component(name.as_bytes()), expected);
        }
        assert_eq!(component(b"\xe9t\xe9"), "%E9t%E9");
    }

    proptest! {
        #[test]
        fn every_name_has_a_dataset_of_its_own(name in proptest::collection::vec(1u8.., 1..=63)) {
            let text = component(&name);
            prop_assert!(validate_dataset(&format!("h/postgres/{text}")).is_ok(), "{text}");
            prop_assert!(!text.contains([':', '@', '/', ' ']));
            prop_assert!(text.len() <= 189);
            prop_assert_eq!(of_component(&text), Some(name));
        }

        #[test]
        fn what_no_name_is_written_as_is_none(text in "[a%2Fé .-]{0,6}") {
            if let Some(name) = of_component(&text) {
                prop_assert_eq!(component(&name), text);
            }
        }

        #[test]
        fn a_file_name_tells_what_it_was_made_of(name in proptest::collection::vec(1u8.., 1..=63), second in 0i64..4_000_000_000) {
            let started = jiff::Timestamp::from_second(second).unwrap().to_zoned(jiff::tz::TimeZone::UTC);
            let file = traditional_name("www.example.org", &name, &started, "sql");
            prop_assert!(!file.contains('/'));
            let parsed = Traditional::parse(&file).unwrap();
            prop_assert_eq!((parsed.host.as_str(), parsed.database, parsed.started), ("www", name, started.datetime()));
        }
    }

    #[test]
    fn the_traditional_name_is_exact() {
        let started: Zoned = "2026-11-21T03:04:05+01:00[Europe/Paris]".parse().unwrap();
        assert_eq!(traditional_name("www", b"projop", &started, "sql"), "pg_dump.www.projop.20261121.030405.sql");
        for junk in [
            "pg_dump.20151204.001241.sql",
            "pg_dump.www.projop.2026112.030405.sql",
            "pg_dump.www.projop.20261321.030405.sql",
            "pg_dump.www.projop.20261121.0304.sql",
            "pg_dump.www.projop.20261121.030405.sql.bz2",
            "pgback.www.projop.20261121.030405.sql",
            "pg_dump..projop.20261121.030405.sql",
            "pg_dump.www..20261121.030405.sql",
            "pg_dump.www.a b.20261121.030405.sql",
        ] {
            assert_eq!(Traditional::parse(junk), None, "{junk}");
        }
    }
}
