//! How fast records may come in. Pure: the clock is an argument.

use std::time::{Duration, Instant};

/// Promises that many bytes arrive no sooner than the limit allows, counted from the first of them.
pub struct Pace {
    bytes_per_second: u64,
    /// When what was counted so far may have arrived.
    due: Option<Instant>,
}

impl Pace {
    pub fn new(bytes_per_second: u64) -> Pace {
        Pace { bytes_per_second: bytes_per_second.max(1), due: None }
    }

    /// So many more have arrived: how long to wait before the next are asked for.
    pub fn count(&mut self, bytes: u64, now: Instant) -> Duration {
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(self.bytes_per_second);
        let cost = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        // What was not used is not saved up.
        let due = self.due.map_or(now, |due| due.max(now)).checked_add(cost).unwrap_or(now);
        self.due = Some(due);
        due.saturating_duration_since(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_bytes_take_so_long() {
        let (mut pace, start) = (Pace::new(1000), Instant::now());
        let at = |millis: u64| start + Duration::from_millis(millis);
        assert_eq!(pace.count(500, start), Duration::from_millis(500));
        assert_eq!(pace.count(500, start), Duration::from_millis(1000), "two at once wait for each other");
        assert_eq!(pace.count(100, at(1000)), Duration::from_millis(100));
        assert_eq!(pace.count(100, at(9000)), Duration::from_millis(100), "a pause is not made up for");
        assert!(Pace::new(0).count(u64::MAX, start) > Duration::from_secs(1 << 20));
    }
}
