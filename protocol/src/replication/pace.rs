//! How fast a link may be used: limits by time of day, and the pauses that keep to them.

use std::fmt;
use std::time::Duration;

const DAY_MINUTES: u16 = 24 * 60;
/// What may go at once although the rate would not have it yet.
const BURST: Duration = Duration::from_millis(100);

/// So many bytes a second, in these hours.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limit {
    /// Minutes since midnight; equal ones mean the whole day, a `to` before `from` means across midnight.
    pub from: u16,
    pub to: u16,
    pub bytes_per_second: u64,
}

impl Limit {
    /// `RATE` or `HH:MM-HH:MM=RATE`, where RATE is a number of bytes with K, M or G (powers of 1024). None for anything else.
    pub fn from_text(text: &str) -> Option<Limit> {
        let (hours, rate) = match text.split_once('=') {
            Some((hours, rate)) => (hours.split_once('-')?, rate),
            None => (("00:00", "00:00"), text),
        };
        let digits = rate.trim_end_matches(['K', 'M', 'G']);
        let factor = match rate.get(digits.len()..)? {
            "" => 1,
            "K" => 1 << 10,
            "M" => 1 << 20,
            "G" => 1u64 << 30,
            _ => return None,
        };
        let bytes_per_second = digits.parse::<u64>().ok()?.checked_mul(factor).filter(|rate| *rate >= 1024)?;
        Some(Limit { from: minutes(hours.0)?, to: minutes(hours.1)?, bytes_per_second })
    }

    /// The one that counts at this minute of the day: the first that fits.
    pub fn at(limits: &[Limit], minute: u16) -> Option<u64> {
        limits.iter().find(|limit| limit.covers(minute)).map(|limit| limit.bytes_per_second)
    }

    fn covers(&self, minute: u16) -> bool {
        match self.from.cmp(&self.to) {
            std::cmp::Ordering::Equal => true,
            std::cmp::Ordering::Less => (self.from..self.to).contains(&minute),
            std::cmp::Ordering::Greater => minute >= self.from || minute < self.to,
        }
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.from != self.to {
            let time = |minutes: u16| (minutes / 60, minutes % 60);
            let ((a, b), (c, d)) = (time(self.from), time(self.to));
            write!(f, "{a:02}:{b:02}-{c:02}:{d:02}=")?;
        }
        let rate = self.bytes_per_second;
        match [(30, "G"), (20, "M"), (10, "K")].into_iter().find(|(bits, _)| rate.is_multiple_of(1 << bits)) {
            Some((bits, unit)) => write!(f, "{}{unit}", rate >> bits),
            None => write!(f, "{rate}"),
        }
    }
}

/// `HH:MM`; 24:00 is midnight.
fn minutes(text: &str) -> Option<u16> {
    let (hours, minutes) = text.split_once(':')?;
    if hours.len() != 2 || minutes.len() != 2 || !text.bytes().all(|b| b.is_ascii_digit() || b == b':') {
        return None;
    }
    let (hours, minutes): (u16, u16) = (hours.parse().ok()?, minutes.parse().ok()?);
    let sum = hours * 60 + minutes;
    (minutes < 60 && sum <= DAY_MINUTES).then_some(sum % DAY_MINUTES)
}

/// When the next bytes may go.
#[derive(Default, Debug)]
pub struct Pace {
    /// Since whatever `now` counts from.
    free_at: Duration,
}

impl Pace {
    /// Takes so many bytes; how long to wait before they go.
    pub fn take(&mut self, bytes: u64, bytes_per_second: u64, now: Duration) -> Duration {
        let begins = self.free_at.max(now.saturating_sub(BURST));
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(bytes_per_second.max(1));
        self.free_at = begins.saturating_add(Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)));
        begins.saturating_sub(now)
    }
}
