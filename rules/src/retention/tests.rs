//! Tables of what users expect, and properties that hold of every policy.

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
