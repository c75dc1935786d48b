//! Which snapshot a person means: `SNAPSHOT` is an id prefix, `DATASET` (its latest), `DATASET@latest` or `DATASET@TIME`
//! (the newest not after it); `SNAPSHOT:PATH` is one entry of it.
//!
//! A dataset may be named by its last parts (`etc`, `files/etc`) when only one matches. Forgotten snapshots are found only
//! where they are asked for.

use crate::error::{Error, Result};
use crate::history::{History, Version};
use chunkstore::id::SnapshotId;
use jiff::Timestamp;
use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

const PREFIX_DIGITS_MIN: usize = 4;

/// What was typed, taken apart.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Selector {
    wanted: String,
    at: At,
    /// Without leading, trailing and doubled slashes; empty is the whole snapshot.
    pub path: Vec<u8>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum At {
    Latest,
    NotAfter(i64),
    /// No `@`: an id prefix is possible too.
    Unsaid,
}

/// Which snapshots are looked among.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Among {
    Present,
    Forgotten,
}

impl Selector {
    pub fn parse(text: &OsStr, zone: &TimeZone) -> Result<Selector> {
        let bytes = text.as_bytes();
        let at = bytes.iter().position(|&b| b == b'@').filter(|&at| !bytes.iter().take(at).any(|&b| b == b':'));
        let Some(at) = at else {
            let (name, path) = split(bytes, bytes.iter().position(|&b| b == b':'));
            return Ok(Selector { wanted: utf8(name, text)?, at: At::Unsaid, path: clean(path, text)? });
        };
        let (name, rest) = split(bytes, Some(at));
        let wanted = utf8(name, text)?;
        // A time has colons of its own: the longest text that is one counts.
        let ends = rest.iter().enumerate().filter(|(_, b)| **b == b':').map(|(end, _)| end);
        let mut ends: Vec<Option<usize>> = ends.map(Some).collect();
        ends.push(None);
        for end in ends.into_iter().rev() {
            let (time, path) = split(rest, end);
            let parsed = std::str::from_utf8(time).ok().and_then(|time| parse_at(time, zone));
            if let Some(at) = parsed {
                return Ok(Selector { wanted, at, path: clean(path, text)? });
            }
        }
        let reason = "after @ expected `latest` or a time such as 2026-11-21, 2026-11-21T03:00 or 2026-11-21T03:00:00Z";
        Err(Error::argument(format!("snapshot `{}`", text.to_string_lossy()), reason))
    }

    /// The one snapshot that is meant.
    pub fn resolve<'h>(&self, history: &'h History, among: Among) -> Result<&'h Version> {
        let forgotten = among == Among::Forgotten;
        let found = self.find(&|| history.versions.iter().filter(|v| v.is_forgotten() == forgotten));
        let Err(Error::NoSuchSnapshot { .. }) = found else { return found };
        // To say why, look among the others.
        match (among, self.find(&|| history.versions.iter().filter(|v| v.is_forgotten() != forgotten))) {
            (Among::Present, Ok(version)) => Err(Error::Forgotten { id: version.id.short() }),
            (Among::Forgotten, Ok(version)) => {
                Err(Error::argument(format!("snapshot {}", version.id.short()), "it was not forgotten"))
            }
            _ => found,
        }
    }

    /// The damaged snapshot whose id begins so, if it is no other's: all that can be done with it is to give it up.
    pub fn damaged(&self, history: &History) -> Option<SnapshotId> {
        let prefix = (self.at == At::Unsaid && is_prefix(&self.wanted)).then(|| self.wanted.to_ascii_lowercase())?;
        let damaged = history.damaged.iter().filter_map(|damaged| damaged.snapshot);
        let ids = damaged.chain(history.versions.iter().map(|version| version.id));
        let mut ids = ids.filter(|id| id.hex().starts_with(&prefix));
        let found = ids.next().filter(|_| ids.next().is_none())?;
        history.damaged.iter().any(|damaged| damaged.snapshot == Some(found)).then_some(found)
    }

    fn find<'h, I>(&self, versions: &dyn Fn() -> I) -> Result<&'h Version>
    where
        I: DoubleEndedIterator<Item = &'h Version>,
    {
        let mut by_id: Vec<&Version> = Vec::new();
        if self.at == At::Unsaid && is_prefix(&self.wanted) {
            let prefix = self.wanted.to_ascii_lowercase();
            by_id.extend(versions().filter(|version| version.id.hex().starts_with(&prefix)));
        }
        let mut datasets: Vec<&str> = Vec::new();
        for version in versions() {
            let dataset = version.summary().dataset.as_str();
            if dataset == self.wanted {
                datasets = vec![dataset];
                break;
            }
            if is_tail(dataset, &self.wanted) && !datasets.contains(&dataset) {
                datasets.push(dataset);
            }
        }
        match (by_id.as_slice(), datasets.as_slice()) {
            ([version], []) => Ok(version),
            ([], [dataset]) => {
                let wanted = |v: &&Version| v.summary().dataset == *dataset && self.at.allows(v.summary().time);
                versions().rev().find(wanted).ok_or_else(|| self.none())
            }
            ([], []) => Err(self.none()),
            _ => {
                let ids = by_id.iter().map(|version| version.id.hex().chars().take(16).collect());
                let candidates = ids.chain(datasets.iter().map(|dataset| (*dataset).to_owned())).collect();
                Err(Error::Ambiguous { wanted: self.wanted.clone(), candidates })
            }
        }
    }

    fn none(&self) -> Error {
        let when = match self.at {
            At::NotAfter(time) => format!(" not after {}", crate::clock::rfc3339(time)),
            _ => String::new(),
        };
        Error::NoSuchSnapshot { wanted: format!("{}{when}", self.wanted) }
    }
}

impl At {
    fn allows(self, time: i64) -> bool {
        match self {
            At::NotAfter(limit) => time <= limit,
            At::Latest | At::Unsaid => true,
        }
    }
}

/// `2026-11-21` means all of that day, `03:00` all of that minute, `03:00:00` all of that second.
fn parse_at(text: &str, zone: &TimeZone) -> Option<At> {
    if text == "latest" {
        return Some(At::Latest);
    }
    let (civil, zone) = split_offset(text, zone)?;
    let (start, unit) = match civil.split_once(['T', ' ']) {
        None => (civil.parse::<Date>().ok()?.at(0, 0, 0, 0), jiff::Span::new().days(1)),
        Some((_, time)) => {
            let start: DateTime = civil.parse().ok()?;
            let unit = match (time.contains('.'), time.matches(':').count()) {
                (true, _) => jiff::Span::new().nanoseconds(1),
                (_, 2) => jiff::Span::new().seconds(1),
                (_, 1) => jiff::Span::new().minutes(1),
                _ => return None,
            };
            (start, unit)
        }
    };
    if !civil.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    let end: Timestamp = start.checked_add(unit).ok()?.to_zoned(zone).ok()?.timestamp();
    let last = end.as_nanosecond().checked_sub(1)?;
    i64::try_from(last).ok().map(At::NotAfter)
}

/// Takes `Z` or `+02:00` off a date with a time.
fn split_offset<'t>(text: &'t str, zone: &TimeZone) -> Option<(&'t str, TimeZone)> {
    let Some(time_at) = text.find(['T', ' ']) else { return Some((text, zone.clone())) };
    if let Some(civil) = text.strip_suffix(['Z', 'z']) {
        return Some((civil, TimeZone::UTC));
    }
    let Some(sign_at) = text.rfind(['+', '-']).filter(|&at| at > time_at) else { return Some((text, zone.clone())) };
    let (civil, offset) = text.split_at(sign_at);
    let sign = if offset.starts_with('-') { -1 } else { 1 };
    let (hours, minutes) = match offset.get(1..)?.split_once(':') {
        Some((hours, minutes)) => (hours, minutes),
        None if offset.len() == 5 => (offset.get(1..3)?, offset.get(3..)?),
        None => (offset.get(1..)?, "00"),
    };
    let number = |text: &str| (text.len() == 2).then(|| text.parse::<i32>().ok()).flatten();
    let (hours, minutes) = (number(hours).filter(|h| *h <= 25)?, number(minutes).filter(|m| *m < 60)?);
    let offset = jiff::tz::Offset::from_seconds(sign * (hours * 3600 + minutes * 60)).ok()?;
    Some((civil, TimeZone::fixed(offset)))
}

fn is_prefix(text: &str) -> bool {
    (PREFIX_DIGITS_MIN..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_hexdigit())
}

/// Whether `tail` is the last components of `dataset`.
fn is_tail(dataset: &str, tail: &str) -> bool {
    !tail.is_empty() && dataset.strip_suffix(tail).is_some_and(|head| head.ends_with('/'))
}

/// Before and after the byte at `at`; all and nothing without one.
fn split(bytes: &[u8], at: Option<usize>) -> (&[u8], &[u8]) {
    let Some((before, after)) = at.and_then(|at| bytes.split_at_checked(at)) else { return (bytes, &[]) };
    (before, after.get(1..).unwrap_or_default())
}

fn utf8(name: &[u8], text: &OsStr) -> Result<String> {
    let what = || format!("snapshot `{}`", text.to_string_lossy());
    let name = std::str::from_utf8(name).map_err(|_| Error::argument(what(), "its name is not UTF-8"))?;
    if name.is_empty() {
        return Err(Error::argument(what(), "expected an id or a dataset"));
    }
    Ok(name.to_owned())
}

fn clean(path: &[u8], text: &OsStr) -> Result<Vec<u8>> {
    let parts: Vec<&[u8]> = path.split(|&b| b == b'/').filter(|part| !part.is_empty() && *part != b".").collect();
    if parts.contains(&b"..".as_slice()) {
        return Err(Error::argument(format!("path in `{}`", text.to_string_lossy()), "`..` is not allowed in it"));
    }
    Ok(parts.join(&b'/'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Damaged;
    use chunkstore::id::{Reference, RepositoryId, RunId};
    use chunkstore::mark::State;
    use chunkstore::snapshot::{Snapshot, Summary, Totals};

    fn version(id: &str, dataset: &str, time: &str) -> Version {
        let mut bytes = [0; 32];
        for (at, digit) in id.bytes().enumerate() {
            let digit = u8::try_from((digit as char).to_digit(16).unwrap()).unwrap();
            bytes[at / 2] |= if at % 2 == 0 { digit << 4 } else { digit };
        }
        let time: Timestamp = time.parse().unwrap();
        let summary = Summary {
            repository: RepositoryId([0; 16]),
            run: RunId([0; 16]),
            dataset: dataset.into(),
            time: i64::try_from(time.as_nanosecond()).unwrap(),
            incomplete: false,
            root: Reference::default(),
            writer: [0; 32],
            sequence: 0,
            previous: None,
            labels: Vec::new(),
            totals: Totals::default(),
        };
        let id = SnapshotId(bytes);
        Version { id, snapshot: Snapshot { id, summary, bytes: Vec::new() }, state: State::default() }
    }

    fn history() -> History {
        let mut versions = vec![
            version("abcd01", "www/files/etc", "2026-11-19T02:00:00Z"),
            version("abcd02", "www/files/etc", "2026-11-20T02:00:00Z"),
            version("beef01", "www/files/etc", "2026-11-21T02:00:00Z"),
            version("0102aa", "db/files/etc", "2026-11-21T02:00:00Z"),
            version("0103aa", "db/postgres/beef", "2026-11-21T02:00:00Z"),
            version("0104aa", "db/postgres/school", "2026-11-21T02:00:00Z"),
            version("0105aa", "db/postgres/school", "2026-11-22T02:00:00Z"),
        ];
        versions[6].state.forgotten = Some(7);
        let mut history = History::default();
        history.versions = versions;
        history
    }

    fn parse(text: &str) -> Result<Selector> {
        Selector::parse(OsStr::new(text), &TimeZone::fixed(jiff::tz::offset(1)))
    }

    fn find(text: &str) -> Result<String> {
        parse(text)?.resolve(&history(), Among::Present).map(|v| v.id.hex().chars().take(6).collect())
    }

    #[test]
    fn by_id_prefix() {
        assert_eq!(find("abcd01").unwrap(), "abcd01");
        assert_eq!(find("ABCD01").unwrap(), "abcd01");
        assert_eq!(find(&format!("abcd01{}", "0".repeat(58))).unwrap(), "abcd01");
        assert!(matches!(find("abcd"), Err(Error::Ambiguous { candidates, .. }) if candidates.len() == 2));
        assert!(matches!(find("abc"), Err(Error::NoSuchSnapshot { .. })));
        assert!(matches!(find("ffff"), Err(Error::NoSuchSnapshot { .. })));
    }

    #[test]
    fn by_dataset() {
        assert_eq!(find("www/files/etc").unwrap(), "beef01");
        assert_eq!(find("www/files/etc@latest").unwrap(), "beef01");
        assert_eq!(find("db/files/etc").unwrap(), "0102aa");
        assert_eq!(find("postgres/school").unwrap(), "0104aa");
        assert_eq!(find("school").unwrap(), "0104aa");
        assert!(matches!(find("chool"), Err(Error::NoSuchSnapshot { .. })));
        assert!(matches!(find("files/etc"), Err(Error::Ambiguous { candidates, .. })
            if candidates == ["www/files/etc", "db/files/etc"]));
    }

    #[test]
    fn an_id_and_a_dataset_of_one_name_are_ambiguous() {
        assert!(matches!(find("beef"), Err(Error::Ambiguous { candidates, .. }) if candidates.len() == 2));
        assert_eq!(find("beef@latest").unwrap(), "0103aa");
        assert_eq!(find("beef01").unwrap(), "beef01");
    }

    #[test]
    fn by_time() {
        for (time, id) in [
            ("2026-11-20", "abcd02"),
            ("2026-11-20T03:00", "abcd02"),
            ("2026-11-20T02:59", "abcd01"),
            ("2026-11-20T02:59:59", "abcd01"),
            ("2026-11-20T03:00:00", "abcd02"),
            ("2026-11-20 03:00", "abcd02"),
            ("2026-11-20T02:00Z", "abcd02"),
            ("2026-11-20T01:59Z", "abcd01"),
            ("2026-11-20T02:00:00.5Z", "abcd02"),
            ("2026-11-20T04:00+02:00", "abcd02"),
            ("2026-11-20T03:59+02:00", "abcd01"),
            ("2026-11-19T21:00-0500", "abcd02"),
            ("2027-01-01", "beef01"),
        ] {
            assert_eq!(find(&format!("www/files/etc@{time}")).unwrap(), id, "{time}");
        }
        assert!(matches!(find("www/files/etc@2026-11-18"), Err(Error::NoSuchSnapshot { .. })));
        for bad in
            ["", "yesterday", "2026-13-01", "2026-11-20T25:00", "2026-11-20T03", "03:00", "2026-11-20T03:00+99:00"]
        {
            assert!(matches!(parse(&format!("www/files/etc@{bad}")), Err(Error::Argument { .. })), "{bad}");
        }
    }

    #[test]
    fn paths() {
        let path = |text: &str| String::from_utf8(parse(text).unwrap().path).unwrap();
        assert_eq!(path("abcd"), "");
        assert_eq!(path("abcd:"), "");
        assert_eq!(path("abcd:/"), "");
        assert_eq!(path("abcd:/etc//./passwd/"), "etc/passwd");
        assert_eq!(path("abcd:etc/a:b@c"), "etc/a:b@c");
        assert_eq!(path("www/files/etc@latest:/etc/x"), "etc/x");
        assert_eq!(path("www/files/etc@2026-11-21T03:00:/etc/x"), "etc/x");
        assert_eq!(path("www/files/etc@2026-11-21T03:00:07:etc"), "etc");
        assert_eq!(path("www/files/etc@2026-11-21:12"), "12");
        assert_eq!(path("www/files/etc@2026-11-21T03:00+01:00:x:y"), "x:y");
        assert_eq!(parse("abcd:../x").unwrap_err().to_string(), "path in `abcd:../x`: `..` is not allowed in it");
        assert!(parse("").is_err());
        assert!(parse(":/etc").is_err());
        let raw = Selector::parse(OsStr::from_bytes(b"abcd:/\xff"), &TimeZone::UTC).unwrap();
        assert_eq!(raw.path, b"\xff");
        assert!(Selector::parse(OsStr::from_bytes(b"\xff"), &TimeZone::UTC).is_err());
    }

    #[test]
    fn forgotten_ones_are_found_only_where_asked_for() {
        assert!(matches!(find("0105aa"), Err(Error::Forgotten { .. })));
        let history = history();
        let found = parse("0105").unwrap().resolve(&history, Among::Forgotten).unwrap();
        assert_eq!(found.state.forgotten, Some(7));
        assert!(matches!(parse("0104").unwrap().resolve(&history, Among::Forgotten), Err(Error::Argument { .. })));
    }

    #[test]
    fn a_damaged_one_is_found_by_its_id_alone() {
        let mut history = history();
        for id in ["abcd03", "eeee01"] {
            let error = chunkstore::Error::corrupt("snapshot", "it is");
            let snapshot = Some(version(id, "x/y/z", "2026-11-21T02:00:00Z").id);
            history.damaged.push(Damaged { object: id.into(), snapshot, error, given_up: false });
        }
        let damaged = |text: &str| parse(text).unwrap().damaged(&history).map(|id| id.short());
        assert_eq!(damaged("eeee").unwrap(), "eeee0100");
        assert_eq!(damaged("abcd03").unwrap(), "abcd0300");
        assert!(damaged("abcd").is_none());
        assert!(damaged("abcd01").is_none());
        assert!(damaged("x/y/z").is_none());
    }

    #[test]
    fn no_text_panics() {
        for text in ["@", "a@:", "a@-:", "a@2026-11-20T+", "a@2026-11-20T03:00+é", "a@T", "a@ ", "@:@:", "a@Té+1"] {
            let _ = parse(text);
        }
    }
}
