//! When maintenance is due, and doing it then: one repository after the other.

use super::{Job, perform, repositories};
use crate::error::Result;
use crate::hub::Hub;
use crate::ledger::{Kind, Turn};
use crate::settings::Maintenance;
use crate::storage::{blocking, seconds};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::sleep;

/// How long nothing is looked at, at most: repositories come to be, and clocks are set.
const LOOK_AFTER_MAX: Duration = Duration::from_secs(60);
/// Of a repository whose maintenance cannot even begin.
const TRY_AGAIN_AFTER: Duration = Duration::from_secs(60);

/// Until the server stops.
pub async fn run(hub: Arc<Hub>) {
    while !hub.is_stopping() {
        let own = Arc::clone(&hub);
        let wait = match blocking(move || look(&own)).await {
            Some(Ok(wait)) => wait.min(LOOK_AFTER_MAX),
            Some(Err(error)) => {
                tracing::error!(%error, "maintenance cannot be scheduled");
                TRY_AGAIN_AFTER
            }
            None => TRY_AGAIN_AFTER,
        };
        tokio::select! {
            () = sleep(wait) => {}
            () = hub.wake.notified() => {}
        }
    }
}

/// Does what is due; how long until the next.
fn look(hub: &Hub) -> Result<Duration> {
    let mut next = i64::MAX;
    for name in repositories(hub, None)? {
        let settings = hub.current();
        let (maintenance, zone) = (&settings.maintenance, TimeZone::system());
        let turn = hub.ledger.turn(&name, first_seen(maintenance, seconds()))?;
        if due(turn.last, maintenance, &zone) <= seconds() && !hub.is_stopping() {
            maintain(hub, &name, turn, maintenance)?;
        }
        let turn = hub.ledger.turn(&name, seconds())?;
        next = next.min(due(turn.last, maintenance, &zone));
    }
    Ok(Duration::from_secs(next.saturating_sub(seconds()).max(0).unsigned_abs()))
}

fn maintain(hub: &Hub, name: &str, turn: Turn, maintenance: &Maintenance) -> Result<()> {
    let parts = parts(maintenance);
    let part = turn.part % parts;
    // Also after a failure: the next time is the next time.
    hub.ledger.set_turn(name, Turn { last: seconds(), part })?;
    for kind in Kind::ALL {
        let part = (kind == Kind::Verify).then_some((part + 1, parts));
        let outcome = perform(hub, name, Job { kind, dry_run: false, part });
        if hub.is_stopping() {
            break;
        }
        match outcome {
            Ok(_) if kind == Kind::Verify => {
                let turn = hub.ledger.turn(name, seconds())?;
                hub.ledger.set_turn(name, Turn { part: (turn.part + 1) % parts, ..turn })?;
            }
            // Told by `perform`, and kept; what follows may still do good.
            Ok(_) | Err(_) => {}
        }
    }
    Ok(())
}

/// Into how many parts the packs are divided, of which one is read each time.
fn parts(maintenance: &Maintenance) -> u64 {
    maintenance.verify_period.as_secs().div_ceil(maintenance.every.as_secs().max(1)).max(1)
}

/// What stands for the last time of a repository that has had none.
fn first_seen(maintenance: &Maintenance, now: i64) -> i64 {
    match maintenance.at {
        // The next `at` is soon enough.
        Some(_) => now.saturating_sub(in_seconds(maintenance.every)).saturating_add(3600),
        None => now,
    }
}

/// When the next maintenance may begin, if the last one began at `last`; seconds since 1970.
fn due(last: i64, maintenance: &Maintenance, zone: &TimeZone) -> i64 {
    let every = in_seconds(maintenance.every);
    let Some(time) = maintenance.at else { return last.saturating_add(every) };
    // A run that began a little late does not move the next one to another day.
    let earliest = last.saturating_add(every).saturating_sub(3600);
    let Ok(instant) = Timestamp::from_second(earliest) else { return i64::MAX };
    let earliest_there = instant.to_zoned(zone.clone());
    let today = earliest_there.date().to_datetime(time).to_zoned(zone.clone());
    let next = match today {
        Ok(today) if today >= earliest_there => Ok(today),
        Ok(today) => today.checked_add(SignedDuration::from_hours(24)),
        Err(error) => Err(error),
    };
    next.map_or(last.saturating_add(every), |next| next.timestamp().as_second())
}

fn in_seconds(time: Duration) -> i64 {
    i64::try_from(time.as_secs()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3600;

    fn daily(at: Option<&str>) -> Maintenance {
        Maintenance { at: at.map(|text| text.parse().unwrap()), ..Maintenance::default() }
    }

    #[test]
    fn every_so_often() {
        assert_eq!(due(1000, &daily(None), &TimeZone::UTC), 1000 + 24 * HOUR);
        assert_eq!(first_seen(&daily(None), 1000), 1000);
    }

    #[test]
    fn at_a_time_of_day() {
        let (maintenance, day) = (daily(Some("04:00")), 24 * HOUR);
        let next = |last: i64| due(last, &maintenance, &TimeZone::UTC);
        let four = 100 * day + 4 * HOUR;
        for (last, expected) in [
            (four, four + day),
            (four + 1800, four + day),
            (four + 5 * HOUR, four + 2 * day),
            (four - 10, four + day),
            // First seen at noon: the next morning.
            (first_seen(&maintenance, four + 8 * HOUR), four + day),
        ] {
            assert_eq!(next(last), expected, "{last}");
        }
        let zone = TimeZone::get("Europe/Paris").unwrap_or(TimeZone::fixed(jiff::tz::Offset::constant(1)));
        assert_eq!(due(four - HOUR, &maintenance, &zone), four - HOUR + day, "local time");
    }

    #[test]
    fn parts_of_a_period() {
        assert_eq!(parts(&daily(None)), 30);
        let often = Maintenance { every: Duration::from_secs(7 * HOUR.unsigned_abs()), ..daily(None) };
        assert_eq!(parts(&often), 103);
        let seldom = Maintenance { every: Duration::from_secs(90 * 86_400), ..daily(None) };
        assert_eq!(parts(&seldom), 1);
    }
}
