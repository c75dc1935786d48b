//! Which snapshots stay. Pure: policy, snapshots, now and time zone in; a verdict with reasons for each snapshot out.
//!
//! Each rule looks from the newest snapshot back and keeps the newest of each of its N newest periods (hours, days, ISO
//! weeks, months, years of local time); periods without a snapshot do not count. While a rule has not found its N
//! periods, it keeps the oldest snapshot too. A snapshot stays if any rule keeps it, or if it is pinned. The newest
//! complete snapshot of a dataset always stays, the newest at all if none is complete. An incomplete snapshot never
//! takes the place of a complete one: it stands for a period only if no complete one does, is not counted against N,
//! and of such a rule keeps at most N again, none older than the complete ones it keeps (if it found N of those).

use crate::clock;
use crate::error::{Error, Result};
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
        Err(Error::argument("retention policy", "it would keep nothing: at least one --keep option must be above 0"))
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
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(text: &str) -> i64 {
        let civil: jiff::civil::DateTime = text.parse().unwrap();
        i64::try_from(civil.to_zoned(TimeZone::UTC).unwrap().timestamp().as_nanosecond()).unwrap()
    }

    fn complete(text: &str) -> Candidate {
        Candidate { time: at(text), incomplete: false, pinned: false, labels: BTreeSet::new() }
    }

    fn incomplete(text: &str) -> Candidate {
        Candidate { incomplete: true, ..complete(text) }
    }

    const NOW: &str = "2026-11-21T12:00";

    /// The times kept, newest last as given.
    fn kept<'a>(policy: &Policy, snapshots: &[(&'a str, Candidate)]) -> Vec<&'a str> {
        let candidates: Vec<Candidate> = snapshots.iter().map(|(_, c)| c.clone()).collect();
        let verdicts = apply(policy, &candidates, at(NOW), &TimeZone::UTC);
        snapshots.iter().zip(verdicts).filter(|(_, v)| !v.is_empty()).map(|((name, _), _)| *name).collect()
    }

    fn kept_times<'a>(policy: &Policy, times: &[&'a str]) -> Vec<&'a str> {
        kept(policy, &times.iter().map(|t| (*t, complete(t))).collect::<Vec<_>>())
    }

    fn of(n: u32) -> Option<Count> {
        Some(Count::Of(n))
    }

    #[test]
    fn last_counts_snapshots() {
        let policy = Policy { last: of(2), ..Policy::default() };
        assert_eq!(
            kept_times(&policy, &["2026-11-01T01:00", "2026-11-01T02:00", "2026-11-01T03:00"]),
            ["2026-11-01T02:00", "2026-11-01T03:00"]
        );
    }

    #[test]
    fn daily_keeps_the_newest_of_each_day_and_skips_empty_days() {
        let policy = Policy { daily: of(2), ..Policy::default() };
        let times = ["2026-10-01T03:00", "2026-11-01T03:00", "2026-11-01T22:00", "2026-11-20T03:00"];
        assert_eq!(kept_times(&policy, &times), ["2026-11-01T22:00", "2026-11-20T03:00"]);
    }

    #[test]
    fn oldest_stays_until_the_rule_has_found_its_periods() {
        let yearly = Policy { yearly: of(3), ..Policy::default() };
        let times = ["2025-02-01T03:00", "2025-06-01T03:00", "2025-12-01T03:00", "2026-11-20T03:00"];
        assert_eq!(kept_times(&yearly, &times), ["2025-02-01T03:00", "2025-12-01T03:00", "2026-11-20T03:00"]);
        let filled = Policy { yearly: of(2), ..Policy::default() };
        assert_eq!(kept_times(&filled, &times), ["2025-12-01T03:00", "2026-11-20T03:00"]);
    }

    #[test]
    fn weeks_are_iso_weeks() {
        // 2026-01-01 is a Thursday of ISO week 1; 2025-12-29 is the Monday of that week.
        let policy = Policy { weekly: of(1), ..Policy::default() };
        assert_eq!(
            kept_times(&policy, &["2025-12-28T03:00", "2025-12-29T03:00", "2026-01-04T03:00"]),
            ["2026-01-04T03:00"]
        );
        let two = Policy { weekly: of(2), ..Policy::default() };
        assert_eq!(
            kept_times(&two, &["2025-12-28T03:00", "2025-12-29T03:00", "2026-01-04T03:00"]),
            ["2025-12-28T03:00", "2026-01-04T03:00"]
        );
    }

    #[test]
    fn hours_months_and_local_days() {
        let hourly = Policy { hourly: of(2), ..Policy::default() };
        assert_eq!(
            kept_times(&hourly, &["2026-11-20T01:10", "2026-11-20T02:10", "2026-11-20T03:10", "2026-11-20T03:50"]),
            ["2026-11-20T02:10", "2026-11-20T03:50"]
        );
        let monthly = Policy { monthly: of(1), ..Policy::default() };
        assert_eq!(kept_times(&monthly, &["2026-10-31T23:59", "2026-11-01T00:00"]), ["2026-11-01T00:00"]);
        // 23:30 and 00:30 UTC are one day in Tokyo.
        let daily = Policy { daily: of(2), ..Policy::default() };
        let snapshots = [complete("2026-11-01T10:00"), complete("2026-11-01T23:30"), complete("2026-11-02T00:30")];
        let tokyo = TimeZone::fixed(jiff::tz::offset(9));
        let verdicts = apply(&daily, &snapshots, at(NOW), &tokyo);
        assert_eq!(verdicts.iter().map(Vec::is_empty).collect::<Vec<_>>(), [false, true, false]);
    }

    #[test]
    fn the_repeated_hour_is_two_hours() {
        let berlin = TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap();
        let hourly = Policy { hourly: of(2), ..Policy::default() };
        // 00:30 and 01:30 UTC are both 02:30 in Berlin that night.
        let snapshots = [complete("2026-10-24T20:00"), complete("2026-10-25T00:30"), complete("2026-10-25T01:30")];
        let verdicts = apply(&hourly, &snapshots, at(NOW), &berlin);
        assert_eq!(verdicts.iter().map(Vec::is_empty).collect::<Vec<_>>(), [true, false, false]);
    }

    #[test]
    fn within_is_counted_from_the_newest_complete_snapshot() {
        let policy = Policy { within: Some(Stretch::parse("1m").unwrap()), ..Policy::default() };
        let times = ["2025-02-27T00:00", "2025-02-28T03:00", "2025-03-31T03:00"];
        // A month before 31 March is 28 February, and backups that stopped long ago are not swept away.
        assert_eq!(kept_times(&policy, &times), ["2025-02-28T03:00", "2025-03-31T03:00"]);
        // One from the future does not sweep away the rest.
        let future = ["2026-10-01T00:00", "2026-11-20T03:00", "2036-01-01T00:00"];
        assert_eq!(kept_times(&policy, &future), ["2026-11-20T03:00", "2036-01-01T00:00"]);
    }

    #[test]
    fn labels_pins_and_the_newest_complete_stay() {
        let mut labelled = complete("2026-01-01T00:00");
        labelled.labels.insert("release".into());
        let pinned = Candidate { pinned: true, ..complete("2026-01-02T00:00") };
        let snapshots = [
            ("labelled", labelled),
            ("pinned", pinned),
            ("plain", complete("2026-01-03T00:00")),
            ("complete", complete("2026-01-04T00:00")),
            ("incomplete", incomplete("2026-01-05T00:00")),
        ];
        let policy = Policy { labels: vec!["release".into()], ..Policy::default() };
        assert_eq!(kept(&policy, &snapshots), ["labelled", "pinned", "complete"]);
    }

    #[test]
    fn an_incomplete_snapshot_takes_no_place() {
        let daily = Policy { daily: of(2), ..Policy::default() };
        let snapshots = [
            ("stale incomplete", incomplete("2026-10-01T03:00")),
            ("too old", complete("2026-11-15T03:00")),
            ("second", complete("2026-11-17T03:00")),
            ("only incomplete that day", incomplete("2026-11-18T03:00")),
            ("first", complete("2026-11-19T03:00")),
            ("beside a complete one", incomplete("2026-11-19T22:00")),
        ];
        assert_eq!(kept(&daily, &snapshots), ["second", "only incomplete that day", "first"]);
    }

    #[test]
    fn a_dataset_that_is_never_complete_is_still_thinned() {
        let daily = Policy { daily: of(2), ..Policy::default() };
        let snapshots = [
            ("a", incomplete("2026-11-15T03:00")),
            ("b", incomplete("2026-11-16T03:00")),
            ("c", incomplete("2026-11-17T03:00")),
        ];
        assert_eq!(kept(&daily, &snapshots), ["b", "c"]);
    }

    #[test]
    fn policies_that_keep_nothing_are_refused() {
        assert!(Policy::default().validate().is_err());
        assert!(Policy { last: of(0), ..Policy::default() }.validate().is_err());
        assert!(Policy { within: Some(Stretch::default()), ..Policy::default() }.validate().is_err());
        assert!(Policy { last: of(0), daily: of(7), ..Policy::default() }.validate().is_ok());
        assert!(Policy { yearly: Some(Count::Unlimited), ..Policy::default() }.validate().is_ok());
        assert_eq!(Count::parse("7"), Ok(Count::Of(7)));
        assert_eq!(Count::parse("unlimited"), Ok(Count::Unlimited));
        for text in ["-1", "", "1.5", "all", "4294967296"] {
            assert!(Count::parse(text).is_err(), "{text}");
        }
    }

    fn candidates() -> impl Strategy<Value = Vec<Candidate>> {
        let hour = 3_600_000_000_000i64;
        let span = prop_oneof![0..48i64, 0..24 * 60i64, 0..24 * 900i64];
        let labels = proptest::collection::btree_set("[ab]", 0..2);
        let one = (span, 0..hour, any::<bool>(), proptest::bool::weighted(0.1), labels).prop_map(
            move |(hours, rest, incomplete, pinned, labels)| Candidate {
                time: at(NOW) - hours * hour + rest,
                incomplete,
                pinned,
                labels,
            },
        );
        proptest::collection::vec(one, 0..40)
    }

    fn count() -> impl Strategy<Value = Option<Count>> {
        prop_oneof![
            3 => Just(None),
            3 => (0..6u32).prop_map(|n| Some(Count::Of(n))),
            1 => Just(Some(Count::Unlimited)),
        ]
    }

    prop_compose! {
        fn policies()(
            last in count(), hourly in count(), daily in count(), weekly in count(), monthly in count(), yearly in count(),
            within in proptest::option::of((0..400u32).prop_map(|days| Stretch { days, ..Stretch::default() })),
            labels in proptest::collection::vec("[ab]", 0..2),
        ) -> Policy {
            Policy { last, hourly, daily, weekly, monthly, yearly, within, labels }
        }
    }

    fn zones() -> impl Strategy<Value = TimeZone> {
        prop_oneof![Just(TimeZone::UTC), Just(TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap())]
    }

    fn stays(policy: &Policy, snapshots: &[Candidate], zone: &TimeZone) -> Vec<bool> {
        apply(policy, snapshots, at(NOW), zone).iter().map(|reasons| !reasons.is_empty()).collect()
    }

    fn more(count: Option<Count>, by: u32) -> Option<Count> {
        match count {
            None => Some(Count::Of(by)),
            Some(Count::Of(n)) => Some(Count::Of(n + by)),
            unlimited => unlimited,
        }
    }

    proptest! {
        #[test]
        fn never_empties_a_dataset(policy in policies(), snapshots in candidates(), zone in zones()) {
            let stays = stays(&policy, &snapshots, &zone);
            prop_assert_eq!(stays.len(), snapshots.len());
            prop_assert!(snapshots.is_empty() || stays.contains(&true));
            let complete_stays = snapshots.iter().zip(&stays).any(|(s, stays)| *stays && !s.incomplete);
            prop_assert!(complete_stays || snapshots.iter().all(|s| s.incomplete));
            prop_assert!(snapshots.iter().zip(&stays).all(|(s, stays)| *stays || !s.pinned));
        }

        #[test]
        fn applying_twice_removes_nothing_more(policy in policies(), snapshots in candidates(), zone in zones()) {
            let first = stays(&policy, &snapshots, &zone);
            let left: Vec<Candidate> = snapshots.iter().zip(&first).filter(|(_, s)| **s).map(|(c, _)| c.clone()).collect();
            prop_assert!(stays(&policy, &left, &zone).iter().all(|stays| *stays));
        }

        #[test]
        fn a_more_generous_policy_keeps_no_less(
            policy in policies(), snapshots in candidates(), zone in zones(), by in 0..3u32, rule in 0..7u8,
        ) {
            let mut generous = policy.clone();
            match rule {
                0 => generous.last = more(generous.last, by),
                1 => generous.hourly = more(generous.hourly, by),
                2 => generous.daily = more(generous.daily, by),
                3 => generous.weekly = more(generous.weekly, by),
                4 => generous.monthly = more(generous.monthly, by),
                5 => generous.yearly = more(generous.yearly, by),
                _ => generous.labels.push("a".into()),
            }
            let (less, more) = (stays(&policy, &snapshots, &zone), stays(&generous, &snapshots, &zone));
            prop_assert!(less.iter().zip(&more).all(|(less, more)| !less || *more));
        }

        #[test]
        fn the_order_given_does_not_matter(policy in policies(), snapshots in candidates(), zone in zones()) {
            // Equal times have no order of their own.
            let mut distinct = snapshots.clone();
            distinct.sort_by_key(|s| s.time);
            distinct.dedup_by_key(|s| s.time);
            let mut backwards = stays(&policy, &distinct.iter().rev().cloned().collect::<Vec<_>>(), &zone);
            backwards.reverse();
            prop_assert_eq!(stays(&policy, &distinct, &zone), backwards);
        }
    }
}
