//! The one place that asks what time it is, and how times are written: RFC 3339 for programs, local time for people.
//!
//! Times are nanoseconds since 1970, as in the repository.

use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};

pub fn now() -> i64 {
    i64::try_from(Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX)
}

/// Seconds since 1970.
pub fn seconds() -> i64 {
    Timestamp::now().as_second()
}

pub fn zone() -> TimeZone {
    TimeZone::system()
}

pub fn timestamp(time: i64) -> Timestamp {
    // Every i64 of nanoseconds lies within jiff's range (years -9999 to 9999).
    Timestamp::from_nanosecond(i128::from(time)).unwrap_or_default()
}

pub fn zoned(time: i64, zone: &TimeZone) -> Zoned {
    timestamp(time).to_zoned(zone.clone())
}

/// `2026-11-21T02:00:00.123456789Z`
pub fn rfc3339(time: i64) -> String {
    timestamp(time).to_string()
}

/// `2026-11-21 03:00:00`
pub fn local(time: i64, zone: &TimeZone) -> String {
    zoned(time, zone).strftime("%Y-%m-%d %H:%M:%S").to_string()
}

/// Seconds and nanoseconds to nanoseconds, saturating.
pub fn nanoseconds(seconds: i64, nanoseconds: u32) -> i64 {
    seconds.saturating_mul(1_000_000_000).saturating_add(i64::from(nanoseconds))
}

/// Seconds of a stretch as nanoseconds, saturating.
pub fn span(seconds: u64) -> i64 {
    i64::try_from(seconds).unwrap_or(i64::MAX).saturating_mul(1_000_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_times_and_extremes() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00Z");
        assert_eq!(rfc3339(1_500_000_000), "1970-01-01T00:00:01.5Z");
        assert_eq!(local(0, &TimeZone::UTC), "1970-01-01 00:00:00");
        assert_eq!(rfc3339(i64::MAX).get(..4), Some("2262"));
        assert_eq!(rfc3339(i64::MIN).get(..4), Some("1677"));
        assert!(now() > 0);
    }
}
