//! Which snapshots stay. Pure: policy, snapshots, now and time zone in; a verdict with reasons for each snapshot out.
//!
//! Each rule looks from the newest snapshot back and keeps the newest of each of its N newest periods (hours, days, ISO
//! weeks, months, years of local time); periods without a snapshot do not count. While a rule has not found its N
//! periods, it keeps the oldest snapshot too. A snapshot stays if any rule keeps it, or if it is pinned. The newest
//! complete snapshot of a dataset always stays, the newest at all if none is complete. An incomplete snapshot never
//! takes the place of a complete one: it stands for a period only if no complete one does, is not counted against N,
//! and of such a rule keeps at most N again, none older than the complete ones it keeps (if it found N of those).

use crate::clock;
use crate::error::{Malformed, Result};
use crate::units::Stretch;
use jiff::Span;
use jiff::tz::TimeZone;
use std::collections::BTreeSet;
use std::fmt;

/// How many: `None` of a rule in [`Policy`] means that it was not asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Count {
    Of(u32),
    Unlimited,
}

impl Count {
    pub fn parse(text: &str) -> std::result::Result<Count, String> {
        if text == "unlimited" {
            return Ok(Count::Unlimited);
        }
        text.parse().map(Count::Of).map_err(|_| "expected a number or `unlimited`".into())
    }

    fn allows(self, found: u32) -> bool {
        match self {
            Count::Of(n) => found < n,
            Count::Unlimited => true,
        }
    }
}

#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Policy {
    pub last: Option<Count>,
    pub hourly: Option<Count>,
    pub daily: Option<Count>,
    pub weekly: Option<Count>,
    pub monthly: Option<Count>,
    pub yearly: Option<Count>,
    /// Counted back from the newest complete snapshot (or from now, if that one claims to be from the future).
    pub within: Option<Stretch>,
    /// Whatever has one of these labels stays.
    pub labels: Vec<String>,
}

impl Policy {
    pub fn is_given(&self) -> bool {
        self.rules().iter().any(|(_, count)| count.is_some()) || self.within.is_some() || !self.labels.is_empty()
    }

    /// Refuses a policy that keeps nothing: more likely a mistake than a wish.
    pub fn validate(&self) -> Result<()> {
        let counts = self.rules().iter().any(|(_, count)| count.is_some_and(|c| c.allows(0)));
        if counts || self.within.is_some_and(|w| !w.is_zero()) || !self.labels.is_empty() {
            return Ok(());
        }
        Err(Malformed::new("retention policy", "it would keep nothing: at least one --keep option must be above 0"))
    }

    fn rules(&self) -> [(Period, Option<Count>); 6] {
        [
            (Period::Last, self.last),
            (Period::Hour, self.hourly),
            (Period::Day, self.daily),
            (Period::Week, self.weekly),
            (Period::Month, self.monthly),
            (Period::Year, self.yearly),
        ]
    }
}

/// What retention looks at of one snapshot.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Candidate {
    pub time: i64,
    pub incomplete: bool,
    pub pinned: bool,
    pub labels: BTreeSet<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Period {
    Last,
    Hour,
    Day,
    Week,
    Month,
    Year,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Reason {
    Rule(Period),
    /// The oldest, while the rule has not found enough periods.
    Oldest(Period),
    Within,
    Label(String),
    Pinned,
    /// The newest complete snapshot of its dataset, or the newest if none is complete.
    Newest,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = |period: &Period| match period {
            Period::Last => "last",
            Period::Hour => "hourly",
            Period::Day => "daily",
            Period::Week => "weekly",
            Period::Month => "monthly",
            Period::Year => "yearly",
        };
        match self {
            Reason::Rule(period) => f.write_str(word(period)),
            Reason::Oldest(period) => write!(f, "oldest {}", word(period)),
            Reason::Within => f.write_str("within"),
            Reason::Label(label) => write!(f, "tag {label}"),
            Reason::Pinned => f.write_str("pinned"),
            Reason::Newest => f.write_str("newest"),
        }
    }
}

/// Why each snapshot of one dataset stays, in the order given; no reason: it goes.
pub fn apply(policy: &Policy, snapshots: &[Candidate], now: i64, zone: &TimeZone) -> Vec<Vec<Reason>> {
    let mut reasons: Vec<BTreeSet<Reason>> = vec![BTreeSet::new(); snapshots.len()];
    let mut newest_first: Vec<usize> = (0..snapshots.len()).collect();
    newest_first.sort_by_key(|&at| std::cmp::Reverse(snapshots.get(at).map(|s| s.time)));
    let ordered: Vec<(usize, &Candidate)> =
        newest_first.iter().filter_map(|&at| snapshots.get(at).map(|s| (at, s))).collect();
    let mut keep = |at: usize, reason: Reason| {
        if let Some(set) = reasons.get_mut(at) {
            set.insert(reason);
        }
    };

    let newest = ordered.iter().find(|(_, s)| !s.incomplete).or(ordered.first());
    if let Some(&(at, newest)) = newest {
        keep(at, Reason::Newest);
        if let Some(since) = policy.within.filter(|w| !w.is_zero()).map(|w| back(newest.time.min(now), w, zone)) {
            ordered.iter().filter(|(_, s)| s.time >= since).for_each(|&(at, _)| keep(at, Reason::Within));
        }
    }
    for (period, count) in policy.rules() {
        if let Some(count) = count {
            apply_rule(period, count, &ordered, zone, &mut keep);
        }
    }
    for &(at, snapshot) in &ordered {
        if snapshot.pinned {
            keep(at, Reason::Pinned);
        }
        for label in policy.labels.iter().filter(|label| snapshot.labels.contains(*label)) {
            keep(at, Reason::Label(label.clone()));
        }
    }
    reasons.into_iter().map(|set| set.into_iter().collect()).collect()
}

fn apply_rule(
    period: Period,
    count: Count,
    newest_first: &[(usize, &Candidate)],
    zone: &TimeZone,
    keep: &mut dyn FnMut(usize, Reason),
) {
    let (mut complete, mut incomplete) = (0, 0);
    let mut bucketed = newest_first
        .iter()
        .enumerate()
        .map(|(rank, &(at, snapshot))| (bucket(period, rank, snapshot.time, zone), at, snapshot))
        .peekable();
    while count.allows(complete) {
        let Some((key, mut stands, mut snapshot)) = bucketed.next() else { break };
        while let Some((_, at, other)) = bucketed.next_if(|(next, ..)| *next == key) {
            if snapshot.incomplete && !other.incomplete {
                (stands, snapshot) = (at, other);
            }
        }
        if !snapshot.incomplete {
            keep(stands, Reason::Rule(period));
            complete += 1;
        } else if count.allows(incomplete) {
            keep(stands, Reason::Rule(period));
            incomplete += 1;
        }
    }
    let oldest = newest_first.iter().rev().find(|(_, s)| !s.incomplete).or(newest_first.last());
    if let Some(&(at, oldest)) = oldest {
        let found = if oldest.incomplete { incomplete } else { complete };
        if period != Period::Last && count.allows(found) {
            keep(at, Reason::Oldest(period));
        }
    }
}

/// Equal for times of one period. Of `Last`, every snapshot is a period of its own.
fn bucket(period: Period, rank: usize, time: i64, zone: &TimeZone) -> (i64, i64, i64) {
    let at = clock::zoned(time, zone);
    let year = i64::from(at.year());
    match period {
        Period::Last => (i64::try_from(rank).unwrap_or(i64::MAX), 0, 0),
        // The hour that a change of the clocks repeats is two hours: the offset tells them apart.
        Period::Hour => {
            let day = i64::from(at.day_of_year());
            (year, day * 24 + i64::from(at.hour()), i64::from(at.offset().seconds()))
        }
        Period::Day => (year, i64::from(at.day_of_year()), 0),
        Period::Week => {
            let week = at.date().iso_week_date();
            (i64::from(week.year()), i64::from(week.week()), 0)
        }
        Period::Month => (year, i64::from(at.month()), 0),
        Period::Year => (year, 0, 0),
    }
}

/// `stretch` before `time` by the calendar; the beginning of time if that is out of range.
fn back(time: i64, stretch: Stretch, zone: &TimeZone) -> i64 {
    let span = Span::new()
        .try_years(stretch.years)
        .and_then(|s| s.try_months(stretch.months))
        .and_then(|s| s.try_weeks(stretch.weeks))
        .and_then(|s| s.try_days(stretch.days))
        .and_then(|s| s.try_hours(stretch.hours));
    span.and_then(|span| clock::zoned(time, zone).checked_sub(span))
        .ok()
        .and_then(|t| i64::try_from(t.timestamp().as_nanosecond()).ok())
        .unwrap_or(i64::MIN)
}

#[cfg(test)]
mod tests;
