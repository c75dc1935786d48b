//! Sizes and stretches of time as people write and read them. Pure.

use crate::error::{Malformed, Result};
use std::time::Duration;

/// `4096`, `512k`, `10M`, `1.5GiB`: powers of 1024, whatever the spelling.
pub fn parse_size(text: &str) -> Result<u64> {
    let bad = || Malformed::new(format!("size `{text}`"), "expected a number with K, M, G or T, for instance 10M");
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let shift = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        "p" | "pb" | "pib" => 50,
        _ => return Err(bad()),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    if fraction.len() > 6 || (shift == 0 && number.contains('.')) {
        return Err(bad());
    }
    let whole: u128 = whole.parse().map_err(|_| bad())?;
    let scale = 10u128.pow(u32::try_from(fraction.len()).map_err(|_| bad())?);
    let fraction: u128 = fraction.parse().map_err(|_| bad())?;
    let unit = 1u128 << shift;
    let bytes = whole.checked_mul(unit).ok_or_else(bad)? + fraction * unit / scale;
    u64::try_from(bytes).map_err(|_| bad())
}

/// Binary units with three digits or so: `0 B`, `999 B`, `1.5 KiB`, `12.3 GiB`.
pub fn format_size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut shift = 10;
    for unit in UNITS {
        // One more unit would be less than one of it.
        if bytes >> shift < 1024 {
            if bytes < 1024 {
                return format!("{bytes} B");
            }
            let tenths = (u128::from(bytes) * 10) >> shift;
            return format!("{}.{} {unit}", tenths / 10, tenths % 10);
        }
        shift += 10;
    }
    format!("{bytes} B")
}

/// How long to wait: `90`, `90s`, `5m`, `1h30m`, `14d`. A bare number is seconds; `m` is minutes.
pub fn parse_wait(text: &str) -> Result<Duration> {
    let bad = || Malformed::new(format!("time `{text}`"), "expected for instance 30s, 5m, 1h30m or 14d");
    if let Ok(seconds) = text.parse::<u64>() {
        return Ok(Duration::from_secs(seconds));
    }
    let mut seconds = 0u64;
    for (number, unit) in components(text).ok_or_else(bad)? {
        let unit = match unit {
            's' => 1,
            'm' => 60,
            'h' => 3600,
            'd' => 86_400,
            'w' => 7 * 86_400,
            _ => return Err(bad()),
        };
        seconds = u64::from(number).checked_mul(unit).and_then(|n| seconds.checked_add(n)).ok_or_else(bad)?;
    }
    Ok(Duration::from_secs(seconds))
}

/// A stretch of the calendar: `1y5m7d2h`, where `m` is months; `w` is weeks.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Stretch {
    pub years: u32,
    pub months: u32,
    pub weeks: u32,
    pub days: u32,
    pub hours: u32,
}

impl Stretch {
    pub fn is_zero(&self) -> bool {
        *self == Stretch::default()
    }

    pub fn parse(text: &str) -> Result<Stretch> {
        let bad = || Malformed::new(format!("time `{text}`"), "expected years, months, weeks, days, hours: 1y5m7d2h");
        let mut stretch = Stretch::default();
        for (number, unit) in components(text).ok_or_else(bad)? {
            let field = match unit {
                'y' => &mut stretch.years,
                'm' => &mut stretch.months,
                'w' => &mut stretch.weeks,
                'd' => &mut stretch.days,
                'h' => &mut stretch.hours,
                _ => return Err(bad()),
            };
            *field = field.checked_add(number).ok_or_else(bad)?;
        }
        // What a calendar can reckon with.
        if stretch.years > 1000 || stretch.months > 12_000 || stretch.weeks > 52_000 || stretch.days > 365_000 {
            return Err(bad());
        }
        Ok(stretch)
    }
}

/// `1h 02m 03s`, `4m 05s`, `6.7 s`.
pub fn format_elapsed(elapsed: Duration) -> String {
    let seconds = elapsed.as_secs();
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, s) => format!("{s}.{} s", elapsed.subsec_millis() / 100),
        (0, m, s) => format!("{m}m {s:02}s"),
        (h, m, s) => format!("{h}h {m:02}m {s:02}s"),
    }
}

/// `3`, `1 234 567`: thin groups make long counts readable.
pub fn format_count(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

/// `1 file`, `2 files`.
pub fn plural(count: u64, noun: &str) -> String {
    format!("{} {noun}{}", format_count(count), if count == 1 { "" } else { "s" })
}

/// `NUMBER UNIT` pairs; none at all is no time.
fn components(text: &str) -> Option<Vec<(u32, char)>> {
    let mut found = Vec::new();
    let mut rest = text.trim();
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let (number, tail) = rest.split_at(digits);
        let unit = tail.chars().next()?;
        found.push((number.parse().ok()?, unit.to_ascii_lowercase()));
        rest = tail.get(unit.len_utf8()..)?;
    }
    (!found.is_empty()).then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("1k", 1024),
            ("1K", 1024),
            ("10M", 10 << 20),
            ("1.5GiB", 3 << 29),
            ("2 TB", 2 << 40),
            ("7b", 7),
        ] {
            assert_eq!(parse_size(text).unwrap(), bytes, "{text}");
        }
        for text in ["", "M", "-1", "1.5", "1x", "1..5M", "99999999999P", "0x10", "1.1234567M", "1,5M"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_shown() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            (1024 * 1024 - 1, "1023.9 KiB"),
            (1 << 30, "1.0 GiB"),
            (u64::MAX, "15.9 EiB"),
        ] {
            assert_eq!(format_size(bytes), text);
        }
    }

    #[test]
    fn waits() {
        for (text, seconds) in
            [("0", 0), ("90", 90), ("30s", 30), ("5m", 300), ("1h30m", 5400), ("14d", 1_209_600), ("2W", 1_209_600)]
        {
            assert_eq!(parse_wait(text).unwrap().as_secs(), seconds, "{text}");
        }
        for text in ["", "m", "5", "-5m", "5y", "m5", "5m3", "99999999999m", "1.5h"] {
            assert_eq!(parse_wait(text).is_ok(), text == "5", "{text}");
        }
    }

    #[test]
    fn stretches() {
        assert_eq!(
            Stretch::parse("1y5m7d2h").unwrap(),
            Stretch { years: 1, months: 5, days: 7, hours: 2, ..Stretch::default() }
        );
        assert_eq!(Stretch::parse("2w").unwrap().weeks, 2);
        assert!(Stretch::parse("0d").unwrap().is_zero());
        for text in ["", "7", "7s", "d7", "-7d", "7d-", "1001y", "4294967296d", "é"] {
            assert!(Stretch::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn counts_and_elapsed() {
        assert_eq!(format_count(7), "7");
        assert_eq!(format_count(1_234_567), "1 234 567");
        assert_eq!(plural(1, "file"), "1 file");
        assert_eq!(plural(2000, "file"), "2 000 files");
        assert_eq!(format_elapsed(Duration::from_millis(6789)), "6.7 s");
        assert_eq!(format_elapsed(Duration::from_secs(3723)), "1h 02m 03s");
        assert_eq!(format_elapsed(Duration::from_secs(245)), "4m 05s");
    }
}
